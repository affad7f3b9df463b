/*
 * simd_avx512: the words of the templates with AVX-512 F, BW, DQ, VL and VNNI:
 * those of simd_x86.h (one token needs no wider registers), what is different
 * with AVX2, and the 16-lane vector of vec_tmpl.h as one 512-bit register (its
 * operations are described in simd_portable.h, with which they agree bit for
 * bit).
 */
#ifndef SIMD_AVX512_H
#define SIMD_AVX512_H

#include "kern/simd_x86.h"

/* ---- one token ----------------------------------------------------------- */

enum { ROWS = 4, TILE_ROWS = 4, TILE_TOKENS = 3 };

/* The product instruction wants unsigned times signed. */
enum { SIGNED_128 = 0 };

INLINE __m256i and_or(__m256i x, __m256i mask, __m256i y)
{
    return _mm256_ternarylogic_epi32(x, mask, y, 0xea);
}

INLINE __m256i add_16_where(__m256i q, uint32_t bits)
{
    return _mm256_mask_add_epi8(q, bits, q, _mm256_set1_epi8(16));
}

INLINE __m256i minus_where(__m256i q, uint32_t bits, int from)
{
    return _mm256_mask_sub_epi8(q, bits, _mm256_set1_epi8((char)from), q);
}

INLINE __m256i dot(__m256i sum, __m256i q, __m256i a, int top)
{
    (void)top;
    return _mm256_dpbusd_epi32(sum, q, a);
}

/* ---- many tokens --------------------------------------------------------- */

enum { WIDE = 16, VECS = 2, PANEL_TOKENS = 8, BIAS = 128 };
#define PANEL_TOKENS_IS_8 1
#define OWN_TILE 0

typedef __m512i wide;
typedef __m512 widef;

INLINE wide wide_start(void) { return _mm512_setzero_si512(); }
INLINE wide wide_load(const void *p) { return _mm512_loadu_si512(p); }
INLINE void wide_store(void *p, wide x) { _mm512_storeu_si512(p, x); }
INLINE wide wide_low_nibbles(wide x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
INLINE wide wide_high_nibbles(wide x) { return wide_low_nibbles(_mm512_srli_epi16(x, 4)); }
INLINE widef wide_to_float(wide x) { return _mm512_cvtepi32_ps(x); }
INLINE widef widef_zero(void) { return _mm512_setzero_ps(); }
INLINE widef widef_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void widef_store(float *p, widef x) { _mm512_storeu_ps(p, x); }
INLINE widef widef_splat(const float *p) { return _mm512_set1_ps(*p); }
INLINE widef widef_add(widef a, widef b) { return _mm512_add_ps(a, b); }
INLINE widef widef_mul(widef a, widef b) { return _mm512_mul_ps(a, b); }
INLINE widef widef_fmadd(widef a, widef b, widef c) { return _mm512_fmadd_ps(a, b, c); }
INLINE widef widef_fnmadd(widef a, widef b, widef c) { return _mm512_fnmadd_ps(a, b, c); }

INLINE wide wide_splat(const void *p) /* 4 bytes */
{
    int32_t x;
    __builtin_memcpy(&x, p, sizeof x);
    return _mm512_set1_epi32(x);
}

INLINE wide wide_dot(wide acc, wide q, wide a, int top)
{
    (void)top;
    return _mm512_dpbusd_epi32(acc, q, a);
}

INLINE wide wide_add(wide a, wide b) { return _mm512_add_epi32(a, b); }

#include "kern/dot32.h"

/* to[k] = dword k of the 16 rows of 32 bytes, `stride` apart. */
INLINE void wide_transpose(wide to[8], const void *rows, size_t stride)
{
    const char *from = rows;
    wide a[8], b[8];
    for (int i = 0; i < 8; i++) { /* 0-3 and 4-7, 8-11 and 12-15 share registers */
        const char *p = from + (size_t)(i % 4 + 8 * (i / 4)) * stride;
        __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)p);
        __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(p + 4 * stride));
        a[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
    for (int i = 0; i < 8; i += 4) { /* quarters: dwords j and j + 4 of 4 rows */
        wide ab = _mm512_unpacklo_epi32(a[i], a[i + 1]),
             cd = _mm512_unpacklo_epi32(a[i + 2], a[i + 3]);
        b[i] = _mm512_unpacklo_epi64(ab, cd);
        b[i + 1] = _mm512_unpackhi_epi64(ab, cd);
        ab = _mm512_unpackhi_epi32(a[i], a[i + 1]);
        cd = _mm512_unpackhi_epi32(a[i + 2], a[i + 3]);
        b[i + 2] = _mm512_unpacklo_epi64(ab, cd);
        b[i + 3] = _mm512_unpackhi_epi64(ab, cd);
    }
    for (int i = 0; i < 4; i++) {
        to[i] = _mm512_shuffle_i64x2(b[i], b[i + 4], 0x88);
        to[i + 4] = _mm512_shuffle_i64x2(b[i], b[i + 4], 0xdd);
    }
}

/* ---- 16 lanes ------------------------------------------------------------ */

#define SIMD_ACC 16
#define V_INLINE INLINE

typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;

V_INLINE vf v_zero(void) { return _mm512_setzero_ps(); }
V_INLINE vf v_splat(float a) { return _mm512_set1_ps(a); }
V_INLINE vf v_load(const float *p) { return _mm512_loadu_ps(p); }
V_INLINE void v_store(float *p, vf x) { _mm512_storeu_ps(p, x); }

V_INLINE vf v_load_n(const float *p, int64_t n, float fill)
{
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), (__mmask16)((1u << n) - 1), p);
}

V_INLINE void v_store_n(float *p, vf x, int64_t n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), x);
}

V_INLINE vf v_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

V_INLINE void v_store_f16(uint16_t *p, vf x)
{
    _mm256_storeu_si256((__m256i *)p,
                        _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

V_INLINE vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
V_INLINE vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
V_INLINE vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
V_INLINE vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
V_INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
V_INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
V_INLINE vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
V_INLINE vm v_gt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
V_INLINE vf v_select(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); }

V_INLINE vi v_bits(vf x) { return _mm512_castps_si512(x); }
V_INLINE vf v_from_bits(vi x) { return _mm512_castsi512_ps(x); }
V_INLINE vi vi_splat(uint32_t a) { return _mm512_set1_epi32((int32_t)a); }
V_INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
V_INLINE vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
V_INLINE vi vi_shl(vi a, int n) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n)); }
V_INLINE vi vi_shr(vi a, int n) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n)); }
V_INLINE vf v_from_int(vi a) { return _mm512_cvtepi32_ps(a); }

V_INLINE __m256 v_high_half(vf x)
{
    return _mm512_extractf32x8_ps(x, 1);
}

V_INLINE float v_sum(vf x)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), v_high_half(x));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

V_INLINE float v_hmax(vf x)
{
    __m256 a = _mm256_max_ps(_mm512_castps512_ps256(x), v_high_half(x));
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

/* The four trees side by side: a and b, c and d share registers after the
 * first step, all four after the third. */
V_INLINE void v_sum4(float out[4], vf a, vf b, vf c, vf d)
{
    /* low half + high half of a and b in one register: a0..a7 b0..b7 */
    __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    /* a0..a3 b0..b3 c0..c3 d0..d3 */
    __m512 s = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88),
                             _mm512_shuffle_f32x4(ab, cd, 0xdd));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0x0e));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0x01));
    _mm_storeu_ps(out, _mm512_castps512_ps128(
                           _mm512_permutexvar_ps(_mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                                                  0, 12, 8, 4, 0), s)));
}

V_INLINE void v_load4(vf out[4], const float *p)
{
    const vf a = v_load(p), b = v_load(p + 16), c = v_load(p + 32), d = v_load(p + 48);
    const vi even = _mm512_set_epi32(29, 25, 21, 17, 13, 9, 5, 1, 28, 24, 20, 16, 12, 8, 4, 0);
    const vi odd = _mm512_add_epi32(even, _mm512_set1_epi32(2));
    const vf ab01 = _mm512_permutex2var_ps(a, even, b); /* columns 0, 1 of rows 0-7 */
    const vf cd01 = _mm512_permutex2var_ps(c, even, d); /* of rows 8-15 */
    const vf ab23 = _mm512_permutex2var_ps(a, odd, b);
    const vf cd23 = _mm512_permutex2var_ps(c, odd, d);
    out[0] = _mm512_shuffle_f32x4(ab01, cd01, 0x44);
    out[1] = _mm512_shuffle_f32x4(ab01, cd01, 0xee);
    out[2] = _mm512_shuffle_f32x4(ab23, cd23, 0x44);
    out[3] = _mm512_shuffle_f32x4(ab23, cd23, 0xee);
}

#endif
