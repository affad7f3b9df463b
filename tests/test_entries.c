/*
 * Operations of the CPU that DeepSeek-V4 needs, against plain loops in double: entries of
 * several positions, streams that are merged and spread over, experts by token.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "device/device.h"

enum { N_TOK = 11, EMBD = 544, N = DEV_STREAMS, DIM = 32, ROT = 16 };

static uint32_t seed = 1;

static float noise(float by)
{
    seed = seed * 1664525u + 1013904223u;
    return by * ((float)(seed >> 8) * 0x1p-23f - 1.0f);
}

static struct dev_ptr put(struct device *d, const void *from, size_t bytes)
{
    struct dev_ptr p = {0};
    assert_int_equal(d->ops->alloc(d, DEV_SCRATCH, bytes, &p.mem, NULL), OK);
    if (from)
        d->ops->put(d, p, from, bytes);
    return p;
}

static struct dev_ptr put_noise(struct device *d, float *x, int64_t n, float by)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = noise(by);
    return put(d, x, (size_t)n * sizeof(*x));
}

static void bring(struct device *d, void *to, struct dev_ptr from, size_t bytes)
{
    assert_int_equal(device_bring(d, to, from, bytes, NULL), OK);
}

static struct device *open_cpu(void)
{
    struct device_config c = {.threads = 3, .exact = true};
    struct device *d;
    assert_int_equal(device_cpu_open(&c, &d, NULL), OK);
    d->ops->measure(d);
    return d;
}

static void reserve(struct device *d)
{
    int64_t fixed, per_position;
    d->ops->measured(d, &fixed, &per_position);
    assert_int_equal(d->ops->reserve(d, 64, NULL), OK);
}

/* ---- streams ---------------------------------------------------------------- */

enum { ROUNDS = 20 };
static const double eps = 1e-6, mix_eps = 1e-2;

static double squash(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

/* comb (from, to) becomes what Sinkhorn's rounds make of its scores. */
static void balance(double comb[N][N])
{
    for (int s = 0; s < N; s++) {
        double sum = 0.0;
        for (int t = 0; t < N; t++)
            sum += exp(comb[s][t]);
        for (int t = 0; t < N; t++)
            comb[s][t] = exp(comb[s][t]) / sum + mix_eps;
    }
    for (int half = 1; half < 2 * ROUNDS; half++)
        for (int i = 0; i < N; i++) { /* columns, then rows */
            double sum = mix_eps;
            for (int k = 0; k < N; k++)
                sum += half % 2 ? comb[k][i] : comb[i][k];
            for (int k = 0; k < N; k++)
                *(half % 2 ? &comb[k][i] : &comb[i][k]) /= sum;
        }
}

struct streams {
    float x[N_TOK][N * EMBD], products[N_TOK][DEV_FACTORS], y[N_TOK][EMBD];
    float scale[3], base[DEV_FACTORS];
};

/* Token t: what a part's input and the streams behind it must be. */
static void check_token(const struct streams *s, int t, const float *x, const float *streams)
{
    double squares = 0.0, f[DEV_FACTORS], comb[N][N];
    for (int i = 0; i < N * EMBD; i++)
        squares += (double)s->x[t][i] * (double)s->x[t][i];
    for (int i = 0; i < DEV_FACTORS; i++)
        f[i] = (double)s->products[t][i] / sqrt(squares / (N * EMBD) + eps) *
                   (double)s->scale[i < N ? 0 : i < 2 * N ? 1 : 2] + (double)s->base[i];
    for (int i = 0; i < N * N; i++)
        comb[i / N][i % N] = f[2 * N + i];
    balance(comb);
    for (int i = 0; i < EMBD; i++) {
        double in = 0.0;
        for (int k = 0; k < N; k++)
            in += (squash(f[k]) + mix_eps) * (double)s->x[t][k * EMBD + i];
        assert_true(fabs(in - (double)x[i]) < 1e-5);
        for (int to = 0; to < N; to++) {
            double out = 2.0 * squash(f[N + to]) * (double)s->y[t][i];
            for (int k = 0; k < N; k++)
                out += comb[k][to] * (double)s->x[t][k * EMBD + i];
            assert_true(fabs(out - (double)streams[to * EMBD + i]) < 1e-5);
        }
    }
}

static void streams_are_merged_and_spread_over(void **state)
{
    (void)state;
    static struct streams s;
    static float x[N_TOK * EMBD], after[N_TOK * N * EMBD];
    struct device *d = open_cpu();
    struct dev_merge m = {.n_tok = N_TOK, .n_embd = EMBD, .eps = (float)eps,
                          .mix_eps = (float)mix_eps, .rounds = ROUNDS};
    struct dev_spread b = {.n_tok = N_TOK, .n_embd = EMBD};
    d->ops->merge(d, &m);
    d->ops->spread(d, &b);
    reserve(d);
    m.streams = b.streams = put_noise(d, &s.x[0][0], N_TOK * N * EMBD, 2.0f);
    m.factors = b.factors = put_noise(d, &s.products[0][0], N_TOK * DEV_FACTORS, 3.0f);
    m.scale = put_noise(d, s.scale, 3, 1.5f);
    m.base = put_noise(d, s.base, DEV_FACTORS, 1.0f);
    m.x = put(d, NULL, sizeof(x));
    b.y = put_noise(d, &s.y[0][0], N_TOK * EMBD, 1.0f);
    d->ops->merge(d, &m);
    d->ops->spread(d, &b);
    bring(d, x, m.x, sizeof(x));
    bring(d, after, m.streams, sizeof(after));
    for (int t = 0; t < N_TOK; t++)
        check_token(&s, t, x + t * EMBD, after + t * N * EMBD);
    dev_free(m.streams.mem);
    dev_free(m.factors.mem);
    dev_free(m.scale.mem);
    dev_free(m.base.mem);
    dev_free(m.x.mem);
    dev_free(b.y.mem);
    device_close(d);
}

/* ---- a stream in pieces --------------------------------------------------------- */

enum { PIECES = 3 };

/* Element i of what a part takes of the pieces of token t. */
static double mixed(const float *pieces, const float *weight, int t, int i)
{
    double part[PIECES], sum = 0.0, out = 0.0;
    for (int p = 0; p < PIECES; p++) {
        const float *v = pieces + (p * N_TOK + t) * EMBD;
        double squares = 0.0, score = 0.0;
        for (int k = 0; k < EMBD; k++) {
            squares += (double)v[k] * (double)v[k];
            score += (double)v[k] * (double)weight[k];
        }
        part[p] = exp(score / sqrt(squares / EMBD + eps));
        sum += part[p];
    }
    for (int p = 0; p < PIECES; p++)
        out += part[p] / sum * (double)pieces[(p * N_TOK + t) * EMBD + i];
    return out;
}

static void pieces_are_mixed(void **state)
{
    (void)state;
    static float pieces[PIECES * N_TOK * EMBD], weight[EMBD], x[N_TOK * EMBD];
    struct device *d = open_cpu();
    struct dev_mix m = {.n = PIECES, .n_tok = N_TOK, .n_embd = EMBD, .eps = (float)eps};
    d->ops->mix(d, &m);
    reserve(d);
    m.pieces = put_noise(d, pieces, PIECES * N_TOK * EMBD, 2.0f);
    m.weight = put_noise(d, weight, EMBD, 0.1f);
    m.x = put(d, NULL, sizeof(x));
    d->ops->mix(d, &m);
    bring(d, x, m.x, sizeof(x));
    for (int t = 0; t < N_TOK; t++)
        for (int i = 0; i < EMBD; i++)
            assert_true(fabs(mixed(pieces, weight, t, i) - (double)x[t * EMBD + i]) < 1e-5);
    m.n = 1; /* one is taken as it is */
    d->ops->mix(d, &m);
    bring(d, x, m.x, sizeof(x));
    assert_memory_equal(x, pieces, sizeof(x));
    dev_free(m.pieces.mem);
    dev_free(m.weight.mem);
    dev_free(m.x.mem);
    device_close(d);
}

/* ---- entries ------------------------------------------------------------------ */

struct rows {
    float values[N_TOK][2 * DIM], scores[N_TOK][2 * DIM], ape[4][2 * DIM], norm[DIM],
        freq[ROT / 2];
};

/* An entry before its norm: of 4 positions, and with overlap of the 4 before them. */
static double pooled(const struct rows *r, int entry, bool overlap, int c)
{
    const int begin = 4 * entry;
    double sum = 0.0, out = 0.0;
    for (int p = overlap ? begin - 4 : begin; p < begin + 4; p++) {
        const int at = overlap && p >= begin ? DIM + c : c;
        if (p < 0)
            continue;
        const double e = exp((double)r->scores[p][at] + (double)r->ape[p % 4][at]);
        sum += e;
        out += e * (double)r->values[p][at];
    }
    return out / sum;
}

static void check_entry(const struct rows *r, int entry, bool overlap, const float *got)
{
    double want[DIM], squares = 0.0;
    for (int c = 0; c < DIM; c++) {
        want[c] = pooled(r, entry, overlap, c);
        squares += want[c] * want[c];
    }
    for (int c = 0; c < DIM; c++)
        want[c] *= (double)r->norm[c] / sqrt(squares / DIM + eps);
    for (int i = 0; i < ROT / 2; i++) { /* pairs that stand together, at the end */
        double *pair = want + DIM - ROT + 2 * i, a = pair[0], b = pair[1];
        const double angle = 4.0 * entry * (double)r->freq[i];
        pair[0] = a * cos(angle) - b * sin(angle);
        pair[1] = a * sin(angle) + b * cos(angle);
    }
    for (int c = 0; c < DIM; c++)
        assert_true(fabs(want[c] - (double)got[c]) < 1e-5);
}

/* n rows of DIM floats that lie together become the first halves of longer ones. */
static void apart(float (*rows)[2 * DIM], int n)
{
    const float *together = rows[0];
    for (int i = n - 1; i > 0; i--)
        memmove(rows[i], together + i * DIM, DIM * sizeof(float));
}

/* In calls of `step` tokens; rows that are complete are those of the first N_TOK. */
static void make_entries(bool overlap, int step, float *entries)
{
    static struct rows r;
    static float waits[8 * 2 * 2 * DIM];
    struct device *d = open_cpu();
    const int64_t width = overlap ? 2 * DIM : DIM;
    struct dev_mat ape = {.type = DT_F32, .n_in = width, .n_out = 4};
    struct dev_kv_span span = {.n_tok = N_TOK};
    struct dev_compress a = {.spans = &span, .n_spans = 1, .ratio = 4, .dim = DIM,
                             .overlap = overlap, .ape = &ape, .eps = (float)eps,
                             .rope = {.n = ROT, .at = DIM - ROT, .pairs = DEV_ROTATE_PAIRS,
                                      .scale = 1.0f}};
    d->ops->compress(d, &a);
    reserve(d);
    seed = 5;
    a.values = put_noise(d, &r.values[0][0], N_TOK * 2 * DIM, 2.0f);
    a.scores = put_noise(d, &r.scores[0][0], N_TOK * 2 * DIM, 4.0f);
    ape.data = put_noise(d, &r.ape[0][0], 4 * 2 * DIM, 2.0f);
    a.norm = put_noise(d, r.norm, DIM, 1.0f);
    a.rope.freq = put_noise(d, r.freq, ROT / 2, 1.0f);
    span.k = put(d, waits, sizeof(waits));
    span.v = put(d, NULL, (N_TOK / 4) * DIM * sizeof(float));
    if (!overlap) {
        apart(r.values, N_TOK);
        apart(r.scores, N_TOK);
        apart(r.ape, 4);
    }
    const struct dev_ptr values = a.values, scores = a.scores;
    for (span.pos = 0; span.pos < N_TOK; span.pos += step) {
        const size_t at = (size_t)(span.pos * width) * sizeof(float);
        span.n_tok = MIN((int64_t)step, N_TOK - span.pos);
        a.values = dev_at(values, at);
        a.scores = dev_at(scores, at);
        d->ops->compress(d, &a);
    }
    bring(d, entries, span.v, (N_TOK / 4) * DIM * sizeof(float));
    for (int i = 0; i < N_TOK / 4; i++)
        check_entry(&r, i, overlap, entries + i * DIM);
    dev_free(values.mem);
    dev_free(scores.mem);
    dev_free(ape.data.mem);
    dev_free(a.norm.mem);
    dev_free(a.rope.freq.mem);
    dev_free(span.k.mem);
    dev_free(span.v.mem);
    device_close(d);
}

static void entries_are_made_in_any_calls(void **state)
{
    (void)state;
    for (int overlap = 0; overlap < 2; overlap++) {
        float whole[N_TOK / 4 * DIM], parts[N_TOK / 4 * DIM];
        make_entries(overlap, N_TOK, whole);
        for (int step = 1; step < 7; step++) {
            make_entries(overlap, step, parts);
            assert_memory_equal(parts, whole, sizeof(whole));
        }
    }
}

/* ---- experts by token -------------------------------------------------------------- */

enum { N_EXPERTS = 4, N_USED = 2, N_IDS = 5, SHORT = 64 };

/* Rows that are no choice make valid picks and a weight that is no number. */
static void a_table_of_nonsense_is_survived(void **state)
{
    (void)state;
    static const int32_t table[N_IDS][N_USED] = {{3, 1}, {-1, 2}, {2, 2}, {0, 4}, {0, 2}};
    static const int32_t ids[N_TOK] = {4, 0, 1, 2, 3, 0, 4, 4, 3, 2, 1};
    static float x[N_TOK * SHORT], w[N_EXPERTS * SHORT], norm[SHORT];
    struct device *d = open_cpu();
    struct dev_mat router = {.type = DT_F32, .n_in = SHORT, .n_out = N_EXPERTS};
    struct dev_route a = {.n_tok = N_TOK, .n_embd = SHORT, .eps = (float)eps, .router = &router,
                          .scores = {.scoring = DEV_SQRT_SOFTPLUS}, .n_used = N_USED,
                          .renormalise = true, .scale = 1.5f, .ids = ids};
    int32_t picks[N_TOK][N_USED];
    float weights[N_TOK][N_USED];
    d->ops->route(d, &a);
    reserve(d);
    a.x = put_noise(d, x, N_TOK * SHORT, 1.0f);
    a.norm = put_noise(d, norm, SHORT, 1.0f);
    router.data = put_noise(d, w, N_EXPERTS * SHORT, 0.3f);
    a.table = put(d, table, sizeof(table));
    a.h = put(d, NULL, sizeof(x));
    a.input = put(d, NULL, d->ops->input_bytes(d, N_TOK, SHORT));
    a.picks = put(d, NULL, sizeof(picks));
    a.weights = put(d, NULL, sizeof(weights));
    d->ops->route(d, &a);
    bring(d, picks, a.picks, sizeof(picks));
    bring(d, weights, a.weights, sizeof(weights));
    for (int t = 0; t < N_TOK; t++) {
        const bool good = ids[t] == 0 || ids[t] == 4;
        for (int k = 0; k < N_USED; k++) {
            assert_in_range(picks[t][k], 0, N_EXPERTS - 1);
            assert_true(!good || picks[t][k] == table[ids[t]][k]);
        }
        assert_true(picks[t][0] != picks[t][1]);
        assert_true(good ? fabsf(weights[t][0] + weights[t][1] - 1.5f) < 1e-5f
                         : isnan(weights[t][0]));
    }
    const struct dev_ptr all[] = {a.x, a.norm, router.data, a.table, a.h, a.input, a.picks,
                                  a.weights};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        dev_free(all[i].mem);
    device_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streams_are_merged_and_spread_over),
        cmocka_unit_test(pieces_are_mixed),
        cmocka_unit_test(entries_are_made_in_any_calls),
        cmocka_unit_test(a_table_of_nonsense_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
