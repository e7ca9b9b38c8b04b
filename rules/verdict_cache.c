/*
 * A hash table with chains and a list by age. An entry is one block: itself, its key (the types,
 * the text), and the verdict with all that it points to. Called by judge.c; owns the entries.
 */
#include "rules/verdict_cache.h"

#include <stdlib.h>
#include <string.h>

/* Long texts seldom come twice. */
enum {
    TEXT_MAX = 64 * 1024,
    BYTES_PER_BUCKET = 1024,
    BUCKETS_MAX = 1 << 16,
};

struct entry {
    struct entry *chain;
    struct entry *newer, *older;
    uint64_t hash;
    size_t size; /* of the block */
    const uint32_t *param_types;
    size_t param_type_count;
    const char *text;
    size_t text_len;
    bool extended, conforming, columns_change;
    enum text_encoding encoding;
    struct verdict_kept kept;
};

struct verdict_cache {
    size_t bytes, bytes_max;
    struct entry *newest, *oldest;
    uint64_t seed;
    size_t bucket_mask;
    struct entry *buckets[];
};

struct verdict_cache *verdict_cache_new(size_t bytes)
{
    size_t buckets = 16;
    while (buckets < bytes / BYTES_PER_BUCKET && buckets < BUCKETS_MAX) {
        buckets *= 2;
    }
    const size_t size = sizeof(struct verdict_cache) + buckets * sizeof(struct entry *);
    struct verdict_cache *cache = calloc(1, size);
    if (cache != NULL) {
        cache->bytes_max = bytes > size ? bytes - size : 0;
        cache->bucket_mask = buckets - 1;
        /* Where the memory lies is not known to a client, so that it cannot aim at one bucket. */
        cache->seed = (uint64_t)(uintptr_t)cache * UINT64_C(0x9e3779b97f4a7c15);
    }
    return cache;
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)(a ^ UINT64_C(0xa0761d6478bd642f)) * (b ^ UINT64_C(0xe7037ed1a0b428db));
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t len)
{
    const char *at = bytes;
    uint64_t words[2];
    for (; len > sizeof words; at += sizeof words, len -= sizeof words) {
        memcpy(words, at, sizeof words);
        hash = mix(words[0] ^ hash, words[1] + hash);
    }
    memset(words, 0, sizeof words);
    memcpy(words, at, len);
    return mix(words[0] ^ hash, words[1] + len);
}

static uint64_t hash_input(const struct verdict_cache *cache, const struct judge_input *input)
{
    uint64_t hash = cache->seed + input->extended + 2 * (uint64_t)input->columns_change;
    if (input->param_type_count > 0) {
        hash = hash_bytes(hash, input->param_types,
                          input->param_type_count * sizeof *input->param_types);
    }
    return hash_bytes(hash, input->text, input->len);
}

static bool is_same(const struct entry *entry, const struct judge_input *input)
{
    return entry->text_len == input->len && memcmp(entry->text, input->text, input->len) == 0 &&
           entry->extended == input->extended && entry->columns_change == input->columns_change &&
           entry->conforming == input->standard_conforming_strings &&
           entry->encoding == input->encoding &&
           entry->param_type_count == input->param_type_count &&
           (input->param_type_count == 0 ||
            memcmp(entry->param_types, input->param_types,
                   input->param_type_count * sizeof *input->param_types) == 0);
}

static void unlink_age(struct verdict_cache *cache, struct entry *entry)
{
    *(entry->newer == NULL ? &cache->newest : &entry->newer->older) = entry->older;
    *(entry->older == NULL ? &cache->oldest : &entry->older->newer) = entry->newer;
}

static void link_newest(struct verdict_cache *cache, struct entry *entry)
{
    entry->newer = NULL;
    entry->older = cache->newest;
    *(cache->newest == NULL ? &cache->oldest : &cache->newest->newer) = entry;
    cache->newest = entry;
}

static void drop(struct verdict_cache *cache, struct entry *entry)
{
    struct entry **place = &cache->buckets[entry->hash & cache->bucket_mask];
    while (*place != entry) {
        place = &(*place)->chain;
    }
    *place = entry->chain;
    unlink_age(cache, entry);
    cache->bytes -= entry->size;
    free(entry);
}

const struct verdict_kept *verdict_cache_get(struct verdict_cache *cache,
                                             const struct judge_input *input)
{
    if (input->len > TEXT_MAX) {
        return NULL;
    }
    const uint64_t hash = hash_input(cache, input);
    struct entry *entry = cache->buckets[hash & cache->bucket_mask];
    while (entry != NULL && (entry->hash != hash || !is_same(entry, input))) {
        entry = entry->chain;
    }
    if (entry == NULL) {
        return NULL;
    }
    if (entry != cache->newest) {
        unlink_age(cache, entry);
        link_newest(cache, entry);
    }
    return &entry->kept;
}

/* Lays things one behind the other; only measures while `block` is NULL. */
struct packer {
    char *block;
    size_t used;
};

static const void *pack(struct packer *packer, const void *bytes, size_t len)
{
    const size_t unit = sizeof(uint64_t);
    char *place = packer->block == NULL ? NULL : packer->block + packer->used;
    packer->used += (len + unit - 1) / unit * unit;
    return place == NULL || len == 0 ? place : memcpy(place, bytes, len);
}

static const char *pack_string(struct packer *packer, const char *text)
{
    return text == NULL ? NULL : pack(packer, text, strlen(text) + 1);
}

/* The entry to be, with pointers into the block once there is one. */
static struct entry pack_entry(struct packer *packer, const struct judge_input *input,
                               const struct verdict_kept *kept)
{
    const struct verdict *verdict = &kept->verdict;
    struct entry entry = {
        .text_len = input->len,
        .param_type_count = input->param_type_count,
        .extended = input->extended,
        .columns_change = input->columns_change,
        .conforming = input->standard_conforming_strings,
        .encoding = input->encoding,
        .kept = *kept,
    };
    packer->used = sizeof entry;
    entry.param_types =
        pack(packer, input->param_types, input->param_type_count * sizeof *input->param_types);
    entry.text = pack(packer, input->text, input->len);
    entry.kept.slots = pack(packer, kept->slots, kept->slot_count * sizeof *kept->slots);
    struct verdict *copy = &entry.kept.verdict;
    const struct kept_text *pieces = kept->lifted != NULL ? kept->lifted : verdict->kept;
    pieces = pack(packer, pieces, verdict->kept_count * sizeof *pieces);
    entry.kept.lifted = kept->lifted != NULL ? pieces : NULL;
    copy->kept = kept->lifted != NULL ? NULL : pieces;
    copy->text = verdict->text == NULL ? NULL : pack(packer, verdict->text, verdict->text_len + 1);
    copy->param_types = pack(packer, verdict->param_types,
                             verdict->param_type_count * sizeof *verdict->param_types);
    copy->copies = pack(packer, verdict->copies, verdict->copy_count * sizeof *verdict->copies);
    copy->supplied =
        pack(packer, verdict->supplied, verdict->supplied_count * sizeof *verdict->supplied);
    const struct value_pair *pairs =
        kept->lifted_pairs != NULL ? kept->lifted_pairs : verdict->pairs;
    pairs = pack(packer, pairs, verdict->pair_count * sizeof *pairs);
    entry.kept.lifted_pairs = kept->lifted_pairs != NULL ? pairs : NULL;
    copy->pairs = kept->lifted_pairs != NULL ? NULL : pairs;
    copy->sqlstate = pack_string(packer, verdict->sqlstate);
    copy->message = pack_string(packer, verdict->message);
    copy->detail = pack_string(packer, verdict->detail);
    copy->hint = pack_string(packer, verdict->hint);
    copy->masked_text = pack_string(packer, verdict->masked_text);
    return entry;
}

void verdict_cache_put(struct verdict_cache *cache, const struct judge_input *input,
                       const struct verdict_kept *kept)
{
    struct packer packer = {0};
    pack_entry(&packer, input, kept);
    if (input->len > TEXT_MAX || packer.used > cache->bytes_max / 4) {
        return;
    }
    const size_t size = packer.used;
    while (cache->bytes + size > cache->bytes_max) {
        drop(cache, cache->oldest);
    }
    packer.block = malloc(size);
    if (packer.block == NULL) {
        return;
    }
    struct entry *entry = (struct entry *)(void *)packer.block;
    *entry = pack_entry(&packer, input, kept);
    entry->size = size;
    entry->hash = hash_input(cache, input);
    struct entry **bucket = &cache->buckets[entry->hash & cache->bucket_mask];
    entry->chain = *bucket;
    *bucket = entry;
    link_newest(cache, entry);
    cache->bytes += size;
}

void verdict_cache_clear(struct verdict_cache *cache)
{
    while (cache->oldest != NULL) {
        drop(cache, cache->oldest);
    }
}

void verdict_cache_free(struct verdict_cache *cache)
{
    if (cache != NULL) {
        verdict_cache_clear(cache);
        free(cache);
    }
}

size_t verdict_cache_bytes(const struct verdict_cache *cache)
{
    return cache->bytes;
}
