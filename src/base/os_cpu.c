/*
 * The processor: instruction sets that may be used, how many, the clock.
 */
#include "base/base.h"

#include <errno.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* What the system saves at a task switch (XCR0). A unit whose registers are
 * not saved must not be used, whatever CPUID says. */
static uint64_t saved_state(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static bool has_all(uint64_t value, uint64_t bits)
{
    return (value & bits) == bits;
}

unsigned os_cpu_features(void)
{
    /* Bit positions: Intel SDM volume 2, CPUID; volume 1, 13.3 for XCR0. */
    const uint32_t fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    const uint32_t avx2 = 1u << 5, avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    const uint32_t vnni = 1u << 11, avx_vnni = 1u << 4;
    const uint64_t ymm = 0x6, zmm = 0xe6;
    uint32_t a, b, c, d;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !has_all(c, fma | osxsave | avx | f16c))
        return 0;
    uint64_t saved = saved_state();
    if (!has_all(saved, ymm) || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !has_all(b, avx2))
        return 0;

    unsigned f = CPU_AVX2;
    if (has_all(saved, zmm) && has_all(b, avx512)) {
        f |= CPU_AVX512;
        if (has_all(c, vnni))
            f |= CPU_AVX512_VNNI;
    }
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && has_all(a, avx_vnni))
        f |= CPU_AVX_VNNI;
    return f;
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

unsigned os_cpu_features(void)
{
    /* Bit positions: the kernel's arm64 <asm/hwcap.h>, of HWCAP and HWCAP2. */
    const unsigned long asimd = 1ul << 1, asimddp = 1ul << 20, i8mm = 1ul << 13;
    const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);

    if (!(first & asimd))
        return 0;
    return CPU_NEON | (first & asimddp ? CPU_DOTPROD : 0u) | (second & i8mm ? CPU_I8MM : 0u);
}
#else
unsigned os_cpu_features(void)
{
    return 0;
}
#endif

/* Processors in the affinity mask; 0: unknown. */
static int affinity_count(void)
{
    /* The kernel says EINVAL while the mask is too small for the machine. */
    for (int max = 1024; max <= 1 << 20; max *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)max);
        if (!set)
            return 0;
        size_t bytes = CPU_ALLOC_SIZE((size_t)max);
        int n = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
        bool too_small = n == 0 && errno == EINVAL;
        CPU_FREE(set);
        if (!too_small)
            return n;
    }
    return 0;
}

int os_cpu_count(void)
{
    int n = affinity_count();
    if (n <= 0)
        n = (int)sysconf(_SC_NPROCESSORS_ONLN);

    /* Threads above the quota would only be stopped in turn. */
    struct os_cgroup c;
    os_cgroup("", &c);
    if (c.cpus > 0 && c.cpus < n)
        n = (int)(c.cpus + 0.999);
    return MAX(n, 1);
}

int64_t os_cpu_cache_bytes(void)
{
    long bytes = -1;
#ifdef _SC_LEVEL3_CACHE_SIZE
    bytes = MAX(sysconf(_SC_LEVEL3_CACHE_SIZE), sysconf(_SC_LEVEL2_CACHE_SIZE));
#endif
    return MAX(bytes, 0L);
}

int64_t os_clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
