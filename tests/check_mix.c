/*
 * check_mix: the operations that mix positions (convolution, gated delta rule,
 * attention) of every table, as check_vec.c does for the others.
 */
#include "vec_common.h"

/* ---- convolution ------------------------------------------------------------ */

static void conv4_tables_agree_and_match_double(void **state)
{
    (void)state;
    for (int li = 0; length(li); li++)
        for (enum fill kind = 0; kind < FILL_COUNT; kind++) {
            const int64_t n = length(li);
            float *r[4], *w = vector(4 * n, FILL_PLAIN), *want = unset(n);
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
                float *y = unset(n), *u = copy_of(r[3], n);
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
            assert_true(fabs((double)o[j] - out * 0.0883883461) < 4e-6);
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

/* With a decay of its own for each row, against double; with equal ones it is the other step. */
static void kda_step_matches_double(void **state)
{
    (void)state;
    enum { DK = 96, DV = 80 };
    float *S = vector(DK * DV, FILL_PLAIN), *T = need(DK * DV * sizeof(*T));
    double *R = need(DK * DV * sizeof(double));
    float o[DV], p[DV], decay[DK], same[DK];
    for (int i = 0; i < DK * DV; i++)
        R[i] = T[i] = S[i] = S[i] * 0.1f;
    for (int i = 0; i < DK; i++) {
        decay[i] = uniform(0.3f, 1.0f);
        same[i] = 0.75f;
    }
    float *q = vector(DK, FILL_PLAIN), *k = vector(DK, FILL_PLAIN), *v = vector(DV, FILL_PLAIN);
    portable->l2_norm(q, q, DK, 1e-6f);
    portable->l2_norm(k, k, DK, 1e-6f);
    for (int step = 0; step < 10; step++) {
        portable->kda_step(S, q, k, v, o, DK, DV, decay, 0.7f, 0.25f);
        for (int j = 0; j < DV; j++) {
            double t = 0, out = 0;
            for (int i = 0; i < DK; i++)
                t += (R[i * DV + j] *= (double)decay[i]) * (double)k[i];
            for (int i = 0; i < DK; i++) {
                R[i * DV + j] += (double)k[i] * (double)0.7f * ((double)v[j] - t);
                out += R[i * DV + j] * (double)q[i];
            }
            assert_true(fabs((double)o[j] - out * 0.25) < 4e-6);
        }
    }
    memcpy(S, T, DK * DV * sizeof(*S));
    portable->kda_step(S, q, k, v, o, DK, DV, same, 0.7f, 0.25f);
    portable->delta_step(T, q, k, v, p, DK, DV, 0.75f, 0.7f, 0.25f);
    same_bits("kda_step state", "portable", S, T, DK * DV);
    same_bits("kda_step output", "portable", o, p, DV);
    free(v);
    free(k);
    free(q);
    free(R);
    free(T);
    free(S);
}

static void kda_step_tables_agree(void **state)
{
    (void)state;
    static const int shapes[][2] = {{1, 16}, {7, 48}, {33, 80}, {64, 64}, {128, 128}, {100, 272}};
    for (size_t s = 0; s < ARRAY_LEN(shapes); s++)
        for (enum fill kind = 0; kind < FILL_COUNT; kind++) {
            const int64_t dk = shapes[s][0], dv = shapes[s][1];
            float *S = vector(dk * dv, kind), *q = vector(dk, FILL_PLAIN),
                  *k = vector(dk, FILL_PLAIN), *decay = vector(dk, FILL_PLAIN);
            float *v = vector(dv, kind), *o = unset(dv), *S1 = copy_of(S, dk * dv);
            portable->kda_step(S1, q, k, v, o, dk, dv, decay, 0.6f, 0.1f);
            for (int t = 0; t < n_tables; t++) {
                float *S2 = copy_of(S, dk * dv), *o2 = unset(dv);
                tables[t]->kda_step(S2, q, k, v, o2, dk, dv, decay, 0.6f, 0.1f);
                same_bits("kda_step state", tables[t]->name, S1, S2, dk * dv);
                same_bits("kda_step output", tables[t]->name, o, o2, dv);
                free(o2);
                free(S2);
            }
            free(S1);
            free(o);
            free(v);
            free(decay);
            free(k);
            free(q);
            free(S);
        }
}

static void delta_step_tables_agree(void **state)
{
    (void)state;
    static const int shapes[][2] = {{1, 16}, {4, 16}, {7, 48}, {33, 80}, {64, 64}, {128, 128},
                                    {128, 144}, {100, 272}, {256, 256}};
    for (size_t s = 0; s < ARRAY_LEN(shapes); s++)
        for (enum fill kind = 0; kind < FILL_COUNT; kind++) {
            const int64_t dk = shapes[s][0], dv = shapes[s][1];
            float *S = vector(dk * dv, kind), *q = vector(dk, FILL_PLAIN),
                  *k = vector(dk, FILL_PLAIN);
            float *v = vector(dv, kind), *o = unset(dv), *S1 = copy_of(S, dk * dv);
            portable->delta_step(S1, q, k, v, o, dk, dv, 0.9f, 0.6f, 0.1f);
            for (int t = 0; t < n_tables; t++) {
                float *S2 = copy_of(S, dk * dv), *o2 = unset(dv);
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
    int64_t n_q, n_pos, hd, vd, k_stride, v_stride;
    int64_t from;         /* the first position that the last token sees */
    int64_t window;       /* so many that each token sees at most; 0: from alone counts */
    bool f16, sinks;
    float scale, cap;
    float *sink;          /* (n_q) */
    float *q, *k, *v;     /* k, v as floats, exactly what the halves stand for */
    uint16_t *k16, *v16;
};

static void att_open(struct att_case *a, int64_t n_q, int64_t n_pos, int64_t hd, int64_t vd,
                     bool f16)
{
    *a = (struct att_case){.n_q = n_q, .n_pos = n_pos, .hd = hd, .vd = vd,
                           .k_stride = hd + (n_pos % 3) * 8, .v_stride = vd + (n_pos % 5) * 8,
                           .f16 = f16, .scale = 1.0f / sqrtf((float)hd)};
    const int64_t n = (n_pos - 1) * MAX(a->k_stride, a->v_stride) + MAX(hd, vd);
    a->q = vector(n_q * (hd + 5), FILL_PLAIN);
    a->sink = vector(n_q, FILL_PLAIN);
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
    free(a->sink);
}

static struct kern_attention att_args(const struct att_case *a)
{
    return (struct kern_attention){
        .k = a->f16 ? (const void *)a->k16 : a->k, .v = a->f16 ? (const void *)a->v16 : a->v,
        .k_stride = a->k_stride, .v_stride = a->v_stride, .q = a->q, .q_stride = a->hd + 5,
        .q_token = a->n_q * (a->hd + 5), .out_stride = a->vd, .out_token = a->n_q * a->vd,
        .score_stride = a->n_pos + 3, .n_tok = 1, .n_q = a->n_q, .n_pos = a->n_pos, .hd = a->hd,
        .vd = a->vd, .f16 = a->f16, .scale = a->scale, .cap = a->cap,
        .sinks = a->sinks ? a->sink : NULL,
    };
}

/* Heads [h, h + n_q) into fresh memory (n_q, vd). */
static float *att_run(const struct kern *kn, const struct att_case *a, int64_t h, int64_t n_q)
{
    struct kern_attention k = att_args(a);
    k.out = unset(n_q * a->vd);
    k.scores = unset(n_q * (a->n_pos + 3));
    k.q += h * k.q_stride;
    k.n_q = n_q;
    k.from = a->from ? &a->from : NULL;
    if (k.sinks)
        k.sinks += h;
    kn->attention(&k);
    free(k.scores);
    return k.out;
}

/* The first position that a token which sees those before n_pos sees. */
static int64_t att_from(const struct att_case *a, int64_t n_pos)
{
    return a->window ? MAX(n_pos - a->window, (int64_t)0) : a->from;
}

/* The last n_tok positions are tokens that see what lies before them; all have
 * the same queries. (n_tok, n_q, vd) in fresh memory, n_q * vd + 3 apart. */
static float *att_run_tokens(const struct kern *kn, const struct att_case *a, int64_t n_tok)
{
    struct kern_attention k = att_args(a);
    k.out_token += 3;
    k.out = unset(n_tok * k.out_token);
    k.scores = unset(n_tok * a->n_q * k.score_stride);
    k.q_token = 0;
    k.n_tok = n_tok;
    k.n_pos = a->n_pos - n_tok + 1;
    int64_t from[80];
    for (int64_t t = 0; t < n_tok; t++)
        from[t] = att_from(a, k.n_pos + t);
    k.from = a->window ? from : NULL;
    kn->attention(&k);
    free(k.scores);
    return k.out;
}

static void att_check_double(const struct att_case *a, const float *out)
{
    double *p = need((size_t)a->n_pos * sizeof(double));
    for (int64_t h = 0; h < a->n_q; h++) {
        const float *q = a->q + h * (a->hd + 5);
        double top = a->sinks ? (double)a->sink[h] : -INFINITY, sum = 0;
        for (int64_t j = a->from; j < a->n_pos; j++) {
            p[j] = 0;
            for (int64_t d = 0; d < a->hd; d++)
                p[j] += (double)q[d] * (double)a->k[j * a->k_stride + d];
            p[j] *= (double)a->scale;
            if (a->cap > 0.0f)
                p[j] = (double)a->cap * tanh(p[j] / (double)a->cap);
            top = fmax(top, p[j]);
        }
        for (int64_t j = a->from; j < a->n_pos; j++)
            sum += p[j] = exp(p[j] - top);
        if (a->sinks)
            sum += exp((double)a->sink[h] - top);
        for (int64_t d = 0; d < a->vd; d++) {
            double want = 0, size = 0, lost = 0;
            for (int64_t j = a->from; j < a->n_pos; j++) {
                const double v = (double)a->v[j * a->v_stride + d];
                want += p[j] / sum * v;
                size += p[j] / sum * fabs(v);
                lost += (double)FLT_MIN * fabs(v); /* a weight below it may become zero */
            }
            assert_true(fabs((double)out[h * a->vd + d] - want) <= 5e-5 * size + lost);
        }
    }
    free(p);
}

static void attention_as_double(const struct att_case *a)
{
    float *want = att_run(portable, a, 0, a->n_q);
    att_check_double(a, want);
    for (int t = 0; t < n_tables; t++) {
        float *out = att_run(tables[t], a, 0, a->n_q);
        same_bits("attention", tables[t]->name, want, out, a->n_q * a->vd);
        free(out);
        for (int64_t h = 0; h < a->n_q; h++) { /* a head does not see its neighbours */
            out = att_run(tables[t], a, h, 1);
            same_bits("attention, one head", tables[t]->name, want + h * a->vd, out, a->vd);
            free(out);
        }
    }
    free(want);
}

static void attention_case(int64_t n_q, int64_t n_pos, int64_t hd, bool f16)
{
    struct att_case a;
    att_open(&a, n_q, n_pos, hd, hd, f16);
    attention_as_double(&a);
    att_close(&a);
}

/* Values of another length than keys, positions that are not seen, sinks and caps. */
static void attention_with_everything(void **state)
{
    (void)state;
    static const int64_t n_pos[] = {1, 2, 17, 63, 64, 65, 130};
    for (size_t i = 0; i < ARRAY_LEN(n_pos); i++)
        for (int what = 1; what < 16; what++) {
            struct att_case a;
            int64_t hd = 16 * (1 + (int64_t)(rng() % 12));
            att_open(&a, 1 + (int64_t)(rng() % 9), n_pos[i], hd,
                     what & 1 ? 16 * (1 + (int64_t)(rng() % 12)) : hd, rng() % 2);
            a.from = what & 2 ? (int64_t)(rng() % (uint64_t)n_pos[i]) : 0;
            a.sinks = what & 4;
            a.cap = what & 8 ? 1.5f : 0.0f;
            attention_as_double(&a);
            att_close(&a);
        }
}

/* Tokens taken together have the bits of each alone. */
static void attention_tokens_case(int64_t n_tok, int64_t n_q, int64_t n_pos, int64_t hd, bool f16)
{
    struct att_case a;
    att_open(&a, n_q, n_pos, hd, hd, f16);
    a.window = (int64_t)(rng() % 3) ? 0 : 1 + (int64_t)(rng() % (uint64_t)n_pos);
    for (int table = 0; table < n_tables; table++) {
        float *out = att_run_tokens(tables[table], &a, n_tok);
        for (int64_t t = 0; t < n_tok; t++) {
            struct att_case one = a;
            one.n_pos = n_pos - n_tok + 1 + t;
            one.from = att_from(&a, one.n_pos);
            float *want = att_run(portable, &one, 0, n_q);
            same_bits("attention of tokens", tables[table]->name, want, out + t * (n_q * hd + 3),
                      n_q * hd);
            free(want);
        }
        free(out);
    }
    att_close(&a);
}

static void attention_of_tokens_that_follow(void **state)
{
    (void)state;
    static const int64_t last[] = {5, 16, 62, 64, 65, 66, 67, 130};
    for (int64_t n_tok = 1; n_tok <= 5; n_tok++)
        for (size_t i = 0; i < ARRAY_LEN(last); i++) {
            attention_tokens_case(n_tok, 1 + (int64_t)(rng() % 8), last[i], 64, i % 2);
            attention_tokens_case(n_tok, 3, last[i], 16 * (1 + (int64_t)(rng() % 8)), (i + 1) % 2);
        }
    attention_tokens_case(4, 8, 1000, 128, true);
    /* The first tokens see nothing of the second block. */
    attention_tokens_case(70, 2, 71, 32, true);
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
        struct kern_attention k = {.out = out, .q = q, .k = kv, .v = kv, .scores = scores,
                                   .n_tok = 1, .n_q = 2, .out_stride = 16, .q_stride = 16,
                                   .k_stride = 16, .v_stride = 16, .score_stride = 1, .hd = 16,
                                   .vd = 16, .scale = 1.0f};
        for (int i = 0; i < 32; i++)
            out[i] = 1.0f;
        tables[t]->attention(&k);
        for (int i = 0; i < 32; i++)
            assert_true(out[i] == 0.0f);
    }
}

static void no_function_is_forgotten(void **state)
{
    (void)state;
    all_were_compared("check_mix");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conv4_tables_agree_and_match_double),
        cmocka_unit_test(kda_step_matches_double),
        cmocka_unit_test(kda_step_tables_agree),
        cmocka_unit_test(delta_step_matches_worked_example),
        cmocka_unit_test(delta_step_matches_double),
        cmocka_unit_test(delta_step_tables_agree),
        cmocka_unit_test(attention_of_every_group_size),
        cmocka_unit_test(attention_with_everything),
        cmocka_unit_test(attention_of_tokens_that_follow),
        cmocka_unit_test(attention_of_long_and_wide),
        cmocka_unit_test(attention_of_nothing_is_zero),
        cmocka_unit_test(no_function_is_forgotten),
    };
    return find_tables() ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
