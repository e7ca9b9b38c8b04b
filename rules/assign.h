/*
 * A SET list while it is judged: what assign.c, which takes columns out of it, shares with
 * assign_compute.c, which puts the computed one in.
 */
#pragma once

#include "rules/analysis.h"

/* Its items are ResTargets; those of (a, b) = (1, 2) are told by a MultiAssignRef each. */
struct assignment {
    struct analysis *a;
    const RangeVar *relation;
    List **targets;
    const char *statement;
    size_t count;
    const struct rule **rules; /* by item: whose column it sets and is to set no more; or NULL */
    size_t *firsts;            /* by item: its first token */
    const char **neutrals;     /* by item: the column that takes its place, or NULL */
};

ResTarget *assign_item(const struct assignment *set, size_t index);
/* The ROW that a part of a multiple assignment comes from; NULL when it comes from elsewhere. */
RowExpr *assign_row(const ResTarget *item);
Node *assign_value(const ResTarget *item);
/* Why the item's value cannot be told or taken out; NULL: it can. */
const char *assign_obstacle(const struct assignment *set, const ResTarget *item);
/* Notes the value that the list has for the column that the rule's expression reads, if it has one.
 */
void assign_compare(const struct assignment *set, size_t rule, const ResTarget *key,
                    struct supply *supply);
/* Finds the items' first tokens. False when text and tree do not agree. */
bool assign_find_items(const struct assignment *set);
/* The tokens of an item's value, from `first` up to the one before `end`. False as above. */
bool assign_find_value(const struct assignment *set, size_t index, size_t *first, size_t *end);
/* What columns of the relation are qualified with. */
const char *assign_target_name(const RangeVar *relation);

/* assign_compute.c: rule `index`, of mode compute */
void assign_compute(const struct assignment *set, size_t index);
