/*
 * dequant: exact decoders of the weight formats, in plain C.
 *
 * Every quantised format is decoded in two steps: to a struct group (small
 * integers, scales, minima; group.h), and from there to float by one formula.
 * Both steps are exact except for the single rounding of the subtraction of a
 * minimum, so no other implementation can give other bits.
 */
#include "kern/group.h"

const int8_t kern_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                    1,    13,   25,  38,  53,  69,  89,  113};
const int8_t kern_mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* ---- 32-element blocks -------------------------------------------------- */

/* Starts a group of n / 32 small blocks: what is missing is zero. */
static int group_start(struct group *g, int n)
{
    if (n < GROUP)
        memset(g, 0, sizeof *g);
    return n / 32;
}

static void set_scale(struct group *g, int block, float scale, float min)
{
    g->scale[2 * block] = g->scale[2 * block + 1] = scale;
    g->min[2 * block] = g->min[2 * block + 1] = min;
}

/* Element j is the low, element j + 16 the high half of byte j. */
static void nibbles(int8_t q[32], const uint8_t qs[16], int offset)
{
    for (int j = 0; j < 16; j++) {
        q[j] = (int8_t)((qs[j] & 15) - offset);
        q[j + 16] = (int8_t)((qs[j] >> 4) - offset);
    }
}

static void nibbles_table(int8_t q[32], const uint8_t qs[16], const int8_t table[16])
{
    for (int j = 0; j < 16; j++) {
        q[j] = table[qs[j] & 15];
        q[j + 16] = table[qs[j] >> 4];
    }
}

/* The fifth bit of element j is bit j of qh. */
static void nibbles_fifth(int8_t q[32], const uint8_t qs[16], uint32_t qh, int offset)
{
    for (int j = 0; j < 16; j++) {
        q[j] = (int8_t)(((qs[j] & 15) | (qh >> j & 1) << 4) - (uint32_t)offset);
        q[j + 16] = (int8_t)((qs[j] >> 4 | (qh >> (j + 16) & 1) << 4) - (uint32_t)offset);
    }
}

void kern_group_q4_0(struct group *g, const uint8_t *w, int n)
{
    int n_blocks = group_start(g, n);
    for (int b = 0; b < n_blocks; b++, w += 18) {
        set_scale(g, b, half_to_float(load_u16(w)), 0);
        nibbles(g->q + 32 * b, w + 2, 8);
    }
}

void kern_group_q4_1(struct group *g, const uint8_t *w, int n)
{
    int n_blocks = group_start(g, n);
    for (int b = 0; b < n_blocks; b++, w += 20) {
        set_scale(g, b, half_to_float(load_u16(w)), -half_to_float(load_u16(w + 2)));
        nibbles(g->q + 32 * b, w + 4, 0);
    }
}

void kern_group_q5_0(struct group *g, const uint8_t *w, int n)
{
    int n_blocks = group_start(g, n);
    for (int b = 0; b < n_blocks; b++, w += 22) {
        set_scale(g, b, half_to_float(load_u16(w)), 0);
        nibbles_fifth(g->q + 32 * b, w + 6, load_u32(w + 2), 16);
    }
}

void kern_group_q5_1(struct group *g, const uint8_t *w, int n)
{
    int n_blocks = group_start(g, n);
    for (int b = 0; b < n_blocks; b++, w += 24) {
        set_scale(g, b, half_to_float(load_u16(w)), -half_to_float(load_u16(w + 2)));
        nibbles_fifth(g->q + 32 * b, w + 8, load_u32(w + 4), 0);
    }
}

void kern_group_q8_0(struct group *g, const uint8_t *w, int n)
{
    int n_blocks = group_start(g, n);
    for (int b = 0; b < n_blocks; b++, w += 34) {
        set_scale(g, b, half_to_float(load_u16(w)), 0);
        memcpy(g->q + 32 * b, w + 2, 32);
    }
}

void kern_group_iq4_nl(struct group *g, const uint8_t *w, int n)
{
    int n_blocks = group_start(g, n);
    for (int b = 0; b < n_blocks; b++, w += 18) {
        set_scale(g, b, half_to_float(load_u16(w)), 0);
        nibbles_table(g->q + 32 * b, w + 2, kern_iq4_values);
    }
}

void kern_group_mxfp4(struct group *g, const uint8_t *w, int n)
{
    int n_blocks = group_start(g, n);
    for (int b = 0; b < n_blocks; b++, w += 17) {
        set_scale(g, b, mxfp4_scale(w[0]), 0);
        nibbles_table(g->q + 32 * b, w + 1, kern_mxfp4_values);
    }
}

/* ---- 64- and 128-element blocks ----------------------------------------- */

/* d[4], a scale for each sixteen; qs[32]: of a sixteen's bytes element j is the low,
 * element j + 8 the high half of byte j */
void kern_group_nvfp4(struct group *g, const uint8_t *w, int n)
{
    group_start(g, n);
    for (int s = 0; s < n / 16; s++) {
        const uint8_t *block = w + 36 * (s / 4), *qs = block + 4 + 8 * (s % 4);
        g->scale[s] = nvfp4_scale(block[s % 4]);
        g->min[s] = 0;
        for (int j = 0; j < 8; j++) {
            g->q[16 * s + j] = kern_mxfp4_values[qs[j] & 15];
            g->q[16 * s + 8 + j] = kern_mxfp4_values[qs[j] >> 4];
        }
    }
}

/* d; a bit for each of 128 elements: -1 or 1 */
void kern_group_q1_0(struct group *g, const uint8_t *w, int n)
{
    int n_blocks = group_start(g, n);
    for (int b = 0; b < n_blocks; b++)
        set_scale(g, b, half_to_float(load_u16(w + 18 * (b / 4))), 0);
    for (int i = 0; i < n; i++)
        g->q[i] = w[18 * (i / 128) + 2 + i % 128 / 8] >> i % 8 & 1 ? 1 : -1;
}

/* d; two bits for each of 64 elements: -1 to 2 */
void kern_group_q2_0(struct group *g, const uint8_t *w, int n)
{
    int n_blocks = group_start(g, n);
    for (int b = 0; b < n_blocks; b++)
        set_scale(g, b, half_to_float(load_u16(w + 18 * (b / 2))), 0);
    for (int i = 0; i < n; i++)
        g->q[i] = (int8_t)((w[18 * (i / 64) + 2 + i % 64 / 4] >> 2 * (i % 4) & 3) - 1);
}

/* ---- 256-element blocks; n is 256 --------------------------------------- */

/* scales[16]; qs[64]; d; dmin */
void kern_group_q2_k(struct group *g, const uint8_t *w, int n)
{
    float d = half_to_float(load_u16(w + 80)), dmin = half_to_float(load_u16(w + 82));
    (void)n;
    for (int j = 0; j < 16; j++) {
        g->scale[j] = d * (float)(w[j] & 15);
        g->min[j] = dmin * (float)(w[j] >> 4);
    }
    for (int half = 0; half < 2; half++)
        for (int part = 0; part < 4; part++)
            for (int l = 0; l < 32; l++)
                g->q[128 * half + 32 * part + l] = w[16 + 32 * half + l] >> 2 * part & 3;
}

/* hmask[32]; qs[64]; scales[12]; d */
void kern_group_q3_k(struct group *g, const uint8_t *w, int n)
{
    float d = half_to_float(load_u16(w + 108));
    int8_t scale[16];
    (void)n;
    unpack_q3_k_scales(w + 96, scale);
    for (int j = 0; j < 16; j++) {
        g->scale[j] = d * (float)scale[j];
        g->min[j] = 0;
    }
    for (int half = 0; half < 2; half++)
        for (int part = 0; part < 4; part++)
            for (int l = 0; l < 32; l++) {
                int low = w[32 + 32 * half + l] >> 2 * part & 3;
                int high = w[l] >> (4 * half + part) & 1;
                g->q[128 * half + 32 * part + l] = (int8_t)((low | high << 2) - 4);
            }
}

/* The eight (scale, minimum) pairs that start Q4_K and Q5_K: d; dmin; scales[12] */
static void k4_scales(struct group *g, const uint8_t *w)
{
    float d = half_to_float(load_u16(w)), dmin = half_to_float(load_u16(w + 2));
    uint8_t scale[8], min[8];
    unpack_k4_scales(w + 4, scale, min);
    for (int b = 0; b < 8; b++)
        set_scale(g, b, d * (float)scale[b], dmin * (float)min[b]);
}

/* d; dmin; scales[12]; qs[128] */
void kern_group_q4_k(struct group *g, const uint8_t *w, int n)
{
    (void)n;
    k4_scales(g, w);
    for (int pair = 0; pair < 4; pair++)
        for (int l = 0; l < 32; l++) {
            uint8_t byte = w[16 + 32 * pair + l];
            g->q[64 * pair + l] = byte & 15;
            g->q[64 * pair + 32 + l] = (int8_t)(byte >> 4);
        }
}

/* d; dmin; scales[12]; qh[32]; qs[128] */
void kern_group_q5_k(struct group *g, const uint8_t *w, int n)
{
    (void)n;
    k4_scales(g, w);
    for (int pair = 0; pair < 4; pair++)
        for (int l = 0; l < 32; l++) {
            int byte = w[48 + 32 * pair + l], high = w[16 + l] >> 2 * pair;
            g->q[64 * pair + l] = (int8_t)((byte & 15) | (high & 1) << 4);
            g->q[64 * pair + 32 + l] = (int8_t)(byte >> 4 | (high >> 1 & 1) << 4);
        }
}

/* ql[128]; qh[64]; scales[16]; d */
void kern_group_q6_k(struct group *g, const uint8_t *w, int n)
{
    float d = half_to_float(load_u16(w + 208));
    (void)n;
    for (int j = 0; j < 16; j++) {
        g->scale[j] = d * (float)(int8_t)w[192 + j];
        g->min[j] = 0;
    }
    for (int half = 0; half < 2; half++) {
        const uint8_t *ql = w + 64 * half, *qh = w + 128 + 32 * half;
        int8_t *q = g->q + 128 * half;
        for (int l = 0; l < 32; l++) {
            q[l] = (int8_t)(((ql[l] & 15) | (qh[l] & 3) << 4) - 32);
            q[l + 32] = (int8_t)(((ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4) - 32);
            q[l + 64] = (int8_t)((ql[l] >> 4 | (qh[l] >> 4 & 3) << 4) - 32);
            q[l + 96] = (int8_t)((ql[l + 32] >> 4 | qh[l] >> 6 << 4) - 32);
        }
    }
}

/* d; u16 scales_h; scales_l[4]; qs[128] */
void kern_group_iq4_xs(struct group *g, const uint8_t *w, int n)
{
    float d = half_to_float(load_u16(w));
    int scales_h = load_u16(w + 2);
    (void)n;
    for (int b = 0; b < 8; b++) {
        int low = w[4 + b / 2] >> 4 * (b & 1) & 15;
        int scale = (low | (scales_h >> 2 * b & 3) << 4) - 32;
        set_scale(g, b, d * (float)scale, 0);
        nibbles_table(g->q + 32 * b, w + 8 + 16 * b, kern_iq4_values);
    }
}

/* Digit n of a byte that is a fraction of 256 in base 3, the first digit in front. */
static int8_t ternary(uint8_t byte, int n)
{
    static const uint8_t power[5] = {1, 3, 9, 27, 81};
    return (int8_t)(((uint8_t)(byte * power[n]) * 3 >> 8) - 1);
}

/* qs[48]: five digits a byte, the first of bytes 0-31, then the second of them ...;
 * likewise bytes 32-47; qh[4]: likewise, four digits; d */
void kern_group_tq1_0(struct group *g, const uint8_t *w, int n)
{
    float d = half_to_float(load_u16(w + 52));
    (void)n;
    for (int b = 0; b < 8; b++)
        set_scale(g, b, d, 0);
    for (int i = 0; i < 160; i++)
        g->q[i] = ternary(w[i % 32], i / 32);
    for (int i = 0; i < 80; i++)
        g->q[160 + i] = ternary(w[32 + i % 16], i / 16);
    for (int i = 0; i < 16; i++)
        g->q[240 + i] = ternary(w[48 + i % 4], i / 4);
}

/* qs[64], in the order of Q2_K; d */
void kern_group_tq2_0(struct group *g, const uint8_t *w, int n)
{
    float d = half_to_float(load_u16(w + 64));
    (void)n;
    for (int b = 0; b < 8; b++)
        set_scale(g, b, d, 0);
    for (int half = 0; half < 2; half++)
        for (int part = 0; part < 4; part++)
            for (int l = 0; l < 32; l++)
                g->q[128 * half + 32 * part + l] =
                    (int8_t)((w[32 * half + l] >> 2 * part & 3) - 1);
}

/* ---- rows --------------------------------------------------------------- */

static void dequant_groups(float *y, const uint8_t *w, int64_t n, group_fn *unpack,
                           size_t group_bytes)
{
    struct group g;
    for (int64_t i = 0; i < n; i += GROUP, w += group_bytes) {
        int m = (int)MIN(n - i, GROUP);
        unpack(&g, w, m);
        for (int l = 0; l < m; l++)
            y[i + l] = g.scale[l / 16] * (float)g.q[l] - g.min[l / 16];
    }
}

int kern_dequant_row(enum dtype t, float *y, const void *row, int64_t n)
{
    const uint8_t *w = row;
    switch (t) {
    case DT_F32:
        memcpy(y, w, (size_t)n * sizeof *y);
        return OK;
    case DT_F16:
        for (int64_t i = 0; i < n; i++)
            y[i] = half_to_float(load_u16(w + 2 * i));
        return OK;
    case DT_BF16:
        for (int64_t i = 0; i < n; i++)
            y[i] = bits_to_float((uint32_t)load_u16(w + 2 * i) << 16);
        return OK;
#define CASE(name, NAME, id, elements, bytes, minima, sixteens)                   \
    case DT_##NAME:                                                               \
        dequant_groups(y, w, n, kern_group_##name, GROUP_BYTES(elements, bytes)); \
        return OK;
        DTYPE_QUANTISED(CASE)
#undef CASE
    default:
        return E_UNSUPPORTED;
    }
}

bool kern_supports(enum dtype t)
{
    switch (t) {
    case DT_F32:
    case DT_F16:
    case DT_BF16:
#define CASE(name, NAME, id, elements, bytes, minima, sixteens) case DT_##NAME:
        DTYPE_QUANTISED(CASE)
#undef CASE
        return true;
    default:
        return false;
    }
}
