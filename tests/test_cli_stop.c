/*
 * Signals and the answer: nothing is shown after one came, and a conversation
 * forgets Ctrl-C only.
 */
#include "cli/cli.h" /* first: cmocka.h makes `fail` a macro */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <signal.h>
#include <string.h>

static void nothing_is_shown_after_a_signal(void **state)
{
    (void)state;
    struct answer w;
    sluice_answer_options o;
    sluice_answer_options_init(&o);
    assert_int_equal(answer_begin(&w, NULL, &o, false), ST_OK);
    assert_int_equal(answer_token(&w, 1, "one", 3), 0);
    raise(SIGINT);
    assert_true(interrupted() && !terminated());
    assert_true(answer_token(&w, 2, "two", 3) < 0);
    assert_string_equal(w.content.p, "one");
    assert_int_equal(w.n_ids, 1);
    assert_true(progress_tell(NULL, "token", 0, 1) != 0);
    assert_true(progress_quiet(NULL, "probe", 0, 1) != 0);
    interrupt_clear();
    assert_false(interrupted());
    assert_int_equal(answer_token(&w, 2, "two", 3), 0);
    assert_string_equal(w.content.p, "onetwo");
    answer_free(&w);
}

static void only_interrupts_are_forgotten(void **state)
{
    (void)state;
    raise(SIGTERM);
    interrupt_clear();
    assert_true(interrupted() && terminated());
    assert_int_equal(signals_finish(ST_OK), ST_OK); /* done all the same */
    assert_int_equal(signals_finish(ST_USAGE), ST_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_shown_after_a_signal),
        cmocka_unit_test(only_interrupts_are_forgotten),
    };
    signal(SIGINT, SIG_DFL); /* as a shell starts what is in the foreground */
    signal(SIGTERM, SIG_DFL);
    signals_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
