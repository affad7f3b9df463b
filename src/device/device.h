/*
 * device: the operations that a processor must offer to run a transformer.
 *
 *   cpu.c        opening, scratch, embedding, projections
 *   cpu_attn.c   attention over the KV cache
 *   cpu_delta.c  gated delta net
 *   cpu_moe.c    routing and expert networks
 *   cpu_guess.c  what a later layer's router may pick
 *
 * `struct device` is an interface: a table of operations. The CPU is its
 * first implementation, over kern and a thread pool. A model sees only this
 * header; it never asks which device it runs on.
 *
 * Pointers to activations, states and weights in the argument structs are
 * addresses of the device. Only routing results and logits are brought to the
 * host, by the operations that say so. Operations run in the order of the
 * calls; an operation may return before it is finished until device_flush (the
 * CPU always finishes).
 *
 * Results of one token never depend on the other tokens of a call (chunked
 * prefill = token by token) nor on the number of threads.
 *
 * One thread drives a device.
 */
#ifndef DEVICE_H
#define DEVICE_H

#include "base/base.h"

struct device;

/* A weight matrix: y = W x, W is (n_out, n_in), rows contiguous. */
struct dev_mat {
    enum dtype type;
    int64_t n_in, n_out;
    const void *data;
    bool precise; /* float activations, also where the device rounds others to 8 bits */
};

/* What a device must have room for. */
struct dev_sizes {
    int64_t max_tokens;   /* of one call */
    int64_t n_embd;
    int64_t max_in;       /* longest input row of any projection */
    int64_t max_out;      /* longest output row of a projection that adds to the residual */
    int64_t n_experts, n_used, expert_width, shared_width;
    int64_t max_context;  /* longest KV cache */
    int64_t q_per_kv;     /* query heads that share a kv head */
    int64_t head_dim;     /* of attention */
    int64_t delta_k_dim, delta_v_dim; /* head dims of the delta net; 0: none */
};

struct device_config {
    int threads;     /* >= 1 */
    const char *cpu; /* instruction set, NULL: best */
    bool exact;      /* float activations */
};

/* Instruction sets that this build knows, least first; NULL past the last. */
const char *device_cpu_name(int i);
int device_cpu_open(const struct device_config *c, struct device **out, struct err *e);
void device_close(struct device *d);

/* Bytes device_reserve will take for fixed scratch, and per token of context. */
void device_scratch(const struct device *d, const struct dev_sizes *s, int64_t *fixed,
                    int64_t *per_context_token);
int device_reserve(struct device *d, const struct dev_sizes *s, struct err *e);
/* Gives back the memory of scratch until it is used again. */
void device_trim(struct device *d);
const char *device_name(const struct device *d); /* for example "avx512" */
int device_threads(const struct device *d);
bool device_supports(const struct device *d, enum dtype t);

/* Rows of `table` as floats: x (n_tok, n_in). */
void device_embed(struct device *d, float *x, const struct dev_mat *table, const int32_t *ids,
                  int64_t n_tok);

/* Several matrices applied to the same input, which is rms-normed first when
 * `norm` is given: out[i] (n_tok, n_out) = W[i] * norm(x). `add`: out += . */
#define DEV_PROJECT_MAX 4
struct dev_project {
    const float *x; /* (n_tok, n_in), rows x_stride floats apart */
    int64_t x_stride, n_tok, n_in;
    const float *norm; /* (n_in) or NULL */
    float eps;
    bool add;
    int n_mats;
    const struct dev_mat *w[DEV_PROJECT_MAX];
    float *out[DEV_PROJECT_MAX]; /* rows w->n_out apart */
};
void device_project(struct device *d, const struct dev_project *p);

/*
 * Softmax attention of n_tok new tokens at positions pos.. over a KV cache to
 * which they are appended first. Order: per-head rms norm of q and k (if
 * given), NEOX rotation of the first n_rot elements, store k and v, attend,
 * multiply by sigmoid(gate) (if gated).
 */
struct dev_attention {
    int64_t n_tok, pos;
    int64_t n_head, n_kv, head_dim, n_rot;
    float *q; /* (n_tok, n_head * head_dim), or with gate (n_tok, n_head * 2 * head_dim):
                 per head query then gate; normed and rotated in place */
    bool gated;
    float *k;       /* (n_tok, n_kv * head_dim); normed and rotated in place */
    const float *v; /* (n_tok, n_kv * head_dim) */
    const float *q_norm, *k_norm; /* (head_dim) or NULL */
    const float *rope_freq;       /* (n_rot / 2) */
    float eps, scale;
    void *k_cache, *v_cache;      /* (n_kv, cache_rows, head_dim), F16 or F32: a head's
                                     positions lie together, as they are read */
    int64_t cache_rows;           /* >= pos + n_tok */
    bool kv_f16;
    float *out;                   /* (n_tok, n_head * head_dim) */
};
void device_attention(struct device *d, const struct dev_attention *a);

/*
 * Gated delta net over n_tok tokens in order. Value head p uses key head
 * p % n_k. dk = dv = the head dims; channels = 2 * n_k * dk + n_v * dv.
 */
struct dev_delta {
    int64_t n_tok;
    int64_t n_k, n_v, dk, dv;
    float *u;                 /* (n_tok, channels): q heads, k heads, v heads before the
                                 convolution, which happens in place */
    const float *z;           /* (n_tok, n_v * dv) gate */
    const float *alpha, *beta;/* (n_tok, n_v) */
    const float *a, *dt;      /* (n_v): decay = exp(a * softplus(alpha + dt)) */
    const float *conv;        /* (channels, 4) */
    const float *norm;        /* (dv) */
    float eps;
    float *conv_state;        /* (3, channels), oldest first */
    float *S;                 /* (n_v, dk, dv) */
    float *out;               /* (n_tok, n_v * dv) */
};
void device_delta(struct device *d, const struct dev_delta *a);

/*
 * A mixture-of-experts block is computed between device_moe_begin, which
 * norms the input, scores the experts and brings the picks to the host, and
 * device_moe_end, which adds the result to x:
 *     x += sum over picked experts in ascending id of weight * expert(h)
 *          + sigmoid(shared_gate . h) * shared(h)
 */
struct dev_moe {
    float *x; /* (n_tok, n_embd) */
    int64_t n_tok, n_embd;
    const float *norm;
    float eps;
    const struct dev_mat *router; /* (n_experts, n_embd) */
    int64_t n_used;
    bool renormalise;             /* weights of the picked ones sum to 1 */
    const float *shared_gate;     /* (n_embd) or NULL */
    /* results on the host, in router order (falling weight; ties: lower id) */
    int32_t *picks;  /* (n_tok, n_used) */
    float *weights;  /* (n_tok, n_used) */
};
#define DEV_MAX_USED 64 /* n_used is never larger */
void device_moe_begin(struct device *d, const struct dev_moe *m);

/*
 * Guessing a later layer's picks, for lookahead: the n experts that its router
 * would pick for one token's x as it is now. The guess works with a copy of the
 * router in 8 bits (Q8_0), into which the layer's norm is folded; what the norm
 * divides by changes no order. dev_guess_bytes: room for a copy, 0: n_embd is no
 * multiple of 32, and none can be made. device_guess leaves a block between
 * device_moe_begin and device_moe_end undisturbed, device_guess_copy does too.
 */
size_t dev_guess_bytes(int64_t n_experts, int64_t n_embd);
void device_guess_copy(struct device *d, const struct dev_mat *router, const float *norm, void *copy);
void device_guess(struct device *d, const float *x, const struct dev_mat *copy, int32_t *ids, int n);

/* One expert applied to some of the tokens: down(silu(gate h) * up h). */
struct dev_expert {
    struct dev_mat gate, up, down;
    int64_t n_rows;          /* how many tokens; n_tok for the shared expert */
    const int32_t *rows;     /* which ones, ascending; NULL: all */
    const float *weight;     /* (n_rows); NULL for the shared expert */
    int slot;                /* one-token calls: place in ascending order of id, 0..n_used-1 */
    bool shared;
    enum { DEV_WHOLE, DEV_GATE_UP, DEV_DOWN } step; /* one-token calls: DOWN in a later call than
                                                      GATE_UP of the same slot */
};
/* With n_tok = 1 experts may come in any order and in several calls; with more
 * tokens each call's experts and the calls themselves come in ascending id. */
void device_moe_experts(struct device *d, const struct dev_moe *m, const struct dev_expert *experts,
                        int n);
void device_moe_end(struct device *d, const struct dev_moe *m);

/* Records what the threads do; device_label says what the next operations are. */
void device_set_trace(struct device *d, struct trace *t);
void device_label(struct device *d, const struct trace_kind *k, int64_t layer);

/* fn(user) is called on the caller's thread during operations, between pieces of
 * its work: often, so it must be quick. NULL: nothing. */
typedef void device_turn_fn(void *user);
void device_set_turn(struct device *d, device_turn_fn *fn, void *user);

/* Memory bandwidth figures for the probe: streams `bytes` with all threads
 * once; plain reads, or the dot kernel over Q4_K rows. Returns nanoseconds. */
int64_t device_probe_memory(struct device *d, void *buf, size_t bytes, bool dot);

#endif
