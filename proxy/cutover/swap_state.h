/*
 * The row of a swap under way in pgsluice.swap: how far it has come, so that whoever comes next can
 * go on after any crash, and who may go on with it. It is written in the transactions that it
 * speaks of.
 */
#pragma once

#include "proxy/cutover/context.h"

/* What a swap has reached; the names are those of the column `phase`. */
enum swap_phase {
    SWAP_NONE,   /* no row */
    SWAP_COPY,   /* the shadow exists, changes are captured, rows are being copied */
    SWAP_FINISH, /* all rows are there; indexes, verification, flip are to come */
    SWAP_BAKE,   /* flipped: the old table is kept, and changes are logged for it */
    SWAP_BACK,   /* flipped back: what is left is to be dropped */
    SWAP_DROP,   /* being dropped, by an abort or by finish */
};

/* While the old table is kept. Times are UTC, as in "2026-11-25T08:30:00Z". */
struct swap_bake_time {
    char since[24];
    char until[24];    /* "": no end was given */
    bool over;         /* the end has come */
    int64_t followed;  /* changes that the old table has been given since the flip */
    char in_step[24];  /* when the follower last found nothing left to do; "": not yet */
    char trouble[512]; /* why the old table cannot follow; "": it can */
};

struct swap_row {
    enum swap_phase phase;
    unsigned from; /* the table before the flip, and its shadow: oids */
    unsigned to;
    char *expression;
    char *digest; /* of the table's shape when the shadow was made */
    char *cursor; /* the last key copied, as an SQL array of texts; NULL: none yet */
    char *upto;   /* the last key to be copied: what has come since is in the log; NULL: no row */
    int64_t copied;
    bool made_schema; /* schema pgsluice was made for this swap */
    json_t *validate; /* statements to be run after the flip */
    struct swap_bake_time bake;
};

#define SWAP_TAKEN "PSL06" /* another run goes on with the swap */

/* Creates the table where it is missing. */
extern const char swap_state_create_sql[];

/* SWAP_NONE also where the schema or the table does not exist. */
MUST_CHECK bool swap_state_read(struct cutover *c, struct swap_row *out, struct failure *f);
void swap_row_fini(struct swap_row *row);
/* For people: "copying rows". */
const char *swap_phase_text(enum swap_phase phase);

/* SQL, one statement: the new row, of the table and its `shadow` (quoted); the caller frees, NULL
 * when out of memory. */
char *swap_state_insert_sql(const struct cutover *c, const char *shadow, const char *digest,
                            bool made_schema);
/* SQL, a PL/pgSQL statement that fails (SWAP_TAKEN) when the swap is somebody else's by now.
 * `validate` may be NULL: it stays. SWAP_BAKE begins the bake time of c->options. */
char *swap_state_enter_sql(const struct cutover *c, enum swap_phase phase, const json_t *validate);
/* Keeps other runs away for as long as c->control lasts; waits a little for the backend of a
 * connection that was lost, and for a turn of the follower. SWAP_TAKEN when another run is at work.
 * Not in a transaction. */
MUST_CHECK bool swap_state_lead(struct cutover *c, struct failure *f);
/* A new c->control in the place of a lost one, whose backend is ended if it still keeps others
 * away: where a connection has fallen silent the server knows nothing of its end. */
MUST_CHECK bool swap_state_reconnect(struct cutover *c, bool abortable, struct failure *f);
/* The same for one turn of the follower, which stands back: *leads is false at once where somebody
 * else is at work. Ends with swap_state_unlead(). */
MUST_CHECK bool swap_state_try_lead(struct cutover *c, bool *leads, struct failure *f);
MUST_CHECK bool swap_state_unlead(struct cutover *c, struct failure *f);
/* Makes c->control the one connection of all proxies that follows this table, for as long as it
 * lasts; *follows is false where there is another. */
MUST_CHECK bool swap_state_follow(struct cutover *c, bool *follows, struct failure *f);
/* What a turn of the follower has done; `trouble` may be "". */
MUST_CHECK bool swap_state_followed(struct cutover *c, uint64_t changes, bool in_step,
                                    const char *trouble, struct failure *f);
/* Takes the swap over for this run, from whoever had it. */
MUST_CHECK bool swap_state_take(struct cutover *c, struct failure *f);
/* Enters the phase in a transaction of its own. */
MUST_CHECK bool swap_state_enter(struct cutover *c, enum swap_phase phase, struct failure *f);
/* There is nothing left to validate. */
MUST_CHECK bool swap_state_validated(struct cutover *c, struct failure *f);
