/*
 * The gated delta net on the CPU. A thread takes whole key heads with the
 * value heads that use them, and runs them over all tokens: the state of a
 * head stays in the second-level cache and no barrier is needed.
 */
#include "device/cpu_internal.h"

#include <math.h>
#include <string.h>

struct delta_job { /* of one span */
    struct cpu *d;
    const struct dev_delta *a;
    int64_t n_tok, channels;
    float *u, *conv_state, *S, *out;             /* of the span's first token */
    const float *z, *alpha, *beta, *decay, *dt, *norm;
    const float *conv[3];                        /* of queries, keys, values */
};

/* Convolution of channels [c, c + n) over all tokens by `conv` (n, 4), in place, last
 * token first so that earlier inputs are still there; the window moves on. */
static void convolve(const struct delta_job *j, int64_t c, int64_t n, const float *conv)
{
    int64_t ch = j->channels, t_end = j->n_tok;
    const float *row[3];
    float last[3][64];

    for (int64_t c0 = c; c0 < c + n; c0 += 64) {
        int64_t w = MIN((int64_t)64, c + n - c0);
        for (int64_t r = 0; r < 3; r++) { /* the window after this call */
            int64_t t = t_end - 3 + r;
            const float *src = t >= 0 ? j->u + t * ch : j->conv_state + (t + 3) * ch;
            memcpy(last[r], src + c0, (size_t)w * sizeof(float));
        }
        for (int64_t t = t_end - 1; t >= 0; t--) {
            for (int64_t r = 0; r < 3; r++) {
                int64_t at = t - 3 + r;
                row[r] = (at >= 0 ? j->u + at * ch : j->conv_state + (at + 3) * ch) + c0;
            }
            float *u = j->u + t * ch + c0;
            j->d->k->conv4_silu(u, row[0], row[1], row[2], u, conv + (c0 - c) * 4, w);
        }
        for (int64_t r = 0; r < 3; r++)
            memcpy(j->conv_state + r * ch + c0, last[r], (size_t)w * sizeof(float));
    }
}

static int64_t key_head(const struct dev_delta *a, int64_t p)
{
    return a->grouped ? p / (a->n_v / a->n_k) : p % a->n_k;
}

/* The step of one token in value head p; its output is normed and gated later. */
static void step(const struct delta_job *j, int64_t p, int64_t t, float *o)
{
    const struct dev_delta *a = j->a;
    const struct kern *k = j->d->k;
    const int64_t kd = a->n_k * a->dk, head = key_head(a, p);
    const int64_t ab = p / a->ab_run * a->ab_step + p % a->ab_run;
    const float *u = j->u + t * j->channels, out_scale = 1.0f / sqrtf((float)a->dk);
    float *S = j->S + p * a->dk * a->dv, *g = o + a->dv, beta;
    const int64_t n = a->kda ? a->dk : 1; /* decays */
    const float *alpha = j->alpha + (a->kda ? (t * a->n_v + p) * n : t * a->ab_token + ab);
    memcpy(g, alpha, (size_t)n * sizeof(*g));
    k->add(g, j->dt + p * n, n);
    if (a->floor != 0.0f) {
        k->scale(g, a->steep * j->decay[p], n);
        k->sigmoid(g, g, n);
        k->scale(g, a->floor, n);
    } else {
        k->softplus(g, g, n);
        k->scale(g, j->decay[p], n);
    }
    k->exp(g, g, n);
    k->sigmoid(&beta, j->beta + t * a->ab_token + ab, 1);
    if (a->kda)
        k->kda_step(S, u + head * a->dk, u + kd + head * a->dk, u + 2 * kd + p * a->dv, o, a->dk,
                    a->dv, g, beta, out_scale);
    else
        k->delta_step(S, u + head * a->dk, u + kd + head * a->dk, u + 2 * kd + p * a->dv, o,
                      a->dk, a->dv, g[0], beta, out_scale);
}

/* o: scratch for dv + dk floats. */
static void value_head(const struct delta_job *j, int64_t p, float *o)
{
    const struct dev_delta *a = j->a;
    const struct kern *k = j->d->k;
    for (int64_t t = 0; t < j->n_tok; t++) {
        const float *z = j->z + (t * a->n_v + p) * a->dv;
        float *out = j->out + (t * a->n_v + p) * a->dv;
        step(j, p, t, o);
        k->rms_norm(o, o, j->norm, a->dv, a->eps);
        if (a->kda)
            k->sigmoid_mul(out, z, o, a->dv);
        else
            k->gate[KERN_SILU](out, z, o, a->dv, 0.0f);
    }
}

static void delta_heads(const struct delta_job *j, int i, int n)
{
    const struct dev_delta *a = j->a;
    int64_t h0, h1, kd = a->n_k * a->dk;
    pool_split(a->n_k, 1, i, n, &h0, &h1);
    for (int64_t h = h0; h < h1; h++) {
        convolve(j, h * a->dk, a->dk, j->conv[0] + h * a->dk * 4);
        convolve(j, kd + h * a->dk, a->dk, j->conv[1] + h * a->dk * 4);
        for (int64_t t = 0; t < j->n_tok; t++) {
            float *q = j->u + t * j->channels + h * a->dk;
            j->d->k->l2_norm(q, q, a->dk, a->eps);
            j->d->k->l2_norm(q + kd, q + kd, a->dk, a->eps);
        }
        for (int64_t p = 0; p < a->n_v; p++) {
            if (key_head(a, p) != h)
                continue;
            convolve(j, 2 * kd + p * a->dv, a->dv, j->conv[2] + p * a->dv * 4);
            value_head(j, p, cpu_thread_mem(j->d, i));
        }
    }
}

static struct delta_job job_of(struct cpu *d, const struct dev_delta *a,
                               const struct dev_delta_span *s)
{
    const int64_t kd = a->n_k * a->dk, vd = a->n_v * a->dv, channels = 2 * kd + vd;
    const float *conv = cpu_at(a->conv), *conv_k = cpu_at(a->conv_k), *conv_v = cpu_at(a->conv_v);
    const int64_t alphas = a->kda ? a->n_v * a->dk : a->ab_token;
    return (struct delta_job){
        .d = d, .a = a, .n_tok = s->n_tok, .channels = channels,
        .u = (float *)cpu_at(a->u) + s->first * channels,
        .z = (const float *)cpu_at(a->z) + s->first * vd,
        .out = (float *)cpu_at(a->out) + s->first * vd,
        .alpha = (const float *)cpu_at(a->alpha) + s->first * alphas,
        .beta = (const float *)cpu_at(a->beta) + s->first * a->ab_token,
        .conv_state = cpu_at(s->conv_state), .S = cpu_at(s->S), .decay = cpu_at(a->decay),
        .dt = cpu_at(a->dt), .norm = cpu_at(a->norm),
        .conv = {conv, conv_k ? conv_k : conv + 4 * kd, conv_v ? conv_v : conv + 8 * kd}};
}

struct delta_spans {
    struct cpu *d;
    const struct dev_delta *a;
};

static void delta_spans(void *arg, int i, int n)
{
    const struct delta_spans *all = arg;
    for (int k = 0; k < all->a->n_spans; k++) {
        struct delta_job j = job_of(all->d, all->a, &all->a->spans[k]);
        delta_heads(&j, i, n);
    }
}

void cpu_delta(struct device *dev, const struct dev_delta *a)
{
    struct cpu *d = cpu_of(dev);
    struct delta_spans all = {d, a};
    if (d->measuring) {
        cpu_note(&d->sizes.delta_dim, a->dk + a->dv);
        return;
    }
    pool_run(d->pool, delta_spans, &all);
}
