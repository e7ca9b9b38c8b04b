/*
 * SCRAM messages and secrets: whatever the bytes are, nothing is read or written outside, a reply
 * is one that the other role takes, a failure has its words, and nobody is let in who has not the
 * key.
 *
 * The first byte of an input says what the rest is; see `enum kind`.
 */
#include "tests/fuzz/fuzz.h"

#include "protocol/authentication.h"
#include "protocol/frame.h"
#include "protocol/scram.h"

enum kind {
    KIND_SECRET,       /* text of a secret */
    KIND_CLIENT_FIRST, /* to the server's role; the second byte chooses the mechanism */
    KIND_CLIENT_FINAL,
    KIND_SERVER_FIRST, /* to the client's role; the second byte chooses the binding */
    KIND_SERVER_FINAL,
    KIND_FRAME, /* type and body of a message of authentication */
    KINDS,
};

static const uint8_t random_client[SCRAM_RANDOM] = "aaaaaaaaaaaaaaaaa";
static const uint8_t random_server[SCRAM_RANDOM] = "bbbbbbbbbbbbbbbbb";
static const struct span certificate = {.ptr = "0123456789abcdef0123456789abcdef", .len = 32};

/* Of "pencil"; the key is not its ClientKey, so that no proof made here is right. */
static const char secret_text[] = "SCRAM-SHA-256$4096:klWz/536Qgkmmo+WLwZxUA==$"
                                  "wm/VdcMHTjKTMvqgkz1KMpfMV7NzZlHwtPZbwZjhxc0=:"
                                  "MThlUbBa2ehRth6qt+BOWZOSslVzB/ia5p1wuoe8jG0=";
static const uint8_t wrong_key[SCRAM_KEY] = "not the key";

static struct scram_secret known_secret(void)
{
    struct scram_secret secret;
    FUZZ_CHECK(scram_secret_read((struct span){.ptr = secret_text, .len = sizeof secret_text - 1},
                                 &secret));
    return secret;
}

static void check_error(const struct scram_error *error)
{
    FUZZ_CHECK(strlen(error->sqlstate) == 5);
    FUZZ_CHECK(error->message[0] != '\0' || strcmp(error->sqlstate, "28P01") == 0);
    FUZZ_CHECK(memchr(error->message, 0, sizeof error->message) != NULL);
    FUZZ_CHECK(memchr(error->detail, 0, sizeof error->detail) != NULL);
    for (const char *p = error->message; *p != '\0'; p++) {
        FUZZ_CHECK(*p >= 0x20 && *p <= 0x7e);
    }
    for (const char *p = error->detail; *p != '\0'; p++) {
        FUZZ_CHECK(*p >= 0x20 && *p <= 0x7e);
    }
}

static void check_server_refused(const struct scram_server *server, enum scram_result result)
{
    struct scram_error error;
    scram_server_error(server, result, &error);
    check_error(&error);
}

static void check_client_refused(const struct scram_client *client, enum scram_result result)
{
    struct scram_error error;
    scram_client_error(client, result, &error);
    check_error(&error);
}

static void try_secret(struct span text)
{
    struct scram_secret secret;
    if (scram_secret_read(text, &secret)) {
        FUZZ_CHECK(secret.iterations >= 1 && secret.iterations <= 0x7fffffff);
        FUZZ_CHECK(secret.salt_len <= SCRAM_SALT_MAX && !secret.is_mock);
    }
}

static void begin(struct scram_server *server, bool plus_offered, bool plus_chosen)
{
    const char *name = plus_chosen ? SCRAM_SHA_256_PLUS : SCRAM_SHA_256;
    const struct scram_secret secret = known_secret();
    scram_server_init(server, &secret, plus_offered, random_server);
    const struct span mechanism = {.ptr = name, .len = strlen(name)};
    FUZZ_CHECK(scram_server_mechanism(server, mechanism) ==
               (plus_chosen && !plus_offered ? SCRAM_MECHANISM : SCRAM_OK));
}

static void try_client_first(struct span message, uint8_t choice)
{
    struct scram_server server;
    struct span reply;
    begin(&server, choice & 1, (choice & 3) == 3);
    const enum scram_result result = scram_server_first(&server, message, &reply);
    if (result != SCRAM_OK) {
        check_server_refused(&server, result);
        scram_server_fini(&server);
        return;
    }
    FUZZ_CHECK(reply.len > 2 && memcmp(reply.ptr, "r=", 2) == 0);
    FUZZ_CHECK(memchr(reply.ptr, 0, reply.len) == NULL);
    FUZZ_CHECK(server.text.len < SCRAM_TEXT_MAX);
    FUZZ_CHECK(message.ptr[0] != 'p' || server.plus_chosen);
    FUZZ_CHECK(message.ptr[0] != 'y' || !server.plus_offered);
    scram_server_fini(&server);
}

static void try_client_final(struct span message, uint8_t choice)
{
    static const char *const firsts[] = {"n,,n=,r=abc", "y,,n=,r=abc",
                                         "p=tls-server-end-point,,n=,r=abc"};
    const char *first = firsts[choice % 3];
    struct scram_server server;
    struct span reply;
    uint8_t learned[SCRAM_KEY] = "untouched";
    begin(&server, first[0] == 'p', first[0] == 'p');
    FUZZ_CHECK(scram_server_first(&server, (struct span){.ptr = first, .len = strlen(first)},
                                  &reply) == SCRAM_OK);
    const enum scram_result result =
        scram_server_final(&server, message, certificate, learned, &reply);
    FUZZ_CHECK(result != SCRAM_OK);
    FUZZ_CHECK(memcmp(learned, "untouched", sizeof "untouched") == 0);
    check_server_refused(&server, result);
    scram_server_fini(&server);
}

static void try_server_first(struct span message, uint8_t choice)
{
    struct scram_client client;
    struct scram_challenge challenge;
    struct span reply;
    const struct scram_secret secret = known_secret();
    scram_client_first(&client, (enum scram_binding)(choice % 3), random_client);
    const enum scram_result read = scram_client_challenge(&client, message, &challenge);
    const enum scram_result result =
        scram_client_final(&client, message, &secret, wrong_key, certificate, &reply);
    FUZZ_CHECK(result == read || (read == SCRAM_OK && result == SCRAM_OTHER_SECRET));
    if (read == SCRAM_OK) {
        FUZZ_CHECK(challenge.iterations >= 1 && challenge.salt_len <= SCRAM_SALT_MAX);
        FUZZ_CHECK(challenge.nonce.ptr >= message.ptr);
        FUZZ_CHECK(challenge.nonce.ptr + challenge.nonce.len <= message.ptr + message.len);
    }
    if (result == SCRAM_OK) {
        FUZZ_CHECK(memcmp(reply.ptr, "c=", 2) == 0 && client.text.len < SCRAM_TEXT_MAX);
    } else {
        check_client_refused(&client, result);
    }
    scram_client_fini(&client);
}

static void try_server_final(struct span message)
{
    static const char first[] = "r=YWFhYWFhYWFhYWFhYWFhYWEAx,s=klWz/536Qgkmmo+WLwZxUA==,i=4096";
    struct scram_client client;
    struct span reply, refusal = {.ptr = message.ptr, .len = 0};
    const struct scram_secret secret = known_secret();
    scram_client_first(&client, SCRAM_BINDING_NONE, random_client);
    FUZZ_CHECK(scram_client_final(&client, (struct span){.ptr = first, .len = sizeof first - 1},
                                  &secret, wrong_key, certificate, &reply) == SCRAM_OK);
    const enum scram_result result = scram_client_verify(&client, message, &refusal);
    FUZZ_CHECK(result != SCRAM_OK || memcmp(message.ptr, "v=", 2) == 0);
    FUZZ_CHECK(refusal.len == 0 || (refusal.ptr >= message.ptr && refusal.len <= message.len));
    if (result != SCRAM_OK) {
        check_client_refused(&client, result);
    }
    scram_client_fini(&client);
}

static void check_within(struct span s, const uint8_t *message, size_t size)
{
    const uint8_t *start = (const uint8_t *)s.ptr;
    FUZZ_CHECK(start >= message + FRAME_HEADER && start + s.len <= message + size);
}

static void check_written(struct writer *w, const uint8_t *message, size_t size)
{
    FUZZ_CHECK(w->ok && w->len == size && memcmp(w->bytes, message, size) == 0);
    writer_fini(w);
}

static void check_offer(const uint8_t *message, size_t size)
{
    struct sasl_offer offer, again;
    if (!authentication_read_sasl(message, size, &offer)) {
        return;
    }
    struct writer w;
    writer_init(&w, size);
    authentication_write_sasl_without_plus(&w, message, size);
    FUZZ_CHECK(w.ok && authentication_read_sasl(w.bytes, w.len, &again));
    FUZZ_CHECK(!again.plus && again.scram == offer.scram);
    FUZZ_CHECK(offer.plus ? again.mechanisms < offer.mechanisms
                          : again.mechanisms == offer.mechanisms);
    writer_fini(&w);
}

static void check_initial(const uint8_t *message, size_t size)
{
    struct sasl_initial initial;
    struct scram_error error;
    const enum sasl_read result = authentication_read_initial(message, size, &initial);
    if (result != SASL_READ) {
        authentication_read_error(result, message[0], &error);
        check_error(&error);
        return;
    }
    check_within(initial.mechanism, message, size);
    if (initial.data.ptr != NULL) {
        check_within(initial.data, message, size);
        struct writer w;
        writer_init(&w, size);
        authentication_write_initial(&w, initial.mechanism.ptr, initial.data);
        check_written(&w, message, size);
    }
}

static void try_frame(const uint8_t *data, size_t len)
{
    const size_t size = FRAME_HEADER + (len > 0 ? len - 1 : 0);
    uint8_t *message = malloc(size);
    FUZZ_CHECK(message != NULL);
    message[0] = len > 0 ? data[0] : 0;
    store_u32(message + 1, (uint32_t)(size - 1));
    if (len > 0) {
        memcpy(message + FRAME_HEADER, data + 1, len - 1);
    }
    struct authentication authentication;
    struct span response;
    if (authentication_read(message, size, &authentication)) {
        check_within(authentication.data, message, size);
    }
    if (authentication_read_response(message, size, &response) == SASL_READ) {
        check_within(response, message, size);
    }
    check_offer(message, size);
    check_initial(message, size);
    free(message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {.at = data, .len = size};
    const uint8_t kind = fuzz_u8(&in) % KINDS;
    const uint8_t choice = kind == KIND_SECRET || kind == KIND_FRAME ? 0 : fuzz_u8(&in);
    uint8_t *copy = fuzz_copy(in.at, in.len);
    const struct span text = {.ptr = (const char *)copy, .len = in.len};
    switch ((enum kind)kind) {
    case KIND_SECRET:
        try_secret(text);
        break;
    case KIND_CLIENT_FIRST:
        try_client_first(text, choice);
        break;
    case KIND_CLIENT_FINAL:
        try_client_final(text, choice);
        break;
    case KIND_SERVER_FIRST:
        try_server_first(text, choice);
        break;
    case KIND_SERVER_FINAL:
        try_server_final(text);
        break;
    case KIND_FRAME:
    case KINDS:
        try_frame(copy, in.len);
        break;
    }
    free(copy);
    return 0;
}
