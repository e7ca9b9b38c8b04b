/* Compares the word's first, middle and last letter with 16 places at a time; see mentions.h. */
#include "proxy/session/mentions.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

#define LANES 16
typedef uint8_t lanes __attribute__((vector_size(LANES)));

/* Letters in lower case; other bytes may turn into each other, which the full comparison sorts out. */
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

bool mentions(const char *text, size_t len, const char *word)
{
    const size_t n = strlen(word);
    const size_t middle = n / 2;
    const uint8_t first = (uint8_t)word[0], mid = (uint8_t)word[middle],
                  last = (uint8_t)word[n - 1];
    size_t at = 0;
    while (at + n <= len) {
        size_t places = 1;
        if (at + n - 1 + LANES <= len) {
            lanes hits = (lanes)(load_folded(text + at) == first) &
                         (lanes)(load_folded(text + at + middle) == mid) &
                         (lanes)(load_folded(text + at + n - 1) == last);
            if (!is_any_set(hits)) {
                at += LANES;
                continue;
            }
            places = LANES;
        }
        for (size_t i = 0; i < places; i++) {
            if (strncasecmp(text + at + i, word, n) == 0) {
                return true;
            }
        }
        at += places;
    }
    return false;
}
