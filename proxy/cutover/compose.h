/*
 * Puts together the one message that flips a table, forward or back. The message takes the locks
 * and does everything else within a single DO statement, so that a single statement_timeout bounds
 * the time that the lock is held.
 */
#pragma once

#include "proxy/cutover/capture.h"
#include "proxy/cutover/context.h"

/* Codes that the flip raises by itself. */
#define FLIP_SNAPSHOTS "PSL02" /* a transaction's old snapshot would see the table empty */
#define FLIP_DIFFERENT "PSL03" /* the catalog would not be as before */
#define FLIP_CHANGED "PSL04"   /* the table is not as it was when it was examined */
#define FLIP_PROOF "pgsluice_proof"

struct flip_sql {
    char *first; /* what comes before the lock; NULL: none */
    char *lock;  /* the relations, for LOCK TABLE */
    char *body;  /* the DO statement */
    char *plan;  /* the statements for people, one a line */
};
void flip_sql_fini(struct flip_sql *sql);

/* Each reads what it needs in the transaction that is open on c->control, which should keep DDL
 * away from the table until the flip. */
MUST_CHECK bool compose_cutover(struct cutover *c, const struct capture *capture,
                                struct flip_sql *out, struct failure *f);
MUST_CHECK bool compose_rollback(struct cutover *c, const struct capture *capture,
                                 const char *flip_run, const json_t *taken_away,
                                 struct flip_sql *out, struct failure *f);

/* PL/pgSQL that raises FLIP_SNAPSHOTS where a transaction might see the table empty; uses the
 * variable found_ text. */
extern const char compose_snapshots_sql[];
/* A DO statement of the block, with a quote that does not occur in it; NULL when out of memory. */
char *compose_do(const char *block);

/* Before PostgreSQL 13 there is no DROP EXPRESSION: the way back rewrites the table, too. */
bool compose_rollback_rewrites(const struct cutover *c);

/* The whole message for one attempt; the caller frees it. */
char *compose_message(const struct flip_sql *sql, unsigned lock_ms, uint64_t hold_ms);
