/*
 * The COPY filters and the expression for the Python tests: requests on stdin, answers on stdout,
 * until stdin ends. Integers are of four bytes, low byte first; bytes are a length and so many
 * bytes.
 *
 * 'C': format, encoding's name (bytes), header, width, whether \. ends CSV, delimiter, quote,
 * escape, null (bytes), number of fields, for each index, stays, name (bytes); seed, greatest
 * piece, runs that a call has room for, stream (bytes). Answer: rows, output (bytes), values
 * (bytes): of each row for each field its length, -1 for NULL and -2 when it is not at hand, and
 * its plain bytes. 'E': an expression (bytes), its column's type OID and typmod, whether the value
 * is binary, the value (bytes). Answer: 0 unknown, 1 NULL, 2 a value; the value.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rules/copy_filter.h"
#include "rules/evaluate.h"

enum { RUNS_MAX = 64, PLAIN_MAX = 4096 };

struct bytes {
    char *at;
    size_t len, room;
};

static void give_up(const char *why)
{
    fprintf(stderr, "copy_probe: %s\n", why);
    exit(1);
}

static uint32_t read_int(void)
{
    unsigned char word[4];
    if (fread(word, 1, 4, stdin) != 4) {
        give_up("a request breaks off");
    }
    return (uint32_t)word[0] | (uint32_t)word[1] << 8 | (uint32_t)word[2] << 16 |
           (uint32_t)word[3] << 24;
}

static void reserve(struct bytes *b, size_t more)
{
    if (b->len + more > b->room) {
        b->room = 2 * (b->len + more);
        b->at = realloc(b->at, b->room);
        if (b->at == NULL) {
            give_up("out of memory");
        }
    }
}

static void append(struct bytes *b, const void *from, size_t len)
{
    reserve(b, len + 1);
    memcpy(b->at + b->len, from, len);
    b->len += len;
    b->at[b->len] = '\0';
}

static void append_int(struct bytes *b, uint32_t value)
{
    const unsigned char word[4] = {(unsigned char)value, (unsigned char)(value >> 8),
                                   (unsigned char)(value >> 16), (unsigned char)(value >> 24)};
    append(b, word, 4);
}

/* NUL-terminated; the caller frees it. */
static struct bytes read_bytes(void)
{
    struct bytes b = {0};
    b.len = read_int();
    b.room = b.len + 1;
    b.at = malloc(b.room);
    if (b.at == NULL || fread(b.at, 1, b.len, stdin) != b.len) {
        give_up("a request breaks off");
    }
    b.at[b.len] = '\0';
    return b;
}

static void read_into(char *to, size_t room, size_t *len)
{
    struct bytes b = read_bytes();
    if (b.len > room) {
        give_up("bytes are too long");
    }
    memcpy(to, b.at, b.len);
    *len = b.len;
    free(b.at);
}

static struct copy_options read_options(void)
{
    struct copy_options o = {.format = (enum copy_format)read_int()};
    struct bytes encoding = read_bytes();
    o.encoding = copy_encoding_of(encoding.at);
    free(encoding.at);
    o.header = (enum copy_header)read_int();
    o.width = read_int();
    o.csv_has_end_marker = read_int() != 0;
    o.delimiter = (char)read_int();
    o.quote = (char)read_int();
    o.escape = (char)read_int();
    read_into(o.null, sizeof o.null, &o.null_len);
    o.field_count = read_int();
    for (size_t i = 0; i < o.field_count && i < COPY_FIELDS_MAX; i++) {
        size_t len;
        o.fields[i].index = read_int();
        o.fields[i].stays = read_int() != 0;
        read_into(o.fields[i].name, sizeof o.fields[i].name - 1, &len);
    }
    return o;
}

struct noted {
    struct copy_options options;
    struct bytes values;
};

static void on_row(void *context, const struct copy_value *values)
{
    struct noted *noted = context;
    for (size_t i = 0; i < noted->options.field_count; i++) {
        char room[PLAIN_MAX];
        struct copy_run plain;
        switch (copy_value_plain(&noted->options, &values[i], room, sizeof room, &plain)) {
        case COPY_PLAIN_NULL:
            append_int(&noted->values, (uint32_t)-1);
            break;
        case COPY_PLAIN_UNKNOWN:
            append_int(&noted->values, (uint32_t)-2);
            break;
        case COPY_PLAIN_VALUE:
            append_int(&noted->values, (uint32_t)plain.len);
            append(&noted->values, plain.bytes, plain.len);
            break;
        }
    }
}

static void append_runs(struct bytes *out, const struct copy_run *runs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        append(out, runs[i].bytes, runs[i].len);
    }
}

/* Each piece in memory of its own, so that a sanitizer sees what is read beside it or behind. */
static void feed(struct copy_filter *filter, const char *bytes, size_t len, size_t max,
                 struct bytes *out)
{
    char *piece = malloc(len > 0 ? len : 1);
    if (piece == NULL) {
        give_up("out of memory");
    }
    memcpy(piece, bytes, len);
    for (size_t at = 0; at < len;) {
        struct copy_run runs[RUNS_MAX];
        size_t taken = 0;
        const size_t count = copy_filter_feed(filter, piece + at, len - at, &taken, runs, max);
        append_runs(out, runs, count);
        at += taken;
    }
    free(piece);
}

static void answer(const struct bytes *bytes)
{
    struct bytes len = {0};
    append_int(&len, (uint32_t)bytes->len);
    fwrite(len.at, 1, len.len, stdout);
    if (bytes->len > 0) {
        fwrite(bytes->at, 1, bytes->len, stdout);
    }
    free(len.at);
}

static void filter_stream(void)
{
    struct noted noted = {.options = read_options()};
    srand(read_int());
    const size_t piece_max = read_int();
    const size_t runs_max = read_int();
    struct bytes stream = read_bytes(), out = {0};
    struct copy_filter filter;
    if (runs_max < COPY_RUNS_MIN || runs_max > RUNS_MAX || piece_max == 0 ||
        !copy_filter_init(&filter, &noted.options, on_row, &noted)) {
        give_up("the request makes no sense");
    }
    for (size_t at = 0; at < stream.len;) {
        size_t len = 1 + (size_t)rand() % piece_max;
        len = len < stream.len - at ? len : stream.len - at;
        feed(&filter, stream.at + at, len, runs_max, &out);
        at += len;
    }
    struct copy_run runs[RUNS_MAX];
    append_runs(&out, runs, copy_filter_finish(&filter, runs, RUNS_MAX));

    struct bytes rows = {0};
    append_int(&rows, (uint32_t)filter.rows);
    fwrite(rows.at, 1, rows.len, stdout);
    answer(&out);
    answer(&noted.values);
    free(rows.at);
    free(out.at);
    free(noted.values.at);
    free(stream.at);
}

static void evaluate(void)
{
    struct bytes text = read_bytes(), reply = {0};
    struct evaluation expression;
    append(&text, "", 1);
    if (!evaluation_read(text.at, &expression)) {
        give_up("the expression is not known");
    }
    const struct evaluation_column column = {.type_oid = read_int(), .typmod = (int32_t)read_int()};
    struct evaluation_input input = {.is_binary = read_int() != 0, .is_in_encoding = true};
    struct bytes value = read_bytes();
    input.bytes = value.at;
    input.len = value.len;
    int32_t result = 0;
    append_int(&reply, (uint32_t)evaluation_value(&expression, &column, &input, &result));
    append_int(&reply, (uint32_t)result);
    fwrite(reply.at, 1, reply.len, stdout);
    free(reply.at);
    free(value.at);
    free(text.at);
}

int main(void)
{
    int kind;
    while ((kind = getchar()) != EOF) {
        if (kind == 'C') {
            filter_stream();
        } else if (kind == 'E') {
            evaluate();
        } else {
            give_up("no such request");
        }
        fflush(stdout);
    }
    return 0;
}
