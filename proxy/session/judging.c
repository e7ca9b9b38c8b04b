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
#include "proxy/session/mentions.h"

/* Parse messages with more declared types than this take their room from the heap. */
#define TYPES_ON_STACK 64
/* Edited texts from this length on are not copied into the message. */
#define LONG_TEXT (16 * 1024)

/* --- what a session's own settings say --- */

void judging_session_text(struct session *s, struct span text)
{
    /* BEGIN ISOLATION LEVEL ..., SET default_transaction_isolation, SET SESSION CHARACTERISTICS ...:
     * every way to another isolation level says so */
    if (!s->may_snapshot && mentions(text.ptr, text.len, "isolation")) {
        s->may_snapshot = true;
    }
}

static bool span_is(struct span s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.ptr, text, s.len) == 0;
}

static enum text_encoding encoding_of(struct span name)
{
    /* their second bytes may look like a quote or a backslash */
    static const char *const unsafe[] = {"SJIS", "BIG5",  "GBK",  "UHC",
                                         "GB18030", "JOHAB", "SHIFT_JIS_2004"};
    for (size_t i = 0; i < sizeof unsafe / sizeof unsafe[0]; i++) {
        if (name.len == strlen(unsafe[i]) && strncasecmp(name.ptr, unsafe[i], name.len) == 0) {
            return TEXT_ENCODING_UNSAFE;
        }
    }
    return span_is(name, "UTF8") ? TEXT_ENCODING_UTF8 : TEXT_ENCODING_ASCII_SAFE;
}

void judging_parameter(struct session *s, struct span name, struct span value)
{
    if (span_is(name, "standard_conforming_strings")) {
        s->strings_standard = !span_is(value, "off");
    } else if (span_is(name, "client_encoding")) {
        s->encoding = encoding_of(value);
    } else if (span_is(name, "application_name")) {
        char *copy = strndup(value.ptr, value.len);
        if (copy != NULL) {
            free(s->application_name);
            s->application_name = copy;
        }
    }
}

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
}

/* --- audit --- */

struct told {
    const char *verdict;
    const char *sqlstate;
    const char *protocol;
    const char *text;
    uint64_t fingerprint;
};

static const char *const mode_names[] = {
    [RULE_MODE_OBSERVE] = "observe",
    [RULE_MODE_STRIP] = "strip",
    [RULE_MODE_COMPUTE] = "compute",
    [RULE_MODE_REJECT] = "reject",
};

/* `rule` of a supplied value is the configuration's index here. */
static void tell_audit(struct session *s, const struct supplied *supplied, const struct told *told)
{
    const struct service *service = session_service(s);
    const struct config_rule *rule = &service_config(service)->rules[supplied->rule];
    struct audit_session who = {
        .id = s->id,
        .client = s->client_name,
        .user = s->user,
        .database = s->database,
        .application_name = s->application_name,
        .backend_pid = s->backend_pid,
    };
    audit_supplied(service->audit, &who,
                   &(struct audit_supplied){
                       .rule = rule->name,
                       .mode = mode_names[rule->mode],
                       .verdict = told->verdict,
                       .sqlstate = told->sqlstate,
                       .statement = supplied->statement,
                       .protocol = told->protocol,
                       .fingerprint = told->fingerprint,
                       .text = told->text,
                       .rows = supplied->rows,
                       .params = supplied->params,
                   });
}

/* Tells that a key was supplied in a text that was forwarded, and counts it. */
static void tell_forwarded(struct session *s, const struct supplied *supplied, struct told *told,
                           bool edited)
{
    struct worker_counters *counters = &s->worker->counters;
    const struct config_rule *rule = &service_config(session_service(s))->rules[supplied->rule];
    told->verdict = "observed";
    _Atomic uint64_t *counter = &counters->observed;
    if (edited && rule->mode == RULE_MODE_COMPUTE) {
        told->verdict = "computed";
        counter = &counters->computed;
    } else if (edited) {
        told->verdict = "stripped";
        counter = &counters->stripped;
    }
    tell_audit(s, supplied, told);
    worker_add(counter, 1);
}

static void tell_verdict(struct session *s, const struct verdict *verdict, bool extended)
{
    struct told told = {
        .protocol = extended ? "extended" : "simple",
        .text = verdict->masked_text,
        .fingerprint = verdict->fingerprint,
    };
    for (size_t i = 0; i < verdict->supplied_count; i++) {
        struct supplied supplied = verdict->supplied[i];
        supplied.rule = s->rules->rule_index[supplied.rule];
        if (verdict->action != VERDICT_REFUSE) {
            tell_forwarded(s, &supplied, &told, verdict->action == VERDICT_EDIT);
            continue;
        }
        told.verdict = "refused";
        told.sqlstate = verdict->sqlstate;
        tell_audit(s, &supplied, &told);
        worker_add(&s->worker->counters.refused, 1);
    }
}

static void tell_note(struct session *s, const struct ledger_note *note)
{
    struct told told = {
        .protocol = "extended",
        .text = note->text,
        .fingerprint = note->fingerprint,
    };
    for (size_t i = 0; i < note->count; i++) {
        tell_forwarded(s, &note->supplied[i], &told, note->edited);
    }
}

/* --- judging --- */

/* One text of a Query or Parse. */
struct judged {
    struct span text;
    bool extended;
    struct span name; /* of the statement that a Parse makes */
    const uint32_t *types;
    size_t type_count;
};

static const struct verdict passes;

static uint64_t gates_of(const struct session *s, uint64_t writes)
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

/* Rules whose key a statement sends to the server each time that it is executed. */
static uint64_t rules_sent(const struct session *s, const struct verdict *verdict)
{
    if (verdict->action == VERDICT_PASS) {
        return supplied_rules(s, verdict);
    }
    uint64_t computed = 0;
    for (size_t i = 0; verdict->action == VERDICT_EDIT && i < s->rules->rule_count; i++) {
        if (rule_set_get(s->rules->set, i)->mode == RULE_MODE_COMPUTE) {
            computed |= (uint64_t)1 << i;
        }
    }
    return gates_of(s, verdict->writes & computed);
}

/* The verdict on a text, or NULL when out of memory. `room` is for those made here. */
static const struct verdict *verdict_on(struct session *s, const struct judged *judged,
                                        struct verdict *room)
{
    const struct service *service = session_service(s);
    if (!rule_set_may_concern(s->rules->set, judged->text.ptr, judged->text.len)) {
        return &passes;
    }
    worker_add(&s->worker->counters.judged, 1);
    struct judge *judge = worker_judge(s->worker, s->rules);
    if (judge == NULL) {
        return NULL;
    }
    const struct verdict *verdict =
        judge_text(judge, s->rules->set,
                   &(struct judge_input){
                       .text = judged->text.ptr,
                       .len = judged->text.len,
                       .param_types = judged->types,
                       .param_type_count = judged->type_count,
                       .extended = judged->extended,
                       .standard_conforming_strings = s->strings_standard,
                       .encoding = s->encoding,
                   });
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
    struct writer *w = batch_build(batch, FRAME_HEADER + judged->name.len + 1 + len + 1 + 2 +
                                              type_count * 4);
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
    const struct ledger_refusal *refusal =
        ledger_refuse(&s->ledger, verdict, s->syncs_sent + 1);
    if (refusal == NULL) {
        return false;
    }
    char text[LEDGER_POISON_MAX];
    size_t len = ledger_poison(text, session_service(s)->nonce, refusal->id);
    return put_query(s, judged, text, len, NULL, 0);
}

static enum judging carry_out(struct session *s, const struct judged *judged,
                              const struct verdict *verdict)
{
    bool ok = true;
    enum judging judging = JUDGING_REPLACED;
    s->schema_changed = s->schema_changed || verdict->schema_change;
    switch (verdict->action) {
    case VERDICT_PASS:
        judging = JUDGING_FORWARD;
        break;
    case VERDICT_EDIT:
        ok = put_query(s, judged, verdict->text, verdict->text_len, verdict->param_types,
                       verdict->param_type_count);
        break;
    case VERDICT_REFUSE:
        ok = put_refusal(s, judged, verdict);
        break;
    }
    if (verdict->action == VERDICT_REFUSE || !judged->extended) {
        tell_verdict(s, verdict, judged->extended);
    } else if (ok) {
        ok = ledger_parsed(&s->ledger, judged->name, verdict, gates_of(s, verdict->writes),
                           s->rules->rule_index);
    }
    if (judged->extended || verdict->prepares) {
        hold_note_unstripped(s, rules_sent(s, verdict));
    }
    if (!ok) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    return judging;
}

static enum judging judge(struct session *s, const struct judged *judged)
{
    struct verdict room;
    const struct verdict *verdict = verdict_on(s, judged, &room);
    if (verdict == NULL) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    const struct span text = judged->text;
    judging_session_text(s, (struct span){text.ptr, verdict->plain_from});
    judging_session_text(s, (struct span){text.ptr + verdict->plain_to,
                                          text.len - verdict->plain_to});
    uint64_t writes = gates_of(s, verdict->writes);
    if (s->sql_prepared != 0 && mentions(judged->text.ptr, judged->text.len, "execute")) {
        writes |= s->sql_prepared;
    }
    if (hold_check(s, writes) == JUDGING_WAIT) {
        return JUDGING_WAIT;
    }
    if (verdict->action == VERDICT_REFUSE && ledger_is_full(&s->ledger, s->syncs_sent + 1)) {
        s->wait = SESSION_WAIT_BOUNDARY;
        return JUDGING_WAIT;
    }
    if (verdict->prepares) {
        s->sql_prepared |= writes;
    }
    if (verdict->action != VERDICT_REFUSE) {
        hold_note_write(s, writes);
    }
    if (verdict == &passes && (!judged->extended || ledger_is_empty(&s->ledger))) {
        return JUDGING_FORWARD;
    }
    return carry_out(s, judged, verdict);
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

static enum judging judge_bind(struct session *s, const uint8_t *message, size_t size)
{
    struct span name;
    struct ledger_statement statement = {0};
    if (message_read_bind(message, size, &name)) {
        statement = ledger_find(&s->ledger, name);
    }
    if (hold_check(s, statement.writes) == JUDGING_WAIT) {
        return JUDGING_WAIT;
    }
    hold_note_write(s, statement.writes);
    if (statement.note != NULL) {
        tell_note(s, statement.note);
    }
    return JUDGING_FORWARD;
}

enum judging judging_message(struct session *s, const uint8_t *message, size_t size)
{
    struct span name;
    switch (message[0]) {
    case 'Q':
        return judge_query(s, message, size);
    case 'P':
        return judge_parse(s, message, size);
    case 'B':
        return judge_bind(s, message, size);
    case 'C':
        if (message_read_close(message, size, &name)) {
            ledger_closed(&s->ledger, name);
        }
        return JUDGING_FORWARD;
    default:
        if (hold_check(s, 0) == JUDGING_WAIT) {
            return JUDGING_WAIT;
        }
        hold_note_write(s, 0);
        return JUDGING_FORWARD;
    }
}
