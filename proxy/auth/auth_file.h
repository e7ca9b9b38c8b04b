/*
 * auth_file, as PgBouncer writes it: a line for each user, "name" "secret", and maybe more behind
 * it; a quote within is doubled; lines that begin with ; or # do not count. A secret is a SCRAM one
 * as in pg_authid, a password, or an md5 one, which is of no use here.
 */
#pragma once

#include <stddef.h>

#include "proxy/failure.h"

struct auth_file;

/* Reads the whole file; `f` names file and line of what is wrong. End with auth_file_free(). */
MUST_CHECK bool auth_file_load(const char *path, struct auth_file **out, struct failure *f);
void auth_file_free(struct auth_file *file); /* NULL is allowed; wipes the secrets */
/* The user's secret, borrowed, or NULL. */
const char *auth_file_find(const struct auth_file *file, const char *user);
size_t auth_file_count(const struct auth_file *file);
