/* The swap forward; see swap.h. Runs in the command's thread, on its control connections. */
#include "proxy/cutover/swap.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/cutover/compose.h"
#include "proxy/cutover/failpoint.h"
#include "proxy/cutover/latency.h"
#include "proxy/cutover/machine.h"
#include "proxy/cutover/preflight.h"
#include "proxy/cutover/shadow.h"
#include "proxy/cutover/shape.h"
#include "proxy/cutover/swap_copy.h"
#include "proxy/cutover/swap_flip.h"
#include "proxy/cutover/swap_log.h"
#include "proxy/cutover/throttle.h"

enum {
    BEGIN_ATTEMPTS = 60,
    BEGIN_LOCK_MS = 100, /* for the triggers: writers that come meanwhile wait as long */
    BEGIN_LOCK_MAX_MS = 300,
    RETRY_MS = 300,
    LOG_SHORT_MS = 100,
    OUTAGE_MS = 60000, /* how long a server may be away */
};

struct swap {
    struct cutover *c;
    struct swap_row row;
    struct shadow shape;
    struct swap_way way;
    struct swap_flip flip;
    char *trigger; /* digest, since the preflight */
    int64_t compared;
    bool keep; /* what was made is worth going on with */
};

/* The triggers are there, those of the partitions too, and fire always. */
static bool is_captured(struct cutover *c, unsigned table, bool *out, struct failure *f)
{
    char oid[16];
    const char *value = oid;
    snprintf(oid, sizeof oid, "%u", table);
    PGresult *r = control_query(c->control,
                                "SELECT (SELECT count(*) = 2 FROM pg_trigger WHERE tgrelid = "
                                "$1::oid AND tgname IN ('pgsluice_capture', 'pgsluice_truncate') "
                                "AND tgenabled = 'A' AND NOT tgisinternal) AND NOT EXISTS (SELECT "
                                "FROM pg_partition_tree($1::oid::regclass) p WHERE isleaf AND "
                                "level > 0 AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = "
                                "p.relid AND tgname = 'pgsluice_part' AND tgenabled = 'A'))",
                                1, &value, STATEMENT_TIMEOUT_MS, f);
    *out = r != NULL && PQgetvalue(r, 0, 0)[0] == 't';
    PQclear(r);
    return r != NULL;
}

static void forget_shape(struct swap *s)
{
    shadow_fini(&s->shape);
    swap_way_fini(&s->way);
}

static bool read_shape(struct swap *s, struct failure *f)
{
    forget_shape(s);
    return shadow_plan(s->c, SHADOW_FORWARD, &s->shape, f) &&
           swap_way_init(s->c, &s->shape, true, s->c->table.oid, s->shape.relation, &s->way, f);
}

/* Whether an earlier run's work can be gone on with; else *why says why not. */
static bool check_resumable(struct swap *s, const char **why, struct failure *f)
{
    struct cutover *c = s->c;
    bool captured = false;
    *why = NULL;
    if (s->row.phase == SWAP_DROP || s->row.phase == SWAP_BACK || s->row.phase == SWAP_BAKE) {
        *why = "it was being cleaned up";
        return true;
    }
    char *digest = shape_digest(c, f);
    if (digest == NULL || !is_captured(c, s->row.from, &captured, f)) {
        free(digest);
        return false;
    }
    if (s->row.from != c->table.oid || strcmp(digest, s->row.digest) != 0) {
        *why = "the table has been altered since";
    } else if (strcmp(s->row.expression, c->rule->expression) != 0) {
        *why = "the rule's expression has changed since";
    } else if (!captured) {
        *why = "its triggers are gone or disabled";
    }
    free(digest);
    if (*why == NULL) {
        if (!read_shape(s, f)) {
            return false;
        }
        *why = s->shape.to != s->row.to ? "the second table is gone" : NULL;
    }
    return true;
}

/* One try to create the second table, the log and the triggers: all or nothing. */
static bool try_begin(struct swap *s, unsigned lock_ms, struct failure *f)
{
    struct cutover *c = s->c;
    bool made = json_is_null(json_object_get(c->table.facts, "state_schema"));
    char *head = text_printf("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = %u; "
                             "%s; %s",
                             lock_ms, state_create_sql, swap_state_create_sql);
    char *log = swap_log_create_sql(c, &s->way);
    char *arm = swap_log_arm_sql(c, &s->way, c->relation);
    char *digest = NULL;
    char *insert = NULL;
    json_t *create = NULL;
    bool ok = head != NULL && log != NULL && arm != NULL;
    ok = (ok || fail(f, EXIT_REFUSED, "out of memory")) &&
         control_run(c->control, head, STATEMENT_TIMEOUT_MS, f);
    ok = ok && (digest = shape_digest(c, f)) != NULL &&
         (create = shadow_create(c, &s->shape, f)) != NULL &&
         shadow_run(c, create, STATEMENT_TIMEOUT_MS, f);
    if (ok) {
        insert = swap_state_insert_sql(c, s->shape.relation, digest, made);
        ok = insert != NULL || fail(f, EXIT_REFUSED, "out of memory");
    }
    /* The lock that stops writers comes last, and the COMMIT with it. */
    char *tail = ok ? text_printf("%s; %s; %s; COMMIT", insert, log, arm) : NULL;
    FAILPOINT("begin-commit");
    ok = ok && tail != NULL && control_run(c->control, tail, STATEMENT_TIMEOUT_MS, f);
    if (!ok && !control_is_lost(c->control)) {
        struct failure ignored;
        (void)!control_run(c->control, "ROLLBACK", STATEMENT_TIMEOUT_MS, &ignored);
    }
    free(head);
    free(log);
    free(arm);
    free(digest);
    free(insert);
    free(tail);
    json_decref(create);
    return ok;
}

static bool begin(struct swap *s, struct failure *f)
{
    struct cutover *c = s->c;
    context_progress(c, "begin", -1, "making the second table and capturing changes");
    context_step(c, "swap-begin", "%s", s->shape.relation);
    bool ok = false;
    for (unsigned attempt = 0; !ok && attempt < BEGIN_ATTEMPTS; attempt++) {
        unsigned lock_ms = BEGIN_LOCK_MS + attempt * 20;
        ok = try_begin(s, lock_ms < BEGIN_LOCK_MAX_MS ? lock_ms : BEGIN_LOCK_MAX_MS, f);
        bool passing = strcmp(f->sqlstate, "55P03") == 0 || strcmp(f->sqlstate, "40P01") == 0;
        if (!ok && (!passing || context_abort_requested(c))) {
            return false;
        }
        if (!ok) {
            context_progress(c, "begin", -1, "writers are in the way, trying again: %s", f->msg);
            rest_ms(RETRY_MS + attempt * 20);
        }
    }
    if (!ok) {
        return false;
    }
    swap_row_fini(&s->row);
    return swap_state_read(c, &s->row, f) && read_shape(s, f);
}

/* Finds out where to go on, or begins. */
static bool open_swap(struct swap *s, struct failure *f)
{
    struct cutover *c = s->c;
    const char *why = NULL;
    swap_row_fini(&s->row);
    if (!swap_state_lead(c, f) || !context_read_table(c, f) || !swap_state_read(c, &s->row, f)) {
        return false;
    }
    if (s->row.phase != SWAP_NONE) {
        if (!check_resumable(s, &why, f)) {
            return false;
        }
        if (why == NULL) {
            context_step(c, "swap-resume", "%s, %lld rows", swap_phase_text(s->row.phase),
                         (long long)s->row.copied);
            context_progress(c, "resume", -1,
                             "going on where an earlier run has ended: %s, %lld "
                             "rows are there",
                             swap_phase_text(s->row.phase), (long long)s->row.copied);
            return swap_state_take(c, f);
        }
        context_progress(c, "resume", -1, "an earlier run cannot be gone on with: %s", why);
        if (!swap_clean(c, f) || !context_read_table(c, f)) {
            return false;
        }
        swap_row_fini(&s->row);
    }
    return read_shape(s, f) && begin(s, f);
}

static bool finish_shadow(struct swap *s, struct failure *f)
{
    struct cutover *c = s->c;
    json_t *statements = shadow_finish(c, &s->shape, f);
    size_t i;
    const json_t *sql;
    bool ok = statements != NULL;
    json_array_foreach(statements, i, sql)
    {
        context_progress(c, "indexes", (double)i / (double)json_array_size(statements), "%s",
                         json_string_value(sql));
        json_t *one = json_pack("[O]", sql);
        ok = ok && throttle_pause(c, &s->way, "indexes", f) && shadow_run(c, one, 0, f);
        json_decref(one);
        ok = ok && swap_log_catch_up(c, c->control, &s->way, LOG_SHORT_MS, f);
    }
    json_decref(statements);
    return ok;
}

/* Copies, completes and compares: everything that can be done without stopping anybody. */
static bool fill(struct swap *s, struct failure *f)
{
    struct cutover *c = s->c;
    if (s->row.phase == SWAP_COPY) {
        if (!swap_copy(c, &s->way, &s->row, f) || !swap_state_enter(c, SWAP_FINISH, f)) {
            return false;
        }
        s->row.phase = SWAP_FINISH;
    }
    context_step(c, "swap-copied", "%lld rows", (long long)s->row.copied);
    if (!finish_shadow(s, f) || !swap_log_catch_up(c, c->control, &s->way, LOG_SHORT_MS, f)) {
        return false;
    }
    double began = monotonic_ms_exact();
    context_progress(c, "compare", -1, "comparing every row of both tables");
    if (!swap_compare(c, &s->way, &s->compared, f)) {
        return false;
    }
    report_set(c, "compared",
               json_pack("{s:I, s:f}", "rows", (json_int_t)s->compared, "ms",
                         monotonic_ms_exact() - began));
    context_step(c, "swap-compared", "%lld rows", (long long)s->compared);
    return swap_log_catch_up(c, c->control, &s->way, LOG_SHORT_MS, f) &&
           swap_await_snapshots(c, &s->way, f);
}

/* In GATE's transaction. */
static bool prepare(struct cutover *c, void *arg, struct flip_sql *out, struct failure *f)
{
    struct swap *s = arg;
    bool captured = false;
    char *trigger = NULL;
    char *digest = NULL;
    bool ok = context_read_table(c, f) && is_captured(c, s->row.from, &captured, f) &&
              (trigger = preflight_trigger_digest(c, f)) != NULL &&
              (digest = shape_digest(c, f)) != NULL;
    if (ok && (c->table.oid != s->row.from || strcmp(trigger, s->trigger) != 0 ||
               strcmp(digest, s->row.digest) != 0 || !captured)) {
        ok = fail(f, EXIT_REFUSED, "the table has changed since the second one was made");
        snprintf(f->sqlstate, sizeof f->sqlstate, FLIP_CHANGED);
    }
    free(trigger);
    free(digest);
    ok = ok && read_shape(s, f);
    if (ok && json_array_size(s->shape.refusals) > 0) {
        ok = fail(f, EXIT_REFUSED, "something has come that cannot be carried over");
        snprintf(f->sqlstate, sizeof f->sqlstate, FLIP_CHANGED);
    }
    return ok && swap_flip_compose(c, &s->flip, &s->shape, &s->way, NULL, out, f);
}

static bool await_go(struct cutover *c, void *arg, struct failure *f)
{
    struct swap *s = arg;
    return throttle_pause(c, &s->way, "gate", f);
}

static bool approach(struct cutover *c, void *arg, bool holding, struct failure *f)
{
    struct swap *s = arg;
    return swap_flip_approach(c, &s->flip, &s->way, holding, f);
}

/* What passes when the server is back. */
static bool is_outage(const struct cutover *c, const struct failure *f)
{
    static const char *const passing[] = {"08006", "08001", "57P01", "57P02", "57P03",
                                          "53300", "40P01", "55P03", NULL};
    for (const char *const *p = passing; *p != NULL; p++) {
        if (strcmp(f->sqlstate, *p) == 0) {
            return true;
        }
    }
    return c->control == NULL || control_is_lost(c->control);
}

static bool come_back(struct cutover *c, struct failure *f)
{
    double until = monotonic_ms_exact() + OUTAGE_MS;
    while (monotonic_ms_exact() < until && !context_abort_requested(c)) {
        struct failure why;
        context_progress(c, "outage", -1, "trying to go on: %s", f->msg);
        if (swap_state_reconnect(c, true, &why)) {
            return true;
        }
        rest_ms(RETRY_MS);
    }
    return false;
}

static bool fill_in_spite_of_outages(struct swap *s, struct failure *f)
{
    while (!open_swap(s, f) || !fill(s, f)) {
        if (context_abort_requested(s->c) || !is_outage(s->c, f)) {
            s->keep = strcmp(f->sqlstate, SWAP_TAKEN) == 0;
            return false;
        }
        if (!come_back(s->c, f)) {
            s->keep = !context_abort_requested(s->c);
            return false;
        }
    }
    return true;
}

static enum exit_code give_up(struct swap *s, const struct failure *why, json_t **report)
{
    struct cutover *c = s->c;
    struct failure f = {.code = EXIT_REFUSED};
    const char *reason = context_abort_requested(c) ? "aborted" : why->msg;
    if (s->keep) {
        return context_finish(c, EXIT_REFUSED, report,
                              "%s; applications go on as before; what was copied is kept: run "
                              "cutover again to go on, or rollback to clean up",
                              reason);
    }
    context_progress(c, "clean", -1, "taking away what the swap has made");
    if (!swap_clean(c, &f)) {
        return context_finish(c, EXIT_REFUSED, report,
                              "%s; applications go on as before; cleaning up failed (%s): run "
                              "rollback to clean up",
                              reason, f.msg);
    }
    context_step(c, "swap-cleaned", "%s", reason);
    return context_finish(c, EXIT_REFUSED, report, "%s; nothing changed", reason);
}

/* `began` is when the machine did. */
static enum exit_code conclude(struct swap *s, double began, json_t **report)
{
    struct cutover *c = s->c;
    latency_report(c, began);
    swap_flip_after(c, &s->flip, s->way.from);
    const json_t *lock = json_object_get(json_object_get(c->report, "hold"), "lock_ms");
    report_set(c, "proof",
               json_pack("s", "every row of the two tables was compared, what changed since was "
                              "read again under the lock, and the catalog was compared before and "
                              "after in the flip's transaction"));
    report_set(c, "kept", report_string(s->shape.aside));
    return context_finish(c, EXIT_DONE, report,
                          "%s is now GENERATED ALWAYS AS (%s) STORED; %lld rows compared, "
                          "exclusive lock %.1f ms; the "
                          "old table is kept as %s until %spgsluice finish",
                          c->rule->column, c->rule->expression, (long long)s->compared,
                          json_number_value(lock), s->shape.aside,
                          c->options.bake_ms > 0 ? "its bake time is over, or " : "");
}

enum exit_code swap_forward(struct cutover *c, json_t **report)
{
    struct failure f = {.code = EXIT_REFUSED, .msg = "out of memory"};
    struct swap s = {.c = c};
    enum exit_code code = EXIT_REFUSED;
    report_set(c, "strategy", json_string("swap"));
    s.trigger = preflight_trigger_digest(c, &f);
    if (s.trigger == NULL) {
        return context_finish(c, f.code, report, "%s; nothing changed", f.msg);
    }
    if (!fill_in_spite_of_outages(&s, &f)) {
        code = give_up(&s, &f, report);
    } else {
        struct flip how = {.generated = true,
                           .moves = swap_flip_moves(c),
                           .await_go = await_go,
                           .prepare = prepare,
                           .approach = approach,
                           .arg = &s};
        double began = monotonic_ms_exact();
        f.sqlstate[0] = '\0';
        code = machine_run(c, &how, &f);
        if (code == EXIT_DONE) {
            code = conclude(&s, began, report);
        } else if (code == EXIT_UNKNOWN) {
            code = context_finish(c, code, report,
                                  "%s; run pgsluice verify when the server is back", f.msg);
        } else {
            s.keep = strcmp(f.sqlstate, SWAP_TAKEN) == 0 ||
                     (!context_abort_requested(c) && f.sqlstate[0] == '\0');
            code = give_up(&s, &f, report);
        }
    }
    swap_flip_fini(&s.flip);
    forget_shape(&s);
    swap_row_fini(&s.row);
    free(s.trigger);
    return code;
}

/* A second table that an earlier run has left is gone on with, or made anew: what is wrong with it
 * stands in nobody's way. */
static void forgive_own_table(struct shadow *shape)
{
    for (size_t i = json_array_size(shape->refusals); i-- > 0;) {
        const char *what =
            json_string_value(json_object_get(json_array_get(shape->refusals, i), "what"));
        if (what != NULL && strcmp(what, shape->relation_name) == 0) {
            (void)json_array_remove(shape->refusals, i);
        }
    }
}

bool swap_preflight(struct cutover *c, struct failure *f)
{
    struct swap_row row;
    struct shadow shape;
    if (!swap_state_read(c, &row, f)) {
        return false;
    }
    if (!shadow_plan(c, SHADOW_FORWARD, &shape, f)) {
        swap_row_fini(&row);
        return false;
    }
    if (row.phase != SWAP_NONE && row.to == shape.to) {
        forgive_own_table(&shape);
    }
    shadow_report(c, &shape);
    shadow_fini(&shape);
    if (row.phase != SWAP_NONE) {
        report_check(c, "swap", CHECK_WARN, "go on with it by cutover, or clean up by rollback",
                     "an earlier run has not ended: %s, %lld rows", swap_phase_text(row.phase),
                     (long long)row.copied);
    }
    swap_row_fini(&row);
    if (strcmp(json_string_value(json_object_get(c->table.facts, "kind")), "p") == 0) {
        report_check(c, "partition-detach", CHECK_WARN,
                     "leave the partitions as they are until pgsluice finish",
                     "a partition that is detached or attached meanwhile stops the cutover, or "
                     "after the flip the rollback; TRUNCATE of one is followed");
    }
    return true;
}

/* The statements in their order; of what is refused there are none. */
static bool add_statements(struct swap *s, json_t *lines, struct failure *f)
{
    struct cutover *c = s->c;
    if (!swap_way_init(c, &s->shape, true, c->table.oid, s->shape.relation, &s->way, f)) {
        return false;
    }
    char *log = swap_log_create_sql(c, &s->way);
    char *arm = swap_log_arm_sql(c, &s->way, c->relation);
    json_t *outline = shadow_outline(c, &s->shape, f);
    if (log != NULL && arm != NULL) {
        (void)json_array_append_new(lines, report_string(log));
        (void)json_array_append_new(lines, report_string(arm));
    }
    bool ok = outline != NULL && json_array_extend(lines, outline) == 0;
    free(log);
    free(arm);
    json_decref(outline);
    return ok;
}

bool swap_plan(struct cutover *c, struct failure *f)
{
    struct swap s = {.c = c};
    json_t *lines = json_array();
    bool ok = shadow_plan(c, SHADOW_FORWARD, &s.shape, f) &&
              (json_array_size(s.shape.refusals) > 0 || add_statements(&s, lines, f));
    report_set(c, "sql", lines);
    report_set(c, "locks",
               json_pack("[s, s, s]",
                         "SHARE ROW EXCLUSIVE for a moment, when the changes begin to be captured",
                         "SHARE UPDATE EXCLUSIVE from the first attempt of the flip on",
                         "ACCESS EXCLUSIVE for the flip"));
    report_set(c, "strategy", json_string("swap"));
    forget_shape(&s);
    return ok;
}
