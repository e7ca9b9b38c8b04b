/*
 * Supplied values against the expression's, where a data file cannot say it: many places, texts
 * that are known by their shape, rows of bulk loads, and the literals themselves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rules/compare.h"
#include "rules/value.h"

static const struct rule_column columns[] = {
    {"id", 20, false}, {"collection_id", 25, false}, {"partition_key", 23, false}};

static const struct rule_source column_sources[] = {
    {"collection_id", "text", false, {.type_oid = 25, .typmod = -1}}};

struct fixture {
    struct rule_set *set;
    struct judge *judge, *fresh;
};

static struct rule_set *new_set(enum rule_mode mode)
{
    const struct rule rule = {
        .name = "chunks",
        .schema = "public",
        .table = "chunks",
        .column = "partition_key",
        .mode = mode,
        .unqualified_guarded = true,
        .expression = "mod(hashtext(collection_id::text), 100)",
        .compares = true,
        .columns = columns,
        .column_count = sizeof columns / sizeof columns[0],
        .sources = column_sources,
        .source_count = sizeof column_sources / sizeof column_sources[0],
    };
    return rule_set_new(&rule, 1, "app");
}

static int set_up(void **state)
{
    static struct fixture fixture;
    fixture.set = new_set(RULE_MODE_STRIP);
    fixture.judge = judge_new(1 << 20);
    fixture.fresh = judge_new(0);
    *state = &fixture;
    return fixture.set == NULL || fixture.judge == NULL || fixture.fresh == NULL;
}

static int tear_down(void **state)
{
    const struct fixture *fixture = *state;
    judge_free(fixture->judge);
    judge_free(fixture->fresh);
    rule_set_free(fixture->set);
    return 0;
}

static const struct verdict *judged(struct judge *judge, const struct rule_set *set,
                                    const char *text)
{
    const struct judge_input input = {
        .text = text, .len = strlen(text), .standard_conforming_strings = true};
    const struct verdict *verdict = judge_text(judge, set, &input);
    assert_non_null(verdict);
    return verdict;
}

/* The last place stands for those behind the 64th: nothing of them is lost. */
static void every_place_of_a_text_is_counted(void **state)
{
    const struct fixture *fixture = *state;
    char text[16 * 1024], *to = text;
    for (int i = 0; i < 100; i++) {
        to += sprintf(to,
                      "INSERT INTO chunks (collection_id, partition_key) VALUES ('a', %d), "
                      "('a', 57), (lower('a'), 57);",
                      i);
    }
    const struct verdict *verdict = judged(fixture->judge, fixture->set, text);
    uint32_t rows = 0, matched = 0, mismatched = 0;
    for (size_t i = 0; i < verdict->supplied_count; i++) {
        rows += verdict->supplied[i].rows;
        matched += verdict->supplied[i].compared.matched;
        mismatched += verdict->supplied[i].compared.mismatched;
    }
    assert_int_equal(verdict->supplied_count, 64);
    assert_int_equal(rows, 300);
    assert_int_equal(matched, 101);
    assert_int_equal(mismatched, 99);
}

static const char *const sources[] = {"'a'",       "'coll-0'", "'it''s'",       "NULL", "12",
                                      "'a'::text", "E'a'",     "'caf\xc3\xa9'", "''",   "DEFAULT"};
static const char *const keys[] = {"57",   "-24",     "'57'", "- 24",
                                   "NULL", "57::int", "1.5",  "DEFAULT"};
#define PICK(list) ((list)[(size_t)rand() % (sizeof(list) / sizeof(list)[0])])

static void write_rows(char *to, int rows)
{
    to = stpcpy(to, "INSERT INTO chunks (partition_key, id, collection_id) VALUES ");
    for (int i = 0; i < rows; i++) {
        to += sprintf(to, "%s(%s, %d, %s)", i == 0 ? "" : ", ", PICK(keys), rand(), PICK(sources));
    }
}

static void a_text_known_by_its_shape_is_compared_like_a_new_one(void **state)
{
    const struct fixture *fixture = *state;
    char text[32 * 1024], by_parser[33 * 1024];
    int compared = 0;
    srand(1);
    for (int i = 0; i < 3000; i++) {
        write_rows(text, i % 50 == 0 ? 300 : 1 + rand() % 3);
        const struct verdict *verdict = judged(fixture->judge, fixture->set, text);
        const struct supplied found =
            verdict->supplied_count == 0 ? (struct supplied){0} : verdict->supplied[0];
        /* A comment keeps it from being known by its shape, and from being read in bulk. */
        sprintf(by_parser, "/**/ %s", text);
        verdict = judged(fixture->fresh, fixture->set, by_parser);
        const struct supplied wanted =
            verdict->supplied_count == 0 ? (struct supplied){0} : verdict->supplied[0];
        assert_int_equal(found.rows, wanted.rows);
        assert_int_equal(found.compared.matched, wanted.compared.matched);
        assert_int_equal(found.compared.mismatched, wanted.compared.mismatched);
        assert_int_equal(found.compared.row, wanted.compared.row);
        compared += wanted.compared.matched > 0;
    }
    struct judge_counters counters;
    judge_count(fixture->judge, &counters);
    assert_true(counters.hits > 1000);
    assert_true(compared > 300);
}

/* Their first and last rows are the same, and cannot be compared. */
static void bulk_loads_of_one_shape_are_counted_apart(void **state)
{
    const struct fixture *fixture = *state;
    struct rule_set *set = new_set(RULE_MODE_OBSERVE);
    assert_non_null(set);
    for (uint32_t wrong = 0; wrong < 3; wrong++) {
        char text[2048], *to = text;
        to +=
            sprintf(to, "INSERT INTO chunks (collection_id, partition_key) VALUES (lower('a'), 1)");
        for (uint32_t row = 0; row < 20; row++) {
            to += sprintf(to, ", ('a', %d)", row < wrong ? 58 : 57);
        }
        strcpy(to, ", (lower('a'), 1)");
        const struct verdict *verdict = judged(fixture->judge, set, text);
        assert_int_equal(verdict->supplied_count, 1);
        assert_int_equal(verdict->supplied[0].compared.mismatched, wrong);
        assert_int_equal(verdict->supplied[0].compared.matched, 20 - wrong);
    }
    rule_set_free(set);
}

static void literals_are_read_or_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *value; /* NULL: not read */
        bool backslash_escapes;
    } literals[] = {
        {"'a')", "a", false},
        {"'it''s',", "it's", false},
        {"'',", "", false},
        {"''''", "'", false},
        {"'a\\b'", "a\\b", false},
        {"'a\\'b'", "a\\", false},
        {"'a\\'b'", "a'b", true},
        {"'a\\'", NULL, true},
        {"E'\\t\\\\'", "\t\\", false},
        {"e'\\''", "'", false},
        {"E'\\x41'", NULL, false},
        {"E'\\101'", NULL, false},
        {"E'\\u0041'", NULL, false},
        {"E'\\", NULL, false},
        {"'open", NULL, false},
        {"'a' 'b'", NULL, false},
        {"'a'\n'b'", NULL, false},
        {"007 ", "7", false},
        {"-5)", "-5", false},
        {"- 5)", "-5", false},
        {"+5,", "5", false},
        {"-0,", "0", false},
        {"5.0", NULL, false},
        {"5e3", NULL, false},
        {"0x10", NULL, false},
        {"1_000", NULL, false},
        {"-", NULL, false},
        {"true", NULL, false},
        {"DEFAULT", NULL, false},
        {"nullable", NULL, false},
        {"9223372036854775807", "9223372036854775807", false},
        {"9223372036854775808", NULL, false},
        {"U&'a'", NULL, false},
        {"$$a$$", NULL, false},
        {"", NULL, false},
    };
    char room[VALUE_ROOM];
    struct value value;
    for (size_t i = 0; i < sizeof literals / sizeof literals[0]; i++) {
        const bool is_read =
            value_read(literals[i].text, !literals[i].backslash_escapes, room, &value);
        assert_int_equal(is_read, literals[i].value != NULL);
        if (is_read) {
            assert_int_equal(value.len, strlen(literals[i].value));
            assert_memory_equal(value.bytes, literals[i].value, value.len);
        }
    }
    assert_true(value_read("null)", true, room, &value) && value.is_null);
}

static void a_string_too_long_for_the_room_is_not_read_in_part(void **state)
{
    (void)state;
    char text[VALUE_ROOM + 8] = "'", room[VALUE_ROOM];
    struct value value;
    memset(text + 1, 'x', VALUE_ROOM - 1);
    strcpy(text + VALUE_ROOM, "'''");
    assert_true(value_read(text, true, room, &value));
    assert_int_equal(value.len, VALUE_ROOM);
    strcpy(text + VALUE_ROOM, "x'''");
    assert_false(value_read(text, true, room, &value));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_place_of_a_text_is_counted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_text_known_by_its_shape_is_compared_like_a_new_one,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(bulk_loads_of_one_shape_are_counted_apart, set_up,
                                        tear_down),
        cmocka_unit_test(literals_are_read_or_refused),
        cmocka_unit_test(a_string_too_long_for_the_room_is_not_read_in_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
