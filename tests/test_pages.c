/*
 * Systems with larger pages, acted out on this one: mappings are cut as there,
 * and what is resident is counted as there, where a byte touched makes the whole
 * page resident. The plan bounds it, and no bit of a result changes.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "golden.h"
#include "model/model_internal.h"

static const size_t sizes[] = {16 << 10, 64 << 10};

/* Checked builds map terabytes and hold what they please: nothing is counted there. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { COUNTS = 0 };
#else
enum { COUNTS = 1 };
#endif

/* ---- counting ---------------------------------------------------------------- */

/* Memory of this process if a page had `page` bytes: each of its pages that holds
 * a resident one counts once. */
static int64_t resident(size_t page)
{
    size_t real = (size_t)sysconf(_SC_PAGESIZE);
    int64_t bytes = 0;
    uint64_t last = UINT64_MAX;
    unsigned long begin, end;
    char line[512];
    if (!COUNTS)
        return 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    assert_true(maps && map >= 0);
    while (fgets(line, sizeof(line), maps)) {
        assert_int_equal(sscanf(line, "%lx-%lx", &begin, &end), 2);
        if (strstr(line, "[v")) /* vdso, vvar, vsyscall: not ours */
            continue;
        for (; begin < end; begin += 512 * real) {
            uint64_t entry[512] = {0};
            size_t n = MIN((end - begin) / real, 512);
            ssize_t got = pread(map, entry, n * 8, (off_t)(begin / real * 8));
            for (size_t i = 0; got > 0 && i < (size_t)got / 8; i++) {
                uint64_t here = (begin + i * real) / page;
                if (entry[i] >> 63 && here != last) {
                    bytes += (int64_t)page;
                    last = here;
                }
            }
        }
    }
    close(map);
    fclose(maps);
    return bytes;
}

/* ---- mappings ------------------------------------------------------------------ */

static void maps_are_whole_pages(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        os_set_page_bytes(sizes[i]);
        assert_int_equal(os_page_bytes(), sizes[i]);
        assert_int_equal(os_huge_bytes(), sizes[i] / 8 * sizes[i]);
        int64_t before = resident(sizes[i]);
        char *p = os_map(3 * sizes[i] + 1, false);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % sizes[i], 0);
        memset(p, 1, 3 * sizes[i] + 1);
        if (COUNTS) /* and perhaps the counting's own stack */
            assert_in_range(resident(sizes[i]) - before, 4 * sizes[i], 6 * sizes[i]);
        /* only what lies in the range in whole goes back; the rest of it is zero */
        os_discard(p + 1, 3 * sizes[i]);
        assert_int_equal(p[0], 1);
        assert_int_equal(p[1], 0);
        assert_int_equal(p[3 * sizes[i]], 0);
        os_unmap(p, 3 * sizes[i] + 1);
    }
    os_set_page_bytes(0);
    assert_int_equal(os_page_bytes(), sysconf(_SC_PAGESIZE));
}

static void lines_are_whole_pages(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        sluice_options o = golden_small(BUILT_IN, "pread");
        sluice_plan p;
        sluice_error e;
        os_set_page_bytes(sizes[i]);
        o.memory_bytes = golden_near_floor(&o, GOLDEN_MARGIN(1, 8));
        assert_int_equal(sluice_plan_memory(&o, NULL, &p, &e), 0);
        assert_int_equal(p.memory.dense % (int64_t)sizes[i], 0);
        assert_int_equal(p.memory.state % (int64_t)sizes[i], 0);
        assert_true(golden_lines(&p) <= p.memory.budget);
        os_set_page_bytes(0);
    }
}

/* The rows of one head fill whole pages: heads do not share one, and what is
 * written of each is what is counted. */
static void heads_are_whole_pages(void **state)
{
    (void)state;
    struct model *m;
    struct err e = {0};
    assert_int_equal(model_describe(BUILT_IN, false, &m, &e), OK);
    for (int half = 0; half < 2; half++)
        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
            struct model_options o = {.kv_f16 = half, .context = 5000};
            os_set_page_bytes(sizes[i]);
            int64_t heads = 2 * m->c.layer[0].n_kv * m->shape.n_attention_layers;
            for (int64_t n = 1; n < 9000; n += 511)
                assert_int_equal(model_kv_bytes(m, &o, n) / heads % (int64_t)sizes[i], 0);
            os_set_page_bytes(0);
        }
    model_close(m);
}

/* Of three layers two see seven tokens: a longer session costs the third one's rows. */
static void near_layers_do_not_grow(void **state)
{
    (void)state;
    struct model *m;
    struct err e = {0};
    struct model_options o = {.kv_f16 = true, .max_tokens = 16, .context = 1 << 20};
    assert_int_equal(model_describe("tests/data/gpt-oss-tiny.gguf", false, &m, &e), OK);
    const int64_t row = m->c.layer[0].n_kv * (m->c.layer[0].key_dim + m->c.layer[0].value_dim) * 2;
    const int64_t near = 2 * row * (2 * 6 + 16), kept = 2 * row * 6; /* rows of both layers */
    assert_int_equal(m->c.layer[0].window, 7);
    assert_int_equal(m->c.layer[1].window, 0);
    assert_int_equal(model_kv_bytes(m, &o, 4096), 4096 * row);
    assert_int_equal(state_fixed_bytes(m, &o),
                     os_whole_pages((size_t)near) + os_whole_pages((size_t)kept));
    o.context = 1; /* no more rows than there are positions */
    assert_true(state_fixed_bytes(m, &o) <= 2 * os_whole_pages((size_t)near));
    model_close(m);
}

/* ---- a whole run ------------------------------------------------------------------ */

enum { N_PROMPT = 60, N_IDS = 72 };
static int32_t ids[N_IDS];

struct outcome {
    uint64_t hash;
    int64_t over; /* of the budget, in pages so large */
};

/* A prompt, tokens one by one, and back again, so that the cache shrinks and grows. */
static struct outcome run(size_t page, int64_t context, int chunk, uint64_t margin)
{
    struct outcome r = {GOLDEN_HASH, INT64_MIN};
    sluice_error e;
    sluice_options o = golden_small(BUILT_IN, "pread");
    os_set_page_bytes(page);
    page = os_page_bytes();
    o.context = (int)context;
    o.chunk = chunk;
    o.memory_bytes = golden_near_floor(&o, margin);
    /* what the process had before is counted by the plan in the system's own pages */
    int64_t before = resident(page) - os_rss();
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(sluice_session_append(x, ids, N_PROMPT, golden_hash, &r.hash, &e), 0);
        for (int i = N_PROMPT; i < N_IDS; i++)
            assert_int_equal(sluice_session_append(x, ids + i, 1, golden_hash, &r.hash, &e), 0);
        r.over = MAX(r.over, resident(page) - before - (int64_t)o.memory_bytes);
        sluice_session_reset(x);
    }
    sluice_session_free(x);
    sluice_close(s);
    os_set_page_bytes(0);
    return r;
}

static void budgets_hold_and_bits_stay(void **state)
{
    (void)state;
    static const struct {
        int64_t context;
        int chunk;
        uint64_t margin;
    } cases[] = {{256, 16, 512 << 10}, {4096, 0, 512 << 10}, {4096, 0, 12 << 20}};
    for (size_t k = 0; k < ARRAY_LEN(cases); k++) {
        struct outcome want = run(0, cases[k].context, cases[k].chunk, cases[k].margin);
        print_message("real pages: %" PRId64 " KiB over the budget\n", want.over >> 10);
        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
            struct outcome got = run(sizes[i], cases[k].context, cases[k].chunk, cases[k].margin);
            print_message("%zu KiB pages: %" PRId64 " KiB over the budget\n", sizes[i] >> 10,
                          got.over >> 10);
            assert_int_equal(got.hash, want.hash);
            if (COUNTS) /* rounding does not use the reserve up, either */
                assert_true(got.over <= 0 && got.over <= want.over + (256 << 10));
        }
    }
}

static int load_ids(void **state)
{
    (void)state;
    json_t *j = golden_json(DATA "heldout.json");
    int64_t n;
    int32_t *all = golden_ints(json_object_get(j, "tokens"), &n);
    memcpy(ids, all + 300, sizeof(ids));
    free(all);
    json_decref(j);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_are_whole_pages),
        cmocka_unit_test(lines_are_whole_pages),
        cmocka_unit_test(heads_are_whole_pages),
        cmocka_unit_test(near_layers_do_not_grow),
        cmocka_unit_test(budgets_hold_and_bits_stay),
    };
    return cmocka_run_group_tests(tests, load_ids, NULL);
}
