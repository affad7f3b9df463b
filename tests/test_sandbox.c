/*
 * Systems that forbid something: io_uring (its set-up, or only entering it, by an
 * error or by a signal that ends the process) and direct I/O (at open, or a read
 * after it). The answer is the same, and one sentence says what is used instead.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/io.h"

#define MODEL "models/pocket-dictionary.gguf"

static const char *program = "build/sluice";

/* ---- the program under a filter -------------------------------------------- */

struct ban {
    const char *name;
    unsigned call;
    unsigned flag;   /* only where the third argument has it; 0: always */
    unsigned action; /* of seccomp */
    const char *told; /* part of the sentence; NULL: nothing is said */
};

#define FAILS(e) (SECCOMP_RET_ERRNO | (e))

static const struct ban bans[] = {
    {"setup EPERM", __NR_io_uring_setup, 0, FAILS(EPERM), "pread"},
    {"setup ENOSYS", __NR_io_uring_setup, 0, FAILS(ENOSYS), "pread"},
    {"setup EACCES", __NR_io_uring_setup, 0, FAILS(EACCES), "pread"},
    {"setup deadly", __NR_io_uring_setup, 0, SECCOMP_RET_TRAP, "pread"},
    {"setup killing", __NR_io_uring_setup, 0, SECCOMP_RET_KILL_PROCESS, "pread"},
    {"enter EPERM", __NR_io_uring_enter, 0, FAILS(EPERM), "pread"},
    {"enter ENOSYS", __NR_io_uring_enter, 0, FAILS(ENOSYS), "pread"},
    {"enter deadly", __NR_io_uring_enter, 0, SECCOMP_RET_TRAP, "pread"},
    {"register EPERM", __NR_io_uring_register, 0, FAILS(EPERM), NULL},
    {"direct EINVAL", __NR_openat, O_DIRECT, FAILS(EINVAL), "buffered"},
    {"advice EPERM", __NR_madvise, 0, FAILS(EPERM), NULL},
    {"locks EPERM", __NR_mlock, 0, FAILS(EPERM), NULL},
    {"rename EPERM", __NR_renameat2, 0, FAILS(EPERM), NULL},
};

static bool forbid(const struct ban *b)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, b->call, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | (b->flag ? BPF_JSET : BPF_JGE) | BPF_K, b->flag, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, b->action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {ARRAY_LEN(code), code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

struct result {
    int status;
    char out[4096], err[4096];
};

static void read_back(FILE *f, char *text, size_t size)
{
    rewind(f);
    text[fread(text, 1, size - 1, f)] = '\0';
    fclose(f);
}

/* 77: there are no filters here. */
static void run(const struct ban *b, char *const argv[], struct result *r)
{
    FILE *out = tmpfile(), *err = tmpfile();
    assert_true(out && err);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(fileno(out), 1);
        dup2(fileno(err), 2);
        if (b && !forbid(b))
            _exit(77);
        execv(program, argv);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &r->status, 0), pid);
    read_back(out, r->out, sizeof(r->out));
    read_back(err, r->err, sizeof(r->err));
}

static int count_lines(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static void check_run(const struct ban *b, char *const argv[], const struct result *want)
{
    struct result got;
    run(b, argv, &got);
    if (WIFEXITED(got.status) && WEXITSTATUS(got.status) == 77)
        skip();
    if (got.status != 0 || strcmp(got.out, want->out) != 0)
        fail_msg("%s: status %d, wrote '%s' and said '%s'", b->name, got.status, got.out, got.err);
    int lines = count_lines(got.err);
    if (b->told ? lines != 1 || !strstr(got.err, b->told) : lines != 0)
        fail_msg("%s: said '%s'", b->name, got.err);
}

static void answers_are_the_same(void **state)
{
    (void)state;
    char *const argv[] = {"sluice", "run", "-m", MODEL,         "--threads",
                          "2",      "-n",  "12", "Define run.", NULL};
    struct result want;
    run(NULL, argv, &want);
    assert_int_equal(want.status, 0);
    assert_true(strlen(want.out) > 20);
    for (size_t i = 0; i < ARRAY_LEN(bans); i++)
        check_run(&bans[i], argv, &want);
}

static bool same_files(const char *a, const char *b)
{
    FILE *f = fopen(a, "rb"), *g = fopen(b, "rb");
    bool same = f && g;
    static char x[65536], y[65536];
    for (size_t n = 1; same && n > 0;) {
        n = fread(x, 1, sizeof(x), f);
        same = fread(y, 1, sizeof(y), g) == n && memcmp(x, y, n) == 0;
    }
    if (f)
        fclose(f);
    if (g)
        fclose(g);
    return same;
}

static void packing_works(void **state)
{
    (void)state;
    char want[] = "/var/tmp/sluice_sandbox_XXXXXX", got[64];
    int fd = mkstemp(want);
    assert_true(fd >= 0);
    close(fd);
    snprintf(got, sizeof(got), "%s.got", want);
    struct result r;
    char *argv[] = {"sluice", "pack", "--force", "-m", MODEL, want, NULL};
    run(NULL, argv, &r);
    assert_int_equal(r.status, 0);
    argv[5] = got;
    for (size_t i = 0; i < ARRAY_LEN(bans); i++) {
        unlink(got);
        run(&bans[i], argv, &r);
        if (WIFEXITED(r.status) && WEXITSTATUS(r.status) == 77)
            skip();
        if (r.status != 0 || !same_files(want, got))
            fail_msg("%s: status %d, said '%s'", bans[i].name, r.status, r.err);
    }
    unlink(want);
    unlink(got);
}

/* ---- a direct read that is refused after a successful open -------------------- */

enum { N = 24, BYTES = 50000 };

struct heard {
    int n;
    char text[700];
};

static void hear(void *user, const char *text)
{
    struct heard *h = user;
    h->n++;
    snprintf(h->text, sizeof(h->text), "%s", text);
}

/* Reads N places at once; the bytes must be those of the file. */
static void read_all(struct ioq *q, int file, const uint8_t *want)
{
    static struct ioq_req r[N];
    static _Alignas(IOQ_ALIGN) uint8_t buf[N][BYTES + 2 * IOQ_ALIGN];
    for (int i = 0; i < N; i++) {
        r[i] = (struct ioq_req){
            .file = file, .offset = 777 + i * BYTES, .bytes = BYTES, .buf = buf[i]};
        ioq_submit(q, &r[i]);
    }
    for (int i = 0; i < N; i++) {
        ioq_wait(q, &r[i]);
        assert_int_equal(r[i].status, OK);
        assert_memory_equal(r[i].data, want + r[i].offset, BYTES);
    }
}

static void refused_reads_are_done_again(void **state)
{
    (void)state;
    static const int errors[] = {EINVAL, EOPNOTSUPP};
    static uint8_t want[777 + N * BYTES];
    int fd = open(MODEL, O_RDONLY);
    assert_true(fd >= 0 && pread(fd, want, sizeof(want), 0) == (ssize_t)sizeof(want));
    close(fd);
    const int n_kinds = IOQ_N_KINDS, n_errors = ARRAY_LEN(errors);
    for (int k = 0; k < 3 * n_kinds * n_errors; k++) {
        int when = k / (n_kinds * n_errors);
        struct heard h = {0};
        struct ioq *q;
        struct err e = {0};
        struct ioq_config c = {.kind = (enum ioq_kind)(k % n_kinds)};
        if (ioq_open(&c, &q, &e) == E_UNSUPPORTED)
            continue; /* this system has no such reader */
        int file = ioq_add_file(q, MODEL, &e);
        assert_true(file >= 0);
        if (!ioq_is_direct(q, file)) {
            ioq_close(q);
            skip();
        }
        ioq_set_warning(q, hear, &h);
        h.n = 0;
        /* the first, one in the middle, or several that are under way together */
        struct ioq_fault f = {.kind = IOQ_FAULT_ERROR,
                              .file = file,
                              .end = INT64_MAX,
                              .skip = when * 5,
                              .count = when == 0 ? 1 : -1,
                              .direct = true,
                              .error = errors[k / n_kinds % n_errors]};
        ioq_set_fault(q, &f);
        read_all(q, file, want);
        assert_false(ioq_is_direct(q, file));
        assert_int_equal(h.n, 1);
        assert_non_null(strstr(h.text, MODEL));
        assert_non_null(strstr(h.text, "buffered"));
        read_all(q, file, want);
        assert_int_equal(h.n, 1);
        ioq_close(q);
    }
}

/* Buffered reads have no excuse. */
static void other_errors_are_errors(void **state)
{
    (void)state;
    static _Alignas(IOQ_ALIGN) uint8_t buf[2 * IOQ_ALIGN];
    struct ioq *q;
    struct ioq_config c = {.kind = IOQ_PREAD, .buffered = true};
    assert_int_equal(ioq_open(&c, &q, NULL), OK);
    struct ioq_req r = {.file = ioq_add_file(q, MODEL, NULL), .bytes = 100, .buf = buf};
    struct ioq_fault f = {
        .kind = IOQ_FAULT_ERROR, .file = r.file, .end = INT64_MAX, .count = 1, .error = EINVAL};
    ioq_set_fault(q, &f);
    ioq_submit(q, &r);
    ioq_wait(q, &r);
    assert_int_equal(r.status, E_IO);
    assert_int_equal(r.sys_errno, EINVAL);
    ioq_close(q);
}

int main(void)
{
    const char *named = getenv("SLUICE");
    if (named)
        program = named;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_the_same),
        cmocka_unit_test(packing_works),
        cmocka_unit_test(refused_reads_are_done_again),
        cmocka_unit_test(other_errors_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
