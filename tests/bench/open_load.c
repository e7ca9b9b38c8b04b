/*
 * An open-loop load on the owners' table, for the cutover's figures. Statements are due at times
 * that are drawn beforehand and know nothing of the answers, each at the session that has been idle
 * for the longest; one that finds no idle session waits for it, and its latency counts from when it
 * was due. So a pause shows up in every statement that an application would have sent meanwhile.
 *
 * usage: bench_open_load CONNINFO WRITERS WRITES_PER_SECOND READERS READS_PER_SECOND ROWS LOG
 *
 * A write inserts one row with (session, number) in document_id and chunk_index; a read fetches one
 * row by id, of 1 to ROWS. Both are prepared once a session. When all sessions are ready, one line
 * with the servers' process ids goes to stdout; SIGTERM ends the load: what is due is still done.
 * The log has a `struct record` for each statement, in the order of their ends.
 */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <libpq-fe.h>

#define SECOND_NS INT64_C(1000000000)
#define DRAIN_NS (30 * SECOND_NS)
#define EVENTS 64
#define KEY_EVERY 10 /* of so many writing sessions one supplies a key, a wrong one */

enum kind { KIND_WRITE, KIND_READ, KINDS };

/* As tests/bench/cutovers.py reads it: times of CLOCK_REALTIME, "00000" for what was acknowledged,
 * nothing for what was never answered. */
struct record {
    int64_t due_ns, sent_ns, done_ns;
    uint32_t session, number;
    char kind;
    char sqlstate[5];
    char padding[2];
};

struct session {
    PGconn *conn;
    enum kind kind;
    bool busy, broken;
    struct session *next; /* in the queue of the idle ones */
    uint32_t number;      /* of the next write */
    struct record now;
};

/* The sessions of one kind, and when their statements are due. `next_ns` is the oldest that nobody
 * has sent yet: in the past when all sessions are busy. */
struct stream {
    int64_t next_ns;
    double mean_ns;
    struct session *first, *last;
};

static struct session *sessions;
static struct stream streams[KINDS];
static unsigned session_count, busy_count;
static uint64_t chance = 88172645463325252;
static FILE *log_file;
static unsigned long row_count;
static int64_t end_ns = INT64_MAX; /* nothing is due any more from here on */

static const char *const statements[KINDS] = {
    [KIND_WRITE] = "INSERT INTO chunks (collection_id, document_id, chunk_index, content) "
                   "VALUES ($1, $2, $3, $4)",
    [KIND_READ] = "SELECT id, collection_id, partition_key, content FROM chunks WHERE id = $1",
};
static const char write_with_key[] =
    "INSERT INTO chunks (collection_id, document_id, chunk_index, content, partition_key) "
    "VALUES ($1, $2, $3, $4, 4711)";

static _Noreturn void die(const char *what, const char *why)
{
    fprintf(stderr, "bench_open_load: %s: %s\n", what, why);
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * SECOND_NS + now.tv_nsec;
}

/* xorshift64: the same load in every run. */
static uint64_t draw(void)
{
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return chance;
}

/* Independent arrivals: gaps of an exponential distribution. */
static void draw_next(struct stream *stream)
{
    double uniform = ((double)(draw() >> 11) + 1) / 9007199254740993.0;
    stream->next_ns += (int64_t)(-log(uniform) * stream->mean_ns);
}

static void queue_idle(struct session *s)
{
    struct stream *stream = &streams[s->kind];
    s->next = NULL;
    if (stream->first == NULL) {
        stream->first = s;
    } else {
        stream->last->next = s;
    }
    stream->last = s;
}

static void note(struct session *s, const char *sqlstate)
{
    s->now.done_ns = now_ns();
    memcpy(s->now.sqlstate, sqlstate, sizeof s->now.sqlstate);
    if (fwrite(&s->now, sizeof s->now, 1, log_file) != 1) {
        die("the log", strerror(errno));
    }
    s->busy = false;
    busy_count--;
}

static void send_statement(struct session *s, int64_t due_ns)
{
    static const char content[] = "lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do "
                                  "eiusmod tempor incididunt ut labore et dolore magna aliqua";
    char first[32];
    char document[32];
    char index[16];
    const char *values[] = {first, document, index, content};
    bool writes = s->kind == KIND_WRITE;
    s->now = (struct record){.due_ns = due_ns,
                             .session = (uint32_t)(s - sessions),
                             .number = s->number++,
                             .kind = writes ? 'w' : 'r'};
    snprintf(document, sizeof document, "%u", s->now.session);
    snprintf(index, sizeof index, "%u", s->now.number);
    snprintf(first, sizeof first, writes ? "collection %lu" : "%lu",
             writes ? (unsigned long)(draw() % 300) : 1 + (unsigned long)(draw() % row_count));
    s->busy = true;
    busy_count++;
    s->now.sent_ns = now_ns();
    if (!PQsendQueryPrepared(s->conn, "s", writes ? 4 : 1, values, NULL, NULL, 0) ||
        PQflush(s->conn) != 0) {
        s->broken = true;
        note(s, "\0\0\0\0\0");
    }
}

/* Takes what a session has got; it is idle again when its statement is answered. */
static void receive(struct session *s)
{
    if (!PQconsumeInput(s->conn)) {
        s->broken = true;
    }
    char sqlstate[6] = "00000";
    while (!s->broken && s->busy && !PQisBusy(s->conn)) {
        PGresult *result = PQgetResult(s->conn);
        if (result == NULL) {
            note(s, sqlstate);
            queue_idle(s);
            return;
        }
        const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
        bool wrong = s->kind == KIND_READ && PQntuples(result) != 1;
        if (state != NULL || wrong) {
            snprintf(sqlstate, sizeof sqlstate, "%s", state != NULL ? state : "02000");
            fprintf(stderr, "session %u: %s\n", s->now.session,
                    state != NULL ? PQresultErrorMessage(result) : "a row is missing");
        }
        PQclear(result);
    }
    if (s->broken) {
        fprintf(stderr, "session %u: %s\n", s->now.session, PQerrorMessage(s->conn));
        if (s->busy) {
            note(s, "\0\0\0\0\0");
        }
        PQfinish(s->conn);
        s->conn = NULL;
    }
}

/* Sends what is due, as far as there are idle sessions, and returns when the next is. */
static int64_t send_due(void)
{
    int64_t next = INT64_MAX;
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct stream *stream = &streams[kind];
        while (stream->first != NULL && stream->next_ns < end_ns && stream->next_ns <= now_ns()) {
            struct session *s = stream->first;
            stream->first = s->next;
            send_statement(s, stream->next_ns);
            draw_next(stream);
        }
        if (stream->first != NULL && stream->next_ns < end_ns && stream->next_ns < next) {
            next = stream->next_ns;
        }
    }
    return next;
}

/* Whether nothing that was due before the end waits any more, for a session or for its answer. */
static bool is_drained(void)
{
    for (enum kind kind = 0; kind < KINDS; kind++) {
        if (streams[kind].mean_ns < INFINITY && streams[kind].next_ns < end_ns) {
            return false;
        }
    }
    return busy_count == 0;
}

static void wake_at(int timer, int64_t ns)
{
    struct itimerspec when = {.it_value = {.tv_sec = 0}};
    if (ns != INT64_MAX) {
        when.it_value = (struct timespec){.tv_sec = ns / SECOND_NS, .tv_nsec = ns % SECOND_NS};
    }
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void run(int loop, int timer, int signals)
{
    struct epoll_event events[EVENTS];
    for (;;) {
        wake_at(timer, send_due());
        if (end_ns != INT64_MAX && (is_drained() || now_ns() > end_ns + DRAIN_NS)) {
            return;
        }
        int count = epoll_wait(loop, events, EVENTS, end_ns == INT64_MAX ? -1 : 10);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == NULL) {
                uint64_t ignored;
                (void)!read(timer, &ignored, sizeof ignored);
            } else if (events[i].data.ptr == &end_ns) {
                struct signalfd_siginfo ignored;
                (void)!read(signals, &ignored, sizeof ignored);
                end_ns = now_ns();
            } else {
                receive(events[i].data.ptr);
            }
        }
    }
}

static void watch(int loop, int fd, void *what)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};
    if (epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event) != 0) {
        die("epoll", strerror(errno));
    }
}

static void open_session(struct session *s, const char *conninfo, int loop)
{
    s->conn = PQconnectdb(conninfo);
    if (PQstatus(s->conn) != CONNECTION_OK) {
        die("connecting", PQerrorMessage(s->conn));
    }
    bool supplies = s->kind == KIND_WRITE && (s - sessions) % KEY_EVERY == 0;
    PGresult *result =
        PQprepare(s->conn, "s", supplies ? write_with_key : statements[s->kind], 0, NULL);
    if (PQresultStatus(result) != PGRES_COMMAND_OK || PQsetnonblocking(s->conn, 1) != 0) {
        die("preparing", PQerrorMessage(s->conn));
    }
    PQclear(result);
    watch(loop, PQsocket(s->conn), s);
    queue_idle(s);
}

int main(int argc, char **argv)
{
    if (argc != 8) {
        die("usage", "CONNINFO WRITERS WRITES_PER_SECOND READERS READS_PER_SECOND ROWS LOG");
    }
    unsigned writers = (unsigned)strtoul(argv[2], NULL, 10);
    session_count = writers + (unsigned)strtoul(argv[4], NULL, 10);
    row_count = strtoul(argv[6], NULL, 10);
    sessions = calloc(session_count, sizeof *sessions);
    log_file = fopen(argv[7], "wb");
    if (sessions == NULL || log_file == NULL || row_count == 0) {
        die(argv[7], "cannot begin");
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    int loop = epoll_create1(0);
    int timer = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
    int signals = signalfd(-1, &ends, SFD_NONBLOCK);
    watch(loop, timer, NULL);
    watch(loop, signals, &end_ns);
    for (unsigned i = 0; i < session_count; i++) {
        sessions[i].kind = i < writers ? KIND_WRITE : KIND_READ;
        open_session(&sessions[i], argv[1], loop);
    }
    for (unsigned i = 0; i < session_count; i++) {
        printf("%d%c", PQbackendPID(sessions[i].conn), i + 1 < session_count ? ' ' : '\n');
    }
    fflush(stdout);
    for (enum kind kind = 0; kind < KINDS; kind++) {
        double rate = strtod(argv[kind == KIND_WRITE ? 3 : 5], NULL);
        streams[kind].mean_ns = rate > 0 ? (double)SECOND_NS / rate : INFINITY;
        streams[kind].next_ns = rate > 0 ? now_ns() : INT64_MAX;
    }
    run(loop, timer, signals);
    for (unsigned i = 0; i < session_count; i++) {
        if (sessions[i].busy) {
            note(&sessions[i], "\0\0\0\0\0");
        }
        PQfinish(sessions[i].conn);
    }
    if (fclose(log_file) != 0) {
        die("the log", strerror(errno));
    }
    free(sessions);
    return 0;
}
