/*
 * COPY statements whose stream carries a guarded column: what becomes of the text, what the filter
 * is told, and what is refused. As the judge does it, the edited text must parse to the edited
 * tree.
 */
#include "rules/copy_statement.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static const struct rule_column columns[] = {{"id", 20, false},
                                             {"collection_id", 1043, false},
                                             {"partition_key", 23, false},
                                             {"content", 25, false},
                                             {"Order", 23, false}};

struct outcome {
    uint64_t carried;
    char obstacle[200];
    char text[300]; /* of the edited statement */
    struct copy_options options;
};

static struct rule make_rule(const char *column)
{
    return (struct rule){.name = column,
                         .schema = "public",
                         .table = "chunks",
                         .column = column,
                         .unqualified_guarded = true,
                         .columns = columns,
                         .column_count = sizeof columns / sizeof columns[0]};
}

static void edit(struct analysis *a, CopyStmt *stmt, struct outcome *out)
{
    copy_statement_strip(a, stmt, out->carried, &out->options);
    size_t len = 0, mark = 0;
    const char *text = analysis_apply_edits(a, &len, &mark);
    assert_false(a->is_refused);
    assert_non_null(text);
    snprintf(out->text, sizeof out->text, "%s", text);
    const char *error = NULL;
    size_t position = 0;
    const List *again = sql_parse(text, a->arena, &error, &position);
    assert_null(error);
    assert_true(revision_is_made(a, again));
}

static struct outcome judge(const struct rule *rules, size_t count, const char *text)
{
    struct outcome out = {0};
    jmp_buf out_of_memory;
    struct arena arena = {.out_of_memory = &out_of_memory};
    struct rule_set *set = rule_set_new(rules, count, "app");
    struct sql_scope scope;
    assert_int_equal(setjmp(out_of_memory), 0);
    sql_enter(&scope, true);
    struct analysis a = {
        .arena = &arena, .set = set, .text = text, .len = strlen(text), .is_single_use = true};
    const char *error = NULL;
    size_t position = 0;
    a.statements = sql_parse(text, &arena, &error, &position);
    assert_null(error);
    CopyStmt *stmt = (CopyStmt *)((RawStmt *)linitial(a.statements))->stmt;
    const uint64_t all = analysis_target(&a, stmt->relation).direct;
    out.carried = copy_statement_carries(&a, stmt, all);
    if (out.carried != 0) {
        const char *obstacle = copy_statement_read(&a, stmt, out.carried, &out.options);
        if (obstacle != NULL) {
            snprintf(out.obstacle, sizeof out.obstacle, "%s", obstacle);
        } else {
            edit(&a, stmt, &out);
        }
    }
    sql_leave(&scope);
    arena_free(&arena);
    rule_set_free(set);
    return out;
}

static struct outcome judge_one(const char *text)
{
    const struct rule rule = make_rule("partition_key");
    return judge(&rule, 1, text);
}

static void a_list_loses_the_column(void **state)
{
    (void)state;
    static const struct {
        const char *text, *edited;
        uint32_t width, index;
    } cases[] = {
        {"COPY chunks (id, partition_key, content) FROM STDIN",
         "COPY chunks (id, content) FROM STDIN", 3, 1},
        {"copy Public.Chunks(partition_key,id)from stdin", "copy Public.Chunks(id)from stdin", 2,
         0},
        {"COPY chunks (id, /* no */ \"partition_key\") FROM STDIN WITH CSV",
         "COPY chunks (id) FROM STDIN WITH CSV", 2, 1},
        {"COPY BINARY chunks (id, U&\"partition\\005fkey\", content) FROM STDIN -- x",
         "COPY BINARY chunks (id, content) FROM STDIN -- x", 3, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct outcome out = judge_one(cases[i].text);
        assert_int_equal(out.carried, 1);
        assert_string_equal(out.obstacle, "");
        assert_string_equal(out.text, cases[i].edited);
        assert_int_equal(out.options.width, cases[i].width);
        assert_int_equal(out.options.field_count, 1);
        assert_int_equal(out.options.fields[0].index, cases[i].index);
        assert_string_equal(out.options.fields[0].name, "partition_key");
        struct copy_filter filter;
        assert_true(copy_filter_init(&filter, &out.options, NULL, NULL));
    }
}

static void a_list_is_made_where_there_is_none(void **state)
{
    (void)state;
    static const char edited[] = "COPY chunks (id, collection_id, content, \"Order\") FROM STDIN";
    const struct outcome out = judge_one("COPY chunks FROM STDIN");
    assert_string_equal(out.text, edited);
    assert_int_equal(out.options.width, 5);
    assert_int_equal(out.options.fields[0].index, 2);
    assert_string_equal(
        judge_one("COPY app.public.chunks/*x*/FROM STDIN").text,
        "COPY app.public.chunks/*x*/(id, collection_id, content, \"Order\") FROM STDIN");
}

static void columns_of_several_rules_go_together(void **state)
{
    (void)state;
    const struct rule rules[] = {make_rule("partition_key"), make_rule("id")};
    struct outcome out = judge(rules, 2, "COPY chunks FROM STDIN");
    assert_int_equal(out.carried, 3);
    assert_string_equal(out.text, "COPY chunks (collection_id, content, \"Order\") FROM STDIN");
    assert_int_equal(out.options.field_count, 2);
    assert_int_equal(out.options.fields[0].index, 0);
    assert_string_equal(out.options.fields[0].name, "id");
    assert_int_equal(out.options.fields[1].index, 2);
    out = judge(rules, 2, "COPY chunks (content, partition_key, id) FROM STDIN");
    assert_string_equal(out.text, "COPY chunks (content) FROM STDIN");
}

static void not_every_copy_carries_the_column(void **state)
{
    (void)state;
    assert_int_equal(judge_one("COPY chunks (id, content) FROM STDIN").carried, 0);
    assert_int_equal(judge_one("COPY other FROM STDIN").carried, 0);
    struct rule rule = make_rule("partition_key");
    rule.shape = RULE_SHAPE_GENERATED;
    assert_int_equal(judge(&rule, 1, "COPY chunks FROM STDIN").carried, 0);
    assert_int_equal(judge(&rule, 1, "COPY chunks (id, partition_key) FROM STDIN").carried, 1);
    rule.reordered = true;
    assert_int_equal(judge(&rule, 1, "COPY chunks FROM STDIN").carried, 1);
}

static void options_are_read_as_the_server_reads_them(void **state)
{
    (void)state;
    struct copy_options o = judge_one("COPY chunks FROM STDIN").options;
    assert_int_equal(o.format, COPY_FORMAT_TEXT);
    assert_int_equal(o.delimiter, '\t');
    assert_int_equal(o.null_len, 2);
    assert_false(o.has_encoding);
    o = judge_one("COPY chunks FROM STDIN DELIMITERS '|' WITH NULL AS 'x'").options;
    assert_int_equal(o.delimiter, '|');
    assert_memory_equal(o.null, "x", o.null_len);
    o = judge_one("COPY chunks FROM STDIN CSV HEADER QUOTE '''' FORCE NOT NULL content").options;
    assert_int_equal(o.format, COPY_FORMAT_CSV);
    assert_int_equal(o.header, COPY_HEADER_IGNORED);
    assert_int_equal(o.delimiter, ',');
    assert_int_equal(o.quote, '\'');
    assert_int_equal(o.escape, '\'');
    assert_int_equal(o.null_len, 0);
    o = judge_one(
            "COPY chunks FROM STDIN (FORMAT 'csv', HEADER Match, ESCAPE '\\', ENCODING 'sjis',"
            " FREEZE, FORCE_NULL *, ON_ERROR ignore, LOG_VERBOSITY verbose, DEFAULT '\\D')")
            .options;
    assert_int_equal(o.header, COPY_HEADER_MATCHED);
    assert_int_equal(o.escape, '\\');
    assert_true(o.has_encoding);
    assert_int_equal(o.encoding, COPY_ENCODING_SJIS);
    assert_int_equal(judge_one("COPY chunks FROM STDIN (HEADER off)").options.header,
                     COPY_HEADER_NONE);
    assert_int_equal(judge_one("COPY chunks FROM STDIN (HEADER 1)").options.header,
                     COPY_HEADER_IGNORED);
    assert_int_equal(judge_one("COPY chunks FROM STDIN (FORMAT binary)").options.format,
                     COPY_FORMAT_BINARY);
}

static void what_cannot_be_followed_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *obstacle;
    } cases[] = {
        {"COPY chunks FROM '/tmp/x'", "the data is in a file of the server"},
        {"COPY chunks FROM PROGRAM 'x'", "the data is a program's output"},
        {"COPY chunks (partition_key) FROM STDIN", "it carries no other column"},
        {"COPY chunks (id, partition_key, id) FROM STDIN", "it names a column twice"},
        {"COPY chunks FROM STDIN (OIDS)", "its option oids is not understood"},
        {"COPY chunks FROM STDIN (DELIMITER '||')", "its option delimiter is not understood"},
        {"COPY chunks FROM STDIN (DELIMITER 'é')", "its option delimiter is not understood"},
        {"COPY chunks FROM STDIN (FORMAT xml)", "its option format is not understood"},
        {"COPY chunks FROM STDIN (HEADER 2)", "its option header is not understood"},
        {"COPY chunks FROM STDIN (FORMAT csv, FORCE_NULL (id, partition_key))",
         "its option force_null names the column"},
        {"COPY chunks FROM STDIN CSV FORCE NOT NULL partition_key",
         "its option force_not_null names the column"},
        {"COPY chunks FROM STDIN (DELIMITER 'A')", "its DELIMITER is a hexadecimal digit"},
        {"COPY chunks FROM STDIN (FORMAT csv, QUOTE '\\')",
         "its DELIMITER or QUOTE is a part of the end marker"},
        {"COPY chunks FROM STDIN (FORMAT csv, DELIMITER '.')",
         "its DELIMITER or QUOTE is a part of the end marker"},
        {"COPY chunks FROM STDIN (FORMAT csv, QUOTE E'\\n')",
         "its DELIMITER, QUOTE or ESCAPE is a line end"},
        {"COPY chunks FROM STDIN (FORMAT csv, NULL '\\.')",
         "its NULL or DEFAULT begins with the end marker"},
        {"COPY chunks FROM STDIN WHERE id > 5 AND (partition_key = 5 OR id = 1)",
         "its WHERE reads the column"},
        {"COPY chunks FROM STDIN WHERE chunks.partition_key IS NULL", "its WHERE reads the column"},
        {"COPY chunks FROM STDIN WHERE f(chunks.*)", "its WHERE reads the column"},
        {"COPY chunks FROM STDIN WHERE f(chunks)", "its WHERE reads the column"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_string_equal(judge_one(cases[i].text).obstacle, cases[i].obstacle);
    }
    assert_string_equal(
        judge_one("COPY chunks FROM STDIN WHERE id > 5").text,
        "COPY chunks (id, collection_id, content, \"Order\") FROM STDIN WHERE id > 5");
}

/* As COPY has it: an identity is in the stream, another generated column is not. */
static void a_list_that_is_made_leaves_out_what_the_stream_does(void **state)
{
    (void)state;
    static const struct rule_column with_others[] = {{"id", 20, COLUMN_FIXED},
                                                     {"length", 23, COLUMN_GENERATED},
                                                     {"partition_key", 23, COLUMN_GENERATED},
                                                     {"content", 25, COLUMN_GIVEN},
                                                     {"hash", 23, COLUMN_GENERATED}};
    struct rule rule = make_rule("partition_key");
    rule.columns = with_others;
    rule.column_count = 5;
    const struct outcome out = judge(&rule, 1, "COPY chunks FROM STDIN");
    assert_string_equal(out.obstacle, "");
    assert_string_equal(out.text, "COPY chunks (id, content) FROM STDIN");
    assert_int_equal(out.options.width, 3);
    assert_int_equal(out.options.fields[0].index, 1);
}

static void which_of_two_generated_columns_a_stream_carries_is_not_known(void **state)
{
    (void)state;
    struct rule rules[] = {make_rule("partition_key"), make_rule("Order")};
    rules[0].shape = rules[1].shape = RULE_SHAPE_GENERATED;
    rules[0].reordered = rules[1].reordered = true;
    assert_string_equal(judge(rules, 2, "COPY chunks FROM STDIN").obstacle,
                        "without a column list it is not known which of them it carries");
    assert_string_equal(
        judge(rules, 2, "COPY chunks (id, partition_key, \"Order\") FROM STDIN").obstacle, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_loses_the_column),
        cmocka_unit_test(a_list_is_made_where_there_is_none),
        cmocka_unit_test(columns_of_several_rules_go_together),
        cmocka_unit_test(not_every_copy_carries_the_column),
        cmocka_unit_test(options_are_read_as_the_server_reads_them),
        cmocka_unit_test(what_cannot_be_followed_is_refused),
        cmocka_unit_test(a_list_that_is_made_leaves_out_what_the_stream_does),
        cmocka_unit_test(which_of_two_generated_columns_a_stream_carries_is_not_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
