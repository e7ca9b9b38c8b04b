/*
 * Verdicts of texts seen before, within a bound in bytes; the one used longest ago goes first.
 * Called by judge.c; owned by one judge, and so by one thread.
 */
#pragma once

#include <stdint.h>

#include "rules/rules.h"

struct verdict_cache;

/* NULL when out of memory. A cache of too few bytes for anything holds nothing. */
struct verdict_cache *verdict_cache_new(size_t bytes);
void verdict_cache_free(struct verdict_cache *cache);

/* The verdict kept for the same text, types and settings; valid until the next put. NULL: none. */
const struct verdict *verdict_cache_get(struct verdict_cache *cache,
                                        const struct judge_input *input);
/* Keeps a copy, when there is memory for it and it is not out of proportion. */
void verdict_cache_put(struct verdict_cache *cache, const struct judge_input *input,
                       const struct verdict *verdict);
void verdict_cache_clear(struct verdict_cache *cache);
size_t verdict_cache_bytes(const struct verdict_cache *cache);
