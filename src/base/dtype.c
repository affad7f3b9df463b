/*
 * The weight types of GGUF: name, elements in a block, bytes of a block.
 *
 * Facts of the format, complete for every id in use, so that any file can be
 * described even where no kernel can compute with it.
 */
#include <string.h>

#include "base/base.h"

/* clang-format off: one id a line */
static const struct dtype_info types[DT_COUNT] = {
#define ROW(name, NAME, id, elements, bytes, minima, sixteens) [id] = {#NAME, elements, bytes},
    DTYPE_QUANTISED(ROW)
#undef ROW
    [DT_F32] = {"F32", 1, 4},
    [DT_F16] = {"F16", 1, 2},
    [9] = {"Q8_1", 32, 36},
    [15] = {"Q8_K", 256, 292},
    [DT_I8] = {"I8", 1, 1},
    [DT_I16] = {"I16", 1, 2},
    [DT_I32] = {"I32", 1, 4},
    [DT_I64] = {"I64", 1, 8},
    [DT_F64] = {"F64", 1, 8},
    [DT_BF16] = {"BF16", 1, 2},
};
/* clang-format on */

const struct dtype_info *dtype_info(uint32_t id)
{
    return id < DT_COUNT && types[id].block ? &types[id] : NULL;
}

size_t dtype_row_bytes(enum dtype t, int64_t n)
{
    const struct dtype_info *d = dtype_info((uint32_t)t);
    return d ? (size_t)(n / d->block) * d->block_bytes : 0;
}

bool bytes_are_zero(const void *p, size_t n)
{
    static const char zeros[4096];
    for (size_t at = 0; at < n; at += sizeof(zeros))
        if (memcmp((const char *)p + at, zeros, MIN(n - at, sizeof(zeros))) != 0)
            return false;
    return true;
}
