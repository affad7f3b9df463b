/*
 * Which model file is meant, how it is opened, and the closing line of numbers.
 */
#include "cli.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define BUILT_IN "pocket-dictionary.gguf"

/* The folder of the running program, without a trailing slash. */
static bool program_folder(char folder[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", folder, PATH_MAX - 1);
    if (n <= 0) { /* /proc is hidden: as it was started */
        const char *started = (const char *)getauxval(AT_EXECFN);
        n = started ? snprintf(folder, PATH_MAX, "%s", started) : 0;
        if (n <= 0 || n >= PATH_MAX)
            return false;
    }
    folder[n] = '\0';
    char *slash = strrchr(folder, '/');
    if (!slash)
        return false;
    *slash = '\0';
    return true;
}

/* The word that the command takes, where that is a model. */
static const char *model_word(const struct args *a)
{
    return a->command & (C_PLAN | C_INSPECT | C_PROBE) ? a->word : NULL;
}

int cli_model_path(const struct args *a, char *path)
{
    /* as installed, in the source tree (build/sluice), and copied together */
    static const char *const places[] = {"../share/sluice/models/" BUILT_IN, "../models/" BUILT_IN,
                                         BUILT_IN};
    char folder[PATH_MAX] = ".";
    const char *named = model_word(a) ? model_word(a) : a->model;
    if (model_word(a) && options_given(a, "model")) {
        complain("two models are named, \"%s\" and \"%s\"", a->model, a->word);
        return ST_USAGE;
    }
    if (named) {
        if (strlen(named) >= PATH_MAX) {
            complain("the model's path is longer than a path can be (%d bytes)", PATH_MAX);
            return ST_USAGE;
        }
        strcpy(path, named);
        return ST_OK;
    }
    if (program_folder(folder))
        for (size_t i = 0; i < ARRAY_LEN(places); i++) {
            int n = snprintf(path, PATH_MAX, "%s/%s", folder, places[i]);
            if (n < PATH_MAX && access(path, F_OK) == 0)
                return ST_OK;
        }
    complain("no model is named (-m MODEL or SLUICE_MODEL) and the built-in one was found neither "
             "at %s/%s nor at %s/%s nor at %s/%s",
             folder, places[0], folder, places[1], folder, places[2]);
    return ST_FAIL;
}

/* Where a command opens or plans twice, it is told once. */
static void tell_warning(void *user, const char *text)
{
    static char last[sizeof(((sluice_error *)0)->text)];
    (void)user;
    if (strcmp(text, last) == 0)
        return;
    snprintf(last, sizeof(last), "%s", text);
    complain("warning: %s", text);
}

int model_options(const struct args *a, char *path, sluice_options *o)
{
    int status = cli_model_path(a, path);
    if (status != ST_OK)
        return status;
    sluice_options_init(o);
    o->model = path;
    o->memory_bytes = a->memory;
    o->held_bytes = input_held();
    o->threads = a->threads;
    o->context = a->ctx;
    o->chunk = a->chunk;
    o->cpu = a->cpu;
    o->io = a->io;
    o->policy = a->policy;
    o->lookahead = a->lookahead;
    o->exact = a->exact;
    o->kv_f32 = a->kv && strcmp(a->kv, "f32") == 0;
    o->progress = progress_tell;
    o->mirrors = a->mirrors.v;
    o->n_mirrors = a->mirrors.n;
    o->warning = tell_warning;
    o->timeline = a->timeline;
    return ST_OK;
}

int model_plan(const struct args *a, sluice_plan *p, sluice_error *e)
{
    char path[PATH_MAX];
    sluice_options o;
    int status = model_options(a, path, &o);
    if (status != ST_OK)
        return SLUICE_E_STATE; /* told */
    o.tokenizer_only = a->command == C_TOKENIZE;
    o.held_bytes = 0;
    o.warning = NULL;
    return sluice_plan_memory(&o, NULL, p, e);
}

static int open_with(const struct args *a, sluice_options *o, struct cli_model *m)
{
    sluice_error e = {0};
    char *chat_template;
    int status = conversation_template(a, &chat_template);
    if (status != ST_OK)
        return status;
    o->chat_template = chat_template;
    int rc = sluice_open(o, &m->s, &e);
    free(chat_template);
    progress_end();
    if (rc < 0)
        return fail_asked(&e);
    sluice_info(m->s, &m->info);
    input_opened(m->s);
    if (!o->tokenizer_only && sluice_session_new(m->s, &m->session, &e) < 0)
        return fail(&e);
    return ST_OK;
}

int cli_model_open(const struct args *a, int want_context, struct cli_model *m)
{
    char path[PATH_MAX];
    sluice_options o;
    int status = model_options(a, path, &o);
    if (status != ST_OK)
        return status;
    if (o.context == 0)
        o.context = want_context;
    if (a->record_routing)
        status = routing_begin(m, a->record_routing);
    if (status == ST_OK)
        status = open_with(a, &o, m);
    return status == ST_OK && m->routing ? routing_record(m) : status;
}

int cli_model_open_tokenizer(const struct args *a, struct cli_model *m)
{
    char path[PATH_MAX];
    sluice_options o;
    int status = model_options(a, path, &o);
    if (status != ST_OK)
        return status;
    o.tokenizer_only = true;
    return open_with(a, &o, m);
}

int model_vocabulary(const struct args *a, int want_context, int *n_vocab)
{
    char path[PATH_MAX];
    sluice_options o;
    sluice_plan p;
    sluice_model_info info;
    sluice_error e = {0}, why = {0};
    sluice *s;
    int status = model_options(a, path, &o);
    if (status != ST_OK)
        return status;
    if (o.context == 0)
        o.context = want_context;
    o.tokenizer_only = true;
    int rc = sluice_open(&o, &s, &e);
    progress_end();
    o.tokenizer_only = false; /* the floor that is told is not the tokeniser's */
    if (rc == SLUICE_E_BUDGET && sluice_plan_memory(&o, NULL, &p, &why) < 0)
        e = why;
    if (rc < 0)
        return fail_asked(&e);
    sluice_info(s, &info);
    sluice_close(s);
    *n_vocab = info.n_vocab;
    return ST_OK;
}

int cli_model_close(struct cli_model *m, int status)
{
    sluice_error e = {0};
    int wrote = routing_end(m);
    if (m->s && sluice_end_timeline(m->s, &e) < 0)
        wrote = fail(&e);
    if (m->session)
        sluice_session_free(m->session);
    input_opened(NULL);
    sluice_close(m->s);
    *m = (struct cli_model){0};
    return status == ST_OK ? wrote : status;
}

bool is_stdout(const char *path)
{
    return path && strcmp(path, "-") == 0;
}

static uint64_t drawn_seed(void)
{
    uint64_t seed;
    struct timespec t;
    if (getrandom(&seed, sizeof(seed), 0) == (ssize_t)sizeof(seed))
        return seed >> 11; /* 53 bits: exact in every JSON reader */
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000003 + (uint64_t)t.tv_nsec;
}

sluice_sampling sampling_from(const struct args *a)
{
    sluice_sampling p;
    sluice_sampling_init(&p);
    p.temperature = (float)a->temp;
    p.top_k = a->top_k;
    p.top_p = (float)a->top_p;
    p.min_p = (float)a->min_p;
    p.repeat_penalty = (float)a->repeat_penalty;
    p.repeat_window = a->repeat_window;
    if (options_given(a, "seed"))
        p.seed = a->seed;
    else if (a->temp > 0)
        p.seed = drawn_seed();
    return p;
}

void stats_line(const sluice_stats *s)
{
    char experts[96] = "", hits[32] = "-";
    if (s->experts_requested)
        snprintf(hits, sizeof(hits), "%.1f %%",
                 100 * (double)s->expert_hits / (double)s->experts_requested);
    if (s->n_experts_native)
        snprintf(experts, sizeof(experts), " | cache hit rate %s | experts %d of %d", hits,
                 s->n_experts_used, s->n_experts_native);
    note("prompt %lld tokens, %.1f tok/s | decode %lld tokens, %.1f tok/s | %.4f GB read per token"
         "%s | peak memory %s of %s",
         (long long)s->prompt_tokens, ratio((double)s->prompt_tokens * 1e9, (double)s->prompt_ns),
         (long long)s->decode_tokens, ratio((double)s->decode_tokens * 1e9, (double)s->decode_ns),
         ratio((double)s->decode_read_bytes / 1e9, (double)s->decode_tokens), experts,
         show_size(s->memory_peak).s, show_size(s->memory_budget).s);
}
