/*
 * kern: the arithmetic, as pure functions on pointers.
 *
 *   kern.c          chooses a table for the processor
 *   portable.c      the table in plain C; it states the exact formula of each format
 *   avx2.c ...      one small file for each instruction set: its words (simd_NAME.h),
 *                   its formats in registers (unpack_NAME.h), and the loops
 *   *_tmpl.h        the loops, written once over those words: weight rows times one
 *                   token (mulq), many tokens (panels), floats (mulf); norms, activations,
 *                   softmax, attention, recurrences (vec); the table itself (table)
 *   group.h, dequant.c   exact block decoders (model-independent facts of the
 *                   formats)
 *
 * No allocation, no threads, no state: every function may be called from any
 * thread at any time. Pointers may be unaligned unless stated.
 *
 * The contract that makes sluice's answers independent of the processor:
 * every function below returns the SAME BITS in every table (where a result is
 * NaN it is NaN in every table, but its sign and payload are not promised).
 *  1. Sums of integer products inside a block of 32 are exact.
 *  2. Floats are accumulated in 16 virtual lanes (8 in mulq), each by fused
 *     multiply-add in a fixed order; multiplications and additions are never
 *     contracted otherwise (-ffp-contract=off).
 *  3. Lanes are reduced by one tree: 16 -> 8 (i, i+8) -> 4 (i, i+4) ->
 *     2 (i, i+2) -> 1.
 *  4. exp and its kin are the same polynomial, operation by operation.
 *  5. The result for one row and one token does not depend on how many rows or
 *     tokens are computed in the same call.
 */
#ifndef KERN_H
#define KERN_H

#include "base/base.h"

/*
 * Quantised activations of one token, n elements (n a multiple of 32):
 * blocks of 32, q = nearest-even(x * (1 / d)), d = max|x| / 127, stored as
 *     int8_t q[n], padded to a multiple of 64 bytes
 *     float  d[n/32]
 *     int16  h[n/16]      sums of 16 q, for the offset terms of the formats
 * each array starting at a multiple of 64 bytes from the start, which must
 * itself be 64-byte aligned; padding bytes are zeros. A block with an infinity
 * or NaN becomes q = 0, d = NaN, so that its products are NaN; one with
 * d < 2^-126 becomes zeros.
 */
size_t kern_act_bytes(int64_t n);

/*
 * out[t * out_stride + r] = sum_i W[r][i] * x_t[i] for r < n_rows, t < n_tok.
 *   w          n_rows rows of n elements, row_bytes apart
 *   x          n_tok activation rows, x_stride bytes apart: float[n] for
 *              mulf, kern_act blobs for mulq
 * n is a multiple of the type's block length (any n for F32, F16, BF16).
 */
typedef void kern_mul_fn(float *out, ptrdiff_t out_stride, const void *w,
                         size_t row_bytes, int64_t n_rows, const void *x,
                         size_t x_stride, int64_t n_tok, int64_t n);

/*
 * The same products for many tokens. Weight rows and tokens are first brought
 * into the form that the inner loop reads, which is private to the table:
 *   panel_rows    rows of a quantised type to 8-bit elements and float scales,
 *                kern_panel_row_bytes(n) bytes for each row, room for 8 bits an
 *                element and four floats for each 32
 *   panel_tokens  kern_act blobs, those of `index` or, if it is NULL, the first
 *                n_tok; kern_panel_token_bytes(n) bytes for each token
 *   mul_panels   out[t * out_stride + r] = the sum above; meanwhile `soon`
 *                (soon_bytes, may be none) is brought near: what is laid out next
 * Panels are 64-byte aligned; rows must have room for a multiple of
 * tile_rows, tokens of tile_tokens. Parts of it that start at such a multiple
 * may be laid out and used on their own.
 */
typedef void kern_panel_rows_fn(void *to, const void *w, size_t row_bytes, int64_t n_rows,
                               int64_t n);
typedef void kern_mul_panels_fn(float *out, ptrdiff_t out_stride, const void *rows,
                                int64_t n_rows, const void *tokens, int64_t n_tok, int64_t n,
                                const void *soon, size_t soon_bytes);
enum { KERN_TILE_MAX = 64 };
size_t kern_panel_row_bytes(int64_t n);
size_t kern_panel_token_bytes(int64_t n);

/*
 * Attention of n_tok tokens that follow each other, for the n_q query heads
 * that share one key/value head: scores = scale * q.k (16 lanes over hd), limited
 * to cap * tanh(scores / cap) if there is a cap; softmax over the positions;
 * out[d] adds p[j] * v[j][d] by fused multiply-add in order of j. The first token
 * sees the positions before n_pos, each later one one more; of these only those
 * from from[t] on. A sink is one more score of a head, which takes its part of the
 * softmax and adds nothing. What a token gets does not depend on the others.
 * Each block of keys and values is read and converted once for all tokens.
 * Strides in elements. No positions: out is zero.
 */
struct kern_attention {
    float *out;         /* (n_tok, n_q, vd) */
    const float *q;     /* (n_tok, n_q, hd) */
    const void *k, *v;  /* (n_pos + n_tok - 1, hd) and (.., vd): F16 or F32 */
    float *scores;      /* (n_tok * n_q, score_stride) scratch, score_stride >= n_pos + n_tok - 1 */
    ptrdiff_t out_token, out_stride, q_token, q_stride, k_stride, v_stride, score_stride;
    int64_t n_tok, n_q, n_pos;
    int64_t hd, vd;     /* multiples of 16, at most 4096 */
    const int64_t *from; /* (n_tok) not falling, below what the token sees; NULL: all 0 */
    const float *sinks; /* (n_q) or NULL */
    bool f16;           /* the type of k and v */
    float scale, cap;   /* cap 0: none */
};

/* What a gated network does between its products. */
enum kern_act {
    KERN_SILU,       /* silu(g) * u; limited: min(g, limit) and u within +-limit instead */
    KERN_GELU,       /* gelu(g) * u in its tanh form: g * sigmoid(1.5957691 (g + 0.044715 g^3)) */
    KERN_SWIGLU_OAI, /* g' sigmoid(1.702 g') (u' + 1) with g', u' limited as above: gpt-oss */
    KERN_SILU_CUT,   /* silu(g) * u; limited: min(silu(g), limit) and u within +-limit instead */
    KERN_RELU,       /* max(g, 0) * u */
    KERN_SIGMOID,    /* sigmoid(g) * u */
    KERN_SITU,       /* limit * tanh(g / limit) * sigmoid(g) * u; the limit is above 0 */
    KERN_ACTS
};

struct kern {
    const char *name; /* as kern_name gives it */

    /* mulf: float activations, every type (quantised rows are decoded exactly
     * first). mulq: 8-bit activations; NULL for F32, F16, BF16. */
    kern_mul_fn *mulf[DT_COUNT];
    kern_mul_fn *mulq[DT_COUNT];
    void (*quantize)(void *act, const float *x, int64_t n);
    /* NULL where mulq is. Both counts are powers of two, at most KERN_TILE_MAX. */
    int tile_rows, tile_tokens;
    kern_panel_rows_fn *panel_rows[DT_COUNT];
    kern_mul_panels_fn *mul_panels[DT_COUNT];
    void (*panel_tokens)(void *to, const void *acts, size_t act_stride, const int32_t *index,
                        int64_t n_tok, int64_t n);

    /* y = x * w / sqrt(mean(x^2) + eps); w NULL: no weight. y may be x. */
    void (*rms_norm)(float *y, const float *x, const float *w, int64_t n, float eps);
    /* y = x / max(sqrt(sum x^2), eps). y may be x. */
    void (*l2_norm)(float *y, const float *x, int64_t n, float eps);

    void (*add)(float *y, const float *x, int64_t n);            /* y += x */
    void (*axpy)(float *y, float a, const float *x, int64_t n);  /* y = fma(a, x, y) */
    void (*scale)(float *y, float a, int64_t n);                 /* y *= a */
    void (*gate[KERN_ACTS])(float *y, const float *g, const float *u, int64_t n, float limit);
    void (*sigmoid_mul)(float *y, const float *g, const float *u, int64_t n); /* sigmoid(g) * u */
    void (*sigmoid)(float *y, const float *x, int64_t n);
    void (*softplus)(float *y, const float *x, int64_t n);       /* x > 20 ? x : log(1 + exp x) */
    void (*exp)(float *y, const float *x, int64_t n);
    void (*softcap)(float *x, int64_t n, float cap);             /* cap * tanh(x / cap) */
    /* x = exp(x - max x) / sum, in place. */
    void (*softmax)(float *x, int64_t n);

    /* NEOX rotation of the first n_rot elements: pairs (i, i + n_rot/2);
     * cs holds cos then sin, n_rot/2 floats each. */
    void (*rope_neox)(float *x, const float *cs, int64_t n_rot);
    /* cs for one position: angle = (float)pos * freq[i], reduced mod 2 pi in double. */
    void (*rope_angles)(float *cs, const float *freq, int64_t n_half, int64_t pos);

    void (*f32_to_f16)(uint16_t *y, const float *x, int64_t n); /* nearest even */
    void (*f16_to_f32)(float *y, const uint16_t *x, int64_t n);

    void (*attention)(const struct kern_attention *a);

    /*
     * One token of the gated delta rule for one value head (Gated Delta Networks,
     * arXiv 2412.06464).
     *   S        (dk, dv) state, row i = key dimension, contiguous in j = value dim
     *   q, k     (dk) normalised; v (dv); o (dv) written
     * S *= decay; d = beta * (v - S^T k); S += k d^T; o = out_scale * S^T q.
     * Sums over i in order of i, by fused multiply-add. dv a multiple of 16.
     */
    void (*delta_step)(float *S, const float *q, const float *k, const float *v, float *o,
                       int64_t dk, int64_t dv, float decay, float beta, float out_scale);

    /* The same where each row of S has a decay of its own, decay (dk): Kimi Delta Attention
     * (Kimi Linear, arXiv 2510.26692). */
    void (*kda_step)(float *S, const float *q, const float *k, const float *v, float *o,
                     int64_t dk, int64_t dv, const float *decay, float beta, float out_scale);

    /*
     * Causal convolution of width 4 over time, then silu, for channels
     * [0, n): c = w[ch][0]*h0 + w[ch][1]*h1 + w[ch][2]*h2 + w[ch][3]*u by
     * fused multiply-add in this order, first term a plain product.
     * h0..h2 are the three earlier rows, oldest first; w is (n, 4). y may be u.
     */
    void (*conv4_silu)(float *y, const float *h0, const float *h1, const float *h2,
                       const float *u, const float *w, int64_t n);
};

/* The names of the tables in this build, least first: "portable", then those of
 * the instruction sets; NULL past the last. */
const char *kern_name(int rung);
/* The table for this processor, or the one named; E_UNSUPPORTED with a sentence
 * when there is none or the processor lacks it. NULL or "auto": the best. */
int kern_select(const char *name, const struct kern **out, struct err *e);
/* All tables that this processor can run, portable first; returns how many. */
enum { KERN_RUNGS_MAX = 8 };
int kern_available(const struct kern *tables[KERN_RUNGS_MAX]);

/* Exact decoding of one row of n elements to float. Returns E_UNSUPPORTED for
 * types without a decoder. The formulas: GGUF block formats. */
int kern_dequant_row(enum dtype t, float *y, const void *row, int64_t n);
bool kern_supports(enum dtype t); /* can be multiplied with */

#endif
