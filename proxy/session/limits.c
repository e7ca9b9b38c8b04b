/* Two hashes of counters under one lock, which is taken twice in a connection's life; see limits.h.
 */
#include "proxy/session/limits.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define NAME_MAX_BYTES 63 /* NAMEDATALEN - 1: the server cuts longer ones */

/* There as long as it counts something. */
struct node {
    UT_hash_handle hh;
    uint32_t count;
    char name[];
};

struct limits {
    pthread_mutex_t lock;
    struct node *users, *databases;
};

struct limits *limits_new(void)
{
    struct limits *limits = calloc(1, sizeof *limits);
    if (limits != NULL) {
        pthread_mutex_init(&limits->lock, NULL);
    }
    return limits;
}

static void free_nodes(struct node **nodes)
{
    struct node *node, *next;
    HASH_ITER(hh, *nodes, node, next)
    {
        HASH_DEL(*nodes, node);
        free(node);
    }
}

void limits_free(struct limits *limits)
{
    if (limits == NULL) {
        return;
    }
    free_nodes(&limits->users);
    free_nodes(&limits->databases);
    pthread_mutex_destroy(&limits->lock);
    free(limits);
}

static struct node *find(struct node *nodes, const char *name)
{
    struct node *node;
    HASH_FIND(hh, nodes, name, strnlen(name, NAME_MAX_BYTES), node);
    return node;
}

static struct node *find_or_add(struct node **nodes, const char *name)
{
    size_t len = strnlen(name, NAME_MAX_BYTES);
    struct node *node = find(*nodes, name);
    if (node != NULL) {
        return node;
    }
    node = calloc(1, sizeof *node + len);
    if (node == NULL) {
        return NULL;
    }
    memcpy(node->name, name, len);
    HASH_ADD_KEYPTR(hh, *nodes, node->name, len, node);
    if (node->hh.tbl == NULL) {
        free(node);
        return NULL;
    }
    return node;
}

static void drop_unused(struct node **nodes, struct node *node)
{
    if (node != NULL && node->count == 0) {
        HASH_DEL(*nodes, node);
        free(node);
    }
}

enum limits_result limits_enter(struct limits *limits, const char *user, const char *database,
                                uint32_t user_max, uint32_t database_max)
{
    enum limits_result result = LIMITS_ENTERED;
    pthread_mutex_lock(&limits->lock);
    struct node *of_user = find_or_add(&limits->users, user);
    struct node *of_database = find_or_add(&limits->databases, database);
    if (of_user == NULL || of_database == NULL) {
        result = LIMITS_NO_MEMORY;
    } else if (user_max > 0 && of_user->count >= user_max) {
        result = LIMITS_USER_FULL;
    } else if (database_max > 0 && of_database->count >= database_max) {
        result = LIMITS_DATABASE_FULL;
    } else {
        of_user->count++;
        of_database->count++;
    }
    drop_unused(&limits->users, of_user);
    drop_unused(&limits->databases, of_database);
    pthread_mutex_unlock(&limits->lock);
    return result;
}

void limits_leave(struct limits *limits, const char *user, const char *database)
{
    pthread_mutex_lock(&limits->lock);
    struct node *of_user = find(limits->users, user);
    struct node *of_database = find(limits->databases, database);
    if (of_user != NULL && of_database != NULL) {
        of_user->count--;
        of_database->count--;
        drop_unused(&limits->users, of_user);
        drop_unused(&limits->databases, of_database);
    }
    pthread_mutex_unlock(&limits->lock);
}
