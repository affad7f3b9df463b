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

/* ---- known.c ----------------------------------------------------------- */

/* Refuses by name a key of the model or tokeniser that is not understood. */
int known_keys(const struct gguf *g, const struct arch *a, struct err *e);
struct model;
/* The same for tensors that bind.c did not ask for. */
int known_tensors(const struct model *m, struct err *e);
/* What is left out of a model that can be run. */
void known_notes(const struct model *m, void (*on_note)(void *user, const char *text), void *user);
/* N of a name blk.N.*, else -1. */
int tensor_block(const char *name);

/* ---- describe.c -------------------------------------------------------- */

/* A metadata value as text; long ones are cut. n >= 256. */
void value_text(char *buf, size_t n, const struct gguf_value *v);

/* ---- packed.c --------------------------------------------------------- */

/*
 * A packed file has the experts of a layer in one tensor blk.N.ffn_exps.packed,
 * I8 (stride, n_experts): the matrices of expert 0, then those of expert 1 and
 * so on. A matrix begins at a multiple of PACK_PART_ALIGN inside its expert, an
 * expert at a multiple of PACK_ALIGN in the file. What was packed says the
 * metadata, layer by layer, in the order of the bytes:
 *   sluice.pack.version     u32     PACK_VERSION
 *   sluice.pack.part.name   string  the tensor's name, blk.N.ffn_gate_exps.weight
 *   sluice.pack.part.type   u32     its type, as GGUF numbers them
 *   sluice.pack.part.shape  u64     three for each: n_in, n_out, n_experts
 * docs/packed.md has this for other programs.
 */
#define PACK_VERSION 1
#define PACK_ALIGN 4096
#define PACK_PART_ALIGN 64
#define PACK_TENSOR "blk.%d.ffn_exps.packed"

struct packed_part {
    char name[64];
    struct gguf_tensor t;          /* as it was; offset: that of expert 0's matrix */
    const struct gguf_tensor *in;  /* the packed tensor; ne[0] is the stride */
    int layer;
};

struct packed { /* n = 0: the file is not packed */
    int n;
    struct packed_part *part;
};

/* Everything about it is checked: each matrix of each expert lies in its tensor. */
int packed_read(const struct gguf *g, struct packed *p, struct err *e);
void packed_free(struct packed *p);
const struct packed_part *packed_find(const struct packed *p, const char *name);
bool packed_holds(const struct packed *p, const struct gguf_tensor *t); /* is a packed tensor */

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
    struct dev_mat guess; /* the router's copy for lookahead, of layers that stay */
    bool guess_made;
    struct dev_mat shared_gate_mat, shared_up, shared_down;
    const float *shared_gate;
};

/* A dense tensor and where its address goes. */
struct dense_weight {
    const struct gguf_tensor *t;
    const void **address;
    int segment;
};

/* Neighbouring tensors of one segment, read together. */
struct dense_run {
    int file;
    int64_t begin, end; /* wanted bytes of the file */
    size_t at;          /* of the page that holds `begin`, in the segment */
};

/* ---- dense.c ---------------------------------------------------------- */

/* What is kept, or read, together: layer il is segment il, then come the
 * embedding table, the output matrix and what is small. */
struct dense_segment {
    int64_t first_weight, n_weights, first_run, n_runs;
    size_t bytes;
    bool stays;
    bool checked; /* its weights were looked at once */
    int item; /* if it does not */
};

/* What of the dense part stays in memory under some allowance. */
struct dense_layout {
    size_t bytes;         /* memory that it takes: whole pages */
    size_t padding;       /* of them, at the end */
    bool embed_stays;
    int n_streamed;       /* layers that are read again in every pass */
    int64_t output_rows;  /* that stay */
    size_t buffer;        /* bytes of one of the two buffers; 0: nothing but embedding rows is read again */
    size_t read_per_pass, read_output; /* bytes read again for the layers, and for logits */
};

struct dense {
    struct dense_segment *segments; /* (n_layers + 3) */
    struct dense_run *runs;
    int64_t n_runs;
    const struct gguf_tensor *embed, *output; /* the same one when tied */
    /* after dense_load */
    struct dense_layout layout;
    uint8_t *map;
    size_t map_bytes;
    uint8_t *rows; /* for embedding rows */
    int64_t load_bytes, load_ns; /* what dense_load read, and how long it took */
    struct dense_item {
        int segment;
        int64_t row, n_rows; /* of the output matrix; n_rows 0: a layer */
    } *items;
    int n_items, first_piece;
    struct dense_buffer {
        uint8_t *memory;
        int item; /* -1: none */
        struct ioq_req *reads;
        int n_reads; /* not yet waited for */
    } buffers[2];
};

/* ---- guess.c ---------------------------------------------------------- */

struct guess_totals { /* what became of guesses, as the cache counts; the drive's busy time */
    int64_t queued, useful, late, wasted, misses, busy_ns;
};

struct guess {
    bool adapts;
    int most, n;              /* experts guessed for a layer */
    int64_t tokens, spent_ns; /* spent on guessing since the last look */
    int rest, n_after;        /* periods without guesses to come, and n then */
    struct guess_totals seen; /* at the last look */
};
void guess_open(struct guess *g, int wanted, int n_used);
void guess_tick(struct guess *g, const struct guess_totals *now);
/* Queues reads for the layers after il; one token only. */
void guess_next(struct model *m, int il);

struct model {
    struct gguf *gguf;
    struct config c;
    struct packed packed;
    bool described_only; /* it cannot be run; `refused` says why */
    struct err refused;
    bool *used;          /* (tensors of the file) bind.c asked for it */

    struct layer *layers;
    struct dev_mat embed, output;
    const float *output_norm;
    struct dense_weight *weights;
    int64_t n_weights, cap_weights;
    bool tied; /* the embedding table is the output matrix too */
    struct dense dense;

    struct watched { /* files in use and what tells that they changed */
        char *path;
        uint64_t stamp;
    } *watched;
    int n_watched;

    struct expert_layer *experts; /* (n_layers), file = shard */
    struct model_shape shape;
    char *name, *arch_name;

    /* after model_load */
    struct model_options options;
    struct device *dev;
    struct ioq *q;
    struct expert_cache *cache;
    struct guess guess;
    size_t cache_full_bytes; /* a cache of this size holds every expert */
    int *files; /* ioq file of each shard */
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

/* ---- dense.c ---------------------------------------------------------- */

static inline int dense_embed_segment(const struct model *m) { return m->c.n_layers; }
static inline int dense_output_segment(const struct model *m) { return m->c.n_layers + 1; }
static inline int dense_fixed_segment(const struct model *m) { return m->c.n_layers + 2; }
enum { DENSE_EXTRA_SEGMENTS = 3 };

/* The best use of `allowed` bytes; of the least that works if they are fewer. */
void dense_layout(const struct model *m, size_t allowed, struct dense_layout *l);
size_t dense_full_bytes(const struct model *m);
size_t dense_no_embed_bytes(const struct model *m); /* all but the embedding table */
size_t dense_min_bytes(const struct model *m);
/* Reads what stays. `m->q`, `m->files` and `m->dev` are set. */
int dense_load(struct model *m, size_t allowed, model_progress_fn *progress, void *user, struct err *e);
void dense_close(struct model *m);
/* The weights of layer il are in place until dense_use of another layer. */
int dense_use(struct model *m, int il, struct err *e);
/* Rows of the embedding table as floats: x (n, n_embd). */
int dense_embed(struct model *m, float *x, const int32_t *ids, int64_t n, struct err *e);
/* Calls fn for the output matrix, or for runs of its rows, in order. */
typedef void dense_rows_fn(void *user, const struct dev_mat *rows, int64_t first_row);
int dense_output(struct model *m, dense_rows_fn *fn, void *user, struct err *e);

/* ---- health.c ---------------------------------------------------------- */

int health_watch(struct model *m, const char *path, uint64_t stamp, struct err *e);
/* The sentence for values that are not finite; il -1: of no layer. */
int health_not_finite(const struct model *m, int il, const char *what, struct err *e);
/* The residual stream of n_tok tokens is finite. */
int health_state(struct model *m, int il, int64_t n_tok, const char *what, struct err *e);
/* The dense weights of a segment that is in memory, looked at the first time. */
int health_segment(struct model *m, int segment, struct err *e);

/* ---- state.c ---------------------------------------------------------- */

struct model_state {
    struct model *m;
    int64_t length;
    uint8_t *kv;          /* per attention layer: keys then values, (n_kv, kv_rows, head_dim) each */
    int64_t kv_rows;
    size_t kv_bytes, kv_half_bytes; /* reserved; of the keys of one layer */
    float *rec;           /* per recurrent layer: S (n_v, dk, dv), conv (3, channels) */
    float *snap;
    size_t rec_bytes;
    int64_t snap_length;  /* -1: none */
    bool broken;          /* a forward failed half way */
};

size_t state_layer_floats(const struct config *c);
size_t state_bytes(const struct model *m); /* recurrent state of a session: whole pages */
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

/* ---- load.c, forward.c, moe.c ------------------------------------------ */

/* Rotary frequencies and scratch for m->options. */
int load_scratch(struct model *m, struct err *e);
/* Attention or gated delta net, added to the residual stream. */
void mixer_block(struct model *m, struct model_state *s, const struct layer *l, int64_t n_tok);
/* Logits of tokens [row, row + n_rows) for the rows of `w`. */
void forward_logits(struct model *m, const struct dev_mat *w, int64_t row, int64_t n_rows, float *logits);
struct dev_moe moe_of(const struct model *m, const struct layer *l, int64_t n_tok);

size_t model_scratch_bytes(const struct config *c, int64_t max_tokens);
int moe_block(struct model *m, int il, int64_t pos, int64_t n_tok, struct err *e);

#endif
