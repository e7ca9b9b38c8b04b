/* Gives the server prepared statements anew; see reprepare.h. */
#include "proxy/session/reprepare.h"

#include <stdio.h>
#include <string.h>

#include "protocol/frame.h"
#include "protocol/message.h"
#include "proxy/session/large.h"
#include "rules/encoding.h"

struct ledger_source *reprepare_keep(struct session *s, const struct judged *judged,
                                     const struct verdict *verdict, bool *is_lost)
{
    *is_lost = (judging_gates(s, verdict->writes) & s->rules->computes) != 0;
    if (!*is_lost || !judged->extended || s->answers_shifted) {
        return NULL;
    }
    struct ledger_source *source =
        ledger_source_new(&s->ledger, judged->text, judged->types, judged->type_count);
    if (source == NULL) {
        return NULL;
    }
    *is_lost = false;
    source->conforming = s->strings_standard;
    if (!encoding_is_readable(TEXT_ENCODING_UNKNOWN, judged->text.ptr, judged->text.len)) {
        snprintf(source->encoding, sizeof source->encoding, "%s", s->client_encoding);
    }
    return source;
}

static bool is_stale(const struct session *s, const struct ledger_statement *statement)
{
    return statement->source != NULL &&
           (statement->is_gone ||
            ((statement->computed ^ s->rules->computed) & statement->writes) != 0);
}

/* Whether the text still means what it meant, and it will be known which answers are the proxy's
 * own. */
static bool is_possible(const struct session *s, const struct ledger_source *source)
{
    const struct ledger *ledger = &s->ledger;
    const bool reads_alike =
        source->encoding[0] == '\0' || (source->conforming == s->strings_standard &&
                                        strcmp(source->encoding, s->client_encoding) == 0);
    return reads_alike && !s->copying && !s->answers_shifted &&
           ledger->change_end - ledger->change_first + 2 <= LEDGER_CHANGES_MAX;
}

static bool put_close_and_parse(struct session *s, struct span name, const char *text, size_t len,
                                const uint32_t *types, size_t type_count)
{
    struct batch *batch = &s->worker->batch;
    struct writer *w = batch_build(batch, FRAME_HEADER + 1 + name.len + 1);
    if (w == NULL) {
        return false;
    }
    message_write_close(w, name);
    batch_built(batch);
    w = batch_build(batch, FRAME_HEADER + name.len + 1 + len + 1 + 2 + type_count * sizeof *types);
    if (w == NULL) {
        return false;
    }
    message_write_parse(w, name, text, len, types, type_count);
    batch_built(batch);
    return true;
}

/* False when out of memory. */
static bool remake(struct session *s, struct span name, const struct ledger_statement *was,
                   const struct verdict *verdict)
{
    const struct ledger_source *source = was->source;
    const struct ledger_spot spot = {.sync = s->syncs_sent + 1, .message = s->batch_messages};
    const bool is_edited = verdict->action == VERDICT_EDIT;
    struct position_map *map =
        is_edited ? position_map_new(verdict, source->text, source->len, judging_characters(s))
                  : NULL;
    ledger_place(&s->ledger, spot.sync, spot.message, map);
    bool ok = is_edited ? put_close_and_parse(s, name, verdict->text, verdict->text_len,
                                              verdict->param_types, verdict->param_type_count)
                        : put_close_and_parse(s, name, source->text, source->len, source->types,
                                              source->type_count);
    const struct ledger_statement as = {.writes = judging_gates(s, verdict->writes),
                                        .map = map,
                                        .source = was->source,
                                        .computed = s->rules->computed,
                                        .touches = true};
    ok = ok && ledger_remade(&s->ledger, spot, name, was, verdict, s->rules->rule_index, &as);
    position_map_unref(map);
    frontend_sent(s, 'C');
    frontend_sent(s, 'P');
    return ok;
}

enum judging reprepare(struct session *s, struct span name, size_t have, size_t size,
                       struct ledger_statement *statement)
{
    const struct ledger_source *source = statement->source;
    if (!is_stale(s, statement) || !is_possible(s, source)) {
        return JUDGING_FORWARD;
    }
    if (s->syncs_sent != s->syncs_done) {
        s->wait = SESSION_WAIT_BOUNDARY; /* behind that it is known whose answer is whose */
        return JUDGING_WAIT;
    }
    if (s->transaction == 'E' && !s->batch_open && !statement->is_gone) {
        return JUDGING_FORWARD; /* the Close would be carried out, and the Parse refused */
    }
    struct judge *judge = worker_judge(s->worker, s->rules);
    const struct span text = {source->text, source->len};
    const struct verdict *verdict =
        judge == NULL ? NULL
                      : judge_text(judge, s->rules->set,
                                   &(struct judge_input){
                                       .text = text.ptr,
                                       .len = text.len,
                                       .param_types = source->types,
                                       .param_type_count = source->type_count,
                                       .extended = true,
                                       .standard_conforming_strings = s->strings_standard,
                                       .encoding = settings_encoding_of(s, text),
                                       .is_in_server_encoding = settings_are_servers(s),
                                   });
    if (verdict != NULL && verdict->action == VERDICT_REFUSE) {
        return judging_refuse(s, have, size, verdict);
    }
    if (verdict == NULL || !remake(s, name, statement, verdict)) {
        session_fail(s, "53200", "out of memory");
        return JUDGING_CLOSED;
    }
    worker_add(&s->worker->counters.judged, 1);
    *statement = ledger_find(&s->ledger, name);
    return JUDGING_FORWARD;
}
