/*
 * mkmodel, shared by its files.
 *
 *   ../mkmodel.c  options
 *   model.c       the tensors of a model
 *   keys.c        its metadata
 *   router.c      router weights with a wanted skew
 *   write.c       weights and file
 *
 * It is a program for developers: it prints, and exits without memory.
 */
#ifndef MKMODEL_H
#define MKMODEL_H

#include "support/synth.h"

#define MK_ALIGN 32
#define MK_KEYS 16
#define MK_INDEXER_HEADS 8
#define MK_INDEXER_DIM 64
#define MK_STREAMS 4 /* of a residual stream that is several */
#define MK_OUT_GROUPS 2
#define MK_OUT_LORA 32
#define MK_HASHED 2 /* so many first layers look their experts up */

enum has {
    EXPERTS = 1 << 0,
    LINEAR = 1 << 1,        /* most layers are gated delta nets */
    SHARED = 1 << 2,
    SHARED_GATE = 1 << 3,
    QK_NORM = 1 << 4,
    ONE_QK_NORM = 1 << 5,   /* of all heads together */
    GATED_QUERY = 1 << 6,
    QKV_BIAS = 1 << 7,
    OUTPUT_BIAS = 1 << 8,
    SINKS = 1 << 9,
    WINDOW = 1 << 10,
    ROUTER_BIAS = 1 << 11,
    CORRECTION = 1 << 12,
    EXPERT_BIAS = 1 << 13,
    ROUTER_KEYS = 1 << 14,  /* the file says how routers score and weigh */
    LATENT = 1 << 16,       /* keys and values of a short vector */
    GROUPED = 1 << 17,      /* linear: value heads follow their key head */
    POST_NORM = 1 << 15,    /* the norm before the ffn is called post_attention_norm */
    FUSED_QKV = 1 << 18,
    POST_NORMS = 1 << 19,   /* what attention and ffn give is normed */
    GATE = 1 << 20,         /* attention has a gate for each element */
    HEAD_GATE = 1 << 21,    /* ... for each head */
    FUSED_FFN = 1 << 22,    /* gate and up of layers without experts in one matrix */
    SHARED_KEY = 1 << 23,   /* the shared expert's width has a key */
    PLAIN_WIDTH = 1 << 24,  /* an expert's has none of its own */
    VALUE_DIM = 1 << 25,    /* values have a length of their own */
    KDA = 1 << 26,          /* most layers are Kimi Delta Attention */
    INDEXER = 1 << 27,      /* latent: with an indexer */
    NEAR_HEADS = 1 << 28,   /* heads of layers with a window have a length of their own, and
                               the file lists these layers */
    BESIDE = 1 << 29,       /* a network beside the experts; values are normed, and keys in
                               layers that see all */
    INTERLEAVED = 1 << 30,  /* of so many layers the last has experts */
};
#define ENTRIES (1u << 31) /* compressed attention, streams, experts by token */
#define DIRECT_KDA ((uint64_t)1 << 33) /* its decays and gates come in one step: Ling 3 */
#define BARE_CORRECTION ((uint64_t)1 << 34) /* whose name has no ".bias" */
#define K3 ((uint64_t)1 << 32) /* experts of a short vector, pieces, gates, situ: Kimi-K3 */

/* What a family has; `pre` splits its texts. */
struct family {
    const char *name, *pre;
    double rope_base;
    uint64_t has;     /* of enum has */
    uint64_t may;     /* what options can add: EXPERTS; QK_NORM and QKV_BIAS */
    int gating;       /* expert_gating_func; 0: the key is not written */
    double rot;       /* part of a head that is rotated */
    bool layer_norms; /* norms have biases, and so has the output */
    bool no_q_lora;   /* queries never come of a short vector */
    const char *key;  /* that it cannot do without, as --key has it, when none is given */
    int period;       /* WINDOW: of so many layers the last sees all, */
    bool far_first;   /* or the first */
};
extern const struct family mk_families[]; /* one without a name ends them */

struct config {
    const struct family *family;
    uint64_t has;
    int64_t layers, hidden, heads, kv_heads, head_dim;
    int64_t experts, used, width, shared, vocab;
    int64_t expert_embd;  /* elements that experts read (K3) */
    int64_t block;        /* layers of a piece of the residual stream (K3) */
    int64_t ffn; /* without experts */
    int64_t dense_layers; /* so many first ones have no experts */
    int64_t q_lora, kv_lora, nope, rope_dim, value_dim; /* latent; q_lora 0: none */
    int64_t near_heads, near_kv_heads, near_head_dim;    /* of layers with a window; 0: others' */
    int64_t top;          /* what an indexer picks */
    int64_t moe_step;     /* of so many layers the last has experts */
    int64_t window, groups, groups_used, gating;
    int64_t k_heads, v_heads, linear_dim, interval; /* qwen35moe */
    int64_t context, original, seed; /* original: context before stretching */
    double skew, rope_base, yarn, linear_rope, weights_scale;
    bool rope_factors, long_rope, old_form; /* old_form: tensors as older files have them */
    enum dtype type, dense, down, output;
    bool mtp, fused, tied, vary_norms, factors;
    bool hollow; /* a file of the right size in which weights are a hole */
    const char *key[MK_KEYS]; /* NAME=TYPE:VALUE[,VALUE...], more metadata */
    int n_keys;
};

/* What a tensor is filled with: random numbers; embeddings, output, a router, ones,
 * the decay and the time step of linear layers; small numbers that are added; numbers
 * from 1 to 4; numbers from 0.5 to 1.5; a quarter of ones, and numbers that leave pairs as
 * they are; rows of different experts. */
enum fill { F_MATRIX, F_EMBED, F_OUTPUT, F_ROUTER, F_ONES, F_DECAY, F_STEP, F_BIAS, F_FACTORS,
            F_SCALES, F_STILL, F_IDS };

struct tensor {
    char name[64];
    enum dtype type;
    enum fill fill;
    int n_dims, layer;
    uint64_t ne[3];
    double std;
    uint64_t bytes;
};

struct model {
    struct config c;
    struct tensor *t;
    size_t n, cap;
    /* The first n_common elements of every embedding row, decoded and coded. */
    int64_t n_common;
    float *common;
    uint8_t *common_bytes;
};

/* ---- what files share of a configuration ---- */

static inline bool has(const struct config *c, uint64_t what)
{
    return (c->has & what) != 0;
}

static inline int64_t mk_n_rot(const struct config *c)
{
    return c->has & (LATENT | ENTRIES) ? c->rope_dim
                                       : (int64_t)((double)c->head_dim * c->family->rot);
}

/* Whether a layer sees the nearest tokens only. */
static inline bool is_near(const struct config *c, int64_t il)
{
    const int64_t period = c->family->period;
    return has(c, WINDOW) && il % period != (c->family->far_first ? 0 : period - 1);
}

static inline int64_t heads_of(const struct config *c, int64_t il)
{
    return is_near(c, il) ? c->near_heads : c->heads;
}

static inline int64_t kv_heads_of(const struct config *c, int64_t il)
{
    return is_near(c, il) ? c->near_kv_heads : c->kv_heads;
}

/* Positions of an entry: all kinds of layers come in turn. */
static inline int64_t ratio_of(int64_t il)
{
    return il == 0 ? 0 : il % 2 ? 4 : 128;
}

/* Prints the sentence; returns -1. */
int mk_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Returns p, which must not be NULL. */
void *mk_need(void *p);

/* ---- model.c ---- */

/* Fills in the list of tensors. */
void mk_tensors(struct model *m);

/* ---- keys.c ---- */

/* Everything before the data; -1 after printing why not. */
int mk_header(struct gb *b, const struct model *m);

/* ---- router.c ---- */

/* Makes the shared start of the embedding rows; needs the list of tensors. */
void mk_common(struct model *m);
/* The (experts, hidden) weights of router t. */
void mk_router(const struct model *m, const struct tensor *t, float *w, uint64_t *stream);

/* ---- write.c ---- */

/* Writes the whole file, or leaves none and prints why; 0 or -1. */
int mk_write(struct model *m, const char *path);

#endif
