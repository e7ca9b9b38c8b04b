/*
 * The query of INSERT ... SELECT: an item of a plain target list can be taken out of it, as long as
 * the number of rows does not depend on it. Called by insert.c; owns nothing.
 */
#include "rules/compute.h"
#include "rules/insert.h"

#include <string.h>

static int width(const SelectStmt *source)
{
    while (source->op != SETOP_NONE) {
        source = source->larg;
    }
    if (source->valuesLists != NIL) {
        return insert_values.width(source);
    }
    for (int i = 0; i < list_length(source->targetList); i++) {
        if (value_has_star(((const ResTarget *)list_nth(source->targetList, i))->val)) {
            return WIDTH_HIDDEN;
        }
    }
    return list_length(source->targetList);
}

/* The functions that clients compute a key with; others may return sets. */
static bool is_known_function(const FuncCall *call)
{
    static const char *const names[] = {"abs", "hashtext", "hashtextextended", "mod"};
    const char *name = strVal(llast(call->funcname));
    if (list_length(call->funcname) > 1 &&
        strcmp(strVal(linitial(call->funcname)), "pg_catalog") != 0) {
        return false;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* Goes on only below nodes that neither change the number of rows nor do anything. */
static bool visit(Node *node, void *context)
{
    bool *is_plain = context;
    switch ((int)nodeTag(node)) {
    case T_ColumnRef:
    case T_List:
    case T_ParamRef:
    case T_String:
    case T_Integer:
    case T_TypeCast:
    case T_TypeName:
        break;
    case T_A_Expr:
        *is_plain &= ((A_Expr *)node)->kind == AEXPR_OP;
        break;
    case T_FuncCall:
        *is_plain &= is_known_function((FuncCall *)node);
        break;
    default:
        *is_plain = false;
        break;
    }
    return *is_plain;
}

bool insert_select_is_plain(Node *value)
{
    bool is_plain = true;
    struct sql_walk walk = {.visit = visit, .context = &is_plain};
    statement_walk(value, &walk);
    return is_plain && !walk.is_cut_short;
}

/* ORDER BY 2, and ORDER BY a name that may be an item's, are read against the target list. */
static bool sorts_by_items(const SelectStmt *source)
{
    for (int i = 0; i < list_length(source->sortClause); i++) {
        const Node *key = ((const SortBy *)list_nth(source->sortClause, i))->node;
        if (IsA(key, A_Const) ||
            (IsA(key, ColumnRef) && list_length(((const ColumnRef *)key)->fields) == 1)) {
            return true;
        }
    }
    return false;
}

static const char *obstacle(const struct insert *insert)
{
    const SelectStmt *source = insert->source;
    if (source->op != SETOP_NONE || source->distinctClause != NIL || source->groupClause != NIL ||
        source->havingClause != NULL || source->intoClause != NULL) {
        return "its SELECT is more than a plain list";
    }
    if (sorts_by_items(source)) {
        return "its SELECT is sorted by one of its items";
    }
    return NULL;
}

static const char *obstacle_of(const struct insert *insert, size_t position)
{
    const char *of_select = obstacle(insert);
    if (of_select != NULL) {
        return of_select;
    }
    if (insert->width == 1) {
        return "its SELECT gives nothing else";
    }
    ResTarget *item = list_nth(insert->source->targetList, (int)position);
    return insert_select_is_plain(item->val) ? NULL
                                             : "the value comes from more than a plain expression";
}

static bool supplies(const struct insert *insert, size_t position, struct supply *supply)
{
    supply->obstacle = obstacle_of(insert, position);
    return true;
}

static bool find_items(const struct insert *insert, size_t *firsts)
{
    const struct token_list *tokens = &insert->a->tokens;
    for (size_t i = 0; i < insert->width; i++) {
        const ResTarget *item = list_nth(insert->source->targetList, (int)i);
        firsts[i] = token_at(tokens, item->location);
        if (firsts[i] == tokens->count) {
            return false;
        }
    }
    return true;
}

static bool edit(const struct insert *insert, size_t at)
{
    (void)at;
    struct analysis *a = insert->a;
    size_t *firsts = arena_alloc(a->arena, insert->width * sizeof *firsts);
    List *values = NIL;
    if (!find_items(insert, firsts)) {
        return false;
    }
    for (size_t i = 0; i < insert->width; i++) {
        if (insert->drop[i]) {
            values =
                lappend(values, ((ResTarget *)list_nth(insert->source->targetList, (int)i))->val);
        }
    }
    tokens_drop_items(a, firsts, insert->drop, insert->width);
    revision_note_drops(a, &insert->source->targetList, insert->drop, insert->width);
    params_keep_values(a, insert_rule(insert, insert->rules), "INSERT", values);
    return true;
}

/* The last token of an item's value: before AS and a name, or a name alone. */
static size_t last_of(const struct token_list *tokens, const ResTarget *item, size_t first,
                      size_t end)
{
    if (item->name == NULL) {
        return end - 1;
    }
    for (size_t at = first; at < end; at++) {
        if (tokens->items[at].kind == TOKEN_OPEN) {
            at = (size_t)tokens->items[at].match;
        } else if (tokens->items[at].kind == TOKEN_AS) {
            return at - 1;
        }
    }
    return end - 2;
}

static bool compute(const struct insert *insert, size_t at)
{
    (void)at;
    struct analysis *a = insert->a;
    size_t *firsts = arena_alloc(a->arena, insert->width * sizeof *firsts);
    size_t *lasts = arena_alloc(a->arena, insert->width * sizeof *lasts);
    if (!find_items(insert, firsts)) {
        return false;
    }
    List *values = NIL;
    for (size_t i = 0; i < insert->width; i++) {
        const ResTarget *item = list_nth(insert->source->targetList, (int)i);
        const size_t end =
            i + 1 < insert->width ? firsts[i + 1] - 1 : tokens_item_end(&a->tokens, firsts[i]);
        lasts[i] = last_of(&a->tokens, item, firsts[i], end);
        values = lappend(values, item->val);
        if (lasts[i] < firsts[i] || lasts[i] >= a->tokens.count) {
            return false;
        }
    }
    const size_t end = tokens_item_end(&a->tokens, firsts[insert->width - 1]);
    if (insert_compute_row(insert, NULL, 0, firsts, lasts, compute_token_end(a, end - 1))) {
        params_keep_values(a, insert->compute->rule, "INSERT",
                           lappend(NIL, list_nth(values, (int)insert->key)));
    }
    return true;
}

const struct insert_source insert_select = {width, supplies, edit, obstacle, compute};
