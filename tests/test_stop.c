/*
 * Stopping and refusing early, as a host program sees it: probes and answers are
 * cancelled, files that would be destroyed are refused, what could not be
 * written is told.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "golden.h"

static int32_t prompt[256];
static int64_t n_prompt; /* of a question whose answer is longer than what is generated */

struct stop {
    const char *what; /* cancels the `after`-th call with it */
    int after, calls;
};

static int stop_at(void *user, const char *what, int64_t done, int64_t total)
{
    struct stop *s = user;
    (void)done, (void)total;
    return strcmp(what, s->what) == 0 && ++s->calls >= s->after;
}

static sluice_options options(struct stop *stop)
{
    sluice_options o;
    sluice_options_init(&o);
    o.model = BUILT_IN;
    o.threads = 2;
    o.progress = stop ? stop_at : NULL;
    o.user = stop;
    return o;
}

static sluice_session *session(const sluice_options *o, sluice **s)
{
    sluice_session *x = NULL;
    sluice_error e;
    sluice_message m = {.role = "user", .content = "What does serendipity mean?"};
    int32_t *ids = NULL;
    int64_t n_stable;
    assert_int_equal(sluice_open(o, s, &e), 0);
    assert_int_equal(sluice_session_new(*s, &x, &e), 0);
    assert_int_equal(sluice_chat_ids(*s, &m, 1, false, &ids, &n_prompt, &n_stable, &e), 0);
    assert_true(n_prompt < 256);
    memcpy(prompt, ids, (size_t)n_prompt * sizeof(*ids));
    sluice_free(ids);
    assert_int_equal(sluice_session_sync(x, prompt, n_prompt, 0, &e), 0);
    return x;
}

/* In the drive's part, in the memory's, in the rehearsal: at the next call it is over. */
static void a_probe_is_cancelled(void **state)
{
    (void)state;
    sluice_probe_result r;
    sluice_error e;
    struct stop all = {"probe", 1 << 30, 0};
    sluice_options o = options(&all);
    assert_int_equal(sluice_probe(&o, &r, &e), 0);
    assert_true(all.calls > 40);
    for (int i = 0; i < 3; i++) {
        struct stop stop = {"probe", i == 0 ? 1 : i == 1 ? 20 : all.calls / 2, 0};
        o = options(&stop);
        assert_int_equal(sluice_probe(&o, &r, &e), SLUICE_E_CANCELLED);
        assert_int_equal(stop.calls, stop.after);
    }
}

struct answer {
    int n, stop_at, how;
    int32_t ids[64];
};

static int on_token(void *user, int32_t id, const char *text, size_t n_bytes)
{
    struct answer *a = user;
    (void)text, (void)n_bytes;
    if (a->n < 64)
        a->ids[a->n] = id;
    return ++a->n == a->stop_at ? a->how : 0;
}

static struct answer generate(sluice_session *x, int stop_at_token, int how, sluice_finish *f)
{
    struct answer a = {.stop_at = stop_at_token, .how = how};
    sluice_sampling p;
    sluice_error e;
    sluice_sampling_init(&p);
    assert_int_equal(sluice_session_sync(x, prompt, n_prompt, 0, &e), 0);
    assert_int_equal(sluice_generate(x, &p, 6, on_token, &a, f, &e), 0);
    return a;
}

static void an_answer_stops_before_or_after_a_token(void **state)
{
    (void)state;
    sluice *s = NULL;
    sluice_finish f;
    sluice_options o = options(NULL);
    sluice_session *x = session(&o, &s);
    struct answer whole = generate(x, 0, 0, &f);
    assert_int_equal(f, SLUICE_FINISH_LENGTH);
    struct answer after = generate(x, 3, 1, &f);
    assert_int_equal(f, SLUICE_FINISH_STOPPED);
    assert_int_equal(after.n, 3);
    assert_int_equal(sluice_session_length(x), n_prompt + 3);
    struct answer before = generate(x, 3, -1, &f);
    assert_int_equal(f, SLUICE_FINISH_STOPPED);
    assert_int_equal(before.n, 3);
    assert_int_equal(sluice_session_length(x), n_prompt + 2);
    assert_memory_equal(before.ids, whole.ids, 3 * sizeof(int32_t));
    sluice_session_free(x);
    sluice_close(s);
}

/* Nothing more is asked for or told, and the session can go on. */
static void a_token_is_cancelled(void **state)
{
    (void)state;
    sluice *s = NULL;
    sluice_finish f;
    struct stop stop = {"token", 1 << 30, 0};
    sluice_options o = options(&stop);
    sluice_session *x = session(&o, &s);
    struct answer whole = generate(x, 0, 0, &f);
    int layers = stop.calls / 6;
    assert_int_equal(stop.calls, 6 * layers);
    stop.calls = 0;
    stop.after = layers + layers / 2; /* in the middle of the second token */
    struct answer cut = generate(x, 0, 0, &f);
    assert_int_equal(f, SLUICE_FINISH_STOPPED);
    assert_int_equal(cut.n, 2);
    assert_int_equal(stop.calls, stop.after);
    stop.after = 1 << 30;
    struct answer again = generate(x, 0, 0, &f);
    assert_int_equal(again.n, whole.n);
    assert_memory_equal(again.ids, whole.ids, 6 * sizeof(int32_t));
    sluice_session_free(x);
    sluice_close(s);
}

static void files_that_would_be_destroyed(void **state)
{
    (void)state;
    struct stat before, after;
    sluice *s = NULL;
    sluice_error e;
    sluice_options o = options(NULL);
    const sluice_file in = {"the text", "README.md", false},
                      model = {"the answer", "./" BUILT_IN, true},
                      text = {"the answer", "src/../README.md", true},
                      a = {"one", "build-none", true}, b = {"two", "./build-none", true},
                      null = {"one", "/dev/null", true};
    assert_int_equal(stat(BUILT_IN, &before), 0);
    assert_int_equal(sluice_check(&o, (sluice_file[]){in, a, null, null}, 4, &e), 0);
    assert_int_equal(sluice_check(&o, &model, 1, &e), SLUICE_E_ARG);
    assert_non_null(strstr(e.text, "the answer: './" BUILT_IN "' is the model itself"));
    assert_int_equal(sluice_check(&o, (sluice_file[]){in, text}, 2, &e), SLUICE_E_ARG);
    assert_int_equal(sluice_check(&o, (sluice_file[]){a, b}, 2, &e), SLUICE_E_ARG);
    o.timeline = "build-none";
    assert_int_equal(sluice_check(&o, &b, 1, &e), SLUICE_E_ARG);
    o.timeline = "./" BUILT_IN;
    assert_int_equal(sluice_open(&o, &s, &e), SLUICE_E_ARG);
    assert_non_null(strstr(e.text, "is the model itself"));
    assert_int_equal(stat(BUILT_IN, &after), 0);
    assert_true(before.st_ino == after.st_ino && before.st_size == after.st_size);
}

static void values_that_are_refused(void **state)
{
    (void)state;
    sluice_error e;
    for (int i = 0, more = 1; more; i++) {
        sluice_options o = options(NULL);
        switch (i) {
        case 0: o.threads = 1 << 16; break;
        case 1: o.chunk = 65537; break;
        case 2: o.lookahead = SLUICE_LOOKAHEAD_NONE - 1; break;
        case 3: o.policy = "none such"; break;
        case 4: o.io = "none such"; break;
        case 5: o.model = ""; break;
        default: o.context = -1; more = 0;
        }
        assert_int_equal(sluice_check(&o, NULL, 0, &e), SLUICE_E_ARG);
        assert_true(e.text[0] != '\0');
    }
    for (int i = 0; sluice_choice("policy", i); i++) {
        sluice_options o = options(NULL);
        o.policy = sluice_choice("policy", i);
        assert_int_equal(sluice_check(&o, NULL, 0, &e), 0);
    }
    for (int i = 0; sluice_choice("io", i); i++) {
        sluice_options o = options(NULL);
        o.io = sluice_choice("io", i);
        assert_int_equal(sluice_check(&o, NULL, 0, &e), 0);
    }
    assert_null(sluice_choice("policy", 1000));
    assert_null(sluice_choice("policy", -1));
    assert_null(sluice_choice("no such option", 0));
}

static void a_timeline_that_cannot_be_written(void **state)
{
    (void)state;
    sluice *s = NULL;
    sluice_error e;
    sluice_options o = options(NULL);
    if (access("/dev/full", W_OK) != 0)
        skip();
    o.timeline = "/dev/full";
    sluice_session *x = session(&o, &s);
    assert_int_equal(sluice_end_timeline(s, &e), SLUICE_E_IO);
    assert_non_null(strstr(e.text, "No space left"));
    assert_int_equal(sluice_end_timeline(s, &e), 0); /* nothing is left to write */
    assert_int_equal(sluice_session_append(x, prompt, n_prompt, NULL, NULL, &e), 0);
    sluice_session_free(x);
    sluice_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_probe_is_cancelled),
        cmocka_unit_test(an_answer_stops_before_or_after_a_token),
        cmocka_unit_test(a_token_is_cancelled),
        cmocka_unit_test(files_that_would_be_destroyed),
        cmocka_unit_test(values_that_are_refused),
        cmocka_unit_test(a_timeline_that_cannot_be_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
