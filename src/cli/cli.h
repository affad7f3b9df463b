/*
 * cli: the command line tool. It knows the engine only through sluice.h.
 *
 *   main.c         the commands, and which one is meant
 *   options.c      the one table of options and environment variables, parsing
 *   help.c         --help and the option list of the man page, from that table
 *   units.c        sizes, numbers and lists of ids: text to value and back
 *   term.c         standard output, the progress line, colours
 *   signals.c      what ends a command early
 *   files.c        what is refused before anything is touched
 *   json.c         JSON in and out
 *   input.c        standard input, and what is read counts in the memory budget
 *   open.c         which model file, how it is opened, the closing numbers
 *   routing.c      which experts were picked: recorded to a file, read for plan
 *   answer.c       one generated answer: reasoning split off, shown as it comes
 *   cmd_run.c      run
 *   cmd_chat.c     chat
 *   line.c         chat's input: line editing and history, or a plain pipe
 *   cmd_eval.c     eval, logits
 *   cmd_info.c     plan, probe, tokenize
 *   cmd_inspect.c  inspect
 *   cmd_bench.c    bench
 *   cmd_pack.c     pack
 *
 * Rules
 *  1. Every word that a user may type after `sluice COMMAND`, and every
 *     environment variable, is a row of the table in options.c.
 *  2. All output to stdout goes through out_*, which remembers the first
 *     failure; main turns it into the exit status.
 *  3. Functions that can fail return an exit status (enum exit_status) and have
 *     printed their sentence; sentences go to stderr and begin with "sluice: ".
 *  4. One thread. The only thing a signal does is set a flag (signals.c).
 *  5. A file that a command writes is whole or not there (os_out_stream), and one
 *     that was asked for and could not be written makes the exit status ST_FAIL.
 */
#ifndef CLI_H
#define CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sluice.h"

enum exit_status {
    ST_OK = 0,
    ST_FAIL = 1,          /* it was tried and did not work */
    ST_USAGE = 2,         /* the command line makes no sense */
    ST_INTERRUPTED = 130, /* a signal; the process then ends by that signal */
    ST_PIPE = 141         /* nobody reads our output any more */
};

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

/* ---- options.c ---------------------------------------------------------- */

enum { /* commands, as bits */
    C_RUN = 1, C_CHAT = 2, C_PLAN = 4, C_INSPECT = 8, C_TOKENIZE = 16,
    C_EVAL = 32, C_LOGITS = 64, C_BENCH = 128, C_PROBE = 256, C_PACK = 512
};

enum { MAX_TEXTS = 8 };
struct texts { /* of an option that may be given several times */
    const char *v[MAX_TEXTS];
    int n;
};

/* Values of all options. Strings are borrowed from argv or the environment. */
struct args {
    unsigned command;
    /* the model and how it is run */
    const char *model, *cpu, *io, *policy, *kv;
    struct texts mirrors;
    const char *timeline, *routing, *record_routing;
    uint64_t memory; /* bytes; 0: what the machine allows */
    int threads, ctx, chunk, lookahead;
    int exact;
    /* the answer */
    const char *system, *messages, *chat_template;
    int n_predict, top_k, repeat_window;
    double temp, top_p, min_p, repeat_penalty;
    uint64_t seed;
    int think; /* -1: as the model likes it, 0: off, 1: on */
    int raw, markup, chat, show_prompt;
    /* input and output of the other commands */
    int json, stats, decode, no_probe, only_tensors, only_meta, check, all, replace, force;
    const char *tokens, *qa, *ids, *out;
    int context, limit, n_prompt, repetitions;
    /* words that are not options, at most one */
    const char *word;
    bool help;
    bool given[80]; /* by row of the table: stands on the command line */
};

enum option_kind {
    O_FLAG,   /* no value; stores `low` */
    O_TEXT,
    O_FILE,   /* a path, not empty; low: 1 where - stands for standard output or input */
    O_FILES,  /* struct texts: may be given several times */
    O_CHOICE, /* one of the words in `choices`, separated by '|'; NULL: sluice_choice has them.
               * low: 1 where they are not the same on every machine, so not for the man page */
    O_LOOKAHEAD, /* the same, or a word for one of the constants SLUICE_LOOKAHEAD_* */
    O_INT,    /* int, low..high; high 0: sluice_most knows */
    O_SEED,   /* uint64_t below 2^63, so that every JSON reader gives it back */
    O_SIZE,   /* bytes with a unit, uint64_t */
    O_REAL,   /* double, low..high */
    O_ENV     /* no option at all: an environment variable that is looked at */
};

enum option_group { G_MODEL, G_ANSWER, G_INPUT, G_OUTPUT, G_COUNT };

struct option_row {
    const char *name; /* without the dashes; NULL: O_ENV */
    char letter;      /* 0: none */
    enum option_kind kind;
    enum option_group group;
    unsigned commands;
    size_t offset; /* of the value in struct args */
    const char *value; /* name of the value in help texts */
    const char *preset; /* default, parsed like any value; NULL: none */
    double low, high;
    const char *choices;
    const char *env;
    const char *help;
};

const struct option_row *options_table(size_t *n);
/* Fills *a from presets, environment and argv (options and words after the
 * command's name). Prints a sentence and returns ST_USAGE when it cannot.
 * max_words: 0 or 1. */
int options_parse(struct args *a, unsigned command, const char *command_name, int max_words,
                  int argc, char **argv);
bool options_given(const struct args *a, const char *name);
/* The largest number that an option takes. */
int64_t option_most(const struct option_row *o);
/* The words that an O_CHOICE takes, separated by '|'. */
struct choices { char s[160]; };
struct choices option_choices(const struct option_row *o);
/* The value where none is given, as text; NULL: none. */
const char *option_preset(const struct option_row *o);
/* An environment variable of the table; NULL when unset or empty. */
const char *options_env(const char *name);
/* The one of `words` (n) nearest to `word`, or NULL when none is near. */
const char *nearest_word(const char *word, const char *const *words, size_t n);

/* ---- main.c and help.c --------------------------------------------------- */

struct command {
    const char *name;
    unsigned bit;
    int (*run)(const struct args *a);
    const char *word; /* name of the word it takes; NULL: none */
    const char *summary; /* a few words */
    const char *about;   /* paragraphs for --help; '\n' separates them */
    const char *examples; /* lines */
};
const struct command *commands_table(size_t *n);

void help_overview(void);
void help_command(const struct command *c);
void help_man_options(void);

int cmd_run(const struct args *a);
int cmd_chat(const struct args *a);
int cmd_plan(const struct args *a);
int cmd_inspect(const struct args *a);
int cmd_tokenize(const struct args *a);
int cmd_eval(const struct args *a);
int cmd_logits(const struct args *a);
int cmd_bench(const struct args *a);
int cmd_probe(const struct args *a);
int cmd_pack(const struct args *a);

/* ---- units.c -------------------------------------------------------------- */

/* "64M", "1.5G", ".5G", "12 GiB", "900k", "5GB": K, M, G, T alone or with iB are powers
 * of 1024, with B powers of 1000. False for anything else and above 2^63-1. */
bool parse_size(const char *s, uint64_t *bytes);
bool parse_int(const char *s, int64_t low, int64_t high, int64_t *v);
bool parse_u64(const char *s, uint64_t *v);
bool parse_real(const char *s, double low, double high, double *v);
/* Numbers separated by white space, or one comma each; *ids is to be freed. On false
 * *bad points at what is not an id ("" for an empty list). */
bool parse_ids(const char *s, int32_t **ids, int64_t *n, const char **bad);
/* The same of n_bytes of text with a sentence, which begins with `where`. */
int ids_of_text(const char *where, const char *s, size_t n_bytes, int32_t **ids, int64_t *n);

struct text_buf { /* growable bytes, always terminated once something was added */
    char *p;
    size_t n, cap;
};
/* False: no memory. */
bool buf_add(struct text_buf *b, const char *p, size_t n);
void buf_free(struct text_buf *b);

struct size_text { char s[32]; };
struct size_text show_size(int64_t bytes); /* "61.2 MiB" */
struct size_text show_size_up(int64_t bytes); /* ... rounded up: parsed, at least `bytes` */
double ratio(double a, double b);          /* a / b, 0 when b is 0 */

/* ---- term.c --------------------------------------------------------------- */

/* First of all: descriptors 0 to 2 are open afterwards; false: they cannot be. */
bool term_open_standard(void);
void term_init(void);
/* A model's own text: bytes as they are, but to a terminal what it would obey is
 * escaped. A character may come in parts. */
void out_write(const char *p, size_t n);
/* All else is escaped wherever it goes; newlines and tabs stay. */
void out_printf(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* A name, key or value that may hold anything: one line, padded to `width`. */
void out_name(const char *s, int width);
void out_json(const char *p, size_t n); /* escaped in JSON's way */
void out_style(const char *sequence); /* as it is, where stdout shows colours */
void out_flush(void);
bool out_failed(void);
/* Flushes; the status to exit with when everything else gave `status`. */
int out_finish(int status);
bool out_is_terminal(void);
bool term_closed(int fd); /* of 0 to 2: the caller had closed it */
bool out_dims(void); /* stdout is a terminal that shows colours */

/* "sluice: " and a sentence on stderr; erases the progress line first. What a
 * terminal would obey is escaped, newlines too. */
void complain(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* Lines on stderr without that prefix; only newlines and tabs are not escaped. */
void note(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* Prints the sentence of a failed library call, unless the failure is that we
 * were interrupted or lost our reader; the status to exit with. */
int fail(const sluice_error *e);
/* The same for calls that check what the user asked for: ST_USAGE for SLUICE_E_ARG. */
int fail_asked(const sluice_error *e);
int no_memory(void);

/* For sluice_options.progress: one line on stderr where that is a terminal, and
 * cancels when interrupted. */
int progress_tell(void *user, const char *what, int64_t done, int64_t total);
/* Only cancels when interrupted; for commands that show a progress of their own. */
int progress_quiet(void *user, const char *what, int64_t done, int64_t total);
/* A progress line of the command's own; nothing when stderr is no terminal. */
void progress_line(const char *fmt, ...) PRINTF_LIKE(1, 2);
void progress_end(void);

/* ---- signals.c ------------------------------------------------------------ */

void signals_init(void);
/* A signal came that ends programs; a second one ends this at once. */
bool interrupted(void);
bool terminated(void);      /* one that is not Ctrl-C */
void interrupt_clear(void); /* forgets Ctrl-C, for a conversation that goes on */
/* Ends the process by the signal that came, where that is why a command did not
 * do what it should; else gives `status` back. */
int signals_finish(int status);

/* ---- files.c -------------------------------------------------------------- */

/* Refuses options out of range and files that would destroy another one. */
int check_request(const struct args *a);

/* ---- input.c ------------------------------------------------------------- */

/* From now on what is read, and all of JSON, counts in the budget of this command. */
typedef int input_plan_fn(const struct args *a, sluice_plan *p, sluice_error *e);
void input_begin(const struct args *a, input_plan_fn *plan); /* plan: model_plan */
void input_opened(sluice *s); /* the model is open; NULL: closed again */
int64_t input_held(void);     /* for sluice_options.held_bytes */
/* Room for n more bytes of our own; false: they do not fit. */
bool input_take(size_t n_bytes);
void input_give(size_t n_bytes);
bool input_refused(void); /* something did not fit */
int input_too_much(const char *what); /* complains: ST_FAIL */
void *input_alloc(size_t n_bytes); /* as malloc and free; NULL also where it does not fit */
void input_free(void *p);
/* Bytes of the longest file that can be held, when so many were read already. */
int64_t input_file_most(int64_t n_so_far);
/* Bytes of the longest text that may be read when so many are there already. */
int64_t input_text_most(size_t n_so_far);
int input_text_too_long(const char *what); /* complains: ST_FAIL */
/* All of standard input until end of file; NULL: complained, or interrupted. zeros:
 * bytes of value 0 may be in it. */
char *read_all_stdin(bool zeros, size_t *n_bytes);
/* The next line of standard input, without its newline, into the empty *b; false:
 * the end, a signal, or *refused (complained). */
bool read_stdin_line(struct text_buf *b, bool *refused);

/* ---- json.c ---------------------------------------------------------------- */

/* Prints and releases `j`; a failure to build it (NULL) is out of memory. */
int json_print(json_t *j);
json_t *json_number(double v); /* null when not finite */
/* Bytes as a string; what is not UTF-8 becomes U+FFFD. */
json_t *json_bytes(const char *p, size_t n);
json_t *json_text(const char *s); /* the same of a string; null for NULL */
json_t *json_ids(const int32_t *ids, int64_t n);
json_t *json_stats(const sluice_stats *s);
json_t *json_plan(const sluice_plan *p);
json_t *json_probe(const sluice_probe_result *p);
json_t *json_model(const sluice *s);
/* NULL: complained. */
json_t *json_read(const char *path);
/* An array of token ids of `path`; 0 or complained. *ids is to be freed. */
int json_to_ids(const json_t *array, const char *path, int n_vocab, int32_t **ids, int64_t *n);

/* ---- open.c ------------------------------------------------------------------ */

/* The model file to use: -m, $SLUICE_MODEL, or the built-in one. `path` needs
 * PATH_MAX bytes. */
int cli_model_path(const struct args *a, char *path);
/* Library options from ours; o->model points at `path`. */
int model_options(const struct args *a, char *path, sluice_options *o);

/* The plan of what the command would open, besides what is held; a library status. */
int model_plan(const struct args *a, sluice_plan *p, sluice_error *e);

struct cli_model { /* zero-initialise; cli_model_close is safe at any time */
    sluice *s;
    sluice_session *session;
    sluice_model_info info;
    struct routing *routing; /* being recorded; NULL: not */
};
/* want_context: what --ctx is when not given. */
int cli_model_open(const struct args *a, int want_context, struct cli_model *m);
int cli_model_open_tokenizer(const struct args *a, struct cli_model *m);
/* Closes, and writes what was recorded; the status to go on with when everything
 * before gave `status`. */
int cli_model_close(struct cli_model *m, int status);
/* How many tokens the model knows, without loading it; with cli_model_open's want_context
 * a refusal names what that needs. */
int model_vocabulary(const struct args *a, int want_context, int *n_vocab);
bool is_stdout(const char *path); /* "-" */

/* ---- conversation.c ------------------------------------------------------- */

/* What is asked; its texts are the caller's, but for `json`. */
struct conversation {
    sluice_chat chat;
    sluice_message messages[2];
    char *json; /* of --messages; NULL: there is none */
};
int conversation_check(const struct args *a); /* ST_USAGE: complained */
/* --messages, or --system and `text`. To be freed whatever is returned. */
int conversation_begin(const struct args *a, const char *text, struct conversation *c);
void conversation_free(struct conversation *c);
/* Prints what the model would be given. */
int conversation_show(const struct args *a, const struct cli_model *m,
                      const struct conversation *c);
/* Says when --think or --no-think changes nothing. */
void conversation_tell(const struct args *a, const struct cli_model *m);
/* The conversation's tools as part of what an answer to it looks like. */
void conversation_tools(const struct conversation *c, sluice_answer_options *o);
/* The text of --chat-template, to be freed; NULL without it. */
int conversation_template(const struct args *a, char **text);

/* ---- routing.c ----------------------------------------------------------- */

/* Finds out before the model is loaded whether the file can be written. */
int routing_begin(struct cli_model *m, const char *path);
int routing_record(struct cli_model *m); /* from now on; the model is open */
/* Writes the file, or nothing where no recording began; cli_model_close does it. */
int routing_end(struct cli_model *m);

struct picks {
    sluice_routing r;
    int32_t *ids; /* what r.experts points to */
};
int routing_read(const char *path, struct picks *p); /* routing_free after any outcome */
void routing_free(struct picks *p);

sluice_sampling sampling_from(const struct args *a);
/* The closing line of --stats. */
void stats_line(const sluice_stats *s);

/* ---- answer.c ------------------------------------------------------------------ */

/* One answer in the making. Begin, pass answer_token to sluice_generate, end;
 * free when no longer needed. */
struct answer {
    sluice_answer *parts;
    bool print; /* on stdout, as it is made */
    bool reasons; /* the last part was reasoning */
    char last; /* last byte printed */
    bool no_memory;
    sluice_error error; /* why nothing more was taken; code 0: all was */
    struct text_buf reasoning, content; /* unless it is printed */
    size_t n_taken; /* bytes of them that count as input */
    json_t *calls;  /* of tools, as OpenAI's API has them */
    int64_t n_ids;
};
/* s: NULL: all is text but for what the options name. */
int answer_begin(struct answer *w, const sluice *s, const sluice_answer_options *o, bool print);
int answer_token(void *answer, int32_t id, const char *text, size_t n_bytes);
int answer_end(struct answer *w); /* prints the last newline */
/* All of it; valid until answer_free. */
int answer_message(struct answer *w, sluice_message *m);
/* The id of a message's i-th call, made up where the model gave none; into room[32]. */
const char *answer_call_id(const sluice_tool_call *c, size_t i, char *room);
void answer_free(struct answer *w);
const char *finish_name(sluice_finish f);

/* ---- line.c ---------------------------------------------------------------------- */

/* Chat's input. */
enum line_result { LINE_OK, LINE_CANCELLED, LINE_END, LINE_REFUSED /* told why */ };
/* Where chat keeps what was typed; false: nowhere. */
bool line_history(char *path, size_t size);
void line_init(void);
bool line_editing(void); /* a person sits at a terminal */
/* *line is to be freed; without its newline. */
enum line_result line_read(const char *prompt, char **line);

#endif
