/*
 * The synthetic weights and vocabulary that other tests and benchmarks stand
 * on: do they decode to what was asked for?
 */
#include "support/synth.h"

#include "kern/kern.h"

#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_weights_have_the_wanted_deviation(void **state)
{
    enum { N = 256 * 512 };
    float *y = malloc(N * sizeof *y);
    uint8_t *p = malloc(N * sizeof *y);
    int n_types = 0;

    (void)state;
    assert_true(y && p);
    for (uint32_t id = 0; id < DT_COUNT; id++) {
        enum dtype t = (enum dtype)id;
        double sum = 0, squares = 0, rms;
        uint64_t s = synth_stream(7, "test");

        if (!synth_writable(t)) {
            assert_false(kern_supports(t));
            continue;
        }
        synth_fill(t, 0.02, p, N / dtype_info(id)->block, &s);
        assert_int_equal(kern_dequant_row(t, y, p, N), OK);
        for (int i = 0; i < N; i++) {
            assert_true(isfinite(y[i]));
            sum += (double)y[i];
            squares += (double)y[i] * (double)y[i];
        }
        rms = sqrt(squares / N);
        if (fabs(rms / 0.02 - 1) > 0.06 || fabs(sum / N) > 0.05 * 0.02)
            fail_msg("%s: deviation %g, mean %g", dtype_info(id)->name, rms, sum / N);
        n_types++;
    }
    assert_true(n_types >= 16);
    free(y);
    free(p);
}

static void test_streams_differ_by_name_and_seed(void **state)
{
    uint64_t a = synth_stream(1, "a"), b = synth_stream(1, "b"), c = synth_stream(2, "a");

    (void)state;
    assert_true(a == synth_stream(1, "a"));
    assert_true(a != b && a != c && b != c);
    for (int i = 0; i < 1000; i++) {
        double u = synth_uniform(&a);

        assert_true(u >= 0 && u < 1);
    }
}

static int compare(const void *a, const void *b)
{
    const struct str *x = a, *y = b;
    int order = memcmp(x->p, y->p, MIN(x->n, y->n));

    return order ? order : (x->n > y->n) - (x->n < y->n);
}

/* Every merge joins two tokens into a token; no token is there twice. */
static void test_vocabulary_is_consistent(void **state)
{
    enum { N = 60000 };
    struct gb b = {0};
    struct gguf_blob blob = {"vocab.gguf", NULL, 0};
    struct gguf *g;
    struct str *tokens = malloc(N * sizeof *tokens), *merges;
    uint64_t n_merges;

    (void)state;
    assert_non_null(tokens);
    gb_head(&b, 3, 0, 4);
    assert_true(synth_vocab(&b, N));
    blob.data = b.p;
    blob.bytes = b.n;
    assert_int_equal(gguf_open_blobs(&blob, 1, &g, NULL), OK);
    assert_int_equal(gguf_find(g, "tokenizer.ggml.tokens")->n, N);
    assert_int_equal(gguf_find(g, "tokenizer.ggml.token_type")->n, N);
    n_merges = gguf_find(g, "tokenizer.ggml.merges")->n;
    assert_int_equal(n_merges, N - 256 - SYNTH_CONTROL);
    merges = malloc(n_merges * sizeof *merges);
    assert_non_null(merges);
    assert_true(gguf_value_strs(gguf_find(g, "tokenizer.ggml.tokens"), tokens));
    assert_true(gguf_value_strs(gguf_find(g, "tokenizer.ggml.merges"), merges));
    qsort(tokens, N, sizeof *tokens, compare);
    for (int i = 1; i < N; i++)
        assert_true(compare(&tokens[i - 1], &tokens[i]) < 0);
    for (uint64_t i = 0; i < n_merges; i++) {
        const char *space = memchr(merges[i].p, ' ', merges[i].n);
        struct str left, right, both;
        char text[32];

        assert_non_null(space);
        left = (struct str){merges[i].p, (size_t)(space - merges[i].p)};
        right = (struct str){space + 1, merges[i].n - left.n - 1};
        assert_true(merges[i].n <= sizeof text);
        memcpy(text, left.p, left.n);
        memcpy(text + left.n, right.p, right.n);
        both = (struct str){text, left.n + right.n};
        assert_non_null(bsearch(&left, tokens, N, sizeof *tokens, compare));
        assert_non_null(bsearch(&right, tokens, N, sizeof *tokens, compare));
        assert_non_null(bsearch(&both, tokens, N, sizeof *tokens, compare));
    }
    gguf_close(g);
    gb_free(&b);
    free(merges);
    free(tokens);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights_have_the_wanted_deviation),
        cmocka_unit_test(test_streams_differ_by_name_and_seed),
        cmocka_unit_test(test_vocabulary_is_consistent),
    };

    return cmocka_run_group_tests_name("synth", tests, NULL, NULL);
}
