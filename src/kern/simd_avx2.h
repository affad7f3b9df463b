/*
 * simd_avx2: the words of the templates with AVX2, FMA and F16C, and with
 * AVX-VNNI where the including file is compiled for it: those of
 * simd_x86.h, what is different with AVX-512, and the 16-lane vector of
 * vec_tmpl.h as two 256-bit registers, lanes 0-7 and 8-15 (its operations are
 * described in simd_portable.h, with which they agree bit for bit).
 */
#ifndef SIMD_AVX2_H
#define SIMD_AVX2_H

#include "kern/simd_x86.h"

/* ---- one token ----------------------------------------------------------- */

enum { ROWS = 2, TILE_ROWS = 2, TILE_TOKENS = 2 };

/*
 * AVX-VNNI's product instruction multiplies unsigned by signed bytes and adds
 * four neighbours to 32 bits. AVX2's multiplies unsigned by signed bytes and adds two
 * neighbours in 16 bits with saturation: exact for weights up to 128, so that
 * 8-bit weights must give their sign to the activation (never -128) first.
 */
#ifdef __AVXVNNI__
enum { SIGNED_128 = 0 };
#else
enum { SIGNED_128 = 1 };
#endif

INLINE __m256i and_or(__m256i x, __m256i mask, __m256i y)
{
    return _mm256_or_si256(_mm256_and_si256(x, mask), y);
}

/* All bits of the bytes whose bit is set. */
INLINE __m256i bytes_where(uint32_t bits)
{
    const __m256i which = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202,
                                            0x0303030303030303);
    __m256i x = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte);
    return _mm256_cmpeq_epi8(_mm256_and_si256(x, which), which);
}

INLINE __m256i add_16_where(__m256i q, uint32_t bits)
{
    return and_or(bytes_where(bits), _mm256_set1_epi8(16), q);
}

/* from - q is ~q + from + 1. */
INLINE __m256i minus_where(__m256i q, uint32_t bits, int from)
{
    const __m256i m = bytes_where(bits);
    return _mm256_add_epi8(_mm256_xor_si256(q, m),
                           _mm256_and_si256(m, _mm256_set1_epi8((char)(from + 1))));
}

INLINE __m256i dot(__m256i sum, __m256i q, __m256i a, int top)
{
#ifdef __AVXVNNI__
    (void)top;
    return _mm256_dpbusd_avx_epi32(sum, q, a);
#else
    if (top > 127) {
        a = _mm256_sign_epi8(a, q);
        q = _mm256_sign_epi8(q, q);
    }
    q = _mm256_madd_epi16(_mm256_maddubs_epi16(q, a), _mm256_set1_epi16(1));
    return _mm256_add_epi32(sum, q);
#endif
}

/* ---- many tokens --------------------------------------------------------- */

enum { WIDE = 8, VECS = 2, PANEL_TOKENS = 4, BIAS = SIGNED_128 ? 32 : 128 };
#define PANEL_TOKENS_IS_8 0
#define OWN_TILE 0

typedef __m256i wide;
typedef __m256 widef;

INLINE wide wide_start(void) { return _mm256_setzero_si256(); }
INLINE wide wide_load(const void *p) { return _mm256_loadu_si256(p); }
INLINE void wide_store(void *p, wide x) { _mm256_storeu_si256(p, x); }
INLINE wide wide_low_nibbles(wide x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
INLINE wide wide_high_nibbles(wide x) { return wide_low_nibbles(_mm256_srli_epi16(x, 4)); }
INLINE widef wide_to_float(wide x) { return _mm256_cvtepi32_ps(x); }
INLINE widef widef_zero(void) { return _mm256_setzero_ps(); }
INLINE widef widef_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void widef_store(float *p, widef x) { _mm256_storeu_ps(p, x); }
INLINE widef widef_splat(const float *p) { return _mm256_set1_ps(*p); }
INLINE widef widef_add(widef a, widef b) { return _mm256_add_ps(a, b); }
INLINE widef widef_mul(widef a, widef b) { return _mm256_mul_ps(a, b); }
INLINE widef widef_fmadd(widef a, widef b, widef c) { return _mm256_fmadd_ps(a, b, c); }
INLINE widef widef_fnmadd(widef a, widef b, widef c) { return _mm256_fnmadd_ps(a, b, c); }

INLINE wide wide_splat(const void *p) /* 4 bytes */
{
    int32_t x;
    __builtin_memcpy(&x, p, sizeof x);
    return _mm256_set1_epi32(x);
}

#ifdef __AVXVNNI__
INLINE wide wide_dot(wide acc, wide q, wide a, int top) { return dot(acc, q, a, top); }
INLINE wide wide_add(wide a, wide b) { return _mm256_add_epi32(a, b); }

#include "kern/dot32.h"
#else

/*
 * Sums are kept in 16 bits, of two products in a step, as long as they fit:
 * widening after each step would cost as much again. Those with bias may wrap
 * on the way: what is left without it is at most 8 steps * 2 * 16 * 127 in size
 * for blocks, 4 steps * 2 * 32 * 127 for sixteens.
 */
INLINE int wide_steps(int top)
{
    return MAX(INT16_MAX / (2 * 127 * top), 1);
}

/* The compiler would rather add in a tree, with all products in registers that
 * there are not: it must not see that two sums are of the same kind. */
INLINE wide in_turn(wide x)
{
    __asm__("" : "+x"(x));
    return x;
}

INLINE wide wide_dot(wide acc, wide q, wide a, int top)
{
    if (top > 127) {
        a = _mm256_sign_epi8(a, q);
        q = _mm256_sign_epi8(q, q);
    }
    return in_turn(_mm256_add_epi16(acc, _mm256_maddubs_epi16(q, a)));
}

INLINE wide wide_add(wide a, wide b)
{
    return in_turn(_mm256_add_epi32(a, b));
}

INLINE wide wide_sums(wide acc)
{
    return _mm256_madd_epi16(acc, _mm256_set1_epi16(1));
}

/* Two 16-bit numbers, for the first and the second two products of a step. */
struct token_bias {
    int32_t half[2], block;
};

INLINE struct token_bias token_bias(const int8_t q[32], const int16_t h[2])
{
    (void)h;
    __m256i s = _mm256_maddubs_epi16(_mm256_set1_epi8(BIAS), wide_load(q));
    s = _mm256_add_epi16(s, _mm256_shuffle_epi32(s, _MM_SHUFFLE(1, 0, 3, 2)));
    s = _mm256_add_epi16(s, _mm256_shuffle_epi32(s, _MM_SHUFFLE(2, 3, 0, 1)));
    s = _mm256_sub_epi16(_mm256_setzero_si256(), s);
    __m128i first = _mm256_castsi256_si128(s), second = _mm256_extracti128_si256(s, 1);
    return (struct token_bias){{_mm_cvtsi128_si32(first), _mm_cvtsi128_si32(second)},
                               _mm_cvtsi128_si32(_mm_add_epi16(first, second))};
}

#endif

/* to[k] = dword k of the 8 rows of 32 bytes, `stride` apart. */
INLINE void wide_transpose(wide to[8], const void *rows, size_t stride)
{
    const char *from = rows;
    wide a[8], b[8];
    for (int i = 0; i < 8; i++)
        a[i] = wide_load(from + (size_t)i * stride);
    for (int i = 0; i < 8; i += 4) { /* halves: dwords j and j + 4 of 4 rows */
        wide ab = _mm256_unpacklo_epi32(a[i], a[i + 1]),
             cd = _mm256_unpacklo_epi32(a[i + 2], a[i + 3]);
        b[i] = _mm256_unpacklo_epi64(ab, cd);
        b[i + 1] = _mm256_unpackhi_epi64(ab, cd);
        ab = _mm256_unpackhi_epi32(a[i], a[i + 1]);
        cd = _mm256_unpackhi_epi32(a[i + 2], a[i + 3]);
        b[i + 2] = _mm256_unpacklo_epi64(ab, cd);
        b[i + 3] = _mm256_unpackhi_epi64(ab, cd);
    }
    for (int i = 0; i < 4; i++) {
        to[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        to[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

/* ---- 16 lanes ------------------------------------------------------------ */

#define SIMD_ACC 4
#define V_INLINE INLINE

typedef struct { __m256 a, b; } vf;
typedef struct { __m256i a, b; } vi;
typedef struct { __m256 a, b; } vm;

V_INLINE vf v_zero(void)
{
    return (vf){_mm256_setzero_ps(), _mm256_setzero_ps()};
}

V_INLINE vf v_splat(float x)
{
    const __m256 v = _mm256_set1_ps(x);
    return (vf){v, v};
}

V_INLINE vf v_load(const float *p)
{
    return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

V_INLINE void v_store(float *p, vf x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}

/* All ones in the first n lanes. */
V_INLINE vi vi_first(int64_t n)
{
    const __m256i vn = _mm256_set1_epi32((int32_t)n);
    return (vi){_mm256_cmpgt_epi32(vn, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
                _mm256_cmpgt_epi32(vn, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}

V_INLINE vf v_load_n(const float *p, int64_t n, float fill)
{
    const vi m = vi_first(n);
    const __m256 f = _mm256_set1_ps(fill);
    return (vf){_mm256_blendv_ps(f, _mm256_maskload_ps(p, m.a), _mm256_castsi256_ps(m.a)),
                _mm256_blendv_ps(f, _mm256_maskload_ps(p + 8, m.b), _mm256_castsi256_ps(m.b))};
}

V_INLINE void v_store_n(float *p, vf x, int64_t n)
{
    const vi m = vi_first(n);
    _mm256_maskstore_ps(p, m.a, x.a);
    _mm256_maskstore_ps(p + 8, m.b, x.b);
}

V_INLINE vf v_load_f16(const uint16_t *p)
{
    return (vf){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}

V_INLINE void v_store_f16(uint16_t *p, vf x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}

#define HALVES2(name, type, in, op)                                            \
    V_INLINE type name(in x, in y)                                             \
    {                                                                          \
        return (type){op(x.a, y.a), op(x.b, y.b)};                             \
    }
HALVES2(v_add, vf, vf, _mm256_add_ps)
HALVES2(v_sub, vf, vf, _mm256_sub_ps)
HALVES2(v_mul, vf, vf, _mm256_mul_ps)
HALVES2(v_div, vf, vf, _mm256_div_ps)
HALVES2(v_max, vf, vf, _mm256_max_ps)
HALVES2(vi_add, vi, vi, _mm256_add_epi32)
HALVES2(vi_sub, vi, vi, _mm256_sub_epi32)
#undef HALVES2

V_INLINE vf v_fma(vf x, vf y, vf z)
{
    return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}

V_INLINE vf v_fnma(vf x, vf y, vf z)
{
    return (vf){_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}

V_INLINE vm v_gt(vf x, vf y)
{
    return (vm){_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ)};
}

V_INLINE vf v_select(vm m, vf x, vf y)
{
    return (vf){_mm256_blendv_ps(y.a, x.a, m.a), _mm256_blendv_ps(y.b, x.b, m.b)};
}

V_INLINE vi v_bits(vf x)
{
    return (vi){_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)};
}

V_INLINE vf v_from_bits(vi x)
{
    return (vf){_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)};
}

V_INLINE vi vi_splat(uint32_t x)
{
    const __m256i v = _mm256_set1_epi32((int32_t)x);
    return (vi){v, v};
}

V_INLINE vi vi_shl(vi x, int n)
{
    const __m128i c = _mm_cvtsi32_si128(n);
    return (vi){_mm256_sll_epi32(x.a, c), _mm256_sll_epi32(x.b, c)};
}

V_INLINE vi vi_shr(vi x, int n)
{
    const __m128i c = _mm_cvtsi32_si128(n);
    return (vi){_mm256_srl_epi32(x.a, c), _mm256_srl_epi32(x.b, c)};
}

V_INLINE vf v_from_int(vi x)
{
    return (vf){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}

V_INLINE float v_sum(vf x)
{
    const __m256 a = _mm256_add_ps(x.a, x.b);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

V_INLINE float v_hmax(vf x)
{
    const __m256 a = _mm256_max_ps(x.a, x.b);
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

/* The four trees side by side, sharing registers from the second step on. */
V_INLINE void v_sum4(float out[4], vf x, vf y, vf z, vf w)
{
    const __m256 xs = _mm256_add_ps(x.a, x.b), ys = _mm256_add_ps(y.a, y.b);
    const __m256 zs = _mm256_add_ps(z.a, z.b), ws = _mm256_add_ps(w.a, w.b);
    /* x0..x3 y0..y3, z0..z3 w0..w3 */
    const __m256 xy = _mm256_add_ps(_mm256_permute2f128_ps(xs, ys, 0x20),
                                    _mm256_permute2f128_ps(xs, ys, 0x31));
    const __m256 zw = _mm256_add_ps(_mm256_permute2f128_ps(zs, ws, 0x20),
                                    _mm256_permute2f128_ps(zs, ws, 0x31));
    /* x0 x1 z0 z1 y0 y1 w0 w1 */
    __m256 s = _mm256_add_ps(_mm256_shuffle_ps(xy, zw, 0x44), _mm256_shuffle_ps(xy, zw, 0xee));
    s = _mm256_add_ps(s, _mm256_movehdup_ps(s)); /* x . z . y . w . */
    const __m128 xz = _mm256_castps256_ps128(s), yw = _mm256_extractf128_ps(s, 1);
    /* x y . . z w . . */
    _mm_storeu_ps(out, _mm_movelh_ps(_mm_unpacklo_ps(xz, yw), _mm_unpackhi_ps(xz, yw)));
}

/* Rows 0-7 of 4 floats as 4 columns of 8. */
V_INLINE void v_load4_half(__m256 out[4], const float *p)
{
#define PAIR(i)                                                                \
    _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p + 4 * (i))),    \
                         _mm_loadu_ps(p + 16 + 4 * (i)), 1)
    const __m256 r0 = PAIR(0), r1 = PAIR(1), r2 = PAIR(2), r3 = PAIR(3); /* rows i and i + 4 */
#undef PAIR
    const __m256 lo01 = _mm256_unpacklo_ps(r0, r1), hi01 = _mm256_unpackhi_ps(r0, r1);
    const __m256 lo23 = _mm256_unpacklo_ps(r2, r3), hi23 = _mm256_unpackhi_ps(r2, r3);
    out[0] = _mm256_shuffle_ps(lo01, lo23, 0x44);
    out[1] = _mm256_shuffle_ps(lo01, lo23, 0xee);
    out[2] = _mm256_shuffle_ps(hi01, hi23, 0x44);
    out[3] = _mm256_shuffle_ps(hi01, hi23, 0xee);
}

V_INLINE void v_load4(vf out[4], const float *p)
{
    __m256 a[4], b[4];
    v_load4_half(a, p);
    v_load4_half(b, p + 32);
    for (int t = 0; t < 4; t++)
        out[t] = (vf){a[t], b[t]};
}

#endif
