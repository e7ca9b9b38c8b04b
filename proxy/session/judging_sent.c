/*
 * What goes to the server on a verdict: the message that takes the place of the client's, and what
 * the ledger notes of where each one stands. Called by judging.c and judging_prepared.c, and, for a
 * refusal, by reprepare.c.
 */
#include "proxy/session/judging.h"

#include "protocol/frame.h"
#include "protocol/message.h"
#include "proxy/service.h"

/* Edited texts from this length on are not copied into the message. */
#define LONG_TEXT (16 * 1024)

const struct verdict judging_cancelled = {
    .action = VERDICT_REFUSE,
    .sqlstate = "57014",
    .message = "canceling statement due to user request",
};

bool judging_has_places(const struct session *s)
{
    return s->ledger.place_count > 0 || ledger_has_edited(&s->ledger);
}

enum text_characters judging_characters(const struct session *s)
{
    return characters_between(s->client_characters, s->server_characters);
}

struct ledger_spot judging_spot(const struct session *s)
{
    return (struct ledger_spot){.sync = s->syncs_sent + 1, .message = s->batch_messages};
}

void judging_place(struct session *s, struct position_map *map)
{
    ledger_place(&s->ledger, s->syncs_sent + 1, s->batch_messages, map);
}

bool judging_is_behind(struct session *s)
{
    if (!ledger_is_behind(&s->ledger)) {
        return false;
    }
    ledger_answered(&s->ledger, s->syncs_done + 1, s->batch_answered);
    return ledger_is_behind(&s->ledger) && s->syncs_sent != s->syncs_done;
}

/* A long Query's text is sent from where it lies, before the next verdict takes its place. */
static bool put_long_query(struct session *s, const char *text, size_t len)
{
    struct batch *batch = &s->worker->batch;
    struct writer *w = batch_build(batch, FRAME_HEADER);
    if (w == NULL) {
        return false;
    }
    message_begin_query(w, len);
    batch_built(batch);
    batch_add(batch, (const uint8_t *)text, len + 1);
    batch_send(batch);
    return batch->result != STREAM_NO_MEMORY;
}

bool judging_put_query(struct session *s, const struct judged *judged, const char *text, size_t len,
                       const uint32_t *types, size_t type_count)
{
    if (!judged->extended && len >= LONG_TEXT) {
        return put_long_query(s, text, len);
    }
    struct batch *batch = &s->worker->batch;
    struct writer *w =
        batch_build(batch, FRAME_HEADER + judged->name.len + 1 + len + 1 + 2 + type_count * 4);
    if (w == NULL) {
        return false;
    }
    if (judged->extended) {
        message_write_parse(w, judged->name, text, len, types, type_count);
    } else {
        message_write_query(w, text, len);
    }
    batch_built(batch);
    return true;
}

bool judging_put_refusal(struct session *s, const struct judged *judged,
                         const struct verdict *verdict)
{
    struct verdict counted = *verdict;
    s->hold_cancelled = false;
    if (verdict->position > 0) {
        counted.position =
            characters_position(judging_characters(s), judged->text.ptr, verdict->position - 1);
    }
    const struct ledger_refusal *refusal = ledger_refuse(&s->ledger, &counted, s->syncs_sent + 1);
    if (refusal == NULL) {
        return false;
    }
    char text[LEDGER_POISON_MAX];
    size_t len = ledger_poison(text, session_service(s)->nonce, refusal->id);
    return judging_put_query(s, judged, text, len, NULL, 0);
}

/* The Parse has a name: the unnamed statement stays what it was. */
enum judging judging_refuse(struct session *s, size_t have, size_t size,
                            const struct verdict *verdict)
{
    static const char name[] = "refused by pgsluice";
    if (have < size && size <= service_config(session_service(s))->max_packet_size) {
        s->front.need = size;
        return JUDGING_WAIT;
    }
    if (have < size) {
        return JUDGING_FORWARD; /* the server's error will be another one */
    }
    if (ledger_is_full(&s->ledger, s->syncs_sent + 1)) {
        s->wait = SESSION_WAIT_BOUNDARY;
        return JUDGING_WAIT;
    }
    const struct judged judged = {.extended = true, .name = {name, sizeof name - 1}};
    judging_place(s, NULL);
    if (!judging_put_refusal(s, &judged, verdict) || !judging_tell_verdict(s, verdict, true)) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    return JUDGING_REPLACED;
}
