/*
 * What both roles of SCRAM compute with: base64 as PostgreSQL reads it, HMAC, and the number of
 * iterations. Called by scram.c and scram_secret.c alone; nothing here keeps anything.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/scram.h"

/* Characters of `len` bytes in base64, without a NUL. */
#define BASE64_SIZE(len) (((len) + 2) / 3 * 4)

/* Writes BASE64_SIZE(len) characters and a NUL. */
void base64_write(char *out, const uint8_t *bytes, size_t len);
/* False when `text` is not base64, or more than `cap` bytes. No white space; like PostgreSQL it
 * does not ask for zeros in the bits that padding leaves over. */
MUST_CHECK bool base64_read(struct span text, uint8_t *out, size_t cap, size_t *len);

/* A number from 1 to 2^31 - 1, as strtol() reads it; false otherwise. */
MUST_CHECK bool scram_iterations_read(struct span text, uint32_t *out);

/* HMAC-SHA-256 with a key of SCRAM_KEY bytes; false when libcrypto is out of memory. */
MUST_CHECK bool scram_hmac(const uint8_t key[SCRAM_KEY], struct span text, uint8_t out[SCRAM_KEY]);
/* The StoredKey of a ClientKey. */
MUST_CHECK bool scram_hash(const uint8_t key[SCRAM_KEY], uint8_t out[SCRAM_KEY]);
