/*
 * A session at the gate: what may go on, what waits, and how the wait ends. Statements at a
 * transaction boundary wait: one inside a transaction may hold the very lock that the cutover waits
 * for. Under mode compute a statement is another one after the flip; there the first one of a
 * transaction that concerns the table waits too. See gate.h.
 */
#include "proxy/session/session.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/frame.h"
#include "protocol/message.h"
#include "proxy/service.h"
#include "proxy/session/large.h"
#include <utlist.h>

/* Held sessions are looked at this often, whether or not the gate woke the worker, */
#define RELEASE_EVERY_MS 1
/* and this many at a time are let go, so that the server does not meet a herd. */
#define RELEASE_AT_ONCE 64

#define EACH_BIT(i, mask)                                                                          \
    for (uint64_t rest_ = (mask), i = 0;                                                           \
         rest_ != 0 && ((i = (uint64_t)__builtin_ctzll(rest_)), 1); rest_ &= rest_ - 1)

static struct gate *gate_of(const struct session *s, uint64_t rule)
{
    return session_service(s)->gates[rule];
}

/* Of the rules in `mask`, those whose gate holds now. */
static uint64_t holding(const struct session *s, uint64_t mask)
{
    uint64_t found = 0;
    EACH_BIT(rule, mask)
    {
        struct gate *gate = gate_of(s, rule);
        if (gate_state(gate) == GATE_HOLDING && gate_is_holding(gate, gate_now())) {
            found |= (uint64_t)1 << rule;
        }
    }
    return found;
}

static void count(const struct session *s, uint64_t mask, enum gate_counter counter, int64_t by)
{
    EACH_BIT(rule, mask)
    {
        gate_add(gate_of(s, rule), s->worker->index, counter, by);
    }
}

/* Every rule of the session's database: what a transaction with an old snapshot might read. */
static uint64_t all_rules(const struct session *s)
{
    uint64_t mask = 0;
    for (size_t i = 0; s->rules != NULL && i < s->rules->rule_count; i++) {
        mask |= (uint64_t)1 << s->rules->rule_index[i];
    }
    return mask;
}

/* A place at each of the gates; false when one has none left: who waits there waits at PostgreSQL's
 * lock. */
static bool take_places(const struct session *s, uint64_t mask)
{
    const uint32_t most = service_config(session_service(s))->max_held_clients;
    uint64_t taken = 0;
    EACH_BIT(rule, mask)
    {
        if (gate_try_enter(gate_of(s, rule), most)) {
            taken |= (uint64_t)1 << rule;
        } else {
            gate_add(gate_of(s, rule), s->worker->index, GATE_COUNT_OVERFLOW_TOTAL, 1);
        }
    }
    if (taken == mask) {
        return true;
    }
    EACH_BIT(rule, taken)
    {
        gate_leave(gate_of(s, rule));
    }
    return false;
}

static void on_release(uv_timer_t *timer)
{
    hold_release(timer->data);
}

static void hold_begin(struct session *s, uint64_t mask)
{
    struct worker *worker = s->worker;
    s->wait = SESSION_WAIT_GATE;
    s->held_for = mask;
    s->since_ns = gate_now();
    s->asking.is_known = false;
    DL_APPEND2(worker->held, s, held_prev, held_next);
    count(s, mask, GATE_COUNT_HELD, 1);
    count(s, mask, GATE_COUNT_HELD_TOTAL, 1);
    if (s->cancel_key != NULL) {
        registry_set_held(session_service(s)->registry, s->cancel_key, true);
    }
    if (!uv_is_active((uv_handle_t *)&worker->release)) {
        uv_timer_start(&worker->release, on_release, RELEASE_EVERY_MS, RELEASE_EVERY_MS);
    }
}

/* While a cutover runs, how long statements take is noted at the gates. */
static void time_begin(struct session *s)
{
    if (s->rules == NULL || s->timed_ns != 0 || s->syncs_sent != s->syncs_done || s->batch_open) {
        return;
    }
    uint64_t recording = 0;
    EACH_BIT(rule, all_rules(s))
    {
        recording |= (uint64_t)gate_is_recording(gate_of(s, rule)) << rule;
    }
    if (recording != 0) {
        s->timed_ns = gate_now();
        s->timed_gates = recording;
        s->timed_writes = 0;
    }
}

static void time_end(struct session *s)
{
    EACH_BIT(rule, s->timed_gates)
    {
        if (gate_is_recording(gate_of(s, rule))) {
            gate_note_latency(gate_of(s, rule), s->worker->index, s->timed_ns,
                              (s->timed_writes >> rule & 1) != 0);
        }
    }
    s->timed_ns = 0;
}

/* Of the gates that hold, those for a statement inside a transaction that writes these tables. Not
 * when the flip waits for the transaction anyway: for its lock, or for its snapshot. */
static uint64_t holding_inside(const struct session *s, uint64_t held, uint64_t writes)
{
    uint64_t found = 0;
    if (s->touched || s->snapshot_gates != 0 || s->transaction == 'E') {
        return 0;
    }
    EACH_BIT(rule, held & writes & s->rules->computes)
    {
        found |= (uint64_t)gate_holds_transactions(gate_of(s, rule)) << rule;
    }
    return found;
}

enum judging hold_check(struct session *s, uint64_t writes)
{
    time_begin(s);
    uint64_t mask = s->may_snapshot ? writes | all_rules(s) : writes;
    uint64_t held = mask == 0 || s->hold_cancelled ? 0 : holding(s, mask);
    bool answered = s->syncs_sent == s->syncs_done;
    if (s->let_through) {
        s->let_through = false;
        return JUDGING_FORWARD;
    }
    bool inside = s->batch_open || (answered && s->transaction != 'I');
    if (held != 0 && inside) {
        held = holding_inside(s, held, writes);
    }
    if (held == 0) {
        return JUDGING_FORWARD;
    }
    if (!answered) {
        s->wait = SESSION_WAIT_BOUNDARY;
        return JUDGING_WAIT;
    }
    if (!take_places(s, held)) {
        return JUDGING_FORWARD;
    }
    s->held_inside = inside;
    hold_begin(s, held);
    return JUDGING_WAIT;
}

void hold_note_touch(struct session *s, bool touches)
{
    s->touched = s->touched || touches;
}

void hold_note_write(struct session *s, uint64_t writes)
{
    uint64_t fresh = writes & ~s->writing;
    s->timed_writes |= writes;
    s->writing |= fresh;
    s->touched = s->touched || writes != 0;
    count(s, fresh, GATE_COUNT_INFLIGHT, 1);
    if (s->may_snapshot && s->snapshot_gates == 0) {
        s->snapshot_gates = all_rules(s);
        count(s, s->snapshot_gates, GATE_COUNT_SNAPSHOT, 1);
    }
}

void hold_note_unstripped(struct session *s, uint64_t rules)
{
    uint64_t fresh = rules & ~s->unstripped;
    s->unstripped |= fresh;
    count(s, fresh, GATE_COUNT_UNSTRIPPED, 1);
}

static void end_transaction(struct session *s)
{
    count(s, s->writing, GATE_COUNT_INFLIGHT, -1);
    count(s, s->snapshot_gates, GATE_COUNT_SNAPSHOT, -1);
    s->writing = 0;
    s->snapshot_gates = 0;
    s->touched = false;
}

void hold_note_ready(struct session *s)
{
    if (s->timed_ns != 0 && s->syncs_sent == s->syncs_done && !s->batch_open) {
        time_end(s);
    }
    if (s->transaction == 'I' && s->syncs_sent == s->syncs_done && !s->batch_open) {
        end_transaction(s);
    }
}

void hold_note_end(struct session *s)
{
    if (s->wait == SESSION_WAIT_GATE) {
        hold_end(s, true);
    }
    end_transaction(s);
    count(s, s->unstripped, GATE_COUNT_UNSTRIPPED, -1);
    s->unstripped = 0;
}

void hold_end(struct session *s, bool dropped)
{
    struct worker *worker = s->worker;
    uint64_t waited = gate_now() - s->since_ns;
    s->wait = SESSION_WAIT_NONE;
    s->active_ms = uv_now(&worker->loop); /* its statement begins now */
    DL_DELETE2(worker->held, s, held_prev, held_next);
    count(s, s->held_for, GATE_COUNT_HELD, -1);
    EACH_BIT(rule, s->held_for)
    {
        struct gate *gate = gate_of(s, rule);
        gate_leave(gate);
        gate_note_wait(gate, worker->index, waited);
        if (dropped) {
            gate_add(gate, worker->index, GATE_COUNT_DROPPED_TOTAL, 1);
        } else if (gate_state(gate) == GATE_HOLDING) {
            gate_add(gate, worker->index, GATE_COUNT_EXPIRED_TOTAL, 1);
        }
    }
    s->held_for = 0;
    s->timed_ns = dropped ? 0 : s->timed_ns;
    if (s->cancel_key != NULL) {
        registry_set_held(session_service(s)->registry, s->cancel_key, false);
    }
    if (worker->held == NULL) {
        uv_timer_stop(&worker->release);
    }
}

/* What becomes of a held statement now. Inside a transaction the server is not asked: a batch of
 * the client's may be open. */
static enum asking_verdict verdict_on(struct session *s)
{
    if (holding(s, s->held_for) == 0) {
        return ASKING_PASS;
    }
    return s->held_inside ? ASKING_WAIT : asking_look(s, gate_now() - s->since_ns);
}

void hold_release(struct worker *worker)
{
    int budget = RELEASE_AT_ONCE;
    struct session *s, *next;
    DL_FOREACH_SAFE2(worker->held, s, next, held_next)
    {
        switch (verdict_on(s)) {
        case ASKING_WAIT:
            break;
        case ASKING_PASS:
            if (budget-- == 0) {
                return;
            }
            hold_end(s, false);
            s->let_through = true;
            session_resume(s);
            break;
        case ASKING_CANCEL:
            hold_cancel(s, "canceling statement due to statement timeout");
            break;
        }
    }
}

void hold_cancel(struct session *s, const char *message)
{
    if (s->held_inside) {
        hold_end(s, true);
        s->hold_cancelled = true;
        session_resume(s);
        return;
    }
    uint8_t type = s->front.stash[0];
    size_t size = 1 + (size_t)load_u32(s->front.stash + 1);
    bool single = type == 'Q' || type == 'F';
    struct writer w;
    writer_init(&w, 1024);
    message_write_error(&w, &(struct message_error){.severity = "ERROR",
                                                    .severity_code = "ERROR",
                                                    .sqlstate = "57014",
                                                    .message = message});
    if (single) {
        message_write_ready(&w, 'I');
    }
    hold_end(s, true);
    bool open = session_reply(s, &w);
    writer_fini(&w);
    if (!open) {
        return;
    }
    large_drop(s);
    if (single) {
        s->front.stash_len -= size;
        memmove(s->front.stash, s->front.stash + size, s->front.stash_len);
    } else {
        s->discarding = true;
    }
    session_resume(s);
}
