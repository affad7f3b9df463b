/*
 * Mirrors: folders with a copy of every file of the model, on other drives.
 *
 * A copy is compared with the model before it is used: its size, the whole
 * header (names, shapes, places, metadata) and samples of the weights, spread
 * over the file, first and last bytes included. That tells another model,
 * another quantisation, another training and an unfinished copy; a single
 * flipped bit between samples it does not.
 */
#include "weights/weights_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N_SAMPLES = 64, SAMPLE_BYTES = 4096, STEP = 128 << 10 };

struct pair { /* a file of the model and its copy */
    const char *path, *copy;
    int fd, copy_fd;
    int64_t bytes;
    uint8_t *buf; /* 2 * STEP */
};

/* Compares [at, at + n), n <= STEP. */
static int compare(const struct pair *p, int64_t at, size_t n, const char *where, struct err *e)
{
    TRY(os_read_exact(p->fd, p->buf, n, at, p->path, e));
    TRY(os_read_exact(p->copy_fd, p->buf + STEP, n, at, p->copy, e));
    for (size_t i = 0; i < n; i++)
        if (p->buf[i] != p->buf[STEP + i])
            return err_set(
                e, E_ARG,
                "mirror: %s differs from %s in the %s: byte %lld is 0x%02x, expected 0x%02x; "
                "copy the file again",
                p->copy, p->path, where, (long long)at + (long long)i, p->buf[STEP + i], p->buf[i]);
    return OK;
}

static int compare_header(const struct pair *p, int64_t header_bytes, struct err *e)
{
    for (int64_t at = 0; at < header_bytes; at += STEP)
        TRY(compare(p, at, (size_t)MIN((int64_t)STEP, header_bytes - at), "header", e));
    return OK;
}

/* The places are spread evenly, so each tensor of 1/64 of the file or more is met. */
static int compare_samples(const struct pair *p, int64_t begin, struct err *e)
{
    int64_t last = p->bytes - SAMPLE_BYTES;
    (void)posix_fadvise(p->fd, begin, 0, POSIX_FADV_RANDOM); /* no read-ahead */
    (void)posix_fadvise(p->copy_fd, begin, 0, POSIX_FADV_RANDOM);
    if (last <= begin)
        return compare(p, begin, (size_t)(p->bytes - begin), "weights", e);
    for (int64_t i = 0; i < N_SAMPLES; i++) /* 64-bit: no file reaches 2^57 bytes */
        TRY(compare(p, begin + (last - begin) * i / (N_SAMPLES - 1), SAMPLE_BYTES, "weights", e));
    return OK;
}

static int check_open(const struct weights *w, int file, struct pair *p, struct err *e)
{
    int64_t got = os_file_size(p->copy_fd), header = weights_header_bytes(w, file);
    if (os_same_file(p->copy, p->path) == OS_SAME)
        return err_set(e, E_ARG, "mirror: %s is the model's own file %s, not a copy of it", p->copy,
                       p->path);
    if (got != p->bytes)
        return err_set(e, E_ARG,
                       "mirror: %s has %lld bytes, expected the %lld of %s; copy the file again",
                       p->copy, (long long)got, (long long)p->bytes, p->path);
    TRY(compare_header(p, header, e));
    return compare_samples(p, header, e);
}

static int check_copy(const struct weights *w, int file, const char *copy, struct err *e)
{
    struct pair p = {.path = weights_path(w, file), .copy = copy, .copy_fd = -1,
                     .bytes = weights_file_bytes(w, file)};
    int rc = p.fd = os_open_read(p.path, NULL, e);
    if (rc >= 0 && access(copy, F_OK) != 0)
        rc = err_errno(
            e, E_ARG, errno,
            "mirror: %s, a copy of %s, cannot be found (a mirror has every file of the model "
            "under its name)",
            copy, p.path);
    if (rc >= 0)
        rc = p.copy_fd = os_open_read(copy, NULL, e);
    p.buf = rc < 0 ? NULL : malloc(2 * STEP);
    if (rc >= 0 && !p.buf)
        rc = err_set(e, E_NOMEM, "mirror: no memory to compare %s", copy);
    if (rc >= 0)
        rc = check_open(w, file, &p, e);
    free(p.buf);
    if (p.fd >= 0)
        close(p.fd);
    if (p.copy_fd >= 0)
        close(p.copy_fd);
    return rc < 0 ? rc : OK;
}

char *weights_mirror_path(const char *folder, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t n = strlen(folder);
    while (n > 1 && folder[n - 1] == '/')
        n--;
    char *copy = malloc(n + strlen(name) + 2);
    if (!copy)
        return NULL;
    memcpy(copy, folder, n);
    copy[n] = '/';
    strcpy(copy + n + 1, name);
    return copy;
}

static int add_copy(struct weights *w, const char *folder, struct ioq *q, int file, int ioq_file,
                    struct err *e)
{
    char *copy = weights_mirror_path(folder, weights_path(w, file));
    if (!copy)
        return err_set(e, E_NOMEM, "mirror: no memory for a path in %s", folder);
    uint64_t stamp = os_file_stamp(copy);
    int rc = check_copy(w, file, copy, e);
    if (rc >= 0 && q)
        rc = ioq_add_mirror(q, ioq_file, copy, e);
    if (rc >= 0 && q)
        rc = weights_watch(w, copy, stamp, e);
    free(copy);
    return rc < 0 ? rc : OK;
}

int weights_add_mirrors(struct weights *w, const char *const *folders, int n_folders, struct ioq *q,
                      const int *files, int n_files, struct err *e)
{
    for (int k = 0; k < n_folders; k++)
        for (int i = 0; i < n_files; i++)
            TRY(add_copy(w, folders[k], q, i, q ? files[i] : -1, e));
    return OK;
}
