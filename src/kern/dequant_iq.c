/*
 * dequant_iq: exact decoders of the formats with codebooks, IQ1 to IQ3, in plain C.
 *
 * A block has 256 elements in eight parts of 32, each of four eights. Where a format has
 * signs, bit i of an eight's byte makes its element i negative; if only seven of
 * the bits are in the file, the number of ones is even.
 */
#include "kern/group.h"

static uint8_t with_parity(unsigned seven)
{
    unsigned parity = seven ^ seven >> 4;
    parity ^= parity >> 2;
    return (uint8_t)(seven | ((parity ^ parity >> 1) & 1) << 7);
}

/* n bytes of a codebook, the offset taken away, with signs. */
static void signed_elements(int8_t *q, uint64_t line, int n, int offset, unsigned signs)
{
    for (int i = 0; i < n; i++) {
        int v = (int)(line >> 8 * i & 0xff) - offset;
        q[i] = (int8_t)(signs >> i & 1 ? -v : v);
    }
}

/* The two sixteens of 32-block b. */
static void set_scales(struct group *g, int b, float first, float second)
{
    g->scale[2 * b] = first;
    g->scale[2 * b + 1] = second;
    g->min[2 * b] = g->min[2 * b + 1] = 0;
}

static float odd_scale(float d, unsigned s) /* exact */
{
    return d * (float)(2 * s + 1);
}

/* d; eight times: index[4]; u32: four times 7 signs, 4 bits of scale */
void kern_group_iq2_xxs(struct group *g, const uint8_t *w, int n)
{
    const float d = half_to_float(load_u16(w)) * 0.125f;
    (void)n;
    for (int b = 0; b < 8; b++) {
        const uint8_t *p = w + 2 + 8 * b;
        const uint32_t bits = load_u32(p + 4);
        const float scale = odd_scale(d, bits >> 28);
        set_scales(g, b, scale, scale);
        for (int l = 0; l < 4; l++)
            signed_elements(g->q + 32 * b + 8 * l, kern_grid_iq2_xxs[p[l]], 8, GRID_OFFSET,
                            with_parity(bits >> 7 * l & 127));
    }
}

/* Nibble k (0, 1) of byte b of `s` is the scale of sixteen k of 32-block b. */
static void nibble_scales(struct group *g, const uint8_t s[8], float d)
{
    for (int b = 0; b < 8; b++)
        set_scales(g, b, odd_scale(d, s[b] & 15), odd_scale(d, s[b] >> 4));
}

/* d; u16 qs[32]: 9 bits of index, 7 signs; scales[8] */
void kern_group_iq2_xs(struct group *g, const uint8_t *w, int n)
{
    (void)n;
    nibble_scales(g, w + 66, half_to_float(load_u16(w)) * 0.125f);
    for (int k = 0; k < 32; k++) {
        const unsigned x = load_u16(w + 2 + 2 * k);
        signed_elements(g->q + 8 * k, kern_grid_iq2_xs[x & 511], 8, GRID_OFFSET,
                        with_parity(x >> 9));
    }
}

/* d; index[32]; signs[32]; qh[8]: two upper bits of four indices; scales[8] */
void kern_group_iq2_s(struct group *g, const uint8_t *w, int n)
{
    (void)n;
    nibble_scales(g, w + 74, half_to_float(load_u16(w)) * 0.125f);
    for (int k = 0; k < 32; k++) {
        const int index = w[2 + k] | (w[66 + k / 4] >> 2 * (k % 4) & 3) << 8;
        signed_elements(g->q + 8 * k, kern_grid_iq2_s[index], 8, GRID_OFFSET, w[34 + k]);
    }
}

/* d; index[64], two for an eight; u32 [8] as in IQ2_XXS */
void kern_group_iq3_xxs(struct group *g, const uint8_t *w, int n)
{
    const float d = half_to_float(load_u16(w)) * 0.25f;
    (void)n;
    for (int b = 0; b < 8; b++) {
        const uint32_t bits = load_u32(w + 66 + 4 * b);
        const float scale = odd_scale(d, bits >> 28);
        set_scales(g, b, scale, scale);
        for (int k = 0; k < 8; k++)
            signed_elements(g->q + 32 * b + 4 * k, kern_grid_iq3_xxs[w[2 + 8 * b + k]], 4,
                            GRID_OFFSET, with_parity(bits >> 7 * (k / 2) & 127) >> 4 * (k % 2));
    }
}

/* d; index[64]; qh[8]: an upper bit of eight indices; signs[32]; scales[4]: nibbles */
void kern_group_iq3_s(struct group *g, const uint8_t *w, int n)
{
    const float d = half_to_float(load_u16(w));
    (void)n;
    for (int b = 0; b < 8; b++) {
        const float scale = odd_scale(d, w[106 + b / 2] >> 4 * (b % 2) & 15);
        set_scales(g, b, scale, scale);
    }
    for (int k = 0; k < 64; k++) {
        const int index = w[2 + k] | (w[66 + k / 8] >> k % 8 & 1) << 8;
        signed_elements(g->q + 4 * k, kern_grid_iq3_s[index], 4, GRID_IQ3_S_OFFSET,
                        (unsigned)w[74 + k / 2] >> 4 * (k % 2));
    }
}

/* Eight elements of IQ1, times eight: the codebook's plus a delta of 1, or -1. */
static void iq1_elements(int8_t q[8], int index, bool minus)
{
    for (int i = 0; i < 8; i++)
        q[i] = (int8_t)((int)(kern_grid_iq1[index] >> 8 * i & 0xff) - IQ1_OFFSET - 2 * minus);
}

/* d; index[32]; u16 qh[8]: 3 upper bits of four indices, 3 bits of scale, delta */
void kern_group_iq1_s(struct group *g, const uint8_t *w, int n)
{
    const float d = half_to_float(load_u16(w)) * 0.125f;
    (void)n;
    for (int b = 0; b < 8; b++) {
        const unsigned h = load_u16(w + 34 + 2 * b);
        const float scale = odd_scale(d, h >> 12 & 7);
        set_scales(g, b, scale, scale);
        for (int l = 0; l < 4; l++)
            iq1_elements(g->q + 32 * b + 8 * l, w[2 + 4 * b + l] | (int)(h >> 3 * l & 7) << 8,
                         h >> 15);
    }
}

/* index[32]; qh[16]: for two indices 3 upper bits and delta each; u16 scales[4]: four
 * times 3 bits of scale, and 4 bits of d */
void kern_group_iq1_m(struct group *g, const uint8_t *w, int n)
{
    const float d = half_to_float(iq1_m_half(w + 48)) * 0.125f;
    (void)n;
    for (int b = 0; b < 8; b++) {
        const unsigned s = (unsigned)load_u16(w + 48 + b / 2 * 2) >> 6 * (b % 2);
        set_scales(g, b, odd_scale(d, s & 7), odd_scale(d, s >> 3 & 7));
    }
    for (int k = 0; k < 32; k++) {
        const int high = w[32 + k / 2] >> 4 * (k % 2) & 15;
        iq1_elements(g->q + 8 * k, w[k] | (high & 7) << 8, high >> 3);
    }
}
