/* The machine; see machine.h. Runs in the thread that the command runs in. */
#include "proxy/cutover/machine.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proxy/cutover/doubt.h"
#include "proxy/cutover/failpoint.h"
#include "proxy/cutover/state.h"
#include "proxy/cutover/throttle.h"
#include "proxy/gate.h"
#include "proxy/log.h"

enum {
    ATTEMPTS_MAX = 60,
    PATIENT_ATTEMPTS = 40, /* so long ARM does not even try while a long transaction is open */
    GATE_LOCK_MS = 3000,   /* an autovacuum gives way after deadlock_timeout */
    DRAIN_MS = 200,
    DRAIN_POLL_US = 200,
    SETTLE_MS = 150,       /* the server's, after the release */
    RELEASE_MS = 250,      /* the held statements are counted when they are on their way */
    COMMIT_SLACK_MS = 300, /* of the hold, for the commit */
    READING_MS = 1000,     /* and for reading the catalog, where statements depend on it */
    BACKOFF_MIN_MS = 100,
    BACKOFF_MAX_MS = 3000,
    ROLLBACK_MS = 5000,
    FLIP_GRACE_MS = 3000,
    NS_PER_MS = 1000000,
};

/* How long one attempt waits for the lock; readers that arrive meanwhile wait as long. */
static const unsigned lock_ladder_ms[] = {75, 100, 150, 200, 300};

enum machine_state {
    MACHINE_GATE,
    MACHINE_ARM,
    MACHINE_HOLD,
    MACHINE_FLIP,
    MACHINE_IN_DOUBT,
    MACHINE_BACKOFF,
    MACHINE_RELEASE,
    MACHINE_DONE,
    MACHINE_FAILED,  /* nothing changed */
    MACHINE_UNKNOWN, /* an operator must look */
    MACHINE_STATES,
};

static const char *const state_names[MACHINE_STATES] = {
    [MACHINE_GATE] = "gate",       [MACHINE_ARM] = "arm",           [MACHINE_HOLD] = "hold",
    [MACHINE_FLIP] = "flip",       [MACHINE_IN_DOUBT] = "in-doubt", [MACHINE_BACKOFF] = "backoff",
    [MACHINE_RELEASE] = "release", [MACHINE_DONE] = "done",         [MACHINE_FAILED] = "failed",
    [MACHINE_UNKNOWN] = "unknown",
};

#define TO(state) (1u << (state))
static const unsigned legal[MACHINE_STATES] = {
    [MACHINE_GATE] = TO(MACHINE_ARM) | TO(MACHINE_BACKOFF) | TO(MACHINE_FAILED),
    [MACHINE_ARM] = TO(MACHINE_HOLD) | TO(MACHINE_BACKOFF) | TO(MACHINE_FAILED),
    [MACHINE_HOLD] = TO(MACHINE_FLIP) | TO(MACHINE_BACKOFF) | TO(MACHINE_FAILED),
    [MACHINE_FLIP] =
        TO(MACHINE_RELEASE) | TO(MACHINE_IN_DOUBT) | TO(MACHINE_BACKOFF) | TO(MACHINE_FAILED),
    [MACHINE_IN_DOUBT] = TO(MACHINE_RELEASE) | TO(MACHINE_BACKOFF) | TO(MACHINE_UNKNOWN),
    [MACHINE_BACKOFF] = TO(MACHINE_GATE) | TO(MACHINE_FAILED),
    [MACHINE_RELEASE] = TO(MACHINE_DONE),
};

struct machine {
    struct cutover *c;
    const struct flip *flip;
    enum machine_state state;
    struct control *watch; /* a second connection, to see who stands in the way; may be NULL */
    bool in_transaction;
    struct flip_sql sql;
    struct flip_mark mark; /* by which the outcome can be found out */
    unsigned attempt;      /* from 0 */
    double began;
    double hold_began; /* 0: not holding */
    double gate_ms;
    double lock_ms;
    bool move_told;     /* the host was */
    bool move_expected; /* and is ready */
    struct gate_counts counts;
    struct gate_counts before; /* at the start */
    json_t *timeline;
    char why[512]; /* of the last BACKOFF */
    struct failure *f;
};

static struct gate *gate_of(const struct machine *m)
{
    return m->c->host != NULL ? m->c->host->gate : NULL;
}

static void open_gate(struct machine *m)
{
    struct gate *gate = gate_of(m);
    if (gate != NULL && gate_state(gate) != GATE_OPEN) {
        gate_open(gate);
    }
    if (m->hold_began > 0) {
        m->gate_ms = monotonic_ms_exact() - m->hold_began;
        m->hold_began = 0;
    }
}

/* The only place where the state changes. */
static void enter(struct machine *m, enum machine_state next, const char *detail)
{
    if ((legal[m->state] & TO(next)) == 0) {
        log_error("cutover: %s must not follow %s", state_names[next], state_names[m->state]);
    }
    m->state = next;
    double at = monotonic_ms_exact() - m->began;
    (void)json_array_append_new(m->timeline,
                                json_pack("{s:f, s:s, s:o}", "ms", at, "state", state_names[next],
                                          "detail", report_string(detail)));
    context_progress(m->c, state_names[next], -1, "%s", detail);
    context_step(m->c, state_names[next], "%s", detail);
}

static void rest_us(unsigned us)
{
    nanosleep(&(struct timespec){.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000},
              NULL);
}

static unsigned lock_timeout_ms(const struct machine *m)
{
    size_t last = sizeof lock_ladder_ms / sizeof *lock_ladder_ms - 1;
    unsigned ms = lock_ladder_ms[m->attempt < last ? m->attempt : last];
    /* Above half of deadlock_timeout the application could become a deadlock's victim. */
    unsigned bound = m->c->table.deadlock_timeout_ms / 2;
    return bound > 0 && ms > bound ? bound : ms;
}

/* What the gate holds for at most: everything up to the release, within the configured limit. */
static uint64_t hold_ttl_ms(const struct machine *m)
{
    uint64_t ms = DRAIN_MS + lock_timeout_ms(m) + m->c->options.max_hold_ms + COMMIT_SLACK_MS;
    ms += m->c->rule->mode == RULE_MODE_COMPUTE ? READING_MS : 0;
    uint64_t limit = m->c->config->hold_ttl_ms;
    return limit != 0 && ms > limit ? limit : ms;
}

/* An abort must not cancel the statements that clean up after it. */
static void hush_abort(struct machine *m)
{
    if (context_abort_requested(m->c)) {
        control_ignore_abort(m->c->control);
    }
}

/* Ends the transaction, or the connection when even that fails. */
static void leave_transaction(struct machine *m)
{
    struct failure ignored;
    if (m->in_transaction && !control_is_lost(m->c->control)) {
        hush_abort(m);
        (void)!control_run(m->c->control, "ROLLBACK", ROLLBACK_MS, &ignored);
    }
    m->in_transaction = false;
    flip_sql_fini(&m->sql);
}

static enum machine_state back_off(struct machine *m, const char *why)
{
    snprintf(m->why, sizeof m->why, "%s", why);
    return MACHINE_BACKOFF;
}

/* For what can be tried again by another run. */
static enum machine_state give_up(struct machine *m, const char *why)
{
    fail(m->f, EXIT_REFUSED, "%s", context_abort_requested(m->c) ? "aborted" : why);
    return MACHINE_FAILED;
}

/* For what another run would find as well: the failure keeps its code. */
static enum machine_state give_up_on(struct machine *m, const struct failure *f)
{
    enum machine_state next = give_up(m, f->msg);
    memcpy(m->f->sqlstate, f->sqlstate, sizeof m->f->sqlstate);
    return next;
}

static bool is_one_of(const char *sqlstate, const char *const *list)
{
    for (; *list != NULL; list++) {
        if (strcmp(sqlstate, *list) == 0) {
            return true;
        }
    }
    return false;
}

/* Failures that pass: locks, deadlocks, lost or refused connections, a server that starts. */
static bool may_pass(const struct machine *m, const struct failure *f)
{
    static const char *const passing[] = {"55P03", "40P01",        "40001", "08006",
                                          "08001", "57P01",        "57P02", "57P03",
                                          "53300", FLIP_SNAPSHOTS, NULL};
    return control_is_lost(m->c->control) || is_one_of(f->sqlstate, passing);
}

static bool reconnect(struct machine *m, struct failure *f)
{
    struct cutover *c = m->c;
    if (!control_is_lost(c->control)) {
        return true;
    }
    struct control *fresh = NULL;
    if (!context_connect_again(c, true, &fresh, f)) {
        return false;
    }
    control_close(c->control);
    c->control = fresh;
    return true;
}

/* What is reported as done must outlast a crash, also where synchronous_commit is off; any stronger
 * setting stays. */
static const char durable_sql[] =
    "DO $pgsluice$ BEGIN IF current_setting('synchronous_commit') = 'off' THEN "
    "PERFORM set_config('synchronous_commit', 'local', true); END IF; END $pgsluice$; ";

static bool begin(struct machine *m, struct failure *f)
{
    struct cutover *c = m->c;
    char *sql = text_printf("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; %s"
                            "SET LOCAL lock_timeout = %d; "
                            "LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE; %s",
                            durable_sql, GATE_LOCK_MS, c->relation, state_create_sql);
    if (sql == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    /* What was opened beside the last transaction may be lost with it, without a word. */
    control_close(m->watch);
    m->watch = NULL;
    m->in_transaction = true;
    bool ok = control_run(c->control, sql, STATEMENT_TIMEOUT_MS, f) &&
              doubt_mark(c->control, &m->mark, f);
    free(sql);
    return ok && m->flip->prepare(c, m->flip->arg, &m->sql, f);
}

static bool await_go(struct machine *m, struct failure *f)
{
    return m->flip->await_go != NULL ? m->flip->await_go(m->c, m->flip->arg, f)
                                     : throttle_pause(m->c, NULL, "gate", f);
}

static enum machine_state do_gate(struct machine *m)
{
    struct failure f = {.code = EXIT_DONE};
    if (context_is_paused(m->c)) {
        leave_transaction(m);
    }
    if (m->in_transaction && !control_is_lost(m->c->control)) {
        return MACHINE_ARM;
    }
    m->in_transaction = false;
    flip_sql_fini(&m->sql);
    if (reconnect(m, &f) && await_go(m, &f) && begin(m, &f)) {
        return MACHINE_ARM;
    }
    /* Somebody else may be creating the schema: a duplicate. */
    bool passes = may_pass(m, &f) || strcmp(f.sqlstate, "23505") == 0;
    leave_transaction(m);
    return passes && !context_abort_requested(m->c) ? back_off(m, f.msg) : give_up_on(m, &f);
}

/* Who has the table, for a person; "" when nobody, or when it cannot be seen. $3 in seconds. */
static void name_holders(struct machine *m, int older_than, char *out, size_t size)
{
    static const char sql[] =
        "SELECT coalesce(string_agg(DISTINCT CASE WHEN l.pid IS NULL THEN 'a prepared transaction' "
        "ELSE format('pid %s (%s%s, %s, for %s s)', l.pid, a.usename, ' ' || "
        "nullif(a.application_name, ''), a.state, "
        "round(extract(epoch FROM clock_timestamp() - a.xact_start))) END, ', '), '') "
        "FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid "
        "WHERE l.locktype = 'relation' AND l.relation = $1::oid AND l.granted "
        "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        "AND l.pid IS DISTINCT FROM $2::int AND (l.pid IS NULL OR $3::int = 0 "
        "OR a.xact_start < clock_timestamp() - make_interval(secs => $3::int))";
    struct failure ignored;
    char relation[16];
    char pid[16];
    char age[16];
    out[0] = '\0';
    if (m->watch != NULL && control_is_lost(m->watch)) {
        control_close(m->watch);
        m->watch = NULL;
    }
    if (m->watch == NULL && !context_connect_again(m->c, true, &m->watch, &ignored)) {
        return;
    }
    snprintf(relation, sizeof relation, "%u", m->c->table.oid);
    snprintf(pid, sizeof pid, "%d", control_backend_pid(m->c->control));
    snprintf(age, sizeof age, "%d", older_than);
    PGresult *r = control_query(m->watch, sql, 3, (const char *const[]){relation, pid, age},
                                STATEMENT_TIMEOUT_MS, &ignored);
    if (r != NULL) {
        snprintf(out, size, "%s", PQgetvalue(r, 0, 0));
        PQclear(r);
    }
}

/* Before the first hold: the reading takes longer than the hold may. */
static bool expect_move(struct machine *m, struct failure *f)
{
    const struct cutover_host *host = m->c->host;
    if (!m->flip->moves || m->move_expected || host == NULL || host->expect_move == NULL) {
        return true;
    }
    m->move_told = true;
    m->move_expected = host->expect_move(host->arg, true, f);
    return m->move_expected;
}

static bool approach(struct machine *m, bool holding, struct failure *f)
{
    return m->flip->approach == NULL || m->flip->approach(m->c, m->flip->arg, holding, f);
}

static enum machine_state do_arm(struct machine *m)
{
    struct failure f = {.code = EXIT_DONE};
    if (gate_of(m) != NULL) {
        gate_arm(gate_of(m));
        gate_count(gate_of(m), &m->counts);
    }
    if (m->counts.unstripped > 0) {
        char why[sizeof m->why];
        snprintf(
            why, sizeof why,
            "%llu sessions hold prepared statements that would fail after the flip: made while "
            "the rule observed, or under mode compute by SQL's PREPARE or longer than 32 KB: "
            "let these sessions reconnect",
            (unsigned long long)m->counts.unstripped);
        return give_up(m, why);
    }
    bool expected = expect_move(m, &f);
    if (!expected || !approach(m, false, &f)) {
        if (may_pass(m, &f) && !context_abort_requested(m->c)) {
            return back_off(m, f.msg);
        }
        return expected ? give_up_on(m, &f) : give_up(m, f.msg);
    }
    char holders[400];
    name_holders(m, 1, holders, sizeof holders);
    if (holders[0] != '\0' && m->attempt < PATIENT_ATTEMPTS) {
        char why[sizeof m->why];
        snprintf(why, sizeof why, "the table is in use by %s", holders);
        return back_off(m, why);
    }
    return context_is_paused(m->c) ? back_off(m, "paused") : MACHINE_HOLD;
}

/* What is left of the hold is for the flip: a failure here costs an attempt. */
static enum machine_state close_in(struct machine *m)
{
    struct failure f = {.code = EXIT_DONE};
    return approach(m, true, &f) ? MACHINE_FLIP : back_off(m, f.msg);
}

static enum machine_state do_hold(struct machine *m)
{
    struct gate *gate = gate_of(m);
    m->hold_began = monotonic_ms_exact();
    if (gate == NULL) {
        return close_in(m);
    }
    /* One of them may have what a write in flight waits for, and with it the lock: after many
     * attempts they pass, for a statement that fails is better than a flip that never is. */
    gate_hold_transactions(gate, m->attempt < PATIENT_ATTEMPTS);
    gate_hold(gate, hold_ttl_ms(m) * NS_PER_MS);
    double until = m->hold_began + DRAIN_MS;
    for (;;) {
        gate_count(gate, &m->counts);
        if (m->counts.inflight_writes == 0 && m->counts.snapshots == 0) {
            return close_in(m);
        }
        if (monotonic_ms_exact() >= until || context_abort_requested(m->c)) {
            break;
        }
        rest_us(DRAIN_POLL_US);
    }
    if (m->counts.snapshots > 0) {
        char why[160];
        snprintf(why, sizeof why,
                 "%llu transactions with a snapshot of their own (REPEATABLE READ or SERIALIZABLE) "
                 "are open",
                 (unsigned long long)m->counts.snapshots);
        return back_off(m, why);
    }
    /* Writes that are still open have the lock: the lock timeout decides. */
    return close_in(m);
}

/* What the results of the message tell. */
struct outcome {
    bool committed;
    double locked_at;
    double done_at;
};

static void on_result(void *arg, const PGresult *result)
{
    struct outcome *o = arg;
    if (PQresultStatus(result) == PGRES_TUPLES_OK && PQntuples(result) == 1) {
        double at = strtod(PQgetvalue(result, 0, 0), NULL);
        if (o->committed) {
            o->done_at = at;
        } else {
            o->locked_at = at;
            FAILPOINT("flip-sent");
        }
    } else if (strncmp(PQcmdStatus((PGresult *)(uintptr_t)result), "COMMIT", 6) == 0) {
        o->committed = true;
    }
}

static enum machine_state judge_failure(struct machine *m, const struct failure *f, bool locked)
{
    char why[sizeof m->why];
    if (context_abort_requested(m->c)) {
        return give_up(m, "aborted");
    }
    if (strcmp(f->sqlstate, "57014") == 0) {
        snprintf(why, sizeof why,
                 locked ? "the flip took longer than --max-hold (%llu ms) and was cancelled"
                        : "cancelled while waiting for the lock (%llu ms of hold allowed)",
                 (unsigned long long)m->c->options.max_hold_ms);
        return give_up(m, why);
    }
    if (strcmp(f->sqlstate, "23514") == 0 && strstr(f->msg, FLIP_PROOF) != NULL) {
        return give_up(m, "a row's value is not the expression's: it would have changed");
    }
    if (!may_pass(m, f)) {
        return give_up_on(m, f);
    }
    char holders[360];
    name_holders(m, 0, holders, sizeof holders);
    if (holders[0] != '\0') {
        snprintf(why, sizeof why, "%.120s; in use by %s", f->msg, holders);
        return back_off(m, why);
    }
    return back_off(m, f->msg);
}

static enum machine_state do_flip(struct machine *m)
{
    struct cutover *c = m->c;
    struct failure f = {.code = EXIT_DONE};
    struct outcome o = {.committed = false};
    if (context_abort_requested(c)) {
        return give_up(m, "aborted");
    }
    /* A thread that stood still: transactions have passed since whose snapshots are too old, and
     * under the lock those that wait for it cannot be told from others. */
    if (gate_of(m) != NULL && !gate_is_holding(gate_of(m), gate_now())) {
        return back_off(m, "the hold was over before the flip began");
    }
    uint64_t hold = c->options.max_hold_ms;
    char *message = compose_message(&m->sql, lock_timeout_ms(m), hold);
    if (message == NULL) {
        return give_up(m, "out of memory");
    }
    uint64_t limit = hold + 10 * (uint64_t)lock_timeout_ms(m) + FLIP_GRACE_MS;
    bool ok = control_batch(c->control, message, (unsigned)limit, on_result, &o, &f);
    free(message);
    if (o.committed) {
        /* What fails after the COMMIT is only the reading of the clock. */
        m->in_transaction = false;
        m->lock_ms = ok ? o.done_at - o.locked_at : -1;
        return MACHINE_RELEASE;
    }
    if (control_is_lost(c->control)) {
        m->in_transaction = false;
        snprintf(m->why, sizeof m->why, "the connection was lost during the flip: %.400s", f.msg);
        return MACHINE_IN_DOUBT;
    }
    struct failure rolled = {.code = EXIT_DONE};
    hush_abort(m);
    if (!control_run(c->control, "ROLLBACK TO SAVEPOINT pgsluice_flip", ROLLBACK_MS, &rolled)) {
        leave_transaction(m);
    }
    open_gate(m);
    return judge_failure(m, &f, o.locked_at > 0);
}

static enum machine_state do_in_doubt(struct machine *m)
{
    struct failure f = {.code = EXIT_DONE};
    switch (doubt_resolve(m->c, &m->mark, m->flip->generated, &f)) {
    case DOUBT_COMMITTED:
        m->lock_ms = -1;
        return MACHINE_RELEASE;
    case DOUBT_ABORTED:
        flip_sql_fini(&m->sql);
        return MACHINE_BACKOFF;
    case DOUBT_UNKNOWN:
        break;
    }
    fail(m->f, EXIT_UNKNOWN, "the outcome of the flip is not known: %.380s", f.msg);
    return MACHINE_UNKNOWN;
}

static enum machine_state do_backoff(struct machine *m)
{
    open_gate(m);
    m->attempt++;
    if (m->attempt >= ATTEMPTS_MAX) {
        char why[sizeof m->f->msg];
        snprintf(why, sizeof why, "gave up after %d attempts; the last: %.400s", ATTEMPTS_MAX,
                 m->why);
        return give_up(m, why);
    }
    unsigned span = BACKOFF_MIN_MS << (m->attempt < 6 ? m->attempt : 6);
    span = span < BACKOFF_MAX_MS ? span : BACKOFF_MAX_MS;
    /* Full jitter above the minimum; the clock's low digits are chance enough. */
    unsigned chance = (unsigned)((uint64_t)(monotonic_ms_exact() * 1e3) % 1000);
    double until = monotonic_ms_exact() + BACKOFF_MIN_MS +
                   (double)(span - BACKOFF_MIN_MS) * (double)chance / 1000;
    while (monotonic_ms_exact() < until) {
        if (context_abort_requested(m->c)) {
            return give_up(m, "aborted");
        }
        rest_ms(20);
    }
    return MACHINE_GATE;
}

/* However the cutover ended, the catalog says by now what is in place. */
static void end_move(struct machine *m)
{
    struct failure f = {.code = EXIT_DONE};
    if (m->move_told && !m->c->host->expect_move(m->c->host->arg, false, &f)) {
        report_check(m->c, "catalog", CHECK_WARN, "nothing: the proxy goes on trying",
                     "the proxy could not read the catalog: %s", f.msg);
    }
}

static enum machine_state do_release(struct machine *m)
{
    const struct cutover_host *host = m->c->host;
    struct failure f = {.code = EXIT_DONE};
    /* What the sessions send is right for both shapes since expect_move(); only a key that mode
     * compute has put in is not, and such statements wait until they are judged by the new shape.
     * The others need the server's processors now, each of them for new plans, and the reading of
     * the catalog, which would take its share of them, can wait. */
    if (m->c->rule->mode != RULE_MODE_COMPUTE) {
        open_gate(m);
        rest_ms(gate_of(m) != NULL ? SETTLE_MS : 0);
    }
    if (host != NULL && host->schema_changed != NULL && !host->schema_changed(host->arg, &f)) {
        report_check(m->c, "catalog", CHECK_WARN, "restart the proxy if this does not pass",
                     "the flip is done, but the proxy could not read the catalog: %s", f.msg);
    }
    open_gate(m);
    return MACHINE_DONE;
}

static enum machine_state step(struct machine *m)
{
    switch (m->state) {
    case MACHINE_GATE:
        return do_gate(m);
    case MACHINE_ARM:
        return do_arm(m);
    case MACHINE_HOLD:
        return do_hold(m);
    case MACHINE_FLIP:
        return do_flip(m);
    case MACHINE_IN_DOUBT:
        return do_in_doubt(m);
    case MACHINE_BACKOFF:
        return do_backoff(m);
    case MACHINE_RELEASE:
        return do_release(m);
    case MACHINE_DONE:
    case MACHINE_FAILED:
    case MACHINE_UNKNOWN:
    case MACHINE_STATES:
        break;
    }
    return m->state;
}

static void describe(const struct machine *m, enum machine_state next, char *out, size_t size)
{
    switch (next) {
    case MACHINE_GATE:
        snprintf(out, size, "keeping DDL and VACUUM away from the table");
        break;
    case MACHINE_ARM:
        snprintf(out, size, "attempt %u: counting what is in flight", m->attempt + 1);
        break;
    case MACHINE_HOLD:
        snprintf(out, size, "holding new writes, for at most %llu ms",
                 (unsigned long long)hold_ttl_ms(m));
        break;
    case MACHINE_FLIP:
        snprintf(out, size, "taking the lock, for at most %u ms, and flipping", lock_timeout_ms(m));
        break;
    case MACHINE_IN_DOUBT:
    case MACHINE_BACKOFF:
        snprintf(out, size, "%s", m->why);
        break;
    case MACHINE_RELEASE:
        snprintf(out, size, "committed");
        break;
    case MACHINE_DONE:
        snprintf(out, size, "the gate is open after %.1f ms", m->gate_ms);
        break;
    case MACHINE_FAILED:
    case MACHINE_UNKNOWN:
    case MACHINE_STATES:
        snprintf(out, size, "%s", m->f->msg);
        break;
    }
}

static void report(struct machine *m)
{
    struct cutover *c = m->c;
    struct gate *gate = gate_of(m);
    double until = monotonic_ms_exact() + RELEASE_MS;
    if (gate != NULL) {
        gate_count(gate, &m->counts);
    }
    while (gate != NULL && m->counts.held > 0 && monotonic_ms_exact() < until) {
        rest_us(DRAIN_POLL_US);
        gate_count(gate, &m->counts);
    }
    report_set(c, "attempts", json_integer(m->attempt + 1));
    report_set(c, "timeline", json_incref(m->timeline));
    json_t *hold =
        json_pack("{s:f, s:I, s:I, s:I, s:f}", "gate_ms", m->gate_ms, "held_statements",
                  (json_int_t)(m->counts.held_total - m->before.held_total), "expired",
                  (json_int_t)(m->counts.expired_total - m->before.expired_total), "dropped",
                  (json_int_t)(m->counts.dropped_total - m->before.dropped_total), "max_held_ms",
                  (double)m->counts.max_held_ns / NS_PER_MS);
    if (hold != NULL && m->state == MACHINE_DONE && m->lock_ms >= 0) {
        (void)json_object_set_new(hold, "lock_ms", json_real(m->lock_ms));
    }
    report_set(c, "hold", hold);
}

enum exit_code machine_run(struct cutover *c, const struct flip *flip, struct failure *f)
{
    struct machine m = {
        .c = c, .flip = flip, .state = MACHINE_BACKOFF, .f = f, .timeline = json_array()};
    char text[sizeof f->msg];
    m.began = monotonic_ms_exact();
    if (gate_of(&m) != NULL) {
        gate_forget_longest(gate_of(&m));
        gate_count(gate_of(&m), &m.before);
    }
    enum machine_state next = MACHINE_GATE;
    do {
        describe(&m, next, text, sizeof text);
        enter(&m, next, text);
        next = step(&m);
    } while (next != m.state);
    leave_transaction(&m);
    open_gate(&m);
    end_move(&m);
    report(&m);
    control_close(m.watch);
    json_decref(m.timeline);
    return m.state == MACHINE_DONE ? EXIT_DONE
                                   : (m.state == MACHINE_UNKNOWN ? EXIT_UNKNOWN : EXIT_REFUSED);
}
