/*
 * Values that are assigned: the SET lists of UPDATE, ON CONFLICT and MERGE, and writes through a
 * view or a child of a guarded table. Called by statement.c, insert.c, merge.c and utility.c; owns
 * nothing.
 */
#include "rules/assign.h"

#include <string.h>

#include "rules/compare.h"
#include "rules/compute.h"

ResTarget *assign_item(const struct assignment *set, size_t index)
{
    return list_nth(*set->targets, (int)index);
}

RowExpr *assign_row(const ResTarget *item)
{
    if (item->val == NULL || !IsA(item->val, MultiAssignRef)) {
        return NULL;
    }
    const MultiAssignRef *part = (const MultiAssignRef *)item->val;
    RowExpr *row = (RowExpr *)part->source;
    return IsA(row, RowExpr) && list_length(row->args) == part->ncolumns ? row : NULL;
}

Node *assign_value(const ResTarget *item)
{
    const RowExpr *row = assign_row(item);
    return row == NULL ? item->val
                       : list_nth(row->args, ((const MultiAssignRef *)item->val)->colno - 1);
}

const char *assign_target_name(const RangeVar *relation)
{
    return relation->alias != NULL ? relation->alias->aliasname : relation->relname;
}

/* DEFAULT is what a generated column may be set to. */
static bool is_harmless(const struct rule *rule, const Node *value)
{
    return rule->shape == RULE_SHAPE_GENERATED && value != NULL && IsA(value, SetToDefault);
}

const char *assign_obstacle(const struct assignment *set, const ResTarget *item)
{
    if (item->indirection != NIL) {
        return "it sets a part of the column";
    }
    for (size_t i = 0; i < set->count; i++) {
        if (assign_item(set, i) != item && strcmp(assign_item(set, i)->name, item->name) == 0) {
            return "it sets the column more than once";
        }
    }
    if (IsA(item->val, MultiAssignRef) && assign_row(item) == NULL) {
        return "the value comes from a sub-select";
    }
    return NULL;
}

void assign_compare(const struct assignment *set, size_t rule, const ResTarget *key,
                    struct supply *supply)
{
    const struct compare_rule *compares = analysis_compares(set->a, rule, set->relation);
    for (size_t i = 0; compares != NULL && i < set->count; i++) {
        const ResTarget *item = assign_item(set, i);
        if (strcmp(item->name, compares->evaluation.column) == 0 &&
            assign_obstacle(set, item) == NULL && assign_obstacle(set, key) == NULL) {
            compare_note_values(set->a, compares, assign_value(key), assign_value(item), supply);
        }
    }
}

/* True when there is something to take out. */
static bool judge_items(const struct assignment *set, uint64_t rules)
{
    bool takes_out = false;
    for (; rules != 0; rules &= rules - 1) {
        const struct rule *rule = analysis_rule(set->a, rule_first(rules), set->relation);
        for (size_t i = 0; i < set->count; i++) {
            const ResTarget *item = assign_item(set, i);
            if (strcmp(item->name, rule->column) != 0 || is_harmless(rule, assign_value(item))) {
                continue;
            }
            struct supply supply = {.statement = set->statement,
                                    .is_update = true,
                                    .obstacle = assign_obstacle(set, item)};
            assign_compare(set, rule_first(rules), item, &supply);
            if (analysis_supply(set->a, rule_first(rules), &supply)) {
                set->rules[i] = rule;
                takes_out = true;
            }
        }
    }
    return takes_out;
}

bool assign_find_items(const struct assignment *set)
{
    const struct token_list *tokens = analysis_tokens(set->a);
    for (size_t i = 0; i < set->count; i++) {
        const ResTarget *item = assign_item(set, i);
        size_t at = token_at(tokens, item->location);
        if (at == tokens->count || at == 0) {
            return false;
        }
        if (IsA(item->val, MultiAssignRef) && ((MultiAssignRef *)item->val)->colno == 1) {
            at--; /* its parenthesis */
        }
        set->firsts[i] = at;
    }
    return true;
}

/* A part of (a, b) = ROW (1, 2). */
static bool find_part(const struct assignment *set, size_t index, size_t *first, size_t *end)
{
    const struct token_list *tokens = analysis_tokens(set->a);
    const MultiAssignRef *part = (const MultiAssignRef *)assign_item(set, index)->val;
    const size_t width = (size_t)part->ncolumns, place = (size_t)part->colno - 1;
    const struct token *names = &tokens->items[set->firsts[index - place]];
    if (names->kind != TOKEN_OPEN) {
        return false;
    }
    size_t at = (size_t)names->match + 1;
    at += at < tokens->count && tokens->items[at].kind == TOKEN_EQUALS;
    at += at < tokens->count && tokens->items[at].kind == TOKEN_ROW;
    size_t *firsts = arena_alloc(set->a->arena, width * sizeof *firsts);
    if (tokens_list(tokens, at, firsts, width) != width) {
        return false;
    }
    *first = firsts[place];
    *end = place + 1 < width ? firsts[place + 1] - 1 : (size_t)tokens->items[at].match;
    return true;
}

bool assign_find_value(const struct assignment *set, size_t index, size_t *first, size_t *end)
{
    const struct token_list *tokens = analysis_tokens(set->a);
    if (assign_row(assign_item(set, index)) != NULL) {
        return find_part(set, index, first, end);
    }
    size_t at = set->firsts[index];
    while (at < tokens->count && tokens->items[at].kind != TOKEN_EQUALS) {
        at++;
    }
    if (at + 1 >= tokens->count) {
        return false;
    }
    *first = at + 1;
    *end = tokens_item_end(tokens, at + 1);
    return *end > *first;
}

/* A column that can be set to itself in the place of item `index`, in every shape that the table
 * may have by the time the server reads the text; NULL when there is none. */
static const char *neutral_column(const struct assignment *set, size_t index)
{
    const struct rule *rule = set->rules[index];
    for (size_t i = rule->column_count; i > 0; i--) {
        const struct rule_column *column = &rule->columns[i - 1];
        bool taken = column->source != COLUMN_GIVEN || strcmp(column->name, rule->column) == 0;
        for (size_t k = 0; k < set->count && !taken; k++) {
            taken = strcmp(assign_item(set, k)->name, column->name) == 0 ||
                    (set->neutrals[k] != NULL && strcmp(set->neutrals[k], column->name) == 0);
        }
        if (!taken) {
            return column->name;
        }
    }
    return NULL;
}

static const char *neutral_text(const struct assignment *set, const char *column)
{
    return arena_printf(set->a->arena, "%s.%s", quoted_name(assign_target_name(set->relation)),
                        quoted_name(column));
}

/* (a, b) = ROW (1, 2): another column, set to itself, takes the place of name and value. */
static bool neutralise_part(const struct assignment *set, size_t index)
{
    const struct token_list *tokens = analysis_tokens(set->a);
    const MultiAssignRef *part = (const MultiAssignRef *)assign_item(set, index)->val;
    const size_t place = (size_t)part->colno - 1;
    size_t first, end;
    if (!assign_find_value(set, index, &first, &end)) {
        return false;
    }
    const char *column = set->neutrals[index];
    const size_t name =
        set->firsts[index] + (place == 0); /* the first begins with the parenthesis */
    const size_t name_end = place + 1 == (size_t)part->ncolumns
                                ? (size_t)tokens->items[set->firsts[index - place]].match
                                : set->firsts[index + 1] - 1;
    analysis_edit(set->a, tokens->items[name].start, tokens->items[name_end].start,
                  quoted_name(column));
    analysis_edit(set->a, tokens->items[first].start, tokens->items[end].start,
                  neutral_text(set, column));
    revision_note(set->a, set->targets, (int)index, 1,
                  lappend(NIL, revision_target(column, assign_item(set, index)->val)));
    revision_note(set->a, &assign_row(assign_item(set, index))->args, (int)place, 1,
                  lappend(NIL, revision_column(assign_target_name(set->relation), column)));
    return true;
}

/* a = 1, and nothing else: another column is set to itself instead. */
static bool neutralise_item(const struct assignment *set, size_t index)
{
    const struct token_list *tokens = analysis_tokens(set->a);
    const char *column = set->neutrals[index];
    size_t first, end;
    if (!assign_find_value(set, index, &first, &end)) {
        return false;
    }
    const bool is_parted = end < tokens->count && tokens->items[end].kind == TOKEN_CLAUSE;
    analysis_edit(set->a, tokens->items[set->firsts[index]].start, tokens->items[end].start,
                  arena_printf(set->a->arena, "%s = %s%s", quoted_name(column),
                               neutral_text(set, column), is_parted ? " " : ""));
    revision_note(
        set->a, set->targets, (int)index, 1,
        lappend(NIL, revision_target(column,
                                     revision_column(assign_target_name(set->relation), column))));
    return true;
}

/* False when the statement was refused, because nothing can take an item's place. */
static bool choose_neutrals(const struct assignment *set)
{
    size_t taken_out = 0;
    for (size_t i = 0; i < set->count; i++) {
        taken_out += set->rules[i] != NULL && assign_row(assign_item(set, i)) == NULL;
    }
    for (size_t i = 0; i < set->count; i++) {
        bool stays = set->rules[i] != NULL &&
                     (assign_row(assign_item(set, i)) != NULL || taken_out == set->count);
        if (!stays) {
            continue;
        }
        set->neutrals[i] = neutral_column(set, i);
        if (set->neutrals[i] == NULL) {
            analysis_refuse_obstacle(set->a, set->rules[i], set->statement,
                                     "no other column could take its place");
            return false;
        }
    }
    return true;
}

static bool edit_items(const struct assignment *set)
{
    bool *drop = arena_alloc(set->a->arena, set->count * sizeof *drop);
    size_t dropped = 0;
    for (size_t i = 0; i < set->count; i++) {
        drop[i] = set->rules[i] != NULL && assign_row(assign_item(set, i)) == NULL;
        dropped += drop[i];
        if (set->rules[i] != NULL && !drop[i] && !neutralise_part(set, i)) {
            return false;
        }
    }
    if (dropped < set->count) {
        tokens_drop_items(set->a, set->firsts, drop, set->count);
        revision_note_drops(set->a, set->targets, drop, set->count);
        return true;
    }
    for (size_t i = 0; i < set->count; i++) {
        if (!neutralise_item(set, i)) {
            return false;
        }
    }
    return true;
}

static void keep_params(const struct assignment *set)
{
    List *values = NIL;
    const struct rule *rule = NULL;
    for (size_t i = 0; i < set->count; i++) {
        if (set->rules[i] != NULL) {
            values = lappend(values, assign_value(assign_item(set, i)));
            rule = set->rules[i];
        }
    }
    params_keep_values(set->a, rule, set->statement, values);
}

static void take_out(const struct assignment *set)
{
    struct analysis *a = set->a;
    keep_params(set);
    if (!a->is_refused && choose_neutrals(set) && (!assign_find_items(set) || !edit_items(set))) {
        analysis_refuse_unfollowed(a, set->statement);
    }
}

void assign_judge(struct analysis *a, const RangeVar *relation, List **targets,
                  const char *statement)
{
    struct assignment set = {.a = a,
                             .relation = relation,
                             .targets = targets,
                             .statement = statement,
                             .count = (size_t)list_length(*targets)};
    if (set.count == 0) {
        return; /* DO NOTHING */
    }
    dependent_judge(a, relation, *targets, statement, true);
    set.rules = arena_alloc(a->arena, set.count * sizeof *set.rules);
    set.firsts = arena_alloc(a->arena, set.count * sizeof *set.firsts);
    set.neutrals = arena_alloc(a->arena, set.count * sizeof *set.neutrals);
    for (size_t i = 0; i < set.count; i++) {
        set.rules[i] = NULL;
        set.neutrals[i] = NULL;
    }
    const struct rule_target target = analysis_target(a, relation);
    const uint64_t rules = target.direct | target.like;
    uint64_t computed = rule_set_in_mode(a->set, rules, RULE_MODE_COMPUTE);
    if (judge_items(&set, rules & ~computed) && !a->is_refused) {
        take_out(&set);
    }
    for (; computed != 0 && !a->is_refused; computed &= computed - 1) {
        assign_compute(&set, rule_first(computed));
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

/* Through a partition or child, which has the table's columns: a row would go without its key, or
 * keep the one of another value. What supplies the column itself is refused as in the other modes.
 */
static void refuse_uncomputed(struct analysis *a, const RangeVar *relation, const List *names,
                              const char *statement, bool is_update)
{
    uint64_t rules =
        rule_set_in_mode(a->set, analysis_target(a, relation).dependents, RULE_MODE_COMPUTE);
    for (; rules != 0; rules &= rules - 1) {
        const struct rule *rule = rule_set_get(a->set, rule_first(rules));
        const struct compute *compute = compute_of(a, rule);
        bool is_stale = !is_update || compute->obstacle != NULL;
        for (size_t i = 0; i < compute->source_count; i++) {
            is_stale |= lists_column(names, compute->sources[i].column->column);
        }
        const char *column = rule_set_dependent_column(a->set, rule_first(rules),
                                                       relation->schemaname, relation->relname);
        if (is_stale && !lists_column(names, column)) {
            analysis_refuse_compute(
                a, rule, statement,
                arena_printf(a->arena, "it writes through \"%s\"", relation->relname),
                arena_printf(a->arena, "Write to table \"%s\" itself.", rule->table));
        }
    }
}

void dependent_judge(struct analysis *a, const RangeVar *relation, const List *names,
                     const char *statement, bool is_update)
{
    const struct rule_target target = analysis_target(a, relation);
    refuse_uncomputed(a, relation, names, statement, is_update);
    for (uint64_t rest = target.dependent; rest != 0; rest &= rest - 1) {
        const size_t index = rule_first(rest);
        const struct rule *rule = rule_set_get(a->set, index);
        const char *column =
            rule_set_dependent_column(a->set, index, relation->schemaname, relation->relname);
        /* A generated column is guarded by the server on every road. */
        if (rule->shape == RULE_SHAPE_GENERATED || !lists_column(names, column)) {
            continue;
        }
        struct supply supply = {.statement = statement, .is_update = is_update};
        if (column == NULL) {
            supply.is_guess = true;
            supply.obstacle = arena_printf(
                a->arena,
                "through \"%s\" it may write the column, by a rule, a trigger or otherwise",
                relation->relname);
            supply.hint =
                arena_printf(a->arena, "Write to table \"%s.%s\" itself, and leave the column out.",
                             rule->schema, rule->table);
        } else {
            supply.obstacle =
                arena_printf(a->arena, "nothing computes the column for \"%s\"", relation->relname);
            supply.hint = arena_printf(
                a->arena, "Write to table \"%s.%s\" itself, or name all columns but this one.",
                rule->schema, rule->table);
        }
        analysis_supply(a, index, &supply);
    }
}
