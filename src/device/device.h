/*
 * device: the operations that a processor must offer to run a transformer.
 *
 *   cpu.c        opening, memory, scratch, embedding
 *   cpu_mul.c    products with rows of matrices, projections
 *   cpu_attn.c   attention over the KV cache
 *   cpu_index.c  which positions a token sees, of many
 *   cpu_compress.c  what stands for positions long past
 *   cpu_streams.c   a residual stream that is several
 *   cpu_delta.c  gated delta net
 *   cpu_route.c  routing, and what a later layer's router may pick
 *   cpu_ffn.c    expert networks and their sum
 *   cpu_check.c  values that are not finite
 *
 * A device is a table of operations (struct device_ops) on memory of its own.
 * Nobody above dereferences that memory: it is named by struct dev_ptr. The CPU
 * is the first device, over kern and a thread pool.
 *
 * Order. Operations take effect in the order of the calls and may still be under
 * way when the call returns; arguments that lie with the host are read before.
 * device_mark names everything submitted so far; what it covers has happened
 * when device_passed says so or device_wait returned. The CPU's marks have
 * always passed. Memory that an operation reads or writes must stay as it is
 * until then: a lease of an expert, a buffer that the drive writes into, the
 * host's end of a device_get.
 *
 * Failure. An operation cannot fail; device_wait can, with the sentence of what
 * went wrong in anything submitted before. Afterwards the device is unusable.
 *
 * No state is kept between operations: what one leaves for the next lies in
 * buffers that the caller names, so that two blocks, two batches and two devices
 * may be under way.
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

/* ---- memory ------------------------------------------------------------------ */

enum dev_use {
    DEV_WEIGHTS, /* written once */
    DEV_STATE,   /* KV cache, recurrent state; large parts may never be touched */
    DEV_SCRATCH, /* activations */
    DEV_LANDING, /* the drive writes into it, so the host can always see it */
    DEV_LANDING_HUGE /* the same, aligned to huge pages where the host has them */
};

struct dev_mem { /* the beginning of what a device knows of an allocation */
    struct device *dev;
};

struct dev_ptr { /* mem NULL: nothing */
    struct dev_mem *mem;
    size_t at;
};
#define DEV_NONE ((struct dev_ptr){NULL, 0})
static inline struct dev_ptr dev_at(struct dev_ptr p, size_t bytes)
{
    return (struct dev_ptr){p.mem, p.at + bytes};
}

/* ---- arguments of the operations ----------------------------------------------- */

/* A weight matrix: y = scale * W x + bias, where there are these. W is (n_out, n_in), rows
 * contiguous. */
struct dev_mat {
    enum dtype type;
    int64_t n_in, n_out;
    struct dev_ptr data;
    struct dev_ptr scale; /* (1) */
    struct dev_ptr bias;  /* (n_out) */
    bool float_input; /* float activations, also where the device rounds others to 8 bits */
};

/* Rows `ids` (n_tok, of the host) of a table as floats: x (n_tok, n_in). Here and wherever
 * else rows of a matrix are taken as they are, it has neither scale nor bias. */
struct dev_embed {
    const struct dev_mat *table;
    const int32_t *ids;
    int64_t n_tok;
    struct dev_ptr x;
};

/* Several matrices applied to the same input, which is rms-normed first when
 * `norm` is given: out[i] (n_tok, n_out) = W[i] * norm(x). `add`: out += . */
#define DEV_PROJECT_MAX 4
struct dev_project {
    struct dev_ptr x;    /* (n_tok, n_in) */
    int64_t n_tok, n_in;
    struct dev_ptr norm; /* (n_in) */
    float eps;
    bool add;
    int n_mats;
    const struct dev_mat *w[DEV_PROJECT_MAX];
    struct dev_ptr out[DEV_PROJECT_MAX]; /* rows w->n_out apart */
};

/* What a gated network does between its products; `limit` 0: none. */
enum dev_act {
    DEV_SILU, /* silu(g) * u; with a limit min(g, limit), and u within +-limit */
    DEV_GELU, /* gelu(g) * u, gelu in its tanh form */
    DEV_SWIGLU_OAI, /* g sigmoid(1.702 g) (u + 1), g and u limited: gpt-oss */
    DEV_SILU_CUT, /* silu(g) * u; with a limit min(silu(g), limit), and u within +-limit */
    DEV_RELU, /* max(g, 0) * u */
    DEV_GATE_ALONE, /* sigmoid(g) * u */
    DEV_SITU, /* limit * tanh(g / limit) * sigmoid(g) * u: Kimi-K3, which softens u, too */
    DEV_N_ACTS
};

/* g = act(g, u), both (n_tok, width). */
struct dev_gate {
    struct dev_ptr g, u;
    int64_t n_tok, width;
    enum dev_act act;
    float limit;
    float cap; /* u is cap * tanh(u / cap) first, in place; 0: as it is */
};

/* out = norm(x) * weight, or out += that; rows of n floats, x_stride and out_stride
 * apart. With a bias it is a layer norm: the mean is taken off first. */
struct dev_norm {
    struct dev_ptr x, weight, out; /* weight (n), or none: 1; out may be x */
    struct dev_ptr bias;           /* (n), with a weight, or none */
    int64_t n_tok, n, x_stride, out_stride;
    float eps;
    bool add;
};

/* x = factor * x, then limited to cap * tanh(x / cap) where there is a cap; n floats. */
struct dev_scale {
    struct dev_ptr x;
    struct dev_ptr by; /* (1), a further factor, or none: 1 */
    int64_t n;
    float factor, cap; /* cap 0: none */
};

/*
 * A product for each head of each token: head h of out = W_h times head h of x.
 * W_h are the rows [h * step + first, ...) of w: n_out of n_in; or, transposed,
 * n_in rows of n_out. The scale of w is that of each W_h. Latent attention takes its
 * queries in with it, and its values out (DeepSeek-V2, arXiv 2405.04434, 2.1.2).
 */
struct dev_heads {
    const struct dev_mat *w; /* NULL: out = x */
    int64_t step, first; /* rows of w */
    bool transposed;
    int64_t n_tok, n_heads, n_in, n_out;
    struct dev_ptr x, out;
    int64_t x_token, x_head, out_token, out_head; /* floats apart */
};

/* Rotation of n elements of a head, those from `at` on, by angles that grow with
 * the position (RoPE, arXiv 2104.09864): angle = position * freq[i] / factors[i]. */
struct dev_rope {
    int64_t n, at; /* n 0: none */
    enum dev_rotation {
        DEV_ROTATE_HALVES, /* pairs (i, i + n / 2): NEOX */
        DEV_ROTATE_PAIRS   /* pairs (2 i, 2 i + 1) */
    } pairs;
    struct dev_ptr freq;    /* (n / 2) */
    struct dev_ptr factors; /* (n / 2) or none: 1 */
    float scale;            /* of cos and sin */
};

/*
 * Softmax attention of new tokens over KV caches to which they are appended
 * first. Order: rms norm of q and k (if given), rotation (or both the other way
 * round), store k and v, attend, multiply by sigmoid(gate) (if there is one). The
 * tokens are those of several spans, one sequence each.
 */
struct dev_kv_span {
    int64_t first, n_tok;  /* rows of q, k, v and out */
    int64_t pos;           /* of the first token */
    struct dev_ptr k, v;   /* caches (n_kv, rows, key_dim) and (.., value_dim), F16 or F32: a
                              head's positions lie together, as they are read */
    int64_t rows;          /* >= pos + n_tok - base */
    int64_t base;          /* the position of row 0: what lies before it is not seen */
};
/* With a ratio, entries stand for positions long past: entry i for those from i * ratio
 * on, and a token sees it from the last of them on. The caches of v hold them, as rows
 * of keys. */
static inline int64_t dev_entries(int64_t ratio, int64_t pos)
{
    return ratio ? (pos + 1) / ratio : 0;
}
struct dev_attention {
    const struct dev_kv_span *spans;
    int n_spans;
    int64_t n_head, n_kv, key_dim, value_dim;
    struct dev_rope rope;
    struct dev_ptr q; /* (tokens, n_head * key_dim), or with gate (tokens, n_head * 2 * key_dim):
                         per head query then gate, key_dim = value_dim; normed and rotated in
                         place */
    bool gated;
    struct dev_ptr k;  /* (tokens, n_kv * key_dim); normed and rotated in place; none: the caches
                          hold these tokens already */
    struct dev_ptr v;  /* (tokens, n_kv * value_dim); none: a key's first value_dim elements are
                          its value, and there is no cache of v */
    struct dev_ptr q_norm, k_norm; /* (key_dim), for each head; or for all heads together: */
    bool norm_all;                 /* (n_head * key_dim) and (n_kv * key_dim), not gated */
    bool norm_unit;                /* each head is normed, without weights */
    bool norm_late;                /* norms come behind the rotation */
    struct dev_ptr gate;           /* (tokens, n_head * gate_dim) or none; gate_dim: value_dim, */
    int64_t gate_dim;              /* or 1: one for all elements of a head */
    int64_t window;       /* a token sees itself and the window - 1 before it; 0: all */
    int64_t chunk;        /* a token sees those from the last multiple of chunk on; 0: all */
    struct dev_ptr sinks; /* (n_head): one more score each, without a value; or none */
    float eps, scale;
    /* Queries are multiplied by 1 + heat * ln(1 + floor((pos + heat_first) / heat_length)), where
     * heat is not 0. */
    float heat;
    int64_t heat_length, heat_first;
    float cap;            /* scores become cap * tanh(score / cap); 0: they stay */
    /* (tokens, n_seen) int32: what a token sees that could see more than n_seen positions,
     * or entries, ascending; or none. n_kv is 1 and there is no v. */
    struct dev_ptr seen;
    int64_t n_seen;       /* 0: all */
    int64_t ratio;        /* a token sees entries besides its window; n_kv is 1, there is no v;
                             0: there are none */
    bool turn_back;       /* what a head gives is rotated by minus its token's angles */
    bool kv_f16;
    struct dev_ptr out;   /* (tokens, n_head * value_dim) */
};

/*
 * Entries of a cache made of positions that are complete: of each `ratio` positions one,
 *     entry = rotate(norm(sum over rows of softmax(scores) * values))
 * element by element, rotated by the first position's angles. Its rows are those
 * positions, scores with the ape's row of position % ratio added. overlap: rows are twice
 * as long, and an entry is of the second halves of these and of the first halves of the
 * `ratio` positions before them. Rows of positions whose entries are still to come wait in
 * the span's `k`, (overlap ? 2 * ratio : ratio) places of values and scores.
 */
struct dev_compress {
    const struct dev_kv_span *spans; /* k: what waits, (places, 2, width) floats; v: caches
                                        (rows, dim) of entries; pos; rows and base unused */
    int n_spans;
    int64_t ratio, dim;
    bool overlap;                  /* width: 2 * dim; else dim */
    struct dev_rope rope;
    struct dev_ptr values, scores; /* (tokens, width); ape is added to the scores in place */
    const struct dev_mat *ape;     /* ratio rows of width */
    struct dev_ptr norm;           /* (dim) */
    float eps;
    bool kv_f16;
};

/*
 * What attention shall see: of the positions up to a token's own those n_seen with the
 * largest index scores; ties: lower position. The score of a position is the sum over
 * heads of weight * max(0, query . key) * scale (lightning indexer of DeepSeek-V3.2).
 * First keys get a layer norm, with its bias, then queries and keys are rotated and keys
 * stored. Tokens that can see no more than n_seen are left out.
 */
struct dev_index {
    const struct dev_kv_span *spans; /* v: caches (rows, dim) of keys */
    int n_spans;
    int64_t n_head, dim;
    struct dev_rope rope;
    struct dev_ptr q, k, weights; /* (tokens, n_head * dim), (tokens, dim), (tokens, n_head) */
    struct dev_ptr norm, bias;    /* (dim) */
    float eps, scale;
    int64_t n_seen;
    int64_t ratio;                /* the caches have entries, and so the choice is of them: there is
                                     no k; 0: of positions */
    bool kv_f16;
    struct dev_ptr seen;          /* (tokens, n_seen) int32, ascending */
};

/*
 * Gated delta net over the tokens of each span in order. Value head p uses key
 * head p % n_k. dk = dv = the head dims; channels = 2 * n_k * dk + n_v * dv.
 * kda: Kimi Delta Attention (arXiv 2510.26692), where n_k = n_v: each key element
 * has a decay of its own, and the gate is a sigmoid.
 */
struct dev_delta_span {
    int64_t first, n_tok;
    struct dev_ptr conv_state; /* (3, channels), oldest first */
    struct dev_ptr S;          /* (n_v, dk, dv) */
};
struct dev_delta {
    const struct dev_delta_span *spans;
    int n_spans;
    int64_t n_k, n_v, dk, dv;
    bool grouped;              /* value head p uses key head p / (n_v / n_k) instead */
    struct dev_ptr u;          /* (tokens, channels): q heads, k heads, v heads before the
                                  convolution, which happens in place */
    struct dev_ptr z;          /* (tokens, n_v * dv) gate */
    bool kda;
    struct dev_ptr alpha, beta;/* (tokens, ab_token): that of head p is p % ab_run in the run
                                  p / ab_run; runs are ab_step apart; kda: alpha is
                                  (tokens, n_v * dk) */
    int64_t ab_token, ab_run, ab_step;
    struct dev_ptr decay, dt;  /* (n_v): a step's decay = exp(decay * softplus(alpha + dt)); kda:
                                  dt is (n_v * dk), */
    float floor, steep;        /* and where floor is not 0 a step's decay is
                                  exp(floor * sigmoid(steep * decay * (alpha + dt))) */
    struct dev_ptr conv;       /* (channels, 4); or with the next two of queries alone: */
    struct dev_ptr conv_k, conv_v; /* of keys, of values; or none */
    struct dev_ptr norm;       /* (dv) */
    float eps;
    struct dev_ptr out;        /* (tokens, n_v * dv) */
};

/*
 * Routing: norms the input and scores the experts, or takes products made before.
 *     h = norm(x); p = scoring(router * h); those with the n_used largest of
 *     p + correction are picked; their weights are their p, which may be made to
 *     sum to 1, times scale.
 * With groups, of which the experts are equal parts in order, only those of the
 * groups_used groups count whose two largest p + correction have the largest sum
 * (DeepSeek-V3, arXiv 2412.19437, 2.1.2). Router order: falling p + correction;
 * ties: lower id. A score that is no number makes a weight that is none.
 */
enum {
    DEV_MAX_USED = 64,    /* n_used is never larger */
    DEV_MAX_GROUPS = 256, /* nor n_groups */
    DEV_FEW_TOKENS = 8    /* most tokens of a block of experts with few */
};
enum dev_scoring {
    DEV_SOFTMAX, /* over all experts */
    DEV_SIGMOID,
    DEV_SIGMOID_PICKED, /* p is the product; the sigmoid is of the picked ones */
    DEV_SOFTMAX_PICKED, /* p is the product; the softmax is over the picked ones */
    DEV_SQRT_SOFTPLUS,
    DEV_SPARSE_MIXER    /* p is the product; a pick's weight is its part of a softmax over those
                           that are left, of which only those count whose p is less than 2 % below
                           it: (p_pick - p) / max(|p|, p_pick) <= 0.02 (GRIN, arXiv 2409.12136) */
};
struct dev_scores { /* how products with the router become a choice */
    enum dev_scoring scoring;
    struct dev_ptr correction;      /* (n_experts) or none: 0 */
    int64_t n_groups, groups_used;  /* n_groups <= 1: none */
};
struct dev_route {
    struct dev_ptr x;             /* (n_tok, n_embd) */
    int64_t n_tok, n_embd;
    struct dev_ptr norm, norm_bias; /* norm_bias (n_embd): h is a layer norm of x; or none */
    float eps;
    const struct dev_mat *router; /* (n_experts, n_embd) */
    struct dev_ptr router_norm;   /* (n_embd): the router takes x normed with it instead of h */
    struct dev_ptr products;      /* (n_tok, n_experts) instead of router * h; or none */
    struct dev_ptr table;         /* (vocabulary, n_used) int32: a token's experts are those of its
                                     id, in the table's order; or none. A row that is none of
                                     n_used experts makes a weight that is no number */
    const int32_t *ids;           /* (n_tok), of the host; with a table */
    struct dev_scores scores;
    int64_t n_used;
    bool renormalise;             /* weights of the picked ones sum to 1 */
    float scale;                  /* of the weights */
    struct dev_ptr shared_gate;   /* (n_embd) of a shared expert; none: its weight is 1 */
    /* results */
    struct dev_ptr h;             /* (n_tok, n_embd) */
    struct dev_ptr input;         /* h as experts read it: device_input_bytes(n_tok, n_embd) */
    struct dev_ptr picks;         /* (n_tok, n_used) int32, router order */
    struct dev_ptr weights;       /* (n_tok, n_used) */
    struct dev_ptr shared_weight; /* (n_tok): sigmoid(shared_gate . h) */
};

/* `input` of h, for a device that did not route. */
struct dev_prepare {
    struct dev_ptr h, input;
    int64_t n_tok, n_embd;
};

/*
 * Experts applied to some of the tokens: down(act(gate h, up h)). A (token,
 * pick) pair is a row. Few tokens: each row's output goes to its own place in y,
 * so experts may be computed in any order and an expert in two calls. Many: the
 * output times the row's weight is added to the token's sum, which was zero;
 * experts come in ascending id, in a call and from call to call.
 */
struct dev_expert {
    struct dev_mat gate, up, down;
    int64_t n_rows;        /* at least 1 */
    int64_t first_row; /* in the lists of dev_ffn; of a shared expert, which has all tokens: 0 */
    bool shared;
    enum dev_step { DEV_WHOLE, DEV_GATE_UP, DEV_DOWN } step; /* few: DOWN in a later call than
                                                                GATE_UP of the same rows */
};
struct dev_ffn {
    int64_t n_tok, n_embd, n_used;
    bool many;
    enum dev_act act;
    float limit, shared_limit; /* of the shared expert */
    float cap;              /* of what up gives: dev_gate */
    struct dev_ptr h, input;
    struct dev_ptr input_weights; /* (n_tok): experts, of which a token has one, take this times h;
                                     none: 1 */
    struct dev_ptr tokens;  /* of each row, int32; ascending in an expert */
    struct dev_ptr places;  /* few: of each row, int32, in y: token * n_used + rank of its id */
    struct dev_ptr factors; /* many: weight of each row */
    struct dev_ptr hidden;  /* few: (n_tok * (n_used + 1), hidden_width), kept between the steps */
    int64_t hidden_width;   /* the widest expert, shared ones too */
    struct dev_ptr y;       /* few: (n_tok * n_used, n_embd); many: (n_tok, n_embd) */
    struct dev_ptr shared_y;/* (n_tok, n_embd) */
};

/*
 * Sums what experts left, always in ascending id, and adds it to x:
 *     out = sum over picked experts of weight * expert(h)
 *           + shared_weight * shared_y   (shared_weight none: 1)
 *     x += scale * out
 */
struct dev_sum {
    int64_t n_tok, n_embd, n_used;
    bool many;              /* y holds the first sum already, and is `out` */
    struct dev_ptr y;
    struct dev_ptr picks, weights; /* few; no weights: 1 */
    struct dev_ptr shared_y, shared_weight;
    struct dev_ptr out;     /* (n_tok, n_embd); few */
    struct dev_ptr x;       /* (n_tok, n_embd), or none */
    float scale;
};

/*
 * A residual stream that is n streams (hyper-connections, arXiv 2409.19606, with the
 * constraint of arXiv 2512.24880). merge makes the input of a part,
 *     x = sum over s of pre[s] * stream[s]
 * and spread gives its output y back to them,
 *     stream[d] = post[d] * y + sum over s of comb[s][d] * stream[s].
 * The factors come of products of a matrix with all streams of a token behind one another,
 * divided here by their root mean square: m = products * scale + base, and
 *     pre = sigmoid(m) + mix_eps, post = 2 * sigmoid(m),
 *     comb = softmax of each row of m, then `rounds` times the columns, between them the
 *     rows, are divided by their sums; mix_eps is added to it and to each sum.
 * `last`: there is pre alone, as no part follows.
 */
enum { DEV_STREAMS = 4 };
struct dev_merge {
    struct dev_ptr streams;     /* (n_tok, DEV_STREAMS, n_embd) */
    int64_t n_tok, n_embd;
    struct dev_ptr factors;     /* (n_tok, DEV_FACTORS): products, then pre, post and comb; last:
                                   (n_tok, DEV_STREAMS) */
    struct dev_ptr scale, base; /* (3) and (DEV_FACTORS): of pre, post and comb; last: (1) and
                                   (DEV_STREAMS) */
    float eps, mix_eps;         /* of the root mean square, of the factors */
    int64_t rounds;
    bool last;
    struct dev_ptr x;           /* (n_tok, n_embd) */
};
enum { DEV_FACTORS = DEV_STREAMS * (2 + DEV_STREAMS) };
struct dev_spread {
    struct dev_ptr streams, factors, y; /* y (n_tok, n_embd) */
    int64_t n_tok, n_embd;
};

/*
 * A residual stream in pieces, each the sum of what some layers added: a part sees a mix of
 * all of them (attention residuals of Kimi-K3),
 *     x = sum over i of softmax(score)[i] * piece[i], score[i] = sum of norm(piece[i]) * weight
 */
enum { DEV_PIECES = 128 }; /* n is never larger */
struct dev_mix {
    struct dev_ptr pieces; /* (n, n_tok, n_embd) */
    int64_t n, n_tok, n_embd;
    struct dev_ptr weight; /* (n_embd) */
    float eps;
    struct dev_ptr x;      /* (n_tok, n_embd) */
};

/* Whether floats are finite, token by token: faults[t] = tag where one of x (n_tok,
 * width) is not and faults[t] was 0. */
struct dev_finite {
    struct dev_ptr x;
    int64_t n_tok, width;
    struct dev_ptr faults; /* (n_tok) uint32 */
    uint32_t tag;
};

/*
 * Guessing a later layer's picks, for lookahead: the n experts that its router
 * would pick for each x as it is now. The guess works with a copy of the router
 * in 8 bits (Q8_0), into which the layer's norm is folded; what the norm divides
 * by is taken off the products. Groups are not looked at.
 */
struct dev_guess_copy {
    const struct dev_mat *router;
    struct dev_ptr norm; /* none: 1 */
    struct dev_ptr copy; /* device_guess_bytes */
};
struct dev_guess {
    struct dev_ptr x; /* (n_tok, n_in) */
    int64_t n_tok;
    const struct dev_mat *copy; /* its scale and bias are the router's */
    struct dev_scores scores;
    float eps;
    int n;
    struct dev_ptr ids; /* (n_tok, n) int32 */
};

/* ---- the table ------------------------------------------------------------------- */

typedef uint64_t dev_mark;
/* Called on the caller's thread while the device keeps it busy, between pieces of
 * the work: often, so it must be quick. */
typedef void device_turn_fn(void *user);

struct device_ops {
    const char *(*name)(const struct device *d); /* for example "avx512" */
    int (*threads)(const struct device *d);
    void (*close)(struct device *d);
    bool (*supports)(const struct device *d, enum dtype t);

    /* Memory, zero at first; whole pages. free waits for what is under way. */
    int (*alloc)(struct device *d, enum dev_use use, size_t bytes, struct dev_mem **out,
                 struct err *e);
    void (*free)(struct dev_mem *mem);
    void *(*host)(struct dev_mem *mem); /* its address; NULL: the host cannot see it */
    /* All of it was written and will stay: keep it from being paged out, if possible. */
    void (*keep)(struct dev_mem *mem);
    void (*put)(struct device *d, struct dev_ptr to, const void *from, size_t bytes);
    void (*get)(struct device *d, void *to, struct dev_ptr from, size_t bytes);
    void (*copy)(struct device *d, struct dev_ptr to, struct dev_ptr from, size_t bytes);
    void (*zero)(struct device *d, struct dev_ptr p, size_t bytes);
    /* Becomes zero and takes no memory until it is written again; whole pages. */
    void (*give_back)(struct device *d, struct dev_ptr p, size_t bytes);

    dev_mark (*mark)(struct device *d);
    bool (*passed)(struct device *d, dev_mark m);
    int (*wait)(struct device *d, dev_mark m, struct err *e);
    /* Registered, not an argument of wait: the CPU computes inside the operations. */
    void (*set_turn)(struct device *d, device_turn_fn *fn, void *user);

    /* Scratch of its own. From measure on operations do nothing but note what they
     * would need; measured tells it and ends that: fixed bytes, and bytes for each
     * position of the longest sequence. reserve takes what was measured last. */
    void (*measure)(struct device *d);
    void (*measured)(struct device *d, int64_t *fixed, int64_t *per_position);
    int (*reserve)(struct device *d, int64_t max_positions, struct err *e);
    void (*trim)(struct device *d); /* gives scratch back until it is used again */

    size_t (*input_bytes)(const struct device *d, int64_t n_tok, int64_t n_embd);
    /* 0: none can be made. */
    size_t (*guess_bytes)(const struct device *d, int64_t n_experts, int64_t n_embd);

    void (*embed)(struct device *d, const struct dev_embed *a);
    void (*project)(struct device *d, const struct dev_project *a);
    void (*gate)(struct device *d, const struct dev_gate *a);
    void (*norm)(struct device *d, const struct dev_norm *a);
    void (*scale)(struct device *d, const struct dev_scale *a);
    void (*heads)(struct device *d, const struct dev_heads *a);
    void (*merge)(struct device *d, const struct dev_merge *a);
    void (*spread)(struct device *d, const struct dev_spread *a);
    void (*mix)(struct device *d, const struct dev_mix *a);
    void (*compress)(struct device *d, const struct dev_compress *a);
    void (*index)(struct device *d, const struct dev_index *a);
    void (*attention)(struct device *d, const struct dev_attention *a);
    void (*delta)(struct device *d, const struct dev_delta *a);
    void (*route)(struct device *d, const struct dev_route *a);
    void (*prepare)(struct device *d, const struct dev_prepare *a);
    void (*experts)(struct device *d, const struct dev_ffn *a, const struct dev_expert *x, int n);
    void (*sum)(struct device *d, const struct dev_sum *a);
    void (*finite)(struct device *d, const struct dev_finite *a);
    void (*guess_copy)(struct device *d, const struct dev_guess_copy *a);
    void (*guess)(struct device *d, const struct dev_guess *a);

    /* What the threads do goes to a timeline, under the kind named last. */
    void (*set_trace)(struct device *d, struct trace *t);
    void (*label)(struct device *d, const struct trace_kind *k, int64_t layer);
    /* Nanoseconds for streaming host memory with all threads once: plain reads, or
     * the dot kernel over Q4_K rows. For the probe. */
    int64_t (*probe_memory)(struct device *d, const void *buf, size_t bytes, bool dot);
};

struct device { /* the beginning of every device */
    const struct device_ops *ops;
};

/* get, and waits for it. */
static inline int device_bring(struct device *d, void *to, struct dev_ptr from, size_t bytes,
                               struct err *e)
{
    d->ops->get(d, to, from, bytes);
    return d->ops->wait(d, d->ops->mark(d), e);
}
static inline void device_close(struct device *d)
{
    if (d)
        d->ops->close(d);
}
static inline void dev_free(struct dev_mem *mem)
{
    if (mem)
        mem->dev->ops->free(mem);
}
static inline void *dev_host(struct dev_mem *mem)
{
    return mem ? mem->dev->ops->host(mem) : NULL;
}

/* ---- the CPU ------------------------------------------------------------------------- */

struct device_config {
    int threads;     /* >= 1 */
    const char *cpu; /* instruction set, NULL: best */
    bool exact;      /* float activations */
};

/* Instruction sets that this build knows, least first; NULL past the last. */
const char *device_cpu_name(int i);
int device_cpu_open(const struct device_config *c, struct device **out, struct err *e);
/* n elements of a row (whole blocks) as floats, on the host; false: there is no
 * decoder for the type. */
bool dev_decode(enum dtype t, float *y, const void *row, int64_t n);
/* Whether n floats of the host are finite: none is NaN or infinite. */
bool dev_floats_finite(const float *x, int64_t n);

#endif
