/*
 * The preflight's checks of who else is connected and how: open transactions, isolation, timeouts,
 * sessions that do not come through the proxy; see preflight.h.
 */
#include "proxy/cutover/preflight.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/preflight_parts.h"

enum {
    LONG_TRANSACTION_S = 1,
    LADDER_TOP_MS = 300, /* of the lock timeouts, see machine.c */
    NAMED_MAX = 5,
};

static const char isolation_sql[] =
    "SELECT coalesce(json_agg(x), '[]') FROM (SELECT concat(d.datname, r.rolname) AS x "
    "FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase "
    "LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) o "
    "WHERE o ~* '^default_transaction_isolation=(repeatable|serializable)' "
    "AND (s.setdatabase = 0 OR d.datname = current_database()) "
    "UNION ALL SELECT 'the server' FROM pg_settings WHERE name = 'default_transaction_isolation' "
    "AND reset_val NOT LIKE 'read %') q";

static bool check_isolation(struct cutover *c, struct failure *f)
{
    struct names who;
    if (!preflight_names(c, isolation_sql, &who, f)) {
        return false;
    }
    if (who.count > 0) {
        report_check(c, "isolation", CHECK_WARN, NULL,
                     "the default isolation of %s keeps a snapshot for a whole transaction: the "
                     "flip waits until none is open, because it would see the table empty",
                     who.text);
    } else {
        report_check(c, "isolation", CHECK_PASS, NULL,
                     "transactions are READ COMMITTED by default");
    }
    free(who.text);
    return true;
}

static const char sessions_sql[] =
    "SELECT coalesce(json_agg(x ORDER BY x), '[]') FROM (SELECT format('pid %s (%s, %s, %s s)', "
    "pid, usename, state, extract(epoch FROM clock_timestamp() - xact_start)::int) AS x "
    "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND xact_start < clock_timestamp() - make_interval(secs => $1::int) "
    "UNION ALL SELECT format('prepared transaction %L of %s', gid, owner) FROM pg_prepared_xacts "
    "WHERE database = current_database()) q";

bool preflight_sessions(struct cutover *c, struct failure *f)
{
    char seconds[12];
    snprintf(seconds, sizeof seconds, "%d", LONG_TRANSACTION_S);
    const char *value = seconds;
    json_t *open = context_json(
        control_query(c->control, sessions_sql, 1, &value, STATEMENT_TIMEOUT_MS, f), f);
    if (open == NULL) {
        return false;
    }
    if (json_array_size(open) > 0) {
        char *names = text_join(open);
        report_check(c, "long-transactions", CHECK_WARN,
                     "end them if they use the table: the flip is tried again until they are gone",
                     "transactions open for more than %d s: %s", LONG_TRANSACTION_S,
                     names != NULL ? names : "?");
        free(names);
    } else {
        report_check(c, "long-transactions", CHECK_PASS, NULL, "none older than %d s",
                     LONG_TRANSACTION_S);
    }
    json_decref(open);
    if (!preflight_is(c, "sees_all_sessions")) {
        report_check(
            c, "visibility", CHECK_WARN, "GRANT pg_read_all_stats to the control role",
            "%s cannot see what other roles' sessions do, nor name those that stand in the "
            "way, nor their snapshots",
            preflight_fact(c, "role"));
    } else {
        report_check(c, "visibility", CHECK_PASS, NULL, "%s sees what all sessions do",
                     preflight_fact(c, "role"));
    }
    return true;
}

/* Milliseconds of each role's, database's and the server's own setting; what a session sets for
 * itself cannot be seen. A unit may be written behind the number. */
static const char timeouts_sql[] =
    "SELECT coalesce(json_agg(json_build_object('who', who, 'name', name, 'ms', ms) ORDER BY ms), "
    "'[]') FROM (SELECT who, name, CASE substring(value FROM '[a-z]+$') WHEN 'us' THEN 0.001 "
    "WHEN 's' THEN 1000 WHEN 'min' THEN 60000 WHEN 'h' THEN 3600000 WHEN 'd' THEN 86400000 "
    "ELSE 1 END * substring(value FROM '^[0-9.]+')::numeric AS ms FROM ("
    "SELECT concat_ws(' in ', r.rolname, d.datname) AS who, lower(split_part(o, '=', 1)) AS name, "
    "split_part(o, '=', 2) AS value FROM pg_db_role_setting s "
    "LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole, "
    "unnest(s.setconfig) o WHERE (s.setdatabase = 0 OR d.datname = current_database()) "
    "AND r.rolname IS DISTINCT FROM current_user "
    "UNION ALL SELECT 'the server', name, reset_val FROM pg_settings "
    "WHERE source NOT IN ('session', 'client', 'database', 'user', 'database user')) v "
    "WHERE name IN ('lock_timeout', 'statement_timeout') AND value ~ '^[0-9.]+ *[a-z]*$') t "
    "WHERE ms > 0";

static const json_t *shortest(const json_t *timeouts, const char *name)
{
    size_t i;
    const json_t *timeout;
    json_array_foreach(timeouts, i, timeout)
    {
        const char *is = json_string_value(json_object_get(timeout, "name"));
        if (is != NULL && strcmp(is, name) == 0) {
            return timeout;
        }
    }
    return NULL;
}

/* Whoever waits for the flip's lock longer than that gets an error. */
static void check_timeout(struct cutover *c, const json_t *timeouts, const char *id,
                          const char *name, const char *sqlstate)
{
    const json_t *found = shortest(timeouts, name);
    if (found == NULL) {
        report_check(c, id, CHECK_PASS, NULL, "no role, database or server sets %s", name);
        return;
    }
    double ms = json_number_value(json_object_get(found, "ms"));
    const char *who = json_string_value(json_object_get(found, "who"));
    double waits = LADDER_TOP_MS + (double)c->estimate_ms;
    if (ms <= LADDER_TOP_MS) {
        report_check(c, id, CHECK_BLOCK, "raise it for the time of the cutover, or drop it",
                     "%s has %s = %.0f ms: its statements would fail with %s behind an attempt at "
                     "the lock, which takes up to %d ms",
                     who, name, ms, sqlstate, LADDER_TOP_MS);
    } else if (ms <= waits) {
        report_check(c, id, CHECK_WARN, "raise it for the time of the cutover",
                     "%s has %s = %.0f ms: what reads the table during the flip may wait %.0f ms, "
                     "and would fail with %s",
                     who, name, ms, waits, sqlstate);
    } else {
        report_check(c, id, CHECK_PASS, NULL, "the shortest is %.0f ms (%s), a flip takes %.0f ms",
                     ms, who, waits);
    }
}

static bool check_timeouts(struct cutover *c, struct failure *f)
{
    json_t *timeouts = context_json(context_query(c, timeouts_sql, STATEMENT_TIMEOUT_MS, f), f);
    if (timeouts == NULL) {
        return false;
    }
    check_timeout(c, timeouts, "lock-timeout", "lock_timeout", "55P03");
    check_timeout(c, timeouts, "statement-timeout", "statement_timeout", "57014");
    json_decref(timeouts);
    return true;
}

static const char backends_sql[] =
    "SELECT coalesce(json_agg(json_build_object('pid', pid, 'who', format('%s (%s from %s)', "
    "coalesce(nullif(application_name, ''), 'a client'), usename, "
    "coalesce(host(client_addr), 'a unix socket')))), '[]') FROM pg_stat_activity "
    "WHERE datname = current_database() AND backend_type = 'client backend' "
    "AND usename IS DISTINCT FROM current_user";

/* The sessions that are not this proxy's, each kind of them once. */
static char *list_strangers(const struct cutover *c, const json_t *backends, size_t *count)
{
    json_t *kinds = json_object();
    json_t *names = json_array();
    size_t i;
    const json_t *backend;
    *count = 0;
    json_array_foreach(backends, i, backend)
    {
        const char *who = json_string_value(json_object_get(backend, "who"));
        int pid = (int)json_integer_value(json_object_get(backend, "pid"));
        if (who == NULL || c->host->is_proxied(c->host->arg, pid)) {
            continue;
        }
        ++*count;
        if (json_object_get(kinds, who) == NULL && json_array_size(names) < NAMED_MAX) {
            (void)json_object_set_new(kinds, who, json_true());
            (void)json_array_append_new(names, json_string(who));
        }
    }
    char *text = text_join(names);
    json_decref(kinds);
    json_decref(names);
    return text;
}

static bool check_bypass(struct cutover *c, struct failure *f)
{
    json_t *backends = context_json(context_query(c, backends_sql, STATEMENT_TIMEOUT_MS, f), f);
    if (backends == NULL) {
        return false;
    }
    size_t all = json_array_size(backends);
    size_t count = 0;
    char *text = NULL;
    if (all == 0) {
        report_check(c, "bypass", CHECK_PASS, NULL, "no other session is on this database");
    } else if (c->host == NULL || c->host->is_proxied == NULL) {
        report_check(c, "bypass", CHECK_WARN,
                     "start the proxy: it can tell which sessions are its own",
                     "%zu sessions are on this database; no proxy is running here that could say "
                     "whether they are its own",
                     all);
    } else if ((text = list_strangers(c, backends, &count)) == NULL) {
        json_decref(backends);
        return fail(f, EXIT_REFUSED, "out of memory");
    } else if (count > 0) {
        report_check(c, "bypass", CHECK_WARN,
                     "point them at the proxy: a key that they supply is refused after the flip",
                     "%zu of %zu sessions on this database do not come through this proxy: %s",
                     count, all, text);
    } else {
        report_check(c, "bypass", CHECK_PASS, NULL,
                     "all %zu sessions on this database come through this proxy", all);
    }
    free(text);
    json_decref(backends);
    return true;
}

bool preflight_clients(struct cutover *c, struct failure *f)
{
    return check_isolation(c, f) && check_timeouts(c, f) && check_bypass(c, f);
}
