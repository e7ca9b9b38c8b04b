/* Values against the expression's, pair by pair; see compare.h. Owns nothing. */
#include "rules/compare.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "rules/rule_set.h"
#include "rules/value.h"

bool compare_rule_read(const struct rule *rule, struct compare_rule *out)
{
    enum { OID_INT8 = 20, OID_INT2 = 21, OID_INT4 = 23 };
    *out = (struct compare_rule){.key_type = 0};
    if (rule->expression == NULL || !evaluation_read(rule->expression, &out->evaluation)) {
        out->evaluation.column[0] = '\0';
        return false;
    }
    const size_t key = rule_column_index(rule, rule->column);
    const struct rule_source *source = rule_source_named(rule, out->evaluation.column);
    if (!rule->compares || key == rule->column_count || source == NULL ||
        !evaluation_is_possible(&out->evaluation, &source->value)) {
        return false;
    }
    const uint32_t type = rule->columns[key].type_oid;
    out->source = source->value;
    out->key_type = type == OID_INT8 || type == OID_INT4 || type == OID_INT2 ? type : 0;
    return out->key_type != 0;
}

static enum evaluated read_key(const struct evaluation_input *key, int64_t *value)
{
    if (key->is_null) {
        return EVALUATED_NULL;
    }
    const bool is_read = key->is_binary
                             ? evaluation_read_binary_integer(key->bytes, key->len, value)
                             : evaluation_read_integer(key->bytes, key->len, value);
    return is_read ? EVALUATED_VALUE : EVALUATED_UNKNOWN;
}

void compare_row(const struct compare_rule *rule, const struct evaluation_input *key,
                 const struct evaluation_input *source, uint32_t row, struct comparison *out)
{
    int64_t supplied = 0;
    int32_t expected = 0;
    if (key == NULL || source == NULL) {
        return;
    }
    const enum evaluated has = read_key(key, &supplied);
    if (has == EVALUATED_UNKNOWN) {
        return;
    }
    const enum evaluated wants =
        evaluation_value(&rule->evaluation, &rule->source, source, &expected);
    if (wants == EVALUATED_UNKNOWN) {
        return;
    }
    if (has == wants && supplied == expected) {
        out->matched++;
        return;
    }
    /* The rows of a bulk load come before the first one. */
    if (out->mismatched++ == 0 || row < out->row) {
        out->row = row;
        out->expected = expected;
        out->expects_null = wants == EVALUATED_NULL;
    }
}

/* A value of a pair; `input` may point into `room`. */
static bool resolve(const struct value_ref *ref, const struct compare_input *from,
                    char room[VALUE_ROOM], struct evaluation_input *input)
{
    *input = (struct evaluation_input){.is_in_encoding = from->is_in_encoding};
    struct value value;
    switch (ref->kind) {
    case VALUE_NULL:
        input->is_null = true;
        return true;
    case VALUE_LITERAL:
        if (!value_read(from->text + ref->at, from->standard_conforming_strings, room, &value)) {
            return false;
        }
        input->bytes = value.bytes;
        input->len = value.len;
        input->is_null = value.is_null;
        return true;
    case VALUE_PARAM:
        if (ref->at > from->param_count) {
            return false;
        }
        const struct compare_bound *param = &from->params[ref->at - 1];
        input->bytes = param->bytes;
        input->len = param->len;
        input->is_null = param->is_null;
        input->is_binary = param->is_binary;
        return true;
    }
    return false;
}

void compare_pairs(const struct compare_rule *rule, const struct value_pair *pairs, size_t count,
                   size_t supplied, const struct compare_input *input, struct comparison *out)
{
    char key_room[VALUE_ROOM], source_room[VALUE_ROOM];
    struct evaluation_input key, source;
    for (size_t i = 0; i < count; i++) {
        if (pairs[i].supplied == supplied && resolve(&pairs[i].key, input, key_room, &key) &&
            resolve(&pairs[i].source, input, source_room, &source)) {
            compare_row(rule, &key, &source, pairs[i].row, out);
        }
    }
}

bool compare_refuses(const struct rule *rule, const struct comparison *found)
{
    return found->mismatched > 0 && rule->rejects_mismatch &&
           (rule->mode == RULE_MODE_STRIP || rule->mode == RULE_MODE_COMPUTE);
}

void compare_refuse(const struct rule *rule, const struct comparison *found,
                    struct compare_words *room, struct verdict *verdict)
{
    char expected[16] = "NULL", row[32] = "";
    if (!found->expects_null) {
        snprintf(expected, sizeof expected, "%" PRId32, found->expected);
    }
    if (found->row > 1) {
        snprintf(row, sizeof row, " of row %" PRIu32, found->row);
    }
    snprintf(room->message, sizeof room->message,
             "value for column \"%s\"%s is not the one that it is computed to (rule \"%s\")",
             rule->column, row, rule->name);
    snprintf(room->detail, sizeof room->detail,
             "Rule \"%s\" of pgsluice keeps column \"%s\" of table \"%s.%s\" computed, to %s here.",
             rule->name, rule->column, rule->schema, rule->table, expected);
    verdict->action = VERDICT_REFUSE;
    verdict->sqlstate = "428C9";
    verdict->message = room->message;
    verdict->detail = room->detail;
    verdict->hint = "Leave the column out of the statement.";
    verdict->position = 0;
}

size_t compare_literal_len(const char *text, bool standard_conforming_strings)
{
    char room[VALUE_ROOM];
    struct value value;
    return value_read(text, standard_conforming_strings, room, &value) ? (size_t)(value.end - text)
                                                                       : 0;
}
