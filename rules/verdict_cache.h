/*
 * Verdicts of texts or shapes seen before, within a bound in bytes; the one used longest ago goes
 * first.
 * Called by judge.c; owned by one judge, and so by one thread.
 */
#pragma once

#include <stdint.h>

#include "rules/rules.h"
#include "rules/shape.h"

struct verdict_cache;

struct verdict_kept {
    struct verdict verdict;
    /* Of an edit for all texts of a shape: where the literals go in verdict.text. */
    const struct shape_slot *slots;
    size_t slot_count;
    /* verdict.kept as places in the shape's key; NULL: the text has no literals */
    const struct kept_text *lifted;
    /* verdict.pairs with the numbers of the shape's literals for their places; NULL: as they are */
    const struct value_pair *lifted_pairs;
};

/* NULL when out of memory. A cache of too few bytes for anything holds nothing. */
struct verdict_cache *verdict_cache_new(size_t bytes);
void verdict_cache_free(struct verdict_cache *cache);

/* The verdict kept for the same text (or a shape's key), types and settings; valid until the next
 * put. NULL: none. */
const struct verdict_kept *verdict_cache_get(struct verdict_cache *cache,
                                             const struct judge_input *input);
/* Keeps a copy, when there is memory for it and it is not out of proportion. */
void verdict_cache_put(struct verdict_cache *cache, const struct judge_input *input,
                       const struct verdict_kept *verdict);
void verdict_cache_clear(struct verdict_cache *cache);
size_t verdict_cache_bytes(const struct verdict_cache *cache);
