/*
 * The preflight: the order of its checks, and those of the rule, the rights and the strategy; see
 * preflight.h. Called by the commands in cutover.c and rollback.c. Each check has an id that does
 * not change, so that scripts can rely on it.
 */
#include "proxy/cutover/preflight.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/preflight_parts.h"
#include "proxy/cutover/swap.h"
#include "proxy/gate.h"

enum { PID_STATEMENTS = 10 };

const char *preflight_fact(const struct cutover *c, const char *key)
{
    const char *text = json_string_value(json_object_get(c->table.facts, key));
    return text != NULL ? text : "";
}

bool preflight_is(const struct cutover *c, const char *key)
{
    return json_is_true(json_object_get(c->table.facts, key));
}

bool preflight_names(struct cutover *c, const char *template, struct names *out, struct failure *f)
{
    *out = (struct names){.count = 0};
    json_t *array = context_json(context_query(c, template, STATEMENT_TIMEOUT_MS, f), f);
    if (array == NULL) {
        return false;
    }
    out->count = json_array_size(array);
    out->text = text_join(array);
    json_decref(array);
    return out->text != NULL || fail(f, EXIT_REFUSED, "out of memory");
}

/* Sessions with prepared statements that the flip would make fail, and for which it waits. */
static uint64_t sessions_in_the_way(const struct cutover *c)
{
    struct gate_counts counts = {.unstripped = 0};
    if (c->host != NULL && c->host->gate != NULL) {
        gate_count(c->host->gate, &counts);
    }
    return counts.unstripped;
}

static void check_mode(struct cutover *c)
{
    const uint64_t in_the_way = sessions_in_the_way(c);
    if (c->rule->mode == RULE_MODE_OBSERVE) {
        report_check(c, "mode", CHECK_BLOCK, "set mode = strip in the rule first, and let it run",
                     "mode = observe: values that clients supply still reach the server, and "
                     "would be refused with 428C9 after the flip");
    } else if (c->rule->mode == RULE_MODE_COMPUTE && !preflight_is(c, "partitioned_by_column")) {
        report_check(
            c, "mode", CHECK_BLOCK, "set mode = strip in the rule first, and let it run",
            "mode = compute: statements reach the server with a value for the column, which "
            "would be refused with 428C9 after the flip");
    } else if (in_the_way > 0) {
        report_check(
            c, "mode", CHECK_WARN, "let these sessions reconnect before the flip",
            "%llu sessions hold prepared statements that would fail after the flip, which is "
            "not made while they are there: from when the rule observed, or under mode "
            "compute made by SQL's PREPARE or longer than 32 KB",
            (unsigned long long)in_the_way);
    } else if (c->rule->mode == RULE_MODE_COMPUTE) {
        report_check(c, "mode", CHECK_PASS, NULL,
                     "mode = compute, since strip cannot be while the table is partitioned by the "
                     "column: prepared statements are made anew after the flip, and transactions "
                     "that come to the table meanwhile wait for it");
    } else {
        report_check(c, "mode", CHECK_PASS, NULL,
                     "no value that a client supplies reaches the server through this proxy");
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
    bool plain = strcmp(preflight_fact(c, "kind"), "r") == 0 && !preflight_is(c, "of_type") &&
                 json_is_null(json_object_get(c->table.facts, "children")) &&
                 json_is_null(json_object_get(c->table.facts, "parents"));
    bool fits = preflight_estimate_ms(c, true) <= c->options.max_hold_ms;
    c->swaps = c->options.strategy == CUTOVER_SWAP ||
               (c->options.strategy == CUTOVER_AUTO && (begun || !plain || !fits));
    return true;
}

/* A pooler in between would hand each statement to whom it likes: the process that answers must be
 * the one that the login named, statement after statement. */
static void check_direct(struct cutover *c)
{
    struct failure f;
    for (int i = 0; i < PID_STATEMENTS; i++) {
        PGresult *r = context_query(c, "SELECT pg_backend_pid()", STATEMENT_TIMEOUT_MS, &f);
        long pid = r != NULL ? strtol(PQgetvalue(r, 0, 0), NULL, 10) : 0;
        PQclear(r);
        if (pid != control_backend_pid(c->control)) {
            report_check(c, "direct", CHECK_BLOCK, "let control name the server itself",
                         "the control connection goes through a pooler: process %ld answers, the "
                         "login was to %d",
                         pid, control_backend_pid(c->control));
            return;
        }
    }
    report_check(c, "direct", CHECK_PASS, NULL, "one server process answered %d statements",
                 PID_STATEMENTS);
}

static void check_state_schema(struct cutover *c)
{
    const json_t *schema = json_object_get(c->table.facts, "state_schema");
    if (json_is_null(schema) && !preflight_is(c, "may_create_schema")) {
        report_check(c, "state-schema", CHECK_BLOCK, "GRANT CREATE ON DATABASE to the control role",
                     "%s may not create schema pgsluice, which records the flip",
                     preflight_fact(c, "role"));
    } else if (json_is_false(schema)) {
        report_check(c, "state-schema", CHECK_BLOCK,
                     "let the control role read and write schema pgsluice",
                     "schema pgsluice exists, and %s may not use it", preflight_fact(c, "role"));
    } else {
        report_check(c, "state-schema", CHECK_PASS, NULL, "schema pgsluice %s",
                     json_is_true(schema) ? "exists" : "will be created with the flip");
    }
}

static void check_table_schema(struct cutover *c)
{
    if (preflight_is(c, "may_create_in_schema")) {
        report_check(c, "table-schema", CHECK_PASS, NULL, "%s may create in schema %s",
                     preflight_fact(c, "role"), c->rule->schema);
    } else {
        report_check(c, "table-schema", CHECK_BLOCK, "GRANT CREATE ON SCHEMA to the control role",
                     "%s may not create in schema %s, where the indexes must be built again",
                     preflight_fact(c, "role"), c->rule->schema);
    }
}

void preflight_rights(struct cutover *c)
{
    const char *role = preflight_fact(c, "role");
    const char *owner = preflight_fact(c, "owner");
    check_direct(c);
    if (preflight_is(c, "owned")) {
        report_check(c, "role", CHECK_PASS, NULL, "%s may act as the table's owner, %s", role,
                     owner);
    } else {
        report_check(c, "role", CHECK_BLOCK,
                     "let the control role own the table, or be a member of its owner",
                     "%s is not a member of the table's owner, %s", role, owner);
    }
    check_state_schema(c);
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

/* The part that reads, within the READ ONLY transaction. */
static bool read_checks(struct cutover *c, bool expression_good, struct failure *f)
{
    struct capture capture;
    if (!preflight_table(c, f) || !preflight_replication(c, f) || !preflight_server(c, f) ||
        !preflight_sessions(c, f) || !preflight_clients(c, f) || !preflight_sql(c, f) ||
        (c->swaps && !swap_preflight(c, f)) || !capture_read(c, &capture, f)) {
        return false;
    }
    if (!c->swaps) {
        preflight_report_capture(c, &capture);
    }
    bool ok = (!expression_good || preflight_values(c, f)) && preflight_ticket(c, &capture, f);
    capture_fini(&capture);
    return ok;
}

/* What must be tried is tried here, and rolled back whatever comes of it. */
static bool try_checks(struct cutover *c, bool *expression_good, struct failure *f)
{
    char *canonical = NULL;
    struct failure ignored;
    bool ok = control_run(c->control, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
                          STATEMENT_TIMEOUT_MS, f) &&
              preflight_expression(c, &canonical, f) &&
              (canonical == NULL || preflight_trigger(c, f));
    bool ended = control_run(c->control, "ROLLBACK", STATEMENT_TIMEOUT_MS, ok ? f : &ignored);
    *expression_good = canonical != NULL;
    free(canonical);
    return ok && ended;
}

bool preflight_cutover(struct cutover *c, struct failure *f)
{
    bool good = false;
    struct failure ignored;
    context_progress(c, "preflight", -1, "examining the table");
    if (preflight_is(c, "in_recovery")) {
        report_check(c, "primary", CHECK_BLOCK, "let control name the primary",
                     "this server is a standby: nothing can be written here");
        return true;
    }
    report_check(c, "primary", CHECK_PASS, NULL, "the server takes writes");
    if (!choose_strategy(c, f)) {
        return false;
    }
    check_mode(c);
    preflight_rights(c);
    check_table_schema(c);
    preflight_size(c, !c->swaps);
    if (!try_checks(c, &good, f) ||
        !control_run(c->control, "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
                     STATEMENT_TIMEOUT_MS, f)) {
        return false;
    }
    bool ok = read_checks(c, good, f);
    bool ended = control_run(c->control, "ROLLBACK", STATEMENT_TIMEOUT_MS, ok ? f : &ignored);
    return ok && ended;
}
