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

#include "proxy/config.h"

/* Of the rest, in one turn. */
#define FLUSH_AT_ONCE ((size_t)1024 * 1024)

struct stream_piece {
    struct stream_piece *next;
    const uint8_t *bytes; /* `own`, or lent */
    size_t at, len;
    stream_lent_cb done;
    void *arg;
    uint8_t own[];
};

static void set_option(int fd, int level, int name, uint32_t wanted)
{
    int value = (int)wanted;
    /* what the system does not know it does without */
    setsockopt(fd, level, name, &value, sizeof value);
}

static void tune_tcp(int fd, const struct config_tcp *tcp)
{
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, tcp->keepalive ? 1 : 0);
    if (tcp->keepalive && tcp->keepidle_s > 0) {
        set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, tcp->keepidle_s);
    }
    if (tcp->keepalive && tcp->keepintvl_s > 0) {
        set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, tcp->keepintvl_s);
    }
    if (tcp->keepalive && tcp->keepcnt > 0) {
        set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, tcp->keepcnt);
    }
    if (tcp->user_timeout_ms > 0) {
        set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, tcp->user_timeout_ms);
    }
}

bool stream_open(struct stream *s, uv_loop_t *loop, int fd, const struct config_tcp *tcp,
                 void *data)
{
    if (uv_poll_init(loop, &s->poll, fd) != 0) {
        s->fd = -1;
        return false;
    }
    if (tcp != NULL) {
        tune_tcp(fd, tcp);
    }
    s->poll.data = data;
    s->fd = fd;
    s->events = 0;
    s->rest = NULL;
    s->tls = NULL;
    s->tls_writes = false;
    return true;
}

void stream_use_tls(struct stream *s, SSL *tls)
{
    s->tls = tls;
}

bool stream_has_pending(const struct stream *s)
{
    return s->tls != NULL && SSL_has_pending(s->tls) == 1;
}

static enum stream_result result_of(struct stream *s, enum tls_result result)
{
    s->tls_writes = result == TLS_WANT_WRITE;
    switch (result) {
    case TLS_OK:
        return STREAM_OK;
    case TLS_WANT_READ:
    case TLS_WANT_WRITE:
        return STREAM_AGAIN;
    case TLS_EOF:
        return STREAM_EOF;
    case TLS_BROKEN:
        break;
    }
    return STREAM_BROKEN;
}

enum stream_result stream_handshake(struct stream *s)
{
    return result_of(s, tls_handshake(s->tls));
}

void stream_watch(struct stream *s, int events, uv_poll_cb cb)
{
    if (stream_is_full(s) || s->tls_writes) {
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
    if (s->tls != NULL) {
        return result_of(s, tls_recv(s->tls, room, len, received));
    }
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

static void rest_append(struct stream *s, struct stream_piece *piece)
{
    struct stream_piece **last = &s->rest;
    while (*last != NULL) {
        last = &(*last)->next;
    }
    *last = piece;
}

static void rest_drop_first(struct stream *s)
{
    struct stream_piece *piece = s->rest;
    s->rest = piece->next;
    if (piece->done != NULL) {
        piece->done(piece->arg);
    }
    free(piece);
}

static void rest_drop(struct stream *s)
{
    while (s->rest != NULL) {
        rest_drop_first(s);
    }
}

static bool keep_rest(struct stream *s, const struct iovec *iov, int count)
{
    size_t total = 0;
    for (int i = 0; i < count; i++) {
        total += iov[i].iov_len;
    }
    struct stream_piece *piece = malloc(sizeof *piece + total);
    if (piece == NULL) {
        return false;
    }
    *piece = (struct stream_piece){.bytes = piece->own};
    for (int i = 0; i < count; i++) {
        memcpy(piece->own + piece->len, iov[i].iov_base, iov[i].iov_len);
        piece->len += iov[i].iov_len;
    }
    rest_append(s, piece);
    return true;
}

/* Short pieces go into one record together. */
static enum stream_result send_tls(struct stream *s, struct iovec **iov, int *count)
{
    uint8_t record[SSL3_RT_MAX_PLAIN_LENGTH];
    while (*count > 0) {
        const uint8_t *bytes = (*iov)->iov_base;
        size_t len = (*iov)->iov_len;
        if (*count > 1 && len < sizeof record) {
            len = 0;
            for (int i = 0; i < *count && len < sizeof record; i++) {
                size_t n = (*iov)[i].iov_len;
                n = n < sizeof record - len ? n : sizeof record - len;
                memcpy(record + len, (*iov)[i].iov_base, n);
                len += n;
            }
            bytes = record;
        }
        size_t sent;
        enum stream_result result = result_of(s, tls_send(s->tls, bytes, len, &sent));
        if (result != STREAM_OK) {
            return result;
        }
        *count = iov_advance(iov, *count, sent);
    }
    return STREAM_OK;
}

/* One piece, as nearly every batch is, spares the kernel the reading of a vector. */
static ssize_t send_pieces(int fd, struct iovec *iov, int count)
{
    if (count == 1) {
        return send(fd, iov->iov_base, iov->iov_len, MSG_NOSIGNAL);
    }
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)(count > IOV_MAX ? IOV_MAX : count)};
    return sendmsg(fd, &msg, MSG_NOSIGNAL);
}

static enum stream_result send_plain(struct stream *s, struct iovec **iov, int *count)
{
    while (*count > 0) {
        ssize_t n = send_pieces(s->fd, *iov, *count);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno == EAGAIN || errno == EWOULDBLOCK ? STREAM_AGAIN : STREAM_BROKEN;
        }
        *count = iov_advance(iov, *count, (size_t)n);
    }
    return STREAM_OK;
}

static enum stream_result send_now(struct stream *s, struct iovec **iov, int *count)
{
    return s->tls != NULL ? send_tls(s, iov, count) : send_plain(s, iov, count);
}

enum stream_result stream_send(struct stream *s, struct iovec *iov, int count)
{
    enum stream_result result = STREAM_AGAIN;
    if (!stream_is_full(s)) {
        result = send_now(s, &iov, &count);
    }
    if (result != STREAM_AGAIN) {
        return result == STREAM_EOF ? STREAM_BROKEN : result;
    }
    return keep_rest(s, iov, count) ? STREAM_OK : STREAM_NO_MEMORY;
}

/* Of the first piece. */
static enum stream_result flush_piece(struct stream *s, size_t *budget)
{
    struct stream_piece *piece = s->rest;
    const size_t left = piece->len - piece->at;
    const size_t len = left < *budget ? left : *budget;
    /* iovec has no const: sendmsg reads only */
    union {
        const uint8_t *in;
        void *out;
    } base = {.in = piece->bytes + piece->at};
    struct iovec some = {.iov_base = base.out, .iov_len = len};
    struct iovec *iov = &some;
    int count = 1;
    enum stream_result result = send_now(s, &iov, &count);
    const size_t sent = count == 0 ? len : len - some.iov_len;
    piece->at += sent;
    *budget -= sent;
    if (piece->at == piece->len) {
        rest_drop_first(s);
    }
    return result;
}

enum stream_result stream_flush(struct stream *s)
{
    size_t budget = FLUSH_AT_ONCE;
    while (s->rest != NULL) {
        enum stream_result result = budget == 0 ? STREAM_AGAIN : flush_piece(s, &budget);
        if (result == STREAM_AGAIN) {
            return STREAM_AGAIN;
        }
        if (result != STREAM_OK) {
            rest_drop(s);
            return STREAM_BROKEN;
        }
    }
    return STREAM_OK;
}

enum stream_result stream_lend(struct stream *s, const uint8_t *bytes, size_t len,
                               stream_lent_cb done, void *arg)
{
    struct stream_piece *piece = malloc(sizeof *piece);
    if (piece == NULL) {
        done(arg);
        return STREAM_NO_MEMORY;
    }
    const bool was_full = stream_is_full(s);
    *piece = (struct stream_piece){.bytes = bytes, .len = len, .done = done, .arg = arg};
    rest_append(s, piece);
    if (was_full) {
        return STREAM_OK;
    }
    return stream_flush(s) == STREAM_BROKEN ? STREAM_BROKEN : STREAM_OK;
}

void stream_close(struct stream *s, uv_close_cb done)
{
    if (!stream_is_open(s)) {
        return;
    }
    uv_close((uv_handle_t *)&s->poll, done);
    if (s->tls != NULL) {
        SSL_shutdown(s->tls); /* says goodbye; the answer is not waited for */
        SSL_free(s->tls);
        s->tls = NULL;
    }
    close(s->fd);
    s->fd = -1;
    rest_drop(s);
}
