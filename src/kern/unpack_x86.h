/*
 * unpack_x86: weight groups in 256-bit registers, as unpack.h describes them.
 * Included after simd_avx2.h or simd_avx512.h, of which it uses
 *   and_or(x, mask, y)   (x & mask) | y
 *   add_16_where(q, m)   adds 16 to the bytes whose bit is set in the 32-bit m
 *   SIGNED_128           1: formats whose elements need all 8 bits stay signed;
 *                        0: they get an offset of 128
 */
#ifndef KERN_UNPACK_X86_H
#define KERN_UNPACK_X86_H

#include "kern/unpack.h"

enum { OFFSET_128 = SIGNED_128 ? 0 : 128 };

INLINE __m256i low_nibble(__m256i x)
{
    return _mm256_and_si256(x, _mm256_set1_epi8(15));
}

INLINE __m256i high_nibble(__m256i x)
{
    return low_nibble(_mm256_srli_epi16(x, 4));
}

/* Bits of every byte moved from position `from` to position `to`; what comes
 * from neighbouring bytes must be masked away. */
INLINE __m256i move_bits(__m256i x, int from, int to)
{
    return from == to ? x
           : from > to ? _mm256_srli_epi16(x, from - to)
                       : _mm256_slli_epi16(x, to - from);
}

INLINE __m256 half_everywhere(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_set1_epi16((short)load_u16(p)));
}

/* ---- 32-element blocks -------------------------------------------------- */

/* 16 bytes to 32 nibbles: the low ones, then the high ones. */
INLINE __m256i nibbles(const uint8_t *w)
{
    __m256i x = _mm256_broadcastsi128_si256(load128(w));
    return low_nibble(_mm256_srlv_epi32(x, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4)));
}

/* The nibbles of two blocks, their 16 bytes at a and b: the low ones of both,
 * then the high ones. */
INLINE struct pair crossed_nibbles(const uint8_t *a, const uint8_t *b)
{
    __m256i x = _mm256_inserti128_si256(_mm256_castsi128_si256(load128(a)), load128(b), 1);
    return (struct pair){{low_nibble(x), high_nibble(x)}};
}

INLINE __m256i table_lookup(__m256i nibble, const int8_t values[16], int offset)
{
    __m128i t = _mm_add_epi8(load128((const uint8_t *)values), _mm_set1_epi8((char)offset));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(t), nibble);
}

INLINE struct pair crossed_values(const uint8_t *a, const uint8_t *b, const int8_t values[16],
                                  int offset)
{
    struct pair q = crossed_nibbles(a, b);
    return (struct pair){{table_lookup(q.q[0], values, offset), table_lookup(q.q[1], values, offset)}};
}

INLINE struct pair iq4_values(const uint8_t *a, const uint8_t *b)
{
    return crossed_values(a, b, kern_iq4_values, OFFSET_128);
}

/* The halves at the start of eight blocks, `stride` bytes apart. */
INLINE struct scales half_scales(const uint8_t *w, int stride)
{
    struct scales r = {{_mm256_setzero_ps(), _mm256_setzero_ps()},
                       {_mm256_setzero_ps(), _mm256_setzero_ps()}};
    __m128i a = _mm_cvtsi32_si128(load_u16(w));
    __m128i b = _mm_cvtsi32_si128(load_u16(w + 4 * stride));
    a = _mm_insert_epi16(a, load_u16(w + stride), 1);
    b = _mm_insert_epi16(b, load_u16(w + 5 * stride), 1);
    a = _mm_insert_epi16(a, load_u16(w + 2 * stride), 2);
    b = _mm_insert_epi16(b, load_u16(w + 6 * stride), 2);
    a = _mm_insert_epi16(a, load_u16(w + 3 * stride), 3);
    b = _mm_insert_epi16(b, load_u16(w + 7 * stride), 3);
    r.scale[0] = _mm256_cvtph_ps(_mm_unpacklo_epi64(a, b));
    return r;
}

/* Scale and offset, as halves, at the start of eight blocks. The minimum is
 * the negated offset. */
INLINE struct scales half_scales_offsets(const uint8_t *w, int stride)
{
    struct scales r = half_scales(w, stride), offset = half_scales(w + 2, stride);
    r.min[0] = _mm256_xor_ps(offset.scale[0], _mm256_set1_ps(-0.0f));
    return r;
}

UNPACKED(q4_0, 8, 15, true);

INLINE struct scales scales_q4_0(const uint8_t *w)
{
    return half_scales(w, 18);
}

INLINE struct pair pair_q4_0(const uint8_t *w, int p)
{
    return crossed_nibbles(w + 36 * p + 2, w + 36 * p + 20);
}

UNPACKED(q4_1, 0, 15, true);

INLINE struct scales scales_q4_1(const uint8_t *w)
{
    return half_scales_offsets(w, 20);
}

INLINE struct pair pair_q4_1(const uint8_t *w, int p)
{
    return crossed_nibbles(w + 40 * p + 4, w + 40 * p + 24);
}

UNPACKED(q5_0, 16, 31, false);

INLINE struct scales scales_q5_0(const uint8_t *w)
{
    return half_scales(w, 22);
}

INLINE struct pair pair_q5_0(const uint8_t *w, int p)
{
    const uint8_t *a = w + 44 * p, *b = a + 22;
    return (struct pair){{add_16_where(nibbles(a + 6), load_u32(a + 2)),
                          add_16_where(nibbles(b + 6), load_u32(b + 2))}};
}

UNPACKED(q5_1, 0, 31, false);

INLINE struct scales scales_q5_1(const uint8_t *w)
{
    return half_scales_offsets(w, 24);
}

INLINE struct pair pair_q5_1(const uint8_t *w, int p)
{
    const uint8_t *a = w + 48 * p, *b = a + 24;
    return (struct pair){{add_16_where(nibbles(a + 8), load_u32(a + 4)),
                          add_16_where(nibbles(b + 8), load_u32(b + 4))}};
}

UNPACKED(q8_0, OFFSET_128, 255, true);

INLINE struct scales scales_q8_0(const uint8_t *w)
{
    return half_scales(w, 34);
}

INLINE struct pair pair_q8_0(const uint8_t *w, int p)
{
    const __m256i flip = _mm256_set1_epi8(SIGNED_128 ? 0 : -128);
    const uint8_t *a = w + 68 * p + 2, *b = a + 34;
    __m256i first = _mm256_inserti128_si256(_mm256_castsi128_si256(load128(a)), load128(b), 1);
    __m256i second =
        _mm256_inserti128_si256(_mm256_castsi128_si256(load128(a + 16)), load128(b + 16), 1);
    return (struct pair){{_mm256_xor_si256(first, flip), _mm256_xor_si256(second, flip)}};
}

UNPACKED(iq4_nl, OFFSET_128, 255, true);

INLINE struct scales scales_iq4_nl(const uint8_t *w)
{
    return half_scales(w, 18);
}

INLINE struct pair pair_iq4_nl(const uint8_t *w, int p)
{
    return iq4_values(w + 36 * p + 2, w + 36 * p + 20);
}

UNPACKED(mxfp4, 12, 24, true);

INLINE struct scales scales_mxfp4(const uint8_t *w)
{
    struct scales r = {{_mm256_setzero_ps(), _mm256_setzero_ps()},
                       {_mm256_setzero_ps(), _mm256_setzero_ps()}};
    __m256i e = _mm256_setr_epi32(w[0], w[17], w[34], w[51], w[68], w[85], w[102], w[119]);
    __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    __m256i tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    __m256i is_tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
    r.scale[0] = _mm256_castsi256_ps(_mm256_blendv_epi8(normal, tiny, is_tiny));
    return r;
}

INLINE struct pair pair_mxfp4(const uint8_t *w, int p)
{
    return crossed_values(w + 34 * p + 1, w + 34 * p + 18, kern_mxfp4_values, 12);
}

/* ---- 256-element blocks ------------------------------------------------- */

/* 16 bytes, signed or not, times a factor: the even ones, then the odd ones. */
INLINE void scale_sixteens(__m256 out[2], __m128i bytes, bool is_signed, __m256 factor)
{
    bytes = _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11,
                                                  13, 15));
    __m128i upper = _mm_unpackhi_epi64(bytes, bytes);
    __m256i a = is_signed ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes);
    __m256i b = is_signed ? _mm256_cvtepi8_epi32(upper) : _mm256_cvtepu8_epi32(upper);
    out[0] = _mm256_mul_ps(_mm256_cvtepi32_ps(a), factor);
    out[1] = _mm256_mul_ps(_mm256_cvtepi32_ps(b), factor);
}

UNPACKED(q2_k, 0, 3, false);

INLINE struct scales scales_q2_k(const uint8_t *w)
{
    struct scales r;
    __m128i s = load128(w), low = _mm_set1_epi8(15);
    scale_sixteens(r.scale, _mm_and_si128(s, low), false, half_everywhere(w + 80));
    scale_sixteens(r.min, _mm_and_si128(_mm_srli_epi16(s, 4), low), false,
                   half_everywhere(w + 82));
    return r;
}

INLINE struct pair pair_q2_k(const uint8_t *w, int p)
{
    __m256i bytes = load256(w + 16 + 32 * (p / 2)), two = _mm256_set1_epi8(3);
    int shift = 4 * (p % 2);
    return (struct pair){{_mm256_and_si256(move_bits(bytes, shift, 0), two),
                          _mm256_and_si256(move_bits(bytes, shift + 2, 0), two)}};
}

UNPACKED(q3_k, 4, 7, false);

INLINE struct scales scales_q3_k(const uint8_t *w)
{
    struct scales r = {{_mm256_setzero_ps(), _mm256_setzero_ps()},
                       {_mm256_setzero_ps(), _mm256_setzero_ps()}};
    __m128i low = _mm_loadl_epi64((const __m128i *)(const void *)(w + 96));
    __m128i high = _mm_set1_epi32((int)load_u32(w + 104));
    low = _mm_unpacklo_epi64(low, _mm_srli_epi16(low, 4));
    high = _mm_slli_epi32(_mm_and_si128(_mm_srlv_epi32(high, _mm_setr_epi32(0, 2, 4, 6)),
                                        _mm_set1_epi8(3)), 4);
    low = _mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(15)), high);
    scale_sixteens(r.scale, _mm_sub_epi8(low, _mm_set1_epi8(32)), true, half_everywhere(w + 108));
    return r;
}

INLINE struct pair pair_q3_k(const uint8_t *w, int p)
{
    struct pair low = pair_q2_k(w + 16, p);
    __m256i high = load256(w), four = _mm256_set1_epi8(4);
    return (struct pair){{and_or(move_bits(high, 2 * p, 2), four, low.q[0]),
                          and_or(move_bits(high, 2 * p + 1, 2), four, low.q[1])}};
}

UNPACKED(q4_k, 0, 15, false);

INLINE struct scales scales_q4_k(const uint8_t *w)
{
    struct scales r = {{_mm256_setzero_ps(), _mm256_setzero_ps()},
                       {_mm256_setzero_ps(), _mm256_setzero_ps()}};
    __m128i x = load128(w + 4);
    /* dwords: scales 0-3, minima 0-3, low nibbles of scales 4-7, of minima 4-7 */
    __m128i low = _mm_and_si128(
        _mm_srlv_epi32(_mm_shuffle_epi32(x, _MM_SHUFFLE(2, 2, 1, 0)), _mm_setr_epi32(0, 0, 0, 4)),
        _mm_setr_epi32(0x3f3f3f3f, 0x3f3f3f3f, 0x0f0f0f0f, 0x0f0f0f0f));
    __m128i high = _mm_and_si128(
        _mm_srli_epi32(_mm_shuffle_epi32(x, _MM_SHUFFLE(1, 0, 1, 0)), 2),
        _mm_setr_epi32(0, 0, 0x30303030, 0x30303030));
    x = _mm_shuffle_epi32(_mm_or_si128(low, high), _MM_SHUFFLE(3, 1, 2, 0));
    __m256i scale = _mm256_cvtepu8_epi32(x);
    __m256i min = _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(x, x));
    __m256 d = _mm256_cvtph_ps(_mm_set1_epi32((int)load_u32(w))); /* d, dmin, d, dmin ... */
    r.scale[0] = _mm256_mul_ps(_mm256_cvtepi32_ps(scale), _mm256_moveldup_ps(d));
    r.min[0] = _mm256_mul_ps(_mm256_cvtepi32_ps(min), _mm256_movehdup_ps(d));
    return r;
}

INLINE struct pair pair_q4_k(const uint8_t *w, int p)
{
    __m256i bytes = load256(w + 16 + 32 * p);
    return (struct pair){{low_nibble(bytes), high_nibble(bytes)}};
}

UNPACKED(q5_k, 0, 31, false);

INLINE struct scales scales_q5_k(const uint8_t *w)
{
    return scales_q4_k(w);
}

INLINE struct pair pair_q5_k(const uint8_t *w, int p)
{
    __m256i bytes = load256(w + 48 + 32 * p), high = load256(w + 16);
    const __m256i fifth = _mm256_set1_epi8(16);
    return (struct pair){{and_or(move_bits(high, 2 * p, 4), fifth, low_nibble(bytes)),
                          and_or(move_bits(high, 2 * p + 1, 4), fifth, high_nibble(bytes))}};
}

UNPACKED(q6_k, 32, 63, false);

INLINE struct scales scales_q6_k(const uint8_t *w)
{
    struct scales r = {{_mm256_setzero_ps(), _mm256_setzero_ps()},
                       {_mm256_setzero_ps(), _mm256_setzero_ps()}};
    scale_sixteens(r.scale, load128(w + 192), true, half_everywhere(w + 208));
    return r;
}

INLINE struct pair pair_q6_k(const uint8_t *w, int p)
{
    const uint8_t *ql = w + 64 * (p / 2);
    __m256i a = load256(ql), b = load256(ql + 32), high = load256(w + 128 + 32 * (p / 2));
    const __m256i two = _mm256_set1_epi8(0x30);
    a = p % 2 ? high_nibble(a) : low_nibble(a);
    b = p % 2 ? high_nibble(b) : low_nibble(b);
    return (struct pair){{and_or(move_bits(high, p % 2 ? 4 : 0, 4), two, a),
                          and_or(move_bits(high, p % 2 ? 6 : 2, 4), two, b)}};
}

UNPACKED(iq4_xs, OFFSET_128, 255, true);

INLINE struct scales scales_iq4_xs(const uint8_t *w)
{
    struct scales r = {{_mm256_setzero_ps(), _mm256_setzero_ps()},
                       {_mm256_setzero_ps(), _mm256_setzero_ps()}};
    __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32((int)load_u32(w + 4)),
                                    _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32(load_u16(w + 2) << 4),
                                     _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    low = _mm256_and_si256(low, _mm256_set1_epi32(15));
    low = and_or(high, _mm256_set1_epi32(0x30), low);
    low = _mm256_sub_epi32(low, _mm256_set1_epi32(32));
    r.scale[0] = _mm256_mul_ps(_mm256_cvtepi32_ps(low), half_everywhere(w));
    return r;
}

INLINE struct pair pair_iq4_xs(const uint8_t *w, int p)
{
    return iq4_values(w + 8 + 32 * p, w + 24 + 32 * p);
}

#endif
