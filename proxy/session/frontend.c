/*
 * From the client to the server: walks the headers, hands over what must be judged, and forwards
 * everything else from where it was received, one run of bytes between two changes, one send a
 * batch.
 */
#include "proxy/session/session.h"

#include "protocol/frame.h"
#include "protocol/message.h"
#include "proxy/service.h"
#include "proxy/session/comparing.h"
#include "proxy/session/copying.h"
#include "proxy/session/large.h"

/* Every CopyDone so far belonged to no COPY. */
static void forget_strays(struct session *s)
{
    if (s->syncs_sent == s->syncs_done) {
        s->copies_ended = 0;
    }
}

/* The last message that a ReadyForQuery would answer may stay without one. */
static void note_doubt(struct session *s)
{
    if (s->doubtful == 0) {
        s->doubtful = s->syncs_sent;
    }
}

static void end_batch(struct session *s)
{
    s->batch_open = false;
    s->batch_executed = false;
    s->batch_ran = false;
    s->batch_messages = 0;
}

/* A Query in an open unit ends it, or is skipped by the server because the unit has failed. */
static void note_query(struct session *s)
{
    forget_strays(s);
    s->syncs_sent++;
    s->last_query = s->syncs_sent;
    if (s->batch_open) {
        note_doubt(s);
    }
    end_batch(s);
}

/* CopyDone or CopyFail; the client may have sent it before the server said that it takes rows. */
static void note_copy_end(struct session *s)
{
    bool after_sync = !s->batch_open && s->last_query != s->syncs_sent;
    if (!s->copying) {
        s->copies_ended++;
        if (after_sync) {
            note_doubt(s); /* the COPY may have swallowed the Sync */
        }
    }
    s->copying = false;
}

/* What a message that goes to the server does to the session's bookkeeping. */
static void note_message(struct session *s, uint8_t type)
{
    switch (type) {
    case 'Q':
    case 'F':
        note_query(s);
        break;
    case 'S':
        /* while the server takes CopyData it ignores Sync */
        if (!s->copying) {
            s->syncs_sent++;
            end_batch(s);
        }
        break;
    case 'E':
        s->batch_executed = true;
        /* fall through */
    case 'B':
        s->batch_ran = true;
        /* fall through */
    case 'P':
    case 'D':
    case 'C':
        if (!s->batch_open) {
            forget_strays(s);
            s->batch_open = true;
        }
        s->batch_messages++;
        break;
    case 'c':
    case 'f':
        note_copy_end(s);
        break;
    case 'X':
        s->terminated = true;
        break;
    default:
        break;
    }
}

void frontend_sent(struct session *s, uint8_t type)
{
    note_message(s, type);
}

/* A held batch was cancelled: its messages up to Sync are dropped, and the Sync answered here. */
static void discard_message(struct session *s, uint8_t type)
{
    if (type == 'X') {
        session_close(s);
    } else if (type == 'S') {
        struct writer w;
        writer_init(&w, 16);
        message_write_ready(&w, 'I');
        s->discarding = false;
        session_reply(s, &w);
        writer_fini(&w);
    }
}

/* Whether the message is looked at as a whole; any other is forwarded as it comes in. */
static bool is_judged(const struct session *s, uint8_t type)
{
    if (s->discarding) {
        return true;
    }
    if (s->rules == NULL) {
        return false;
    }
    switch (type) {
    case 'Q':
    case 'P':
        return true;
    case 'B':
        return !ledger_is_empty(&s->ledger) || s->may_snapshot || s->sql_prepared != 0;
    case 'C':
        return !ledger_is_empty(&s->ledger);
    case 'F':
        return s->may_snapshot;
    case 'E':
        return s->may_snapshot || s->copying_streams != NULL || judging_has_places(s);
    case 'D':
        return judging_has_places(s) || (s->rules->computes != 0 && !ledger_is_empty(&s->ledger));
    default:
        return false;
    }
}

/* What no server would take. */
static bool is_violation(uint8_t type, uint32_t length)
{
    return !frame_type_known(FRAME_FRONTEND, type) || !frame_length_valid(length);
}

static void refuse_violation(struct session *s, uint8_t type)
{
    if (!frame_type_known(FRAME_FRONTEND, type)) {
        session_fail(s, "08P01", "invalid frontend message type %u", type);
    } else {
        session_fail(s, "08P01", "invalid message length");
    }
}

/* Whether enough of the message is at hand to judge it; if not, asks for all of it. A Bind tells
 * its statement's name ahead of its values, which are forwarded as they come in unless they are
 * compared. */
static bool is_enough(struct session *s, const uint8_t *message, size_t size, size_t have)
{
    struct span portal, name;
    bool streams = message[0] == 'B' && !s->discarding;
    if (have == size) {
        return true;
    }
    if (streams && message_read_bind(message, have, &portal, &name)) {
        const bool is_compared = size <= COMPARED_BIND && comparing_wants(s, name);
        s->front.need = is_compared ? size : s->front.need;
        return !is_compared;
    }
    if (streams && have < WORKER_BUFFER) {
        return false; /* the names are still to come */
    }
    uint64_t limit = service_config(session_service(s))->max_packet_size;
    if (size > limit) {
        session_fail(s, "54000", "a message of %zu bytes is longer than max_packet_size, %llu",
                     size, (unsigned long long)limit);
        return false;
    }
    s->front.need = size;
    return false;
}

/* More than this is not made room for before it is known to come. */
#define ROOM_AHEAD_MAX ((size_t)512 * 1024)

/* The next message may be as long as this one. */
static void learn_length(struct intake *in, size_t size)
{
    const size_t room = size + size / 8;
    if (size > WORKER_BUFFER && room <= ROOM_AHEAD_MAX) {
        in->usual = room;
    }
}

/* A message that fills its stash is not copied into the batch. */
static enum judging consume_large(struct session *s, const uint8_t *message, size_t size,
                                  enum judging judging)
{
    if (judging == JUDGING_FORWARD && large_fills_stash(s)) {
        large_send(s, message, size);
        judging = JUDGING_REPLACED;
    }
    large_consumed(s);
    return judging;
}

static enum judging consume_judged(struct session *s, const uint8_t *message, size_t have)
{
    if (s->discarding) {
        discard_message(s, message[0]);
        return s->state == SESSION_CLOSING ? JUDGING_CLOSED : JUDGING_REPLACED;
    }
    enum judging judging = judging_message(s, message, have);
    if (judging == JUDGING_FORWARD || judging == JUDGING_REPLACED) {
        note_message(s, message[0]);
        judging = s->large == NULL ? judging : consume_large(s, message, have, judging);
    }
    return judging;
}

static void send_batch(struct session *s)
{
    struct batch *batch = &s->worker->batch;
    batch_send(batch);
    if (batch->result == STREAM_BROKEN) {
        /* its last words, and then its end, are still to be read */
        s->server_gone = true;
    } else if (batch->result == STREAM_NO_MEMORY) {
        session_fail(s, "53200", "out of memory");
    }
}

/* CopyData that is the filter's, CopyDone and CopyFail. True when another message was put in the
 * place of what is at hand. */
static bool filter(struct session *s, const uint8_t *message, size_t have)
{
    if (message[0] == 'd' && copying_filters(s)) {
        copying_data(s, message + FRAME_HEADER, have - FRAME_HEADER);
        return true;
    }
    return (message[0] == 'c' || message[0] == 'f') && copying_ended(s, message[0] == 'c');
}

static bool is_filters(const struct session *s, uint8_t type)
{
    return s->copying_streams != NULL && !s->discarding &&
           (type == 'd' || type == 'c' || type == 'f');
}

size_t frontend_consume(struct session *s, const uint8_t *bytes, size_t len)
{
    struct batch *batch = &s->worker->batch;
    size_t run = 0; /* from here on not yet in the batch */
    size_t at = s->front.body < len ? s->front.body : len;
    s->front.body -= (uint32_t)at;
    s->worker->turn_ns = 0;
    judging_refresh(s);
    batch_start(batch, &s->server);
    if (s->front_filtered && at > 0) {
        copying_data(s, bytes, at);
        run = at;
    }
    while (len - at >= FRAME_HEADER) {
        const uint8_t *message = bytes + at;
        uint32_t length = load_u32(message + 1);
        size_t size = 1 + (size_t)length;
        if (is_violation(message[0], length)) {
            batch_add(batch, bytes + run, at - run);
            send_batch(s);
            refuse_violation(s, message[0]);
            return len;
        }
        size_t have = size < len - at ? size : len - at;
        s->front_filtered = false;
        if (is_filters(s, message[0])) {
            batch_add(batch, bytes + run, at - run);
            s->front_filtered = filter(s, message, have);
            run = s->front_filtered ? at + have : at;
        }
        if (!is_judged(s, message[0])) {
            note_message(s, message[0]);
            s->front.body = (uint32_t)(size - have);
            at += have;
            continue;
        }
        if (!is_enough(s, message, size, have)) {
            break;
        }
        learn_length(&s->front, size);
        batch_add(batch, bytes + run, at - run);
        run = at;
        enum judging judging = consume_judged(s, message, have);
        if (judging == JUDGING_WAIT || judging == JUDGING_CLOSED) {
            break;
        }
        s->front.body = (uint32_t)(size - have);
        at += have;
        run = judging == JUDGING_REPLACED ? at : run;
    }
    if (s->state == SESSION_CLOSING) {
        return len;
    }
    batch_add(batch, bytes + run, at - run);
    send_batch(s);
    return at;
}
