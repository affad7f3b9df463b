/*
 * io: files, the three queues, limits, continuation of short reads, counters
 * and injected faults. The system calls are in io_uring.c and io_pread.c.
 *
 * Invariants:
 *  (1) n_inflight = number of ops with a request = requests in IOQ_INFLIGHT.
 *  (2) n_inflight <= depth, and inflight_bytes <= limit unless n_inflight = 1.
 *  (3) A lookahead read starts only when nothing else is queued and few bytes
 *      are in flight.
 *  (4) A request is in a queue exactly while its state is IOQ_QUEUED.
 */
#include "io/io_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Measured on virtual NVMe: more than 8 MiB in flight lost 5-35 %, and small
 * reads gained up to a depth of 8-16. */
#define DEFAULT_DEPTH 16
#define DEFAULT_INFLIGHT ((size_t)8 << 20)
/* Lookahead fills the drive up to here when the last demanded reads run out; a
 * demanded read that comes has no more than this before it. */
#define AHEAD_INFLIGHT ((size_t)2 << 20)
#define AHEAD_DEPTH 2
#define MAX_TRIES 64 /* EINTR / EAGAIN in a row before it is an error */

struct io_file {
    int fd;
    bool direct;
    char *path;
};

struct io_list {
    struct ioq_req *head, *tail;
};

struct ioq {
    const struct io_backend *backend;
    void *be;
    int depth;
    size_t limit_bytes;
    bool buffered;
    struct io_file *files;
    int n_files;
    struct io_list queue[IOQ_N_CLASSES];
    struct io_op *ops; /* depth */
    struct io_op *parked;
    int n_inflight, n_ahead; /* n_ahead: of class IOQ_AHEAD */
    size_t inflight_bytes;
    int64_t n_completed;     /* tells ioq_wait_any that something happened */
    int64_t busy_since_ns;
    struct ioq_fault fault;
    struct ioq_stats stats;
};

/* ---- opening ---------------------------------------------------------- */

static int choose_backend(struct ioq *q, enum ioq_kind kind, struct err *e)
{
    if (kind != IOQ_PREAD) {
        struct err why = {0};
        q->backend = &io_backend_uring;
        int rc = q->backend->open(q, &q->be, &why);
        if (rc == OK)
            return OK;
        if (kind == IOQ_URING)
            return err_set(e, rc, "%s", why.text);
    }
    q->backend = &io_backend_pread;
    return q->backend->open(q, &q->be, e);
}

int ioq_open(const struct ioq_config *c, struct ioq **out, struct err *e)
{
    *out = NULL;
    if (c->depth < 0 || c->depth > 4096)
        return err_set(e, E_ARG, "read queue: depth %d is outside 0..4096", c->depth);
    struct ioq *q = calloc(1, sizeof *q);
    if (!q)
        return err_set(e, E_NOMEM, "read queue: no memory");
    q->depth = c->depth ? c->depth : DEFAULT_DEPTH;
    q->limit_bytes = c->inflight_bytes ? c->inflight_bytes : DEFAULT_INFLIGHT;
    q->buffered = c->buffered;
    int rc = choose_backend(q, c->kind, e);
    if (rc < 0) {
        free(q);
        return rc;
    }
    if (q->backend->max_depth)
        q->depth = MIN(q->depth, q->backend->max_depth);
    q->ops = calloc((size_t)q->depth, sizeof *q->ops);
    if (!q->ops) {
        ioq_close(q);
        return err_set(e, E_NOMEM, "read queue: no memory for %d reads", q->depth);
    }
    *out = q;
    return OK;
}

void ioq_close(struct ioq *q)
{
    if (!q)
        return;
    for (int c = 0; c < IOQ_N_CLASSES; c++)
        while (q->queue[c].head)
            ioq_cancel(q, q->queue[c].head);
    while (q->n_inflight)
        ioq_wait_any(q);
    q->backend->close(q->be);
    for (int i = 0; i < q->n_files; i++) {
        close(q->files[i].fd);
        free(q->files[i].path);
    }
    free(q->files);
    free(q->ops);
    free(q);
}

const char *ioq_name(const struct ioq *q)
{
    return q->backend->name;
}

int io_depth(const struct ioq *q)
{
    return q->depth;
}

/* ---- files ------------------------------------------------------------ */

int ioq_add_file(struct ioq *q, const char *path, struct err *e)
{
    struct io_file *files = realloc(q->files, ((size_t)q->n_files + 1) * sizeof *files);
    if (!files)
        return err_set(e, E_NOMEM, "read queue: no memory to add %s", path);
    q->files = files;
    struct io_file f = {.fd = -1};
    bool direct = false;
    f.fd = os_open_read(path, q->buffered ? NULL : &direct, e);
    if (f.fd < 0)
        return f.fd;
    f.direct = direct;
    f.path = strdup(path);
    if (!f.path) {
        close(f.fd);
        return err_set(e, E_NOMEM, "read queue: no memory to add %s", path);
    }
    q->files[q->n_files] = f;
    return q->n_files++;
}

bool ioq_is_direct(const struct ioq *q, int file)
{
    return q->files[file].direct;
}

const char *ioq_path(const struct ioq *q, int file)
{
    return q->files[file].path;
}

void ioq_span(int64_t offset, size_t bytes, int64_t *begin, size_t *len, size_t *skip)
{
    *begin = align_down64(offset, IOQ_ALIGN);
    *skip = (size_t)(offset - *begin);
    *len = align_up(*skip + bytes, IOQ_ALIGN);
}

/* ---- queues ----------------------------------------------------------- */

static void list_push(struct io_list *l, struct ioq_req *r)
{
    r->next = NULL;
    if (l->tail)
        l->tail->next = r;
    else
        l->head = r;
    l->tail = r;
}

static void list_remove(struct io_list *l, struct ioq_req *r)
{
    struct ioq_req *prev = NULL;
    for (struct ioq_req *i = l->head; i != r; i = i->next)
        prev = i;
    if (prev)
        prev->next = r->next;
    else
        l->head = r->next;
    if (l->tail == r)
        l->tail = prev;
    r->next = NULL;
}

static void finish(struct ioq *q, struct ioq_req *r, int status, int sys_errno)
{
    int64_t begin;
    size_t len, skip;
    ioq_span(r->offset, r->bytes, &begin, &len, &skip);
    r->state = IOQ_DONE;
    r->status = status;
    r->sys_errno = sys_errno;
    r->t_done_ns = os_clock_ns();
    q->n_completed++;
    if (status == OK) {
        r->data = (char *)r->buf + skip;
        q->stats.n_reads++;
        q->stats.bytes += (int64_t)r->got;
        q->stats.bytes_class[r->cls] += (int64_t)r->got;
    } else if (status == E_CANCELLED) {
        q->stats.n_cancelled++;
    } else {
        q->stats.n_errors++;
    }
}

/* ---- faults ----------------------------------------------------------- */

/* Counts this op against the injected fault; the kind that hits it. */
static enum ioq_fault_kind fault_of(struct ioq *q, const struct io_op *op)
{
    struct ioq_fault *f = &q->fault;
    const struct ioq_req *r = op->req;
    int64_t begin = MAX(r->offset, op->offset), end = r->offset + (int64_t)r->bytes;
    if (f->kind == IOQ_FAULT_NONE || f->count == 0)
        return IOQ_FAULT_NONE;
    if ((f->file >= 0 && f->file != r->file) || begin >= f->end || end <= f->begin)
        return IOQ_FAULT_NONE;
    if (f->skip > 0) {
        f->skip--;
        return IOQ_FAULT_NONE;
    }
    if (f->count > 0)
        f->count--;
    return f->kind;
}

void ioq_set_fault(struct ioq *q, const struct ioq_fault *f)
{
    q->fault = f ? *f : (struct ioq_fault){.kind = IOQ_FAULT_NONE};
}

static void park(struct ioq *q, struct io_op *op, int64_t res, int delay_ms)
{
    op->res = res;
    op->parked = true;
    op->due_ns = os_clock_ns() + (int64_t)delay_ms * 1000000;
    op->next = q->parked;
    q->parked = op;
}

/* ---- starting and finishing ops --------------------------------------- */

/* Starts what is missing of the request: from `from` to the end of the span. */
static void start_op(struct ioq *q, struct io_op *op, size_t from)
{
    struct ioq_req *r = op->req;
    int64_t begin;
    size_t len, skip;
    ioq_span(r->offset, r->bytes, &begin, &len, &skip);
    op->fd = q->files[r->file].fd;
    op->from = from;
    op->buf = (char *)r->buf + from;
    op->len = len - from;
    op->offset = begin + (int64_t)from;
    op->delay_ms = 0;
    op->parked = false;
    switch (fault_of(q, op)) {
    case IOQ_FAULT_ERROR:
        park(q, op, -q->fault.error, q->fault.delay_ms);
        return;
    case IOQ_FAULT_SHORT: /* half of it; in the end nothing, as at the end of a file */
        op->len = (op->len / 2) & ~(size_t)(IOQ_ALIGN - 1);
        if (op->len == 0) {
            park(q, op, 0, 0);
            return;
        }
        break;
    case IOQ_FAULT_SLOW:
        op->delay_ms = q->fault.delay_ms;
        break;
    case IOQ_FAULT_NONE:
        break;
    }
    q->backend->start(q->be, op);
}

static void end_op(struct ioq *q, struct io_op *op, int status, int sys_errno)
{
    struct ioq_req *r = op->req;
    q->inflight_bytes -= op->held_bytes;
    q->n_ahead -= r->cls == IOQ_AHEAD;
    op->req = NULL;
    if (--q->n_inflight == 0)
        q->stats.busy_ns += os_clock_ns() - q->busy_since_ns;
    const struct io_file *f = &q->files[r->file];
    if (!f->direct)
        (void)posix_fadvise(f->fd, align_down64(r->offset, IOQ_ALIGN),
                            (off_t)ioq_span_max(r->bytes), POSIX_FADV_DONTNEED);
    finish(q, r, status, sys_errno);
}

/* A result for an op: done, failed, or there is more to read. */
static void settle(struct ioq *q, struct io_op *op, int64_t res)
{
    struct ioq_req *r = op->req;
    size_t skip = (size_t)(r->offset & (IOQ_ALIGN - 1));
    if (res == -EINTR || res == -EAGAIN) {
        if (++op->tries < MAX_TRIES) {
            start_op(q, op, op->from);
            return;
        }
    }
    if (res < 0) {
        end_op(q, op, E_IO, (int)-res);
        return;
    }
    size_t had = r->got;
    r->got = op->from + (size_t)res;
    if (r->got >= skip + r->bytes)
        end_op(q, op, OK, 0);
    else if (r->got <= had) /* no progress: the file ends here */
        end_op(q, op, E_IO, 0);
    else
        start_op(q, op, r->got & ~(size_t)(IOQ_ALIGN - 1));
}

void io_reaped(struct ioq *q, struct io_op *op, int64_t res)
{
    if (op->delay_ms)
        park(q, op, res, op->delay_ms);
    else
        settle(q, op, res);
}

/* Settles the parked ops whose time has come. */
static void settle_due(struct ioq *q)
{
    int64_t now = q->parked ? os_clock_ns() : 0;
    struct io_op *list = q->parked;
    q->parked = NULL;
    while (list) {
        struct io_op *op = list;
        list = op->next;
        if (op->due_ns > now) {
            op->next = q->parked;
            q->parked = op;
            continue;
        }
        op->parked = false;
        settle(q, op, op->res);
    }
}

/* The request that may start now; NULL: none may. */
static struct ioq_req *next_request(const struct ioq *q)
{
    if (q->n_inflight >= q->depth)
        return NULL;
    for (int c = 0; c < IOQ_N_CLASSES; c++) {
        struct ioq_req *r = q->queue[c].head;
        if (!r)
            continue;
        if (c == IOQ_AHEAD && q->n_ahead >= AHEAD_DEPTH)
            return NULL;
        size_t limit = c == IOQ_AHEAD ? MIN(AHEAD_INFLIGHT, q->limit_bytes) : q->limit_bytes;
        if (q->n_inflight && q->inflight_bytes + ioq_span_max(r->bytes) > limit)
            return NULL;
        return r;
    }
    return NULL;
}

static struct io_op *free_op(struct ioq *q)
{
    for (int i = 0; i < q->depth; i++)
        if (!q->ops[i].req)
            return &q->ops[i];
    return NULL; /* cannot be: n_inflight < depth */
}

static void pump(struct ioq *q)
{
    struct ioq_req *r;
    while ((r = next_request(q)) != NULL) {
        struct io_op *op = free_op(q);
        list_remove(&q->queue[r->cls], r);
        *op = (struct io_op){.req = r, .held_bytes = ioq_span_max(r->bytes)};
        r->state = IOQ_INFLIGHT;
        r->t_start_ns = os_clock_ns();
        if (q->n_inflight++ == 0)
            q->busy_since_ns = r->t_start_ns;
        q->n_ahead += r->cls == IOQ_AHEAD;
        q->inflight_bytes += op->held_bytes;
        start_op(q, op, 0);
    }
    q->backend->flush(q->be);
}

/* The back end is gone (its system call is forbidden all of a sudden): every
 * op it holds fails. */
static void fail_all(struct ioq *q, int sys_errno)
{
    for (int i = 0; i < q->depth; i++)
        if (q->ops[i].req && !q->ops[i].parked)
            end_op(q, &q->ops[i], E_IO, sys_errno);
}

static void reap(struct ioq *q, bool sleep)
{
    int64_t timeout = sleep ? -1 : 0, now = os_clock_ns();
    for (const struct io_op *op = q->parked; op && timeout; op = op->next) {
        int64_t left = MAX(op->due_ns - now, 0);
        timeout = timeout < 0 ? left : MIN(timeout, left);
    }
    int rc = q->backend->reap(q, q->be, timeout);
    if (timeout)
        q->stats.wait_ns += os_clock_ns() - now;
    if (rc < 0)
        fail_all(q, -rc);
    settle_due(q);
    pump(q);
}

/* ---- the interface of the driver -------------------------------------- */

void ioq_submit(struct ioq *q, struct ioq_req *r)
{
    r->state = IOQ_QUEUED;
    r->status = OK;
    r->sys_errno = 0;
    r->data = NULL;
    r->got = 0;
    r->t_submit_ns = os_clock_ns();
    r->t_start_ns = r->t_done_ns = 0;
    if (r->bytes == 0) {
        finish(q, r, OK, 0);
        return;
    }
    list_push(&q->queue[r->cls], r);
    pump(q);
}

void ioq_poll(struct ioq *q)
{
    if (q->n_inflight)
        reap(q, false);
}

void ioq_wait(struct ioq *q, struct ioq_req *r)
{
    while (r->state == IOQ_QUEUED || r->state == IOQ_INFLIGHT)
        reap(q, true);
}

void ioq_wait_any(struct ioq *q)
{
    int64_t before = q->n_completed;
    while (q->n_inflight && q->n_completed == before)
        reap(q, true);
}

bool ioq_cancel(struct ioq *q, struct ioq_req *r)
{
    if (r->state != IOQ_QUEUED)
        return false;
    list_remove(&q->queue[r->cls], r);
    finish(q, r, E_CANCELLED, 0);
    return true;
}

void ioq_promote(struct ioq *q, struct ioq_req *r, enum ioq_class cls)
{
    if (cls >= r->cls)
        return;
    if (r->state == IOQ_QUEUED) {
        list_remove(&q->queue[r->cls], r);
        r->cls = cls;
        list_push(&q->queue[cls], r);
        pump(q);
    }
}

bool ioq_idle(const struct ioq *q)
{
    for (int c = 0; c < IOQ_N_CLASSES; c++)
        if (q->queue[c].head)
            return false;
    return q->n_inflight == 0;
}

int ioq_error(const struct ioq *q, const struct ioq_req *r, const char *what, struct err *e)
{
    const char *path = ioq_path(q, r->file);
    const char *name = what ? what : "read";
    if (r->status != E_IO)
        return r->status == OK ? OK : err_set(e, r->status, "%s: read of %s was cancelled", name, path);
    if (r->sys_errno == 0)
        return err_set(e, E_IO,
                       "%s: %s ends early: expected %zu bytes at offset %lld; is the file complete?",
                       name, path, r->bytes, (long long)r->offset);
    return err_errno(e, E_IO, r->sys_errno, "%s: reading %zu bytes at offset %lld of %s failed",
                     name, r->bytes, (long long)r->offset, path);
}

void ioq_get_stats(const struct ioq *q, struct ioq_stats *s)
{
    *s = q->stats;
    if (q->n_inflight)
        s->busy_ns += os_clock_ns() - q->busy_since_ns;
}
