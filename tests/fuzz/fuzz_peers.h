/*
 * For the targets that play whole sessions: the peers, which are sockets of this process and
 * remember every byte, and stand-ins for what a session needs of the process around it. Included
 * once, by the target's own file.
 */
#pragma once

#include "tests/fuzz/fuzz.h"

#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "proxy/log.h"
#include "proxy/service.h"

struct bytes {
    uint8_t *at;
    size_t len, room;
};

struct peer {
    int fd;
    struct bytes sent, received;
};

static inline void bytes_add(struct bytes *b, const uint8_t *bytes, size_t len)
{
    if (b->room - b->len < len) {
        b->room = b->room * 2 + len;
        b->at = realloc(b->at, b->room);
        FUZZ_CHECK(b->at != NULL);
    }
    if (len > 0) {
        memcpy(b->at + b->len, bytes, len);
    }
    b->len += len;
}

static inline void peer_drain(struct peer *peer)
{
    static uint8_t room[65536];
    for (ssize_t n = sizeof room; peer->fd >= 0 && n == sizeof room;) {
        n = recv(peer->fd, room, sizeof room, 0);
        if (n > 0) {
            bytes_add(&peer->received, room, (size_t)n);
        }
    }
}

static inline void peer_close(struct peer *peer)
{
    if (peer->fd >= 0) {
        close(peer->fd);
        peer->fd = -1;
    }
}

/* Listens as a server that `host` then names. */
static inline int listen_as(const char *name, struct upstream_host *host)
{
    /* in the abstract namespace: no file, and a name that is this process's */
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const int len = snprintf(address.sun_path + 1, sizeof address.sun_path - 1,
                             "pgsluice-fuzz-%s-%ld", name, (long)getpid());
    host->is_unix = true;
    host->is_fixed = true;
    host->address_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
    memcpy(&host->address, &address, sizeof address);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    FUZZ_CHECK(bind(listener, (const struct sockaddr *)&address, host->address_len) == 0);
    FUZZ_CHECK(listen(listener, 16) == 0);
    return listener;
}

/* client_tls is off here. */
SSL *service_accept_tls(struct service *service, int fd)
{
    (void)service;
    (void)fd;
    return NULL;
}

/* --- the log: silent --- */

void log_init(bool json, enum log_level least)
{
    (void)json;
    (void)least;
}

void log_line(enum log_level level, const char *fmt, ...)
{
    (void)level;
    (void)fmt;
}
