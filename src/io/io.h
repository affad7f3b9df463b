/*
 * io: a queue of positioned reads with priorities. Knows nothing of experts.
 *
 *   io.c        files, queue, priorities, limits, counters, fault injection
 *   io_mirror.c drives, further copies of a file, who reads what, who failed
 *   io_uring.c  the ring (liburing)
 *   io_pread.c  a few threads with pread, where there is no io_uring
 *   io_check.c  the invariants of the queue, checked in sanitizer builds
 *
 * One thread drives a queue (submit, poll, wait, cancel). There is no reader
 * thread with io_uring: the driver submits and reaps while it computes, which
 * on two processors beats threads that compete with it.
 *
 * A request is owned by the caller and must stay put, with its buffer, until
 * done. Files are opened for direct I/O where the filesystem can; there reads
 * cover an aligned superset of what was asked. Where it cannot, or refuses a
 * direct read later, reads are buffered and the page cache is dropped behind them.
 * A ring that stops working is replaced by threads; no read notices.
 *
 * Limits count for each drive, so files on different drives are read at the
 * same time. A file may have mirrors, copies on other drives: a read that is
 * large enough is cut into one piece for each drive, sized so that all should
 * end together at the speeds seen so far. What one copy cannot give comes from
 * another; that copy is then out of use, with one warning.
 */
#ifndef IO_H
#define IO_H

#include "base/base.h"

struct ioq;

enum ioq_kind { IOQ_AUTO, IOQ_URING, IOQ_PREAD, IOQ_N_KINDS };
enum ioq_class { IOQ_DEMAND, IOQ_DENSE, IOQ_AHEAD, IOQ_N_CLASSES }; /* strict priority */

struct ioq_config {
    enum ioq_kind kind;
    int depth;              /* reads in flight on a drive, 0: default */
    size_t inflight_bytes;  /* bytes in flight on a drive, 0: default; one read may exceed it */
    bool buffered;          /* do not use direct I/O */
    int patience_ms;        /* a drive that is silent for so long is worth a warning, 0: default */
    bool split_always;      /* tests: take every file and every copy for a drive of its own */
};

int ioq_open(const struct ioq_config *c, struct ioq **out, struct err *e);
void ioq_close(struct ioq *q); /* waits for what is in flight */
const char *ioq_name(const struct ioq *q); /* "uring" or "pread" */

/* Opens a file; returns its index >= 0. */
int ioq_add_file(struct ioq *q, const char *path, struct err *e);
#define IOQ_MAX_COPIES 9 /* of a file, itself included */
/* Adds a copy of a file, which must have the same bytes; returns its number,
 * 1 or more (the file itself is copy 0). Copies of one number belong together
 * over all files: where one of them fails, all are out of use. */
int ioq_add_mirror(struct ioq *q, int file, const char *path, struct err *e);
/* Whether a copy lies on the same drive as another copy of its file. */
bool ioq_shares_drive(const struct ioq *q, int file, int copy);
/* Called on the driver's thread with one sentence when a copy goes out of use,
 * when io_uring or direct I/O cannot be used and the next best is, and when a read
 * that is waited for takes too long to be normal. What was found out while opening
 * is told at once. */
typedef void ioq_warning_fn(void *user, const char *text);
void ioq_set_warning(struct ioq *q, ioq_warning_fn *fn, void *user);
/* Records reads, and the driver's sleeping for them; NULL: no more. */
void ioq_set_trace(struct ioq *q, struct trace *t);
bool ioq_is_direct(const struct ioq *q, int file);
const char *ioq_path(const struct ioq *q, int file);

#define IOQ_ALIGN 4096 /* of offsets, lengths and buffers of direct reads */

/*
 * The aligned superset of [offset, offset + bytes): where it begins, how long
 * it is; the wanted bytes then lie `*skip` bytes into the buffer. A buffer
 * needs `*len` bytes, at most ioq_span_max(bytes), and IOQ_ALIGN alignment.
 */
void ioq_span(int64_t offset, size_t bytes, int64_t *begin, size_t *len, size_t *skip);
static inline size_t ioq_span_max(size_t bytes)
{
    return align_up(bytes + IOQ_ALIGN - 1, IOQ_ALIGN);
}

enum ioq_state { IOQ_IDLE, IOQ_QUEUED, IOQ_INFLIGHT, IOQ_DONE };

struct ioq_req {
    /* set by the caller */
    int file;
    enum ioq_class cls;
    int64_t offset;    /* of the wanted bytes; not necessarily aligned */
    size_t bytes;
    void *buf;         /* IOQ_ALIGN aligned, room for the span */
    int tag[2];        /* for the timeline: layer and expert, from 1; 0: none */
    /* set by the queue */
    enum ioq_state state;
    int status;        /* when done: OK, E_IO, E_CANCELLED */
    int sys_errno;     /* the reason of E_IO; 0: the file ended early */
    void *data;        /* when done and OK: the wanted bytes inside buf */
    struct ioq_req *next;
    size_t got;        /* bytes of the superset read, once done */
    int n_pieces;      /* under way */
    int64_t t_submit_ns, t_start_ns, t_done_ns;
};

void ioq_submit(struct ioq *q, struct ioq_req *r); /* queues; starts what the limits allow */
void ioq_poll(struct ioq *q);                      /* reaps and starts; never blocks */
void ioq_wait(struct ioq *q, struct ioq_req *r);   /* sleeps until r is done */
void ioq_wait_any(struct ioq *q);                  /* sleeps until some request completes;
                                                      returns at once if nothing is in flight */
/* A queued request becomes done with E_CANCELLED at once (true). One in flight
 * goes on (false): wait for it. */
bool ioq_cancel(struct ioq *q, struct ioq_req *r);
/* Raises the class of a request that is still queued (lookahead becomes demand). */
void ioq_promote(struct ioq *q, struct ioq_req *r, enum ioq_class cls);
bool ioq_idle(const struct ioq *q); /* nothing queued, nothing in flight */
/* Sentence for a failed request, naming file and offset; `what` may be NULL,
 * for example "layer 3 expert 17". Returns r->status. */
int ioq_error(const struct ioq *q, const struct ioq_req *r, const char *what, struct err *e);

struct ioq_stats {
    int64_t n_reads, bytes;          /* completed; bytes of the supersets */
    int64_t bytes_class[IOQ_N_CLASSES];
    int64_t busy_ns;                 /* time with something in flight */
    int64_t wait_ns;                 /* time the driver slept in ioq_wait* */
    int64_t n_errors, n_cancelled;
    int64_t copy_pieces[IOQ_MAX_COPIES], copy_bytes[IOQ_MAX_COPIES]; /* read from each copy */
};
void ioq_get_stats(const struct ioq *q, struct ioq_stats *s);

/*
 * Fault injection for tests: applied below the back ends, to reads that
 * overlap [begin, end) of `file` (-1: any), after `skip` matching reads, `count`
 * times (-1: always).
 */
enum ioq_fault_kind { IOQ_FAULT_NONE, IOQ_FAULT_ERROR, IOQ_FAULT_SHORT, IOQ_FAULT_SLOW };
struct ioq_fault {
    enum ioq_fault_kind kind;
    int file;
    int64_t begin, end;
    int skip, count;
    unsigned copies; /* bit i: reads of copy i; 0: of all copies */
    bool direct;     /* direct reads only */
    int error;     /* errno for IOQ_FAULT_ERROR */
    int delay_ms;  /* for IOQ_FAULT_SLOW, and before an IOQ_FAULT_ERROR shows */
};
void ioq_set_fault(struct ioq *q, const struct ioq_fault *f);

#endif
