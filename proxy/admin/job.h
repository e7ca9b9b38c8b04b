/*
 * A cutover, rollback or finish under way: one thread, one at a time in a process. Its progress and
 * result are lines of JSON that the admin server takes on the main loop.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <uv.h>

#include "proxy/cutover/cutover.h"
#include "proxy/failure.h"
#include "proxy/service.h"

enum job_kind { JOB_CUTOVER, JOB_ROLLBACK, JOB_FINISH };

const char *job_name(enum job_kind kind); /* the command */

struct job;

/* Starts the thread. `on_news` runs on `loop` whenever lines wait, and once more when it has ended.
 */
MUST_CHECK bool job_start(struct service *service, uv_loop_t *loop, enum job_kind kind, size_t rule,
                          const struct cutover_options *options, void (*on_news)(void *arg),
                          void *arg, struct job **out, struct failure *f);
void job_abort(struct job *job);
/* Copying and comparing rest, and no flip begins, until it is resumed. */
void job_pause(struct job *job, bool paused);
size_t job_rule(const struct job *job);
/* The next line (heap, ends with a newline), or NULL. */
char *job_line(struct job *job);
bool job_has_ended(struct job *job);
/* What it is doing, for `status`: a new object. */
json_t *job_status(struct job *job);
/* What became of it, once it has ended: {"command", "rule", "exit", "summary", "time"}, the
 * caller's; NULL before, or when out of memory. */
json_t *job_result(struct job *job);
/* Joins the thread; freed when the loop has let go of it. */
void job_free(struct job *job);
