/*
 * INSERT into a guarded table: which rows carry the computed column, and the edits that take it out
 * of the column list and of every row. Called by statement.c; owns nothing.
 */
#include <string.h>

#include "rules/analysis.h"

/* An INSERT whose values are known one by one. */
struct insert {
    struct analysis *a;
    InsertStmt *stmt;
    SelectStmt *source;
    const struct bulk *bulk; /* more rows of it, which the text was relieved of; NULL: none */
    uint64_t rules;          /* of the guarded table */
    const char **names;      /* the column of each value of a row */
    size_t width;            /* values in a row */
    bool *drop;              /* by position: the value goes */
    bool add_list;           /* a positional INSERT gets a column list */
};

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

static const char *column_name(const List *cols, size_t index)
{
    return ((const ResTarget *)list_nth(cols, (int)index))->name;
}

/* Counts what the rows carry for the column at `position`. */
static struct supply count_supply(const struct insert *insert, size_t position)
{
    struct supply supply = {.statement = "INSERT"};
    if (insert->bulk != NULL) {
        supply.rows = (uint32_t)bulk_count_values(insert->bulk, position);
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
        supply.rows++;
        supply.params += IsA(value, ParamRef);
    }
    return supply;
}

/* Where in a row the rule's column stands; width when nowhere, width + 1 when more than once or in
 * part. */
static size_t find_column(const struct insert *insert, const char *column)
{
    size_t found = insert->width;
    for (size_t i = 0; i < insert->width; i++) {
        if (strcmp(insert->names[i], column) != 0) {
            continue;
        }
        const List *cols = insert->stmt->cols;
        bool is_part =
            cols != NIL && ((const ResTarget *)list_nth(cols, (int)i))->indirection != NIL;
        if (found != insert->width || is_part) {
            return insert->width + 1;
        }
        found = i;
    }
    return found;
}

/* VALUES read in an order of its own names its columns by number, or column1, column2. */
static const char *values_obstacle(const struct insert *insert)
{
    return insert->source->sortClause != NIL ? "its VALUES are sorted" : NULL;
}

/* What each rule makes of the rows; fills `drop` and `add_list`. */
static void judge_rules(struct insert *insert)
{
    struct analysis *a = insert->a;
    const bool is_positional = insert->stmt->cols == NIL;
    const bool is_multi_row =
        insert->bulk != NULL || list_length(insert->source->valuesLists) > 1;
    for (uint64_t rest = insert->rules; rest != 0; rest &= rest - 1) {
        const size_t index = rule_first(rest);
        const struct rule *rule = rule_set_get(a->set, index);
        const size_t position = find_column(insert, rule->column);
        const bool is_moving = is_positional && analysis_is_stabilised(a, rule);
        if (position == insert->width) {
            insert->add_list |= is_moving && rule->reordered;
            continue;
        }
        if (position > insert->width) {
            struct supply supply = {.statement = "INSERT",
                                    .obstacle = "it names the column more than once or in part"};
            analysis_supply(a, index, &supply);
            continue;
        }
        struct supply supply = count_supply(insert, position);
        supply.obstacle = values_obstacle(insert);
        /* Before PostgreSQL 14 several rows of DEFAULT are an error for a generated column. */
        const bool is_bad_default = rule->mode == RULE_MODE_STRIP && is_multi_row &&
                                    rule->shape == RULE_SHAPE_GENERATED && insert->width > 1;
        if (supply.rows > 0 ? analysis_supply(a, index, &supply)
                            : is_moving || (is_bad_default && supply.obstacle == NULL &&
                                            a->definition == NULL)) {
            insert->drop[position] = true;
            insert->add_list |= is_positional;
        }
    }
}

static bool drops_all(const struct insert *insert)
{
    size_t dropped = 0;
    for (size_t i = 0; i < insert->width; i++) {
        dropped += insert->drop[i];
    }
    return dropped == insert->width;
}

static bool drops_any(const struct insert *insert)
{
    return memchr(insert->drop, true, insert->width * sizeof *insert->drop) != NULL;
}

/* The VALUES that starts the rows: at the statement's own depth, and not the name of a WITH query. */
static size_t find_values(const struct token_list *tokens, size_t from)
{
    size_t at = from;
    while (at < tokens->count && tokens->items[at].kind == TOKEN_OPEN) {
        at++;
    }
    for (; at < tokens->count; at++) {
        const enum token_kind kind = tokens->items[at].kind;
        if (kind == TOKEN_OPEN) {
            at = (size_t)tokens->items[at].match;
        } else if (kind == TOKEN_VALUES) {
            const enum token_kind before = tokens->items[at - 1].kind;
            if (before != TOKEN_WITH && before != TOKEN_RECURSIVE && before != TOKEN_COMMA) {
                break;
            }
        }
    }
    return at;
}

/* A list without its dropped elements; one that would be empty says DEFAULT instead. */
static void edit_list(const struct insert *insert, size_t open, const size_t *firsts, bool is_row)
{
    const struct token *items = insert->a->tokens.items;
    if (!drops_all(insert)) {
        tokens_drop(insert->a, open, firsts, insert->drop, insert->width);
        return;
    }
    for (size_t i = 0; is_row && i < insert->width; i++) {
        const size_t end =
            i + 1 < insert->width ? firsts[i + 1] - 1 : (size_t)items[open].match;
        analysis_edit(insert->a, items[firsts[i]].start, items[end].start, "DEFAULT");
    }
}

static const char *column_list(const struct insert *insert)
{
    const bool keep = drops_all(insert);
    const char *list = "(";
    for (size_t i = 0; i < insert->width; i++) {
        if (keep || !insert->drop[i]) {
            list = arena_printf(insert->a->arena, "%s%s%s", list, list[1] == '\0' ? "" : ", ",
                                quoted_name(insert->names[i]));
        }
    }
    return arena_printf(insert->a->arena, "%s) ", list);
}

/* The same change to the list in the tree. */
static void revise_list(const struct insert *insert, void *list, bool is_row)
{
    if (!drops_all(insert)) {
        revision_note_drops(insert->a, list, insert->drop, insert->width);
        return;
    }
    for (size_t i = 0; is_row && i < insert->width; i++) {
        revision_note(insert->a, list, (int)i, 1, lappend(NIL, revision_default()));
    }
}

static void revise(const struct insert *insert)
{
    if (insert->add_list) {
        const bool keep = drops_all(insert);
        List *columns = NIL;
        for (size_t i = 0; i < insert->width; i++) {
            if (keep || !insert->drop[i]) {
                columns = lappend(columns, revision_target(insert->names[i], NULL));
            }
        }
        revision_note(insert->a, &insert->stmt->cols, 0, 0, columns);
    } else {
        revise_list(insert, &insert->stmt->cols, false);
    }
    for (int row = 0; row < list_length(insert->source->valuesLists); row++) {
        revise_list(insert, &list_nth_cell(insert->source->valuesLists, row)->ptr_value, true);
    }
}

/* Edits the rows from the token behind VALUES on. False when text and tree do not agree. */
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
        edit_list(insert, at, firsts, true);
        at = (size_t)tokens->items[at].match + 1;
    }
    return at >= tokens->count || tokens->items[at].kind != TOKEN_COMMA;
}

static bool edit_insert(const struct insert *insert)
{
    struct analysis *a = insert->a;
    const struct token_list *tokens = analysis_tokens(a);
    size_t at = tokens_after_relation(tokens, insert->stmt->relation);
    if (at >= tokens->count) {
        return false;
    }
    if (insert->add_list) {
        analysis_edit(a, tokens->items[at].start, tokens->items[at].start, column_list(insert));
    }
    if (!drops_any(insert)) {
        return true;
    }
    if (insert->stmt->cols != NIL) {
        size_t *firsts = arena_alloc(a->arena, insert->width * sizeof *firsts);
        if (tokens_list(tokens, at, firsts, insert->width) != insert->width) {
            return false;
        }
        edit_list(insert, at, firsts, false);
        at = (size_t)tokens->items[at].match + 1;
    }
    at = find_values(tokens, at);
    if (at >= tokens->count || !edit_rows(insert, at + 1)) {
        return false;
    }
    params_keep(a, &(struct insert_rows){
                       .rows = insert->source->valuesLists,
                       .names = insert->names,
                       .rule = rule_set_get(a->set, rule_first(insert->rules)),
                       .is_dropped = insert->drop,
                       .start = tokens->items[at].start,
                   });
    if (insert->bulk != NULL) {
        a->bulk_drop = insert->drop;
    }
    return true;
}

static void refuse_for_all(struct analysis *a, uint64_t rules, const char *obstacle)
{
    for (; rules != 0; rules &= rules - 1) {
        struct supply supply = {.statement = "INSERT", .obstacle = obstacle};
        analysis_supply(a, rule_first(rules), &supply);
    }
}

/* The number of values in every row; 0 when rows differ, -1 when a star makes it unknown. */
static int row_width(const SelectStmt *source)
{
    const int width = list_length(linitial(source->valuesLists));
    bool is_even = true;
    for (int row = 0; row < list_length(source->valuesLists); row++) {
        const List *values = list_nth(source->valuesLists, row);
        for (int i = 0; i < list_length(values); i++) {
            if (value_has_star(list_nth(values, i))) {
                return -1;
            }
        }
        is_even &= list_length(values) == width;
    }
    return is_even ? width : 0;
}

/* Two rules with the same bare table name may guard tables whose columns differ. */
static bool agree_on_columns(const struct rule_set *set, uint64_t rules, size_t width)
{
    const struct rule *first = rule_set_get(set, rule_first(rules));
    for (; rules != 0; rules &= rules - 1) {
        const struct rule *rule = rule_set_get(set, rule_first(rules));
        if (rule->column_count < width) {
            return false;
        }
        for (size_t i = 0; i < width; i++) {
            if (strcmp(first->columns[i].name, rule->columns[i].name) != 0) {
                return false;
            }
        }
    }
    return true;
}

static bool names_a_column(const struct analysis *a, const List *cols, uint64_t rules)
{
    for (; rules != 0; rules &= rules - 1) {
        const struct rule *rule = rule_set_get(a->set, rule_first(rules));
        for (int i = 0; i < list_length(cols); i++) {
            if (strcmp(column_name(cols, (size_t)i), rule->column) == 0) {
                return true;
            }
        }
    }
    return false;
}

/* Only the first statement of a text is ever relieved of rows. */
static const struct bulk *bulk_of(const struct analysis *a, const InsertStmt *stmt)
{
    const RawStmt *first = linitial(a->statements);
    return first->stmt == (const Node *)stmt ? a->bulk : NULL;
}

static void judge_values(struct analysis *a, InsertStmt *stmt, uint64_t rules)
{
    struct insert insert = {
        .a = a,
        .stmt = stmt,
        .source = (SelectStmt *)stmt->selectStmt,
        .bulk = bulk_of(a, stmt),
        .rules = rules,
    };
    const struct rule *rule = rule_set_get(a->set, rule_first(rules));
    const int width = row_width(insert.source);
    if (stmt->cols != NIL && !names_a_column(a, stmt->cols, rules)) {
        return;
    }
    if (width < 0) {
        refuse_for_all(a, rules, "a * in its VALUES hides which value is the column's");
        return;
    }
    insert.width = (size_t)width;
    if (width == 0 || (stmt->cols != NIL && width != list_length(stmt->cols))) {
        return; /* the server's error, whatever the table: 42601 */
    }
    if (stmt->cols == NIL && !agree_on_columns(a->set, rules, insert.width)) {
        refuse_for_all(a, rules, "it has more values than pgsluice knows columns of the table");
        return;
    }
    insert.names = arena_alloc(a->arena, insert.width * sizeof *insert.names);
    insert.drop = arena_alloc(a->arena, insert.width * sizeof *insert.drop);
    for (size_t i = 0; i < insert.width; i++) {
        insert.names[i] =
            stmt->cols == NIL ? rule->columns[i].name : column_name(stmt->cols, i);
        insert.drop[i] = false;
    }
    judge_rules(&insert);
    if (!drops_any(&insert) && !insert.add_list) {
        return;
    }
    if (a->is_refused) {
        return;
    }
    if (edit_insert(&insert)) {
        revise(&insert);
        return;
    }
    analysis_refuse_obstacle(a, rule, "INSERT", "its text could not be followed");
}

/* Whether the statement is INSERT ... SELECT that leaves the column out for certain. */
static bool select_leaves_out(const struct analysis *a, const InsertStmt *stmt, uint64_t rules)
{
    if (stmt->cols != NIL) {
        return !names_a_column(a, stmt->cols, rules);
    }
    const SelectStmt *source = (const SelectStmt *)stmt->selectStmt;
    while (source->op != SETOP_NONE) {
        source = source->larg;
    }
    if (source->valuesLists != NIL) {
        return false;
    }
    const int width = list_length(source->targetList);
    for (int i = 0; i < width; i++) {
        if (value_has_star(((const ResTarget *)list_nth(source->targetList, i))->val)) {
            return false;
        }
    }
    for (; rules != 0; rules &= rules - 1) {
        const struct rule *rule = rule_set_get(a->set, rule_first(rules));
        if ((size_t)width > rule_column_index(rule, rule->column)) {
            return false;
        }
    }
    return true;
}

void insert_judge(struct analysis *a, InsertStmt *stmt)
{
    const struct rule_target target = analysis_target(a, stmt->relation);
    a->writes |= target.direct | target.dependents;
    stars_note_returning(a, stmt->relation, NIL, &stmt->returningList);
    if (target.direct == 0 && target.dependent == 0) {
        return;
    }
    if (stmt->onConflictClause != NULL) {
        assign_judge(a, stmt->relation, stmt->onConflictClause->targetList, "INSERT ON CONFLICT");
    }
    const SelectStmt *source = (const SelectStmt *)stmt->selectStmt;
    if (source == NULL) {
        return; /* DEFAULT VALUES */
    }
    dependent_judge(a, stmt->relation, stmt->cols, "INSERT", false);
    if (target.direct == 0) {
        return;
    }
    if (source->valuesLists != NIL && source->op == SETOP_NONE) {
        judge_values(a, stmt, target.direct);
    } else if (!select_leaves_out(a, stmt, target.direct)) {
        refuse_for_all(a, target.direct, "the value comes from a SELECT");
    }
}
