/*
 * TLS for one socket, by OpenSSL on the socket's own descriptor, behind the same calls and results
 * as a plain one (stream.h). A context is made from the configuration and shared by its
 * connections.
 */
#pragma once

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/config.h"
#include "proxy/failure.h"

/* As in stream.h, and what a handshake may need. */
enum tls_result {
    TLS_OK,
    TLS_WANT_READ,
    TLS_WANT_WRITE,
    TLS_EOF,
    TLS_BROKEN,
};

/* For connections that clients make. Reads certificate, key and CA now, so that what is wrong with
 * them is said at start. NULL in *out with client_tls = disable. End with SSL_CTX_free(). */
MUST_CHECK bool tls_accept_context(const struct config_client_tls *settings, SSL_CTX **out,
                                   struct failure *f);

/* What libpq's keywords ask for towards a server; paths may be NULL. */
struct tls_connect_settings {
    bool verify; /* the certificate must be signed by root_cert's CA */
    bool verify_host;
    const char *root_cert, *cert, *key, *crl, *min_version;
};
/* For connections that the proxy makes. */
MUST_CHECK bool tls_connect_context(const struct tls_connect_settings *settings, SSL_CTX **out,
                                    struct failure *f);

/* Each takes part in `context` (counted by OpenSSL) and borrows `fd`. NULL when out of memory. */
SSL *tls_accept(SSL_CTX *context, int fd);
/* `host`: the name or address that was asked for; `verify_host`: the certificate must be its. */
SSL *tls_connect(SSL_CTX *context, int fd, const char *host, bool verify_host);
enum tls_result tls_handshake(SSL *tls);
/* Fills `room` as far as what has arrived allows. */
enum tls_result tls_recv(SSL *tls, uint8_t *room, size_t len, size_t *received);
/* At most one record; *sent says how much went. */
enum tls_result tls_send(SSL *tls, const uint8_t *bytes, size_t len, size_t *sent);
/* The protocol chosen by ALPN is "postgresql". */
bool tls_has_alpn(const SSL *tls);
/* The client certificate's subject and common name into `room`s, "" when it showed none. */
void tls_peer(const SSL *tls, char *subject, size_t subject_size, char *name, size_t name_size);
/* A certificate's hash as tls-server-end-point binds to it (RFC 5929): of the peer's, or of the one
 * shown to the peer. Returns its bytes, at most 64; 0 where there is none, or none that it says how
 * to hash. */
size_t tls_peer_hash(const SSL *tls, uint8_t hash[64]);
size_t tls_own_hash(const SSL *tls, uint8_t hash[64]);
/* Why the last call on this thread failed, in OpenSSL's words. */
void tls_error(char *room, size_t size);
/* Why the handshake failed: what was wrong with the peer's certificate, if that was it. */
void tls_handshake_error(const SSL *tls, char *room, size_t size);
