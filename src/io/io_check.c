/*
 * io_check: the invariants of the queue, as seen by the driver between two calls.
 * What concerns the order in which reads start leaves no mark behind, so it stands
 * in io.c and is proved by the tests of order.
 */
#include "io/io_impl.h"

/* The list ends where its tail says, and holds no request twice. */
static const char *check_list(const struct ioq *q, int cls)
{
    const struct io_list *l = &q->queue[cls];
    const struct ioq_req *last = NULL, *slow = l->head;
    int64_t n = 0;
    for (const struct ioq_req *r = l->head; r; last = r, r = r->next) {
        HOLDS(r->state == IOQ_QUEUED, "io: a request in a queue is QUEUED");
        HOLDS((int)r->cls == cls, "io: a request is in the queue of its class");
        HOLDS(r->n_pieces == 0 && r->status == OK && r->got == 0,
              "io: nothing of a queued request has begun");
        HOLDS(r->bytes > 0 && r->buf, "io: a queued request wants bytes and has room for them");
        HOLDS(r->file >= 0 && r->file < q->n_files, "io: a request names a file of the queue");
        slow = n++ % 2 ? slow->next : slow;
        HOLDS(r->next != slow, "io: a queue ends, so that no request is in it twice");
    }
    HOLDS(l->tail == last, "io: the tail of a queue is its last request");
    return NULL;
}

/* Ops of the drives that read for the request. */
static int pieces_of(const struct ioq *q, const struct ioq_req *r)
{
    int n = 0;
    for (int d = 0; d < q->n_drives; d++)
        for (int i = 0, left = q->drive[d].n_inflight; i < q->depth && left > 0; i++) {
            left -= q->drive[d].ops[i].req != NULL;
            n += q->drive[d].ops[i].req == r;
        }
    return n;
}

static const char *check_op(const struct ioq *q, const struct io_op *op, int drive)
{
    const struct ioq_req *r = op->req;
    HOLDS(r->state == IOQ_INFLIGHT, "io: a request that an op reads for is INFLIGHT");
    HOLDS(r->file >= 0 && r->file < q->n_files, "io: a request names a file of the queue");
    HOLDS(op->drive == drive, "io: an op counts against the drive that it belongs to");
    HOLDS(op->copy >= 0 && op->copy < q->files[r->file].n_copies,
          "io: an op reads a copy that its file has");
    HOLDS(!(op->tried >> op->copy & 1), "io: no copy is tried again for a piece that it failed");
    HOLDS(op->begin <= op->from && op->from <= op->reached && op->reached <= op->end &&
              op->begin < op->end,
          "io: an op goes on within its piece, where the last one ended");
    return NULL;
}

/* That no more than `depth` are in flight needs no sentence: a drive has no more ops.
 * Only requests with several pieces could be in it twice; check_pieces counts those. */
static const char *check_drive(const struct ioq *q, int drive)
{
    const struct io_drive *d = &q->drive[drive];
    int n = 0, n_ahead = 0;
    size_t bytes = 0;
    for (int i = 0; i < q->depth; i++) {
        const struct io_op *op = &d->ops[i];
        if (!op->req)
            continue;
        n++;
        n_ahead += op->req->cls == IOQ_AHEAD;
        bytes += op->end - op->begin;
        const char *broken = check_op(q, op, drive);
        HOLDS(!broken, broken);
    }
    HOLDS(n == d->n_inflight, "io: a drive's n_inflight counts its ops with a request");
    HOLDS(n_ahead == d->n_ahead, "io: a drive's n_ahead counts its ops of class IOQ_AHEAD");
    HOLDS(bytes == d->inflight_bytes, "io: a drive's inflight_bytes adds up its pieces");
    HOLDS(n_ahead <= IO_AHEAD_DEPTH,
          "io: a drive has at most IO_AHEAD_DEPTH lookahead reads in flight");
    HOLDS(bytes <= q->limit_bytes || n == 1,
          "io: a drive has no more bytes in flight than the limit, or one read");
    HOLDS(d->seen_bytes >= 0 && d->seen_ns >= 0 && (d->n_seen == 0 || d->seen_ns > 0),
          "io: a drive that was seen to read took some time");
    return NULL;
}

static const char *check_pieces(const struct ioq *q)
{
    for (int d = 0; d < q->n_drives; d++)
        for (int i = 0, left = q->drive[d].n_inflight; i < q->depth && left > 0; i++) {
            const struct ioq_req *r = q->drive[d].ops[i].req;
            left -= r != NULL;
            HOLDS(!r || r->n_pieces == pieces_of(q, r),
                  "io: n_pieces counts the ops that read for a request");
        }
    return NULL;
}

static const char *check_parked(const struct ioq *q)
{
    int n = 0, n_parked = 0;
    for (int d = 0; d < q->n_drives; d++)
        for (int i = 0; i < q->depth; i++)
            n_parked += q->drive[d].ops[i].req && q->drive[d].ops[i].parked;
    for (const struct io_op *op = q->parked; op && n <= n_parked; op = op->next, n++)
        HOLDS(op->req && op->parked, "io: an op in the parked list waits for its time");
    HOLDS(n == n_parked, "io: an op that waits for its time is in the parked list once");
    return NULL;
}

static const char *check_files(const struct ioq *q)
{
    int most = 0;
    for (int i = 0; i < q->n_files; i++) {
        const struct io_file *f = &q->files[i];
        HOLDS(f->n_copies >= 1 && f->n_copies <= IOQ_MAX_COPIES,
              "io: a file has 1 to IOQ_MAX_COPIES copies");
        for (int k = 0; k < f->n_copies; k++)
            HOLDS(f->copy[k].drive >= 0 && f->copy[k].drive < q->n_drives && f->copy[k].path,
                  "io: a copy lies on a drive of the queue");
        most = MAX(most, f->n_copies);
    }
    HOLDS(!(q->out_of_use >> most), "io: only a copy that some file has can be out of use");
    return NULL;
}

static const char *check_counters(const struct ioq *q)
{
    const struct ioq_stats *s = &q->stats;
    int64_t bytes = 0;
    for (int c = 0; c < IOQ_N_CLASSES; c++)
        bytes += s->bytes_class[c];
    HOLDS(bytes == s->bytes, "io: the bytes of the classes are all bytes");
    HOLDS(s->n_reads + s->n_errors + s->n_cancelled == q->n_completed,
          "io: a request ends once: read, failed or cancelled");
    return NULL;
}

const char *ioq_check(const struct ioq *q)
{
    const char *broken = NULL;
    int n = 0, n_queued = 0;
    HOLDS(q->backend && q->depth >= 1 && q->n_drives >= 0 && q->n_drives <= IO_MAX_DRIVES,
          "io: a queue has a back end, a depth and at most IO_MAX_DRIVES drives");
    for (int c = 0; c < IOQ_N_CLASSES && !broken; c++) {
        broken = check_list(q, c);
        n_queued += q->queue[c].head != NULL;
    }
    for (int d = 0; d < q->n_drives && !broken; d++) {
        broken = check_drive(q, d);
        n += q->drive[d].n_inflight;
    }
    HOLDS(!broken, broken);
    HOLDS(n == q->n_inflight, "io: n_inflight counts the ops of all drives");
    HOLDS(n > 0 || n_queued == 0,
          "io: while something is queued something is in flight, so that waiting ends");
    if (!broken)
        broken = check_pieces(q);
    if (!broken)
        broken = check_parked(q);
    if (!broken)
        broken = check_files(q);
    return broken ? broken : check_counters(q);
}
