/* Requests on the admin socket; see server.h. */
#include "proxy/admin/server.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proxy/admin/follower.h"
#include "proxy/admin/job.h"
#include "proxy/admin/status.h"
#include "proxy/log.h"
#include "proxy/net/listener.h"
#include <utlist.h>

#define REQUEST_MAX ((size_t)64 * 1024)
#define DEFAULT_MAX_HOLD_MS 500

struct client {
    struct client *prev, *next;
    struct admin *admin;
    uv_pipe_t pipe;
    char request[REQUEST_MAX];
    size_t len;
    bool closing;
};

struct admin {
    struct service *service;
    uv_loop_t *loop;
    struct listener *listeners[8];
    size_t listener_count;
    struct client *clients;
    struct follower *follower;
    struct job *job;
    struct client *job_owner; /* who is told; NULL when it went away, or nobody asked */
    json_t *last;             /* the result of the one before; NULL: there was none */
};

static void on_client_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void client_close(struct client *client)
{
    struct admin *admin = client->admin;
    if (client->closing) {
        return;
    }
    client->closing = true;
    if (admin->job_owner == client) {
        admin->job_owner = NULL;
        job_abort(admin->job);
    }
    DL_DELETE(admin->clients, client);
    uv_close((uv_handle_t *)&client->pipe, on_client_closed);
}

static void on_written(uv_write_t *request, int status)
{
    (void)status;
    free(request->data);
    free(request);
}

/* Takes `text`. */
static void client_send(struct client *client, char *text)
{
    uv_write_t *request = calloc(1, sizeof *request);
    if (request == NULL || text == NULL) {
        free(request);
        free(text);
        client_close(client);
        return;
    }
    request->data = text;
    uv_buf_t buffer = uv_buf_init(text, (unsigned)strlen(text));
    if (uv_write(request, (uv_stream_t *)&client->pipe, &buffer, 1, on_written) != 0) {
        free(text);
        free(request);
        client_close(client);
    }
}

/* Takes `report`. */
static void client_result(struct client *client, json_t *report)
{
    json_t *line = json_pack("{s:o}", "result", report);
    char *text = json_dumps(line, JSON_COMPACT);
    json_decref(line);
    size_t len = text == NULL ? 0 : strlen(text);
    char *grown = text == NULL ? NULL : realloc(text, len + 2);
    if (grown != NULL) {
        memcpy(grown + len, "\n", 2);
    }
    client_send(client, grown);
}

static void client_refuse(struct client *client, const char *command, const struct failure *f)
{
    client_result(client, json_pack("{s:s, s:i, s:s}", "command", command, "exit", (int)f->code,
                                    "summary", f->msg));
}

/* --- commands --- */

static void on_job_news(void *arg)
{
    struct admin *admin = arg;
    if (admin->job == NULL) {
        return;
    }
    bool ended = job_has_ended(admin->job);
    char *text;
    while ((text = job_line(admin->job)) != NULL) {
        if (admin->job_owner != NULL) {
            client_send(admin->job_owner, text);
        } else {
            free(text);
        }
    }
    if (ended) {
        admin->job_owner = NULL;
        json_decref(admin->last);
        admin->last = job_result(admin->job);
        job_free(admin->job);
        admin->job = NULL;
        follower_go_on(admin->follower);
    }
}

static bool start_job(struct admin *admin, enum job_kind kind, size_t rule,
                      const struct cutover_options *options, struct failure *f)
{
    follower_stand_back(admin->follower, rule);
    bool ok = job_start(admin->service, admin->loop, kind, rule, options, on_job_news, admin,
                        &admin->job, f);
    if (!ok) {
        follower_go_on(admin->follower);
    }
    return ok;
}

/* The bake time of a swap is over. While another command runs, the follower says so again. */
static void on_baked(void *arg, size_t rule)
{
    struct admin *admin = arg;
    struct cutover_options options = {.max_hold_ms = DEFAULT_MAX_HOLD_MS, .when_baked = true};
    struct failure f;
    if (admin->job == NULL && !start_job(admin, JOB_FINISH, rule, &options, &f)) {
        log_error("the end of a bake time: %s", f.msg);
    }
}

static void run_status(struct client *client)
{
    struct admin *admin = client->admin;
    json_t *report = status_report(admin->service);
    json_object_set_new(report, "exit", json_integer(EXIT_DONE));
    json_object_set_new(report, "cutover",
                        admin->job == NULL ? json_null() : job_status(admin->job));
    json_object_set(report, "last_cutover", admin->last != NULL ? admin->last : json_null());
    client_result(client, report);
}

/* The server processes of this proxy's sessions: by them `plan` tells whose a session is. */
static void run_processes(struct client *client)
{
    struct service *service = client->admin->service;
    size_t most = atomic_load(&service->clients);
    uint32_t *pids = calloc(most + 1, sizeof *pids);
    json_t *list = json_array();
    size_t count = pids != NULL ? registry_processes(service->registry, pids, most) : 0;
    for (size_t i = 0; i < count; i++) {
        (void)json_array_append_new(list, json_integer((json_int_t)pids[i]));
    }
    free(pids);
    client_result(client, json_pack("{s:s, s:i, s:o}", "command", "processes", "exit", EXIT_DONE,
                                    "processes", list));
}

static void run_job(struct client *client, enum job_kind kind, const json_t *request)
{
    struct admin *admin = client->admin;
    const struct config *config = service_config(admin->service);
    const char *command = job_name(kind);
    const char *table = json_string_value(json_object_get(request, "table"));
    struct failure f;
    if (admin->job != NULL) {
        fail(&f, EXIT_REFUSED, "another cutover, rollback or finish is under way");
        client_refuse(client, command, &f);
        return;
    }
    const struct config_rule *rule = config_find_rule(config, table != NULL ? table : "", &f);
    if (rule == NULL) {
        client_refuse(client, command, &f);
        return;
    }
    const char *strategy = json_string_value(json_object_get(request, "strategy"));
    json_int_t max_hold = json_integer_value(json_object_get(request, "max_hold_ms"));
    json_int_t pause = json_integer_value(json_object_get(request, "pause_ms"));
    json_int_t max_write = json_integer_value(json_object_get(request, "max_write_ms"));
    json_int_t bake = json_integer_value(json_object_get(request, "bake_ms"));
    struct cutover_options options = {
        .strategy = strategy != NULL && strcmp(strategy, "inplace") == 0 ? CUTOVER_INPLACE
                    : strategy != NULL && strcmp(strategy, "swap") == 0  ? CUTOVER_SWAP
                                                                         : CUTOVER_AUTO,
        .pause_ms = pause > 0 ? (uint64_t)pause : 0,
        .max_write_ms = max_write > 0 ? (uint64_t)max_write : 0,
        .bake_ms = bake > 0 ? (uint64_t)bake : 0,
        .max_hold_ms = max_hold > 0 ? (uint64_t)max_hold : DEFAULT_MAX_HOLD_MS,
        .measure = json_is_true(json_object_get(request, "measure")),
    };
    if (!start_job(admin, kind, (size_t)(rule - config->rules), &options, &f)) {
        client_refuse(client, command, &f);
        return;
    }
    admin->job_owner = client;
}

/* pause, resume, abort: of what is under way for the table, whoever began it. */
static void run_steering(struct client *client, const char *command, const json_t *request)
{
    struct admin *admin = client->admin;
    const struct config *config = service_config(admin->service);
    const char *table = json_string_value(json_object_get(request, "table"));
    const char *summary = "resumed";
    struct failure f;
    const struct config_rule *rule = config_find_rule(config, table != NULL ? table : "", &f);
    if (rule != NULL &&
        (admin->job == NULL || job_rule(admin->job) != (size_t)(rule - config->rules))) {
        fail(&f, EXIT_REFUSED, "no cutover, rollback or finish of %s is under way at this proxy",
             rule->name);
        rule = NULL;
    }
    if (rule == NULL) {
        client_refuse(client, command, &f);
        return;
    }
    if (strcmp(command, "abort") == 0) {
        job_abort(admin->job);
        summary = "abort requested: what is under way ends as by Ctrl-C";
    } else {
        bool paused = strcmp(command, "pause") == 0;
        job_pause(admin->job, paused);
        summary = paused ? "paused: changes are followed, copying and comparing rest, no flip "
                           "begins"
                         : summary;
    }
    log_info("%s of \"%s\": asked for by an operator", command, rule->name);
    client_result(client, json_pack("{s:s, s:s, s:i, s:s}", "command", command, "rule", rule->name,
                                    "exit", EXIT_DONE, "summary", summary));
}

/* Ctrl-C at the command that began it; the answer is the command's own. */
static void run_interrupt(struct client *client)
{
    struct admin *admin = client->admin;
    if (admin->job != NULL && admin->job_owner == client) {
        job_abort(admin->job);
    } else {
        client_result(client, json_pack("{s:s, s:i, s:s}", "command", "abort", "exit", EXIT_DONE,
                                        "summary", "nothing is under way"));
    }
}

/* What a cutover does to writers, without one: for drills and tests. */
static void run_drill(struct client *client, const char *command, const json_t *request)
{
    struct admin *admin = client->admin;
    const struct config *config = service_config(admin->service);
    const char *table = json_string_value(json_object_get(request, "table"));
    json_int_t ttl = json_integer_value(json_object_get(request, "ttl_ms"));
    struct failure f;
    const struct config_rule *rule = config_find_rule(config, table != NULL ? table : "", &f);
    if (rule != NULL && admin->job != NULL) {
        rule = NULL;
        fail(&f, EXIT_REFUSED, "a cutover, rollback or finish is under way");
    }
    if (rule == NULL) {
        client_refuse(client, command, &f);
        return;
    }
    struct gate *gate = admin->service->gates[rule - config->rules];
    if (strcmp(command, "hold") == 0) {
        uint64_t ttl_ms =
            ttl > 0 && (uint64_t)ttl < config->hold_ttl_ms ? (uint64_t)ttl : config->hold_ttl_ms;
        gate_hold(gate, ttl_ms * 1000000u);
    } else {
        gate_open(gate);
    }
    client_result(client, json_pack("{s:s, s:i, s:s}", "command", command, "exit", EXIT_DONE,
                                    "summary", gate_name(gate)));
}

static void run_request(struct client *client, const char *text, size_t len)
{
    json_t *request = json_loadb(text, len, 0, NULL);
    const char *command = json_string_value(json_object_get(request, "command"));
    struct failure f;
    if (command == NULL) {
        fail(&f, EXIT_USAGE, "a request is one line of JSON with a member \"command\"");
        client_refuse(client, "", &f);
    } else if (strcmp(command, "status") == 0) {
        run_status(client);
    } else if (strcmp(command, "processes") == 0) {
        run_processes(client);
    } else if (strcmp(command, "cutover") == 0) {
        run_job(client, JOB_CUTOVER, request);
    } else if (strcmp(command, "rollback") == 0) {
        run_job(client, JOB_ROLLBACK, request);
    } else if (strcmp(command, "finish") == 0) {
        run_job(client, JOB_FINISH, request);
    } else if (strcmp(command, "abort") == 0 && json_object_get(request, "table") == NULL) {
        run_interrupt(client);
    } else if (strcmp(command, "pause") == 0 || strcmp(command, "resume") == 0 ||
               strcmp(command, "abort") == 0) {
        run_steering(client, command, request);
    } else if (strcmp(command, "hold") == 0 || strcmp(command, "release") == 0) {
        run_drill(client, command, request);
    } else {
        fail(&f, EXIT_USAGE, "unknown command \"%s\"", command);
        client_refuse(client, command, &f);
    }
    json_decref(request);
}

/* --- the socket --- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    struct client *client = handle->data;
    (void)suggested;
    *buffer = uv_buf_init(client->request + client->len, (unsigned)(REQUEST_MAX - client->len));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer)
{
    struct client *client = stream->data;
    (void)buffer;
    if (n < 0) {
        client_close(client);
        return;
    }
    client->len += (size_t)n;
    char *end;
    while (!client->closing && client->len > 0 &&
           (end = memchr(client->request, '\n', client->len)) != NULL) {
        size_t size = (size_t)(end - client->request);
        run_request(client, client->request, size);
        client->len -= size + 1;
        memmove(client->request, end + 1, client->len);
    }
    if (client->len == REQUEST_MAX) {
        client_close(client);
    }
}

static void on_accept(void *arg, int fd)
{
    struct admin *admin = arg;
    struct client *client = calloc(1, sizeof *client);
    if (client == NULL || uv_pipe_init(admin->loop, &client->pipe, 0) != 0) {
        free(client);
        close(fd);
        return;
    }
    client->admin = admin;
    client->pipe.data = client;
    DL_APPEND(admin->clients, client);
    if (uv_pipe_open(&client->pipe, fd) != 0) {
        close(fd);
        client_close(client);
        return;
    }
    uv_read_start((uv_stream_t *)&client->pipe, on_alloc, on_read);
}

bool admin_open(struct service *service, uv_loop_t *loop, struct admin **out, struct failure *f)
{
    const struct config *config = service_config(service);
    struct admin *admin = calloc(1, sizeof *admin);
    *out = admin;
    if (admin == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    admin->service = service;
    admin->loop = loop;
    size_t most = sizeof admin->listeners / sizeof admin->listeners[0];
    if (config->admin_count > most) {
        return fail(f, EXIT_USAGE, "%s: admin: more than %zu addresses", config->file, most);
    }
    for (size_t i = 0; i < config->admin_count; i++) {
        if (!listener_open(loop, &config->admin[i], 0600, on_accept, admin, &admin->listeners[i],
                           f)) {
            return false;
        }
        admin->listener_count++;
    }
    return follower_open(service, loop, on_baked, admin, &admin->follower, f);
}

void admin_close(struct admin *admin)
{
    if (admin == NULL) {
        return;
    }
    for (size_t i = 0; i < admin->listener_count; i++) {
        listener_close(admin->listeners[i]);
    }
    follower_close(admin->follower);
    if (admin->job != NULL) {
        job_abort(admin->job);
        job_free(admin->job);
        admin->job = NULL;
        admin->job_owner = NULL;
    }
    struct client *client, *next;
    DL_FOREACH_SAFE(admin->clients, client, next)
    {
        client_close(client);
    }
    json_decref(admin->last);
    free(admin);
}
