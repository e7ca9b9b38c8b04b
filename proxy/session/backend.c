/*
 * From the server to the client: walks the headers, notes the few messages that tell of the
 * session's state, rewrites the answer to a refusal, and forwards everything else from where it was
 * received.
 */
#include "proxy/session/session.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/authentication.h"
#include "protocol/frame.h"
#include "protocol/message.h"
#include "proxy/log.h"
#include "proxy/service.h"
#include "proxy/session/copying.h"

static void note_key(struct session *s, const uint8_t *message, size_t size)
{
    size_t len = size - FRAME_HEADER;
    if (len < 8 || len > REGISTRY_KEY_MAX || s->cancel_key != NULL) {
        return;
    }
    s->cancel_key = calloc(1, sizeof *s->cancel_key);
    if (s->cancel_key == NULL) {
        return;
    }
    s->cancel_key->len = (uint16_t)len;
    memcpy(s->cancel_key->bytes, message + FRAME_HEADER, len);
    s->backend_pid = load_u32(message + FRAME_HEADER);
    judging_who_changed(s);
    struct registry_entry entry = {.worker = s->worker->index, .session = s->id, .host = s->host};
    if (!registry_put(session_service(s)->registry, s->cancel_key, &entry)) {
        free(s->cancel_key);
        s->cancel_key = NULL;
    }
}

static void note_ready(struct session *s, char status)
{
    s->transaction = status;
    s->active_ms = uv_now(&s->worker->loop);
    s->copying = s->streaming = false;
    if (s->doubtful > 0 && s->doubtful <= s->syncs_done + 1) {
        s->doubtful = 0;
        s->syncs_done = s->syncs_sent;
    } else if (s->syncs_done < s->syncs_sent) {
        s->syncs_done++;
    }
    worker_add(&s->worker->counters.statements, 1);
    ledger_ready(&s->ledger, s->syncs_done);
    copying_ready(s);
    hold_note_ready(s);
    if (s->schema_changed && status == 'I') {
        s->schema_changed = false;
        catalog_request_refresh(session_service(s)->catalog);
    }
}

/* The server takes CopyData now, and has no eye for a Sync until CopyDone. libpq sends one right
 * behind the Execute of a COPY. */
static void note_copy_in(struct session *s)
{
    if (s->copies_ended > 0) {
        s->copies_ended--;
        return;
    }
    bool by_query = s->last_query == s->syncs_done + 1;
    s->copying = true;
    s->syncs_sent = s->syncs_done + (by_query ? 1 : 0);
    s->batch_open = !by_query;
}

/* True when the error was the answer to a refusal and another one was put in its place. */
static bool rewrite_error(struct session *s, const uint8_t *message, size_t size)
{
    struct message_error error;
    if (!message_read_error(message, size, &error)) {
        return false;
    }
    const char *severity = error.severity_code != NULL ? error.severity_code : error.severity;
    if (severity != NULL && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0)) {
        s->fatal = true;
    }
    if (s->ledger.refusal_count == 0 || error.message == NULL) {
        return false;
    }
    const struct ledger_refusal *refusal =
        ledger_answers(&s->ledger, session_service(s)->nonce, error.message, s->syncs_done + 1);
    if (refusal == NULL) {
        return false;
    }
    error.sqlstate = refusal->sqlstate;
    error.message = refusal->message;
    error.detail = refusal->detail;
    error.hint = refusal->hint;
    error.position = refusal->position[0] != '\0' ? refusal->position : NULL;
    size_t room = 128 + strlen(refusal->message) +
                  (refusal->detail != NULL ? strlen(refusal->detail) : 0) +
                  (refusal->hint != NULL ? strlen(refusal->hint) : 0);
    struct writer *w = batch_build(&s->worker->batch, room);
    if (w != NULL) {
        message_write_error(w, &error);
        batch_built(&s->worker->batch);
    }
    return true;
}

/* What binds a login to TLS names the certificate that one sees: on two connections, two. A client
 * without TLS would not even read an offer that it cannot take. True when another offer was made.
 */
static bool rewrite_offer(struct session *s, const uint8_t *message, size_t size)
{
    struct sasl_offer offer;
    if (s->server.tls == NULL || !authentication_read_sasl(message, size, &offer) || !offer.plus ||
        offer.mechanisms == 1) {
        return false;
    }
    struct writer *w = batch_build(&s->worker->batch, size);
    if (w != NULL) {
        authentication_write_sasl_without_plus(w, message, size);
        batch_built(&s->worker->batch);
    }
    return true;
}

static bool is_noted(uint8_t type)
{
    return type == 'R' || type == 'Z' || type == 'E' || type == 'S' || type == 'K' || type == 'G' ||
           type == 'W';
}

/* Notes a whole message; true when another one was put in its place. */
static bool note_message(struct session *s, const uint8_t *message, size_t size)
{
    struct message_parameter parameter;
    switch (message[0]) {
    case 'Z':
        note_ready(s, size > FRAME_HEADER ? (char)message[FRAME_HEADER] : 'I');
        return false;
    case 'E':
        s->copying = false;
        return rewrite_error(s, message, size);
    case 'S':
        if (message_read_parameter_status(message, size, &parameter)) {
            judging_parameter(s, parameter.name, parameter.value);
        }
        return false;
    case 'R':
        return rewrite_offer(s, message, size);
    case 'K':
        note_key(s, message, size);
        return false;
    case 'G':
        note_copy_in(s);
        return false;
    case 'W':
        s->streaming = true;
        return false;
    default:
        return false;
    }
}

static void send_batch(struct session *s)
{
    struct batch *batch = &s->worker->batch;
    batch_send(batch);
    if (batch->result == STREAM_NO_MEMORY) {
        session_fail(s, "53200", "out of memory");
    } else if (batch->result != STREAM_OK) {
        session_close(s); /* the client is gone */
    } else if (atomic_load_explicit(&session_service(s)->draining, memory_order_relaxed)) {
        session_drain(s);
    }
}

size_t backend_consume(struct session *s, const uint8_t *bytes, size_t len)
{
    struct batch *batch = &s->worker->batch;
    size_t run = 0; /* from here on not yet in the batch */
    size_t at = s->back.body < len ? s->back.body : len;
    s->back.body -= (uint32_t)at;
    batch_start(batch, &s->client);
    while (len - at >= FRAME_HEADER) {
        const uint8_t *message = bytes + at;
        uint32_t length = load_u32(message + 1);
        size_t size = 1 + (size_t)length;
        if (!frame_length_valid(length)) {
            session_fail(s, "08P01", "the server sent a message of invalid length");
            return len;
        }
        /* a message that does not fit the buffer tells nothing that is needed */
        if (!is_noted(message[0]) || size > WORKER_BUFFER) {
            size_t have = size < len - at ? size : len - at;
            s->back.body = (uint32_t)(size - have);
            at += have;
            continue;
        }
        if (len - at < size) {
            s->back.need = size;
            break;
        }
        batch_add(batch, bytes + run, at - run);
        run = at;
        at += size;
        if (note_message(s, message, size)) {
            run = at;
        }
    }
    batch_add(batch, bytes + run, at - run);
    send_batch(s);
    return at;
}
