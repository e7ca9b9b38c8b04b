/*
 * SIGHUP: the configuration file is read again next to the one in force, and takes its place only
 * if all of it is good.
 */
#pragma once

#include "proxy/failure.h"
#include "proxy/service.h"

/* Puts the file's modes, limits, timeouts and certificates in force. What sockets, threads and
 * gates were made from (addresses, server, control, workers, audit, the rules' tables) needs a
 * restart: a file that changes one of these is refused, and everything stays as it was. Main loop
 * only. */
MUST_CHECK bool reload_config(struct service *service, struct failure *f);
