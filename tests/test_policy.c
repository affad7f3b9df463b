/*
 * test_policy: the eviction policies on the routing of five real models, and
 * the simulator against the cache itself.
 *
 * What a policy must give, in misses relative to LRU's over all traces and sizes:
 * each in the table never more than 1.01, and no more than 1 in the mean; the default
 * no more than 0.95 in the mean, and no other policy less. So none is tuned to one
 * trace, and none stays that does not win something.
 */
#include "support/replay.h"

#include <glob.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const double sizes[] = {1.2, 2, 4, 8};
static const double worst_most = 1.01, mean_most = 1.0, default_most = 0.95;

static struct replay_trace traces[32];
static size_t n_traces;

static const struct expert_policy *named(const char *name)
{
    for (int i = 0; expert_policies[i]; i++)
        if (strcmp(expert_policies[i]->name, name) == 0)
            return expert_policies[i];
    fail_msg("no policy is called %s", name);
    return NULL;
}

static int load_traces(void **state)
{
    (void)state;
    struct err e = {0};
    glob_t found = {0};
    if (glob("tests/data/traces/*.jsonl", 0, NULL, &found) != 0 ||
        found.gl_pathc > ARRAY_LEN(traces))
        return -1;
    for (n_traces = 0; n_traces < found.gl_pathc; n_traces++)
        if (replay_load(found.gl_pathv[n_traces], &traces[n_traces], &e) != OK)
            fail_msg("%s", e.text);
    globfree(&found);
    return n_traces < 5 ? -1 : 0;
}

static const struct replay_trace *trace_of(const char *model)
{
    for (size_t i = 0; i < n_traces; i++)
        if (strstr(traces[i].name, model))
            return &traces[i];
    fail_msg("there is no trace of %s", model);
    return NULL;
}

static int free_traces(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_traces; i++)
        replay_free(&traces[i]);
    return 0;
}

/* Experts that occur at all: no cache can miss less. */
static int64_t n_distinct(const struct replay_trace *t)
{
    size_t n_keys = (size_t)t->n_layers * (size_t)t->n_experts;
    uint8_t *seen = calloc(n_keys, 1);
    int64_t n = 0;
    for (int64_t i = 0; i < (int64_t)t->n_tokens * t->n_layers * t->n_used; i++)
        if (t->ids[i] >= 0) {
            uint8_t *s = &seen[(i / t->n_used % t->n_layers) * t->n_experts + t->ids[i]];
            n += *s == 0;
            *s = 1;
        }
    free(seen);
    return n;
}

/* The mean of p's misses relative to LRU's; fails where one is too large. */
static double relative_misses(const struct expert_policy *p)
{
    double sum = 0;
    for (size_t i = 0; i < n_traces; i++)
        for (size_t j = 0; j < ARRAY_LEN(sizes); j++) {
            int64_t n_slots = replay_slots(&traces[i], sizes[j]);
            int64_t lru = replay_policy(&traces[i], named("lru"), n_slots);
            int64_t its = replay_policy(&traces[i], p, n_slots);
            assert_true(lru > 0 && its > 0);
            if ((double)its > worst_most * (double)lru)
                fail_msg("%s on %s, size %g: %lld misses, LRU %lld", p->name, traces[i].name,
                         sizes[j], (long long)its, (long long)lru);
            sum += (double)its / (double)lru;
        }
    return sum / (double)(n_traces * ARRAY_LEN(sizes));
}

static void every_policy_is_worth_its_place(void **state)
{
    (void)state;
    double of_default = relative_misses(expert_policies[0]);
    if (of_default > default_most)
        fail_msg("%s, the default: %.4f of LRU's misses", expert_policies[0]->name, of_default);
    for (int k = 0; expert_policies[k]; k++) {
        double mean = relative_misses(expert_policies[k]);
        print_message("misses of %s / LRU: %.4f\n", expert_policies[k]->name, mean);
        if (mean > mean_most || mean < of_default)
            fail_msg("%s: %.4f of LRU's misses, the default %.4f", expert_policies[k]->name, mean,
                     of_default);
    }
}

static void no_policy_beats_the_optimum(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_traces; i++)
        for (size_t j = 0; j < ARRAY_LEN(sizes); j++) {
            int64_t n_slots = replay_slots(&traces[i], sizes[j]);
            int64_t optimum = replay_belady(&traces[i], n_slots);
            assert_true(optimum >= n_distinct(&traces[i]));
            for (int k = 0; expert_policies[k]; k++)
                assert_true(replay_policy(&traces[i], expert_policies[k], n_slots) >= optimum);
        }
}

static void with_room_for_all_each_expert_misses_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_traces; i++) {
        const struct replay_trace *t = &traces[i];
        int64_t all = (int64_t)t->n_layers * t->n_experts;
        for (int k = 0; expert_policies[k]; k++)
            assert_int_equal(replay_policy(t, expert_policies[k], all), n_distinct(t));
    }
}

/* LRU worked out by hand: one layer, three slots. */
static void lru_is_lru(void **state)
{
    (void)state;
    static int16_t ids[] = {0, 1, 2, 0, 3, 1, 0, 2};
    struct replay_trace t = {.n_tokens = 8, .n_layers = 1, .n_experts = 4, .n_used = 1,
                             .n_requests = 8, .ids = ids};
    /* 0 1 2 miss; 0 hits; 3 evicts 1; 1 evicts 2; 0 hits; 2 evicts 3 */
    assert_int_equal(replay_policy(&t, named("lru"), 3), 6);
    /* the optimum keeps 0 and 1 for 3 */
    assert_int_equal(replay_belady(&t, 3), 5);
}

/* A prompt in chunks reads every layer's experts in turn: LRU hits nothing. */
static void a_scan_keeps_part_of_the_cache(void **state)
{
    (void)state;
    struct replay_trace t = {.n_tokens = 40, .n_layers = 8, .n_experts = 4, .n_used = 4};
    t.n_requests = (int64_t)t.n_tokens * t.n_layers * t.n_used;
    t.ids = malloc((size_t)t.n_requests * sizeof *t.ids);
    for (int64_t i = 0; i < t.n_requests; i++)
        t.ids[i] = (int16_t)(i % 4);
    int64_t n_slots = 16; /* half of all */
    assert_int_equal(replay_policy(&t, named("lru"), n_slots), t.n_requests);
    int64_t ours = replay_policy(&t, expert_policies[0], n_slots);
    assert_true(ours < t.n_requests * 7 / 10);
    replay_free(&t);
}

/* The same, asked for one expert at a time, as a chunk of a prompt does where
 * slots are few; and without ticks. Misses of `n_passes` passes. */
static int scan_one_by_one(const struct expert_policy *p, int n_passes)
{
    enum { LAYERS = 8, EXPERTS = 16, SLOTS = LAYERS * EXPERTS / 2 };
    uint8_t evictable[SLOTS];
    int slot_of[LAYERS * EXPERTS], key_in[SLOTS], n_filled = 0, misses = 0;
    void *s = p->create(LAYERS * EXPERTS, SLOTS, LAYERS, EXPERTS);
    assert_non_null(s);
    memset(evictable, 1, sizeof evictable);
    memset(slot_of, 0xFF, sizeof slot_of);
    for (int i = 0; i < n_passes * LAYERS * EXPERTS; i++) {
        int key = i % (LAYERS * EXPERTS), slot = slot_of[key];
        if (slot < 0) {
            slot = n_filled < SLOTS ? n_filled++ : p->victim(s, evictable, key / EXPERTS);
            if (misses++ >= SLOTS) {
                p->on_evict(s, key_in[slot], slot);
                slot_of[key_in[slot]] = -1;
            }
            p->on_insert(s, key, slot);
            key_in[slot] = key;
            slot_of[key] = slot;
        }
        p->on_use(s, key, slot);
    }
    p->destroy(s);
    return misses;
}

static void a_scan_in_small_steps_keeps_part_of_the_cache(void **state)
{
    (void)state;
    int all = 20 * 8 * 16;
    assert_int_equal(scan_one_by_one(named("lru"), 20), all);
    int ours = scan_one_by_one(expert_policies[0], 20);
    printf("a scan in small steps: %d of %d missed\n", ours, all);
    assert_true(ours < all * 7 / 10);
}

static void a_victim_is_evictable_or_none(void **state)
{
    (void)state;
    enum { N = 24 };
    uint8_t evictable[N] = {0};
    for (int k = 0; expert_policies[k]; k++) {
        const struct expert_policy *p = expert_policies[k];
        void *s = p->create(8 * 4, N, 8, 4);
        assert_non_null(s);
        assert_int_equal(p->victim(s, evictable, 0), -1);
        for (int i = 0; i < N; i++) {
            p->on_insert(s, i, i);
            p->on_use(s, i, i);
        }
        for (int layer = 0; layer < 8; layer++) {
            assert_int_equal(p->victim(s, evictable, layer), -1);
            for (int i = 0; i < N; i++) { /* whatever it remembered a moment ago */
                evictable[i] = 1;
                assert_int_equal(p->victim(s, evictable, layer), i);
                evictable[i] = 0;
            }
        }
        p->on_evict(s, 3, 3);
        p->on_tick(s);
        memset(evictable, 1, N);
        evictable[3] = 0;
        for (int layer = 0; layer < 8; layer++)
            assert_in_range(p->victim(s, evictable, layer), 0, N - 1);
        memset(evictable, 0, N);
        p->destroy(s);
    }
}

/* ---- the cache itself ------------------------------------------------- */

#define N_TOKENS 24 /* of OLMoE: 128 reads each at most */

static int64_t cache_misses(const struct replay_trace *t, const char *policy, int64_t n_slots)
{
    char path[] = "/var/tmp/sluice_p_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && ftruncate(fd, 65536) == 0);
    close(fd);
    struct expert_layer *layers = calloc((size_t)t->n_layers, sizeof *layers);
    for (int l = 0; l < t->n_layers; l++)
        layers[l] = (struct expert_layer){.n_experts = t->n_experts, .n_parts = 1,
                                          .part = {{.offset = 64 * l, .stride = 64,
                                                    .bytes = 64, .may_be_zero = true}}};
    struct err e = {0};
    struct ioq *q = NULL;
    struct expert_cache *c = NULL;
    struct expert_stats s = {0};
    struct expert_config cfg = {.layers = layers, .n_layers = t->n_layers, .n_used = t->n_used,
                                .cache_bytes = (size_t)n_slots * ioq_span_max(64),
                                .policy = policy};
    if (ioq_open(&(struct ioq_config){.kind = IOQ_AUTO}, &q, &e) < 0 ||
        ioq_add_file(q, path, &e) < 0)
        fail_msg("%s", e.text);
    cfg.ioq = q;
    if (expert_open(&cfg, &c, &e) < 0)
        fail_msg("%s", e.text);
    for (int i = 0; i < N_TOKENS * t->n_layers; i++) {
        struct expert_lease leases[16];
        int32_t ids[16];
        for (int k = 0; k < t->n_used; k++)
            ids[k] = t->ids[(int64_t)i * t->n_used + k];
        if (expert_request(c, i % t->n_layers, ids, t->n_used, leases, &e) < 0)
            fail_msg("%s", e.text);
        for (int k = 0; k < t->n_used; k++) {
            assert_int_equal(expert_wait(c, &leases[k], &e), OK);
            expert_release(c, &leases[k]);
        }
        if (i % t->n_layers == t->n_layers - 1)
            expert_tick(c);
    }
    expert_get_stats(c, &s);
    expert_close(c);
    ioq_close(q);
    free(layers);
    unlink(path);
    return s.n_misses;
}

static void the_cache_misses_what_the_replay_says(void **state)
{
    (void)state;
    struct replay_trace t = *trace_of("olmoe");
    assert_int_equal(t.n_used, 8);
    t.n_tokens = N_TOKENS;
    for (int k = 0; expert_policies[k]; k++) {
        int64_t n_slots = replay_slots(&t, 1.5);
        assert_int_equal(cache_misses(&t, expert_policies[k]->name, n_slots),
                         replay_policy(&t, expert_policies[k], n_slots));
    }
}

/* ---- recorded picks through a cache that reads nothing ------------------ */

static int dry_hits(const struct replay_trace *t, int64_t n_slots, int64_t n_first, double *hits,
                    struct err *e)
{
    struct expert_layer *layers = calloc((size_t)t->n_layers, sizeof *layers);
    size_t n = (size_t)t->n_tokens * (size_t)t->n_layers * (size_t)t->n_used;
    int32_t *ids = calloc(n, sizeof *ids);
    for (size_t i = 0; i < n; i++)
        ids[i] = t->ids[i];
    /* larger than any memory: nothing of it may be touched */
    for (int l = 0; l < t->n_layers; l++)
        layers[l] = (struct expert_layer){
            .n_experts = t->n_experts, .n_parts = 1,
            .part = {{0, (int64_t)l << 45, (int64_t)1 << 32, (size_t)1 << 32, false}}};
    struct expert_config cfg = {.layers = layers, .n_layers = t->n_layers, .n_used = t->n_used};
    cfg.cache_bytes =
        (size_t)n_slots * (expert_full_bytes(&cfg) / (size_t)(t->n_layers * t->n_experts));
    int rc = expert_replay(&cfg, ids, t->n_tokens, n_first, hits, e);
    free(ids);
    free(layers);
    return rc;
}

static void a_replay_without_reads_hits_as_often(void **state)
{
    (void)state;
    struct err e = {0};
    for (size_t i = 0; i < n_traces; i++) {
        struct replay_trace *t = &traces[i];
        int64_t n_slots = replay_slots(t, 2), n_half = t->n_tokens / 2, all = t->n_requests;
        double hits, later;
        assert_int_equal(dry_hits(t, n_slots, 0, &hits, &e), OK);
        int64_t misses = replay_policy(t, expert_policies[0], n_slots);
        assert_true(fabs(hits * (double)all - (double)(all - misses)) < 0.5);
        /* counted from the middle on: what the whole misses more than the first half */
        assert_int_equal(dry_hits(t, n_slots, n_half, &later, &e), OK);
        struct replay_trace half = *t;
        half.n_tokens = (int)n_half;
        int64_t n = 0;
        for (int64_t k = n_half * t->n_layers * t->n_used;
             k < (int64_t)t->n_tokens * t->n_layers * t->n_used; k++)
            n += t->ids[k] >= 0;
        int64_t second = misses - replay_policy(&half, expert_policies[0], n_slots);
        assert_true(fabs(later * (double)n - (double)(n - second)) < 0.5);
    }
}

static void a_replay_refuses_picks_of_another_model(void **state)
{
    (void)state;
    struct replay_trace t = *trace_of("olmoe");
    int16_t *ids = malloc((size_t)t.n_layers * (size_t)t.n_used * sizeof *ids);
    double hits;
    memcpy(ids, t.ids, (size_t)t.n_layers * (size_t)t.n_used * sizeof *ids);
    t.ids = ids;
    t.n_tokens = 1;
    for (int k = 0; k < 2; k++) {
        struct err e = {0};
        ids[5] = k ? ids[4] : (int16_t)t.n_experts; /* there is none; twice the same */
        assert_int_equal(dry_hits(&t, 512, 0, &hits, &e), E_ARG);
        assert_non_null(strstr(e.text, k ? "asked for twice" : "only 0 to 63"));
    }
    free(ids);
}

static void bad_traces_are_refused(void **state)
{
    (void)state;
    struct replay_trace t;
    struct err e = {0};
    assert_true(replay_load("tests/data/traces/none.jsonl", &t, &e) < 0);
    e = (struct err){0};
    assert_int_equal(replay_load("tests/data/traces/README.md", &t, &e), E_FORMAT);
    assert_non_null(strstr(e.text, "line 1"));
    replay_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_policy_is_worth_its_place),
        cmocka_unit_test(no_policy_beats_the_optimum),
        cmocka_unit_test(with_room_for_all_each_expert_misses_once),
        cmocka_unit_test(lru_is_lru),
        cmocka_unit_test(a_scan_keeps_part_of_the_cache),
        cmocka_unit_test(a_scan_in_small_steps_keeps_part_of_the_cache),
        cmocka_unit_test(a_victim_is_evictable_or_none),
        cmocka_unit_test(the_cache_misses_what_the_replay_says),
        cmocka_unit_test(a_replay_without_reads_hits_as_often),
        cmocka_unit_test(a_replay_refuses_picks_of_another_model),
        cmocka_unit_test(bad_traces_are_refused),
    };
    return cmocka_run_group_tests(tests, load_traces, free_traces);
}
