/*
 * sluice: runs Mixture-of-Experts language models larger than memory.
 *
 * This is the whole public interface; the command line tool uses nothing else.
 *
 * Rules
 *  - Functions return 0 or a negative sluice_status and fill `err` (may be
 *    NULL) with one sentence. The library prints nothing, reads no
 *    environment variable and never exits.
 *  - A list comes with its length: a negative one, or no list (NULL) where it is
 *    above 0, gives SLUICE_E_ARG.
 *  - Objects (sluice, sluice_session and the like) and places for results must be
 *    there, unless it is said that they may be NULL: that is not looked at.
 *  - A thread that calls should have 128 KiB of stack.
 *  - A `sluice` (an opened model) and its sessions are used from one thread at
 *    a time: the thread that calls does the driving, an internal pool computes.
 *  - A callback may ask (getters, sluice_tokenize, sluice_piece); it must not append to,
 *    generate with, reset or free a session of the same `sluice`: it is in the middle of
 *    a step. What is to follow follows when the function has returned.
 *  - Where a model's bytes lie (memory, cache, disk) never changes a result:
 *    the same file, ids, options of exactness and seed give the same bits with
 *    any memory budget, thread count, reader and instruction set.
 *  - Strings are UTF-8. Pointers returned by a getter are valid until the
 *    next call on the same object unless stated.
 *  - A host may run with a newer library than it was compiled for: what it does not
 *    know has its default, and its structs are read and written as far as it knows
 *    them. With an older one, too, as long as it sets nothing that the library lacks.
 *    For that the size of each struct goes along. Options begin with it, and their
 *    _init function sets it. Functions that take another struct are inline and pass it
 *    (SLUICE_SIZED, see "sizes" at the end, which is for other languages than C).
 */
#ifndef SLUICE_H
#define SLUICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SLUICE_API __attribute__((visibility("default")))
#define SLUICE_SIZED static inline
#define SLUICE_VERSION "0.1.0"

typedef struct sluice sluice;                 /* an opened model */
typedef struct sluice_session sluice_session; /* one conversation's state */

typedef enum sluice_status {
    SLUICE_OK = 0,
    SLUICE_E_ARG = -1,         /* the caller asked for something impossible */
    SLUICE_E_FORMAT = -2,      /* the model file is damaged or not a GGUF file */
    SLUICE_E_UNSUPPORTED = -3, /* a valid file that this version cannot run */
    SLUICE_E_BUDGET = -4,      /* does not fit the memory budget */
    SLUICE_E_NOMEM = -5,       /* the system refused memory */
    SLUICE_E_IO = -6,          /* a file could not be opened or read */
    SLUICE_E_CANCELLED = -7,   /* a callback returned non-zero */
    SLUICE_E_STATE = -8        /* not possible now, for example: context full */
} sluice_status;

typedef struct sluice_error { /* never changes */
    int code;
    char text[600]; /* names and strings of files in it are escaped: safe to print */
} sluice_error;

/* ---- opening ----------------------------------------------------------- */

/* Which experts the routers picked, as sluice_set_route_callback tells it. Never changes. */
typedef struct sluice_routing {
    int n_layers, n_used;
    int64_t n_tokens;
    const int32_t *experts; /* (n_tokens, n_layers, n_used), -1 after the last where there
                               are fewer */
} sluice_routing;

enum {
    SLUICE_LOOKAHEAD_AUTO = 0, /* as many as pay */
    SLUICE_LOOKAHEAD_NONE = -1
};

typedef struct sluice_options {
    size_t size;           /* of this struct as the host knows it; sluice_options_init sets it */
    const char *model;     /* path of the GGUF file (first shard of a split one) */
    uint64_t memory_bytes; /* budget, see "the memory plan"; 0: what machine and cgroup allow */
    int threads;           /* 0: one per processor; at most 4 for each, or 16 (sluice_most) */
    int context;           /* longest session in tokens; 0: the model's, as far as memory allows.
                              It changes results in models with LongRoPE alone: whether it is
                              (or, with 0, the model's is) longer than the context before
                              stretching decides which rotary factors they have */
    int chunk;             /* tokens of a prompt computed together, at most 65536; 0: chosen */
    const char *cpu;       /* instruction set; NULL or "auto": the best (sluice_choice has all) */
    const char *io;        /* NULL or "auto", "uring", "pread" */
    const char *policy;    /* eviction policy; NULL: default (sluice_choice names them) */
    int lookahead;         /* experts of the next layer guessed and read ahead, half as many of
                              the one after, at most 64; SLUICE_LOOKAHEAD_AUTO or
                              SLUICE_LOOKAHEAD_NONE */
    bool exact;            /* float activations and F32 KV cache instead of 8-bit and F16 */
    bool kv_f32;           /* F32 KV cache */
    bool tokenizer_only;   /* open no weights: tokenising works, sessions do not. The budget
                              counts all the same */
    /* Called often while something takes long; non-zero cancels it. `what` is
     * "load"; "prompt", in tokens; "token", before each layer of a token that is
     * generated; "step", before each layer of a sluice_step; "pack", "check", in bytes;
     * "probe", where how much is left is not known. May be NULL. */
    int (*progress)(void *user, const char *what, int64_t done, int64_t total);
    void *user;
    /* Folders with a copy of every file of the model, on other drives: reads
     * come from all at once. They are checked when opening. */
    const char *const *mirrors;
    int n_mirrors; /* at most 8 */
    /* Called with one sentence about something that went wrong and was dealt
     * with, for example a mirror that failed, or that io_uring or direct I/O
     * cannot be used here. May be NULL. */
    void (*warning)(void *user, const char *text);
    void *warning_user;
    /* A file that gets a timeline when the model is closed (or by
     * sluice_end_timeline), in the Chrome trace event format: reads, waiting, what
     * each thread computed. It appears whole or not at all; refused is one that is
     * a file of the model or of a mirror. NULL: none. */
    const char *timeline;
    /* For sluice_plan_memory: routing of this model, recorded in an earlier run;
     * the plan then says what it would hit. NULL: none. */
    const sluice_routing *routing;
    /* Memory of your own that the budget has to cover too, for example a large
     * prompt; allocated already or not. See sluice_hold. */
    int64_t held_bytes;
    /* A chat template (Jinja) in place of the file's; NULL: the file's own. */
    const char *chat_template;
} sluice_options;

/* Begin with this: every option has its default, 0, and `size` is set. SLUICE_E_ARG:
 * without a size nothing can be opened. */
SLUICE_SIZED void sluice_options_init(sluice_options *o);
SLUICE_API int sluice_open(const sluice_options *o, sluice **out, sluice_error *err);
SLUICE_API void sluice_close(sluice *s); /* NULL is fine; sessions must be freed first */
/* Ends the recording and writes the timeline now. sluice_close does it too, but
 * can tell a failure only to the warning callback. */
SLUICE_API int sluice_end_timeline(sluice *s, sluice_error *err);

/* A file that the host is going to read or write beside the model. */
typedef struct sluice_file {
    const char *what; /* its name in sentences, for example "--out" */
    const char *path;
    bool written;
} sluice_file;
/* Finds out, without opening the model, what would be refused: options out of
 * range, and a file to be written (`files`, o->timeline) that is a file of the
 * model, of a mirror, or another one of `files`, by whatever name or link. */
SLUICE_SIZED int sluice_check(const sluice_options *o, const sluice_file *files, int n_files,
                              sluice_error *err);
/* The i-th value that an option of text can have, the default first, NULL after
 * the last. option: "policy", "io", "calls" (of sluice_answer_options) or "cpu", whose
 * instruction sets come least first: results are the same bits with any, and whether this
 * processor has the one that is asked for is found out when opening. */
SLUICE_API const char *sluice_choice(const char *option, int i);
/* The largest value of an option of whole numbers: "threads", which depends on the
 * machine, "chunk" or "lookahead"; 0 for any other. */
SLUICE_API int64_t sluice_most(const char *option);

SLUICE_API const char *sluice_version(void);

/* Replaces the progress callback of the options. */
SLUICE_API void sluice_set_progress(sluice *s,
                                    int (*fn)(void *user, const char *what, int64_t done,
                                              int64_t total),
                                    void *user);

typedef struct sluice_model_info {
    const char *arch, *name;      /* general.architecture, general.name */
    const char *quantization;     /* type of most expert bytes, for example "Q4_K" */
    bool packed;                  /* the file was written by sluice_pack: an expert is one read */
    const char *cpu, *io;         /* what was chosen, for example "avx512", "uring" */
    int threads;
    int n_layers, n_embd, n_vocab, n_context_train;
    int n_context;                /* longest possible session under this plan */
    int n_experts, n_experts_used;
    bool has_thinking;            /* its chat form has a reasoning part */
    int64_t file_bytes, dense_bytes, expert_bytes; /* weights on disk by role */
    const char *thinking_begins, *thinking_ends; /* what stands around reasoning, for example
                                                    "<think>"; "" without has_thinking */
    const char *calls; /* how its chat template writes calls of tools, for example "hermes"; "":
                          not at all, or in a way that is not known */
} sluice_model_info;
SLUICE_SIZED void sluice_info(const sluice *s, sluice_model_info *out);

/* ---- the memory plan --------------------------------------------------- */

/*
 * The budget covers the whole process while one model is open: the program as it
 * was when the model was opened (measured), everything of the model, and what its
 * functions take while they work. What the program allocates later is its own
 * business, unless it says so with sluice_hold.
 *
 * Each model of a process has its own budget, and keeps it. All of them count the
 * program as it was when no model was open, so that the process stays within the
 * sum of the budgets of the models that are open, whichever is closed first.
 *
 * A budget above what a control group (memory.max, memory.high, or version 1's)
 * allows is cut to a little below its limit, and a warning says so. Without a
 * budget, an eighth of a group's limit stays free, or of the machine's memory an
 * eighth, at least 128 MiB. What does not fit then is refused (SLUICE_E_BUDGET) with
 * the floor and the limit that was seen.
 */

/* The three parts of a plan never change: what comes in later versions stands behind
 * them. Bytes, except where it says tokens. Where the budget is below the floor the lines are
 * the floor's, but for `kv`, instead of which the floor has `kv_least`. */
typedef struct sluice_memory {
    /* the lines of the plan; their sum is `budget` unless the cache is full */
    int64_t process; /* program, libraries, tokeniser, thread stacks */
    int64_t dense;   /* weights that every token needs, as far as they stay in memory */
    int64_t state;   /* recurrent state, snapshots */
    int64_t kv;      /* KV cache at the start (it grows by taking from the expert cache) */
    int64_t scratch; /* activations of a chunk */
    int64_t cache;   /* expert cache */
    /* what it is made from */
    int64_t budget;
    int64_t budget_asked; /* memory_bytes of the options; `budget` is less where a limit cut it */
    bool budget_is_default;
    int64_t floor;    /* smallest budget that works, rounded up so that it does next time too */
    int64_t missing;  /* to the floor; 0: it fits */
    int64_t kv_least; /* KV cache of the shortest context that a plan must have room for */
    int64_t cache_min, cache_full; /* smallest possible, and all experts */
    int64_t dense_full;            /* `dense` if all of it stayed */
    int64_t machine_total, machine_available, cgroup_limit; /* INT64_MAX: no limit */
    /* what it allows */
    int n_context; /* tokens: longest session this budget allows */
    int64_t kv_per_token;
    int chunk;         /* tokens of a prompt computed together */
    int64_t text_most; /* of the longest text that context and budget have room for */
} sluice_memory;

/* Of a decoded token. Bytes, and hit rates as a share of 1. */
typedef struct sluice_traffic {
    int64_t expert_bytes_per_token; /* of the picked experts */
    int64_t dense_bytes_per_token;  /* read from memory */
    int64_t dense_read_per_token;   /* read from the drive: dense weights that do not stay */
    double hit_rate;          /* predicted for uniform routing, the worst there is */
    double typical_hit_rate;  /* ... for routing as recorded from real models */
    double recorded_hit_rate; /* ... for sluice_options.routing; -1 without it */
    bool packed;              /* an expert is one read (sluice_pack), not one a matrix */
} sluice_traffic;

/* Predicted; 0 unless a probe was given. */
typedef struct sluice_speed {
    double decode_tps, typical_tps, recorded_tps; /* tokens a second, with those hit rates */
    double drive_gbs, memory_gbs; /* as probed, 10^9 bytes a second */
    double compute_s;             /* seconds of a token, with everything in memory */
    double pack_gain; /* decode_tps of the packed file is so many times this one's; >= 1 */
    bool limited_by_drive;
} sluice_speed;

typedef struct sluice_plan {
    sluice_memory memory;
    sluice_traffic traffic;
    sluice_speed speed;
} sluice_plan;

/* Text up to this size needs no sluice_hold: every plan has room for it. */
#define SLUICE_TEXT_FREE 65536

/* What the budget leaves no room to measure is 0. */
typedef struct sluice_probe_result {
    double drive_gbs;       /* direct reads of expert size at the engine's own depth */
    double drive_gbs_big;   /* 4 MiB reads */
    double drive_gbs_packed;/* reads of a whole packed expert */
    int64_t block_bytes;    /* the size used for drive_gbs */
    int64_t packed_bytes;   /* the size used for drive_gbs_packed */
    bool direct;            /* the page cache was bypassed; otherwise figures are not the drive's */
    double memory_gbs;      /* streaming reads from memory, all threads */
    double dot_gbs;         /* the decode kernel over a large matrix, all threads */
    double token_s;         /* computing one token of this model from memory; 0: not known */
    double output_s;        /* of it, the output matrix, when nothing can be read ahead */
} sluice_probe_result;

/* Measures drive (on the model file, read only), memory, and how long a token of
 * this model computes; takes about two seconds, and memory within the budget. Can be
 * cancelled by o->progress. */
SLUICE_SIZED int sluice_probe(const sluice_options *o, sluice_probe_result *out, sluice_error *err);
/* Decoded tokens a second to be expected when `read_bytes` a token come from the drive;
 * 0: `probe` has no drive_gbs or no token_s to tell it from, or `read_bytes` is below 0. */
SLUICE_SIZED double sluice_predict(const sluice_probe_result *probe, double read_bytes);

/* Plans without loading. `probe` may be NULL: no speed is predicted. On
 * SLUICE_E_BUDGET the plan is filled in all the same. */
SLUICE_SIZED int sluice_plan_memory(const sluice_options *o, const sluice_probe_result *probe,
                                    sluice_plan *out, sluice_error *err);
/* The plan of an opened model. */
SLUICE_SIZED void sluice_get_plan(const sluice *s, sluice_plan *out);

/* From now on the caller holds `bytes` in all that the budget has to cover (at
 * first those of the options); the expert cache makes room or grows. SLUICE_E_BUDGET
 * when it cannot: nothing has changed. Not while another function works. */
SLUICE_API int sluice_hold(sluice *s, int64_t bytes, sluice_error *err);
/* Largest resident set that this process had, bytes; 0: unknown. */
SLUICE_API int64_t sluice_memory_peak(void);

/* ---- looking into a file ------------------------------------------------ */

typedef struct sluice_visitor {
    /* `value` is text of the file as it stands, control characters too; long arrays and
     * strings are cut with "..." */
    void (*on_meta)(void *user, const char *key, const char *type, const char *value);
    /* role: "expert", "packed" (experts, all matrices of one together), "dense",
     * "embedding", "output", "skipped" */
    void (*on_tensor)(void *user, const char *name, const char *type, const int64_t shape[4],
                      int n_dims, int64_t bytes, int file, int64_t offset, const char *role);
    /* a matrix of all experts of a layer that lies in the packed tensor `in`; may be NULL */
    void (*on_packed)(void *user, const char *name, const char *type, const int64_t shape[4],
                      int n_dims, int64_t bytes, const char *in);
    /* a sentence: why the model cannot be run, what of it is left out, which part of
     * a split model this is; may be NULL */
    void (*on_note)(void *user, const char *text);
    void *user;
} sluice_visitor;
/* Works for any valid GGUF file, also of families that cannot be run, and for one
 * part of a split model. */
SLUICE_SIZED int sluice_inspect(const char *path, const sluice_visitor *v, sluice_error *err);

typedef struct sluice_verifier {
    void (*on_file)(void *user, const char *path, int64_t bytes, const char *sha256);
    /* one sentence about weights that are not finite, zero where no model has zeros, or text */
    void (*on_finding)(void *user, const char *text);
    /* may be NULL; non-zero cancels */
    int (*progress)(void *user, const char *what, int64_t done, int64_t total);
    void *user;
} sluice_verifier;
/* Reads a model's files from the first byte to the last, in little memory, and
 * looks for damage. *n_findings: how many sentences there were. A flipped bit is
 * not seen: compare the sums with those that were published. */
SLUICE_SIZED int sluice_verify(const char *path, const sluice_verifier *c, int64_t *n_findings,
                               sluice_error *err);

/* ---- packing ------------------------------------------------------------ */

typedef struct sluice_pack_options {
    size_t size;     /* of this struct as the host knows it; sluice_pack_options_init sets it */
    const char *out; /* the file to write; NULL: the model's own file is replaced */
    bool force;      /* `out` may be there already and is replaced */
} sluice_pack_options;
SLUICE_SIZED void sluice_pack_options_init(sluice_pack_options *p); /* all 0 */

typedef struct sluice_pack_result {
    bool was_packed;        /* the file was packed already (out == NULL): nothing was done */
    int64_t bytes_before, bytes_after;
    int n_layers;           /* whose experts were packed */
    int64_t expert_bytes;   /* of the largest packed expert: one aligned read */
} sluice_pack_result;

/*
 * Writes the model's file once more so that the matrices of an expert lie
 * together and begin at a multiple of 4096: one read brings an expert, where it
 * was three. Still a GGUF file, with the same metadata and weights; results are
 * the same bits. Of the options it uses model, io, progress and user.
 *
 * The new file appears whole or not at all: it is written beside its place
 * under another name, brought to the drive and renamed. Replacing a model also
 * reads it back first; a crash at any time leaves the old or the new file.
 * After an error or a cancellation nothing is left of it. A split model becomes
 * one file and cannot be replaced. A file that is written, or the name that it has
 * meanwhile, must not be one of the model's. `out` may be NULL in the result.
 */
SLUICE_SIZED int sluice_pack(const sluice_options *o, const sluice_pack_options *p,
                             sluice_pack_result *out, sluice_error *err);

/* ---- text --------------------------------------------------------------- */

/* Releases memory returned by the functions of this section. */
SLUICE_API void sluice_free(void *p);

/* Text to ids, with the token in front that the file asks for (add_bos_token; not
 * twice when the text begins with it). `markup`: control tokens such as
 * <|im_start|> are recognised (never use it for text that you did not write). *ids
 * is to be freed.
 *
 * Working memory counts: up to 1 MiB is part of every plan, more is taken from the
 * expert cache for the time of the call, and SLUICE_E_BUDGET says that there is not
 * enough. It takes 6 to 10 bytes for each byte of ordinary text, at most 90 (one word of
 * megabytes). The list of ids is the caller's; lists as long as the context are
 * part of the plan. The same holds for sluice_chat_ids. */
SLUICE_API int sluice_tokenize(const sluice *s, const char *text, size_t n_bytes, bool markup,
                               int32_t **ids, int64_t *n_ids, sluice_error *err);
/* Bytes of one token, borrowed from the model. `special`: also those of control tokens. */
SLUICE_API int sluice_piece(const sluice *s, int32_t id, bool special, const char **piece,
                            size_t *n_bytes, sluice_error *err);
SLUICE_API bool sluice_is_end(const sluice *s, int32_t id); /* ends a generation */

/* Ids as they come -> text in whole characters: a token may end in the middle of one,
 * whose bytes are then held back. Bytes that can never become UTF-8 pass through. Holds
 * no more than the longest token. Freed before its model. */
typedef struct sluice_text_stream sluice_text_stream;
SLUICE_API int sluice_text_stream_new(const sluice *s, sluice_text_stream **out, sluice_error *err);
SLUICE_API void sluice_text_stream_free(sluice_text_stream *t); /* NULL is fine */
/* What comes is a text from its beginning, not the continuation of one: some tokenisers
 * put a blank before a text, and it is left out. */
SLUICE_API void sluice_text_stream_begin(sluice_text_stream *t);
/* The text that became complete with this id, maybe none; valid until the next call. */
SLUICE_API int sluice_text_stream_put(sluice_text_stream *t, int32_t id, const char **text,
                                      size_t *n_bytes, sluice_error *err);
/* What is held back still; the stream is then as new. */
SLUICE_API void sluice_text_stream_end(sluice_text_stream *t, const char **text, size_t *n_bytes);

/* A call of a tool. Never changes. */
typedef struct sluice_tool_call {
    const char *name;
    const char *arguments; /* JSON, an object */
    const char *id;        /* NULL or "": it has none */
} sluice_tool_call;

typedef struct sluice_message {
    const char *role;      /* "system", "user", "assistant", "tool" */
    const char *content;   /* of a tool: what it gave. NULL: none, beside calls */
    const char *reasoning; /* of an assistant; "": there was none; NULL: if it stands in the
                              content, the model's chat form may divide that at </think> */
    const sluice_tool_call *calls; /* of an assistant: what it called, (n_calls) */
    size_t n_calls;
    const char *name, *call_id; /* of a tool: which it was, and for which call; NULL: not told */
    /* Of an assistant: what the model wrote, as sluice_answer_message has it. Where the chat
     * template writes the message in another form (white space, the order of members, how text
     * is cut into tokens) and that says the same, these ids stand in its place, and a session
     * that holds them computes nothing again. NULL: not known */
    const int32_t *ids;
    int64_t n_ids;
} sluice_message;

/* The ids of a conversation in the model's chat form, up to where the
 * assistant's next answer begins. *n_stable: how many ids stay the same when
 * the conversation goes on. */
SLUICE_SIZED int sluice_chat_ids(const sluice *s, const sluice_message *m, size_t n_messages,
                                 bool think, int32_t **ids, int64_t *n_ids, int64_t *n_stable,
                                 sluice_error *err);

/*
 * A conversation, and how it becomes text: the model's chat template is run on it. What
 * stands in a message, a tool or any other member never becomes a control token; only
 * the template's own text does. A template is untrusted: it has limits on steps, depth,
 * memory and output. SLUICE_E_ARG: it refuses the conversation, in its own words.
 * SLUICE_E_UNSUPPORTED: it has something that sluice does not know, or there is none.
 */
typedef struct sluice_chat {
    size_t size, message_size; /* sluice_chat_init sets them */
    /* JSON as OpenAI's API has it: a list of messages, or {"messages": [...], "tools":
     * [...]}. Every other member becomes a variable of the template, too. NULL: `messages` */
    const char *json;
    size_t n_bytes;
    const sluice_message *messages;
    size_t n_messages;
    int think;      /* 1, 0: reasoning on, off, where the template knows the difference (it sees
                       enable_thinking and thinking); -1: as it does by itself */
    bool no_prompt; /* end behind the last message, without the beginning of an answer */
    int64_t now;    /* seconds since 1970, for templates that write the date; 0: the clock's */
    /* Beside `messages`: JSON, the list of tools as OpenAI's API has it. NULL: none. */
    const char *tools;
    size_t n_tools_bytes;
} sluice_chat;
SLUICE_SIZED void sluice_chat_init(sluice_chat *c); /* think -1, all else 0 */
/* The text. *text is to be freed, and terminated. */
SLUICE_API int sluice_chat_text(const sluice *s, const sluice_chat *c, char **text,
                                size_t *n_bytes, sluice_error *err);
/* Its ids; as sluice_chat_ids. The token in front that the file asks for is added unless
 * the template writes it. */
SLUICE_API int sluice_chat_encode(const sluice *s, const sluice_chat *c, int32_t **ids,
                                  int64_t *n_ids, int64_t *n_stable, sluice_error *err);

/* ---- answers ------------------------------------------------------------- */

/*
 * An answer as it comes -> text, reasoning and calls of tools (docs/tools.md):
 *
 *     sluice_answer_options_init(&o); o.prompt = ids; o.n_prompt = n; o.tools = ...
 *     sluice_answer_new(s, &o, &a, &err);
 *     after each sluice_answer_put(a, id, text, n_bytes, &err), and sluice_answer_end(a):
 *         while (sluice_answer_next(a, &part, &err) > 0) ...
 *     sluice_answer_message(a, &m, &err); to put it back into the conversation
 *
 * Half a call is never text: what may belong to one is held back. What turns out to be none
 * (wrong JSON, longer than 256 KiB, cut off in its arguments) is text as it was written. White
 * space beside reasoning and calls is left out. Answers are untrusted: reading one ends, takes
 * time in proportion to its length, and up to 8 MiB for as long as a call is taken apart.
 *
 * What answers hold counts: 256 KiB for all of a model's are part of every plan, more is taken
 * from the expert cache until they are freed (before the model), and SLUICE_E_BUDGET says that
 * there is not enough: nothing was put then.
 */
typedef struct sluice_answer sluice_answer;
typedef struct sluice_answer_options {
    size_t size;           /* of this struct as the host knows it */
    const int32_t *prompt; /* the ids that are answered: they tell whether reasoning is open.
                              Borrowed by sluice_answer_new, like all of this */
    int64_t n_prompt;
    /* JSON, the list of tools, or an object that has it as "tools": what is written without a
     * type gets that of the tool's schema. NULL: no calls are looked for. */
    const char *tools;
    size_t n_tools_bytes;
    const char *calls; /* one of sluice_choice("calls", i); NULL: as the model's template writes */
    const char *thinking_begins, *thinking_ends; /* NULL: the model's; "": none is looked for */
} sluice_answer_options;
SLUICE_SIZED void sluice_answer_options_init(sluice_answer_options *o); /* all 0 */
/* s may be NULL where the options name everything and only text is put. */
SLUICE_API int sluice_answer_new(const sluice *s, const sluice_answer_options *o,
                                 sluice_answer **out, sluice_error *err);
SLUICE_API void sluice_answer_free(sluice_answer *a); /* NULL is fine */
/* What the callback of sluice_generate gets, or an id and what sluice_text_stream_put made of
 * it: marks that are control tokens have no text and are known by their id. id -1: text only. */
SLUICE_API int sluice_answer_put(sluice_answer *a, int32_t id, const char *text, size_t n_bytes,
                                 sluice_error *err);
SLUICE_API void sluice_answer_end(sluice_answer *a); /* nothing more comes */

typedef enum sluice_part_kind {
    SLUICE_PART_NONE,       /* nothing until more comes */
    SLUICE_PART_TEXT,       /* `text`, in whole characters if what was put is */
    SLUICE_PART_REASONING,  /* the same */
    SLUICE_PART_CALL_BEGUN, /* a call of the tool `text`; if none follows, it comes as text */
    SLUICE_PART_CALL        /* `call` */
} sluice_part_kind;
typedef struct sluice_part { /* what it points to is valid until the next call on the answer */
    const char *text; /* not terminated */
    size_t n_bytes;
    const sluice_tool_call *call;
    int64_t kind; /* sluice_part_kind */
} sluice_part;
/* The next part, whose kind is returned: above 0, or SLUICE_PART_NONE. */
SLUICE_SIZED int sluice_answer_next(sluice_answer *a, sluice_part *part, sluice_error *err);
/* All that was told so far, as an assistant's message; what it points to is the answer's, and
 * valid until the next call on it. */
SLUICE_SIZED int sluice_answer_message(sluice_answer *a, sluice_message *out, sluice_error *err);

/* ---- sessions ----------------------------------------------------------- */

SLUICE_API int sluice_session_new(sluice *s, sluice_session **out, sluice_error *err);
SLUICE_API void sluice_session_free(sluice_session *s);
SLUICE_API void sluice_session_reset(sluice_session *s);
/* Tokens held, and their ids. */
SLUICE_API int64_t sluice_session_length(const sluice_session *s);
SLUICE_API const int32_t *sluice_session_ids(const sluice_session *s);

/* Makes the session hold exactly `ids`, computing only what it does not hold
 * already. n_stable (<= n, 0: unknown): a snapshot is kept there, so that a later
 * call which diverges after it need not start again. n >= 1. */
SLUICE_API int sluice_session_sync(sluice_session *s, const int32_t *ids, int64_t n,
                                   int64_t n_stable, sluice_error *err);

/* What sync does without computing: the session goes back to the longest part of `ids`
 * (n >= 1) that it can go on from, and *n_kept says how many that are. They are less
 * than n, so that computing the rest gives logits, unless it holds exactly `ids` and has
 * their logits. Models with recurrent layers can go back to a snapshot and to the
 * beginning only. */
SLUICE_API int sluice_session_keep(sluice_session *s, const int32_t *ids, int64_t n,
                                   int64_t *n_kept, sluice_error *err);
/* Keeps a snapshot here, in place of the one that was kept: a place to go back to.
 * Costs a copy of the recurrent state; without recurrent layers nothing, as the session
 * can go back anywhere. SLUICE_E_STATE: a step failed, so that nothing is there to keep. */
SLUICE_API int sluice_session_snapshot(sluice_session *s, sluice_error *err);

/* Appends ids; on_logits (may be NULL) sees the logits of every appended
 * position, in order; non-zero cancels. */
typedef int sluice_logits_fn(void *user, int64_t position, const float *logits, int n_vocab);
SLUICE_API int sluice_session_append(sluice_session *s, const int32_t *ids, int64_t n,
                                     sluice_logits_fn *on_logits, void *user, sluice_error *err);
/* Logits of the last position (n_vocab floats); NULL before any token. */
SLUICE_API const float *sluice_session_logits(const sluice_session *s);

/* How the next token is drawn. Range and, as sluice_sampling_init sets it, default. */
typedef struct sluice_sampling {
    size_t size;          /* of this struct as the host knows it */
    float temperature;    /* 0 to 100; default 0: greedy */
    int top_k;            /* the likeliest so many, 0 or more; default 0: all */
    float top_p;          /* the likeliest that together have this share, 0 to 1; default 1: all;
                             0: the likeliest token */
    float min_p;          /* those at least this share of the likeliest, 0 to 1; default 0: all */
    float repeat_penalty; /* of tokens that were there; above 0, to 100; default 1: none */
    int repeat_window;    /* last tokens that the penalty looks at, 0 or more; default 64 */
    uint64_t seed;        /* any; default 0 */
} sluice_sampling;
SLUICE_SIZED void sluice_sampling_init(sluice_sampling *p); /* greedy */

/* Called for each new token with the text that became complete (whole UTF-8
 * characters; may be empty), and perhaps once more, with id -1, for what is left at the end of
 * a character that was begun. Above 0 stops the generation after this token, below 0 before
 * it: the session will not hold it. */
typedef int sluice_token_fn(void *user, int32_t id, const char *text, size_t n_bytes);

typedef enum sluice_finish {
    SLUICE_FINISH_END,     /* the model ended its answer */
    SLUICE_FINISH_LENGTH,  /* max_tokens or the context were reached */
    SLUICE_FINISH_STOPPED  /* the callback asked, or that for progress; in the middle of
                              a token the session holds what it held before it, and goes
                              on after sluice_session_sync, _keep or _reset */
} sluice_finish;

/* Continues the session. The ending token is sampled, not appended. max_tokens < 0: until the
 * end. */
SLUICE_API int sluice_generate(sluice_session *s, const sluice_sampling *p, int64_t max_tokens,
                               sluice_token_fn *on_token, void *user, sluice_finish *finish,
                               sluice_error *err);

/* ---- several sessions together ------------------------------------------ */

typedef struct sluice_span {
    sluice_session *session;
    const int32_t *ids; /* (n) to be appended; borrowed */
    int64_t n;          /* at least 1 */
    int64_t most;       /* of them in one step; 0: as many as there is room for */
    /* Asked before each layer; non-zero ends this span (SLUICE_E_CANCELLED) and no
     * other. May be NULL. */
    int (*cancelled)(void *user, int layer);
    void *user;
    /* results */
    int64_t done;       /* how many of ids the session holds now */
    int status;         /* sluice_status, with its sentence: */
    sluice_error error;
} sluice_span;

#define SLUICE_STEP_MOST 64 /* spans of a step */

/*
 * One pass through the model for several sessions, which reads each expert once for
 * all of them. A step may take fewer tokens than the spans have: spans of one token
 * come first, the rest of the room is shared among the longer ones; `done` says how
 * far each came, and the next step goes on from there. A step takes the longer the more
 * tokens are in it, whoever they belong to: `most` keeps a prompt from holding up those
 * that decode, which then is computed in slices between their tokens.
 *
 * A span that is through has the logits of its last position (sluice_session_logits),
 * and pays for them: a product with the whole output matrix, which is read once for up
 * to 16 such spans (fewer where the plan has no room for as many rows of logits). One
 * that is not through pays nothing. So a prompt is better cut by `most` than by giving
 * parts of it, each of which would get logits that nobody wants.
 *
 * Each session gets the bits that it would have alone. What fails for one span (its
 * context is full, a read failed that it needed, it was cancelled) ends that one:
 * its session must be reset, synced or kept (sluice_session_keep); the others do not
 * notice. When the model's files are no longer those that were opened, all spans fail
 * that took part. Below 0 is returned when no step was possible at all; then no session
 * has changed. The callback for progress is told "step", layer by layer, and cancels all
 * spans.
 */
SLUICE_SIZED int sluice_step(sluice *s, sluice_span *spans, int n, sluice_error *err);

/* Draws ids for one sequence. Not tied to a session: its state is what was drawn. */
typedef struct sluice_sampler sluice_sampler;
SLUICE_API int sluice_sampler_new(sluice *s, const sluice_sampling *p, sluice_sampler **out,
                                  sluice_error *err);
SLUICE_API void sluice_sampler_free(sluice_sampler *z); /* NULL is fine */
/* The next id after what the session holds; SLUICE_E_STATE without logits. */
SLUICE_API int sluice_sampler_next(sluice_sampler *z, const sluice_session *s, int32_t *id,
                                   sluice_error *err);

typedef struct sluice_session_stats {
    int64_t n_steps;                      /* passes through the model that it took part in */
    int64_t prompt_tokens, decode_tokens; /* in sluice_step a span of one token is decoding */
    int64_t prompt_ns, decode_ns;         /* whole steps, whoever else took part */
    int64_t read_bytes;                   /* its share of what was read, by tokens */
} sluice_session_stats;
/* Counted since the session was made. */
SLUICE_SIZED void sluice_session_get_stats(const sluice_session *s, sluice_session_stats *out);

/* ---- evaluation --------------------------------------------------------- */

/* Perplexity over windows of `context` ids: window w predicts ids
 * [w*context + 1, (w+1)*context] from its own start; the last window may be short. */
SLUICE_API int sluice_eval_perplexity(sluice_session *s, const int32_t *ids, int64_t n, int context,
                                      double *perplexity, int64_t *n_predicted, sluice_error *err);
/* Whether the model answers `question` (in chat form, greedy) with exactly the
 * ids of `answer` followed by an ending token. */
SLUICE_API int sluice_eval_recall(sluice_session *s, const char *question, const char *answer,
                                  bool *recalled, sluice_error *err);

/* ---- numbers ------------------------------------------------------------ */

typedef struct sluice_stats {
    int64_t prompt_tokens, prompt_ns, prompt_read_bytes;
    int64_t decode_tokens, decode_ns, decode_read_bytes;
    int64_t experts_requested, expert_hits; /* decode only */
    /* lookahead: experts read on a guess; used when they were there, used while
     * still being read, never used */
    int64_t guesses, guesses_useful, guesses_late, guesses_wasted;
    int64_t read_busy_ns, read_wait_ns;     /* drive busy; compute waiting for it */
    int64_t mirror_read_bytes;              /* of those read: from mirrors */
    int64_t load_bytes, load_ns;            /* dense weights read at opening; a reset keeps them */
    int n_experts_used, n_experts_native;
    /* memory_peak: peak resident set of the process; where other models are or were
     * open in it, the most that this one held, its share of the program included */
    int64_t memory_budget, memory_peak;
} sluice_stats;
/* Counted since opening or the last reset. */
SLUICE_SIZED void sluice_get_stats(const sluice *s, sluice_stats *out);
SLUICE_API void sluice_reset_stats(sluice *s);

/* Calls fn for each MoE layer computed: the experts picked for each token, in
 * router order (n_tokens rows of n_used). For tests and traces; NULL: off. */
typedef void sluice_route_fn(void *user, int layer, int64_t first_position, int64_t n_tokens,
                             int n_used, const int32_t *experts);
SLUICE_API void sluice_set_route_callback(sluice *s, sluice_route_fn *fn, void *user);

/* Test hook: makes reads of experts and of streamed weights fail. kind: "none", "error", "short",
 * "slow"; after `skip` reads, `count` times (-1: always). With "@N" behind it
 * only reads of copy N: 0 is the model, 1 the first mirror. */
SLUICE_API int sluice_inject_fault(sluice *s, const char *kind, int skip, int count, int delay_ms,
                                   sluice_error *err);

/* ---- sizes -------------------------------------------------------------- */

/*
 * What the inline functions above stand for. A size is that of the struct, of an array
 * that of one element, as the host was compiled. Of a struct that is read, bytes that
 * the library does not know must be 0; of one that is written, they become 0. A size
 * that no version has is refused (SLUICE_E_ARG), and what returns no status writes
 * nothing, or gives 0.
 */
SLUICE_API void sluice_options_init_sized(sluice_options *o, size_t size);
SLUICE_SIZED void sluice_options_init(sluice_options *o)
{ sluice_options_init_sized(o, sizeof(*o)); }
SLUICE_API void sluice_pack_options_init_sized(sluice_pack_options *p, size_t size);
SLUICE_SIZED void sluice_pack_options_init(sluice_pack_options *p)
{ sluice_pack_options_init_sized(p, sizeof(*p)); }
SLUICE_API void sluice_sampling_init_sized(sluice_sampling *p, size_t size);
SLUICE_SIZED void sluice_sampling_init(sluice_sampling *p)
{ sluice_sampling_init_sized(p, sizeof(*p)); }
SLUICE_API int sluice_check_sized(const sluice_options *o, const sluice_file *files, int n_files,
                                  size_t file_size, sluice_error *err);
SLUICE_SIZED int sluice_check(const sluice_options *o, const sluice_file *files, int n_files,
                              sluice_error *err)
{ return sluice_check_sized(o, files, n_files, sizeof(*files), err); }
SLUICE_API void sluice_info_sized(const sluice *s, sluice_model_info *out, size_t size);
SLUICE_SIZED void sluice_info(const sluice *s, sluice_model_info *out)
{ sluice_info_sized(s, out, sizeof(*out)); }
SLUICE_API int sluice_probe_sized(const sluice_options *o, sluice_probe_result *out, size_t size,
                                  sluice_error *err);
SLUICE_SIZED int sluice_probe(const sluice_options *o, sluice_probe_result *out, sluice_error *err)
{ return sluice_probe_sized(o, out, sizeof(*out), err); }
SLUICE_API double sluice_predict_sized(const sluice_probe_result *probe, size_t size,
                                       double read_bytes);
SLUICE_SIZED double sluice_predict(const sluice_probe_result *probe, double read_bytes)
{ return sluice_predict_sized(probe, sizeof(*probe), read_bytes); }
SLUICE_API int sluice_plan_memory_sized(const sluice_options *o, const sluice_probe_result *probe,
                                        size_t probe_size, sluice_plan *out, size_t size,
                                        sluice_error *err);
SLUICE_SIZED int sluice_plan_memory(const sluice_options *o, const sluice_probe_result *probe,
                                    sluice_plan *out, sluice_error *err)
{ return sluice_plan_memory_sized(o, probe, sizeof(*probe), out, sizeof(*out), err); }
SLUICE_API void sluice_get_plan_sized(const sluice *s, sluice_plan *out, size_t size);
SLUICE_SIZED void sluice_get_plan(const sluice *s, sluice_plan *out)
{ sluice_get_plan_sized(s, out, sizeof(*out)); }
SLUICE_API int sluice_inspect_sized(const char *path, const sluice_visitor *v, size_t size,
                                    sluice_error *err);
SLUICE_SIZED int sluice_inspect(const char *path, const sluice_visitor *v, sluice_error *err)
{ return sluice_inspect_sized(path, v, sizeof(*v), err); }
SLUICE_API int sluice_verify_sized(const char *path, const sluice_verifier *c, size_t size,
                                   int64_t *n_findings, sluice_error *err);
SLUICE_SIZED int sluice_verify(const char *path, const sluice_verifier *c, int64_t *n_findings,
                               sluice_error *err)
{ return sluice_verify_sized(path, c, sizeof(*c), n_findings, err); }
SLUICE_API int sluice_pack_sized(const sluice_options *o, const sluice_pack_options *p,
                                 sluice_pack_result *out, size_t size, sluice_error *err);
SLUICE_SIZED int sluice_pack(const sluice_options *o, const sluice_pack_options *p,
                             sluice_pack_result *out, sluice_error *err)
{ return sluice_pack_sized(o, p, out, sizeof(*out), err); }
SLUICE_API int sluice_chat_ids_sized(const sluice *s, const sluice_message *m, size_t n_messages,
                                     size_t message_size, bool think, int32_t **ids,
                                     int64_t *n_ids, int64_t *n_stable, sluice_error *err);
SLUICE_SIZED int sluice_chat_ids(const sluice *s, const sluice_message *m, size_t n_messages,
                                 bool think, int32_t **ids, int64_t *n_ids, int64_t *n_stable,
                                 sluice_error *err)
{ return sluice_chat_ids_sized(s, m, n_messages, sizeof(*m), think, ids, n_ids, n_stable, err); }
SLUICE_API void sluice_chat_init_sized(sluice_chat *c, size_t size, size_t message_size);
SLUICE_SIZED void sluice_chat_init(sluice_chat *c)
{ sluice_chat_init_sized(c, sizeof(*c), sizeof(sluice_message)); }
SLUICE_API void sluice_answer_options_init_sized(sluice_answer_options *o, size_t size);
SLUICE_SIZED void sluice_answer_options_init(sluice_answer_options *o)
{ sluice_answer_options_init_sized(o, sizeof(*o)); }
SLUICE_API int sluice_answer_next_sized(sluice_answer *a, sluice_part *part, size_t size,
                                        sluice_error *err);
SLUICE_SIZED int sluice_answer_next(sluice_answer *a, sluice_part *part, sluice_error *err)
{ return sluice_answer_next_sized(a, part, sizeof(*part), err); }
SLUICE_API int sluice_answer_message_sized(sluice_answer *a, sluice_message *out, size_t size,
                                           sluice_error *err);
SLUICE_SIZED int sluice_answer_message(sluice_answer *a, sluice_message *out, sluice_error *err)
{ return sluice_answer_message_sized(a, out, sizeof(*out), err); }
SLUICE_API int sluice_step_sized(sluice *s, sluice_span *spans, int n, size_t span_size,
                                 sluice_error *err);
SLUICE_SIZED int sluice_step(sluice *s, sluice_span *spans, int n, sluice_error *err)
{ return sluice_step_sized(s, spans, n, sizeof(*spans), err); }
SLUICE_API void sluice_session_get_stats_sized(const sluice_session *s, sluice_session_stats *out,
                                               size_t size);
SLUICE_SIZED void sluice_session_get_stats(const sluice_session *s, sluice_session_stats *out)
{ sluice_session_get_stats_sized(s, out, sizeof(*out)); }
SLUICE_API void sluice_get_stats_sized(const sluice *s, sluice_stats *out, size_t size);
SLUICE_SIZED void sluice_get_stats(const sluice *s, sluice_stats *out)
{ sluice_get_stats_sized(s, out, sizeof(*out)); }

#ifdef __cplusplus
}
#endif
#endif
