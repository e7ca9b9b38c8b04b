/*
 * The command rollback: the machine backwards, with what the flip took away put back from the state
 * row; see cutover.h.
 */
#include "proxy/cutover/cutover.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/capture.h"
#include "proxy/cutover/compose.h"
#include "proxy/cutover/context.h"
#include "proxy/cutover/machine.h"
#include "proxy/cutover/preflight.h"
#include "proxy/cutover/state.h"
#include "proxy/cutover/swap.h"

/* Takes the function's recreation out of `run` when the function is there, as it was. A function of
 * the same name that is another one stands in the way. */
static bool check_function(struct cutover *c, struct state_run *run, struct failure *f)
{
    const char *name = json_string_value(json_object_get(run->trigger, "function_name"));
    const char *text = json_string_value(json_object_get(run->trigger, "function_text"));
    bool dropped = json_array_size(json_object_get(run->trigger, "function")) > 0;
    if (name == NULL || text == NULL) {
        report_check(c, "function", CHECK_PASS, NULL, "no trigger computed the column before");
        return true;
    }
    PGresult *r = control_query(c->control,
                                "SELECT pg_get_functiondef(p) FROM to_regprocedure($1) AS p "
                                "WHERE p IS NOT NULL",
                                1, &name, STATEMENT_TIMEOUT_MS, f);
    if (r == NULL) {
        return false;
    }
    bool exists = PQntuples(r) > 0;
    bool same = exists && strcmp(PQgetvalue(r, 0, 0), text) == 0;
    PQclear(r);
    if (exists && !same) {
        report_check(c, "function", CHECK_BLOCK, "drop it, or bring it back to what it was",
                     "%s exists, and is not what computed the column before", name);
    } else if (!exists && !dropped) {
        report_check(c, "function", CHECK_BLOCK, "create it as it was",
                     "%s stayed at the cutover, and is gone now", name);
    } else {
        report_check(c, "function", CHECK_PASS, NULL, "%s %s", name,
                     exists ? "is there" : "will be created as it was");
    }
    if (exists && dropped) {
        (void)json_object_set_new(run->trigger, "function", json_array());
    }
    return true;
}

static bool read_capture(struct cutover *c, struct capture *out, struct failure *f)
{
    *out = (struct capture){.rows = NULL};
    return !compose_rollback_rewrites(c) || capture_read(c, out, f);
}

/* A swap that was not flipped is taken away, one that was is flipped back while the old table is
 * there; where a finish has begun to drop that, the rest goes first. False when the command ends
 * here. */
static bool end_swap(struct cutover *c, struct state_run *run, enum exit_code *code,
                     json_t **report)
{
    struct failure f = {.code = EXIT_REFUSED, .msg = "out of memory"};
    struct swap_row row;
    if (!swap_state_read(c, &row, &f)) {
        *code = context_finish(c, f.code, report, "%s", f.msg);
        return false;
    }
    enum swap_phase phase = row.phase;
    swap_row_fini(&row);
    if (phase == SWAP_NONE) {
        return true;
    }
    if (phase == SWAP_BAKE && run->found && c->table.generated) {
        *code = swap_back(c, run, report);
        return false;
    }
    context_step(c, "swap-clean", "%s", swap_phase_text(phase));
    bool generated = c->table.generated;
    if (!swap_clean(c, &f)) {
        *code = context_finish(c, f.code, report, "%s; run rollback again", f.msg);
        return false;
    }
    if (generated) {
        return true;
    }
    *code = context_finish(c, EXIT_DONE, report, "%s",
                           phase == SWAP_BACK
                               ? "the column is computed by its trigger again, and what the swap "
                                 "had made was cleaned up"
                               : "a swap that had not come to its flip was cleaned up; the table "
                                 "is as it was");
    return false;
}

/* False when the command ends here, with its report. */
static bool examine(struct cutover *c, struct state_run *run, enum exit_code *code, json_t **report)
{
    struct failure f = {.code = EXIT_REFUSED, .msg = "out of memory"};
    struct capture capture = {.rows = NULL};
    if (!context_connect(c, &f) || !context_read_table(c, &f) || !state_read(c, run, &f)) {
        *code = context_finish(c, f.code, report, "%s", f.msg);
        return false;
    }
    if (!end_swap(c, run, code, report)) {
        return false;
    }
    if (!run->found || strcmp(run->phase, "flipped") != 0 || !c->table.generated) {
        const char *why =
            !run->found ? "the table was never cut over by pgsluice"
            : strcmp(run->phase, "flipped") != 0
                ? "the cutover has been rolled back already"
                : "the column is not generated any more: somebody else has changed it";
        report_check(c, "state", CHECK_BLOCK, NULL, "%s", why);
        *code = context_finish(c, EXIT_REFUSED, report, "%s; nothing changed", why);
        return false;
    }
    report_check(c, "state", CHECK_PASS, NULL, "cut over by run %s", run->run);
    preflight_rights(c);
    preflight_size(c, compose_rollback_rewrites(c));
    const char *name = json_string_value(json_object_get(run->trigger, "trigger_name"));
    c->trigger.name_text = name != NULL ? control_quote_literal(c->control, name) : NULL;
    bool ok =
        preflight_sessions(c, &f) && check_function(c, run, &f) && read_capture(c, &capture, &f);
    if (ok && compose_rollback_rewrites(c)) {
        preflight_report_capture(c, &capture);
    }
    capture_fini(&capture);
    if (!ok) {
        *code = context_finish(c, f.code, report, "%s; nothing changed", f.msg);
    }
    return ok;
}

/* In GATE's transaction. */
static bool prepare(struct cutover *c, void *arg, struct flip_sql *out, struct failure *f)
{
    struct state_run *run = arg;
    struct capture capture;
    if (!context_read_table(c, f) || !read_capture(c, &capture, f)) {
        return false;
    }
    bool ok =
        c->table.generated || fail(f, EXIT_REFUSED, "the table has changed since the preflight");
    ok = ok &&
         (capture.refused == 0 || fail(f, EXIT_REFUSED,
                                       "something that depends on the column has come since the "
                                       "preflight and could not be put back"));
    ok = ok && compose_rollback(c, &capture, run->run, run->trigger, out, f);
    capture_fini(&capture);
    return ok;
}

enum exit_code cutover_rollback(const struct config *config, const struct config_rule *rule,
                                const struct cutover_options *options,
                                const struct cutover_host *host, json_t **report)
{
    struct cutover c;
    enum exit_code code;
    struct failure f = {.code = EXIT_REFUSED, .msg = "out of memory"};
    struct state_run run = {.found = false};
    *report = NULL;
    if (!context_init(&c, "rollback", config, rule, options, host)) {
        return EXIT_REFUSED;
    }
    report_set(&c, "run", json_string(c.run));
    context_step(&c, "preflight", "%s.%s", rule->schema, rule->table);
    if (!examine(&c, &run, &code, report)) {
        state_run_fini(&run);
        return code;
    }
    if (c.blocked) {
        state_run_fini(&run);
        context_step(&c, "refused", "a check stands against it");
        return context_finish(&c, EXIT_REFUSED, report, "refused; nothing changed");
    }
    struct flip how = {.generated = false, .moves = true, .prepare = prepare, .arg = &run};
    code = machine_run(&c, &how, &f);
    state_run_fini(&run);
    if (code == EXIT_UNKNOWN) {
        return context_finish(&c, code, report, "%s; run pgsluice verify when the server is back",
                              f.msg);
    }
    if (code != EXIT_DONE) {
        return context_finish(&c, code, report, "%s; nothing changed", f.msg);
    }
    const json_t *lock = json_object_get(json_object_get(c.report, "hold"), "lock_ms");
    return context_finish(&c, EXIT_DONE, report,
                          "%s is computed by its trigger again; exclusive lock %.1f ms",
                          rule->column, json_number_value(lock));
}
