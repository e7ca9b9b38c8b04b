/*
 * A session's life cycle and its sockets' events; see session.h. What arrives is read into the
 * worker's buffer, behind what was left of the last read, and consumed there; only a message that
 * must be whole and does not fit gets room of its own.
 */
#include "proxy/session/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol/message.h"
#include "proxy/admin/console.h"
#include "proxy/log.h"
#include "proxy/net/address.h"
#include "proxy/service.h"
#include "proxy/session/copying.h"
#include "proxy/session/large.h"
#include <utlist.h>

struct service *session_service(const struct session *s)
{
    return s->worker->service;
}

/* --- end of life --- */

static void count_gone(struct worker *worker)
{
    atomic_fetch_sub(&worker->service->clients, 1);
    atomic_fetch_sub(&worker->assigned, 1);
}

static void session_free(struct session *s)
{
    connect_fini(s);
    login_fini(s);
    ledger_fini(&s->ledger);
    copying_free(s->copying_streams);
    large_drop(s);
    large_free_stash(s->worker, s->front.stash, s->front.stash_room);
    free(s->back.stash);
    free(s->cancel_key);
    free(s->user);
    free(s->database);
    free(s->application_name);
    free(s->client_name);
    free(s->tls_subject);
    free(s->tls_name);
    free(s->who);
    free(s);
}

void session_release(struct session *s)
{
    s->handles--;
    if (s->state == SESSION_CLOSING && s->handles == 0) {
        session_free(s);
    }
}

static void on_closed(uv_handle_t *handle)
{
    struct session *s = handle->data;
    bool retry = s->state == SESSION_CONNECTING;
    session_release(s);
    if (retry) {
        connect_dropped(s);
    }
}

static bool intake_keep(struct intake *in, const uint8_t *bytes, size_t len);

void session_drop_server(struct session *s)
{
    intake_keep(&s->back, NULL, 0);
    s->server_gone = false;
    stream_close(&s->server, on_closed);
}

static void leave_limits(struct session *s)
{
    if (s->counted) {
        s->counted = false;
        limits_leave(session_service(s)->limits, s->user, s->database);
    }
}

void session_close(struct session *s)
{
    if (s->state == SESSION_CLOSING) {
        return;
    }
    hold_note_end(s);
    copying_gone(s);
    large_drop(s);
    s->state = SESSION_CLOSING;
    DL_DELETE(s->worker->sessions, s);
    worker_add(&s->worker->counters.sessions, (uint64_t)-1);
    count_gone(s->worker);
    leave_limits(s);
    if (s->is_strange) {
        atomic_fetch_sub(&session_service(s)->strange_cancels, 1);
    }
    if (s->cancel_key != NULL) {
        registry_remove(session_service(s)->registry, s->cancel_key);
    }
    if (s->resolving != NULL) {
        uv_cancel((uv_req_t *)s->resolving);
    }
    stream_close(&s->client, on_closed);
    stream_close(&s->server, on_closed);
}

bool session_reply(struct session *s, const struct writer *w)
{
    struct iovec iov = {.iov_base = w->bytes, .iov_len = w->len};
    if (!w->ok || stream_send(&s->client, &iov, 1) != STREAM_OK) {
        session_close(s);
        return false;
    }
    return true;
}

static void reply_fatal(struct session *s, const char *sqlstate, const char *text,
                        const char *detail)
{
    /* within a message of the server's an error would be read as its body */
    if (s->back.body > 0 || s->is_cancel || !stream_is_open(&s->client)) {
        return;
    }
    struct writer w;
    writer_init(&w, 4096);
    message_write_error(&w, &(struct message_error){.severity = "FATAL",
                                                    .severity_code = "FATAL",
                                                    .sqlstate = sqlstate,
                                                    .message = text,
                                                    .detail = detail[0] != '\0' ? detail : NULL});
    session_reply(s, &w);
    writer_fini(&w);
}

/* A socket that is closed with input unread resets the connection, and the peer may never see what
 * was sent last: takes what is there. */
static void swallow_input(struct session *s)
{
    for (int i = 0; i < 4 && recv(s->client.fd, s->worker->buffer, WORKER_BUFFER, 0) > 0; i++) {
    }
}

void session_fail_detail(struct session *s, const char *sqlstate, const char *message,
                         const char *detail)
{
    if (s->state == SESSION_CLOSING) {
        return;
    }
    log_info("client %s: %s: %s%s%s", s->client_name != NULL ? s->client_name : "?", sqlstate,
             message, detail[0] != '\0' ? ": " : "", detail);
    leave_limits(s); /* a client that reads its error may connect again at once */
    reply_fatal(s, sqlstate, message, detail);
    if (s->state != SESSION_CLOSING) {
        swallow_input(s);
    }
    session_close(s);
}

void session_fail(struct session *s, const char *sqlstate, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    session_fail_detail(s, sqlstate, text, "");
}

/* Nothing that was sent to the server is unanswered, and nothing is being gathered for it. */
static bool is_answered(const struct session *s)
{
    return s->syncs_sent == s->syncs_done && !s->batch_open;
}

bool session_is_idle(const struct session *s)
{
    return s->state == SESSION_RELAY && s->transaction == 'I' && is_answered(s) &&
           s->wait == SESSION_WAIT_NONE && s->front.body == 0;
}

void session_drain(struct session *s)
{
    /* a transaction that its client has left is the server's to end */
    bool is_left = s->terminated && s->syncs_sent == s->syncs_done;
    if (session_is_idle(s) || is_left || s->state < SESSION_RELAY || s->state == SESSION_CONSOLE) {
        session_fail(s, "57P01", "terminating connection: pgsluice is shutting down");
    }
}

void session_look(struct session *s, uint64_t now_ms)
{
    const struct config *config = service_config(session_service(s));
    uint64_t since = now_ms - s->active_ms;
    if (s->state != SESSION_RELAY || s->wait != SESSION_WAIT_NONE || s->transaction == 0 ||
        s->streaming) {
        return;
    }
    if (!is_answered(s)) {
        if (config->query_timeout_ms > 0 && since > config->query_timeout_ms) {
            session_fail(s, "57014", "terminating connection due to query_timeout");
        }
    } else if (stream_is_full(&s->client)) {
        s->active_ms = now_ms; /* it has not taken its answer yet: it cannot be idle */
    } else if (s->transaction == 'I') {
        if (config->client_idle_timeout_ms > 0 && since > config->client_idle_timeout_ms) {
            session_fail(s, "57P05", "terminating connection due to idle-session timeout");
        }
    } else if (config->idle_transaction_timeout_ms > 0 &&
               since > config->idle_transaction_timeout_ms) {
        session_fail(s, "25P03", "terminating connection due to idle-in-transaction timeout");
    }
}

bool session_enter_limits(struct session *s)
{
    struct service *service = session_service(s);
    const struct config *config = service_config(service);
    uint32_t user_max = config->max_user_client_connections;
    uint32_t database_max = config->max_db_client_connections;
    if (atomic_load(&service->clients) > config->max_client_conn) {
        session_fail(s, "53300", "sorry, too many clients already (max_client_conn = %u)",
                     config->max_client_conn);
        return false;
    }
    switch (limits_enter(service->limits, s->user, s->database, user_max, database_max)) {
    case LIMITS_ENTERED:
        s->counted = true;
        break;
    case LIMITS_USER_FULL:
        session_fail(s, "53300",
                     "too many connections for role \"%.63s\" (max_user_client_connections = "
                     "%u): close some of them, or raise the limit",
                     s->user, user_max);
        break;
    case LIMITS_DATABASE_FULL:
        session_fail(s, "53300",
                     "too many connections for database \"%.63s\" (max_db_client_connections = "
                     "%u): close some of them, or raise the limit",
                     s->database, database_max);
        break;
    case LIMITS_NO_MEMORY:
        session_fail(s, "53200", "out of memory");
        break;
    }
    return s->counted;
}

/* --- input --- */

/* Of what TLS has decrypted, by one session before the others' turn; each at most a worker's
 * buffer. */
#define READS_AT_ONCE 16

/* Of a message that gets room of its own; copying more would keep the others waiting. */
#define READ_MAX ((size_t)512 * 1024)

/* Long messages come in rows: room for the next one spares a copy of its first bytes. */
static void intake_expect(struct intake *in)
{
    in->stash = malloc(in->usual);
    in->stash_room = in->stash == NULL ? 0 : in->usual;
    in->usual = 0; /* until there is one again */
}

/* Reads once, behind what is left of the last time. */
static enum stream_result intake_read(struct intake *in, struct stream *from, uint8_t *buffer,
                                      uint8_t **bytes, size_t *len)
{
    size_t got;
    enum stream_result result;
    if (in->stash == NULL && in->usual > 0) {
        intake_expect(in);
    }
    if (in->stash_room > WORKER_BUFFER && in->stash_room > in->stash_len) {
        /* where a whole message is waited for, there is room for it: intake_keep() saw to that */
        const size_t end = in->need > in->stash_len ? in->need : in->stash_room;
        const size_t room = end - in->stash_len;
        result =
            stream_recv(from, in->stash + in->stash_len, room < READ_MAX ? room : READ_MAX, &got);
        in->stash_len += got;
        *bytes = in->stash;
        *len = in->stash_len;
        if (in->stash_len == 0) {
            intake_keep(in, NULL, 0); /* nothing came: an idle session has no room of its own */
        }
        return result;
    }
    if (in->stash_len > 0) {
        memcpy(buffer, in->stash, in->stash_len);
    }
    result = stream_recv(from, buffer + in->stash_len, WORKER_BUFFER - in->stash_len, &got);
    *bytes = buffer;
    *len = in->stash_len + got;
    return result;
}

/* Keeps `len` bytes for the next time. */
static bool intake_keep(struct intake *in, const uint8_t *bytes, size_t len)
{
    if (len == 0) {
        free(in->stash);
        in->stash = NULL;
        in->stash_len = 0;
        in->stash_room = 0;
        in->need = 0;
        return true;
    }
    size_t room = in->need > WORKER_BUFFER && in->need > len ? in->need : len;
    if (bytes == in->stash && len == in->stash_len && room <= in->stash_room) {
        return true;
    }
    uint8_t *stash = malloc(room);
    if (stash == NULL) {
        return false;
    }
    memcpy(stash, bytes, len);
    free(in->stash);
    in->stash = stash;
    in->stash_len = len;
    in->stash_room = room;
    return true;
}

/* Has the client's bytes consumed and keeps the rest; false when the session ended. */
static bool client_consume(struct session *s, uint8_t *bytes, size_t len)
{
    const bool is_starting = s->state != SESSION_RELAY && s->state != SESSION_LOGIN;
    s->front.need = 0;
    size_t used = s->state == SESSION_RELAY     ? frontend_consume(s, bytes, len)
                  : s->state == SESSION_LOGIN   ? login_consume_client(s, bytes, len)
                  : s->state == SESSION_CONSOLE ? console_consume(s, bytes, len)
                                                : startup_consume(s, bytes, len);
    if (s->state == SESSION_CLOSING) {
        return false;
    }
    if (!intake_keep(&s->front, bytes + used, len - used)) {
        session_fail(s, "53200", "out of memory");
        return false;
    }
    if (is_starting && s->state == SESSION_CONNECTING) {
        connect_begin(s);
        return s->state != SESSION_CLOSING;
    }
    return s->wait != SESSION_WAIT_JUDGE || large_begin(s);
}

static void shutdown_server(struct session *s)
{
    if (s->client_eof && stream_is_open(&s->server) && !stream_is_full(&s->server) &&
        s->wait == SESSION_WAIT_NONE) {
        shutdown(s->server.fd, SHUT_WR);
    }
}

/* It has said goodbye, and the server has it: there is nothing more to carry either way. Where that
 * is not certain the server will say when it is. */
static bool is_over(const struct session *s)
{
    return s->terminated && is_answered(s) && !s->answers_shifted && !stream_is_full(&s->server);
}

/* The client sends no more: so shall the server see it, after what was sent. */
static void client_ended(struct session *s)
{
    if (s->state != SESSION_RELAY || s->wait != SESSION_WAIT_NONE || is_over(s)) {
        session_close(s); /* a held statement of a client that went away is never executed */
        return;
    }
    s->client_eof = true;
    shutdown_server(s);
}

/* True when something came. */
static bool client_readable(struct session *s)
{
    uint8_t *bytes;
    size_t len;
    enum stream_result result = intake_read(&s->front, &s->client, s->worker->buffer, &bytes, &len);
    if (result == STREAM_BROKEN) {
        session_close(s);
    } else if (result == STREAM_EOF) {
        client_ended(s);
    } else if (result == STREAM_OK) {
        if (is_answered(s)) {
            s->active_ms = uv_now(&s->worker->loop);
        }
        client_consume(s, bytes, len);
    }
    return result == STREAM_OK;
}

/* What is not read until what was sent has been taken. */
static const struct stream *fed_by_client(const struct session *s)
{
    return s->state == SESSION_CONSOLE ? &s->client : &s->server;
}

static bool may_read_client(const struct session *s)
{
    bool receives = s->state == SESSION_CONSOLE || s->state == SESSION_STARTUP ||
                    s->state == SESSION_RELAY ||
                    (s->state == SESSION_LOGIN && login_reads_client(s));
    return receives && s->wait == SESSION_WAIT_NONE && !s->client_eof && !s->server_gone &&
           !s->is_cancel && !stream_is_full(fed_by_client(s));
}

static bool server_readable(struct session *s);

static bool may_read_server(const struct session *s)
{
    return (s->state == SESSION_LOGIN || s->state == SESSION_RELAY) && !stream_is_full(&s->client);
}

/* Input that TLS has decrypted already: the loop does not tell of it. What is too much for one turn
 * has the loop come back after the others had theirs. */
static void read_pending(struct session *s)
{
    int turns = READS_AT_ONCE;
    while (turns > 0 && may_read_client(s) && stream_has_pending(&s->client) &&
           client_readable(s)) {
        turns--;
    }
    while (turns > 0 && may_read_server(s) && stream_has_pending(&s->server) &&
           server_readable(s)) {
        turns--;
    }
    s->unread = turns == 0;
}

/* False when the session ended. What stands behind a CancelRequest means nothing. */
static bool consume_stash(struct session *s)
{
    /* the stash is replaced while it is consumed, unless nothing was */
    return s->is_cancel || s->front.stash_len == 0 ||
           client_consume(s, s->front.stash, s->front.stash_len);
}

void session_resume(struct session *s)
{
    if (!consume_stash(s)) {
        return;
    }
    read_pending(s);
    if (s->state != SESSION_CLOSING) {
        shutdown_server(s);
        session_watch(s);
    }
}

void session_server_ended(struct session *s)
{
    if (s->fatal || s->terminated || s->client_eof || s->is_cancel) {
        swallow_input(s);
        session_close(s);
    } else {
        session_fail(s, "08006", "server closed the connection unexpectedly");
    }
}

/* True when something came. */
static bool server_readable(struct session *s)
{
    uint8_t *bytes;
    size_t len;
    enum stream_result result = intake_read(&s->back, &s->server, s->worker->buffer, &bytes, &len);
    if (result == STREAM_BROKEN || result == STREAM_EOF) {
        session_server_ended(s);
        return false;
    }
    if (result == STREAM_AGAIN) {
        return false;
    }
    if (s->is_cancel) {
        return true; /* a server never answers one, and whatever it says is for nobody */
    }
    s->back.need = 0;
    bool login = s->state == SESSION_LOGIN;
    size_t used = login ? login_consume_server(s, bytes, len) : backend_consume(s, bytes, len);
    if (s->state == SESSION_CLOSING || s->state == SESSION_CONNECTING) {
        return false;
    }
    if (!intake_keep(&s->back, bytes + used, len - used)) {
        session_fail(s, "53200", "out of memory");
        return false;
    }
    bool answered = s->wait == SESSION_WAIT_BOUNDARY && s->syncs_sent == s->syncs_done;
    if (answered) {
        s->wait = SESSION_WAIT_NONE;
    }
    if ((login || answered) && consume_stash(s)) {
        shutdown_server(s);
    }
    return s->state != SESSION_CLOSING;
}

/* --- events --- */

static bool flush(struct session *s, struct stream *stream)
{
    if (!stream_is_full(stream) || stream_flush(stream) != STREAM_BROKEN) {
        return true;
    }
    if (stream == &s->server) {
        s->server_gone = true; /* its last words are still to be read */
        return true;
    }
    session_close(s);
    return false;
}

/* Between its startup packet and what it is asked next, the client has nothing to say. */
static bool is_arriving(const struct session *s)
{
    return s->state == SESSION_CONNECTING || s->state == SESSION_NEGOTIATING ||
           (s->state == SESSION_LOGIN && !login_reads_client(s));
}

/* The client's end came while it is not read. What it sent before is executed, as a server does
 * that has read it; a held statement is not, and a connection that was reset carries no answer. */
static void client_ends(struct session *s)
{
    uint8_t byte;
    const ssize_t got = recv(s->client.fd, &byte, 1, MSG_PEEK);
    const bool is_reset = got < 0 && errno != EAGAIN && errno != EINTR;
    if (s->wait == SESSION_WAIT_GATE || is_reset) {
        session_close(s);
        return;
    }
    s->client_ending = true;
    session_watch(s);
}

/* What comes before its turn waits in the socket, which is not watched for input then; nearly no
 * client sends any, so that all begin with the same watch as they go on with. */
static void client_hurries(struct session *s)
{
    uint8_t byte;
    const ssize_t got = recv(s->client.fd, &byte, 1, MSG_PEEK);
    if (got > 0) {
        s->client_hurries = true;
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        session_close(s);
    }
}

static void on_client(uv_poll_t *poll, int status, int events)
{
    struct session *s = poll->data;
    if (status < 0) {
        /* libuv stops the handle at an error; what the peer sent before may still be read */
        s->client.events = 0;
        events = UV_READABLE;
    }
    if (s->state == SESSION_CLOSING || s->is_cancel || !flush(s, &s->client)) {
        return;
    }
    if (s->state == SESSION_CONSOLE && may_read_client(s) && !consume_stash(s)) {
        return; /* commands that waited until the answers ahead of them were taken */
    }
    if (s->state == SESSION_PROXIED) {
        proxied_step(s);
    }
    if (s->state == SESSION_PROXIED || s->state == SESSION_CLOSING) {
        events = 0;
    } else if (s->state == SESSION_HANDSHAKE) {
        handshake_step(s);
        events = 0;
    } else if (s->state == SESSION_STARTUP) {
        handshake_look(s);
        events = s->state == SESSION_STARTUP ? events : 0;
    }
    if ((events & UV_DISCONNECT) != 0 && s->wait != SESSION_WAIT_NONE) {
        client_ends(s);
        return;
    }
    bool happened = (events & (UV_READABLE | UV_DISCONNECT)) != 0;
    if (may_read_client(s)) {
        if (happened || s->client.tls_writes) {
            client_readable(s);
        }
    } else if (happened && is_arriving(s) && status == 0 && (events & UV_DISCONNECT) == 0) {
        client_hurries(s);
    } else if (happened && (status < 0 || is_arriving(s))) {
        session_close(s);
    }
    read_pending(s);
    if (s->state != SESSION_CLOSING) {
        session_watch(s);
    }
}

static void on_server(uv_poll_t *poll, int status, int events)
{
    struct session *s = poll->data;
    if (status < 0) {
        s->server.events = 0;
        events = UV_READABLE;
    }
    if (s->state == SESSION_CONNECTING) {
        connect_writable(s);
    } else if (s->state == SESSION_NEGOTIATING) {
        if (flush(s, &s->server)) {
            connect_negotiate(s);
        }
    } else if ((s->state == SESSION_LOGIN || s->state == SESSION_RELAY) && flush(s, &s->server)) {
        shutdown_server(s);
        bool readable = (events & UV_READABLE) != 0 || s->server.tls_writes;
        if (readable && (status < 0 || !stream_is_full(&s->client))) {
            server_readable(s);
        }
    }
    read_pending(s);
    if (s->state != SESSION_CLOSING) {
        session_watch(s);
    }
}

/* What the session wants to know of its client. */
static int client_events(const struct session *s)
{
    if (s->is_cancel) {
        return 0; /* carried out whether or not the client waits for it, as the server does */
    }
    if (is_arriving(s)) {
        return s->client_hurries ? UV_DISCONNECT : UV_READABLE;
    }
    if (s->wait == SESSION_WAIT_GATE) {
        return UV_DISCONNECT;
    }
    if (s->wait != SESSION_WAIT_NONE) {
        return s->client_ending ? 0 : UV_DISCONNECT;
    }
    const bool reads = !s->client_eof && !s->server_gone && !stream_is_full(fed_by_client(s));
    return reads ? UV_READABLE : 0;
}

void session_watch(struct session *s)
{
    const int client = client_events(s);
    stream_watch(&s->client, s->unread ? client | UV_WRITABLE : client, on_client);
    if (stream_is_open(&s->server)) {
        int server = s->state == SESSION_CONNECTING ? UV_WRITABLE
                     : stream_is_full(&s->client)   ? 0
                                                    : UV_READABLE;
        stream_watch(&s->server, server, on_server);
    }
}

/* --- start of life --- */

static char *name_client(const struct sockaddr_storage *peer)
{
    char name[ADDRESS_NAME_MAX];
    address_name(peer, name, sizeof name);
    return strdup(name);
}

void session_accept(struct worker *worker, int fd)
{
    struct session *s = calloc(1, sizeof *s);
    struct sockaddr_storage peer = address_of_peer(fd);
    const struct config_tcp *tcp =
        peer.ss_family != AF_UNIX ? &service_config(worker->service)->tcp : NULL;
    if (s == NULL || !stream_open(&s->client, &worker->loop, fd, tcp, s)) {
        free(s);
        close(fd);
        count_gone(worker);
        return;
    }
    s->worker = worker;
    s->server.fd = -1;
    s->handles = 1;
    s->state = proxied_is_due(s, &peer) ? SESSION_PROXIED : SESSION_STARTUP;
    s->id = atomic_fetch_add(&worker->service->next_id, 1) + 1;
    s->since_ns = gate_now();
    s->strings_standard = true;
    s->active_ms = uv_now(&worker->loop);
    s->syncs_sent = 1; /* the startup packet is answered by a ReadyForQuery */
    s->client_name = name_client(&peer);
    DL_APPEND(worker->sessions, s);
    worker_add(&worker->counters.sessions, 1);
    worker_add(&worker->counters.sessions_total, 1);
    session_watch(s);
}
