/*
 * What check_vec.c and check_mix.c share: the tables, numbers of every kind,
 * comparison by bits.
 */
#ifndef VEC_COMMON_H
#define VEC_COMMON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kern/kern.h"

static const struct kern *tables[KERN_RUNGS_MAX];
static int n_tables;
static const struct kern *portable;

/* ---- numbers ------------------------------------------------------------ */

static uint64_t rng_state = 1;

static inline uint32_t rng(void)
{
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng_state >> 32);
}

static inline float uniform(float lo, float hi)
{
    return lo + (hi - lo) * ((float)(rng() >> 8) * 0x1p-24f);
}

enum fill { FILL_PLAIN, FILL_ZERO, FILL_DENORMAL, FILL_HUGE, FILL_MIXED, FILL_COUNT };

static inline float number(enum fill kind)
{
    static const float odd[] = {0.0f, -0.0f, FLT_MIN, -FLT_MIN, FLT_MAX, -FLT_MAX, 0x1p-149f,
                                -0x1p-149f, 1.0f, -1.0f, 20.0f, 88.72283f, -87.33654f, 65520.0f,
                                -104.0f, 89.0f, 0x1p-24f, 0x1p-25f, INFINITY, -INFINITY};
    switch (kind) {
    case FILL_PLAIN: return uniform(-3.0f, 3.0f) * (1.0f + 10.0f * (float)(rng() % 16 == 0));
    case FILL_ZERO: return rng() & 1 ? 0.0f : -0.0f;
    case FILL_DENORMAL: return uniform(-1.0f, 1.0f) * FLT_MIN;
    case FILL_HUGE: return uniform(-1.0f, 1.0f) * 1e30f;
    default: return rng() & 1 ? odd[rng() % ARRAY_LEN(odd)] : uniform(-100.0f, 100.0f);
    }
}

static inline void *need(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    assert_non_null(p);
    return p;
}

static inline float *vector(int64_t n, enum fill kind)
{
    float *x = need((size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++)
        x[i] = number(kind);
    return x;
}

static inline float *copy_of(const float *x, int64_t n)
{
    float *y = need((size_t)n * sizeof(float));
    memcpy(y, x, (size_t)n * sizeof(float));
    return y;
}

/* The same bits; which NaN a NaN is does not count. */
static inline void same_bits(const char *op, const char *table, const float *want, const float *got,
                      int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&want[i], &got[i], sizeof(float)) != 0 && !(isnan(want[i]) && isnan(got[i])))
            fail_msg("%s, table %s, n %lld, element %lld: expected %a, got %a", op, table,
                     (long long)n, (long long)i, (double)want[i], (double)got[i]);
}

/* |got - want| in units of the last place of a float at want. */
static inline double ulps(float got, double want)
{
    int e;
    if ((double)got == want)
        return 0;
    frexp(want, &e);
    return fabs((double)got - want) / ldexp(1.0, (e < -125 ? -125 : e) - 24);
}

/* 1..200, then a few long ones; 0 at the end. */
static inline int64_t length(int i)
{
    static const int64_t more[] = {255, 256, 1000, 4096, 4111, 0};
    return i < 200 ? i + 1 : more[i - 200];
}

static inline double sigmoid_ref(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static inline bool find_tables(void)
{
    n_tables = kern_available(tables);
    portable = tables[0];
    return n_tables >= 1;
}

#endif
