/*
 * The judge: limits, cache, parse, walk, edits, and the check of the own work. Called by the
 * proxy's sessions through rules.h; owns the verdict cache and the memory of the last verdict.
 */
#include "rules/analysis.h"

#include <stdlib.h>
#include <string.h>

#include "rules/arena.h"
#include "rules/encoding.h"
#include "rules/lex_cost.h"
#include "rules/mask.h"
#include "rules/verdict_cache.h"

/* The parser needs some ten times a text's size. */
enum { JUDGED_TEXT_MAX = 16 * 1024 * 1024 };

struct judge {
    struct arena arena; /* of the last verdict, unless it came from the cache */
    struct verdict_cache *cache;
    const struct rule_set *set; /* that the cache is about */
    uint64_t hits, misses;
    struct verdict_kept last; /* what was found out last */
    struct verdict filled;    /* one that was kept for a shape, with the text at hand */
    char *room;               /* of its edited text */
    size_t room_size;
    struct shape shape, edited_shape;
    bool has_shape;         /* the text at hand has, and it is `shape` */
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
    bool leaves_generated; /* pass where the server guards the column itself */
};

/* The server computes a generated column on every road, but after a cutover in place it would take
 * a positional insert in the new order. */
static bool server_guards(const struct rule *rule, const char *text, size_t len)
{
    return rule->shape == RULE_SHAPE_GENERATED &&
           !(rule->reordered &&
             (text_mentions(text, len, "insert") || text_mentions(text, len, "merge")));
}

static void judge_blindly(struct analysis *a, const struct blindness *blindness)
{
    uint64_t rules = rule_set_mentioned(a->set, a->text, a->len);
    a->is_blind = true;
    a->writes |= rules;
    a->schema_change |= rules != 0;
    for (; rules != 0; rules &= rules - 1) {
        const struct rule *rule = rule_set_get(a->set, rule_first(rules));
        analysis_record(a, rule_first(rules), &(struct supply){.statement = blindness->statement});
        if (rule->mode == RULE_MODE_OBSERVE ||
            (blindness->leaves_generated && server_guards(rule, a->text, a->len))) {
            continue;
        }
        struct refusal refusal = blindness->refusal;
        refusal.detail = arena_printf(a->arena,
                                      "Rule \"%s\" of pgsluice guards table \"%s.%s\", which the "
                                      "text may concern: %s.",
                                      rule->name, rule->schema, rule->table, refusal.detail);
        analysis_refuse(a, refusal);
    }
}

static const struct blindness too_long = {
    .statement = "too long",
    .refusal = {.sqlstate = "54000",
                .message = "statement is too long to be judged",
                .detail = "pgsluice reads texts of up to 16 MB",
                .hint = "Split it, or send the rows by COPY."},
};

static const struct blindness too_complex = {
    .statement = "too complex",
    .refusal = {.sqlstate = "54001",
                .message = "statement is too complex to be judged",
                .detail = "it is nested too deeply, or has runs of operators that are too long"},
};

static const struct blindness unreadable = {
    .statement = "not readable",
    .refusal = {.sqlstate = "22021",
                .message = "invalid byte sequence for encoding \"UTF8\"",
                .detail = "a text in this client_encoding cannot be judged unless it is ASCII or "
                          "valid UTF-8"},
};

static void judge_unparsed(struct analysis *a, const char *parser_message, int position)
{
    judge_blindly(a, &(struct blindness){
                         .statement = "not parsed",
                         .refusal = {.sqlstate = "42601",
                                     .message = parser_message,
                                     .detail = "its parser, PostgreSQL 15's, cannot read it",
                                     /* what was parsed of a bulk load is not the client's text */
                                     .position = a->bulk == NULL ? position : 0},
                         .leaves_generated = true,
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

static void analyse(struct analysis *a, const struct judge_input *input)
{
    if (a->len > JUDGED_TEXT_MAX) {
        judge_blindly(a, &too_long);
        return;
    }
    if (!encoding_is_readable(input->encoding, a->text, a->len)) {
        judge_blindly(a, &unreadable);
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
    int position = 0;
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
    if (a->bulk != NULL) {
        text = bulk_restore(a->bulk, a->arena, text, len, mark, a->bulk_edit, &len);
    }
    verdict->action = VERDICT_EDIT;
    verdict->text = text;
    verdict->text_len = len;
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

static void conclude(struct verdict *verdict, struct analysis *a, const struct judge_input *input)
{
    *verdict = (struct verdict){.action = VERDICT_PASS};
    if (a->bulk != NULL) {
        set_plain(verdict, a->bulk);
    }
    if (a->supplied_count > 0) {
        describe(verdict, a);
    }
    if (a->edit_count > 0 && !a->is_refused) {
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
    verdict->writes = a->writes;
    verdict->prepares = a->prepares;
    verdict->schema_change = a->schema_change;
    verdict->supplied = a->supplied;
    verdict->supplied_count = a->supplied_count;
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
    if (!judge->has_shape || input->len > JUDGED_TEXT_MAX) {
        return false;
    }
    const struct verdict_kept *kept = verdict_cache_get(judge->cache, &judge->key);
    if (kept == NULL || !encoding_is_readable(input->encoding, input->text, input->len)) {
        return false;
    }
    judge->last = *kept;
    set_plain(&judge->last.verdict, bulk);
    return true;
}

/* Whether the verdict holds for every text with the judge's key, and where literals go in the
 * edited text. A refusal may speak of a literal, or of its place. */
static bool is_for_key(struct judge *judge, const struct analysis *a,
                       const struct judge_input *input)
{
    struct verdict_kept *last = &judge->last;
    const enum verdict_action action = last->verdict.action;
    if (a->bulk != NULL) {
        return judge->has_shape && !a->is_blind && !a->asks_bulk && action == VERDICT_PASS;
    }
    if (!judge->has_shape || judge->shape.literal_count == 0) {
        return true;
    }
    if (a->is_blind || a->asks_literals || action == VERDICT_REFUSE) {
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
    return shape_find_slots(&judge->shape, a->kept, a->kept_count, &edited, &judge->edited_shape,
                            slots, &last->slot_count);
}

static void judge_in_arena(struct judge *judge, const struct judge_input *input, bool *is_to_keep)
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
    judge->misses++;
    analyse(&a, input);
    if (a.needs_bulk) {
        a = begin(&judge->arena, judge->set, input->text, input->len, input);
        set_key(judge, input);
        analyse(&a, input);
    }
    judge->last = (struct verdict_kept){0};
    conclude(&judge->last.verdict, &a, input);
    *is_to_keep = is_for_key(judge, &a, input);
}

/* False when out of memory. What a jump may leave half done is in `scope` and the arena alone. */
static bool judge_anew(struct judge *judge, const struct judge_input *input, bool *is_to_keep)
{
    jmp_buf out_of_memory;
    struct sql_scope scope;
    judge->arena.out_of_memory = &out_of_memory;
    sql_enter(&scope, input->standard_conforming_strings);
    const bool is_whole = setjmp(out_of_memory) == 0;
    if (is_whole) {
        judge_in_arena(judge, input, is_to_keep);
    }
    sql_leave(&scope);
    return is_whole;
}

/* The verdict for a shape, with what the text at hand has in its place of literals. NULL when out
 * of memory. */
static const struct verdict *fill(struct judge *judge, const struct verdict_kept *kept,
                                  const struct judge_input *input)
{
    if (kept->verdict.action != VERDICT_EDIT || kept->slot_count == 0) {
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
    return &judge->filled;
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
        return fill(judge, kept, input);
    }
    arena_reset(&judge->arena);
    bool is_to_keep = false;
    if (!judge_anew(judge, input, &is_to_keep)) {
        return NULL;
    }
    if (is_to_keep) {
        verdict_cache_put(judge->cache, &judge->key, &judge->last);
    }
    return &judge->last.verdict;
}
