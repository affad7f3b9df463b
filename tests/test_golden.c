/*
 * The engine against references computed by others in float32: logits,
 * picked experts, greedy continuations, divergence, perplexity, recall.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "golden.h"
#include "model/model_internal.h"
#include "support/remake.h"

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
            const json_t *row =
                json_array_get(json_array_get(w->experts, (size_t)layer), (size_t)(first + t));
            w->checked++;
            w->wrong += json_integer_value(json_array_get(row, (size_t)k)) !=
                        experts[t * n_used + k];
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
    print_message("tiny: %zu positions, largest difference %.3g, %lld expert picks, %lld wrong\n",
                  w.seen, w.max_diff, (long long)x.checked, (long long)x.wrong);
    assert_true(w.max_diff <= 2e-4);
    assert_true(x.checked > 0);
    assert_int_equal(x.wrong, 0);
    sluice_close(s);
    golden_free(&g);
}

/* Random models with 320 tokens, in F32 but for one, and logits of these ids, most by llama.cpp
 * (F32 cache, plain attention); tests/data/README.md has the commands. */
static const int32_t tiny_ids[] = {130, 183, 271, 14,  238, 127, 26,  80,  57,  190, 240, 126,
                                   194, 278, 52,  293, 127, 6,   110, 208, 143, 93,  199, 81};

static int compare_row(void *user, int64_t position, const float *logits, int n_vocab)
{
    struct want_logits *w = user;
    for (int i = 0; i < n_vocab; i++)
        w->max_diff =
            larger(w->max_diff, fabs((double)logits[i] - (double)w->rows[position * n_vocab + i]));
    w->seen++;
    return 0;
}

/* The experts that llama.cpp picked: "layer position expert expert ..." a line. */
struct want_picks {
    FILE *f;
    size_t n;
    int32_t *got; /* (layer, position, n_used) */
    int n_positions, n_used;
};

static void on_picks(void *user, int layer, int64_t first, int64_t n_tokens, int n_used,
                     const int32_t *experts)
{
    struct want_picks *w = user;
    assert_int_equal(n_used, w->n_used);
    memcpy(w->got + (layer * w->n_positions + first) * n_used, experts,
           (size_t)(n_tokens * n_used) * sizeof(*experts));
}

static void compare_picks(struct want_picks *w, const char *path)
{
    int layer, position, id;
    while (fscanf(w->f, "%d %d", &layer, &position) == 2)
        for (int i = 0; i < w->n_used; i++, w->n++) {
            assert_int_equal(fscanf(w->f, "%d", &id), 1);
            if (w->got[(layer * w->n_positions + position) * w->n_used + i] != id)
                fail_msg("%s: layer %d, position %d: another expert than %d is pick %d", path,
                         layer, position, id, i);
        }
    assert_true(feof(w->f) && w->n > 0);
    fclose(w->f);
    free(w->got);
}

static bool expect_picks(sluice *s, const char *path, int n_positions, struct want_picks *w)
{
    sluice_model_info info;
    sluice_info(s, &info);
    if (info.n_experts_used == 0)
        return false;
    *w = (struct want_picks){.f = fopen(path, "r"), .n_positions = n_positions,
                             .n_used = info.n_experts_used};
    if (!w->f)
        fail_msg("%s is missing", path);
    w->got = malloc((size_t)(info.n_layers * n_positions * w->n_used) * sizeof(*w->got));
    assert_non_null(w->got);
    sluice_set_route_callback(s, on_picks, w);
    return true;
}

enum { MOST_IDS = 512 };

/* Those of NAME-tiny-ids.txt, of a family that looks farther back than the others' ids
 * reach, else tiny_ids; how many. */
static int family_ids(const char *path, int32_t ids[MOST_IDS])
{
    int n = 0;
    FILE *f = fopen(path, "r");
    if (!f) {
        memcpy(ids, tiny_ids, sizeof(tiny_ids));
        return ARRAY_LEN(tiny_ids);
    }
    while (n < MOST_IDS && fscanf(f, "%d,", &ids[n]) == 1)
        n++;
    assert_true(feof(f) && n > 0);
    fclose(f);
    return n;
}

/* context 0: the model's. */
static sluice_options in_f32(const char *model, int context)
{
    sluice_options o;
    sluice_options_init(&o);
    o.model = model;
    o.kv_f32 = true;
    o.exact = strstr(model, "nvfp4") != NULL; /* the reference is of float activations */
    o.context = context;
    return o;
}

static void family_logits(sluice_options how, const char *logits, const char *picks,
                          const char *more_ids)
{
    enum { VOCAB = 320 };
    static float rows[MOST_IDS * VOCAB + 1];
    int32_t ids[MOST_IDS];
    const int n = family_ids(more_ids, ids);
    struct want_logits w = {.rows = rows};
    struct want_picks p;
    sluice_error e;
    FILE *f = fopen(logits, "rb");
    if (!f)
        fail_msg("%s has no reference: %s is missing", how.model, logits);
    if (fread(rows, sizeof(float), (size_t)n * VOCAB + 1, f) != (size_t)n * VOCAB)
        fail_msg("%s is not of %d ids and %d tokens", logits, n, (int)VOCAB);
    fclose(f);
    sluice *s = golden_open(&how);
    sluice_session *x = golden_session(s);
    const bool experts = expect_picks(s, picks, n, &p);
    assert_int_equal(sluice_session_append(x, ids, n, compare_row, &w, &e), 0);
    print_message("%s: %zu positions, largest difference %.3g\n", how.model, w.seen, w.max_diff);
    if (experts)
        compare_picks(&p, picks);
    assert_int_equal(w.seen, n);
    assert_true(w.max_diff <= 2e-4);
    sluice_session_free(x);
    sluice_close(s);
}

/* Every model of tests/data is one of these, but the one with more of a reference, and
 * every reference there is has its model. */
static void tiny_models_of_all_families(void **state)
{
    size_t n = 0;
    glob_t found = {0};
    (void)state;
    for (size_t i = 0; golden_model(i); i++) {
        const char *model = golden_model(i);
        char logits[256], picks[256], more_ids[256];
        if (strcmp(model, BUILT_IN) == 0 || strcmp(model, TINY) == 0)
            continue;
        snprintf(logits, sizeof(logits), "%.*s-logits.f32", (int)strlen(model) - 5, model);
        snprintf(picks, sizeof(picks), "%.*s-picks.txt", (int)strlen(model) - 5, model);
        snprintf(more_ids, sizeof(more_ids), "%.*s-ids.txt", (int)strlen(model) - 5, model);
        family_logits(in_f32(model, 0), logits, picks, more_ids);
        n++;
    }
    assert_int_equal(glob(DATA "*-tiny-logits.f32", 0, NULL, &found), 0);
    assert_int_equal(found.gl_pathc, n + 1); /* golden-tiny-logits.f32 is TINY's */
    globfree(&found);
}

/* LongRoPE: in a context that is no longer than the one before stretching frequencies are
 * divided by others. llama.cpp's logits of contexts of 512 and 4096 tokens. What counts is
 * the context that is asked for, also where memory does not allow as much. */
static void the_context_picks_the_factors(void **state)
{
    enum { ORIGINAL = 1024, LATER = 4096 };
    static const char model[] = DATA "phi3-tiny.gguf", of_long[] = DATA "phi3-tiny-logits.f32";
    static const struct remake_key keys[] = {
        {"phi3.context_length", GGUF_U32, false, 1, {1 << 24}, NULL},
        {"phi3.rope.scaling.original_context_length", GGUF_U32, false, 1, {LATER}, NULL}};
    char path[] = "/tmp/sluice-golden-XXXXXX";
    int fd = mkstemp(path);
    sluice_model_info info;
    (void)state;
    assert_true(fd >= 0 && close(fd) == 0);
    family_logits(in_f32(model, ORIGINAL), DATA "phi3-short-logits.f32", "", "");
    family_logits(in_f32(model, ORIGINAL + 1), of_long, "", "");
    remake(&(struct remake){.from = model, .keys = keys, .n_keys = 2}, path);
    sluice_options o = in_f32(path, 0);
    o.memory_bytes = golden_near_floor(&o, 0);
    sluice *s = golden_open(&o);
    sluice_info(s, &info);
    assert_true(info.n_context <= LATER);
    sluice_close(s);
    family_logits(o, of_long, "", "");
    unlink(path);
}

static void on_pick(void *user, int layer, int64_t first, int64_t n_tokens, int n_used,
                    const int32_t *experts)
{
    int *n = user;
    (void)layer;
    (void)first;
    for (int64_t i = 0; i < n_tokens * n_used; i++)
        n[experts[i]]++;
}

/* Llama 4 picks by products, of which those with experts 0, 1 and others are x, 2 x and 0
 * here: never expert 0, though in float the sigmoids of x and 2 x are 1 both. */
static void a_pick_is_not_by_sigmoids(void **state)
{
    (void)state;
    enum { N_EXPERTS = 6, N_EMBD = 32 };
    static float router[N_EXPERTS * N_EMBD];
    char path[] = "/tmp/sluice-golden-XXXXXX";
    int picked[N_EXPERTS] = {0}, fd = mkstemp(path);
    int64_t bytes;
    assert_true(fd >= 0 && close(fd) == 0);
    remake(&(struct remake){.from = DATA "llama4-tiny.gguf"}, path);
    for (int i = 0; i < N_EMBD; i++) {
        router[i] = i % 3 ? 100.0f : -100.0f;
        router[N_EMBD + i] = 2.0f * router[i];
    }
    for (int layer = 1; layer < 5; layer += 2) {
        char name[64];
        snprintf(name, sizeof(name), "blk.%d.ffn_gate_inp.weight", layer);
        const int64_t at = remake_place(path, name, &bytes);
        assert_int_equal(bytes, sizeof(router));
        remake_patch(path, at, router, sizeof(router));
    }
    sluice_options o = golden_small(path, "pread");
    sluice_error e;
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s);
    sluice_set_route_callback(s, on_pick, picked);
    assert_int_equal(sluice_session_append(x, tiny_ids, ARRAY_LEN(tiny_ids), NULL, NULL, &e), 0);
    assert_int_equal(picked[0], 0);
    assert_true(picked[1] > 4 && picked[2] > 4);
    sluice_session_free(x);
    sluice_close(s);
    unlink(path);
}

/* A family that nothing was compared with is none that runs. */
static void every_family_has_a_model(void **state)
{
    (void)state;
    char names[1024], *name, *rest = names;
    family_list(names, sizeof(names));
    while ((name = strtok_r(rest, ", ", &rest)) != NULL) {
        bool found = false;
        for (size_t i = 0; golden_model(i) && !found; i++) {
            struct model *m;
            struct model_shape shape;
            struct err e = {0};
            assert_int_equal(model_describe(golden_model(i), false, &m, &e), OK);
            model_shape(m, &shape);
            found = strcmp(shape.arch, name) == 0;
            model_close(m);
        }
        if (!found)
            fail_msg("no model of tests/data is of the family %s", name);
    }
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
    print_message("%s: %zu positions, mean KL %.3g, largest difference %.3g\n",
                  exact ? "exact" : "8-bit", w.seen, w.kl_sum / (double)w.seen, w.max_diff);
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
    print_message("perplexity %.6f, reference %.6f (%+.4f %%)\n", got, want,
                  100.0 * (got / want - 1.0));
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
                                            json_string_value(json_object_get(q, "answer")), &ok,
                                            &e), 0);
        got += ok;
        want += json_is_true(json_object_get(q, "recalled"));
    }
    print_message("recall %d of %d, reference %d\n", got, SUBSET, want);
    assert_true(abs(got - want) <= 1);
    sluice_session_free(x);
    sluice_close(s);
    json_decref(list);
}

/* One argument, a pattern, picks tests: all take long under emulation. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiny_logits_and_experts),
        cmocka_unit_test(tiny_models_of_all_families),
        cmocka_unit_test(the_context_picks_the_factors),
        cmocka_unit_test(a_pick_is_not_by_sigmoids),
        cmocka_unit_test(every_family_has_a_model),
        cmocka_unit_test(tiny_continuations),
        cmocka_unit_test(mean_divergence_is_small),
        cmocka_unit_test(exact_mode_is_exact),
        cmocka_unit_test(built_in_continuations),
        cmocka_unit_test(perplexity_of_held_out_text),
        cmocka_unit_test(answers_are_recalled),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
