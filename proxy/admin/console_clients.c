/*
 * SHOW CLIENTS: a session is its worker's alone, so the list goes from one worker to the next by
 * mail, each adds its own, and the last sends it home, where the console's session is looked for by
 * its number: it may have ended meanwhile.
 */
#include <stdlib.h>
#include <string.h>

#include "protocol/message.h"
#include "proxy/admin/console.h"
#include "proxy/service.h"
#include "proxy/session/session.h"
#include <utlist.h>

#define ROWS_MAX ((size_t)256 * 1024 * 1024)
#define NS_PER_SECOND 1000000000u

struct console_gather {
    uint64_t session; /* the console's */
    unsigned home;    /* its worker */
    unsigned next;    /* the worker whose turn it is; behind the last one: it goes home */
    struct writer rows;
};

static const struct message_column columns[] = {
    {"type", MESSAGE_TEXT},     {"user", MESSAGE_TEXT},
    {"database", MESSAGE_TEXT}, {"state", MESSAGE_TEXT},
    {"addr", MESSAGE_TEXT},     {"wait", MESSAGE_INT8},
    {"wait_us", MESSAGE_INT8},  {"wait_for", MESSAGE_TEXT},
    {"worker", MESSAGE_INT8},   {"id", MESSAGE_INT8},
    {"server", MESSAGE_TEXT},   {"server_pid", MESSAGE_INT8},
    {"tls", MESSAGE_TEXT},      {"application_name", MESSAGE_TEXT},
};

void console_gather_free(struct console_gather *gather)
{
    if (gather != NULL) {
        writer_fini(&gather->rows);
        free(gather);
    }
}

static const char *state_of(const struct session *s)
{
    if (s->state == SESSION_CONSOLE) {
        return "console";
    }
    if (s->state != SESSION_RELAY || s->transaction == 0) {
        return "login";
    }
    if (s->wait == SESSION_WAIT_GATE) {
        return "waiting";
    }
    if (s->syncs_sent != s->syncs_done || s->batch_open || s->wait != SESSION_WAIT_NONE) {
        return "active";
    }
    return s->transaction == 'I' ? "idle" : "idle in transaction";
}

static const char *wait_of(const struct session *s)
{
    static const char *const names[] = {
        [SESSION_WAIT_NONE] = "",           [SESSION_WAIT_BOUNDARY] = "server",
        [SESSION_WAIT_GATE] = "gate",       [SESSION_WAIT_JUDGE] = "parser",
        [SESSION_WAIT_CONSOLE] = "console",
    };
    return names[s->wait];
}

static void write_client(struct writer *w, const struct session *s)
{
    const struct upstream *upstream = session_service(s)->upstream;
    const bool has_server = s->state == SESSION_RELAY || s->state == SESSION_LOGIN;
    const uint64_t waited = s->wait == SESSION_WAIT_GATE ? gate_now() - s->since_ns : 0;
    message_begin_row(w, sizeof columns / sizeof columns[0]);
    message_write_value(w, "C");
    message_write_value(w, s->user != NULL ? s->user : "");
    message_write_value(w, s->database != NULL ? s->database : "");
    message_write_value(w, state_of(s));
    message_write_value(w, s->client_name != NULL ? s->client_name : "");
    message_write_number(w, (int64_t)(waited / NS_PER_SECOND));
    message_write_number(w, (int64_t)(waited % NS_PER_SECOND / 1000));
    message_write_value(w, wait_of(s));
    message_write_number(w, s->worker->index);
    message_write_number(w, (int64_t)s->id);
    message_write_value(w, has_server && stream_is_open(&s->server) ? upstream->hosts[s->host].name
                                                                    : NULL);
    if (s->backend_pid != 0) {
        message_write_number(w, s->backend_pid);
    } else {
        message_write_value(w, NULL);
    }
    message_write_value(w, s->client.tls != NULL ? SSL_get_version(s->client.tls) : "");
    message_write_value(w, s->application_name != NULL ? s->application_name : "");
    writer_end(w);
}

static struct session *find(const struct worker *worker, uint64_t id)
{
    struct session *s;
    DL_FOREACH(worker->sessions, s)
    {
        if (s->id == id) {
            return s;
        }
    }
    return NULL;
}

/* Takes `gather`. */
static bool post(struct service *service, struct console_gather *gather)
{
    const unsigned to = gather->next < service->worker_count ? gather->next : gather->home;
    struct mail *mail = mail_new(MAIL_CLIENTS);
    if (mail == NULL) {
        console_gather_free(gather);
        return false;
    }
    mail->gather = gather;
    worker_post(service->workers[to], mail);
    return true;
}

bool console_gather(struct session *s)
{
    struct console_gather *gather = calloc(1, sizeof *gather);
    if (gather == NULL) {
        return false;
    }
    gather->session = s->id;
    gather->home = s->worker->index;
    writer_init(&gather->rows, ROWS_MAX);
    message_write_columns(&gather->rows, columns, sizeof columns / sizeof columns[0]);
    if (!post(session_service(s), gather)) {
        return false;
    }
    s->wait = SESSION_WAIT_CONSOLE;
    return true;
}

void console_gather_here(struct worker *worker, struct console_gather *gather)
{
    struct service *service = worker->service;
    if (gather->next < service->worker_count) {
        struct session *s;
        DL_FOREACH(worker->sessions, s)
        {
            write_client(&gather->rows, s);
        }
        gather->next++;
        post(service, gather); /* out of memory: the console waits until it is closed */
        return;
    }
    struct session *s = find(worker, gather->session);
    if (s != NULL && s->state == SESSION_CONSOLE) {
        console_gathered(s, &gather->rows);
    }
    console_gather_free(gather);
}
