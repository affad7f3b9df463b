/*
 * The public interface: options, sampling, sessions, limits, cancelling.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "golden.h"

static sluice *s;
static int32_t *prompt;
static int64_t n_prompt;

static int open_model(void **state)
{
    (void)state;
    sluice_options o;
    sluice_message m = {.role = "user", .content = "What does period mean?"};
    sluice_error e;
    int64_t stable;
    sluice_options_init(&o);
    o.model = BUILT_IN;
    s = golden_open(&o);
    assert_int_equal(sluice_chat_ids(s, &m, 1, false, &prompt, &n_prompt, &stable, &e), 0);
    assert_true(stable > 0 && stable <= n_prompt);
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    sluice_free(prompt);
    sluice_close(s);
    return 0;
}

/* ---- sampling ------------------------------------------------------------ */

struct answer {
    int32_t id[64];
    int n, stop_at;
};

static int keep(void *user, int32_t id, const char *text, size_t n)
{
    struct answer *a = user;
    (void)text;
    (void)n;
    if (a->n < 64)
        a->id[a->n++] = id;
    return a->n == a->stop_at;
}

static sluice_finish answer(const sluice_sampling *p, int64_t max, struct answer *a)
{
    sluice_session *x = golden_session(s);
    sluice_finish finish;
    sluice_error e;
    assert_int_equal(sluice_session_sync(x, prompt, n_prompt, 0, &e), 0);
    assert_int_equal(sluice_generate(x, p, max, keep, a, &finish, &e), 0);
    sluice_session_free(x);
    return finish;
}

static bool same(const struct answer *a, const struct answer *b)
{
    return a->n == b->n && memcmp(a->id, b->id, (size_t)a->n * sizeof(a->id[0])) == 0;
}

static void a_seed_is_reproducible(void **state)
{
    (void)state;
    struct answer a = {0}, b = {0}, c[4] = {{{0}, 0, 0}};
    sluice_sampling p;
    int different = 0;
    sluice_sampling_init(&p);
    p.temperature = 5.0f; /* this model is sure of its answers */
    p.seed = 42;
    answer(&p, 24, &a);
    answer(&p, 24, &b);
    assert_true(same(&a, &b));
    for (size_t i = 0; i < ARRAY_LEN(c); i++) {
        p.seed = i;
        answer(&p, 24, &c[i]);
        different += !same(&a, &c[i]);
    }
    assert_true(different >= (int)ARRAY_LEN(c) - 1);
}

static void narrow_sampling_is_greedy(void **state)
{
    (void)state;
    struct answer greedy = {0};
    sluice_sampling p, narrow[3];
    sluice_sampling_init(&p);
    answer(&p, 24, &greedy);
    assert_true(greedy.n > 5);
    for (size_t i = 0; i < ARRAY_LEN(narrow); i++) {
        narrow[i] = p;
        narrow[i].temperature = 2.0f;
        narrow[i].seed = 9;
    }
    narrow[0].top_k = 1;
    narrow[1].top_p = 1e-6f;
    narrow[2].min_p = 1.0f;
    for (size_t i = 0; i < ARRAY_LEN(narrow); i++) {
        struct answer a = {0};
        answer(&narrow[i], 24, &a);
        assert_true(same(&a, &greedy));
    }
}

static void a_penalty_changes_repetition(void **state)
{
    (void)state;
    struct answer plain = {0}, penalised = {0};
    sluice_sampling p;
    sluice_sampling_init(&p);
    answer(&p, 48, &plain);
    p.repeat_penalty = 10.0f;
    answer(&p, 48, &penalised);
    int repeats[2] = {0, 0};
    const struct answer *both[2] = {&plain, &penalised};
    for (size_t k = 0; k < ARRAY_LEN(both); k++)
        for (int i = 0; i < both[k]->n; i++)
            for (int j = 0; j < i; j++)
                repeats[k] += both[k]->id[i] == both[k]->id[j];
    assert_true(repeats[1] < repeats[0]);
}

/* What a sampler draws, against the definition: of the tokens in falling order
 * those that top-k, top-p (over the rest) and min-p leave, by weight. */
enum { RAISED = 40, DRAWS = 4000 };

/* Logits of 40 tokens stand out, in no order; level[k]: the k-th highest. */
static void raise_some(float *logits, int n_vocab, int32_t id[RAISED], float level[RAISED])
{
    for (int i = 0; i < n_vocab; i++)
        logits[i] = -40.0f;
    for (int k = 0; k < RAISED; k++) {
        id[k] = 300 + 17 * ((k * 23) % RAISED);
        level[k] = 3.0f - 0.15f * (float)k;
        logits[id[k]] = level[k];
    }
}

static int left_by(const sluice_sampling *p, const float level[RAISED])
{
    int n = p->top_k > 0 ? MIN(p->top_k, RAISED) : RAISED, kept = 0;
    double sum = 0, part = 0;
    for (int k = 0; k < n; k++)
        sum += exp((double)level[k]);
    while (kept < n && (kept == 0 || (part < (double)p->top_p * sum &&
                                      exp((double)(level[kept] - level[0])) >= (double)p->min_p)))
        part += exp((double)level[kept++]);
    return kept;
}

static void draws_follow_the_weights(void **state)
{
    (void)state;
    static const sluice_sampling cases[] = {
        {.temperature = 1.0f, .top_p = 1.0f},
        {.temperature = 0.7f, .top_p = 1.0f, .top_k = 6},
        {.temperature = 1.5f, .top_p = 0.6f},
        {.temperature = 1.0f, .top_p = 1.0f, .min_p = 0.2f},
        {.temperature = 2.0f, .top_p = 0.8f, .top_k = 10, .min_p = 0.1f},
        {.temperature = 1.0f, .top_p = 0.9f, .top_k = 100000},
    };
    const struct text *text = s->text;
    int n_vocab = (int)text_n_tokens(text);
    float *logits = malloc((size_t)n_vocab * sizeof(*logits)), level[RAISED];
    int32_t id[RAISED];
    assert_non_null(logits);
    raise_some(logits, n_vocab, id, level);
    for (size_t c = 0; c < ARRAY_LEN(cases); c++) {
        sluice_sampling p = cases[c];
        struct sampler *z;
        int seen[RAISED] = {0};
        double sum = 0;
        p.repeat_penalty = 1.0f;
        p.seed = 7;
        int kept = left_by(&p, level);
        for (int k = 0; k < kept; k++)
            sum += exp((double)level[k] / (double)p.temperature);
        assert_int_equal(sampler_new(&p, n_vocab, &z, NULL), OK);
        for (int i = 0; i < DRAWS; i++) {
            int32_t got = sampler_next(z, text, logits, NULL, 0);
            for (int k = 0; k < RAISED; k++)
                seen[k] += got == id[k];
        }
        sampler_free(z);
        for (int k = 0; k < RAISED; k++) {
            double share = k < kept ? exp((double)level[k] / (double)p.temperature) / sum : 0;
            double slack = 5 * sqrt(share * (1 - share) / DRAWS);
            if (fabs((double)seen[k] / DRAWS - share) > slack)
                fail_msg("case %zu, token %d: drawn %d of %d times, expected share %g", c, k,
                         seen[k], DRAWS, share);
        }
    }
    free(logits);
}

/* ---- answers that are put back ------------------------------------------- */

static int put(void *user, int32_t id, const char *text, size_t n)
{
    sluice_part p;
    assert_int_equal(sluice_answer_put(user, id, text, n, NULL), 0);
    while (sluice_answer_next(user, &p, NULL) > 0)
        continue;
    return 0;
}

/* Whether the model's own way to cut the text of these ids is another one. */
static bool cut_otherwise(const sluice_message *m)
{
    int32_t *ids;
    int64_t n;
    assert_int_equal(sluice_tokenize(s, m->content, strlen(m->content), false, &ids, &n, NULL), 0);
    bool other = n != m->n_ids || memcmp(ids, m->ids, (size_t)n * sizeof(*ids)) != 0;
    sluice_free(ids);
    return other;
}

/* After an answer the next question computes only what is new: all that the session holds is
 * kept, also where it is not what the text would be cut into. */
static void the_next_turn_keeps_the_session(void **state)
{
    (void)state;
    int n_other = 0;
    for (uint64_t seed = 1; seed < 9; seed++) {
        sluice_message m[3] = {{.role = "user", .content = "What does period mean?"},
                               {.role = "assistant"},
                               {.role = "user", .content = "Why?"}};
        sluice_answer_options o;
        sluice_sampling hot;
        sluice_answer *a;
        sluice_session *x;
        int32_t *ids;
        int64_t n, stable, n_kept;
        sluice_sampling_init(&hot);
        hot.temperature = 3.0F;
        hot.seed = seed;
        sluice_answer_options_init(&o);
        o.prompt = prompt;
        o.n_prompt = n_prompt;
        assert_int_equal(sluice_session_new(s, &x, NULL), 0);
        assert_int_equal(sluice_answer_new(s, &o, &a, NULL), 0);
        assert_int_equal(sluice_session_sync(x, prompt, n_prompt, 0, NULL), 0);
        assert_int_equal(sluice_generate(x, &hot, 24, put, a, NULL, NULL), 0);
        sluice_answer_end(a);
        put(a, -1, "", 0);
        assert_int_equal(sluice_answer_message(a, &m[1], NULL), 0);
        assert_int_equal(m[1].n_ids, sluice_session_length(x) - n_prompt);
        n_other += cut_otherwise(&m[1]);
        assert_int_equal(sluice_chat_ids(s, m, 3, false, &ids, &n, &stable, NULL), 0);
        int64_t held = sluice_session_length(x);
        assert_int_equal(sluice_session_keep(x, ids, n, &n_kept, NULL), 0);
        if (n_kept != held)
            fail_msg("seed %d: %d of %d tokens are kept: \"%s\"", (int)seed, (int)n_kept, (int)held,
                     m[1].content);
        sluice_free(ids);
        sluice_answer_free(a);
        sluice_session_free(x);
    }
    assert_true(n_other > 0);
}

/* Text, reasoning, calls and what is held back count in the budget from 256 KiB on, for as
 * long as the answer lives; what does not fit is refused, and what was put before stays. */
static void answers_count_in_the_budget(void **state)
{
    (void)state;
    static const char *const lines[] = {"A line of some bytes and nothing else, to be told.\n",
                                        "<think>Reasons.",
                                        "<tool_call>{\"name\": \"f\", \"a\": \"",
                                        "<tool_call>{\"name\": \"f\"}</tool_call>\n"};
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        sluice_answer_options how;
        sluice_options o;
        sluice_plan p;
        sluice_error e = {0};
        sluice_message m;
        sluice_part part;
        sluice_answer *a;
        int64_t n_put = 0;
        size_t k = strlen(lines[i]);
        sluice_options_init(&o);
        o.model = BUILT_IN;
        o.context = 256;
        assert_int_equal(sluice_plan_memory(&o, NULL, &p, &e), 0);
        o.memory_bytes = p.memory.floor + (1 << 20);
        sluice *small = golden_open(&o);
        sluice_answer_options_init(&how);
        how.tools = "[]";
        how.n_tools_bytes = 2;
        how.calls = "hermes";
        assert_int_equal(sluice_answer_new(small, &how, &a, &e), 0);
        int64_t taken = small->budget.taken, left = budget_left(small);
        while (sluice_answer_put(a, -1, lines[i], k, &e) == 0) {
            while (sluice_answer_next(a, &part, &e) > 0)
                continue;
            n_put += (int64_t)k;
            assert_true(n_put < 2 << 20); /* nobody counts */
            assert_true(n_put < 256 << 10 || small->budget.taken > taken);
        }
        assert_int_equal(e.code, SLUICE_E_BUDGET);
        assert_non_null(strstr(e.text, "bytes of answers do not fit the memory budget of"));
        assert_in_range(n_put, 64 << 10, left + (256 << 10));
        sluice_answer_end(a);
        while (sluice_answer_next(a, &part, &e) > 0)
            continue;
        assert_int_equal(sluice_answer_message(a, &m, &e), 0);
        if (i == 0)
            assert_int_equal(strlen(m.content), n_put);
        sluice_answer_free(a);
        assert_int_equal(small->budget.taken, taken);
        assert_int_equal(small->budget.answers, 0);
        sluice_close(small);
    }
}

static void bad_sampling_is_refused(void **state)
{
    (void)state;
    sluice_session *x = golden_session(s);
    sluice_error e;
    sluice_sampling p;
    sluice_finish f;
    assert_int_equal(sluice_session_sync(x, prompt, n_prompt, 0, &e), 0);
    for (int i = 0, more = 1; more; i++) {
        sluice_sampling_init(&p);
        switch (i) {
        case 0: p.temperature = -1.0f; break;
        case 1: p.temperature = NAN; break;
        case 2: p.top_k = -1; break;
        case 3: p.top_p = -0.5f; break;
        case 4: p.min_p = 1.5f; break;
        default: p.repeat_penalty = 0.0f; more = 0;
        }
        assert_int_equal(sluice_generate(x, &p, 1, NULL, NULL, &f, &e), SLUICE_E_ARG);
        assert_non_null(strstr(e.text, "sampling"));
    }
    sluice_session_free(x);
}

/* ---- limits -------------------------------------------------------------- */

static void a_callback_stops(void **state)
{
    (void)state;
    struct answer a = {.stop_at = 3};
    sluice_sampling p;
    sluice_sampling_init(&p);
    assert_int_equal(answer(&p, 24, &a), SLUICE_FINISH_STOPPED);
    assert_int_equal(a.n, 3);
}

static void nothing_to_continue(void **state)
{
    (void)state;
    sluice_session *x = golden_session(s);
    sluice_error e;
    sluice_sampling p;
    sluice_finish f;
    sluice_sampling_init(&p);
    assert_null(sluice_session_logits(x));
    assert_int_equal(sluice_generate(x, &p, 4, NULL, NULL, &f, &e), SLUICE_E_STATE);
    assert_int_equal(sluice_session_sync(x, prompt, 0, 0, &e), SLUICE_E_ARG);
    assert_int_equal(sluice_session_sync(x, prompt, 4, 5, &e), SLUICE_E_ARG);
    sluice_session_free(x);
}

static void ids_outside_are_refused(void **state)
{
    (void)state;
    sluice_session *x = golden_session(s);
    sluice_error e;
    const int32_t bad[] = {5, 8192, -1};
    assert_int_equal(sluice_session_append(x, bad, 2, NULL, NULL, &e), SLUICE_E_ARG);
    assert_non_null(strstr(e.text, "8192"));
    assert_int_equal(sluice_session_append(x, bad + 2, 1, NULL, NULL, &e), SLUICE_E_ARG);
    assert_int_equal(sluice_session_append(x, bad, 1, NULL, NULL, &e), 0);
    assert_int_equal(sluice_session_length(x), 1);
    sluice_session_free(x);
}

static void a_full_context_says_so(void **state)
{
    (void)state;
    sluice_options o;
    sluice_error e;
    sluice_sampling p;
    sluice_finish f;
    sluice_options_init(&o);
    sluice_sampling_init(&p);
    o.model = BUILT_IN;
    o.context = 20;
    sluice *small = golden_open(&o);
    sluice_session *x = golden_session(small);
    struct answer a = {0};
    assert_true(n_prompt <= 20);
    assert_int_equal(sluice_session_sync(x, prompt, n_prompt, 0, &e), 0);
    assert_int_equal(sluice_generate(x, &p, 100, keep, &a, &f, &e), 0);
    assert_int_equal(f, SLUICE_FINISH_LENGTH);
    assert_int_equal(sluice_session_length(x), 20);
    assert_int_equal(sluice_session_append(x, prompt, 1, NULL, NULL, &e), SLUICE_E_STATE);
    assert_non_null(strstr(e.text, "--ctx"));
    /* and goes on after a reset */
    sluice_session_reset(x);
    assert_int_equal(sluice_session_append(x, prompt, 1, NULL, NULL, &e), 0);
    sluice_session_free(x);
    sluice_close(small);
}

static void several_sessions_do_not_mix(void **state)
{
    (void)state;
    enum { N = 4 };
    sluice_session *x[N];
    sluice_error e;
    float *want = malloc(8192 * sizeof(float));
    assert_non_null(want);
    for (int i = 0; i < N; i++)
        x[i] = golden_session(s);
    for (int64_t t = 0; t < n_prompt; t++) /* interleaved; one of them backwards */
        for (int i = 0; i < N; i++) {
            const int32_t *id = i == 1 ? &prompt[n_prompt - 1 - t] : &prompt[t];
            assert_int_equal(sluice_session_append(x[i], id, 1, NULL, NULL, &e), 0);
        }
    memcpy(want, sluice_session_logits(x[0]), 8192 * sizeof(float));
    assert_memory_equal(sluice_session_logits(x[2]), want, 8192 * sizeof(float));
    assert_memory_equal(sluice_session_logits(x[3]), want, 8192 * sizeof(float));
    assert_memory_not_equal(sluice_session_logits(x[1]), want, 8192 * sizeof(float));
    for (int i = 0; i < N; i++)
        sluice_session_free(x[i]);
    free(want);
}

static int stop_at_once(void *user, const char *what, int64_t done, int64_t total)
{
    (void)done;
    (void)total;
    return strcmp(what, user) == 0;
}

static void progress_cancels(void **state)
{
    (void)state;
    sluice_options o;
    sluice_error e;
    sluice *none = NULL;
    static char load[] = "load", computing[] = "prompt";
    sluice_options_init(&o);
    o.model = BUILT_IN;
    o.progress = stop_at_once;
    o.user = load;
    assert_int_equal(sluice_open(&o, &none, &e), SLUICE_E_CANCELLED);
    assert_null(none);
    sluice_session *x = golden_session(s);
    sluice_set_progress(s, stop_at_once, computing);
    assert_int_equal(sluice_session_sync(x, prompt, n_prompt, 0, &e), SLUICE_E_CANCELLED);
    sluice_set_progress(s, NULL, NULL);
    assert_int_equal(sluice_session_sync(x, prompt, n_prompt, 0, &e), 0);
    sluice_session_free(x);
}

/* ---- opening -------------------------------------------------------------- */

static void bad_options_are_refused(void **state)
{
    (void)state;
    sluice_options o;
    sluice_error e;
    sluice *none = NULL;
    for (int i = 0, more = 1; more; i++) {
        int want = SLUICE_E_ARG;
        sluice_options_init(&o);
        o.model = BUILT_IN;
        switch (i) {
        case 0: o.model = NULL; break;
        case 1: o.threads = -1; break;
        case 2: o.io = "carrier-pigeon"; break;
        case 3: o.chunk = 1 << 20; break;
        case 4: o.cpu = "abacus"; want = 0; break;
        case 5: o.memory_bytes = 1; want = SLUICE_E_BUDGET; break;
        case 6: o.model = "tests/data/none.gguf"; want = SLUICE_E_IO; break;
        default: o.policy = "astrology"; want = 0; more = 0;
        }
        int rc = sluice_open(&o, &none, &e);
        assert_true(rc < 0 && (want == 0 || rc == want));
        assert_int_equal(e.code, rc);
        assert_true(strlen(e.text) > 10 && !strchr(e.text, '\n'));
        assert_null(none);
    }
}

static void the_tokeniser_alone(void **state)
{
    (void)state;
    sluice_options o;
    sluice_error e;
    sluice *t = NULL;
    sluice_session *x = NULL;
    int32_t *ids;
    int64_t n;
    sluice_options_init(&o);
    o.model = BUILT_IN;
    o.tokenizer_only = true;
    assert_int_equal(sluice_open(&o, &t, &e), 0);
    assert_int_equal(sluice_tokenize(t, "define isthmus", 14, false, &ids, &n, &e), 0);
    assert_true(n > 1);
    sluice_free(ids);
    assert_int_equal(sluice_session_new(t, &x, &e), SLUICE_E_STATE);
    sluice_close(t);
}

static void loading_is_counted(void **state)
{
    (void)state;
    sluice_stats stats;
    sluice_plan p;
    sluice_get_plan(s, &p);
    sluice_reset_stats(s);
    sluice_get_stats(s, &stats);
    assert_true(stats.load_bytes > p.memory.dense * 9 / 10 && stats.load_bytes <= p.memory.dense);
    assert_true(stats.load_ns > 0);
}

static void the_plan_adds_up(void **state)
{
    (void)state;
    sluice_plan p;
    sluice_options o;
    sluice_error e;
    sluice_get_plan(s, &p);
    assert_int_equal(p.memory.cache, p.memory.cache_full); /* 46 MB fit everywhere */
    assert_true(golden_lines(&p) <= p.memory.budget);
    sluice_options_init(&o);
    o.model = BUILT_IN;
    o.memory_bytes = 1;
    assert_int_equal(sluice_plan_memory(&o, NULL, &p, &e), SLUICE_E_BUDGET);
    /* this process holds reference files and other models' leftovers too */
    assert_true(p.memory.floor > p.memory.dense + p.memory.cache_min);
    assert_true(p.memory.floor - p.memory.process < (32 << 20));
    o.memory_bytes = (uint64_t)p.memory.floor + (4 << 20);
    assert_int_equal(sluice_plan_memory(&o, NULL, &p, &e), 0);
    assert_true(p.memory.cache < p.memory.cache_full);
    assert_int_equal(golden_lines(&p), p.memory.budget);
}

/* Ids one by one give whole characters, and all of the text together. */
static void a_stream_gives_whole_characters(void **state)
{
    (void)state;
    static const char text[] =
        "na\xc3\xafve \xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x98\x80! \xff\xf0\x9f";
    sluice_text_stream *t = NULL;
    sluice_error e;
    int32_t *ids = NULL;
    int64_t n;
    char all[64];
    const char *part;
    size_t n_part, n_all = 0;
    int held_back = 0;
    assert_int_equal(sluice_tokenize(s, text, strlen(text), false, &ids, &n, &e), 0);
    assert_int_equal(sluice_text_stream_new(s, &t, &e), 0);
    for (int round = 0; round < 2; round++, n_all = 0) { /* its end makes it new */
        for (int64_t i = 0; i < n; i++) {
            const char *piece;
            size_t n_piece;
            assert_int_equal(sluice_piece(s, ids[i], false, &piece, &n_piece, &e), 0);
            assert_int_equal(sluice_text_stream_put(t, ids[i], &part, &n_part, &e), 0);
            held_back += n_piece > n_part;
            for (size_t k = 0; k < n_part;) { /* whole characters, but for the byte that is none */
                int length = utf8_sequence(part + k, n_part - k);
                assert_true(length > 0 || (length == 0 && part[k] == '\xff'));
                k += (size_t)MAX(length, 1);
            }
            memcpy(all + n_all, part, n_part);
            n_all += n_part;
        }
        sluice_text_stream_end(t, &part, &n_part);
        assert_int_equal(n_part, 2);
        memcpy(all + n_all, part, n_part);
        assert_int_equal(n_all + n_part, strlen(text));
        assert_memory_equal(all, text, strlen(text));
    }
    assert_true(held_back > 0);
    assert_int_equal(sluice_text_stream_put(t, -1, &part, &n_part, &e), SLUICE_E_ARG);
    assert_int_equal(sluice_text_stream_put(t, 1 << 30, &part, &n_part, &e), SLUICE_E_ARG);
    sluice_text_stream_end(t, &part, &n_part);
    assert_int_equal(n_part, 0);
    sluice_text_stream_free(t);
    sluice_text_stream_free(NULL);
    sluice_free(ids);
}

/* Prediction is arithmetic over the probe's figures. */
static void speed_is_predicted_from_the_probe(void **state)
{
    (void)state;
    sluice_options o;
    sluice_plan all, some;
    sluice_error e;
    sluice_probe_result r = {
        .drive_gbs = 1, .memory_gbs = 30, .dot_gbs = 30, .token_s = 0.010, .output_s = 0.002};
    /* equal: 2 ms for the output matrix and once and a half of 8 ms, a fifth of which beside
     * reads */
    assert_true(fabs(sluice_predict(&r, 8e6) * 0.0144964 - 1) < 1e-5);
    assert_true(fabs(sluice_predict(&r, 100e6) * 0.102 - 1) < 0.006); /* the longer one counts */
    assert_true(fabs(sluice_predict(&r, 0.5e6) * 0.010 - 1) < 0.02);
    assert_true(fabs(sluice_predict(&r, 0) * 0.010 - 1) < 1e-9);
    /* what was not measured is 0, and predicts nothing */
    const sluice_probe_result unmeasured[] = {
        {0}, {.drive_gbs = 1}, {.token_s = 0.010}, {.drive_gbs = NAN, .token_s = NAN}};
    for (size_t i = 0; i < ARRAY_LEN(unmeasured); i++) {
        assert_true(sluice_predict(&unmeasured[i], 0) == 0);
        assert_true(sluice_predict(&unmeasured[i], 1e6) == 0);
    }
    assert_true(sluice_predict(&r, -1) == 0 && sluice_predict(&r, NAN) == 0);
    sluice_options_init(&o);
    o.model = BUILT_IN;
    o.context = 256;
    assert_int_equal(sluice_plan_memory(&o, &r, &all, &e), 0);
    assert_true(all.traffic.hit_rate == 1 && all.traffic.typical_hit_rate == 1);
    assert_true(fabs(all.speed.decode_tps * 0.010 - 1) < 1e-9 && !all.speed.limited_by_drive);
    o.memory_bytes = (uint64_t)(all.memory.floor + (1 << 20));
    r.drive_gbs = 0.01;
    assert_int_equal(sluice_plan_memory(&o, &r, &some, &e), 0);
    const sluice_traffic *t = &some.traffic;
    double bytes =
        (1 - t->hit_rate) * (double)t->expert_bytes_per_token + (double)t->dense_read_per_token;
    assert_true(t->dense_read_per_token > 0 && some.speed.limited_by_drive);
    assert_true(fabs(some.speed.decode_tps / sluice_predict(&r, bytes) - 1) < 1e-9);
    assert_true(t->typical_hit_rate > t->hit_rate &&
                some.speed.typical_tps > some.speed.decode_tps);
    assert_true(t->recorded_hit_rate < 0 && some.speed.recorded_tps == 0);
}

/* The same picks again and again: only a cache with room for them hits. */
static void recorded_routing_is_planned_for(void **state)
{
    (void)state;
    enum { TOKENS = 8, LAYERS = 8, USED = 4 };
    static int32_t picks[TOKENS][LAYERS][USED];
    sluice_options o;
    sluice_plan p;
    sluice_error e;
    sluice_probe_result r = {
        .drive_gbs = 1, .memory_gbs = 30, .dot_gbs = 30, .token_s = 0.010, .output_s = 0.002};
    sluice_routing routing = {
        .n_layers = LAYERS, .n_used = USED, .n_tokens = TOKENS, .experts = picks[0][0]};
    sluice_options_init(&o);
    o.model = BUILT_IN;
    o.context = 256;
    o.routing = &routing;
    for (int t = 0; t < TOKENS; t++)
        for (int l = 0; l < LAYERS; l++)
            for (int i = 0; i < USED; i++)
                picks[t][l][i] = 7 * i + l % 4; /* the same for each token */
    assert_int_equal(sluice_plan_memory(&o, &r, &p, &e), 0);
    assert_true(p.traffic.recorded_hit_rate == 1 && fabs(p.speed.recorded_tps * 0.010 - 1) < 1e-9);
    o.memory_bytes = (uint64_t)(p.memory.floor + (1 << 20));
    for (int t = 0; t < TOKENS; t++) /* other ones for each of eight tokens */
        for (int l = 0; l < LAYERS; l++)
            for (int i = 0; i < USED; i++)
                picks[t][l][i] = 4 * t + i;
    assert_int_equal(sluice_plan_memory(&o, &r, &p, &e), 0);
    assert_true(p.traffic.recorded_hit_rate == 0 && p.speed.recorded_tps > 0);
    routing.n_used = 3;
    assert_int_equal(sluice_plan_memory(&o, &r, &p, &e), SLUICE_E_ARG);
    assert_non_null(strstr(e.text, "8 layers with 3 picks"));
    routing.n_used = USED;
    routing.n_tokens = 0;
    assert_int_equal(sluice_plan_memory(&o, &r, &p, &e), SLUICE_E_ARG);
    assert_non_null(strstr(e.text, "no tokens"));
}

static void a_token_is_rehearsed(void **state)
{
    (void)state;
    static const char *const models[] = { /* each mixer and ffn once: probing takes seconds */
        BUILT_IN, DATA "kimi-k3-tiny.gguf", DATA "deepseek4-tiny.gguf", DATA "glm-dsa-tiny.gguf",
        DATA "gemma4-tiny.gguf", DATA "smallthinker-tiny.gguf"};
    for (size_t i = 0; i < ARRAY_LEN(models); i++) {
        sluice_options o;
        sluice_probe_result r;
        sluice_error e;
        sluice_options_init(&o);
        o.model = models[i];
        o.threads = 2;
        assert_int_equal(sluice_probe(&o, &r, &e), 0);
        assert_true(r.token_s > 0 && r.output_s > 0 && r.output_s < r.token_s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_seed_is_reproducible),
        cmocka_unit_test(narrow_sampling_is_greedy),
        cmocka_unit_test(a_penalty_changes_repetition),
        cmocka_unit_test(draws_follow_the_weights),
        cmocka_unit_test(the_next_turn_keeps_the_session),
        cmocka_unit_test(answers_count_in_the_budget),
        cmocka_unit_test(bad_sampling_is_refused),
        cmocka_unit_test(a_callback_stops),
        cmocka_unit_test(nothing_to_continue),
        cmocka_unit_test(ids_outside_are_refused),
        cmocka_unit_test(a_full_context_says_so),
        cmocka_unit_test(several_sessions_do_not_mix),
        cmocka_unit_test(progress_cancels),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(the_tokeniser_alone),
        cmocka_unit_test(the_plan_adds_up),
        cmocka_unit_test(loading_is_counted),
        cmocka_unit_test(a_stream_gives_whole_characters),
        cmocka_unit_test(speed_is_predicted_from_the_probe),
        cmocka_unit_test(recorded_routing_is_planned_for),
        cmocka_unit_test(a_token_is_rehearsed),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
