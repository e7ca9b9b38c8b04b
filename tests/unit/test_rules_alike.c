/*
 * Which texts mean the same in every client_encoding and with both kinds of strings: a table, and
 * texts by chance, whose verdicts are compared with those on what each encoding makes of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "rules/alike.h"
#include "rules/encoding.h"
#include "rules/rules.h"

/* UTF-8 whose bytes are others' halves: e2 95 95, of which SJIS takes the last one for a first
 * half; e8 a1 a8, of which BIG5 and GBK do. Behind c3 81 an underscore is SHIFT_JIS_2004's
 * backslash. */
#define BOX "\xe2\x95\x95"
#define TABLE "\xe8\xa1\xa8"
#define ACUTE "\xc3\x81"
#define UE "\xc3\xbc"

/* To add a text, say what decides. */
static const struct {
    bool is_alike;
    const char *text;
} texts[] = {
    /* no quote is a half of anything */
    {true, "INSERT INTO t VALUES ('" UE "', '" BOX "', '" TABLE "', '\xff')"},
    {true, "INSERT INTO t VALUES ('it''s " UE "''')"},
    {true, "COPY t FROM STDIN (NULL '" UE "')"},
    /* a backslash in a plain literal may be the next quote's, and then it has no other end */
    {true, "INSERT INTO t VALUES ('C:\\temp', '\\\\', 'a\\\\\\\\')"},
    {false, "INSERT INTO t VALUES ('C:\\')"},
    {false, "INSERT INTO t VALUES ('a\\\\\\')"},
    {false, "INSERT INTO t VALUES ('it\\'s')"},
    /* and it changes what the literal says, which matters where that is a body or an option */
    {false, "DO 'BEGIN \\x49NSERT'"},
    {false, "SELECT 1; DO 'BEGIN \\x49NSERT'"},
    {false, "COPY t FROM STDIN (NULL '\\N')"},
    {true, "/* EXPLAIN */ select '\\N'"},
    {false, "EXPLAIN SELECT '\\N'"},
    /* in E'' it is an escape, unless it is the half of a letter */
    {true, "INSERT INTO t VALUES (E'a\\'b\\\\', e'" UE "\\n')"},
    {true, "INSERT INTO t VALUES (E'\\" UE "')"},
    {false, "INSERT INTO t VALUES (E'" UE "\\'')"},
    {false, "INSERT INTO t VALUES (E'" BOX "\\\\')"},
    {false, "INSERT INTO t VALUES (E'\\" UE "\\'')"},
    {true, "DO E'" UE "\\n'"},
    /* of one that goes on in the next line, it is not asked which kind it is */
    {true, "SELECT E'a'\n'b\\n'"},
    {false, "SELECT E'a'\n'b\\'c'"},
    /* other prefixes, and what only looks like one */
    {false, "SELECT N'\\'"},
    {false, "SELECT U&'\\'"},
    {false, "SELECT some'\\'"},
    {false, "SELECT ex'\\'"},
    {false, "SELECT " UE "E'\\'"},
    /* a backslash that is none, yet */
    {true, "SELECT '" ACUTE "_x'"},
    {false, "SELECT '" ACUTE "_'"},
    {false, "SELECT E'" ACUTE "_'"},
    {false, "SELECT E'" ACUTE "_\\n\\\\'"},
    {false, "DO 'part" ACUTE "_x69'"},
    {false, "DO $$part" ACUTE "_x69$$"},
    {true, "SELECT $$part" ACUTE "_x69$$"},
    {false, "SELECT U&\"part" ACUTE "_0069tion\""},
    /* names; an operator or a bracket may be the half of their last letter */
    {true, "SELECT \"gr" UE "n\", gr" UE "n FROM " UE " WHERE " UE "=1"},
    {true, "SELECT \"\\\""},
    {false, "SELECT " UE "||'x'"},
    {false, "SELECT " UE "[1]"},
    {false, "SELECT " UE "\\"},
    /* SHIFT_JIS_2004 has a tilde, behind which a dollar sign begins a literal */
    {false, "SELECT x\x81\xb0$a$, $a$"},
    {true, "SELECT x$a$, \x81\xb0"},
    /* dollar quotes end with what they began with */
    {true, "DO $$it's \\' " UE "$$"},
    {true, "SELECT $a1$ $$ ' " UE "$a1$, $1"},
    {false, "SELECT $" UE "$ $" UE "$"},
    {false, "SELECT $$ $$, '\\'"},
    /* comments: of what they are made, nothing is a half */
    {true, "-- " UE "'\\'\nSELECT 1"},
    {true, "/* " UE " ' /* \\' */ " TABLE "*/ SELECT 1"},
    {false, "/* /* */ */ SELECT '\\'"},
    {false, "-- '\rSELECT '\\'"},
    {false, "SELECT 1 --'\n, '\\'"},
    {false, "SELECT 1 +/* ' */ '\\'"},
    /* without an end there is none in any */
    {true, "SELECT '"},
    {true, "SELECT E'\\"},
    {true, "SELECT \""},
    {true, "SELECT $$"},
    {true, "/*"},
    {true, ""},
};

static void a_text_is_read_alike_or_not(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const char *text = texts[i].text;
        if (text_reads_alike(text, strlen(text)) != texts[i].is_alike) {
            fail_msg("%s: %s", text, texts[i].is_alike ? "is alike" : "is not alike");
        }
    }
}

/* --- texts by chance --- */

enum { TEXT_MAX = 512 };

static uint32_t dice(uint32_t sides)
{
    static uint64_t seed = 20;
    seed = seed * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)(seed >> 33) % sides;
}

/* How encodings take bytes together. */
enum kind { KIND_SINGLE, KIND_PAIRS, KIND_SJIS, KIND_SJIS_2004, KIND_GB18030, KIND_COUNT };

static bool is_high(char c)
{
    return (unsigned char)c >= 0x80;
}

/* How many bytes the letter at `at` has; 0: it is none. */
static size_t letter_len(enum kind kind, const char *at)
{
    const unsigned char first = (unsigned char)at[0];
    const bool is_sjis = kind == KIND_SJIS || kind == KIND_SJIS_2004;
    if (first < 0x80 || kind == KIND_SINGLE || (is_sjis && first > 0xa0 && first < 0xe0)) {
        return 1;
    }
    if (kind == KIND_GB18030 && isdigit((unsigned char)at[1])) {
        return is_high(at[2]) && isdigit((unsigned char)at[3]) ? 4 : 0;
    }
    return is_high(at[1]) || (at[1] >= 0x40 && at[1] < 0x7f) ? 2 : 0;
}

/* What the server's lexer gets; false when it refuses the text. */
static bool convert(enum kind kind, const char *from, char *to)
{
    while (*from != '\0') {
        const size_t len = letter_len(kind, from);
        if (len == 0) {
            return false;
        }
        if (kind == KIND_SJIS_2004 && memcmp(from, "\x81_", 2) == 0) {
            *to++ = '\\';
        } else if (is_high(*from)) {
            to = stpcpy(to, "\xc3\xa4");
        } else {
            *to++ = *from;
        }
        from += len;
    }
    *to = '\0';
    return true;
}

/* A line comment at the end swallows the quote that one reading has too many. */
static void make_text(char *text)
{
    static const char *const pieces[] = {"'",   "'",    "'",  "', '", "', E'", "\\", "\\",
                                         "\\'", "\\\\", UE,   ACUTE,  "_",     BOX,  TABLE,
                                         "$$",  "/*",   "*/", "||",   "a",     " ",  "\xa8"};
    static const char *const begins[] = {"'", "E'", "N'", "ae'", "$$", UE "||'"};
    static const char *const ends[] = {"--\n)", "' --\n)", "'--'\n)", "*/ -- '\n)", "$$, ' --'\n)"};
    char *to = stpcpy(text, "INSERT INTO chunks (partition_key, content) VALUES (1, ");
    to = stpcpy(to, begins[dice(6)]);
    for (uint32_t count = 1 + dice(7); count > 0; count--) {
        to = stpcpy(to, pieces[dice(sizeof pieces / sizeof pieces[0])]);
    }
    stpcpy(to, ends[dice(5)]);
}

/* What an audit record says of it, without letters beyond ASCII and what they may have taken. */
static void sum_up(const struct verdict *verdict, char *to)
{
    to += sprintf(to, "%d %zu ", (int)verdict->action, verdict->supplied_count);
    const char *at = verdict->masked_text == NULL ? "" : verdict->masked_text;
    bool is_behind = false;
    for (; *at != '\0'; at++) {
        is_behind = is_high(*at) || (is_behind && (isalnum((unsigned char)*at) || *at == '_'));
        if (!is_behind && !isspace((unsigned char)*at)) {
            *to++ = *at;
        }
    }
    *to = '\0';
}

static struct rule_set *rules(void)
{
    static const struct rule_column columns[] = {
        {"id", 20, false}, {"partition_key", 23, false}, {"content", 25, false}};
    return rule_set_new(&(struct rule){.name = "chunks",
                                       .schema = "public",
                                       .table = "chunks",
                                       .column = "partition_key",
                                       .mode = RULE_MODE_STRIP,
                                       .unqualified_guarded = true,
                                       .shape = RULE_SHAPE_PLAIN,
                                       .columns = columns,
                                       .column_count = 3},
                        1, "app");
}

static const struct verdict *judged(struct judge *judge, const struct rule_set *set,
                                    const char *text, enum text_encoding encoding, bool conforming)
{
    return judge_text(judge, set,
                      &(struct judge_input){.text = text,
                                            .len = strlen(text),
                                            .extended = true,
                                            .standard_conforming_strings = conforming,
                                            .encoding = encoding});
}

/* Texts with the same verdict in each encoding, unless they are refused there. */
static void what_is_alike_has_the_same_verdict_however_it_is_read(void **state)
{
    (void)state;
    enum { TEXTS = 200000 };
    struct rule_set *set = rules();
    struct judge *judge = judge_new(0);
    char text[TEXT_MAX], converted[2 * TEXT_MAX], here[TEXT_MAX], there[TEXT_MAX];
    size_t compared = 0;
    for (size_t i = 0; i < TEXTS; i++) {
        make_text(text);
        const struct verdict *verdict =
            judged(judge, set, text, TEXT_ENCODING_UNSETTLED, i % 2 == 0);
        const bool is_plain = encoding_is_readable(TEXT_ENCODING_UNKNOWN, text, strlen(text));
        if (verdict->action == VERDICT_REFUSE || is_plain) {
            continue;
        }
        sum_up(verdict, here);
        for (unsigned reading = 0; reading < 2 * KIND_COUNT; reading++) {
            if (!convert(reading / 2, text, converted)) {
                continue;
            }
            verdict = judged(judge, set, converted, TEXT_ENCODING_ASCII_SAFE, reading % 2 == 0);
            sum_up(verdict, there);
            compared += verdict->action != VERDICT_REFUSE;
            if (verdict->action != VERDICT_REFUSE && strcmp(here, there) != 0) {
                fail_msg("%s\nis %s\nand %s\nby reading %u", text, here, there, reading);
            }
        }
    }
    assert_true(compared > TEXTS / 10);
    judge_free(judge);
    rule_set_free(set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_is_read_alike_or_not),
        cmocka_unit_test(what_is_alike_has_the_same_verdict_however_it_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
