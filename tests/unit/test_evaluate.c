/*
 * What counts as the reference expression, and its values; tests/rules/test_evaluate.py compares
 * them with a real server's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "rules/evaluate.h"

static const struct evaluation_column text_column = {.type_oid = 25, .typmod = -1};

static enum evaluated evaluate(const char *expression, const char *value, int32_t *result)
{
    struct evaluation evaluation;
    assert_true(evaluation_read(expression, &evaluation));
    assert_string_equal(evaluation.column, "collection_id");
    return evaluation_value(
        &evaluation, &text_column,
        &(struct evaluation_input){.bytes = value, .len = strlen(value), .is_in_encoding = true},
        result);
}

static void the_expression_is_recognised(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "mod(hashtext(collection_id::text), 100)",
        "mod(hashtext((collection_id)::text), 100)", /* as the catalog shows it */
        "mod(hashtext(Collection_ID), 100)",
        "MOD( hashtext( \"collection_id\" :: varchar ) , 100 ) -- a comment",
        "((pg_catalog.mod(pg_catalog.hashtext(CAST(collection_id AS pg_catalog.text)), 100)))",
        "mod(hashtext(collection_id::character varying), 100)",
        "hashtext(collection_id::text) % 100",
        "(hashtext((collection_id)::text) % 100)",
        "hashtext(collection_id) OPERATOR(pg_catalog.%) 100::int",
        "mod(hashtext(collection_id)::integer, 100)::int4",
        "(hashtext(collection_id)::bigint % 100)::int",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        int32_t value;
        assert_int_equal(evaluate(texts[i], "a", &value), EVALUATED_VALUE);
        assert_int_equal(value, 57);
        assert_int_equal(evaluate(texts[i], "coll-0", &value), EVALUATED_VALUE);
        assert_int_equal(value, -24);
    }
}

static void its_variants_keep_their_signs(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int32_t of_coll_0; /* whose hash is -264464524 */
    } variants[] = {
        {"mod(abs(hashtext(collection_id)), 100)", 24},
        {"abs(hashtext(collection_id::text)) % 100", 24},
        {"pg_catalog.abs(mod(hashtext(collection_id), 100))", 24},
        {"mod(mod(hashtext(collection_id), 100) + 100, 100)", 76},
        {"(hashtext(collection_id) % 100 + 100) % 100", 76},
        {"mod(hashtext(collection_id), -100)", -24},
        {"mod(hashtext(collection_id), -1)", 0},
        {"hashtext(collection_id)", -264464524},
    };
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        int32_t value;
        assert_int_equal(evaluate(variants[i].text, "coll-0", &value), EVALUATED_VALUE);
        assert_int_equal(value, variants[i].of_coll_0);
    }
}

static void other_expressions_are_not(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "1",
        "collection_id",
        "mod(hashtext(collection_id::text), 0)",
        "hashtext(collection_id::text) % 0",
        "mod(hashtext(collection_id::varchar(5)), 100)",
        "mod(hashtext(collection_id::bpchar), 100)",
        "mod(hashtext(collection_id::text || 'x'), 100)",
        "mod(hashtext(c.collection_id), 100)",
        "mod(hashtext('a'), 100)",
        "mod(hashtext(collection_id, 1), 100)",
        "mod(hashtext(collection_id), n)",
        "mod(hashtext(collection_id), 100.0)",
        "mod(hashtext(collection_id), 99999999999)",
        "mod(hashtext(collection_id), NULL)",
        "my.mod(hashtext(collection_id), 100)",
        "hashtext(collection_id) OPERATOR(my.%) 100",
        "hashtext(collection_id) - 100",
        "hashtext(collection_id) % ANY (ARRAY[100])",
        "100 % hashtext(collection_id)",
        "- hashtext(collection_id)",
        "mod(hashtext(VARIADIC collection_id), 100)",
        "mod(hashtext(collection_id), 100) FILTER (WHERE true)",
        "mod(hashtext(collection_id), 100), 1",
        "mod(hashtext(collection_id), 100) FROM chunks",
        "mod(hashtext(collection_id), 100); DROP TABLE chunks",
        "mod(hashtext(collection_id), 100) AS x",
        "mod(hashtext(collection_id, 100)",
        "mod(hashtext(collection_id COLLATE \"C\"), 100)",
        "mod(hashtext(collection_id), 100)::smallint",
        "abs(abs(abs(abs(abs(abs(abs(abs(abs(hashtext(collection_id))))))))))",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct evaluation evaluation;
        assert_false(evaluation_read(texts[i], &evaluation));
    }
}

static void what_the_server_refuses_is_not_known(void **state)
{
    (void)state;
    int32_t value = 0;
    /* -264464524 - 1883019124 is the least int4, of which there is no absolute value. */
    assert_int_equal(
        evaluate("mod(abs(hashtext(collection_id) + -1883019124), 100)", "coll-0", &value),
        EVALUATED_UNKNOWN);
    assert_int_equal(evaluate("mod(abs((hashtext(collection_id) + -1883019124)::bigint), 100)",
                              "coll-0", &value),
                     EVALUATED_VALUE);
    assert_int_equal(value, 48);
    assert_int_equal(evaluate("hashtext(collection_id) + -1883019125", "coll-0", &value),
                     EVALUATED_UNKNOWN);
    assert_int_equal(evaluate("hashtext(collection_id)::bigint + -1883019125", "coll-0", &value),
                     EVALUATED_UNKNOWN);
}

static enum evaluated of_column(const struct evaluation_column *column,
                                const struct evaluation_input *input)
{
    struct evaluation evaluation;
    int32_t value;
    assert_true(evaluation_read("mod(hashtext(c), 100)", &evaluation));
    return evaluation_value(&evaluation, column, input, &value);
}

static void what_depends_on_the_server_is_not_known(void **state)
{
    (void)state;
    const struct evaluation_column sorted_by_icu = {.type_oid = 25, .is_nondeterministic = true};
    const struct evaluation_column jsonb_column = {.type_oid = 3802};
    const struct evaluation_column integer_column = {.type_oid = 23}; /* without a cast to text */
    const struct evaluation_input ascii = {.bytes = "12", .len = 2};
    const struct evaluation_input accent = {.bytes = "\xe9", .len = 1};
    const struct evaluation_input null = {.is_null = true};
    assert_int_equal(of_column(&text_column, &ascii), EVALUATED_VALUE);
    assert_int_equal(of_column(&text_column, &accent), EVALUATED_UNKNOWN);
    assert_int_equal(of_column(&text_column, &null), EVALUATED_NULL);
    assert_int_equal(of_column(&sorted_by_icu, &ascii), EVALUATED_UNKNOWN);
    assert_int_equal(of_column(&jsonb_column, &ascii), EVALUATED_UNKNOWN);
    assert_int_equal(of_column(&integer_column, &ascii), EVALUATED_UNKNOWN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_expression_is_recognised),
        cmocka_unit_test(its_variants_keep_their_signs),
        cmocka_unit_test(other_expressions_are_not),
        cmocka_unit_test(what_the_server_refuses_is_not_known),
        cmocka_unit_test(what_depends_on_the_server_is_not_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
