/*
 * The PROXY protocol header that proxy_protocol = require demands ahead of everything else, TLS
 * included: whose connection it is that a load balancer hands on. Exactly the header is read, so
 * that what comes behind it is where TLS and the start-up packet expect it.
 */
#include "proxy/session/session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "protocol/proxy_header.h"
#include "proxy/log.h"
#include "proxy/net/address.h"
#include "proxy/service.h"

/* Whom to believe is a setting; a unix socket is a client's own unless the setting names it. */
bool proxied_is_due(const struct session *s, const struct sockaddr_storage *peer)
{
    const struct config *config = service_config(session_service(s));
    return config->proxy_protocol &&
           (peer->ss_family != AF_UNIX ||
            address_is_within(peer, config->proxy_from, config->proxy_from_count));
}

/* True when the header may be read on. */
static bool is_trusted(struct session *s)
{
    const struct config *config = service_config(session_service(s));
    struct sockaddr_storage peer = address_of_peer(s->client.fd);
    if (address_is_within(&peer, config->proxy_from, config->proxy_from_count)) {
        return true;
    }
    if (peer.ss_family == AF_UNSPEC) {
        session_close(s); /* as health checks end: with a reset */
        return false;
    }
    session_fail(s, "28000",
                 "pgsluice takes connections from its load balancers only (proxy_protocol_from)");
    return false;
}

static void stash_drop(struct intake *in)
{
    free(in->stash);
    in->stash = NULL;
    in->stash_len = in->stash_room = 0;
}

/* Room for the header's first `size` bytes. */
static bool stash_grow(struct intake *in, size_t size)
{
    if (in->stash_room >= size) {
        return true;
    }
    uint8_t *grown = realloc(in->stash, size);
    if (grown == NULL) {
        return false;
    }
    in->stash = grown;
    in->stash_room = size;
    return true;
}

/* The client is who the header says. */
static void rename_client(struct session *s, const struct proxy_header *header)
{
    char name[ADDRESS_NAME_MAX] = "unix";
    if (header->kind != PROXY_HEADER_UNIX) {
        size_t len = header->kind == PROXY_HEADER_TCP4 ? 4 : 16;
        struct sockaddr_storage address = address_of_bytes(header->address, len, header->port);
        address_name(&address, name, sizeof name);
    }
    char *copy = strdup(name);
    if (copy == NULL) {
        session_fail(s, "53200", "out of memory");
        return;
    }
    log_debug("client %s: of %s", s->client_name, copy);
    free(s->client_name);
    s->client_name = copy;
    s->client_proxied = true;
}

/* True while more of the header may be there. */
static bool take(struct session *s, const struct proxy_header *header)
{
    switch (header->kind) {
    case PROXY_HEADER_INCOMPLETE:
        return true;
    case PROXY_HEADER_MISSING:
        session_fail(s, "08P01",
                     "the connection does not begin with the PROXY protocol header that "
                     "proxy_protocol = require demands");
        return false;
    case PROXY_HEADER_VERSION_1:
        session_fail(s, "08P01",
                     "PROXY protocol version 1: pgsluice takes version 2 (HAProxy: send-proxy-v2)");
        return false;
    case PROXY_HEADER_INVALID:
        session_fail(s, "08P01", "invalid PROXY protocol header: %s", header->why);
        return false;
    case PROXY_HEADER_TCP4:
    case PROXY_HEADER_TCP6:
    case PROXY_HEADER_UNIX:
        rename_client(s, header);
        break;
    case PROXY_HEADER_LOCAL:
        break;
    }
    if (s->state != SESSION_CLOSING) {
        stash_drop(&s->front);
        s->state = SESSION_STARTUP;
    }
    return false;
}

void proxied_step(struct session *s)
{
    struct intake *in = &s->front;
    struct proxy_header header;
    if (in->stash_len == 0 && !is_trusted(s)) {
        return;
    }
    do {
        header = proxy_header_read(in->stash, in->stash_len);
        if (!stash_grow(in, header.size)) {
            session_fail(s, "53200", "out of memory");
            return;
        }
        ssize_t n = recv(s->client.fd, in->stash + in->stash_len, header.size - in->stash_len, 0);
        if (n <= 0) {
            if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
                session_close(s); /* as a health check does that says nothing */
            }
            return;
        }
        in->stash_len += (size_t)n;
        header = proxy_header_read(in->stash, in->stash_len);
    } while (take(s, &header));
}
