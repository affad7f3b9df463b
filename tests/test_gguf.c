/*
 * The GGUF reader: right files of every kind, wrong files of every kind (with
 * the sentence they must give), every truncation, and random damage.
 *
 * `test_gguf --seeds DIR` writes the samples as seeds for tests/fuzz.
 */
#include "support/gguf_build.h"

#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- helpers ---------------------------------------------------------- */

static int open_bytes(const void *p, size_t n, struct gguf **g, struct err *e)
{
    struct gguf_blob blob = {"m.gguf", p, n};

    *e = (struct err){0};
    return gguf_open_blobs(&blob, 1, g, e);
}

static struct gguf *open_good(const void *p, size_t n)
{
    struct gguf *g;
    struct err e;
    const char *breach;

    if (open_bytes(p, n, &g, &e) != OK)
        fail_msg("%s", e.text);
    if ((breach = gguf_breach(g)))
        fail_msg("%s", breach);
    return g;
}

static void assert_says(const struct err *e, const char *what)
{
    if (!strstr(e->text, what))
        fail_msg("the sentence \"%s\" does not say \"%s\"", e->text, what);
}

static uint64_t rng_state = 88172645463325252u;

static uint64_t rnd(void) /* xorshift64 */
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    return rng_state ^= rng_state << 17;
}

/* ---- tests of right files --------------------------------------------- */

static void test_samples_open(void **state)
{
    (void)state;
    for (size_t i = 0; gguf_samples[i].name; i++) {
        struct gb b = {0};

        gguf_samples[i].write(&b);
        gguf_close(open_good(b.p, b.n));
        gb_free(&b);
    }
}

static void check_small(const struct gguf *g, int version)
{
    const struct gguf_tensor *t;
    struct str s;
    uint64_t u;

    assert_int_equal(gguf_version(g), version);
    assert_int_equal(gguf_n_values(g), 2);
    assert_int_equal(gguf_n_tensors(g), 2);
    assert_true(gguf_value_str(gguf_find(g, "general.architecture"), &s));
    assert_int_equal(s.n, 8);
    assert_memory_equal(s.p, "qwen3moe", 8);
    assert_true(gguf_value_u64(gguf_find(g, "qwen3moe.block_count"), 0, &u));
    assert_int_equal(u, 1);
    assert_null(gguf_find(g, "qwen3moe"));
    t = gguf_tensor_find(g, "blk.0.w.weight");
    assert_ptr_equal(t, gguf_tensor_at(g, 0));
    assert_string_equal(t->name, "blk.0.w.weight");
    assert_int_equal(t->type, DT_Q4_K);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->ne[0], 256);
    assert_int_equal(t->ne[1], 3);
    assert_int_equal(t->ne[2], 1);
    assert_int_equal(t->bytes, 3 * 144);
    assert_int_equal(t->offset % 32, 0);
    assert_int_equal(gguf_tensor_at(g, 1)->offset - t->offset, 448);
    assert_int_equal(gguf_tensor_at(g, 1)->offset + 20, gguf_file_bytes(g, 0));
    assert_null(gguf_tensor_find(g, "blk.0.w"));
}

static void test_small_versions(void **state)
{
    (void)state;
    for (int version = 2; version <= 3; version++) {
        struct gb b = {0};
        struct gguf *g;

        gguf_sample_small(&b, (uint32_t)version);
        g = open_good(b.p, b.n);
        check_small(g, version);
        gguf_close(g);
        gb_free(&b);
    }
}

static void test_scalar_values(void **state)
{
    static const struct {
        const char *key;
        bool is_u, is_i, is_f;
        uint64_t u;
        int64_t i;
        double f;
    } want[] = {
        {"u8", true, true, true, 200, 200, 200},
        {"i8", false, true, true, 0, -128, -128},
        {"u16", true, true, true, 60000, 60000, 60000},
        {"i16", false, true, true, 0, -32768, -32768},
        {"u32", true, true, true, 4000000000u, 4000000000, 4e9},
        {"i32", false, true, true, 0, INT32_MIN, INT32_MIN},
        {"f32", false, false, true, 0, 0, 1.5},
        {"bool", true, true, false, 1, 1, 0},
        {"str", false, false, false, 0, 0, 0},
        {"u64", true, false, true, UINT64_MAX, 0, 18446744073709551616.0},
        {"i64", false, true, true, 0, INT64_MIN, -9223372036854775808.0},
        {"f64", false, false, true, 0, 0, -0.25},
    };
    struct gb b = {0};
    struct gguf *g;
    struct str s;

    (void)state;
    gguf_sample_write("scalars", &b);
    g = open_good(b.p, b.n);
    for (size_t k = 0; k < ARRAY_LEN(want); k++) {
        const struct gguf_value *v = gguf_find(g, want[k].key);
        uint64_t u = 1;
        int64_t i = 1;
        double f = 1;

        assert_non_null(v);
        assert_false(v->is_array);
        assert_string_equal(want[k].key[0] == 's' ? "str" : gguf_type_name(v->type), want[k].key);
        assert_int_equal(gguf_value_u64(v, 0, &u), want[k].is_u);
        assert_int_equal(gguf_value_i64(v, 0, &i), want[k].is_i);
        assert_int_equal(gguf_value_f64(v, 0, &f), want[k].is_f);
        assert_true(!want[k].is_u || u == want[k].u);
        assert_true(!want[k].is_i || i == want[k].i);
        assert_true(!want[k].is_f || f == want[k].f);
        assert_false(gguf_value_u64(v, 1, &u));
        assert_int_equal(gguf_value_str(v, &s), want[k].key[0] == 's');
        assert_false(gguf_value_strs(v, &s));
    }
    assert_true(gguf_value_str(gguf_find(g, "str"), &s));
    assert_int_equal(s.n, 5);
    assert_true(gguf_value_str(gguf_find(g, "none"), &s));
    assert_int_equal(s.n, 0);
    gguf_close(g);
    gb_free(&b);
}

static void test_array_values(void **state)
{
    struct gb b = {0};
    struct gguf *g;
    struct str s[4];
    int64_t i;
    double f;

    (void)state;
    gguf_sample_write("arrays", &b);
    g = open_good(b.p, b.n);
    assert_int_equal(gguf_find(g, "i16")->n, 3);
    assert_true(gguf_value_i64(gguf_find(g, "i16"), 1, &i));
    assert_int_equal(i, -1);
    assert_false(gguf_value_i64(gguf_find(g, "i16"), 3, &i));
    assert_true(gguf_value_f64(gguf_find(g, "f32"), 1, &f));
    assert_true(f == -2.0);
    assert_true(gguf_value_i64(gguf_find(g, "bool"), 2, &i));
    assert_int_equal(i, 1);
    assert_int_equal(gguf_find(g, "str")->n, 4);
    assert_true(gguf_value_strs(gguf_find(g, "str"), s));
    assert_int_equal(s[0].n, 1);
    assert_int_equal(s[1].n, 0);
    assert_memory_equal(s[2].p, "ccc", 3);
    assert_int_equal(s[3].n, 3);
    assert_memory_equal(s[3].p, "x\0y", 3);
    assert_false(gguf_value_str(gguf_find(g, "str"), s));
    assert_int_equal(gguf_find(g, "none")->n, 0);
    assert_true(gguf_value_strs(gguf_find(g, "none"), s));
    gguf_close(g);
    gb_free(&b);
}

static void test_every_dtype(void **state)
{
    struct gb b = {0};
    struct gguf *g;
    int64_t i = 0;

    (void)state;
    gguf_sample_write("dtypes", &b);
    g = open_good(b.p, b.n);
    for (uint32_t id = 0; id < DT_COUNT; id++) {
        const struct dtype_info *info = dtype_info(id);

        if (!info)
            continue;
        assert_int_equal(gguf_tensor_at(g, i)->type, id);
        assert_int_equal(gguf_tensor_at(g, i)->bytes, 6 * info->block_bytes);
        i++;
    }
    assert_int_equal(i, gguf_n_tensors(g));
    assert_true(i >= 30);
    gguf_close(g);
    gb_free(&b);
}

static void test_alignment_places_data(void **state)
{
    struct gb b = {0};
    struct gguf *g;

    (void)state;
    gguf_sample_write("align4096", &b);
    g = open_good(b.p, b.n);
    assert_int_equal(gguf_tensor_find(g, "first")->offset, 4096);
    assert_int_equal(gguf_tensor_find(g, "second")->offset, 8192);
    gguf_close(g);
    gb_free(&b);
}

/* ---- tests of wrong files --------------------------------------------- */

static void test_wrong_files_say_what_and_where(void **state)
{
    (void)state;
    for (size_t i = 0; gguf_wrongs[i].name; i++) {
        struct gb b = {0};
        struct gguf *g;
        struct err e;
        char place[64];
        int status;

        gguf_wrongs[i].write(&b);
        status = open_bytes(b.p, b.n, &g, &e);
        if (status != gguf_wrongs[i].code || e.code != status || g)
            fail_msg("%s: status %d instead of %d (%s)", gguf_wrongs[i].name, status,
                     gguf_wrongs[i].code, e.text);
        snprintf(place, sizeof place, "at byte %zu: ", b.mark);
        if (b.mark != SIZE_MAX)
            assert_says(&e, place);
        assert_says(&e, gguf_wrongs[i].say);
        assert_int_equal(strncmp(e.text, "m.gguf: ", 8), 0);
        gb_free(&b);
    }
}

static void test_every_truncation_fails(void **state)
{
    (void)state;
    for (size_t i = 0; gguf_samples[i].name; i++) {
        struct gb b = {0};

        gguf_samples[i].write(&b);
        for (size_t n = 0; n < b.n; n++) {
            /* A copy of the exact size, so that a sanitizer sees any byte too far. */
            uint8_t *part = malloc(n ? n : 1);
            struct gguf *g;
            struct err e;

            assert_non_null(part);
            memcpy(part, b.p, n);
            if (open_bytes(part, n, &g, &e) == OK)
                fail_msg("%s opens with %zu of its %zu bytes", gguf_samples[i].name, n, b.n);
            assert_null(g);
            assert_true(e.code == E_FORMAT && e.text[0]);
            free(part);
        }
        gb_free(&b);
    }
}

/* Damages `n` random places: a bit, a byte, or a run of eight. */
static void damage(uint8_t *p, size_t n_bytes, int n)
{
    static const uint64_t nasty[] = {0, 1, UINT64_MAX, INT64_MAX, (uint64_t)1 << 63,
                                     (uint64_t)1 << 32, (uint64_t)1 << 60, 0x7fffffff, 255, 33};

    for (int i = 0; i < n; i++) {
        size_t at_byte = rnd() % n_bytes;

        switch (rnd() % 3) {
        case 0: p[at_byte] ^= (uint8_t)(1u << rnd() % 8); break;
        case 1: p[at_byte] = (uint8_t)rnd(); break;
        default:
            memcpy(p + at_byte, &nasty[rnd() % ARRAY_LEN(nasty)], MIN(n_bytes - at_byte, 8));
        }
    }
}

static void test_damage_never_breaks_a_promise(void **state)
{
    int opened = 0, refused = 0;

    (void)state;
    for (size_t i = 0; gguf_samples[i].name; i++) {
        struct gb b = {0};
        uint8_t *copy;

        gguf_samples[i].write(&b);
        copy = malloc(b.n);
        assert_non_null(copy);
        for (int round = 0; round < 6000; round++) {
            struct gguf *g;
            struct err e;
            size_t header = MIN(b.n, 700);

            memcpy(copy, b.p, b.n);
            damage(copy, header, 1 + (int)(rnd() % 3));
            if (open_bytes(copy, b.n, &g, &e) == OK) {
                const char *breach = gguf_breach(g);

                if (breach)
                    fail_msg("%s, round %d: %s", gguf_samples[i].name, round, breach);
                opened++;
            } else {
                assert_true(e.code < 0 && e.text[0] && !g);
                refused++;
            }
            gguf_close(g);
        }
        free(copy);
        gb_free(&b);
    }
    /* Both must happen, or the damage tests nothing. */
    assert_true(opened > 1000 && refused > 1000);
}

/* ---- split sets ------------------------------------------------------- */

struct set {
    struct gb part[3];
    char name[3][32];
    struct gguf_blob blob[3];
};

/* Split keys as 16-bit ones, like those of real files. */
static void split_keys(struct gb *b, unsigned no, unsigned count, uint32_t n_tensors)
{
    gb_key(b, "split.no", GGUF_U16), gb_u16(b, no);
    gb_key(b, "split.count", GGUF_U16), gb_u16(b, count);
    gb_key(b, "split.tensors.count", GGUF_I32), gb_u32(b, n_tensors);
}

/* A set of three parts; the first has no tensors, the others 1 and 2. */
static void set_write(struct set *s)
{
    memset(s, 0, sizeof *s);
    gb_head(&s->part[0], 3, 0, 4);
    split_keys(&s->part[0], 0, 3, 3);
    gb_kv_str(&s->part[0], "general.architecture", "x");
    gb_head(&s->part[1], 3, 1, 3);
    split_keys(&s->part[1], 1, 3, 3);
    gb_tensor1(&s->part[1], "a", 4, DT_F32, 0);
    gb_data(&s->part[1], 16);
    gb_head(&s->part[2], 2, 2, 3);
    split_keys(&s->part[2], 2, 3, 3);
    gb_tensor1(&s->part[2], "b", 4, DT_F32, 0);
    gb_tensor1(&s->part[2], "c", 4, DT_F32, 32);
    gb_data(&s->part[2], 48);
    for (int i = 0; i < 3; i++)
        snprintf(s->name[i], sizeof s->name[i], "m-%05d-of-00003.gguf", i + 1);
}

static int set_open(struct set *s, int n_blobs, struct gguf **g, struct err *e)
{
    for (int i = 0; i < n_blobs; i++)
        s->blob[i] = (struct gguf_blob){s->name[i], s->part[i].p, s->part[i].n};
    *e = (struct err){0};
    return gguf_open_blobs(s->blob, n_blobs, g, e);
}

static void set_free(struct set *s)
{
    for (int i = 0; i < 3; i++)
        gb_free(&s->part[i]);
}

static void check_set(const struct gguf *g)
{
    assert_int_equal(gguf_n_files(g), 3);
    assert_int_equal(gguf_n_tensors(g), 3);
    assert_int_equal(gguf_n_values(g), 4);
    assert_non_null(gguf_find(g, "general.architecture"));
    assert_int_equal(gguf_tensor_find(g, "a")->file, 1);
    assert_int_equal(gguf_tensor_find(g, "b")->file, 2);
    assert_int_equal(gguf_tensor_find(g, "c")->file, 2);
    assert_null(gguf_breach(g));
}

static void test_split_set_opens(void **state)
{
    struct set s;
    struct gguf *g;
    struct err e;

    (void)state;
    set_write(&s);
    assert_int_equal(set_open(&s, 3, &g, &e), OK);
    check_set(g);
    gguf_close(g);
    set_free(&s);
}

/* Replaces the value of a 16-bit or 32-bit key of a part. */
static void patch(struct gb *b, const char *key, uint8_t v)
{
    size_t n = strlen(key);

    for (size_t i = 24; i + n < b->n; i++)
        if (memcmp(b->p + i, key, n) == 0) {
            b->p[i + n + 4] = v;
            return;
        }
    fail_msg("no key %s to patch", key);
}

static void split_fails(struct set *s, int n_blobs, int code, const char *say, const char *say2)
{
    struct gguf *g;
    struct err e;
    int status = set_open(s, n_blobs, &g, &e);

    assert_int_equal(status, code);
    assert_null(g);
    assert_says(&e, say);
    assert_says(&e, say2);
    set_free(s);
}

static void test_split_sets_that_do_not_fit(void **state)
{
    struct set s;
    struct gb b;

    (void)state;
    set_write(&s); /* a missing part */
    split_fails(&s, 2, E_IO, "m-00003-of-00003.gguf", "part 3 of 3");
    set_write(&s); /* swapped parts */
    b = s.part[1];
    s.part[1] = s.part[2];
    s.part[2] = b;
    split_fails(&s, 3, E_FORMAT, "m-00002-of-00003.gguf: ", "part 3 of 3");
    set_write(&s);
    patch(&s.part[2], "split.count", 4);
    split_fails(&s, 3, E_FORMAT, "m-00003-of-00003.gguf: ", "3 of 4");
    set_write(&s);
    patch(&s.part[1], "split.tensors.count", 9);
    split_fails(&s, 3, E_FORMAT, "m-00002-of-00003.gguf: split.tensors.count = 9", "says 3");
    set_write(&s);
    for (int i = 0; i < 3; i++)
        patch(&s.part[i], "split.tensors.count", 4);
    split_fails(&s, 3, E_FORMAT, "split.tensors.count = 4", "have 3 tensors");
    set_write(&s); /* the same tensor in two parts */
    gb_free(&s.part[2]);
    gb_head(&s.part[2], 3, 2, 3);
    split_keys(&s.part[2], 2, 3, 3);
    gb_tensor1(&s.part[2], "b", 4, DT_F32, 0);
    gb_tensor1(&s.part[2], "a", 4, DT_F32, 32);
    gb_data(&s.part[2], 48);
    split_fails(&s, 3, E_FORMAT, "m-00003-of-00003.gguf: tensor 1 'a'",
                "tensor 0 of m-00002-of-00003.gguf");
    set_write(&s); /* a part that is no part */
    gb_free(&s.part[1]);
    gb_head(&s.part[1], 3, 0, 0);
    split_fails(&s, 3, E_FORMAT, "m-00002-of-00003.gguf: ", "split.no is missing");
    set_write(&s); /* damage in a part is told with the part's name */
    s.part[1].p[0] = 'X';
    split_fails(&s, 3, E_FORMAT, "m-00002-of-00003.gguf: header at byte 0: ", "not a GGUF file");
}

static void test_split_first_part(void **state)
{
    struct set s;

    (void)state;
    set_write(&s); /* another part first: says which one to open */
    gb_free(&s.part[0]);
    gb_head(&s.part[0], 3, 0, 3);
    split_keys(&s.part[0], 1, 3, 3);
    strcpy(s.name[0], "m-00002-of-00003.gguf");
    split_fails(&s, 1, E_ARG, "part 2 of 3", "m-00001-of-00003.gguf");
    set_write(&s); /* renamed */
    strcpy(s.name[0], "other.gguf");
    split_fails(&s, 3, E_FORMAT, "other.gguf: ", "-00001-of-00003.gguf");
    set_write(&s);
    patch(&s.part[0], "split.count", 0);
    split_fails(&s, 3, E_FORMAT, "split.count = 0", "impossible");
    set_write(&s);
    patch(&s.part[0], "split.no", 7);
    split_fails(&s, 3, E_FORMAT, "split.no = 7", "impossible");
}

static void test_split_truncations_fail(void **state)
{
    struct set s;
    struct gguf *g;
    struct err e;

    (void)state;
    set_write(&s);
    for (int part = 0; part < 3; part++) {
        size_t whole = s.part[part].n;

        for (size_t n = 0; n < whole; n++) {
            s.part[part].n = n;
            assert_int_equal(set_open(&s, 3, &g, &e), E_FORMAT);
            assert_says(&e, s.name[part]);
        }
        s.part[part].n = whole;
    }
    set_free(&s);
}

/* ---- real files ------------------------------------------------------- */

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/test_gguf.XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    return rmdir(dir);
}

static const char *in_dir(const char *name)
{
    static char path[160];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void write_file(const char *path, const struct gb *b)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, b->p, b->n), b->n);
    assert_int_equal(close(fd), 0);
}

static void open_fails(const char *path, const char *say)
{
    struct gguf *g;
    struct err e = {0};

    assert_true(gguf_open(path, &g, &e) < 0);
    assert_null(g);
    assert_says(&e, say);
}

static void test_things_that_are_no_model(void **state)
{
    struct gb none = {0};

    (void)state;
    open_fails(in_dir("missing.gguf"), "missing.gguf");
    open_fails(dir, "directory");
    write_file(in_dir("empty.gguf"), &none);
    open_fails(in_dir("empty.gguf"), "empty (0 bytes)");
    unlink(in_dir("empty.gguf"));
    assert_int_equal(mkfifo(in_dir("fifo"), 0600), 0);
    open_fails(in_dir("fifo"), "pipe");
    unlink(in_dir("fifo"));
}

static void test_file_on_disk(void **state)
{
    struct gb b = {0};
    struct gguf *g;
    struct err e = {0};

    (void)state;
    gguf_sample_small(&b, 3);
    write_file(in_dir("m.gguf"), &b);
    assert_int_equal(gguf_open(in_dir("m.gguf"), &g, &e), OK);
    check_small(g, 3);
    assert_string_equal(gguf_file_path(g, 0), in_dir("m.gguf"));
    assert_int_equal(gguf_file_bytes(g, 0), b.n);
    gguf_close(g);
    unlink(in_dir("m.gguf"));
    gb_free(&b);
}

static void test_split_set_on_disk(void **state)
{
    struct set s;
    struct gguf *g;
    struct err e = {0};

    (void)state;
    set_write(&s);
    for (int i = 0; i < 3; i++)
        write_file(in_dir(s.name[i]), &s.part[i]);
    assert_int_equal(gguf_open(in_dir(s.name[0]), &g, &e), OK);
    check_set(g);
    gguf_close(g);
    open_fails(in_dir(s.name[1]), "/m-00001-of-00003.gguf");
    unlink(in_dir(s.name[1]));
    open_fails(in_dir(s.name[0]), "m-00002-of-00003.gguf");
    unlink(in_dir(s.name[0]));
    unlink(in_dir(s.name[2]));
    set_free(&s);
}

/* A sparse file of 64 GiB that claims a string of 60: nothing may be read. */
static void test_claims_in_a_large_file_cost_nothing(void **state)
{
    struct gb b = {0};
    int fd;

    (void)state;
    gb_head(&b, 3, 0, 1);
    gb_key(&b, "a.b", GGUF_STRING);
    gb_u64(&b, (uint64_t)60 << 30);
    write_file(in_dir("sparse.gguf"), &b);
    fd = open(in_dir("sparse.gguf"), O_WRONLY);
    assert_true(fd >= 0);
    if (ftruncate(fd, (off_t)64 << 30) == 0)
        open_fails(in_dir("sparse.gguf"), "header larger than");
    close(fd);
    unlink(in_dir("sparse.gguf"));
    gb_free(&b);
}

/* A header larger than the first read, found again after the buffer moved. */
static void test_large_header(void **state)
{
    enum { N = 20000 };
    struct gb b = {0};
    struct gguf *g;
    char name[32];
    struct str *tokens = malloc(N * sizeof *tokens);

    (void)state;
    assert_non_null(tokens);
    gb_head(&b, 3, N, 1);
    gb_key_array(&b, "tokens", GGUF_STRING, N);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "token-%d", i);
        gb_str(&b, name);
    }
    for (uint64_t i = 0; i < N; i++) {
        snprintf(name, sizeof name, "t%" PRIu64, (i * 7919) % N);
        gb_tensor1(&b, name, 8, DT_F32, (i * 7919) % N * 32);
    }
    gb_data(&b, N * 32);
    assert_int_equal(open_bytes(b.p, b.n, &g, &(struct err){0}), OK);
    assert_true(gguf_value_strs(gguf_find(g, "tokens"), tokens));
    for (uint64_t i = 0; i < N; i++) {
        const struct gguf_tensor *t;

        snprintf(name, sizeof name, "token-%" PRIu64, i);
        assert_int_equal(tokens[i].n, strlen(name));
        assert_memory_equal(tokens[i].p, name, tokens[i].n);
        snprintf(name, sizeof name, "t%" PRIu64, i);
        t = gguf_tensor_find(g, name);
        assert_non_null(t);
        assert_int_equal(t->offset - (int64_t)(b.n - N * 32), i * 32);
    }
    gguf_close(g);
    gb_free(&b);
    free(tokens);
}

static void real_model(const char *path, int64_t n_values, int64_t n_tensors, const char *name)
{
    struct gguf *g;
    struct err e = {0};
    struct str arch;
    const char *breach;

    if (access(path, R_OK) != 0)
        skip();
    if (gguf_open(path, &g, &e) != OK)
        fail_msg("%s", e.text);
    if ((breach = gguf_breach(g)))
        fail_msg("%s", breach);
    assert_int_equal(gguf_n_values(g), n_values);
    assert_int_equal(gguf_n_tensors(g), n_tensors);
    assert_true(gguf_value_str(gguf_find(g, "general.architecture"), &arch));
    assert_memory_equal(arch.p, "qwen35moe", arch.n);
    assert_non_null(gguf_tensor_find(g, name));
    gguf_close(g);
}

static void test_tiny_model(void **state)
{
    (void)state;
    real_model("tests/data/tiny-f32.gguf", 38, 76, "blk.3.attn_q.weight");
}

static void test_built_in_model(void **state)
{
    (void)state;
    real_model("models/pocket-dictionary.gguf", 38, 149, "blk.7.ffn_down_exps.weight");
}

/* ---- seeds ------------------------------------------------------------ */

static int write_seed(const char *where, const char *name, const struct gb *b)
{
    char path[512];
    FILE *f;
    bool ok;

    snprintf(path, sizeof path, "%s/%s", where, name);
    f = fopen(path, "wb");
    if (!f)
        return 1;
    ok = fwrite(b->p, 1, b->n, f) == b->n;
    return fclose(f) != 0 || !ok;
}

static int write_seeds(const char *where)
{
    int failed = 0;
    struct gb b = {0};
    struct set s;

    for (size_t i = 0; gguf_samples[i].name; i++) {
        gguf_samples[i].write(&b);
        failed |= b.n <= 2048 && write_seed(where, gguf_samples[i].name, &b);
        gb_free(&b);
    }
    for (size_t i = 0; gguf_wrongs[i].name; i++) {
        gguf_wrongs[i].write(&b);
        b.n = MIN(b.n, 2048);
        failed |= write_seed(where, gguf_wrongs[i].name, &b);
        gb_free(&b);
    }
    set_write(&s); /* as fuzz_gguf.c cuts it */
    gb_u8(&b, 'S'), gb_u8(&b, 1);
    gb_u16(&b, (unsigned)s.part[0].n), gb_u16(&b, (unsigned)s.part[1].n), gb_u16(&b, 0);
    for (int i = 0; i < 3; i++)
        gb_put(&b, s.part[i].p, s.part[i].n);
    failed |= write_seed(where, "split", &b);
    gb_free(&b);
    set_free(&s);
    return failed;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_samples_open),
        cmocka_unit_test(test_small_versions),
        cmocka_unit_test(test_scalar_values),
        cmocka_unit_test(test_array_values),
        cmocka_unit_test(test_every_dtype),
        cmocka_unit_test(test_alignment_places_data),
        cmocka_unit_test(test_wrong_files_say_what_and_where),
        cmocka_unit_test(test_every_truncation_fails),
        cmocka_unit_test(test_damage_never_breaks_a_promise),
        cmocka_unit_test(test_split_set_opens),
        cmocka_unit_test(test_split_sets_that_do_not_fit),
        cmocka_unit_test(test_split_first_part),
        cmocka_unit_test(test_split_truncations_fail),
        cmocka_unit_test(test_things_that_are_no_model),
        cmocka_unit_test(test_file_on_disk),
        cmocka_unit_test(test_split_set_on_disk),
        cmocka_unit_test(test_claims_in_a_large_file_cost_nothing),
        cmocka_unit_test(test_large_header),
        cmocka_unit_test(test_tiny_model),
        cmocka_unit_test(test_built_in_model),
    };

    if (argc == 3 && strcmp(argv[1], "--seeds") == 0)
        return write_seeds(argv[2]);
    return cmocka_run_group_tests_name("gguf", tests, make_dir, remove_dir);
}
