/*
 * What the audit and the counters are told of the guarded columns that a session supplies: with a
 * text, with an execution of a prepared statement, and in a COPY's rows. Called by the other files
 * of judging, and by copying.c; owns s->who.
 */
#include "proxy/session/judging.h"

#include <stdlib.h>

#include "proxy/service.h"

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

bool judging_tell_verdict(struct session *s, const struct verdict *verdict, bool extended)
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

bool judging_tell_note(struct session *s, struct ledger_note *note)
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

bool judging_tell_refused(struct session *s, const struct ledger_note *note,
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
