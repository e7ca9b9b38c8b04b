/*
 * The rules at work on one session: which text of a Query or Parse is judged, when, and what
 * follows from its verdict. The verdicts are the rules room's; judging.h says which files do the
 * rest.
 */
#include "proxy/session/judging.h"

#include <stdlib.h>

#include "protocol/message.h"
#include "proxy/service.h"
#include "proxy/session/copying.h"
#include "proxy/session/deallocate.h"
#include "proxy/session/mentions.h"
#include "proxy/session/reprepare.h"
#include "rules/encoding.h"

/* Parse messages with more declared types than this take their room from the heap. */
#define TYPES_ON_STACK 64
/* Once the texts of one turn have taken so long, the next one leaves it to the others. */
#define TURN_NS 2000000

void judging_refresh(struct session *s)
{
    uint64_t epoch = catalog_epoch(session_service(s)->catalog);
    if (s->rules_known && s->rules_epoch == epoch) {
        return;
    }
    s->rules = s->database == NULL ? NULL : worker_rules(s->worker, s->database);
    s->rules_epoch = epoch;
    s->rules_known = true;
    if (s->rules != NULL && s->rules->snapshot_default) {
        s->may_snapshot = true;
    }
    if (s->rules == NULL) {
        large_drop(s);
    }
}

/* On a text that concerns no rule. */
static const struct verdict passes;

uint64_t judging_gates(const struct session *s, uint64_t writes)
{
    uint64_t mask = 0;
    for (size_t i = 0; i < s->rules->rule_count; i++) {
        if ((writes >> i & 1) != 0) {
            mask |= (uint64_t)1 << s->rules->rule_index[i];
        }
    }
    return mask;
}

static uint64_t supplied_rules(const struct session *s, const struct verdict *verdict)
{
    uint64_t mask = 0;
    for (size_t i = 0; i < verdict->supplied_count; i++) {
        mask |= (uint64_t)1 << s->rules->rule_index[verdict->supplied[i].rule];
    }
    return mask;
}

/* Rules whose flip a prepared statement would not outlive: it sends a key each time that it is
 * executed, or the table needs another text then, and it cannot be made anew. */
static uint64_t rules_in_the_way(const struct session *s, const struct verdict *verdict,
                                 bool is_lost)
{
    const uint64_t sent = verdict->action == VERDICT_PASS ? supplied_rules(s, verdict) : 0;
    const uint64_t lost = is_lost ? judging_gates(s, verdict->writes) : 0;
    return (sent & ~s->rules->computes) | (lost & s->rules->computes) | s->ledger.overflow_sources;
}

static bool is_turn_over(struct worker *worker)
{
    const uint64_t now = uv_hrtime();
    if (worker->turn_ns == 0) {
        worker->turn_ns = now;
    }
    return now - worker->turn_ns > TURN_NS;
}

/* The verdict that is found at once; NULL when out of memory, or with s->wait set when it is not.
 */
static const struct verdict *verdict_at_once(struct session *s, const struct judged *judged)
{
    struct judge *judge = worker_judge(s->worker, s->rules);
    if (judge == NULL) {
        return NULL;
    }
    bool takes_long = is_turn_over(s->worker);
    const struct verdict *verdict =
        takes_long ? NULL
                   : judge_at_once(judge, s->rules->set,
                                   &(struct judge_input){
                                       .text = judged->text.ptr,
                                       .len = judged->text.len,
                                       .param_types = judged->types,
                                       .param_type_count = judged->type_count,
                                       .extended = judged->extended,
                                       .standard_conforming_strings = s->strings_standard,
                                       .encoding = settings_encoding_of(s, judged->text),
                                       .is_in_server_encoding = settings_are_servers(s),
                                       .columns_change = s->columns_change,
                                   },
                                   &takes_long);
    if (takes_long) {
        s->wait = SESSION_WAIT_JUDGE;
    }
    return verdict;
}

/* The verdict that took long. */
static const struct verdict *verdict_of_large(struct session *s)
{
    struct judge *judge = worker_judge(s->worker, s->rules);
    if (judge != NULL && s->large->verdict != NULL && !s->large->is_learned) {
        judge_learn(judge, s->large->judge);
        s->large->is_learned = true;
    }
    return s->large->verdict;
}

bool judging_may_concern(const struct rule_set *set, bool hides_names, struct span text)
{
    return rule_set_may_concern(set, text.ptr, text.len) ||
           (hides_names && !encoding_is_readable(TEXT_ENCODING_FOREIGN, text.ptr, text.len));
}

static bool may_concern(const struct session *s, struct span text)
{
    return s->large != NULL ? s->large->may_concern
                            : judging_may_concern(s->rules->set, settings_hide_names(s), text);
}

/* The verdict on a text; NULL when out of memory, or with s->wait set when it takes long or depends
 * on what the server has still to answer. `room` is for those made here. */
static const struct verdict *verdict_on(struct session *s, const struct judged *judged,
                                        struct verdict *room)
{
    const struct service *service = session_service(s);
    if (s->hold_cancelled || (s->large != NULL && s->large->is_cancelled)) {
        return &judging_cancelled;
    }
    if (!may_concern(s, judged->text)) {
        return &passes;
    }
    if (settings_are_awaited(s, judged->text)) {
        s->wait = SESSION_WAIT_BOUNDARY;
        return NULL;
    }
    if (!rereading_is_over(s)) {
        return NULL;
    }
    const struct verdict *verdict =
        s->large != NULL ? verdict_of_large(s) : verdict_at_once(s, judged);
    if (verdict != NULL) {
        worker_add(&s->worker->counters.judged, 1);
    }
    if (verdict == NULL || verdict->supplied_count == 0 ||
        !service_config(service)->audit_failure_reject || audit_healthy(service->audit)) {
        return verdict;
    }
    *room = *verdict;
    room->action = VERDICT_REFUSE;
    room->sqlstate = "58030";
    room->message = "the audit log of pgsluice cannot be written";
    room->detail = "The statement supplies a guarded column, and audit_failure is set to reject.";
    room->hint = NULL;
    return room;
}

static bool says_execute(const struct session *s, struct span text)
{
    return s->large != NULL ? s->large->execute : mentions(text.ptr, text.len, "execute");
}

/* From the text that the server will have to the client's; NULL: it is the client's. A reference
 * for the caller. */
static struct position_map *map_of(struct session *s, const struct judged *judged,
                                   const struct verdict *verdict)
{
    const struct span text = judged->text;
    if (verdict->action == VERDICT_EDIT && s->large != NULL) {
        s->sql_edited = true; /* it may prepare: that is not looked up */
        return position_map_ref(s->large->map);
    }
    if (verdict->action == VERDICT_EDIT) {
        s->sql_edited = s->sql_edited || mentions(text.ptr, text.len, "prepare");
        return position_map_new(verdict, text.ptr, text.len, judging_characters(s));
    }
    /* Errors of an SQL-level EXECUTE may be about the text of the PREPARE. */
    const bool executes = s->sql_edited && says_execute(s, text);
    return executes ? &position_map_unknown : NULL;
}

/* A Query ends the unnamed statement, and perhaps one with a name. False when out of memory. */
static bool note_ended(struct session *s, struct span text)
{
    struct span name;
    char room[DEALLOCATE_NAME_MAX];
    return ledger_closed(&s->ledger, judging_spot(s), (struct span){.ptr = "", .len = 0}) &&
           (!deallocate_read(text, room, &name) ||
            ledger_closed(&s->ledger, judging_spot(s), name));
}

/* Whether the text may be about a table of a rule in mode compute. */
static bool concerns_computed(const struct session *s, const struct verdict *verdict)
{
    return verdict != &passes && s->rules->computes != 0;
}

static enum judging carry_out(struct session *s, const struct judged *judged,
                              const struct verdict *verdict, struct position_map *map)
{
    bool ok = true, is_lost = !judged->extended;
    enum judging judging = JUDGING_REPLACED;
    s->schema_changed = s->schema_changed || verdict->schema_change;
    s->columns_change = s->columns_change || verdict->columns_change;
    switch (verdict->action) {
    case VERDICT_PASS:
        judging = JUDGING_FORWARD;
        break;
    case VERDICT_EDIT:
        if (!judged->extended && verdict->copy_count > 0 && !copying_begin(s, verdict)) {
            ok = false;
            break;
        }
        if (s->large != NULL && large_fills_stash(s)) {
            large_send(s, s->large->edited.bytes, s->large->edited.len);
            break;
        }
        ok = judging_put_query(s, judged, verdict->text, verdict->text_len, verdict->param_types,
                               verdict->param_type_count);
        break;
    case VERDICT_REFUSE:
        ok = judging_put_refusal(s, judged, verdict);
        break;
    }
    if (verdict->action == VERDICT_REFUSE || !judged->extended) {
        ok = judging_tell_verdict(s, verdict, judged->extended) && ok;
    } else if (ok) {
        struct ledger_source *source = reprepare_keep(s, judged, verdict, &is_lost);
        const struct ledger_statement as = {.writes = judging_gates(s, verdict->writes),
                                            .map = map,
                                            .source = source,
                                            .computed = s->rules->computed,
                                            .touches = concerns_computed(s, verdict)};
        ok = ledger_parsed(&s->ledger, judging_spot(s), judged->name, verdict, s->rules->rule_index,
                           &as);
        ledger_source_unref(&s->ledger, source);
    }
    if (judged->extended || verdict->prepares) {
        hold_note_unstripped(s, rules_in_the_way(s, verdict, is_lost));
    }
    if (!ok) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    return judging;
}

/* What stands around the plain rows of a bulk load, which say nothing. */
static struct span head_of(struct span text, const struct verdict *verdict)
{
    return (struct span){text.ptr, verdict->plain_from};
}

static struct span tail_of(struct span text, const struct verdict *verdict)
{
    return (struct span){text.ptr + verdict->plain_to, text.len - verdict->plain_to};
}

static void note_words(struct session *s, struct span text, const struct verdict *verdict)
{
    if (s->large != NULL) {
        s->may_snapshot = s->may_snapshot || s->large->isolation;
        return;
    }
    settings_text(s, head_of(text, verdict));
    settings_text(s, tail_of(text, verdict));
}

static bool may_change_settings(const struct session *s, struct span text,
                                const struct verdict *verdict)
{
    return s->large != NULL ? s->large->may_change
                            : settings_may_change(head_of(text, verdict)) ||
                                  settings_may_change(tail_of(text, verdict));
}

static enum judging judge(struct session *s, const struct judged *judged)
{
    struct verdict room;
    const struct verdict *verdict = verdict_on(s, judged, &room);
    if (verdict == NULL && s->wait != SESSION_WAIT_NONE) {
        return JUDGING_WAIT;
    }
    if (verdict == NULL) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    note_words(s, judged->text, verdict);
    uint64_t writes = judging_gates(s, verdict->writes);
    if (s->sql_prepared != 0 && says_execute(s, judged->text)) {
        writes |= s->sql_prepared;
    }
    if (hold_check(s, writes) == JUDGING_WAIT) {
        return JUDGING_WAIT;
    }
    if ((verdict->action == VERDICT_REFUSE && ledger_is_full(&s->ledger, s->syncs_sent + 1)) ||
        judging_is_behind(s)) {
        s->wait = SESSION_WAIT_BOUNDARY;
        return JUDGING_WAIT;
    }
    if (!judged->extended && !ledger_is_empty(&s->ledger) && !note_ended(s, judged->text)) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    if (verdict->prepares) {
        s->sql_prepared |= writes;
    }
    if (may_change_settings(s, judged->text, verdict)) {
        settings_sent(s, judged->name.len > 0);
    }
    if (verdict->action != VERDICT_REFUSE) {
        hold_note_write(s, writes);
        hold_note_touch(s, concerns_computed(s, verdict));
    }
    if (verdict == &passes && (!judged->extended || ledger_is_empty(&s->ledger)) &&
        !judging_has_places(s) && !s->sql_edited) {
        return JUDGING_FORWARD;
    }
    struct position_map *map = map_of(s, judged, verdict);
    judging_place(s, map);
    const enum judging judging = carry_out(s, judged, verdict, map);
    position_map_unref(map);
    return judging;
}

static enum judging judge_query(struct session *s, const uint8_t *message, size_t size)
{
    struct judged judged = {0};
    if (!message_read_query(message, size, &judged.text)) {
        return JUDGING_FORWARD; /* malformed: the server refuses it before it reads the text */
    }
    return judge(s, &judged);
}

static enum judging judge_parse(struct session *s, const uint8_t *message, size_t size)
{
    struct message_parse parse;
    if (!message_read_parse(message, size, &parse)) {
        return JUDGING_FORWARD;
    }
    uint32_t on_stack[TYPES_ON_STACK];
    uint32_t *types = on_stack;
    if (parse.type_count > TYPES_ON_STACK) {
        types = malloc(parse.type_count * sizeof *types);
        if (types == NULL) {
            session_fail(s, "53200", "out of memory");
            return JUDGING_CLOSED;
        }
    }
    for (size_t i = 0; i < parse.type_count; i++) {
        types[i] = load_u32(parse.types + 4 * i);
    }
    enum judging judging = judge(s, &(struct judged){
                                        .text = parse.query,
                                        .extended = true,
                                        .name = parse.name,
                                        .types = types,
                                        .type_count = parse.type_count,
                                    });
    if (types != on_stack) {
        free(types);
    }
    return judging;
}

/* A Query or Parse: by its message, unless that is too long to be read here, or by what the thread
 * has found out. */
static enum judging judge_message(struct session *s, const uint8_t *message, size_t size)
{
    if (s->large != NULL && !large_is_current(s)) {
        large_drop(s);
    }
    if (s->large != NULL) {
        return s->large->is_readable ? judge(s, &s->large->judged) : JUDGING_FORWARD;
    }
    if (size > LARGE_MESSAGE) {
        s->wait = SESSION_WAIT_JUDGE;
        return JUDGING_WAIT;
    }
    return message[0] == 'Q' ? judge_query(s, message, size) : judge_parse(s, message, size);
}

enum judging judging_message(struct session *s, const uint8_t *message, size_t size)
{
    switch (message[0]) {
    case 'Q':
    case 'P':
        return judge_message(s, message, size);
    case 'B':
        return judging_bind(s, message, size);
    case 'E':
        return judging_execute(s, message, size);
    case 'C':
        return judging_close(s, message, size);
    case 'D':
        return judging_describe(s, message, size);
    default:
        if (hold_check(s, 0) == JUDGING_WAIT) {
            return JUDGING_WAIT;
        }
        hold_note_write(s, 0);
        return JUDGING_FORWARD;
    }
}
