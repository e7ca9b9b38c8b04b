/*
 * The parts of rules/ that have an answer of their own: prefilter, lexing guard, encoding check,
 * verdict cache, masking of what does not parse.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rules/encoding.h"
#include "rules/lex_cost.h"
#include "rules/prefilter.h"
#include "rules/rule_set.h"
#include "rules/verdict_cache.h"

static bool filter_hits(const char *const *names, size_t count, const char *text)
{
    struct prefilter filter;
    assert_true(prefilter_init(&filter, names, count));
    bool hits = prefilter_hits(&filter, text, strlen(text));
    prefilter_fini(&filter);
    return hits;
}

static void prefilter_finds_a_name_at_every_place(void **state)
{
    (void)state;
    static const char *const names[] = {"chunks", "u&\""};
    for (size_t len = 6; len < 200; len++) {
        for (size_t at = 0; at + 6 <= len; at++) {
            char text[201];
            memset(text, 'k', len);
            text[len] = '\0';
            assert_false(filter_hits(names, 2, text));
            memcpy(text + at, "cHunKs", 6);
            assert_true(filter_hits(names, 2, text));
        }
    }
}

static void prefilter_reads_no_further_than_the_text(void **state)
{
    (void)state;
    static const char *const names[] = {"chunks"};
    struct prefilter filter;
    assert_true(prefilter_init(&filter, names, 1));
    for (size_t len = 0; len < 100; len++) {
        char *text = malloc(len == 0 ? 1 : len);
        memset(text, 'n', len);
        assert_false(prefilter_hits(&filter, text, len));
        free(text);
    }
    assert_false(prefilter_hits(&filter, "xchunk", 6));
    prefilter_fini(&filter);
}

static void prefilter_folds_ascii_only(void **state)
{
    (void)state;
    static const char *const names[] = {"pa[rt", "m\xc3\xbcll"};
    assert_true(filter_hits(names, 2, "xx PA[RT"));
    assert_false(filter_hits(names, 2, "xx PA{RT"));
    assert_true(filter_hits(names, 2, "M\xc3\xbcLL"));
    assert_false(filter_hits(names, 2, "M\xc3\x9cLL"));
}

static void prefilter_takes_many_names(void **state)
{
    (void)state;
    char text[300][16];
    const char *names[300];
    for (int i = 0; i < 300; i++) {
        snprintf(text[i], sizeof text[i], "%c%c%c_table_%d", 'a' + i % 26, 'a' + i / 26,
                 'a' + i % 7, i);
        names[i] = text[i];
    }
    for (int i = 0; i < 300; i++) {
        char sql[64];
        snprintf(sql, sizeof sql, "SELECT 1 FROM  %.15s WHERE false", text[i]);
        assert_true(filter_hits(names, 300, sql));
    }
    assert_false(filter_hits(names, 300, "SELECT 1 FROM pgbench_accounts WHERE aid = 1234"));
}

static void a_name_of_one_letter_makes_every_text_a_hit(void **state)
{
    (void)state;
    static const char *const names[] = {"t"};
    assert_true(filter_hits(names, 1, "SELECT 1"));
}

static void a_quote_in_a_table_name_is_doubled_in_sql(void **state)
{
    (void)state;
    const struct rule_column columns[] = {{.name = "k", .type_oid = 23}};
    const struct rule rule = {.name = "r",
                              .schema = "public",
                              .table = "odd\"name",
                              .column = "k",
                              .columns = columns,
                              .column_count = 1};
    struct rule_set *set = rule_set_new(&rule, 1, NULL);
    const char sql[] = "INSERT INTO \"odd\"\"name\" VALUES (1)";
    assert_true(rule_set_may_concern(set, sql, sizeof sql - 1));
    assert_int_equal(rule_set_mentioned(set, sql, sizeof sql - 1), 1);
    assert_int_equal(rule_set_resolve(set, "any", "public", "odd\"name").direct, 1);
    rule_set_free(set);
}

static void a_set_without_rules_concerns_nothing(void **state)
{
    (void)state;
    struct rule_set *set = rule_set_new(NULL, 0, NULL);
    assert_non_null(set);
    assert_false(rule_set_may_concern(set, "SELECT U&\"x\"", 12));
    assert_int_equal(rule_set_count(set), 0);
    rule_set_free(set);
}

static void a_set_holds_no_more_than_its_bits(void **state)
{
    (void)state;
    static struct rule rules[RULES_MAX + 1];
    for (size_t i = 0; i <= RULES_MAX; i++) {
        rules[i] = (struct rule){.name = "r", .schema = "s", .table = "tab", .column = "c"};
    }
    assert_null(rule_set_new(rules, RULES_MAX + 1, NULL));
    struct rule_set *set = rule_set_new(rules, RULES_MAX, NULL);
    assert_non_null(set);
    assert_true(rule_set_resolve(set, NULL, "s", "tab").direct == UINT64_MAX);
    rule_set_free(set);
}

static char *repeated(const char *part, size_t times, const char *tail)
{
    char *text = malloc(strlen(part) * times + strlen(tail) + 1), *to = text;
    for (size_t i = 0; i < times; i++) {
        to = stpcpy(to, part);
    }
    strcpy(to, tail);
    return text;
}

static bool is_bounded(const char *part, size_t times, const char *tail, bool conforming)
{
    char *text = repeated(part, times, tail);
    bool answer = lex_cost_is_bounded(text, strlen(text), conforming);
    free(text);
    return answer;
}

static void long_operator_runs_are_refused(void **state)
{
    (void)state;
    assert_false(is_bounded("+", 10000, "", true));
    assert_false(is_bounded("/*", 5000, "", true));
    assert_false(is_bounded("SELECT ++++++++++++++++++++++++++++++++++++++++ 1;", 4000, "", true));
    assert_true(is_bounded("+", 1000, "", true));
    assert_true(is_bounded("a <= b AND c->>'d' = '--' ", 10000, "", true));
}

static void operator_runs_in_quotes_cost_nothing(void **state)
{
    (void)state;
    char *line = repeated("-", 5000, "");
    char text[24000];
    const char *const forms[] = {
        "SELECT '%s'",          "SELECT '%s''%s'",        "SELECT \"%s\"",     "SELECT $$%s$$",
        "SELECT $a$%s$b$%s$a$", "SELECT 1 -- %s",         "SELECT E'%s\\'%s'", "SELECT U&'%s'",
        "SELECT B'%s'",         "SELECT x$a$ FROM t --%s"};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        char *to = text;
        for (const char *from = forms[i]; *from != '\0'; from++) {
            if (from[0] == '%' && from[1] == 's') {
                to = stpcpy(to, line);
                from++;
            } else {
                *to++ = *from;
            }
        }
        *to = '\0';
        assert_true(lex_cost_is_bounded(text, strlen(text), true));
    }
    free(line);
}

static void quotes_that_only_seem_to_hide_a_run_do_not(void **state)
{
    (void)state;
    char *run = repeated("+", 5000, "");
    char text[6000];
    static const char *const fronts[] = {
        "SELECT 'a' ",
        "SELECT 'a\\' ",
        "SELECT E'a\\'' ",
        "SELECT $1 ",
        "SELECT a$b$ ",
        "SELECT $a$ $b$ $a$ ",
        "/* ' */ ",
        "-- '\n",
        "SELECT E'a'\n'b\\'' ",
        "SELECT some'x\\' ",
        "/* /* */ ' */ ",
        "SELECT U&\"\\\" ",
        "SELECT E'a' -- c\n 'b\\'' ",
    };
    for (size_t i = 0; i < sizeof fronts / sizeof fronts[0]; i++) {
        snprintf(text, sizeof text, "%s%s", fronts[i], run);
        assert_false(lex_cost_is_bounded(text, strlen(text), true));
    }
    snprintf(text, sizeof text, "SELECT 'a\\'' %s", run);
    assert_false(lex_cost_is_bounded(text, strlen(text), false));
    free(run);
}

static void utf8_is_told_from_what_is_not(void **state)
{
    (void)state;
    static const char *const good[] = {"",
                                       "abc",
                                       "h\xc3\xa4\xc3\x9flich, longer than a word",
                                       "\xe2\x82\xac",
                                       "\xf0\x9f\x98\x80",
                                       "\xed\x9f\xbf"};
    static const char *const bad[] = {"\x80",         "\xc0\x80",      "\xc3",
                                      "\xe0\x9f\xbf", "\xed\xa0\x80",  "\xf4\x90\x80\x80",
                                      "\xff",         "12345678\xe4 ", "\xf0\x9f\x98"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(encoding_is_readable(TEXT_ENCODING_UTF8, good[i], strlen(good[i])));
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(encoding_is_readable(TEXT_ENCODING_UTF8, bad[i], strlen(bad[i])));
        assert_true(encoding_is_readable(TEXT_ENCODING_ASCII_SAFE, bad[i], strlen(bad[i])));
        assert_false(encoding_is_readable(TEXT_ENCODING_UNSAFE, bad[i], strlen(bad[i])));
    }
    assert_false(encoding_is_readable(TEXT_ENCODING_UNSAFE, good[2], strlen(good[2])));
    assert_true(encoding_is_readable(TEXT_ENCODING_UNSAFE, good[1], strlen(good[1])));
    assert_false(encoding_is_readable(TEXT_ENCODING_UNKNOWN, good[2], strlen(good[2])));
    assert_true(encoding_is_readable(TEXT_ENCODING_UNKNOWN, "SELECT 'a'", 10));
    assert_false(encoding_is_readable(TEXT_ENCODING_UNKNOWN, "SELECT '\\'", 10));
}

static void a_byte_of_another_encoding_is_found_wherever_it_stands(void **state)
{
    (void)state;
    char text[200];
    for (size_t at = 0; at + 1 < sizeof text; at++) {
        memset(text, 'x', sizeof text);
        memcpy(text + at, "\xc3\xa9", 2);
        assert_true(encoding_is_readable(TEXT_ENCODING_UTF8, text, sizeof text));
        assert_false(encoding_is_readable(TEXT_ENCODING_UTF8, text, at + 1));
        assert_false(encoding_is_readable(TEXT_ENCODING_UNSAFE, text, sizeof text));
        text[at] = 'x';
        assert_false(encoding_is_readable(TEXT_ENCODING_UTF8, text, sizeof text));
        assert_true(encoding_is_readable(TEXT_ENCODING_UNSAFE, text, at + 1));
    }
}

static struct judge_input input_of(const char *text)
{
    return (struct judge_input){
        .text = text, .len = strlen(text), .standard_conforming_strings = true};
}

static void cache_keeps_all_of_a_verdict(void **state)
{
    (void)state;
    struct verdict_cache *cache = verdict_cache_new(1 << 16);
    const uint32_t types[] = {1, 2, 3};
    const struct supplied supplied[] = {
        {.rule = 1, .statement = "INSERT", .rows = 5, .params = 6},
        {.rule = 2, .statement = "UPDATE"},
    };
    const struct shape_slot slots[] = {{1, 2, 0}, {4, 6, 2}};
    const struct verdict verdict = {
        .action = VERDICT_EDIT,
        .writes = 5,
        .text = "edited",
        .text_len = 6,
        .param_types = types,
        .param_type_count = 3,
        .supplied = supplied,
        .supplied_count = 2,
        .fingerprint = 77,
        .masked_text = "masked",
        .message = "m",
    };
    struct judge_input input = input_of("a text");
    verdict_cache_put(cache, &input,
                      &(struct verdict_kept){.verdict = verdict, .slots = slots, .slot_count = 2});
    const struct verdict_kept *found = verdict_cache_get(cache, &input);
    assert_non_null(found);
    assert_int_equal(found->slot_count, 2);
    assert_memory_equal(found->slots, slots, sizeof slots);
    const struct verdict *kept = &found->verdict;
    assert_ptr_not_equal(kept->text, verdict.text);
    assert_string_equal(kept->text, "edited");
    assert_string_equal(kept->masked_text, "masked");
    assert_string_equal(kept->message, "m");
    assert_null(kept->hint);
    assert_memory_equal(kept->param_types, types, sizeof types);
    assert_int_equal(kept->supplied[0].params, 6);
    assert_string_equal(kept->supplied[1].statement, "UPDATE");
    assert_true(kept->writes == 5 && kept->fingerprint == 77);
    verdict_cache_free(cache);
}

static void cache_tells_inputs_apart(void **state)
{
    (void)state;
    struct verdict_cache *cache = verdict_cache_new(1 << 16);
    const struct verdict_kept verdict = {.verdict = {.action = VERDICT_PASS}};
    const uint32_t types[] = {23, 25};
    struct judge_input input = input_of("a text"), other;
    verdict_cache_put(cache, &input, &verdict);
    other = input;
    other.extended = true;
    assert_null(verdict_cache_get(cache, &other));
    other = input;
    other.standard_conforming_strings = false;
    assert_null(verdict_cache_get(cache, &other));
    other = input;
    other.encoding = TEXT_ENCODING_UNSAFE;
    assert_null(verdict_cache_get(cache, &other));
    other = input;
    other.param_types = types;
    other.param_type_count = 2;
    assert_null(verdict_cache_get(cache, &other));
    other = input_of("a texT");
    assert_null(verdict_cache_get(cache, &other));
    assert_non_null(verdict_cache_get(cache, &input));
    verdict_cache_free(cache);
}

static void cache_stays_within_its_bytes_and_drops_the_oldest(void **state)
{
    (void)state;
    const size_t bound = 20000;
    struct verdict_cache *cache = verdict_cache_new(bound);
    const struct verdict_kept verdict = {.verdict = {.action = VERDICT_PASS}};
    char text[64];
    const struct judge_input first = input_of("always asked for");
    verdict_cache_put(cache, &first, &verdict);
    for (int i = 0; i < 5000; i++) {
        snprintf(text, sizeof text, "SELECT %d", i);
        const struct judge_input input = input_of(text);
        verdict_cache_put(cache, &input, &verdict);
        assert_true(verdict_cache_bytes(cache) <= bound);
        assert_non_null(verdict_cache_get(cache, &input));
        assert_non_null(verdict_cache_get(cache, &first));
    }
    const struct judge_input old = input_of("SELECT 0");
    assert_null(verdict_cache_get(cache, &old));
    verdict_cache_clear(cache);
    assert_int_equal(verdict_cache_bytes(cache), 0);
    assert_null(verdict_cache_get(cache, &first));
    verdict_cache_free(cache);
}

static void cache_does_not_keep_long_texts(void **state)
{
    (void)state;
    struct verdict_cache *cache = verdict_cache_new(100 << 20);
    const struct verdict_kept verdict = {.verdict = {.action = VERDICT_PASS}};
    char *text = repeated("x", 70000, "");
    const struct judge_input input = input_of(text);
    verdict_cache_put(cache, &input, &verdict);
    assert_null(verdict_cache_get(cache, &input));
    assert_int_equal(verdict_cache_bytes(cache), 0);
    free(text);
    verdict_cache_free(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prefilter_finds_a_name_at_every_place),
        cmocka_unit_test(prefilter_reads_no_further_than_the_text),
        cmocka_unit_test(prefilter_folds_ascii_only),
        cmocka_unit_test(prefilter_takes_many_names),
        cmocka_unit_test(a_name_of_one_letter_makes_every_text_a_hit),
        cmocka_unit_test(a_quote_in_a_table_name_is_doubled_in_sql),
        cmocka_unit_test(a_set_without_rules_concerns_nothing),
        cmocka_unit_test(a_set_holds_no_more_than_its_bits),
        cmocka_unit_test(long_operator_runs_are_refused),
        cmocka_unit_test(operator_runs_in_quotes_cost_nothing),
        cmocka_unit_test(quotes_that_only_seem_to_hide_a_run_do_not),
        cmocka_unit_test(utf8_is_told_from_what_is_not),
        cmocka_unit_test(a_byte_of_another_encoding_is_found_wherever_it_stands),
        cmocka_unit_test(cache_keeps_all_of_a_verdict),
        cmocka_unit_test(cache_tells_inputs_apart),
        cmocka_unit_test(cache_stays_within_its_bytes_and_drops_the_oldest),
        cmocka_unit_test(cache_does_not_keep_long_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
