/*
 * Nobody above src/device may look into a device's memory, or believe that
 * something is finished before it waited: with foreign devices, on which both
 * is impossible, the bits are those of the CPU. Also with dense weights and
 * experts on two devices.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "golden.h"
#include "support/foreign.h"

enum { N_IDS = 62, N_SINGLE = 6 };

static int32_t ids[N_IDS];
static uint64_t seed = 1;
static struct device *foreigner; /* of the model under way */

static int cpu_only(const struct device_config *c, struct device **dense, struct device **experts,
                    struct err *e)
{
    TRY(device_cpu_open(c, dense, e));
    *experts = *dense;
    return OK;
}

static int foreign_only(const struct device_config *c, struct device **dense,
                        struct device **experts, struct err *e)
{
    TRY(foreign_open(c, seed++, dense, e));
    *experts = foreigner = *dense;
    return OK;
}

static int foreign_experts(const struct device_config *c, struct device **dense,
                           struct device **experts, struct err *e)
{
    TRY(device_cpu_open(c, dense, e));
    TRY(foreign_open(c, seed++, experts, e));
    foreigner = *experts;
    return OK;
}

static int foreign_dense(const struct device_config *c, struct device **dense,
                         struct device **experts, struct err *e)
{
    TRY(foreign_open(c, seed++, dense, e));
    foreigner = *dense;
    return device_cpu_open(c, experts, e);
}

static int two_foreign(const struct device_config *c, struct device **dense,
                       struct device **experts, struct err *e)
{
    TRY(foreign_open(c, seed++, dense, e));
    foreigner = *dense;
    return foreign_open(c, seed++, experts, e);
}

static const struct {
    const char *name;
    int (*open)(const struct device_config *, struct device **, struct device **, struct err *);
} kinds[] = {
    {"foreign", foreign_only}, {"experts foreign", foreign_experts},
    {"all but experts foreign", foreign_dense}, {"two foreign", two_foreign},
};

static int load_ids(void **state)
{
    (void)state;
    json_t *j = golden_json(DATA "heldout.json");
    int64_t n;
    int32_t *all = golden_ints(json_object_get(j, "tokens"), &n);
    memcpy(ids, all + 500, sizeof(ids));
    free(all);
    json_decref(j);
    return 0;
}

/* Ids below the vocabulary of the small models too. */
static int32_t id_at(const sluice *s, int i)
{
    sluice_model_info info;
    sluice_info(s, &info);
    return ids[i] % info.n_vocab;
}

/* A prompt, single tokens, back to a snapshot and on, then anew. */
static uint64_t run(const sluice_options *o)
{
    uint64_t h = GOLDEN_HASH;
    sluice_error e;
    int32_t mine[N_IDS];
    sluice *s = golden_open(o);
    sluice_session *x = golden_session(s);
    for (int i = 0; i < N_IDS; i++)
        mine[i] = id_at(s, i);
    assert_int_equal(sluice_session_append(x, mine, N_IDS - N_SINGLE, golden_hash, &h, &e), 0);
    for (int i = N_IDS - N_SINGLE; i < N_IDS; i++)
        assert_int_equal(sluice_session_append(x, mine + i, 1, golden_hash, &h, &e), 0);
    assert_int_equal(sluice_session_sync(x, mine + 10, 50, 40, &e), 0);
    assert_int_equal(sluice_session_sync(x, mine + 10, 45, 40, &e), 0);
    assert_int_equal(sluice_session_append(x, mine, 3, golden_hash, &h, &e), 0);
    sluice_session_free(x);
    sluice_close(s);
    return h;
}

static void same_bits(sluice_options *o)
{
    open_devices = cpu_only;
    uint64_t want = run(o);
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        open_devices = kinds[k].open;
        uint64_t got = run(o);
        if (got != want)
            fail_msg("%s, %s: other bits", o->model, kinds[k].name);
    }
}

static void in_memory(void **state)
{
    (void)state;
    for (size_t m = GOLDEN_FIRST; golden_model_of_forms(m); m++) {
        sluice_options o = golden_small(golden_model_of_forms(m), "pread");
        o.chunk = 64;
        same_bits(&o);
    }
}

/* Near the floor dense weights are read again and again and slots are few, so
 * that both must wait for what is still computed from them. */
static void near_the_floor(void **state)
{
    (void)state;
    for (size_t m = GOLDEN_FIRST; golden_model_of_forms(m); m++)
        for (int chunk = 1; chunk <= 16; chunk += 15) {
            sluice_options o = golden_small(golden_model_of_forms(m), "uring");
            o.chunk = chunk;
            o.memory_bytes = golden_near_floor(&o, GOLDEN_MARGIN(1, 16));
            same_bits(&o);
        }
}

static void work_is_put_off(void **state)
{
    (void)state;
    open_devices = foreign_only;
    sluice_options o = golden_small(BUILT_IN, "pread");
    sluice_error e;
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s);
    assert_int_equal(sluice_session_append(x, ids, 20, NULL, NULL, &e), 0);
    assert_true(foreign_n_delayed(foreigner) > 100);
    assert_true(foreign_most_delayed(foreigner) > 5);
    sluice_session_free(x);
    sluice_close(s);
}

static void failed_reads_end_a_span(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        open_devices = kinds[k].open;
        sluice_options o = golden_small(BUILT_IN, "pread");
        sluice_error e;
        sluice *s = golden_open(&o);
        sluice_session *x = golden_session(s);
        assert_int_equal(sluice_inject_fault(s, "error", 3, 1, 0, &e), 0);
        assert_int_equal(sluice_session_append(x, ids, 20, NULL, NULL, &e), SLUICE_E_IO);
        assert_int_equal(sluice_inject_fault(s, "none", 0, 0, 0, &e), 0);
        sluice_session_reset(x);
        assert_int_equal(sluice_session_append(x, ids, 20, NULL, NULL, &e), 0);
        sluice_session_free(x);
        sluice_close(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_memory),
        cmocka_unit_test(near_the_floor),
        cmocka_unit_test(work_is_put_off),
        cmocka_unit_test(failed_reads_end_a_span),
    };
    return cmocka_run_group_tests(tests, load_ids, NULL);
}
