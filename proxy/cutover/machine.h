/*
 * The machine that flips a table, forward or back:
 *
 *   GATE ──> ARM ──> HOLD ──> FLIP ──> RELEASE ──> DONE
 *    ^        │       │        │ └──> IN_DOUBT ──> RELEASE | BACKOFF | UNKNOWN
 *    └─────────── BACKOFF <────┘          any state ──> FAILED
 *
 * GATE    begins the transaction with a lock that keeps DDL and VACUUM away and stalls nobody
 * ARM     counts what is in flight; waits while a long transaction has the table
 * HOLD    holds new writes at the proxy and lets those in flight end
 * FLIP    one message to the server: lock, checks, DDL, state row, COMMIT
 * BACKOFF opens the gate, waits, and tries again with a longer lock timeout
 *
 * The gate is open whenever the machine waits for anything but the flip itself, and at every end.
 */
#pragma once

#include "proxy/cutover/compose.h"
#include "proxy/cutover/context.h"

struct flip {
    bool generated; /* what the column is after it */
    bool moves; /* some texts mean something else after it: from before the first hold on, sessions
                 * send what suits both shapes, as if the column were about to move to the end */
    /* Called in GATE outside of any transaction: comes back when the command is not paused, and
     * does meanwhile what must go on. NULL: nothing must. False when aborted. */
    bool (*await_go)(struct cutover *c, void *arg, struct failure *f);
    /* Called in the transaction of GATE, with DDL kept away: examines once more and composes. */
    bool (*prepare)(struct cutover *c, void *arg, struct flip_sql *out, struct failure *f);
    /* Called before each hold, and in it with `holding` when no write is in flight any more: leaves
     * less to do for the flip. Not on c->control. May be NULL. */
    bool (*approach)(struct cutover *c, void *arg, bool holding, struct failure *f);
    void *arg;
};

/* Runs until the flip is committed (EXIT_DONE), refused or failed with nothing changed
 * (EXIT_REFUSED), or of unknown outcome (EXIT_UNKNOWN); `f` says why. Reports "attempts", "hold"
 * and "timeline". */
enum exit_code machine_run(struct cutover *c, const struct flip *flip, struct failure *f);
