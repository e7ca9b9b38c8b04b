/*
 * INSERT under mode compute: the expression over each row's own values takes the key's place, or is
 * added where the client left the key out. Called by insert.c and its two kinds of source; owns
 * nothing.
 */
#include "rules/compute.h"
#include "rules/insert.h"

static const char write_values[] =
    "Write INSERT INTO table (columns) VALUES (...) or SELECT a plain list, with a literal, a "
    "parameter or a column for each column that the key is computed from.";

static const char *obstacle_of(struct insert *insert, const struct compute *compute)
{
    if (insert->width == 0) {
        return "its SELECT gives nothing";
    }
    if (insert->compute != NULL) {
        return "two rules compute columns of the table";
    }
    if (insert->a->definition != NULL) {
        return arena_printf(insert->a->arena, "it is part of a %s", insert->a->definition);
    }
    for (size_t i = 0; i < compute->source_count; i++) {
        const char *column = compute->sources[i].column->column;
        if (insert_find_column(insert, column) > insert->width) {
            return arena_printf(insert->a->arena, "it names \"%s\" more than once or in part",
                                column);
        }
    }
    return insert->kind->obstacle(insert);
}

void insert_judge_compute(struct insert *insert, size_t index)
{
    struct analysis *a = insert->a;
    const struct rule *rule = rule_set_get(a->set, index);
    struct compute *compute = compute_of(a, rule);
    const size_t key = insert_find_column(insert, rule->column);
    struct supply supply = {.statement = "INSERT"};
    if (key > insert->width) {
        supply.obstacle = "it names the column more than once or in part";
        analysis_supply(a, index, &supply);
        return;
    }
    if (key < insert->width && insert->kind->supplies(insert, key, &supply)) {
        supply.obstacle = NULL; /* of taking it out */
        if (insert->kind == &insert_values) {
            compare_note_rows(insert, index, key, &supply);
        }
        if (!analysis_supply(a, index, &supply)) {
            return;
        }
    }
    const char *obstacle =
        compute->obstacle != NULL ? compute->obstacle : obstacle_of(insert, compute);
    if (obstacle != NULL) {
        analysis_refuse_compute(a, rule, "INSERT", obstacle, write_values);
        return;
    }
    insert->compute = compute;
    insert->key = key;
    insert->add_list |=
        insert->stmt->cols == NIL &&
        (key == insert->width || (rule->reordered && analysis_is_stabilised(a, rule)));
}

/* False when the statement was refused. */
static bool take_values(const struct insert *insert, const List *values, int row,
                        const size_t *firsts, const size_t *lasts)
{
    struct analysis *a = insert->a;
    const char *where = row == 0 ? "" : arena_printf(a->arena, " in row %d", row);
    for (size_t i = 0; i < insert->compute->source_count; i++) {
        struct compute_source *source = &insert->compute->sources[i];
        const size_t at = insert_find_column(insert, source->column->column);
        Node *value = at < insert->width ? list_nth(values, (int)at) : NULL;
        if (value != NULL && IsA(value, ResTarget)) {
            value = ((ResTarget *)value)->val;
        }
        if (!compute_take(a, insert->compute, source, "INSERT", value, row == 0, where)) {
            return false;
        }
        if (source->value != NULL) {
            compute_place_value(a, source, firsts[at], lasts[at]);
        }
    }
    return true;
}

/* The key's value gives way. False when there is nothing to replace, or the statement was refused.
 */
static bool replace_key(const struct insert *insert, List **values, Node *computed,
                        const size_t *firsts, const size_t *lasts)
{
    struct analysis *a = insert->a;
    const size_t key = insert->key;
    const Node *present = list_nth(*values, (int)key);
    const ResTarget *item = IsA(present, ResTarget) ? (const ResTarget *)present : NULL;
    if (compute_is_there(a, computed, item == NULL ? present : item->val)) {
        return false;
    }
    if (item != NULL && !insert_select_is_plain(item->val)) {
        analysis_refuse_compute(a, insert->compute->rule, "INSERT",
                                "the key comes from more than a plain expression",
                                "Leave the key out of the statement.");
        return false;
    }
    compute_edit(a, insert->compute, a->tokens.items[firsts[key]].start,
                 compute_token_end(a, lasts[key]), "");
    Node *node = item == NULL ? computed : (Node *)revision_target(item->name, computed);
    revision_note(a, values, (int)key, 1, lappend(NIL, node));
    return true;
}

bool insert_compute_row(const struct insert *insert, List **list, int row, const size_t *firsts,
                        const size_t *lasts, int behind)
{
    struct analysis *a = insert->a;
    const bool is_select = list == NULL;
    List **values = is_select ? &insert->source->targetList : list;
    if (!take_values(insert, *values, row, firsts, lasts)) {
        return false;
    }
    Node *computed = compute_tree(insert->compute);
    if (insert->key < insert->width) {
        return replace_key(insert, values, computed, firsts, lasts);
    }
    compute_edit(a, insert->compute, behind, behind, ", ");
    Node *node = is_select ? (Node *)revision_target(NULL, computed) : computed;
    revision_note(a, values, (int)insert->width, 0, lappend(NIL, node));
    return false;
}

void insert_compute_defaults(struct analysis *a, InsertStmt *stmt, uint64_t rules)
{
    for (; rules != 0 && !a->is_refused; rules &= rules - 1) {
        const struct rule *rule = rule_set_get(a->set, rule_first(rules));
        struct compute *compute = compute_of(a, rule);
        const struct token_list *tokens = analysis_tokens(a);
        const size_t at = tokens_after_relation(tokens, stmt->relation);
        if (compute->obstacle != NULL || a->definition != NULL || (rules & (rules - 1)) != 0) {
            analysis_refuse_compute(a, rule, "INSERT", "it has nothing but default values",
                                    write_values);
            return;
        }
        for (size_t i = 0; i < compute->source_count; i++) {
            if (!compute_take(a, compute, &compute->sources[i], "INSERT", NULL, false, "")) {
                return;
            }
        }
        if (at + 1 >= tokens->count) {
            analysis_refuse_unfollowed(a, "INSERT");
            return;
        }
        compute_edit(a, compute, tokens->items[at].start, compute_token_end(a, at + 1),
                     arena_printf(a->arena, "(%s) VALUES (", quoted_name(rule->column)));
        analysis_edit(a, compute_token_end(a, at + 1), compute_token_end(a, at + 1), ")");
        SelectStmt *source = (SelectStmt *)revision_values(compute_tree(compute));
        revision_note_node(a, &stmt->selectStmt, (Node *)source);
        revision_note(a, &stmt->cols, 0, 0, lappend(NIL, revision_target(rule->column, NULL)));
    }
}
