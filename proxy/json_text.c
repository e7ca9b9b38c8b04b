/* Escapes text for JSON and repairs its UTF-8; see json_text.h. */
#include "proxy/json_text.h"

#include <stdbool.h>
#include <string.h>

static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

static bool is_continuation(unsigned char c)
{
    return (c & 0xc0) == 0x80;
}

/* Bytes of the well-formed UTF-8 sequence at `s`, 0 when there is none (Unicode, table 3-7). */
static size_t utf8_length(const unsigned char *s, size_t len)
{
    if (len >= 2 && s[0] >= 0xc2 && s[0] <= 0xdf && is_continuation(s[1])) {
        return 2;
    }
    if (len >= 3 && s[0] >= 0xe0 && s[0] <= 0xef && is_continuation(s[1]) &&
        is_continuation(s[2])) {
        bool overlong = s[0] == 0xe0 && s[1] < 0xa0;
        bool surrogate = s[0] == 0xed && s[1] > 0x9f;
        return overlong || surrogate ? 0 : 3;
    }
    if (len >= 4 && s[0] >= 0xf0 && s[0] <= 0xf4 && is_continuation(s[1]) &&
        is_continuation(s[2]) && is_continuation(s[3])) {
        bool overlong = s[0] == 0xf0 && s[1] < 0x90;
        bool beyond = s[0] == 0xf4 && s[1] > 0x8f;
        return overlong || beyond ? 0 : 4;
    }
    return 0;
}

/* The escape of a byte that is neither plain nor the start of UTF-8. `out` has JSON_TEXT_GROWTH. */
static size_t escape(char *out, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    static const char named[] = "\"\"\\\\\bb\ff\nn\rr\tt";

    for (size_t i = 0; i + 1 < sizeof named; i += 2) {
        if ((unsigned char)named[i] == c) {
            out[0] = '\\';
            out[1] = named[i + 1];
            return 2;
        }
    }
    if (c >= 0x80) {
        memcpy(out, "\\ufffd", 6);
        return 6;
    }
    memcpy(out, "\\u00", 4);
    out[4] = hex[c >> 4];
    out[5] = hex[c & 0xf];
    return 6;
}

size_t json_text(char *out, size_t room, const char *text, size_t len)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t in = 0;
    size_t done = 0;

    while (in < len) {
        size_t run = in;
        size_t most = len - in < room - done ? len : in + (room - done);
        while (run < most && is_plain(s[run])) {
            run++;
        }
        memcpy(out + done, text + in, run - in);
        done += run - in;
        in = run;
        if (in == len || done == room) {
            break;
        }

        size_t wide = utf8_length(s + in, len - in);
        char escaped[JSON_TEXT_GROWTH];
        const char *piece = wide > 0 ? text + in : escaped;
        size_t size = wide > 0 ? wide : escape(escaped, s[in]);
        if (size > room - done) {
            break;
        }
        memcpy(out + done, piece, size);
        done += size;
        in += wide > 0 ? wide : 1;
    }
    return done;
}
