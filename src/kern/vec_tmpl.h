/*
 * vec_tmpl: norms, activations, softmax, rotation, attention and recurrences,
 * written once over the 16-lane vector of the simd_*.h included before it.
 *
 * Every table has its functions from this file, so that all run the same operations in
 * the same order. What keeps the bits equal:
 *  1. A float is only ever produced by an operation of simd_*.h or by scalar
 *     IEEE arithmetic (+ - * / sqrt, fmaf) without contraction.
 *  2. Lanes behind the end of a row enter a sum as +0 and a maximum as -inf.
 *  3. How many heads, positions or columns a loop takes at once (SIMD_ACC)
 *     decides which accumulators live in registers, never the order in which
 *     one accumulator takes its terms.
 */
#ifndef VEC_TMPL_H
#define VEC_TMPL_H

#include <math.h>
#include <string.h>

/* ---- elementary functions --------------------------------------------- */

/*
 * exp: n = x / ln 2 rounded, r = x - n ln 2 in two parts, 2^n * polynomial.
 * Adding 1.5 * 2^23 rounds to an integer, whose low bits then sit at the
 * bottom of the word; shifted by 23 they are added to the exponent of the
 * polynomial, which is a normal number for every n that is not replaced below.
 * Above 88.72283 +inf; below the logarithm of the smallest normal number 0
 * (no subnormal results). Largest error 0.892 ulp, over every float.
 */
V_INLINE vf v_exp(vf x)
{
    const vf magic = v_splat(0x1.8p23f);
    vf t = v_fma(x, v_splat(0x1.715476p0f), magic);
    vf n = v_sub(t, magic);
    vf r = v_fnma(n, v_splat(0x1.62e4p-1f), x);
    r = v_fnma(n, v_splat(0x1.7f7d1cp-20f), r);
    vf p = v_splat(0x1.6a5154p-10f);
    p = v_fma(p, r, v_splat(0x1.12397cp-7f));
    p = v_fma(p, r, v_splat(0x1.5558acp-5f));
    p = v_fma(p, r, v_splat(0x1.555492p-3f));
    p = v_fma(p, r, v_splat(0x1.fffffcp-2f));
    p = v_fma(p, r, v_splat(1.0f));
    p = v_fma(p, r, v_splat(1.0f));
    p = v_from_bits(vi_add(v_bits(p), vi_shl(v_bits(t), 23)));
    p = v_select(v_gt(x, v_splat(0x1.62e42ep6f)), v_splat(INFINITY), p);
    return v_select(v_gt(v_splat(-0x1.5d589ep6f), x), v_zero(), p);
}

/*
 * log(1 + e) for e >= 0: k and f with 1 + e = 2^k (1 + f), 1 + f between
 * sqrt(1/2) and sqrt(2), where f = e 2^-k + (2^-k - 1) is rounded once from
 * the exact e, so that nothing of a small e is lost in 1 + e.
 */
V_INLINE vf v_log1p(vf e)
{
    vi k = vi_shr(vi_sub(v_bits(v_add(e, v_splat(1.0f))), vi_splat(0x3f3504f3u)), 23);
    vf kf = v_from_int(k);
    vf s = v_from_bits(vi_shl(vi_sub(vi_splat(127), k), 23)); /* 2^-k */
    vf f = v_fma(e, s, v_sub(s, v_splat(1.0f)));
    vf p = v_splat(-0x1.3a5662p-4f);
    p = v_fma(p, f, v_splat(0x1.090efcp-3f));
    p = v_fma(p, f, v_splat(-0x1.0f2f18p-3f));
    p = v_fma(p, f, v_splat(0x1.225442p-3f));
    p = v_fma(p, f, v_splat(-0x1.5424e4p-3f));
    p = v_fma(p, f, v_splat(0x1.99a544p-3f));
    p = v_fma(p, f, v_splat(-0x1.000438p-2f));
    p = v_fma(p, f, v_splat(0x1.55554ep-2f));
    p = v_fma(p, f, v_splat(-0x1.fffff8p-2f));
    p = v_fma(v_mul(f, f), p, f);
    p = v_fma(kf, v_splat(0x1.7f7d1cp-20f), p);
    return v_fma(kf, v_splat(0x1.62e4p-1f), p);
}

V_INLINE vf v_one_plus_exp_neg(vf x)
{
    return v_add(v_splat(1.0f), v_exp(v_sub(v_zero(), x)));
}

V_INLINE vf v_sigmoid(vf x)
{
    return v_div(v_splat(1.0f), v_one_plus_exp_neg(x));
}

V_INLINE vf v_silu(vf x)
{
    return v_div(x, v_one_plus_exp_neg(x));
}

/* Exact where the limit matters; a NaN stays one. */
V_INLINE vf v_at_most(vf x, vf limit)
{
    return v_select(v_gt(x, limit), limit, x);
}

V_INLINE vf v_within(vf x, vf limit)
{
    vf low = v_sub(v_zero(), limit);
    return v_select(v_gt(low, x), low, v_at_most(x, limit));
}

V_INLINE vf v_silu_gate(vf g, vf u, vf limit)
{
    (void)limit;
    return v_mul(v_silu(g), u);
}

V_INLINE vf v_limited_silu_gate(vf g, vf u, vf limit)
{
    return v_mul(v_silu(v_at_most(g, limit)), v_within(u, limit));
}

/* (1 + tanh(y)) / 2 = sigmoid(2 y), y = sqrt(2 / pi) (g + 0.044715 g^3). */
V_INLINE vf v_gelu_gate(vf g, vf u, vf limit)
{
    (void)limit;
    vf cube = v_mul(v_mul(g, g), g);
    vf y = v_mul(v_splat(0x1.988454p0f), v_fma(v_splat(0.044715f), cube, g));
    return v_mul(v_mul(g, v_sigmoid(y)), u);
}

V_INLINE vf v_oai_gate(vf g, vf u, vf limit)
{
    g = v_at_most(g, limit);
    u = v_within(u, limit);
    return v_mul(v_mul(g, v_sigmoid(v_mul(v_splat(1.702f), g))), v_add(u, v_splat(1.0f)));
}

V_INLINE vf v_cut_silu_gate(vf g, vf u, vf limit)
{
    return v_mul(v_at_most(v_silu(g), limit), v_within(u, limit));
}

V_INLINE vf v_relu_gate(vf g, vf u, vf limit)
{
    (void)limit;
    return v_mul(v_select(v_gt(v_zero(), g), v_zero(), g), u);
}

/* 2 sigmoid(2 x) - 1; near 0, where that loses what is small, x + x^3 P(x^2), with the
 * polynomial of Cephes (S. Moshier): the relative error is below 6e-7. */
V_INLINE vf v_tanh(vf x)
{
    const vf s = v_sigmoid(v_add(x, x)), z = v_mul(x, x);
    vf p = v_fma(v_splat(-5.70498872745e-3f), z, v_splat(2.06390887954e-2f));
    p = v_fma(p, z, v_splat(-5.37397155531e-2f));
    p = v_fma(p, z, v_splat(1.33314422036e-1f));
    p = v_fma(p, z, v_splat(-3.33332819422e-1f));
    return v_select(v_gt(v_splat(0.390625f), z), v_fma(v_mul(p, z), x, x),
                    v_sub(v_add(s, s), v_splat(1.0f)));
}

V_INLINE vf v_softcap(vf x, vf cap)
{
    return v_mul(cap, v_tanh(v_div(x, cap)));
}

/* Kimi-K3's: situ. */
V_INLINE vf v_situ_gate(vf g, vf u, vf limit)
{
    return v_mul(v_mul(v_softcap(g, limit), v_sigmoid(g)), u);
}

V_INLINE vf v_sigmoid_gate(vf g, vf u, vf limit)
{
    (void)limit;
    return v_mul(v_sigmoid(g), u);
}

V_INLINE vf v_sigmoid_mul(vf g, vf u)
{
    return v_mul(v_sigmoid(g), u);
}

V_INLINE vf v_softplus(vf x)
{
    return v_select(v_gt(x, v_splat(20.0f)), x, v_log1p(v_exp(x)));
}

/* ---- element by element ----------------------------------------------- */

#define MAP1(name, op)                                                         \
    static void name(float *y, const float *x, int64_t n)                      \
    {                                                                          \
        int64_t i = 0;                                                         \
        for (; i + 16 <= n; i += 16)                                           \
            v_store(y + i, op(v_load(x + i)));                                 \
        if (i < n)                                                             \
            v_store_n(y + i, op(v_load_n(x + i, n - i, 0.0f)), n - i);         \
    }
MAP1(vec_sigmoid, v_sigmoid)
MAP1(vec_softplus, v_softplus)
MAP1(vec_exp, v_exp)

#define MAP2(name, op)                                                         \
    static void name(float *y, const float *a, const float *b, int64_t n)      \
    {                                                                          \
        int64_t i = 0;                                                         \
        for (; i + 16 <= n; i += 16)                                           \
            v_store(y + i, op(v_load(a + i), v_load(b + i)));                  \
        if (i < n)                                                             \
            v_store_n(y + i,                                                   \
                      op(v_load_n(a + i, n - i, 0.0f), v_load_n(b + i, n - i, 0.0f)), \
                      n - i);                                                  \
    }
MAP2(vec_sigmoid_mul, v_sigmoid_mul)
MAP2(vec_sum_of, v_add)

#define GATE(name, op)                                                         \
    static void name(float *y, const float *g, const float *u, int64_t n,      \
                     float limit)                                              \
    {                                                                          \
        const vf l = v_splat(limit);                                           \
        int64_t i = 0;                                                         \
        for (; i + 16 <= n; i += 16)                                           \
            v_store(y + i, op(v_load(g + i), v_load(u + i), l));               \
        if (i < n)                                                             \
            v_store_n(y + i,                                                   \
                      op(v_load_n(g + i, n - i, 0.0f), v_load_n(u + i, n - i, 0.0f), l), \
                      n - i);                                                  \
    }
GATE(vec_free_silu_gate, v_silu_gate)
GATE(vec_limited_silu_gate, v_limited_silu_gate)
GATE(vec_gelu_gate, v_gelu_gate)
GATE(vec_oai_gate, v_oai_gate)
GATE(vec_limited_cut_gate, v_cut_silu_gate)
GATE(vec_relu_gate, v_relu_gate)
GATE(vec_sigmoid_gate, v_sigmoid_gate)
GATE(vec_situ_gate, v_situ_gate)

static void vec_silu_gate(float *y, const float *g, const float *u, int64_t n, float limit)
{
    if (limit > 0.0f)
        vec_limited_silu_gate(y, g, u, n, limit);
    else
        vec_free_silu_gate(y, g, u, n, limit);
}

static void vec_cut_gate(float *y, const float *g, const float *u, int64_t n, float limit)
{
    if (limit > 0.0f)
        vec_limited_cut_gate(y, g, u, n, limit);
    else
        vec_free_silu_gate(y, g, u, n, limit);
}

static void vec_softcap(float *x, int64_t n, float cap)
{
    const vf c = v_splat(cap);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(x + i, v_softcap(v_load(x + i), c));
    if (i < n)
        v_store_n(x + i, v_softcap(v_load_n(x + i, n - i, 0.0f), c), n - i);
}

static void vec_add(float *y, const float *x, int64_t n)
{
    vec_sum_of(y, y, x, n);
}

static void vec_axpy(float *y, float a, const float *x, int64_t n)
{
    const vf va = v_splat(a);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(y + i, v_fma(va, v_load(x + i), v_load(y + i)));
    if (i < n)
        v_store_n(y + i, v_fma(va, v_load_n(x + i, n - i, 0.0f), v_load_n(y + i, n - i, 0.0f)),
                  n - i);
}

static void vec_scale(float *y, float a, int64_t n)
{
    const vf va = v_splat(a);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(y + i, v_mul(v_load(y + i), va));
    if (i < n)
        v_store_n(y + i, v_mul(v_load_n(y + i, n - i, 0.0f), va), n - i);
}

static void vec_f32_to_f16(uint16_t *y, const float *x, int64_t n)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store_f16(y + i, v_load(x + i));
    if (i < n) {
        uint16_t tail[16];
        v_store_f16(tail, v_load_n(x + i, n - i, 0.0f));
        memcpy(y + i, tail, (size_t)(n - i) * sizeof(*y));
    }
}

static void vec_f16_to_f32(float *y, const uint16_t *x, int64_t n)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(y + i, v_load_f16(x + i));
    if (i < n) {
        uint16_t tail[16] = {0};
        memcpy(tail, x + i, (size_t)(n - i) * sizeof(*x));
        v_store_n(y + i, v_load_f16(tail), n - i);
    }
}

/* ---- norms and softmax ------------------------------------------------ */

static float sum_of_squares(const float *x, int64_t n)
{
    vf acc = v_zero();
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        vf v = v_load(x + i);
        acc = v_fma(v, v, acc);
    }
    if (i < n) {
        vf v = v_load_n(x + i, n - i, 0.0f);
        acc = v_fma(v, v, acc);
    }
    return v_sum(acc);
}

static void vec_rms_norm(float *y, const float *x, const float *w, int64_t n, float eps)
{
    float s = 1.0f / sqrtf(sum_of_squares(x, n) / (float)n + eps);
    const vf vs = v_splat(s);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        vf v = v_mul(v_load(x + i), vs);
        v_store(y + i, w ? v_mul(v, v_load(w + i)) : v);
    }
    if (i < n) {
        vf v = v_mul(v_load_n(x + i, n - i, 0.0f), vs);
        v_store_n(y + i, w ? v_mul(v, v_load_n(w + i, n - i, 0.0f)) : v, n - i);
    }
}

static void vec_l2_norm(float *y, const float *x, int64_t n, float eps)
{
    float len = sqrtf(sum_of_squares(x, n));
    const vf d = v_splat(len > eps ? len : eps);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(y + i, v_div(v_load(x + i), d));
    if (i < n)
        v_store_n(y + i, v_div(v_load_n(x + i, n - i, 0.0f), d), n - i);
}

/* The sum is at least 1 (the largest element, or the sink, gives exp 0), so its
 * reciprocal is a normal number and multiplying costs at most one more rounding.
 * sink: one more element, not stored; NULL: none. */
static void softmax_with(float *x, int64_t n, const float *sink)
{
    vf m = v_splat(sink ? *sink : -INFINITY), sum = v_zero();
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        m = v_max(v_load(x + i), m);
    if (i < n)
        m = v_max(v_load_n(x + i, n - i, -INFINITY), m);
    m = v_splat(v_hmax(m));

    for (i = 0; i + 16 <= n; i += 16) {
        vf e = v_exp(v_sub(v_load(x + i), m));
        v_store(x + i, e);
        sum = v_add(sum, e);
    }
    if (i < n) {
        v_store_n(x + i, v_exp(v_sub(v_load_n(x + i, n - i, 0.0f), m)), n - i);
        sum = v_add(sum, v_load_n(x + i, n - i, 0.0f));
    }
    float total = v_sum(sum);
    if (sink) {
        float e[16];
        v_store(e, v_exp(v_sub(v_splat(*sink), m)));
        total += e[0];
    }
    vec_scale(x, 1.0f / total, n);
}

static void vec_softmax(float *x, int64_t n)
{
    softmax_with(x, n, NULL);
}

/* ---- rotary position --------------------------------------------------- */

static void vec_rope_neox(float *x, const float *cs, int64_t n_rot)
{
    const int64_t half = n_rot / 2;
    for (int64_t i = 0; i < half; i += 16) {
        const int64_t m = MIN(half - i, 16);
        const bool full = m == 16;
        vf a = full ? v_load(x + i) : v_load_n(x + i, m, 0.0f);
        vf b = full ? v_load(x + half + i) : v_load_n(x + half + i, m, 0.0f);
        vf c = full ? v_load(cs + i) : v_load_n(cs + i, m, 0.0f);
        vf s = full ? v_load(cs + half + i) : v_load_n(cs + half + i, m, 0.0f);
        vf ra = v_fnma(b, s, v_mul(a, c)); /* a cos - b sin */
        vf rb = v_fma(b, c, v_mul(a, s));  /* a sin + b cos */
        if (full) {
            v_store(x + i, ra);
            v_store(x + half + i, rb);
        } else {
            v_store_n(x + i, ra, m);
            v_store_n(x + half + i, rb, m);
        }
    }
}

/*
 * cos and sin of a float, in double: pi/2 is taken off in three parts of which
 * the first two have 25 bits, so the products are exact up to an angle of 4e8;
 * then Taylor series to r^15 and r^16 on [-pi/4, pi/4], 1e-15. The floats are
 * the correctly rounded ones but for about one in 10^7. Beyond 2^50, where
 * neighbouring floats are thousands of turns apart, and for NaN: NaN.
 */
static void cos_sin(float angle, float *c, float *s)
{
    const double a = (double)angle;
    if (!(a > -0x1p50 && a < 0x1p50)) {
        *c = *s = NAN;
        return;
    }
    const double magic = 0x1.8p52;
    const double k = (a * 0x1.45f306dc9c883p-1 + magic) - magic;
    const double r = ((a - k * 0x1.921fb5p0) - k * 0x1.110b46p-26) - k * 0x1.1a62633145c07p-54;
    const double z = r * r;
    const double sr = r + r * z * (-1.0 / 6 + z * (1.0 / 120 + z * (-1.0 / 5040 + z * (1.0 / 362880
                      + z * (-1.0 / 39916800 + z * (1.0 / 6227020800.0
                      - z * (1.0 / 1307674368000.0)))))));
    const double cr = 1.0 + z * (-0.5 + z * (1.0 / 24 + z * (-1.0 / 720 + z * (1.0 / 40320
                      + z * (-1.0 / 3628800 + z * (1.0 / 479001600.0
                      + z * (-1.0 / 87178291200.0 + z * (1.0 / 20922789888000.0))))))));
    switch ((int64_t)k & 3) {
    case 0: *c = (float)cr, *s = (float)sr; break;
    case 1: *c = (float)-sr, *s = (float)cr; break;
    case 2: *c = (float)-cr, *s = (float)-sr; break;
    default: *c = (float)sr, *s = (float)-cr; break;
    }
}

static void vec_rope_angles(float *cs, const float *freq, int64_t n_half, int64_t pos)
{
    for (int64_t i = 0; i < n_half; i++)
        cos_sin((float)pos * freq[i], &cs[i], &cs[n_half + i]);
}

/* ---- attention --------------------------------------------------------- */

/* Keys or values of a few positions as floats: 16 KiB, half of a first-level
 * cache, and the longest head. */
#define ATT_FLOATS 4096
#define ATT_ROWS 64

/* The heads and positions whose dot products are built at once. */
#define SCORE_HEADS (SIMD_ACC >= 16 ? 4 : 2)
/* The heads whose outputs are built at once. */
#define OUT_HEADS (SIMD_ACC >= 16 ? 8 : 4)

struct att_block {
    const float *rows; /* n rows of hd floats */
    ptrdiff_t stride;
    int64_t n;
    const char *ahead; /* the next row to prefetch, of those of the next block */
    int64_t n_ahead;
    size_t row_bytes, ahead_stride;
};

/* Positions [j, j + step) of n_pos: floats as they are, halves converted into
 * buf. */
static struct att_block att_load(const void *base, ptrdiff_t kv_stride, bool f16, int64_t j,
                                 int64_t step, int64_t n_pos, int64_t hd, float *buf)
{
    const size_t size = f16 ? sizeof(uint16_t) : sizeof(float);
    const char *first = (const char *)base + j * kv_stride * (ptrdiff_t)size;
    struct att_block b = {.n = MIN(step, n_pos - j), .row_bytes = (size_t)hd * size,
                          .ahead_stride = (size_t)kv_stride * size};
    b.n_ahead = MIN(step, n_pos - j - b.n);
    b.ahead = b.n_ahead > 0 ? first + b.n * (ptrdiff_t)b.ahead_stride : NULL;
    b.rows = f16 ? buf : (const float *)(const void *)first;
    b.stride = f16 ? hd : kv_stride;
    for (int64_t i = 0; f16 && i < b.n; i++)
        vec_f16_to_f32(buf + i * hd, (const uint16_t *)(const void *)first + i * kv_stride, hd);
    return b;
}

/* Asks for two rows of the next block. Called once a tile, so that the memory
 * works evenly through the arithmetic and not in bursts between blocks. To the
 * second-level cache: rows are a power of two apart and would push each other
 * out of the few sets of the first that they fall into. */
V_INLINE void att_ahead(struct att_block *b)
{
    for (int i = 0; i < 2 && b->n_ahead > 0; i++) {
        for (size_t c = 0; c < b->row_bytes; c += 64)
            __builtin_prefetch(b->ahead + c, 0, 2);
        b->n_ahead--;
        if (b->n_ahead > 0)
            b->ahead += b->ahead_stride;
    }
}

/* scores[h][p] = scale * q[h] . k[p], nh * np (constants) of them. */
V_INLINE void score_tile(const int nh, const int np, float *scores, ptrdiff_t score_stride,
                         const float *q, ptrdiff_t q_stride, const float *k, ptrdiff_t k_stride,
                         int64_t hd, float scale)
{
    vf acc[16];
    float sum[16];
    UNROLL for (int i = 0; i < 16; i++)
        acc[i] = v_zero();
    for (int64_t c = 0; c < hd; c += 16) {
        vf kv[4];
        UNROLL for (int p = 0; p < np; p++)
            kv[p] = v_load(k + p * k_stride + c);
        UNROLL for (int h = 0; h < nh; h++) {
            vf qv = v_load(q + h * q_stride + c);
            UNROLL for (int p = 0; p < np; p++)
                acc[h * np + p] = v_fma(qv, kv[p], acc[h * np + p]);
        }
    }
    UNROLL for (int i = 0; i < nh * np; i += 4)
        v_sum4(sum + i, acc[i], acc[i + 1], acc[i + 2], acc[i + 3]);
    UNROLL for (int h = 0; h < nh; h++)
        UNROLL for (int p = 0; p < np; p++)
            scores[h * score_stride + p] = scale * sum[h * np + p];
}

V_INLINE void score_heads(const int nh, float *scores, ptrdiff_t score_stride, const float *q,
                          ptrdiff_t q_stride, struct att_block *k, int64_t hd, float scale)
{
    const int np = SIMD_ACC / nh < 4 ? SIMD_ACC / nh : 4;
    int64_t p = 0;
    for (; p + np <= k->n; p += np) {
        att_ahead(k);
        score_tile(nh, np, scores + p, score_stride, q, q_stride, k->rows + p * k->stride,
                   k->stride, hd, scale);
    }
    for (; p < k->n; p++)
        score_tile(nh, 1, scores + p, score_stride, q, q_stride, k->rows + p * k->stride,
                   k->stride, hd, scale);
}

static void score_block(float *scores, ptrdiff_t score_stride, const float *q, ptrdiff_t q_stride,
                        struct att_block *k, int64_t n_q, int64_t hd, float scale)
{
    int64_t h = 0;
    for (; h + SCORE_HEADS <= n_q; h += SCORE_HEADS)
        score_heads(SCORE_HEADS, scores + h * score_stride, score_stride, q + h * q_stride,
                    q_stride, k, hd, scale);
    for (; h < n_q; h++)
        score_heads(1, scores + h * score_stride, score_stride, q + h * q_stride, q_stride, k, hd,
                    scale);
}

/* out[h][16 * nc] += p[h][j] * v[j][16 * nc] over the block, in order of j. */
V_INLINE void out_tile(const int nh, const int nc, float *out, ptrdiff_t out_stride,
                       const float *p, ptrdiff_t p_stride, const float *v, ptrdiff_t v_stride,
                       int64_t n)
{
    vf acc[16];
    UNROLL for (int h = 0; h < nh; h++)
        UNROLL for (int c = 0; c < nc; c++)
            acc[h * nc + c] = v_load(out + h * out_stride + 16 * c);
    for (int64_t j = 0; j < n; j++) {
        vf vv[8];
        UNROLL for (int c = 0; c < nc; c++)
            vv[c] = v_load(v + j * v_stride + 16 * c);
        UNROLL for (int h = 0; h < nh; h++) {
            vf pj = v_splat(p[h * p_stride + j]);
            UNROLL for (int c = 0; c < nc; c++)
                acc[h * nc + c] = v_fma(pj, vv[c], acc[h * nc + c]);
        }
    }
    UNROLL for (int h = 0; h < nh; h++)
        UNROLL for (int c = 0; c < nc; c++)
            v_store(out + h * out_stride + 16 * c, acc[h * nc + c]);
}

/* The probabilities are gathered first: rows of scores are often a power of
 * two apart and would push each other out of a first-level cache. */
V_INLINE void out_heads(const int nh, float *out, ptrdiff_t out_stride, const float *p,
                        ptrdiff_t p_stride, struct att_block *v, int64_t hd)
{
    const int nc = SIMD_ACC / nh < 8 ? SIMD_ACC / nh : 8;
    float pb[OUT_HEADS * ATT_ROWS];
    for (int h = 0; h < nh; h++)
        memcpy(pb + h * ATT_ROWS, p + h * p_stride, (size_t)v->n * sizeof(*p));
    int64_t d = 0;
    for (; d + 16 * nc <= hd; d += 16 * nc) {
        att_ahead(v);
        out_tile(nh, nc, out + d, out_stride, pb, ATT_ROWS, v->rows + d, v->stride, v->n);
    }
    for (; d < hd; d += 16)
        out_tile(nh, 1, out + d, out_stride, pb, ATT_ROWS, v->rows + d, v->stride, v->n);
}

static void out_block(float *out, ptrdiff_t out_stride, const float *p, ptrdiff_t p_stride,
                      struct att_block *v, int64_t n_q, int64_t hd)
{
    int64_t h = 0;
    for (; h + OUT_HEADS <= n_q; h += OUT_HEADS)
        out_heads(OUT_HEADS, out + h * out_stride, out_stride, p + h * p_stride, p_stride, v, hd);
    for (; h + OUT_HEADS / 2 <= n_q; h += OUT_HEADS / 2)
        out_heads(OUT_HEADS / 2, out + h * out_stride, out_stride, p + h * p_stride, p_stride, v,
                  hd);
    for (; h < n_q; h++)
        out_heads(1, out + h * out_stride, out_stride, p + h * p_stride, p_stride, v, hd);
}

/* The first position that token t sees. Its scores lie from there on, so that they
 * are summed in the same lanes whatever the other tokens see. */
V_INLINE int64_t att_from(const struct kern_attention *a, int64_t t)
{
    return a->from ? a->from[t] : 0;
}

/* What of a block of positions [j, j + n) token t sees; false: nothing. */
V_INLINE bool att_seen(const struct kern_attention *a, int64_t t, int64_t j,
                       const struct att_block *block, struct att_block *seen, int64_t *at)
{
    const int64_t from = att_from(a, t), skip = MAX(from - j, (int64_t)0);
    *seen = *block;
    seen->n = MIN(block->n, a->n_pos + t - j) - skip;
    seen->rows = block->rows + skip * block->stride;
    *at = t * a->n_q * a->score_stride + j + skip - from;
    return seen->n > 0;
}

/* What the tiles of one token asked for, the next need not. */
V_INLINE void att_asked(struct att_block *block, const struct att_block *seen)
{
    block->ahead = seen->ahead;
    block->n_ahead = seen->n_ahead;
}

static void att_scores(const struct kern_attention *a, int64_t step, float *buf)
{
    const int64_t n_pos = a->n_pos + a->n_tok - 1;
    struct att_block seen;
    int64_t at;
    for (int64_t j = att_from(a, 0); j < n_pos; j += step) {
        struct att_block b = att_load(a->k, a->k_stride, a->f16, j, step, n_pos, a->hd, buf);
        for (int64_t t = 0; t < a->n_tok; t++) {
            if (!att_seen(a, t, j, &b, &seen, &at))
                continue;
            score_block(a->scores + at, a->score_stride, a->q + t * a->q_token, a->q_stride, &seen,
                        a->n_q, a->hd, a->scale);
            att_asked(&b, &seen);
        }
    }
}

static void att_outputs(const struct kern_attention *a, int64_t step, float *buf)
{
    const int64_t n_pos = a->n_pos + a->n_tok - 1;
    struct att_block seen;
    int64_t at;
    for (int64_t j = att_from(a, 0); j < n_pos; j += step) {
        struct att_block b = att_load(a->v, a->v_stride, a->f16, j, step, n_pos, a->vd, buf);
        for (int64_t t = 0; t < a->n_tok; t++) {
            if (!att_seen(a, t, j, &b, &seen, &at))
                continue;
            out_block(a->out + t * a->out_token, a->out_stride, a->scores + at, a->score_stride,
                      &seen, a->n_q, a->vd);
            att_asked(&b, &seen);
        }
    }
}

static void vec_attention(const struct kern_attention *a)
{
    _Alignas(64) float buf[ATT_FLOATS];

    att_scores(a, MIN(ATT_FLOATS / a->hd, ATT_ROWS), buf);
    for (int64_t t = 0; t < a->n_tok; t++)
        for (int64_t h = 0; h < a->n_q; h++) {
            float *scores = a->scores + (t * a->n_q + h) * a->score_stride;
            const int64_t n = a->n_pos + t - att_from(a, t);
            if (a->cap > 0.0f)
                vec_softcap(scores, n, a->cap);
            softmax_with(scores, n, a->sinks ? a->sinks + h : NULL);
            memset(a->out + t * a->out_token + h * a->out_stride, 0,
                   (size_t)a->vd * sizeof(*a->out));
        }
    att_outputs(a, MIN(ATT_FLOATS / a->vd, ATT_ROWS), buf);
}

/* ---- gated delta rule and convolution ----------------------------------- */

#define DELTA_COLS (SIMD_ACC >= 16 ? 8 : 4)

/*
 * 16 * nc columns of the state, read twice and written once. S * decay is
 * computed again in the second pass: storing it in the first would be a third
 * more traffic, and traffic with the second-level cache is the limit (leaving
 * out one of the multiplications, or prefetching, was measured to gain
 * nothing). each: decay has an element for each row of the state, else one.
 */
V_INLINE void delta_columns(const int nc, const bool each, float *S, const float *q,
                            const float *k, const float *v, float *o, int64_t dk, int64_t dv,
                            const float *decay, float beta, float out_scale)
{
    const vf one = v_splat(decay[0]);
    vf d[8], acc[8];
    UNROLL for (int c = 0; c < nc; c++)
        acc[c] = v_zero();
    for (int64_t i = 0; i < dk; i++) {
        const vf ki = v_splat(k[i]), di = each ? v_splat(decay[i]) : one;
        UNROLL for (int c = 0; c < nc; c++)
            acc[c] = v_fma(v_mul(v_load(S + i * dv + 16 * c), di), ki, acc[c]);
    }
    UNROLL for (int c = 0; c < nc; c++) {
        d[c] = v_mul(v_splat(beta), v_sub(v_load(v + 16 * c), acc[c]));
        acc[c] = v_zero();
    }
    for (int64_t i = 0; i < dk; i++) {
        const vf ki = v_splat(k[i]), qi = v_splat(q[i]), di = each ? v_splat(decay[i]) : one;
        float *row = S + i * dv;
        UNROLL for (int c = 0; c < nc; c++) {
            vf s = v_fma(ki, d[c], v_mul(v_load(row + 16 * c), di));
            v_store(row + 16 * c, s);
            acc[c] = v_fma(s, qi, acc[c]);
        }
    }
    UNROLL for (int c = 0; c < nc; c++)
        v_store(o + 16 * c, v_mul(acc[c], v_splat(out_scale)));
}

static void vec_delta_step(float *S, const float *q, const float *k, const float *v, float *o,
                           int64_t dk, int64_t dv, float decay, float beta, float out_scale)
{
    int64_t j = 0;
    for (; j + 16 * DELTA_COLS <= dv; j += 16 * DELTA_COLS)
        delta_columns(DELTA_COLS, false, S + j, q, k, v + j, o + j, dk, dv, &decay, beta,
                      out_scale);
    for (; j < dv; j += 16)
        delta_columns(1, false, S + j, q, k, v + j, o + j, dk, dv, &decay, beta, out_scale);
}

static void vec_kda_step(float *S, const float *q, const float *k, const float *v, float *o,
                         int64_t dk, int64_t dv, const float *decay, float beta, float out_scale)
{
    int64_t j = 0;
    for (; j + 16 * DELTA_COLS <= dv; j += 16 * DELTA_COLS)
        delta_columns(DELTA_COLS, true, S + j, q, k, v + j, o + j, dk, dv, decay, beta, out_scale);
    for (; j < dv; j += 16)
        delta_columns(1, true, S + j, q, k, v + j, o + j, dk, dv, decay, beta, out_scale);
}

V_INLINE vf conv4(vf h0, vf h1, vf h2, vf u, const vf w[4])
{
    vf c = v_mul(w[0], h0);
    c = v_fma(w[1], h1, c);
    c = v_fma(w[2], h2, c);
    return v_silu(v_fma(w[3], u, c));
}

static void vec_conv4_silu(float *y, const float *h0, const float *h1, const float *h2,
                           const float *u, const float *w, int64_t n)
{
    vf wt[4];
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v_load4(wt, w + 4 * i);
        v_store(y + i, conv4(v_load(h0 + i), v_load(h1 + i), v_load(h2 + i), v_load(u + i), wt));
    }
    if (i < n) {
        const int64_t m = n - i;
        float tail[64] = {0};
        memcpy(tail, w + 4 * i, (size_t)(4 * m) * sizeof(*w));
        v_load4(wt, tail);
        v_store_n(y + i, conv4(v_load_n(h0 + i, m, 0.0f), v_load_n(h1 + i, m, 0.0f),
                               v_load_n(h2 + i, m, 0.0f), v_load_n(u + i, m, 0.0f), wt), m);
    }
}

/* What this file puts into a table. */
#define VEC_TABLE                                                                           \
    .rms_norm = vec_rms_norm, .l2_norm = vec_l2_norm, .add = vec_add, .axpy = vec_axpy,     \
    .scale = vec_scale, .sigmoid_mul = vec_sigmoid_mul,                                     \
    .gate = {[KERN_SILU] = vec_silu_gate, [KERN_GELU] = vec_gelu_gate,                      \
             [KERN_SWIGLU_OAI] = vec_oai_gate, [KERN_SILU_CUT] = vec_cut_gate,              \
             [KERN_RELU] = vec_relu_gate, [KERN_SIGMOID] = vec_sigmoid_gate,                \
             [KERN_SITU] = vec_situ_gate},                                                  \
    .sigmoid = vec_sigmoid, .softplus = vec_softplus, .exp = vec_exp,                       \
    .softcap = vec_softcap, .softmax = vec_softmax, .rope_neox = vec_rope_neox,             \
    .rope_angles = vec_rope_angles,                                                         \
    .f32_to_f16 = vec_f32_to_f16, .f16_to_f32 = vec_f16_to_f32, .attention =                \
    vec_attention, .delta_step = vec_delta_step, .kda_step = vec_kda_step,                  \
    .conv4_silu = vec_conv4_silu

#endif
