/*
 * The admin socket: lines of JSON, a request in, events and a result out, on the main loop.
 *
 *     {"command":"status"}
 *     {"command":"cutover","table":"chunks","strategy":"auto","max_hold_ms":500}
 *     {"command":"rollback","table":"chunks"}
 *     {"command":"pause","table":"chunks"}        the one under way rests; "resume" goes on
 *     {"command":"abort"}                         the cutover or rollback under way
 *     {"command":"hold","table":"chunks","ttl_ms":200}    a drill: the gate alone, no cutover
 *     {"command":"release","table":"chunks"}
 *
 * answered by any number of {"event":...} lines and one {"result":{...,"exit":N,"summary":"..."}}.
 * A client that goes away while its cutover runs aborts it. The socket's file has mode 0600: who
 * may open it may do all this.
 */
#pragma once

#include <uv.h>

#include "proxy/failure.h"
#include "proxy/service.h"

struct admin;

MUST_CHECK bool admin_open(struct service *service, uv_loop_t *loop, struct admin **out,
                           struct failure *f);
/* Aborts what is under way, waits for it, closes; freed when the loop has let go of it. */
void admin_close(struct admin *admin);
