/*
 * io_mirror: drives and copies. Which drive a file lies on, how fast each
 * drive is, how a read is cut for the drives that hold its file, and what
 * happens to a copy that fails.
 *
 * A read is cut so that all pieces should end at the same time, what is in
 * flight counted in; a drive that would get less than SMALLEST_PIECE gets
 * nothing. A drive whose speed is not known yet, or was last seen long ago, is
 * tried: with one smallest piece at a time. So a slow copy costs the fast one
 * next to nothing.
 */
#include "io/io_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SMALLEST_PIECE ((size_t)128 << 10) /* below it the cost of a read outweighs its bytes */
#define RETRY_NS 2e9        /* a drive left out for so long is tried again ... */
#define RETRY_PIECES 100.0 /* ... but not if that would cost it more than 1 % of the time */
#define ENOUGH_SEEN 2  /* pieces before a measured speed is believed */
#define KEEP 0.9       /* of what was seen, with each further piece */
#define STALE_KEEP 0.1 /* of what was seen, when a drive is tried again */

/* ---- drives ----------------------------------------------------------- */

static int new_drive(struct ioq *q, int64_t id, struct err *e)
{
    struct io_drive *d = &q->drive[q->n_drives];
    *d = (struct io_drive){.id = id};
    d->ops = calloc((size_t)q->depth, sizeof(*d->ops));
    if (!d->ops)
        return err_set(e, E_NOMEM, "read queue: no memory for %d reads", q->depth);
    int rc = q->backend->add_drive ? q->backend->add_drive(q->be, e) : OK;
    if (rc < 0) {
        free(d->ops);
        return rc;
    }
    return q->n_drives++;
}

/* The drive of a file; a status when a new one cannot be had. */
static int drive_of(struct ioq *q, int fd, struct err *e)
{
    int64_t id = q->split_always ? -1 - q->n_drives : os_drive(fd);
    for (int i = 0; i < q->n_drives; i++)
        if (q->drive[i].id == id)
            return i;
    if (q->n_drives == IO_MAX_DRIVES)
        return IO_MAX_DRIVES - 1;
    return new_drive(q, id, e);
}

/* Bytes a nanosecond; 0: not known yet. */
static double speed_of(const struct io_drive *d)
{
    return d->n_seen < ENOUGH_SEEN ? 0.0 : d->seen_bytes / d->seen_ns;
}

void io_learn(struct ioq *q, const struct io_op *op, int64_t now_ns)
{
    struct io_drive *d = &q->drive[op->drive];
    bool began_exactly = op->t_start_ns >= d->last_end_ns || d->end_is_exact;
    if (q->slept && began_exactly && !op->tried && !op->tries) {
        /* Pieces in flight together share the time: each counts from the end of the one before. */
        int64_t ns = now_ns - MAX(op->t_start_ns, d->last_end_ns);
        d->seen_bytes = d->seen_bytes * KEEP + (double)(op->reached - op->begin);
        d->seen_ns = d->seen_ns * KEEP + (double)MAX(ns, (int64_t)1000);
        d->n_seen = MIN(d->n_seen + 1, ENOUGH_SEEN);
    }
    d->last_end_ns = now_ns;
    d->end_is_exact = q->slept;
}

void io_drive_used(struct io_drive *d, int64_t now_ns)
{
    if ((double)(now_ns - d->used_ns) > RETRY_NS) {
        d->seen_bytes *= STALE_KEEP;
        d->seen_ns *= STALE_KEEP;
    }
    d->used_ns = now_ns;
}

/* ---- copies ----------------------------------------------------------- */

static void tell_buffered(struct ioq *q, const struct io_copy *c)
{
    struct err w = {0};
    if (q->drive[c->drive].told_buffered)
        return;
    q->drive[c->drive].told_buffered = true;
    err_set(&w, E_IO,
            "%s cannot be read past the page cache (no direct I/O on this file system): it is read "
            "buffered, and the cache dropped behind",
            c->path);
    io_tell(q, &w);
}

bool io_go_buffered(struct ioq *q, const struct io_op *op, int sys_errno)
{
    struct io_copy *c = &q->files[op->req->file].copy[op->copy];
    struct err w = {0};
    bool refused = sys_errno == EINVAL || sys_errno == EOPNOTSUPP || sys_errno == ENOTBLK;
    if (!op->direct || !refused)
        return false;
    if (!c->direct)
        return true; /* another read found out */
    int flags = fcntl(c->fd, F_GETFL);
    if (flags < 0 || fcntl(c->fd, F_SETFL, flags & ~O_DIRECT) < 0)
        return false;
    c->direct = false;
    q->drive[c->drive].told_buffered = true;
    err_errno(&w, E_IO, sys_errno,
              "a direct read of %s was refused, so it is read buffered from now on, and the "
              "cache dropped behind",
              c->path);
    io_tell(q, &w);
    return true;
}

int io_open_copy(struct ioq *q, const char *path, struct io_copy *c, struct err *e)
{
    *c = (struct io_copy){.fd = -1};
    c->fd = os_open_read(path, q->buffered ? NULL : &c->direct, e);
    TRY(c->fd);
    int rc = c->drive = drive_of(q, c->fd, e);
    c->path = rc < 0 ? NULL : strdup(path);
    if (rc >= 0 && !c->path)
        rc = err_set(e, E_NOMEM, "read queue: no memory to add %s", path);
    if (rc < 0)
        io_close_copy(c);
    else if (!q->buffered && !c->direct)
        tell_buffered(q, c);
    return rc < 0 ? rc : OK;
}

void io_close_copy(struct io_copy *c)
{
    close(c->fd);
    free(c->path);
}

int ioq_add_mirror(struct ioq *q, int file, const char *path, struct err *e)
{
    INVARIANT(ioq_check(q));
    struct io_file *f = &q->files[file];
    if (f->n_copies == IOQ_MAX_COPIES)
        return err_set(e, E_ARG, "%s is one mirror too many: at most %d are possible", path,
                       IOQ_MAX_COPIES - 1);
    TRY(io_open_copy(q, path, &f->copy[f->n_copies], e));
    return f->n_copies++;
}

bool ioq_shares_drive(const struct ioq *q, int file, int copy)
{
    const struct io_file *f = &q->files[file];
    for (int i = 0; i < f->n_copies; i++)
        if (i != copy && f->copy[i].drive == f->copy[copy].drive)
            return true;
    return false;
}

void io_tell(struct ioq *q, const struct err *sentence)
{
    if (q->warning)
        q->warning(q->warning_user, sentence->text);
    else if (!q->note.code)
        q->note = *sentence;
}

void ioq_set_warning(struct ioq *q, ioq_warning_fn *fn, void *user)
{
    INVARIANT(ioq_check(q));
    q->warning = fn;
    q->warning_user = user;
    if (fn && q->note.code)
        fn(user, q->note.text);
    if (fn)
        err_clear(&q->note);
}

static unsigned all_copies(const struct io_file *f)
{
    return (1u << f->n_copies) - 1;
}

/* Those in use; all where none is left: one that failed may work again. */
static unsigned usable_copies(const struct ioq *q, const struct io_file *f)
{
    unsigned usable = all_copies(f) & ~q->out_of_use;
    return usable ? usable : all_copies(f);
}

static int lowest(unsigned mask)
{
    int i = 0;
    while (!(mask >> i & 1))
        i++;
    return i;
}

static void warn(struct ioq *q, const struct io_op *op, int next, int sys_errno)
{
    struct err w = {0};
    const struct io_file *f = &q->files[op->req->file];
    const char *path = f->copy[op->copy].path;
    unsigned bit = 1u << op->copy;
    if (q->warned & bit)
        return;
    q->warned |= bit;
    if (sys_errno)
        err_errno(&w, E_IO, sys_errno,
                  "%s is out of use and %s is read instead: "
                  "reading %zu bytes at offset %lld failed",
                  path, f->copy[next].path, op->len, (long long)op->offset);
    else
        err_set(&w, E_IO, "%s is out of use and %s is read instead: it ends before offset %lld",
                path, f->copy[next].path, (long long)op->offset + (long long)op->len);
    if (q->warning)
        q->warning(q->warning_user, w.text);
}

int io_next_copy(struct ioq *q, struct io_op *op, int sys_errno)
{
    const struct io_file *f = &q->files[op->req->file];
    unsigned bit = 1u << op->copy;
    if (!op->tried)
        op->first_errno = sys_errno;
    op->tried |= bit;
    if (all_copies(f) & ~q->out_of_use & ~bit) /* never the last one */
        q->out_of_use |= bit;
    unsigned left = all_copies(f) & ~op->tried;
    if (!left)
        return -1;
    int next = lowest(left & ~q->out_of_use ? left & ~q->out_of_use : left);
    warn(q, op, next, sys_errno);
    return next;
}

/* ---- cutting ---------------------------------------------------------- */

struct share { /* of a read, for one drive */
    int copy;
    double speed, backlog; /* bytes a nanosecond; bytes in flight */
    double bytes;
    bool known; /* otherwise it only gets pieces to try it with */
    bool in;
};

/* Idle, and nobody knows whether it is fast, or still slow. */
static bool to_be_tried(const struct io_drive *d, int64_t now_ns)
{
    double speed = speed_of(d), idle = (double)(now_ns - d->used_ns);
    if (d->n_inflight)
        return false;
    return speed <= 0.0 ||
           (idle > RETRY_NS && idle > RETRY_PIECES * (double)SMALLEST_PIECE / speed);
}

/* One entry for each drive that has a usable copy, in the order of copies. The
 * first counts as known always: it is taken for as fast as the best. */
static int find_shares(const struct ioq *q, const struct io_file *f, struct share *s)
{
    unsigned usable = usable_copies(q, f), seen = 0;
    double best = 0.0;
    int n = 0;
    for (int i = 0; i < f->n_copies; i++) {
        const struct io_drive *d = &q->drive[f->copy[i].drive];
        unsigned bit = 1u << f->copy[i].drive;
        if (!(usable >> i & 1) || (seen & bit))
            continue;
        seen |= bit;
        s[n] = (struct share){.copy = i, .speed = speed_of(d),
                              .backlog = (double)d->inflight_bytes};
        s[n].known = s[n].speed > 0.0;
        best = MAX(best, s[n].speed);
        n++;
    }
    if (!s[0].known)
        s[0].speed = best > 0.0 ? best : 1.0;
    s[0].known = true;
    return n;
}

/* All of it to the known drive that would be done first. */
static void give_to_one(struct share *s, int n, double bytes)
{
    int best = -1;
    for (int i = 0; i < n; i++) {
        s[i].in = false;
        if (s[i].known && (best < 0 || (s[i].backlog + bytes) / s[i].speed <
                                           (s[best].backlog + bytes) / s[best].speed))
            best = i;
    }
    s[best].in = true;
    s[best].bytes = bytes;
}

/* Shares with which all known drives are done at once; who would get too
 * little is left out, the worst first. */
static void give_to_all(struct share *s, int n, double bytes)
{
    int left = 0;
    for (int i = 0; i < n; i++)
        left += s[i].in = s[i].known;
    for (; left > 1; left--) {
        double speed = 0, work = bytes;
        int worst = -1;
        for (int i = 0; i < n; i++)
            if (s[i].in) {
                speed += s[i].speed;
                work += s[i].backlog;
            }
        for (int i = 0; i < n; i++) {
            if (!s[i].in)
                continue;
            s[i].bytes = work / speed * s[i].speed - s[i].backlog;
            if (worst < 0 || s[i].bytes < s[worst].bytes)
                worst = i;
        }
        if (s[worst].bytes >= (double)SMALLEST_PIECE)
            return;
        s[worst].in = false;
    }
    give_to_one(s, n, bytes);
}

/* Drives that are to be tried get the smallest piece of the largest share, or
 * a read that is no larger. */
static void try_others(const struct ioq *q, const struct io_file *f, struct share *s, int n)
{
    int64_t now = os_clock_ns();
    for (int i = 0; i < n; i++) {
        if (s[i].in || !to_be_tried(&q->drive[f->copy[s[i].copy].drive], now))
            continue;
        int giver = -1;
        for (int k = 0; k < n; k++)
            if (s[k].in && (giver < 0 || s[k].bytes > s[giver].bytes))
                giver = k;
        double bytes = MIN(s[giver].bytes, (double)SMALLEST_PIECE);
        if (s[giver].bytes > bytes && s[giver].bytes < 2 * bytes)
            return;
        s[giver].bytes -= bytes;
        s[giver].in = s[giver].bytes > 0;
        s[i].bytes = bytes;
        s[i].in = true;
    }
}

int io_cut(const struct ioq *q, const struct ioq_req *r, struct io_piece *pieces)
{
    const struct io_file *f = &q->files[r->file];
    size_t skip = (size_t)(r->offset & (IOQ_ALIGN - 1)), len = align_up(skip + r->bytes, IOQ_ALIGN);
    pieces[0] = (struct io_piece){.copy = 0, .begin = 0, .end = len};
    if (f->n_copies == 1)
        return 1;
    struct share s[IOQ_MAX_COPIES] = {0};
    int n = find_shares(q, f, s), n_pieces = 0;
    if (len < 2 * SMALLEST_PIECE)
        give_to_one(s, n, (double)len);
    else
        give_to_all(s, n, (double)len);
    try_others(q, f, s, n);
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        if (!s[i].in)
            continue;
        size_t bytes = (size_t)s[i].bytes & ~(size_t)(IOQ_ALIGN - 1);
        pieces[n_pieces++] = (struct io_piece){.copy = s[i].copy, .begin = at, .end = at + bytes};
        at += bytes;
    }
    pieces[n_pieces - 1].end = len; /* and what rounding has left */
    return n_pieces;
}
