/* Private to src/model: what its files share. */
#ifndef MODEL_INTERNAL_H
#define MODEL_INTERNAL_H

#include "model/model.h"
#include "weights/weights.h"

enum { MAX_LAYERS = 1024, MAX_EXPERTS = 4096 };

/* ---- families.c: a family is one row -------------------------------------- */

/* Traits: what some families have and others do not; rows of weights and known keys
 * are bound to them. */
#define TRAIT(n) ((uint64_t)1 << (n))
#define HAS_QK_NORM TRAIT(0)       /* rms norm of each query and key head */
#define HAS_ONE_QK_NORM TRAIT(1)   /* ... of all query heads together, and of all key heads */
#define HAS_LATE_QK_NORM TRAIT(2)  /* ... behind their rotation */
#define HAS_GATED_QUERY TRAIT(3)   /* attn_q holds query and gate per head */
#define HAS_GATE TRAIT(4)          /* attention has a gate for each element */
#define HAS_HEAD_GATE TRAIT(5)     /* ... for each head */
#define HAS_QKV_BIAS TRAIT(6)
#define HAS_FUSED_QKV TRAIT(7)     /* queries, keys and values in one matrix */
#define HAS_OUTPUT_BIAS TRAIT(8)   /* of what brings the heads back */
#define HAS_SINKS TRAIT(9)         /* a score of each head that has no value */
#define HAS_SOME_SINKS TRAIT(36)   /* ... in some layers */
#define HAS_WINDOW TRAIT(10)       /* some layers see the nearest tokens only */
#define HAS_STILL_FAR TRAIT(11)    /* ... and those that see all do not rotate */
#define HAS_HALF_FAR TRAIT(12)     /* ... or half as much */
#define HAS_NEAR_ROPE TRAIT(13)    /* ... and others have rotary frequencies of their own */
#define HAS_VALUE_SCALE TRAIT(14)  /* a factor of what attention gives */
#define HAS_HEAT TRAIT(15)         /* queries may grow with the position */
#define HAS_STILL_LATENT TRAIT(37) /* no part of latent attention's keys rotates */
#define HAS_PLAIN_MAGNITUDE TRAIT(38) /* a log multiplier leaves cos and sin as they are */
#define HAS_LOG_MULTIPLIER TRAIT(39)  /* of the magnitude of cos and sin alone */
#define HAS_LATENT TRAIT(16)       /* keys and values of a short vector */
#define HAS_LATENT_PAIR TRAIT(17)  /* ... and their matrices in one */
#define HAS_Q_LORA TRAIT(18)       /* queries of a short vector */
#define HAS_DELTA TRAIT(19)        /* gated delta net in the layers that are recurrent */
#define HAS_GROUPED_DELTA TRAIT(20) /* ... whose value heads follow their key head */
#define HAS_KDA TRAIT(22)          /* Kimi Delta Attention in the layers that are recurrent */
#define HAS_INDEXER TRAIT(23)      /* latent: a token sees those of many that an indexer picks */
#define HAS_SECTIONS TRAIT(21)     /* pairs rotate by positions in time, height and width */
#define HAS_EXPERTS TRAIT(24)
#define HAS_SHARED_EXPERT TRAIT(25) /* one network that each token passes besides those picked */
#define HAS_SHARED_GATE TRAIT(26)  /* which a sigmoid of its own weighs */
#define HAS_ROUTER_BIAS TRAIT(27)
#define HAS_CORRECTION TRAIT(28)   /* of the router's scores, for the choice alone */
#define HAS_EXPERT_BIAS TRAIT(29)
#define HAS_DENSE_LAYERS TRAIT(30) /* the first layers have no experts */
#define HAS_SOME_EXPERTS TRAIT(31) /* layers without a router have no experts */
#define HAS_ROUTER_KEYS TRAIT(32)  /* the file says how routers score and weigh */
#define HAS_EARLY_ROUTER TRAIT(33) /* routers see what the layer's mixer sees, without a norm */
#define HAS_LIMITS TRAIT(35)       /* layers limit what their networks compute */
#define HAS_FUSED_FFN TRAIT(34)    /* gate and up of a network without experts in one matrix */
#define HAS_POST_NORMS TRAIT(40)   /* what mixer and ffn give is normed before it is added */
#define HAS_SQRT_EMBED TRAIT(41)   /* embeddings are multiplied by the root of their length */
#define HAS_SCALES TRAIT(42)       /* factors of embeddings, of what layers add and of logits */
#define HAS_NEAR_HEADS TRAIT(43)   /* heads of layers with a window have lengths of their own */
#define HAS_FAR_FACTORS TRAIT(44)  /* rotary frequencies of the others have divisors */
#define HAS_VALUE_NORM TRAIT(45)   /* rms norm of values; those of layers without attn_v are keys */
#define HAS_BESIDE TRAIT(46)       /* a network beside a layer's experts, each with its norms */
#define HAS_LAYER_SCALE TRAIT(48)  /* what a layer leaves may have one */
#define HAS_LOGIT_CAP TRAIT(49)    /* logits are limited */
#define HAS_CHUNK TRAIT(50)        /* some layers see the tokens of their chunk only */
#define HAS_FAR_HEAT TRAIT(51)     /* queries grow with the position in the others alone */
#define HAS_UNIT_QK_NORM TRAIT(52) /* rms norm of heads that rotate, without weights */
#define HAS_INTERLEAVED TRAIT(53)  /* of so many layers the last has experts */
#define HAS_WEIGHTED_INPUT TRAIT(54) /* an expert takes its input times its weight */
#define HAS_ENTRIES TRAIT(55)      /* entries stand for positions long past: compressed.c */
#define HAS_STREAMS TRAIT(56)      /* the residual stream is several: hyper-connections */
#define HAS_TABLES TRAIT(57)       /* the first layers' experts are those of a token's id */
#define HAS_PIECES TRAIT(58)       /* the residual stream is in pieces: attention residuals */
#define HAS_LATENT_EXPERTS TRAIT(59) /* experts read and give a short vector */
#define HAS_FULL_GATE TRAIT(60)    /* Kimi Delta Attention's gate is of one matrix */
#define HAS_SITU TRAIT(61)         /* networks soften what their gates and ups give */
#define HAS_LONG_FACTORS TRAIT(62) /* LongRoPE: divisors of frequencies, others in long contexts */
#define HAS_LAYER_NORMS TRAIT(63)  /* norms take off the mean and have biases; so has the output */

struct renamed { /* a weight that a family calls by another name than others do */
    const char *usual, *here;
};
enum { MOST_RENAMED = 3, ALL_NEAR = MAX_LAYERS + 1 };

struct family {
    const char *name;             /* general.architecture */
    uint64_t traits;              /* HAS_... */
    uint64_t optional;            /* traits that a file of it may have: its weights tell */
    const struct mixer_form *mixer;
    const struct mixer_form *recurrent; /* of the layers between full attention; NULL: none */
    int full_interval;            /* default of full_attention_interval */
    int window_period;            /* HAS_WINDOW: of so many layers the last sees all (0: a list
                                     says which do; ALL_NEAR: none does), */
    bool far_first;               /* or the first */
    enum dev_rotation rotation, index_rotation;
    enum dev_scoring scoring;     /* default of expert_gating_func */
    bool renormalise;             /* default of expert_weights_norm */
    enum dev_act act;
    float limit;                  /* of act */
    float attn_scale;             /* default of attention.scale; 0: by the length of keys, */
    int wide_layers;              /* or in models of so many layers by n_embd / heads */
    float logit_cap;              /* HAS_LOGIT_CAP: default of final_logit_softcapping */
    bool one_base;                /* HAS_NEAR_ROPE: all layers' default is rope.freq_base */
    bool decay_as_is;             /* Kimi Delta Attention: ssm_a is exp(A_log), not its negative */
    struct renamed renamed[MOST_RENAMED]; /* usual NULL: no more */
};

const struct family *family_find(struct str name); /* NULL: unknown */
void family_list(char *buf, size_t n);             /* names, comma separated */
const char *family_nearest(struct str name);       /* one that begins alike; NULL: none does */

/* ---- config.c --------------------------------------------------------- */

struct layer_config { /* what may differ from layer to layer */
    bool recurrent;     /* its mixer is the family's recurrent one */
    bool indexes;       /* it has an indexer, else it sees what the last that has one picked */
    bool looks_up;      /* its experts are those of a token's id */
    int64_t ratio;      /* positions that an entry stands for; 0: it has no entries */
    bool dense;         /* without experts */
    int64_t n_head, n_kv, key_dim, value_dim, n_rot;
    int64_t window;     /* tokens that a token sees, itself included; 0: all */
    int64_t chunk;      /* it sees those from the last multiple on; 0: all */
    enum { FAR, NEAR, N_ROPES } rope; /* its rotary frequencies */
    int64_t ffn_width;  /* of a layer without experts */
    float limit, shared_limit; /* of experts; of a shared one and of layers without experts */
};

/* Whether its tokens see those near them only. */
static inline bool layer_is_near(const struct layer_config *l)
{
    return l->window > 0 || l->chunk > 0;
}

/* Rotary positions: how angles grow (rope.c). */
struct rope_config {
    int64_t n_rot;              /* elements of a head; 0: no layer has these frequencies */
    double base;
    enum { ROPE_PLAIN, ROPE_LINEAR, ROPE_YARN } scaling;
    double factor;              /* positions are stretched by it */
    double original;            /* context before stretching */
    double extrapolate, beta_fast, beta_slow;
    double attn_factor;
    double log_multiplier;      /* mscale_all_dim of DeepSeek's configurations; 0: none */
    bool plain_magnitude;       /* with it cos and sin have no factor of their own */
};

struct config {
    const struct family *family;
    uint64_t traits;           /* of the family, and of this file */
    int n_layers;              /* without multi-token-prediction blocks */
    int n_blocks;              /* with them */
    int64_t n_embd, n_vocab, n_context;
    float eps;
    float embed_scale, residual_scale, logit_scale; /* what these are multiplied by */
    float logit_cap;           /* what logits stay below; 0: nothing */
    struct layer_config layer[MAX_LAYERS];
    /* attention */
    struct rope_config rope[N_ROPES];
    int64_t most_rot;          /* of any layer */
    float attn_scale, value_scale;
    float heat;                /* of queries far into a text; 0: none */
    int64_t heat_length, heat_first;
    int64_t q_lora, kv_lora, nope, latent_value; /* latent attention; q_lora 0: none */
    int64_t n_seen;            /* positions that an indexer picks; 0: there is none */
    int64_t index_heads, index_dim;
    float index_eps;
    int64_t out_groups, out_lora; /* of compressed attention's output */
    int64_t mix_rounds;        /* HAS_STREAMS */
    float mix_eps;
    int64_t piece_layers;      /* HAS_PIECES: layers that one is the sum of */
    float decay_floor;         /* Kimi Delta Attention: least logarithm of a decay; 0: none */
    bool kda_direct;           /* its decays and gates come in one step */
    /* gated delta net: key and value heads, and their dims */
    int64_t n_k, n_v, dk, dv;
    /* experts; 0 without */
    int64_t n_experts, n_used, expert_width, shared_width;
    int64_t expert_embd;       /* elements that they read and give: n_embd, or fewer */
    float up_cap;              /* what ups give stays below it; 0: nothing */
    enum dev_scoring scoring;
    int64_t n_groups, groups_used;
    bool renormalise;
    float weights_scale;
};

int config_read(const struct weights *w, struct config *c, struct err *e);
static inline bool config_has(const struct config *c, uint64_t traits)
{
    return (c->traits & traits) == traits;
}
/* Of a residual stream that is in pieces: one is the embedding. */
static inline int64_t config_pieces(const struct config *c)
{
    return c->piece_layers ? 1 + (c->n_layers - 1) / c->piece_layers + 1 : 0;
}
static inline int64_t config_delta_channels(const struct config *c)
{
    return 2 * c->n_k * c->dk + c->n_v * c->dv;
}

/* ---- rope.c ------------------------------------------------------------- */

/* Angles for each position, (n_rot / 2): freq; and the factor of cos and sin. */
void rope_frequencies(const struct rope_config *r, float *freq);
float rope_magnitude(const struct rope_config *r);
/* The factor of scores that DeepSeek's models have besides 1 / sqrt(length). */
double rope_score_factor(const struct rope_config *r);

/* ---- known.c ----------------------------------------------------------- */

/* E_FORMAT, saying what is there and what should be. */
int refuse_type(const struct weights *w, const struct meta *v, const char *expected, struct err *e);
/* Refuses by name a key of the model or tokeniser that is not understood. */
int known_keys(const struct weights *w, const struct config *c, struct err *e);
/* The same for tensors that bind.c did not ask for. */
int known_tensors(const struct model *m, struct err *e);
/* What is left out of a model that can be run. */
void known_notes(const struct model *m, void (*on_note)(void *user, const char *text), void *user);

/* ---- bind.c: weights are rows ------------------------------------------- */

/* A length that the configuration knows, of the layer. */
enum dim {
    DIM_1, DIM_4, DIM_EMBD,
    DIM_QUERY, /* of all query heads, with gates where there are */
    DIM_QUERY_NORM, DIM_KEY_NORM, /* of a head, or of all */
    DIM_QKV, DIM_HEADS, DIM_KEYS, DIM_VALUES, DIM_ATTENDED, /* what attention gives, of all heads */
    DIM_Q_LORA, DIM_KV_LORA, DIM_KV_A, DIM_NOPE, DIM_LATENT_QUERY, DIM_LATENT_VALUE,
    DIM_LATENT_PAIR, DIM_LATENT_OUT, /* nope and value of a head; the values of all */
    DIM_DELTA_ALL, DIM_DELTA_PAIRS,
    DIM_DELTA_CHANNELS, DIM_DELTA_VALUES, DIM_DELTA_HEADS, DIM_DELTA_HEAD,
    DIM_KDA, DIM_KDA_FIRST, DIM_INDEX, DIM_INDEX_HEADS, DIM_INDEX_QUERY,
    DIM_KEY, DIM_OUT_GROUP, DIM_OUT_LORA, /* a key; the heads of a group; what all groups give */
    DIM_ENTRY, DIM_RATIO, DIM_INDEX_ENTRY, /* rows that become entries */
    DIM_STREAMS, DIM_ONE_EACH, DIM_FACTORS, DIM_3, /* all streams, a number of each */
    DIM_USED, DIM_VOCAB,
    DIM_EXPERTS, DIM_EXPERT_EMBD, DIM_EXPERT, DIM_EXPERT_PAIR, DIM_SHARED, DIM_FFN,
    DIM_FFN_PAIR
};

/* A weight of a layer: blk.N.NAME with n_in, n_out as GGUF lists them. */
struct weight_row {
    const char *name;
    /* at: a dev_mat; a dev_ptr; a dev_mat and a dev_ptr whose data come with each expert.
     * A matrix NAME.weight may have a factor of its products NAME.scale, which needs no row.
     * Its bias comes after it: the matrix is written as a whole. */
    enum { MATRIX, HEADS, FLOATS, CONV, IDS, EXPERTS, EXPERT_FLOATS } kind; /* HEADS: a matrix
                                                     a head; CONV: floats (n_in, 1, n_out); IDS:
                                                     int32, experts */
    enum dim n_in, n_out;
    size_t at;             /* in struct layer, which is zero before: what is not there stays none */
    uint64_t trait;        /* of the models that have it; 0: all */
    unsigned flags;
    const char *unless;    /* it is not there when the weight of this name is */
    uint64_t lacks;        /* nor in models that have one of these traits */
};
enum { IF_THERE = 1,   /* or not */
       FLOAT_INPUT = 2, /* about 3 % of the weights that every token uses */
       IF_ENTRIES = 4,  /* of layers that have entries, */
       IF_INDEXES = 8,  /* or an indexer */
       NO_SCALE = 16 /* it makes no products, or NAME.scale is a weight of its own */ };

int bind_model(struct model *m, struct err *e);

enum { ROLE_UNUSED, ROLE_DENSE, ROLE_EXPERT, ROLE_EMBEDDING, ROLE_OUTPUT,
       ROLE_IDS }; /* of a tensor */

/* ---- layers ----------------------------------------------------------------- */

struct attention { /* of one layer: its numbers, then its weights */
    int64_t n_head, n_kv, key_dim, value_dim, n_rot, window, chunk;
    int rope;
    bool gated, norm_all, norm_unit, norm_late, value_norm;
    float scale, heat;
    struct dev_mat q, k, v, out;   /* no v: values are keys as k gives them */
    struct dev_mat qkv;            /* instead of q, k and v */
    struct dev_mat gate;           /* one for each element that attention gives, or each head */
    struct dev_ptr q_norm, k_norm; /* (key_dim), or of all heads together */
    struct dev_ptr sinks;          /* (n_head) */
};

/* Keys and values of all heads come from one short vector, which is what the cache
 * holds: c, of kv_lora elements, and a part that is rotated (DeepSeek-V2, 2.1). */
struct latent {
    int64_t n_head, nope, rope, value, q_lora, kv_lora;
    float scale;
    bool still;              /* nothing rotates */
    int64_t n_seen, index_heads, index_dim; /* of the indexer; n_seen 0: none, heads 0: not here */
    float index_eps;
    enum dev_rotation index_rotation;
    struct dev_mat index_q, index_k, index_proj;
    struct dev_ptr index_norm, index_bias;
    struct dev_mat q_a, q_b; /* or, without q_lora, q alone */
    struct dev_mat q, kv_a, k_b, v_b, out; /* k_b and v_b: a matrix a head */
    struct dev_mat gate;     /* one for each element of a value, or none */
    struct dev_mat kv_b;     /* instead of both in older files */
    struct dev_ptr q_a_norm, kv_a_norm;
};

/* Rows become entries: values, and scores that weigh them (device.h, dev_compress). */
struct compressor {
    struct dev_mat values, scores, ape;
    struct dev_ptr norm;
};

/* One vector a position is key and value of all heads. A token sees a window of them, and
 * entries. */
struct compressed {
    int64_t n_head, dim, n_rot, q_lora, window, out_groups, out_lora, ratio;
    int64_t n_seen, index_heads, index_dim; /* of the indexer of entries; heads 0: none */
    int rope;
    float scale;
    struct dev_mat q_a, q_b, kv, out_a, out_b;
    struct dev_ptr q_a_norm, kv_norm, sinks;
    struct compressor keys, index_keys;
    struct dev_mat index_q, index_proj;
};

struct delta {
    int64_t n_k, n_v, dk, dv;
    bool grouped; /* value heads of a key head follow each other */
    struct dev_mat qkv, z, alpha, beta, out;
    struct dev_mat ba, all; /* instead of alpha and beta; of qkv and z */
    struct dev_ptr conv, dt, decay, norm;
};

struct kda { /* n heads of dim elements each */
    int64_t n, dim;
    struct dev_mat q, k, v, out;
    struct dev_mat f_a, f_b, beta; /* of the decays, in two steps; of what is written */
    struct dev_mat g_a, g_b;       /* of the gate, in two steps, */
    struct dev_mat g;              /* or in one */
    bool direct;                   /* f_a and g_a give all: there is no second step */
    float floor, steep;            /* of the logarithm of a decay; floor 0: none */
    struct dev_ptr conv_q, conv_k, conv_v, dt, decay, norm;
};

struct experts { /* gate_up: both in one matrix, gate first; then gate and up are empty */
    int64_t n_experts, n_used, width; /* width: of the widest, shared ones too */
    int64_t n_embd;                   /* elements that they read and give */
    struct dev_scores scores;
    bool renormalise, shared_gated, early, weighted;
    float weights_scale, limit, shared_limit;
    struct dev_mat router;
    struct dev_ptr table; /* (n_vocab, n_used) int32 instead of a choice; or none */
    /* Data and biases come with a lease; scales are (n_experts) here, and stay. */
    struct dev_mat gate_up, gate, up, down;
    struct dev_ptr router_norm; /* (n_embd) HAS_BESIDE: what the router sees is normed with it */
    struct dev_ptr shared_gate;
    struct dev_mat shared_gate_mat, shared_up, shared_down;
    struct dev_mat guess; /* the router's copy for lookahead, of layers that stay */
    bool guess_made;
    size_t part_at[WEIGHTS_MAX_PARTS]; /* of each part of an expert its dev_ptr, in here */
    int n_first;                       /* parts before down */
};

struct dense_ffn {
    int64_t width;
    float limit;
    struct dev_mat gate, up, down;
    struct dev_mat gate_up; /* instead of gate and up: gate's rows first */
};

/* How a part mixes the streams of a token (device.h, dev_merge), or the pieces of its
 * stream (dev_mix). */
struct streams {
    struct dev_mat fn;
    struct dev_ptr scale, base;
    struct dev_ptr score; /* (n_embd) */
};

struct layer {
    const struct mixer_form *mixer;
    const struct ffn_form *ffn;
    int state_index;               /* among the layers of its mixer */
    struct dev_ptr mixer_norm, ffn_norm;
    struct dev_ptr mixer_norm_bias, ffn_norm_bias; /* HAS_LAYER_NORMS */
    struct dev_ptr mixer_post_norm, ffn_post_norm; /* HAS_POST_NORMS */
    struct streams mixer_streams, ffn_streams;     /* HAS_STREAMS, HAS_PIECES */
    union {
        struct attention attention;
        struct latent latent;
        struct compressed compressed;
        struct delta delta;
        struct kda kda;
    };
    struct experts experts;
    struct dense_ffn dense;
    struct beside { /* HAS_BESIDE: norms before the experts, behind them, behind the network */
        struct dev_ptr norm, post_norm, dense_post_norm;
    } beside;
    struct latent_experts { /* HAS_LATENT_EXPERTS: to their short vector and back */
        struct dev_mat down, up;
        struct dev_ptr norm; /* of what they give, or none */
        struct dev_mat shared_gate, shared_up, shared_down; /* of the whole vector, or none */
    } latent_experts;
    struct dev_ptr out_scale;        /* (1) HAS_LAYER_SCALE, or none */
    struct expert_matrices matrices; /* of its experts, in the file */
};

struct step;

/* How tokens see each other: attention, or a recurrence. */
struct mixer_form {
    const char *name;      /* in sentences */
    const struct weight_row *rows;
    int n_rows;
    bool recurrent;        /* its state cannot be cut back */
    const struct trace_kind *trace;
    void (*bind)(struct layer *l, const struct config *c, int layer); /* its numbers */
    /* Floats of scratch for each token. */
    int64_t (*scratch)(const struct layer *l);
    /* Floats of state in a session: of each position, and once. */
    int64_t (*per_position)(const struct layer *l);
    int64_t (*once)(const struct layer *l);
    /* And of each entry, in caches behind one another; NULL: it has none. */
    int64_t (*per_entry)(const struct layer *l);
    /* Adds its output to the residual stream. */
    void (*compute)(struct step *s, const struct layer *l);
};
extern const struct mixer_form attention_form, latent_form, compressed_form, delta_form, kda_form;

/* What each token does for itself: experts, or one network. */
struct ffn_form {
    const char *name;
    const struct weight_row *rows;
    int n_rows;
    const struct ffn_form *parts[2]; /* forms that it is made of: their rows are its, too */
    const struct trace_kind *trace;
    void (*bind)(struct layer *l, const struct config *c, int layer);
    int64_t (*scratch)(const struct layer *l);
    /* What it takes from the residual stream before the layer's mixer; NULL: nothing. */
    void (*begin)(struct step *s, const struct layer *l);
    /* Adds its output to the residual stream. A failure that not all spans share
     * is told to those concerned, and is none here. */
    int (*compute)(struct step *s, int layer, struct err *e);
    /* What of it does not wait for experts, when their reads are under way; NULL: nothing. */
    void (*meanwhile)(struct step *s, const struct layer *l);
    /* Brings what experts gave, (n_tok, n_embd of experts), back to the residual stream;
     * NULL: it is added as it is. */
    void (*bring_back)(struct step *s, const struct layer *l, struct dev_ptr from);
    /* The same operations without reading. NULL: compute does not read. next:
     * memory for weights. */
    void (*rehearse)(struct step *s, struct layer *l,
                     struct dev_ptr (*next)(void *user, size_t bytes), void *user);
};
extern const struct ffn_form experts_form, dense_ffn_form, beside_form, latent_experts_form;

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
/* Queues reads for the layers after `layer`; few tokens only. */
int guess_next(struct step *s, int layer, struct err *e);

/* ---- load.c: scratch ----------------------------------------------------- */

/* Experts that were computed with; each is released when its mark has passed. */
enum { MOST_LEASES = DEV_FEW_TOKENS * DEV_MAX_USED + 64 };
struct used_leases {
    struct expert_lease lease[MOST_LEASES];
    dev_mark mark[MOST_LEASES];
    int n;
};

struct wanted { /* an expert that some of few tokens picked */
    int32_t id;
    int32_t first_row, n_rows; /* its (token, pick) pairs */
    enum { NOT_ASKED, ASKED, GATE_UP, DONE } did;
    struct expert_lease lease;
};

struct scratch {
    struct dev_mem *mem;
    size_t bytes;
    int64_t few;               /* most tokens of a block of experts with few */
    struct dev_ptr x;          /* (max_tokens, n_embd) residual stream */
    struct dev_ptr rows;       /* (MODEL_LOGIT_ROWS, n_embd) some of it */
    struct dev_ptr form;       /* what the mixer or ffn under way wants */
    struct dev_ptr branch;     /* (max_tokens, n_embd) what it gives, before a norm; or what it
                                  takes, behind a layer norm; or none */
    struct dev_ptr streams;    /* (max_tokens, DEV_STREAMS, n_embd), then x is a part's input */
    struct dev_ptr factors;    /* (max_tokens, DEV_FACTORS) of the part under way */
    struct dev_ptr pieces;     /* (pieces, n_tok, n_embd), then x is a part's input, too */
    struct dev_ptr seen;       /* (max_tokens, n_seen) int32: what an indexer picked last */
    struct dev_ptr faults;     /* (max_tokens) */
    /* experts, on the device that routes; shared_y: of a network beside them, too */
    struct dev_ptr h, input, picks, weights, shared_weight, shared_y, hidden, guess_ids;
    struct dev_ptr short_h;    /* (max_tokens, expert_embd) what experts read instead of h; or h */
    struct dev_ptr products;   /* (max_tokens, n_experts) of routers that come early */
    /* on the device that computes them */
    struct expert_scratch {
        struct dev_mem *mem;   /* NULL: of the scratch above */
        struct dev_ptr h, input, tokens, places, factors, hidden, y, out, picks, weights;
        struct dev_ptr scales; /* (3, n_experts) of a layer's gates, ups and downs, whose own
                                  memory is another device's */
    } x_dev;
    /* the host's */
    void *host;
    size_t host_bytes;
    int32_t *host_ids;         /* (max_tokens), with tables */
    int32_t *host_picks;       /* (max_tokens, n_used) */
    uint32_t *host_faults;     /* (max_tokens) */
    int32_t *host_tokens;      /* (max_tokens * n_used) rows by expert */
    union {
        int32_t *host_places;  /* few */
        float *host_factors;   /* many */
    };
    float *host_weights;       /* (max_tokens, n_used) */
    int32_t *host_first;            /* (n_experts + 1) */
    struct expert_lease *host_kept; /* (n_experts) */
    struct wanted *host_wanted;      /* (few * n_used) */
    struct dev_expert *host_batch;   /* (few * n_used + 1) */
    float *host_floats;        /* two devices: (max_tokens, n_embd), n_experts at least */
};

struct model {
    struct weights *w;
    struct config c;
    bool described_only; /* it cannot be run; `refused` says why */
    struct err refused;

    struct layer *layers;
    struct dev_mat embed, output;
    struct dev_ptr output_norm, output_norm_bias;
    struct streams output_streams; /* HAS_STREAMS, HAS_PIECES: the last part is the output */
    struct dev_ptr rope_factors; /* (most_rot / 2) that those of FAR are divided by; or none */
    struct dev_ptr rope_long, rope_short; /* HAS_LONG_FACTORS: the same, one or the other */
    bool tied; /* the embedding table is the output matrix too */
    struct dense *dense;
    struct expert_layer *experts; /* (n_layers), file = of the weights */
    int most_used;                /* experts of a token in any layer; 0: none has experts */
    struct model_shape shape;
    char *name, *arch_name;

    /* after model_load */
    struct model_options options;
    struct device *dev, *expert_dev; /* the same one, or two */
    struct ioq *q;
    int *files;                  /* ioq file of each file */
    struct dense_layout layout;
    struct dev_mem *dense_mem, *landing_mem; /* the same one where the host sees both */
    struct dev_mem *rope_mem;    /* of the rotary frequencies, (N_ROPES, most_rot / 2) */
    float rope_scale[N_ROPES];   /* of cos and sin */
    struct dev_mem *slots_mem;   /* of the expert cache */
    struct expert_layer *queued; /* experts with the queue's files */
    struct expert_cache *cache;  /* NULL: no layer has experts */
    struct guess guess;
    size_t cache_full_bytes;     /* a cache of this size holds every expert */
    struct scratch scratch;
    struct used_leases used;

    model_pulse_fn *pulse;
    void *pulse_user;
    model_route_fn *route;
    void *route_user;
    struct trace *trace; /* NULL: no timeline */
    int layer_now;       /* for it; -1: none */
};

/* ---- load.c --------------------------------------------------------------- */

/* Where a place of the dense memory is. */
struct dev_ptr dense_ptr(const struct model *m, size_t at);
int load_scratch(struct model *m, struct err *e);
void load_free(struct model *m);
size_t scratch_bytes(const struct model *m, int64_t max_tokens);
void used_add(struct model *m, const struct expert_lease *lease);
void used_release(struct model *m); /* those whose marks have passed */
int used_wait(struct model *m, struct err *e); /* all */

/* ---- health.c ---------------------------------------------------------- */

/* What a fault's tag stands for. */
enum fault { FAULT_EMBEDDING, FAULT_MIXER, FAULT_ROUTER, FAULT_FFN, FAULT_KINDS };
uint32_t fault_tag(int layer, enum fault f);
/* Looks at the residual stream behind a block; health_collect tells the spans. */
void health_look(struct step *s, struct dev_ptr x, int64_t width, uint32_t tag);
/* Brings the faults to the host and ends the spans that have some. */
int health_collect(struct step *s, struct err *e);
int health_not_finite(const struct model *m, uint32_t tag, struct err *e);
int health_logits(const struct model *m, struct err *e);
/* Dense weights that have just come in. */
int health_section(struct model *m, int section, struct err *e);

static inline int64_t options_asked(const struct model_options *o)
{
    return o->context_asked ? o->context_asked : o->context;
}

/* ---- state.c ---------------------------------------------------------- */

struct layer_state {
    size_t at;            /* where its cache begins, */
    size_t entries_at;    /* that of its entries, in kv, */
    size_t once_at;       /* and its recurrent state */
    bool near;            /* the cache is in `near` */
    int64_t rows;         /* positions that its cache has room for */
    int64_t base;         /* the position of the first of them */
    int64_t entries;      /* that there is room for */
};

struct model_state {
    struct model *m;
    int64_t length;
    struct layer_state *layer; /* (n_layers) */
    struct dev_mem *kv;   /* layer by layer: keys (n_kv, rows, key_dim), then values alike */
    struct dev_mem *near, *near_kept; /* the same of near layers; what a snapshot has of it */
    struct dev_mem *once, *snap; /* recurrent state, layer by layer, and its copy */
    size_t kv_bytes, once_bytes, near_bytes, near_kept_bytes;
    int64_t snap_length;  /* -1: none */
    bool broken;          /* a step failed half way */
};

/* What a session has whatever its length: recurrent state, near layers' caches, copies. */
size_t state_fixed_bytes(const struct model *m, const struct model_options *o);
size_t state_position_bytes(const struct model *m, const struct model_options *o); /* of each */
/* The cache of a layer; its recurrent state. */
struct dev_ptr state_cache(const struct model_state *s, int layer);
struct dev_ptr state_once(const struct model_state *s, int layer);
/* Its entries, which begin `floats` of an entry into it. */
struct dev_ptr state_entries(const struct model_state *s, int layer, int64_t floats);
/* Before a step with n more tokens. */
void state_make_room(struct model_state *s, int64_t n);

/* ---- forward.c ------------------------------------------------------------- */

/* A step under way: tokens of several spans, flat. */
struct step {
    struct model *m;
    struct model_span *spans;
    int n_spans;
    int64_t n_tok;
    bool measuring;          /* operations only note what they need: nothing is read */
    int64_t piece;           /* HAS_PIECES: the one that is added to */
    struct dev_kv_span *kv;  /* (n_spans) room for arguments */
    struct dev_delta_span *delta;
};
/* The span that token t belongs to. */
struct model_span *step_span(const struct step *s, int64_t t);
/* Ends a span with the sentence in e, unless it has ended already. */
void step_fail(struct step *s, struct model_span *x, int rc, const struct err *e);
bool step_alive(const struct step *s); /* any span is */
static inline bool span_alive(const struct model_span *x)
{
    return x->status == OK;
}

enum work { WORK_PROJECTION, WORK_ATTENTION, WORK_DELTA, WORK_ROUTER, WORK_SHARED, WORK_EXPERTS,
            WORK_SUM, WORK_GUESS, WORK_OUTPUT, WORK_FFN, WORK_COUNT };
extern const struct trace_kind work_kinds[WORK_COUNT];

/* What the device's next operations are. */
static inline void work_label(struct model *m, enum work w)
{
    if (m->trace)
        m->dev->ops->label(m->dev, &work_kinds[w], m->layer_now >= 0 ? m->layer_now : TRACE_NO_ARG);
}

static inline struct dev_ptr behind_floats(struct dev_ptr p, int64_t n)
{
    return dev_at(p, (size_t)n * sizeof(float));
}

/* The caches of the spans that are alive, into s->kv; how many. */
int step_kv_spans(const struct step *s, const struct layer *l, int64_t n_kv, int64_t key_dim);
/* The same of a recurrence, into s->delta: `matrices` floats, and the convolution's rows. */
int step_delta_spans(const struct step *s, const struct layer *l, int64_t matrices);
/* A part's input and the norm that belongs to it: HAS_LAYER_NORMS: what the norm has made
 * of it, and none. */
struct dev_ptr step_input(struct step *s, struct dev_ptr bias, struct dev_ptr *norm);
/* Several matrices applied to x, normed first if there is a norm. */
void step_project(struct step *s, struct dev_ptr x, int64_t n_in, struct dev_ptr norm, int n,
                  const struct dev_mat *const *w, const struct dev_ptr *out);
/* Rows [from, from + n) of a matrix that is in memory. */
static inline struct dev_mat mat_rows(const struct dev_mat *w, int64_t from, int64_t n)
{
    struct dev_mat part = *w;
    part.n_out = n;
    part.data = dev_at(w->data, (size_t)from * dtype_row_bytes(w->type, w->n_in));
    if (w->bias.mem)
        part.bias = behind_floats(w->bias, from);
    return part;
}
/* x *= factor; n floats. */
void scale_floats(struct model *m, struct dev_ptr x, int64_t n, float factor);
/* Adds w * from to the residual stream, times residual_scale or with the norm of a
 * model that has HAS_POST_NORMS; `from` may change. */
void step_project_back(struct step *s, const struct dev_mat *w, struct dev_ptr from,
                       struct dev_ptr post_norm);
/* Whether what a part gives goes to a place of its own first, as it is not just added. */
static inline bool step_branches(const struct step *s)
{
    return s->m->c.traits & (HAS_POST_NORMS | HAS_STREAMS);
}
/* Then: adds norm(from) (n_tok, n_embd) to the residual stream, or spreads it over the
 * streams. */
void step_branch_back(struct step *s, struct dev_ptr from, struct dev_ptr post_norm);
/* Before a part: its input of the streams or pieces, where there are. */
void step_merge(struct step *s, const struct streams *x);
/* Behind a mixer's input: the next piece begins where the layer is the first of one. */
void step_begin_piece(struct step *s, int layer);
/* The residual stream, and how long it is. */
struct dev_ptr step_stream(const struct step *s, int64_t *width);
/* What is left to do when a layer's mixer and ffn have added their output. */
void step_leave_layer(struct step *s, const struct layer *l);
/* How a layer's heads rotate n elements from `at` on. */
struct dev_rope step_rope(const struct step *s, int which, int64_t n, int64_t at);
/* Logits of n_rows rows of the residual stream for the rows of `w`. */
void forward_logits(struct model *m, const struct dev_mat *w, struct dev_ptr x, int64_t n_rows,
                    struct dev_ptr logits);

/* ---- experts.c, few.c, many.c ------------------------------------------------ */

struct dev_ffn experts_args(const struct step *s, const struct layer *l, bool many);
struct dev_expert experts_leased(const struct model *m, const struct layer *l,
                                 const struct expert_lease *lease);
struct dev_expert experts_shared(const struct layer *l, int64_t n_tok);
/* A network's act(gate x, up x) of all tokens, (n_tok, width): where it lies in the scratch. */
struct dev_ptr dense_ffn_hidden(struct step *s, const struct layer *l);
/* A block of experts, for each form that has some: ffn_form. */
int experts_compute(struct step *s, int layer, struct err *e);
void experts_rehearse(struct step *s, struct layer *l,
                      struct dev_ptr (*next)(void *user, size_t bytes), void *user);
extern const struct trace_kind experts_trace;
int experts_few(struct step *s, int layer, struct err *e);
int experts_many(struct step *s, int layer, struct err *e);

/* ---- rehearse.c -------------------------------------------------------------- */

/* What the device needs of scratch for steps of max_tokens. */
void measure_device(struct model *m, struct device *d, int64_t *fixed, int64_t *per_position);
const char *measure_check(const struct model *m); /* NULL, or why it may not be measured now */

#endif
