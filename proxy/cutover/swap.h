/*
 * The swap: a second table is filled beside the one that applications use, follows its changes, and
 * takes its place in one short transaction; the first one follows from then on, until `finish`
 * drops it or `rollback` exchanges them again.
 *
 *   begin ──> copy ──> finish ──> flip ──> bake ──> finish: dropped
 *                                            └────> back: flipped back, dropped
 *
 * Where a swap has come to stands in pgsluice.swap, so that any run goes on where another has ended
 * without having been able to clean up.
 */
#pragma once

#include "proxy/cutover/context.h"
#include "proxy/cutover/state.h"
#include "proxy/cutover/swap_state.h"

/* What can be known before: refusals of the shape, the rows that an earlier run has copied. Reads
 * only. Adds the checks "shadow" and "swap". */
MUST_CHECK bool swap_preflight(struct cutover *c, struct failure *f);
/* The plan's statements into the report: "sql", "locks", "strategy", and an estimate. */
MUST_CHECK bool swap_plan(struct cutover *c, struct failure *f);

/* The cutover, after the preflight. */
enum exit_code swap_forward(struct cutover *c, json_t **report);
/* The way back within the bake time, of the flip that `run` tells of. */
enum exit_code swap_back(struct cutover *c, struct state_run *run, json_t **report);
/* Drops what the flip has kept. */
enum exit_code swap_finish(struct cutover *c, const struct state_run *run,
                           const struct swap_row *row, json_t **report);
/* Takes away everything that an unfinished swap has made; *left says what could not be. */
MUST_CHECK bool swap_clean(struct cutover *c, struct failure *f);
