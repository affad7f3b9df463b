/* Private to src/model: what its files share. */
#ifndef MODEL_INTERNAL_H
#define MODEL_INTERNAL_H

#include "gguf/gguf.h"
#include "model/model.h"

/* ---- arch.c: a family is one row -------------------------------------- */

enum { MAX_LAYERS = 1024, MAX_EXPERTS = 4096 };

struct arch {
    const char *name;          /* general.architecture */
    bool gated_attention;      /* attn_q holds query and gate per head */
    bool qk_norm;              /* rms norm of each query and key head */
    bool delta_layers;         /* gated delta net where attention is not */
    int full_interval;         /* default of full_attention_interval; 1: all attention */
    bool shared_expert;        /* one shared expert with a sigmoid gate */
    bool renormalise;          /* weights of the picked experts sum to 1 */
    const char *ffn_norm;      /* tensor of the norm before the experts */
};

const struct arch *arch_find(struct str name); /* NULL: unknown */
void arch_list(char *buf, size_t n);           /* names, comma separated */

/* ---- config.c --------------------------------------------------------- */

struct config {
    const struct arch *arch;
    int n_layers;              /* without multi-token-prediction blocks */
    int n_blocks;              /* with them */
    int64_t n_embd, n_vocab, n_context;
    float eps;
    /* attention */
    int64_t n_head, n_kv, head_dim, n_rot;
    double rope_base;
    float attn_scale;
    bool recurrent[MAX_LAYERS];
    /* gated delta net */
    int64_t n_k, n_v, dk, dv;
    /* experts */
    int64_t n_experts, n_used, expert_width, shared_width;
};

int config_read(const struct gguf *g, struct config *c, struct err *e);
static inline int64_t config_delta_channels(const struct config *c)
{
    return 2 * c->n_k * c->dk + c->n_v * c->dv;
}

/* ---- bind.c ----------------------------------------------------------- */

struct layer {
    bool recurrent;
    int state_index; /* among the layers of its kind */
    const float *attn_norm, *ffn_norm;
    /* attention */
    struct dev_mat q, k, v;
    const float *q_norm, *k_norm;
    /* gated delta net */
    struct dev_mat qkv, z, alpha, beta;
    const float *conv, *dt, *a, *ssm_norm;
    /* both: back to the residual */
    struct dev_mat out;
    /* experts: data is NULL, it comes with a lease */
    struct dev_mat router, gate, up, down;
    bool fused_gate_up;
    struct dev_mat shared_gate_mat, shared_up, shared_down;
    const float *shared_gate;
};

/* A dense tensor and where its address goes. */
struct dense_weight {
    const struct gguf_tensor *t;
    const void **address;
};

/* Neighbouring dense tensors, read together. */
struct dense_run {
    int file;
    int64_t begin, end; /* wanted bytes of the file */
    size_t at;          /* of the page that holds `begin`, in the dense mapping */
};

struct model {
    struct gguf *gguf;
    struct config c;
    bool described_only; /* a family that cannot be run */

    struct layer *layers;
    struct dev_mat embed, output;
    const float *output_norm;
    struct dense_weight *weights;
    int64_t n_weights, cap_weights;
    struct dense_run *runs;
    int64_t n_runs;
    size_t dense_map_bytes;

    struct expert_layer *experts; /* (n_layers), file = shard */
    struct model_shape shape;
    char *name, *arch_name;

    /* after model_load */
    struct model_options options;
    struct device *dev;
    struct ioq *q;
    struct expert_cache *cache;
    size_t cache_full_bytes; /* a cache of this size holds every expert */
    void *dense_map;
    float *rope_freq; /* (n_rot / 2) */
    struct scratch {
        void *map;
        size_t bytes;
        float *x;                 /* (max_tokens, n_embd) residual stream */
        float *a, *b, *g, *o;     /* inputs and outputs of a mixer, see forward.c */
        int32_t *picks;           /* (max_tokens, n_used) */
        float *weights;
        int32_t *rows, *first;    /* tokens by expert; (n_experts + 1) starts */
        float *row_weights;
    } scratch;
    model_pulse_fn *pulse;
    void *pulse_user;
    model_route_fn *route;
    void *route_user;
    struct trace *trace; /* NULL: no timeline */
    int layer_now;       /* for it; -1: none */
};

int bind_model(struct model *m, struct err *e);

/* ---- state.c ---------------------------------------------------------- */

struct model_state {
    struct model *m;
    int64_t length;
    uint8_t *kv;          /* per attention layer: keys then values */
    size_t kv_bytes, kv_half_bytes; /* reserved; of the keys of one layer */
    float *rec;           /* per recurrent layer: S (n_v, dk, dv), conv (3, channels) */
    float *snap;
    size_t rec_bytes;
    int64_t snap_length;  /* -1: none */
    bool broken;          /* a forward failed half way */
};

size_t state_layer_floats(const struct config *c);
static inline void *state_k(const struct model_state *s, int index)
{
    return s->kv + (size_t)index * 2 * s->kv_half_bytes;
}
static inline void *state_v(const struct model_state *s, int index)
{
    return s->kv + ((size_t)index * 2 + 1) * s->kv_half_bytes;
}

/* ---- forward.c: the timeline ------------------------------------------- */

enum work { WORK_PROJECTION, WORK_ATTENTION, WORK_DELTA, WORK_ROUTER, WORK_SHARED, WORK_EXPERTS,
            WORK_SUM, WORK_GUESS, WORK_OUTPUT, WORK_COUNT };
extern const struct trace_kind work_kinds[WORK_COUNT];

/* What the device's next operations are. */
static inline void work_label(struct model *m, enum work w)
{
    if (m->trace)
        device_label(m->dev, &work_kinds[w], m->layer_now >= 0 ? m->layer_now : TRACE_NO_ARG);
}

/* ---- load.c, moe.c ---------------------------------------------------- */

size_t model_scratch_bytes(const struct config *c, int64_t max_tokens);
int moe_block(struct model *m, int il, int64_t pos, int64_t n_tok, struct err *e);

#endif
