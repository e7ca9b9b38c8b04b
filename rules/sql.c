/*
 * Parsing and lexing through libpg_query's internals (version 15-4.0.0 of Debian), which are
 * exported but, in part, declared nowhere. Called by the analysis and by judge.c; owns nothing
 * between sql_leave() and the next sql_enter().
 */
#include "rules/sql.h"

#include "rules/encoding.h"

#include <common/keywords.h>
#include <parser/scanner.h>
#include <pg_query.h>
#include <pg_query/pg_query.pb-c.h>
#include <pg_query/pg_query_internal.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Plain in the server's parser/parser.h, which is therefore not included. */
extern __thread bool standard_conforming_strings;
extern __thread bool escape_string_warning;

extern uint64_t pg_query_fingerprint_node(const void *node);

/* The library's scanner state is one int longer than the server header's. */
union scanner_state {
    core_yy_extra_type extra;
    char room[sizeof(core_yy_extra_type) + 64];
};

/* The library's first use in a thread goes through a variable of the whole process. */
static void enter_thread(void)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static _Thread_local bool is_known;
    if (!is_known) {
        pthread_mutex_lock(&mutex);
        pg_query_init();
        pthread_mutex_unlock(&mutex);
        is_known = true;
    }
}

void sql_enter(struct sql_scope *scope, bool conforming)
{
    enter_thread();
    scope->context = pg_query_enter_memory_context();
    standard_conforming_strings = conforming;
    escape_string_warning = false; /* it would go to stderr */
}

void sql_leave(struct sql_scope *scope)
{
    if (scope->context != NULL) {
        pg_query_exit_memory_context(scope->context);
        scope->context = NULL;
    }
}

/* The byte, from 1, at which the character number `character` of a valid UTF-8 text begins. */
static size_t byte_of(const char *text, int character)
{
    const char *at = text;
    for (int i = 1; i < character && *at != '\0'; i++) {
        do {
            at++;
        } while (((unsigned char)*at & 0xc0) == 0x80);
    }
    return (size_t)(at - text) + 1;
}

/* The parser counts characters as if every text were UTF-8. Of another one it is asked again, with
 * a letter of one byte in the place of each byte that it may take for a part of something longer.
 */
static size_t error_position(const char *text, struct arena *arena, int cursor)
{
    const size_t len = strlen(text);
    if (cursor <= 0) {
        return 0;
    }
    if (encoding_is_readable(TEXT_ENCODING_UTF8, text, len)) {
        return byte_of(text, cursor);
    }
    char *plain = arena_alloc(arena, len + 1);
    for (size_t i = 0; i <= len; i++) {
        plain[i] = (unsigned char)text[i] < 0x80 ? text[i] : '_';
    }
    PgQueryInternalParsetreeAndError parsed = pg_query_raw_parse(plain);
    free(parsed.stderr_buffer);
    if (parsed.error == NULL) {
        return 0;
    }
    const int again = parsed.error->cursorpos;
    pg_query_free_error(parsed.error);
    return again > 0 ? (size_t)again : 0;
}

List *sql_parse(const char *text, struct arena *arena, const char **error, size_t *position)
{
    PgQueryInternalParsetreeAndError parsed = pg_query_raw_parse(text);
    free(parsed.stderr_buffer);
    *error = NULL;
    if (parsed.error != NULL) {
        *error = arena_printf(arena, "%s", parsed.error->message);
        const int cursor = parsed.error->cursorpos;
        pg_query_free_error(parsed.error);
        *position = error_position(text, arena, cursor);
        return NULL;
    }
    return parsed.tree;
}

/* Rows that are alike count once in a fingerprint, so that the first ones stand for all of a long
 * list, at a fraction of the time. */
enum { FINGERPRINTED_ROWS = 32 };

uint64_t sql_fingerprint(const List *statements)
{
    const RawStmt *first = linitial(statements);
    List *rows = NIL;
    int row_count = 0;
    if (IsA(first->stmt, InsertStmt)) {
        const SelectStmt *source = (SelectStmt *)((InsertStmt *)first->stmt)->selectStmt;
        rows = source == NULL ? NIL : source->valuesLists;
        row_count = list_length(rows);
    }
    if (row_count > FINGERPRINTED_ROWS) {
        rows->length = FINGERPRINTED_ROWS;
    }
    uint64_t fingerprint = pg_query_fingerprint_node(statements);
    if (row_count > FINGERPRINTED_ROWS) {
        rows->length = row_count;
    }
    return fingerprint;
}

/* The library's token numbers are not those of the server's gram.h. */
static enum token_kind kind_of(int token)
{
    static const unsigned char kinds[] = {
        ['('] = TOKEN_OPEN,
        ['['] = TOKEN_OPEN,
        [')'] = TOKEN_CLOSE,
        [']'] = TOKEN_CLOSE,
        [','] = TOKEN_COMMA,
        ['.'] = TOKEN_DOT,
        ['*'] = TOKEN_STAR,
        [';'] = TOKEN_SEMICOLON,
        ['='] = TOKEN_EQUALS,
        [PG_QUERY__TOKEN__IDENT] = TOKEN_NAME,
        [PG_QUERY__TOKEN__UIDENT] = TOKEN_NAME,
        [PG_QUERY__TOKEN__FCONST] = TOKEN_CONSTANT,
        [PG_QUERY__TOKEN__SCONST] = TOKEN_CONSTANT,
        [PG_QUERY__TOKEN__USCONST] = TOKEN_CONSTANT,
        [PG_QUERY__TOKEN__BCONST] = TOKEN_CONSTANT,
        [PG_QUERY__TOKEN__XCONST] = TOKEN_CONSTANT,
        [PG_QUERY__TOKEN__ICONST] = TOKEN_CONSTANT,
        [PG_QUERY__TOKEN__PARAM] = TOKEN_PARAMETER,
        [PG_QUERY__TOKEN__AS] = TOKEN_AS,
        [PG_QUERY__TOKEN__CASE] = TOKEN_CASE,
        [PG_QUERY__TOKEN__DISTINCT] = TOKEN_DISTINCT,
        [PG_QUERY__TOKEN__END_P] = TOKEN_END,
        [PG_QUERY__TOKEN__ONLY] = TOKEN_ONLY,
        [PG_QUERY__TOKEN__RECURSIVE] = TOKEN_RECURSIVE,
        [PG_QUERY__TOKEN__ROW] = TOKEN_ROW,
        [PG_QUERY__TOKEN__TABLE] = TOKEN_TABLE,
        [PG_QUERY__TOKEN__UESCAPE] = TOKEN_UESCAPE,
        [PG_QUERY__TOKEN__VALUES] = TOKEN_VALUES,
        [PG_QUERY__TOKEN__WITH] = TOKEN_WITH,
        [PG_QUERY__TOKEN__EXCEPT] = TOKEN_CLAUSE,
        [PG_QUERY__TOKEN__FETCH] = TOKEN_CLAUSE,
        [PG_QUERY__TOKEN__FOR] = TOKEN_CLAUSE,
        [PG_QUERY__TOKEN__FROM] = TOKEN_CLAUSE,
        [PG_QUERY__TOKEN__GROUP_P] = TOKEN_CLAUSE,
        [PG_QUERY__TOKEN__HAVING] = TOKEN_CLAUSE,
        [PG_QUERY__TOKEN__INTERSECT] = TOKEN_CLAUSE,
        [PG_QUERY__TOKEN__INTO] = TOKEN_CLAUSE,
        [PG_QUERY__TOKEN__LIMIT] = TOKEN_CLAUSE,
        [PG_QUERY__TOKEN__OFFSET] = TOKEN_CLAUSE,
        [PG_QUERY__TOKEN__ON] = TOKEN_CLAUSE,
        [PG_QUERY__TOKEN__ORDER] = TOKEN_CLAUSE,
        [PG_QUERY__TOKEN__RETURNING] = TOKEN_CLAUSE,
        [PG_QUERY__TOKEN__UNION] = TOKEN_CLAUSE,
        [PG_QUERY__TOKEN__WHEN] = TOKEN_CLAUSE,
        [PG_QUERY__TOKEN__WHERE] = TOKEN_CLAUSE,
        [PG_QUERY__TOKEN__WINDOW] = TOKEN_CLAUSE,
    };
    return (size_t)token < sizeof kinds ? kinds[token] : TOKEN_OTHER;
}

static void match_brackets(struct token_list *tokens, int *open)
{
    struct token *token = &tokens->items[tokens->count];
    if (token->kind == TOKEN_OPEN) {
        token->match = *open;
        *open = (int)tokens->count;
    } else if (token->kind == TOKEN_CLOSE && *open >= 0) {
        struct token *opening = &tokens->items[*open];
        token->match = *open;
        *open = opening->match;
        opening->match = (int)tokens->count;
    }
}

struct token_list sql_lex(const char *text, struct arena *arena, size_t max)
{
    union scanner_state state = {.room = {0}};
    core_yyscan_t scanner = scanner_init(text, &state.extra, &ScanKeywords, ScanKeywordTokens);
    struct token_list tokens = {0};
    size_t capacity = 0;
    int open = -1; /* the innermost open bracket; until closed, its `match` is the one around it */
    for (;;) {
        core_YYSTYPE value;
        YYLTYPE start = 0;
        int token = core_yylex(&value, &start, scanner);
        if (token == 0) {
            start = (int)state.extra.scanbuflen;
        }
        if (tokens.count > 0 && tokens.items[tokens.count - 1].end < 0) {
            tokens.items[tokens.count - 1].end = start;
        }
        if (token == PG_QUERY__TOKEN__SQL_COMMENT || token == PG_QUERY__TOKEN__C_COMMENT) {
            continue;
        }
        tokens.items =
            arena_grow(arena, tokens.items, tokens.count, &capacity, sizeof *tokens.items);
        tokens.items[tokens.count] =
            (struct token){.start = start, .end = -1, .kind = kind_of(token), .match = -1};
        if (token == 0 || tokens.count == max) {
            break;
        }
        match_brackets(&tokens, &open);
        tokens.count++;
    }
    scanner_finish(scanner);
    return tokens;
}

size_t token_at(const struct token_list *tokens, int offset)
{
    size_t low = 0, high = tokens->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (tokens->items[middle].start < offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < tokens->count && tokens->items[low].start == offset ? low : tokens->count;
}
