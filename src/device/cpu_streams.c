/*
 * A residual stream that is several, or one in pieces, on the CPU: what a part takes of
 * them, and what it gives back. A token is a unit of work.
 */
#include "device/cpu_internal.h"

#include <math.h>
#include <string.h>

enum { N = DEV_STREAMS, BLOCK = 512 }; /* elements that are spread at a time */

/* One token is not worth waking the threads. */
static void each_token(const struct cpu *d, int64_t n_tok, void (*fn)(void *arg, int i, int n),
                       void *arg)
{
    if (n_tok == 1)
        fn(arg, 0, 1);
    else
        pool_run(d->pool, fn, arg);
}

/* ---- factors ---------------------------------------------------------------- */

/* Divides each of N sums' parts by the sum: part k of sum i is x[i * sum + k * part]. */
static void divide(float *x, int sum, int part, float eps)
{
    for (int i = 0; i < N; i++) {
        float total = 0.0f;
        for (int k = 0; k < N; k++)
            total += x[i * sum + k * part];
        total += eps;
        for (int k = 0; k < N; k++)
            x[i * sum + k * part] /= total;
    }
}

/* comb (from, to): its rows and columns come to sum to 1 (Sinkhorn and Knopp). */
static void balance(const struct kern *k, float *comb, const struct dev_merge *a)
{
    for (int s = 0; s < N; s++)
        k->softmax(comb + s * N, N);
    for (int i = 0; i < N * N; i++)
        comb[i] += a->mix_eps;
    divide(comb, 1, N, a->mix_eps);
    for (int64_t r = 1; r < a->rounds; r++) {
        divide(comb, N, 1, a->mix_eps);
        divide(comb, 1, N, a->mix_eps);
    }
}

struct merge_job {
    const struct cpu *d;
    const struct dev_merge *a;
    const float *streams, *scale, *base;
    float *factors, *x;
};

static void find_factors(const struct merge_job *j, const float *streams, float *f)
{
    const struct dev_merge *a = j->a;
    const struct kern *k = j->d->k;
    const int64_t all = N * a->n_embd;
    float squares;
    k->mulf[DT_F32](&squares, 0, streams, 0, 1, streams, 0, 1, all);
    const float by = 1.0f / sqrtf(squares / (float)all + a->eps);
    for (int i = 0; i < (a->last ? N : DEV_FACTORS); i++)
        f[i] = f[i] * by * j->scale[MIN(i / N, 2)] + j->base[i];
    k->sigmoid(f, f, a->last ? N : 2 * N);
    for (int i = 0; i < N; i++)
        f[i] += a->mix_eps;
    if (a->last)
        return;
    for (int i = N; i < 2 * N; i++)
        f[i] *= 2.0f;
    balance(k, f + 2 * N, a);
}

static void merge_tokens(void *arg, int i, int n)
{
    const struct merge_job *j = arg;
    const int64_t n_embd = j->a->n_embd, width = j->a->last ? N : DEV_FACTORS;
    int64_t t0, t1;
    pool_split(j->a->n_tok, 1, i, n, &t0, &t1);
    for (int64_t t = t0; t < t1; t++) {
        const float *streams = j->streams + t * N * n_embd;
        float *f = j->factors + t * width, *x = j->x + t * n_embd;
        find_factors(j, streams, f);
        memset(x, 0, (size_t)n_embd * sizeof(*x));
        for (int s = 0; s < N; s++)
            j->d->k->axpy(x, f[s], streams + s * n_embd, n_embd);
    }
}

void cpu_merge(struct device *dev, const struct dev_merge *a)
{
    struct cpu *d = cpu_of(dev);
    struct merge_job j = {.d = d, .a = a, .streams = cpu_at(a->streams), .scale = cpu_at(a->scale),
                          .base = cpu_at(a->base), .factors = cpu_at(a->factors),
                          .x = cpu_at(a->x)};
    if (d->measuring)
        return;
    each_token(d, a->n_tok, merge_tokens, &j);
}

/* ---- giving back -------------------------------------------------------------- */

struct spread_job {
    const struct cpu *d;
    const struct dev_spread *a;
    const float *factors, *y;
    float *streams;
};

/* Elements [at, at + n) of a token's streams, n_embd apart. */
static void spread_block(const struct spread_job *j, float *streams, const float *y, const float *f,
                         int64_t n)
{
    const struct kern *k = j->d->k;
    const float *post = f + N, *comb = f + 2 * N;
    float before[N][BLOCK];
    for (int s = 0; s < N; s++)
        memcpy(before[s], streams + s * j->a->n_embd, (size_t)n * sizeof(float));
    for (int to = 0; to < N; to++) {
        float *out = streams + to * j->a->n_embd;
        memcpy(out, y, (size_t)n * sizeof(float));
        k->scale(out, post[to], n);
        for (int s = 0; s < N; s++)
            k->axpy(out, comb[s * N + to], before[s], n);
    }
}

static void spread_tokens(void *arg, int i, int n)
{
    const struct spread_job *j = arg;
    const int64_t n_embd = j->a->n_embd;
    int64_t t0, t1;
    pool_split(j->a->n_tok, 1, i, n, &t0, &t1);
    for (int64_t t = t0; t < t1; t++)
        for (int64_t at = 0; at < n_embd; at += BLOCK)
            spread_block(j, j->streams + t * N * n_embd + at, j->y + t * n_embd + at,
                         j->factors + t * DEV_FACTORS, MIN((int64_t)BLOCK, n_embd - at));
}

void cpu_spread(struct device *dev, const struct dev_spread *a)
{
    struct cpu *d = cpu_of(dev);
    struct spread_job j = {.d = d, .a = a, .factors = cpu_at(a->factors), .y = cpu_at(a->y),
                           .streams = cpu_at(a->streams)};
    if (d->measuring)
        return;
    each_token(d, a->n_tok, spread_tokens, &j);
}

/* ---- pieces --------------------------------------------------------------------- */

struct mix_job {
    const struct cpu *d;
    const struct dev_mix *a;
    const float *pieces, *weight;
    float *x;
};

static float score(const struct mix_job *j, const float *piece)
{
    const struct kern *k = j->d->k;
    const int64_t n = j->a->n_embd;
    float squares, product;
    k->mulf[DT_F32](&squares, 0, piece, 0, 1, piece, 0, 1, n);
    k->mulf[DT_F32](&product, 0, j->weight, 0, 1, piece, 0, 1, n);
    return product * (1.0f / sqrtf(squares / (float)n + j->a->eps));
}

static void mix_tokens(void *arg, int i, int n)
{
    const struct mix_job *j = arg;
    const struct dev_mix *a = j->a;
    const struct kern *k = j->d->k;
    int64_t t0, t1;
    pool_split(a->n_tok, 1, i, n, &t0, &t1);
    for (int64_t t = t0; t < t1; t++) {
        const float *piece = j->pieces + t * a->n_embd;
        float *x = j->x + t * a->n_embd, part[DEV_PIECES];
        for (int64_t p = 0; p < a->n; p++)
            part[p] = score(j, piece + p * a->n_tok * a->n_embd);
        k->softmax(part, a->n);
        memset(x, 0, (size_t)a->n_embd * sizeof(*x));
        for (int64_t p = 0; p < a->n; p++)
            k->axpy(x, part[p], piece + p * a->n_tok * a->n_embd, a->n_embd);
    }
}

void cpu_mix(struct device *dev, const struct dev_mix *a)
{
    struct cpu *d = cpu_of(dev);
    struct mix_job j = {.d = d, .a = a, .pieces = cpu_at(a->pieces), .weight = cpu_at(a->weight),
                        .x = cpu_at(a->x)};
    if (d->measuring)
        return;
    each_token(d, a->n_tok, mix_tokens, &j);
}
