/*
 * The floor's other variant: the same byte pipe (floor.c), but each end of a session is a uv_poll
 * with recv and send of its own, as in proxy/net/stream.c, instead of a libuv stream. tests/bench
 * measures the two beside each other, to tell whether stream.c has chosen well. Started by
 * tests/bench/run, ends with it.
 *
 * usage: bench_floor_poll PORT SERVER_PORT   (both on 127.0.0.1)
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <uv.h>

#define BUFFER_SIZE (64 * 1024)
#define BACKLOG 512

struct session;

/* One of the two ends of a session, and what the kernel has not taken of the bytes sent to it. */
struct end {
    uv_poll_t poll;
    int fd;
    int events; /* that are asked for */
    char *unsent;
    size_t unsent_at, unsent_len;
    struct end *other;
    struct session *session;
};

struct session {
    struct end client, server;
    int open_handles;
};

static struct sockaddr_in server_address;
static char buffer[BUFFER_SIZE];

static void on_close(uv_handle_t *handle)
{
    struct end *end = handle->data;
    free(end->unsent);
    close(end->fd);
    if (--end->session->open_handles == 0) {
        free(end->session);
    }
}

static void session_close(struct session *session)
{
    if (!uv_is_closing((uv_handle_t *)&session->client.poll)) {
        uv_close((uv_handle_t *)&session->client.poll, on_close);
        uv_close((uv_handle_t *)&session->server.poll, on_close);
    }
}

static void on_event(uv_poll_t *poll, int status, int events);

/* Reads from an end while the other one has taken everything; tells of room while it has not. */
static void watch(struct end *end)
{
    int events =
        (end->other->unsent == NULL ? UV_READABLE : 0) | (end->unsent != NULL ? UV_WRITABLE : 0);
    if (events != end->events) {
        end->events = events;
        uv_poll_start(&end->poll, events, on_event);
    }
}

/* False when the peer is gone. */
static bool send_some(struct end *end, const char *data, size_t len, size_t *sent)
{
    ssize_t n = send(end->fd, data, len, MSG_NOSIGNAL);
    *sent = n > 0 ? (size_t)n : 0;
    return n >= 0 || errno == EAGAIN || errno == EINTR;
}

static bool keep_unsent(struct end *end, const char *data, size_t len)
{
    end->unsent = malloc(len);
    if (end->unsent == NULL) {
        return false;
    }
    memcpy(end->unsent, data, len);
    end->unsent_at = 0;
    end->unsent_len = len;
    return true;
}

static bool pass_on(struct end *from)
{
    ssize_t n = recv(from->fd, buffer, BUFFER_SIZE, 0);
    if (n <= 0) {
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    }
    size_t sent;
    return send_some(from->other, buffer, (size_t)n, &sent) &&
           (sent == (size_t)n || keep_unsent(from->other, buffer + sent, (size_t)n - sent));
}

static bool flush(struct end *end)
{
    size_t sent;
    if (!send_some(end, end->unsent + end->unsent_at, end->unsent_len - end->unsent_at, &sent)) {
        return false;
    }
    end->unsent_at += sent;
    if (end->unsent_at == end->unsent_len) {
        free(end->unsent);
        end->unsent = NULL;
    }
    return true;
}

static void on_event(uv_poll_t *poll, int status, int events)
{
    struct end *end = poll->data;
    bool ok = status == 0;
    if (ok && (events & UV_WRITABLE) != 0 && end->unsent != NULL) {
        ok = flush(end);
    }
    if (ok && (events & UV_READABLE) != 0 && end->other->unsent == NULL) {
        ok = pass_on(end);
    }
    if (!ok) {
        session_close(end->session);
        return;
    }
    watch(end);
    watch(end->other);
}

static void on_connect(uv_poll_t *poll, int status, int events)
{
    (void)events;
    struct session *session = ((struct end *)poll->data)->session;
    int error = 0;
    socklen_t len = sizeof error;
    getsockopt(session->server.fd, SOL_SOCKET, SO_ERROR, &error, &len);
    if (status != 0 || error != 0) {
        session_close(session);
        return;
    }
    watch(&session->client);
    watch(&session->server);
}

static void end_init(struct end *end, struct end *other, struct session *session, uv_loop_t *loop,
                     int fd)
{
    end->other = other;
    end->session = session;
    end->fd = fd;
    end->poll.data = end;
    uv_poll_init(loop, &end->poll, fd);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    session->open_handles++;
}

static void on_connection(uv_poll_t *listener, int status, int events)
{
    (void)status;
    (void)events;
    int client = accept4(*(int *)listener->data, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct session *session = calloc(1, sizeof *session);
    if (client < 0 || server < 0 || session == NULL) {
        close(client);
        close(server);
        free(session);
        return;
    }
    end_init(&session->client, &session->server, session, listener->loop, client);
    end_init(&session->server, &session->client, session, listener->loop, server);
    if (connect(server, (const struct sockaddr *)&server_address, sizeof server_address) != 0 &&
        errno != EINPROGRESS) {
        session_close(session);
        return;
    }
    uv_poll_start(&session->server.poll, UV_WRITABLE, on_connect);
}

static int listen_on(const struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, (const struct sockaddr *)address, sizeof *address) != 0 ||
        listen(fd, BACKLOG) != 0) {
        return -1;
    }
    return fd;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: bench_floor_poll PORT SERVER_PORT\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    struct sockaddr_in address;
    uv_ip4_addr("127.0.0.1", (int)strtol(argv[1], NULL, 10), &address);
    uv_ip4_addr("127.0.0.1", (int)strtol(argv[2], NULL, 10), &server_address);
    int fd = listen_on(&address);
    if (fd < 0) {
        perror("bench_floor_poll");
        return 1;
    }
    uv_poll_t listener = {.data = &fd};
    uv_poll_init(uv_default_loop(), &listener, fd);
    uv_poll_start(&listener, UV_READABLE, on_connection);
    return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
