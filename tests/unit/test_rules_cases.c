/*
 * Runs the data files of tests/rules: one text per case, and what the judge must make of it. The
 * form of a case is told at the head of tests/rules/01-insert.case. Run by tests/run and ctest; a
 * case that fails is named with its file and line. An argument runs only the cases whose name
 * contains it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rules/rules.h"

enum { CASES_MAX = 2000, SUPPLIED_MAX = 8, TYPES_MAX = 16 };

struct type_list {
    uint32_t oids[TYPES_MAX];
    size_t count;
};

struct rule_case {
    char *name; /* with file and line */
    enum rule_mode mode;
    enum rule_shape shape;
    bool reordered, converted, unqualified_passes;
    enum rule_unparsed on_unparsed;
    bool extended, backslash_escapes;
    bool compares, rejects_mismatch, in_server_encoding;
    enum text_encoding encoding;
    struct type_list types;
    char *in, *out, *error, *detail, *hint, *masked, *expression;
    char *expect, *writes;
    bool prepares, schema_change;
    bool types_given;
    struct type_list out_types;
    char *supplied[SUPPLIED_MAX];
    size_t supplied_count;
};

static struct rule_case cases[CASES_MAX];
static size_t case_count;

static const struct rule_column chunk_columns[] = {
    {"id", 20, false},
    {"collection_id", 1043, false},
    {"partition_key", 23, false},
    {"document_id", 1043, false},
    {"chunk_index", 23, false},
    {"content", 25, false},
    {"metadata", 3802, false},
};
static const struct rule_column renamed_columns[] = {
    {"id", 20, false}, {"pk", 23, false}, {"Text", 25, false}, {"length", 23, true}};
static const struct rule_column part_columns[] = {
    {"collection_id", 1043, false}, {"partition_key", 23, false}, {"id", 20, false}};
static const struct rule_relation chunk_dependents[] = {
    {"public", "chunks_part_07", "partition_key", NULL, 0},
    {"public", "chunks_part_08", "partition_key", part_columns, 3},
    {"public", "chunks_renamed", "pk", renamed_columns, 4},
    {.schema = "public", .name = "chunks_view"},
    {.schema = "public", .name = "chunks_light", .column = ""},
};
static const struct rule_column note_columns[] = {
    {"bucket", 20, false}, {"Owner", 25, false}, {"order", 23, false}, {"system_user", 25, false}};

static const struct rule_source chunk_sources[] = {
    {"id", "bigint", true, {20, -1, false}},
    {"collection_id", "character varying(36)", false, {1043, 40, false}},
    {"partition_key", "integer", false, {23, -1, false}},
    {"document_id", "character varying", false, {1043, -1, false}},
    {"chunk_index", "integer", false, {23, -1, false}},
    {"content", "text", false, {25, -1, false}},
    {"metadata", "jsonb", true, {3802, -1, false}},
};
static const struct rule_source note_sources[] = {{"bucket", "bigint", false, {20, -1, false}},
                                                  {"Owner", "\"My App\".owner", false, {0}}};

static struct rule_set *make_set(const struct rule_case *c)
{
    const struct rule rules[] = {
        {
            .name = "chunks",
            .schema = "public",
            .table = "chunks",
            .column = "partition_key",
            .mode = c->mode,
            .on_unparsed = c->on_unparsed,
            .unqualified_guarded = !c->unqualified_passes,
            .shape = c->shape,
            .compares = c->compares || c->rejects_mismatch,
            .rejects_mismatch = c->rejects_mismatch,
            .columns = chunk_columns,
            .column_count = sizeof chunk_columns / sizeof chunk_columns[0],
            .reordered = c->reordered,
            .converted = c->converted,
            .dependents = chunk_dependents,
            .dependent_count = sizeof chunk_dependents / sizeof chunk_dependents[0],
            .expression =
                c->expression != NULL ? c->expression : "mod(hashtext(collection_id::text), 100)",
            .sources = chunk_sources,
            .source_count = sizeof chunk_sources / sizeof chunk_sources[0],
        },
        {
            .name = "notes",
            .schema = "My App",
            .table = "Notes",
            .column = "bucket",
            .mode = c->mode,
            .on_unparsed = c->on_unparsed,
            .unqualified_guarded = !c->unqualified_passes,
            .shape = c->shape,
            .columns = note_columns,
            .column_count = sizeof note_columns / sizeof note_columns[0],
            .reordered = c->reordered,
            .expression = "length(\"Owner\")",
            .sources = note_sources,
            .source_count = sizeof note_sources / sizeof note_sources[0],
        },
    };
    return rule_set_new(rules, 2, "app");
}

static void check_supplied(const struct rule_case *c, const struct verdict *verdict)
{
    assert_int_equal(verdict->supplied_count, c->supplied_count);
    for (size_t i = 0; i < c->supplied_count; i++) {
        const struct supplied *supplied = &verdict->supplied[i];
        char text[100], compared[40] = "";
        if (supplied->compared.matched + supplied->compared.mismatched > 0) {
            snprintf(compared, sizeof compared, " matched %u mismatched %u",
                     supplied->compared.matched, supplied->compared.mismatched);
        }
        snprintf(text, sizeof text, "%s %u %u%s", supplied->statement, supplied->rows,
                 supplied->params, compared);
        assert_string_equal(text, c->supplied[i]);
    }
    assert_int_equal(verdict->masked_text != NULL, c->supplied_count > 0);
    if (c->masked != NULL) {
        assert_string_equal(verdict->masked_text, c->masked);
    }
}

static void check_types(const struct rule_case *c, const struct verdict *verdict)
{
    const struct type_list *want = c->types_given ? &c->out_types : &c->types;
    assert_int_equal(verdict->param_type_count, want->count);
    for (size_t i = 0; i < want->count; i++) {
        assert_int_equal(verdict->param_types[i], want->oids[i]);
    }
}

static void check_refusal(const struct rule_case *c, const struct verdict *verdict)
{
    char text[600];
    snprintf(text, sizeof text, "%s %s", verdict->sqlstate, verdict->message);
    assert_string_equal(text, c->error);
    if (c->detail != NULL) {
        assert_non_null(strstr(verdict->detail, c->detail));
    }
    if (c->hint != NULL) {
        assert_string_equal(verdict->hint, c->hint);
    }
}

static void check(const struct rule_case *c, const struct verdict *verdict)
{
    static const char *const actions[] = {"pass", "edit", "refuse"};
    assert_non_null(verdict);
    if (verdict->action == VERDICT_REFUSE && strcmp(c->expect, "refuse") != 0) {
        print_message("%s %s: %s\n", verdict->sqlstate, verdict->message, verdict->detail);
    }
    assert_string_equal(actions[verdict->action], c->expect);
    if (verdict->action == VERDICT_EDIT) {
        assert_string_equal(verdict->text, c->out);
        assert_int_equal(verdict->text_len, strlen(c->out));
        check_types(c, verdict);
    }
    if (verdict->action == VERDICT_REFUSE) {
        check_refusal(c, verdict);
    }
    check_supplied(c, verdict);
    if (c->writes != NULL) {
        char written[16];
        snprintf(written, sizeof written, "%s%s", verdict->writes & 1 ? "chunks" : "",
                 verdict->writes & 2 ? "notes" : "");
        assert_string_equal(written, strcmp(c->writes, "none") == 0 ? "" : c->writes);
    }
    assert_int_equal(verdict->prepares, c->prepares);
    assert_int_equal(verdict->schema_change, c->schema_change);
}

/* Twice: the second verdict comes from the cache. An edited text stays as it is when it comes
 * back. */
static void run_case(void **state)
{
    const struct rule_case *c = *state;
    struct rule_set *set = make_set(c);
    struct judge *judge = judge_new(1 << 20);
    assert_non_null(set);
    assert_non_null(judge);
    struct judge_input input = {
        .text = c->in,
        .len = strlen(c->in),
        .param_types = c->types.oids,
        .param_type_count = c->types.count,
        .extended = c->extended,
        .standard_conforming_strings = !c->backslash_escapes,
        .encoding = c->encoding,
        .is_in_server_encoding = c->in_server_encoding,
    };
    for (int round = 0; round < 2; round++) {
        check(c, judge_text(judge, set, &input));
    }
    const struct verdict *verdict = judge_text(judge, set, &input);
    const bool is_trivial = verdict->action == VERDICT_PASS && verdict->supplied_count == 0 &&
                            verdict->writes == 0 && !verdict->schema_change;
    assert_true(is_trivial || rule_set_may_concern(set, c->in, input.len));
    if (verdict->action == VERDICT_EDIT) {
        char *edited = strdup(verdict->text);
        input.text = edited;
        input.len = strlen(edited);
        verdict = judge_text(judge, set, &input);
        /* A stream gets its column all the same. */
        assert_true(verdict->action == VERDICT_PASS ||
                    (verdict->copy_count > 0 && strcmp(verdict->text, edited) == 0));
        free(edited);
    }
    judge_free(judge);
    rule_set_free(set);
}

static void read_rule(struct rule_case *c, char *words)
{
    for (char *rest, *word = strtok_r(words, " ", &rest); word != NULL;
         word = strtok_r(NULL, " ", &rest)) {
        if (strcmp(word, "observe") == 0) {
            c->mode = RULE_MODE_OBSERVE;
        } else if (strcmp(word, "strip") == 0) {
            c->mode = RULE_MODE_STRIP;
        } else if (strcmp(word, "compute") == 0) {
            c->mode = RULE_MODE_COMPUTE;
        } else if (strcmp(word, "reject") == 0) {
            c->mode = RULE_MODE_REJECT;
        } else if (strcmp(word, "plain") == 0) {
            c->shape = RULE_SHAPE_PLAIN;
        } else if (strcmp(word, "generated") == 0) {
            c->shape = RULE_SHAPE_GENERATED;
        } else if (strcmp(word, "partition_key") == 0) {
            c->shape = RULE_SHAPE_PARTITION_KEY;
        } else if (strcmp(word, "reordered") == 0) {
            c->reordered = true;
        } else if (strcmp(word, "converted") == 0) {
            c->converted = true;
        } else if (strcmp(word, "unqualified_passes") == 0) {
            c->unqualified_passes = true;
        } else if (strcmp(word, "unparsed_rejects") == 0) {
            c->on_unparsed = RULE_UNPARSED_REJECT;
        } else if (strcmp(word, "unparsed_passes") == 0) {
            c->on_unparsed = RULE_UNPARSED_PASS;
        } else if (strcmp(word, "extended") == 0) {
            c->extended = true;
        } else if (strcmp(word, "backslash_escapes") == 0) {
            c->backslash_escapes = true;
        } else if (strcmp(word, "compares") == 0) {
            c->compares = true;
        } else if (strcmp(word, "rejects_mismatch") == 0) {
            c->rejects_mismatch = true;
        } else if (strcmp(word, "in_server_encoding") == 0) {
            c->in_server_encoding = true;
        } else if (strcmp(word, "latin1") == 0) {
            c->encoding = TEXT_ENCODING_ASCII_SAFE;
        } else if (strcmp(word, "sjis") == 0) {
            c->encoding = TEXT_ENCODING_UNSAFE;
        } else {
            fail_msg("%s: unknown word \"%s\"", c->name, word);
        }
    }
}

static void read_types(struct type_list *types, char *words)
{
    for (char *rest, *word = strtok_r(words, " ", &rest); word != NULL && types->count < TYPES_MAX;
         word = strtok_r(NULL, " ", &rest)) {
        types->oids[types->count++] = (uint32_t)strtoul(word, NULL, 10);
    }
}

/* \xNN stands for a byte that a data file should not hold. */
static char *unescape(const char *text)
{
    char *copy = strdup(text), *to = copy;
    for (const char *from = copy; *from != '\0'; from++) {
        unsigned byte;
        if (strncmp(from, "\\x", 2) == 0 && sscanf(from + 2, "%2x", &byte) == 1) {
            *to++ = (char)byte;
            from += 3;
        } else {
            *to++ = *from;
        }
    }
    *to = '\0';
    return copy;
}

static char *joined(char *text, const char *line)
{
    char *longer = NULL;
    if (asprintf(&longer, "%s\n%s", text, line) < 0) {
        abort();
    }
    free(text);
    return longer;
}

static void read_field(struct rule_case *c, const char *key, char *value, char ***last)
{
    const struct {
        const char *key;
        char **field;
    } texts[] = {
        {"in", &c->in},         {"out", &c->out},       {"expect", &c->expect},
        {"error", &c->error},   {"detail", &c->detail}, {"hint", &c->hint},
        {"writes", &c->writes}, {"masked", &c->masked}, {"expression", &c->expression},
    };
    *last = NULL;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (strcmp(key, texts[i].key) == 0) {
            *texts[i].field = strcmp(key, "in") == 0 ? unescape(value) : strdup(value);
            *last = texts[i].field;
            return;
        }
    }
    if (strcmp(key, "rule") == 0) {
        read_rule(c, value);
    } else if (strcmp(key, "types") == 0) {
        read_types(&c->types, value);
    } else if (strcmp(key, "out types") == 0) {
        read_types(&c->out_types, value);
        c->types_given = true;
    } else if (strcmp(key, "supplied") == 0 && c->supplied_count < SUPPLIED_MAX) {
        c->supplied[c->supplied_count++] = strdup(value);
    } else if (strcmp(key, "prepares") == 0) {
        c->prepares = true;
    } else if (strcmp(key, "schema change") == 0) {
        c->schema_change = true;
    } else {
        fail_msg("%s: unknown key \"%s\"", c->name, key);
    }
}

static void read_file(const char *path)
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    char *line = NULL;
    size_t room = 0;
    struct rule_case *c = NULL;
    char **last = NULL; /* the text that an indented line goes on with */
    for (int number = 1; getline(&line, &room, file) >= 0; number++) {
        line[strcspn(line, "\n")] = '\0';
        char *colon = strchr(line, ':');
        if (strncmp(line, "-- ", 3) == 0) {
            assert_true(case_count < CASES_MAX);
            c = &cases[case_count++];
            c->mode = RULE_MODE_STRIP;
            if (asprintf(&c->name, "%s (%s:%d)", line + 3, strrchr(path, '/') + 1, number) < 0) {
                abort();
            }
        } else if (line[0] == '#' || line[0] == '\0' || c == NULL) {
            continue;
        } else if (strncmp(line, "     ", 5) == 0 && last != NULL) {
            *last = joined(*last, line + 5);
        } else if (colon != NULL) {
            *colon = '\0';
            char *value = colon + 1 + strspn(colon + 1, " ");
            read_field(c, line, value, &last);
        } else {
            fail_msg("%s: line %d cannot be read", path, number);
        }
    }
    free(line);
    fclose(file);
}

static void free_case(struct rule_case *c)
{
    char *const texts[] = {c->name,   c->in,   c->out,        c->error,  c->detail,
                           c->masked, c->hint, c->expression, c->expect, c->writes};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        free(texts[i]);
    }
    for (size_t i = 0; i < c->supplied_count; i++) {
        free(c->supplied[i]);
    }
}

int main(int argc, char **argv)
{
    glob_t files;
    if (glob(RULES_CASES "/*.case", 0, NULL, &files) != 0) {
        fprintf(stderr, "no cases in %s\n", RULES_CASES);
        return 1;
    }
    for (size_t i = 0; i < files.gl_pathc; i++) {
        read_file(files.gl_pathv[i]);
    }
    globfree(&files);
    static struct CMUnitTest tests[CASES_MAX];
    size_t count = 0;
    for (size_t i = 0; i < case_count; i++) {
        if (argc < 2 || strstr(cases[i].name, argv[1]) != NULL) {
            tests[count++] = (struct CMUnitTest){
                .name = cases[i].name, .test_func = run_case, .initial_state = &cases[i]};
        }
    }
    int failed = _cmocka_run_group_tests("rules cases", tests, count, NULL, NULL);
    for (size_t i = 0; i < case_count; i++) {
        free_case(&cases[i]);
    }
    return failed != 0;
}
