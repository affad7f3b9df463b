/*
 * mulq_x86: quantised weight rows times quantised activations in 256-bit
 * registers. Included by mul_avx2.c and mul_avx512.c after their primitives:
 * those of unpack_x86.h, and
 *   dot(init, q, a, eight)        init + sums of 4 products, q unsigned unless eight
 *                                 (the format needs all 8 bits) and SIGNED_128
 *   negative_sums(a, offset)      -offset * sums of 4
 *   ROWS                          rows that share the activations of one token
 *   TILE_ROWS, TILE_TOKENS        what is kept in registers with many tokens
 * The arithmetic is that of mul_portable.c, bit for bit.
 *
 * One register holds a 32-block: 8 lanes of 4 neighbours, which is why the
 * lanes are what they are; even and odd blocks have an accumulator each.
 * Offsets of symmetric formats are taken away exactly: the integer sums start
 * at -offset * (sum of the 4 activations). Scales go through memory, from
 * where a broadcast costs no arithmetic.
 *
 * Registers of 512 bits were slower on Zen 4: they do the same work in each
 * cycle, but the two scales of a register need a shuffle.
 */
#ifndef KERN_MULQ_X86_H
#define KERN_MULQ_X86_H

#include "kern/unpack_x86.h"

enum {
    PANEL_GROUPS = 8,
    NEAR_BYTES = 10240,  /* most to prefetch into the first-level cache */
    STREAM_AHEAD = 4096, /* how far to prefetch when one row is read at a time */
    TOKEN_BATCH = 36     /* tokens whose accumulators wait on the stack */
};

/* What the loops must know of a format; every use is inlined with literals. */
struct format {
    struct scales (*scales)(const uint8_t *w);
    struct pair (*pair)(const uint8_t *w, int p);
    int block, bytes; /* elements and bytes of a block */
    int offset;       /* what `pair` added to each element */
    bool eight;       /* elements need 8 bits */
    bool sixteens;    /* a scale for each sixteen, not for each 32-block */
    bool has_min;
};

struct weights { /* arguments of kern_mul_fn */
    const uint8_t *w, *end; /* end: of the last row's data */
    size_t row_bytes;
    int64_t n;
};

struct acc { /* lanes 0-7 and 8-15 */
    __m256 half[2];
};

INLINE int group_bytes(struct format f)
{
    return GROUP / f.block * f.bytes;
}

INLINE __m256i load_q(struct act x, int64_t g, int b)
{
    return load256((const uint8_t *)x.q + GROUP * g + 32 * b);
}

/* The scales of 32-block b (a literal), each in its lanes. */
INLINE __m256 block_scale(const float s[SIXTEENS], int b, struct format f)
{
    if (!f.sixteens)
        return _mm256_set1_ps(s[b]);
    const int i = 2 * (b % 4);
    return _mm256_permutevar8x32_ps(_mm256_load_ps(s + 8 * (b / 4)),
                                    _mm256_setr_epi32(i, i, i, i, i + 1, i + 1, i + 1, i + 1));
}

/* s = weight scales times activation scales of group g */
INLINE void multiply_scales(float s[SIXTEENS], const __m256 scale[2], struct act x, int64_t g,
                            struct format f)
{
    __m256 d = _mm256_loadu_ps(x.d + GROUP_BLOCKS * g);
    if (!f.sixteens) {
        _mm256_store_ps(s, _mm256_mul_ps(scale[0], d));
        return;
    }
    __m256 low = _mm256_permutevar8x32_ps(d, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
    __m256 high = _mm256_permutevar8x32_ps(d, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7));
    _mm256_store_ps(s, _mm256_mul_ps(scale[0], low));
    _mm256_store_ps(s + 8, _mm256_mul_ps(scale[1], high));
}

/* Makes the compiler take scales from memory: it would rather shuffle registers. */
INLINE void keep_in_memory(float *s)
{
    __asm__ volatile("" : "+r"(s) : : "memory");
}

INLINE void subtract_minima(struct acc *acc, const __m256 min[2], struct act x, int64_t g,
                            struct format f)
{
    if (f.has_min && f.sixteens) {
        const float *s = x.s + SIXTEENS * g;
        acc->half[0] = _mm256_fnmadd_ps(min[0], _mm256_loadu_ps(s), acc->half[0]);
        acc->half[1] = _mm256_fnmadd_ps(min[1], _mm256_loadu_ps(s + 8), acc->half[1]);
    } else if (f.has_min) {
        acc->half[0] = _mm256_fnmadd_ps(min[0], _mm256_loadu_ps(x.t + GROUP_BLOCKS * g),
                                        acc->half[0]);
    }
}

/* The tree of kern.h. */
INLINE float reduce(struct acc acc)
{
    __m256 a = _mm256_add_ps(acc.half[0], acc.half[1]);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

INLINE struct acc acc_zero(void)
{
    return (struct acc){{_mm256_setzero_ps(), _mm256_setzero_ps()}};
}

/* A last group of n_blocks < 8 32-blocks: returns w, or `copy` filled from it
 * where a full group at w would reach past the weights. */
INLINE const uint8_t *partial_group(uint8_t copy[GROUP / 32 * 34], const uint8_t *w,
                                    const uint8_t *end, int n_blocks, struct format f)
{
    if (end - w >= group_bytes(f))
        return w;
    memset(copy, 0, GROUP / 32 * 34);
    memcpy(copy, w, (size_t)(n_blocks * f.bytes));
    return copy;
}

/* Keeps the minima of the first n_blocks, +0 for the rest. */
INLINE void clear_missing_minima(struct scales *s, int n_blocks)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i keep = _mm256_cmpgt_epi32(_mm256_set1_epi32(n_blocks), lane);
    s->min[0] = _mm256_and_ps(s->min[0], _mm256_castsi256_ps(keep));
}

/* ---- one token ---------------------------------------------------------- */

/* Pair p (a literal) of a group that has n_blocks 32-blocks. */
INLINE void pair_one(struct acc acc[ROWS], const uint8_t *const w[ROWS],
                     float s[ROWS][SIXTEENS], int n_rows, struct act x, int64_t g, int p,
                     int n_blocks, struct format f)
{
    struct pair q[ROWS];
    if (2 * p >= n_blocks)
        return;
    for (int r = 0; r < n_rows; r++)
        q[r] = f.pair(w[r], p);
    for (int h = 0; h < 2; h++) {
        int b = 2 * p + h;
        if (b >= n_blocks)
            break;
        __m256i a = load_q(x, g, b), init = negative_sums(a, f.offset);
        for (int r = 0; r < n_rows; r++)
            acc[r].half[h] = _mm256_fmadd_ps(block_scale(s[r], b, f),
                                             _mm256_cvtepi32_ps(dot(init, q[r].q[h], a, f.eight)),
                                             acc[r].half[h]);
    }
}

/* Adds the products of n_blocks 32-blocks, for each of n_rows rows. */
INLINE void group_one(struct acc acc[ROWS], const uint8_t *const w[ROWS], int n_rows,
                      struct act x, int64_t g, int n_blocks, struct format f)
{
    _Alignas(32) float s[ROWS][SIXTEENS];
    for (int r = 0; r < n_rows; r++) {
        struct scales sc = f.scales(w[r]);
        multiply_scales(s[r], sc.scale, x, g, f);
        if (f.has_min && n_blocks < GROUP_BLOCKS)
            clear_missing_minima(&sc, n_blocks);
        subtract_minima(&acc[r], sc.min, x, g, f);
    }
    keep_in_memory(s[0]);
    pair_one(acc, w, s, n_rows, x, g, 0, n_blocks, f);
    pair_one(acc, w, s, n_rows, x, g, 1, n_blocks, f);
    pair_one(acc, w, s, n_rows, x, g, 2, n_blocks, f);
    pair_one(acc, w, s, n_rows, x, g, 3, n_blocks, f);
}

/*
 * While n_rows rows are computed what follows them is prefetched in address
 * order: the memory delivers one long stream twice as fast as several short
 * ones. Several rows are read side by side, so that the next ones must all
 * have come; a single one is a stream already. A prefetch never faults.
 */
INLINE size_t prefetch_distance(struct weights m, int n_rows)
{
    return n_rows == 1 ? (size_t)STREAM_AHEAD : (size_t)n_rows * m.row_bytes;
}

/* To the first-level cache or, when `far`, the second; `next` is moved on. */
INLINE void prefetch(const uint8_t **next, int bytes, bool far)
{
    if (far)
        for (int i = 0; i < bytes; i += 64)
            _mm_prefetch((const char *)*next + i, _MM_HINT_T1);
    else
        for (int i = 0; i < bytes; i += 64)
            _mm_prefetch((const char *)*next + i, _MM_HINT_T0);
    *next += bytes;
}

/* n_rows is a literal, at most ROWS. */
INLINE void rows_one(float *out, struct weights m, int n_rows, const void *blob, bool far,
                     struct format f)
{
    const uint8_t *next = m.w + prefetch_distance(m, n_rows);
    struct act x = act_view(blob, m.n);
    struct acc acc[ROWS];
    int64_t n_groups = m.n / GROUP;
    int rest = (int)(m.n % GROUP / 32);
    const uint8_t *w[ROWS];
    for (int r = 0; r < n_rows; r++) {
        acc[r] = acc_zero();
        w[r] = m.w + (size_t)r * m.row_bytes;
    }
    for (int64_t g = 0; g < n_groups; g++) {
        prefetch(&next, n_rows * group_bytes(f), far);
        group_one(acc, w, n_rows, x, g, GROUP_BLOCKS, f);
        for (int r = 0; r < n_rows; r++)
            w[r] += group_bytes(f);
    }
    if (f.block == 32 && rest) {
        uint8_t copy[ROWS][GROUP / 32 * 34];
        for (int r = 0; r < n_rows; r++)
            w[r] = partial_group(copy[r], w[r], m.end, rest, f);
        group_one(acc, w, n_rows, x, n_groups, rest, f);
    }
    for (int r = 0; r < n_rows; r++)
        out[r] = reduce(acc[r]);
}

/* All rows, one token. */
INLINE void mulq_one(float *out, struct weights m, int64_t n_rows, const void *x, struct format f)
{
    /* More rows share more, but of long blocks fewer are faster from memory. */
    const int rows = group_bytes(f) <= 150 ? ROWS : 2;
    int64_t r = 0;
    bool far = (size_t)rows * m.row_bytes > NEAR_BYTES;
    for (; r + rows <= n_rows; r += rows, m.w += (size_t)rows * m.row_bytes)
        rows_one(out + r, m, rows, x, far, f);
    for (; r < n_rows; r++, m.w += m.row_bytes)
        rows_one(out + r, m, 1, x, false, f);
}

/* ---- many tokens -------------------------------------------------------- */

struct panel_group {
    __m256i q[GROUP_BLOCKS];
    __m256 scale[2], min[2];
};

struct panel {
    struct panel_group g[PANEL_GROUPS][TILE_ROWS];
    struct acc acc[TOKEN_BATCH][TILE_ROWS];
};

INLINE void fill_panel(struct panel *p, struct weights m, int64_t g0, int n_groups,
                       struct format f)
{
    for (int g = 0; g < n_groups; g++)
        for (int r = 0; r < TILE_ROWS; r++) {
            const uint8_t *w = m.w + (size_t)r * m.row_bytes + (g0 + g) * group_bytes(f);
            int n_blocks = (int)MIN(m.n / 32 - (g0 + g) * GROUP_BLOCKS, GROUP_BLOCKS);
            struct panel_group *to = &p->g[g][r];
            uint8_t copy[GROUP / 32 * 34];
            if (f.block == 32 && n_blocks < GROUP_BLOCKS)
                w = partial_group(copy, w, m.end, n_blocks, f);
            struct scales s = f.scales(w);
            if (f.has_min && f.block == 32)
                clear_missing_minima(&s, n_blocks);
            for (int i = 0; i < 4; i++) {
                struct pair q = f.pair(w, i);
                to->q[2 * i] = q.q[0];
                to->q[2 * i + 1] = q.q[1];
            }
            for (int i = 0; i < 2; i++) {
                to->scale[i] = s.scale[i];
                to->min[i] = s.min[i];
            }
        }
}

/* 32-block b, a literal. */
INLINE void panel_block(struct acc acc[TILE_TOKENS][TILE_ROWS],
                        const struct panel_group w[TILE_ROWS],
                        float s[TILE_TOKENS][TILE_ROWS][SIXTEENS], int n_tok,
                        const struct act *x, int64_t g, int b, struct format f)
{
    for (int t = 0; t < n_tok; t++) {
        __m256i a = load_q(x[t], g, b), init = negative_sums(a, f.offset);
        for (int r = 0; r < TILE_ROWS; r++)
            acc[t][r].half[b % 2] = _mm256_fmadd_ps(
                block_scale(s[t][r], b, f),
                _mm256_cvtepi32_ps(dot(init, w[r].q[b], a, f.eight)), acc[t][r].half[b % 2]);
    }
}

/* The first n_blocks 32-blocks of a group. */
INLINE void panel_group_times(struct acc acc[TILE_TOKENS][TILE_ROWS],
                              const struct panel_group w[TILE_ROWS], int n_tok,
                              const struct act *x, int64_t g, int n_blocks, struct format f)
{
    _Alignas(32) float s[TILE_TOKENS][TILE_ROWS][SIXTEENS];
    for (int t = 0; t < n_tok; t++)
        for (int r = 0; r < TILE_ROWS; r++) {
            multiply_scales(s[t][r], w[r].scale, x[t], g, f);
            subtract_minima(&acc[t][r], w[r].min, x[t], g, f);
        }
    keep_in_memory(s[0][0]);
#define BLOCK(b)                                                               \
    if (f.block == 32 && n_blocks <= (b))                                      \
        return;                                                                \
    panel_block(acc, w, s, n_tok, x, g, b, f)
    BLOCK(0);
    BLOCK(1);
    BLOCK(2);
    BLOCK(3);
    BLOCK(4);
    BLOCK(5);
    BLOCK(6);
    BLOCK(7);
#undef BLOCK
}

/* n_tok (a literal, at most TILE_TOKENS) tokens meet the panel. */
INLINE void panel_times(struct acc to[][TILE_ROWS], const struct panel_group w[][TILE_ROWS],
                        int n_tok, const struct act *x, int64_t g0, int n_groups,
                        int64_t n, struct format f)
{
    struct acc acc[TILE_TOKENS][TILE_ROWS];
    for (int t = 0; t < n_tok; t++)
        for (int r = 0; r < TILE_ROWS; r++)
            acc[t][r] = to[t][r];
    for (int g = 0; g < n_groups; g++) {
        int n_blocks = (int)MIN(n / 32 - (g0 + g) * GROUP_BLOCKS, GROUP_BLOCKS);
        panel_group_times(acc, w[g], n_tok, x, g0 + g, n_blocks, f);
    }
    for (int t = 0; t < n_tok; t++)
        for (int r = 0; r < TILE_ROWS; r++)
            to[t][r] = acc[t][r];
}

/* TILE_ROWS rows, n_tok (at most TOKEN_BATCH) tokens. */
INLINE void rows_batch(float *out, ptrdiff_t out_stride, struct weights m, const char *x,
                       size_t x_stride, int n_tok, struct format f)
{
    struct panel p;
    struct act a[TOKEN_BATCH];
    const uint8_t *next = m.w + prefetch_distance(m, TILE_ROWS);
    int64_t all_groups = (m.n + GROUP - 1) / GROUP;
    for (int t = 0; t < n_tok; t++) {
        a[t] = act_view(x + (size_t)t * x_stride, m.n);
        for (int r = 0; r < TILE_ROWS; r++)
            p.acc[t][r] = acc_zero();
    }
    for (int64_t g0 = 0; g0 < all_groups; g0 += PANEL_GROUPS) {
        int n_groups = (int)MIN(all_groups - g0, PANEL_GROUPS), t = 0;
        fill_panel(&p, m, g0, n_groups, f);
        prefetch(&next, TILE_ROWS * n_groups * group_bytes(f), true);
        for (; t + TILE_TOKENS <= n_tok; t += TILE_TOKENS)
            panel_times(&p.acc[t], p.g, TILE_TOKENS, a + t, g0, n_groups, m.n, f);
        for (; TILE_TOKENS > 2 && t + 2 <= n_tok; t += 2)
            panel_times(&p.acc[t], p.g, 2, a + t, g0, n_groups, m.n, f);
        for (; t < n_tok; t++)
            panel_times(&p.acc[t], p.g, 1, a + t, g0, n_groups, m.n, f);
    }
    for (int t = 0; t < n_tok; t++)
        for (int r = 0; r < TILE_ROWS; r++)
            out[t * out_stride + r] = reduce(p.acc[t][r]);
}

INLINE void mulq(float *out, ptrdiff_t out_stride, const void *w, size_t row_bytes,
                 int64_t n_rows, const void *x, size_t x_stride, int64_t n_tok, int64_t n,
                 struct format f)
{
    struct weights m = {w, NULL, row_bytes, n};
    if (n_rows <= 0)
        return;
    m.end = m.w + (size_t)(n_rows - 1) * row_bytes + (size_t)(n / f.block * f.bytes);
    for (int64_t t = 0; t < n_tok; t += TOKEN_BATCH) {
        int batch = (int)MIN(n_tok - t, TOKEN_BATCH);
        const char *xt = (const char *)x + (size_t)t * x_stride;
        float *to = out + t * out_stride;
        int64_t r = 0;
        m.w = w;
        for (; batch > 1 && r + TILE_ROWS <= n_rows; r += TILE_ROWS, m.w += TILE_ROWS * row_bytes)
            rows_batch(to + r, out_stride, m, xt, x_stride, batch, f);
        for (int i = 0; r < n_rows && i < batch; i++) /* one token, or fewer rows than a tile */
            mulq_one(to + i * out_stride + r, m, n_rows - r, xt + (size_t)i * x_stride, f);
    }
}

/* X(name, elements and bytes of a block, offset, needs 8 bits, sixteens, minima) */
#define FORMATS(X)                                                             \
    X(q4_0, 32, 18, 8, false, false, false)                                    \
    X(q4_1, 32, 20, 0, false, false, true)                                     \
    X(q5_0, 32, 22, 16, false, false, false)                                   \
    X(q5_1, 32, 24, 0, false, false, true)                                     \
    X(q8_0, 32, 34, SIGNED_128 ? 0 : 128, true, false, false)                  \
    X(q2_k, 256, 84, 0, false, true, true)                                     \
    X(q3_k, 256, 110, 4, false, true, false)                                   \
    X(q4_k, 256, 144, 0, false, false, true)                                   \
    X(q5_k, 256, 176, 0, false, false, true)                                   \
    X(q6_k, 256, 210, 32, false, true, false)                                  \
    X(iq4_nl, 32, 18, SIGNED_128 ? 0 : 128, true, false, false)                \
    X(iq4_xs, 256, 136, SIGNED_128 ? 0 : 128, true, false, false)              \
    X(mxfp4, 32, 17, 12, false, false, false)

#define DEFINE_MULQ(name, block, bytes, offset, eight, sixteens, minima)                    \
    static const struct format format_##name = {                                            \
        scales_##name, pair_##name, block, bytes, offset, eight, sixteens, minima};         \
    static void mulq_##name(float *out, ptrdiff_t out_stride, const void *w,                \
                            size_t row_bytes, int64_t n_rows, const void *x,                \
                            size_t x_stride, int64_t n_tok, int64_t n)                      \
    {                                                                                       \
        mulq(out, out_stride, w, row_bytes, n_rows, x, x_stride, n_tok, n, format_##name);  \
    }
FORMATS(DEFINE_MULQ)

#endif
