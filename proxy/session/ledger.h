/*
 * What a session must remember of the statements it let through: which prepared statements write a
 * guarded table or supply a key (for the gate and the audit, at each Bind), and which answers of the
 * server are to the proxy's own failing statements (refusals).
 *
 * Pure bookkeeping by name and by position in the stream of ReadyForQuery; knows no sockets.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/bytes.h"
#include "rules/rules.h"

/* What the audit will say at each execution of a prepared statement. */
struct ledger_note {
    struct supplied *supplied; /* .rule is the configuration's index */
    size_t count;
    uint64_t fingerprint;
    char *text;
    bool edited; /* else observed */
};

struct ledger_statement {
    uint64_t writes;          /* bit i: configuration rule i's table */
    struct ledger_note *note; /* NULL: it supplies no key */
};

struct ledger_refusal {
    uint64_t id;   /* stands in the failing statement */
    uint64_t sync; /* the number of the ReadyForQuery that ends its batch */
    char sqlstate[6];
    char *message, *detail, *hint;
    char position[12]; /* "" where none applies */
};

struct ledger {
    struct ledger_named *named;
    size_t named_count;
    /* More writing statements than LEDGER_NAMES_MAX were prepared: every Bind counts as a write of
     * these, so that a client cannot make the proxy's memory grow. */
    uint64_t overflow_writes;
    struct ledger_statement unnamed;
    struct ledger_refusal *refusals; /* oldest first */
    size_t refusal_count;
    uint64_t next_refusal;
};

#define LEDGER_NAMES_MAX 4096
#define LEDGER_REFUSALS_MAX 1024

void ledger_fini(struct ledger *ledger);
static inline bool ledger_is_empty(const struct ledger *ledger)
{
    return ledger->named == NULL && ledger->unnamed.writes == 0 && ledger->unnamed.note == NULL &&
           ledger->overflow_writes == 0;
}
/* A Parse went through. `writes` has a bit for each configuration rule, `rule_index` maps the
 * verdict's rules to them. One that neither writes nor supplies forgets the name. False when out of
 * memory. */
bool ledger_parsed(struct ledger *ledger, struct span name, const struct verdict *verdict,
                   uint64_t writes, const size_t *rule_index);
void ledger_closed(struct ledger *ledger, struct span name);
/* The statement of that name; zeros when nothing is to be remembered of it. */
struct ledger_statement ledger_find(const struct ledger *ledger, struct span name);

/* Notes a refusal whose batch ends with ReadyForQuery number `sync`. A batch has one at most: behind
 * it the server skips to the Sync, so that a later one is never asked for and gets the same. NULL when
 * out of memory or full. Borrowed until the next call. */
const struct ledger_refusal *ledger_refuse(struct ledger *ledger, const struct verdict *verdict,
                                           uint64_t sync);
/* No refusal of batch `sync` can be noted until the server has answered earlier ones. */
bool ledger_is_full(const struct ledger *ledger, uint64_t sync);
/* The refusal that an error with `message`, within the batch before ReadyForQuery `sync`, answers. */
const struct ledger_refusal *ledger_answers(const struct ledger *ledger, const char *nonce,
                                            const char *message, uint64_t sync);
/* ReadyForQuery number `sync` arrived: refusals up to it are answered or were skipped. */
void ledger_ready(struct ledger *ledger, uint64_t sync);
/* The text that makes the server fail, in `room`: recognised by ledger_answers(). */
#define LEDGER_POISON_MAX 128
size_t ledger_poison(char room[LEDGER_POISON_MAX], const char *nonce, uint64_t id);
