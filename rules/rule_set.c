/*
 * A rule set: rules copied into one block of memory that is never changed again, and the prefilter
 * over the names in them. Made by the proxy's catalog, read by every judge; the maker owns it.
 */
#include "rules/rule_set.h"

#include <stdlib.h>
#include <string.h>

#include "rules/compare.h"
#include "rules/prefilter.h"

/* U&"\0063hunks" names chunks as well. */
static const char unicode_identifier[] = "u&\"";

struct rule_set {
    struct rule *rules;
    struct rule **likes;           /* by rule and dependent: the rule as it is for that */
    struct compare_rule *compares; /* by rule */
    size_t count;
    const char *database;
    struct prefilter prefilter;
    const char **names;    /* what the prefilter looks for */
    uint64_t beyond_ascii; /* the rules with such names */
    char *strings;
};

/* First pass: measures, with `to` NULL. Second pass: copies. */
struct string_copier {
    char *to;
    size_t used;
    bool beyond_ascii; /* a byte since this was cleared */
};

static const char *copy_string(struct string_copier *copier, const char *text)
{
    if (text == NULL) {
        return NULL;
    }
    size_t size = strlen(text) + 1;
    for (size_t i = 0; i < size; i++) {
        copier->beyond_ascii |= (unsigned char)text[i] >= 0x80;
    }
    char *copy = copier->to == NULL ? NULL : memcpy(copier->to + copier->used, text, size);
    copier->used += size;
    return copy;
}

/* On the second pass a list that the set owns; NULL when out of memory. */
static struct rule_column *copy_columns(struct string_copier *copier,
                                        const struct rule_column *from, size_t count)
{
    struct rule_column *columns = copier->to == NULL ? NULL : calloc(count + 1, sizeof *columns);
    for (size_t i = 0; i < count; i++) {
        const char *name = copy_string(copier, from[i].name);
        if (columns != NULL) {
            columns[i] = from[i];
            columns[i].name = name;
        }
    }
    return columns;
}

static void copy_strings(struct string_copier *copier, struct rule *to, const struct rule *from)
{
    struct rule copy = *from;
    copy.name = copy_string(copier, from->name);
    copy.expression = copy_string(copier, from->expression);
    copier->beyond_ascii = false;
    copy.schema = copy_string(copier, from->schema);
    copy.table = copy_string(copier, from->table);
    copy.column = copy_string(copier, from->column);
    if (from->mode == RULE_MODE_COMPUTE && from->shape == RULE_SHAPE_GENERATED) {
        copy.mode = RULE_MODE_STRIP;
    }
    struct rule_column *columns = copy_columns(copier, from->columns, from->column_count);
    struct rule_relation *dependents =
        to == NULL ? NULL : calloc(from->dependent_count + 1, sizeof *dependents);
    struct rule_source *sources =
        to == NULL ? NULL : calloc(from->source_count + 1, sizeof *sources);
    for (size_t i = 0; i < from->dependent_count; i++) {
        const struct rule_relation *dependent = &from->dependents[i];
        struct rule_relation relation = {
            .schema = copy_string(copier, dependent->schema),
            .name = copy_string(copier, dependent->name),
            .column = copy_string(copier, dependent->column),
            .column_count = dependent->column_count,
        };
        if (dependent->columns != NULL) {
            relation.columns = copy_columns(copier, dependent->columns, dependent->column_count);
        }
        if (dependents != NULL) {
            dependents[i] = relation;
        }
    }
    for (size_t i = 0; i < from->source_count; i++) {
        struct rule_source source = {
            copy_string(copier, from->sources[i].column),
            copy_string(copier, from->sources[i].type),
            from->sources[i].has_default,
            from->sources[i].value,
        };
        if (sources != NULL) {
            sources[i] = source;
        }
    }
    if (to != NULL) {
        copy.columns = columns;
        copy.dependents = dependents;
        copy.sources = sources;
        *to = copy;
    }
}

/* A quote in a name is doubled in SQL text, so only what stands before it can be looked for. The
 * copy is the set's own, made for this. */
static const char *searchable(struct string_copier *copier, const char *name)
{
    char *copy = NULL;
    size_t at = copier->used;
    copy_string(copier, name);
    if (copier->to != NULL) {
        copy = copier->to + at;
        copy[strcspn(copy, "\"")] = '\0';
    }
    return copy;
}

static void collect_names(struct rule_set *set, struct string_copier *copier,
                          const struct rule *rules, size_t *count)
{
    *count = 0;
    for (size_t i = 0; i < set->count; i++) {
        for (size_t d = 0; d <= rules[i].dependent_count; d++) {
            const char *name = d == 0 ? rules[i].table : rules[i].dependents[d - 1].name;
            const char *copy = searchable(copier, name);
            if (set->names != NULL) {
                set->names[*count] = copy;
            }
            *count += 1;
        }
    }
    if (set->names != NULL) {
        set->names[*count] = unicode_identifier;
    }
    *count += 1;
}

/* Nothing moves in a view; what a cutover does to a child is not known. */
static struct rule *make_likes(const struct rule *rule)
{
    struct rule *likes = calloc(rule->dependent_count + 1, sizeof *likes);
    for (size_t i = 0; likes != NULL && i < rule->dependent_count; i++) {
        const struct rule_relation *dependent = &rule->dependents[i];
        likes[i] = *rule;
        likes[i].schema = dependent->schema;
        likes[i].table = dependent->name;
        likes[i].column = dependent->column;
        likes[i].columns = dependent->columns;
        likes[i].column_count = dependent->column_count;
        likes[i].reordered = false;
    }
    return likes;
}

static bool fill(struct rule_set *set, const struct rule *rules, const char *database)
{
    struct string_copier copier = {0};
    size_t name_count = 0;
    copy_string(&copier, database);
    for (size_t i = 0; i < set->count; i++) {
        copy_strings(&copier, NULL, &rules[i]);
    }
    collect_names(set, &copier, rules, &name_count);

    set->strings = malloc(copier.used + 1);
    set->rules = calloc(set->count + 1, sizeof *set->rules);
    set->likes = calloc(set->count + 1, sizeof *set->likes);
    set->names = calloc(name_count, sizeof *set->names);
    set->compares = calloc(set->count + 1, sizeof *set->compares);
    if (set->strings == NULL || set->rules == NULL || set->likes == NULL || set->names == NULL ||
        set->compares == NULL) {
        return false;
    }
    copier = (struct string_copier){.to = set->strings};
    set->database = copy_string(&copier, database);
    for (size_t i = 0; i < set->count; i++) {
        copy_strings(&copier, &set->rules[i], &rules[i]);
        if (set->rules[i].columns == NULL || set->rules[i].dependents == NULL ||
            set->rules[i].sources == NULL) {
            return false;
        }
        set->beyond_ascii |= (uint64_t)copier.beyond_ascii << i;
        set->likes[i] = make_likes(&set->rules[i]);
        if (set->likes[i] == NULL) {
            return false;
        }
        compare_rule_read(&set->rules[i], &set->compares[i]);
    }
    collect_names(set, &copier, rules, &name_count);
    return prefilter_init(&set->prefilter, set->names, set->count == 0 ? 0 : name_count);
}

struct rule_set *rule_set_new(const struct rule *rules, size_t count, const char *database)
{
    if (count > RULES_MAX) {
        return NULL;
    }
    struct rule_set *set = calloc(1, sizeof *set);
    if (set == NULL) {
        return NULL;
    }
    set->count = count;
    if (!fill(set, rules, database)) {
        rule_set_free(set);
        return NULL;
    }
    return set;
}

/* What the set owns is const to its readers only. */
static void free_const(const void *memory)
{
    free((void *)(uintptr_t)memory);
}

void rule_set_free(struct rule_set *set)
{
    if (set == NULL) {
        return;
    }
    for (size_t i = 0; set->rules != NULL && i < set->count; i++) {
        const struct rule *rule = &set->rules[i];
        for (size_t d = 0; rule->dependents != NULL && d < rule->dependent_count; d++) {
            free_const(rule->dependents[d].columns);
        }
        if (set->likes != NULL) {
            free(set->likes[i]);
        }
        free_const(rule->columns);
        free_const(rule->dependents);
        free_const(rule->sources);
    }
    prefilter_fini(&set->prefilter);
    free(set->likes);
    free(set->rules);
    free(set->compares);
    free(set->names);
    free(set->strings);
    free(set);
}

size_t rule_set_count(const struct rule_set *set)
{
    return set->count;
}

const struct rule *rule_set_get(const struct rule_set *set, size_t index)
{
    return &set->rules[index];
}

const struct compare_rule *compare_rule_of(const struct rule_set *set, size_t index)
{
    const struct compare_rule *rule = &set->compares[index];
    return rule->key_type == 0 ? NULL : rule;
}

uint64_t rule_set_beyond_ascii(const struct rule_set *set)
{
    return set->beyond_ascii;
}

bool rule_set_may_concern(const struct rule_set *set, const char *text, size_t len)
{
    return prefilter_hits(&set->prefilter, text, len);
}

static bool names_relation(const struct rule *rule, const char *own_schema, const char *own_name,
                           const char *schema, const char *relation)
{
    if (strcmp(own_name, relation) != 0) {
        return false;
    }
    return schema == NULL ? rule->unqualified_guarded : strcmp(own_schema, schema) == 0;
}

static const struct rule_relation *find_dependent(const struct rule *rule, const char *schema,
                                                  const char *relation)
{
    for (size_t i = 0; i < rule->dependent_count; i++) {
        const struct rule_relation *dependent = &rule->dependents[i];
        if (names_relation(rule, dependent->schema, dependent->name, schema, relation)) {
            return dependent;
        }
    }
    return NULL;
}

struct rule_target rule_set_resolve(const struct rule_set *set, const char *database,
                                    const char *schema, const char *relation)
{
    struct rule_target target = {0};
    /* Another database's name is an error in the server. */
    if (database != NULL && set->database != NULL && strcmp(database, set->database) != 0) {
        return target;
    }
    for (size_t i = 0; i < set->count; i++) {
        const struct rule *rule = &set->rules[i];
        const uint64_t bit = UINT64_C(1) << i;
        if (names_relation(rule, rule->schema, rule->table, schema, relation)) {
            target.direct |= bit;
            continue;
        }
        const struct rule_relation *dependent = find_dependent(rule, schema, relation);
        if (dependent != NULL) {
            target.dependents |= bit;
            /* What the expression is computed from may have other names there. */
            if (dependent->columns != NULL && rule->mode != RULE_MODE_COMPUTE) {
                target.like |= bit;
            } else if (dependent->column == NULL || dependent->column[0] != '\0') {
                target.dependent |= bit;
            }
        }
    }
    return target;
}

const struct rule *rule_set_as(const struct rule_set *set, size_t index, const char *schema,
                               const char *relation)
{
    const struct rule *rule = &set->rules[index];
    if (names_relation(rule, rule->schema, rule->table, schema, relation)) {
        return rule;
    }
    const struct rule_relation *dependent = find_dependent(rule, schema, relation);
    return dependent == NULL ? rule : &set->likes[index][dependent - rule->dependents];
}

const char *rule_set_dependent_column(const struct rule_set *set, size_t index, const char *schema,
                                      const char *relation)
{
    const struct rule_relation *dependent = find_dependent(&set->rules[index], schema, relation);
    return dependent == NULL ? NULL : dependent->column;
}

uint64_t rule_set_mentioned(const struct rule_set *set, const char *text, size_t len)
{
    const bool unicode = text_mentions(text, len, unicode_identifier);
    uint64_t mask = 0;
    size_t name = 0;
    for (size_t i = 0; i < set->count; i++) {
        for (size_t d = 0; d <= set->rules[i].dependent_count; d++, name++) {
            if (unicode || ((mask >> i & 1) == 0 && text_mentions(text, len, set->names[name]))) {
                mask |= UINT64_C(1) << i;
            }
        }
    }
    return mask;
}

const struct evaluation *rule_set_evaluation(const struct rule_set *set, size_t index)
{
    const struct evaluation *evaluation = &set->compares[index].evaluation;
    return evaluation->column[0] == '\0' ? NULL : evaluation;
}

uint64_t rule_set_in_mode(const struct rule_set *set, uint64_t rules, enum rule_mode mode)
{
    uint64_t mask = 0;
    for (; rules != 0; rules &= rules - 1) {
        const size_t index = rule_first(rules);
        mask |= set->rules[index].mode == mode ? UINT64_C(1) << index : 0;
    }
    return mask;
}

size_t rule_column_index(const struct rule *rule, const char *column)
{
    size_t i = 0;
    while (i < rule->column_count && strcmp(rule->columns[i].name, column) != 0) {
        i++;
    }
    return i;
}

const struct rule_source *rule_source_named(const struct rule *rule, const char *column)
{
    for (size_t i = 0; i < rule->source_count; i++) {
        if (strcmp(rule->sources[i].column, column) == 0) {
            return &rule->sources[i];
        }
    }
    return NULL;
}
