/* A session's socket over uv_poll with recv and sendmsg of its own; see stream.h. */
#include "proxy/net/stream.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

bool stream_open(struct stream *s, uv_loop_t *loop, int fd, bool keepalive, void *data)
{
    if (uv_poll_init(loop, &s->poll, fd) != 0) {
        s->fd = -1;
        return false;
    }
    /* fails on a unix socket, which has no Nagle */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (keepalive) {
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
    }
    s->poll.data = data;
    s->fd = fd;
    s->events = 0;
    s->rest = NULL;
    return true;
}

void stream_watch(struct stream *s, int events, uv_poll_cb cb)
{
    if (stream_is_full(s)) {
        events |= UV_WRITABLE;
    }
    if (events == s->events) {
        return;
    }
    s->events = events;
    if (events == 0) {
        uv_poll_stop(&s->poll);
    } else {
        uv_poll_start(&s->poll, events, cb);
    }
}

enum stream_result stream_recv(struct stream *s, uint8_t *room, size_t len, size_t *received)
{
    ssize_t n;
    do {
        n = recv(s->fd, room, len, 0);
    } while (n < 0 && errno == EINTR);
    *received = n > 0 ? (size_t)n : 0;
    if (n > 0) {
        return STREAM_OK;
    }
    if (n == 0) {
        return STREAM_EOF;
    }
    return errno == EAGAIN || errno == EWOULDBLOCK ? STREAM_AGAIN : STREAM_BROKEN;
}

/* Moves the vector past `sent` bytes; returns the entries that are left. */
static int iov_advance(struct iovec **iov, int count, size_t sent)
{
    while (count > 0 && sent >= (*iov)->iov_len) {
        sent -= (*iov)->iov_len;
        (*iov)++;
        count--;
    }
    if (count > 0) {
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + sent;
        (*iov)->iov_len -= sent;
    }
    return count;
}

static bool keep_rest(struct stream *s, const struct iovec *iov, int count)
{
    size_t len = s->rest_len - s->rest_at;
    size_t total = len;
    for (int i = 0; i < count; i++) {
        total += iov[i].iov_len;
    }
    uint8_t *rest = malloc(total);
    if (rest == NULL) {
        return false;
    }
    if (s->rest != NULL) {
        memcpy(rest, s->rest + s->rest_at, len);
        free(s->rest);
    }
    for (int i = 0; i < count; i++) {
        memcpy(rest + len, iov[i].iov_base, iov[i].iov_len);
        len += iov[i].iov_len;
    }
    s->rest = rest;
    s->rest_at = 0;
    s->rest_len = total;
    return true;
}

enum stream_result stream_send(struct stream *s, struct iovec *iov, int count)
{
    while (count > 0 && !stream_is_full(s)) {
        struct msghdr msg = {.msg_iov = iov,
                             .msg_iovlen = (size_t)(count > IOV_MAX ? IOV_MAX : count)};
        ssize_t n = sendmsg(s->fd, &msg, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            break;
        }
        if (n < 0) {
            return STREAM_BROKEN;
        }
        count = iov_advance(&iov, count, (size_t)n);
    }
    if (count > 0 && !keep_rest(s, iov, count)) {
        return STREAM_NO_MEMORY;
    }
    return STREAM_OK;
}

static void rest_drop(struct stream *s)
{
    free(s->rest);
    s->rest = NULL;
    s->rest_at = s->rest_len = 0;
}

enum stream_result stream_flush(struct stream *s)
{
    while (s->rest != NULL) {
        ssize_t n = send(s->fd, s->rest + s->rest_at, s->rest_len - s->rest_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            return STREAM_AGAIN;
        }
        if (n < 0) {
            rest_drop(s);
            return STREAM_BROKEN;
        }
        s->rest_at += (size_t)n;
        if (s->rest_at == s->rest_len) {
            rest_drop(s);
        }
    }
    return STREAM_OK;
}

void stream_close(struct stream *s, uv_close_cb done)
{
    if (!stream_is_open(s)) {
        return;
    }
    uv_close((uv_handle_t *)&s->poll, done);
    close(s->fd);
    s->fd = -1;
    rest_drop(s);
}
