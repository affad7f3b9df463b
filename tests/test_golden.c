/*
 * The engine against references computed by transformers in float32: logits,
 * picked experts, greedy continuations, divergence, perplexity, recall.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "golden.h"

/* Checked builds are ten times slower; what they look for shows on little. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

enum { N_VOCAB = 8192 };

/* ---- collecting -------------------------------------------------------- */

struct want_logits {
    const json_t *at;   /* positions */
    const float *rows;  /* reference rows, in order */
    size_t seen;
    double max_diff, kl_sum;
};

/* fmax, but for a loop that GCC 12 for ARM64 cannot make a vector of without dying. */
static double larger(double a, double b)
{
    return b > a ? b : a;
}

static double kl_divergence(const float *p_logits, const float *q_logits)
{
    double pm = -INFINITY, qm = -INFINITY, ps = 0.0, qs = 0.0, kl = 0.0;
    for (int i = 0; i < N_VOCAB; i++) {
        pm = larger(pm, (double)p_logits[i]);
        qm = larger(qm, (double)q_logits[i]);
    }
    for (int i = 0; i < N_VOCAB; i++) {
        ps += exp((double)p_logits[i] - pm);
        qs += exp((double)q_logits[i] - qm);
    }
    for (int i = 0; i < N_VOCAB; i++) {
        double lp = (double)p_logits[i] - pm - log(ps), lq = (double)q_logits[i] - qm - log(qs);
        kl += exp(lp) * (lp - lq);
    }
    return kl;
}

static int on_logits(void *user, int64_t position, const float *logits, int n_vocab)
{
    struct want_logits *w = user;
    assert_int_equal(n_vocab, N_VOCAB);
    if (w->seen >= json_array_size(w->at) ||
        json_integer_value(json_array_get(w->at, w->seen)) != position)
        return 0;
    const float *ref = w->rows + w->seen * N_VOCAB;
    for (int i = 0; i < N_VOCAB; i++)
        w->max_diff = larger(w->max_diff, fabs((double)logits[i] - (double)ref[i]));
    w->kl_sum += kl_divergence(ref, logits);
    w->seen++;
    return 0;
}

struct want_experts {
    const json_t *experts; /* [layer][position][rank] */
    int64_t checked, wrong;
};

static void on_route(void *user, int layer, int64_t first, int64_t n_tokens, int n_used,
                     const int32_t *experts)
{
    struct want_experts *w = user;
    for (int64_t t = 0; t < n_tokens; t++)
        for (int k = 0; k < n_used; k++) {
            const json_t *row = json_array_get(json_array_get(w->experts, (size_t)layer), (size_t)(first + t));
            w->checked++;
            w->wrong += json_integer_value(json_array_get(row, (size_t)k)) != experts[t * n_used + k];
        }
}

/* Runs every prompt of a reference; returns the totals over all positions. */
static struct want_logits run_reference(sluice *s, const struct golden *g, struct want_experts *x)
{
    struct want_logits total = {0};
    size_t row = 0, i;
    json_t *entry;
    sluice_error e;
    sluice_session *session = golden_session(s);
    if (x)
        sluice_set_route_callback(s, on_route, x);
    json_array_foreach(g->list, i, entry) {
        int64_t n;
        int32_t *ids = golden_ints(json_object_get(entry, "ids"), &n);
        struct want_logits w = {.at = json_object_get(entry, "logits_at"),
                                .rows = g->logits + row * N_VOCAB};
        if (x)
            x->experts = json_object_get(entry, "experts");
        sluice_session_reset(session);
        assert_int_equal(sluice_session_append(session, ids, n, on_logits, &w, &e), 0);
        assert_int_equal(w.seen, json_array_size(w.at));
        row += w.seen;
        total.seen += w.seen;
        total.kl_sum += w.kl_sum;
        total.max_diff = larger(total.max_diff, w.max_diff);
        free(ids);
    }
    assert_int_equal(row, g->n_rows);
    sluice_session_free(session);
    return total;
}

/* ---- tests --------------------------------------------------------------- */

static void tiny_logits_and_experts(void **state)
{
    (void)state;
    struct golden g;
    struct want_experts x = {0};
    sluice_options o;
    golden_load(&g, DATA "golden-tiny.json", DATA "golden-tiny-logits.f32", N_VOCAB);
    sluice_options_init(&o);
    o.model = TINY;
    o.kv_f32 = true;
    sluice *s = golden_open(&o);
    struct want_logits w = run_reference(s, &g, &x);
    print_message("tiny: %zu positions, largest difference %.3g, %lld expert picks, %lld wrong\n", w.seen,
                  w.max_diff, (long long)x.checked, (long long)x.wrong);
    assert_true(w.max_diff <= 2e-4);
    assert_true(x.checked > 0);
    assert_int_equal(x.wrong, 0);
    sluice_close(s);
    golden_free(&g);
}

/* Logits by llama.cpp (F32 cache, plain attention) of a random model written by tools/mkmodel:
 * qwen3moe, 3 layers, hidden 64, 16 experts, 4 used, vocabulary 320, F32, seed 7. */
static const int32_t qwen3_ids[] = {130, 183, 271, 14, 238, 127, 26, 80, 57, 190, 240, 126, 194, 278, 52, 293, 127, 6, 110, 208, 143, 93, 199, 81};

static int compare_row(void *user, int64_t position, const float *logits, int n_vocab)
{
    struct want_logits *w = user;
    for (int i = 0; i < n_vocab; i++)
        w->max_diff = larger(w->max_diff, fabs((double)logits[i] - (double)w->rows[position * n_vocab + i]));
    w->seen++;
    return 0;
}

static void qwen3moe_logits(void **state)
{
    (void)state;
    enum { N = sizeof(qwen3_ids) / sizeof(qwen3_ids[0]), VOCAB = 320 };
    static float rows[N * VOCAB];
    struct want_logits w = {.rows = rows};
    sluice_options o;
    sluice_error e;
    FILE *f = fopen(DATA "qwen3moe-tiny-logits.f32", "rb");
    assert_non_null(f);
    assert_int_equal(fread(rows, sizeof(float), N * VOCAB, f), N * VOCAB);
    fclose(f);
    sluice_options_init(&o);
    o.model = DATA "qwen3moe-tiny.gguf";
    o.kv_f32 = true;
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s);
    assert_int_equal(sluice_session_append(x, qwen3_ids, N, compare_row, &w, &e), 0);
    print_message("qwen3moe: %zu positions, largest difference %.3g\n", w.seen, w.max_diff);
    assert_int_equal(w.seen, N);
    assert_true(w.max_diff <= 2e-4);
    sluice_session_free(x);
    sluice_close(s);
}

static void divergence(bool exact, double limit)
{
    struct golden g;
    sluice_options o;
    golden_load(&g, DATA "golden-q4.json", DATA "golden-q4-logits.f32", N_VOCAB);
    sluice_options_init(&o);
    o.model = BUILT_IN;
    o.exact = exact;
    sluice *s = golden_open(&o);
    struct want_logits w = run_reference(s, &g, NULL);
    print_message("%s: %zu positions, mean KL %.3g, largest difference %.3g\n", exact ? "exact" : "8-bit",
                  w.seen, w.kl_sum / (double)w.seen, w.max_diff);
    assert_true(w.kl_sum / (double)w.seen < limit);
    sluice_close(s);
    golden_free(&g);
}

static void mean_divergence_is_small(void **state)
{
    (void)state;
    divergence(false, 2e-3);
}

static void exact_mode_is_exact(void **state)
{
    (void)state;
    divergence(true, 1e-6);
}

struct greedy {
    const int32_t *want;
    int64_t n, at;
    bool equal;
};

static int on_token(void *user, int32_t id, const char *text, size_t n_bytes)
{
    struct greedy *w = user;
    (void)text;
    (void)n_bytes;
    w->equal &= w->at < w->n && w->want[w->at] == id;
    w->at += w->equal;
    return !w->equal;
}

static void greedy_continuations(const char *model, const char *json, int64_t max, bool exact)
{
    json_t *list = golden_json(json), *entry;
    size_t i;
    sluice_options o;
    sluice_sampling p;
    sluice_error e;
    sluice_options_init(&o);
    sluice_sampling_init(&p);
    o.model = model;
    o.exact = exact;
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s);
    json_array_foreach(list, i, entry) {
        int64_t n, n_want;
        int32_t *ids = golden_ints(json_object_get(entry, "ids"), &n);
        int32_t *want = golden_ints(json_object_get(entry, "greedy"), &n_want);
        struct greedy w = {.want = want, .n = n_want, .equal = true};
        bool ended = n_want > 0 && sluice_is_end(s, want[n_want - 1]);
        sluice_finish finish;
        assert_true(n_want <= max);
        assert_int_equal(sluice_session_sync(x, ids, n, 0, &e), 0);
        assert_int_equal(sluice_generate(x, &p, n_want, on_token, &w, &finish, &e), 0);
        if (!w.equal)
            fail_msg("prompt %zu: the continuation differs (token %lld, %s)", i, (long long)w.at,
                     exact ? "exact" : "8-bit");
        assert_int_equal(w.at, ended ? n_want - 1 : n_want); /* the end is not handed out */
        assert_int_equal(finish, ended ? SLUICE_FINISH_END : SLUICE_FINISH_LENGTH);
        free(ids);
        free(want);
    }
    assert_true(json_array_size(list) > 0);
    sluice_session_free(x);
    sluice_close(s);
    json_decref(list);
}

static void built_in_continuations(void **state)
{
    (void)state;
    greedy_continuations(BUILT_IN, DATA "golden-q4.json", 48, false);
    greedy_continuations(BUILT_IN, DATA "golden-q4.json", 48, true);
}

static void tiny_continuations(void **state)
{
    (void)state;
    greedy_continuations(TINY, DATA "golden-tiny.json", 48, true);
}

static void perplexity_of_held_out_text(void **state)
{
    (void)state;
    if (SANITIZED)
        skip();
    json_t *j = golden_json(DATA "heldout.json");
    int64_t n, predicted;
    int32_t *ids = golden_ints(json_object_get(j, "tokens"), &n);
    double want = json_number_value(json_object_get(j, "perplexity_f32")), got;
    int context = (int)json_integer_value(json_object_get(j, "context"));
    sluice_options o;
    sluice_error e;
    sluice_options_init(&o);
    o.model = BUILT_IN;
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s);
    assert_int_equal(sluice_eval_perplexity(x, ids, n, context, &got, &predicted, &e), 0);
    print_message("perplexity %.6f, reference %.6f (%+.4f %%)\n", got, want, 100.0 * (got / want - 1.0));
    assert_int_equal(predicted, 8192);
    assert_true(fabs(got / want - 1.0) < 1e-3);
    sluice_session_free(x);
    sluice_close(s);
    free(ids);
    json_decref(j);
}

static void answers_are_recalled(void **state)
{
    (void)state;
    enum { SUBSET = SANITIZED ? 20 : 250 };
    json_t *list = golden_json(DATA "recall.json");
    int got = 0, want = 0;
    sluice_options o;
    sluice_error e;
    sluice_options_init(&o);
    o.model = BUILT_IN;
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s);
    for (size_t i = 0; i < SUBSET; i++) {
        const json_t *q = json_array_get(list, i * json_array_size(list) / SUBSET);
        bool ok;
        assert_int_equal(sluice_eval_recall(x, json_string_value(json_object_get(q, "question")),
                                            json_string_value(json_object_get(q, "answer")), &ok, &e), 0);
        got += ok;
        want += json_is_true(json_object_get(q, "recalled"));
    }
    print_message("recall %d of %d, reference %d\n", got, SUBSET, want);
    assert_true(abs(got - want) <= 1);
    sluice_session_free(x);
    sluice_close(s);
    json_decref(list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiny_logits_and_experts),
        cmocka_unit_test(qwen3moe_logits),
        cmocka_unit_test(tiny_continuations),
        cmocka_unit_test(mean_divergence_is_small),
        cmocka_unit_test(exact_mode_is_exact),
        cmocka_unit_test(built_in_continuations),
        cmocka_unit_test(perplexity_of_held_out_text),
        cmocka_unit_test(answers_are_recalled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
