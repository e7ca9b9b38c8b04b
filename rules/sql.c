/*
 * Parsing and lexing through libpg_query's internals (version 15-4.0.0 of Debian), which are
 * exported but, in part, declared nowhere. Called by the analysis and by judge.c; owns nothing
 * between sql_leave() and the next sql_enter().
 */
#include "rules/sql.h"

#include <common/keywords.h>
#include <parser/scanner.h>
#include <pg_query.h>
#include <pg_query/pg_query.pb-c.h>
#include <pg_query/pg_query_internal.h>
#include <pthread.h>
#include <stdlib.h>

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
    pg_query_exit_memory_context(scope->context);
    scope->context = NULL;
}

List *sql_parse(const char *text, struct arena *arena, const char **error)
{
    PgQueryInternalParsetreeAndError parsed = pg_query_raw_parse(text);
    free(parsed.stderr_buffer);
    *error = NULL;
    if (parsed.error != NULL) {
        *error = arena_printf(arena, "%s", parsed.error->message);
        pg_query_free_error(parsed.error);
        return NULL;
    }
    return parsed.tree;
}

/* Rows that are alike count once in a fingerprint, so that the first ones stand for all of a bulk
 * load, at a hundredth of the time. */
enum { FINGERPRINTED_ROWS = 32 };

uint64_t sql_fingerprint(List *statements)
{
    for (int i = 0; i < list_length(statements); i++) {
        RawStmt *raw = list_nth(statements, i);
        if (!IsA(raw->stmt, InsertStmt)) {
            continue;
        }
        SelectStmt *source = (SelectStmt *)((InsertStmt *)raw->stmt)->selectStmt;
        if (source != NULL && list_length(source->valuesLists) > FINGERPRINTED_ROWS) {
            source->valuesLists->length = FINGERPRINTED_ROWS;
        }
    }
    return pg_query_fingerprint_node(statements);
}

/* The library's token numbers are not those of the server's gram.h. */
static enum token_kind kind_of(int token)
{
    switch (token) {
    case '(':
    case '[':
        return TOKEN_OPEN;
    case ')':
    case ']':
        return TOKEN_CLOSE;
    case ',':
        return TOKEN_COMMA;
    case '.':
        return TOKEN_DOT;
    case '*':
        return TOKEN_STAR;
    case ';':
        return TOKEN_SEMICOLON;
    case PG_QUERY__TOKEN__IDENT:
    case PG_QUERY__TOKEN__UIDENT:
        return TOKEN_NAME;
    case PG_QUERY__TOKEN__FCONST:
    case PG_QUERY__TOKEN__SCONST:
    case PG_QUERY__TOKEN__USCONST:
    case PG_QUERY__TOKEN__BCONST:
    case PG_QUERY__TOKEN__XCONST:
    case PG_QUERY__TOKEN__ICONST:
        return TOKEN_CONSTANT;
    case PG_QUERY__TOKEN__PARAM:
        return TOKEN_PARAMETER;
    case PG_QUERY__TOKEN__AS:
        return TOKEN_AS;
    case PG_QUERY__TOKEN__DEFAULT:
        return TOKEN_DEFAULT;
    case PG_QUERY__TOKEN__FROM:
        return TOKEN_FROM;
    case PG_QUERY__TOKEN__INSERT:
        return TOKEN_INSERT;
    case PG_QUERY__TOKEN__ONLY:
        return TOKEN_ONLY;
    case PG_QUERY__TOKEN__RECURSIVE:
        return TOKEN_RECURSIVE;
    case PG_QUERY__TOKEN__ROW:
        return TOKEN_ROW;
    case PG_QUERY__TOKEN__SELECT:
        return TOKEN_SELECT;
    case PG_QUERY__TOKEN__SET:
        return TOKEN_SET;
    case PG_QUERY__TOKEN__TABLE:
        return TOKEN_TABLE;
    case PG_QUERY__TOKEN__UESCAPE:
        return TOKEN_UESCAPE;
    case PG_QUERY__TOKEN__VALUES:
        return TOKEN_VALUES;
    case PG_QUERY__TOKEN__WITH:
        return TOKEN_WITH;
    default:
        return TOKEN_OTHER;
    }
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
