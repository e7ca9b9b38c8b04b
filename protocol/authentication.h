/*
 * The messages of authentication that the proxy reads or makes itself (PostgreSQL documentation,
 * "Message Formats" and "SASL Authentication"); what stands inside SASL's is scram.h's. Called by
 * the login phase of both sides. Readers borrow the message's bytes, which begin at its type.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/bytes.h"
#include "protocol/scram.h"

/* The first word of an 'R'. */
enum authentication_code {
    AUTHENTICATION_OK = 0,
    AUTHENTICATION_CLEARTEXT = 3,
    AUTHENTICATION_MD5 = 5,
    AUTHENTICATION_SASL = 10,
    AUTHENTICATION_SASL_CONTINUE = 11,
    AUTHENTICATION_SASL_FINAL = 12,
};

struct authentication {
    uint32_t code;    /* an authentication_code, or one not listed there */
    struct span data; /* what follows: the salt of MD5, the mechanisms or the message of SASL */
};
/* Any 'R'; false when even its code is cut off. */
MUST_CHECK bool authentication_read(const uint8_t *message, size_t size,
                                    struct authentication *out);

/* What an AuthenticationSASL offers. */
struct sasl_offer {
    bool scram; /* SCRAM-SHA-256 */
    bool plus;  /* SCRAM-SHA-256-PLUS */
    size_t mechanisms;
};
/* False when the message is another one, or malformed. */
MUST_CHECK bool authentication_read_sasl(const uint8_t *message, size_t size,
                                         struct sasl_offer *out);

/* SASLInitialResponse. */
struct sasl_initial {
    struct span mechanism;
    struct span data; /* ptr is NULL when the client has sent none (length -1) */
};
/* Why a 'p' could not be read. */
enum sasl_read {
    SASL_READ,          /* it was */
    SASL_TOO_LONG,      /* its length word is more than SCRAM_MESSAGE_MAX */
    SASL_OTHER_MESSAGE, /* no 'p' */
    SASL_NO_STRING,     /* no NUL behind the mechanism */
    SASL_TOO_SHORT,     /* the length or the data is cut off */
    SASL_TOO_MUCH,      /* more behind the data */
};
/* What PostgreSQL sends for it to a client whose message had this type byte. For SASL_TOO_LONG that
 * is 28P01, whose text names the user: it is left to the caller. */
void authentication_read_error(enum sasl_read result, uint8_t type, struct scram_error *out);

/* The mechanism is set as soon as it could be read: PostgreSQL judges it before it reads on. */
MUST_CHECK enum sasl_read authentication_read_initial(const uint8_t *message, size_t size,
                                                      struct sasl_initial *out);
/* SASLResponse. */
MUST_CHECK enum sasl_read authentication_read_response(const uint8_t *message, size_t size,
                                                       struct span *data);

void authentication_write_ok(struct writer *w);
/* Offers SCRAM-SHA-256-PLUS, when `plus`, and SCRAM-SHA-256. */
void authentication_write_sasl(struct writer *w, bool plus);
/* The offer of `message`, which authentication_read_sasl() has read, without SCRAM-SHA-256-PLUS. */
void authentication_write_sasl_without_plus(struct writer *w, const uint8_t *message, size_t size);
void authentication_write_continue(struct writer *w, struct span data);
void authentication_write_final(struct writer *w, struct span data);
void authentication_write_initial(struct writer *w, const char *mechanism, struct span data);
void authentication_write_response(struct writer *w, struct span data);
