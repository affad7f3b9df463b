/*
 * unpack_avx512: one weight group (group.h) in registers, for mul_avx512.c.
 *
 * q[p] holds the 64 elements of pair p as UNSIGNED bytes: the element plus the
 * format's offset (the instruction multiplies unsigned by signed bytes).
 * Scales come in one of three layouts, whichever costs least to make:
 *   SCALE8      lane b = scale of 32-block b, lanes 8-15 unused (zero)
 *   SCALE_EVEN  lane 2 b = scale of 32-block b, odd lanes unused
 *   SCALE16     lane j = scale of sixteen j
 * min: lane j = minimum of sixteen j.
 *
 * Every function reads exactly the bytes of a full group.
 */
#ifndef KERN_UNPACK_AVX512_H
#define KERN_UNPACK_AVX512_H

#include <immintrin.h>

#include "kern/group.h"

#define INLINE static inline __attribute__((always_inline))

enum scale_layout { SCALE8, SCALE_EVEN, SCALE16 };

struct wregs {
    __m512i q[4];
    __m512 scale, min;
};

/* Low 256 bits a, high 256 bits b. */
INLINE __m512i join(__m256i a, __m256i b)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
}

INLINE __m512i both_halves(const uint8_t *p)
{
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

/* A dword in each lane of the lower half, another in the upper half. */
INLINE __m512i halves32(int low, int high)
{
    return join(_mm256_set1_epi32(low), _mm256_set1_epi32(high));
}

INLINE __m512i low_nibble(__m512i x)
{
    return _mm512_and_si512(x, _mm512_set1_epi8(15));
}

/* (x & mask) | y */
INLINE __m512i and_or(__m512i x, __m512i mask, __m512i y)
{
    return _mm512_ternarylogic_epi32(x, mask, y, 0xea);
}

INLINE __m512 widen8(__m256 x)
{
    return _mm512_zextps256_ps512(x);
}

INLINE __m512 half_everywhere(const uint8_t *p)
{
    return _mm512_set1_ps(_cvtsh_ss(load_u16(p)));
}

/* ---- 32-element blocks -------------------------------------------------- */

/* Two blocks' 16 bytes to 64 nibbles: low ones of a block, then high ones. */
INLINE __m512i nibble_pair(const uint8_t *a, const uint8_t *b)
{
    __m256i qa = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)a));
    __m256i qb = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)b));
    const __m512i shift = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4);
    return low_nibble(_mm512_srlv_epi32(join(qa, qb), shift));
}

/* Adds 16 to the elements whose bit is set in the blocks' 32-bit masks. */
INLINE __m512i fifth_bits(__m512i q, const uint8_t *a, const uint8_t *b)
{
    __mmask64 bits = (uint64_t)load_u32(b) << 32 | load_u32(a);
    return _mm512_mask_add_epi8(q, bits, q, _mm512_set1_epi8(16));
}

INLINE __m512i table_lookup(__m512i nibble, const int8_t values[16], int offset)
{
    __m128i t = _mm_add_epi8(_mm_loadu_si128((const __m128i *)(const void *)values),
                             _mm_set1_epi8((char)offset));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(t), nibble);
}

/* The halves at the start of eight blocks, `stride` bytes apart. */
INLINE __m512 half_scales(const uint8_t *w, int stride)
{
    __m128i a = _mm_cvtsi32_si128(load_u16(w));
    __m128i b = _mm_cvtsi32_si128(load_u16(w + 4 * stride));
    a = _mm_insert_epi16(a, load_u16(w + stride), 1);
    b = _mm_insert_epi16(b, load_u16(w + 5 * stride), 1);
    a = _mm_insert_epi16(a, load_u16(w + 2 * stride), 2);
    b = _mm_insert_epi16(b, load_u16(w + 6 * stride), 2);
    a = _mm_insert_epi16(a, load_u16(w + 3 * stride), 3);
    b = _mm_insert_epi16(b, load_u16(w + 7 * stride), 3);
    return widen8(_mm256_cvtph_ps(_mm_unpacklo_epi64(a, b)));
}

/* The dwords at the start of eight blocks. */
INLINE __m256i block_dwords(const uint8_t *w, int stride)
{
    return _mm256_setr_epi32((int)load_u32(w), (int)load_u32(w + stride),
                             (int)load_u32(w + 2 * stride), (int)load_u32(w + 3 * stride),
                             (int)load_u32(w + 4 * stride), (int)load_u32(w + 5 * stride),
                             (int)load_u32(w + 6 * stride), (int)load_u32(w + 7 * stride));
}

/* Scale in even, offset in odd lanes; the minimum is the negated offset. */
INLINE void scales_offsets(struct wregs *r, const uint8_t *w, int stride)
{
    r->scale = _mm512_cvtph_ps(block_dwords(w, stride));
    r->min = _mm512_xor_ps(_mm512_movehdup_ps(r->scale), _mm512_set1_ps(-0.0f));
}

INLINE struct wregs unpack_q4_0(const uint8_t *w)
{
    struct wregs r;
    for (int p = 0; p < 4; p++)
        r.q[p] = nibble_pair(w + 36 * p + 2, w + 36 * p + 20);
    r.scale = half_scales(w, 18);
    r.min = _mm512_setzero_ps();
    return r;
}

INLINE struct wregs unpack_q4_1(const uint8_t *w)
{
    struct wregs r;
    for (int p = 0; p < 4; p++)
        r.q[p] = nibble_pair(w + 40 * p + 4, w + 40 * p + 24);
    scales_offsets(&r, w, 20);
    return r;
}

INLINE struct wregs unpack_q5_0(const uint8_t *w)
{
    struct wregs r;
    for (int p = 0; p < 4; p++) {
        const uint8_t *a = w + 44 * p, *b = a + 22;
        r.q[p] = fifth_bits(nibble_pair(a + 6, b + 6), a + 2, b + 2);
    }
    r.scale = half_scales(w, 22);
    r.min = _mm512_setzero_ps();
    return r;
}

INLINE struct wregs unpack_q5_1(const uint8_t *w)
{
    struct wregs r;
    for (int p = 0; p < 4; p++) {
        const uint8_t *a = w + 48 * p, *b = a + 24;
        r.q[p] = fifth_bits(nibble_pair(a + 8, b + 8), a + 4, b + 4);
    }
    scales_offsets(&r, w, 24);
    return r;
}

INLINE struct wregs unpack_q8_0(const uint8_t *w)
{
    struct wregs r;
    for (int p = 0; p < 4; p++) {
        __m512i q = join(_mm256_loadu_si256((const __m256i *)(const void *)(w + 68 * p + 2)),
                         _mm256_loadu_si256((const __m256i *)(const void *)(w + 68 * p + 36)));
        r.q[p] = _mm512_xor_si512(q, _mm512_set1_epi8(-128));
    }
    r.scale = half_scales(w, 34);
    r.min = _mm512_setzero_ps();
    return r;
}

INLINE struct wregs unpack_iq4_nl(const uint8_t *w)
{
    struct wregs r;
    for (int p = 0; p < 4; p++)
        r.q[p] = table_lookup(nibble_pair(w + 36 * p + 2, w + 36 * p + 20), kern_iq4_values, 128);
    r.scale = half_scales(w, 18);
    r.min = _mm512_setzero_ps();
    return r;
}

INLINE struct wregs unpack_mxfp4(const uint8_t *w)
{
    struct wregs r;
    for (int p = 0; p < 4; p++)
        r.q[p] = table_lookup(nibble_pair(w + 34 * p + 1, w + 34 * p + 18), kern_mxfp4_values, 12);
    __m256i e = _mm256_setr_epi32(w[0], w[17], w[34], w[51], w[68], w[85], w[102], w[119]);
    __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    __mmask8 tiny = _mm256_cmplt_epi32_mask(e, _mm256_set1_epi32(2));
    e = _mm256_mask_sllv_epi32(normal, tiny, _mm256_set1_epi32(0x00200000), e);
    r.scale = widen8(_mm256_castsi256_ps(e));
    r.min = _mm512_setzero_ps();
    return r;
}

/* ---- 256-element blocks ------------------------------------------------- */

/* Part k (0, 2 of the four 2-bit parts) in the lower, k + 1 in the upper half. */
INLINE __m512i two_bits(__m512i bytes, int k)
{
    return _mm512_and_si512(_mm512_srlv_epi32(bytes, halves32(2 * k, 2 * k + 2)),
                            _mm512_set1_epi8(3));
}

INLINE struct wregs unpack_q2_k(const uint8_t *w)
{
    struct wregs r;
    __m512i s = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)w));
    for (int h = 0; h < 2; h++) {
        __m512i bytes = both_halves(w + 16 + 32 * h);
        r.q[2 * h] = two_bits(bytes, 0);
        r.q[2 * h + 1] = two_bits(bytes, 2);
    }
    r.scale = _mm512_mul_ps(_mm512_cvtepi32_ps(low_nibble(s)), half_everywhere(w + 80));
    r.min = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_srli_epi32(s, 4)), half_everywhere(w + 82));
    return r;
}

INLINE struct wregs unpack_q3_k(const uint8_t *w)
{
    struct wregs r;
    __m512i mask = both_halves(w);
    for (int p = 0; p < 4; p++) {
        __m512i bit = join(_mm256_set1_epi8((char)(1 << 2 * p)),
                           _mm256_set1_epi8((char)(2 << 2 * p)));
        __m512i q = two_bits(both_halves(w + 32 + 32 * (p / 2)), 2 * (p % 2));
        r.q[p] = _mm512_mask_add_epi8(q, _mm512_test_epi8_mask(mask, bit), q,
                                      _mm512_set1_epi8(4));
    }
    /* 6-bit scales: nibbles of 8 bytes, then 2-bit parts of 4 bytes. */
    __m128i low = _mm_set1_epi64x((int64_t)((uint64_t)load_u32(w + 100) << 32 | load_u32(w + 96)));
    __m128i high = _mm_set1_epi32((int)load_u32(w + 104));
    low = _mm_and_si128(_mm_srlv_epi64(low, _mm_set_epi64x(4, 0)), _mm_set1_epi8(15));
    high = _mm_and_si128(_mm_srlv_epi32(high, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
    __m128i s = _mm_sub_epi8(_mm_or_si128(low, _mm_slli_epi32(high, 4)), _mm_set1_epi8(32));
    r.scale = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(s)), half_everywhere(w + 108));
    r.min = _mm512_setzero_ps();
    return r;
}

/* Scales in even, minima in odd lanes of the result (group.h). */
INLINE __m512 k4_scales_minima(const uint8_t *w)
{
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)(w + 4));
    __m128i low = _mm_and_si128(
        _mm_srlv_epi32(_mm_shuffle_epi32(x, _MM_SHUFFLE(2, 2, 1, 0)), _mm_setr_epi32(0, 0, 0, 4)),
        _mm_setr_epi32(0x3f3f3f3f, 0x3f3f3f3f, 0x0f0f0f0f, 0x0f0f0f0f));
    __m128i high = _mm_srli_epi32(_mm_shuffle_epi32(x, _MM_SHUFFLE(1, 0, 1, 0)), 2);
    x = _mm_ternarylogic_epi32(high, _mm_setr_epi32(0, 0, 0x30303030, 0x30303030), low, 0xea);
    x = _mm_shuffle_epi8(x, _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
    __m512 factors = _mm512_cvtph_ps(_mm256_set1_epi32((int)load_u32(w)));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(x)), factors);
}

INLINE struct wregs unpack_q4_k(const uint8_t *w)
{
    struct wregs r;
    for (int p = 0; p < 4; p++)
        r.q[p] = low_nibble(_mm512_srlv_epi32(both_halves(w + 16 + 32 * p), halves32(0, 4)));
    r.scale = k4_scales_minima(w);
    r.min = _mm512_movehdup_ps(r.scale);
    return r;
}

INLINE struct wregs unpack_q5_k(const uint8_t *w)
{
    struct wregs r;
    __m512i mask = both_halves(w + 16);
    for (int p = 0; p < 4; p++) {
        __m512i bit = join(_mm256_set1_epi8((char)(1 << 2 * p)),
                           _mm256_set1_epi8((char)(2 << 2 * p)));
        __m512i q = low_nibble(_mm512_srlv_epi32(both_halves(w + 48 + 32 * p), halves32(0, 4)));
        r.q[p] = _mm512_mask_add_epi8(q, _mm512_test_epi8_mask(mask, bit), q,
                                      _mm512_set1_epi8(16));
    }
    r.scale = k4_scales_minima(w);
    r.min = _mm512_movehdup_ps(r.scale);
    return r;
}

INLINE struct wregs unpack_q6_k(const uint8_t *w)
{
    struct wregs r;
    const __m512i high = _mm512_set1_epi8(0x30);
    for (int h = 0; h < 2; h++) {
        __m512i ql = _mm512_loadu_si512(w + 64 * h), qh = both_halves(w + 128 + 32 * h);
        r.q[2 * h] = and_or(_mm512_sllv_epi32(qh, halves32(4, 2)), high, low_nibble(ql));
        r.q[2 * h + 1] = and_or(_mm512_srlv_epi32(qh, halves32(0, 2)), high,
                                low_nibble(_mm512_srli_epi32(ql, 4)));
    }
    __m512i s = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(w + 192)));
    r.scale = _mm512_mul_ps(_mm512_cvtepi32_ps(s), half_everywhere(w + 208));
    r.min = _mm512_setzero_ps();
    return r;
}

INLINE struct wregs unpack_iq4_xs(const uint8_t *w)
{
    struct wregs r;
    const __m512i shift = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4);
    for (int p = 0; p < 4; p++) {
        __m512i x = both_halves(w + 8 + 32 * p);
        x = _mm512_shuffle_i64x2(x, x, _MM_SHUFFLE(1, 1, 0, 0));
        r.q[p] = table_lookup(low_nibble(_mm512_srlv_epi32(x, shift)), kern_iq4_values, 128);
    }
    __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32((int)load_u32(w + 4)),
                                    _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32(load_u16(w + 2) << 4),
                                     _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    low = _mm256_and_si256(low, _mm256_set1_epi32(15));
    high = _mm256_and_si256(high, _mm256_set1_epi32(0x30));
    __m256i s = _mm256_sub_epi32(_mm256_or_si256(low, high), _mm256_set1_epi32(32));
    r.scale = widen8(_mm256_mul_ps(_mm256_cvtepi32_ps(s), _mm256_set1_ps(_cvtsh_ss(load_u16(w)))));
    r.min = _mm512_setzero_ps();
    return r;
}

#endif
