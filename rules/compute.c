/*
 * The expression of mode compute as a template: parsed as the configuration has it, with its column
 * references found in text and tree; see compute.h. Owns nothing.
 */
#include "rules/compute.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

struct compute_place {
    int from, to; /* of the reference in the text */
    size_t source;
};

/* A pass over the expression's tree; `on_column` may put another node in the reference's place. */
struct pass {
    struct analysis *a;
    struct compute *compute;
    bool (*on_column)(struct pass *pass, Node **place);
    int depth;
};

enum { EXPRESSION_DEPTH_MAX = 200 };

static bool pass_node(struct pass *pass, Node **place);

static bool pass_list(struct pass *pass, List *list)
{
    for (int i = 0; i < list_length(list); i++) {
        if (!pass_node(pass, (Node **)&list_nth_cell(list, i)->ptr_value)) {
            return false;
        }
    }
    return true;
}

static bool pass_function(struct pass *pass, FuncCall *call)
{
    const bool is_plain = call->agg_order == NIL && call->agg_filter == NULL &&
                          call->over == NULL && !call->agg_within_group && !call->agg_star &&
                          !call->agg_distinct;
    return is_plain && pass_list(pass, call->args);
}

static bool pass_case(struct pass *pass, CaseExpr *expr)
{
    for (int i = 0; i < list_length(expr->args); i++) {
        CaseWhen *when = list_nth(expr->args, i);
        if (!pass_node(pass, (Node **)&when->expr) || !pass_node(pass, (Node **)&when->result)) {
            return false;
        }
    }
    return pass_node(pass, (Node **)&expr->arg) && pass_node(pass, (Node **)&expr->defresult);
}

/* Only nodes that keep all their parts in known places, and look at one row. */
static bool pass_children(struct pass *pass, Node *node)
{
    switch ((int)nodeTag(node)) {
    case T_A_Const:
        return true;
    case T_A_Expr:
        return pass_node(pass, &((A_Expr *)node)->lexpr) &&
               pass_node(pass, &((A_Expr *)node)->rexpr);
    case T_BoolExpr:
        return pass_list(pass, ((BoolExpr *)node)->args);
    case T_CaseExpr:
        return pass_case(pass, (CaseExpr *)node);
    case T_CoalesceExpr:
        return pass_list(pass, ((CoalesceExpr *)node)->args);
    case T_CollateClause:
        return pass_node(pass, &((CollateClause *)node)->arg);
    case T_FuncCall:
        return pass_function(pass, (FuncCall *)node);
    case T_List:
        return pass_list(pass, (List *)node);
    case T_MinMaxExpr:
        return pass_list(pass, ((MinMaxExpr *)node)->args);
    case T_NullTest:
        return pass_node(pass, (Node **)&((NullTest *)node)->arg);
    case T_TypeCast:
        return pass_node(pass, &((TypeCast *)node)->arg);
    default:
        return false;
    }
}

static bool pass_node(struct pass *pass, Node **place)
{
    if (*place == NULL) {
        return true;
    }
    if (IsA(*place, ColumnRef)) {
        return pass->on_column(pass, place);
    }
    if (pass->depth == EXPRESSION_DEPTH_MAX) {
        return false;
    }
    pass->depth++;
    const bool is_known = pass_children(pass, *place);
    pass->depth--;
    return is_known;
}

static const char *column_of(const ColumnRef *reference)
{
    const Node *field = linitial(reference->fields);
    return list_length(reference->fields) == 1 && IsA(field, String) ? strVal(field) : NULL;
}

/* The source of that column, made at its first mention; the count when the rule knows no such
 * column.
 */
static size_t source_of(struct compute *compute, const char *column)
{
    const struct rule *rule = compute->rule;
    for (size_t i = 0; i < compute->source_count; i++) {
        if (strcmp(compute->sources[i].column->column, column) == 0) {
            return i;
        }
    }
    for (size_t i = 0; i < rule->source_count; i++) {
        if (strcmp(rule->sources[i].column, column) == 0 && strcmp(column, rule->column) != 0) {
            compute->sources[compute->source_count].column = &rule->sources[i];
            return compute->source_count++;
        }
    }
    return SIZE_MAX;
}

static const char head[] = "SELECT ";

static bool note_column(struct pass *pass, Node **place)
{
    struct compute *compute = pass->compute;
    const ColumnRef *reference = (const ColumnRef *)*place;
    const char *column = column_of(reference);
    const size_t source = column == NULL ? SIZE_MAX : source_of(compute, column);
    if (source == SIZE_MAX) {
        compute->obstacle =
            arena_printf(pass->a->arena, "it reads %s%s%s",
                         column == NULL ? "something else than plain columns" : "\"",
                         column == NULL ? "" : column, column == NULL ? "" : "\", which it cannot");
        return false;
    }
    const int at = reference->location - (int)strlen(head);
    compute->places[compute->place_count++] = (struct compute_place){.from = at, .source = source};
    return true;
}

static int compare_places(const void *left, const void *right)
{
    const struct compute_place *l = left, *r = right;
    return l->from < r->from ? -1 : l->from > r->from;
}

static int without_space(const char *text, int from, int to)
{
    while (to > from && isspace((unsigned char)text[to - 1])) {
        to--;
    }
    return to;
}

/* The only item of a SELECT that has nothing else; NULL when it is not such a one. */
static Node *sole_item(const List *statements)
{
    const RawStmt *statement = list_length(statements) == 1 ? linitial(statements) : NULL;
    if (statement == NULL || !IsA(statement->stmt, SelectStmt)) {
        return NULL;
    }
    SelectStmt *select = (SelectStmt *)statement->stmt;
    const ResTarget *item =
        list_length(select->targetList) == 1 ? linitial(select->targetList) : NULL;
    if (item == NULL || item->name != NULL) {
        return NULL;
    }
    SelectStmt nothing = {.type = T_SelectStmt, .targetList = select->targetList};
    return equal(select, &nothing) ? item->val : NULL;
}

/* Text that would not mean the same in each session, or would run on behind its end. */
static bool is_portable(const char *text)
{
    for (const char *at = text; *at != '\0'; at++) {
        if ((unsigned char)*at >= 0x80 || *at == '\\' || *at == '$' || strncmp(at, "--", 2) == 0 ||
            strncmp(at, "/*", 2) == 0 || strncasecmp(at, "u&", 2) == 0) {
            return false;
        }
    }
    return true;
}

static void read_tree(struct analysis *a, struct compute *compute)
{
    const char *error;
    size_t position = 0;
    const char *text = arena_printf(a->arena, "%s%s", head, compute->text);
    const List *statements = sql_parse(text, a->arena, &error, &position);
    compute->tree = error == NULL ? sole_item(statements) : NULL;
    if (compute->tree == NULL) {
        compute->obstacle = error != NULL ? error : "it is more than an expression";
        return;
    }
    struct pass pass = {.a = a, .compute = compute, .on_column = note_column};
    if (!pass_node(&pass, &compute->tree) && compute->obstacle == NULL) {
        compute->obstacle = "it is more than functions, operators and casts over columns";
        return;
    }
    qsort(compute->places, compute->place_count, sizeof *compute->places, compare_places);
    const struct token_list tokens = sql_lex(text, a->arena, SIZE_MAX);
    for (size_t i = 0; i < compute->place_count && compute->obstacle == NULL; i++) {
        struct compute_place *place = &compute->places[i];
        const size_t token = token_at(&tokens, place->from + (int)strlen(head));
        if (token == tokens.count) {
            compute->obstacle = "its columns cannot be found in it";
            return;
        }
        place->to =
            without_space(compute->text, place->from, tokens.items[token].end - (int)strlen(head));
    }
}

static void read_types(struct analysis *a, struct compute *compute)
{
    for (size_t i = 0; i < compute->source_count && compute->obstacle == NULL; i++) {
        struct compute_source *source = &compute->sources[i];
        const char *error;
        size_t position = 0;
        const List *statements =
            sql_parse(arena_printf(a->arena, "%sCAST(NULL AS %s)", head, source->column->type),
                      a->arena, &error, &position);
        Node *cast = error == NULL ? sole_item(statements) : NULL;
        if (cast == NULL || !IsA(cast, TypeCast)) {
            compute->obstacle = arena_printf(a->arena, "the type of \"%s\" cannot be written out",
                                             source->column->column);
            return;
        }
        source->typed_null = (TypeCast *)cast;
    }
}

struct compute *compute_of(struct analysis *a, const struct rule *rule)
{
    for (struct compute *known = a->computes; known != NULL; known = known->next) {
        if (known->rule == rule) {
            return known;
        }
    }
    struct compute *compute = arena_alloc(a->arena, sizeof *compute);
    *compute = (struct compute){.next = a->computes, .rule = rule, .text = rule->expression};
    a->computes = compute;
    if (rule->expression == NULL || !is_portable(rule->expression)) {
        compute->obstacle = "the rule's expression has comments, escapes or letters beyond ASCII";
        return compute;
    }
    const size_t room = strlen(rule->expression) + 1;
    compute->places = arena_alloc(a->arena, (room + 1) * sizeof *compute->places);
    compute->sources = arena_alloc(a->arena, (rule->source_count + 1) * sizeof *compute->sources);
    memset(compute->sources, 0, (rule->source_count + 1) * sizeof *compute->sources);
    read_tree(a, compute);
    if (compute->obstacle == NULL) {
        read_types(a, compute);
    }
    return compute;
}

/* What gives the same value when it is written twice. */
static bool is_repeatable(const Node *value, bool may_read_columns)
{
    while (IsA(value, TypeCast)) {
        value = ((const TypeCast *)value)->arg;
    }
    return IsA(value, A_Const) || IsA(value, ParamRef) ||
           (may_read_columns && IsA(value, ColumnRef) && !value_has_star(value));
}

bool compute_take(struct analysis *a, struct compute *compute, struct compute_source *source,
                  const char *statement, Node *value, bool may_read_columns, const char *where)
{
    const char *column = source->column->column;
    source->value = value == NULL || IsA(value, SetToDefault) ? NULL : value;
    source->stored = NULL;
    if (source->value == NULL && source->column->has_default) {
        analysis_refuse_compute(
            a, compute->rule, statement,
            arena_printf(a->arena, "\"%s\"%s gets its default, which only the server knows", column,
                         where),
            arena_printf(a->arena, "Write a value for column \"%s\".", column));
        return false;
    }
    if (source->value != NULL && !is_repeatable(value, may_read_columns)) {
        analysis_refuse_compute(
            a, compute->rule, statement,
            arena_printf(a->arena, "the value of \"%s\"%s is an expression", column, where),
            arena_printf(a->arena, "Write a literal%s or a parameter for column \"%s\".",
                         may_read_columns ? ", a column" : "", column));
        return false;
    }
    return true;
}

void compute_place_value(struct analysis *a, struct compute_source *source, size_t first,
                         size_t last)
{
    source->from = analysis_tokens(a)->items[first].start;
    source->to = compute_token_end(a, last);
}

int compute_token_end(struct analysis *a, size_t token)
{
    const struct token *item = &analysis_tokens(a)->items[token];
    return without_space(a->text, item->start, item->end);
}

static Node *node_of(const struct compute_source *source)
{
    if (source->stored != NULL) {
        return revision_column(source->stored, source->column->column);
    }
    TypeCast *cast = (TypeCast *)copyObjectImpl(source->typed_null);
    if (source->value != NULL) {
        cast->arg = source->value;
    }
    return (Node *)cast;
}

static bool put_value(struct pass *pass, Node **place)
{
    const char *column = column_of((const ColumnRef *)*place);
    for (size_t i = 0; i < pass->compute->source_count; i++) {
        if (strcmp(pass->compute->sources[i].column->column, column) == 0) {
            *place = node_of(&pass->compute->sources[i]);
        }
    }
    return true;
}

Node *compute_tree(const struct compute *compute)
{
    struct compute copy = *compute;
    Node *tree = (Node *)copyObjectImpl(compute->tree);
    struct pass pass = {.compute = &copy, .on_column = put_value};
    pass_node(&pass, &tree);
    return tree;
}

bool compute_is_there(struct analysis *a, const Node *computed, const Node *value)
{
    /* With other literals in them the answer could be another one. */
    a->asks_literals |= nodeTag(computed) == nodeTag(value);
    return equal(computed, value);
}

/* A text while it grows; only measures while `text` is NULL. */
struct rendering {
    const struct analysis *a;
    char *text;
    size_t len;
    struct edit_copy *copies;
    size_t copy_count;
};

static void put(struct rendering *r, const char *piece, size_t len)
{
    if (r->text != NULL) {
        memcpy(r->text + r->len, piece, len);
    }
    r->len += len;
}

static void put_string(struct rendering *r, const char *piece)
{
    put(r, piece, strlen(piece));
}

static void put_source(struct rendering *r, const struct compute_source *source)
{
    if (source->stored != NULL) {
        put_string(r, quoted_name(source->stored));
        put_string(r, ".");
        put_string(r, quoted_name(source->column->column));
        return;
    }
    put_string(r, "CAST(");
    if (source->value == NULL) {
        put_string(r, "NULL");
    } else {
        if (r->text != NULL) {
            r->copies[r->copy_count] =
                (struct edit_copy){.from = source->from, .to = source->to, .at = r->len};
        }
        r->copy_count++;
        put(r, r->a->text + source->from, (size_t)(source->to - source->from));
    }
    put_string(r, " AS ");
    put_string(r, source->column->type);
    put_string(r, ")");
}

static void render(struct rendering *r, const struct compute *compute, const char *before)
{
    int copied = 0;
    put_string(r, before);
    for (size_t i = 0; i < compute->place_count; i++) {
        const struct compute_place *place = &compute->places[i];
        put(r, compute->text + copied, (size_t)(place->from - copied));
        put_source(r, &compute->sources[place->source]);
        copied = place->to;
    }
    put_string(r, compute->text + copied);
}

void compute_edit(struct analysis *a, const struct compute *compute, int start, int end,
                  const char *before)
{
    struct rendering r = {.a = a};
    render(&r, compute, before);
    char *text = arena_alloc(a->arena, r.len + 1);
    r = (struct rendering){
        .a = a,
        .text = text,
        .copies = arena_alloc(a->arena, (r.copy_count + 1) * sizeof *r.copies),
    };
    render(&r, compute, before);
    text[r.len] = '\0';
    analysis_add_edit(a, (struct edit){.start = start,
                                       .end = end,
                                       .text = text,
                                       .copies = r.copies,
                                       .copy_count = r.copy_count});
}

const struct bulk_piece *compute_pieces(struct analysis *a, const struct compute *compute,
                                        const size_t *positions, size_t *count)
{
    struct bulk_piece *pieces = arena_alloc(a->arena, (compute->place_count + 1) * sizeof *pieces);
    const char *behind = "";
    int copied = 0;
    for (size_t i = 0; i < compute->place_count; i++) {
        const struct compute_place *place = &compute->places[i];
        const bool is_absent = positions[place->source] == SIZE_MAX;
        pieces[i].text = arena_printf(a->arena, "%s%.*sCAST(%s", behind, place->from - copied,
                                      compute->text + copied, is_absent ? "NULL" : "");
        pieces[i].value = positions[place->source];
        behind = arena_printf(a->arena, " AS %s)", compute->sources[place->source].column->type);
        copied = place->to;
    }
    pieces[compute->place_count] = (struct bulk_piece){
        .text = arena_printf(a->arena, "%s%s", behind, compute->text + copied),
        .value = SIZE_MAX,
    };
    *count = compute->place_count + 1;
    return pieces;
}

bool rule_is_computable(const struct rule *rule, char *why, size_t why_size)
{
    struct arena arena = {0};
    jmp_buf out_of_memory;
    struct sql_scope scope;
    arena.out_of_memory = &out_of_memory;
    sql_enter(&scope, true);
    const char *volatile obstacle = "out of memory";
    if (setjmp(out_of_memory) == 0) {
        struct analysis a = {.arena = &arena};
        obstacle = compute_of(&a, rule)->obstacle;
    }
    const char *found = obstacle;
    if (found != NULL) {
        snprintf(why, why_size, "%s", found);
    }
    sql_leave(&scope);
    arena_free(&arena);
    return found == NULL;
}
