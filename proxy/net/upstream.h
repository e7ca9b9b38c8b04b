/*
 * The servers that `server` names: hosts and ports as libpq reads them, tried in their order.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include "proxy/failure.h"

struct upstream_host {
    bool is_unix;
    char *name; /* a host name, an address, or the directory of a unix socket */
    char *port;
    bool is_fixed; /* address is valid: no name to resolve */
    struct sockaddr_storage address;
    socklen_t address_len;
};

enum upstream_tls {
    UPSTREAM_TLS_DISABLE,
    UPSTREAM_TLS_PREFER,  /* when the server has it */
    UPSTREAM_TLS_REQUIRE, /* the context says what is verified */
};

struct upstream {
    struct upstream_host *hosts;
    size_t count;
    enum upstream_tls tls; /* over TCP; unix sockets need none */
    SSL_CTX *tls_context;  /* NULL with UPSTREAM_TLS_DISABLE */
    bool verify_host;
};

/* Reads libpq keywords (host, hostaddr, port, sslmode and its kin). Without an sslmode it is libpq's
 * own, prefer, unless the clients' leg has TLS (`client_tls`): SCRAM passes through one leg of TLS only.
 * The caller ends *out with upstream_free(). */
MUST_CHECK bool upstream_new(const char *conninfo, bool client_tls, struct upstream **out,
                             struct failure *f);
void upstream_free(struct upstream *upstream);
/* Whether one of the hosts accepts a connection now; blocks, for the start only. */
MUST_CHECK bool upstream_reachable(const struct upstream *upstream, int timeout_ms,
                                   struct failure *f);
