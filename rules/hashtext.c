/* PostgreSQL's hash of a text; see hashtext.h. Owns nothing. */
#include "rules/hashtext.h"

#include <string.h>

struct lookup3 {
    uint32_t a, b, c;
};

static uint32_t rotate(uint32_t word, int bits)
{
    return word << bits | word >> (32 - bits);
}

static void mix(struct lookup3 *s)
{
    s->a = (s->a - s->c) ^ rotate(s->c, 4);
    s->c += s->b;
    s->b = (s->b - s->a) ^ rotate(s->a, 6);
    s->a += s->c;
    s->c = (s->c - s->b) ^ rotate(s->b, 8);
    s->b += s->a;
    s->a = (s->a - s->c) ^ rotate(s->c, 16);
    s->c += s->b;
    s->b = (s->b - s->a) ^ rotate(s->a, 19);
    s->a += s->c;
    s->c = (s->c - s->b) ^ rotate(s->b, 4);
    s->b += s->a;
}

static void finish(struct lookup3 *s)
{
    s->c = (s->c ^ s->b) - rotate(s->b, 14);
    s->a = (s->a ^ s->c) - rotate(s->c, 11);
    s->b = (s->b ^ s->a) - rotate(s->a, 25);
    s->c = (s->c ^ s->b) - rotate(s->b, 16);
    s->a = (s->a ^ s->c) - rotate(s->c, 4);
    s->b = (s->b ^ s->a) - rotate(s->a, 14);
    s->c = (s->c ^ s->b) - rotate(s->b, 24);
}

/* Four bytes as an integer, the low one first. */
static uint32_t whole_word_at(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
           (uint32_t)bytes[3] << 24;
}

/* Up to four bytes of them, from bit `shift` on. */
static uint32_t word_at(const unsigned char *bytes, size_t len, unsigned shift)
{
    uint32_t word = 0;
    for (size_t i = 0; i < len && shift + 8 * i < 32; i++) {
        word |= (uint32_t)bytes[i] << (shift + 8 * i);
    }
    return word;
}

static size_t part(size_t len, size_t from)
{
    return len > from ? len - from : 0;
}

int32_t hashtext(const void *text, size_t len)
{
    const unsigned char *bytes = text;
    const uint32_t start = 0x9e3779b9U + (uint32_t)len + 3923095U;
    struct lookup3 s = {start, start, start};
    for (; len >= 12; len -= 12, bytes += 12) {
        s.a += whole_word_at(bytes);
        s.b += whole_word_at(bytes + 4);
        s.c += whole_word_at(bytes + 8);
        mix(&s);
    }
    /* The low byte of c belongs to the length. */
    s.a += word_at(bytes, len < 4 ? len : 4, 0);
    s.b += word_at(bytes + (len < 4 ? len : 4), len < 8 ? part(len, 4) : 4, 0);
    s.c += word_at(bytes + (len < 8 ? len : 8), part(len, 8), 8);
    finish(&s);
    int32_t hash;
    memcpy(&hash, &s.c, sizeof hash);
    return hash;
}
