/* Reads, sums up and checks audit logs; see read.h. */
#include "proxy/audit/read.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FINDINGS_MAX 100
#define STEPS_MAX 1000

bool audit_reader_open(struct audit_reader *reader, const char *file, struct failure *f)
{
    *reader = (struct audit_reader){.stream = fopen(file, "re")};
    if (reader->stream == NULL) {
        return fail(f, EXIT_USAGE, "%s: %s", file, strerror(errno));
    }
    errno = 0;
    int c = getc(reader->stream);
    if (c == EOF && errno != 0) {
        fclose(reader->stream);
        return fail(f, EXIT_USAGE, "%s: %s", file, strerror(errno));
    }
    ungetc(c, reader->stream);
    return true;
}

void audit_reader_close(struct audit_reader *reader)
{
    fclose(reader->stream);
    free(reader->line);
}

enum audit_line audit_reader_next(struct audit_reader *reader, json_t **record)
{
    *record = NULL;
    ssize_t len = getline(&reader->line, &reader->size, reader->stream);
    if (len <= 0) {
        return AUDIT_LINE_END;
    }
    reader->number++;
    bool whole = reader->line[len - 1] == '\n';
    if (!whole) {
        return AUDIT_LINE_CUT;
    }
    reader->line[--len] = '\0';
    json_t *parsed = json_loadb(reader->line, (size_t)len, JSON_ALLOW_NUL, NULL);
    if (!json_is_object(parsed)) {
        json_decref(parsed);
        return AUDIT_LINE_DAMAGED;
    }
    *record = parsed;
    return AUDIT_LINE_RECORD;
}

static const char *text_of(const json_t *record, const char *member)
{
    const char *text = json_string_value(json_object_get(record, member));
    return text != NULL ? text : "";
}

static json_int_t number_of(const json_t *record, const char *member)
{
    return json_integer_value(json_object_get(record, member));
}

static void add_to(json_t *object, const char *member, json_int_t by)
{
    json_object_set_new(object, member, json_integer(number_of(object, member) + by));
}

static void copy_text(json_t *to, const json_t *from, const char *member)
{
    json_object_set_new(to, member, json_string(text_of(from, member)));
}

/* The group of a key, made when it is new. `map` owns it. */
static json_t *group(json_t *map, const char *key, bool *is_new)
{
    json_t *found = json_object_get(map, key);
    *is_new = found == NULL;
    if (found == NULL) {
        found = json_object();
        json_object_set_new_nocheck(map, key, found);
    }
    return found;
}

static bool is_copied(const json_t *record)
{
    return strcmp(text_of(record, "event"), "copied") == 0;
}

/* A key that was supplied, or what became of the rows of a COPY. */
static void count_supplied(json_t *clients, const json_t *record)
{
    char key[4 * 1024];
    bool is_new;
    snprintf(key, sizeof key, "%s\x1f%s\x1f%s\x1f%s", text_of(record, "application_name"),
             text_of(record, "user"), text_of(record, "database"), text_of(record, "rule"));
    json_t *client = group(clients, key, &is_new);
    if (is_new) {
        copy_text(client, record, "application_name");
        copy_text(client, record, "user");
        copy_text(client, record, "database");
        copy_text(client, record, "rule");
        static const char *const counts[] = {"supplied", "observed", "stripped", "computed",
                                             "refused",  "rows",     "matched",  "mismatched"};
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            json_object_set_new(client, counts[i], json_integer(0));
        }
        json_object_set_new(client, "statements", json_object());
    }
    const char *verdict = text_of(record, "verdict");
    const bool is_refused = strcmp(verdict, "refused") == 0;
    if (is_refused || (!is_copied(record) &&
                       (strcmp(verdict, "observed") == 0 || strcmp(verdict, "stripped") == 0))) {
        add_to(client, verdict, 1);
    }
    add_to(client, "supplied", is_copied(record) ? 0 : 1);
    add_to(client, "rows", number_of(record, "rows"));
    add_to(client, "matched", number_of(record, "matched"));
    add_to(client, "mismatched", number_of(record, "mismatched"));
    copy_text(client, record, "time");

    const char *fingerprint = text_of(record, "fingerprint");
    snprintf(key, sizeof key, "%s %s", text_of(record, "statement"), fingerprint);
    json_t *statement = group(json_object_get(client, "statements"), key, &is_new);
    if (is_new) {
        copy_text(statement, record, "statement");
        copy_text(statement, record, "fingerprint");
        copy_text(statement, record, "text");
        json_object_set_new(statement, "matched", json_integer(0));
        json_object_set_new(statement, "mismatched", json_integer(0));
    }
    add_to(statement, "supplied", is_copied(record) ? 0 : 1);
    add_to(statement, "matched", number_of(record, "matched"));
    add_to(statement, "mismatched", number_of(record, "mismatched"));
    copy_text(statement, record, "time");
}

static int by_supplied(const void *a, const void *b)
{
    json_int_t x = number_of(*(json_t *const *)a, "supplied");
    json_int_t y = number_of(*(json_t *const *)b, "supplied");
    return x < y ? 1 : x > y ? -1 : 0;
}

/* The values of a map of groups as an array, the busiest first; "time" becomes "last". Takes `map`.
 */
static json_t *sorted(json_t *map)
{
    json_t *array = json_array();
    size_t count = json_object_size(map);
    json_t **values = calloc(count > 0 ? count : 1, sizeof *values);
    const char *key;
    json_t *value;
    size_t n = 0;
    if (values == NULL) {
        json_decref(map);
        return array;
    }
    json_object_foreach(map, key, value)
    {
        json_object_set(value, "last", json_object_get(value, "time"));
        json_object_del(value, "time");
        json_t *statements = json_object_get(value, "statements");
        if (statements != NULL) {
            json_incref(statements);
            json_object_set_new(value, "statements", sorted(statements));
        }
        values[n++] = value;
    }
    qsort(values, n, sizeof(json_t *), by_supplied);
    for (size_t i = 0; i < n; i++) {
        json_array_append(array, values[i]);
    }
    free(values);
    json_decref(map);
    return array;
}

static void keep_step(json_t *steps, const json_t *record)
{
    static const char *const members[] = {"time", "rule", "run", "step", "detail"};
    if (json_array_size(steps) == STEPS_MAX) {
        return;
    }
    json_t *step = json_object();
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        copy_text(step, record, members[i]);
    }
    json_array_append_new(steps, step);
}

enum exit_code audit_report(const char *file, const char *since, json_t **report, struct failure *f)
{
    struct audit_reader reader;
    *report = NULL;
    if (!audit_reader_open(&reader, file, f)) {
        return f->code;
    }
    json_t *clients = json_object();
    json_t *steps = json_array();
    json_t *sum = json_pack("{s:s, s:s, s:i, s:s, s:s, s:i, s:i, s:i}", "command", "audit report",
                            "file", file, "records", 0, "from", "", "to", "", "lost", 0,
                            "damaged_lines", 0, "cut_lines", 0);
    json_t *record;
    enum audit_line kind;
    while ((kind = audit_reader_next(&reader, &record)) != AUDIT_LINE_END) {
        if (kind != AUDIT_LINE_RECORD) {
            add_to(sum, kind == AUDIT_LINE_CUT ? "cut_lines" : "damaged_lines", 1);
            continue;
        }
        const char *time = text_of(record, "time");
        if (since == NULL || strcmp(time, since) >= 0) {
            const char *event = text_of(record, "event");
            add_to(sum, "records", 1);
            if (text_of(sum, "from")[0] == '\0') {
                json_object_set_new(sum, "from", json_string(time));
            }
            json_object_set_new(sum, "to", json_string(time));
            if (strcmp(event, "supplied") == 0 || is_copied(record)) {
                count_supplied(clients, record);
            } else if (strcmp(event, "cutover") == 0) {
                keep_step(steps, record);
            } else if (strcmp(event, "lost") == 0) {
                add_to(sum, "lost", number_of(record, "records"));
            }
        }
        json_decref(record);
    }
    audit_reader_close(&reader);
    size_t count = json_object_size(clients);
    json_object_set_new(sum, "clients", sorted(clients));
    json_object_set_new(sum, "cutover", steps);
    json_object_set_new(sum, "summary",
                        json_sprintf("%zu application%s suppl%s a guarded column", count,
                                     count == 1 ? "" : "s", count == 1 ? "ies" : "y"));
    json_object_set_new(sum, "exit", json_integer(EXIT_DONE));
    *report = sum;
    return EXIT_DONE;
}

static void find(json_t *findings, unsigned long line, const char *fmt, ...) PRINTF_LIKE(3, 4);

static void find(json_t *findings, unsigned long line, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    json_t *what = json_vsprintf(fmt, args);
    va_end(args);
    if (json_array_size(findings) < FINDINGS_MAX) {
        json_array_append_new(findings,
                              json_pack("{s:I, s:o}", "line", (json_int_t)line, "what", what));
    } else {
        json_decref(what);
    }
}

enum exit_code audit_verify(const char *file, json_t **report, struct failure *f)
{
    struct audit_reader reader;
    *report = NULL;
    if (!audit_reader_open(&reader, file, f)) {
        return f->code;
    }
    json_t *findings = json_array();
    json_int_t records = 0;
    json_int_t lost = 0;
    json_int_t first = 0;
    json_int_t last = 0;
    json_t *record;
    enum audit_line kind;
    while ((kind = audit_reader_next(&reader, &record)) != AUDIT_LINE_END) {
        if (kind != AUDIT_LINE_RECORD) {
            find(findings, reader.number,
                 kind == AUDIT_LINE_CUT ? "the line is cut" : "not a record");
            continue;
        }
        json_int_t seq = number_of(record, "seq");
        if (records > 0 && seq != last + 1) {
            find(findings, reader.number, "number %lld follows on %lld", (long long)seq,
                 (long long)last);
        }
        if (strcmp(text_of(record, "event"), "lost") == 0) {
            lost += number_of(record, "records");
            find(findings, reader.number, "%lld records could not be written",
                 (long long)number_of(record, "records"));
        }
        first = records == 0 ? seq : first;
        last = seq;
        records++;
        json_decref(record);
    }
    audit_reader_close(&reader);
    enum exit_code code = json_array_size(findings) == 0 ? EXIT_DONE : EXIT_REFUSED;
    *report = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:o, s:s, s:i}", "command", "audit verify",
                        "file", file, "records", records, "first_seq", first, "last_seq", last,
                        "lost", lost, "findings", findings, "summary",
                        code == EXIT_DONE ? "complete" : "NOT complete", "exit", (int)code);
    return code;
}
