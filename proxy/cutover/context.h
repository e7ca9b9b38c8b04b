/*
 * What one run of a cutover command carries from step to step: the rule, the control connection,
 * what is known of the table, and the report that it fills. Shared by the files of this folder
 * only.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "proxy/control.h"
#include "proxy/cutover/cutover.h"

enum {
    STATEMENT_TIMEOUT_MS = 30000, /* catalog queries */
    STATE_VERSION_MIN = 120000,   /* the first major with generated columns */
};

/* The trigger that computes the column, with its function. */
struct cutover_trigger {
    unsigned oid; /* 0: no trigger computes it */
    unsigned function_oid;
    char *name;       /* NULL: no trigger computes it */
    char *name_text;  /* as an SQL string literal */
    char *function;   /* "public.compute_partition_key()", quoted */
    bool drop_with;   /* nothing else uses the function, and it can be restored exactly */
    char *kept_since; /* else why it stays */
};

struct cutover_table {
    unsigned oid;
    unsigned number;     /* attnum of the column */
    char *type;          /* as format_type() */
    char *collation;     /* quoted, NULL: the type's own */
    char *definition;    /* the default's or generation expression's text, or NULL */
    char category;       /* typcategory */
    bool plain_equality; /* = and identity are the same for this type */
    bool not_null;
    bool generated;
    uint64_t table_bytes; /* heap, TOAST, maps */
    uint64_t index_bytes;
    unsigned deadlock_timeout_ms;
    json_t *facts; /* everything that was read */
};

struct cutover {
    const char *command;
    const struct config *config;
    const struct config_rule *rule;
    struct cutover_options options;
    const struct cutover_host *host; /* NULL in verify, and where no proxy runs */
    json_t *report;
    json_t *checks; /* borrowed from report */
    bool blocked;   /* a check has said BLOCK */
    char *database;
    struct control *control;
    char *relation;    /* quoted: "public"."chunks" */
    char *column;      /* quoted */
    char *column_text; /* the same as an SQL string literal */
    char run[33];      /* this run's id */
    struct cutover_table table;
    struct cutover_trigger trigger;
    char *capture;        /* what a rollback needs of the trigger, JSON */
    uint64_t estimate_ms; /* of the exclusive lock */
    struct pulse *pulse;  /* NULL: nobody looks on */
    bool swaps;           /* the strategy, once the preflight has chosen it */
};

/* Makes the report and the identifiers. False when out of memory: no report then. */
MUST_CHECK bool context_init(struct cutover *c, const char *command, const struct config *config,
                             const struct config_rule *rule, const struct cutover_options *options,
                             const struct cutover_host *host);
/* Connects to the rule's database, and quotes its names. */
MUST_CHECK bool context_connect(struct cutover *c, struct failure *f);
/* A connection as the first one, to the same database; `abortable` as that one is. */
MUST_CHECK bool context_connect_again(struct cutover *c, bool abortable, struct control **out,
                                      struct failure *f);
/* Ends everything but the report, which goes to *report with "exit" and "summary" set. */
enum exit_code context_finish(struct cutover *c, enum exit_code code, json_t **report,
                              const char *summary, ...) PRINTF_LIKE(4, 5);
bool context_abort_requested(const struct cutover *c);
bool context_is_paused(const struct cutover *c);

/* Reads the table's facts into c->table. False also when table or column do not exist. */
MUST_CHECK bool context_read_table(struct cutover *c, struct failure *f);

/* The template with {rel} (oid), {num} (attnum), {name}, {col}, {key} (column as literal), {type}
 * (with its collation), {expr}, {value} (the expression cast to the type), {trigger} (oid) and
 * {trigger_name} (as literal) filled in; the caller frees it. NULL when out of memory. */
char *context_expand(const struct cutover *c, const char *pattern);
/* context_expand() and control_query() in one. */
MUST_CHECK PGresult *context_query(struct cutover *c, const char *pattern, unsigned timeout_ms,
                                   struct failure *f);
/* The same within a savepoint, so that a failure leaves the transaction usable. */
MUST_CHECK PGresult *context_try(struct cutover *c, const char *pattern, unsigned timeout_ms,
                                 struct failure *f);
/* The first value of the result as JSON; takes `r`. NULL with `f` when it is none. */
json_t *context_json(PGresult *r, struct failure *f);

/* SQL that is true when the two SQL values are not the same stored value. */
char *context_differ(const struct cutover *c, const char *a, const char *b);

enum verdict_word { CHECK_PASS, CHECK_WARN, CHECK_BLOCK };
/* Adds a check to the report. `remedy` may be NULL. A BLOCK sets c->blocked. */
void report_check(struct cutover *c, const char *id, enum verdict_word verdict, const char *remedy,
                  const char *evidence, ...) PRINTF_LIKE(5, 6);
/* Sets a member of the report; takes `value`. */
void report_set(struct cutover *c, const char *key, json_t *value);
/* A JSON string of any bytes: what is not UTF-8 is replaced. */
json_t *report_string(const char *text);

void context_progress(const struct cutover *c, const char *phase, double done, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
void context_step(const struct cutover *c, const char *step, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

uint64_t monotonic_ms(void);
double monotonic_ms_exact(void);
void rest_ms(unsigned ms);

/* Text that grows; `text` is valid after text_end(), which returns NULL when memory ran out. */
struct text {
    FILE *out;
    char *at;
    size_t len;
};
MUST_CHECK bool text_begin(struct text *t);
char *text_end(struct text *t);
char *text_printf(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* The strings of a JSON array with commas between them; "" for null. The caller frees. NULL when
 * out of memory. */
char *text_join(const json_t *array);

#define TEXT_TAG_SIZE 24
/* A dollar quote that does not occur in `text`. */
void text_choose_tag(const char *text, char tag[TEXT_TAG_SIZE]);
