/*
 * mul_avx512: quantised weight rows times activations, with AVX-512 VNNI. The
 * arithmetic is that of mul_portable.c, bit for bit.
 *
 * One register holds a pair of 32-blocks: an integer product instruction gives
 * its 16 lanes of 4 neighbours, which is why the lanes are what they are.
 * Offsets of symmetric formats are taken away exactly: the integer sums start
 * at -offset * (sum of the 4 activations).
 *
 *   one token:   ROWS rows at once share the activations
 *   many tokens: ROWS rows x up to PANEL_GROUPS groups are unpacked into a panel
 *                in the first-level cache, which then meets every token of a
 *                tile, two tokens at a time
 */
#if defined(__x86_64__)

#include "kern/kern_internal.h"
#include "kern/mul_avx512.h"
#include "kern/unpack_avx512.h"

enum {
    ROWS = 4,
    PANEL_GROUPS = 8,
    TOKEN_TILE = 32 /* tokens whose accumulators wait on the stack */
};

/* Constants of a format; every use is inlined with a literal. */
struct format {
    struct wregs (*unpack)(const uint8_t *w);
    int block, block_bytes;
    int offset; /* what unpack added to each element */
    enum scale_layout layout;
    bool has_min;
};

struct rows { /* arguments of kern_mul_fn about the weights */
    const uint8_t *w, *end; /* end: of the last row's data */
    size_t row_bytes;
    int64_t n;
};

/* The part of an activation that meets one group. */
struct xregs {
    __m512i q[4];
    __m512i init[4]; /* -offset * sums of 4 */
    __m512 d, s;     /* d in the format's scale layout */
};

INLINE int group_bytes(struct format f)
{
    return GROUP / f.block * f.block_bytes;
}

/* Which scale lane each of the 16 lanes of pair p uses. */
INLINE __m512i scale_lanes(enum scale_layout layout, int p)
{
    const __m512i eighths = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m512i quarters = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    switch (layout) {
    case SCALE8:
        return _mm512_add_epi32(eighths, _mm512_set1_epi32(2 * p));
    case SCALE_EVEN:
        return _mm512_add_epi32(_mm512_slli_epi32(eighths, 1), _mm512_set1_epi32(4 * p));
    default:
        return _mm512_add_epi32(quarters, _mm512_set1_epi32(4 * p));
    }
}

INLINE __m512 load_scales_x(const float *d, enum scale_layout layout)
{
    __m512 x = widen8(_mm256_loadu_ps(d));
    if (layout == SCALE8)
        return x;
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(twice, x);
}

/* -offset * (sum of 4 neighbours) */
INLINE __m512i negative_sums(__m512i q, int offset)
{
    if (offset == 0)
        return _mm512_setzero_si512();
    const __m512i zero = _mm512_setzero_si512();
    return _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, _mm512_set1_epi8((char)offset), q));
}

INLINE struct xregs load_x(struct act x, int64_t g, int n_pairs, struct format f)
{
    struct xregs r;
    for (int p = 0; p < 4; p++)
        if (p < n_pairs) {
            r.q[p] = _mm512_loadu_si512(x.q + GROUP * g + 64 * p);
            r.init[p] = negative_sums(r.q[p], f.offset);
        }
    r.d = load_scales_x(x.d + GROUP_BLOCKS * g, f.layout);
    if (f.has_min)
        r.s = _mm512_loadu_ps(x.s + SIXTEENS * g);
    return r;
}

/* acc + the group's products; the order of operations is the contract. */
INLINE __m512 add_group(__m512 acc, const struct wregs *w, const struct xregs *x, int n_pairs,
                        struct format f)
{
    __m512 scale = _mm512_mul_ps(w->scale, x->d);
    for (int p = 0; p < 4; p++)
        if (p < n_pairs) {
            __m512i sum = _mm512_dpbusd_epi32(x->init[p], w->q[p], x->q[p]);
            acc = _mm512_fmadd_ps(_mm512_permutexvar_ps(scale_lanes(f.layout, p), scale),
                                  _mm512_cvtepi32_ps(sum), acc);
        }
    if (f.has_min)
        acc = _mm512_fnmadd_ps(w->min, x->s, acc);
    return acc;
}

/* Unpacks a last group of only n_blocks 32-blocks. What follows it may be read
 * where it belongs to the weights. */
INLINE struct wregs unpack_partial(const uint8_t *w, const uint8_t *end, int n_blocks,
                                   struct format f)
{
    uint8_t copy[GROUP / 32 * 34] = {0};
    if (end - w < group_bytes(f)) {
        memcpy(copy, w, (size_t)(n_blocks * f.block_bytes));
        w = copy;
    }
    struct wregs r = f.unpack(w);
    int per_block = f.layout == SCALE8 ? 1 : 2;
    r.scale = _mm512_maskz_mov_ps((__mmask16)((1u << n_blocks * per_block) - 1), r.scale);
    if (f.has_min)
        r.min = _mm512_mask_mov_ps(_mm512_set1_ps(-0.0f),
                                   (__mmask16)((1u << 2 * n_blocks) - 1), r.min);
    return r;
}

/* ---- one token ---------------------------------------------------------- */

/* n_rows (a literal, at most ROWS) rows, one token. */
INLINE void rows_one(float *out, struct rows m, int n_rows, const void *blob, struct format f)
{
    struct act x = act_view(blob, m.n);
    __m512 acc[ROWS];
    int64_t n_groups = m.n / GROUP, g;
    int rest = (int)(m.n % GROUP / 32);
    for (int r = 0; r < n_rows; r++)
        acc[r] = _mm512_setzero_ps();
    for (g = 0; g < n_groups; g++) {
        struct xregs xr = load_x(x, g, 4, f);
        for (int r = 0; r < n_rows; r++) {
            struct wregs wr = f.unpack(m.w + (size_t)r * m.row_bytes + g * group_bytes(f));
            acc[r] = add_group(acc[r], &wr, &xr, 4, f);
        }
    }
    if (f.block == 32 && rest) {
        struct xregs xr = load_x(x, g, (rest + 1) / 2, f);
        for (int r = 0; r < n_rows; r++) {
            struct wregs wr = unpack_partial(
                m.w + (size_t)r * m.row_bytes + g * group_bytes(f), m.end, rest, f);
            acc[r] = add_group(acc[r], &wr, &xr, (rest + 1) / 2, f);
        }
    }
    for (int r = 0; r < n_rows; r++)
        out[r] = reduce16(acc[r]);
}

/* ---- many tokens -------------------------------------------------------- */

struct panel_group {
    __m512i q[4];
    __m512 scale, min;
};

struct panel {
    struct panel_group g[PANEL_GROUPS][ROWS];
    __m512 acc[TOKEN_TILE][ROWS];
};

INLINE void fill_panel(struct panel *p, struct rows m, int n_rows, int64_t g0, int n_groups,
                       struct format f)
{
    int rest = (int)MIN(m.n / 32 - g0 * GROUP_BLOCKS, (int64_t)n_groups * GROUP_BLOCKS);
    for (int g = 0; g < n_groups; g++, rest -= GROUP_BLOCKS)
        for (int r = 0; r < n_rows; r++) {
            const uint8_t *w = m.w + (size_t)r * m.row_bytes + (g0 + g) * group_bytes(f);
            struct wregs wr = rest >= GROUP_BLOCKS || f.block != 32
                                  ? f.unpack(w)
                                  : unpack_partial(w, m.end, rest, f);
            struct panel_group *to = &p->g[g][r];
            for (int i = 0; i < 4; i++)
                to->q[i] = wr.q[i];
            to->scale = wr.scale;
            to->min = wr.min;
        }
}

/* n_tok (1 or 2, a literal) tokens from `t` of the tile meet the panel. */
INLINE void panel_times(struct panel *p, int t, int n_rows, int n_tok, const struct act *x,
                        int64_t g0, int n_groups, int64_t n, struct format f)
{
    __m512 acc[2][ROWS];
    for (int i = 0; i < n_tok; i++)
        for (int r = 0; r < n_rows; r++)
            acc[i][r] = p->acc[t + i][r];
    for (int g = 0; g < n_groups; g++) {
        __m512 scale[2][ROWS];
        int n_pairs = (int)MIN((n - (g0 + g) * GROUP + 63) / 64, 4);
        for (int i = 0; i < n_tok; i++) {
            __m512 d = load_scales_x(x[i].d + GROUP_BLOCKS * (g0 + g), f.layout);
            for (int r = 0; r < n_rows; r++)
                scale[i][r] = _mm512_mul_ps(p->g[g][r].scale, d);
        }
        for (int k = 0; k < 4; k++) {
            if (f.block == 32 && k >= n_pairs)
                break;
            __m512i lanes = scale_lanes(f.layout, k);
            for (int i = 0; i < n_tok; i++) {
                __m512i q = _mm512_loadu_si512(x[i].q + GROUP * (g0 + g) + 64 * k);
                __m512i init = negative_sums(q, f.offset);
                for (int r = 0; r < n_rows; r++) {
                    __m512i sum = _mm512_dpbusd_epi32(init, p->g[g][r].q[k], q);
                    acc[i][r] = _mm512_fmadd_ps(_mm512_permutexvar_ps(lanes, scale[i][r]),
                                                _mm512_cvtepi32_ps(sum), acc[i][r]);
                }
            }
        }
        for (int i = 0; f.has_min && i < n_tok; i++) {
            __m512 s = _mm512_loadu_ps(x[i].s + SIXTEENS * (g0 + g));
            for (int r = 0; r < n_rows; r++)
                acc[i][r] = _mm512_fnmadd_ps(p->g[g][r].min, s, acc[i][r]);
        }
    }
    for (int i = 0; i < n_tok; i++)
        for (int r = 0; r < n_rows; r++)
            p->acc[t + i][r] = acc[i][r];
}

/* n_rows (a literal, at most ROWS) rows, n_tok (at most TOKEN_TILE) tokens. */
INLINE void rows_tile(float *out, ptrdiff_t out_stride, struct rows m, int n_rows,
                      const char *x, size_t x_stride, int n_tok, struct format f)
{
    struct panel p;
    int64_t all_groups = (m.n + GROUP - 1) / GROUP;
    for (int t = 0; t < n_tok; t++)
        for (int r = 0; r < n_rows; r++)
            p.acc[t][r] = _mm512_setzero_ps();
    for (int64_t g0 = 0; g0 < all_groups; g0 += PANEL_GROUPS) {
        int n_groups = (int)MIN(all_groups - g0, PANEL_GROUPS), t = 0;
        fill_panel(&p, m, n_rows, g0, n_groups, f);
        for (; t + 2 <= n_tok; t += 2) {
            struct act a[2] = {act_view(x + (size_t)t * x_stride, m.n),
                               act_view(x + (size_t)(t + 1) * x_stride, m.n)};
            panel_times(&p, t, n_rows, 2, a, g0, n_groups, m.n, f);
        }
        if (t < n_tok) {
            struct act a = act_view(x + (size_t)t * x_stride, m.n);
            panel_times(&p, t, n_rows, 1, &a, g0, n_groups, m.n, f);
        }
    }
    for (int t = 0; t < n_tok; t++)
        for (int r = 0; r < n_rows; r++)
            out[t * out_stride + r] = reduce16(p.acc[t][r]);
}

INLINE void mulq(float *out, ptrdiff_t out_stride, const void *w, size_t row_bytes,
                 int64_t n_rows, const void *x, size_t x_stride, int64_t n_tok, int64_t n,
                 struct format f)
{
    struct rows m = {w, NULL, row_bytes, n};
    if (n_rows > 0)
        m.end = m.w + (size_t)(n_rows - 1) * row_bytes + (size_t)(n / f.block * f.block_bytes);
    if (n_tok == 1) {
        int64_t r = 0;
        for (; r + ROWS <= n_rows; r += ROWS, m.w += ROWS * row_bytes)
            rows_one(out + r, m, ROWS, x, f);
        for (; r < n_rows; r++, m.w += row_bytes)
            rows_one(out + r, m, 1, x, f);
        return;
    }
    for (int64_t t = 0; t < n_tok; t += TOKEN_TILE) {
        int tile = (int)MIN(n_tok - t, TOKEN_TILE);
        const char *xt = (const char *)x + (size_t)t * x_stride;
        float *to = out + t * out_stride;
        int64_t r = 0;
        m.w = w;
        for (; r + ROWS <= n_rows; r += ROWS, m.w += ROWS * row_bytes)
            rows_tile(to + r, out_stride, m, ROWS, xt, x_stride, tile, f);
        for (; r < n_rows; r++, m.w += row_bytes)
            rows_tile(to + r, out_stride, m, 1, xt, x_stride, tile, f);
    }
}

/* X(name, layout, offset) */
#define FORMATS(X)                                                             \
    X(q4_0, SCALE8, 8)                                                         \
    X(q4_1, SCALE_EVEN, 0)                                                     \
    X(q5_0, SCALE8, 16)                                                        \
    X(q5_1, SCALE_EVEN, 0)                                                     \
    X(q8_0, SCALE8, 128)                                                       \
    X(q2_k, SCALE16, 0)                                                        \
    X(q3_k, SCALE16, 4)                                                        \
    X(q4_k, SCALE_EVEN, 0)                                                     \
    X(q5_k, SCALE_EVEN, 0)                                                     \
    X(q6_k, SCALE16, 32)                                                       \
    X(iq4_nl, SCALE8, 128)                                                     \
    X(iq4_xs, SCALE8, 128)                                                     \
    X(mxfp4, SCALE8, 12)

#define DEFINE_CONSTANTS(name, id, elems, bytes, min)                          \
    enum { name##_block = elems, name##_bytes = bytes, name##_min = min };
KERN_QUANT_FORMATS(DEFINE_CONSTANTS)

#define DEFINE_MUL(name, layout, offset)                                                   \
    static void mulq_##name(float *out, ptrdiff_t out_stride, const void *w,               \
                            size_t row_bytes, int64_t n_rows, const void *x,               \
                            size_t x_stride, int64_t n_tok, int64_t n)                     \
    {                                                                                      \
        mulq(out, out_stride, w, row_bytes, n_rows, x, x_stride, n_tok, n,                 \
             (struct format){unpack_##name, name##_block, name##_bytes, offset, layout,    \
                             name##_min});                                                 \
    }
FORMATS(DEFINE_MUL)

void kern_mul_init_avx512(struct kern *k)
{
    kern_mul_init_portable(k);
    kern_mulf_init_avx512(k);
#define SET(name, id, elems, bytes, min) k->mulq[id] = mulq_##name;
    KERN_QUANT_FORMATS(SET)
#undef SET
}

#else
typedef int kern_mul_avx512_unused; /* a file must not be empty */
#endif
