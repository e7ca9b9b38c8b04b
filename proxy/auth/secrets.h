/*
 * The SCRAM secrets of the users whose logins pgsluice answers itself (session/login.c): from
 * auth_file, and for users who are not there from auth_query on a control connection. Shared by all
 * workers.
 */
#pragma once

#include "protocol/scram.h"
#include "proxy/config.h"
#include "proxy/failure.h"

struct secrets;

/* NULL in *out when the configuration has neither auth_file nor auth_query. */
MUST_CHECK bool secrets_open(const struct config *config, struct secrets **out, struct failure *f);
/* Ends a question to the server that is under way, and all to come; NULL is allowed. Any thread. */
void secrets_stop(struct secrets *secrets);
void secrets_close(struct secrets *secrets); /* NULL is allowed; nobody uses it any more */
/* Reads config->auth_file again and asks config->auth_query from now on. Any thread. */
MUST_CHECK bool secrets_reload(struct secrets *secrets, const struct config *config,
                               struct failure *f);

enum secrets_result {
    SECRETS_FOUND,
    SECRETS_NONE,   /* no such user, or none that can log in by SCRAM; `f` says why, for the log */
    SECRETS_FAILED, /* it cannot be known now: auth_query failed; `f` says why */
};

/* The secret of `user`. From a password it is made with salt and iterations of `like`, the server's
 * own. Blocks: up to seconds for auth_query, milliseconds for a password; so not for an event
 * loop's thread. Any thread. The caller wipes *out. */
enum secrets_result secrets_find(struct secrets *secrets, const char *user,
                                 const struct scram_secret *like, struct scram_secret *out,
                                 struct failure *f);
