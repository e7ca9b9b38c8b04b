/*
 * From the tree to the text: where a list's elements stand. Only starts of tokens are used, so that
 * comments, continued strings and dollar quotes need no care and a line comment never swallows what
 * follows a cut. Called by the judges that edit; owns nothing.
 */
#include "rules/analysis.h"

/* A name is one token, or U&"..." UESCAPE '.', which is three. */
static size_t after_name(const struct token_list *tokens, size_t at)
{
    at++;
    return at + 1 < tokens->count && tokens->items[at].kind == TOKEN_UESCAPE ? at + 2 : at;
}

size_t tokens_after_relation(const struct token_list *tokens, const RangeVar *relation)
{
    size_t at = token_at(tokens, relation->location);
    if (at == tokens->count) {
        return at;
    }
    at = after_name(tokens, at);
    while (at + 1 < tokens->count && tokens->items[at].kind == TOKEN_DOT) {
        at = after_name(tokens, at + 1);
    }
    if (at + 1 < tokens->count && tokens->items[at].kind == TOKEN_AS) {
        at = after_name(tokens, at + 1);
    }
    return at;
}

size_t tokens_list(const struct token_list *tokens, size_t open, size_t *firsts, size_t max)
{
    if (open >= tokens->count || tokens->items[open].kind != TOKEN_OPEN ||
        tokens->items[open].match < 0) {
        return 0;
    }
    const size_t close = (size_t)tokens->items[open].match;
    size_t count = 0;
    bool is_first = true;
    for (size_t at = open + 1; at < close; at++) {
        if (is_first) {
            if (count < max) {
                firsts[count] = at;
            }
            count++;
        }
        const struct token *token = &tokens->items[at];
        is_first = token->kind == TOKEN_COMMA;
        if (token->kind == TOKEN_OPEN) {
            at = (size_t)token->match;
        }
    }
    return count;
}

/* Takes out runs of list items. The last ones go with the comma in front of them, up to token
 * `end`, which `behind` keeps apart from what stands before. */
static void drop_runs(struct analysis *a, const size_t *firsts, const bool *drop, size_t count,
                      size_t end, const char *behind)
{
    const struct token *items = analysis_tokens(a)->items;
    for (size_t from = 0; from < count; from++) {
        if (!drop[from]) {
            continue;
        }
        size_t to = from;
        while (to < count && drop[to]) {
            to++;
        }
        if (to < count) {
            analysis_edit(a, items[firsts[from]].start, items[firsts[to]].start, "");
        } else {
            analysis_edit(a, items[firsts[from] - 1].start, items[end].start, behind);
        }
        from = to;
    }
}

void tokens_drop(struct analysis *a, size_t open, const size_t *firsts, const bool *drop,
                 size_t count)
{
    drop_runs(a, firsts, drop, count, (size_t)analysis_tokens(a)->items[open].match, "");
}

size_t tokens_item_end(const struct token_list *tokens, size_t at)
{
    size_t cases = 0;
    for (; at < tokens->count; at++) {
        const struct token *token = &tokens->items[at];
        /* Behind a dot, and behind AS, any word is a name. */
        const enum token_kind before = at == 0 ? TOKEN_OTHER : token[-1].kind;
        const bool is_name = before == TOKEN_DOT || before == TOKEN_AS;
        if (token->kind == TOKEN_OPEN) {
            at = (size_t)token->match;
        } else if (token->kind == TOKEN_CLOSE || token->kind == TOKEN_SEMICOLON ||
                   (token->kind == TOKEN_COMMA && cases == 0)) {
            break;
        } else if (is_name) {
            continue;
        } else if (token->kind == TOKEN_CASE) {
            cases++;
        } else if (token->kind == TOKEN_END && cases > 0) {
            cases--;
        } else if (token->kind == TOKEN_CLAUSE && cases == 0 && before != TOKEN_DISTINCT) {
            break;
        }
    }
    return at;
}

void tokens_drop_items(struct analysis *a, const size_t *firsts, const bool *drop, size_t count)
{
    const struct token_list *tokens = analysis_tokens(a);
    const size_t end = tokens_item_end(tokens, firsts[count - 1]);
    const bool is_parted = end < tokens->count && tokens->items[end].kind == TOKEN_CLAUSE;
    drop_runs(a, firsts, drop, count, end, is_parted ? " " : "");
}
