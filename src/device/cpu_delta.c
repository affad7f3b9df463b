/*
 * The gated delta net on the CPU. A thread takes whole key heads with the
 * value heads that use them, and runs them over all tokens: the state of a
 * head stays in the second-level cache and no barrier is needed.
 */
#include "device/cpu_internal.h"

#include <math.h>
#include <string.h>

struct delta_job {
    struct device *d;
    const struct dev_delta *a;
    int64_t channels;
};

/* Convolution of channels [c, c + n) over all tokens, in place, last token
 * first so that earlier inputs are still there; the window moves on. */
static void convolve(const struct delta_job *j, int64_t c, int64_t n)
{
    const struct dev_delta *a = j->a;
    int64_t ch = j->channels, t_end = a->n_tok;
    const float *row[3];
    float last[3][64];

    for (int64_t c0 = c; c0 < c + n; c0 += 64) {
        int64_t w = MIN((int64_t)64, c + n - c0);
        for (int64_t r = 0; r < 3; r++) { /* the window after this call */
            int64_t t = t_end - 3 + r;
            const float *src = t >= 0 ? a->u + t * ch : a->conv_state + (t + 3) * ch;
            memcpy(last[r], src + c0, (size_t)w * sizeof(float));
        }
        for (int64_t t = t_end - 1; t >= 0; t--) {
            for (int64_t r = 0; r < 3; r++) {
                int64_t at = t - 3 + r;
                row[r] = (at >= 0 ? a->u + at * ch : a->conv_state + (at + 3) * ch) + c0;
            }
            float *u = a->u + t * ch + c0;
            j->d->k->conv4_silu(u, row[0], row[1], row[2], u, a->conv + c0 * 4, w);
        }
        for (int64_t r = 0; r < 3; r++)
            memcpy(a->conv_state + r * ch + c0, last[r], (size_t)w * sizeof(float));
    }
}

static void value_head(const struct delta_job *j, int64_t p, float *o)
{
    const struct dev_delta *a = j->a;
    const struct kern *k = j->d->k;
    int64_t kd = a->n_k * a->dk, head = p % a->n_k;
    float *S = a->S + p * a->dk * a->dv;
    float out_scale = 1.0f / sqrtf((float)a->dk);

    for (int64_t t = 0; t < a->n_tok; t++) {
        const float *u = a->u + t * j->channels;
        float g = a->alpha[t * a->n_v + p] + a->dt[p], beta, decay;
        k->softplus(&g, &g, 1);
        g *= a->a[p];
        k->exp(&decay, &g, 1);
        k->sigmoid(&beta, a->beta + t * a->n_v + p, 1);
        k->delta_step(S, u + head * a->dk, u + kd + head * a->dk, u + 2 * kd + p * a->dv, o, a->dk,
                      a->dv, decay, beta, out_scale);
        k->rms_norm(o, o, a->norm, a->dv, a->eps);
        float *out = a->out + (t * a->n_v + p) * a->dv;
        k->silu_mul(out, a->z + (t * a->n_v + p) * a->dv, o, a->dv);
    }
}

static void delta_heads(void *arg, int i, int n)
{
    const struct delta_job *j = arg;
    const struct dev_delta *a = j->a;
    int64_t h0, h1, kd = a->n_k * a->dk;
    pool_split(a->n_k, 1, i, n, &h0, &h1);
    for (int64_t h = h0; h < h1; h++) {
        convolve(j, h * a->dk, a->dk);
        convolve(j, kd + h * a->dk, a->dk);
        for (int64_t t = 0; t < a->n_tok; t++) {
            float *q = a->u + t * j->channels + h * a->dk;
            j->d->k->l2_norm(q, q, a->dk, a->eps);
            j->d->k->l2_norm(q + kd, q + kd, a->dk, a->eps);
        }
        for (int64_t p = h; p < a->n_v; p += a->n_k) {
            convolve(j, 2 * kd + p * a->dv, a->dv);
            value_head(j, p, cpu_thread_mem(j->d, i));
        }
    }
}

void device_delta(struct device *d, const struct dev_delta *a)
{
    struct delta_job j = {.d = d, .a = a, .channels = 2 * a->n_k * a->dk + a->n_v * a->dv};
    pool_run(d->pool, delta_heads, &j);
}
