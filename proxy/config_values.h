/*
 * The values of the configuration file and of the command line: numbers, durations, sizes, words,
 * addresses and SQL identifiers. Pure; each parser says in `why` what it would have taken, as the
 * end of a sentence that begins with the value ("is not a whole number from 1 to 64").
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/config.h"
#include "proxy/failure.h"

#define VALUE_WHY_SIZE 256

struct value_why {
    char text[VALUE_WHY_SIZE];
};

/* A decimal number from `least` to `most`, nothing around it. */
MUST_CHECK bool value_number(const char *text, uint64_t least, uint64_t most, uint64_t *out,
                             struct value_why *why);

/* "2s", "500ms", "1.5min" or a plain number of seconds, as PgBouncer takes it; units ms s min h d.
 * Bounds and result in milliseconds. Zero is taken, as "off", when `least` is 0. */
MUST_CHECK bool value_duration(const char *text, uint64_t least_ms, uint64_t most_ms,
                               uint64_t *out_ms, struct value_why *why);

/* "64MB" or a plain number of bytes; units B kB MB GB, 1024 apart as in PostgreSQL. */
MUST_CHECK bool value_size(const char *text, uint64_t least, uint64_t most, uint64_t *out,
                           struct value_why *why);

/* The index of `text` in `words`, which `count` says the length of. */
MUST_CHECK bool value_word(const char *text, const char *const *words, size_t count, size_t *out,
                           struct value_why *why);

/* "host:port", "[::1]:port", "*:port", "unix:/path", "unix:@name". The caller owns address->host.
 */
MUST_CHECK bool value_address(const char *text, struct config_address *address,
                              struct value_why *why);

/* Octal, as chmod has it. */
MUST_CHECK bool value_mode(const char *text, unsigned *out, struct value_why *why);

/* "10.0.0.0/8", "fd00::/8", an address alone, or "unix". */
MUST_CHECK bool value_network(const char *text, struct config_network *out, struct value_why *why);

/* "name" or "schema.name" as PostgreSQL's lexer reads it: an unquoted name is folded to lower case,
 * a quoted one is kept ("" stands for a quote). `schema` NULL: a qualified name is refused;
 * otherwise it receives NULL where the name has none. The caller owns both results. */
MUST_CHECK bool value_identifier(const char *text, char **schema, char **name,
                                 struct value_why *why);

/* Takes `keyword` and its value out of libpq keywords ("host=a sslmode = 'require'"), which it
 * shortens; the value, unquoted, is cut to `size`. False, and nothing changed, when the keyword is
 * not there. */
bool value_take_keyword(char *keywords, const char *keyword, char *value, size_t size);

/* The word that `text` was perhaps meant to be, or NULL when none is near. */
const char *value_nearest(const char *text, const char *const *words, size_t count);
