/* What `pgsluice check` says of the way to a session: the hosts, TLS on each leg, who answers
 * logins. Called by cli_check.c. */
#include "proxy/cli.h"

#include "proxy/auth/secrets.h"
#include "proxy/hosts.h"
#include "proxy/net/tls.h"
#include "proxy/net/upstream.h"

static const char *const client_tls_words[] = {"disable", "allow", "require", "verify-ca",
                                               "verify-full"};

bool cli_check_files(const struct config *config, struct failure *f)
{
    SSL_CTX *context;
    struct upstream *upstream;
    if (!tls_accept_context(&config->client_tls, &context, f)) {
        return false;
    }
    SSL_CTX_free(context);
    if (!upstream_new(config, &upstream, f)) {
        return false;
    }
    upstream_free(upstream);
    return true;
}

static void add_hosts(const struct upstream *upstream, json_t *list)
{
    for (size_t i = 0; i < upstream->count; i++) {
        const struct upstream_host *host = &upstream->hosts[i];
        json_t *entry =
            json_pack("{s:o, s:o}", "host", cli_text(host->name), "port", cli_text(host->port));
        if (upstream->attrs != UPSTREAM_ATTRS_ANY) {
            json_object_set_new(entry, "role", json_string(upstream_role_name(host->role)));
        }
        json_array_append_new(list, entry);
    }
}

static bool ask_hosts(const struct config *config, struct upstream *upstream, struct failure *f)
{
    struct hosts *hosts;
    char roles[256];
    if (!hosts_open(config, upstream, &hosts, f)) {
        return false;
    }
    hosts_close(hosts);
    for (unsigned round = 0; round < upstream_rounds(upstream); round++) {
        if (upstream_choose(upstream, 0, round) < upstream->count) {
            return true;
        }
    }
    upstream_roles(upstream, roles, sizeof roles);
    return fail(f, EXIT_REFUSED, "server: no server is %s now (target_session_attrs). %s",
                upstream_attrs_name(upstream->attrs), roles);
}

static void describe_login(const struct config *config, const struct upstream *upstream,
                           size_t users, json_t *login)
{
    const char *client_tls = client_tls_words[config->client_tls.mode];
    const char *scram = config_has_secrets(config) ? "pgsluice" : "server";
    json_object_set_new(login, "client_tls", json_string(client_tls));
    json_object_set_new(login, "server_tls", json_string(upstream_tls_name(upstream)));
    json_object_set_new(login, "scram", json_string(scram));
    if (config->auth_file != NULL) {
        json_object_set_new(login, "auth_file_users", json_integer((json_int_t)users));
    }
    if (config->auth_query != NULL) {
        json_object_set_new(login, "auth_query", json_string("runs"));
    }
}

bool cli_check_login(const struct config *config, json_t *login, json_t *hosts, struct failure *f)
{
    struct upstream *upstream;
    size_t users;
    if (!upstream_new(config, &upstream, f)) {
        return false;
    }
    bool suits = ask_hosts(config, upstream, f);
    add_hosts(upstream, hosts);
    bool ok = suits && secrets_try(config, &users, f);
    if (ok) {
        describe_login(config, upstream, users, login);
    }
    upstream_free(upstream);
    return ok;
}
