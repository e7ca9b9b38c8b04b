/*
 * What the files of the preflight share: how they read facts and names, and the groups of checks
 * that each of them makes. Used by preflight*.c only; see preflight.h.
 */
#pragma once

#include "proxy/cutover/capture.h"
#include "proxy/cutover/context.h"

/* Of c->table.facts: "" and false where there is none. */
const char *preflight_fact(const struct cutover *c, const char *key);
bool preflight_is(const struct cutover *c, const char *key);

/* Names that a query gives as one JSON array of strings. */
struct names {
    size_t count;
    char *text; /* with commas; never NULL after preflight_names() */
};
/* The template goes through context_expand(). The caller ends it with free(out->text). */
MUST_CHECK bool preflight_names(struct cutover *c, const char *template, struct names *out,
                                struct failure *f);

/* How long the exclusive lock will be held, in milliseconds, when the table is rewritten under it
 * or not. */
uint64_t preflight_estimate_ms(const struct cutover *c, bool rewrites);

/* Each runs the checks of its file, in the READ ONLY transaction. */
MUST_CHECK bool preflight_table(struct cutover *c, struct failure *f);
MUST_CHECK bool preflight_replication(struct cutover *c, struct failure *f);
MUST_CHECK bool preflight_server(struct cutover *c, struct failure *f);
MUST_CHECK bool preflight_clients(struct cutover *c, struct failure *f);
MUST_CHECK bool preflight_sql(struct cutover *c, struct failure *f);
MUST_CHECK bool preflight_values(struct cutover *c, struct failure *f);

/* What the ticket's own SQL would do to this table, under "ticket"; after the values are known. */
MUST_CHECK bool preflight_ticket(struct cutover *c, const struct capture *capture,
                                 struct failure *f);
