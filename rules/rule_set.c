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
    struct compare_rule *compares; /* by rule; key_type 0: cannot be compared */
    size_t count;
    const char *database;
    struct prefilter prefilter;
    const char **names; /* what the prefilter looks for */
    char *strings;
};

/* First pass: measures, with `to` NULL. Second pass: copies. */
struct string_copier {
    char *to;
    size_t used;
};

static const char *copy_string(struct string_copier *copier, const char *text)
{
    if (text == NULL) {
        return NULL;
    }
    size_t size = strlen(text) + 1;
    char *copy = copier->to == NULL ? NULL : memcpy(copier->to + copier->used, text, size);
    copier->used += size;
    return copy;
}

static void copy_strings(struct string_copier *copier, struct rule *to, const struct rule *from)
{
    struct rule copy = *from;
    copy.name = copy_string(copier, from->name);
    copy.schema = copy_string(copier, from->schema);
    copy.table = copy_string(copier, from->table);
    copy.column = copy_string(copier, from->column);
    copy.expression = copy_string(copier, from->expression);
    struct rule_column *columns =
        to == NULL ? NULL : calloc(from->column_count + 1, sizeof *columns);
    struct rule_relation *dependents =
        to == NULL ? NULL : calloc(from->dependent_count + 1, sizeof *dependents);
    for (size_t i = 0; i < from->column_count; i++) {
        const char *name = copy_string(copier, from->columns[i].name);
        if (columns != NULL) {
            columns[i] = from->columns[i];
            columns[i].name = name;
        }
    }
    for (size_t i = 0; i < from->dependent_count; i++) {
        struct rule_relation relation = {
            copy_string(copier, from->dependents[i].schema),
            copy_string(copier, from->dependents[i].name),
            copy_string(copier, from->dependents[i].column),
        };
        if (dependents != NULL) {
            dependents[i] = relation;
        }
    }
    if (to != NULL) {
        copy.columns = columns;
        copy.details = NULL;
        copy.dependents = dependents;
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
    set->names = calloc(name_count, sizeof *set->names);
    set->compares = calloc(set->count + 1, sizeof *set->compares);
    if (set->strings == NULL || set->rules == NULL || set->names == NULL ||
        set->compares == NULL) {
        return false;
    }
    copier = (struct string_copier){.to = set->strings};
    set->database = copy_string(&copier, database);
    for (size_t i = 0; i < set->count; i++) {
        copy_strings(&copier, &set->rules[i], &rules[i]);
        if (set->rules[i].columns == NULL || set->rules[i].dependents == NULL) {
            return false;
        }
        if (!compare_rule_read(&rules[i], &set->compares[i])) {
            set->compares[i] = (struct compare_rule){0};
        }
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
        free_const(set->rules[i].columns);
        free_const(set->rules[i].dependents);
    }
    prefilter_fini(&set->prefilter);
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
            if (dependent->column == NULL || dependent->column[0] != '\0') {
                target.dependent |= bit;
            }
        }
    }
    return target;
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

size_t rule_column_index(const struct rule *rule, const char *column)
{
    size_t i = 0;
    while (i < rule->column_count && strcmp(rule->columns[i].name, column) != 0) {
        i++;
    }
    return i;
}
