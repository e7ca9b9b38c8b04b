/*
 * PostgreSQL's hash of a text and the reference expression over it. Called by the proxy through
 * hashtext.h; owns nothing.
 */
#include "rules/hashtext.h"

#include <setjmp.h>
#include <string.h>

#include "rules/sql.h"

struct lookup3 {
    uint32_t a, b, c;
};

static uint32_t rotate(uint32_t word, int bits)
{
    return word << bits | word >> (32 - bits);
}

static void mix(struct lookup3 *s)
{
    s->a = (s->a - s->c) ^ rotate(s->c, 4);
    s->c += s->b;
    s->b = (s->b - s->a) ^ rotate(s->a, 6);
    s->a += s->c;
    s->c = (s->c - s->b) ^ rotate(s->b, 8);
    s->b += s->a;
    s->a = (s->a - s->c) ^ rotate(s->c, 16);
    s->c += s->b;
    s->b = (s->b - s->a) ^ rotate(s->a, 19);
    s->a += s->c;
    s->c = (s->c - s->b) ^ rotate(s->b, 4);
    s->b += s->a;
}

static void finish(struct lookup3 *s)
{
    s->c = (s->c ^ s->b) - rotate(s->b, 14);
    s->a = (s->a ^ s->c) - rotate(s->c, 11);
    s->b = (s->b ^ s->a) - rotate(s->a, 25);
    s->c = (s->c ^ s->b) - rotate(s->b, 16);
    s->a = (s->a ^ s->c) - rotate(s->c, 4);
    s->b = (s->b ^ s->a) - rotate(s->a, 14);
    s->c = (s->c ^ s->b) - rotate(s->b, 24);
}

/* Up to four bytes as an integer, the low one first, from bit `shift` on. */
static uint32_t word_at(const unsigned char *bytes, size_t len, unsigned shift)
{
    uint32_t word = 0;
    for (size_t i = 0; i < len && shift + 8 * i < 32; i++) {
        word |= (uint32_t)bytes[i] << (shift + 8 * i);
    }
    return word;
}

static size_t part(size_t len, size_t from)
{
    return len > from ? len - from : 0;
}

int32_t hashtext(const void *text, size_t len)
{
    const unsigned char *bytes = text;
    const uint32_t start = 0x9e3779b9U + (uint32_t)len + 3923095U;
    struct lookup3 s = {start, start, start};
    for (; len >= 12; len -= 12, bytes += 12) {
        s.a += word_at(bytes, 4, 0);
        s.b += word_at(bytes + 4, 4, 0);
        s.c += word_at(bytes + 8, 4, 0);
        mix(&s);
    }
    /* The low byte of c belongs to the length. */
    s.a += word_at(bytes, len < 4 ? len : 4, 0);
    s.b += word_at(bytes + (len < 4 ? len : 4), len < 8 ? part(len, 4) : 4, 0);
    s.c += word_at(bytes + (len < 8 ? len : 8), part(len, 8), 8);
    finish(&s);
    int32_t hash;
    memcpy(&hash, &s.c, sizeof hash);
    return hash;
}

/* A name that is not qualified, or by pg_catalog. */
static bool is_name(const List *names, const char *name)
{
    const int count = list_length(names);
    if (count == 2) {
        return strcmp(strVal(linitial(names)), "pg_catalog") == 0 &&
               strcmp(strVal(lsecond(names)), name) == 0;
    }
    return count == 1 && strcmp(strVal(linitial(names)), name) == 0;
}

/* The arguments of a plain call of this function, NIL when `node` is something else. */
static const List *arguments_of(const Node *node, const char *function)
{
    if (node == NULL || !IsA(node, FuncCall)) {
        return NIL;
    }
    const FuncCall *call = (const FuncCall *)node;
    const bool is_plain = call->agg_order == NIL && call->agg_filter == NULL &&
                          call->over == NULL && !call->agg_within_group && !call->agg_star &&
                          !call->agg_distinct && !call->func_variadic;
    return is_plain && is_name(call->funcname, function) ? call->args : NIL;
}

static bool is_text_cast(const TypeName *type)
{
    return type->typmods == NIL && type->arrayBounds == NIL && !type->setof && !type->pct_type &&
           (is_name(type->names, "text") || is_name(type->names, "varchar"));
}

static const char *column_of(const Node *node)
{
    if (IsA(node, TypeCast) && is_text_cast(((const TypeCast *)node)->typeName)) {
        node = ((const TypeCast *)node)->arg;
    }
    if (!IsA(node, ColumnRef)) {
        return NULL;
    }
    const List *fields = ((const ColumnRef *)node)->fields;
    return list_length(fields) == 1 && IsA(linitial(fields), String) ? strVal(linitial(fields))
                                                                     : NULL;
}

/* The one expression of SELECT <expression>. */
static const Node *expression_of(const List *statements)
{
    if (list_length(statements) != 1) {
        return NULL;
    }
    const Node *statement = ((const RawStmt *)linitial(statements))->stmt;
    if (!IsA(statement, SelectStmt)) {
        return NULL;
    }
    const SelectStmt *select = (const SelectStmt *)statement;
    const bool is_plain = select->fromClause == NIL && select->whereClause == NULL &&
                          select->groupClause == NIL && select->havingClause == NULL &&
                          select->sortClause == NIL && select->limitCount == NULL &&
                          select->limitOffset == NULL && select->lockingClause == NIL &&
                          select->windowClause == NIL && select->intoClause == NULL;
    if (!is_plain || select->op != SETOP_NONE || list_length(select->targetList) != 1) {
        return NULL;
    }
    const ResTarget *target = linitial(select->targetList);
    return target->name == NULL ? target->val : NULL;
}

static bool recognise(const List *statements, struct hashtext_expression *out)
{
    const List *of_mod = arguments_of(expression_of(statements), "mod");
    if (list_length(of_mod) != 2 || !IsA(lsecond(of_mod), A_Const)) {
        return false;
    }
    const A_Const *modulus = lsecond(of_mod);
    const List *of_hash = arguments_of(linitial(of_mod), "hashtext");
    if (modulus->isnull || !IsA(&modulus->val, Integer) || list_length(of_hash) != 1) {
        return false;
    }
    const char *column = column_of(linitial(of_hash));
    if (column == NULL || strlen(column) >= sizeof out->column || modulus->val.ival.ival == 0) {
        return false;
    }
    memcpy(out->column, column, strlen(column) + 1);
    out->modulus = modulus->val.ival.ival;
    return true;
}

bool hashtext_expression_read(const char *text, struct hashtext_expression *out)
{
    jmp_buf out_of_memory;
    struct arena arena = {.out_of_memory = &out_of_memory};
    struct sql_scope scope;
    volatile bool is_recognised = false;
    sql_enter(&scope, true);
    if (setjmp(out_of_memory) == 0) {
        const char *error;
        size_t position;
        const char *select = arena_printf(&arena, "SELECT %s", text);
        is_recognised = recognise(sql_parse(select, &arena, &error, &position), out);
    }
    sql_leave(&scope);
    arena_free(&arena);
    return is_recognised;
}

int32_t hashtext_expression_value(const struct hashtext_expression *expression, const void *bytes,
                                  size_t len)
{
    /* The one division that C does not define is 0 to PostgreSQL. */
    return expression->modulus == -1 ? 0 : hashtext(bytes, len) % expression->modulus;
}
