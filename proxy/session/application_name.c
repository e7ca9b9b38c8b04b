/*
 * application_name_add_host: the server is told where the client is, which it cannot see itself. As
 * in PgBouncer this concerns the start-up packet only; a later SET is the client's own.
 */
#include "proxy/session/session.h"

#include <stdio.h>
#include <string.h>

#include "protocol/startup.h"
#include "proxy/net/address.h"
#include "proxy/service.h"

#define NAMELESS "app" /* PgBouncer's word for a client that gives no name */

bool application_name_packet(const struct session *s, const uint8_t *packet, size_t size,
                             struct writer *w)
{
    if (!service_config(session_service(s))->application_name_add_host) {
        return false;
    }
    char unix_name[ADDRESS_NAME_MAX];
    const char *host = s->client_name;
    if (!s->client_proxied && address_of_peer(s->client.fd).ss_family == AF_UNIX) {
        address_name_unix(s->client.fd, unix_name, sizeof unix_name);
        host = unix_name;
    }
    /* the server keeps 63 bytes; so long a name leaves no room for a host at all */
    char name[STARTUP_LENGTH_MAX];
    bool named = s->application_name != NULL && s->application_name[0] != '\0';
    int len = snprintf(name, sizeof name, "%s - %s", named ? s->application_name : NAMELESS, host);
    return len > 0 && (size_t)len < sizeof name &&
           startup_write_application_name(w, packet, size, name);
}
