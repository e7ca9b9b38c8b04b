/* Which stream the client is sending, and its filter; see copying.h. */
#include "proxy/session/copying.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/frame.h"
#include "proxy/service.h"
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

struct portal {
    struct portal *next;
    char name[PORTAL_NAME + 1];
    struct verdict_copy copy;
};

struct copying {
    struct portal *portals; /* oldest first */
    unsigned portal_count;
    /* The streams of the statement under way. */
    struct verdict_copy *streams; /* NULL: none */
    size_t count, at;
    uint64_t sync; /* the number of the ReadyForQuery that ends it */
    bool is_settled; /* nothing can have changed client_encoding unseen */
    bool is_refused; /* the stream at hand goes nowhere */
    struct copy_filter filter;
    struct copy_presence presence;
    bool is_held, is_whole; /* not known yet whether the filter is for it; it is not */
    char *held;
    size_t held_len, held_size;
};

static struct copying *copying_of(struct session *s)
{
    if (s->copying_streams == NULL) {
        s->copying_streams = calloc(1, sizeof *s->copying_streams);
    }
    return s->copying_streams;
}

static void end_streams(struct copying *c)
{
    free(c->streams);
    c->streams = NULL;
    c->count = c->at = 0;
    free(c->held);
    c->held = NULL;
    c->held_len = c->held_size = 0;
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

/* Characters of the stream at hand are the server's own. SQL_ASCII converts nothing. */
static bool is_in_encoding(const struct session *s, const struct copy_options *options)
{
    const bool is_utf8 = options->has_encoding ? options->key.is_utf8
                                               : s->client_characters == CHARACTERS_UTF8;
    return s->server_characters == CHARACTERS_ANY ||
           (s->server_characters == CHARACTERS_UTF8 && is_utf8);
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
    options->key.is_in_encoding = is_in_encoding(s, options);
    if (!options->has_encoding) {
        options->encoding = s->copy_encoding;
    }
    options->csv_has_end_marker = s->server_major < 18;
    c->is_whole = false;
    c->is_held = options->may_lack;
    if (options->key.is_there && !is_sure) {
        c->is_refused = true;
    } else if (!copy_filter_init(&c->filter, options, NULL, NULL) ||
               (c->is_held && !copy_presence_init(&c->presence, options))) {
        c->is_refused = options->key.is_there;
        options->field_count = c->is_refused ? options->field_count : 0;
    }
}

bool copying_begin(struct session *s, const struct verdict_copy *copies, size_t count)
{
    struct copying *c = copying_of(s);
    if (c == NULL) {
        return false;
    }
    end_streams(c);
    c->streams = malloc(count * sizeof *c->streams);
    if (c->streams == NULL) {
        return false;
    }
    memcpy(c->streams, copies, count * sizeof *c->streams);
    c->count = count;
    c->sync = s->syncs_sent + 1;
    c->is_settled = s->syncs_done == s->syncs_sent && !s->batch_executed;
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

bool copying_bound(struct session *s, struct span portal, const struct verdict_copy *copy)
{
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
    LL_APPEND(c->portals, made);
    c->portal_count++;
    return make_room(c);
}

bool copying_executed(struct session *s, struct span portal)
{
    struct portal *found = find(s->copying_streams, portal);
    return found == NULL || copying_begin(s, &found->copy, 1);
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

static void pass_on(struct session *s, const char *bytes, size_t len)
{
    struct copying *c = s->copying_streams;
    struct copy_run runs[RUNS] = {{bytes, len}};
    if (c->is_whole) {
        put(s, runs, 1);
        return;
    }
    while (len > 0 && !c->is_refused) {
        size_t taken;
        size_t count = copy_filter_feed(&c->filter, bytes, len, &taken, runs, RUNS);
        put(s, runs, count);
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
    if (c->is_held) {
        const enum copy_presence_found found = copy_presence_feed(&c->presence, bytes, len);
        if (found == COPY_PRESENCE_UNKNOWN && c->held_len + len <= HELD_MAX && hold(c, bytes, len)) {
            return;
        }
        settle(s, found == COPY_PRESENCE_ABSENT);
    }
    pass_on(s, bytes, len);
}

/* Why the server got CopyFail. */
static const struct ledger_refusal *refuse(struct session *s, const struct copying *c)
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
        snprintf(detail, sizeof detail,
                 "The value of \"%s\" in row %" PRIu64 " is not one whose hash is certain outside of "
                 "the server: it is longer than 8 kB, not in the server's encoding, or no valid value.",
                 key->evaluation.column, c->filter.rows);
    }
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
        writer_bytes(w, reason, strlen(reason) + 1);
        writer_end(w);
        batch_built(&s->worker->batch);
    }
}

bool copying_ended(struct session *s, bool done)
{
    struct copying *c = s->copying_streams;
    struct copy_run runs[COPY_RUNS_MIN];
    bool fails = false;
    if (c == NULL || c->streams == NULL) {
        return false;
    }
    if (done && is_filtered(c)) {
        if (c->is_held) {
            settle(s, true); /* no row has ended: the server says what that is */
        }
        if (!c->is_refused && !c->is_whole) {
            put(s, runs, copy_filter_finish(&c->filter, runs, COPY_RUNS_MIN));
        }
        fails = c->is_refused || (!c->is_whole && c->filter.is_uncertain);
    }
    if (fails) {
        put_failure(s, c);
    }
    c->at++;
    if (c->at >= c->count) {
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
        end_streams(c);
    }
    /* a portal ends with its transaction */
    if (s->transaction == 'I' && s->syncs_done == s->syncs_sent && c->streams == NULL) {
        copying_free(c);
        s->copying_streams = NULL;
    }
}
