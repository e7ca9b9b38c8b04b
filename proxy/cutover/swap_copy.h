/*
 * Copies the rows that a table has into its shadow, in the order of their key, in batches that take
 * about as long as a writer may notice; and compares the two tables afterwards.
 *
 * A batch inserts rows as its snapshot has them. What changes after that snapshot is in the log,
 * because the log was there before the first batch; and what the log has put into the shadow
 * already the batch leaves alone.
 */
#pragma once

#include "proxy/cutover/context.h"
#include "proxy/cutover/swap_log.h"
#include "proxy/cutover/swap_state.h"

/* Goes on behind row->cursor until no row is left, replaying the log on the way. Where the run has
 * come to is written with every batch. */
MUST_CHECK bool swap_copy(struct cutover *c, const struct swap_way *way, struct swap_row *row,
                          struct failure *f);

/* Compares every row of both tables, by key; what waits in the log is left out. A difference is a
 * failure that names a key. *rows counts what was compared. */
MUST_CHECK bool swap_compare(struct cutover *c, const struct swap_way *way, int64_t *rows,
                             struct failure *f);

/* Waits until no transaction is left that has an older snapshot than now: it would see the rows of
 * the other table as they were copied, not as they are. */
MUST_CHECK bool swap_await_snapshots(struct cutover *c, const struct swap_way *way,
                                     struct failure *f);
