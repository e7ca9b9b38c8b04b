/*
 * The reference expression, mod(hashtext(column::text), 100), and those that are like it, computed
 * outside of the server. Called by the proxy where a row's value is at hand, and by the judge: what
 * the audit says of a supplied key, on_mismatch, and mode compute.
 *
 * What is said is certain, or it is said that it cannot be known. Certain is a value whose text
 * form, in the server's encoding, follows from what the client sent.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    EVALUATION_STEPS_MAX = 8,
    EVALUATION_NAME_MAX = 64, /* with the NUL: PostgreSQL's NAMEDATALEN */
};

enum evaluation_step_kind {
    EVALUATION_MOD, /* mod(x, number), x % number */
    EVALUATION_ADD, /* x + number */
    EVALUATION_ABS,
    EVALUATION_INT4, /* a cast */
    EVALUATION_INT8,
};

struct evaluation_step {
    enum evaluation_step_kind kind;
    int32_t number;
};

/* hashtext() of one column, and what is made of the hash. */
struct evaluation {
    char column[EVALUATION_NAME_MAX]; /* as the catalog has it: folded, without quotes */
    bool has_cast;                    /* of the column to text or varchar */
    struct evaluation_step steps[EVALUATION_STEPS_MAX];
    size_t step_count;
};

/* What the catalog says of the column that is hashed. */
struct evaluation_column {
    uint32_t type_oid;
    int32_t typmod;           /* as pg_attribute has it; -1 or 0 where there is none */
    bool is_nondeterministic; /* its collation: values of different bytes may be equal */
};

/* Recognises a configured or catalogued text by PostgreSQL's parser: a hash of one column, within
 * any of the steps above, with or without pg_catalog, brackets, and casts to text, varchar, int4 or
 * int8. False for any other expression, or one that does not parse. Not within an analysis: it uses
 * the thread's parser. */
bool evaluation_read(const char *text, struct evaluation *out);

/* A value as a client sends it for the column. */
struct evaluation_input {
    const char *bytes;
    size_t len;
    bool is_null;
    bool is_binary;      /* in the binary format of the column's own type */
    bool is_in_encoding; /* the server's; otherwise only ASCII is certain */
};

enum evaluated {
    EVALUATED_UNKNOWN, /* or the server fails at it */
    EVALUATED_NULL,
    EVALUATED_VALUE,
};

/* Whether values of such a column can be known at all. */
bool evaluation_is_possible(const struct evaluation *evaluation,
                            const struct evaluation_column *column);

enum evaluated evaluation_value(const struct evaluation *evaluation,
                                const struct evaluation_column *column,
                                const struct evaluation_input *input, int32_t *value);

/* An integer in the text form that int2, int4 and int8 take, as far as all versions take it: white
 * space, a sign, digits. False for others, and for those beyond int8. */
bool evaluation_read_integer(const char *bytes, size_t len, int64_t *value);
/* The same in the binary format of int2, int4 or int8, which the length tells. */
bool evaluation_read_binary_integer(const char *bytes, size_t len, int64_t *value);
