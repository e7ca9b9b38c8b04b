/* Writes and compares peers' addresses; see address.h. */
#include "proxy/net/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "proxy/config.h"

static const uint8_t mapped_v4[12] = {[10] = 0xff, [11] = 0xff};

static struct sockaddr_storage of_v4(const void *bytes, in_port_t port)
{
    struct sockaddr_storage address = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&address;
    in->sin_family = AF_INET;
    in->sin_port = port;
    memcpy(&in->sin_addr, bytes, sizeof in->sin_addr);
    return address;
}

/* An IPv4 address behind ::ffff: becomes what it is. */
static struct sockaddr_storage unmapped(struct sockaddr_storage address)
{
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address;
    if (address.ss_family != AF_INET6 ||
        memcmp(&in6->sin6_addr, mapped_v4, sizeof mapped_v4) != 0) {
        return address;
    }
    return of_v4(in6->sin6_addr.s6_addr + sizeof mapped_v4, in6->sin6_port);
}

struct sockaddr_storage address_of_peer(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof address;
    if (getpeername(fd, (struct sockaddr *)&address, &len) != 0) {
        address.ss_family = AF_UNSPEC;
    }
    return unmapped(address);
}

struct sockaddr_storage address_of_bytes(const uint8_t *bytes, size_t len, uint16_t port)
{
    if (len == sizeof(struct in_addr)) {
        return of_v4(bytes, htons(port));
    }
    struct sockaddr_storage address = {0};
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address;
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(port);
    memcpy(&in6->sin6_addr, bytes, sizeof in6->sin6_addr);
    return unmapped(address);
}

void address_name(const struct sockaddr_storage *address, char *room, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "";
    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        snprintf(room, size, "%s:%d", host, ntohs(in->sin_port));
    } else if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
        snprintf(room, size, "[%s]:%d", host, ntohs(in6->sin6_port));
    } else {
        snprintf(room, size, address->ss_family == AF_UNIX ? "unix" : "(gone)");
    }
}

void address_name_unix(int fd, char *room, size_t size)
{
    char host[64] = "";
    struct ucred peer = {0};
    socklen_t len = sizeof peer;
    struct sockaddr_un un = {0};
    socklen_t un_len = sizeof un - 1;
    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len);
    getsockname(fd, (struct sockaddr *)&un, &un_len);
    gethostname(host, sizeof host - 1);
    /* an abstract socket's name begins with a NUL */
    const char *name = un.sun_path[0] == '\0' ? un.sun_path + 1 : un.sun_path;
    const char *port = strstr(name, ".s.PGSQL.");
    snprintf(room, size, "unix(%d@%s):%ld", (int)peer.pid, host,
             port != NULL ? strtol(port + strlen(".s.PGSQL."), NULL, 10) : 0);
}

static bool same_bits(const uint8_t *a, const uint8_t *b, unsigned bits)
{
    unsigned whole = bits / 8;
    unsigned rest = bits % 8;
    uint8_t mask = (uint8_t)(0xff00u >> rest);
    return memcmp(a, b, whole) == 0 && (rest == 0 || ((a[whole] ^ b[whole]) & mask) == 0);
}

static bool is_within(const struct sockaddr_storage *address, const struct config_network *network)
{
    if (network->family != address->ss_family) {
        return false;
    }
    switch (address->ss_family) {
    case AF_UNIX:
        return true;
    case AF_INET: {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        return same_bits((const uint8_t *)&in->sin_addr, network->address, network->bits);
    }
    case AF_INET6: {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
        return same_bits(in6->sin6_addr.s6_addr, network->address, network->bits);
    }
    default:
        return false;
    }
}

bool address_is_within(const struct sockaddr_storage *address,
                       const struct config_network *networks, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (is_within(address, &networks[i])) {
            return true;
        }
    }
    return false;
}
