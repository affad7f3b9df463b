/* Looking at values: whether they are finite, and what weights decode to. */
#include "device/cpu_internal.h"

#include <string.h>

/* Adding one to the exponent sets the sign bit if it was all ones, so one test
 * at the end answers for all. */
bool dev_floats_finite(const float *x, int64_t n)
{
    uint32_t seen = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof(bits));
        seen |= (bits & 0x7fffffffu) + 0x00800000u;
    }
    return seen >> 31 == 0;
}

struct finite_job {
    const float *x;
    int64_t n_tok, width;
    uint32_t *faults, tag;
};

static void finite_tokens(void *arg, int i, int n)
{
    const struct finite_job *j = arg;
    int64_t t0, t1;
    pool_split(j->n_tok, 1, i, n, &t0, &t1);
    for (int64_t t = t0; t < t1; t++)
        if (!j->faults[t] && !dev_floats_finite(j->x + t * j->width, j->width))
            j->faults[t] = j->tag;
}

void cpu_finite(struct device *dev, const struct dev_finite *a)
{
    enum { ALONE = 32 << 10 }; /* below it waking the threads takes longer */
    struct cpu *d = cpu_of(dev);
    struct finite_job j = {cpu_at(a->x), a->n_tok, a->width, cpu_at(a->faults), a->tag};
    if (d->measuring)
        return;
    if (a->n_tok * a->width <= ALONE)
        finite_tokens(&j, 0, 1);
    else
        pool_run(d->pool, finite_tokens, &j);
}

bool dev_decode(enum dtype t, float *y, const void *row, int64_t n)
{
    return kern_dequant_row(t, y, row, n) == OK;
}
