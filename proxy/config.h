/*
 * The configuration file (INI). Read once at start and again at SIGHUP into a new struct config;
 * every error names file, line and key. Unknown sections and keys are errors.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/failure.h"
#include "proxy/log.h"
#include "rules/rules.h"

struct config_address {
    bool is_unix;
    char *host; /* a numeric address or name, or the socket's path, or @name */
    uint16_t port;
};

/* One that may send PROXY protocol headers. */
struct config_network {
    int family;          /* AF_INET, AF_INET6, or AF_UNIX: every unix peer */
    uint8_t address[16]; /* network byte order; of AF_INET the first four */
    unsigned bits;       /* of the address that count */
};

/* 0: the system's own */
struct config_tcp {
    bool keepalive; /* default on */
    uint32_t keepidle_s, keepintvl_s;
    uint32_t keepcnt;
    uint32_t user_timeout_ms;
};

struct config_rule {
    char *name;
    char *database; /* NULL: every database that has the table */
    char *schema;   /* "public" when the table is given without one */
    char *table;
    char *column;
    char *expression; /* SQL, as written */
    enum rule_mode mode;
    bool reject_mismatch;     /* on_mismatch = reject */
    bool unqualified_guarded; /* unqualified = guarded, the default */
    enum rule_unparsed on_unparsed;
    int line; /* of the section's header */
};

enum audit_fsync { AUDIT_FSYNC_NONE, AUDIT_FSYNC_BATCH, AUDIT_FSYNC_EACH };

enum client_tls {
    CLIENT_TLS_DISABLE,     /* an SSLRequest is answered N */
    CLIENT_TLS_ALLOW,       /* TLS for those who ask */
    CLIENT_TLS_REQUIRE,     /* and nobody without */
    CLIENT_TLS_VERIFY_CA,   /* with a certificate that the CA signed */
    CLIENT_TLS_VERIFY_FULL, /* whose common name is the user's */
};

/* Who answers a client's SCRAM login. */
enum auth_type {
    AUTH_TYPE_DEFAULT,     /* pgsluice where it has auth_file or auth_query, the server elsewhere */
    AUTH_TYPE_PASSTHROUGH, /* the server */
    AUTH_TYPE_SCRAM,       /* pgsluice, which then logs in to the server with what it learned */
};

struct config_client_tls {
    enum client_tls mode;
    char *cert, *key; /* PEM files; given unless mode is disable */
    char *ca, *crl;   /* NULL: none */
    char *ciphers;    /* of TLS 1.2, as OpenSSL writes them; NULL: its default */
    int min_version;  /* TLS1_2_VERSION, ... */
};

struct config {
    char *file;
    struct config_address *listen;
    size_t listen_count;
    unsigned unix_socket_mode; /* of the sockets among them; default 0777 */
    char *server;              /* libpq keywords, without sslnegotiation */
    bool server_tls_direct; /* its sslnegotiation=direct, which not every libpq's keywords have */
    bool server_attrs;      /* its target_session_attrs is not any */
    char *control;          /* libpq keywords; NULL without rules */
    struct config_client_tls client_tls;
    enum auth_type auth_type;
    char *auth_file;                 /* path; NULL: none */
    char *auth_query;                /* SQL; NULL: none */
    char *admin_users, *stats_users; /* of the console, comma-separated; NULL: nobody */
    unsigned workers;
    struct config_address *admin;
    size_t admin_count;
    struct config_address *http; /* NULL: none */
    char *audit;                 /* path; NULL: none */
    enum audit_fsync audit_fsync;
    bool audit_failure_reject; /* audit_failure = reject */
    bool log_json;
    enum log_level log_level;             /* least level that is logged; default info */
    uint32_t max_client_conn;             /* default 5000 */
    uint32_t max_user_client_connections; /* default 0, any number, as the next one */
    uint32_t max_db_client_connections;
    uint64_t max_packet_size;           /* bytes of one judged message; default 64 MiB */
    uint64_t client_login_timeout_ms;   /* default 60 s; 0 = off. Seconds in the file */
    uint64_t server_connect_timeout_ms; /* default 15 s */
    uint64_t client_idle_timeout_ms;    /* outside a transaction; default 0, off, as the next two */
    uint64_t idle_transaction_timeout_ms; /* waiting for the client inside one */
    uint64_t query_timeout_ms;            /* waiting for the server */
    struct config_tcp tcp;                /* of both legs */
    bool proxy_protocol;                  /* proxy_protocol = require */
    struct config_network *proxy_from;    /* default: this machine, over TCP */
    size_t proxy_from_count;
    bool application_name_add_host;
    uint64_t hold_ttl_ms;      /* longest time a statement may be held; default 2 s */
    uint32_t max_held_clients; /* at one gate; more go to the server. Default 1000 */
    struct config_rule *rules;
    size_t rule_count;
    struct config *older; /* the one that this replaced at a reload; not freed with it */
};

/* Reads and checks the file. The caller owns *out and ends it with config_free(). On false, *out is
 * NULL and `f` has one line such as "pgsluice.ini:12: workers: 0 is not between 1 and 64". */
MUST_CHECK bool config_load(const char *file, struct config **out, struct failure *f);
void config_free(struct config *config);
/* pgsluice itself logs clients in. */
static inline bool config_has_secrets(const struct config *config)
{
    return config->auth_file != NULL || config->auth_query != NULL;
}

/* The rule whose table is `table` ("chunks", "public.chunks" or the rule's name), or NULL with `f`.
 */
const struct config_rule *config_find_rule(const struct config *config, const char *table,
                                           struct failure *f);
