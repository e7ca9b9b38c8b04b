/*
 * The prefilter: 16 bytes of text at a time are compared with the rarest pair of neighbouring bytes
 * of each name; only where a pair is found are names compared. Called by rule_set.c.
 */
#include "rules/prefilter.h"

#include <stdlib.h>
#include <string.h>

typedef unsigned char byte16 __attribute__((vector_size(16)));

/* Bit 5 set folds ASCII letters and lets a few other bytes coincide, which the comparison of the
 * whole name then tells apart. */
static unsigned char fold_loosely(char byte)
{
    return (unsigned char)((unsigned char)byte | 0x20U);
}

static unsigned char fold(char byte)
{
    unsigned char b = (unsigned char)byte;
    return b >= 'A' && b <= 'Z' ? (unsigned char)(b | 0x20U) : b;
}

/* Smaller is rarer, by the letters of SQL and English text. */
static size_t commonness(char byte)
{
    static const char by_frequency[] = "zqxj&kvbyw0123456789gpfmucdh_lr\"sniotae ";
    const char *place = strchr(by_frequency, fold(byte));
    return place == NULL || byte == '\0' ? 0 : (size_t)(place - by_frequency);
}

static size_t rarest_pair(const char *name, size_t len)
{
    size_t best = 0, best_score = SIZE_MAX;
    for (size_t i = 0; i + 1 < len; i++) {
        size_t score = commonness(name[i]) * commonness(name[i + 1]);
        if (score < best_score) {
            best = i;
            best_score = score;
        }
    }
    return best;
}

static bool starts_with_folded(const char *text, const char *name, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (fold(text[i]) != fold(name[i])) {
            return false;
        }
    }
    return true;
}

static size_t pair_bit(const unsigned char pair[2])
{
    return (size_t)pair[0] << 8 | pair[1];
}

static bool add_pair(struct prefilter *filter, const unsigned char pair[2])
{
    for (size_t i = 0; i < filter->pair_count; i++) {
        if (memcmp(filter->pairs[i], pair, 2) == 0) {
            return true;
        }
    }
    if (filter->pair_bits == NULL && filter->pair_count < PREFILTER_PAIRS_MAX) {
        memcpy(filter->pairs[filter->pair_count++], pair, 2);
        return true;
    }
    if (filter->pair_bits == NULL) {
        filter->pair_bits = calloc(65536 / 64, sizeof *filter->pair_bits);
        if (filter->pair_bits == NULL) {
            return false;
        }
        for (size_t i = 0; i < filter->pair_count; i++) {
            size_t bit = pair_bit(filter->pairs[i]);
            filter->pair_bits[bit / 64] |= UINT64_C(1) << bit % 64;
        }
    }
    size_t bit = pair_bit(pair);
    filter->pair_bits[bit / 64] |= UINT64_C(1) << bit % 64;
    return true;
}

/* A name within which another one is found adds nothing: chunks_part_07 is covered by chunks. */
static bool is_covered(const char *const *names, size_t count, size_t at)
{
    for (size_t i = 0; i < count; i++) {
        if (i == at || !text_mentions(names[at], strlen(names[at]), names[i])) {
            continue;
        }
        if (strlen(names[i]) < strlen(names[at]) || i < at) {
            return true;
        }
    }
    return false;
}

bool prefilter_init(struct prefilter *filter, const char *const *names, size_t count)
{
    *filter = (struct prefilter){.needles = calloc(count + 1, sizeof *filter->needles)};
    if (filter->needles == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        size_t len = strlen(names[i]);
        if (len < 2) {
            filter->always = true;
            continue;
        }
        if (is_covered(names, count, i)) {
            continue;
        }
        size_t offset = rarest_pair(names[i], len);
        const unsigned char pair[2] = {fold_loosely(names[i][offset]),
                                       fold_loosely(names[i][offset + 1])};
        filter->needles[filter->count++] =
            (struct prefilter_needle){.name = names[i], .len = len, .offset = offset};
        if (!add_pair(filter, pair)) {
            return false;
        }
    }
    return true;
}

void prefilter_fini(struct prefilter *filter)
{
    free(filter->needles);
    free(filter->pair_bits);
    *filter = (struct prefilter){0};
}

static bool name_at(const struct prefilter *filter, const char *text, size_t len, size_t pair_at)
{
    for (size_t i = 0; i < filter->count; i++) {
        const struct prefilter_needle *needle = &filter->needles[i];
        if (pair_at >= needle->offset && len - (pair_at - needle->offset) >= needle->len &&
            starts_with_folded(text + pair_at - needle->offset, needle->name, needle->len)) {
            return true;
        }
    }
    return false;
}

static bool is_pair(const struct prefilter *filter, unsigned char first, unsigned char second)
{
    const unsigned char pair[2] = {first, second};
    if (filter->pair_bits != NULL) {
        size_t bit = pair_bit(pair);
        return (filter->pair_bits[bit / 64] >> bit % 64 & 1) != 0;
    }
    for (size_t i = 0; i < filter->pair_count; i++) {
        if (memcmp(filter->pairs[i], pair, 2) == 0) {
            return true;
        }
    }
    return false;
}

/* One place after the other. */
static bool hits_slowly(const struct prefilter *filter, const char *text, size_t len)
{
    for (size_t i = 0; i + 1 < len; i++) {
        if (is_pair(filter, fold_loosely(text[i]), fold_loosely(text[i + 1])) &&
            name_at(filter, text, len, i)) {
            return true;
        }
    }
    return false;
}

static byte16 load_folded(const char *text)
{
    byte16 bytes;
    memcpy(&bytes, text, sizeof bytes);
    return bytes | 0x20;
}

static bool is_zero(byte16 bytes)
{
    uint64_t halves[2];
    memcpy(halves, &bytes, sizeof halves);
    return (halves[0] | halves[1]) == 0;
}

/* Bytes set where a pair starts in the 16 bytes at `text`; reads 17. */
static byte16 pairs_in(const byte16 firsts[], const byte16 seconds[], size_t count,
                       const char *text)
{
    byte16 found = {0};
    byte16 here = load_folded(text), next = load_folded(text + 1);
    for (size_t p = 0; p < count; p++) {
        found |= (byte16)(here == firsts[p]) & (byte16)(next == seconds[p]);
    }
    return found;
}

/* Whether a name stands around one of the pairs that were found in the 16 bytes at `at`. */
static bool name_around(const struct prefilter *filter, const char *text, size_t len, size_t at,
                        byte16 found)
{
    unsigned char places[sizeof found];
    memcpy(places, &found, sizeof found);
    for (size_t i = 0; i < sizeof places; i++) {
        if (places[i] != 0 && name_at(filter, text, len, at + i)) {
            return true;
        }
    }
    return false;
}

bool prefilter_hits(const struct prefilter *filter, const char *text, size_t len)
{
    if (filter->always) {
        return true;
    }
    if (filter->pair_bits != NULL || len < 17) {
        return hits_slowly(filter, text, len);
    }
    byte16 firsts[PREFILTER_PAIRS_MAX], seconds[PREFILTER_PAIRS_MAX];
    const size_t count = filter->pair_count;
    for (size_t p = 0; p < count; p++) {
        firsts[p] = (byte16){0} + filter->pairs[p][0];
        seconds[p] = (byte16){0} + filter->pairs[p][1];
    }
    size_t at = 0;
    for (; at + 65 <= len; at += 64) {
        const byte16 found[] = {pairs_in(firsts, seconds, count, text + at),
                                pairs_in(firsts, seconds, count, text + at + 16),
                                pairs_in(firsts, seconds, count, text + at + 32),
                                pairs_in(firsts, seconds, count, text + at + 48)};
        if (is_zero(found[0] | found[1] | found[2] | found[3])) {
            continue;
        }
        for (size_t i = 0; i < sizeof found / sizeof found[0]; i++) {
            if (!is_zero(found[i]) && name_around(filter, text, len, at + 16 * i, found[i])) {
                return true;
            }
        }
    }
    while (at + 1 < len) {
        /* the last bytes are taken together with some that were looked at before */
        const size_t here = at + 17 <= len ? at : len - 17;
        const byte16 found = pairs_in(firsts, seconds, count, text + here);
        if (!is_zero(found) && name_around(filter, text, len, here, found)) {
            return true;
        }
        at += 16;
    }
    return false;
}

bool text_mentions(const char *text, size_t len, const char *name)
{
    size_t name_len = strlen(name);
    for (size_t i = 0; i + name_len <= len; i++) {
        if (fold(text[i]) == fold(name[0]) && starts_with_folded(text + i, name, name_len)) {
            return true;
        }
    }
    return false;
}
