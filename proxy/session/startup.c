/*
 * What comes before the relay: the client's startup packet, the negotiation requests ahead of it,
 * cancel requests, and the connection to the server. The packet itself goes on to the server as it
 * came, so that every parameter and every way to authenticate works as without the proxy.
 */
#include "proxy/session/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol/startup.h"
#include "proxy/log.h"
#include "proxy/service.h"

static bool set_string(char **to, struct span from)
{
    char *copy = strndup(from.ptr != NULL ? from.ptr : "", from.len);
    if (copy == NULL) {
        return false;
    }
    free(*to);
    *to = copy;
    return true;
}

static void accept_session(struct session *s, const struct startup *packet)
{
    struct span database = packet->database.len > 0 ? packet->database : packet->user;
    if (!set_string(&s->user, packet->user) || !set_string(&s->database, database) ||
        !set_string(&s->application_name, packet->application_name)) {
        session_fail(s, "53200", "out of memory");
        return;
    }
    if (!handshake_check(s)) {
        return;
    }
    judging_session_text(s, packet->options);
    /* REPEATABLE READ or SERIALIZABLE as the session's default */
    if (packet->isolation.len > 0) {
        s->may_snapshot = true;
    }
    if (packet->client_encoding.len > 0) {
        judging_parameter(s, (struct span){"client_encoding", 15}, packet->client_encoding);
    }
    uint32_t limit = service_config(session_service(s))->max_client_conn;
    if (atomic_load(&session_service(s)->clients) > limit) {
        session_fail(s, "53300", "sorry, too many clients already (max_client_conn = %u)", limit);
        return;
    }
    startup_connect(s);
}

/* A cancel request for a session that is held here is answered here: the server knows nothing of the
 * statement yet. Any other goes to the server, which alone knows whether the key fits. */
static void accept_cancel(struct session *s, const struct startup *packet)
{
    struct registry_key key = {.len = (uint16_t)(4 + packet->cancel_key.len)};
    store_u32(key.bytes, packet->cancel_pid);
    memcpy(key.bytes + 4, packet->cancel_key.ptr, packet->cancel_key.len);
    struct registry_entry entry;
    s->is_cancel = true;
    if (registry_find(session_service(s)->registry, &key, &entry) && entry.held) {
        struct mail *mail = mail_new(MAIL_CANCEL);
        if (mail != NULL) {
            mail->key = key;
            worker_post(session_service(s)->workers[entry.worker], mail);
        }
        session_close(s);
        return;
    }
    startup_connect(s);
}

/* The server's own words; a client of protocol 2 reads an error without length and fields. */
static void refuse_protocol(struct session *s, const struct startup *packet)
{
    if (packet->major >= 3) {
        session_fail(s, "0A000", "unsupported frontend protocol %u.%u: server supports 3.0 to 3.0",
                     packet->major, packet->minor);
        return;
    }
    char text[128];
    struct writer w;
    writer_init(&w, sizeof text + 1);
    snprintf(text, sizeof text,
             "FATAL:  unsupported frontend protocol %u.%u: server supports 3.0 to 3.0\n",
             packet->major, packet->minor);
    writer_u8(&w, 'E');
    writer_cstr(&w, text);
    session_reply(s, &w);
    writer_fini(&w);
    session_close(s);
}

/* True when the client may go on with its next packet; TLS may have begun instead. */
static bool answer_negotiation(struct session *s, const struct startup *packet, size_t behind)
{
    bool *asked = packet->kind == STARTUP_SSL ? &s->asked_ssl : &s->asked_gssenc;
    if (*asked || s->client.tls != NULL) {
        refuse_protocol(s, packet);
        return false;
    }
    *asked = true;
    bool accepts = packet->kind == STARTUP_SSL &&
                   service_config(session_service(s))->client_tls.mode != CLIENT_TLS_DISABLE;
    if (accepts && behind > 0) {
        /* somebody in between may have put it there */
        session_fail(s, "08P01", "received unencrypted data after SSL request");
        return false;
    }
    struct writer w;
    writer_init(&w, 16);
    writer_u8(&w, accepts ? 'S' : 'N');
    bool sent = session_reply(s, &w);
    writer_fini(&w);
    return sent && (!accepts || handshake_begin(s));
}

/* The packet stays unconsumed: it is what the server is sent once connected. */
size_t startup_consume(struct session *s, const uint8_t *bytes, size_t len)
{
    size_t used = 0;
    for (;;) {
        struct startup packet = startup_read(bytes + used, len - used);
        switch (packet.kind) {
        case STARTUP_INCOMPLETE:
            return used;
        case STARTUP_INVALID:
            session_fail(s, "08P01", "invalid length of startup packet");
            return used;
        case STARTUP_SSL:
        case STARTUP_GSSENC:
            if (!answer_negotiation(s, &packet, len - used - packet.size)) {
                return used;
            }
            used += packet.size;
            break;
        case STARTUP_CANCEL:
            accept_cancel(s, &packet);
            return used;
        case STARTUP_CANCEL_INVALID:
            session_close(s);
            return used;
        case STARTUP_PROTOCOL_3:
            accept_session(s, &packet);
            return used;
        case STARTUP_PROTOCOL_OTHER:
            if (packet.major > 3) {
                accept_session(s, &packet); /* the server names the versions that it speaks */
            } else {
                refuse_protocol(s, &packet);
            }
            return used;
        }
    }
}

/* --- the server connection --- */

void startup_fini(struct session *s)
{
    if (s->addresses != NULL) {
        uv_freeaddrinfo(s->addresses);
        s->addresses = s->address = NULL;
    }
}

static const struct upstream_host *host_of(const struct session *s)
{
    return &session_service(s)->upstream->hosts[s->host];
}

static void try_address(struct session *s)
{
    const struct upstream_host *host = host_of(s);
    const struct sockaddr *address = s->address != NULL ? s->address->ai_addr
                                                        : (const struct sockaddr *)&host->address;
    socklen_t len = s->address != NULL ? s->address->ai_addrlen : host->address_len;
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || (connect(fd, address, len) != 0 && errno != EINPROGRESS)) {
        s->connect_error = errno;
        if (fd >= 0) {
            close(fd);
        }
        startup_retry(s);
        return;
    }
    bool keepalive = service_config(session_service(s))->tcp_keepalive && !host->is_unix;
    if (!stream_open(&s->server, &s->worker->loop, fd, keepalive, s)) {
        close(fd);
        session_fail(s, "53200", "out of memory");
        return;
    }
    s->handles++;
    s->connect_ns = gate_now();
    session_watch(s);
}

static void next_host(struct session *s, const char *why)
{
    const struct upstream_host *host = host_of(s);
    startup_fini(s);
    if (s->host + 1 < session_service(s)->upstream->count) {
        log_warning("could not connect to server \"%s\", port %s: %s", host->name, host->port, why);
        s->host++;
        startup_connect(s);
        return;
    }
    session_fail(s, "08001", "could not connect to server \"%s\", port %s: %s", host->name,
                 host->port, why);
}

void startup_retry(struct session *s)
{
    if (s->address != NULL && s->address->ai_next != NULL) {
        s->address = s->address->ai_next;
        try_address(s);
        return;
    }
    next_host(s, strerror(s->connect_error));
}

void startup_look(struct session *s, uint64_t now_ns)
{
    uint64_t limit = service_config(session_service(s))->server_connect_timeout_ms * 1000000u;
    if (s->state == SESSION_CONNECTING && limit > 0 && stream_is_open(&s->server) &&
        now_ns - s->connect_ns > limit) {
        s->connect_error = ETIMEDOUT;
        session_drop_server(s);
    }
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
    struct session *s = request->data;
    free(request);
    s->resolving = NULL;
    s->addresses = s->address = found;
    if (s->state == SESSION_CONNECTING) {
        if (status != 0) {
            next_host(s, uv_strerror(status));
        } else {
            try_address(s);
        }
    }
    session_release(s);
}

static void resolve(struct session *s, const struct upstream_host *host)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    s->resolving = malloc(sizeof *s->resolving);
    if (s->resolving == NULL) {
        session_fail(s, "53200", "out of memory");
        return;
    }
    s->resolving->data = s;
    if (uv_getaddrinfo(&s->worker->loop, s->resolving, on_resolved, host->name, host->port,
                       &hints) != 0) {
        free(s->resolving);
        s->resolving = NULL;
        session_fail(s, "08001", "could not resolve \"%s\"", host->name);
        return;
    }
    s->handles++;
}

void startup_connect(struct session *s)
{
    const struct upstream_host *host = host_of(s);
    s->state = SESSION_CONNECTING;
    if (host->is_fixed) {
        try_address(s);
    } else {
        resolve(s, host);
    }
}

/* Sends the startup packet, which waits at the head of the stash. */
static bool send_packet(struct session *s)
{
    struct intake *in = &s->front;
    size_t size = startup_read(in->stash, in->stash_len).size;
    struct iovec iov = {.iov_base = in->stash, .iov_len = size};
    if (stream_send(&s->server, &iov, 1) != STREAM_OK) {
        return false;
    }
    in->stash_len -= size;
    memmove(in->stash, in->stash + size, in->stash_len);
    if (in->stash_len == 0) {
        free(in->stash);
        in->stash = NULL;
        in->stash_room = 0;
    }
    return true;
}

static void log_in(struct session *s)
{
    s->state = SESSION_RELAY;
    if (!send_packet(s)) {
        session_fail(s, "08006", "server closed the connection unexpectedly");
        return;
    }
    session_resume(s);
}

/* --- TLS with the server --- */

static void ask_for_tls(struct session *s)
{
    uint8_t request[8];
    startup_write_ssl_request(request);
    struct iovec iov = {.iov_base = request, .iov_len = sizeof request};
    s->state = SESSION_NEGOTIATING;
    if (stream_send(&s->server, &iov, 1) != STREAM_OK) {
        session_fail(s, "08006", "server closed the connection unexpectedly");
    }
}

/* One byte: what is behind it belongs to TLS, or nobody put it there who should have. */
static void read_tls_answer(struct session *s)
{
    const struct upstream *upstream = session_service(s)->upstream;
    const struct upstream_host *host = host_of(s);
    char answer = 0;
    ssize_t n = recv(s->server.fd, &answer, 1, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n == 1 && answer == 'S') {
        SSL *tls = tls_connect(upstream->tls_context, s->server.fd, host->name,
                               upstream->verify_host);
        if (tls == NULL) {
            session_fail(s, "53200", "out of memory");
            return;
        }
        stream_use_tls(&s->server, tls);
    } else if (n == 1 && answer == 'N' && upstream->tls == UPSTREAM_TLS_PREFER) {
        log_in(s);
    } else {
        session_fail(s, "08001", "server \"%s\", port %s: %s", host->name, host->port,
                     n == 1 ? "does not support TLS, but sslmode demands it"
                            : "closed the connection when asked for TLS");
    }
}

void startup_negotiate(struct session *s)
{
    if (s->server.tls == NULL) {
        read_tls_answer(s);
    }
    if (s->state != SESSION_NEGOTIATING || s->server.tls == NULL) {
        return;
    }
    enum stream_result result = stream_handshake(&s->server);
    if (result == STREAM_OK) {
        log_in(s);
    } else if (result != STREAM_AGAIN) {
        char why[256];
        tls_error(why, sizeof why);
        session_fail(s, "08001", "server \"%s\", port %s: TLS: %s", host_of(s)->name,
                     host_of(s)->port, why);
    }
}

void startup_connected(struct session *s)
{
    socklen_t len = sizeof s->connect_error;
    getsockopt(s->server.fd, SOL_SOCKET, SO_ERROR, &s->connect_error, &len);
    if (s->connect_error != 0) {
        session_drop_server(s);
        return;
    }
    startup_fini(s);
    if (session_service(s)->upstream->tls != UPSTREAM_TLS_DISABLE && !host_of(s)->is_unix) {
        ask_for_tls(s);
    } else {
        log_in(s);
    }
}
