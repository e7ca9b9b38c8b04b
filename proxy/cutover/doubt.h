/*
 * Finds out what became of a COMMIT whose answer was lost. Nothing is ever sent again before this
 * has said that the transaction did not happen.
 */
#pragma once

#include "proxy/cutover/context.h"

/* By which a transaction can be recognised afterwards. */
struct flip_mark {
    char xid[24]; /* 64 bits, as txid_current() gives it */
    char pid[12];
};
MUST_CHECK bool doubt_mark(struct control *control, struct flip_mark *out, struct failure *f);

enum doubt { DOUBT_COMMITTED, DOUBT_ABORTED, DOUBT_UNKNOWN };

/* Asks the server until it knows, at most for a minute: the state row, the transaction's own status
 * and the column must agree. A backend that is still busy with the transaction is terminated: it is
 * ours, and nobody will ever read its answer. An abort request is not heard here. */
enum doubt doubt_resolve(struct cutover *c, const struct flip_mark *mark, bool generated,
                         struct failure *f);
