/*
 * A control connection: the proxy's own login at the server, through libpq, for the catalog and the
 * cutover. Application traffic never passes here.
 *
 * Every call is driven by poll(2) in short slices, so that a deadline and the owner's wish to stop
 * are respected wherever the server hangs. One thread at a time uses a connection.
 */
#pragma once

#include <libpq-fe.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/failure.h"

struct control;

struct control_target {
    const char *conninfo;    /* libpq keywords */
    const char *database;    /* NULL: the one that conninfo names */
    const char *host, *port; /* this host of all that conninfo may name; NULL: libpq chooses */
    const char *hostaddr;    /* of that host; NULL: by its name */
    bool impatient; /* past a deadline the connection is given up, and not a cancel waited for: for
                       questions of which nobody needs to know how they ended */
    bool (*abort_requested)(void *arg); /* NULL: nobody ever asks */
    void *abort_arg;
};

/* Connects and brings the session into a known state: UTF8, search_path pg_catalog, READ COMMITTED,
 * no timeouts but one for idle transactions (30 s), row security off (an error instead of missing
 * rows). The time limit is conninfo's connect_timeout for each host, 10 s where it has none. On
 * false, *out is NULL. The caller ends it with control_close(). */
MUST_CHECK bool control_open(const struct control_target *target, struct control **out,
                             struct failure *f);
void control_close(struct control *control); /* NULL is allowed */

/* From here on abort requests are not heard: for cleaning up after one. */
void control_ignore_abort(struct control *control);

int control_version(const struct control *control);          /* as server_version_num */
int control_backend_pid(const struct control *control);      /* of the server's process */
const char *control_database(const struct control *control); /* borrowed */
/* The connection is gone: what was on its way may or may not have been done. */
bool control_is_lost(const struct control *control);

/* Runs one statement with text parameters (NULL is NULL) and returns its result, which the caller
 * ends with PQclear(). NULL on failure: `f` then has the server's SQLSTATE and words. After
 * `timeout_ms` (0: none), or when an abort is requested, the statement is cancelled (57014), or by
 * who is impatient the connection given up (57014 too). */
MUST_CHECK PGresult *control_query(struct control *control, const char *sql, size_t count,
                                   const char *const *values, unsigned timeout_ms,
                                   struct failure *f);

/* The same for a statement of which only the success matters. */
MUST_CHECK bool control_run(struct control *control, const char *sql, unsigned timeout_ms,
                            struct failure *f);

/* Sends `sql`, which may hold several statements, as one simple Query message; `on_result` (may be
 * NULL) sees each successful result in turn, borrowed. False at the first error. */
MUST_CHECK bool control_batch(struct control *control, const char *sql, unsigned timeout_ms,
                              void (*on_result)(void *arg, const PGresult *result), void *arg,
                              struct failure *f);

/* Runs `sql`, a COPY ... FROM STDIN, with these bytes as its data: some megabytes at most. */
MUST_CHECK bool control_copy(struct control *control, const char *sql, const char *data, size_t len,
                             unsigned timeout_ms, struct failure *f);

/* Quoted for use in SQL text; the caller frees with free(). NULL when out of memory. */
char *control_quote_identifier(struct control *control, const char *name);
char *control_quote_literal(struct control *control, const char *value);
