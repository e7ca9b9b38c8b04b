/*
 * hashtext(), computed outside of the server. Called by evaluate.c.
 *
 * The same on PostgreSQL 11 to 18 on machines with the low byte first. It is a function of the
 * bytes in the server's encoding, so that the caller must know that the stream or statement has
 * that encoding, and that the column's collation is deterministic (with another one the server
 * hashes ICU's sort key).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Bob Jenkins' lookup3, in the variant of PostgreSQL's hash_any(). */
int32_t hashtext(const void *bytes, size_t len);
