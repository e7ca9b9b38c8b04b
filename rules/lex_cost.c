/*
 * The sum of the squares of the lengths of operator runs bounds the lexer's work. A first look, at
 * every 16th byte, settles nearly every text; only where it finds long runs, or where the text is
 * long enough for too many tokens, is it gone through with regard to quotes, inside which runs cost
 * nothing and all is one token. Called by judge.c; owns nothing.
 */
#include "rules/lex_cost.h"

#include <string.h>

enum {
    LONG_RUN = 16, /* shorter ones cost no more than a multiple of the text's length */
    COST_MAX = 4000000,
    COST_LOW = COST_MAX / 10,
    TOKENS_MAX = 2000000,
};

static bool is_operator(char c)
{
    return c != '\0' && strchr("~!@#^&|`?+-*/%<>=", c) != NULL;
}

static bool is_name_start(char c)
{
    unsigned char u = (unsigned char)c;
    return (u >= 'a' && u <= 'z') || (u >= 'A' && u <= 'Z') || u == '_' || u >= 0x80;
}

static bool is_name_part(char c)
{
    return is_name_start(c) || (c >= '0' && c <= '9') || c == '$';
}

/* Every long run covers a byte whose place is a multiple of LONG_RUN. */
static bool has_costly_runs(const char *text, size_t len, size_t cost_max)
{
    size_t cost = 0;
    for (size_t at = 0; at < len; at += LONG_RUN) {
        if (!is_operator(text[at])) {
            continue;
        }
        size_t from = at, to = at + 1;
        while (from > 0 && is_operator(text[from - 1])) {
            from--;
        }
        while (to < len && is_operator(text[to])) {
            to++;
        }
        if (to - from >= LONG_RUN) {
            cost += (to - from) * (to - from);
        }
        if (cost > cost_max) {
            return true;
        }
        at = to / LONG_RUN * LONG_RUN;
    }
    return false;
}

/* Past white space and line comments. */
static size_t skip_space(const char *text, size_t len, size_t at)
{
    while (at < len) {
        if (strchr(" \t\r\n\f\v", text[at]) != NULL) {
            at++;
        } else if (text[at] == '-' && text[at + 1] == '-') {
            at += strcspn(text + at, "\r\n");
        } else {
            break;
        }
    }
    return at;
}

/* Past the closing quote of a literal or quoted identifier whose first quote is at `at`. A literal
 * that goes on in the next line keeps its kind: E'a' newline 'b\'c'. */
static size_t skip_quoted(const char *text, size_t len, size_t at, bool backslash_escapes)
{
    const char quote = text[at++];
    while (at < len) {
        if (backslash_escapes && text[at] == '\\') {
            at += 2;
        } else if (text[at] != quote) {
            at++;
        } else if (at + 1 < len && text[at + 1] == quote) {
            at += 2;
        } else {
            size_t next = backslash_escapes ? skip_space(text, len, at + 1) : len;
            if (next >= len || text[next] != quote) {
                return at + 1;
            }
            at = next + 1;
        }
    }
    return len;
}

/* Past a $tag$...$tag$ that begins at `at`, or past the dollar sign when none begins there. */
static size_t skip_dollar_quoted(const char *text, size_t len, size_t at)
{
    size_t tag_end = at + 1;
    if (tag_end < len && is_name_start(text[tag_end])) {
        while (tag_end < len && text[tag_end] != '$' && is_name_part(text[tag_end])) {
            tag_end++;
        }
    }
    if (tag_end >= len || text[tag_end] != '$') {
        return at + 1;
    }
    const size_t tag_len = tag_end + 1 - at;
    const char *end = memmem(text + tag_end + 1, len - tag_end - 1, text + at, tag_len);
    return end == NULL ? len : (size_t)(end - text) + tag_len;
}

static size_t skip_name(const char *text, size_t len, size_t at, bool conforming)
{
    const size_t start = at;
    while (at < len && is_name_part(text[at])) {
        at++;
    }
    if (at - start == 1 && at < len && text[at] == '\'' && (text[start] | 0x20) == 'e') {
        return skip_quoted(text, len, at, true);
    }
    if (at - start == 1 && at < len && text[at] == '\'' && strchr("bBxX", text[start]) != NULL) {
        return skip_quoted(text, len, at, false);
    }
    if (at - start == 1 && at + 1 < len && text[at] == '&' && (text[start] | 0x20) == 'u' &&
        (text[at + 1] == '"' || (text[at + 1] == '\'' && conforming))) {
        return skip_quoted(text, len, at + 1, false);
    }
    return at;
}

/* Past a run of operators, or what of it ends with a comment's begin; returns what lexing it
 * costs. */
static size_t skip_operators(const char *text, size_t len, size_t *at, size_t *comment_depth)
{
    const size_t from = *at;
    bool line_comment = false;
    while (*at < len && is_operator(text[*at]) && !line_comment) {
        if (text[*at] == '/' && text[*at + 1] == '*') {
            ++*comment_depth;
            ++*at;
        } else if (*comment_depth > 0 && text[*at] == '*' && text[*at + 1] == '/') {
            --*comment_depth;
            ++*at;
        } else if (*comment_depth == 0 && text[*at] == '-' && text[*at + 1] == '-') {
            line_comment = true;
        }
        ++*at;
    }
    const size_t cost = (*at - from) * (*at - from);
    while (line_comment && *at < len && text[*at] != '\n' && text[*at] != '\r') {
        ++*at;
    }
    return cost;
}

/* Past a token that is no operator; or, within a comment, past a byte. */
static size_t skip_token(const char *text, size_t len, size_t at, bool conforming)
{
    const char c = text[at];
    if (c == '\'') {
        return skip_quoted(text, len, at, !conforming);
    }
    if (c == '"') {
        return skip_quoted(text, len, at, false);
    }
    if (c == '$') {
        return skip_dollar_quoted(text, len, at);
    }
    if (is_name_start(c)) {
        return skip_name(text, len, at, conforming);
    }
    at++;
    while (c >= '0' && c <= '9' && at < len && text[at] >= '0' && text[at] <= '9') {
        at++;
    }
    return at;
}

static bool is_within(const char *text, size_t len, bool conforming, size_t cost_max)
{
    if (len <= TOKENS_MAX && !has_costly_runs(text, len, cost_max)) {
        return true;
    }
    size_t cost = 0, tokens = 0, at = 0, comment_depth = 0;
    while (at < len && cost <= cost_max && tokens <= TOKENS_MAX) {
        const char c = text[at];
        if (is_operator(c)) {
            cost += skip_operators(text, len, &at, &comment_depth);
            tokens++;
        } else if (comment_depth > 0 || c == ' ' || c == '\n') {
            at++;
        } else {
            at = skip_token(text, len, at, conforming);
            tokens++;
        }
    }
    return cost <= cost_max && tokens <= TOKENS_MAX;
}

bool lex_cost_is_bounded(const char *text, size_t len, bool standard_conforming_strings)
{
    return is_within(text, len, standard_conforming_strings, COST_MAX);
}

bool lex_cost_is_low(const char *text, size_t len, bool standard_conforming_strings)
{
    return is_within(text, len, standard_conforming_strings, COST_LOW);
}
