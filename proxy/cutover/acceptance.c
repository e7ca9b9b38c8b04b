/* The points of acceptance; see acceptance.h. */
#include "proxy/cutover/acceptance.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/audit/read.h"

enum { TRIAL_TIMEOUT_MS = 5000, NAMED_MAX = 5 };

static const char *member(const struct cutover *c, const char *key)
{
    const char *text = json_string_value(json_object_get(c->report, key));
    return text != NULL ? text : "";
}

static void check_generated(struct cutover *c)
{
    int version = control_version(c->control);
    if (c->table.generated) {
        report_check(c, "generated", CHECK_PASS, NULL, "GENERATED ALWAYS AS (%s) STORED",
                     c->table.definition != NULL ? c->table.definition : "?");
    } else if (version < STATE_VERSION_MIN) {
        report_check(c, "generated", CHECK_PASS, NULL,
                     "PostgreSQL %d has no generated columns: the trigger stays in place",
                     version / 10000);
    } else {
        report_check(c, "generated", CHECK_WARN, "pgsluice cutover",
                     "the column is not generated; it is computed by: %s", member(c, "method"));
    }
}

static void check_trigger(struct cutover *c)
{
    const char *trigger = member(c, "trigger");
    if (*trigger == '\0' && c->table.generated) {
        report_check(c, "no-trigger", CHECK_PASS, NULL, "no trigger computes the column");
    } else if (c->table.generated) {
        report_check(c, "no-trigger", CHECK_BLOCK, "drop it, once nothing else needs it",
                     "trigger %s still sets or reads the column, which is NULL when it fires",
                     trigger);
    } else if (control_version(c->control) < STATE_VERSION_MIN) {
        report_check(c, "no-trigger", *trigger != '\0' ? CHECK_PASS : CHECK_WARN,
                     *trigger != '\0' ? NULL : "create the trigger",
                     *trigger != '\0' ? "trigger %s computes the column, as it must here"
                                      : "no trigger computes the column%s",
                     trigger);
    } else {
        report_check(c, "no-trigger", CHECK_WARN, "pgsluice cutover", "trigger %s is in place",
                     *trigger != '\0' ? trigger : "(none)");
    }
}

/* Trigger functions that name the column, and what still uses them. */
static const char functions_sql[] =
    "SELECT json_build_object('unused', coalesce(json_agg(name ORDER BY name) FILTER (WHERE users "
    "IS NULL), '[]'), 'used', coalesce(json_agg(format('%s (by %s)', name, users) ORDER BY name) "
    "FILTER (WHERE users IS NOT NULL), '[]')) FROM (SELECT p.oid::regprocedure::text AS name, "
    "(SELECT string_agg(t.tgrelid::regclass::text, ', ') FROM pg_trigger t WHERE t.tgfoid = p.oid) "
    "AS users FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.prorettype = "
    "'trigger'::regtype AND n.nspname NOT IN ('pg_catalog', 'information_schema') "
    "AND position(lower({key}) IN lower(p.prosrc)) > 0) q";

static bool check_function(struct cutover *c, struct failure *f)
{
    json_t *found = context_json(context_query(c, functions_sql, STATEMENT_TIMEOUT_MS, f), f);
    if (found == NULL) {
        return false;
    }
    char *unused = text_join(json_object_get(found, "unused"));
    char *used = text_join(json_object_get(found, "used"));
    json_decref(found);
    bool known = unused != NULL && used != NULL;
    if (known && *unused != '\0') {
        report_check(c, "no-function", CHECK_WARN, "DROP FUNCTION, if nothing calls it by name",
                     "no trigger uses it any more: %s", unused);
    } else if (known && *used != '\0') {
        bool expected = control_version(c->control) < STATE_VERSION_MIN;
        report_check(c, "no-function", expected ? CHECK_PASS : CHECK_WARN,
                     expected ? NULL : "it goes when its last trigger goes", "in use: %s", used);
    } else if (known) {
        report_check(c, "no-function", CHECK_PASS, NULL,
                     "no trigger function names the column any more");
    }
    free(unused);
    free(used);
    return known || fail(f, EXIT_REFUSED, "out of memory");
}

bool acceptance_catalog(struct cutover *c, struct failure *f)
{
    check_generated(c);
    check_trigger(c);
    return check_function(c, f);
}

/* A copy of a row, without the key and whatever has a default, and whether its key is right. NULL
 * where there is no row. */
static const char trial_sql[] =
    "DO $pgsluice$ DECLARE cols text; ok boolean; BEGIN "
    "SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO cols FROM pg_attribute "
    "a WHERE a.attrelid = {rel} AND a.attnum > 0 AND NOT a.attisdropped AND a.attnum <> {num} "
    "AND NOT a.atthasdef AND a.attidentity = ''; "
    "EXECUTE format('INSERT INTO %s (%s) SELECT %s FROM %s LIMIT 1 RETURNING %s', "
    "{name_text}, cols, cols, {name_text}, {right_text}) INTO ok; "
    "PERFORM set_config('pgsluice.trial', coalesce(ok::text, 'none'), true); END $pgsluice$; ";

/* The template above with its two texts filled in. */
static char *compose_trial(struct cutover *c)
{
    char *value = context_expand(c, "{value}");
    char *differ = value != NULL ? context_differ(c, c->column, value) : NULL;
    char *right = differ != NULL ? text_printf("NOT (%s)", differ) : NULL;
    char *right_text = right != NULL ? control_quote_literal(c->control, right) : NULL;
    char *name_text = control_quote_literal(c->control, c->relation);
    struct text t;
    char *sql = NULL;
    if (right_text != NULL && name_text != NULL && text_begin(&t)) {
        for (const char *p = trial_sql; *p != '\0';) {
            if (strncmp(p, "{name_text}", 11) == 0) {
                fputs(name_text, t.out);
                p += 11;
            } else if (strncmp(p, "{right_text}", 12) == 0) {
                fputs(right_text, t.out);
                p += 12;
            } else {
                fputc(*p++, t.out);
            }
        }
        sql = text_end(&t);
    }
    free(value);
    free(differ);
    free(right);
    free(right_text);
    free(name_text);
    return sql;
}

static void report_trial(struct cutover *c, const char *outcome, const struct failure *why)
{
    if (outcome == NULL && strcmp(why->sqlstate, "23505") == 0) {
        report_check(c, "inserts", CHECK_WARN, "try one of your own",
                     "a copy of a row without the key meets a unique constraint, which is the last "
                     "thing that an INSERT does: %s",
                     why->msg);
    } else if (outcome == NULL) {
        report_check(c, "inserts", c->table.generated ? CHECK_BLOCK : CHECK_WARN,
                     "see why an INSERT that does not name the column fails",
                     "a copy of a row without the key does not go in: %s", why->msg);
    } else if (strcmp(outcome, "true") == 0) {
        report_check(c, "inserts", CHECK_PASS, NULL,
                     "a copy of a row, without the key, went in with the right key, and was rolled "
                     "back");
    } else if (strcmp(outcome, "false") == 0) {
        report_check(c, "inserts", CHECK_BLOCK, "see what computes the column",
                     "a copy of a row, without the key, went in with another key than the "
                     "expression's");
    } else {
        report_check(c, "inserts", CHECK_WARN, "try one of your own",
                     "the table has no row to copy");
    }
}

bool acceptance_trial(struct cutover *c, struct failure *f)
{
    struct failure why = {.code = EXIT_DONE};
    struct failure ignored;
    char *template = compose_trial(c);
    char *sql = template != NULL ? context_expand(c, template) : NULL;
    free(template);
    if (sql == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    PGresult *r = NULL;
    if (control_run(c->control, "BEGIN", STATEMENT_TIMEOUT_MS, &why) &&
        control_run(c->control, sql, TRIAL_TIMEOUT_MS, &why)) {
        r = control_query(c->control, "SELECT current_setting('pgsluice.trial')", 0, NULL,
                          STATEMENT_TIMEOUT_MS, &why);
    }
    free(sql);
    report_trial(c, r != NULL ? PQgetvalue(r, 0, 0) : NULL, &why);
    PQclear(r);
    (void)!control_run(c->control, "ROLLBACK", STATEMENT_TIMEOUT_MS, &ignored);
    return !control_is_lost(c->control) || fail(f, why.code, "%s", why.msg);
}

/* The applications that the log names for this rule, and how many statements they sent. */
static char *list_clients(const struct cutover *c, const json_t *report, long long *statements)
{
    size_t i;
    const json_t *client;
    size_t named = 0;
    struct text t;
    *statements = 0;
    if (!text_begin(&t)) {
        return NULL;
    }
    json_array_foreach(json_object_get(report, "clients"), i, client)
    {
        const char *rule = json_string_value(json_object_get(client, "rule"));
        const char *name = json_string_value(json_object_get(client, "application_name"));
        if (rule == NULL || strcmp(rule, c->rule->name) != 0) {
            continue;
        }
        *statements += json_integer_value(json_object_get(client, "supplied"));
        if (named++ < NAMED_MAX) {
            fprintf(t.out, "%s%s (%s)", named > 1 ? ", " : "",
                    name != NULL && *name != '\0' ? name : "an application without a name",
                    json_string_value(json_object_get(client, "user")));
        }
    }
    return text_end(&t);
}

/* When the table was cut over, as the audit log writes times; "" when it was not. */
static bool read_since(struct cutover *c, char out[32], struct failure *f)
{
    out[0] = '\0';
    if (!json_is_true(json_object_get(c->table.facts, "has_state")) || !c->table.generated) {
        return true;
    }
    PGresult *r = context_query(
        c,
        "SELECT to_char(max(flipped_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US') "
        "FROM pgsluice.run WHERE relation = {rel} AND column_name = {key}",
        STATEMENT_TIMEOUT_MS, f);
    if (r == NULL) {
        return false;
    }
    if (PQntuples(r) > 0 && !PQgetisnull(r, 0, 0)) {
        snprintf(out, 32, "%s", PQgetvalue(r, 0, 0));
    }
    PQclear(r);
    return true;
}

bool acceptance_clients(struct cutover *c, struct failure *f)
{
    char since[32];
    struct failure why = {.code = EXIT_DONE};
    json_t *report = NULL;
    if (!read_since(c, since, f)) {
        return false;
    }
    if (c->config->audit == NULL) {
        report_check(c, "clients", CHECK_WARN, "configure audit",
                     "there is no audit log that could say who still supplies the key");
        return true;
    }
    (void)audit_report(c->config->audit, since[0] != '\0' ? since : NULL, &report, &why);
    if (report == NULL) {
        report_check(c, "clients", CHECK_WARN, "run verify where the audit log can be read", "%s",
                     why.msg);
        return true;
    }
    long long statements = 0;
    char *names = list_clients(c, report, &statements);
    const char *from =
        since[0] != '\0' ? since : json_string_value(json_object_get(report, "from"));
    if (names != NULL && statements > 0) {
        report_check(c, "clients", CHECK_WARN, "pgsluice audit report names their statements",
                     "%lld statements supplied the key since %.19s, by: %s", statements,
                     from != NULL ? from : "the log begins", names);
    } else {
        report_check(c, "clients", CHECK_PASS, NULL,
                     "no application has supplied the key since %.19s, says %s",
                     from != NULL && *from != '\0' ? from : "the log begins", c->config->audit);
    }
    free(names);
    json_decref(report);
    return true;
}
