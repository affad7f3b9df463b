/*
 * Guessing a later layer's picks on the CPU. A router in floats is a twentieth
 * of what a token reads from memory; a guess does with 8-bit weights.
 */
#include "device/cpu_internal.h"

#include <math.h>

enum { BLOCK = 32, BLOCK_BYTES = 34 }; /* Q8_0: F16 scale, 32 signed bytes */

size_t dev_guess_bytes(int64_t n_experts, int64_t n_embd)
{
    return n_embd % BLOCK ? 0 : (size_t)n_experts * dtype_row_bytes(DT_Q8_0, n_embd);
}

static void encode_block(const struct device *d, uint8_t *out, const float *x)
{
    float most = 0.0f;
    for (int i = 0; i < BLOCK; i++)
        most = fmaxf(most, fabsf(x[i]));
    float scale = most / 127.0f;
    d->k->f32_to_f16((uint16_t *)(void *)out, &scale, 1);
    for (int i = 0; i < BLOCK; i++) {
        float v = most > 0.0f ? x[i] / scale : 0.0f;
        out[2 + i] = (uint8_t)(int8_t)(fabsf(v) <= 127.5f ? lrintf(v) : 0); /* NaN: 0 */
    }
}

void device_guess_copy(struct device *d, const struct dev_mat *router, const float *norm, void *copy)
{
    size_t row = dtype_row_bytes(router->type, router->n_in);
    uint8_t *out = copy;
    for (int64_t r = 0; r < router->n_out; r++) {
        kern_dequant_row(router->type, d->norm, (const uint8_t *)router->data + (size_t)r * row, router->n_in);
        for (int64_t i = 0; i < router->n_in; i++)
            d->norm[i] *= norm[i];
        for (int64_t i = 0; i < router->n_in; i += BLOCK, out += BLOCK_BYTES)
            encode_block(d, out, d->norm + i);
    }
}

struct guess_job {
    const struct device *d;
    const struct dev_mat *copy;
    const float *x;
};

static void guess_rows(void *arg, int i, int n)
{
    const struct guess_job *j = arg;
    int64_t u0, u1, r0, r1;
    (void)n;
    while (pool_take(j->d->pool, i, cpu_units(j->copy), &u0, &u1)) {
        cpu_unit_rows(j->copy, u0, u1, &(int64_t){0}, &r0, &r1);
        cpu_mul(j->d, j->copy, r0, r1, j->x, j->copy->n_in, j->d->act, 1, j->d->guess + r0, 0);
    }
}

void device_guess(struct device *d, const float *x, const struct dev_mat *copy, int32_t *ids, int n)
{
    struct guess_job j = {.d = d, .copy = copy, .x = x};
    float vals[DEV_MAX_USED];
    if (cpu_uses_act(d, copy))
        d->k->quantize(d->act, x, copy->n_in);
    pool_run(d->pool, guess_rows, &j);
    cpu_top_k(d->guess, copy->n_out, ids, vals, n);
}
