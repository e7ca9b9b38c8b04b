/*
 * COPY filters: whatever the bytes are, a stream cut anywhere gives what it gives in one piece,
 * what goes out lies in the piece or in the filter, and it is not longer than what came in but for
 * a few bytes a line; well-formed rows come out as they were, without the removed fields.
 *
 * An input is options (see read_options()), a seed for the cuts, and the stream; or, with a bit of
 * the first byte set, the values of well-formed rows.
 */
#include "tests/fuzz/fuzz.h"

#include "rules/copy_filter.h"

enum { RUNS_MAX = 40, PLAIN_MAX = 100 };

struct bytes {
    char *at;
    size_t len, room;
};

static void append(struct bytes *b, const void *from, size_t len)
{
    if (b->len + len > b->room) {
        b->room = 2 * (b->len + len);
        b->at = realloc(b->at, b->room);
        FUZZ_CHECK(b->at != NULL);
    }
    if (len > 0) {
        memcpy(b->at + b->len, from, len);
    }
    b->len += len;
}

static struct copy_options read_options(struct fuzz_input *in)
{
    static const char delimiters[] = "\t|,; \a~1", quotes[] = "\"'|q", escapes[] = "\"'\\,";
    static const enum copy_encoding encodings[] = {COPY_ENCODING_ASCII_SAFE, COPY_ENCODING_PAIRS,
                                                   COPY_ENCODING_SJIS, COPY_ENCODING_JOHAB};
    const uint8_t kinds = fuzz_u8(in), bytes = fuzz_u8(in), shape = fuzz_u8(in);
    struct copy_options o = {
        .format = (enum copy_format)(kinds % 3),
        .encoding = encodings[kinds / 4 % 4],
        .header = (enum copy_header)(kinds / 16 % 3),
        .csv_has_end_marker = (kinds & 64) != 0,
        .delimiter = delimiters[bytes % 8],
        .quote = quotes[bytes / 8 % 4],
        .escape = escapes[bytes / 32 % 4],
        .width = 1 + shape % 5,
        .null = "\\N",
        .null_len = 2,
    };
    for (uint32_t i = 0; i < o.width; i++) {
        if ((shape / 5 >> i & 1) != 0) {
            o.fields[o.field_count++] =
                (struct copy_field){.index = i, .stays = (bytes & 128) != 0 && i == 1, .name = "k"};
        }
    }
    for (uint32_t i = 0; i < o.field_count && shape >= 160; i++) {
        if (o.fields[i].stays) {
            o.key = (struct copy_key){
                .is_there = true,
                .source = i,
                .bytes = 4,
                .evaluation = {.column = "c", .step_count = 1, .steps = {{EVALUATION_MOD, 100}}},
                .column = {.type_oid = 25, .typmod = -1},
                .name = "k",
                .is_in_encoding = true,
            };
        }
    }
    return o;
}

struct outcome {
    struct bytes out, values;
    uint64_t rows;
    const struct copy_options *options;
};

static void on_row(void *context, const struct copy_value *values)
{
    struct outcome *outcome = context;
    for (size_t i = 0; i < outcome->options->field_count; i++) {
        char room[PLAIN_MAX];
        struct copy_run plain;
        const enum copy_plain kind =
            copy_value_plain(outcome->options, &values[i], room, sizeof room, &plain);
        /* One that is cut is told when it is short, and not said otherwise to be another. */
        const bool is_told = kind == COPY_PLAIN_NULL ||
                             (kind == COPY_PLAIN_VALUE && values[i].len <= COPY_VALUE_MAX);
        const char told = (char)('0' + (is_told ? (int)kind : (int)COPY_PLAIN_UNKNOWN));
        append(&outcome->values, &told, 1);
        if (told == '0') {
            append(&outcome->values, plain.bytes, plain.len);
        }
    }
}

static bool is_within(const char *at, size_t len, const void *from, size_t room)
{
    const char *start = from;
    return at >= start && at + len <= start + room;
}

static void take_runs(struct outcome *outcome, const struct copy_filter *filter,
                      const struct copy_run *runs, size_t count, const char *piece, size_t len)
{
    for (size_t i = 0; i < count; i++) {
        FUZZ_CHECK(runs[i].len > 0);
        FUZZ_CHECK(runs[i].len <= 4 || is_within(runs[i].bytes, runs[i].len, piece, len) ||
                   is_within(runs[i].bytes, runs[i].len, filter, sizeof *filter));
        append(&outcome->out, runs[i].bytes, runs[i].len);
    }
}

static void feed(struct outcome *outcome, struct copy_filter *filter, const char *bytes, size_t len,
                 size_t max)
{
    char *piece = (char *)fuzz_copy((const uint8_t *)bytes, len);
    for (size_t at = 0; at < len;) {
        struct copy_run runs[RUNS_MAX];
        size_t taken = 0;
        const size_t count = copy_filter_feed(filter, piece + at, len - at, &taken, runs, max);
        FUZZ_CHECK(taken > 0 && taken <= len - at && count <= max);
        take_runs(outcome, filter, runs, count, piece, len);
        at += taken;
    }
    free(piece);
}

/* In one piece when `seed` is 0. */
static struct outcome run(const struct copy_options *options, const char *bytes, size_t len,
                          uint32_t seed)
{
    struct outcome outcome = {.options = options};
    struct copy_filter filter;
    FUZZ_CHECK(copy_filter_init(&filter, options, on_row, &outcome));
    const size_t max = seed == 0 ? RUNS_MAX : COPY_RUNS_MIN + seed % 3;
    for (size_t at = 0; at < len;) {
        seed = seed * 1664525U + (seed == 0 ? 0 : 1013904223U);
        size_t piece = seed == 0 ? len : 1 + (seed >> 16) % 9;
        piece = piece < len - at ? piece : len - at;
        feed(&outcome, &filter, bytes + at, piece, max);
        at += piece;
    }
    struct copy_run runs[RUNS_MAX];
    const size_t count = copy_filter_finish(&filter, runs, RUNS_MAX);
    FUZZ_CHECK(count <= COPY_RUNS_MIN);
    take_runs(&outcome, &filter, runs, count, bytes, 0);
    outcome.rows = filter.rows;
    return outcome;
}

static bool is_same(const struct bytes *a, const struct bytes *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->at, b->at, a->len) == 0);
}

static void forget(struct outcome *outcome)
{
    free(outcome->out.at);
    free(outcome->values.at);
}

/* The output of the stream; the caller frees it. */
static struct bytes check_stream(const struct copy_options *options, const char *bytes, size_t len,
                                 uint32_t seed)
{
    struct outcome whole = run(options, bytes, len, 0), cut = run(options, bytes, len, seed | 1);
    FUZZ_CHECK(is_same(&whole.out, &cut.out));
    FUZZ_CHECK(is_same(&whole.values, &cut.values));
    FUZZ_CHECK(whole.rows == cut.rows);
    size_t lines = 2;
    for (size_t i = 0; i < len; i++) {
        lines += bytes[i] == '\n' || bytes[i] == '\r';
    }
    /* each row that gets a key has some bytes */
    FUZZ_CHECK(whole.out.len <=
               len + 3 * lines + (options->key.is_there ? (len + 1) * COPY_KEY_MAX : 0));
    struct bytes out = whole.out;
    whole.out = (struct bytes){0};
    forget(&whole);
    forget(&cut);
    return out;
}

/* A character that is written as it is, whatever its second byte looks like. */
static void write_pair(struct bytes *out, uint8_t byte)
{
    const char pair[] = {(char)(0x81 + byte % 14), (char)('0' + byte % 79)};
    append(out, pair, 2);
}

static void write_field(struct bytes *out, const struct copy_options *o, const uint8_t *value,
                        size_t len)
{
    if (o->format == COPY_FORMAT_BINARY) {
        const char length[] = {0, 0, 0, (char)len};
        append(out, length, 4);
        append(out, value, len);
        return;
    }
    const bool is_csv = o->format == COPY_FORMAT_CSV;
    append(out, &o->quote, is_csv ? 1 : 0);
    for (size_t i = 0; i < len; i++) {
        const char byte = (char)value[i];
        const bool is_special = is_csv ? byte == o->quote || byte == o->escape
                                       : byte == o->delimiter || strchr("\\\r\n.", byte) != NULL;
        if ((value[i] & 0x80) != 0 && o->encoding != COPY_ENCODING_ASCII_SAFE) {
            write_pair(out, value[i]);
        } else if (!is_csv && byte == '.') {
            append(out, "\\056", 4);
        } else {
            append(out, is_csv ? &o->escape : "\\", is_special ? 1 : 0);
            append(out, &byte, 1);
        }
    }
    append(out, &o->quote, is_csv ? 1 : 0);
}

static bool is_removed(const struct copy_options *o, uint32_t index)
{
    for (size_t i = 0; i < o->field_count; i++) {
        if (o->fields[i].index == index) {
            return !o->fields[i].stays;
        }
    }
    return false;
}

static void write_count(struct bytes *out, size_t count)
{
    const char word[] = {0, (char)count};
    append(out, word, 2);
}

/* A row, to the stream, and without the removed fields to what must come of it. */
static void write_row(struct fuzz_input *in, const struct copy_options *o, size_t kept,
                      struct bytes *stream, struct bytes *want)
{
    const bool is_binary = o->format == COPY_FORMAT_BINARY;
    bool is_first = true;
    if (is_binary) {
        write_count(stream, o->width);
        write_count(want, kept);
    }
    for (uint32_t i = 0; i < o->width; i++) {
        size_t len;
        const uint8_t size = fuzz_u8(in) % 24;
        const uint8_t *value = fuzz_bytes(in, size, &len);
        append(stream, &o->delimiter, i > 0 && !is_binary ? 1 : 0);
        write_field(stream, o, value, len);
        if (!is_removed(o, i)) {
            append(want, &o->delimiter, !is_first && !is_binary ? 1 : 0);
            write_field(want, o, value, len);
            is_first = false;
        }
    }
}

static void check_rows(struct fuzz_input *in, struct copy_options *o, uint32_t seed)
{
    static const char header[] = "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0";
    static const char *const ends[] = {"\n", "\r\n", "\r"};
    const char *end = ends[seed % 3];
    struct bytes stream = {0}, want = {0};
    size_t kept = o->width;
    for (size_t i = 0; i < o->field_count; i++) {
        kept -= !o->fields[i].stays;
    }
    o->header = COPY_HEADER_NONE;
    o->key.is_there = false;
    if (o->format == COPY_FORMAT_BINARY) {
        append(&stream, header, sizeof header);
        append(&want, header, sizeof header);
    }
    while (in->len > 0) {
        write_row(in, o, kept, &stream, &want);
        const size_t end_len = o->format == COPY_FORMAT_BINARY ? 0 : strlen(end);
        append(&stream, end, end_len);
        append(&want, end, end_len);
    }
    struct bytes out = check_stream(o, stream.at, stream.len, seed);
    FUZZ_CHECK(is_same(&out, &want));
    free(out.at);
    free(stream.at);
    free(want.at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {.at = data, .len = size};
    const bool is_well_formed = size > 0 && (data[0] & 128) != 0;
    struct copy_options options = read_options(&in);
    const uint32_t seed = (uint32_t)fuzz_u8(&in) << 8 | fuzz_u8(&in);
    struct copy_filter filter;
    if (!copy_filter_init(&filter, &options, NULL, NULL) || options.delimiter == options.quote ||
        (options.format == COPY_FORMAT_CSV && options.escape == options.delimiter)) {
        return 0;
    }
    if (is_well_formed) {
        check_rows(&in, &options, seed);
    } else {
        free(check_stream(&options, (const char *)in.at, in.len, seed).at);
    }
    return 0;
}
