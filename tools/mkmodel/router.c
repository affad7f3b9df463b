/*
 * Routers that prefer some experts.
 */
#include "mkmodel.h"

#include "kern/kern.h"

#include <math.h>
#include <stdlib.h>

/* x with normal_cdf(x) = p. */
static double normal_quantile(double p)
{
    double lo = -8, hi = 8;

    for (int i = 0; i < 60; i++) {
        double mid = (lo + hi) / 2;

        if (0.5 * erfc(-mid / sqrt(2)) < p)
            lo = mid;
        else
            hi = mid;
    }
    return (lo + hi) / 2;
}

/* Probability of being picked for rank r (from 0), all summing to `used`. */
static double pick_probability(const struct config *c, int64_t r, double scale)
{
    return MIN(0.98, scale * pow((double)r + 1, -c->skew));
}

static double zipf_scale(const struct config *c)
{
    double lo = 0, hi = (double)c->experts * pow((double)c->experts, c->skew);

    for (int i = 0; i < 80; i++) {
        double mid = (lo + hi) / 2, sum = 0;

        for (int64_t r = 0; r < c->experts; r++)
            sum += pick_probability(c, r, mid);
        if (sum < (double)c->used)
            lo = mid;
        else
            hi = mid;
    }
    return (lo + hi) / 2;
}

/*
 * Router rows. A token's logit for expert e is random with deviation about 1
 * plus b[e], the same for all tokens: with b = normal_quantile(probability)
 * expert e is among the picked ones with about that probability.
 */
void mk_router(const struct model *m, const struct tensor *t, float *w, uint64_t *s)
{
    const struct config *c = &m->c;
    double scale = zipf_scale(c), energy = 0, mean = 0, rms;
    double *b = mk_need(malloc((size_t)c->experts * sizeof *b));

    for (int64_t i = 0; i < m->n_common; i++)
        energy += (double)m->common[i] * (double)m->common[i];
    /* The residual stream grows with depth, and the norm divides by that: by the
     * experts, in qwen35moe also by the shared one and the linear layers. */
    rms = sqrt(1 + (c->has & LINEAR ? 0.4 : 0.06) * t->layer);
    for (int64_t e = 0; e < c->experts; e++)
        mean += b[e] = normal_quantile(pick_probability(c, e, scale));
    for (int64_t e = c->experts - 1; e > 0; e--) { /* ranks in random order */
        int64_t o = (int64_t)(synth_next(s) % ((uint64_t)e + 1));
        double x = b[e];

        b[e] = b[o];
        b[o] = x;
    }
    synth_fill(DT_F32, t->std, w, c->experts * c->hidden, s);
    for (int64_t e = 0; e < c->experts && energy > 0; e++)
        for (int64_t i = 0; i < m->n_common; i++)
            w[e * c->hidden + i] += (float)((b[e] - mean / (double)c->experts) * rms / energy *
                                            (double)m->common[i]);
    free(b);
}

/* The shared start of the embedding rows. */
void mk_common(struct model *m)
{
    const struct config *c = &m->c;
    const struct tensor *t = &m->t[0];
    const struct dtype_info *info = dtype_info((uint32_t)t->type);
    uint64_t s = synth_stream((uint64_t)c->seed, "common");

    m->n_common = c->skew > 0 ? MAX(c->hidden / 8 / info->block, 1) * info->block : 0;
    m->common = mk_need(calloc((size_t)m->n_common + 1, sizeof *m->common));
    m->common_bytes = mk_need(calloc(1, dtype_row_bytes(t->type, m->n_common) + 1));
    if (!m->n_common)
        return;
    synth_fill(t->type, t->std, m->common_bytes, m->n_common / info->block, &s);
    kern_dequant_row(t->type, m->common, m->common_bytes, m->n_common);
}
