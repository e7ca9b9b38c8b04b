/*
 * Places in a text that the client sent and in the edited one that the server got: the server
 * counts the characters of what it got, and a client looks for the place in what it wrote. Called
 * by judge.c for the pieces that both texts share, and by the proxy's sessions for the map made of
 * them.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rules/rules.h"

/* Pieces that two texts share, in order. Past KEPT_MAX of them the last one takes the place of the
 * one before it. */
struct kept_list {
    struct kept_text items[KEPT_MAX];
    size_t count;
    bool is_cut; /* some in front of the last one are missing */
};

/* Two pieces that adjoin in both texts become one. */
void kept_add(struct kept_list *list, struct kept_text piece);

/* What the server counts as one character of a text (PostgreSQL's pg_mblen, "Character Set
 * Support"). */
enum text_characters {
    CHARACTERS_UNKNOWN, /* not followed here, beyond ASCII */
    CHARACTERS_ANY,     /* SQL_ASCII: whatever the other side says */
    CHARACTERS_BYTES,
    CHARACTERS_UTF8,
    CHARACTERS_EUC, /* EUC_JP, EUC_KR, EUC_CN */
};

/* By the encoding's name as the server reports it. */
enum text_characters characters_of(const char *encoding, size_t len);
/* Of a client's texts at a server: what is converted keeps its number of characters, and with
 * SQL_ASCII on one side nothing is converted. */
enum text_characters characters_between(enum text_characters client, enum text_characters server);
/* The character, from 1, in which byte `offset` of `text` stands; 0 where that is not known. */
uint32_t characters_position(enum text_characters characters, const char *text, size_t offset);

/* Immutable but for its count of references, which one thread keeps. */
struct position_map;

/* The map of a text about which nothing is known; ref and unref leave it alone. */
extern struct position_map position_map_unknown;

/* A map with one reference, of two texts and the pieces that they share. Of texts whose characters
 * cannot be counted, or without memory, position_map_unknown. */
struct position_map *position_map_new(const struct verdict *verdict, const char *client,
                                      size_t client_len, enum text_characters characters);
struct position_map *position_map_ref(struct position_map *map); /* NULL stays NULL */
void position_map_unref(struct position_map *map);
/* The client's place for a place in the edited text, both in characters from 1. What was added
 * stands where the client's text goes on after it. 0: unknown. */
uint32_t position_map_find(const struct position_map *map, uint32_t position);
