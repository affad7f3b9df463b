/*
 * Sessions stepped together get the bits that each has alone: whatever mix of
 * prompts and single tokens, whatever cache, and whatever happens to one of
 * them. On the CPU and on a foreign device.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "golden.h"
#include "support/foreign.h"

enum { K = 6, N_IDS = 40, MOST = 1 + N_IDS };

static int32_t held[4000];

static int load_ids(void **state)
{
    (void)state;
    json_t *j = golden_json(DATA "heldout.json");
    int64_t n;
    int32_t *all = golden_ints(json_object_get(j, "tokens"), &n);
    assert_true(n >= 4000);
    memcpy(held, all, sizeof(held));
    free(all);
    json_decref(j);
    return 0;
}

static int foreign_only(const struct device_config *c, struct device **dense,
                        struct device **experts, struct err *e)
{
    TRY(foreign_open(c, 7, dense, e));
    *experts = *dense;
    return OK;
}

static int cpu_only(const struct device_config *c, struct device **dense, struct device **experts,
                    struct err *e)
{
    TRY(device_cpu_open(c, dense, e));
    *experts = *dense;
    return OK;
}

/* A conversation: parts of 1 to 14 ids; the logits behind each, as a hash. */
struct talk {
    int32_t ids[N_IDS];
    int end[MOST]; /* of each part */
    int n_parts;
    uint64_t want[MOST];
};

static uint32_t dice(uint64_t *seed, uint32_t n)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33) % n;
}

static void invent(struct talk *t, int n_vocab, uint64_t *seed)
{
    uint32_t from = dice(seed, 3900);
    t->n_parts = 0;
    for (int i = 0; i < N_IDS; i++)
        t->ids[i] = held[from + (uint32_t)i] % n_vocab;
    for (int at = 0; at < N_IDS;) {
        int n = dice(seed, 3) ? 1 : 1 + (int)dice(seed, 14);
        at = MIN(at + n, N_IDS);
        t->end[t->n_parts++] = at;
    }
}

static uint64_t hash_of(const sluice_session *x, int n_vocab)
{
    uint64_t h = GOLDEN_HASH;
    assert_non_null(sluice_session_logits(x));
    golden_hash(&h, 0, sluice_session_logits(x), n_vocab);
    return h;
}

static int n_vocab_of(const sluice *s)
{
    sluice_model_info info;
    sluice_info(s, &info);
    return info.n_vocab;
}

static void alone(sluice *s, struct talk *t)
{
    sluice_error e;
    sluice_session *x = golden_session(s);
    for (int p = 0, at = 0; p < t->n_parts; at = t->end[p++]) {
        if (sluice_session_append(x, t->ids + at, t->end[p] - at, NULL, NULL, &e) < 0)
            fail_msg("%s", e.text);
        t->want[p] = hash_of(x, n_vocab_of(s));
    }
    sluice_session_free(x);
}

static int refuse(void *user, int layer)
{
    (void)user;
    return layer == 2;
}

/* All talks at once, as many in each step as dice say; `victim` is cancelled in the
 * middle of its third part and must begin anew, -1: nobody. */
static void together(sluice *s, struct talk *talks, int n, int victim, uint64_t *seed)
{
    sluice_session *x[K];
    int part[K] = {0}, at[K] = {0}, n_vocab = n_vocab_of(s), left = n;
    sluice_error e;
    for (int i = 0; i < n; i++)
        x[i] = golden_session(s);
    while (left > 0) {
        sluice_span spans[K];
        int who[K], k = 0;
        for (int i = 0; i < n; i++)
            if (part[i] < talks[i].n_parts && dice(seed, 4)) {
                who[k] = i;
                spans[k++] =
                    (sluice_span){.session = x[i],
                                  .ids = talks[i].ids + at[i],
                                  .n = talks[i].end[part[i]] - at[i],
                                  .most = dice(seed, 2) ? 1 + dice(seed, 5) : 0,
                                  .cancelled = i == victim && part[i] == 2 ? refuse : NULL};
            }
        if (k == 0)
            continue;
        assert_int_equal(sluice_step(s, spans, k, &e), 0);
        for (int j = 0; j < k; j++) {
            int i = who[j];
            if (i == victim && part[i] == 2) {
                if (spans[j].status == 0) { /* it had no part in this step */
                    assert_int_equal(spans[j].done, 0);
                    continue;
                }
                assert_int_equal(spans[j].status, SLUICE_E_CANCELLED);
                assert_true(spans[j].error.text[0] != '\0');
                assert_int_equal(spans[j].done, 0);
                sluice_session_reset(x[i]);
                part[i] = at[i] = 0;
                victim = -1;
                continue;
            }
            assert_int_equal(spans[j].status, 0);
            if (spans[j].most > 0)
                assert_true(spans[j].done <= spans[j].most);
            at[i] += (int)spans[j].done;
            assert_int_equal(sluice_session_length(x[i]), at[i]);
            if (at[i] < talks[i].end[part[i]])
                continue;
            if (hash_of(x[i], n_vocab) != talks[i].want[part[i]])
                fail_msg("session %d has other logits behind part %d than alone", i, part[i]);
            left -= ++part[i] == talks[i].n_parts;
        }
    }
    for (int i = 0; i < n; i++)
        sluice_session_free(x[i]);
}

static void mix(const sluice_options *o, uint64_t seed, int n, int victim)
{
    struct talk talks[K];
    open_devices = cpu_only;
    sluice *s = golden_open(o);
    for (int i = 0; i < n; i++) {
        invent(&talks[i], n_vocab_of(s), &seed);
        alone(s, &talks[i]);
    }
    together(s, talks, n, victim, &seed);
    sluice_close(s);
    open_devices = foreign_only;
    s = golden_open(o);
    together(s, talks, n, victim, &seed);
    sluice_close(s);
    open_devices = cpu_only;
}

/* Room for several sessions above what one of them needs. */
static uint64_t near_floor(const sluice_options *o, int64_t more)
{
    return golden_near_floor(o, GOLDEN_MARGIN(0, 24)) + (uint64_t)more;
}

static void any_mix(void **state)
{
    (void)state;
    for (size_t m = GOLDEN_FIRST; golden_model_of_forms(m); m++)
        for (int n = 2; n <= K; n += 4) {
            sluice_options o = golden_small(golden_model_of_forms(m), "pread");
            o.chunk = n == K ? 64 : 16;
            mix(&o, 10 * m + (uint64_t)n, n, n - 1);
        }
}

static void few_slots(void **state)
{
    (void)state;
    for (size_t m = GOLDEN_FIRST; golden_model_of_forms(m); m++) {
        sluice_options o = golden_small(golden_model_of_forms(m), "uring");
        o.chunk = 64; /* few tokens at once need it */
        o.memory_bytes = near_floor(&o, 24 << 20);
        mix(&o, 50 + m, K, 1);
    }
}

/* A failing read ends who picked the expert; the others get what they get alone. */
static void a_failed_read_ends_some(void **state)
{
    (void)state;
    if (GOLDEN_CHECKED) /* the process takes what would make a cache too small for all */
        skip();
    int ended = 0, went_on = 0, experts = 0;
    sluice_options o = golden_small(BUILT_IN, "pread");
    o.chunk = 64;
    o.lookahead = SLUICE_LOOKAHEAD_NONE;
    sluice_plan p;
    assert_int_equal(sluice_plan_memory(&o, NULL, &p, NULL), 0);
    /* only experts are read */
    o.memory_bytes = (uint64_t)(p.memory.floor + p.memory.dense_full) + GOLDEN_MARGIN(8, 8);
    for (int skip = 0; skip < 24; skip++) {
        uint64_t seed = 5;
        struct talk talks[4];
        sluice_session *x[4];
        sluice_span spans[4];
        sluice_error e;
        sluice *s = golden_open(&o);
        for (int i = 0; i < 4; i++) {
            invent(&talks[i], n_vocab_of(s), &seed);
            talks[i].n_parts = 2;
            talks[i].end[0] = 6;
            talks[i].end[1] = 7;
            if (skip == 0)
                alone(s, &talks[i]);
            x[i] = golden_session(s);
            assert_int_equal(sluice_session_append(x[i], talks[i].ids, 6, NULL, NULL, &e), 0);
        }
        uint64_t want[4];
        for (int i = 0; i < 4; i++) { /* alone: in a fresh session of the same model */
            sluice_session *y = golden_session(s);
            assert_int_equal(sluice_session_append(y, talks[i].ids, 7, NULL, NULL, &e), 0);
            want[i] = hash_of(y, n_vocab_of(s));
            sluice_session_free(y);
            spans[i] = (sluice_span){.session = x[i], .ids = talks[i].ids + 6, .n = 1};
        }
        assert_int_equal(sluice_inject_fault(s, "error", skip, 1, 0, &e), 0);
        assert_int_equal(sluice_step(s, spans, 4, &e), 0);
        assert_int_equal(sluice_inject_fault(s, "none", 0, 0, 0, &e), 0);
        for (int i = 0; i < 4; i++) {
            ended += spans[i].status < 0;
            went_on += spans[i].status == 0;
            if (spans[i].status < 0) {
                assert_int_equal(spans[i].status, SLUICE_E_IO);
                experts += strstr(spans[i].error.text, "expert") !=
                           NULL; /* else a row of the embedding */
                sluice_session_reset(x[i]);
                assert_int_equal(sluice_session_append(x[i], talks[i].ids, 7, NULL, NULL, &e), 0);
            }
            assert_int_equal(hash_of(x[i], n_vocab_of(s)), want[i]);
        }
        for (int i = 0; i < 4; i++)
            sluice_session_free(x[i]);
        sluice_close(s);
    }
    print_message("%d sessions ended, %d went on\n", ended, went_on);
    assert_true(experts > 0 && went_on > ended);
}

static void wrong_spans_are_refused(void **state)
{
    (void)state;
    sluice_options o = golden_small(BUILT_IN, "pread");
    sluice_error e;
    sluice *s = golden_open(&o), *t = golden_open(&o);
    sluice_session *x = golden_session(s), *y = golden_session(s), *z = golden_session(t);
    sluice_span spans[3] = {{.session = x, .ids = held, .n = 2},
                            {.session = x, .ids = held, .n = 1}};
    assert_int_equal(sluice_step(s, spans, 2, &e), SLUICE_E_ARG);
    assert_int_equal(sluice_session_length(x), 0);
    assert_int_equal(sluice_step(s, spans, 0, &e), SLUICE_E_ARG);
    assert_int_equal(sluice_step(s, spans, SLUICE_STEP_MOST + 1, &e), SLUICE_E_ARG);
    int32_t bad = 1 << 30;
    spans[1] = (sluice_span){.session = y, .ids = &bad, .n = 1};
    spans[2] = (sluice_span){.session = z, .ids = held, .n = 1};
    assert_int_equal(sluice_step(s, spans, 3, &e), 0);
    assert_int_equal(spans[0].status, 0);
    assert_int_equal(spans[0].done, 2);
    assert_int_equal(spans[1].status, SLUICE_E_ARG);
    assert_int_equal(spans[2].status, SLUICE_E_ARG);
    spans[0] = (sluice_span){.session = x, .ids = held, .n = 1000}; /* the context has 256 */
    spans[1] = (sluice_span){.session = y, .ids = held, .n = 1};
    assert_int_equal(sluice_step(s, spans, 2, &e), 0);
    assert_int_equal(spans[0].status, SLUICE_E_STATE);
    assert_int_equal(spans[1].status, 0);
    const uint64_t before = hash_of(y, n_vocab_of(s)); /* what is refused costs nothing */
    bad = -1;
    assert_int_equal(sluice_session_append(y, &bad, 1, NULL, NULL, &e), SLUICE_E_ARG);
    spans[0] = (sluice_span){.session = x, .ids = held, .n = 1};
    spans[1] = (sluice_span){.session = y, .ids = &bad, .n = 1};
    assert_int_equal(sluice_step(s, spans, 2, &e), 0);
    assert_int_equal(spans[1].status, SLUICE_E_ARG);
    assert_true(hash_of(y, n_vocab_of(s)) == before);
    spans[1].cancelled = refuse;
    spans[1].ids = held;
    assert_int_equal(sluice_step(s, spans, 2, &e), 0);
    assert_int_equal(spans[1].status, SLUICE_E_CANCELLED);
    assert_null(sluice_session_logits(y)); /* half computed */
    sluice_session_free(x);
    sluice_session_free(y);
    sluice_session_free(z);
    sluice_close(s);
    sluice_close(t);
}

/* A prompt that takes so much at a time, and no more, beside one that decodes. */
static void a_span_takes_at_most(void **state)
{
    (void)state;
    sluice_options o = golden_small(TINY, "pread");
    sluice_error e;
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s), *y = golden_session(s);
    int n_vocab = n_vocab_of(s);
    int32_t ids[11];
    for (int i = 0; i < 11; i++)
        ids[i] = held[i] % n_vocab;
    for (int at = 0; at < 11;) {
        sluice_span spans[2] = {{.session = x, .ids = ids + at, .n = 11 - at, .most = 4},
                                {.session = y, .ids = ids, .n = 1, .most = 9}};
        assert_int_equal(sluice_step(s, spans, 2, &e), 0);
        assert_int_equal(spans[0].done, MIN(4, 11 - at));
        assert_int_equal(spans[1].done, 1);
        assert_true((sluice_session_logits(x) != NULL) == (at + 4 >= 11));
        at += (int)spans[0].done;
    }
    sluice_span none = {.session = x, .ids = ids, .n = 2, .most = -1};
    assert_int_equal(sluice_step(s, &none, 1, &e), 0);
    assert_int_equal(none.status, SLUICE_E_ARG);
    assert_int_equal(sluice_session_length(x), 11);
    sluice_session_free(x);
    sluice_session_free(y);
    sluice_close(s);
}

/* All of ids behind what the session keeps of them, in steps; the logits as a hash. */
static uint64_t go_on(sluice *s, sluice_session *x, const int32_t *ids, int64_t n)
{
    sluice_error e;
    int64_t at = sluice_session_length(x);
    while (at < n) {
        sluice_span span = {.session = x, .ids = ids + at, .n = n - at, .most = 5};
        assert_int_equal(sluice_step(s, &span, 1, &e), 0);
        assert_int_equal(span.status, 0);
        at += span.done;
    }
    return hash_of(x, n_vocab_of(s));
}

/* A server's second turn: what both have in common is kept, the rest is computed, and
 * all is as if it had been computed anew. */
static void what_is_common_is_kept(void **state)
{
    (void)state;
    enum { STABLE = 13, FIRST = 20, SECOND = 25 };
    for (size_t m = GOLDEN_FIRST; golden_model_of_forms(m); m++) {
        sluice_options o = golden_small(golden_model_of_forms(m), "pread");
        sluice_error e;
        sluice *s = golden_open(&o);
        sluice_session *x = golden_session(s), *y = golden_session(s);
        int32_t first[FIRST], second[SECOND];
        int64_t kept = -1;
        bool anywhere = s->shape.n_recurrent_layers == 0;
        for (int i = 0; i < SECOND; i++)
            second[i] = held[i] % n_vocab_of(s);
        for (int i = 0; i < FIRST; i++)
            first[i] = second[i];
        first[16] = (first[16] + 1) % n_vocab_of(s);
        assert_int_equal(sluice_session_keep(x, first, FIRST, &kept, &e), 0);
        assert_int_equal(kept, 0);
        assert_int_equal(sluice_session_snapshot(x, &e), 0);
        go_on(s, x, first, STABLE);
        assert_int_equal(sluice_session_snapshot(x, &e), 0);
        uint64_t was = go_on(s, x, first, FIRST);
        assert_int_equal(sluice_session_keep(x, first, FIRST, &kept, &e), 0);
        assert_int_equal(kept, FIRST); /* the same: it has its logits */
        assert_int_equal(hash_of(x, n_vocab_of(s)), was);
        assert_int_equal(sluice_session_keep(x, second, SECOND, &kept, &e), 0);
        assert_int_equal(kept, anywhere ? 16 : STABLE);
        assert_int_equal(sluice_session_length(x), kept);
        assert_null(sluice_session_logits(x));
        assert_int_equal(go_on(s, x, second, SECOND), go_on(s, y, second, SECOND));
        /* less than all, so that there is something to compute */
        assert_int_equal(sluice_session_keep(x, second, STABLE + 1, &kept, &e), 0);
        assert_int_equal(kept, STABLE);
        assert_int_equal(sluice_session_keep(x, second, STABLE, &kept, &e), 0);
        assert_int_equal(kept, anywhere ? STABLE - 1 : 0);
        assert_int_equal(sluice_session_keep(x, second, 0, &kept, &e), SLUICE_E_ARG);
        assert_int_equal(sluice_session_keep(x, NULL, 3, &kept, &e), SLUICE_E_ARG);
        sluice_session_free(x);
        sluice_session_free(y);
        sluice_close(s);
    }
}

/* A session that a step has left in the middle has nothing to keep but its snapshot. */
static void no_snapshot_of_a_failed_step(void **state)
{
    (void)state;
    sluice_options o = golden_small(TINY, "pread");
    sluice_error e;
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s), *y = golden_session(s);
    int32_t ids[20];
    int64_t kept;
    assert_true(s->shape.n_recurrent_layers > 0);
    for (int i = 0; i < 20; i++)
        ids[i] = held[i] % n_vocab_of(s);
    go_on(s, x, ids, 7);
    assert_int_equal(sluice_session_snapshot(x, &e), 0);
    go_on(s, x, ids, 9);
    sluice_span span = {.session = x, .ids = ids + 9, .n = 11, .cancelled = refuse};
    assert_int_equal(sluice_step(s, &span, 1, &e), 0);
    assert_int_equal(span.status, SLUICE_E_CANCELLED);
    assert_int_equal(sluice_session_snapshot(x, &e), SLUICE_E_STATE);
    assert_non_null(strstr(e.text, "sluice_session_keep"));
    assert_int_equal(sluice_session_keep(x, ids, 20, &kept, &e), 0);
    assert_int_equal(kept, 7);
    assert_int_equal(go_on(s, x, ids, 20), go_on(s, y, ids, 20));
    sluice_session_free(x);
    sluice_session_free(y);
    sluice_close(s);
}

/* A text again and again, nearly every expert picked in every layer, and not half of
 * them in memory when the layer comes: those are not read. (Where the layer gives their
 * slots to the others that it reads, 0.63 of all are read; where guesses take them, 0.73.) */
static void a_prompt_reads_what_is_missing(void **state)
{
    (void)state;
    enum { CHUNK = 64, TIMES = 12 };
    sluice_error e;
    sluice_plan p;
    sluice_stats t;
    uint64_t seed = 1;
    int32_t ids[CHUNK];
    for (int k = 0; k < CHUNK; k++)
        ids[k] = (int32_t)dice(&seed, 4000);
    for (int lookahead = -1; lookahead <= 0; lookahead++) {
        sluice_options o = golden_small(BUILT_IN, NULL);
        o.memory_bytes = 40 << 20;
        o.chunk = CHUNK;
        o.lookahead = lookahead;
        sluice *s = golden_open(&o);
        sluice_session *x = golden_session(s);
        sluice_get_plan(s, &p);
        for (int i = 0; i < TIMES; i++) {
            if (i == 2) /* the first fill the cache */
                sluice_reset_stats(s);
            if (sluice_session_append(x, ids, CHUNK, NULL, NULL, &e) < 0)
                fail_msg("%s", e.text);
            sluice_session_reset(x);
        }
        sluice_get_stats(s, &t);
        double part = (double)t.prompt_read_bytes / (TIMES - 2) / (double)p.memory.cache_full;
        double share = (double)p.memory.cache / (double)p.memory.cache_full;
        print_message("%.2f in memory, %.2f read each time\n", share, part);
        assert_true(share > 0.43 && share < 0.47);
        assert_true(part > 0.3 && part < 0.61);
        sluice_session_free(x);
        sluice_close(s);
    }
}

/* What sluice_generate does is a loop that a host can write. */
static void a_host_generates(void **state)
{
    (void)state;
    sluice_options o = golden_small(BUILT_IN, "pread");
    sluice_error e;
    sluice_sampling p;
    sluice_sampling_init(&p);
    p.temperature = 0.8f;
    p.seed = 3;
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s), *y = golden_session(s);
    sluice_sampler *z;
    sluice_session_stats stats;
    assert_int_equal(sluice_session_sync(x, held, 20, 0, &e), 0);
    assert_int_equal(sluice_session_sync(y, held, 20, 0, &e), 0);
    assert_int_equal(sluice_generate(x, &p, 12, NULL, NULL, NULL, &e), 0);
    assert_int_equal(sluice_sampler_new(s, &p, &z, &e), 0);
    for (int i = 0; i < 12; i++) {
        int32_t id;
        assert_int_equal(sluice_sampler_next(z, y, &id, &e), 0);
        if (sluice_is_end(s, id))
            break;
        sluice_span span = {.session = y, .ids = &id, .n = 1};
        assert_int_equal(sluice_step(s, &span, 1, &e), 0);
        assert_int_equal(span.status, 0);
    }
    assert_int_equal(sluice_session_length(x), sluice_session_length(y));
    assert_memory_equal(sluice_session_ids(x), sluice_session_ids(y),
                        (size_t)sluice_session_length(x) * sizeof(int32_t));
    sluice_session_get_stats(y, &stats);
    assert_int_equal(stats.prompt_tokens, 20);
    assert_int_equal(stats.decode_tokens, sluice_session_length(y) - 20);
    assert_true(stats.n_steps >= stats.decode_tokens + 2 && stats.prompt_ns > 0 &&
                stats.decode_ns > 0);
    sluice_sampler_free(z);
    sluice_session_reset(y);
    sluice_session_free(x);
    sluice_session_free(y);
    sluice_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_mix),
        cmocka_unit_test(few_slots),
        cmocka_unit_test(a_failed_read_ends_some),
        cmocka_unit_test(wrong_spans_are_refused),
        cmocka_unit_test(a_span_takes_at_most),
        cmocka_unit_test(what_is_common_is_kept),
        cmocka_unit_test(no_snapshot_of_a_failed_step),
        cmocka_unit_test(a_prompt_reads_what_is_missing),
        cmocka_unit_test(a_host_generates),
    };
    return cmocka_run_group_tests(tests, load_ids, NULL);
}
