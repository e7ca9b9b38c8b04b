/*
 * The preflight's checks of the rule's expression, by having the server take it for a generated
 * column of a temporary table; see preflight.h. The caller rolls back.
 */
#include "proxy/cutover/preflight.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/preflight_parts.h"

/* The facts of the generated column that has just been made. Depending on the
 * version its dependencies are the column's or the expression's. */
static const char probe_sql[] =
    "WITH p AS (SELECT a.attrelid, a.attnum, d.oid AS definition, "
    "pg_get_expr(d.adbin, d.adrelid) AS text FROM pg_attrdef d JOIN pg_attribute a "
    "ON a.attrelid = d.adrelid AND a.attnum = d.adnum "
    "WHERE d.adrelid = 'pg_temp.pgsluice_probe'::regclass AND a.attname = 'pgsluice_new'), "
    "n AS (SELECT e.* FROM p, pg_depend e WHERE (e.classid = 'pg_attrdef'::regclass "
    "AND e.objid = p.definition) OR (e.classid = 'pg_class'::regclass AND e.objid = p.attrelid "
    "AND e.objsubid = p.attnum)), "
    "s AS (SELECT DISTINCT a.attname, a.attnum, a.attcollation FROM p, n, pg_attribute a "
    "WHERE n.refclassid = 'pg_class'::regclass AND n.refobjid = p.attrelid AND n.refobjsubid > 0 "
    "AND n.refobjsubid <> p.attnum AND a.attrelid = p.attrelid AND a.attnum = n.refobjsubid) "
    "SELECT json_build_object('text', (SELECT text FROM p), "
    "'type', (SELECT format_type(pg_typeof((SELECT {expr} FROM {name} LIMIT 0)), NULL)), "
    "'plain_type', (SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = {rel} "
    "AND attnum = {num}), "
    "'sources', (SELECT json_agg(quote_ident(attname) ORDER BY attnum) FROM s), "
    "'source_names', (SELECT json_agg(attname ORDER BY attnum) FROM s), "
    "'functions', (SELECT json_agg(DISTINCT n.refobjid::regprocedure::text) FROM n "
    "WHERE n.refclassid = 'pg_proc'::regclass), "
    "'nondeterministic', (SELECT json_agg(s.attname) FROM s JOIN pg_collation l "
    "ON l.oid = s.attcollation WHERE NOT l.collisdeterministic))";

static const char setup_sql[] =
    "CREATE TEMP TABLE pgsluice_probe (LIKE {name} INCLUDING GENERATED); "
    "ALTER TABLE pg_temp.pgsluice_probe RENAME COLUMN {col} TO pgsluice_old; "
    "ALTER TABLE pg_temp.pgsluice_probe ADD COLUMN pgsluice_new {type} "
    "GENERATED ALWAYS AS ({expr}) STORED";

static void check_type(struct cutover *c, const json_t *found)
{
    const char *type = json_string_value(json_object_get(found, "type"));
    const char *plain = json_string_value(json_object_get(found, "plain_type"));
    if (type == NULL || plain == NULL || strcmp(type, plain) == 0) {
        report_check(c, "expression-type", CHECK_PASS, NULL, "the column's own, %s", c->table.type);
    } else {
        report_check(c, "expression-type", CHECK_WARN,
                     "write the cast into the expression, so that it is seen",
                     "the expression gives %s, the column is %s: every value is converted, and "
                     "one that does not fit fails the client's statement",
                     type, c->table.type);
    }
}

/* The server has checked that all is declared IMMUTABLE; what a function does it cannot know. */
static void check_functions(struct cutover *c, const json_t *found)
{
    char *functions = text_join(json_object_get(found, "functions"));
    if (functions != NULL && *functions != '\0') {
        report_check(c, "expression-functions", CHECK_WARN,
                     "read them: replacing such a function later does not recompute stored values",
                     "it calls functions that do not belong to PostgreSQL, declared IMMUTABLE: %s",
                     functions);
    } else {
        report_check(c, "expression-functions", CHECK_PASS, NULL,
                     "immutable, and of PostgreSQL's own functions only");
    }
    free(functions);
}

/* hashtext() of a text with a nondeterministic collation hashes ICU's sort key. */
static void check_collation(struct cutover *c, const json_t *found)
{
    char *columns = text_join(json_object_get(found, "nondeterministic"));
    if (columns != NULL && *columns != '\0') {
        report_check(c, "expression-collation", CHECK_WARN,
                     "REINDEX and verify after every upgrade of ICU",
                     "the collation of %s is nondeterministic: a hash of it depends on the "
                     "version of ICU",
                     columns);
    } else {
        report_check(c, "expression-collation", CHECK_PASS, NULL,
                     "the values depend on bytes, not on a collation's version");
    }
    free(columns);
}

/* abs() of the smallest integer fails: one hash in 2^32. */
static bool check_range(struct cutover *c, struct failure *f)
{
    char *text = control_quote_literal(c->control, c->rule->expression);
    char *sql = text != NULL ? text_printf("SELECT %s ~* 'abs\\s*\\(\\s*hash'", text) : NULL;
    PGresult *r =
        sql != NULL ? control_query(c->control, sql, 0, NULL, STATEMENT_TIMEOUT_MS, f) : NULL;
    bool ok = r != NULL || (sql == NULL && fail(f, EXIT_REFUSED, "out of memory"));
    if (ok && PQgetvalue(r, 0, 0)[0] == 't') {
        report_check(c, "expression-range", CHECK_WARN, "write abs(mod(hash, n)) instead",
                     "abs() of a hash fails with 22003 for the one value -2147483648, and with it "
                     "the client's INSERT");
    } else if (ok) {
        report_check(c, "expression-range", CHECK_PASS, NULL, "it takes no abs() of a whole hash");
    }
    PQclear(r);
    free(sql);
    free(text);
    return ok;
}

/* What is known once the server has taken the expression. */
static bool check_found(struct cutover *c, const json_t *found, struct failure *f)
{
    report_check(c, "expression", CHECK_PASS, NULL, "the server accepts it: %s",
                 json_string_value(json_object_get(found, "text")));
    (void)json_object_set(c->table.facts, "sources", json_object_get(found, "sources"));
    (void)json_object_set(c->table.facts, "source_names", json_object_get(found, "source_names"));
    check_type(c, found);
    check_functions(c, found);
    check_collation(c, found);
    return check_range(c, f);
}

bool preflight_expression(struct cutover *c, char **canonical, struct failure *f)
{
    *canonical = NULL;
    struct failure ignored;
    struct failure why = {.code = EXIT_DONE};
    json_t *found = NULL;
    char *sql = context_expand(c, setup_sql);
    if (sql == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    bool ok = control_run(c->control, "SAVEPOINT pgsluice_probe", STATEMENT_TIMEOUT_MS, f);
    if (ok && control_run(c->control, sql, STATEMENT_TIMEOUT_MS, &why)) {
        found = context_json(context_query(c, probe_sql, STATEMENT_TIMEOUT_MS, &why), &why);
    }
    free(sql);
    if (ok && !control_run(c->control, "ROLLBACK TO SAVEPOINT pgsluice_probe", STATEMENT_TIMEOUT_MS,
                           &ignored)) {
        ok = fail(f, EXIT_REFUSED, "%s", ignored.msg);
    }
    const char *text = json_string_value(json_object_get(found, "text"));
    if (text != NULL) {
        *canonical = strdup(text);
        ok = ok && *canonical != NULL && check_found(c, found, f);
    } else {
        report_check(c, "expression", CHECK_BLOCK, "correct the rule's expression",
                     "the server does not accept it for a generated column of type %s: %s",
                     c->table.type, why.msg);
    }
    json_decref(found);
    return ok;
}
