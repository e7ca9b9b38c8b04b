/* Prepared statements and refusals of one session; see ledger.h. */
#include "proxy/session/ledger.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "rules/compare.h"

/* NAMEDATALEN - 1 */
#define NAME_BYTES 63

/* Room for more is given back when it is not needed. */
#define CHANGES_USUAL 4

struct ledger_named {
    UT_hash_handle hh;
    struct ledger_known known;
    char name[];
};

static void note_free(struct ledger_note *note)
{
    if (note == NULL) {
        return;
    }
    for (size_t i = 0; note->said != NULL && i < note->count; i++) {
        free(note->said[i]);
    }
    free(note->said);
    free(note->pairs);
    free(note->literals);
    free(note->compared);
    free(note->supplied);
    free(note->text);
    free(note->copy);
    free(note);
}

/* Copies a literal behind the `used` bytes of note->literals, which has no room yet when it is only
 * measured. */
static void keep_literal(struct ledger_note *note, const struct verdict *verdict,
                         struct value_ref *ref, size_t *used)
{
    if (ref->kind != VALUE_LITERAL) {
        return;
    }
    const char *literal = verdict->pair_text + ref->at;
    const size_t len = compare_literal_len(literal, verdict->pairs_conforming);
    if (note->literals != NULL) {
        memcpy(note->literals + *used, literal, len);
        note->literals[*used + len] = '\0';
        ref->at = (uint32_t)*used;
    }
    *used += len + 1;
}

/* The pairs that await parameters; false when out of memory. */
static bool note_pairs(struct ledger_note *note, const struct verdict *verdict)
{
    size_t used = 0;
    note->compared = calloc(note->count, sizeof *note->compared);
    note->pairs = malloc(verdict->pair_count * sizeof *note->pairs);
    if (note->compared == NULL || note->pairs == NULL) {
        return false;
    }
    note->conforming = verdict->pairs_conforming;
    note->in_encoding = verdict->pairs_in_encoding;
    for (size_t i = 0; i < verdict->pair_count; i++) {
        struct value_pair pair = verdict->pairs[i];
        if (pair.key.kind == VALUE_PARAM || pair.source.kind == VALUE_PARAM) {
            keep_literal(note, verdict, &pair.key, &used);
            keep_literal(note, verdict, &pair.source, &used);
            note->pairs[note->pair_count++] = pair;
        }
    }
    note->literals = malloc(used + 1);
    used = 0;
    for (size_t i = 0; note->literals != NULL && i < note->pair_count; i++) {
        keep_literal(note, verdict, &note->pairs[i].key, &used);
        keep_literal(note, verdict, &note->pairs[i].source, &used);
    }
    return note->literals != NULL;
}

static struct ledger_note *note_new(const struct verdict *verdict, const size_t *rule_index)
{
    struct ledger_note *note = calloc(1, sizeof *note);
    if (note == NULL) {
        return NULL;
    }
    note->count = verdict->supplied_count;
    note->supplied = calloc(note->count + 1, sizeof *note->supplied);
    note->text = strdup(verdict->masked_text != NULL ? verdict->masked_text : "");
    note->fingerprint = verdict->fingerprint;
    note->edited = verdict->action == VERDICT_EDIT;
    bool copied = true;
    if (verdict->copy_count > 0) {
        /* a prepared text is one statement */
        note->copy = malloc(sizeof *note->copy);
        copied = note->copy != NULL;
    }
    const bool has_pairs = verdict->pair_count == 0 || note_pairs(note, verdict);
    if (note->supplied == NULL || note->text == NULL || !copied || !has_pairs) {
        note_free(note);
        return NULL;
    }
    if (note->copy != NULL) {
        *note->copy = verdict->copies[0];
        note->copy->rule = rule_index[note->copy->rule];
        for (size_t i = 0; i < note->copy->pair_count; i++) {
            note->copy->pairs[i].rule = rule_index[note->copy->pairs[i].rule];
        }
    }
    for (size_t i = 0; i < note->count; i++) {
        note->supplied[i] = verdict->supplied[i];
        note->supplied[i].rule = rule_index[verdict->supplied[i].rule];
    }
    return note;
}

/* --- sources --- */

struct ledger_source *ledger_source_new(struct ledger *ledger, struct span text,
                                        const uint32_t *types, size_t type_count)
{
    const size_t size = sizeof(struct ledger_source) + type_count * sizeof *types + text.len + 1;
    if (size > LEDGER_SOURCE_MAX || size > LEDGER_SOURCES_MAX - ledger->source_bytes) {
        return NULL;
    }
    struct ledger_source *source = malloc(size);
    if (source == NULL) {
        return NULL;
    }
    uint32_t *own_types = (uint32_t *)(void *)(source + 1);
    char *own_text = (char *)(own_types + type_count);
    if (type_count > 0) {
        memcpy(own_types, types, type_count * sizeof *types);
    }
    memcpy(own_text, text.ptr, text.len);
    own_text[text.len] = '\0';
    *source = (struct ledger_source){.refs = 1,
                                     .size = size,
                                     .type_count = type_count,
                                     .len = text.len,
                                     .types = own_types,
                                     .text = own_text};
    ledger->source_bytes += size;
    return source;
}

static struct ledger_source *source_ref(struct ledger_source *source)
{
    if (source != NULL) {
        source->refs++;
    }
    return source;
}

void ledger_source_unref(struct ledger *ledger, struct ledger_source *source)
{
    if (source != NULL && --source->refs == 0) {
        ledger->source_bytes -= source->size;
        free(source);
    }
}

/* --- statements by name --- */

static bool is_notable(const struct ledger_statement *statement)
{
    return statement->writes != 0 || statement->note != NULL || statement->map != NULL ||
           statement->source != NULL || statement->touches;
}

static void statement_drop(struct ledger *ledger, struct ledger_statement *statement)
{
    ledger->edited_count -= statement->map != NULL;
    note_free(statement->note);
    position_map_unref(statement->map);
    ledger_source_unref(ledger, statement->source);
    *statement = (struct ledger_statement){0};
}

static void named_remove(struct ledger *ledger, struct ledger_named *named)
{
    HASH_DEL(ledger->named, named);
    statement_drop(ledger, &named->known.statement);
    free(named);
    ledger->named_count--;
}

/* The server tells names apart by their first bytes, as it does identifiers. */
static struct span key_of(struct span name)
{
    return (struct span){.ptr = name.ptr, .len = name.len < NAME_BYTES ? name.len : NAME_BYTES};
}

static struct ledger_named *named_find(const struct ledger *ledger, struct span name)
{
    struct ledger_named *named = NULL;
    if (ledger->named != NULL) {
        struct span key = key_of(name);
        HASH_FIND(hh, ledger->named, key.ptr, key.len, named);
    }
    return named;
}

static void refusal_fini(struct ledger_refusal *refusal)
{
    free(refusal->message);
    free(refusal->detail);
    free(refusal->hint);
}

static const struct ledger_known *known_find(const struct ledger *ledger, struct span name)
{
    if (name.len == 0) {
        return &ledger->unnamed;
    }
    const struct ledger_named *named = named_find(ledger, name);
    return named == NULL ? NULL : &named->known;
}

static struct ledger_named *named_add(struct ledger *ledger, struct span name)
{
    struct span key = key_of(name);
    struct ledger_named *named = calloc(1, sizeof *named + key.len + 1);
    if (named == NULL) {
        return NULL;
    }
    memcpy(named->name, key.ptr, key.len);
    HASH_ADD(hh, ledger->named, name, key.len, named);
    if (named->hh.tbl == NULL) {
        free(named);
        return NULL;
    }
    ledger->named_count++;
    return named;
}

/* What cannot be kept by its name is true of every statement. */
static void overflow(struct ledger *ledger, struct ledger_statement *statement)
{
    ledger->overflow_writes |= statement->writes;
    ledger->overflow_edited |= statement->map != NULL;
    ledger->overflow_sources |= statement->source != NULL ? statement->writes : 0;
    statement_drop(ledger, statement);
}

/* --- changes --- */

static struct ledger_change *change_at(const struct ledger *ledger, uint64_t number)
{
    return &ledger->changes[number & (ledger->change_room - 1)];
}

static const struct ledger_statement *newest_of(const struct ledger *ledger,
                                                const struct ledger_known *known)
{
    return known->pending > 0 ? &change_at(ledger, known->newest)->statement : &known->statement;
}

static bool has_change_room(struct ledger *ledger)
{
    if (ledger->change_end - ledger->change_first < ledger->change_room) {
        return true;
    }
    const size_t room = ledger->change_room == 0 ? CHANGES_USUAL : 2 * ledger->change_room;
    struct ledger_change *grown = malloc(room * sizeof *grown);
    if (grown == NULL) {
        return false;
    }
    for (uint64_t i = ledger->change_first; i < ledger->change_end; i++) {
        grown[i & (room - 1)] = *change_at(ledger, i);
    }
    free(ledger->changes);
    ledger->changes = grown;
    ledger->change_room = room;
    return true;
}

/* There are as many as can be. */
static void change_instead(struct ledger *ledger, struct ledger_known *known,
                           struct ledger_spot spot, struct ledger_statement *statement)
{
    struct ledger_change *newest = known->pending > 0 ? change_at(ledger, known->newest) : NULL;
    if (newest == NULL || newest->spot.sync != spot.sync) {
        overflow(ledger, statement);
        return;
    }
    ledger->overflow_writes |= statement->writes | newest->statement.writes;
    statement_drop(ledger, &newest->statement);
    newest->statement = *statement;
}

/* Takes `statement`. `named` is NULL for the unnamed one. False when out of memory. */
static bool change(struct ledger *ledger, struct ledger_spot spot, struct ledger_named *named,
                   struct ledger_statement *statement)
{
    struct ledger_known *known = named == NULL ? &ledger->unnamed : &named->known;
    if (ledger_is_behind(ledger)) {
        change_instead(ledger, known, spot, statement);
        return true;
    }
    if (!has_change_room(ledger)) {
        statement_drop(ledger, statement);
        return false;
    }
    known->newest = ledger->change_end++;
    known->pending++;
    ledger->own_count += statement->is_own;
    *change_at(ledger, known->newest) =
        (struct ledger_change){.named = named, .spot = spot, .statement = *statement};
    return true;
}

/* The server has another statement now, or has dropped the change. What is doubtful is taken for
 * what would be missed. */
static void settle_first(struct ledger *ledger, bool is_done)
{
    struct ledger_change *first = change_at(ledger, ledger->change_first++);
    struct ledger_known *known = first->named == NULL ? &ledger->unnamed : &first->named->known;
    if (first->is_doubtful) {
        is_done = is_notable(&first->statement);
        ledger->overflow_writes |= is_done ? known->statement.writes : 0;
        first->statement.is_gone = true; /* made anew, it is what it should be */
    }
    known->pending--;
    ledger->own_count -= first->statement.is_own;
    if (is_done) {
        statement_drop(ledger, &known->statement);
        known->statement = first->statement;
    } else {
        statement_drop(ledger, &first->statement);
    }
    if (first->named != NULL && known->pending == 0 && !is_notable(&known->statement)) {
        named_remove(ledger, first->named);
    }
    if (ledger->change_first == ledger->change_end && ledger->change_room > CHANGES_USUAL) {
        free(ledger->changes);
        ledger->changes = NULL;
        ledger->change_room = 0;
    }
}

static bool is_first_before(const struct ledger *ledger, uint64_t sync, uint32_t messages)
{
    if (ledger->change_first == ledger->change_end) {
        return false;
    }
    const struct ledger_spot spot = change_at(ledger, ledger->change_first)->spot;
    return spot.sync < sync || (spot.sync == sync && spot.message < messages);
}

void ledger_answered(struct ledger *ledger, uint64_t sync, uint32_t messages)
{
    while (is_first_before(ledger, sync, messages)) {
        settle_first(ledger, true);
    }
}

void ledger_failed(struct ledger *ledger, uint64_t sync, uint32_t messages)
{
    ledger_answered(ledger, sync, messages);
    while (is_first_before(ledger, sync + 1, 0)) {
        settle_first(ledger, false);
    }
    ledger->failed = sync;
}

void ledger_doubt(struct ledger *ledger, uint64_t sync, uint64_t counted)
{
    for (uint64_t i = ledger->change_end; i > ledger->change_first; i--) {
        struct ledger_change *doubtful = change_at(ledger, i - 1);
        if (doubtful->spot.sync <= sync) {
            return;
        }
        doubtful->is_doubtful = true;
        if (doubtful->spot.sync > counted) {
            doubtful->spot.sync = counted;
        }
    }
}

/* --- what the session says --- */

void ledger_fini(struct ledger *ledger)
{
    while (ledger->change_first < ledger->change_end) {
        settle_first(ledger, false);
    }
    free(ledger->changes);
    struct ledger_named *named, *next;
    HASH_ITER(hh, ledger->named, named, next)
    {
        named_remove(ledger, named);
    }
    statement_drop(ledger, &ledger->unnamed.statement);
    position_map_unref(ledger->portal);
    ledger_forget_places(ledger, UINT64_MAX);
    free(ledger->places);
    for (size_t i = 0; i < ledger->refusal_count; i++) {
        refusal_fini(&ledger->refusals[i]);
    }
    free(ledger->refusals);
    *ledger = (struct ledger){0};
}

/* Takes `statement`. False when out of memory. */
static bool put(struct ledger *ledger, struct ledger_spot spot, struct span name,
                struct ledger_statement *statement)
{
    struct ledger_named *named = name.len == 0 ? NULL : named_find(ledger, name);
    const struct ledger_known *known = name.len == 0   ? &ledger->unnamed
                                       : named == NULL ? NULL
                                                       : &named->known;
    const bool changes = is_notable(statement) ||
                         (known != NULL && (known->pending > 0 || is_notable(&known->statement)));
    if (!changes || ledger->failed == spot.sync) {
        statement_drop(ledger, statement);
        return true;
    }
    if (known == NULL && ledger->named_count >= LEDGER_NAMES_MAX) {
        overflow(ledger, statement);
        return true;
    }
    if (known == NULL) {
        named = named_add(ledger, name);
        if (named == NULL) {
            statement_drop(ledger, statement);
            return false;
        }
    }
    const bool changed = change(ledger, spot, named, statement);
    if (known == NULL && named->known.pending == 0) {
        named_remove(ledger, named);
    }
    return changed;
}

bool ledger_parsed(struct ledger *ledger, struct ledger_spot spot, struct span name,
                   const struct verdict *verdict, const size_t *rule_index,
                   const struct ledger_statement *as)
{
    struct ledger_statement statement = *as;
    statement.note = NULL;
    if (verdict->supplied_count > 0 || verdict->copy_count > 0) {
        statement.note = note_new(verdict, rule_index);
        if (statement.note == NULL) {
            return false;
        }
    }
    statement.map = position_map_ref(as->map);
    statement.source = source_ref(as->source);
    ledger->edited_count += statement.map != NULL;
    return put(ledger, spot, name, &statement);
}

bool ledger_remade(struct ledger *ledger, struct ledger_spot spot, struct span name,
                   const struct ledger_statement *was, const struct verdict *verdict,
                   const size_t *rule_index, const struct ledger_statement *as)
{
    struct ledger_statement closed = {
        .writes = was->writes, .source = source_ref(was->source), .is_gone = true, .is_own = true};
    struct ledger_statement parsed = *as;
    const struct ledger_spot behind = {.sync = spot.sync, .message = spot.message + 1};
    parsed.is_own = true;
    return put(ledger, spot, name, &closed) &&
           ledger_parsed(ledger, behind, name, verdict, rule_index, &parsed);
}

bool ledger_is_own(struct ledger *ledger, uint64_t sync, uint32_t message)
{
    ledger_answered(ledger, sync, message);
    if (ledger->change_first == ledger->change_end) {
        return false;
    }
    const struct ledger_change *first = change_at(ledger, ledger->change_first);
    return first->statement.is_own && first->spot.sync == sync && first->spot.message == message;
}

bool ledger_closed(struct ledger *ledger, struct ledger_spot spot, struct span name)
{
    return put(ledger, spot, name, &(struct ledger_statement){0});
}

void ledger_deallocated(struct ledger *ledger)
{
    struct ledger_named *named, *next;
    HASH_ITER(hh, ledger->named, named, next)
    {
        if (named->known.pending == 0) {
            named_remove(ledger, named);
        } else {
            statement_drop(ledger, &named->known.statement);
        }
    }
}

struct ledger_statement ledger_find(const struct ledger *ledger, struct span name)
{
    struct ledger_statement found = {0};
    const struct ledger_known *known = known_find(ledger, name);
    if (known != NULL) {
        found = *newest_of(ledger, known);
    } else if (ledger->overflow_edited) {
        found.map = &position_map_unknown;
    }
    found.writes |= ledger->overflow_writes;
    return found;
}

bool ledger_is_doubtful(const struct ledger *ledger, struct span name, uint64_t sync)
{
    if (ledger->change_first == ledger->change_end) {
        return false;
    }
    const struct ledger_known *known = known_find(ledger, name);
    if (known == NULL || known->pending == 0 ||
        change_at(ledger, known->newest)->spot.sync >= sync) {
        return false;
    }
    /* what there is not cannot be met */
    return known->pending > 1 || is_notable(&known->statement);
}

/* --- refusals --- */

static bool copy_string(char **to, const char *from)
{
    *to = from == NULL ? NULL : strdup(from);
    return from == NULL || *to != NULL;
}

static bool has_refusal(const struct ledger *ledger, uint64_t sync)
{
    return ledger->refusal_count > 0 && ledger->refusals[ledger->refusal_count - 1].sync == sync;
}

bool ledger_is_full(const struct ledger *ledger, uint64_t sync)
{
    return ledger->refusal_count >= LEDGER_REFUSALS_MAX && !has_refusal(ledger, sync);
}

const struct ledger_refusal *ledger_refuse(struct ledger *ledger, const struct verdict *verdict,
                                           uint64_t sync)
{
    if (has_refusal(ledger, sync)) {
        return &ledger->refusals[ledger->refusal_count - 1];
    }
    if (ledger_is_full(ledger, sync)) {
        return NULL;
    }
    struct ledger_refusal *grown =
        realloc(ledger->refusals, (ledger->refusal_count + 1) * sizeof *grown);
    if (grown == NULL) {
        return NULL;
    }
    ledger->refusals = grown;
    struct ledger_refusal *refusal = &grown[ledger->refusal_count];
    *refusal = (struct ledger_refusal){.id = ++ledger->next_refusal, .sync = sync};
    if (verdict->position > 0) {
        snprintf(refusal->position, sizeof refusal->position, "%zu", verdict->position);
    }
    snprintf(refusal->sqlstate, sizeof refusal->sqlstate, "%s", verdict->sqlstate);
    if (!copy_string(&refusal->message, verdict->message) ||
        !copy_string(&refusal->detail, verdict->detail) ||
        !copy_string(&refusal->hint, verdict->hint)) {
        refusal_fini(refusal);
        return NULL;
    }
    ledger->refusal_count++;
    return refusal;
}

static int write_mark(char *room, size_t size, const char *nonce, uint64_t id)
{
    return snprintf(room, size, "refused by pgsluice %s %" PRIu64 ".", nonce, id);
}

size_t ledger_mark(char room[LEDGER_POISON_MAX], const char *nonce, uint64_t id)
{
    return (size_t)write_mark(room, LEDGER_POISON_MAX, nonce, id);
}

size_t ledger_poison(char room[LEDGER_POISON_MAX], const char *nonce, uint64_t id)
{
    char mark[LEDGER_POISON_MAX / 2];
    write_mark(mark, sizeof mark, nonce, id);
    return (size_t)snprintf(room, LEDGER_POISON_MAX, "SELECT '%s'::pg_catalog.int4", mark);
}

const struct ledger_refusal *ledger_answers(const struct ledger *ledger, const char *nonce,
                                            const char *message, uint64_t sync)
{
    char mark[LEDGER_POISON_MAX / 2];
    for (size_t i = 0; i < ledger->refusal_count && ledger->refusals[i].sync <= sync; i++) {
        write_mark(mark, sizeof mark, nonce, ledger->refusals[i].id);
        if (ledger->refusals[i].sync == sync && strstr(message, mark) != NULL) {
            return &ledger->refusals[i];
        }
    }
    return NULL;
}

void ledger_ready(struct ledger *ledger, uint64_t sync)
{
    size_t ended = 0;
    ledger_answered(ledger, sync + 1, 0);
    while (ended < ledger->refusal_count && ledger->refusals[ended].sync <= sync) {
        refusal_fini(&ledger->refusals[ended]);
        ended++;
    }
    ledger_forget_places(ledger, sync);
    if (ended > 0) {
        ledger->refusal_count -= ended;
        memmove(ledger->refusals, ledger->refusals + ended,
                ledger->refusal_count * sizeof *ledger->refusals);
    }
}
