/*
 * The measurement; see cost.h. One DO statement does all of it, so that nothing but the server's
 * own work is in the times: rounds go back and forth between the two copies, and medians are taken.
 */
#include "proxy/cutover/cost.h"

#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 7, ROWS_MIN = 50, COST_TIMEOUT_MS = 20000 };

/* The copies have the table's defaults and indexes; rows are real ones of the table, so that no
 * sequence is used up. */
static const char setup_sql[] =
    "CREATE TEMP TABLE pgsluice_rows AS SELECT * FROM {name} LIMIT 500; "
    "CREATE TEMP TABLE pgsluice_trigger (LIKE {name} INCLUDING DEFAULTS INCLUDING GENERATED "
    "INCLUDING INDEXES); "
    "CREATE TEMP TABLE pgsluice_generated (LIKE {name} INCLUDING DEFAULTS INCLUDING GENERATED); "
    "ALTER TABLE pg_temp.pgsluice_generated RENAME COLUMN {col} TO pgsluice_old; "
    "ALTER TABLE pg_temp.pgsluice_generated ADD COLUMN pgsluice_new {type} "
    "GENERATED ALWAYS AS ({expr}) STORED; "
    "ALTER TABLE pg_temp.pgsluice_generated DROP COLUMN pgsluice_old; "
    "ALTER TABLE pg_temp.pgsluice_generated RENAME COLUMN pgsluice_new TO {col}; "
    "DO $pgsluice$ DECLARE x record; BEGIN FOR x IN SELECT pg_get_indexdef(indexrelid) AS def "
    "FROM pg_index WHERE indrelid = 'pg_temp.pgsluice_trigger'::regclass LOOP "
    "EXECUTE regexp_replace(regexp_replace(x.def, ' INDEX \\S+ ON ', ' INDEX ON '), "
    "'pgsluice_trigger', 'pgsluice_generated'); END LOOP; END $pgsluice$; ";

/* Names of the columns that a client supplies, and the same of the loop's row. */
static const char columns_sql[] =
    "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum), "
    "string_agg('r.' || quote_ident(attname), ', ' ORDER BY attnum), "
    "string_agg(format('quote_nullable(x.%I)', attname), ', ' ORDER BY attnum), "
    "(SELECT count(*) FROM pg_temp.pgsluice_rows), "
    "(SELECT substring(pg_get_triggerdef(oid) FROM 'EXECUTE (?:FUNCTION|PROCEDURE) (.*)$') "
    "FROM pg_trigger WHERE oid = {trigger}), "
    "string_agg(format('coalesce(''\"'' || replace(%I::text, ''\"'', ''\"\"'') || ''\"'', '''')', "
    "attname), ' || '','' || ' ORDER BY attnum) "
    "FROM pg_attribute a WHERE attrelid = {rel} AND attnum > 0 AND NOT attisdropped "
    "AND attnum <> {num} AND coalesce(to_jsonb(a) ->> 'attgenerated', '') = '' "
    "AND attidentity <> 'a'";

/* In order: quoted values, rounds, twice columns and the row's columns, thrice columns in a
 * literal. */
static const char measure_sql[] =
    "DO $pgsluice$ DECLARE t text; began timestamptz; took float8; r record; rows int; "
    "tuples text; result jsonb; BEGIN "
    "SELECT count(*), string_agg('(' || concat_ws(', ', %s) || ')', ', ') INTO rows, tuples "
    "FROM pg_temp.pgsluice_rows x; "
    "CREATE TEMP TABLE pgsluice_times (path text, kind text, us float8); "
    "FOR round IN 0..%d LOOP "
    "FOREACH t IN ARRAY CASE round %% 2 WHEN 0 THEN '{trigger,generated}'::text[] "
    "ELSE '{generated,trigger}' END LOOP "
    "EXECUTE 'TRUNCATE pg_temp.pgsluice_' || t; began := clock_timestamp(); "
    "IF t = 'trigger' THEN FOR r IN SELECT * FROM pg_temp.pgsluice_rows LOOP "
    "INSERT INTO pg_temp.pgsluice_trigger (%s) VALUES (%s); END LOOP; "
    "ELSE FOR r IN SELECT * FROM pg_temp.pgsluice_rows LOOP "
    "INSERT INTO pg_temp.pgsluice_generated (%s) VALUES (%s); END LOOP; END IF; "
    "took := extract(epoch FROM clock_timestamp() - began) * 1e6 / rows; "
    "INSERT INTO pg_temp.pgsluice_times SELECT 'one row a statement', t, took WHERE round > 0; "
    "EXECUTE 'TRUNCATE pg_temp.pgsluice_' || t; began := clock_timestamp(); "
    "EXECUTE 'INSERT INTO pg_temp.pgsluice_' || t || ' (%s) VALUES ' || tuples; "
    "took := extract(epoch FROM clock_timestamp() - began) * 1e6 / rows; "
    "INSERT INTO pg_temp.pgsluice_times SELECT 'all rows in one VALUES', t, took WHERE round > 0; "
    "EXECUTE 'TRUNCATE pg_temp.pgsluice_' || t; began := clock_timestamp(); "
    "EXECUTE 'INSERT INTO pg_temp.pgsluice_' || t || ' (%s) SELECT %s FROM "
    "pg_temp.pgsluice_rows'; "
    "took := extract(epoch FROM clock_timestamp() - began) * 1e6 / rows; "
    "INSERT INTO pg_temp.pgsluice_times SELECT 'INSERT ... SELECT', t, took WHERE round > 0; "
    "END LOOP; END LOOP; "
    "SELECT jsonb_agg(jsonb_build_object('path', path, 'trigger_us', trig, 'generated_us', gen, "
    "'change', gen / nullif(trig, 0) - 1) ORDER BY trig DESC) INTO result FROM (SELECT path, "
    "percentile_cont(0.5) WITHIN GROUP (ORDER BY us) FILTER (WHERE kind = 'trigger') AS trig, "
    "percentile_cont(0.5) WITHIN GROUP (ORDER BY us) FILTER (WHERE kind = 'generated') AS gen "
    "FROM pg_temp.pgsluice_times GROUP BY path) q; "
    "PERFORM set_config('pgsluice.cost', result::text, true); END $pgsluice$";

static void report_none(struct cutover *c, const char *why)
{
    report_set(c, "insert_cost", json_pack("{s:o}", "note", report_string(why)));
}

/* Doubles the single quotes: the text goes into an SQL literal. */
static char *in_literal(const char *text)
{
    struct text t;
    if (!text_begin(&t)) {
        return NULL;
    }
    for (const char *p = text; *p != '\0'; p++) {
        fputs(*p == '\'' ? "''" : (const char[]){*p, '\0'}, t.out);
    }
    return text_end(&t);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One COPY into one of the copies, in microseconds a row; negative when it fails. */
static double time_copy(struct cutover *c, const char *table, const char *columns, long rows,
                        const char *data, struct failure *f)
{
    char *empty = text_printf("TRUNCATE pg_temp.pgsluice_%s", table);
    char *copy =
        text_printf("COPY pg_temp.pgsluice_%s (%s) FROM STDIN (FORMAT csv)", table, columns);
    double took = -1;
    if (empty != NULL && copy != NULL && control_run(c->control, empty, STATEMENT_TIMEOUT_MS, f)) {
        double began = monotonic_ms_exact();
        bool ok = control_copy(c->control, copy, data, strlen(data), COST_TIMEOUT_MS, f);
        took = ok ? (monotonic_ms_exact() - began) * 1e3 / (double)rows : -1;
    }
    free(empty);
    free(copy);
    return took;
}

/* COPY has no place in a DO statement: it is timed from here, its round trips included. */
static bool add_copy(struct cutover *c, const PGresult *columns, json_t *paths, struct failure *f)
{
    double us[2][ROUNDS];
    const char *const tables[] = {"trigger", "generated"};
    long rows = strtol(PQgetvalue(columns, 0, 3), NULL, 10);
    char *sql = text_printf("SELECT string_agg(%s, E'\\n') FROM pg_temp.pgsluice_rows",
                            PQgetvalue(columns, 0, 5));
    PGresult *data =
        sql != NULL ? control_query(c->control, sql, 0, NULL, STATEMENT_TIMEOUT_MS, f) : NULL;
    free(sql);
    bool ok = data != NULL;
    for (int round = -1; ok && round < ROUNDS; round++) {
        for (int i = 0; ok && i < 2; i++) {
            int which = (i + round) & 1;
            double took = time_copy(c, tables[which], PQgetvalue(columns, 0, 0), rows,
                                    PQgetvalue(data, 0, 0), f);
            ok = took >= 0;
            us[which][round < 0 ? 0 : round] = took;
        }
    }
    PQclear(data);
    if (!ok) {
        return false;
    }
    qsort(us[0], ROUNDS, sizeof us[0][0], by_size);
    qsort(us[1], ROUNDS, sizeof us[1][0], by_size);
    double trigger = us[0][ROUNDS / 2];
    double generated = us[1][ROUNDS / 2];
    (void)json_array_append_new(paths, json_pack("{s:s, s:f, s:f, s:f}", "path", "COPY",
                                                 "trigger_us", trigger, "generated_us", generated,
                                                 "change", generated / trigger - 1));
    return true;
}

static json_t *run(struct cutover *c, const PGresult *columns, struct failure *f)
{
    char *call = text_printf("CREATE TRIGGER pgsluice_cost BEFORE INSERT ON "
                             "pg_temp.pgsluice_trigger FOR EACH ROW EXECUTE PROCEDURE %s",
                             PQgetvalue(columns, 0, 4));
    char *names = in_literal(PQgetvalue(columns, 0, 0));
    const char *columns_text = PQgetvalue(columns, 0, 0);
    const char *row = PQgetvalue(columns, 0, 1);
    char *sql = names != NULL
                    ? text_printf(measure_sql, PQgetvalue(columns, 0, 2), ROUNDS, columns_text, row,
                                  columns_text, row, names, names, names)
                    : NULL;
    json_t *paths = NULL;
    if (call != NULL && sql != NULL && control_run(c->control, call, STATEMENT_TIMEOUT_MS, f) &&
        control_run(c->control, sql, COST_TIMEOUT_MS, f)) {
        paths = context_json(control_query(c->control, "SELECT current_setting('pgsluice.cost')", 0,
                                           NULL, STATEMENT_TIMEOUT_MS, f),
                             f);
    }
    if (paths != NULL && !add_copy(c, columns, paths, f)) {
        json_decref(paths);
        paths = NULL;
    }
    free(call);
    free(names);
    free(sql);
    return paths;
}

static void measure(struct cutover *c)
{
    struct failure f = {.code = EXIT_REFUSED, .msg = "out of memory"};
    char *setup = context_expand(c, setup_sql);
    bool ok = setup != NULL && control_run(c->control, setup, STATEMENT_TIMEOUT_MS, &f);
    free(setup);
    PGresult *columns = ok ? context_query(c, columns_sql, STATEMENT_TIMEOUT_MS, &f) : NULL;
    if (columns == NULL) {
        report_none(c, f.msg);
        return;
    }
    long rows = strtol(PQgetvalue(columns, 0, 3), NULL, 10);
    json_t *paths = NULL;
    if (rows < ROWS_MIN) {
        report_none(c, "the table has too few rows to measure with");
    } else if ((paths = run(c, columns, &f)) == NULL) {
        report_none(c, f.msg);
    } else {
        report_set(c, "insert_cost",
                   json_pack("{s:I, s:i, s:s, s:o}", "rows", (json_int_t)rows, "rounds", ROUNDS,
                             "note",
                             "Microseconds a row at the server (COPY: with its way there), medians "
                             "of rounds that went back "
                             "and forth between two temporary copies of this table with its "
                             "indexes; no WAL, no network. On a busy server they "
                             "move by tens of per cent. The sign may differ from path to path: "
                             "a generated column's expression is prepared for every statement, a "
                             "trigger's function once a session, so that single rows may become "
                             "dearer while bulk loads become cheaper.",
                             "paths", paths));
    }
    PQclear(columns);
}

void cost_measure(struct cutover *c)
{
    struct failure f;
    if (c->trigger.oid == 0) {
        report_none(c, "no trigger computes the column, so there is nothing to compare with");
        return;
    }
    context_progress(c, "cost", -1, "measuring what an INSERT costs, on temporary copies");
    if (!control_run(c->control, "BEGIN", STATEMENT_TIMEOUT_MS, &f)) {
        report_none(c, f.msg);
        return;
    }
    measure(c);
    if (!control_run(c->control, "ROLLBACK", STATEMENT_TIMEOUT_MS, &f)) {
        report_none(c, f.msg);
    }
}
