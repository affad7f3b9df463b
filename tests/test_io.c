/*
 * test_io: the read queue on real files, each test once with every back end
 * that this system has, direct and buffered.
 *
 * The file's bytes are a function of their position, so that any wrong offset,
 * length or buffer shows as a wrong byte. Its length is odd on purpose.
 */
#include "io/io.h"

#include <errno.h>
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

#define FILE_BYTES ((int64_t)5 * 1024 * 1024 + 1234)
#define MAX_REQS 64

static char path[] = "/var/tmp/sluice_io_XXXXXX"; /* /tmp may be in memory */

struct env {
    enum ioq_kind kind;
    bool buffered;
    struct ioq *q;
    int file;
    struct ioq_req req[MAX_REQS];
};

static uint8_t byte_at(int64_t i)
{
    return (uint8_t)((uint64_t)i * 0x9E3779B97F4A7C15u >> 56);
}

static uint32_t rng_state = 1;
static uint32_t rng(uint32_t n)
{
    rng_state = rng_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)rng_state * n >> 32);
}

static void open_queue(struct env *v, int depth, size_t inflight_bytes)
{
    struct err e = {0};
    struct ioq_config c = {.kind = v->kind, .buffered = v->buffered, .depth = depth,
                           .inflight_bytes = inflight_bytes};
    ioq_close(v->q);
    if (ioq_open(&c, &v->q, &e) != OK || (v->file = ioq_add_file(v->q, path, &e)) < 0)
        fail_msg("%s", e.text);
}

struct heard {
    int n;
    char text[700];
};

static void hear(void *user, const char *text)
{
    struct heard *h = user;
    h->n++;
    snprintf(h->text, sizeof h->text, "%s", text);
}

static int setup(void **state)
{
    struct env *v = *state;
    memset(v->req, 0, sizeof v->req);
    v->q = NULL;
    open_queue(v, 0, 0);
    return 0;
}

static int teardown(void **state)
{
    struct env *v = *state;
    ioq_close(v->q);
    v->q = NULL;
    for (int i = 0; i < MAX_REQS; i++) {
        free(v->req[i].buf);
        v->req[i].buf = NULL;
    }
    return 0;
}

static struct ioq_req *prepare(struct env *v, int i, int64_t offset, size_t bytes,
                               enum ioq_class cls)
{
    struct ioq_req *r = &v->req[i];
    void *buf = NULL;
    size_t room = MAX(ioq_span_max(bytes), (size_t)IOQ_ALIGN);
    assert_int_equal(posix_memalign(&buf, IOQ_ALIGN, room), 0);
    memset(buf, 0xEE, room);
    free(r->buf);
    *r = (struct ioq_req){.file = v->file, .cls = cls, .offset = offset, .bytes = bytes,
                          .buf = buf};
    return r;
}

static struct ioq_req *submit(struct env *v, int i, int64_t offset, size_t bytes,
                              enum ioq_class cls)
{
    struct ioq_req *r = prepare(v, i, offset, bytes, cls);
    ioq_submit(v->q, r);
    return r;
}

static void assert_read(const struct ioq_req *r)
{
    assert_int_equal(r->state, IOQ_DONE);
    assert_int_equal(r->status, OK);
    const uint8_t *p = r->data;
    assert_in_range((uintptr_t)p, (uintptr_t)r->buf, (uintptr_t)r->buf + IOQ_ALIGN - 1);
    for (size_t i = 0; i < r->bytes; i++)
        if (p[i] != byte_at(r->offset + (int64_t)i))
            fail_msg("offset %lld, %zu bytes: byte %zu is wrong", (long long)r->offset, r->bytes,
                     i);
}

/* ---- contents --------------------------------------------------------- */

static void span_covers_what_was_asked(void **state)
{
    (void)state;
    for (int k = 0; k < 2000; k++) {
        int64_t offset = rng(1 << 20), begin;
        size_t bytes = 1 + rng(20000), len, skip;
        ioq_span(offset, bytes, &begin, &len, &skip);
        assert_int_equal(begin % IOQ_ALIGN, 0);
        assert_int_equal(len % IOQ_ALIGN, 0);
        assert_true(begin + (int64_t)skip == offset && skip < IOQ_ALIGN);
        assert_true(skip + bytes <= len && len - skip - bytes < IOQ_ALIGN);
        assert_true(len <= ioq_span_max(bytes));
    }
}

static void odd_offsets_and_sizes(void **state)
{
    struct env *v = *state;
    static const int64_t offsets[] = {0, 1, 31, 4095, 4096, 4097, 8191, 1000003};
    static const size_t sizes[] = {1, 2, 4095, 4096, 4097, 65536, 300001};
    for (size_t i = 0; i < ARRAY_LEN(offsets); i++)
        for (size_t j = 0; j < ARRAY_LEN(sizes); j++) {
            struct ioq_req *r = submit(v, 0, offsets[i], sizes[j], IOQ_DEMAND);
            ioq_wait(v->q, r);
            assert_read(r);
        }
    struct ioq_req *r = submit(v, 0, 5, 0, IOQ_DEMAND);
    assert_int_equal(r->state, IOQ_DONE);
    assert_int_equal(r->status, OK);
}

static void end_of_file(void **state)
{
    struct env *v = *state;
    struct err e = {0};
    /* The last bytes: the aligned superset reaches past the end. */
    struct ioq_req *r = submit(v, 0, FILE_BYTES - 10, 10, IOQ_DEMAND);
    ioq_wait(v->q, r);
    assert_read(r);
    r = submit(v, 0, FILE_BYTES - 200000, 200000, IOQ_DEMAND);
    ioq_wait(v->q, r);
    assert_read(r);
    static const int64_t beyond[][2] = {{FILE_BYTES - 10, 11}, {FILE_BYTES - 9000, 9001},
                                        {FILE_BYTES + 9000, 1}, {FILE_BYTES - 70000, 1000000}};
    for (size_t i = 0; i < ARRAY_LEN(beyond); i++) {
        r = submit(v, 0, beyond[i][0], (size_t)beyond[i][1], IOQ_DEMAND);
        ioq_wait(v->q, r);
        assert_int_equal(r->status, E_IO);
        assert_int_equal(r->sys_errno, 0);
        assert_null(r->data);
    }
    assert_int_equal(ioq_error(v->q, r, "layer 3 expert 17", &e), E_IO);
    assert_non_null(strstr(e.text, "layer 3 expert 17"));
    assert_non_null(strstr(e.text, path));
    assert_non_null(strstr(e.text, "ends early"));
}

static void many_random_requests(void **state)
{
    struct env *v = *state;
    int64_t n_reads = 0;
    for (int round = 0; round < 20; round++) {
        int n = 1 + (int)rng(MAX_REQS);
        for (int i = 0; i < n; i++) {
            size_t bytes = 1 + rng(rng(4) ? 30000 : 900000);
            submit(v, i, rng((uint32_t)(FILE_BYTES - (int64_t)bytes)), bytes,
                   (enum ioq_class)rng(IOQ_N_CLASSES));
            if (rng(8) == 0)
                ioq_poll(v->q);
        }
        if (rng(2))
            ioq_wait(v->q, &v->req[rng((uint32_t)n)]);
        while (!ioq_idle(v->q))
            ioq_wait_any(v->q);
        for (int i = 0; i < n; i++)
            assert_read(&v->req[i]);
        n_reads += n;
    }
    struct ioq_stats s;
    ioq_get_stats(v->q, &s);
    assert_int_equal(s.n_reads, n_reads);
    assert_int_equal(s.bytes, s.bytes_class[0] + s.bytes_class[1] + s.bytes_class[2]);
    assert_true(s.busy_ns > 0 && s.n_errors == 0 && s.n_cancelled == 0);
}

static void limits_hold_but_one_large_read_passes(void **state)
{
    struct env *v = *state;
    open_queue(v, 3, 100000);
    for (int i = 0; i < 20; i++)
        submit(v, i, i * 1000, i % 5 == 4 ? 400000 : 40000, IOQ_DEMAND);
    for (;;) {
        int n = 0;
        size_t bytes = 0;
        for (int i = 0; i < 20; i++)
            if (v->req[i].state == IOQ_INFLIGHT) {
                n++;
                bytes += v->req[i].bytes;
            }
        assert_true(n <= 3 && (n <= 1 || bytes <= 100000));
        if (ioq_idle(v->q))
            break;
        ioq_wait_any(v->q);
    }
    for (int i = 0; i < 20; i++)
        assert_read(&v->req[i]);
    for (int i = 0; i < 3; i++) /* and what they held is free again */
        assert_int_equal(submit(v, i, 0, 10000, IOQ_DEMAND)->state, IOQ_INFLIGHT);
    while (!ioq_idle(v->q))
        ioq_wait_any(v->q);
}

/* ---- order ------------------------------------------------------------ */

/* Holds every read back, so that what is queued stays queued. */
static void slow(struct env *v, int ms)
{
    struct ioq_fault f = {.kind = ms ? IOQ_FAULT_SLOW : IOQ_FAULT_NONE, .file = -1,
                          .end = INT64_MAX, .count = -1, .delay_ms = ms};
    ioq_set_fault(v->q, &f);
}

/* A drive that hangs without failing: one sentence, and the bytes in the end. */
static void a_drive_that_does_not_answer_is_told(void **state)
{
    struct env *v = *state;
    struct heard h = {0};
    struct err e = {0};
    struct ioq_config c = {.kind = v->kind, .buffered = v->buffered, .patience_ms = 40};
    ioq_close(v->q);
    assert_int_equal(ioq_open(&c, &v->q, &e), OK);
    v->file = ioq_add_file(v->q, path, &e);
    ioq_set_warning(v->q, hear, &h);
    ioq_wait(v->q, submit(v, 0, 0, 5000, IOQ_DEMAND));
    assert_int_equal(h.n, 0);
    slow(v, 250);
    for (int round = 1; round <= 2; round++) {
        for (int i = 0; i < 3; i++)
            submit(v, i, 4096 * i, 4096, IOQ_DEMAND);
        for (int i = 0; i < 3; i++)
            ioq_wait(v->q, &v->req[i]);
        assert_in_range(h.n, round, round + 1); /* they need not end together on a busy machine */
        h.n = round;
        for (int i = 0; i < 3; i++)
            assert_read(&v->req[i]);
    }
    assert_non_null(strstr(h.text, path));
    assert_non_null(strstr(h.text, "4096 bytes at offset"));
    assert_non_null(strstr(h.text, "has not answered for 0."));
}

static void finish_all(struct env *v)
{
    slow(v, 0);
    while (!ioq_idle(v->q))
        ioq_wait_any(v->q);
}

static void assert_order(struct env *v, const int *order, int n)
{
    for (int i = 1; i < n; i++)
        if (v->req[order[i]].t_start_ns <= v->req[order[i - 1]].t_start_ns)
            fail_msg("request %d started before request %d", order[i], order[i - 1]);
}

static void classes_are_strict_and_fifo_inside(void **state)
{
    struct env *v = *state;
    open_queue(v, 1, 0);
    slow(v, 5);
    submit(v, 0, 0, 100, IOQ_DENSE); /* in flight: the others queue behind it */
    submit(v, 1, 0, 100, IOQ_AHEAD);
    submit(v, 2, 0, 100, IOQ_DENSE);
    submit(v, 3, 0, 100, IOQ_DEMAND);
    submit(v, 4, 0, 100, IOQ_AHEAD);
    submit(v, 5, 0, 100, IOQ_DENSE);
    submit(v, 6, 0, 100, IOQ_DEMAND);
    while (!ioq_idle(v->q))
        ioq_wait_any(v->q);
    assert_order(v, (int[]){0, 3, 6, 2, 5, 1, 4}, 7);
    for (int i = 0; i < 7; i++)
        assert_read(&v->req[i]);
}

/* Few bytes in flight and nothing else waiting. */
static void lookahead_waits_for_a_nearly_idle_queue(void **state)
{
    struct env *v = *state;
    slow(v, 20);
    submit(v, 0, 0, 4300000, IOQ_DENSE);
    submit(v, 1, 0, 100, IOQ_AHEAD);
    assert_int_equal(v->req[0].state, IOQ_INFLIGHT);
    assert_int_equal(v->req[1].state, IOQ_QUEUED);
    ioq_wait(v->q, &v->req[0]);
    assert_int_equal(v->req[1].state, IOQ_INFLIGHT);
    submit(v, 2, 0, 100, IOQ_AHEAD); /* beside a small one: at once */
    assert_int_equal(v->req[2].state, IOQ_INFLIGHT);
    submit(v, 3, 0, 4300000, IOQ_DEMAND);
    submit(v, 4, 0, 100, IOQ_AHEAD);
    assert_int_equal(v->req[3].state, IOQ_INFLIGHT); /* demand never waits for lookahead */
    assert_int_equal(v->req[4].state, IOQ_QUEUED);
    finish_all(v);
    for (int i = 0; i < 5; i++)
        assert_read(&v->req[i]);
}

static void cancel_only_what_is_queued(void **state)
{
    struct env *v = *state;
    open_queue(v, 1, 0);
    slow(v, 5);
    for (int i = 0; i < 5; i++)
        submit(v, i, 1000 * i, 100, IOQ_DEMAND);
    assert_false(ioq_cancel(v->q, &v->req[0]));
    assert_true(ioq_cancel(v->q, &v->req[2]));
    assert_true(ioq_cancel(v->q, &v->req[4])); /* the tail of the list */
    assert_false(ioq_cancel(v->q, &v->req[4]));
    submit(v, 5, 5000, 100, IOQ_DEMAND);
    assert_int_equal(v->req[2].state, IOQ_DONE);
    assert_int_equal(v->req[2].status, E_CANCELLED);
    finish_all(v);
    static const int kept[] = {0, 1, 3, 5};
    for (size_t i = 0; i < ARRAY_LEN(kept); i++)
        assert_read(&v->req[kept[i]]);
    assert_order(v, kept, 4);
    struct ioq_stats s;
    ioq_get_stats(v->q, &s);
    assert_int_equal(s.n_cancelled, 2);
    assert_int_equal(s.n_reads, 4);
}

static void promote_jumps_the_queue(void **state)
{
    struct env *v = *state;
    open_queue(v, 1, 0);
    slow(v, 5);
    submit(v, 0, 0, 100, IOQ_DEMAND);
    submit(v, 1, 0, 100, IOQ_DENSE);
    submit(v, 2, 0, 100, IOQ_AHEAD);
    submit(v, 3, 0, 100, IOQ_AHEAD);
    ioq_promote(v->q, &v->req[3], IOQ_DEMAND);
    ioq_promote(v->q, &v->req[1], IOQ_AHEAD); /* never lowers */
    finish_all(v);
    assert_order(v, (int[]){0, 3, 1, 2}, 4);
    ioq_promote(v->q, &v->req[2], IOQ_DEMAND); /* done: nothing happens */
    assert_int_equal(v->req[2].state, IOQ_DONE);
}

static void close_cancels_what_is_queued(void **state)
{
    struct env *v = *state;
    open_queue(v, 1, 0);
    slow(v, 5);
    for (int i = 0; i < 3; i++)
        submit(v, i, 1000 * i, 5000, IOQ_DEMAND);
    ioq_close(v->q);
    v->q = NULL;
    assert_read(&v->req[0]); /* what was in flight has landed */
    assert_int_equal(v->req[1].status, E_CANCELLED);
    assert_int_equal(v->req[2].status, E_CANCELLED);
}

/* ---- faults ----------------------------------------------------------- */

static struct ioq_req *read_with_fault(struct env *v, struct ioq_fault f, int64_t offset,
                                       size_t bytes)
{
    ioq_set_fault(v->q, &f);
    struct ioq_req *r = submit(v, 0, offset, bytes, IOQ_DEMAND);
    ioq_wait(v->q, r);
    return r;
}

static void errors_are_reported_and_pass(void **state)
{
    struct env *v = *state;
    struct err e = {0};
    struct ioq_fault f = {.kind = IOQ_FAULT_ERROR, .file = v->file, .begin = 50000, .end = 50001,
                          .skip = 1, .count = 1, .error = EIO};
    struct ioq_req *r = read_with_fault(v, f, 0, 50000); /* ends before the bad byte */
    assert_read(r);
    assert_read(read_with_fault(v, f, 40000, 50000)); /* skipped */
    f.skip = 0;
    r = read_with_fault(v, f, 40000, 50000);
    assert_int_equal(r->status, E_IO);
    assert_int_equal(r->sys_errno, EIO);
    assert_int_equal(ioq_error(v->q, r, NULL, &e), E_IO);
    assert_non_null(strstr(e.text, "40000"));
    assert_non_null(strstr(e.text, path));
    assert_non_null(strstr(e.text, strerror(EIO)));
    ioq_submit(v->q, r); /* count is used up: the same request succeeds */
    ioq_wait(v->q, r);
    assert_read(r);
    struct ioq_stats s;
    ioq_get_stats(v->q, &s);
    assert_int_equal(s.n_errors, 1);
}

static void interrupted_reads_are_retried(void **state)
{
    struct env *v = *state;
    struct ioq_fault f = {
        .kind = IOQ_FAULT_ERROR, .file = -1, .end = INT64_MAX, .count = 3, .error = EINTR};
    assert_read(read_with_fault(v, f, 777, 100000));
    f.error = EAGAIN;
    assert_read(read_with_fault(v, f, 777, 100000));
    f.count = -1; /* forever: an error in the end, not a hang */
    struct ioq_req *r = read_with_fault(v, f, 777, 100000);
    assert_int_equal(r->status, E_IO);
    assert_int_equal(r->sys_errno, EAGAIN);
}

static void short_reads_are_continued(void **state)
{
    struct env *v = *state;
    struct ioq_fault f = {.kind = IOQ_FAULT_SHORT, .file = -1, .end = INT64_MAX, .count = 1};
    for (f.count = 1; f.count <= 4; f.count++)
        assert_read(read_with_fault(v, f, 12345, 300000));
    f.count = 2; /* and where the superset passes the end */
    assert_read(read_with_fault(v, f, FILE_BYTES - 100000, 100000));
    f.count = -1;
    struct ioq_req *r = read_with_fault(v, f, 12345, 300000);
    assert_int_equal(r->status, E_IO);
    assert_int_equal(r->sys_errno, 0);
}

static void failures_beside_successes(void **state)
{
    struct env *v = *state;
    struct ioq_fault f = {.kind = IOQ_FAULT_ERROR, .file = v->file, .begin = 1 << 20,
                          .end = (1 << 20) + 70000, .count = -1, .error = EIO};
    ioq_set_fault(v->q, &f);
    for (int i = 0; i < 40; i++)
        submit(v, i, i * 65536, 60000, IOQ_DEMAND);
    while (!ioq_idle(v->q))
        ioq_wait_any(v->q);
    for (int i = 0; i < 40; i++) {
        if (i == 16 || i == 17)
            assert_int_equal(v->req[i].status, E_IO);
        else
            assert_read(&v->req[i]);
    }
}

/* ---- the queue itself ------------------------------------------------- */

static void waiting_for_nothing_returns(void **state)
{
    struct env *v = *state;
    assert_true(ioq_idle(v->q));
    ioq_poll(v->q);
    ioq_wait_any(v->q);
    struct ioq_req *r = submit(v, 0, 0, 100, IOQ_DEMAND);
    ioq_wait(v->q, r);
    ioq_wait(v->q, r);
    assert_read(r);
}

static void files_and_names(void **state)
{
    struct env *v = *state;
    struct err e = {0};
    assert_string_equal(ioq_path(v->q, v->file), path);
    assert_string_equal(ioq_name(v->q), v->kind == IOQ_PREAD ? "pread" : "uring");
    if (v->buffered)
        assert_false(ioq_is_direct(v->q, v->file));
    assert_true(ioq_add_file(v->q, "./no such file", &e) < 0);
    assert_non_null(strstr(e.text, "no such file"));
    int again = ioq_add_file(v->q, path, &e);
    assert_int_equal(again, v->file + 1);
    struct ioq_req *r = prepare(v, 0, 4711, 10000, IOQ_DEMAND);
    r->file = again;
    ioq_submit(v->q, r);
    ioq_wait(v->q, r);
    assert_read(r);
}

static void auto_always_opens(void **state)
{
    (void)state;
    struct err e = {0};
    struct ioq *q = NULL;
    struct ioq_config c = {.kind = IOQ_AUTO};
    assert_int_equal(ioq_open(&c, &q, &e), OK);
    assert_true(strcmp(ioq_name(q), "uring") == 0 || strcmp(ioq_name(q), "pread") == 0);
    ioq_close(q);
    ioq_close(NULL);
    c.depth = -1;
    assert_int_equal(ioq_open(&c, &q, &e), E_ARG);
}

static void offsets_beyond_4_gib(void **state)
{
    struct env *v = *state;
    struct err e = {0};
    char big[] = "/var/tmp/sluice_big_XXXXXX";
    static const char text[] = "far away";
    int64_t at = ((int64_t)5 << 30) + 4093;
    int fd = mkstemp(big);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, text, sizeof text, at), sizeof text); /* a hole before it */
    close(fd);
    int file = ioq_add_file(v->q, big, &e);
    unlink(big);
    assert_true(file >= 0);
    struct ioq_req *r = prepare(v, 0, at, sizeof text, IOQ_DEMAND);
    r->file = file;
    ioq_submit(v->q, r);
    ioq_wait(v->q, r);
    assert_int_equal(r->status, OK);
    assert_string_equal(r->data, text);
}

/* ---- systems without io_uring ----------------------------------------- */

/* From here on the system call fails with EPERM, as in many containers. */
static bool forbid(unsigned number)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {ARRAY_LEN(code), code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

enum { CHILD_OK = 0, CHILD_SKIP = 77 };

/* Runs the check in a child, because a filter cannot be taken off again. */
static void in_child(int (*check)(void))
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(check());
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_SKIP)
        skip();
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), CHILD_OK);
}

static int forbidden_from_the_start(void)
{
    struct err e = {0};
    struct ioq *q = NULL;
    if (!forbid(__NR_io_uring_setup))
        return CHILD_SKIP;
    if (ioq_open(&(struct ioq_config){.kind = IOQ_URING}, &q, &e) != E_UNSUPPORTED ||
        !strstr(e.text, "pread"))
        return 1;
    if (ioq_open(&(struct ioq_config){.kind = IOQ_AUTO}, &q, NULL) != OK)
        return 2;
    if (strcmp(ioq_name(q), "pread") != 0)
        return 3;
    void *buf = NULL;
    if (posix_memalign(&buf, IOQ_ALIGN, ioq_span_max(5000)) != 0)
        return 4;
    struct ioq_req r = {
        .file = ioq_add_file(q, path, NULL), .offset = 777, .bytes = 5000, .buf = buf};
    ioq_submit(q, &r);
    ioq_wait(q, &r);
    if (r.status != OK || ((uint8_t *)r.data)[4999] != byte_at(777 + 4999))
        return 5;
    ioq_close(q);
    free(buf);
    return CHILD_OK;
}

static void without_io_uring_auto_uses_pread(void **state)
{
    (void)state;
    in_child(forbidden_from_the_start);
}

static int forbidden_later(void)
{
    struct ioq *q = NULL;
    void *buf = NULL;
    if (ioq_open(&(struct ioq_config){.kind = IOQ_URING}, &q, NULL) != OK ||
        posix_memalign(&buf, IOQ_ALIGN, ioq_span_max(5000)) != 0)
        return CHILD_SKIP;
    struct ioq_req r = {
        .file = ioq_add_file(q, path, NULL), .offset = 777, .bytes = 5000, .buf = buf};
    static _Alignas(IOQ_ALIGN) uint8_t early_buf[1 << 21];
    struct ioq_req early = {.file = r.file, .offset = 1, .bytes = 2000000, .buf = early_buf};
    ioq_submit(q, &early); /* the kernel has it: it must end before it is done */
    if (!forbid(__NR_io_uring_enter))
        return CHILD_SKIP;
    ioq_wait(q, &early);
    if (early.status != OK || ((uint8_t *)early.data)[1999999] != byte_at(2000000))
        return 6;
    for (int i = 0; i < 40; i++) { /* more than the ring has entries */
        memset(buf, 0, ioq_span_max(5000));
        ioq_submit(q, &r);
        ioq_wait(q, &r);
        if (r.status != OK || ((uint8_t *)r.data)[4999] != byte_at(777 + 4999))
            return 5;
    }
    if (strcmp(ioq_name(q), "pread") != 0)
        return 7;
    struct heard h = {0};
    ioq_set_warning(q, hear, &h); /* nobody had listened */
    if (h.n != 1 || !strstr(h.text, "pread") || !strstr(h.text, "Operation not permitted"))
        return 8;
    ioq_close(q);
    free(buf);
    return CHILD_OK;
}

static void a_ring_that_breaks_is_replaced(void **state)
{
    (void)state;
    in_child(forbidden_later);
}

/* ---- main ------------------------------------------------------------- */

static int write_file(void)
{
    int fd = mkstemp(path);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "wb");
    if (!f)
        return -1;
    for (int64_t i = 0; i < FILE_BYTES; i++)
        putc(byte_at(i), f);
    return fclose(f);
}

static bool have(enum ioq_kind kind)
{
    struct ioq *q = NULL;
    struct err e = {0};
    int rc = ioq_open(&(struct ioq_config){.kind = kind}, &q, &e);
    ioq_close(q);
    if (rc != OK)
        printf("SKIP back end %d: %s\n", (int)kind, e.text);
    return rc == OK;
}

#define T(f) {#f, f, setup, teardown, &env}

static int run(const char *name, enum ioq_kind kind, bool buffered)
{
    static struct env env;
    env = (struct env){.kind = kind, .buffered = buffered};
    const struct CMUnitTest tests[] = {
        T(odd_offsets_and_sizes),
        T(end_of_file),
        T(many_random_requests),
        T(limits_hold_but_one_large_read_passes),
        T(classes_are_strict_and_fifo_inside),
        T(lookahead_waits_for_a_nearly_idle_queue),
        T(cancel_only_what_is_queued),
        T(promote_jumps_the_queue),
        T(close_cancels_what_is_queued),
        T(errors_are_reported_and_pass),
        T(interrupted_reads_are_retried),
        T(short_reads_are_continued),
        T(failures_beside_successes),
        T(waiting_for_nothing_returns),
        T(a_drive_that_does_not_answer_is_told),
        T(files_and_names),
        T(offsets_beyond_4_gib),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void)
{
    const struct CMUnitTest plain[] = {
        cmocka_unit_test(span_covers_what_was_asked),
        cmocka_unit_test(auto_always_opens),
        cmocka_unit_test(without_io_uring_auto_uses_pread),
        cmocka_unit_test(a_ring_that_breaks_is_replaced),
    };
    if (write_file() != 0) {
        fprintf(stderr, "cannot write %s\n", path);
        return 1;
    }
    int failed = cmocka_run_group_tests_name("io", plain, NULL, NULL);
    for (int kind = IOQ_AUTO + 1; kind < IOQ_N_KINDS; kind++)
        for (int buffered = 0; buffered < 2 && have((enum ioq_kind)kind); buffered++) {
            char name[64];
            snprintf(name, sizeof name, "back end %d, %s", kind, buffered ? "buffered" : "direct");
            failed += run(name, (enum ioq_kind)kind, buffered);
        }
    unlink(path);
    return failed != 0;
}
