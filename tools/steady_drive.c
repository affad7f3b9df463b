/*
 * steady_drive: a drive of a known, constant speed, to measure on where real
 * drives are shared or change with the minute. The files of a folder appear,
 * read-only, under a mount point (FUSE); reads are served in turn, each taking
 * its bytes divided by the rate, as by a device with one queue. Time without
 * work is lost, as on a device; it is not saved up as by a throttle.
 *
 *   steady_drive FOLDER MOUNTPOINT MB/S     ends when unmounted
 *
 * The file ".bytes_read" there holds the number of bytes served. To be a drive
 * and nothing else, it wants a processor of its own and a FOLDER that is faster
 * than the rate: one in memory (tmpfs).
 */
#define FUSE_USE_VERSION 35
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { ROOT = FUSE_ROOT_ID, COUNTER, FIRST_FILE, MAX_FILES = 1000 };
static const char counter_name[] = ".bytes_read";

struct drive {
    int folder;
    double ns_per_byte;
    int64_t free_at_ns;    /* when the last read ends */
    int64_t replied_at_ns; /* when its answer was handed over */
    int64_t bytes_read;
    char *names[MAX_FILES]; /* inode FIRST_FILE + i */
    int n_names;
};

struct view { /* an open file */
    char *at;
    size_t size;
};

static void wait_until(int64_t due_ns)
{
    const int64_t spin_ns = 60000; /* a sleep ends late by about this */
    const int64_t second_ns = 1000000000;
    int64_t left = due_ns - os_clock_ns() - spin_ns;
    if (left > 0)
        nanosleep(&(struct timespec){.tv_sec = left / second_ns, .tv_nsec = left % second_ns},
                  NULL);
    while (os_clock_ns() < due_ns)
        ;
}

/* Waits for as long as the device would take for the bytes. */
static void serve(struct drive *d, size_t bytes)
{
    const int64_t gap_ns = 50000; /* a request that had to wait is here within this */
    int64_t now = os_clock_ns();
    int64_t begin = now - d->replied_at_ns < gap_ns ? d->free_at_ns : now;
    d->free_at_ns = begin + (int64_t)(d->ns_per_byte * (double)bytes);
    d->bytes_read += (int64_t)bytes;
    wait_until(d->free_at_ns);
}

static struct drive *drive_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

/* NULL: the counter. */
static struct view *view_of(const struct fuse_file_info *fi)
{
    return (struct view *)(uintptr_t)fi->fh;
}

static int describe(const struct drive *d, fuse_ino_t ino, struct stat *st)
{
    memset(st, 0, sizeof(*st));
    if (ino == ROOT) {
        st->st_mode = S_IFDIR | 0555;
        st->st_nlink = 2;
    } else if (ino == COUNTER) {
        st->st_mode = S_IFREG | 0444;
        st->st_nlink = 1;
    } else if (fstatat(d->folder, d->names[ino - FIRST_FILE], st, 0)) {
        return errno;
    }
    st->st_ino = ino;
    st->st_mode &= ~(mode_t)0222;
    return 0;
}

static fuse_ino_t inode_of(struct drive *d, const char *name)
{
    struct stat st;
    if (!strcmp(name, counter_name))
        return COUNTER;
    if (fstatat(d->folder, name, &st, 0) || !S_ISREG(st.st_mode))
        return 0;
    for (int i = 0; i < d->n_names; i++)
        if (!strcmp(d->names[i], name))
            return FIRST_FILE + (fuse_ino_t)i;
    if (d->n_names == MAX_FILES || !(d->names[d->n_names] = strdup(name)))
        return 0;
    return FIRST_FILE + (fuse_ino_t)d->n_names++;
}

static void do_init(void *user, struct fuse_conn_info *conn)
{
    (void)user;
    conn->max_background = 512; /* the queue's depth is the reader's business */
    conn->congestion_threshold = 512;
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param e = {.attr_timeout = 1.0, .entry_timeout = 1.0};
    int bad = ENOENT;
    if (parent == ROOT && (e.ino = inode_of(drive_of(req), name)) != 0)
        bad = describe(drive_of(req), e.ino, &e.attr);
    if (bad)
        fuse_reply_err(req, bad);
    else
        fuse_reply_entry(req, &e);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat st;
    (void)fi;
    int bad = describe(drive_of(req), ino, &st);
    if (bad)
        fuse_reply_err(req, bad);
    else
        fuse_reply_attr(req, &st, 1.0);
}

static struct view *view_open(const struct drive *d, fuse_ino_t ino, int *bad)
{
    struct view *v = calloc(1, sizeof(*v));
    struct stat st;
    int fd = openat(d->folder, d->names[ino - FIRST_FILE], O_RDONLY | O_CLOEXEC);
    *bad = v ? 0 : ENOMEM;
    if (!*bad && (fd < 0 || fstat(fd, &st)))
        *bad = errno;
    if (!*bad && st.st_size > 0) {
        v->size = (size_t)st.st_size;
        v->at = mmap(NULL, v->size, PROT_READ, MAP_SHARED, fd, 0);
        *bad = v->at == MAP_FAILED ? errno : 0;
    }
    if (fd >= 0)
        close(fd);
    if (*bad) {
        free(v);
        return NULL;
    }
    return v;
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    int bad = 0;
    if ((fi->flags & O_ACCMODE) != O_RDONLY)
        bad = EROFS;
    else if (ino == COUNTER)
        fi->direct_io = 1;
    else
        fi->fh = (uint64_t)(uintptr_t)view_open(drive_of(req), ino, &bad);
    if (bad)
        fuse_reply_err(req, bad);
    else
        fuse_reply_open(req, fi);
}

static void do_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct view *v = view_of(fi);
    (void)ino;
    if (v && v->size)
        munmap(v->at, v->size);
    free(v);
    fuse_reply_err(req, 0);
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t bytes, off_t offset,
                    struct fuse_file_info *fi)
{
    struct drive *d = drive_of(req);
    const struct view *v = view_of(fi);
    char text[32];
    struct view counter = {.at = text};
    (void)ino;
    if (!v) {
        counter.size = (size_t)snprintf(text, sizeof(text), "%lld\n", (long long)d->bytes_read);
        v = &counter;
    }
    size_t at = MIN((size_t)offset, v->size);
    bytes = MIN(bytes, v->size - at);
    if (v != &counter)
        serve(d, bytes);
    fuse_reply_buf(req, bytes ? v->at + at : NULL, bytes);
    d->replied_at_ns = os_clock_ns();
}

static const struct fuse_lowlevel_ops operations = {
    .init = do_init, .lookup = do_lookup, .getattr = do_getattr,
    .open = do_open, .release = do_release, .read = do_read,
};

static int run(struct drive *d, char *self, const char *mount_point)
{
    char options[] = "-oro,allow_other,default_permissions,fsname=steady_drive";
    char *words[] = {self, options, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(2, words);
    int bad = 1;
    struct fuse_session *s = fuse_session_new(&args, &operations, sizeof(operations), d);
    if (s && !fuse_set_signal_handlers(s)) {
        if (!fuse_session_mount(s, mount_point)) {
            bad = fuse_session_loop(s) < 0;
            fuse_session_unmount(s);
        }
        fuse_remove_signal_handlers(s);
    }
    if (s)
        fuse_session_destroy(s);
    fuse_opt_free_args(&args);
    return bad;
}

int main(int argc, char **argv)
{
    static struct drive d;
    double rate = argc == 4 ? atof(argv[3]) : 0.0;
    if (!(rate > 0.0)) {
        fprintf(stderr, "usage: steady_drive FOLDER MOUNTPOINT MB/S\n");
        return 2;
    }
    d.ns_per_byte = 1e3 / rate;
    d.folder = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d.folder < 0) {
        fprintf(stderr, "steady_drive: %s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    int bad = run(&d, argv[0], argv[2]);
    for (int i = 0; i < d.n_names; i++)
        free(d.names[i]);
    close(d.folder);
    return bad;
}
