/*
 * MERGE into a guarded table: its inserts here, its updates as any SET list. Called by statement.c;
 * owns nothing.
 */
#include "rules/analysis.h"

#include <string.h>

#include "rules/compute.h"

/* One WHEN NOT MATCHED THEN INSERT. */
struct merge_insert {
    struct analysis *a;
    const MergeStmt *stmt;
    MergeWhenClause *when;
    size_t width;            /* columns listed */
    bool *drop;              /* by position */
    struct compute *compute; /* the expression that the key becomes; NULL: none */
    size_t key;              /* where; `width`: behind the others */
};

/* The place of the rule's column among the listed ones; width when it is not listed. */
static size_t find_column(const struct merge_insert *insert, const char *column)
{
    for (size_t i = 0; i < insert->width; i++) {
        const ResTarget *item = list_nth(insert->when->targetList, (int)i);
        if (strcmp(item->name, column) == 0) {
            return i;
        }
    }
    return insert->width;
}

/* Without a column list: whether the values reach the column, and with something to object to. */
static bool supplies_by_position(const struct merge_insert *insert, const struct rule *rule)
{
    const size_t position = rule_column_index(rule, rule->column);
    for (int i = 0; i < list_length(insert->when->values); i++) {
        const Node *value = list_nth(insert->when->values, i);
        if (value_has_star(value)) {
            return true;
        }
        if ((size_t)i == position) {
            return !IsA(value, SetToDefault) || rule->reordered;
        }
    }
    return false;
}

static const char *obstacle_of(const struct merge_insert *insert, size_t position)
{
    const MergeWhenClause *when = insert->when;
    if (list_length(when->values) != list_length(when->targetList)) {
        return "it has not one value for each column";
    }
    for (int i = 0; i < list_length(when->values); i++) {
        if (value_has_star(list_nth(when->values, i))) {
            return "a * in its VALUES hides which value is the column's";
        }
    }
    const ResTarget *item = list_nth(when->targetList, (int)position);
    return item->indirection != NIL ? "it names the column in part" : NULL;
}

static void judge_rule(const struct merge_insert *insert, size_t index)
{
    const struct rule *rule = analysis_rule(insert->a, index, insert->stmt->relation);
    struct supply supply = {.statement = "MERGE"};
    if (insert->width == 0) {
        supply.obstacle = "its INSERT has no column list";
        if (supplies_by_position(insert, rule)) {
            analysis_supply(insert->a, index, &supply);
        }
        return;
    }
    const size_t position = find_column(insert, rule->column);
    if (position == insert->width) {
        return;
    }
    supply.obstacle = obstacle_of(insert, position);
    if (supply.obstacle == NULL &&
        IsA(list_nth(insert->when->values, (int)position), SetToDefault)) {
        return;
    }
    if (analysis_supply(insert->a, index, &supply)) {
        insert->drop[position] = true;
        params_keep_values(insert->a, rule, "MERGE",
                           lappend(NIL, list_nth(insert->when->values, (int)position)));
    }
}

/* Mode compute of rule `index`: whether the expression can stand among the values. */
static void judge_compute(struct merge_insert *insert, size_t index)
{
    struct analysis *a = insert->a;
    const struct rule *rule = rule_set_get(a->set, index);
    struct compute *compute = compute_of(a, rule);
    const char *obstacle = compute->obstacle;
    if (insert->width == 0) {
        obstacle = "its INSERT has no column list";
    } else if (insert->compute != NULL) {
        obstacle = "two rules compute columns of the table";
    }
    const size_t key = insert->width == 0 ? 0 : find_column(insert, rule->column);
    for (size_t i = 0; obstacle == NULL && i <= compute->source_count; i++) {
        const size_t at = i == compute->source_count
                              ? key
                              : find_column(insert, compute->sources[i].column->column);
        obstacle = obstacle_of(insert, at < insert->width ? at : 0);
    }
    struct supply supply = {.statement = "MERGE", .obstacle = obstacle};
    if (key < insert->width && !IsA(list_nth(insert->when->values, (int)key), SetToDefault) &&
        !analysis_supply(a, index, &supply)) {
        return;
    }
    if (a->definition != NULL) {
        obstacle = arena_printf(a->arena, "it is part of a %s", a->definition);
    }
    if (obstacle != NULL) {
        analysis_refuse_compute(
            a, rule, "MERGE", obstacle,
            "Write INSERT (columns) VALUES (...), with a column, a literal or a "
            "parameter for each column that the key is computed from.");
        return;
    }
    insert->compute = compute;
    insert->key = key;
}

/* The sources' values, from the tokens of the list. False when the statement was refused. */
static bool take_values(const struct merge_insert *insert, const size_t *firsts, size_t close)
{
    struct analysis *a = insert->a;
    for (size_t i = 0; i < insert->compute->source_count; i++) {
        struct compute_source *source = &insert->compute->sources[i];
        const size_t at = find_column(insert, source->column->column);
        Node *value = at < insert->width ? list_nth(insert->when->values, (int)at) : NULL;
        if (!compute_take(a, insert->compute, source, "MERGE", value, true, "")) {
            return false;
        }
        if (source->value != NULL) {
            const size_t last = at + 1 < insert->width ? firsts[at + 1] - 2 : close - 1;
            compute_place_value(a, source, firsts[at], last);
        }
    }
    return true;
}

/* Column list and values are the lists that open at `columns` and `values`. */
static void edit_compute(const struct merge_insert *insert, size_t columns, size_t values,
                         const size_t *firsts)
{
    struct analysis *a = insert->a;
    const struct token *items = analysis_tokens(a)->items;
    const char *column = insert->compute->rule->column;
    const size_t close = (size_t)items[values].match;
    if (!take_values(insert, firsts, close)) {
        return;
    }
    Node *computed = compute_tree(insert->compute);
    if (insert->key == insert->width) {
        const int list_end = items[items[columns].match].start;
        analysis_edit(a, list_end, list_end, arena_printf(a->arena, ", %s", quoted_name(column)));
        compute_edit(a, insert->compute, items[close].start, items[close].start, ", ");
        revision_note(a, &insert->when->targetList, (int)insert->width, 0,
                      lappend(NIL, revision_target(column, NULL)));
        revision_note(a, &insert->when->values, (int)insert->width, 0, lappend(NIL, computed));
        return;
    }
    Node *value = list_nth(insert->when->values, (int)insert->key);
    if (compute_is_there(a, computed, value)) {
        return;
    }
    const size_t last = insert->key + 1 < insert->width ? firsts[insert->key + 1] - 2 : close - 1;
    compute_edit(a, insert->compute, items[firsts[insert->key]].start, compute_token_end(a, last),
                 "");
    revision_note(a, &insert->when->values, (int)insert->key, 1, lappend(NIL, computed));
    params_keep_values(a, insert->compute->rule, "MERGE", lappend(NIL, value));
}

/* The value of the only column gives way to DEFAULT; else column and value go. */
static bool edit_lists(const struct merge_insert *insert)
{
    struct analysis *a = insert->a;
    const struct token_list *tokens = analysis_tokens(a);
    const ResTarget *first = linitial(insert->when->targetList);
    size_t *firsts = arena_alloc(a->arena, insert->width * sizeof *firsts);
    const bool drops_all = memchr(insert->drop, false, insert->width) == NULL;
    size_t at = token_at(tokens, first->location);
    if (at == tokens->count || at == 0 ||
        tokens_list(tokens, at - 1, firsts, insert->width) != insert->width) {
        return false;
    }
    if (!drops_all) {
        tokens_drop(a, at - 1, firsts, insert->drop, insert->width);
        revision_note_drops(a, &insert->when->targetList, insert->drop, insert->width);
        revision_note_drops(a, &insert->when->values, insert->drop, insert->width);
    }
    const size_t columns = at - 1;
    at = (size_t)tokens->items[at - 1].match;
    while (at < tokens->count && tokens->items[at].kind != TOKEN_VALUES) {
        at++;
    }
    at++;
    if (tokens_list(tokens, at, firsts, insert->width) != insert->width) {
        return false;
    }
    if (insert->compute != NULL) {
        edit_compute(insert, columns, at, firsts);
    }
    if (!drops_all) {
        tokens_drop(a, at, firsts, insert->drop, insert->width);
        return true;
    }
    for (size_t i = 0; i < insert->width; i++) {
        const size_t end =
            i + 1 < insert->width ? firsts[i + 1] - 1 : (size_t)tokens->items[at].match;
        analysis_edit(a, tokens->items[firsts[i]].start, tokens->items[end].start, "DEFAULT");
        revision_note(a, &insert->when->values, (int)i, 1, lappend(NIL, revision_default()));
    }
    return true;
}

static void judge_insert(struct analysis *a, const MergeStmt *stmt, MergeWhenClause *when)
{
    struct merge_insert insert = {
        .a = a, .stmt = stmt, .when = when, .width = (size_t)list_length(when->targetList)};
    const struct rule_target target = analysis_target(a, stmt->relation);
    const uint64_t rules = target.direct | target.like;
    const uint64_t computed = rule_set_in_mode(a->set, rules, RULE_MODE_COMPUTE);
    if (when->values == NIL && computed == 0) {
        return; /* DEFAULT VALUES */
    }
    dependent_judge(a, stmt->relation, when->targetList, "MERGE", false);
    insert.drop = arena_alloc(a->arena, insert.width * sizeof *insert.drop);
    memset(insert.drop, 0, insert.width * sizeof *insert.drop);
    for (uint64_t rest = rules & ~computed; rest != 0; rest &= rest - 1) {
        judge_rule(&insert, rule_first(rest));
    }
    for (uint64_t rest = computed; rest != 0; rest &= rest - 1) {
        judge_compute(&insert, rule_first(rest));
    }
    const bool is_edited =
        insert.compute != NULL || memchr(insert.drop, true, insert.width) != NULL;
    if (is_edited && !a->is_refused && !edit_lists(&insert)) {
        analysis_refuse_unfollowed(a, "MERGE");
    }
}

void merge_judge(struct analysis *a, MergeStmt *stmt)
{
    const struct rule_target target = analysis_target(a, stmt->relation);
    a->writes |= target.direct | target.dependents;
    for (int i = 0; i < list_length(stmt->mergeWhenClauses); i++) {
        MergeWhenClause *when = list_nth(stmt->mergeWhenClauses, i);
        if (when->commandType == CMD_INSERT) {
            judge_insert(a, stmt, when);
        } else if (when->commandType == CMD_UPDATE) {
            assign_judge(a, stmt->relation, &when->targetList, "MERGE");
        }
    }
}
