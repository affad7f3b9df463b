/*
 * test_guess: how many experts are guessed ahead follows from what becomes of
 * the guesses; what the user said stays.
 */
#include "model/model_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void ticks(struct guess *g, int n, int64_t queued, int64_t wasted)
{
    for (int i = 0; i < n; i++)
        guess_tick(g, queued, wasted);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_guesses_become_fewer),
        cmocka_unit_test(what_was_asked_for_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
