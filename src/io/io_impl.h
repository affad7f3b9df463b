/*
 * io_impl: what io.c and its two back ends share; private to this folder.
 *
 * io.c owns requests, order, limits, continuation and faults; io_mirror.c says
 * which copy reads what; io_check.c has the invariants. A back end only carries
 * out plain reads: it is handed an op (start), may collect several before it tells
 * the system (flush), and gives each back exactly once through io_reaped, on the
 * driver's thread, from inside reap.
 */
#ifndef IO_IMPL_H
#define IO_IMPL_H

#include "io/io.h"

/* One read of the back end: of a request, or of the piece of it that one drive
 * reads. Short reads and other copies reuse it. Each drive has `depth`. */
struct io_op {
    struct ioq_req *req; /* NULL: this op is free */
    int fd;
    void *buf;
    size_t len;
    int64_t offset;
    int64_t res;         /* bytes read or -errno */
    size_t begin, end;   /* of the piece, in the superset; end - begin counts as in flight */
    size_t from;         /* where in the superset this attempt began */
    size_t reached;      /* how far the piece has been read */
    int drive;           /* whose limits it counts against, also when it reads another copy */
    int copy;            /* that it reads now */
    unsigned tried;      /* bit i: copy i failed */
    int first_errno;     /* of the first copy that failed */
    int64_t t_start_ns;
    int tries;           /* interrupted attempts */
    int delay_ms;        /* fault: hold the result back this long */
    bool direct;         /* began as a direct read */
    bool parked;         /* result is known and waits for due_ns */
    int64_t due_ns;
    struct io_op *next;  /* list of the back end, or of parked ops */
};

struct io_backend {
    const char *name;
    int (*open)(struct ioq *q, void **be, struct err *e);
    void (*close)(void *be); /* nothing is in flight */
    int max_depth;           /* more in flight on a drive would queue unseen; 0: no limit */
    int (*add_drive)(void *be, struct err *e); /* NULL: nothing to do */
    void (*start)(void *be, struct io_op *op);
    void (*flush)(void *be);
    /* Gives finished ops back; when none is, sleeps up to timeout_ns (< 0:
     * until one is; 0: not at all). May return early. A negative errno means
     * that the back end cannot go on. */
    int (*reap)(struct ioq *q, void *be, int64_t timeout_ns);
};
extern const struct io_backend io_backend_uring, io_backend_pread;

int io_depth(const struct ioq *q);
/* Warns, now or as soon as somebody listens. */
void io_tell(struct ioq *q, const struct err *sentence);
void io_reaped(struct ioq *q, struct io_op *op, int64_t res);

/* ---- the queue: open to io.c and io_mirror.c only --------------------- */

#define IO_MAX_DRIVES 16 /* further ones count as the last */
#define IO_AHEAD_DEPTH 4 /* lookahead reads in flight on a drive */

struct io_drive {
    int64_t id;          /* os_drive, or -1 - n: a drive of its own */
    struct io_op *ops;   /* depth */
    int n_inflight, n_ahead; /* n_ahead: of class IOQ_AHEAD */
    size_t inflight_bytes;
    /* speed: bytes and the time that they took, older ones fading */
    double seen_bytes, seen_ns;
    int n_seen;
    int64_t last_end_ns; /* when a piece was last seen to end */
    bool end_is_exact;   /* the driver slept until then */
    int64_t used_ns;     /* when it last got a piece */
    bool told_buffered;  /* the warning that files on it cannot be read directly */
};

struct io_copy {
    int fd;
    bool direct;
    int drive;
    char *path;
};

struct io_file {
    int n_copies;
    struct io_copy copy[IOQ_MAX_COPIES];
};

struct io_list {
    struct ioq_req *head, *tail;
};

struct ioq {
    const struct io_backend *backend;
    void *be;
    int depth;
    size_t limit_bytes;
    bool buffered, split_always;
    struct io_file *files;
    int n_files;
    struct io_drive drive[IO_MAX_DRIVES];
    int n_drives;
    unsigned out_of_use, warned; /* bit i: copy i of every file */
    ioq_warning_fn *warning;
    void *warning_user;
    struct err note;         /* a warning from before anybody listened */
    struct io_list queue[IOQ_N_CLASSES];
    struct io_op *parked;
    int n_inflight;          /* ops of all drives */
    bool slept;              /* reaped ops ended just now, as far as we know */
    int64_t n_completed;     /* tells ioq_wait_any that something happened */
    int64_t patience_ns;
    int64_t progress_ns;     /* when a piece last ended */
    bool late;               /* a warning about the drive was given since */
    int64_t busy_since_ns;
    struct ioq_fault fault;
    struct ioq_stats stats;
    struct trace *trace;
};

/* A part [begin, end) of a request's superset and the copy that it is read from. */
struct io_piece {
    int copy;
    size_t begin, end;
};

/* ---- io_check.c ---- */
/* The first broken invariant, between two calls of the driver; NULL: none. */
const char *ioq_check(const struct ioq *q);

/* ---- io_mirror.c ---- */
int io_open_copy(struct ioq *q, const char *path, struct io_copy *c, struct err *e);
void io_close_copy(struct io_copy *c);
/* Whether a read that failed should be done again, because it was a direct one and
 * its file is read buffered from now on. */
bool io_go_buffered(struct ioq *q, const struct io_op *op, int sys_errno);
/* Cuts a request for the drives that hold it; returns the number of pieces. */
int io_cut(const struct ioq *q, const struct ioq_req *r, struct io_piece *pieces);
/* Before a piece is started on a drive. */
void io_drive_used(struct io_drive *d, int64_t now_ns);
/* Learns a drive's speed from an op that has just ended well. */
void io_learn(struct ioq *q, const struct io_op *op, int64_t now_ns);
/* A copy has failed a piece: it is out of use from now on. The next copy to
 * try, or -1: all have failed. */
int io_next_copy(struct ioq *q, struct io_op *op, int sys_errno);

#endif
