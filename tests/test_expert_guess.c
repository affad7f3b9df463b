/*
 * test_expert_guess: what the expert cache reads ahead, with every back end of this
 * system and every policy.
 */
#include "expert_rig.h"

static void drain(struct env *v)
{
    while (!ioq_idle(v->q))
        ioq_wait_any(v->q);
}

static void hints_are_used(void **state)
{
    struct env *v = *state;
    open_cache(v, full_bytes(v));
    assert_int_equal(expert_guess(v->c, 1, (int32_t[]){3, 4, 5}, 3), 3);
    assert_int_equal(expert_guess(v->c, 1, (int32_t[]){3, 4, 5}, 3), 0); /* on their way */
    drain(v);
    assert_int_equal(one_layer(v, 1, (int32_t[]){3, 5, 6}, 3), 2);
    struct expert_stats s = stats(v);
    assert_int_equal(s.guess_queued, 3);
    assert_int_equal(s.guess_useful, 2);
    assert_int_equal(s.guess_late, 0);
    assert_int_equal(s.n_hits, 2);
    assert_int_equal(one_layer(v, 1, (int32_t[]){3, 5, 6}, 3), 3);
    assert_int_equal(stats(v).guess_useful, 2);
    assert_int_equal(expert_guess(v->c, 2, (int32_t[]){0}, 1), 0); /* a dense layer */
    assert_int_equal(expert_guess(v->c, 1, (int32_t[]){99}, 1), 0);
}

static void late_hints_are_promoted_and_stale_ones_dropped(void **state)
{
    struct env *v = *state;
    open_cache(v, full_bytes(v));
    slow(v, 10);
    assert_int_equal(expert_guess(v->c, 5, (int32_t[]){0, 1, 2, 3, 4, 5, 6, 7}, 8), 8);
    request(v, 5, (int32_t[]){6, 9}, 2, v->lease);
    slow(v, 0);
    wait_all(v, v->lease, 2);
    assert_false(v->lease[0].hit);
    release_all(v, v->lease, 2);
    drain(v);
    struct expert_stats s = stats(v);
    struct ioq_stats io;
    ioq_get_stats(v->q, &io);
    assert_int_equal(s.guess_late, 1);
    assert_int_equal(s.guess_useful, 0);
    assert_int_equal(io.n_cancelled, 3); /* 4, 5, 7; the first four had begun */
    assert_int_equal(io.bytes_class[IOQ_AHEAD], 4 * 3 * 4096); /* an expert's superset: 3 pages */
    assert_int_equal(io.bytes_class[IOQ_DEMAND], 2 * 3 * 4096); /* 6, promoted, and 9 */
    assert_int_equal(one_layer(v, 5, (int32_t[]){0, 1, 4, 5}, 4), 2);
    assert_int_equal(stats(v).bytes_read, 8 * 3 * 4096);
}

/* Whoever finds here all that it wants asks for none, and the wrong guesses go. */
static void a_request_of_none_drops_what_is_queued(void **state)
{
    struct env *v = *state;
    struct ioq_stats io;
    open_cache(v, full_bytes(v));
    slow(v, 10);
    assert_int_equal(expert_guess(v->c, 5, (int32_t[]){0, 1, 2, 3, 4, 5, 6, 7}, 8), 8);
    assert_int_equal(n_kept(v, 5, (int32_t[]){6, 2}, 2, v->lease), 2);
    assert_int_equal(expert_request(v->c, 5, NULL, 0, NULL, NULL), OK);
    slow(v, 0);
    wait_all(v, v->lease, 2);
    release_all(v, v->lease, 2);
    drain(v);
    ioq_get_stats(v->q, &io);
    assert_int_equal(io.n_cancelled, 3); /* 4, 5, 7; the first four had begun */
}

/* A guess that came true and waits its turn as demand is no guess any more. */
static void dropping_hints_spares_what_is_leased(void **state)
{
    struct env *v = *state;
    open_cache(v, full_bytes(v));
    slow(v, 5);
    request(v, 0, (int32_t[]){0, 1, 2, 3}, 4, v->lease); /* 24 reads: more than go at once */
    request(v, 1, (int32_t[]){0, 1, 2, 3}, 4, v->lease + 4);
    assert_int_equal(expert_guess(v->c, 5, (int32_t[]){0, 1}, 2), 2);
    request(v, 5, (int32_t[]){0}, 1, v->lease + 8);
    expert_drop_guesses(v->c);
    slow(v, 0);
    wait_all(v, v->lease, 9);
    release_all(v, v->lease, 9);
    assert_int_equal(stats(v).guess_late, 1);
}

static void dropped_hints_leave_no_trace(void **state)
{
    struct env *v = *state;
    open_cache(v, min_bytes(v));
    slow(v, 10);
    expert_guess(v->c, 0, (int32_t[]){0, 1, 2, 3}, 4);
    expert_drop_guesses(v->c);
    slow(v, 0);
    assert_int_equal(one_layer(v, 0, (int32_t[]){0, 1, 2, 3}, 4), 0);
    slow(v, 10);
    expert_guess(v->c, 0, (int32_t[]){8, 9}, 2);
    assert_int_equal(one_layer(v, 1, (int32_t[]){0, 1, 2, 3}, 4), 0); /* needs their slots */
    slow(v, 0);
    drain(v);
}

static void a_failed_guess_is_read_again(void **state)
{
    struct env *v = *state;
    open_cache(v, full_bytes(v));
    set_fault(v, (struct ioq_fault){.kind = IOQ_FAULT_ERROR, .file = -1, .count = 1, .error = EIO});
    assert_int_equal(expert_guess(v->c, 0, (int32_t[]){7}, 1), 1);
    drain(v);
    assert_int_equal(one_layer(v, 0, (int32_t[]){7}, 1), 0);
    assert_int_equal(one_layer(v, 0, (int32_t[]){7}, 1), 1);
}

/* The guess came true while its read was under way, which then fails. */
static void a_guess_that_fails_late_is_read_again(void **state)
{
    struct env *v = *state;
    open_cache(v, full_bytes(v));
    set_fault(v, (struct ioq_fault){.kind = IOQ_FAULT_ERROR, .file = -1, .count = 1, .error = EIO,
                                    .delay_ms = 20});
    assert_int_equal(expert_guess(v->c, 0, (int32_t[]){7}, 1), 1);
    assert_int_equal(one_layer(v, 0, (int32_t[]){7}, 1), 0);
    assert_int_equal(one_layer(v, 0, (int32_t[]){7}, 1), 1);
}

static void hints_never_touch_leases(void **state)
{
    struct env *v = *state;
    open_cache(v, min_bytes(v));
    request(v, 0, (int32_t[]){0, 1, 2, 3}, 4, v->lease);
    assert_int_equal(expert_guess(v->c, 1, (int32_t[]){0, 1}, 2), 0);
    wait_all(v, v->lease, 4);
    release_all(v, v->lease, 4);
    for (int i = 0; i < 200; i++) {
        int32_t ids[N_USED], guess[N_USED];
        int layer = (int[]){0, 1, 3, 4, 5}[i % 5], next = (int[]){0, 1, 3, 4, 5}[(i + 1) % 5];
        pick(layer, ids, N_USED);
        request(v, layer, ids, N_USED, v->lease);
        pick(next, guess, 2);
        expert_guess(v->c, next, guess, 2);
        if (rng(4) == 0)
            expert_drop_guesses(v->c);
        wait_all(v, v->lease, N_USED);
        release_all(v, v->lease, N_USED);
        if (rng(4) == 0)
            expert_guess(v->c, next, guess, 2);
        if (rng(20) == 0)
            expert_resize(v->c, min_bytes(v) * (1 + rng(3)));
        if (i % 5 == 4)
            expert_tick(v->c);
    }
    struct expert_stats s = stats(v);
    assert_true(s.guess_useful + s.guess_late + s.guess_wasted <= s.guess_queued);
}

/* What is guessed for the layer to come takes the slots of the one that is done. */
static void a_guess_spares_its_own_layer(void **state)
{
    struct env *v = *state;
    struct expert_lease l[3];
    if (strcmp(v->policy, "lru") == 0) /* it knows no layers */
        return;
    fill_six(v);
    assert_int_equal(expert_guess(v->c, 4, (int32_t[]){5, 6}, 2), 2);
    assert_int_equal(n_kept(v, 4, (int32_t[]){0, 1, 2}, 3, l), 3);
    release_all(v, l, 3);
    assert_int_equal(n_kept(v, 3, (int32_t[]){0, 1, 2}, 3, l), 1);
    release_all(v, l, 3);
    assert_int_equal(n_kept(v, 4, (int32_t[]){5, 6}, 2, l), 2);
    wait_all(v, l, 2);
    assert_bytes(v, &l[0]);
    assert_bytes(v, &l[1]);
    release_all(v, l, 2);
}

/* ---- main ------------------------------------------------------------- */

static struct env env;

#define T(f) {#f, f, setup, teardown, &env}

static int run(const char *name)
{
    const struct CMUnitTest tests[] = {
        T(a_guess_spares_its_own_layer),
        T(hints_are_used),
        T(late_hints_are_promoted_and_stale_ones_dropped),
        T(a_request_of_none_drops_what_is_queued),
        T(dropping_hints_spares_what_is_leased),
        T(dropped_hints_leave_no_trace),
        T(a_failed_guess_is_read_again),
        T(a_guess_that_fails_late_is_read_again),
        T(hints_never_touch_leases),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void)
{
    return run_all(&env, run);
}
