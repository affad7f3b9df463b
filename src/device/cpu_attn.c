/*
 * Attention on the CPU. A unit of work is one token and the query heads that
 * share one kv head (or a part of them when there are more threads than kv
 * heads), so each key and value row is loaded once for the group.
 */
#include "device/cpu_internal.h"

#include <string.h>

struct attn_job {
    struct device *d;
    const struct dev_attention *a;
    int64_t parts; /* a kv head's query heads are cut into this many units */
};

static int64_t query_stride(const struct dev_attention *a)
{
    return a->gated ? 2 * a->head_dim : a->head_dim;
}

/* Where a kv head's rows begin. */
static void *head_rows(const struct dev_attention *a, void *cache, int64_t kv)
{
    size_t elem = a->kv_f16 ? sizeof(uint16_t) : sizeof(float);
    return (uint8_t *)cache + (size_t)(kv * a->cache_rows * a->head_dim) * elem;
}

/* `row`: (n_kv, head_dim) of position pos. */
static void store_row(const struct device *d, const struct dev_attention *a, void *cache,
                      const float *row, int64_t pos)
{
    int64_t hd = a->head_dim;
    for (int64_t h = 0; h < a->n_kv; h++, row += hd) {
        void *rows = head_rows(a, cache, h);
        if (a->kv_f16)
            d->k->f32_to_f16((uint16_t *)rows + pos * hd, row, hd);
        else
            memcpy((float *)rows + pos * hd, row, (size_t)hd * sizeof(float));
    }
}

/* Norm, rotation and storing of one token's q, k and v. */
static void prepare_token(const struct device *d, const struct dev_attention *a, int64_t t)
{
    int64_t hd = a->head_dim, qs = query_stride(a);
    float *cs = d->rope + t * hd;
    d->k->rope_angles(cs, a->rope_freq, a->n_rot / 2, a->pos + t);
    for (int64_t h = 0; h < a->n_head; h++) {
        float *q = a->q + (t * a->n_head + h) * qs;
        if (a->q_norm)
            d->k->rms_norm(q, q, a->q_norm, hd, a->eps);
        d->k->rope_neox(q, cs, a->n_rot);
    }
    for (int64_t h = 0; h < a->n_kv; h++) {
        float *k = a->k + (t * a->n_kv + h) * hd;
        if (a->k_norm)
            d->k->rms_norm(k, k, a->k_norm, hd, a->eps);
        d->k->rope_neox(k, cs, a->n_rot);
    }
    store_row(d, a, a->k_cache, a->k + t * a->n_kv * hd, a->pos + t);
    store_row(d, a, a->v_cache, a->v + t * a->n_kv * hd, a->pos + t);
}

static void prepare_tokens(void *arg, int i, int n)
{
    const struct attn_job *j = arg;
    int64_t t0, t1;
    pool_split(j->a->n_tok, 1, i, n, &t0, &t1);
    for (int64_t t = t0; t < t1; t++)
        prepare_token(j->d, j->a, t);
}

static void attend_unit(const struct attn_job *j, int i, int64_t t, int64_t kv, int64_t part)
{
    const struct dev_attention *a = j->a;
    const struct device *d = j->d;
    int64_t hd = a->head_dim, qs = query_stride(a), group = a->n_head / a->n_kv;
    int64_t h0 = kv * group + group * part / j->parts;
    int64_t h1 = kv * group + group * (part + 1) / j->parts;
    const float *q = a->q + (t * a->n_head + h0) * qs;
    float *out = a->out + (t * a->n_head + h0) * hd;
    float *scores = d->attn_scores + (size_t)i * (size_t)d->sizes.q_per_kv * d->attn_stride;

    d->k->attention(out, hd, q, qs, head_rows(a, a->k_cache, kv), head_rows(a, a->v_cache, kv), hd,
                    a->kv_f16, h1 - h0, a->pos + t + 1, hd, a->scale, scores, (ptrdiff_t)d->attn_stride);
    for (int64_t h = h0; a->gated && h < h1; h++, out += hd, q += qs)
        d->k->sigmoid_mul(out, q + hd, out, hd);
}

static void attend(void *arg, int i, int n)
{
    const struct attn_job *j = arg;
    int64_t per_token = j->a->n_kv * j->parts, units = j->a->n_tok * per_token, u0, u1;
    (void)n;
    while (pool_take(j->d->pool, i, units, &u0, &u1))
        for (int64_t u = units - u1; u < units - u0; u++) { /* later tokens, which cost more, first */
            int64_t rest = u % per_token;
            attend_unit(j, i, u / per_token, rest / j->parts, rest % j->parts);
        }
}

void device_attention(struct device *d, const struct dev_attention *a)
{
    struct attn_job j = {.d = d, .a = a, .parts = 1};
    int64_t group = a->n_head / a->n_kv;
    if (a->n_tok * a->n_kv < d->n_threads)
        j.parts = MIN(group, (d->n_threads + a->n_kv - 1) / a->n_kv);
    if (a->n_tok == 1)
        prepare_token(d, a, 0);
    else
        pool_run(d->pool, prepare_tokens, &j);
    pool_run(d->pool, attend, &j);
}
