/*
 * A file that appears whole or not at all.
 *
 * Invariants
 *  1. The temporary name is only unlinked while a lock on that very file is
 *     held, so two processes never write one file, and none removes what
 *     another is writing.
 *  2. The final name changes in one rename, after fsync of the data; then the
 *     folder is synced. A crash leaves the old file or the new one.
 *  3. Devices, pipes and descriptors of the process (/dev/stdout) have no whole:
 *     os_out_stream writes to them as they are.
 */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Written pages are sent off early and dropped: neither the dirty limit nor the
 * page cache should notice a file larger than memory. */
#define CLEAN_BYTES ((int64_t)32 << 20)

/* ---- names ---------------------------------------------------------------- */

/* The folder of a path: malloc'ed; NULL: no memory. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return strdup(".");
    return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

static bool is_file(int fd, const char *path)
{
    struct stat a, b;
    return fstat(fd, &a) == 0 && lstat(path, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

enum os_same os_same_file(const char *path, const char *other)
{
    struct stat a, b;
    if (stat(path, &a) != 0)
        return OS_ABSENT;
    return stat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino ? OS_SAME
                                                                                : OS_OTHER;
}

uint64_t os_file_stamp(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return 0;
    const uint64_t parts[] = {(uint64_t)st.st_ino, (uint64_t)st.st_size,
                              (uint64_t)st.st_mtim.tv_sec, (uint64_t)st.st_mtim.tv_nsec};
    uint64_t h = 1;
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        h = (h ^ parts[i]) * 0x9E3779B97F4A7C15u;
    return h | 1;
}

/* ---- the temporary file ----------------------------------------------------- */

/* False: another process holds it. Some file systems know no locks: there the
 * temporary name alone must do. */
static bool lock(int fd)
{
    return flock(fd, LOCK_EX | LOCK_NB) == 0 || errno == ENOSYS || errno == EOPNOTSUPP ||
           errno == ENOLCK || errno == EINVAL;
}

static int busy(const struct os_out *o, struct err *e)
{
    return err_set(e, E_STATE,
                   "another process is writing '%s' at the moment (it holds '%s'); wait for it",
                   o->path, o->temp);
}

/* Of what is no ordinary file. */
static const char *kind_of(const struct stat *st)
{
    return S_ISDIR(st->st_mode)   ? "a directory"
           : S_ISLNK(st->st_mode) ? "a link"
                                  : "a pipe or device";
}

/* Removes what an interrupted run left. OK, also when nothing was there, nothing can be
 * (a name that is too long: creating it tells), or somebody else was quicker. */
static int remove_leftover(const struct os_out *o, struct err *e)
{
    struct stat st;
    if (lstat(o->temp, &st) != 0)
        return OK;
    if (!S_ISREG(st.st_mode))
        return err_set(
            e, E_IO,
            "'%s', where '%s' is written first, is %s, not a file that an interrupted run left; "
            "remove or rename it",
            o->temp, o->path, kind_of(&st));
    int rc = OK, fd = open(o->temp, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT ? OK
                               : err_errno(e, E_IO, errno,
                                           "cannot open '%s', left by an interrupted run", o->temp);
    if (!lock(fd))
        rc = errno == EWOULDBLOCK ? busy(o, e)
                                  : err_errno(e, E_IO, errno, "cannot lock '%s'", o->temp);
    else if (is_file(fd, o->temp) && unlink(o->temp) != 0)
        rc = err_errno(e, E_IO, errno, "cannot remove '%s', left by an interrupted run", o->temp);
    close(fd);
    return rc;
}

static int create(struct os_out *o, struct err *e)
{
    for (int tries = 0; tries < 8; tries++) {
        TRY(remove_leftover(o, e));
        o->fd = open(o->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (o->fd < 0 && errno != EEXIST)
            return err_errno(e, E_IO, errno, "cannot create '%s'", o->temp);
        if (o->fd < 0)
            continue;
        if (lock(o->fd) && is_file(o->fd, o->temp))
            return OK;
        close(o->fd); /* another process took it for a leftover before it was locked */
        o->fd = -1;
    }
    return busy(o, e);
}

/* Permissions and owner of the file that is replaced. */
static int take_after(struct os_out *o, struct err *e)
{
    struct stat st;
    if (stat(o->path, &st) != 0 || !S_ISREG(st.st_mode))
        return OK;
    if (fchown(o->fd, st.st_uid, st.st_gid) != 0 && errno != EPERM)
        return err_errno(e, E_IO, errno, "cannot give '%s' the owner of '%s'", o->temp, o->path);
    if (fchmod(o->fd, st.st_mode & 0777) != 0)
        return err_errno(e, E_IO, errno, "cannot give '%s' the permissions of '%s'", o->temp,
                         o->path);
    return OK;
}

static int name(struct os_out *o, const char *path, struct err *e)
{
    *o = (struct os_out){.fd = -1};
    o->path = os_resolve(path);
    if (o->path && asprintf(&o->temp, "%s" OS_OUT_SUFFIX, o->path) >= 0)
        return OK;
    o->temp = NULL;
    return err_set(e, E_NOMEM, "no memory for the name of '%s'", path);
}

int os_out_check(const char *path, struct err *e)
{
    struct stat st;
    if (stat(path, &st) == 0 &&
        !S_ISREG(st.st_mode)) /* /dev/stdout resolves to no path where it is a pipe */
        return err_set(e, E_ARG, "'%s' is %s, not a file that could be replaced", path,
                       kind_of(&st));
    return OK;
}

int os_out_open(struct os_out *o, const char *path, struct err *e)
{
    TRY(name(o, path, e));
    TRY(os_out_check(path, e));
    TRY(create(o, e));
    return take_after(o, e); /* from the start: nobody shall read what they may not */
}

/* What has no whole: `fd` of this process is duplicated, so that both go on from
 * one place; -1: `path` is opened. */
static int open_direct(struct os_out *o, const char *path, int fd, struct err *e)
{
    int flags = fd < 0 ? 0 : fcntl(fd, F_GETFL);
    o->direct = true;
    if (flags >= 0 && (flags & O_ACCMODE) == O_RDONLY && fd >= 0)
        return err_set(e, E_ARG, "'%s' cannot be written: it is open for reading", path);
    o->fd = fd < 0 ? open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY) : fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (o->fd < 0 && errno == EINTR) /* a pipe waits for its reader */
        return err_set(e, E_CANCELLED, "waiting for a reader of '%s' was interrupted", path);
    return o->fd < 0 ? err_errno(e, E_IO, errno, "'%s' cannot be written", path) : OK;
}

int os_out_stream(struct os_out *o, const char *path, struct err *e)
{
    struct stat st;
    int fd = os_path_fd(path);
    TRY(name(o, path, e));
    bool there = stat(path, &st) == 0;
    if (fd >= 0 || (there && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
        return open_direct(o, path, fd, e);
    if (there && S_ISDIR(st.st_mode))
        return err_set(e, E_ARG, "'%s' cannot be written: it is a directory", path);
    if (there && faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) != 0)
        return err_errno(e, E_IO, errno, "'%s' cannot be written", path);
    struct err why = {0};
    int rc = create(o, &why);
    if (rc < 0)
        return err_set(e, rc, "'%s' cannot be written: %s", path, why.text);
    return take_after(o, e);
}

void os_out_close(struct os_out *o)
{
    if (o->fd >= 0) {
        if (!o->direct && o->temp && is_file(o->fd, o->temp))
            unlink(o->temp);
        close(o->fd);
    }
    free(o->path);
    free(o->temp);
    free(o->text);
    *o = (struct os_out){.fd = -1};
}

/* ---- writing ---------------------------------------------------------------- */

int os_out_reserve(struct os_out *o, int64_t bytes, struct err *e)
{
    struct statvfs v;
    if (fstatvfs(o->fd, &v) == 0) {
        int64_t room = v.f_bavail > (uint64_t)INT64_MAX / v.f_frsize
                           ? INT64_MAX
                           : (int64_t)(v.f_bavail * v.f_frsize);
        if (room < bytes)
            return err_set(
                e, E_IO,
                "writing '%s' needs %" PRId64 " bytes (%.1f GiB), but its file system has %" PRId64
                " bytes (%.1f GiB) free: nothing was changed; make room or choose another drive",
                o->path, bytes, (double)bytes / 0x1p30, room, (double)room / 0x1p30);
    }
    /* Not every file system can reserve; one that can tells now if it will not fit. */
    if (fallocate(o->fd, 0, 0, bytes) == 0 ||
        (errno != ENOSPC && errno != EFBIG && errno != EDQUOT))
        return OK;
    return err_errno(e, E_IO, errno,
                     "cannot reserve %" PRId64 " bytes for '%s', nothing was changed", bytes,
                     o->path);
}

/* Waits for what was sent off the time before, and sends off what came since. */
static void clean(struct os_out *o)
{
    int64_t begin = o->clean, middle = MAX(o->n - CLEAN_BYTES, begin);
#ifdef SYNC_FILE_RANGE_WRITE
    (void)sync_file_range(o->fd, middle, o->n - middle, SYNC_FILE_RANGE_WRITE);
    if (middle > begin)
        (void)sync_file_range(o->fd, begin, middle - begin,
                              SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                  SYNC_FILE_RANGE_WAIT_AFTER);
#endif
    (void)posix_fadvise(o->fd, begin, middle - begin, POSIX_FADV_DONTNEED);
    o->clean = middle;
}

int os_out_put(struct os_out *o, const void *p, size_t n, struct err *e)
{
    const char *at = p;
    int64_t before = o->n;
    while (n > 0) {
        ssize_t k = write(o->fd, at, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return err_set(e, E_IO, "writing '%s' failed: %s (at byte %" PRId64 "%s)", o->path,
                           strerror(k < 0 ? errno : EIO), o->n,
                           o->direct ? "" : "; the partial file is removed");
        at += k;
        n -= (size_t)k;
        o->n += k;
    }
    if (!o->direct && before / CLEAN_BYTES != o->n / CLEAN_BYTES)
        clean(o);
    return OK;
}

enum { TEXT_BYTES = 16 << 10 };

static int flush(struct os_out *o, struct err *e)
{
    size_t n = o->n_text;
    o->n_text = 0;
    return n ? os_out_put(o, o->text, n, e) : OK;
}

int os_out_printf(struct os_out *o, struct err *e, const char *fmt, ...)
{
    if (!o->text && !(o->text = malloc(TEXT_BYTES)))
        return err_set(e, E_NOMEM, "no memory to write '%s'", o->path);
    for (int tries = 0; tries < 2; tries++) {
        va_list ap;
        va_start(ap, fmt);
        int n = vsnprintf(o->text + o->n_text, TEXT_BYTES - o->n_text, fmt, ap);
        va_end(ap);
        if (n >= 0 && (size_t)n < TEXT_BYTES - o->n_text) {
            o->n_text += (size_t)n;
            return OK;
        }
        TRY(flush(o, e));
    }
    return err_set(e, E_STATE,
                   "a text of more than %d bytes for '%s'; this is a mistake of the program",
                   TEXT_BYTES, o->path);
}

int os_out_sync(struct os_out *o, struct err *e)
{
    TRY(flush(o, e));
    if (o->direct)
        return OK;
    if (ftruncate(o->fd, o->n) != 0 || fsync(o->fd) != 0)
        return err_errno(e, E_IO, errno,
                         "cannot bring '%s' to the drive, the partial file is removed", o->path);
    (void)posix_fadvise(o->fd, 0, 0, POSIX_FADV_DONTNEED);
    return OK;
}

/* ---- the final name ----------------------------------------------------------- */

/* rename that replaces nothing. */
static int rename_new(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return 0;
    /* EPERM: a sandbox without this call */
    if (errno != EINVAL && errno != ENOSYS && errno != EPERM)
        return -1;
    if (access(to, F_OK) == 0) { /* this file system cannot do it at once */
        errno = EEXIST;
        return -1;
    }
    return rename(from, to);
}

static int sync_folder(const char *path, struct err *e)
{
    char *folder = folder_of(path);
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int rc = OK;
    /* some file systems know no sync of folders */
    if (fd >= 0 && fsync(fd) != 0 && errno != EINVAL && errno != EROFS)
        rc = err_errno(e, E_IO, errno,
                       "'%s' is written, but its folder could not be brought to the drive: after a "
                       "power failure its name may be missing",
                       path);
    if (fd >= 0)
        close(fd);
    free(folder);
    return rc;
}

static int close_direct(struct os_out *o, struct err *e)
{
    int fd = o->fd;
    o->fd = -1;
    if (close(fd) != 0 && errno != EINTR)
        return err_errno(e, E_IO, errno, "writing '%s' failed", o->path);
    return OK;
}

int os_out_commit(struct os_out *o, bool replace, struct err *e)
{
    if (o->direct)
        return close_direct(o, e);
    if ((replace ? rename(o->temp, o->path) : rename_new(o->temp, o->path)) != 0) {
        if (errno == EEXIST)
            return err_set(e, E_ARG, "'%s' exists already; --force replaces it", o->path);
        return err_errno(e, E_IO, errno, "cannot rename '%s' to '%s'", o->temp, o->path);
    }
    int rc = sync_folder(o->path, e);
    close(o->fd);
    o->fd = -1;
    return rc;
}
