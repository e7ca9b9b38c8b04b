/* A worker's loop, mail and batch; see worker.h. */
#include "proxy/worker.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "proxy/admin/console.h"
#include "proxy/net/stream.h"
#include "proxy/service.h"
#include "proxy/session/large.h"
#include "proxy/session/session.h"
#include <utlist.h>

/* What a batch keeps of its building room between uses. */
#define BUILT_KEEP ((size_t)64 * 1024)
#define JUDGE_CACHE_BYTES ((size_t)8 * 1024 * 1024)
/* Between two looks at the sessions' timeouts. */
#define LOOK_MAX_MS 1000
#define LOOK_MIN_MS 10
#define STACK_SIZE ((size_t)8 * 1024 * 1024)

void batch_start(struct batch *batch, struct stream *to)
{
    batch->to = to;
    batch->count = 0;
    batch->built.len = 0;
    batch->result = STREAM_OK;
}

void batch_add(struct batch *batch, const uint8_t *bytes, size_t len)
{
    if (len == 0) {
        return;
    }
    if (batch->count > 0) {
        struct iovec *last = &batch->iov[batch->count - 1];
        if ((const uint8_t *)last->iov_base + last->iov_len == bytes) {
            last->iov_len += len;
            return;
        }
    }
    if (batch->count == WORKER_IOV) {
        batch_send(batch);
    }
    /* iovec has no const: sendmsg reads only */
    union {
        const uint8_t *in;
        void *out;
    } base = {.in = bytes};
    batch->iov[batch->count++] = (struct iovec){.iov_base = base.out, .iov_len = len};
}

struct writer *batch_build(struct batch *batch, size_t size)
{
    struct writer *w = &batch->built;
    if (w->room - w->len < size || batch->count == WORKER_IOV) {
        /* What was built before must not move while the vector points at it; nor may what is built
         * now be taken for sent, as it would be if the vector were full when it is added. */
        batch_send(batch);
        if (w->room < size) {
            writer_fini(w);
            writer_init(w, WORKER_MESSAGE_MAX);
            w->bytes = malloc(size > BUILT_KEEP ? size : BUILT_KEEP);
            w->room = w->bytes == NULL ? 0 : size > BUILT_KEEP ? size : BUILT_KEEP;
            w->ok = w->bytes != NULL;
        }
    }
    if (!w->ok) {
        batch->result = STREAM_NO_MEMORY;
        return NULL;
    }
    return w;
}

void batch_built(struct batch *batch)
{
    struct writer *w = &batch->built;
    if (!w->ok) {
        batch->result = STREAM_NO_MEMORY;
        return;
    }
    /* message stands behind the type byte, where writer_begin() left it */
    size_t start = w->message - 1;
    batch_add(batch, w->bytes + start, w->len - start);
}

void batch_send(struct batch *batch)
{
    if (batch->count > 0 && batch->result == STREAM_OK) {
        batch->result = stream_send(batch->to, batch->iov, batch->count);
    }
    batch->count = 0;
    batch->built.len = 0;
    if (batch->built.room > BUILT_KEEP || !batch->built.ok) {
        writer_fini(&batch->built);
        writer_init(&batch->built, WORKER_MESSAGE_MAX);
    }
}

struct mail *mail_new(enum mail_kind kind)
{
    struct mail *mail = calloc(1, sizeof *mail);
    if (mail != NULL) {
        mail->kind = kind;
        mail->fd = -1;
    }
    return mail;
}

void worker_post(struct worker *worker, struct mail *mail)
{
    if (mail == NULL) {
        return;
    }
    uv_mutex_lock(&worker->mail_lock);
    LL_APPEND(worker->mail, mail);
    uv_mutex_unlock(&worker->mail_lock);
    if (!atomic_exchange(&worker->mail_waits, true)) {
        /* the counter of an eventfd takes what is written once between two reads */
        const uint64_t one = 1;
        (void)!write(worker->mail_fd, &one, sizeof one);
    }
}

static struct judge_counters judges_count(const struct worker *worker)
{
    struct judge_counters sum = worker->judged_before;
    for (size_t i = 0; worker->judges != NULL && i < worker->snapshot->database_count; i++) {
        struct judge_counters one = {0};
        if (worker->judges[i] != NULL) {
            judge_count(worker->judges[i], &one);
        }
        sum.hits += one.hits;
        sum.misses += one.misses;
        sum.bytes += one.bytes;
    }
    return sum;
}

/* For other threads to read. */
static void publish_judges(struct worker *worker)
{
    struct judge_counters sum = judges_count(worker);
    struct worker_counters *counters = &worker->counters;
    atomic_store_explicit(&counters->cache_hits, sum.hits, memory_order_relaxed);
    atomic_store_explicit(&counters->cache_misses, sum.misses, memory_order_relaxed);
    atomic_store_explicit(&counters->cache_bytes, sum.bytes, memory_order_relaxed);
}

static void judges_free(struct worker *worker)
{
    worker->judged_before = judges_count(worker);
    worker->judged_before.bytes = 0;
    for (size_t i = 0; worker->judges != NULL && i < worker->snapshot->database_count; i++) {
        judge_free(worker->judges[i]);
    }
    free(worker->judges);
    worker->judges = NULL;
}

/* The judges' verdicts belong to the old snapshot's rule sets and go with it. */
static void take_snapshot(struct worker *worker)
{
    struct catalog *catalog = worker->service->catalog;
    struct catalog_snapshot *snapshot = catalog_ref(catalog);
    judges_free(worker);
    catalog_unref(catalog, worker->snapshot);
    worker->snapshot = snapshot;
    worker->judges = calloc(snapshot->database_count + 1, sizeof *worker->judges);
}

const struct catalog_database *worker_rules(struct worker *worker, const char *database)
{
    if (worker->snapshot->epoch != catalog_epoch(worker->service->catalog)) {
        take_snapshot(worker);
    }
    return catalog_find(worker->snapshot, database);
}

struct judge *worker_judge(struct worker *worker, const struct catalog_database *rules)
{
    if (worker->judges == NULL) {
        return NULL;
    }
    size_t i = (size_t)(rules - worker->snapshot->databases);
    if (worker->judges[i] == NULL) {
        worker->judges[i] = judge_new(JUDGE_CACHE_BYTES);
    }
    return worker->judges[i];
}

static void cancel_held(struct worker *worker, const struct registry_key *key)
{
    struct registry_entry entry;
    if (!registry_find(worker->service->registry, key, &entry)) {
        return;
    }
    struct session *s;
    DL_FOREACH2(worker->held, s, held_next)
    {
        if (s->id == entry.session) {
            hold_cancel(s, "canceling statement due to user request");
            return;
        }
    }
    DL_FOREACH(worker->sessions, s)
    {
        if (s->id == entry.session && s->wait == SESSION_WAIT_JUDGE) {
            large_cancel(s);
            return;
        }
    }
}

/* How often the sessions are looked at: no timeout is exceeded by more than a tenth, or 10 ms. */
static uint64_t look_every(const struct config *config)
{
    const uint64_t timeouts[] = {config->client_login_timeout_ms, config->server_connect_timeout_ms,
                                 config->client_idle_timeout_ms,
                                 config->idle_transaction_timeout_ms, config->query_timeout_ms};
    uint64_t every = LOOK_MAX_MS;
    for (size_t i = 0; i < sizeof timeouts / sizeof timeouts[0]; i++) {
        if (timeouts[i] > 0 && timeouts[i] / 10 < every) {
            every = timeouts[i] / 10;
        }
    }
    return every < LOOK_MIN_MS ? LOOK_MIN_MS : every;
}

static void on_look(uv_timer_t *timer)
{
    struct worker *worker = timer->data;
    const struct config *config = service_config(worker->service);
    uint64_t limit = config->client_login_timeout_ms * 1000000u;
    uint64_t now = gate_now();
    publish_judges(worker);
    struct session *s, *next;
    DL_FOREACH_SAFE(worker->sessions, s, next)
    {
        if (limit > 0 && s->transaction == 0 && now - s->since_ns > limit) {
            session_fail(s, "57014", "client_login_timeout: the login took too long");
        } else if (atomic_load_explicit(&worker->service->draining, memory_order_relaxed)) {
            session_drain(s);
        } else {
            connect_look(s, now);
            session_look(s, uv_now(&worker->loop));
        }
    }
    uint64_t every = look_every(config);
    if (uv_timer_get_repeat(timer) != every) {
        uv_timer_start(timer, on_look, every, every);
    }
}

static void close_handles(struct worker *worker)
{
    uv_close((uv_handle_t *)&worker->mail_ready, NULL);
    uv_close((uv_handle_t *)&worker->look, NULL);
    uv_close((uv_handle_t *)&worker->release, NULL);
    uv_close((uv_handle_t *)&worker->reread, NULL);
}

static void stop(struct worker *worker)
{
    struct session *s, *next;
    worker->stopping = true;
    DL_FOREACH_SAFE(worker->sessions, s, next)
    {
        session_fail(s, "57P01", "terminating connection: pgsluice is shutting down");
    }
    large_stop(worker);
    close_handles(worker);
}

static void deliver(struct worker *worker, const struct mail *mail)
{
    switch (mail->kind) {
    case MAIL_CLIENT:
        if (worker->stopping) {
            close(mail->fd);
        } else {
            session_accept(worker, mail->fd);
        }
        break;
    case MAIL_CANCEL:
        cancel_held(worker, &mail->key);
        break;
    case MAIL_GATE:
        hold_release(worker);
        break;
    case MAIL_SECRET:
        login_looked_up(mail->session, mail->lookup);
        break;
    case MAIL_JUDGED:
        large_arrived(mail->large);
        break;
    case MAIL_CLIENTS:
        console_gather_here(worker, mail->gather);
        break;
    case MAIL_STOP:
        stop(worker);
        break;
    }
}

static struct mail *take_mail(struct worker *worker)
{
    uv_mutex_lock(&worker->mail_lock);
    struct mail *mail = worker->mail;
    worker->mail = NULL;
    uv_mutex_unlock(&worker->mail_lock);
    return mail;
}

/* Not a uv_async_t, which keeps the receiver spinning while the sender is not running. */
static void on_mail(uv_poll_t *poll, int status, int events)
{
    struct worker *worker = poll->data;
    uint64_t count;
    (void)status;
    (void)events;
    (void)!read(worker->mail_fd, &count, sizeof count);
    atomic_store(&worker->mail_waits, false);
    struct mail *mail = take_mail(worker);
    while (mail != NULL) {
        struct mail *next = mail->next;
        deliver(worker, mail);
        free(mail);
        /* stopping posts more, and is the last that the loop tells of */
        mail = next == NULL && worker->stopping ? take_mail(worker) : next;
    }
}

static void worker_run(void *arg)
{
    struct worker *worker = arg;
    uv_run(&worker->loop, UV_RUN_DEFAULT);
}

static bool worker_init(struct worker *worker)
{
    if (uv_loop_init(&worker->loop) != 0) {
        return false;
    }
    uv_mutex_init(&worker->mail_lock);
    worker->mail_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (worker->mail_fd < 0 ||
        uv_poll_init(&worker->loop, &worker->mail_ready, worker->mail_fd) != 0) {
        return false;
    }
    worker->mail_ready.data = worker;
    uv_poll_start(&worker->mail_ready, UV_READABLE, on_mail);
    uv_timer_init(&worker->loop, &worker->look);
    worker->look.data = worker;
    uint64_t every = look_every(service_config(worker->service));
    uv_timer_start(&worker->look, on_look, every, every);
    uv_timer_init(&worker->loop, &worker->release);
    worker->release.data = worker;
    uv_timer_init(&worker->loop, &worker->reread);
    worker->reread.data = worker;
    writer_init(&worker->batch.built, WORKER_MESSAGE_MAX);
    worker->buffer = malloc(WORKER_BUFFER);
    worker->snapshot = catalog_ref(worker->service->catalog);
    worker->judges = calloc(worker->snapshot->database_count + 1, sizeof *worker->judges);
    return worker->buffer != NULL && worker->judges != NULL;
}

struct worker *worker_start(struct service *service, unsigned index)
{
    struct worker *worker = calloc(1, sizeof *worker);
    if (worker == NULL) {
        return NULL;
    }
    worker->service = service;
    worker->index = index;
    /* deep trees are walked on this stack */
    uv_thread_options_t options = {.flags = UV_THREAD_HAS_STACK_SIZE, .stack_size = STACK_SIZE};
    if (!worker_init(worker) ||
        uv_thread_create_ex(&worker->thread, &options, worker_run, worker) != 0) {
        free(worker);
        return NULL;
    }
    return worker;
}

void worker_join(struct worker *worker)
{
    uv_thread_join(&worker->thread);
}

/* What came too late. */
static void drop_mail(struct worker *worker)
{
    struct mail *mail, *next;
    LL_FOREACH_SAFE(worker->mail, mail, next)
    {
        console_gather_free(mail->gather);
        free(mail);
    }
}

void worker_free(struct worker *worker)
{
    drop_mail(worker);
    uv_loop_close(&worker->loop);
    close(worker->mail_fd);
    large_free_thread(worker->large);
    judges_free(worker);
    catalog_unref(worker->service->catalog, worker->snapshot);
    writer_fini(&worker->batch.built);
    uv_mutex_destroy(&worker->mail_lock);
    free(worker->buffer);
    free(worker);
}
