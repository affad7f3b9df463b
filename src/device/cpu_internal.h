/* Private to src/device: what the CPU's files share. */
#ifndef CPU_INTERNAL_H
#define CPU_INTERNAL_H

#include "device/device.h"
#include "kern/kern.h"

struct device {
    const struct kern *k;
    struct pool *pool;
    bool exact;
    int n_threads;
    struct dev_sizes sizes;

    /* One mapping, carved once by device_reserve. */
    void *map;
    size_t map_bytes;
    /* shared by the threads; during a mixture-of-experts block norm and packed
     * hold the gathered inputs of one expert, tmp its outputs */
    float *norm;         /* (max_tokens, max_in) normed input */
    uint8_t *packed;     /* (max_tokens) packed tokens: the input of many-token products */
    uint8_t *act;        /* one activation blob of n_embd, for device_guess */
    float *tmp;          /* (max_tokens, max_out), max_out >= n_embd */
    /* mixture of experts */
    float *moe_h;        /* (max_tokens, n_embd) normed input */
    uint8_t *moe_act;    /* (max_tokens) blobs of n_embd */
    float *moe_scores;   /* (max_tokens, n_experts) */
    float *guess;        /* (n_experts) scores of device_guess */
    float *moe_shared_w; /* (max_tokens) sigmoid of the shared gate */
    float *moe_y;        /* one token: (n_used, n_embd) by slot; more: (max_tokens, n_embd) sums */
    float *moe_shared;   /* (max_tokens, n_embd) output of the shared expert */
    float *ffn_gate, *ffn_up; /* (max(max_tokens, n_used + 1), width) */
    float *rope;         /* (max_tokens, 2 * n_half) cos and sin */
    /* one of each per thread, `thread_stride` bytes apart */
    uint8_t *thread;
    size_t thread_stride;
    /* reserved for the longest context, touched as it grows */
    float *attn_scores;  /* per thread (q_per_kv, max_context) */
    size_t attn_bytes, attn_stride; /* stride in floats */
};

/* Whether a matrix takes 8-bit activations. */
static inline bool cpu_uses_act(const struct device *d, const struct dev_mat *w)
{
    return !d->exact && !w->precise && d->k->mulq[w->type] != NULL;
}

/* out (n_tok, n_rows) = rows [r0, r1) of w times the tokens. `x` are floats
 * (x_stride floats apart), `act` blobs of w->n_in; only the one that the type
 * needs is read. out points at row r0 of the first token. */
void cpu_mul(const struct device *d, const struct dev_mat *w, int64_t r0, int64_t r1,
             const float *x, int64_t x_stride, const void *act, int64_t n_tok, float *out,
             int64_t out_stride);

/* The same for two tokens or more, in thread i: `packed` instead of blobs.
 * `then`, a matrix or NULL, is the one whose rows from `then_row` follow. */
void cpu_mul_many(const struct device *d, int i, const struct dev_mat *w, int64_t r0, int64_t r1,
                  const float *x, int64_t x_stride, const void *packed, int64_t n_tok, float *out,
                  int64_t out_stride, const struct dev_mat *then, int64_t then_row);

/* Quantises tokens t0 (a multiple of tile_tokens) to t1 of x (n_tok, n), rows
 * x_stride floats apart, into d->packed, in thread i. */
void cpu_pack(const struct device *d, int i, const float *x, int64_t x_stride, int64_t t0,
              int64_t t1, int64_t n);

/*
 * Rows for one token, dealt out by pool_take: several matrices make one
 * sequence of units, pieces of some ten KiB.
 */
int64_t cpu_units(const struct dev_mat *w);
/* The rows [*r0, *r1) of w, maybe none, that are in units [u0, u1) of a
 * sequence in which w begins at *at; moves *at behind w. */
void cpu_unit_rows(const struct dev_mat *w, int64_t u0, int64_t u1, int64_t *at, int64_t *r0,
                   int64_t *r1);

/* The k largest of p (n) in falling order, ties to the lower index; NaN counts as -inf. */
void cpu_top_k(const float *p, int64_t n, int32_t *ids, float *vals, int64_t k);

static inline void *cpu_thread_mem(const struct device *d, int i)
{
    return d->thread + (size_t)i * d->thread_stride;
}

#endif
