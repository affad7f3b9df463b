/*
 * mulf_x86: weight rows times float activations, and quantize, in 256-bit
 * registers. Included by mul_avx2.c and mul_avx512.c after packed_x86.h. The
 * arithmetic is that of mul_portable.c, bit for bit.
 *
 * GROUP elements of a few rows are decoded to float and then meet all tokens
 * of a batch; one register holds lanes 0-7, one lanes 8-15.
 */
#ifndef KERN_MULF_X86_H
#define KERN_MULF_X86_H

#include <float.h>

#include "kern/packed_x86.h"

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
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(load128(w + 2 * i)));
}

static void decode_bf16(float y[GROUP], const uint8_t *w, int n)
{
    if (n < GROUP) {
        kern_dequant_row(DT_BF16, y, w, n);
        return;
    }
    for (int i = 0; i < GROUP; i += 8) {
        __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(w + 2 * i)), 16);
        _mm256_storeu_ps(y + i, _mm256_castsi256_ps(bits));
    }
}

/* 8 elements: scale * q - min; the product is exact, so that fma changes nothing. */
INLINE void decode_8(float *y, __m128i bytes, bool is_signed, __m256 scale, __m256 min)
{
    __m256i q = is_signed ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes);
    _mm256_storeu_ps(y, _mm256_fmsub_ps(scale, _mm256_cvtepi32_ps(q), min));
}

/* Pair p (a literal) of a full group. */
INLINE void decode_pair(float y[64], const uint8_t *w, int p, const float scale[SIXTEENS],
                        const float min[SIXTEENS], struct format f)
{
    const bool is_signed = f.offset > 0 || f.top > 127;
    struct pair q = pair_in_order(w, p, f);
    for (int h = 0; h < 2; h++) {
        __m256i x = _mm256_sub_epi8(q.q[h], _mm256_set1_epi8((char)f.offset));
        for (int k = 0; k < 2; k++) {
            const int j = 2 * p + h + (f.sixteens ? 8 * k : 0);
            __m128i bytes = k ? _mm256_extracti128_si256(x, 1) : _mm256_castsi256_si128(x);
            __m256 sc = _mm256_broadcast_ss(scale + j), mn = _mm256_broadcast_ss(min + j);
            decode_8(y + 32 * h + 16 * k, bytes, is_signed, sc, mn);
            decode_8(y + 32 * h + 16 * k + 8, _mm_unpackhi_epi64(bytes, bytes), is_signed, sc, mn);
        }
    }
}

INLINE void decode_group(float y[GROUP], const uint8_t *w, struct format f)
{
    float scale[SIXTEENS], min[SIXTEENS];
    struct scales s = f.scales(w);
    for (int i = 0; i < 2; i++) {
        _mm256_storeu_ps(scale + 8 * i, s.scale[i]);
        _mm256_storeu_ps(min + 8 * i, f.has_min ? s.min[i] : _mm256_setzero_ps());
    }
    decode_pair(y, w, 0, scale, min, f);
    decode_pair(y + 64, w, 1, scale, min, f);
    decode_pair(y + 128, w, 2, scale, min, f);
    decode_pair(y + 192, w, 3, scale, min, f);
}

#define DEFINE_DECODE(name, id, elems, block_bytes, min, sixteens)             \
    static void decode_##name(float y[GROUP], const uint8_t *w, int n)         \
    {                                                                          \
        if (n < GROUP)                                                         \
            kern_dequant_row(id, y, w, n);                                     \
        else                                                                   \
            decode_group(y, w, format_##name);                                 \
    }
KERN_QUANT_FORMATS(DEFINE_DECODE)
#undef DEFINE_DECODE

/* ---- products ----------------------------------------------------------- */

enum { TOKEN_BATCH = 36 }; /* tokens whose accumulators wait on the stack */

struct acc { /* lanes 0-7 and 8-15 */
    __m256 half[2];
};

INLINE struct acc acc_zero(void)
{
    return (struct acc){{_mm256_setzero_ps(), _mm256_setzero_ps()}};
}

INLINE float reduce(struct acc acc)
{
    return reduce_8(_mm256_add_ps(acc.half[0], acc.half[1]));
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
        for (int h = 0; h < 2; h++) {
            const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32(m - i - 8 * h), lane);
            for (int t = 0; t < n_tok; t++) {
                const float *from = (const float *)(const void *)(x + (size_t)t * x_stride);
                __m256 v = m - i >= 16 ? _mm256_loadu_ps(from + i + 8 * h)
                                       : _mm256_maskload_ps(from + i + 8 * h, there);
                for (int r = 0; r < n_rows; r++)
                    acc[t][r].half[h] = _mm256_fmadd_ps(_mm256_loadu_ps(w[r] + i + 8 * h), v,
                                                        acc[t][r].half[h]);
            }
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

INLINE __m256 load_floats(const uint8_t *w, int64_t i, enum dtype type)
{
    if (type == DT_F32)
        return _mm256_loadu_ps((const float *)(const void *)(w + 4 * i));
    __m128i bits = load128(w + 2 * i);
    if (type == DT_F16)
        return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
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
            __m256 v = _mm256_loadu_ps(x + i + 8 * h);
            for (int r = 0; r < n_rows; r++)
                acc[r].half[h] = _mm256_fmadd_ps(
                    load_floats(m.w + (size_t)r * m.row_bytes, i + 8 * h, type), v,
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
                acc[r].half[h] = _mm256_fmadd_ps(_mm256_loadu_ps(last_w + 8 * h),
                                                 _mm256_loadu_ps(last_x + 8 * h), acc[r].half[h]);
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

#define DEFINE_MULF(name, group_size)                                                       \
    static void mulf_##name(float *out, ptrdiff_t out_stride, const void *w,                \
                            size_t row_bytes, int64_t n_rows, const void *x,                \
                            size_t x_stride, int64_t n_tok, int64_t n)                      \
    {                                                                                       \
        mulf(out, out_stride, w, row_bytes, n_rows, x, x_stride, n_tok, n, decode_##name,   \
             group_size);                                                                   \
    }
#define DEFINE_QUANT_MULF(name, id, elems, block_bytes, min, sixteens)                      \
    DEFINE_MULF(name, GROUP_BYTES(elems, block_bytes))
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
KERN_QUANT_FORMATS(DEFINE_QUANT_MULF)

/* ---- quantize ----------------------------------------------------------- */

INLINE __m256i abs_bits(__m256 x)
{
    return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
}

INLINE uint32_t largest(__m256i x) /* lanes are not negative */
{
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, _MM_SHUFFLE(1, 0, 3, 2)));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, _MM_SHUFFLE(2, 3, 0, 1)));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

INLINE int sum8(__m256i x)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, _MM_SHUFFLE(1, 0, 3, 2)));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, _MM_SHUFFLE(2, 3, 0, 1)));
    return _mm_cvtsi128_si32(s);
}

INLINE void quantize_block(int8_t q[32], float *d, int16_t h[2], const float x[32])
{
    __m256 v[4];
    __m256i n[4];
    for (int i = 0; i < 4; i++)
        v[i] = _mm256_loadu_ps(x + 8 * i);
    uint32_t bits = largest(_mm256_max_epi32(
        _mm256_max_epi32(abs_bits(v[0]), abs_bits(v[1])),
        _mm256_max_epi32(abs_bits(v[2]), abs_bits(v[3]))));
    float scale = bits_to_float(bits) / 127.0f;
    bool finite = bits < 0x7f800000;
    if (!finite || scale < FLT_MIN) {
        *d = finite ? 0.0f : bits_to_float(0x7fc00000);
        h[0] = h[1] = 0;
        memset(q, 0, 32);
        return;
    }
    float inverse = 1.0f / scale;
    for (int i = 0; i < 4; i++) /* rounds to nearest even */
        n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], _mm256_set1_ps(inverse)));
    *d = scale;
    h[0] = (int16_t)sum8(_mm256_add_epi32(n[0], n[1]));
    h[1] = (int16_t)sum8(_mm256_add_epi32(n[2], n[3]));
    /* The packs work in 128-bit halves; the permutation mends the order. */
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]),
                                       _mm256_packs_epi32(n[2], n[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)q, bytes);
}

static void quantize(void *blob, const float *x, int64_t n)
{
    struct act_out a = act_out(blob, n);
    for (int64_t b = 0; b < n / 32; b++)
        quantize_block(a.q + 32 * b, a.d + b, a.h + 2 * b, x + 32 * b);
    act_pad(&a, n);
}

/* ---- the table ---------------------------------------------------------- */

static void set_mul(struct kern *k)
{
    k->quantize = quantize;
    k->tile_rows = PACK_ROWS;
    k->tile_tokens = PACK_TOKENS;
    k->pack_tokens = pack_tokens;
    k->mulf[DT_F32] = mulf_f32;
    k->mulf[DT_F16] = mulf_f16;
    k->mulf[DT_BF16] = mulf_bf16;
#define SET(name, id, elems, bytes, min, sixteens)                             \
    k->mulf[id] = mulf_##name;                                                 \
    k->mulq[id] = mulq_##name;                                                 \
    k->pack_rows[id] = pack_rows_##name;                                       \
    k->mul_packed[id] = mul_packed_for(format_##name);
    KERN_QUANT_FORMATS(SET)
#undef SET
}

#endif
