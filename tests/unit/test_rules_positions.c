/* Places in edited texts: the pieces that a verdict tells, and the map that is made of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rules/positions.h"

static struct verdict edit_of(const char *text, const struct kept_text *kept, size_t count)
{
    return (struct verdict){.action = VERDICT_EDIT,
                            .text = text,
                            .text_len = strlen(text),
                            .kept = kept,
                            .kept_count = count};
}

static struct position_map *map_of(const struct verdict *verdict, const char *client,
                                   enum text_characters characters)
{
    return position_map_new(verdict, client, strlen(client), characters);
}

static void adjoining_pieces_are_one(void **state)
{
    (void)state;
    struct kept_list list = {.count = 0};
    kept_add(&list, (struct kept_text){0, 5, 0});
    kept_add(&list, (struct kept_text){5, 8, 5});
    assert_int_equal(list.count, 1);
    assert_int_equal(list.items[0].to, 8);
    kept_add(&list, (struct kept_text){8, 9, 10});   /* something was added between */
    kept_add(&list, (struct kept_text){12, 13, 11}); /* and something taken out */
    assert_int_equal(list.count, 3);
}

static void of_too_many_pieces_the_last_one_stays(void **state)
{
    (void)state;
    struct kept_list list = {.count = 0};
    for (size_t i = 0; i < KEPT_MAX; i++) {
        kept_add(&list, (struct kept_text){3 * i, 3 * i + 2, 2 * i});
    }
    assert_false(list.is_cut);
    for (size_t i = KEPT_MAX; i < 1000; i++) {
        kept_add(&list, (struct kept_text){3 * i, 3 * i + 2, 2 * i});
    }
    assert_true(list.is_cut);
    assert_int_equal(list.count, KEPT_MAX);
    assert_int_equal(list.items[KEPT_MAX - 2].from, 3 * (KEPT_MAX - 2));
    assert_int_equal(list.items[KEPT_MAX - 1].from, 3 * 999);
}

/* "ab[cd]ef" without what is in brackets, and with "XY" behind the f. */
static void a_place_goes_along_with_its_text(void **state)
{
    (void)state;
    const struct kept_text kept[] = {{0, 2, 0}, {6, 8, 2}, {8, 10, 6}};
    const struct verdict verdict = edit_of("abefXYgh", kept, 3);
    struct position_map *map = map_of(&verdict, "ab[cd]efgh", CHARACTERS_BYTES);
    static const uint32_t expected[] = {0, 1, 2, 7, 8, 9, 9, 9, 10, 11, 12};
    for (uint32_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        assert_int_equal(position_map_find(map, i), expected[i]);
    }
    position_map_unref(map);
}

static void an_end_that_went_or_was_added_is_the_end(void **state)
{
    (void)state;
    const struct kept_text kept[] = {{0, 2, 0}, {4, 4, 2}};
    const struct verdict shorter = edit_of("ab", kept, 2);
    struct position_map *map = map_of(&shorter, "abcd", CHARACTERS_BYTES);
    assert_int_equal(position_map_find(map, 2), 2);
    assert_int_equal(position_map_find(map, 3), 5);
    position_map_unref(map);

    const struct kept_text all[] = {{0, 0, 0}, {0, 2, 3}};
    const struct verdict longer = edit_of("XYZab", all, 2);
    map = map_of(&longer, "ab", CHARACTERS_BYTES);
    assert_int_equal(position_map_find(map, 1), 1);
    assert_int_equal(position_map_find(map, 3), 1);
    assert_int_equal(position_map_find(map, 5), 2);
    position_map_unref(map);
}

static void characters_are_counted_on_both_sides(void **state)
{
    (void)state;
    static const struct {
        enum text_characters characters;
        const char *client, *gone, *letter; /* the client's text begins with the other two */
        uint32_t sent, expected;
    } cases[] = {
        {CHARACTERS_UTF8, "\xc3\xa4\xe2\x82\xac\xf0\x9d\x84\x9ex", "\xc3\xa4\xe2\x82\xac",
         "\xf0\x9d\x84\x9e", 2, 4},
        {CHARACTERS_BYTES, "\xe4\xf6\xfcx", "\xe4\xf6", "\xfc", 2, 4},
        {CHARACTERS_EUC, "\xc9\xbd\x8e\xb1\x8f\xb0\xa2x", "\xc9\xbd\x8e\xb1", "\x8f\xb0\xa2", 2, 4},
        {CHARACTERS_UNKNOWN, "abcx", "ab", "c", 2, 4},
        {CHARACTERS_ANY, "abcx", "ab", "c", 2, 4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const size_t gone = strlen(cases[i].gone), len = strlen(cases[i].client);
        const struct kept_text kept[] = {{0, 0, 0}, {gone, len, 0}};
        const struct verdict verdict = edit_of(cases[i].client + gone, kept, 2);
        struct position_map *map = map_of(&verdict, cases[i].client, cases[i].characters);
        assert_int_equal(position_map_find(map, cases[i].sent), cases[i].expected);
        position_map_unref(map);
    }
}

static void long_texts_are_counted_like_short_ones(void **state)
{
    (void)state;
    static char text[40000];
    size_t len = 0;
    for (uint32_t characters = 1; len + 8 < sizeof text; characters++) {
        assert_int_equal(characters_position(CHARACTERS_UTF8, text, len), characters);
        len = (size_t)(stpcpy(text + len, characters % 3 == 0 ? "\xe2\x82\xac" : "a") - text);
    }
    static char letters[3 * 10000 + 1];
    for (size_t i = 0; i < 10000; i++) {
        stpcpy(letters + 3 * i, "\xe2\x82\xac");
    }
    assert_int_equal(characters_position(CHARACTERS_UTF8, letters, 30000), 10001);
}

static void what_cannot_be_counted_has_no_place(void **state)
{
    (void)state;
    const struct kept_text kept[] = {{0, 2, 0}};
    const struct verdict verdict = edit_of("\xc3\xa4", kept, 1);
    for (int i = 0; i < 2; i++) {
        struct position_map *map =
            map_of(&verdict, "\xc3\xa4", i == 0 ? CHARACTERS_UNKNOWN : CHARACTERS_ANY);
        assert_ptr_equal(map, &position_map_unknown);
        assert_int_equal(position_map_find(position_map_ref(map), 1), 0);
        position_map_unref(map);
    }
    assert_int_equal(characters_position(CHARACTERS_UNKNOWN, "a\xc3\xa4", 1), 2);
    assert_int_equal(characters_position(CHARACTERS_UNKNOWN, "a\xc3\xa4", 3), 0);
    assert_int_equal(characters_position(CHARACTERS_UTF8, "a\xc3\xa4", 3), 3);
}

static void characters_of_both_sides(void **state)
{
    (void)state;
    static const struct {
        const char *client, *server;
        enum text_characters expected;
    } cases[] = {
        {"UTF8", "UTF8", CHARACTERS_UTF8},       {"LATIN1", "UTF8", CHARACTERS_BYTES},
        {"UTF8", "LATIN1", CHARACTERS_UTF8},     {"WIN1252", "UTF8", CHARACTERS_BYTES},
        {"KOI8R", "UTF8", CHARACTERS_BYTES},     {"ISO_8859_5", "UTF8", CHARACTERS_BYTES},
        {"EUC_JP", "UTF8", CHARACTERS_EUC},      {"UTF8", "SQL_ASCII", CHARACTERS_BYTES},
        {"SQL_ASCII", "UTF8", CHARACTERS_UTF8},  {"SQL_ASCII", "SQL_ASCII", CHARACTERS_BYTES},
        {"SQL_ASCII", "EUC_KR", CHARACTERS_EUC}, {"UTF8", "EUC_JIS_2004", CHARACTERS_UNKNOWN},
        {"EUC_TW", "UTF8", CHARACTERS_UNKNOWN},  {"SJIS", "UTF8", CHARACTERS_UNKNOWN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *client = cases[i].client, *server = cases[i].server;
        assert_int_equal(characters_between(characters_of(client, strlen(client)),
                                            characters_of(server, strlen(server))),
                         cases[i].expected);
    }
}

static void between_missing_pieces_nothing_is_known(void **state)
{
    (void)state;
    struct kept_text kept[KEPT_MAX];
    char client[4096], sent[4096];
    memset(client, 'c', sizeof client);
    memset(sent, 's', sizeof sent);
    client[3000] = sent[2000] = '\0';
    for (size_t i = 0; i < KEPT_MAX; i++) {
        kept[i] = (struct kept_text){3 * i, 3 * i + 2, 2 * i};
    }
    kept[KEPT_MAX - 1] = (struct kept_text){2997, 3000, 1997};
    struct verdict verdict = edit_of(sent, kept, KEPT_MAX);
    verdict.is_kept_cut = true;
    struct position_map *map = map_of(&verdict, client, CHARACTERS_UTF8);
    const uint32_t known = 2 * (KEPT_MAX - 1);
    assert_int_equal(position_map_find(map, known), 3 * (KEPT_MAX - 2) + 2);
    assert_int_equal(position_map_find(map, known + 1), 0);
    assert_int_equal(position_map_find(map, 1997), 0);
    assert_int_equal(position_map_find(map, 1998), 2998);
    assert_int_equal(position_map_find(map, 2001), 3001);
    position_map_unref(map);
}

/* --- what the judge tells --- */

static const struct rule_column columns[] = {{"id", 20, false},
                                             {"collection_id", 1043, false},
                                             {"partition_key", 23, false},
                                             {"content", 25, false}};

static struct rule_set *new_rules(void)
{
    const struct rule rule = {
        .name = "chunks",
        .schema = "public",
        .table = "chunks",
        .column = "partition_key",
        .mode = RULE_MODE_STRIP,
        .unqualified_guarded = true,
        .columns = columns,
        .column_count = sizeof columns / sizeof columns[0],
    };
    return rule_set_new(&rule, 1, "app");
}

/* Every character that both texts share has its place; returns how many places are not known. */
static size_t check_places(const struct verdict *verdict, const char *client)
{
    struct position_map *map = map_of(verdict, client, CHARACTERS_BYTES);
    size_t from = 0, unknown = 0;
    for (size_t i = 0; i < verdict->text_len; i++) {
        const size_t found = position_map_find(map, (uint32_t)i + 1);
        unknown += found == 0;
        if (found == 0) {
            continue;
        }
        assert_true(found >= from && found <= strlen(client) + 1);
        from = found;
        bool is_kept = false;
        for (size_t k = 0; k < verdict->kept_count; k++) {
            const struct kept_text *piece = &verdict->kept[k];
            is_kept |= i >= piece->at && i < piece->at + (piece->to - piece->from);
        }
        if (is_kept) {
            assert_int_equal(client[found - 1], verdict->text[i]);
        }
    }
    position_map_unref(map);
    return unknown;
}

static size_t check_judged(struct judge *judge, const struct rule_set *set, const char *text,
                           bool extended)
{
    const struct verdict *verdict = judge_text(judge, set,
                                               &(struct judge_input){
                                                   .text = text,
                                                   .len = strlen(text),
                                                   .extended = extended,
                                                   .standard_conforming_strings = true,
                                               });
    assert_non_null(verdict);
    assert_int_equal(verdict->action, VERDICT_EDIT);
    return check_places(verdict, text);
}

static void edited_texts_have_their_places(void **state)
{
    (void)state;
    struct rule_set *set = new_rules();
    struct judge *judge = judge_new(1 << 20);
    static const char *const texts[] = {
        "INSERT INTO chunks (id, partition_key, content) VALUES (1, 5, 'a'), (2, 6, 'b')",
        "INSERT INTO chunks (id, partition_key, content) VALUES (1111, 55555, 'aaaa'), (2, 6, '')",
        "INSERT INTO chunks (partition_key, id, content) VALUES ('5', 1, 'a') RETURNING *",
        "INSERT INTO chunks (partition_key, id, content) VALUES ('', 111, '') RETURNING *",
        "INSERT INTO chunks VALUES (1, 'a', 5, 'x')",
        "INSERT INTO chunks VALUES (1234567, '', 5, 'xyz')",
        "UPDATE chunks SET partition_key = 5, content = 'x' WHERE id = 1",
        "UPDATE chunks SET partition_key = 555, content = '' WHERE id = 99",
        "INSERT INTO chunks (id, content, partition_key) VALUES (1, 'x', 7) ; ",
        "INSERT INTO chunks (id, content, partition_key) VALUES ($1, $2, 7)",
        "INSERT INTO chunks (id, content, partition_key) VALUES ($1, $2, 777777)",
    };
    for (size_t i = 0; i < 2 * sizeof texts / sizeof texts[0]; i++) {
        const char *text = texts[i / 2];
        assert_int_equal(check_judged(judge, set, text, strchr(text, '$') != NULL || i % 2), 0);
    }
    judge_free(judge);
    rule_set_free(set);
}

/* A row is its head, its number and its tail. */
struct load {
    const char *head, *row_head, *row_tail, *tail;
    bool is_long; /* with many rows it has more pieces than are told */
};

static void write_load(char *to, const struct load *load, size_t rows, size_t gap)
{
    to = stpcpy(to, load->head);
    for (size_t row = 0; row < rows; row++) {
        to += sprintf(to, "%s%*s%s%zu%s", row == 0 ? "" : ",", (int)gap, "", load->row_head,
                      row * row, load->row_tail);
    }
    stpcpy(to, load->tail);
}

static void bulk_loads_have_their_places(void **state)
{
    (void)state;
    static const struct load loads[] = {
        {"INSERT INTO chunks (id, partition_key, content) VALUES ", "(", ", 5, 'it''s')",
         " RETURNING id", true},
        {"INSERT INTO chunks (id, content, partition_key) VALUES\n", "( ", " , 'x', 5 )", "", true},
        {"INSERT INTO chunks (partition_key) VALUES ", "( ", " )", " RETURNING id", true},
        {"INSERT INTO chunks VALUES ", "(", ", 'a', 5, 'x')", " RETURNING *", true},
    };
    static char text[1 << 16];
    struct rule_set *set = new_rules();
    struct judge *judge = judge_new(1 << 20);
    for (size_t i = 0; i < sizeof loads / sizeof loads[0]; i++) {
        write_load(text, &loads[i], 200, 1);
        const size_t unknown = check_judged(judge, set, text, false);
        assert_int_equal(unknown > 0, loads[i].is_long);
        assert_true(unknown < strlen(text) - KEPT_MAX);
        write_load(text, &loads[i], 10, 250);
        assert_int_equal(check_judged(judge, set, text, false), 0);
    }
    judge_free(judge);
    rule_set_free(set);
}

/* Syntax errors in texts that are not UTF-8 stand at the byte where they are. */
static void a_refused_text_has_the_place_of_its_error(void **state)
{
    (void)state;
    struct rule_set *set = new_rules();
    struct judge *judge = judge_new(0);
    static const char *const texts[] = {
        "INSERT INTO chunks VALUES ('abc', ) x",
        "INSERT INTO chunks VALUES ('\xc3\xa4\xe2\x82\xac', ) x",
        "INSERT INTO chunks VALUES ('\xe4\xf6\xfc', ) x",
        "INSERT INTO chunks VALUES (\xe4, '\xe4', ) x",
        "INSERT INTO chunks VALUES ('\xff', ) x",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const struct verdict *verdict = judge_text(judge, set,
                                                   &(struct judge_input){
                                                       .text = texts[i],
                                                       .len = strlen(texts[i]),
                                                       .standard_conforming_strings = true,
                                                       .encoding = TEXT_ENCODING_ASCII_SAFE,
                                                   });
        assert_int_equal(verdict->action, VERDICT_REFUSE);
        assert_int_equal(verdict->position, strstr(texts[i], ") x") - texts[i] + 1);
    }
    judge_free(judge);
    rule_set_free(set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adjoining_pieces_are_one),
        cmocka_unit_test(of_too_many_pieces_the_last_one_stays),
        cmocka_unit_test(a_place_goes_along_with_its_text),
        cmocka_unit_test(an_end_that_went_or_was_added_is_the_end),
        cmocka_unit_test(characters_are_counted_on_both_sides),
        cmocka_unit_test(long_texts_are_counted_like_short_ones),
        cmocka_unit_test(what_cannot_be_counted_has_no_place),
        cmocka_unit_test(characters_of_both_sides),
        cmocka_unit_test(between_missing_pieces_nothing_is_known),
        cmocka_unit_test(edited_texts_have_their_places),
        cmocka_unit_test(bulk_loads_have_their_places),
        cmocka_unit_test(a_refused_text_has_the_place_of_its_error),
    };
    return cmocka_run_group_tests_name("rules_positions", tests, NULL, NULL);
}
