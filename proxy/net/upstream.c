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
    if (getaddrinfo(host->name, host->port, &hints, &found) == 0) {
        memcpy(&host->address, found->ai_addr, found->ai_addrlen);
        host->address_len = found->ai_addrlen;
        host->is_fixed = true;
        freeaddrinfo(found);
    }
}

static bool host_init(struct upstream_host *host, const char *names, const char *ports,
                      size_t index, struct failure *f)
{
    host->name = list_item(names, index);
    host->port = list_item(ports, list_count(ports) == 1 ? 0 : index);
    if (host->name == NULL || host->port == NULL) {
        return fail(f, EXIT_USAGE, "server: %zu ports for %zu hosts", list_count(ports),
                    list_count(names));
    }
    if (host->port[0] == '\0') {
        free(host->port);
        host->port = strdup(DEFAULT_PORT);
    }
    host->is_unix = host->name[0] == '/';
    if (!host->is_unix) {
        resolve_numeric(host);
        return true;
    }
    return resolve_unix(host) ||
           fail(f, EXIT_USAGE, "server: the socket directory %s is too long", host->name);
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

/* As libpq: require with a root certificate verifies like verify-ca. */
static bool read_tls(struct upstream *upstream, const PQconninfoOption *options, bool client_tls,
                     struct failure *f)
{
    const char *mode = option(options, "sslmode");
    mode = mode != NULL ? mode : client_tls ? "disable" : "prefer";
    if (strcmp(mode, "disable") == 0 || strcmp(mode, "allow") == 0) {
        return true;
    }
    struct tls_connect_settings settings = {
        .root_cert = option(options, "sslrootcert"),
        .cert = option(options, "sslcert"),
        .key = option(options, "sslkey"),
        .crl = option(options, "sslcrl"),
        .min_version = option(options, "ssl_min_protocol_version"),
    };
    bool prefer = strcmp(mode, "prefer") == 0;
    upstream->tls = prefer ? UPSTREAM_TLS_PREFER : UPSTREAM_TLS_REQUIRE;
    upstream->verify_host = strcmp(mode, "verify-full") == 0;
    settings.verify = !prefer && (settings.root_cert != NULL || strncmp(mode, "verify", 6) == 0);
    if (settings.verify && settings.root_cert == NULL) {
        return fail(f, EXIT_USAGE, "server: sslmode=%s needs sslrootcert", mode);
    }
    return tls_connect_context(&settings, &upstream->tls_context, f);
}

bool upstream_new(const char *conninfo, bool client_tls, struct upstream **out, struct failure *f)
{
    *out = NULL;
    char *error = NULL;
    PQconninfoOption *options = PQconninfoParse(conninfo, &error);
    if (options == NULL) {
        fail(f, EXIT_USAGE, "server: %s", error != NULL ? error : "out of memory");
        PQfreemem(error);
        return false;
    }
    const char *names = option(options, "hostaddr");
    names = names != NULL ? names : option(options, "host");
    names = names != NULL ? names : "/var/run/postgresql";
    const char *ports = option(options, "port");
    ports = ports != NULL ? ports : DEFAULT_PORT;

    bool ok = false;
    struct upstream *upstream = calloc(1, sizeof *upstream);
    if (upstream != NULL) {
        upstream->count = list_count(names);
        upstream->hosts = calloc(upstream->count, sizeof *upstream->hosts);
        ok = upstream->hosts != NULL;
    }
    for (size_t i = 0; ok && i < upstream->count; i++) {
        ok = host_init(&upstream->hosts[i], names, ports, i, f);
    }
    ok = ok && read_tls(upstream, options, client_tls, f);
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
