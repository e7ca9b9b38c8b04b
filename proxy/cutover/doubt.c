/* The resolution of an unknown outcome; see doubt.h. Called by the machine. */
#include "proxy/cutover/doubt.h"

#include <string.h>
#include <time.h>

#include "proxy/cutover/state.h"

enum { RESOLVE_MS = 60000, ASK_AGAIN_MS = 200 };

bool doubt_mark(struct control *control, struct flip_mark *out, struct failure *f)
{
    PGresult *r = control_query(control, "SELECT txid_current(), pg_backend_pid()", 0, NULL,
                                STATEMENT_TIMEOUT_MS, f);
    if (r == NULL) {
        return false;
    }
    snprintf(out->xid, sizeof out->xid, "%s", PQgetvalue(r, 0, 0));
    snprintf(out->pid, sizeof out->pid, "%s", PQgetvalue(r, 0, 1));
    PQclear(r);
    return true;
}

/* "committed", "aborted", "in progress", or "unknown" for a transaction that this server never had
 * or has forgotten: after a failover, for instance. */
static bool read_status(struct control *control, const struct flip_mark *mark, char out[16],
                        struct failure *f)
{
    const char *xid = mark->xid;
    PGresult *r =
        control_query(control, "SELECT txid_status($1::int8)", 1, &xid, STATEMENT_TIMEOUT_MS, f);
    if (r == NULL) {
        snprintf(out, 16, "unknown");
        return strcmp(f->sqlstate, "22023") == 0;
    }
    snprintf(out, 16, "%s", PQgetisnull(r, 0, 0) ? "unknown" : PQgetvalue(r, 0, 0));
    PQclear(r);
    return true;
}

/* The number is compared as well: another backend may have the process id by now. */
static bool end_backend(struct control *control, const struct flip_mark *mark, struct failure *f)
{
    PGresult *r =
        control_query(control,
                      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                      "WHERE pid = $1::int AND backend_xid::text = "
                      "($2::int8 % 4294967296)::text",
                      2, (const char *const[]){mark->pid, mark->xid}, STATEMENT_TIMEOUT_MS, f);
    PQclear(r);
    return r != NULL;
}

static bool read_generated(struct cutover *c, struct control *control, bool *out, struct failure *f)
{
    PGresult *r = control_query(
        control,
        "SELECT coalesce(to_jsonb(a) ->> 'attgenerated', '') <> '' FROM pg_attribute a "
        "JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = $1 AND c.relname = $2 AND a.attname = $3 AND NOT a.attisdropped",
        3, (const char *const[]){c->rule->schema, c->rule->table, c->rule->column},
        STATEMENT_TIMEOUT_MS, f);
    if (r == NULL) {
        return false;
    }
    *out = PQntuples(r) > 0 && PQgetvalue(r, 0, 0)[0] == 't';
    PQclear(r);
    return true;
}

/* One try. False: ask again. */
static bool ask(struct cutover *c, struct control *control, const struct flip_mark *mark,
                bool generated, enum doubt *out, struct failure *f)
{
    char status[16];
    bool happened = false;
    bool is_generated = false;
    if (!read_status(control, mark, status, f)) {
        return false;
    }
    if (strcmp(status, "in progress") == 0) {
        (void)!end_backend(control, mark, f);
        return fail(f, EXIT_UNKNOWN, "transaction %s is still in progress", mark->xid);
    }
    if (!state_has_happened(c, control, &happened, f) ||
        !read_generated(c, control, &is_generated, f)) {
        return false;
    }
    bool shape = is_generated == generated;
    if (strcmp(status, "aborted") != 0 && happened && shape) {
        *out = DOUBT_COMMITTED;
    } else if (strcmp(status, "committed") != 0 && !happened && !shape) {
        *out = DOUBT_ABORTED;
    } else {
        *out = DOUBT_UNKNOWN;
        fail(f, EXIT_UNKNOWN,
             "transaction %s is %s, its row in pgsluice.run %s, the column is %sgenerated",
             mark->xid, status, happened ? "exists" : "does not exist", is_generated ? "" : "not ");
    }
    return true;
}

enum doubt doubt_resolve(struct cutover *c, const struct flip_mark *mark, bool generated,
                         struct failure *f)
{
    double until = monotonic_ms_exact() + RESOLVE_MS;
    enum doubt found = DOUBT_UNKNOWN;
    bool known = false;
    while (!known && monotonic_ms_exact() < until) {
        struct control *control = NULL;
        if (context_connect_again(c, false, &control, f)) {
            known = ask(c, control, mark, generated, &found, f);
            control_close(control);
        }
        if (!known) {
            context_progress(c, "in-doubt", -1, "%s", f->msg);
            nanosleep(&(struct timespec){.tv_nsec = ASK_AGAIN_MS * 1000000L}, NULL);
        }
    }
    return known ? found : DOUBT_UNKNOWN;
}
