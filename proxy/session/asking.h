/*
 * How long a statement may wait at a gate: as long as its server would let it wait for a lock. That
 * is asked of the session's own server, once a statement has waited for a moment: a held session
 * has no transaction and nothing unanswered, so its server is idle and knows what no reading of
 * texts could tell for certain (functions that set it, settings that were rolled back, those of a
 * role in a database). The question is a batch of its own, under names of its own, and its answer
 * is not passed on.
 *
 * statement_timeout ends the statement, as on the server. After lock_timeout, or
 * transaction_timeout of PostgreSQL 17, it goes to the server, which waits for the lock and says
 * itself what follows; so it does at once when the server answers with an error.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct session;

struct asking {
    bool is_asked;               /* the answer, up to its ReadyForQuery, is still to come */
    bool is_known;               /* for the statement that is held: */
    uint64_t cancel_ms, pass_ms; /* how long it may wait; 0: for ever */
};

enum asking_verdict {
    ASKING_WAIT,
    ASKING_PASS,   /* it is the server's turn */
    ASKING_CANCEL, /* statement_timeout is over */
};

/* A statement that is held has waited so long. May ask the server. */
enum asking_verdict asking_look(struct session *s, uint64_t waited_ns);
/* Whether a message of the server may belong to an answer. */
bool asking_expects(const struct session *s, uint8_t type);
/* Takes such a message, which is whole; false when it is for the client after all. */
bool asking_take(struct session *s, const uint8_t *message, size_t size);
