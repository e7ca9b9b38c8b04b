/* A hash of cancel keys under one lock; see registry.h. */
#include "proxy/session/registry.h"

#include "protocol/bytes.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

struct node {
    UT_hash_handle hh;
    struct registry_entry entry;
    uint16_t len;
    uint8_t bytes[];
};

struct registry {
    pthread_mutex_t lock;
    struct node *nodes;
};

struct registry *registry_new(void)
{
    struct registry *registry = calloc(1, sizeof *registry);
    if (registry != NULL) {
        pthread_mutex_init(&registry->lock, NULL);
    }
    return registry;
}

void registry_free(struct registry *registry)
{
    if (registry == NULL) {
        return;
    }
    struct node *node, *next;
    HASH_ITER(hh, registry->nodes, node, next)
    {
        HASH_DEL(registry->nodes, node);
        free(node);
    }
    pthread_mutex_destroy(&registry->lock);
    free(registry);
}

static struct node *find_locked(struct registry *registry, const struct registry_key *key)
{
    struct node *node;
    HASH_FIND(hh, registry->nodes, key->bytes, key->len, node);
    return node;
}

bool registry_put(struct registry *registry, const struct registry_key *key,
                  const struct registry_entry *entry)
{
    struct node *node = malloc(sizeof *node + key->len);
    if (node == NULL) {
        return false;
    }
    node->entry = *entry;
    node->len = key->len;
    memcpy(node->bytes, key->bytes, key->len);
    pthread_mutex_lock(&registry->lock);
    struct node *old = find_locked(registry, key);
    if (old != NULL) {
        HASH_DEL(registry->nodes, old);
        free(old);
    }
    bool added = true;
    node->hh.tbl = NULL;
    HASH_ADD_KEYPTR(hh, registry->nodes, node->bytes, node->len, node);
    if (node->hh.tbl == NULL) {
        free(node);
        added = false;
    }
    pthread_mutex_unlock(&registry->lock);
    return added;
}

void registry_set_held(struct registry *registry, const struct registry_key *key, bool held)
{
    pthread_mutex_lock(&registry->lock);
    struct node *node = find_locked(registry, key);
    if (node != NULL) {
        node->entry.held = held;
    }
    pthread_mutex_unlock(&registry->lock);
}

void registry_remove(struct registry *registry, const struct registry_key *key)
{
    pthread_mutex_lock(&registry->lock);
    struct node *node = find_locked(registry, key);
    if (node != NULL) {
        HASH_DEL(registry->nodes, node);
        free(node);
    }
    pthread_mutex_unlock(&registry->lock);
}

bool registry_find(struct registry *registry, const struct registry_key *key,
                   struct registry_entry *out)
{
    pthread_mutex_lock(&registry->lock);
    struct node *node = find_locked(registry, key);
    if (node != NULL) {
        *out = node->entry;
    }
    pthread_mutex_unlock(&registry->lock);
    return node != NULL;
}

bool registry_has_process(struct registry *registry, uint32_t pid)
{
    bool found = false;
    struct node *node, *next;
    pthread_mutex_lock(&registry->lock);
    HASH_ITER(hh, registry->nodes, node, next)
    {
        found = found || (node->len >= 4 && load_u32(node->bytes) == pid);
    }
    pthread_mutex_unlock(&registry->lock);
    return found;
}

size_t registry_processes(struct registry *registry, uint32_t *out, size_t most)
{
    size_t count = 0;
    struct node *node, *next;
    pthread_mutex_lock(&registry->lock);
    HASH_ITER(hh, registry->nodes, node, next)
    {
        if (node->len >= 4 && count < most) {
            out[count++] = load_u32(node->bytes);
        }
    }
    pthread_mutex_unlock(&registry->lock);
    return count;
}
