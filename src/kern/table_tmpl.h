/*
 * table_tmpl: a whole table as constant data. Included after the simd_NAME.h
 * and unpack_NAME.h of an instruction set, so that nothing of it has to be run
 * before the processor is asked for (kern.c).
 */
#ifndef KERN_TABLE_TMPL_H
#define KERN_TABLE_TMPL_H

#include "kern/mulf_tmpl.h"
#include "kern/vec_tmpl.h"

#define QUANTISED_ROW(name_, NAME, id, elements, bytes, minima, sixteens)                   \
    .mulf[id] = mulf_##name_, .mulq[id] = mulq_##name_, .panel_rows[id] = panel_rows_##name_, \
    .mul_panels[id] = MUL_PANELS(name_, minima, sixteens),

#define KERN_TABLE(name_)                                                                   \
    {                                                                                       \
        .name = name_, .quantize = quantize, .tile_rows = PANEL_ROWS,                        \
        .tile_tokens = PANEL_TOKENS, .panel_tokens = panel_tokens, .mulf[DT_F32] = mulf_f32,   \
        .mulf[DT_F16] = mulf_f16, .mulf[DT_BF16] = mulf_bf16,                               \
        DTYPE_QUANTISED(QUANTISED_ROW) VEC_TABLE                                            \
    }

#endif
