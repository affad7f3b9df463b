/*
 * Memory: anonymous mappings, and what machine and process have and use.
 *
 * Numbers come from /proc because they must describe the machine as it is now
 * and this process without its parents (getrusage carries the peak of the
 * program before exec). Where /proc is hidden, system calls give the next best; of
 * what is resident now they know only the peak, which is no substitute.
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
#include <sys/sysinfo.h>
#include <unistd.h>

/* ---- mappings ---- */

static void *map_anonymous(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Maps too much and keeps the aligned part: there is no other way to place it.
 * `bytes` and `align` are whole pages. */
static char *map_aligned(size_t bytes, size_t align)
{
    if (align <= (size_t)sysconf(_SC_PAGESIZE))
        return map_anonymous(bytes);
    char *p = map_anonymous(bytes + align);
    if (!p)
        return NULL;
    size_t before = align_up((uintptr_t)p, align) - (uintptr_t)p;
    if (before > 0)
        munmap(p, before);
    if (before < align)
        munmap(p + before + bytes, align - before);
    return p + before;
}

/* A wish: kernels without huge pages say EINVAL. Some systems use them wherever
 * they fit; there memory that is touched here and there must say that it wants none. */
static void want_huge(void *p, size_t bytes, bool huge)
{
#if defined(MADV_HUGEPAGE) && defined(MADV_NOHUGEPAGE)
    if (huge || bytes >= os_huge_bytes())
        (void)madvise(p, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#else
    (void)p, (void)bytes, (void)huge;
#endif
}

void *os_map(size_t bytes, bool huge)
{
    if (bytes == 0 || bytes > SIZE_MAX / 2)
        return NULL;
    bytes = os_whole_pages(bytes);
    char *p = map_aligned(bytes, huge ? os_huge_bytes() : os_page_bytes());
    if (p)
        want_huge(p, bytes, huge);
    return p;
}

void os_huge_until(void *p, size_t all, size_t bytes)
{
    size_t huge = MIN(bytes, all) & ~(os_huge_bytes() - 1);
    if (huge > 0)
        want_huge(p, huge, true);
    if (huge < all)
        want_huge((char *)p + huge, all - huge, false);
}

void os_unmap(void *p, size_t bytes)
{
    if (p)
        munmap(p, os_whole_pages(bytes));
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
    size_t page = os_page_bytes();
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

/* Rather too much than too little: it is shown as what was taken. */
static int64_t usage_peak(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (int64_t)u.ru_maxrss * 1024 : 0;
}

/* What a resource limit of this process leaves beyond the line of its status. */
static int64_t limit_left(int resource, const char *line)
{
    struct rlimit l;
    if (getrlimit(resource, &l) != 0 || l.rlim_cur == RLIM_INFINITY || l.rlim_cur > INT64_MAX)
        return INT64_MAX;
    int64_t used = proc_kb("/proc/self/status", line);
    if (used < 0) /* addresses are at least what was ever resident */
        used = usage_peak();
    return MAX((int64_t)l.rlim_cur - used, (int64_t)0);
}

void os_memory(struct os_memory *m)
{
    struct sysinfo s = {0};
    (void)sysinfo(&s);
    m->total = proc_kb("/proc/meminfo", "MemTotal");
    if (m->total < 0)
        m->total = (int64_t)s.totalram * s.mem_unit;
    m->available = proc_kb("/proc/meminfo", "MemAvailable");
    if (m->available < 0) /* without the page cache, most of which could be had too */
        m->available = (int64_t)(s.freeram + s.bufferram) * s.mem_unit;

    struct os_cgroup c;
    os_cgroup("", &c);
    m->cgroup_limit = c.memory_limit;
    m->cgroup_used = c.memory_used;
    m->cgroup_least = c.memory_least;
    m->rlimit_left = MIN(limit_left(RLIMIT_AS, "VmSize"), limit_left(RLIMIT_DATA, "VmData"));
}

int64_t os_rss(void)
{
    return proc_kb("/proc/self/status", "VmRSS");
}

int64_t os_rss_peak(void)
{
    int64_t bytes = proc_kb("/proc/self/status", "VmHWM");
    return bytes >= 0 ? bytes : usage_peak();
}

int64_t os_rss_anonymous(void)
{
    int64_t bytes = proc_kb("/proc/self/status", "RssAnon");
    return bytes < 0 ? MAX(os_rss(), (int64_t)0) : bytes;
}

void os_trim_heap(void)
{
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}
