/*
 * The schema `pgsluice` at the server: one row for each flip of a table. It is written in the
 * flip's own transaction, so that it exists exactly when the flip has happened.
 */
#pragma once

#include "proxy/cutover/context.h"

/* Creates schema and table where they are missing: part of the cutover's transaction. */
extern const char state_create_sql[];

/* The last flip of the table. */
struct state_run {
    bool found;
    char *run;       /* the caller frees */
    char *strategy;  /* "inplace" or "swap"; the caller frees */
    char *phase;     /* "flipped" or "rolled_back"; the caller frees */
    json_t *trigger; /* what the flip took away, to be put back; the caller ends it */
};
MUST_CHECK bool state_read(struct cutover *c, struct state_run *out, struct failure *f);
void state_run_fini(struct state_run *run);

/* SQL, as one PL/pgSQL statement, that records the flip or its rollback. `columns` is an SQL array
 * of the column names in the applications' order, `relation` the table that has the name after it.
 * The caller frees it; NULL when out of memory. */
char *state_flipped_sql(struct cutover *c, const char *columns, const char *strategy,
                        unsigned relation);
char *state_rolled_back_sql(struct cutover *c, const char *flip_run, const char *columns,
                            unsigned relation);

/* Whether the row says that this run has happened. */
MUST_CHECK bool state_has_happened(struct cutover *c, struct control *control, bool *out,
                                   struct failure *f);

/* The applications' column order as an SQL array of names; the caller frees it. */
MUST_CHECK bool state_column_order(struct cutover *c, char **out, struct failure *f);
