/*
 * One function per kind of value, one table per section. A key of the contract whose work this
 * version does not do yet is in the table with the one value that asks for nothing, so that it is
 * refused, not ignored, with any other.
 */
#include "proxy/config_keys.h"

#include <libpq-fe.h>
#include <openssl/ssl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TIMEOUT_MAX_MS ((uint64_t)24 * 3600 * 1000)

/* What Linux takes (MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL, MAX_TCP_KEEPCNT). */
#define TCP_KEEP_MAX_S 32767
#define TCP_KEEPCNT_MAX 127

#define LIST_MAX 64

typedef bool (*config_set)(const char *value, struct config *config, struct config_rule *rule,
                           struct value_why *why);

struct config_key {
    const char *name;
    config_set set;
    const char *off; /* without `set`: the value that is taken; "" where only its absence is */
};

static bool because(struct value_why *why, const char *fmt, ...) PRINTF_LIKE(2, 3);

static bool because(struct value_why *why, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(why->text, sizeof why->text, fmt, args);
    va_end(args);
    return false;
}

static bool copy(char **out, const char *value, struct value_why *why)
{
    *out = strdup(value);
    return *out != NULL || because(why, "does not fit: out of memory");
}

typedef bool (*take_member)(const char *member, void *arg, struct value_why *why);

/* A comma-separated list; spaces around its members do not count. */
static bool each_member(const char *value, take_member take, void *arg, struct value_why *why)
{
    char member[512];
    size_t count = 0;
    for (const char *from = value; from != NULL;) {
        const char *comma = strchr(from, ',');
        from += strspn(from, " \t");
        size_t len = comma != NULL ? (size_t)(comma - from) : strlen(from);
        while (len > 0 && (from[len - 1] == ' ' || from[len - 1] == '\t')) {
            len--;
        }
        if (len == 0) {
            return because(why, "has an empty address");
        }
        if (len >= sizeof member || count == LIST_MAX) {
            return because(why, "is too long");
        }
        memcpy(member, from, len);
        member[len] = '\0';
        if (!take(member, arg, why)) {
            return false;
        }
        count++;
        from = comma != NULL ? comma + 1 : NULL;
    }
    return true;
}

struct address_list {
    struct config_address **at;
    size_t *count;
};

static bool add_address(const char *member, void *arg, struct value_why *why)
{
    struct address_list *list = arg;
    size_t count = *list->count;
    struct config_address *grown = realloc(*list->at, (count + 1) * sizeof *grown);
    if (grown == NULL) {
        return because(why, "does not fit: out of memory");
    }
    *list->at = grown;
    if (!value_address(member, &grown[count], why)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (grown[i].port == grown[count].port && strcmp(grown[i].host, grown[count].host) == 0) {
            free(grown[count].host);
            return because(why, "names %s twice", member);
        }
    }
    ++*list->count;
    return true;
}

static bool addresses(const char *value, struct config_address **out, size_t *count,
                      struct value_why *why)
{
    return each_member(value, add_address, &(struct address_list){out, count}, why);
}

static bool set_listen(const char *value, struct config *config, struct config_rule *rule,
                       struct value_why *why)
{
    (void)rule;
    return addresses(value, &config->listen, &config->listen_count, why);
}

static bool set_unix_socket_mode(const char *value, struct config *config, struct config_rule *rule,
                                 struct value_why *why)
{
    (void)rule;
    return value_mode(value, &config->unix_socket_mode, why);
}

static bool set_admin(const char *value, struct config *config, struct config_rule *rule,
                      struct value_why *why)
{
    (void)rule;
    if (!addresses(value, &config->admin, &config->admin_count, why)) {
        return false;
    }
    for (size_t i = 0; i < config->admin_count; i++) {
        if (!config->admin[i].is_unix) {
            return because(why,
                           "is not available in this version: admin listens on unix:/path only");
        }
        if (config->admin[i].host[0] == '@') {
            return because(why, "has no file whose mode says who may use it: admin needs one");
        }
    }
    return true;
}

static PQconninfoOption *conninfo(const char *value, struct value_why *why)
{
    char *message = NULL;
    PQconninfoOption *options = PQconninfoParse(value, &message);
    if (options == NULL) {
        because(why, "is not a libpq connection string: %.*s",
                message != NULL ? (int)strcspn(message, "\n") : 0, message != NULL ? message : "");
        PQfreemem(message);
    }
    return options;
}

/* `server` says where to connect; who connects, and to which database, is the client's to say. */
static bool server_option(const PQconninfoOption *option, struct value_why *why)
{
    static const char *const used[] = {
        "host",    "hostaddr", "port",    "sslmode", "sslrootcert",
        "sslcert", "sslkey",   "sslcrl",  "ssl_min_protocol_version",
        "connect_timeout",     "target_session_attrs"};
    bool known = false;
    for (size_t i = 0; i < sizeof used / sizeof used[0]; i++) {
        known = known || strcmp(option->keyword, used[i]) == 0;
    }
    if (!known) {
        return because(why,
                       "has %s, which server does not take: users, databases and session settings "
                       "are the clients' own",
                       option->keyword);
    }
    if (strcmp(option->keyword, "sslmode") == 0) {
        static const char *const modes[] = {"disable", "allow",     "prefer",
                                            "require", "verify-ca", "verify-full"};
        size_t mode;
        struct value_why reason;
        if (!value_word(option->val, modes, sizeof modes / sizeof modes[0], &mode, &reason)) {
            return because(why, "has an sslmode that %.*s", VALUE_WHY_SIZE / 2, reason.text);
        }
    }
    return true;
}

/* libpq 15 does not know sslnegotiation: it is taken out of the keywords before libpq sees them. */
static bool take_negotiation(char *keywords, struct config *config, struct value_why *why)
{
    static const char *const words[] = {"postgres", "direct"};
    struct value_why reason;
    char word[32];
    size_t index = 0;
    if (!value_take_keyword(keywords, "sslnegotiation", word, sizeof word)) {
        return true;
    }
    if (!value_word(word, words, 2, &index, &reason)) {
        return because(why, "has an sslnegotiation that %.*s", VALUE_WHY_SIZE / 2, reason.text);
    }
    config->server_tls_direct = index == 1;
    return true;
}

static bool read_attrs(const PQconninfoOption *option, struct config *config, struct value_why *why)
{
    static const char *const words[] = {"any",     "read-write", "read-only",
                                        "primary", "standby",    "prefer-standby"};
    struct value_why reason;
    size_t index;
    if (strcmp(option->keyword, "target_session_attrs") != 0) {
        return true;
    }
    if (!value_word(option->val, words, sizeof words / sizeof words[0], &index, &reason)) {
        return because(why, "has a target_session_attrs that %.*s", VALUE_WHY_SIZE / 2,
                       reason.text);
    }
    config->server_attrs = index != 0;
    return true;
}

static bool set_server(const char *value, struct config *config, struct config_rule *rule,
                       struct value_why *why)
{
    (void)rule;
    if (!copy(&config->server, value, why) || !take_negotiation(config->server, config, why)) {
        return false;
    }
    PQconninfoOption *options = conninfo(config->server, why);
    bool ok = options != NULL;
    for (const PQconninfoOption *o = options; ok && o->keyword != NULL; o++) {
        ok = o->val == NULL || (server_option(o, why) && read_attrs(o, config, why));
    }
    PQconninfoFree(options);
    return ok;
}

static bool set_control(const char *value, struct config *config, struct config_rule *rule,
                        struct value_why *why)
{
    (void)rule;
    PQconninfoOption *options = conninfo(value, why);
    PQconninfoFree(options);
    return options != NULL && copy(&config->control, value, why);
}

static bool set_workers(const char *value, struct config *config, struct config_rule *rule,
                        struct value_why *why)
{
    (void)rule;
    uint64_t number;
    if (!value_number(value, 1, 64, &number, why)) {
        return false;
    }
    config->workers = (unsigned)number;
    return true;
}

static bool set_audit(const char *value, struct config *config, struct config_rule *rule,
                      struct value_why *why)
{
    (void)rule;
    return copy(&config->audit, value, why);
}

static bool set_audit_fsync(const char *value, struct config *config, struct config_rule *rule,
                            struct value_why *why)
{
    (void)rule;
    static const char *const words[] = {"none", "batch", "each"};
    size_t word;
    if (!value_word(value, words, 3, &word, why)) {
        return false;
    }
    config->audit_fsync = (enum audit_fsync)word;
    return true;
}

static bool set_audit_failure(const char *value, struct config *config, struct config_rule *rule,
                              struct value_why *why)
{
    (void)rule;
    static const char *const words[] = {"pass", "reject"};
    size_t word;
    if (!value_word(value, words, 2, &word, why)) {
        return false;
    }
    config->audit_failure_reject = word == 1;
    return true;
}

static bool set_log_format(const char *value, struct config *config, struct config_rule *rule,
                           struct value_why *why)
{
    (void)rule;
    static const char *const words[] = {"text", "json"};
    size_t word;
    if (!value_word(value, words, 2, &word, why)) {
        return false;
    }
    config->log_json = word == 1;
    return true;
}

static bool set_log_level(const char *value, struct config *config, struct config_rule *rule,
                          struct value_why *why)
{
    (void)rule;
    static const char *const words[] = {"debug", "info", "warning", "error"};
    size_t word;
    if (!value_word(value, words, 4, &word, why)) {
        return false;
    }
    config->log_level = (enum log_level)word;
    return true;
}

static bool set_max_client_conn(const char *value, struct config *config, struct config_rule *rule,
                                struct value_why *why)
{
    (void)rule;
    uint64_t number;
    if (!value_number(value, 1, 1000000, &number, why)) {
        return false;
    }
    config->max_client_conn = (uint32_t)number;
    return true;
}

/* 0: any number. */
static bool connections(const char *value, uint32_t *out, struct value_why *why)
{
    uint64_t number;
    if (!value_number(value, 0, 1000000, &number, why)) {
        return false;
    }
    *out = (uint32_t)number;
    return true;
}

static bool set_max_user_client_connections(const char *value, struct config *config,
                                            struct config_rule *rule, struct value_why *why)
{
    (void)rule;
    return connections(value, &config->max_user_client_connections, why);
}

static bool set_max_db_client_connections(const char *value, struct config *config,
                                          struct config_rule *rule, struct value_why *why)
{
    (void)rule;
    return connections(value, &config->max_db_client_connections, why);
}

static bool set_max_packet_size(const char *value, struct config *config, struct config_rule *rule,
                                struct value_why *why)
{
    (void)rule;
    return value_size(value, 64 * 1024, 1024 * 1024 * 1024, &config->max_packet_size, why);
}

static bool set_client_login_timeout(const char *value, struct config *config,
                                     struct config_rule *rule, struct value_why *why)
{
    (void)rule;
    return value_duration(value, 0, TIMEOUT_MAX_MS, &config->client_login_timeout_ms, why);
}

static bool set_server_connect_timeout(const char *value, struct config *config,
                                       struct config_rule *rule, struct value_why *why)
{
    (void)rule;
    return value_duration(value, 0, TIMEOUT_MAX_MS, &config->server_connect_timeout_ms, why);
}

static bool set_client_idle_timeout(const char *value, struct config *config,
                                    struct config_rule *rule, struct value_why *why)
{
    (void)rule;
    return value_duration(value, 0, TIMEOUT_MAX_MS, &config->client_idle_timeout_ms, why);
}

static bool set_idle_transaction_timeout(const char *value, struct config *config,
                                         struct config_rule *rule, struct value_why *why)
{
    (void)rule;
    return value_duration(value, 0, TIMEOUT_MAX_MS, &config->idle_transaction_timeout_ms, why);
}

static bool set_query_timeout(const char *value, struct config *config, struct config_rule *rule,
                              struct value_why *why)
{
    (void)rule;
    return value_duration(value, 0, TIMEOUT_MAX_MS, &config->query_timeout_ms, why);
}

static bool set_tcp_keepalive(const char *value, struct config *config, struct config_rule *rule,
                              struct value_why *why)
{
    (void)rule;
    static const char *const words[] = {"0", "1"};
    size_t word;
    if (!value_word(value, words, 2, &word, why)) {
        return false;
    }
    config->tcp.keepalive = word == 1;
    return true;
}

/* Whole seconds, as the system counts; what is given between two is not made shorter. */
static bool tcp_seconds(const char *value, int *out, struct value_why *why)
{
    uint64_t ms;
    if (!value_duration(value, 0, TCP_KEEP_MAX_S * 1000, &ms, why)) {
        return false;
    }
    *out = (int)((ms + 999) / 1000);
    return true;
}

static bool set_tcp_keepidle(const char *value, struct config *config, struct config_rule *rule,
                             struct value_why *why)
{
    (void)rule;
    return tcp_seconds(value, &config->tcp.keepidle_s, why);
}

static bool set_tcp_keepintvl(const char *value, struct config *config, struct config_rule *rule,
                              struct value_why *why)
{
    (void)rule;
    return tcp_seconds(value, &config->tcp.keepintvl_s, why);
}

static bool set_tcp_keepcnt(const char *value, struct config *config, struct config_rule *rule,
                            struct value_why *why)
{
    (void)rule;
    uint64_t number;
    if (!value_number(value, 0, TCP_KEEPCNT_MAX, &number, why)) {
        return false;
    }
    config->tcp.keepcnt = (int)number;
    return true;
}

/* Plain milliseconds, as in PgBouncer, unlike every other duration here; or with a unit. */
static bool set_tcp_user_timeout(const char *value, struct config *config, struct config_rule *rule,
                                 struct value_why *why)
{
    (void)rule;
    uint64_t ms;
    bool plain = value[strspn(value, "0123456789")] == '\0';
    bool ok = plain ? value_number(value, 0, TIMEOUT_MAX_MS, &ms, why)
                    : value_duration(value, 0, TIMEOUT_MAX_MS, &ms, why);
    if (!ok) {
        return because(why, "is not a duration up to 1d (units: ms, s, min, h, d; plain: "
                            "milliseconds)");
    }
    config->tcp.user_timeout_ms = (int)ms;
    return true;
}

static bool set_proxy_protocol(const char *value, struct config *config, struct config_rule *rule,
                               struct value_why *why)
{
    (void)rule;
    static const char *const words[] = {"off", "require"};
    size_t word;
    if (!value_word(value, words, 2, &word, why)) {
        return false;
    }
    config->proxy_protocol = word == 1;
    return true;
}

static bool add_network(const char *member, void *arg, struct value_why *why)
{
    struct config *config = arg;
    struct config_network *grown =
        realloc(config->proxy_from, (config->proxy_from_count + 1) * sizeof *grown);
    if (grown == NULL) {
        return because(why, "does not fit: out of memory");
    }
    config->proxy_from = grown;
    if (!value_network(member, &grown[config->proxy_from_count], why)) {
        return false;
    }
    config->proxy_from_count++;
    return true;
}

static bool set_proxy_protocol_from(const char *value, struct config *config,
                                    struct config_rule *rule, struct value_why *why)
{
    (void)rule;
    config->proxy_from_count = 0; /* in the place of the default */
    return each_member(value, add_network, config, why);
}

static bool set_application_name_add_host(const char *value, struct config *config,
                                          struct config_rule *rule, struct value_why *why)
{
    (void)rule;
    static const char *const words[] = {"0", "1"};
    size_t word;
    if (!value_word(value, words, 2, &word, why)) {
        return false;
    }
    config->application_name_add_host = word == 1;
    return true;
}

static bool set_hold_ttl(const char *value, struct config *config, struct config_rule *rule,
                         struct value_why *why)
{
    (void)rule;
    return value_duration(value, 1, 60 * 1000, &config->hold_ttl_ms, why);
}

static bool set_database(const char *value, struct config *config, struct config_rule *rule,
                         struct value_why *why)
{
    (void)config;
    return copy(&rule->database, value, why);
}

static bool set_table(const char *value, struct config *config, struct config_rule *rule,
                      struct value_why *why)
{
    (void)config;
    if (!value_identifier(value, &rule->schema, &rule->table, why)) {
        return false;
    }
    return rule->schema != NULL || copy(&rule->schema, "public", why);
}

static bool set_column(const char *value, struct config *config, struct config_rule *rule,
                       struct value_why *why)
{
    (void)config;
    return value_identifier(value, NULL, &rule->column, why);
}

static bool set_expression(const char *value, struct config *config, struct config_rule *rule,
                           struct value_why *why)
{
    (void)config;
    return copy(&rule->expression, value, why);
}

static bool set_mode(const char *value, struct config *config, struct config_rule *rule,
                     struct value_why *why)
{
    (void)config;
    static const char *const words[] = {"observe", "strip", "compute", "reject"};
    size_t word;
    if (!value_word(value, words, 4, &word, why)) {
        return false;
    }
    if (word == RULE_MODE_COMPUTE) {
        return because(why, "is not available in this version");
    }
    rule->mode = (enum rule_mode)word;
    return true;
}

static bool set_unqualified(const char *value, struct config *config, struct config_rule *rule,
                            struct value_why *why)
{
    (void)config;
    static const char *const words[] = {"guarded", "pass"};
    size_t word;
    if (!value_word(value, words, 2, &word, why)) {
        return false;
    }
    rule->unqualified_guarded = word == 0;
    return true;
}

static bool set_client_tls(const char *value, struct config *config, struct config_rule *rule,
                           struct value_why *why)
{
    (void)rule;
    static const char *const words[] = {"disable", "allow", "require", "verify-ca", "verify-full"};
    size_t word;
    if (!value_word(value, words, 5, &word, why)) {
        return false;
    }
    config->client_tls.mode = (enum client_tls)word;
    return true;
}

static bool set_client_tls_min_version(const char *value, struct config *config,
                                       struct config_rule *rule, struct value_why *why)
{
    (void)rule;
    static const char *const words[] = {"TLSv1.2", "TLSv1.3"};
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    size_t word;
    if (!value_word(value, words, 2, &word, why)) {
        return false;
    }
    config->client_tls.min_version = versions[word];
    return true;
}

static bool set_auth_type(const char *value, struct config *config, struct config_rule *rule,
                          struct value_why *why)
{
    (void)rule;
    static const char *const words[] = {"passthrough", "scram-sha-256"};
    size_t word;
    if (!value_word(value, words, 2, &word, why)) {
        return false;
    }
    config->auth_type = word == 0 ? AUTH_TYPE_PASSTHROUGH : AUTH_TYPE_SCRAM;
    return true;
}

static bool set_auth_file(const char *value, struct config *config, struct config_rule *rule,
                          struct value_why *why)
{
    (void)rule;
    return copy(&config->auth_file, value, why);
}

static bool set_auth_query(const char *value, struct config *config, struct config_rule *rule,
                           struct value_why *why)
{
    (void)rule;
    return copy(&config->auth_query, value, why);
}

#define SET_CLIENT_TLS_TEXT(member)                                                                \
    static bool set_client_tls_##member(const char *value, struct config *config,                  \
                                        struct config_rule *rule, struct value_why *why)           \
    {                                                                                              \
        (void)rule;                                                                                \
        return copy(&config->client_tls.member, value, why);                                       \
    }
SET_CLIENT_TLS_TEXT(cert)
SET_CLIENT_TLS_TEXT(key)
SET_CLIENT_TLS_TEXT(ca)
SET_CLIENT_TLS_TEXT(crl)
SET_CLIENT_TLS_TEXT(ciphers)

static const struct config_key main_keys[] = {
    {"listen", set_listen, NULL},
    {"unix_socket_mode", set_unix_socket_mode, NULL},
    {"server", set_server, NULL},
    {"control", set_control, NULL},
    {"workers", set_workers, NULL},
    {"admin", set_admin, NULL},
    {"audit", set_audit, NULL},
    {"audit_fsync", set_audit_fsync, NULL},
    {"audit_failure", set_audit_failure, NULL},
    {"audit_values", NULL, "off"},
    {"log_format", set_log_format, NULL},
    {"log_level", set_log_level, NULL},
    {"max_client_conn", set_max_client_conn, NULL},
    {"max_user_client_connections", set_max_user_client_connections, NULL},
    {"max_db_client_connections", set_max_db_client_connections, NULL},
    {"max_packet_size", set_max_packet_size, NULL},
    {"client_login_timeout", set_client_login_timeout, NULL},
    {"server_connect_timeout", set_server_connect_timeout, NULL},
    {"hold_ttl", set_hold_ttl, NULL},
    {"http", NULL, ""},
    {"client_tls", set_client_tls, NULL},
    {"client_tls_cert", set_client_tls_cert, NULL},
    {"client_tls_key", set_client_tls_key, NULL},
    {"client_tls_ca", set_client_tls_ca, NULL},
    {"client_tls_crl", set_client_tls_crl, NULL},
    {"client_tls_ciphers", set_client_tls_ciphers, NULL},
    {"client_tls_min_version", set_client_tls_min_version, NULL},
    {"auth_type", set_auth_type, NULL},
    {"auth_file", set_auth_file, NULL},
    {"auth_query", set_auth_query, NULL},
    {"client_idle_timeout", set_client_idle_timeout, NULL},
    {"idle_transaction_timeout", set_idle_transaction_timeout, NULL},
    {"query_timeout", set_query_timeout, NULL},
    {"tcp_keepalive", set_tcp_keepalive, NULL},
    {"tcp_keepidle", set_tcp_keepidle, NULL},
    {"tcp_keepintvl", set_tcp_keepintvl, NULL},
    {"tcp_keepcnt", set_tcp_keepcnt, NULL},
    {"tcp_user_timeout", set_tcp_user_timeout, NULL},
    {"proxy_protocol", set_proxy_protocol, NULL},
    {"proxy_protocol_from", set_proxy_protocol_from, NULL},
    {"application_name_add_host", set_application_name_add_host, NULL},
};

static const struct config_key rule_keys[] = {
    {"database", set_database, NULL},
    {"table", set_table, NULL},
    {"column", set_column, NULL},
    {"expression", set_expression, NULL},
    {"mode", set_mode, NULL},
    {"on_mismatch", NULL, "strip"},
    {"unqualified", set_unqualified, NULL},
};

static const struct config_key *section_keys(enum config_section section, size_t *count)
{
    bool main_section = section == CONFIG_SECTION_MAIN;
    *count = main_section ? sizeof main_keys / sizeof main_keys[0]
                          : sizeof rule_keys / sizeof rule_keys[0];
    return main_section ? main_keys : rule_keys;
}

static int find(enum config_section section, const char *name)
{
    size_t count;
    const struct config_key *keys = section_keys(section, &count);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(keys[i].name, name) == 0) {
            return (int)i;
        }
    }
    return -1;
}

int config_key_find(enum config_section section, const char *name, struct value_why *why)
{
    int key = find(section, name);
    if (key >= 0) {
        return key;
    }
    bool main_section = section == CONFIG_SECTION_MAIN;
    if (find(main_section ? CONFIG_SECTION_RULE : CONFIG_SECTION_MAIN, name) >= 0) {
        because(why, "belongs in %s", main_section ? "a [rule NAME] section" : "[pgsluice]");
        return -1;
    }
    size_t count;
    const struct config_key *keys = section_keys(section, &count);
    const char *names[CONFIG_KEYS_MAX];
    for (size_t i = 0; i < count; i++) {
        names[i] = keys[i].name;
    }
    const char *nearest = value_nearest(name, names, count);
    because(why, "is not a key of %s%s%s%s", main_section ? "[pgsluice]" : "a rule",
            nearest != NULL ? "; did you mean \"" : "", nearest != NULL ? nearest : "",
            nearest != NULL ? "\"?" : "");
    return -1;
}

const char *config_key_label(enum config_section section, int key)
{
    size_t count;
    return section_keys(section, &count)[key].name;
}

bool config_key_set(enum config_section section, int key, const char *value, struct config *config,
                    struct config_rule *rule, struct value_why *why)
{
    size_t count;
    const struct config_key *entry = &section_keys(section, &count)[key];
    if (entry->set != NULL) {
        return entry->set(value, config, rule, why);
    }
    if (entry->off[0] == '\0') {
        return because(why, "is not available in this version: leave the key out");
    }
    if (strcasecmp(value, entry->off) != 0) {
        return because(why, "is not available in this version: only \"%s\" is", entry->off);
    }
    return true;
}
