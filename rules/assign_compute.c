/*
 * SET lists under mode compute: where the key or a column that it is computed from is assigned, the
 * key is set to the expression over the row as it will be. Called by assign.c; owns nothing.
 */
#include "rules/assign.h"

#include <string.h>

#include "rules/compute.h"

static size_t find_item(const struct assignment *set, const char *column)
{
    size_t i = 0;
    while (i < set->count && strcmp(assign_item(set, i)->name, column) != 0) {
        i++;
    }
    return i;
}

static bool assigns_source(const struct assignment *set, const struct compute *compute)
{
    for (size_t i = 0; i < compute->source_count; i++) {
        if (find_item(set, compute->sources[i].column->column) < set->count) {
            return true;
        }
    }
    return false;
}

static void refuse(const struct assignment *set, const struct compute *compute,
                   const char *obstacle)
{
    analysis_refuse_compute(
        set->a, compute->rule, set->statement, obstacle,
        "Assign a literal, a parameter or a column to each column that the key is "
        "computed from, and leave the key out.");
}

/* The value that a source will have. False when the statement was refused. */
static bool take_source(const struct assignment *set, struct compute *compute,
                        struct compute_source *source)
{
    struct analysis *a = set->a;
    const size_t at = find_item(set, source->column->column);
    if (at == set->count) {
        source->value = NULL;
        source->stored = assign_target_name(set->relation);
        return true;
    }
    const ResTarget *item = assign_item(set, at);
    const char *obstacle = assign_obstacle(set, item);
    if (obstacle != NULL) {
        refuse(set, compute, arena_printf(a->arena, "of \"%s\", %s", item->name, obstacle));
        return false;
    }
    if (!compute_take(a, compute, source, set->statement, assign_value(item), true, "")) {
        return false;
    }
    if (source->value != NULL) {
        size_t first, end;
        if (!assign_find_value(set, at, &first, &end)) {
            analysis_refuse_unfollowed(a, set->statement);
            return false;
        }
        compute_place_value(a, source, first, end - 1);
    }
    return true;
}

/* Another item behind the last one. */
static void add_item(const struct assignment *set, const struct compute *compute, Node *computed)
{
    struct analysis *a = set->a;
    const struct token_list *tokens = analysis_tokens(a);
    const ResTarget *last = assign_item(set, set->count - 1);
    size_t first = set->count - 1;
    if (IsA(last->val, MultiAssignRef)) {
        first -= (size_t)((const MultiAssignRef *)last->val)->colno - 1;
    }
    const int place = compute_token_end(a, tokens_item_end(tokens, set->firsts[first]) - 1);
    const char *column = compute->rule->column;
    compute_edit(a, compute, place, place, arena_printf(a->arena, ", %s = ", quoted_name(column)));
    revision_note(a, set->targets, (int)set->count, 0,
                  lappend(NIL, revision_target(column, computed)));
}

/* The item's value gives way. False when text and tree do not agree. */
static bool replace_value(const struct assignment *set, const struct compute *compute, size_t index,
                          Node *computed)
{
    struct analysis *a = set->a;
    const struct token_list *tokens = analysis_tokens(a);
    const ResTarget *item = assign_item(set, index);
    size_t first, end;
    if (!assign_find_value(set, index, &first, &end)) {
        return false;
    }
    compute_edit(a, compute, tokens->items[first].start, compute_token_end(a, end - 1), "");
    RowExpr *row = assign_row(item);
    if (row != NULL) {
        revision_note(a, &row->args, ((const MultiAssignRef *)item->val)->colno - 1, 1,
                      lappend(NIL, computed));
    } else {
        revision_note(a, set->targets, (int)index, 1,
                      lappend(NIL, revision_target(item->name, computed)));
    }
    return true;
}

/* The key as the client assigns it. False when the statement was refused. */
static bool judge_key(const struct assignment *set, size_t index, const ResTarget *item)
{
    struct supply supply = {
        .statement = set->statement, .is_update = true, .obstacle = assign_obstacle(set, item)};
    assign_compare(set, index, item, &supply);
    return analysis_supply(set->a, index, &supply);
}

void assign_compute(const struct assignment *set, size_t index)
{
    struct analysis *a = set->a;
    const struct rule *rule = rule_set_get(a->set, index);
    struct compute *compute = compute_of(a, rule);
    const size_t key = find_item(set, rule->column);
    if (key < set->count) {
        if (!judge_key(set, index, assign_item(set, key))) {
            return;
        }
    } else if (compute->obstacle == NULL && !assigns_source(set, compute)) {
        return;
    }
    if (compute->obstacle != NULL || a->definition != NULL) {
        refuse(set, compute,
               compute->obstacle != NULL
                   ? compute->obstacle
                   : arena_printf(a->arena, "it is part of a %s", a->definition));
        return;
    }
    if (!assign_find_items(set)) {
        analysis_refuse_unfollowed(a, set->statement);
        return;
    }
    for (size_t i = 0; i < compute->source_count; i++) {
        if (!take_source(set, compute, &compute->sources[i])) {
            return;
        }
    }
    Node *computed = compute_tree(compute);
    if (key == set->count) {
        add_item(set, compute, computed);
        return;
    }
    Node *value = assign_value(assign_item(set, key));
    if (compute_is_there(a, computed, value)) {
        return;
    }
    params_keep_values(a, rule, set->statement, lappend(NIL, value));
    if (!a->is_refused && !replace_value(set, compute, key, computed)) {
        analysis_refuse_unfollowed(a, set->statement);
    }
}
