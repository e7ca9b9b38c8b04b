/*
 * The command line: what was asked for, and what the commands share in answering. Each command
 * prints its result on stdout and everything else on stderr, and returns the process's exit code.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "proxy/config.h"
#include "proxy/cutover/cutover.h"
#include "proxy/failure.h"

struct cli {
    const char *command; /* "cutover", "audit report", ... */
    const char *config_file;
    const char *since;  /* audit */
    const char *report; /* cutover: a file for it, HTML or, by its name, JSON */
    const char *args[2];
    int arg_count;
    bool json;
    bool yes;
    bool watch;
    bool follow;
    uint64_t lines; /* audit tail */
    struct cutover_options cutover;
};

/* Reads the arguments behind the command's name, or behind none for --help and --version. False
 * when there is nothing more to do: *code is then the process's. */
MUST_CHECK bool cli_parse(int argc, char **argv, struct cli *cli, enum exit_code *code);

enum exit_code cli_check(const struct cli *cli);
enum exit_code cli_plan(const struct cli *cli);
enum exit_code cli_cutover(const struct cli *cli);
enum exit_code cli_rollback(const struct cli *cli); /* and finish */
enum exit_code cli_steer(const struct cli *cli);    /* pause, resume, abort */
enum exit_code cli_verify(const struct cli *cli);
enum exit_code cli_status(const struct cli *cli);
enum exit_code cli_audit(const struct cli *cli);

/* For `check`: whether the files that client_tls and `server` name can be used. */
MUST_CHECK bool cli_check_files(const struct config *config, struct failure *f);
/* For `check`: fills the objects "login" and "hosts", the way of a session to its server. False
 * when nobody could log in; `f` says why. */
MUST_CHECK bool cli_check_login(const struct config *config, json_t *login, json_t *hosts,
                                struct failure *f);

/* Says what went wrong: a line on stderr, with --json also {"command","exit","summary"} on stdout.
 */
enum exit_code cli_fail(const struct cli *cli, const struct failure *f);

/* Loads the configuration; on false it has said why, and *code is the process's. */
MUST_CHECK bool cli_config(const struct cli *cli, struct config **out, enum exit_code *code);

/* The rule that TABLE names; as above. */
MUST_CHECK bool cli_rule(const struct cli *cli, const struct config *config,
                         const struct config_rule **out, enum exit_code *code);

/* A JSON string; of text that is not UTF-8 only the ASCII is kept. */
json_t *cli_text(const char *text);

/* Prints a report as JSON on stdout. */
void cli_print_json(const json_t *report);

/* Prints any JSON object for people: a name and a value a line, what is nested indented. */
void cli_print_text(json_t *object);

/* Progress on stderr: one line drawn again and again on a terminal, with a bar where it is known
 * how far things are; plain lines otherwise. */
struct cli_progress {
    bool on_terminal;
    bool on_line;   /* the bar is drawn, and its line not ended */
    char phase[64]; /* of the last plain line, */
    int tenth;      /* how far it was, */
    time_t said;    /* and when */
};
void cli_progress_init(struct cli_progress *progress);
/* `done` in 0..1, negative when unknown. */
void cli_progress_show(struct cli_progress *progress, const char *phase, const char *text,
                       double done);
void cli_progress_end(struct cli_progress *progress);
