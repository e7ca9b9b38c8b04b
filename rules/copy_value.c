/*
 * A value of a COPY stream as the server would read it: escapes and quotes undone. Called by
 * copy_lines.c for the names in a header, and by the proxy for what the audit says. Owns nothing.
 */
#include "rules/copy_row.h"

#include <ctype.h>
#include <string.h>

/* The value's bytes, and what is made of them. */
struct reading {
    const char *at, *end;
    enum copy_encoding encoding;
    char *out;
    size_t room, len;
};

static void put(struct reading *r, char byte)
{
    if (r->len < r->room) {
        r->out[r->len] = byte;
    }
    r->len++;
}

/* The byte at hand, and those that belong to its character. */
static void put_character(struct reading *r)
{
    uint32_t trail = copy_trail_len(r->encoding, *r->at);
    put(r, *r->at++);
    for (; trail > 0 && r->at < r->end; trail--) {
        put(r, *r->at++);
    }
}

/* The bytes in front of the next `stop`, of which the one at hand is none: at once where no byte of
 * a longer character can look like it. */
static void put_until(struct reading *r, char stop)
{
    if (r->encoding != COPY_ENCODING_ASCII_SAFE) {
        put_character(r);
        return;
    }
    const char *end = memchr(r->at, stop, (size_t)(r->end - r->at));
    const size_t len = (size_t)((end != NULL ? end : r->end) - r->at);
    if (r->len < r->room) {
        memcpy(r->out + r->len, r->at, len < r->room - r->len ? len : r->room - r->len);
    }
    r->len += len;
    r->at += len;
}

static int digit_value(char digit)
{
    return isdigit((unsigned char)digit) ? digit - '0' : tolower((unsigned char)digit) - 'a' + 10;
}

/* At most `max` digits of the base, 8 or 16; false when there is none. */
static bool put_number(struct reading *r, int base, int max)
{
    int value = 0, count = 0;
    while (count < max && r->at < r->end && isxdigit((unsigned char)*r->at) &&
           digit_value(*r->at) < base) {
        value = value * base + digit_value(*r->at++);
        count++;
    }
    if (count == 0) {
        return false;
    }
    put(r, (char)(value & 0xff));
    return true;
}

/* Behind a backslash. */
static void put_escaped(struct reading *r)
{
    static const char letters[] = "bfnrtv", meanings[] = "\b\f\n\r\t\v";
    if (put_number(r, 8, 3)) {
        return;
    }
    if (*r->at == 'x') {
        r->at++;
        if (!put_number(r, 16, 2)) {
            put(r, 'x');
        }
        return;
    }
    const char *letter = memchr(letters, *r->at, sizeof letters - 1);
    if (letter == NULL) {
        put_character(r);
        return;
    }
    put(r, meanings[letter - letters]);
    r->at++;
}

static void read_text(struct reading *r)
{
    while (r->at < r->end) {
        if (*r->at != '\\') {
            put_until(r, '\\');
        } else if (r->at + 1 < r->end) {
            r->at++;
            put_escaped(r);
        } else {
            /* At the very end of the data it means nothing, to the comparison with NULL as well. */
            r->end--;
        }
    }
}

/* True when there were quotes. */
static bool read_csv(struct reading *r, char quote, char escape)
{
    bool has_quotes = false, is_in_quotes = false;
    while (r->at < r->end) {
        const char byte = *r->at;
        if (is_in_quotes && byte == escape && r->at + 1 < r->end &&
            (r->at[1] == escape || r->at[1] == quote)) {
            r->at++;
            put_character(r);
        } else if (byte == quote) {
            has_quotes = true;
            is_in_quotes = !is_in_quotes;
            r->at++;
        } else {
            put_character(r);
        }
    }
    return has_quotes;
}

/* Whether such a value is NULL, unless it has quotes. */
static bool is_null(const struct copy_options *options, const char *bytes, size_t len)
{
    return len == options->null_len && memcmp(bytes, options->null, len) == 0;
}

/* Text or CSV: the value has escapes or quotes, or bytes that look like them. */
static enum copy_plain undo(const struct copy_options *options, const struct copy_value *value,
                            char *room, size_t size, struct copy_run *plain)
{
    struct reading r = {.at = value->bytes,
                        .end = value->bytes + value->len,
                        .encoding = options->encoding,
                        .out = room,
                        .room = size};
    bool can_be_null = true;
    if (options->format == COPY_FORMAT_TEXT) {
        read_text(&r);
    } else {
        can_be_null = !read_csv(&r, options->quote, options->escape);
    }
    *plain = (struct copy_run){room, r.len};
    if (can_be_null && is_null(options, value->bytes, (size_t)(r.end - value->bytes))) {
        return COPY_PLAIN_NULL;
    }
    return r.len <= size ? COPY_PLAIN_VALUE : COPY_PLAIN_UNKNOWN;
}

enum copy_plain copy_value_plain(const struct copy_options *options, const struct copy_value *value,
                                 char *room, size_t size, struct copy_run *plain)
{
    if (value->is_null) {
        return COPY_PLAIN_NULL;
    }
    if (value->bytes == NULL) {
        return COPY_PLAIN_UNKNOWN;
    }
    *plain = (struct copy_run){value->bytes, value->len};
    if (options->format == COPY_FORMAT_BINARY) {
        return COPY_PLAIN_VALUE;
    }
    const char sign = options->format == COPY_FORMAT_TEXT ? '\\' : options->quote;
    if (memchr(value->bytes, sign, value->len) != NULL) {
        return undo(options, value, room, size, plain);
    }
    return is_null(options, value->bytes, value->len) ? COPY_PLAIN_NULL : COPY_PLAIN_VALUE;
}
