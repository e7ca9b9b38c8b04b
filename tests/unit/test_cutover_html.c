/* The report's page, from JSON alone: what is in it, what is left out, and that nothing escapes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proxy/cutover/html.h"

static char *page_of(const char *json)
{
    json_error_t why;
    json_t *report = json_loads(json, 0, &why);
    assert_non_null(report);
    char *page = html_report(report);
    json_decref(report);
    assert_non_null(page);
    return page;
}

static size_t count(const char *text, const char *word)
{
    size_t n = 0;
    for (const char *at = strstr(text, word); at != NULL; at = strstr(at + 1, word)) {
        n++;
    }
    return n;
}

static void an_empty_report_is_a_page(void **state)
{
    (void)state;
    char *page = page_of("{}");
    assert_int_equal(count(page, "<section>"), 1); /* the checks */
    assert_int_equal(count(page, "<svg"), 0);
    assert_string_equal(page + strlen(page) - 8, "</html>\n");
    free(page);
}

static void nothing_in_a_report_becomes_markup(void **state)
{
    (void)state;
    char *page =
        page_of("{\"table\": \"<i>a\\\"&\", \"summary\": \"</script><script>alert(1)</script>\","
                " \"checks\": [{\"id\": \"<x>\", \"verdict\": \"BLOCK\", \"evidence\": \"<y>\","
                " \"remedy\": \"<z>\"}], \"sql\": [\"<w>\"], \"locks\": [\"<v>\"],"
                " \"ticket\": [{\"step\": \"<u>\", \"text\": \"<t>\"}]}");
    const char *const marks[] = {"<i>", "<x>", "<y>", "<z>", "<w>", "<v>", "<u>", "<t>"};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        assert_null(strstr(page, marks[i]));
    }
    assert_int_equal(count(page, "<script"), 1);
    assert_int_equal(count(page, "</script>"), 1);
    assert_non_null(strstr(page, "&lt;i&gt;a&quot;&amp;"));
    free(page);
}

static const char with_hold[] =
    "{\"timeline\": [{\"ms\": 0, \"state\": \"gate\"}, {\"ms\": 100, \"state\": \"hold\"},"
    " {\"ms\": 110, \"state\": \"flip\"}, {\"ms\": 180, \"state\": \"backoff\"},"
    " {\"ms\": 400, \"state\": \"hold\"}, {\"ms\": 401, \"state\": \"flip\"},"
    " {\"ms\": 460, \"state\": \"release\"}, {\"ms\": 470, \"state\": \"done\"}],"
    " \"latency\": {\"slot_ms\": 10, \"note\": \"a note\", \"points\": ["
    " {\"ms\": 20, \"writes\": 3, \"write_max_ms\": 2.5, \"reads\": 0, \"read_max_ms\": 0},"
    " {\"ms\": 410, \"writes\": 1, \"write_max_ms\": 49.5, \"reads\": 2, \"read_max_ms\": 0.4},"
    " {\"ms\": 5000, \"writes\": 1, \"write_max_ms\": 1, \"reads\": 0, \"read_max_ms\": 0}]}}";

static void each_hold_is_a_band_and_each_slot_a_point(void **state)
{
    (void)state;
    char *page = page_of(with_hold);
    assert_int_equal(count(page, "<rect class=\"hold\""), 2);
    assert_int_equal(count(page, "<circle class=\"write\""), 2); /* one is long after */
    assert_int_equal(count(page, "<circle class=\"read\""), 1);
    assert_non_null(strstr(page, "gate holds, 80.0 ms"));
    assert_non_null(strstr(page, "gate holds, 60.0 ms"));
    assert_non_null(strstr(page, "410 ms: 1 writes, the longest 49.50 ms"));
    free(page);
}

static void keys_stand_in_their_own_order(void **state)
{
    (void)state;
    char *page = page_of("{\"values\": {\"rows\": 12, \"distinct\": 3, \"skew\": 1.75, \"min\": "
                         "\"-5\", \"max\": \"20\", \"histogram\": [{\"key\": 20, \"rows\": 7}, "
                         "{\"key\": -5, \"rows\": 4}, {\"key\": 3, \"rows\": 1}]}}");
    const char *low = strstr(page, "<title>-5: 4 rows");
    const char *middle = strstr(page, "<title>3: 1 rows");
    const char *high = strstr(page, "<title>20: 7 rows");
    assert_true(low != NULL && low < middle && middle < high);
    assert_non_null(strstr(page, "average 4.0"));
    assert_non_null(strstr(page, "1.75 times the average"));
    free(page);
}

static void a_cost_has_its_sign(void **state)
{
    (void)state;
    char *page =
        page_of("{\"insert_cost\": {\"note\": \"medians\", \"paths\": ["
                "{\"path\": \"a\", \"trigger_us\": 10, \"generated_us\": 12, \"change\": 0.2},"
                "{\"path\": \"b\", \"trigger_us\": 8, \"generated_us\": 6, \"change\": -0.25}"
                "]}}");
    assert_non_null(strstr(page, "<span class=\"pill warn\">+20&nbsp;%</span>"));
    assert_non_null(strstr(page, "<span class=\"pill pass\">-25&nbsp;%</span>"));
    assert_non_null(strstr(page, "width:100.0%"));
    assert_non_null(strstr(page, "width:50.0%"));
    free(page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_report_is_a_page),
        cmocka_unit_test(nothing_in_a_report_becomes_markup),
        cmocka_unit_test(each_hold_is_a_band_and_each_slot_a_point),
        cmocka_unit_test(keys_stand_in_their_own_order),
        cmocka_unit_test(a_cost_has_its_sign),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
