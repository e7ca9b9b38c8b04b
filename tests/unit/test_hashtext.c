/* hashtext() against values that PostgreSQL 11 to 18 agree on. */
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hashes_are_the_servers),
        cmocka_unit_test(long_texts_hash_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
