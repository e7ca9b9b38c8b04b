/*
 * What the server's catalog says of the guarded tables, read over the control connection into
 * immutable snapshots. A thread of its own reads it again on a timer, on request and after a
 * cutover; sessions look at the epoch with one load and take the newer snapshot when it changed.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "proxy/config.h"
#include "proxy/failure.h"
#include "rules/rules.h"

/* The rules in force for one database. Counted; free of locks once taken. */
struct catalog_database {
    char *name;
    struct rule_set *set;
    /* set's rule i is configuration rule rule_index[i] */
    size_t *rule_index;
    size_t rule_count;
    uint64_t computes; /* bit i: configuration rule i is here in mode compute, */
    uint64_t computed; /* and pgsluice puts its key in: the server does not compute it yet */
    /* default_transaction_isolation of the server, the database or any role is above READ COMMITTED
     */
    bool snapshot_default;
    /* What the server has against a rule's expression, and that rule's mode; NULL: nothing */
    char *complaint;
    enum rule_mode complaint_mode;
};

struct catalog_snapshot {
    uint64_t epoch;
    struct catalog_database *databases;
    size_t database_count;
};

struct catalog;

/* Connects to each rule's database, reads it, and starts the refreshing thread. False when a rule
 * cannot be served: table or column missing, strip on a table partitioned by the column, an
 * expression under compute that the server does not understand (under other modes it is a warning),
 * server unreachable, wrong password. Without rules: an empty snapshot and no thread. */
MUST_CHECK bool catalog_open(const struct config *config, struct catalog **out, struct failure *f);
void catalog_close(struct catalog *catalog);

uint64_t catalog_epoch(const struct catalog *catalog); /* one acquire load */
/* The newest snapshot, counted: end with catalog_unref(). */
struct catalog_snapshot *catalog_ref(struct catalog *catalog);
/* Counts one that the caller has once more. */
void catalog_share(struct catalog_snapshot *snapshot);
void catalog_unref(struct catalog *catalog, struct catalog_snapshot *snapshot);
/* Borrowed from the snapshot; NULL when no rule concerns the database. */
const struct catalog_database *catalog_find(const struct catalog_snapshot *snapshot,
                                            const char *database);

/* Reads with `config`, which has the same rules in other modes, from now on; returns at once. */
void catalog_reconfigure(struct catalog *catalog, const struct config *config);
/* While expected, rule `rule` counts as reordered whatever the catalog says: what is then sent is
 * right before and after an in-place flip, so that the flip need not wait for a reading. Reads now.
 */
MUST_CHECK bool catalog_expect_move(struct catalog *catalog, size_t rule, bool expected,
                                    struct failure *f);
void catalog_request_refresh(struct catalog *catalog); /* returns at once */
/* Whether a reading that was asked for has not ended yet. Two loads. */
bool catalog_is_awaited(const struct catalog *catalog);
/* Reads now, in the calling thread, and publishes: after a flip, before the gate opens. */
MUST_CHECK bool catalog_refresh(struct catalog *catalog, struct failure *f);
