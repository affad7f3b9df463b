/*
 * engine: implements include/sluice.h over text and model. It opens the queue and the
 * devices that a model works with, and says how large the expert cache may be.
 *
 *   options.c   the host's structs, of whatever version, as this version knows them
 *   check.c     options and files looked at before anything is opened
 *   open.c      options -> a running model
 *   limits.c    how much memory there is
 *   needs.c     what a plan depends on: model, device, process, limits
 *   plan.c      the memory plan, a function of that
 *   budget.c    who may take how much of the budget while a model runs
 *   account.c   what the program and each of its models hold
 *   predict.c   hit rate and speed to be expected
 *   step.c      one pass through the model for several sessions
 *   session.c   ids -> state: prefix reuse, chunks, snapshots
 *   generate.c  the generation loop
 *   stream.c    ids as they come -> whole characters
 *   sample.c    logits -> id
 *   words.c     text, chat and ids
 *   answer.c    an answer as it comes -> text, reasoning, calls of tools
 *   eval.c      perplexity and recall
 *   inspect.c   looking into a file
 *   probe.c     what drive and memory can do
 *   pack.c      a packed copy of a model's file
 *
 * Structs are open inside this folder; plan.h has those that know no model. One thread
 * at a time uses a `sluice` and its sessions (the caller's), so nothing but account.c is
 * locked.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include "base/base.h"
#include "device/device.h"
#include "engine/plan.h"
#include "expert/expert.h"
#include "io/io.h"
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

/* The budget while running. */
struct budget {
    int64_t taken; /* by sessions beyond what the plan has for the first, and by the caller
                      beyond what it said when opening */
    int64_t held;  /* of that, the caller's */
    int64_t answers, answers_taken; /* what answers hold; what was taken for them */
    int64_t cache_most; /* bytes of the expert cache while memory is short; INT64_MAX: it is not */
    int64_t next_look_ns; /* when to look again */
};

struct sluice {
    sluice_options o; /* strings borrowed only while opening */
    struct model *model;
    struct model_shape shape;
    struct text *text;
    struct device *dev, *expert_dev; /* of dense weights and of experts: one, or two */
    struct ioq *q;
    struct plan_inputs inputs; /* of the plan */
    struct plan plan;
    struct model_options mo;   /* as planned */
    struct budget budget;
    int64_t program; /* resident in the process when no model was open, at least a fixed size */
    int64_t program_wavers; /* by so much it may be larger in the next run */
    int64_t number;      /* of the models opened in this process; 0: only planned */
    int64_t held_peak;   /* most that account_held was */
    int n_sessions;
    struct prompt { /* progress: tokens done, being computed, in all; n 0: not of a prompt */
        int64_t at, step, n;
        bool step_only;      /* of a step that a host asked for */
    } prompt;
    uint64_t step_turn;      /* whose turn it is to be first */
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
    struct model_logits *logits; /* (logits_rows) */
    int logits_rows;
    bool has_logits;    /* row 0 is of the last position */
    int64_t kv_bytes;
    int64_t state_bytes;/* beyond the plan */
    sluice_session_stats stats;
};

/* ---- options.c ---- */
/* Structs that a host and the library hand to each other and that may grow: the last
 * field of the first version's, and of this one's. */
#define SIZED_STRUCTS(X) \
    X(sluice_options, held_bytes, chat_template) \
    X(sluice_sampling, seed, seed) \
    X(sluice_pack_options, force, force) \
    X(sluice_file, written, written) \
    X(sluice_message, n_ids, n_ids) \
    X(sluice_chat, n_tools_bytes, n_tools_bytes) \
    X(sluice_answer_options, thinking_ends, thinking_ends) \
    X(sluice_part, kind, kind) \
    X(sluice_span, error, error) \
    X(sluice_visitor, user, user) \
    X(sluice_verifier, user, user) \
    X(sluice_model_info, calls, calls) \
    X(sluice_plan, speed, speed) \
    X(sluice_probe_result, output_s, output_s) \
    X(sluice_pack_result, expert_bytes, expert_bytes) \
    X(sluice_session_stats, read_bytes, read_bytes) \
    X(sluice_stats, memory_peak, memory_peak)
#define SIZED_NAME(type, first, last) SIZED_##type,
enum sized { SIZED_STRUCTS(SIZED_NAME) };

/* Whether some version's struct has that size. */
int sized_check(enum sized t, size_t size, struct err *e);
/* The struct of a host that knows `size` bytes of it, as this library knows it: what the
 * host does not know is 0. E_ARG where it asks for what the library does not know. */
int sized_take(enum sized t, const void *given, size_t size, void *out, struct err *e);
int sized_options(enum sized t, const void *given, void *out, struct err *e); /* `size` is in it */
/* Part of them: for a library that knows `known` bytes of the struct called `name`. */
int sized_copy(const char *name, const void *given, size_t size, size_t known, void *out,
               struct err *e);
/* Writes what the host knows of the struct. A wrong size, or no struct: nothing. */
void sized_give(enum sized t, const void *from, void *out, size_t size);
/* Part of it: of `known` bytes. */
void sized_put(const void *from, size_t known, void *out, size_t size);
static inline int options_take(const sluice_options *given, sluice_options *out, struct err *e)
{
    return sized_options(SIZED_sluice_options, given, out, e);
}

/* ---- needs.c ---- */
/* What the plan of a described model depends on, asked of all concerned. `in` borrows s. */
void needs_inputs(const struct sluice *s, struct plan_inputs *in);
/* The plan's line for the process: what it holds before it loads anything. */
int64_t needs_process(const struct sluice *s);
struct model_options needs_options(const struct sluice *s, const struct plan_choice *c);

/* ---- predict.c ---- */
/* What the planned cache would hit of the options' recorded routing, if there is one. */
int predict_recorded_hits(struct sluice *s, struct err *e);

/* ---- budget.c ---- */
/* Makes room for `bytes` more of sessions by shrinking the expert cache, or
 * E_STATE when that would push it below its smallest size. */
int budget_take(struct sluice *s, int64_t bytes, struct err *e);
void budget_give(struct sluice *s, int64_t bytes);
/* Answers hold so many bytes more, or less. E_BUDGET: there is no room for them. */
int budget_answers(struct sluice *s, int64_t more, struct err *e);
/* How many bytes budget_take could have now. */
int64_t budget_left(const struct sluice *s);
/* How large the cache may be when it is opened, at most as planned. */
int64_t budget_begin(struct sluice *s);
/* Gives way to other programs, and comes back; cheap, at least once a layer. */
void budget_watch(struct sluice *s);

/* ---- account.c ---- */
void account_enter(struct sluice *s); /* before anything of it is held; sets s->program */
void account_leave(void);
void account_loaded(struct sluice *s); /* it is opened, not only planned */
int64_t account_held(const struct sluice *s); /* what it holds of its budget, at most */
void account_look(struct sluice *s); /* keeps the largest */
int64_t account_peak(const struct sluice *s);

/* ---- check.c ---- */
/* Values of the options that are wrong whatever the model is. */
int check_options(const sluice_options *o, struct err *e);
int check_mirrors(const sluice_options *o, struct err *e); /* part of it */
/* Lists come with their length. n below 0, or no list where n is above it: E_ARG. */
int check_list(const char *what, const void *list, int64_t n, struct err *e);
/* No file of the host's (n_files, may be 0), nor the timeline, destroys a file of
 * the model or of a mirror, or another of them. */
int check_files(const sluice_options *o, const sluice_file *files, int n_files, struct err *e);
int io_kind(const char *name, enum ioq_kind *kind, struct err *e);

/* ---- open.c ---- */
/* Describes the model, opens its tokeniser and the device: all that a plan needs.
 * What is refused for the file's sake is refused here, whatever the command. */
int open_header(struct sluice *s, struct err *e);
int open_runnable(struct sluice *s, struct err *e); /* the same for a described s->model */
void open_close_devices(struct sluice *s);
/* Who opens the devices of a model: the CPU for all. Tests put other devices here. */
extern int (*open_devices)(const struct device_config *c, struct device **dense,
                           struct device **experts, struct err *e);

/* ---- session.c ---- */
/* A timeline's: 100 000 spans, seconds to minutes. */
enum { TIMELINE_BYTES = 8 << 20 };
/* Code and library pages not yet touched, ring, stacks, malloc's slack. */
enum { PROCESS_RESERVE = 5 << 19 };

enum phase { PHASE_PROMPT, PHASE_DECODE };
/* Makes room for n tokens in all: ids, KV memory. */
int session_grow(struct sluice_session *x, int64_t n, struct err *e);
int session_append(struct sluice_session *x, const int32_t *ids, int64_t n, enum phase phase,
                   sluice_logits_fn *on_logits, void *user, struct err *e);
model_pulse_fn session_pulse; /* over the struct sluice */

/* ---- step.c ---- */
struct step_span { /* what sluice_span is, for the engine's own loops too */
    struct sluice_session *x;
    const int32_t *ids;
    int64_t n, most; /* most: of them in one step; 0: any number */
    enum phase phase;
    sluice_logits_fn *on_logits; /* sees the logits of all positions; NULL: nobody does */
    void *logits_user;
    int (*cancelled)(void *user, int layer);
    void *user;
    /* results */
    int64_t take, done; /* tokens of this step; of them computed */
    int status;
    struct err err;
};
int step_spans(struct sluice *s, struct step_span *spans, int n, struct err *e);

/* ---- sample.c ---- */
struct sampler;
int sampler_new(const sluice_sampling *p, int n_vocab, struct sampler **out, struct err *e);
void sampler_free(struct sampler *z);
/* `held`: the tokens so far, for the repetition penalty. */
int32_t sampler_next(struct sampler *z, const struct text *t, const float *logits,
                     const int32_t *held, int64_t n_held);
int32_t sample_greedy(const struct text *t, const float *logits, int n_vocab);

/* ---- stream.c ---- */
struct sluice_text_stream { /* zero-initialise, or sluice_text_stream_new */
    const struct text *text;
    struct text_stream held;
    char *buf;
    size_t cap;
};
/* The text that became complete, borrowed until the next call. flush: all, and no id. */
int stream_put(struct sluice_text_stream *t, int32_t id, bool flush, struct str *out,
               struct err *e);

/* ---- words.c ---- */
/* chat_template: in place of the file's; NULL: that one. */
int words_open(const struct model *m, const char *chat_template, struct text **out, struct err *e);

#endif
