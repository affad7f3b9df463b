/*
 * What attention shall see, on the CPU: index scores of all earlier positions, and
 * the positions of the largest. A token is a unit of work; where there is one alone,
 * some positions are.
 */
#include "device/cpu_internal.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 16, /* positions whose products are taken at a time */
       UNIT = 16 * BLOCK };

struct index_job {
    struct cpu *d;
    const struct dev_index *a;
    float *q, *k;
    const float *weights, *norm, *bias;
    int32_t *seen;
    int64_t n_tok; /* of all spans */
};

static size_t row_bytes(const struct dev_index *a)
{
    return (size_t)a->dim * (a->kv_f16 ? sizeof(uint16_t) : sizeof(float));
}

static uint8_t *row_at(const struct dev_index *a, const struct dev_kv_span *s, int64_t pos)
{
    return (uint8_t *)cpu_at(s->v) + (size_t)(pos - s->base) * row_bytes(a);
}

/* ---- queries and keys ------------------------------------------------------- */

static void prepare_token(const struct index_job *j, const struct dev_kv_span *s, int64_t t)
{
    const struct dev_index *a = j->a;
    const int64_t row = s->first + t;
    float *cs = j->d->rope + row * a->rope.n, *k = j->k ? j->k + row * a->dim : NULL;
    cpu_angles(j->d, &a->rope, cs, s->pos + t);
    for (int64_t h = 0; h < a->n_head; h++)
        cpu_rotate(j->d, &a->rope, j->q + (row * a->n_head + h) * a->dim, cs);
    if (!k)
        return;
    cpu_layer_norm(k, k, j->norm, j->bias, a->dim, a->eps);
    cpu_rotate(j->d, &a->rope, k, cs);
    void *to = row_at(a, s, s->pos + t);
    if (a->kv_f16)
        j->d->k->f32_to_f16(to, k, a->dim);
    else
        memcpy(to, k, row_bytes(a));
}

static void prepare_tokens(void *arg, int i, int n)
{
    const struct index_job *j = arg;
    int64_t t0, t1;
    for (int k = 0; k < j->a->n_spans; k++) {
        pool_split(j->a->spans[k].n_tok, 1, i, n, &t0, &t1);
        for (int64_t t = t0; t < t1; t++)
            prepare_token(j, &j->a->spans[k], t);
    }
}

/* ---- scores ------------------------------------------------------------------- */

/* What a token at `pos` can see: positions, or entries. */
static int64_t n_keys(const struct dev_index *a, int64_t pos)
{
    return a->ratio ? dev_entries(a->ratio, pos) : pos + 1;
}

/* Of keys [p, n); what is no number counts as the least. */
static void score(const struct index_job *j, int i, const struct dev_kv_span *s, int64_t row,
                  float *scores, int64_t p, int64_t n)
{
    const struct dev_index *a = j->a;
    const float *q = j->q + row * a->n_head * a->dim, *weights = j->weights + row * a->n_head;
    kern_mul_fn *mul = j->d->k->mulf[a->kv_f16 ? DT_F16 : DT_F32];
    float *products = cpu_thread_mem(j->d, i); /* (n_head, BLOCK) */
    for (; p < n; p += BLOCK) {
        const int64_t rows = MIN((int64_t)BLOCK, n - p);
        mul(products, BLOCK, row_at(a, s, p), row_bytes(a), rows, q,
            (size_t)a->dim * sizeof(float), a->n_head, a->dim);
        for (int64_t r = 0; r < rows; r++) {
            float sum = 0.0f;
            for (int64_t h = 0; h < a->n_head; h++)
                sum += fmaxf(products[h * BLOCK + r], 0.0f) * (weights[h] * a->scale);
            scores[p + r] = isnan(sum) ? -INFINITY : sum;
        }
    }
}

/* Moves the first of a heap, whose least stands first, to its place. */
static void sink(float *heap, int64_t n)
{
    const float x = heap[0];
    int64_t at = 0;
    for (int64_t child = 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (!(heap[child] < x))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = x;
}

/* The k-th largest of n scores; heap: room for k. */
static float least_of_best(const float *scores, int64_t n, float *heap, int64_t k)
{
    for (int64_t i = 0; i < k; i++) { /* a heap grows at its end */
        int64_t at = i;
        for (; at > 0 && scores[i] < heap[(at - 1) / 2]; at = (at - 1) / 2)
            heap[at] = heap[(at - 1) / 2];
        heap[at] = scores[i];
    }
    for (int64_t i = k; i < n; i++)
        if (scores[i] > heap[0]) {
            heap[0] = scores[i];
            sink(heap, k);
        }
    return heap[0];
}

static void choose(const float *scores, int64_t n, float *heap, int32_t *seen, int64_t k)
{
    const float least = least_of_best(scores, n, heap, k);
    int64_t ties = k, at = 0;
    for (int64_t i = 0; i < n; i++)
        ties -= scores[i] > least;
    for (int64_t i = 0; i < n && at < k; i++)
        if (scores[i] > least || (scores[i] == least && ties-- > 0))
            seen[at++] = (int32_t)i;
}

/* Scratch of thread i: scores of all positions, then the best. */
static float *scores_of(const struct index_job *j, int i)
{
    return j->d->attn_scores + (int64_t)i * j->d->sizes.q_per_kv * (int64_t)j->d->attn_stride;
}

static void index_token(const struct index_job *j, int i, const struct dev_kv_span *s, int64_t t)
{
    const struct dev_index *a = j->a;
    const int64_t n = n_keys(a, s->pos + t), row = s->first + t;
    float *scores = scores_of(j, i);
    if (n <= a->n_seen)
        return;
    score(j, i, s, row, scores, 0, n);
    choose(scores, n, scores + j->d->attn_stride, j->seen + row * a->n_seen, a->n_seen);
}

static void index_tokens(void *arg, int i, int n)
{
    const struct index_job *j = arg;
    int64_t u0, u1;
    (void)n;
    while (pool_take(j->d->pool, i, j->n_tok, &u0, &u1))
        for (int64_t u = u0; u < u1; u++) {
            const struct dev_kv_span *s = j->a->spans;
            int64_t t = u;
            while (t >= s->n_tok)
                t -= s++->n_tok;
            index_token(j, i, s, t);
        }
}

static void score_unit(void *arg, int i, int n)
{
    const struct index_job *j = arg;
    const struct dev_kv_span *s = j->a->spans;
    const int64_t n_pos = n_keys(j->a, s->pos);
    int64_t u0, u1;
    (void)n;
    while (pool_take(j->d->pool, i, (n_pos + UNIT - 1) / UNIT, &u0, &u1))
        score(j, i, s, s->first, scores_of(j, 0), u0 * UNIT, MIN(u1 * UNIT, n_pos));
}

static void index_one(struct index_job *j)
{
    const struct dev_kv_span *s = j->a->spans;
    float *scores = scores_of(j, 0);
    prepare_token(j, s, 0);
    if (n_keys(j->a, s->pos) <= j->a->n_seen)
        return;
    pool_run(j->d->pool, score_unit, j);
    choose(scores, n_keys(j->a, s->pos), scores + j->d->attn_stride,
           j->seen + s->first * j->a->n_seen, j->a->n_seen);
}

void cpu_index(struct device *dev, const struct dev_index *a)
{
    struct cpu *d = cpu_of(dev);
    struct index_job j = {.d = d, .a = a, .q = cpu_at(a->q), .k = cpu_at(a->k),
                          .weights = cpu_at(a->weights), .norm = cpu_at(a->norm),
                          .bias = cpu_at(a->bias), .seen = cpu_at(a->seen)};
    if (d->measuring) {
        cpu_note(&d->sizes.q_per_kv, 2); /* scores, and the best of them */
        cpu_note(&d->sizes.max_in, a->n_head * BLOCK);
        cpu_note(&d->sizes.n_rot, a->rope.n);
        return;
    }
    for (int k = 0; k < a->n_spans; k++)
        j.n_tok += a->spans[k].n_tok;
    if (j.n_tok == 1) {
        index_one(&j);
        return;
    }
    pool_run(d->pool, prepare_tokens, &j);
    pool_run(d->pool, index_tokens, &j);
}
