/*
 * The shape of a swap: a second table that becomes the table, with everything that stands on the
 * first one carried over, and the same in the opposite direction. Moves no rows: what captures,
 * copies, replays and compares them calls this, in this order:
 *
 *   shadow_plan      reads the catalog; refuses by name what cannot be carried over
 *   shadow_create    the empty shadow table                      a transaction of its own
 *     ... rows are copied and replayed ...
 *   shadow_finish    indexes, statistics objects, ANALYZE        one statement each, no transaction
 *   shadow_flip      the exchange                                in the flip's transaction
 *     ... shadow_flip.after: VALIDATE of the foreign keys        one statement each, no transaction
 *   shadow_drop      the table that is not the table any more, or not yet
 *
 * Names are made of the table's own, so that a run that resumes finds them again: the shadow is
 * TABLE_pgsluice_new, and what was the table is kept as TABLE_pgsluice_old, in the same schema.
 * The way back (SHADOW_BACK) is the same exchange with these two names swapped: _old becomes the
 * table, and what was the table becomes _new.
 *
 * A foreign key of the shadow would refuse an application's DELETE in the table it points to for
 * as long as the shadow has not yet lost the row that the table has lost already. Foreign keys of
 * both directions are therefore made in the flip, NOT VALID, and validated after it; the table that
 * is put aside has none.
 */
#pragma once

#include "proxy/cutover/compose.h"
#include "proxy/cutover/context.h"

enum shadow_direction {
    SHADOW_FORWARD, /* TABLE goes to _old, _new becomes TABLE, generated */
    SHADOW_BACK,    /* TABLE goes to _new, _old becomes TABLE, with its trigger */
};

struct shadow {
    enum shadow_direction direction;
    unsigned from;       /* oid of the table that applications use now */
    unsigned to;         /* oid of the table that is to take its place; 0: not created yet */
    char *relation;      /* quoted: the table that is to take its place */
    char *aside;         /* quoted: where the present table goes */
    char *relation_name; /* the same two, unquoted, without the schema */
    char *aside_name;
    /* The columns that are copied, quoted, with commas: without the guarded column and without
     * other generated columns. The way back has to write the guarded one as well: the table may be
     * partitioned by it, and then no trigger can compute it. Identity columns of the table that is
     * not in use are BY DEFAULT until they are flipped, so that plain INSERT and UPDATE may set
     * them. */
    char *columns;
    char *all_columns; /* the same with the generated ones, for comparing rows */
    /* The columns of the index that tells rows apart, quoted, with commas: the primary key, else a
     * unique index over NOT NULL columns, neither partial nor over expressions nor deferrable. One
     * that does without the guarded column is preferred. Both tables have it from the start. */
    char *key;
    bool key_guarded;   /* `key` has the guarded column */
    unsigned key_index; /* oid; 0: none, which is refused */
    json_t *reads;      /* names of the columns that the expression reads */
    json_t *key_names;  /* the same columns, unquoted */
    /* Of a partitioned table, the other one's PARTITION BY; NULL: not partitioned. No partition key
     * can have a generated column: what is partitioned by the guarded column becomes HASH by the
     * columns of the key that the expression reads, with as many partitions (`hashed`). Partitions
     * are named as the tables are: PARTITION_pgsluice_new, PARTITION_pgsluice_old. */
    char *partition_by;
    bool hashed;
    /* Objects {"what": "materialized view m", "why": "it cannot ..."}: nothing may begin while
     * there is one. */
    json_t *refusals;
    /* Triggers that stay on the table that had them: the one that computes the column. As the right
     * side of <> in SQL. */
    char *triggers_kept;
};

/* Reads the catalog, in whatever transaction is open. c->table has been read, for SHADOW_BACK with
 * the generated column in place. Call it again after shadow_create(), so that `to` is known, and
 * in the transaction of GATE. False when the catalog cannot be read; refusals are no failure. */
MUST_CHECK bool shadow_plan(struct cutover *c, enum shadow_direction direction, struct shadow *out,
                            struct failure *f);
void shadow_fini(struct shadow *shadow);

/* Adds a check for each refusal ("shadow", BLOCK), or one that passes. */
void shadow_report(struct cutover *c, const struct shadow *shadow);

/*
 * The statements are JSON arrays of strings, which the caller ends with json_decref(); NULL on
 * failure. The longer ones can be run with shadow_run().
 */

/* SHADOW_FORWARD only. To be run in one transaction, together with the capture's trigger and
 * tables if that is wanted: the table itself is only read (ACCESS SHARE). The columns are in the
 * table's order, with types, collations, defaults, NOT NULL, storage, compression, statistics
 * targets, options, owner, tablespace, persistence and access method; CHECK constraints that hold
 * for every row; the key. Nobody but the owner may read it. */
json_t *shadow_create(struct cutover *c, const struct shadow *shadow, struct failure *f);

/* What shadow->relation lacks and can be given outside of the flip: other indexes with their
 * constraints, statistics objects, ANALYZE. Of a table that nobody uses: the locks do not matter,
 * the time does. Leaves out what is there already, so that it can be resumed, and after a change
 * of the table's indexes be run again; the flip insists that nothing is missing. */
json_t *shadow_finish(struct cutover *c, const struct shadow *shadow, struct failure *f);

/*
 * The exchange, to be composed in the transaction of GATE. The message of the flip is
 *
 *   SAVEPOINT; SET LOCAL lock_timeout;
 *   `first`;                                   ("" or DDL that locks views before the table, in the
 *                                              order of their readers; each within lock_timeout)
 *   LOCK TABLE `lock` IN ACCESS EXCLUSIVE MODE;
 *   DO $$ DECLARE `declare` ... BEGIN
 *     (the caller's: drain of the log, dropping the capture's triggers, counts)
 *     `body`
 *     (the caller's: state row)
 *   END $$; COMMIT
 *
 * Triggers of the capture are named pgsluice_*: they are not carried over, and none may be left on
 * either table before `body`, which raises
 * FLIP_CHANGED when something was altered since it was composed, and FLIP_DIFFERENT when the
 * table's catalog entries afterwards are not those from before, except for what is meant.
 */
struct shadow_flip {
    char *first;
    char *lock;
    char *declare;
    char *body;
    char *plan; /* the statements for people, one a line */
    /* Statements for after the commit, to be kept with the state row: they validate the foreign
     * keys of both directions that were valid before. Each takes SHARE UPDATE EXCLUSIVE and ROW
     * SHARE, and reads a table; to be run again as often as one likes. */
    json_t *after;
};
MUST_CHECK bool shadow_flip(struct cutover *c, const struct shadow *shadow, struct shadow_flip *out,
                            struct failure *f);
void shadow_flip_fini(struct shadow_flip *flip);

/* For people, in a plan: what create, finish and flip would do, and after it. Before the other
 * table exists, without the renames of what it will have and without the grants and comments. */
json_t *shadow_outline(struct cutover *c, const struct shadow *shadow, struct failure *f);

/* Drops TABLE_pgsluice_new and TABLE_pgsluice_old, whichever exist: an abort before the flip, or
 * finish after it. One statement each; the brief ACCESS EXCLUSIVE lock is on what nobody uses. */
json_t *shadow_drop(struct cutover *c, struct failure *f);

/* Runs the statements one after another, each with this time limit. */
MUST_CHECK bool shadow_run(struct cutover *c, const json_t *statements, unsigned timeout_ms,
                           struct failure *f);
