/*
 * COPY streams of one session's client that a rule takes columns out of, or adds a computed one to.
 * The statement that begins one was edited, so that the server has no place for the columns; here
 * every CopyData goes through the stream's filter (rules/copy_filter.h), and leaves as another one.
 *
 * Should the session lose track (a portal that it does not know), the stream goes unfiltered, and
 * the server refuses it for its extra column: no value gets through. Of a computed column that is
 * not so: the session ends rather than forget such a portal. Where a value is not certain, the rest
 * of the stream goes nowhere, and the client's CopyDone becomes a CopyFail.
 */
#pragma once

#include "proxy/session/session.h"

/* A Query goes to the server that takes the streams of this verdict, in order. False when out of
 * memory. */
bool copying_begin(struct session *s, const struct verdict *verdict);
/* A Bind makes `portal` of a statement that takes a stream; `note` is NULL or has no stream: of any
 * other. */
bool copying_bound(struct session *s, struct span portal, const struct ledger_note *note);
/* An Execute of `portal` goes to the server. */
bool copying_executed(struct session *s, struct span portal);
/* Whether the CopyData that comes next is the filter's. */
bool copying_filters(const struct session *s);
/* Bytes of CopyData; what stays of them goes into the worker's batch. */
void copying_data(struct session *s, const uint8_t *bytes, size_t len);
/* CopyDone (the last of what stays goes into the batch) or CopyFail. True when another message was
 * put in its place. */
bool copying_ended(struct session *s, bool done);
/* ReadyForQuery: what it answers takes no more rows. */
void copying_ready(struct session *s);
/* The session ends, in a COPY perhaps. */
void copying_gone(struct session *s);
void copying_free(struct copying *copying); /* NULL is allowed */
