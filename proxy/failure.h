/*
 * The one way in which the proxy's own functions say what went wrong: an enum for the caller to
 * branch on, a SQLSTATE where a client or a server is concerned, and a sentence for a person.
 */
#pragma once

#include <stdbool.h>

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* Exit codes of the command line (README.md, "Exit codes"). */
enum exit_code {
    EXIT_DONE = 0,
    EXIT_REFUSED = 1,        /* refused or failed, nothing changed */
    EXIT_USAGE = 2,          /* usage or configuration */
    EXIT_NOT_APPLICABLE = 3, /* PostgreSQL 11 */
    EXIT_UNKNOWN = 4,        /* outcome unknown, needs an operator */
};

struct failure {
    enum exit_code code;
    char sqlstate[6]; /* "" where none applies */
    char msg[512];    /* one line, no newline */
};

/* Fills `f` (may be NULL) and returns false, so that a function can `return fail(...)`. */
bool fail(struct failure *f, enum exit_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);
