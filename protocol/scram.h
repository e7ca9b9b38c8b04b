/*
 * SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, both roles: what stands in the messages and how the keys
 * are computed (RFC 5802, RFC 7677; tls-server-end-point of RFC 5929; PostgreSQL documentation,
 * "SASL Authentication"). What PostgreSQL's server and libpq accept and refuse, this accepts and
 * refuses.
 *
 * Called by the login phase, which frames the messages (authentication.h) and brings the random
 * bytes. The proxy is the server of its client and learns the ClientKey from the client's proof;
 * with it, it is the client of PostgreSQL without knowing the password.
 *
 *   server:  init -> mechanism -> first -> final -> fini      client:  first -> final -> verify ->
 * fini
 *
 * A struct of a role is the caller's storage, holds no pointers, and must end in its _fini(), which
 * wipes it. A reply borrows that storage until the next call. After a failure only _error() and
 * _fini() are meant to follow; another attempt with the same struct is refused.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/bytes.h"

#define SCRAM_KEY 32            /* bytes of a SHA-256 */
#define SCRAM_RANDOM 18         /* bytes behind a nonce, as PostgreSQL takes them */
#define SCRAM_SALT_LEN 16       /* bytes of a salt that PostgreSQL makes */
#define SCRAM_SALT_MAX 256      /* bytes, decoded, that are taken */
#define SCRAM_BINDING_MAX 64    /* bytes of a certificate's hash: a SHA-512 at most */
#define SCRAM_MESSAGE_MAX 1024u /* bytes; PG_MAX_SASL_MESSAGE_LENGTH of the server */
#define SCRAM_TEXT_MAX 3584     /* three messages of the longest kind, joined by commas */

#define SCRAM_SHA_256 "SCRAM-SHA-256"
#define SCRAM_SHA_256_PLUS "SCRAM-SHA-256-PLUS"

/* What a call came to. The server's own texts for it: scram_server_error(), scram_client_error().
 */
enum scram_result {
    SCRAM_OK = 0,
    /* Both roles. */
    SCRAM_TOO_LONG,        /* than SCRAM_MESSAGE_MAX */
    SCRAM_EMPTY,           /* the message is empty */
    SCRAM_NUL,             /* there is a NUL inside it */
    SCRAM_ATTRIBUTE,       /* another attribute than the one whose turn it is */
    SCRAM_NO_EQUALS,       /* an attribute without its "=" */
    SCRAM_NO_ATTRIBUTE,    /* the end where an attribute must follow */
    SCRAM_BAD_ATTRIBUTE,   /* an attribute's name that is no letter */
    SCRAM_NONCE_MISMATCH,  /* the nonce does not go on from ours */
    SCRAM_GARBAGE,         /* more after the last attribute */
    SCRAM_BINDING_MISSING, /* the caller has no hash of the certificate, though TLS is bound */
    SCRAM_CRYPTO,          /* libcrypto failed: out of memory */
    /* As the server of a client. */
    SCRAM_MECHANISM,            /* a mechanism that was not offered */
    SCRAM_BINDING_FLAG,         /* neither n, y nor p */
    SCRAM_BINDING_ABSENT,       /* SCRAM-SHA-256-PLUS with n or y */
    SCRAM_BINDING_UNEXPECTED,   /* SCRAM-SHA-256 with p */
    SCRAM_BINDING_TYPE,         /* another binding than tls-server-end-point */
    SCRAM_BINDING_DOWNGRADE,    /* y, though PLUS was offered: somebody took it out of the offer */
    SCRAM_BINDING_MISMATCH,     /* bound to another certificate: somebody stands between */
    SCRAM_BINDING_NOT_REPEATED, /* the last message's binding is not the first one's */
    SCRAM_NO_COMMA,             /* after the binding flag */
    SCRAM_FIRST_ATTRIBUTE,      /* neither "," nor authzid after the binding flag */
    SCRAM_AUTHZID,              /* an authorization identity: not supported */
    SCRAM_EXTENSION,            /* a mandatory extension: not supported */
    SCRAM_NONCE_UNPRINTABLE,    /* the client's nonce, by the server's rule: 0x21 to 0x7e */
    SCRAM_PROOF_MALFORMED,      /* not 32 bytes in base64 */
    SCRAM_PROOF_WRONG,          /* the password is wrong, or the user does not exist */
    /* As the client of a server. */
    SCRAM_SALT_MALFORMED,  /* not base64, or longer than SCRAM_SALT_MAX */
    SCRAM_ITERATION_COUNT, /* not a number from 1 to 2^31 - 1 */
    SCRAM_OTHER_SECRET,    /* salt or iterations are not those of the secret given */
    SCRAM_REFUSED,         /* e=: the server says why */
    SCRAM_SIGNATURE,       /* not 32 bytes in base64 */
    SCRAM_SIGNATURE_WRONG, /* the server does not know the secret */
};

/* What PostgreSQL keeps of a password (pg_authid.rolpassword). Wiped by its owner. */
struct scram_secret {
    uint32_t iterations; /* 1 to 2^31 - 1 */
    size_t salt_len;
    uint8_t salt[SCRAM_SALT_MAX];
    uint8_t stored_key[SCRAM_KEY];
    uint8_t server_key[SCRAM_KEY];
    bool is_mock; /* of a user that does not exist: no proof matches it */
};

/* Reads SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>; false when it is not one, or out
 * of the bounds above. */
MUST_CHECK bool scram_secret_read(struct span text, struct scram_secret *out);
/* The secret of a password, which the caller has put through SASLprep, and its ClientKey. Takes
 * time in proportion to `iterations`, which a server chooses: bound them. False when libcrypto
 * fails. */
MUST_CHECK bool scram_secret_derive(struct span password, const uint8_t *salt, size_t salt_len,
                                    uint32_t iterations, uint8_t client_key[SCRAM_KEY],
                                    struct scram_secret *out);
void scram_secret_wipe(struct scram_secret *secret);

/* What the texts of PostgreSQL's errors repeat from the message. */
struct scram_fault {
    char expected;
    char found;
    char type[31]; /* of a channel binding, made printable */
};

/* As in an ErrorResponse; "" where absent. */
struct scram_error {
    char sqlstate[6];
    char message[96];
    char detail[160];
};

/* Messages joined as AuthMessage needs them, and the reply behind. */
struct scram_text {
    size_t len;
    char bytes[SCRAM_TEXT_MAX];
};

/* The server's role, towards the client. */
struct scram_server {
    struct scram_secret secret;
    uint8_t random[SCRAM_RANDOM];
    bool plus_offered;
    bool plus_chosen;
    char flag;        /* n, y or p once the first message is read, 0 after the last */
    size_t nonce_len; /* of both nonces together, which stand at nonce_at of the text */
    size_t nonce_at;
    struct scram_text text;
    struct scram_fault fault;
};

/* Copies secret and random bytes. `plus_offered`: the client's connection has TLS and it was
 * offered SCRAM-SHA-256-PLUS. */
void scram_server_init(struct scram_server *server, const struct scram_secret *secret,
                       bool plus_offered, const uint8_t random[SCRAM_RANDOM]);
/* The mechanism that the client's SASLInitialResponse names. */
MUST_CHECK enum scram_result scram_server_mechanism(struct scram_server *server, struct span name);
/* Takes the client-first-message, replies with the server-first-message. When a SASLInitialResponse
 * has no data, the server sends an empty AuthenticationSASLContinue, and this message comes next.
 */
MUST_CHECK enum scram_result scram_server_first(struct scram_server *server, struct span message,
                                                struct span *reply);
/* Takes the client-final-message, replies with the server-final-message. `binding` is the hash of
 * the certificate that was shown to the client (tls-server-end-point), empty without TLS.
 * client_key is filled on success only; the caller wipes it. */
MUST_CHECK enum scram_result scram_server_final(struct scram_server *server, struct span message,
                                                struct span binding, uint8_t client_key[SCRAM_KEY],
                                                struct span *reply);
void scram_server_fini(struct scram_server *server);
/* What PostgreSQL sends for this failure. For SCRAM_PROOF_WRONG everything is empty but the
 * sqlstate (28P01), since the text names the user. */
void scram_server_error(const struct scram_server *server, enum scram_result result,
                        struct scram_error *out);

/* The client's role, towards the server: the gs2 header. */
enum scram_binding {
    SCRAM_BINDING_NONE,   /* n: no TLS, or binding turned off */
    SCRAM_BINDING_UNUSED, /* y: could bind, but the server did not offer SCRAM-SHA-256-PLUS */
    SCRAM_BINDING_TLS,    /* p=tls-server-end-point: the mechanism must be SCRAM-SHA-256-PLUS */
};

struct scram_client {
    enum scram_binding binding;
    /* In the text: where client-first-message-bare begins, our nonce begins, and both end. */
    size_t bare;
    size_t nonce;
    size_t first_end;
    uint8_t server_signature[SCRAM_KEY];
    bool is_signed; /* server_signature is set: the last message may be checked */
    struct scram_text text;
    struct scram_fault fault;
};

/* Begins: makes the client-first-message. The user's name stays empty in it: PostgreSQL has it from
 * the startup packet. */
struct span scram_client_first(struct scram_client *client, enum scram_binding binding,
                               const uint8_t random[SCRAM_RANDOM]);

/* What the server-first-message asks for. */
struct scram_challenge {
    uint32_t iterations;
    size_t salt_len;
    uint8_t salt[SCRAM_SALT_MAX];
    struct span nonce; /* borrows the message */
};
/* Reads the server-first-message, for a caller that has a password and must derive the secret
 * before scram_client_final(). */
MUST_CHECK enum scram_result scram_client_challenge(struct scram_client *client,
                                                    struct span message,
                                                    struct scram_challenge *out);
/* Takes the server-first-message, replies with the client-final-message. `binding` is the hash of
 * the server's certificate for SCRAM_BINDING_TLS, else it is not looked at. */
MUST_CHECK enum scram_result scram_client_final(struct scram_client *client, struct span message,
                                                const struct scram_secret *secret,
                                                const uint8_t client_key[SCRAM_KEY],
                                                struct span binding, struct span *reply);
/* Checks the server-final-message. With SCRAM_REFUSED `refusal` (may be NULL) is the server's
 * reason, which borrows the message. */
MUST_CHECK enum scram_result scram_client_verify(struct scram_client *client, struct span message,
                                                 struct span *refusal);
void scram_client_fini(struct scram_client *client);
/* The failure in libpq's words, for a log or for the proxy's own client; the sqlstate is the
 * proxy's choice, since libpq has none: 08P01 for what a server must not send, 28000 for what makes
 * it doubtful that it is the right server. */
void scram_client_error(const struct scram_client *client, enum scram_result result,
                        struct scram_error *out);
