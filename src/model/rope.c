/*
 * Rotary frequencies and how they are stretched for contexts that are longer
 * than those a model was first trained with.
 *
 * Plain: freq[i] = base^(-2i / n_rot) (RoFormer, arXiv 2104.09864). Linear: all
 * divided by the factor. YaRN (arXiv 2309.00071): pairs that turn often in the
 * original context stay, those that turn little are divided, between beta_fast
 * and beta_slow turns they are mixed; cos and sin get a factor too. Powers are
 * taken in double and rounded once.
 */
#include "model/model_internal.h"

#include <math.h>

/* The pair that turns `turns` times in the original context. */
static double pair_of(const struct rope_config *r, int64_t n_rot, double turns)
{
    const double pi = 3.14159265358979323846;
    return (double)n_rot * log(r->original / (turns * 2.0 * pi)) / (2.0 * log(r->base));
}

/* How much of pair i stays as it is: 1 below the range, 0 above. */
static double stays(const struct rope_config *r, int64_t n_rot, int64_t i)
{
    const double low = fmax(0.0, floor(pair_of(r, n_rot, r->beta_fast)));
    const double high = fmin((double)n_rot - 1.0, ceil(pair_of(r, n_rot, r->beta_slow)));
    const double at = ((double)i - low) / fmax(0.001, high - low);
    return (1.0 - fmin(1.0, fmax(0.0, at))) * r->extrapolate;
}

void rope_frequencies(const struct rope_config *r, float *freq)
{
    const int64_t n_rot = r->n_rot;
    for (int64_t i = 0; i < n_rot / 2; i++) {
        const double f = 1.0 / pow(r->base, (double)(2 * i) / (double)n_rot);
        const double stretched = r->scaling == ROPE_PLAIN ? f : f / r->factor;
        const double kept = r->scaling == ROPE_YARN ? stays(r, n_rot, i) : 0.0;
        freq[i] = (float)(stretched * (1.0 - kept) + f * kept);
    }
}

static double mscale(const struct rope_config *r, double multiplier)
{
    return r->factor > 1.0 ? 1.0 + 0.1 * multiplier * log(r->factor) : 1.0;
}

float rope_magnitude(const struct rope_config *r)
{
    double m = r->attn_factor;
    if (r->scaling == ROPE_YARN && r->extrapolate != 0.0 && !r->plain_magnitude)
        m *= mscale(r, 1.0) / mscale(r, r->log_multiplier);
    return (float)m;
}

double rope_score_factor(const struct rope_config *r)
{
    const double own = r->scaling == ROPE_YARN ? (double)rope_magnitude(r) : r->attn_factor;
    const double m = own * mscale(r, r->log_multiplier);
    return m * m;
}
