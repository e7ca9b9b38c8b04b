/*
 * The SCRAM secrets of the users whose logins pgsluice answers itself (session/login_scram.c): from
 * auth_file, and for users who are not there from auth_query on a control connection. Shared by all
 * workers.
 *
 * What takes time is done by two threads of its own, so that a server that hangs delays nobody but
 * the logins that wait for it: one asks auth_query, one makes secrets of passwords.
 */
#pragma once

#include "protocol/scram.h"
#include "proxy/config.h"
#include "proxy/failure.h"

struct secrets;

/* From a password no secret is made with more iterations than these, which a server asks for: it
 * takes some tenths of a second. */
#define SECRETS_ITERATIONS_MAX 1000000u

/* NULL in *out when the configuration has neither auth_file nor auth_query. */
MUST_CHECK bool secrets_open(const struct config *config, struct secrets **out, struct failure *f);
/* Ends the threads, and with them a question to the server that is under way; nobody is answered
 * any more. NULL is allowed. */
void secrets_stop(struct secrets *secrets);
void secrets_close(struct secrets *secrets); /* NULL is allowed; nobody uses it any more */
/* Reads config->auth_file again and asks config->auth_query from now on. Any thread. */
MUST_CHECK bool secrets_reload(struct secrets *secrets, const struct config *config,
                               struct failure *f);

enum secrets_result {
    SECRETS_FOUND,
    SECRETS_NONE,   /* no such user, or none that can log in by SCRAM; `failure` says why */
    SECRETS_FAILED, /* it cannot be known now: auth_query failed; `failure` says why */
};

/* One user's secret being looked up. */
struct secrets_lookup {
    bool is_forgotten; /* by secrets_forget() while done() was under way: only to be freed */
    enum secrets_result result;
    struct scram_secret secret; /* when found */
    struct failure failure;
    void *arg; /* heap; freed with the lookup unless done() has taken it */

    /* secrets.c */
    bool is_answered;
    struct secrets_lookup *prev, *next;
    struct secrets_line *line; /* where it waits; NULL: it does not */
    char *user;
    char *password;           /* of which the secret is to be made */
    struct scram_secret like; /* the server's own salt and iterations */
    void (*done)(struct secrets_lookup *lookup);
};

/* Begins to look up the secret of `user`; from a password it is made with salt and iterations of
 * `like`, the server's own. Takes `arg`. *at_once: the answer is there; else `done` is called when
 * it is, on another thread and with a lock held: it may only pass the lookup on. The caller then
 * frees it. NULL when out of memory. Any thread; does not block. */
struct secrets_lookup *secrets_find(struct secrets *secrets, const char *user,
                                    const struct scram_secret *like,
                                    void (*done)(struct secrets_lookup *lookup), void *arg,
                                    bool *at_once);
/* Nobody wants to know any more. Not for a lookup whose answer was seen: that is freed. */
void secrets_forget(struct secrets *secrets, struct secrets_lookup *lookup);
void secrets_lookup_free(struct secrets_lookup *lookup); /* NULL is allowed; wipes it */

/* Whether auth_file can be read, with how many users, and whether auth_query runs, asked for a name
 * that nobody has; true when the configuration has neither. Blocks; for `pgsluice check`. */
MUST_CHECK bool secrets_try(const struct config *config, size_t *users, struct failure *f);
