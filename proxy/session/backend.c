/*
 * From the server to the client: walks the headers, notes the few messages that tell of the
 * session's state, rewrites the answer to a refusal, and forwards everything else from where it was
 * received.
 */
#include "proxy/session/session.h"

#include <inttypes.h>
#include <stdio.h>
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
    s->batch_answered = 0;
    if (s->doubtful > 0 && s->doubtful <= s->syncs_done + 1) {
        s->answers_shifted = true;
        ledger_skip(&s->ledger, s->doubtful, s->syncs_sent);
        s->doubtful = 0;
        s->syncs_done = s->syncs_sent;
    } else if (s->syncs_done < s->syncs_sent) {
        s->syncs_done++;
    }
    worker_add(&s->worker->counters.statements, 1);
    ledger_ready(&s->ledger, s->syncs_done);
    copying_ready(s);
    hold_note_ready(s);
    settings_ready(s);
    if (s->schema_changed && status == 'I') {
        s->schema_changed = s->columns_change = false;
        catalog_request_refresh(session_service(s)->catalog);
    }
}

/* The tags of what ends every statement that has a name. */
static bool is_deallocation(const uint8_t *message, size_t size)
{
    static const char deallocate_all[] = "DEALLOCATE ALL", discard_all[] = "DISCARD ALL";
    const uint8_t *tag = message + FRAME_HEADER;
    return (size == FRAME_HEADER + sizeof deallocate_all &&
            memcmp(tag, deallocate_all, sizeof deallocate_all) == 0) ||
           (size == FRAME_HEADER + sizeof discard_all &&
            memcmp(tag, discard_all, sizeof discard_all) == 0);
}

static bool may_be_deallocation(const struct session *s, uint8_t type, size_t size)
{
    return type == 'C' && !ledger_is_empty(&s->ledger) &&
           (size == FRAME_HEADER + sizeof "DEALLOCATE ALL" ||
            size == FRAME_HEADER + sizeof "DISCARD ALL");
}

/* The next answer is to a message that was not the client's. */
static bool is_own_answer(struct session *s)
{
    return ledger_has_own(&s->ledger) &&
           ledger_is_own(&s->ledger, s->syncs_done + 1, s->batch_answered);
}

static void note_own_answer(struct session *s)
{
    s->batch_answered++;
    ledger_answered(&s->ledger, s->syncs_done + 1, s->batch_answered);
}

static void note_command(struct session *s, const uint8_t *message, size_t size)
{
    if (is_deallocation(message, size)) {
        ledger_answered(&s->ledger, s->syncs_done + 1, s->batch_answered);
        ledger_deallocated(&s->ledger);
    }
    s->batch_answered++;
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
    ledger_recount(&s->ledger, s->syncs_sent);
}

/* A position in an edited text becomes the one in the client's, or goes. True when another message
 * was put in the place of this one. */
static bool move_position(struct session *s, const uint8_t *message, size_t size,
                          const char *position)
{
    const uint64_t sync = s->syncs_done + 1;
    if (position == NULL || !ledger_has_places(&s->ledger, sync)) {
        return false;
    }
    const struct position_map *map = ledger_placed(&s->ledger, sync, s->batch_answered);
    if (map == NULL) {
        return false;
    }
    char text[12];
    const uint32_t moved = position_map_find(map, (uint32_t)strtoul(position, NULL, 10));
    snprintf(text, sizeof text, "%" PRIu32, moved);
    struct writer *w = batch_build(&s->worker->batch, size + sizeof text);
    if (w != NULL) {
        message_write_moved(w, message, size, moved > 0 ? text : NULL);
        batch_built(&s->worker->batch);
    }
    return true;
}

static bool move_notice(struct session *s, const uint8_t *message, size_t size)
{
    struct message_error notice;
    return message_read_error(message, size, &notice) &&
           move_position(s, message, size, notice.position);
}

/* The answer to a refusal becomes the refusal. True when another message was put in its place. */
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
    const struct ledger_refusal *refusal =
        s->ledger.refusal_count == 0 || error.message == NULL
            ? NULL
            : ledger_answers(&s->ledger, session_service(s)->nonce, error.message,
                             s->syncs_done + 1);
    if (refusal == NULL) {
        return move_position(s, message, size, error.position);
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

/* Twice the longest text that is judged. */
enum { COMPLAINT_MAX = 32 * 1024 * 1024 };

static bool is_placed(const struct session *s)
{
    return ledger_has_places(&s->ledger, s->syncs_done + 1);
}

enum interest {
    INTEREST_NONE,
    INTEREST_NOTED,
    INTEREST_PLACED, /* noted while a text on its way is not the client's */
    INTEREST_ANSWER, /* ends what the server does about one message; counted */
};

static enum interest interest_in(uint8_t type)
{
    static const uint8_t interests[UINT8_MAX + 1] = {
        ['R'] = INTEREST_NOTED,  ['Z'] = INTEREST_NOTED,  ['E'] = INTEREST_NOTED,
        ['S'] = INTEREST_NOTED,  ['K'] = INTEREST_NOTED,  ['G'] = INTEREST_NOTED,
        ['W'] = INTEREST_NOTED,  ['N'] = INTEREST_PLACED, ['1'] = INTEREST_ANSWER,
        ['2'] = INTEREST_ANSWER, ['3'] = INTEREST_ANSWER, ['n'] = INTEREST_ANSWER,
        ['T'] = INTEREST_ANSWER, ['C'] = INTEREST_ANSWER, ['I'] = INTEREST_ANSWER,
        ['s'] = INTEREST_ANSWER,
    };
    return interests[type];
}

/* Whether the message must be whole before it is passed on. One that does not fit the buffer tells
 * nothing that is needed, unless it is a complaint about an edited text, of which it may quote
 * much. */
static bool is_noted(struct session *s, uint8_t type, size_t size)
{
    switch (interest_in(type)) {
    case INTEREST_NOTED:
        return size <= WORKER_BUFFER || (type == 'E' && size <= COMPLAINT_MAX && is_placed(s));
    case INTEREST_PLACED:
        return size <= COMPLAINT_MAX && is_placed(s);
    case INTEREST_ANSWER:
        return may_be_deallocation(s, type, size) || is_own_answer(s);
    case INTEREST_NONE:
        break;
    }
    return false;
}

/* Notes a whole message; true when it does not go on as it is. */
static bool note_message(struct session *s, const uint8_t *message, size_t size)
{
    struct message_parameter parameter;
    switch (message[0]) {
    case 'Z':
        note_ready(s, size > FRAME_HEADER ? (char)message[FRAME_HEADER] : 'I');
        return false;
    case 'E':
        s->copying = false;
        ledger_failed(&s->ledger, s->syncs_done + 1, s->batch_answered);
        return rewrite_error(s, message, size);
    case 'N':
        return move_notice(s, message, size);
    case 'S':
        if (message_read_parameter_status(message, size, &parameter)) {
            settings_parameter(s, parameter.name, parameter.value);
        }
        return false;
    case 'R':
        return rewrite_offer(s, message, size);
    case 'C':
        note_command(s, message, size);
        return false;
    case '1':
    case '3':
        note_own_answer(s);
        return true;
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
        if (asking_expects(s, message[0])) {
            if (size > WORKER_BUFFER) {
                session_fail(s, "08P01", "the server sent an answer of %zu bytes to its settings",
                             size);
                return len;
            }
            if (len - at < size) {
                s->back.need = size;
                break;
            }
            if (asking_take(s, message, size)) {
                batch_add(batch, bytes + run, at - run);
                at += size;
                run = at;
                continue;
            }
        }
        if (!is_noted(s, message[0], size)) {
            s->batch_answered += interest_in(message[0]) == INTEREST_ANSWER;
            if (message[0] == 'E') {
                ledger_failed(&s->ledger, s->syncs_done + 1, s->batch_answered);
            }
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
