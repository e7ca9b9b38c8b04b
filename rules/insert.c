/*
 * INSERT into a guarded table: what its column list, or the lack of one, says of the values, what
 * each rule makes of that, and the edits. Called by statement.c; owns nothing.
 */
#include "rules/insert.h"

#include <string.h>

#include "rules/compute.h"

static const char *column_name(const List *cols, size_t index)
{
    return ((const ResTarget *)list_nth(cols, (int)index))->name;
}

size_t insert_find_column(const struct insert *insert, const char *column)
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

/* DEFAULT in the column's place is no supply, but must go where it would end up in another column,
 * and where PostgreSQL before 14 refuses it: in several rows, for a generated column. */
static bool drops_default(const struct insert *insert, const struct rule *rule, bool is_moving)
{
    const bool is_multi_row = insert->bulk != NULL || list_length(insert->source->valuesLists) > 1;
    return is_moving || (is_multi_row && rule->mode == RULE_MODE_STRIP && insert->width > 1 &&
                         rule->shape == RULE_SHAPE_GENERATED && insert->a->definition == NULL);
}

const struct rule *insert_rule(const struct insert *insert, uint64_t rules)
{
    return analysis_rule(insert->a, rule_first(rules), insert->stmt->relation);
}

static void judge_rule(struct insert *insert, size_t index)
{
    struct analysis *a = insert->a;
    const struct rule *rule = analysis_rule(a, index, insert->stmt->relation);
    const size_t position = insert_find_column(insert, rule->column);
    const bool is_positional = insert->stmt->cols == NIL;
    const bool is_moving = is_positional && analysis_is_stabilised(a, rule);
    struct supply supply = {.statement = "INSERT"};
    if (position == insert->width) {
        insert->add_list |= is_moving && rule->reordered;
        return;
    }
    if (position > insert->width) {
        supply.obstacle = "it names the column more than once or in part";
        analysis_supply(a, index, &supply);
        return;
    }
    const bool supplies = insert->kind->supplies(insert, position, &supply);
    if (supplies && insert->kind == &insert_values) {
        compare_note_rows(insert, index, position, &supply);
    }
    if (supplies ? analysis_supply(a, index, &supply)
                 : supply.obstacle == NULL && drops_default(insert, rule, is_moving)) {
        insert->drop[position] = true;
        insert->add_list |= is_positional;
    }
}

bool insert_drops_all(const struct insert *insert)
{
    return memchr(insert->drop, false, insert->width * sizeof *insert->drop) == NULL;
}

static bool drops_any(const struct insert *insert)
{
    return memchr(insert->drop, true, insert->width * sizeof *insert->drop) != NULL;
}

/* Whether the expression is one more value than the client has. */
static bool adds_key(const struct insert *insert)
{
    return insert->compute != NULL && insert->key == insert->width;
}

/* The column list that a positional INSERT gets. */
static void add_list(const struct insert *insert, const struct token *behind_relation)
{
    const bool keep = insert_drops_all(insert);
    const char *list = "";
    List *columns = NIL;
    for (size_t i = 0; i < insert->width; i++) {
        if (keep || !insert->drop[i]) {
            list = arena_printf(insert->a->arena, "%s%s%s", list, columns == NIL ? "" : ", ",
                                quoted_name(insert->names[i]));
            columns = lappend(columns, revision_target(insert->names[i], NULL));
        }
    }
    if (adds_key(insert)) {
        const char *key = insert->compute->rule->column;
        list = arena_printf(insert->a->arena, "%s%s%s", list, columns == NIL ? "" : ", ",
                            quoted_name(key));
        columns = lappend(columns, revision_target(key, NULL));
    }
    analysis_edit(insert->a, behind_relation->start, behind_relation->start,
                  arena_printf(insert->a->arena, "(%s) ", list));
    revision_note(insert->a, &insert->stmt->cols, 0, 0, columns);
}

static bool edit_list(const struct insert *insert, size_t open)
{
    struct analysis *a = insert->a;
    size_t *firsts = arena_alloc(a->arena, insert->width * sizeof *firsts);
    if (tokens_list(&a->tokens, open, firsts, insert->width) != insert->width) {
        return false;
    }
    if (!insert_drops_all(insert)) {
        tokens_drop(a, open, firsts, insert->drop, insert->width);
        revision_note_drops(a, &insert->stmt->cols, insert->drop, insert->width);
    }
    if (adds_key(insert)) {
        const char *key = insert->compute->rule->column;
        const int close = a->tokens.items[a->tokens.items[open].match].start;
        analysis_edit(a, close, close, arena_printf(a->arena, ", %s", quoted_name(key)));
        revision_note(a, &insert->stmt->cols, (int)insert->width, 0,
                      lappend(NIL, revision_target(key, NULL)));
    }
    return true;
}

static bool edit_insert(const struct insert *insert)
{
    const struct token_list *tokens = analysis_tokens(insert->a);
    size_t at = tokens_after_relation(tokens, insert->stmt->relation);
    if (at >= tokens->count) {
        return false;
    }
    if (insert->add_list) {
        add_list(insert, &tokens->items[at]);
    } else if (insert->stmt->cols != NIL) {
        if (!edit_list(insert, at)) {
            return false;
        }
        at = (size_t)tokens->items[at].match + 1;
    }
    return (!drops_any(insert) || insert->kind->edit(insert, at)) &&
           (insert->compute == NULL || insert->kind->compute(insert, at));
}

static void refuse_for_all(struct analysis *a, uint64_t rules, const char *obstacle)
{
    for (; rules != 0; rules &= rules - 1) {
        struct supply supply = {.statement = "INSERT", .obstacle = obstacle};
        analysis_supply(a, rule_first(rules), &supply);
    }
}

/* Two rules with the same bare table name may guard tables whose columns differ. */
static bool agree_on_columns(const struct insert *insert)
{
    const struct rule *first = insert_rule(insert, insert->rules);
    for (uint64_t rules = insert->rules; rules != 0; rules &= rules - 1) {
        const struct rule *rule = insert_rule(insert, rules);
        if (rule->column_count < insert->width) {
            return false;
        }
        for (size_t i = 0; i < insert->width; i++) {
            if (strcmp(first->columns[i].name, rule->columns[i].name) != 0) {
                return false;
            }
        }
    }
    return true;
}

static bool names_a_column(const struct insert *insert)
{
    const List *cols = insert->stmt->cols;
    for (uint64_t rules = insert->rules; rules != 0; rules &= rules - 1) {
        const struct rule *rule = insert_rule(insert, rules);
        for (int i = 0; i < list_length(cols); i++) {
            if (strcmp(column_name(cols, (size_t)i), rule->column) == 0) {
                return true;
            }
        }
    }
    return false;
}

static void refuse_hidden(const struct insert *insert)
{
    struct analysis *a = insert->a;
    if (insert->stmt->cols == NIL || names_a_column(insert)) {
        refuse_for_all(a, insert->rules, "a * hides which of its values is the column's");
        return;
    }
    const uint64_t computed = rule_set_in_mode(a->set, insert->rules, RULE_MODE_COMPUTE);
    analysis_refuse_compute(a, rule_set_get(a->set, rule_first(computed)), "INSERT",
                            "a * hides what the key is computed from",
                            "Write the columns of the SELECT out.");
}

/* Names for the values of a row. False when there is nothing more to judge. */
static bool name_values(struct insert *insert)
{
    struct analysis *a = insert->a;
    const List *cols = insert->stmt->cols;
    const int width = insert->kind->width(insert->source);
    if (width == WIDTH_HIDDEN) {
        refuse_hidden(insert);
        return false;
    }
    insert->width = (size_t)width;
    if (width == WIDTH_UNEVEN || (cols != NIL && width != list_length(cols))) {
        return false; /* the server's error, whatever the table: 42601 */
    }
    if (cols == NIL && !agree_on_columns(insert)) {
        refuse_for_all(a, insert->rules,
                       "it has more values than pgsluice knows columns of the table");
        return false;
    }
    const struct rule *rule = insert_rule(insert, insert->rules);
    insert->names = arena_alloc(a->arena, insert->width * sizeof *insert->names);
    insert->drop = arena_alloc(a->arena, insert->width * sizeof *insert->drop);
    for (size_t i = 0; i < insert->width; i++) {
        insert->names[i] = cols == NIL ? rule->columns[i].name : column_name(cols, i);
        insert->drop[i] = false;
    }
    return true;
}

/* Only the first statement of a text is ever relieved of rows. */
static const struct bulk *bulk_of(const struct analysis *a, const InsertStmt *stmt)
{
    const RawStmt *first = linitial(a->statements);
    return first->stmt == (const Node *)stmt ? a->bulk : NULL;
}

static void judge_source(struct analysis *a, InsertStmt *stmt, uint64_t rules)
{
    struct insert insert = {
        .a = a, .stmt = stmt, .source = (SelectStmt *)stmt->selectStmt, .rules = rules};
    const bool is_values = insert.source->valuesLists != NIL && insert.source->op == SETOP_NONE;
    insert.kind = is_values ? &insert_values : &insert_select;
    insert.bulk = is_values ? bulk_of(a, stmt) : NULL;
    const uint64_t computed = rule_set_in_mode(a->set, rules, RULE_MODE_COMPUTE);
    if ((stmt->cols != NIL && computed == 0 && !names_a_column(&insert)) || !name_values(&insert)) {
        return;
    }
    for (uint64_t rest = rules & ~computed; rest != 0; rest &= rest - 1) {
        judge_rule(&insert, rule_first(rest));
    }
    for (uint64_t rest = computed; rest != 0; rest &= rest - 1) {
        insert_judge_compute(&insert, rule_first(rest));
    }
    if ((drops_any(&insert) || insert.add_list || insert.compute != NULL) && !a->is_refused &&
        !edit_insert(&insert)) {
        analysis_refuse_unfollowed(a, "INSERT");
    }
}

void insert_judge(struct analysis *a, InsertStmt *stmt)
{
    const struct rule_target target = analysis_target(a, stmt->relation);
    a->writes |= target.direct | target.dependents;
    stars_note_returning(a, stmt->relation, NIL, &stmt->returningList);
    if (stmt->selectStmt != NULL) {
        dependent_judge(a, stmt->relation, stmt->cols, "INSERT", false);
        const uint64_t rules = target.direct | target.like;
        if (rules != 0 && (stmt->cols != NIL || !analysis_refuse_unknown(a, rules, "INSERT"))) {
            judge_source(a, stmt, rules);
        }
    } else {
        insert_compute_defaults(a, stmt,
                                rule_set_in_mode(a->set, target.direct, RULE_MODE_COMPUTE));
    }
    if (stmt->onConflictClause != NULL) {
        assign_judge(a, stmt->relation, &stmt->onConflictClause->targetList, "INSERT ON CONFLICT");
    }
}
