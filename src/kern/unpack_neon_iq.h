/*
 * unpack_neon_iq: the formats with codebooks, IQ1 to IQ3 (dequant_iq.c has their
 * layouts), in 128-bit registers. Included by unpack_neon.h. What the sixteens of a
 * group share (signs) each of them names again; the compiler computes it once.
 */
#ifndef KERN_UNPACK_NEON_IQ_H
#define KERN_UNPACK_NEON_IQ_H

/* ---- parts --------------------------------------------------------------- */

/* Two lines of 8 bytes, four of 4. */
INLINE uint8x16_t lines_8(const uint64_t *a, const uint64_t *b)
{
    return vreinterpretq_u8_u64(vcombine_u64(vld1_u64(a), vld1_u64(b)));
}

INLINE uint8x16_t lines_4(const uint32_t *a, const uint32_t *b, const uint32_t *c,
                          const uint32_t *d)
{
    const uint32x4_t x = {*a, *b, *c, *d};
    return vreinterpretq_u8_u32(x);
}

/* Magnitudes with an offset to elements with it; bit i of byte 2 s of `bits` and the
 * one behind it is the sign of element i of sixteen s. */
INLINE uint8x16_t grid_signs(uint8x16_t q, uint8x16_t bits, int s, int offset)
{
    const uint8x16_t negative = vsubq_u8(vdupq_n_u8((uint8_t)(2 * offset)), q);
    return vbslq_u8(bytes_where(bits, 2 * s), negative, q);
}

/* To seven bits of every byte the eighth, which makes the number of ones even. */
INLINE uint8x16_t with_parity(uint8x16_t x)
{
    return vsliq_n_u8(x, vcntq_u8(x), 7);
}

/* Four times seven bits of four dwords, as 32 signs each. */
INLINE uint8x16_t sevens_to_signs(uint32x4_t x)
{
    const uint32x4_t first = vandq_u32(x, vdupq_n_u32(0x7f));
    const uint32x4_t second = vandq_u32(vshlq_n_u32(x, 1), vdupq_n_u32(0x7f00));
    const uint32x4_t third = vandq_u32(vshlq_n_u32(x, 2), vdupq_n_u32(0x7f0000));
    const uint32x4_t fourth = vandq_u32(vshlq_n_u32(x, 3), vdupq_n_u32(0x7f000000));
    return with_parity(
        vreinterpretq_u8_u32(vorrq_u32(vorrq_u32(first, second), vorrq_u32(third, fourth))));
}

/* (2 s + 1) d */
INLINE f32x8 odd_scales(uint16x8_t s, float d)
{
    const uint16x8_t x = vaddq_u16(vaddq_u16(s, s), vdupq_n_u16(1));
    return (f32x8){vmulq_n_f32(vcvtq_f32_u32(vmovl_u16(vget_low_u16(x))), d),
                   vmulq_n_f32(vcvtq_f32_u32(vmovl_u16(vget_high_u16(x))), d)};
}

/* Eight bytes: the scales of the first sixteens in the low, of the second in the high half. */
INLINE struct scales nibble_scales(const uint8_t *s, float d)
{
    struct scales r = no_scales();
    const uint8x8_t x = vld1_u8(s);
    r.scale[0] = odd_scales(vmovl_u8(vand_u8(x, vdup_n_u8(15))), d);
    r.scale[1] = odd_scales(vmovl_u8(vshr_n_u8(x, 4)), d);
    return r;
}

/* The uppermost 4 bits of eight dwords. */
INLINE struct scales top_nibble_scales(uint32x4_t a, uint32x4_t b, float d)
{
    struct scales r = no_scales();
    r.scale[0] =
        odd_scales(vcombine_u16(vmovn_u32(vshrq_n_u32(a, 28)), vmovn_u32(vshrq_n_u32(b, 28))), d);
    return r;
}

INLINE uint32x4_t load_4_dwords(const uint8_t *p)
{
    return vreinterpretq_u32_u8(vld1q_u8(p));
}

/* ---- IQ2 ----------------------------------------------------------------- */

UNPACKED(iq2_xxs, GRID_OFFSET, 127, true);

/* The second dwords of four parts: signs and scale. */
INLINE uint32x4_t iq2_xxs_bits(const uint8_t *w, int half)
{
    return vuzp2q_u32(load_4_dwords(w + 2 + 32 * half), load_4_dwords(w + 18 + 32 * half));
}

INLINE struct scales scales_iq2_xxs(const uint8_t *w)
{
    return top_nibble_scales(iq2_xxs_bits(w, 0), iq2_xxs_bits(w, 1), half_at(w) * 0.125f);
}

INLINE uint8x16_t sixteen_iq2_xxs(const uint8_t *w, int s)
{
    const uint8_t *at = w + 2 + 8 * (s / 2) + 2 * (s % 2);
    return grid_signs(lines_8(kern_grid_iq2_xxs + at[0], kern_grid_iq2_xxs + at[1]),
                      sevens_to_signs(iq2_xxs_bits(w, s / 8)), s % 8, GRID_OFFSET);
}

PAIR_OF_SIXTEENS(iq2_xxs)

UNPACKED(iq2_xs, GRID_OFFSET, 127, false);

INLINE struct scales scales_iq2_xs(const uint8_t *w)
{
    return nibble_scales(w + 66, half_at(w) * 0.125f);
}

/* The upper 7 bits of 16 words. */
INLINE uint8x16_t iq2_xs_signs(const uint8_t *w)
{
    const uint16x8_t a = vreinterpretq_u16_u8(vld1q_u8(w));
    const uint16x8_t b = vreinterpretq_u16_u8(vld1q_u8(w + 16));
    return with_parity(vuzp1q_u8(vreinterpretq_u8_u16(vshrq_n_u16(a, 9)),
                                 vreinterpretq_u8_u16(vshrq_n_u16(b, 9))));
}

INLINE uint8x16_t sixteen_iq2_xs(const uint8_t *w, int s)
{
    const uint8_t *at = w + 2 + 4 * s;
    return grid_signs(lines_8(kern_grid_iq2_xs + (load_u16(at) & 511),
                              kern_grid_iq2_xs + (load_u16(at + 2) & 511)),
                      iq2_xs_signs(w + 2 + 32 * (s / 8)), s % 8, GRID_OFFSET);
}

PAIR_OF_SIXTEENS(iq2_xs)

UNPACKED(iq2_s, GRID_OFFSET, 127, false);

INLINE struct scales scales_iq2_s(const uint8_t *w)
{
    return nibble_scales(w + 74, half_at(w) * 0.125f);
}

INLINE uint8x16_t sixteen_iq2_s(const uint8_t *w, int s)
{
    const uint8_t *at = w + 2 + 2 * s;
    const unsigned high = (unsigned)w[66 + s / 2] << (s % 2 ? 4 : 8);
    return grid_signs(lines_8(kern_grid_iq2_s + (at[0] | (high & 0x300)),
                              kern_grid_iq2_s + (at[1] | (high >> 2 & 0x300))),
                      vld1q_u8(w + 34 + 16 * (s / 8)), s % 8, GRID_OFFSET);
}

PAIR_OF_SIXTEENS(iq2_s)

/* ---- IQ3 ----------------------------------------------------------------- */

UNPACKED(iq3_xxs, GRID_OFFSET, 127, true);

INLINE struct scales scales_iq3_xxs(const uint8_t *w)
{
    return top_nibble_scales(load_4_dwords(w + 66), load_4_dwords(w + 82), half_at(w) * 0.25f);
}

INLINE uint8x16_t sixteen_iq3_xxs(const uint8_t *w, int s)
{
    const uint32_t *grid = kern_grid_iq3_xxs;
    const uint8_t *at = w + 2 + 4 * s;
    return grid_signs(lines_4(grid + at[0], grid + at[1], grid + at[2], grid + at[3]),
                      sevens_to_signs(load_4_dwords(w + 66 + 16 * (s / 8))), s % 8, GRID_OFFSET);
}

PAIR_OF_SIXTEENS(iq3_xxs)

UNPACKED(iq3_s, GRID_IQ3_S_OFFSET, GRID_IQ3_S_OFFSET + 15, true);

INLINE struct scales scales_iq3_s(const uint8_t *w)
{
    struct scales r = no_scales();
    const uint8x8_t s = vcreate_u8(spread_fours(load_u32(w + 106)));
    r.scale[0] = odd_scales(vmovl_u8(s), half_at(w));
    return r;
}

INLINE uint8x16_t sixteen_iq3_s(const uint8_t *w, int s)
{
    const uint32_t *grid = kern_grid_iq3_s;
    const uint8_t *at = w + 2 + 4 * s;
    const unsigned high = (unsigned)w[66 + s / 2] << (s % 2 ? 4 : 8);
    return grid_signs(lines_4(grid + (at[0] | (high & 256)), grid + (at[1] | (high >> 1 & 256)),
                              grid + (at[2] | (high >> 2 & 256)),
                              grid + (at[3] | (high >> 3 & 256))),
                      vld1q_u8(w + 74 + 16 * (s / 8)), s % 8, GRID_IQ3_S_OFFSET);
}

PAIR_OF_SIXTEENS(iq3_s)

/* ---- IQ1 ----------------------------------------------------------------- */

UNPACKED(iq1_s, IQ1_OFFSET, 2 * IQ1_OFFSET, true);

INLINE struct scales scales_iq1_s(const uint8_t *w)
{
    struct scales r = no_scales();
    const uint16x8_t h = vreinterpretq_u16_u8(vld1q_u8(w + 34));
    r.scale[0] = odd_scales(vandq_u16(vshrq_n_u16(h, 12), vdupq_n_u16(7)), half_at(w) * 0.125f);
    return r;
}

INLINE uint8x16_t sixteen_iq1_s(const uint8_t *w, int s)
{
    const uint8_t *at = w + 2 + 2 * s;
    const unsigned h = load_u16(w + 34 + 2 * (s / 2)), high = s % 2 ? h << 2 : h << 8;
    const unsigned next = s % 2 ? h >> 1 : h << 5;
    return vsubq_u8(
        lines_8(kern_grid_iq1 + (at[0] | (high & 0x700)), kern_grid_iq1 + (at[1] | (next & 0x700))),
        vdupq_n_u8((uint8_t)(h >> 14 & 2)));
}

PAIR_OF_SIXTEENS(iq1_s)

UNPACKED(iq1_m, IQ1_OFFSET, 2 * IQ1_OFFSET, false);

INLINE struct scales scales_iq1_m(const uint8_t *w)
{
    struct scales r = no_scales();
    const float d = vgetq_lane_f32(halves_to_floats(vdup_n_u16(iq1_m_half(w + 48))), 0) * 0.125f;
    const uint16x4_t four = vreinterpret_u16_u8(vld1_u8(w + 48));
    const int16x8_t down = {0, -6, 0, -6, 0, -6, 0, -6}; /* a word for two blocks */
    const uint16x8_t x =
        vshlq_u16(vcombine_u16(vzip1_u16(four, four), vzip2_u16(four, four)), down);
    r.scale[0] = odd_scales(vandq_u16(x, vdupq_n_u16(7)), d);
    r.scale[1] = odd_scales(vandq_u16(vshrq_n_u16(x, 3), vdupq_n_u16(7)), d);
    return r;
}

INLINE uint8x16_t sixteen_iq1_m(const uint8_t *w, int s)
{
    const uint8_t *at = w + 2 * s;
    const unsigned high = w[32 + s];
    const uint64x2_t delta = {0x0808080808080808, 0x8080808080808080};
    const uint8x16_t minus = vtstq_u8(vdupq_n_u8((uint8_t)high), vreinterpretq_u8_u64(delta));
    return vsubq_u8(lines_8(kern_grid_iq1 + (at[0] | (high << 8 & 0x700)),
                            kern_grid_iq1 + (at[1] | (high << 4 & 0x700))),
                    low_bits(minus, 2));
}

PAIR_OF_SIXTEENS(iq1_m)

#endif
