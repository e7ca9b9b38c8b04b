/*
 * A map is a list of points in the order of both texts. From one point to the next the client's
 * place runs along, stands still, or is not known. See positions.h.
 */
#include "rules/positions.h"

#include <stdlib.h>
#include <string.h>

#include "rules/lanes.h"

void kept_add(struct kept_list *list, struct kept_text piece)
{
    struct kept_text *last = list->count == 0 ? NULL : &list->items[list->count - 1];
    if (last != NULL && last->to == piece.from && last->at + (last->to - last->from) == piece.at) {
        last->to = piece.to;
    } else if (list->count < KEPT_MAX) {
        list->items[list->count++] = piece;
    } else {
        *last = piece;
        list->is_cut = true;
    }
}

static bool is_named(const char *encoding, size_t len, const char *name)
{
    return len == strlen(name) && memcmp(encoding, name, len) == 0;
}

static bool begins(const char *encoding, size_t len, const char *prefix)
{
    return len >= strlen(prefix) && memcmp(encoding, prefix, strlen(prefix)) == 0;
}

enum text_characters characters_of(const char *encoding, size_t len)
{
    static const char *const single_byte[] = {"LATIN", "WIN", "KOI8", "ISO_8859_"};
    for (size_t i = 0; i < sizeof single_byte / sizeof single_byte[0]; i++) {
        if (begins(encoding, len, single_byte[i])) {
            return CHARACTERS_BYTES;
        }
    }
    if (is_named(encoding, len, "UTF8")) {
        return CHARACTERS_UTF8;
    }
    if (is_named(encoding, len, "SQL_ASCII")) {
        return CHARACTERS_ANY;
    }
    const bool is_euc = is_named(encoding, len, "EUC_JP") || is_named(encoding, len, "EUC_KR") ||
                        is_named(encoding, len, "EUC_CN");
    return is_euc ? CHARACTERS_EUC : CHARACTERS_UNKNOWN;
}

enum text_characters characters_between(enum text_characters client, enum text_characters server)
{
    if (server == CHARACTERS_ANY) {
        return CHARACTERS_BYTES;
    }
    /* Some pairs of characters are one in EUC_JIS_2004. */
    return client == CHARACTERS_ANY || server == CHARACTERS_UNKNOWN ? server : client;
}

/* The second and later bytes of sequences in `blocks` blocks of 16 bytes; a lane counts up to 255.
 */
static size_t count_inner(const char *text, size_t blocks)
{
    lanes counts = {0};
    for (size_t i = 0; i < blocks; i++) {
        counts -= (lanes)((lanes_load(text + i * LANES) & 0xc0) == 0x80); /* true is -1 */
    }
    size_t count = 0;
    for (size_t i = 0; i < LANES; i++) {
        count += counts[i];
    }
    return count;
}

static size_t count_utf8(const char *text, size_t len)
{
    size_t at = 0, inner = 0;
    while (len - at >= LANES) {
        const size_t left = (len - at) / LANES, blocks = left < 255 ? left : 255;
        inner += count_inner(text + at, blocks);
        at += blocks * LANES;
    }
    for (; at < len; at++) {
        inner += ((unsigned char)text[at] & 0xc0) == 0x80;
    }
    return len - inner;
}

static size_t count_euc(const char *text, size_t len)
{
    size_t count = 0;
    for (size_t at = 0; at < len; count++) {
        const unsigned char byte = (unsigned char)text[at];
        at += byte == 0x8f ? 3 : byte >= 0x80 ? 2 : 1; /* 0x8f is SS3 */
    }
    return count;
}

static bool is_ascii(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] >= 0x80) {
            return false;
        }
    }
    return true;
}

static uint32_t count(enum text_characters characters, const char *text, size_t len)
{
    switch (characters) {
    case CHARACTERS_UTF8:
        return (uint32_t)count_utf8(text, len);
    case CHARACTERS_EUC:
        return (uint32_t)count_euc(text, len);
    case CHARACTERS_UNKNOWN:
    case CHARACTERS_ANY:
    case CHARACTERS_BYTES:
        break;
    }
    return (uint32_t)len;
}

static bool is_countable(enum text_characters characters, const char *text, size_t len)
{
    return (characters != CHARACTERS_UNKNOWN && characters != CHARACTERS_ANY) ||
           is_ascii(text, len);
}

uint32_t characters_position(enum text_characters characters, const char *text, size_t offset)
{
    return is_countable(characters, text, offset) ? count(characters, text, offset) + 1 : 0;
}

enum run {
    RUN_KEPT,    /* the client's place goes along */
    RUN_ADDED,   /* it stays where it is */
    RUN_UNKNOWN, /* it is not known */
};

struct point {
    uint32_t sent, client; /* characters in front of it */
    enum run run;          /* behind it */
};

struct position_map {
    uint32_t references;
    uint32_t count;
    struct point points[];
};

struct position_map position_map_unknown;

/* A run of no characters gives way to the next one. */
static void add_point(struct position_map *map, struct point point)
{
    if (map->count > 0 && map->points[map->count - 1].sent == point.sent) {
        map->count--;
    }
    map->points[map->count++] = point;
}

static void add_points(struct position_map *map, const struct verdict *verdict, const char *client,
                       enum text_characters characters)
{
    size_t from = 0, at = 0; /* bytes of both texts up to here are counted */
    struct point point = {0};
    for (size_t i = 0; i < verdict->kept_count; i++) {
        const struct kept_text *piece = &verdict->kept[i];
        const bool is_last = i + 1 == verdict->kept_count;
        if (is_last && verdict->is_kept_cut) {
            map->points[map->count - 1].run = RUN_UNKNOWN;
        }
        point.client += count(characters, client + from, piece->from - from);
        point.sent += count(characters, verdict->text + at, piece->at - at);
        point.run = RUN_KEPT;
        add_point(map, point);
        if (is_last) {
            return;
        }
        const size_t len = piece->to - piece->from;
        const uint32_t length = count(characters, client + piece->from, len);
        point.client += length;
        point.sent += length;
        point.run = RUN_ADDED;
        add_point(map, point);
        from = piece->to;
        at = piece->at + len;
    }
}

struct position_map *position_map_new(const struct verdict *verdict, const char *client,
                                      size_t client_len, enum text_characters characters)
{
    if (!is_countable(characters, client, client_len)) {
        return &position_map_unknown;
    }
    struct position_map *map =
        malloc(sizeof *map + 2 * (verdict->kept_count + 1) * sizeof map->points[0]);
    if (map == NULL) {
        return &position_map_unknown;
    }
    map->references = 1;
    map->count = 0;
    add_points(map, verdict, client, characters);
    return map;
}

struct position_map *position_map_ref(struct position_map *map)
{
    if (map != NULL && map != &position_map_unknown) {
        map->references++;
    }
    return map;
}

void position_map_unref(struct position_map *map)
{
    if (map != NULL && map != &position_map_unknown && --map->references == 0) {
        free(map);
    }
}

uint32_t position_map_find(const struct position_map *map, uint32_t position)
{
    size_t behind = 0;
    while (behind < map->count && map->points[behind].sent < position) {
        behind++;
    }
    if (behind == 0) {
        return 0;
    }
    const struct point *point = &map->points[behind - 1];
    switch (point->run) {
    case RUN_KEPT:
        return point->client + (position - point->sent);
    case RUN_ADDED:
        return point->client + 1;
    case RUN_UNKNOWN:
        break;
    }
    return 0;
}
