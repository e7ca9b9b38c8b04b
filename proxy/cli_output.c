/* What the commands share in printing: failures, reports, progress; see cli.h. */
#include "proxy/cli.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BAR_WIDTH 24
#define LINE_AGAIN_S 10 /* where nothing but the text changes */
static const char bar_full[] = "########################";
static const char bar_empty[] = "........................";

json_t *cli_text(const char *text)
{
    char ascii[1024];
    json_t *value = json_string(text);
    if (value != NULL) {
        return value;
    }
    snprintf(ascii, sizeof ascii, "%s", text);
    for (char *c = ascii; *c != '\0'; c++) {
        *c = (unsigned char)*c < 0x80 ? *c : '?';
    }
    return json_string(ascii);
}

enum exit_code cli_fail(const struct cli *cli, const struct failure *f)
{
    fprintf(stderr, "pgsluice: %s\n", f->msg);
    if (cli->json) {
        json_t *report = json_pack("{s:s, s:i, s:o}", "command", cli->command, "exit", (int)f->code,
                                   "summary", cli_text(f->msg));
        cli_print_json(report);
        json_decref(report);
    }
    return f->code;
}

bool cli_config(const struct cli *cli, struct config **out, enum exit_code *code)
{
    struct failure f;
    if (!config_load(cli->config_file, out, &f)) {
        *code = cli_fail(cli, &f);
        return false;
    }
    return true;
}

bool cli_rule(const struct cli *cli, const struct config *config, const struct config_rule **out,
              enum exit_code *code)
{
    struct failure f;
    *out = config_find_rule(config, cli->args[0], &f);
    if (*out == NULL) {
        *code = cli_fail(cli, &f);
    }
    return *out != NULL;
}

void cli_print_json(const json_t *report)
{
    json_dumpf(report, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    putchar('\n');
    fflush(stdout);
}

static void print_scalar(const json_t *value)
{
    if (json_is_string(value)) {
        fputs(json_string_value(value), stdout);
    } else {
        json_dumpf(value, stdout, JSON_ENCODE_ANY);
    }
}

static bool is_nested(const json_t *value)
{
    return (json_is_object(value) && json_object_size(value) > 0) ||
           (json_is_array(value) && json_array_size(value) > 0);
}

static bool is_flat(json_t *object)
{
    for (void *i = json_object_iter(object); i != NULL; i = json_object_iter_next(object, i)) {
        if (is_nested(json_object_iter_value(i))) {
            return false;
        }
    }
    return json_is_object(object);
}

static void print_members(json_t *value, int indent);

/* An object without nested ones is one line of "name value" pairs. */
static void print_flat(json_t *object, int indent)
{
    printf("%*s", indent, "");
    for (void *i = json_object_iter(object); i != NULL; i = json_object_iter_next(object, i)) {
        printf("%s ", json_object_iter_key(i));
        print_scalar(json_object_iter_value(i));
        fputs("  ", stdout);
    }
    putchar('\n');
}

static void print_array(const json_t *array, int indent)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        json_t *element = json_array_get(array, i);
        if (is_flat(element)) {
            print_flat(element, indent);
        } else if (is_nested(element)) {
            print_members(element, indent);
        } else {
            printf("%*s", indent, "");
            print_scalar(element);
            putchar('\n');
        }
    }
}

static void print_members(json_t *value, int indent)
{
    if (json_is_array(value)) {
        print_array(value, indent);
        return;
    }
    for (void *i = json_object_iter(value); i != NULL; i = json_object_iter_next(value, i)) {
        json_t *member = json_object_iter_value(i);
        if (is_nested(member)) {
            printf("%*s%s\n", indent, "", json_object_iter_key(i));
            print_members(member, indent + 2);
        } else {
            printf("%*s%-*s ", indent, "", 24 - indent, json_object_iter_key(i));
            print_scalar(member);
            putchar('\n');
        }
    }
}

void cli_print_text(json_t *object)
{
    print_members(object, 0);
    fflush(stdout);
}

void cli_progress_init(struct cli_progress *progress)
{
    *progress = (struct cli_progress){.on_terminal = isatty(STDERR_FILENO) == 1, .tenth = -1};
}

void cli_progress_show(struct cli_progress *progress, const char *phase, const char *text,
                       double done)
{
    double bounded = done > 1 ? 1 : done;
    if (progress->on_terminal) {
        fputs("\r\x1b[K", stderr);
        if (bounded >= 0) {
            int full = (int)(bounded * BAR_WIDTH);
            fprintf(stderr, "[%.*s%.*s] %3d%%  ", full, bar_full, BAR_WIDTH - full, bar_empty,
                    (int)(bounded * 100));
        }
        fprintf(stderr, "%-10.20s %.80s", phase, text);
        fflush(stderr);
        progress->on_line = true;
        return;
    }
    int tenth = bounded < 0 ? -1 : (int)(bounded * 10);
    time_t now = time(NULL);
    if (strcmp(progress->phase, phase) == 0 && tenth == progress->tenth &&
        now - progress->said < LINE_AGAIN_S) {
        return;
    }
    progress->said = now;
    snprintf(progress->phase, sizeof progress->phase, "%s", phase);
    progress->tenth = tenth;
    if (bounded >= 0) {
        fprintf(stderr, "%3d%%  ", (int)(bounded * 100));
    }
    fprintf(stderr, "%s: %s\n", phase, text);
}

void cli_progress_end(struct cli_progress *progress)
{
    if (progress->on_line) {
        fputc('\n', stderr);
        progress->on_line = false;
    }
}
