/*
 * The floor of tests/bench: what any proxy on libuv has to spend. It reads and writes bytes in both
 * directions and knows nothing of what they mean; a session is two libuv streams. Started by
 * tests/bench/run, ends with it.
 *
 * usage: bench_floor PORT SERVER_PORT   (both on 127.0.0.1)
 */
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include <uv.h>

#define BUFFER_SIZE (64 * 1024)
#define BACKLOG 512

struct session;

/* One of the two ends of a session, and what the kernel has not taken of the bytes sent to it. */
struct end {
    uv_tcp_t tcp;
    uv_write_t write;
    char *unsent;
    struct end *other;
    struct session *session;
};

struct session {
    struct end client, server;
    uv_connect_t connect;
    int open_handles;
};

static struct sockaddr_in server_address;
/* What is read is written before the next read, so that one buffer does for all. */
static char buffer[BUFFER_SIZE];

static void on_read(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf);

static void on_close(uv_handle_t *handle)
{
    struct end *end = handle->data;
    free(end->unsent);
    if (--end->session->open_handles == 0) {
        free(end->session);
    }
}

static void session_close(struct session *session)
{
    struct end *ends[] = {&session->client, &session->server};
    for (int i = 0; i < 2; i++) {
        uv_handle_t *handle = (uv_handle_t *)&ends[i]->tcp;
        if (!uv_is_closing(handle)) {
            uv_close(handle, on_close);
        }
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)handle;
    (void)suggested;
    *buf = uv_buf_init(buffer, BUFFER_SIZE);
}

static void read_start(struct end *end)
{
    if (uv_read_start((uv_stream_t *)&end->tcp, on_alloc, on_read) != 0) {
        session_close(end->session);
    }
}

static void on_written(uv_write_t *write, int status)
{
    struct end *end = write->data;
    free(end->unsent);
    end->unsent = NULL;
    if (status == 0) {
        read_start(end->other);
    } else {
        session_close(end->session);
    }
}

/* Keeps what the kernel did not take, and reads no more from the other end until it is gone. */
static void write_later(struct end *end, const char *data, size_t len)
{
    end->unsent = malloc(len);
    if (end->unsent == NULL) {
        session_close(end->session);
        return;
    }
    memcpy(end->unsent, data, len);
    uv_read_stop((uv_stream_t *)&end->other->tcp);
    uv_buf_t rest = uv_buf_init(end->unsent, (unsigned)len);
    end->write.data = end;
    if (uv_write(&end->write, (uv_stream_t *)&end->tcp, &rest, 1, on_written) != 0) {
        session_close(end->session);
    }
}

static void on_read(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf)
{
    struct end *from = stream->data, *to = from->other;
    if (len < 0) {
        session_close(from->session);
        return;
    }
    if (len == 0) {
        return;
    }
    const uv_buf_t out = uv_buf_init(buf->base, (unsigned)len);
    int sent = uv_try_write((uv_stream_t *)&to->tcp, &out, 1);
    if (sent == UV_EAGAIN) {
        sent = 0;
    }
    if (sent < 0) {
        session_close(from->session);
    } else if (sent < len) {
        write_later(to, buf->base + sent, (size_t)(len - sent));
    }
}

static void on_connect(uv_connect_t *connect, int status)
{
    struct session *session = connect->data;
    if (status != 0) {
        session_close(session);
        return;
    }
    read_start(&session->client);
    read_start(&session->server);
}

static void end_init(struct end *end, struct end *other, struct session *session, uv_loop_t *loop)
{
    end->other = other;
    end->session = session;
    end->tcp.data = end;
    uv_tcp_init(loop, &end->tcp);
    session->open_handles++;
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct session *session = status == 0 ? calloc(1, sizeof(*session)) : NULL;
    if (session == NULL) {
        return;
    }
    end_init(&session->client, &session->server, session, listener->loop);
    end_init(&session->server, &session->client, session, listener->loop);
    session->connect.data = session;
    if (uv_accept(listener, (uv_stream_t *)&session->client.tcp) != 0 ||
        uv_tcp_connect(&session->connect, &session->server.tcp,
                       (const struct sockaddr *)&server_address, on_connect) != 0) {
        session_close(session);
        return;
    }
    uv_tcp_nodelay(&session->client.tcp, 1);
    uv_tcp_nodelay(&session->server.tcp, 1);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: bench_floor PORT SERVER_PORT\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in address;
    uv_ip4_addr("127.0.0.1", (int)strtol(argv[1], NULL, 10), &address);
    uv_ip4_addr("127.0.0.1", (int)strtol(argv[2], NULL, 10), &server_address);
    uv_tcp_t listener;
    int error = uv_tcp_init(uv_default_loop(), &listener);
    if (error == 0) {
        error = uv_tcp_bind(&listener, (const struct sockaddr *)&address, 0);
    }
    if (error == 0) {
        error = uv_listen((uv_stream_t *)&listener, BACKLOG, on_connection);
    }
    if (error != 0) {
        fprintf(stderr, "bench_floor: port %s: %s\n", argv[1], uv_strerror(error));
        return 1;
    }
    return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
