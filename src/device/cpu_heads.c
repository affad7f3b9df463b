/*
 * Products for each head on the CPU. A unit of work is a head of some tokens, so
 * that its rows are read once for them. Rows that are taken across (transposed)
 * are decoded and added up in their order.
 */
#include "device/cpu_internal.h"

#include <string.h>

enum { TOKENS = 4 }; /* of a unit; their blobs fit the thread's memory */

struct heads_job {
    struct cpu *d;
    const struct dev_heads *a;
    const float *x;
    float *out;
};

static const float *head_of(const struct heads_job *j, int64_t t, int64_t h)
{
    return j->x + t * j->a->x_token + h * j->a->x_head;
}

static float *out_of(const struct heads_job *j, int64_t t, int64_t h)
{
    return j->out + t * j->a->out_token + h * j->a->out_head;
}

static void multiply(const struct heads_job *j, int i, int64_t h, int64_t t0, int64_t t1)
{
    const struct dev_heads *a = j->a;
    const int64_t r0 = h * a->step + a->first;
    void *act = cpu_thread_mem(j->d, i);
    for (int64_t t = t0; t < t1; t++) {
        if (cpu_uses_act(j->d, a->w))
            j->d->k->quantize(act, head_of(j, t, h), a->n_in);
        cpu_mul(j->d, a->w, r0, r0 + a->n_out, head_of(j, t, h), a->n_in, act, 1, out_of(j, t, h),
                0);
    }
}

static void multiply_across(const struct heads_job *j, int i, int64_t h, int64_t t0, int64_t t1)
{
    const struct dev_heads *a = j->a;
    const size_t row_bytes = dtype_row_bytes(a->w->type, a->w->n_in);
    const uint8_t *rows =
        (const uint8_t *)cpu_at(a->w->data) + (size_t)(h * a->step + a->first) * row_bytes;
    const float *scale = cpu_at(a->w->scale);
    float *row = cpu_thread_mem(j->d, i);
    for (int64_t t = t0; t < t1; t++)
        memset(out_of(j, t, h), 0, (size_t)a->n_out * sizeof(float));
    for (int64_t r = 0; r < a->n_in; r++) {
        kern_dequant_row(a->w->type, row, rows + (size_t)r * row_bytes, a->n_out);
        for (int64_t t = t0; t < t1; t++)
            j->d->k->axpy(out_of(j, t, h), head_of(j, t, h)[r], row, a->n_out);
    }
    for (int64_t t = t0; scale && t < t1; t++)
        j->d->k->scale(out_of(j, t, h), *scale, a->n_out);
}

static void copy_head(const struct heads_job *j, int64_t h, int64_t t0, int64_t t1)
{
    for (int64_t t = t0; t < t1; t++)
        memcpy(out_of(j, t, h), head_of(j, t, h), (size_t)j->a->n_out * sizeof(float));
}

static void heads_part(void *arg, int i, int n)
{
    const struct heads_job *j = arg;
    const struct dev_heads *a = j->a;
    int64_t groups = (a->n_tok + TOKENS - 1) / TOKENS, u0, u1;
    (void)n;
    while (pool_take(j->d->pool, i, groups * a->n_heads, &u0, &u1))
        for (int64_t u = u0; u < u1; u++) {
            int64_t h = u / groups, t0 = u % groups * TOKENS, t1 = MIN(t0 + TOKENS, a->n_tok);
            if (!a->w)
                copy_head(j, h, t0, t1);
            else
                (a->transposed ? multiply_across : multiply)(j, i, h, t0, t1);
        }
}

void cpu_heads(struct device *dev, const struct dev_heads *a)
{
    struct cpu *d = cpu_of(dev);
    struct heads_job j = {.d = d, .a = a, .x = cpu_at(a->x), .out = cpu_at(a->out)};
    if (d->measuring) {
        cpu_note(&d->sizes.max_in, MAX(a->n_in, a->n_out));
        return;
    }
    pool_run(d->pool, heads_part, &j);
}
