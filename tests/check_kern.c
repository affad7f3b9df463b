/*
 * check_kern: the products of weight rows with activations.
 *
 * Portable C is checked against independent arithmetic (published checksums of
 * decoded blocks; a plain sum in double within a stated tolerance). Every
 * other table is checked against portable C bit for bit, on ordinary and on
 * extreme inputs. Weights and activations end at an inaccessible page, so that
 * a read past the end is a crash, not luck.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "kern/group.h"
#include "kern/kern.h"

/* ---- the formats -------------------------------------------------------- */

struct format {
    enum dtype type;
    const char *name;
    int d, m; /* byte offsets of the f16 scale and minimum; -1: none */
    uint32_t crc; /* of one decoded block, see decoders_match_known_checksums */
};

static const struct format formats[] = {
    {DT_Q4_0, "Q4_0", 0, -1, 0x0ee4bd49},   {DT_Q4_1, "Q4_1", 0, 2, 0x2f730e91},
    {DT_Q5_0, "Q5_0", 0, -1, 0xd949467d},   {DT_Q5_1, "Q5_1", 0, 2, 0x29e8f0bb},
    {DT_Q8_0, "Q8_0", 0, -1, 0xdc5efab9},   {DT_Q2_K, "Q2_K", 80, 82, 0x420c5b6a},
    {DT_Q3_K, "Q3_K", 108, -1, 0xfc9079ce}, {DT_Q4_K, "Q4_K", 0, 2, 0x6c8247b8},
    {DT_Q5_K, "Q5_K", 0, 2, 0xb96375a0},    {DT_Q6_K, "Q6_K", 208, -1, 0x9bbe380e},
    {DT_IQ4_NL, "IQ4_NL", 0, -1, 0x17d7ce11}, {DT_IQ4_XS, "IQ4_XS", 0, -1, 0x20bdcc0e},
    {DT_IQ2_XXS, "IQ2_XXS", 0, -1, 0xa0a7ca89}, {DT_IQ2_XS, "IQ2_XS", 0, -1, 0x7d818338},
    {DT_IQ2_S, "IQ2_S", 0, -1, 0x21209bcc},   {DT_IQ3_XXS, "IQ3_XXS", 0, -1, 0x57c5dc5a},
    {DT_IQ3_S, "IQ3_S", 0, -1, 0xc70f729c},   {DT_IQ1_S, "IQ1_S", 0, -1, 0x1a58b99f},
    {DT_IQ1_M, "IQ1_M", -1, -1, 0xe077a990},  {DT_TQ1_0, "TQ1_0", 52, -1, 0xe3d2c132},
    {DT_TQ2_0, "TQ2_0", 64, -1, 0x8a690349},  {DT_NVFP4, "NVFP4", -1, -1, 0x8124e8d4},
    {DT_Q1_0, "Q1_0", 0, -1, 0xf3f32020},     {DT_Q2_0, "Q2_0", 0, -1, 0xf7acd491},
    {DT_MXFP4, "MXFP4", -1, -1, 0x0816a9d3},  {DT_F32, "F32", -1, -1, 0},
    {DT_F16, "F16", -1, -1, 0},             {DT_BF16, "BF16", -1, -1, 0},
};

static bool is_float(enum dtype t)
{
    return t == DT_F32 || t == DT_F16 || t == DT_BF16;
}

/* ---- helpers ------------------------------------------------------------ */

static uint32_t seed = 1;

static uint32_t next_u32(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed;
}

static float next_float(void) /* -1..1 */
{
    return (float)((int32_t)next_u32() / 2147483648.0);
}

static uint32_t crc32_of(const void *p, size_t n)
{
    const uint8_t *b = p;
    uint32_t c = 0xffffffff;
    for (size_t i = 0; i < n; i++) {
        c ^= b[i];
        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ (c & 1 ? 0xedb88320 : 0);
    }
    return ~c;
}

/* The byte sequence that the published checksums were made from. */
static uint8_t lcg_byte(uint32_t *state)
{
    *state = *state * 1664525 + 1013904223;
    return (uint8_t)(*state >> 24);
}

static void put_u16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static uint16_t float_to_half_bits(float f) /* normal halves only, nearest even */
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t rest = u & 0x7fffffff;
    if (rest < 0x38800000)
        return (uint16_t)(u >> 16 & 0x8000);
    rest += 0xfff + (rest >> 13 & 1);
    return (uint16_t)((u >> 16 & 0x8000) | (rest - 0x38000000) >> 13);
}

/* Memory whose last byte is followed by an inaccessible page. */
struct fenced {
    uint8_t *map, *end;
    size_t map_bytes;
};

static struct fenced fenced_new(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct fenced f;
    f.map_bytes = align_up(bytes, page) + page;
    f.map = mmap(NULL, f.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(f.map != MAP_FAILED);
    f.end = f.map + f.map_bytes - page;
    assert_int_equal(mprotect(f.end, page, PROT_NONE), 0);
    return f;
}

static void fenced_free(struct fenced *f)
{
    munmap(f->map, f->map_bytes);
}

static bool same_float(float a, float b) /* same bits, or both NaN */
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static const struct kern *portable(void)
{
    const struct kern *k = NULL;
    assert_int_equal(kern_select("portable", &k, NULL), OK);
    return k;
}

/* ---- inputs ------------------------------------------------------------- */

enum weights { W_RANDOM, W_ZERO, W_ONES, W_LOWEST, W_DENORMAL, W_HUGE, W_ANY_BITS, W_KINDS };
enum inputs {
    X_RANDOM, X_ZERO, X_SIGNS, X_OUTLIER, X_1E30, X_1E_38, X_DENORMAL, X_SPECIAL, X_KINDS
};

static uint16_t scale_bits(enum weights kind)
{
    uint16_t sign = (uint16_t)(next_u32() & 0x8000);
    switch (kind) {
    case W_ZERO:
        return 0;
    case W_DENORMAL:
        return (uint16_t)(sign | (next_u32() & 0x3ff));
    case W_HUGE:
        return sign | 0x7bff; /* 65504 */
    default:
        return (uint16_t)(sign | (0x1c00 + (next_u32() & 0x1fff))); /* about 2^-8..1 */
    }
}

/* The four upper nibbles of IQ1_M's words of scales are a half. */
static void put_iq1_m_half(uint8_t *block, unsigned bits)
{
    for (int i = 0; i < 4; i++) {
        uint8_t *high = block + 48 + 2 * i + 1;
        *high = (uint8_t)((*high & 15) | (bits >> 4 * i & 15) << 4);
    }
}

static void fill_row(const struct format *f, uint8_t *row, size_t bytes, enum weights kind)
{
    size_t block_bytes = dtype_info(f->type)->block_bytes;
    for (size_t i = 0; i < bytes; i++)
        row[i] = kind == W_ZERO || kind == W_LOWEST ? 0
                 : kind == W_ONES                   ? 0xff
                                                    : (uint8_t)(next_u32() >> 11);
    if (kind == W_ANY_BITS)
        return;
    for (uint8_t *b = row; b < row + bytes; b += block_bytes) {
        if (f->d >= 0)
            put_u16(b + f->d, scale_bits(kind));
        if (f->m >= 0)
            put_u16(b + f->m, scale_bits(kind));
        if (f->type == DT_Q6_K && kind == W_LOWEST)
            memset(b + 192, 0x55, 16); /* scales; elements are -32 */
        if (f->type == DT_MXFP4)
            b[0] = (uint8_t)(kind == W_ZERO || kind == W_DENORMAL ? next_u32() % 3
                             : kind == W_HUGE                      ? 160
                                                                   : 118 + next_u32() % 12);
        if (f->type == DT_IQ1_M)
            put_iq1_m_half(b, scale_bits(kind));
        for (int i = 0; f->type == DT_NVFP4 && i < 4; i++)
            b[i] = (uint8_t)(kind == W_ZERO || kind == W_DENORMAL ? next_u32() % 9
                             : kind == W_HUGE                      ? 0x7e
                                                                   : next_u32() % 0x60);
        if (f->type == DT_F16)
            put_u16(b, scale_bits(kind));
        if (f->type == DT_BF16)
            put_u16(b, kind == W_HUGE ? 0x7e00
                                      : (next_u32() & 0x8000) | (0x3c00 + next_u32() % 0x300));
        if (f->type == DT_F32) {
            float v = next_float() * (kind == W_HUGE ? 1e30f : kind == W_DENORMAL ? 1e-40f : 1.0f);
            memcpy(b, &v, sizeof v);
        }
    }
}

static float input(enum inputs kind, int64_t i)
{
    float r = next_float();
    switch (kind) {
    case X_ZERO:
        return i & 1 ? -0.0f : 0.0f;
    case X_SIGNS: /* full-scale 8-bit values of every sign pattern */
        return i / 32 % 3 == 0 ? -1.0f : i / 32 % 3 == 1 ? 1.0f : r < 0 ? -1.0f : 1.0f;
    case X_OUTLIER:
        return i % 97 == 5 ? 1000.0f * r : r * 0.01f;
    case X_1E30:
        return r * 1e30f;
    case X_1E_38:
        return i / 64 & 1 ? r * 1e-38f : r * 3e-36f; /* both sides of the flush to zero */
    case X_DENORMAL:
        return r * 1e-42f;
    case X_SPECIAL:
        return i % 71 == 3 ? INFINITY : i % 83 == 7 ? NAN : i % 89 == 8 ? -INFINITY : r;
    default:
        return r;
    }
}

/* ---- one product, every table ------------------------------------------- */

enum { MAX_ROWS = 9, MAX_TOK = 9, GUARD = 4 };
enum path { MULF, MULQ, PANELS };
static const char *const path_names[] = {"mulf", "mulq", "panels"};

struct problem {
    const struct format *f;
    bool quantised; /* mulq, not mulf */
    int64_t n;
    size_t row_bytes, x_stride;
    struct fenced w, x;
    const uint8_t *w0;
    uint8_t *x0;
    float expect[MAX_TOK][MAX_ROWS];
};

static struct problem problem_new(const struct format *f, bool quantised, int64_t n,
                                  enum weights wk, enum inputs xk)
{
    struct problem p = {.f = f, .quantised = quantised, .n = n};
    size_t data = dtype_row_bytes(f->type, n);
    p.row_bytes = data + next_u32() % 3; /* rows at odd addresses, too */
    p.w = fenced_new(p.row_bytes * MAX_ROWS);
    p.w0 = p.w.end - (p.row_bytes * (MAX_ROWS - 1) + data);
    for (int r = 0; r < MAX_ROWS; r++)
        fill_row(f, p.w.end - data - (size_t)r * p.row_bytes, data, wk);

    size_t x_bytes = quantised ? kern_act_bytes(n) : (size_t)n * sizeof(float);
    p.x_stride = x_bytes + (quantised ? 64 : 4) * (next_u32() % 2);
    p.x = fenced_new(p.x_stride * MAX_TOK);
    p.x0 = p.x.end - (p.x_stride * (MAX_TOK - 1) + x_bytes);
    float *x = malloc((size_t)n * sizeof *x);
    for (int t = 0; t < MAX_TOK; t++) {
        for (int64_t i = 0; i < n; i++)
            x[i] = input(xk, i + t);
        uint8_t *to = p.x0 + (size_t)t * p.x_stride;
        if (quantised)
            portable()->quantize(to, x, n);
        else
            memcpy(to, x, x_bytes);
    }
    free(x);
    return p;
}

static void problem_free(struct problem *p)
{
    fenced_free(&p->w);
    fenced_free(&p->x);
}

static kern_mul_fn *product_of(const struct kern *k, const struct problem *p)
{
    return p->quantised ? k->mulq[p->f->type] : k->mulf[p->f->type];
}

/* As a kern_mul_fn, of the type `t`: lays rows and tokens out, in memory that
 * ends at a fence. `index` as in panel_tokens. */
static void multiply_panels(const struct kern *k, enum dtype t, float *out, ptrdiff_t out_stride,
                            const void *w, size_t row_bytes, int64_t n_rows, const void *x,
                            size_t x_stride, const int32_t *index, int64_t n_tok, int64_t n)
{
    size_t rows_bytes = align_up((size_t)n_rows, (size_t)k->tile_rows) * kern_panel_row_bytes(n);
    size_t tokens_bytes =
        align_up((size_t)n_tok, (size_t)k->tile_tokens) * kern_panel_token_bytes(n);
    struct fenced rows = fenced_new(align_up(rows_bytes, 64)), tokens = fenced_new(tokens_bytes);
    uint8_t *r0 = rows.end - align_up(rows_bytes, 64), *t0 = tokens.end - tokens_bytes;
    memset(r0, 0x5a, rows_bytes); /* what is not written must not count */
    memset(t0, 0x5a, tokens_bytes);
    k->panel_rows[t](r0, w, row_bytes, n_rows, n);
    k->panel_tokens(t0, x, x_stride, index, n_tok, n);
    k->mul_panels[t](out, out_stride, r0, n_rows, t0, n_tok, n, w, row_bytes);
    fenced_free(&rows);
    fenced_free(&tokens);
}

/* One row, one token at a time, in portable C. */
static void expect_portable(struct problem *p)
{
    for (int t = 0; t < MAX_TOK; t++)
        for (int r = 0; r < MAX_ROWS; r++)
            product_of(portable(), p)(&p->expect[t][r], 1, p->w0 + (size_t)r * p->row_bytes,
                                      p->row_bytes, 1, p->x0 + (size_t)t * p->x_stride,
                                      p->x_stride, 1, p->n);
}

/* The last n_rows rows and n_tok tokens: they end at the fence. */
static void check_product(const struct kern *k, const struct problem *p, enum path path,
                          int n_rows, int n_tok)
{
    float buffer[GUARD + MAX_TOK * (MAX_ROWS + GUARD) + GUARD], *out = buffer + GUARD;
    const uint32_t canary = 0x7fa5a5a5;
    ptrdiff_t stride = n_rows + (n_tok & 1 ? GUARD : 0);
    int r0 = MAX_ROWS - n_rows, t0 = MAX_TOK - n_tok;
    const uint8_t *w = p->w0 + (size_t)r0 * p->row_bytes, *x = p->x0 + (size_t)t0 * p->x_stride;
    for (size_t i = 0; i < ARRAY_LEN(buffer); i++)
        memcpy(&buffer[i], &canary, sizeof canary);
    if (path == PANELS)
        multiply_panels(k, p->f->type, out, stride, w, p->row_bytes, n_rows, x, p->x_stride, NULL,
                        n_tok, p->n);
    else
        product_of(k, p)(out, stride, w, p->row_bytes, n_rows, x, p->x_stride, n_tok, p->n);
    for (ptrdiff_t i = -GUARD; i < (ptrdiff_t)ARRAY_LEN(buffer) - GUARD; i++) {
        ptrdiff_t t = i / stride, r = i % stride;
        if (i >= 0 && t < n_tok && r < n_rows) {
            if (!same_float(out[i], p->expect[t0 + t][r0 + r]))
                fail_msg("%s %s %s n %ld rows %d tokens %d: row %ld token %ld: %a, expected %a",
                         k->name, path_names[path], p->f->name, (long)p->n, n_rows, n_tok, (long)r,
                         (long)t, (double)out[i], (double)p->expect[t0 + t][r0 + r]);
        } else if (memcmp(&out[i], &canary, sizeof canary) != 0) {
            fail_msg("%s %s n %ld: wrote outside of out at %ld", k->name, p->f->name, (long)p->n,
                     (long)i);
        }
    }
}

static void check_all_tables(const struct format *f, bool quantised, int64_t n, enum weights wk,
                             enum inputs xk, bool all_shapes)
{
    const struct kern *tables[KERN_RUNGS_MAX];
    int n_tables = kern_available(tables);
    struct problem p = problem_new(f, quantised, n, wk, xk);
    expect_portable(&p);
    for (int i = 0; i < n_tables; i++)
        for (int rows = 1; rows <= MAX_ROWS; rows++)
            for (int tok = 1; tok <= MAX_TOK; tok++)
                if (all_shapes || (rows == MAX_ROWS && tok == MAX_TOK) ||
                    (rows == 5 && tok == 1) || (rows == 1 && tok == 2))
                    for (enum path path = quantised ? MULQ : MULF;
                         path <= (quantised ? PANELS : MULF); path++)
                        check_product(tables[i], &p, path, rows, tok);
    problem_free(&p);
}

static void check_formats(bool quantised)
{
    static const int blocks[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10,
                                 15, 16, 17, 23, 31, 64, 65, 71, 96, 129};
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        const struct format *f = &formats[i];
        int block = dtype_info(f->type)->block;
        if (quantised && is_float(f->type))
            continue;
        for (size_t j = 0; j < ARRAY_LEN(blocks); j++) {
            int64_t n = (int64_t)blocks[j] * block;
            if (n > 20 * 256)
                break;
            check_all_tables(f, quantised, n, W_RANDOM, X_RANDOM, n <= 1024);
        }
        if (block == 1)
            for (int64_t n = 250; n < 275; n++)
                check_all_tables(f, quantised, n, W_RANDOM, X_RANDOM, false);
    }
}

/* Each kind of weights with each of activations; of three lengths one at a time, so that
 * each kind meets all of them: emulated processors have to get through it, too. */
static void check_extremes(bool quantised)
{
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        const struct format *f = &formats[i];
        int block = dtype_info(f->type)->block;
        if (quantised && is_float(f->type))
            continue;
        for (int wk = 0; wk < W_KINDS; wk++)
            for (int xk = 0; xk < X_KINDS; xk++) {
                const int k = (wk + xk) % 3;
                check_all_tables(f, quantised,
                                 block < 256 ? MAX(160 / block, 1) * block + 256 * k
                                             : 256 * (1 + 4 * k),
                                 wk, xk, false);
            }
    }
}

static void mulq_same_bits(void **state)
{
    (void)state;
    check_formats(true);
}

static void mulf_same_bits(void **state)
{
    (void)state;
    check_formats(false);
}

static void mulq_same_bits_extremes(void **state)
{
    (void)state;
    check_extremes(true);
}

static void mulf_same_bits_extremes(void **state)
{
    (void)state;
    check_extremes(false);
}

/* Many tokens: more than any tile, so that tiles and panels are crossed. */
static void many_tokens_same_bits(void **state)
{
    enum { TOK = 131, ROWS = 70 };
    static float expect[TOK][ROWS], out[TOK][ROWS];
    int32_t backwards[TOK];
    (void)state;
    const struct kern *tables[KERN_RUNGS_MAX];
    int n_tables = kern_available(tables);
    for (int t = 0; t < TOK; t++)
        backwards[t] = TOK - 1 - t;
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        const struct format *f = &formats[i];
        if (is_float(f->type))
            continue;
        int block = dtype_info(f->type)->block;
        int64_t n = 2560 + (block < 256 ? block : 0);
        size_t row_bytes = dtype_row_bytes(f->type, n), x_bytes = kern_act_bytes(n);
        uint8_t *w = malloc(row_bytes * ROWS);
        uint8_t *x = aligned_alloc(64, x_bytes * TOK);
        float *xf = malloc((size_t)n * sizeof *xf);
        fill_row(f, w, row_bytes * ROWS, W_RANDOM);
        for (int t = 0; t < TOK; t++) {
            for (int64_t j = 0; j < n; j++)
                xf[j] = next_float();
            portable()->quantize(x + (size_t)t * x_bytes, xf, n);
        }
        for (int t = 0; t < TOK; t++)
            portable()->mulq[f->type](expect[t], ROWS, w, row_bytes, ROWS, x + (size_t)t * x_bytes,
                                      x_bytes, 1, n);
        for (int k = 0; k < n_tables; k++) {
            tables[k]->mulq[f->type](out[0], ROWS, w, row_bytes, ROWS, x, x_bytes, TOK, n);
            assert_memory_equal(out, expect, sizeof out);
            memset(out, 0, sizeof out);
            multiply_panels(tables[k], f->type, out[0], ROWS, w, row_bytes, ROWS, x, x_bytes, NULL,
                            TOK, n);
            assert_memory_equal(out, expect, sizeof out);
            multiply_panels(tables[k], f->type, out[0], ROWS, w, row_bytes, ROWS, x, x_bytes,
                            backwards, TOK, n);
            for (int t = 0; t < TOK; t++)
                assert_memory_equal(out[t], expect[TOK - 1 - t], sizeof out[t]);
        }
        free(w);
        free(x);
        free(xf);
    }
}

/* ---- portable C against independent arithmetic -------------------------- */

/* Tolerance: 3e-7 of the largest weight times the sum of |x|, a few roundings
 * of the largest partial sum. */
static void portable_matches_double(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        for (int quantised = 0; quantised < 2; quantised++) {
            const struct format *f = &formats[i];
            int block = dtype_info(f->type)->block;
            int64_t n = block > 1 && block < 256 ? 2048 + 3 * block : 256 * 9;
            if (quantised && is_float(f->type))
                continue;
            struct problem p = problem_new(f, quantised, n, W_RANDOM, X_RANDOM);
            float *w = malloc((size_t)n * sizeof *w);
            expect_portable(&p);
            for (int r = 0; r < MAX_ROWS; r++) {
                assert_int_equal(kern_dequant_row(f->type, w, p.w0 + (size_t)r * p.row_bytes, n),
                                 OK);
                for (int t = 0; t < MAX_TOK; t++) {
                    const uint8_t *blob = p.x0 + (size_t)t * p.x_stride;
                    double sum = 0, largest = 0, sum_x = 0;
                    for (int64_t j = 0; j < n; j++) {
                        float v;
                        if (quantised) {
                            memcpy(&v, blob + align_up((size_t)n, 64) + (size_t)j / 32 * 4, 4);
                            v *= (float)(int8_t)blob[j];
                        } else {
                            memcpy(&v, blob + (size_t)j * 4, 4);
                        }
                        sum += (double)w[j] * v;
                        sum_x += fabs(v);
                        largest = MAX(largest, fabs((double)w[j]));
                    }
                    double error = fabs(p.expect[t][r] - sum);
                    if (!(error <= 3e-7 * largest * sum_x))
                        fail_msg("%s %s: %g, expected %g (error %g, allowed %g)", f->name,
                                 quantised ? "mulq" : "mulf", (double)p.expect[t][r], sum, error,
                                 3e-7 * largest * sum_x);
                }
            }
            free(w);
            problem_free(&p);
        }
}

/* Checksums over one decoded block, made with the formats' reference decoder.
 * Signs of zeros count. */
static void decoders_match_known_checksums(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        const struct format *f = &formats[i];
        if (is_float(f->type))
            continue;
        const struct dtype_info *info = dtype_info(f->type);
        uint8_t block[256];
        float y[256];
        uint32_t st = 12345;
        for (int j = 0; j < info->block_bytes; j++)
            block[j] = lcg_byte(&st);
        if (f->d >= 0)
            put_u16(block + f->d, 0x3800); /* 0.5 */
        else if (f->type == DT_IQ1_M)
            put_iq1_m_half(block, 0x3800);
        else if (f->type == DT_NVFP4)
            memcpy(block, (uint8_t[]){0x38, 0x40, 0x05, 0x7e}, 4);
        else
            block[0] = 127; /* MXFP4: 2^0 */
        if (f->m >= 0)
            put_u16(block + f->m, 0x3400); /* 0.25 */
        assert_int_equal(kern_dequant_row(f->type, y, block, info->block), OK);
        if (crc32_of(y, info->block * sizeof *y) != f->crc)
            fail_msg("%s: decoded block differs", f->name);
    }
}

/* Blocks of every quantised type, and their elements by llama.cpp: scales that are
 * ordinary, extreme, subnormal, -0; for NVFP4 all there are. Bit for bit. */
static void decoders_match_recorded_blocks(void **state)
{
    (void)state;
    FILE *f = fopen("tests/data/blocks.bin", "rb");
    uint32_t head[2]; /* type, elements */
    bool seen[DT_COUNT] = {false};
    assert_non_null(f);
    while (fread(head, sizeof head, 1, f) == 1) {
        const struct dtype_info *info = dtype_info(head[0]);
        assert_non_null(info);
        size_t bytes = dtype_row_bytes((enum dtype)head[0], head[1]), n = head[1];
        uint8_t *w = malloc(bytes);
        float *y = malloc(n * sizeof *y), *expect = malloc(n * sizeof *y);
        assert_int_equal(fread(w, 1, bytes, f), bytes);
        assert_int_equal(fread(expect, sizeof *y, n, f), n);
        assert_int_equal(kern_dequant_row((enum dtype)head[0], y, w, head[1]), OK);
        for (size_t i = 0; i < n; i++)
            if (memcmp(&y[i], &expect[i], sizeof *y) != 0)
                fail_msg("%s: element %zu is %a, expected %a", info->name, i, (double)y[i],
                         (double)expect[i]);
        seen[head[0]] = true;
        free(w);
        free(y);
        free(expect);
    }
    fclose(f);
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        if (!seen[formats[i].type] && !is_float(formats[i].type))
            fail_msg("no blocks of %s were recorded", formats[i].name);
}

/* The codebooks, their offsets taken away, have the checksums of the formats' listings. */
static void codebooks_match_known_checksums(void **state)
{
    static const struct {
        const void *table;
        size_t bytes;
        int offset, factor;
        uint32_t crc;
    } books[] = {
        {kern_grid_iq2_xxs, sizeof kern_grid_iq2_xxs, GRID_OFFSET, 1, 0x9924ff02},
        {kern_grid_iq2_xs, sizeof kern_grid_iq2_xs, GRID_OFFSET, 1, 0xfa1e1bfd},
        {kern_grid_iq2_s, sizeof kern_grid_iq2_s, GRID_OFFSET, 1, 0x25ae5bf1},
        {kern_grid_iq3_xxs, sizeof kern_grid_iq3_xxs, GRID_OFFSET, 1, 0x07ba9ed0},
        {kern_grid_iq3_s, sizeof kern_grid_iq3_s, GRID_IQ3_S_OFFSET, 1, 0xf576e4f3},
        {kern_grid_iq1, sizeof kern_grid_iq1, GRID_IQ1_OFFSET, 8, 0xb85e6ccf},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(books); i++) {
        uint8_t *book = malloc(books[i].bytes);
        memcpy(book, books[i].table, books[i].bytes);
        for (size_t k = 0; k < books[i].bytes; k++)
            book[k] = (uint8_t)((book[k] - books[i].offset) / books[i].factor);
        if (crc32_of(book, books[i].bytes) != books[i].crc)
            fail_msg("codebook %zu differs", i);
        free(book);
    }
}

static void float_rows_decode(void **state)
{
    (void)state;
    static const uint16_t half[] = {0x0000, 0x8000, 0x3c00, 0xc000, 0x7bff,
                                    0x0001, 0x83ff, 0x0400, 0x7c00, 0xfc00};
    static const float expect[] = {0.0f,     -0.0f,         1.0f,     -2.0f,    65504.0f,
                                   0x1p-24f, -0x1.ff8p-15f, 0x1p-14f, INFINITY, -INFINITY};
    float y[ARRAY_LEN(half)];
    uint8_t row[sizeof half];
    for (size_t i = 0; i < ARRAY_LEN(half); i++)
        put_u16(row + 2 * i, half[i]);
    assert_int_equal(kern_dequant_row(DT_F16, y, row, ARRAY_LEN(half)), OK);
    assert_memory_equal(y, expect, sizeof y);
    put_u16(row, 0xc049);
    put_u16(row + 2, 0x0001);
    assert_int_equal(kern_dequant_row(DT_BF16, y, row, 2), OK);
    assert_true(y[0] == -3.140625f && y[1] == 0x1p-133f);
}

enum { Q8_K = 15 }; /* a type of activations, which no weights have */

static void unknown_types_are_refused(void **state)
{
    (void)state;
    float y;
    uint8_t row[8] = {0};
    assert_int_equal(kern_dequant_row(DT_I32, &y, row, 1), E_UNSUPPORTED);
    assert_int_equal(kern_dequant_row((enum dtype)Q8_K, &y, row, 1), E_UNSUPPORTED);
    assert_false(kern_supports(DT_I32));
    assert_false(kern_supports((enum dtype)Q8_K));
    static const enum dtype quantised[] = {
#define ID(name, NAME, id, elements, bytes, minima, sixteens) DT_##NAME,
        DTYPE_QUANTISED(ID)
#undef ID
    };
    for (size_t i = 0, k; i < ARRAY_LEN(quantised); i++) {
        for (k = 0; k < ARRAY_LEN(formats) && formats[k].type != quantised[i]; k++)
            ;
        if (k == ARRAY_LEN(formats))
            fail_msg("%s has no row in the table above", dtype_info(quantised[i])->name);
    }
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        assert_string_equal(formats[i].name, dtype_info(formats[i].type)->name);
        assert_true(kern_supports(formats[i].type));
        assert_non_null(portable()->mulf[formats[i].type]);
        assert_int_equal(portable()->mulq[formats[i].type] == NULL, is_float(formats[i].type));
        assert_int_equal(portable()->mul_panels[formats[i].type] == NULL,
                         is_float(formats[i].type));
    }
}

/* ---- quantising activations --------------------------------------------- */

/* The known answer is for Q8_0 blocks (scale rounded to half); the integers
 * and scales are the same. */
static void quantize_matches_known_checksum(void **state)
{
    (void)state;
    enum { N = 256 };
    float x[N], d[N / 32];
    int16_t h[N / 16];
    uint8_t blob[2 * N], blocks[N / 32 * 34];
    uint8_t *act = (uint8_t *)align_up((size_t)blob, 64);
    uint32_t st = 777;
    for (int i = 0; i < N; i++) {
        int a = lcg_byte(&st), b = lcg_byte(&st);
        x[i] = (float)(a - 128) / 32 + (float)b / 1024;
    }
    assert_true(kern_act_bytes(N) + 64 <= sizeof blob);
    portable()->quantize(act, x, N);
    memcpy(d, act + N, sizeof d);
    memcpy(h, act + N + 64, sizeof h);
    for (int b = 0; b < N / 32; b++) {
        put_u16(blocks + 34 * b, float_to_half_bits(d[b]));
        memcpy(blocks + 34 * b + 2, act + 32 * b, 32);
        for (int half = 0; half < 2; half++) {
            int sum = 0;
            for (int i = 0; i < 16; i++)
                sum += (int8_t)act[32 * b + 16 * half + i];
            assert_int_equal(h[2 * b + half], sum);
        }
    }
    assert_int_equal(crc32_of(blocks, sizeof blocks), 0x6e26ffa2);
}

static void quantize_same_bits(void **state)
{
    (void)state;
    const struct kern *tables[KERN_RUNGS_MAX];
    int n_tables = kern_available(tables);
    for (int kind = 0; kind < X_KINDS; kind++)
        for (int64_t n = 32; n <= 32 * 70; n += n < 1100 ? 32 : 352) {
            size_t bytes = kern_act_bytes(n);
            float *x = malloc((size_t)n * sizeof *x);
            uint8_t *expect = aligned_alloc(64, bytes);
            struct fenced to = fenced_new(bytes), from = fenced_new((size_t)n * sizeof *x);
            for (int64_t i = 0; i < n; i++)
                x[i] = input(kind, i);
            memcpy(from.end - (size_t)n * sizeof *x, x, (size_t)n * sizeof *x);
            memset(expect, 0xa5, bytes);
            portable()->quantize(expect, x, n);
            for (int k = 0; k < n_tables; k++) {
                memset(to.end - bytes, 0x5a, bytes);
                tables[k]->quantize(to.end - bytes, (float *)(void *)(from.end - (size_t)n * 4), n);
                if (memcmp(to.end - bytes, expect, bytes) != 0)
                    fail_msg("%s quantize differs, n %ld, kind %d", tables[k]->name, (long)n, kind);
            }
            fenced_free(&to);
            fenced_free(&from);
            free(expect);
            free(x);
        }
}

static void not_finite_activations_show(void **state)
{
    (void)state;
    float x[64] = {1.0f}, out = 0;
    uint8_t row[68] = {0};
    _Alignas(64) uint8_t act[64 * 3];
    assert_int_equal(kern_act_bytes(64), sizeof act);
    x[40] = INFINITY;
    portable()->quantize(act, x, 64);
    portable()->mulq[DT_Q8_0](&out, 1, row, 68, 1, act, sizeof act, 1, 64);
    assert_true(isnan(out));
}

/* ---- choosing a table --------------------------------------------------- */

static void tables_are_chosen_by_name(void **state)
{
    (void)state;
    const struct kern *tables[KERN_RUNGS_MAX], *k = NULL;
    int n = kern_available(tables);
    struct err e = {0};
    assert_true(n >= 1);
    assert_string_equal(tables[0]->name, "portable");
    for (int i = 0; i < n; i++) {
        assert_int_equal(kern_select(tables[i]->name, &k, NULL), OK);
        assert_ptr_equal(k, tables[i]);
    }
    assert_int_equal(kern_select(NULL, &k, NULL), OK);
    assert_ptr_equal(k, tables[n - 1]);
    assert_int_equal(kern_select("auto", &k, NULL), OK);
    assert_ptr_equal(k, tables[n - 1]);
    assert_int_equal(kern_select("mmx", &k, &e), E_UNSUPPORTED);
    assert_non_null(strstr(e.text, "mmx"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoders_match_known_checksums),
        cmocka_unit_test(decoders_match_recorded_blocks),
        cmocka_unit_test(codebooks_match_known_checksums),
        cmocka_unit_test(float_rows_decode),
        cmocka_unit_test(unknown_types_are_refused),
        cmocka_unit_test(quantize_matches_known_checksum),
        cmocka_unit_test(quantize_same_bits),
        cmocka_unit_test(not_finite_activations_show),
        cmocka_unit_test(portable_matches_double),
        cmocka_unit_test(mulq_same_bits),
        cmocka_unit_test(mulq_same_bits_extremes),
        cmocka_unit_test(many_tokens_same_bits),
        cmocka_unit_test(mulf_same_bits),
        cmocka_unit_test(mulf_same_bits_extremes),
        cmocka_unit_test(tables_are_chosen_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
