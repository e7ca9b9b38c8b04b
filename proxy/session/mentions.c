/* Compares the word's first, middle and last letter with 16 places at a time; see mentions.h. */
#include "proxy/session/mentions.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

#define LANES 16
typedef uint8_t lanes __attribute__((vector_size(LANES)));

/* Letters in lower case; other bytes may turn into each other, which the full comparison sorts out.
 */
static lanes load_folded(const char *at)
{
    lanes bytes;
    memcpy(&bytes, at, sizeof bytes);
    return bytes | 0x20;
}

static bool is_any_set(lanes mask)
{
    uint64_t halves[2];
    memcpy(halves, &mask, sizeof halves);
    return (halves[0] | halves[1]) != 0;
}

/* One place after the other. */
static bool stands_in(const char *text, size_t len, const char *word, size_t n)
{
    for (size_t at = 0; at + n <= len; at++) {
        if (strncasecmp(text + at, word, n) == 0) {
            return true;
        }
    }
    return false;
}

bool mentions(const char *text, size_t len, const char *word)
{
    const size_t n = strlen(word);
    const size_t middle = n / 2;
    const uint8_t first = (uint8_t)word[0], mid = (uint8_t)word[middle],
                  last = (uint8_t)word[n - 1];
    const size_t window = n - 1 + LANES;
    if (len < window) {
        return stands_in(text, len, word, n);
    }
    for (size_t at = 0; at + n <= len; at += LANES) {
        /* the last places are taken together with some that were looked at before */
        const char *here = text + (at + window <= len ? at : len - window);
        lanes hits = (lanes)(load_folded(here) == first) &
                     (lanes)(load_folded(here + middle) == mid) &
                     (lanes)(load_folded(here + n - 1) == last);
        if (is_any_set(hits) && stands_in(here, window, word, n)) {
            return true;
        }
    }
    return false;
}
