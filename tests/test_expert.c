/*
 * test_expert: the expert cache over real files, with every back end of this
 * system and every policy: bytes, leases, failures, memory.
 */
#include "expert_rig.h"

/* ---- bytes ------------------------------------------------------------ */

static void the_same_bytes_with_every_cache_size(void **state)
{
    struct env *v = *state;
    size_t least = min_bytes(v), full = full_bytes(v);
    for (int k = 0; k <= 8; k++) {
        size_t bytes = least + (full - least) * (size_t)k / 8;
        open_cache(v, bytes);
        assert_true(expert_bytes(v->c) <= bytes);
        for (int t = 0; t < 12; t++)
            random_token(v);
        struct expert_stats s = stats(v);
        assert_int_equal(s.n_requests, 12 * 5 * N_USED);
        assert_int_equal(s.n_requests, s.n_hits + s.n_misses);
        assert_true(s.slots_in_use <= s.n_slots);
        if (k == 8) {
            assert_int_equal(s.n_slots, 16 + 16 + 12 + 8 + 16);
            assert_int_equal(s.n_evicted, 0);
            assert_int_equal(s.slots_in_use, s.n_misses);
        }
    }
}

static void all_experts_of_a_layer_in_a_full_cache(void **state)
{
    struct env *v = *state;
    open_cache(v, full_bytes(v));
    int32_t ids[16];
    for (int round = 0; round < 2; round++)
        for (int l = 0; l < N_LAYERS; l++) {
            int n = layers[l].n_experts;
            for (int i = 0; i < n; i++)
                ids[i] = n - 1 - i;
            if (n)
                assert_int_equal(one_layer(v, l, ids, n), round ? n : 0);
        }
}

static void parts_side_by_side_are_one_read(void **state)
{
    struct env *v = *state;
    struct ioq_stats before, after;
    open_cache(v, full_bytes(v));
    ioq_get_stats(v->q, &before);
    one_layer(v, 3, (int32_t[]){5}, 1);
    ioq_get_stats(v->q, &after);
    assert_int_equal(after.n_reads - before.n_reads, 1);
    one_layer(v, 0, (int32_t[]){5}, 1);
    ioq_get_stats(v->q, &before);
    assert_int_equal(before.n_reads - after.n_reads, 3);
    assert_int_equal(stats(v).bytes_read, before.bytes);
}

static void parts_can_be_used_as_they_arrive(void **state)
{
    struct env *v = *state;
    open_cache(v, full_bytes(v));
    const struct expert_part *down = &layers[0].part[2];
    set_fault(v, (struct ioq_fault){.kind = IOQ_FAULT_SLOW, .file = 0, .begin = down->offset,
                                    .end = down->offset + 1, .count = 1, .delay_ms = 300});
    request(v, 0, (int32_t[]){0}, 1, v->lease);
    while (!expert_part_ready(v->c, v->lease, 0) || !expert_part_ready(v->c, v->lease, 1))
        usleep(100);
    assert_false(expert_part_ready(v->c, v->lease, 2));
    assert_false(expert_ready(v->c, v->lease));
    wait_all(v, v->lease, 1);
    release_all(v, v->lease, 1);
}

/* ---- leases ----------------------------------------------------------- */

static void leased_bytes_stay_put(void **state)
{
    struct env *v = *state;
    open_cache(v, min_bytes(v) + min_bytes(v) / 2);
    struct expert_lease kept[2];
    request(v, 3, (int32_t[]){2, 9}, 2, kept);
    wait_all(v, kept, 2);
    const void *data = expert_data(v->c, &kept[0], 1);
    for (int i = 0; i < 100; i++) { /* layers 3 and 4 share the size class */
        int32_t ids[2];
        do {
            pick(3, ids, 2);
        } while (ids[0] == 2 || ids[0] == 9 || ids[1] == 2 || ids[1] == 9);
        one_layer(v, 3, ids, 2);
        pick(4, ids, 2);
        one_layer(v, 4, ids, 2);
    }
    assert_ptr_equal(expert_data(v->c, &kept[0], 1), data);
    assert_bytes(v, &kept[0]);
    assert_bytes(v, &kept[1]);
    release_all(v, kept, 2);
}
/* A layer's request takes slots of that layer first, but for what was kept. */
static void what_is_kept_is_not_read_again(void **state)
{
    struct env *v = *state;
    struct expert_lease kept[3], other[2];
    const int32_t here[] = {2, 0, 1}, new[] = {8, 9};
    fill_six(v);
    struct expert_stats before = stats(v);
    assert_false(expert_keep(v->c, 3, 7, &other[0]));
    assert_int_equal(other[0].slot, -1);
    assert_false(expert_keep(v->c, 3, 1 << 20, &other[0]));
    assert_false(expert_keep(v->c, 99, 0, &other[0]));
    assert_int_equal(stats(v).n_requests, before.n_requests);
    assert_int_equal(n_kept(v, 3, here, 3, kept), 3);
    request(v, 3, new, 2, other);
    wait_all(v, other, 2);
    struct expert_stats after = stats(v);
    assert_int_equal(after.n_requests - before.n_requests, 5);
    assert_int_equal(after.n_hits - before.n_hits, 3);
    assert_int_equal(after.n_misses - before.n_misses, 2);
    assert_int_equal(after.n_evicted, 2);
    for (int i = 0; i < 3; i++) {
        assert_true(kept[i].hit);
        assert_bytes(v, &kept[i]);
    }
    release_all(v, kept, 3);
    release_all(v, other, 2);
}

static void two_leases_of_one_expert(void **state)
{
    struct env *v = *state;
    open_cache(v, min_bytes(v));
    struct expert_lease a, b;
    request(v, 0, (int32_t[]){3}, 1, &a);
    request(v, 0, (int32_t[]){3}, 1, &b);
    wait_all(v, &a, 1);
    expert_release(v->c, &a);
    assert_int_equal(a.slot, -1);
    expert_release(v->c, &a); /* harmless */
    for (int i = 0; i < 20; i++) {
        int32_t ids[3];
        pick(1, ids, 3);
        one_layer(v, 1, ids, 3);
    }
    wait_all(v, &b, 1);
    expert_release(v->c, &b);
}

static void too_many_leases_fail_and_change_nothing(void **state)
{
    struct env *v = *state;
    struct err e = {0};
    open_cache(v, min_bytes(v));
    struct expert_lease held[N_USED], more[2] = {{.slot = 7}, {.slot = 7}};
    request(v, 0, (int32_t[]){1, 2, 3}, 3, held);
    assert_int_equal(expert_free_slots(v->c, 0), 1);
    assert_int_equal(expert_request(v->c, 1, (int32_t[]){1, 2}, 2, more, &e), E_STATE);
    assert_true(e.text[0] && more[0].slot == -1 && more[1].slot == -1);
    assert_int_equal(expert_free_slots(v->c, 0), 1);
    wait_all(v, held, 3);
    release_all(v, held, 3);
    assert_int_equal(expert_free_slots(v->c, 0), N_USED);
    assert_int_equal(one_layer(v, 1, (int32_t[]){1, 2}, 2), 0);
}

static void bad_requests_are_refused(void **state)
{
    struct env *v = *state;
    struct err e = {0};
    open_cache(v, full_bytes(v));
    struct expert_lease l[2];
    assert_int_equal(expert_request(v->c, 2, (int32_t[]){0}, 1, l, &e), E_ARG);
    assert_int_equal(expert_request(v->c, N_LAYERS, (int32_t[]){0}, 1, l, NULL), E_ARG);
    assert_int_equal(expert_request(v->c, 4, (int32_t[]){8}, 1, l, NULL), E_ARG);
    assert_int_equal(expert_request(v->c, 4, (int32_t[]){1, -1}, 2, l, NULL), E_ARG);
    assert_int_equal(expert_request(v->c, 4, (int32_t[]){1, 1}, 2, l, NULL), E_ARG);
    assert_int_equal(stats(v).slots_in_use, 0);
    assert_int_equal(one_layer(v, 4, (int32_t[]){1, 7}, 2), 0);
    struct expert_config cfg = config(v, min_bytes(v) - 1);
    struct expert_cache *c = NULL;
    e = (struct err){0};
    assert_int_equal(expert_open(&cfg, &c, &e), E_BUDGET);
    cfg.cache_bytes = full_bytes(v);
    cfg.policy = "no such policy";
    assert_int_equal(expert_open(&cfg, &c, NULL), E_ARG);
    assert_null(c);
}

static void release_before_the_bytes_came(void **state)
{
    struct env *v = *state;
    open_cache(v, min_bytes(v));
    for (int i = 0; i < 30; i++) {
        int32_t ids[N_USED];
        if (i % 3 == 0)
            slow(v, (int)rng(3));
        pick(0, ids, N_USED);
        request(v, 0, ids, N_USED, v->lease);
        release_all(v, v->lease, N_USED);
        if (rng(2))
            one_layer(v, 0, ids, N_USED);
        else
            one_layer(v, 1, ids, N_USED);
    }
}

/* ---- failures --------------------------------------------------------- */

static void an_error_names_its_expert_and_passes(void **state)
{
    struct env *v = *state;
    struct err e = {0};
    open_cache(v, min_bytes(v) * 2);
    int n_free = expert_free_slots(v->c, 1);
    const struct expert_part *up = &layers[1].part[1];
    int64_t at = up->offset + 5 * up->stride;
    char offset[32];
    snprintf(offset, sizeof offset, "%lld", (long long)at);
    set_fault(v, (struct ioq_fault){.kind = IOQ_FAULT_ERROR, .file = 1, .begin = at + 1,
                                    .end = at + 2, .count = 2, .error = EIO});
    for (int round = 0; round < 3; round++) {
        request(v, 1, (int32_t[]){4, 5, 6}, 3, v->lease);
        wait_all(v, &v->lease[0], 1);
        int rc = expert_wait(v->c, &v->lease[1], &e);
        wait_all(v, &v->lease[2], 1);
        assert_true(expert_ready(v->c, &v->lease[1]));
        if (round < 2) {
            assert_int_equal(rc, E_IO);
            assert_non_null(strstr(e.text, "layer 1 expert 5"));
            assert_non_null(strstr(e.text, paths[1]));
            assert_non_null(strstr(e.text, offset));
            assert_false(expert_part_ready(v->c, &v->lease[1], 1));
        } else {
            assert_int_equal(rc, OK);
            assert_bytes(v, &v->lease[1]);
        }
        assert_int_equal(v->lease[0].hit, round > 0);
        assert_false(v->lease[1].hit);
        release_all(v, v->lease, 3);
        assert_int_equal(expert_free_slots(v->c, 1), n_free);
    }
}

static void short_reads_change_nothing(void **state)
{
    struct env *v = *state;
    struct err e = {0};
    open_cache(v, min_bytes(v));
    for (int i = 0; i < 10; i++) {
        set_fault(v, (struct ioq_fault){.kind = IOQ_FAULT_SHORT, .file = -1, .count = 3});
        random_token(v);
    }
    set_fault(v, (struct ioq_fault){.kind = IOQ_FAULT_SHORT, .file = -1, .count = -1});
    request(v, 3, (int32_t[]){0, 1}, 2, v->lease);
    request(v, 3, (int32_t[]){2, 3}, 2, v->lease + 2);
    int failed = 0;
    for (int i = 0; i < 4; i++)
        failed += expert_wait(v->c, &v->lease[i], &e) == E_IO;
    assert_true(failed > 0 && strstr(e.text, "ends early"));
    release_all(v, v->lease, 4);
    set_fault(v, (struct ioq_fault){.kind = IOQ_FAULT_NONE});
    random_token(v);
}

/* ---- memory ----------------------------------------------------------- */

static void resize_keeps_leases_and_bytes(void **state)
{
    struct env *v = *state;
    size_t least = min_bytes(v), full = full_bytes(v);
    open_cache(v, least);
    for (int i = 0; i < 60; i++) {
        int32_t ids[N_USED];
        int layer = (int[]){0, 1, 3, 4, 5}[rng(5)], n = 1 + (int)rng(N_USED);
        pick(layer, ids, n);
        request(v, layer, ids, n, v->lease);
        if (rng(2))
            wait_all(v, v->lease, n);
        size_t want = least + rng((uint32_t)(full - least + 1));
        size_t now = expert_resize(v->c, want);
        assert_int_equal(now, expert_bytes(v->c));
        wait_all(v, v->lease, n);
        release_all(v, v->lease, n);
        assert_true(expert_bytes(v->c) <= want);
        struct expert_stats s = stats(v);
        assert_true(s.slots_in_use <= s.n_slots);
        random_token(v);
    }
    expert_resize(v->c, full);
    assert_int_equal(stats(v).n_slots, 68);
    expert_resize(v->c, 0); /* never below what one layer needs */
    assert_int_equal(expert_bytes(v->c), least);
    random_token(v);
}

/* Physical memory behind [p, p + bytes). */
static int64_t resident(const void *p, int64_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *begin = (char *)((uintptr_t)p & ~(uintptr_t)(page - 1));
    size_t n = (size_t)bytes / page;
    unsigned char *in_core = malloc(n);
    assert_int_equal(mincore(begin, n * page, in_core), 0);
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (in_core[i] & 1) * (int64_t)page;
    free(in_core);
    return sum;
}

static void memory_follows_use_and_size(void **state)
{
    struct env *v = *state;
    static struct expert_layer big;
    size_t part = (size_t)1 << 17;
    big = (struct expert_layer){.n_experts = 460, .n_parts = 1, .part = {{0, 0, 64, part, false}}};
    struct expert_config cfg = {
        .layers = &big, .n_layers = 1, .n_used = 4, .policy = v->policy, .ioq = v->q};
    cfg.cache_bytes = expert_full_bytes(&cfg);
    assert_int_equal(expert_open(&cfg, &v->c, NULL), OK);
    int64_t slot = (int64_t)ioq_span_max(part);
    int64_t slack = (int64_t)4 << 20; /* small enough not to be touched ahead */
    const void *memory = NULL;
    struct expert_lease l, last;
    for (int32_t i = 0; i < 300; i++) { /* experts overlap in the file: no matter here */
        assert_int_equal(expert_request(v->c, 0, &i, 1, &l, NULL), OK);
        assert_int_equal(expert_wait(v->c, &l, NULL), OK);
        if (i == 0) /* the lowest slot comes first */
            memory = expert_data(v->c, &l, 0);
        if (i == 299)
            last = l;
        else
            expert_release(v->c, &l);
    }
    int64_t now = resident(memory, 460 * slot);
    assert_in_range(now, 300 * slot - slack, 300 * slot + slack);
    expert_resize(v->c, (size_t)(100 * slot));
    now = resident(memory, 460 * slot);
    assert_in_range(now, 0, 101 * slot + slack);
    assert_int_equal(expert_bytes(v->c), 101 * slot); /* one is leased */
    const void *leased = expert_data(v->c, &last, 0);
    assert_true(resident(leased, slot / 2) > 0);
    expert_release(v->c, &last);
    assert_int_equal(expert_bytes(v->c), 100 * slot);
    assert_int_equal(resident(leased, slot / 2), 0);
}

/* ---- trace ------------------------------------------------------------ */

static int n_traced, traced_layer, traced_sum;
static void on_trace(void *user, int layer, const int32_t *ids, int n)
{
    assert_ptr_equal(user, &n_traced);
    traced_layer = layer;
    for (int i = 0; i < n; i++)
        traced_sum += (i + 1) * ids[i];
    n_traced++;
}

static void trace_sees_router_order(void **state)
{
    struct env *v = *state;
    open_cache(v, full_bytes(v));
    n_traced = traced_sum = 0;
    expert_set_trace(v->c, on_trace, &n_traced);
    one_layer(v, 5, (int32_t[]){9, 2, 5}, 3);
    assert_int_equal(n_traced, 1);
    assert_int_equal(traced_layer, 5);
    assert_int_equal(traced_sum, 9 + 2 * 2 + 3 * 5);
    expert_set_trace(v->c, NULL, NULL);
    one_layer(v, 5, (int32_t[]){9}, 1);
    assert_int_equal(n_traced, 1);
}

/* ---- main ------------------------------------------------------------- */

static struct env env;

#define T(f) {#f, f, setup, teardown, &env}

static int run(const char *name)
{
    const struct CMUnitTest tests[] = {
        T(the_same_bytes_with_every_cache_size),
        T(all_experts_of_a_layer_in_a_full_cache),
        T(parts_side_by_side_are_one_read),
        T(parts_can_be_used_as_they_arrive),
        T(leased_bytes_stay_put),
        T(what_is_kept_is_not_read_again),
        T(two_leases_of_one_expert),
        T(too_many_leases_fail_and_change_nothing),
        T(bad_requests_are_refused),
        T(release_before_the_bytes_came),
        T(an_error_names_its_expert_and_passes),
        T(short_reads_change_nothing),
        T(resize_keeps_leases_and_bytes),
        T(memory_follows_use_and_size),
        T(trace_sees_router_order),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void)
{
    return run_all(&env, run);
}
