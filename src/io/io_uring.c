/*
 * io_uring: the ring back end. Submits when asked to flush and reaps on the
 * driver's thread; there is no other thread. Sleeping happens in the kernel.
 *
 * Registered files and buffers are not used: reads of 256 KiB to 4 MiB into
 * huge pages were not faster with them, and a registered buffer would keep its
 * old pages when a cache gives memory back and then read into nowhere.
 */
#include "io/io_impl.h"

#include <errno.h>
#include <liburing.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct uring {
    struct io_uring ring;
    int broken; /* errno after which the ring cannot be used */
    unsigned n_prepared, n_completed; /* reads; both may wrap */
};

#define REAP_BATCH 32

/*
 * Some sandboxes (Android's, of apps) answer a forbidden call with a signal that
 * ends the process. Whether this is one, only a try can tell, so a child makes
 * it: a handler for SIGSYS would be the whole process's, which is the host
 * program's business. The child has no exit signal and uses plain system calls
 * only, so that the host notices nothing of it. Without a filter there is none.
 */
static bool trying_is_deadly(void)
{
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != SECCOMP_MODE_FILTER)
        return false;
    long pid = syscall(SYS_clone, 0L, 0L, 0L, 0L, 0L);
    if (pid == 0) {
        struct io_uring_params p = {0};
        syscall(SYS_prctl, PR_SET_DUMPABLE, 0L, 0L, 0L, 0L);
        long fd = syscall(__NR_io_uring_setup, 1L, &p);
        if (fd >= 0)
            syscall(__NR_io_uring_enter, fd, 0L, 0L, 0L, NULL, 0L);
        syscall(SYS_exit_group, 0L);
    }
    int status = 0;
    while (pid > 0 && waitpid((pid_t)pid, &status, __WALL) < 0)
        if (errno != EINTR)
            return true;
    return pid < 0 || WIFSIGNALED(status); /* who cannot try stays away */
}

/* Setting up may be allowed and entering forbidden. */
static int try_ring(struct io_uring *ring)
{
    struct io_uring_cqe *cqe;
    io_uring_prep_nop(io_uring_get_sqe(ring));
    int rc;
    do
        rc = io_uring_submit_and_wait(ring, 1);
    while (rc == -EINTR);
    if (rc < 0)
        return rc;
    rc = io_uring_peek_cqe(ring, &cqe);
    if (rc == 0)
        io_uring_cqe_seen(ring, cqe);
    return rc;
}

static int uring_open(struct ioq *q, void **be, struct err *e)
{
    if (trying_is_deadly())
        return err_set(e, E_UNSUPPORTED,
                       "io_uring is forbidden here, by a sandbox that ends who tries it");
    struct uring *u = calloc(1, sizeof *u);
    if (!u)
        return err_set(e, E_NOMEM, "io_uring: no memory");
    /* for several drives at full depth; more only cost a system call */
    int rc = io_uring_queue_init((unsigned)MIN(4 * io_depth(q), 4096), &u->ring, 0);
    bool is_open = rc == 0, old = false;
    if (is_open) {
        /* Plain reads came with this feature (5.6). Asking for the operation itself
         * takes another system call, which may be forbidden. */
        old = !(u->ring.features & IORING_FEAT_RW_CUR_POS);
        rc = old ? -ENOSYS : try_ring(&u->ring);
    }
    if (rc < 0) {
        if (is_open)
            io_uring_queue_exit(&u->ring);
        free(u);
        return err_errno(e, E_UNSUPPORTED, -rc, "io_uring is not available here (%s)",
                         old ? "the kernel's is too old, 5.6 is needed"
                             : "an old kernel, or a sandbox forbids it");
    }
    *be = u;
    return OK;
}

static void uring_close(void *be)
{
    struct uring *u = be;
    io_uring_queue_exit(&u->ring);
    free(u);
}

static bool passing(int rc) /* errors after which trying again is right */
{
    return rc == -EINTR || rc == -EAGAIN || rc == -EBUSY || rc == -ETIME;
}

/* The kernel is short of something: give it a moment, and never spin. */
static void breathe(int rc)
{
    if (rc == -EAGAIN || rc == -EBUSY)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void uring_flush(void *be)
{
    struct uring *u = be;
    while (io_uring_sq_ready(&u->ring) && !u->broken) {
        int rc = io_uring_submit(&u->ring);
        if (rc >= 0)
            continue;
        if (!passing(rc))
            u->broken = -rc;
        breathe(rc);
        if (rc != -EINTR)
            break; /* the next reap tries again */
    }
}

static void uring_start(void *be, struct io_op *op)
{
    struct uring *u = be;
    if (u->broken)
        return; /* the next reap reports it */
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (!sqe) { /* full of reads not yet handed over */
        uring_flush(u);
        sqe = io_uring_get_sqe(&u->ring);
    }
    if (!sqe) {
        if (!u->broken)
            u->broken = EBUSY;
        return;
    }
    io_uring_prep_read(sqe, op->fd, op->buf, (unsigned)MIN(op->len, (size_t)1 << 30),
                       (uint64_t)op->offset);
    io_uring_sqe_set_data(sqe, op);
    u->n_prepared++;
}

static int uring_sleep(struct uring *u, int64_t timeout_ns)
{
    /* Kernels before 5.11 can only wait for good. */
    if (timeout_ns < 0 || !(u->ring.features & IORING_FEAT_EXT_ARG))
        return io_uring_submit_and_wait(&u->ring, 1);
    struct io_uring_cqe *cqe;
    struct __kernel_timespec ts = {.tv_sec = timeout_ns / 1000000000,
                                   .tv_nsec = timeout_ns % 1000000000};
    return io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &ts, NULL);
}

/* Hands back what has finished; how many. */
static unsigned collect(struct ioq *q, struct uring *u)
{
    struct io_uring_cqe *cqes[REAP_BATCH];
    struct io_op *ops[REAP_BATCH];
    int64_t res[REAP_BATCH];
    /* Handing an op back may start others: first free the entries. */
    unsigned n = io_uring_peek_batch_cqe(&u->ring, cqes, REAP_BATCH);
    for (unsigned i = 0; i < n; i++) {
        ops[i] = io_uring_cqe_get_data(cqes[i]);
        res[i] = cqes[i]->res;
    }
    io_uring_cq_advance(&u->ring, n);
    u->n_completed += n;
    for (unsigned i = 0; i < n; i++)
        io_reaped(q, ops[i], res[i]);
    return n;
}

/* The kernel still writes into the buffers of reads that it has taken: all of
 * them must end before their ops are given up. */
static void drain_broken(struct ioq *q, struct uring *u)
{
    while (u->n_prepared - io_uring_sq_ready(&u->ring) != u->n_completed)
        if (collect(q, u) == 0)
            breathe(-EBUSY);
}

static int uring_reap(struct ioq *q, void *be, int64_t timeout_ns)
{
    struct uring *u = be;
    uring_flush(u);
    if (timeout_ns && !u->broken && !io_uring_cq_ready(&u->ring)) {
        int rc = uring_sleep(u, timeout_ns);
        breathe(rc);
        if (rc < 0 && !passing(rc))
            u->broken = -rc;
    }
    while (collect(q, u))
        ;
    if (u->broken)
        drain_broken(q, u);
    return -u->broken;
}

const struct io_backend io_backend_uring = {
    .name = "uring",
    .open = uring_open,
    .close = uring_close,
    .start = uring_start,
    .flush = uring_flush,
    .reap = uring_reap,
};
