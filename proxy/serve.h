/*
 * `pgsluice serve`: the serving process, from the open sockets to the drain.
 */
#pragma once

#include "proxy/config.h"
#include "proxy/failure.h"

/* Runs until SIGTERM (drains: sessions end at their next transaction boundary) or SIGINT (at once).
 * Borrows `config`. Prints one line on stderr when it cannot start. */
enum exit_code serve_run(struct config *config);
