/*
 * `pgsluice plan`, `verify`, `cutover`, `rollback`, `finish` and `status`; see cli.h. Plan and
 * verify only read and work without a proxy; the others ask the running one, because the gate is
 * there.
 */
#include "proxy/cli.h"

#include "proxy/admin/client.h"
#include "proxy/cutover/html.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

static const char *const strategy_names[] = {"auto", "inplace", "swap"};

/* Before anything happens: a cutover whose report cannot be written should not begin. A file that
 * was not there is not left behind, for nothing may come of the cutover. */
static bool can_write_report(const struct cli *cli, struct failure *f)
{
    if (cli->report == NULL) {
        return true;
    }
    const bool is_new = access(cli->report, F_OK) != 0;
    FILE *file = fopen(cli->report, "a");
    if (file == NULL || fclose(file) != 0) {
        return fail(f, EXIT_USAGE, "%s: %s", cli->report, strerror(errno));
    }
    if (is_new) {
        (void)unlink(cli->report);
    }
    return true;
}

/* The report as a file; what is wrong is said on stderr, for the cutover itself is done. */
static void write_report(const struct cli *cli, const json_t *report)
{
    size_t len = strlen(cli->report);
    bool json = len >= 5 && strcmp(cli->report + len - 5, ".json") == 0;
    char *text =
        json ? json_dumps(report, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : html_report(report);
    FILE *file = text != NULL ? fopen(cli->report, "w") : NULL;
    bool ok = file != NULL && fputs(text, file) >= 0;
    ok = (file == NULL || fclose(file) == 0) && ok;
    free(text);
    if (ok) {
        fprintf(stderr, "report: %s\n", cli->report);
    } else {
        fprintf(stderr, "pgsluice: %s: the report could not be written: %s\n", cli->report,
                strerror(errno));
    }
}

/* Prints a report; its exit code. Takes `report`. */
static enum exit_code finish(const struct cli *cli, json_t *report, enum exit_code code)
{
    if (report == NULL) {
        struct failure f;
        fail(&f, code != EXIT_DONE ? code : EXIT_REFUSED, "%s: out of memory", cli->command);
        return cli_fail(cli, &f);
    }
    if (cli->json) {
        cli_print_json(report);
    } else {
        cutover_print(report);
        fflush(stdout);
    }
    json_decref(report);
    return code;
}

/* `arg` is the list of the proxy's server processes. */
static bool on_is_proxied(void *arg, int backend_pid)
{
    size_t i;
    const json_t *pid;
    json_array_foreach((const json_t *)arg, i, pid)
    {
        if (json_integer_value(pid) == backend_pid) {
            return true;
        }
    }
    return false;
}

/* Asks the running proxy which sessions are its own; NULL when none is running. */
static json_t *ask_processes(const struct config *config)
{
    struct failure ignored;
    json_t *answer = NULL;
    json_t *request = json_pack("{s:s}", "command", "processes");
    bool answered =
        config->admin_count > 0 && admin_call(config, request, NULL, NULL, &answer, &ignored);
    json_t *list = answered ? json_incref(json_object_get(answer, "processes")) : NULL;
    json_decref(request);
    json_decref(answer);
    return list;
}

static enum exit_code plan(const struct cli *cli, const struct config *config,
                           const struct config_rule *rule)
{
    json_t *report = NULL;
    json_t *processes = ask_processes(config);
    struct cutover_host host = {.arg = processes, .is_proxied = on_is_proxied};
    enum exit_code code =
        cutover_plan(config, rule, &cli->cutover, processes != NULL ? &host : NULL, &report);
    json_decref(processes);
    return finish(cli, report, code);
}

enum exit_code cli_plan(const struct cli *cli)
{
    struct config *config;
    const struct config_rule *rule;
    enum exit_code code;
    if (!cli_config(cli, &config, &code)) {
        return code;
    }
    log_init(false, LOG_LEVEL_WARNING);
    if (cli_rule(cli, config, &rule, &code)) {
        code = plan(cli, config, rule);
    }
    config_free(config);
    return code;
}

enum exit_code cli_verify(const struct cli *cli)
{
    struct config *config;
    const struct config_rule *rule;
    enum exit_code code;
    if (!cli_config(cli, &config, &code)) {
        return code;
    }
    log_init(false, LOG_LEVEL_WARNING);
    if (cli_rule(cli, config, &rule, &code)) {
        json_t *report = NULL;
        code = cutover_verify(config, rule, &report);
        code = finish(cli, report, code);
    }
    config_free(config);
    return code;
}

static void on_event(void *arg, const json_t *event)
{
    const char *phase = json_string_value(json_object_get(event, "phase"));
    const char *text = json_string_value(json_object_get(event, "text"));
    const json_t *done = json_object_get(event, "done");
    if (phase != NULL) {
        cli_progress_show(arg, phase, text != NULL ? text : "",
                          json_is_number(done) ? json_number_value(done) : -1);
    }
}

/* Sends the request to the running proxy and prints its report. Takes `request`. */
static enum exit_code ask_proxy(const struct cli *cli, const struct config *config, json_t *request)
{
    struct cli_progress progress;
    struct failure f;
    json_t *report = NULL;
    cli_progress_init(&progress);
    bool answered = admin_call(config, request, on_event, &progress, &report, &f);
    cli_progress_end(&progress);
    json_decref(request);
    if (!answered) {
        return cli_fail(cli, &f);
    }
    if (cli->report != NULL) {
        write_report(cli, report);
    }
    const json_t *exit = json_object_get(report, "exit");
    return finish(cli, report,
                  json_is_integer(exit) ? (enum exit_code)json_integer_value(exit) : EXIT_UNKNOWN);
}

static json_t *request_for(const struct cli *cli, const struct config_rule *rule)
{
    const struct cutover_options *o = &cli->cutover;
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:b}", "command", cli->command, "table",
                     rule->name, "strategy", strategy_names[o->strategy], "max_hold_ms",
                     (json_int_t)o->max_hold_ms, "pause_ms", (json_int_t)o->pause_ms, "bake_ms",
                     (json_int_t)o->bake_ms, "max_write_ms", (json_int_t)o->max_write_ms, "measure",
                     (int)o->measure);
}

/* True when a person at the terminal says yes. */
static bool confirm(const struct config_rule *rule)
{
    char answer[16];
    fprintf(stderr, "Cut %s.%s over now? [y/N] ", rule->schema, rule->table);
    fflush(stderr);
    return fgets(answer, sizeof answer, stdin) != NULL &&
           (strcasecmp(answer, "y\n") == 0 || strcasecmp(answer, "yes\n") == 0);
}

enum exit_code cli_cutover(const struct cli *cli)
{
    struct config *config;
    const struct config_rule *rule;
    enum exit_code code;
    struct failure f;
    if (!cli_config(cli, &config, &code)) {
        return code;
    }
    log_init(false, LOG_LEVEL_WARNING);
    if (!cli_rule(cli, config, &rule, &code)) {
        goto out;
    }
    if (!can_write_report(cli, &f)) {
        code = cli_fail(cli, &f);
        goto out;
    }
    if (!cli->yes) {
        if (isatty(STDIN_FILENO) != 1 || isatty(STDERR_FILENO) != 1) {
            fail(&f, EXIT_USAGE,
                 "cutover asks before it begins, and this is no terminal: add --yes");
            code = cli_fail(cli, &f);
            goto out;
        }
        code = plan(cli, config, rule);
        if (code != EXIT_DONE) {
            goto out;
        }
        if (!confirm(rule)) {
            fail(&f, EXIT_REFUSED, "not confirmed; nothing changed");
            code = cli_fail(cli, &f);
            goto out;
        }
    }
    code = ask_proxy(cli, config, request_for(cli, rule));
out:
    config_free(config);
    return code;
}

enum exit_code cli_rollback(const struct cli *cli)
{
    struct config *config;
    const struct config_rule *rule;
    enum exit_code code;
    if (!cli_config(cli, &config, &code)) {
        return code;
    }
    log_init(false, LOG_LEVEL_WARNING);
    if (cli_rule(cli, config, &rule, &code)) {
        code = ask_proxy(cli, config, request_for(cli, rule));
    }
    config_free(config);
    return code;
}

enum exit_code cli_steer(const struct cli *cli)
{
    struct config *config;
    const struct config_rule *rule;
    enum exit_code code;
    struct failure f;
    json_t *report = NULL;
    if (!cli_config(cli, &config, &code)) {
        return code;
    }
    if (!cli_rule(cli, config, &rule, &code)) {
        config_free(config);
        return code;
    }
    json_t *request = request_for(cli, rule);
    if (admin_call(config, request, NULL, NULL, &report, &f)) {
        code = (enum exit_code)json_integer_value(json_object_get(report, "exit"));
        if (cli->json) {
            cli_print_json(report);
        } else {
            printf("%s\n", json_string_value(json_object_get(report, "summary")));
        }
    } else {
        code = cli_fail(cli, &f);
    }
    json_decref(request);
    json_decref(report);
    config_free(config);
    return code;
}

/* What the state rows say: also of a swap whose proxy has died. Without a control login, or while
 * the server is away, nothing is known of them. */
static void add_swaps(const struct config *config, json_t *report)
{
    struct failure f = {.code = EXIT_DONE};
    json_t *swaps =
        config->control != NULL && config->rule_count > 0 ? cutover_swaps(config, &f) : NULL;
    (void)json_object_set_new(report, "swaps", swaps != NULL ? swaps : json_null());
}

static bool print_status(const struct cli *cli, const struct config *config, enum exit_code *code)
{
    struct failure f;
    json_t *request = json_pack("{s:s}", "command", "status");
    json_t *report = NULL;
    bool ok = admin_call(config, request, NULL, NULL, &report, &f);
    json_decref(request);
    if (!ok) {
        *code = cli_fail(cli, &f);
        return false;
    }
    add_swaps(config, report);
    if (cli->watch && isatty(STDOUT_FILENO) == 1) {
        fputs("\x1b[H\x1b[2J", stdout);
    }
    if (cli->json) {
        cli_print_json(report);
    } else {
        cli_print_text(report);
    }
    json_decref(report);
    *code = EXIT_DONE;
    return true;
}

enum exit_code cli_status(const struct cli *cli)
{
    const struct timespec pause = {.tv_sec = 1};
    struct config *config;
    enum exit_code code;
    if (!cli_config(cli, &config, &code)) {
        return code;
    }
    log_init(false, LOG_LEVEL_WARNING);
    while (print_status(cli, config, &code) && cli->watch) {
        nanosleep(&pause, NULL);
    }
    config_free(config);
    return code;
}
