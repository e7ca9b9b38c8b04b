/* The run's context: connection, names, report; see context.h. */
#include "proxy/cutover/context.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "proxy/catalog_read.h"
#include "proxy/cutover/pulse.h"
#include "proxy/gate.h"

uint64_t monotonic_ms(void)
{
    return (uint64_t)monotonic_ms_exact();
}

double monotonic_ms_exact(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

void rest_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000L},
              NULL);
}

bool text_begin(struct text *t)
{
    *t = (struct text){.out = NULL};
    t->out = open_memstream(&t->at, &t->len);
    return t->out != NULL;
}

char *text_end(struct text *t)
{
    if (t->out == NULL) {
        return NULL;
    }
    bool bad = ferror(t->out) != 0;
    bad = fclose(t->out) != 0 || bad;
    t->out = NULL;
    if (bad) {
        free(t->at);
        t->at = NULL;
    }
    return t->at;
}

char *text_printf(const char *fmt, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, fmt);
    int n = vasprintf(&text, fmt, args);
    va_end(args);
    return n < 0 ? NULL : text;
}

char *text_join(const json_t *array)
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

void text_choose_tag(const char *text, char tag[TEXT_TAG_SIZE])
{
    unsigned n = 0;
    do {
        snprintf(tag, TEXT_TAG_SIZE, "$pgsluice%u$", n++);
    } while (strstr(text, tag) != NULL);
}

static void make_run_id(char out[33])
{
    unsigned char bytes[8];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) {
        uint64_t fallback = (uint64_t)(monotonic_ms_exact() * 1e6);
        memcpy(bytes, &fallback, sizeof bytes);
    }
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    size_t n = strftime(out, 33, "%Y%m%dT%H%M%SZ-", &utc);
    for (size_t i = 0; i < sizeof bytes && n + 2 < 33; i++, n += 2) {
        snprintf(out + n, 33 - n, "%02x", bytes[i]);
    }
}

bool context_init(struct cutover *c, const char *command, const struct config *config,
                  const struct config_rule *rule, const struct cutover_options *options,
                  const struct cutover_host *host)
{
    *c = (struct cutover){.command = command, .config = config, .rule = rule, .host = host};
    if (options != NULL) {
        c->options = *options;
    }
    if (c->options.max_hold_ms == 0) {
        c->options.max_hold_ms = 500;
    }
    if (host != NULL && host->progress != NULL) {
        c->pulse = pulse_new(c);
    }
    make_run_id(c->run);
    c->checks = json_array();
    char *table = text_printf("%s.%s", rule->schema, rule->table);
    c->report = json_pack("{s:s, s:o, s:s, s:s, s:s, s:i, s:s, s:o}", "command", command, "table",
                          report_string(table != NULL ? table : rule->table), "column",
                          rule->column, "expression", rule->expression, "rule", rule->name, "exit",
                          0, "summary", "", "checks", c->checks);
    free(table);
    char now[32];
    time_t seconds = time(NULL);
    struct tm utc;
    gmtime_r(&seconds, &utc);
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", &utc);
    report_set(c, "time", json_string(now));
    report_set(c, "software", json_string("pgsluice " PGSLUICE_VERSION));
    return c->report != NULL;
}

bool context_connect_again(struct cutover *c, bool abortable, struct control **out,
                           struct failure *f)
{
    bool hears = abortable && c->host != NULL;
    struct control_target target = {
        .conninfo = c->config->control,
        .database = c->database,
        .abort_requested = !hears             ? NULL
                           : c->pulse != NULL ? pulse_beat
                                              : c->host->abort_requested,
        .abort_arg = !hears             ? NULL
                     : c->pulse != NULL ? c->pulse
                                        : c->host->arg,
    };
    if (!control_open(&target, out, f)) {
        return false;
    }
    /* Names in definitions that the server prints, and in the rule's expression, are resolved in
     * the table's own schema; nobody else's can come in between. */
    char *schema = control_quote_identifier(*out, c->rule->schema);
    char *sql = schema != NULL ? text_printf("SET search_path = pg_catalog, %s", schema) : NULL;
    bool ok = sql != NULL ? control_run(*out, sql, STATEMENT_TIMEOUT_MS, f)
                          : fail(f, EXIT_REFUSED, "out of memory");
    free(schema);
    free(sql);
    if (!ok) {
        control_close(*out);
        *out = NULL;
    }
    return ok;
}

bool context_connect(struct cutover *c, struct failure *f)
{
    bool (*abort_requested)(void *) = c->host != NULL ? c->host->abort_requested : NULL;
    void *arg = c->host != NULL ? c->host->arg : NULL;
    if (!catalog_locate(c->config, c->rule, abort_requested, arg, &c->database, f) ||
        !context_connect_again(c, true, &c->control, f)) {
        return false;
    }
    char *schema = control_quote_identifier(c->control, c->rule->schema);
    char *table = control_quote_identifier(c->control, c->rule->table);
    c->column = control_quote_identifier(c->control, c->rule->column);
    c->column_text = control_quote_literal(c->control, c->rule->column);
    if (schema != NULL && table != NULL) {
        c->relation = text_printf("%s.%s", schema, table);
    }
    free(schema);
    free(table);
    report_set(c, "database", report_string(c->database));
    report_set(c, "server_version", json_integer(control_version(c->control)));
    return (c->relation != NULL && c->column != NULL && c->column_text != NULL) ||
           fail(f, EXIT_REFUSED, "out of memory");
}

enum exit_code context_finish(struct cutover *c, enum exit_code code, json_t **report,
                              const char *summary, ...)
{
    char text[1024];
    va_list args;
    va_start(args, summary);
    vsnprintf(text, sizeof text, summary, args);
    va_end(args);
    if (c->report != NULL) {
        report_set(c, "exit", json_integer(code));
        report_set(c, "summary", report_string(text));
    }
    *report = c->report;
    if (c->host != NULL && c->host->gate != NULL) {
        gate_record(c->host->gate, false);
    }
    control_close(c->control);
    pulse_free(c->pulse);
    json_decref(c->table.facts);
    free(c->table.type);
    free(c->table.collation);
    free(c->table.definition);
    free(c->trigger.name);
    free(c->trigger.name_text);
    free(c->trigger.function);
    free(c->trigger.kept_since);
    free(c->capture);
    free(c->database);
    free(c->relation);
    free(c->column);
    free(c->column_text);
    return code;
}

bool context_abort_requested(const struct cutover *c)
{
    return c->host != NULL && c->host->abort_requested != NULL &&
           c->host->abort_requested(c->host->arg);
}

bool context_is_paused(const struct cutover *c)
{
    return c->host != NULL && c->host->is_paused != NULL && c->host->is_paused(c->host->arg);
}

char *context_expand(const struct cutover *c, const char *pattern)
{
    struct text t;
    if (!text_begin(&t)) {
        return NULL;
    }
    for (const char *p = pattern; *p != '\0';) {
        size_t plain = strcspn(p, "{");
        fwrite(p, 1, plain, t.out);
        p += plain;
        const char *end = *p != '\0' ? strchr(p, '}') : NULL;
        size_t len = end != NULL ? (size_t)(end - p) + 1 : 0;
#define IS(word) (len == sizeof(word) - 1 && memcmp(p, word, sizeof(word) - 1) == 0)
        if (IS("{rel}")) {
            fprintf(t.out, "%u", c->table.oid);
        } else if (IS("{num}")) {
            fprintf(t.out, "%u", c->table.number);
        } else if (IS("{trigger}")) {
            fprintf(t.out, "%u", c->trigger.oid);
        } else if (IS("{trigger_name}")) {
            fputs(c->trigger.name_text != NULL ? c->trigger.name_text : "''", t.out);
        } else if (IS("{name}")) {
            fputs(c->relation, t.out);
        } else if (IS("{col}")) {
            fputs(c->column, t.out);
        } else if (IS("{key}")) {
            fputs(c->column_text, t.out);
        } else if (IS("{expr}")) {
            /* The line ends keep a comment in the expression from swallowing what follows. */
            fprintf(t.out, "%s\n", c->rule->expression);
        } else if (IS("{value}")) {
            fprintf(t.out, "((%s\n)::%s)", c->rule->expression, c->table.type);
        } else if (IS("{type}")) {
            fputs(c->table.type, t.out);
            if (c->table.collation != NULL) {
                fprintf(t.out, " COLLATE %s", c->table.collation);
            }
        } else {
            len = *p != '\0';
            fwrite(p, 1, len, t.out);
        }
#undef IS
        p += len;
    }
    return text_end(&t);
}

PGresult *context_query(struct cutover *c, const char *pattern, unsigned timeout_ms,
                        struct failure *f)
{
    char *sql = context_expand(c, pattern);
    if (sql == NULL) {
        fail(f, EXIT_REFUSED, "out of memory");
        return NULL;
    }
    PGresult *r = control_query(c->control, sql, 0, NULL, timeout_ms, f);
    free(sql);
    return r;
}

PGresult *context_try(struct cutover *c, const char *pattern, unsigned timeout_ms,
                      struct failure *f)
{
    if (!control_run(c->control, "SAVEPOINT pgsluice_try", STATEMENT_TIMEOUT_MS, f)) {
        return NULL;
    }
    PGresult *r = context_query(c, pattern, timeout_ms, f);
    struct failure ignored;
    const char *end =
        r != NULL ? "RELEASE SAVEPOINT pgsluice_try" : "ROLLBACK TO SAVEPOINT pgsluice_try";
    if (!control_run(c->control, end, STATEMENT_TIMEOUT_MS, &ignored) && r != NULL) {
        PQclear(r);
        *f = ignored;
        return NULL;
    }
    return r;
}

json_t *context_json(PGresult *r, struct failure *f)
{
    if (r == NULL) {
        return NULL;
    }
    json_error_t why;
    json_t *value = NULL;
    if (PQntuples(r) > 0 && !PQgetisnull(r, 0, 0)) {
        const char *text = PQgetvalue(r, 0, 0);
        value = json_loads(text, JSON_DECODE_ANY, &why);
        if (value == NULL) {
            fail(f, EXIT_REFUSED, "the server's answer is not JSON: %s", why.text);
        }
    } else {
        fail(f, EXIT_REFUSED, "the server answered nothing");
    }
    PQclear(r);
    return value;
}

char *context_differ(const struct cutover *c, const char *a, const char *b)
{
    /* Where values can be equal and not the same (1.0 and 1.00), their images are compared. */
    return c->table.plain_equality ? text_printf("(%s) IS DISTINCT FROM (%s)", a, b)
                                   : text_printf("NOT record_image_eq(ROW(%s), ROW(%s))", a, b);
}

static const char table_sql[] =
    "SELECT json_build_object('oid', c.oid::int8, 'kind', c.relkind, "
    "'persistence', c.relpersistence, 'owner', pg_get_userbyid(c.relowner), "
    "'owned', pg_has_role(c.relowner, 'USAGE'), 'role', current_user, "
    "'of_type', c.reloftype <> 0, 'partition', c.relispartition, "
    "'children', (SELECT json_agg(inhrelid::regclass::text) FROM pg_inherits "
    "  WHERE inhparent = c.oid), "
    "'parents', (SELECT json_agg(inhparent::regclass::text) FROM pg_inherits "
    "  WHERE inhrelid = c.oid), "
    "'partitioning', pg_get_partkeydef(c.oid), "
    "'partitioned_by_column', EXISTS (SELECT FROM pg_partitioned_table p WHERE p.partrelid = c.oid "
    "  AND (a.attnum = ANY (p.partattrs) OR p.partexprs::text ~ (':varattno ' || a.attnum || ' "
    "'))), "
    "'number', a.attnum, 'type', format_type(a.atttypid, a.atttypmod), 'category', t.typcategory, "
    "'plain_equality', t.typname IN ('bool', 'int2', 'int4', 'int8', 'oid', 'date', 'uuid', "
    "'bytea', "
    "  'timestamp', 'timestamptz'), "
    "'collation', (SELECT format('%I.%I', n.nspname, o.collname) FROM pg_collation o "
    "  JOIN pg_namespace n ON n.oid = o.collnamespace "
    "  WHERE o.oid = a.attcollation AND a.attcollation <> t.typcollation), "
    "'not_null', a.attnotnull, 'identity', a.attidentity, "
    "'generated', coalesce(to_jsonb(a) ->> 'attgenerated', ''), "
    "'definition', (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d "
    "  WHERE d.adrelid = c.oid AND d.adnum = a.attnum), "
    "'table_bytes', pg_table_size(c.oid), 'index_bytes', pg_indexes_size(c.oid), "
    "'indexes', (SELECT count(*) FROM pg_index WHERE indrelid = c.oid), "
    "'rows', c.reltuples::int8, 'columns', c.relnatts, "
    "'row_type_users', (SELECT json_agg(DISTINCT format('%s.%I', u.attrelid::regclass, u.attname)) "
    "  FROM pg_attribute u JOIN pg_class r ON r.oid = u.attrelid AND r.relkind IN ('r', 'm', 'p') "
    "  WHERE NOT u.attisdropped AND u.atttypid IN (c.reltype, (SELECT typarray FROM pg_type "
    "  WHERE oid = c.reltype))), "
    "'may_create_schema', has_database_privilege(current_database(), 'CREATE'), "
    "'may_create_in_schema', has_schema_privilege(n.oid, 'CREATE'), "
    "'in_recovery', pg_is_in_recovery(), "
    "'state_schema', (SELECT has_schema_privilege(n.oid, 'USAGE') AND (CASE WHEN s.oid IS NULL "
    "  THEN has_schema_privilege(n.oid, 'CREATE') ELSE has_table_privilege(s.oid, "
    "  'SELECT') AND has_table_privilege(s.oid, 'INSERT') AND has_table_privilege(s.oid, 'UPDATE') "
    "  END) FROM pg_namespace n LEFT JOIN pg_class s ON s.relnamespace = n.oid "
    "  AND s.relname = 'run' WHERE n.nspname = 'pgsluice'), "
    "'has_state', EXISTS (SELECT FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace "
    "  WHERE n.nspname = 'pgsluice' AND s.relname = 'run'), "
    "'deadlock_timeout_ms', (SELECT setting::int FROM pg_settings WHERE name = "
    "'deadlock_timeout'), "
    "'wal_level', current_setting('wal_level'), "
    "'sees_all_sessions', pg_has_role('pg_read_all_stats', 'USAGE')) "
    "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $3 AND a.attnum > 0 "
    "AND NOT a.attisdropped JOIN pg_type t ON t.oid = a.atttypid "
    "WHERE n.nspname = $1 AND c.relname = $2";

static char *copy_string(const json_t *from, const char *key)
{
    const char *text = json_string_value(json_object_get(from, key));
    return text != NULL ? strdup(text) : NULL;
}

static uint64_t get_u64(const json_t *from, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(from, key));
    return value > 0 ? (uint64_t)value : 0;
}

bool context_read_table(struct cutover *c, struct failure *f)
{
    const struct config_rule *rule = c->rule;
    PGresult *r = control_query(c->control, table_sql, 3,
                                (const char *const[]){rule->schema, rule->table, rule->column},
                                STATEMENT_TIMEOUT_MS, f);
    if (r != NULL && PQntuples(r) == 0) {
        PQclear(r);
        return fail(f, EXIT_REFUSED, "database \"%s\" has no column \"%s\" of table %s.%s",
                    c->database, rule->column, rule->schema, rule->table);
    }
    json_t *facts = context_json(r, f);
    if (facts == NULL) {
        return false;
    }
    struct cutover_table *t = &c->table;
    json_decref(t->facts);
    free(t->type);
    free(t->collation);
    free(t->definition);
    t->facts = facts;
    t->oid = (unsigned)get_u64(facts, "oid");
    t->number = (unsigned)get_u64(facts, "number");
    t->type = copy_string(facts, "type");
    t->collation = copy_string(facts, "collation");
    t->definition = copy_string(facts, "definition");
    const char *category = json_string_value(json_object_get(facts, "category"));
    t->category = category != NULL ? category[0] : 'U';
    t->plain_equality = json_is_true(json_object_get(facts, "plain_equality"));
    t->not_null = json_is_true(json_object_get(facts, "not_null"));
    const char *generated = json_string_value(json_object_get(facts, "generated"));
    t->generated = generated != NULL && generated[0] != '\0';
    t->table_bytes = get_u64(facts, "table_bytes");
    t->index_bytes = get_u64(facts, "index_bytes");
    t->deadlock_timeout_ms = (unsigned)get_u64(facts, "deadlock_timeout_ms");
    return t->type != NULL || fail(f, EXIT_REFUSED, "out of memory");
}
