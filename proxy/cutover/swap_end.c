/* The ends of a swap: back within the bake time, finish, and the removal of what was made; see
 * swap.h. */
#include "proxy/cutover/swap.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/failpoint.h"
#include "proxy/cutover/machine.h"
#include "proxy/cutover/shadow.h"
#include "proxy/cutover/shape.h"
#include "proxy/cutover/swap_copy.h"
#include "proxy/cutover/swap_flip.h"
#include "proxy/cutover/swap_log.h"
#include "proxy/cutover/throttle.h"

enum {
    DROP_ATTEMPTS = 100,
    DROP_LOCK_MS = 100,
    DROP_PAUSE_MS = 200,
    LOG_SHORT_MS = 100,
};

/* A connection that hears no abort any more, and no transaction. */
static bool begin_cleaning(struct cutover *c, struct failure *f)
{
    struct failure ignored;
    if (c->control == NULL || control_is_lost(c->control)) {
        return swap_state_reconnect(c, false, f);
    }
    control_ignore_abort(c->control);
    (void)!control_run(c->control, "ROLLBACK", STATEMENT_TIMEOUT_MS, &ignored);
    return true;
}

/* From here on nobody goes on with this swap, and its triggers do nothing: both in one transaction,
 * because a log with a gap must not be gone on with. */
static bool silence(struct cutover *c, const struct swap_row *row, struct failure *f)
{
    char *from = swap_log_silence_sql(row->from);
    char *to = swap_log_silence_sql(row->to);
    char *phase = swap_state_enter_sql(c, SWAP_DROP, NULL);
    char *sql =
        from != NULL && to != NULL && phase != NULL
            ? text_printf("BEGIN; DO $phase$ BEGIN %s END $phase$; %s; %s; COMMIT", phase, from, to)
            : NULL;
    bool ok = sql != NULL ? control_run(c->control, sql, STATEMENT_TIMEOUT_MS, f)
                          : fail(f, EXIT_REFUSED, "out of memory");
    free(from);
    free(to);
    free(phase);
    free(sql);
    return ok;
}

static bool has_triggers(struct cutover *c, bool *out, struct failure *f)
{
    PGresult *r = context_query(c,
                                "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = {rel} AND "
                                "tgname IN ('pgsluice_capture', 'pgsluice_truncate'))",
                                STATEMENT_TIMEOUT_MS, f);
    *out = r != NULL && PQgetvalue(r, 0, 0)[0] == 't';
    PQclear(r);
    return r != NULL;
}

/* DROP TRIGGER takes an exclusive lock; whoever uses the table meanwhile waits no longer than one
 * attempt does. */
static bool drop_triggers(struct cutover *c, struct failure *f)
{
    bool exist = false;
    FAILPOINT("clean-triggers");
    if (!has_triggers(c, &exist, f)) {
        return false;
    }
    char *disarm = swap_log_disarm_sql(c->relation);
    char *sql = disarm == NULL ? NULL
                               : text_printf("BEGIN; SET LOCAL lock_timeout = %d; %s; COMMIT",
                                             DROP_LOCK_MS, disarm);
    bool ok = !exist;
    free(disarm);
    for (unsigned attempt = 0; sql != NULL && !ok && attempt < DROP_ATTEMPTS; attempt++) {
        struct failure ignored;
        ok = control_run(c->control, sql, STATEMENT_TIMEOUT_MS, f);
        if (!ok && strcmp(f->sqlstate, "55P03") != 0 && strcmp(f->sqlstate, "40P01") != 0) {
            break;
        }
        if (!ok) {
            (void)!control_run(c->control, "ROLLBACK", STATEMENT_TIMEOUT_MS, &ignored);
            context_progress(c, "clean", -1, "waiting to drop the triggers: %s", f->msg);
            rest_ms(DROP_PAUSE_MS);
        }
    }
    free(sql);
    return ok;
}

/* The logs, the row, and the schema if it came with this swap and holds nothing else. */
static bool drop_rest(struct cutover *c, const struct swap_row *row, struct failure *f)
{
    static const char schema_sql[] =
        "IF NOT EXISTS (SELECT FROM pgsluice.swap) AND NOT EXISTS (SELECT FROM pgsluice.run) THEN "
        "BEGIN DROP TABLE pgsluice.swap; DROP TABLE pgsluice.run; DROP SCHEMA pgsluice; "
        "EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN NULL; END; "
        "END IF; ";
    char *from = swap_log_drop_sql(row->from);
    char *to = swap_log_drop_sql(row->to);
    FAILPOINT("clean-log");
    char *sql = from == NULL || to == NULL
                    ? NULL
                    : text_printf("DO $drop$ BEGIN %s; %s; DELETE FROM pgsluice.swap WHERE owner = "
                                  "'%s'; %sEND $drop$",
                                  from, to, c->run, row->made_schema ? schema_sql : "");
    bool ok = sql != NULL ? control_run(c->control, sql, STATEMENT_TIMEOUT_MS, f)
                          : fail(f, EXIT_REFUSED, "out of memory");
    free(from);
    free(to);
    free(sql);
    return ok;
}

bool swap_clean(struct cutover *c, struct failure *f)
{
    struct swap_row row;
    if (!begin_cleaning(c, f) || !swap_state_lead(c, f) || !context_read_table(c, f) ||
        !swap_state_read(c, &row, f)) {
        return false;
    }
    if (row.phase == SWAP_NONE) {
        return true;
    }
    bool ok = swap_state_take(c, f) && silence(c, &row, f) && drop_triggers(c, f);
    FAILPOINT("clean-tables");
    json_t *drop = ok ? shadow_drop(c, f) : NULL;
    ok = drop != NULL && shadow_run(c, drop, STATEMENT_TIMEOUT_MS, f) && drop_rest(c, &row, f);
    json_decref(drop);
    swap_row_fini(&row);
    return ok;
}

struct swap_back {
    const struct state_run *run;
    char *digest; /* of the table before it was compared */
    struct shadow shape;
    struct swap_way way;
    struct swap_flip flip;
    int64_t compared;
};

static bool read_way(struct cutover *c, struct swap_back *b, struct failure *f)
{
    swap_way_fini(&b->way);
    shadow_fini(&b->shape);
    return shadow_plan(c, SHADOW_BACK, &b->shape, f) &&
           swap_way_init(c, &b->shape, false, c->table.oid, b->shape.relation, &b->way, f);
}

/* In GATE's transaction. */
static bool prepare(struct cutover *c, void *arg, struct flip_sql *out, struct failure *f)
{
    struct swap_back *b = arg;
    if (!context_read_table(c, f) || !read_way(c, b, f)) {
        return false;
    }
    if (!c->table.generated) {
        return fail(f, EXIT_REFUSED, "the column is not generated any more");
    }
    char *digest = shape_digest(c, f);
    bool same = digest != NULL && (strcmp(digest, b->digest) == 0 ||
                                   fail(f, EXIT_REFUSED, "the table has changed meanwhile"));
    free(digest);
    if (!same) {
        return false;
    }
    if (json_array_size(b->shape.refusals) > 0) {
        return fail(f, EXIT_REFUSED, "something has come that could not be carried back");
    }
    return swap_flip_compose(c, &b->flip, &b->shape, &b->way, b->run->run, out, f);
}

static bool await_go(struct cutover *c, void *arg, struct failure *f)
{
    struct swap_back *b = arg;
    return throttle_pause(c, &b->way, "gate", f);
}

static bool approach(struct cutover *c, void *arg, bool holding, struct failure *f)
{
    struct swap_back *b = arg;
    return swap_flip_approach(c, &b->flip, &b->way, holding, f);
}

/* The old table follows what was written since the flip. */
static bool follow(struct cutover *c, struct swap_back *b, struct failure *f)
{
    if (!swap_state_lead(c, f) || !swap_state_take(c, f) || !read_way(c, b, f)) {
        return false;
    }
    json_t *finish = shadow_finish(c, &b->shape, f);
    bool ok = finish != NULL && shadow_run(c, finish, 0, f);
    json_decref(finish);
    ok = ok && (b->digest = shape_digest(c, f)) != NULL;
    context_progress(c, "replay", -1, "bringing the old table up to date");
    ok = ok && swap_log_catch_up(c, c->control, &b->way, LOG_SHORT_MS, f);
    context_progress(c, "compare", -1, "comparing every row of both tables");
    return ok && swap_compare(c, &b->way, &b->compared, f) &&
           swap_log_catch_up(c, c->control, &b->way, LOG_SHORT_MS, f) &&
           swap_await_snapshots(c, &b->way, f);
}

static enum exit_code conclude(struct cutover *c, struct swap_back *b, json_t **report)
{
    struct failure f = {.code = EXIT_DONE};
    swap_flip_after(c, &b->flip, b->way.from);
    if (!swap_clean(c, &f)) {
        report_check(c, "clean", CHECK_WARN, "run rollback again to clean up",
                     "what the swap had made could not all be dropped: %s", f.msg);
    }
    const json_t *lock = json_object_get(json_object_get(c->report, "hold"), "lock_ms");
    return context_finish(c, EXIT_DONE, report,
                          "%s is computed by its trigger again; %lld rows compared, exclusive lock "
                          "%.1f ms",
                          c->rule->column, (long long)b->compared, json_number_value(lock));
}

enum exit_code swap_back(struct cutover *c, struct state_run *run, json_t **report)
{
    struct failure f = {.code = EXIT_REFUSED, .msg = "out of memory"};
    struct swap_back b = {.run = run};
    enum exit_code code = EXIT_REFUSED;
    report_set(c, "strategy", json_string("swap"));
    bool ok = follow(c, &b, &f);
    if (ok) {
        struct flip how = {.generated = false,
                           .moves = swap_flip_moves(c),
                           .await_go = await_go,
                           .prepare = prepare,
                           .approach = approach,
                           .arg = &b};
        code = machine_run(c, &how, &f);
    }
    if (code == EXIT_DONE) {
        code = conclude(c, &b, report);
    } else if (code == EXIT_UNKNOWN) {
        code = context_finish(c, code, report, "%s; run pgsluice verify when the server is back",
                              f.msg);
    } else {
        code = context_finish(c, EXIT_REFUSED, report, "%s; nothing changed",
                              context_abort_requested(c) ? "aborted" : f.msg);
    }
    free(b.digest);
    swap_flip_fini(&b.flip);
    swap_way_fini(&b.way);
    shadow_fini(&b.shape);
    return code;
}

/* The function that computed the column, when the flip would have taken it along in place. */
static bool drop_function(struct cutover *c, const struct state_run *run, struct failure *f)
{
    const char *name = json_string_value(json_object_get(run->trigger, "function_name"));
    if (name == NULL || json_array_size(json_object_get(run->trigger, "function")) == 0) {
        return true;
    }
    char *sql = text_printf("DROP FUNCTION IF EXISTS %s", name);
    bool ok = sql != NULL ? control_run(c->control, sql, STATEMENT_TIMEOUT_MS, f)
                          : fail(f, EXIT_REFUSED, "out of memory");
    free(sql);
    return ok;
}

enum exit_code swap_finish(struct cutover *c, const struct state_run *run,
                           const struct swap_row *row, json_t **report)
{
    struct failure f = {.code = EXIT_REFUSED, .msg = "out of memory"};
    context_progress(c, "finish", -1, "dropping the old table");
    if (!shadow_run(c, row->validate, 0, &f)) {
        return context_finish(c, EXIT_REFUSED, report,
                              "a foreign key could not be validated: %s; nothing dropped", f.msg);
    }
    if (!swap_clean(c, &f)) {
        return context_finish(c, EXIT_REFUSED, report, "%s; run finish again", f.msg);
    }
    if (!drop_function(c, run, &f)) {
        report_check(c, "function", CHECK_WARN, "drop it when nothing needs it any more",
                     "the function that computed the column stays: %s", f.msg);
    }
    context_step(c, "finished", "the old table is dropped");
    return context_finish(c, EXIT_DONE, report,
                          "the old table is dropped; a rollback now turns the column into a plain "
                          "one with its trigger");
}
