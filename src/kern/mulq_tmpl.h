/*
 * mulq_tmpl: quantised weight rows times the quantised activations of one
 * token, over the words of a simd_NAME.h and the formats of an unpack_NAME.h,
 * which are included before it. Of the former it uses those listed in
 * simd_x86.h, and
 *   dot(sum, q, a, top)   sum + sums of 4 products, q unsigned unless top (the
 *                         largest element) is above 127 and SIGNED_128
 *   ROWS                  rows that share the activations
 * The arithmetic is that of portable.c, bit for bit.
 *
 * The eight 32-blocks of a group give eight registers of sums of 4 products
 * (four registers, where the format lets two blocks share one); `add_up` makes
 * of them one register with a lane for each block, as the scales are. Offsets of
 * symmetric formats are taken away exactly.
 */
#ifndef KERN_MULQ_TMPL_H
#define KERN_MULQ_TMPL_H

#include "kern/unpack.h"

enum {
    NEAR_BYTES = 10240,  /* most to prefetch into the first-level cache */
    STREAM_AHEAD = 4096  /* how far to prefetch when one row is read at a time */
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

/* Pair p (a literal), never crossed. */
INLINE struct pair pair_in_order(const uint8_t *w, int p, struct format f)
{
    struct pair q = f.pair(w, p);
    if (f.crossed)
        cross(q.q);
    return q;
}

INLINE i8x32 load_q(struct act x, int64_t g, int b)
{
    return i8x32_load(x.q + GROUP * g + 32 * b);
}

/* A last group of n_blocks < 8 32-blocks: returns w, or `copy` filled from it
 * where a full group at w would reach past the weights. */
INLINE const uint8_t *partial_group(uint8_t copy[PART_GROUP_BYTES], const uint8_t *w,
                                    const uint8_t *end, int n_blocks, struct format f)
{
    if (end - w >= group_bytes(f))
        return w;
    memset(copy, 0, PART_GROUP_BYTES);
    memcpy(copy, w, (size_t)(n_blocks * 32 / f.block * f.bytes));
    return copy;
}

/* ---- a group ------------------------------------------------------------- */

/* What rows share of a group of activations. Lane = 32-block. */
struct group_act {
    f32x8 d;
    f32x8 sum[2];    /* what minima are multiplied with; [1] for sixteens */
    i32x8 excess[2]; /* offset * sum of activations; [1] for sixteens */
    struct pair q[GROUP_BLOCKS / 2]; /* in the format's order */
};

INLINE struct group_act load_group(struct act x, int64_t g, int n_blocks, struct format f)
{
    struct group_act a = {.d = f32x8_load(x.d + GROUP_BLOCKS * g)};
    for (int p = 0; p < GROUP_BLOCKS / 2; p++) {
        if (2 * p >= n_blocks)
            break; /* an odd last block has its partner in the padding */
        a.q[p] = (struct pair){{load_q(x, g, 2 * p), load_q(x, g, 2 * p + 1)}};
        if (f.crossed)
            cross(a.q[p].q);
    }
    const int16_t *h = x.h + SIXTEENS * g;
    for (int k = 0; k < 2; k++) {
        /* Of the two sixteens of a block: both, only the first, only the second. */
        const bool first = !f.sixteens || k == 0, second = !f.sixteens || k == 1;
        if (f.has_min)
            a.sum[k] = f32x8_mul(a.d, f32x8_from_i32(i32x8_pair_sums(h, first, second)));
        else
            a.excess[k] = i32x8_pair_sums(h, first ? f.offset : 0, second ? f.offset : 0);
    }
    return a;
}

/* Pair p (a literal) of a group that has n_blocks 32-blocks; crossed ones
 * leave to[2 p + 1] alone. */
INLINE void pair_one(i32x8 to[GROUP_BLOCKS], const uint8_t *w, const struct group_act *a, int p,
                     int n_blocks, struct format f)
{
    const i32x8 start = dots_start();
    to[2 * p] = to[2 * p + 1] = start;
    if (2 * p >= n_blocks)
        return;
    struct pair q = f.pair(w, p);
    to[2 * p] = dot(start, q.q[0], a->q[p].q[0], f.top);
    if (f.crossed)
        to[2 * p] = dot(to[2 * p], q.q[1], a->q[p].q[1], f.top);
    else
        to[2 * p + 1] = dot(start, q.q[1], a->q[p].q[1], f.top);
}

/* acc plus the products of n_blocks 32-blocks. */
INLINE f32x8 row_group(f32x8 acc, const uint8_t *w, const struct group_act *a, int n_blocks,
                       struct format f)
{
    i32x8 p[GROUP_BLOCKS], sum[2];
    struct scales s = f.scales(w);
    pair_one(p, w, a, 0, n_blocks, f);
    pair_one(p, w, a, 1, n_blocks, f);
    pair_one(p, w, a, 2, n_blocks, f);
    pair_one(p, w, a, 3, n_blocks, f);
    /* Sums over the first and the second sixteens of the 32-blocks; of crossed
     * ones over both, in sum[0]. */
    add_up(sum, p, f.top, f.crossed);
    if (!f.sixteens && !f.crossed)
        sum[0] = i32x8_add(sum[0], sum[1]);
    for (int k = 0; k < (f.sixteens ? 2 : 1); k++) {
        if (n_blocks < GROUP_BLOCKS) {
            s.scale[k] = f32x8_first(s.scale[k], n_blocks);
            s.min[k] = f32x8_first(s.min[k], n_blocks);
        }
        if (f.has_min)
            acc = f32x8_fnmadd(s.min[k], a->sum[k], acc);
        else if (f.offset)
            sum[k] = i32x8_sub(sum[k], a->excess[k]);
    }
    for (int k = 0; k < (f.sixteens ? 2 : 1); k++)
        acc = f32x8_fmadd(f32x8_mul(s.scale[k], a->d), dots_to_float(sum[k]), acc);
    return acc;
}

/* Adds the products of n_blocks 32-blocks, for each of n_rows rows. */
INLINE void group_one(f32x8 acc[ROWS], const uint8_t *const w[ROWS], int n_rows, struct act x,
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
            __builtin_prefetch(*next + i, 0, 2);
    else
        for (int i = 0; i < bytes; i += 64)
            __builtin_prefetch(*next + i, 0, 3);
    *next += bytes;
}

/* n_rows is a literal, at most ROWS. */
INLINE void rows_one(float *out, struct weights m, int n_rows, const void *blob, bool far,
                     struct format f)
{
    const uint8_t *next = m.w + prefetch_distance(m, n_rows);
    struct act x = act_view(blob, m.n);
    f32x8 acc[ROWS];
    int64_t n_groups = m.n / GROUP;
    int rest = (int)(m.n % GROUP / 32);
    const uint8_t *w[ROWS];
    for (int r = 0; r < n_rows; r++) {
        acc[r] = f32x8_zero();
        w[r] = m.w + (size_t)r * m.row_bytes;
    }
    for (int64_t g = 0; g < n_groups; g++) {
        prefetch(&next, n_rows * group_bytes(f), far);
        group_one(acc, w, n_rows, x, g, GROUP_BLOCKS, f);
        for (int r = 0; r < n_rows; r++)
            w[r] += group_bytes(f);
    }
    if (f.block < GROUP && rest) {
        uint8_t copy[ROWS][PART_GROUP_BYTES];
        for (int r = 0; r < n_rows; r++)
            w[r] = partial_group(copy[r], w[r], m.end, rest, f);
        group_one(acc, w, n_rows, x, n_groups, rest, f);
    }
    for (int r = 0; r < n_rows; r++)
        out[r] = f32x8_sum(acc[r]);
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

#define DEFINE_MULQ(name, NAME, id, elements, bytes, minima, sixteens)                      \
    static const struct format format_##name = {                                            \
        scales_##name, pair_##name, elements, bytes, name##_offset, name##_top,             \
        minima, sixteens, name##_crossed};                                                  \
    static void mulq_##name(float *out, ptrdiff_t out_stride, const void *w,                \
                            size_t row_bytes, int64_t n_rows, const void *x,                \
                            size_t x_stride, int64_t n_tok, int64_t n)                      \
    {                                                                                       \
        mulq(out, out_stride, w, row_bytes, n_rows, x, x_stride, n_tok, n, format_##name);  \
    }
DTYPE_QUANTISED(DEFINE_MULQ)
#undef DEFINE_MULQ

#endif
