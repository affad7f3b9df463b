/*
 * Writes a model at the speed of the drive.
 */
#include "mkmodel.h"

#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_BYTES ((size_t)8 << 20)
#define SECTOR 4096 /* what direct writes must be multiples of */

/*
 * The file, written in order. Two buffers: one is filled while the other is on
 * its way to the drive, past the page cache where the filesystem allows it.
 */
struct out {
    int fd;
    const char *path; /* of the final file */
    uint8_t *buf[2];
    struct aiocb io[2];
    bool busy[2];
    bool failed;    /* and said so */
    int cur;        /* the one being filled */
    size_t filled;  /* bytes in it */
    int64_t at;     /* where it belongs in the file */
};

/* Waits until buffer i is written. */
static int wait_for(struct out *o, int i)
{
    const struct aiocb *io = &o->io[i], *list[] = {io};
    size_t done;
    int error;
    ssize_t k;

    if (!o->busy[i])
        return 0;
    o->busy[i] = false;
    while ((error = aio_error(io)) == EINPROGRESS)
        aio_suspend(list, 1, NULL);
    k = aio_return(&o->io[i]);
    done = k > 0 ? (size_t)k : 0;
    while (error == 0 && done < io->aio_nbytes) { /* a short write: the next tells why */
        k = pwrite(o->fd, o->buf[i] + done, io->aio_nbytes - done, io->aio_offset + (off_t)done);
        if (k < 0 && errno != EINTR)
            error = errno;
        done += k > 0 ? (size_t)k : 0;
    }
    if (error && o->failed)
        return -1;
    o->failed |= error != 0;
    if (error)
        return mk_fail("cannot write %s at byte %" PRId64 ": %s", o->path,
                       (int64_t)io->aio_offset + (int64_t)done, strerror(error));
    return 0;
}

/* Sends the current buffer off and takes the other one. */
static int send_off(struct out *o)
{
    struct aiocb *io = &o->io[o->cur];
    size_t n = align_up(o->filled, SECTOR);

    memset(o->buf[o->cur] + o->filled, 0, n - o->filled);
    *io = (struct aiocb){.aio_fildes = o->fd, .aio_buf = o->buf[o->cur], .aio_nbytes = n,
                         .aio_offset = o->at};
    if (aio_write(io) != 0)
        return mk_fail("cannot write %s: %s", o->path, strerror(errno));
    o->busy[o->cur] = true;
    o->at += (int64_t)o->filled;
    o->filled = 0;
    o->cur ^= 1;
    return wait_for(o, o->cur);
}

static int put(struct out *o, const void *data, size_t n)
{
    const uint8_t *p = data;

    while (n > 0) {
        size_t k = MIN(n, CHUNK_BYTES - o->filled);

        memcpy(o->buf[o->cur] + o->filled, p, k);
        o->filled += k;
        p += k;
        n -= k;
        if (o->filled == CHUNK_BYTES && send_off(o) < 0)
            return -1;
    }
    return 0;
}

/* Writes what is left, cuts the padding off and makes it last. */
static int finish(struct out *o, int64_t total)
{
    if (send_off(o) < 0 || wait_for(o, o->cur ^ 1) < 0)
        return -1;
    if (ftruncate(o->fd, total) != 0 || fsync(o->fd) != 0)
        return mk_fail("cannot write %s to the disk: %s", o->path, strerror(errno));
    return 0;
}

static int create(struct out *o, const char *part, int64_t total, bool hollow)
{
    const int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC;

    o->fd = open(part, flags | O_DIRECT, 0644);
    if (o->fd < 0 && errno == EINVAL)
        o->fd = open(part, flags, 0644);
    if (o->fd < 0)
        return mk_fail("cannot create %s: %s", part, strerror(errno));
    /* Not all filesystems can reserve; those that can tell at once if it fits. */
    if (!hollow && fallocate(o->fd, 0, 0, total) != 0 && errno == ENOSPC)
        return mk_fail("%s needs %" PRId64 " bytes, more than the disk has free", o->path, total);
    for (int i = 0; i < 2; i++)
        o->buf[i] = mk_need(aligned_alloc(SECTOR, CHUNK_BYTES));
    return 0;
}

static float small_value(const struct model *m, enum fill f, uint64_t *s)
{
    switch (f) {
    case F_DECAY: return -(float)exp(log(0.5) + synth_uniform(s) * log(16)); /* -8..-0.5 */
    case F_STEP: return (float)(-5 + 2 * synth_uniform(s));  /* softplus: 0.007..0.05 */
    case F_BIAS: return (float)(0.6 * synth_uniform(s) - 0.3);
    case F_FACTORS: return (float)(1 + 3 * synth_uniform(s));
    case F_SCALES: return (float)(0.5 + synth_uniform(s));
    default: return m->c.vary_norms ? (float)(0.5 + synth_uniform(s)) : 1;
    }
}

/* Rows of experts, of which none is there twice. */
static void fill_ids(const struct model *m, const struct tensor *t, int32_t *ids, uint64_t *s)
{
    for (uint64_t r = 0; r < t->ne[1]; r++, ids += t->ne[0])
        for (uint64_t i = 0; i < t->ne[0]; i++) {
            bool taken;
            do {
                ids[i] = (int32_t)(synth_next(s) % (uint64_t)m->c.experts);
                taken = false;
                for (uint64_t k = 0; k < i; k++)
                    taken |= ids[k] == ids[i];
            } while (taken);
        }
}

/* A tensor of floats that is not plain random. */
static int write_whole(struct out *o, const struct model *m, const struct tensor *t, uint64_t s)
{
    float *w = mk_need(malloc(t->bytes));
    int status;

    if (t->fill == F_ROUTER)
        mk_router(m, t, w, &s);
    else if (t->fill == F_IDS)
        fill_ids(m, t, (int32_t *)(void *)w, &s);
    else
        for (uint64_t i = 0; i < t->bytes / 4; i++)
            w[i] = t->fill == F_STILL ? (4 * i < t->bytes / 4 ? 1 : 1e30f)
                                      : small_value(m, t->fill, &s);
    status = put(o, w, t->bytes);
    free(w);
    return status;
}

static int write_rows(struct out *o, const struct model *m, const struct tensor *t, uint64_t s,
                      uint8_t *buf)
{
    size_t row_bytes = dtype_row_bytes(t->type, (int64_t)t->ne[0]);
    int64_t row_blocks = (int64_t)t->ne[0] / dtype_info((uint32_t)t->type)->block;
    size_t common = t->fill == F_EMBED ? dtype_row_bytes(t->type, m->n_common) : 0;
    uint64_t rows = t->ne[1] * t->ne[2], step = MAX(CHUNK_BYTES / row_bytes, 1);

    for (uint64_t r = 0; r < rows; r += step) {
        uint64_t n = MIN(step, rows - r);

        synth_fill(t->type, t->std, buf, row_blocks * (int64_t)n, &s);
        for (uint64_t i = 0; i < n && common; i++)
            memcpy(buf + i * row_bytes, m->common_bytes, common);
        /* Control tokens get the logit 0, far below the best: no early end. */
        for (uint64_t i = 0; i < n && t->fill == F_OUTPUT; i++)
            if (r + i + SYNTH_CONTROL >= rows)
                memset(buf + i * row_bytes, 0, row_bytes);
        if (put(o, buf, n * row_bytes) < 0)
            return -1;
    }
    return 0;
}

static int write_tensors(struct out *o, const struct model *m)
{
    static const uint8_t zeros[MK_ALIGN];
    size_t largest_row = 0;
    uint8_t *buf;
    int status = 0;

    for (size_t i = 0; i < m->n; i++)
        largest_row = MAX(largest_row, dtype_row_bytes(m->t[i].type, (int64_t)m->t[i].ne[0]));
    buf = mk_need(malloc(MAX(CHUNK_BYTES, largest_row)));
    for (size_t i = 0; i < m->n && status == 0; i++) {
        const struct tensor *t = &m->t[i];
        uint64_t s = synth_stream((uint64_t)m->c.seed, t->name);

        if (t->fill <= F_OUTPUT)
            status = write_rows(o, m, t, s, buf);
        else
            status = write_whole(o, m, t, s);
        if (status == 0)
            status = put(o, zeros, align_up(t->bytes, MK_ALIGN) - t->bytes);
    }
    free(buf);
    return status;
}

/* Writes to PATH.part and renames it, so that PATH is whole or not there. */
int mk_write(struct model *m, const char *path)
{
    struct out o = {.path = path, .fd = -1};
    struct gb head = {0};
    char *part = mk_need(malloc(strlen(path) + 6));
    int64_t total, begin = os_clock_ns();
    double seconds;
    int status = -1;

    sprintf(part, "%s.part", path);
    if (mk_header(&head, m) < 0)
        goto out;
    mk_common(m);
    total = (int64_t)head.n;
    for (size_t i = 0; i < m->n; i++)
        total += (int64_t)align_up(m->t[i].bytes, MK_ALIGN);
    if (create(&o, part, total, m->c.hollow) < 0 || put(&o, head.p, head.n) < 0 ||
        (!m->c.hollow && write_tensors(&o, m) < 0) || finish(&o, total) < 0)
        goto out;
    if (rename(part, path) != 0) {
        mk_fail("cannot rename %s to %s: %s", part, path, strerror(errno));
        goto out;
    }
    status = 0;
    seconds = (double)(os_clock_ns() - begin) * 1e-9;
    printf("%s: %zu tensors, %" PRId64 " bytes, %.1f s, %.2f GB/s\n", path, m->n, total, seconds,
           (double)total * 1e-9 / seconds);
out:
    for (int i = 0; i < 2; i++) {
        wait_for(&o, i);
        free(o.buf[i]);
    }
    if (o.fd >= 0) {
        close(o.fd);
        if (status < 0)
            unlink(part);
    }
    gb_free(&head);
    free(part);
    return status;
}
