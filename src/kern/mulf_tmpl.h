/*
 * mulf_tmpl: weight rows times float activations, and quantize. Included after
 * panel_tmpl.h; of the simd_NAME.h it uses also
 *   TILE_ROWS, TILE_TOKENS   rows and tokens whose accumulators fit the registers
 * The arithmetic is that of portable.c, bit for bit.
 *
 * GROUP elements of a few rows are decoded to float and then meet all tokens
 * of a batch; one register holds lanes 0-7, one lanes 8-15.
 */
#ifndef KERN_MULF_TMPL_H
#define KERN_MULF_TMPL_H

#include "kern/panel_tmpl.h"

/* ---- decoding up to GROUP elements -------------------------------------- */

typedef void decode_fn(float y[GROUP], const uint8_t *w, int n);

static void decode_f32(float y[GROUP], const uint8_t *w, int n)
{
    memcpy(y, w, (size_t)n * sizeof *y);
}

static void decode_f16(float y[GROUP], const uint8_t *w, int n)
{
    if (n < GROUP) {
        kern_dequant_row(DT_F16, y, w, n);
        return;
    }
    for (int i = 0; i < GROUP; i += 8)
        f32x8_store(y + i, f32x8_load_f16(w + 2 * i));
}

static void decode_bf16(float y[GROUP], const uint8_t *w, int n)
{
    if (n < GROUP) {
        kern_dequant_row(DT_BF16, y, w, n);
        return;
    }
    for (int i = 0; i < GROUP; i += 8)
        f32x8_store(y + i, f32x8_load_bf16(w + 2 * i));
}

/* Pair p (a literal) of a full group: scale * q - min; the product is exact, so
 * that fmsub changes nothing. */
INLINE void decode_pair(float y[64], const uint8_t *w, int p, const float scale[SIXTEENS],
                        const float min[SIXTEENS], struct format f)
{
    const bool is_signed = f.offset > 0 || f.top > 127;
    struct pair q = pair_in_order(w, p, f);
    for (int h = 0; h < 2; h++) {
        const i8x32 x = i8x32_add(q.q[h], -f.offset);
        for (int part = 0; part < 4; part++) {
            const int j = 2 * p + h + (f.sixteens ? 8 * (part / 2) : 0);
            f32x8_store(y + 32 * h + 8 * part,
                        f32x8_fmsub(f32x8_splat(scale + j), f32x8_from_i8(x, part, is_signed),
                                    f32x8_splat(min + j)));
        }
    }
}

INLINE void decode_group(float y[GROUP], const uint8_t *w, struct format f)
{
    float scale[SIXTEENS], min[SIXTEENS];
    struct scales s = f.scales(w);
    for (int i = 0; i < 2; i++) {
        f32x8_store(scale + 8 * i, s.scale[i]);
        f32x8_store(min + 8 * i, f.has_min ? s.min[i] : f32x8_zero());
    }
    decode_pair(y, w, 0, scale, min, f);
    decode_pair(y + 64, w, 1, scale, min, f);
    decode_pair(y + 128, w, 2, scale, min, f);
    decode_pair(y + 192, w, 3, scale, min, f);
}

#define DEFINE_DECODE(name, NAME, id, elements, bytes, minima, sixteens)       \
    static void decode_##name(float y[GROUP], const uint8_t *w, int n)         \
    {                                                                          \
        if (n < GROUP)                                                         \
            kern_dequant_row(DT_##NAME, y, w, n);                              \
        else                                                                   \
            decode_group(y, w, format_##name);                                 \
    }
DTYPE_QUANTISED(DEFINE_DECODE)
#undef DEFINE_DECODE

/* ---- products ----------------------------------------------------------- */

enum { TOKEN_BATCH = 36 }; /* tokens whose accumulators wait on the stack */

struct acc { /* lanes 0-7 and 8-15 */
    f32x8 half[2];
};

INLINE struct acc acc_zero(void)
{
    return (struct acc){{f32x8_zero(), f32x8_zero()}};
}

INLINE float reduce(struct acc acc)
{
    return f32x8_sum(f32x8_add(acc.half[0], acc.half[1]));
}

/* Adds w times x, m (1..GROUP) elements of n_rows rows; what lies behind them
 * in w is zero up to the next multiple of 16. n_rows and n_tok are literals. */
INLINE void panel_times_floats(struct acc to[][TILE_ROWS], float w[TILE_ROWS][GROUP], int n_rows,
                               const char *x, size_t x_stride, int n_tok, int m)
{
    struct acc acc[TILE_TOKENS][TILE_ROWS];
    for (int t = 0; t < n_tok; t++)
        for (int r = 0; r < n_rows; r++)
            acc[t][r] = to[t][r];
    for (int i = 0; i < m; i += 16)
        for (int h = 0; h < 2; h++)
            for (int t = 0; t < n_tok; t++) {
                const float *from =
                    (const float *)(const void *)(x + (size_t)t * x_stride) + i + 8 * h;
                f32x8 v = m - i >= 16 ? f32x8_load(from) : f32x8_load_first(from, m - i - 8 * h);
                for (int r = 0; r < n_rows; r++)
                    acc[t][r].half[h] =
                        f32x8_fmadd(f32x8_load(w[r] + i + 8 * h), v, acc[t][r].half[h]);
            }
    for (int t = 0; t < n_tok; t++)
        for (int r = 0; r < n_rows; r++)
            to[t][r] = acc[t][r];
}

INLINE void rows_batch_floats(float *out, ptrdiff_t out_stride, struct weights m, int n_rows,
                              const char *x, size_t x_stride, int n_tok, decode_fn *decode,
                              size_t bytes)
{
    struct acc acc[TOKEN_BATCH][TILE_ROWS];
    const uint8_t *next = m.w + prefetch_distance(m, n_rows);
    for (int t = 0; t < n_tok; t++)
        for (int r = 0; r < n_rows; r++)
            acc[t][r] = acc_zero();
    for (int64_t i = 0; i < m.n; i += GROUP) {
        float w[TILE_ROWS][GROUP];
        int len = (int)MIN(m.n - i, GROUP), t = 0;
        const char *xi = x + (size_t)i * sizeof(float);
        for (int r = 0; r < n_rows; r++) {
            if (len < GROUP)
                memset(w[r], 0, sizeof w[r]);
            prefetch(&next, (int)bytes, n_rows > 1);
            decode(w[r], m.w + (size_t)r * m.row_bytes + (size_t)(i / GROUP) * bytes, len);
        }
        for (; t + TILE_TOKENS <= n_tok; t += TILE_TOKENS)
            panel_times_floats(&acc[t], w, n_rows, xi + (size_t)t * x_stride, x_stride,
                               TILE_TOKENS, len);
        for (; t < n_tok; t++)
            panel_times_floats(&acc[t], w, n_rows, xi + (size_t)t * x_stride, x_stride, 1, len);
    }
    for (int t = 0; t < n_tok; t++)
        for (int r = 0; r < n_rows; r++)
            out[t * out_stride + r] = reduce(acc[t][r]);
}

/* ---- one token, weights that are floats already ------------------------- */

INLINE f32x8 load_floats(const uint8_t *w, int64_t i, enum dtype type)
{
    if (type == DT_F32)
        return f32x8_load((const float *)(const void *)(w + 4 * i));
    return type == DT_F16 ? f32x8_load_f16(w + 2 * i) : f32x8_load_bf16(w + 2 * i);
}

/* n_rows (a literal, at most ROWS) rows. */
INLINE void rows_one_floats(float *out, struct weights m, int n_rows, const float *x,
                            enum dtype type)
{
    const size_t size = type == DT_F32 ? 4 : 2;
    const uint8_t *next = m.w + prefetch_distance(m, n_rows);
    const int rest = (int)(m.n % 16);
    struct acc acc[ROWS];
    int64_t i = 0;
    for (int r = 0; r < n_rows; r++)
        acc[r] = acc_zero();
    for (; i < m.n - rest; i += 16) {
        if (type == DT_F32 || i % 32 == 0)
            prefetch(&next, 64 * n_rows, false);
        for (int h = 0; h < 2; h++) {
            f32x8 v = f32x8_load(x + i + 8 * h);
            for (int r = 0; r < n_rows; r++)
                acc[r].half[h] =
                    f32x8_fmadd(load_floats(m.w + (size_t)r * m.row_bytes, i + 8 * h, type), v,
                                acc[r].half[h]);
        }
    }
    float last_x[16] = {0};
    memcpy(last_x, x + i, (size_t)rest * sizeof *x);
    for (int r = 0; r < n_rows; r++) {
        if (rest) {
            float last_w[16] = {0};
            kern_dequant_row(type, last_w, m.w + (size_t)r * m.row_bytes + (size_t)i * size, rest);
            for (int h = 0; h < 2; h++)
                acc[r].half[h] = f32x8_fmadd(f32x8_load(last_w + 8 * h), f32x8_load(last_x + 8 * h),
                                             acc[r].half[h]);
        }
        out[r] = reduce(acc[r]);
    }
}

INLINE void mulf_one(float *out, struct weights m, int64_t n_rows, const float *x,
                     enum dtype type)
{
    int64_t r = 0;
    if (ROWS * m.row_bytes <= NEAR_BYTES)
        for (; r + ROWS <= n_rows; r += ROWS, m.w += ROWS * m.row_bytes)
            rows_one_floats(out + r, m, ROWS, x, type);
    for (; r < n_rows; r++, m.w += m.row_bytes)
        rows_one_floats(out + r, m, 1, x, type);
}

/* ---- the functions of the table ----------------------------------------- */

static void mulf(float *out, ptrdiff_t out_stride, const void *w, size_t row_bytes,
                 int64_t n_rows, const void *x, size_t x_stride, int64_t n_tok, int64_t n,
                 decode_fn *decode, size_t bytes)
{
    for (int64_t t = 0; t < n_tok; t += TOKEN_BATCH) {
        int batch = (int)MIN(n_tok - t, TOKEN_BATCH);
        const char *xt = (const char *)x + (size_t)t * x_stride;
        struct weights m = {w, NULL, row_bytes, n};
        float *to = out + t * out_stride;
        int64_t r = 0;
        if (n_tok > 1 || TILE_ROWS * row_bytes <= NEAR_BYTES)
            for (; r + TILE_ROWS <= n_rows; r += TILE_ROWS, m.w += TILE_ROWS * row_bytes)
                rows_batch_floats(to + r, out_stride, m, TILE_ROWS, xt, x_stride, batch, decode,
                                  bytes);
        for (; r < n_rows; r++, m.w += row_bytes)
            rows_batch_floats(to + r, out_stride, m, 1, xt, x_stride, batch, decode, bytes);
    }
}

#define DEFINE_MULF(name, NAME, id, elements, bytes, minima, sixteens)                      \
    static void mulf_##name(float *out, ptrdiff_t out_stride, const void *w,                \
                            size_t row_bytes, int64_t n_rows, const void *x,                \
                            size_t x_stride, int64_t n_tok, int64_t n)                      \
    {                                                                                       \
        mulf(out, out_stride, w, row_bytes, n_rows, x, x_stride, n_tok, n, decode_##name,   \
             GROUP_BYTES(elements, bytes));                                                 \
    }
DTYPE_QUANTISED(DEFINE_MULF)
#undef DEFINE_MULF
#define DEFINE_FLOAT_MULF(name, type, size)                                                 \
    static void mulf_##name(float *out, ptrdiff_t out_stride, const void *w,                \
                            size_t row_bytes, int64_t n_rows, const void *x,                \
                            size_t x_stride, int64_t n_tok, int64_t n)                      \
    {                                                                                       \
        if (n_tok == 1)                                                                     \
            mulf_one(out, (struct weights){w, NULL, row_bytes, n}, n_rows, x, type);        \
        else                                                                                \
            mulf(out, out_stride, w, row_bytes, n_rows, x, x_stride, n_tok, n,              \
                 decode_##name, GROUP * (size));                                            \
    }
DEFINE_FLOAT_MULF(f32, DT_F32, 4)
DEFINE_FLOAT_MULF(f16, DT_F16, 2)
DEFINE_FLOAT_MULF(bf16, DT_BF16, 2)
#undef DEFINE_FLOAT_MULF

/* ---- quantize ----------------------------------------------------------- */

static void quantize(void *blob, const float *x, int64_t n)
{
    struct act_out a = act_out(blob, n);
    for (int64_t b = 0; b < n / 32; b++)
        quantize_block(a.q + 32 * b, a.d + b, a.h + 2 * b, x + 32 * b);
    act_pad(&a, n);
}

#endif
