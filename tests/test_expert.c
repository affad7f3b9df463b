/*
 * test_expert: the expert cache over real files, with every back end of this
 * system and every policy. Each byte of the two files is a function of its
 * place, so a wrong expert, part or offset shows.
 */
#include "expert/expert.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define N_LAYERS 6
#define N_USED 4
#define MAX_LEASES 64

static char paths[2][32] = {"/var/tmp/sluice_a_XXXXXX", "/var/tmp/sluice_b_XXXXXX"};
static int64_t file_bytes[2];
static struct expert_layer layers[N_LAYERS];

struct env {
    enum ioq_kind kind;
    const char *policy;
    struct ioq *q;
    struct expert_cache *c;
    struct expert_lease lease[MAX_LEASES];
};

static uint8_t byte_at(int file, int64_t i)
{
    return (uint8_t)((uint64_t)(2 * i + file) * 0x9E3779B97F4A7C15u >> 56);
}

static uint32_t rng_state = 1;
static uint32_t rng(uint32_t n)
{
    rng_state = rng_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)rng_state * n >> 32);
}

/* ---- the model -------------------------------------------------------- */

static int64_t place(int file, int64_t bytes, int odd)
{
    int64_t at = file_bytes[file] + odd;
    file_bytes[file] = at + bytes;
    return at;
}

/* Three matrices one after another, each with all experts, as GGUF has them. */
static void split_layer(struct expert_layer *l, int file, int n, size_t gate, size_t down)
{
    *l = (struct expert_layer){.n_experts = n, .n_parts = 3};
    for (int p = 0; p < 3; p++) {
        size_t bytes = p == 2 ? down : gate;
        l->part[p] = (struct expert_part){file, place(file, (int64_t)bytes * n, 32 * (p + 1)),
                                          (int64_t)bytes, bytes, false};
    }
}

/* The parts of an expert side by side. */
static void packed_layer(struct expert_layer *l, int file, int n, int n_parts, size_t bytes,
                         int gap)
{
    int64_t stride = (int64_t)bytes * n_parts + gap;
    int64_t at = place(file, stride * n, 7);
    *l = (struct expert_layer){.n_experts = n, .n_parts = n_parts};
    for (int p = 0; p < n_parts; p++)
        l->part[p] = (struct expert_part){file, at + (int64_t)bytes * p, stride, bytes, false};
}

static int make_model(void)
{
    file_bytes[0] = file_bytes[1] = 0;
    split_layer(&layers[0], 0, 16, 6000, 7000);
    split_layer(&layers[1], 1, 16, 6000, 7000);
    layers[2] = (struct expert_layer){0};           /* a dense layer */
    packed_layer(&layers[3], 0, 12, 3, 14000, 100); /* another size class */
    packed_layer(&layers[4], 1, 8, 1, 42100, 0);    /* within 3 % of layer 3 */
    packed_layer(&layers[5], 1, 16, 2, 4096, 0);
    for (int f = 0; f < 2; f++) {
        int fd = mkstemp(paths[f]);
        FILE *out = fd < 0 ? NULL : fdopen(fd, "wb");
        if (!out)
            return -1;
        for (int64_t i = 0; i < file_bytes[f]; i++)
            putc(byte_at(f, i), out);
        if (fclose(out) != 0)
            return -1;
    }
    return 0;
}

static struct expert_config config(struct env *v, size_t cache_bytes)
{
    return (struct expert_config){.layers = layers, .n_layers = N_LAYERS, .n_used = N_USED,
                                  .cache_bytes = cache_bytes, .policy = v->policy, .ioq = v->q};
}

static void open_cache(struct env *v, size_t cache_bytes)
{
    struct err e = {0};
    expert_close(v->c);
    v->c = NULL;
    struct expert_config cfg = config(v, cache_bytes);
    if (expert_open(&cfg, &v->c, &e) != OK)
        fail_msg("%s", e.text);
}

static size_t min_bytes(struct env *v)
{
    struct expert_config cfg = config(v, 0);
    return expert_min_bytes(&cfg);
}

static size_t full_bytes(struct env *v)
{
    struct expert_config cfg = config(v, 0);
    return expert_full_bytes(&cfg);
}

static int setup(void **state)
{
    struct env *v = *state;
    struct err e = {0};
    v->q = NULL;
    v->c = NULL;
    if (ioq_open(&(struct ioq_config){.kind = v->kind}, &v->q, &e) != OK)
        fail_msg("%s", e.text);
    for (int f = 0; f < 2; f++)
        assert_int_equal(ioq_add_file(v->q, paths[f], &e), f);
    return 0;
}

static int teardown(void **state)
{
    struct env *v = *state;
    expert_close(v->c);
    ioq_close(v->q);
    return 0;
}

/* ---- steps ------------------------------------------------------------ */

static void request(struct env *v, int layer, const int32_t *ids, int n, struct expert_lease *l)
{
    struct err e = {0};
    if (expert_request(v->c, layer, ids, n, l, &e) != OK)
        fail_msg("%s", e.text);
}

static void assert_bytes(struct env *v, const struct expert_lease *l)
{
    for (int p = 0; p < layers[l->layer].n_parts; p++) {
        const struct expert_part *part = &layers[l->layer].part[p];
        const uint8_t *data = expert_data(v->c, l, p);
        int64_t at = part->offset + l->expert * part->stride;
        assert_true(expert_part_ready(v->c, l, p));
        for (size_t i = 0; i < part->bytes; i++)
            if (data[i] != byte_at(part->file, at + (int64_t)i))
                fail_msg("layer %d expert %d part %d: byte %zu is wrong", l->layer, l->expert, p,
                         i);
    }
}

static void wait_all(struct env *v, const struct expert_lease *l, int n)
{
    struct err e = {0};
    for (int i = 0; i < n; i++) {
        if (expert_wait(v->c, &l[i], &e) != OK)
            fail_msg("%s", e.text);
        assert_true(expert_ready(v->c, &l[i]));
        assert_bytes(v, &l[i]);
    }
}

static void release_all(struct env *v, struct expert_lease *l, int n)
{
    for (int i = 0; i < n; i++)
        expert_release(v->c, &l[i]);
}

static int one_layer(struct env *v, int layer, const int32_t *ids, int n)
{
    request(v, layer, ids, n, v->lease);
    wait_all(v, v->lease, n);
    int hits = 0;
    for (int i = 0; i < n; i++)
        hits += v->lease[i].hit;
    release_all(v, v->lease, n);
    return hits;
}

/* n distinct experts of the layer, low ones more often. */
static void pick(int layer, int32_t *ids, int n)
{
    for (int i = 0; i < n; i++) {
        bool again;
        do {
            uint32_t all = (uint32_t)layers[layer].n_experts;
            ids[i] = (int32_t)(rng(2) ? rng(all) : rng(all / 2));
            again = false;
            for (int j = 0; j < i; j++)
                again |= ids[j] == ids[i];
        } while (again);
    }
}

static void random_token(struct env *v)
{
    int32_t ids[N_USED];
    for (int l = 0; l < N_LAYERS; l++)
        if (layers[l].n_experts) {
            pick(l, ids, N_USED);
            one_layer(v, l, ids, N_USED);
        }
    expert_tick(v->c);
}

static struct expert_stats stats(struct env *v)
{
    struct expert_stats s;
    expert_get_stats(v->c, &s);
    return s;
}

static void set_fault(struct env *v, struct ioq_fault f)
{
    if (f.end == 0)
        f.end = INT64_MAX;
    ioq_set_fault(v->q, &f);
}

static void slow(struct env *v, int ms)
{
    set_fault(v, (struct ioq_fault){.kind = ms ? IOQ_FAULT_SLOW : IOQ_FAULT_NONE, .file = -1,
                                    .count = -1, .delay_ms = ms});
}

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

/* Slots of the class that layers 3 and 4 share: opened with 6. */
static void fill_six(struct env *v)
{
    open_cache(v, min_bytes(v) + min_bytes(v) / 2);
    one_layer(v, 4, (int32_t[]){0, 1, 2}, 3);
    one_layer(v, 3, (int32_t[]){0, 1, 2}, 3);
    assert_int_equal(stats(v).n_evicted, 0);
    assert_int_equal(expert_free_slots(v->c, 3), 6);
}

static int n_kept(struct env *v, int layer, const int32_t *ids, int n, struct expert_lease *l)
{
    int kept = 0;
    for (int i = 0; i < n; i++)
        kept += expert_keep(v->c, layer, ids[i], &l[i]);
    return kept;
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

/* ---- lookahead -------------------------------------------------------- */

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

static bool have(enum ioq_kind kind)
{
    struct ioq *q = NULL;
    struct err e = {0};
    int rc = ioq_open(&(struct ioq_config){.kind = kind}, &q, &e);
    ioq_close(q);
    if (rc != OK)
        printf("SKIP back end %d: %s\n", (int)kind, e.text);
    return rc == OK;
}

#define T(f) {#f, f, setup, teardown, &env}

static int run(enum ioq_kind kind, const char *policy)
{
    static struct env env;
    env = (struct env){.kind = kind, .policy = policy};
    char name[64];
    snprintf(name, sizeof name, "back end %d, policy %s", (int)kind, policy);
    const struct CMUnitTest tests[] = {
        T(the_same_bytes_with_every_cache_size),
        T(all_experts_of_a_layer_in_a_full_cache),
        T(parts_side_by_side_are_one_read),
        T(parts_can_be_used_as_they_arrive),
        T(leased_bytes_stay_put),
        T(what_is_kept_is_not_read_again),
        T(a_guess_spares_its_own_layer),
        T(two_leases_of_one_expert),
        T(too_many_leases_fail_and_change_nothing),
        T(bad_requests_are_refused),
        T(release_before_the_bytes_came),
        T(an_error_names_its_expert_and_passes),
        T(short_reads_change_nothing),
        T(resize_keeps_leases_and_bytes),
        T(memory_follows_use_and_size),
        T(hints_are_used),
        T(late_hints_are_promoted_and_stale_ones_dropped),
        T(dropping_hints_spares_what_is_leased),
        T(dropped_hints_leave_no_trace),
        T(a_failed_guess_is_read_again),
        T(a_guess_that_fails_late_is_read_again),
        T(hints_never_touch_leases),
        T(trace_sees_router_order),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void)
{
    if (make_model() != 0) {
        fprintf(stderr, "cannot write %s\n", paths[0]);
        return 1;
    }
    int failed = 0;
    for (int kind = IOQ_AUTO + 1; kind < IOQ_N_KINDS; kind++)
        for (int i = 0; expert_policies[i] && have((enum ioq_kind)kind); i++)
            failed += run((enum ioq_kind)kind, expert_policies[i]->name);
    unlink(paths[0]);
    unlink(paths[1]);
    return failed != 0;
}
