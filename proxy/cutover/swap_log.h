/*
 * The log of a swap: which keys have changed in the table that applications use, so that they can
 * be read again for the table beside it. It is written by triggers, in the writer's own
 * transaction, and only ever appended to: no isolation level can make it fail or wait.
 *
 * TRUNCATE is a row of its own, for the table or, with its bounds, for one partition. Its exclusive
 * lock is held to the end of its transaction, so that here the number does order it: of the rows
 * that it took away, every log row has a lower one and is visible when it is.
 *
 * A log row is taken out and the row that it names copied in one transaction with one snapshot. A
 * number in the log says nothing of the order of commits, so that no high-water mark is kept: what
 * is visible and there is still to be done.
 */
#pragma once

#include "proxy/cutover/context.h"

/* One way of moving rows: from the table that applications write to the one beside it. */
struct swap_way {
    unsigned from;     /* oid, after which the log is named */
    char *from_name;   /* quoted; both as they are called while rows move this way */
    char *to_name;     /* quoted */
    char *columns;     /* quoted, with commas: those that are written */
    char *all_columns; /* the same with the generated ones, for comparing */
    char *key;         /* quoted, with commas */
    size_t key_count;
    char **key_names; /* quoted */
    char **key_types;
    bool forward; /* `from` has the trigger, `to` the generated column */
};

struct shadow;
/* The way from the table to `to_name`, with the columns of `shape`. Reads the key's types from the
 * table `from`, whatever it is called now. */
MUST_CHECK bool swap_way_init(struct cutover *c, const struct shadow *shape, bool forward,
                              unsigned from, const char *to_name, struct swap_way *out,
                              struct failure *f);
void swap_way_fini(struct swap_way *way);

/* SQL: the log's table and functions, which take no lock on either table; the triggers, on `table`,
 * as statements (SHARE ROW EXCLUSIVE: waits for open writers, so that none is missed); their
 * removal (ACCESS EXCLUSIVE); the removal of the rest. The caller frees; NULL when out of memory.
 */
char *swap_log_create_sql(const struct cutover *c, const struct swap_way *way);
char *swap_log_arm_sql(const struct cutover *c, const struct swap_way *way, const char *table);
char *swap_log_disarm_sql(const char *table);
char *swap_log_drop_sql(unsigned from);
/* Makes the triggers do nothing, without any lock on their table. */
char *swap_log_silence_sql(unsigned from);

/* SQL, a PL/pgSQL statement: replays everything. For the flip, where the lock keeps writers away.
 */
char *swap_log_drain_sql(const struct swap_way *way);

/* Takes up to `most` rows out of the log (0: all) and copies what they name; *count says how many.
 * A transaction of its own on `control`, of which each statement may take `timeout_ms`. */
MUST_CHECK bool swap_log_replay(struct control *control, const struct swap_way *way, uint64_t most,
                                unsigned timeout_ms, uint64_t *count, struct failure *f);
/* Replays until what came meanwhile took no longer than `ms`, or than a turn takes at all. */
MUST_CHECK bool swap_log_catch_up(struct cutover *c, struct control *control,
                                  const struct swap_way *way, unsigned ms, struct failure *f);

#define SWAP_VALUE "PSL05" /* a row's value is not the expression's */
