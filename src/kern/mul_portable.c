/*
 * mul_portable: weight rows times activations in plain C; the definition that
 * the other mul_* files must match bit for bit (NaN results: NaN everywhere,
 * but sign and payload of a NaN are not promised).
 *
 * mulq, every quantised format. A row is cut into groups of 256 elements,
 * decoded as in group.h to q, scale[16], min[16]. For each group in order
 *
 *   the minima, for formats that have them (min of missing blocks is +0):
 *     one for each sixteen (Q2_K), j = 0..15: acc[j] = fma(-min[j], s[j], acc[j])
 *     one for each 32-block b, b = 0..7:      acc[b] = fma(-min[2 b], t[b], acc[b])
 *   then for each 32-block b that is there, for i = 0..7:
 *     isum   = sum of 4 products q * qx, elements 32 b + 4 i ... + 3  (exact)
 *     l      = 8 (b % 2) + i
 *     acc[l] = fma(round(scale[2 b + i / 4] * d[b]), (float)isum, acc[l])
 *
 * where qx, d, s, t are the group's part of the activation blob. acc starts at
 * +0; after the last group the lanes are added by the tree of kern.h.
 *
 * mulf, every format: element i is decoded to float exactly and goes to lane
 * i % 16: acc[l] = fma(w, x, acc[l]) in order of i. If n is no multiple of 16
 * the missing elements of the last sixteen are zeros.
 *
 * quantize, for each 32 elements: the largest magnitude m is found;
 *   m infinite or NaN:   d = NaN, q = 0, so that every product is NaN
 *   m / 127 < 2^-126:    d = 0, q = 0 (1 / d would overflow)
 *   otherwise            d = m / 127, q = nearest even of x * (1 / d),
 *                        s = d * (float)sum of 16 q, t = d * (float)sum of 32 q
 * with every operation rounded to float. Padding bytes are zeros.
 */
#include "kern/group.h"
#include "kern/kern_internal.h"

#include <float.h>
#include <math.h>

enum { TILE = 8 }; /* tokens that share one decoding of a weight group */

static float reduce(const float acc[LANES])
{
    float a[LANES / 2];
    for (int l = 0; l < 8; l++)
        a[l] = acc[l] + acc[l + 8];
    for (int l = 0; l < 4; l++)
        a[l] = a[l] + a[l + 4];
    for (int l = 0; l < 2; l++)
        a[l] = a[l] + a[l + 2];
    return a[0] + a[1];
}

/* ---- quantised activations ---------------------------------------------- */

size_t kern_act_bytes(int64_t n)
{
    return act_t_offset(n) + align_up((size_t)n / 32 * sizeof(float), 64);
}

static void quantize_block(int8_t q[32], float *d, float s[2], float *t, const float x[32])
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
    int sums[2] = {0, 0};
    for (int half = 0; half < 2; half++) {
        for (int i = 16 * half; i < 16 * half + 16; i++) {
            /* Adding and taking away 1.5 * 2^23 rounds to the nearest integer. */
            float y = finite ? (x[i] * inverse + 0x1.8p23f) - 0x1.8p23f : 0;
            q[i] = (int8_t)y;
            sums[half] += q[i];
        }
        s[half] = scale * (float)sums[half];
    }
    *t = scale * (float)(sums[0] + sums[1]);
}

static void quantize(void *blob, const float *x, int64_t n)
{
    struct act_out a = act_out(blob, n);
    for (int64_t b = 0; b < n / 32; b++)
        quantize_block(a.q + 32 * b, a.d + b, a.s + 2 * b, a.t + b, x + 32 * b);
    act_pad(&a, n);
}

enum minima { MIN_NONE, MIN_32, MIN_16 };

static void group_dot(float acc[LANES], const struct group *g, const struct act *x, int64_t i,
                      int n_blocks, enum minima minima)
{
    const int8_t *qx = x->q + i;
    const float *d = x->d + i / 32, *s = x->s + i / 16, *t = x->t + i / 32;
    if (minima == MIN_16)
        for (int j = 0; j < SIXTEENS; j++)
            acc[j] = fmaf(-g->min[j], s[j], acc[j]);
    if (minima == MIN_32)
        for (int b = 0; b < GROUP_BLOCKS; b++)
            acc[b] = fmaf(-g->min[2 * b], t[b], acc[b]);
    for (int b = 0; b < n_blocks; b++)
        for (int k = 0; k < 8; k++) {
            const int8_t *u = g->q + 32 * b + 4 * k, *v = qx + 32 * b + 4 * k;
            int isum = u[0] * v[0] + u[1] * v[1] + u[2] * v[2] + u[3] * v[3];
            float *a = &acc[8 * (b & 1) + k];
            *a = fmaf(g->scale[2 * b + k / 4] * d[b], (float)isum, *a);
        }
}

struct mulq_format {
    group_fn *unpack;
    size_t group_bytes;
    enum minima minima;
};

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
            float acc[TILE][LANES] = {{0}};
            struct group g;
            for (int64_t i = 0; i < n; i += GROUP, row += f->group_bytes) {
                int m = (int)MIN(n - i, GROUP);
                f->unpack(&g, row, m);
                for (int t = 0; t < tile; t++)
                    group_dot(acc[t], &g, &act[t], i, m / 32, f->minima);
            }
            for (int t = 0; t < tile; t++)
                out[(t0 + t) * out_stride + r] = reduce(acc[t]);
        }
    }
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
                    memcpy(xf, (const char *)x + (size_t)(t0 + t) * x_stride + (size_t)i * sizeof *xf,
                           (size_t)m * sizeof *xf);
                    for (int l = 0; l < padded; l++)
                        acc[t][l % LANES] = fmaf(wf[l], xf[l], acc[t][l % LANES]);
                }
            }
            for (int t = 0; t < tile; t++)
                out[(t0 + t) * out_stride + r] = reduce(acc[t]);
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
#define DEFINE_MUL(name, id, elems, bytes, min)                                             \
    DEFINE_MULF(name, id, GROUP_BYTES(elems, bytes))                                        \
    static void mulq_##name(float *out, ptrdiff_t out_stride, const void *w,                \
                            size_t row_bytes, int64_t n_rows, const void *x,                \
                            size_t x_stride, int64_t n_tok, int64_t n)                      \
    {                                                                                       \
        const struct mulq_format f = {kern_group_##name, GROUP_BYTES(elems, bytes),         \
                                      !(min) ? MIN_NONE : (id) == DT_Q2_K ? MIN_16 : MIN_32}; \
        mulq(out, out_stride, w, row_bytes, n_rows, x, x_stride, n_tok, n, &f);             \
    }

DEFINE_MULF(f32, DT_F32, GROUP * 4)
DEFINE_MULF(f16, DT_F16, GROUP * 2)
DEFINE_MULF(bf16, DT_BF16, GROUP * 2)
KERN_QUANT_FORMATS(DEFINE_MUL)

void kern_mul_init_portable(struct kern *k)
{
    k->quantize = quantize;
    k->mulf[DT_F32] = mulf_f32;
    k->mulf[DT_F16] = mulf_f16;
    k->mulf[DT_BF16] = mulf_bf16;
#define SET(name, id, elems, bytes, min)                                       \
    k->mulf[id] = mulf_##name;                                                 \
    k->mulq[id] = mulq_##name;
    KERN_QUANT_FORMATS(SET)
#undef SET
}
