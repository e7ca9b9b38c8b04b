/*
 * One socket of a session: reads into a buffer that the caller lends, writes at once what the
 * kernel takes and keeps only the rest. A stream whose rest is not yet sent is "full": its owner
 * stops reading whatever feeds it, so that no queue grows with what a peer sends. What is too large
 * to be copied is lent. TLS is a second way to receive and send behind the same calls (tls.h).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <uv.h>

#include "proxy/net/tls.h"

struct config_tcp;

enum stream_result {
    STREAM_OK,
    STREAM_AGAIN,
    STREAM_EOF,
    STREAM_BROKEN, /* the peer is gone */
    STREAM_NO_MEMORY,
};

struct stream {
    uv_poll_t poll;
    int fd; /* -1: not open */
    int events;
    SSL *tls;                  /* NULL: plain */
    bool tls_writes;           /* TLS waits for the socket to become writable before it can go on */
    struct stream_piece *rest; /* accepted for sending, not yet taken by the kernel, in order */
};

typedef void (*stream_lent_cb)(void *arg);

/* Takes `fd` (non-blocking, close-on-exec). `tcp` says how its TCP is tuned; NULL: a unix socket.
 * False leaves it to the caller. */
bool stream_open(struct stream *s, uv_loop_t *loop, int fd, const struct config_tcp *tcp,
                 void *data);
/* From now on through `tls`, which it takes. */
void stream_use_tls(struct stream *s, SSL *tls);
/* Decrypted input waits inside: the loop will not tell of it. */
bool stream_has_pending(const struct stream *s);
/* One step; STREAM_AGAIN until it is done. */
enum stream_result stream_handshake(struct stream *s);
static inline bool stream_is_open(const struct stream *s)
{
    return s->fd >= 0;
}
/* Asks to be called for `events` (UV_READABLE, ...); 0 stops. UV_WRITABLE is added while full. */
void stream_watch(struct stream *s, int events, uv_poll_cb cb);

enum stream_result stream_recv(struct stream *s, uint8_t *room, size_t len, size_t *received);
/* Sends everything or keeps a copy of the rest. */
enum stream_result stream_send(struct stream *s, struct iovec *iov, int count);
/* Sends `bytes` from where they lie, now and later. When they are sent, or will never be, done(arg)
 * is called, perhaps at once. */
enum stream_result stream_lend(struct stream *s, const uint8_t *bytes, size_t len,
                               stream_lent_cb done, void *arg);
/* Sends of the rest what the kernel takes, up to a megabyte: the other streams want their turn. */
enum stream_result stream_flush(struct stream *s);
static inline bool stream_is_full(const struct stream *s)
{
    return s->rest != NULL;
}
/* Closes the socket at once; `done` runs when the loop has let go of the handle. */
void stream_close(struct stream *s, uv_close_cb done);
