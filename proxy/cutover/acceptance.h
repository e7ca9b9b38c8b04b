/*
 * The points of acceptance of a cutover, beyond the stored values: how the column is computed, that
 * nothing is left of the trigger, that an INSERT without the key works, and that nobody supplies
 * the key any more. Used by verify.c.
 *
 * What is wrong is BLOCK; what is not reached yet, or cannot be told, is WARN.
 */
#pragma once

#include "proxy/cutover/context.h"

/* "generated", "no-trigger", "no-function". Reads only; "method" is in the report. */
MUST_CHECK bool acceptance_catalog(struct cutover *c, struct failure *f);
/* "inserts": a row goes in without the key, in a transaction of its own that is rolled back. A
 * sequence's value may be used up. */
MUST_CHECK bool acceptance_trial(struct cutover *c, struct failure *f);
/* "clients": who has supplied the key, by the audit log, since the flip. */
MUST_CHECK bool acceptance_clients(struct cutover *c, struct failure *f);
