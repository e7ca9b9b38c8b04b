/*
 * Is any of some names in this text, in any ASCII case? One pass, at the speed of memory when none
 * is: every statement of every session pays for it. Called by rule_set.c, which owns the names.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Two neighbouring bytes of a name, folded; more than this many different pairs are looked up in a
 * table of bits, one byte of text at a time. */
#define PREFILTER_PAIRS_MAX 8

struct prefilter_needle {
    const char *name; /* borrowed */
    size_t len;
    size_t offset; /* of the pair in it */
};

struct prefilter {
    struct prefilter_needle *needles;
    size_t count;
    unsigned char pairs[PREFILTER_PAIRS_MAX][2];
    size_t pair_count;
    uint64_t *pair_bits; /* 65536 bits, only when there are more pairs */
    bool always;         /* a name too short to look for */
};

/* False when out of memory; end with prefilter_fini() all the same. */
bool prefilter_init(struct prefilter *filter, const char *const *names, size_t count);
void prefilter_fini(struct prefilter *filter);
bool prefilter_hits(const struct prefilter *filter, const char *text, size_t len);

/* The same question for one name, for texts that are read seldom. */
bool text_mentions(const char *text, size_t len, const char *name);
