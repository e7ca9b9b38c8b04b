/*
 * Control connections; see control.h. Used by the catalog's thread and the cutover's, each with
 * connections of its own.
 */
#include "proxy/control.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    SLICE_MS = 25,              /* how long an abort request may go unseen */
    CONNECT_TIMEOUT_MS = 10000, /* for each host, where conninfo says nothing */
    CANCEL_WAIT_MS = 5000,      /* how long a cancelled statement may take to end */
    CANCEL_AGAIN_MS = 250,
    KEYWORDS_MAX = 64,
};

struct canceller;

struct control {
    PGconn *conn;
    bool lost; /* given up although the socket is open */
    bool impatient;
    struct canceller *canceller; /* the last one; NULL: none was needed */
    bool (*abort_requested)(void *arg);
    void *abort_arg;
};

static void canceller_leave(struct canceller *canceller);

struct keywords {
    const char *names[KEYWORDS_MAX];
    const char *values[KEYWORDS_MAX];
    size_t count;
};

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void ignore_notice(void *arg, const char *message)
{
    (void)arg;
    (void)message;
}

static bool is_abort_requested(const struct control *control)
{
    return control->abort_requested != NULL && control->abort_requested(control->abort_arg);
}

static void wait_slice(const PGconn *conn, short events)
{
    struct pollfd p = {.fd = PQsocket(conn), .events = events};
    (void)poll(&p, 1, SLICE_MS);
}

static void set_sqlstate(struct failure *f, const char *sqlstate)
{
    if (f != NULL && sqlstate != NULL) {
        snprintf(f->sqlstate, sizeof f->sqlstate, "%s", sqlstate);
    }
}

/* The server's message without libpq's line ends and its "ERROR:  " in front. */
static bool fail_with_result(const PGresult *result, struct failure *f)
{
    const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
    const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    if (primary == NULL) {
        primary = PQresultErrorMessage(result);
    }
    if (detail != NULL) {
        fail(f, EXIT_REFUSED, "%s (%s)", primary, detail);
    } else {
        fail(f, EXIT_REFUSED, "%s", primary);
    }
    set_sqlstate(f, sqlstate);
    return false;
}

static bool fail_with_connection(const PGconn *conn, struct failure *f)
{
    const char *text = PQerrorMessage(conn);
    fail(f, EXIT_REFUSED, "%s", text[0] != '\0' ? text : "the connection to the server was lost");
    for (char *c = f != NULL ? f->msg : NULL; c != NULL && *c != '\0'; c++) {
        *c = *c == '\t' ? ' ' : *c; /* libpq's hints are indented */
    }
    set_sqlstate(f, "08006");
    return false;
}

static void set_keyword(struct keywords *k, const char *name, const char *value, bool replace)
{
    for (size_t i = 0; i < k->count; i++) {
        if (strcmp(k->names[i], name) == 0) {
            if (replace) {
                k->values[i] = value;
            }
            return;
        }
    }
    if (k->count + 1 < KEYWORDS_MAX) {
        k->names[k->count] = name;
        k->values[k->count] = value;
        k->count++;
        k->names[k->count] = NULL;
        k->values[k->count] = NULL;
    }
}

static const char *get_keyword(const struct keywords *k, const char *name)
{
    for (size_t i = 0; i < k->count; i++) {
        if (strcmp(k->names[i], name) == 0) {
            return k->values[i];
        }
    }
    return NULL;
}

/* connect_timeout counts for each host of the list, as in libpq's own blocking connect. */
static uint64_t connect_limit_ms(const struct keywords *k)
{
    uint64_t each = CONNECT_TIMEOUT_MS;
    const char *timeout = get_keyword(k, "connect_timeout");
    if (timeout != NULL) {
        long seconds = strtol(timeout, NULL, 10);
        if (seconds > 0 && seconds < 3600) {
            each = (uint64_t)seconds * 1000;
        }
    }
    uint64_t hosts = 1;
    const char *host = get_keyword(k, "host");
    if (host == NULL) {
        host = get_keyword(k, "hostaddr");
    }
    for (; host != NULL && *host != '\0'; host++) {
        hosts += *host == ',';
    }
    return each * hosts;
}

static bool drive_connect(struct control *control, uint64_t limit_ms, struct failure *f)
{
    uint64_t deadline = now_ms() + limit_ms;
    PostgresPollingStatusType status = PGRES_POLLING_WRITING;
    for (;;) {
        if (PQstatus(control->conn) == CONNECTION_BAD || status == PGRES_POLLING_FAILED) {
            return fail_with_connection(control->conn, f);
        }
        if (status == PGRES_POLLING_OK) {
            return true;
        }
        if (is_abort_requested(control)) {
            return fail(f, EXIT_REFUSED, "aborted while connecting");
        }
        uint64_t now = now_ms();
        if (now >= deadline) {
            const char *host = PQhost(control->conn);
            const char *port = PQport(control->conn);
            fail(f, EXIT_REFUSED, "connection to server at \"%s\", port %s timed out",
                 host != NULL ? host : "?", port != NULL ? port : "?");
            set_sqlstate(f, "08001");
            return false;
        }
        short events = status == PGRES_POLLING_READING ? POLLIN : POLLOUT;
        struct pollfd p = {.fd = PQsocket(control->conn), .events = events};
        if (poll(&p, 1, deadline - now < SLICE_MS ? (int)(deadline - now) : SLICE_MS) > 0) {
            status = PQconnectPoll(control->conn);
        }
    }
}

/* A proxy's host that vanishes must not leave locks behind for hours: the server asks after it.
 * client_connection_check_interval exists since 14 and not on every platform: best effort. */
static const char session_setup[] =
    "SET search_path = pg_catalog; SET default_transaction_isolation = 'read committed'; "
    "SET default_transaction_read_only = off; SET statement_timeout = 0; SET lock_timeout = 0; "
    "SET idle_in_transaction_session_timeout = '30s'; SET row_security = off; "
    "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; "
    "SET quote_all_identifiers = off; SET standard_conforming_strings = on; "
    "SET check_function_bodies = off; SET default_tablespace = ''; SET DateStyle = 'ISO'; "
    "SET IntervalStyle = 'postgres'; SET bytea_output = 'hex'; SET client_min_messages = 'error'; "
    "DO $$ BEGIN PERFORM set_config(name, CASE name "
    "WHEN 'client_connection_check_interval' THEN '500' ELSE '0' END, false) FROM pg_settings "
    "WHERE name IN ('client_connection_check_interval', 'idle_session_timeout', "
    "'transaction_timeout'); EXCEPTION WHEN OTHERS THEN NULL; END $$";

bool control_open(const struct control_target *target, struct control **out, struct failure *f)
{
    *out = NULL;
    char *why = NULL;
    PQconninfoOption *options = PQconninfoParse(target->conninfo, &why);
    if (options == NULL) {
        fail(f, EXIT_USAGE, "control: %s", why != NULL ? why : "out of memory");
        PQfreemem(why);
        return false;
    }
    struct keywords k = {.count = 0};
    for (const PQconninfoOption *o = options; o->keyword != NULL; o++) {
        if (o->val != NULL) {
            set_keyword(&k, o->keyword, o->val, true);
        }
    }
    if (target->database != NULL) {
        set_keyword(&k, "dbname", target->database, true);
    }
    if (target->host != NULL) {
        set_keyword(&k, "host", target->host, true);
        set_keyword(&k, "hostaddr", target->hostaddr != NULL ? target->hostaddr : "", true);
        set_keyword(&k, "port", target->port, true);
        set_keyword(&k, "target_session_attrs", "any", true);
    }
    set_keyword(&k, "client_encoding", "UTF8", true);
    set_keyword(&k, "fallback_application_name", "pgsluice", true);
    /* A silent host ends within this time, and libpq goes on to the next of the list. */
    set_keyword(&k, "tcp_user_timeout", "8000", false);
    set_keyword(&k, "keepalives_idle", "10", false);
    set_keyword(&k, "keepalives_interval", "5", false);
    set_keyword(&k, "keepalives_count", "3", false);

    bool ok = false;
    struct control *control = calloc(1, sizeof *control);
    if (control == NULL) {
        fail(f, EXIT_REFUSED, "out of memory");
        goto out;
    }
    control->impatient = target->impatient;
    control->abort_requested = target->abort_requested;
    control->abort_arg = target->abort_arg;
    control->conn = PQconnectStartParams(k.names, k.values, 0);
    if (control->conn == NULL) {
        fail(f, EXIT_REFUSED, "out of memory");
        goto out;
    }
    PQsetNoticeProcessor(control->conn, ignore_notice, NULL);
    ok = drive_connect(control, connect_limit_ms(&k), f) &&
         control_batch(control, session_setup, CONNECT_TIMEOUT_MS, NULL, NULL, f);
out:
    PQconninfoFree(options);
    if (!ok) {
        control_close(control);
        return false;
    }
    *out = control;
    return true;
}

void control_close(struct control *control)
{
    if (control == NULL) {
        return;
    }
    PQfinish(control->conn);
    canceller_leave(control->canceller);
    free(control);
}

void control_ignore_abort(struct control *control)
{
    control->abort_requested = NULL;
}

int control_version(const struct control *control)
{
    return PQserverVersion(control->conn);
}

int control_backend_pid(const struct control *control)
{
    return PQbackendPID(control->conn);
}

const char *control_database(const struct control *control)
{
    return PQdb(control->conn);
}

bool control_is_lost(const struct control *control)
{
    return control->lost || PQstatus(control->conn) != CONNECTION_OK;
}

/* PQcancel() waits for the server, without end where that hangs: so a thread of its own does.
 * Whoever of the two that share it comes last frees it. */
struct canceller {
    PGcancel *cancel;
    atomic_bool done;
    atomic_int owners;
};

static void canceller_leave(struct canceller *canceller)
{
    if (canceller != NULL && atomic_fetch_sub(&canceller->owners, 1) == 1) {
        PQfreeCancel(canceller->cancel);
        free(canceller);
    }
}

static void *run_cancel(void *arg)
{
    char ignored[256];
    struct canceller *canceller = arg;
    (void)PQcancel(canceller->cancel, ignored, sizeof ignored);
    atomic_store(&canceller->done, true);
    canceller_leave(canceller);
    return NULL;
}

static bool is_cancelling(const struct control *control)
{
    return control->canceller != NULL && !atomic_load(&control->canceller->done);
}

static void send_cancel(struct control *control)
{
    if (is_cancelling(control)) {
        return;
    }
    canceller_leave(control->canceller);
    struct canceller *canceller = control->canceller = calloc(1, sizeof *canceller);
    if (canceller == NULL) {
        return;
    }
    pthread_t thread;
    canceller->cancel = PQgetCancel(control->conn);
    atomic_init(&canceller->owners, 2);
    if (canceller->cancel != NULL && pthread_create(&thread, NULL, run_cancel, canceller) == 0) {
        pthread_detach(thread);
        return;
    }
    atomic_store(&canceller->done, true);
    canceller_leave(canceller);
}

/* One exchange with the server: how long it may take, and what became of the wish to end it. */
struct exchange {
    uint64_t deadline;    /* 0: none */
    uint64_t next_cancel; /* 0: none sent yet */
    uint64_t give_up;
};

/* The deadline is over, or an abort is wished. */
static bool is_over(const struct control *control, const struct exchange *x)
{
    return (x->deadline != 0 && now_ms() >= x->deadline) || is_abort_requested(control);
}

/* A cancel request can overtake the statement it is meant for, and is then forgotten by the server:
 * it is sent again until the statement ends. */
static void cancel_if_wished(struct control *control, struct exchange *x)
{
    uint64_t now = now_ms();
    if (x->next_cancel == 0) {
        if (!is_over(control, x)) {
            return;
        }
        x->give_up = now + CANCEL_WAIT_MS;
    } else if (now < x->next_cancel) {
        return;
    }
    send_cancel(control);
    x->next_cancel = now_ms() + CANCEL_AGAIN_MS;
}

static bool give_up(struct control *control, const char *sqlstate, const char *why,
                    struct failure *f)
{
    control->lost = true;
    fail(f, EXIT_REFUSED, "%s", why);
    set_sqlstate(f, sqlstate);
    return false;
}

/* Waits until PQgetResult() will not block. False when the connection is lost, or when the server
 * does not react even to a cancel; the connection is then of no more use. */
static bool await_result(struct control *control, struct exchange *x, struct failure *f)
{
    PGconn *conn = control->conn;
    for (;;) {
        int unsent = PQflush(conn);
        if (unsent < 0) {
            return fail_with_connection(conn, f);
        }
        if (unsent == 0 && !PQisBusy(conn)) {
            return true;
        }
        if (control->impatient && is_over(control, x)) {
            return give_up(control, "57014", "the server does not answer", f);
        }
        cancel_if_wished(control, x);
        if (x->give_up != 0 && now_ms() >= x->give_up) {
            return give_up(control, "08006", "the server did not answer a cancel request", f);
        }
        wait_slice(conn, unsent > 0 ? POLLIN | POLLOUT : POLLIN);
        if (!PQconsumeInput(conn)) {
            return fail_with_connection(conn, f);
        }
    }
}

/* A cancel request that is late must not meet the next statement: the connection is of no more use
 * when it is still on its way at the end of the time for it. */
static void await_cancel(struct control *control, const struct exchange *x)
{
    while (is_cancelling(control) && now_ms() < x->give_up) {
        (void)poll(NULL, 0, SLICE_MS);
    }
    control->lost = control->lost || is_cancelling(control);
}

/* Reads every result of what was sent. The first failure counts; the rest is read all the same. */
static bool drain(struct control *control, unsigned timeout_ms,
                  void (*on_result)(void *arg, const PGresult *result), void *arg, PGresult **last,
                  struct failure *f)
{
    struct exchange x = {.deadline = timeout_ms == 0 ? 0 : now_ms() + timeout_ms};
    bool ok = true;
    for (;;) {
        struct failure lost = {.code = EXIT_DONE};
        if (!await_result(control, &x, &lost)) {
            if (ok && f != NULL) {
                *f = lost;
            }
            return false;
        }
        PGresult *result = PQgetResult(control->conn);
        if (result == NULL) {
            break;
        }
        ExecStatusType status = PQresultStatus(result);
        bool good =
            status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK || status == PGRES_EMPTY_QUERY;
        if (!good && ok) {
            ok = fail_with_result(result, f);
        }
        if (good && ok && on_result != NULL) {
            on_result(arg, result);
        }
        if (last != NULL) {
            PQclear(*last);
            *last = result;
        } else {
            PQclear(result);
        }
    }
    await_cancel(control, &x);
    if (control_is_lost(control)) {
        return ok ? fail_with_connection(control->conn, f) : false;
    }
    return ok;
}

PGresult *control_query(struct control *control, const char *sql, size_t count,
                        const char *const *values, unsigned timeout_ms, struct failure *f)
{
    if (control_is_lost(control) ||
        !PQsendQueryParams(control->conn, sql, (int)count, NULL, values, NULL, NULL, 0)) {
        fail_with_connection(control->conn, f);
        return NULL;
    }
    PGresult *last = NULL;
    bool ok = drain(control, timeout_ms, NULL, NULL, &last, f);
    if (!ok) {
        PQclear(last);
        return NULL;
    }
    return last;
}

bool control_run(struct control *control, const char *sql, unsigned timeout_ms, struct failure *f)
{
    return control_batch(control, sql, timeout_ms, NULL, NULL, f);
}

bool control_batch(struct control *control, const char *sql, unsigned timeout_ms,
                   void (*on_result)(void *arg, const PGresult *result), void *arg,
                   struct failure *f)
{
    if (control_is_lost(control) || !PQsendQuery(control->conn, sql)) {
        return fail_with_connection(control->conn, f);
    }
    return drain(control, timeout_ms, on_result, arg, NULL, f);
}

bool control_copy(struct control *control, const char *sql, const char *data, size_t len,
                  unsigned timeout_ms, struct failure *f)
{
    struct exchange x = {.deadline = timeout_ms == 0 ? 0 : now_ms() + timeout_ms};
    PGconn *conn = control->conn;
    if (control_is_lost(control) || !PQsendQuery(conn, sql)) {
        return fail_with_connection(conn, f);
    }
    if (!await_result(control, &x, f)) {
        return false;
    }
    PGresult *result = PQgetResult(conn);
    bool takes = PQresultStatus(result) == PGRES_COPY_IN;
    bool ok = takes || fail_with_result(result, f);
    PQclear(result);
    if (takes && (PQputCopyData(conn, data, (int)len) != 1 || PQputCopyEnd(conn, NULL) != 1)) {
        control->lost = true;
        return fail_with_connection(conn, f);
    }
    struct failure ignored;
    return drain(control, timeout_ms, NULL, NULL, NULL, ok ? f : &ignored) && ok;
}

static char *copy_and_free(char *quoted)
{
    char *copy = quoted != NULL ? strdup(quoted) : NULL;
    PQfreemem(quoted);
    return copy;
}

char *control_quote_identifier(struct control *control, const char *name)
{
    return copy_and_free(PQescapeIdentifier(control->conn, name, strlen(name)));
}

char *control_quote_literal(struct control *control, const char *value)
{
    return copy_and_free(PQescapeLiteral(control->conn, value, strlen(value)));
}
