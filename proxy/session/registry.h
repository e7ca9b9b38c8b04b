/*
 * Which session a cancel key belongs to. Cancel requests arrive on connections of their own, on any
 * worker; sessions enter their key when the server announces it (BackendKeyData).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REGISTRY_KEY_MAX 260 /* the process id and up to 256 bytes */

struct registry_key {
    uint16_t len;
    uint8_t bytes[REGISTRY_KEY_MAX];
};

struct registry_entry {
    unsigned worker;
    uint64_t session; /* its id */
    size_t host;      /* of the upstream, where its server is */
    bool held;        /* parked at a gate when it was looked up */
};

struct registry;

struct registry *registry_new(void);
void registry_free(struct registry *registry);
/* Any thread. False when out of memory. */
bool registry_put(struct registry *registry, const struct registry_key *key,
                  const struct registry_entry *entry);
void registry_set_held(struct registry *registry, const struct registry_key *key, bool held);
void registry_remove(struct registry *registry, const struct registry_key *key);
/* Whether some session's server process is this one. */
bool registry_has_process(struct registry *registry, uint32_t pid);
/* Up to `most` of the sessions' server processes into `out`; how many there are. */
size_t registry_processes(struct registry *registry, uint32_t *out, size_t most);
bool registry_find(struct registry *registry, const struct registry_key *key,
                   struct registry_entry *out);
