/*
 * Reads the source of a PL/pgSQL trigger function: is it nothing but the assignment of one column?
 * Pure. What it cannot read with certainty it calls BODY_OTHER, never an assignment.
 */
#pragma once

#include <stdbool.h>

enum body_kind {
    BODY_UNRELATED,  /* does not mention the column, and does not replace the row */
    BODY_ASSIGNMENT, /* BEGIN NEW.column := expression; RETURN NEW; END */
    BODY_PURE,       /* mentions the column; no statement in it can act outside of the row */
    BODY_OTHER,      /* mentions the column and may do anything */
};

struct body {
    enum body_kind kind;
    char *expression; /* of BODY_ASSIGNMENT, with NEW.x as it stands; the caller frees */
};

/* `column` is the catalog's name, unquoted. False when out of memory. */
bool body_read(const char *source, const char *column, struct body *out);
