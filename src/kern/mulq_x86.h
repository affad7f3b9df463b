/*
 * mulq_x86: quantised weight rows times the quantised activations of one token
 * in 256-bit registers. Included by mul_avx2.c and mul_avx512.c after their
 * primitives: those of unpack_x86.h, and
 *   dot(sum, q, a, top)   sum + sums of 4 products, q unsigned unless top (the
 *                         largest element) is above 127 and SIGNED_128
 *   ROWS                  rows that share the activations
 * The arithmetic is that of mul_portable.c, bit for bit.
 *
 * The eight 32-blocks of a group give eight registers of sums of 4 products
 * (four registers, where the format lets two blocks share one); these are
 * added up to one register with a lane for each block, as the scales are.
 * Sums that fit 16 bits are added in pairs by an instruction which is there to
 * multiply. Offsets of symmetric formats are taken away exactly.
 */
#ifndef KERN_MULQ_X86_H
#define KERN_MULQ_X86_H

#include "kern/unpack_x86.h"

enum {
    NEAR_BYTES = 10240,  /* most to prefetch into the first-level cache */
    STREAM_AHEAD = 4096  /* how far to prefetch when one row is read at a time */
};

/* What the loops must know of a format; every use is inlined with literals. */
struct format {
    struct scales (*scales)(const uint8_t *w);
    struct pair (*pair)(const uint8_t *w, int p);
    int block, bytes; /* elements and bytes of a block */
    int offset;       /* what `pair` added to each element */
    int top;          /* largest unsigned element; above 127 it needs all 8 bits */
    bool sixteens;    /* a scale for each sixteen, not for each 32-block */
    bool has_min;
    bool crossed;     /* `pair` returns the first sixteens of its two blocks, then the second */
};

struct weights { /* arguments of kern_mul_fn */
    const uint8_t *w, *end; /* end: of the last row's data */
    size_t row_bytes;
    int64_t n;
};

INLINE int group_bytes(struct format f)
{
    return GROUP / f.block * f.bytes;
}

/* Two blocks one after the other from two that are crossed, and the reverse. */
INLINE struct pair crossed(__m256i a, __m256i b)
{
    return (struct pair){{_mm256_permute2x128_si256(a, b, 0x20),
                          _mm256_permute2x128_si256(a, b, 0x31)}};
}

/* Pair p (a literal), never crossed. */
INLINE struct pair pair_in_order(const uint8_t *w, int p, struct format f)
{
    struct pair q = f.pair(w, p);
    return f.crossed ? crossed(q.q[0], q.q[1]) : q;
}

INLINE __m256i load_q(struct act x, int64_t g, int b)
{
    return load256((const uint8_t *)x.q + GROUP * g + 32 * b);
}

/* The tree of kern.h. */
INLINE float reduce_8(__m256 a)
{
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
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

/* Keeps the first n_blocks lanes, +0 for the rest. */
INLINE __m256 first_lanes(__m256 x, int n_blocks)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i keep = _mm256_cmpgt_epi32(_mm256_set1_epi32(n_blocks), lane);
    return _mm256_and_ps(x, _mm256_castsi256_ps(keep));
}

/* ---- a group ------------------------------------------------------------- */

/* What rows share of a group of activations. Lane = 32-block. */
struct group_act {
    __m256 d;
    __m256 sum[2];     /* what minima are multiplied with; [1] for sixteens */
    __m256i excess[2]; /* offset * sum of activations; [1] for sixteens */
    struct pair q[GROUP_BLOCKS / 2]; /* in the format's order */
};

INLINE struct group_act load_group(struct act x, int64_t g, int n_blocks, struct format f)
{
    struct group_act a = {.d = _mm256_loadu_ps(x.d + GROUP_BLOCKS * g)};
    for (int p = 0; p < GROUP_BLOCKS / 2; p++) {
        if (2 * p >= n_blocks)
            break; /* an odd last block has its partner in the padding */
        a.q[p] = (struct pair){{load_q(x, g, 2 * p), load_q(x, g, 2 * p + 1)}};
        if (f.crossed)
            a.q[p] = crossed(a.q[p].q[0], a.q[p].q[1]);
    }
    const __m256i h = load256((const uint8_t *)(x.h + SIXTEENS * g));
    for (int k = 0; k < 2; k++) {
        /* Pairs of 16-bit numbers: both, only the first, only the second. */
        int which = !f.sixteens ? 0x10001 : k ? 0x10000 : 1;
        if (f.has_min)
            a.sum[k] = _mm256_mul_ps(
                a.d, _mm256_cvtepi32_ps(_mm256_madd_epi16(h, _mm256_set1_epi32(which))));
        else
            a.excess[k] = _mm256_madd_epi16(h, _mm256_set1_epi32(f.offset * which));
    }
    return a;
}

/* Neighbouring dwords added; per 128-bit half two of a, then two of b. They
 * are at most `top` in size. */
INLINE __m256i add_pairs(__m256i a, __m256i b, int top)
{
    if (top > INT16_MAX)
        return _mm256_hadd_epi32(a, b);
    return _mm256_madd_epi16(_mm256_packs_epi32(a, b), _mm256_set1_epi16(1));
}

/* Sums over the first and the second sixteens of eight 32-blocks; of crossed
 * ones over both, in sum[0]. */
INLINE void add_up(__m256i sum[2], const __m256i p[GROUP_BLOCKS], struct format f)
{
    const int four = 4 * 127 * f.top, eight = 2 * four, sixteen = 4 * four;
    if (f.crossed) {
        __m256i s = add_pairs(add_pairs(p[0], p[2], eight), add_pairs(p[4], p[6], eight), sixteen);
        sum[0] = _mm256_permutevar8x32_epi32(s, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        return;
    }
    __m256i a = add_pairs(add_pairs(p[0], p[1], four), add_pairs(p[2], p[3], four), eight);
    __m256i b = add_pairs(add_pairs(p[4], p[5], four), add_pairs(p[6], p[7], four), eight);
    sum[0] = _mm256_permute2x128_si256(a, b, 0x20);
    sum[1] = _mm256_permute2x128_si256(a, b, 0x31);
}

/* Pair p (a literal) of a group that has n_blocks 32-blocks; crossed ones
 * leave to[2 p + 1] alone. */
INLINE void pair_one(__m256i to[GROUP_BLOCKS], const uint8_t *w, const struct group_act *a, int p,
                     int n_blocks, struct format f)
{
    const __m256i zero = _mm256_setzero_si256();
    to[2 * p] = to[2 * p + 1] = zero;
    if (2 * p >= n_blocks)
        return;
    struct pair q = f.pair(w, p);
    to[2 * p] = dot(zero, q.q[0], a->q[p].q[0], f.top);
    if (f.crossed)
        to[2 * p] = dot(to[2 * p], q.q[1], a->q[p].q[1], f.top);
    else
        to[2 * p + 1] = dot(zero, q.q[1], a->q[p].q[1], f.top);
}

/* acc plus the products of n_blocks 32-blocks. */
INLINE __m256 row_group(__m256 acc, const uint8_t *w, const struct group_act *a, int n_blocks,
                        struct format f)
{
    __m256i p[GROUP_BLOCKS], sum[2];
    struct scales s = f.scales(w);
    pair_one(p, w, a, 0, n_blocks, f);
    pair_one(p, w, a, 1, n_blocks, f);
    pair_one(p, w, a, 2, n_blocks, f);
    pair_one(p, w, a, 3, n_blocks, f);
    add_up(sum, p, f);
    if (!f.sixteens && !f.crossed)
        sum[0] = _mm256_add_epi32(sum[0], sum[1]);
    for (int k = 0; k < (f.sixteens ? 2 : 1); k++) {
        if (n_blocks < GROUP_BLOCKS) {
            s.scale[k] = first_lanes(s.scale[k], n_blocks);
            s.min[k] = first_lanes(s.min[k], n_blocks);
        }
        if (f.has_min)
            acc = _mm256_fnmadd_ps(s.min[k], a->sum[k], acc);
        else if (f.offset)
            sum[k] = _mm256_sub_epi32(sum[k], a->excess[k]);
    }
    for (int k = 0; k < (f.sixteens ? 2 : 1); k++)
        acc = _mm256_fmadd_ps(_mm256_mul_ps(s.scale[k], a->d), _mm256_cvtepi32_ps(sum[k]), acc);
    return acc;
}

/* Adds the products of n_blocks 32-blocks, for each of n_rows rows. */
INLINE void group_one(__m256 acc[ROWS], const uint8_t *const w[ROWS], int n_rows, struct act x,
                      int64_t g, int n_blocks, struct format f)
{
    struct group_act a = load_group(x, g, n_blocks, f);
    for (int r = 0; r < n_rows; r++)
        acc[r] = row_group(acc[r], w[r], &a, n_blocks, f);
}

/* ---- rows ---------------------------------------------------------------- */

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
    __m256 acc[ROWS];
    int64_t n_groups = m.n / GROUP;
    int rest = (int)(m.n % GROUP / 32);
    const uint8_t *w[ROWS];
    for (int r = 0; r < n_rows; r++) {
        acc[r] = _mm256_setzero_ps();
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
        out[r] = reduce_8(acc[r]);
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

/* The same rows for one token after the other: they stay in the cache. */
INLINE void mulq(float *out, ptrdiff_t out_stride, const void *w, size_t row_bytes,
                 int64_t n_rows, const void *x, size_t x_stride, int64_t n_tok, int64_t n,
                 struct format f)
{
    struct weights m = {w, NULL, row_bytes, n};
    if (n_rows <= 0)
        return;
    m.end = m.w + (size_t)(n_rows - 1) * row_bytes + (size_t)(n / f.block * f.bytes);
    int64_t strip = n_tok == 1 ? n_rows : ROWS;
    for (int64_t r = 0; r < n_rows; r += strip, m.w += (size_t)strip * row_bytes)
        for (int64_t t = 0; t < n_tok; t++)
            mulq_one(out + t * out_stride + r, m, MIN(strip, n_rows - r),
                     (const char *)x + (size_t)t * x_stride, f);
}

/* X(name, elements and bytes of a block, offset, largest, sixteens, minima, crossed) */
#define FORMATS(X)                                                             \
    X(q4_0, 32, 18, 8, 15, false, false, true)                                 \
    X(q4_1, 32, 20, 0, 15, false, true, true)                                  \
    X(q5_0, 32, 22, 16, 31, false, false, false)                               \
    X(q5_1, 32, 24, 0, 31, false, true, false)                                 \
    X(q8_0, 32, 34, SIGNED_128 ? 0 : 128, 255, false, false, true)             \
    X(q2_k, 256, 84, 0, 3, true, true, false)                                  \
    X(q3_k, 256, 110, 4, 7, true, false, false)                                \
    X(q4_k, 256, 144, 0, 15, false, true, false)                               \
    X(q5_k, 256, 176, 0, 31, false, true, false)                               \
    X(q6_k, 256, 210, 32, 63, true, false, false)                              \
    X(iq4_nl, 32, 18, SIGNED_128 ? 0 : 128, 255, false, false, true)           \
    X(iq4_xs, 256, 136, SIGNED_128 ? 0 : 128, 255, false, false, true)         \
    X(mxfp4, 32, 17, 12, 24, false, false, true)

#define DEFINE_MULQ(name, block, bytes, offset, top, sixteens, minima, crossed)             \
    static const struct format format_##name = {                                            \
        scales_##name, pair_##name, block, bytes, offset, top, sixteens, minima, crossed}; \
    static void mulq_##name(float *out, ptrdiff_t out_stride, const void *w,                \
                            size_t row_bytes, int64_t n_rows, const void *x,                \
                            size_t x_stride, int64_t n_tok, int64_t n)                      \
    {                                                                                       \
        mulq(out, out_stride, w, row_bytes, n_rows, x, x_stride, n_tok, n, format_##name);  \
    }
FORMATS(DEFINE_MULQ)

#endif
