/*
 * A supplied value against the one that its rule's expression has for the row. Called by the judge
 * for literals, and by the proxy's sessions for parameters and for the rows of COPY.
 *
 * Where one of the two cannot be known for certain, nothing is said.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rules/evaluate.h"
#include "rules/rules.h"

/* What the clients' values of one rule are compared by. */
struct compare_rule {
    struct evaluation evaluation;    /* the column is "" where there is none */
    struct evaluation_column source; /* the column that it reads */
    uint32_t key_type;               /* int2, int4 or int8; 0: cannot be compared */
};

/* NULL where values of this rule cannot be compared, or nobody wants to know. */
const struct compare_rule *compare_rule_of(const struct rule_set *set, size_t index);

/* For the set itself; false when the rule's values cannot be compared. */
bool compare_rule_read(const struct rule *rule, struct compare_rule *out);

/* One row; NULL: that value cannot be known. `row` counts from 1. */
void compare_row(const struct compare_rule *rule, const struct evaluation_input *key,
                 const struct evaluation_input *source, uint32_t row, struct comparison *out);

struct compare_bound {
    const char *bytes;
    size_t len;
    bool is_null, is_binary;
};

/* Where the values of pairs are. */
struct compare_input {
    const char *text; /* NUL-terminated; what the places of literals refer to */
    bool standard_conforming_strings;
    bool is_in_encoding; /* the text and the parameters are in the server's encoding */
    const struct compare_bound *params;
    size_t param_count; /* none where they are not bound yet */
};

/* Those of the pairs that belong to the place `supplied` of their verdict. */
void compare_pairs(const struct compare_rule *rule, const struct value_pair *pairs, size_t count,
                   size_t supplied, const struct compare_input *input, struct comparison *out);

/* Makes the verdict one that refuses a value that differs; its words are in `room`. */
struct compare_words {
    char message[384], detail[640];
};
void compare_refuse(const struct rule *rule, const struct comparison *found,
                    struct compare_words *room, struct verdict *verdict);
/* Whether the rule has such a verdict made of it. */
bool compare_refuses(const struct rule *rule, const struct comparison *found);

/* Where the literal at `text` ends; 0 when it is not of the kinds that are compared. */
size_t compare_literal_len(const char *text, bool standard_conforming_strings);
