/*
 * check_vec: the vector operations of every table (src/kern/vec_tmpl.h).
 *
 * Two questions, asked separately: does every table that this processor can
 * run give the bits of the portable one, and is the portable one right (against
 * double precision, with the tolerance stated at each test). Buffers have the
 * exact length so that the address sanitizer sees a step too far.
 */
#include "vec_common.h"

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
            float *x = vector(n, kind), *want = unset(n);
            ref(want, x, n);
            for (int t = 0; t < n_tables; t++) {
                float *y = unset(n), *in_place = copy_of(x, n);
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
                float *y = unset(n), *yg = copy_of(g, n), *yu = copy_of(u, n);
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
    check_binary("sigmoid_mul", offsetof(struct kern, sigmoid_mul));
}

static void gates_agree(void **state)
{
    (void)state;
    for (int act = 0; act < KERN_ACTS; act++)
        for (int li = 0; length(li); li++)
            for (enum fill kind = 0; kind < FILL_COUNT; kind++) {
                const int64_t n = length(li);
                const float limit = li % 2 ? 0.75f : act == KERN_SWIGLU_OAI ? 7.0f : 0.0f;
                float *g = vector(n, kind), *u = vector(n, kind), *want = unset(n);
                portable->gate[act](want, g, u, n, limit);
                for (int t = 0; t < n_tables; t++) {
                    float *y = unset(n), *yg = need((size_t)n * sizeof(*yg));
                    tables[t]->gate[act](y, g, u, n, limit);
                    same_bits("gate", tables[t]->name, want, y, n);
                    memcpy(yg, g, (size_t)n * sizeof(*yg));
                    tables[t]->gate[act](yg, yg, u, n, limit);
                    same_bits("gate in place", tables[t]->name, want, yg, n);
                    free(yg);
                    free(y);
                }
                free(want);
                free(u);
                free(g);
            }
}

static double gate_ref(int act, double g, double u, double limit)
{
    const double pi = 3.14159265358979323846;
    if (act == KERN_GELU)
        return 0.5 * g * (1.0 + tanh(sqrt(2.0 / pi) * (g + 0.044715 * g * g * g))) * u;
    if (act == KERN_RELU)
        return fmax(g, 0.0) * u;
    if (act == KERN_SIGMOID)
        return u / (1.0 + exp(-g));
    if (act == KERN_SITU)
        return limit * tanh(g / limit) / (1.0 + exp(-g)) * u;
    if (act == KERN_SILU_CUT && limit > 0.0)
        return fmin(g / (1.0 + exp(-g)), limit) * fmax(-limit, fmin(u, limit));
    if (limit > 0.0) {
        g = fmin(g, limit);
        u = fmax(-limit, fmin(u, limit));
    }
    if (act == KERN_SWIGLU_OAI)
        return g / (1.0 + exp(-1.702 * g)) * (u + 1.0);
    return g / (1.0 + exp(-g)) * u;
}

static void gates_are_accurate(void **state)
{
    (void)state;
    static const float limits[] = {0.0f, 0.5f, 7.0f};
    for (int act = 0; act < KERN_ACTS; act++)
        for (size_t l = act == KERN_SWIGLU_OAI || act == KERN_SITU; l < ARRAY_LEN(limits); l++)
            for (int i = 0; i < 20000; i++) {
                float g = uniform(-12.0f, 12.0f), u = uniform(-9.0f, 9.0f), y;
                portable->gate[act](&y, &g, &u, 1, limits[l]);
                const double want = gate_ref(act, g, u, limits[l]);
                const double size = fabs(want) + 1e-3 * fabs((double)u + 1.0);
                assert_true(fabs((double)y - want) <= 2e-6 * size);
            }
}

static void softcap_is_accurate(void **state)
{
    (void)state;
    for (int i = 0; i < 20000; i++) {
        float x = uniform(-200.0f, 200.0f), y = x, cap = uniform(1.0f, 60.0f);
        portable->softcap(&y, 1, cap);
        const double want = (double)cap * tanh((double)x / (double)cap);
        assert_true(fabs((double)y - want) <= 1e-6 * fabs(want));
    }
    float far[3] = {INFINITY, -INFINITY, NAN};
    portable->softcap(far, 3, 30.0f);
    assert_true(far[0] == 30.0f && far[1] == -30.0f && isnan(far[2]));
}

enum { OP_ADD, OP_AXPY, OP_SCALE, OP_RMS, OP_RMS_PLAIN, OP_L2, OP_SOFTMAX, OP_SOFTCAP, OP_ROPE,
       OP_COUNT };
static const char *const op_names[] = {"add", "axpy", "scale", "rms_norm",
                                       "rms_norm without weight", "l2_norm", "softmax",
                                       "softcap", "rope_neox"};

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
    case OP_SOFTCAP: k->softcap(y, n, 2.5f); break;
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
    for (int64_t n = 1; n <= 70; n++) {
        float *x = vector(n, FILL_PLAIN), *w = vector(n, FILL_PLAIN);
        for (int t = 0; t < n_tables; t++) {
            float *y = unset(n), *z = copy_of(x, n);
            tables[t]->rms_norm(y, x, w, n, 1e-5f);
            tables[t]->rms_norm(z, z, w, n, 1e-5f);
            same_bits("rms_norm", tables[t]->name, y, z, n);
            memcpy(z, x, (size_t)n * sizeof(float));
            tables[t]->l2_norm(y, x, n, 1e-5f);
            tables[t]->l2_norm(z, z, n, 1e-5f);
            same_bits("l2_norm", tables[t]->name, y, z, n);
            free(z);
            free(y);
        }
        free(w);
        free(x);
    }
}

/* Whatever the length, the elements behind the end stay as they were. */
static void nothing_is_written_behind_the_end(void **state)
{
    (void)state;
    const uint64_t begin = rng_state;
    for (int64_t n = 0; n <= 40; n++)
        for (int t = 0; t < n_tables; t++) {
            const struct kern *k = tables[t];
            rng_state = begin + (uint64_t)n;
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
            for (int act = 0; act < KERN_ACTS; act++)
                k->gate[act](y, x, x, n, 1.0f);
            k->conv4_silu(y, x, x, x, x, w, n);
            k->f16_to_f32(y, h, n);
            k->f32_to_f16(h, x, n);
            same_bits("guard", k->name, before + n, y + n, 64 - n);
            assert_memory_equal(h + n, h_before + n, (size_t)(64 - n) * sizeof(*h));
        }
}

/* ---- the portable one against double ------------------------------------- */

/*
 * 2^20 floats spread over all of exp's range. The largest errors over every
 * float, measured once: exp 0.892 ulp, sigmoid 2.481, silu 2.394, softplus
 * 1.829.
 */
static void elementary_functions_are_accurate(void **state)
{
    (void)state;
    enum { STEP = 1024 };
    float x[STEP], y[STEP], g[STEP], s[STEP], p[STEP], ones[STEP];
    double worst[4] = {0};
    for (int i = 0; i < STEP; i++)
        ones[i] = 1.0f;
    for (int block = 0; block < 1024; block++) {
        for (int i = 0; i < STEP; i++) {
            x[i] = -87.33654f + (88.72283f + 87.33654f) * (float)(block * STEP + i) * 0x1p-20f;
            if (block % 4 == 3) /* small arguments, whose bits decide */
                x[i] = uniform(-1.0f, 1.0f) * ldexpf(1.0f, -(int)(rng() % 30));
        }
        portable->exp(y, x, STEP);
        portable->sigmoid(g, x, STEP);
        portable->gate[KERN_SILU](s, x, ones, STEP, 0.0f);
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
        float *x = vector(n, FILL_PLAIN), *w = vector(n, FILL_PLAIN), *y = unset(n);
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
        float *x = need((size_t)n * sizeof(*x));
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
            float *x = vector(n, kind), *f = unset(n), *g = unset(n);
            uint16_t *a = need((size_t)n * sizeof(*a)), *b = need((size_t)n * sizeof(*b));
            portable->f32_to_f16(a, x, n);
            portable->f16_to_f32(f, a, n);
            for (int t = 0; t < n_tables; t++) {
                tables[t]->f32_to_f16(b, x, n);
                assert_memory_equal(a, b, (size_t)n * sizeof(*a));
                compared("f32_to_f16", tables[t]->name);
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
            same_bits("rope_angles", tables[t]->name, want, cs, 128);
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

static void no_function_is_forgotten(void **state)
{
    (void)state;
    all_were_compared("check_vec");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unary_tables_agree),
        cmocka_unit_test(binary_tables_agree),
        cmocka_unit_test(gates_agree),
        cmocka_unit_test(gates_are_accurate),
        cmocka_unit_test(softcap_is_accurate),
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
        cmocka_unit_test(no_function_is_forgotten),
    };
    return find_tables() ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
