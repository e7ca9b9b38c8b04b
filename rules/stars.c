/*
 * "*" over a guarded table, written out in the order that applications know. A cutover in place
 * moves the column to the end; a prepared SELECT * or RETURNING * would then fail with "cached plan
 * must not change result type", and a reader by position would read the wrong column. Called by
 * statement.c and insert.c while they walk, and by judge.c at the end; owns nothing.
 */
#include "rules/analysis.h"

#include <utils/builtins.h>

#include <string.h>

const char *quoted_name(const char *name)
{
    /* Reserved since PostgreSQL 16, of which the library's keyword list does not know. */
    return strcmp(name, "system_user") == 0 ? "\"system_user\"" : quote_identifier(name);
}

static const char *visible_name(const RangeVar *relation)
{
    return relation->alias != NULL ? relation->alias->aliasname : relation->relname;
}

static const RangeVar *as_relation(const Node *item)
{
    if (IsA(item, RangeTableSample)) {
        item = ((const RangeTableSample *)item)->relation;
    }
    return IsA(item, RangeVar) ? (const RangeVar *)item : NULL;
}

/* The relation of a FROM item, or in a join below it, that goes by `name`; NULL when there is none.
 */
static const RangeVar *find_relation(const Node *item, const char *name, int depth)
{
    if (IsA(item, JoinExpr)) {
        const JoinExpr *join = (const JoinExpr *)item;
        if (join->alias != NULL || depth > ANALYSIS_DEPTH_MAX) {
            return NULL; /* an alias hides what is joined */
        }
        const RangeVar *left = find_relation(join->larg, name, depth + 1);
        return left != NULL ? left : find_relation(join->rarg, name, depth + 1);
    }
    const RangeVar *relation = as_relation(item);
    return relation != NULL && strcmp(visible_name(relation), name) == 0 ? relation : NULL;
}

/* x.* or schema.x.*: the qualified relation in `from` or the statement's target. */
static const RangeVar *resolve_qualified(const ColumnRef *reference, const RangeVar *target,
                                         const List *from)
{
    const int parts = list_length(reference->fields);
    const char *name = strVal(list_nth(reference->fields, parts - 2));
    const RangeVar *found =
        target != NULL && strcmp(visible_name(target), name) == 0 ? target : NULL;
    for (int i = 0; found == NULL && i < list_length(from); i++) {
        found = find_relation(list_nth(from, i), name, 0);
    }
    if (found == NULL || parts == 2) {
        return found;
    }
    const char *schema = strVal(linitial(reference->fields));
    const bool is_same = parts == 3 && found->alias == NULL && found->schemaname != NULL &&
                         strcmp(found->schemaname, schema) == 0;
    return is_same ? found : NULL;
}

static const RangeVar *resolve(const ColumnRef *reference, const RangeVar *target, const List *from)
{
    if (list_length(reference->fields) > 1) {
        return resolve_qualified(reference, target, from);
    }
    if (target != NULL) {
        return from == NIL ? target : NULL;
    }
    return list_length(from) == 1 ? as_relation(linitial(from)) : NULL;
}

/* A WITH query hides the table of the same bare name. */
static bool is_with_query(const struct analysis *a, const RangeVar *relation)
{
    if (relation->schemaname != NULL) {
        return false;
    }
    for (const struct with_scope *scope = a->with; scope != NULL; scope = scope->outer) {
        for (int i = 0; i < scope->visible; i++) {
            const CommonTableExpr *query = list_nth(scope->clause->ctes, i);
            if (strcmp(query->ctename, relation->relname) == 0) {
                return true;
            }
        }
    }
    return false;
}

static void note(struct analysis *a, const RangeVar *relation, List **targets, int at)
{
    if (relation->alias != NULL && relation->alias->colnames != NIL) {
        return;
    }
    uint64_t rules = analysis_target(a, relation).direct;
    while (rules != 0 && !analysis_is_stabilised(a, rule_set_get(a->set, rule_first(rules)))) {
        rules &= rules - 1;
    }
    if (rules == 0) {
        return;
    }
    a->stars = arena_grow(a->arena, a->stars, a->star_count, &a->star_capacity, sizeof *a->stars);
    a->stars[a->star_count++] = (struct star){
        .rule = rule_set_get(a->set, rule_first(rules)),
        .relation = relation,
        .reference = (const ColumnRef *)((const ResTarget *)list_nth(*targets, at))->val,
        .targets = targets,
        .at = at,
    };
}

static void note_list(struct analysis *a, const RangeVar *target, const List *from, List **targets)
{
    for (int i = 0; i < list_length(*targets); i++) {
        const ResTarget *item = list_nth(*targets, i);
        if (item->name != NULL || !IsA(item->val, ColumnRef)) {
            continue;
        }
        const ColumnRef *reference = (const ColumnRef *)item->val;
        if (!IsA(llast(reference->fields), A_Star)) {
            continue;
        }
        const RangeVar *relation = resolve(reference, target, from);
        /* What is written is always a table. */
        if (relation != NULL && (relation == target || !is_with_query(a, relation))) {
            note(a, relation, targets, i);
        }
    }
}

void stars_note_select(struct analysis *a, SelectStmt *stmt)
{
    note_list(a, NULL, stmt->fromClause, &stmt->targetList);
}

void stars_note_returning(struct analysis *a, const RangeVar *target, const List *others,
                          List **returning)
{
    note_list(a, target, others, returning);
}

static const char *column_list(struct analysis *a, const struct star *star)
{
    const char *prefix = "", *list = "";
    const List *fields = star->reference->fields;
    for (int i = 0; i + 1 < list_length(fields); i++) {
        prefix = arena_printf(a->arena, "%s%s.", prefix, quoted_name(strVal(list_nth(fields, i))));
    }
    for (size_t i = 0; i < star->rule->column_count; i++) {
        list = arena_printf(a->arena, "%s%s%s%s", list, i == 0 ? "" : ", ", prefix,
                            quoted_name(star->rule->columns[i].name));
    }
    return list;
}

/* What the list means in the tree. */
static void note_revision(struct analysis *a, const struct star *star)
{
    const List *fields = star->reference->fields;
    List *columns = NIL;
    for (size_t i = 0; i < star->rule->column_count; i++) {
        ColumnRef *column = (ColumnRef *)revision_column(NULL, star->rule->columns[i].name);
        List *parts = NIL;
        for (int part = 0; part + 1 < list_length(fields); part++) {
            parts = lappend(parts, list_nth(fields, part));
        }
        column->fields = list_concat(parts, column->fields);
        columns = lappend(columns, revision_target(NULL, (Node *)column));
    }
    revision_note(a, star->targets, star->at, 1, columns);
}

static bool expand(struct analysis *a, const struct star *star)
{
    const struct token_list *tokens = analysis_tokens(a);
    const char *list = column_list(a, star);
    if (star->reference->location < 0) {
        /* TABLE chunks: what the parser made of it has no place for the star. */
        size_t at = token_at(tokens, star->relation->location);
        if (at == tokens->count || at < 1) {
            return false;
        }
        at -= tokens->items[at - 1].kind == TOKEN_ONLY ? 2 : 1;
        if (tokens->items[at].kind != TOKEN_TABLE) {
            return false;
        }
        analysis_edit(a, tokens->items[at].start, tokens->items[at + 1].start,
                      arena_printf(a->arena, "SELECT %s FROM ", list));
        return true;
    }
    /* (c.*) is c.* all the same. */
    const ResTarget *item = list_nth(*star->targets, star->at);
    size_t at = token_at(tokens, item->location), open = 0;
    while (at < tokens->count && tokens->items[at].kind != TOKEN_STAR) {
        open += tokens->items[at++].kind == TOKEN_OPEN;
    }
    for (; open > 0 && at < tokens->count; open--) {
        at += tokens->items[at + 1].kind == TOKEN_CLOSE;
    }
    if (at == tokens->count) {
        return false;
    }
    /* A star is one byte, and so is a parenthesis. */
    analysis_edit(a, item->location, tokens->items[at].start + 1, list);
    return true;
}

void stars_expand(struct analysis *a)
{
    for (size_t i = 0; i < a->star_count; i++) {
        if (expand(a, &a->stars[i])) {
            note_revision(a, &a->stars[i]);
        }
    }
}
