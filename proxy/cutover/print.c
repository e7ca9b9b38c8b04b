/* Reports for people; see cutover_print() in cutover.h. The same members are the JSON output. */
#include "proxy/cutover/cutover.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TEXT_WIDTH = 100,
    CHECK_INDENT = 31,
    TICKET_INDENT = 23,
    HISTOGRAM_LINES = 5,
    BAR_WIDTH = 40
};

static const char *text_of(const json_t *from, const char *key)
{
    const char *text = json_string_value(json_object_get(from, key));
    return text != NULL ? text : "";
}

/* Prints words up to the width; further lines are indented. `at` is the column that was reached. */
static void print_wrapped(const char *text, int at, int indent)
{
    while (*text != '\0') {
        int len = (int)strcspn(text, " \n");
        if (at + len > TEXT_WIDTH && at > indent) {
            printf("\n%*s", indent, "");
            at = indent;
        }
        bool blank = at > indent;
        printf("%s%.*s", blank ? " " : "", len, text);
        at += len + blank;
        text += len + (text[len] != '\0');
    }
    putchar('\n');
}

static void print_checks(const json_t *checks)
{
    size_t i;
    const json_t *check;
    json_array_foreach(checks, i, check)
    {
        int n = printf("  %-5s  %-20s  ", text_of(check, "verdict"), text_of(check, "id"));
        print_wrapped(text_of(check, "evidence"), n, CHECK_INDENT);
        if (json_is_string(json_object_get(check, "remedy"))) {
            n = printf("%*s-> ", CHECK_INDENT, "");
            print_wrapped(text_of(check, "remedy"), n, CHECK_INDENT + 3);
        }
    }
}

static void print_key(const json_t *entry, json_int_t most)
{
    char *key = json_dumps(json_object_get(entry, "key"), JSON_ENCODE_ANY);
    json_int_t rows = json_integer_value(json_object_get(entry, "rows"));
    int bar = most > 0 ? (int)(rows * BAR_WIDTH / most) : 0;
    printf("    %10s %10lld  ", key != NULL ? key : "?", (long long)rows);
    for (int i = 0; i < bar; i++) {
        putchar('#');
    }
    putchar('\n');
    free(key);
}

static void print_values(const json_t *report)
{
    const json_t *values = json_object_get(report, "values");
    const json_t *histogram = json_object_get(values, "histogram");
    if (histogram == NULL || strcmp(text_of(report, "command"), "verify") != 0) {
        return;
    }
    size_t keys = json_array_size(histogram);
    printf("\n  method      %s%s%s\n", text_of(report, "method"),
           json_is_string(json_object_get(report, "trigger")) ? ", trigger " : "",
           text_of(report, "trigger"));
    printf("  rows        %lld, %lld mismatches, %lld without a value\n",
           (long long)json_integer_value(json_object_get(values, "rows")),
           (long long)json_integer_value(json_object_get(values, "mismatches")),
           (long long)json_integer_value(json_object_get(values, "nulls")));
    printf("  keys        %lld different, from %s to %s\n",
           (long long)json_integer_value(json_object_get(values, "distinct")),
           text_of(values, "min"), text_of(values, "max"));
    printf("  skew        %.3f (the most frequent key against the average)\n",
           json_number_value(json_object_get(values, "skew")));
    json_int_t most = json_integer_value(json_object_get(json_array_get(histogram, 0), "rows"));
    for (size_t i = 0; i < keys; i++) {
        if (i < HISTOGRAM_LINES || i + HISTOGRAM_LINES >= keys) {
            print_key(json_array_get(histogram, i), most);
        } else if (i == HISTOGRAM_LINES) {
            printf("           ...\n");
        }
    }
}

static void print_plan(const json_t *report)
{
    size_t i;
    const json_t *line;
    const json_t *sql = json_object_get(report, "sql");
    if (!json_is_array(sql) || strcmp(text_of(report, "command"), "plan") != 0) {
        return;
    }
    const json_t *estimate = json_object_get(report, "estimate");
    printf(
        "\n  In one transaction, under ACCESS EXCLUSIVE, about %lld ms, with %.1f MB of disk and "
        "as much WAL:\n",
        (long long)json_integer_value(json_object_get(estimate, "hold_ms")),
        (double)json_integer_value(json_object_get(estimate, "disk_bytes")) / 1e6);
    json_array_foreach(sql, i, line)
    {
        printf("    %s\n", json_string_value(line));
    }
}

/* What the ticket's own script would do. */
static void print_ticket(const json_t *report)
{
    size_t i;
    const json_t *sentence;
    const json_t *ticket = json_object_get(report, "ticket");
    if (json_array_size(ticket) == 0 || strcmp(text_of(report, "command"), "plan") != 0) {
        return;
    }
    printf("\n  The ticket's own SQL, on this table:\n");
    json_array_foreach(ticket, i, sentence)
    {
        int n = printf("    %-17s  ", text_of(sentence, "step"));
        print_wrapped(text_of(sentence, "text"), n, TICKET_INDENT);
    }
}

static void print_hold(const json_t *report)
{
    const json_t *hold = json_object_get(report, "hold");
    if (!json_is_object(hold)) {
        return;
    }
    printf("\n  attempts    %lld\n",
           (long long)json_integer_value(json_object_get(report, "attempts")));
    if (json_is_number(json_object_get(hold, "lock_ms"))) {
        printf("  lock        %.1f ms exclusive\n",
               json_number_value(json_object_get(hold, "lock_ms")));
    }
    printf("  gate        %.1f ms holding, %lld statements held, at most for %.1f ms\n",
           json_number_value(json_object_get(hold, "gate_ms")),
           (long long)json_integer_value(json_object_get(hold, "held_statements")),
           json_number_value(json_object_get(hold, "max_held_ms")));
}

void cutover_print(const json_t *report)
{
    printf("%s %s.%s", text_of(report, "command"), text_of(report, "table"),
           text_of(report, "column"));
    if (json_is_string(json_object_get(report, "database"))) {
        printf("  (database %s, PostgreSQL %lld)", text_of(report, "database"),
               (long long)json_integer_value(json_object_get(report, "server_version")) / 10000);
    }
    printf("\n\n");
    print_checks(json_object_get(report, "checks"));
    print_plan(report);
    print_ticket(report);
    print_values(report);
    print_hold(report);
    printf("\n%s\n", text_of(report, "summary"));
}
