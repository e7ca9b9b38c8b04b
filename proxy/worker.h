/*
 * A worker: one thread, one event loop, and the sessions that live and die on it.
 *
 * It lends its sessions one receive buffer and one outgoing batch, so that an idle session holds
 * neither. Other threads reach it only by mail.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <uv.h>

#include "protocol/bytes.h"
#include "proxy/catalog.h"
#include "proxy/net/stream.h"
#include "proxy/session/registry.h"
#include "rules/rules.h"

#define WORKER_BUFFER ((size_t)64 * 1024)
#define WORKER_IOV 64
/* A built message may be as large as the largest judged one, and some more for its edits. */
#define WORKER_MESSAGE_MAX ((size_t)1 << 30)

struct console_gather;
struct large;
struct large_thread;
struct secrets_lookup;
struct service;
struct session;

/* What one batch of input turned into: views of the receive buffer between messages built in
 * `built`. Sent with one call at the batch's end. */
struct batch {
    struct stream *to;
    struct iovec iov[WORKER_IOV];
    int count;
    struct writer built;
    enum stream_result result; /* once not STREAM_OK, nothing more is sent */
};

struct worker_counters {
    _Atomic uint64_t sessions; /* open now */
    _Atomic uint64_t sessions_total;
    _Atomic uint64_t statements; /* Query and Execute batches: ReadyForQuery seen */
    _Atomic uint64_t judged;     /* texts that the prefilter did not clear */
    _Atomic uint64_t observed, stripped, computed, refused; /* keys, by what was done */
    _Atomic uint64_t cache_hits, cache_misses, cache_bytes; /* of the judges, every second or so */
};

struct worker {
    struct service *service;
    unsigned index;
    uv_thread_t thread;
    uv_loop_t loop;
    uv_poll_t mail_ready;
    int mail_fd; /* an eventfd; written when `mail_waits` becomes true */
    atomic_bool mail_waits;
    uv_timer_t look;    /* timeouts, drain */
    uv_timer_t release; /* runs while sessions are held */
    uv_timer_t reread;  /* runs while sessions wait for the catalog */
    uv_mutex_t mail_lock;
    struct mail *mail;
    uint8_t *buffer;
    struct batch batch;
    struct session *sessions; /* doubly linked */
    struct session *held;     /* in the order of their arrival */
    struct catalog_snapshot *snapshot;
    struct judge **judges; /* one for each database of the snapshot, made when first needed */
    struct judge_counters judged_before; /* by judges that are gone */
    struct large_thread *large;          /* judges what takes long; NULL until there is some */
    uint64_t turn_ns; /* when the first text of this turn was judged; 0: none was */
    struct worker_counters counters;
    _Atomic uint32_t assigned; /* clients it was given and has not closed */
    bool stopping;
};

enum mail_kind {
    MAIL_CLIENT,  /* a socket that was accepted */
    MAIL_CANCEL,  /* for the session with this key, which is held or being judged */
    MAIL_GATE,    /* a gate changed its state */
    MAIL_SECRET,  /* a look-up for a login has ended */
    MAIL_JUDGED,  /* a text that took long */
    MAIL_CLIENTS, /* a list of clients on its way through the workers */
    MAIL_STOP,    /* close every session and end the loop */
};

struct mail {
    struct mail *next;
    enum mail_kind kind;
    int fd;
    struct secrets_lookup *lookup; /* taken */
    struct session *session;       /* that it is for, unless it is forgotten */
    struct large *large;
    struct console_gather *gather; /* taken */
    struct registry_key key;
};

/* Starts the thread. NULL on failure. */
struct worker *worker_start(struct service *service, unsigned index);
/* After MAIL_STOP: joins; the others may still post to it. */
void worker_join(struct worker *worker);
void worker_free(struct worker *worker); /* all are joined */
/* Takes `mail` (heap). Any thread. */
void worker_post(struct worker *worker, struct mail *mail);
struct mail *mail_new(enum mail_kind kind);

/* --- for the worker's own sessions --- */

/* The rules in force for `database`, from the newest snapshot; NULL when none. */
const struct catalog_database *worker_rules(struct worker *worker, const char *database);
/* The judge for those rules; NULL when out of memory. */
struct judge *worker_judge(struct worker *worker, const struct catalog_database *rules);
static inline void worker_add(_Atomic uint64_t *counter, uint64_t by)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by,
                          memory_order_relaxed);
}

void batch_start(struct batch *batch, struct stream *to);
/* Borrowed until batch_send(). */
void batch_add(struct batch *batch, const uint8_t *bytes, size_t len);
/* Room for a message of up to `size` bytes, to be written with the result's writer calls and then
 * batch_built(). NULL when out of memory, as batch.result then says. */
struct writer *batch_build(struct batch *batch, size_t size);
void batch_built(struct batch *batch);
void batch_send(struct batch *batch);
