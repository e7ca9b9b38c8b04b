/* The reading of trigger functions: what is one assignment, what may do more, what is unrelated. */
#include "proxy/cutover/body.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void expect(const char *source, const char *column, enum body_kind kind,
                   const char *expression)
{
    struct body body;
    assert_true(body_read(source, column, &body));
    assert_int_equal(body.kind, kind);
    if (expression == NULL) {
        assert_null(body.expression);
    } else {
        assert_non_null(body.expression);
        assert_string_equal(body.expression, expression);
    }
    free(body.expression);
}

static void one_assignment_is_recognised_however_it_is_spelled(void **state)
{
    (void)state;
    expect("BEGIN NEW.k := f(NEW.a); RETURN NEW; END", "k", BODY_ASSIGNMENT, "f(NEW.a)");
    expect("\nbegin\n  new . \"k\" = 1 +\n 2 ; return new ; end ;\n", "k", BODY_ASSIGNMENT,
           "1 + 2");
    expect("BEGIN /* a /* b */ ; */ NEW.K := 'it''s; -- '; -- end\nRETURN NEW; END;", "k",
           BODY_ASSIGNMENT, "'it''s; -- '");
    expect("BEGIN SELECT a || b INTO NEW.k; RETURN NEW; END", "k", BODY_ASSIGNMENT, "a || b");
    expect("BEGIN NEW.\"K \"\"x\" := $$;$$ || $q$;$$;$q$; RETURN NEW; END", "K \"x",
           BODY_ASSIGNMENT, "$$;$$ || $q$;$$;$q$");
    expect("BEGIN NEW.k := a/*x*/b; RETURN NEW; END", "k", BODY_ASSIGNMENT, "a b");
    expect("BEGIN NEW.k := E'\\';'; RETURN NEW; END", "k", BODY_ASSIGNMENT, "E'\\';'");
}

static void names_are_folded_as_the_server_folds_them(void **state)
{
    (void)state;
    expect("BEGIN NEW.Key := 1; RETURN NEW; END", "key", BODY_ASSIGNMENT, "1");
    expect("BEGIN NEW.\"Key\" := 1; RETURN NEW; END", "key", BODY_UNRELATED, NULL);
    expect("BEGIN NEW.key := 1; RETURN NEW; END", "Key", BODY_UNRELATED, NULL);
}

static void what_does_more_is_no_assignment(void **state)
{
    (void)state;
    expect("BEGIN NEW.k := 1; NEW.j := 2; RETURN NEW; END", "k", BODY_PURE, NULL);
    expect("DECLARE h int; BEGIN h := 1; NEW.k := h; RETURN NEW; END", "k", BODY_PURE, NULL);
    expect("BEGIN IF NEW.k IS NULL THEN NEW.k := 1; END IF; RETURN NEW; END", "k", BODY_PURE, NULL);
    expect("BEGIN NEW.k := (SELECT 1); RETURN NEW; END", "k", BODY_PURE, NULL);
    expect("BEGIN NEW.k := 1; RETURN NULL; END", "k", BODY_PURE, NULL);
    expect("BEGIN INSERT INTO t VALUES (1); NEW.k := 1; RETURN NEW; END", "k", BODY_OTHER, NULL);
    expect("BEGIN NEW.k := (SELECT max(x) FROM t); RETURN NEW; END", "k", BODY_OTHER, NULL);
    expect("BEGIN EXECUTE 'NEW.k'; RETURN NEW; END", "k", BODY_OTHER, NULL);
    expect("BEGIN NEW.k := nextval('s'); NEW.k := 1; RETURN NEW; END", "k", BODY_OTHER, NULL);
}

static void unrelated_functions_are_left_alone(void **state)
{
    (void)state;
    expect("BEGIN NEW.j := now(); RETURN NEW; END", "k", BODY_UNRELATED, NULL);
    expect("BEGIN SELECT 1 INTO NEW.j; RETURN NEW; END", "k", BODY_UNRELATED, NULL);
    expect("BEGIN -- sets k\nRETURN NEW; END", "k", BODY_UNRELATED, NULL);
    expect("BEGIN RETURN NULL; END", "k", BODY_UNRELATED, NULL);
}

static void what_replaces_the_row_may_concern_any_column(void **state)
{
    (void)state;
    expect("BEGIN NEW := f(NEW); RETURN NEW; END", "k", BODY_PURE, NULL);
    expect("BEGIN SELECT f(NEW.*) INTO NEW; RETURN NEW; END", "k", BODY_PURE, NULL);
    expect("BEGIN RETURN f(NEW); END", "k", BODY_PURE, NULL);
}

static void what_does_not_end_is_not_trusted(void **state)
{
    (void)state;
    static const char *const sources[] = {
        "",     "BEGIN",  "'",   "\"", "$a$", "/* k", "BEGIN NEW.k := '", "BEGIN NEW.k",
        "NEW.", "RETURN", "E'\\"};
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        struct body body;
        assert_true(body_read(sources[i], "k", &body));
        assert_int_not_equal(body.kind, BODY_ASSIGNMENT);
        free(body.expression);
    }
    expect("/* k", "k", BODY_OTHER, NULL);
    char *many = malloc(20001);
    assert_non_null(many);
    memset(many, ';', 20000);
    many[20000] = '\0';
    expect(many, "k", BODY_OTHER, NULL);
    free(many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_assignment_is_recognised_however_it_is_spelled),
        cmocka_unit_test(names_are_folded_as_the_server_folds_them),
        cmocka_unit_test(what_does_more_is_no_assignment),
        cmocka_unit_test(unrelated_functions_are_left_alone),
        cmocka_unit_test(what_replaces_the_row_may_concern_any_column),
        cmocka_unit_test(what_does_not_end_is_not_trusted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
