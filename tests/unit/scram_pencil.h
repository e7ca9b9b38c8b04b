/*
 * What the tests of SCRAM share: secrets that PostgreSQL made of one password, and that password's
 * key.
 */
#pragma once

#include <string.h>

#include "protocol/scram.h"

/* Of PostgreSQL 15 for the password "pencil". */
static const char secret_15[] = "SCRAM-SHA-256$4096:klWz/536Qgkmmo+WLwZxUA==$"
                                "wm/VdcMHTjKTMvqgkz1KMpfMV7NzZlHwtPZbwZjhxc0=:"
                                "MThlUbBa2ehRth6qt+BOWZOSslVzB/ia5p1wuoe8jG0=";
static const uint8_t random_a[SCRAM_RANDOM] = "aaaaaaaaaaaaaaaaa";
static const uint8_t random_b[SCRAM_RANDOM] = "bbbbbbbbbbbbbbbbb";
static const struct span certificate = {.ptr = "0123456789abcdef0123456789abcdef", .len = 32};

/* The secret and its ClientKey, derived once: 4096 iterations take their time. */
static struct scram_secret pencil;
static uint8_t pencil_key[SCRAM_KEY];

static struct span span_of(const char *text)
{
    return (struct span){.ptr = text, .len = strlen(text)};
}

static void assert_span(struct span s, const char *text)
{
    assert_int_equal(s.len, strlen(text));
    assert_memory_equal(s.ptr, text, s.len);
}

static int derive_pencil(void **state)
{
    (void)state;
    struct scram_secret secret;
    bool is_derived = scram_secret_read(span_of(secret_15), &secret) &&
                      scram_secret_derive(span_of("pencil"), secret.salt, secret.salt_len,
                                          secret.iterations, pencil_key, &pencil);
    return is_derived ? 0 : -1;
}
