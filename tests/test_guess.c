/*
 * test_guess: how many experts are guessed ahead follows from what becomes of
 * the guesses; what the user said stays. The 8-bit copy of a router picks what
 * the router would.
 */
#include "model/model_internal.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void ticks(struct guess *g, int n, int64_t queued, int64_t wasted)
{
    for (int i = 0; i < n; i++)
        guess_tick(g, &(struct guess_totals){.queued = queued, .wasted = wasted});
}

static void bad_guesses_become_fewer(void **state)
{
    (void)state;
    struct guess g;
    guess_open(&g, 0, 10);
    assert_int_equal(g.n, 6);
    ticks(&g, 15, 100, 90);
    assert_int_equal(g.n, 6); /* not yet */
    ticks(&g, 1, 100, 90);
    assert_int_equal(g.n, 4);
    for (int i = 2; i < 20; i++)
        ticks(&g, 16, 100 * i, 90 * i);
    assert_int_equal(g.n, 1); /* and never none: else nothing could be learned */
    for (int i = 0; i < 20; i++)
        ticks(&g, 16, 2000 + 100 * i, 1710 + i);
    assert_int_equal(g.n, 6);
    ticks(&g, 16, 4000, 1729 + 25); /* a quarter: neither */
    ticks(&g, 16, 4100, 1754 + 25);
    assert_int_equal(g.n, 6);
}

static void what_was_asked_for_stays(void **state)
{
    (void)state;
    struct guess g;
    guess_open(&g, 3, 8);
    for (int i = 1; i < 20; i++)
        ticks(&g, 16, 100 * i, 100 * i);
    assert_int_equal(g.n, 3);
    guess_open(&g, 12, 8);
    assert_int_equal(g.n, 8);
    guess_open(&g, -1, 8);
    assert_int_equal(g.n, 0);
    guess_open(&g, 0, 2);
    assert_int_equal(g.n, 2);
}

/* A period in which `spent` us of guessing made `useful` and `late` of 40 guesses,
 * beside 60 misses, while the drive was busy for 100 ms: 1 ms an expert. */
static void period(struct guess *g, struct guess_totals *t, int64_t spent_us, int useful, int late)
{
    t->queued += 40;
    t->useful += useful;
    t->late += late;
    t->wasted += 10;
    t->misses += 60;
    t->busy_ns += 100 * 1000 * 1000;
    g->spent_ns += g->n ? spent_us * 1000 : 0;
    for (int i = 0; i < 16; i++)
        guess_tick(g, t);
}

static void guesses_that_cost_more_than_they_spare_rest(void **state)
{
    (void)state;
    struct guess g;
    struct guess_totals t = {0};
    guess_open(&g, 0, 8);
    period(&g, &t, 19000, 15, 10); /* 15 + 10 / 2 experts of 1 ms */
    assert_int_equal(g.n, 6);
    period(&g, &t, 21000, 15, 10);
    assert_int_equal(g.n, 0);
    for (int i = 0; i < 14; i++) {
        period(&g, &t, 0, 0, 0);
        assert_int_equal(g.n, 0);
    }
    period(&g, &t, 0, 0, 0); /* another try */
    assert_int_equal(g.n, 6);
    period(&g, &t, 1000, 15, 0);
    assert_int_equal(g.n, 6);
    period(&g, &t, 1000, 0, 0);
    assert_int_equal(g.n, 0);
}

static void what_was_asked_for_stays_whatever_it_costs(void **state)
{
    (void)state;
    struct guess g;
    struct guess_totals t = {0};
    guess_open(&g, 4, 8);
    for (int i = 0; i < 5; i++)
        period(&g, &t, 1000000, 0, 0);
    assert_int_equal(g.n, 4);
}

enum { N_EXPERTS = 96, EMBD = 256, GUESSES = 8 };

static float noise(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(*seed >> 8) / (float)(1 << 23) - 1.0f;
}

/* Whether expert `id` is among the n with the highest exact scores. */
static bool is_high(const float *router, const float *norm, const float *x, int id, int n)
{
    double score[N_EXPERTS];
    int above = 0;
    for (int r = 0; r < N_EXPERTS; r++) {
        score[r] = 0;
        for (int i = 0; i < EMBD; i++)
            score[r] += (double)router[r * EMBD + i] * (double)norm[i] * (double)x[i];
    }
    for (int r = 0; r < N_EXPERTS; r++)
        above += score[r] > score[id];
    return above < n;
}

/* Device memory with these bytes in it. */
static struct dev_ptr put(struct device *d, const void *from, size_t bytes)
{
    struct dev_ptr p = {NULL, 0};
    assert_int_equal(d->ops->alloc(d, DEV_WEIGHTS, bytes, &p.mem, NULL), OK);
    if (from)
        d->ops->put(d, p, from, bytes);
    return p;
}

static void guess_with(bool exact, const float *router, const float *norm, const float *x,
                       int32_t *ids)
{
    struct device_config c = {.threads = 2, .exact = exact};
    struct device *d;
    int64_t fixed, per_position;
    assert_int_equal(device_cpu_open(&c, &d, NULL), OK);
    struct dev_mat w = {.type = DT_F32, .n_in = EMBD, .n_out = N_EXPERTS,
                        .data = put(d, router, sizeof(float) * N_EXPERTS * EMBD)};
    struct dev_mat copy = {.type = DT_Q8_0, .n_in = EMBD, .n_out = N_EXPERTS,
                           .data = put(d, NULL, d->ops->guess_bytes(d, N_EXPERTS, EMBD))};
    struct dev_guess a = {.x = put(d, x, sizeof(float) * EMBD),
                          .n_tok = 1,
                          .copy = &copy,
                          .n = GUESSES,
                          .ids = put(d, NULL, sizeof(int32_t) * GUESSES)};
    struct dev_guess_copy made = {
        .router = &w, .norm = put(d, norm, sizeof(float) * EMBD), .copy = copy.data};
    d->ops->measure(d);
    d->ops->guess(d, &a);
    d->ops->measured(d, &fixed, &per_position);
    assert_int_equal(d->ops->reserve(d, 16, NULL), OK);
    d->ops->guess_copy(d, &made);
    d->ops->guess(d, &a);
    assert_int_equal(device_bring(d, ids, a.ids, sizeof(int32_t) * GUESSES, NULL), OK);
    assert_int_equal(d->ops->guess_bytes(d, 8, 48), 0); /* no whole blocks of 32 */
    dev_free(w.data.mem);
    dev_free(copy.data.mem);
    dev_free(a.x.mem);
    dev_free(a.ids.mem);
    dev_free(made.norm.mem);
    device_close(d);
}

static void the_copy_picks_what_the_router_would(void **state)
{
    (void)state;
    static float router[N_EXPERTS * EMBD], norm[EMBD], x[EMBD];
    uint32_t seed = 1;
    for (int i = 0; i < N_EXPERTS * EMBD; i++)
        router[i] = 0.02f * noise(&seed);
    for (int i = 0; i < EMBD; i++)
        norm[i] = 1.0f + 0.9f * noise(&seed);
    for (int round = 0; round < 40; round++) {
        int32_t ids[GUESSES];
        for (int i = 0; i < EMBD; i++)
            x[i] = 30.0f * noise(&seed);
        guess_with(round % 2, router, norm, x, ids);
        assert_true(is_high(router, norm, x, ids[0], 2));
        for (int k = 0; k < GUESSES; k++)
            assert_true(is_high(router, norm, x, ids[k], GUESSES + 2));
    }
}

static void a_router_of_nonsense_is_survived(void **state)
{
    (void)state;
    static float router[N_EXPERTS * EMBD], norm[EMBD], x[EMBD];
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, 1e-40f, 0.0f};
    for (int i = 0; i < N_EXPERTS * EMBD; i++)
        router[i] = odd[(i / 7) % 6];
    for (int i = 0; i < EMBD; i++) {
        norm[i] = odd[(i / 3) % 6];
        x[i] = 1.0f;
    }
    int32_t ids[GUESSES];
    guess_with(false, router, norm, x, ids);
    for (int k = 0; k < GUESSES; k++)
        assert_in_range(ids[k], 0, N_EXPERTS - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_guesses_become_fewer),
        cmocka_unit_test(what_was_asked_for_stays),
        cmocka_unit_test(guesses_that_cost_more_than_they_spare_rest),
        cmocka_unit_test(what_was_asked_for_stays_whatever_it_costs),
        cmocka_unit_test(the_copy_picks_what_the_router_would),
        cmocka_unit_test(a_router_of_nonsense_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
