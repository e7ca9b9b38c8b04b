/*
 * Sixteen bytes of text at once, by the compiler's vectors: on x86-64 they are the registers that
 * every such processor has, elsewhere what the compiler makes of them. Called by bulk.c,
 * copy_filter.c and positions.c; owns nothing.
 */
#pragma once

#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { LANES = 16 };

typedef unsigned char lanes __attribute__((vector_size(LANES)));

/* Reads LANES bytes, at any address. */
static inline lanes lanes_load(const char *at)
{
    lanes bytes;
    memcpy(&bytes, at, sizeof bytes);
    return bytes;
}

/* The highest bit of each of eight bytes, the first byte's as bit 0: the factor moves bit 7 of byte
 * n to bit 56 + n, and no two meet on their way. */
static inline unsigned lanes_half_mask(const unsigned char *bytes)
{
    uint64_t word = 0;
    for (unsigned i = 0; i < 8; i++) {
        word |= (uint64_t)bytes[i] << (8 * i);
    }
    return (unsigned)(((word >> 7 & UINT64_C(0x0101010101010101)) * UINT64_C(0x0102040810204080)) >>
                      56);
}

/* lanes_mask() for any processor. */
static inline unsigned lanes_mask_anywhere(lanes bytes)
{
    unsigned char each[LANES];
    memcpy(each, &bytes, sizeof each);
    return lanes_half_mask(each) | lanes_half_mask(each + 8) << 8;
}

/* Bit n is the highest bit of byte n; of a comparison's result: whether it is true there. */
static inline unsigned lanes_mask(lanes bytes)
{
#ifdef __SSE2__
    return (unsigned)_mm_movemask_epi8((__m128i)bytes);
#else
    return lanes_mask_anywhere(bytes);
#endif
}
