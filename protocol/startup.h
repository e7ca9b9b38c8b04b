/*
 * The packets before the first typed message: startup, SSLRequest, GSSENCRequest, CancelRequest
 * (PostgreSQL documentation, "Start-up"; lengths and limits as in the server's
 * ProcessStartupPacket).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/bytes.h"

/* MAX_STARTUP_PACKET_LENGTH of the server. */
#define STARTUP_LENGTH_MAX 10000u
#define STARTUP_LENGTH_MIN 8u
#define CANCEL_KEY_MAX 256

enum startup_kind {
    STARTUP_INCOMPLETE, /* more bytes are needed */
    STARTUP_INVALID,    /* no startup packet can begin like this */
    STARTUP_SSL,
    STARTUP_GSSENC,
    STARTUP_CANCEL,
    STARTUP_CANCEL_INVALID, /* with a key that no server gives out; not to be answered either */
    STARTUP_PROTOCOL_3,
    STARTUP_PROTOCOL_OTHER,
};

struct startup {
    enum startup_kind kind;
    size_t size; /* of the whole packet, once the kind is known */
    uint16_t major, minor;
    /* STARTUP_CANCEL */
    uint32_t cancel_pid;
    struct span cancel_key;
    /* STARTUP_PROTOCOL_3: views into the packet, empty where absent */
    struct span user, database, application_name, options, client_encoding, replication, isolation;
};

/* The eight bytes of an SSLRequest. */
void startup_write_ssl_request(uint8_t out[8]);

/* Writes the STARTUP_PROTOCOL_3 packet anew with `name` as its application_name: in the place of
 * the one it has, or as its last parameter; every other byte stays. False, with nothing to be sent,
 * when the packet's parameters are malformed, which is the server's to refuse, or the new one would
 * be longer than STARTUP_LENGTH_MAX. `w` is the caller's to begin and to end. */
bool startup_write_application_name(struct writer *w, const uint8_t *packet, size_t size,
                                    const char *name);

/* Reads the packet at the start of `bytes`; the result borrows them. */
struct startup startup_read(const uint8_t *bytes, size_t len);
