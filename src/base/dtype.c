/*
 * The weight types of GGUF: name, elements in a block, bytes of a block.
 *
 * Facts of the format, complete for every id in use, so that any file can be
 * described even where no kernel can compute with it.
 */
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
    [16] = {"IQ2_XXS", 256, 66},
    [17] = {"IQ2_XS", 256, 74},
    [18] = {"IQ3_XXS", 256, 98},
    [19] = {"IQ1_S", 256, 50},
    [21] = {"IQ3_S", 256, 110},
    [22] = {"IQ2_S", 256, 82},
    [DT_I8] = {"I8", 1, 1},
    [DT_I16] = {"I16", 1, 2},
    [DT_I32] = {"I32", 1, 4},
    [DT_I64] = {"I64", 1, 8},
    [DT_F64] = {"F64", 1, 8},
    [29] = {"IQ1_M", 256, 56},
    [DT_BF16] = {"BF16", 1, 2},
    [34] = {"TQ1_0", 256, 54},
    [35] = {"TQ2_0", 256, 66},
    [40] = {"NVFP4", 64, 36},
    [41] = {"Q1_0", 128, 18},
    [42] = {"Q2_0", 64, 18},
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
