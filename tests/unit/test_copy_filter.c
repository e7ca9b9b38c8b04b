/*
 * COPY filters on streams small enough to read: what goes out, how rows with faults stay wrong,
 * what on_row is told, and that a stream may be cut anywhere. tests/rules/test_copy_filter.py puts
 * many more beside a real server.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rules/copy_filter.h"

enum { OUT_MAX = 4096, RUNS_MAX = 16 };

struct output {
    char bytes[OUT_MAX];
    size_t len;
    uint64_t rows;
    char values[OUT_MAX]; /* of the first field of interest, each in brackets */
};

static const struct copy_options *noting_options;

static void note_value(void *context, const struct copy_value *values)
{
    struct output *out = context;
    char room[200];
    struct copy_run plain;
    size_t at = strlen(out->values);
    switch (copy_value_plain(noting_options, &values[0], room, sizeof room, &plain)) {
    case COPY_PLAIN_VALUE:
        snprintf(out->values + at, sizeof out->values - at, "[%.*s]", (int)plain.len, plain.bytes);
        break;
    case COPY_PLAIN_NULL:
        snprintf(out->values + at, sizeof out->values - at, "[NULL]");
        break;
    case COPY_PLAIN_UNKNOWN:
        snprintf(out->values + at, sizeof out->values - at, "[?]");
        break;
    }
}

static void add(struct output *out, const struct copy_run *runs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        assert_true(out->len + runs[i].len <= sizeof out->bytes);
        memcpy(out->bytes + out->len, runs[i].bytes, runs[i].len);
        out->len += runs[i].len;
    }
}

/* In pieces of `piece` bytes, each in memory of its own. */
static struct output filter(const struct copy_options *options, const char *stream, size_t len,
                            size_t piece)
{
    struct output out = {0};
    struct copy_filter f;
    struct copy_run runs[RUNS_MAX];
    noting_options = options;
    assert_true(copy_filter_init(&f, options, note_value, &out));
    for (size_t at = 0; at < len; at += piece) {
        const size_t here = piece < len - at ? piece : len - at;
        char *bytes = malloc(here);
        memcpy(bytes, stream + at, here);
        for (size_t done = 0; done < here;) {
            size_t taken = 0;
            add(&out, runs,
                copy_filter_feed(&f, bytes + done, here - done, &taken, runs, COPY_RUNS_MIN));
            assert_true(taken > 0);
            done += taken;
        }
        free(bytes);
    }
    add(&out, runs, copy_filter_finish(&f, runs, RUNS_MAX));
    out.rows = f.rows;
    return out;
}

static void check_stream(const struct copy_options *options, const char *stream, size_t len,
                         const char *want, size_t want_len)
{
    for (size_t piece = 1; piece <= len + 1; piece++) {
        struct output out = filter(options, stream, len, piece);
        assert_int_equal(out.len, want_len);
        assert_memory_equal(out.bytes, want, want_len);
    }
}

static void check(const struct copy_options *options, const char *stream, const char *want)
{
    check_stream(options, stream, strlen(stream), want, strlen(want));
}

static struct copy_options text_of(uint32_t width, uint32_t index)
{
    return (struct copy_options){.format = COPY_FORMAT_TEXT,
                                 .delimiter = '\t',
                                 .width = width,
                                 .null = "\\N",
                                 .null_len = 2,
                                 .field_count = 1,
                                 .fields = {{.index = index}}};
}

static struct copy_options csv_of(uint32_t width, uint32_t index)
{
    struct copy_options options = text_of(width, index);
    options.format = COPY_FORMAT_CSV;
    options.delimiter = ',';
    options.quote = options.escape = '"';
    options.null_len = 0;
    options.csv_has_end_marker = true;
    return options;
}

static void a_field_goes_with_one_delimiter(void **state)
{
    (void)state;
    const struct copy_options first = text_of(3, 0), middle = text_of(3, 1), last = text_of(3, 2);
    static const char rows[] = "a\tb\tc\n\t\t\n\\\t\t\\\n\t\\N\n";
    check(&first, rows, "b\tc\n\t\n\\\n\t\\N\n");
    check(&middle, rows, "a\tc\n\t\n\\\t\t\\N\n");
    check(&last, rows, "a\tb\n\t\n\\\t\t\\\n\n");
}

static void several_fields_go(void **state)
{
    (void)state;
    struct copy_options options = text_of(4, 0);
    options.field_count = 2;
    options.fields[1].index = 1;
    check(&options, "a\tb\tc\td\n1\t2\t3\t4", "c\td\n3\t4");
    options.fields[1].index = 3;
    check(&options, "a\tb\tc\td\n", "b\tc\n");
    options.fields[0].index = 2;
    check(&options, "a\tb\tc\td\n", "a\tb\n");
}

static void every_line_end_is_kept(void **state)
{
    (void)state;
    const struct copy_options options = text_of(2, 1);
    check(&options, "a\tb\r\nc\td\r\n", "a\r\nc\r\n");
    check(&options, "a\tb\rc\td\r", "a\rc\r");
    check(&options, "a\tb\nc\td", "a\nc");
}

static void a_row_with_too_few_fields_stays_wrong(void **state)
{
    (void)state;
    const struct copy_options first = text_of(2, 0), last = text_of(2, 1), middle = text_of(3, 1);
    check(&last, "a\n", "a\t\n");
    check(&last, "a", "a\t");
    check(&first, "a\n", "\t\n");
    check(&first, "\n", "\t\n");
    check(&middle, "a\tb\n", "a\n");
    check(&middle, "a\n", "a\n");
}

static void a_row_of_which_nothing_is_left_is_still_a_row(void **state)
{
    (void)state;
    const struct copy_options options = text_of(2, 0);
    check(&options, "5\t\n5\t", "\n\n");
    check(&options, "5\t\r\n5\t", "\r\n\r\n");
}

static void a_wrong_line_end_stays_wrong(void **state)
{
    (void)state;
    const struct copy_options options = text_of(2, 1);
    check(&options, "a\tb\nc\td\r\n", "a\nc\\.x");
    check(&options, "a\tb\r\nc\td\re", "a\r\nc\re");
    check(&options, "a\tb\rc\n", "a\rc\n");
}

static void what_follows_the_end_marker_is_left_alone(void **state)
{
    (void)state;
    const struct copy_options text = text_of(2, 1), csv = csv_of(2, 0);
    check(&text, "a\tb\n\\.\nc\td\n", "a\n\\.\nc\td\n");
    check(&text, "a\tb\nc\td\\.\n", "a\nc\\.\n");
    check(&csv, "a,b\n\\.\nc,d\n", "b\n\\.\nc,d\n");
    struct copy_options of_18 = csv;
    of_18.csv_has_end_marker = false;
    check(&of_18, "a,b\n\\.\nc,d\n", "b\n,\nd\n");
}

/* However its backslash came apart from its dot, it is no byte of the value in front of it. */
static void an_end_marker_is_no_part_of_the_last_value(void **state)
{
    (void)state;
    char value[COPY_VALUE_MAX + 1] = "", stream[sizeof value + 4], want[sizeof value + 2];
    struct copy_options options = text_of(2, 0);
    options.fields[0].index = 1;
    memset(value, 'v', COPY_VALUE_MAX);
    const int len = snprintf(stream, sizeof stream, "a\t%s\\.", value);
    snprintf(want, sizeof want, "[%s]", value);
    for (size_t piece = 1; piece <= (size_t)len; piece++) {
        struct output out = filter(&options, stream, (size_t)len, piece);
        assert_string_equal(out.values, want);
    }
}

static void no_line_becomes_an_end_marker(void **state)
{
    (void)state;
    const struct copy_options first = csv_of(2, 0), last = csv_of(2, 1);
    check(&first, "5,\\.\n", "\"\"\\.\n");
    check(&first, "5,\\.", "\"\"\\.");
    check(&last, "\\.,5\n", "\"\"\\.\n");
    check(&last, "\\.x,5\n\\,5\n", "\\.x\n\\\n");
}

/* Behind the first line, which says how they end, lines are taken at once where they can be. */
static void later_lines_are_taken_as_the_first_one(void **state)
{
    (void)state;
    const struct copy_options first = text_of(2, 0), last = text_of(2, 1);
    check(&last, "a\tb\nc\td\te\n\nf\n\t\n", "a\nc\te\n\t\nf\t\n\n");
    check(&first, "a\tb\nc\td\te\n\t\nf\n", "b\nd\te\n\n\t\n");
    struct copy_options two = text_of(4, 0);
    two.field_count = 2;
    two.fields[1].index = 1;
    check(&two, "a\tb\tc\td\n1\t2\t3\t4\n\t\t\t\n", "c\td\n3\t4\n\t\n");
    two.fields[0].index = 2;
    two.fields[1].index = 3;
    check(&two, "a\tb\tc\td\n1\t2\t3\t4\n1\t2\n", "a\tb\n1\t2\n1\t2\t\n");
    const struct copy_options csv_first = csv_of(2, 0), csv_last = csv_of(2, 1);
    check(&csv_first, "a,b\n5,\\.\n6,\\x\n", "b\n\"\"\\.\n\\x\n");
    check(&csv_last, "a,b\n\\.,5\nc\\.,6\n", "a\n\"\"\\.\nc\\.\n");
    check(&csv_last, "a,b\n\"c,\",5\nd,\"6\n7\"\ne,8\n", "a\n\"c,\"\nd\ne\n");
}

static void fields_may_have_any_length(void **state)
{
    (void)state;
    const struct copy_options options = text_of(3, 1);
    char stream[1000], want[1000], field[301];
    memset(field, 'x', sizeof field);
    for (int len = 0; len < (int)sizeof field; len++) {
        snprintf(stream, sizeof stream, "a\tb\tc\n%.*s\t%d\t%.*s\nd\te\tf", len, field, len, len,
                 field);
        snprintf(want, sizeof want, "a\tc\n%.*s\t%.*s\nd\tf", len, field, len, field);
        struct output out = filter(&options, stream, strlen(stream), strlen(stream));
        assert_int_equal(out.len, strlen(want));
        assert_memory_equal(out.bytes, want, out.len);
    }
}

static void quotes_are_followed(void **state)
{
    (void)state;
    const struct copy_options first = csv_of(2, 0), last = csv_of(2, 1);
    check(&first, "\"a,\n\"\"b\",c\n", "c\n");
    check(&last, "c,\"a,\r\n\"\"b\"\nd,e\n", "c\nd\n");
    check(&last, "\"x\"y\",\",5\n", "\"x\"y\",\"\n");
    struct copy_options escaped = csv_of(2, 1);
    escaped.escape = '\\';
    check(&escaped, "\"a\\\",\",\"\\\\\"\nb,\"\\\"\"\n", "\"a\\\",\"\nb\n");
}

static void quotes_without_an_end_stay_without(void **state)
{
    (void)state;
    const struct copy_options last = csv_of(2, 1);
    check(&last, "a,\"b\nc,d\n", "a\"");
    check(&last, "\"a,b\nc,d\n", "\"a,b\nc,d\n");
}

static void bytes_of_characters_are_no_delimiters(void **state)
{
    (void)state;
    struct copy_options options = text_of(2, 0);
    options.delimiter = '|';
    options.encoding = copy_encoding_of("SJIS");
    check(&options, "\x83\x7c\x83\x5c|\xb1|\n", "\xb1|\n"); /* half-width katakana is one byte */
    check(&options, "\\\x95\x5c|b\n", "b\n");
    options.encoding = copy_encoding_of("euc_jp");
    check(&options, "\x8f\xb0\xa1|b\n", "b\n");
    options.encoding = copy_encoding_of("JOHAB");
    check(&options, "\x8f|||b\n", "b\n");
    options.encoding = copy_encoding_of("gb-18030");
    check(&options, "\x81\x30\x81\x35|b\n", "b\n");
    check(&options, "\x81\n|b\n", "\x81\n|b\n"); /* the server must see it */
}

static void a_header_is_matched_by_place_and_name(void **state)
{
    (void)state;
    struct copy_options options = csv_of(2, 1);
    options.header = COPY_HEADER_MATCHED;
    snprintf(options.fields[0].name, sizeof options.fields[0].name, "key");
    check(&options, "a,key\nb,5\n", "a\nb\n");
    check(&options, "a,\"key\"\nb,5\n", "a\nb\n");
    check(&options, "a,other\nb,5\n", "a,\nb\n");
    options.header = COPY_HEADER_IGNORED;
    check(&options, "a\nb,5\n", "a\nb\n");
    assert_int_equal(filter(&options, "a\nb,5\n", 6, 6).rows, 1);
}

static void binary_rows_lose_a_field_and_a_count(void **state)
{
    (void)state;
    struct copy_options options = text_of(2, 1);
    options.format = COPY_FORMAT_BINARY;
#define HEADER "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\2xy"
#define CHECK(stream, want) check_stream(&options, stream, sizeof stream - 1, want, sizeof want - 1)
    CHECK(HEADER "\0\2\0\0\0\1a\0\0\0\2bc\0\2\377\377\377\377\377\377\377\377\377\377",
          HEADER "\0\1\0\0\0\1a\0\1\377\377\377\377\377\377");
    CHECK(HEADER "\0\1\0\0\0\1a", HEADER "\0\2\0\0\0\1a");              /* not the right count */
    CHECK(HEADER "\0\3\0\0\0\1a", HEADER "\0\3\0\0\0\1a");              /* as it was */
    CHECK(HEADER "\0\2\0\0\0\1a\0\0\0\2b", HEADER "\0\1\0\0\0\1a\0\0"); /* breaks off */
    CHECK(HEADER "\0\2\0\0\0\1a\377\377\377\373", HEADER "\0\1\0\0\0\1a\377\377\377\373");
    CHECK("PGCOPX\n\377\r\n\0\0\2", "PGCOPX\n\377\r\n\0\0\2");
}

/* With the key of a removed field's column computed from the field `source`, which stays. */
static struct copy_options with_key(struct copy_options options, uint32_t source)
{
    const uint32_t removed = options.fields[0].index;
    options.field_count = 2;
    options.fields[source > removed] = (struct copy_field){.index = source, .stays = true};
    options.fields[source < removed] = (struct copy_field){.index = removed, .name = "k"};
    options.key = (struct copy_key){.is_there = true,
                                    .source = source > removed,
                                    .bytes = 4,
                                    .column = {.type_oid = 25, .typmod = -1},
                                    .name = "k"};
    assert_true(evaluation_read("mod(hashtext(c::text), 100)", &options.key.evaluation));
    return options;
}

static void a_key_is_written_behind_the_last_field(void **state)
{
    (void)state;
    const struct copy_options first = with_key(text_of(3, 0), 1), last = with_key(text_of(3, 2), 0);
    check(&first, "5\ta\tx\n\t\\x62\t\n7\t\\N\t\\N", "a\tx\t57\n\\x62\t\t-88\n\\N\t\\N\t\\N");
    check(&last, "a\tx\t5\r\n\tx\t6\r\nb\t\\\t\t\r\n", "a\tx\t57\r\n\tx\t-71\r\nb\t\\\t\t-88\r\n");
    check(&last, "a\tx\t5\\.\nb\tx\t5\n", "a\tx\t57\\.\nb\tx\t5\n"); /* the end of the data */
    check(&last, "a\tx\t5\n\\.\nb", "a\tx\t57\n\\.\nb");
    const struct copy_options csv = with_key(csv_of(2, 0), 1);
    check(&csv, "5,a\n\"6\n\",\"b\"\n7,\n8,\"\"", "a,57\n\"b\",-88\n,\n\"\",-71");
}

static void a_key_makes_no_short_row_whole(void **state)
{
    (void)state;
    const struct copy_options last = with_key(text_of(3, 2), 0), first = with_key(text_of(3, 0), 1);
    check(&last, "a\tx\n", "a\tx\n");
    check(&last, "a\tx\t5\tz\n", "a\tx\tz\t57\n"); /* a field too many, as before */
    check(&first, "5\n\n", "\n\n");
    check(&first, "5\ta\n", "a\t57\n"); /* three columns are expected */
    const struct copy_options csv = with_key(csv_of(3, 2), 0);
    check(&csv, "a,x", "a,x");
    const struct copy_options sole = with_key(csv_of(2, 0), 1);
    check(&sole, "5", "\n");
}

static void a_header_gets_the_keys_name(void **state)
{
    (void)state;
    struct copy_options options = with_key(csv_of(2, 0), 1);
    options.header = COPY_HEADER_MATCHED;
    check(&options, "k,c\n5,a\n", "c,k\na,57\n");
    check(&options, "x,c\n5,a\n", "c\na,57\n"); /* one name less than there must be */
    options.header = COPY_HEADER_IGNORED;
    check(&options, "k,c\n5,a\n", "k,c\na,57\n");
}

static void binary_rows_get_a_key(void **state)
{
    (void)state;
    struct copy_options options = with_key(text_of(2, 0), 1);
    options.format = COPY_FORMAT_BINARY;
    CHECK(HEADER "\0\2\0\0\0\1z\0\0\0\1a\0\2\377\377\377\377\377\377\377\377\377\377",
          HEADER "\0\2\0\0\0\1a\0\0\0\4\0\0\0\71\0\2\377\377\377\377\377\377\377\377\377\377");
    CHECK(HEADER "\0\1\0\0\0\1a", HEADER "\0\1\0\0\0\1a"); /* not the right count */
    options.key.bytes = 2;
    CHECK(HEADER "\0\2\377\377\377\377\0\0\0\1b", HEADER "\0\2\0\0\0\1b\0\0\0\2\377\250");
}

static void what_is_not_certain_ends_the_stream(void **state)
{
    (void)state;
    static const char stream[] = "5\ta\n5\t\xc3\xa9\n5\ta\n";
    struct copy_options options = with_key(text_of(2, 0), 1);
    check(&options, stream, "a\t57\n\xc3\xa9");
    options.key.is_in_encoding = true;
    assert_int_equal(filter(&options, stream, sizeof stream - 1, 3).rows, 3);
}

static void many_keys_go_out_in_one_call(void **state)
{
    (void)state;
    enum { ROWS = 3 * COPY_KEYS_MAX };
    static const char row[] = "5\ta\n", want[] = "a\t57\n";
    char stream[ROWS * sizeof row] = "", out[ROWS * sizeof want] = "";
    for (int i = 0; i < ROWS; i++) {
        strcat(stream, row);
        strcat(out, want);
    }
    const struct copy_options options = with_key(text_of(2, 0), 1);
    const struct output all = filter(&options, stream, strlen(stream), strlen(stream));
    assert_int_equal(all.len, strlen(out));
    assert_memory_equal(all.bytes, out, all.len);
}

static void values_are_told_row_by_row(void **state)
{
    (void)state;
    static const char stream[] = "a\t5\nb\t\\N\nc\t\\x41\\101\\t\\q\nd\n";
    struct copy_options options = text_of(2, 1);
    for (size_t piece = 1; piece < sizeof stream; piece++) {
        const struct output out = filter(&options, stream, sizeof stream - 1, piece);
        assert_string_equal(out.values, "[5][NULL][AA\tq]");
        assert_int_equal(out.rows, 3);
    }
    options.fields[0].stays = true;
    const struct output out = filter(&options, "a\t5\n", 4, 4);
    assert_memory_equal(out.bytes, "a\t5\n", 4);
    assert_string_equal(out.values, "[5]");
}

static void a_long_value_is_told_when_it_is_in_one_piece(void **state)
{
    (void)state;
    char stream[200];
    const size_t len = (size_t)snprintf(stream, sizeof stream, "a\t%0100d\n", 7);
    const struct copy_options options = text_of(2, 1);
    assert_string_equal(filter(&options, stream, len, 50).values, "[?]");
    assert_int_equal(strlen(filter(&options, stream, len, len).values), 102);
}

static void csv_values_lose_their_quotes(void **state)
{
    (void)state;
    static const char stream[] = "a,5\nb,\nc,\"\"\nd,\"x\"\"y\"z\n";
    const struct copy_options options = csv_of(2, 1);
    for (size_t piece = 1; piece < sizeof stream; piece++) {
        assert_string_equal(filter(&options, stream, sizeof stream - 1, piece).values,
                            "[5][NULL][][x\"yz]");
    }
}

static void options_without_sense_are_refused(void **state)
{
    (void)state;
    struct copy_filter f;
    struct copy_options options = text_of(2, 2);
    assert_false(copy_filter_init(&f, &options, NULL, NULL));
    options = text_of(1, 0);
    assert_false(copy_filter_init(&f, &options, NULL, NULL));
    options = text_of(2, 0);
    options.field_count = 0;
    assert_false(copy_filter_init(&f, &options, NULL, NULL));
    options.field_count = 2;
    assert_false(copy_filter_init(&f, &options, NULL, NULL));
    options.fields[1].index = 1;
    assert_false(copy_filter_init(&f, &options, NULL, NULL));
    options.width = 3;
    assert_true(copy_filter_init(&f, &options, NULL, NULL));
}

static void names_of_encodings_are_read_as_the_server_reads_them(void **state)
{
    (void)state;
    assert_int_equal(copy_encoding_of("Shift_JIS_2004"), COPY_ENCODING_SJIS);
    assert_int_equal(copy_encoding_of("WIN-936"), COPY_ENCODING_PAIRS);
    assert_int_equal(copy_encoding_of("johab"), COPY_ENCODING_JOHAB);
    assert_int_equal(copy_encoding_of("UTF-8"), COPY_ENCODING_ASCII_SAFE);
    assert_int_equal(copy_encoding_of("EUC_JIS_2004"), COPY_ENCODING_ASCII_SAFE);
    assert_int_equal(copy_encoding_of(""), COPY_ENCODING_ASCII_SAFE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_field_goes_with_one_delimiter),
        cmocka_unit_test(several_fields_go),
        cmocka_unit_test(every_line_end_is_kept),
        cmocka_unit_test(a_row_with_too_few_fields_stays_wrong),
        cmocka_unit_test(a_row_of_which_nothing_is_left_is_still_a_row),
        cmocka_unit_test(a_wrong_line_end_stays_wrong),
        cmocka_unit_test(what_follows_the_end_marker_is_left_alone),
        cmocka_unit_test(an_end_marker_is_no_part_of_the_last_value),
        cmocka_unit_test(no_line_becomes_an_end_marker),
        cmocka_unit_test(later_lines_are_taken_as_the_first_one),
        cmocka_unit_test(fields_may_have_any_length),
        cmocka_unit_test(quotes_are_followed),
        cmocka_unit_test(quotes_without_an_end_stay_without),
        cmocka_unit_test(bytes_of_characters_are_no_delimiters),
        cmocka_unit_test(a_header_is_matched_by_place_and_name),
        cmocka_unit_test(binary_rows_lose_a_field_and_a_count),
        cmocka_unit_test(a_key_is_written_behind_the_last_field),
        cmocka_unit_test(a_key_makes_no_short_row_whole),
        cmocka_unit_test(a_header_gets_the_keys_name),
        cmocka_unit_test(binary_rows_get_a_key),
        cmocka_unit_test(what_is_not_certain_ends_the_stream),
        cmocka_unit_test(many_keys_go_out_in_one_call),
        cmocka_unit_test(values_are_told_row_by_row),
        cmocka_unit_test(a_long_value_is_told_when_it_is_in_one_piece),
        cmocka_unit_test(csv_values_lose_their_quotes),
        cmocka_unit_test(options_without_sense_are_refused),
        cmocka_unit_test(names_of_encodings_are_read_as_the_server_reads_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
