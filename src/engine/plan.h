/*
 * The memory plan and the predictions: functions of what they are given. Nothing
 * here knows an opened model, so that a test can plan for one that does not exist.
 */
#ifndef PLAN_H
#define PLAN_H

#include "base/base.h"
#include "sluice.h"

/* ---- limits.c: how much memory there is -------------------------------- */

struct limits {
    struct os_memory m;
    int64_t own;    /* of what is used there, this process's */
    int64_t asked;  /* memory_bytes of the options; 0: what the machine allows */
    int64_t budget; /* as the plan has it */
    int64_t now;    /* what can be had at this moment, this process's own included */
    enum { LIMIT_ASKED, LIMIT_MACHINE, LIMIT_CGROUP, LIMIT_RLIMIT } source;
    enum { NOW_ENOUGH, NOW_CGROUP } short_of; /* why `now` is less than the budget */
    int64_t rlimit_kept; /* of what a resource limit allows, not in the budget */
};
/* memory_bytes: of the options. */
void limits_find(uint64_t memory_bytes, struct limits *l);
/* The same of a machine and a process (own: its resident memory) that are told. */
void limits_of(uint64_t memory_bytes, const struct os_memory *m, int64_t own, struct limits *l);
/* A clause about the limit that was seen, "" where the user's word was taken. */
void limits_tell(const struct limits *l, char *out, size_t room);

/* ---- plan.c ------------------------------------------------------------ */

/* What a plan chooses. */
struct plan_choice {
    int chunk;           /* tokens computed together */
    int64_t context;     /* longest session */
    int64_t dense_bytes; /* most memory for dense weights; what does not fit is read again */
};

/* What a model and its device need under a choice, bytes. More of anything that is
 * chosen never needs less. */
struct plan_needs {
    int64_t dense;                 /* memory for the dense weights that stay */
    int64_t dense_full;            /* ... to hold them all, */
    int64_t dense_no_embed;        /* ... all but the embedding table */
    int64_t dense_read;            /* of them, read again for every decoded token */
    int64_t state;                 /* recurrent state of a session, with its snapshot */
    int64_t scratch;               /* activations of a chunk, the model's and the device's */
    int64_t kv_per_token;          /* KV cache */
    int64_t cache_min, cache_full; /* expert cache: the smallest that works, and all experts */
};

/* All that a plan depends on. */
struct plan_inputs {
    struct limits limits;
    /* of the options */
    int context, chunk;  /* 0: chosen */
    bool tokenizer_only; /* the model and its functions are not asked */
    /* of the process */
    int64_t process;        /* that line of the plan */
    int64_t held_bytes;     /* of it, the caller's */
    int64_t process_wavers; /* by so much it may be larger in the next run */
    /* of the vocabulary */
    int64_t n_tokens, longest_token; /* the latter in bytes */
    /* of the model */
    int n_vocab, n_context_train;
    int most_logits_rows; /* positions whose logits it computes together, at most */
    int64_t expert_bytes_per_token, dense_bytes_per_token;
    bool packed;
    int64_t session_token_bytes; /* for each token of a session's context, beside the KV cache */
    /* Both change nothing, and answer the same when asked the same. kv: bytes of the
     * KV cache of n tokens, which never falls with n. */
    const void *model;
    void (*needs)(const void *model, const struct plan_choice *c, struct plan_needs *out);
    int64_t (*kv)(const void *model, int64_t n);
};

struct plan {
    sluice_memory memory;
    sluice_traffic traffic;
    struct plan_choice chosen; /* what to load with; its chunk is the largest possible */
    int base_chunk;            /* the chunk that memory.scratch has room for */
    int64_t chunk_token_bytes; /* scratch for each further token of a chunk */
    int logits_rows;           /* positions whose logits are computed together */
    bool few_addresses;        /* a resource limit leaves none for a larger expert cache */
};

/* The plan for these inputs, and nothing but them: no clock, machine, process or file
 * is looked at. The same inputs give the same plan. E_BUDGET below the floor: then the
 * lines of *out are those of the floor, and memory.missing says by how much. */
int plan_make(const struct plan_inputs *in, struct plan *out, struct err *e);
/* Memory that the context of a session of n tokens takes, from which plan_make
 * computes memory.kv. */
int64_t plan_kv_bytes(const struct plan_inputs *in, int64_t n);
/* How many of a prompt's next `n` tokens to compute together when the expert
 * cache has `cache` bytes; *bytes: what their scratch takes from it. */
int64_t plan_chunk(const struct plan *p, int64_t n, int64_t cache, int64_t *bytes);

/* ---- predict.c --------------------------------------------------------- */

/* Share of hits, with routing as in real models, when a fraction `f` of all experts
 * is cached. */
double predict_typical_hits(double f);
/* Decoded tokens a second when `read_bytes` a token come from the drive; 0 where the
 * probe has no figure of the drive or of a token, or `read_bytes` is below 0. */
double predict_tps(const sluice_probe_result *probe, double read_bytes);
/* What `probe` measured and `t` make of a token. Without a figure that means anything
 * only what was measured is filled in. */
void predict_speed(const sluice_probe_result *probe, const sluice_traffic *t, sluice_speed *out);

#endif
