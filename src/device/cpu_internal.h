/* Private to src/device: what the CPU's files share. */
#ifndef CPU_INTERNAL_H
#define CPU_INTERNAL_H

#include "device/device.h"
#include "kern/kern.h"

struct cpu_mem {
    struct dev_mem mem;
    uint8_t *base;
    size_t bytes;
};

/* The largest shapes that operations were measured with. */
struct cpu_sizes {
    int64_t max_tokens;    /* of one call */
    int64_t max_in;        /* longest input row of any product */
    int64_t max_out;       /* longest output row of a product whose result is added */
    int64_t n_embd, n_used, width; /* of a block of experts; width: of the widest */
    int64_t n_experts;
    int64_t guess_rows;    /* tokens guessed for together */
    int64_t q_per_kv;      /* query heads of a kv head that are taken together */
    int64_t n_rot;         /* rotated elements of a head */
    int64_t delta_dim;     /* sum of a delta head's key and value dims */
    int64_t gather;        /* bytes of the keys that a token sees, of many, and of its scores, */
    int64_t gather_each;   /* and further ones for each position of the context */
};

struct cpu {
    struct device dev;
    const struct kern *k;
    struct pool *pool;
    bool exact;
    int n_threads;
    bool measuring;
    struct cpu_sizes sizes;

    /* One mapping, carved once by reserve; nothing in it lives longer than an operation. */
    void *map;
    size_t map_bytes;
    /* shared by the threads; in a block of experts norm and panels hold the gathered
     * inputs of one expert, tmp its outputs */
    float *norm;         /* (max_tokens, max_in) normed input */
    uint8_t *panels;     /* (max_tokens) tokens in panels: the input of many-token products */
    float *tmp;          /* (max_tokens, max_out), max_out >= n_embd */
    float *scores;       /* (max_tokens, n_experts) */
    float *choices;      /* the same */
    uint8_t *guess_act;  /* (guess_rows) blobs */
    float *guess_scores; /* (guess_rows, n_experts) */
    float *ffn_gate, *ffn_up; /* (max_tokens, width); ffn_up also few: (rows, width) */
    float *rope;         /* (max_tokens, n_rot) cos and sin */
    /* one of each per thread, `thread_stride` bytes apart */
    uint8_t *thread;
    size_t thread_stride;
    uint8_t *gathered;     /* gather_bytes of each thread */
    size_t gather_bytes;
    /* reserved for the longest context, touched as it grows */
    float *attn_scores;  /* per thread (q_per_kv, max_context) */
    size_t attn_bytes, attn_stride; /* stride in floats */
};

static inline struct cpu *cpu_of(struct device *d)
{
    return (struct cpu *)(void *)d;
}

/* Memory of another device has no address here: who asks forgot to bring it over. */
const char *cpu_place_check(struct dev_ptr p);
/* The address of a place; NULL for none. */
static inline void *cpu_at(struct dev_ptr p)
{
    INVARIANT(cpu_place_check(p));
    return p.mem ? ((const struct cpu_mem *)(const void *)p.mem)->base + p.at : NULL;
}

/* ---- cpu_mul.c ---- */

/* Whether a matrix takes 8-bit activations. */
static inline bool cpu_uses_act(const struct cpu *d, const struct dev_mat *w)
{
    return !d->exact && !w->float_input && d->k->mulq[w->type] != NULL;
}

/* out (n_tok, n_rows) = rows [r0, r1) of w times the tokens. `x` are floats
 * (x_stride floats apart), `act` blobs of w->n_in; only the one that the type
 * needs is read. out points at row r0 of the first token. */
void cpu_mul(const struct cpu *d, const struct dev_mat *w, int64_t r0, int64_t r1,
             const float *x, int64_t x_stride, const void *act, int64_t n_tok, float *out,
             int64_t out_stride);

/* The same for two tokens or more, in thread i: `panels` instead of blobs.
 * `then`, a matrix or NULL, is the one whose rows from `then_row` follow. */
void cpu_mul_many(const struct cpu *d, int i, const struct dev_mat *w, int64_t r0, int64_t r1,
                  const float *x, int64_t x_stride, const void *panels, int64_t n_tok, float *out,
                  int64_t out_stride, const struct dev_mat *then, int64_t then_row);

/* Quantises tokens t0 (a multiple of tile_tokens) to t1 of x (n_tok, n), rows
 * x_stride floats apart, into d->panels, in thread i. */
void cpu_panel(const struct cpu *d, int i, const float *x, int64_t x_stride, int64_t t0,
              int64_t t1, int64_t n);

/* g = act(g, u), n elements; u softened to `cap` first. */
static inline void cpu_act(const struct cpu *d, enum dev_act act, float *g, float *u, int64_t n,
                           float limit, float cap)
{
    static const enum kern_act acts[] = {
        [DEV_SILU] = KERN_SILU, [DEV_GELU] = KERN_GELU, [DEV_SWIGLU_OAI] = KERN_SWIGLU_OAI,
        [DEV_SILU_CUT] = KERN_SILU_CUT, [DEV_RELU] = KERN_RELU,
        [DEV_GATE_ALONE] = KERN_SIGMOID, [DEV_SITU] = KERN_SITU};
    _Static_assert(ARRAY_LEN(acts) == DEV_N_ACTS, "a row for each activation");
    if (cap > 0.0f)
        d->k->softcap(u, n, cap);
    d->k->gate[acts[act]](g, g, u, n, limit);
}

/*
 * Rows for few tokens, dealt out by pool_take: several matrices make one
 * sequence of units, pieces of some ten KiB.
 */
int64_t cpu_units(const struct dev_mat *w);
/* The rows [*r0, *r1) of w, maybe none, that are in units [u0, u1) of a
 * sequence in which w begins at *at; moves *at behind w. */
void cpu_unit_rows(const struct dev_mat *w, int64_t u0, int64_t u1, int64_t *at, int64_t *r0,
                   int64_t *r1);

static inline void *cpu_thread_mem(const struct cpu *d, int i)
{
    return d->thread + (size_t)i * d->thread_stride;
}

/* Rows of weights in panels that are computed at a time, in bytes: they stay in the
 * second-level cache. */
enum { CPU_STRIP_BYTES = 192 << 10 };

/* y = (x - mean) / sqrt(variance + eps) * weight + bias; y may be x. */
void cpu_layer_norm(float *y, const float *x, const float *weight, const float *bias, int64_t n,
                    float eps);

/* ---- cpu_attn.c ---- */

/* cos and sin of a position, (r->n). */
void cpu_angles(const struct cpu *d, const struct dev_rope *r, float *cs, int64_t pos);
/* The rotation of one head by them. */
void cpu_rotate(const struct cpu *d, const struct dev_rope *r, float *x, const float *cs);

/* ---- the operations, as in struct device_ops ---- */

void cpu_embed(struct device *d, const struct dev_embed *a);
void cpu_project(struct device *d, const struct dev_project *a);
void cpu_gate(struct device *d, const struct dev_gate *a);
void cpu_norm(struct device *d, const struct dev_norm *a);
void cpu_scale(struct device *d, const struct dev_scale *a);
void cpu_heads(struct device *d, const struct dev_heads *a);
void cpu_merge(struct device *d, const struct dev_merge *a);
void cpu_spread(struct device *d, const struct dev_spread *a);
void cpu_mix(struct device *d, const struct dev_mix *a);
void cpu_compress(struct device *d, const struct dev_compress *a);
void cpu_index(struct device *d, const struct dev_index *a);
void cpu_attention(struct device *d, const struct dev_attention *a);
void cpu_delta(struct device *d, const struct dev_delta *a);
void cpu_route(struct device *d, const struct dev_route *a);
void cpu_prepare(struct device *d, const struct dev_prepare *a);
void cpu_experts(struct device *d, const struct dev_ffn *a, const struct dev_expert *x, int n);
void cpu_sum(struct device *d, const struct dev_sum *a);
void cpu_finite(struct device *d, const struct dev_finite *a);
size_t cpu_guess_bytes(const struct device *d, int64_t n_experts, int64_t n_embd);
void cpu_guess_copy(struct device *d, const struct dev_guess_copy *a);
void cpu_guess(struct device *d, const struct dev_guess *a);
int64_t cpu_probe_memory(struct device *d, const void *buf, size_t bytes, bool dot);

/* ---- noting what an operation needs ---- */

static inline void cpu_note(int64_t *size, int64_t needed)
{
    *size = MAX(*size, needed);
}

#endif
