/*
 * The command verify: who computes the column, whether every value is the expression's, how the
 * values are distributed, and the rest of the points of acceptance; see cutover.h. It works on
 * every version, and what it tries it takes back.
 */
#include "proxy/cutover/cutover.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/acceptance.h"
#include "proxy/cutover/body.h"
#include "proxy/cutover/context.h"
#include "proxy/cutover/values.h"

#define TICKET_SKEW 1.5

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

/* "values" and "distribution". */
static void check_values(struct cutover *c, const struct values *v)
{
    if (v->mismatches > 0) {
        report_check(c, "values", CHECK_BLOCK, "find out why, and correct these rows",
                     "%lld of %lld rows have another value than the expression's: %s",
                     (long long)v->mismatches, (long long)v->rows, v->examples_text);
    } else {
        report_check(c, "values", CHECK_PASS, NULL, "all %lld rows have the expression's value",
                     (long long)v->rows);
    }
    bool even = v->skew <= TICKET_SKEW;
    report_check(c, "distribution", even ? CHECK_PASS : CHECK_WARN,
                 even ? NULL
                      : "ask whether the keys' use needs them even: mod() of a signed hash gives 0 "
                        "twice as often as any other, and few collections are never even",
                 "%lld different keys, the most frequent %.3f times the average; the ticket allows "
                 "%.1f",
                 (long long)v->distinct, v->skew, (double)TICKET_SKEW);
}

/* Everything that can be known; false only when the server fails. */
static bool run_checks(struct cutover *c, struct failure *f)
{
    struct values v;
    if (!control_run(c->control, "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
                     STATEMENT_TIMEOUT_MS, f) ||
        !report_method(c, f) || !values_read(c, true, &v, f)) {
        return false;
    }
    report_set(c, "values", values_json(&v));
    bool ok = acceptance_catalog(c, f);
    check_values(c, &v);
    values_fini(&v);
    ok = control_run(c->control, "ROLLBACK", STATEMENT_TIMEOUT_MS, ok ? f : &(struct failure){0}) &&
         ok;
    return ok && acceptance_trial(c, f) && acceptance_clients(c, f);
}

static bool is_accepted(const struct cutover *c)
{
    size_t i;
    const json_t *check;
    json_array_foreach(c->checks, i, check)
    {
        if (strcmp(json_string_value(json_object_get(check, "verdict")), "PASS") != 0) {
            return false;
        }
    }
    return true;
}

enum exit_code cutover_verify(const struct config *config, const struct config_rule *rule,
                              json_t **report)
{
    struct cutover c;
    struct failure f = {.code = EXIT_REFUSED, .msg = "out of memory"};
    *report = NULL;
    if (!context_init(&c, "verify", config, rule, NULL, NULL)) {
        return EXIT_REFUSED;
    }
    if (!context_connect(&c, &f) || !context_read_table(&c, &f) || !run_checks(&c, &f)) {
        return context_finish(&c, f.code, report, "%s", f.msg);
    }
    bool accepted = is_accepted(&c);
    report_set(&c, "accepted", json_boolean(accepted));
    const char *method = json_string_value(json_object_get(c.report, "method"));
    const json_t *values = json_object_get(c.report, "values");
    return context_finish(&c, c.blocked ? EXIT_REFUSED : EXIT_DONE, report,
                          "method %s, %lld rows, %lld mismatches; %s", method,
                          json_integer_value(json_object_get(values, "rows")),
                          json_integer_value(json_object_get(values, "mismatches")),
                          accepted ? "every point of acceptance is met"
                                   : "not every point of acceptance is met");
}
