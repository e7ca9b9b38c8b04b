/*
 * TLS with the client, asked for by an SSLRequest or begun at once (direct TLS, PostgreSQL 17), and
 * what client_tls demands of it.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "proxy/log.h"
#include "proxy/service.h"
#include "proxy/session/session.h"

bool handshake_begin(struct session *s)
{
    SSL *tls = service_accept_tls(session_service(s), s->client.fd);
    if (tls == NULL) {
        session_fail(s, "53200", "out of memory");
        return false;
    }
    stream_use_tls(&s->client, tls);
    s->state = SESSION_HANDSHAKE;
    return true;
}

void handshake_look(struct session *s)
{
    /* the first byte of a startup packet is its length's, of a TLS record its type, 22 */
    uint8_t byte;
    bool first =
        s->front.stash_len == 0 && s->client.tls == NULL && !s->asked_ssl && !s->asked_gssenc;
    if (first && service_config(session_service(s))->client_tls.mode != CLIENT_TLS_DISABLE &&
        recv(s->client.fd, &byte, 1, MSG_PEEK) == 1 && byte == 0x16) {
        s->direct_tls = true;
        handshake_begin(s);
    }
}

void handshake_step(struct session *s)
{
    char why[256];
    char subject[512];
    char name[256];
    enum stream_result result = stream_handshake(&s->client);
    if (result == STREAM_AGAIN) {
        return;
    }
    if (result != STREAM_OK || (s->direct_tls && !tls_has_alpn(s->client.tls))) {
        tls_handshake_error(s->client.tls, why, sizeof why);
        log_info("client %s: TLS handshake failed: %s", s->client_name,
                 result == STREAM_OK ? "direct TLS without ALPN protocol \"postgresql\"" : why);
        session_close(s);
        return;
    }
    tls_peer(s->client.tls, subject, sizeof subject, name, sizeof name);
    if (subject[0] != '\0') {
        s->tls_subject = strdup(subject);
        s->tls_name = strdup(name);
    }
    s->state = SESSION_STARTUP;
}

bool handshake_check(struct session *s)
{
    enum client_tls mode = service_config(session_service(s))->client_tls.mode;
    if (mode >= CLIENT_TLS_REQUIRE && s->client.tls == NULL) {
        session_fail(s, "28000", "pgsluice takes TLS connections only (client_tls)");
        return false;
    }
    if (mode == CLIENT_TLS_VERIFY_FULL &&
        (s->tls_name == NULL || strcmp(s->tls_name, s->user) != 0)) {
        session_fail(s, "28000", "certificate authentication failed for user \"%s\"", s->user);
        return false;
    }
    return true;
}
