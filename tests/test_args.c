/*
 * What a host passes wrongly: numbers at the ends of their types, lists that are
 * not there. A sentence each time, never a crash or a plan that overflowed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "golden.h"

static const int32_t ids[] = {5, 17, 42};
enum { N = 3 };

static sluice_options tiny(void)
{
    sluice_options o = golden_small(TINY, "pread");
    o.threads = 1;
    return o;
}

/* Every function that takes options gives `code`, with the same word in the sentence. */
static void options_give(const char *name, const sluice_options *o, int code, const char *word)
{
    sluice_error e = {0};
    sluice *s = NULL;
    sluice_plan plan;
    sluice_probe_result probe;
    int rc[3] = {sluice_open(o, &s, &e)};
    if (rc[0] != code || !strstr(e.text, word))
        fail_msg("%s: open gives %d \"%s\"", name, rc[0], e.text);
    rc[1] = sluice_plan_memory(o, NULL, &plan, &e);
    if (rc[1] != code || !strstr(e.text, word))
        fail_msg("%s: plan gives %d \"%s\"", name, rc[1], e.text);
    rc[2] = sluice_probe(o, &probe, &e);
    if (rc[2] != code)
        fail_msg("%s: probe gives %d \"%s\"", name, rc[2], e.text);
    if (code == SLUICE_E_ARG) {
        assert_int_equal(sluice_check(o, NULL, 0, &e), code);
        assert_non_null(strstr(e.text, word));
    }
}

static void bytes_that_are_held(void **state)
{
    (void)state;
    static const struct {
        int64_t held;
        uint64_t memory;
    } too_much[] = {
        {INT64_MAX, 30 << 20},
        {INT64_MAX - 1, 30 << 20},
        {INT64_MAX - (1 << 20), 30 << 20},
        {INT64_MAX / 2, 30 << 20},
        {INT64_MAX / 2 + 1, UINT64_MAX},
        {INT64_MAX, UINT64_MAX},
        {INT64_MAX, INT64_MAX},
        {(int64_t)1 << 40, 30 << 20},
        {INT64_MAX, 1},
    };
    static const int64_t never[] = {-1, INT64_MIN, INT64_MIN + 1};
    sluice_options o = tiny();
    for (size_t i = 0; i < sizeof(too_much) / sizeof(too_much[0]); i++) {
        char name[80];
        snprintf(name, sizeof(name), "held %lld of %llu", (long long)too_much[i].held,
                 (unsigned long long)too_much[i].memory);
        o.held_bytes = too_much[i].held;
        o.memory_bytes = too_much[i].memory;
        options_give(name, &o, SLUICE_E_BUDGET, "budget");
        o.tokenizer_only = true;
        sluice *s = NULL;
        assert_int_equal(sluice_open(&o, &s, NULL), SLUICE_E_BUDGET);
        o.tokenizer_only = false;
    }
    for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++) {
        o.held_bytes = never[i];
        options_give("a negative number of bytes", &o, SLUICE_E_ARG, "held_bytes");
    }
}

static void lists_that_are_not_there(void **state)
{
    (void)state;
    static const char *const names[] = {"/tmp", NULL, ""};
    static const int32_t picks[64] = {0};
    sluice_options o = tiny();
    sluice_error e = {0};
    sluice_pack_options po = {.size = sizeof(po), .out = "/tmp/sluice-never.gguf"};
    o.n_mirrors = 1;
    options_give("no mirrors", &o, SLUICE_E_ARG, "mirror");
    assert_int_equal(sluice_pack(&o, &po, NULL, &e), SLUICE_E_ARG);
    o.mirrors = names + 1;
    options_give("a mirror without name", &o, SLUICE_E_ARG, "mirror 1");
    assert_int_equal(sluice_pack(&o, &po, NULL, &e), SLUICE_E_ARG);
    o.mirrors = names + 2;
    options_give("a mirror with an empty name", &o, SLUICE_E_ARG, "mirror 1");
    o.n_mirrors = -1;
    options_give("less than no mirrors", &o, SLUICE_E_ARG, "mirrors");
    o.mirrors = NULL;
    o.n_mirrors = 0;

    const sluice_file files[] = {
        {"--out", "/tmp/x", true}, {NULL, "/tmp/y", true}, {"--out", NULL, true}};
    assert_int_equal(sluice_check(&o, files, 1, &e), 0);
    assert_int_equal(sluice_check(&o, NULL, 1, &e), SLUICE_E_ARG);
    assert_int_equal(sluice_check(&o, files, -1, &e), SLUICE_E_ARG);
    assert_int_equal(sluice_check(&o, files, 2, &e), SLUICE_E_ARG);
    assert_non_null(strstr(e.text, "file 2"));
    assert_int_equal(sluice_check(&o, files + 2, 1, &e), SLUICE_E_ARG);

    const sluice_routing wrong[] = {{4, 2, 3, NULL},
                                    {4, 2, -1, picks},
                                    {0, 2, 1, picks},
                                    {4, -2, 1, picks},
                                    {4, 2, INT64_MAX, picks},
                                    {4, 2, INT64_MAX / 8, picks},
                                    {INT32_MAX, INT32_MAX, 1 << 20, picks}};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        o.routing = &wrong[i];
        options_give("a recorded routing", &o, SLUICE_E_ARG, "routing");
    }
}

static void no_file_is_named(void **state)
{
    (void)state;
    const sluice_visitor v = {.on_meta = NULL};
    const sluice_verifier c = {.on_file = NULL};
    sluice_error e = {0};
    int64_t n = 0;
    assert_int_equal(sluice_inspect(NULL, &v, &e), SLUICE_E_ARG);
    assert_int_equal(sluice_inspect("", &v, &e), SLUICE_E_ARG);
    assert_int_equal(sluice_verify(NULL, &c, &n, &e), SLUICE_E_ARG);
    assert_int_equal(sluice_inspect(TINY, &v, &e), 0); /* nobody listens */
    assert_int_equal(sluice_verify(TINY, &c, &n, &e), 0);
    for (int i = -3; i < 0; i++) {
        assert_null(sluice_choice("policy", i));
        assert_null(sluice_choice("io", i));
        assert_null(sluice_choice("cpu", i));
    }
}

/* A fresh session, and one that holds tokens already: sums of two are numbers too. */
static void lists_of_tokens(void **state)
{
    (void)state;
    static const int64_t many[] = {INT64_MAX, INT64_MAX - 1, INT64_MAX - 2, INT64_MAX / 2,
                                   (int64_t)1 << 33};
    sluice_options o = tiny();
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s);
    sluice_error e = {0};
    double p;
    for (int held = 0; held < 2; held++) {
        for (size_t i = 0; i < sizeof(many) / sizeof(many[0]); i++) {
            assert_int_equal(sluice_session_append(x, ids, many[i], NULL, NULL, &e),
                             SLUICE_E_STATE);
            assert_int_equal(sluice_session_sync(x, ids, many[i], 0, &e), SLUICE_E_STATE);
            assert_int_equal(sluice_session_sync(x, ids, N, many[i], &e), SLUICE_E_ARG);
        }
        assert_int_equal(sluice_session_append(x, ids, -1, NULL, NULL, &e), SLUICE_E_ARG);
        assert_int_equal(sluice_session_append(x, ids, INT64_MIN, NULL, NULL, &e), SLUICE_E_ARG);
        assert_int_equal(sluice_session_append(x, NULL, N, NULL, NULL, &e), SLUICE_E_ARG);
        assert_int_equal(sluice_session_sync(x, NULL, N, 0, &e), SLUICE_E_ARG);
        assert_int_equal(sluice_session_sync(x, ids, INT64_MIN, 0, &e), SLUICE_E_ARG);
        assert_int_equal(sluice_session_sync(x, ids, N, INT64_MIN, &e), SLUICE_E_ARG);
        assert_int_equal(sluice_eval_perplexity(x, NULL, N, 2, &p, NULL, &e), SLUICE_E_ARG);
        assert_int_equal(sluice_eval_perplexity(x, ids, INT64_MIN, 2, &p, NULL, &e), SLUICE_E_ARG);
        assert_int_equal(sluice_step(s, NULL, 1, &e), SLUICE_E_ARG);
        assert_int_equal(sluice_step(s, &(sluice_span){.ids = ids, .n = 1}, 1, &e), SLUICE_E_ARG);
        sluice_span span = {.session = x, .n = 1};
        assert_int_equal(sluice_step(s, &span, 1, &e), 0);
        assert_int_equal(span.status, SLUICE_E_ARG);
        for (size_t i = 0; i < sizeof(many) / sizeof(many[0]); i++) {
            span = (sluice_span){.session = x, .ids = ids, .n = many[i]};
            assert_int_equal(sluice_step(s, &span, 1, &e), 0);
            assert_int_equal(span.status, SLUICE_E_STATE);
        }
        assert_int_equal(sluice_session_sync(x, ids, N, 0, &e), 0);
    }
    sluice_session_free(x);
    sluice_close(s);
}

static void lists_of_texts(void **state)
{
    (void)state;
    sluice_options o = tiny();
    o.tokenizer_only = true;
    sluice *s = golden_open(&o);
    sluice_error e = {0};
    int32_t *out = NULL;
    int64_t n = 0, n_stable = 0;
    assert_int_equal(sluice_tokenize(s, NULL, 3, false, &out, &n, &e), SLUICE_E_ARG);
    assert_int_equal(sluice_tokenize(s, "abc", SIZE_MAX, false, &out, &n, &e), SLUICE_E_ARG);
    assert_int_equal(sluice_tokenize(s, NULL, 0, false, &out, &n, &e), 0);
    assert_int_equal(n, 0);
    sluice_free(out);
    assert_int_equal(sluice_chat_ids(s, NULL, 1, false, &out, &n, &n_stable, &e), SLUICE_E_ARG);
    const sluice_message m[] = {{.role = "user"}, {.content = "hello"}};
    assert_int_equal(sluice_chat_ids(s, m, SIZE_MAX, false, &out, &n, &n_stable, &e), SLUICE_E_ARG);
    assert_int_not_equal(sluice_chat_ids(s, m, 1, false, &out, &n, &n_stable, &e), 0);
    assert_int_not_equal(sluice_chat_ids(s, m + 1, 1, false, &out, &n, &n_stable, &e), 0);
    assert_int_equal(sluice_inject_fault(s, "error", 0, 1, 0, &e), SLUICE_E_STATE);
    static const int64_t held[] = {INT64_MAX, INT64_MAX - 1, (int64_t)1 << 40};
    for (size_t i = 0; i < sizeof(held) / sizeof(held[0]); i++) {
        assert_int_equal(sluice_hold(s, 4096, &e), 0);
        assert_int_equal(sluice_hold(s, held[i], &e), SLUICE_E_BUDGET);
        assert_int_equal(sluice_hold(s, -held[i], &e), SLUICE_E_ARG);
        assert_int_equal(sluice_hold(s, INT64_MIN, &e), SLUICE_E_ARG);
        assert_int_equal(sluice_hold(s, 0, &e), 0);
    }
    sluice_close(s);
}

static void questions_that_are_not_there(void **state)
{
    (void)state;
    sluice_options o = tiny();
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s);
    sluice_error e = {0};
    bool hit;
    assert_int_equal(sluice_eval_recall(x, NULL, "a", &hit, &e), SLUICE_E_ARG);
    assert_int_equal(sluice_eval_recall(x, "a", NULL, &hit, &e), SLUICE_E_ARG);
    sluice_session_free(x);
    sluice_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_that_are_held), cmocka_unit_test(lists_that_are_not_there),
        cmocka_unit_test(no_file_is_named),    cmocka_unit_test(lists_of_tokens),
        cmocka_unit_test(lists_of_texts),      cmocka_unit_test(questions_that_are_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
