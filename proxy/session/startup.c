/*
 * The client's first packets: negotiation requests, cancel requests, the startup packet. The packet
 * itself goes on to the server as it came (login.c), so that every parameter works as without the
 * proxy.
 */
#include "proxy/session/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/startup.h"
#include "proxy/admin/console.h"
#include "proxy/log.h"
#include "proxy/service.h"

static bool set_string(char **to, struct span from)
{
    char *copy = strndup(from.ptr != NULL ? from.ptr : "", from.len);
    if (copy == NULL) {
        return false;
    }
    free(*to);
    *to = copy;
    return true;
}

/* Returns how many bytes are consumed. The packet stays: it is what the server is sent once
 * connected, to which the caller sees when it has kept it; the console has no server. */
static size_t accept_session(struct session *s, const struct startup *packet)
{
    struct span database = packet->database.len > 0 ? packet->database : packet->user;
    if (!set_string(&s->user, packet->user) || !set_string(&s->database, database) ||
        !set_string(&s->application_name, packet->application_name)) {
        session_fail(s, "53200", "out of memory");
        return 0;
    }
    if (!handshake_check(s)) {
        return 0;
    }
    if (strcmp(s->database, CONSOLE_DATABASE) == 0) {
        console_begin(s, packet);
        return packet->size;
    }
    settings_text(s, packet->options);
    /* REPEATABLE READ or SERIALIZABLE as the session's default */
    if (packet->isolation.len > 0) {
        s->may_snapshot = true;
    }
    if (packet->client_encoding.len > 0) {
        settings_parameter(s, (struct span){"client_encoding", 15}, packet->client_encoding);
    }
    if (session_enter_limits(s)) {
        s->state = SESSION_CONNECTING;
    }
    return 0;
}

/* Of requests with keys that no session here has, so many are carried at once. Each occupies two
 * sockets and a process of the server, and nobody needs to log in to send one. */
enum { STRANGE_CANCELS_MAX = 256 };

static bool enter_strange_cancels(struct session *s)
{
    _Atomic uint32_t *count = &session_service(s)->strange_cancels;
    s->is_strange = atomic_fetch_add(count, 1) < STRANGE_CANCELS_MAX;
    if (!s->is_strange) {
        atomic_fetch_sub(count, 1);
    }
    return s->is_strange;
}

/* A cancel request for a session that is held here is answered here: the server knows nothing of
 * the statement yet. Any other goes to the server, which alone knows whether the key fits: the
 * session may have come by another proxy. */
static void accept_cancel(struct session *s, const struct startup *packet)
{
    struct registry_key key = {.len = (uint16_t)(4 + packet->cancel_key.len)};
    store_u32(key.bytes, packet->cancel_pid);
    memcpy(key.bytes + 4, packet->cancel_key.ptr, packet->cancel_key.len);
    struct registry_entry entry = {.held = false};
    s->is_cancel = true;
    s->host_fixed = registry_find(session_service(s)->registry, &key, &entry);
    s->host = entry.host;
    if (entry.held) {
        struct mail *mail = mail_new(MAIL_CANCEL);
        if (mail != NULL) {
            mail->key = key;
            worker_post(session_service(s)->workers[entry.worker], mail);
        }
        session_close(s);
        return;
    }
    if (!s->host_fixed && !enter_strange_cancels(s)) {
        session_close(s);
        return;
    }
    s->state = SESSION_CONNECTING;
}

/* The server's own words; a client of protocol 2 reads an error without length and fields. */
static void refuse_protocol(struct session *s, const struct startup *packet)
{
    if (packet->major >= 3) {
        session_fail(s, "0A000", "unsupported frontend protocol %u.%u: server supports 3.0 to 3.0",
                     packet->major, packet->minor);
        return;
    }
    char text[128];
    struct writer w;
    writer_init(&w, sizeof text + 1);
    snprintf(text, sizeof text,
             "FATAL:  unsupported frontend protocol %u.%u: server supports 3.0 to 3.0\n",
             packet->major, packet->minor);
    writer_u8(&w, 'E');
    writer_cstr(&w, text);
    session_reply(s, &w);
    writer_fini(&w);
    session_close(s);
}

/* True when the client may go on with its next packet; TLS may have begun instead. */
static bool answer_negotiation(struct session *s, const struct startup *packet, size_t behind)
{
    bool *asked = packet->kind == STARTUP_SSL ? &s->asked_ssl : &s->asked_gssenc;
    if (*asked || s->client.tls != NULL) {
        refuse_protocol(s, packet);
        return false;
    }
    *asked = true;
    bool accepts = packet->kind == STARTUP_SSL &&
                   service_config(session_service(s))->client_tls.mode != CLIENT_TLS_DISABLE;
    if (accepts && behind > 0) {
        /* somebody in between may have put it there */
        session_fail(s, "08P01", "received unencrypted data after SSL request");
        return false;
    }
    struct writer w;
    writer_init(&w, 16);
    writer_u8(&w, accepts ? 'S' : 'N');
    bool sent = session_reply(s, &w);
    writer_fini(&w);
    return sent && (!accepts || handshake_begin(s));
}

size_t startup_consume(struct session *s, const uint8_t *bytes, size_t len)
{
    size_t used = 0;
    for (;;) {
        struct startup packet = startup_read(bytes + used, len - used);
        switch (packet.kind) {
        case STARTUP_INCOMPLETE:
            return used;
        case STARTUP_INVALID:
            session_fail(s, "08P01", "invalid length of startup packet");
            return used;
        case STARTUP_SSL:
        case STARTUP_GSSENC:
            if (!answer_negotiation(s, &packet, len - used - packet.size)) {
                return used;
            }
            used += packet.size;
            break;
        case STARTUP_CANCEL:
            accept_cancel(s, &packet);
            return used;
        case STARTUP_CANCEL_INVALID:
            session_close(s);
            return used;
        case STARTUP_PROTOCOL_3:
            return used + accept_session(s, &packet);
        case STARTUP_PROTOCOL_OTHER:
            if (packet.major > 3) {
                /* the server names the versions that it speaks */
                used += accept_session(s, &packet);
            } else {
                refuse_protocol(s, &packet);
            }
            return used;
        }
    }
}
