/*
 * The rows of INSERT ... VALUES: which of them carry the column, and the edits that take it out of
 * each. Called by insert.c; owns nothing.
 */
#include "rules/compute.h"
#include "rules/insert.h"

bool value_has_star(const Node *value)
{
    const List *parts = NIL;
    if (IsA(value, ColumnRef)) {
        parts = ((const ColumnRef *)value)->fields;
    } else if (IsA(value, A_Indirection)) {
        parts = ((const A_Indirection *)value)->indirection;
    }
    return parts != NIL && IsA(llast(parts), A_Star);
}

static int width(const SelectStmt *source)
{
    const int first = list_length(linitial(source->valuesLists));
    bool is_even = true;
    for (int row = 0; row < list_length(source->valuesLists); row++) {
        const List *values = list_nth(source->valuesLists, row);
        for (int i = 0; i < list_length(values); i++) {
            if (value_has_star(list_nth(values, i))) {
                return WIDTH_HIDDEN;
            }
        }
        is_even &= list_length(values) == first;
    }
    return is_even ? first : WIDTH_UNEVEN;
}

static bool supplies(const struct insert *insert, size_t position, struct supply *supply)
{
    if (insert->bulk != NULL) {
        insert->a->asks_bulk = true;
        supply->rows = (uint32_t)bulk_count_values(insert->bulk, position);
    }
    for (int row = 0; row < list_length(insert->source->valuesLists); row++) {
        const List *values = list_nth(insert->source->valuesLists, row);
        const Node *value = list_nth(values, (int)position);
        if (IsA(value, SetToDefault)) {
            continue;
        }
        while (IsA(value, TypeCast)) {
            value = ((const TypeCast *)value)->arg;
        }
        supply->rows++;
        supply->params += IsA(value, ParamRef);
    }
    /* VALUES with an order of its own names its columns by number, or column1, column2. */
    supply->obstacle = insert->source->sortClause != NIL ? "its VALUES are sorted" : NULL;
    return supply->rows > 0;
}

/* Whether the server sees a query here whose result is inserted, and not rows: then each column
 * takes a type from all of its values before it is assigned. */
static bool is_query(const SelectStmt *source)
{
    return source->sortClause != NIL || source->limitCount != NULL || source->limitOffset != NULL ||
           source->lockingClause != NIL || source->withClause != NULL;
}

/* As a sub-query's, parameters in the rows would get other types. */
static const char *obstacle(const struct insert *insert)
{
    return is_query(insert->source)
               ? "its VALUES are sorted, cut short, or have a WITH of their own"
               : NULL;
}

/* The VALUES that starts the rows, in parentheses or not; `at` is behind the relation and its
 * columns. In front of it may stand OVERRIDING ... VALUE, and a WITH clause: its bodies are passed
 * over, and a query of it may be named values. */
static size_t find_values(const struct token_list *tokens, size_t at)
{
    if (at < tokens->count && tokens->items[at].kind == TOKEN_OTHER) {
        at += 3; /* OVERRIDING SYSTEM VALUE */
    }
    for (const size_t first = at; at < tokens->count; at++) {
        const enum token_kind kind = tokens->items[at].kind;
        const enum token_kind before = tokens->items[at - 1].kind;
        if (kind == TOKEN_OPEN && at != first && before != TOKEN_CLOSE && before != TOKEN_OPEN) {
            at = (size_t)tokens->items[at].match;
        } else if (kind == TOKEN_VALUES && before != TOKEN_WITH && before != TOKEN_RECURSIVE &&
                   before != TOKEN_COMMA) {
            break;
        }
    }
    return at;
}

/* A row without its dropped values; one that would be empty says DEFAULT instead. */
static void edit_row(const struct insert *insert, size_t open, const size_t *firsts)
{
    const struct token *items = insert->a->tokens.items;
    if (!insert_drops_all(insert)) {
        tokens_drop(insert->a, open, firsts, insert->drop, insert->width);
        return;
    }
    for (size_t i = 0; i < insert->width; i++) {
        const size_t end = i + 1 < insert->width ? firsts[i + 1] - 1 : (size_t)items[open].match;
        analysis_edit(insert->a, items[firsts[i]].start, items[end].start, "DEFAULT");
    }
}

static void revise_row(const struct insert *insert, void *list)
{
    if (!insert_drops_all(insert)) {
        revision_note_drops(insert->a, list, insert->drop, insert->width);
        return;
    }
    for (size_t i = 0; i < insert->width; i++) {
        revision_note(insert->a, list, (int)i, 1, lappend(NIL, revision_default()));
    }
}

static bool edit_rows(const struct insert *insert, size_t at)
{
    const struct token_list *tokens = &insert->a->tokens;
    size_t *firsts = arena_alloc(insert->a->arena, insert->width * sizeof *firsts);
    for (int row = 0; row < list_length(insert->source->valuesLists); row++) {
        if (row > 0 && tokens->items[at++].kind != TOKEN_COMMA) {
            return false;
        }
        if (tokens_list(tokens, at, firsts, insert->width) != insert->width) {
            return false;
        }
        edit_row(insert, at, firsts);
        revise_row(insert, &list_nth_cell(insert->source->valuesLists, row)->ptr_value);
        at = (size_t)tokens->items[at].match + 1;
    }
    return at >= tokens->count || tokens->items[at].kind != TOKEN_COMMA;
}

static bool edit(const struct insert *insert, size_t at)
{
    struct analysis *a = insert->a;
    at = find_values(&a->tokens, at);
    if (at >= a->tokens.count || !edit_rows(insert, at + 1)) {
        return false;
    }
    params_keep(a, &(struct insert_rows){
                       .rows = insert->source->valuesLists,
                       .names = insert->names,
                       .rule = insert_rule(insert, insert->rules),
                       .is_dropped = insert->drop,
                       .start = a->tokens.items[at].start,
                       .is_query = is_query(insert->source),
                   });
    if (insert->bulk != NULL) {
        struct bulk_edit *rows = arena_alloc(a->arena, sizeof *rows);
        *rows = (struct bulk_edit){.drop = insert->drop};
        a->bulk_edit = rows;
    }
    return true;
}

static bool compute_rows(const struct insert *insert, size_t at, bool *replaces)
{
    const struct token_list *tokens = &insert->a->tokens;
    size_t *firsts = arena_alloc(insert->a->arena, insert->width * sizeof *firsts);
    size_t *lasts = arena_alloc(insert->a->arena, insert->width * sizeof *lasts);
    for (int row = 0; row < list_length(insert->source->valuesLists); row++) {
        if (row > 0 && tokens->items[at++].kind != TOKEN_COMMA) {
            return false;
        }
        if (tokens_list(tokens, at, firsts, insert->width) != insert->width) {
            return false;
        }
        const size_t close = (size_t)tokens->items[at].match;
        for (size_t i = 0; i < insert->width; i++) {
            lasts[i] = i + 1 < insert->width ? firsts[i + 1] - 2 : close - 1;
        }
        List **values = (List **)&list_nth_cell(insert->source->valuesLists, row)->ptr_value;
        const size_t cut = row > 0 && insert->bulk != NULL ? insert->bulk->rows : 0;
        *replaces |= insert_compute_row(insert, values, (int)cut + row + 1, firsts, lasts,
                                        tokens->items[close].start);
        at = close + 1;
    }
    return at >= tokens->count || tokens->items[at].kind != TOKEN_COMMA;
}

/* The rows that were cut out, in which every value is a literal. */
static void compute_bulk(const struct insert *insert)
{
    struct analysis *a = insert->a;
    const struct compute *compute = insert->compute;
    size_t *positions = arena_alloc(a->arena, (compute->source_count + 1) * sizeof *positions);
    for (size_t i = 0; i < compute->source_count; i++) {
        const struct rule_source *column = compute->sources[i].column;
        const size_t at = insert_find_column(insert, column->column);
        positions[i] = at < insert->width ? at : SIZE_MAX;
        /* A default that only the server knows is refused row by row. */
        a->needs_bulk |= at < insert->width && column->has_default &&
                         bulk_count_values(insert->bulk, at) < insert->bulk->rows;
    }
    struct bulk_edit *rows = arena_alloc(a->arena, sizeof *rows);
    *rows = (struct bulk_edit){.key = insert->key};
    rows->pieces = compute_pieces(a, compute, positions, &rows->piece_count);
    a->needs_bulk |= a->bulk_edit != NULL;
    a->bulk_edit = rows;
}

static bool compute(const struct insert *insert, size_t at)
{
    struct analysis *a = insert->a;
    at = find_values(&a->tokens, at);
    bool replaces = false;
    if (at >= a->tokens.count || !compute_rows(insert, at + 1, &replaces)) {
        return false;
    }
    if (insert->bulk != NULL) {
        compute_bulk(insert);
        /* A first row that is right already tells nothing of the others. */
        a->needs_bulk |= !replaces && insert->key < insert->width;
    }
    if (replaces) {
        bool *replaced = arena_alloc(a->arena, insert->width * sizeof *replaced);
        for (size_t i = 0; i < insert->width; i++) {
            replaced[i] = i == insert->key;
        }
        params_keep(a, &(struct insert_rows){
                           .rows = insert->source->valuesLists,
                           .names = insert->names,
                           .rule = insert->compute->rule,
                           .is_dropped = replaced,
                           .start = a->tokens.items[at].start,
                       });
    }
    return true;
}

const struct insert_source insert_values = {width, supplies, edit, obstacle, compute};
