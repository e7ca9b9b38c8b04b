/*
 * The judge as a whole, where a data file cannot say it: hostile and huge texts, several rules on
 * one table, the cache seen from outside, threads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rules/rules.h"

static const struct rule_column columns[] = {{"id", 20, false},
                                             {"collection_id", 1043, false},
                                             {"partition_key", 23, false},
                                             {"content", 25, false},
                                             {"hash", 25, false}};

static struct rule rule_on(const char *column, enum rule_mode mode)
{
    return (struct rule){
        .name = column,
        .schema = "public",
        .table = "chunks",
        .column = column,
        .mode = mode,
        .unqualified_guarded = true,
        .shape = RULE_SHAPE_PLAIN,
        .columns = columns,
        .column_count = sizeof columns / sizeof columns[0],
    };
}

struct fixture {
    struct rule_set *set;
    struct judge *judge;
};

static int set_up(void **state)
{
    static struct fixture fixture;
    const struct rule rule = rule_on("partition_key", RULE_MODE_STRIP);
    fixture.set = rule_set_new(&rule, 1, "app");
    fixture.judge = judge_new(1 << 20);
    *state = &fixture;
    return fixture.set == NULL || fixture.judge == NULL;
}

static int tear_down(void **state)
{
    const struct fixture *fixture = *state;
    judge_free(fixture->judge);
    rule_set_free(fixture->set);
    return 0;
}

static const struct verdict *judged(void **state, const char *text)
{
    const struct fixture *fixture = *state;
    const struct judge_input input = {
        .text = text, .len = strlen(text), .standard_conforming_strings = true};
    const struct verdict *verdict = judge_text(fixture->judge, fixture->set, &input);
    assert_non_null(verdict);
    return verdict;
}

static char *repeated(const char *head, const char *part, size_t times, const char *tail)
{
    char *text = malloc(strlen(head) + strlen(part) * times + strlen(tail) + 1);
    char *to = stpcpy(text, head);
    for (size_t i = 0; i < times; i++) {
        to = stpcpy(to, part);
    }
    strcpy(to, tail);
    return text;
}

static void assert_refused(void **state, char *text, const char *sqlstate)
{
    const struct verdict *verdict = judged(state, text);
    assert_int_equal(verdict->action, VERDICT_REFUSE);
    assert_string_equal(verdict->sqlstate, sqlstate);
    assert_true(verdict->writes != 0);
    free(text);
}

static void deep_trees_are_refused_without_a_crash(void **state)
{
    assert_refused(state, repeated("SELECT 1", "+1", 100000, " FROM chunks"), "54001");
    assert_refused(state, repeated("SELECT 1", "::int", 100000, " FROM chunks"), "54001");
    assert_refused(state, repeated("SELECT 1 FROM chunks", " UNION SELECT 1", 20000, ""), "54001");
    assert_refused(state, repeated("SELECT ", "NOT ", 5500, "true FROM chunks"), "54001");
    assert_refused(state,
                   repeated("INSERT INTO chunks (id, partition_key) VALUES (1, 1", "+1", 9000, ")"),
                   "54001");
    /* Deeper than the parser's own stack. */
    char *text = repeated("SELECT ", "(", 20000, "1 FROM chunks");
    const struct verdict *verdict = judged(state, text);
    assert_int_equal(verdict->action, VERDICT_REFUSE);
    assert_non_null(strstr(verdict->message, "memory exhausted"));
    free(text);
}

static void trees_that_the_server_takes_are_taken(void **state)
{
    char *text = repeated("SELECT id FROM chunks WHERE id = 0", " OR id = 1", 20000, "");
    assert_int_equal(judged(state, text)->action, VERDICT_PASS);
    free(text);
    text = repeated("INSERT INTO chunks (id, partition_key) VALUES (1, 1", "+1", 2000, ")");
    const struct verdict *verdict = judged(state, text);
    assert_int_equal(verdict->action, VERDICT_EDIT);
    assert_string_equal(verdict->text, "INSERT INTO chunks (id) VALUES (1)");
    free(text);
}

static void texts_that_keep_the_lexer_busy_are_refused(void **state)
{
    assert_refused(state, repeated("SELECT /* chunks ", "/*", 40000, ""), "54001");
    assert_refused(state, repeated("SELECT id FROM chunks WHERE 1 ", "+", 20000, "1"), "54001");
}

static void texts_past_the_limit_are_refused(void **state)
{
    assert_refused(
        state,
        repeated("INSERT INTO chunks (content) VALUES ('", "0123456789abcdef", 1 << 20, "')"),
        "54000");
}

static char *bulk_insert(const char *head, const char *row, int rows)
{
    const size_t room = strlen(head) + (strlen(row) + 32) * (size_t)rows + 1;
    char *text = malloc(room), *to = stpcpy(text, head);
    for (int i = 0; i < rows; i++) {
        to += snprintf(to, room - (size_t)(to - text), "%s(%d%s)", i == 0 ? "" : ", ", i, row);
    }
    return text;
}

static void a_thousand_rows_are_stripped(void **state)
{
    char *text = bulk_insert("INSERT INTO chunks (id, partition_key, content) VALUES ",
                             ", 5, 'a text, (with) ''signs'''", 1000);
    char *want = bulk_insert("INSERT INTO chunks (id, content) VALUES ",
                             ", 'a text, (with) ''signs'''", 1000);
    const struct verdict *verdict = judged(state, text);
    assert_int_equal(verdict->action, VERDICT_EDIT);
    assert_string_equal(verdict->text, want);
    assert_int_equal(verdict->supplied[0].rows, 1000);
    assert_string_equal(verdict->masked_text,
                        "INSERT INTO chunks (id, partition_key, content) VALUES (?, ?, ?) ...");
    free(text);
    free(want);
}

static uint32_t dice(uint32_t sides)
{
    static uint64_t state = 1;
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(state >> 33) % sides;
}

/* Values that a reader of plain rows may trip over; behind PLAIN_VALUES, those that it leaves to
 * the parser. */
enum { PLAIN_VALUES = 28 };

static const char *some_value(bool is_plain)
{
    static const char *const values[] = {
        "5",
        "-5",
        "- 5",
        "+.5e-7",
        "12345678901234567890",
        "1.",
        "NULL",
        "null ",
        "TRUE",
        "DEFAULT",
        "default",
        "''",
        "''''",
        "'a,b'",
        "'(''),('",
        "'--'",
        "'/*'",
        "E'\\\\'",
        "E'\\','",
        "e'\\\\\\'),('",
        "'\\'",
        "'{\"a\": [1, 2]}'::jsonb",
        "'1'::pg_catalog.int4",
        "'{1}'::int[]",
        "'$a$'",
        "'\xc3\xa4'",
        "1::int::text",
        "'''a'",
        "now()",
        "1 + 1",
        "(5)",
        "$a$,$a$",
        "ARRAY[1, 2]",
        "'a' -- b\n",
        "'a'\n'b'",
        "/* , */ 5",
        "U&'a'",
        "date '2020-01-01'",
        "5 -- )\n",
        "E'a'\n'b\\''",
        "E'd\\0'",
        "E'\\u12'",
        "E'\\ud800'",
        "E'\\xc3'",
    };
    return values[dice(is_plain ? PLAIN_VALUES : sizeof values / sizeof values[0])];
}

static char *random_bulk(const char *names, const char *tail, uint32_t width)
{
    enum { ROWS = 200, ROW_BYTES = 200 };
    const size_t room = ROWS * ROW_BYTES + 200;
    char *text = malloc(room), *to = text;
    const uint32_t odd_row = dice(2 * ROWS);
    to += snprintf(to, room, "INSERT INTO chunks%s VALUES", names);
    for (uint32_t row = 0; row < ROWS; row++) {
        to = stpcpy(to, row == 0 ? " (" : dice(3) == 0 ? ",\n (" : ",(");
        for (uint32_t i = 0; i < width; i++) {
            to = stpcpy(to, i == 0 ? "" : ",");
            to = stpcpy(to, dice(2) == 0 ? " " : "");
            to = stpcpy(to, some_value(row != odd_row));
            to = stpcpy(to, dice(4) == 0 ? " " : "");
        }
        to = stpcpy(to, ")");
    }
    strcpy(to, tail);
    return text;
}

/* A comment in front sends the same rows through the parser. */
static void rows_read_in_bulk_fare_as_rows_that_are_parsed(void **state)
{
    static const char *const names[] = {"(id, partition_key, content)", "",
                                        "(id, content, partition_key)", "(id, content)",
                                        "(partition_key, id, content)", " ( \"partition_key\" )"};
    static const char *const tails[] = {"", " RETURNING *", " ON CONFLICT DO NOTHING ; SELECT 1",
                                        " ORDER BY 1", ", (1, 2, 3)"};
    size_t edits = 0;
    for (int round = 0; round < 400; round++) {
        const size_t form = dice(6);
        const uint32_t width = form == 5 ? 1 : form == 3 ? 2 : 3 + (form == 1 ? dice(3) : 0);
        char *quick = random_bulk(names[form], tails[dice(5)], width);
        char *slow = malloc(strlen(quick) + 5);
        strcpy(stpcpy(slow, "INSERT /**/"), quick + 7);
        const struct verdict *verdict = judged(state, quick);
        const enum verdict_action action = verdict->action;
        const uint32_t rows = verdict->supplied_count == 0 ? 0 : verdict->supplied[0].rows;
        char *text = strdup(action == VERDICT_EDIT ? verdict->text : "");
        verdict = judged(state, slow);
        assert_int_equal(action, verdict->action);
        assert_int_equal(rows, verdict->supplied_count == 0 ? 0 : verdict->supplied[0].rows);
        if (action == VERDICT_EDIT) {
            assert_string_equal(text + 7, verdict->text + 11);
            assert_int_equal(strlen(verdict->text), verdict->text_len);
            edits++;
        }
        free(quick);
        free(slow);
        free(text);
    }
    assert_true(edits > 100);
}

/* As pg_query has it: rows that are alike count once. */
static void the_fingerprint_does_not_depend_on_the_number_of_rows(void **state)
{
    char *text = bulk_insert("INSERT INTO chunks (id, partition_key) VALUES ", ", 5", 500);
    const uint64_t many = judged(state, text)->fingerprint;
    const uint64_t one =
        judged(state, "insert into chunks (id, partition_key) values (7, 8)")->fingerprint;
    assert_true(many != 0 && many == one);
    free(text);
}

static void two_rules_on_one_table_strip_both_columns(void **state)
{
    struct fixture *fixture = *state;
    const struct rule rules[] = {rule_on("partition_key", RULE_MODE_STRIP),
                                 rule_on("hash", RULE_MODE_STRIP)};
    struct rule_set *set = rule_set_new(rules, 2, NULL), *before = fixture->set;
    fixture->set = set;
    const struct verdict *verdict = judged(
        state, "INSERT INTO chunks (content, partition_key, hash) VALUES ('a', 1, 'b'), ('c', 2, "
               "DEFAULT)");
    assert_string_equal(verdict->text, "INSERT INTO chunks (content) VALUES ('a'), ('c')");
    assert_int_equal(verdict->supplied_count, 2);
    assert_int_equal(verdict->writes, 3);
    verdict = judged(state, "INSERT INTO chunks (hash, partition_key) VALUES ('b', 1)");
    assert_string_equal(verdict->text,
                        "INSERT INTO chunks (hash, partition_key) VALUES (DEFAULT, DEFAULT)");
    verdict = judged(state, "INSERT INTO chunks VALUES (1, 'a', 2, 'c', 'd')");
    assert_string_equal(verdict->text,
                        "INSERT INTO chunks (id, collection_id, content) VALUES (1, 'a', 'c')");
    fixture->set = before;
    judged(state, "SELECT 1 FROM chunks");
    rule_set_free(set);
}

static void an_observed_column_stays_beside_a_stripped_one(void **state)
{
    struct fixture *fixture = *state;
    const struct rule rules[] = {rule_on("partition_key", RULE_MODE_OBSERVE),
                                 rule_on("hash", RULE_MODE_STRIP)};
    struct rule_set *set = rule_set_new(rules, 2, NULL), *before = fixture->set;
    fixture->set = set;
    const struct verdict *verdict =
        judged(state, "INSERT INTO chunks (content, partition_key, hash) VALUES ('a', 1, 'b')");
    assert_string_equal(verdict->text,
                        "INSERT INTO chunks (content, partition_key) VALUES ('a', 1)");
    assert_int_equal(verdict->supplied_count, 2);
    fixture->set = before;
    judged(state, "SELECT 1 FROM chunks");
    rule_set_free(set);
}

static void a_table_of_the_same_name_and_other_columns_is_not_edited_by_position(void **state)
{
    struct fixture *fixture = *state;
    static const struct rule_column others[] = {{"partition_key", 23, false}, {"id", 20, false}};
    struct rule rules[] = {rule_on("partition_key", RULE_MODE_STRIP),
                           rule_on("partition_key", RULE_MODE_STRIP)};
    rules[1].schema = "other";
    rules[1].columns = others;
    rules[1].column_count = 2;
    struct rule_set *set = rule_set_new(rules, 2, NULL), *before = fixture->set;
    fixture->set = set;
    assert_int_equal(judged(state, "INSERT INTO chunks VALUES (1, 'a', 5)")->action,
                     VERDICT_REFUSE);
    assert_string_equal(judged(state, "INSERT INTO other.chunks VALUES (1, 2)")->text,
                        "INSERT INTO other.chunks (id) VALUES (2)");
    assert_string_equal(judged(state, "INSERT INTO public.chunks VALUES (1, 'a', 5)")->text,
                        "INSERT INTO public.chunks (id, collection_id) VALUES (1, 'a')");
    fixture->set = before;
    judged(state, "SELECT 1 FROM chunks");
    rule_set_free(set);
}

static void the_cache_is_counted_and_dropped_with_the_set(void **state)
{
    struct fixture *fixture = *state;
    const char text[] = "INSERT INTO chunks (id, partition_key) VALUES (1, 5)";
    struct judge_counters counters;
    judged(state, text);
    judged(state, text);
    judged(state, text);
    judge_count(fixture->judge, &counters);
    assert_true(counters.hits == 2 && counters.misses == 1 && counters.bytes > 0);
    const struct rule rule = rule_on("partition_key", RULE_MODE_REJECT);
    struct rule_set *set = rule_set_new(&rule, 1, NULL), *before = fixture->set;
    fixture->set = set;
    assert_int_equal(judged(state, text)->action, VERDICT_REFUSE);
    judge_count(fixture->judge, &counters);
    assert_true(counters.hits == 2 && counters.misses == 2);
    fixture->set = before;
    assert_int_equal(judged(state, text)->action, VERDICT_EDIT);
    rule_set_free(set);
}

static void *judge_many(void *arg)
{
    const struct rule_set *set = arg;
    struct judge *judge = judge_new(0);
    size_t wrong = 0;
    for (int i = 0; i < 2000; i++) {
        char text[128];
        int len = snprintf(text, sizeof text,
                           i % 3 == 0 ? "INSERT INTO chunks (id, partition_key) VALUES (%d, 'x"
                                      : "INSERT INTO chunks (id, partition_key) VALUES (%d, 5)",
                           i);
        const struct judge_input input = {
            .text = text, .len = (size_t)len, .standard_conforming_strings = true};
        const struct verdict *verdict = judge_text(judge, set, &input);
        wrong += verdict->action != (i % 3 == 0 ? VERDICT_REFUSE : VERDICT_EDIT);
    }
    judge_free(judge);
    return (void *)wrong;
}

static void judges_work_side_by_side(void **state)
{
    const struct fixture *fixture = *state;
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, judge_many, fixture->set), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        void *wrong = NULL;
        pthread_join(threads[i], &wrong);
        assert_null(wrong);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(deep_trees_are_refused_without_a_crash, set_up, tear_down),
        cmocka_unit_test_setup_teardown(trees_that_the_server_takes_are_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(texts_that_keep_the_lexer_busy_are_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(texts_past_the_limit_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_thousand_rows_are_stripped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rows_read_in_bulk_fare_as_rows_that_are_parsed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(the_fingerprint_does_not_depend_on_the_number_of_rows,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(two_rules_on_one_table_strip_both_columns, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(an_observed_column_stays_beside_a_stripped_one, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(
            a_table_of_the_same_name_and_other_columns_is_not_edited_by_position, set_up,
            tear_down),
        cmocka_unit_test_setup_teardown(the_cache_is_counted_and_dropped_with_the_set, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(judges_work_side_by_side, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
