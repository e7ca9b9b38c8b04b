/* Reads the `server` keywords into hosts to connect to; see upstream.h. */
#include "proxy/net/upstream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libpq-fe.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "proxy/net/tls.h"

#define DEFAULT_PORT "5432"
#define DEFAULT_DIRECTORY "/var/run/postgresql"

/* The i-th item of a comma-separated list, as libpq counts them; NULL past the end. */
static char *list_item(const char *list, size_t index)
{
    for (; index > 0; index--) {
        list = strchr(list, ',');
        if (list == NULL) {
            return NULL;
        }
        list++;
    }
    const char *end = strchrnul(list, ',');
    return strndup(list, (size_t)(end - list));
}

static size_t list_count(const char *list)
{
    size_t count = 1;
    for (const char *c = list; *c != '\0'; c++) {
        count += *c == ',';
    }
    return count;
}

static bool resolve_unix(struct upstream_host *host)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&host->address;
    un->sun_family = AF_UNIX;
    int n = snprintf(un->sun_path, sizeof un->sun_path, "%s/.s.PGSQL.%s", host->name, host->port);
    host->address_len = sizeof *un;
    host->is_fixed = true;
    return n > 0 && (size_t)n < sizeof un->sun_path;
}

static void resolve_numeric(struct upstream_host *host)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    const char *address = host->numeric != NULL ? host->numeric : host->name;
    if (getaddrinfo(address, host->port, &hints, &found) == 0) {
        memcpy(&host->address, found->ai_addr, found->ai_addrlen);
        host->address_len = found->ai_addrlen;
        host->is_fixed = true;
        freeaddrinfo(found);
    }
}

/* What `server` says of its hosts, as libpq's lists. */
struct lists {
    const char *names;     /* host; NULL: not given */
    const char *addresses; /* hostaddr; NULL: not given */
    const char *ports;
};

static size_t hosts_of(const struct lists *lists)
{
    return list_count(lists->addresses != NULL ? lists->addresses : lists->names);
}

static bool is_blank(const char *item)
{
    return item == NULL || item[0] == '\0';
}

static void set_default(char **item, const char *text)
{
    if (is_blank(*item)) {
        free(*item);
        *item = strdup(text);
    }
}

/* An item may be left empty. */
static bool host_names(struct upstream_host *host, const struct lists *lists, size_t index)
{
    host->port = list_item(lists->ports, list_count(lists->ports) == 1 ? 0 : index);
    set_default(&host->port, DEFAULT_PORT);
    host->numeric = lists->addresses != NULL ? list_item(lists->addresses, index) : NULL;
    if (is_blank(host->numeric)) {
        free(host->numeric);
        host->numeric = NULL;
    }
    host->name = lists->names != NULL ? list_item(lists->names, index) : NULL;
    set_default(&host->name, host->numeric != NULL ? host->numeric : DEFAULT_DIRECTORY);
    return host->port != NULL && host->name != NULL;
}

/* getaddrinfo() would take the number modulo 65536. */
static bool is_port(const char *text)
{
    char *end;
    const long number = strtol(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && number >= 1 && number <= 65535;
}

static bool host_init(struct upstream_host *host, const struct lists *lists, size_t index,
                      struct failure *f)
{
    if (!host_names(host, lists, index)) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    if (!is_port(host->port)) {
        return fail(f, EXIT_USAGE, "server: port %s is no number from 1 to 65535", host->port);
    }
    host->is_unix = host->numeric == NULL && host->name[0] == '/';
    if (host->is_unix) {
        return resolve_unix(host) ||
               fail(f, EXIT_USAGE, "server: the socket directory %s is too long", host->name);
    }
    resolve_numeric(host);
    return host->is_fixed || host->numeric == NULL ||
           fail(f, EXIT_USAGE, "server: hostaddr %s is no network address", host->numeric);
}

/* The value of a keyword, or NULL when it is not given. */
static const char *option(const PQconninfoOption *options, const char *keyword)
{
    for (; options->keyword != NULL; options++) {
        if (strcmp(options->keyword, keyword) == 0 && options->val != NULL &&
            options->val[0] != '\0') {
            return options->val;
        }
    }
    return NULL;
}

static const char *const tls_words[] = {"disable", "allow", "prefer", "require"};

/* verify-ca and verify-full are require, with more to check. */
static enum upstream_tls tls_mode(const char *word)
{
    size_t mode = 0;
    while (mode < UPSTREAM_TLS_REQUIRE && strcmp(word, tls_words[mode]) != 0) {
        mode++;
    }
    return (enum upstream_tls)mode;
}

const char *upstream_tls_name(const struct upstream *upstream)
{
    bool verifies = upstream->tls == UPSTREAM_TLS_REQUIRE &&
                    SSL_CTX_get_verify_mode(upstream->tls_context) != SSL_VERIFY_NONE;
    return !verifies               ? tls_words[upstream->tls]
           : upstream->verify_host ? "verify-full"
                                   : "verify-ca";
}

/* Without an sslmode it is libpq's own, prefer, unless that could keep clients from logging in. */
static const char *default_mode(const struct config *config)
{
    return config->client_tls.mode != CLIENT_TLS_DISABLE && !config_has_secrets(config) ? "disable"
                                                                                        : "prefer";
}

/* What a client signs when it logs in by SCRAM over TLS names the certificate that it sees. */
static bool check_both_sides(const struct upstream *upstream, const struct config *config,
                             struct failure *f)
{
    bool server_tls = false;
    for (size_t i = 0; i < upstream->count; i++) {
        server_tls = server_tls || !upstream->hosts[i].is_unix;
    }
    server_tls = server_tls && upstream->tls != UPSTREAM_TLS_DISABLE;
    if (!server_tls || config->client_tls.mode == CLIENT_TLS_DISABLE ||
        config_has_secrets(config) || config->auth_type == AUTH_TYPE_PASSTHROUGH) {
        return true;
    }
    return fail(
        f, EXIT_USAGE,
        "client_tls with TLS towards the server too: clients could not log in by SCRAM, because "
        "what they sign names the certificate that they see, not the server's. Give auth_file or "
        "auth_query, so that pgsluice logs them in; or sslmode=disable in server; or "
        "auth_type = passthrough if no client uses SCRAM with channel binding");
}

/* As libpq: require with a root certificate verifies like verify-ca. */
static bool read_tls(struct upstream *upstream, const PQconninfoOption *options,
                     const struct config *config, struct failure *f)
{
    const char *mode = option(options, "sslmode");
    mode = mode != NULL ? mode : default_mode(config);
    upstream->tls = tls_mode(mode);
    upstream->tls_direct = config->server_tls_direct;
    if (upstream->tls_direct && upstream->tls != UPSTREAM_TLS_REQUIRE) {
        return fail(f, EXIT_USAGE,
                    "server: weak sslmode \"%s\" may not be used with sslnegotiation=direct (use "
                    "\"require\", \"verify-ca\", or \"verify-full\")",
                    mode);
    }
    if (upstream->tls == UPSTREAM_TLS_DISABLE) {
        return true;
    }
    struct tls_connect_settings settings = {
        .root_cert = option(options, "sslrootcert"),
        .cert = option(options, "sslcert"),
        .key = option(options, "sslkey"),
        .crl = option(options, "sslcrl"),
        .min_version = option(options, "ssl_min_protocol_version"),
    };
    upstream->verify_host = strcmp(mode, "verify-full") == 0;
    settings.verify = upstream->tls == UPSTREAM_TLS_REQUIRE &&
                      (settings.root_cert != NULL || strncmp(mode, "verify", 6) == 0);
    if (settings.verify && settings.root_cert == NULL) {
        return fail(f, EXIT_USAGE, "server: sslmode=%s needs sslrootcert", mode);
    }
    return tls_connect_context(&settings, &upstream->tls_context, f);
}

static const char *const attrs_words[] = {"any",     "read-write", "read-only",
                                          "primary", "standby",    "prefer-standby"};

bool upstream_attrs_read(const char *word, enum upstream_attrs *out)
{
    for (size_t i = 0; i < sizeof attrs_words / sizeof attrs_words[0]; i++) {
        if (strcmp(word, attrs_words[i]) == 0) {
            *out = (enum upstream_attrs)i;
            return true;
        }
    }
    return false;
}

const char *upstream_attrs_name(enum upstream_attrs attrs)
{
    return attrs_words[attrs];
}

const char *upstream_role_name(enum upstream_role role)
{
    static const char *const names[] = {"unknown", "read-write", "read-only", "standby"};
    return names[role];
}

void upstream_roles(const struct upstream *upstream, char *room, size_t size)
{
    size_t counts[UPSTREAM_ROLE_STANDBY + 1] = {0};
    for (size_t i = 0; i < upstream->count; i++) {
        counts[atomic_load_explicit(&upstream->hosts[i].role, memory_order_relaxed)]++;
    }
    size_t at = (size_t)snprintf(room, size, "Of %zu:", upstream->count);
    for (size_t role = UPSTREAM_ROLE_READ_WRITE; role <= UPSTREAM_ROLE_STANDBY; role++) {
        if (counts[role] > 0 && at < size) {
            at += (size_t)snprintf(room + at, size - at, " %zu %s,", counts[role],
                                   upstream_role_name((enum upstream_role)role));
        }
    }
    if (at < size && counts[UPSTREAM_ROLE_UNKNOWN] > 0) {
        snprintf(room + at, size - at,
                 " %zu cannot be asked with the login of `control`; pgsluice's log says why.",
                 counts[UPSTREAM_ROLE_UNKNOWN]);
    } else if (at < size) {
        room[at - 1] = '.';
    }
}

static bool suits(enum upstream_attrs attrs, enum upstream_role role, unsigned round)
{
    switch (attrs) {
    case UPSTREAM_ATTRS_ANY:
        return true;
    case UPSTREAM_ATTRS_READ_WRITE:
        return role == UPSTREAM_ROLE_READ_WRITE;
    case UPSTREAM_ATTRS_READ_ONLY:
        return role == UPSTREAM_ROLE_READ_ONLY || role == UPSTREAM_ROLE_STANDBY;
    case UPSTREAM_ATTRS_PRIMARY:
        return role == UPSTREAM_ROLE_READ_WRITE || role == UPSTREAM_ROLE_READ_ONLY;
    case UPSTREAM_ATTRS_STANDBY:
        return role == UPSTREAM_ROLE_STANDBY;
    case UPSTREAM_ATTRS_PREFER_STANDBY:
        return (role == UPSTREAM_ROLE_STANDBY) == (round == 0);
    }
    return false;
}

size_t upstream_choose(const struct upstream *upstream, size_t from, unsigned round)
{
    while (from < upstream->count &&
           !suits(upstream->attrs,
                  atomic_load_explicit(&upstream->hosts[from].role, memory_order_relaxed), round)) {
        from++;
    }
    return from < upstream->count ? from : upstream->count;
}

unsigned upstream_rounds(const struct upstream *upstream)
{
    return upstream->attrs == UPSTREAM_ATTRS_PREFER_STANDBY ? 2 : 1;
}

static bool read_hosts(struct upstream *upstream, const PQconninfoOption *options,
                       struct failure *f)
{
    struct lists lists = {.names = option(options, "host"),
                          .addresses = option(options, "hostaddr"),
                          .ports = option(options, "port")};
    if (lists.names == NULL && lists.addresses == NULL) {
        lists.names = DEFAULT_DIRECTORY;
    }
    if (lists.ports == NULL) {
        lists.ports = DEFAULT_PORT;
    }
    size_t ports = list_count(lists.ports);
    upstream->count = hosts_of(&lists);
    if (ports > 1 && ports != upstream->count) {
        return fail(f, EXIT_USAGE, "server: %zu ports for %zu hosts", ports, upstream->count);
    }
    if (lists.names != NULL && list_count(lists.names) != upstream->count) {
        return fail(f, EXIT_USAGE, "server: %zu hosts for %zu of hostaddr", list_count(lists.names),
                    upstream->count);
    }
    upstream->hosts = calloc(upstream->count, sizeof *upstream->hosts);
    bool ok = upstream->hosts != NULL || fail(f, EXIT_REFUSED, "out of memory");
    for (size_t i = 0; ok && i < upstream->count; i++) {
        ok = host_init(&upstream->hosts[i], &lists, i, f);
    }
    return ok;
}

static bool read_attrs(struct upstream *upstream, const PQconninfoOption *options,
                       struct failure *f)
{
    const char *attrs = option(options, "target_session_attrs");
    return attrs == NULL || upstream_attrs_read(attrs, &upstream->attrs) ||
           fail(f, EXIT_USAGE, "server: invalid target_session_attrs value: \"%s\"", attrs);
}

bool upstream_new(const struct config *config, struct upstream **out, struct failure *f)
{
    *out = NULL;
    char *error = NULL;
    PQconninfoOption *options = PQconninfoParse(config->server, &error);
    if (options == NULL) {
        fail(f, EXIT_USAGE, "server: %s", error != NULL ? error : "out of memory");
        PQfreemem(error);
        return false;
    }
    struct upstream *upstream = calloc(1, sizeof *upstream);
    bool ok = upstream != NULL
                  ? read_hosts(upstream, options, f) && read_attrs(upstream, options, f) &&
                        read_tls(upstream, options, config, f) &&
                        check_both_sides(upstream, config, f)
                  : fail(f, EXIT_REFUSED, "out of memory");
    PQconninfoFree(options);
    if (!ok) {
        upstream_free(upstream);
        return false;
    }
    *out = upstream;
    return true;
}

void upstream_free(struct upstream *upstream)
{
    if (upstream == NULL) {
        return;
    }
    for (size_t i = 0; upstream->hosts != NULL && i < upstream->count; i++) {
        free(upstream->hosts[i].name);
        free(upstream->hosts[i].numeric);
        free(upstream->hosts[i].port);
    }
    free(upstream->hosts);
    SSL_CTX_free(upstream->tls_context);
    free(upstream);
}

/* 0, or the errno of the attempt. */
static int try_connect(const struct sockaddr *address, socklen_t len, int timeout_ms)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return errno;
    }
    int error = connect(fd, address, len) == 0 ? 0 : errno;
    if (error == EINPROGRESS) {
        struct pollfd poller = {.fd = fd, .events = POLLOUT};
        socklen_t size = sizeof error;
        error = ETIMEDOUT;
        if (poll(&poller, 1, timeout_ms) == 1) {
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
        }
    }
    close(fd);
    return error;
}

static int host_reachable(const struct upstream_host *host, int timeout_ms, const char **why)
{
    *why = NULL;
    if (host->is_fixed) {
        return try_connect((const struct sockaddr *)&host->address, host->address_len, timeout_ms);
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(host->name, host->port, &hints, &found);
    if (rc != 0) {
        *why = gai_strerror(rc);
        return EHOSTUNREACH;
    }
    int error = EHOSTUNREACH;
    for (struct addrinfo *a = found; a != NULL && error != 0; a = a->ai_next) {
        error = try_connect(a->ai_addr, a->ai_addrlen, timeout_ms);
    }
    freeaddrinfo(found);
    return error;
}

bool upstream_reachable(const struct upstream *upstream, int timeout_ms, struct failure *f)
{
    for (size_t i = 0; i < upstream->count; i++) {
        const struct upstream_host *host = &upstream->hosts[i];
        const char *why;
        int error = host_reachable(host, timeout_ms, &why);
        if (error == 0) {
            return true;
        }
        fail(f, EXIT_REFUSED, "server \"%s\", port %s: %s", host->name, host->port,
             why != NULL ? why : strerror(error));
    }
    return false;
}
