/*
 * After DDL that a session of this proxy has carried out, guarded texts wait until the catalog has
 * been read again, some milliseconds: what they mean may depend on the table's columns. The request
 * is made before the client learns that its DDL is done, so that nobody who knows of it is judged
 * by the columns of before. Called by judging.c and the worker's timer.
 */
#include "proxy/session/session.h"

#include "proxy/gate.h"
#include "proxy/service.h"
#include <utlist.h>

enum {
    LOOK_EVERY_MS = 2,
    WAIT_MAX_MS = 1000, /* then it goes by what is known, as while the catalog cannot be read */
};

static bool is_over(const struct session *s, bool is_awaited)
{
    return !is_awaited || gate_now() - s->rereading_ns > WAIT_MAX_MS * UINT64_C(1000000);
}

static void on_look(uv_timer_t *timer)
{
    struct worker *worker = timer->data;
    bool is_awaited = catalog_is_awaited(worker->service->catalog), has_waiting = false;
    struct session *s, *next;
    DL_FOREACH_SAFE(worker->sessions, s, next)
    {
        if (s->wait == SESSION_WAIT_CATALOG && is_over(s, is_awaited)) {
            s->wait = SESSION_WAIT_NONE;
            s->rereading_over = true;
            s->active_ms = uv_now(&worker->loop); /* the server's part begins now */
            session_resume(s);
        }
        has_waiting = has_waiting || s->wait == SESSION_WAIT_CATALOG;
    }
    if (!has_waiting) {
        uv_timer_stop(timer);
    }
}

bool rereading_is_over(struct session *s)
{
    struct worker *worker = s->worker;
    if (s->schema_changed && s->syncs_sent != s->syncs_done && !s->batch_open) {
        s->wait = SESSION_WAIT_BOUNDARY;
        return false;
    }
    if (s->rereading_over || !catalog_is_awaited(worker->service->catalog)) {
        s->rereading_over = false;
        return true;
    }
    s->wait = SESSION_WAIT_CATALOG;
    s->rereading_ns = gate_now();
    if (!uv_is_active((uv_handle_t *)&worker->reread)) {
        uv_timer_start(&worker->reread, on_look, LOOK_EVERY_MS, LOOK_EVERY_MS);
    }
    return false;
}
