/*
 * A SCRAM login that pgsluice answers itself, where it has the users' secrets (auth/secrets.h): the
 * server of its client, and with the ClientKey that the client's proof gives away, the client of
 * the server. Each side is bound to the TLS connection that it has, which no login that passes
 * through can be.
 *
 *     server's offer --> CHALLENGE --salt--> SECRET --looked up--> CLIENT_FIRST --> CLIENT_FINAL
 *         --proof is right--> VERDICT --server's signature--> GRANT --AuthenticationOk--> the relay
 *
 * The client is told that it is in only when the server has said so. What goes wrong at the server
 * goes to the client in the server's words.
 */
#include "proxy/session/login_scram.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/authentication.h"
#include "protocol/frame.h"
#include "protocol/message.h"
#include "protocol/scram.h"
#include "proxy/admin/console.h"
#include "proxy/log.h"
#include "proxy/service.h"

/* A message of the client: its largest data, the mechanism's name, the header. */
#define CLIENT_MESSAGE_MAX (SCRAM_MESSAGE_MAX + 64 + FRAME_HEADER)

/* Of a secret that no server has: PostgreSQL's default. */
#define ALONE_ITERATIONS 4096

enum step {
    STEP_CHALLENGE,    /* the server's first message is awaited */
    STEP_SECRET,       /* the user's secret is being looked up */
    STEP_CLIENT_FIRST, /* the client's choice of a mechanism */
    STEP_CLIENT_DATA,  /* its first message, which did not come with the choice */
    STEP_CLIENT_FINAL, /* its proof */
    STEP_VERDICT,      /* the server's last message */
    STEP_GRANT,        /* the server's AuthenticationOk */
};

struct login {
    enum step step;
    struct scram_client at_server; /* our role there */
    struct scram_server at_client;
    uint8_t challenge[SCRAM_MESSAGE_MAX];
    size_t challenge_len;
    struct scram_secret secret;
    struct span final; /* for the client, when the server has granted the login; in at_client */
    struct secrets_lookup *lookup; /* under way */
    bool is_alone;                 /* for the console: there is no server to log in to */
};

void login_scram_free(struct session *s)
{
    struct login *login = s->login;
    if (login == NULL) {
        return;
    }
    if (login->lookup != NULL) {
        secrets_forget(session_service(s)->secrets, login->lookup);
    }
    scram_client_fini(&login->at_server);
    scram_server_fini(&login->at_client);
    scram_secret_wipe(&login->secret);
    free(login);
    s->login = NULL;
}

void login_scram_malformed(struct session *s, const char *detail)
{
    session_fail_detail(s, "08P01", "malformed answer of the server to a SCRAM login", detail);
}

static void out_of_memory(struct session *s)
{
    session_fail(s, "53200", "out of memory");
}

static bool random_bytes(uint8_t *room, int len)
{
    return RAND_bytes(room, len) == 1;
}

/* --- towards the server --- */

static void send_server(struct session *s, struct writer *w)
{
    if (w->ok) {
        login_send(s, w->bytes, w->len);
    } else {
        out_of_memory(s);
    }
    writer_fini(w);
}

static void fail_at_server(struct session *s, enum scram_result result)
{
    struct scram_error error;
    scram_client_error(&s->login->at_server, result, &error);
    session_fail_detail(s, error.sqlstate[0] != '\0' ? error.sqlstate : "08P01", error.message,
                        error.detail);
}

/* As libpq chooses; a certificate that has no hash to bind to leaves no choice. */
static enum scram_binding binding_at(const struct session *s, const struct sasl_offer *offer)
{
    uint8_t hash[SCRAM_BINDING_MAX];
    if (s->server.tls == NULL) {
        return SCRAM_BINDING_NONE;
    }
    if (!offer->plus) {
        return SCRAM_BINDING_UNUSED;
    }
    return tls_peer_hash(s->server.tls, hash) > 0 ? SCRAM_BINDING_TLS : SCRAM_BINDING_NONE;
}

bool login_scram_begin(struct session *s, const uint8_t *message, size_t size)
{
    struct sasl_offer offer;
    uint8_t random[SCRAM_RANDOM];
    if (session_service(s)->secrets == NULL || !authentication_read_sasl(message, size, &offer) ||
        !offer.scram) {
        return false;
    }
    struct login *login = calloc(1, sizeof *login);
    if (login == NULL || !random_bytes(random, sizeof random)) {
        free(login);
        out_of_memory(s);
        return true;
    }
    s->login = login;
    enum scram_binding binding = binding_at(s, &offer);
    struct span first = scram_client_first(&login->at_server, binding, random);
    struct writer w;
    writer_init(&w, CLIENT_MESSAGE_MAX);
    authentication_write_initial(
        &w, binding == SCRAM_BINDING_TLS ? SCRAM_SHA_256_PLUS : SCRAM_SHA_256, first);
    send_server(s, &w);
    return true;
}

/* --- the secret --- */

static void look_up(struct session *s);

/* For users that do not exist, the same each time; and for passwords. */
static bool make_salt(const struct session *s, struct scram_secret *secret)
{
    uint8_t hash[EVP_MAX_MD_SIZE];
    unsigned len;
    const char *nonce = session_service(s)->nonce;
    if (HMAC(EVP_sha256(), nonce, (int)strlen(nonce), (const uint8_t *)s->user, strlen(s->user),
             hash, &len) == NULL) {
        return false;
    }
    secret->iterations = ALONE_ITERATIONS;
    secret->salt_len = SCRAM_SALT_LEN;
    memcpy(secret->salt, hash, SCRAM_SALT_LEN);
    return true;
}

void login_scram_alone(struct session *s)
{
    s->login = calloc(1, sizeof *s->login);
    if (s->login == NULL || !make_salt(s, &s->login->secret)) {
        out_of_memory(s);
        return;
    }
    s->login->is_alone = true;
    s->login->step = STEP_SECRET;
    s->state = SESSION_LOGIN;
    look_up(s);
}

/* Somebody without a secret goes through the same motions, with the server's own salt, and fails at
 * the end. */
static bool settle_secret(struct session *s, const struct secrets_lookup *lookup)
{
    if (lookup->result == SECRETS_FAILED) {
        log_error("the secret of user \"%s\" cannot be looked up: %s", s->user,
                  lookup->failure.msg);
        session_fail(s, "58000", "the secret of user \"%s\" cannot be looked up now", s->user);
        return false;
    }
    if (lookup->result == SECRETS_NONE) {
        log_info("client %s: %s", s->client_name, lookup->failure.msg);
        s->login->secret.is_mock = true;
    } else {
        s->login->secret = lookup->secret;
    }
    return true;
}

static void offer_to_client(struct session *s)
{
    struct login *login = s->login;
    uint8_t random[SCRAM_RANDOM];
    uint8_t hash[SCRAM_BINDING_MAX];
    bool plus = s->client.tls != NULL && tls_own_hash(s->client.tls, hash) > 0;
    if (!random_bytes(random, sizeof random)) {
        out_of_memory(s);
        return;
    }
    scram_server_init(&login->at_client, &login->secret, plus, random);
    struct writer w;
    writer_init(&w, 128);
    authentication_write_sasl(&w, plus);
    login->step = STEP_CLIENT_FIRST;
    session_reply(s, &w);
    writer_fini(&w);
}

static void take_lookup(struct session *s, struct secrets_lookup *lookup)
{
    s->login->lookup = NULL;
    if (s->state == SESSION_LOGIN && settle_secret(s, lookup)) {
        offer_to_client(s);
    }
    secrets_lookup_free(lookup);
}

void login_looked_up(struct session *s, struct secrets_lookup *lookup)
{
    if (lookup->is_forgotten) {
        secrets_lookup_free(lookup);
        return;
    }
    take_lookup(s, lookup);
    if (s->state == SESSION_LOGIN) {
        session_resume(s); /* the client may have spoken already */
    }
}

/* On another thread. */
static void post_lookup(struct secrets_lookup *lookup)
{
    struct mail *mail = lookup->arg;
    lookup->arg = NULL;
    mail->lookup = lookup;
    worker_post(mail->session->worker, mail);
}

static void look_up(struct session *s)
{
    struct login *login = s->login;
    struct mail *mail = mail_new(MAIL_SECRET);
    if (mail == NULL) {
        out_of_memory(s);
        return;
    }
    mail->session = s;
    bool at_once;
    struct secrets_lookup *lookup = secrets_find(session_service(s)->secrets, s->user,
                                                 &login->secret, post_lookup, mail, &at_once);
    if (lookup == NULL) {
        out_of_memory(s);
    } else if (at_once) {
        take_lookup(s, lookup);
    } else {
        login->lookup = lookup;
    }
}

static void take_challenge(struct session *s, struct span data)
{
    struct login *login = s->login;
    struct scram_challenge challenge;
    enum scram_result result = scram_client_challenge(&login->at_server, data, &challenge);
    if (result != SCRAM_OK || data.len > sizeof login->challenge) {
        fail_at_server(s, result != SCRAM_OK ? result : SCRAM_TOO_LONG);
        return;
    }
    memcpy(login->challenge, data.ptr, data.len);
    login->challenge_len = data.len;
    login->secret.iterations = challenge.iterations;
    login->secret.salt_len = challenge.salt_len;
    memcpy(login->secret.salt, challenge.salt, challenge.salt_len);
    login->step = STEP_SECRET;
    look_up(s);
}

/* --- towards the client --- */

/* Some failures are told as a wrong password, which names the user. */
static void fail_with(struct session *s, const struct scram_error *error)
{
    if (error->message[0] == '\0') {
        session_fail(s, "28P01", "password authentication failed for user \"%s\"", s->user);
    } else {
        session_fail_detail(s, error->sqlstate, error->message, error->detail);
    }
}

static void fail_client(struct session *s, enum scram_result result)
{
    struct scram_error error;
    scram_server_error(&s->login->at_client, result, &error);
    fail_with(s, &error);
}

static void send_challenge(struct session *s, struct span data)
{
    struct writer w;
    writer_init(&w, SCRAM_MESSAGE_MAX * 2);
    authentication_write_continue(&w, data);
    session_reply(s, &w);
    writer_fini(&w);
}

static void take_first(struct session *s, struct span data)
{
    struct span reply;
    enum scram_result result = scram_server_first(&s->login->at_client, data, &reply);
    if (result != SCRAM_OK) {
        fail_client(s, result);
        return;
    }
    s->login->step = STEP_CLIENT_FINAL;
    send_challenge(s, reply);
}

static void fail_read(struct session *s, enum sasl_read read, uint8_t type)
{
    struct scram_error error;
    authentication_read_error(read, type, &error);
    fail_with(s, &error);
}

/* The mechanism is judged before what follows it is read, as in the server. */
static void take_choice(struct session *s, const uint8_t *message, size_t size)
{
    struct login *login = s->login;
    struct sasl_initial initial;
    enum sasl_read read = authentication_read_initial(message, size, &initial);
    bool has_mechanism = read == SASL_READ || read == SASL_TOO_SHORT || read == SASL_TOO_MUCH;
    enum scram_result result = SCRAM_OK;
    if (has_mechanism) {
        result = scram_server_mechanism(&login->at_client, initial.mechanism);
    }
    if (result != SCRAM_OK) {
        fail_client(s, result);
    } else if (read != SASL_READ) {
        fail_read(s, read, message[0]);
    } else if (initial.data.ptr == NULL) {
        login->step = STEP_CLIENT_DATA;
        send_challenge(s, (struct span){"", 0});
    } else {
        take_first(s, initial.data);
    }
}

/* The client has proved itself; with the key that it gave away, so do we. */
static void log_in(struct session *s, const uint8_t client_key[SCRAM_KEY])
{
    struct login *login = s->login;
    uint8_t hash[SCRAM_BINDING_MAX];
    struct span proof;
    size_t hash_len = s->server.tls != NULL ? tls_peer_hash(s->server.tls, hash) : 0;
    enum scram_result result = scram_client_final(
        &login->at_server, (struct span){(const char *)login->challenge, login->challenge_len},
        &login->secret, client_key, (struct span){(const char *)hash, hash_len}, &proof);
    if (result == SCRAM_OTHER_SECRET) {
        /* also what a server says of a role that is expired: it goes through the motions */
        log_warning(
            "user \"%s\": the server has another SCRAM secret than auth_file or auth_query, or the "
            "role is expired",
            s->user);
        session_fail(s, "28P01", "password authentication failed for user \"%s\"", s->user);
        return;
    }
    if (result != SCRAM_OK) {
        fail_at_server(s, result);
        return;
    }
    struct writer w;
    writer_init(&w, SCRAM_MESSAGE_MAX * 2);
    authentication_write_response(&w, proof);
    login->step = STEP_VERDICT;
    send_server(s, &w);
}

static bool grant(struct session *s);

static void let_in_alone(struct session *s)
{
    if (grant(s)) {
        console_enter(s);
        login_scram_free(s);
    }
}

static void take_proof(struct session *s, struct span data)
{
    struct login *login = s->login;
    uint8_t hash[SCRAM_BINDING_MAX];
    uint8_t client_key[SCRAM_KEY];
    size_t hash_len = s->client.tls != NULL ? tls_own_hash(s->client.tls, hash) : 0;
    enum scram_result result =
        scram_server_final(&login->at_client, data, (struct span){(const char *)hash, hash_len},
                           client_key, &login->final);
    if (result != SCRAM_OK) {
        fail_client(s, result);
        return;
    }
    if (s->login->is_alone) {
        let_in_alone(s);
    } else {
        log_in(s, client_key);
    }
    OPENSSL_cleanse(client_key, sizeof client_key);
}

static void take_client(struct session *s, const uint8_t *message, size_t size)
{
    struct span data;
    if (s->login->step == STEP_CLIENT_FIRST) {
        take_choice(s, message, size);
        return;
    }
    enum sasl_read read = authentication_read_response(message, size, &data);
    if (read != SASL_READ) {
        fail_read(s, read, message[0]);
    } else if (s->login->step == STEP_CLIENT_DATA) {
        take_first(s, data);
    } else {
        take_proof(s, data);
    }
}

bool login_scram_reads_client(const struct login *login)
{
    return login->step == STEP_CLIENT_FIRST || login->step == STEP_CLIENT_DATA ||
           login->step == STEP_CLIENT_FINAL;
}

/* What no reading would make right: known by its header. */
static enum sasl_read judge_header(const uint8_t *message)
{
    uint32_t length = load_u32(message + 1);
    if (message[0] != 'p') {
        return SASL_OTHER_MESSAGE;
    }
    return length < 4 || length > SCRAM_MESSAGE_MAX ? SASL_TOO_LONG : SASL_READ;
}

size_t login_scram_client(struct session *s, const uint8_t *bytes, size_t len)
{
    size_t at = 0;
    while (s->state == SESSION_LOGIN && login_scram_reads_client(s->login) &&
           len - at >= FRAME_HEADER) {
        const uint8_t *message = bytes + at;
        enum sasl_read header = judge_header(message);
        if (header != SASL_READ) {
            fail_read(s, header, message[0]);
            break;
        }
        size_t size = 1 + (size_t)load_u32(message + 1);
        if (len - at < size) {
            s->front.need = size;
            break;
        }
        take_client(s, message, size);
        at += size;
    }
    return at;
}

/* --- what the server says --- */

static void take_verdict(struct session *s, struct span data)
{
    enum scram_result result = scram_client_verify(&s->login->at_server, data, NULL);
    if (result != SCRAM_OK) {
        fail_at_server(s, result);
        return;
    }
    s->login->step = STEP_GRANT;
}

/* False when the client is gone. */
static bool grant(struct session *s)
{
    struct writer w;
    writer_init(&w, SCRAM_MESSAGE_MAX);
    authentication_write_final(&w, s->login->final);
    authentication_write_ok(&w);
    bool sent = session_reply(s, &w);
    writer_fini(&w);
    return sent;
}

bool login_scram_server(struct session *s, const uint8_t *message, size_t size)
{
    struct authentication authentication;
    if (!authentication_read(message, size, &authentication)) {
        login_scram_malformed(s, "It is cut off.");
        return false;
    }
    enum step step = s->login->step;
    uint32_t code = authentication.code;
    if (step == STEP_CHALLENGE && code == AUTHENTICATION_SASL_CONTINUE) {
        take_challenge(s, authentication.data);
    } else if (step == STEP_VERDICT && code == AUTHENTICATION_SASL_FINAL) {
        take_verdict(s, authentication.data);
    } else if (step == STEP_GRANT && code == AUTHENTICATION_OK) {
        return grant(s);
    } else {
        login_scram_malformed(s, "It comes out of turn.");
    }
    return false;
}
