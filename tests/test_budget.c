/*
 * The budget is the process's: what is read, what probing takes, and several models
 * of one process. The tool is run as a child whose peak the kernel tells (of a
 * process that begins as a copy of this one, which is small).
 */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "sluice.h"

#define BUILT_IN "models/pocket-dictionary.gguf"
#define MIB (1024 * 1024)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NO_MEANING 1 /* sanitizers need memory of their own */
#else
#define NO_MEANING 0
#endif

extern char **environ;
static char folder[] = "/tmp/sluice-budget-XXXXXX";
static char **child_environ; /* NULL: this process's */

static const char *tool(void)
{
    const char *s = getenv("SLUICE");
    return s ? s : "build/sluice";
}

/* The smallest budget that the program itself names; its text is what a user would type. */
static const char *floor_size(void)
{
    static char size[32];
    FILE *f =
        size[0] ? NULL
                : popen("${SLUICE:-build/sluice} plan --no-probe --memory 1M 2>&1 >/dev/null", "r");
    char line[1000] = "";
    if (f) {
        double mib = 0;
        assert_true(fread(line, 1, sizeof(line) - 1, f) > 0);
        char *at = strstr(line, "floor of ");
        assert_non_null(at);
        mib = atof(at + strlen("floor of "));
        assert_true(mib > 1);
        snprintf(size, sizeof(size), "%.1fM", mib);
        pclose(f);
    }
    return size;
}

/* Runs `tool words...` (FLOOR among them is the floor), standard input from the file `in`;
 * its status, its peak in *peak, and the end of what it wrote in text. */
static int run(const char *words, const char *in, long *peak, char *text, size_t room)
{
    char copy[500], path[300], *argv[40] = {(char *)tool()}, *save = NULL;
    int n = 1, status;
    struct rusage u;
    pid_t pid;
    posix_spawn_file_actions_t fa;
    snprintf(copy, sizeof(copy), "%s", words);
    for (char *w = strtok_r(copy, " ", &save); w && n < 39; w = strtok_r(NULL, " ", &save))
        argv[n++] = strcmp(w, "FLOOR") == 0 ? (char *)floor_size() : w;
    argv[n] = NULL;
    snprintf(path, sizeof(path), "%s/out", folder);
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, 0, in, O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&fa, 1, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&fa, 1, 2);
    char **env = child_environ ? child_environ : environ;
    assert_int_equal(posix_spawn(&pid, argv[0], &fa, NULL, argv, env), 0);
    posix_spawn_file_actions_destroy(&fa);
    assert_true(wait4(pid, &status, 0, &u) == pid);
    assert_true(WIFEXITED(status));
    *peak = u.ru_maxrss * 1024;
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    fseek(f, size > (long)room - 1 ? size - (long)room + 1 : 0, SEEK_SET);
    text[fread(text, 1, room - 1, f)] = '\0';
    fclose(f);
    return WEXITSTATUS(status);
}

/* A file of n bytes, `unit` again and again between `begin` and `end`. */
static const char *file_of(const char *begin, const char *unit, size_t n, const char *end)
{
    static char path[300];
    snprintf(path, sizeof(path), "%s/in", folder);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(begin, f);
    for (size_t i = 0; i < n; i += strlen(unit))
        fputs(unit, f);
    fputs(end, f);
    fclose(f);
    return path;
}

struct reading {
    const char *words, *begin, *unit;
    size_t n;
    const char *end;
    int mib, status;
    const char *said;
};

static void what_is_read_counts(void **state)
{
    (void)state;
    static const struct reading all[] = {
        {"run --memory 32M", NULL, NULL, 0, NULL, 32, 1, "zero byte at 0"},
        {"run --raw --memory 32M", NULL, NULL, 0, NULL, 32, 1, "does not fit the context"},
        {"tokenize --memory 32M", NULL, NULL, 0, NULL, 32, 1, "bytes cannot be tokenised at once"},
        {"logits --memory 32M --ids -", NULL, NULL, 0, NULL, 32, 1, "zero byte at 0"},
        {"chat --memory 32M", NULL, NULL, 0, NULL, 32, 1, "zero byte at 0"},
        {"chat --memory 32M", "", "word ", 40 << 20, "", 32, 1, "does not fit the context"},
        {"run --memory 32M", "", "word ", 40 << 20, "", 32, 1, "does not fit the context"},
        {"run --memory 24M", "", "x", 250000, "", 24, 1, "tokens"},
        {"run --memory 24M", "", "\xcc\x81", 250000, "", 24, 1, "tokens"},
        {"run --memory FLOOR", "", "word ", 65000, "", 18, 1, "tokens"},
        {"run --memory FLOOR", "", "x", 65000, "", 18, 1, "cannot be tokenised"},
        {"logits --memory 32M --ids -", "", "1,2,", 40 << 20, "", 32, 1,
         "does not fit the context"},
        {"logits --memory 32M --ids -", "", "1 ", 250000, "", 32, 1, "tokens"},
        {"tokenize --memory 21M", "", "word ", 1500000, "", 21, 0, NULL},
        {"tokenize --memory 20M", "", "x", 1500000, "", 20, 1, "cannot be tokenised"},
        {"tokenize --memory 60M --json", "", "word ", 2 << 20, "", 60, 1, "JSON output"},
        {"tokenize --memory 200M --json", "", "word ", 1 << 20, "", 200, 0, NULL},
        {"tokenize --memory 21M --decode", "", "1,", 1500000, "1", 21, 0, NULL},
        {"eval --memory 32M --tokens /dev/stdin", "[1", ",1", 20 << 20, "]", 32, 1,
         "more than fits the memory budget"},
        {"eval --memory 32M --tokens /dev/stdin", "[1", "   ", 60 << 20, "]", 32, 1,
         "more than fits the memory budget"},
        {"eval --memory 32M --qa /dev/stdin", "[{}", ",{}", 20 << 20, "]", 32, 1,
         "more than fits the memory budget"},
        {"plan --memory 32M --no-probe --routing /dev/stdin", "",
         "{\"layers\": [[1,2,3,4],[1],[1],[1],[1],[1],[1],[1]]}\n", 60 << 20, "", 32, 0, NULL},
    };
    if (NO_MEANING)
        skip();
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        const struct reading *r = &all[i];
        long peak;
        char text[2000];
        int status = run(r->words, r->unit ? file_of(r->begin, r->unit, r->n, r->end) : "/dev/zero",
                         &peak, text, sizeof(text));
        print_message("%s: %d, peak %.1f MiB\n", r->words, status, (double)peak / MIB);
        if (status != r->status || (r->said && !strstr(text, r->said)))
            fail_msg("%s: exit %d, expected %d and \"%s\": %s", r->words, status, r->status,
                     r->said ? r->said : "", text);
        if (peak > (long)r->mib * MIB)
            fail_msg("%s: peak of %.1f MiB", r->words, (double)peak / MIB);
    }
}

static void probing_counts(void **state)
{
    (void)state;
    static const char *const all[] = {"plan --memory 20M", "probe --memory 20M",
                                      "probe --json --memory 20M",
                                      "bench --memory 20M -n 4 -p 8 -r 1", "plan --memory FLOOR"};
    if (NO_MEANING)
        skip();
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        long peak;
        char text[4000];
        int status = run(all[i], "/dev/null", &peak, text, sizeof(text));
        if (status != 0)
            fail_msg("%s: exit %d: %s", all[i], status, text);
        print_message("%s: peak %.1f MiB\n", all[i], (double)peak / MIB);
        assert_true(peak <= 20 * MIB);
        if (strstr(all[i], "probe") && !strstr(all[i], "json"))
            assert_non_null(strstr(text, "not measured"));
        if (strstr(all[i], "json"))
            assert_non_null(strstr(text, "\"drive_gbs_big\": null"));
        if (strstr(all[i], "bench")) { /* the peak that it prints is the true one */
            double said = 0;
            char *at = strstr(text, "peak memory ");
            assert_non_null(at);
            said = atof(at + strlen("peak memory "));
            assert_true(said * MIB > (double)peak - 0.3 * MIB &&
                        said * MIB < (double)peak + 0.3 * MIB);
        }
    }
}

/* The line of the program in a plan for 40 MiB; -1: no plan. */
static long program_line(const char *words)
{
    long peak;
    char text[4000];
    int status = run(words, "/dev/null", &peak, text, sizeof(text));
    const char *at = strstr(text, "\"process\": ");
    if (status != 0 || !at)
        fprintf(stderr, "%s: exit %d: %s\n", words, status, text);
    return status == 0 && at ? atol(at + strlen("\"process\": ")) : -1;
}

/* The kernel allows a quarter of the stack's limit for the environment. */
static bool raise_stack(void)
{
    struct rlimit stack;
    if (getrlimit(RLIMIT_STACK, &stack) != 0 || stack.rlim_max < (rlim_t)32 * MIB)
        return false;
    stack.rlim_cur = (rlim_t)32 * MIB;
    return setrlimit(RLIMIT_STACK, &stack) == 0;
}

/* Lets the next children begin with so many bytes of environment, which are resident. */
static void enlarge_children(size_t bytes)
{
    enum { STRING = 64 << 10, MOST = 80 };
    static char filler[MOST][STRING], *all[MOST + 2], path[1000];
    size_t n = 0;
    snprintf(path, sizeof(path), "PATH=%s", getenv("PATH"));
    all[n++] = path;
    for (size_t i = 0; i < bytes / STRING && i < MOST; i++) {
        memset(filler[i], 'x', STRING - 1);
        memcpy(filler[i], "FILLER=", strlen("FILLER="));
        all[n++] = filler[i];
    }
    all[n] = NULL;
    child_environ = all;
}

/* What a program holds differs a little from run to run: where it is larger than the
 * ordinary one, and where it is only about to be. */
static void a_named_floor_is_good_for_the_next_run(void **state)
{
    (void)state;
    enum { STEP = 128 << 10, MOST = 30, GROWS = 192 << 10 };
    if (NO_MEANING || !raise_stack())
        skip();
    for (size_t i = 0; i < MOST; i++) {
        long peak;
        char text[4000], words[100];
        enlarge_children(i * STEP);
        assert_int_equal(run("plan --no-probe --memory 1M", "/dev/null", &peak, text, sizeof(text)),
                         1);
        char *at = strstr(text, "floor of ");
        assert_non_null(at);
        snprintf(words, sizeof(words), "plan --no-probe --memory %.1fM",
                 atof(at + strlen("floor of ")));
        enlarge_children(i * STEP + GROWS);
        if (run(words, "/dev/null", &peak, text, sizeof(text)) != 0)
            fail_msg("%s, with %d KiB more: %s", words, GROWS >> 10, text);
    }
    child_environ = NULL;
}

/* The model of a probe leaves pages behind that are in the next one's reserve. */
static void a_probe_adds_nothing_to_a_large_program(void **state)
{
    (void)state;
    if (NO_MEANING || !raise_stack())
        skip();
    enlarge_children(4 * MIB);
    long alone = program_line("plan --json --no-probe --memory 40M");
    long probed = program_line("plan --json --memory 40M");
    child_environ = NULL;
    long ordinary = program_line("plan --json --no-probe --memory 40M");
    print_message("program of %ld bytes, %ld after a probe, ordinary %ld\n", alone, probed,
                  ordinary);
    assert_true(ordinary > 0 && alone > ordinary + MIB); /* or this proves nothing */
    assert_true(labs(probed - alone) < MIB);
}

/* Where /proc is hidden only the peak of the process is known, to which a probe
 * adds: the plan after it must not count that as the program. */
static void a_probe_is_not_the_program(void **state)
{
    (void)state;
    enum { HIDDEN = 0, SKIP = 77, WRONG = 1 };
    int status;
    if (NO_MEANING)
        skip();
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if ((unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) ||
            mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
            mount("none", "/proc", "tmpfs", 0, NULL) != 0)
            _exit(SKIP);
        long alone = program_line("plan --json --no-probe --memory 40M -m " BUILT_IN);
        long probed = program_line("plan --json --memory 40M -m " BUILT_IN);
        fprintf(stderr, "program of %ld bytes, %ld after a probe\n", alone, probed);
        _exit(alone > 0 && probed > 0 && labs(probed - alone) < MIB ? HIDDEN : WRONG);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == SKIP)
        skip();
    assert_int_equal(WEXITSTATUS(status), HIDDEN);
}

/* ---- models of one process ------------------------------------------------ */

static long resident_peak(void)
{
    return (long)sluice_memory_peak();
}

static sluice *open_one(int64_t budget, sluice_session **x)
{
    sluice_options o;
    sluice_error e = {0};
    sluice *s = NULL;
    sluice_options_init(&o);
    o.model = BUILT_IN;
    o.memory_bytes = (uint64_t)budget;
    o.threads = 2;
    if (sluice_open(&o, &s, &e) < 0 || sluice_session_new(s, x, &e) < 0)
        fail_msg("%s", e.text);
    return s;
}

static void say_something(sluice *s, sluice_session *x, int seed)
{
    int32_t ids[96];
    sluice_error e = {0};
    for (int i = 0; i < 96; i++)
        ids[i] = 300 + (i * 37 + seed * 101) % 4000;
    if (sluice_session_append(x, ids, 96, NULL, NULL, &e) < 0)
        fail_msg("%s", e.text);
    sluice_session_reset(x);
    sluice_stats t;
    sluice_plan p;
    sluice_get_stats(s, &t);
    sluice_get_plan(s, &p);
    assert_true(t.memory_peak > 0 && t.memory_peak <= t.memory_budget);
    assert_int_equal(t.memory_budget, p.memory.budget);
}

static void each_model_keeps_its_own_budget(void **state)
{
    (void)state;
    const int64_t budget = 40000000;
    sluice_session *xa, *xb, *xc;
    sluice_plan pa, pb, pc;
    sluice_stats ta, tb;
    if (NO_MEANING)
        skip();
    sluice *a = open_one(budget, &xa);
    say_something(a, xa, 0);
    sluice *b = open_one(budget, &xb); /* what a holds is not counted in it */
    sluice_get_plan(a, &pa);
    sluice_get_plan(b, &pb);
    assert_int_equal(pa.memory.process, pb.memory.process);
    assert_int_equal(pa.memory.cache, pb.memory.cache);
    for (int i = 1; i < 30; i++) {
        say_something(a, xa, i);
        say_something(b, xb, i + 100);
    }
    sluice_get_stats(a, &ta);
    sluice_get_stats(b, &tb);
    print_message("peaks %.1f and %.1f MB, of the process %.1f\n", (double)ta.memory_peak / 1e6,
                  (double)tb.memory_peak / 1e6, (double)resident_peak() / 1e6);
    assert_true(resident_peak() <= ta.memory_peak + tb.memory_peak);
    assert_true(ta.memory_peak + tb.memory_peak <= 2 * budget);
    assert_true(resident_peak() > budget); /* or this proves nothing */
    sluice_session_free(xa);
    sluice_close(a); /* the program's part is not lost with the first */
    sluice *c = open_one(budget, &xc);
    sluice_get_plan(c, &pc);
    assert_int_equal(pb.memory.process, pc.memory.process);
    for (int i = 0; i < 10; i++)
        say_something(c, xc, i);
    assert_true(resident_peak() <= 2 * budget);
    sluice_session_free(xb);
    sluice_session_free(xc);
    sluice_close(b);
    sluice_close(c);
}

static void what_the_caller_holds_counts(void **state)
{
    (void)state;
    sluice_session *x;
    sluice_error e = {0};
    sluice_plan p;
    if (NO_MEANING)
        skip();
    sluice *s = open_one(40 * MIB, &x);
    sluice_get_plan(s, &p);
    int64_t most = p.memory.cache - p.memory.cache_min;
    assert_int_equal(sluice_hold(s, most / 2, &e), 0);
    assert_int_equal(sluice_hold(s, 40 * MIB, &e), SLUICE_E_BUDGET);
    assert_non_null(strstr(e.text, "memory budget of 40.0 MiB"));
    assert_int_equal(sluice_hold(s, most / 4, &e), 0);
    assert_int_equal(sluice_hold(s, -1, &e), SLUICE_E_ARG);
    say_something(s, x, 1);
    assert_int_equal(sluice_hold(s, 0, &e), 0);
    /* a word too long to encode in what is left: a sentence, and everything goes on */
    size_t n = 4 * MIB;
    char *text = malloc(n);
    int32_t *ids = NULL;
    int64_t n_ids = 0;
    assert_non_null(text);
    memset(text, 'x', n);
    assert_int_equal(sluice_tokenize(s, text, n, false, &ids, &n_ids, &e), SLUICE_E_BUDGET);
    assert_non_null(strstr(e.text, "raise --memory"));
    assert_int_equal(sluice_tokenize(s, text, n / 100, false, &ids, &n_ids, &e), 0);
    sluice_free(ids);
    free(text);
    say_something(s, x, 2);
    sluice_session_free(x);
    sluice_close(s);
}

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    char path[300];
    static const char *const names[] = {"in", "out"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        (void)unlink(path);
    }
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_read_counts), /* first: while this process is small */
        cmocka_unit_test(probing_counts),
        cmocka_unit_test(a_named_floor_is_good_for_the_next_run),
        cmocka_unit_test(a_probe_adds_nothing_to_a_large_program),
        cmocka_unit_test(a_probe_is_not_the_program),
        cmocka_unit_test(each_model_keeps_its_own_budget),
        cmocka_unit_test(what_the_caller_holds_counts),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
