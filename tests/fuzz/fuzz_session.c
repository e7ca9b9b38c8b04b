/*
 * A whole session between two peers that say what they like: start-up, relay, rules, gate, cancel,
 * one side or the other going away. The session is the proxy's own, on a worker whose loop runs
 * here instead of in a thread; the peers are sockets of this process; the catalog is a stand-in.
 *
 * An input is a head (what database, which rules, how it is cut) and a list of operations. It is
 * played twice, once as it is and once with every send cut into pieces: what both peers received
 * must be the same. Without rules it must be what the other side sent. At the end nothing may be
 * left: no session, no count at a gate, no memory.
 */
#include "tests/fuzz/fuzz_peers.h"
#include "tests/fuzz/fuzz_rules.h"

#include <errno.h>

#include "proxy/worker.c"

#include "protocol/frame.h"

enum { OPERATIONS_MAX = 100, SMALL = 4096, PIECES_MAX = 24, PACKET_MAX = 200000 };

/* --- the catalog: one database, "app", whose rules an operation may change --- */

struct catalog {
    uint64_t epoch;
    struct counted *newest;
};

struct counted {
    struct catalog_snapshot snapshot;
    struct catalog_database database;
    size_t rule_index[FUZZ_RULES];
    atomic_int count; /* the judging thread has its own */
};

static struct catalog catalog;

uint64_t catalog_epoch(const struct catalog *c)
{
    return c->epoch;
}

struct catalog_snapshot *catalog_ref(struct catalog *c)
{
    c->newest->count++;
    return &c->newest->snapshot;
}

void catalog_share(struct catalog_snapshot *snapshot)
{
    ((struct counted *)snapshot)->count++; /* its first member */
}

void catalog_unref(struct catalog *c, struct catalog_snapshot *snapshot)
{
    (void)c;
    struct counted *counted = (struct counted *)snapshot; /* its first member */
    if (counted != NULL && --counted->count == 0) {
        free(counted);
    }
}

const struct catalog_database *catalog_find(const struct catalog_snapshot *snapshot,
                                            const char *database)
{
    return strcmp(database, "app") == 0 ? &snapshot->databases[0] : NULL;
}

void catalog_request_refresh(struct catalog *c)
{
    (void)c;
}

bool catalog_is_awaited(const struct catalog *c)
{
    (void)c;
    return false;
}

static void catalog_publish(uint8_t setting)
{
    struct counted *counted = calloc(1, sizeof *counted);
    FUZZ_CHECK(counted != NULL);
    counted->count = 1;
    counted->rule_index[0] = 1; /* the configuration has them the other way round */
    counted->database = (struct catalog_database){
        .name = NULL,
        .set = fuzz_rule_set(setting),
        .rule_index = counted->rule_index,
        .rule_count = FUZZ_RULES,
        .snapshot_default = (setting & 64) != 0,
    };
    counted->snapshot = (struct catalog_snapshot){
        .epoch = ++catalog.epoch, .databases = &counted->database, .database_count = 1};
    if (catalog.newest != NULL) {
        catalog_unref(&catalog, &catalog.newest->snapshot);
    }
    catalog.newest = counted;
}

/* --- the process: made once --- */

static struct service service;
static struct worker worker;
static int listener;

static char rule_names[FUZZ_RULES][8] = {"notes", "chunks"};
static struct config_rule config_rules[FUZZ_RULES] = {{.name = rule_names[0]},
                                                      {.name = rule_names[1]}};
static struct config config = {
    .max_packet_size = PACKET_MAX,
    .max_client_conn = 1000,
    .rules = config_rules,
    .rule_count = FUZZ_RULES,
};

static void start(void)
{
    static char name[] = "fuzz", port[] = "0";
    static struct upstream_host host = {.name = name, .port = port};
    static struct upstream upstream = {.hosts = &host, .count = 1};
    static struct gate *gates[FUZZ_RULES];
    static struct worker *workers[1] = {&worker};
    listener = listen_as("session", &host);
    for (size_t i = 0; i < FUZZ_RULES; i++) {
        gates[i] = gate_new(rule_names[i]);
        FUZZ_CHECK(gates[i] != NULL);
    }
    service.upstream = &upstream;
    service.catalog = &catalog;
    service.gates = gates;
    service.limits = limits_new();
    service.registry = registry_new();
    service.workers = workers;
    service.worker_count = 1;
    atomic_store(&service.config, &config);
    snprintf(service.nonce, sizeof service.nonce, "0123456789abcdef");
    catalog_publish(0);
    worker.service = &service;
    FUZZ_CHECK(service.registry != NULL && worker_init(&worker));
}

/* --- one play --- */

struct play {
    struct peer client, server;
    size_t piece;  /* sends are cut into pieces of so many bytes; 0: not cut */
    bool answers;  /* the server grants every login at once */
    bool is_slow;  /* the peers read nothing before the end, and what the sockets hold is little */
    bool was_full; /* a peer could not send all it had to say: a held session does not read */
};

static struct session *session_of(void)
{
    return worker.sessions;
}

static void narrow(int fd)
{
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){1}, sizeof(int));
}

static void accept_server(struct play *play)
{
    static const uint8_t granted[] = "R\0\0\0\10\0\0\0";

    if (play->server.fd >= 0 || session_of() == NULL || session_of()->state == SESSION_STARTUP) {
        return;
    }
    play->server.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (play->server.fd >= 0 && play->is_slow) {
        narrow(session_of()->server.fd);
    }
    if (play->server.fd >= 0 && play->answers &&
        send(play->server.fd, granted, sizeof granted, MSG_NOSIGNAL) > 0) {
        bytes_add(&play->server.sent, granted, sizeof granted);
    }
}

/* Lets the session do what there is to do: a relaying one does it at once. */
static void pump(struct play *play)
{
    int turns = session_of() != NULL && session_of()->state == SESSION_RELAY ? 1 : 3;
    for (; turns > 0; turns--) {
        uv_run(&worker.loop, UV_RUN_NOWAIT);
        while (session_of() != NULL && session_of()->wait == SESSION_WAIT_JUDGE) {
            uv_run(&worker.loop, UV_RUN_ONCE); /* the thread brings it back */
        }
        accept_server(play);
    }
    if (!play->is_slow) {
        peer_drain(&play->client);
        peer_drain(&play->server);
    }
}

/* The same until nothing more comes out of it. */
static void settle(struct play *play)
{
    size_t before, after = SIZE_MAX;
    do {
        before = after;
        pump(play);
        pump(play);
        after = play->client.received.len + play->server.received.len;
    } while (after != before);
}

static void peer_send(struct play *play, struct peer *peer, const uint8_t *bytes, size_t len)
{
    for (size_t at = 0, pieces = 0; at < len && peer->fd >= 0; pieces++) {
        size_t n = len - at;
        if (play->piece > 0 && pieces < PIECES_MAX && play->piece < n) {
            n = play->piece;
        }
        ssize_t took = send(peer->fd, bytes + at, n, MSG_NOSIGNAL);
        if (took <= 0) {
            play->was_full = play->was_full || (took < 0 && errno == EAGAIN);
            break; /* or the session is gone */
        }
        bytes_add(&peer->sent, bytes + at, (size_t)took);
        at += (size_t)took;
        pump(play);
    }
    if (!play->is_slow && len > SMALL) {
        settle(play);
    }
}

static void send_raw(struct play *play, struct peer *peer, struct fuzz_input *in)
{
    const size_t wanted = fuzz_u8(in);
    size_t len;
    const uint8_t *bytes = fuzz_bytes(in, wanted, &len);
    peer_send(play, peer, bytes, len);
}

/* A message whose length fits; up to 255 bytes of it come from the input, and as many more are zero
 * as the byte before says, times 512. */
static void send_message(struct play *play, struct peer *peer, struct fuzz_input *in)
{
    const uint8_t type = fuzz_u8(in);
    const size_t padding = type >= 0x80 ? (size_t)fuzz_u8(in) * 512 : 0;
    const size_t wanted = fuzz_u8(in);
    size_t len;
    const uint8_t *body = fuzz_bytes(in, wanted, &len);
    uint8_t *message = calloc(1, FRAME_HEADER + len + padding);
    FUZZ_CHECK(message != NULL);
    message[0] = type & 0x7f;
    store_u32(message + 1, (uint32_t)(4 + len + padding));
    if (len > 0) {
        memcpy(message + FRAME_HEADER, body, len);
    }
    peer_send(play, peer, message, FRAME_HEADER + len + padding);
    free(message);
}

static void set_gates(struct play *play, uint8_t operand)
{
    for (size_t i = 0; i < FUZZ_RULES; i++) {
        if ((operand >> i & 1) != 0) {
            gate_arm(service.gates[i]);
            gate_hold(service.gates[i], UINT64_C(3600000000000));
        } else {
            gate_open(service.gates[i]);
        }
    }
    worker_post(&worker, mail_new(MAIL_GATE));
    pump(play);
}

static void cancel(struct play *play)
{
    struct mail *mail = mail_new(MAIL_CANCEL);
    FUZZ_CHECK(mail != NULL);
    if (session_of() != NULL && session_of()->cancel_key != NULL) {
        mail->key = *session_of()->cancel_key;
    }
    worker_post(&worker, mail);
    pump(play);
}

static void part(struct play *play, uint8_t operand)
{
    struct peer *peer = (operand & 1) != 0 ? &play->server : &play->client;
    if ((operand & 2) != 0) {
        peer_close(peer);
    } else if (peer->fd >= 0) {
        shutdown(peer->fd, SHUT_WR);
    }
    pump(play);
}

static void step(struct play *play, struct fuzz_input *in)
{
    switch (fuzz_u8(in) & 7) {
    case 0:
        send_raw(play, &play->client, in);
        break;
    case 1:
        send_raw(play, &play->server, in);
        break;
    case 2:
    case 3:
        send_message(play, &play->client, in);
        break;
    case 4:
        send_message(play, &play->server, in);
        break;
    case 5:
        set_gates(play, fuzz_u8(in));
        break;
    case 6:
        cancel(play);
        break;
    default: {
        const uint8_t operand = fuzz_u8(in);
        if ((operand & 0x80) != 0) {
            catalog_publish(operand);
        } else {
            part(play, operand);
        }
        break;
    }
    }
}

static void begin(struct play *play, bool is_slow)
{
    int fds[2];
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    *play = (struct play){.client.fd = fds[0], .server.fd = -1, .is_slow = is_slow};
    if (is_slow) {
        narrow(fds[1]);
    }
    atomic_fetch_add(&service.clients, 1);
    atomic_fetch_add(&worker.assigned, 1);
    session_accept(&worker, fds[1]);
    FUZZ_CHECK(session_of() != NULL);
}

static void check_gates(void)
{
    for (size_t i = 0; i < FUZZ_RULES; i++) {
        struct gate_counts counts;
        gate_count(service.gates[i], &counts);
        FUZZ_CHECK(counts.held == 0);
        FUZZ_CHECK(counts.inflight_writes == 0);
        FUZZ_CHECK(counts.snapshots == 0);
        FUZZ_CHECK(counts.unstripped == 0);
    }
}

/* Both peers go away: so must the session. */
static void end(struct play *play)
{
    peer_close(&play->client);
    peer_close(&play->server);
    for (int i = 0; i < 20 && session_of() != NULL; i++) {
        uv_run(&worker.loop, UV_RUN_NOWAIT);
        accept_server(play);
        peer_close(&play->server);
    }
    FUZZ_CHECK(session_of() == NULL);
    for (int i = 0; i < 3; i++) {
        uv_run(&worker.loop, UV_RUN_NOWAIT); /* frees it */
    }
    for (int fd; (fd = accept(listener, NULL, NULL)) >= 0;) {
        close(fd);
    }
    set_gates(play, 0);
    FUZZ_CHECK(worker.held == NULL);
    FUZZ_CHECK(atomic_load(&service.clients) == 0 && atomic_load(&worker.assigned) == 0);
    check_gates();
}

static void play_free(struct play *play)
{
    free(play->client.sent.at);
    free(play->client.received.at);
    free(play->server.sent.at);
    free(play->server.received.at);
}

static bool begins_with(const struct bytes *whole, const struct bytes *part)
{
    return part->len <= whole->len &&
           (part->len == 0 || memcmp(whole->at, part->at, part->len) == 0);
}

/* Without rules a session is a pipe: what one side sent, less what is not yet a whole header. */
static void check_plain(const struct play *play, bool is_alive)
{
    const struct session *s = session_of();
    FUZZ_CHECK(begins_with(&play->client.sent, &play->server.received));
    if (is_alive) {
        FUZZ_CHECK(begins_with(&play->server.sent, &play->client.received));
    }
    if (is_alive && !s->server_gone) {
        FUZZ_CHECK(play->server.received.len + s->front.stash_len == play->client.sent.len);
        FUZZ_CHECK(play->client.received.len + s->back.stash_len == play->server.sent.len);
    }
}

struct head {
    bool has_startup, has_rules, is_slow, answers;
    uint8_t setting;
    size_t piece;
};

static struct head read_head(struct fuzz_input *in)
{
    const uint8_t bits = fuzz_u8(in);
    struct head head = {
        .has_startup = (bits & 1) == 0,
        .has_rules = (bits & 2) == 0,
        .is_slow = (bits & 12) == 12,
        .answers = bits >> 4 != 15,
    };
    head.setting = fuzz_u8(in);
    head.piece = 1 + (size_t)(bits >> 4);
    return head;
}

static void send_startup(struct play *play, bool has_rules)
{
    static const uint8_t app[] = "\0\0\0\36\0\3\0\0user\0me\0database\0app\0";
    static const uint8_t other[] = "\0\0\0\36\0\3\0\0user\0me\0database\0any\0";
    _Static_assert(sizeof app == 30 && sizeof other == 30, "the length that stands in them");
    peer_send(play, &play->client, has_rules ? app : other, sizeof app);
}

/* True when the session was still relaying at the end. */
static bool run(struct play *play, const struct head *head, struct fuzz_input in, size_t piece)
{
    catalog_publish(head->setting);
    begin(play, head->is_slow);
    play->answers = head->answers;
    play->piece = piece;
    if (head->has_startup) {
        send_startup(play, head->has_rules);
    }
    for (int i = 0; i < OPERATIONS_MAX && in.len > 0; i++) {
        step(play, &in);
    }
    set_gates(play, 0);
    play->is_slow = false;
    settle(play);
    const struct session *s = session_of();
    /* a cancel request ends when the server ends it: then or later */
    const bool is_alive = s != NULL && s->state == SESSION_RELAY && !s->is_cancel &&
                          play->client.fd >= 0 && play->server.fd >= 0;
    if (head->has_startup && !head->has_rules) {
        check_plain(play, is_alive);
    }
    end(play);
    return is_alive;
}

static bool is_same(const struct bytes *a, const struct bytes *b)
{
    return a->len == b->len && begins_with(a, b);
}

static void tell(const char *what, const struct bytes *b)
{
    fprintf(stderr, "%s, %zu bytes: ", what, b->len);
    for (size_t i = 0; i < b->len; i++) {
        const bool is_plain = b->at[i] >= 0x20 && b->at[i] < 0x7f && b->at[i] != '\\';
        fprintf(stderr, is_plain ? "%c" : "\\%02x", b->at[i]);
    }
    fputc('\n', stderr);
}

/* A slow peer has the two directions take turns in another order: it is not compared. */
static void check_alike(const struct play *whole, bool is_whole_alive, const struct play *cut,
                        bool is_cut_alive)
{
    const bool alike =
        is_whole_alive == is_cut_alive &&
        (!is_whole_alive || (is_same(&whole->client.sent, &cut->client.sent) &&
                             is_same(&whole->server.received, &cut->server.received) &&
                             is_same(&whole->client.received, &cut->client.received)));
    if (!alike) {
        tell("client received, whole", &whole->client.received);
        tell("client received, cut", &cut->client.received);
        tell("server received, whole", &whole->server.received);
        tell("server received, cut", &cut->server.received);
    }
    FUZZ_CHECK(alike);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool is_started;
    if (!is_started) {
        is_started = true;
        start();
    }
    struct fuzz_input in = {data, size};
    const struct head head = read_head(&in);
    struct play whole, cut;
    const bool is_whole_alive = run(&whole, &head, in, 0);
    const bool is_cut_alive = run(&cut, &head, in, head.piece);
    if (!head.is_slow && !whole.was_full && !cut.was_full) {
        check_alike(&whole, is_whole_alive, &cut, is_cut_alive);
    }
    play_free(&whole);
    play_free(&cut);
    return 0;
}
