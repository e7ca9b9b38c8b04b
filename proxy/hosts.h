/*
 * What the servers of `server` are: a thread for each asks it every second on a control connection,
 * and notes in the upstream whether it takes writes or is a standby, by which target_session_attrs
 * chooses.
 */
#pragma once

#include "proxy/config.h"
#include "proxy/failure.h"
#include "proxy/net/upstream.h"

struct hosts;

/* Starts asking and waits until each host has answered or failed once. NULL in *out when
 * target_session_attrs is any. `upstream` is borrowed until hosts_close(). */
MUST_CHECK bool hosts_open(const struct config *config, struct upstream *upstream,
                           struct hosts **out, struct failure *f);
void hosts_close(struct hosts *hosts); /* NULL is allowed */
/* A connection to a host failed: all are asked now. Returns at once; any thread; NULL is allowed.
 */
void hosts_ask(struct hosts *hosts);
