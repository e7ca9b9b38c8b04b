/*
 * PostgreSQL's own parser and lexer, as libpg_query carries them: the only door to that library.
 * Called by the analysis and by judge.c.
 *
 * Traps that this door closes: every thread has its own parser state and must not call
 * pg_query_exit(); the state's variables are thread-local in the library and plain in the server's
 * headers, so that none of them may be named through a header; no function of ours may have a name
 * that the backend has, since the library exports them all.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <postgres.h>

#include <nodes/parsenodes.h>

/* postgres.h puts its own functions in their place. */
#undef snprintf
#undef vsnprintf

#include "rules/arena.h"

/* Trees live from sql_enter() to sql_leave(), which may be called without; one scope at a time in a
 * thread. */
struct sql_scope {
    void *context;
};

void sql_enter(struct sql_scope *scope, bool standard_conforming_strings);
void sql_leave(struct sql_scope *scope);

/* The list of RawStmt, or NULL with `error` (in the arena) when the text does not parse, and its
 * `position`, the byte from 1, 0: none. An empty text gives NULL with no error. */
List *sql_parse(const char *text, struct arena *arena, const char **error, size_t *position);

/* pg_query's fingerprint of statements already parsed; a long VALUES list counts by its first rows.
 */
uint64_t sql_fingerprint(const List *statements);

/* The kinds of token that edits look at; the rest is TOKEN_OTHER. */
enum token_kind {
    TOKEN_OTHER,
    TOKEN_OPEN,  /* ( or [ */
    TOKEN_CLOSE, /* ) or ] */
    TOKEN_COMMA,
    TOKEN_DOT,
    TOKEN_STAR,
    TOKEN_SEMICOLON,
    TOKEN_NAME, /* an identifier, quoted or not */
    TOKEN_CONSTANT,
    TOKEN_PARAMETER,
    TOKEN_EQUALS,
    TOKEN_AS,
    TOKEN_CASE,
    TOKEN_CLAUSE, /* a reserved word that ends a list without brackets: FROM, WHERE, RETURNING, ...
                   */
    TOKEN_DISTINCT,
    TOKEN_END,
    TOKEN_ONLY,
    TOKEN_RECURSIVE,
    TOKEN_ROW,
    TOKEN_TABLE,
    TOKEN_UESCAPE,
    TOKEN_VALUES,
    TOKEN_WITH,
};

struct token {
    int start; /* bytes from the start of the text */
    int end;   /* where the next token or a comment starts; white space in front of it included */
    enum token_kind kind;
    int match; /* of TOKEN_OPEN and TOKEN_CLOSE: the other one; -1 when it has none */
};

struct token_list {
    struct token *items; /* ends with one more, whose start is behind them */
    size_t count;
};

/* The first `max` tokens of a text that has parsed. The ends that the library has for them are
 * wrong for U&"x", so only starts are used. */
struct token_list sql_lex(const char *text, struct arena *arena, size_t max);

/* The token that starts at `offset`; count when there is none. */
size_t token_at(const struct token_list *tokens, int offset);
