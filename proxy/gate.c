/*
 * A gate's state and counts; see gate.h. The state and the end of the hold are two words: a reader
 * that sees the new state with the old end at worst lets one statement pass to PostgreSQL's lock.
 */
#include "proxy/gate.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* One worker's counts on cache lines of their own: nobody else writes them. */
struct cell {
    _Alignas(64) _Atomic int64_t counters[GATE_COUNTERS];
    _Atomic uint64_t max_wait_ns;
};

enum { SLOTS = 2048 }; /* 20 s */

/* 0..3 us, and from there on by the two bits behind the first one. */
static unsigned length_of(uint32_t us)
{
    unsigned first = us < 4 ? 0 : 31 - (unsigned)__builtin_clz(us);
    unsigned length = us < 4 ? us : first * 4 + (us >> (first - 2) & 3);
    return length < GATE_LENGTHS ? length : GATE_LENGTHS - 1;
}

double gate_length_ms(unsigned length)
{
    return length < 8 ? (length + 1) / 1e3 : (double)((length % 4 + 5) << (length / 4 - 2)) / 1e3;
}

/* What one worker notes of the statements that began within one slot. */
struct slot {
    _Atomic uint64_t number; /* of the slot; an older one's place is taken */
    _Atomic uint32_t count[2];
    _Atomic uint32_t max_us[2];
};

struct recording {
    struct slot slots[GATE_WORKERS_MAX][SLOTS]; /* memory only where a worker writes */
    _Atomic uint64_t lengths[GATE_WORKERS_MAX][GATE_LENGTHS];
};

struct gate {
    _Atomic int state;
    _Atomic bool is_recording;
    _Atomic bool holds_transactions;
    _Atomic(struct recording *) recording; /* made at first use, kept */
    _Atomic uint64_t hold_end_ns;
    _Atomic uint32_t held; /* sessions of all workers */
    char *name;
    void (*wake)(void *arg);
    void *wake_arg;
    struct cell cells[GATE_WORKERS_MAX];
};

struct gate *gate_new(const char *name)
{
    struct gate *gate = aligned_alloc(64, sizeof *gate);
    if (gate == NULL) {
        return NULL;
    }
    memset(gate, 0, sizeof *gate);
    gate_hold_transactions(gate, true);
    gate->name = strdup(name);
    if (gate->name == NULL) {
        free(gate);
        return NULL;
    }
    return gate;
}

void gate_free(struct gate *gate)
{
    if (gate != NULL) {
        free(atomic_load(&gate->recording));
        free(gate->name);
        free(gate);
    }
}

const char *gate_name(const struct gate *gate)
{
    return gate->name;
}

uint64_t gate_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void gate_enter(struct gate *gate, enum gate_state state)
{
    atomic_store_explicit(&gate->state, (int)state, memory_order_release);
    if (gate->wake != NULL) {
        gate->wake(gate->wake_arg);
    }
}

void gate_forget_longest(struct gate *gate)
{
    for (size_t w = 0; w < GATE_WORKERS_MAX; w++) {
        atomic_store_explicit(&gate->cells[w].max_wait_ns, 0, memory_order_relaxed);
    }
}

void gate_arm(struct gate *gate)
{
    gate_enter(gate, GATE_ARMED);
}

void gate_hold(struct gate *gate, uint64_t ttl_ns)
{
    atomic_store_explicit(&gate->hold_end_ns, gate_now() + ttl_ns, memory_order_relaxed);
    gate_enter(gate, GATE_HOLDING);
}

void gate_hold_transactions(struct gate *gate, bool on)
{
    atomic_store_explicit(&gate->holds_transactions, on, memory_order_relaxed);
}

bool gate_holds_transactions(const struct gate *gate)
{
    return atomic_load_explicit(&gate->holds_transactions, memory_order_relaxed);
}

void gate_open(struct gate *gate)
{
    gate_hold_transactions(gate, true);
    gate_enter(gate, GATE_OPEN);
}

enum gate_state gate_state(const struct gate *gate)
{
    return (enum gate_state)atomic_load_explicit(&gate->state, memory_order_acquire);
}

void gate_on_change(struct gate *gate, void (*wake)(void *arg), void *arg)
{
    gate->wake = wake;
    gate->wake_arg = arg;
}

bool gate_is_holding(const struct gate *gate, uint64_t now_ns)
{
    return atomic_load_explicit(&gate->state, memory_order_acquire) == GATE_HOLDING &&
           now_ns < atomic_load_explicit(&gate->hold_end_ns, memory_order_relaxed);
}

uint64_t gate_left(const struct gate *gate, uint64_t now_ns)
{
    const uint64_t end_ns = atomic_load_explicit(&gate->hold_end_ns, memory_order_relaxed);
    return gate_is_holding(gate, now_ns) && end_ns > now_ns ? end_ns - now_ns : 0;
}

bool gate_try_enter(struct gate *gate, uint32_t most)
{
    if (atomic_fetch_add_explicit(&gate->held, 1, memory_order_relaxed) < most) {
        return true;
    }
    gate_leave(gate);
    return false;
}

void gate_leave(struct gate *gate)
{
    atomic_fetch_sub_explicit(&gate->held, 1, memory_order_relaxed);
}

void gate_add(struct gate *gate, unsigned worker, enum gate_counter counter, int64_t by)
{
    _Atomic int64_t *cell = &gate->cells[worker].counters[counter];
    atomic_store_explicit(cell, atomic_load_explicit(cell, memory_order_relaxed) + by,
                          memory_order_relaxed);
}

void gate_note_wait(struct gate *gate, unsigned worker, uint64_t waited_ns)
{
    _Atomic uint64_t *max = &gate->cells[worker].max_wait_ns;
    if (waited_ns > atomic_load_explicit(max, memory_order_relaxed)) {
        atomic_store_explicit(max, waited_ns, memory_order_relaxed);
    }
}

void gate_record(struct gate *gate, bool on)
{
    if (on && atomic_load(&gate->recording) == NULL) {
        atomic_store(&gate->recording, calloc(1, sizeof(struct recording)));
    }
    atomic_store(&gate->is_recording, on && atomic_load(&gate->recording) != NULL);
}

bool gate_is_recording(const struct gate *gate)
{
    return atomic_load_explicit(&gate->is_recording, memory_order_relaxed);
}

void gate_note_latency(struct gate *gate, unsigned worker, uint64_t began_ns, bool is_write)
{
    struct recording *r = atomic_load_explicit(&gate->recording, memory_order_acquire);
    uint64_t number = began_ns / (GATE_SLOT_MS * 1000000u);
    uint64_t us = (gate_now() - began_ns) / 1000;
    uint32_t bounded = us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
    if (r == NULL) {
        return;
    }
    struct slot *slot = &r->slots[worker][number % SLOTS];
    if (atomic_load_explicit(&slot->number, memory_order_relaxed) != number) {
        for (size_t i = 0; i < 2; i++) {
            atomic_store_explicit(&slot->count[i], 0, memory_order_relaxed);
            atomic_store_explicit(&slot->max_us[i], 0, memory_order_relaxed);
        }
        atomic_store_explicit(&slot->number, number, memory_order_release);
    }
    atomic_fetch_add_explicit(&slot->count[is_write], 1, memory_order_relaxed);
    if (is_write) {
        atomic_fetch_add_explicit(&r->lengths[worker][length_of(bounded)], 1, memory_order_relaxed);
    }
    if (bounded > atomic_load_explicit(&slot->max_us[is_write], memory_order_relaxed)) {
        atomic_store_explicit(&slot->max_us[is_write], bounded, memory_order_relaxed);
    }
}

void gate_latency(const struct gate *gate, uint64_t number, struct gate_latency *out)
{
    const struct recording *r = atomic_load_explicit(&gate->recording, memory_order_acquire);
    *out = (struct gate_latency){.writes = 0};
    for (size_t w = 0; r != NULL && w < GATE_WORKERS_MAX; w++) {
        const struct slot *slot = &r->slots[w][number % SLOTS];
        if (atomic_load_explicit(&slot->number, memory_order_acquire) != number) {
            continue;
        }
        double read_us = atomic_load_explicit(&slot->max_us[0], memory_order_relaxed);
        double write_us = atomic_load_explicit(&slot->max_us[1], memory_order_relaxed);
        out->reads += atomic_load_explicit(&slot->count[0], memory_order_relaxed);
        out->writes += atomic_load_explicit(&slot->count[1], memory_order_relaxed);
        out->read_max_us = read_us > out->read_max_us ? read_us : out->read_max_us;
        out->write_max_us = write_us > out->write_max_us ? write_us : out->write_max_us;
    }
}

void gate_lengths(const struct gate *gate, uint64_t counts[GATE_LENGTHS])
{
    const struct recording *r = atomic_load_explicit(&gate->recording, memory_order_acquire);
    for (unsigned i = 0; i < GATE_LENGTHS; i++) {
        counts[i] = 0;
        for (size_t w = 0; r != NULL && w < GATE_WORKERS_MAX; w++) {
            counts[i] += atomic_load_explicit(&r->lengths[w][i], memory_order_relaxed);
        }
    }
}

void gate_count(const struct gate *gate, struct gate_counts *out)
{
    int64_t sums[GATE_COUNTERS] = {0};
    *out = (struct gate_counts){0};
    for (size_t w = 0; w < GATE_WORKERS_MAX; w++) {
        const struct cell *cell = &gate->cells[w];
        for (size_t i = 0; i < GATE_COUNTERS; i++) {
            sums[i] += atomic_load_explicit(&cell->counters[i], memory_order_relaxed);
        }
        uint64_t max = atomic_load_explicit(&cell->max_wait_ns, memory_order_relaxed);
        out->max_held_ns = max > out->max_held_ns ? max : out->max_held_ns;
    }
    out->held = (uint64_t)sums[GATE_COUNT_HELD];
    out->inflight_writes = (uint64_t)sums[GATE_COUNT_INFLIGHT];
    out->snapshots = (uint64_t)sums[GATE_COUNT_SNAPSHOT];
    out->unstripped = (uint64_t)sums[GATE_COUNT_UNSTRIPPED];
    out->held_total = (uint64_t)sums[GATE_COUNT_HELD_TOTAL];
    out->expired_total = (uint64_t)sums[GATE_COUNT_EXPIRED_TOTAL];
    out->dropped_total = (uint64_t)sums[GATE_COUNT_DROPPED_TOTAL];
    out->overflow_total = (uint64_t)sums[GATE_COUNT_OVERFLOW_TOTAL];
}
