/* The rows of a swap; see swap_copy.h. Runs on the command's own control connection. */
#include "proxy/cutover/swap_copy.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/failpoint.h"
#include "proxy/cutover/throttle.h"

enum {
    BATCH_FIRST = 1000,
    BATCH_MIN = 100,
    BATCH_MAX = 50000,
    BATCH_TARGET_MS = 50,
    COMPARE_FIRST = 5000,
    COMPARE_TARGET_MS = 200,
    REPLAY_EVERY_MS = 500,
    REPORT_EVERY_MS = 1000,
    LOG_SHORT_MS = 100,   /* a log so short is no work any more */
    LAG_MAX_MS = 1000,    /* of a replica */
    COMMIT_SLOW_MS = 100, /* the disk has enough to do */
    THROTTLE_MS = 200,
    BATCH_LIMIT_MS = 600000,
    SNAPSHOT_POLL_MS = 100,
};

/* Rows for the next batch, so that it takes about `target`. */
static uint64_t adapt(uint64_t rows, double took_ms, double target_ms)
{
    double factor = took_ms > 1 ? target_ms / took_ms : 2;
    factor = factor > 2 ? 2 : (factor < 0.5 ? 0.5 : factor);
    double next = (double)rows * factor;
    return next < BATCH_MIN ? BATCH_MIN : (next > BATCH_MAX ? BATCH_MAX : (uint64_t)next);
}

/* "($1::text[])[1]::int8, ($1::text[])[2]::text": a cursor's values with the key's types. */
static void put_cursor(FILE *out, const struct swap_way *way, const char *parameter)
{
    for (size_t i = 0; i < way->key_count; i++) {
        fprintf(out, "%s(%s::text[])[%zu]::%s", i > 0 ? ", " : "", parameter, i + 1,
                way->key_types[i]);
    }
}

static void put_descending(FILE *out, const struct swap_way *way)
{
    for (size_t i = 0; i < way->key_count; i++) {
        fprintf(out, "%s%s DESC", i > 0 ? ", " : "", way->key_names[i]);
    }
}

static void put_key_texts(FILE *out, const struct swap_way *way)
{
    fputs("ARRAY[", out);
    for (size_t i = 0; i < way->key_count; i++) {
        fprintf(out, "%s%s::text", i > 0 ? ", " : "", way->key_names[i]);
    }
    fputs("]", out);
}

/* The range of rows behind the key $1, from the beginning when `first`, up to the key $2 and with
 * it, to the end when `last`. The first column is bounded by itself as well: of two comparisons of
 * rows the planner does not see that they bound a small range, and would read the whole table. */
static void put_range(FILE *out, const struct swap_way *way, bool first, bool last)
{
    const char *name = way->key_names[0];
    const char *type = way->key_types[0];
    fputs(first ? "$1::text[] IS NULL" : "", out);
    if (!first) {
        fprintf(out, "%s >= ($1::text[])[1]::%s AND (%s) > (", name, type, way->key);
        put_cursor(out, way, "$1");
        fputs(")", out);
    }
    fputs(last ? "" : " AND ", out);
    if (!last) {
        fprintf(out, "%s <= ($2::text[])[1]::%s AND (%s) <= (", name, type, way->key);
        put_cursor(out, way, "$2");
        fputs(")", out);
    }
}

/* One batch: rows behind the cursor, and the cursor with them. $1 cursor, $2 the last key of all,
 * $3 run, $4 schema, $5 table, $6 rows. Answers the new cursor and the number of rows, or nothing
 * when there is none. */
static char *batch_sql(const struct swap_way *way, bool first)
{
    struct text t;
    if (!text_begin(&t)) {
        return NULL;
    }
    fprintf(t.out, "WITH batch AS MATERIALIZED (SELECT * FROM %s WHERE ", way->from_name);
    put_range(t.out, way, first, false);
    fprintf(t.out,
            " ORDER BY %s LIMIT $6::bigint), put AS (INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE "
            "SELECT %s FROM batch ON CONFLICT (%s) DO NOTHING) "
            "UPDATE pgsluice.swap SET cursor = q.at, copied = copied + q.rows, "
            "changed_at = clock_timestamp() FROM (SELECT ",
            way->key, way->to_name, way->columns, way->columns, way->key);
    put_key_texts(t.out, way);
    fputs(" AS at, (SELECT count(*) FROM batch) AS rows FROM batch ORDER BY ", t.out);
    put_descending(t.out, way);
    fputs(" LIMIT 1) q WHERE owner = $3 AND table_schema = $4 AND table_name = $5 "
          "RETURNING cursor, q.rows",
          t.out);
    return text_end(&t);
}

/* How the copying goes, for the display. */
struct pace {
    double began;
    double reported;
    int64_t copied_before; /* by earlier runs */
    double expected;
};

static void show(struct cutover *c, struct pace *pace, int64_t copied, const char *note)
{
    double now = monotonic_ms_exact();
    if (now - pace->reported < REPORT_EVERY_MS) {
        return;
    }
    pace->reported = now;
    double seconds = (now - pace->began) / 1e3;
    double rate = seconds > 0 ? (double)(copied - pace->copied_before) / seconds : 0;
    double left = pace->expected - (double)copied;
    double done = pace->expected > 0 ? (double)copied / pace->expected : 0;
    char eta[48] = "";
    if (rate > 0 && left > 0) {
        snprintf(eta, sizeof eta, ", about %.0f s left", left / rate);
    }
    context_progress(c, "copy", done < 1 ? done : 0.999, "%lld rows, %.0f rows/s%s%s",
                     (long long)copied, rate, eta, note);
}

/* Milliseconds that the slowest replica is behind; 0 where there is none or it cannot be seen. */
static double replica_lag_ms(struct control *control)
{
    struct failure ignored;
    PGresult *r = control_query(control,
                                "SELECT coalesce(extract(epoch FROM max(replay_lag)) * 1000, 0) "
                                "FROM pg_stat_replication",
                                0, NULL, STATEMENT_TIMEOUT_MS, &ignored);
    double ms = r != NULL ? strtod(PQgetvalue(r, 0, 0), NULL) : 0;
    PQclear(r);
    return ms;
}

/* Gives way to who is behind: a replica, or the disk. */
static void wait_for_others(struct cutover *c, struct pace *pace, int64_t copied, double commit_ms)
{
    if (commit_ms > COMMIT_SLOW_MS) {
        show(c, pace, copied, "; waiting: the server is slow to commit");
        rest_ms(THROTTLE_MS);
    }
    double lag;
    while ((lag = replica_lag_ms(c->control)) > LAG_MAX_MS && !context_abort_requested(c)) {
        char note[80];
        snprintf(note, sizeof note, "; waiting: a replica is %.1f s behind", lag / 1e3);
        show(c, pace, copied, note);
        rest_ms(THROTTLE_MS);
    }
}

/* *rows is 0 when no row was left. */
static bool copy_batch(struct cutover *c, const char *sql, uint64_t size, struct swap_row *row,
                       int64_t *rows, double *commit_ms, struct failure *f)
{
    char limit[24];
    snprintf(limit, sizeof limit, "%llu", (unsigned long long)size);
    *rows = 0;
    if (!control_run(c->control, "BEGIN ISOLATION LEVEL READ COMMITTED", STATEMENT_TIMEOUT_MS, f)) {
        return false;
    }
    PGresult *r = control_query(c->control, sql, 6,
                                (const char *const[]){row->cursor, row->upto, c->run,
                                                      c->rule->schema, c->rule->table, limit},
                                BATCH_LIMIT_MS, f);
    if (r == NULL) {
        return false;
    }
    char *cursor = PQntuples(r) > 0 ? strdup(PQgetvalue(r, 0, 0)) : NULL;
    if (PQntuples(r) > 0) {
        *rows = strtoll(PQgetvalue(r, 0, 1), NULL, 10);
    }
    PQclear(r);
    FAILPOINT("copy-commit");
    double began = monotonic_ms_exact();
    if (!control_run(c->control, "COMMIT", STATEMENT_TIMEOUT_MS, f)) {
        free(cursor);
        return false;
    }
    *commit_ms = monotonic_ms_exact() - began;
    if (*rows > 0) {
        free(row->cursor);
        row->cursor = cursor;
        row->copied += *rows;
    }
    return *rows == 0 || cursor != NULL || fail(f, EXIT_REFUSED, "out of memory");
}

/* Who has been taken over by another run finds no row of its own to write to: that looks like the
 * end of the table, and is told apart here. */
static bool is_ours(struct cutover *c, struct failure *f)
{
    PGresult *r = control_query(
        c->control,
        "SELECT FROM pgsluice.swap WHERE owner = $1 AND table_schema = $2 AND table_name = $3", 3,
        (const char *const[]){c->run, c->rule->schema, c->rule->table}, STATEMENT_TIMEOUT_MS, f);
    bool ours = r != NULL && PQntuples(r) == 1;
    if (r != NULL && !ours) {
        fail(f, EXIT_REFUSED, "another run has taken the swap over");
        snprintf(f->sqlstate, sizeof f->sqlstate, SWAP_TAKEN);
    }
    PQclear(r);
    return ours;
}

/* The last key there is when the copying begins. */
static bool find_end(struct cutover *c, const struct swap_way *way, struct swap_row *row,
                     struct failure *f)
{
    struct text t;
    if (row->upto != NULL) {
        return true;
    }
    if (!text_begin(&t)) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    fputs("UPDATE pgsluice.swap SET upto = (SELECT ", t.out);
    put_key_texts(t.out, way);
    fprintf(t.out, " FROM %s ORDER BY ", way->from_name);
    put_descending(t.out, way);
    fputs(" LIMIT 1) WHERE owner = $1 AND table_schema = $2 AND table_name = $3 RETURNING upto",
          t.out);
    char *sql = text_end(&t);
    PGresult *r =
        sql == NULL ? NULL
                    : control_query(c->control, sql, 3,
                                    (const char *const[]){c->run, c->rule->schema, c->rule->table},
                                    BATCH_LIMIT_MS, f);
    free(sql);
    if (r != NULL && PQntuples(r) > 0 && !PQgetisnull(r, 0, 0)) {
        row->upto = strdup(PQgetvalue(r, 0, 0));
    }
    PQclear(r);
    return r != NULL;
}

bool swap_copy(struct cutover *c, const struct swap_way *way, struct swap_row *row,
               struct failure *f)
{
    if (!find_end(c, way, row, f)) {
        return false;
    }
    struct pace pace = {.began = monotonic_ms_exact(), .copied_before = row->copied};
    pace.expected = json_number_value(json_object_get(c->table.facts, "rows"));
    struct throttle throttle;
    throttle_begin(&throttle, c, way);
    uint64_t size = BATCH_FIRST;
    double replayed = pace.began;
    int64_t rows = row->upto != NULL;
    bool ok = true;
    while (ok && rows > 0) {
        double began = monotonic_ms_exact();
        double commit_ms = 0;
        char *sql = batch_sql(way, row->cursor == NULL);
        ok = sql != NULL ? copy_batch(c, sql, size, row, &rows, &commit_ms, f)
                         : fail(f, EXIT_REFUSED, "out of memory");
        free(sql);
        double now = monotonic_ms_exact();
        if (ok && (uint64_t)rows == size) {
            size = adapt(size, now - began, throttle_target_ms(&throttle, BATCH_TARGET_MS));
        }
        if (ok && now - replayed > REPLAY_EVERY_MS) {
            ok = swap_log_catch_up(c, c->control, way, LOG_SHORT_MS, f);
            replayed = monotonic_ms_exact();
        }
        if (ok) {
            show(c, &pace, row->copied, throttle.note);
            wait_for_others(c, &pace, row->copied, commit_ms);
            ok = throttle_rest(&throttle, "copy", now - began, f);
        }
        ok = ok && (!context_abort_requested(c) || fail(f, EXIT_REFUSED, "aborted"));
    }
    double ms = monotonic_ms_exact() - pace.began;
    report_set(c, "copy", json_pack("{s:I, s:f}", "rows", (json_int_t)row->copied, "ms", ms));
    return ok && is_ours(c, f);
}

/* The end of a range of $2 + 1 rows behind the key $1; no row when the table ends before. */
static char *bound_sql(const struct swap_way *way, bool first)
{
    struct text t;
    if (!text_begin(&t)) {
        return NULL;
    }
    fputs("SELECT ", t.out);
    put_key_texts(t.out, way);
    fprintf(t.out, " FROM %s WHERE ", way->from_name);
    put_range(t.out, way, first, true);
    fprintf(t.out, " ORDER BY %s OFFSET $2::bigint LIMIT 1", way->key);
    return text_end(&t);
}

/* How many rows a range of keys has, how many differ between the tables, and the first key of
 * those. $1 the key behind which it begins, $2 its last one. The last range has no end: the other
 * table may have rows behind the last one of this. */
static char *compare_sql(const struct swap_way *way, bool first, bool last)
{
    struct text t;
    if (!text_begin(&t)) {
        return NULL;
    }
    for (int i = 0; i < 2; i++) {
        fprintf(t.out, "%s AS MATERIALIZED (SELECT %s FROM %s WHERE ", i == 0 ? "WITH a" : "), b",
                way->all_columns, i == 0 ? way->from_name : way->to_name);
        put_range(t.out, way, first, last);
    }
    fputs("), differ AS (SELECT ", t.out);
    for (size_t i = 0; i < way->key_count; i++) {
        fprintf(t.out, "%scoalesce(a.%s, b.%s) AS k%zu", i > 0 ? ", " : "", way->key_names[i],
                way->key_names[i], i);
    }
    fputs(" FROM a FULL JOIN b ON ", t.out);
    for (size_t i = 0; i < way->key_count; i++) {
        fprintf(t.out, "%sa.%s = b.%s", i > 0 ? " AND " : "", way->key_names[i], way->key_names[i]);
    }
    fprintf(t.out,
            " WHERE a IS NULL OR b IS NULL OR record_image_ne(a, b)), lasting AS (SELECT d.* FROM "
            "differ d WHERE NOT EXISTS (SELECT FROM pgsluice.log_%u WHERE op IN ('T', 'P')) "
            "AND NOT EXISTS (SELECT FROM pgsluice.log_%u l WHERE ",
            way->from, way->from);
    for (size_t i = 0; i < way->key_count; i++) {
        fprintf(t.out, "%sl.k%zu = d.k%zu", i > 0 ? " AND " : "", i, i);
    }
    fputs(")) SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM lasting), "
          "(SELECT l::text FROM lasting l LIMIT 1), $2::text[] IS NULL",
          t.out);
    return text_end(&t);
}

/* One query about a range; `at` and `second` are its parameters. */
static PGresult *ask(struct cutover *c, char *sql, const char *at, const char *second,
                     struct failure *f)
{
    PGresult *r = NULL;
    if (sql == NULL) {
        fail(f, EXIT_REFUSED, "out of memory");
    } else {
        r = control_query(c->control, sql, 2, (const char *const[]){at, second}, BATCH_LIMIT_MS, f);
    }
    free(sql);
    return r;
}

/* Compares the range behind *at, and moves *at to its end: NULL after the last one. */
static bool compare_range(struct cutover *c, const struct swap_way *way, uint64_t size, char **at,
                          int64_t *rows, struct failure *f)
{
    char offset[24];
    snprintf(offset, sizeof offset, "%llu", (unsigned long long)size);
    PGresult *bound = ask(c, bound_sql(way, *at == NULL), *at, offset, f);
    if (bound == NULL) {
        return false;
    }
    char *upto = PQntuples(bound) > 0 ? strdup(PQgetvalue(bound, 0, 0)) : NULL;
    PQclear(bound);
    PGresult *r = ask(c, compare_sql(way, *at == NULL, upto == NULL), *at, upto, f);
    free(*at);
    *at = upto;
    if (r == NULL) {
        return false;
    }
    *rows += strtoll(PQgetvalue(r, 0, 0), NULL, 10);
    bool same = strcmp(PQgetvalue(r, 0, 1), "0") == 0;
    if (!same) {
        fail(f, EXIT_REFUSED, "the two tables differ in %s rows of one range, e.g. %s",
             PQgetvalue(r, 0, 1), PQgetvalue(r, 0, 2));
    }
    PQclear(r);
    return same;
}

bool swap_compare(struct cutover *c, const struct swap_way *way, int64_t *rows, struct failure *f)
{
    char *at = NULL;
    uint64_t size = COMPARE_FIRST;
    double expected = json_number_value(json_object_get(c->table.facts, "rows"));
    double reported = 0;
    bool ok = true;
    struct throttle throttle;
    throttle_begin(&throttle, c, way);
    *rows = 0;
    do {
        double began = monotonic_ms_exact();
        ok = swap_log_catch_up(c, c->control, way, LOG_SHORT_MS, f) &&
             compare_range(c, way, size, &at, rows, f);
        double now = monotonic_ms_exact();
        size = adapt(size, now - began, COMPARE_TARGET_MS);
        if (now - reported > REPORT_EVERY_MS) {
            double done = expected > 0 ? (double)*rows / expected : 0;
            context_progress(c, "compare", done < 1 ? done : 0.999, "%lld rows compared%s",
                             (long long)*rows, throttle.note);
            reported = now;
        }
        ok = ok && throttle_rest(&throttle, "compare", now - began, f);
        ok = ok && (!context_abort_requested(c) || fail(f, EXIT_REFUSED, "aborted"));
    } while (ok && at != NULL);
    free(at);
    return ok;
}

/* Who has a snapshot from before $1, a transaction id, as "virtual transaction" and for people.
 * With $2 only those of that array: newer ones may have as old an xmin, because of a writer that
 * has been open for long, and see everything all the same. */
static const char old_snapshots_sql[] =
    "SELECT array_agg(v), string_agg(who, ', ') FROM (SELECT l.virtualtransaction AS v, "
    "format('pid %s (%s%s, %s)', a.pid, usename, ' ' || nullif(application_name, ''), state) AS "
    "who "
    "FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid AND l.locktype = 'virtualxid' "
    "AND l.virtualxid = l.virtualtransaction AND l.granted "
    "WHERE datname = current_database() AND a.pid <> pg_backend_pid() "
    "AND backend_type = 'client backend' AND age(backend_xmin) > age($1::text::xid) "
    "AND ($2::text[] IS NULL OR l.virtualtransaction = ANY ($2::text[]))) q";

bool swap_await_snapshots(struct cutover *c, const struct swap_way *way, struct failure *f)
{
    PGresult *r = control_query(c->control, "SELECT (txid_current() % 4294967296)::text", 0, NULL,
                                STATEMENT_TIMEOUT_MS, f);
    char *mark = r != NULL ? strdup(PQgetvalue(r, 0, 0)) : NULL;
    PQclear(r);
    char *who = NULL;
    bool ok = mark != NULL;
    FAILPOINT("snapshots");
    double reported = 0;
    for (;;) {
        r = !ok ? NULL
                : control_query(c->control, old_snapshots_sql, 2, (const char *const[]){mark, who},
                                STATEMENT_TIMEOUT_MS, f);
        ok = r != NULL;
        free(who);
        who = ok && !PQgetisnull(r, 0, 0) ? strdup(PQgetvalue(r, 0, 0)) : NULL;
        if (who == NULL) {
            PQclear(r);
            break;
        }
        double now = monotonic_ms_exact();
        if (now - reported > REPORT_EVERY_MS) {
            reported = now;
            context_progress(c, "snapshots", -1, "waiting for older snapshots: %s",
                             PQgetvalue(r, 0, 1));
        }
        PQclear(r);
        rest_ms(SNAPSHOT_POLL_MS);
        ok = swap_log_catch_up(c, c->control, way, LOG_SHORT_MS, f);
    }
    free(who);
    free(mark);
    return ok;
}
