/*
 * check_vec: the vector operations of every table (src/kern/vec_tmpl.h).
 *
 * Two questions, asked separately: does every table that this processor can
 * run give the bits of the portable one, and is the portable one right (against
 * double precision, with the tolerance stated at each test). Buffers have the
 * exact length so that the address sanitizer sees a step too far.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kern/kern.h"

static const struct kern *tables[8];
static int n_tables;
static const struct kern *portable;

/* ---- numbers ------------------------------------------------------------ */

static uint64_t rng_state = 1;

static uint32_t rng(void)
{
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng_state >> 32);
}

static float uniform(float lo, float hi)
{
    return lo + (hi - lo) * ((float)(rng() >> 8) * 0x1p-24f);
}

enum fill { FILL_PLAIN, FILL_ZERO, FILL_DENORMAL, FILL_HUGE, FILL_MIXED, FILL_COUNT };

static float number(enum fill kind)
{
    static const float odd[] = {0.0f, -0.0f, FLT_MIN, -FLT_MIN, FLT_MAX, -FLT_MAX, 0x1p-149f,
                                -0x1p-149f, 1.0f, -1.0f, 20.0f, 88.72283f, -87.33654f, 65520.0f,
                                -104.0f, 89.0f, 0x1p-24f, 0x1p-25f, INFINITY, -INFINITY};
    switch (kind) {
    case FILL_PLAIN: return uniform(-3.0f, 3.0f) * (1.0f + 10.0f * (float)(rng() % 16 == 0));
    case FILL_ZERO: return rng() & 1 ? 0.0f : -0.0f;
    case FILL_DENORMAL: return uniform(-1.0f, 1.0f) * FLT_MIN;
    case FILL_HUGE: return uniform(-1.0f, 1.0f) * 1e30f;
    default: return rng() & 1 ? odd[rng() % ARRAY_LEN(odd)] : uniform(-100.0f, 100.0f);
    }
}

static void *need(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    assert_non_null(p);
    return p;
}

static float *vector(int64_t n, enum fill kind)
{
    float *x = need((size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++)
        x[i] = number(kind);
    return x;
}

static float *copy_of(const float *x, int64_t n)
{
    float *y = need((size_t)n * sizeof(float));
    memcpy(y, x, (size_t)n * sizeof(float));
    return y;
}

/* The same bits; which NaN a NaN is does not count. */
static void same_bits(const char *op, const char *table, const float *want, const float *got,
                      int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&want[i], &got[i], sizeof(float)) != 0 && !(isnan(want[i]) && isnan(got[i])))
            fail_msg("%s, table %s, n %lld, element %lld: expected %a, got %a", op, table,
                     (long long)n, (long long)i, (double)want[i], (double)got[i]);
}

/* |got - want| in units of the last place of a float at want. */
static double ulps(float got, double want)
{
    int e;
    if ((double)got == want)
        return 0;
    frexp(want, &e);
    return fabs((double)got - want) / ldexp(1.0, (e < -125 ? -125 : e) - 24);
}

/* 1..200, then a few long ones; 0 at the end. */
static int64_t length(int i)
{
    static const int64_t more[] = {255, 256, 1000, 4096, 4111, 0};
    return i < 200 ? i + 1 : more[i - 200];
}

/* ---- every table against the portable one -------------------------------- */

typedef void unary_fn(float *, const float *, int64_t);
typedef void binary_fn(float *, const float *, const float *, int64_t);

static void check_unary(const char *op, size_t offset)
{
    unary_fn *ref, *f;
    memcpy(&ref, (const char *)portable + offset, sizeof(ref));
    for (int li = 0; length(li); li++)
        for (enum fill kind = 0; kind < FILL_COUNT; kind++) {
            const int64_t n = length(li);
            float *x = vector(n, kind), *want = vector(n, FILL_ZERO);
            ref(want, x, n);
            for (int t = 0; t < n_tables; t++) {
                float *y = vector(n, FILL_ZERO), *in_place = copy_of(x, n);
                memcpy(&f, (const char *)tables[t] + offset, sizeof(f));
                f(y, x, n);
                same_bits(op, tables[t]->name, want, y, n);
                f(in_place, in_place, n);
                same_bits(op, tables[t]->name, want, in_place, n);
                free(in_place);
                free(y);
            }
            free(want);
            free(x);
        }
}

static void unary_tables_agree(void **state)
{
    (void)state;
    check_unary("silu", offsetof(struct kern, silu));
    check_unary("sigmoid", offsetof(struct kern, sigmoid));
    check_unary("softplus", offsetof(struct kern, softplus));
    check_unary("exp", offsetof(struct kern, exp));
}

static void check_binary(const char *op, size_t offset)
{
    binary_fn *ref, *f;
    memcpy(&ref, (const char *)portable + offset, sizeof(ref));
    for (int li = 0; length(li); li++)
        for (enum fill kind = 0; kind < FILL_COUNT; kind++) {
            const int64_t n = length(li);
            float *g = vector(n, kind), *u = vector(n, rng() % FILL_COUNT), *want = copy_of(g, n);
            ref(want, g, u, n);
            for (int t = 0; t < n_tables; t++) {
                float *y = vector(n, FILL_ZERO), *yg = copy_of(g, n), *yu = copy_of(u, n);
                memcpy(&f, (const char *)tables[t] + offset, sizeof(f));
                f(y, g, u, n);
                same_bits(op, tables[t]->name, want, y, n);
                f(yg, yg, u, n);
                same_bits(op, tables[t]->name, want, yg, n);
                f(yu, g, yu, n);
                same_bits(op, tables[t]->name, want, yu, n);
                free(yu);
                free(yg);
                free(y);
            }
            free(want);
            free(u);
            free(g);
        }
}

static void binary_tables_agree(void **state)
{
    (void)state;
    check_binary("silu_mul", offsetof(struct kern, silu_mul));
    check_binary("sigmoid_mul", offsetof(struct kern, sigmoid_mul));
}

enum { OP_ADD, OP_AXPY, OP_SCALE, OP_RMS, OP_RMS_PLAIN, OP_L2, OP_SOFTMAX, OP_ROPE, OP_COUNT };
static const char *const op_names[] = {"add", "axpy", "scale", "rms_norm",
                                       "rms_norm without weight", "l2_norm", "softmax",
                                       "rope_neox"};

/* One operation on y of n elements; x is the other operand (2 n long). */
static void apply(const struct kern *k, int op, float *y, const float *x, int64_t n)
{
    switch (op) {
    case OP_ADD: k->add(y, x, n); break;
    case OP_AXPY: k->axpy(y, 1.7f, x, n); break;
    case OP_SCALE: k->scale(y, -0.3f, n); break;
    case OP_RMS: k->rms_norm(y, y, x, n, 1e-6f); break;
    case OP_RMS_PLAIN: k->rms_norm(y, y, NULL, n, 1e-6f); break;
    case OP_L2: k->l2_norm(y, y, n, 1e-6f); break;
    case OP_SOFTMAX: k->softmax(y, n); break;
    default: k->rope_neox(y, x, n & ~(int64_t)1); break;
    }
}

static void in_place_tables_agree(void **state)
{
    (void)state;
    for (int op = 0; op < OP_COUNT; op++)
        for (int li = 0; length(li); li++)
            for (enum fill kind = 0; kind < FILL_COUNT; kind++) {
                const int64_t n = length(li);
                float *y = vector(n, kind), *x = vector(n, rng() % FILL_COUNT);
                float *want = copy_of(y, n);
                apply(portable, op, want, x, n);
                for (int t = 0; t < n_tables; t++) {
                    float *got = copy_of(y, n);
                    apply(tables[t], op, got, x, n);
                    same_bits(op_names[op], tables[t]->name, want, got, n);
                    free(got);
                }
                free(want);
                free(x);
                free(y);
            }
}

static void norms_out_of_place_equal_in_place(void **state)
{
    (void)state;
    for (int64_t n = 1; n <= 70; n++)
        for (int t = 0; t < n_tables; t++) {
            float *x = vector(n, FILL_PLAIN), *w = vector(n, FILL_PLAIN);
            float *y = vector(n, FILL_ZERO), *z = copy_of(x, n);
            tables[t]->rms_norm(y, x, w, n, 1e-5f);
            tables[t]->rms_norm(z, z, w, n, 1e-5f);
            same_bits("rms_norm", tables[t]->name, y, z, n);
            memcpy(z, x, (size_t)n * sizeof(float));
            tables[t]->l2_norm(y, x, n, 1e-5f);
            tables[t]->l2_norm(z, z, n, 1e-5f);
            same_bits("l2_norm", tables[t]->name, y, z, n);
            free(z);
            free(y);
            free(w);
            free(x);
        }
}

/* Whatever the length, the elements behind the end stay as they were. */
static void nothing_is_written_behind_the_end(void **state)
{
    (void)state;
    for (int64_t n = 0; n <= 40; n++)
        for (int t = 0; t < n_tables; t++) {
            const struct kern *k = tables[t];
            float y[64], x[64], before[64], w[256];
            uint16_t h[64], h_before[64];
            for (int i = 0; i < 64; i++) {
                y[i] = before[i] = x[i] = number(FILL_PLAIN);
                h[i] = h_before[i] = (uint16_t)rng();
            }
            for (int i = 0; i < 256; i++)
                w[i] = number(FILL_PLAIN);
            for (int op = 0; op < OP_COUNT; op++)
                apply(k, op, y, x, n);
            k->silu(y, x, n);
            k->silu_mul(y, x, x, n);
            k->conv4_silu(y, x, x, x, x, w, n);
            k->f16_to_f32(y, h, n);
            k->f32_to_f16(h, x, n);
            same_bits("guard", k->name, before + n, y + n, 64 - n);
            assert_memory_equal(h + n, h_before + n, (size_t)(64 - n) * sizeof(*h));
        }
}

/* ---- the portable one against double ------------------------------------- */

static double sigmoid_ref(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

/*
 * 2^20 floats spread over all of exp's range. The largest errors over every
 * float, measured once: exp 0.892 ulp, sigmoid 2.481, silu 2.394, softplus
 * 1.829.
 */
static void elementary_functions_are_accurate(void **state)
{
    (void)state;
    enum { STEP = 1024 };
    float x[STEP], y[STEP], g[STEP], s[STEP], p[STEP];
    double worst[4] = {0};
    for (int block = 0; block < 1024; block++) {
        for (int i = 0; i < STEP; i++) {
            x[i] = -87.33654f + (88.72283f + 87.33654f) * (float)(block * STEP + i) * 0x1p-20f;
            if (block % 4 == 3) /* small arguments, whose bits decide */
                x[i] = uniform(-1.0f, 1.0f) * ldexpf(1.0f, -(int)(rng() % 30));
        }
        portable->exp(y, x, STEP);
        portable->sigmoid(g, x, STEP);
        portable->silu(s, x, STEP);
        portable->softplus(p, x, STEP);
        for (int i = 0; i < STEP; i++) {
            const double d = x[i];
            worst[0] = fmax(worst[0], ulps(y[i], exp(d)));
            worst[1] = fmax(worst[1], ulps(g[i], sigmoid_ref(d)));
            worst[2] = fmax(worst[2], ulps(s[i], d * sigmoid_ref(d)));
            worst[3] = fmax(worst[3], ulps(p[i], d > 20 ? d : log1p(exp(d))));
        }
    }
    if (worst[0] > 0.9 || worst[1] > 2.5 || worst[2] > 2.5 || worst[3] > 1.9)
        fail_msg("ulp: exp %.3f, sigmoid %.3f, silu %.3f, softplus %.3f", worst[0], worst[1],
                 worst[2], worst[3]);
}

static void elementary_functions_at_the_limits(void **state)
{
    (void)state;
    const float x[16] = {0.0f, -0.0f, 88.72283f, 88.72284f, -87.33654f, -87.33655f, INFINITY,
                         -INFINITY, 1e30f, -1e30f, 0x1p-149f, NAN, 100.0f, -104.0f, 20.0f, 20.5f};
    float y[16], s[16], p[16];
    for (int t = 0; t < n_tables; t++) {
        tables[t]->exp(y, x, 16);
        tables[t]->sigmoid(s, x, 16);
        tables[t]->softplus(p, x, 16);
        assert_true(y[0] == 1.0f && y[1] == 1.0f && y[10] == 1.0f);
        assert_true(y[2] > 3.4e38f && y[2] <= FLT_MAX && isinf(y[3]) && isinf(y[6]));
        assert_true(y[4] >= FLT_MIN && y[5] == 0.0f && y[7] == 0.0f && y[9] == 0.0f);
        assert_true(isinf(y[8]) && isinf(y[12]) && y[13] == 0.0f && isnan(y[11]));
        assert_true(s[0] == 0.5f && s[6] == 1.0f && s[7] == 0.0f && s[8] == 1.0f && s[9] == 0.0f);
        assert_true(isnan(s[11]) && isnan(p[11]));
        assert_true(p[6] == INFINITY && p[7] == 0.0f && p[8] == 1e30f && p[9] == 0.0f);
        assert_true(fabs((double)p[14] - 20.0000000021) < 2e-6 && p[15] == 20.5f);
    }
}

static void norms_match_double(void **state)
{
    (void)state;
    for (int li = 0; length(li); li++) {
        const int64_t n = length(li);
        float *x = vector(n, FILL_PLAIN), *w = vector(n, FILL_PLAIN), *y = vector(n, FILL_ZERO);
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += (double)x[i] * (double)x[i];
        portable->rms_norm(y, x, w, n, 1e-6f);
        for (int64_t i = 0; i < n; i++) {
            double want = (double)x[i] * (double)w[i] / sqrt(sum / (double)n + 1e-6);
            assert_true(fabs((double)y[i] - want) <= 2e-6 * fabs(want));
        }
        portable->l2_norm(y, x, n, 1e-6f);
        for (int64_t i = 0; i < n; i++) {
            double want = (double)x[i] / sqrt(sum);
            assert_true(fabs((double)y[i] - want) <= 2e-6 * fabs(want));
        }
        memset(x, 0, (size_t)n * sizeof(*x)); /* the length 0 is replaced by eps */
        x[n / 2] = 1e-9f;
        portable->l2_norm(y, x, n, 1e-6f);
        assert_true(fabs((double)y[n / 2] - 1e-3) < 1e-9);
        free(y);
        free(w);
        free(x);
    }
}

static void softmax_matches_double(void **state)
{
    (void)state;
    for (int li = 0; length(li); li++) {
        const int64_t n = length(li);
        const float width = (float)(li % 4) * 10.0f;
        float *x = vector(n, FILL_ZERO);
        double *want = need((size_t)n * sizeof(double)), sum = 0, top = -INFINITY;
        for (int64_t i = 0; i < n; i++) {
            x[i] = 500.0f + uniform(-width, width);
            top = fmax(top, (double)x[i]);
        }
        for (int64_t i = 0; i < n; i++)
            sum += want[i] = exp((double)x[i] - top);
        portable->softmax(x, n);
        for (int64_t i = 0; i < n; i++) /* differences of floats near 500 are exact */
            assert_true(fabs((double)x[i] - want[i] / sum) <= 2e-6 * want[i] / sum);
        free(want);
        free(x);
    }
}

static void softmax_ignores_minus_infinity_and_keeps_nan(void **state)
{
    (void)state;
    for (int t = 0; t < n_tables; t++) {
        float x[20], y[20];
        for (int i = 0; i < 20; i++)
            x[i] = i % 2 ? -INFINITY : 1.0f;
        memcpy(y, x, sizeof(y));
        y[17] = NAN;
        tables[t]->softmax(x, 20);
        tables[t]->softmax(y, 20);
        for (int i = 0; i < 20; i++) {
            assert_true(i % 2 ? x[i] == 0.0f : fabsf(x[i] - 0.1f) < 1e-7f);
            assert_true(isnan(y[i])); /* one NaN is not hidden by a finite sum */
        }
    }
}

/* ---- half floats ---------------------------------------------------------- */

static double half_value(unsigned h)
{
    const int e = (h >> 10) & 31, m = h & 1023;
    const double v = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}

static void every_half_converts_exactly(void **state)
{
    (void)state;
    uint16_t h[65536], back[65536];
    static float f[65536];
    for (unsigned i = 0; i < 65536; i++)
        h[i] = (uint16_t)i;
    for (int t = 0; t < n_tables; t++) {
        tables[t]->f16_to_f32(f, h, 65536);
        tables[t]->f32_to_f16(back, f, 65536);
        for (unsigned i = 0; i < 65536; i++) {
            if ((i & 0x7fff) > 0x7c00) { /* signalling ones become quiet */
                assert_true(isnan(f[i]));
                assert_int_equal(back[i], i | 0x200);
                continue;
            }
            if ((i & 0x7fff) == 0x7c00)
                assert_true(isinf(f[i]));
            else
                assert_true((double)f[i] == half_value(i));
            assert_int_equal(back[i], i);
        }
    }
}

/* Around every half and around the middle between two: nearest, ties to even. */
static void floats_round_to_the_nearest_half(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 0x7c00; i++) {
        const float lo = (float)half_value(i);
        const float mid = (float)((half_value(i) + half_value(i + 1)) / 2);
        const float x[6] = {lo, nextafterf(lo, INFINITY), nextafterf(mid, 0.0f), mid,
                            nextafterf(mid, INFINITY), -mid};
        const unsigned even = i + (i & 1);
        const unsigned want[6] = {i, i, i, even, i + 1, 0x8000 | even};
        uint16_t h[6];
        for (int t = 0; t < n_tables; t++) {
            tables[t]->f32_to_f16(h, x, 6);
            for (int j = 0; j < 6; j++)
                assert_int_equal(h[j], want[j]);
        }
    }
}

static void half_tables_agree(void **state)
{
    (void)state;
    for (int li = 0; length(li); li++)
        for (enum fill kind = 0; kind < FILL_COUNT; kind++) {
            const int64_t n = length(li);
            float *x = vector(n, kind), *f = vector(n, FILL_ZERO), *g = vector(n, FILL_ZERO);
            uint16_t *a = need((size_t)n * sizeof(*a)), *b = need((size_t)n * sizeof(*b));
            portable->f32_to_f16(a, x, n);
            portable->f16_to_f32(f, a, n);
            for (int t = 0; t < n_tables; t++) {
                tables[t]->f32_to_f16(b, x, n);
                assert_memory_equal(a, b, (size_t)n * sizeof(*a));
                tables[t]->f16_to_f32(g, a, n);
                same_bits("f16_to_f32", tables[t]->name, f, g, n);
            }
            free(b);
            free(a);
            free(g);
            free(f);
            free(x);
        }
}

/* ---- rotation -------------------------------------------------------------- */

static void rope_angles_match_double(void **state)
{
    (void)state;
    float freq[64], cs[128], want[128];
    for (int i = 0; i < 64; i++)
        freq[i] = (float)pow(1e7, -i / 64.0);
    for (int64_t pos = 0; pos < 2000000; pos += 1 + pos / 50) {
        portable->rope_angles(want, freq, 64, pos);
        for (int i = 0; i < 64; i++) {
            const double angle = (double)((float)pos * freq[i]);
            assert_true(ulps(want[i], cos(angle)) <= 0.501);
            assert_true(ulps(want[64 + i], sin(angle)) <= 0.501);
        }
        for (int t = 0; t < n_tables; t++) {
            tables[t]->rope_angles(cs, freq, 64, pos);
            assert_memory_equal(cs, want, sizeof(cs));
        }
    }
    portable->rope_angles(cs, freq, 64, 0);
    for (int i = 0; i < 64; i++)
        assert_true(cs[i] == 1.0f && cs[64 + i] == 0.0f);
    freq[0] = INFINITY; /* nonsense stays visible */
    portable->rope_angles(cs, freq, 1, 3);
    assert_true(isnan(cs[0]) && isnan(cs[1]));
}

static void rope_turns_pairs(void **state)
{
    (void)state;
    for (int64_t n = 2; n <= 128; n += 2) {
        float *x = vector(n + 3, FILL_PLAIN), *y = copy_of(x, n + 3), *cs = vector(n, FILL_PLAIN);
        const int64_t half = n / 2;
        portable->rope_neox(y, cs, n);
        for (int64_t i = 0; i < half; i++) {
            const double a = x[i], b = x[half + i], c = cs[i], s = cs[half + i];
            const double size = fabs(a * c) + fabs(b * s) + fabs(a * s) + fabs(b * c);
            assert_true(fabs((double)y[i] - (a * c - b * s)) <= 2e-7 * size);
            assert_true(fabs((double)y[half + i] - (a * s + b * c)) <= 2e-7 * size);
        }
        assert_memory_equal(y + n, x + n, 3 * sizeof(float)); /* the rest passes through */
        free(cs);
        free(y);
        free(x);
    }
}

/* ---- convolution ------------------------------------------------------------ */

static void conv4_tables_agree_and_match_double(void **state)
{
    (void)state;
    for (int li = 0; length(li); li++)
        for (enum fill kind = 0; kind < FILL_COUNT; kind++) {
            const int64_t n = length(li);
            float *r[4], *w = vector(4 * n, FILL_PLAIN), *want = vector(n, FILL_ZERO);
            for (int i = 0; i < 4; i++)
                r[i] = vector(n, kind);
            portable->conv4_silu(want, r[0], r[1], r[2], r[3], w, n);
            for (int64_t c = 0; kind == FILL_PLAIN && c < n; c++) {
                double sum = 0, size = 1e-6;
                for (int i = 0; i < 4; i++) {
                    sum += (double)w[4 * c + i] * (double)r[i][c];
                    size += fabs((double)w[4 * c + i] * (double)r[i][c]);
                }
                /* the slope of silu is at most 1.1 */
                assert_true(fabs((double)want[c] - sum * sigmoid_ref(sum)) <= 6e-7 * size);
            }
            for (int t = 0; t < n_tables; t++) {
                float *y = vector(n, FILL_ZERO), *u = copy_of(r[3], n);
                tables[t]->conv4_silu(y, r[0], r[1], r[2], r[3], w, n);
                same_bits("conv4_silu", tables[t]->name, want, y, n);
                tables[t]->conv4_silu(u, r[0], r[1], r[2], u, w, n);
                same_bits("conv4_silu in place", tables[t]->name, want, u, n);
                free(u);
                free(y);
            }
            for (int i = 0; i < 4; i++)
                free(r[i]);
            free(want);
            free(w);
        }
}

/* ---- gated delta rule --------------------------------------------------------- */

/* Values computed independently in double: 3 tokens, 4 value heads over 2 key
 * heads of 4; key head = value head % 2. Integers make the inputs. */
static double pattern(int i, int a, int b)
{
    return ((i * a + b) % 101 - 50) / 50.0;
}

static void delta_step_matches_worked_example(void **state)
{
    (void)state;
    static const double want_o[3][4][4] = {
        {{0.0043059, 0.0016491, -0.0010078, -0.0036646},
         {-0.0913053, -0.0085599, 0.0741856, -0.1312514},
         {0.0035362, -0.0024961, -0.0085285, 0.0064484},
         {-0.0046352, 0.0625751, -0.1042918, -0.0370815}},
        {{-0.0396589, -0.0767711, 0.0541239, 0.0170117},
         {0.0315225, -0.1086851, -0.0070552, -0.0175403},
         {-0.0693415, 0.0470415, 0.0211777, -0.0568556},
         {-0.2296616, -0.0571566, 0.0509998, 0.2235048}},
        {{-0.0521944, -0.1766151, 0.1568186, -0.0640887},
         {0.0490838, -0.0953679, -0.1899287, 0.0947339},
         {-0.1076561, 0.0964888, -0.068587, -0.0647046},
         {-0.0979842, -0.1764352, 0.0949833, 0.0165323}}};
    /* [value dim][key dim] */
    static const double want_s0[4][4] = {
        {0.033047, -0.089106, 0.0215231, 0.2496225}, {-0.1472439, 0.2434326, -0.1103876, 0.2632296},
        {0.0968334, 0.0165026, 0.089255, -0.3624182},
        {-0.0459881, -0.2754486, -0.0676353, 0.2257194}};
    static const double want_s3[4][4] = {
        {0.0630694, -0.2015212, 0.0448531, -0.2197375},
        {0.0459222, -0.3815905, 0.0814953, -0.3460175},
        {-0.0022796, 0.2312389, -0.0204603, 0.2130583},
        {-0.0194268, 0.0511696, 0.0161819, 0.0867783}};
    for (int tab = 0; tab < n_tables; tab++) {
        const struct kern *kn = tables[tab];
        float S[4][4][16] = {{{0}}}; /* four value columns, padded with zeros to a vector */
        for (int t = 0; t < 3; t++)
            for (int h = 0; h < 4; h++) {
                float q[4], k[4], v[16] = {0}, o[16], x[2], y[2];
                for (int d = 0; d < 4; d++) {
                    q[d] = (float)pattern((t * 2 + h % 2) * 4 + d, 37, 11);
                    k[d] = (float)pattern((t * 2 + h % 2) * 4 + d, 53, 7);
                    v[d] = (float)pattern((t * 4 + h) * 4 + d, 29, 3);
                }
                kn->l2_norm(q, q, 4, 1e-6f);
                kn->l2_norm(k, k, 4, 1e-6f);
                x[0] = (float)-fabs(pattern(t * 4 + h, 17, 5));
                x[1] = (float)pattern(t * 4 + h, 41, 9);
                kn->exp(y, x, 1);
                kn->sigmoid(y + 1, x + 1, 1);
                kn->delta_step(&S[h][0][0], q, k, v, o, 4, 16, y[0], y[1], 0.5f);
                for (int d = 0; d < 16; d++)
                    assert_true(fabs((double)o[d] - (d < 4 ? want_o[t][h][d] : 0.0)) < 3e-7);
            }
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) {
                assert_true(fabs((double)S[0][i][j] - want_s0[j][i]) < 3e-7);
                assert_true(fabs((double)S[3][i][j] - want_s3[j][i]) < 3e-7);
            }
    }
}

static void delta_step_matches_double(void **state)
{
    (void)state;
    enum { DK = 128, DV = 128 };
    float *S = vector(DK * DV, FILL_PLAIN), o[DV];
    double *R = need(DK * DV * sizeof(double));
    for (int i = 0; i < DK * DV; i++)
        R[i] = S[i] = S[i] * 0.1f;
    for (int step = 0; step < 50; step++) {
        float *q = vector(DK, FILL_PLAIN), *k = vector(DK, FILL_PLAIN), *v = vector(DV, FILL_PLAIN);
        const float decay = uniform(0.5f, 1.0f), beta = uniform(0.0f, 1.0f);
        portable->l2_norm(q, q, DK, 1e-6f);
        portable->l2_norm(k, k, DK, 1e-6f);
        portable->delta_step(S, q, k, v, o, DK, DV, decay, beta, 0.0883883461f);
        for (int j = 0; j < DV; j++) {
            double t = 0, out = 0;
            for (int i = 0; i < DK; i++)
                t += (R[i * DV + j] *= (double)decay) * (double)k[i];
            for (int i = 0; i < DK; i++) {
                R[i * DV + j] += (double)k[i] * (double)beta * ((double)v[j] - t);
                out += R[i * DV + j] * (double)q[i];
            }
            assert_true(fabs((double)o[j] - out * 0.0883883461) < 1e-6);
        }
        free(v);
        free(k);
        free(q);
    }
    for (int i = 0; i < DK * DV; i++)
        assert_true(fabs((double)S[i] - R[i]) < 4e-6);
    free(R);
    free(S);
}

static void delta_step_tables_agree(void **state)
{
    (void)state;
    static const int shapes[][2] = {{1, 16}, {4, 16}, {7, 48}, {33, 80}, {64, 64}, {128, 128},
                                    {128, 144}, {100, 272}, {256, 256}};
    for (size_t s = 0; s < ARRAY_LEN(shapes); s++)
        for (enum fill kind = 0; kind < FILL_COUNT; kind++) {
            const int64_t dk = shapes[s][0], dv = shapes[s][1];
            float *S = vector(dk * dv, kind), *q = vector(dk, FILL_PLAIN), *k = vector(dk, FILL_PLAIN);
            float *v = vector(dv, kind), *o = vector(dv, FILL_ZERO), *S1 = copy_of(S, dk * dv);
            portable->delta_step(S1, q, k, v, o, dk, dv, 0.9f, 0.6f, 0.1f);
            for (int t = 0; t < n_tables; t++) {
                float *S2 = copy_of(S, dk * dv), *o2 = vector(dv, FILL_ZERO);
                tables[t]->delta_step(S2, q, k, v, o2, dk, dv, 0.9f, 0.6f, 0.1f);
                same_bits("delta_step state", tables[t]->name, S1, S2, dk * dv);
                same_bits("delta_step output", tables[t]->name, o, o2, dv);
                free(o2);
                free(S2);
            }
            free(S1);
            free(o);
            free(v);
            free(k);
            free(q);
            free(S);
        }
}

/* ---- attention ----------------------------------------------------------------- */

struct att_case {
    int64_t n_q, n_pos, hd, kv_stride;
    bool f16;
    float scale;
    float *q, *k, *v;     /* k, v as floats, exactly what the halves stand for */
    uint16_t *k16, *v16;
};

static void att_open(struct att_case *a, int64_t n_q, int64_t n_pos, int64_t hd, bool f16)
{
    *a = (struct att_case){.n_q = n_q, .n_pos = n_pos, .hd = hd, .kv_stride = hd + (n_pos % 3) * 8,
                           .f16 = f16, .scale = 1.0f / sqrtf((float)hd)};
    const int64_t n = (n_pos - 1) * a->kv_stride + hd;
    a->q = vector(n_q * (hd + 5), FILL_PLAIN);
    a->k = vector(n, FILL_PLAIN);
    a->v = vector(n, FILL_PLAIN);
    a->k16 = need((size_t)n * 2);
    a->v16 = need((size_t)n * 2);
    if (f16) {
        portable->f32_to_f16(a->k16, a->k, n);
        portable->f32_to_f16(a->v16, a->v, n);
        portable->f16_to_f32(a->k, a->k16, n);
        portable->f16_to_f32(a->v, a->v16, n);
    }
}

static void att_close(struct att_case *a)
{
    free(a->q);
    free(a->k);
    free(a->v);
    free(a->k16);
    free(a->v16);
}

/* Heads [h, h + n_q) into fresh memory (n_q, hd). */
static float *att_run(const struct kern *kn, const struct att_case *a, int64_t h, int64_t n_q)
{
    const void *k = a->f16 ? (const void *)a->k16 : a->k, *v = a->f16 ? (const void *)a->v16 : a->v;
    float *out = vector(n_q * a->hd, FILL_PLAIN), *scores = vector(n_q * (a->n_pos + 3), FILL_PLAIN);
    kn->attention(out, a->hd, a->q + h * (a->hd + 5), a->hd + 5, k, v, a->kv_stride, a->f16, n_q,
                  a->n_pos, a->hd, a->scale, scores, a->n_pos + 3);
    free(scores);
    return out;
}

static void att_check_double(const struct att_case *a, const float *out)
{
    double *p = need((size_t)a->n_pos * sizeof(double));
    for (int64_t h = 0; h < a->n_q; h++) {
        const float *q = a->q + h * (a->hd + 5);
        double top = -INFINITY, sum = 0;
        for (int64_t j = 0; j < a->n_pos; j++) {
            p[j] = 0;
            for (int64_t d = 0; d < a->hd; d++)
                p[j] += (double)q[d] * (double)a->k[j * a->kv_stride + d];
            p[j] *= (double)a->scale;
            top = fmax(top, p[j]);
        }
        for (int64_t j = 0; j < a->n_pos; j++)
            sum += p[j] = exp(p[j] - top);
        for (int64_t d = 0; d < a->hd; d++) {
            double want = 0, size = 0;
            for (int64_t j = 0; j < a->n_pos; j++) {
                want += p[j] / sum * (double)a->v[j * a->kv_stride + d];
                size += p[j] / sum * fabs((double)a->v[j * a->kv_stride + d]);
            }
            assert_true(fabs((double)out[h * a->hd + d] - want) <= 2e-5 * size);
        }
    }
    free(p);
}

static void attention_case(int64_t n_q, int64_t n_pos, int64_t hd, bool f16)
{
    struct att_case a;
    att_open(&a, n_q, n_pos, hd, f16);
    float *want = att_run(portable, &a, 0, n_q);
    att_check_double(&a, want);
    for (int t = 0; t < n_tables; t++) {
        float *out = att_run(tables[t], &a, 0, n_q);
        same_bits("attention", tables[t]->name, want, out, n_q * hd);
        free(out);
        for (int64_t h = 0; h < n_q; h++) { /* a head does not see its neighbours */
            out = att_run(tables[t], &a, h, 1);
            same_bits("attention, one head", tables[t]->name, want + h * hd, out, hd);
            free(out);
        }
    }
    free(want);
    att_close(&a);
}

static void attention_of_every_group_size(void **state)
{
    (void)state;
    static const int64_t n_pos[] = {1, 2, 3, 5, 16, 17, 63, 64, 65, 130};
    for (int64_t n_q = 1; n_q <= 8; n_q++)
        for (size_t i = 0; i < ARRAY_LEN(n_pos); i++) {
            attention_case(n_q, n_pos[i], 64, i % 2);
            attention_case(n_q, n_pos[i], 16 * (1 + (int64_t)(rng() % 8)), (i + 1) % 2);
        }
}

static void attention_of_long_and_wide(void **state)
{
    (void)state;
    attention_case(3, 1000, 128, true);
    attention_case(8, 999, 64, false);
    attention_case(16, 301, 256, true);
    attention_case(13, 77, 80, false);
    attention_case(2, 37, 512, true);
    attention_case(1, 5, 4096, true);
    for (int64_t n_pos = 20; n_pos < 1000; n_pos += 97)
        attention_case(4, n_pos, 32, n_pos % 2);
}

static void attention_of_nothing_is_zero(void **state)
{
    (void)state;
    for (int t = 0; t < n_tables; t++) {
        float q[32] = {1}, out[32], kv[1] = {0}, scores[2];
        for (int i = 0; i < 32; i++)
            out[i] = 1.0f;
        tables[t]->attention(out, 16, q, 16, kv, kv, 16, false, 2, 0, 16, 1.0f, scores, 1);
        for (int i = 0; i < 32; i++)
            assert_true(out[i] == 0.0f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unary_tables_agree),
        cmocka_unit_test(binary_tables_agree),
        cmocka_unit_test(in_place_tables_agree),
        cmocka_unit_test(norms_out_of_place_equal_in_place),
        cmocka_unit_test(nothing_is_written_behind_the_end),
        cmocka_unit_test(elementary_functions_are_accurate),
        cmocka_unit_test(elementary_functions_at_the_limits),
        cmocka_unit_test(norms_match_double),
        cmocka_unit_test(softmax_matches_double),
        cmocka_unit_test(softmax_ignores_minus_infinity_and_keeps_nan),
        cmocka_unit_test(every_half_converts_exactly),
        cmocka_unit_test(floats_round_to_the_nearest_half),
        cmocka_unit_test(half_tables_agree),
        cmocka_unit_test(rope_angles_match_double),
        cmocka_unit_test(rope_turns_pairs),
        cmocka_unit_test(conv4_tables_agree_and_match_double),
        cmocka_unit_test(delta_step_matches_worked_example),
        cmocka_unit_test(delta_step_matches_double),
        cmocka_unit_test(delta_step_tables_agree),
        cmocka_unit_test(attention_of_every_group_size),
        cmocka_unit_test(attention_of_long_and_wide),
        cmocka_unit_test(attention_of_nothing_is_zero),
    };
    n_tables = kern_available(tables);
    if (n_tables < 1)
        return 1;
    portable = tables[0];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
