/*
 * Attention on the CPU. A unit of work is a few tokens and the query heads that
 * share one kv head (or a part of them when there are more threads than kv
 * heads), so each key and value row is loaded once for all of them.
 */
#include "device/cpu_internal.h"

#include <string.h>

enum { TOKENS = 4 }; /* of a unit: converting keys and values is a fifth of the work for one */

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

/* Scratch of thread i for scores, of one token at least: of a long context, or
 * where it is larger the thread's own memory, which attention leaves free. */
static float *scores_of(const struct device *d, int i, int64_t *n_floats)
{
    int64_t own = (int64_t)(d->thread_stride / sizeof(float));
    *n_floats = d->sizes.q_per_kv * (int64_t)d->attn_stride;
    if (own <= *n_floats)
        return d->attn_scores + (int64_t)i * *n_floats;
    *n_floats = own;
    return cpu_thread_mem(d, i);
}

/* Heads [h0, h1) of tokens [t, end), as many tokens at once as scratch allows. */
static void attend_heads(const struct attn_job *j, int i, int64_t t, int64_t end, int64_t h0, int64_t h1)
{
    const struct dev_attention *a = j->a;
    const struct device *d = j->d;
    const int64_t hd = a->head_dim, qs = query_stride(a), kv = h0 * a->n_kv / a->n_head;
    int64_t room;
    struct kern_attention k = {
        .k = head_rows(a, a->k_cache, kv), .v = head_rows(a, a->v_cache, kv), .kv_stride = hd, .f16 = a->kv_f16,
        .q_token = a->n_head * qs, .q_stride = qs, .out_token = a->n_head * hd, .out_stride = hd,
        .n_q = h1 - h0, .hd = hd, .scale = a->scale, .scores = scores_of(d, i, &room),
    };
    for (; t < end; t += k.n_tok) {
        k.n_pos = a->pos + t + 1;
        k.score_stride = (ptrdiff_t)align_up((size_t)(a->pos + end), 16);
        k.n_tok = MIN(room / (k.n_q * k.score_stride), end - t);
        k.q = a->q + (t * a->n_head + h0) * qs;
        k.out = a->out + (t * a->n_head + h0) * hd;
        d->k->attention(&k);
    }
}

static void attend_unit(const struct attn_job *j, int i, int64_t group, int64_t kv, int64_t part)
{
    const struct dev_attention *a = j->a;
    const int64_t hd = a->head_dim, qs = query_stride(a), heads = a->n_head / a->n_kv;
    const int64_t t0 = group * TOKENS, t1 = MIN(t0 + TOKENS, a->n_tok);
    const int64_t h0 = kv * heads + heads * part / j->parts, h1 = kv * heads + heads * (part + 1) / j->parts;
    attend_heads(j, i, t0, t1, h0, h1);
    for (int64_t t = t0; a->gated && t < t1; t++)
        for (int64_t h = h0; h < h1; h++) {
            float *out = a->out + (t * a->n_head + h) * hd;
            j->d->k->sigmoid_mul(out, a->q + (t * a->n_head + h) * qs + hd, out, hd);
        }
}

static int64_t token_groups(const struct dev_attention *a)
{
    return (a->n_tok + TOKENS - 1) / TOKENS;
}

static void attend(void *arg, int i, int n)
{
    const struct attn_job *j = arg;
    int64_t per_group = j->a->n_kv * j->parts, units = token_groups(j->a) * per_group, u0, u1;
    (void)n;
    while (pool_take(j->d->pool, i, units, &u0, &u1))
        for (int64_t u = units - u1; u < units - u0; u++) { /* later tokens, which cost more, first */
            int64_t rest = u % per_group;
            attend_unit(j, i, u / per_group, rest / j->parts, rest % j->parts);
        }
}

void device_attention(struct device *d, const struct dev_attention *a)
{
    struct attn_job j = {.d = d, .a = a, .parts = 1};
    int64_t heads = a->n_head / a->n_kv, units = token_groups(a) * a->n_kv;
    if (units < d->n_threads)
        j.parts = MIN(heads, (d->n_threads + units - 1) / units);
    if (a->n_tok == 1)
        prepare_token(d, a, 0);
    else
        pool_run(d->pool, prepare_tokens, &j);
    pool_run(d->pool, attend, &j);
}
