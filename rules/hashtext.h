/*
 * hashtext(), and the expression mod(hashtext(column), n), computed outside of the server. Called
 * by the proxy where a value is at hand: what the audit says of it, and mode compute.
 *
 * The same on PostgreSQL 11 to 18 on machines with the low byte first. It is a function of the
 * bytes in the server's encoding, so that the caller must know that the stream or statement has
 * that encoding, and that the column's collation is deterministic (with another one the server
 * hashes ICU's sort key).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bob Jenkins' lookup3, in the variant of PostgreSQL's hash_any(). */
int32_t hashtext(const void *bytes, size_t len);

struct hashtext_expression {
    char column[64]; /* as the catalog has it: folded, without quotes */
    int32_t modulus; /* not 0 */
};

/* Recognises mod(hashtext(column), modulus) in a configured or catalogued text, with or without a
 * cast of the column to text or varchar, brackets and pg_catalog; false for any other expression,
 * or one that does not parse. Not within an analysis: it uses the thread's parser. */
bool hashtext_expression_read(const char *text, struct hashtext_expression *out);

/* The expression's value for a value of its column, which is not NULL. */
int32_t hashtext_expression_value(const struct hashtext_expression *expression, const void *bytes,
                                  size_t len);
