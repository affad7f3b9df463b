/*
 * bench_kern: how fast a core multiplies weight rows with activations.
 *
 *   bench_kern [FORMAT [TABLE [N]]]     by default all of them, rows of 4096
 *
 * For each format and table: one token with weights far larger than the
 * caches (what decoding does), one token with weights in the second-level
 * cache, and 32 tokens (prefill; of quantised formats the product of panels, with
 * and without laying the rows out). A rate is the best of several repetitions.
 * "/clk" are elements (multiply-adds) per clock; the clock is measured with a
 * chain of dependent shifts and exclusive ors, a clock each.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kern/kern.h"

enum { TOKENS = 32, REPETITIONS = 15 };
static int64_t row = 4096; /* elements */
static const size_t big_bytes = 64 << 20, small_bytes = 256 << 10;

/* Processor time of this thread, so that a busy machine does not count. */
static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static double clock_ghz(void)
{
    enum { STEPS = 1000000 };
    volatile uint64_t sink;
    double best = 0;
    for (int i = 0; i < 5; i++) {
        int64_t t0 = now_ns();
        uint64_t x = (uint64_t)t0;
        for (int k = 0; k < STEPS; k++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        sink = x;
        (void)sink;
        double ghz = 6.0 * STEPS / (double)(now_ns() - t0);
        best = MAX(best, ghz);
    }
    return best;
}

static void fill(enum dtype t, uint8_t *w, size_t bytes)
{
    static const int f16_at[DT_COUNT][2] = {
        [DT_Q4_1] = {0, 2},  [DT_Q5_1] = {0, 2}, [DT_Q2_K] = {80, 82}, [DT_Q3_K] = {108, 108},
        [DT_Q4_K] = {0, 2},  [DT_Q5_K] = {0, 2}, [DT_Q6_K] = {208, 208},
        [DT_IQ1_M] = {54, 54}, [DT_TQ1_0] = {52, 52}, [DT_TQ2_0] = {64, 64}};
    const struct dtype_info *info = dtype_info(t);
    uint32_t s = 12345;
    for (size_t i = 0; i < bytes; i++)
        w[i] = (uint8_t)((s = s * 1664525 + 1013904223) >> 24);
    for (size_t i = 0; i + info->block_bytes <= bytes; i += info->block_bytes) {
        for (int k = 0; k < 2 && info->block > 1; k++) { /* finite scales */
            w[i + (size_t)f16_at[t][k]] = 0;
            w[i + (size_t)f16_at[t][k] + 1] = 0x20;
        }
        if (t == DT_MXFP4)
            w[i] = 120; /* 2^-8 */
        if (t == DT_NVFP4)
            memset(w + i, 0x20, 4); /* 2^-4 */
        if (info->block == 1)
            w[i + info->block_bytes - 1] = 0x2f;
    }
}

struct run {
    kern_mul_fn *mul;
    float *out;
    const uint8_t *w;
    size_t row_bytes, x_stride;
    const void *x;
};

/* Nanoseconds for all rows, best of REPETITIONS; small work is repeated. */
static double best_ns(const struct run *r, int64_t n_rows, int64_t n_tok)
{
    double best = 1e30;
    int inner = (int)MAX(1, 300000 / (n_rows * n_tok * row / 8));
    for (int i = 0; i < REPETITIONS; i++) {
        int64_t t0 = now_ns();
        for (int k = 0; k < inner; k++)
            r->mul(r->out, n_rows, r->w, r->row_bytes, n_rows, r->x, r->x_stride, n_tok, row);
        best = MIN(best, (double)(now_ns() - t0) / inner);
    }
    return best;
}

/* Many tokens: laying PANEL rows out at a time and multiplying, or only the latter. */
enum { PANEL = 64 };

struct panels {
    const struct kern *k;
    enum dtype type;
    void *rows, *tokens;
};

static double panel_ns(const struct run *r, const struct panels *p, int64_t n_rows, bool lay)
{
    double best = 1e30;
    for (int i = 0; i < REPETITIONS; i++) {
        int64_t t0 = now_ns();
        for (int64_t at = 0; at + PANEL <= n_rows; at += PANEL) {
            if (lay || (i == 0 && at == 0))
                p->k->panel_rows[p->type](p->rows, r->w + (size_t)at * r->row_bytes, r->row_bytes,
                                         PANEL, row);
            p->k->mul_panels[p->type](r->out + at, n_rows, p->rows, PANEL, p->tokens, TOKENS, row,
                                      NULL, 0);
        }
        best = MIN(best, (double)(now_ns() - t0));
    }
    return best * (double)n_rows / (double)(n_rows / PANEL * PANEL);
}

static void bench(const struct kern *k, enum dtype t, bool quantised, uint8_t *w, float *x,
                  uint8_t *acts, float *out, struct panels *p, double ghz)
{
    struct run r = {quantised ? k->mulq[t] : k->mulf[t], out, w, dtype_row_bytes(t, row), 0, x};
    r.x_stride = quantised ? kern_act_bytes(row) : (size_t)row * sizeof *x;
    if (quantised)
        r.x = acts;
    for (int i = 0; quantised && i < TOKENS; i++)
        k->quantize(acts + (size_t)i * r.x_stride, x + i * row, row);
    int64_t big = (int64_t)(big_bytes / r.row_bytes), small = (int64_t)(small_bytes / r.row_bytes);
    double ns_big = best_ns(&r, big, 1), ns_small = best_ns(&r, small, 1);
    double ns_many, ns_mul;
    small = MAX(small, PANEL);
    if (quantised) {
        *p = (struct panels){k, t, p->rows, p->tokens};
        k->panel_tokens(p->tokens, acts, r.x_stride, NULL, TOKENS, row);
        ns_many = panel_ns(&r, p, small, true);
        ns_mul = panel_ns(&r, p, small, false);
    } else {
        ns_many = ns_mul = best_ns(&r, small, TOKENS);
    }
    printf("%-8s %-8s %s  %7.2f GB/s %6.1f /clk   %7.2f GB/s %6.1f /clk   %6.1f %6.1f /clk\n",
           dtype_info(t)->name, k->name, quantised ? "q8 " : "f32",
           (double)big * (double)r.row_bytes / ns_big, (double)(big * row) / ns_big / ghz,
           (double)small * (double)r.row_bytes / ns_small, (double)(small * row) / ns_small / ghz,
           (double)(small * row * TOKENS) / ns_many / ghz,
           (double)(small * row * TOKENS) / ns_mul / ghz);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const struct kern *tables[KERN_RUNGS_MAX];
    int n_tables = kern_available(tables);
    double ghz = clock_ghz();
    if (argc > 3)
        row = MAX(1, atol(argv[3]));
    uint8_t *w = os_map(big_bytes, true);
    float *x = malloc(sizeof *x * (size_t)row * TOKENS);
    uint8_t *acts = aligned_alloc(64, kern_act_bytes(row) * TOKENS);
    float *out = malloc(big_bytes);
    struct panels p = {.rows = aligned_alloc(64, PANEL * kern_panel_row_bytes(row)),
                       .tokens = aligned_alloc(64, TOKENS * kern_panel_token_bytes(row))};
    if (!w || !x || !acts || !out || !p.rows || !p.tokens)
        return 1;
    for (int64_t i = 0; i < row * TOKENS; i++)
        x[i] = (float)((i * 7919) % 1999 - 999) / 999;
    printf("clock %.2f GHz, rows of %ld\n", ghz, (long)row);
    printf("%-8s %-8s act  1 token, %zu MB of weights   1 token, %zu KB          "
           "%d tokens, panels\n",
           "format", "table", big_bytes >> 20, small_bytes >> 10, TOKENS);
    for (int t = 0; t < DT_COUNT; t++) {
        if (!kern_supports(t) || (argc > 1 && strcmp(argv[1], dtype_info((uint32_t)t)->name) != 0))
            continue;
        fill(t, w, big_bytes);
        for (int k = 0; k < n_tables; k++) {
            if (argc > 2 && strcmp(argv[2], tables[k]->name) != 0)
                continue;
            if (tables[k]->mulq[t])
                bench(tables[k], t, true, w, x, acts, out, &p, ghz);
            else
                bench(tables[k], t, false, w, x, acts, out, &p, ghz);
        }
    }
    free(p.rows);
    free(p.tokens);
    free(out);
    free(acts);
    free(x);
    os_unmap(w, big_bytes);
    return 0;
}
