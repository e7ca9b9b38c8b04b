/*
 * The checks before a cutover or a rollback. They change nothing: they read in a READ ONLY
 * transaction, and what must be tried is tried on temporary tables in one that is always rolled
 * back.
 */
#pragma once

#include "proxy/cutover/capture.h"
#include "proxy/cutover/context.h"

/* Runs every check of the cutover into the report. False only when the examination itself could not
 * be done (`f`); a check that says BLOCK sets c->blocked. */
MUST_CHECK bool preflight_cutover(struct cutover *c, struct failure *f);

/* Sessions that stand in the way now or soon: "size", "hold", "long-transactions". Of both ways. */
void preflight_size(struct cutover *c, bool rewrites);
MUST_CHECK bool preflight_sessions(struct cutover *c, struct failure *f);
/* "role" and "state-schema". */
void preflight_rights(struct cutover *c);

/* Finds the trigger that computes the column, into c->trigger and c->capture, and reports on it:
 * "trigger", "trigger-body" and "function". */
MUST_CHECK bool preflight_trigger(struct cutover *c, struct failure *f);
/* The same without a report, for seeing whether anything has changed: a digest of what was found;
 * the caller frees it. */
char *preflight_trigger_digest(struct cutover *c, struct failure *f);
/* "expression": whether the server takes it for a generated column of the type; its own spelling of
 * it goes into *canonical, which the caller frees. In a transaction that is rolled back. */
MUST_CHECK bool preflight_expression(struct cutover *c, char **canonical, struct failure *f);

/* What the capture found, under "captured", and the check "dependents". */
void preflight_report_capture(struct cutover *c, const struct capture *capture);
