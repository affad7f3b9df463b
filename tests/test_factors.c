/*
 * Matrices with factors in tensors of their own (NAME.scale beside NAME.weight, as NVFP4
 * has): of every matrix of every family, and of each expert. A matrix divided by a power
 * of two, with that as its factor, gives the bits of the matrix alone. What cannot be a
 * factor is refused by name.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "golden.h"
#include "model/model_internal.h"
#include "support/remake.h"

enum { MOST = 512, N_IDS = 24 };

static char dir[64], path[96], other[96];

/* ---- a file with factors ------------------------------------------------------- */

struct factors {
    struct remake_tensor t[MOST];
    char scale[MOST][64], weight[MOST][64];
    int n;
};

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* Whether products are made with it: it is no table and no convolution. */
static bool is_matrix(const struct model *m, const struct tensor *t)
{
    return (t->role == ROLE_DENSE || t->role == ROLE_OUTPUT || t->role == ROLE_EXPERT) &&
           t->n_dims >= 2 && ends_with(t->name, ".weight") && !strstr(t->name, "conv1d") &&
           !strstr(t->name, "_ape.") &&
           !(config_has(&m->c, HAS_BESIDE) && strstr(t->name, "ffn_gate_inp."));
}

/* The factors that a file may have and has not, each of `value`; false: of a type that
 * cannot be divided. */
static bool list_factors(const char *model, struct factors *f, float value)
{
    struct model *m;
    struct err e = {0};
    bool floats = true;
    f->n = 0;
    assert_int_equal(model_describe(model, false, &m, &e), OK);
    for (int64_t i = 0; i < weights_n_tensors(m->w); i++) {
        const struct tensor *t = weights_tensor(m->w, i);
        const size_t stem = strlen(t->name) - MIN(strlen(t->name), strlen(".weight"));
        if (!is_matrix(m, t))
            continue;
        floats &= t->type == DT_F32;
        assert_true(f->n < MOST);
        snprintf(f->weight[f->n], sizeof(f->weight[0]), "%s", t->name);
        snprintf(f->scale[f->n], sizeof(f->scale[0]), "%.*s.scale", (int)stem, t->name);
        if (weights_find(m->w, f->scale[f->n]))
            continue;
        f->t[f->n] = (struct remake_tensor){
            f->scale[f->n], DT_F32, {t->role == ROLE_EXPERT ? t->ne[2] : 1}, value};
        f->n++;
    }
    model_close(m);
    assert_true(f->n > 0);
    return floats;
}

/* Each matrix of `path` is divided by a factor that is a power of two. */
static void divide(const struct factors *f)
{
    static const float values[] = {2.0f, 0.5f, 4.0f, 0.25f};
    for (int i = 0; i < f->n; i++) {
        int64_t bytes, scales, at = remake_place(path, f->weight[i], &bytes);
        const int64_t to = remake_place(path, f->scale[i], &scales), n = f->t[i].ne[0];
        float *w = malloc((size_t)bytes);
        FILE *in = fopen(path, "rb");
        assert_true(w && in && fseek(in, at, SEEK_SET) == 0);
        assert_int_equal(fread(w, 1, (size_t)bytes, in), bytes);
        fclose(in);
        const int64_t each = bytes / (int64_t)sizeof(float) / n;
        for (int64_t x = 0; x < n; x++) {
            const float by = values[(i + x) % (int64_t)ARRAY_LEN(values)];
            for (int64_t k = 0; k < each; k++)
                w[x * each + k] /= by;
            remake_patch(path, to + x * (int64_t)sizeof(float), &by, sizeof(by));
        }
        remake_patch(path, at, w, (size_t)bytes);
        free(w);
    }
}

/* Together, one by one, and a few at a time. */
static uint64_t bits(const char *model, bool near_floor)
{
    uint64_t h = GOLDEN_HASH;
    int32_t ids[N_IDS];
    sluice_options o = golden_small(model, "pread");
    sluice_error e;
    if (near_floor)
        o.memory_bytes = golden_near_floor(&o, GOLDEN_MARGIN(2, 64));
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s);
    for (int i = 0; i < N_IDS; i++)
        ids[i] = (i * 53 + 7) % 317;
    assert_int_equal(sluice_session_append(x, ids, N_IDS, golden_hash, &h, &e), 0);
    for (int i = 0; i < 6; i++)
        assert_int_equal(sluice_session_append(x, ids + i, 1, golden_hash, &h, &e), 0);
    for (int i = 6; i < 15; i += 3)
        assert_int_equal(sluice_session_append(x, ids + i, 3, golden_hash, &h, &e), 0);
    sluice_session_free(x);
    sluice_close(s);
    return h;
}

static void assert_bits(const char *what, const char *model, bool near_floor, uint64_t want)
{
    if (bits(model, near_floor) != want)
        fail_msg("%s: other bits", what);
}

static void pack_to(const char *from, const char *to)
{
    sluice_options o = golden_small(from, "pread");
    sluice_pack_options po;
    sluice_error e;
    sluice_pack_options_init(&po);
    po.out = to;
    remove(to);
    if (sluice_pack(&o, &po, NULL, &e) != 0)
        fail_msg("%s: %s", from, e.text);
}

/* ---- the same bits --------------------------------------------------------------- */

static void factors_are_those_of_products(void **state)
{
    (void)state;
    static struct factors f;
    int n_tested = 0;
    for (size_t i = GOLDEN_FIRST; golden_model_of_forms(i); i++) {
        const char *model = golden_model_of_forms(i);
        if (!list_factors(model, &f, 1.0f))
            continue; /* the built-in one */
        remake(&(struct remake){.from = model, .tensors = f.t, .n_tensors = f.n}, path);
        divide(&f);
        assert_bits(model, path, false, bits(model, false));
        n_tested++;
    }
    assert_true(n_tested > 10);
}

static void ones_change_nothing(void **state)
{
    (void)state;
    static struct factors f;
    const char *model = GOLDEN_CHECKED ? TINY : BUILT_IN;
    list_factors(model, &f, 1.0f);
    remake(&(struct remake){.from = model, .tensors = f.t, .n_tensors = f.n}, path);
    assert_bits("ones", path, false, bits(model, false));
}

/* Packed, and with dense weights and factors that are read again for each pass; in old
 * files each expert lies for itself. */
static void wherever_the_matrices_lie(void **state)
{
    (void)state;
    static const char *const models[] = {
        DATA "mixtral-tiny.gguf", DATA "gemma4-tiny.gguf", DATA "gpt-oss-tiny.gguf", TINY};
    static struct factors f;
    for (size_t i = 0; i < ARRAY_LEN(models); i++) {
        list_factors(models[i], &f, 1.0f);
        remake(&(struct remake){.from = models[i], .tensors = f.t, .n_tensors = f.n}, path);
        divide(&f);
        const uint64_t want = bits(models[i], false);
        assert_bits(models[i], path, true, want);
        pack_to(path, other);
        assert_bits(models[i], other, false, want);
        assert_bits(models[i], other, true, want);
        if (i > 0)
            continue;
        remake(&(struct remake){.from = path, .apart = true}, other);
        assert_bits("experts apart", other, false, want);
    }
}

/* ---- what is none ------------------------------------------------------------------ */

static void others_are_refused(void **state)
{
    (void)state;
#define QWEN3 DATA "qwen3moe-tiny.gguf"
#define MIXTRAL DATA "mixtral-tiny.gguf"
#define DEEPSEEK4 DATA "deepseek4-tiny.gguf"
#define TIED DATA "qwen35-tiny.gguf"
#define NO_PLACE "(a factor of a product) has no place in"
    static const struct {
        const char *from;
        struct remake_tensor t;
        const char *why;
    } cases[] = {
        {QWEN3, {"blk.0.attn_q.scale", DT_F32, {2}, 1}, "has shape (2, 1, 1, 1), expected (1, 1"},
        {QWEN3, {"blk.1.attn_output.scale", DT_F16, {1}, 1}, "is F16, expected F32"},
        {QWEN3, {"blk.0.ffn_up_exps.scale", DT_F32, {1}, 1}, "has shape (1, 1, 1, 1), expected ("},
        {QWEN3, {"blk.0.ffn_up_exps.scale", DT_F16, {16}, 1}, "is F16, expected F32"},
        {QWEN3, {"output.scale", DT_F32, {320}, 1}, "has shape (320, 1, 1, 1), expected (1, 1"},
        {QWEN3, {"blk.0.attn_k.scale", DT_F32, {1}, 0}, "is all zeros"},
        {QWEN3, {"blk.0.attn_k.scale", DT_F32, {1}, NAN}, "not finite"},
        {QWEN3, {"blk.0.attn_norm.scale", DT_F32, {1}, 2}, "has no place in"},
        {QWEN3, {"blk.0.attn_qkv.scale", DT_F32, {1}, 2}, NO_PLACE},
        {QWEN3, {"blk.3.attn_q.scale", DT_F32, {1}, 2}, "has no place in"},
        {QWEN3, {"token_embd.scale", DT_F32, {1}, 2}, NO_PLACE},
        {QWEN3, {"blk.0.ffn_gate_up_exps.scale", DT_F32, {16}, 2}, NO_PLACE},
        {TIED, {"output.scale", DT_F32, {1}, 2}, NO_PLACE},
        {TIED, {"blk.0.ssm_conv1d.scale", DT_F32, {1}, 2}, NO_PLACE},
        {MIXTRAL, {"blk.0.ffn_gate.0.scale", DT_F32, {1}, 2}, NO_PLACE},
        {DEEPSEEK4, {"blk.1.attn_compressor_ape.scale", DT_F32, {1}, 2}, "has no place in"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sluice *s = NULL;
        sluice_error e = {0};
        remake(&(struct remake){.from = cases[i].from, .tensors = &cases[i].t, .n_tensors = 1},
               path);
        sluice_options o = golden_small(path, "pread");
        if (sluice_open(&o, &s, &e) == 0 || !strstr(e.text, cases[i].t.name) ||
            !strstr(e.text, cases[i].why))
            fail_msg("%s: \"%s\" is not \"%s\"", cases[i].t.name, e.text, cases[i].why);
    }
}

static int set_up(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/sluice-factors-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/m.gguf", dir);
    snprintf(other, sizeof(other), "%s/other.gguf", dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    remove(path);
    remove(other);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(factors_are_those_of_products),
        cmocka_unit_test(ones_change_nothing),
        cmocka_unit_test(wherever_the_matrices_lie),
        cmocka_unit_test(others_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
