/*
 * A lexer that gives up where another one could go on in another way; see alike.h. Called by
 * encoding.c; owns nothing.
 */
#include "rules/alike.h"

#include <string.h>
#include <strings.h>

struct reader {
    const char *text; /* ends with a NUL at `len` */
    size_t len, at;
    bool begins;     /* a statement: its first word is to come */
    bool has_values; /* its literals are values, and nobody looks into them */
};

static bool is_high(char c)
{
    return (unsigned char)c >= 0x80;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name_start(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_high(c);
}

static bool is_name_part(char c)
{
    return is_name_start(c) || is_digit(c) || c == '$';
}

/* What SHIFT_JIS_2004 has for a backslash. */
static bool is_hidden_backslash(const char *at, const char *start)
{
    return *at == '_' && at > start && at[-1] == '\x81';
}

static bool has_hidden_backslash(const char *from, const char *end)
{
    for (const char *at = from; at < end; at++) {
        if (is_hidden_backslash(at, from)) {
            return true;
        }
    }
    return false;
}

/* A byte that is a backslash, or may be one, in a literal which has escapes for certain, or
 * perhaps. Past it, or past what it escapes for certain; false when that may be the closing quote.
 */
static bool read_backslash(struct reader *r, bool has_escapes)
{
    const char *at = r->text + r->at;
    const bool is_half = *at == '_' || is_high(at[-1]);
    if (has_escapes && !is_half) {
        r->at += 2;
        return true;
    }
    if ((!has_escapes || *at == '_') && !r->has_values) {
        return false;
    }
    if (at[1] == '\'' || (at[1] == '\\' && is_half)) {
        return false;
    }
    /* two of them are two letters, or one that is escaped */
    r->at += at[1] == '\\' ? 2 : 1;
    return true;
}

/* From the opening quote. Plain literals are read with more care than others need: so are those
 * that go on in the next line, and those with another prefix than E. */
static bool read_literal(struct reader *r, bool has_escapes)
{
    r->at++;
    while (r->at < r->len) {
        const char *at = r->text + r->at;
        if (*at == '\\' || is_hidden_backslash(at, r->text)) {
            if (!read_backslash(r, has_escapes)) {
                return false;
            }
        } else if (*at != '\'') {
            r->at++;
        } else if (at[1] == '\'') {
            r->at += 2;
        } else {
            r->at++;
            return true;
        }
    }
    r->at = r->len; /* no lexer finds its end */
    return true;
}

/* From the opening quote; in U&"" a backslash spells other letters. */
static bool read_quoted_name(struct reader *r)
{
    const char *start = r->text + r->at;
    const char *end = memchr(start + 1, '"', r->len - r->at - 1);
    end = end == NULL ? r->text + r->len : end + 1;
    r->at = (size_t)(end - r->text);
    return !has_hidden_backslash(start, end);
}

/* The statements in which a literal is a value and nothing else: no body, no option. */
static bool is_query(const char *word, size_t len)
{
    static const char *const words[] = {"insert", "select", "update", "delete", "with", "merge"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strlen(words[i]) == len && strncasecmp(word, words[i], len) == 0) {
            return true;
        }
    }
    return false;
}

/* Past a word, and the literal of which it is the prefix. */
static bool read_word(struct reader *r)
{
    const char *start = r->text + r->at, *end = start;
    bool has_high = false, has_dollar = false;
    while (is_name_part(*end)) {
        has_high |= is_high(*end);
        has_dollar |= *end == '$';
        end++;
    }
    const size_t len = (size_t)(end - start);
    r->at += len;
    if (r->begins) {
        r->begins = false;
        r->has_values = is_query(start, len);
    }
    if (len == 1 && *end == '\'' && (*start | 0x20) == 'e') {
        return read_literal(r, true);
    }
    /* An operator or a bracket may be the half of its last letter; and behind a tilde a dollar sign
     * begins a literal. */
    const bool may_take_more = is_high(end[-1]) && *end >= '@';
    return !may_take_more && !(has_high && has_dollar);
}

/* Past a $tag$...$tag$, or past the dollar sign when none begins here. */
static bool read_dollar(struct reader *r)
{
    const char *start = r->text + r->at, *tag_end = start + 1;
    bool has_high = false;
    if (is_name_start(*tag_end)) {
        while (*tag_end != '$' && is_name_part(*tag_end)) {
            has_high |= is_high(*tag_end);
            tag_end++;
        }
    }
    r->at++;
    if (*tag_end != '$') {
        return !has_high;
    }
    const size_t tag_len = (size_t)(tag_end + 1 - start);
    const char *body = start + tag_len;
    const char *end = memmem(body, r->len - (size_t)(body - r->text), start, tag_len);
    const char *stop = end == NULL ? r->text + r->len : end;
    r->at = end == NULL ? r->len : (size_t)(end - r->text) + tag_len;
    return !has_high && (r->has_values || !has_hidden_backslash(body, stop));
}

/* Past a comment, in which only its end says something. */
static void read_comment(struct reader *r)
{
    if (r->text[r->at] == '-') {
        r->at += strcspn(r->text + r->at, "\r\n");
        return;
    }
    size_t depth = 0;
    do {
        const char *at = r->text + r->at;
        const bool opens = at[0] == '/' && at[1] == '*', closes = at[0] == '*' && at[1] == '/';
        depth += opens;
        depth -= closes;
        r->at += opens || closes ? 2 : 1;
    } while (depth > 0 && r->at < r->len);
}

static bool read_token(struct reader *r)
{
    const char *at = r->text + r->at;
    if (is_name_start(*at)) {
        return read_word(r);
    }
    if ((at[0] == '-' && at[1] == '-') || (at[0] == '/' && at[1] == '*')) {
        read_comment(r);
        return true;
    }
    switch (*at) {
    case '\'':
        return read_literal(r, false);
    case '"':
        return read_quoted_name(r);
    case '$':
        return read_dollar(r);
    case ';':
        r->begins = true;
        r->has_values = false;
        break;
    default:
        break;
    }
    r->at++;
    return true;
}

bool text_reads_alike(const char *text, size_t len)
{
    struct reader r = {.text = text, .len = len, .begins = true};
    while (r.at < len) {
        if (!read_token(&r)) {
            return false;
        }
    }
    return true;
}
