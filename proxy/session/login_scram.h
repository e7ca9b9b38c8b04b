/*
 * A SCRAM login that pgsluice answers itself; called by login.c for a session in SESSION_LOGIN.
 * Each function may end the session.
 */
#pragma once

#include "proxy/session/session.h"

/* The server asks for a login by `message`, an AuthenticationSASL: true when pgsluice takes it
 * over, with s->login made. */
bool login_scram_begin(struct session *s, const uint8_t *message, size_t size);
/* Asks the client for a login at pgsluice itself, at whose end console_enter() is called. */
void login_scram_alone(struct session *s);
/* A whole Authentication message of the server: true when the login is granted, and the client
 * told. */
bool login_scram_server(struct session *s, const uint8_t *message, size_t size);
/* The server said what does not belong into such a login; `detail` says why. Ends the session. */
void login_scram_malformed(struct session *s, const char *detail);
/* Whether it is the client's turn. */
bool login_scram_reads_client(const struct login *login);
/* What the client sent; returns the bytes consumed. */
size_t login_scram_client(struct session *s, const uint8_t *bytes, size_t len);
void login_scram_free(struct session *s); /* s->login, if there is one; wipes it */
/* login.c: sends to the server. What it does not take any more is told by what it says last. False
 * when the session ended. */
bool login_send(struct session *s, uint8_t *bytes, size_t len);
