/*
 * The timeline: a file that is JSON, whose spans nest on every track and add
 * up to what the engine counts; recording changes no bit; a full memory and a
 * full disk are told once and lose nothing else.
 */
#include "base/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "golden.h"

enum { N_IDS = 60, N_PROMPT = 40 };

static int32_t ids[N_IDS];
static char path[] = "/var/tmp/sluice_timeline_XXXXXX";
static int n_warnings;
static char warning[700];

static void on_warning(void *user, const char *text)
{
    (void)user;
    n_warnings++;
    snprintf(warning, sizeof warning, "%s", text);
}

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < N_IDS; i++)
        ids[i] = 300 + 37 * i % 7000;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
    (void)state;
    return unlink(path);
}

/* ---- reading it back ---------------------------------------------------- */

struct event {
    const char *name, *cat;
    int64_t tid;
    double begin, end; /* us */
    const json_t *args;
};

static json_t *load_events(struct event **out, size_t *n_out)
{
    json_t *j = golden_json(path), *list = json_object_get(j, "traceEvents"), *x;
    struct event *v = calloc(json_array_size(list) + 1, sizeof *v);
    size_t i, n = 0;
    assert_non_null(v);
    json_array_foreach(list, i, x) {
        const char *ph = json_string_value(json_object_get(x, "ph"));
        assert_non_null(ph);
        assert_true(json_is_integer(json_object_get(x, "pid")) &&
                    json_is_integer(json_object_get(x, "tid")));
        if (strcmp(ph, "X") != 0) {
            assert_string_equal(ph, "M");
            continue;
        }
        double ts = json_number_value(json_object_get(x, "ts")),
               dur = json_number_value(json_object_get(x, "dur"));
        v[n] = (struct event){.name = json_string_value(json_object_get(x, "name")),
                              .cat = json_string_value(json_object_get(x, "cat")),
                              .tid = json_integer_value(json_object_get(x, "tid")),
                              .begin = ts, .end = ts + dur, .args = json_object_get(x, "args")};
        assert_true(v[n].name && v[n].cat && ts >= 0 && dur >= 0);
        n++;
    }
    *out = v;
    *n_out = n;
    return j;
}

static int64_t arg(const struct event *e, const char *key)
{
    const json_t *j = json_object_get(e->args, key);
    return j ? json_integer_value(j) : -1;
}

static int by_place(const void *a, const void *b)
{
    const struct event *x = a, *y = b;
    if (x->tid != y->tid)
        return x->tid < y->tid ? -1 : 1;
    if (x->begin < y->begin || x->begin > y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end > y->end ? -1 : x->end < y->end; /* the outer one first */
}

/* Only the driver's spans lie in one another. */
static void assert_nesting(struct event *v, size_t n)
{
    double open[16];
    int depth = 0;
    const double dust = 1e-3; /* of adding ts and dur */
    qsort(v, n, sizeof *v, by_place);
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || v[i].tid != v[i - 1].tid)
            depth = 0;
        while (depth > 0 && open[depth - 1] <= v[i].begin + dust)
            depth--;
        if (depth > 0 && (v[i].tid != TRACE_DRIVER || v[i].end > open[depth - 1] + dust))
            fail_msg("%s at %.3f on track %lld overlaps another span", v[i].name, v[i].begin,
                     (long long)v[i].tid);
        assert_true(depth < 16);
        open[depth++] = v[i].end;
    }
}

/* ---- a model ------------------------------------------------------------- */

static sluice_options options(const char *io, const char *timeline)
{
    sluice_options o = golden_small(BUILT_IN, io);
    o.warning = on_warning;
    /* in checked builds a span costs their shadow memory several times */
    o.memory_bytes = golden_near_floor(&o, GOLDEN_MARGIN(12, 192));
    o.timeline = timeline;
    return o;
}

static uint64_t run(const sluice_options *o, sluice_stats *stats, sluice_model_info *info)
{
    uint64_t h = GOLDEN_HASH;
    sluice_error e;
    sluice *s = golden_open(o);
    sluice_session *x = golden_session(s);
    assert_int_equal(sluice_session_append(x, ids, N_PROMPT, golden_hash, &h, &e), 0);
    for (int i = N_PROMPT; i < N_IDS; i++)
        assert_int_equal(sluice_session_append(x, ids + i, 1, golden_hash, &h, &e), 0);
    sluice_get_stats(s, stats);
    sluice_info(s, info);
    info->arch = NULL; /* gone with the model */
    sluice_session_free(x);
    sluice_close(s);
    return h;
}

static void check_sums(const struct event *v, size_t n, const sluice_stats *stats, int n_layers)
{
    int64_t tokens = 0, steps = 0, layers = 0, bytes = 0, n_experts = 0, threads[2] = {0};
    double step_us = 0, wait_us = 0, first = 1e300;
    for (size_t i = 0; i < n; i++)
        if (strcmp(v[i].cat, "token") == 0 && v[i].begin < first)
            first = v[i].begin;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(v[i].cat, "token") == 0) {
            tokens += arg(&v[i], "tokens");
            step_us += v[i].end - v[i].begin;
            steps++;
        }
        if (strcmp(v[i].cat, "wait") == 0 && v[i].begin >= first)
            wait_us += v[i].end - v[i].begin;
        if (strcmp(v[i].name, "expert layer") == 0) {
            assert_in_range(arg(&v[i], "layer"), 0, n_layers - 1);
            layers++;
        }
        if (v[i].tid >= TRACE_READS && arg(&v[i], "layer") >= 0) {
            assert_true(arg(&v[i], "expert") >= 0 && arg(&v[i], "offset") > 0);
            n_experts++;
        }
        if (v[i].tid >= TRACE_READS && v[i].end >= first) /* not those of loading */
            bytes += arg(&v[i], "bytes");
        if (v[i].tid >= TRACE_THREADS && v[i].tid < TRACE_READS) {
            assert_in_range(v[i].tid, TRACE_THREADS, TRACE_THREADS + 1);
            assert_string_not_equal(v[i].name, "work"); /* everything has a label */
            threads[v[i].tid - TRACE_THREADS]++;
        }
    }
    assert_int_equal(tokens, N_IDS);
    assert_int_equal(layers, steps * n_layers);
    assert_int_equal(threads[0], threads[1]);
    assert_true(n_experts > 0);
    assert_true(threads[0] > layers * 4);
    assert_true(stats->prompt_read_bytes > 0 && bytes >= stats->prompt_read_bytes);
    assert_true(step_us * 1000 >= (double)stats->prompt_ns);
    assert_true(wait_us > (double)stats->read_wait_ns / 1000 - 1 && wait_us <= step_us);
}

/* Reads that began while the caller's own thread was computing. */
static int tended(const struct event *v, size_t n)
{
    int count = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; v[i].tid >= TRACE_READS && k < n; k++)
            count += v[k].tid == TRACE_THREADS && v[i].begin > v[k].begin && v[i].begin < v[k].end;
    return count;
}

static void a_run(void **state)
{
    (void)state;
    for (int r = 0; golden_reader(r); r++) {
        sluice_stats stats;
        sluice_model_info info;
        struct event *v;
        size_t n;
        sluice_options o = options(golden_reader(r), NULL);
        uint64_t want = run(&o, &stats, &info);
        o.timeline = path;
        n_warnings = 0;
        assert_int_equal(run(&o, &stats, &info), want);
        assert_int_equal(n_warnings, 0);
        json_t *j = load_events(&v, &n);
        assert_true(json_is_true(json_object_get(json_object_get(j, "otherData"), "complete")));
        assert_int_equal(
            json_integer_value(json_object_get(json_object_get(j, "otherData"), "spans")), n);
        assert_nesting(v, n);
        check_sums(v, n, &stats, info.n_layers);
        free(v);
        json_decref(j);
    }
}

/* Reads begin while the caller computes too. A busy machine may hide it in a
 * run, but not in many. */
static void reads_are_tended(void **state)
{
    (void)state;
    if (GOLDEN_MARGIN(0, 1)) {
        print_message("skipped: in checked builds the margin of memory holds all experts\n");
        skip();
    }
    for (int r = 0; golden_reader(r); r++) {
        int seen = 0;
        for (int i = 0; i < 30 && !seen; i++) {
            sluice_stats stats;
            sluice_model_info info;
            struct event *v;
            size_t n;
            sluice_options o = options(golden_reader(r), path);
            run(&o, &stats, &info);
            json_t *j = load_events(&v, &n);
            seen = tended(v, n);
            free(v);
            json_decref(j);
        }
        assert_true(seen > 0);
    }
}

/* One token of which the read number `skip` is slow: the slow read of an expert
 * in the timeline, or false. */
static bool slow_read(int skip, struct event *slow, struct event **v, size_t *n, json_t **j)
{
    sluice_options o = options("pread", path);
    sluice_error e;
    uint64_t h = GOLDEN_HASH;
    o.lookahead = -1;
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s);
    assert_int_equal(sluice_session_append(x, ids, 1, golden_hash, &h, &e), 0);
    assert_int_equal(sluice_inject_fault(s, "slow", skip, 1, 150, &e), 0);
    assert_int_equal(sluice_session_append(x, ids + 1, 1, golden_hash, &h, &e), 0);
    sluice_session_free(x);
    sluice_close(s);
    *j = load_events(v, n);
    for (size_t i = 0; i < *n; i++)
        if ((*v)[i].tid >= TRACE_READS && arg(&(*v)[i], "expert") >= 0 &&
            (*v)[i].end - (*v)[i].begin > 145e3) {
            *slow = (*v)[i];
            return true;
        }
    return false;
}

/* Steps that compute experts from the end of the slow read to the end of its layer. */
static int steps_after(const struct event *slow, const struct event *v, size_t n)
{
    double end = 0;
    int steps = 0;
    for (size_t i = 0; i < n; i++)
        if (strcmp(v[i].name, "expert layer") == 0 && v[i].begin < slow->end &&
            v[i].end > slow->end)
            end = v[i].end;
    for (size_t i = 0; i < n; i++)
        steps += v[i].tid == TRACE_THREADS && strcmp(v[i].name, "experts") == 0 &&
                 v[i].begin >= slow->end && v[i].begin < end;
    return steps;
}

/* An expert's gate and up are computed while its down is on its way: when that
 * comes last of all, one step is left, and two after a late gate or up. */
static void gate_and_up_do_not_wait_for_down(void **state)
{
    (void)state;
    int whole = 0, begun = 0;
    for (int skip = 0; skip < 60 && !(whole && begun); skip++) {
        struct event *v, slow;
        json_t *j;
        size_t n;
        if (slow_read(skip, &slow, &v, &n, &j)) {
            int steps = steps_after(&slow, v, n);
            whole += steps == 2;
            begun += steps == 1;
        }
        free(v);
        json_decref(j);
    }
    assert_true(whole > 0 && begun > 0);
}

static void places_that_take_nothing(void **state)
{
    (void)state;
    sluice_stats stats;
    sluice_model_info info;
    sluice_error e;
    sluice *s = NULL;
    sluice_options o = options("uring", NULL);
    uint64_t want = run(&o, &stats, &info);
    o.timeline = "/nonexistent/x";
    assert_int_equal(sluice_open(&o, &s, &e), SLUICE_E_ARG);
    assert_non_null(strstr(e.text, "'/nonexistent/x' cannot be written"));
    if (access("/dev/full", W_OK) != 0)
        skip();
    o.timeline = "/dev/full";
    n_warnings = 0;
    assert_int_equal(run(&o, &stats, &info), want);
    assert_int_equal(n_warnings, 1);
    assert_non_null(strstr(warning, "'/dev/full' failed: No space"));
    assert_int_equal(access("/dev/full", F_OK), 0);
}

/* Its memory is part of the plan: what is left for experts gets smaller. */
static void the_plan_knows(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip();
#endif
    sluice_plan without, with;
    sluice_options o = options("uring", NULL);
    sluice *s = golden_open(&o);
    sluice_get_plan(s, &without);
    sluice_close(s);
    o.timeline = path;
    s = golden_open(&o);
    sluice_get_plan(s, &with);
    sluice_close(s);
    assert_true(with.memory.process > without.memory.process + (6 << 20));
    assert_true(with.memory.dense + with.memory.cache <
                without.memory.dense + without.memory.cache - (6 << 20));
}

/* ---- the recorder ---------------------------------------------------------- */

static void nothing(void *user, int i, int n)
{
    (void)user, (void)i, (void)n;
}

static void a_full_memory(void **state)
{
    (void)state;
    static const struct trace_kind kind = {"thing", "kind", {"a", NULL, "c"}};
    struct err e = {0};
    struct event *v;
    size_t n;
    struct trace *t = trace_new(64 << 10);
    struct pool *p = pool_new(3);
    assert_true(t && p);
    assert_int_equal(trace_open(t, path, &e), OK);
    trace_add(t, &kind, TRACE_DRIVER, 0, INT64_MAX, (int64_t[]){-7, 8, TRACE_NO_ARG}, 3);
    pool_set_trace(p, t);
    for (int i = 0; i < 400; i++) {
        if (i == 100)
            pool_label(p, &kind, i);
        pool_run(p, nothing, NULL);
    }
    pool_set_trace(p, NULL);
    pool_run(p, nothing, NULL);
    pool_free(p);
    assert_int_equal(trace_close(t, &e), E_STATE);
    assert_non_null(strstr(e.text, path));
    assert_non_null(strstr(e.text, "ends early"));
    json_t *j = load_events(&v, &n), *other = json_object_get(j, "otherData");
    assert_true(json_is_false(json_object_get(other, "complete")));
    assert_int_equal(json_integer_value(json_object_get(other, "lost_spans")) + (int64_t)n, 1201);
    for (size_t i = 0; i < n; i++)
        if (v[i].tid == TRACE_DRIVER) {
            assert_int_equal(arg(&v[i], "a"), -7);
            assert_int_equal(json_object_size(v[i].args), 1);
            v[i] = v[--n]; /* longer than a number of JSON is exact */
        }
    assert_nesting(v, n);
    free(v);
    json_decref(j);
    assert_int_equal(trace_close(NULL, &e), OK);
    assert_int_equal(trace_close(trace_new(1), NULL), OK); /* never opened */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_plan_knows),
        cmocka_unit_test(a_full_memory),
        cmocka_unit_test(gate_and_up_do_not_wait_for_down),
        cmocka_unit_test(a_run),
        cmocka_unit_test(reads_are_tended),
        cmocka_unit_test(places_that_take_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
