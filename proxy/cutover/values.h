/*
 * The stored values of the column against the expression: counts, examples, distribution. One pass
 * over the table, read only; used by the preflight and by verify.
 */
#pragma once

#include "proxy/cutover/context.h"

struct values {
    int64_t rows;
    int64_t mismatches;
    int64_t nulls;
    char *min; /* NULL where the type has no order, or there is no row */
    char *max;
    json_t *examples;    /* up to 5: {"row", "stored", "expected"} */
    char *examples_text; /* the same for people */
    int64_t distinct;    /* with the distribution only; otherwise -1 */
    double skew;         /* most frequent key against the average */
    json_t *histogram; /* [{"key", "rows"}] by frequency; the ends only where there are many keys */
};

MUST_CHECK bool values_read(struct cutover *c, bool distribution, struct values *out,
                            struct failure *f);
json_t *values_json(const struct values *v); /* a new object */
void values_fini(struct values *v);
