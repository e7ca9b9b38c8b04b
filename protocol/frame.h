/*
 * Framing: where one message ends and the next begins (PostgreSQL documentation, "Message Flow" and
 * "Message Formats"). A header is a type byte and a four-byte length that counts itself.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_HEADER 5
/* The server's own bound on a message (MaxAllocSize); a longer one is a protocol violation. */
#define FRAME_LENGTH_MAX 0x3fffffffu

enum frame_side {
    FRAME_FRONTEND, /* sent by a client */
    FRAME_BACKEND,  /* sent by a server */
};

/* Whether `type` is a message of that side; replication's are among them. */
bool frame_type_known(enum frame_side side, uint8_t type);

/* A length word's value that a message may have. */
static inline bool frame_length_valid(uint32_t length)
{
    return length >= 4 && length <= FRAME_LENGTH_MAX;
}
