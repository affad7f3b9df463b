/*
 * base: error sentence, weight types, arena, pool, mappings, cgroup limits,
 * files. What depends on the machine (memory, CPU) is checked for consistency
 * only.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base.h"
#include "sluice.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- files for the tests ---- */

static char tmp_dir[64]; /* made once, on the disk where the tests run */

static int make_tmp_dir(void **state)
{
    (void)state;
    snprintf(tmp_dir, sizeof(tmp_dir), "/tmp/sluice-base-XXXXXX");
    return mkdtemp(tmp_dir) ? 0 : -1;
}

static int remove_tmp_dir(void **state)
{
    (void)state;
    char command[96];
    snprintf(command, sizeof(command), "rm -rf '%s'", tmp_dir);
    return system(command);
}

static const char *tmp_path(const char *name)
{
    static char path[256];
    snprintf(path, sizeof(path), "%s/%s", tmp_dir, name);
    return path;
}

static void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* Writes text to ROOT/path below the temporary directory, making folders. */
static void fake(const char *root, const char *path, const char *text)
{
    char full[512];
    int n = snprintf(full, sizeof(full), "%s/%s", root, path);
    assert_true(n > 0 && (size_t)n < sizeof(full));
    for (char *p = full + strlen(tmp_dir) + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        mkdir(full, 0700);
        *p = '/';
    }
    write_file(full, text, strlen(text));
}

/* ---- err.c ---- */

static void first_error_is_kept(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(err_set(&e, E_FORMAT, "tensor '%s' has %d dimensions", "a.b", 5), E_FORMAT);
    assert_int_equal(err_set(&e, E_IO, "later"), E_IO); /* returned, not recorded */
    assert_int_equal(e.code, E_FORMAT);
    assert_string_equal(e.text, "tensor 'a.b' has 5 dimensions");

    err_clear(&e);
    assert_int_equal(e.code, OK);
    assert_string_equal(e.text, "");
    assert_int_equal(err_errno(&e, E_IO, ENOENT, "cannot open '%s'", "x"), E_IO);
    assert_string_equal(e.text, "cannot open 'x': No such file or directory");
    assert_int_equal(err_errno(&e, E_NOMEM, ENOMEM, "later"), E_NOMEM);
    assert_int_equal(e.code, E_IO);

    assert_int_equal(err_set(NULL, E_ARG, "nobody listens"), E_ARG);
    assert_int_equal(err_errno(NULL, E_ARG, EINVAL, "nobody listens"), E_ARG);
}

static void long_errors_are_cut(void **state)
{
    (void)state;
    char big[2000];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    struct err e = {0};
    err_errno(&e, E_IO, EIO, "%s", big);
    assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
}

/* The engine hands codes and sentences through unchanged. */
static void codes_are_the_public_ones(void **state)
{
    (void)state;
    assert_int_equal(OK, SLUICE_OK);
    assert_int_equal(E_ARG, SLUICE_E_ARG);
    assert_int_equal(E_FORMAT, SLUICE_E_FORMAT);
    assert_int_equal(E_UNSUPPORTED, SLUICE_E_UNSUPPORTED);
    assert_int_equal(E_BUDGET, SLUICE_E_BUDGET);
    assert_int_equal(E_NOMEM, SLUICE_E_NOMEM);
    assert_int_equal(E_IO, SLUICE_E_IO);
    assert_int_equal(E_CANCELLED, SLUICE_E_CANCELLED);
    assert_int_equal(E_STATE, SLUICE_E_STATE);
    assert_int_equal(sizeof(((struct err *)0)->text), sizeof(((sluice_error *)0)->text));
}

static int forward(int status, bool *passed)
{
    TRY(status);
    *passed = true;
    return 7;
}

static void try_forwards_failures_only(void **state)
{
    (void)state;
    bool passed = false;
    assert_int_equal(forward(E_STATE, &passed), E_STATE);
    assert_false(passed);
    assert_int_equal(forward(3, &passed), 7);
    assert_true(passed);
}

/* ---- dtype.c ---- */

static void dtype_sizes(void **state)
{
    (void)state;
    /* Bytes of 256 elements, from the format's field lists. */
    static const struct {
        enum dtype t;
        const char *name;
        size_t bytes;
    } want[] = {
        {DT_F32, "F32", 1024},    {DT_F16, "F16", 512},    {DT_BF16, "BF16", 512},
        {DT_Q4_0, "Q4_0", 144},   {DT_Q4_1, "Q4_1", 160},  {DT_Q5_0, "Q5_0", 176},
        {DT_Q5_1, "Q5_1", 192},   {DT_Q8_0, "Q8_0", 272},  {DT_Q2_K, "Q2_K", 84},
        {DT_Q3_K, "Q3_K", 110},   {DT_Q4_K, "Q4_K", 144},  {DT_Q5_K, "Q5_K", 176},
        {DT_Q6_K, "Q6_K", 210},   {DT_IQ4_NL, "IQ4_NL", 144}, {DT_IQ4_XS, "IQ4_XS", 136},
        {DT_MXFP4, "MXFP4", 136}, {DT_I8, "I8", 256},      {DT_F64, "F64", 2048},
        {DT_IQ2_XXS, "IQ2_XXS", 66}, {DT_IQ2_XS, "IQ2_XS", 74}, {DT_IQ2_S, "IQ2_S", 82},
        {DT_IQ3_XXS, "IQ3_XXS", 98}, {DT_IQ3_S, "IQ3_S", 110}, {DT_IQ1_S, "IQ1_S", 50},
        {DT_IQ1_M, "IQ1_M", 56},  {DT_TQ1_0, "TQ1_0", 54},  {DT_TQ2_0, "TQ2_0", 66},
        {DT_NVFP4, "NVFP4", 144}, {DT_Q1_0, "Q1_0", 36},    {DT_Q2_0, "Q2_0", 72},
    };
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        assert_string_equal(dtype_info(want[i].t)->name, want[i].name);
        assert_int_equal(dtype_row_bytes(want[i].t, 256), want[i].bytes);
        assert_int_equal(dtype_row_bytes(want[i].t, 256 * 7), 7 * want[i].bytes);
    }
    static const uint32_t unused[] = {4, 5, 31, 32, 33, 36, 37, 38, DT_COUNT, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_LEN(unused); i++)
        assert_null(dtype_info(unused[i]));
    int n = 0;
    for (uint32_t id = 0; id < DT_COUNT; id++)
        n += dtype_info(id) != NULL;
    assert_int_equal(n, DT_COUNT - 8);
}

/* ---- arena.c ---- */

static void arena_blocks_are_aligned_zeroed_apart(void **state)
{
    (void)state;
    struct arena a = {0};
    enum { N = 4000 };
    static unsigned char *p[N];
    static size_t size[N];
    size_t sum = 0;
    for (int i = 0; i < N; i++) {
        size[i] = (size_t)(i % 500 == 7 ? 100000 + i : i % 211);
        p[i] = arena_alloc(&a, size[i]);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 64, 0);
        for (size_t k = 0; k < size[i]; k++)
            assert_int_equal(p[i][k], 0);
        memset(p[i], i & 255, size[i]);
        sum += align_up(MAX(size[i], 1), 64);
    }
    for (int i = 0; i < N; i++) /* nobody wrote over anybody */
        for (size_t k = 0; k < size[i]; k++)
            assert_int_equal(p[i][k], i & 255);
    assert_int_equal(a.used_bytes, sum);
    assert_null(arena_alloc(&a, SIZE_MAX));
    assert_null(arena_alloc(&a, SIZE_MAX - 70));
    arena_free(&a);
    assert_int_equal(a.used_bytes, 0);
    arena_free(&a);
}

/* ---- pool.c ---- */

struct tally {
    int64_t calls[8];
    int64_t base;
    int n_seen;
    atomic_int bad;
};

/* Each share adds its own part of a sum that the caller then checks: a share
 * that ran twice, not at all, or with an old argument shows. */
static void tally_share(void *arg, int i, int n)
{
    struct tally *t = arg;
    if (i < 0 || i >= n || n != t->n_seen)
        atomic_store(&t->bad, 1);
    t->calls[i] += t->base + i;
}

static void pool_runs_each_share_once(void **state)
{
    (void)state;
    static const int sizes[] = {1, 2, 3, 5};
    for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
        int n = sizes[s], rounds = 5000;
        struct pool *p = pool_new(n);
        assert_non_null(p);
        assert_int_equal(pool_size(p), n);
        struct tally t = {.n_seen = n};
        int64_t want[8] = {0};
        for (int r = 0; r < rounds; r++) {
            t.base = r;
            pool_run(p, tally_share, &t);
            for (int i = 0; i < n; i++) {
                want[i] += r + i;
                assert_int_equal(t.calls[i], want[i]);
            }
        }
        assert_int_equal(atomic_load(&t.bad), 0);
        pool_free(p);
    }
}

static void nap(long ns)
{
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

static void slow_share(void *arg, int i, int n)
{
    if (i == n - 1)
        nap(2000000);
    atomic_fetch_add((atomic_int *)arg, 1);
}

/* Pauses longer than the spin: caller and workers both have to be woken. */
static void pool_wakes_sleepers(void **state)
{
    (void)state;
    struct pool *p = pool_new(3);
    assert_non_null(p);
    atomic_int done = 0;
    for (int r = 0; r < 20; r++) {
        nap(2000000);
        pool_run(p, slow_share, &done);
        assert_int_equal(atomic_load(&done), 3 * (r + 1));
    }
    pool_free(p);
}

static void pool_edges(void **state)
{
    (void)state;
    assert_null(pool_new(0));
    assert_null(pool_new(-3));
    pool_free(NULL);
    for (int i = 0; i < 50; i++) /* never used, freed at once */
        pool_free(pool_new(1 + i % 5));
}

static void pool_split_covers_all_once(void **state)
{
    (void)state;
    static const int64_t totals[] = {0, 1, 31, 32, 33, 1000, 4097};
    static const int64_t grains[] = {1, 16, 32, 64};
    for (size_t t = 0; t < ARRAY_LEN(totals); t++) {
        for (size_t g = 0; g < ARRAY_LEN(grains); g++) {
            for (int n = 1; n <= 9; n++) {
                int64_t at = 0;
                for (int i = 0; i < n; i++) {
                    int64_t b, e;
                    pool_split(totals[t], grains[g], i, n, &b, &e);
                    assert_int_equal(b, at);
                    assert_true(e >= b);
                    assert_true(e == totals[t] || e % grains[g] == 0);
                    at = e;
                }
                assert_int_equal(at, totals[t]);
            }
        }
    }
}

struct taking {
    struct pool *p;
    int64_t total;
    bool slow; /* the last thread rests after each part */
    pthread_t caller;
    int turns;
    atomic_int elsewhere;
    int64_t most[8], sum[8];
    atomic_int times[4097];
};

static void take_parts(void *arg, int i, int n)
{
    struct taking *t = arg;
    int64_t b, e;
    while (pool_take(t->p, i, t->total, &b, &e)) {
        for (int64_t u = b; u < e; u++)
            atomic_fetch_add(&t->times[u], 1);
        t->most[i] = MAX(t->most[i], e - b);
        t->sum[i] += e - b;
        if (t->slow && i == n - 1)
            nap(20000000);
    }
}

static void pool_take_covers_all_once(void **state)
{
    (void)state;
    static const int64_t totals[] = {0, 1, 2, 31, 4097};
    static struct taking t;
    for (int n = 1; n <= 5; n++) {
        struct pool *p = pool_new(n);
        assert_non_null(p);
        for (size_t k = 0; k < ARRAY_LEN(totals); k++) {
            memset(&t, 0, sizeof(t));
            t.p = p;
            t.total = totals[k];
            pool_run(p, take_parts, &t);
            for (int64_t u = 0; u < 4097; u++)
                assert_int_equal(atomic_load(&t.times[u]), u < totals[k]);
            for (int i = 0; n > 1 && i < n; i++)
                assert_true(t.most[i] <= MAX(totals[k] / (2 * n), (int64_t)1));
        }
        pool_free(p);
    }
}

static void count_turn(void *user)
{
    struct taking *t = user;
    if (!pthread_equal(pthread_self(), t->caller))
        atomic_store(&t->elsewhere, 1);
    t->turns++;
}

static void pool_gives_the_caller_its_turns(void **state)
{
    (void)state;
    static struct taking t;
    for (int n = 1; n <= 3; n++) {
        memset(&t, 0, sizeof(t));
        t.p = pool_new(n);
        t.total = 4000;
        t.slow = n > 1; /* so that the caller takes most parts */
        t.caller = pthread_self();
        assert_non_null(t.p);
        pool_set_turn(t.p, count_turn, &t);
        /* a caller that other processes hold up takes few parts of one run */
        for (int i = 0; i < 100 && t.turns < 5; i++)
            pool_run(t.p, take_parts, &t);
        assert_true(t.turns >= 5);
        assert_int_equal(atomic_load(&t.elsewhere), 0);
        pool_set_turn(t.p, NULL, NULL);
        t.turns = 0;
        pool_run(t.p, take_parts, &t);
        assert_int_equal(t.turns, 0);
        pool_free(t.p);
    }
}

/* A slow thread leaves the rest to the others instead of keeping them waiting. */
static void pool_take_follows_speed(void **state)
{
    (void)state;
    static struct taking t;
    memset(&t, 0, sizeof(t));
    t.p = pool_new(2);
    t.total = 4000;
    t.slow = true;
    assert_non_null(t.p);
    pool_run(t.p, take_parts, &t);
    assert_int_equal(t.sum[0] + t.sum[1], 4000);
    assert_true(t.sum[1] < 2000);
    pool_free(t.p);
}

/* ---- os_mem.c ---- */

static void maps_are_zeroed_aligned_discardable(void **state)
{
    (void)state;
    const size_t bytes = ((size_t)5 << 20) + 12345;
    for (int huge = 0; huge < 2; huge++) {
        unsigned char *p = os_map(bytes, huge);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % (huge ? (size_t)2 << 20 : 4096), 0);
        for (size_t i = 0; i < bytes; i += 997)
            assert_int_equal(p[i], 0);
        memset(p, 0xab, bytes);
        os_discard(p + 100, bytes - 200); /* unaligned ends become zero, too */
        for (size_t i = 0; i < bytes; i++)
            assert_int_equal(p[i], i < 100 || i >= bytes - 100 ? 0xab : 0);
        os_unmap(p, bytes);
    }
    assert_null(os_map(0, false));
    assert_null(os_map(SIZE_MAX, false));
    assert_null(os_map(SIZE_MAX / 4, true)); /* more than any address space */
    os_unmap(NULL, 4096);
}

static void discard_gives_memory_back(void **state)
{
    (void)state;
    const size_t bytes = (size_t)64 << 20;
    unsigned char *p = os_map(bytes, false);
    assert_non_null(p);
    memset(p, 1, bytes);
    int64_t full = os_rss();
    os_discard(p, bytes);
    int64_t empty = os_rss();
    assert_true(full - empty > (int64_t)bytes * 9 / 10);
    assert_true(os_rss_peak() >= full - (1 << 20));
    os_unmap(p, bytes);
}

static void locked_memory_can_be_discarded(void **state)
{
    (void)state;
    const size_t bytes = 16384; /* below every usual limit */
    unsigned char *p = os_map(bytes, false);
    assert_non_null(p);
    bool locked = os_lock(p, bytes);
    memset(p, 1, bytes);
    os_discard(p, bytes);
    for (size_t i = 0; i < bytes; i++)
        assert_int_equal(p[i], 0);
    os_unmap(p, bytes);
    if (!locked)
        print_message("os_lock was refused here\n");
}

static void memory_figures_make_sense(void **state)
{
    (void)state;
    struct os_memory m;
    os_memory(&m);
    assert_true(m.total > (int64_t)64 << 20);
    assert_true(m.available > 0 && m.available <= m.total);
    assert_true(m.cgroup_limit > 0);
    assert_true(m.cgroup_used >= 0);
    if (m.cgroup_limit == INT64_MAX)
        assert_int_equal(m.cgroup_used, 0);
    assert_true(os_rss() > 0);
}

/* ---- os_cgroup.c ---- */

#define MOUNT_V2 "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
#define MOUNT_ROOT "23 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"

static struct os_cgroup read_fake(const char *root)
{
    struct os_cgroup c;
    os_cgroup(root, &c);
    return c;
}

static void cgroup_none(void **state)
{
    (void)state;
    struct os_cgroup c = read_fake(tmp_path("no-such-root"));
    assert_true(c.memory_limit == INT64_MAX && c.memory_used == 0 && c.cpus == 0);
}

static void cgroup_v2_parent_is_tightest(void **state)
{
    (void)state;
    const char *r = tmp_path("v2");
    fake(r, "proc/self/cgroup", "0::/user.slice/app.scope\n");
    fake(r, "proc/self/mountinfo", MOUNT_ROOT MOUNT_V2);
    fake(r, "sys/fs/cgroup/user.slice/app.scope/memory.max", "8000000000\n");
    fake(r, "sys/fs/cgroup/user.slice/app.scope/memory.stat", "anon 1000\nfile 5000000000\n");
    fake(r, "sys/fs/cgroup/user.slice/app.scope/cpu.max", "max 100000\n");
    fake(r, "sys/fs/cgroup/user.slice/memory.max", "4000000000\n");
    fake(r, "sys/fs/cgroup/user.slice/memory.stat",
         "anon 2000\nfile 3000000000\nkernel_stack 10\npagetables 20\npercpu 30\nsock 40\n"
         "shmem 500\nslab_reclaimable 7000\nslab_unreclaimable 50\nslab 7050\n");
    fake(r, "sys/fs/cgroup/user.slice/cpu.max", "150000 100000\n");
    struct os_cgroup c = read_fake(r);
    assert_true(c.memory_least == 4000000000);
    assert_true(c.memory_limit == 4000000000);
    assert_int_equal(c.memory_used, 2000 + 500 + 10 + 20 + 30 + 40 + 50);
    assert_true(c.cpus == 1.5);

    /* A parent with a larger limit but less room left is the one that binds. */
    fake(r, "sys/fs/cgroup/user.slice/memory.max", "9000000000\n");
    fake(r, "sys/fs/cgroup/user.slice/memory.stat", "anon 8500000000\n");
    c = read_fake(r);
    assert_true(c.memory_limit == 9000000000 && c.memory_used == 8500000000);

    /* "max" is no limit; memory.high counts like one. */
    fake(r, "sys/fs/cgroup/user.slice/memory.max", "max\n");
    fake(r, "sys/fs/cgroup/user.slice/app.scope/memory.high", "6000000000\n");
    c = read_fake(r);
    assert_true(c.memory_limit == 6000000000 && c.memory_used == 1000);
    fake(r, "sys/fs/cgroup/user.slice/app.scope/memory.high", "max\n");
    fake(r, "sys/fs/cgroup/user.slice/app.scope/memory.max", "max\n");
    c = read_fake(r);
    assert_true(c.memory_limit == INT64_MAX && c.memory_used == 0);
}

static void cgroup_v1_with_hybrid_mounts(void **state)
{
    (void)state;
    const char *r = tmp_path("v1");
    fake(r, "proc/self/cgroup",
         "5:cpuset:/\n4:memory:/docker/abc/job\n2:cpuacct:/x\n1:cpu,cpuacct:/docker/abc\n0::/"
         "docker/abc\n");
    fake(r, "proc/self/mountinfo",
         MOUNT_ROOT "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
         "32 31 0:29 / /sys/fs/cgroup/cpu\\040and rw master:3 - cgroup cgroup rw,cpuacct,cpu\n"
         "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
         "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    fake(r, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    fake(r, "sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "9223372036854771712\n");
    fake(r, "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "2147483648\n");
    fake(r, "sys/fs/cgroup/memory/docker/abc/memory.stat",
         "cache 9\nrss 8\nshmem 1\ntotal_cache 900000\ntotal_rss 123456\ntotal_rss_huge "
         "100\ntotal_shmem 44\n");
    fake(r, "sys/fs/cgroup/memory/docker/abc/job/memory.limit_in_bytes", "3147483648\n");
    fake(r, "sys/fs/cgroup/memory/docker/abc/job/memory.stat", "total_rss 1\n");
    fake(r, "sys/fs/cgroup/cpu and/docker/abc/cpu.cfs_quota_us", "-1\n");
    fake(r, "sys/fs/cgroup/cpu and/docker/abc/cpu.cfs_period_us", "100000\n");
    fake(r, "sys/fs/cgroup/cpu and/docker/cpu.cfs_quota_us", "50000\n");
    fake(r, "sys/fs/cgroup/cpu and/docker/cpu.cfs_period_us", "100000\n");
    struct os_cgroup c = read_fake(r);
    assert_true(c.memory_limit == 2147483648);
    assert_int_equal(c.memory_used, 123456 + 44);
    assert_true(c.cpus == 0.5);
}

/* A container mounts only its own part of the tree. */
static void cgroup_partial_mounts(void **state)
{
    (void)state;
    const char *r = tmp_path("part");
    fake(r, "proc/self/mountinfo",
         MOUNT_ROOT "30 23 0:26 /pods/p1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    fake(r, "sys/fs/cgroup/memory.max", "500\n");
    fake(r, "sys/fs/cgroup/inner/memory.max", "400\n");
    static const struct {
        const char *group;
        int64_t limit;
    } cases[] = {
        {"0::/pods/p1\n", 500},        {"0::/pods/p1/inner\n", 400},
        {"0::/pods/p10/inner\n", 500}, {"0::/../p2\n", 500},
        {"0::/gone/away\n", 500},      {"0::/pods/p1/inner/absent\n", 400},
        {"no colons here\n", INT64_MAX},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        fake(r, "proc/self/cgroup", cases[i].group);
        assert_true(read_fake(r).memory_limit == cases[i].limit);
    }
}

/* ---- os_file.c ---- */

/* Opens both ways, reads pieces, asks for more than there is. */
static void check_file_at(const char *path)
{
    const size_t n = 3 * 4096 + 100;
    unsigned char *data = aligned_alloc(4096, 4 * 4096), *back = aligned_alloc(4096, 4 * 4096);
    assert_true(data && back);
    for (size_t i = 0; i < n; i++)
        data[i] = (unsigned char)(i * 7 + i / 251);
    write_file(path, data, n);

    for (int direct = 0; direct < 2; direct++) {
        struct err e = {0};
        bool is_direct = true;
        int fd = os_open_read(path, direct ? &is_direct : NULL, &e);
        assert_true(fd >= 0);
        assert_int_equal(os_file_size(fd), n);
        assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        memset(back, 0, 4 * 4096);
        assert_int_equal(os_read_exact(fd, back, 2 * 4096, 4096, path, &e), OK);
        assert_memory_equal(back, data + 4096, 2 * 4096);

        assert_int_equal(os_read_exact(fd, back, 4 * 4096, 0, path, &e), E_FORMAT);
        assert_int_equal(e.code, E_FORMAT);
        assert_non_null(strstr(e.text, path));
        assert_non_null(strstr(e.text, "ends at byte 12388"));
        err_clear(&e);
        assert_int_equal(os_read_exact(fd, back, 4096, 1 << 20, path, &e), E_FORMAT);
        close(fd);
    }
    unlink(path);
    free(data);
    free(back);
}

static void files_on_disk(void **state)
{
    (void)state;
    check_file_at("sluice-test-base.tmp"); /* the folder of the run: a disk usually */
    check_file_at(tmp_path("data"));
}

static void files_on_tmpfs(void **state)
{
    (void)state;
    if (access("/dev/shm", W_OK) != 0)
        skip();
    char path[64];
    snprintf(path, sizeof(path), "/dev/shm/sluice-test-base.%d", (int)getpid());
    check_file_at(path);
}

static void files_that_cannot_be_read(void **state)
{
    (void)state;
    struct err e = {0};
    bool direct;
    assert_int_equal(os_open_read(tmp_path("missing"), &direct, &e), E_IO);
    assert_non_null(strstr(e.text, "No such file or directory"));
    err_clear(&e);
    assert_int_equal(os_open_read(tmp_dir, &direct, &e), E_IO);
    assert_non_null(strstr(e.text, "is a directory"));
    err_clear(&e);
    const char *fifo = tmp_path("fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(os_open_read(fifo, &direct, &e), E_IO); /* and does not hang */
    err_clear(&e);

    int closed = open("/dev/null", O_RDONLY);
    close(closed);
    char byte;
    assert_int_equal(os_read_exact(closed, &byte, 1, 0, "name", &e), E_IO);
    assert_non_null(strstr(e.text, "'name'"));
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(os_file_size(fds[0]), -1);
    close(fds[0]);
    close(fds[1]);

    write_file(tmp_path("empty"), "", 0);
    int fd = os_open_read(tmp_path("empty"), &direct, NULL);
    assert_true(fd >= 0);
    assert_int_equal(os_file_size(fd), 0);
    assert_int_equal(os_read_exact(fd, &byte, 0, 0, "empty", NULL), OK);
    close(fd);
}

/* ---- os_cpu.c ---- */

static void cpu_features_are_nested(void **state)
{
    (void)state;
    unsigned f = os_cpu_features();
    assert_true(!(f & CPU_AVX512) || (f & CPU_AVX2));
    assert_true(!(f & CPU_AVX512_VNNI) || (f & CPU_AVX512));
#if defined(__x86_64__)
    /* The compiler's run-time library looks on its own. */
    __builtin_cpu_init();
    assert_int_equal(!!(f & CPU_AVX2),
                     !!__builtin_cpu_supports("avx2") && !!__builtin_cpu_supports("fma"));
    assert_int_equal(!!(f & CPU_AVX512), !!__builtin_cpu_supports("avx512f") &&
                                             !!__builtin_cpu_supports("avx512bw") &&
                                             !!__builtin_cpu_supports("avx512dq") &&
                                             !!__builtin_cpu_supports("avx512vl"));
    assert_int_equal(!!(f & CPU_AVX512_VNNI),
                     (f & CPU_AVX512) && __builtin_cpu_supports("avx512vnni"));
    assert_true(!(f & CPU_AVX_VNNI) || (f & CPU_AVX2));
#if !defined(__clang__) /* which knows no such name */
    assert_int_equal(!!(f & CPU_AVX_VNNI),
                     (f & CPU_AVX2) && __builtin_cpu_supports("avxvnni"));
#endif
    assert_int_equal(f & ~(unsigned)(CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI | CPU_AVX_VNNI), 0);
#elif defined(__aarch64__)
    assert_true(f & CPU_NEON); /* every Linux of this processor has it */
    assert_int_equal(f & ~(unsigned)(CPU_NEON | CPU_DOTPROD | CPU_I8MM), 0);
#else
    assert_int_equal(f, 0);
#endif
}

static void cpu_count_and_clock(void **state)
{
    (void)state;
    assert_in_range(os_cpu_count(), 1, 1 << 20);
    int64_t a = os_clock_ns();
    nap(2000000);
    int64_t b = os_clock_ns();
    assert_true(b - a >= 2000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_error_is_kept),
        cmocka_unit_test(long_errors_are_cut),
        cmocka_unit_test(codes_are_the_public_ones),
        cmocka_unit_test(try_forwards_failures_only),
        cmocka_unit_test(dtype_sizes),
        cmocka_unit_test(arena_blocks_are_aligned_zeroed_apart),
        cmocka_unit_test(pool_runs_each_share_once),
        cmocka_unit_test(pool_wakes_sleepers),
        cmocka_unit_test(pool_edges),
        cmocka_unit_test(pool_split_covers_all_once),
        cmocka_unit_test(pool_take_covers_all_once),
        cmocka_unit_test(pool_take_follows_speed),
        cmocka_unit_test(pool_gives_the_caller_its_turns),
        cmocka_unit_test(maps_are_zeroed_aligned_discardable),
        cmocka_unit_test(discard_gives_memory_back),
        cmocka_unit_test(locked_memory_can_be_discarded),
        cmocka_unit_test(memory_figures_make_sense),
        cmocka_unit_test(cgroup_none),
        cmocka_unit_test(cgroup_v2_parent_is_tightest),
        cmocka_unit_test(cgroup_v1_with_hybrid_mounts),
        cmocka_unit_test(cgroup_partial_mounts),
        cmocka_unit_test(files_on_disk),
        cmocka_unit_test(files_on_tmpfs),
        cmocka_unit_test(files_that_cannot_be_read),
        cmocka_unit_test(cpu_features_are_nested),
        cmocka_unit_test(cpu_count_and_clock),
    };
    return cmocka_run_group_tests(tests, make_tmp_dir, remove_tmp_dir);
}
