/*
 * unpack_neon: weight groups in pairs of 128-bit registers, as unpack.h
 * describes them. Included after simd_neon.h. Products are signed, so that
 * elements that need all 8 bits have no offset. Crossing costs nothing here and
 * lets two sums share a register: all formats but those with sixteens do it.
 */
#ifndef KERN_UNPACK_NEON_H
#define KERN_UNPACK_NEON_H

#include "kern/unpack.h"

INLINE uint8x16_t shr(uint8x16_t x, int n) /* by a literal */
{
    return n ? x >> n : x;
}

/* Bits of every byte moved from position `from` to position `to`. */
INLINE uint8x16_t move_bits(uint8x16_t x, int from, int to)
{
    return from >= to ? shr(x, from - to) : x << (to - from);
}

INLINE uint8x16_t low_bits(uint8x16_t x, int mask)
{
    return vandq_u8(x, vdupq_n_u8((uint8_t)mask));
}

/* The bits of `mask` from x, the others, of which these are 0, from y. */
INLINE uint8x16_t put_bits(uint8x16_t y, uint8x16_t x, int mask)
{
    return vbslq_u8(vdupq_n_u8((uint8_t)mask), x, y);
}

INLINE i8x32 bytes_32(uint8x16_t a, uint8x16_t b)
{
    return (i8x32){vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(b)};
}

/* A half as a float; used as a factor of vectors. */
INLINE float half_at(const uint8_t *p)
{
    return vgetq_lane_f32(halves_to_floats(vdup_n_u16(load_u16(p))), 0);
}

/*
 * Four of 16 bytes as floats: lane i is byte step * i + first. The bytes come to
 * the top of a lane and are converted as fixed-point numbers, exactly. `fraction`
 * is 24 for bytes, more for what stands in their upper bits only.
 */
INLINE float32x4_t four_bytes(uint8x16_t x, int first, int step, bool is_signed, int fraction)
{
    const uint32_t at = (uint32_t)first, by = (uint32_t)step;
    const uint32x4_t lane = {at << 24, (at + by) << 24, (at + 2 * by) << 24, (at + 3 * by) << 24};
    const uint32x4_t top = vreinterpretq_u32_u8(
        vqtbl1q_u8(x, vreinterpretq_u8_u32(vorrq_u32(lane, vdupq_n_u32(0x00ffffff)))));
    const int32x4_t itop = vreinterpretq_s32_u32(top);
    return fraction == 26 ? vcvtq_n_f32_s32(itop, 26)
           : is_signed    ? vcvtq_n_f32_s32(itop, 24)
                          : vcvtq_n_f32_u32(top, 24);
}

/* The even (first 0) or odd (1) ones of 16 bytes, times a factor. */
INLINE f32x8 scaled_sixteens(uint8x16_t x, int first, bool is_signed, float factor)
{
    return (f32x8){vmulq_n_f32(four_bytes(x, first, 2, is_signed, 24), factor),
                   vmulq_n_f32(four_bytes(x, first + 8, 2, is_signed, 24), factor)};
}

INLINE uint64_t load_u64(const uint8_t *p) /* in one go; unaligned */
{
    uint64_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

INLINE uint8x16_t eight_bytes(uint64_t x)
{
    const uint8x8_t low = vcreate_u8(x);
    return vcombine_u8(low, vdup_n_u8(0));
}

/* ---- 32-element blocks -------------------------------------------------- */

/* The nibbles of two blocks, their 16 bytes at a and b: the low ones of both,
 * then the high ones. */
INLINE struct pair crossed_nibbles(const uint8_t *a, const uint8_t *b)
{
    const uint8x16_t x = vld1q_u8(a), y = vld1q_u8(b);
    return (struct pair){{bytes_32(low_bits(x, 15), low_bits(y, 15)),
                          bytes_32(shr(x, 4), shr(y, 4))}};
}

INLINE i8x32 look_up(i8x32 nibbles, const int8_t values[16])
{
    const int8x16_t t = vld1q_s8(values);
    return (i8x32){vqtbl1q_s8(t, vreinterpretq_u8_s8(nibbles.a)),
                   vqtbl1q_s8(t, vreinterpretq_u8_s8(nibbles.b))};
}

INLINE struct pair crossed_values(const uint8_t *a, const uint8_t *b, const int8_t values[16])
{
    const struct pair q = crossed_nibbles(a, b);
    return (struct pair){{look_up(q.q[0], values), look_up(q.q[1], values)}};
}

/* All bits of byte i where bit 8 first + i of `bits` is set. */
INLINE uint8x16_t bytes_where(uint8x16_t bits, int first)
{
    const uint8x16_t which = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    const uint64x2_t byte = {0x0101010101010101 * (uint64_t)first,
                             0x0101010101010101 * (uint64_t)(first + 1)};
    return vtstq_u8(vqtbl1q_u8(bits, vreinterpretq_u8_u64(byte)), which);
}

INLINE uint8x16_t everywhere(uint32_t x)
{
    return vreinterpretq_u8_u32(vdupq_n_u32(x));
}

/* 16 bytes plus 16 where bit 8 first + i of `bits` is set. */
INLINE int8x16_t add_16_where(int8x16_t q, uint32_t bits, int first)
{
    const uint8x16_t where = bytes_where(everywhere(bits), first);
    return vreinterpretq_s8_u8(put_bits(vreinterpretq_u8_s8(q), where, 16));
}

/* Two blocks with nibbles at a and b, their fifth bits four bytes before. */
INLINE struct pair crossed_five_bits(const uint8_t *a, const uint8_t *b)
{
    struct pair q = crossed_nibbles(a, b);
    const uint32_t high_a = load_u32(a - 4), high_b = load_u32(b - 4);
    for (int h = 0; h < 2; h++) {
        q.q[h].a = add_16_where(q.q[h].a, high_a, 2 * h);
        q.q[h].b = add_16_where(q.q[h].b, high_b, 2 * h);
    }
    return q;
}

/* Four halves, `stride` bytes apart, as floats. They meet in a general register. */
INLINE float32x4_t four_halves(const uint8_t *w, int stride)
{
    const uint64_t low = load_u16(w) | (uint32_t)load_u16(w + stride) << 16;
    const uint64_t high = load_u16(w + 2 * stride) | (uint32_t)load_u16(w + 3 * stride) << 16;
    return halves_to_floats(vcreate_u16(low | high << 32));
}

INLINE struct scales no_scales(void)
{
    return (struct scales){{f32x8_zero(), f32x8_zero()}, {f32x8_zero(), f32x8_zero()}};
}

/* The halves at the start of eight blocks, `stride` bytes apart. */
INLINE struct scales half_scales(const uint8_t *w, int stride)
{
    struct scales r = no_scales();
    r.scale[0] = (f32x8){four_halves(w, stride), four_halves(w + 4 * stride, stride)};
    return r;
}

/* Scale and offset, as halves, at the start of eight blocks. The minimum is
 * the negated offset. */
INLINE struct scales half_scales_offsets(const uint8_t *w, int stride)
{
    struct scales r = half_scales(w, stride), offset = half_scales(w + 2, stride);
    r.min[0] = (f32x8){vnegq_f32(offset.scale[0].a), vnegq_f32(offset.scale[0].b)};
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

UNPACKED(q5_0, 16, 31, true);

INLINE struct scales scales_q5_0(const uint8_t *w)
{
    return half_scales(w, 22);
}

INLINE struct pair pair_q5_0(const uint8_t *w, int p)
{
    return crossed_five_bits(w + 44 * p + 6, w + 44 * p + 28);
}

UNPACKED(q5_1, 0, 31, true);

INLINE struct scales scales_q5_1(const uint8_t *w)
{
    return half_scales_offsets(w, 24);
}

INLINE struct pair pair_q5_1(const uint8_t *w, int p)
{
    return crossed_five_bits(w + 48 * p + 8, w + 48 * p + 32);
}

UNPACKED(q8_0, 0, 255, true);

INLINE struct scales scales_q8_0(const uint8_t *w)
{
    return half_scales(w, 34);
}

INLINE struct pair pair_q8_0(const uint8_t *w, int p)
{
    struct pair q = {{i8x32_load(w + 68 * p + 2), i8x32_load(w + 68 * p + 36)}};
    cross(q.q);
    return q;
}

UNPACKED(iq4_nl, 0, 255, true);

INLINE struct scales scales_iq4_nl(const uint8_t *w)
{
    return half_scales(w, 18);
}

INLINE struct pair pair_iq4_nl(const uint8_t *w, int p)
{
    return crossed_values(w + 36 * p + 2, w + 36 * p + 20, kern_iq4_values);
}

UNPACKED(mxfp4, 0, 255, true);

/* 2^(e - 128) of four blocks: e - 1 in the exponent's place, but the two least,
 * which are subnormal: 2^21 and 2^22 as bits. */
INLINE float32x4_t four_exponents(const uint8_t *w)
{
    const uint32x4_t e = {w[0], w[17], w[34], w[51]}, one = vdupq_n_u32(1);
    const uint32x4_t normal = vshlq_n_u32(vsubq_u32(e, one), 23);
    const uint32x4_t tiny = vshlq_n_u32(vaddq_u32(e, one), 21);
    return vreinterpretq_f32_u32(vbslq_u32(vcgtq_u32(e, one), normal, tiny));
}

INLINE struct scales scales_mxfp4(const uint8_t *w)
{
    struct scales r = no_scales();
    r.scale[0] = (f32x8){four_exponents(w), four_exponents(w + 68)};
    return r;
}

INLINE struct pair pair_mxfp4(const uint8_t *w, int p)
{
    return crossed_values(w + 34 * p + 1, w + 34 * p + 18, kern_mxfp4_values);
}

/* ---- 64- and 128-element blocks ----------------------------------------- */

/* The sixteens of pair p, whose first is sixteen 4 p, in a format's order. */
INLINE struct pair four_sixteens(uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d,
                                 bool crossed)
{
    return crossed ? (struct pair){{bytes_32(a, c), bytes_32(b, d)}}
                   : (struct pair){{bytes_32(a, b), bytes_32(c, d)}};
}

#define PAIR_OF_SIXTEENS(name)                                                              \
    INLINE struct pair pair_##name(const uint8_t *w, int p)                                 \
    {                                                                                       \
        return four_sixteens(sixteen_##name(w, 4 * p), sixteen_##name(w, 4 * p + 1),        \
                             sixteen_##name(w, 4 * p + 2), sixteen_##name(w, 4 * p + 3),    \
                             name##_crossed);                                               \
    }

UNPACKED(nvfp4, 0, 255, false);

/* As nvfp4_scale, of eight bytes that stand in words. */
INLINE f32x8 nvfp4_scales(uint16x8_t e)
{
    const uint16x8_t nan = vceqq_u16(e, vdupq_n_u16(0x7f));
    const uint16x8_t h = vbicq_u16(vandq_u16(vshlq_n_u16(e, 7), vdupq_n_u16(0x3f80)), nan);
    return (f32x8){vmulq_n_f32(halves_to_floats(vget_low_u16(h)), 0x1p7f),
                   vmulq_n_f32(halves_to_floats(vget_high_u16(h)), 0x1p7f)};
}

INLINE struct scales scales_nvfp4(const uint8_t *w)
{
    struct scales r = no_scales();
    const uint32x4_t d = {load_u32(w), load_u32(w + 36), load_u32(w + 72), load_u32(w + 108)};
    const uint16x8_t e = vreinterpretq_u16_u32(d);
    r.scale[0] = nvfp4_scales(vandq_u16(e, vdupq_n_u16(0xff)));
    r.scale[1] = nvfp4_scales(vshrq_n_u16(e, 8));
    return r;
}

INLINE uint8x16_t sixteen_nvfp4(const uint8_t *w, int s)
{
    const uint8x8_t x = vld1_u8(w + 36 * (s / 4) + 4 + 8 * (s % 4));
    const uint8x16_t nibbles = vcombine_u8(vand_u8(x, vdup_n_u8(15)), vshr_n_u8(x, 4));
    return vreinterpretq_u8_s8(vqtbl1q_s8(vld1q_s8(kern_mxfp4_values), nibbles));
}

PAIR_OF_SIXTEENS(nvfp4)

UNPACKED(q1_0, 1, 2, true);

INLINE struct scales scales_q1_0(const uint8_t *w)
{
    struct scales r = no_scales();
    r.scale[0] = (f32x8){vdupq_n_f32(half_at(w)), vdupq_n_f32(half_at(w + 18))};
    return r;
}

INLINE uint8x16_t sixteen_q1_0(const uint8_t *w, int s)
{
    const uint32_t bits = load_u16(w + 18 * (s / 8) + 2 + 2 * (s % 8));
    return low_bits(bytes_where(everywhere(bits), 0), 2);
}

PAIR_OF_SIXTEENS(q1_0)

UNPACKED(q2_0, 1, 3, true);

INLINE struct scales scales_q2_0(const uint8_t *w)
{
    struct scales r = no_scales();
    const float32x4_t d = four_halves(w, 18);
    r.scale[0] = (f32x8){vzip1q_f32(d, d), vzip2q_f32(d, d)};
    return r;
}

INLINE uint8x16_t sixteen_q2_0(const uint8_t *w, int s)
{
    const uint32x4_t byte = {0, 0x01010101, 0x02020202, 0x03030303};
    const int8x16_t down = vreinterpretq_s8_u32(vdupq_n_u32(0xfafcfe00)); /* 0, -2, -4, -6 */
    const uint8x16_t x = vqtbl1q_u8(everywhere(load_u32(w + 18 * (s / 4) + 2 + 4 * (s % 4))),
                                    vreinterpretq_u8_u32(byte));
    return low_bits(vshlq_u8(x, down), 3);
}

PAIR_OF_SIXTEENS(q2_0)

/* ---- 256-element blocks ------------------------------------------------- */

UNPACKED(q2_k, 0, 3, false);

INLINE struct scales scales_q2_k(const uint8_t *w)
{
    const uint8x16_t s = vld1q_u8(w), low = low_bits(s, 15), high = shr(s, 4);
    const float d = half_at(w + 80), dmin = half_at(w + 82);
    return (struct scales){{scaled_sixteens(low, 0, false, d), scaled_sixteens(low, 1, false, d)},
                           {scaled_sixteens(high, 0, false, dmin),
                            scaled_sixteens(high, 1, false, dmin)}};
}

/* Of 64 bytes, bits 0-1 of the first 32, then bits 2-3 ... */
INLINE struct pair two_bits(const uint8_t *qs, int p, bool crossed)
{
    const uint8_t *q = qs + 32 * (p / 2);
    const uint8x16_t a = vld1q_u8(q), b = vld1q_u8(q + 16);
    const int shift = 4 * (p % 2);
    return four_sixteens(low_bits(shr(a, shift), 3), low_bits(shr(b, shift), 3),
                         low_bits(shr(a, shift + 2), 3), low_bits(shr(b, shift + 2), 3), crossed);
}

INLINE struct pair pair_q2_k(const uint8_t *w, int p)
{
    return two_bits(w + 16, p, false);
}

UNPACKED(q3_k, 4, 7, false);

INLINE struct scales scales_q3_k(const uint8_t *w)
{
    struct scales r = no_scales();
    const uint32_t a = load_u32(w + 96), b = load_u32(w + 100), c = load_u32(w + 104);
    const uint32x4_t low = {a & 0x0f0f0f0f, b & 0x0f0f0f0f, a >> 4 & 0x0f0f0f0f,
                            b >> 4 & 0x0f0f0f0f};
    const uint32x4_t high = {c << 4 & 0x30303030, c << 2 & 0x30303030, c & 0x30303030,
                             c >> 2 & 0x30303030};
    const uint8x16_t s = vsubq_u8(vreinterpretq_u8_u32(vorrq_u32(low, high)), vdupq_n_u8(32));
    const float d = half_at(w + 108);
    r.scale[0] = scaled_sixteens(s, 0, true, d);
    r.scale[1] = scaled_sixteens(s, 1, true, d);
    return r;
}

INLINE struct pair pair_q3_k(const uint8_t *w, int p)
{
    struct pair q = two_bits(w + 32, p, false);
    const uint8x16_t a = vld1q_u8(w), b = vld1q_u8(w + 16);
    for (int i = 0; i < 2; i++)
        q.q[i] = bytes_32(put_bits(vreinterpretq_u8_s8(q.q[i].a), move_bits(a, 2 * p + i, 2), 4),
                          put_bits(vreinterpretq_u8_s8(q.q[i].b), move_bits(b, 2 * p + i, 2), 4));
    return q;
}

UNPACKED(q4_k, 0, 15, true);

/* The bits come together in general registers, which the products leave idle. */
INLINE struct scales scales_q4_k(const uint8_t *w)
{
    struct scales r = no_scales();
    const uint64_t six = 0x3f3f3f3f3f3f3f3f, four = 0x0f0f0f0f0f0f0f0f, two = 0x3030303030303030;
    const uint64_t ab = load_u64(w + 4), c = load_u32(w + 12);
    /* four scales, four minima; of blocks 0-3, of blocks 4-7 */
    const uint8x16_t low = eight_bytes(ab & six);
    const uint8x16_t high = eight_bytes(((c | c << 28) & four) | (ab >> 2 & two));
    const float32x4_t d = halves_to_floats(vreinterpret_u16_u32(vdup_n_u32(load_u32(w))));
    r.scale[0] = (f32x8){vmulq_laneq_f32(four_bytes(low, 0, 1, false, 24), d, 0),
                         vmulq_laneq_f32(four_bytes(high, 0, 1, false, 24), d, 0)};
    r.min[0] = (f32x8){vmulq_laneq_f32(four_bytes(low, 4, 1, false, 24), d, 1),
                       vmulq_laneq_f32(four_bytes(high, 4, 1, false, 24), d, 1)};
    return r;
}

INLINE struct pair pair_q4_k(const uint8_t *w, int p)
{
    const uint8x16_t a = vld1q_u8(w + 16 + 32 * p), b = vld1q_u8(w + 32 + 32 * p);
    return (struct pair){{bytes_32(low_bits(a, 15), shr(a, 4)),
                          bytes_32(low_bits(b, 15), shr(b, 4))}};
}

UNPACKED(q5_k, 0, 31, true);

INLINE struct scales scales_q5_k(const uint8_t *w)
{
    return scales_q4_k(w);
}

INLINE struct pair pair_q5_k(const uint8_t *w, int p)
{
    struct pair q = pair_q4_k(w + 32, p);
    for (int h = 0; h < 2; h++) {
        const uint8x16_t high = vld1q_u8(w + 16 + 16 * h);
        q.q[h] = bytes_32(put_bits(vreinterpretq_u8_s8(q.q[h].a), move_bits(high, 2 * p, 4), 16),
                          put_bits(vreinterpretq_u8_s8(q.q[h].b), move_bits(high, 2 * p + 1, 4),
                                   16));
    }
    return q;
}

UNPACKED(q6_k, 32, 63, false);

INLINE struct scales scales_q6_k(const uint8_t *w)
{
    struct scales r = no_scales();
    const uint8x16_t s = vld1q_u8(w + 192);
    const float d = half_at(w + 208);
    r.scale[0] = scaled_sixteens(s, 0, true, d);
    r.scale[1] = scaled_sixteens(s, 1, true, d);
    return r;
}

/* 16 elements: the low or high nibbles at ql, two bits at position `from` at qh. */
INLINE uint8x16_t six_bits(const uint8_t *ql, const uint8_t *qh, bool upper, int from)
{
    const uint8x16_t low = vld1q_u8(ql), high = vld1q_u8(qh);
    return put_bits(upper ? shr(low, 4) : low_bits(low, 15), move_bits(high, from, 4), 0x30);
}

INLINE struct pair pair_q6_k(const uint8_t *w, int p)
{
    const uint8_t *ql = w + 64 * (p / 2), *qh = w + 128 + 32 * (p / 2);
    const int from = p % 2 ? 4 : 0;
    return (struct pair){{bytes_32(six_bits(ql, qh, p % 2, from),
                                   six_bits(ql + 16, qh + 16, p % 2, from)),
                          bytes_32(six_bits(ql + 32, qh, p % 2, from + 2),
                                   six_bits(ql + 48, qh + 16, p % 2, from + 2))}};
}

UNPACKED(iq4_xs, 0, 255, true);

/* Eight fields of 4 bits, and eight of 2, to the low ends of eight bytes. */
INLINE uint64_t spread_fours(uint64_t x)
{
    x = (x | x << 16) & 0x0000ffff0000ffff;
    x = (x | x << 8) & 0x00ff00ff00ff00ff;
    return (x | x << 4) & 0x0f0f0f0f0f0f0f0f;
}

INLINE uint64_t spread_twos(uint64_t x)
{
    x = (x | x << 24) & 0x000000ff000000ff;
    x = (x | x << 12) & 0x000f000f000f000f;
    return (x | x << 6) & 0x0303030303030303;
}

INLINE struct scales scales_iq4_xs(const uint8_t *w)
{
    struct scales r = no_scales();
    const uint64_t six = spread_fours(load_u32(w + 4)) | spread_twos(load_u16(w + 2)) << 4;
    /* minus 32: the uppermost bit of six becomes a sign */
    const uint8x16_t s = eight_bytes(six << 2 ^ 0x8080808080808080);
    const float d = half_at(w);
    r.scale[0] = (f32x8){vmulq_n_f32(four_bytes(s, 0, 1, true, 26), d),
                         vmulq_n_f32(four_bytes(s, 4, 1, true, 26), d)};
    return r;
}

INLINE struct pair pair_iq4_xs(const uint8_t *w, int p)
{
    return crossed_values(w + 8 + 32 * p, w + 24 + 32 * p, kern_iq4_values);
}

/* One scale, a half, for the whole block. */
INLINE struct scales one_scale(const uint8_t *half)
{
    struct scales r = no_scales();
    const float32x4_t d = vdupq_n_f32(half_at(half));
    r.scale[0] = (f32x8){d, d};
    return r;
}

UNPACKED(tq2_0, 1, 3, true);

INLINE struct scales scales_tq2_0(const uint8_t *w)
{
    return one_scale(w + 64);
}

INLINE struct pair pair_tq2_0(const uint8_t *w, int p)
{
    return two_bits(w, p, true);
}

UNPACKED(tq1_0, 1, 2, true);

INLINE struct scales scales_tq1_0(const uint8_t *w)
{
    return one_scale(w + 52);
}

/* A byte is a fraction of 256; the digit in front is how many of its thirds are below it. */
INLINE uint8x16_t ternary(uint8x16_t x)
{
    const uint8x16_t one = vcgtq_u8(x, vdupq_n_u8(85)), two = vcgtq_u8(x, vdupq_n_u8(170));
    return vsubq_u8(vsubq_u8(vdupq_n_u8(0), one), two);
}

INLINE uint8x16_t sixteen_tq1_0(const uint8_t *w, int s)
{
    const uint32x4_t powers = {0x01010101, 0x03030303, 0x09090909, 0x1b1b1b1b};
    const int digit = s < 10 ? s / 2 : s - 10;
    const uint8_t power = digit == 0 ? 1 : digit == 1 ? 3 : digit == 2 ? 9 : digit == 3 ? 27 : 81;
    if (s == 15)
        return ternary(vmulq_u8(everywhere(load_u32(w + 48)), vreinterpretq_u8_u32(powers)));
    return ternary(vmulq_u8(vld1q_u8(s < 10 ? w + 16 * (s % 2) : w + 32), vdupq_n_u8(power)));
}

PAIR_OF_SIXTEENS(tq1_0)

#include "kern/unpack_neon_iq.h"

#undef PAIR_OF_SIXTEENS

#endif
