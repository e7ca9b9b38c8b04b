/*
 * The cutover machine: takes a guarded table from a trigger-computed to a generated column and
 * back.
 *
 * Runs in a thread of its own inside the serving process, on control connections through libpq.
 * PostgreSQL's lock and one transaction are the safety; the gate only saves latency. What it finds
 * and does goes into a report (JSON), from which the command line prints.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "proxy/config.h"
#include "proxy/failure.h"

enum cutover_strategy { CUTOVER_AUTO, CUTOVER_INPLACE, CUTOVER_SWAP };

struct cutover_options {
    enum cutover_strategy strategy;
    uint64_t max_hold_ms;  /* default 500 */
    bool measure;          /* what an INSERT costs before and after, for the report */
    uint64_t pause_ms;     /* swap: between two batches of rows */
    uint64_t max_write_ms; /* swap: the copying gives way above; 0: by what writes took before */
    uint64_t bake_ms;      /* swap: the old table is dropped so long after the flip; 0: by finish */
    bool when_baked;       /* finish: only where the bake time is over */
};

/* What the machine needs from the process around it; every member may be called from its thread. */
struct cutover_host {
    void *arg;
    struct gate *gate; /* NULL: no sessions to hold (tests) */
    /* `done` in 0..1, or negative when unknown */
    void (*progress)(void *arg, const char *phase, const char *text, double done);
    bool (*abort_requested)(void *arg);
    /* an operator wishes that copying and comparing rest and no flip begins; NULL: nobody can */
    bool (*is_paused)(void *arg);
    /* an in-place flip is about to move the column to the table's end (or, false, it will not):
     * statements must from now on be sent in a form that is right before and after it */
    bool (*expect_move)(void *arg, bool expected, struct failure *f);
    /* the schema has changed: read the catalog and publish; the gate is open again */
    bool (*schema_changed)(void *arg, struct failure *f);
    /* whether the server's process serves a session of this proxy; NULL: nobody can tell */
    bool (*is_proxied)(void *arg, int backend_pid);
    /* audit */
    void (*step)(void *arg, const char *run, const char *step, const char *detail);
};

/* Each returns the exit code of the command and a report that the caller owns (json_decref), never
 * NULL but when out of memory. Its members: "command", "table", "exit", "summary" (one line),
 * "checks" [{"id","verdict":"PASS|WARN|BLOCK","evidence","remedy"}], and what the command adds. */
enum exit_code cutover_plan(const struct config *config, const struct config_rule *rule,
                            const struct cutover_options *options, const struct cutover_host *host,
                            json_t **report);
enum exit_code cutover_run(const struct config *config, const struct config_rule *rule,
                           const struct cutover_options *options, const struct cutover_host *host,
                           json_t **report);
enum exit_code cutover_rollback(const struct config *config, const struct config_rule *rule,
                                const struct cutover_options *options,
                                const struct cutover_host *host, json_t **report);
enum exit_code cutover_finish(const struct config *config, const struct config_rule *rule,
                              const struct cutover_options *options,
                              const struct cutover_host *host, json_t **report);
enum exit_code cutover_verify(const struct config *config, const struct config_rule *rule,
                              json_t **report);

/* The swaps that have begun and not ended, for `status`: [{"rule","table","phase","rows",
 * "resumable","back"}], and of one that bakes "since","until","waiting","followed","in_step",
 * "trouble"; read from the servers' state rows; NULL with `f` when one cannot be asked. */
json_t *cutover_swaps(const struct config *config, struct failure *f);

/* Prints a report for people on stdout. */
void cutover_print(const json_t *report);
