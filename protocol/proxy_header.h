/*
 * The PROXY protocol's binary header, version 2 (HAProxy, "The PROXY protocol", section 2.2): what
 * a load balancer puts ahead of a connection to say whose it is.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* The signature, version and command, family, and the length of what follows. */
#define PROXY_HEADER_FIXED 16u
/* Longest header that is taken. The addresses need 232 bytes; the rest is for what senders add, of
 * which a client's certificate is the longest. */
#define PROXY_HEADER_MAX 8192u

enum proxy_header_kind {
    PROXY_HEADER_INCOMPLETE, /* `size` bytes are needed before more can be said */
    PROXY_HEADER_MISSING,    /* something else begins here */
    PROXY_HEADER_VERSION_1,  /* the text header, which is not taken */
    PROXY_HEADER_INVALID,    /* `why` */
    PROXY_HEADER_LOCAL,      /* names nobody: the connection is the sender's own (LOCAL, UNSPEC) */
    PROXY_HEADER_TCP4,
    PROXY_HEADER_TCP6,
    PROXY_HEADER_UNIX,
};

struct proxy_header {
    enum proxy_header_kind kind;
    size_t size;     /* of the whole header, or of as much as must be read next */
    const char *why; /* PROXY_HEADER_INVALID: a constant */
    /* of the client: network byte order, 4 bytes with TCP4 and 16 with TCP6 */
    uint8_t address[16];
    uint16_t port;
};

/* Reads the header at the start of `bytes`. While it is incomplete, `size` is never more than the
 * header's own length: whoever reads up to there takes nothing of what comes behind.
 * Type-length-value fields must lie within the header; of them only the CRC32c is looked at, and
 * must be right. */
struct proxy_header proxy_header_read(const uint8_t *bytes, size_t len);
