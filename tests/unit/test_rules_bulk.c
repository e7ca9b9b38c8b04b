/*
 * The reader of bulk loads (rules/bulk.c) looks at 64 bytes at a time: whatever stands where among
 * them, it must find the rows that one byte after the other has.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rules/bulk.h"
#include "rules/lanes.h"

static const char head[] = "INSERT INTO chunks (a, b) VALUES ";

/* The text in memory of its own, so that reading behind its end is an error to the sanitizer. */
struct load {
    struct arena arena;
    jmp_buf out_of_memory;
    char *text;
    struct bulk bulk;
    bool is_bulk;
};

static void read_load(struct load *load, const char *text, bool conforming)
{
    *load = (struct load){.text = strdup(text)};
    load->arena.out_of_memory = &load->out_of_memory;
    assert_int_equal(setjmp(load->out_of_memory), 0);
    load->is_bulk =
        bulk_shorten(&load->bulk, &load->arena, load->text, strlen(load->text), conforming);
}

static void free_load(struct load *load)
{
    arena_free(&load->arena);
    free(load->text);
}

/* Behind a string that holds no backslash, or a number; NULL when it is neither. */
static const char *skip_value(const char *at, bool conforming)
{
    if (*at != '\'') {
        const size_t digits = strspn(at, "0123456789");
        return digits == 0 ? NULL : at + digits;
    }
    for (at++; *at != '\0' && (*at != '\'' || at[1] == '\''); at++) {
        if (*at == '\\' && !conforming) {
            return NULL;
        }
        at += *at == '\'';
    }
    return *at == '\0' ? NULL : at + 1;
}

/* Behind a row of two values without any space but the one in the middle; its places too. */
static const char *skip_row(const char *at, bool conforming, const char *places[3])
{
    if (*at != '(') {
        return NULL;
    }
    places[0] = at + 1;
    at = skip_value(places[0], conforming);
    if (at == NULL || strncmp(at, ", ", 2) != 0) {
        return NULL;
    }
    places[1] = at + 2;
    at = skip_value(places[1], conforming);
    if (at == NULL || *at != ')') {
        return NULL;
    }
    places[2] = at;
    return at + 1;
}

/* The rows behind the first are those that skip_row() finds, at its places, and ASCII if said so.
 */
static void assert_read_right(const char *text, bool conforming)
{
    struct load load;
    read_load(&load, text, conforming);
    const char *places[3];
    const char *at = skip_row(load.text + strlen(head), conforming, places);
    const size_t cut_from = at == NULL ? 0 : (size_t)(at - load.text);
    size_t rows = 0;
    bool is_ascii = true;
    while (at != NULL && *at == ',') {
        const char *const start = at;
        at = skip_row(at + 1, conforming, places);
        if (at == NULL) {
            break;
        }
        for (size_t i = 0; load.is_bulk && i < 3; i++) {
            assert_int_equal(load.bulk.places[rows * 3 + i], places[i] - load.text);
        }
        for (const char *byte = start; byte < at; byte++) {
            is_ascii &= (unsigned char)*byte < 0x80;
        }
        rows++;
        if (load.is_bulk && rows == load.bulk.rows) {
            assert_int_equal(load.bulk.cut_to, at - load.text);
        }
    }
    assert_int_equal(load.is_bulk, rows >= 8);
    if (load.is_bulk) {
        assert_int_equal(load.bulk.rows, rows);
        assert_int_equal(load.bulk.width, 2);
        assert_int_equal(load.bulk.cut_from, cut_from);
        assert_true(is_ascii || !load.bulk.is_ascii);
    }
    free_load(&load);
}

/* `filler` is as many letters as it takes. */
static char *append_row(char *to, size_t filler, const char *piece, size_t behind)
{
    to = stpcpy(to, "('");
    memset(to, 'x', filler);
    to = stpcpy(to + filler, piece);
    memset(to, 'y', behind);
    return stpcpy(to + behind, "', 12)");
}

/* A row that differs by a piece from its neighbours, at every place in a block and at the text's
 * end. */
static void every_byte_of_a_block_is_read(void **state)
{
    (void)state;
    static const char *const pieces[] = {"",     "''", "''''", "\\", "\xc3\xa9", "', '",
                                         "', 3", "'",  "\\'",  "(",  "', 12),('"};
    char *text = malloc(8192);
    for (size_t i = 0; i < 2 * sizeof pieces / sizeof pieces[0]; i++) {
        for (size_t filler = 0; filler < 140; filler++) {
            char *to = stpcpy(text, head);
            for (size_t row = 0; row < 30; row++) {
                to = stpcpy(append_row(to, 60, "", 0), ",");
            }
            to = append_row(to, filler, pieces[i / 2], filler % 7);
            assert_read_right(text, i % 2 == 0);
            stpcpy(append_row(stpcpy(to, ","), filler, "", 0), " RETURNING a");
            assert_read_right(text, i % 2 == 0);
        }
    }
    free(text);
}

/* Cut off at any place, the rows up to there are read, and not a byte more. */
static void a_text_may_end_anywhere(void **state)
{
    (void)state;
    char *whole = malloc(8192);
    char *to = stpcpy(whole, head);
    for (size_t row = 0; row < 40; row++) {
        to = append_row(stpcpy(to, row == 0 ? "" : ","), row, "''", 40 - row);
    }
    for (size_t len = strlen(whole); len > BULK_BYTES_MIN; len--) {
        whole[len] = '\0';
        assert_read_right(whole, true);
    }
    free(whole);
}

static uint32_t dice(uint32_t sides)
{
    static uint64_t seed = 12;
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 33) % sides;
}

static void values_of_any_length_are_read(void **state)
{
    (void)state;
    static const char *const bits[] = {"a", "''", "b\\", "\xc3\xa9", ",", "(", ")", " ", "1", "\n"};
    char *text = malloc(100000);
    for (int round = 0; round < 3000; round++) {
        const uint32_t kinds = 1 + dice(sizeof bits / sizeof bits[0]);
        char *to = stpcpy(text, head);
        for (uint32_t row = 0, rows = 10 + dice(60); row < rows; row++) {
            to = stpcpy(to, row == 0 ? "('" : ",('");
            for (uint32_t i = dice(4) == 0 ? dice(200) : dice(40); i > 0; i--) {
                to = stpcpy(to, bits[dice(kinds)]);
            }
            to = stpcpy(to, "', ");
            for (uint32_t i = 1 + (dice(3) == 0 ? dice(40) : dice(4)); i > 0; i--) {
                *to++ = (char)('0' + dice(10));
            }
            to = stpcpy(to, dice(500) == 0 ? "x)" : ")");
        }
        if (strlen(text) >= BULK_BYTES_MIN) {
            assert_read_right(text, dice(2) == 0);
        }
    }
    free(text);
}

/* Thirty rows with this value; whether they are plain. */
static bool are_plain(const char *value, bool *is_ascii)
{
    char *text = malloc(16384);
    char *to = stpcpy(text, head);
    for (size_t row = 0; row < 30; row++) {
        to += sprintf(to, "%s(%060d, %s)", row == 0 ? "" : ", ", 7, row == 0 ? "1" : value);
    }
    struct load load;
    read_load(&load, text, true);
    const bool are = load.is_bulk && load.bulk.rows == 29;
    assert_true(are || !load.is_bulk);
    *is_ascii = load.bulk.is_ascii;
    free_load(&load);
    free(text);
    return are;
}

static void escapes_that_the_server_may_refuse_are_not_plain(void **state)
{
    (void)state;
    static const char *const plain[] = {
        "E''",        "E'\\\\'",    "e'\\''",         "E'\\n\\t\\8\\q'",
        "E'\\x41'",   "E'\\x4g'",   "E'\\xg'",        "E'\\101'",
        "E'\\7\\77'", "E'\\u00e9'", "E'\\U0001F600'", "E'\\x7f''\\''",
        "E'\\1011'",  "E'\\\\000'", "E'\\\\u12'",
    };
    static const char *const odd[] = {
        "E'd\\0'",           "E'\\000'",   "E'\\400'",      "E'\\x0'",
        "E'\\x00'",          "E'\\x80'",   "E'\\303\\251'", "E'\\u'",
        "E'\\u12'",          "E'\\u12g4'", "E'\\u0000'",    "E'\\ud83d'",
        "E'\\ud83d\\ude00'", "E'\\udc00'", "E'\\U0000'",    "E'\\U00110000'",
        "E'\\U00000000'",    "E'\\'",      "E'a",           "E'\\\\\\'",
    };
    bool is_ascii;
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        assert_true(are_plain(plain[i], &is_ascii));
        assert_true(is_ascii);
    }
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        assert_false(are_plain(odd[i], &is_ascii));
    }
}

static void bytes_above_ascii_are_noticed(void **state)
{
    (void)state;
    static const char *const values[] = {"'\xc3\xa9'", "E'\\n\xc3\xa9'", "1::t\xc3\xa9",
                                         "E'\xc3\xa9'", "'a'::\xc3\xa9.b[]"};
    bool is_ascii;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        assert_true(are_plain(values[i], &is_ascii));
        assert_false(is_ascii);
    }
    assert_true(are_plain("-1.5e+3::numeric", &is_ascii));
    assert_true(is_ascii);
}

static void masks_are_the_same_on_every_processor(void **state)
{
    (void)state;
    for (int round = 0; round < 10000; round++) {
        unsigned char bytes[LANES];
        unsigned mask = 0;
        for (unsigned i = 0; i < LANES; i++) {
            bytes[i] = (unsigned char)dice(256);
            mask |= (unsigned)bytes[i] >> 7 << i;
        }
        const lanes loaded = lanes_load((const char *)bytes);
        assert_int_equal(lanes_mask(loaded), mask);
        assert_int_equal(lanes_mask_anywhere(loaded), mask);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_of_a_block_is_read),
        cmocka_unit_test(a_text_may_end_anywhere),
        cmocka_unit_test(values_of_any_length_are_read),
        cmocka_unit_test(escapes_that_the_server_may_refuse_are_not_plain),
        cmocka_unit_test(bytes_above_ascii_are_noticed),
        cmocka_unit_test(masks_are_the_same_on_every_processor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
