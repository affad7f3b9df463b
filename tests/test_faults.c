/*
 * A bad disk: reads of experts that fail, come short or are slow fail the
 * generation with one sentence naming file, offset, layer and expert; the
 * next request works and gives the same bits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "golden.h"

static const int32_t prompt[] = {8184, 272, 198, 298,  376, 1116, 474, 489,
                                 403,  313, 30,  8185, 198, 8184, 273, 198};
enum { N_PROMPT = sizeof(prompt) / sizeof(prompt[0]) };

struct bench {
    sluice *s;
    sluice_session *x;
    sluice_model_info info;
    float *want; /* logits after the prompt without faults */
};

/* lookahead -1: every read is demanded, so one failed read fails a request */
static void open_small(struct bench *b, const char *io, int lookahead)
{
    sluice_options o = golden_small(BUILT_IN, io);
    sluice_error e;
    o.lookahead = lookahead;
    o.memory_bytes = golden_near_floor(&o, GOLDEN_MARGIN(1, 5));
    b->s = golden_open(&o);
    b->x = golden_session(b->s);
    sluice_info(b->s, &b->info);
    size_t bytes = (size_t)b->info.n_vocab * sizeof(float);
    b->want = malloc(bytes);
    assert_non_null(b->want);
    assert_int_equal(sluice_session_sync(b->x, prompt, N_PROMPT, 0, &e), 0);
    memcpy(b->want, sluice_session_logits(b->x), bytes);
    sluice_session_reset(b->x);
}

static void close_small(struct bench *b)
{
    free(b->want);
    sluice_session_free(b->x);
    sluice_close(b->s);
}

/* Near the floor embedding rows and layers are read again too. */
static int of_experts, of_layers, of_embedding;

static void assert_sentence(const sluice_error *e)
{
    assert_int_equal(e->code, SLUICE_E_IO);
    assert_non_null(strstr(e->text, BUILT_IN));
    bool expert = strstr(e->text, "layer ") && strstr(e->text, "expert ");
    bool layer = strstr(e->text, "dense weights") != NULL,
         embedding = strstr(e->text, "embedding") != NULL;
    assert_true(expert || layer || embedding);
    of_experts += expert;
    of_layers += layer;
    of_embedding += embedding;
    assert_non_null(strstr(e->text, "offset "));
    assert_null(strchr(e->text, '\n'));
}

static void works_again(struct bench *b)
{
    sluice_error e;
    assert_int_equal(sluice_inject_fault(b->s, "none", 0, 0, 0, &e), 0);
    assert_int_equal(sluice_session_sync(b->x, prompt, N_PROMPT, 0, &e), 0);
    assert_memory_equal(sluice_session_logits(b->x), b->want,
                        (size_t)b->info.n_vocab * sizeof(float));
}

static void failing_reads_fail_the_prompt(void **state)
{
    (void)state;
    static const char *const kinds[] = {"error", "short"};
    for (int r = 0; golden_reader(r); r++) {
        struct bench b;
        open_small(&b, golden_reader(r), 0);
        for (size_t k = 0; k < ARRAY_LEN(kinds); k++)
            for (int skip = 0; skip < 40; skip += 13) {
                sluice_error e;
                assert_int_equal(sluice_inject_fault(b.s, kinds[k], skip, -1, 0, &e), 0);
                assert_int_equal(sluice_session_sync(b.x, prompt, N_PROMPT, 0, &e), SLUICE_E_IO);
                assert_sentence(&e);
                works_again(&b);
                sluice_session_reset(b.x);
            }
        close_small(&b);
    }
}

/* All reads after the first `skip` fail: the prompt's result. */
static int sync_failing(struct bench *b, int skip)
{
    sluice_error e;
    assert_int_equal(sluice_inject_fault(b->s, "error", skip, -1, 0, &e), 0);
    int rc = sluice_session_sync(b->x, prompt, N_PROMPT, 0, &e);
    if (rc != 0)
        assert_sentence(&e);
    works_again(b);
    sluice_session_reset(b->x);
    return rc;
}

/* From the first read of a prompt, an embedding row, to the last, rows of the
 * output matrix. */
static void any_read_may_fail(void **state)
{
    (void)state;
    struct bench b;
    int skip = 0;
    open_small(&b, "uring", 0);
    while (sync_failing(&b, skip) != 0)
        skip += 40;
    for (skip -= 40; sync_failing(&b, skip) != 0; skip++)
        ;
    close_small(&b);
    assert_true(of_experts && of_layers && of_embedding);
}

static int count_token(void *user, int32_t id, const char *text, size_t n)
{
    (void)id;
    (void)text;
    (void)n;
    ++*(int *)user;
    return 0;
}

static void failing_reads_fail_the_generation(void **state)
{
    (void)state;
    for (int r = 0; golden_reader(r / 2); r++) {
        struct bench b;
        sluice_sampling p;
        sluice_finish finish;
        sluice_error e;
        bool ahead = r % 2;
        int got = 0;
        sluice_sampling_init(&p);
        open_small(&b, golden_reader(r / 2), ahead ? 0 : -1);
        assert_int_equal(sluice_session_sync(b.x, prompt, N_PROMPT, 0, &e), 0);
        /* what was read ahead in vain is read again: only lasting faults show */
        assert_int_equal(sluice_inject_fault(b.s, "error", 30, -1, 0, &e), 0);
        assert_int_equal(sluice_generate(b.x, &p, 40, count_token, &got, &finish, &e), SLUICE_E_IO);
        assert_sentence(&e);
        assert_true(got > 0 && got < 20);
        works_again(&b);
        got = 0;
        assert_int_equal(sluice_generate(b.x, &p, 40, count_token, &got, &finish, &e), 0);
        assert_int_equal(finish, SLUICE_FINISH_END);
        assert_int_equal(got, 20);
        close_small(&b);
    }
}

static void slow_reads_are_only_slow(void **state)
{
    (void)state;
    for (int r = 0; golden_reader(r); r++) {
        struct bench b;
        sluice_error e;
        open_small(&b, golden_reader(r), 0);
        assert_int_equal(sluice_inject_fault(b.s, "slow", 0, 20, 5, &e), 0);
        assert_int_equal(sluice_session_sync(b.x, prompt, N_PROMPT, 0, &e), 0);
        works_again(&b);
        close_small(&b);
    }
}

/* One failed read is enough, wherever the decode is; others must still end. */
static void a_broken_session_says_so(void **state)
{
    (void)state;
    struct bench b;
    sluice_error e;
    int32_t id = 300;
    open_small(&b, "uring", -1);
    assert_int_equal(sluice_session_sync(b.x, prompt, N_PROMPT, 0, &e), 0);
    assert_int_equal(sluice_inject_fault(b.s, "error", 1, 1, 0, &e), 0); /* not the embedding row */
    int rc = 0;
    for (int i = 0; i < 8 && rc == 0; i++)
        rc = sluice_session_append(b.x, &id, 1, NULL, NULL, &e);
    assert_int_equal(rc, SLUICE_E_IO);
    assert_int_equal(sluice_session_append(b.x, &id, 1, NULL, NULL, &e), SLUICE_E_STATE);
    works_again(&b);
    close_small(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failing_reads_fail_the_prompt),
        cmocka_unit_test(any_read_may_fail),
        cmocka_unit_test(failing_reads_fail_the_generation),
        cmocka_unit_test(slow_reads_are_only_slow),
        cmocka_unit_test(a_broken_session_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
