/* Looking at values: whether they are finite, and what weights decode to. */
#include "device/cpu_internal.h"

#include <stdatomic.h>
#include <string.h>

/* Adding one to the exponent sets the sign bit if it was all ones, so one test
 * at the end answers for all. */
static bool finite_span(const float *x, int64_t n)
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
    int64_t n;
    atomic_bool bad;
};

static void finite_part(void *arg, int i, int n)
{
    struct finite_job *j = arg;
    int64_t begin, end;
    pool_split(j->n, 1024, i, n, &begin, &end);
    if (!finite_span(j->x + begin, end - begin))
        atomic_store(&j->bad, true);
}

bool device_finite(struct device *d, const float *x, int64_t n)
{
    enum { ALONE = 32 << 10 }; /* below it waking the threads takes longer */
    struct finite_job j = {.x = x, .n = n};
    if (n <= ALONE)
        return finite_span(x, n);
    pool_run(d->pool, finite_part, &j);
    return !atomic_load(&j.bad);
}

bool dev_decode(enum dtype t, float *y, const void *row, int64_t n)
{
    return kern_dequant_row(t, y, row, n) == OK;
}
