/*
 * The parser reads UTF-8; in a text of any encoding whose ASCII bytes are always ASCII it finds the
 * same tokens. Called by judge.c; owns nothing.
 */
#include "rules/encoding.h"

#include <stdint.h>
#include <string.h>

#include "rules/alike.h"

typedef unsigned char byte16 __attribute__((vector_size(16)));

/* The length of the well-formed sequence at `at`, 0 when there is none (Unicode, table 3-7). */
static size_t sequence_len(const unsigned char *at, size_t len)
{
    static const struct {
        unsigned char first_min, first_max, second_min, second_max;
        size_t len;
    } forms[] = {
        {0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (at[0] < forms[i].first_min || at[0] > forms[i].first_max) {
            continue;
        }
        if (forms[i].len > len) {
            return 0;
        }
        for (size_t next = 1; next < forms[i].len; next++) {
            const unsigned char min = next == 1 ? forms[i].second_min : 0x80;
            const unsigned char max = next == 1 ? forms[i].second_max : 0xbf;
            if (at[next] < min || at[next] > max) {
                return 0;
            }
        }
        return forms[i].len;
    }
    return 0;
}

/* The first of the blocks of 64 bytes from `at` on that has a byte above 0x7f; when there is none,
 * the end of the last whole block. */
static size_t skip_ascii(const char *text, size_t len, size_t at)
{
    for (; at + 64 <= len; at += 64) {
        byte16 bytes[4];
        uint64_t halves[2];
        memcpy(bytes, text + at, sizeof bytes);
        bytes[0] = (bytes[0] | bytes[1] | bytes[2] | bytes[3]) & 0x80;
        memcpy(halves, bytes, sizeof halves);
        if ((halves[0] | halves[1]) != 0) {
            break;
        }
    }
    return at;
}

bool encoding_is_readable(enum text_encoding encoding, const char *text, size_t len)
{
    if (encoding == TEXT_ENCODING_ASCII_SAFE) {
        return true;
    }
    if (encoding == TEXT_ENCODING_UNSETTLED) {
        return text_reads_alike(text, len);
    }
    if (encoding == TEXT_ENCODING_UNKNOWN && memchr(text, '\\', len) != NULL) {
        return false;
    }
    size_t at = skip_ascii(text, len, 0);
    while (at < len) {
        uint64_t word;
        if (len - at >= sizeof word) {
            memcpy(&word, text + at, sizeof word);
            if ((word & UINT64_C(0x8080808080808080)) == 0) {
                at = skip_ascii(text, len, at + sizeof word);
                continue;
            }
        }
        size_t step = sequence_len((const unsigned char *)text + at, len - at);
        if (step == 0 || (step > 1 && encoding != TEXT_ENCODING_UTF8)) {
            return false;
        }
        at += step;
    }
    return true;
}
