/*
 * The computed column of a COPY stream: a row's key by the expression over the value of its source,
 * written behind the row's last field. Called by the formats' files; owns nothing.
 */
#include "rules/copy_row.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static enum evaluated evaluate(struct copy_filter *f, int32_t *value)
{
    const struct copy_options *options = &f->options;
    struct copy_value raw;
    struct evaluation_input input = {
        .is_binary = options->format == COPY_FORMAT_BINARY,
        .is_in_encoding = options->key.is_in_encoding,
    };
    struct copy_run plain;
    copy_captured(f, options->key.source, &raw);
    /* Longer ones are at hand or not, as the stream was cut. */
    if (raw.len > COPY_SOURCE_MAX) {
        return EVALUATED_UNKNOWN;
    }
    switch (copy_value_plain(options, &raw, f->plain, sizeof f->plain, &plain)) {
    case COPY_PLAIN_UNKNOWN:
        return EVALUATED_UNKNOWN;
    case COPY_PLAIN_NULL:
        input.is_null = true;
        break;
    case COPY_PLAIN_VALUE:
        input.bytes = plain.bytes;
        input.len = plain.len;
        break;
    }
    return evaluation_value(&options->key.evaluation, &options->key.column, &input, value);
}

/* Big-endian, as all integers of the format. */
static size_t put_integer(char *at, int64_t value, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        at[i] = (char)((uint64_t)value >> 8 * (len - 1 - i) & 0xff);
    }
    return len;
}

static void write_binary(struct copy_cursor *c, char *room, bool is_null, int32_t value)
{
    const uint32_t bytes = c->filter->options.key.bytes;
    size_t len = put_integer(room, is_null ? -1 : (int64_t)bytes, 4);
    if (!is_null) {
        len += put_integer(room + len, value, bytes);
    }
    copy_write(c, room, len);
}

static void write_text(struct copy_cursor *c, char *room, bool is_null, int32_t value)
{
    const struct copy_options *options = &c->filter->options;
    room[0] = options->delimiter;
    if (is_null) {
        copy_write(c, room, 1);
        if (options->null_len > 0) {
            copy_write(c, options->null, options->null_len);
        }
        return;
    }
    const int digits = snprintf(room + 1, COPY_KEY_MAX - 1, "%" PRId32, value);
    copy_write(c, room, 1 + (size_t)digits);
}

static bool is_beyond_type(const struct copy_key *key, int32_t value)
{
    return key->bytes == 2 && (value < INT16_MIN || value > INT16_MAX);
}

bool copy_write_key(struct copy_cursor *c, const char *end, bool is_header)
{
    struct copy_filter *f = c->filter;
    const struct copy_options *options = &f->options;
    if (!options->key.is_there || (is_header && options->header == COPY_HEADER_IGNORED)) {
        return true;
    }
    copy_close_run(c, end);
    if (is_header) {
        copy_write(c, &options->delimiter, 1);
        copy_write(c, options->key.name, strlen(options->key.name));
        return true;
    }
    int32_t value = 0;
    const enum evaluated evaluated = evaluate(f, &value);
    if (evaluated == EVALUATED_UNKNOWN ||
        (evaluated == EVALUATED_VALUE && is_beyond_type(&options->key, value))) {
        f->is_uncertain = true;
        f->state = COPY_STATE_DEAD;
        c->at = c->end;
        return false;
    }
    char *room = f->keys[f->key_count++];
    if (options->format == COPY_FORMAT_BINARY) {
        write_binary(c, room, evaluated == EVALUATED_NULL, value);
    } else {
        write_text(c, room, evaluated == EVALUATED_NULL, value);
    }
    return true;
}
