/*
 * Prepared statements and portals: what a Bind, Describe, Execute or Close is about, by the ledger,
 * and whether it may go. Called by judging_message(). The texts were judged with their Parse.
 */
#include "proxy/session/judging.h"

#include "protocol/message.h"
#include "proxy/session/comparing.h"
#include "proxy/session/copying.h"
#include "proxy/session/reprepare.h"

static enum judging refuse_bind(struct session *s, const struct ledger_note *note, size_t size,
                                const struct verdict *verdict)
{
    const enum judging judging = judging_refuse(s, size, size, verdict);
    if (judging == JUDGING_REPLACED && !judging_tell_refused(s, note, verdict)) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    return judging;
}

static size_t message_size(const uint8_t *message)
{
    return 1 + (size_t)load_u32(message + 1);
}

enum judging judging_bind(struct session *s, const uint8_t *message, size_t size)
{
    struct span portal, name = {0};
    struct ledger_statement statement = {0};
    bool is_read = message_read_bind(message, size, &portal, &name);
    if (is_read && ledger_is_doubtful(&s->ledger, name, s->syncs_sent + 1)) {
        s->wait = SESSION_WAIT_BOUNDARY;
        return JUDGING_WAIT;
    }
    if (is_read) {
        statement = ledger_find(&s->ledger, name);
    }
    if (name.len > 0) {
        statement.writes |= s->sql_prepared; /* it may be one of those */
    }
    if (hold_check(s, statement.writes) == JUDGING_WAIT) {
        return JUDGING_WAIT;
    }
    if (s->hold_cancelled) {
        return judging_refuse(s, size, message_size(message), &judging_cancelled);
    }
    if (is_read) {
        const enum judging judging = reprepare(s, name, size, message_size(message), &statement);
        if (judging != JUDGING_FORWARD) {
            return judging;
        }
    }
    struct compare_words words;
    struct verdict refusal;
    if (statement.note != NULL && statement.note->pair_count > 0 &&
        comparing_bind(s, statement.note, message, size, &words, &refusal)) {
        return refuse_bind(s, statement.note, size, &refusal);
    }
    hold_note_write(s, statement.writes);
    hold_note_touch(s, statement.touches);
    judging_place(s, statement.map);
    if (is_read && portal.len == 0) {
        ledger_bound(&s->ledger, statement.map);
    }
    if (statement.note != NULL && !judging_tell_note(s, statement.note)) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    if (is_read && !copying_bound(s, portal, statement.note)) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    return JUDGING_FORWARD;
}

enum judging judging_describe(struct session *s, const uint8_t *message, size_t size)
{
    struct span name;
    enum judging judging = JUDGING_FORWARD;
    if (message_read_close(message, size, &name)) {
        struct ledger_statement statement = ledger_find(&s->ledger, name);
        judging = reprepare(s, name, size, size, &statement);
        if (judging == JUDGING_FORWARD) {
            hold_note_touch(s, statement.touches);
            judging_place(s, statement.map);
        }
    }
    return judging;
}

enum judging judging_close(struct session *s, const uint8_t *message, size_t size)
{
    struct span name;
    if (!message_read_close(message, size, &name)) {
        return JUDGING_FORWARD;
    }
    if (judging_is_behind(s)) {
        s->wait = SESSION_WAIT_BOUNDARY;
        return JUDGING_WAIT;
    }
    if (!ledger_closed(&s->ledger, judging_spot(s), name)) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    return JUDGING_FORWARD;
}

enum judging judging_execute(struct session *s, const uint8_t *message, size_t size)
{
    struct span portal;
    if (hold_check(s, 0) == JUDGING_WAIT) {
        return JUDGING_WAIT;
    }
    hold_note_write(s, 0);
    bool is_read = message_read_portal(message, size, &portal);
    if (is_read && judging_has_places(s)) {
        /* Of named portals nothing is kept. */
        judging_place(s, portal.len == 0 ? s->ledger.portal : &position_map_unknown);
    }
    if (is_read && s->copying_streams != NULL && !copying_executed(s, portal)) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    return JUDGING_FORWARD;
}
