/*
 * The parts of an analysis that its judges share: what a mode makes of a supplied value, refusals
 * in words, the edit list. Called by every judge of a statement kind; owns nothing.
 */
#include "rules/analysis.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "rules/compare.h"

static const char generated_column_error[] = "428C9";
static const char leave_it_out[] = "Leave the column out of the statement.";

static const char *describe(struct analysis *a, const struct rule *rule)
{
    return arena_printf(a->arena,
                        "Rule \"%s\" of pgsluice keeps column \"%s\" of table \"%s.%s\" computed.",
                        rule->name, rule->column, rule->schema, rule->table);
}

void analysis_refuse(struct analysis *a, struct refusal refusal)
{
    if (!a->is_refused) {
        a->is_refused = true;
        a->refusal = refusal;
    }
}

void analysis_refuse_hinted(struct analysis *a, const struct rule *rule, const char *statement,
                            const char *obstacle, const char *hint)
{
    analysis_refuse(
        a, (struct refusal){
               .sqlstate = generated_column_error,
               .message = arena_printf(
                   a->arena,
                   "column \"%s\" is computed and cannot be taken out of this %s (rule \"%s\")",
                   rule->column, statement, rule->name),
               .detail = arena_printf(a->arena, "%s pgsluice does not rewrite this statement: %s.",
                                      describe(a, rule), obstacle),
               .hint = hint,
           });
}

void analysis_refuse_obstacle(struct analysis *a, const struct rule *rule, const char *statement,
                              const char *obstacle)
{
    analysis_refuse_hinted(a, rule, statement, obstacle, leave_it_out);
}

bool analysis_refuse_unknown(struct analysis *a, uint64_t rules, const char *statement)
{
    for (uint64_t rest = a->columns_change ? rules : 0; rest != 0; rest &= rest - 1) {
        const struct rule *rule = rule_set_get(a->set, rule_first(rest));
        if (rule->mode != RULE_MODE_OBSERVE && rule->shape != RULE_SHAPE_GENERATED) {
            analysis_refuse_hinted(
                a, rule, statement,
                "it has no column list, and its table was changed just before it",
                "Write a column list, or commit the change of the table first.");
        }
    }
    return a->columns_change;
}

void analysis_refuse_compute(struct analysis *a, const struct rule *rule, const char *statement,
                             const char *obstacle, const char *hint)
{
    analysis_refuse(
        a, (struct refusal){
               .sqlstate = generated_column_error,
               .message = arena_printf(a->arena,
                                       "column \"%s\" cannot be computed for this %s (rule \"%s\")",
                                       rule->column, statement, rule->name),
               .detail = arena_printf(a->arena, "%s pgsluice does not rewrite this statement: %s.",
                                      describe(a, rule), obstacle),
               .hint = hint,
           });
}

void analysis_refuse_unfollowed(struct analysis *a, const char *statement)
{
    analysis_refuse(
        a, (struct refusal){
               .sqlstate = generated_column_error,
               .message = arena_printf(a->arena, "pgsluice could not follow the text of this %s",
                                       statement),
               .hint = "Leave the computed column out of the statement.",
           });
}

/* In the server's own words, as of PostgreSQL 14, and the rule's name. */
static void refuse_value(struct analysis *a, const struct rule *rule, bool is_update)
{
    static const char insert[] =
        "cannot insert a non-DEFAULT value into column \"%s\" (rule \"%s\")";
    static const char update[] = "column \"%s\" can only be updated to DEFAULT (rule \"%s\")";
    analysis_refuse(
        a, (struct refusal){
               .sqlstate = generated_column_error,
               .message = is_update ? arena_printf(a->arena, update, rule->column, rule->name)
                                    : arena_printf(a->arena, insert, rule->column, rule->name),
               .detail = describe(a, rule),
               .hint = leave_it_out,
           });
}

static struct supplied *find_alike(struct analysis *a, size_t rule, const char *statement)
{
    for (size_t i = a->supplied_count; i > 0; i--) {
        struct supplied *supplied = &a->supplied[i - 1];
        if (supplied->rule == rule && strcmp(supplied->statement, statement) == 0) {
            return supplied;
        }
    }
    return NULL;
}

static void own_pairs(struct analysis *a, size_t supplied, size_t count)
{
    for (size_t i = a->pair_count - count; i < a->pair_count; i++) {
        a->pairs[i].supplied = (uint32_t)supplied;
    }
}

void analysis_record(struct analysis *a, size_t rule, const struct supply *supply)
{
    struct supplied *alike =
        a->supplied_count < SUPPLIED_APART_MAX ? NULL : find_alike(a, rule, supply->statement);
    if (alike != NULL) {
        alike->rows += supply->rows;
        alike->params += supply->params;
        alike->compared.matched += supply->compared.matched;
        alike->compared.mismatched += supply->compared.mismatched;
        own_pairs(a, (size_t)(alike - a->supplied), supply->pairs);
        return;
    }
    own_pairs(a, a->supplied_count, supply->pairs);
    a->supplied = arena_grow(a->arena, a->supplied, a->supplied_count, &a->supplied_capacity,
                             sizeof *a->supplied);
    a->supplied[a->supplied_count++] = (struct supplied){
        .rule = rule,
        .statement = supply->statement,
        .rows = supply->rows,
        .params = supply->params,
        .compared = supply->compared,
    };
}

bool analysis_supply(struct analysis *a, size_t index, const struct supply *supply)
{
    const struct rule *rule = rule_set_get(a->set, index);
    analysis_record(a, index, supply);
    const char *obstacle = supply->obstacle;
    if (a->definition != NULL) {
        obstacle = arena_printf(a->arena, "it is part of a %s", a->definition);
    }
    switch (rule->mode) {
    case RULE_MODE_OBSERVE:
        return false;
    case RULE_MODE_REJECT:
        if (!supply->is_guess) {
            refuse_value(a, rule, supply->is_update);
            return false;
        }
        break;
    case RULE_MODE_COMPUTE:
        if (obstacle != NULL) {
            analysis_refuse_compute(a, rule, supply->statement, obstacle,
                                    "Write an INSERT, UPDATE or MERGE of the table itself, with "
                                    "literals or parameters for the columns that the key is "
                                    "computed from.");
        }
        return obstacle == NULL;
    case RULE_MODE_STRIP:
        break;
    }
    if (obstacle != NULL) {
        analysis_refuse_hinted(a, rule, supply->statement, obstacle,
                               supply->hint == NULL ? leave_it_out : supply->hint);
        return false;
    }
    return true;
}

struct rule_target analysis_target(const struct analysis *a, const RangeVar *relation)
{
    return rule_set_resolve(a->set, relation->catalogname, relation->schemaname, relation->relname);
}

const struct rule *analysis_rule(const struct analysis *a, size_t rule, const RangeVar *relation)
{
    return rule_set_as(a->set, rule, relation->schemaname, relation->relname);
}

const struct compare_rule *analysis_compares(const struct analysis *a, size_t rule,
                                             const RangeVar *relation)
{
    const bool is_own = analysis_rule(a, rule, relation) == rule_set_get(a->set, rule);
    return is_own ? compare_rule_of(a->set, rule) : NULL;
}

bool analysis_is_stabilised(const struct analysis *a, const struct rule *rule)
{
    const bool is_kept =
        rule->mode == RULE_MODE_STRIP || rule->mode == RULE_MODE_REJECT ||
        (rule->mode == RULE_MODE_COMPUTE && rule->shape != RULE_SHAPE_PARTITION_KEY);
    return is_kept && !a->columns_change && a->definition == NULL &&
           (rule->reordered || !a->is_single_use);
}

const struct token_list *analysis_tokens(struct analysis *a)
{
    if (a->tokens.items == NULL) {
        a->tokens = sql_lex(a->text, a->arena, SIZE_MAX);
    }
    return &a->tokens;
}

void analysis_add_edit(struct analysis *a, struct edit edit)
{
    a->edits = arena_grow(a->arena, a->edits, a->edit_count, &a->edit_capacity, sizeof *a->edits);
    a->edits[a->edit_count++] = edit;
}

void analysis_edit(struct analysis *a, int start, int end, const char *text)
{
    analysis_add_edit(a, (struct edit){.start = start, .end = end, .text = text});
}

/* By start; of those with one start, the one that reaches farthest first. */
static int compare_edits(const void *left, const void *right)
{
    const struct edit *l = left, *r = right;
    if (l->start != r->start) {
        return l->start < r->start ? -1 : 1;
    }
    return l->end > r->end ? -1 : l->end < r->end;
}

static bool is_word_byte(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '$' || (unsigned char)c >= 0x80;
}

/* The edited text while it grows. */
struct growth {
    struct analysis *a;
    char *text, *to;
    size_t mark_before, mark;
};

/* Keeps apart what would become one word: SELECT *FROM. */
static void append(struct growth *growth, const char *piece, size_t len)
{
    if (len > 0 && growth->to > growth->text && is_word_byte(growth->to[-1]) &&
        (is_word_byte(piece[0]) || piece[0] == '\'' || piece[0] == '"')) {
        *growth->to++ = ' ';
    }
    growth->to = mempcpy(growth->to, piece, len);
}

static void add_repeated(struct analysis *a, struct kept_text piece)
{
    a->repeated = arena_grow(a->arena, a->repeated, a->repeated_count, &a->repeated_capacity,
                             sizeof *a->repeated);
    a->repeated[a->repeated_count++] = piece;
}

static void append_edit(struct growth *growth, const struct edit *edit)
{
    const size_t len = strlen(edit->text);
    append(growth, edit->text, len);
    const size_t start = (size_t)(growth->to - growth->text) - len;
    for (size_t i = 0; i < edit->copy_count; i++) {
        const struct edit_copy *copy = &edit->copies[i];
        add_repeated(growth->a, (struct kept_text){
                                    .from = (size_t)copy->from,
                                    .to = (size_t)copy->to,
                                    .at = start + copy->at,
                                });
    }
}

static void append_text(struct growth *growth, size_t from, size_t to)
{
    struct analysis *a = growth->a;
    append(growth, a->text + from, to - from);
    const struct kept_text piece = {
        .from = from, .to = to, .at = (size_t)(growth->to - growth->text) - (to - from)};
    a->kept = arena_grow(a->arena, a->kept, a->kept_count, &a->kept_capacity, sizeof *a->kept);
    a->kept[a->kept_count++] = piece;
    add_repeated(a, piece);
    if (from <= growth->mark_before && growth->mark_before <= to) {
        growth->mark = (size_t)(growth->to - growth->text) - (to - growth->mark_before);
    }
}

const char *analysis_apply_edits(struct analysis *a, size_t *len, size_t *mark)
{
    size_t room = a->len + 2 * a->edit_count + 1;
    for (size_t i = 0; i < a->edit_count; i++) {
        room += strlen(a->edits[i].text);
    }
    qsort(a->edits, a->edit_count, sizeof *a->edits, compare_edits);
    char *text = arena_alloc(a->arena, room);
    struct growth growth = {.a = a, .text = text, .to = text, .mark_before = *mark};
    size_t copied = 0;
    for (size_t i = 0; i < a->edit_count; i++) {
        const struct edit *edit = &a->edits[i];
        const size_t start = (size_t)edit->start, end = (size_t)edit->end;
        if (end <= copied && start < copied) {
            continue; /* inside of what an earlier one has removed */
        }
        if (start < copied) {
            return NULL;
        }
        append_text(&growth, copied, start);
        append_edit(&growth, edit);
        copied = end;
    }
    append_text(&growth, copied, a->len);
    *growth.to = '\0';
    *len = (size_t)(growth.to - text);
    *mark = growth.mark;
    return text;
}
