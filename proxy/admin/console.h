/*
 * The console: what `psql pgsluice` talks to, as PgBouncer's users know it. A session whose client
 * asks for the database "pgsluice" has no server: its simple queries (SHOW ..., RELOAD, SHUTDOWN)
 * are answered here, on its worker, from what other threads publish; what only the other workers
 * know of their sessions is gathered by mail (console_clients.c).
 *
 * Over a unix socket the proxy's own user, or root, comes in as user pgsluice without a password.
 * Anybody else is one of admin_users or stats_users and logs in by SCRAM, with the secret that
 * auth_file or auth_query has.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/bytes.h"
#include "protocol/startup.h"

#define CONSOLE_DATABASE "pgsluice"

struct config;
struct console_gather;
struct mail;
struct session;
struct worker;

/* The client asked for the console. May end the session. */
void console_begin(struct session *s, const struct startup *packet);
/* The client has proved who it is. May end the session. */
void console_enter(struct session *s);
/* What the client sent; returns the bytes consumed. */
size_t console_consume(struct session *s, const uint8_t *bytes, size_t len);

/* console_show.c: appends the answer to SHOW `what` (in upper case) from columns to
 * CommandComplete. False when there is no such thing. */
bool console_show(const struct session *s, const char *what, struct writer *w);

/* console_clients.c */
/* Begins to gather SHOW CLIENTS; console_gathered() follows. False when out of memory. */
bool console_gather(struct session *s);
/* MAIL_CLIENTS: adds this worker's sessions and takes `mail` on to the next one, or home. */
void console_gather_here(struct worker *worker, struct console_gather *gather);
void console_gather_free(struct console_gather *gather);
/* console.c: the rows are there. */
void console_gathered(struct session *s, struct writer *rows);
