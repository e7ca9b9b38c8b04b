/*
 * What the rest of this room asks of a rule set beyond rules.h: which rules a relation name in a
 * statement concerns. Called by the analysis; the set is made and owned by the room's caller.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rules/rules.h"

/* The rules that a relation concerns, a bit each. */
struct rule_target {
    uint64_t direct;     /* it is their guarded table */
    uint64_t like;       /* it is a view or a child of it, and can be edited like the table */
    uint64_t dependent;  /* it is another dependent of it, which may carry the column */
    uint64_t dependents; /* as the last two, and those that are known not to have the column */
};

/* `database` and `schema` are NULL where the statement does not say. */
struct rule_target rule_set_resolve(const struct rule_set *set, const char *database,
                                    const char *schema, const char *relation);

/* Rule `index` as it is for a relation that is its table, or like it: with the names and columns of
 * that one. */
const struct rule *rule_set_as(const struct rule_set *set, size_t index, const char *schema,
                               const char *relation);

/* The column's name in the dependent `relation` of rule `index`; NULL when it is not known. */
const char *rule_set_dependent_column(const struct rule_set *set, size_t index, const char *schema,
                                      const char *relation);

/* The rules whose table or a dependent of it may be named in `text`, anywhere: in a literal, in a
 * comment, behind Unicode escapes. For texts that the parser cannot look into. */
uint64_t rule_set_mentioned(const struct rule_set *set, const char *text, size_t len);

/* What the expression of a rule is outside of the server; NULL: nothing. */
const struct evaluation *rule_set_evaluation(const struct rule_set *set, size_t index);

/* Those of `rules` that are in that mode. */
uint64_t rule_set_in_mode(const struct rule_set *set, uint64_t rules, enum rule_mode mode);

/* The position of a column in the order that applications know; column_count when there is none. */
size_t rule_column_index(const struct rule *rule, const char *column);
/* What evaluating must know of the column; NULL: nobody has read it. */
const struct rule_source *rule_source_named(const struct rule *rule, const char *column);

/* The lowest rule of a mask, which must not be empty: for (; mask; mask &= mask - 1). */
static inline size_t rule_first(uint64_t mask)
{
    return (size_t)__builtin_ctzll(mask);
}
