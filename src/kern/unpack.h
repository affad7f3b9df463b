/*
 * unpack: what an unpack_NAME.h offers to the loops of mulq_tmpl.h,
 * panel_tmpl.h and mulf_tmpl.h: weight groups (group.h) in registers, over the
 * types of its simd_NAME.h (see simd_x86.h for the words).
 *
 * For each quantised format two functions and one line:
 *   scales_X(w)   the group's scales and minima, lane = 32-block. Formats with a
 *                 scale for each 32-block use scale[0], min[0]; the ones with a
 *                 scale for each sixteen have those of the first sixteens of the
 *                 blocks in [0], of the second in [1].
 *   pair_X(w, p)  32-blocks 2 p and 2 p + 1 of the group, two registers of bytes:
 *                 the element plus the format's offset. p is a literal. Crossed
 *                 ones, where that is cheaper, hold the first sixteens of both
 *                 blocks, then the second.
 *   UNPACKED(X, offset, top, crossed)
 *                 what pair_X added to each element, the largest byte that it
 *                 gives, and whether it is crossed
 * Bytes are unsigned, but in formats with SIGNED_128 whose top is above 127.
 * The functions read within the bytes of a full group.
 */
#ifndef KERN_UNPACK_H
#define KERN_UNPACK_H

#include "kern/group.h"

struct scales {
    f32x8 scale[2], min[2];
};

struct pair {
    i8x32 q[2];
};

#define UNPACKED(name, offset, top, crossed)                                   \
    enum { name##_offset = offset, name##_top = top, name##_crossed = crossed }

/* What the loops must know of a format; every use is inlined with literals. */
struct format {
    struct scales (*scales)(const uint8_t *w);
    struct pair (*pair)(const uint8_t *w, int p);
    int block, bytes; /* elements and bytes of a block */
    int offset, top;  /* of UNPACKED */
    bool has_min;
    bool sixteens;    /* a scale for each sixteen, not for each 32-block */
    bool crossed;     /* of UNPACKED */
};

#endif
