/*
 * What large texts take: what is judged at once and what is left to another thread, how such a
 * verdict is learnt and reduced, and texts whose cost would grow faster than they do.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "rules/rules.h"

#define INSERT "INSERT INTO chunks (id, partition_key) VALUES "

static const struct rule_column columns[] = {{"id", 20, false}, {"partition_key", 23, false}};
static const struct rule rule = {
    .name = "chunks",
    .schema = "public",
    .table = "chunks",
    .column = "partition_key",
    .mode = RULE_MODE_STRIP,
    .unqualified_guarded = true,
    .columns = columns,
    .column_count = 2,
};

struct fixture {
    struct rule_set *set;
    struct judge *judge, *other;
};

static int set_up(void **state)
{
    static struct fixture fixture;
    fixture.set = rule_set_new(&rule, 1, "app");
    fixture.judge = judge_new(1 << 20);
    fixture.other = judge_new(0);
    *state = &fixture;
    return fixture.set == NULL || fixture.judge == NULL || fixture.other == NULL;
}

static int tear_down(void **state)
{
    const struct fixture *fixture = *state;
    judge_free(fixture->judge);
    judge_free(fixture->other);
    rule_set_free(fixture->set);
    return 0;
}

static char *repeated(const char *head, const char *part, size_t times, const char *tail)
{
    char *text = malloc(strlen(head) + strlen(part) * times + strlen(tail) + 1);
    assert_non_null(text);
    char *to = stpcpy(text, head);
    for (size_t i = 0; i < times; i++) {
        to = stpcpy(to, part);
    }
    strcpy(to, tail);
    return text;
}

static struct judge_input input_of(const char *text)
{
    return (struct judge_input){
        .text = text, .len = strlen(text), .standard_conforming_strings = true};
}

static bool takes_long(struct fixture *fixture, const char *text)
{
    const struct judge_input input = input_of(text);
    bool answer = false;
    const struct verdict *verdict = judge_at_once(fixture->judge, fixture->set, &input, &answer);
    assert_true((verdict == NULL) == answer);
    return answer;
}

static void check_takes_long(void **state, char *text, bool want)
{
    assert_true(takes_long(*state, text) == want);
    free(text);
}

static void what_takes_long_to_parse_is_left_to_another_thread(void **state)
{
    check_takes_long(state, repeated(INSERT "(1, 2)", ",(a,b)", 100, ""), false);
    check_takes_long(state, repeated(INSERT "(1, 2)", ",(a,b)", 2000, ""), true);
    check_takes_long(state, repeated("SELECT 1 FROM chunks WHERE 1 ", "+", 600, " 1"), false);
    check_takes_long(state, repeated("SELECT 1 FROM chunks WHERE 1 ", "+", 700, " 1"), true);
    /* of a bulk load only the first row is parsed */
    check_takes_long(state, repeated(INSERT "(1, 2)", ",(1,2)", 20000, ""), false);
    check_takes_long(state, repeated(INSERT "(1, 2)", ",(1,2)", 100000, ""), true);
}

static void what_another_judge_found_out_is_known_from_then_on(void **state)
{
    struct fixture *fixture = *state;
    char *text = repeated(INSERT "(1, 2)", ",(a,b)", 2000, "");
    const struct judge_input input = input_of(text);
    struct judge_counters counters;
    assert_true(takes_long(fixture, text));
    assert_int_equal(judge_text(fixture->other, fixture->set, &input)->action, VERDICT_EDIT);
    judge_learn(fixture->judge, fixture->other);
    assert_false(takes_long(fixture, text));
    judge_count(fixture->judge, &counters);
    assert_true(counters.hits == 1 && counters.misses == 1 && counters.bytes > 0);
    free(text);
}

static void a_reduced_verdict_says_the_same(void **state)
{
    struct fixture *fixture = *state;
    char *text = repeated(INSERT "(1, 2)", ",(a,b)", 20000, "");
    struct judge_input input = input_of(text);
    struct verdict before = *judge_text(fixture->other, fixture->set, &input);
    const struct verdict *after = judge_reduce(fixture->other);
    assert_non_null(after);
    assert_int_equal(after->action, VERDICT_EDIT);
    assert_int_equal(after->writes, before.writes);
    assert_int_equal(after->fingerprint, before.fingerprint);
    assert_int_equal(after->supplied_count, 1);
    assert_int_equal(after->supplied[0].rows, 20001);
    assert_non_null(strstr(after->masked_text, "INSERT INTO chunks"));
    assert_null(after->text);
    free(text);
    text = repeated("SELECT 1 FROM chunks WHERE 1 ", "+", 10000, " 1");
    input = input_of(text);
    assert_int_equal(judge_text(fixture->other, fixture->set, &input)->action, VERDICT_REFUSE);
    after = judge_reduce(fixture->other);
    assert_string_equal(after->sqlstate, "54001");
    assert_string_equal(after->message, "statement is too complex to be judged");
    assert_non_null(strstr(after->detail, "Rule \"chunks\""));
    free(text);
}

static void thousands_of_places_are_told_of_together(void **state)
{
    struct fixture *fixture = *state;
    char *text = repeated("", INSERT "(1, 2), (3, 4);", 1000, "");
    const struct judge_input input = input_of(text);
    const struct verdict *verdict = judge_text(fixture->judge, fixture->set, &input);
    uint32_t rows = 0;
    for (size_t i = 0; i < verdict->supplied_count; i++) {
        rows += verdict->supplied[i].rows;
    }
    assert_int_equal(verdict->action, VERDICT_EDIT);
    assert_int_equal(verdict->supplied_count, 64);
    assert_int_equal(rows, 2000);
    free(text);
}

static double seconds_for(void **state, const char *part, size_t times)
{
    const struct fixture *fixture = *state;
    char *text = repeated(INSERT "(1, E'", part, times, "')");
    const struct judge_input input = input_of(text);
    struct timespec from, to;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
    assert_int_equal(judge_text(fixture->other, fixture->set, &input)->action, VERDICT_EDIT);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    free(text);
    return (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
}

static void escapes_are_read_in_one_pass(void **state)
{
    seconds_for(state, "\\n", 1000);
    const double some = seconds_for(state, "\\n", 100000);
    const double more = seconds_for(state, "\\n", 1000000);
    /* a hundred times as long when each escape looks for the closing quote anew */
    assert_true(more < some * 40);
}

static void texts_of_too_many_tokens_are_refused(void **state)
{
    const struct fixture *fixture = *state;
    static const struct {
        const char *part;
        size_t times;
        bool refused;
    } cases[] = {{",1", 990000, false}, {",1", 1010000, true}, {"\n,\n12345678", 1010000, true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *text =
            repeated("SELECT 1 FROM chunks WHERE 1 IN (1", cases[i].part, cases[i].times, ")");
        const struct judge_input input = input_of(text);
        const struct verdict *verdict = judge_text(fixture->other, fixture->set, &input);
        assert_int_equal(verdict->action, cases[i].refused ? VERDICT_REFUSE : VERDICT_PASS);
        free(text);
    }
    char *text = repeated("SELECT 'chunks", "a,b,c ", 1000000, "'");
    const struct judge_input input = input_of(text);
    assert_int_equal(judge_text(fixture->other, fixture->set, &input)->action, VERDICT_PASS);
    free(text);
}

static void bulk_loads_may_be_longer_than_other_texts(void **state)
{
    const struct fixture *fixture = *state;
    char *row = repeated(",(1,'", "x", 10000, "')");
    char *text = repeated(INSERT "(1, 2)", row, 5000, "");
    struct judge_input input = input_of(text);
    const struct verdict *verdict = judge_text(fixture->other, fixture->set, &input);
    assert_int_equal(verdict->action, VERDICT_EDIT);
    assert_int_equal(verdict->supplied[0].rows, 5001);
    assert_true(verdict->text_len < 100000);
    free(text);
    text = repeated(INSERT "(1, 2)", row, 7000, "");
    input = input_of(text);
    assert_string_equal(judge_text(fixture->other, fixture->set, &input)->sqlstate, "54000");
    free(text);
    free(row);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_takes_long_to_parse_is_left_to_another_thread, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_another_judge_found_out_is_known_from_then_on, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_reduced_verdict_says_the_same, set_up, tear_down),
        cmocka_unit_test_setup_teardown(thousands_of_places_are_told_of_together, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(escapes_are_read_in_one_pass, set_up, tear_down),
        cmocka_unit_test_setup_teardown(texts_of_too_many_tokens_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bulk_loads_may_be_longer_than_other_texts, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
