/*
 * A table's catalog entries as lines of text without object identifiers, so that before and after
 * can be compared. What the cutover means to change is left out: whether and how the guarded column
 * is computed, the trigger that computes it, and the column's number.
 */
#pragma once

#include "proxy/cutover/context.h"

/* A query of one column, in pieces up to a NULL; a template for context_expand(). The lines come in
 * no order. */
extern const char *const shape_sql[];
/* The lines that shape_sql leaves out, for noticing a change between preflight and flip. */
extern const char shape_intended_sql[];

/* A digest of both, without the triggers of a swap's capture, for noticing a change while one is
 * under way. The caller frees it; NULL with `f`. */
char *shape_digest(struct cutover *c, struct failure *f);
