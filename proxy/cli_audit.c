/* `pgsluice audit verify|report|tail`: prints what the audit room reads; see cli.h. */
#include "proxy/cli.h"

#include "proxy/audit/read.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define STATEMENTS_SHOWN 5

static const char *text_of(const json_t *record, const char *member)
{
    const char *text = json_string_value(json_object_get(record, member));
    return text != NULL ? text : "";
}

static long long number_of(const json_t *record, const char *member)
{
    return (long long)json_integer_value(json_object_get(record, member));
}

static enum exit_code out_of_memory(const struct cli *cli)
{
    struct failure f;
    fail(&f, EXIT_REFUSED, "%s: out of memory", cli->command);
    return cli_fail(cli, &f);
}

static void print_verify(const json_t *report)
{
    printf("%s: %lld records, numbers %lld to %lld\n", text_of(report, "file"),
           number_of(report, "records"), number_of(report, "first_seq"),
           number_of(report, "last_seq"));
    const json_t *findings = json_object_get(report, "findings");
    for (size_t i = 0; i < json_array_size(findings); i++) {
        const json_t *finding = json_array_get(findings, i);
        printf("  line %lld: %s\n", number_of(finding, "line"), text_of(finding, "what"));
    }
    printf("%s\n", text_of(report, "summary"));
}

static void print_client(const json_t *client)
{
    const char *application = text_of(client, "application_name");
    printf("\n%s  (user %s, database %s, rule %s)\n",
           application[0] != '\0' ? application : "(no name)", text_of(client, "user"),
           text_of(client, "database"), text_of(client, "rule"));
    long long supplied = number_of(client, "supplied");
    long long rows = number_of(client, "rows");
    printf("  %lld statement%s, %lld row%s; %lld observed, %lld stripped, %lld computed, %lld "
           "refused; last %s\n",
           supplied, supplied == 1 ? "" : "s", rows, rows == 1 ? "" : "s",
           number_of(client, "observed"), number_of(client, "stripped"),
           number_of(client, "computed"), number_of(client, "refused"), text_of(client, "last"));
    if (number_of(client, "matched") + number_of(client, "mismatched") > 0) {
        printf("  of the values that could be compared, %lld %s the expression's and %lld %s not\n",
               number_of(client, "matched"), number_of(client, "matched") == 1 ? "was" : "were",
               number_of(client, "mismatched"),
               number_of(client, "mismatched") == 1 ? "was" : "were");
    }
    const json_t *statements = json_object_get(client, "statements");
    size_t count = json_array_size(statements);
    for (size_t i = 0; i < count && i < STATEMENTS_SHOWN; i++) {
        const json_t *statement = json_array_get(statements, i);
        const char *text = text_of(statement, "text");
        printf("  %8lld  %.160s%s\n", number_of(statement, "supplied"),
               text[0] != '\0' ? text : text_of(statement, "statement"),
               strlen(text) > 160 ? "..." : "");
    }
    if (count > STATEMENTS_SHOWN) {
        printf("            and %zu more statements\n", count - STATEMENTS_SHOWN);
    }
}

static void print_report(const json_t *report)
{
    const json_t *clients = json_object_get(report, "clients");
    const json_t *steps = json_object_get(report, "cutover");
    size_t count = json_array_size(clients);
    printf("%s: %lld records", text_of(report, "file"), number_of(report, "records"));
    if (number_of(report, "records") > 0) {
        printf(", %s to %s", text_of(report, "from"), text_of(report, "to"));
    }
    printf("\n");
    if (number_of(report, "damaged_lines") + number_of(report, "cut_lines") > 0) {
        printf("%lld damaged and %lld cut lines are not in it\n",
               number_of(report, "damaged_lines"), number_of(report, "cut_lines"));
    }
    if (number_of(report, "lost") > 0) {
        printf("%lld records could not be written when they happened\n", number_of(report, "lost"));
    }
    printf("%s\n", text_of(report, "summary"));
    for (size_t i = 0; i < count; i++) {
        print_client(json_array_get(clients, i));
    }
    if (json_array_size(steps) > 0) {
        printf("\ncutover\n");
    }
    for (size_t i = 0; i < json_array_size(steps); i++) {
        const json_t *step = json_array_get(steps, i);
        printf("  %s  %s  %s  %s\n", text_of(step, "time"), text_of(step, "rule"),
               text_of(step, "step"), text_of(step, "detail"));
    }
}

/* A record as one line for people; `line` is its text. */
static void print_record(const struct cli *cli, const json_t *record, const char *line)
{
    if (cli->json || record == NULL) {
        printf("%s\n", line);
    } else if (strcmp(text_of(record, "event"), "cutover") == 0) {
        printf("%s  cutover   %s  %s  %s\n", text_of(record, "time"), text_of(record, "rule"),
               text_of(record, "step"), text_of(record, "detail"));
    } else if (strcmp(text_of(record, "event"), "supplied") == 0 ||
               strcmp(text_of(record, "event"), "copied") == 0) {
        printf("%s  %-8s  %s  %s@%s %s %s  %s  %.200s\n", text_of(record, "time"),
               text_of(record, "verdict"), text_of(record, "rule"), text_of(record, "user"),
               text_of(record, "database"), text_of(record, "client"),
               text_of(record, "application_name"), text_of(record, "statement"),
               text_of(record, "text"));
    } else {
        printf("%s\n", line);
    }
}

/* Prints what is there, but of it the last cli->lines records only. */
static bool print_last(const struct cli *cli, struct audit_reader *reader)
{
    size_t wanted = (size_t)cli->lines;
    char **ring = calloc(wanted + 1, sizeof *ring);
    size_t seen = 0;
    json_t *record;
    enum audit_line kind;
    if (ring == NULL) {
        return false;
    }
    while ((kind = audit_reader_next(reader, &record)) != AUDIT_LINE_END) {
        json_decref(record);
        if (kind == AUDIT_LINE_CUT && cli->follow) {
            fseeko(reader->stream, -(off_t)strlen(reader->line), SEEK_CUR);
            break;
        }
        if (wanted > 0) {
            free(ring[seen % wanted]);
            ring[seen++ % wanted] = strdup(reader->line);
        }
    }
    for (size_t i = seen > wanted ? seen - wanted : 0; i < seen; i++) {
        const char *line = ring[i % wanted];
        record = line != NULL ? json_loads(line, 0, NULL) : NULL;
        print_record(cli, record, line != NULL ? line : "");
        json_decref(record);
    }
    for (size_t i = 0; i < wanted; i++) {
        free(ring[i]);
    }
    free(ring);
    return true;
}

/* True when the path names another file by now: the log was rotated. */
static bool has_moved(const struct audit_reader *reader, const char *file)
{
    struct stat named;
    struct stat open_one;
    return stat(file, &named) == 0 && fstat(fileno(reader->stream), &open_one) == 0 &&
           (named.st_ino != open_one.st_ino || named.st_dev != open_one.st_dev);
}

static void follow(const struct cli *cli, struct audit_reader *reader)
{
    const struct timespec pause = {.tv_nsec = 200 * 1000 * 1000};
    const char *file = cli->args[0];
    for (;;) {
        json_t *record;
        bool moved = has_moved(reader, file);
        enum audit_line kind;
        while ((kind = audit_reader_next(reader, &record)) == AUDIT_LINE_RECORD ||
               kind == AUDIT_LINE_DAMAGED) {
            print_record(cli, record, reader->line);
            json_decref(record);
        }
        if (kind == AUDIT_LINE_CUT) {
            fseeko(reader->stream, -(off_t)strlen(reader->line), SEEK_CUR);
        }
        clearerr(reader->stream);
        fflush(stdout);
        struct audit_reader next;
        struct failure f;
        if (moved && audit_reader_open(&next, file, &f)) {
            audit_reader_close(reader);
            *reader = next;
        } else {
            nanosleep(&pause, NULL);
        }
    }
}

static enum exit_code tail(const struct cli *cli)
{
    struct audit_reader reader;
    struct failure f;
    if (!audit_reader_open(&reader, cli->args[0], &f)) {
        return cli_fail(cli, &f);
    }
    bool ok = print_last(cli, &reader);
    fflush(stdout);
    if (ok && cli->follow) {
        follow(cli, &reader);
    }
    audit_reader_close(&reader);
    return ok ? EXIT_DONE : out_of_memory(cli);
}

enum exit_code cli_audit(const struct cli *cli)
{
    if (strcmp(cli->command, "audit tail") == 0) {
        return tail(cli);
    }
    bool verifies = strcmp(cli->command, "audit verify") == 0;
    struct failure f = {.code = EXIT_DONE};
    json_t *report = NULL;
    enum exit_code code = verifies ? audit_verify(cli->args[0], &report, &f)
                                   : audit_report(cli->args[0], cli->since, &report, &f);
    if (report == NULL) {
        return f.code != EXIT_DONE ? cli_fail(cli, &f) : out_of_memory(cli);
    }
    if (cli->json) {
        cli_print_json(report);
    } else if (verifies) {
        print_verify(report);
    } else {
        print_report(report);
    }
    json_decref(report);
    return code;
}
