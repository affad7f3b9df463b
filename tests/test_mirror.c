/*
 * Files with mirrors, and files on several drives: the right bytes however a
 * read is cut and whichever copy fails, limits for each drive, shares by speed.
 *
 * One disk stands in for many: with split_always the queue takes every file
 * and every copy for a drive of its own.
 */
#include "io/io_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define FILE_BYTES ((int64_t)3 * 1024 * 1024 + 1234)
#define MIB (1 << 20)
#define PIECE (128 << 10) /* the smallest */
enum { MAX_REQS = 32, N_PATHS = 3 };

static char path[N_PATHS][40];

struct env {
    enum ioq_kind kind;
    bool buffered;
    struct ioq *q;
    int file;
    int n_warnings;
    char warning[700];
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

static void on_warning(void *user, const char *text)
{
    struct env *v = user;
    v->n_warnings++;
    snprintf(v->warning, sizeof v->warning, "%s", text);
}

static void open_queue(struct env *v, int n_mirrors, int depth, size_t inflight_bytes)
{
    struct err e = {0};
    struct ioq_config c = {.kind = v->kind, .buffered = v->buffered, .depth = depth,
                           .inflight_bytes = inflight_bytes, .split_always = true};
    ioq_close(v->q);
    if (ioq_open(&c, &v->q, &e) != OK || (v->file = ioq_add_file(v->q, path[0], &e)) < 0)
        fail_msg("%s", e.text);
    for (int i = 1; i <= n_mirrors; i++)
        assert_int_equal(ioq_add_mirror(v->q, v->file, path[i], &e), i);
    ioq_set_warning(v->q, on_warning, v);
    v->n_warnings = 0;
}

/* Both drives are known, and nothing that they do changes that. */
static void equally_fast(struct env *v)
{
    for (int i = 0; i < 2; i++) {
        v->q->drive[i].seen_bytes = v->q->drive[i].seen_ns = 1e30;
        v->q->drive[i].n_seen = 100;
    }
}

static int setup(void **state)
{
    struct env *v = *state;
    memset(v->req, 0, sizeof v->req);
    v->q = NULL;
    open_queue(v, 1, 0, 0);
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

static struct ioq_req *submit_to(struct env *v, int i, int file, int64_t offset, size_t bytes,
                                 enum ioq_class cls)
{
    struct ioq_req *r = &v->req[i];
    void *buf = NULL;
    size_t room = MAX(ioq_span_max(bytes), (size_t)IOQ_ALIGN);
    assert_int_equal(posix_memalign(&buf, IOQ_ALIGN, room), 0);
    memset(buf, 0xEE, room);
    free(r->buf);
    *r = (struct ioq_req){.file = file, .cls = cls, .offset = offset, .bytes = bytes, .buf = buf};
    ioq_submit(v->q, r);
    return r;
}

static struct ioq_req *submit(struct env *v, int i, int64_t offset, size_t bytes,
                              enum ioq_class cls)
{
    return submit_to(v, i, v->file, offset, bytes, cls);
}

static void assert_read(const struct ioq_req *r)
{
    assert_int_equal(r->state, IOQ_DONE);
    assert_int_equal(r->status, OK);
    const uint8_t *p = r->data;
    for (size_t i = 0; i < r->bytes; i++)
        if (p[i] != byte_at(r->offset + (int64_t)i))
            fail_msg("offset %lld, %zu bytes: byte %zu is wrong", (long long)r->offset, r->bytes,
                     i);
    assert_true(r->got >= r->bytes);
}

static struct ioq_req *read_one(struct env *v, int64_t offset, size_t bytes)
{
    struct ioq_req *r = submit(v, 0, offset, bytes, IOQ_DEMAND);
    ioq_wait(v->q, r);
    return r;
}

static void finish_all(struct env *v)
{
    while (!ioq_idle(v->q))
        ioq_wait_any(v->q);
}

static struct ioq_stats stats(const struct env *v)
{
    struct ioq_stats s;
    ioq_get_stats(v->q, &s);
    return s;
}

static void fault(struct env *v, enum ioq_fault_kind kind, unsigned copies, int count, int delay_ms)
{
    struct ioq_fault f = {.kind = kind, .file = -1, .end = INT64_MAX, .count = count,
                          .copies = copies, .error = EIO, .delay_ms = delay_ms};
    ioq_set_fault(v->q, &f);
}

/* ---- contents --------------------------------------------------------- */

static void all_kinds_of_places(void **state)
{
    struct env *v = *state;
    static const int64_t offsets[] = {0, 1, 4095, 4096, 131071, 1000003};
    static const size_t sizes[] = {1, 4096, 131072, 262143, 262144, 262145, 300001, 2000000};
    for (int mirrors = 1; mirrors < N_PATHS; mirrors++) {
        open_queue(v, mirrors, 0, 0);
        for (size_t i = 0; i < ARRAY_LEN(offsets); i++)
            for (size_t j = 0; j < ARRAY_LEN(sizes); j++)
                assert_read(read_one(v, offsets[i], sizes[j]));
        assert_read(read_one(v, FILE_BYTES - 10, 10));
        assert_read(read_one(v, FILE_BYTES - MIB, MIB));
        struct ioq_stats s = stats(v);
        int64_t bytes = 0;
        for (int i = 0; i <= mirrors; i++) {
            assert_true(s.copy_pieces[i] > 0);
            bytes += s.copy_bytes[i];
        }
        assert_int_equal(bytes, s.bytes);
        assert_int_equal(s.n_reads, ARRAY_LEN(offsets) * ARRAY_LEN(sizes) + 2);
        assert_int_equal(v->n_warnings, 0);
    }
}

static void many_random_requests(void **state)
{
    struct env *v = *state;
    static const int depths[] = {0, 1, 3};
    for (size_t d = 0; d < ARRAY_LEN(depths); d++) {
        open_queue(v, 2, depths[d], d == 2 ? 300000 : 0);
        for (int round = 0; round < 8; round++) {
            int n = 1 + (int)rng(MAX_REQS);
            for (int i = 0; i < n; i++) {
                size_t bytes = 1 + rng(rng(3) ? 40000 : 900000);
                submit(v, i, rng((uint32_t)(FILE_BYTES - (int64_t)bytes)), bytes,
                       (enum ioq_class)rng(IOQ_N_CLASSES));
                if (rng(8) == 0)
                    ioq_poll(v->q);
                if (rng(4) == 0)
                    ioq_promote(v->q, &v->req[rng((uint32_t)i + 1)], IOQ_DEMAND);
            }
            finish_all(v);
            for (int i = 0; i < n; i++)
                assert_read(&v->req[i]);
        }
    }
}

static void beyond_the_end(void **state)
{
    struct env *v = *state;
    struct err e = {0};
    struct ioq_req *r = read_one(v, FILE_BYTES - MIB, MIB + 1);
    assert_int_equal(r->status, E_IO);
    assert_int_equal(r->sys_errno, 0);
    ioq_error(v->q, r, NULL, &e);
    assert_non_null(strstr(e.text, "as every mirror, ends early"));
    assert_read(read_one(v, 0, MIB));
}

/* ---- order and limits --------------------------------------------------- */

static void each_drive_has_its_own_limits(void **state)
{
    struct env *v = *state;
    struct err e = {0};
    open_queue(v, 0, 1, 0);
    int other = ioq_add_file(v->q, path[1], &e);
    fault(v, IOQ_FAULT_SLOW, 0, -1, 10);
    submit(v, 0, 0, 5000, IOQ_DEMAND);
    submit(v, 1, 10000, 5000, IOQ_DEMAND);
    submit_to(v, 2, other, 20000, 5000, IOQ_AHEAD); /* another drive: it may pass */
    submit_to(v, 3, other, 30000, 5000, IOQ_DENSE);
    submit(v, 4, 40000, 5000, IOQ_AHEAD);
    assert_int_equal(v->req[0].state, IOQ_INFLIGHT);
    assert_int_equal(v->req[1].state, IOQ_QUEUED);
    assert_int_equal(v->req[2].state, IOQ_INFLIGHT);
    assert_int_equal(v->req[3].state, IOQ_QUEUED);
    assert_int_equal(v->req[4].state, IOQ_QUEUED);
    finish_all(v);
    /* not on its drive while others wait */
    assert_true(v->req[4].t_start_ns >= v->req[1].t_done_ns);
    for (int i = 0; i < 5; i++)
        assert_read(&v->req[i]);
}

static void lookahead_waits_for_all_its_drives(void **state)
{
    struct env *v = *state;
    equally_fast(v);
    fault(v, IOQ_FAULT_SLOW, 0, -1, 10);
    for (int i = 0; i < 3; i++) /* 4.5 MiB on each drive */
        submit(v, i, 0, 3 * MIB, IOQ_DEMAND);
    submit(v, 3, 0, MIB, IOQ_AHEAD);
    assert_int_equal(v->req[2].state, IOQ_INFLIGHT);
    assert_int_equal(v->req[3].state, IOQ_QUEUED);
    submit(v, 4, 4096, MIB, IOQ_DEMAND); /* never waits for lookahead */
    assert_int_equal(v->req[4].state, IOQ_INFLIGHT);
    finish_all(v);
    for (int i = 0; i < 5; i++)
        assert_read(&v->req[i]);
}

static void cancel_and_close(void **state)
{
    struct env *v = *state;
    open_queue(v, 1, 1, 0);
    equally_fast(v);
    fault(v, IOQ_FAULT_SLOW, 0, -1, 5);
    for (int i = 0; i < 4; i++)
        submit(v, i, i * 1000, MIB, IOQ_DEMAND);
    assert_false(ioq_cancel(v->q, &v->req[0]));
    assert_true(ioq_cancel(v->q, &v->req[2]));
    ioq_wait(v->q, &v->req[1]);
    assert_read(&v->req[0]);
    assert_read(&v->req[1]);
    assert_int_equal(v->req[3].state, IOQ_INFLIGHT);
    submit(v, 4, 0, MIB, IOQ_AHEAD);
    ioq_close(v->q);
    v->q = NULL;
    assert_read(&v->req[3]);
    assert_int_equal(v->req[2].status, E_CANCELLED);
    assert_int_equal(v->req[4].status, E_CANCELLED);
}

/* ---- failures ----------------------------------------------------------- */

static void one_copy_fails(void **state)
{
    struct env *v = *state;
    static const enum ioq_fault_kind kinds[] = {IOQ_FAULT_ERROR, IOQ_FAULT_SHORT};
    for (int copy = 0; copy < 2; copy++)
        for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
            open_queue(v, 1, 0, 0);
            assert_read(read_one(v, 12345, MIB));
            fault(v, kinds[k], 1u << copy, -1, 0);
            for (int i = 0; i < 20; i++)
                submit(v, i, i * 70000, 600000, (enum ioq_class)(i % 3));
            finish_all(v);
            for (int i = 0; i < 20; i++)
                assert_read(&v->req[i]);
            assert_int_equal(v->n_warnings, 1);
            assert_non_null(strstr(v->warning, path[copy]));
            assert_non_null(strstr(v->warning, path[1 - copy]));
            assert_non_null(strstr(v->warning, k ? "ends before" : strerror(EIO)));
            assert_null(strchr(v->warning, '\n'));
            int64_t pieces = stats(v).copy_pieces[copy];
            fault(v, IOQ_FAULT_NONE, 0, 0, 0);
            assert_read(read_one(v, 777, MIB)); /* it is out of use for good */
            assert_int_equal(stats(v).copy_pieces[copy], pieces);
            assert_int_equal(stats(v).n_errors, 0);
            assert_int_equal(v->n_warnings, 1);
        }
}

static void a_mirror_that_shrinks(void **state)
{
    struct env *v = *state;
    char copy[] = "/var/tmp/sluice_cut_XXXXXX";
    struct err e = {0};
    int fd = mkstemp(copy);
    uint8_t *all = malloc((size_t)FILE_BYTES);
    assert_true(fd >= 0 && all);
    for (int64_t i = 0; i < FILE_BYTES; i++)
        all[i] = byte_at(i);
    assert_int_equal(write(fd, all, (size_t)FILE_BYTES), FILE_BYTES);
    free(all);
    open_queue(v, 0, 0, 0);
    assert_int_equal(ioq_add_mirror(v->q, v->file, copy, &e), 1);
    unlink(copy);
    assert_read(read_one(v, 0, 2 * MIB));
    assert_int_equal(v->n_warnings, 0);
    assert_int_equal(ftruncate(fd, 1000000), 0);
    close(fd);
    assert_read(read_one(v, 0, 3 * MIB));
    assert_int_equal(v->n_warnings, 1);
}

static void all_copies_fail(void **state)
{
    struct env *v = *state;
    struct err e = {0};
    fault(v, IOQ_FAULT_ERROR, 0, -1, 0);
    struct ioq_req *r = read_one(v, 40000, MIB);
    assert_int_equal(r->status, E_IO);
    assert_int_equal(r->sys_errno, EIO);
    assert_int_equal(ioq_error(v->q, r, "layer 3 expert 17", &e), E_IO);
    assert_non_null(strstr(e.text, "layer 3 expert 17"));
    assert_non_null(strstr(e.text, path[0]));
    assert_non_null(strstr(e.text, "and of every mirror failed"));
    assert_int_equal(stats(v).n_errors, 1);
    fault(v, IOQ_FAULT_NONE, 0, 0, 0);
    assert_read(read_one(v, 40000, MIB));
}

/* The mirror is out of use when the model's own file fails, too: better than nothing. */
static void first_one_then_the_other(void **state)
{
    struct env *v = *state;
    fault(v, IOQ_FAULT_ERROR, 2, 1, 0);
    assert_read(read_one(v, 0, MIB));
    assert_int_equal(v->n_warnings, 1);
    fault(v, IOQ_FAULT_ERROR, 1, -1, 0);
    for (int i = 0; i < 3; i++)
        assert_read(read_one(v, i, MIB));
    assert_int_equal(v->n_warnings, 2);
    assert_non_null(strstr(v->warning, path[0]));
}

static void mirrors_of_one_folder_fail_together(void **state)
{
    struct env *v = *state;
    struct err e = {0};
    open_queue(v, 1, 0, 0);
    int other = ioq_add_file(v->q, path[0], &e);
    assert_int_equal(ioq_add_mirror(v->q, other, path[2], &e), 1);
    struct ioq_fault f = {.kind = IOQ_FAULT_ERROR, .file = v->file, .end = INT64_MAX, .count = -1,
                          .copies = 2, .error = EIO};
    ioq_set_fault(v->q, &f);
    assert_read(read_one(v, 0, MIB));
    int64_t pieces = stats(v).copy_pieces[1];
    submit_to(v, 1, other, 0, MIB, IOQ_DEMAND);
    ioq_wait(v->q, &v->req[1]);
    assert_read(&v->req[1]);
    assert_int_equal(stats(v).copy_pieces[1], pieces);
    assert_int_equal(v->n_warnings, 1);
}

static void interruptions_are_no_failures(void **state)
{
    struct env *v = *state;
    struct ioq_fault f = {.kind = IOQ_FAULT_ERROR, .file = -1, .end = INT64_MAX, .count = 5,
                          .copies = 2, .error = EINTR};
    ioq_set_fault(v->q, &f);
    assert_read(read_one(v, 99, MIB));
    fault(v, IOQ_FAULT_SHORT, 2, 2, 0);
    assert_read(read_one(v, 99, MIB));
    assert_int_equal(v->n_warnings, 0);
    assert_true(stats(v).copy_pieces[1] >= 2);
}

static void a_slow_mirror_gets_less(void **state)
{
    struct env *v = *state;
    fault(v, IOQ_FAULT_SLOW, 2, -1, 60);
    for (int i = 0; i < 10; i++)
        assert_read(read_one(v, i * 4096, 2 * MIB));
    struct ioq_stats s = stats(v);
    assert_true(s.copy_bytes[1] > 0);
    assert_true(s.copy_bytes[1] < s.copy_bytes[0]);
}

static void too_many_mirrors(void **state)
{
    struct env *v = *state;
    struct err e = {0};
    for (int i = 2; i < IOQ_MAX_COPIES; i++)
        assert_int_equal(ioq_add_mirror(v->q, v->file, path[1], &e), i);
    assert_int_equal(ioq_add_mirror(v->q, v->file, path[1], &e), E_ARG);
    assert_true(ioq_add_mirror(v->q, v->file, "./no such file", NULL) < 0);
    assert_read(read_one(v, 5, 3 * MIB));
    for (int i = 0; i < IOQ_MAX_COPIES; i++)
        assert_int_equal(stats(v).copy_pieces[i], 1);
}

/* ---- shares: no drive, no clock ------------------------------------------ */

struct paper { /* a queue that exists only on paper: one file, n copies */
    struct ioq q;
    struct io_file f;
};

static void paper_open(struct paper *p, int n)
{
    memset(p, 0, sizeof *p);
    p->q.files = &p->f;
    p->q.n_files = 1;
    p->q.n_drives = p->f.n_copies = n;
    for (int i = 0; i < n; i++) {
        p->f.copy[i].drive = i;
        p->q.drive[i].used_ns = INT64_MAX / 2; /* not due for another try */
    }
}

/* ns that the drive took for a MiB, told often enough to be believed */
static void paper_speed(struct paper *p, int drive, int64_t ns)
{
    struct io_drive *d = &p->q.drive[drive];
    p->q.slept = true;
    for (int i = 0; i < 40; i++) {
        struct io_op op = {
            .drive = drive, .end = MIB, .reached = MIB, .t_start_ns = d->last_end_ns};
        io_learn(&p->q, &op, d->last_end_ns + ns);
    }
}

static size_t paper_cut(const struct paper *p, size_t bytes, size_t *of)
{
    struct io_piece pieces[IOQ_MAX_COPIES];
    struct ioq_req r = {.offset = 8192, .bytes = bytes};
    size_t at = 0;
    memset(of, 0, IOQ_MAX_COPIES * sizeof *of);
    int n = io_cut(&p->q, &r, pieces);
    for (int i = 0; i < n; i++) {
        assert_true(pieces[i].begin == at && pieces[i].end > at);
        assert_true(pieces[i].begin % IOQ_ALIGN == 0);
        at = pieces[i].end;
        of[pieces[i].copy] = at - pieces[i].begin;
    }
    assert_int_equal(at, align_up(bytes, IOQ_ALIGN));
    return (size_t)n;
}

static void shares_follow_speed(void **state)
{
    (void)state;
    struct paper p;
    size_t of[IOQ_MAX_COPIES];
    paper_open(&p, 2);
    for (int i = 0; i < 2; i++) { /* nothing is known, then the first: the other is tried */
        assert_int_equal(paper_cut(&p, MIB, of), 2);
        assert_int_equal(of[1], PIECE);
        assert_int_equal(paper_cut(&p, 200000, of), 1); /* two pieces would be too small */
        assert_int_equal(of[0], align_up(200000, IOQ_ALIGN));
        assert_int_equal(paper_cut(&p, 100000, of), 1); /* itself small enough */
        assert_int_equal(of[0], 0);
        p.q.drive[1].n_inflight = 1; /* one piece at a time */
        assert_int_equal(paper_cut(&p, MIB, of), 1);
        p.q.drive[1].n_inflight = 0;
        paper_speed(&p, 0, 1000000);
    }
    p.q.drive[0].n_seen = 0; /* the model's own drive is never tried like that */
    paper_speed(&p, 1, 1000000);
    assert_int_equal(paper_cut(&p, MIB, of), 2);
    assert_int_equal(of[0], MIB / 2);
    paper_speed(&p, 0, 1000000);
    paper_speed(&p, 1, 3000000);
    assert_int_equal(paper_cut(&p, MIB, of), 2);
    assert_in_range(of[0], MIB * 3 / 4 - 8192, MIB * 3 / 4 + 8192);
    paper_speed(&p, 1, 30000000);
    assert_int_equal(paper_cut(&p, MIB, of), 1); /* 1/31 of a MiB is too little */
    assert_int_equal(of[0], MIB);
    paper_speed(&p, 0, 30000000); /* the other became slow, too */
    assert_int_equal(paper_cut(&p, MIB, of), 2);
    assert_in_range(of[0], MIB / 2 - 40000, MIB / 2 + 40000);
}

static void shares_count_what_is_in_flight(void **state)
{
    (void)state;
    struct paper p;
    size_t of[IOQ_MAX_COPIES];
    paper_open(&p, 3);
    for (int i = 0; i < 3; i++)
        paper_speed(&p, i, 1000000);
    p.q.drive[0].inflight_bytes = MIB / 2;
    assert_int_equal(paper_cut(&p, 3 * MIB, of), 3);
    assert_in_range(of[1] - of[0], MIB / 2 - 8192, MIB / 2 + 8192);
    assert_in_range(of[2], of[1], of[1] + 3 * IOQ_ALIGN);
    p.q.drive[0].inflight_bytes = 2 * MIB;
    assert_int_equal(paper_cut(&p, MIB, of), 2); /* busy for longer than the others need */
    assert_int_equal(of[0], 0);
    p.q.out_of_use = 2;
    assert_int_equal(paper_cut(&p, MIB, of), 1);
    assert_int_equal(of[2], MIB);
    p.f.copy[2].drive = 0; /* two copies on one drive: one is read */
    assert_int_equal(paper_cut(&p, MIB, of), 1);
    assert_int_equal(of[0], MIB);
    p.q.out_of_use = 7; /* all failed: all are tried again */
    assert_int_equal(paper_cut(&p, 8 * MIB, of), 2);
}

static void a_slow_drive_is_tried_again(void **state)
{
    (void)state;
    struct paper p;
    size_t of[IOQ_MAX_COPIES];
    paper_open(&p, 2);
    paper_speed(&p, 0, 1000000);
    paper_speed(&p, 1, 100000000);
    assert_int_equal(paper_cut(&p, MIB, of), 1);
    p.q.drive[1].used_ns = INT64_MIN / 2; /* long ago */
    assert_int_equal(paper_cut(&p, MIB, of), 2);
    assert_int_equal(of[1], PIECE);
    /* A try takes it 12.5 ms: 0.25 % of that. */
    p.q.drive[1].used_ns = os_clock_ns() - (int64_t)5e9;
    assert_int_equal(paper_cut(&p, MIB, of), 2);
    paper_speed(&p, 1, (int64_t)10e9); /* 1.25 s: not yet */
    assert_int_equal(paper_cut(&p, MIB, of), 1);
    for (int i = 0; i < 3; i++) /* until that is forgotten */
        paper_speed(&p, 1, 100000000);
    io_drive_used(&p.q.drive[1], INT64_MAX / 2);
    struct io_drive *d = &p.q.drive[1]; /* what was seen long ago counts little */
    struct io_op op = {.drive = 1, .end = MIB, .reached = MIB, .t_start_ns = d->last_end_ns};
    io_learn(&p.q, &op, d->last_end_ns + 1000000);
    double speed = d->seen_bytes / d->seen_ns;
    assert_true(speed > 1.5 * MIB / 100000000.0);
}

static void drives_and_files(void **state)
{
    (void)state;
    int a = os_open_read(path[0], NULL, NULL), b = os_open_read(path[1], NULL, NULL);
    assert_true(a >= 0 && b >= 0);
    assert_true(os_drive(a) >= 0);
    assert_int_equal(os_drive(a), os_drive(b));
    close(a);
    close(b);
    int other = open("/proc/self/stat", O_RDONLY); /* of another filesystem */
    a = os_open_read(path[0], NULL, NULL);
    assert_int_not_equal(os_drive(other), os_drive(a));
    close(other);
    close(a);
}

/* ---- main ---------------------------------------------------------------- */

static int write_files(void)
{
    for (int k = 0; k < N_PATHS; k++) {
        strcpy(path[k], "/var/tmp/sluice_mirror_XXXXXX");
        int fd = mkstemp(path[k]);
        FILE *f = fd < 0 ? NULL : fdopen(fd, "wb");
        if (!f)
            return -1;
        for (int64_t i = 0; i < FILE_BYTES; i++)
            putc(byte_at(i), f);
        if (fclose(f) != 0)
            return -1;
    }
    return 0;
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
        T(all_kinds_of_places),
        T(many_random_requests),
        T(beyond_the_end),
        T(each_drive_has_its_own_limits),
        T(lookahead_waits_for_all_its_drives),
        T(cancel_and_close),
        T(one_copy_fails),
        T(a_mirror_that_shrinks),
        T(all_copies_fail),
        T(first_one_then_the_other),
        T(mirrors_of_one_folder_fail_together),
        T(interruptions_are_no_failures),
        T(a_slow_mirror_gets_less),
        T(too_many_mirrors),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void)
{
    const struct CMUnitTest plain[] = {
        cmocka_unit_test(shares_follow_speed),
        cmocka_unit_test(shares_count_what_is_in_flight),
        cmocka_unit_test(a_slow_drive_is_tried_again),
        cmocka_unit_test(drives_and_files),
    };
    if (write_files() != 0) {
        fprintf(stderr, "cannot write %s\n", path[0]);
        return 1;
    }
    int failed = cmocka_run_group_tests_name("shares", plain, NULL, NULL);
    for (int kind = IOQ_AUTO + 1; kind < IOQ_N_KINDS; kind++)
        for (int buffered = 0; buffered < 2 && have((enum ioq_kind)kind); buffered++) {
            char name[64];
            snprintf(name, sizeof name, "back end %d, %s", kind, buffered ? "buffered" : "direct");
            failed += run(name, (enum ioq_kind)kind, buffered);
        }
    for (int k = 0; k < N_PATHS; k++)
        unlink(path[k]);
    return failed != 0;
}
