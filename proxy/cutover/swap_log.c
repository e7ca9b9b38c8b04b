/* The log of a swap; see swap_log.h. Called by the swap, on any of its control connections. */
#include "proxy/cutover/swap_log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/failpoint.h"
#include "proxy/cutover/shadow.h"

enum {
    REPLAY_ROWS = 5000,    /* in one transaction */
    REPLAY_MS = 600000,    /* no limit in earnest: it can be aborted */
    REPLAY_ATTEMPTS = 10,  /* conflicts that a later snapshot does not have */
    CATCH_UP_TURNS = 1000, /* a log that never gets short */
    FEW_ROWS = 500,        /* their turn is as long as one of none: hundreds of partitions */
};

/* The key's columns in its own order, with the types that the log gives them. $1 table, $2 names.
 */
static const char key_sql[] =
    "SELECT quote_ident(a.attname), format_type(a.atttypid, a.atttypmod) || "
    "coalesce((SELECT format(' COLLATE %I.%I', n.nspname, o.collname) FROM pg_collation o "
    "JOIN pg_namespace n ON n.oid = o.collnamespace JOIN pg_type t ON t.oid = a.atttypid "
    "WHERE o.oid = a.attcollation AND a.attcollation <> t.typcollation), '') "
    "FROM json_array_elements_text($2::json) WITH ORDINALITY k(name, ord) "
    "JOIN pg_attribute a ON a.attrelid = $1::oid AND a.attname = k.name::name "
    "AND NOT a.attisdropped ORDER BY k.ord";

static bool read_key(struct cutover *c, const struct shadow *shape, struct swap_way *way,
                     struct failure *f)
{
    char oid[16];
    char *names = json_dumps(shape->key_names, 0);
    snprintf(oid, sizeof oid, "%u", way->from);
    PGresult *r = names == NULL
                      ? NULL
                      : control_query(c->control, key_sql, 2, (const char *const[]){oid, names},
                                      STATEMENT_TIMEOUT_MS, f);
    free(names);
    if (r == NULL) {
        return false;
    }
    size_t count = (size_t)PQntuples(r);
    way->key_names = calloc(count + 1, sizeof *way->key_names);
    way->key_types = calloc(count + 1, sizeof *way->key_types);
    bool ok = way->key_names != NULL && way->key_types != NULL;
    for (size_t i = 0; ok && i < count; i++) {
        way->key_names[i] = strdup(PQgetvalue(r, (int)i, 0));
        way->key_types[i] = strdup(PQgetvalue(r, (int)i, 1));
        way->key_count++;
        ok = way->key_names[i] != NULL && way->key_types[i] != NULL;
    }
    PQclear(r);
    if (ok && (count == 0 || count != json_array_size(shape->key_names))) {
        return fail(f, EXIT_REFUSED, "the key of the table has changed");
    }
    return ok || fail(f, EXIT_REFUSED, "out of memory");
}

bool swap_way_init(struct cutover *c, const struct shadow *shape, bool forward, unsigned from,
                   const char *to_name, struct swap_way *out, struct failure *f)
{
    /* On the way back the guarded column is written as well; a plan of the way forward, from which
     * the way back is known before the flip, leaves it out. */
    bool add = !forward && shape->direction == SHADOW_FORWARD;
    *out = (struct swap_way){
        .from = from,
        .forward = forward,
        .from_name = strdup(c->relation),
        .to_name = strdup(to_name),
        .columns = add ? text_printf("%s, %s", shape->columns, c->column) : strdup(shape->columns),
        .all_columns = strdup(shape->all_columns),
        .key = strdup(shape->key),
    };
    bool ok = out->from_name != NULL && out->to_name != NULL && out->columns != NULL &&
              out->all_columns != NULL && out->key != NULL;
    ok = (ok || fail(f, EXIT_REFUSED, "out of memory")) && read_key(c, shape, out, f);
    if (!ok) {
        swap_way_fini(out);
    }
    return ok;
}

void swap_way_fini(struct swap_way *way)
{
    for (size_t i = 0; i < way->key_count; i++) {
        free(way->key_names[i]);
        free(way->key_types[i]);
    }
    free(way->key_names);
    free(way->key_types);
    free(way->from_name);
    free(way->to_name);
    free(way->columns);
    free(way->all_columns);
    free(way->key);
    *way = (struct swap_way){.from = 0};
}

/* "k1, k2": the log's own names, which cannot be those of the table's columns by accident only
 * where both are in scope. */
static void put_log_key(FILE *out, const struct swap_way *way, bool typed)
{
    for (size_t i = 0; i < way->key_count; i++) {
        fprintf(out, "%sk%zu%s%s", i > 0 ? ", " : "", i, typed ? " " : "",
                typed ? way->key_types[i] : "");
    }
}

/* "NEW.a, NEW.b" */
static void put_key(FILE *out, const struct swap_way *way, const char *prefix)
{
    for (size_t i = 0; i < way->key_count; i++) {
        fprintf(out, "%s%s%s", i > 0 ? ", " : "", prefix, way->key_names[i]);
    }
}

static void put_log_row(FILE *out, const struct swap_way *way, const char *op, const char *prefix)
{
    fprintf(out, "INSERT INTO pgsluice.log_%u (op, ", way->from);
    put_log_key(out, way, false);
    fprintf(out, ") VALUES ('%s', ", op);
    put_key(out, way, prefix);
    fputs("); ", out);
}

/* An UPDATE that leaves the key alone is logged once. Images are compared, because no operator of
 * the key's type need be within the function's search_path. */
static void put_capture(FILE *out, const struct swap_way *way)
{
    fprintf(out,
            "CREATE FUNCTION pgsluice.capture_%u() RETURNS trigger LANGUAGE plpgsql "
            "SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $capture$\nBEGIN\n"
            "IF TG_NAME = 'pgsluice_part' THEN INSERT INTO pgsluice.log_%u (op, part) VALUES ('P', "
            "coalesce(pg_get_partition_constraintdef(TG_RELID), 'true')); RETURN NULL; END IF;\n"
            "IF TG_OP = 'TRUNCATE' THEN INSERT INTO pgsluice.log_%u (op) VALUES ('T'); "
            "RETURN NULL; END IF;\nIF TG_OP <> 'INSERT' AND (TG_OP = 'DELETE' OR "
            "record_image_ne(ROW(",
            way->from, way->from, way->from);
    put_key(out, way, "OLD.");
    fputs("), ROW(", out);
    put_key(out, way, "NEW.");
    fputs("))) THEN ", out);
    put_log_row(out, way, "D", "OLD.");
    fputs("END IF;\nIF TG_OP <> 'DELETE' THEN ", out);
    put_log_row(out, way, "I", "NEW.");
    fputs("END IF;\nRETURN NULL;\nEND $capture$; ", out);
}

/* A row whose value is not the expression's would change by the move. It cannot be found out later
 * when the column is part of the key, because then the two rows are not recognised as one. */
static void put_value_check(FILE *out, const struct cutover *c, const struct swap_way *way)
{
    char *value = context_expand(c, "{value}");
    char *differ = value != NULL ? context_differ(c, c->column, value) : NULL;
    fprintf(out, "SELECT ROW(%s)::text INTO pgsluice_wrong FROM %s WHERE (%s) IN (SELECT ",
            way->key, way->from_name, way->key);
    put_log_key(out, way, false);
    fprintf(out,
            " FROM unnest(pgsluice_rows)) AND %s LIMIT 1;\nIF FOUND THEN RAISE EXCEPTION USING "
            "ERRCODE = "
            "'" SWAP_VALUE
            "', MESSAGE = 'the row with the key ' || pgsluice_wrong || ' was given a value "
            "that is not the expression''s'; END IF;\n",
            differ != NULL ? differ : "");
    free(value);
    free(differ);
}

static void put_replay(FILE *out, const struct cutover *c, const struct swap_way *way)
{
    /* Some keys of two tables of which the planner knows little, one of them growing all the time:
     * a plan that reads either of them as a whole is never right. */
    static const char by_index[] =
        "SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off "
        "SET plan_cache_mode = force_custom_plan";
    unsigned n = way->from;
    fprintf(
        out,
        "CREATE FUNCTION pgsluice.replay_%u(most bigint) RETURNS bigint LANGUAGE plpgsql "
        "%s AS $replay$\n#variable_conflict use_column\n"
        "DECLARE pgsluice_rows pgsluice.log_%u[]; pgsluice_part text; pgsluice_wrong text;\n"
        "BEGIN\n"
        "WITH gone AS (DELETE FROM pgsluice.log_%u WHERE seq IN (SELECT seq FROM "
        "pgsluice.log_%u ORDER BY seq LIMIT most) RETURNING *) "
        "SELECT array_agg(ROW(gone.*)::pgsluice.log_%u) INTO pgsluice_rows FROM gone;\n"
        "IF pgsluice_rows IS NULL THEN RETURN 0; END IF;\n"
        "IF EXISTS (SELECT FROM unnest(pgsluice_rows) WHERE op = 'T') THEN TRUNCATE %s; END IF;\n"
        "FOR pgsluice_part IN SELECT DISTINCT part FROM unnest(pgsluice_rows) WHERE op = 'P' LOOP\n"
        "EXECUTE 'DELETE FROM %s WHERE ' || pgsluice_part;\nEND LOOP;\n",
        n, by_index, n, n, n, n, way->to_name, way->to_name);
    if (way->forward) {
        put_value_check(out, c, way);
    }
    fprintf(out, "DELETE FROM %s WHERE (%s) IN (SELECT ", way->to_name, way->key);
    put_log_key(out, way, false);
    fprintf(out,
            " FROM unnest(pgsluice_rows));\nINSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s "
            "FROM %s "
            "WHERE (%s) IN (SELECT ",
            way->to_name, way->columns, way->columns, way->from_name, way->key);
    put_log_key(out, way, false);
    fputs(" FROM unnest(pgsluice_rows));\nRETURN array_length(pgsluice_rows, 1);\nEND $replay$",
          out);
}

char *swap_log_create_sql(const struct cutover *c, const struct swap_way *way)
{
    struct text t;
    if (!text_begin(&t)) {
        return NULL;
    }
    /* The log is short and busy: without its own settings autovacuum would come too late. Cutting
     * off its end would take an exclusive lock on it, and writers would wait. */
    fprintf(t.out,
            "CREATE TABLE pgsluice.log_%u (seq bigint GENERATED ALWAYS AS IDENTITY "
            "PRIMARY KEY, op \"char\" NOT NULL, part text, ",
            way->from);
    put_log_key(t.out, way, true);
    fputs(") WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, "
          "vacuum_truncate = off); ",
          t.out);
    put_capture(t.out, way);
    put_replay(t.out, c, way);
    return text_end(&t);
}

/* A PL/pgSQL statement for each relation that `query` gives. */
static char *each_sql(const char *query, const char *format)
{
    return text_printf("DO $each$ DECLARE leaf_ regclass; BEGIN FOR leaf_ IN %s LOOP "
                       "EXECUTE format('%s', leaf_); END LOOP; END $each$",
                       query, format);
}

/* Also for what replication or a restore writes with session_replication_role = replica; before
 * PostgreSQL 13 the triggers of partitions can only be as they were made. TRUNCATE of a partition
 * fires no trigger of the table, so that each leaf has one of its own. */
char *swap_log_arm_sql(const struct cutover *c, const struct swap_way *way, const char *table)
{
    char *one = text_printf("CREATE TRIGGER pgsluice_part AFTER TRUNCATE ON %%1$s FOR EACH "
                            "STATEMENT EXECUTE PROCEDURE pgsluice.capture_%u(); "
                            "ALTER TABLE %%1$s ENABLE ALWAYS TRIGGER pgsluice_part",
                            way->from);
    char *query = text_printf("SELECT relid FROM pg_partition_tree($rel$%s$rel$) WHERE isleaf "
                              "AND level > 0",
                              table);
    char *leaves = one != NULL && query != NULL ? each_sql(query, one) : NULL;
    char *sql =
        leaves == NULL
            ? NULL
            : text_printf("CREATE TRIGGER pgsluice_capture AFTER INSERT OR UPDATE OR DELETE ON %s "
                          "FOR EACH ROW EXECUTE PROCEDURE pgsluice.capture_%u(); "
                          "CREATE TRIGGER pgsluice_truncate AFTER TRUNCATE ON %s FOR EACH "
                          "STATEMENT EXECUTE PROCEDURE pgsluice.capture_%u(); "
                          "ALTER TABLE %s %s ENABLE ALWAYS TRIGGER pgsluice_capture, "
                          "ENABLE ALWAYS TRIGGER pgsluice_truncate; %s",
                          table, way->from, table, way->from,
                          control_version(c->control) < 130000 ? "ONLY" : "", table, leaves);
    free(one);
    free(query);
    free(leaves);
    return sql;
}

char *swap_log_disarm_sql(const char *table)
{
    /* By their function: a partition that was detached has kept its own. */
    char *query = text_printf("SELECT tgrelid FROM pg_trigger WHERE tgname = 'pgsluice_part' AND "
                              "tgfoid = to_regproc('pgsluice.capture_' || $rel$%s$rel$"
                              "::regclass::oid)",
                              table);
    char *leaves = query != NULL ? each_sql(query, "DROP TRIGGER pgsluice_part ON %s") : NULL;
    char *sql = leaves == NULL ? NULL
                               : text_printf("DROP TRIGGER IF EXISTS pgsluice_capture ON %s; "
                                             "DROP TRIGGER IF EXISTS pgsluice_truncate ON %s; %s",
                                             table, table, leaves);
    free(query);
    free(leaves);
    return sql;
}

char *swap_log_drop_sql(unsigned from)
{
    return text_printf("DROP FUNCTION IF EXISTS pgsluice.replay_%u(bigint); "
                       "DROP FUNCTION IF EXISTS pgsluice.capture_%u(); "
                       "DROP TABLE IF EXISTS pgsluice.log_%u",
                       from, from, from);
}

char *swap_log_silence_sql(unsigned from)
{
    return text_printf("DO $silence$ BEGIN IF to_regproc('pgsluice.capture_%u') IS NOT NULL THEN "
                       "CREATE OR REPLACE FUNCTION pgsluice.capture_%u() RETURNS trigger "
                       "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS "
                       "$capture$ BEGIN RETURN NULL; END $capture$; END IF; END $silence$",
                       from, from);
}

char *swap_log_drain_sql(const struct swap_way *way)
{
    return text_printf("PERFORM pgsluice.replay_%u(NULL);\n", way->from);
}

/* A later snapshot has what this one lacks: the parent of a row, the other half of two rows that
 * have exchanged a unique value. */
static bool is_passing(const char *sqlstate)
{
    return strcmp(sqlstate, "23505") == 0 || strcmp(sqlstate, "23P01") == 0 ||
           strcmp(sqlstate, "40001") == 0 || strcmp(sqlstate, "40P01") == 0;
}

static bool replay_once(struct control *control, const struct swap_way *way, uint64_t most,
                        unsigned timeout_ms, uint64_t *count, struct failure *f)
{
    char limit[24];
    char sql[64];
    struct failure ignored;
    const char *value = most != 0 ? limit : NULL;
    snprintf(limit, sizeof limit, "%llu", (unsigned long long)most);
    snprintf(sql, sizeof sql, "SELECT pgsluice.replay_%u($1::bigint)", way->from);
    unsigned short_ms = timeout_ms < STATEMENT_TIMEOUT_MS ? timeout_ms : STATEMENT_TIMEOUT_MS;
    /* Not waited for at the disk, least of all while writes are held: log and rows are lost
     * together in a crash or not at all, and the flip's own COMMIT takes all that is before it
     * along. */
    if (!control_run(control,
                     "BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL synchronous_commit = off",
                     short_ms, f)) {
        return false;
    }
    PGresult *r = control_query(control, sql, 1, &value, timeout_ms, f);
    if (r == NULL) {
        if (!control_is_lost(control)) {
            (void)!control_run(control, "ROLLBACK", STATEMENT_TIMEOUT_MS, &ignored);
        }
        return false;
    }
    *count = strtoull(PQgetvalue(r, 0, 0), NULL, 10);
    PQclear(r);
    FAILPOINT("replay-commit");
    return control_run(control, "COMMIT", short_ms, f);
}

bool swap_log_replay(struct control *control, const struct swap_way *way, uint64_t most,
                     unsigned timeout_ms, uint64_t *count, struct failure *f)
{
    *count = 0;
    for (unsigned attempt = 0;; attempt++) {
        if (replay_once(control, way, most, timeout_ms, count, f)) {
            return true;
        }
        if (attempt >= REPLAY_ATTEMPTS || control_is_lost(control) || !is_passing(f->sqlstate)) {
            return false;
        }
        /* All of the log and one snapshot are consistent; a part of it need not be. */
        most = 0;
    }
}

bool swap_log_catch_up(struct cutover *c, struct control *control, const struct swap_way *way,
                       unsigned ms, struct failure *f)
{
    uint64_t count = 0;
    uint64_t total = 0;
    double least = 0; /* of a turn */
    for (unsigned turn = 0; turn < CATCH_UP_TURNS; turn++) {
        if (context_abort_requested(c)) {
            return fail(f, EXIT_REFUSED, "aborted");
        }
        double began = monotonic_ms_exact();
        if (!swap_log_replay(control, way, REPLAY_ROWS, REPLAY_MS, &count, f)) {
            return false;
        }
        total += count;
        double took = monotonic_ms_exact() - began;
        if ((count < REPLAY_ROWS && took <= ms) || (count < FEW_ROWS && took <= 2 * least)) {
            return true;
        }
        least = turn == 0 ? took : fmin(least, took);
        if (total > 2 * (uint64_t)REPLAY_ROWS) {
            context_progress(c, "replay", -1, "%llu changes replayed", (unsigned long long)total);
        }
    }
    return fail(f, EXIT_REFUSED, "the table changes faster than it can be followed");
}
