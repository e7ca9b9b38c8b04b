/*
 * Reads the configuration file for config.h: lines through inih, keys through config_keys.c. The
 * reader in front of inih counts the lines, so that every error can name one, and folds long lines,
 * which inih as Debian builds it would cut.
 */
#include "proxy/config.h"

#include "proxy/config_keys.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <openssl/ssl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_LINES_MAX 100000
/* inih's buffer has 200 bytes; a piece of a line stays below it with its newline. */
#define PIECE_MAX 190
#define VALUE_MAX 16384
#define RULE_NAME_MAX 40

struct loader {
    const char *name; /* of the file, as the user gave it */
    FILE *stream;
    struct config *config;
    struct failure *failure;
    bool failed;

    char *line; /* the current one, and its allocation */
    size_t line_size;
    int number;
    const char *rest;  /* what of it inih has not been given yet */
    bool expect_key;   /* inih was given a key and has not called back */
    bool in_key_lines; /* a key has begun in this section, so an indented line continues it */

    enum config_section section;
    bool main_seen;
    uint64_t keys_seen;
    int key; /* of the value being gathered, or -1 */
    int key_line;
    char value[VALUE_MAX];
};

static bool complain(struct loader *l, int line, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Returns false, which is also inih's sign for an error. The first complaint stands. */
static bool complain(struct loader *l, int line, const char *fmt, ...)
{
    if (l->failed) {
        return false;
    }
    l->failed = true;
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (line > 0) {
        fail(l->failure, EXIT_USAGE, "%s:%d: %s", l->name, line, text);
    } else {
        fail(l->failure, EXIT_USAGE, "%s: %s", l->name, text);
    }
    return false;
}

static const char *key_name(const char *line, char *out, size_t room)
{
    size_t len = strcspn(line, "=:");
    while (len > 0 && isspace((unsigned char)line[len - 1])) {
        len--;
    }
    snprintf(out, room, "%.*s", (int)len, line);
    return out;
}

/* Hands the gathered value to its key. Values are gathered because indented lines continue them. */
static bool finish_value(struct loader *l)
{
    if (l->key < 0) {
        return true;
    }
    int key = l->key;
    l->key = -1;
    struct config *config = l->config;
    struct config_rule *rule =
        l->section == CONFIG_SECTION_RULE ? &config->rules[config->rule_count - 1] : NULL;
    const char *name = config_key_label(l->section, key);
    struct value_why why;
    if (l->value[0] == '\0') {
        return complain(l, l->key_line, "%s: has no value", name);
    }
    if (!config_key_set(l->section, key, l->value, config, rule, &why)) {
        /* a connection string may hold a password, which is not for logs */
        if (strstr(l->value, "password") != NULL || strstr(l->value, "://") != NULL) {
            return complain(l, l->key_line, "%s: %s", name, why.text);
        }
        return complain(l, l->key_line, "%s: \"%.100s%s\" %s", name, l->value,
                        strlen(l->value) > 100 ? "..." : "", why.text);
    }
    return true;
}

static bool begin_rule(struct loader *l, const char *name)
{
    struct config *config = l->config;
    size_t len = strlen(name);
    if (len == 0 || len > RULE_NAME_MAX ||
        name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")]) {
        return complain(l, l->number,
                        "[rule %.60s]: a rule's name has 1 to %d letters, digits, _ . or -", name,
                        RULE_NAME_MAX);
    }
    for (size_t i = 0; i < config->rule_count; i++) {
        if (strcmp(config->rules[i].name, name) == 0) {
            return complain(l, l->number, "[rule %s]: this rule is already on line %d", name,
                            config->rules[i].line);
        }
    }
    if (config->rule_count == RULES_MAX) {
        return complain(l, l->number, "[rule %s]: more than %d rules", name, RULES_MAX);
    }
    struct config_rule *grown =
        realloc(config->rules, (config->rule_count + 1) * sizeof *config->rules);
    char *copy = strdup(name);
    if (grown != NULL) {
        config->rules = grown;
    }
    if (grown == NULL || copy == NULL) {
        free(copy);
        return complain(l, l->number, "out of memory");
    }
    config->rules[config->rule_count++] = (struct config_rule){
        .name = copy, .mode = RULE_MODE_OBSERVE, .unqualified_guarded = true, .line = l->number};
    l->section = CONFIG_SECTION_RULE;
    return true;
}

/* `header` is what stands between the brackets. */
static bool begin_section(struct loader *l, char *header)
{
    l->keys_seen = 0;
    l->in_key_lines = false;
    if (strcmp(header, "pgsluice") == 0) {
        l->section = CONFIG_SECTION_MAIN;
        if (l->main_seen) {
            return complain(l, l->number, "[pgsluice]: this section is there twice");
        }
        l->main_seen = true;
        return true;
    }
    if (strncmp(header, "rule", 4) == 0 && isspace((unsigned char)header[4])) {
        return begin_rule(l, header + 4 + strspn(header + 4, " \t"));
    }
    return complain(l, l->number, "[%.60s]: unknown section; there are [pgsluice] and [rule NAME]",
                    header);
}

/* inih's handler: a key with its value, or the continuation of the value before. */
static int on_pair(void *arg, const char *section, const char *name, const char *value)
{
    struct loader *l = arg;
    (void)section;
    bool continues = !l->expect_key;
    l->expect_key = false;

    if (!continues) {
        struct value_why why;
        if (!finish_value(l)) {
            return 0;
        }
        if (l->section == CONFIG_SECTION_NONE) {
            return complain(l, l->number, "%.60s: stands before the first section, [pgsluice]",
                            name);
        }
        int key = config_key_find(l->section, name, &why);
        if (key < 0) {
            return complain(l, l->number, "%.60s: %s", name, why.text);
        }
        if ((l->keys_seen & UINT64_C(1) << key) != 0) {
            return complain(l, l->number, "%s: is there twice in its section", name);
        }
        l->keys_seen |= UINT64_C(1) << key;
        l->key = key;
        l->key_line = l->number;
        l->value[0] = '\0';
        l->in_key_lines = true;
    }
    size_t have = strlen(l->value);
    if (have + strlen(value) + 2 > sizeof l->value) {
        return complain(l, l->key_line, "%s: is longer than %d bytes",
                        config_key_label(l->section, l->key), VALUE_MAX - 2);
    }
    snprintf(l->value + have, sizeof l->value - have, "%s%s",
             have > 0 && value[0] != '\0' ? " " : "", value);
    return 1;
}

/* Gives inih the next piece of the line: as much as fits, cut at a single space, so that the next
 * piece is indented and continues it. */
static char *next_piece(struct loader *l, char *out, int room)
{
    size_t len = strlen(l->rest);
    if (len > PIECE_MAX) {
        size_t cut = PIECE_MAX;
        while (cut > 1 && !(l->rest[cut] == ' ' && !isspace((unsigned char)l->rest[cut - 1]) &&
                            !isspace((unsigned char)l->rest[cut + 1]))) {
            cut--;
        }
        if (cut == 1) {
            complain(l, l->number, "a word is longer than %d bytes", PIECE_MAX);
            return NULL;
        }
        len = cut;
    }
    snprintf(out, (size_t)room, "%.*s", (int)len, l->rest);
    l->rest = l->rest[len] != '\0' ? l->rest + len : NULL;
    return out;
}

/* Looks at a fresh line before inih does. False to stop. */
static bool survey(struct loader *l, size_t length)
{
    char *line = l->line;
    if (strlen(line) != length) {
        return complain(l, l->number, "has a NUL byte");
    }
    if (l->number == 1 && strncmp(line, "\xef\xbb\xbf", 3) == 0) {
        memmove(line, line + 3, length - 2);
    }
    for (char *c = line; *c != '\0'; c++) {
        if (*c == ';' && (c == line || isspace((unsigned char)c[-1]))) {
            *c = '\0';
            break;
        }
    }
    for (size_t len = strlen(line); len > 0 && isspace((unsigned char)line[len - 1]); len--) {
        line[len - 1] = '\0';
    }
    char *start = line + strspn(line, " \t\r\f\v");
    if (*start == '\0' || *start == '#') {
        *line = '\0';
        return true;
    }
    bool indented = start > line;
    if (*start == '[' && !(indented && l->in_key_lines)) {
        char *close = strchr(start, ']');
        if (close == NULL || close[1] != '\0') {
            return complain(l, l->number, "%.60s: not a section: [pgsluice] or [rule NAME]", start);
        }
        if (!finish_value(l)) {
            return false;
        }
        *close = '\0';
        bool ok = begin_section(l, start + 1);
        /* the header's own text may be longer than inih keeps; it only has to see that one is there
         */
        snprintf(line, l->line_size, "[-]");
        return ok;
    }
    l->expect_key = !(indented && l->in_key_lines);
    if (!l->expect_key && strchr(start, '=') != NULL && l->section != CONFIG_SECTION_NONE) {
        char name[64];
        struct value_why why;
        if (config_key_find(l->section, key_name(start, name, sizeof name), &why) >= 0) {
            return complain(l, l->number, "%s: is indented, which would make it part of %s", name,
                            config_key_label(l->section, l->key));
        }
    }
    return true;
}

/* inih's reader. */
static char *on_read(char *out, int room, void *arg)
{
    struct loader *l = arg;
    if (l->failed) {
        return NULL;
    }
    if (l->rest != NULL) {
        return next_piece(l, out, room);
    }
    if (l->expect_key) {
        complain(l, l->number, "%.60s: not a line of the form key = value", l->line);
        return NULL;
    }
    errno = 0;
    ssize_t length = getline(&l->line, &l->line_size, l->stream);
    if (length < 0) {
        if (errno != 0) {
            complain(l, 0, "%s", strerror(errno));
        }
        return NULL;
    }
    if (++l->number > FILE_LINES_MAX) {
        complain(l, l->number, "this is no configuration file: too long");
        return NULL;
    }
    if (!survey(l, (size_t)length)) {
        return NULL;
    }
    l->rest = l->line;
    return next_piece(l, out, room);
}

static bool is_auth_complete(struct loader *l)
{
    const struct config *config = l->config;
    if (config->auth_query != NULL && config->control == NULL) {
        return complain(l, 0, "control: is missing from [pgsluice]; auth_query runs on it");
    }
    if (config->auth_type == AUTH_TYPE_SCRAM && !config_has_secrets(config)) {
        return complain(l, 0, "auth_type: scram-sha-256 needs auth_file or auth_query");
    }
    if (config->auth_type == AUTH_TYPE_PASSTHROUGH && config_has_secrets(config)) {
        return complain(l, 0, "auth_type: with passthrough %s is never looked at: leave one out",
                        config->auth_file != NULL ? "auth_file" : "auth_query");
    }
    return true;
}

static bool is_complete(struct loader *l)
{
    const struct config *config = l->config;
    if (!l->main_seen) {
        return complain(l, 0, "there is no [pgsluice] section");
    }
    if (config->listen_count == 0) {
        return complain(l, 0, "listen: is missing from [pgsluice]");
    }
    if (config->server == NULL) {
        return complain(l, 0, "server: is missing from [pgsluice]");
    }
    for (size_t i = 0; i < config->rule_count; i++) {
        const struct config_rule *rule = &config->rules[i];
        const char *missing = rule->table == NULL        ? "table"
                              : rule->column == NULL     ? "column"
                              : rule->expression == NULL ? "expression"
                                                         : NULL;
        if (missing != NULL) {
            return complain(l, rule->line, "%s: is missing from [rule %s]", missing, rule->name);
        }
        for (size_t j = 0; j < i; j++) {
            const struct config_rule *other = &config->rules[j];
            bool same_database = rule->database == NULL || other->database == NULL ||
                                 strcmp(rule->database, other->database) == 0;
            if (same_database && strcmp(rule->schema, other->schema) == 0 &&
                strcmp(rule->table, other->table) == 0 &&
                strcmp(rule->column, other->column) == 0) {
                return complain(l, rule->line,
                                "[rule %s]: guards the same column as [rule %s] on line %d",
                                rule->name, other->name, other->line);
            }
        }
    }
    const struct config_client_tls *tls = &config->client_tls;
    if (tls->mode != CLIENT_TLS_DISABLE && (tls->cert == NULL || tls->key == NULL)) {
        return complain(l, 0, "client_tls: needs client_tls_cert and client_tls_key");
    }
    if (tls->mode >= CLIENT_TLS_VERIFY_CA && tls->ca == NULL) {
        return complain(l, 0, "client_tls: needs client_tls_ca to verify certificates");
    }
    if (config->rule_count > 0 && config->control == NULL) {
        return complain(l, 0, "control: is missing from [pgsluice]; rules need it");
    }
    if (config->server_attrs && config->control == NULL) {
        return complain(l, 0,
                        "control: is missing from [pgsluice]; target_session_attrs needs it, to "
                        "ask the servers what they are");
    }
    return is_auth_complete(l);
}

/* Only what runs on the proxy's own machine is believed without being named. */
static bool trust_loopback(struct config *config)
{
    struct value_why why;
    int key = config_key_find(CONFIG_SECTION_MAIN, "proxy_protocol_from", &why);
    return config_key_set(CONFIG_SECTION_MAIN, key, "127.0.0.0/8, ::1", config, NULL, &why);
}

static struct config *with_defaults(const char *file)
{
    struct config *config = calloc(1, sizeof *config);
    if (config == NULL) {
        return NULL;
    }
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    config->workers = cores < 1 ? 1 : cores > 64 ? 64 : (unsigned)cores;
    config->unix_socket_mode = 0777; /* as the server's own: it asks who it is */
    config->audit_fsync = AUDIT_FSYNC_BATCH;
    config->log_level = LOG_LEVEL_INFO;
    config->max_client_conn = 5000;
    config->tcp.keepalive = true;
    config->client_tls.min_version = TLS1_2_VERSION;
    config->max_packet_size = UINT64_C(64) * 1024 * 1024;
    config->client_login_timeout_ms = 60 * 1000;
    config->server_connect_timeout_ms = 15 * 1000;
    config->hold_ttl_ms = 2000;
    config->max_held_clients = 1000;
    config->file = strdup(file);
    if (config->file == NULL || !trust_loopback(config)) {
        config_free(config);
        return NULL;
    }
    return config;
}

bool config_load(const char *file, struct config **out, struct failure *f)
{
    *out = NULL;
    struct loader l = {.name = file, .failure = f, .key = -1};

    l.stream = fopen(file, "re");
    if (l.stream == NULL) {
        return fail(f, EXIT_USAGE, "%s: %s", file, strerror(errno));
    }
    l.config = with_defaults(file);
    bool ok = false;
    if (l.config == NULL) {
        fail(f, EXIT_REFUSED, "%s: out of memory", file);
        goto out;
    }
    int status = ini_parse_stream(on_read, &l, on_pair, &l);
    if (!l.failed && status != 0) {
        complain(&l, l.number, "cannot be read");
    }
    ok = !l.failed && finish_value(&l) && is_complete(&l);
out:
    fclose(l.stream);
    free(l.line);
    if (ok) {
        *out = l.config;
    } else {
        config_free(l.config);
    }
    return ok;
}

static void free_addresses(struct config_address *addresses, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(addresses[i].host);
    }
    free(addresses);
}

void config_free(struct config *config)
{
    if (config == NULL) {
        return;
    }
    for (size_t i = 0; i < config->rule_count; i++) {
        struct config_rule *rule = &config->rules[i];
        free(rule->name);
        free(rule->database);
        free(rule->schema);
        free(rule->table);
        free(rule->column);
        free(rule->expression);
    }
    free(config->rules);
    free_addresses(config->listen, config->listen_count);
    free(config->proxy_from);
    free_addresses(config->admin, config->admin_count);
    free_addresses(config->http, config->http != NULL ? 1 : 0);
    free(config->file);
    free(config->server);
    free(config->control);
    free(config->auth_file);
    free(config->auth_query);
    free(config->admin_users);
    free(config->stats_users);
    free(config->audit);
    free(config->client_tls.cert);
    free(config->client_tls.key);
    free(config->client_tls.ca);
    free(config->client_tls.crl);
    free(config->client_tls.ciphers);
    free(config);
}

const struct config_rule *config_find_rule(const struct config *config, const char *table,
                                           struct failure *f)
{
    for (size_t i = 0; i < config->rule_count; i++) {
        if (strcmp(config->rules[i].name, table) == 0) {
            return &config->rules[i];
        }
    }
    char *schema = NULL;
    char *name = NULL;
    struct value_why why;
    if (!value_identifier(table, &schema, &name, &why)) {
        fail(f, EXIT_USAGE, "\"%s\" %s", table, why.text);
        return NULL;
    }
    const struct config_rule *found = NULL;
    size_t matches = 0;
    for (size_t i = 0; i < config->rule_count; i++) {
        const struct config_rule *rule = &config->rules[i];
        if (strcmp(rule->table, name) == 0 &&
            (schema == NULL || strcmp(rule->schema, schema) == 0)) {
            found = rule;
            matches++;
        }
    }
    free(schema);
    free(name);
    if (matches == 1) {
        return found;
    }
    if (matches == 0) {
        fail(f, EXIT_USAGE, "%s: no rule is for table %s", config->file, table);
    } else {
        fail(f, EXIT_USAGE, "%s: several rules are for table %s: give the rule's name",
             config->file, table);
    }
    return NULL;
}
