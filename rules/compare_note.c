/*
 * Which values of a statement can be compared with what a rule's expression makes of others: where
 * they are, or, for the rows of a bulk load, what came out. Called by insert.c and assign.c; owns
 * nothing.
 */
#include <string.h>

#include "rules/compare.h"
#include "rules/insert.h"
#include "rules/value.h"

enum {
    OID_INT8 = 20,
    OID_INT2 = 21,
    OID_INT4 = 23,
    OID_TEXT = 25,
    OID_UNKNOWN = 705,
    OID_BPCHAR = 1042,
    OID_VARCHAR = 1043,
};

/* A value of the type `from` goes into a column of the type `to` as it is, or is refused. */
static bool is_kept(uint32_t from, uint32_t to)
{
    switch (to) {
    case OID_INT2:
    case OID_INT4:
    case OID_INT8:
        return from == OID_INT2 || from == OID_INT4 || from == OID_INT8;
    case OID_TEXT:
    case OID_VARCHAR:
    case OID_BPCHAR:
        return from == OID_TEXT || from == OID_VARCHAR;
    default:
        return from == to && to != 0;
    }
}

/* --- parameters --- */

/* How often the statement's parameters are used, of each one or more. */
static bool count_use(Node *node, void *context)
{
    enum { PARAMETERS_MAX = 65535 };
    struct analysis *a = context;
    const int number = IsA(node, ParamRef) ? ((const ParamRef *)node)->number : 0;
    if (number < 1 || number > PARAMETERS_MAX) {
        return true;
    }
    const size_t index = (size_t)number - 1;
    while (a->param_use_count <= index) {
        a->param_uses = arena_grow(a->arena, a->param_uses, a->param_use_count,
                                   &a->param_use_capacity, sizeof *a->param_uses);
        a->param_uses[a->param_use_count++] = 0;
    }
    if (a->param_uses[index] < UINT8_MAX) {
        a->param_uses[index]++;
    }
    return true;
}

/* Where a parameter is used once, its use settles its type. */
static bool is_used_once(struct analysis *a, int number)
{
    if (a->params_of != a->statement) {
        struct sql_walk walk = {.visit = count_use, .context = a};
        a->params_of = a->statement;
        a->param_use_count = 0;
        statement_walk(a->statement->stmt, &walk);
        a->param_use_count = walk.is_cut_short ? 0 : a->param_use_count;
    }
    return (size_t)number <= a->param_use_count && a->param_uses[number - 1] == 1;
}

static uint32_t declared_type(const struct analysis *a, int number)
{
    const size_t index = (size_t)number - 1;
    const uint32_t type = index < a->declared_count ? a->declared[index] : 0;
    return type == OID_UNKNOWN ? 0 : type;
}

static bool note_param(struct analysis *a, const ParamRef *param, uint32_t cast, uint32_t column,
                       struct value_ref *ref)
{
    if (!a->has_params || param->number < 1) {
        return false;
    }
    uint32_t type = declared_type(a, param->number);
    if (type == 0 && is_used_once(a, param->number)) {
        type = cast != 0 ? cast : column;
    }
    ref->kind = VALUE_PARAM;
    ref->at = (uint32_t)param->number;
    return is_kept(type, column) || (type == column && column != 0);
}

/* --- literals --- */

/* Reads a literal, unless it is not known what its backslashes mean. */
static bool read_literal(const struct analysis *a, const char *text, char room[VALUE_ROOM],
                         struct value *value)
{
    return value_read(text, a->is_conforming, room, value) &&
           !(a->is_unsettled && *text == '\'' &&
             memchr(text, '\\', (size_t)(value->end - text)) != NULL);
}

/* What is read from the text must be what the parser has read. */
static bool is_read_right(const A_Const *constant, const struct value *value)
{
    if (value->is_null) {
        return false;
    }
    if (IsA(&constant->val, String)) {
        const char *text = strVal(&constant->val);
        return strlen(text) == value->len && memcmp(text, value->bytes, value->len) == 0;
    }
    int64_t number, parsed;
    if (IsA(&constant->val, Float)) {
        const char *digits = constant->val.fval.fval;
        if (!evaluation_read_integer(digits, strlen(digits), &parsed)) {
            return false;
        }
    } else if (IsA(&constant->val, Integer)) {
        parsed = constant->val.ival.ival;
    } else {
        return false;
    }
    return evaluation_read_integer(value->bytes, value->len, &number) && number == parsed;
}

static bool note_literal(const struct analysis *a, const A_Const *constant, struct value_ref *ref)
{
    char room[VALUE_ROOM];
    struct value value;
    const int location = constant->location;
    ref->kind = VALUE_NULL;
    if (constant->isnull) {
        return true;
    }
    if (location < 0 || (size_t)location >= a->len ||
        !read_literal(a, a->text + location, room, &value) || !is_read_right(constant, &value)) {
        return false;
    }
    size_t at = (size_t)location;
    ref->kind = VALUE_LITERAL;
    if (a->text[at] == '-') {
        ref->lead = (uint32_t)(strcspn(a->text + at, "0123456789"));
    }
    /* The pairs speak of the client's text. */
    if (a->bulk != NULL && at >= a->bulk->cut_from) {
        at += a->bulk->cut_to - a->bulk->cut_from;
    }
    ref->at = (uint32_t)at;
    return true;
}

static bool note_value(struct analysis *a, const Node *value, uint32_t column,
                       struct value_ref *ref)
{
    uint32_t innermost = 0;
    while (value != NULL && IsA(value, TypeCast)) {
        const TypeCast *cast = (const TypeCast *)value;
        innermost = type_oid_of(cast->typeName);
        if (cast->typeName->typmods != NIL || !is_kept(innermost, column)) {
            return false;
        }
        value = cast->arg;
    }
    if (value != NULL && IsA(value, ParamRef)) {
        return note_param(a, (const ParamRef *)value, innermost, column, ref);
    }
    return value != NULL && IsA(value, A_Const) && note_literal(a, (const A_Const *)value, ref);
}

static void note_pair(struct analysis *a, const struct compare_rule *rule, const Node *key,
                      const Node *source, uint32_t row, struct supply *supply)
{
    struct value_pair pair = {.row = row};
    if (a->definition != NULL || !note_value(a, key, rule->key_type, &pair.key) ||
        !note_value(a, source, rule->source.type_oid, &pair.source)) {
        return;
    }
    a->pairs = arena_grow(a->arena, a->pairs, a->pair_count, &a->pair_capacity, sizeof *a->pairs);
    a->pairs[a->pair_count++] = pair;
    supply->pairs++;
}

void compare_note_values(struct analysis *a, const struct compare_rule *compares, const Node *key,
                         const Node *source, struct supply *supply)
{
    note_pair(a, compares, key, source, 1, supply);
}

/* --- bulk loads --- */

static const char *behind_blanks(const char *at)
{
    while (*at == ' ' || (*at >= '\t' && *at <= '\r' && *at != '\v')) {
        at++;
    }
    return at;
}

static size_t name_length(const char *at)
{
    size_t len = 0;
    while ((at[len] >= 'a' && at[len] <= 'z') || (at[len] >= '0' && at[len] <= '9')) {
        len++;
    }
    return len;
}

/* What stands behind a value of a cut row: nothing, or casts that leave it as it is. */
static bool is_plain_cast(const char *at, uint32_t column)
{
    static const struct {
        const char *name;
        uint32_t type;
    } casts[] = {{"text", OID_TEXT}, {"varchar", OID_VARCHAR}, {"int", OID_INT4},
                 {"int4", OID_INT4}, {"integer", OID_INT4},    {"bigint", OID_INT8},
                 {"int8", OID_INT8}, {"smallint", OID_INT2},   {"int2", OID_INT2}};
    at = behind_blanks(at);
    if (*at == ',' || *at == ')') {
        return true;
    }
    if (at[0] != ':' || at[1] != ':') {
        return false;
    }
    at += 2;
    const size_t len = name_length(at);
    for (size_t i = 0; i < sizeof casts / sizeof casts[0]; i++) {
        if (strlen(casts[i].name) == len && memcmp(casts[i].name, at, len) == 0) {
            at = behind_blanks(at + len);
            return is_kept(casts[i].type, column) && (*at == ',' || *at == ')');
        }
    }
    return false;
}

static bool read_cut(const struct analysis *a, const char *text, uint32_t column,
                     char room[VALUE_ROOM], struct evaluation_input *input)
{
    struct value value;
    if (!read_literal(a, text, room, &value) || !is_plain_cast(value.end, column)) {
        return false;
    }
    *input = (struct evaluation_input){.bytes = value.bytes,
                                       .len = value.len,
                                       .is_null = value.is_null,
                                       .is_in_encoding = a->is_in_server_encoding};
    return true;
}

static void compare_cut_rows(const struct insert *insert, const struct compare_rule *rule,
                             size_t key_at, size_t source_at, struct comparison *out)
{
    const struct bulk *bulk = insert->bulk;
    char key_room[VALUE_ROOM], source_room[VALUE_ROOM];
    struct evaluation_input key, source;
    for (size_t row = 0; row < bulk->rows; row++) {
        const int *places = bulk->places + row * (bulk->width + 1);
        if (read_cut(insert->a, bulk->text + places[key_at], rule->key_type, key_room, &key) &&
            read_cut(insert->a, bulk->text + places[source_at], rule->source.type_oid, source_room,
                     &source)) {
            compare_row(rule, &key, &source, (uint32_t)row + 2, out);
        }
    }
}

void compare_note_rows(const struct insert *insert, size_t rule, size_t position,
                       struct supply *supply)
{
    struct analysis *a = insert->a;
    const struct compare_rule *compares = analysis_compares(a, rule, insert->stmt->relation);
    size_t source = 0;
    while (source < insert->width && compares != NULL &&
           strcmp(insert->names[source], compares->evaluation.column) != 0) {
        source++;
    }
    /* Of rows that are counted off not all are inserted. */
    const bool is_limited =
        insert->source->limitCount != NULL || insert->source->limitOffset != NULL;
    if (compares == NULL || source == insert->width || is_limited) {
        return;
    }
    const size_t cut = insert->bulk == NULL ? 0 : insert->bulk->rows;
    const List *rows = insert->source->valuesLists;
    for (int row = 0; row < list_length(rows); row++) {
        const List *values = list_nth(rows, row);
        note_pair(a, compares, list_nth(values, (int)position), list_nth(values, (int)source),
                  (uint32_t)row + 1 + (row == 0 ? 0 : (uint32_t)cut), supply);
    }
    if (insert->bulk != NULL) {
        compare_cut_rows(insert, compares, position, source, &supply->compared);
    }
}
