/*
 * Peers' addresses: how they are written, and whether they lie within the networks that a setting
 * names. An IPv4 address that arrives on an IPv6 socket counts, and is written, as IPv4.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* "[", an IPv6 address, "]:", a port, and some more for a unix peer's process and host. */
#define ADDRESS_NAME_MAX 128

struct config_network;

/* The address of the peer of `fd`; its family is AF_UNSPEC when it has gone away. */
struct sockaddr_storage address_of_peer(int fd);
/* Made of an address as a PROXY header has it: 4 or 16 bytes. */
struct sockaddr_storage address_of_bytes(const uint8_t *bytes, size_t len, uint16_t port);
/* "192.0.2.1:5432", "[2001:db8::1]:5432" or "unix"; "(gone)" for AF_UNSPEC. */
void address_name(const struct sockaddr_storage *address, char *room, size_t size);
/* As PgBouncer writes the peer of a unix socket: "unix(PID@HOST):PORT", the port being the one in
 * the socket's own name (0 where it has none). */
void address_name_unix(int fd, char *room, size_t size);
/* A unix peer is in no network but that which says so. */
bool address_is_within(const struct sockaddr_storage *address,
                       const struct config_network *networks, size_t count);
