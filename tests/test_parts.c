/*
 * Split models: what any part says is said of the model, wherever it stands; two
 * parts that say different things do not belong together.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "golden.h"
#include "support/gguf_build.h"
#include "support/remake.h"

#define QWEN3 DATA "qwen3moe-tiny.gguf"
enum { N_PARTS = 3, N_TENSORS = 39 };

/* ---- keys of later parts, read ------------------------------------------------- */

struct set {
    struct gb part[N_PARTS];
    struct gguf *g;
    struct err e;
};

/* Begins part `no` with room for `n_more` keys behind those of the set. */
static void begin(struct set *s, unsigned no, unsigned n_more, bool counts)
{
    struct gb *b = &s->part[no];
    gb_head(b, 3, 0, (counts ? 3 : 2) + n_more);
    gb_key(b, "split.no", GGUF_U16), gb_u16(b, no);
    gb_key(b, "split.count", GGUF_U16), gb_u16(b, N_PARTS);
    if (counts)
        gb_kv_u32(b, "split.tensors.count", 0);
}

static int open_set(struct set *s)
{
    struct gguf_blob blobs[N_PARTS];
    char name[N_PARTS][32];
    for (int i = 0; i < N_PARTS; i++) {
        snprintf(name[i], sizeof(name[i]), "m-%05d-of-%05d.gguf", i + 1, N_PARTS);
        blobs[i] = (struct gguf_blob){name[i], s->part[i].p, s->part[i].n};
    }
    s->e = (struct err){0};
    int rc = gguf_open_blobs(blobs, N_PARTS, &s->g, &s->e);
    for (int i = 0; i < N_PARTS; i++)
        gb_free(&s->part[i]); /* the model has copies */
    return rc;
}

static void keys_of_later_parts_are_joined(void **state)
{
    (void)state;
    struct set s = {0};
    uint64_t x = 0;
    struct str text;
    begin(&s, 0, 1, true);
    gb_kv_u32(&s.part[0], "in.first", 1);
    begin(&s, 1, 3, true);
    gb_kv_u32(&s.part[1], "in.second", 2);
    gb_key_array(&s.part[1], "in.second.list", GGUF_U16, 3);
    gb_u16(&s.part[1], 7), gb_u16(&s.part[1], 8), gb_u16(&s.part[1], 9);
    gb_kv_u32(&s.part[1], "general.alignment", 64); /* of this file only */
    begin(&s, 2, 3, true);
    gb_kv_u32(&s.part[2], "in.first", 1);
    gb_kv_u32(&s.part[2], "in.second", 2);
    gb_kv_str(&s.part[2], "in.third", "three");
    assert_int_equal(open_set(&s), OK);
    assert_int_equal(gguf_n_values(s.g), 7);
    assert_true(gguf_value_u64(gguf_find(s.g, "in.first"), 0, &x) && x == 1);
    assert_true(gguf_value_u64(gguf_find(s.g, "in.second"), 0, &x) && x == 2);
    assert_true(gguf_value_u64(gguf_find(s.g, "in.second.list"), 2, &x) && x == 9);
    assert_true(gguf_value_str(gguf_find(s.g, "in.third"), &text));
    assert_memory_equal(text.p, "three", 5);
    assert_true(gguf_value_u64(gguf_find(s.g, "split.no"), 0, &x) && x == 0);
    assert_null(gguf_find(s.g, "general.alignment"));
    assert_null(gguf_breach(s.g));
    gguf_close(s.g);
}

static void many_keys_are_joined(void **state)
{
    (void)state;
    enum { N = 300 };
    struct set s = {0};
    char key[32];
    uint64_t x = 0;
    for (unsigned no = 0; no < N_PARTS; no++) {
        begin(&s, no, N, true);
        for (unsigned i = 0; i < N; i++) {
            snprintf(key, sizeof(key), "part%u.key%u", no, i);
            gb_kv_u32(&s.part[no], key, no * N + i);
        }
    }
    assert_int_equal(open_set(&s), OK);
    assert_int_equal(gguf_n_values(s.g), 3 + N_PARTS * N);
    for (unsigned i = 0; i < N_PARTS * N; i++) {
        snprintf(key, sizeof(key), "part%u.key%u", i / N, i % N);
        assert_true(gguf_value_u64(gguf_find(s.g, key), 0, &x) && x == i);
    }
    gguf_close(s.g);
}

static void later_parts_contradict_each_other(void **state)
{
    (void)state;
    struct set s = {0};
    begin(&s, 0, 0, true);
    begin(&s, 1, 1, true);
    gb_kv_u32(&s.part[1], "x.y", 1);
    begin(&s, 2, 1, true);
    gb_kv_u32(&s.part[2], "x.y", 2);
    assert_int_equal(open_set(&s), E_FORMAT);
    assert_non_null(strstr(s.e.text, "m-00003-of-00003.gguf: its key 'x.y'"));
    assert_non_null(strstr(s.e.text, "in an earlier part"));
}

/* How many tensors there are, only a later part says. */
static void a_later_part_counts_tensors(void **state)
{
    (void)state;
    struct set s = {0};
    begin(&s, 0, 0, false);
    begin(&s, 1, 1, false);
    gb_kv_u32(&s.part[1], "split.tensors.count", 4);
    begin(&s, 2, 0, false);
    assert_int_equal(open_set(&s), E_FORMAT);
    assert_non_null(strstr(s.e.text, "split.tensors.count = 4"));
}

/* ---- keys of later parts, of a model that is run --------------------------------- */

static char dir[64], part[N_PARTS][128];
static char shown[65536];

static void see_meta(void *user, const char *key, const char *type, const char *value)
{
    (void)user, (void)type, (void)value;
    strncat(shown, key, sizeof(shown) - strlen(shown) - 1);
    strncat(shown, "\n", sizeof(shown) - strlen(shown) - 1);
}

static void skip_tensor(void *user, const char *name, const char *type, const int64_t shape[4],
                        int n_dims, int64_t bytes, int file, int64_t offset, const char *role)
{
    (void)user, (void)name, (void)type, (void)shape, (void)n_dims, (void)bytes, (void)file,
        (void)offset, (void)role;
}

/* The model in three parts; part `no` says one thing more, the first leaves it out. */
static void write_parts(int no, const struct remake_key *more)
{
    for (int i = 0; i < N_PARTS; i++) {
        struct remake_key keys[4] = {
            {"split.no", GGUF_U16, false, 1, {i}, NULL},
            {"split.count", GGUF_U16, false, 1, {N_PARTS}, NULL},
            {"split.tensors.count", GGUF_I32, false, 1, {N_TENSORS}, NULL}};
        if (i == no)
            keys[3] = *more;
        remake(&(struct remake){.from = QWEN3,
                                .keys = keys,
                                .n_keys = i == no ? 4 : 3,
                                .bare = i > 0,
                                .without = no > 0 ? more->key : NULL,
                                .first = i * N_TENSORS / N_PARTS,
                                .last = (i + 1) * N_TENSORS / N_PARTS},
               part[i]);
    }
}

static int logits_of(const char *model, float *first, sluice_error *e)
{
    static const int32_t ids[] = {5, 17, 42};
    sluice_options o = golden_small(model, "pread");
    sluice *s = NULL;
    int rc = sluice_open(&o, &s, e);
    if (rc < 0)
        return rc;
    sluice_session *x = golden_session(s);
    assert_int_equal(sluice_session_sync(x, ids, 3, 0, e), 0);
    memcpy(first, sluice_session_logits(x), 64 * sizeof(float));
    sluice_session_free(x);
    sluice_close(s);
    return 0;
}

static void what_a_later_part_says_is_not_ignored(void **state)
{
    (void)state;
    static const struct remake_key changes[] = {
        {"qwen3moe.expert_weights_norm", GGUF_BOOL, false, 1, {0}, NULL},
        {"qwen3moe.logit_scale", GGUF_F32, false, 1, {0.5}, NULL},
        {"qwen3moe.attention.sliding_window", GGUF_U32, false, 1, {16}, NULL},
        {"qwen3moe.rope.scale_linear", GGUF_F32, false, 1, {-4}, NULL},
        {"qwen3moe.invented_by_nobody", GGUF_U32, false, 1, {7}, NULL},
    };
    const sluice_visitor v = {.on_meta = see_meta, .on_tensor = skip_tensor};
    sluice_error e = {0};
    float got[64];
    for (int no = 1; no < N_PARTS; no++)
        for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
            write_parts(no, &changes[i]);
            assert_int_not_equal(logits_of(part[0], got, &e), 0);
            assert_non_null(strstr(e.text, changes[i].key));
            shown[0] = '\0';
            assert_int_equal(sluice_inspect(part[0], &v, &e), 0);
            assert_non_null(strstr(shown, changes[i].key));
        }
}

/* What the model needs may stand in a later part as well. */
static void a_later_part_may_say_what_is_needed(void **state)
{
    (void)state;
    static const struct remake_key base = {
        "qwen3moe.rope.freq_base", GGUF_F32, false, 1, {1e6}, NULL};
    sluice_error e = {0};
    float want[64], got[64];
    write_parts(0, &base);
    assert_int_equal(logits_of(part[0], want, &e), 0);
    write_parts(2, &base);
    if (logits_of(part[0], got, &e) != 0)
        fail_msg("%s", e.text);
    assert_memory_equal(want, got, sizeof(want));
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/sluice-parts-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    for (int i = 0; i < N_PARTS; i++)
        snprintf(part[i], sizeof(part[i]), "%s/m-%05d-of-%05d.gguf", dir, i + 1, N_PARTS);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    for (int i = 0; i < N_PARTS; i++)
        unlink(part[i]);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_of_later_parts_are_joined),
        cmocka_unit_test(many_keys_are_joined),
        cmocka_unit_test(later_parts_contradict_each_other),
        cmocka_unit_test(a_later_part_counts_tensors),
        cmocka_unit_test(what_a_later_part_says_is_not_ignored),
        cmocka_unit_test(a_later_part_may_say_what_is_needed),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
