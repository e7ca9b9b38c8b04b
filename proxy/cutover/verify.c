/*
 * The command verify: who computes the column, whether every value is the expression's, and how the
 * values are distributed; see cutover.h. It only reads, on every version.
 */
#include "proxy/cutover/cutover.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/body.h"
#include "proxy/cutover/context.h"
#include "proxy/cutover/values.h"

/* BEFORE INSERT row triggers of the table and its partitions: up to 12 a partitioned table has them
 * only there. */
static const char triggers_sql[] =
    "WITH RECURSIVE t(oid) AS (SELECT {rel}::oid UNION SELECT i.inhrelid FROM pg_inherits i "
    "JOIN t ON t.oid = i.inhparent) SELECT DISTINCT g.tgname, p.oid::regprocedure::text, p.prosrc "
    "FROM t JOIN pg_trigger g ON g.tgrelid = t.oid JOIN pg_proc p ON p.oid = g.tgfoid "
    "WHERE NOT g.tgisinternal AND g.tgtype & 7 = 7 AND g.tgenabled <> 'D' ORDER BY 1";

/* Sets "method", "trigger" and "function". */
static bool report_method(struct cutover *c, struct failure *f)
{
    PGresult *r = context_query(c, triggers_sql, STATEMENT_TIMEOUT_MS, f);
    if (r == NULL) {
        return false;
    }
    const char *method = c->table.generated ? "generated" : "none";
    report_set(c, "trigger", json_null());
    report_set(c, "function", json_null());
    bool ok = true;
    for (int i = 0; ok && i < PQntuples(r); i++) {
        struct body body;
        ok = body_read(PQgetvalue(r, i, 2), c->rule->column, &body) ||
             fail(f, EXIT_REFUSED, "out of memory");
        if (ok && body.kind != BODY_UNRELATED) {
            method = c->table.generated ? method : "trigger";
            report_set(c, "trigger", report_string(PQgetvalue(r, i, 0)));
            report_set(c, "function", report_string(PQgetvalue(r, i, 1)));
        }
        free(body.expression);
    }
    report_set(c, "method", json_string(method));
    report_set(c, "definition",
               c->table.definition != NULL ? report_string(c->table.definition) : json_null());
    PQclear(r);
    return ok;
}

enum exit_code cutover_verify(const struct config *config, const struct config_rule *rule,
                              json_t **report)
{
    struct cutover c;
    struct failure f = {.code = EXIT_REFUSED, .msg = "out of memory"};
    struct values v;
    *report = NULL;
    if (!context_init(&c, "verify", config, rule, NULL, NULL)) {
        return EXIT_REFUSED;
    }
    if (!context_connect(&c, &f) || !context_read_table(&c, &f) ||
        !control_run(c.control, "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
                     STATEMENT_TIMEOUT_MS, &f) ||
        !report_method(&c, &f) || !values_read(&c, true, &v, &f)) {
        return context_finish(&c, f.code, report, "%s", f.msg);
    }
    report_set(&c, "values", values_json(&v));
    const char *method = json_string_value(json_object_get(c.report, "method"));
    if (v.mismatches > 0) {
        report_check(&c, "values", CHECK_BLOCK, "find out why, and correct these rows",
                     "%lld of %lld rows have another value than the expression's: %s",
                     (long long)v.mismatches, (long long)v.rows, v.examples_text);
    } else {
        report_check(&c, "values", CHECK_PASS, NULL, "all %lld rows have the expression's value",
                     (long long)v.rows);
    }
    long long rows = v.rows;
    long long mismatches = v.mismatches;
    values_fini(&v);
    return context_finish(&c, mismatches > 0 ? EXIT_REFUSED : EXIT_DONE, report,
                          "method %s, %lld rows, %lld mismatches", method, rows, mismatches);
}
