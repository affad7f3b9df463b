/*
 * io_impl: what io.c and its two back ends share; private to this folder.
 *
 * io.c owns requests, order, limits, continuation and faults. A back end only
 * carries out plain reads: it is handed an op (start), may collect several
 * before it tells the system (flush), and gives each back exactly once through
 * io_reaped, on the driver's thread, from inside reap.
 */
#ifndef IO_IMPL_H
#define IO_IMPL_H

#include "io/io.h"

/* One read of the back end. A request has at most one at a time; short reads
 * reuse it for the rest. Never more than `depth` exist. */
struct io_op {
    struct ioq_req *req; /* NULL: this op is free */
    int fd;
    void *buf;
    size_t len;
    int64_t offset;
    int64_t res;         /* bytes read or -errno */
    size_t from;         /* where in the superset this op began */
    size_t held_bytes;   /* counted in ioq.inflight_bytes */
    int tries;           /* interrupted attempts */
    int delay_ms;        /* fault: hold the result back this long */
    bool parked;         /* result is known and waits for due_ns */
    int64_t due_ns;
    struct io_op *next;  /* list of the back end, or of parked ops */
};

struct io_backend {
    const char *name;
    int (*open)(struct ioq *q, void **be, struct err *e);
    void (*close)(void *be); /* nothing is in flight */
    int max_depth;           /* more in flight would queue out of our sight; 0: no limit */
    void (*start)(void *be, struct io_op *op);
    void (*flush)(void *be);
    /* Gives finished ops back; when none is, sleeps up to timeout_ns (< 0:
     * until one is; 0: not at all). May return early. A negative errno means
     * that the back end cannot go on. */
    int (*reap)(struct ioq *q, void *be, int64_t timeout_ns);
};
extern const struct io_backend io_backend_uring, io_backend_pread;

int io_depth(const struct ioq *q);
void io_reaped(struct ioq *q, struct io_op *op, int64_t res);

#endif
