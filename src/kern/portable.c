/*
 * portable: the table in plain C, and the definition that every other table
 * must match bit for bit (NaN results: NaN everywhere, but sign and payload of
 * a NaN are not promised). Weight rows times activations are stated here,
 * everything else is vec_tmpl.h over simd_portable.h.
 *
 * mulq, every quantised format. A row is cut into groups of 256 elements,
 * decoded as in group.h to q, scale[16], min[16]. There are 8 lanes, one for
 * each 32-block of a group. For each group in order and each of its blocks b:
 *
 *   formats with a scale for 32 elements
 *     acc[b] = fma(-min[2 b], t, acc[b])                  if they have minima
 *     acc[b] = fma(round(scale[2 b] * d[b]), (float)isum, acc[b])
 *   formats with a scale for 16 elements, each line for h = 0, then h = 1
 *     acc[b] = fma(-min[2 b + h], s[h], acc[b])           if they have minima
 *     acc[b] = fma(round(scale[2 b + h] * d[b]), (float)isum[h], acc[b])
 *
 * where isum is the exact sum of q * qx over the 32 or 16 elements, qx, d, h
 * are the group's part of the activation blob, s[h] = round(d[b] * (float)
 * h[2 b + h]) and t = round(d[b] * (float)(h[2 b] + h[2 b + 1])). acc starts
 * at +0; after the last group the lanes are added by the tree of kern.h.
 *
 * mulf, every format: element i is decoded to float exactly and goes to lane
 * i % 16: acc[l] = fma(w, x, acc[l]) in order of i. If n is no multiple of 16
 * the missing elements of the last sixteen are zeros.
 *
 * quantize, for each 32 elements: the largest magnitude m is found;
 *   m infinite or NaN:   d = NaN, q = 0, so that every product is NaN
 *   m / 127 < 2^-126:    d = 0, q = 0 (1 / d would overflow)
 *   otherwise            d = m / 127, q = nearest even of x * (1 / d)
 * with every operation rounded to float. Padding bytes are zeros.
 */
#include "kern/kern_internal.h"

#include <float.h>
#include <math.h>

#include "kern/simd_portable.h"
#include "kern/vec_tmpl.h"

enum { TILE = 8 }; /* tokens that share one decoding of a weight group */

static float reduce_8(const float acc[GROUP_BLOCKS])
{
    float a[4];
    for (int l = 0; l < 4; l++)
        a[l] = acc[l] + acc[l + 4];
    for (int l = 0; l < 2; l++)
        a[l] = a[l] + a[l + 2];
    return a[0] + a[1];
}

static float reduce_16(const float acc[LANES])
{
    float a[LANES / 2];
    for (int l = 0; l < 8; l++)
        a[l] = acc[l] + acc[l + 8];
    return reduce_8(a);
}

/* ---- quantised activations ---------------------------------------------- */

size_t kern_act_bytes(int64_t n)
{
    return act_h_offset(n) + align_up((size_t)n / 16 * sizeof(int16_t), 64);
}

static void quantize_block(int8_t q[32], float *d, int16_t h[2], const float x[32])
{
    uint32_t max_bits = 0;
    for (int i = 0; i < 32; i++)
        max_bits = MAX(max_bits, float_to_bits(x[i]) & 0x7fffffff);
    float scale = bits_to_float(max_bits) / 127.0f, inverse = 0;
    bool finite = max_bits < 0x7f800000;
    if (!finite)
        scale = bits_to_float(0x7fc00000);
    else if (scale < FLT_MIN)
        scale = 0;
    else
        inverse = 1.0f / scale;
    *d = scale;
    for (int half = 0; half < 2; half++) {
        int sum = 0;
        for (int i = 16 * half; i < 16 * half + 16; i++) {
            /* Adding and taking away 1.5 * 2^23 rounds to the nearest integer. */
            float y = finite ? (x[i] * inverse + 0x1.8p23f) - 0x1.8p23f : 0;
            q[i] = (int8_t)y;
            sum += q[i];
        }
        h[half] = (int16_t)sum;
    }
}

static void quantize(void *blob, const float *x, int64_t n)
{
    struct act_out a = act_out(blob, n);
    for (int64_t b = 0; b < n / 32; b++)
        quantize_block(a.q + 32 * b, a.d + b, a.h + 2 * b, x + 32 * b);
    act_pad(&a, n);
}

struct mulq_format {
    group_fn *unpack;
    size_t group_bytes;
    bool has_min, sixteens;
};

static int dot_16(const int8_t q[16], const int8_t qx[16])
{
    int sum = 0;
    for (int i = 0; i < 16; i++)
        sum += q[i] * qx[i];
    return sum;
}

/* The n_blocks first 32-blocks of the group that starts at element i. */
static void group_dot(float acc[GROUP_BLOCKS], const struct group *g, const struct act *x,
                      int64_t i, int n_blocks, const struct mulq_format *f)
{
    const float *d = x->d + i / 32;
    const int16_t *h = x->h + i / 16;
    for (int b = 0; b < n_blocks; b++) {
        const float *scale = g->scale + 2 * b, *min = g->min + 2 * b;
        const int8_t *q = g->q + 32 * b, *qx = x->q + i + 32 * b;
        int first = dot_16(q, qx), second = dot_16(q + 16, qx + 16);
        float a = acc[b];
        if (f->sixteens) {
            if (f->has_min) {
                a = fmaf(-min[0], d[b] * (float)h[2 * b], a);
                a = fmaf(-min[1], d[b] * (float)h[2 * b + 1], a);
            }
            a = fmaf(scale[0] * d[b], (float)first, a);
            a = fmaf(scale[1] * d[b], (float)second, a);
        } else {
            if (f->has_min)
                a = fmaf(-min[0], d[b] * (float)(h[2 * b] + h[2 * b + 1]), a);
            a = fmaf(scale[0] * d[b], (float)(first + second), a);
        }
        acc[b] = a;
    }
}

static void mulq(float *out, ptrdiff_t out_stride, const void *w, size_t row_bytes,
                 int64_t n_rows, const void *x, size_t x_stride, int64_t n_tok, int64_t n,
                 const struct mulq_format *f)
{
    for (int64_t t0 = 0; t0 < n_tok; t0 += TILE) {
        int tile = (int)MIN(n_tok - t0, TILE);
        struct act act[TILE];
        for (int t = 0; t < tile; t++)
            act[t] = act_view((const char *)x + (size_t)(t0 + t) * x_stride, n);
        for (int64_t r = 0; r < n_rows; r++) {
            const uint8_t *row = (const uint8_t *)w + (size_t)r * row_bytes;
            float acc[TILE][GROUP_BLOCKS] = {{0}};
            struct group g;
            for (int64_t i = 0; i < n; i += GROUP, row += f->group_bytes) {
                int m = (int)MIN(n - i, GROUP);
                f->unpack(&g, row, m);
                for (int t = 0; t < tile; t++)
                    group_dot(acc[t], &g, &act[t], i, m / 32, f);
            }
            for (int t = 0; t < tile; t++)
                out[(t0 + t) * out_stride + r] = reduce_8(acc[t]);
        }
    }
}

/* ---- panels: here simply copies ----------------------------------------- */

/* Of 32 elements of a row: 8 bits each, and up to four floats. Here they stay as they
 * are in the file, which takes no more. */
enum { PANEL_BLOCK_BYTES = 32 + 4 * sizeof(float) };
#define FITS_PANEL(name, NAME, id, elements, bytes, minima, sixteens)                   \
    _Static_assert(GROUP_BYTES(elements, bytes) <= GROUP / 32 * PANEL_BLOCK_BYTES &&    \
                       32 + sizeof(float) * ((sixteens) ? 2 : 1) * ((minima) ? 2 : 1) <= \
                           PANEL_BLOCK_BYTES,                                           \
                   #NAME);
DTYPE_QUANTISED(FITS_PANEL)

size_t kern_panel_row_bytes(int64_t n)
{
    return (size_t)n / 32 * PANEL_BLOCK_BYTES;
}

size_t kern_panel_token_bytes(int64_t n)
{
    return kern_act_bytes(n) + align_up((size_t)n / 32 * 24, 64);
}

static void panel_tokens(void *to, const void *acts, size_t act_stride, const int32_t *index,
                        int64_t n_tok, int64_t n)
{
    for (int64_t t = 0; t < n_tok; t++)
        memcpy((char *)to + (size_t)t * kern_panel_token_bytes(n),
               (const char *)acts + (size_t)(index ? index[t] : t) * act_stride, kern_act_bytes(n));
}

static void panel_rows(void *to, const void *w, size_t row_bytes, int64_t n_rows, int64_t n,
                      size_t bytes)
{
    for (int64_t r = 0; r < n_rows; r++)
        memcpy((char *)to + (size_t)r * kern_panel_row_bytes(n),
               (const char *)w + (size_t)r * row_bytes, bytes);
}

/* ---- float activations -------------------------------------------------- */

static void mulf(float *out, ptrdiff_t out_stride, const void *w, size_t row_bytes,
                 int64_t n_rows, const void *x, size_t x_stride, int64_t n_tok, int64_t n,
                 enum dtype type, size_t group_bytes)
{
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t t0 = 0; t0 < n_tok; t0 += TILE) {
            int tile = (int)MIN(n_tok - t0, TILE);
            const uint8_t *row = (const uint8_t *)w + (size_t)r * row_bytes;
            float acc[TILE][LANES] = {{0}};
            for (int64_t i = 0; i < n; i += GROUP, row += group_bytes) {
                int m = (int)MIN(n - i, GROUP), padded = (m + 15) / 16 * 16;
                float wf[GROUP] = {0}, xf[GROUP] = {0};
                kern_dequant_row(type, wf, row, m);
                for (int t = 0; t < tile; t++) {
                    memcpy(xf,
                           (const char *)x + (size_t)(t0 + t) * x_stride + (size_t)i * sizeof *xf,
                           (size_t)m * sizeof *xf);
                    for (int l = 0; l < padded; l++)
                        acc[t][l % LANES] = fmaf(wf[l], xf[l], acc[t][l % LANES]);
                }
            }
            for (int t = 0; t < tile; t++)
                out[(t0 + t) * out_stride + r] = reduce_16(acc[t]);
        }
}

/* ---- one function for each format --------------------------------------- */

#define DEFINE_MULF(name, id, group_bytes)                                                  \
    static void mulf_##name(float *out, ptrdiff_t out_stride, const void *w,                \
                            size_t row_bytes, int64_t n_rows, const void *x,                \
                            size_t x_stride, int64_t n_tok, int64_t n)                      \
    {                                                                                       \
        mulf(out, out_stride, w, row_bytes, n_rows, x, x_stride, n_tok, n, id, group_bytes); \
    }
#define DEFINE_MUL(name, NAME, id, elements, bytes, minima, sixteens)                       \
    DEFINE_MULF(name, DT_##NAME, GROUP_BYTES(elements, bytes))                              \
    static void mulq_##name(float *out, ptrdiff_t out_stride, const void *w,                \
                            size_t row_bytes, int64_t n_rows, const void *x,                \
                            size_t x_stride, int64_t n_tok, int64_t n)                      \
    {                                                                                       \
        const struct mulq_format f = {kern_group_##name, GROUP_BYTES(elements, bytes),      \
                                      minima, sixteens};                                    \
        mulq(out, out_stride, w, row_bytes, n_rows, x, x_stride, n_tok, n, &f);             \
    }                                                                                       \
    static void panel_rows_##name(void *to, const void *w, size_t row_bytes, int64_t n_rows, \
                                 int64_t n)                                                 \
    {                                                                                       \
        panel_rows(to, w, row_bytes, n_rows, n, (size_t)(n / (elements) * (bytes)));         \
    }                                                                                       \
    static void mul_panels_##name(float *out, ptrdiff_t out_stride, const void *rows,       \
                                  int64_t n_rows, const void *tokens, int64_t n_tok,        \
                                  int64_t n, const void *soon, size_t soon_bytes)           \
    {                                                                                       \
        (void)soon;                                                                         \
        (void)soon_bytes;                                                                   \
        mulq_##name(out, out_stride, rows, kern_panel_row_bytes(n), n_rows, tokens,        \
                    kern_panel_token_bytes(n), n_tok, n);                                  \
    }

DEFINE_MULF(f32, DT_F32, GROUP * 4)
DEFINE_MULF(f16, DT_F16, GROUP * 2)
DEFINE_MULF(bf16, DT_BF16, GROUP * 2)
DTYPE_QUANTISED(DEFINE_MUL)

#define QUANTISED_ROW(name_, NAME, id, elements, bytes, minima, sixteens)                   \
    .mulf[id] = mulf_##name_, .mulq[id] = mulq_##name_, .panel_rows[id] = panel_rows_##name_, \
    .mul_panels[id] = mul_panels_##name_,

const struct kern kern_portable = {
    .name = "portable", .quantize = quantize, .tile_rows = 1, .tile_tokens = 1,
    .panel_tokens = panel_tokens, .mulf[DT_F32] = mulf_f32, .mulf[DT_F16] = mulf_f16,
    .mulf[DT_BF16] = mulf_bf16, DTYPE_QUANTISED(QUANTISED_ROW) VEC_TABLE};
