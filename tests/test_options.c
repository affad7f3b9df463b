/*
 * Structs of a host that was compiled with another version of sluice.h: options, which
 * begin with their size, and those whose size the inline functions pass.
 */
#include "engine/engine.h"
#include "golden.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NOWHERE "/nonexistent/model.gguf"

/* ---- every function that takes options ------------------------------------- */

static int call_open(const sluice_options *o, sluice_error *e)
{
    sluice *s = NULL;
    int rc = sluice_open(o, &s, e);
    assert_null(s);
    return rc;
}

static int call_check(const sluice_options *o, sluice_error *e)
{
    int rc = sluice_check(o, NULL, 0, e);
    return rc == SLUICE_OK ? SLUICE_E_IO : rc; /* it opens no model that it could miss */
}

static int call_plan(const sluice_options *o, sluice_error *e)
{
    sluice_plan p;
    return sluice_plan_memory(o, NULL, &p, e);
}

static int call_probe(const sluice_options *o, sluice_error *e)
{
    sluice_probe_result r;
    return sluice_probe(o, &r, e);
}

static int call_pack(const sluice_options *o, sluice_error *e)
{
    sluice_pack_options p = {.size = sizeof(p)};
    return sluice_pack(o, &p, NULL, e);
}

typedef int call_fn(const sluice_options *o, sluice_error *e);
static call_fn *const calls[] = {call_open, call_check, call_plan, call_probe, call_pack};

static void every_call(const sluice_options *o, int rc, const char *says)
{
    for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
        sluice_error e = {0};
        int got = calls[i](o, &e);
        if (got != rc || !strstr(e.text, says))
            fail_msg("call %zu: status %d, expected %d with '%s': %s", i, got, rc, says, e.text);
    }
}

/* ---- sizes ------------------------------------------------------------------- */

static void a_size_that_no_version_has_is_refused(void **state)
{
    (void)state;
    static const size_t sizes[] = {
        0, 1, sizeof(size_t), offsetof(sluice_options, held_bytes), sizeof(sluice_options) - 4,
        sizeof(sluice_options) + 1, 5000, SIZE_MAX};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        sluice_options o;
        sluice_options_init(&o);
        o.model = NOWHERE;
        o.size = sizes[i];
        every_call(&o, SLUICE_E_ARG, "sluice_options_init");
    }
    every_call(NULL, SLUICE_E_ARG, "sluice_options_init");
}

static void the_size_is_set(void **state)
{
    (void)state;
    sluice_options o;
    memset(&o, 0xa5, sizeof(o));
    sluice_options_init(&o);
    assert_int_equal(o.size, sizeof(o));
    assert_true(!o.model && !o.memory_bytes && !o.timeline && !o.held_bytes);
    o.model = NOWHERE;
    every_call(&o, SLUICE_E_IO, "");
}

/* A host of a later version; of what it knows more, nothing is asked for, or something. */
static void a_longer_struct_may_ask_for_nothing_more(void **state)
{
    (void)state;
    struct {
        sluice_options o;
        uint8_t more[64];
    } later;
    sluice_options_init_sized(&later.o, sizeof(later));
    assert_int_equal(later.o.size, sizeof(later));
    later.o.model = NOWHERE;
    every_call(&later.o, SLUICE_E_IO, "");
    for (size_t i = 0; i < sizeof(later.more); i += 21) {
        later.more[i] = 1;
        every_call(&later.o, SLUICE_E_ARG, "of sluice_options is set, and this version of sluice");
        later.more[i] = 0;
    }
    later.more[63] = 1;
    later.o.size -= 8; /* what is behind the struct is not the library's business */
    every_call(&later.o, SLUICE_E_IO, "");
}

/* A library of a later version, which knows more than this host. */
static void a_shorter_struct_leaves_the_rest_at_its_defaults(void **state)
{
    (void)state;
    struct newer {
        sluice_options o;
        int64_t more;
        char name[24];
    } known;
    struct {
        sluice_options o;
        uint8_t beyond[64]; /* of the host's stack */
    } host;
    memset(&host, 0xa5, sizeof(host));
    memset(&known, 0x5a, sizeof(known));
    sluice_options_init(&host.o);
    host.o.model = NOWHERE;
    host.o.threads = 3;
    host.o.held_bytes = 77;
    struct err e = {0};
    assert_int_equal(sized_copy("it", &host, host.o.size, sizeof(known), &known, &e), OK);
    assert_string_equal(known.o.model, NOWHERE);
    assert_int_equal(known.o.threads, 3);
    assert_int_equal(known.o.held_bytes, 77);
    assert_int_equal(known.more, 0);
    for (size_t i = 0; i < sizeof(known.name); i++)
        assert_int_equal(known.name[i], 0);
}

/* ---- other structs of options -------------------------------------------------- */

static sluice *model;
static sluice_session *session;

static int open_model(void **state)
{
    (void)state;
    sluice_options o = golden_small(TINY, "pread");
    model = golden_open(&o);
    session = golden_session(model);
    return sluice_session_append(session, (int32_t[]){1, 2, 3}, 3, NULL, NULL, NULL);
}

static int close_model(void **state)
{
    (void)state;
    sluice_session_free(session);
    sluice_close(model);
    return 0;
}

static int generate(const void *p, sluice_error *e)
{
    return sluice_generate(session, p, 0, NULL, NULL, NULL, e);
}

static int make_sampler(const void *p, sluice_error *e)
{
    sluice_sampler *z = NULL;
    int rc = sluice_sampler_new(model, p, &z, e);
    sluice_sampler_free(z);
    return rc;
}

/* Of a model that is not there: what is left to refuse when the struct is taken. */
static int pack(const void *p, sluice_error *e)
{
    sluice_options o;
    sluice_options_init(&o);
    o.model = NOWHERE;
    int rc = sluice_pack(&o, p, NULL, e);
    return rc == SLUICE_E_IO ? SLUICE_OK : rc;
}

static void init_sampling(void *p, size_t size)
{
    sluice_sampling_init_sized(p, size);
}

static void init_pack(void *p, size_t size)
{
    sluice_pack_options_init_sized(p, size);
}

static const struct {
    const char *name;
    size_t size;
    void (*init)(void *p, size_t size);
    int (*call)(const void *p, sluice_error *e);
} kinds[] = {
    {"sluice_sampling", sizeof(sluice_sampling), init_sampling, generate},
    {"sluice_sampling", sizeof(sluice_sampling), init_sampling, make_sampler},
    {"sluice_pack_options", sizeof(sluice_pack_options), init_pack, pack},
};

static void gives(const char *name, int got, int want, const sluice_error *e, const char *says)
{
    if (got != want || !strstr(e->text, says))
        fail_msg("%s: status %d, expected %d with '%s': %s", name, got, want, says, e->text);
}

static void options_of_all_kinds(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        union {
            size_t size;
            uint8_t bytes[256];
        } p;
        sluice_error e = {0};
        const char *name = kinds[k].name;
        const size_t size = kinds[k].size;
        const size_t wrong[] = {0, sizeof(size_t), size - 8, size + 3, size + 4, 5000, SIZE_MAX};
        for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
            kinds[k].init(&p, kinds[k].size);
            p.size = wrong[i];
            gives(name, kinds[k].call(&p, &e), SLUICE_E_ARG, &e, name);
        }
        gives(name, kinds[k].call(NULL, &e), SLUICE_E_ARG, &e, name);
        memset(&p, 0xa5, sizeof(p)); /* an older host, with who knows what behind its struct */
        kinds[k].init(&p, kinds[k].size);
        assert_int_equal(p.size, kinds[k].size);
        assert_int_equal(p.bytes[kinds[k].size], 0xa5);
        gives(name, kinds[k].call(&p, &e), SLUICE_OK, &e, "");
        kinds[k].init(&p, kinds[k].size + 16); /* a newer one, which asks for nothing new */
        gives(name, kinds[k].call(&p, &e), SLUICE_OK, &e, "");
        p.bytes[kinds[k].size + 3] = 1;
        gives(name, kinds[k].call(&p, &e), SLUICE_E_ARG, &e, name);
    }
}

/* ---- structs whose size is passed ------------------------------------------------ */

static sluice_options nowhere(void)
{
    sluice_options o;
    sluice_options_init(&o);
    o.model = NOWHERE;
    return o;
}

static int give_files(void *p, size_t size, sluice_error *e)
{
    sluice_options o = nowhere();
    sluice_file f = {"--out", "/tmp/x", true};
    memcpy(p, &f, sizeof(f));
    return sluice_check_sized(&o, p, 1, size, e);
}

static int give_messages(void *p, size_t size, sluice_error *e)
{
    sluice_message m = {.role = "user", .content = "a"};
    int32_t *ids = NULL;
    int64_t n, n_stable;
    memcpy(p, &m, sizeof(m));
    int rc = sluice_chat_ids_sized(model, p, 1, size, false, &ids, &n, &n_stable, e);
    sluice_free(ids);
    return rc;
}

static int give_spans(void *p, size_t size, sluice_error *e)
{
    static const int32_t id = 4;
    sluice_span x = {.session = session, .ids = &id, .n = 1};
    memcpy(p, &x, sizeof(x));
    return sluice_step_sized(model, p, 1, size, e);
}

static int give_visitor(void *p, size_t size, sluice_error *e)
{
    return sluice_inspect_sized(TINY, p, size, e);
}

static int give_verifier(void *p, size_t size, sluice_error *e)
{
    int64_t n;
    return sluice_verify_sized(TINY, p, size, &n, e);
}

static int give_probe(void *p, size_t size, sluice_error *e)
{
    sluice_options o = golden_small(TINY, "pread");
    sluice_plan plan;
    return sluice_plan_memory_sized(&o, p, size, &plan, sizeof(plan), e);
}

static int predict(void *p, size_t size, sluice_error *e)
{
    sluice_probe_result r = {.drive_gbs = 1, .token_s = 1};
    memcpy(p, &r, sizeof(r));
    strcpy(e->text, "sluice_probe_result of who knows what"); /* it cannot say */
    return sluice_predict_sized(p, size, 1e9) > 0 ? SLUICE_OK : SLUICE_E_ARG;
}

static int get_plan(void *p, size_t size, sluice_error *e)
{
    sluice_options o = golden_small(TINY, "pread");
    return sluice_plan_memory_sized(&o, NULL, 0, p, size, e);
}

/* What was packed is not there, but the result is. */
static int get_result(void *p, size_t size, sluice_error *e)
{
    sluice_options o = nowhere();
    sluice_pack_options po;
    sluice_pack_options_init(&po);
    int rc = sluice_pack_sized(&o, &po, p, size, e);
    return rc == SLUICE_E_IO ? SLUICE_OK : rc;
}

static int get_probe(void *p, size_t size, sluice_error *e)
{
    sluice_options o = nowhere();
    int rc = sluice_probe_sized(&o, p, size, e);
    return rc == SLUICE_E_IO ? SLUICE_OK : rc;
}

static int get_info(void *p, size_t size, sluice_error *e)
{
    (void)e;
    sluice_info_sized(model, p, size);
    return SLUICE_OK;
}

static int get_opened_plan(void *p, size_t size, sluice_error *e)
{
    (void)e;
    sluice_get_plan_sized(model, p, size);
    return SLUICE_OK;
}

static int get_stats(void *p, size_t size, sluice_error *e)
{
    (void)e;
    sluice_get_stats_sized(model, p, size);
    return SLUICE_OK;
}

static int get_session_stats(void *p, size_t size, sluice_error *e)
{
    (void)e;
    sluice_session_get_stats_sized(session, p, size);
    return SLUICE_OK;
}

static int get_part(void *p, size_t size, sluice_error *e)
{
    sluice_answer_options o;
    sluice_answer *a;
    sluice_answer_options_init(&o);
    assert_int_equal(sluice_answer_new(NULL, &o, &a, e), 0);
    int rc = sluice_answer_next_sized(a, p, size, e);
    sluice_answer_free(a);
    return rc;
}

static int get_message(void *p, size_t size, sluice_error *e)
{
    sluice_answer_options o;
    sluice_answer *a;
    sluice_answer_options_init(&o);
    assert_int_equal(sluice_answer_new(NULL, &o, &a, e), 0);
    int rc = sluice_answer_message_sized(a, p, size, e);
    sluice_answer_free(a);
    return rc;
}

typedef int sized_fn(void *p, size_t size, sluice_error *e);

/* Every function that passes a size. `silent`: it has no status. */
static const struct {
    const char *name;
    size_t size;
    sized_fn *call;
    bool silent;
} reads[] = {
    {"sluice_file", sizeof(sluice_file), give_files, false},
    {"sluice_message", sizeof(sluice_message), give_messages, false},
    {"sluice_span", sizeof(sluice_span), give_spans, false},
    {"sluice_visitor", sizeof(sluice_visitor), give_visitor, false},
    {"sluice_verifier", sizeof(sluice_verifier), give_verifier, false},
    {"sluice_probe_result", sizeof(sluice_probe_result), give_probe, false},
    {"sluice_probe_result", sizeof(sluice_probe_result), predict, false},
}, writes[] = {
    {"sluice_plan", sizeof(sluice_plan), get_plan, false},
    {"sluice_part", sizeof(sluice_part), get_part, false},
    {"sluice_message", sizeof(sluice_message), get_message, false},
    {"sluice_pack_result", sizeof(sluice_pack_result), get_result, false},
    {"sluice_probe_result", sizeof(sluice_probe_result), get_probe, false},
    {"sluice_model_info", sizeof(sluice_model_info), get_info, true},
    {"sluice_plan", sizeof(sluice_plan), get_opened_plan, true},
    {"sluice_stats", sizeof(sluice_stats), get_stats, true},
    {"sluice_session_stats", sizeof(sluice_session_stats), get_session_stats, true},
};
enum { ROOM = 6000 };

static void structs_that_are_read(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(reads); k++) {
        static uint64_t room[ROOM / 8];
        uint8_t *p = (uint8_t *)room;
        const char *name = reads[k].name;
        const size_t size = reads[k].size, wrong[] = {0, 1, size - 8, size + 4, 5000, SIZE_MAX};
        sluice_error e = {0};
        for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
            memset(p, 0, ROOM);
            gives(name, reads[k].call(p, wrong[i], &e), SLUICE_E_ARG, &e, name);
        }
        memset(p, 0, ROOM);
        memset(p + size, 0xa5, 8);
        gives(name, reads[k].call(p, size, &e), SLUICE_OK, &e, "");
        gives(name, reads[k].call(p, size + 8, &e), SLUICE_E_ARG, &e, name);
        memset(p, 0, ROOM);
        gives(name, reads[k].call(p, size + 8, &e), SLUICE_OK, &e, "");
    }
}

static void structs_that_are_written(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(writes); k++) {
        static uint64_t room[ROOM / 8];
        uint8_t *p = (uint8_t *)room;
        const char *name = writes[k].name;
        const size_t size = writes[k].size, wrong[] = {0, 1, size - 8, size + 4, 5000, SIZE_MAX};
        sluice_error e = {0};
        memset(p, 0xa5, ROOM);
        for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
            int rc = writes[k].call(p, wrong[i], &e);
            if (!writes[k].silent)
                gives(name, rc, SLUICE_E_ARG, &e, name);
            for (size_t b = 0; b < ROOM; b++)
                assert_int_equal(p[b], 0xa5);
        }
        gives(name, writes[k].call(p, size, &e), SLUICE_OK, &e, "");
        bool written = false;
        for (size_t b = 0; b < size; b++)
            written = written || p[b] != 0xa5;
        assert_true(written);
        for (size_t b = size; b < ROOM; b++)
            assert_int_equal(p[b], 0xa5);
        gives(name, writes[k].call(p, size + 16, &e), SLUICE_OK, &e, "");
        for (size_t b = size; b < size + 16; b++)
            assert_int_equal(p[b], 0);
        assert_int_equal(p[size + 16], 0xa5);
    }
}

/* What a library of a later version writes for this host: no byte behind its struct. */
static void a_shorter_struct_is_written_as_far_as_it_goes(void **state)
{
    (void)state;
    static const uint8_t all[24] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    uint8_t out[24];
    for (size_t size = 0; size <= sizeof(out); size++) {
        memset(out, 0xa5, sizeof(out));
        sized_put(all, 12, out, size);
        for (size_t b = 0; b < sizeof(out); b++)
            assert_int_equal(out[b], b >= size ? 0xa5 : b < 12 ? all[b] : 0);
    }
}

/* Spans stand one host's struct apart. */
static void spans_of_a_longer_struct(void **state)
{
    (void)state;
    struct {
        sluice_span x;
        int64_t more;
    } spans[3] = {0};
    static const int32_t ids[] = {5, 6, 7};
    sluice_session *s[3];
    sluice_error e;
    for (int i = 0; i < 3; i++) {
        s[i] = golden_session(model);
        spans[i].x = (sluice_span){.session = s[i], .ids = ids, .n = i == 1 ? 0 : i + 1};
    }
    assert_int_equal(sluice_step_sized(model, &spans[0].x, 3, sizeof(spans[0]), &e), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(spans[i].x.status, i == 1 ? SLUICE_E_ARG : SLUICE_OK);
        assert_int_equal(spans[i].x.done, i == 1 ? 0 : i + 1);
        assert_int_equal(sluice_session_length(s[i]), spans[i].x.done);
        assert_int_equal(spans[i].more, 0);
        sluice_session_free(s[i]);
    }
}

/* ---- ranges -------------------------------------------------------------------- */

static void the_largest_values_are_taken_and_no_larger(void **state)
{
    (void)state;
    static const char *const names[] = {"threads", "chunk", "lookahead"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        for (int more = 0; more < 2; more++) {
            sluice_options o;
            sluice_error e = {0};
            sluice_options_init(&o);
            o.model = NOWHERE;
            *(i == 0   ? &o.threads
              : i == 1 ? &o.chunk
                       : &o.lookahead) = (int)sluice_most(names[i]) + more;
            assert_int_equal(sluice_check(&o, NULL, 0, &e), more ? SLUICE_E_ARG : SLUICE_OK);
        }
    assert_int_equal(sluice_most("io"), 0);
    assert_int_equal(sluice_most(""), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_size_that_no_version_has_is_refused),
        cmocka_unit_test(the_size_is_set),
        cmocka_unit_test(a_longer_struct_may_ask_for_nothing_more),
        cmocka_unit_test(a_shorter_struct_leaves_the_rest_at_its_defaults),
        cmocka_unit_test(options_of_all_kinds),
        cmocka_unit_test(structs_that_are_read),
        cmocka_unit_test(structs_that_are_written),
        cmocka_unit_test(a_shorter_struct_is_written_as_far_as_it_goes),
        cmocka_unit_test(spans_of_a_longer_struct),
        cmocka_unit_test(the_largest_values_are_taken_and_no_larger),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
