/*
 * simd_x86: those words of mulq_tmpl.h, panel_tmpl.h and mulf_tmpl.h that AVX2 and
 * AVX-512 have in common, in 256-bit registers (kern_internal.h lists all). Included by
 * simd_avx2.h and simd_avx512.h; needs AVX2, FMA, F16C.
 *
 *   f32x8, i32x8     8 floats, 8 32-bit integers
 *   i8x32            32 bytes
 *   *_load, *_store  unaligned; f32x8_load_first: the first n lanes, +0 behind
 *                    them, memory behind them is not touched (n may be 0 or less)
 *   f32x8_first      keeps the first n lanes, +0 for the rest
 *   f32x8_sum        the tree of kern.h
 *   f32x8_fmadd      a * b + c rounded once; fmsub a * b - c; fnmadd c - a * b
 *   f32x8_from_i8    lanes 8 part ... of 32 bytes, signed or not
 *   i32x8_pair_sums  lane b = first * h[2 b] + second * h[2 b + 1]
 *   dots_start       where the sums that go to add_up start, which need not be 0;
 *   dots_to_float    what comes out of it as floats
 *   cross            two registers crossed (unpack.h), and back again
 *   add_up           see mulq_tmpl.h
 *   quantize_block   as in portable.c
 */
#ifndef KERN_SIMD_X86_H
#define KERN_SIMD_X86_H

#include <float.h>
#include <immintrin.h>

#include "kern/group.h"

typedef __m256 f32x8;
typedef __m256i i32x8;
typedef __m256i i8x32;

INLINE __m128i load128(const void *p) { return _mm_loadu_si128(p); }
INLINE __m256i load256(const void *p) { return _mm256_loadu_si256(p); }

INLINE f32x8 f32x8_zero(void) { return _mm256_setzero_ps(); }
INLINE f32x8 f32x8_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void f32x8_store(float *p, f32x8 x) { _mm256_storeu_ps(p, x); }
INLINE f32x8 f32x8_splat(const float *p) { return _mm256_broadcast_ss(p); }
INLINE f32x8 f32x8_add(f32x8 a, f32x8 b) { return _mm256_add_ps(a, b); }
INLINE f32x8 f32x8_mul(f32x8 a, f32x8 b) { return _mm256_mul_ps(a, b); }
INLINE f32x8 f32x8_fmadd(f32x8 a, f32x8 b, f32x8 c) { return _mm256_fmadd_ps(a, b, c); }
INLINE f32x8 f32x8_fmsub(f32x8 a, f32x8 b, f32x8 c) { return _mm256_fmsub_ps(a, b, c); }
INLINE f32x8 f32x8_fnmadd(f32x8 a, f32x8 b, f32x8 c) { return _mm256_fnmadd_ps(a, b, c); }
INLINE f32x8 f32x8_from_i32(i32x8 x) { return _mm256_cvtepi32_ps(x); }
INLINE f32x8 f32x8_load_f16(const uint8_t *p) { return _mm256_cvtph_ps(load128(p)); }

INLINE f32x8 f32x8_load_bf16(const uint8_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p)), 16));
}

INLINE f32x8 f32x8_load_first(const float *p, int n)
{
    float first[8] = {0};
    if (n > 0)
        memcpy(first, p, (size_t)MIN(n, 8) * sizeof *p);
    return f32x8_load(first);
}

INLINE f32x8 f32x8_first(f32x8 x, int n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i keep = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane);
    return _mm256_and_ps(x, _mm256_castsi256_ps(keep));
}

INLINE float f32x8_sum(f32x8 a)
{
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

INLINE f32x8 f32x8_from_i8(i8x32 x, int part, bool is_signed)
{
    __m128i bytes = part / 2 ? _mm256_extracti128_si256(x, 1) : _mm256_castsi256_si128(x);
    if (part % 2)
        bytes = _mm_unpackhi_epi64(bytes, bytes);
    return _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(bytes)
                                        : _mm256_cvtepu8_epi32(bytes));
}

INLINE i32x8 dots_start(void) { return _mm256_setzero_si256(); }
INLINE f32x8 dots_to_float(i32x8 x) { return f32x8_from_i32(x); }
INLINE i32x8 i32x8_add(i32x8 a, i32x8 b) { return _mm256_add_epi32(a, b); }
INLINE i32x8 i32x8_sub(i32x8 a, i32x8 b) { return _mm256_sub_epi32(a, b); }

INLINE i32x8 i32x8_pair_sums(const int16_t *h, int first, int second)
{
    const uint32_t factors = (uint32_t)(first & 0xffff) | (uint32_t)second << 16;
    return _mm256_madd_epi16(load256(h), _mm256_set1_epi32((int)factors));
}

INLINE i8x32 i8x32_load(const void *p) { return load256(p); }
INLINE void i8x32_store(void *p, i8x32 x) { _mm256_storeu_si256(p, x); }
INLINE i8x32 i8x32_add(i8x32 x, int each)
{
    return _mm256_add_epi8(x, _mm256_set1_epi8((char)each));
}

INLINE void cross(i8x32 q[2])
{
    const i8x32 a = q[0], b = q[1];
    q[0] = _mm256_permute2x128_si256(a, b, 0x20);
    q[1] = _mm256_permute2x128_si256(a, b, 0x31);
}

/* Neighbouring dwords added; per 128-bit half two of a, then two of b. They
 * are at most `top` in size: sums that fit 16 bits are added in pairs by an
 * instruction which is there to multiply. */
INLINE __m256i add_pairs(__m256i a, __m256i b, int top)
{
    if (top > INT16_MAX)
        return _mm256_hadd_epi32(a, b);
    return _mm256_madd_epi16(_mm256_packs_epi32(a, b), _mm256_set1_epi16(1));
}

INLINE void add_up(i32x8 sum[2], const i32x8 p[GROUP_BLOCKS], int top, bool crossed)
{
    const int four = 4 * 127 * top, eight = 2 * four, sixteen = 4 * four;
    if (crossed) {
        __m256i s = add_pairs(add_pairs(p[0], p[2], eight), add_pairs(p[4], p[6], eight), sixteen);
        sum[0] = _mm256_permutevar8x32_epi32(s, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        return;
    }
    __m256i a = add_pairs(add_pairs(p[0], p[1], four), add_pairs(p[2], p[3], four), eight);
    __m256i b = add_pairs(add_pairs(p[4], p[5], four), add_pairs(p[6], p[7], four), eight);
    sum[0] = _mm256_permute2x128_si256(a, b, 0x20);
    sum[1] = _mm256_permute2x128_si256(a, b, 0x31);
}

/* ---- quantize ----------------------------------------------------------- */

INLINE __m256i abs_bits(__m256 x)
{
    return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
}

INLINE uint32_t largest(__m256i x) /* lanes are not negative */
{
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, _MM_SHUFFLE(1, 0, 3, 2)));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, _MM_SHUFFLE(2, 3, 0, 1)));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

INLINE int sum8(__m256i x)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, _MM_SHUFFLE(1, 0, 3, 2)));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, _MM_SHUFFLE(2, 3, 0, 1)));
    return _mm_cvtsi128_si32(s);
}

INLINE void quantize_block(int8_t q[32], float *d, int16_t h[2], const float x[32])
{
    __m256 v[4];
    __m256i n[4];
    for (int i = 0; i < 4; i++)
        v[i] = _mm256_loadu_ps(x + 8 * i);
    uint32_t bits = largest(_mm256_max_epi32(
        _mm256_max_epi32(abs_bits(v[0]), abs_bits(v[1])),
        _mm256_max_epi32(abs_bits(v[2]), abs_bits(v[3]))));
    float scale = bits_to_float(bits) / 127.0f;
    bool finite = bits < 0x7f800000;
    if (!finite || scale < FLT_MIN) {
        *d = finite ? 0.0f : bits_to_float(0x7fc00000);
        h[0] = h[1] = 0;
        memset(q, 0, 32);
        return;
    }
    float inverse = 1.0f / scale;
    for (int i = 0; i < 4; i++) /* rounds to nearest even */
        n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], _mm256_set1_ps(inverse)));
    *d = scale;
    h[0] = (int16_t)sum8(_mm256_add_epi32(n[0], n[1]));
    h[1] = (int16_t)sum8(_mm256_add_epi32(n[2], n[3]));
    /* The packs work in 128-bit halves; the permutation mends the order. */
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]),
                                       _mm256_packs_epi32(n[2], n[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)q, bytes);
}

#endif
