/* Which stream the client is sending, and its filter; see copying.h. */
#include "proxy/session/copying.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/frame.h"
#include "proxy/session/comparing.h"
#include <utlist.h>

/* Portals of such statements that are remembered; of more, the oldest is forgotten. */
#define PORTALS_MAX 8
#define PORTAL_NAME 63 /* NAMEDATALEN - 1 */
/* Runs between two messages: what stays of some hundred short rows. */
#define RUNS 256

/* Of a value that is compared, in its plain form; a longer one is not known. */
#define PLAIN_ROOM 1024

struct portal {
    struct portal *next;
    char name[PORTAL_NAME + 1];
    struct verdict_copy copy; /* its rules are the configuration's */
    uint64_t fingerprint;
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
    uint64_t sync; /* the number of the ReadyForQuery that ends it */
    struct copy_filter filter;
    bool is_open; /* the filter has begun with the stream at hand */
    struct compared compared[COPY_PAIRS_MAX];
    uint64_t rules_epoch; /* to which the rules in there belong */
    bool in_encoding;     /* the stream's text is in the server's */
    struct verdict refusal; /* action REFUSE: the server has got CopyFail for a value */
    struct compare_words words;
    uint64_t fingerprint;
    bool extended;
};

static struct copying *copying_of(struct session *s)
{
    if (s->copying_streams == NULL) {
        s->copying_streams = calloc(1, sizeof *s->copying_streams);
    }
    return s->copying_streams;
}

/* What the audit says of the rows that the filter has seen. */
static void tell_stream(struct session *s, struct copying *c)
{
    if (!c->is_open) {
        return;
    }
    c->is_open = false;
    for (size_t i = 0; i < c->streams[c->at].pair_count; i++) {
        judging_tell_copied(s, c->streams[c->at].pairs[i].rule, &c->refusal, &c->compared[i].found,
                            c->filter.rows, c->fingerprint, c->extended);
    }
}

static void end_streams(struct copying *c)
{
    free(c->streams);
    c->streams = NULL;
    c->count = c->at = 0;
}

void copying_gone(struct session *s)
{
    if (s->copying_streams != NULL) {
        tell_stream(s, s->copying_streams);
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
        free(portal);
    }
    end_streams(c);
    free(c);
}

static bool is_filtered(const struct copying *c)
{
    return c->streams != NULL && c->at < c->count && c->streams[c->at].options.field_count > 0;
}

static bool take_value(const struct copying *c, const struct copy_options *options,
                       const struct copy_value *value, char room[PLAIN_ROOM],
                       struct evaluation_input *out)
{
    size_t len;
    const enum copy_plain plain = copy_value_plain(options, value, room, PLAIN_ROOM, &len);
    *out = (struct evaluation_input){.bytes = room,
                                     .len = len,
                                     .is_null = plain == COPY_PLAIN_NULL,
                                     .is_binary = options->format == COPY_FORMAT_BINARY,
                                     .is_in_encoding = c->in_encoding};
    return plain != COPY_PLAIN_UNKNOWN;
}

/* One row that the server gets, or is about to refuse. */
static void on_row(void *context, const struct copy_value *values)
{
    struct copying *c = context;
    const struct verdict_copy *stream = &c->streams[c->at];
    const struct copy_options *options = &c->filter.options;
    const uint32_t row = c->filter.rows < UINT32_MAX ? (uint32_t)c->filter.rows : UINT32_MAX;
    char key_room[PLAIN_ROOM], source_room[PLAIN_ROOM];
    struct evaluation_input key, source;
    for (size_t i = 0; i < stream->pair_count; i++) {
        struct compared *compared = &c->compared[i];
        const struct copy_pair *pair = &stream->pairs[i];
        if (compared->compares != NULL &&
            take_value(c, options, &values[pair->key], key_room, &key) &&
            take_value(c, options, &values[pair->source], source_room, &source)) {
            compare_row(compared->compares, &key, &source, row, &compared->found);
        }
    }
}

/* Of a stream whose values are compared, by the rules of now. */
static void set_up_comparison(struct session *s, struct copying *c)
{
    const struct verdict_copy *stream = &c->streams[c->at];
    c->rules_epoch = s->rules_epoch;
    c->in_encoding = s->in_server_encoding && !stream->options.has_encoding;
    for (size_t i = 0; i < stream->pair_count; i++) {
        struct compared *compared = &c->compared[i];
        compared->compares = comparing_rule(s, stream->pairs[i].rule, &compared->rule);
    }
}

/* The filter of the stream at hand. One that cannot be set up leaves the stream to the server's refusal. */
static void set_up(struct session *s)
{
    struct copying *c = s->copying_streams;
    if (!is_filtered(c)) {
        return;
    }
    struct copy_options *options = &c->streams[c->at].options;
    const bool compares = c->streams[c->at].pair_count > 0;
    set_up_comparison(s, c);
    for (size_t i = 0; i < COPY_PAIRS_MAX; i++) {
        c->compared[i].found = (struct comparison){0};
    }
    if (!options->has_encoding) {
        options->encoding = s->copy_encoding;
    }
    options->csv_has_end_marker = s->server_major < 18;
    if (!copy_filter_init(&c->filter, options, compares ? on_row : NULL, c)) {
        options->field_count = 0;
        return;
    }
    c->is_open = true;
}

static bool begin(struct session *s, const struct verdict_copy *copies, size_t count)
{
    struct copying *c = copying_of(s);
    if (c == NULL) {
        return false;
    }
    tell_stream(s, c);
    end_streams(c);
    c->refusal = (struct verdict){.action = VERDICT_PASS};
    c->streams = malloc(count * sizeof *c->streams);
    if (c->streams == NULL) {
        return false;
    }
    memcpy(c->streams, copies, count * sizeof *c->streams);
    c->count = count;
    c->sync = s->syncs_sent + 1;
    return true;
}

bool copying_begin(struct session *s, const struct verdict *verdict)
{
    if (!begin(s, verdict->copies, verdict->copy_count)) {
        return false;
    }
    struct copying *c = s->copying_streams;
    for (size_t i = 0; i < c->count; i++) {
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
    free(portal);
    c->portal_count--;
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
    LL_APPEND(c->portals, made);
    c->portal_count++;
    if (c->portal_count > PORTALS_MAX) {
        forget(c, c->portals);
    }
    return true;
}

bool copying_executed(struct session *s, struct span portal)
{
    struct portal *found = find(s->copying_streams, portal);
    if (found == NULL) {
        return true;
    }
    if (!begin(s, &found->copy, 1)) {
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

/* The COPY fails in the server, which alone can fail a transaction. What the client still sends of it
 * goes nowhere. */
static void refuse(struct session *s, const struct compared *compared)
{
    struct copying *c = s->copying_streams;
    char mark[LEDGER_POISON_MAX];
    compare_refuse(compared->rule, &compared->found, &c->words, &c->refusal);
    struct writer *w = batch_build(&s->worker->batch, FRAME_HEADER + sizeof mark);
    if (!judging_refuse_copy(s, &c->refusal, c->sync, mark) || w == NULL) {
        session_fail(s, "53200", "out of memory");
        return;
    }
    writer_begin(w, 'f');
    writer_cstr(w, mark);
    writer_end(w);
    batch_built(&s->worker->batch);
    frontend_note_copy_end(s);
    worker_add(&s->worker->counters.refused, 1);
}

/* A value in the rows so far that is refused; NULL: none. */
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

void copying_data(struct session *s, const uint8_t *bytes, size_t len)
{
    struct copying *c = s->copying_streams;
    struct copy_run runs[RUNS];
    if (c == NULL || !is_filtered(c)) {
        return; /* the COPY has failed while a part of the message was still to come */
    }
    if (c->rules_epoch != s->rules_epoch) {
        set_up_comparison(s, c);
    }
    while (len > 0 && c->refusal.action != VERDICT_REFUSE) {
        size_t taken;
        size_t count = copy_filter_feed(&c->filter, (const char *)bytes, len, &taken, runs, RUNS);
        const struct compared *refused = find_refused(c);
        if (refused != NULL) {
            refuse(s, refused);
            return;
        }
        put(s, runs, count);
        bytes += taken;
        len -= taken;
    }
}

bool copying_ended(struct session *s, bool done)
{
    struct copying *c = s->copying_streams;
    struct copy_run runs[COPY_RUNS_MIN];
    if (c == NULL || c->streams == NULL) {
        return false;
    }
    bool was_refused = c->refusal.action == VERDICT_REFUSE;
    if (done && is_filtered(c) && !was_refused) {
        const size_t count = copy_filter_finish(&c->filter, runs, COPY_RUNS_MIN);
        const struct compared *refused = find_refused(c);
        if (refused == NULL) {
            put(s, runs, count);
        } else {
            refuse(s, refused);
            was_refused = true;
        }
    }
    tell_stream(s, c);
    c->at++;
    if (c->at >= c->count || was_refused) {
        end_streams(c);
    } else {
        set_up(s);
    }
    return was_refused;
}

void copying_ready(struct session *s)
{
    struct copying *c = s->copying_streams;
    if (c == NULL) {
        return;
    }
    if (c->streams != NULL && s->syncs_done >= c->sync) {
        tell_stream(s, c);
        end_streams(c);
    }
    /* a portal ends with its transaction */
    if (s->transaction == 'I' && s->syncs_done == s->syncs_sent && c->streams == NULL) {
        copying_free(c);
        s->copying_streams = NULL;
    }
}
