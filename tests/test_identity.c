/*
 * The same bits whatever the machinery: threads, instruction sets, cache
 * sizes, readers, chunk sizes, eviction policies, and a session that is
 * continued or computed anew.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "golden.h"

enum { N_IDS = 150 };

static int32_t ids[N_IDS];

static int load_ids(void **state)
{
    (void)state;
    json_t *j = golden_json(DATA "heldout.json");
    int64_t n;
    int32_t *all = golden_ints(json_object_get(j, "tokens"), &n);
    memcpy(ids, all + 100, sizeof(ids));
    free(all);
    json_decref(j);
    return 0;
}

/* The ids, as the model's vocabulary has room for them. */
static void fit_ids(const sluice *s, int32_t out[N_IDS])
{
    sluice_model_info info;
    sluice_info(s, &info);
    for (int i = 0; i < N_IDS; i++)
        out[i] = ids[i] % info.n_vocab;
}

/* Logits of N_IDS positions: the last 20 one by one, the others as a prompt. */
static uint64_t run(const sluice_options *o)
{
    uint64_t h = GOLDEN_HASH;
    sluice_error e;
    int32_t id[N_IDS];
    sluice *s = golden_open(o);
    sluice_session *x = golden_session(s);
    fit_ids(s, id);
    assert_int_equal(sluice_session_append(x, id, N_IDS - 20, golden_hash, &h, &e), 0);
    for (int i = N_IDS - 20; i < N_IDS; i++)
        assert_int_equal(sluice_session_append(x, id + i, 1, golden_hash, &h, &e), 0);
    sluice_session_free(x);
    sluice_close(s);
    return h;
}

static sluice_options options(const char *model)
{
    sluice_options o;
    sluice_options_init(&o);
    o.model = model;
    o.threads = 2;
    return o;
}

static void threads(void **state)
{
    (void)state;
    for (size_t m = 0; golden_model_of_forms(m); m++) {
        sluice_options o = options(golden_model_of_forms(m));
        uint64_t want = run(&o);
        for (int n = 1; n <= 5; n += n == 3 ? 2 : 1) {
            o.threads = n;
            assert_int_equal(run(&o), want);
        }
    }
}

static void instruction_sets(void **state)
{
    (void)state;
    for (size_t m = 0; golden_model_of_forms(m); m++)
        for (int exact = 0; exact < 2; exact++) {
            sluice_options o = options(golden_model_of_forms(m));
            o.exact = exact;
            uint64_t want = run(&o);
            for (int i = 0; sluice_choice("cpu", i); i++) {
                sluice *s = NULL;
                sluice_error e;
                o.cpu = sluice_choice("cpu", i);
                if (sluice_open(&o, &s, &e) == SLUICE_E_UNSUPPORTED) {
                    print_message("skipped: %s\n", e.text);
                    continue;
                }
                sluice_close(s);
                assert_int_equal(run(&o), want);
            }
        }
}

static void cache_sizes(void **state)
{
    (void)state;
    for (size_t m = 0; golden_model_of_forms(m); m++) {
        sluice_options o = options(golden_model_of_forms(m));
        sluice_plan p;
        sluice_error e;
        o.context = 256;
        o.chunk = 64;
        uint64_t want = run(&o);
        assert_int_equal(sluice_plan_memory(&o, NULL, &p, &e), 0);
        int64_t spread = p.memory.cache_full - p.memory.cache_min;
        for (int quarter = 0; quarter <= 4; quarter++) {
            /* a little above the floor: it moves with the size of this process */
            o.memory_bytes = (uint64_t)(p.memory.floor + (1 << 20) + spread * quarter / 4);
            assert_int_equal(run(&o), want);
        }
    }
}

static void readers_and_policies(void **state)
{
    (void)state;
    sluice_options o = options(BUILT_IN);
    sluice_plan p;
    sluice_error e;
    o.context = 256;
    o.chunk = 64;
    uint64_t want = run(&o);
    assert_int_equal(sluice_plan_memory(&o, NULL, &p, &e), 0);
    o.memory_bytes = (uint64_t)(p.memory.floor + (1 << 20) +
                                (p.memory.cache_full - p.memory.cache_min) / 4);
    for (int i = 0; golden_reader(i); i++)
        for (int j = 0; sluice_choice("policy", j); j++) {
            o.io = golden_reader(i);
            o.policy = sluice_choice("policy", j);
            for (o.lookahead = -1; o.lookahead <= 3;
                 o.lookahead += o.lookahead ? 1 : 3) /* none, chosen, 3 */
                assert_int_equal(run(&o), want);
        }
}

static void chunks(void **state)
{
    (void)state;
    static const int sizes[] = {1, 7, 64, 512};
    for (size_t m = 0; golden_model_of_forms(m); m++) {
        sluice_options o = options(golden_model_of_forms(m));
        uint64_t want = run(&o);
        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
            o.chunk = sizes[i];
            assert_int_equal(run(&o), want);
        }
    }
}

static void assert_same_logits(const sluice_session *a, const float *want, int n_vocab)
{
    assert_non_null(sluice_session_logits(a));
    assert_memory_equal(sluice_session_logits(a), want, (size_t)n_vocab * sizeof(float));
}

/* A conversation that goes on, one that is cut back to its snapshot, and one
 * computed anew end in the same bits, and reuse is seen in the counters. */
static void sessions_continued(void **state)
{
    (void)state;
    for (size_t m = 0; golden_model_of_forms(m); m++) {
        sluice_options o = options(golden_model_of_forms(m));
        sluice_model_info info;
        sluice_stats before, after;
        sluice_error e;
        int32_t other[N_IDS], id[N_IDS];
        sluice *s = golden_open(&o);
        sluice_session *x = golden_session(s), *fresh = golden_session(s);
        sluice_info(s, &info);
        fit_ids(s, id);
        float *want = malloc((size_t)info.n_vocab * sizeof(float));
        assert_non_null(want);
        assert_int_equal(sluice_session_sync(fresh, id, N_IDS, 0, &e), 0);
        memcpy(want, sluice_session_logits(fresh), (size_t)info.n_vocab * sizeof(float));

        /* in three steps, each a prefix of the next */
        assert_int_equal(sluice_session_sync(x, id, 40, 0, &e), 0);
        assert_int_equal(sluice_session_sync(x, id, 41, 0, &e), 0);
        sluice_get_stats(s, &before);
        assert_int_equal(sluice_session_sync(x, id, N_IDS, 100, &e), 0);
        sluice_get_stats(s, &after);
        assert_int_equal(after.prompt_tokens - before.prompt_tokens, N_IDS - 41);
        assert_same_logits(x, want, info.n_vocab);

        /* another ending after place 120, then back: the snapshot at 100 serves both */
        memcpy(other, id, sizeof(other));
        for (int i = 120; i < N_IDS; i++)
            other[i] = id[N_IDS - 1 - i % 50];
        assert_int_equal(sluice_session_sync(x, other, N_IDS, 100, &e), 0);
        sluice_get_stats(s, &before);
        assert_int_equal(sluice_session_sync(x, id, N_IDS, 100, &e), 0);
        sluice_get_stats(s, &after);
        assert_true(after.prompt_tokens - before.prompt_tokens <= N_IDS - 100);
        assert_same_logits(x, want, info.n_vocab);

        /* something else first */
        assert_int_equal(sluice_session_sync(x, other + 60, 70, 0, &e), 0);
        assert_int_equal(sluice_session_sync(x, id, N_IDS, 0, &e), 0);
        assert_same_logits(x, want, info.n_vocab);
        free(want);
        sluice_session_free(x);
        sluice_session_free(fresh);
        sluice_close(s);
    }
}

/* One argument, a pattern, picks tests: all take long under emulation. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads),         cmocka_unit_test(instruction_sets),
        cmocka_unit_test(cache_sizes),     cmocka_unit_test(readers_and_policies),
        cmocka_unit_test(chunks),          cmocka_unit_test(sessions_continued),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, load_ids, NULL);
}
