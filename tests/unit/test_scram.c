/*
 * SCRAM: the example of RFC 7677, secrets that PostgreSQL made, both roles against each other, and
 * the answers that PostgreSQL 15 and 18 gave to the same malformed messages.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "protocol/authentication.h"
#include "protocol/scram.h"
#include "protocol/scram_keys.h"

/* Of PostgreSQL 15 and 18 for the password "pencil". */
static const char secret_15[] = "SCRAM-SHA-256$4096:klWz/536Qgkmmo+WLwZxUA==$"
                                "wm/VdcMHTjKTMvqgkz1KMpfMV7NzZlHwtPZbwZjhxc0=:"
                                "MThlUbBa2ehRth6qt+BOWZOSslVzB/ia5p1wuoe8jG0=";
static const char secret_18[] = "SCRAM-SHA-256$4096:cjQE9Ewm31V0LFJiFLA7AQ==$"
                                "3LLMh+sF2cEKk8lzGQyf2LckIuLcJ7vsgd7Y76sZquE=:"
                                "DfiZRcAD1vjG89T7jh4h0Tuo+4UteA8uJF5f6davt2E=";
static const char password[] = "pencil";
static const uint8_t random_a[SCRAM_RANDOM] = "aaaaaaaaaaaaaaaaa";
static const uint8_t random_b[SCRAM_RANDOM] = "bbbbbbbbbbbbbbbbb";
static const struct span certificate = {.ptr = "0123456789abcdef0123456789abcdef", .len = 32};

static struct span span_of(const char *text)
{
    return (struct span){.ptr = text, .len = strlen(text)};
}

static void assert_span(struct span s, const char *text)
{
    assert_int_equal(s.len, strlen(text));
    assert_memory_equal(s.ptr, text, s.len);
}

static void assert_wiped(const void *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        assert_int_equal(((const uint8_t *)bytes)[i], 0);
    }
}

static struct scram_secret read_secret(const char *text)
{
    struct scram_secret secret;
    assert_true(scram_secret_read(span_of(text), &secret));
    return secret;
}

/* The secret of "pencil" and its ClientKey, derived once: 4096 iterations take their time. */
static struct scram_secret pencil;
static uint8_t pencil_key[SCRAM_KEY];

static int derive_pencil(void **state)
{
    (void)state;
    struct scram_secret secret = read_secret(secret_15);
    bool is_derived = scram_secret_derive(span_of(password), secret.salt, secret.salt_len,
                                          secret.iterations, pencil_key, &pencil);
    return is_derived ? 0 : -1;
}

/* --- Secrets --- */

static void secrets_of_postgresql_are_those_of_the_password(void **state)
{
    (void)state;
    const char *texts[] = {secret_15, secret_18};
    for (size_t i = 0; i < 2; i++) {
        uint8_t client_key[SCRAM_KEY];
        struct scram_secret derived, secret = read_secret(texts[i]);
        assert_int_equal(secret.iterations, 4096);
        assert_int_equal(secret.salt_len, SCRAM_SALT_LEN);
        assert_true(scram_secret_derive(span_of(password), secret.salt, secret.salt_len, 4096,
                                        client_key, &derived));
        assert_memory_equal(&derived, &secret, sizeof secret);
        assert_true(scram_secret_derive(span_of("Pencil"), secret.salt, secret.salt_len, 4096,
                                        client_key, &derived));
        assert_memory_not_equal(derived.stored_key, secret.stored_key, SCRAM_KEY);
    }
}

#define KEYS                                                                                       \
    "$wm/VdcMHTjKTMvqgkz1KMpfMV7NzZlHwtPZbwZjhxc0=:MThlUbBa2ehRth6qt+BOWZOSslVzB/ia5p1wuoe8jG0="

static void what_is_no_secret_is_refused(void **state)
{
    (void)state;
    static const char *const refused[] = {
        "",
        "pencil",
        "md5d8578edf8458ce06fbc5bb76a58c5ca4",
        "SCRAM-SHA-1$4096:klWz/536Qgkmmo+WLwZxUA==" KEYS,
        "scram-sha-256$4096:klWz/536Qgkmmo+WLwZxUA==" KEYS,
        " SCRAM-SHA-256$4096:klWz/536Qgkmmo+WLwZxUA==" KEYS,
        "SCRAM-SHA-256$:klWz/536Qgkmmo+WLwZxUA==" KEYS,
        "SCRAM-SHA-256$0:klWz/536Qgkmmo+WLwZxUA==" KEYS,
        "SCRAM-SHA-256$-1:klWz/536Qgkmmo+WLwZxUA==" KEYS,
        "SCRAM-SHA-256$4096x:klWz/536Qgkmmo+WLwZxUA==" KEYS,
        "SCRAM-SHA-256$2147483648:klWz/536Qgkmmo+WLwZxUA==" KEYS,
        "SCRAM-SHA-256$99999999999999999999:klWz/536Qgkmmo+WLwZxUA==" KEYS,
        "SCRAM-SHA-256$4096:klWz/536Qgkmmo+WLwZxUA=" KEYS,
        "SCRAM-SHA-256$4096:klWz 536Qgkmmo+WLwZxUA==" KEYS,
        "SCRAM-SHA-256$4096:klWz/536Qgkmmo+WLwZxUA==" KEYS " ",
        "SCRAM-SHA-256$4096:klWz/536Qgkmmo+WLwZxUA==" KEYS ":",
        "SCRAM-SHA-256$4096:klWz/536Qgkmmo+WLwZxUA==$AAAA:AAAA",
    };
    struct scram_secret secret;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        if (scram_secret_read(span_of(refused[i]), &secret)) {
            fail_msg("taken: %s", refused[i]);
        }
        assert_wiped(&secret, sizeof secret);
    }
    for (size_t len = 0; len < sizeof secret_15 - 1; len++) {
        assert_false(scram_secret_read((struct span){.ptr = secret_15, .len = len}, &secret));
    }
    assert_false(
        scram_secret_read((struct span){.ptr = secret_15, .len = sizeof secret_15}, &secret));
}

static void secrets_may_have_other_salts_and_iterations(void **state)
{
    (void)state;
    struct scram_secret secret = read_secret("SCRAM-SHA-256$2147483647:QQ==" KEYS);
    assert_int_equal(secret.iterations, 2147483647);
    assert_int_equal(secret.salt_len, 1);
    assert_int_equal(secret.salt[0], 'A');
    assert_int_equal(read_secret("SCRAM-SHA-256$1:" KEYS).salt_len, 0);
    char text[1024] = "SCRAM-SHA-256$1:";
    const size_t head = strlen(text);
    memset(text + head, 'A', BASE64_SIZE(SCRAM_SALT_MAX));
    text[head + BASE64_SIZE(SCRAM_SALT_MAX) - 1] = '=';
    text[head + BASE64_SIZE(SCRAM_SALT_MAX) - 2] = '=';
    strcat(text, KEYS);
    assert_int_equal(read_secret(text).salt_len, SCRAM_SALT_MAX);
    text[head + BASE64_SIZE(SCRAM_SALT_MAX) - 2] = 'A';
    assert_false(scram_secret_read(span_of(text), &secret));
}

static void a_password_needs_bounds_that_fit(void **state)
{
    (void)state;
    uint8_t key[SCRAM_KEY], salt[SCRAM_SALT_MAX + 1] = {0};
    struct scram_secret out;
    assert_true(scram_secret_derive(span_of(""), NULL, 0, 1, key, &out));
    assert_true(scram_secret_derive(span_of("x"), salt, SCRAM_SALT_MAX, 1, key, &out));
    assert_false(scram_secret_derive(span_of("x"), salt, SCRAM_SALT_MAX + 1, 1, key, &out));
    assert_false(scram_secret_derive(span_of("x"), salt, 16, 0, key, &out));
    assert_false(scram_secret_derive(span_of("x"), salt, 16, 0x80000000u, key, &out));
}

/* --- Exchanges --- */

enum message_of_exchange { CLIENT_FIRST, SERVER_FIRST, CLIENT_FINAL, SERVER_FINAL, MESSAGES };

struct exchange {
    struct scram_secret secret;
    uint8_t client_key[SCRAM_KEY];
    enum scram_binding binding;
    bool plus_offered;
    struct span client_sees, server_sees; /* the certificate's hash */
    /* What happens to one message on its way. */
    enum message_of_exchange touched;
    size_t at;
    uint8_t flip; /* bits of the byte `at` */
    bool is_cut;  /* the message ends before `at` */
    /* Afterwards. */
    size_t lengths[MESSAGES];
    enum scram_result server, client;
    uint8_t learned[SCRAM_KEY];
};

static struct exchange exchange_of(enum scram_binding binding)
{
    struct exchange x = {.secret = pencil, .binding = binding, .touched = MESSAGES};
    memcpy(x.client_key, pencil_key, SCRAM_KEY);
    x.plus_offered = binding == SCRAM_BINDING_TLS;
    x.client_sees = x.server_sees = binding == SCRAM_BINDING_TLS ? certificate : span_of("");
    return x;
}

/* A copy of exactly its size, touched if it is its turn. */
static struct span carry(struct exchange *x, enum message_of_exchange which, struct span message)
{
    size_t len = which == x->touched && x->is_cut ? x->at : message.len;
    char *copy = malloc(len + (len == 0));
    assert_non_null(copy);
    memcpy(copy, message.ptr, len);
    if (which == x->touched && x->at < len) {
        copy[x->at] = (char)(copy[x->at] ^ x->flip);
    }
    x->lengths[which] = message.len;
    return (struct span){.ptr = copy, .len = len};
}

static void drop(struct span message)
{
    free((void *)(uintptr_t)message.ptr);
}

static void hold_exchange(struct exchange *x, struct scram_client *client,
                          struct scram_server *server)
{
    struct span reply = scram_client_first(client, x->binding, random_a);
    struct span message = carry(x, CLIENT_FIRST, reply);
    x->server = scram_server_first(server, message, &reply);
    drop(message);
    if (x->server != SCRAM_OK) {
        return;
    }
    message = carry(x, SERVER_FIRST, reply);
    x->client =
        scram_client_final(client, message, &x->secret, x->client_key, x->client_sees, &reply);
    drop(message);
    if (x->client != SCRAM_OK) {
        return;
    }
    message = carry(x, CLIENT_FINAL, reply);
    x->server = scram_server_final(server, message, x->server_sees, x->learned, &reply);
    drop(message);
    if (x->server != SCRAM_OK) {
        return;
    }
    message = carry(x, SERVER_FINAL, reply);
    x->client = scram_client_verify(client, message, NULL);
    drop(message);
}

static void run_exchange(struct exchange *x)
{
    struct scram_client client;
    struct scram_server server;
    scram_server_init(&server, &pencil, x->plus_offered, random_b);
    bool is_plus = x->binding == SCRAM_BINDING_TLS;
    struct span mechanism = span_of(is_plus ? SCRAM_SHA_256_PLUS : SCRAM_SHA_256);
    assert_int_equal(scram_server_mechanism(&server, mechanism), SCRAM_OK);
    hold_exchange(x, &client, &server);
    scram_server_fini(&server);
    scram_client_fini(&client);
    assert_wiped(&server, sizeof server);
    assert_wiped(&client, sizeof client);
}

static const enum scram_binding bindings[] = {SCRAM_BINDING_NONE, SCRAM_BINDING_UNUSED,
                                              SCRAM_BINDING_TLS};
enum { BINDINGS = 3 };

static void roles_agree_and_the_server_learns_the_client_key(void **state)
{
    (void)state;
    for (size_t i = 0; i < BINDINGS; i++) {
        struct exchange x = exchange_of(bindings[i]);
        run_exchange(&x);
        assert_int_equal(x.server, SCRAM_OK);
        assert_int_equal(x.client, SCRAM_OK);
        assert_memory_equal(x.learned, pencil_key, SCRAM_KEY);
        memcpy(x.client_key, x.learned, SCRAM_KEY);
        x.secret = read_secret(secret_15);
        run_exchange(&x);
        assert_int_equal(x.server, SCRAM_OK);
        assert_int_equal(x.client, SCRAM_OK);
    }
}

static void a_wrong_client_key_is_refused(void **state)
{
    (void)state;
    for (size_t bit = 0; bit < SCRAM_KEY * 8; bit++) {
        struct exchange x = exchange_of(SCRAM_BINDING_NONE);
        x.client_key[bit / 8] ^= (uint8_t)(1u << bit % 8);
        run_exchange(&x);
        assert_int_equal(x.server, SCRAM_PROOF_WRONG);
        assert_wiped(x.learned, SCRAM_KEY);
    }
}

static void another_certificate_is_noticed(void **state)
{
    (void)state;
    struct exchange x = exchange_of(SCRAM_BINDING_TLS);
    x.client_sees = span_of("0123456789abcdef0123456789abcdeF");
    run_exchange(&x);
    assert_int_equal(x.server, SCRAM_BINDING_MISMATCH);
    x.client_sees = span_of("");
    run_exchange(&x);
    assert_int_equal(x.client, SCRAM_BINDING_MISSING);
    x.client_sees = certificate;
    x.server_sees = span_of("");
    run_exchange(&x);
    assert_int_equal(x.server, SCRAM_BINDING_MISSING);
}

static void hashes_of_sha_512_certificates_fit(void **state)
{
    (void)state;
    char hash[SCRAM_BINDING_MAX + 1];
    memset(hash, 0xab, sizeof hash);
    struct exchange x = exchange_of(SCRAM_BINDING_TLS);
    x.client_sees = x.server_sees = (struct span){.ptr = hash, .len = SCRAM_BINDING_MAX};
    run_exchange(&x);
    assert_int_equal(x.client, SCRAM_OK);
    assert_int_equal(x.server, SCRAM_OK);
    x.client_sees.len++;
    run_exchange(&x);
    assert_int_equal(x.client, SCRAM_BINDING_MISSING);
}

static void a_client_that_was_not_shown_the_offer_is_refused(void **state)
{
    (void)state;
    struct exchange x = exchange_of(SCRAM_BINDING_UNUSED);
    x.plus_offered = true;
    run_exchange(&x);
    assert_int_equal(x.server, SCRAM_BINDING_DOWNGRADE);
    x.binding = SCRAM_BINDING_NONE;
    run_exchange(&x);
    assert_int_equal(x.server, SCRAM_OK);
    assert_int_equal(x.client, SCRAM_OK);
}

/* The digit before the padding has bits that mean nothing, and PostgreSQL does not look at them. */
static bool is_loose(const struct exchange *x)
{
    return (x->touched == CLIENT_FINAL || x->touched == SERVER_FINAL) &&
           x->at == x->lengths[x->touched] - 2;
}

static void a_flipped_bit_in_any_message_ends_the_exchange(void **state)
{
    (void)state;
    for (size_t i = 0; i < BINDINGS; i++) {
        struct exchange plain = exchange_of(bindings[i]);
        run_exchange(&plain);
        for (size_t which = 0; which < MESSAGES; which++) {
            for (size_t bit = 0; bit < plain.lengths[which] * 8; bit++) {
                struct exchange x = plain;
                x.touched = (enum message_of_exchange)which;
                x.at = bit / 8;
                x.flip = (uint8_t)(1u << bit % 8);
                run_exchange(&x);
                bool is_over = x.server != SCRAM_OK || x.client != SCRAM_OK;
                if (!is_over && !is_loose(&x)) {
                    fail_msg("message %zu, byte %zu, bits %x: taken", which, x.at, x.flip);
                }
            }
        }
    }
}

static void a_cut_message_ends_the_exchange(void **state)
{
    (void)state;
    for (size_t i = 0; i < BINDINGS; i++) {
        struct exchange plain = exchange_of(bindings[i]);
        run_exchange(&plain);
        for (size_t which = 0; which < MESSAGES; which++) {
            for (size_t len = 0; len < plain.lengths[which]; len++) {
                struct exchange x = plain;
                x.touched = (enum message_of_exchange)which;
                x.at = len;
                x.is_cut = true;
                run_exchange(&x);
                assert_true(x.server != SCRAM_OK || x.client != SCRAM_OK);
            }
        }
    }
}

static void nobody_can_log_in_against_a_mock(void **state)
{
    (void)state;
    static const uint8_t nonce[32] = "as old as the process", other[32] = "of another process";
    struct scram_secret mock, again, strange;
    assert_true(scram_secret_mock(span_of("nobody"), nonce, &mock));
    assert_true(scram_secret_mock(span_of("nobody"), nonce, &again));
    assert_memory_equal(&mock, &again, sizeof mock);
    assert_true(scram_secret_mock(span_of("nobodx"), nonce, &strange));
    assert_memory_not_equal(mock.salt, strange.salt, SCRAM_SALT_LEN);
    assert_true(scram_secret_mock(span_of("nobody"), other, &strange));
    assert_memory_not_equal(mock.salt, strange.salt, SCRAM_SALT_LEN);
    assert_int_equal(mock.salt_len, SCRAM_SALT_LEN);
    assert_int_equal(mock.iterations, 4096);

    /* Even with the keys of a real password in it. */
    struct scram_server server;
    struct scram_client client;
    struct exchange x = exchange_of(SCRAM_BINDING_NONE);
    again = pencil;
    again.is_mock = true;
    for (size_t i = 0; i < 2; i++) {
        x.secret = i == 0 ? mock : again;
        scram_server_init(&server, &x.secret, false, random_b);
        hold_exchange(&x, &client, &server);
        assert_int_equal(x.server, SCRAM_PROOF_WRONG);
        assert_wiped(x.learned, SCRAM_KEY);
    }
    scram_server_fini(&server);
    scram_client_fini(&client);
}

/* --- RFC 7677, section 3 --- */

#define RFC_BARE "n=user,r=rOprNGfwEbeRWgbNEkqO"
#define RFC_NONCE "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
#define RFC_SERVER_FIRST "r=" RFC_NONCE ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
#define RFC_CLIENT_FINAL "c=biws,r=" RFC_NONCE ",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
#define RFC_SERVER_FINAL "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

static void put_text(struct scram_text *text, const char *bytes)
{
    text->len = strlen(bytes);
    memcpy(text->bytes, bytes, text->len);
}

/* The RFC's nonces are not of our making: they are put where ours would be. */
static void the_example_of_rfc_7677_comes_out(void **state)
{
    (void)state;
    uint8_t salt[SCRAM_SALT_LEN], client_key[SCRAM_KEY], learned[SCRAM_KEY];
    size_t salt_len;
    struct scram_secret secret;
    struct span reply;
    assert_true(base64_read(span_of("W22ZaJ0SNY7soEsUEjb6gQ=="), salt, sizeof salt, &salt_len));
    assert_true(scram_secret_derive(span_of("pencil"), salt, salt_len, 4096, client_key, &secret));

    struct scram_client client;
    scram_client_first(&client, SCRAM_BINDING_NONE, random_a);
    put_text(&client.text, "n,," RFC_BARE);
    client.nonce = strlen("n,,n=user,r=");
    client.first_end = client.text.len;
    assert_int_equal(scram_client_final(&client, span_of(RFC_SERVER_FIRST), &secret, client_key,
                                        span_of(""), &reply),
                     SCRAM_OK);
    assert_span(reply, RFC_CLIENT_FINAL);
    assert_int_equal(scram_client_verify(&client, span_of(RFC_SERVER_FINAL), NULL), SCRAM_OK);

    struct scram_server server;
    scram_server_init(&server, &secret, false, random_b);
    assert_int_equal(scram_server_first(&server, span_of("n,," RFC_BARE), &reply), SCRAM_OK);
    put_text(&server.text, RFC_BARE "," RFC_SERVER_FIRST);
    server.nonce_len = strlen(RFC_NONCE);
    assert_int_equal(
        scram_server_final(&server, span_of(RFC_CLIENT_FINAL), span_of(""), learned, &reply),
        SCRAM_OK);
    assert_span(reply, RFC_SERVER_FINAL);
    assert_memory_equal(learned, client_key, SCRAM_KEY);
    scram_server_fini(&server);
    scram_client_fini(&client);
}

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
    assert_int_not_equal(scram_server_final(&server,
                                            span_of("c=biws,r=,p=" /* no first */
                                                    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
                                                    "AAAAAA="),
                                            span_of(""), learned, &reply),
                         SCRAM_OK);
    assert_int_equal(scram_server_first(&server, span_of("n,,n=,r=abc"), &reply), SCRAM_OK);
    struct span final = fill_in(&server, right.message, message);
    message[final.len - 10] ^= 1;
    assert_int_equal(scram_server_final(&server, final, span_of(""), learned, &reply),
                     SCRAM_PROOF_WRONG);
    message[final.len - 10] ^= 1;
    assert_int_not_equal(scram_server_final(&server, final, span_of(""), learned, &reply),
                         SCRAM_OK);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(secrets_of_postgresql_are_those_of_the_password),
        cmocka_unit_test(what_is_no_secret_is_refused),
        cmocka_unit_test(secrets_may_have_other_salts_and_iterations),
        cmocka_unit_test(a_password_needs_bounds_that_fit),
        cmocka_unit_test(roles_agree_and_the_server_learns_the_client_key),
        cmocka_unit_test(a_wrong_client_key_is_refused),
        cmocka_unit_test(another_certificate_is_noticed),
        cmocka_unit_test(hashes_of_sha_512_certificates_fit),
        cmocka_unit_test(a_client_that_was_not_shown_the_offer_is_refused),
        cmocka_unit_test(a_flipped_bit_in_any_message_ends_the_exchange),
        cmocka_unit_test(a_cut_message_ends_the_exchange),
        cmocka_unit_test(nobody_can_log_in_against_a_mock),
        cmocka_unit_test(the_example_of_rfc_7677_comes_out),
        cmocka_unit_test(first_messages_are_answered_as_by_postgresql),
        cmocka_unit_test(bindings_are_judged_as_by_postgresql),
        cmocka_unit_test(last_messages_are_answered_as_by_postgresql),
        cmocka_unit_test(a_server_takes_one_attempt),
        cmocka_unit_test(longest_messages_are_taken),
        cmocka_unit_test(first_messages_of_a_server_are_checked),
        cmocka_unit_test(last_messages_of_a_server_are_checked),
        cmocka_unit_test(a_challenge_tells_salt_and_iterations),
    };
    return cmocka_run_group_tests_name("scram", tests, derive_pencil, NULL);
}
