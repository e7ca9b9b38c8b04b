/*
 * The judge: limits, cache, parse, walk, edits, and the check of the own work. Called by the
 * proxy's sessions through rules.h; owns the verdict cache and the memory of the last verdict.
 */
#include "rules/analysis.h"

#include <stdlib.h>
#include <string.h>

#include "rules/arena.h"
#include "rules/compare.h"
#include "rules/encoding.h"
#include "rules/lex_cost.h"
#include "rules/mask.h"
#include "rules/verdict_cache.h"

enum {
    /* The parser needs some ten times a text's size, */
    JUDGED_TEXT_MAX = 16 * 1024 * 1024,
    /* a bulk load, of which it sees one row, two or three times. */
    BULK_TEXT_MAX = 64 * 1024 * 1024,
    /* What is judged at once: at the most so much is parsed, at some 250 nanoseconds a byte, of a
     * text that is gone through at some 5. */
    PARSED_AT_ONCE = 8 * 1024,
    READ_AT_ONCE = 384 * 1024,
};

struct judge {
    struct arena arena; /* of the last verdict, unless it came from the cache */
    struct verdict_cache *cache;
    const struct rule_set *set; /* that the cache is about */
    uint64_t hits, misses;
    struct verdict_kept last; /* what was found out last */
    struct verdict filled;    /* one that was kept for a shape, with the text at hand */
    char *room;               /* of its edited text */
    size_t room_size;
    struct kept_text kept_room[KEPT_MAX]; /* and what that has of it */
    struct verdict compared;              /* the last one, once its values were compared */
    bool is_compared;
    struct compare_words words; /* of its refusal */
    struct supplied *supplied_room;
    size_t supplied_size;
    struct value_pair *pair_room;
    size_t pair_size;
    struct shape shape, edited_shape;
    bool has_shape;  /* the text at hand has, and it is `shape` */
    bool is_at_once; /* gives up what takes long */
    bool gave_up;
    struct sql_scope scope; /* of what is parsed now */
    bool is_to_keep;        /* the last verdict, under `key` */
    struct judge_input key; /* under which its verdict is kept: the shape's, or its own */
};

struct judge *judge_new(size_t cache_bytes)
{
    struct judge *judge = calloc(1, sizeof *judge);
    if (judge == NULL) {
        return NULL;
    }
    judge->cache = verdict_cache_new(cache_bytes);
    if (judge->cache == NULL) {
        free(judge);
        return NULL;
    }
    return judge;
}

void judge_free(struct judge *judge)
{
    if (judge != NULL) {
        verdict_cache_free(judge->cache);
        arena_free(&judge->arena);
        free(judge->room);
        free(judge->supplied_room);
        free(judge->pair_room);
        free(judge);
    }
}

void judge_count(const struct judge *judge, struct judge_counters *out)
{
    *out = (struct judge_counters){
        .hits = judge->hits,
        .misses = judge->misses,
        .bytes = verdict_cache_bytes(judge->cache),
    };
}

/* What to do with a text that nobody can look into. */
struct blindness {
    const char *statement; /* for the audit */
    struct refusal refusal;
    bool is_unparsed; /* the rule has its word */
    bool hides_names; /* those beyond ASCII, so that their rules may be concerned as well */
};

/* The server computes a generated column on every road, but after a cutover in place it would take
 * a positional insert in the new order. */
static bool server_guards(const struct rule *rule, const char *text, size_t len)
{
    return rule->shape == RULE_SHAPE_GENERATED &&
           !(rule->reordered &&
             (text_mentions(text, len, "insert") || text_mentions(text, len, "merge")));
}

static bool leaves_unparsed(const struct rule *rule, const char *text, size_t len)
{
    return rule->on_unparsed == RULE_UNPARSED_PASS ||
           (rule->on_unparsed == RULE_UNPARSED_BY_SHAPE && server_guards(rule, text, len));
}

static void judge_blindly(struct analysis *a, const struct blindness *blindness)
{
    uint64_t rules = rule_set_mentioned(a->set, a->text, a->len) |
                     (blindness->hides_names ? rule_set_beyond_ascii(a->set) : 0);
    a->is_blind = true;
    a->writes |= rules;
    a->schema_change |= rules != 0;
    for (; rules != 0; rules &= rules - 1) {
        const struct rule *rule = rule_set_get(a->set, rule_first(rules));
        analysis_record(a, rule_first(rules), &(struct supply){.statement = blindness->statement});
        if (rule->mode == RULE_MODE_OBSERVE ||
            (blindness->is_unparsed && leaves_unparsed(rule, a->text, a->len))) {
            continue;
        }
        struct refusal refusal = blindness->refusal;
        refusal.detail = arena_printf(a->arena,
                                      "Rule \"%s\" of pgsluice guards table \"%s.%s\", which the "
                                      "text may concern: %s.",
                                      rule->name, rule->schema, rule->table, refusal.detail);
        if (blindness->is_unparsed) {
            refusal.hint = arena_printf(
                a->arena,
                "Set on_unparsed = pass in rule \"%s\" to leave such texts to the server.",
                rule->name);
        }
        analysis_refuse(a, refusal);
    }
}

static const struct blindness too_long = {
    .statement = "too long",
    .refusal = {.sqlstate = "54000",
                .message = "statement is too long to be judged",
                .detail = "pgsluice reads texts of up to 16 MB, and up to 64 MB of rows of "
                          "plain literals",
                .hint = "Split it, or send the rows by COPY."},
};

static const struct blindness too_complex = {
    .statement = "too complex",
    .refusal = {.sqlstate = "54001",
                .message = "statement is too complex to be judged",
                .detail = "it is nested too deeply, has runs of operators that are too long, or "
                          "more than two million tokens"},
};

static const struct blindness unreadable = {
    .statement = "not readable",
    .refusal = {.sqlstate = "22021",
                .message = "invalid byte sequence for encoding \"UTF8\"",
                .detail = "a text in this client_encoding cannot be judged unless it is ASCII or "
                          "valid UTF-8"},
};

static const struct blindness foreign = {
    .statement = "not readable",
    .refusal = {.sqlstate = "0A000",
                .message = "statement cannot be judged in this client_encoding",
                .detail =
                    "names of that rule have letters beyond ASCII, and so has the text, which is "
                    "in other bytes than these names",
                .hint = "Set client_encoding to UTF8, in a database whose encoding that is."},
    .hides_names = true,
};

static const struct blindness unsettled = {
    .statement = "not readable",
    .refusal = {.sqlstate = "0A000",
                .message = "statement cannot be judged behind another one of its own batch",
                .detail =
                    "standard_conforming_strings or client_encoding may have changed ahead of "
                    "it, and where a literal of it ends depends on them",
                .hint = "Send a Sync in front of it, or bind values with a backslash as "
                        "parameters."},
    .hides_names = true,
};

static bool is_unsettled(enum text_encoding encoding)
{
    return encoding == TEXT_ENCODING_UNKNOWN || encoding == TEXT_ENCODING_UNSETTLED;
}

/* Why a text is not readable. */
static const struct blindness *blindness_of(enum text_encoding encoding)
{
    if (encoding == TEXT_ENCODING_FOREIGN) {
        return &foreign;
    }
    return is_unsettled(encoding) ? &unsettled : &unreadable;
}

static void judge_unparsed(struct analysis *a, const char *parser_message, size_t position)
{
    judge_blindly(a, &(struct blindness){
                         .statement = "not parsed",
                         .refusal = {.sqlstate = "42601",
                                     .message = parser_message,
                                     .detail = "its parser, PostgreSQL 15's, cannot read it",
                                     /* what was parsed of a bulk load is not the client's text */
                                     .position = a->bulk == NULL ? position : 0},
                         .is_unparsed = true,
                     });
}

static void judge_parsed(struct analysis *a)
{
    for (int i = 0; i < list_length(a->statements); i++) {
        a->statement = list_nth(a->statements, i);
        statement_judge(a, a->statement->stmt);
    }
    if (a->is_cut_short) {
        judge_blindly(a, &too_complex);
    } else if (!a->is_refused) {
        stars_expand(a);
    }
}

static bool is_too_long(const struct bulk *bulk, size_t len)
{
    return bulk == NULL ? len > JUDGED_TEXT_MAX
                        : len > BULK_TEXT_MAX || bulk->short_len > JUDGED_TEXT_MAX;
}

/* Of rows that are ASCII nothing can be unreadable, nor what stands around them made so; only where
 * it is not known what a backslash means, it matters whether they have one. */
static bool is_readable(const struct bulk *bulk, enum text_encoding encoding, const char *text,
                        size_t len)
{
    return bulk != NULL && bulk->is_ascii && !is_unsettled(encoding)
               ? encoding_is_readable(encoding, bulk->short_text, bulk->short_len)
               : encoding_is_readable(encoding, text, len);
}

static void analyse(struct analysis *a, const struct judge_input *input)
{
    if (is_too_long(a->bulk, a->len)) {
        judge_blindly(a, &too_long);
        return;
    }
    if (!is_readable(a->bulk, input->encoding, a->text, a->len)) {
        judge_blindly(a, blindness_of(input->encoding));
        return;
    }
    if (a->bulk != NULL) {
        a->text = a->bulk->short_text;
        a->len = a->bulk->short_len;
    }
    if (!lex_cost_is_bounded(a->text, a->len, input->standard_conforming_strings)) {
        judge_blindly(a, &too_complex);
        return;
    }
    const char *error;
    size_t position = 0;
    a->statements = sql_parse(a->text, a->arena, &error, &position);
    if (error != NULL) {
        judge_unparsed(a, error, position);
        return;
    }
    judge_parsed(a);
}

static struct analysis begin(struct arena *arena, const struct rule_set *set, const char *text,
                             size_t len, const struct judge_input *input)
{
    return (struct analysis){
        .arena = arena,
        .set = set,
        .text = text,
        .len = len,
        .is_single_use = !input->extended,
        .has_params = input->extended,
        .declared = input->param_types,
        .declared_count = input->param_type_count,
        .is_conforming = input->standard_conforming_strings,
        .is_unsettled = is_unsettled(input->encoding),
        .is_in_server_encoding = input->is_in_server_encoding,
        .columns_change = input->columns_change,
    };
}

/* The edited text must mean what was intended, and it is judged like a client's: it must write the
 * same tables and leave nothing to edit. */
static bool is_clean(struct analysis *a, const char *text, size_t len,
                     const struct judge_input *input)
{
    struct analysis again = begin(a->arena, a->set, text, len, input);
    analyse(&again, input);
    return !again.is_refused && again.edit_count == 0 && again.writes == a->writes &&
           again.prepares == a->prepares && revision_is_made(a, again.statements);
}

static void set_params(struct verdict *verdict, const struct analysis *a,
                       const struct judge_input *input)
{
    size_t count = input->param_type_count;
    for (size_t i = 0; i < a->param_count; i++) {
        const size_t number = (size_t)a->params[i].number;
        count = number > count ? number : count;
    }
    uint32_t *types = arena_alloc(a->arena, (count + 1) * sizeof *types);
    memset(types, 0, count * sizeof *types);
    if (input->param_type_count > 0) {
        memcpy(types, input->param_types, input->param_type_count * sizeof *types);
    }
    for (size_t i = 0; i < a->param_count; i++) {
        types[a->params[i].number - 1] = a->params[i].type_oid;
    }
    verdict->param_types = types;
    verdict->param_type_count = count;
}

static void edit(struct verdict *verdict, struct analysis *a, const struct judge_input *input)
{
    size_t len = 0, mark = a->bulk == NULL ? 0 : a->bulk->cut_from;
    const char *text = analysis_apply_edits(a, &len, &mark);
    if (text == NULL || !is_clean(a, text, len, input)) {
        analysis_refuse(a,
                        (struct refusal){
                            .sqlstate = "XX000",
                            .message = "pgsluice could not verify its own edit of this statement",
                            .hint = "Leave the computed column out of the statement.",
                        });
        return;
    }
    struct kept_list *kept = arena_alloc(a->arena, sizeof *kept);
    kept->count = 0;
    kept->is_cut = false;
    if (a->bulk != NULL) {
        const struct bulk_edited edited = {
            .text = text, .len = len, .at = mark, .kept = a->kept, .kept_count = a->kept_count};
        text = bulk_restore(a->bulk, a->arena, &edited, a->bulk_edit, &len, kept);
    } else {
        for (size_t i = 0; i < a->kept_count; i++) {
            kept_add(kept, a->kept[i]);
        }
    }
    verdict->action = VERDICT_EDIT;
    verdict->text = text;
    verdict->text_len = len;
    verdict->kept = kept->items;
    verdict->kept_count = kept->count;
    verdict->is_kept_cut = kept->is_cut;
    set_params(verdict, a, input);
}

/* For the audit. */
static void describe(struct verdict *verdict, const struct analysis *a)
{
    if (a->statements == NIL) {
        verdict->masked_text = mask_unparsed(a->arena, a->text, a->len);
        return;
    }
    struct token_list tokens = a->tokens;
    if (tokens.items == NULL) {
        tokens = sql_lex(a->text, a->arena, MASKED_TEXT_MAX);
    }
    const bool is_cut = a->bulk != NULL || a->text[tokens.items[tokens.count].start] != '\0';
    verdict->masked_text = mask_tokens(a->arena, a->text, &tokens, is_cut);
    verdict->fingerprint = sql_fingerprint(a->statements);
}

static void set_plain(struct verdict *verdict, const struct bulk *bulk)
{
    verdict->plain_from = bulk->cut_from;
    verdict->plain_to = bulk->cut_to;
}

static void set_copies(struct verdict *verdict, const struct analysis *a)
{
    for (size_t i = 0; i < a->copy_count; i++) {
        if (a->copies[i].options.field_count > 0) {
            verdict->copies = a->copies;
            verdict->copy_count = a->copy_count;
        }
    }
}

/* Whether a stream gets a column, for which the text may have been right as it was. */
static bool adds_to_stream(const struct analysis *a)
{
    for (size_t i = 0; i < a->copy_count; i++) {
        if (a->copies[i].options.key.is_there) {
            return true;
        }
    }
    return false;
}

static void conclude(struct verdict *verdict, struct analysis *a, const struct judge_input *input)
{
    *verdict = (struct verdict){.action = VERDICT_PASS};
    if (a->bulk != NULL) {
        set_plain(verdict, a->bulk);
    }
    if (a->supplied_count > 0) {
        describe(verdict, a);
    }
    if ((a->edit_count > 0 || adds_to_stream(a)) && !a->is_refused) {
        edit(verdict, a, input);
    }
    if (a->is_refused) {
        verdict->action = VERDICT_REFUSE;
        verdict->sqlstate = a->refusal.sqlstate;
        verdict->message = a->refusal.message;
        verdict->detail = a->refusal.detail;
        verdict->hint = a->refusal.hint;
        verdict->position = a->refusal.position;
    }
    if (verdict->action == VERDICT_EDIT) {
        set_copies(verdict, a);
    }
    verdict->writes = a->writes;
    verdict->prepares = a->prepares;
    verdict->schema_change = a->schema_change;
    verdict->columns_change = a->columns_change;
    verdict->supplied = a->supplied;
    verdict->supplied_count = a->supplied_count;
    verdict->pairs = a->pairs;
    verdict->pair_count = a->pair_count;
}

static void set_key(struct judge *judge, const struct judge_input *input)
{
    judge->key = *input;
    judge->has_shape = shape_read(&judge->shape, input);
    if (judge->has_shape) {
        judge->key.text = judge->shape.key;
        judge->key.len = judge->shape.key_len;
    }
}

/* What is left of a bulk load is found by its shape, where the verdict has nothing to do with the
 * rows that were cut out. Such shapes bear a mark: the same text by itself is another matter. */
static bool find_for_rows(struct judge *judge, const struct bulk *bulk,
                          const struct judge_input *input)
{
    struct judge_input rest = *input;
    rest.text = bulk->short_text;
    rest.len = bulk->short_len;
    set_key(judge, &rest);
    judge->has_shape = judge->has_shape && shape_mark(&judge->shape, 'b');
    judge->key.len = judge->shape.key_len;
    if (!judge->has_shape || is_too_long(bulk, input->len)) {
        return false;
    }
    const struct verdict_kept *kept = verdict_cache_get(judge->cache, &judge->key);
    if (kept == NULL || !is_readable(bulk, input->encoding, input->text, input->len)) {
        return false;
    }
    judge->last = *kept;
    set_plain(&judge->last.verdict, bulk);
    return true;
}

static bool lift_pairs(struct judge *judge, const struct analysis *a)
{
    struct value_pair *lifted = arena_alloc(a->arena, (a->pair_count + 1) * sizeof *lifted);
    judge->last.lifted_pairs = a->pair_count == 0 ? NULL : lifted;
    return shape_lift_pairs(&judge->shape, a->pairs, a->pair_count, lifted);
}

/* Whether the verdict holds for every text with the judge's key, and where literals go in the
 * edited text. A refusal may speak of a literal, or of its place. */
static bool is_for_key(struct judge *judge, const struct analysis *a,
                       const struct judge_input *input)
{
    struct verdict_kept *last = &judge->last;
    const enum verdict_action action = last->verdict.action;
    if (a->bulk != NULL) {
        return judge->has_shape && !a->is_blind && !a->asks_bulk && action == VERDICT_PASS &&
               a->pair_count == 0;
    }
    if (!judge->has_shape || judge->shape.literal_count == 0) {
        return true;
    }
    if (a->is_blind || a->asks_literals || action == VERDICT_REFUSE || !lift_pairs(judge, a)) {
        return false;
    }
    if (action == VERDICT_PASS) {
        return true;
    }
    struct shape_slot *slots = arena_alloc(a->arena, SHAPE_LITERALS_MAX * sizeof *slots);
    struct judge_input edited = *input;
    edited.text = last->verdict.text;
    edited.len = last->verdict.text_len;
    last->slots = slots;
    struct kept_text *lifted = arena_alloc(a->arena, last->verdict.kept_count * sizeof *lifted);
    shape_lift_kept(&judge->shape, last->verdict.kept, last->verdict.kept_count, lifted);
    last->lifted = lifted;
    return shape_find_slots(&judge->shape, a->repeated, a->repeated_count, &edited,
                            &judge->edited_shape, slots, &last->slot_count);
}

/* What is left of the text is parsed within some two milliseconds. */
static bool is_quick(const struct analysis *a, const struct judge_input *input)
{
    const char *text = a->bulk == NULL ? a->text : a->bulk->short_text;
    const size_t len = a->bulk == NULL ? a->len : a->bulk->short_len;
    return len <= PARSED_AT_ONCE && lex_cost_is_low(text, len, input->standard_conforming_strings);
}

static void judge_in_arena(struct judge *judge, const struct judge_input *input)
{
    struct analysis a = begin(&judge->arena, judge->set, input->text, input->len, input);
    struct bulk bulk;
    if (bulk_shorten(&bulk, &judge->arena, a.text, a.len, input->standard_conforming_strings)) {
        a.bulk = &bulk;
        if (find_for_rows(judge, &bulk, input)) {
            judge->hits++;
            return;
        }
    }
    if (judge->is_at_once && !is_quick(&a, input)) {
        judge->gave_up = true;
        return;
    }
    sql_enter(&judge->scope, input->standard_conforming_strings);
    judge->misses++;
    analyse(&a, input);
    if (a.needs_bulk) {
        a = begin(&judge->arena, judge->set, input->text, input->len, input);
        set_key(judge, input);
        analyse(&a, input);
    }
    judge->last = (struct verdict_kept){0};
    conclude(&judge->last.verdict, &a, input);
    judge->is_to_keep = is_for_key(judge, &a, input);
}

/* False when out of memory. What a jump may leave half done is in the scope and the arena alone. */
static bool judge_anew(struct judge *judge, const struct judge_input *input)
{
    jmp_buf out_of_memory;
    judge->arena.out_of_memory = &out_of_memory;
    const bool is_whole = setjmp(out_of_memory) == 0;
    if (is_whole) {
        judge_in_arena(judge, input);
    }
    sql_leave(&judge->scope);
    return is_whole;
}

/* The verdict for a shape, with what the text at hand has in its place of literals. NULL when out
 * of memory. */
static const struct verdict *fill(struct judge *judge, const struct verdict_kept *kept,
                                  const struct judge_input *input)
{
    if (kept->verdict.action != VERDICT_EDIT || kept->lifted == NULL) {
        return &kept->verdict;
    }
    const size_t size =
        shape_fill_room(&judge->shape, kept->verdict.text_len, kept->slots, kept->slot_count);
    if (size > judge->room_size) {
        free(judge->room);
        judge->room = malloc(size);
        judge->room_size = judge->room == NULL ? 0 : size;
    }
    if (judge->room == NULL) {
        return NULL;
    }
    judge->filled = kept->verdict;
    judge->filled.text = judge->room;
    judge->filled.text_len = shape_fill(judge->room, &judge->shape, input->text, kept->verdict.text,
                                        kept->verdict.text_len, kept->slots, kept->slot_count);
    judge->filled.kept = judge->kept_room;
    shape_lay_kept(&judge->shape, kept->lifted, kept->verdict.kept_count, kept->slots,
                   kept->slot_count, judge->kept_room);
    return &judge->filled;
}

/* Room for so many items of a size; what it held is lost. False when out of memory. */
static bool make_room(void **room, size_t *room_size, size_t count, size_t size)
{
    if (count * size > *room_size) {
        free(*room);
        *room = malloc(count * size);
        *room_size = *room == NULL ? 0 : count * size;
    }
    return *room != NULL;
}

static bool is_to_compare(const struct verdict *verdict)
{
    for (size_t i = 0; i < verdict->supplied_count; i++) {
        if (verdict->supplied[i].compared.mismatched > 0) {
            return true;
        }
    }
    return verdict->pair_count > 0;
}

static void compare_literals(struct judge *judge, const struct judge_input *input)
{
    struct verdict *verdict = &judge->compared;
    const struct compare_input values = {
        .text = input->text,
        .standard_conforming_strings = input->standard_conforming_strings,
        .is_in_encoding = input->is_in_server_encoding,
    };
    for (size_t i = 0; i < verdict->supplied_count; i++) {
        struct supplied *supplied = &judge->supplied_room[i];
        const struct compare_rule *rule = compare_rule_of(judge->set, supplied->rule);
        if (rule != NULL) {
            compare_pairs(rule, verdict->pairs, verdict->pair_count, i, &values,
                          &supplied->compared);
        }
        const struct rule *judged = rule_set_get(judge->set, supplied->rule);
        if (verdict->action != VERDICT_REFUSE && compare_refuses(judged, &supplied->compared)) {
            compare_refuse(judged, &supplied->compared, &judge->words, verdict);
        }
    }
}

/* The verdict with what its literals are found to be, which is no part of what is kept. NULL when
 * out of memory. */
static const struct verdict *compare(struct judge *judge, const struct verdict *verdict,
                                     const struct value_pair *lifted,
                                     const struct judge_input *input)
{
    judge->is_compared = verdict != NULL && is_to_compare(verdict);
    if (!judge->is_compared) {
        return verdict;
    }
    const size_t pairs = verdict->pair_count, supplied = verdict->supplied_count;
    void *supplied_room = judge->supplied_room, *pair_room = judge->pair_room;
    const bool has_room =
        make_room(&supplied_room, &judge->supplied_size, supplied, sizeof *verdict->supplied) &&
        (lifted == NULL || make_room(&pair_room, &judge->pair_size, pairs, sizeof *verdict->pairs));
    judge->supplied_room = supplied_room;
    judge->pair_room = pair_room;
    if (!has_room) {
        return NULL;
    }
    judge->compared = *verdict;
    memcpy(judge->supplied_room, verdict->supplied, supplied * sizeof *verdict->supplied);
    judge->compared.supplied = judge->supplied_room;
    judge->compared.pair_text = input->text;
    judge->compared.pairs_conforming = input->standard_conforming_strings;
    judge->compared.pairs_in_encoding = input->is_in_server_encoding;
    if (lifted != NULL) {
        shape_lay_pairs(&judge->shape, lifted, pairs, judge->pair_room);
        judge->compared.pairs = judge->pair_room;
    }
    compare_literals(judge, input);
    return &judge->compared;
}

const struct verdict *judge_text(struct judge *judge, const struct rule_set *set,
                                 const struct judge_input *input)
{
    if (judge->set != set) {
        verdict_cache_clear(judge->cache);
        judge->set = set;
    }
    set_key(judge, input);
    const struct verdict_kept *kept = verdict_cache_get(judge->cache, &judge->key);
    if (kept != NULL) {
        judge->hits++;
        return compare(judge, fill(judge, kept, input), kept->lifted_pairs, input);
    }
    arena_reset(&judge->arena);
    judge->is_to_keep = judge->gave_up = false;
    if (!judge_anew(judge, input) || judge->gave_up) {
        return NULL;
    }
    if (judge->is_to_keep) {
        verdict_cache_put(judge->cache, &judge->key, &judge->last);
    }
    return compare(judge, &judge->last.verdict, NULL, input);
}

const struct verdict *judge_at_once(struct judge *judge, const struct rule_set *set,
                                    const struct judge_input *input, bool *takes_long)
{
    *takes_long = input->len > READ_AT_ONCE;
    if (*takes_long) {
        return NULL;
    }
    judge->is_at_once = true;
    judge->gave_up = false;
    const struct verdict *verdict = judge_text(judge, set, input);
    judge->is_at_once = false;
    *takes_long = judge->gave_up;
    return *takes_long ? NULL : verdict;
}

void judge_learn(struct judge *judge, const struct judge *from)
{
    judge->misses++;
    if (from->is_to_keep && from->set == judge->set) {
        verdict_cache_put(judge->cache, &from->key, &from->last);
    }
}

static const char *copy_string(struct arena *arena, const char *text)
{
    return text == NULL ? NULL : arena_printf(arena, "%s", text);
}

static const void *copy_bytes(struct arena *arena, const void *bytes, size_t len)
{
    return len == 0 ? NULL : memcpy(arena_alloc(arena, len), bytes, len);
}

const struct verdict *judge_reduce(struct judge *judge)
{
    jmp_buf out_of_memory;
    struct arena kept = {.out_of_memory = &out_of_memory};
    struct verdict *verdict = judge->is_compared ? &judge->compared : &judge->last.verdict;
    judge->is_to_keep = false;
    if (setjmp(out_of_memory) != 0) {
        arena_free(&kept);
        return NULL;
    }
    verdict->supplied =
        copy_bytes(&kept, verdict->supplied, verdict->supplied_count * sizeof *verdict->supplied);
    verdict->copies =
        copy_bytes(&kept, verdict->copies, verdict->copy_count * sizeof *verdict->copies);
    verdict->pairs =
        copy_bytes(&kept, verdict->pairs, verdict->pair_count * sizeof *verdict->pairs);
    verdict->kept = NULL;
    verdict->kept_count = 0;
    verdict->text = NULL;
    verdict->text_len = 0;
    verdict->param_types = NULL;
    verdict->param_type_count = 0;
    verdict->sqlstate = copy_string(&kept, verdict->sqlstate);
    verdict->message = copy_string(&kept, verdict->message);
    verdict->detail = copy_string(&kept, verdict->detail);
    verdict->hint = copy_string(&kept, verdict->hint);
    verdict->masked_text = copy_string(&kept, verdict->masked_text);
    arena_free(&judge->arena);
    judge->arena = kept;
    return verdict;
}
