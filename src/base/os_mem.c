/*
 * Memory: anonymous mappings, and what machine and process have and use.
 *
 * Numbers come from /proc because they must describe the machine as it is now
 * and this process without its parents (getrusage carries the peak of the
 * program before exec).
 */
#include "base/base.h"

#include <errno.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define HUGE_BYTES ((size_t)2 << 20)

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* ---- mappings ---- */

static void *map_anonymous(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void *os_map(size_t bytes, bool huge)
{
    if (bytes == 0 || bytes > SIZE_MAX / 2)
        return NULL;
    bytes = align_up(bytes, page_bytes());
    if (!huge)
        return map_anonymous(bytes);

    /* Map too much, keep the aligned part: no other way to place it. */
    char *p = map_anonymous(bytes + HUGE_BYTES);
    if (!p)
        return NULL;
    size_t before = align_up((uintptr_t)p, HUGE_BYTES) - (uintptr_t)p;
    if (before > 0)
        munmap(p, before);
    if (before < HUGE_BYTES)
        munmap(p + before + bytes, HUGE_BYTES - before);
    p += before;
#ifdef MADV_HUGEPAGE
    madvise(p, bytes, MADV_HUGEPAGE); /* a wish: kernels without it say EINVAL */
#endif
    return p;
}

void os_unmap(void *p, size_t bytes)
{
    if (p)
        munmap(p, align_up(bytes, page_bytes()));
}

/* p and bytes are whole pages. */
static void discard_pages(void *p, size_t bytes)
{
    if (madvise(p, bytes, MADV_DONTNEED) == 0)
        return;
    /* EINVAL: the pages are locked. Kernels from 5.18 on can drop them and
     * keep the lock; on older ones the lock is lost. */
#ifdef MADV_DONTNEED_LOCKED
    if (madvise(p, bytes, MADV_DONTNEED_LOCKED) == 0)
        return;
#endif
    munlock(p, bytes);
    if (madvise(p, bytes, MADV_DONTNEED) != 0)
        memset(p, 0, bytes);
}

void os_discard(void *p, size_t bytes)
{
    size_t page = page_bytes();
    char *begin = p, *end = begin + bytes;
    char *first = begin + (align_up((uintptr_t)begin, page) - (uintptr_t)begin);
    char *last = end - ((uintptr_t)end & (page - 1));
    if (first >= last) { /* no whole page */
        memset(begin, 0, bytes);
        return;
    }
    memset(begin, 0, (size_t)(first - begin));
    memset(last, 0, (size_t)(end - last));
    discard_pages(first, (size_t)(last - first));
}

bool os_lock(void *p, size_t bytes)
{
    return mlock(p, bytes) == 0;
}

/* ---- figures ---- */

/* Value in bytes of the line "key:  N kB" in a /proc file; -1: not there. */
static int64_t proc_kb(const char *path, const char *key)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return -1;
    char line[256];
    size_t n = strlen(key);
    int64_t bytes = -1;
    while (bytes < 0 && fgets(line, sizeof(line), f)) {
        if (strncmp(line, key, n) == 0 && line[n] == ':')
            bytes = strtoll(line + n + 1, NULL, 10) * 1024;
    }
    fclose(f);
    return bytes;
}

/* What a resource limit of this process leaves beyond the line of its status. */
static int64_t limit_left(int resource, const char *line)
{
    struct rlimit l;
    if (getrlimit(resource, &l) != 0 || l.rlim_cur == RLIM_INFINITY || l.rlim_cur > INT64_MAX)
        return INT64_MAX;
    int64_t used = proc_kb("/proc/self/status", line);
    return MAX((int64_t)l.rlim_cur - MAX(used, (int64_t)0), (int64_t)0);
}

void os_memory(struct os_memory *m)
{
    m->total = proc_kb("/proc/meminfo", "MemTotal");
    if (m->total < 0)
        m->total = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)page_bytes();
    m->available = proc_kb("/proc/meminfo", "MemAvailable");
    if (m->available < 0) /* a container may hide /proc/meminfo */
        m->available = (int64_t)sysconf(_SC_AVPHYS_PAGES) * (int64_t)page_bytes();

    struct os_cgroup c;
    os_cgroup("", &c);
    m->cgroup_limit = c.memory_limit;
    m->cgroup_used = c.memory_used;
    m->cgroup_least = c.memory_least;
    m->rlimit_left = MIN(limit_left(RLIMIT_AS, "VmSize"), limit_left(RLIMIT_DATA, "VmData"));
}

int64_t os_rss(void)
{
    int64_t bytes = proc_kb("/proc/self/status", "VmRSS");
    return MAX(bytes, 0);
}

int64_t os_rss_peak(void)
{
    int64_t bytes = proc_kb("/proc/self/status", "VmHWM");
    return MAX(bytes, 0);
}

int64_t os_rss_anonymous(void)
{
    int64_t bytes = proc_kb("/proc/self/status", "RssAnon");
    return bytes < 0 ? os_rss() : bytes;
}

void os_trim_heap(void)
{
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}
