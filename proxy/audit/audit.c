/*
 * The audit log's queue and writer. Callers put a record together in a bounded buffer under a
 * mutex; the writer swaps that buffer for its own, numbers the records and writes them in batches.
 * A caller never waits for the disk: when the disk does not take what comes and the buffer is full,
 * a record is counted as lost, and the log says so in a record of its own once it can be written
 * again.
 */
#include "proxy/audit/audit.h"

#include "proxy/audit/record.h"
#include "proxy/json_text.h"
#include "proxy/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define QUEUE_SIZE (8 * 1024 * 1024)
#define LINE_MAX_SIZE (AUDIT_HEAD_MAX + AUDIT_BODY_MAX + 2)
#define OUT_SIZE (LINE_MAX_SIZE + 256 * 1024)
/* How long records gather before the writer takes them: it bounds the wake-ups, not the throughput.
 */
#define GATHER_NS (20 * 1000 * 1000)
/* With AUDIT_FSYNC_BATCH: how long what is in the file may wait to be forced to the disk. It costs
 * more than to write it does, so that it is done for several batches at once. */
#define SYNC_NS (100 * 1000 * 1000)
#define RETRY_NS (1000 * 1000 * 1000)

/* Before each body in a queue. */
struct entry {
    uint64_t time_us;
    size_t len;
};

struct queue {
    char *bytes;
    size_t len;
    uint64_t lost; /* records that did not fit behind these */
};

struct audit {
    char *path;
    char instance[256]; /* as JSON */
    enum audit_fsync fsync;
    pthread_t writer;

    pthread_mutex_t lock; /* of this group */
    pthread_cond_t wake;
    struct queue filling;
    int fd;      /* the writer changes it, and reads it without the lock */
    int next_fd; /* a reopened file that the writer shall go on in, or -1 */
    bool closing;

    /* The writer's own. */
    struct queue draining;
    uint64_t seq;
    char *out; /* whole lines, of which `out_done` bytes are in the file */
    size_t out_len, out_done;
    uint64_t out_records;
    bool is_unsynced;     /* something is in the file that was not forced to the disk */
    uint64_t unsynced_ns; /* since when */

    atomic_bool healthy;
    atomic_uint_fast64_t written, lost;
};

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* With the lock held: waits to be signalled, or for `ns`. */
static void wait_ns(struct audit *audit, uint64_t ns)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    ns += (uint64_t)until.tv_nsec;
    until.tv_sec += (time_t)(ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
    pthread_cond_timedwait(&audit->wake, &audit->lock, &until);
}

static void became_unhealthy(struct audit *audit, const char *why)
{
    if (atomic_exchange(&audit->healthy, false)) {
        log_error("audit: %s: %s; keeps trying", audit->path, why);
    }
}

static void became_healthy(struct audit *audit)
{
    if (!atomic_exchange(&audit->healthy, true)) {
        log_info("audit: %s is written again; %" PRIu64 " records lost since the start",
                 audit->path, (uint64_t)atomic_load(&audit->lost));
    }
}

/* One attempt to force what was written to the disk. */
static bool sync_file(struct audit *audit, int fd)
{
    /* a pipe or a terminal cannot be synced, and need not be */
    if (audit->is_unsynced && fdatasync(fd) != 0 && errno != EINVAL) {
        return false;
    }
    audit->is_unsynced = false;
    return true;
}

/* How long that may still wait. */
static uint64_t ns_to_sync(const struct audit *audit)
{
    const uint64_t waited = now_ns() - audit->unsynced_ns;
    return waited < SYNC_NS ? SYNC_NS - waited : 0;
}

/* The file after a rotation. A line of which a part is in the old file goes to the new one whole.
 */
static void take_next_fd(struct audit *audit)
{
    pthread_mutex_lock(&audit->lock);
    int old = audit->fd;
    bool changes = audit->next_fd >= 0;
    if (changes) {
        audit->fd = audit->next_fd;
        audit->next_fd = -1;
    }
    pthread_mutex_unlock(&audit->lock);
    if (!changes) {
        return;
    }
    if (!sync_file(audit, old)) {
        log_error("audit: the end of the rotated file was not forced to the disk: %s",
                  strerror(errno));
        audit->is_unsynced = false;
    }
    close(old);
    while (audit->out_done > 0 && audit->out[audit->out_done - 1] != '\n') {
        audit->out_done--;
    }
}

/* One attempt at what is in `out`. */
static bool write_out(struct audit *audit)
{
    while (audit->out_done < audit->out_len) {
        ssize_t n =
            write(audit->fd, audit->out + audit->out_done, audit->out_len - audit->out_done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return false;
        }
        audit->out_done += (size_t)n;
        if (!audit->is_unsynced && audit->fsync != AUDIT_FSYNC_NONE) {
            audit->is_unsynced = true;
            audit->unsynced_ns = now_ns();
        }
    }
    return true;
}

/* The same for what is written, where that is due. */
static bool sync_out(struct audit *audit, bool at_once)
{
    const bool is_due = at_once || audit->fsync == AUDIT_FSYNC_EACH || ns_to_sync(audit) == 0;
    return !audit->is_unsynced || !is_due || sync_file(audit, audit->fd);
}

/* Writes what is in `out`, however long that takes; gives up only at the end of the process. */
static void flush_out(struct audit *audit, bool syncs_at_once)
{
    take_next_fd(audit);
    while (!write_out(audit) || !sync_out(audit, syncs_at_once)) {
        became_unhealthy(audit, strerror(errno));
        pthread_mutex_lock(&audit->lock);
        bool closing = audit->closing;
        if (!closing && audit->next_fd < 0) {
            wait_ns(audit, RETRY_NS);
        }
        pthread_mutex_unlock(&audit->lock);
        if (closing) {
            atomic_fetch_add(&audit->lost, audit->out_records);
            audit->out_records = 0;
            break;
        }
        take_next_fd(audit);
    }
    atomic_fetch_add(&audit->written, audit->out_records);
    audit->out_records = 0;
    audit->out_len = 0;
    audit->out_done = 0;
}

/* Every line of the log passes here, in its final order: the place for what binds it to the one
 * before. `out` has room for a line. */
static void append_line(struct audit *audit, uint64_t time_us, const char *body, size_t len)
{
    char *line = audit->out + audit->out_len;
    size_t done = audit_render_head(line, AUDIT_HEAD_MAX, ++audit->seq, time_us, audit->instance);
    memcpy(line + done, body, len);
    done += len;
    line[done++] = '}';
    line[done++] = '\n';
    audit->out_len += done;
    audit->out_records++;
    if (audit->fsync == AUDIT_FSYNC_EACH || OUT_SIZE - audit->out_len < LINE_MAX_SIZE) {
        flush_out(audit, false);
    }
}

static void drain(struct audit *audit)
{
    struct queue *queue = &audit->draining;
    for (size_t at = 0; at < queue->len;) {
        struct entry entry;
        memcpy(&entry, queue->bytes + at, sizeof entry);
        at += sizeof entry;
        append_line(audit, entry.time_us, queue->bytes + at, entry.len);
        at += entry.len;
    }
    if (queue->lost > 0) {
        char body[64];
        append_line(audit, now_us(), body, audit_render_lost(body, sizeof body, queue->lost));
    }
    if (audit->out_len > 0) {
        flush_out(audit, false);
    }
    queue->len = 0;
    queue->lost = 0;
}

static bool is_idle(const struct audit *audit)
{
    return audit->filling.len == 0 && audit->filling.lost == 0 && audit->next_fd < 0;
}

/* With the lock held: waits for something to do, and forces to the disk what waits for that. */
static void await_records(struct audit *audit)
{
    while (is_idle(audit) && !audit->closing) {
        if (!audit->is_unsynced) {
            pthread_cond_wait(&audit->wake, &audit->lock);
        } else if (ns_to_sync(audit) > 0) {
            wait_ns(audit, ns_to_sync(audit));
        } else {
            pthread_mutex_unlock(&audit->lock);
            flush_out(audit, true);
            became_healthy(audit);
            pthread_mutex_lock(&audit->lock);
        }
    }
}

static void *writer_main(void *arg)
{
    struct audit *audit = arg;
    for (;;) {
        pthread_mutex_lock(&audit->lock);
        await_records(audit);
        if (audit->fsync != AUDIT_FSYNC_EACH && !audit->closing) {
            wait_ns(audit, GATHER_NS);
        }
        struct queue full = audit->filling;
        audit->filling = audit->draining;
        audit->draining = full;
        bool last = audit->closing && full.len == 0 && full.lost == 0;
        pthread_mutex_unlock(&audit->lock);
        if (last) {
            flush_out(audit, true);
            return NULL;
        }
        take_next_fd(audit);
        uint64_t lost_before = atomic_load(&audit->lost);
        drain(audit);
        if (atomic_load(&audit->lost) == lost_before) {
            became_healthy(audit);
        }
    }
}

/* An exclusive lock: two processes that number the same file's lines would spoil it. */
static int open_file(const char *path, struct failure *f)
{
    int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
    if (fd < 0 && (errno == ENXIO || errno == EACCES)) {
        fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY);
    }
    if (fd < 0) {
        fail(f, EXIT_USAGE, "audit: %s: %s", path, strerror(errno));
        return -1;
    }
    struct stat st;
    bool is_file = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    if (is_file && flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        fail(f, EXIT_USAGE, "audit: %s is in use by another process", path);
        close(fd);
        return -1;
    }
    return fd;
}

/* The number of the last whole record of a file that is continued; ends a line that was cut. */
static uint64_t last_seq(int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0) {
        return 0;
    }
    size_t size = st.st_size < 2 * LINE_MAX_SIZE ? (size_t)st.st_size : (size_t)2 * LINE_MAX_SIZE;
    char *tail = malloc(size + 1);
    if (tail == NULL) {
        return 0;
    }
    uint64_t seq = 0;
    ssize_t got = pread(fd, tail, size, st.st_size - (off_t)size);
    size_t len = got > 0 ? (size_t)got : 0;
    tail[len] = '\0';
    if (len > 0 && tail[len - 1] != '\n') {
        ssize_t ended = write(fd, "\n", 1);
        (void)ended; /* where that fails the first record will, and says why */
    }
    while (len > 0 && tail[len - 1] != '\n') {
        len--;
    }
    while (len > 0 && seq == 0) {
        tail[len - 1] = '\0';
        while (len > 1 && tail[len - 2] != '\n') {
            len--;
        }
        unsigned long long found;
        if (sscanf(tail + len - 1, "{\"seq\":%llu,", &found) == 1) {
            seq = found;
        }
        len--;
    }
    free(tail);
    return seq;
}

static void name_instance(struct audit *audit)
{
    char host[64];
    if (gethostname(host, sizeof host) != 0) {
        snprintf(host, sizeof host, "localhost");
    }
    host[sizeof host - 1] = '\0';
    char name[80];
    snprintf(name, sizeof name, "%s:%d", host, (int)getpid());
    size_t len = json_text(audit->instance, sizeof audit->instance - 1, name, strlen(name));
    audit->instance[len] = '\0';
}

static void audit_free(struct audit *audit)
{
    if (audit->fd >= 0) {
        close(audit->fd);
    }
    if (audit->next_fd >= 0) {
        close(audit->next_fd);
    }
    pthread_cond_destroy(&audit->wake);
    pthread_mutex_destroy(&audit->lock);
    free(audit->filling.bytes);
    free(audit->draining.bytes);
    free(audit->out);
    free(audit->path);
    free(audit);
}

static struct audit *audit_new(const char *path, enum audit_fsync fsync)
{
    struct audit *audit = calloc(1, sizeof *audit);
    if (audit == NULL) {
        return NULL;
    }
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&audit->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&audit->lock, NULL);
    audit->fd = -1;
    atomic_init(&audit->healthy, true);
    audit->next_fd = -1;
    audit->fsync = fsync;
    audit->path = strdup(path);
    audit->filling.bytes = malloc(QUEUE_SIZE);
    audit->draining.bytes = malloc(QUEUE_SIZE);
    audit->out = malloc(OUT_SIZE);
    if (audit->path == NULL || audit->filling.bytes == NULL || audit->draining.bytes == NULL ||
        audit->out == NULL) {
        audit_free(audit);
        return NULL;
    }
    name_instance(audit);
    return audit;
}

/* Signals are for the main thread. */
static int start_writer(struct audit *audit)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&audit->writer, NULL, writer_main, audit);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

bool audit_open(const char *path, enum audit_fsync fsync, struct audit **out, struct failure *f)
{
    *out = NULL;
    if (path == NULL) {
        return true;
    }
    struct audit *audit = audit_new(path, fsync);
    if (audit == NULL) {
        return fail(f, EXIT_REFUSED, "audit: out of memory");
    }
    audit->fd = open_file(path, f);
    if (audit->fd < 0) {
        audit_free(audit);
        return false;
    }
    audit->seq = last_seq(audit->fd);
    int error = start_writer(audit);
    if (error != 0) {
        audit_free(audit);
        return fail(f, EXIT_REFUSED, "audit: cannot start a thread: %s", strerror(error));
    }
    *out = audit;
    return true;
}

void audit_close(struct audit *audit)
{
    if (audit == NULL) {
        return;
    }
    pthread_mutex_lock(&audit->lock);
    audit->closing = true;
    pthread_cond_signal(&audit->wake);
    pthread_mutex_unlock(&audit->lock);
    pthread_join(audit->writer, NULL);
    uint64_t lost = atomic_load(&audit->lost);
    if (lost > 0) {
        log_error("audit: %s lacks %" PRIu64 " records that could not be written", audit->path,
                  lost);
    }
    audit_free(audit);
}

/* Whether the path still names the file that is open, or is about to be. */
static bool is_current(struct audit *audit)
{
    struct stat named;
    struct stat current;
    pthread_mutex_lock(&audit->lock);
    int fd = audit->next_fd >= 0 ? audit->next_fd : audit->fd;
    bool same = stat(audit->path, &named) == 0 && fstat(fd, &current) == 0 &&
                named.st_dev == current.st_dev && named.st_ino == current.st_ino;
    pthread_mutex_unlock(&audit->lock);
    return same;
}

bool audit_reopen(struct audit *audit)
{
    if (audit == NULL) {
        return true;
    }
    /* flock() would refuse the same file to a second descriptor of this very process */
    if (is_current(audit)) {
        return true;
    }
    struct failure f;
    int fd = open_file(audit->path, &f);
    if (fd < 0) {
        log_error("%s; goes on in the file that is open", f.msg);
        return false;
    }
    last_seq(fd); /* ends a cut line; the numbers go on from this process's */
    pthread_mutex_lock(&audit->lock);
    int unused = audit->next_fd;
    audit->next_fd = fd;
    pthread_cond_signal(&audit->wake);
    pthread_mutex_unlock(&audit->lock);
    if (unused >= 0) {
        close(unused);
    }
    return true;
}

bool audit_healthy(const struct audit *audit)
{
    return audit == NULL || atomic_load_explicit(&audit->healthy, memory_order_relaxed);
}

/* Where the next body goes, with the lock held. */
static char *body_place(struct audit *audit, size_t *room)
{
    struct queue *queue = &audit->filling;
    size_t left = QUEUE_SIZE - queue->len;
    *room = left > sizeof(struct entry) ? left - sizeof(struct entry) : 0;
    return queue->bytes + queue->len + (*room > 0 ? sizeof(struct entry) : 0);
}

/* Takes the body of `len` bytes that was rendered there; 0 when it did not fit. Returns whether
 * this was the first to be lost. */
static bool body_done(struct audit *audit, size_t len)
{
    struct queue *queue = &audit->filling;
    bool first = queue->len == 0 && queue->lost == 0;
    bool first_lost = len == 0 && queue->lost == 0;
    bool was_half_full = queue->len >= QUEUE_SIZE / 2;
    if (len > 0 && queue->lost == 0) {
        struct entry entry = {.time_us = now_us(), .len = len};
        memcpy(queue->bytes + queue->len, &entry, sizeof entry);
        queue->len += sizeof entry + len;
    } else {
        queue->lost++;
        atomic_fetch_add(&audit->lost, 1);
    }
    /* the second signal ends the gathering */
    if (first || (!was_half_full && queue->len >= QUEUE_SIZE / 2)) {
        pthread_cond_signal(&audit->wake);
    }
    return first_lost;
}

static void told(struct audit *audit, bool first_lost)
{
    pthread_mutex_unlock(&audit->lock);
    if (first_lost) {
        became_unhealthy(audit, "the queue is full, records are being lost");
    }
}

void audit_tell(struct audit *audit, const struct audit_piece *who, const struct audit_piece *what,
                const struct audit_compared *compared)
{
    if (audit == NULL) {
        return;
    }
    size_t room;
    size_t len = who->len + what->len;
    pthread_mutex_lock(&audit->lock);
    char *place = body_place(audit, &room);
    if (len <= room) {
        memcpy(place, who->text, who->len);
        memcpy(place + who->len, what->text, what->len);
        len += audit_render_compared(place + len, room - len, compared);
    }
    told(audit, body_done(audit, len <= room ? len : 0));
}

void audit_tell_once(struct audit *audit, const struct audit_piece *who,
                     const struct audit_supplied *record)
{
    if (audit == NULL) {
        return;
    }
    size_t room;
    size_t len = 0;
    pthread_mutex_lock(&audit->lock);
    char *place = body_place(audit, &room);
    if (who->len <= room) {
        memcpy(place, who->text, who->len);
        len = audit_render_what(place + who->len, room - who->len, record);
    }
    told(audit, body_done(audit, len > 0 ? who->len + len : 0));
}

void audit_tell_copied(struct audit *audit, const struct audit_piece *who,
                       const struct audit_supplied *record)
{
    if (audit == NULL) {
        return;
    }
    size_t room;
    pthread_mutex_lock(&audit->lock);
    char *place = body_place(audit, &room);
    const size_t begun = audit_render_copied(place, room, who);
    const size_t len = begun == 0 ? 0 : audit_render_what(place + begun, room - begun, record);
    told(audit, body_done(audit, len > 0 ? begun + len : 0));
}

void audit_step(struct audit *audit, const char *rule, const char *run, const char *step,
                const char *detail)
{
    if (audit == NULL) {
        return;
    }
    size_t room;
    pthread_mutex_lock(&audit->lock);
    char *place = body_place(audit, &room);
    told(audit, body_done(audit, audit_render_step(place, room, rule, run, step, detail)));
}

void audit_count(const struct audit *audit, struct audit_counters *out)
{
    *out = (struct audit_counters){0};
    if (audit != NULL) {
        out->written = atomic_load_explicit(&audit->written, memory_order_relaxed);
        out->lost = atomic_load_explicit(&audit->lost, memory_order_relaxed);
    }
}
