/*
 * One table per section: what kind of value a key has, and where it goes. A key of the contract
 * whose work this version does not do yet is in the table with the one value that asks for nothing,
 * so that it is refused, not ignored, with any other.
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
#define WORKERS_MAX 64
#define CLIENTS_MAX 1000000
#define PACKET_MIN ((uint64_t)64 * 1024)
#define PACKET_MAX ((uint64_t)1024 * 1024 * 1024)
#define HOLD_MAX_MS 60000

/* How a key's value is read, and into what. */
enum key_kind {
    KEY_SET,      /* by a function of its own */
    KEY_TEXT,     /* char *, as it is */
    KEY_COUNT,    /* uint32_t, from least to most */
    KEY_SIZE,     /* uint64_t bytes, from least to most */
    KEY_DURATION, /* uint64_t milliseconds, from least to most */
    KEY_SECONDS,  /* uint32_t, up to most, a part of one is not cut off */
    KEY_WORD,     /* an enum whose values are the words' numbers */
    KEY_FLAG,     /* bool: the second of two words */
    KEY_LATER,    /* of the contract, but not of this version */
};

struct config_key {
    const char *name;
    enum key_kind kind;
    size_t at; /* in struct config, or in struct config_rule */
    uint64_t least, most;
    const char *const *words; /* ended by NULL */
    const char *off; /* of KEY_LATER: the value that is taken; "" where only its absence is */
    bool (*set)(const char *value, void *in,
                struct value_why *why); /* in: the config, or the rule */
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

static bool set_listen(const char *value, void *in, struct value_why *why)
{
    struct config *config = in;
    return addresses(value, &config->listen, &config->listen_count, why);
}

static bool set_unix_socket_mode(const char *value, void *in, struct value_why *why)
{
    struct config *config = in;
    return value_mode(value, &config->unix_socket_mode, why);
}

static bool set_admin(const char *value, void *in, struct value_why *why)
{
    struct config *config = in;
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
    static const char *const used[] = {"host",
                                       "hostaddr",
                                       "port",
                                       "sslmode",
                                       "sslrootcert",
                                       "sslcert",
                                       "sslkey",
                                       "sslcrl",
                                       "ssl_min_protocol_version",
                                       "connect_timeout",
                                       "target_session_attrs"};
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

static bool set_server(const char *value, void *in, struct value_why *why)
{
    struct config *config = in;
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

static bool set_control(const char *value, void *in, struct value_why *why)
{
    struct config *config = in;
    PQconninfoOption *options = conninfo(value, why);
    PQconninfoFree(options);
    return options != NULL && copy(&config->control, value, why);
}

/* Plain milliseconds, as in PgBouncer, unlike every other duration here; or with a unit. */
static bool set_tcp_user_timeout(const char *value, void *in, struct value_why *why)
{
    struct config *config = in;
    uint64_t ms;
    bool plain = value[strspn(value, "0123456789")] == '\0';
    bool ok = plain ? value_number(value, 0, TIMEOUT_MAX_MS, &ms, why)
                    : value_duration(value, 0, TIMEOUT_MAX_MS, &ms, why);
    if (!ok) {
        return because(why, "is not a duration up to 1d (units: ms, s, min, h, d; plain: "
                            "milliseconds)");
    }
    config->tcp.user_timeout_ms = (uint32_t)ms;
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

static bool set_proxy_protocol_from(const char *value, void *in, struct value_why *why)
{
    struct config *config = in;
    config->proxy_from_count = 0; /* in the place of the default */
    return each_member(value, add_network, config, why);
}

static bool set_table(const char *value, void *in, struct value_why *why)
{
    struct config_rule *rule = in;
    if (!value_identifier(value, &rule->schema, &rule->table, why)) {
        return false;
    }
    return rule->schema != NULL || copy(&rule->schema, "public", why);
}

static bool set_column(const char *value, void *in, struct value_why *why)
{
    struct config_rule *rule = in;
    return value_identifier(value, NULL, &rule->column, why);
}

static bool set_mode(const char *value, void *in, struct value_why *why)
{
    struct config_rule *rule = in;
    static const char *const words[] = {"observe", "strip", "compute", "reject"};
    size_t word;
    if (!value_word(value, words, 4, &word, why)) {
        return false;
    }
    rule->mode = (enum rule_mode)word;
    return true;
}

static bool set_client_tls_min_version(const char *value, void *in, struct value_why *why)
{
    struct config *config = in;
    static const char *const words[] = {"TLSv1.2", "TLSv1.3"};
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    size_t word;
    if (!value_word(value, words, 2, &word, why)) {
        return false;
    }
    config->client_tls.min_version = versions[word];
    return true;
}

static bool set_auth_type(const char *value, void *in, struct value_why *why)
{
    struct config *config = in;
    static const char *const words[] = {"passthrough", "scram-sha-256"};
    size_t word;
    if (!value_word(value, words, 2, &word, why)) {
        return false;
    }
    config->auth_type = word == 0 ? AUTH_TYPE_PASSTHROUGH : AUTH_TYPE_SCRAM;
    return true;
}

/* Words of a flag: off, on. */
static const char *const digits[] = {"0", "1", NULL};
static const char *const off_require[] = {"off", "require", NULL};
static const char *const pass_reject[] = {"pass", "reject", NULL};
static const char *const strip_reject[] = {"strip", "reject", NULL};
static const char *const pass_guarded[] = {"pass", "guarded", NULL};
static const char *const text_json[] = {"text", "json", NULL};
/* Words of an enum, in its order. */
static const char *const unparsed_words[] = {"auto", "reject", "pass", NULL};
static const char *const fsync_words[] = {"none", "batch", "each", NULL};
static const char *const level_words[] = {"debug", "info", "warning", "error", NULL};
static const char *const tls_words[] = {"disable",   "allow",       "require",
                                        "verify-ca", "verify-full", NULL};

#define MAIN(member) .at = offsetof(struct config, member)
#define RULE(member) .at = offsetof(struct config_rule, member)
#define SET(name)                                                                                  \
    {                                                                                              \
#name, KEY_SET, .set = set_##name                                                          \
    }
#define TIMEOUT(name)                                                                              \
    {                                                                                              \
#name, KEY_DURATION, MAIN(name##_ms), .most = TIMEOUT_MAX_MS                               \
    }
#define CONNECTIONS(name, least_)                                                                  \
    {                                                                                              \
#name, KEY_COUNT, MAIN(name), .least = (least_), .most = CLIENTS_MAX                       \
    }
#define TLS_TEXT(member)                                                                           \
    {                                                                                              \
        "client_tls_" #member, KEY_TEXT, MAIN(client_tls.member)                                   \
    }

static const struct config_key main_keys[] = {
    SET(listen),
    SET(unix_socket_mode),
    SET(server),
    SET(control),
    {"workers", KEY_COUNT, MAIN(workers), .least = 1, .most = WORKERS_MAX},
    SET(admin),
    {"admin_users", KEY_TEXT, MAIN(admin_users)},
    {"stats_users", KEY_TEXT, MAIN(stats_users)},
    {"audit", KEY_TEXT, MAIN(audit)},
    {"audit_fsync", KEY_WORD, MAIN(audit_fsync), .words = fsync_words},
    {"audit_failure", KEY_FLAG, MAIN(audit_failure_reject), .words = pass_reject},
    {"audit_values", KEY_LATER, .off = "off"},
    {"log_format", KEY_FLAG, MAIN(log_json), .words = text_json},
    {"log_level", KEY_WORD, MAIN(log_level), .words = level_words},
    CONNECTIONS(max_client_conn, 1),
    CONNECTIONS(max_user_client_connections, 0),
    CONNECTIONS(max_db_client_connections, 0),
    {"max_packet_size", KEY_SIZE, MAIN(max_packet_size), PACKET_MIN, PACKET_MAX},
    TIMEOUT(client_login_timeout),
    TIMEOUT(server_connect_timeout),
    TIMEOUT(client_idle_timeout),
    TIMEOUT(idle_transaction_timeout),
    TIMEOUT(query_timeout),
    CONNECTIONS(max_held_clients, 0),
    {"hold_ttl", KEY_DURATION, MAIN(hold_ttl_ms), 1, HOLD_MAX_MS},
    {"http", KEY_LATER, .off = ""},
    {"client_tls", KEY_WORD, MAIN(client_tls.mode), .words = tls_words},
    TLS_TEXT(cert),
    TLS_TEXT(key),
    TLS_TEXT(ca),
    TLS_TEXT(crl),
    TLS_TEXT(ciphers),
    SET(client_tls_min_version),
    SET(auth_type),
    {"auth_file", KEY_TEXT, MAIN(auth_file)},
    {"auth_query", KEY_TEXT, MAIN(auth_query)},
    {"tcp_keepalive", KEY_FLAG, MAIN(tcp.keepalive), .words = digits},
    {"tcp_keepidle", KEY_SECONDS, MAIN(tcp.keepidle_s), .most = TCP_KEEP_MAX_S},
    {"tcp_keepintvl", KEY_SECONDS, MAIN(tcp.keepintvl_s), .most = TCP_KEEP_MAX_S},
    {"tcp_keepcnt", KEY_COUNT, MAIN(tcp.keepcnt), .most = TCP_KEEPCNT_MAX},
    SET(tcp_user_timeout),
    {"proxy_protocol", KEY_FLAG, MAIN(proxy_protocol), .words = off_require},
    SET(proxy_protocol_from),
    {"application_name_add_host", KEY_FLAG, MAIN(application_name_add_host), .words = digits},
};

static const struct config_key rule_keys[] = {
    {"database", KEY_TEXT, RULE(database)},
    SET(table),
    SET(column),
    {"expression", KEY_TEXT, RULE(expression)},
    SET(mode),
    {"on_mismatch", KEY_FLAG, RULE(reject_mismatch), .words = strip_reject},
    {"unqualified", KEY_FLAG, RULE(unqualified_guarded), .words = pass_guarded},
    {"on_unparsed", KEY_WORD, RULE(on_unparsed), .words = unparsed_words},
};

static bool read_text(const struct config_key *key, const char *value, char *to,
                      struct value_why *why)
{
    char *text = NULL;
    if (!copy(&text, value, why)) {
        return false;
    }
    memcpy(to + key->at, &text, sizeof text);
    return true;
}

static bool read_word(const struct config_key *key, const char *value, char *to,
                      struct value_why *why)
{
    size_t count = 0;
    size_t word;
    while (key->words[count] != NULL) {
        count++;
    }
    if (!value_word(value, key->words, count, &word, why)) {
        return false;
    }
    if (key->kind == KEY_FLAG) {
        bool flag = word == 1;
        memcpy(to + key->at, &flag, sizeof flag);
    } else {
        unsigned number = (unsigned)word;
        memcpy(to + key->at, &number, sizeof number);
    }
    return true;
}

static bool read_number(const struct config_key *key, const char *value, char *to,
                        struct value_why *why)
{
    uint64_t number = 0;
    bool ok = false;
    bool is_wide = key->kind == KEY_DURATION || key->kind == KEY_SIZE;
    if (key->kind == KEY_SIZE) {
        ok = value_size(value, key->least, key->most, &number, why);
    } else if (key->kind == KEY_DURATION) {
        ok = value_duration(value, key->least, key->most, &number, why);
    } else if (key->kind == KEY_SECONDS) {
        ok = value_duration(value, 0, key->most * 1000, &number, why);
        number = (number + 999) / 1000;
    } else {
        ok = value_number(value, key->least, key->most, &number, why);
    }
    uint32_t narrow = (uint32_t)number;
    if (ok && is_wide) {
        memcpy(to + key->at, &number, sizeof number);
    } else if (ok) {
        memcpy(to + key->at, &narrow, sizeof narrow);
    }
    return ok;
}

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
    void *in = section == CONFIG_SECTION_MAIN ? (void *)config : (void *)rule;
    switch (entry->kind) {
    case KEY_SET:
        return entry->set(value, in, why);
    case KEY_TEXT:
        return read_text(entry, value, in, why);
    case KEY_COUNT:
    case KEY_SIZE:
    case KEY_DURATION:
    case KEY_SECONDS:
        return read_number(entry, value, in, why);
    case KEY_WORD:
    case KEY_FLAG:
        return read_word(entry, value, in, why);
    case KEY_LATER:
        break;
    }
    if (entry->off[0] == '\0') {
        return because(why, "is not available in this version: leave the key out");
    }
    return strcasecmp(value, entry->off) == 0 ||
           because(why, "is not available in this version: only \"%s\" is", entry->off);
}

int config_key_count(enum config_section section)
{
    size_t count;
    section_keys(section, &count);
    return (int)count;
}

static uint32_t narrow_at(const char *from, size_t at)
{
    uint32_t number;
    memcpy(&number, from + at, sizeof number);
    return number;
}

static uint64_t wide_at(const char *from, size_t at)
{
    uint64_t number;
    memcpy(&number, from + at, sizeof number);
    return number;
}

static bool show_text(const char *text, char *room, size_t size)
{
    snprintf(room, size, "%s", text != NULL ? text : "");
    return text != NULL;
}

static bool show_addresses(const struct config_address *at, size_t count, char *room, size_t size)
{
    size_t len = 0;
    for (size_t i = 0; i < count && len < size; i++) {
        const bool is_v6 = strchr(at[i].host, ':') != NULL && !at[i].is_unix;
        const char *between = i > 0 ? ", " : "";
        const int written = at[i].is_unix
                                ? snprintf(room + len, size - len, "%sunix:%s", between, at[i].host)
                                : snprintf(room + len, size - len, is_v6 ? "%s[%s]:%u" : "%s%s:%u",
                                           between, at[i].host, at[i].port);
        len += written > 0 ? (size_t)written : 0;
    }
    return count > 0;
}

/* Keys that are read by a function of their own. */
static bool show_set(const struct config_key *key, const struct config *config,
                     const struct config_rule *rule, char *room, size_t size)
{
    static const char *const modes[] = {"observe", "strip", "compute", "reject"};
    static const char *const auth_types[] = {NULL, "passthrough", "scram-sha-256"};
    if (key->set == set_listen) {
        return show_addresses(config->listen, config->listen_count, room, size);
    }
    if (key->set == set_admin) {
        return show_addresses(config->admin, config->admin_count, room, size);
    }
    if (key->set == set_server) {
        return show_text(config->server, room, size);
    }
    if (key->set == set_auth_type) {
        return show_text(auth_types[config->auth_type], room, size);
    }
    if (key->set == set_unix_socket_mode) {
        snprintf(room, size, "%04o", config->unix_socket_mode);
        return true;
    }
    if (key->set == set_client_tls_min_version) {
        const bool is_three = config->client_tls.min_version == TLS1_3_VERSION;
        return show_text(is_three ? "TLSv1.3" : "TLSv1.2", room, size);
    }
    if (key->set == set_tcp_user_timeout) {
        snprintf(room, size, "%u", config->tcp.user_timeout_ms);
        return true;
    }
    return key->set == set_mode && show_text(modes[rule->mode], room, size);
}

/* In seconds where that is exact: the unit of a number without one. */
static void show_duration(uint64_t ms, char *room, size_t size)
{
    const bool is_exact = ms % 1000 == 0;
    snprintf(room, size, "%llu%s", (unsigned long long)(is_exact ? ms / 1000 : ms),
             is_exact ? "" : "ms");
}

bool config_key_show(enum config_section section, const char *name, const struct config *config,
                     const struct config_rule *rule, char *room, size_t size)
{
    size_t count;
    const int key = find(section, name);
    if (key < 0) {
        return false;
    }
    const struct config_key *entry = &section_keys(section, &count)[key];
    const char *from = section == CONFIG_SECTION_MAIN ? (const char *)config : (const char *)rule;
    char *text;
    bool flag;
    switch (entry->kind) {
    case KEY_SET:
        return show_set(entry, config, rule, room, size);
    case KEY_TEXT:
        memcpy(&text, from + entry->at, sizeof text);
        return show_text(text, room, size);
    case KEY_COUNT:
    case KEY_SECONDS:
        snprintf(room, size, "%u", narrow_at(from, entry->at));
        return true;
    case KEY_SIZE:
        snprintf(room, size, "%llu", (unsigned long long)wide_at(from, entry->at));
        return true;
    case KEY_DURATION:
        show_duration(wide_at(from, entry->at), room, size);
        return true;
    case KEY_WORD:
        return show_text(entry->words[narrow_at(from, entry->at)], room, size);
    case KEY_FLAG:
        memcpy(&flag, from + entry->at, sizeof flag);
        return show_text(entry->words[flag], room, size);
    case KEY_LATER:
        break;
    }
    return false;
}
