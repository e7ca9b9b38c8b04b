/* Which stream the client is sending, and its filter; see copying.h. */
#include "proxy/session/copying.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/frame.h"
#include "proxy/service.h"
#include "proxy/session/comparing.h"
#include <utlist.h>

/* Portals of such statements that are remembered; of more, the oldest is forgotten. */
#define PORTALS_MAX 8
/* and of those whose streams get a computed column, none may be */
#define COMPUTED_MAX 64
#define PORTAL_NAME 63 /* NAMEDATALEN - 1 */
/* Runs between two messages: what stays of some hundred short rows. */
#define RUNS 256
/* Of a stream that may lack the column, so much is kept until its first row has ended. A longer row
 * counts as one that has it; the server refuses it when that is not so. */
#define HELD_MAX (256 * 1024)

/* Of a value that is compared, without its quotes and escapes; a longer one is not known. */
#define PLAIN_ROOM 1024

struct portal {
    struct portal *next;
    char name[PORTAL_NAME + 1];
    struct verdict_copy copy; /* its rules are the configuration's */
    uint64_t fingerprint;
    char *text; /* masked, where the copy awaits its first row; else NULL */
};

/* The values of one rule in the stream at hand. */
struct compared {
    const struct compare_rule *compares; /* NULL: not compared */
    const struct rule *rule;
    struct comparison found;
};

struct copying {
    struct portal *portals; /* oldest first */
    unsigned portal_count;
    /* The streams of the statement under way. */
    struct verdict_copy *streams; /* NULL: none */
    size_t count, at;
    uint64_t sync;   /* the number of the ReadyForQuery that ends it */
    bool is_settled; /* nothing can have changed client_encoding unseen */
    bool is_refused; /* the stream at hand goes nowhere */
    struct copy_filter filter;
    bool is_held, is_whole; /* not known yet whether the filter is for it; it is not */
    struct copy_presence presence;
    char *held;
    size_t held_len, held_size;
    struct copy_run runs[RUNS]; /* of the piece at hand */
    /* What its rows supply, by pair. */
    bool is_open; /* the audit is still to be told */
    struct compared compared[COPY_PAIRS_MAX];
    uint64_t rules_epoch; /* to which the rules in there belong */
    char key_room[PLAIN_ROOM], source_room[PLAIN_ROOM];
    bool in_encoding; /* its text is in the server's */
    uint64_t fingerprint;
    bool extended;
    char *text; /* masked, where a stream awaits its first row; else NULL */
};

static struct copying *copying_of(struct session *s)
{
    if (s->copying_streams == NULL) {
        s->copying_streams = calloc(1, sizeof *s->copying_streams);
    }
    return s->copying_streams;
}

/* What the audit says of the rows that the filter has seen. */
static void tell_stream(struct session *s, struct copying *c, bool is_refused)
{
    if (!c->is_open) {
        return;
    }
    c->is_open = false;
    for (size_t i = 0; i < c->streams[c->at].pair_count; i++) {
        judging_tell_copied(s, c->streams[c->at].pairs[i].rule,
                            &(struct judging_copied){
                                .found = &c->compared[i].found,
                                .rows = c->filter.rows,
                                .fingerprint = c->fingerprint,
                                .is_refused = is_refused,
                                .extended = c->extended,
                            });
    }
}

static void end_streams(struct copying *c)
{
    free(c->streams);
    c->streams = NULL;
    c->count = c->at = 0;
    free(c->held);
    c->held = NULL;
    c->held_len = c->held_size = 0;
    free(c->text);
    c->text = NULL;
}

static void portal_free(struct portal *portal)
{
    free(portal->text);
    free(portal);
}

void copying_gone(struct session *s)
{
    if (s->copying_streams != NULL) {
        tell_stream(s, s->copying_streams, false);
    }
}

void copying_free(struct copying *c)
{
    struct portal *portal, *next;
    if (c == NULL) {
        return;
    }
    LL_FOREACH_SAFE(c->portals, portal, next)
    {
        portal_free(portal);
    }
    end_streams(c);
    free(c);
}

static bool is_filtered(const struct copying *c)
{
    return c->streams != NULL && c->at < c->count && c->streams[c->at].options.field_count > 0;
}

/* Characters of the stream at hand are the server's own. SQL_ASCII converts nothing. */
static bool is_in_encoding(const struct session *s, const struct copy_options *options)
{
    if (!options->has_encoding) {
        return s->in_server_encoding;
    }
    return s->server_characters == CHARACTERS_ANY ||
           (s->server_characters == CHARACTERS_UTF8 && options->key.is_utf8);
}

static bool take_value(const struct copying *c, const struct copy_value *value,
                       char room[PLAIN_ROOM], struct evaluation_input *out)
{
    const struct copy_options *options = &c->filter.options;
    struct copy_run plain = {0};
    const enum copy_plain found = copy_value_plain(options, value, room, PLAIN_ROOM, &plain);
    *out = (struct evaluation_input){.bytes = plain.bytes,
                                     .len = plain.len,
                                     .is_null = found == COPY_PLAIN_NULL,
                                     .is_binary = options->format == COPY_FORMAT_BINARY,
                                     .is_in_encoding = c->in_encoding};
    return found != COPY_PLAIN_UNKNOWN && plain.len <= PLAIN_ROOM;
}

/* One row that the server gets, or is about to refuse. */
static void on_row(void *context, const struct copy_value *values)
{
    struct copying *c = context;
    const struct verdict_copy *stream = &c->streams[c->at];
    const uint32_t row = c->filter.rows < UINT32_MAX ? (uint32_t)c->filter.rows : UINT32_MAX;
    struct evaluation_input key, source;
    for (size_t i = 0; i < stream->pair_count; i++) {
        struct compared *compared = &c->compared[i];
        const struct copy_pair *pair = &stream->pairs[i];
        if (compared->compares != NULL && take_value(c, &values[pair->key], c->key_room, &key) &&
            take_value(c, &values[pair->source], c->source_room, &source)) {
            compare_row(compared->compares, &key, &source, row, &compared->found);
        }
    }
}

/* By the rules of now. */
static void set_up_comparison(struct session *s, struct copying *c)
{
    const struct verdict_copy *stream = &c->streams[c->at];
    c->rules_epoch = s->rules_epoch;
    for (size_t i = 0; i < stream->pair_count; i++) {
        struct compared *compared = &c->compared[i];
        compared->compares = comparing_rule(s, stream->pairs[i].rule, &compared->rule);
    }
}

/* The filter of the stream at hand. One that cannot be set up leaves the stream to the server's
 * refusal, or refuses it where the server would not. */
static void set_up(struct session *s)
{
    struct copying *c = s->copying_streams;
    c->is_refused = false;
    if (!is_filtered(c)) {
        return;
    }
    struct copy_options *options = &c->streams[c->at].options;
    const bool is_sure = options->has_encoding || (c->is_settled && options->key.is_alone);
    const bool compares = c->streams[c->at].pair_count > 0;
    options->key.is_in_encoding = is_in_encoding(s, options);
    c->in_encoding = options->key.is_in_encoding && (options->has_encoding || c->is_settled);
    memset(c->compared, 0, sizeof c->compared);
    set_up_comparison(s, c);
    if (!options->has_encoding) {
        options->encoding = s->copy_encoding;
    }
    options->csv_has_end_marker = s->server_major < 18;
    c->is_whole = false;
    c->is_held = options->may_lack;
    if (options->key.is_there && !is_sure) {
        c->is_refused = true;
    } else if (!copy_filter_init(&c->filter, options, compares ? on_row : NULL, c) ||
               (c->is_held && !copy_presence_init(&c->presence, options))) {
        c->is_refused = options->key.is_there;
        options->field_count = c->is_refused ? options->field_count : 0;
    } else {
        c->is_open = true;
    }
}

/* `text` is the statement's, masked: kept where it is to be told later. */
static bool begin(struct session *s, const struct verdict_copy *copies, size_t count,
                  const char *text)
{
    struct copying *c = copying_of(s);
    if (c == NULL) {
        return false;
    }
    tell_stream(s, c, false);
    end_streams(c);
    c->streams = malloc(count * sizeof *c->streams);
    if (c->streams == NULL) {
        return false;
    }
    memcpy(c->streams, copies, count * sizeof *c->streams);
    for (size_t i = 0; i < count && c->text == NULL; i++) {
        if (copies[i].awaits && (c->text = strdup(text)) == NULL) {
            return false;
        }
    }
    c->count = count;
    c->sync = s->syncs_sent + 1;
    c->is_settled = s->syncs_done == s->syncs_sent && !s->batch_executed;
    return true;
}

bool copying_begin(struct session *s, const struct verdict *verdict)
{
    if (!begin(s, verdict->copies, verdict->copy_count, verdict->masked_text)) {
        return false;
    }
    struct copying *c = s->copying_streams;
    for (size_t i = 0; i < c->count; i++) {
        c->streams[i].rule = s->rules->rule_index[c->streams[i].rule];
        for (size_t k = 0; k < c->streams[i].pair_count; k++) {
            c->streams[i].pairs[k].rule = s->rules->rule_index[c->streams[i].pairs[k].rule];
        }
    }
    c->fingerprint = verdict->fingerprint;
    c->extended = false;
    set_up(s);
    return true;
}

static bool is_named(const struct portal *portal, struct span name)
{
    size_t len = name.len < PORTAL_NAME ? name.len : PORTAL_NAME;
    return strlen(portal->name) == len && memcmp(portal->name, name.ptr, len) == 0;
}

static struct portal *find(const struct copying *c, struct span name)
{
    struct portal *portal;
    LL_FOREACH(c->portals, portal)
    {
        if (is_named(portal, name)) {
            return portal;
        }
    }
    return NULL;
}

static void forget(struct copying *c, struct portal *portal)
{
    LL_DELETE(c->portals, portal);
    portal_free(portal);
    c->portal_count--;
}

/* The oldest portal whose stream the server would refuse unfiltered gives way. False when there are
 * too many others. */
static bool make_room(struct copying *c)
{
    struct portal *portal;
    if (c->portal_count <= PORTALS_MAX) {
        return true;
    }
    LL_FOREACH(c->portals, portal)
    {
        if (!portal->copy.options.key.is_there) {
            forget(c, portal);
            return true;
        }
    }
    return c->portal_count <= COMPUTED_MAX;
}

bool copying_bound(struct session *s, struct span portal, const struct ledger_note *note)
{
    const struct verdict_copy *copy = note == NULL ? NULL : note->copy;
    struct copying *c = copy != NULL ? copying_of(s) : s->copying_streams;
    if (c == NULL) {
        return copy == NULL;
    }
    struct portal *old = find(c, portal);
    if (old != NULL) {
        forget(c, old);
    }
    if (copy == NULL) {
        return true;
    }
    struct portal *made = calloc(1, sizeof *made);
    if (made == NULL) {
        return false;
    }
    memcpy(made->name, portal.ptr, portal.len < PORTAL_NAME ? portal.len : PORTAL_NAME);
    made->copy = *copy;
    made->fingerprint = note->fingerprint;
    if (copy->awaits && (made->text = strdup(note->text)) == NULL) {
        portal_free(made);
        return false;
    }
    LL_APPEND(c->portals, made);
    c->portal_count++;
    return make_room(c);
}

bool copying_executed(struct session *s, struct span portal)
{
    struct portal *found = find(s->copying_streams, portal);
    if (found == NULL) {
        return true;
    }
    if (!begin(s, &found->copy, 1, found->text)) {
        return false;
    }
    s->copying_streams->fingerprint = found->fingerprint;
    s->copying_streams->extended = true;
    set_up(s);
    return true;
}

bool copying_filters(const struct session *s)
{
    return s->copying_streams != NULL && is_filtered(s->copying_streams);
}

/* As one CopyData: its boundaries mean nothing. */
static void put(struct session *s, const struct copy_run *runs, size_t count)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        total += runs[i].len;
    }
    if (total == 0) {
        return;
    }
    struct writer *w = batch_build(&s->worker->batch, FRAME_HEADER + total);
    if (w == NULL) {
        return;
    }
    writer_begin(w, 'd');
    for (size_t i = 0; i < count; i++) {
        writer_bytes(w, runs[i].bytes, runs[i].len);
    }
    writer_end(w);
    batch_built(&s->worker->batch);
}

/* The rows so far supply a value that is refused; NULL: none. */
static const struct compared *find_refused(const struct copying *c)
{
    for (size_t i = 0; i < c->streams[c->at].pair_count; i++) {
        if (c->compared[i].compares != NULL &&
            compare_refuses(c->compared[i].rule, &c->compared[i].found)) {
            return &c->compared[i];
        }
    }
    return NULL;
}

static void pass_on(struct session *s, const char *bytes, size_t len)
{
    struct copying *c = s->copying_streams;
    if (c->is_whole) {
        put(s, &(struct copy_run){bytes, len}, 1);
        return;
    }
    while (len > 0 && !c->is_refused) {
        size_t taken;
        size_t count = copy_filter_feed(&c->filter, bytes, len, &taken, c->runs, RUNS);
        c->is_refused = find_refused(c) != NULL;
        if (!c->is_refused) {
            put(s, c->runs, count);
        }
        bytes += taken;
        len -= taken;
    }
}

/* Lets go what is held. */
static void settle(struct session *s, bool is_whole)
{
    struct copying *c = s->copying_streams;
    c->is_held = false;
    c->is_whole = is_whole;
    c->is_open = c->is_open && !is_whole;
    if (!is_whole && c->streams[c->at].awaits) {
        judging_tell_carried(s, c->streams[c->at].rule, c->text, c->fingerprint, c->extended);
    }
    pass_on(s, c->held, c->held_len);
    c->held_len = 0;
}

/* False when there is no memory for it. */
static bool hold(struct copying *c, const char *bytes, size_t len)
{
    if (c->held_len + len > c->held_size) {
        const size_t size = 2 * (c->held_len + len);
        char *held = realloc(c->held, size);
        if (held == NULL) {
            return false;
        }
        c->held = held;
        c->held_size = size;
    }
    memcpy(c->held + c->held_len, bytes, len);
    c->held_len += len;
    return true;
}

void copying_data(struct session *s, const uint8_t *data, size_t len)
{
    struct copying *c = s->copying_streams;
    const char *bytes = (const char *)data;
    if (c == NULL || !is_filtered(c)) {
        return; /* the statement has failed while a part of the message was still to come */
    }
    if (c->rules_epoch != s->rules_epoch) {
        set_up_comparison(s, c);
    }
    if (c->is_held) {
        const enum copy_presence_found found = copy_presence_feed(&c->presence, bytes, len);
        if (found == COPY_PRESENCE_UNKNOWN && c->held_len + len <= HELD_MAX &&
            hold(c, bytes, len)) {
            return;
        }
        settle(s, found == COPY_PRESENCE_ABSENT);
    }
    pass_on(s, bytes, len);
}

/* A key that could not be computed. */
static const struct ledger_refusal *refuse_key(struct session *s, const struct copying *c)
{
    const struct copy_key *key = &c->streams[c->at].options.key;
    char message[COPY_NAME_MAX + 64], detail[COPY_NAME_MAX + 256];
    struct verdict verdict = {
        .action = VERDICT_REFUSE,
        .sqlstate = "428C9",
        .message = message,
        .detail = detail,
        .hint = "Load the rows by INSERT.",
    };
    snprintf(message, sizeof message, "column \"%s\" cannot be computed for this COPY", key->name);
    if (c->is_refused) {
        snprintf(detail, sizeof detail,
                 "client_encoding may have been changed by what was sent along with it.");
        verdict.hint = "Send the COPY by itself, or with the option ENCODING.";
    } else {
        snprintf(
            detail, sizeof detail,
            "The value of \"%s\" in row %" PRIu64 " is not one whose hash is certain outside of "
            "the server: it is longer than 8 kB, not in the server's encoding, or no valid value.",
            key->evaluation.column, c->filter.rows);
    }
    return ledger_refuse(&s->ledger, &verdict, c->sync);
}

/* Why the server gets CopyFail. */
static const struct ledger_refusal *refuse(struct session *s, const struct copying *c)
{
    const struct compared *compared = find_refused(c);
    struct compare_words words;
    struct verdict verdict = {.action = VERDICT_REFUSE};
    if (compared == NULL) {
        return refuse_key(s, c);
    }
    compare_refuse(compared->rule, &compared->found, &words, &verdict);
    return ledger_refuse(&s->ledger, &verdict, c->sync);
}

/* CopyFail, and what makes of the server's answer the refusal. */
static void put_failure(struct session *s, const struct copying *c)
{
    const struct ledger_refusal *refusal = refuse(s, c);
    char reason[LEDGER_POISON_MAX] = "out of memory";
    if (refusal != NULL) {
        ledger_mark(reason, session_service(s)->nonce, refusal->id);
    }
    struct writer *w = batch_build(&s->worker->batch, FRAME_HEADER + sizeof reason);
    if (w != NULL) {
        writer_begin(w, 'f');
        writer_cstr(w, reason);
        writer_end(w);
        batch_built(&s->worker->batch);
    }
    worker_add(&s->worker->counters.refused, 1);
}

/* The last of what stays. False when the stream is refused. */
static bool finish(struct session *s)
{
    struct copying *c = s->copying_streams;
    struct copy_run runs[COPY_RUNS_MIN];
    if (c->is_held) {
        settle(s, true); /* no row has ended: the server says what that is */
    }
    if (c->is_whole || c->is_refused) {
        return c->is_whole;
    }
    const size_t count = copy_filter_finish(&c->filter, runs, COPY_RUNS_MIN);
    if (find_refused(c) != NULL || c->filter.is_uncertain) {
        return false;
    }
    put(s, runs, count);
    return true;
}

bool copying_ended(struct session *s, bool done)
{
    struct copying *c = s->copying_streams;
    if (c == NULL || c->streams == NULL) {
        return false;
    }
    const bool fails = done && is_filtered(c) && !finish(s);
    if (fails) {
        put_failure(s, c);
    }
    tell_stream(s, c, fails);
    c->at++;
    if (c->at >= c->count || fails) {
        end_streams(c);
    } else {
        set_up(s);
    }
    return fails;
}

void copying_ready(struct session *s)
{
    struct copying *c = s->copying_streams;
    if (c == NULL) {
        return;
    }
    if (c->streams != NULL && s->syncs_done >= c->sync) {
        tell_stream(s, c, false);
        end_streams(c);
    }
    /* a portal ends with its transaction */
    if (s->transaction == 'I' && s->syncs_done == s->syncs_sent && c->streams == NULL) {
        copying_free(c);
        s->copying_streams = NULL;
    }
}
