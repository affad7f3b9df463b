/*
 * unpack_x86: weight groups in 256-bit registers, as unpack.h describes them.
 * Included after simd_avx2.h or simd_avx512.h, of which it uses
 *   and_or(x, mask, y)   (x & mask) | y
 *   add_16_where(q, m)   adds 16 to the bytes whose bit is set in the 32-bit m
 *   minus_where(q, m, x) x - q in the bytes whose bit is set in the 32-bit m, else q
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
    return (struct pair){
        {table_lookup(q.q[0], values, offset), table_lookup(q.q[1], values, offset)}};
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

/* ---- 64- and 128-element blocks ----------------------------------------- */

INLINE struct scales no_scales(void)
{
    return (struct scales){{_mm256_setzero_ps(), _mm256_setzero_ps()},
                           {_mm256_setzero_ps(), _mm256_setzero_ps()}};
}

UNPACKED(nvfp4, 12, 24, false);

/* As nvfp4_scale. The bytes of a block: both sixteens of two 32-blocks. */
INLINE struct scales scales_nvfp4(const uint8_t *w)
{
    struct scales r = no_scales();
    __m128i e = _mm_setr_epi32((int)load_u32(w), (int)load_u32(w + 36), (int)load_u32(w + 72),
                               (int)load_u32(w + 108));
    e = _mm_andnot_si128(_mm_cmpeq_epi8(e, _mm_set1_epi8(0x7f)), e);
    __m128i first = _mm_and_si128(_mm_slli_epi16(e, 7), _mm_set1_epi16(0x3f80));
    __m128i second = _mm_and_si128(_mm_srli_epi16(e, 1), _mm_set1_epi16(0x3f80));
    r.scale[0] = _mm256_mul_ps(_mm256_cvtph_ps(first), _mm256_set1_ps(0x1p7f));
    r.scale[1] = _mm256_mul_ps(_mm256_cvtph_ps(second), _mm256_set1_ps(0x1p7f));
    return r;
}

INLINE struct pair pair_nvfp4(const uint8_t *w, int p)
{
    /* quarters 0, 2, 1, 3 of the bytes; each has a sixteen */
    __m256i x = _mm256_permute4x64_epi64(load256(w + 36 * p + 4), _MM_SHUFFLE(3, 1, 2, 0));
    __m256i low = table_lookup(low_nibble(x), kern_mxfp4_values, 12);
    __m256i high = table_lookup(high_nibble(x), kern_mxfp4_values, 12);
    return (struct pair){{_mm256_unpacklo_epi64(low, high), _mm256_unpackhi_epi64(low, high)}};
}

UNPACKED(q1_0, 1, 2, false);

INLINE struct scales scales_q1_0(const uint8_t *w)
{
    struct scales r = no_scales();
    __m128i d = _mm_insert_epi16(_mm_cvtsi32_si128(load_u16(w)), load_u16(w + 18), 4);
    d = _mm_shufflehi_epi16(_mm_shufflelo_epi16(d, 0), 0);
    r.scale[0] = _mm256_cvtph_ps(d);
    return r;
}

INLINE struct pair pair_q1_0(const uint8_t *w, int p)
{
    const uint8_t *bits = w + 18 * (p / 2) + 2 + 8 * (p % 2);
    const __m256i zero = _mm256_setzero_si256();
    return (struct pair){{minus_where(zero, load_u32(bits), 2),
                          minus_where(zero, load_u32(bits + 4), 2)}};
}

UNPACKED(q2_0, 1, 3, false);

INLINE struct scales scales_q2_0(const uint8_t *w)
{
    struct scales r = no_scales();
    __m128i d = _mm_cvtsi32_si128(load_u16(w));
    d = _mm_insert_epi16(d, load_u16(w + 18), 1);
    d = _mm_insert_epi16(d, load_u16(w + 36), 2);
    d = _mm_insert_epi16(d, load_u16(w + 54), 3);
    r.scale[0] = _mm256_cvtph_ps(_mm_unpacklo_epi16(d, d));
    return r;
}

/* Four elements a byte, one after another: bits 2, 4, 6 move to the next bytes. */
INLINE __m256i spread_twos(const uint8_t *w)
{
    __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)w));
    x = _mm256_or_si256(x, _mm256_slli_epi32(x, 12));
    x = _mm256_or_si256(x, _mm256_slli_epi32(x, 6));
    return _mm256_and_si256(x, _mm256_set1_epi8(3));
}

INLINE struct pair pair_q2_0(const uint8_t *w, int p)
{
    return (struct pair){{spread_twos(w + 18 * p + 2), spread_twos(w + 18 * p + 10)}};
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

/* One scale, a half, for the whole block. */
INLINE struct scales one_scale(const uint8_t *half)
{
    struct scales r = no_scales();
    r.scale[0] = half_everywhere(half);
    return r;
}

UNPACKED(tq2_0, 1, 3, true);

INLINE struct scales scales_tq2_0(const uint8_t *w)
{
    return one_scale(w + 64);
}

/* Two bits of 16 bytes, and the two bits above them. */
INLINE __m256i two_and_next_two(const uint8_t *qs, int shift)
{
    const __m256i next = _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2);
    const __m256i by = _mm256_add_epi32(next, _mm256_set1_epi32(shift));
    __m256i x = _mm256_broadcastsi128_si256(load128(qs));
    return _mm256_and_si256(_mm256_srlv_epi32(x, by), _mm256_set1_epi8(3));
}

INLINE struct pair pair_tq2_0(const uint8_t *w, int p)
{
    const uint8_t *qs = w + 32 * (p / 2);
    return (struct pair){
        {two_and_next_two(qs, 4 * (p % 2)), two_and_next_two(qs + 16, 4 * (p % 2))}};
}

UNPACKED(tq1_0, 1, 2, true);

INLINE struct scales scales_tq1_0(const uint8_t *w)
{
    return one_scale(w + 52);
}

/*
 * A byte is a fraction of 256; the digit in front is how many of its thirds are below
 * it, and three times the byte has the next digit in front. Bytes here are less 128,
 * which stays so: 3 * 128 is 128 more than 256.
 */
INLINE __m256i thrice(__m256i x)
{
    return _mm256_add_epi8(x, _mm256_add_epi8(x, x));
}

INLINE __m256i ternary(__m256i x)
{
    __m256i third = _mm256_set1_epi8(85 - 128);
    __asm__("" : "+x"(third)); /* or gcc 12 makes a minimum and a comparison of it */
    __m256i q = _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_cmpgt_epi8(x, third));
    return _mm256_sub_epi8(q, _mm256_cmpgt_epi8(x, _mm256_set1_epi8(170 - 128)));
}

INLINE __m256i low_and_high(__m256i low, __m256i high)
{
    return _mm256_blend_epi32(low, high, 0xf0);
}

INLINE struct pair pair_tq1_0(const uint8_t *w, int p)
{
    const __m256i flip = _mm256_set1_epi8(-128);
    __m256i a = _mm256_xor_si256(_mm256_broadcastsi128_si256(load128(w)), flip);
    __m256i b = _mm256_xor_si256(_mm256_broadcastsi128_si256(load128(w + 16)), flip);
    __m256i c = _mm256_xor_si256(_mm256_broadcastsi128_si256(load128(w + 32)), flip);
    __m256i z = _mm256_xor_si256(_mm256_set1_epi32((int)load_u32(w + 48)), flip);
    /* the digits 0 and 1, then 2 and 3, then 4, of bytes 0-15, 16-31, 32-47 */
    a = low_and_high(a, thrice(a));
    b = low_and_high(b, thrice(b));
    if (p == 0)
        return (struct pair){{ternary(a), ternary(b)}};
    a = thrice(thrice(a));
    b = thrice(thrice(b));
    if (p == 1)
        return (struct pair){{ternary(a), ternary(b)}};
    a = thrice(thrice(a));
    b = thrice(thrice(b));
    if (p == 2) /* only now: blocks 4 and 5 */
        return (struct pair){{ternary(low_and_high(a, c)), ternary(low_and_high(b, thrice(c)))}};
    c = thrice(thrice(c));
    z = _mm256_blend_epi32(z, thrice(z), 0xaa);
    z = _mm256_blend_epi32(z, thrice(thrice(z)), 0xcc);
    return (struct pair){{ternary(low_and_high(c, thrice(thrice(c)))),
                          ternary(low_and_high(thrice(c), z))}};
}

#include "kern/unpack_x86_iq.h"

#endif
