/*
 * The servers that `server` names: hosts and ports as libpq reads them, tried in their order, and
 * what is known of each: whether it takes writes (proxy/hosts.c asks), which target_session_attrs
 * chooses by.
 */
#pragma once

#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "proxy/config.h"
#include "proxy/failure.h"

enum upstream_role {
    UPSTREAM_ROLE_UNKNOWN, /* not asked yet, or it does not answer */
    UPSTREAM_ROLE_READ_WRITE,
    UPSTREAM_ROLE_READ_ONLY, /* a primary with default_transaction_read_only */
    UPSTREAM_ROLE_STANDBY,
};

struct upstream_host {
    bool is_unix;
    char *name; /* a host name, an address, or the directory of a unix socket: whose certificate it
                   must be */
    char *numeric; /* hostaddr: where to connect instead of looking the name up; NULL: not given */
    char *port;
    bool is_fixed; /* address is valid: no name to resolve */
    struct sockaddr_storage address;
    socklen_t address_len;
    _Atomic enum upstream_role role; /* any thread reads it; only with an `attrs` that needs it */
};

enum upstream_tls {
    UPSTREAM_TLS_DISABLE,
    UPSTREAM_TLS_ALLOW,   /* when the server does not take the login without */
    UPSTREAM_TLS_PREFER,  /* when the server has it, and takes the login with it */
    UPSTREAM_TLS_REQUIRE, /* the context says what is verified */
};

/* libpq's target_session_attrs */
enum upstream_attrs {
    UPSTREAM_ATTRS_ANY,
    UPSTREAM_ATTRS_READ_WRITE,
    UPSTREAM_ATTRS_READ_ONLY,
    UPSTREAM_ATTRS_PRIMARY,
    UPSTREAM_ATTRS_STANDBY,
    UPSTREAM_ATTRS_PREFER_STANDBY,
};

struct upstream {
    struct upstream_host *hosts;
    size_t count;
    enum upstream_attrs attrs;
    enum upstream_tls tls; /* over TCP; unix sockets need none */
    bool tls_direct;       /* sslnegotiation=direct: the handshake is not asked for */
    SSL_CTX *tls_context;  /* NULL with UPSTREAM_TLS_DISABLE */
    bool verify_host;
};

/* Reads the libpq keywords of config->server: host, hostaddr, port, target_session_attrs, sslmode
 * and its kin. Refuses TLS on both sides where nobody could log in by SCRAM. The caller ends *out
 * with upstream_free(). */
MUST_CHECK bool upstream_new(const struct config *config, struct upstream **out, struct failure *f);
void upstream_free(struct upstream *upstream);
const char *upstream_tls_name(const struct upstream *upstream); /* as sslmode has it */

/* The index of a target_session_attrs word as an enum upstream_attrs; false: no such word. */
bool upstream_attrs_read(const char *word, enum upstream_attrs *out);
const char *upstream_attrs_name(enum upstream_attrs attrs);
/* The first host from index `from` on that a session may go to, by what is known now; `count` when
 * there is none. prefer-standby has two rounds (0 and 1), every other has one. */
size_t upstream_choose(const struct upstream *upstream, size_t from, unsigned round);
/* What the hosts are, in a sentence for who looks for another. */
void upstream_roles(const struct upstream *upstream, char *room, size_t size);
const char *upstream_role_name(enum upstream_role role); /* "read-write", ... */
unsigned upstream_rounds(const struct upstream *upstream);

/* Whether one of the hosts accepts a connection now; blocks, for the start only. */
MUST_CHECK bool upstream_reachable(const struct upstream *upstream, int timeout_ms,
                                   struct failure *f);
