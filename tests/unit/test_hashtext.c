/*
 * hashtext() against values that PostgreSQL 11 to 18 agree on, and what counts as the expression
 * over it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "rules/hashtext.h"

static void hashes_are_the_servers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int32_t hash;
    } golden[] = {
        {"", -1477818771},
        {"a", 1075015857},
        {"test-collection", 304294747},
        {"test-coll", 1221927796},
        {"coll-0", -264464524},
        {"coll-1", 1003639910},
        {"coll-99", -1504215451},
        {"00000000-0000-0000-0000-000000000000", 479295992},
        {"550e8400-e29b-41d4-a716-446655440000", 428265705},
        {"550E8400-E29B-41D4-A716-446655440000", 215293788},
        {"caf\xc3\xa9", 103771354},
        {"cafe\xcc\x81", -758298869},
        {"日本語", 554517316},
        {"😀", 1734229978},
        {"Ünïcödé", 1924335333},
        {" a", 353978202},
        {"a ", -665979108},
        {"tab\tx", 218115908},
        {"0", -1970733076},
        {"12", -633628209},
        {"abcdefghijk", -1483803693},
        {"abcdefghijkl", -1586087212},
        {"abcdefghijklm", 405849808},
        {"ß", -1541111980},
        {"caf\xe9", -985813755}, /* in a LATIN1 database */
    };
    for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++) {
        assert_int_equal(hashtext(golden[i].text, strlen(golden[i].text)), golden[i].hash);
    }
}

static void long_texts_hash_too(void **state)
{
    (void)state;
    char text[2000];
    memset(text, 'x', 255);
    assert_int_equal(hashtext(text, 255), 1893536167);
    for (size_t i = 0; i < sizeof text; i += 2) {
        memcpy(text + i, "\xc3\xa9", 2);
    }
    assert_int_equal(hashtext(text, sizeof text), -163781976);
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
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct hashtext_expression expression;
        assert_true(hashtext_expression_read(texts[i], &expression));
        assert_string_equal(expression.column, "collection_id");
        assert_int_equal(expression.modulus, 100);
        assert_int_equal(hashtext_expression_value(&expression, "a", 1), 57);
        assert_int_equal(hashtext_expression_value(&expression, "coll-0", 6), -24);
    }
}

static void other_expressions_are_not(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "mod(hashtext(collection_id::text), 0)",
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
        "mod(abs(hashtext(collection_id)), 100)",
        "abs(mod(hashtext(collection_id), 100))",
        "my.mod(hashtext(collection_id), 100)",
        "mod(hashtext(VARIADIC collection_id), 100)",
        "mod(hashtext(collection_id), 100) FILTER (WHERE true)",
        "mod(hashtext(collection_id), 100), 1",
        "mod(hashtext(collection_id), 100) FROM chunks",
        "mod(hashtext(collection_id), 100); DROP TABLE chunks",
        "mod(hashtext(collection_id), 100) AS x",
        "mod(hashtext(collection_id, 100)",
        "mod(hashtext(collection_id COLLATE \"C\"), 100)",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct hashtext_expression expression;
        assert_false(hashtext_expression_read(texts[i], &expression));
    }
}

static void a_negative_modulus_keeps_the_sign_of_the_hash(void **state)
{
    (void)state;
    struct hashtext_expression expression;
    assert_true(hashtext_expression_read("mod(hashtext(c), -100)", &expression));
    assert_int_equal(hashtext_expression_value(&expression, "a", 1), 57);
    assert_true(hashtext_expression_read("mod(hashtext(c), -1)", &expression));
    assert_int_equal(hashtext_expression_value(&expression, "a", 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hashes_are_the_servers),
        cmocka_unit_test(long_texts_hash_too),
        cmocka_unit_test(the_expression_is_recognised),
        cmocka_unit_test(other_expressions_are_not),
        cmocka_unit_test(a_negative_modulus_keeps_the_sign_of_the_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
