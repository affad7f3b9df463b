/*
 * engine: implements include/sluice.h over text and model.
 *
 *   check.c     options and files looked at before anything is opened
 *   open.c      options -> a running model
 *   budget.c    how much memory there is
 *   plan.c      the memory plan and who may take how much of the budget
 *   account.c   what the program and each of its models hold
 *   session.c   ids -> state: prefix reuse, chunks, snapshots
 *   generate.c  the generation loop
 *   sample.c    logits -> id
 *   words.c     text, chat and ids
 *   eval.c      perplexity and recall
 *   pressure.c  giving memory back while other programs grow
 *   inspect.c   looking into a file
 *   probe.c     what drive and memory can do
 *   pack.c      a packed copy of a model's file
 *
 * Structs are open inside this folder. One thread at a time uses a `sluice`
 * and its sessions (the caller's), so nothing but account.c is locked.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include "base/base.h"
#include "model/model.h"
#include "sluice.h"
#include "text/text.h"

/* A public error is the internal one under another name. */
_Static_assert(sizeof(sluice_error) == sizeof(struct err), "one layout");
_Static_assert((int)SLUICE_E_STATE == (int)E_STATE, "one numbering");
static inline struct err *err_of(sluice_error *e)
{
    if (e) {
        e->code = 0;
        e->text[0] = '\0';
    }
    return (struct err *)(void *)e;
}

struct sluice {
    sluice_options o; /* strings borrowed only while opening */
    struct model *model;
    struct model_shape shape;
    struct text *text;
    struct device *dev;
    struct ioq *q;
    struct model_options mo;
    sluice_plan plan;
    struct model_needs needs;
    int base_chunk;            /* what the planned scratch has room for */
    int64_t chunk_token_bytes; /* scratch for each further token of a chunk */
    int64_t kv_in_use;   /* memory of sessions beyond what the plan has for the first, and
                            of the caller beyond what it said when opening */
    int64_t held_in_use; /* of that, the caller's */
    int64_t program;     /* resident in the process when no model was open, at least a fixed size */
    bool program_measured; /* it is larger than that size and wavers a little from run to run */
    int64_t number;      /* of the models opened in this process; 0: only planned */
    int64_t held_peak;   /* most that account_held was */
    int n_sessions;
    int64_t pressure_cap;     /* most cache bytes while memory is short; INT64_MAX: it is not */
    int64_t pressure_next_ns; /* when to look again */
    struct { int64_t at, step, n; } prompt; /* progress: tokens done, being computed, in all */
    sluice_stats stats;
    sluice_route_fn *route;
    void *route_user;
    char *quantization, *cpu;
    struct trace *trace; /* NULL: no timeline */
};

struct sluice_session {
    struct sluice *s;
    struct model_state *state;
    int32_t *ids; /* held tokens */
    int64_t n, cap;
    float *logits;      /* (logits_rows, n_vocab) */
    int logits_rows;
    bool has_logits;    /* row 0 is of the last position */
    int64_t kv_bytes;
    int64_t state_bytes;/* beyond the plan */
};

/* ---- plan.c ---- */
/* Fills s->plan, s->mo and s->needs for an opened model, device and text.
 * E_BUDGET below the floor, with the plan filled in. */
int plan_make(struct sluice *s, struct err *e);
/* What the planned cache would hit of the options' recorded routing, if there is one. */
int plan_replay(struct sluice *s, struct err *e);
void plan_predict(const sluice_probe_result *probe, sluice_plan *p);
/* Makes room for `bytes` more of sessions by shrinking the expert cache, or
 * E_STATE when that would push it below its smallest size. */
int plan_take(struct sluice *s, int64_t bytes, struct err *e);
void plan_give(struct sluice *s, int64_t bytes);
int plan_logits_rows(const struct sluice *s);
/* How many of a prompt's next `n` tokens to compute together when the expert
 * cache has `cache` bytes; *bytes: what their scratch takes from it. */
int64_t plan_chunk(const struct sluice *s, int64_t n, int64_t cache, int64_t *bytes);

/* How many bytes plan_take could have now. */
int64_t plan_left(const struct sluice *s);
/* Of process->plan: the process line and what reading a text costs. */
int64_t plan_process(const struct sluice *s);

/* ---- budget.c ---- */
struct budget {
    struct os_memory m;
    int64_t budget; /* as the plan has it */
    int64_t now;    /* what can be had at this moment, this process's own included */
    enum { BUDGET_ASKED, BUDGET_MACHINE, BUDGET_CGROUP, BUDGET_RLIMIT } source;
    enum { NOW_ENOUGH, NOW_CGROUP, NOW_RLIMIT } short_of; /* why `now` is less than the budget */
};
/* asked: 0 for what the machine allows. */
void budget_find(int64_t asked, struct budget *b);
/* A clause about the limit that was seen, "" where the user's word was taken. */
void budget_tell(const struct budget *b, int64_t asked, char *out, size_t room);

/* ---- account.c ---- */
void account_enter(struct sluice *s); /* before anything of it is held; sets s->program */
void account_leave(void);
void account_loaded(struct sluice *s); /* it is opened, not only planned */
int64_t account_held(const struct sluice *s); /* what it holds of its budget, at most */
void account_look(struct sluice *s); /* keeps the largest */
int64_t account_peak(const struct sluice *s);

/* ---- pressure.c ---- */
/* How large the cache may be when it is opened, at most as planned. */
int64_t pressure_start(struct sluice *s);
void pressure_look(struct sluice *s); /* cheap; at least once a layer */

/* ---- check.c ---- */
/* Values of the options that are wrong whatever the model is. */
int check_options(const sluice_options *o, struct err *e);
/* No file of the host's (n_files, may be 0), nor the timeline, destroys a file of
 * the model or of a mirror, or another of them. */
int check_files(const sluice_options *o, const sluice_file *files, int n_files, struct err *e);
int io_kind(const char *name, enum ioq_kind *kind, struct err *e);

/* ---- open.c ---- */
/* Describes the model, opens its tokeniser and the device: all that a plan needs.
 * What is refused for the file's sake is refused here, whatever the command. */
int open_header(struct sluice *s, struct err *e);
int open_runnable(struct sluice *s, struct err *e); /* the same for a described s->model */

/* ---- session.c ---- */
/* A timeline's: 100 000 spans, seconds to minutes. */
enum { TIMELINE_BYTES = 8 << 20 };

enum phase { PHASE_PROMPT, PHASE_DECODE };
int session_append(struct sluice_session *x, const int32_t *ids, int64_t n, enum phase phase,
                   sluice_logits_fn *on_logits, void *user, struct err *e);
model_pulse_fn session_pulse; /* over the struct sluice */

/* ---- sample.c ---- */
struct sampler;
int sampler_new(const sluice_sampling *p, int n_vocab, struct sampler **out, struct err *e);
void sampler_free(struct sampler *z);
/* `held`: the tokens so far, for the repetition penalty. */
int32_t sampler_next(struct sampler *z, const struct text *t, const float *logits,
                     const int32_t *held, int64_t n_held);
int32_t sample_greedy(const struct text *t, const float *logits, int n_vocab);

/* ---- words.c ---- */
int words_open(const struct model *m, struct text **out, struct err *e);

#endif
