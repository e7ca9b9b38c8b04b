/*
 * Values that travel another way than INSERT's rows: SET lists of UPDATE, ON CONFLICT and MERGE,
 * MERGE's inserts, and writes through a view or a child of a guarded table. Called by statement.c,
 * insert.c and utility.c; owns nothing.
 */
#include <string.h>

#include "rules/analysis.h"

static const char not_rewritten[] = "only the VALUES of an INSERT are";

/* (a, b) = ROW(1, DEFAULT) is as good as b = DEFAULT. */
static bool sets_default(const ResTarget *target)
{
    const Node *value = target->val;
    if (value != NULL && IsA(value, MultiAssignRef)) {
        const MultiAssignRef *part = (const MultiAssignRef *)value;
        value = part->source;
        if (IsA(value, RowExpr) && part->colno <= list_length(((const RowExpr *)value)->args)) {
            value = list_nth(((const RowExpr *)value)->args, part->colno - 1);
        }
    }
    return value != NULL && IsA(value, SetToDefault);
}

void assign_judge(struct analysis *a, const RangeVar *relation, const List *targets,
                  const char *statement)
{
    const struct rule_target target = analysis_target(a, relation);
    if (targets == NIL) {
        return; /* DO NOTHING */
    }
    dependent_judge(a, relation, targets, statement, true);
    for (uint64_t rest = target.direct; rest != 0; rest &= rest - 1) {
        const struct rule *rule = rule_set_get(a->set, rule_first(rest));
        for (int i = 0; i < list_length(targets); i++) {
            const ResTarget *item = list_nth(targets, i);
            if (strcmp(item->name, rule->column) != 0 ||
                (rule->shape == RULE_SHAPE_GENERATED && sets_default(item))) {
                continue;
            }
            struct supply supply = {
                .statement = statement, .is_update = true, .obstacle = not_rewritten};
            analysis_supply(a, rule_first(rest), &supply);
        }
    }
}

static const char *listed_name(const Node *item)
{
    return IsA(item, ResTarget) ? ((const ResTarget *)item)->name : strVal(item);
}

/* No list is a list of all columns; a column whose name is not known may be any of them. */
static bool lists_column(const List *names, const char *column)
{
    if (names == NIL || column == NULL) {
        return true;
    }
    for (int i = 0; i < list_length(names); i++) {
        if (strcmp(listed_name(list_nth(names, i)), column) == 0) {
            return true;
        }
    }
    return false;
}

void dependent_judge(struct analysis *a, const RangeVar *relation, const List *names,
                     const char *statement, bool is_update)
{
    const struct rule_target target = analysis_target(a, relation);
    for (uint64_t rest = target.dependent; rest != 0; rest &= rest - 1) {
        const size_t index = rule_first(rest);
        const struct rule *rule = rule_set_get(a->set, index);
        const char *column =
            rule_set_dependent_column(a->set, index, relation->schemaname, relation->relname);
        /* A generated column is guarded by the server on every road. */
        if (rule->shape == RULE_SHAPE_GENERATED || !lists_column(names, column)) {
            continue;
        }
        struct supply supply = {
            .statement = statement,
            .is_update = is_update,
            .obstacle = arena_printf(a->arena, "it writes through \"%s\"", relation->relname),
        };
        analysis_supply(a, index, &supply);
    }
}

/* The value for `column` among those of MERGE's INSERT; NULL when there is none. */
static const Node *merge_value(const MergeWhenClause *when, const struct rule *rule)
{
    int position = (int)rule_column_index(rule, rule->column);
    if (when->targetList != NIL) {
        position = 0;
        while (position < list_length(when->targetList) &&
               strcmp(listed_name(list_nth(when->targetList, position)), rule->column) != 0) {
            position++;
        }
        if (position == list_length(when->targetList)) {
            return NULL;
        }
    }
    for (int i = 0; i < list_length(when->values); i++) {
        const Node *value = list_nth(when->values, i);
        if (i == position || value_has_star(value)) {
            return value;
        }
    }
    return NULL;
}

static void judge_merge_insert(struct analysis *a, const MergeStmt *stmt,
                               const MergeWhenClause *when)
{
    const struct rule_target target = analysis_target(a, stmt->relation);
    if (when->values == NIL) {
        return; /* DEFAULT VALUES */
    }
    dependent_judge(a, stmt->relation, when->targetList, "MERGE", false);
    for (uint64_t rest = target.direct; rest != 0; rest &= rest - 1) {
        const struct rule *rule = rule_set_get(a->set, rule_first(rest));
        const Node *value = merge_value(when, rule);
        const bool is_misplaced = when->targetList == NIL && rule->reordered;
        if (value == NULL || (IsA(value, SetToDefault) && !is_misplaced)) {
            continue;
        }
        struct supply supply = {.statement = "MERGE", .obstacle = not_rewritten};
        analysis_supply(a, rule_first(rest), &supply);
    }
}

void merge_judge(struct analysis *a, const MergeStmt *stmt)
{
    const struct rule_target target = analysis_target(a, stmt->relation);
    a->writes |= target.direct | target.dependents;
    for (int i = 0; i < list_length(stmt->mergeWhenClauses); i++) {
        const MergeWhenClause *when = list_nth(stmt->mergeWhenClauses, i);
        if (when->commandType == CMD_INSERT) {
            judge_merge_insert(a, stmt, when);
        } else if (when->commandType == CMD_UPDATE) {
            assign_judge(a, stmt->relation, when->targetList, "MERGE");
        }
    }
}
