/*
 * The serving process: opens everything in the order in which it can fail, runs the main loop
 * (listeners, signals, admin), and takes it down again. Workers run the sessions.
 */
#include "proxy/serve.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include "proxy/admin/board.h"
#include "proxy/admin/server.h"
#include "proxy/log.h"
#include "proxy/net/listener.h"
#include "proxy/reload.h"
#include "proxy/service.h"
#include "proxy/worker.h"

/* Sessions that have not reached a transaction boundary by then are closed. */
#define DRAIN_MAX_MS 30000
#define DRAIN_LOOK_MS 50
/* A thread's heap keeps so much that was given back, and a piece of so much comes from it. */
#define HEAP_SLACK (1024 * 1024)
#define HEAP_PIECE (1024 * 1024)

struct serve {
    struct service service;
    uv_loop_t loop;
    struct listener **listeners;
    size_t listener_count;
    struct admin *admin;
    uv_signal_t term, interrupt, hangup;
    uv_timer_t drain;
    uint64_t drain_end;
};

/* --- end --- */

static void post_all(struct service *service, enum mail_kind kind)
{
    for (unsigned i = 0; i < service->worker_count; i++) {
        worker_post(service->workers[i], mail_new(kind));
    }
}

static void close_listeners(struct serve *serve)
{
    for (size_t i = 0; i < serve->listener_count; i++) {
        listener_close(serve->listeners[i]);
    }
    serve->listener_count = 0;
}

/* The main loop ends when its last handle is closed. */
static void finish(struct serve *serve)
{
    if (uv_is_closing((uv_handle_t *)&serve->term)) {
        return;
    }
    close_listeners(serve);
    admin_close(serve->admin);
    serve->admin = NULL;
    uv_close((uv_handle_t *)&serve->term, NULL);
    uv_close((uv_handle_t *)&serve->interrupt, NULL);
    uv_close((uv_handle_t *)&serve->hangup, NULL);
    uv_close((uv_handle_t *)&serve->drain, NULL);
}

static void on_drain(uv_timer_t *timer)
{
    struct serve *serve = timer->data;
    uint32_t left = atomic_load(&serve->service.clients);
    if (left == 0 || uv_now(&serve->loop) >= serve->drain_end) {
        if (left > 0) {
            log_warning("closing %u sessions that did not reach the end of their transaction",
                        left);
        }
        finish(serve);
    }
}

static void on_hangup(struct service *service)
{
    struct failure f;
    if (!audit_reopen(service->audit)) {
        log_error("SIGHUP: the audit log cannot be reopened");
    }
    if (reload_config(service, &f)) {
        log_info("SIGHUP: the configuration was reloaded");
    } else {
        log_error("SIGHUP: the configuration stays as it was: %s", f.msg);
    }
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct serve *serve = handle->data;
    if (number == SIGHUP) {
        on_hangup(&serve->service);
        return;
    }
    bool again = atomic_exchange(&serve->service.draining, true);
    if (number == SIGINT || again) {
        log_info("shutting down at once");
        finish(serve);
        return;
    }
    log_info("SIGTERM: draining, sessions end at their next transaction boundary");
    close_listeners(serve);
    serve->drain_end = uv_now(&serve->loop) + DRAIN_MAX_MS;
    uv_timer_start(&serve->drain, on_drain, 0, DRAIN_LOOK_MS);
}

/* --- start --- */

/* The worker with the fewest sessions gets the client, so that few clients spread evenly too. */
static void on_client(void *arg, int fd)
{
    struct service *service = arg;
    struct worker *least = service->workers[0];
    for (unsigned i = 1; i < service->worker_count; i++) {
        struct worker *worker = service->workers[i];
        if (atomic_load_explicit(&worker->assigned, memory_order_relaxed) <
            atomic_load_explicit(&least->assigned, memory_order_relaxed)) {
            least = worker;
        }
    }
    struct mail *mail = mail_new(MAIL_CLIENT);
    if (mail == NULL) {
        close(fd);
        return;
    }
    mail->fd = fd;
    atomic_fetch_add(&service->clients, 1);
    atomic_fetch_add(&least->assigned, 1);
    worker_post(least, mail);
}

static void on_gate_change(void *arg)
{
    post_all(arg, MAIL_GATE);
}

static bool open_gates(struct service *service, struct failure *f)
{
    const struct config *config = service_config(service);
    service->gates = calloc(config->rule_count + 1, sizeof *service->gates);
    for (size_t i = 0; service->gates != NULL && i < config->rule_count; i++) {
        service->gates[i] = gate_new(config->rules[i].name);
        if (service->gates[i] == NULL) {
            return fail(f, EXIT_REFUSED, "out of memory");
        }
        gate_on_change(service->gates[i], on_gate_change, service);
    }
    return service->gates != NULL || fail(f, EXIT_REFUSED, "out of memory");
}

static bool open_workers(struct service *service, struct failure *f)
{
    unsigned count = service_config(service)->workers;
    service->workers = calloc(count, sizeof(struct worker *));
    if (service->workers == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    for (unsigned i = 0; i < count; i++) {
        service->workers[i] = worker_start(service, i);
        if (service->workers[i] == NULL) {
            return fail(f, EXIT_REFUSED, "cannot start worker %u: %s", i, strerror(errno));
        }
        service->worker_count++;
    }
    return true;
}

static bool open_listeners(struct serve *serve, struct failure *f)
{
    const struct config *config = service_config(&serve->service);
    serve->listeners = calloc(config->listen_count, sizeof(struct listener *));
    if (serve->listeners == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    for (size_t i = 0; i < config->listen_count; i++) {
        if (!listener_open(&serve->loop, &config->listen[i], config->unix_socket_mode, on_client,
                           &serve->service, &serve->listeners[i], f)) {
            return false;
        }
        serve->listener_count++;
    }
    return true;
}

static bool make_nonce(struct service *service, struct failure *f)
{
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != sizeof random) {
        return fail(f, EXIT_REFUSED, "no random bytes: %s", strerror(errno));
    }
    snprintf(service->nonce, sizeof service->nonce, "%016llx", (unsigned long long)random);
    return true;
}

/* Two descriptors a session, and some for the process itself. */
static void raise_file_limit(const struct config *config)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)config->max_client_conn * 2 + 128;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) {
        return;
    }
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur < wanted) {
        log_warning("max_client_conn = %u needs %llu file descriptors, the limit is %llu",
                    config->max_client_conn, (unsigned long long)wanted,
                    (unsigned long long)limit.rlim_cur);
    }
}

SSL *service_accept_tls(struct service *service, int fd)
{
    uv_mutex_lock(&service->tls_lock);
    SSL *tls = service->client_tls != NULL ? tls_accept(service->client_tls, fd) : NULL;
    uv_mutex_unlock(&service->tls_lock);
    return tls;
}

static bool open_tls(struct service *service, struct failure *f)
{
    uv_mutex_init(&service->tls_lock);
    return tls_accept_context(&service_config(service)->client_tls, &service->client_tls, f);
}

static bool open_service(struct service *service, struct failure *f)
{
    const struct config *config = service_config(service);
    int timeout = (int)config->server_connect_timeout_ms;
    service->registry = registry_new();
    service->limits = limits_new();
    service->board = board_new();
    if (service->registry == NULL || service->limits == NULL || service->board == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    return make_nonce(service, f) && open_tls(service, f) &&
           upstream_new(config, &service->upstream, f) &&
           upstream_reachable(service->upstream, timeout > 0 ? timeout : -1, f) &&
           hosts_open(config, service->upstream, &service->hosts, f) &&
           secrets_open(config, &service->secrets, f) &&
           catalog_open(config, &service->catalog, f) && open_gates(service, f) &&
           audit_open(config->audit, config->audit_fsync, &service->audit, f);
}

static void watch_signal(struct serve *serve, uv_signal_t *handle, int number)
{
    uv_signal_init(&serve->loop, handle);
    handle->data = serve;
    uv_signal_start(handle, on_signal, number);
}

static void announce(const struct config *config)
{
    char name[256];
    for (size_t i = 0; i < config->listen_count; i++) {
        listener_name(&config->listen[i], name, sizeof name);
        log_info("listening on %s", name);
    }
    log_info("pgsluice %s is ready: %u workers, %zu rules", PGSLUICE_VERSION, config->workers,
             config->rule_count);
}

/* All but the first, which is the caller's. */
static void free_reloaded(struct service *service)
{
    struct config *config = service_config(service);
    while (config->older != NULL) {
        struct config *older = config->older;
        config_free(config);
        config = older;
    }
}

static void close_service(struct service *service)
{
    secrets_stop(service->secrets);
    post_all(service, MAIL_STOP);
    for (unsigned i = 0; i < service->worker_count; i++) {
        worker_join(service->workers[i]);
    }
    for (unsigned i = 0; i < service->worker_count; i++) {
        worker_free(service->workers[i]);
    }
    free(service->workers);
    audit_close(service->audit);
    if (service->catalog != NULL) {
        catalog_close(service->catalog);
    }
    for (size_t i = 0; service->gates != NULL && i < service_config(service)->rule_count; i++) {
        gate_free(service->gates[i]);
    }
    free(service->gates);
    free_reloaded(service);
    SSL_CTX_free(service->client_tls);
    secrets_close(service->secrets);
    hosts_close(service->hosts);
    upstream_free(service->upstream);
    registry_free(service->registry);
    limits_free(service->limits);
    board_free(service->board);
}

enum exit_code serve_run(struct config *config)
{
    struct serve serve = {0};
    atomic_init(&serve.service.config, config);
    struct failure f = {.code = EXIT_REFUSED};
    signal(SIGPIPE, SIG_IGN);
    /* a parse takes and gives back some hundred kilobytes: not from and to the kernel each time */
    mallopt(M_TOP_PAD, HEAP_SLACK);
    mallopt(M_TRIM_THRESHOLD, 2 * HEAP_SLACK);
    mallopt(M_MMAP_THRESHOLD, HEAP_PIECE);
    uv_loop_init(&serve.loop);
    watch_signal(&serve, &serve.term, SIGTERM);
    watch_signal(&serve, &serve.interrupt, SIGINT);
    watch_signal(&serve, &serve.hangup, SIGHUP);
    uv_timer_init(&serve.loop, &serve.drain);
    serve.drain.data = &serve;

    bool ok = open_service(&serve.service, &f) && open_workers(&serve.service, &f) &&
              open_listeners(&serve, &f) &&
              admin_open(&serve.service, &serve.loop, &serve.admin, &f);
    if (ok) {
        raise_file_limit(config);
        announce(config);
    } else {
        log_error("%s", f.msg);
        finish(&serve);
    }
    uv_run(&serve.loop, UV_RUN_DEFAULT);
    close_service(&serve.service);
    free(serve.listeners);
    uv_loop_close(&serve.loop);
    if (ok) {
        log_info("pgsluice has stopped");
    }
    return ok ? EXIT_DONE : f.code;
}
