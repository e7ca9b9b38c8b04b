/* The reading of trigger functions; see body.h. Called by the preflight. */
#include "proxy/cutover/body.h"

#include <ctype.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum token_kind { TOKEN_END, TOKEN_WORD, TOKEN_QUOTED, TOKEN_STRING, TOKEN_ASSIGN, TOKEN_OTHER };

struct token {
    enum token_kind kind;
    const char *at;
    size_t len;
};

enum { TOKENS_MAX = 4096 };

struct tokens {
    struct token at[TOKENS_MAX];
    size_t count;
    bool complete; /* false: too long, or a string or comment without an end */
};

static bool is_word_start(char c)
{
    return isalpha((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80;
}

static bool is_word_part(char c)
{
    return is_word_start(c) || isdigit((unsigned char)c) || c == '$';
}

/* Past blanks and comments; NULL when a comment does not end. */
static const char *skip_blanks(const char *p)
{
    for (;;) {
        if (isspace((unsigned char)*p)) {
            p++;
        } else if (p[0] == '-' && p[1] == '-') {
            p += strcspn(p, "\n");
        } else if (p[0] == '/' && p[1] == '*') {
            int depth = 0;
            do {
                if (p[0] == '/' && p[1] == '*') {
                    depth++;
                    p += 2;
                } else if (p[0] == '*' && p[1] == '/') {
                    depth--;
                    p += 2;
                } else if (*p == '\0') {
                    return NULL;
                } else {
                    p++;
                }
            } while (depth > 0);
        } else {
            return p;
        }
    }
}

/* Past a quoted piece that begins at p; a doubled quote stands for itself. NULL without an end. */
static const char *skip_quoted(const char *p, char quote, bool backslashes)
{
    for (p++; *p != '\0'; p++) {
        if (backslashes && *p == '\\' && p[1] != '\0') {
            p++;
        } else if (*p == quote && p[1] == quote) {
            p++;
        } else if (*p == quote) {
            return p + 1;
        }
    }
    return NULL;
}

/* Past $tag$...$tag$; NULL when p does not begin one, or it does not end. */
static const char *skip_dollar(const char *p)
{
    const char *tag_end = p + 1;
    while (is_word_part(*tag_end) && *tag_end != '$') {
        tag_end++;
    }
    if (*tag_end != '$' || isdigit((unsigned char)p[1])) {
        return NULL;
    }
    size_t tag = (size_t)(tag_end - p) + 1;
    for (const char *q = p + tag; *q != '\0'; q++) {
        if (*q == '$' && strncmp(q, p, tag) == 0) {
            return q + tag;
        }
    }
    return NULL;
}

/* Reads one token at p, which is not blank. NULL when it has no end. */
static const char *read_token(const char *p, struct token *out)
{
    const char *end;
    if (*p == '\'' || ((*p == 'e' || *p == 'E') && p[1] == '\'')) {
        bool escapes = *p != '\'';
        end = skip_quoted(p + escapes, '\'', escapes);
        out->kind = TOKEN_STRING;
    } else if (*p == '"') {
        end = skip_quoted(p, '"', false);
        out->kind = TOKEN_QUOTED;
    } else if (*p == '$' && !isdigit((unsigned char)p[1])) {
        end = skip_dollar(p);
        out->kind = TOKEN_STRING;
    } else if (is_word_start(*p)) {
        for (end = p; is_word_part(*end); end++) {
        }
        out->kind = TOKEN_WORD;
    } else if (isdigit((unsigned char)*p)) {
        for (end = p; is_word_part(*end) || *end == '.'; end++) {
        }
        out->kind = TOKEN_OTHER;
    } else {
        bool assign = (p[0] == ':' && p[1] == '=');
        end = p + (assign ? 2 : 1);
        out->kind = assign || *p == '=' ? TOKEN_ASSIGN : TOKEN_OTHER;
    }
    out->at = p;
    out->len = end != NULL ? (size_t)(end - p) : 0;
    return end;
}

static void tokenize(const char *source, struct tokens *t)
{
    t->count = 0;
    t->complete = false;
    const char *p = skip_blanks(source);
    while (p != NULL && *p != '\0' && t->count < TOKENS_MAX - 1) {
        p = read_token(p, &t->at[t->count]);
        if (p != NULL) {
            t->count++;
            p = skip_blanks(p);
        }
    }
    t->complete = p != NULL && *p == '\0';
    t->at[t->count] = (struct token){.kind = TOKEN_END, .at = "", .len = 0};
}

static bool is_word(const struct token *t, const char *word)
{
    return t->kind == TOKEN_WORD && t->len == strlen(word) && strncasecmp(t->at, word, t->len) == 0;
}

static bool is_mark(const struct token *t, char mark)
{
    return (t->kind == TOKEN_OTHER || t->kind == TOKEN_ASSIGN) && t->len == 1 && *t->at == mark;
}

/* An identifier as the server would read it: folded, or quoted. */
static bool is_identifier(const struct token *t, const char *name)
{
    if (t->kind == TOKEN_WORD) {
        if (t->len != strlen(name)) {
            return false;
        }
        for (size_t i = 0; i < t->len; i++) {
            char c = t->at[i];
            if ((c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c) != name[i]) {
                return false;
            }
        }
        return true;
    }
    if (t->kind != TOKEN_QUOTED) {
        return false;
    }
    const char *end = t->at + t->len - 1;
    for (const char *p = t->at + 1; p < end; p++, name++) {
        p += *p == '"';
        if (*p != *name) {
            return false;
        }
    }
    return *name == '\0';
}

/* NEW . column at i */
static bool is_target(const struct tokens *t, size_t i, const char *column)
{
    return i + 2 < t->count && is_word(&t->at[i], "new") && is_mark(&t->at[i + 1], '.') &&
           is_identifier(&t->at[i + 2], column);
}

static bool is_return_new_end(const struct tokens *t, size_t i)
{
    if (!(i + 4 <= t->count && is_word(&t->at[i], "return") && is_word(&t->at[i + 1], "new") &&
          is_mark(&t->at[i + 2], ';') && is_word(&t->at[i + 3], "end"))) {
        return false;
    }
    size_t end = i + 4;
    return end == t->count || (end + 1 == t->count && is_mark(&t->at[end], ';'));
}

/* The tokens from..to with single blanks between them, so that comments are gone. */
static char *join(const struct tokens *t, size_t from, size_t to)
{
    size_t len = 1;
    for (size_t i = from; i < to; i++) {
        len += t->at[i].len + 1;
    }
    char *text = malloc(len);
    if (text == NULL) {
        return NULL;
    }
    char *p = text;
    for (size_t i = from; i < to; i++) {
        /* Pieces that touch in the source stay together: an operator may have several marks. */
        if (i > from && t->at[i - 1].at + t->at[i - 1].len != t->at[i].at) {
            *p++ = ' ';
        }
        memcpy(p, t->at[i].at, t->at[i].len);
        p += t->at[i].len;
    }
    *p = '\0';
    return text;
}

static size_t find_mark(const struct tokens *t, size_t from, char mark)
{
    while (from < t->count && !is_mark(&t->at[from], mark)) {
        from++;
    }
    return from;
}

/* BEGIN NEW.column := expression ; RETURN NEW ; END, or
 * BEGIN SELECT expression INTO NEW.column ; RETURN NEW ; END. The expression's place, or false. */
static bool find_assignment(const struct tokens *t, const char *column, size_t *from, size_t *to)
{
    if (t->count < 4 || !is_word(&t->at[0], "begin")) {
        return false;
    }
    size_t end = find_mark(t, 1, ';');
    if (!is_return_new_end(t, end + 1)) {
        return false;
    }
    if (is_target(t, 1, column) && t->at[4].kind == TOKEN_ASSIGN) {
        *from = 5;
        *to = end;
    } else if (is_word(&t->at[1], "select") && end >= 6 && is_target(t, end - 3, column) &&
               is_word(&t->at[end - 4], "into")) {
        *from = 2;
        *to = end - 4;
    } else {
        return false;
    }
    for (size_t i = *from; i < *to; i++) {
        if (is_word(&t->at[i], "select") || is_word(&t->at[i], "from") ||
            is_word(&t->at[i], "into") || t->at[i].kind == TOKEN_END) {
            return false;
        }
    }
    return *from < *to;
}

/* Words with which a function reads or changes anything but the row at hand. */
static const char *const acting_words[] = {
    "call",   "copy",     "create",  "delete",    "do",     "drop",  "execute", "for",
    "from",   "get",      "insert",  "listen",    "lock",   "loop",  "merge",   "nextval",
    "notify", "open",     "perform", "pg_notify", "raise",  "reset", "set",     "set_config",
    "setval", "truncate", "update",  "while",     "dblink", "alter", "old",     "tg_op",
};

static bool may_act(const struct tokens *t)
{
    for (size_t i = 0; i < t->count; i++) {
        for (size_t w = 0; w < sizeof acting_words / sizeof *acting_words; w++) {
            if (is_word(&t->at[i], acting_words[w])) {
                return true;
            }
        }
    }
    return false;
}

/* The column's name anywhere, strings included, or an assignment to the whole row. */
static bool may_concern(const struct tokens *t, const char *column)
{
    for (size_t i = 0; i < t->count; i++) {
        const struct token *token = &t->at[i];
        if (is_identifier(token, column)) {
            return true;
        }
        if (token->kind == TOKEN_STRING &&
            memmem(token->at, token->len, column, strlen(column)) != NULL) {
            return true;
        }
        if (is_word(token, "new") && !is_mark(&t->at[i + 1], '.') &&
            (t->at[i + 1].kind == TOKEN_ASSIGN || (i > 0 && is_word(&t->at[i - 1], "into")))) {
            return true;
        }
        /* RETURN of anything but NEW, NULL or OLD is another row. */
        if (is_word(token, "return") && !is_word(&t->at[i + 1], "new") &&
            !is_word(&t->at[i + 1], "null") && !is_word(&t->at[i + 1], "old")) {
            return true;
        }
    }
    return false;
}

bool body_read(const char *source, const char *column, struct body *out)
{
    *out = (struct body){.kind = BODY_OTHER};
    struct tokens *t = malloc(sizeof *t);
    if (t == NULL) {
        return false;
    }
    bool ok = true;
    size_t from = 0;
    size_t to = 0;
    tokenize(source, t);
    if (!t->complete) {
        out->kind = BODY_OTHER;
    } else if (!may_concern(t, column)) {
        out->kind = BODY_UNRELATED;
    } else if (find_assignment(t, column, &from, &to)) {
        out->kind = BODY_ASSIGNMENT;
        out->expression = join(t, from, to);
        ok = out->expression != NULL;
    } else {
        out->kind = may_act(t) ? BODY_OTHER : BODY_PURE;
    }
    free(t);
    return ok;
}
