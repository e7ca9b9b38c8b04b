/*
 * Blocks in a list, the newest one filled from its start. Called by every file of this room; owns
 * the blocks.
 */
#include "rules/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_SIZE = 16 * 1024 };

struct arena_block {
    struct arena_block *older;
    size_t size, used;
    max_align_t data[];
};

void *arena_alloc(struct arena *arena, size_t size)
{
    struct arena_block *block = arena->blocks;
    const size_t unit = sizeof(max_align_t);
    if (size > SIZE_MAX / 2) {
        longjmp(*arena->out_of_memory, 1);
    }
    size = (size + unit - 1) / unit * unit;
    if (block == NULL || block->size - block->used < size) {
        size_t room = size > BLOCK_SIZE ? size : BLOCK_SIZE;
        block = malloc(sizeof *block + room);
        if (block == NULL) {
            longjmp(*arena->out_of_memory, 1);
        }
        *block = (struct arena_block){.older = arena->blocks, .size = room};
        arena->blocks = block;
    }
    void *piece = (char *)block->data + block->used;
    block->used += size;
    return piece;
}

void *arena_grow(struct arena *arena, void *items, size_t count, size_t *capacity, size_t item_size)
{
    if (count < *capacity) {
        return items;
    }
    *capacity = *capacity == 0 ? 8 : *capacity * 2;
    void *bigger = arena_alloc(arena, *capacity * item_size);
    if (count > 0) {
        memcpy(bigger, items, count * item_size);
    }
    return bigger;
}

const char *arena_printf(struct arena *arena, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    size_t size = len < 0 ? 1 : (size_t)len + 1;
    char *text = arena_alloc(arena, size);
    text[0] = '\0';
    vsnprintf(text, size, fmt, again);
    va_end(again);
    return text;
}

void arena_reset(struct arena *arena)
{
    struct arena_block *block = arena->blocks, *kept = NULL;
    while (block != NULL) {
        struct arena_block *older = block->older;
        if (kept == NULL && block->size == BLOCK_SIZE) {
            kept = block;
            kept->older = NULL;
            kept->used = 0;
        } else {
            free(block);
        }
        block = older;
    }
    arena->blocks = kept;
}

void arena_free(struct arena *arena)
{
    while (arena->blocks != NULL) {
        struct arena_block *older = arena->blocks->older;
        free(arena->blocks);
        arena->blocks = older;
    }
}
