/* The messages of SCRAM, read and made in both roles; see scram.h. */
#include "protocol/scram.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>

#include "protocol/scram_keys.h"

#define GS2_TLS "p=tls-server-end-point,,"

/* --- Reading: attributes "x=value", joined by commas --- */

/* Fails sticky: the first failure stays, and what is read after it is empty. */
struct cursor {
    const char *at;
    const char *end;
    enum scram_result result;
    struct scram_fault *fault;
};

static struct cursor cursor_of(struct span message, struct scram_fault *fault)
{
    struct cursor c = {.at = message.ptr, .end = message.ptr, .result = SCRAM_OK, .fault = fault};
    if (message.len == 0) {
        c.result = SCRAM_EMPTY;
    } else if (message.len > SCRAM_MESSAGE_MAX) {
        c.result = SCRAM_TOO_LONG;
    } else if (memchr(message.ptr, 0, message.len) != NULL) {
        c.result = SCRAM_NUL;
    } else {
        c.end += message.len;
    }
    return c;
}

/* The next character, NUL at the end. */
static char cursor_peek(const struct cursor *c)
{
    return c->at < c->end ? *c->at : '\0';
}

static void cursor_fail(struct cursor *c, enum scram_result result)
{
    if (c->result == SCRAM_OK) {
        c->result = result;
        c->fault->found = cursor_peek(c);
    }
}

static void cursor_require(struct cursor *c, bool holds, enum scram_result otherwise)
{
    if (!holds) {
        cursor_fail(c, otherwise);
    }
}

static struct span cursor_rest(const struct cursor *c)
{
    return (struct span){.ptr = c->at, .len = (size_t)(c->end - c->at)};
}

/* One character that must be there. */
static void cursor_skip(struct cursor *c, char expected, enum scram_result otherwise)
{
    cursor_require(c, cursor_peek(c) == expected, otherwise);
    if (c->result == SCRAM_OK) {
        c->at++;
    }
}

/* Takes the name at the cursor, its value and the comma behind. */
static struct span cursor_attribute(struct cursor *c)
{
    struct span value = {.ptr = "", .len = 0};
    if (c->result != SCRAM_OK) {
        return value;
    }
    c->fault->expected = *c->at++;
    cursor_skip(c, '=', SCRAM_NO_EQUALS);
    if (c->result != SCRAM_OK) {
        return value;
    }
    value = cursor_rest(c);
    const char *comma = value.len == 0 ? NULL : memchr(value.ptr, ',', value.len);
    if (comma != NULL) {
        value.len = (size_t)(comma - value.ptr);
    }
    c->at = comma == NULL ? c->end : comma + 1;
    return value;
}

static struct span cursor_value(struct cursor *c, char name)
{
    if (c->result == SCRAM_OK) {
        c->fault->expected = name;
    }
    cursor_require(c, cursor_peek(c) == name, SCRAM_ATTRIBUTE);
    return cursor_attribute(c);
}

static bool is_letter(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static struct span cursor_any(struct cursor *c, char *name)
{
    *name = cursor_peek(c);
    cursor_require(c, *name != '\0', SCRAM_NO_ATTRIBUTE);
    cursor_require(c, is_letter(*name), SCRAM_BAD_ATTRIBUTE);
    return cursor_attribute(c);
}

static void cursor_end(struct cursor *c)
{
    cursor_require(c, c->at == c->end, SCRAM_GARBAGE);
}

static bool span_is(struct span s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.ptr, text, s.len) == 0;
}

/* --- Writing --- */

/* The header's bounds add up to less than SCRAM_TEXT_MAX. Were they wrong, what is missing here
 * would make the proof wrong, not the memory. */
static void text_add(struct scram_text *text, const char *bytes, size_t len)
{
    if (len > 0 && len <= sizeof text->bytes - text->len) {
        memcpy(text->bytes + text->len, bytes, len);
        text->len += len;
    }
}

static void text_add_string(struct scram_text *text, const char *string)
{
    text_add(text, string, strlen(string));
}

static void text_add_base64(struct scram_text *text, const uint8_t *bytes, size_t len)
{
    char encoded[BASE64_SIZE(SCRAM_SALT_MAX) + 1];
    base64_write(encoded, bytes, len);
    text_add(text, encoded, BASE64_SIZE(len));
}

static struct span text_from(const struct scram_text *text, size_t at)
{
    return (struct span){.ptr = text->bytes + at, .len = text->len - at};
}

/* The value of "c=" for a TLS binding: the gs2 header and the certificate's hash, in base64. */
static void write_tls_binding(char out[BASE64_SIZE(sizeof GS2_TLS + SCRAM_BINDING_MAX) + 1],
                              struct span binding)
{
    uint8_t bytes[sizeof GS2_TLS - 1 + SCRAM_BINDING_MAX];
    memcpy(bytes, GS2_TLS, sizeof GS2_TLS - 1);
    memcpy(bytes + sizeof GS2_TLS - 1, binding.ptr, binding.len);
    base64_write(out, bytes, sizeof GS2_TLS - 1 + binding.len);
}

static bool is_binding(struct span binding)
{
    return binding.len > 0 && binding.len <= SCRAM_BINDING_MAX;
}

static void exclusive_or(uint8_t out[SCRAM_KEY], const uint8_t other[SCRAM_KEY])
{
    for (size_t i = 0; i < SCRAM_KEY; i++) {
        out[i] ^= other[i];
    }
}

/* --- The server's role --- */

void scram_server_init(struct scram_server *server, const struct scram_secret *secret,
                       bool plus_offered, const uint8_t random[SCRAM_RANDOM])
{
    *server = (struct scram_server){.secret = *secret, .plus_offered = plus_offered};
    memcpy(server->random, random, SCRAM_RANDOM);
}

enum scram_result scram_server_mechanism(struct scram_server *server, struct span name)
{
    server->plus_chosen = server->plus_offered && span_is(name, SCRAM_SHA_256_PLUS);
    return server->plus_chosen || span_is(name, SCRAM_SHA_256) ? SCRAM_OK : SCRAM_MECHANISM;
}

static bool is_printable(char c)
{
    return c >= 0x21 && c <= 0x7e;
}

static void read_binding_type(struct cursor *c)
{
    struct span type = cursor_value(c, 'p');
    if (c->result != SCRAM_OK || span_is(type, "tls-server-end-point")) {
        return;
    }
    size_t len = type.len < sizeof c->fault->type - 1 ? type.len : sizeof c->fault->type - 1;
    for (size_t i = 0; i < len; i++) {
        c->fault->type[i] = is_printable(type.ptr[i]) ? type.ptr[i] : '?';
    }
    c->fault->type[len] = '\0';
    cursor_fail(c, SCRAM_BINDING_TYPE);
}

/* The gs2 header: the binding flag and an authzid, which must be absent. Returns the flag. A "y"
 * where PLUS was offered is a client that has not seen the offer: somebody in between has taken it
 * away. */
static char read_gs2_header(const struct scram_server *server, struct cursor *c)
{
    char flag = cursor_peek(c);
    switch (flag) {
    case 'n':
    case 'y':
        cursor_require(c, !server->plus_chosen, SCRAM_BINDING_ABSENT);
        cursor_require(c, flag == 'n' || !server->plus_offered, SCRAM_BINDING_DOWNGRADE);
        cursor_skip(c, flag, SCRAM_BINDING_FLAG);
        cursor_skip(c, ',', SCRAM_NO_COMMA);
        break;
    case 'p':
        cursor_require(c, server->plus_chosen, SCRAM_BINDING_UNEXPECTED);
        read_binding_type(c);
        break;
    default:
        cursor_fail(c, SCRAM_BINDING_FLAG);
    }
    cursor_require(c, cursor_peek(c) != 'a', SCRAM_AUTHZID);
    cursor_skip(c, ',', SCRAM_FIRST_ATTRIBUTE);
    return flag;
}

/* client-first-message-bare; returns the client's nonce. Unknown extensions are passed over. */
static struct span read_first_bare(struct cursor *c)
{
    char name;
    cursor_require(c, cursor_peek(c) != 'm', SCRAM_EXTENSION);
    cursor_value(c, 'n');
    struct span nonce = cursor_value(c, 'r');
    for (size_t i = 0; i < nonce.len; i++) {
        cursor_require(c, is_printable(nonce.ptr[i]), SCRAM_NONCE_UNPRINTABLE);
    }
    while (c->result == SCRAM_OK && c->at < c->end) {
        cursor_any(c, &name);
    }
    return nonce;
}

enum scram_result scram_server_first(struct scram_server *server, struct span message,
                                     struct span *reply)
{
    const struct scram_secret *secret = &server->secret;
    struct scram_text *text = &server->text;
    struct cursor c = cursor_of(message, &server->fault);
    char iterations[16];
    server->flag = '\0';
    char flag = read_gs2_header(server, &c);
    struct span bare = cursor_rest(&c);
    struct span nonce = read_first_bare(&c);
    if (c.result != SCRAM_OK) {
        return c.result;
    }
    text->len = 0;
    text_add(text, bare.ptr, bare.len);
    text_add_string(text, ",");
    size_t first = text->len;
    text_add_string(text, "r=");
    server->nonce_at = text->len;
    text_add(text, nonce.ptr, nonce.len);
    text_add_base64(text, server->random, SCRAM_RANDOM);
    server->nonce_len = text->len - server->nonce_at;
    text_add_string(text, ",s=");
    text_add_base64(text, secret->salt, secret->salt_len);
    snprintf(iterations, sizeof iterations, ",i=%" PRIu32, secret->iterations);
    text_add_string(text, iterations);
    server->flag = flag;
    *reply = text_from(text, first);
    return SCRAM_OK;
}

/* Whether "c=" says what was said in the first message, and of the certificate that we have shown.
 */
static void check_binding(const struct scram_server *server, char flag, struct cursor *c,
                          struct span given, struct span binding)
{
    char expected[BASE64_SIZE(sizeof GS2_TLS + SCRAM_BINDING_MAX) + 1];
    if (c->result != SCRAM_OK) {
        return;
    }
    if (!server->plus_chosen) {
        bool is_repeated =
            (flag == 'n' && span_is(given, "biws")) || (flag == 'y' && span_is(given, "eSws"));
        cursor_require(c, is_repeated, SCRAM_BINDING_NOT_REPEATED);
        return;
    }
    cursor_require(c, flag == 'p', SCRAM_BINDING_NOT_REPEATED);
    cursor_require(c, is_binding(binding), SCRAM_BINDING_MISSING);
    if (c->result == SCRAM_OK) {
        write_tls_binding(expected, binding);
        cursor_require(c, span_is(given, expected), SCRAM_BINDING_MISMATCH);
    }
}

/* Takes the ClientKey out of the proof, and checks it against the StoredKey. */
static enum scram_result check_proof(const struct scram_server *server, struct span auth_message,
                                     const uint8_t proof[SCRAM_KEY], uint8_t client_key[SCRAM_KEY])
{
    const struct scram_secret *secret = &server->secret;
    uint8_t hash[SCRAM_KEY];
    if (!scram_hmac(secret->stored_key, auth_message, client_key)) {
        return SCRAM_CRYPTO;
    }
    exclusive_or(client_key, proof);
    if (!scram_hash(client_key, hash)) {
        return SCRAM_CRYPTO;
    }
    bool is_right = CRYPTO_memcmp(hash, secret->stored_key, SCRAM_KEY) == 0;
    return is_right && !secret->is_mock ? SCRAM_OK : SCRAM_PROOF_WRONG;
}

/* client-final-message up to the proof, which AuthMessage has and which is returned. */
static struct span read_final(const struct scram_server *server, char flag, struct cursor *c,
                              struct span binding, uint8_t proof[SCRAM_KEY])
{
    const char *begin = c->at;
    const char *proof_at;
    char name;
    size_t len = 0;
    struct span value = cursor_value(c, 'c');
    check_binding(server, flag, c, value, binding);
    struct span nonce = cursor_value(c, 'r');
    do {
        proof_at = c->at;
        value = cursor_any(c, &name);
    } while (c->result == SCRAM_OK && name != 'p');
    bool is_proof = base64_read(value, proof, SCRAM_KEY, &len) && len == SCRAM_KEY;
    cursor_require(c, is_proof, SCRAM_PROOF_MALFORMED);
    cursor_end(c);
    bool is_ours = nonce.len == server->nonce_len &&
                   memcmp(nonce.ptr, server->text.bytes + server->nonce_at, nonce.len) == 0;
    cursor_require(c, is_ours, SCRAM_NONCE_MISMATCH);
    size_t comma = proof_at > begin ? 1 : 0;
    return (struct span){.ptr = begin, .len = (size_t)(proof_at - begin) - comma};
}

enum scram_result scram_server_final(struct scram_server *server, struct span message,
                                     struct span binding, uint8_t client_key[SCRAM_KEY],
                                     struct span *reply)
{
    struct scram_text *text = &server->text;
    struct cursor c = cursor_of(message, &server->fault);
    uint8_t proof[SCRAM_KEY], signature[SCRAM_KEY], key[SCRAM_KEY];
    char flag = server->flag;
    server->flag = '\0';
    struct span without_proof = read_final(server, flag, &c, binding, proof);
    if (c.result != SCRAM_OK) {
        return c.result;
    }
    text_add_string(text, ",");
    text_add(text, without_proof.ptr, without_proof.len);
    struct span auth_message = text_from(text, 0);
    enum scram_result result = check_proof(server, auth_message, proof, key);
    if (result == SCRAM_OK && !scram_hmac(server->secret.server_key, auth_message, signature)) {
        result = SCRAM_CRYPTO;
    }
    if (result == SCRAM_OK) {
        size_t final = text->len;
        memcpy(client_key, key, SCRAM_KEY);
        text_add_string(text, "v=");
        text_add_base64(text, signature, SCRAM_KEY);
        *reply = text_from(text, final);
    }
    OPENSSL_cleanse(key, sizeof key);
    return result;
}

void scram_server_fini(struct scram_server *server)
{
    OPENSSL_cleanse(server, sizeof *server);
}

/* --- The client's role --- */

struct span scram_client_first(struct scram_client *client, enum scram_binding binding,
                               const uint8_t random[SCRAM_RANDOM])
{
    static const char *const headers[] = {[SCRAM_BINDING_NONE] = "n,,",
                                          [SCRAM_BINDING_UNUSED] = "y,,",
                                          [SCRAM_BINDING_TLS] = GS2_TLS};
    *client = (struct scram_client){.binding = binding};
    text_add_string(&client->text, headers[binding]);
    client->bare = client->text.len;
    text_add_string(&client->text, "n=,r=");
    client->nonce = client->text.len;
    text_add_base64(&client->text, random, SCRAM_RANDOM);
    client->first_end = client->text.len;
    return text_from(&client->text, 0);
}

enum scram_result scram_client_challenge(struct scram_client *client, struct span message,
                                         struct scram_challenge *out)
{
    const size_t ours = client->first_end - client->nonce;
    struct cursor c = cursor_of(message, &client->fault);
    *out = (struct scram_challenge){.nonce = cursor_value(&c, 'r')};
    bool goes_on = out->nonce.len >= ours &&
                   memcmp(out->nonce.ptr, client->text.bytes + client->nonce, ours) == 0;
    cursor_require(&c, goes_on, SCRAM_NONCE_MISMATCH);
    struct span salt = cursor_value(&c, 's');
    bool is_salt = base64_read(salt, out->salt, sizeof out->salt, &out->salt_len);
    cursor_require(&c, is_salt, SCRAM_SALT_MALFORMED);
    struct span iterations = cursor_value(&c, 'i');
    bool is_count = scram_iterations_read(iterations, &out->iterations);
    cursor_require(&c, is_count, SCRAM_ITERATION_COUNT);
    cursor_end(&c);
    return c.result;
}

static bool is_secret_of(const struct scram_secret *secret, const struct scram_challenge *challenge)
{
    return secret->iterations == challenge->iterations && secret->salt_len == challenge->salt_len &&
           memcmp(secret->salt, challenge->salt, secret->salt_len) == 0;
}

/* client-final-message-without-proof. */
static void add_without_proof(struct scram_client *client, struct span nonce, struct span binding)
{
    char bound[BASE64_SIZE(sizeof GS2_TLS + SCRAM_BINDING_MAX) + 1];
    const char *values[] = {[SCRAM_BINDING_NONE] = "biws",
                            [SCRAM_BINDING_UNUSED] = "eSws",
                            [SCRAM_BINDING_TLS] = bound};
    if (client->binding == SCRAM_BINDING_TLS) {
        write_tls_binding(bound, binding);
    }
    text_add_string(&client->text, "c=");
    text_add_string(&client->text, values[client->binding]);
    text_add_string(&client->text, ",r=");
    text_add(&client->text, nonce.ptr, nonce.len);
}

enum scram_result scram_client_final(struct scram_client *client, struct span message,
                                     const struct scram_secret *secret,
                                     const uint8_t client_key[SCRAM_KEY], struct span binding,
                                     struct span *reply)
{
    struct scram_text *text = &client->text;
    struct scram_challenge challenge;
    uint8_t proof[SCRAM_KEY];
    enum scram_result result = scram_client_challenge(client, message, &challenge);
    if (result != SCRAM_OK) {
        return result;
    }
    if (!is_secret_of(secret, &challenge)) {
        return SCRAM_OTHER_SECRET;
    }
    if (client->binding == SCRAM_BINDING_TLS && !is_binding(binding)) {
        return SCRAM_BINDING_MISSING;
    }
    text->len = client->first_end;
    text_add_string(text, ",");
    text_add(text, message.ptr, message.len);
    text_add_string(text, ",");
    size_t final = text->len;
    add_without_proof(client, challenge.nonce, binding);
    struct span auth_message = text_from(text, client->bare);
    if (!scram_hmac(secret->stored_key, auth_message, proof) ||
        !scram_hmac(secret->server_key, auth_message, client->server_signature)) {
        return SCRAM_CRYPTO;
    }
    exclusive_or(proof, client_key);
    text_add_string(text, ",p=");
    text_add_base64(text, proof, SCRAM_KEY);
    client->is_signed = true;
    *reply = text_from(text, final);
    return SCRAM_OK;
}

enum scram_result scram_client_verify(struct scram_client *client, struct span message,
                                      struct span *refusal)
{
    uint8_t signature[SCRAM_KEY];
    size_t len = 0;
    struct cursor c = cursor_of(message, &client->fault);
    if (cursor_peek(&c) == 'e') {
        struct span reason = cursor_value(&c, 'e');
        if (refusal != NULL) {
            *refusal = reason;
        }
        cursor_fail(&c, SCRAM_REFUSED);
        return c.result;
    }
    struct span value = cursor_value(&c, 'v');
    cursor_end(&c);
    bool is_signature = base64_read(value, signature, SCRAM_KEY, &len) && len == SCRAM_KEY;
    cursor_require(&c, is_signature, SCRAM_SIGNATURE);
    bool is_right = client->is_signed && is_signature &&
                    CRYPTO_memcmp(signature, client->server_signature, SCRAM_KEY) == 0;
    cursor_require(&c, is_right, SCRAM_SIGNATURE_WRONG);
    return c.result;
}

void scram_client_fini(struct scram_client *client)
{
    OPENSSL_cleanse(client, sizeof *client);
}
