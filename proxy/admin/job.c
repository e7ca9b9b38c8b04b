/* The thread of a cutover or rollback, and the lines it leaves for the main loop; see job.h. */
#include "proxy/admin/job.h"

#include <stdio.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/admin/board.h"
#include "proxy/log.h"
#include <utlist.h>

struct line {
    struct line *next;
    char *text;
};

struct job {
    struct service *service;
    enum job_kind kind;
    size_t rule;
    struct cutover_options options;
    void (*on_news)(void *arg);
    void *arg;
    uv_thread_t thread;
    uv_async_t news;
    uv_mutex_t lock; /* of what follows */
    struct line *lines;
    char phase[32];
    char text[256];
    double done;
    json_t *result; /* what `status` tells afterwards */
    _Atomic bool aborted;
    _Atomic bool paused;
    _Atomic bool ended;
};

static const char *const strategy_names[] = {
    [CUTOVER_AUTO] = "auto", [CUTOVER_INPLACE] = "inplace", [CUTOVER_SWAP] = "swap"};
static const char *const kind_names[] = {
    [JOB_CUTOVER] = "cutover", [JOB_ROLLBACK] = "rollback", [JOB_FINISH] = "finish"};

/* What the thread runs; see cutover.h. */
typedef enum exit_code (*job_command)(const struct config *config, const struct config_rule *rule,
                                      const struct cutover_options *options,
                                      const struct cutover_host *host, json_t **report);
static const job_command kind_commands[] = {
    [JOB_CUTOVER] = cutover_run, [JOB_ROLLBACK] = cutover_rollback, [JOB_FINISH] = cutover_finish};

const char *job_name(enum job_kind kind)
{
    return kind_names[kind];
}

/* Takes `value`. */
static void put_line(struct job *job, json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT);
    json_decref(value);
    struct line *line = calloc(1, sizeof *line);
    size_t len = text == NULL ? 0 : strlen(text);
    char *with_newline = text == NULL ? NULL : realloc(text, len + 2);
    if (line == NULL || with_newline == NULL) {
        free(line);
        free(with_newline != NULL ? with_newline : text);
        return;
    }
    memcpy(with_newline + len, "\n", 2);
    line->text = with_newline;
    uv_mutex_lock(&job->lock);
    LL_APPEND(job->lines, line);
    uv_mutex_unlock(&job->lock);
    uv_async_send(&job->news);
}

static void on_progress(void *arg, const char *phase, const char *text, double done)
{
    struct job *job = arg;
    uv_mutex_lock(&job->lock);
    snprintf(job->phase, sizeof job->phase, "%s", phase);
    snprintf(job->text, sizeof job->text, "%s", text);
    job->done = done;
    uv_mutex_unlock(&job->lock);
    board_progress(job->service->board, phase, text, done);
    log_info("%s of \"%s\": %s: %s", kind_names[job->kind],
             service_config(job->service)->rules[job->rule].name, phase, text);
    put_line(job, json_pack("{s:s, s:s, s:s, s:f}", "event", "progress", "phase", phase, "text",
                            text, "done", done));
}

static bool on_abort_requested(void *arg)
{
    struct job *job = arg;
    return atomic_load_explicit(&job->aborted, memory_order_relaxed);
}

static bool on_is_paused(void *arg)
{
    struct job *job = arg;
    return atomic_load_explicit(&job->paused, memory_order_relaxed);
}

static bool on_expect_move(void *arg, bool expected, struct failure *f)
{
    struct job *job = arg;
    return catalog_expect_move(job->service->catalog, job->rule, expected, f);
}

static bool on_schema_changed(void *arg, struct failure *f)
{
    struct job *job = arg;
    return catalog_refresh(job->service->catalog, f);
}

static bool on_is_proxied(void *arg, int backend_pid)
{
    struct job *job = arg;
    return registry_has_process(job->service->registry, (uint32_t)backend_pid);
}

static void on_step(void *arg, const char *run, const char *step, const char *detail)
{
    struct job *job = arg;
    audit_step(job->service->audit, service_config(job->service)->rules[job->rule].name, run, step,
               detail);
}

static void job_run(void *arg)
{
    struct job *job = arg;
    const struct config *config = service_config(job->service);
    board_begin(job->service->board, kind_names[job->kind], config->rules[job->rule].name,
                strategy_names[job->options.strategy]);
    struct cutover_host host = {
        .arg = job,
        .gate = job->service->gates[job->rule],
        .progress = on_progress,
        .abort_requested = on_abort_requested,
        .is_paused = on_is_paused,
        .expect_move = on_expect_move,
        .schema_changed = on_schema_changed,
        .is_proxied = on_is_proxied,
        .step = on_step,
    };
    json_t *report = NULL;
    enum exit_code code =
        kind_commands[job->kind](config, &config->rules[job->rule], &job->options, &host, &report);
    if (report == NULL) {
        report = json_pack("{s:s, s:i, s:s}", "command", kind_names[job->kind], "exit", (int)code,
                           "summary", "out of memory");
    }
    json_t *result =
        json_pack("{s:s, s:s, s:O, s:O, s:O*}", "command", kind_names[job->kind], "rule",
                  config->rules[job->rule].name, "exit", json_object_get(report, "exit"), "summary",
                  json_object_get(report, "summary"), "time", json_object_get(report, "time"));
    uv_mutex_lock(&job->lock);
    job->result =
        json_deep_copy(result); /* nothing in common with what this thread goes on using */
    uv_mutex_unlock(&job->lock);
    const char *summary = json_string_value(json_object_get(report, "summary"));
    board_end(job->service->board, (int)json_integer_value(json_object_get(report, "exit")),
              summary != NULL ? summary : "");
    json_decref(result);
    put_line(job, json_pack("{s:o}", "result", report));
    atomic_store(&job->ended, true);
    uv_async_send(&job->news);
}

static void on_async(uv_async_t *async)
{
    struct job *job = async->data;
    job->on_news(job->arg);
}

char *job_line(struct job *job)
{
    uv_mutex_lock(&job->lock);
    struct line *line = job->lines;
    if (line != NULL) {
        LL_DELETE(job->lines, line);
    }
    uv_mutex_unlock(&job->lock);
    char *text = line == NULL ? NULL : line->text;
    free(line);
    return text;
}

static void on_closed(uv_handle_t *handle)
{
    struct job *job = handle->data;
    char *text;
    while ((text = job_line(job)) != NULL) {
        free(text);
    }
    uv_mutex_destroy(&job->lock);
    json_decref(job->result);
    free(job);
}

bool job_start(struct service *service, uv_loop_t *loop, enum job_kind kind, size_t rule,
               const struct cutover_options *options, void (*on_news)(void *arg), void *arg,
               struct job **out, struct failure *f)
{
    struct job *job = calloc(1, sizeof *job);
    *out = NULL;
    if (job == NULL) {
        return fail(f, EXIT_REFUSED, "out of memory");
    }
    job->service = service;
    job->kind = kind;
    job->rule = rule;
    job->options = *options;
    job->on_news = on_news;
    job->arg = arg;
    uv_mutex_init(&job->lock);
    uv_async_init(loop, &job->news, on_async);
    job->news.data = job;
    if (uv_thread_create(&job->thread, job_run, job) != 0) {
        uv_close((uv_handle_t *)&job->news, on_closed);
        return fail(f, EXIT_REFUSED, "cannot start a thread");
    }
    *out = job;
    return true;
}

void job_abort(struct job *job)
{
    atomic_store(&job->aborted, true);
}

void job_pause(struct job *job, bool paused)
{
    atomic_store(&job->paused, paused);
}

size_t job_rule(const struct job *job)
{
    return job->rule;
}

bool job_has_ended(struct job *job)
{
    return atomic_load(&job->ended);
}

json_t *job_status(struct job *job)
{
    uv_mutex_lock(&job->lock);
    json_t *status =
        json_pack("{s:s, s:s, s:s, s:s, s:f, s:b}", "command", kind_names[job->kind], "rule",
                  service_config(job->service)->rules[job->rule].name, "phase", job->phase, "text",
                  job->text, "done", job->done, "paused", (int)atomic_load(&job->paused));
    uv_mutex_unlock(&job->lock);
    return status;
}

json_t *job_result(struct job *job)
{
    uv_mutex_lock(&job->lock);
    json_t *result = json_incref(job->result);
    uv_mutex_unlock(&job->lock);
    return result;
}

void job_free(struct job *job)
{
    uv_thread_join(&job->thread);
    uv_close((uv_handle_t *)&job->news, on_closed);
}
