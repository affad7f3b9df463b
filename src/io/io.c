/*
 * io: files, the three queues, limits, continuation of short reads, counters
 * and injected faults. The system calls are in io_uring.c and io_pread.c.
 *
 * What is true of its structures between two calls stands in io_check.c. Order:
 *  (1) All pieces of a request start together. Most requests have one; those of a
 *      file with mirrors may have one for each drive.
 *  (2) A lookahead read starts only when nothing else is queued for its drives
 *      and few bytes are in flight on them.
 *  (3) Of two requests of a class that want the same drive the earlier starts
 *      first; one that wants another drive may pass both.
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
#define AHEAD_INFLIGHT ((size_t)4 << 20)
#define DEFAULT_PATIENCE_MS 10000
#define MAX_TRIES 64 /* EINTR / EAGAIN in a row before it is an error */

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
            return err_set(e, rc, "%s; use pread", why.text);
        struct err w = {0};
        err_set(&w, rc, "%s; threads that call pread read instead", why.text);
        io_tell(q, &w);
    }
    q->backend = &io_backend_pread;
    return q->backend->open(q, &q->be, e);
}

int ioq_open(const struct ioq_config *c, struct ioq **out, struct err *e)
{
    *out = NULL;
    if (c->depth < 0 || c->depth > 4096) /* TRACE_SLOTS */
        return err_set(e, E_ARG, "read queue: depth %d is outside 0..4096", c->depth);
    struct ioq *q = calloc(1, sizeof *q);
    if (!q)
        return err_set(e, E_NOMEM, "read queue: no memory");
    q->depth = c->depth ? c->depth : DEFAULT_DEPTH;
    q->limit_bytes = c->inflight_bytes ? c->inflight_bytes : DEFAULT_INFLIGHT;
    q->buffered = c->buffered;
    q->split_always = c->split_always;
    q->patience_ns = (int64_t)(c->patience_ms ? c->patience_ms : DEFAULT_PATIENCE_MS) * 1000000;
    int rc = choose_backend(q, c->kind, e);
    if (rc < 0) {
        free(q);
        return rc;
    }
    if (q->backend->max_depth)
        q->depth = MIN(q->depth, q->backend->max_depth);
    *out = q;
    return OK;
}

void ioq_close(struct ioq *q)
{
    if (!q)
        return;
    INVARIANT(ioq_check(q));
    for (int c = 0; c < IOQ_N_CLASSES; c++)
        while (q->queue[c].head)
            ioq_cancel(q, q->queue[c].head);
    while (q->n_inflight)
        ioq_wait_any(q);
    q->backend->close(q->be);
    for (int i = 0; i < q->n_files; i++)
        for (int k = 0; k < q->files[i].n_copies; k++)
            io_close_copy(&q->files[i].copy[k]);
    free(q->files);
    for (int i = 0; i < q->n_drives; i++)
        free(q->drive[i].ops);
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
    INVARIANT(ioq_check(q));
    struct io_file *files = realloc(q->files, ((size_t)q->n_files + 1) * sizeof *files);
    if (!files)
        return err_set(e, E_NOMEM, "read queue: no memory to add %s", path);
    q->files = files;
    struct io_file *f = &files[q->n_files];
    *f = (struct io_file){.n_copies = 1};
    TRY(io_open_copy(q, path, &f->copy[0], e));
    return q->n_files++;
}

bool ioq_is_direct(const struct ioq *q, int file)
{
    return q->files[file].copy[0].direct;
}

const char *ioq_path(const struct ioq *q, int file)
{
    return q->files[file].copy[0].path;
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
    int64_t begin = MAX(r->offset, op->offset);
    int64_t end = MIN(r->offset + (int64_t)r->bytes, op->offset + (int64_t)op->len);
    if (f->copies && !(f->copies >> op->copy & 1))
        return IOQ_FAULT_NONE;
    if (f->kind == IOQ_FAULT_NONE || f->count == 0 || (f->direct && !op->direct))
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
    INVARIANT(ioq_check(q));
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

/* Starts what is missing of the piece: from `from` to its end. */
static void start_op(struct ioq *q, struct io_op *op, size_t from)
{
    struct ioq_req *r = op->req;
    op->fd = q->files[r->file].copy[op->copy].fd;
    op->from = from;
    op->buf = (char *)r->buf + from;
    op->len = op->end - from;
    op->offset = align_down64(r->offset, IOQ_ALIGN) + (int64_t)from;
    op->direct = q->files[r->file].copy[op->copy].direct;
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

/* ---- the timeline ------------------------------------------------------ */

void ioq_set_trace(struct ioq *q, struct trace *t)
{
    q->trace = t;
}

_Static_assert(TRACE_READS + IO_MAX_DRIVES * TRACE_SLOTS <= TRACE_MAX_TRACK,
               "a track for each place in flight");

static void record_read(struct ioq *q, const struct io_op *op)
{
#define ARGS {"file", "copy", "offset", "bytes", "layer", "expert"}
    static const struct trace_kind kinds[IOQ_N_CLASSES] = {
        {"read", "demand", ARGS}, {"read dense", "dense", ARGS}, {"read ahead", "ahead", ARGS}};
#undef ARGS
    const struct ioq_req *r = op->req;
    int slot = (int)(op - q->drive[op->drive].ops);
    int64_t args[] = {r->file, op->copy, align_down64(r->offset, IOQ_ALIGN) + (int64_t)op->begin,
                      (int64_t)(op->end - op->begin), r->tag[0] ? r->tag[0] - 1 : TRACE_NO_ARG,
                      r->tag[1] ? r->tag[1] - 1 : TRACE_NO_ARG};
    trace_add(q->trace, &kinds[r->cls], TRACE_READS + op->drive * TRACE_SLOTS + slot,
              op->t_start_ns, os_clock_ns(), args, 6);
}

static void record_wait(struct ioq *q, int64_t begin_ns, int64_t end_ns)
{
    static const struct trace_kind kind = {"wait for read", "wait", {"in_flight"}};
    int64_t n = q->n_inflight;
    trace_add(q->trace, &kind, TRACE_DRIVER, begin_ns, end_ns, &n, 1);
}

/* ---- the end of an op ---------------------------------------------------- */

/* The kernel drops whole pages only, which may be larger than IOQ_ALIGN. */
static void drop_cache(int fd, int64_t offset, size_t bytes)
{
    int64_t begin = align_down64(offset, (int64_t)os_page_bytes());
    int64_t end = (int64_t)os_whole_pages((size_t)offset + bytes);
    (void)posix_fadvise(fd, begin, end - begin, POSIX_FADV_DONTNEED);
}

static void end_op(struct ioq *q, struct io_op *op, int status, int sys_errno)
{
    struct ioq_req *r = op->req;
    struct io_drive *d = &q->drive[op->drive];
    const struct io_copy *copy = &q->files[r->file].copy[op->copy];
    size_t got = op->reached - op->begin;
    d->inflight_bytes -= op->end - op->begin;
    d->n_ahead -= r->cls == IOQ_AHEAD;
    d->n_inflight--;
    if (--q->n_inflight == 0)
        q->stats.busy_ns += os_clock_ns() - q->busy_since_ns;
    if (!copy->direct)
        drop_cache(copy->fd, align_down64(r->offset, IOQ_ALIGN) + (int64_t)op->begin,
                   op->end - op->begin);
    r->got += got;
    if (status == OK) {
        q->stats.copy_pieces[op->copy]++;
        q->stats.copy_bytes[op->copy] += (int64_t)got;
        if (q->n_drives > 1)
            io_learn(q, op, os_clock_ns());
    } else if (r->status == OK) {
        r->status = status;
        r->sys_errno = sys_errno;
    }
    if (q->trace)
        record_read(q, op);
    q->progress_ns = os_clock_ns();
    q->late = false;
    op->req = NULL;
    if (--r->n_pieces == 0)
        finish(q, r, r->status, r->sys_errno);
}

/* The piece cannot be read from its copy; another one may have it. */
static void fail_op(struct ioq *q, struct io_op *op, int sys_errno)
{
    if (q->files[op->req->file].n_copies > 1) {
        int copy = io_next_copy(q, op, sys_errno);
        if (copy >= 0) {
            op->copy = copy;
            op->reached = op->begin;
            op->tries = 0;
            start_op(q, op, op->begin);
            return;
        }
        sys_errno = op->first_errno;
    }
    end_op(q, op, E_IO, sys_errno);
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
    if (res < 0 && io_go_buffered(q, op, (int)-res)) {
        start_op(q, op, op->from);
        return;
    }
    if (res < 0) {
        fail_op(q, op, (int)-res);
        return;
    }
    size_t had = op->reached;
    op->reached = op->from + (size_t)res;
    if (op->reached >= MIN(skip + r->bytes, op->end))
        end_op(q, op, OK, 0);
    else if (op->reached <= had) /* no progress: the file ends here */
        fail_op(q, op, 0);
    else
        start_op(q, op, op->reached & ~(size_t)(IOQ_ALIGN - 1));
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

static bool has_room(const struct ioq *q, const struct io_drive *d, size_t bytes,
                     enum ioq_class cls)
{
    size_t limit = cls == IOQ_AHEAD ? MIN(AHEAD_INFLIGHT, q->limit_bytes) : q->limit_bytes;
    if (d->n_inflight >= q->depth || (cls == IOQ_AHEAD && d->n_ahead >= IO_AHEAD_DEPTH))
        return false;
    return d->n_inflight == 0 || d->inflight_bytes + bytes <= limit;
}

/* The request that may start now, and how it is cut; NULL: none may. */
static struct ioq_req *next_request(const struct ioq *q, struct io_piece *pieces, int *n)
{
    unsigned blocked = 0, all = (1u << q->n_drives) - 1; /* drives that an earlier one waits for */
    for (int c = 0; c < IOQ_N_CLASSES; c++)
        for (struct ioq_req *r = q->queue[c].head; r; r = r->next) {
            const struct io_file *f = &q->files[r->file];
            unsigned wants = 0;
            bool room = true;
            *n = io_cut(q, r, pieces);
            for (int i = 0; i < *n; i++) {
                int d = f->copy[pieces[i].copy].drive;
                wants |= 1u << d;
                room = room && has_room(q, &q->drive[d], pieces[i].end - pieces[i].begin, r->cls);
            }
            if (room && !(wants & blocked))
                return r;
            blocked |= wants;
            if (blocked == all)
                return NULL;
        }
    return NULL;
}

static struct io_op *free_op(const struct ioq *q, const struct io_drive *d)
{
    for (int i = 0; i < q->depth; i++)
        if (!d->ops[i].req)
            return &d->ops[i];
    return NULL; /* cannot be: n_inflight < depth */
}

static void start_piece(struct ioq *q, struct ioq_req *r, const struct io_piece *p)
{
    int drive = q->files[r->file].copy[p->copy].drive;
    struct io_drive *d = &q->drive[drive];
    struct io_op *op = free_op(q, d);
    *op = (struct io_op){.req = r, .begin = p->begin, .end = p->end, .reached = p->begin,
                         .drive = drive, .copy = p->copy, .t_start_ns = r->t_start_ns};
    if (q->n_inflight++ == 0)
        q->busy_since_ns = r->t_start_ns;
    io_drive_used(d, r->t_start_ns);
    d->n_ahead += r->cls == IOQ_AHEAD;
    d->n_inflight++;
    d->inflight_bytes += p->end - p->begin;
    start_op(q, op, p->begin);
}

static void pump(struct ioq *q)
{
    struct ioq_req *r;
    struct io_piece pieces[IOQ_MAX_COPIES];
    int n;
    while ((r = next_request(q, pieces, &n)) != NULL) {
        list_remove(&q->queue[r->cls], r);
        r->state = IOQ_INFLIGHT;
        r->t_start_ns = os_clock_ns();
        r->n_pieces = n;
        for (int i = 0; i < n; i++)
            start_piece(q, r, &pieces[i]);
    }
    q->backend->flush(q->be);
}

/* Threads take the place of the back end; false: the system refuses them. */
static bool change_backend(struct ioq *q, int sys_errno)
{
    struct err w = {0};
    const struct io_backend *next = &io_backend_pread;
    void *be;
    if (q->backend == next || next->open(q, &be, NULL) < 0)
        return false;
    for (int d = 0; d < q->n_drives; d++)
        if (next->add_drive(be, NULL) < 0) {
            next->close(be);
            return false;
        }
    err_errno(&w, E_IO, sys_errno,
              "%s stopped working, and threads that call pread read from now on",
              q->backend == &io_backend_uring ? "io_uring" : q->backend->name);
    q->backend->close(q->be);
    q->backend = next;
    q->be = be;
    io_tell(q, &w);
    return true;
}

/* The back end is gone (its system call is forbidden all of a sudden) and has no
 * reads under way: the ops that it was given go to another one, or fail. */
static void leave_backend(struct ioq *q, int sys_errno)
{
    bool changed = change_backend(q, sys_errno);
    for (int d = 0; d < q->n_drives; d++)
        for (int i = 0; i < q->depth; i++) {
            struct io_op *op = &q->drive[d].ops[i];
            if (!op->req || op->parked)
                continue;
            if (changed)
                start_op(q, op, op->from);
            else
                end_op(q, op, E_IO, sys_errno);
        }
}

/* A drive that hangs does not fail: the user shall know what is waited for. */
static void warn_if_late(struct ioq *q, int64_t now_ns)
{
    const struct io_op *oldest = NULL;
    if (q->late || !q->warning || now_ns - q->progress_ns < q->patience_ns)
        return;
    for (int d = 0; d < q->n_drives; d++)
        for (int i = 0; i < q->depth; i++) {
            const struct io_op *op = &q->drive[d].ops[i];
            if (op->req && (!oldest || op->t_start_ns < oldest->t_start_ns))
                oldest = op;
        }
    if (!oldest || now_ns - oldest->t_start_ns < q->patience_ns)
        return;
    struct err w = {0};
    q->late = true;
    err_set(&w, E_IO,
            "the drive has not answered for %.1f s: reading %zu bytes at offset %lld of %s; "
            "still waiting for it",
            (double)(now_ns - oldest->t_start_ns) / 1e9, oldest->len, (long long)oldest->offset,
            q->files[oldest->req->file].copy[oldest->copy].path);
    q->warning(q->warning_user, w.text);
}

static void reap(struct ioq *q, bool sleep)
{
    if (sleep && q->n_drives > 1) { /* what ended while nobody looked tells no speed */
        int before = q->n_inflight;
        int64_t completed = q->n_completed;
        reap(q, false);
        if (q->n_inflight != before || q->n_completed != completed)
            return;
    }
    q->slept = sleep;
    int64_t timeout = sleep ? q->patience_ns : 0, now = os_clock_ns();
    for (const struct io_op *op = q->parked; op; op = op->next)
        timeout = MIN(timeout, MAX(op->due_ns - now, 0));
    int rc = q->backend->reap(q, q->be, timeout);
    int64_t end = timeout ? os_clock_ns() : now;
    q->stats.wait_ns += end - now;
    if (timeout && q->trace)
        record_wait(q, now, end);
    if (rc < 0)
        leave_backend(q, -rc);
    settle_due(q);
    if (sleep)
        warn_if_late(q, end);
    pump(q);
}

/* ---- the interface of the driver -------------------------------------- */

void ioq_submit(struct ioq *q, struct ioq_req *r)
{
    INVARIANT(ioq_check(q));
    r->state = IOQ_QUEUED;
    r->status = OK;
    r->sys_errno = 0;
    r->data = NULL;
    r->got = 0;
    r->n_pieces = 0;
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
    INVARIANT(ioq_check(q));
    if (q->n_inflight)
        reap(q, false);
}

void ioq_wait(struct ioq *q, struct ioq_req *r)
{
    INVARIANT(ioq_check(q));
    while (r->state == IOQ_QUEUED || r->state == IOQ_INFLIGHT)
        reap(q, true);
}

void ioq_wait_any(struct ioq *q)
{
    INVARIANT(ioq_check(q));
    int64_t before = q->n_completed;
    while (q->n_inflight && q->n_completed == before)
        reap(q, true);
}

bool ioq_cancel(struct ioq *q, struct ioq_req *r)
{
    INVARIANT(ioq_check(q));
    if (r->state != IOQ_QUEUED)
        return false;
    list_remove(&q->queue[r->cls], r);
    finish(q, r, E_CANCELLED, 0);
    return true;
}

void ioq_promote(struct ioq *q, struct ioq_req *r, enum ioq_class cls)
{
    INVARIANT(ioq_check(q));
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
    INVARIANT(ioq_check(q));
    for (int c = 0; c < IOQ_N_CLASSES; c++)
        if (q->queue[c].head)
            return false;
    return q->n_inflight == 0;
}

int ioq_error(const struct ioq *q, const struct ioq_req *r, const char *what, struct err *e)
{
    INVARIANT(ioq_check(q));
    const char *path = ioq_path(q, r->file);
    const char *name = what ? what : "read";
    if (r->status != E_IO)
        return r->status == OK ? OK
                               : err_set(e, r->status, "%s: read of %s was cancelled", name, path);
    const char *mirrors = q->files[r->file].n_copies > 1 ? ", as every mirror," : "";
    if (r->sys_errno == 0)
        return err_set(e, E_IO,
                       "%s: %s%s ends early: expected %zu bytes at offset %lld; "
                       "is the file complete?",
                       name, path, mirrors, r->bytes, (long long)r->offset);
    mirrors = q->files[r->file].n_copies > 1 ? " and of every mirror" : "";
    return err_errno(e, E_IO, r->sys_errno, "%s: reading %zu bytes at offset %lld of %s%s failed",
                     name, r->bytes, (long long)r->offset, path, mirrors);
}

void ioq_get_stats(const struct ioq *q, struct ioq_stats *s)
{
    INVARIANT(ioq_check(q));
    *s = q->stats;
    if (q->n_inflight)
        s->busy_ns += os_clock_ns() - q->busy_since_ns;
}
