/*
 * SCRAM: single messages, and those around them. The server's answers to malformed ones are those
 * that PostgreSQL 15 and 18 gave to the same bytes; the client's words are libpq's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "protocol/authentication.h"
#include "protocol/frame.h"
#include "protocol/scram_keys.h"
#include "scram_pencil.h"

/* --- The server's answers to malformed messages, as PostgreSQL 15 and 18 give them --- */

#define MALFORMED "malformed SCRAM message"

struct answer {
    const char *message;
    const char *sqlstate; /* NULL: it is taken */
    const char *text;
    const char *detail;
};

static void assert_answer(const struct answer *expected, const struct scram_server *server,
                          enum scram_result result)
{
    struct scram_error error;
    if (expected->sqlstate == NULL) {
        if (result != SCRAM_OK) {
            fail_msg("refused: %s", expected->message);
        }
        return;
    }
    if (result == SCRAM_OK) {
        fail_msg("taken: %s", expected->message);
    }
    scram_server_error(server, result, &error);
    assert_string_equal(error.sqlstate, expected->sqlstate);
    assert_string_equal(error.message, expected->text);
    assert_string_equal(error.detail, expected->detail);
}

static void try_first(const struct answer *expected, struct span message, bool plus_offered,
                      const char *mechanism)
{
    struct scram_server server;
    struct span reply;
    scram_server_init(&server, &pencil, plus_offered, random_b);
    enum scram_result result = scram_server_mechanism(&server, span_of(mechanism));
    if (result == SCRAM_OK) {
        result = scram_server_first(&server, message, &reply);
    }
    assert_answer(expected, &server, result);
    scram_server_fini(&server);
}

static void first_messages_are_answered_as_by_postgresql(void **state)
{
    (void)state;
    static const struct answer answers[] = {
        {"", "08P01", MALFORMED, "The message is empty."},
        {"n", "08P01", MALFORMED, "Comma expected, but found character \"0x00\"."},
        {"n,", "08P01", MALFORMED, "Unexpected attribute \"0x00\" in client-first-message."},
        {"nx", "08P01", MALFORMED, "Comma expected, but found character \"'x'\"."},
        {"z,,n=,r=a", "08P01", MALFORMED, "Unexpected channel-binding flag \"'z'\"."},
        {"\x01,,", "08P01", MALFORMED, "Unexpected channel-binding flag \"0x01\"."},
        {"\xff", "08P01", MALFORMED, "Unexpected channel-binding flag \"0xff\"."},
        {"n,a=bob,n=,r=a", "0A000", "client uses authorization identity, but it is not supported",
         ""},
        {"n,x", "08P01", MALFORMED, "Unexpected attribute \"'x'\" in client-first-message."},
        {"n,,m=1,n=,r=a", "0A000", "client requires an unsupported SCRAM extension", ""},
        {"n,,x=,r=a", "08P01", MALFORMED, "Expected attribute \"n\" but found \"'x'\"."},
        {"n,,", "08P01", MALFORMED, "Expected attribute \"n\" but found \"0x00\"."},
        {"n,,n", "08P01", MALFORMED, "Expected character \"=\" for attribute \"n\"."},
        {"n,,n=", "08P01", MALFORMED, "Expected attribute \"r\" but found \"0x00\"."},
        {"n,,n=,r", "08P01", MALFORMED, "Expected character \"=\" for attribute \"r\"."},
        {"n,,r=abc", "08P01", MALFORMED, "Expected attribute \"n\" but found \"'r'\"."},
        {"n,,n=,r=a\x01"
         "b",
         "08P01", "non-printable characters in SCRAM nonce", ""},
        {"n,,n=,r=a b", "08P01", "non-printable characters in SCRAM nonce", ""},
        {"n,,n=,r=a\xc3\xa9", "08P01", "non-printable characters in SCRAM nonce", ""},
        {"n,,n=,r=a,1=x", "08P01", MALFORMED,
         "Attribute expected, but found invalid character \"'1'\"."},
        {"n,,n=,r=a,x", "08P01", MALFORMED, "Expected character \"=\" for attribute \"x\"."},
        {"n,,n=,r=a,,", "08P01", MALFORMED,
         "Attribute expected, but found invalid character \"','\"."},
        {"p", "08P01", MALFORMED,
         "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message "
         "includes channel binding data."},
        {"n,,n=,r=", NULL, NULL, NULL},
        {"n,,n=,r=a,", NULL, NULL, NULL},
        {"n,,n=,r=a,x=1,", NULL, NULL, NULL},
        {"n,,n=bob=2C,r=abc", NULL, NULL, NULL},
        {"y,,n=,r=abc", NULL, NULL, NULL},
    };
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        try_first(&answers[i], span_of(answers[i].message), false, SCRAM_SHA_256);
    }
    const struct answer nul = {"NUL", "08P01", MALFORMED,
                               "Message length does not match input length."};
    try_first(&nul, (struct span){.ptr = "n,,n=,r=a\0b", .len = 11}, false, SCRAM_SHA_256);
}

static void bindings_are_judged_as_by_postgresql(void **state)
{
    (void)state;
    static const struct answer with_plus[] = {
        {"y,,n=,r=abc", "08P01", MALFORMED,
         "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel "
         "binding data."},
        {"n,,n=,r=abc", "08P01", MALFORMED,
         "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel "
         "binding data."},
        {"p=tls-unique,,n=,r=abc", "08P01", "unsupported SCRAM channel-binding type \"tls-unique\"",
         ""},
        {"p=\x01"
         "bad\xc3\xa9 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,,n=,r=abc",
         "08P01", "unsupported SCRAM channel-binding type \"?bad???aaaaaaaaaaaaaaaaaaaaaaa\"", ""},
        {"p,,n=,r=abc", "08P01", MALFORMED, "Expected character \"=\" for attribute \"p\"."},
        {"p=tls-server-end-point,,n=,r=abc", NULL, NULL, NULL},
    };
    for (size_t i = 0; i < sizeof with_plus / sizeof with_plus[0]; i++) {
        try_first(&with_plus[i], span_of(with_plus[i].message), true, SCRAM_SHA_256_PLUS);
    }
    const struct answer downgrade = {
        "y,,n=,r=abc", "28000", "SCRAM channel binding negotiation error",
        "The client supports SCRAM channel binding but thinks the server does not.  However, this "
        "server does support channel binding."};
    const struct answer unexpected = {
        "p=tls-server-end-point,,n=,r=abc", "08P01", MALFORMED,
        "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes "
        "channel binding data."};
    const struct answer mechanism = {
        "n,,n=,r=abc", "08P01", "client selected an invalid SASL authentication mechanism", ""};
    const struct answer taken = {"n,,n=,r=abc", NULL, NULL, NULL};
    try_first(&downgrade, span_of(downgrade.message), true, SCRAM_SHA_256);
    try_first(&unexpected, span_of(unexpected.message), true, SCRAM_SHA_256);
    try_first(&unexpected, span_of(unexpected.message), false, SCRAM_SHA_256);
    try_first(&mechanism, span_of(mechanism.message), false, SCRAM_SHA_256_PLUS);
    try_first(&mechanism, span_of(mechanism.message), true, "SCRAM-SHA-1");
    try_first(&mechanism, span_of(mechanism.message), true, "");
    try_first(&taken, span_of(taken.message), true, SCRAM_SHA_256);
}

/* Text with %N for the nonce and %P for the proof of what stands before ",p=". */
static struct span fill_in(const struct scram_server *server, const char *pattern, char out[2048])
{
    char *at = out;
    for (const char *p = pattern; *p != '\0'; p++) {
        if (strncmp(p, "%N", 2) == 0) {
            memcpy(at, server->text.bytes + server->nonce_at, server->nonce_len);
            at += server->nonce_len;
            p++;
        } else if (strncmp(p, "%P", 2) == 0) {
            char auth_message[4096];
            uint8_t proof[SCRAM_KEY];
            size_t len = server->text.len, own = (size_t)(at - out) - strlen(",p=");
            memcpy(auth_message, server->text.bytes, len);
            auth_message[len++] = ',';
            memcpy(auth_message + len, out, own);
            struct span text = {.ptr = auth_message, .len = len + own};
            assert_true(scram_hmac(pencil.stored_key, text, proof));
            for (size_t i = 0; i < SCRAM_KEY; i++) {
                proof[i] ^= pencil_key[i];
            }
            base64_write(at, proof, SCRAM_KEY);
            at += BASE64_SIZE(SCRAM_KEY);
            p++;
        } else {
            *at++ = *p;
        }
    }
    *at = '\0';
    return (struct span){.ptr = out, .len = (size_t)(at - out)};
}

static void try_final(const struct answer *expected, const char *first)
{
    char message[2048];
    uint8_t learned[SCRAM_KEY];
    struct scram_server server;
    struct span reply;
    scram_server_init(&server, &pencil, first[0] == 'p', random_b);
    const char *mechanism = first[0] == 'p' ? SCRAM_SHA_256_PLUS : SCRAM_SHA_256;
    assert_int_equal(scram_server_mechanism(&server, span_of(mechanism)), SCRAM_OK);
    assert_int_equal(scram_server_first(&server, span_of(first), &reply), SCRAM_OK);
    struct span final = fill_in(&server, expected->message, message);
    assert_answer(expected, &server,
                  scram_server_final(&server, final, certificate, learned, &reply));
    scram_server_fini(&server);
}

static void last_messages_are_answered_as_by_postgresql(void **state)
{
    (void)state;
    static const char no_end[] = "Attribute expected, but found end of string.";
    static const char proof[] = "Malformed proof in client-final-message.";
    static const char binding[] =
        "unexpected SCRAM channel-binding attribute in client-final-message";
    static const struct answer answers[] = {
        {"", "08P01", MALFORMED, "The message is empty."},
        {"c", "08P01", MALFORMED, "Expected character \"=\" for attribute \"c\"."},
        {"c=", "08P01", binding, ""},
        {"c=biws", "08P01", MALFORMED, "Expected attribute \"r\" but found \"0x00\"."},
        {"c=biws,", "08P01", MALFORMED, "Expected attribute \"r\" but found \"0x00\"."},
        {"c=biws,r", "08P01", MALFORMED, "Expected character \"=\" for attribute \"r\"."},
        {"c=biws,x=", "08P01", MALFORMED, "Expected attribute \"r\" but found \"'x'\"."},
        {"r=1", "08P01", MALFORMED, "Expected attribute \"c\" but found \"'r'\"."},
        {"c=biws,r=", "08P01", MALFORMED, no_end},
        {"c=biws,r=%N", "08P01", MALFORMED, no_end},
        {"c=biws,r=%N,", "08P01", MALFORMED, no_end},
        {"c=biws,r=abc,,", "08P01", MALFORMED,
         "Attribute expected, but found invalid character \"','\"."},
        {"c=biws,r=%Nx,p=%P", "08P01", "invalid SCRAM response", "Nonce does not match."},
        {"c=biws,r=abc,p=%P", "08P01", "invalid SCRAM response", "Nonce does not match."},
        {"c=biws,r=,p=%P", "08P01", "invalid SCRAM response", "Nonce does not match."},
        {"c=eSws,r=%N,p=%P", "08P01", binding, ""},
        {"c=biws,r=%N,1=1,p=%P", "08P01", MALFORMED,
         "Attribute expected, but found invalid character \"'1'\"."},
        {"c=biws,r=%N,x,p=%P", "08P01", MALFORMED, "Expected character \"=\" for attribute \"x\"."},
        {"c=biws,r=%N,p=%P,x=1", "08P01", MALFORMED,
         "Garbage found at the end of client-final-message."},
        {"c=biws,r=%N,p=AAAA", "08P01", MALFORMED, proof},
        {"c=biws,r=%N,p=!!!!", "08P01", MALFORMED, proof},
        {"c=biws,r=%N,p=", "08P01", MALFORMED, proof},
        {"c=biws,r=%N,p= %P", "08P01", MALFORMED, proof},
        {"c=biws,r=%N,p=%PAAAA", "08P01", MALFORMED, proof},
        {"c=biws,r=%N,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "28P01", "", ""},
        {"c=biws,r=%N,p=%P", NULL, NULL, NULL},
        {"c=biws,r=%N,p=%P,", NULL, NULL, NULL},
        {"c=biws,r=%N,x=1,y=2,p=%P", NULL, NULL, NULL},
        {"c=biws,r=%N,m=1,p=%P", NULL, NULL, NULL},
    };
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        try_final(&answers[i], "n,,n=,r=abc");
    }
    const struct answer check = {"c=biws,r=%N,p=%P", "28000", "SCRAM channel binding check failed",
                                 ""};
    const struct answer noted = {"c=eSws,r=%N,p=%P", NULL, NULL, NULL};
    try_final(&check, "p=tls-server-end-point,,n=,r=abc");
    try_final(&noted, "y,,n=,r=abc");
}

static void a_server_takes_one_attempt(void **state)
{
    (void)state;
    const struct answer right = {"c=biws,r=%N,p=%P", NULL, NULL, NULL};
    char message[2048];
    uint8_t learned[SCRAM_KEY];
    struct scram_server server;
    struct span reply;
    scram_server_init(&server, &pencil, false, random_b);
    assert_int_equal(scram_server_final(&server, /* before the first message */
                                        span_of("c=biws,r=,p=AAAA"), span_of(""), learned, &reply),
                     SCRAM_BINDING_NOT_REPEATED);
    assert_int_equal(scram_server_first(&server, span_of("n,,n=,r=abc"), &reply), SCRAM_OK);
    struct span final = fill_in(&server, right.message, message);
    message[final.len - 10] ^= 1;
    assert_int_equal(scram_server_final(&server, final, span_of(""), learned, &reply),
                     SCRAM_PROOF_WRONG);
    message[final.len - 10] ^= 1;
    assert_int_equal(scram_server_final(&server, final, span_of(""), learned, &reply),
                     SCRAM_BINDING_NOT_REPEATED);
    scram_server_fini(&server);
}

/* As long as can be: the texts that are joined have room, and one byte more is refused. */
static void longest_messages_are_taken(void **state)
{
    (void)state;
    char first[SCRAM_MESSAGE_MAX + 2] = "n,,n=,r=abc,x=", pattern[SCRAM_MESSAGE_MAX + 2];
    memset(first + strlen(first), 'x', SCRAM_MESSAGE_MAX - strlen(first));
    static const char head[] = "c=biws,r=%N,x=", tail[] = ",p=%P";
    size_t len = sizeof head - 1;
    memcpy(pattern, head, len);
    /* %N becomes 27 characters, %P 44. */
    size_t fill = SCRAM_MESSAGE_MAX - (len + 25) - (strlen(tail) + 42);
    memset(pattern + len, 'x', fill);
    memcpy(pattern + len + fill, tail, sizeof tail);
    const struct answer taken = {pattern, NULL, NULL, NULL};
    try_final(&taken, first);
    memset(pattern + len, 'x', fill + 1);
    memcpy(pattern + len + fill + 1, tail, sizeof tail);
    const struct answer refused = {pattern, "28P01", "", ""};
    try_final(&refused, first);
    strcat(first, "x");
    try_first(&refused, span_of(first), false, SCRAM_SHA_256);
}

/* --- The client's role --- */

#define NONCE_A "YWFhYWFhYWFhYWFhYWFhYWEA" /* random_a in base64 */
#define SALT_15 "klWz/536Qgkmmo+WLwZxUA=="

static void first_messages_of_a_server_are_checked(void **state)
{
    (void)state;
    static const struct {
        const char *message;
        enum scram_result result;
        const char *text;
    } cases[] = {
        {"r=" NONCE_A "x,s=" SALT_15 ",i=4096", SCRAM_OK, NULL},
        {"r=" NONCE_A ",s=" SALT_15 ",i=4096", SCRAM_OK, NULL},
        {"", SCRAM_EMPTY, MALFORMED " (empty message)"},
        {"m=1,r=" NONCE_A "x,s=" SALT_15 ",i=4096", SCRAM_ATTRIBUTE,
         MALFORMED " (attribute \"r\" expected)"},
        {"r", SCRAM_NO_EQUALS, MALFORMED " (expected character \"=\" for attribute \"r\")"},
        {"r=x" NONCE_A ",s=" SALT_15 ",i=4096", SCRAM_NONCE_MISMATCH,
         "invalid SCRAM response (nonce mismatch)"},
        {"r=YWFh,s=" SALT_15 ",i=4096", SCRAM_NONCE_MISMATCH,
         "invalid SCRAM response (nonce mismatch)"},
        {"r=" NONCE_A "x,i=4096", SCRAM_ATTRIBUTE, MALFORMED " (attribute \"s\" expected)"},
        {"r=" NONCE_A "x,s=A,i=4096", SCRAM_SALT_MALFORMED, MALFORMED " (invalid salt)"},
        {"r=" NONCE_A "x,s=" SALT_15 ",i=0", SCRAM_ITERATION_COUNT,
         MALFORMED " (invalid iteration count)"},
        {"r=" NONCE_A "x,s=" SALT_15 ",i=2147483648", SCRAM_ITERATION_COUNT,
         MALFORMED " (invalid iteration count)"},
        {"r=" NONCE_A "x,s=" SALT_15 ",i=4096,x=1", SCRAM_GARBAGE,
         MALFORMED " (garbage at end of the server's message)"},
        {"r=" NONCE_A "x,s=" SALT_15 ",i=4097", SCRAM_OTHER_SECRET,
         "the server's SCRAM secret is another one"},
        {"r=" NONCE_A "x,s=klWz/536Qgkmmo+WLwZxUQ==,i=4096", SCRAM_OTHER_SECRET,
         "the server's SCRAM secret is another one"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct scram_client client;
        struct scram_error error;
        struct span reply;
        assert_span(scram_client_first(&client, SCRAM_BINDING_UNUSED, random_a),
                    "y,,n=,r=" NONCE_A);
        assert_int_equal(scram_client_final(&client, span_of(cases[i].message), &pencil, pencil_key,
                                            span_of(""), &reply),
                         cases[i].result);
        if (cases[i].text != NULL) {
            scram_client_error(&client, cases[i].result, &error);
            assert_string_equal(error.message, cases[i].text);
            assert_int_equal(strlen(error.sqlstate), 5);
        }
        scram_client_fini(&client);
    }
}

static void last_messages_of_a_server_are_checked(void **state)
{
    (void)state;
    struct scram_client client;
    struct span reply, refusal = {0};
    scram_client_first(&client, SCRAM_BINDING_NONE, random_a);
    assert_int_equal(scram_client_verify(&client, /* before anything was signed */
                                         span_of("v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
                                         NULL),
                     SCRAM_SIGNATURE_WRONG);
    assert_int_equal(scram_client_final(&client, span_of("r=" NONCE_A "x,s=" SALT_15 ",i=4096"),
                                        &pencil, pencil_key, span_of(""), &reply),
                     SCRAM_OK);
    assert_int_equal(scram_client_verify(&client, span_of("e=other-error"), &refusal),
                     SCRAM_REFUSED);
    assert_span(refusal, "other-error");
    assert_int_equal(scram_client_verify(&client, span_of("e"), NULL), SCRAM_NO_EQUALS);
    assert_int_equal(scram_client_verify(&client, span_of(""), NULL), SCRAM_EMPTY);
    assert_int_equal(scram_client_verify(&client, span_of("x=1"), NULL), SCRAM_ATTRIBUTE);
    assert_int_equal(scram_client_verify(&client, span_of("v=AAAA"), NULL), SCRAM_SIGNATURE);
    assert_int_equal(scram_client_verify(&client, span_of("v=AAAA,x=1"), NULL), SCRAM_GARBAGE);
    scram_client_fini(&client);
}

static void a_challenge_tells_salt_and_iterations(void **state)
{
    (void)state;
    struct scram_client client;
    struct scram_challenge challenge;
    scram_client_first(&client, SCRAM_BINDING_NONE, random_a);
    assert_int_equal(
        scram_client_challenge(&client, span_of("r=" NONCE_A "x,s=" SALT_15 ",i=77"), &challenge),
        SCRAM_OK);
    assert_int_equal(challenge.iterations, 77);
    assert_int_equal(challenge.salt_len, SCRAM_SALT_LEN);
    assert_memory_equal(challenge.salt, pencil.salt, SCRAM_SALT_LEN);
    assert_span(challenge.nonce, NONCE_A "x");
    scram_client_fini(&client);
}

/* --- The messages around them --- */

static void assert_frame(struct writer *w, const char *expected, size_t len)
{
    assert_true(w->ok);
    assert_int_equal(w->len, len);
    assert_memory_equal(w->bytes, expected, len);
    w->len = 0;
}

#define FRAME(literal) literal, sizeof(literal) - 1
#define BYTES(literal) (const uint8_t *)(literal), sizeof(literal) - 1

static void messages_of_authentication_are_written(void **state)
{
    (void)state;
    struct writer w;
    writer_init(&w, 256);
    authentication_write_ok(&w);
    assert_frame(&w, FRAME("R\0\0\0\x08\0\0\0\0"));
    authentication_write_sasl(&w, true);
    assert_frame(&w, FRAME("R\0\0\0\x2a\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"));
    authentication_write_sasl(&w, false);
    assert_frame(&w, FRAME("R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"));
    authentication_write_continue(&w, span_of("r=x"));
    assert_frame(&w, FRAME("R\0\0\0\x0b\0\0\0\x0br=x"));
    authentication_write_continue(&w, span_of(""));
    assert_frame(&w, FRAME("R\0\0\0\x08\0\0\0\x0b"));
    authentication_write_final(&w, span_of("v=x"));
    assert_frame(&w, FRAME("R\0\0\0\x0b\0\0\0\x0cv=x"));
    authentication_write_initial(&w, SCRAM_SHA_256, span_of("n,,"));
    assert_frame(&w, FRAME("p\0\0\0\x19SCRAM-SHA-256\0\0\0\0\x03n,,"));
    authentication_write_response(&w, span_of("c=x"));
    assert_frame(&w, FRAME("p\0\0\0\x07"
                           "c=x"));
    writer_fini(&w);
}

static void offers_are_read_and_lose_plus(void **state)
{
    (void)state;
    static const char both[] = "R\0\0\0\x2a\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0";
    struct sasl_offer offer;
    struct writer w;
    assert_true(authentication_read_sasl((const uint8_t *)both, sizeof both, &offer));
    assert_true(offer.scram && offer.plus && offer.mechanisms == 2);
    for (size_t len = FRAME_HEADER; len < sizeof both; len++) {
        assert_false(authentication_read_sasl((const uint8_t *)both, len, &offer));
    }
    writer_init(&w, 256);
    authentication_write_sasl_without_plus(&w, (const uint8_t *)both, sizeof both);
    assert_true(authentication_read_sasl(w.bytes, w.len, &offer));
    assert_true(offer.scram && !offer.plus && offer.mechanisms == 1);
    authentication_write_sasl(&w, false);
    assert_memory_equal(w.bytes, w.bytes + w.len / 2, w.len / 2);
    writer_fini(&w);
    assert_true(authentication_read_sasl(BYTES("R\0\0\0\0\0\0\0\x0aOTHER\0\0"), &offer));
    assert_true(!offer.scram && !offer.plus && offer.mechanisms == 1);
    assert_false(authentication_read_sasl(BYTES("R\0\0\0\0\0\0\0\x0bOTHER\0\0"), &offer));
    assert_false(authentication_read_sasl(BYTES("p\0\0\0\0\0\0\0\x0aOTHER\0\0"), &offer));
}

static void messages_of_a_server_are_told_apart(void **state)
{
    (void)state;
    struct authentication read;
    assert_true(authentication_read(BYTES("R\0\0\0\x08\0\0\0\0"), &read));
    assert_int_equal(read.code, AUTHENTICATION_OK);
    assert_span(read.data, "");
    assert_true(authentication_read(BYTES("R\0\0\0\x0c\0\0\0\x05salt"), &read));
    assert_int_equal(read.code, AUTHENTICATION_MD5);
    assert_span(read.data, "salt");
    assert_true(authentication_read(BYTES("R\0\0\0\x0b\0\0\0\x0br=x"), &read));
    assert_int_equal(read.code, AUTHENTICATION_SASL_CONTINUE);
    assert_span(read.data, "r=x");
    assert_false(authentication_read(BYTES("R\0\0\0\x07\0\0\0"), &read));
    assert_false(authentication_read(BYTES("E\0\0\0\x08\0\0\0\0"), &read));
}

static void responses_are_read_as_by_postgresql(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        enum sasl_read result;
        const char *text;
    } cases[] = {
        {FRAME("p\0\0\0\0SCRAM-SHA-256\0\0\0\0\x03n,,"), SASL_READ, NULL},
        {FRAME("p\0\0\0\0SCRAM-SHA-256\0\xff\xff\xff\xff"), SASL_READ, NULL},
        {FRAME("Q\0\0\0\0SELECT 1\0"), SASL_OTHER_MESSAGE,
         "expected SASL response, got message type 81"},
        {FRAME("p\0\0\0\0"), SASL_NO_STRING, "invalid string in message"},
        {FRAME("p\0\0\0\0SCRAM-SHA-256"), SASL_NO_STRING, "invalid string in message"},
        {FRAME("p\0\0\0\0SCRAM-SHA-256\0"), SASL_TOO_SHORT, "insufficient data left in message"},
        {FRAME("p\0\0\0\0SCRAM-SHA-256\0\0\0\0\x04n,,"), SASL_TOO_SHORT,
         "insufficient data left in message"},
        {FRAME("p\0\0\0\0SCRAM-SHA-256\0\xff\xff\xff\xfen,,"), SASL_TOO_SHORT,
         "insufficient data left in message"},
        {FRAME("p\0\0\0\0SCRAM-SHA-256\0\0\0\0\x02n,,"), SASL_TOO_MUCH, "invalid message format"},
        {FRAME("p\0\0\0\0SCRAM-SHA-256\0\xff\xff\xff\xffn,,"), SASL_TOO_MUCH,
         "invalid message format"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const uint8_t *message = (const uint8_t *)cases[i].bytes;
        struct sasl_initial initial;
        struct scram_error error;
        enum sasl_read result = authentication_read_initial(message, cases[i].len, &initial);
        assert_int_equal(result, cases[i].result);
        if (cases[i].text == NULL) {
            assert_span(initial.mechanism, SCRAM_SHA_256);
            assert_true(initial.data.ptr == NULL || initial.data.len == 3);
        } else {
            authentication_read_error(result, message[0], &error);
            assert_string_equal(error.sqlstate, "08P01");
            assert_string_equal(error.message, cases[i].text);
        }
    }
}

static void responses_have_the_bound_of_postgresql(void **state)
{
    (void)state;
    uint8_t message[FRAME_HEADER + SCRAM_MESSAGE_MAX] = "p";
    struct scram_error error;
    struct span data;
    size_t longest = SCRAM_MESSAGE_MAX + 1; /* the length word counts itself, but not the type */
    assert_int_equal(authentication_read_response(message, longest, &data), SASL_READ);
    assert_int_equal(data.len, SCRAM_MESSAGE_MAX - 4);
    assert_int_equal(authentication_read_response(message, longest + 1, &data), SASL_TOO_LONG);
    authentication_read_error(SASL_TOO_LONG, 'p', &error);
    assert_string_equal(error.sqlstate, "28P01");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_messages_are_answered_as_by_postgresql),
        cmocka_unit_test(bindings_are_judged_as_by_postgresql),
        cmocka_unit_test(last_messages_are_answered_as_by_postgresql),
        cmocka_unit_test(a_server_takes_one_attempt),
        cmocka_unit_test(longest_messages_are_taken),
        cmocka_unit_test(first_messages_of_a_server_are_checked),
        cmocka_unit_test(last_messages_of_a_server_are_checked),
        cmocka_unit_test(a_challenge_tells_salt_and_iterations),
        cmocka_unit_test(messages_of_authentication_are_written),
        cmocka_unit_test(offers_are_read_and_lose_plus),
        cmocka_unit_test(messages_of_a_server_are_told_apart),
        cmocka_unit_test(responses_are_read_as_by_postgresql),
        cmocka_unit_test(responses_have_the_bound_of_postgresql),
    };
    return cmocka_run_group_tests_name("scram messages", tests, derive_pencil, NULL);
}
