/*
 * Shapes: one verdict for all texts that differ in plain literals, and never for two that differ in
 * anything else. What a judge that has seen a text of the same shape says is compared with what one
 * says that keeps nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rules/rules.h"
#include "rules/shape.h"

static const struct rule_column columns[] = {{"id", 20, false},
                                             {"collection_id", 1043, false},
                                             {"partition_key", 23, false},
                                             {"content", 25, false}};
static const struct rule_relation dependents[] = {{.schema = "public", .name = "chunks_view"}};
static const struct rule_source sources[] = {{"id", "bigint", false, {0}},
                                             {"content", "text", true, {0}}};

static struct rule rule_in(const char *table, const char *column, enum rule_mode mode)
{
    return (struct rule){
        .name = table,
        .schema = "public",
        .table = table,
        .column = column,
        .mode = mode,
        .unqualified_guarded = true,
        .columns = columns,
        .column_count = sizeof columns / sizeof columns[0],
        .dependents = dependents,
        .dependent_count = strcmp(table, "chunks") == 0,
        .expression = "mod(id, 100) + length('x' || id)",
        .sources = sources,
        .source_count = sizeof sources / sizeof sources[0],
    };
}

/* The text's shape, with a letter for each literal; NULL when it has none. */
static const char *shape_of(const char *text, bool conforming)
{
    static struct shape shape;
    static char readable[SHAPE_KEY_MAX + 1];
    const struct judge_input input = {
        .text = text, .len = strlen(text), .standard_conforming_strings = conforming};
    if (!shape_read(&shape, &input)) {
        return NULL;
    }
    for (size_t i = 0; i < shape.key_len; i++) {
        readable[i] = shape.key[i] == '\0' ? '\\' : shape.key[i];
    }
    readable[shape.key_len] = '\0';
    return readable;
}

static void plain_literals_are_taken_out_of_a_shape(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"SELECT 1, -2, 3.5, 'it''s', ''", "SELECT \\i, -\\i, \\f, \\s, \\s"},
        {"SELECT 2147483647, 2147483648, 00000000012", "SELECT \\i, \\f, \\i"},
        {"SELECT 99999999999999999999999999999999", "SELECT \\f"},
        {"SELECT $1, a1, \"b'1\", NULL, t2.c3 ; ", "SELECT $1, a1, \"b'1\", NULL, t2.c3 ; "},
        {"select date '2020-01-01', '1'::int, x[1:2]", "select date \\s, \\s::int, x[\\i:\\i]"},
        {"  Insert INTO \"c\"\"1\" VALUES(1,'a')", "  Insert INTO \"c\"\"1\" VALUES(\\i,\\s)"},
        {"SELECT 1+1, 1-1, 2*-3, 4/5, 6&7", "SELECT \\i+\\i, \\i-\\i, \\i*-\\i, \\i/\\i, \\i&\\i"},
        {"SELECT '--', '/*', '$$', 'E''', ';'", "SELECT \\s, \\s, \\s, \\s, \\s"},
        {"SELECT '\\'", "SELECT \\s"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *shape = shape_of(cases[i][0], true);
        assert_non_null(shape);
        assert_string_equal(shape, cases[i][1]);
    }
}

static void what_is_not_plain_has_no_shape(void **state)
{
    (void)state;
    static const char *const odd[] = {
        "SELECT E'a'",
        "SELECT e'a'",
        "SELECT U&'a'",
        "SELECT u& 'a', U&\"a\"",
        "SELECT b'1'",
        "SELECT X'1f'",
        "SELECT n'a'",
        "SELECT date'2020-01-01'",
        "SELECT $$a$$",
        "SELECT $a$b$a$",
        "SELECT 1 -- 'a'",
        "SELECT 1 /* 'a' */",
        "SELECT /* ' */ 1 /* ' */",
        "SELECT 'a'\n'b'",
        "SELECT 'a' 'b'",
        "SELECT 1e5",
        "SELECT 1.",
        "SELECT .5",
        "SELECT a.5",
        "SELECT 1..2",
        "SELECT 1.5.2",
        "SELECT 1.5e3",
        "SELECT 0x1f",
        "SELECT 1_000",
        "SELECT 12abc",
        "SELECT 1$1",
        "SELECT 'a",
        "SELECT \"a",
        "SELECT 1; SELECT 2",
        "SELECT 1;;",
        "SELECT $a",
        "SELECT 1 $",
        "SELECT \x01, 1",
        "SELECT 1\v",
        "SELECT CAST(1 AS float(24))",
        "SELECT 1::FLOAT",
        "SELECT a UESCAPE '!'",
        "DO 'x'",
        "COPY chunks FROM '/x'",
        "EXPLAIN SELECT 1",
        "VALUES (1)",
        "PREPARE a AS SELECT 1",
        "CREATE TABLE a (b int DEFAULT 1)",
        "(SELECT 1)",
        "",
        " ",
        "1",
        "'a'",
        "SELECT1",
        "-- SELECT 1",
    };
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        assert_null(shape_of(odd[i], true));
    }
    assert_non_null(shape_of("SELECT 'a'", false));
    assert_null(shape_of("SELECT 'a\\'", false));
    assert_null(shape_of("SELECT 'a\\', partition_key, '", false));
}

struct judges {
    struct rule_set *set;
    struct judge *keeping, *forgetful;
};

static void set_up(struct judges *judges, enum rule_mode mode)
{
    const struct rule rules[] = {rule_in("chunks", "partition_key", mode),
                                 rule_in("notes", "content", RULE_MODE_OBSERVE)};
    judges->set = rule_set_new(rules, 2, "app");
    judges->keeping = judge_new(1 << 20);
    judges->forgetful = judge_new(0);
    assert_true(judges->set != NULL && judges->keeping != NULL && judges->forgetful != NULL);
}

static void tear_down(struct judges *judges)
{
    judge_free(judges->keeping);
    judge_free(judges->forgetful);
    rule_set_free(judges->set);
}

static struct judge_input input_of(const char *text)
{
    return (struct judge_input){
        .text = text, .len = strlen(text), .standard_conforming_strings = true};
}

static void assert_same_string(const char *text, const char *a, const char *b)
{
    if (a == NULL || b == NULL ? a != b : strcmp(a, b) != 0) {
        fail_msg("%s\nis judged \"%s\" and \"%s\"", text, a == NULL ? "-" : a, b == NULL ? "-" : b);
    }
}

static void assert_kept_alike(const struct verdict *kept, const struct verdict *fresh)
{
    assert_int_equal(kept->kept_count, fresh->kept_count);
    assert_int_equal(kept->is_kept_cut, fresh->is_kept_cut);
    if (fresh->kept_count > 0) {
        assert_memory_equal(kept->kept, fresh->kept, fresh->kept_count * sizeof *fresh->kept);
    }
}

/* Both judges say the same of the text. */
static void assert_judged_alike(const struct judges *judges, const struct judge_input *input)
{
    const struct verdict *kept = judge_text(judges->keeping, judges->set, input);
    const struct verdict *fresh = judge_text(judges->forgetful, judges->set, input);
    assert_true(kept != NULL && fresh != NULL);
    if (kept->action != fresh->action || kept->writes != fresh->writes) {
        fail_msg("%s\nis judged in two ways", input->text);
    }
    assert_same_string(input->text, kept->text, fresh->text);
    assert_same_string(input->text, kept->masked_text, fresh->masked_text);
    assert_same_string(input->text, kept->message, fresh->message);
    assert_same_string(input->text, kept->detail, fresh->detail);
    assert_true(kept->text == NULL || strlen(kept->text) == kept->text_len);
    assert_true(kept->fingerprint == fresh->fingerprint && kept->position == fresh->position);
    assert_true(kept->prepares == fresh->prepares && kept->schema_change == fresh->schema_change);
    assert_true(kept->plain_from == fresh->plain_from && kept->plain_to == fresh->plain_to);
    assert_true(kept->supplied_count == fresh->supplied_count);
    for (size_t i = 0; i < kept->supplied_count; i++) {
        assert_true(kept->supplied[i].rule == fresh->supplied[i].rule &&
                    kept->supplied[i].rows == fresh->supplied[i].rows &&
                    kept->supplied[i].params == fresh->supplied[i].params);
    }
    assert_kept_alike(kept, fresh);
    assert_true(kept->param_type_count == fresh->param_type_count);
    assert_true(kept->param_type_count == 0 ||
                memcmp(kept->param_types, fresh->param_types,
                       kept->param_type_count * sizeof *kept->param_types) == 0);
}

static uint64_t hits_of(const struct judges *judges)
{
    struct judge_counters counters;
    judge_count(judges->keeping, &counters);
    return counters.hits;
}

static void one_verdict_serves_all_literals(void **state)
{
    (void)state;
    struct judges judges;
    set_up(&judges, RULE_MODE_STRIP);
    static const char *const texts[] = {
        "INSERT INTO chunks (id, partition_key, content) VALUES (1, 5, 'a')",
        "INSERT INTO chunks (id, partition_key, content) VALUES (234567, 0, 'INSERT INTO chunks')",
        "INSERT INTO chunks (id, partition_key, content) VALUES (7, 99, '')",
        "INSERT INTO chunks (id, partition_key, content) VALUES (0, 1, '), (1, 2, ''x'')')",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const struct judge_input input = input_of(texts[i]);
        assert_judged_alike(&judges, &input);
        assert_int_equal(hits_of(&judges), i);
    }
    tear_down(&judges);
}

/* In its own place and in the key's. */
static void a_literal_that_is_written_twice_is_filled_in_twice(void **state)
{
    (void)state;
    struct judges judges;
    set_up(&judges, RULE_MODE_COMPUTE);
    static const char *const texts[] = {
        "INSERT INTO chunks (id, content, partition_key) VALUES (1, 'a', 5), (22, 'b', 6)",
        "INSERT INTO chunks (id, content, partition_key) VALUES (333, '', 7777), (0, 'ccc', 6)",
        "INSERT INTO chunks (id, content, partition_key) VALUES (2147483647, 'it''s', 0), (1, 'a', "
        "1)",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const struct judge_input input = input_of(texts[i]);
        assert_judged_alike(&judges, &input);
        assert_int_equal(hits_of(&judges), i);
    }
    const struct judge_input input = input_of(texts[1]);
    assert_string_equal(
        judge_text(judges.keeping, judges.set, &input)->text,
        "INSERT INTO chunks (id, content, partition_key) VALUES (333, '', mod(CAST(333 AS bigint), "
        "100) + length('x' || CAST(333 AS bigint))), (0, 'ccc', mod(CAST(0 AS bigint), 100) + "
        "length('x' || CAST(0 AS bigint)))");
    tear_down(&judges);
}

#define COMPUTED(key) "mod(CAST(" key " AS bigint), 100) + length('x' || CAST(" key " AS bigint))"

/* Whether a client's key is the expression already goes by its literals. */
static void a_key_that_was_right_once_is_looked_at_again(void **state)
{
    (void)state;
    struct judges judges;
    set_up(&judges, RULE_MODE_COMPUTE);
    static const char *const texts[] = {
        "INSERT INTO chunks (id, partition_key) VALUES (1, " COMPUTED("1") ")",
        "INSERT INTO chunks (id, partition_key) VALUES (2, " COMPUTED("1") ")",
        "INSERT INTO chunks (id, partition_key) VALUES (2, " COMPUTED("1") "), (1, " COMPUTED(
            "1") ")",
        "INSERT INTO chunks (id, partition_key) VALUES (2, " COMPUTED("2") "), (2, " COMPUTED(
            "1") ")",
        "INSERT INTO chunks (id, partition_key) VALUES (1, " COMPUTED("1") "), (1, " COMPUTED(
            "1") ")",
        "UPDATE chunks SET id = 1, partition_key = " COMPUTED("1"),
        "UPDATE chunks SET id = 2, partition_key = " COMPUTED("1"),
    };
    const size_t count = sizeof texts / sizeof texts[0];
    for (size_t i = 0; i < 2 * count; i++) {
        const size_t at = i < count ? i : 2 * count - 1 - i;
        const struct judge_input input = input_of(texts[at]);
        assert_judged_alike(&judges, &input);
        const bool is_right = at == 0 || at == 4 || at == 5;
        assert_int_equal(judge_text(judges.keeping, judges.set, &input)->action,
                         is_right ? VERDICT_PASS : VERDICT_EDIT);
    }
    tear_down(&judges);
}

/* What an attacker, or chance, would put beside a text that was kept. */
static const char *const look_alikes[] = {
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5)",
    "INSERT INTO chunks (id, partition_key) VALUES (2, 6)",
    "INSERT INTO chunks (id, partition_key) VALUES (2, 3000000000)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, -5)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, - 5)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, +5)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5.5)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5e5)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 0x5)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, '5')",
    "INSERT INTO chunks (id, partition_key) VALUES (1, '5'::int)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, int '5')",
    "INSERT INTO chunks (id, partition_key) VALUES (1, int'5')",
    "INSERT INTO chunks (id, partition_key) VALUES (1, CAST(5 AS float(10)))",
    "INSERT INTO chunks (id, partition_key) VALUES (1, CAST(5 AS float(50)))",
    "INSERT INTO chunks (id, partition_key) VALUES (1, CAST(5 AS numeric(5)))",
    "INSERT INTO chunks (id, partition_key) VALUES (1, CAST(5 AS numeric(9)))",
    "INSERT INTO chunks (id, partition_key) VALUES ($1, CAST($2 AS float(10)))",
    "INSERT INTO chunks (id, partition_key) VALUES ($1, CAST($2 AS float(50)))",
    "INSERT INTO chunks (id, partition_key) VALUES ($1, CAST($2 AS float(99)))",
    "INSERT INTO chunks (id, partition_key) VALUES (1, E'5')",
    "INSERT INTO chunks (id, partition_key) VALUES (1, E'\\065')",
    "INSERT INTO chunks (id, partition_key) VALUES (1, U&'5')",
    "INSERT INTO chunks (id, partition_key) VALUES (1, U&'!0035' UESCAPE '!')",
    "INSERT INTO chunks (id, U&\"partition!005fkey\" UESCAPE '!') VALUES (1, 5)",
    "INSERT INTO chunks (id, U&\"partition!005fkex\" UESCAPE '!') VALUES (1, 5)",
    "INSERT INTO chunks (id, U&\"partition!005fkey\" UESCAPE '?') VALUES (1, 5)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, B'101')",
    "INSERT INTO chunks (id, partition_key) VALUES (1, X'5')",
    "INSERT INTO chunks (id, partition_key) VALUES (1, N'5')",
    "INSERT INTO chunks (id, partition_key) VALUES (1, $$5$$)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, $a$5$a$)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, NULL)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, DEFAULT)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, default)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, true)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, $1)",
    "INSERT INTO chunks (id, partition_key) VALUES ($1, $2)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, (5))",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5+5)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5-5)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5--5\n)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5/*5*/)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5/5)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 'a'\n'b')",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 'a' 'b')",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5), (2, 6)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5), (2, DEFAULT)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5), (2)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5, 6)",
    "INSERT INTO chunks (id, partition_key) VALUES (1)",
    "INSERT INTO chunks (id, \"partition_key\") VALUES (1, 5)",
    "INSERT INTO chunks (id, \"Partition_key\") VALUES (1, 5)",
    "INSERT INTO chunks (id, PARTITION_KEY) VALUES (1, 5)",
    "INSERT INTO chunks (id, partition_key1) VALUES (1, 5)",
    "INSERT INTO chunks (id, partition_key2) VALUES (1, 5)",
    "INSERT INTO chunks (id, content) VALUES (1, 'partition_key')",
    "INSERT INTO CHUNKS (id, partition_key) VALUES (1, 5)",
    "INSERT INTO \"CHUNKS\" (id, partition_key) VALUES (1, 5)",
    "INSERT INTO \"chunks\" (id, partition_key) VALUES (1, 5)",
    "INSERT INTO chunks1 (id, partition_key) VALUES (1, 5)",
    "INSERT INTO chunks2 (id, partition_key) VALUES (1, 5)",
    "INSERT INTO public.chunks (id, partition_key) VALUES (1, 5)",
    "INSERT INTO app.public.chunks (id, partition_key) VALUES (1, 5)",
    "INSERT INTO other.chunks (id, partition_key) VALUES (1, 5)",
    "INSERT INTO notes (id, content) VALUES (1, 'a')",
    "INSERT INTO notes (id, partition_key) VALUES (1, 'chunks')",
    "INSERT INTO chunks VALUES (1, 'a', 5)",
    "INSERT INTO chunks VALUES (1, 'a', 5, 'b')",
    "INSERT INTO chunks VALUES (1, 2)",
    "INSERT INTO chunks SELECT 1, 'a', 5",
    "INSERT INTO chunks (id, partition_key) SELECT 1, 5",
    "INSERT INTO chunks (id, partition_key) SELECT 1, 5 ORDER BY 1",
    "INSERT INTO chunks (id, partition_key) SELECT 1, 5 ORDER BY id",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5) ORDER BY 2",
    "INSERT INTO chunks (partition_key) VALUES (5)",
    "INSERT INTO chunks (partition_key) VALUES (5), (6)",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5) RETURNING *",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5) ON CONFLICT (id) DO UPDATE SET content = "
    "'a'",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5) ON CONFLICT (id) DO UPDATE SET "
    "partition_key = 5",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5) ON CONFLICT (id) DO UPDATE SET "
    "partition_key = 5, id = 5",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5);",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5); DROP TABLE chunks",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5); DO 'INSERT INTO chunks (partition_key)'",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5); DO 'SELECT 1'",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5",
    "INSERT INTO chunks (id, partition_key) VALUES (1, 5))",
    "INSERT INTO chunks (id, partition_key) VALUES (1 5)",
    "INSERT INTO chunks (id, content) VALUES (1, '\\', partition_key, ')",
    "UPDATE chunks SET partition_key = 5 WHERE id = 1",
    "UPDATE chunks SET partition_key = 5, content = 'a' WHERE id = 1",
    "UPDATE chunks SET partition_key = 5, content = 'a, partition_key = 1' WHERE id = 12",
    "UPDATE chunks SET content = 'a', partition_key = '5'WHERE id = 1",
    "UPDATE chunks SET content = 7, partition_key = 5 WHERE id = 1",
    "UPDATE chunks SET content = 7, partition_key = 5",
    "UPDATE chunks SET (partition_key, content) = (5, 'a') WHERE id = 1",
    "UPDATE chunks SET (partition_key, content) = ROW (5, 'a') WHERE id = 1",
    "UPDATE chunks SET partition_key = DEFAULT, content = 'a'",
    "UPDATE chunks SET content[1] = 5, partition_key = 5",
    "UPDATE chunks_view SET partition_key = 5",
    "INSERT INTO chunks VALUES (1, 'a')",
    "INSERT INTO chunks (id, partition_key) VALUES (2, mod(CAST(2 AS bigint), 100) + length('x' || "
    "CAST(2 AS bigint)))",
    "INSERT INTO chunks (id) SELECT 2, 5 FROM notes WHERE 5 = 5",
    "UPDATE chunks SET id = 2 WHERE id = 3",
    "DELETE FROM chunks WHERE partition_key = 5",
    "SELECT * FROM chunks WHERE id = 1",
    "SELECT *, 'notes' FROM chunks WHERE id = 1",
    "SELECT 1 FROM chunks, notes WHERE id = 1",
    "SELECT 'chunks' FROM FROM",
    "SELECT 'notes' FROM FROM",
    "SELECT 'chunks notes' FROM FROM",
    "WITH a AS (INSERT INTO chunks (id, partition_key) VALUES (1, 5) RETURNING id) SELECT * FROM a",
    "WITH a AS (SELECT 1) INSERT INTO chunks (id, partition_key) VALUES (1, 5)",
    "MERGE INTO chunks USING notes ON true WHEN NOT MATCHED THEN INSERT (id, partition_key) VALUES "
    "(1, 5)",
    "MERGE INTO chunks USING notes ON true WHEN MATCHED THEN UPDATE SET partition_key = 5, id = 6",
    "PREPARE a AS INSERT INTO chunks (id, partition_key) VALUES (1, 5)",
    "EXPLAIN INSERT INTO chunks (id, partition_key) VALUES (1, 5)",
    "DO 'INSERT INTO chunks (partition_key) VALUES (1)'",
    "DO 'SELECT 1'",
};

/* Whichever came first. */
static void no_text_gets_the_verdict_of_another_shape(void **state)
{
    (void)state;
    static const enum rule_mode modes[] = {RULE_MODE_STRIP, RULE_MODE_REJECT, RULE_MODE_OBSERVE,
                                           RULE_MODE_COMPUTE};
    const size_t count = sizeof look_alikes / sizeof look_alikes[0];
    for (size_t mode = 0; mode < sizeof modes / sizeof modes[0]; mode++) {
        struct judges judges;
        set_up(&judges, modes[mode]);
        for (size_t i = 0; i < 16 * count; i++) {
            struct judge_input input = input_of(look_alikes[i % count]);
            input.extended = i / count % 2 != 0;
            input.standard_conforming_strings = i / count % 4 < 2;
            input.encoding = i / count % 3;
            assert_judged_alike(&judges, &input);
        }
        for (size_t i = 3 * count; i > 0; i--) {
            const struct judge_input input = input_of(look_alikes[i % count]);
            assert_judged_alike(&judges, &input);
        }
        tear_down(&judges);
    }
}

/* Literals of every kind in every place: a text is a look-alike whose digits and strings are
 * changed at random. */
static void mutate(char *to, const char *from, unsigned *seed)
{
    static const char *const pieces[] = {
        "1",  "12",   "3.5",   "'x'",  "'it''s'", "E'x'", "-1",  "NULL",    "$1",         "1e3",
        "''", "'\\'", "$$x$$", "b'1'", "'''",     "007",  "' '", "DEFAULT", "2147483648", "'(, )'"};
    while (*from != '\0') {
        *seed = *seed * 1103515245 + 12345;
        const unsigned random = *seed >> 16;
        if ((*from >= '0' && *from <= '9') && random % 2 == 0) {
            to = stpcpy(to, pieces[random / 2 % (sizeof pieces / sizeof pieces[0])]);
            from++;
        } else if (random % 211 == 0) {
            from++;
        } else {
            *to++ = *from++;
        }
    }
    *to = '\0';
}

static void judge_changed_literals(enum rule_mode mode)
{
    struct judges judges;
    set_up(&judges, mode);
    unsigned seed = 20261125;
    char text[4096];
    for (size_t i = 0; i < 40000; i++) {
        mutate(text, look_alikes[i % (sizeof look_alikes / sizeof look_alikes[0])], &seed);
        struct judge_input input = input_of(text);
        input.extended = i % 5 == 0;
        assert_judged_alike(&judges, &input);
    }
    assert_true(hits_of(&judges) > 10000);
    tear_down(&judges);
}

static void changed_literals_are_judged_as_if_never_seen(void **state)
{
    (void)state;
    judge_changed_literals(RULE_MODE_STRIP);
    judge_changed_literals(RULE_MODE_COMPUTE);
}

static void bytes_that_are_no_text_are_refused_in_a_known_shape_too(void **state)
{
    (void)state;
    struct judges judges;
    set_up(&judges, RULE_MODE_STRIP);
    struct judge_input input =
        input_of("INSERT INTO chunks (content, partition_key) VALUES ('\xc3\xa9', 5)");
    assert_judged_alike(&judges, &input);
    input = input_of("INSERT INTO chunks (content, partition_key) VALUES ('\xc3', 5)");
    assert_judged_alike(&judges, &input);
    assert_int_equal(judge_text(judges.keeping, judges.set, &input)->action, VERDICT_REFUSE);
    input.encoding = TEXT_ENCODING_ASCII_SAFE;
    assert_judged_alike(&judges, &input);
    assert_int_equal(judge_text(judges.keeping, judges.set, &input)->action, VERDICT_EDIT);
    tear_down(&judges);
}

/* Forty rows, of which only the first is parsed. */
static void write_bulk(char *to, const char *head, const char *first, const char *other,
                       const char *tail)
{
    to = stpcpy(stpcpy(to, head), first);
    for (size_t row = 1; row < 40; row++) {
        to = stpcpy(stpcpy(to, ", "), other);
    }
    stpcpy(to, tail);
}

#define LONG "'sixty bytes in a row make forty of them long enough to be cut'"

/* What the rows that nobody parsed hold must not be taken from another text. */
static void bulk_loads_are_judged_by_all_their_rows(void **state)
{
    (void)state;
    static const char *const heads[] = {
        "INSERT INTO chunks (id, content) VALUES ",
        "INSERT INTO chunks (id, partition_key, content) VALUES ",
        "INSERT INTO chunks (id, \"Partition_key\", content) VALUES ",
        "INSERT INTO chunks VALUES ",
        "INSERT INTO chunks_view (id, content) VALUES ",
        "INSERT INTO notes (id, content) VALUES ",
        "INSERT INTO chunks AS values (id, content) VALUES ",
    };
    static const char *const rows[] = {
        "(1, " LONG ")",
        "(1, 2, " LONG ")",
        "(1, DEFAULT, " LONG ")",
        "(1, NULL, " LONG ")",
        "(1, -2, " LONG ")",
        "(DEFAULT, '\xc3', " LONG ")",
        "(1, '\xc3\xa9', " LONG ")",
        "(1, E'\\'', " LONG ")",
    };
    static const char *const tails[] = {
        "",
        " ON CONFLICT (id) DO UPDATE SET partition_key = 1",
        " RETURNING *",
        "; SELECT 'chunks'",
        "; DO 'INSERT INTO chunks VALUES (1)'",
        ", (1, (SELECT 2), 'x')",
    };
    static const enum rule_mode modes[] = {RULE_MODE_STRIP, RULE_MODE_REJECT, RULE_MODE_OBSERVE,
                                           RULE_MODE_COMPUTE};
    const size_t head_count = sizeof heads / sizeof heads[0],
                 row_count = sizeof rows / sizeof rows[0];
    char *text = malloc(100000);
    for (size_t mode = 0; mode < 2 * sizeof modes / sizeof modes[0]; mode++) {
        struct judges judges;
        set_up(&judges, modes[mode / 2]);
        for (size_t i = 0; i < head_count * row_count * row_count * 6; i++) {
            const size_t other = i / head_count % row_count;
            const size_t first = i / head_count / row_count % row_count;
            write_bulk(text, heads[i % head_count], rows[first], rows[other],
                       tails[i / head_count / row_count / row_count]);
            struct judge_input input = input_of(text);
            input.extended = mode % 2 != 0;
            assert_judged_alike(&judges, &input);
        }
        assert_true(hits_of(&judges) > 100 || modes[mode / 2] == RULE_MODE_COMPUTE);
        tear_down(&judges);
    }
    free(text);
}

/* A comment in front makes a text be parsed as a whole. */
static void bulk_loads_are_computed_as_row_by_row(void **state)
{
    (void)state;
    static const char *const heads[] = {
        "INSERT INTO chunks (id, partition_key, content) VALUES ",
        "INSERT INTO chunks (partition_key, id, content) VALUES ",
        "INSERT INTO chunks (content, id, partition_key) VALUES ",
        "INSERT INTO chunks (id, collection_id, content) VALUES ",
        "INSERT INTO chunks (content, collection_id, id) VALUES ",
        "INSERT INTO chunks (content, collection_id, \"Id\") VALUES ",
        "INSERT INTO chunks VALUES ",
        "INSERT INTO notes (content, partition_key, id) VALUES ",
    };
    static const char *const rows[] = {
        "(1, 2, " LONG ")",        "('1' , '2,', " LONG " )",  "( 1,DEFAULT ,'x' )",
        "(DEFAULT, 5, " LONG ")",  "( -1 ,NULL,\n" LONG "\n)", "(1::int , '2'::text, true)",
        "(E'\\'', 'it''s', NULL)", "(mod(1, 2), 2, " LONG ")", "('2'::bigint, 1, DEFAULT)",
    };
    static const char *const tails[] = {"", " RETURNING *",
                                        ", (7, DEFAULT, 'x'), (8, 9, LOWER('y'))"};
    const size_t head_count = sizeof heads / sizeof heads[0],
                 row_count = sizeof rows / sizeof rows[0];
    struct judge *judge = judge_new(0), *other = judge_new(0);
    struct judges judges;
    char text[100000] = "/**/";
    size_t edited = 0;
    set_up(&judges, RULE_MODE_COMPUTE);
    for (size_t i = 0; i < head_count * row_count * row_count * 3; i++) {
        write_bulk(text + 4, heads[i % head_count], rows[i / head_count / row_count % row_count],
                   rows[i / head_count % row_count], tails[i / head_count / row_count / row_count]);
        const struct judge_input whole = input_of(text), bulk = input_of(text + 4);
        const struct verdict *want = judge_text(other, judges.set, &whole);
        const struct verdict *have = judge_text(judge, judges.set, &bulk);
        assert_int_equal(have->action, want->action);
        assert_int_equal(have->supplied_count, want->supplied_count);
        assert_true(have->supplied_count == 0 || have->supplied[0].rows == want->supplied[0].rows);
        assert_same_string(text, have->message, want->message);
        assert_same_string(text, have->detail, want->detail);
        assert_same_string(text, have->text, want->text == NULL ? NULL : want->text + 4);
        edited += have->action == VERDICT_EDIT;
    }
    assert_true(edited > 500);
    judge_free(judge);
    judge_free(other);
    tear_down(&judges);
}

static void long_literals_and_many_rows_keep_their_own_ways(void **state)
{
    (void)state;
    struct judges judges;
    set_up(&judges, RULE_MODE_STRIP);
    char *text = malloc(200000);
    for (size_t size = 1; size < 70000; size = size * 3 / 2 + 1) {
        for (size_t rows = 1; rows <= 40; rows += 13) {
            char *to = stpcpy(text, "INSERT INTO chunks (content, partition_key) VALUES ");
            for (size_t row = 0; row < rows && to < text + 100000; row++) {
                to = stpcpy(to, row == 0 ? "('" : ", ('");
                memset(to, 'x', size / rows);
                to = stpcpy(to + size / rows, "', 5)");
            }
            const struct judge_input input = input_of(text);
            assert_judged_alike(&judges, &input);
            assert_judged_alike(&judges, &input);
        }
    }
    free(text);
    tear_down(&judges);
}

/* Words are read 16 bytes at a time, near the end of a text one by one: both must see any byte as
 * part of a word, or not. In a word it makes that the prefix of the string behind it. */
static void words_end_alike_everywhere(void **state)
{
    (void)state;
    for (unsigned byte = 1; byte < 256; byte++) {
        const bool is_part = byte >= 0x80 || byte == '_' || byte == '$' ||
                             (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') ||
                             (byte >= 'A' && byte <= 'Z');
        for (int letters = 1; letters < 40; letters++) {
            char text[160];
            snprintf(text, sizeof text, "select %.*s%c''", letters,
                     "nameswithmanylettersinthemareseldomfoundinsql", (char)byte);
            const bool has_shape = shape_of(text, true) != NULL;
            assert_false(is_part && has_shape);
            strcat(text, " from a_table_with_a_name_that_is_long_enough");
            assert_int_equal(has_shape, shape_of(text, true) != NULL);
        }
        char plain[] = "select a?1";
        plain[8] = (char)byte;
        if (is_part && byte < 0x80) {
            assert_string_equal(shape_of(plain, true), plain);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_literals_are_taken_out_of_a_shape),
        cmocka_unit_test(what_is_not_plain_has_no_shape),
        cmocka_unit_test(words_end_alike_everywhere),
        cmocka_unit_test(one_verdict_serves_all_literals),
        cmocka_unit_test(a_literal_that_is_written_twice_is_filled_in_twice),
        cmocka_unit_test(a_key_that_was_right_once_is_looked_at_again),
        cmocka_unit_test(no_text_gets_the_verdict_of_another_shape),
        cmocka_unit_test(changed_literals_are_judged_as_if_never_seen),
        cmocka_unit_test(bytes_that_are_no_text_are_refused_in_a_known_shape_too),
        cmocka_unit_test(bulk_loads_are_judged_by_all_their_rows),
        cmocka_unit_test(bulk_loads_are_computed_as_row_by_row),
        cmocka_unit_test(long_literals_and_many_rows_keep_their_own_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
