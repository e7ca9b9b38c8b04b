/*
 * MERGE into a guarded table: its inserts here, its updates as any SET list. Called by statement.c;
 * owns nothing.
 */
#include "rules/analysis.h"

#include <string.h>

/* One WHEN NOT MATCHED THEN INSERT. */
struct merge_insert {
    struct analysis *a;
    const MergeStmt *stmt;
    MergeWhenClause *when;
    size_t width; /* columns listed */
    bool *drop;   /* by position */
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
    at = (size_t)tokens->items[at - 1].match;
    while (at < tokens->count && tokens->items[at].kind != TOKEN_VALUES) {
        at++;
    }
    at++;
    if (tokens_list(tokens, at, firsts, insert->width) != insert->width) {
        return false;
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
    if (when->values == NIL) {
        return; /* DEFAULT VALUES */
    }
    dependent_judge(a, stmt->relation, when->targetList, "MERGE", false);
    insert.drop = arena_alloc(a->arena, insert.width * sizeof *insert.drop);
    memset(insert.drop, 0, insert.width * sizeof *insert.drop);
    const struct rule_target target = analysis_target(a, stmt->relation);
    uint64_t rules = target.direct | target.like;
    for (; rules != 0; rules &= rules - 1) {
        judge_rule(&insert, rule_first(rules));
    }
    const bool takes_out = memchr(insert.drop, true, insert.width) != NULL;
    if (takes_out && !a->is_refused && !edit_lists(&insert)) {
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
