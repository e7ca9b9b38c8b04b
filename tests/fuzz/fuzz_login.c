/*
 * A login between two peers that say what they like: several hosts, refusals and other tries, SCRAM
 * that pgsluice answers itself, with the secret known, unknown, late or never there. The session is
 * the proxy's own; the secrets' look-up is a stand-in.
 *
 * An input is a head (hosts, who knows which secret, how sends are cut) and a list of operations.
 * Among these is "say the right thing next", for either peer, with or without a byte of it changed.
 * Whatever happens: in a SCRAM login that pgsluice has taken over, the client hears
 * AuthenticationOk only after the server has granted it and the client has proved itself, the
 * server gets a proof only from a client that has proved itself, and when both peers are gone
 * nothing is left.
 */
#include "tests/fuzz/fuzz_peers.h"

#include <openssl/rand.h>

#include "proxy/worker.c"

#include "protocol/authentication.h"
#include "protocol/frame.h"

enum { OPERATIONS_MAX = 60, PIECES_MAX = 40, HOSTS = 2 };

/* --- what the process has around a session --- */

static struct catalog_snapshot no_rules;

uint64_t catalog_epoch(const struct catalog *catalog)
{
    (void)catalog;
    return 0;
}

struct catalog_snapshot *catalog_ref(struct catalog *catalog)
{
    (void)catalog;
    return &no_rules;
}

void catalog_share(struct catalog_snapshot *snapshot)
{
    (void)snapshot;
}

void catalog_unref(struct catalog *catalog, struct catalog_snapshot *snapshot)
{
    (void)catalog;
    (void)snapshot;
}

const struct catalog_database *catalog_find(const struct catalog_snapshot *snapshot,
                                            const char *database)
{
    (void)snapshot;
    (void)database;
    return NULL;
}

void catalog_request_refresh(struct catalog *catalog)
{
    (void)catalog;
}

bool catalog_is_awaited(const struct catalog *catalog)
{
    (void)catalog;
    return false;
}

/* The same numbers in every play, so that an input always means the same. */
static uint8_t next_random;

int RAND_bytes(unsigned char *room, int len)
{
    for (int i = 0; i < len; i++) {
        room[i] = next_random++;
    }
    return 1;
}

/* --- secrets: an answer at once or when an operation gives it --- */

struct secrets {
    enum secrets_result result;
    bool is_late;
    struct scram_secret secret; /* the client's password's */
    struct secrets_lookup *waiting;
};

static struct secrets secrets;

void secrets_lookup_free(struct secrets_lookup *lookup)
{
    free(lookup->arg);
    free(lookup);
}

void secrets_forget(struct secrets *s, struct secrets_lookup *lookup)
{
    lookup->is_forgotten = true;
    if (s->waiting == lookup) {
        s->waiting = NULL;
        secrets_lookup_free(lookup);
    }
}

struct secrets_lookup *secrets_find(struct secrets *s, const char *user,
                                    const struct scram_secret *like,
                                    void (*done)(struct secrets_lookup *lookup), void *arg,
                                    bool *at_once)
{
    struct secrets_lookup *lookup = calloc(1, sizeof *lookup);
    FUZZ_CHECK(lookup != NULL && s->waiting == NULL && strcmp(user, "me") == 0);
    lookup->result = s->result;
    lookup->secret = s->secret;
    lookup->like = *like;
    lookup->done = done;
    lookup->arg = arg;
    *at_once = !s->is_late;
    if (s->is_late) {
        s->waiting = lookup;
    }
    return lookup;
}

static void answer_lookup(void)
{
    struct secrets_lookup *lookup = secrets.waiting;
    if (lookup != NULL) {
        secrets.waiting = NULL;
        lookup->done(lookup);
    }
}

/* --- the process: made once --- */

static struct service service;
static struct worker worker;
static struct upstream upstream;
static int listeners[HOSTS];
static struct scram_secret secret;
static uint8_t client_key[SCRAM_KEY];
static struct config config = {
    .max_packet_size = 200000,
    .max_client_conn = 1000,
    .server_connect_timeout_ms = 3600000,
};

static void start(void)
{
    static char names[HOSTS][8] = {"first", "second"}, port[] = "0";
    static struct upstream_host hosts[HOSTS];
    static struct worker *workers[1] = {&worker};
    static const uint8_t salt[] = "as salty as it gets";
    for (size_t i = 0; i < HOSTS; i++) {
        hosts[i].name = names[i];
        hosts[i].port = port;
        listeners[i] = listen_as(names[i], &hosts[i]);
    }
    FUZZ_CHECK(scram_secret_derive((struct span){"password", 8}, salt, sizeof salt, 2, client_key,
                                   &secret));
    upstream.hosts = hosts;
    service.upstream = &upstream;
    service.registry = registry_new();
    service.limits = limits_new();
    service.workers = workers;
    service.worker_count = 1;
    atomic_store(&service.config, &config);
    worker.service = &service;
    FUZZ_CHECK(service.registry != NULL && worker_init(&worker));
}

/* --- one play --- */

struct play {
    struct peer client, server;
    size_t piece;                  /* sends are cut into pieces of so many bytes; 0: not cut */
    struct scram_client at_client; /* the roles that the peers play rightly */
    struct scram_server at_server;
    size_t client_read; /* of what it received, by its right answers */
    size_t server_read;
    unsigned client_turn, server_turn; /* right things said */
    bool is_quiet;                     /* what is sent waits until one of the peers parts */
    bool took_over;                    /* the session answers SCRAM itself */
    bool client_proved;                /* it sent a proof that is right */
    bool server_granted;               /* it sent something that may hold an AuthenticationOk */
};

static struct session *session_of(void)
{
    return worker.sessions;
}

static void server_forgets(struct play *play)
{
    scram_server_fini(&play->at_server);
    play->server.sent.len = play->server.received.len = 0;
    play->server_read = 0;
    play->server_turn = 0;
}

/* The session may have given one connection up and made another. */
static void accept_server(struct play *play)
{
    for (size_t i = 0; i < HOSTS; i++) {
        int fd = accept4(listeners[i], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            peer_close(&play->server);
            server_forgets(play);
            play->server.fd = fd;
        }
    }
}

static void pump(struct play *play)
{
    if (play->is_quiet) {
        return;
    }
    for (int turns = 0; turns < 3; turns++) {
        uv_run(&worker.loop, UV_RUN_NOWAIT);
        accept_server(play);
        play->took_over = play->took_over || (session_of() != NULL && session_of()->login != NULL);
    }
    peer_drain(&play->client);
    peer_drain(&play->server);
}

static void peer_send(struct play *play, struct peer *peer, const uint8_t *bytes, size_t len)
{
    const int fd = peer->fd;
    for (size_t at = 0, pieces = 0; at < len && peer->fd == fd && fd >= 0; pieces++) {
        size_t n = len - at;
        if (play->piece > 0 && pieces < PIECES_MAX && play->piece < n) {
            n = play->piece;
        }
        ssize_t took = send(fd, bytes + at, n, MSG_NOSIGNAL);
        if (took <= 0) {
            break; /* the session is gone */
        }
        bytes_add(&peer->sent, bytes + at, (size_t)took);
        at += (size_t)took;
        pump(play);
    }
}

/* The next whole message that a peer received; false when there is none. */
static bool next_message(const struct bytes *received, size_t *at, const uint8_t **message,
                         size_t *size)
{
    if (received->len - *at < FRAME_HEADER) {
        return false;
    }
    *message = received->at + *at;
    *size = 1 + (size_t)load_u32(*message + 1);
    if (*size < FRAME_HEADER || received->len - *at < *size) {
        return false;
    }
    *at += *size;
    return true;
}

/* --- what is right to say next --- */

static bool right_client(struct play *play, struct writer *w)
{
    static const uint8_t random[SCRAM_RANDOM] = "of the client";
    const uint8_t *message;
    size_t size;
    struct authentication asked;
    struct sasl_offer offer;
    if (!next_message(&play->client.received, &play->client_read, &message, &size) ||
        message[0] != 'R' || !authentication_read(message, size, &asked)) {
        return false;
    }
    if (authentication_read_sasl(message, size, &offer) && play->client_turn == 0) {
        play->client_turn = 1;
        authentication_write_initial(
            w, SCRAM_SHA_256, scram_client_first(&play->at_client, SCRAM_BINDING_NONE, random));
        return true;
    }
    struct span proof;
    if (asked.code != AUTHENTICATION_SASL_CONTINUE || play->client_turn != 1 ||
        scram_client_final(&play->at_client, asked.data, &secret, client_key, (struct span){0},
                           &proof) != SCRAM_OK) {
        return false;
    }
    play->client_turn = 2;
    authentication_write_response(w, proof);
    return true;
}

static bool server_first(struct play *play, struct writer *w)
{
    const uint8_t *message;
    size_t size;
    struct sasl_initial initial;
    struct span reply;
    if (!next_message(&play->server.received, &play->server_read, &message, &size) ||
        authentication_read_initial(message, size, &initial) != SASL_READ ||
        scram_server_mechanism(&play->at_server, initial.mechanism) != SCRAM_OK ||
        scram_server_first(&play->at_server, initial.data, &reply) != SCRAM_OK) {
        return false;
    }
    authentication_write_continue(w, reply);
    return true;
}

static bool server_last(struct play *play, struct writer *w)
{
    const uint8_t *message;
    size_t size;
    uint8_t learned[SCRAM_KEY];
    struct span data, reply;
    if (!next_message(&play->server.received, &play->server_read, &message, &size) ||
        authentication_read_response(message, size, &data) != SASL_READ ||
        scram_server_final(&play->at_server, data, (struct span){0}, learned, &reply) != SCRAM_OK) {
        return false;
    }
    authentication_write_final(w, reply);
    return true;
}

static bool right_server(struct play *play, struct writer *w)
{
    static const uint8_t random[SCRAM_RANDOM] = "of the server";
    switch (play->server_turn++) {
    case 0:
        if (play->server.received.len < 4) {
            return false; /* the startup packet comes without a type */
        }
        play->server_read = load_u32(play->server.received.at);
        scram_server_init(&play->at_server, &secret, false, random);
        authentication_write_sasl(w, false);
        return true;
    case 1:
        return server_first(play, w);
    case 2:
        return server_last(play, w);
    case 3:
        authentication_write_ok(w);
        return true;
    default:
        writer_begin(w, 'Z');
        writer_u8(w, 'I');
        writer_end(w);
        return true;
    }
}

/* What a server sends may hold a grant at any place: the session alone knows how it is framed. */
static bool may_grant(const uint8_t *bytes, size_t len)
{
    static const uint8_t code[4] = {0, 0, 0, 0};
    return memmem(bytes, len, code, sizeof code) != NULL;
}

static void say_right(struct play *play, bool is_server, struct fuzz_input *in)
{
    struct writer w;
    writer_init(&w, 4096);
    const uint8_t change = fuzz_u8(in);
    const size_t place = change != 0 ? fuzz_u8(in) : 0;
    struct peer *peer = is_server ? &play->server : &play->client;
    if (peer->fd >= 0 && (is_server ? right_server(play, &w) : right_client(play, &w)) && w.ok) {
        /* the end of a proof has bits that do not count */
        const bool is_changed = change != 0 && place + 4 < w.len;
        w.bytes[is_changed ? place : 0] ^= is_changed ? change : 0;
        play->server_granted = play->server_granted || (is_server && may_grant(w.bytes, w.len));
        play->client_proved =
            play->client_proved || (!is_server && play->client_turn == 2 && !is_changed);
        peer_send(play, peer, w.bytes, w.len);
    }
    writer_fini(&w);
}

/* --- operations --- */

static void send_message(struct play *play, struct peer *peer, struct fuzz_input *in)
{
    uint8_t message[FRAME_HEADER + 255 + 2048] = {0};
    const uint8_t type = fuzz_u8(in);
    const size_t padding = type >= 0x80 ? (size_t)fuzz_u8(in) * 8 : 0;
    const size_t wanted = fuzz_u8(in);
    size_t len;
    const uint8_t *body = fuzz_bytes(in, wanted, &len);
    message[0] = type & 0x7f;
    store_u32(message + 1, (uint32_t)(4 + len + padding));
    if (len > 0) {
        memcpy(message + FRAME_HEADER, body, len);
    }
    len += FRAME_HEADER + padding;
    play->server_granted =
        play->server_granted || (peer == &play->server && may_grant(message, len));
    peer_send(play, peer, message, len);
}

static void send_raw(struct play *play, struct peer *peer, struct fuzz_input *in)
{
    const size_t wanted = fuzz_u8(in);
    size_t len;
    const uint8_t *bytes = fuzz_bytes(in, wanted, &len);
    play->server_granted = play->server_granted || peer == &play->server;
    peer_send(play, peer, bytes, len);
}

static void part(struct play *play, uint8_t operand)
{
    struct peer *peer = (operand & 1) != 0 ? &play->server : &play->client;
    if ((operand & 2) != 0) {
        peer_close(peer);
    } else if (peer->fd >= 0) {
        shutdown(peer->fd, SHUT_WR);
    }
    play->is_quiet = false;
    pump(play);
}

static void pass_time(struct play *play, uint8_t operand)
{
    if ((operand & 4) != 0) {
        play->is_quiet = true;
    } else if (session_of() != NULL && (operand & 1) != 0) {
        connect_look(session_of(), UINT64_MAX); /* the server took too long */
    } else if (session_of() != NULL && (operand & 2) != 0) {
        session_fail(session_of(), "57014", "the login took too long");
    }
    pump(play);
}

static void step(struct play *play, struct fuzz_input *in)
{
    switch (fuzz_u8(in) % 10) {
    case 0:
    case 1:
        say_right(play, false, in);
        break;
    case 2:
    case 3:
        say_right(play, true, in);
        break;
    case 4:
        send_message(play, &play->client, in);
        break;
    case 5:
        send_message(play, &play->server, in);
        break;
    case 6:
        send_raw(play, fuzz_u8(in) % 2 != 0 ? &play->server : &play->client, in);
        break;
    case 7:
        answer_lookup();
        pump(play);
        break;
    case 8:
        part(play, fuzz_u8(in));
        break;
    default:
        pass_time(play, fuzz_u8(in));
        break;
    }
}

static void begin(struct play *play, uint8_t bits)
{
    static const uint8_t packet[] = "\0\0\0\21\0\3\0\0user\0me\0";
    _Static_assert(sizeof packet == 17, "the length that stands in it");
    int fds[2];
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    *play = (struct play){.client.fd = fds[0], .server.fd = -1};
    next_random = 0;
    upstream.count = (bits & 1) != 0 ? HOSTS : 1;
    service.secrets = (bits & 2) == 0 ? &secrets : NULL;
    secrets = (struct secrets){.result = (bits & 12) == 12  ? SECRETS_FAILED
                                         : (bits & 12) == 8 ? SECRETS_NONE
                                                            : SECRETS_FOUND,
                               .is_late = (bits & 12) == 4 || (bits & 16) != 0,
                               .secret = secret};
    secrets.secret.stored_key[0] ^= (bits & 32) != 0; /* the server's is another */
    play->piece = bits >> 6;
    atomic_fetch_add(&service.clients, 1);
    atomic_fetch_add(&worker.assigned, 1);
    session_accept(&worker, fds[1]);
    FUZZ_CHECK(session_of() != NULL);
    peer_send(play, &play->client, packet, sizeof packet);
}

/* --- what must hold --- */

static size_t count_proofs(const struct play *play)
{
    const struct bytes *received = &play->server.received;
    const uint8_t *message;
    size_t size, proofs = 0, at = received->len < 4 ? 0 : load_u32(received->at);
    while (at < received->len && next_message(received, &at, &message, &size)) {
        proofs += message[0] == 'p';
    }
    return proofs > 0 ? proofs - 1 : 0; /* the first one chooses the mechanism */
}

static bool is_told_ok(const struct play *play)
{
    const uint8_t *message;
    size_t size, at = 0;
    struct authentication told;
    while (next_message(&play->client.received, &at, &message, &size)) {
        if (message[0] == 'R' && authentication_read(message, size, &told) &&
            told.code == AUTHENTICATION_OK) {
            return true;
        }
    }
    return false;
}

static void check(const struct play *play)
{
    const bool may_prove = play->client_proved && secrets.result == SECRETS_FOUND &&
                           memcmp(&secrets.secret, &secret, sizeof secret) == 0;
    if (!play->took_over) {
        return;
    }
    FUZZ_CHECK(count_proofs(play) == 0 || may_prove);
    FUZZ_CHECK(!is_told_ok(play) || (may_prove && play->server_granted));
}

/* Both peers go away: so must the session, whether its look-up is answered or not. */
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
    FUZZ_CHECK(secrets.waiting == NULL);
    FUZZ_CHECK(atomic_load(&service.clients) == 0 && atomic_load(&worker.assigned) == 0);
    accept_server(play);
    peer_close(&play->server);
    scram_client_fini(&play->at_client);
    scram_server_fini(&play->at_server);
    free(play->client.sent.at);
    free(play->client.received.at);
    free(play->server.sent.at);
    free(play->server.received.at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool is_started;
    if (!is_started) {
        is_started = true;
        start();
    }
    struct fuzz_input in = {data, size};
    struct play play;
    begin(&play, fuzz_u8(&in));
    for (int i = 0; i < OPERATIONS_MAX && in.len > 0; i++) {
        step(&play, &in);
        check(&play);
    }
    end(&play);
    return 0;
}
