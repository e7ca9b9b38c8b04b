/*
 * How many client connections each user and each database has, over all workers:
 * max_user_client_connections and max_db_client_connections. A connection counts from its start-up
 * packet on, as in PgBouncer, until it is closed; cancel requests do not count.
 */
#pragma once

#include <stdint.h>

#include "proxy/failure.h"

struct limits;

enum limits_result {
    LIMITS_ENTERED,
    LIMITS_USER_FULL,
    LIMITS_DATABASE_FULL,
    LIMITS_NO_MEMORY,
};

/* NULL when out of memory. */
struct limits *limits_new(void);
/* After the last session. */
void limits_free(struct limits *limits);

/* Any thread. Counts one more connection of `user` and of `database`, unless one of them has as
 * many as it may (0: any number): then nothing is counted. Names are told apart as the server does,
 * by their first 63 bytes. */
MUST_CHECK enum limits_result limits_enter(struct limits *limits, const char *user,
                                           const char *database, uint32_t user_max,
                                           uint32_t database_max);
/* Once for each LIMITS_ENTERED, with the same names. */
void limits_leave(struct limits *limits, const char *user, const char *database);
