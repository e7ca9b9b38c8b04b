/*
 * Memory for one judgement: handed out piece by piece, given back all at once. Used by every file
 * of this room; judge.c owns the arenas.
 *
 * Allocation never returns NULL: without memory it leaves through `out_of_memory`, as PostgreSQL's
 * parser leaves through its own jump, so that the code between stays readable.
 */
#pragma once

#include <setjmp.h>
#include <stddef.h>

struct arena_block;

struct arena {
    struct arena_block *blocks; /* newest first */
    jmp_buf *out_of_memory;     /* set by the caller before the first allocation */
};

/* Aligned for any object, not zeroed. */
void *arena_alloc(struct arena *arena, size_t size);
/* `items` (NULL when `capacity` is 0) with room for at least one more than `count`. */
void *arena_grow(struct arena *arena, void *items, size_t count, size_t *capacity,
                 size_t item_size);
const char *arena_printf(struct arena *arena, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Everything handed out is gone; one block of ordinary size stays for the next judgement. */
void arena_reset(struct arena *arena);
void arena_free(struct arena *arena);
