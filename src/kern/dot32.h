/*
 * dot32: words of panel_tmpl.h for instruction sets whose dot product adds to
 * 32 bits, so that wide_dot's accumulator already is what is wanted. Included
 * by a simd_NAME.h after `wide` and BIAS.
 */
#ifndef KERN_DOT32_H
#define KERN_DOT32_H

INLINE int wide_steps(int top)
{
    (void)top;
    return 8;
}

INLINE wide wide_sums(wide acc)
{
    return acc;
}

struct token_bias {
    int32_t half[2], block;
};

INLINE struct token_bias token_bias(const int8_t q[32], const int16_t h[2])
{
    (void)q;
    return (struct token_bias){{-BIAS * h[0], -BIAS * h[1]}, -BIAS * (h[0] + h[1])};
}

#endif
