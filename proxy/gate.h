/*
 * The gate of one guarded table: open, armed (count, do not hold) or holding.
 *
 * Safety is PostgreSQL's lock; the gate only saves latency. It holds statements at transaction
 * boundaries, for at most its time-to-live on the local monotonic clock, and always ends by letting
 * them pass. The cutover thread sets the state; sessions read it with one relaxed load and keep
 * their counts in a cell of their own worker, which nobody else writes. Release is driven by the
 * state: a worker with held sessions looks again every few milliseconds, whether or not it was
 * woken.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GATE_WORKERS_MAX 64

enum gate_state {
    GATE_OPEN,
    GATE_ARMED,
    GATE_HOLDING,
};

struct gate;

struct gate_counts {
    uint64_t held;            /* sessions parked now */
    uint64_t inflight_writes; /* sessions with a forwarded write on the table not yet finished */
    uint64_t snapshots;       /* sessions inside a transaction that may keep an old snapshot
                                 (REPEATABLE READ, SERIALIZABLE) */
    uint64_t unstripped;      /* sessions with a prepared statement that still sends the key: made
                                 while the rule observed */
    uint64_t held_total;      /* statements ever held, */
    uint64_t expired_total;   /* of those let through because the time-to-live ended, or their own
                                 lock_timeout, */
    uint64_t dropped_total;   /* of those whose client went away or cancelled, or that reached their
                                 statement_timeout */
    uint64_t overflow_total;  /* statements that were not held because too many were */
    uint64_t max_held_ns;     /* the longest that one waited, since the last cutover began */
};

struct gate *gate_new(const char *name);
void gate_free(struct gate *gate);
const char *gate_name(const struct gate *gate);

/* Cutover's side. */
void gate_forget_longest(struct gate *gate); /* max_held_ns begins anew */
void gate_arm(struct gate *gate);
void gate_hold(struct gate *gate, uint64_t ttl_ns); /* counts from the call */
/* Whether the hold to come is for statements inside transactions too (hold.c says for which), as
 * others are. */
void gate_hold_transactions(struct gate *gate, bool on);
void gate_open(struct gate *gate);
enum gate_state gate_state(const struct gate *gate);
void gate_count(const struct gate *gate, struct gate_counts *out);
/* Called after each change of state, from the changing thread: wakes the workers. */
void gate_on_change(struct gate *gate, void (*wake)(void *arg), void *arg);

/* While it records, sessions note how long their statements take, by when they began. */
#define GATE_SLOT_MS 10
struct gate_latency {
    uint64_t writes; /* of the table; reads are all other statements */
    uint64_t reads;
    double write_max_us;
    double read_max_us;
};
void gate_record(struct gate *gate, bool on);
/* Of the statements that began in the slot (time of gate_now() in units of GATE_SLOT_MS); zeros
 * when it is too long ago. */
void gate_latency(const struct gate *gate, uint64_t slot, struct gate_latency *out);

/* How long writes of the table took that ended while it recorded, ever: how many of each length, of
 * which there are four to each doubling. */
#define GATE_LENGTHS 100
void gate_lengths(const struct gate *gate, uint64_t counts[GATE_LENGTHS]);
double gate_length_ms(unsigned length); /* its upper end */

/* The sessions' side. */
uint64_t gate_left(const struct gate *gate, uint64_t now_ns);   /* ns that it still holds, or 0 */
bool gate_is_holding(const struct gate *gate, uint64_t now_ns); /* holding and not expired */
bool gate_holds_transactions(const struct gate *gate);
uint64_t gate_now(void); /* CLOCK_MONOTONIC, ns */

/* One more session is to be held: false when `most` are. Ends with gate_leave(). Any worker. */
bool gate_try_enter(struct gate *gate, uint32_t most);
void gate_leave(struct gate *gate);

enum gate_counter {
    GATE_COUNT_HELD,
    GATE_COUNT_INFLIGHT,
    GATE_COUNT_SNAPSHOT,
    GATE_COUNT_UNSTRIPPED,
    GATE_COUNT_HELD_TOTAL,
    GATE_COUNT_EXPIRED_TOTAL,
    GATE_COUNT_DROPPED_TOTAL,
    GATE_COUNT_OVERFLOW_TOTAL,
    GATE_COUNTERS,
};
/* Adds `by` to the cell of `worker` (< GATE_WORKERS_MAX); only that worker's thread may. */
void gate_add(struct gate *gate, unsigned worker, enum gate_counter counter, int64_t by);
bool gate_is_recording(const struct gate *gate);
void gate_note_latency(struct gate *gate, unsigned worker, uint64_t began_ns, bool is_write);
void gate_note_wait(struct gate *gate, unsigned worker, uint64_t waited_ns);
