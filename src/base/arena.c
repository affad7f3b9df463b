/*
 * Bump allocation: a chain of blocks, the newest first; only the newest is
 * filled. A request larger than a block gets one of its own behind the newest,
 * so that the room left in the newest is not lost.
 */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>

#define ARENA_ALIGN 64
#define ARENA_BLOCK_BYTES ((size_t)64 << 10)

struct arena_block {
    struct arena_block *next;
    size_t used, cap; /* bytes behind the header */
};

#define HEADER_BYTES ((size_t)ARENA_ALIGN)
_Static_assert(sizeof(struct arena_block) <= ARENA_ALIGN, "the header fills one unit");

static struct arena_block *block_new(size_t cap)
{
    struct arena_block *b = aligned_alloc(ARENA_ALIGN, HEADER_BYTES + cap);
    if (!b)
        return NULL;
    memset(b, 0, HEADER_BYTES + cap);
    b->cap = cap;
    return b;
}

static void *block_take(struct arena_block *b, size_t bytes)
{
    void *p = (char *)b + HEADER_BYTES + b->used;
    b->used += bytes;
    return p;
}

void *arena_alloc(struct arena *a, size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = align_up(MAX(bytes, 1), ARENA_ALIGN);

    struct arena_block *b = a->head;
    if (!b || b->cap - b->used < bytes) {
        bool own = bytes > ARENA_BLOCK_BYTES / 4;
        b = block_new(own ? bytes : ARENA_BLOCK_BYTES);
        if (!b)
            return NULL;
        if (own && a->head) {
            b->next = a->head->next;
            a->head->next = b;
        } else {
            b->next = a->head;
            a->head = b;
        }
    }
    a->used_bytes += bytes;
    return block_take(b, bytes);
}

void arena_free(struct arena *a)
{
    for (struct arena_block *b = a->head, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *a = (struct arena){0};
}
