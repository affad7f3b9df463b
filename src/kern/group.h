/*
 * group: one decoding of every quantised format, for dequant.c and mul_*.
 *
 * A group is 256 consecutive elements of a row: one block of the 256-element
 * formats, several of those with 32, 64 or 128. It is decoded to small
 * integers and one scale for each 16 elements (a "sixteen"), so that
 *
 *     element 16 j + i = scale[j] * q[16 j + i] - min[j]
 *
 * where scale and min are exact in float (at most 11 + 8 significant bits) and
 * scale * q is, too. Formats without a minimum have min = 0 throughout.
 * Symmetric formats have signed q (-128..127), the ones with a minimum have
 * q in 0..31. Blocks missing from the last group of a row are zeros: q, scale
 * and min.
 *
 * Formats with one scale for 32 elements repeat it, and the minimum, for both
 * of their sixteens. The layouts are facts of the GGUF file format.
 */
#ifndef KERN_GROUP_H
#define KERN_GROUP_H

#include <string.h>

#include "kern/kern.h"

enum { GROUP = 256, GROUP_BLOCKS = GROUP / 32, SIXTEENS = GROUP / 16, LANES = 16 };

struct group {
    int8_t q[GROUP];
    float scale[SIXTEENS];
    float min[SIXTEENS];
};

/* Decodes n (1..256) elements at w, a multiple of the format's block. */
typedef void group_fn(struct group *g, const uint8_t *w, int n);
#define DECLARE_GROUP(name, NAME, id, elements, bytes, minima, sixteens) group_fn kern_group_##name;
DTYPE_QUANTISED(DECLARE_GROUP)
#undef DECLARE_GROUP

/* Bytes of a full group. */
#define GROUP_BYTES(elements, bytes) (GROUP / (elements) * (bytes))
/* The most of them in formats whose blocks are shorter than a group, the last of which
 * may then be part of one: Q8_0's. */
enum { PART_GROUP_BYTES = GROUP_BYTES(32, 34) };
#define FITS_PART_GROUP(name, NAME, id, elements, bytes, minima, sixteens) \
    _Static_assert((elements) == GROUP || GROUP_BYTES(elements, bytes) <= PART_GROUP_BYTES, #NAME);
DTYPE_QUANTISED(FITS_PART_GROUP)
#undef FITS_PART_GROUP

/* Values of the 4-bit codes of IQ4_NL and IQ4_XS, and of MXFP4 and NVFP4 (doubled). */
extern const int8_t kern_iq4_values[16];
extern const int8_t kern_mxfp4_values[16];

/*
 * The codebooks of the IQ formats (grids.c). A byte is an element's magnitude plus an
 * offset, so that offset - magnitude, the negative element with its offset, is twice the
 * offset minus the byte, and neither leaves 0..127. Of IQ1 elements are -1, 0, 1, taken
 * eightfold: a block's delta, an eighth of either sign, is then 1 or -1, and the table
 * has the larger of the two sums with an offset of 9.
 */
enum { GRID_OFFSET = 64, GRID_IQ3_S_OFFSET = 16, GRID_IQ1_OFFSET = 10, IQ1_OFFSET = 9 };
extern const uint64_t kern_grid_iq2_xxs[256], kern_grid_iq2_xs[512], kern_grid_iq2_s[1024];
extern const uint32_t kern_grid_iq3_xxs[256], kern_grid_iq3_s[512];
extern const uint64_t kern_grid_iq1[2048];

static inline uint16_t load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t load_u32(const uint8_t *p)
{
    return (uint32_t)load_u16(p) | (uint32_t)load_u16(p + 2) << 16;
}

static inline float bits_to_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t float_to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) /* infinity; NaNs become quiet, as processors make them */
        return bits_to_float(sign | 0x7f800000 | (rest & 0x3ff) << 13 |
                             (rest > 0x7c00 ? 0x400000u : 0));
    if (rest >= 0x400)
        return bits_to_float(sign | ((rest << 13) + (112u << 23)));
    float tiny = (float)rest * 0x1p-24f; /* exact */
    return sign ? -tiny : tiny;
}

/* Scale of an MXFP4 block, 2^(e - 128). */
static inline float mxfp4_scale(uint8_t e)
{
    return bits_to_float(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

/* Scale of a sixteen of NVFP4: half of what the byte is as E4M3 without a sign, where
 * 0x7f (NaN elsewhere) is 0. A half has the same fields, the exponent's bias 8 larger. */
static inline float nvfp4_scale(uint8_t e)
{
    return e == 0x7f ? 0 : half_to_float((uint16_t)((e & 0x7f) << 7)) * 0x1p7f;
}

/* The half whose four nibbles stand at the top of the four words of IQ1_M's scales. */
static inline uint16_t iq1_m_half(const uint8_t scales[8])
{
    return (uint16_t)(scales[1] >> 4 | (scales[3] & 0xf0) | (scales[5] >> 4) << 8 |
                      (scales[7] >> 4) << 12);
}

/* The 8 scales and 8 minima, 6 bits each, of Q4_K and Q5_K. */
static inline void unpack_k4_scales(const uint8_t s[12], uint8_t scale[8], uint8_t min[8])
{
    for (int j = 0; j < 4; j++) {
        scale[j] = s[j] & 63;
        min[j] = s[j + 4] & 63;
        scale[j + 4] = (uint8_t)((s[j + 8] & 15) | (s[j] >> 6) << 4);
        min[j + 4] = (uint8_t)((s[j + 8] >> 4) | (s[j + 4] >> 6) << 4);
    }
}

/* The 16 scales of Q3_K, 6 bits each, -32..31. */
static inline void unpack_q3_k_scales(const uint8_t s[12], int8_t scale[16])
{
    for (int j = 0; j < 16; j++) {
        int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
        int high = s[8 + (j & 3)] >> 2 * (j >> 2) & 3;
        scale[j] = (int8_t)((low | high << 4) - 32);
    }
}

/* The parts of an activation blob (kern.h). */
struct act {
    const int8_t *q;
    const float *d;
    const int16_t *h;
};

static inline size_t act_d_offset(int64_t n)
{
    return align_up((size_t)n, 64);
}

static inline size_t act_h_offset(int64_t n)
{
    return act_d_offset(n) + align_up((size_t)n / 32 * sizeof(float), 64);
}

static inline struct act act_view(const void *blob, int64_t n)
{
    const char *p = blob;
    return (struct act){(const int8_t *)p, (const float *)(const void *)(p + act_d_offset(n)),
                        (const int16_t *)(const void *)(p + act_h_offset(n))};
}

/* The same, to be written. */
struct act_out {
    int8_t *q;
    float *d;
    int16_t *h;
};

static inline struct act_out act_out(void *blob, int64_t n)
{
    char *p = blob;
    return (struct act_out){(int8_t *)p, (float *)(void *)(p + act_d_offset(n)),
                            (int16_t *)(void *)(p + act_h_offset(n))};
}

static inline void act_zero(void *end, void *next)
{
    memset(end, 0, (size_t)((char *)next - (char *)end));
}

/* Fills the padding with zeros. */
static inline void act_pad(const struct act_out *a, int64_t n)
{
    act_zero(a->q + n, a->d);
    act_zero(a->d + n / 32, a->h);
    act_zero(a->h + n / 16, (char *)a->q + kern_act_bytes(n));
}

#endif
