/*
 * The preflight's checks of what the cutover costs the server, and whether it has that: time, disk,
 * WAL, vacuum; see preflight.h.
 */
#include "proxy/cutover/preflight.h"

#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "proxy/cutover/preflight_parts.h"

enum {
    /* What the rewrite and the index builds were measured to do on a small machine, with a margin:
     * the budget is enforced all the same, a wrong estimate costs an attempt and nothing else. */
    REWRITE_MB_PER_S = 50,
    INDEX_MB_PER_S = 25,
    FLIP_FIXED_MS = 40,
    LADDER_TOP_MS = 300, /* of the lock timeouts, see machine.c */
    FREEZE_WARN_PERCENT = 75,
    FREEZE_BLOCK_PERCENT = 90,
};

static double megabytes(uint64_t bytes)
{
    return (double)bytes / 1e6;
}

static void report_estimate(struct cutover *c, bool rewrites)
{
    uint64_t copy = rewrites ? c->table.table_bytes + c->table.index_bytes : 0;
    report_set(c, "estimate",
               json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "hold_ms", (json_int_t)c->estimate_ms,
                         "table_bytes", (json_int_t)c->table.table_bytes, "index_bytes",
                         (json_int_t)c->table.index_bytes, "max_hold_ms",
                         (json_int_t)c->options.max_hold_ms, "disk_bytes", (json_int_t)copy,
                         "wal_bytes", (json_int_t)copy));
}

uint64_t preflight_estimate_ms(const struct cutover *c, bool rewrites)
{
    double ms = FLIP_FIXED_MS;
    if (rewrites) {
        ms += (double)c->table.table_bytes / (REWRITE_MB_PER_S * 1e3) +
              (double)c->table.index_bytes / (INDEX_MB_PER_S * 1e3);
    }
    return (uint64_t)ms;
}

void preflight_size(struct cutover *c, bool rewrites)
{
    c->estimate_ms = preflight_estimate_ms(c, rewrites);
    unsigned long long hold = c->options.max_hold_ms;
    report_estimate(c, rewrites);
    if (c->estimate_ms > hold) {
        report_check(c, "size", CHECK_BLOCK,
                     "raise --max-hold, knowing that reads wait as long as writes",
                     "rewriting %.1f MB of table and building %.1f MB of indexes is estimated at "
                     "%llu ms; --max-hold is %llu ms",
                     megabytes(c->table.table_bytes), megabytes(c->table.index_bytes),
                     (unsigned long long)c->estimate_ms, hold);
    } else {
        report_check(c, "size", CHECK_PASS, NULL,
                     "estimated %llu ms under an exclusive lock, within --max-hold (%llu ms)",
                     (unsigned long long)c->estimate_ms, hold);
    }
    if (c->config->hold_ttl_ms != 0 && c->estimate_ms + 500 > c->config->hold_ttl_ms) {
        report_check(c, "hold", CHECK_WARN, "raise the proxy's hold limit, or accept it",
                     "the gate holds a statement for at most %llu ms: those that wait longer are "
                     "passed on and wait for the server's lock instead",
                     (unsigned long long)c->config->hold_ttl_ms);
    } else {
        report_check(c, "hold", CHECK_PASS, NULL,
                     "the gate may hold a statement as long as the flip is estimated to take");
    }
    if (c->table.deadlock_timeout_ms < 2 * LADDER_TOP_MS) {
        report_check(c, "deadlock-timeout", CHECK_WARN, NULL,
                     "deadlock_timeout is %u ms: the lock is waited for at most half of that, so "
                     "that no application becomes a deadlock's victim",
                     c->table.deadlock_timeout_ms);
    } else {
        report_check(c, "deadlock-timeout", CHECK_PASS, NULL,
                     "%u ms; the lock is waited for at most %d ms at a time",
                     c->table.deadlock_timeout_ms, LADDER_TOP_MS);
    }
}

/* Where the table's files are, as far as this role may know. A server that was reached by a unix
 * socket or from its own address is on this machine. */
static const char place_sql[] =
    "SELECT json_build_object('here', inet_server_addr() IS NULL "
    "OR host(inet_server_addr()) = host(inet_client_addr()), 'directory', CASE WHEN s.oid IS NULL "
    "OR s.spcname = 'pg_default' THEN (SELECT setting FROM pg_settings WHERE name = "
    "'data_directory') ELSE pg_tablespace_location(s.oid) END, 'tablespace', "
    "coalesce(s.spcname, 'pg_default')) FROM pg_class c JOIN pg_database d "
    "ON d.datname = current_database() LEFT JOIN pg_tablespace s "
    "ON s.oid = coalesce(nullif(c.reltablespace, 0), d.dattablespace) WHERE c.oid = {rel}";

static bool check_disk(struct cutover *c, struct failure *f)
{
    json_t *place = context_json(context_query(c, place_sql, STATEMENT_TIMEOUT_MS, f), f);
    if (place == NULL) {
        return false;
    }
    const char *directory = json_string_value(json_object_get(place, "directory"));
    const char *tablespace = json_string_value(json_object_get(place, "tablespace"));
    bool here = json_is_true(json_object_get(place, "here"));
    uint64_t copy = c->table.table_bytes + c->table.index_bytes;
    struct statvfs fs;
    if (here && directory != NULL && statvfs(directory, &fs) == 0) {
        uint64_t available = (uint64_t)fs.f_bavail * fs.f_frsize;
        bool enough = available >= 2 * copy;
        report_check(c, "disk", enough ? CHECK_PASS : CHECK_BLOCK,
                     enough ? NULL : "make room: a full disk stops the whole server",
                     "%.1f MB for the new table and as much WAL; %s (tablespace %s) has %.1f MB "
                     "free",
                     megabytes(copy), directory, tablespace, megabytes(available));
    } else {
        report_check(c, "disk", CHECK_WARN, "look at the server's free space before you begin",
                     "%.1f MB for the new table in tablespace %s, and as much WAL; how much is "
                     "free cannot be seen from here",
                     megabytes(copy), tablespace);
    }
    json_decref(place);
    return true;
}

static const char wal_sql[] =
    "SELECT json_build_object('max_wal_bytes', (SELECT pg_size_bytes(current_setting("
    "'max_wal_size'))), 'slot_limit', (SELECT setting || unit FROM pg_settings WHERE name = "
    "'max_slot_wal_keep_size' AND setting <> '-1'), 'slots', (SELECT count(*) "
    "FROM pg_replication_slots), 'archive', current_setting('archive_mode') <> 'off')";

static bool check_wal(struct cutover *c, struct failure *f)
{
    json_t *wal = context_json(context_query(c, wal_sql, STATEMENT_TIMEOUT_MS, f), f);
    if (wal == NULL) {
        return false;
    }
    uint64_t copy = c->table.table_bytes + c->table.index_bytes;
    uint64_t limit = (uint64_t)json_integer_value(json_object_get(wal, "max_wal_bytes"));
    long long slots = json_integer_value(json_object_get(wal, "slots"));
    const char *slot_limit = json_string_value(json_object_get(wal, "slot_limit"));
    if (slots > 0 && slot_limit != NULL) {
        report_check(c, "wal", CHECK_WARN, "see that the slots' readers keep up",
                     "about %.1f MB at once; a slot that falls behind by %s is invalidated",
                     megabytes(copy), slot_limit);
    } else if (copy > limit / 2) {
        report_check(c, "wal", CHECK_WARN, "raise max_wal_size for the time of the cutover",
                     "about %.1f MB at once, max_wal_size is %.1f MB: a checkpoint will come in "
                     "between",
                     megabytes(copy), megabytes(limit));
    } else {
        report_check(c, "wal", CHECK_PASS, NULL, "about %.1f MB at once%s", megabytes(copy),
                     json_is_true(json_object_get(wal, "archive")) ? ", archived" : "");
    }
    json_decref(wal);
    return true;
}

/* The table's own setting can only make it earlier. */
static const char freeze_sql[] =
    "SELECT json_build_object('xid', round(100.0 * age(c.relfrozenxid) / least("
    "current_setting('autovacuum_freeze_max_age')::numeric, (SELECT split_part(o, '=', 2)::numeric "
    "FROM unnest(c.reloptions) o WHERE o LIKE 'autovacuum\\_freeze\\_max\\_age=%'))), "
    "'mxid', round(100.0 * mxid_age(c.relminmxid) / least("
    "current_setting('autovacuum_multixact_freeze_max_age')::numeric, (SELECT "
    "split_part(o, '=', 2)::numeric FROM unnest(c.reloptions) o "
    "WHERE o LIKE 'autovacuum\\_multixact\\_freeze\\_max\\_age=%')))) "
    "FROM pg_class c WHERE c.oid = {rel} AND c.relfrozenxid <> 0";

/* An autovacuum against wraparound does not give way to the cutover's lock. */
static bool check_wraparound(struct cutover *c, struct failure *f)
{
    PGresult *r = context_query(c, freeze_sql, STATEMENT_TIMEOUT_MS, f);
    if (r == NULL) {
        return false;
    }
    if (PQntuples(r) == 0) {
        PQclear(r);
        report_check(c, "wraparound", CHECK_PASS, NULL, "the relation has no rows of its own");
        return true;
    }
    json_t *ages = context_json(r, f);
    if (ages == NULL) {
        return false;
    }
    double xid = json_number_value(json_object_get(ages, "xid"));
    double mxid = json_number_value(json_object_get(ages, "mxid"));
    double worst = xid > mxid ? xid : mxid;
    json_decref(ages);
    if (worst >= FREEZE_WARN_PERCENT) {
        report_check(c, "wraparound", worst > FREEZE_BLOCK_PERCENT ? CHECK_BLOCK : CHECK_WARN,
                     "VACUUM it first",
                     "the table is %.0f %% of the way to an autovacuum against wraparound, which "
                     "does not give way to anybody",
                     worst);
    } else {
        report_check(c, "wraparound", CHECK_PASS, NULL,
                     "%.0f %% of the way to an autovacuum against wraparound", worst);
    }
    return true;
}

/* What is at work on the table now, and who dumps it. */
static const char maintenance_sql[] =
    "SELECT coalesce(json_agg(DISTINCT x), '[]') FROM ("
    "SELECT format('VACUUM (pid %s)', pid) AS x FROM pg_stat_progress_vacuum WHERE relid = {rel} "
    "AND datname = current_database() UNION ALL "
    "SELECT format('%s (pid %s)', command, pid) FROM pg_stat_progress_create_index "
    "WHERE relid = {rel} AND datname = current_database() UNION ALL "
    "SELECT format('%s (pid %s)', command, pid) FROM pg_stat_progress_cluster WHERE relid = {rel} "
    "AND datname = current_database() UNION ALL "
    "SELECT format('pg_dump (pid %s)', a.pid) FROM pg_stat_activity a WHERE a.datname = "
    "current_database() AND a.application_name = 'pg_dump' UNION ALL "
    "SELECT format('%s (%s, pid %s)', coalesce(left(a.query, 40), '?'), l.mode, l.pid) FROM "
    "pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'relation' "
    "AND l.relation = {rel} AND l.pid <> pg_backend_pid() AND l.database = (SELECT oid FROM "
    "pg_database WHERE datname = current_database()) AND l.mode NOT IN ('AccessShareLock', "
    "'RowShareLock', 'RowExclusiveLock')) q";

static bool check_maintenance(struct cutover *c, struct failure *f)
{
    struct names of;
    if (!preflight_names(c, maintenance_sql, &of, f)) {
        return false;
    }
    if (of.count > 0) {
        report_check(c, "maintenance", CHECK_WARN,
                     "let it end first: the cutover waits for it, and begins anew each time",
                     "at work on the table: %s", of.text);
    } else {
        report_check(c, "maintenance", CHECK_PASS, NULL,
                     "no VACUUM, CREATE INDEX, pg_dump or DDL is at work on the table");
    }
    free(of.text);
    return true;
}

bool preflight_server(struct cutover *c, struct failure *f)
{
    return check_disk(c, f) && check_wal(c, f) && check_wraparound(c, f) && check_maintenance(c, f);
}
