/*
 * The flip of a swap, either way: the one message that drains the log under the lock, exchanges the
 * two tables and turns the capture round, so that the table put aside follows from then on.
 */
#pragma once

#include "proxy/cutover/compose.h"
#include "proxy/cutover/context.h"
#include "proxy/cutover/shadow.h"
#include "proxy/cutover/swap_log.h"

struct swap_flip {
    struct control *mover; /* moves rows while c->control has GATE's transaction */
    json_t *after;         /* for after the commit */
};
void swap_flip_fini(struct swap_flip *flip);

/* In GATE's transaction. Forward when `back_from` is NULL, else back, of the run of that id. */
MUST_CHECK bool swap_flip_compose(struct cutover *c, struct swap_flip *flip,
                                  const struct shadow *shape, const struct swap_way *way,
                                  const char *back_from, struct flip_sql *out, struct failure *f);
/* The column keeps its place, but COPY ... TO knows nothing of a generated one. Under mode compute
 * the statements that depend on the shape are held until the proxy knows the new one. */
bool swap_flip_moves(const struct cutover *c);
/* Catches up with the log; with `holding`, to its end. */
MUST_CHECK bool swap_flip_approach(struct cutover *c, struct swap_flip *flip,
                                   const struct swap_way *way, bool holding, struct failure *f);
/* After the commit: validates the foreign keys, and drops the log that is not needed any more, that
 * of the table `from`. What fails is a warning, and done again by finish. */
void swap_flip_after(struct cutover *c, struct swap_flip *flip, unsigned from);
