/*
 * SCRAM: secrets that PostgreSQL made, both roles against each other, and the example of RFC 7677.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "protocol/scram.h"
#include "protocol/scram_keys.h"
#include "scram_pencil.h"

/* Of PostgreSQL 18 for the same password. */
static const char secret_18[] = "SCRAM-SHA-256$4096:cjQE9Ewm31V0LFJiFLA7AQ==$"
                                "3LLMh+sF2cEKk8lzGQyf2LckIuLcJ7vsgd7Y76sZquE=:"
                                "DfiZRcAD1vjG89T7jh4h0Tuo+4UteA8uJF5f6davt2E=";

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
        assert_true(scram_secret_derive(span_of("pencil"), secret.salt, secret.salt_len, 4096,
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
        "SCRAM-SHA-256$4096:A===" KEYS,
        "SCRAM-SHA-256$4096:====" KEYS,
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
    struct scram_secret mock = pencil;
    mock.is_mock = true;
    struct scram_server server;
    struct scram_client client;
    struct exchange x = exchange_of(SCRAM_BINDING_NONE);
    x.secret = mock;
    scram_server_init(&server, &x.secret, false, random_b);
    hold_exchange(&x, &client, &server);
    assert_int_equal(x.server, SCRAM_PROOF_WRONG);
    assert_wiped(x.learned, SCRAM_KEY);
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
    };
    return cmocka_run_group_tests_name("scram", tests, derive_pencil, NULL);
}
