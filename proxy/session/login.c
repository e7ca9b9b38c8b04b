/*
 * The login at the server, from the startup packet to the point where the relay begins. Mostly the
 * client and the server do it between themselves, and the relay begins with the server's first
 * answer; but a refusal may be worth another connection (connect.c), and a SCRAM login may be
 * pgsluice's own to answer (login_scram.c).
 */
#include <stdlib.h>
#include <string.h>

#include "protocol/frame.h"
#include "protocol/message.h"
#include "protocol/startup.h"
#include "proxy/log.h"
#include "proxy/service.h"
#include "proxy/session/login_scram.h"

bool login_send(struct session *s, uint8_t *bytes, size_t len)
{
    struct iovec iov = {.iov_base = bytes, .iov_len = len};
    switch (stream_send(&s->server, &iov, 1)) {
    case STREAM_OK:
        return true;
    case STREAM_NO_MEMORY:
        session_fail(s, "53200", "out of memory");
        return false;
    case STREAM_AGAIN:
    case STREAM_EOF:
    case STREAM_BROKEN:
        break;
    }
    s->server_gone = true; /* its last words may be there to read */
    return true;
}

/* The packet waits at the head of the stash, and stays there while it may have to be sent again. */
static bool send_packet(struct session *s)
{
    size_t size = startup_read(s->front.stash, s->front.stash_len).size;
    struct writer renamed;
    writer_init(&renamed, STARTUP_LENGTH_MAX);
    bool is_renamed = application_name_packet(s, s->front.stash, size, &renamed);
    bool sent = is_renamed ? login_send(s, renamed.bytes, renamed.len)
                           : login_send(s, s->front.stash, size);
    writer_fini(&renamed);
    return sent;
}

/* The server goes on with this login: no other connection will be tried. */
static void settle(struct session *s)
{
    struct intake *in = &s->front;
    size_t size = startup_read(in->stash, in->stash_len).size;
    s->settled = true;
    connect_fini(s);
    in->stash_len -= size;
    memmove(in->stash, in->stash + size, in->stash_len);
    if (in->stash_len == 0) {
        free(in->stash);
        in->stash = NULL;
        in->stash_room = 0;
    }
}

static void begin_relay(struct session *s)
{
    if (!s->settled) {
        settle(s);
    }
    login_fini(s);
    s->state = SESSION_RELAY;
}

void login_begin(struct session *s)
{
    s->state = SESSION_LOGIN;
    if (send_packet(s) && s->is_cancel) {
        begin_relay(s); /* the answer is the connection's end */
        session_resume(s);
    }
}

static bool is_refused(struct session *s, const uint8_t *message, size_t size)
{
    struct message_error error;
    return !s->settled && message_read_error(message, size, &error) && error.sqlstate != NULL &&
           connect_otherwise(s, error.sqlstate);
}

static bool forward(struct session *s, uint8_t *message, size_t size)
{
    struct iovec iov = {.iov_base = message, .iov_len = size};
    if (stream_send(&s->client, &iov, 1) != STREAM_OK) {
        session_close(s);
        return false;
    }
    return true;
}

/* In a login that pgsluice answers, nothing may reach the client but what belongs into it: a grant
 * above all is worth what the client has proved. */
static void take_answer(struct session *s, uint8_t *message, size_t size)
{
    if (message[0] == 'R' && login_scram_server(s, message, size)) {
        begin_relay(s);
    } else if (message[0] == 'E') {
        if (forward(s, message, size)) {
            s->fatal = true;
            session_server_ended(s);
        }
    } else if (message[0] != 'R') {
        login_scram_malformed(s, "It is no message of authentication.");
    }
}

/* One whole message. False when the login is over one way or the other: with the message consumed
 * (*consumed) or left to the relay. */
static bool take(struct session *s, uint8_t *message, size_t size, bool *consumed)
{
    *consumed = true;
    if (message[0] == 'E' && is_refused(s, message, size)) {
        return false;
    }
    if (!s->settled) {
        settle(s);
    }
    if (message[0] == 'N' || message[0] == 'v') {
        return forward(s, message, size);
    }
    if (s->login != NULL) {
        take_answer(s, message, size);
        return s->state == SESSION_LOGIN;
    }
    if (message[0] == 'R' && login_scram_begin(s, message, size)) {
        return s->state == SESSION_LOGIN;
    }
    begin_relay(s);
    *consumed = false;
    return false;
}

/* Too long to be looked at. */
static void take_endless(struct session *s)
{
    if (s->login != NULL) {
        login_scram_malformed(s, "It is too long.");
    } else {
        begin_relay(s);
    }
}

size_t login_consume_server(struct session *s, uint8_t *bytes, size_t len)
{
    size_t at = 0;
    bool goes_on = true;
    while (goes_on && len - at >= FRAME_HEADER) {
        uint32_t length = load_u32(bytes + at + 1);
        size_t size = 1 + (size_t)length;
        if (!frame_length_valid(length) || size > WORKER_BUFFER) {
            take_endless(s);
            break;
        }
        if (len - at < size) {
            s->back.need = size;
            return at;
        }
        bool consumed;
        goes_on = take(s, bytes + at, size, &consumed);
        at += consumed ? size : 0;
    }
    return s->state == SESSION_RELAY ? at + backend_consume(s, bytes + at, len - at) : at;
}

bool login_reads_client(const struct session *s)
{
    return s->login != NULL && login_scram_reads_client(s->login);
}

size_t login_consume_client(struct session *s, const uint8_t *bytes, size_t len)
{
    return login_reads_client(s) ? login_scram_client(s, bytes, len) : 0;
}

void login_fini(struct session *s)
{
    login_scram_free(s);
}
