/*
 * A listening socket on the main loop: accepts and hands each client to a worker.
 */
#pragma once

#include <stdbool.h>
#include <uv.h>

#include "proxy/config.h"
#include "proxy/failure.h"

struct listener;

/* Called for each accepted socket (non-blocking, close-on-exec), which it takes. */
typedef void (*listener_cb)(void *arg, int fd);

/* Binds and listens. A stale unix socket is replaced, one in use is not. A unix socket gets `mode`,
 * unless it is in the abstract namespace (@name), which knows no modes. */
MUST_CHECK bool listener_open(uv_loop_t *loop, const struct config_address *address, unsigned mode,
                              listener_cb on_accept, void *arg, struct listener **out,
                              struct failure *f);
/* Stops listening, removes a unix socket's file; freed when the loop has let go of it. */
void listener_close(struct listener *listener);
/* How an address is written in messages. */
void listener_name(const struct config_address *address, char *room, size_t size);
