/*
 * Reference outputs for tests: a JSON list of prompts and the float32 logits
 * beside it (see tests/data/README.md); and what there is to choose from, so that
 * a new model, reader, policy or instruction set is tested without being named.
 */
#ifndef GOLDEN_H
#define GOLDEN_H

#include <glob.h>
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "sluice.h"

#define DATA "tests/data/"
#define BUILT_IN "models/pocket-dictionary.gguf"
#define TINY DATA "tiny-f32.gguf"

/* The i-th of the models that belong to the sources, the built-in one first; NULL after
 * the last. The shortest of their vocabularies has 320 ids. */
static inline const char *golden_model(size_t i)
{
    static glob_t found;
    if (!found.gl_pathc && (glob("models/*.gguf", 0, NULL, &found) != 0 ||
                            glob(DATA "*.gguf", GLOB_APPEND, NULL, &found) != 0))
        abort();
    return i < found.gl_pathc ? found.gl_pathv[i] : NULL;
}

/* Those that between them have all forms, and the built-in one and TINY. */
static inline const char *golden_form(size_t i)
{
    static const char *const forms[] = {
        BUILT_IN, TINY, DATA "qwen3next-old-tiny.gguf", DATA "gpt-oss-tiny.gguf",
        DATA "glm-dsa-tiny.gguf", DATA "kimi-linear-tiny.gguf", DATA "deepseek4-tiny.gguf",
        DATA "kimi-k3-tiny.gguf", DATA "step35-tiny.gguf",
        DATA "qwen35moe-factors-tiny.gguf",
        DATA "afmoe-tiny.gguf", DATA "smallthinker-tiny.gguf", DATA "llama-tiny.gguf",
        DATA "gemma4-tiny.gguf", DATA "llama4-tiny.gguf", DATA "phimoe-tiny.gguf"};
    return i < sizeof(forms) / sizeof(forms[0]) ? forms[i] : NULL;
}

/* For tests that run each model often: all, but in checked builds, which are ten times
 * slower, and with clang, as gcc's build has them all, only these. */
static inline const char *golden_model_of_forms(size_t i)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(__clang__)
    return golden_form(i);
#else
    return golden_model(i);
#endif
}

/* The i-th reader that can be asked for by name; NULL after the last. */
static inline const char *golden_reader(int i)
{
    return sluice_choice("io", i + 1); /* 0: auto, which is one of them */
}

struct golden {
    json_t *list;
    float *logits; /* all rows, one after another */
    size_t n_rows;
};

static inline json_t *golden_json(const char *path)
{
    json_error_t e;
    json_t *j = json_load_file(path, 0, &e);
    if (!j) {
        fprintf(stderr, "%s:%d: %s\n", path, e.line, e.text);
        abort();
    }
    return j;
}

static inline void golden_load(struct golden *g, const char *json, const char *f32, size_t n_vocab)
{
    g->list = golden_json(json);
    FILE *f = fopen(f32, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0)
        abort();
    size_t n = (size_t)ftell(f) / sizeof(float);
    rewind(f);
    g->logits = malloc(n * sizeof(float));
    if (!g->logits || fread(g->logits, sizeof(float), n, f) != n)
        abort();
    fclose(f);
    g->n_rows = n / n_vocab;
}

static inline void golden_free(struct golden *g)
{
    json_decref(g->list);
    free(g->logits);
}

/* A JSON list of whole numbers; to be freed. */
static inline int32_t *golden_ints(const json_t *list, int64_t *n)
{
    *n = (int64_t)json_array_size(list);
    int32_t *v = calloc((size_t)*n + 1, sizeof(*v));
    if (!v)
        abort();
    for (int64_t i = 0; i < *n; i++)
        v[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    return v;
}

/* The floor includes this process, which checked builds let grow from test to test. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define GOLDEN_MARGIN(mib, checked_mib) ((uint64_t)(checked_mib) << 20)
enum { GOLDEN_CHECKED = 1 };
#else
#define GOLDEN_MARGIN(mib, checked_mib) ((uint64_t)(mib) << 20)
enum { GOLDEN_CHECKED = 0 };
#endif
/* Where a walk over golden_model that is long begins: checked builds leave out the
 * built-in model, which is large. */
enum { GOLDEN_FIRST = GOLDEN_CHECKED };

/* Options for short sessions in small chunks. */
static inline sluice_options golden_small(const char *model, const char *io)
{
    sluice_options o;
    sluice_options_init(&o);
    o.model = model;
    o.io = io;
    o.threads = 2;
    o.context = 256;
    o.chunk = 16;
    return o;
}

/* A budget of `margin` bytes above the floor of these options. */
static inline uint64_t golden_near_floor(const sluice_options *o, uint64_t margin)
{
    sluice_plan p;
    sluice_error e;
    if (sluice_plan_memory(o, NULL, &p, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    return (uint64_t)p.memory.floor + margin;
}

/* The lines of a plan together. */
static inline int64_t golden_lines(const sluice_plan *p)
{
    const sluice_memory *m = &p->memory;
    return m->process + m->dense + m->state + m->kv + m->scratch + m->cache;
}

static inline sluice *golden_open(const sluice_options *o)
{
    sluice *s = NULL;
    sluice_error e;
    if (sluice_open(o, &s, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    return s;
}

static inline sluice_session *golden_session(sluice *s)
{
    sluice_session *x = NULL;
    sluice_error e;
    if (sluice_session_new(s, &x, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    return x;
}

/* A sluice_logits_fn: FNV-1a over the bytes of all logits into the uint64_t *user,
 * which begins as GOLDEN_HASH. Any differing bit shows. */
#define GOLDEN_HASH 0xcbf29ce484222325u
static inline int golden_hash(void *user, int64_t position, const float *logits, int n_vocab)
{
    uint64_t *h = user;
    const unsigned char *p = (const unsigned char *)logits;
    (void)position;
    for (size_t i = 0; i < (size_t)n_vocab * sizeof(float); i++)
        *h = (*h ^ p[i]) * 0x100000001b3u;
    return 0;
}

#endif
