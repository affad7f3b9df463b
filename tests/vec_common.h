/*
 * What check_vec.c and check_mix.c share: the tables, the list of what is in them,
 * numbers of every kind, comparison by bits.
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

/* Every function of a table, and the program that compares it in all of them. */
#define KERN_FUNCTIONS(X) \
    X(mulf, check_kern) X(mulq, check_kern) X(quantize, check_kern) \
    X(panel_rows, check_kern) X(mul_panels, check_kern) X(panel_tokens, check_kern) \
    X(rms_norm, check_vec) X(l2_norm, check_vec) X(add, check_vec) X(axpy, check_vec) \
    X(scale, check_vec) X(gate, check_vec) X(sigmoid_mul, check_vec) X(sigmoid, check_vec) \
    X(softplus, check_vec) X(exp, check_vec) X(softcap, check_vec) X(softmax, check_vec) \
    X(rope_neox, check_vec) X(rope_angles, check_vec) X(f32_to_f16, check_vec) \
    X(f16_to_f32, check_vec) X(attention, check_mix) X(delta_step, check_mix) \
    X(kda_step, check_mix) X(conv4_silu, check_mix)
#define KERN_FUNCTION_BYTES(name, program) +sizeof(((struct kern *)NULL)->name)
_Static_assert(sizeof(struct kern) == offsetof(struct kern, mulf) + 2 * sizeof(int)
                                          KERN_FUNCTIONS(KERN_FUNCTION_BYTES),
               "a function of the table has no row above");

#define KERN_FUNCTION_ROW(name, program) {#name, #program, 0},
static struct {
    const char *name, *program;
    unsigned tables; /* in which it was compared, a bit each */
} kern_functions[] = {KERN_FUNCTIONS(KERN_FUNCTION_ROW)};

/* What begins with the function's name was compared with the portable table's. */
static inline void compared(const char *op, const char *table)
{
    const size_t n = strcspn(op, " ,");
    for (size_t i = 0; i < ARRAY_LEN(kern_functions); i++)
        for (int t = 0; t < n_tables && strlen(kern_functions[i].name) == n &&
                        memcmp(kern_functions[i].name, op, n) == 0; t++)
            kern_functions[i].tables |= (unsigned)(tables[t]->name == table) << t;
}

static inline void all_were_compared(const char *program)
{
    for (size_t i = 0; i < ARRAY_LEN(kern_functions); i++)
        if (strcmp(kern_functions[i].program, program) == 0 &&
            kern_functions[i].tables != (1u << n_tables) - 1)
            fail_msg("%s is not compared in every table", kern_functions[i].name);
}

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

/* Memory for a result. It holds no number, so that what a function leaves unwritten
 * shows, and draws none, so that the inputs do not depend on how many tables there are. */
static inline float *unset(int64_t n)
{
    float *x = need((size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++)
        x[i] = NAN;
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
    compared(op, table);
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
