/*
 * Masking by tokens where the text parses, by first principles where it does not. Called by judge.c;
 * owns nothing.
 */
#include "rules/mask.h"

#include <string.h>

#include "rules/sql.h"

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static const char *mask_tokens(struct arena *arena, const char *text, bool is_cut)
{
    const struct token_list tokens = sql_lex(text, arena, true, MASKED_TEXT_MAX);
    char *masked = arena_alloc(arena, MASKED_TEXT_MAX + sizeof " ...");
    size_t used = 0;
    is_cut |= text[tokens.items[tokens.count].start] != '\0';
    for (size_t i = 0; i < tokens.count; i++) {
        const struct token *token = &tokens.items[i];
        const char *start = text + token->start, *end = text + tokens.items[i + 1].start;
        const bool is_parted = end > start && is_space(end[-1]);
        while (end > start && is_space(end[-1])) {
            end--;
        }
        if (token->kind == TOKEN_CONSTANT) {
            start = "?";
            end = start + 1;
        }
        size_t size = token->kind == TOKEN_COMMENT ? 0 : (size_t)(end - start);
        if (used + size + 1 > MASKED_TEXT_MAX) {
            is_cut = true;
            break;
        }
        memcpy(masked + used, start, size);
        used += size;
        if ((is_parted || token->kind == TOKEN_COMMENT) && used > 0 && masked[used - 1] != ' ') {
            masked[used++] = ' ';
        }
    }
    while (used > 0 && masked[used - 1] == ' ') {
        used--;
    }
    strcpy(masked + used, is_cut ? " ..." : "");
    return masked;
}

static bool is_word_part(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '"' ||
           (unsigned char)c >= 0x80;
}

/* Quotes, dollar quotes and comments; $1 is none of them. */
static bool hides_text(const char *at)
{
    return *at == '\'' || (at[0] == '$' && (at[1] < '0' || at[1] > '9')) ||
           (at[0] == '-' && at[1] == '-') || (at[0] == '/' && at[1] == '*');
}

static const char *mask_unparsed(struct arena *arena, const char *text, size_t len)
{
    char *masked = arena_alloc(arena, MASKED_TEXT_MAX + sizeof "? ...");
    size_t used = 0, at = 0;
    while (at < len && used < MASKED_TEXT_MAX && !hides_text(text + at)) {
        const bool is_number = text[at] >= '0' && text[at] <= '9' &&
                               (at == 0 || (!is_word_part(text[at - 1]) && text[at - 1] != '$'));
        masked[used++] = is_number ? '?' : text[at++];
        while (is_number && at < len && ((text[at] >= '0' && text[at] <= '9') || text[at] == '.' ||
                                         text[at] == 'x' || text[at] == '_')) {
            at++;
        }
    }
    strcpy(masked + used, at < len ? "? ..." : "");
    return masked;
}

const char *mask_text(struct arena *arena, const char *text, size_t len, bool parses, bool is_cut)
{
    return parses ? mask_tokens(arena, text, is_cut) : mask_unparsed(arena, text, len);
}
