/*
 * Sizes of pages. Asked for once: they cannot change while the system runs.
 */
#include "base/base.h"

#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#define HUGE_WORTH 32 /* huge pages that a mapping must have to be worth its rounding */

static _Atomic size_t page, huge;

/* One entry of a page table's next level: as many pages as 8-byte entries fit
 * one page. */
static size_t derived_huge(size_t page_bytes)
{
    return page_bytes / 8 * page_bytes;
}

/* The system's own word; the derived size where it says nothing sensible. */
static size_t system_huge(size_t page_bytes)
{
    unsigned long bytes = 0;
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "re");
    if (f) {
        if (fscanf(f, "%lu", &bytes) != 1)
            bytes = 0;
        fclose(f);
    }
    bool sensible = bytes >= page_bytes && bytes <= (1UL << 30) && (bytes & (bytes - 1)) == 0;
    return sensible ? bytes : derived_huge(page_bytes);
}

size_t os_page_bytes(void)
{
    size_t bytes = atomic_load_explicit(&page, memory_order_relaxed);
    if (bytes == 0) {
        bytes = (size_t)sysconf(_SC_PAGESIZE);
        atomic_store_explicit(&page, bytes, memory_order_relaxed);
    }
    return bytes;
}

size_t os_huge_bytes(void)
{
    size_t bytes = atomic_load_explicit(&huge, memory_order_relaxed);
    if (bytes == 0) {
        bytes = system_huge(os_page_bytes());
        atomic_store_explicit(&huge, bytes, memory_order_relaxed);
    }
    return bytes;
}

size_t os_huge_from(void)
{
    return HUGE_WORTH * os_huge_bytes();
}

void os_set_page_bytes(size_t bytes)
{
    atomic_store(&page, bytes);
    atomic_store(&huge, bytes ? derived_huge(bytes) : 0);
}
