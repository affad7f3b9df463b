/*
 * model: the only folder that knows a transformer.
 *
 *   families.c   families as rows of data
 *   describe.c   opening, sizes by role, metadata
 *   config.c     a file's numbers, checked; config_*.c: its parts
 *   known.c      the keys and tensors that are understood
 *   bind.c       rows of weights -> tensors, experts -> extents
 *   attention.c, latent.c, compressed.c, delta.c, kda.c   mixers: how tokens see each other
 *   experts.c, dense_ffn.c, beside.c, latent_experts.c   ffns: what each token does for itself
 *   few.c, many.c                the experts of few tokens, and of many
 *   forward.c    tokens -> residual stream -> logits, layer by layer
 *   state.c      KV cache and recurrent state of one session
 *   guess.c      lookahead: what later routers may pick
 *   load.c       what it needs; loading
 *   rehearse.c   the layers walked without weights: scratch, time of a token
 *   health.c     values that are not finite, weights that are zero
 *   pack.c       a packed copy of a model
 *
 * Opening has three steps so that a refusal comes before anything large is
 * touched: model_describe reads the header; the engine plans memory from
 * model_needs; model_load reads the dense part and opens the expert cache.
 *
 * One thread drives a model and its states.
 */
#ifndef MODEL_H
#define MODEL_H

#include "base/base.h"
#include "device/device.h"
#include "expert/expert.h"
#include "io/io.h"

struct model;
struct model_state;

/* ---- describing ------------------------------------------------------- */

/* With `any`, only the file is read and a family that sluice cannot run is
 * accepted too; such a model can be looked into and not loaded. */
int model_describe(const char *path, bool any, struct model **out, struct err *e);
void model_close(struct model *m);
/* What `any` let pass and, with a device, weights that it cannot multiply with:
 * E_UNSUPPORTED or E_FORMAT, with the sentence that loading would be refused with. */
int model_runnable(const struct model *m, const struct device *d, struct err *e);
/* The model's files and mirrors are those that were opened: size, time, inode. */
int model_unchanged(const struct model *m, struct err *e);
/* What loading would refuse of the dense weights, looked at on the drive. */
int model_weights_sound(const struct model *m, struct err *e);
/* A later part of a split model, described alone: to look at. */
bool model_is_part(const struct model *m);

struct model_shape {
    const char *arch, *name;
    int n_layers, n_embd, n_vocab, n_context_train;
    int n_experts, n_used, expert_width, shared_width;
    int n_attention_layers, n_recurrent_layers;
    enum dtype expert_type;     /* of most expert bytes; without experts of most others */
    int64_t file_bytes, dense_bytes, expert_bytes, skipped_bytes;
    int64_t expert_bytes_per_token; /* of the picked experts */
    int64_t dense_bytes_per_token;  /* read from memory: all dense but the embedding table */
    int64_t largest_expert_bytes;
    bool packed;                /* the matrices of an expert lie together in the file */
};
void model_shape(const struct model *m, struct model_shape *s);

/* Metadata, for the tokeniser: borrowed from the model. */
bool model_meta_str(const struct model *m, const char *key, struct str *out);
bool model_meta_i64(const struct model *m, const char *key, int64_t *out);
/* Arrays allocated with malloc, for the caller to free; E_FORMAT when absent. */
int model_meta_strs(const struct model *m, const char *key, struct str **out, int64_t *n,
                    struct err *e);
int model_meta_ints(const struct model *m, const char *key, int32_t **out, int64_t *n,
                    struct err *e);
int model_meta_floats(const struct model *m, const char *key, float **out, int64_t *n,
                      struct err *e);
/* Walks metadata and tensors as printable text. */
struct model_visitor {
    void (*on_meta)(void *user, const char *key, const char *type, const char *value);
    void (*on_tensor)(void *user, const char *name, const char *type, const int64_t shape[4],
                      int n_dims, int64_t bytes, int file, int64_t offset, const char *role);
    /* a matrix of all experts of a layer that lies in the packed tensor `in` */
    void (*on_packed)(void *user, const char *name, const char *type, const int64_t shape[4],
                      int n_dims, int64_t bytes, const char *in);
    void (*on_note)(void *user, const char *text); /* what is left out, and which part this is */
    void *user;
};
void model_visit(const struct model *m, const struct model_visitor *v);
int model_n_files(const struct model *m);
/* Memory that the description holds: the files' headers, tensors, layers. */
int64_t model_description_bytes(const struct model *m);
const char *model_path(const struct model *m, int file);
/* By names alone: file `no` (from 0) of the model whose first is `path`, NULL where
 * there is none; the copy of `path` in a mirror. malloc'ed; NULL also: no memory. */
char *model_part_path(const char *path, int no);
char *model_mirror_path(const char *folder, const char *path);
int64_t model_file_bytes(const struct model *m, int file);

/* Reads all files from the first byte to the last, which takes as long as the
 * drive and a SHA-256 take. A described model, `any` or not. on_finding: one
 * sentence about something that is damaged. */
struct model_check {
    void (*on_file)(void *user, const char *path, int64_t bytes, const char *sha256);
    void (*on_finding)(void *user, const char *text);
    int (*progress)(void *user, int64_t done, int64_t total); /* may be NULL; non-zero cancels */
    void *user;
};
int model_check_files(const struct model *m, const struct model_check *c, int64_t *n_found,
                      struct err *e);

/* ---- what it needs ----------------------------------------------------- */

struct model_options {
    int max_tokens;   /* chunk */
    int64_t context;  /* longest session */
    /* The context that was asked for, of which memory may allow less: what the results
     * depend on (LongRoPE), and what is laid out by it, is the same in any memory. 0: `context`. */
    int64_t context_asked;
    bool kv_f16;
    int64_t
        dense_bytes; /* most memory for the dense part; less than it all: what is missing is read
                            again for every pass */
    /* Experts guessed ahead for the next layer, half for the one after; 0: as many as
     * pay, -1: none. Changes no result. */
    int lookahead;
    bool few_addresses; /* the expert cache reserves no more than it begins with */
    const char *const *mirrors; /* folders with copies of the files; borrowed while loading */
    int n_mirrors;
};

struct model_needs {
    int64_t dense;              /* memory for the dense part, of what the options allow */
    int64_t dense_full;         /* ... to hold it all, */
    int64_t
        dense_no_embed; /* ... all but the embedding table, whose rows are then read when needed, */
    int64_t dense_min;          /* ... and the least that works */
    int64_t dense_read;         /* bytes of it read again for every decoded token */
    int64_t state;              /* of one session whatever its length: recurrent state, near
                                   layers' caches, and their copies */
    int64_t kv_per_token;       /* KV cache */
    int64_t scratch;            /* activations of a chunk, besides the device's */
    int64_t cache_min, cache_full; /* 0: no layer has experts */
    int64_t device_fixed;       /* the device's own scratch, */
    int64_t device_per_position;/* ... and for each position of the context */
};
/* On a device that nothing computes on meanwhile. All zero for a family that cannot be
 * run. A function of its arguments; the model is afterwards as it was, but for the places
 * of its weights, which loading sets. So it is asked before that, as often as wanted. */
void model_needs(struct model *m, struct device *d, const struct model_options *o,
                 struct model_needs *n);
/* What an expert cache of this size would hit of recorded picks (n_tokens,
 * n_layers, n_used), -1 where fewer are used: the first half of the tokens fills
 * it, the second is counted. For a model that was only described, too. */
int model_replay(const struct model *m, int64_t cache_bytes, const char *policy, const int32_t *ids,
                 int64_t n_tokens, double *hit_rate, struct err *e);

/* ---- loading ----------------------------------------------------------- */

typedef int model_progress_fn(void *user, int64_t done, int64_t total); /* non-zero cancels */

struct model_devices { /* the same one twice, or two */
    struct device *dense;   /* all but the experts */
    struct device *experts;
};
/* Reads the dense part and opens the expert cache over `q`. Devices and queue are
 * borrowed. What a second device takes of memory is not in model_needs: it is not
 * the host's. */
int model_load(struct model *m, const struct model_options *o, const struct model_devices *d,
               struct ioq *q, int64_t cache_bytes, const char *policy, model_progress_fn *progress,
               void *user, struct err *e);
/* Compares the copies of the model's first n_files files in each folder with
 * the model and adds them to the queue's `files`; E_ARG when one is not the same.
 * Without a queue they are only compared. */
int model_add_mirrors(struct model *m, const char *const *folders, int n_folders, struct ioq *q,
                      const int *files, int n_files, struct err *e);
/* The dense weights that loading read, and how long it took. */
void model_loaded(const struct model *m, int64_t *bytes, int64_t *ns);
struct expert_cache *model_experts(struct model *m); /* NULL: no layer has experts */

/* ---- packing ------------------------------------------------------------ */

/* The model's file as a packed one, in the making. The described model is
 * borrowed. E_STATE when it is packed already. */
struct model_pack;
int model_pack_new(const struct model *m, struct model_pack **out, struct err *e);
void model_pack_free(struct model_pack *p);
struct model_pack_size {
    int64_t bytes;        /* of the new file */
    int n_layers;         /* whose experts are packed */
    int64_t expert_bytes; /* of the largest packed expert, padding included: one read */
};
void model_pack_size(const struct model_pack *p, struct model_pack_size *s);
/* Memory that writing and checking take beside the description, whatever the model. */
int64_t model_pack_memory(void);
/* Writes all of it, in order. */
int model_pack_write(struct model_pack *p, enum ioq_kind kind, struct os_out *out,
                     model_progress_fn *progress, void *user, struct err *e);
/* `path`, which was written, must describe the same model; `bytes_too`: and its
 * bytes, read from the drive, must be those written. */
int model_pack_check(const struct model_pack *p, bool bytes_too, enum ioq_kind kind,
                     const char *path, model_progress_fn *progress, void *user, struct err *e);

/* ---- state of one session ---------------------------------------------- */

int model_state_new(struct model *m, struct model_state **out, struct err *e);
void model_state_free(struct model_state *s);
void model_state_reset(struct model_state *s);
/* A step failed or was cancelled half way: only a reset or a rewind helps. */
bool model_state_broken(const struct model_state *s);
int64_t model_state_length(const struct model_state *s); /* positions held */
/* Memory of the KV cache for `n` positions; grows in steps. */
int64_t model_kv_bytes(const struct model *m, const struct model_options *o, int64_t n);
/* Keeps a copy of the recurrent state, and of what near layers see, as it is now. */
void model_state_snapshot(struct model_state *s);
int64_t model_state_snapshot_length(const struct model_state *s); /* -1: none */
/* Back to `n` <= length positions: possible at the length, at the snapshot, at 0,
 * and without recurrent layers anywhere that near layers still hold what is seen from
 * there. False: not possible. */
bool model_state_rewind(struct model_state *s, int64_t n);

/* ---- rehearsing --------------------------------------------------------- */

/* The names of the eviction policies, the default first; NULL: there are no more. */
const char *model_policy(int i);

/* How long one decoded token computes with everything in memory; 0: unknown,
 * because the family cannot be run or a matrix is larger than the memory. */
struct model_pace {
    int64_t token_ns,
        output_ns; /* output_ns: of it, the last matrix, when no read can be under way */
};
/* For a model that was only described, and is closed afterwards. `memory`:
 * of the device, much larger than the caches. */
int model_rehearse(struct model *m, const struct model_options *o, struct device *d,
                   struct dev_mem *memory, size_t bytes, model_progress_fn *progress, void *user,
                   struct model_pace *pace, struct err *e);

/* ---- computing ---------------------------------------------------------- */

/* Tokens that follow each other in one session. */
struct model_span {
    struct model_state *state;
    const int32_t *ids; /* (n) */
    int64_t n;          /* at least 1 */
    int (*cancelled)(void *user,
                     int layer); /* asked before each layer; non-zero ends the span. NULL: never */
    void *user;
    /* results */
    int64_t first;      /* row of its first token in the step */
    int status;         /* OK, or why it ended: */
    struct err err;
};
enum { MODEL_MAX_SPANS = 64 };

/*
 * Appends the ids of each span to its session, all in one pass through the
 * layers; max_tokens in all, each state in one span only. A span that fails or is
 * cancelled ends alone: its state is unusable until model_state_reset or a rewind
 * to its snapshot, and the others do not notice. A token's results never depend
 * on the other tokens of the step. Returns below 0 only for a step that cannot
 * begin.
 */
int model_step(struct model *m, struct model_span *spans, int n_spans, struct err *e);

/* Room for logits: rows of n_vocab floats that the host can read. */
struct model_logits;
int model_logits_new(struct model *m, int64_t n_rows, struct model_logits **out, struct err *e);
void model_logits_free(struct model_logits *l); /* NULL is fine */
float *model_logits_row(const struct model_logits *l, int64_t row);
struct dev_ptr model_logits_memory(const struct model_logits *l);
/* Row i becomes the logits of row rows[i] of the last step; n at most 16 and that of
 * `l`. Fails where the output matrix cannot be read. */
enum { MODEL_LOGIT_ROWS = 16 };
int model_logits(struct model *m, const int64_t *rows, int64_t n, struct model_logits *l,
                 struct err *e);
/* Whether the logits of a row are finite. */
int model_logits_check(const struct model_logits *l, int64_t row, struct err *e);

/* Called before each layer while computing: a place for what must not wait for
 * the end of a long step. May resize the expert cache. Non-zero ends all spans
 * with E_CANCELLED. */
typedef int model_pulse_fn(void *user, int layer);
/* Gives back the memory of activations; what was computed stays. */
void model_trim(struct model *m);
void model_set_pulse(struct model *m, model_pulse_fn *fn, void *user);

/* Records layers and what the threads do in them; NULL: no more. */
void model_set_trace(struct model *m, struct trace *t);

typedef void model_route_fn(void *user, int layer, int64_t first_position, int64_t n_tokens,
                            int n_used, const int32_t *experts);
void model_set_route(struct model *m, model_route_fn *fn, void *user);

#endif
