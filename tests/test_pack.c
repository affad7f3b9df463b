/*
 * Packed files: the same bits from them, one aligned read an expert, every byte
 * where the format says, and refusal of what a damaged one claims.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "expert/cache_impl.h"
#include "model/model_internal.h"
#include "golden.h"
#include "weights/weights_internal.h"
#include "support/gguf_build.h"

#include <sys/stat.h>
#include <unistd.h>

/* Those that have experts. */
static struct {
    const char *path;
    int n_parts;     /* of an expert: so many reads, before packing */
    char packed[64]; /* its packed copy */
} models[64];
static size_t n_models;
static char dir[] = "/var/tmp/sluice_pack_XXXXXX";

static const char *packed_of(const char *path)
{
    for (size_t i = 0; i < n_models; i++)
        if (strcmp(models[i].path, path) == 0)
            return models[i].packed;
    fail_msg("%s has not been packed", path);
    return NULL;
}

static void pack(const char *model, const char *out)
{
    sluice_options o;
    sluice_pack_options p = {.size = sizeof(p), .out = out};
    sluice_pack_result r;
    sluice_error e;
    sluice_options_init(&o);
    o.model = model;
    if (sluice_pack(&o, &p, &r, &e) < 0)
        fail_msg("%s", e.text);
    assert_false(r.was_packed);
    assert_int_equal(r.expert_bytes % 4096, 0);
    struct stat st;
    assert_int_equal(stat(out, &st), 0);
    assert_int_equal(st.st_size, r.bytes_after);
}

/* How many parts an expert has; 0: there are none. */
static int parts_of(const char *path)
{
    struct err e = {0};
    struct model *m;
    struct model_shape shape;
    if (model_describe(path, false, &m, &e) != OK)
        fail_msg("%s", e.text);
    model_shape(m, &shape);
    int n = shape.n_experts ? m->experts[m->c.n_layers - 1].n_parts : 0;
    model_close(m);
    return n;
}

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    for (size_t i = 0; golden_model_of_forms(i); i++) {
        int n_parts = parts_of(golden_model_of_forms(i));
        if (n_parts == 0)
            continue;
        assert_true(n_models < ARRAY_LEN(models));
        models[n_models].path = golden_model_of_forms(i);
        models[n_models].n_parts = n_parts;
        snprintf(models[n_models].packed, sizeof(models[n_models].packed), "%s/%zu.gguf", dir, i);
        pack(models[n_models].path, models[n_models].packed);
        n_models++;
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_models; i++)
        unlink(models[i].packed);
    return rmdir(dir); /* fails when anything else is left */
}

/* ---- the same bits, fewer reads -------------------------------------------- */

struct run {
    uint64_t hash;
    int64_t n_reads, read_bytes, n_misses;
};

/* A prompt and some tokens one by one, from the smallest cache; tight: with the
 * smallest budget, so that dense weights are read again and again, too. */
static void run(const char *model, const char *io, bool tight, struct run *r)
{
    sluice_options o = golden_small(model, io);
    sluice_plan p;
    sluice_error e;
    struct ioq_stats before, after;
    struct expert_stats experts;
    int32_t ids[40];
    o.lookahead = -1; /* every read is somebody's miss */
    assert_int_equal(sluice_plan_memory(&o, NULL, &p, &e), 0);
    o.memory_bytes = tight ? (uint64_t)p.memory.floor + GOLDEN_MARGIN(1, 8) : (uint64_t)2 << 30;
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s);
    for (int i = 0; i < 40; i++)
        ids[i] = (i * 37 + 5) % s->shape.n_vocab;
    expert_resize(model_experts(s->model), (size_t)p.memory.cache_min);
    ioq_get_stats(s->q, &before);
    *r = (struct run){.hash = GOLDEN_HASH};
    assert_int_equal(sluice_session_append(x, ids, 24, golden_hash, &r->hash, &e), 0);
    for (int i = 24; i < 40; i++)
        assert_int_equal(sluice_session_append(x, ids + i, 1, golden_hash, &r->hash, &e), 0);
    ioq_get_stats(s->q, &after);
    expert_get_stats(model_experts(s->model), &experts);
    r->n_reads = after.n_reads - before.n_reads;
    r->read_bytes = after.bytes - before.bytes;
    r->n_misses = experts.n_misses;
    sluice_session_free(x);
    sluice_close(s);
}

static void same_bits_one_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_models; i++) {
        struct run was, is;
        run(models[i].path, "pread", false, &was);
        assert_true(was.n_misses > 0);
        /* what lies in one page is read at once */
        assert_true(was.n_reads <= models[i].n_parts * was.n_misses);
        assert_true(was.n_reads > was.n_misses);
        for (int k = 0; golden_reader(k); k++) {
            run(models[i].packed, golden_reader(k), false, &is);
            assert_int_equal(is.hash, was.hash);
            assert_int_equal(is.n_reads, is.n_misses);
            /* for each expert; caches of the two may hold different numbers of them */
            assert_true(is.read_bytes / is.n_misses <= was.read_bytes / was.n_misses);
            run(models[i].packed, golden_reader(k), true, &is);
            assert_int_equal(is.hash, was.hash);
        }
    }
}

/* Each read is exactly the expert and its padding: no page of a neighbour. */
static void no_superset(void **state)
{
    (void)state;
    struct run r;
    struct err e = {0};
    struct model *m;
    assert_int_equal(model_describe(packed_of(TINY), false, &m, &e), OK);
    const struct tensor *t = weights_find(m->w, "blk.0.ffn_exps.packed");
    assert_non_null(t); /* of this model all layers are alike */
    assert_int_equal(t->offset % 4096, 0);
    run(packed_of(TINY), "pread", false, &r);
    assert_int_equal(r.read_bytes, r.n_misses * t->ne[0]);
    model_close(m);
}

/* Padding between matrices does not part them; anything larger, another stride
 * or another order does. Room for an aligned expert is its pages. */
static void what_one_read_takes(void **state)
{
    (void)state;
    static const struct {
        int64_t second, stride;
        int n_extents;
        size_t slot_bytes;
    } cases[] = {
        {8192 + 1000, 8192, 1, 4096}, {8192 + 1024, 8192, 1, 4096},
        {8192 + 1255, 8192, 1, 4096}, {8192 + 1256, 8192, 2, 8192 + 4096},
        {8192 + 999, 8192, 2, 12288}, {8192 + 1024, 8193, 1, 8192},
        {4096, 8192, 2, 8192},        {8192 + 1000 + 8192, 8192, 2, 12288},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct expert_layer l = {.n_experts = 4, .n_parts = 2};
        struct expert_config cfg = {.layers = &l, .n_layers = 1, .n_used = 1};
        struct expert_cache c = {0};
        struct err e = {0};
        l.part[0] = (struct expert_part){0, 8192, cases[i].stride, 1000, false};
        l.part[1] = (struct expert_part){0, cases[i].second, cases[i].stride, 500, false};
        assert_int_equal(slots_plan(&c, &cfg, &e), OK);
        assert_int_equal(c.plan[0].n_extents, cases[i].n_extents);
        if (c.plan[0].n_extents == 1)
            assert_int_equal(c.plan[0].part_delta[1], cases[i].second - 8192);
        assert_int_equal(c.plan[0].slot_bytes, cases[i].slot_bytes);
        slots_plan_free(&c);
    }
}

/* The plan says what it would gain: as the drive's rates go, until the processor is the limit. */
static void plan_knows(void **state)
{
    (void)state;
    static const struct {
        double part_gbs, packed_gbs, dot_gbs, gain;
    } cases[] = {{1e-3, 1.5e-3, 100, 1.5}, {1e-3, 0.5e-3, 100, 1}, {100, 200, 1e-3, 1}};
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
            sluice_options o;
            sluice_plan p;
            sluice_error e;
            sluice_probe_result r = {.drive_gbs = cases[i].part_gbs,
                                     .drive_gbs_packed = cases[i].packed_gbs,
                                     .dot_gbs = cases[i].dot_gbs,
                                     .memory_gbs = 1};
            sluice_options_init(&o);
            o.model = k ? packed_of(BUILT_IN) : BUILT_IN;
            o.context = 64;
            o.memory_bytes = (uint64_t)1 << 40;
            assert_int_equal(sluice_plan_memory(&o, NULL, &p, &e), 0);
            /* all but the experts fit */
            o.memory_bytes = (uint64_t)(p.memory.floor + p.memory.dense_full) + (4 << 20);
            assert_int_equal(sluice_plan_memory(&o, &r, &p, &e), 0);
            assert_int_equal(p.traffic.dense_read_per_token, 0);
            assert_true(p.traffic.hit_rate < 1);
            assert_int_equal(p.traffic.packed, k == 1);
            assert_true(p.speed.pack_gain > (k ? 1 : cases[i].gain) - 1e-4 &&
                        p.speed.pack_gain < (k ? 1 : cases[i].gain) + 1e-4);
        }
}

/* ---- every byte ---------------------------------------------------------------- */

static uint8_t *whole_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *n = (size_t)ftell(f);
    rewind(f);
    uint8_t *p = malloc(*n);
    assert_non_null(p);
    assert_int_equal(fread(p, 1, *n, f), *n);
    fclose(f);
    return p;
}

static struct gguf *opened(const char *path)
{
    struct gguf *g;
    struct err e = {0};
    if (gguf_open(path, &g, &e) != OK)
        fail_msg("%s", e.text);
    assert_null(gguf_breach(g));
    return g;
}

/* Tensors of the original are there as they were, or in the packed one. */
static void every_byte_is_there(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_models; i++) {
        size_t na, nb;
        uint8_t *a = whole_file(models[i].path, &na), *b = whole_file(models[i].packed, &nb);
        struct gguf *ga = opened(models[i].path), *gb = opened(models[i].packed);
        struct weights *k;
        struct err e = {0};
        int64_t n_packed = 0;
        assert_int_equal(weights_of_gguf(gb, &k, &e), OK);
        assert_int_equal(weights_unpack(k, &e), OK);
        for (int64_t j = 0; j < gguf_n_tensors(ga); j++) {
            const struct gguf_tensor *t = gguf_tensor_at(ga, j);
            const struct tensor *u = weights_find(k, t->name);
            assert_non_null(u);
            assert_int_equal(t->type, u->type);
            assert_memory_equal(t->ne, u->ne, sizeof(t->ne));
            n_packed += u->inside != NULL;
            const int64_t n = u->inside ? u->inside->ne[1] : t->ne[2], bytes = t->bytes / n;
            for (int64_t x = 0; x < n; x++)
                assert_memory_equal(a + t->offset + x * bytes, b + u->offset + x * u->stride,
                                    bytes);
        }
        assert_int_equal(n_packed, k->n_tensors - k->n_own);
        assert_true(n_packed > 0);
        for (int64_t j = 0; j < gguf_n_values(ga); j++) {
            const struct gguf_value *v = gguf_value_at(ga, j);
            char key[256];
            snprintf(key, sizeof(key), "%.*s", (int)v->key.n, v->key.p);
            const struct gguf_value *w = gguf_find(gb, key);
            assert_non_null(w);
            assert_true(w->type == v->type && w->is_array == v->is_array && w->n == v->n);
        }
        gguf_close(ga);
        weights_close(k); /* and gb */
        free(a);
        free(b);
    }
}

/* ---- the writer of headers --------------------------------------------------------- */

static void values_are_copied(void **state)
{
    (void)state;
    static const char *const samples[] = {"scalars", "arrays"};
    for (size_t s = 0; s < ARRAY_LEN(samples); s++) {
        struct gb file = {0};
        struct gguf *g, *h;
        struct err e = {0};
        const void *header;
        size_t n;
        int64_t data;
        gguf_sample_write(samples[s], &file);
        assert_int_equal(gguf_open_blobs(&(struct gguf_blob){"a", file.p, file.n}, 1, &g, &e), OK);
        struct gguf_writer *w = gguf_writer_new(64);
        assert_non_null(w);
        for (int64_t i = 0; i < gguf_n_values(g); i++)
            gguf_write_value(w, gguf_value_at(g, i));
        gguf_write_tensor(w, "t", DT_Q4_K, 2, (const int64_t[]){256, 3});
        assert_int_equal(gguf_writer_end(w, &header, &n, &data, &e), OK);
        assert_int_equal(n % 64, 0);
        assert_int_equal(data, 448); /* 3 * 144 and padding */
        uint8_t *b = calloc(1, n + (size_t)data);
        assert_non_null(b);
        memcpy(b, header, n);
        assert_int_equal(gguf_open_blobs(&(struct gguf_blob){"b", b, n + (size_t)data}, 1, &h, &e),
                         OK);
        assert_null(gguf_breach(h));
        assert_int_equal(gguf_n_values(h), gguf_n_values(g) + 1); /* the alignment */
        for (int64_t i = 0; i < gguf_n_values(g); i++) {
            const struct gguf_value *x = gguf_value_at(g, i), *y = gguf_value_at(h, i + 1);
            assert_int_equal(x->key.n, y->key.n);
            assert_memory_equal(x->key.p, y->key.p, x->key.n);
            assert_true(x->type == y->type && x->is_array == y->is_array && x->n == y->n);
        }
        gguf_writer_free(w);
        gguf_close(g);
        gguf_close(h);
        gb_free(&file);
        free(b);
    }
}

/* ---- damaged descriptions ---------------------------------------------------------------- */

static uint8_t *find(uint8_t *p, size_t n, const char *what)
{
    uint8_t *at = memmem(p, n, what, strlen(what));
    assert_non_null(at);
    return at;
}

/* Writes the bytes and opens them: the code, and the sentence in e. */
static int open_bytes(const uint8_t *p, size_t n, struct err *e)
{
    char path[64];
    struct model *m = NULL;
    snprintf(path, sizeof(path), "%s/damaged.gguf", dir);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    *e = (struct err){0};
    int rc = model_describe(path, false, &m, e);
    if (rc == OK)
        model_close(m);
    unlink(path);
    return rc;
}

#define TYPE_AT 4            /* behind a key: the type, then the value */
#define ARRAY_AT (4 + 4 + 8) /* the type, that of the elements, their number */

static void damage(void **state)
{
    (void)state;
    static const struct {
        const char *key; /* the byte is changed so many bytes behind it */
        int behind, value, code;
        const char *say;
    } wrongs[] = {
        {"sluice.pack.version", TYPE_AT, 2, E_UNSUPPORTED, "version 2 of the form"},
        {"sluice.pack.version", 0, GGUF_F32, E_FORMAT,
         "'sluice.pack.version' is missing or not a number"},
        {"sluice.pack.part.name", -1, 'x', E_FORMAT, "'sluice.pack.part.name' is missing"},
        {"sluice.pack.part.type", -1, 'x', E_FORMAT, "'sluice.pack.part.type' is missing"},
        {"sluice.pack.part.shape", -1, 'x', E_FORMAT, "'sluice.pack.part.shape' is missing"},
        {"sluice.pack.part.type", ARRAY_AT - 12, GGUF_F32, E_FORMAT,
         "'sluice.pack.part.type' is missing or not"},
        {"sluice.pack.part.type", ARRAY_AT, 99, E_UNSUPPORTED, "has type 99, which is not known"},
        {"sluice.pack.part.type", ARRAY_AT, DT_F64, E_FORMAT, "bytes for each"},
        {"sluice.pack.part.type", ARRAY_AT, DT_F16, E_FORMAT, "take"},
        {"sluice.pack.part.type", ARRAY_AT, DT_Q6_K, E_FORMAT, "cannot have the shape"},
        {"sluice.pack.part.shape", ARRAY_AT + 7, 0x80, E_FORMAT, "cannot have the shape"},
        {"sluice.pack.part.shape", ARRAY_AT + 8 + 3, 0x40, E_FORMAT, "bytes for each"},
        {"sluice.pack.part.shape", ARRAY_AT + 8, 0, E_FORMAT, "cannot have the shape"},
        {"sluice.pack.part.shape", ARRAY_AT + 16, 2, E_FORMAT, "is of 2 experts, but tensor"},
        {"sluice.pack.part.name", ARRAY_AT + 8 + 4, '9', E_FORMAT,
         "'blk.9.ffn_exps.packed' is missing"},
        {"sluice.pack.part.name", ARRAY_AT + 8 + 6, 'x', E_FORMAT, "no expert matrix's"},
        {"sluice.pack.part.name", ARRAY_AT + 8 + 25, 0, E_FORMAT, "no expert matrix's"},
        {"blk.0.ffn_exps.packed", -1, 'x', E_FORMAT, "'blk.0.ffn_exps.packed' is missing"},
        {"blk.0.ffn_exps.packed", 4 + 8 + 8, DT_I16, E_FORMAT, NULL},
    };
    size_t n;
    uint8_t *p = whole_file(packed_of(TINY), &n);
    struct err e;
    assert_int_equal(open_bytes(p, n, &e), OK);
    for (size_t i = 0; i < ARRAY_LEN(wrongs); i++) {
        uint8_t *at = find(p, n, wrongs[i].key) + strlen(wrongs[i].key) + wrongs[i].behind;
        uint8_t was = *at;
        *at = (uint8_t)wrongs[i].value;
        int rc = open_bytes(p, n, &e);
        if (rc != wrongs[i].code || (wrongs[i].say && !strstr(e.text, wrongs[i].say)))
            fail_msg("damage %zu: %d %s", i, rc, e.text);
        assert_null(strchr(e.text, '\n'));
        *at = was;
    }
    free(p);
}

/* Random damage to what describes the packing: refused or harmless, never a
 * crash, and never a matrix outside its tensor. */
static void random_damage(void **state)
{
    (void)state;
    size_t n;
    uint8_t *p = whole_file(packed_of(TINY), &n);
    size_t begin = (size_t)(find(p, n, "sluice.pack.version") - p);
    size_t end = (size_t)(find(p, n, "blk.0.ffn_exps.packed") - p) + 64;
    uint64_t seed = 1;
    int refused = 0;
    for (int i = 0; i < 3000; i++) {
        struct gguf *g;
        struct weights *k;
        struct err e = {0};
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint8_t *at = p + begin + (seed >> 33) % (end - begin), was = *at;
        *at ^= (uint8_t)(1u << (seed >> 29) % 8);
        if (gguf_open_blobs(&(struct gguf_blob){"m", p, n}, 1, &g, &e) == OK) {
            assert_int_equal(weights_of_gguf(g, &k, &e), OK);
            refused += weights_unpack(k, &e) < 0;
            for (int64_t j = k->n_own; j < k->n_tensors; j++) {
                const struct tensor *x = &k->tensors[j];
                assert_true(x->offset + (x->inside->ne[1] - 1) * x->stride + x->bytes / x->ne[2] <=
                            x->inside->offset + x->inside->bytes);
            }
            weights_close(k);
        } else {
            refused++;
        }
        *at = was;
    }
    assert_true(refused > 1000);
    free(p);
}

/* Both at once would leave open which one counts. */
static void twice_is_refused(void **state)
{
    (void)state;
    size_t n;
    uint8_t *p = whole_file(packed_of(TINY), &n);
    struct err e;
    uint8_t *name = find(p, n, "blk.1.ffn_gate_exps.weight");
    memcpy(name, "blk.0.ffn_gate_exps.weight", 26);
    assert_int_equal(open_bytes(p, n, &e), E_FORMAT);
    assert_non_null(strstr(e.text, "; pack the original again"));
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_one_read),
        cmocka_unit_test(no_superset),
        cmocka_unit_test(plan_knows),
        cmocka_unit_test(what_one_read_takes),
        cmocka_unit_test(every_byte_is_there),
        cmocka_unit_test(values_are_copied),
        cmocka_unit_test(damage),
        cmocka_unit_test(random_damage),
        cmocka_unit_test(twice_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
