/*
 * The preflight; see preflight.h. Called by the commands in cutover.c and rollback.c. Each check
 * has an id that does not change, so that scripts can rely on it.
 */
#include "proxy/cutover/preflight.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/swap.h"
#include "proxy/cutover/values.h"

enum {
    /* What the rewrite and the index builds were measured to do on a small machine, with a margin:
     * the budget is enforced all the same, a wrong estimate costs an attempt and nothing else. */
    REWRITE_MB_PER_S = 50,
    INDEX_MB_PER_S = 25,
    FLIP_FIXED_MS = 40,
    LONG_TRANSACTION_S = 1,
    ATTRIBUTES_MAX = 1600,
};

static const char *get(const struct cutover *c, const char *key)
{
    const char *text = json_string_value(json_object_get(c->table.facts, key));
    return text != NULL ? text : "";
}

static bool is_set(const struct cutover *c, const char *key)
{
    return json_is_true(json_object_get(c->table.facts, key));
}

/* The names of a JSON array, with commas; "" for null. The caller frees. */
static char *list_of(const json_t *array)
{
    struct text t;
    size_t i;
    const json_t *name;
    if (!text_begin(&t)) {
        return NULL;
    }
    json_array_foreach(array, i, name)
    {
        fprintf(t.out, "%s%s", i > 0 ? ", " : "",
                json_is_string(name) ? json_string_value(name) : "?");
    }
    return text_end(&t);
}

/* Of the exclusive lock. */
static uint64_t estimate_ms(const struct cutover *c, bool rewrites)
{
    double ms = FLIP_FIXED_MS;
    if (rewrites) {
        ms += (double)c->table.table_bytes / (REWRITE_MB_PER_S * 1e3) +
              (double)c->table.index_bytes / (INDEX_MB_PER_S * 1e3);
    }
    return (uint64_t)ms;
}

static void check_mode(struct cutover *c)
{
    if (c->rule->mode == RULE_MODE_OBSERVE) {
        report_check(c, "mode", CHECK_BLOCK, "set mode = strip in the rule first, and let it run",
                     "mode = observe: values that clients supply still reach the server, and "
                     "would be refused with 428C9 after the flip");
    } else {
        report_check(c, "mode", CHECK_PASS, NULL,
                     "no value that a client supplies reaches the "
                     "server through this proxy");
    }
    report_check(c, "strategy", CHECK_PASS, NULL,
                 c->swaps ? "swap: a second table is filled beside this one, and takes its place "
                            "under a short exclusive lock"
                          : "in place: one transaction rewrites the table under an exclusive lock");
}

/* In place what is small and plain; an unfinished swap is gone on with. */
static bool choose_strategy(struct cutover *c, struct failure *f)
{
    struct swap_row row;
    if (!swap_state_read(c, &row, f)) {
        return false;
    }
    bool begun = row.phase != SWAP_NONE;
    swap_row_fini(&row);
    bool plain = strcmp(get(c, "kind"), "r") == 0 && !is_set(c, "of_type") &&
                 json_is_null(json_object_get(c->table.facts, "children")) &&
                 json_is_null(json_object_get(c->table.facts, "parents"));
    bool fits = estimate_ms(c, true) <= c->options.max_hold_ms;
    c->swaps = c->options.strategy == CUTOVER_SWAP ||
               (c->options.strategy == CUTOVER_AUTO && (begun || !plain || !fits));
    return true;
}

/* A pooler in between would hand each statement to whom it likes. */
static void check_direct(struct cutover *c)
{
    struct failure f;
    PGresult *r = context_query(c, "SELECT pg_backend_pid()", STATEMENT_TIMEOUT_MS, &f);
    if (r != NULL && strtol(PQgetvalue(r, 0, 0), NULL, 10) != control_backend_pid(c->control)) {
        report_check(c, "direct", CHECK_BLOCK, "let control name the server itself",
                     "the control connection goes through a pooler");
    }
    PQclear(r);
}

void preflight_rights(struct cutover *c)
{
    check_direct(c);
    if (is_set(c, "owned")) {
        report_check(c, "role", CHECK_PASS, NULL, "%s may act as the table's owner, %s",
                     get(c, "role"), get(c, "owner"));
    } else {
        report_check(c, "role", CHECK_BLOCK,
                     "let the control role own the table, or be a member of its owner",
                     "%s is not a member of the table's owner, %s", get(c, "role"),
                     get(c, "owner"));
    }
    const json_t *schema = json_object_get(c->table.facts, "state_schema");
    if (json_is_null(schema) && !is_set(c, "may_create_schema")) {
        report_check(c, "state-schema", CHECK_BLOCK, "GRANT CREATE ON DATABASE to the control role",
                     "%s may not create schema pgsluice, which records the flip", get(c, "role"));
    } else if (json_is_false(schema)) {
        report_check(c, "state-schema", CHECK_BLOCK,
                     "let the control role read and write schema pgsluice",
                     "schema pgsluice exists, and %s may not use it", get(c, "role"));
    } else {
        report_check(c, "state-schema", CHECK_PASS, NULL, "schema pgsluice %s",
                     json_is_true(schema) ? "exists" : "will be created with the flip");
    }
}

/* "table", "column", "inheritance", "row-type": what the table is. */
static void check_shape(struct cutover *c)
{
    const char *remedy = "in place works on plain tables; this shape needs --strategy swap";
    const json_t *facts = c->table.facts;
    if (c->swaps) {
        report_check(c, "table", CHECK_PASS, NULL, "a table of about %lld rows, %.1f MB",
                     json_integer_value(json_object_get(facts, "rows")),
                     (double)(c->table.table_bytes + c->table.index_bytes) / 1e6);
    } else if (is_set(c, "partitioned_by_column")) {
        report_check(
            c, "table", CHECK_BLOCK,
            "partition the table by another column, e.g. PARTITION BY HASH (collection_id)",
            "the table is partitioned by the column (%s): PostgreSQL refuses a generated "
            "column in a partition key (42P17)",
            get(c, "partitioning"));
    } else if (strcmp(get(c, "kind"), "r") != 0 || is_set(c, "of_type")) {
        report_check(
            c, "table", CHECK_BLOCK, remedy, "it is %s%s",
            is_set(c, "of_type") ? "a typed table" : "partitioned: ", get(c, "partitioning"));
    } else {
        report_check(c, "table", CHECK_PASS, NULL, "a plain table of about %lld rows, %.1f MB",
                     json_integer_value(json_object_get(facts, "rows")),
                     (double)(c->table.table_bytes + c->table.index_bytes) / 1e6);
    }
    char *children = list_of(json_object_get(facts, "children"));
    char *parents = list_of(json_object_get(facts, "parents"));
    if (c->swaps) {
        /* What the second table can have of it, the check "shadow" says. */
    } else if ((children != NULL && *children != '\0') || (parents != NULL && *parents != '\0')) {
        report_check(c, "inheritance", CHECK_BLOCK, remedy, "it has %s%s%s%s",
                     *children != '\0' ? "children: " : "", children,
                     *parents != '\0' ? " parents: " : "", parents);
    } else {
        report_check(c, "inheritance", CHECK_PASS, NULL, "no parents, no children");
    }
    free(children);
    free(parents);
    char *users = list_of(json_object_get(facts, "row_type_users"));
    if (users != NULL && *users != '\0') {
        report_check(c, "row-type", CHECK_BLOCK, "drop these columns, or give them another type",
                     "columns are of the table's row type, so that it cannot be rewritten: %s",
                     users);
    }
    free(users);
    if (json_integer_value(json_object_get(facts, "columns")) >= ATTRIBUTES_MAX) {
        report_check(c, "column", CHECK_BLOCK, "build the table anew, to be rid of dropped columns",
                     "the table has had %d columns, the most that PostgreSQL can number",
                     ATTRIBUTES_MAX);
    } else if (get(c, "identity")[0] != '\0') {
        report_check(c, "column", CHECK_BLOCK, "ALTER COLUMN ... DROP IDENTITY",
                     "the column is an identity column");
    } else {
        report_check(c, "column", CHECK_PASS, NULL, "%s%s, %s", c->table.type,
                     c->table.not_null ? " NOT NULL" : "",
                     c->table.definition != NULL ? c->table.definition : "no default");
    }
}

static const char publications_sql[] =
    "SELECT coalesce(json_agg(DISTINCT p.pubname), '[]') FROM pg_publication_tables t "
    "JOIN pg_publication p ON p.pubname = t.pubname WHERE t.schemaname::regnamespace = "
    "(SELECT relnamespace FROM pg_class WHERE oid = {rel}) "
    "AND t.tablename = (SELECT relname FROM pg_class WHERE oid = {rel}) "
    "AND coalesce(to_jsonb(p) ->> 'pubgencols', 'n') <> 's'";

static const char slots_sql[] =
    "SELECT coalesce(json_agg(slot_name), '[]') FROM pg_replication_slots "
    "WHERE slot_type = 'logical' AND database = current_database()";

static bool check_replication(struct cutover *c, struct failure *f)
{
    json_t *publications =
        context_json(context_query(c, publications_sql, STATEMENT_TIMEOUT_MS, f), f);
    if (publications == NULL) {
        return false;
    }
    char *names = list_of(publications);
    if (json_array_size(publications) > 0) {
        report_check(
            c, "publications", CHECK_BLOCK,
            "take the table out of the publications, or (18 and newer) publish with "
            "publish_generated_columns = stored",
            "generated columns are not published: subscribers of %s would miss the column, "
            "and with it in the replica identity UPDATE and DELETE fail",
            names != NULL ? names : "?");
    } else {
        report_check(c, "publications", CHECK_PASS, NULL, "no publication would miss the column");
    }
    free(names);
    json_decref(publications);
    json_t *slots = context_json(context_query(c, slots_sql, STATEMENT_TIMEOUT_MS, f), f);
    if (slots == NULL) {
        return false;
    }
    if (json_array_size(slots) > 0) {
        names = list_of(slots);
        report_check(c, "replication-slots", CHECK_WARN,
                     "ask who reads them whether a generated column is expected",
                     "logical slots on this database: %s", names != NULL ? names : "?");
        free(names);
    }
    json_decref(slots);
    return true;
}

/* Functions whose text names the column: the server cannot tell whether they write it. */
static const char writers_sql[] =
    "SELECT coalesce(json_agg(format('%s.%s', n.nspname, p.proname) ORDER BY 1), '[]') "
    "FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
    "WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice') "
    "AND position(lower({key}) IN lower(p.prosrc)) > 0 AND p.oid NOT IN "
    "(SELECT tgfoid FROM pg_trigger WHERE oid = {trigger})";

static bool check_writers(struct cutover *c, struct failure *f)
{
    json_t *writers = context_json(context_query(c, writers_sql, STATEMENT_TIMEOUT_MS, f), f);
    if (writers == NULL) {
        return false;
    }
    if (json_array_size(writers) > 0) {
        char *names = list_of(writers);
        report_check(c, "functions", CHECK_WARN,
                     "read them: an INSERT or UPDATE in a function that names the column will fail "
                     "with 428C9, and no proxy can see it",
                     "functions whose text names the column: %s", names != NULL ? names : "?");
        free(names);
    } else {
        report_check(c, "functions", CHECK_PASS, NULL, "no function's text names the column");
    }
    json_decref(writers);
    return true;
}

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
    json_t *who = context_json(context_query(c, isolation_sql, STATEMENT_TIMEOUT_MS, f), f);
    if (who == NULL) {
        return false;
    }
    if (json_array_size(who) > 0) {
        char *names = list_of(who);
        report_check(c, "isolation", CHECK_WARN, NULL,
                     "the default isolation of %s keeps a snapshot for a whole transaction: the "
                     "flip waits until none is open, because it would see the table empty",
                     names != NULL ? names : "?");
        free(names);
    } else {
        report_check(c, "isolation", CHECK_PASS, NULL,
                     "transactions are READ COMMITTED by default");
    }
    json_decref(who);
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
        char *names = list_of(open);
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
    if (!is_set(c, "sees_all_sessions")) {
        report_check(
            c, "visibility", CHECK_WARN, "GRANT pg_read_all_stats to the control role",
            "%s cannot see what other roles' sessions do, nor name those that stand in the "
            "way, nor their snapshots",
            get(c, "role"));
    }
    return true;
}

void preflight_size(struct cutover *c, bool rewrites)
{
    c->estimate_ms = estimate_ms(c, rewrites);
    unsigned long long hold = c->options.max_hold_ms;
    report_set(c, "estimate",
               json_pack("{s:I, s:I, s:I, s:I}", "hold_ms", (json_int_t)c->estimate_ms,
                         "table_bytes", (json_int_t)c->table.table_bytes, "index_bytes",
                         (json_int_t)c->table.index_bytes, "max_hold_ms", (json_int_t)hold));
    if (c->estimate_ms > hold) {
        report_check(c, "size", CHECK_BLOCK,
                     "raise --max-hold, knowing that reads wait as long as writes",
                     "rewriting %.1f MB of table and building %.1f MB of indexes is estimated at "
                     "%llu ms; --max-hold is %llu ms",
                     (double)c->table.table_bytes / 1e6, (double)c->table.index_bytes / 1e6,
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
    }
    if (c->table.deadlock_timeout_ms < 600) {
        report_check(c, "deadlock-timeout", CHECK_WARN, NULL,
                     "deadlock_timeout is %u ms: the lock is waited for at most half of that, so "
                     "that no application becomes a deadlock's victim",
                     c->table.deadlock_timeout_ms);
    }
}

bool preflight_expression(struct cutover *c, char **canonical, struct failure *f)
{
    *canonical = NULL;
    struct failure ignored;
    struct failure why = {.code = EXIT_DONE};
    char *sql =
        context_expand(c, "CREATE TEMP TABLE pgsluice_probe (LIKE {name} INCLUDING GENERATED); "
                          "ALTER TABLE pg_temp.pgsluice_probe RENAME COLUMN {col} TO pgsluice_old; "
                          "ALTER TABLE pg_temp.pgsluice_probe ADD COLUMN pgsluice_new {type} "
                          "GENERATED ALWAYS AS ({expr}) STORED");
    if (sql == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    bool ok = control_run(c->control, "SAVEPOINT pgsluice_probe", STATEMENT_TIMEOUT_MS, f);
    if (ok && control_run(c->control, sql, STATEMENT_TIMEOUT_MS, &why)) {
        PGresult *r = control_query(
            c->control,
            "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef d JOIN pg_attribute a "
            "ON a.attrelid = d.adrelid AND a.attnum = d.adnum "
            "WHERE d.adrelid = 'pg_temp.pgsluice_probe'::regclass AND a.attname = 'pgsluice_new'",
            0, NULL, STATEMENT_TIMEOUT_MS, &why);
        if (r != NULL && PQntuples(r) == 1) {
            *canonical = strdup(PQgetvalue(r, 0, 0));
        }
        PQclear(r);
    }
    free(sql);
    ok = ok && control_run(c->control, "ROLLBACK TO SAVEPOINT pgsluice_probe", STATEMENT_TIMEOUT_MS,
                           &ignored);
    if (*canonical != NULL) {
        report_check(c, "expression", CHECK_PASS, NULL, "the server accepts it: %s", *canonical);
    } else {
        report_check(c, "expression", CHECK_BLOCK, "correct the rule's expression",
                     "the server does not accept it for a generated column of type %s: %s",
                     c->table.type, why.msg);
    }
    return ok || fail(f, EXIT_REFUSED, "%s", ignored.msg);
}

void preflight_report_capture(struct cutover *c, const struct capture *capture)
{
    struct text restored;
    struct text refused;
    json_t *captured = json_array();
    if (!text_begin(&restored) || !text_begin(&refused)) {
        json_decref(captured);
        return;
    }
    size_t restored_count = 0;
    for (size_t i = 0; i < capture_count(capture); i++) {
        const char *what = capture_what(capture, i);
        const char *why = capture_refusal(capture, i);
        if (why != NULL) {
            fprintf(refused.out, "%s%s (%s)", ftell(refused.out) > 0 ? "; " : "", what, why);
        } else {
            fprintf(restored.out, "%s%s", restored_count++ > 0 ? ", " : "", what);
        }
        (void)json_array_append_new(captured, report_string(what));
    }
    char *good = text_end(&restored);
    char *bad = text_end(&refused);
    if (bad != NULL && *bad != '\0') {
        report_check(c, "dependents", CHECK_BLOCK,
                     "take these away before the cutover, and put them back after it", "%s", bad);
    } else if (restored_count > 0) {
        report_check(c, "dependents", CHECK_PASS, NULL, "taken away and put back: %s",
                     good != NULL ? good : "?");
    } else {
        report_check(c, "dependents", CHECK_PASS, NULL, "nothing depends on the column");
    }
    free(good);
    free(bad);
    report_set(c, "captured", captured);
}

static bool check_values(struct cutover *c, struct failure *f)
{
    struct values v;
    context_progress(c, "preflight", -1, "comparing every stored value with the expression");
    if (!values_read(c, false, &v, f)) {
        return false;
    }
    if (v.mismatches > 0) {
        report_check(c, "values", CHECK_BLOCK,
                     "find out why, then correct these rows: the cutover repairs nothing silently",
                     "%lld of %lld rows have another value than the expression's: %s",
                     (long long)v.mismatches, (long long)v.rows, v.examples_text);
    } else {
        report_check(c, "values", CHECK_PASS, NULL, "all %lld rows have the expression's value",
                     (long long)v.rows);
    }
    if (v.nulls > 0) {
        report_check(c, "nulls", c->table.not_null ? CHECK_BLOCK : CHECK_WARN, NULL,
                     "%lld rows have no value", (long long)v.nulls);
    }
    if (c->table.category == 'N' && v.min != NULL && v.min[0] == '-') {
        report_check(c, "key-domain", CHECK_WARN,
                     "nothing to do if that is what you want; the expression must stay the same",
                     "values go from %s to %s: mod() keeps its argument's sign, so that there are "
                     "199 classes and not 100, and 0 is twice as frequent as any other",
                     v.min, v.max);
    } else if (v.min != NULL) {
        report_check(c, "key-domain", CHECK_PASS, NULL, "values go from %s to %s", v.min, v.max);
    }
    report_set(c, "values", values_json(&v));
    values_fini(&v);
    return true;
}

/* The part that reads, within the READ ONLY transaction. */
static bool read_checks(struct cutover *c, bool expression_good, struct failure *f)
{
    if (!check_replication(c, f) || !check_writers(c, f) || !check_isolation(c, f) ||
        !preflight_sessions(c, f)) {
        return false;
    }
    struct capture capture;
    if (c->swaps && !swap_preflight(c, f)) {
        return false;
    }
    if (!c->swaps) {
        if (!capture_read(c, &capture, f)) {
            return false;
        }
        preflight_report_capture(c, &capture);
        capture_fini(&capture);
    }
    return !expression_good || check_values(c, f);
}

bool preflight_cutover(struct cutover *c, struct failure *f)
{
    char *canonical = NULL;
    struct failure ignored;
    context_progress(c, "preflight", -1, "examining the table");
    if (!choose_strategy(c, f)) {
        return false;
    }
    check_mode(c);
    preflight_rights(c);
    check_shape(c);
    preflight_size(c, !c->swaps);

    /* What must be tried is tried here, and rolled back whatever comes of it. */
    bool ok = control_run(c->control, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
                          STATEMENT_TIMEOUT_MS, f) &&
              preflight_expression(c, &canonical, f) &&
              (canonical == NULL || preflight_trigger(c, f));
    bool ended = control_run(c->control, "ROLLBACK", STATEMENT_TIMEOUT_MS, ok ? f : &ignored);
    bool good = canonical != NULL;
    free(canonical);
    if (!ok || !ended) {
        return false;
    }
    if (!control_run(c->control, "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
                     STATEMENT_TIMEOUT_MS, f)) {
        return false;
    }
    ok = read_checks(c, good, f);
    ended = control_run(c->control, "ROLLBACK", STATEMENT_TIMEOUT_MS, ok ? f : &ignored);
    return ok && ended;
}
