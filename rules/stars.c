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

/* The one relation that the star is about; NULL when it is about several, or another. */
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

/* The rule whose columns the relation's star is to be; NULL when it stays. */
static const struct rule *rule_of(const struct analysis *a, const RangeVar *relation)
{
    if (relation->alias != NULL && relation->alias->colnames != NIL) {
        return NULL;
    }
    uint64_t rules = analysis_target(a, relation).direct;
    while (rules != 0 && !analysis_is_stabilised(a, rule_set_get(a->set, rule_first(rules)))) {
        rules &= rules - 1;
    }
    return rules == 0 ? NULL : rule_set_get(a->set, rule_first(rules));
}

/* --- over several relations --- */

enum { PARTS_MAX = 64 };

struct parts {
    size_t count;
    struct star_part at[PARTS_MAX];
};

static bool add_part(struct parts *parts, const char *name, const struct rule *rule)
{
    for (size_t i = 0; i < parts->count; i++) {
        if (strcmp(parts->at[i].name, name) == 0) {
            return false; /* tables of several schemas: the bare name is of neither */
        }
    }
    if (parts->count == PARTS_MAX) {
        return false;
    }
    parts->at[parts->count++] = (struct star_part){name, rule};
    return true;
}

static const Alias *alias_of(const Node *item)
{
    return IsA(item, JoinExpr)         ? ((const JoinExpr *)item)->alias
           : IsA(item, RangeSubselect) ? ((const RangeSubselect *)item)->alias
           : IsA(item, RangeFunction)  ? ((const RangeFunction *)item)->alias
           : IsA(item, RangeTableFunc) ? ((const RangeTableFunc *)item)->alias
                                       : NULL;
}

/* The parts of a FROM item, in their order. False where that cannot be written: USING and NATURAL
 * put the columns that they merge in front of all others, whose names would have to be known. */
static bool collect_parts(const struct analysis *a, const Node *item, struct parts *parts,
                          int depth)
{
    const RangeVar *relation = as_relation(item);
    if (relation != NULL) {
        const struct rule *rule = is_with_query(a, relation) ? NULL : rule_of(a, relation);
        return add_part(parts, visible_name(relation), rule);
    }
    if (IsA(item, JoinExpr)) {
        const JoinExpr *join = (const JoinExpr *)item;
        if (join->join_using_alias != NULL || depth > ANALYSIS_DEPTH_MAX) {
            return false;
        }
        if (join->alias == NULL) {
            return !join->isNatural && join->usingClause == NIL &&
                   collect_parts(a, join->larg, parts, depth + 1) &&
                   collect_parts(a, join->rarg, parts, depth + 1);
        }
    }
    const Alias *alias = alias_of(item);
    return alias != NULL && add_part(parts, alias->aliasname, NULL);
}

/* False: it stays as it is. */
static bool find_parts(struct analysis *a, const RangeVar *target, const List *from,
                       struct star *star)
{
    struct parts parts = {.count = 0};
    bool is_guarded = false;
    if (target != NULL && !add_part(&parts, visible_name(target), rule_of(a, target))) {
        return false;
    }
    for (int i = 0; i < list_length(from); i++) {
        if (!collect_parts(a, list_nth(from, i), &parts, 0)) {
            return false;
        }
    }
    for (size_t i = 0; i < parts.count; i++) {
        is_guarded = is_guarded || parts.at[i].rule != NULL;
    }
    if (is_guarded) {
        struct star_part *kept = arena_alloc(a->arena, parts.count * sizeof *kept);
        memcpy(kept, parts.at, parts.count * sizeof *kept);
        star->parts = kept;
        star->part_count = parts.count;
    }
    return is_guarded;
}

/* --- finding them --- */

static void note(struct analysis *a, const RangeVar *target, const List *from, struct star *star)
{
    const RangeVar *relation = resolve(star->reference, target, from);
    if (relation != NULL) {
        /* What is written is always a table. */
        const bool is_table = relation == target || !is_with_query(a, relation);
        star->rule = is_table ? rule_of(a, relation) : NULL;
        star->relation = relation;
    } else if (list_length(star->reference->fields) > 1 || !find_parts(a, target, from, star)) {
        return;
    }
    if (star->rule != NULL || star->part_count > 0) {
        a->stars =
            arena_grow(a->arena, a->stars, a->star_count, &a->star_capacity, sizeof *a->stars);
        a->stars[a->star_count++] = *star;
    }
}

static void note_list(struct analysis *a, const RangeVar *target, const List *from, List **targets)
{
    for (int i = 0; i < list_length(*targets); i++) {
        const ResTarget *item = list_nth(*targets, i);
        if (item->name != NULL || !IsA(item->val, ColumnRef)) {
            continue;
        }
        struct star star = {.reference = (const ColumnRef *)item->val, .targets = targets, .at = i};
        if (IsA(llast(star.reference->fields), A_Star)) {
            note(a, target, from, &star);
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

/* --- writing them out --- */

/* The rule's columns, each behind `prefix`. */
static const char *column_list(struct analysis *a, const struct rule *rule, const char *prefix)
{
    const char *list = "";
    for (size_t i = 0; i < rule->column_count; i++) {
        list = arena_printf(a->arena, "%s%s%s%s", list, i == 0 ? "" : ", ", prefix,
                            quoted_name(rule->columns[i].name));
    }
    return list;
}

static const char *star_list(struct analysis *a, const struct star *star)
{
    const char *prefix = "", *list = "";
    const List *fields = star->reference->fields;
    if (star->rule != NULL) {
        for (int i = 0; i + 1 < list_length(fields); i++) {
            prefix =
                arena_printf(a->arena, "%s%s.", prefix, quoted_name(strVal(list_nth(fields, i))));
        }
        return column_list(a, star->rule, prefix);
    }
    for (size_t i = 0; i < star->part_count; i++) {
        const struct star_part *part = &star->parts[i];
        prefix = arena_printf(a->arena, "%s.", quoted_name(part->name));
        list = arena_printf(a->arena, "%s%s%s", list, i == 0 ? "" : ", ",
                            part->rule != NULL ? column_list(a, part->rule, prefix)
                                               : arena_printf(a->arena, "%s*", prefix));
    }
    return list;
}

/* What the lists mean in the tree; `qualifiers` are Strings. */
static List *column_nodes(const struct rule *rule, const List *qualifiers, int count)
{
    List *columns = NIL;
    for (size_t i = 0; i < rule->column_count; i++) {
        ColumnRef *column = (ColumnRef *)revision_column(NULL, rule->columns[i].name);
        List *fields = NIL;
        for (int at = 0; at < count; at++) {
            fields = lappend(fields, list_nth(qualifiers, at));
        }
        column->fields = list_concat(fields, column->fields);
        columns = lappend(columns, revision_target(NULL, (Node *)column));
    }
    return columns;
}

static List *part_nodes(const struct star *star, const struct star_part *part)
{
    ColumnRef *all = (ColumnRef *)revision_column(NULL, part->name);
    if (part->rule != NULL) {
        return column_nodes(part->rule, all->fields, 1);
    }
    all->fields = lappend(all->fields, llast(star->reference->fields));
    return lappend(NIL, revision_target(NULL, (Node *)all));
}

static void note_revision(struct analysis *a, const struct star *star)
{
    List *columns = NIL;
    if (star->rule != NULL) {
        const List *fields = star->reference->fields;
        columns = column_nodes(star->rule, fields, list_length(fields) - 1);
    }
    for (size_t i = 0; i < star->part_count; i++) {
        columns = list_concat(columns, part_nodes(star, &star->parts[i]));
    }
    revision_note(a, star->targets, star->at, 1, columns);
}

static bool expand(struct analysis *a, const struct star *star)
{
    const struct token_list *tokens = analysis_tokens(a);
    const char *list = star_list(a, star);
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
