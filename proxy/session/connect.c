/*
 * The connection to a server: which host, its addresses, TLS as sslmode says, until the startup
 * packet can be sent (login.c). What fails is tried otherwise as libpq would: the next address, the
 * next host, and with sslmode allow or prefer the same address with or without TLS.
 */
#include "proxy/session/session.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol/startup.h"
#include "proxy/log.h"
#include "proxy/service.h"

static const struct upstream *upstream_of(const struct session *s)
{
    return session_service(s)->upstream;
}

static const struct upstream_host *host_of(const struct session *s)
{
    return &upstream_of(s)->hosts[s->host];
}

void connect_fini(struct session *s)
{
    if (s->addresses != NULL) {
        uv_freeaddrinfo(s->addresses);
        s->addresses = s->address = NULL;
    }
}

/* --- TCP --- */

/* A server on the same machine has answered by now, which spares the loop a turn. */
static bool is_connected(int fd)
{
    struct pollfd writable = {.fd = fd, .events = POLLOUT};
    return poll(&writable, 1, 0) == 1;
}

static void try_address(struct session *s)
{
    const struct upstream_host *host = host_of(s);
    const struct sockaddr *address =
        s->address != NULL ? s->address->ai_addr : (const struct sockaddr *)&host->address;
    socklen_t len = s->address != NULL ? s->address->ai_addrlen : host->address_len;
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || (connect(fd, address, len) != 0 && errno != EINPROGRESS)) {
        s->connect_error = errno;
        if (fd >= 0) {
            close(fd);
        }
        connect_dropped(s);
        return;
    }
    const struct config_tcp *tcp = host->is_unix ? NULL : &service_config(session_service(s))->tcp;
    if (!stream_open(&s->server, &s->worker->loop, fd, tcp, s)) {
        close(fd);
        session_fail(s, "53200", "out of memory");
        return;
    }
    s->handles++;
    s->connect_ns = gate_now();
    s->connect_why = NULL;
    if (is_connected(fd)) {
        connect_writable(s);
    }
    if (s->state != SESSION_CLOSING) {
        session_watch(s);
    }
}

/* The next host that suits, of this round or the next; false when there is none. */
static bool next_host(struct session *s, size_t from)
{
    const struct upstream *upstream = upstream_of(s);
    if (s->host_fixed) {
        return false;
    }
    for (; s->round < upstream_rounds(upstream); s->round++, from = 0) {
        s->host = upstream_choose(upstream, from, s->round);
        if (s->host < upstream->count) {
            return true;
        }
    }
    return false;
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found);

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

static void try_host(struct session *s)
{
    const struct upstream_host *host = host_of(s);
    s->state = SESSION_CONNECTING;
    s->tls_otherwise = false;
    if (host->is_fixed) {
        try_address(s);
    } else {
        resolve(s, host);
    }
}

static void host_failed(struct session *s, const char *why)
{
    const struct upstream_host *host = host_of(s);
    connect_fini(s);
    hosts_ask(session_service(s)->hosts);
    if (next_host(s, s->host + 1)) {
        log_warning("could not connect to server \"%s\", port %s: %s", host->name, host->port, why);
        try_host(s);
        return;
    }
    session_fail(s, "08001", "could not connect to server \"%s\", port %s: %s", host->name,
                 host->port, why);
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
    struct session *s = request->data;
    free(request);
    s->resolving = NULL;
    s->addresses = s->address = found;
    if (s->state == SESSION_CONNECTING) {
        if (status != 0) {
            host_failed(s, uv_strerror(status));
        } else {
            try_address(s);
        }
    }
    session_release(s);
}

void connect_begin(struct session *s)
{
    if (s->host_fixed || next_host(s, 0)) {
        try_host(s);
        return;
    }
    char message[64];
    char roles[256];
    snprintf(message, sizeof message, "no server is %s now (target_session_attrs)",
             upstream_attrs_name(upstream_of(s)->attrs));
    upstream_roles(upstream_of(s), roles, sizeof roles);
    session_fail_detail(s, "57P03", message, roles);
}

void connect_dropped(struct session *s)
{
    switch (s->after_drop) {
    case CONNECT_OTHERWISE:
        s->after_drop = CONNECT_NEXT_ADDRESS;
        s->tls_otherwise = true;
        try_address(s);
        return;
    case CONNECT_NEXT_HOST:
        s->after_drop = CONNECT_NEXT_ADDRESS;
        host_failed(s, "does not accept logins now");
        return;
    case CONNECT_NEXT_ADDRESS:
        break;
    }
    if (s->address != NULL && s->address->ai_next != NULL) {
        s->address = s->address->ai_next;
        s->tls_otherwise = false;
        try_address(s);
        return;
    }
    host_failed(s, s->connect_why != NULL ? s->connect_why : strerror(s->connect_error));
}

/* --- other ways to the same server --- */

static bool may_try_otherwise(const struct session *s)
{
    enum upstream_tls mode = upstream_of(s)->tls;
    bool either =
        mode == UPSTREAM_TLS_ALLOW || (mode == UPSTREAM_TLS_PREFER && s->server.tls != NULL);
    return either && !s->tls_otherwise && !host_of(s)->is_unix && !s->is_cancel;
}

static void drop(struct session *s, enum connect_after after)
{
    s->after_drop = after;
    s->state = SESSION_CONNECTING;
    session_drop_server(s);
}

void connect_look(struct session *s, uint64_t now_ns)
{
    static const char silent[] = "did not answer in time (server_connect_timeout)";
    uint64_t limit = service_config(session_service(s))->server_connect_timeout_ms * 1000000u;
    bool arriving = s->state == SESSION_CONNECTING || s->state == SESSION_NEGOTIATING ||
                    (s->state == SESSION_LOGIN && !s->settled);
    if (arriving && limit > 0 && stream_is_open(&s->server) && now_ns - s->connect_ns > limit) {
        s->connect_error = ETIMEDOUT;
        s->connect_why = s->state == SESSION_CONNECTING ? NULL : silent;
        drop(s, CONNECT_NEXT_ADDRESS);
    }
}

bool connect_otherwise(struct session *s, const char *sqlstate)
{
    /* pg_hba.conf has no line for this connection: libpq then tries with the other encryption */
    if (strcmp(sqlstate, "28000") == 0 && may_try_otherwise(s)) {
        drop(s, CONNECT_OTHERWISE);
        return true;
    }
    size_t host = s->host;
    unsigned round = s->round;
    bool starting = strcmp(sqlstate, "57P03") == 0;
    bool another = starting && next_host(s, host + 1);
    s->host = host;
    s->round = round;
    if (another) {
        drop(s, CONNECT_NEXT_HOST);
    }
    return another;
}

/* --- TLS --- */

static void fail_server(struct session *s, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void fail_server(struct session *s, const char *fmt, ...)
{
    char why[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, sizeof why, fmt, args);
    va_end(args);
    session_fail(s, "08001", "server \"%s\", port %s: %s", host_of(s)->name, host_of(s)->port, why);
}

static bool wants_tls(const struct session *s)
{
    switch (upstream_of(s)->tls) {
    case UPSTREAM_TLS_DISABLE:
        return false;
    case UPSTREAM_TLS_ALLOW:
        return s->tls_otherwise && !host_of(s)->is_unix;
    case UPSTREAM_TLS_PREFER:
        return !s->tls_otherwise && !host_of(s)->is_unix;
    case UPSTREAM_TLS_REQUIRE:
        return !host_of(s)->is_unix;
    }
    return false;
}

static bool begin_tls(struct session *s)
{
    const struct upstream *upstream = upstream_of(s);
    SSL *tls =
        tls_connect(upstream->tls_context, s->server.fd, host_of(s)->name, upstream->verify_host);
    if (tls == NULL) {
        session_fail(s, "53200", "out of memory");
        return false;
    }
    stream_use_tls(&s->server, tls);
    return true;
}

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
    char answer = 0;
    ssize_t n = recv(s->server.fd, &answer, 1, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n == 1 && answer == 'S') {
        begin_tls(s);
    } else if (n == 1 && answer == 'N' && upstream_of(s)->tls == UPSTREAM_TLS_PREFER) {
        login_begin(s);
    } else if (n == 1 && answer == 'N') {
        fail_server(s, "it does not support TLS, but sslmode demands it");
    } else {
        fail_server(s, n == 1 ? "it answers like no PostgreSQL server when asked for TLS"
                              : "it closed the connection when asked for TLS");
    }
}

void connect_negotiate(struct session *s)
{
    if (s->server.tls == NULL) {
        read_tls_answer(s);
    }
    if (s->state != SESSION_NEGOTIATING || s->server.tls == NULL) {
        return;
    }
    enum stream_result result = stream_handshake(&s->server);
    if (result == STREAM_OK) {
        login_begin(s);
    } else if (result != STREAM_AGAIN && upstream_of(s)->tls == UPSTREAM_TLS_PREFER) {
        drop(s, CONNECT_OTHERWISE);
    } else if (result != STREAM_AGAIN) {
        char why[256];
        tls_handshake_error(s->server.tls, why, sizeof why);
        fail_server(s, "TLS: %s", why);
    }
}

void connect_writable(struct session *s)
{
    socklen_t len = sizeof s->connect_error;
    getsockopt(s->server.fd, SOL_SOCKET, SO_ERROR, &s->connect_error, &len);
    if (s->connect_error != 0) {
        session_drop_server(s);
    } else if (!wants_tls(s)) {
        login_begin(s);
    } else if (!upstream_of(s)->tls_direct) {
        ask_for_tls(s);
    } else if (begin_tls(s)) {
        s->state = SESSION_NEGOTIATING;
        connect_negotiate(s);
    }
}
