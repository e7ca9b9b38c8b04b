/*
 * Recognises the expression in PostgreSQL's raw tree and evaluates it; see evaluate.h. Owns
 * nothing.
 */
#include "rules/evaluate.h"

#include <ctype.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include "rules/hashtext.h"
#include "rules/sql.h"

/* As in pg_type.dat. */
enum {
    OID_INT8 = 20,
    OID_INT2 = 21,
    OID_INT4 = 23,
    OID_TEXT = 25,
    OID_BPCHAR = 1042,
    OID_VARCHAR = 1043,
    OID_UUID = 2950,
};

/* --- recognition --- */

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

static bool is_cast_to(const Node *node, const char *type)
{
    if (!IsA(node, TypeCast)) {
        return false;
    }
    const TypeName *name = ((const TypeCast *)node)->typeName;
    return name->typmods == NIL && name->arrayBounds == NIL && !name->setof && !name->pct_type &&
           is_name(name->names, type);
}

static bool read_column(const Node *node, struct evaluation *out)
{
    out->has_cast = is_cast_to(node, "text") || is_cast_to(node, "varchar");
    if (out->has_cast) {
        node = ((const TypeCast *)node)->arg;
    }
    if (!IsA(node, ColumnRef)) {
        return false;
    }
    const List *fields = ((const ColumnRef *)node)->fields;
    if (list_length(fields) != 1 || !IsA(linitial(fields), String)) {
        return false;
    }
    const char *name = strVal(linitial(fields));
    if (strlen(name) >= sizeof out->column) {
        return false;
    }
    memcpy(out->column, name, strlen(name) + 1);
    return true;
}

static bool read_number(const Node *node, int32_t *number)
{
    while (is_cast_to(node, "int4")) {
        node = ((const TypeCast *)node)->arg;
    }
    if (!IsA(node, A_Const)) {
        return false;
    }
    const A_Const *constant = (const A_Const *)node;
    if (constant->isnull || !IsA(&constant->val, Integer)) {
        return false;
    }
    *number = constant->val.ival.ival;
    return true;
}

/* One step of an expression, and what it is of; NULL when it is none. */
static const Node *read_step(const Node *node, struct evaluation_step *step)
{
    *step = (struct evaluation_step){.kind = EVALUATION_ABS};
    const List *arguments = arguments_of(node, "abs");
    if (list_length(arguments) == 1) {
        return linitial(arguments);
    }
    if (is_cast_to(node, "int4") || is_cast_to(node, "int8")) {
        step->kind = is_cast_to(node, "int4") ? EVALUATION_INT4 : EVALUATION_INT8;
        return ((const TypeCast *)node)->arg;
    }
    const Node *left = NULL, *right = NULL;
    arguments = arguments_of(node, "mod");
    step->kind = EVALUATION_MOD;
    if (list_length(arguments) == 2) {
        left = linitial(arguments);
        right = lsecond(arguments);
    } else if (IsA(node, A_Expr) && ((const A_Expr *)node)->kind == AEXPR_OP) {
        const A_Expr *operation = (const A_Expr *)node;
        step->kind = is_name(operation->name, "+") ? EVALUATION_ADD : EVALUATION_MOD;
        if (step->kind == EVALUATION_ADD || is_name(operation->name, "%")) {
            left = operation->lexpr;
            right = operation->rexpr;
        }
    }
    if (left == NULL || right == NULL || !read_number(right, &step->number)) {
        return NULL;
    }
    return step->kind == EVALUATION_MOD && step->number == 0 ? NULL : left;
}

/* The tree names the last step first. */
static bool read_steps(const Node *node, struct evaluation *out)
{
    struct evaluation_step reversed[EVALUATION_STEPS_MAX];
    const List *of_hash;
    out->step_count = 0;
    while ((of_hash = arguments_of(node, "hashtext")) == NIL) {
        if (out->step_count == EVALUATION_STEPS_MAX) {
            return false;
        }
        node = read_step(node, &reversed[out->step_count]);
        if (node == NULL) {
            return false;
        }
        out->step_count++;
    }
    for (size_t i = 0; i < out->step_count; i++) {
        out->steps[i] = reversed[out->step_count - 1 - i];
    }
    return list_length(of_hash) == 1 && read_column(linitial(of_hash), out);
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

bool evaluation_read(const char *text, struct evaluation *out)
{
    jmp_buf out_of_memory;
    struct arena arena = {.out_of_memory = &out_of_memory};
    struct sql_scope scope;
    volatile bool is_read = false;
    sql_enter(&scope, true);
    if (setjmp(out_of_memory) == 0) {
        const char *error;
        size_t position;
        const char *select = arena_printf(&arena, "SELECT %s", text);
        const Node *expression = expression_of(sql_parse(select, &arena, &error, &position));
        is_read = expression != NULL && read_steps(expression, out);
    }
    sql_leave(&scope);
    arena_free(&arena);
    return is_read;
}

/* --- evaluation --- */

bool evaluation_read_integer(const char *bytes, size_t len, int64_t *value)
{
    const char *at = bytes, *end = bytes + len;
    while (at < end && isspace((unsigned char)*at)) {
        at++;
    }
    const bool is_negative = at < end && *at == '-';
    at += at < end && (*at == '-' || *at == '+');
    const char *digits = at;
    int64_t number = 0; /* below zero, where there is room for all */
    for (; at < end && isdigit((unsigned char)*at); at++) {
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_sub_overflow(number, *at - '0', &number)) {
            return false;
        }
    }
    if (at == digits || (!is_negative && number == INT64_MIN)) {
        return false;
    }
    while (at < end && isspace((unsigned char)*at)) {
        at++;
    }
    *value = is_negative ? number : -number;
    return at == end;
}

bool evaluation_read_binary_integer(const char *bytes, size_t len, int64_t *value)
{
    if (len != 2 && len != 4 && len != 8) {
        return false;
    }
    uint64_t word = ((unsigned char)bytes[0] & 0x80) != 0 ? UINT64_MAX : 0;
    for (size_t i = 0; i < len; i++) {
        word = word << 8 | (unsigned char)bytes[i];
    }
    memcpy(value, &word, sizeof word);
    return true;
}

enum { TEXT_FORM_MAX = 40 }; /* of a uuid or an integer */

/* What casting the value of the column to text gives. */
struct text_form {
    const char *bytes;
    size_t len;
    char room[TEXT_FORM_MAX];
};

static bool is_ascii(const char *bytes, size_t len)
{
    uint64_t seen = 0, word;
    for (; len >= sizeof word; bytes += sizeof word, len -= sizeof word) {
        memcpy(&word, bytes, sizeof word);
        seen |= word;
    }
    for (; len > 0; bytes++, len--) {
        seen |= (unsigned char)*bytes;
    }
    return (seen & UINT64_C(0x8080808080808080)) == 0;
}

/* Spaces at the end are not a part of a bpchar's text, and those beyond the length of a varchar are
 * cut off. A value that is too long otherwise is refused. */
static bool form_of_text(const struct evaluation_column *column,
                         const struct evaluation_input *input, struct text_form *form)
{
    enum { TYPMOD_HEADER = 4 };
    if (memchr(input->bytes, '\0', input->len) != NULL ||
        (!input->is_in_encoding && !is_ascii(input->bytes, input->len))) {
        return false;
    }
    form->bytes = input->bytes;
    form->len = input->len;
    if (column->type_oid == OID_BPCHAR) {
        while (form->len > 0 && form->bytes[form->len - 1] == ' ') {
            form->len--;
        }
        return true;
    }
    return form->len == 0 || form->bytes[form->len - 1] != ' ' || column->typmod <= 0 ||
           form->len <= (size_t)(column->typmod - TYPMOD_HEADER);
}

static bool form_of_integer(uint32_t type, const struct evaluation_input *input,
                            struct text_form *form)
{
    int64_t value;
    const bool is_read = input->is_binary
                             ? evaluation_read_binary_integer(input->bytes, input->len, &value)
                             : evaluation_read_integer(input->bytes, input->len, &value);
    const int64_t max = type == OID_INT2 ? INT16_MAX : type == OID_INT4 ? INT32_MAX : INT64_MAX;
    if (!is_read || value > max || value < -max - 1) {
        return false;
    }
    form->len = (size_t)snprintf(form->room, sizeof form->room, "%" PRId64, value);
    form->bytes = form->room;
    return true;
}

/* In its canonical spelling, of which the letters may be capital ones. */
static bool form_of_uuid(const struct evaluation_input *input, struct text_form *form)
{
    static const char hex[] = "0123456789abcdef";
    enum { UUID_BYTES = 16, UUID_LEN = 36 };
    if (input->len != (input->is_binary ? UUID_BYTES : UUID_LEN)) {
        return false;
    }
    for (size_t i = 0, byte = 0, half = 0; i < UUID_LEN; i++) {
        const bool is_hyphen = i == 8 || i == 13 || i == 18 || i == 23;
        if (is_hyphen) {
            form->room[i] = '-';
        } else if (input->is_binary) {
            const unsigned bits = (unsigned char)input->bytes[byte];
            form->room[i] = hex[half == 0 ? bits >> 4 : bits & 0xf];
            byte += half;
            half ^= 1;
        } else if (isxdigit((unsigned char)input->bytes[i])) {
            form->room[i] = (char)tolower((unsigned char)input->bytes[i]);
        } else {
            return false;
        }
        if (is_hyphen && !input->is_binary && input->bytes[i] != '-') {
            return false;
        }
    }
    form->bytes = form->room;
    form->len = UUID_LEN;
    return true;
}

bool evaluation_is_possible(const struct evaluation *evaluation,
                            const struct evaluation_column *column)
{
    switch (column->type_oid) {
    case OID_TEXT:
    case OID_VARCHAR:
    case OID_BPCHAR:
        return !column->is_nondeterministic;
    case OID_INT2:
    case OID_INT4:
    case OID_INT8:
    case OID_UUID:
        return evaluation->has_cast;
    default:
        return false;
    }
}

static bool form_of(const struct evaluation_column *column, const struct evaluation_input *input,
                    struct text_form *form)
{
    switch (column->type_oid) {
    case OID_INT2:
    case OID_INT4:
    case OID_INT8:
        return form_of_integer(column->type_oid, input, form);
    case OID_UUID:
        return form_of_uuid(input, form);
    default:
        return form_of_text(column, input, form);
    }
}

/* False where the server raises 22003. */
static bool take_step(const struct evaluation_step *step, int64_t *value, bool *is_int8)
{
    switch (step->kind) {
    case EVALUATION_MOD:
        /* The one division that C does not define is 0 to PostgreSQL. */
        *value = step->number == -1 ? 0 : *value % step->number;
        break;
    case EVALUATION_ADD:
        *value += step->number; /* both are of four bytes, or were */
        break;
    case EVALUATION_ABS:
        *value = *value < 0 ? -*value : *value;
        break;
    case EVALUATION_INT4:
        *is_int8 = false;
        break;
    case EVALUATION_INT8:
        *is_int8 = true;
        break;
    }
    return *is_int8 || (*value >= INT32_MIN && *value <= INT32_MAX);
}

enum evaluated evaluation_value(const struct evaluation *evaluation,
                                const struct evaluation_column *column,
                                const struct evaluation_input *input, int32_t *value)
{
    struct text_form form;
    if (input->is_null) {
        return EVALUATED_NULL;
    }
    if (!evaluation_is_possible(evaluation, column) || !form_of(column, input, &form)) {
        return EVALUATED_UNKNOWN;
    }
    int64_t result = hashtext(form.bytes, form.len);
    bool is_int8 = false;
    for (size_t i = 0; i < evaluation->step_count; i++) {
        if (!take_step(&evaluation->steps[i], &result, &is_int8)) {
            return EVALUATED_UNKNOWN;
        }
    }
    if (result < INT32_MIN || result > INT32_MAX) {
        return EVALUATED_UNKNOWN;
    }
    *value = (int32_t)result;
    return EVALUATED_VALUE;
}
