/*
 * test_touch: memory of a large cache is there before it is used, no more of
 * it than the cache may have, and what is in use keeps its bytes.
 */
#include "expert/expert.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB ((size_t)1 << 20)
enum { N_EXPERTS = 96, EXPERT = 1 << 20 };

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static bool kernel_can(void)
{
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int rc = madvise(p, 4096, MADV_POPULATE_WRITE);
    munmap(p, 4096);
    return rc == 0;
}

/* Waits up to ten seconds for the resident set to reach [least, most]. */
static bool reaches(int64_t least, int64_t most)
{
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) /* whose own memory counts too */
    return least <= most;
#endif
    for (int i = 0; i < 1000; i++) {
        int64_t now = os_rss();
        if (now >= least && now <= most)
            return true;
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    print_message("resident: %lld, expected %lld to %lld\n", (long long)os_rss(), (long long)least,
                  (long long)most);
    return false;
}

static void read_and_check(struct expert_cache *c, int32_t first, int n)
{
    struct err e;
    for (int32_t x = first; x < first + n; x++) {
        struct expert_lease l;
        assert_int_equal(expert_request(c, 0, &x, 1, &l, &e), OK);
        assert_int_equal(expert_wait(c, &l, &e), OK);
        const uint8_t *p = expert_data(c, &l, 0);
        for (int i = 0; i < EXPERT; i += 4096)
            assert_int_equal(p[i], (uint8_t)(x + 1));
        expert_release(c, &l);
    }
}

static void touched_ahead_and_no_further(void **state)
{
    (void)state;
    if (!kernel_can()) {
        print_message("skipped: this kernel cannot populate memory ahead\n");
        skip();
    }
    char path[] = "/var/tmp/sluice_touch_XXXXXX";
    int fd = mkstemp(path);
    uint8_t *one = malloc(EXPERT);
    assert_true(fd >= 0 && one);
    for (int x = 0; x < N_EXPERTS; x++) {
        memset(one, x + 1, EXPERT);
        assert_int_equal(write(fd, one, EXPERT), EXPERT);
    }
    free(one);

    struct err e;
    struct ioq *q;
    struct ioq_config qc = {.kind = IOQ_PREAD};
    assert_int_equal(ioq_open(&qc, &q, &e), OK);
    int file = ioq_add_file(q, path, &e);
    assert_true(file >= 0);
    struct expert_layer layer = {.n_experts = N_EXPERTS, .n_parts = 1,
                                 .part = {{file, 0, EXPERT, EXPERT, false}}};
    struct expert_config cfg = {
        .layers = &layer, .n_layers = 1, .n_used = 4, .cache_bytes = 80 * MIB, .ioq = q};
    int64_t before = os_rss();
    struct expert_cache *c;
    assert_int_equal(expert_open(&cfg, &c, &e), OK);
    assert_true(reaches(before + (int64_t)(70 * MIB), before + (int64_t)(84 * MIB)));
    read_and_check(c, 0, 40);
    expert_resize(c, 20 * MIB);
    assert_true(reaches(before, before + (int64_t)(24 * MIB)));
    read_and_check(c, 10, 60);
    expert_resize(c, 60 * MIB);
    assert_true(reaches(before + (int64_t)(50 * MIB), before + (int64_t)(64 * MIB)));
    read_and_check(c, 0, N_EXPERTS);
    for (int i = 0; i < 50; i++) { /* whatever is being touched at that moment */
        expert_resize(c, (size_t)(10 + i * 37 % 60) * MIB);
        read_and_check(c, i, 3);
    }
    expert_resize(c, 10 * MIB);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    assert_true(reaches(before, before + (int64_t)(14 * MIB)));
    expert_close(c);
    ioq_close(q);
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(touched_ahead_and_no_further)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
