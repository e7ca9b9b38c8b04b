/*
 * A SCRAM login that pgsluice answers itself; called by login.c for a session in SESSION_LOGIN. Each
 * function may end the session.
 */
#pragma once

#include "proxy/session/session.h"

/* The server asks for a login by `message`, an AuthenticationSASL: true when pgsluice takes it over, with
 * s->login made. */
bool login_scram_begin(struct session *s, const uint8_t *message, size_t size);
/* A whole Authentication message of the server: true when the login is granted, and the client told. */
bool login_scram_server(struct session *s, const uint8_t *message, size_t size);
/* Whether it is the client's turn. */
bool login_scram_reads_client(const struct login *login);
/* What the client sent; returns the bytes consumed. */
size_t login_scram_client(struct session *s, const uint8_t *bytes, size_t len);
void login_scram_free(struct login *login); /* NULL is allowed; wipes it */
