/*
 * panel_tmpl: quantised weight rows times the quantised activations of many
 * tokens. Included after mulq_tmpl.h; of the simd_NAME.h it uses also these
 * words over the widest registers, `wide` (integers) and `widef` (floats):
 *   WIDE             32-bit lanes of a register
 *   VECS             registers of rows in a tile
 *   PANEL_TOKENS     tokens of a tile, 4 or 8; PANEL_TOKENS_IS_8 says it to the
 *                    preprocessor
 *   BIAS             what makes elements of symmetric formats unsigned, or 0; not
 *                    for formats with SIGNED_128 that need 8 bits
 *   wide_dot(acc, q, x, top)   acc + products as in dot; acc is what wide_sums
 *                    makes 32-bit sums of (they may be that already)
 *   wide_steps(top)  how often wide_dot may add to one acc before wide_sums,
 *                    at least once
 *   wide_sums(acc)   the sums of 4 products of all steps
 *   token_bias       what acc starts with where elements have a bias: minus BIAS
 *                    times the sum of the activations, of each sixteen, of both.
 *                    It may then hold all of a sixteen or a block, as the
 *                    products without bias are small
 *   wide_transpose   WIDE rows of 8 dwords to 8 registers
 *   wide_low_nibbles, wide_high_nibbles   of each byte
 *   wide_start, wide_to_float   where integer sums start, which need not be 0, and
 *                    such a sum as a float
 *   wide_*, widef_*  loads, stores, broadcasts of one 4-byte element, + and, of floats,
 *                    *, fmadd a * b + c, fnmadd c - a * b
 *   OWN_TILE         1: the three functions of the section "a tile", whose order of
 *                    elements is then free, are the simd_NAME.h's
 * The arithmetic is that of portable.c, bit for bit.
 *
 * A register lane is a weight row here, so that the products of a 32-block are
 * added up exactly without a shuffle and the scales of PANEL_ROWS rows are
 * plain vectors. Decoding weights and bringing them into that order costs
 * about as much as multiplying with four tokens, and is done once for all.
 *
 * Panels of rows, for each PANEL_ROWS rows and 32-block:
 *   uint8_t q[8][PANEL_ROWS][4]        element 4 k + i of row r at [k][r][i]
 *   float   scale[parts][PANEL_ROWS]   parts: 2 for a scale for each sixteen
 *   float   min[parts][PANEL_ROWS]     formats with minima only
 * Missing rows are zeros. Panels of tokens, for each PANEL_TOKENS:
 *   struct token_block [n / 32]
 *   struct token_halves [n / 32]      what only formats with sixteens read
 * An instruction set with matrix registers can read the same forms: q is what
 * a tile of weights looks like, a column of blocks a tile of tokens.
 */
#ifndef KERN_PANEL_TMPL_H
#define KERN_PANEL_TMPL_H

#include "kern/mulq_tmpl.h"

enum { PANEL_ROWS = VECS * WIDE };

struct token_block {
    int8_t q[PANEL_TOKENS * 32];
    float d[PANEL_TOKENS];
    float sum[PANEL_TOKENS];   /* d * sum of q, for minima */
    int32_t bias[PANEL_TOKENS]; /* of token_bias */
};

struct token_halves {
    float sum[2][PANEL_TOKENS];
    int32_t bias[2][PANEL_TOKENS];
};

/* ---- a tile -------------------------------------------------------------- */

#if !OWN_TILE
/* A 32-block of WIDE rows of bytes, `stride` apart, to a panel. */
INLINE void tile_rows(wide to[8], const void *rows, size_t stride)
{
    wide_transpose(to, rows, stride);
}

/* A 32-block of token t. */
INLINE void tile_token(int8_t to[PANEL_TOKENS * 32], int t, const int8_t from[32])
{
    memcpy(to + 32 * t, from, 32);
}

/* sum[t][v] += products of `steps` times 4 elements, from step `first` on, of
 * rows and n_tok tokens in panels. */
INLINE void tile_dot(wide sum[PANEL_TOKENS][VECS], const uint8_t *w, const int8_t *x, int first,
                     int steps, int n_tok, int top)
{
    UNROLL for (int i = first; i < first + steps; i++) {
        wide q[VECS];
        UNROLL for (int v = 0; v < VECS; v++)
            q[v] = wide_load(w + (size_t)(i * VECS + v) * sizeof(wide));
        UNROLL for (int t = 0; t < n_tok; t++) {
            wide a = wide_splat(x + 32 * t + 4 * i);
            UNROLL for (int v = 0; v < VECS; v++)
                sum[t][v] = wide_dot(sum[t][v], q[v], a, top);
        }
    }
}
#endif

/* ---- tokens -------------------------------------------------------------- */

static size_t tile_bytes(int64_t n)
{
    return PANEL_TOKENS * kern_panel_token_bytes(n);
}

static struct token_halves *halves_of(void *tile, int64_t n)
{
    return (struct token_halves *)(void *)((struct token_block *)tile + n / 32);
}

static void panel_tokens(void *to, const void *acts, size_t act_stride, const int32_t *index,
                        int64_t n_tok, int64_t n)
{
    for (int64_t i = 0; i < n_tok; i++) {
        void *tile = (char *)to + (size_t)(i / PANEL_TOKENS) * tile_bytes(n);
        struct act x =
            act_view((const char *)acts + (size_t)(index ? index[i] : i) * act_stride, n);
        struct token_block *block = tile;
        struct token_halves *halves = halves_of(tile, n);
        int t = (int)(i % PANEL_TOKENS);
        for (int64_t b = 0; b < n / 32; b++) {
            int h[2] = {x.h[2 * b], x.h[2 * b + 1]}, sum = h[0] + h[1];
            tile_token(block[b].q, t, x.q + 32 * b);
            block[b].d[t] = x.d[b];
            block[b].sum[t] = x.d[b] * (float)sum;
            struct token_bias bias = token_bias(x.q + 32 * b, x.h + 2 * b);
            block[b].bias[t] = bias.block;
            for (int k = 0; k < 2; k++) {
                halves[b].sum[k][t] = x.d[b] * (float)h[k];
                halves[b].bias[k][t] = bias.half[k];
            }
        }
    }
}

/* ---- rows ---------------------------------------------------------------- */

/* What a panel of a format looks like; literals, as struct format. */
struct panel {
    int parts; /* scales of a 32-block */
    bool has_min;
    int top;
};

INLINE struct panel panel_of(struct format f)
{
    return (struct panel){f.sixteens ? 2 : 1, f.has_min, f.top};
}

INLINE bool is_biased(struct panel p)
{
    return !p.has_min && !(p.top > 127 && SIGNED_128);
}

INLINE size_t panel_block_bytes(struct panel p)
{
    return PANEL_ROWS * (32 + sizeof(float) * (size_t)p.parts * (p.has_min ? 2 : 1));
}

/* A group of WIDE rows, decoded. */
struct decoded {
    uint8_t q[WIDE][GROUP];
    float scale[2][WIDE][GROUP_BLOCKS], min[2][WIDE][GROUP_BLOCKS];
};

INLINE void decode_pair_bytes(uint8_t *to, const uint8_t *w, int p, struct format f)
{
    struct pair q = pair_in_order(w, p, f);
    for (int i = 0; i < 2; i++) {
        if (is_biased(panel_of(f)))
            q.q[i] = i8x32_add(q.q[i], BIAS - f.offset);
        i8x32_store(to + 64 * p + 32 * i, q.q[i]);
    }
}

INLINE void decode_scales(struct decoded *to, int r, const uint8_t *w, struct format f)
{
    struct scales s = f.scales(w);
    for (int k = 0; k < panel_of(f).parts; k++) {
        f32x8_store(to->scale[k][r], s.scale[k]);
        if (f.has_min)
            f32x8_store(to->min[k][r], s.min[k]);
    }
}

INLINE void decode_row(struct decoded *to, int r, const uint8_t *w, struct format f)
{
    decode_pair_bytes(to->q[r], w, 0, f);
    decode_pair_bytes(to->q[r], w, 1, f);
    decode_pair_bytes(to->q[r], w, 2, f);
    decode_pair_bytes(to->q[r], w, 3, f);
    decode_scales(to, r, w, f);
}

/* `to` begins with the lanes of these rows. */
INLINE void panel_decoded_bytes(uint8_t *to, const struct decoded *from, int n_blocks,
                                struct panel p)
{
    const size_t block = panel_block_bytes(p), row = PANEL_ROWS * 4;
    wide transposed[8];
    for (int b = 0; b < n_blocks; b++) {
        tile_rows(transposed, from->q[0] + 32 * b, GROUP);
        for (int i = 0; i < 8; i++)
            wide_store(to + (size_t)b * block + (size_t)i * row, transposed[i]);
    }
}

/* Formats whose pairs of blocks are 32 bytes, the first block in their low halves: these
 * can be brought into order before they are split, which is half of the work. */
INLINE bool is_nibble_pairs(struct format f)
{
    return f.pair == pair_q4_k;
}

/* A full group of WIDE rows of such a format. */
INLINE void panel_nibble_pairs(uint8_t *to, const uint8_t *w, size_t row_bytes, struct panel p)
{
    enum { SCALES = 16 }; /* bytes before the elements */
    const size_t block = panel_block_bytes(p), row = PANEL_ROWS * 4;
    wide both[8];
    for (int b = 0; b < GROUP_BLOCKS; b += 2, to += 2 * block) {
        tile_rows(both, w + SCALES + 16 * b, row_bytes);
        UNROLL for (int i = 0; i < 8; i++) {
            wide_store(to + (size_t)i * row, wide_low_nibbles(both[i]));
            wide_store(to + block + (size_t)i * row, wide_high_nibbles(both[i]));
        }
    }
}

/* As panel_decoded_bytes. */
INLINE void panel_scales(uint8_t *to, const struct decoded *from, int n_blocks, struct panel p)
{
    const size_t block = panel_block_bytes(p), row = PANEL_ROWS * 4;
    wide transposed[8];
    for (int k = 0; k < 2 * p.parts; k++) {
        const bool is_min = k >= p.parts;
        if (is_min && !p.has_min)
            break;
        wide_transpose(transposed, is_min ? from->min[k - p.parts] : from->scale[k],
                       sizeof from->scale[0][0]);
        for (int b = 0; b < n_blocks; b++)
            wide_store(to + (size_t)b * block + (size_t)(8 + k) * row, transposed[b]);
    }
}

INLINE void panel_rows(void *to, const void *w, size_t row_bytes, int64_t n_rows, int64_t n,
                      struct format f)
{
    const size_t block = panel_block_bytes(panel_of(f));
    const uint8_t *end = (const uint8_t *)w + (size_t)(n_rows - 1) * row_bytes +
                         (size_t)(n / f.block * f.bytes);
    for (int64_t r0 = 0; r0 < n_rows; r0 += WIDE) {
        uint8_t *panel = (uint8_t *)to + (size_t)(r0 / PANEL_ROWS * PANEL_ROWS) *
                                             kern_panel_row_bytes(n);
        int rows = (int)MIN(n_rows - r0, WIDE);
        for (int64_t g = 0; g * GROUP < n; g++) {
            int n_blocks = (int)MIN(n / 32 - g * GROUP_BLOCKS, GROUP_BLOCKS);
            const uint8_t *first = (const uint8_t *)w + (size_t)r0 * row_bytes + g * group_bytes(f);
            uint8_t *to_group = panel + (size_t)(g * GROUP_BLOCKS) * block +
                                (size_t)(r0 / WIDE % VECS) * WIDE * 4;
            struct decoded d;
            if (is_nibble_pairs(f) && rows == WIDE) {
                for (int r = 0; r < WIDE; r++)
                    decode_scales(&d, r, first + (size_t)r * row_bytes, f);
                panel_nibble_pairs(to_group, first, row_bytes, panel_of(f));
                panel_scales(to_group, &d, n_blocks, panel_of(f));
                continue;
            }
            if (rows < WIDE)
                memset(&d, 0, sizeof d);
            for (int r = 0; r < rows; r++) {
                const uint8_t *from = first + (size_t)r * row_bytes;
                uint8_t copy[PART_GROUP_BYTES];
                if (f.block < GROUP && n_blocks < GROUP_BLOCKS)
                    from = partial_group(copy, from, end, n_blocks, f);
                decode_row(&d, r, from, f);
            }
            panel_decoded_bytes(to_group, &d, n_blocks, panel_of(f));
            panel_scales(to_group, &d, n_blocks, panel_of(f));
        }
    }
}

/* ---- products ------------------------------------------------------------ */

/* Part k (the whole, or a sixteen) of a 32-block: exact sums of products. */
INLINE void part_times(wide sum[PANEL_TOKENS][VECS], const uint8_t *w, int k,
                       const struct token_block *x, const struct token_halves *halves, int n_tok,
                       struct panel p)
{
    const int steps = 8 / p.parts, first = k * steps;
    const int fit = is_biased(p) ? steps : MIN(wide_steps(p.top), steps);
    UNROLL for (int from = first; from < first + steps; from += fit) {
        wide part[PANEL_TOKENS][VECS];
        UNROLL for (int t = 0; t < n_tok; t++)
            UNROLL for (int v = 0; v < VECS; v++)
                part[t][v] = !BIAS || !is_biased(p) ? wide_start()
                             : wide_splat(p.parts == 2 ? &halves->bias[k][t] : &x->bias[t]);
        tile_dot(part, w, x->q, from, fit, n_tok, p.top);
        UNROLL for (int t = 0; t < n_tok; t++)
            UNROLL for (int v = 0; v < VECS; v++) {
                wide s = wide_sums(part[t][v]);
                sum[t][v] = from == first ? s : wide_add(sum[t][v], s);
            }
    }
}

/* One 32-block: acc[t][v] += its products. */
INLINE void block_times(float acc[PANEL_TOKENS][PANEL_ROWS], const uint8_t *w,
                        const struct token_block *x, const struct token_halves *halves, int n_tok,
                        struct panel p)
{
    const float *scale = (const float *)(const void *)(w + 32 * PANEL_ROWS);
    const float *min = scale + p.parts * PANEL_ROWS;
    if (p.has_min && p.parts == 2)
        UNROLL for (int t = 0; t < n_tok; t++)
            UNROLL for (int v = 0; v < VECS; v++) {
                widef a = widef_load(acc[t] + v * WIDE);
                UNROLL for (int k = 0; k < 2; k++)
                    a = widef_fnmadd(widef_load(min + k * PANEL_ROWS + v * WIDE),
                                     widef_splat(&halves->sum[k][t]), a);
                widef_store(acc[t] + v * WIDE, a);
            }
    UNROLL for (int k = 0; k < p.parts; k++) {
        wide sum[PANEL_TOKENS][VECS];
        part_times(sum, w, k, x, halves, n_tok, p);
        UNROLL for (int t = 0; t < n_tok; t++)
            UNROLL for (int v = 0; v < VECS; v++) {
                widef a = widef_load(acc[t] + v * WIDE);
                if (p.has_min && p.parts == 1)
                    a = widef_fnmadd(widef_load(min + v * WIDE), widef_splat(&x->sum[t]), a);
                a = widef_fmadd(widef_mul(widef_load(scale + k * PANEL_ROWS + v * WIDE),
                                          widef_splat(&x->d[t])),
                                wide_to_float(sum[t][v]), a);
                widef_store(acc[t] + v * WIDE, a);
            }
    }
}

/* What to prefetch, `step` bytes for each 32-block that is computed. */
struct soon {
    const char *at, *end;
    ptrdiff_t step;
};

INLINE void prefetch_soon(struct soon *s)
{
    const char *end = s->end - s->at > s->step ? s->at + s->step : s->end;
    for (; s->at < end; s->at += 64)
        __builtin_prefetch(s->at, 0, 2);
}

/* PANEL_ROWS rows, of which n_rows are there, and n_tok (a literal) tokens. */
INLINE void panel_times(float *out, ptrdiff_t out_stride, const uint8_t *w, int n_rows,
                        const struct token_block *x, int n_tok, int64_t n, struct soon *soon,
                        struct panel p)
{
    _Alignas(64) float acc[GROUP_BLOCKS][PANEL_TOKENS][PANEL_ROWS];
    const struct token_halves *halves = (const struct token_halves *)(const void *)(x + n / 32);
    for (int l = 0; l < GROUP_BLOCKS; l++)
        UNROLL for (int t = 0; t < n_tok; t++)
            UNROLL for (int v = 0; v < VECS; v++)
                widef_store(acc[l][t] + v * WIDE, widef_zero());
    for (int64_t b = 0; b < n / 32; b++) {
        prefetch_soon(soon);
        block_times(acc[b % GROUP_BLOCKS], w + (size_t)b * panel_block_bytes(p), x + b, halves + b,
                    n_tok, p);
    }
    for (int t = 0; t < n_tok; t++) {
        _Alignas(64) float buffer[PANEL_ROWS];
        float *to = out + t * out_stride, *sum = n_rows == PANEL_ROWS ? to : buffer;
        for (int v = 0; v < PANEL_ROWS; v += WIDE) { /* the tree of kern.h */
            widef s[GROUP_BLOCKS];
            for (int l = 0; l < 4; l++)
                s[l] = widef_add(widef_load(acc[l][t] + v), widef_load(acc[l + 4][t] + v));
            s[0] = widef_add(widef_add(s[0], s[2]), widef_add(s[1], s[3]));
            widef_store(sum + v, s[0]);
        }
        if (sum == buffer)
            memcpy(to, buffer, (size_t)n_rows * sizeof *to);
    }
}

INLINE void mul_panels(float *out, ptrdiff_t out_stride, const void *rows, int64_t n_rows,
                       const void *tokens, int64_t n_tok, int64_t n, const void *soon,
                       size_t soon_bytes, struct panel p)
{
    int64_t tiles = (n_tok + PANEL_TOKENS - 1) / PANEL_TOKENS;
    int64_t panels = (n_rows + PANEL_ROWS - 1) / PANEL_ROWS,
            blocks = MAX(tiles * panels * (n / 32), 1);
    struct soon s = {soon, (const char *)soon + soon_bytes,
                     (ptrdiff_t)align_up(soon_bytes / (size_t)blocks + 1, 64)};
    for (int64_t t = 0; t < n_tok; t += PANEL_TOKENS) {
        const void *x = (const char *)tokens + (size_t)(t / PANEL_TOKENS) * tile_bytes(n);
        for (int64_t r = 0; r < n_rows; r += PANEL_ROWS) {
            const uint8_t *w = (const uint8_t *)rows + (size_t)r * kern_panel_row_bytes(n);
            float *to = out + t * out_stride + r;
            int here = (int)MIN(n_rows - r, PANEL_ROWS);
            switch (MIN(n_tok - t, PANEL_TOKENS)) {
#define TOKENS(k)                                                              \
    case k:                                                                    \
        panel_times(to, out_stride, w, here, x, k, n, &s, p);                     \
        break
                TOKENS(1);
                TOKENS(2);
                TOKENS(3);
#if PANEL_TOKENS_IS_8
                TOKENS(4);
                TOKENS(5);
                TOKENS(6);
                TOKENS(7);
#endif
                TOKENS(PANEL_TOKENS);
#undef TOKENS
            }
        }
    }
}

/* One inner loop for each kind of panel, shared by the formats. */
#define DEFINE_PACKING(name, parts, has_min, top)                                           \
    static void mul_##name(float *out, ptrdiff_t out_stride, const void *rows,              \
                           int64_t n_rows, const void *tokens, int64_t n_tok, int64_t n,    \
                           const void *soon, size_t soon_bytes)                             \
    {                                                                                       \
        mul_panels(out, out_stride, rows, n_rows, tokens, n_tok, n, soon, soon_bytes,       \
                   (struct panel){parts, has_min, top});                                  \
    }
DEFINE_PACKING(blocks, 1, false, 127)
DEFINE_PACKING(blocks_eight_bits, 1, false, 255)
DEFINE_PACKING(nibbles_minima, 1, true, 15)
DEFINE_PACKING(blocks_minima, 1, true, 31)
DEFINE_PACKING(sixteens, 2, false, 127)
DEFINE_PACKING(sixteens_eight_bits, 2, false, 255)
DEFINE_PACKING(sixteens_minima, 2, true, 3)

#define DEFINE_PANEL_ROWS(name, NAME, id, elements, bytes, minima, sixteens)                 \
    static void panel_rows_##name(void *to, const void *w, size_t row_bytes, int64_t n_rows, \
                                 int64_t n)                                                 \
    {                                                                                       \
        panel_rows(to, w, row_bytes, n_rows, n, format_##name);                              \
    }
DTYPE_QUANTISED(DEFINE_PANEL_ROWS)
#undef DEFINE_PANEL_ROWS

/* The inner loop of a format; a constant. */
#define MUL_PANELS(name, minima, sixteens)                                                  \
    ((sixteens) ? ((minima)                          ? mul_sixteens_minima                   \
                   : name##_top > 127 && SIGNED_128 ? mul_sixteens_eight_bits               \
                                                    : mul_sixteens)                         \
     : (minima) ? (name##_top > 15 ? mul_blocks_minima : mul_nibbles_minima)                \
     : name##_top > 127 && SIGNED_128 ? mul_blocks_eight_bits                               \
                                      : mul_blocks)

#endif
