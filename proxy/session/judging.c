/*
 * The rules at work on one session: which text is judged, what is sent in its place, what the audit
 * says of it. The verdicts are the rules room's; this file knows messages.
 */
#include "proxy/session/session.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/frame.h"
#include "protocol/message.h"
#include "proxy/service.h"
#include "proxy/session/comparing.h"
#include "proxy/session/copying.h"
#include "proxy/session/deallocate.h"
#include "proxy/session/large.h"
#include "proxy/session/mentions.h"
#include "proxy/session/reprepare.h"

/* Parse messages with more declared types than this take their room from the heap. */
#define TYPES_ON_STACK 64
/* Once the texts of one turn have taken so long, the next one leaves it to the others. */
#define TURN_NS 2000000
/* Edited texts from this length on are not copied into the message. */
#define LONG_TEXT (16 * 1024)

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

/* --- audit --- */

static const char *const mode_names[] = {
    [RULE_MODE_OBSERVE] = "observe",
    [RULE_MODE_STRIP] = "strip",
    [RULE_MODE_COMPUTE] = "compute",
    [RULE_MODE_REJECT] = "reject",
};

void judging_who_changed(struct session *s)
{
    free(s->who);
    s->who = NULL;
}

/* What the session's records on a rule of the configuration begin with; NULL when out of memory. */
static const struct audit_piece *who_of(struct session *s, size_t rule_index)
{
    const struct config_rule *rule = &service_config(session_service(s))->rules[rule_index];
    if (s->who != NULL && s->who_rule == rule_index && s->who_mode == rule->mode) {
        return s->who;
    }
    judging_who_changed(s);
    s->who_rule = (uint32_t)rule_index;
    s->who_mode = rule->mode;
    s->who = audit_piece_who(
        &(struct audit_session){
            .id = s->id,
            .client = s->client_name,
            .user = s->user,
            .database = s->database,
            .application_name = s->application_name,
            .backend_pid = s->backend_pid,
        },
        rule->name, mode_names[rule->mode]);
    return s->who;
}

/* What became of a key in a text that was forwarded: the audit's word, and who counts it. */
struct forwarded {
    const char *word;
    _Atomic uint64_t *counter;
};

static struct forwarded forwarded_as(struct session *s, size_t rule_index, bool is_edited)
{
    struct worker_counters *counters = &s->worker->counters;
    if (!is_edited) {
        return (struct forwarded){"observed", &counters->observed};
    }
    const struct config_rule *rule = &service_config(session_service(s))->rules[rule_index];
    return rule->mode == RULE_MODE_COMPUTE ? (struct forwarded){"computed", &counters->computed}
                                           : (struct forwarded){"stripped", &counters->stripped};
}

static struct audit_compared compared_of(const struct comparison *found)
{
    return (struct audit_compared){.matched = found->matched, .mismatched = found->mismatched};
}

/* False when out of memory. */
static bool tell_verdict(struct session *s, const struct verdict *verdict, bool extended)
{
    struct audit *audit = session_service(s)->audit;
    struct worker_counters *counters = &s->worker->counters;
    struct audit_supplied record = {
        .protocol = extended ? "extended" : "simple",
        .text = verdict->masked_text,
        .fingerprint = verdict->fingerprint,
    };
    if (verdict->action == VERDICT_REFUSE) {
        record.verdict = "refused";
        record.sqlstate = verdict->sqlstate;
    }
    for (size_t i = 0; i < verdict->supplied_count; i++) {
        const struct supplied *supplied = &verdict->supplied[i];
        const size_t rule = s->rules->rule_index[supplied->rule];
        if (supplied->is_awaited && verdict->action != VERDICT_REFUSE) {
            continue;
        }
        if (verdict->action == VERDICT_REFUSE) {
            worker_add(&counters->refused, 1);
        } else {
            const struct forwarded forwarded =
                forwarded_as(s, rule, verdict->action == VERDICT_EDIT);
            record.verdict = forwarded.word;
            worker_add(forwarded.counter, 1);
        }
        if (audit == NULL) {
            continue;
        }
        const struct audit_piece *who = who_of(s, rule);
        if (who == NULL) {
            return false;
        }
        record.statement = supplied->statement;
        record.rows = supplied->rows;
        record.params = supplied->params;
        record.compared = compared_of(&supplied->compared);
        audit_tell_once(audit, who, &record);
    }
    return true;
}

/* It takes a stream whose first row tells whether a key is supplied. */
static bool awaits_row(const struct ledger_note *note)
{
    return note->copy != NULL && note->copy->awaits;
}

/* Of a prepared statement, for all its executions. False when out of memory. */
static bool note_render(struct session *s, struct ledger_note *note)
{
    note->said = calloc(note->count + 1, sizeof(struct audit_piece *));
    for (size_t i = 0; note->said != NULL && i < note->count; i++) {
        const struct supplied *supplied = &note->supplied[i];
        note->said[i] = audit_piece_what(&(struct audit_supplied){
            .verdict = forwarded_as(s, supplied->rule, note->edited).word,
            .statement = supplied->statement,
            .protocol = "extended",
            .fingerprint = note->fingerprint,
            .text = note->text,
            .rows = supplied->rows,
            .params = supplied->params,
        });
        if (note->said[i] == NULL) {
            return false;
        }
    }
    if (note->pair_count == 0 && !awaits_row(note)) {
        free(note->text);
        note->text = NULL;
    }
    return note->said != NULL;
}

/* False when out of memory. */
static bool tell_note(struct session *s, struct ledger_note *note)
{
    struct audit *audit = session_service(s)->audit;
    if (awaits_row(note)) {
        return true; /* a prepared text is one statement */
    }
    for (size_t i = 0; i < note->count; i++) {
        worker_add(forwarded_as(s, note->supplied[i].rule, note->edited).counter, 1);
    }
    if (audit == NULL) {
        return true;
    }
    if (note->said == NULL && !note_render(s, note)) {
        return false;
    }
    for (size_t i = 0; i < note->count; i++) {
        const struct audit_piece *who = who_of(s, note->supplied[i].rule);
        if (who == NULL) {
            return false;
        }
        const struct comparison *found =
            note->pair_count > 0 ? &note->compared[i] : &note->supplied[i].compared;
        const struct audit_compared compared = compared_of(found);
        audit_tell(audit, who, note->said[i], &compared);
    }
    return true;
}

void judging_tell_carried(struct session *s, size_t rule, const char *text, uint64_t fingerprint,
                          bool extended)
{
    struct audit *audit = session_service(s)->audit;
    const struct forwarded forwarded = forwarded_as(s, rule, true);
    const struct audit_piece *who = audit == NULL ? NULL : who_of(s, rule);
    worker_add(forwarded.counter, 1);
    if (who != NULL) {
        audit_tell_once(audit, who,
                        &(struct audit_supplied){
                            .verdict = forwarded.word,
                            .statement = "COPY",
                            .protocol = extended ? "extended" : "simple",
                            .fingerprint = fingerprint,
                            .text = text,
                        });
    }
}

void judging_tell_copied(struct session *s, size_t rule, const struct judging_copied *copied)
{
    struct audit *audit = session_service(s)->audit;
    const struct audit_piece *who = audit == NULL ? NULL : who_of(s, rule);
    if (who != NULL) {
        audit_tell_copied(
            audit, who,
            &(struct audit_supplied){
                .verdict = copied->is_refused ? "refused" : forwarded_as(s, rule, true).word,
                .sqlstate = copied->is_refused ? "428C9" : NULL,
                .statement = "COPY",
                .protocol = copied->extended ? "extended" : "simple",
                .fingerprint = copied->fingerprint,
                .rows = copied->rows < UINT32_MAX ? (uint32_t)copied->rows : UINT32_MAX,
                .compared = compared_of(copied->found),
            });
    }
}

/* --- places --- */

bool judging_has_places(const struct session *s)
{
    return s->ledger.place_count > 0 || ledger_has_edited(&s->ledger);
}

enum text_characters judging_characters(const struct session *s)
{
    return characters_between(s->client_characters, s->server_characters);
}

/* --- judging --- */

static const struct verdict passes;
static const struct verdict cancelled = {
    .action = VERDICT_REFUSE,
    .sqlstate = "57014",
    .message = "canceling statement due to user request",
};

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
                                       .encoding = settings_encoding(s),
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

/* The verdict on a text; NULL when out of memory, or with s->wait set when it takes long or depends
 * on what the server has still to answer. `room` is for those made here. */
static const struct verdict *verdict_on(struct session *s, const struct judged *judged,
                                        struct verdict *room)
{
    const struct service *service = session_service(s);
    if (s->hold_cancelled || (s->large != NULL && s->large->is_cancelled)) {
        return &cancelled;
    }
    bool may_concern =
        s->large != NULL ? s->large->may_concern
                         : rule_set_may_concern(s->rules->set, judged->text.ptr, judged->text.len);
    if (!may_concern) {
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

static bool put_query(struct session *s, const struct judged *judged, const char *text, size_t len,
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

/* Replaces the message by one that fails in the server, which alone can fail a transaction. */
static bool put_refusal(struct session *s, const struct judged *judged,
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
    return put_query(s, judged, text, len, NULL, 0);
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

/* Where the next message to the server stands. */
static struct ledger_spot spot_of(const struct session *s)
{
    return (struct ledger_spot){.sync = s->syncs_sent + 1, .message = s->batch_messages};
}

/* What the next message to the server is about. */
static void place(struct session *s, struct position_map *map)
{
    ledger_place(&s->ledger, s->syncs_sent + 1, s->batch_messages, map);
}

/* Another change in the ledger must wait until the server has answered those before it; within one
 * batch that would be for ever. */
static bool is_ledger_behind(struct session *s)
{
    if (!ledger_is_behind(&s->ledger)) {
        return false;
    }
    ledger_answered(&s->ledger, s->syncs_done + 1, s->batch_answered);
    return ledger_is_behind(&s->ledger) && s->syncs_sent != s->syncs_done;
}

/* A Query ends the unnamed statement, and perhaps one with a name. False when out of memory. */
static bool note_ended(struct session *s, struct span text)
{
    struct span name;
    char room[DEALLOCATE_NAME_MAX];
    return ledger_closed(&s->ledger, spot_of(s), (struct span){.ptr = "", .len = 0}) &&
           (!deallocate_read(text, room, &name) || ledger_closed(&s->ledger, spot_of(s), name));
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
        ok = put_query(s, judged, verdict->text, verdict->text_len, verdict->param_types,
                       verdict->param_type_count);
        break;
    case VERDICT_REFUSE:
        ok = put_refusal(s, judged, verdict);
        break;
    }
    if (verdict->action == VERDICT_REFUSE || !judged->extended) {
        ok = tell_verdict(s, verdict, judged->extended) && ok;
    } else if (ok) {
        struct ledger_source *source = reprepare_keep(s, judged, verdict, &is_lost);
        const struct ledger_statement as = {.writes = judging_gates(s, verdict->writes),
                                            .map = map,
                                            .source = source,
                                            .computed = s->rules->computed,
                                            .touches = concerns_computed(s, verdict)};
        ok =
            ledger_parsed(&s->ledger, spot_of(s), judged->name, verdict, s->rules->rule_index, &as);
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
        is_ledger_behind(s)) {
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
    place(s, map);
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

/* The execution that was not to be: of each of its keys. False when out of memory. */
static bool tell_refused(struct session *s, const struct ledger_note *note,
                         const struct verdict *verdict)
{
    struct audit *audit = session_service(s)->audit;
    worker_add(&s->worker->counters.refused, note->count);
    for (size_t i = 0; audit != NULL && i < note->count; i++) {
        const struct audit_piece *who = who_of(s, note->supplied[i].rule);
        if (who == NULL) {
            return false;
        }
        audit_tell_once(audit, who,
                        &(struct audit_supplied){
                            .verdict = "refused",
                            .sqlstate = verdict->sqlstate,
                            .statement = note->supplied[i].statement,
                            .protocol = "extended",
                            .fingerprint = note->fingerprint,
                            .text = note->text,
                            .rows = note->supplied[i].rows,
                            .params = note->supplied[i].params,
                            .compared = compared_of(&note->compared[i]),
                        });
    }
    return true;
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
    place(s, NULL);
    if (!put_refusal(s, &judged, verdict) || !tell_verdict(s, verdict, true)) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    return JUDGING_REPLACED;
}

static enum judging refuse_bind(struct session *s, const struct ledger_note *note, size_t size,
                                const struct verdict *verdict)
{
    const enum judging judging = judging_refuse(s, size, size, verdict);
    if (judging == JUDGING_REPLACED && !tell_refused(s, note, verdict)) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    return judging;
}

static size_t message_size(const uint8_t *message)
{
    return 1 + (size_t)load_u32(message + 1);
}

static enum judging judge_bind(struct session *s, const uint8_t *message, size_t size)
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
        return judging_refuse(s, size, message_size(message), &cancelled);
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
    place(s, statement.map);
    if (is_read && portal.len == 0) {
        ledger_bound(&s->ledger, statement.map);
    }
    if (statement.note != NULL && !tell_note(s, statement.note)) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    if (is_read && !copying_bound(s, portal, statement.note)) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    return JUDGING_FORWARD;
}

static enum judging judge_describe(struct session *s, const uint8_t *message, size_t size)
{
    struct span name;
    enum judging judging = JUDGING_FORWARD;
    if (message_read_close(message, size, &name)) {
        struct ledger_statement statement = ledger_find(&s->ledger, name);
        judging = reprepare(s, name, size, size, &statement);
        if (judging == JUDGING_FORWARD) {
            hold_note_touch(s, statement.touches);
            place(s, statement.map);
        }
    }
    return judging;
}

static enum judging judge_close(struct session *s, const uint8_t *message, size_t size)
{
    struct span name;
    if (!message_read_close(message, size, &name)) {
        return JUDGING_FORWARD;
    }
    if (is_ledger_behind(s)) {
        s->wait = SESSION_WAIT_BOUNDARY;
        return JUDGING_WAIT;
    }
    if (!ledger_closed(&s->ledger, spot_of(s), name)) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    return JUDGING_FORWARD;
}

static enum judging judge_execute(struct session *s, const uint8_t *message, size_t size)
{
    struct span portal;
    if (hold_check(s, 0) == JUDGING_WAIT) {
        return JUDGING_WAIT;
    }
    hold_note_write(s, 0);
    bool is_read = message_read_portal(message, size, &portal);
    if (is_read && judging_has_places(s)) {
        /* Of named portals nothing is kept. */
        place(s, portal.len == 0 ? s->ledger.portal : &position_map_unknown);
    }
    if (is_read && s->copying_streams != NULL && !copying_executed(s, portal)) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    return JUDGING_FORWARD;
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
        return judge_bind(s, message, size);
    case 'E':
        return judge_execute(s, message, size);
    case 'C':
        return judge_close(s, message, size);
    case 'D':
        return judge_describe(s, message, size);
    default:
        if (hold_check(s, 0) == JUDGING_WAIT) {
            return JUDGING_WAIT;
        }
        hold_note_write(s, 0);
        return JUDGING_FORWARD;
    }
}
