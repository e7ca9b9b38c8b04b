/*
 * The command line's side of the admin socket: one request, its progress events, its result.
 */
#pragma once

#include <jansson.h>

#include "proxy/config.h"
#include "proxy/failure.h"

/* Asks the running proxy, over the first admin address of `config`. Calls `on_event` (may be NULL)
 * for each progress event, borrowed. Ctrl-C asks the proxy to abort and goes on waiting for the
 * result; a second one gives up. *result is the caller's (json_decref). False: no proxy is
 * listening, or it went away before the result came (then f->code is EXIT_UNKNOWN). */
MUST_CHECK bool admin_call(const struct config *config, const json_t *request,
                           void (*on_event)(void *arg, const json_t *event), void *arg,
                           json_t **result, struct failure *f);
