/*
 * The thread that lets old tables follow in their bake time, for all rules of the process, one
 * after the other; see proxy/cutover/bake.h. It stands back while a command runs on the same table.
 */
#pragma once

#include <stddef.h>
#include <uv.h>

#include "proxy/failure.h"
#include "proxy/service.h"

struct follower;

/* Starts the thread; *out is NULL where there are no rules. `on_over` runs on `loop` for a rule
 * whose bake time has ended, again and again until the swap is finished. */
MUST_CHECK bool follower_open(struct service *service, uv_loop_t *loop,
                              void (*on_over)(void *arg, size_t rule), void *arg,
                              struct follower **out, struct failure *f);
/* A command is about to run on the table of `rule`: what the thread does there is aborted. */
void follower_stand_back(struct follower *follower, size_t rule);
/* The command has ended: the thread looks at once what it has left. */
void follower_go_on(struct follower *follower);
/* Ends the thread; freed when the loop has let go of it. NULL is allowed, as above. */
void follower_close(struct follower *follower);
