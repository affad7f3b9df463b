/*
 * Damaged files: weights that are not finite, all zero, or text; files that
 * change while they are in use. Refused at load where the weights pass through
 * memory then, else noticed where they come in; never an answer made of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "golden.h"
#include "support/remake.h"

static const int32_t prompt[] = {8184, 272, 198, 298,  376, 1116, 474, 489,
                                 403,  313, 30,  8185, 198, 8184, 273, 198};
enum { N_PROMPT = sizeof(prompt) / sizeof(prompt[0]) };

static char dir[64], path[96];

static void copy_model(const char *from)
{
    remake(&(struct remake){.from = from}, path);
}

static sluice_options near_floor(bool everything)
{
    sluice_options o = golden_small(path, "pread");
    o.lookahead = -1;
    if (!everything)
        o.memory_bytes = golden_near_floor(&o, GOLDEN_MARGIN(1, 8));
    return o;
}

static void assert_words(const sluice_error *e, int code, const char *a, const char *b)
{
    if (e->code != code || !strstr(e->text, a) || !strstr(e->text, b) || !strstr(e->text, dir))
        fail_msg("%d \"%s\" should be %d with \"%s\" and \"%s\"", e->code, e->text, code, a, b);
}

/* ---- at load ------------------------------------------------------------------- */

static void assert_load_refused(const char *tensor, const char *words)
{
    sluice_options o = near_floor(true);
    sluice_error e = {0};
    sluice *s = NULL;
    if (sluice_open(&o, &s, &e) == 0)
        fail_msg("%s was loaded", tensor);
    assert_words(&e, SLUICE_E_FORMAT, tensor, words);
}

static void zeros_are_refused_at_load(void **state)
{
    (void)state;
    static const char *const names[] = {"blk.0.attn_norm.weight", "blk.3.attn_q_norm.weight",
                                        "blk.2.ffn_gate_inp.weight", "output_norm.weight",
                                        "output.weight", "blk.1.ssm_a", "blk.1.ssm_norm.weight",
                                        "blk.1.attn_qkv.weight", "token_embd.weight"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        int64_t bytes, at;
        copy_model(TINY);
        at = remake_place(path, names[i], &bytes);
        remake_fill(path, at, 0, bytes);
        assert_load_refused(names[i], "all zeros");
    }
}

static void half_a_download_is_refused(void **state)
{
    (void)state;
    struct stat st;
    copy_model(TINY);
    assert_int_equal(stat(path, &st), 0);
    remake_fill(path, st.st_size / 2, 0, st.st_size - st.st_size / 2);
    assert_load_refused("blk.", "all zeros");
}

static void floats_that_are_none_are_refused_at_load(void **state)
{
    (void)state;
    static const char *const names[] = {
        "blk.0.attn_norm.weight", "blk.2.ffn_gate_inp.weight",       "output_norm.weight",
        "blk.1.ssm_dt.bias",      "blk.1.ffn_gate_inp_shexp.weight", "blk.1.ssm_conv1d.weight"};
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        int64_t bytes, at;
        copy_model(TINY);
        at = remake_place(path, names[i], &bytes);
        remake_patch(path, at + bytes - 4, &bad[i % 3], 4);
        assert_load_refused(names[i], "not finite");
    }
}

/* Rows of a table of experts are as many different experts. */
static void experts_by_token_are_looked_at(void **state)
{
    (void)state;
    static const int32_t bad[][2] = {{0, 4}, {-1, 2}, {INT32_MAX, 1}, {3, 3}}; /* of 4 experts */
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        int64_t bytes, at;
        copy_model(DATA "deepseek4-tiny.gguf");
        at = remake_place(path, "blk.1.ffn_gate_tid2eid.weight", &bytes);
        remake_patch(path, at + bytes - (int64_t)sizeof(bad[i]), bad[i], sizeof(bad[i]));
        assert_load_refused("blk.1.ffn_gate_tid2eid.weight", "not 2 different experts of 4");
    }
}

/* ---- while running --------------------------------------------------------------- */

/* The built-in model has a NaN in a block's scale, at `at`; whatever memory there
 * is and however many tokens come at once, nothing is answered. The session can
 * be used again, and fails again. */
static void assert_noticed(bool everything, const char *a, const char *b)
{
    sluice_options o = near_floor(everything);
    sluice_error e = {0};
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s);
    for (int again = 0; again < 2; again++) {
        assert_int_not_equal(sluice_session_sync(x, prompt, N_PROMPT, 0, &e), 0);
        assert_words(&e, SLUICE_E_FORMAT, a, b);
        assert_null(sluice_session_logits(x));
        sluice_session_reset(x);
    }
    int rc = 0;
    for (int i = 0; i < N_PROMPT && rc == 0; i++)
        rc = sluice_session_append(x, prompt + i, 1, NULL, NULL, &e);
    assert_int_not_equal(rc, 0);
    assert_words(&e, SLUICE_E_FORMAT, a, b);
    sluice_session_reset(x);
    double perplexity;
    assert_int_not_equal(sluice_eval_perplexity(x, prompt, N_PROMPT, 8, &perplexity, NULL, &e), 0);
    assert_words(&e, SLUICE_E_FORMAT, a, b);
    sluice_session_free(x);
    sluice_close(s);
}

/* A hole where experts are: dense weights do not meet it, as in packed files, whose
 * experts come last. */
static void experts_that_are_zero_are_noticed(void **state)
{
    (void)state;
    static const char *const names[] = {"blk.0.ffn_down_exps.weight", "blk.2.ffn_up_exps.weight",
                                        "blk.7.ffn_gate_exps.weight"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        int64_t bytes, at;
        char layer[32];
        copy_model(BUILT_IN);
        at = remake_place(path, names[i], &bytes);
        remake_fill(path, at, 0, bytes);
        snprintf(layer, sizeof(layer), "of layer %c ", names[i][4]);
        assert_noticed(i % 2 == 0, layer, "is all zeros");
    }
}

static void half_a_packed_model_is_noticed(void **state)
{
    (void)state;
    char packed[96];
    sluice_error e = {0};
    struct stat st;
    snprintf(packed, sizeof(packed), "%s/packed.gguf", dir);
    copy_model(BUILT_IN);
    sluice_options o = near_floor(true);
    sluice_pack_options p;
    sluice_pack_result r;
    sluice_pack_options_init(&p);
    p.out = packed;
    assert_int_equal(sluice_pack(&o, &p, &r, &e), 0);
    assert_int_equal(rename(packed, path), 0);
    assert_int_equal(stat(path, &st), 0);
    remake_fill(path, st.st_size / 2, 0, st.st_size - st.st_size / 2);
    assert_noticed(true, "expert", "is all zeros");
}

/* The scale of each block of the tensor becomes the 16 bits of `half`, from byte
 * `skip` on, `step` bytes apart. */
static void spoil(const char *tensor, int skip, int step, uint16_t half)
{
    int64_t bytes, at = remake_place(path, tensor, &bytes);
    for (int64_t i = skip; i < bytes; i += (int64_t)step * 16)
        remake_patch(path, at + i, &half, 2);
}

static void what_is_not_finite_is_noticed(void **state)
{
    (void)state;
    const uint16_t nan16 = 0x7e00, inf16 = 0x7c00;
    for (int everything = 0; everything < 2; everything++) {
        copy_model(BUILT_IN);
        spoil("blk.2.ffn_gate_exps.weight", 0, 144, nan16); /* Q4_K */
        assert_noticed(everything, "layer 2", "experts");
        copy_model(BUILT_IN);
        spoil("blk.5.ffn_up_exps.weight", 0, 144, inf16);
        assert_noticed(everything, "layer 5", "experts");
        copy_model(BUILT_IN);
        spoil("blk.3.attn_output.weight", 0, 144, nan16);
        assert_noticed(everything, "layer 3", "attention");
        copy_model(BUILT_IN);
        spoil("blk.4.ssm_out.weight", 0, 144, nan16);
        assert_noticed(everything, "layer 4", "delta net");
        copy_model(BUILT_IN);
        spoil("output.weight", 208, 210, nan16); /* Q6_K */
        assert_noticed(everything, "logits", "not finite");
        copy_model(BUILT_IN);
        spoil("token_embd.weight", 0, 9, nan16); /* each 144th byte among them */
        assert_noticed(everything, "embedding", "not finite");
    }
}

/* Layers that do not stay are looked at when they come in. */
static void floats_are_looked_at_when_they_come_in(void **state)
{
    (void)state;
    const float nan32 = NAN;
    copy_model(BUILT_IN);
    int64_t bytes, at = remake_place(path, "blk.6.ffn_gate_inp.weight", &bytes);
    remake_patch(path, at + bytes / 2, &nan32, 4);
    sluice_options o = near_floor(false);
    sluice_error e = {0};
    sluice *s = NULL;
    int rc = sluice_open(&o, &s, &e);
    if (rc == 0) {
        sluice_session *x = golden_session(s);
        rc = sluice_session_sync(x, prompt, N_PROMPT, 0, &e);
        sluice_session_free(x);
        sluice_close(s);
    }
    assert_int_not_equal(rc, 0);
    assert_words(&e, SLUICE_E_FORMAT, "blk.6.ffn_gate_inp.weight", "not finite");
}

static int count_token(void *user, int32_t id, const char *text, size_t n)
{
    (void)id, (void)text, (void)n;
    ++*(int *)user;
    return 0;
}

/* Other weights in the same place, while the session lives: finite or not, the
 * file is not the one that was opened. */
static void changes_are_noticed(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        sluice_sampling greedy;
        sluice_error e = {0};
        int n = 0;
        copy_model(BUILT_IN);
        sluice_options o = near_floor(false);
        sluice *s = golden_open(&o);
        sluice_session *x = golden_session(s);
        sluice_sampling_init(&greedy);
        assert_int_equal(sluice_session_sync(x, prompt, N_PROMPT, 0, &e), 0);
        assert_int_equal(sluice_generate(x, &greedy, 2, count_token, &n, NULL, &e), 0);
        if (kind == 0)
            spoil("blk.2.ffn_up_exps.weight", 0, 144, 0x7e00);
        else if (kind == 1) /* the time alone */
            assert_int_equal(utimensat(AT_FDCWD, path, (struct timespec[]){{1, 1}, {1, 1}}, 0), 0);
        else if (kind == 2) /* another file of that name */
            assert_int_equal(unlink(path), 0);
        if (kind == 2)
            copy_model(BUILT_IN);
        else if (kind == 3)
            assert_int_equal(truncate(path, 40 << 20), 0);
        int rc = sluice_generate(x, &greedy, 3, count_token, &n, NULL, &e);
        if (rc == 0)
            fail_msg("kind %d was not noticed", kind);
        if (kind < 3)
            assert_words(&e, SLUICE_E_IO, "has changed", "in use");
        sluice_session_free(x);
        sluice_close(s);
    }
}

/* ... by each step that a host takes, whoever is in it. */
static void steps_notice_changes(void **state)
{
    (void)state;
    sluice_error e = {0};
    copy_model(TINY);
    sluice_options o = near_floor(true);
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s), *y = golden_session(s);
    sluice_span spans[] = {{.session = x, .ids = prompt, .n = N_PROMPT},
                           {.session = y, .ids = prompt, .n = 1},
                           {.session = x, .ids = prompt, .n = 0}};
    assert_int_equal(sluice_step(s, spans, 2, &e), 0);
    assert_true(spans[0].status == 0 && spans[1].status == 0);
    assert_int_equal(utimensat(AT_FDCWD, path, (struct timespec[]){{1, 1}, {1, 1}}, 0), 0);
    spans[0].n = 1;
    assert_int_equal(sluice_step(s, spans, 2, &e), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(spans[i].status, SLUICE_E_IO);
        assert_non_null(strstr(spans[i].error.text, "has changed"));
        assert_null(sluice_session_logits(spans[i].session));
    }
    spans[2].session = y; /* what had no part keeps its own sentence */
    assert_int_equal(sluice_step(s, spans + 2, 1, &e), 0);
    assert_int_equal(spans[2].status, SLUICE_E_ARG);
    sluice_session_free(x);
    sluice_session_free(y);
    sluice_close(s);
}

static void changes_of_a_mirror_are_noticed(void **state)
{
    (void)state;
    char folder[80], copy[96];
    const char *mirror = folder;
    sluice_error e = {0};
    snprintf(folder, sizeof(folder), "%s/mirror", dir);
    snprintf(copy, sizeof(copy), "%s/m.gguf", folder);
    copy_model(TINY);
    assert_int_equal(mkdir(folder, 0700), 0);
    remake(&(struct remake){.from = TINY}, copy);
    sluice_options o = near_floor(true);
    o.mirrors = &mirror;
    o.n_mirrors = 1;
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s);
    assert_int_equal(sluice_session_sync(x, prompt, N_PROMPT, 0, &e), 0);
    assert_int_equal(utimensat(AT_FDCWD, copy, (struct timespec[]){{1, 1}, {1, 1}}, 0), 0);
    assert_int_not_equal(sluice_session_append(x, prompt, 2, NULL, NULL, &e), 0);
    assert_words(&e, SLUICE_E_IO, "has changed", copy);
    sluice_session_free(x);
    sluice_close(s);
    unlink(copy);
    rmdir(folder);
}

/* ---- check ------------------------------------------------------------------------- */

struct told {
    char findings[8192], sum[80];
    int n_files, n_progress, stop_at;
};

static void on_file(void *user, const char *file, int64_t bytes, const char *sha256)
{
    struct told *t = user;
    struct stat st;
    assert_int_equal(stat(file, &st), 0);
    assert_true(bytes == st.st_size);
    strcpy(t->sum, sha256);
    t->n_files++;
}

static void on_finding(void *user, const char *text)
{
    struct told *t = user;
    assert_true(strlen(t->findings) + strlen(text) + 2 < sizeof(t->findings));
    strcat(t->findings, text);
    strcat(t->findings, "\n");
}

static int on_progress(void *user, const char *what, int64_t done, int64_t total)
{
    struct told *t = user;
    assert_string_equal(what, "check");
    assert_true(done > 0 && done <= total);
    return ++t->n_progress == t->stop_at;
}

static int64_t check(struct told *t)
{
    sluice_verifier c = {
        .on_file = on_file, .on_finding = on_finding, .progress = on_progress, .user = t};
    sluice_error e = {0};
    int64_t n = -1;
    *t = (struct told){.stop_at = 0};
    if (sluice_verify(path, &c, &n, &e) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(t->n_files, 1);
    return n;
}

static void assert_finding(const char *words, int64_t n)
{
    struct told t;
    int64_t got = check(&t);
    if (got != n || !strstr(t.findings, words))
        fail_msg("%d findings \"%s\" should be %d with \"%s\"", (int)got, t.findings, (int)n,
                 words);
}

static void check_finds_damage(void **state)
{
    (void)state;
    static const char html[] =
        "<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>";
    char page[2048];
    struct told t;
    int64_t bytes, at, one;
    copy_model(BUILT_IN);
    assert_int_equal(check(&t), 0);
    assert_true(t.n_progress > 3);

    at = remake_place(path, "blk.2.ffn_gate_exps.weight", &bytes); /* of 32 experts */
    one = bytes / 32;
    remake_fill(path, at + 5 * one, 0, one);
    assert_finding("'blk.2.ffn_gate_exps.weight', expert 5 is all zeros", 1);
    remake_fill(path, at + 6 * one, 0, 3 * one);
    assert_finding("'blk.2.ffn_gate_exps.weight', experts 5 to 8 are all zeros", 1);

    copy_model(BUILT_IN);
    for (size_t i = 0; i < sizeof(page); i++)
        page[i] = html[i % (sizeof(html) - 1)];
    remake_patch(path, at + 17 * one + 1000, page, sizeof(page));
    assert_finding("'blk.2.ffn_gate_exps.weight', expert 17 holds text from byte", 1);
    check(&t);
    assert_non_null(strstr(t.findings, "<!DOCTYPE html>"));

    copy_model(BUILT_IN);
    uint16_t nan16 = 0x7e00;
    remake_patch(path, at + 31 * one + 144, &nan16, 2); /* d of the second block of 256 */
    assert_finding("expert 31: 256 of 65536 values are not finite, the first is number 256", 1);

    copy_model(BUILT_IN);
    at = remake_place(path, "blk.7.attn_q.weight", &bytes);
    remake_fill(path, at, 0, bytes);
    assert_finding("'blk.7.attn_q.weight' is all zeros", 1);
    copy_model(BUILT_IN);
    remake_fill(path, at + bytes / 2, 0, bytes / 2);
    assert_finding("'blk.7.attn_q.weight' is zero from byte", 1);

    copy_model(BUILT_IN);
    FILE *f = fopen(path, "ab");
    assert_non_null(f);
    for (int i = 0; i < 5000; i++)
        putc(0xa5, f);
    fclose(f);
    assert_finding("bytes follow the last tensor", 1);
}

/* Zeros in a part of a matrix: named where a trained model has none. */
static void check_finds_zeros(void **state)
{
    (void)state;
    static const struct {
        const char *from, *tensor;
        int begin, end, of;
        const char *words;
    } holes[] = {
        /* [begin, end) of `of` equal parts; "": nothing is told */
        {BUILT_IN, "output.weight", 1, 2, 2, "'output.weight' is zero from byte"},
        {BUILT_IN, "output.weight", 0, 1, 2, "'output.weight' is zero from byte"},
        {BUILT_IN, "output.weight", 40, 42, 100, "'output.weight' is zero from byte"},
        {BUILT_IN, "token_embd.weight", 1, 2, 2, "'token_embd.weight' is zero from byte"},
        {BUILT_IN, "blk.3.ffn_gate_inp.weight", 1, 2, 2,
         "'blk.3.ffn_gate_inp.weight': 16 of 32 rows are all zeros, the first is number 16"},
        {BUILT_IN, "blk.3.ffn_gate_inp.weight", 31, 32, 32,
         "1 of 32 rows are all zeros, the first is number 31"},
        {BUILT_IN, "blk.3.ffn_gate_inp.weight", 0, 1, 32,
         "1 of 32 rows are all zeros, the first is number 0"},
        {BUILT_IN, "blk.3.ffn_gate_inp.weight", 3, 4, 64, ""},
        {BUILT_IN, "blk.3.attn_norm.weight", 1, 2, 2, "'blk.3.attn_norm.weight' is zero from byte"},
        {BUILT_IN, "blk.3.attn_norm.weight", 3, 4, 4, "'blk.3.attn_norm.weight' is zero from byte"},
        {BUILT_IN, "blk.3.attn_norm.weight", 3, 4, 256, ""},
        {BUILT_IN, "output_norm.weight", 1, 2, 2, "'output_norm.weight' is zero from byte"},
        {BUILT_IN, "blk.1.ssm_norm.weight", 1, 2, 2, "'blk.1.ssm_norm.weight' is zero from byte"},
        {BUILT_IN, "blk.5.ffn_down_exps.weight", 5, 7, 64 /* half of two of 32 experts */,
         ".ffn_down_exps.weight', expert"},
        {TINY, "output.weight", 1, 2, 2, "'output.weight' is zero from byte"},
        {TINY, "blk.2.ffn_gate_inp.weight", 1, 2, 2, "rows are all zeros"},
        {TINY, "blk.1.attn_qkv.weight", 1, 2, 2, "'blk.1.attn_qkv.weight' is zero from byte"},
    };
    for (size_t i = 0; i < sizeof(holes) / sizeof(holes[0]); i++) {
        struct told t;
        int64_t bytes, at, begin, end;
        copy_model(holes[i].from);
        at = remake_place(path, holes[i].tensor, &bytes);
        begin = bytes * holes[i].begin / holes[i].of;
        end = bytes * holes[i].end / holes[i].of;
        remake_fill(path, at + begin, 0, end - begin);
        int64_t n = check(&t);
        bool told = n >= 1 && n <= 2 && strstr(t.findings, holes[i].words);
        if (*holes[i].words ? !told : n != 0)
            fail_msg("%s from part %d of %d: %d findings \"%s\"", holes[i].tensor, holes[i].begin,
                     holes[i].of, (int)n, t.findings);
    }
}

/* Every second value of a norm. */
static void check_finds_scattered_zeros(void **state)
{
    (void)state;
    int64_t bytes, at;
    copy_model(BUILT_IN);
    at = remake_place(path, "blk.3.attn_norm.weight", &bytes);
    for (int64_t i = 0; i < bytes; i += 8)
        remake_fill(path, at + i, 0, 4);
    assert_finding("'blk.3.attn_norm.weight': ", 1);
    assert_finding(" values are zero", 1);
}

/* Rows of tokens that no text has are zero in whole models, any number of them;
 * rows of others are not, if there are more than a few. */
static void check_knows_unused_tokens(void **state)
{
    (void)state;
    enum { MANY = 2000, FIRST = 1000 };
    struct gguf *g;
    struct err e = {0};
    struct told t;
    int64_t bytes, at, row;
    for (int type = 1; type <= 6; type++) {
        copy_model(BUILT_IN);
        assert_int_equal(gguf_open(path, &g, &e), 0);
        const struct gguf_value *v = gguf_find(g, "tokenizer.ggml.token_type");
        const struct gguf_value *tokens = gguf_find(g, "tokenizer.ggml.tokens");
        assert_true(v && v->is_array && v->n == tokens->n && v->type == GGUF_I32 &&
                    v->n > FIRST + MANY);
        at = remake_place(path, "output.weight", &bytes);
        row = bytes / gguf_tensor_find(g, "output.weight")->ne[1];
        remake_fill(path, at + FIRST * row, 0, MANY * row);
        /* the list of types in the file, found by its key */
        static char header[4 << 20];
        FILE *f = fopen(path, "rb");
        assert_non_null(f);
        size_t n = fread(header, 1, sizeof(header), f);
        fclose(f);
        char *key = memmem(header, n, "tokenizer.ggml.token_type", 25);
        assert_non_null(key);
        int64_t list = key - header + 25 + 4 + 12;
        for (int i = 0; i < MANY; i++)
            remake_patch(path, list + 4 * (FIRST + i), &(int32_t){type}, 4);
        bool in_use = type == 1 || type == 6;
        if (check(&t) != in_use)
            fail_msg("type %d: \"%s\"", type, t.findings);
        /* a few rows */
        copy_model(BUILT_IN);
        remake_fill(path, at + FIRST * row, 0, 5 * row);
        assert_int_equal(check(&t), 0);
        gguf_close(g);
    }
}

static void check_sums(void **state)
{
    (void)state;
    struct told t;
    char command[128], want[80] = "";
    copy_model(TINY);
    check(&t);
    snprintf(command, sizeof(command), "sha256sum %s", path);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%64s", want), 1);
    pclose(f);
    assert_string_equal(t.sum, want);
}

static void check_can_be_stopped(void **state)
{
    (void)state;
    struct told t = {.stop_at = 2};
    sluice_verifier c = {
        .on_file = on_file, .on_finding = on_finding, .progress = on_progress, .user = &t};
    sluice_error e = {0};
    int64_t n;
    copy_model(TINY);
    assert_int_equal(sluice_verify(path, &c, &n, &e), SLUICE_E_CANCELLED);
    assert_int_equal(t.n_progress, 2);
    assert_int_equal(t.n_files, 0);
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/sluice-damage-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/m.gguf", dir);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zeros_are_refused_at_load),
        cmocka_unit_test(half_a_download_is_refused),
        cmocka_unit_test(floats_that_are_none_are_refused_at_load),
        cmocka_unit_test(experts_by_token_are_looked_at),
        cmocka_unit_test(what_is_not_finite_is_noticed),
        cmocka_unit_test(experts_that_are_zero_are_noticed),
        cmocka_unit_test(half_a_packed_model_is_noticed),
        cmocka_unit_test(floats_are_looked_at_when_they_come_in),
        cmocka_unit_test(changes_are_noticed),
        cmocka_unit_test(steps_notice_changes),
        cmocka_unit_test(changes_of_a_mirror_are_noticed),
        cmocka_unit_test(check_finds_damage),
        cmocka_unit_test(check_finds_zeros),
        cmocka_unit_test(check_finds_scattered_zeros),
        cmocka_unit_test(check_knows_unused_tokens),
        cmocka_unit_test(check_sums),
        cmocka_unit_test(check_can_be_stopped),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
