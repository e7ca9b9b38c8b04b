/*
 * The commands plan and cutover; see cutover.h. They differ in what comes after the preflight: the
 * plan prints what the cutover would do.
 */
#include "proxy/cutover/cutover.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/capture.h"
#include "proxy/cutover/compose.h"
#include "proxy/cutover/context.h"
#include "proxy/cutover/cost.h"
#include "proxy/cutover/latency.h"
#include "proxy/cutover/machine.h"
#include "proxy/cutover/preflight.h"
#include "proxy/cutover/swap.h"

/* What the preflight found, and what must be the same when the flip is composed. */
struct examined {
    char *trigger; /* digest */
    unsigned oid;
};

static const char too_old[] =
    "generated columns need PostgreSQL 12 or newer; the trigger stays in place";

/* The column is generated already: by the rule's expression, or by another. */
static enum exit_code finish_generated(struct cutover *c, json_t **report)
{
    char *canonical = NULL;
    struct failure f = {.code = EXIT_REFUSED, .msg = "out of memory"};
    struct failure ignored;
    bool ok = control_run(c->control, "BEGIN", STATEMENT_TIMEOUT_MS, &f) &&
              preflight_expression(c, &canonical, &f);
    (void)!control_run(c->control, "ROLLBACK", STATEMENT_TIMEOUT_MS, &ignored);
    bool same = canonical != NULL && c->table.definition != NULL &&
                strcmp(canonical, c->table.definition) == 0;
    free(canonical);
    if (!ok) {
        return context_finish(c, f.code, report, "%s", f.msg);
    }
    if (same) {
        report_check(c, "generated", CHECK_PASS, NULL, "the column is generated already, as %s",
                     c->table.definition);
        return context_finish(c, EXIT_DONE, report,
                              "%s is a generated column already; nothing to do", c->rule->column);
    }
    report_check(c, "generated", CHECK_BLOCK, "correct the rule's expression",
                 "the column is generated already, but as %s",
                 c->table.definition != NULL ? c->table.definition : "?");
    return context_finish(
        c, EXIT_REFUSED, report,
        "%s is a generated column already, by another expression; nothing changed",
        c->rule->column);
}

/* Connects, reads, and runs the preflight. False when the command ends here; *code then is its exit
 * code and *report its report. */
static bool examine(struct cutover *c, enum exit_code *code, json_t **report)
{
    struct failure f = {.code = EXIT_REFUSED, .msg = "out of memory"};
    if (!context_connect(c, &f) || !context_read_table(c, &f)) {
        *code = context_finish(c, f.code, report, "%s", f.msg);
        return false;
    }
    int version = control_version(c->control);
    if (version < STATE_VERSION_MIN) {
        report_check(c, "version", CHECK_BLOCK, "upgrade PostgreSQL", "server version %d.%d: %s",
                     version / 10000, version % 10000, too_old);
        *code = context_finish(c, EXIT_NOT_APPLICABLE, report, "%s", too_old);
        return false;
    }
    report_check(c, "version", version < 130000 ? CHECK_WARN : CHECK_PASS, NULL,
                 version < 130000 ? "server version %d.%d: a rollback will rewrite the table, "
                                    "because DROP EXPRESSION came with 13"
                                  : "server version %d.%d",
                 version / 10000, version % 10000);
    if (c->table.generated) {
        *code = finish_generated(c, report);
        return false;
    }
    if (!preflight_cutover(c, &f)) {
        *code = context_finish(c, f.code, report, "%s; nothing changed",
                               context_abort_requested(c) ? "aborted" : f.msg);
        return false;
    }
    return true;
}

/* The statements, as an array of lines. */
static void report_plan(struct cutover *c, const struct flip_sql *sql)
{
    json_t *lines = json_array();
    char *copy = sql->plan != NULL ? strdup(sql->plan) : NULL;
    char *rest = NULL;
    for (char *line = copy != NULL ? strtok_r(copy, "\n", &rest) : NULL; line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        (void)json_array_append_new(lines, report_string(line));
    }
    free(copy);
    report_set(c, "sql", lines);
    report_set(c, "locks",
               json_pack("[s, s]", "SHARE UPDATE EXCLUSIVE from the first attempt on",
                         "ACCESS EXCLUSIVE for the flip"));
    report_set(c, "strategy", json_string("inplace"));
}

static bool compose_for_plan(struct cutover *c, struct failure *f)
{
    struct capture capture;
    struct flip_sql sql = {.lock = NULL};
    if (!control_run(c->control, "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
                     STATEMENT_TIMEOUT_MS, f)) {
        return false;
    }
    bool ok = capture_read(c, &capture, f);
    /* Without a trigger that was understood, or with something refused, there is nothing to show.
     */
    if (ok && capture.refused == 0 && c->capture != NULL) {
        ok = compose_cutover(c, &capture, &sql, f);
        if (ok) {
            report_plan(c, &sql);
        }
    }
    flip_sql_fini(&sql);
    capture_fini(&capture);
    struct failure ignored;
    return control_run(c->control, "ROLLBACK", STATEMENT_TIMEOUT_MS, ok ? f : &ignored) && ok;
}

static int count_verdicts(const struct cutover *c, const char *verdict)
{
    size_t i;
    const json_t *check;
    int count = 0;
    json_array_foreach(c->checks, i, check)
    {
        const char *is = json_string_value(json_object_get(check, "verdict"));
        count += is != NULL && strcmp(is, verdict) == 0;
    }
    return count;
}

enum exit_code cutover_plan(const struct config *config, const struct config_rule *rule,
                            const struct cutover_options *options, const struct cutover_host *host,
                            json_t **report)
{
    struct cutover c;
    enum exit_code code;
    struct failure f = {.code = EXIT_REFUSED, .msg = "out of memory"};
    *report = NULL;
    if (!context_init(&c, "plan", config, rule, options, host)) {
        return EXIT_REFUSED;
    }
    if (!examine(&c, &code, report)) {
        return code;
    }
    if (!(c.swaps ? swap_plan(&c, &f) : compose_for_plan(&c, &f))) {
        return context_finish(&c, f.code, report, "%s", f.msg);
    }
    int blocks = count_verdicts(&c, "BLOCK");
    if (blocks > 0) {
        return context_finish(&c, EXIT_REFUSED, report,
                              "the cutover would be refused: %d of %zu checks stand against it",
                              blocks, json_array_size(c.checks));
    }
    return context_finish(&c, EXIT_DONE, report,
                          "the cutover can run: %s, with about %llu ms of exclusive lock",
                          c.swaps ? "by swap" : "in place", (unsigned long long)c.estimate_ms);
}

/* In GATE's transaction: nothing but a view or a grant can change any more. */
static bool prepare(struct cutover *c, void *arg, struct flip_sql *out, struct failure *f)
{
    struct examined *examined = arg;
    struct capture capture;
    if (!context_read_table(c, f)) {
        return false;
    }
    char *digest = preflight_trigger_digest(c, f);
    if (digest == NULL) {
        return false;
    }
    bool same = strcmp(digest, examined->trigger) == 0 && c->table.oid == examined->oid &&
                !c->table.generated;
    free(digest);
    if (!same) {
        return fail(f, EXIT_REFUSED, "the table or its trigger has changed since the preflight");
    }
    if (!capture_read(c, &capture, f)) {
        return false;
    }
    bool ok = true;
    for (size_t i = 0; ok && i < capture_count(&capture); i++) {
        if (capture_refusal(&capture, i) != NULL) {
            ok = fail(f, EXIT_REFUSED, "%s has come since the preflight: %s",
                      capture_what(&capture, i), capture_refusal(&capture, i));
        }
    }
    ok = ok && compose_cutover(c, &capture, out, f);
    if (ok) {
        report_plan(c, out);
    }
    capture_fini(&capture);
    return ok;
}

/* The new column has no statistics yet; not worth failing for. */
static void analyze(struct cutover *c)
{
    struct failure f;
    if (context_abort_requested(c)) {
        return;
    }
    context_progress(c, "analyze", -1, "gathering statistics of the new column");
    PGresult *r = context_query(c, "ANALYZE {name}", 0, &f);
    if (r == NULL) {
        report_check(c, "analyze", CHECK_WARN, "run ANALYZE on the table",
                     "gathering statistics failed: %s", f.msg);
    }
    PQclear(r);
}

static enum exit_code flip(struct cutover *c, json_t **report)
{
    struct failure f = {.code = EXIT_REFUSED, .msg = "out of memory"};
    struct examined examined = {.oid = c->table.oid};
    examined.trigger = preflight_trigger_digest(c, &f);
    if (examined.trigger == NULL) {
        return context_finish(c, f.code, report, "%s; nothing changed", f.msg);
    }
    struct flip how = {.generated = true, .moves = true, .prepare = prepare, .arg = &examined};
    double began = monotonic_ms_exact();
    enum exit_code code = machine_run(c, &how, &f);
    free(examined.trigger);
    if (code == EXIT_UNKNOWN) {
        return context_finish(c, code, report, "%s; run pgsluice verify when the server is back",
                              f.msg);
    }
    if (code != EXIT_DONE) {
        return context_finish(c, code, report, "%s; nothing changed", f.msg);
    }
    analyze(c);
    latency_report(c, began);
    const json_t *lock = json_object_get(json_object_get(c->report, "hold"), "lock_ms");
    report_set(c, "proof",
               json_string("the server compared every row's old and new value while it rewrote the "
                           "table, and the catalog before and after, in the flip's transaction"));
    return context_finish(c, EXIT_DONE, report,
                          "%s is now GENERATED ALWAYS AS (%s) STORED; exclusive lock %.1f ms",
                          c->rule->column, c->rule->expression, json_number_value(lock));
}

enum exit_code cutover_run(const struct config *config, const struct config_rule *rule,
                           const struct cutover_options *options, const struct cutover_host *host,
                           json_t **report)
{
    struct cutover c;
    enum exit_code code;
    *report = NULL;
    if (!context_init(&c, "cutover", config, rule, options, host)) {
        return EXIT_REFUSED;
    }
    report_set(&c, "run", json_string(c.run));
    context_step(&c, "preflight", "%s.%s", rule->schema, rule->table);
    latency_begin(&c);
    if (!examine(&c, &code, report)) {
        return code;
    }
    if (c.blocked) {
        int blocks = count_verdicts(&c, "BLOCK");
        context_step(&c, "refused", "%d checks stand against it", blocks);
        return context_finish(&c, EXIT_REFUSED, report,
                              "refused: %d of %zu checks stand against it; nothing changed", blocks,
                              json_array_size(c.checks));
    }
    if (c.options.measure) {
        cost_measure(&c);
    }
    return c.swaps ? swap_forward(&c, report) : flip(&c, report);
}
