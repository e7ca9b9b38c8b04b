/*
 * What is bound to the parameters of a prepared statement against the expression's value: which
 * executions supplied another value, and which of these the rule refuses. Called by
 * judging_prepared.c.
 */
#pragma once

#include "proxy/session/session.h"
#include "rules/compare.h"

/* A longer Bind is not compared: its values go on as they come in. */
#define COMPARED_BIND ((size_t)384 * 1024)

/* Whether the values of a Bind of this statement are looked at, so that all of it must be there. */
bool comparing_wants(const struct session *s, struct span statement);

/* The set's rule that is rule `index` of the configuration, and what its values are compared by;
 * NULL: none. */
const struct compare_rule *comparing_rule(const struct session *s, size_t index,
                                          const struct rule **rule);

/* Compares what the message, a Bind, supplies, into note->compared. True when it is to be refused,
 * with `verdict` saying so in words that are kept in `room`. */
bool comparing_bind(struct session *s, struct ledger_note *note, const uint8_t *message,
                    size_t size, struct compare_words *room, struct verdict *verdict);
