/*
 * Drives the shape of a swap without what moves the rows: for tests on real servers. Copies rows
 * with one INSERT, so that nothing may write meanwhile. Prints a JSON report, and exits 0 when what
 * was asked is done, 1 with "error" or "refusals" when it is not.
 *
 *   shadow_probe plan|there|back|drop|create CONNINFO DATABASE SCHEMA TABLE COLUMN EXPRESSION
 * TRIGGER
 *
 * "create" stops after shadow_finish(). "there" creates what is not there. TRIGGER computes the
 * column; "" for none.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/shadow.h"
#include "proxy/log.h"

enum { TIMEOUT_MS = 60000, LOCK_MS = 2000 };

static json_t *report;

static bool run_list(struct cutover *c, json_t *list, const char *key, struct failure *f)
{
    bool ok = list != NULL && shadow_run(c, list, TIMEOUT_MS, f);
    if (list != NULL) {
        json_object_set_new(report, key, list);
    }
    return ok;
}

static bool in_transaction(struct cutover *c, bool ok, struct failure *f)
{
    struct failure ignored;
    if (ok) {
        return control_run(c->control, "COMMIT", TIMEOUT_MS, f);
    }
    (void)!control_run(c->control, "ROLLBACK", TIMEOUT_MS, &ignored);
    return false;
}

static bool make(struct cutover *c, struct shadow *s, struct failure *f)
{
    if (s->to == 0) {
        bool ok = control_run(c->control, "BEGIN", TIMEOUT_MS, f) &&
                  run_list(c, shadow_create(c, s, f), "create", f);
        if (!in_transaction(c, ok, f)) {
            return false;
        }
        char *copy = text_printf("INSERT INTO %s (%s) SELECT %s FROM %s", s->relation, s->columns,
                                 s->columns, c->relation);
        ok = copy != NULL && control_run(c->control, copy, TIMEOUT_MS, f);
        free(copy);
        shadow_fini(s);
        if (!ok || !shadow_plan(c, SHADOW_FORWARD, s, f)) {
            return false;
        }
    }
    return run_list(c, shadow_finish(c, s, f), "finish", f);
}

static bool exchange(struct cutover *c, struct shadow *s, struct failure *f)
{
    char *gate = text_printf("BEGIN; LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE", c->relation);
    bool ok = gate != NULL && control_batch(c->control, gate, TIMEOUT_MS, NULL, NULL, f);
    free(gate);
    struct shadow_flip flip = {.first = NULL};
    ok = ok && shadow_flip(c, s, &flip, f);
    char *sql = NULL;
    if (ok) {
        sql =
            text_printf("SET LOCAL lock_timeout = %d; %s; LOCK TABLE %s IN ACCESS EXCLUSIVE MODE; "
                        "DO $probe$ DECLARE began_ timestamptz := clock_timestamp(); %s BEGIN\n%s"
                        "PERFORM set_config('pgsluice.took', "
                        "(1000 * extract(epoch FROM clock_timestamp() - began_))::text, false);\n"
                        "END $probe$",
                        LOCK_MS, flip.first, flip.lock, flip.declare, flip.body);
        ok = sql != NULL && control_batch(c->control, sql, TIMEOUT_MS, NULL, NULL, f);
    }
    ok = in_transaction(c, ok, f);
    free(sql);
    if (ok) {
        PGresult *r = control_query(c->control, "SELECT current_setting('pgsluice.took')", 0, NULL,
                                    TIMEOUT_MS, f);
        json_object_set_new(report, "body_ms",
                            json_real(r != NULL ? strtod(PQgetvalue(r, 0, 0), NULL) : -1));
        PQclear(r);
        json_object_set_new(report, "flip", report_string(flip.plan));
        json_object_set_new(report, "first", report_string(flip.first));
        ok = run_list(c, json_incref(flip.after), "after", f);
    }
    shadow_flip_fini(&flip);
    return ok;
}

static bool command(struct cutover *c, const char *name, struct failure *f)
{
    struct shadow s = {.relation = NULL};
    if (strcmp(name, "drop") == 0) {
        return run_list(c, shadow_drop(c, f), "drop", f);
    }
    bool back = strcmp(name, "back") == 0;
    if (!context_read_table(c, f) || !shadow_plan(c, back ? SHADOW_BACK : SHADOW_FORWARD, &s, f)) {
        return false;
    }
    json_object_set(report, "refusals", s.refusals);
    json_object_set_new(report, "key", json_string(s.key != NULL ? s.key : ""));
    json_object_set_new(report, "columns", json_string(s.columns != NULL ? s.columns : ""));
    bool ok = json_array_size(s.refusals) == 0 || fail(f, EXIT_REFUSED, "refused");
    if (ok && strcmp(name, "plan") == 0) {
        json_t *outline = shadow_outline(c, &s, f);
        ok = outline != NULL && json_object_set_new(report, "outline", outline) == 0;
    }
    if (ok && strcmp(name, "plan") != 0) {
        ok = back ? run_list(c, shadow_finish(c, &s, f), "finish", f) : make(c, &s, f);
        if (ok && strcmp(name, "create") != 0) {
            ok = exchange(c, &s, f);
        }
    }
    shadow_fini(&s);
    return ok;
}

/* Whether the trigger exists: its oid and names go into the context, as the preflight would do. */
static bool read_trigger(struct cutover *c, const char *name, struct failure *f)
{
    if (*name == '\0') {
        return true;
    }
    c->trigger.name = strdup(name);
    c->trigger.name_text = control_quote_literal(c->control, name);
    return (c->trigger.name != NULL && c->trigger.name_text != NULL) ||
           fail(f, EXIT_REFUSED, "out of memory");
}

int main(int argc, char **argv)
{
    if (argc != 9) {
        fprintf(stderr, "shadow_probe COMMAND CONNINFO DATABASE SCHEMA TABLE COLUMN EXPRESSION "
                        "TRIGGER\n");
        return EXIT_USAGE;
    }
    log_init(false, LOG_LEVEL_WARNING);
    struct config_rule rule = {.name = argv[5],
                               .database = argv[3],
                               .schema = argv[4],
                               .table = argv[5],
                               .column = argv[6],
                               .expression = argv[7],
                               .mode = RULE_MODE_STRIP};
    struct config config = {.control = argv[2], .rules = &rule, .rule_count = 1};
    struct cutover c;
    struct failure f = {.code = EXIT_REFUSED};
    if (!context_init(&c, "shadow", &config, &rule, NULL, NULL)) {
        return EXIT_USAGE;
    }
    report = c.report;
    bool ok = context_connect(&c, &f) && read_trigger(&c, argv[8], &f) && command(&c, argv[1], &f);
    if (!ok) {
        report_set(&c, "error", report_string(f.msg));
        report_set(&c, "sqlstate", report_string(f.sqlstate));
    }
    context_finish(&c, ok ? EXIT_DONE : EXIT_REFUSED, &report, "%s", ok ? "done" : f.msg);
    json_dumpf(report, stdout, JSON_INDENT(1));
    json_decref(report);
    return ok ? 0 : 1;
}
