/*
 * What the fuzz targets share: a check that stops the run, and a cursor that takes an input apart.
 *
 * Each target is one file with LLVMFuzzerTestOneInput(): it feeds one input to one part of the code
 * and checks what must hold whatever the bytes are. tests/fuzz/run builds and runs them.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Not assert(): stays in every build, and the sanitizer adds the stack. */
#define FUZZ_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);         \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Past the end everything is zero or empty, so that every input means something. */
struct fuzz_input {
    const uint8_t *at;
    size_t len;
};

static inline uint8_t fuzz_u8(struct fuzz_input *in)
{
    if (in->len == 0) {
        return 0;
    }
    in->len--;
    return *in->at++;
}

/* At most `len` bytes; *taken says how many. */
static inline const uint8_t *fuzz_bytes(struct fuzz_input *in, size_t len, size_t *taken)
{
    const uint8_t *bytes = in->at;
    *taken = len < in->len ? len : in->len;
    in->at += *taken;
    in->len -= *taken;
    return bytes;
}

/* A copy of exactly this size on the heap: the sanitizer sees the first byte read past its end. The
 * caller frees it. */
static inline uint8_t *fuzz_copy(const uint8_t *bytes, size_t len)
{
    uint8_t *copy = malloc(len > 0 ? len : 1);
    if (copy == NULL) {
        abort();
    }
    if (len > 0) {
        memcpy(copy, bytes, len);
    }
    return copy;
}
