/*
 * Opening and reading files outside the read queue.
 */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DIRECT_ALIGN 4096
#define READ_MAX ((size_t)1 << 30) /* Linux moves less than 2 GiB in one call */

/*
 * Some filesystems refuse O_DIRECT at open, others accept it and then refuse
 * every read, or want a coarser alignment: only a read tells.
 */
static bool direct_reads_work(int fd)
{
    void *page = aligned_alloc(DIRECT_ALIGN, DIRECT_ALIGN);
    if (!page)
        return false;
    bool ok = pread(fd, page, DIRECT_ALIGN, 0) >= 0;
    free(page);
    return ok;
}

static int open_direct(const char *path)
{
#ifdef O_DIRECT
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (fd >= 0 && !direct_reads_work(fd)) {
        close(fd);
        fd = -1;
    }
    return fd;
#else
    (void)path;
    return -1;
#endif
}

int os_open_read(const char *path, bool *direct, struct err *e)
{
    /* Before open, because opening a FIFO would wait for a writer. */
    struct stat st;
    if (stat(path, &st) != 0)
        return err_errno(e, E_IO, errno, "cannot open '%s'", path);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return err_set(e, E_IO, "cannot read '%s': it is %s, not a file", path,
                       S_ISDIR(st.st_mode) ? "a directory" : "a pipe or device");

    if (direct) {
        int fd = open_direct(path);
        *direct = fd >= 0;
        if (fd >= 0)
            return fd;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, E_IO, errno, "cannot open '%s'", path);
    return fd;
}

int64_t os_file_size(int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return -1;
    if (S_ISREG(st.st_mode))
        return st.st_size;
    return S_ISBLK(st.st_mode) ? lseek(fd, 0, SEEK_END) : -1;
}

/* The number "major:minor" in a file of /sys; -1: none. */
static int64_t read_device(const char *path)
{
    char text[32];
    unsigned major_no, minor_no;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[MAX(n, 0)] = '\0';
    if (sscanf(text, "%u:%u", &major_no, &minor_no) != 2)
        return -1;
    return (int64_t)(makedev(major_no, minor_no) & INT64_MAX);
}

int64_t os_drive(int fd)
{
    struct stat st;
    char path[96];
    if (fstat(fd, &st) != 0)
        return 0;
    dev_t dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
    /* A partition's folder lies in that of its disk. */
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/partition", major(dev), minor(dev));
    if (access(path, F_OK) == 0) {
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/../dev", major(dev), minor(dev));
        int64_t disk = read_device(path);
        if (disk >= 0)
            return disk;
    }
    return (int64_t)(dev & INT64_MAX);
}

int os_read_exact(int fd, void *buf, size_t n, int64_t offset, const char *path, struct err *e)
{
    size_t done = 0;
    while (done < n) {
        ssize_t got =
            pread(fd, (char *)buf + done, MIN(n - done, READ_MAX), (off_t)(offset + (int64_t)done));
        if (got < 0 && errno == EINTR)
            continue;
        /* A direct read that ended at the end of the file cannot go on from
         * there: the offset is unaligned now. That is an end, not an error. */
        bool at_end = got == 0 ||
                      (done > 0 && errno == EINVAL && offset + (int64_t)done >= os_file_size(fd));
        if (got <= 0 && at_end)
            return err_set(e, E_FORMAT,
                           "'%s' ends at byte %" PRId64 ", but %zu bytes at offset %" PRId64
                           " are needed: the file is cut short; copy or download it again",
                           path, offset + (int64_t)done, n, offset);
        if (got < 0)
            return err_errno(e, E_IO, errno, "cannot read %zu bytes at offset %" PRId64 " of '%s'",
                             n, offset, path);
        done += (size_t)got;
    }
    return OK;
}
