/*
 * Big-endian words, a reading cursor that fails sticky, and a writer of messages.
 *
 * Called by everything that looks into or builds a message. Nothing here allocates beyond the cap a
 * writer was made with; a reader borrows the bytes it walks.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MUST_CHECK __attribute__((warn_unused_result))

/* A view of bytes that somebody else owns. */
struct span {
    const char *ptr;
    size_t len;
};

static inline uint32_t load_u32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
}

void store_u32(uint8_t *p, uint32_t value);

/* After the first read past the end every further read gives zero or an empty string, and
 * reader_ok() is false: callers check once, at the end. */
struct reader {
    const uint8_t *at;
    const uint8_t *end;
    bool ok;
};

struct reader reader_of(const uint8_t *bytes, size_t len);
uint8_t reader_u8(struct reader *r);
uint16_t reader_u16(struct reader *r);
uint32_t reader_u32(struct reader *r);
/* A NUL-terminated string; the view excludes the NUL, which stands at ptr[len]. */
struct span reader_cstr(struct reader *r);
/* All bytes were read, and none too many. */
bool reader_done(const struct reader *r);

/* Grows on the heap up to `cap` bytes; past it, or out of memory, ok becomes false and stays so. */
struct writer {
    uint8_t *bytes;
    size_t len;
    size_t room;
    size_t cap;
    size_t message; /* where the length word of the open message stands */
    bool ok;
};

void writer_init(struct writer *w, size_t cap);
void writer_fini(struct writer *w);
void writer_begin(struct writer *w, uint8_t type); /* type 0: a message without a type byte */
void writer_u8(struct writer *w, uint8_t value);
void writer_u16(struct writer *w, uint16_t value);
void writer_u32(struct writer *w, uint32_t value);
void writer_bytes(struct writer *w, const void *bytes, size_t len);
void writer_cstr(struct writer *w, const char *string); /* with its NUL */
void writer_end(struct writer *w);                      /* fills in the length word */
