/*
 * simd_portable: the 16-lane vector of vec_tmpl.h in plain C.
 *
 * This file is the definition; simd_avx2.h and simd_avx512.h offer the same
 * names with the same results, bit for bit (payloads of NaN excepted: a NaN
 * stays a NaN, which one is not promised). The same operations in each:
 *
 *   vf, vi, vm            16 floats, 16 32-bit integers, 16 truth values
 *   v_load, v_store       unaligned; *_n: the first n < 16 lanes only, memory
 *                         behind them is not touched, missing lanes are `fill`
 *   v_fma(a, b, c)        a * b + c rounded once; v_fnma: c - a * b
 *   v_max(a, b)           a > b ? a : b, so a NaN in a gives b
 *   v_sum, v_hmax         the tree 16 -> 8 (i, i+8) -> 4 -> 2 -> 1
 *   v_sum4                v_sum of four vectors
 *   vi_*                  wrap on overflow
 *   v_load4               16 rows of 4 floats, transposed
 *
 * SIMD_ACC is how many accumulators the registers hold; it shapes the loops,
 * never the results.
 */
#ifndef SIMD_PORTABLE_H
#define SIMD_PORTABLE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kern/group.h"

#define SIMD_ACC 4
/* Inlining is left to the compiler; under sanitizers, which check every lane
 * and would take minutes over the inlined loops, it is forbidden. */
#if KERN_SANITIZED
#define V_INLINE static __attribute__((noinline, unused))
#else
#define V_INLINE static inline
#endif
/* What the compiler did not inline it cannot unroll either. */
#undef UNROLL
#define UNROLL

typedef struct { float l[16]; } vf;
typedef struct { uint32_t l[16]; } vi;
typedef struct { uint32_t l[16]; } vm; /* all ones or zero */

#define EACH_LANE for (int i = 0; i < 16; i++)

V_INLINE vf v_splat(float a)
{
    vf r;
    EACH_LANE r.l[i] = a;
    return r;
}

V_INLINE vf v_zero(void)
{
    return v_splat(0.0f);
}

V_INLINE vf v_load(const float *p)
{
    vf r;
    memcpy(r.l, p, sizeof(r.l));
    return r;
}

V_INLINE void v_store(float *p, vf x)
{
    memcpy(p, x.l, sizeof(x.l));
}

V_INLINE vf v_load_n(const float *p, int64_t n, float fill)
{
    vf r = v_splat(fill);
    memcpy(r.l, p, (size_t)n * sizeof(float));
    return r;
}

V_INLINE void v_store_n(float *p, vf x, int64_t n)
{
    memcpy(p, x.l, (size_t)n * sizeof(float));
}

/* Float to IEEE half, nearest even; NaN as F16C makes it. */
static inline uint16_t float_to_half(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    uint32_t sign = (u >> 16) & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        u = 0x7e00u | ((u >> 13) & 0x3ffu);
    else if (u >= 0x477ff000u) /* 65520 and above round to infinity */
        u = 0x7c00u;
    else if (u >= 0x38800000u) /* normal half */
        u = (u - (112u << 23) + 0xfffu + ((u >> 13) & 1u)) >> 13;
    else if (u <= 0x33000000u) /* at most half of the smallest subnormal */
        u = 0;
    else { /* subnormal: mantissa * 2^(e-150) in units of 2^-24 */
        uint32_t shift = 126 - (u >> 23), m = (u & 0x7fffffu) | 0x800000u;
        uint32_t rest = m & ((1u << shift) - 1), half = 1u << (shift - 1);
        u = m >> shift;
        u += rest > half || (rest == half && (u & 1u));
    }
    return (uint16_t)(sign | u);
}

V_INLINE vf v_load_f16(const uint16_t *p)
{
    vf r;
    EACH_LANE r.l[i] = half_to_float(p[i]);
    return r;
}

V_INLINE void v_store_f16(uint16_t *p, vf x)
{
    EACH_LANE p[i] = float_to_half(x.l[i]);
}

#define LANE_OP(name, expr)                                                    \
    V_INLINE vf name(vf a, vf b)                                               \
    {                                                                          \
        vf r;                                                                  \
        EACH_LANE r.l[i] = (expr);                                             \
        return r;                                                              \
    }
LANE_OP(v_add, a.l[i] + b.l[i])
LANE_OP(v_sub, a.l[i] - b.l[i])
LANE_OP(v_mul, a.l[i] * b.l[i])
LANE_OP(v_div, a.l[i] / b.l[i])
LANE_OP(v_max, a.l[i] > b.l[i] ? a.l[i] : b.l[i])
#undef LANE_OP

V_INLINE vf v_fma(vf a, vf b, vf c)
{
    vf r;
    EACH_LANE r.l[i] = fmaf(a.l[i], b.l[i], c.l[i]);
    return r;
}

V_INLINE vf v_fnma(vf a, vf b, vf c)
{
    vf r;
    EACH_LANE r.l[i] = fmaf(-a.l[i], b.l[i], c.l[i]);
    return r;
}

V_INLINE vm v_gt(vf a, vf b)
{
    vm r;
    EACH_LANE r.l[i] = a.l[i] > b.l[i] ? ~0u : 0;
    return r;
}

/* Lanes of a where m is true, of b elsewhere. */
V_INLINE vf v_select(vm m, vf a, vf b)
{
    vf r;
    EACH_LANE r.l[i] = m.l[i] ? a.l[i] : b.l[i];
    return r;
}

V_INLINE vi v_bits(vf x)
{
    vi r;
    memcpy(r.l, x.l, sizeof(r.l));
    return r;
}

V_INLINE vf v_from_bits(vi x)
{
    vf r;
    memcpy(r.l, x.l, sizeof(r.l));
    return r;
}

V_INLINE vi vi_splat(uint32_t a)
{
    vi r;
    EACH_LANE r.l[i] = a;
    return r;
}

V_INLINE vi vi_add(vi a, vi b)
{
    vi r;
    EACH_LANE r.l[i] = a.l[i] + b.l[i];
    return r;
}

V_INLINE vi vi_sub(vi a, vi b)
{
    vi r;
    EACH_LANE r.l[i] = a.l[i] - b.l[i];
    return r;
}

/* 0 < n < 32; the right shift brings in zeros. */
V_INLINE vi vi_shl(vi a, int n)
{
    vi r;
    EACH_LANE r.l[i] = a.l[i] << n;
    return r;
}

V_INLINE vi vi_shr(vi a, int n)
{
    vi r;
    EACH_LANE r.l[i] = a.l[i] >> n;
    return r;
}

/* Lanes below 2^24 in magnitude, taken as signed. */
V_INLINE vf v_from_int(vi a)
{
    vf r;
    EACH_LANE r.l[i] = (float)(int32_t)a.l[i];
    return r;
}

V_INLINE float v_sum(vf x)
{
    for (int w = 8; w > 0; w /= 2)
        for (int i = 0; i < w; i++)
            x.l[i] += x.l[i + w];
    return x.l[0];
}

V_INLINE float v_hmax(vf x)
{
    for (int w = 8; w > 0; w /= 2)
        for (int i = 0; i < w; i++)
            x.l[i] = x.l[i] > x.l[i + w] ? x.l[i] : x.l[i + w];
    return x.l[0];
}

V_INLINE void v_sum4(float out[4], vf a, vf b, vf c, vf d)
{
    out[0] = v_sum(a);
    out[1] = v_sum(b);
    out[2] = v_sum(c);
    out[3] = v_sum(d);
}

/* out[t] lane i = p[4 * i + t] */
V_INLINE void v_load4(vf out[4], const float *p)
{
    EACH_LANE for (int t = 0; t < 4; t++) out[t].l[i] = p[4 * i + t];
}

#undef EACH_LANE
#endif
