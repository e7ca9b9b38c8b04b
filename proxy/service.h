/*
 * What the threads of one serving process share. Made by serve.c before the first worker starts and
 * ended after the last has stopped; in between everything here is constant or has its own lock.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>
#include <uv.h>

#include "proxy/audit/audit.h"
#include "proxy/auth/secrets.h"
#include "proxy/catalog.h"
#include "proxy/config.h"
#include "proxy/gate.h"
#include "proxy/hosts.h"
#include "proxy/net/tls.h"
#include "proxy/net/upstream.h"
#include "proxy/session/limits.h"
#include "proxy/session/registry.h"

struct board;
struct worker;

struct service {
    _Atomic(struct config *) config; /* SIGHUP puts a newer one in its place */
    struct upstream *upstream;
    struct hosts *hosts;     /* NULL: no need to know what they are */
    struct secrets *secrets; /* NULL: the server answers every login */
    struct catalog *catalog;
    struct audit *audit;
    struct gate **gates; /* one for each configuration rule */
    struct registry *registry;
    struct limits *limits;
    struct board *board; /* the cutover under way, and the last one */
    uv_mutex_t tls_lock;
    SSL_CTX *client_tls; /* NULL: client_tls = disable; SIGHUP puts a newer one in its place */
    struct worker **workers;
    unsigned worker_count;
    char nonce[17];                   /* marks the proxy's own failing statements; hex, random */
    _Atomic uint32_t clients;         /* client connections open now */
    _Atomic uint32_t strange_cancels; /* under way now, with keys that no session here has */
    _Atomic uint64_t next_id;         /* of the next session */
    _Atomic bool draining;            /* SIGTERM: sessions end at their next transaction boundary */
};

/* A new TLS connection with a client on `fd`, or NULL when there is no TLS, or no memory. */
SSL *service_accept_tls(struct service *service, int fd);

/* The configuration in force. Older ones live as long as the process: a thread may go on reading.
 */
static inline struct config *service_config(const struct service *service)
{
    return atomic_load_explicit(&service->config, memory_order_acquire);
}
