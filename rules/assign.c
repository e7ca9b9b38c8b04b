/*
 * Values that are assigned: the SET lists of UPDATE, ON CONFLICT and MERGE, and writes through a
 * view or a child of a guarded table. Called by statement.c, insert.c, merge.c and utility.c; owns
 * nothing.
 */
#include "rules/analysis.h"

#include <string.h>

/* A SET list. Its items are ResTargets; those of (a, b) = (1, 2) are told by a MultiAssignRef each.
 */
struct assignment {
    struct analysis *a;
    const RangeVar *relation;
    List **targets;
    const char *statement;
    size_t count;
    const struct rule **rules; /* by item: whose column it sets and is to set no more; or NULL */
    size_t *firsts;            /* by item: its first token */
};

static ResTarget *item_at(const struct assignment *set, size_t index)
{
    return list_nth(*set->targets, (int)index);
}

/* The ROW that a part of a multiple assignment comes from; NULL when it comes from elsewhere. */
static RowExpr *row_of(const ResTarget *item)
{
    if (item->val == NULL || !IsA(item->val, MultiAssignRef)) {
        return NULL;
    }
    const MultiAssignRef *part = (const MultiAssignRef *)item->val;
    RowExpr *row = (RowExpr *)part->source;
    return IsA(row, RowExpr) && list_length(row->args) == part->ncolumns ? row : NULL;
}

static Node *value_of(const ResTarget *item)
{
    const RowExpr *row = row_of(item);
    return row == NULL ? item->val
                       : list_nth(row->args, ((const MultiAssignRef *)item->val)->colno - 1);
}

static const char *target_name(const RangeVar *relation)
{
    return relation->alias != NULL ? relation->alias->aliasname : relation->relname;
}

/* chunks.partition_key, which says: as it is. */
static bool is_itself(const Node *value, const RangeVar *relation, const char *column)
{
    if (value == NULL || !IsA(value, ColumnRef)) {
        return false;
    }
    const List *fields = ((const ColumnRef *)value)->fields;
    return list_length(fields) == 2 && IsA(llast(fields), String) &&
           strcmp(strVal(linitial(fields)), target_name(relation)) == 0 &&
           strcmp(strVal(llast(fields)), column) == 0;
}

/* A generated column takes DEFAULT. A plain one would store it, since its trigger may be there for
 * INSERT only; it takes itself. */
static bool is_harmless(const struct assignment *set, const struct rule *rule, const Node *value)
{
    if (rule->shape == RULE_SHAPE_GENERATED) {
        return value != NULL && IsA(value, SetToDefault);
    }
    return rule->mode == RULE_MODE_STRIP && is_itself(value, set->relation, rule->column);
}

static const char *obstacle_of(const struct assignment *set, const ResTarget *item)
{
    if (item->indirection != NIL) {
        return "it sets a part of the column";
    }
    for (size_t i = 0; i < set->count; i++) {
        if (item_at(set, i) != item && strcmp(item_at(set, i)->name, item->name) == 0) {
            return "it sets the column more than once";
        }
    }
    if (IsA(item->val, MultiAssignRef) && row_of(item) == NULL) {
        return "the value comes from a sub-select";
    }
    return NULL;
}

/* True when there is something to take out. */
static bool judge_items(const struct assignment *set, uint64_t rules)
{
    bool takes_out = false;
    for (; rules != 0; rules &= rules - 1) {
        const struct rule *rule = rule_set_get(set->a->set, rule_first(rules));
        for (size_t i = 0; i < set->count; i++) {
            const ResTarget *item = item_at(set, i);
            if (strcmp(item->name, rule->column) != 0 || is_harmless(set, rule, value_of(item))) {
                continue;
            }
            struct supply supply = {
                .statement = set->statement, .is_update = true, .obstacle = obstacle_of(set, item)};
            if (analysis_supply(set->a, rule_first(rules), &supply)) {
                set->rules[i] = rule;
                takes_out = true;
            }
        }
    }
    return takes_out;
}

/* False when text and tree do not agree. */
static bool find_items(const struct assignment *set)
{
    const struct token_list *tokens = analysis_tokens(set->a);
    for (size_t i = 0; i < set->count; i++) {
        const ResTarget *item = item_at(set, i);
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

/* What a column is set to that is to stay as the server computes it. */
static const char *neutral_text(const struct assignment *set, const struct rule *rule)
{
    return rule->shape == RULE_SHAPE_GENERATED
               ? "DEFAULT"
               : arena_printf(set->a->arena, "%s.%s", quoted_name(target_name(set->relation)),
                              quoted_name(rule->column));
}

static Node *neutral_value(const struct assignment *set, const struct rule *rule)
{
    return rule->shape == RULE_SHAPE_GENERATED
               ? revision_default()
               : revision_column(target_name(set->relation), rule->column);
}

/* (a, b) = ROW (1, 2): the value gives way in its place. */
static bool neutralise_part(const struct assignment *set, size_t index)
{
    const struct token_list *tokens = analysis_tokens(set->a);
    const MultiAssignRef *part = (const MultiAssignRef *)item_at(set, index)->val;
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
    const size_t end = place + 1 < width ? firsts[place + 1] - 1 : (size_t)tokens->items[at].match;
    analysis_edit(set->a, tokens->items[firsts[place]].start, tokens->items[end].start,
                  neutral_text(set, set->rules[index]));
    revision_note(set->a, &row_of(item_at(set, index))->args, (int)place, 1,
                  lappend(NIL, neutral_value(set, set->rules[index])));
    return true;
}

/* a = 1: the value gives way in its place. */
static bool neutralise_item(const struct assignment *set, size_t index)
{
    const struct token_list *tokens = analysis_tokens(set->a);
    size_t at = set->firsts[index];
    while (at < tokens->count && tokens->items[at].kind != TOKEN_EQUALS) {
        at++;
    }
    if (at + 1 >= tokens->count) {
        return false;
    }
    const size_t end = tokens_item_end(tokens, at + 1);
    const bool is_parted = end < tokens->count && tokens->items[end].kind == TOKEN_CLAUSE;
    analysis_edit(set->a, tokens->items[at + 1].start, tokens->items[end].start,
                  arena_printf(set->a->arena, "%s%s", neutral_text(set, set->rules[index]),
                               is_parted ? " " : ""));
    revision_note(set->a, set->targets, (int)index, 1,
                  lappend(NIL, revision_target(item_at(set, index)->name,
                                               neutral_value(set, set->rules[index]))));
    return true;
}

static bool edit_items(const struct assignment *set)
{
    bool *drop = arena_alloc(set->a->arena, set->count * sizeof *drop);
    size_t dropped = 0;
    for (size_t i = 0; i < set->count; i++) {
        drop[i] = set->rules[i] != NULL && row_of(item_at(set, i)) == NULL;
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
            values = lappend(values, value_of(item_at(set, i)));
            rule = set->rules[i];
        }
    }
    params_keep_values(set->a, rule, set->statement, values);
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
    for (size_t i = 0; i < set.count; i++) {
        set.rules[i] = NULL;
    }
    if (!judge_items(&set, analysis_target(a, relation).direct) || a->is_refused) {
        return;
    }
    keep_params(&set);
    if (!a->is_refused && (!find_items(&set) || !edit_items(&set))) {
        analysis_refuse_unfollowed(a, statement);
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
