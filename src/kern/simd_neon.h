/*
 * simd_neon: the words of the templates for 64-bit ARM: those listed in
 * simd_x86.h, where wide registers are pairs of 128-bit ones, those of a tile
 * (panel_tmpl.h), and the 16-lane vector of vec_tmpl.h as four registers (its
 * operations are described in simd_portable.h, with which they agree bit for
 * bit). The file that includes it says what it was compiled for:
 *
 *   NEON_DOTPROD   1: sdot (FEAT_DotProd); 0: ARMv8.0
 *   NEON_I8MM      1: smmla, too (FEAT_I8MM)
 *
 * Nothing here asks for half-precision arithmetic: conversions are ARMv8.0.
 */
#ifndef SIMD_NEON_H
#define SIMD_NEON_H

#include <arm_neon.h>
#include <float.h>

#include "kern/group.h"

typedef struct { float32x4_t a, b; } f32x8;
typedef struct { int32x4_t a, b; } i32x8;
typedef struct { int8x16_t a, b; } i8x32;

INLINE float32x4_t halves_to_floats(uint16x4_t h)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(h));
}

INLINE f32x8 f32x8_zero(void) { return (f32x8){vdupq_n_f32(0), vdupq_n_f32(0)}; }
INLINE f32x8 f32x8_load(const float *p) { return (f32x8){vld1q_f32(p), vld1q_f32(p + 4)}; }

INLINE f32x8 f32x8_splat(const float *p)
{
    return (f32x8){vld1q_dup_f32(p), vld1q_dup_f32(p)};
}

INLINE void f32x8_store(float *p, f32x8 x)
{
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
}

INLINE f32x8 f32x8_add(f32x8 a, f32x8 b)
{
    return (f32x8){vaddq_f32(a.a, b.a), vaddq_f32(a.b, b.b)};
}

INLINE f32x8 f32x8_mul(f32x8 a, f32x8 b)
{
    return (f32x8){vmulq_f32(a.a, b.a), vmulq_f32(a.b, b.b)};
}

INLINE f32x8 f32x8_fmadd(f32x8 a, f32x8 b, f32x8 c)
{
    return (f32x8){vfmaq_f32(c.a, a.a, b.a), vfmaq_f32(c.b, a.b, b.b)};
}

INLINE f32x8 f32x8_fnmadd(f32x8 a, f32x8 b, f32x8 c)
{
    return (f32x8){vfmsq_f32(c.a, a.a, b.a), vfmsq_f32(c.b, a.b, b.b)};
}

/* Not the negated fnmadd: where a * b is c, both are +0. */
INLINE f32x8 f32x8_fmsub(f32x8 a, f32x8 b, f32x8 c)
{
    return f32x8_fmadd(a, b, (f32x8){vnegq_f32(c.a), vnegq_f32(c.b)});
}

INLINE f32x8 f32x8_from_i32(i32x8 x)
{
    return (f32x8){vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b)};
}

INLINE f32x8 f32x8_load_f16(const uint8_t *p)
{
    const uint16x8_t h = vreinterpretq_u16_u8(vld1q_u8(p));
    return (f32x8){halves_to_floats(vget_low_u16(h)), halves_to_floats(vget_high_u16(h))};
}

INLINE f32x8 f32x8_load_bf16(const uint8_t *p)
{
    const uint16x8_t h = vreinterpretq_u16_u8(vld1q_u8(p)), zero = vdupq_n_u16(0);
    return (f32x8){vreinterpretq_f32_u16(vzip1q_u16(zero, h)),
                   vreinterpretq_f32_u16(vzip2q_u16(zero, h))};
}

INLINE f32x8 f32x8_load_first(const float *p, int n)
{
    float x[8] = {0};
    if (n > 0)
        memcpy(x, p, (size_t)MIN(n, 8) * sizeof *p);
    return f32x8_load(x);
}

/* x in lanes below n, +0 from there on; the first lane is lane `from`. */
INLINE float32x4_t keep_first(float32x4_t x, int from, int n)
{
    const uint32x4_t lane = {0, 1, 2, 3};
    const int32x4_t at = vreinterpretq_s32_u32(vaddq_u32(lane, vdupq_n_u32((uint32_t)from)));
    return vreinterpretq_f32_u32(
        vandq_u32(vreinterpretq_u32_f32(x), vcgtq_s32(vdupq_n_s32(n), at)));
}

INLINE f32x8 f32x8_first(f32x8 x, int n)
{
    return (f32x8){keep_first(x.a, 0, n), keep_first(x.b, 4, n)};
}

/* The last steps of the tree of kern.h. */
INLINE float sum_of_four(float32x4_t x)
{
    const float32x2_t s = vadd_f32(vget_low_f32(x), vget_high_f32(x));
    return vpadds_f32(s);
}

INLINE float f32x8_sum(f32x8 x)
{
    return sum_of_four(vaddq_f32(x.a, x.b));
}

INLINE f32x8 f32x8_from_i8(i8x32 x, int part, bool is_signed)
{
    const int8x16_t half = part / 2 ? x.b : x.a;
    const int8x8_t bytes = part % 2 ? vget_high_s8(half) : vget_low_s8(half);
    const int16x8_t w = is_signed ? vmovl_s8(bytes)
                                  : vreinterpretq_s16_u16(vmovl_u8(vreinterpret_u8_s8(bytes)));
    return (f32x8){vcvtq_f32_s32(vmovl_s16(vget_low_s16(w))),
                   vcvtq_f32_s32(vmovl_s16(vget_high_s16(w)))};
}

INLINE i32x8 i32x8_add(i32x8 x, i32x8 y)
{
    return (i32x8){vaddq_s32(x.a, y.a), vaddq_s32(x.b, y.b)};
}

INLINE i32x8 i32x8_sub(i32x8 x, i32x8 y)
{
    return (i32x8){vsubq_s32(x.a, y.a), vsubq_s32(x.b, y.b)};
}

INLINE int32x4_t pair_sums(const int16_t *h, int first, int second)
{
    const int16x8_t x = vld1q_s16(h);
    if (first == second)
        return vmulq_n_s32(vpaddlq_s16(x), first);
    const int32x4_t even = vmovl_s16(vget_low_s16(vuzp1q_s16(x, x)));
    const int32x4_t odd = vshrq_n_s32(vreinterpretq_s32_s16(x), 16);
    return first == 0    ? vmulq_n_s32(odd, second)
           : second == 0 ? vmulq_n_s32(even, first)
                         : vmlaq_n_s32(vmulq_n_s32(even, first), odd, second);
}

INLINE i32x8 i32x8_pair_sums(const int16_t *h, int first, int second)
{
    return (i32x8){pair_sums(h, first, second), pair_sums(h + 8, first, second)};
}

INLINE i8x32 i8x32_load(const void *p)
{
    return (i8x32){vld1q_s8(p), vld1q_s8((const int8_t *)p + 16)};
}

INLINE void i8x32_store(void *p, i8x32 x)
{
    vst1q_s8(p, x.a);
    vst1q_s8((int8_t *)p + 16, x.b);
}

INLINE i8x32 i8x32_add(i8x32 x, int each)
{
    const int8x16_t y = vdupq_n_s8((int8_t)each);
    return (i8x32){vaddq_s8(x.a, y), vaddq_s8(x.b, y)};
}

INLINE void cross(i8x32 q[2])
{
    const i8x32 x = q[0], y = q[1];
    q[0] = (i8x32){x.a, y.a};
    q[1] = (i8x32){x.b, y.b};
}

INLINE int32x4_t add_four(int32x4_t x, int32x4_t y, int32x4_t z, int32x4_t w)
{
    return vpaddq_s32(vpaddq_s32(x, y), vpaddq_s32(z, w));
}

/*
 * Integer sums start at the bits of 1.5 * 2^23, in whose neighbourhood floats are
 * a unit apart: the sum as a float is what is left of these bits, read as a
 * float, when that is taken away. Exact below 2^22, and 32 * 128 * 127 is. Some
 * processors convert with one of their units only, but subtract with all.
 */
enum { SUM_START = 0x4b400000 };

INLINE float32x4_t sum_to_float(int32x4_t x)
{
    return vsubq_f32(vreinterpretq_f32_s32(x), vdupq_n_f32(0x1.8p23f));
}

/* add_up adds four lanes. */
INLINE i32x8 dots_start(void)
{
    const int32x4_t start = {SUM_START, 0, 0, 0};
    return (i32x8){start, start};
}

INLINE f32x8 dots_to_float(i32x8 x)
{
    return (f32x8){sum_to_float(x.a), sum_to_float(x.b)};
}

INLINE void add_up(i32x8 sum[2], const i32x8 p[GROUP_BLOCKS], int top, bool crossed)
{
    (void)top;
    if (crossed) {
        sum[0].a = add_four(p[0].a, p[0].b, p[2].a, p[2].b);
        sum[0].b = add_four(p[4].a, p[4].b, p[6].a, p[6].b);
        return;
    }
    sum[0].a = add_four(p[0].a, p[1].a, p[2].a, p[3].a);
    sum[0].b = add_four(p[4].a, p[5].a, p[6].a, p[7].a);
    sum[1].a = add_four(p[0].b, p[1].b, p[2].b, p[3].b);
    sum[1].b = add_four(p[4].b, p[5].b, p[6].b, p[7].b);
}

INLINE void quantize_block(int8_t q[32], float *d, int16_t h[2], const float x[32])
{
    float32x4_t v[8];
    uint32x4_t most = vdupq_n_u32(0);
    for (int i = 0; i < 8; i++) {
        v[i] = vld1q_f32(x + 4 * i);
        most = vmaxq_u32(most, vreinterpretq_u32_f32(vabsq_f32(v[i])));
    }
    const uint32_t bits = vmaxvq_u32(most);
    const float scale = bits_to_float(bits) / 127.0f;
    const bool finite = bits < 0x7f800000;
    if (!finite || scale < FLT_MIN) {
        *d = finite ? 0.0f : bits_to_float(0x7fc00000);
        h[0] = h[1] = 0;
        memset(q, 0, 32);
        return;
    }
    const float inverse = 1.0f / scale;
    *d = scale;
    for (int k = 0; k < 2; k++) {
        int16x4_t n[4];
        for (int i = 0; i < 4; i++) /* rounds to nearest even */
            n[i] = vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(v[4 * k + i], inverse)));
        const int16x8_t low = vcombine_s16(n[0], n[1]), high = vcombine_s16(n[2], n[3]);
        h[k] = vaddvq_s16(vaddq_s16(low, high));
        vst1q_s8(q + 16 * k, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
    }
}

/* ---- one token ----------------------------------------------------------- */

enum { ROWS = 2, TILE_ROWS = 3, TILE_TOKENS = 3 };

/* Both factors are signed. */
enum { SIGNED_128 = 1 };

/* sum + sums of 4 products. Without sdot two products are added in 16 bits:
 * 2 * 128 * 127 fits. */
INLINE int32x4_t dot_16(int32x4_t sum, int8x16_t q, int8x16_t x)
{
#if NEON_DOTPROD
    return vdotq_s32(sum, q, x);
#else
    const int16x8_t products = vmull_s8(vget_low_s8(q), vget_low_s8(x));
    return vpadalq_s16(sum, vmlal_s8(products, vget_high_s8(q), vget_high_s8(x)));
#endif
}

INLINE i32x8 dot(i32x8 sum, i8x32 q, i8x32 x, int top)
{
    (void)top;
    return (i32x8){dot_16(sum.a, q.a, x.a), dot_16(sum.b, q.b, x.b)};
}

/* ---- many tokens --------------------------------------------------------- */

enum { WIDE = 4, VECS = 4, PANEL_TOKENS = 4, BIAS = 0 };
#define PANEL_TOKENS_IS_8 0
#define OWN_TILE 1

typedef int32x4_t wide;
typedef float32x4_t widef;

INLINE wide wide_start(void) { return vdupq_n_s32(SUM_START); }
INLINE widef wide_to_float(wide x) { return sum_to_float(x); }
INLINE wide wide_add(wide x, wide y) { return vaddq_s32(x, y); }
INLINE wide wide_load(const void *p) { return vreinterpretq_s32_s8(vld1q_s8(p)); }
INLINE void wide_store(void *p, wide x) { vst1q_s8(p, vreinterpretq_s8_s32(x)); }
INLINE wide wide_low_nibbles(wide x) { return vandq_s32(x, vdupq_n_s32(0x0f0f0f0f)); }
INLINE wide wide_high_nibbles(wide x)
{
    return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(x), 4));
}
INLINE wide wide_splat(const int32_t *p) { return vld1q_dup_s32(p); }
INLINE widef widef_zero(void) { return vdupq_n_f32(0); }
INLINE widef widef_load(const float *p) { return vld1q_f32(p); }
INLINE void widef_store(float *p, widef x) { vst1q_f32(p, x); }
INLINE widef widef_splat(const float *p) { return vld1q_dup_f32(p); }
INLINE widef widef_add(widef x, widef y) { return vaddq_f32(x, y); }
INLINE widef widef_mul(widef x, widef y) { return vmulq_f32(x, y); }
INLINE widef widef_fmadd(widef x, widef y, widef z) { return vfmaq_f32(z, x, y); }
INLINE widef widef_fnmadd(widef x, widef y, widef z) { return vfmsq_f32(z, x, y); }

#include "kern/dot32.h"

/* to[k], to[k + 4]: dwords k and k + 4 of the 4 rows of 32 bytes, `stride` apart. */
INLINE void wide_transpose(wide to[8], const void *rows, size_t stride)
{
    const char *from = rows;
    for (int h = 0; h < 2; h++, from += 16) {
        const wide x = wide_load(from), y = wide_load(from + stride);
        const wide z = wide_load(from + 2 * stride), w = wide_load(from + 3 * stride);
        const int64x2_t xy0 = vreinterpretq_s64_s32(vzip1q_s32(x, y));
        const int64x2_t xy1 = vreinterpretq_s64_s32(vzip2q_s32(x, y));
        const int64x2_t zw0 = vreinterpretq_s64_s32(vzip1q_s32(z, w));
        const int64x2_t zw1 = vreinterpretq_s64_s32(vzip2q_s32(z, w));
        to[4 * h] = vreinterpretq_s32_s64(vzip1q_s64(xy0, zw0));
        to[4 * h + 1] = vreinterpretq_s32_s64(vzip2q_s64(xy0, zw0));
        to[4 * h + 2] = vreinterpretq_s32_s64(vzip1q_s64(xy1, zw1));
        to[4 * h + 3] = vreinterpretq_s32_s64(vzip2q_s64(xy1, zw1));
    }
}

#if NEON_I8MM
/*
 * The product of a 2 x 8 and an 8 x 2 matrix: registers 2 k and 2 k + 1 hold
 * elements 8 k ... of rows 0 and 1, of rows 2 and 3; tokens likewise, two by two.
 */
INLINE void tile_rows(wide to[8], const void *rows, size_t stride)
{
    const int8_t *from = rows;
    for (int i = 0; i < 8; i++) {
        const int8_t *p = from + (size_t)(i % 2 * 2) * stride + 8 * (i / 2);
        to[i] = vreinterpretq_s32_s8(vcombine_s8(vld1_s8(p), vld1_s8(p + stride)));
    }
}

INLINE void tile_token(int8_t to[PANEL_TOKENS * 32], int t, const int8_t from[32])
{
    for (int k = 0; k < 4; k++)
        memcpy(to + 8 * (PANEL_TOKENS * k + t), from + 8 * k, 8);
}

INLINE void tile_dot(wide sum[PANEL_TOKENS][VECS], const uint8_t *w, const int8_t *x, int first,
                     int steps, int n_tok, int top)
{
    const int pairs = (n_tok + 1) / 2;
    wide square[PANEL_TOKENS / 2][VECS][2]; /* t0 r0, t0 r1, t1 r0, t1 r1 */
    (void)top;
    UNROLL for (int t = 0; t < pairs; t++)
        UNROLL for (int i = 0; i < 2 * VECS; i++)
            square[t][i / 2][i % 2] = sum[0][0];
    UNROLL for (int k = first / 2; k < (first + steps) / 2; k++)
        UNROLL for (int i = 0; i < 2 * VECS; i++) {
            const int at = (2 * k + i % 2) * VECS + i / 2;
            const int8x16_t q = vld1q_s8((const int8_t *)w + 16 * at);
            UNROLL for (int t = 0; t < pairs; t++)
                square[t][i / 2][i % 2] =
                    vmmlaq_s32(square[t][i / 2][i % 2],
                               vld1q_s8(x + 8 * (PANEL_TOKENS * k + 2 * t)), q);
        }
    UNROLL for (int t = 0; t < n_tok; t++)
        UNROLL for (int v = 0; v < VECS; v++) {
            const int64x2_t a = vreinterpretq_s64_s32(square[t / 2][v][0]);
            const int64x2_t b = vreinterpretq_s64_s32(square[t / 2][v][1]);
            sum[t][v] = vreinterpretq_s32_s64(t % 2 ? vzip2q_s64(a, b) : vzip1q_s64(a, b));
        }
}
#else
INLINE void tile_rows(wide to[8], const void *rows, size_t stride)
{
    wide_transpose(to, rows, stride);
}

INLINE void tile_token(int8_t to[PANEL_TOKENS * 32], int t, const int8_t from[32])
{
    memcpy(to + 32 * t, from, 32);
}

/* sum plus products of a lane's 4 bytes with dword `lane` (a literal) of x. */
INLINE wide dot_lane(wide sum, int8x16_t q, int8x16_t x, int lane)
{
#if NEON_DOTPROD
    return lane == 0   ? vdotq_laneq_s32(sum, q, x, 0)
           : lane == 1 ? vdotq_laneq_s32(sum, q, x, 1)
           : lane == 2 ? vdotq_laneq_s32(sum, q, x, 2)
                       : vdotq_laneq_s32(sum, q, x, 3);
#else
    const int32x4_t d = vreinterpretq_s32_s8(x);
    const int8x16_t y = vreinterpretq_s8_s32(lane == 0   ? vdupq_laneq_s32(d, 0)
                                             : lane == 1 ? vdupq_laneq_s32(d, 1)
                                             : lane == 2 ? vdupq_laneq_s32(d, 2)
                                                         : vdupq_laneq_s32(d, 3));
    return vpadalq_s16(sum, vpaddq_s16(vmull_s8(vget_low_s8(q), vget_low_s8(y)),
                                       vmull_s8(vget_high_s8(q), vget_high_s8(y))));
#endif
}

INLINE void tile_dot(wide sum[PANEL_TOKENS][VECS], const uint8_t *w, const int8_t *x, int first,
                     int steps, int n_tok, int top)
{
    (void)top;
    UNROLL for (int i = first; i < first + steps; i += 4) {
        int8x16_t a[PANEL_TOKENS];
        UNROLL for (int t = 0; t < n_tok; t++)
            a[t] = vld1q_s8(x + 32 * t + 4 * i);
        UNROLL for (int k = 0; k < 4; k++)
            UNROLL for (int v = 0; v < VECS; v++) {
                const int8x16_t q = vld1q_s8((const int8_t *)w + 16 * ((i + k) * VECS + v));
                UNROLL for (int t = 0; t < n_tok; t++)
                    sum[t][v] = dot_lane(sum[t][v], q, a[t], k);
            }
    }
}
#endif

/* ---- 16 lanes ------------------------------------------------------------ */

#define SIMD_ACC 4
#define V_INLINE INLINE

typedef struct { float32x4_t q[4]; } vf;
typedef struct { uint32x4_t q[4]; } vi;
typedef vi vm;

#define EACH_QUARTER UNROLL for (int i = 0; i < 4; i++)
#define QUARTERS(name, type, params, expr)                                     \
    V_INLINE type name params                                                  \
    {                                                                          \
        type r;                                                                \
        EACH_QUARTER r.q[i] = (expr);                                          \
        return r;                                                              \
    }
QUARTERS(v_zero, vf, (void), vdupq_n_f32(0))
QUARTERS(v_splat, vf, (float x), vdupq_n_f32(x))
QUARTERS(v_load, vf, (const float *p), vld1q_f32(p + 4 * i))
QUARTERS(v_load_f16, vf, (const uint16_t *p), halves_to_floats(vld1_u16(p + 4 * i)))
QUARTERS(v_add, vf, (vf x, vf y), vaddq_f32(x.q[i], y.q[i]))
QUARTERS(v_sub, vf, (vf x, vf y), vsubq_f32(x.q[i], y.q[i]))
QUARTERS(v_mul, vf, (vf x, vf y), vmulq_f32(x.q[i], y.q[i]))
QUARTERS(v_div, vf, (vf x, vf y), vdivq_f32(x.q[i], y.q[i]))
QUARTERS(v_fma, vf, (vf x, vf y, vf z), vfmaq_f32(z.q[i], x.q[i], y.q[i]))
QUARTERS(v_fnma, vf, (vf x, vf y, vf z), vfmsq_f32(z.q[i], x.q[i], y.q[i]))
QUARTERS(v_gt, vm, (vf x, vf y), vcgtq_f32(x.q[i], y.q[i]))
QUARTERS(v_select, vf, (vm m, vf x, vf y), vbslq_f32(m.q[i], x.q[i], y.q[i]))
QUARTERS(v_bits, vi, (vf x), vreinterpretq_u32_f32(x.q[i]))
QUARTERS(v_from_bits, vf, (vi x), vreinterpretq_f32_u32(x.q[i]))
QUARTERS(v_from_int, vf, (vi x), vcvtq_f32_s32(vreinterpretq_s32_u32(x.q[i])))
QUARTERS(vi_splat, vi, (uint32_t x), vdupq_n_u32(x))
QUARTERS(vi_add, vi, (vi x, vi y), vaddq_u32(x.q[i], y.q[i]))
QUARTERS(vi_sub, vi, (vi x, vi y), vsubq_u32(x.q[i], y.q[i]))
QUARTERS(vi_shl, vi, (vi x, int n), vshlq_u32(x.q[i], vdupq_n_s32(n)))
QUARTERS(vi_shr, vi, (vi x, int n), vshlq_u32(x.q[i], vdupq_n_s32(-n)))
#undef QUARTERS

/* Not fmax, which would give a NaN for a NaN. */
V_INLINE vf v_max(vf x, vf y)
{
    return v_select(v_gt(x, y), x, y);
}

V_INLINE void v_store(float *p, vf x)
{
    EACH_QUARTER vst1q_f32(p + 4 * i, x.q[i]);
}

V_INLINE vf v_load_n(const float *p, int64_t n, float fill)
{
    float x[16];
    v_store(x, v_splat(fill));
    memcpy(x, p, (size_t)n * sizeof *p);
    return v_load(x);
}

V_INLINE void v_store_n(float *p, vf x, int64_t n)
{
    float from[16];
    v_store(from, x);
    memcpy(p, from, (size_t)n * sizeof *p);
}

V_INLINE void v_store_f16(uint16_t *p, vf x)
{
    EACH_QUARTER vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.q[i])));
}

V_INLINE float v_sum(vf x)
{
    return sum_of_four(vaddq_f32(vaddq_f32(x.q[0], x.q[2]), vaddq_f32(x.q[1], x.q[3])));
}

V_INLINE float32x4_t larger(float32x4_t x, float32x4_t y)
{
    return vbslq_f32(vcgtq_f32(x, y), x, y);
}

V_INLINE float v_hmax(vf x)
{
    const float32x4_t m = larger(larger(x.q[0], x.q[2]), larger(x.q[1], x.q[3]));
    const float32x2_t low = vget_low_f32(m), high = vget_high_f32(m);
    const float32x2_t p = vbsl_f32(vcgt_f32(low, high), low, high);
    const float first = vget_lane_f32(p, 0), second = vget_lane_f32(p, 1);
    return first > second ? first : second;
}

/* The last two steps of the tree are those of two, then four vectors at once. */
V_INLINE void v_sum4(float out[4], vf x, vf y, vf z, vf w)
{
    const vf *v[4] = {&x, &y, &z, &w};
    float32x4_t s[4];
    EACH_QUARTER s[i] = vaddq_f32(vaddq_f32(v[i]->q[0], v[i]->q[2]),
                                  vaddq_f32(v[i]->q[1], v[i]->q[3]));
    UNROLL for (int i = 0; i < 4; i += 2) {
        const float64x2_t a = vreinterpretq_f64_f32(s[i]), b = vreinterpretq_f64_f32(s[i + 1]);
        s[i / 2] = vaddq_f32(vreinterpretq_f32_f64(vzip1q_f64(a, b)),
                             vreinterpretq_f32_f64(vzip2q_f64(a, b)));
    }
    vst1q_f32(out, vpaddq_f32(s[0], s[1]));
}

V_INLINE void v_load4(vf out[4], const float *p)
{
    EACH_QUARTER {
        const float32x4x4_t t = vld4q_f32(p + 16 * i);
        out[0].q[i] = t.val[0];
        out[1].q[i] = t.val[1];
        out[2].q[i] = t.val[2];
        out[3].q[i] = t.val[3];
    }
}

#undef EACH_QUARTER
#endif
