/* Compares the file with the configuration in force and takes it up; see reload.h. */
#include "proxy/reload.h"

#include <string.h>

#include "proxy/log.h"

static bool same_text(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool same_addresses(const struct config_address *a, size_t a_count,
                           const struct config_address *b, size_t b_count)
{
    bool same = a_count == b_count;
    for (size_t i = 0; same && i < a_count; i++) {
        same = a[i].is_unix == b[i].is_unix && a[i].port == b[i].port &&
               same_text(a[i].host, b[i].host);
    }
    return same;
}

static bool same_rule(const struct config_rule *a, const struct config_rule *b)
{
    return same_text(a->name, b->name) && same_text(a->database, b->database) &&
           same_text(a->schema, b->schema) && same_text(a->table, b->table) &&
           same_text(a->column, b->column) && same_text(a->expression, b->expression);
}

/* The key that needs a restart, or NULL. */
static const char *fixed_difference(const struct config *a, const struct config *b)
{
    if (!same_addresses(a->listen, a->listen_count, b->listen, b->listen_count)) {
        return "listen";
    }
    if (a->unix_socket_mode != b->unix_socket_mode) {
        return "unix_socket_mode";
    }
    if (!same_addresses(a->admin, a->admin_count, b->admin, b->admin_count)) {
        return "admin";
    }
    if (!same_text(a->server, b->server) || a->server_tls_direct != b->server_tls_direct) {
        return "server";
    }
    if (!same_text(a->control, b->control)) {
        return "control";
    }
    if (a->auth_type != b->auth_type || config_has_secrets(a) != config_has_secrets(b)) {
        return "who answers logins (auth_type, auth_file, auth_query)";
    }
    if (!same_text(a->audit, b->audit) || a->audit_fsync != b->audit_fsync) {
        return "audit";
    }
    if (a->workers != b->workers) {
        return "workers";
    }
    bool same = a->rule_count == b->rule_count;
    for (size_t i = 0; same && i < a->rule_count; i++) {
        same = same_rule(&a->rules[i], &b->rules[i]);
    }
    return same ? NULL : "the rules' names, databases, tables, columns or expressions";
}

bool reload_config(struct service *service, struct failure *f)
{
    struct config *old = service_config(service);
    struct config *next;
    if (!config_load(old->file, &next, f)) {
        return false;
    }
    const char *fixed = fixed_difference(old, next);
    if (fixed != NULL) {
        config_free(next);
        return fail(f, EXIT_USAGE, "%s: a change of %s needs a restart", old->file, fixed);
    }
    SSL_CTX *client_tls;
    if (!tls_accept_context(&next->client_tls, &client_tls, f)) {
        config_free(next);
        return false;
    }
    if (service->secrets != NULL && !secrets_reload(service->secrets, next, f)) {
        SSL_CTX_free(client_tls);
        config_free(next);
        return false;
    }
    uv_mutex_lock(&service->tls_lock);
    SSL_CTX_free(service->client_tls); /* connections that use it keep it */
    service->client_tls = client_tls;
    uv_mutex_unlock(&service->tls_lock);
    log_init(next->log_json, next->log_level);
    /* other threads may still be reading the old one: it stays until the process ends */
    next->older = old;
    atomic_store_explicit(&service->config, next, memory_order_release);
    catalog_reconfigure(service->catalog, next);
    return true;
}
