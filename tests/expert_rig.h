/*
 * expert_rig: an expert cache over two real files, for test_expert and
 * test_expert_guess. Each byte of the files is a function of its place, so a wrong
 * expert, part or offset shows. A program includes it once.
 */
#ifndef EXPERT_RIG_H
#define EXPERT_RIG_H

#include "expert/expert.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#define N_LAYERS 6
#define N_USED 4
#define MAX_LEASES 64

static char paths[2][32] = {"/var/tmp/sluice_a_XXXXXX", "/var/tmp/sluice_b_XXXXXX"};
static int64_t file_bytes[2];
static struct expert_layer layers[N_LAYERS];

struct env {
    enum ioq_kind kind;
    const char *policy;
    struct ioq *q;
    struct expert_cache *c;
    struct expert_lease lease[MAX_LEASES];
};

static inline uint8_t byte_at(int file, int64_t i)
{
    return (uint8_t)((uint64_t)(2 * i + file) * 0x9E3779B97F4A7C15u >> 56);
}

static uint32_t rng_state = 1;
static inline uint32_t rng(uint32_t n)
{
    rng_state = rng_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)rng_state * n >> 32);
}

/* ---- the model -------------------------------------------------------- */

static inline int64_t place(int file, int64_t bytes, int odd)
{
    int64_t at = file_bytes[file] + odd;
    file_bytes[file] = at + bytes;
    return at;
}

/* Three matrices one after another, each with all experts, as GGUF has them. */
static inline void split_layer(struct expert_layer *l, int file, int n, size_t gate, size_t down)
{
    *l = (struct expert_layer){.n_experts = n, .n_parts = 3};
    for (int p = 0; p < 3; p++) {
        size_t bytes = p == 2 ? down : gate;
        l->part[p] = (struct expert_part){file, place(file, (int64_t)bytes * n, 32 * (p + 1)),
                                          (int64_t)bytes, bytes, false};
    }
}

/* The parts of an expert side by side. */
static inline void packed_layer(struct expert_layer *l, int file, int n, int n_parts, size_t bytes,
                         int gap)
{
    int64_t stride = (int64_t)bytes * n_parts + gap;
    int64_t at = place(file, stride * n, 7);
    *l = (struct expert_layer){.n_experts = n, .n_parts = n_parts};
    for (int p = 0; p < n_parts; p++)
        l->part[p] = (struct expert_part){file, at + (int64_t)bytes * p, stride, bytes, false};
}

static inline int make_model(void)
{
    file_bytes[0] = file_bytes[1] = 0;
    split_layer(&layers[0], 0, 16, 6000, 7000);
    split_layer(&layers[1], 1, 16, 6000, 7000);
    layers[2] = (struct expert_layer){0};           /* a dense layer */
    packed_layer(&layers[3], 0, 12, 3, 14000, 100); /* another size class */
    packed_layer(&layers[4], 1, 8, 1, 42100, 0);    /* within 3 % of layer 3 */
    packed_layer(&layers[5], 1, 16, 2, 4096, 0);
    for (int f = 0; f < 2; f++) {
        int fd = mkstemp(paths[f]);
        FILE *out = fd < 0 ? NULL : fdopen(fd, "wb");
        if (!out)
            return -1;
        for (int64_t i = 0; i < file_bytes[f]; i++)
            putc(byte_at(f, i), out);
        if (fclose(out) != 0)
            return -1;
    }
    return 0;
}

static inline struct expert_config config(struct env *v, size_t cache_bytes)
{
    return (struct expert_config){.layers = layers, .n_layers = N_LAYERS, .n_used = N_USED,
                                  .cache_bytes = cache_bytes, .policy = v->policy, .ioq = v->q};
}

static inline void open_cache(struct env *v, size_t cache_bytes)
{
    struct err e = {0};
    expert_close(v->c);
    v->c = NULL;
    struct expert_config cfg = config(v, cache_bytes);
    if (expert_open(&cfg, &v->c, &e) != OK)
        fail_msg("%s", e.text);
}

static inline size_t min_bytes(struct env *v)
{
    struct expert_config cfg = config(v, 0);
    return expert_min_bytes(&cfg);
}

static inline size_t full_bytes(struct env *v)
{
    struct expert_config cfg = config(v, 0);
    return expert_full_bytes(&cfg);
}

static inline int setup(void **state)
{
    struct env *v = *state;
    struct err e = {0};
    v->q = NULL;
    v->c = NULL;
    if (ioq_open(&(struct ioq_config){.kind = v->kind}, &v->q, &e) != OK)
        fail_msg("%s", e.text);
    for (int f = 0; f < 2; f++)
        assert_int_equal(ioq_add_file(v->q, paths[f], &e), f);
    return 0;
}

static inline int teardown(void **state)
{
    struct env *v = *state;
    expert_close(v->c);
    ioq_close(v->q);
    return 0;
}

/* ---- steps ------------------------------------------------------------ */

static inline void request(struct env *v, int layer, const int32_t *ids, int n,
                           struct expert_lease *l)
{
    struct err e = {0};
    if (expert_request(v->c, layer, ids, n, l, &e) != OK)
        fail_msg("%s", e.text);
}

static inline void assert_bytes(struct env *v, const struct expert_lease *l)
{
    for (int p = 0; p < layers[l->layer].n_parts; p++) {
        const struct expert_part *part = &layers[l->layer].part[p];
        const uint8_t *data = expert_data(v->c, l, p);
        int64_t at = part->offset + l->expert * part->stride;
        assert_true(expert_part_ready(v->c, l, p));
        for (size_t i = 0; i < part->bytes; i++)
            if (data[i] != byte_at(part->file, at + (int64_t)i))
                fail_msg("layer %d expert %d part %d: byte %zu is wrong", l->layer, l->expert, p,
                         i);
    }
}

static inline void wait_all(struct env *v, const struct expert_lease *l, int n)
{
    struct err e = {0};
    for (int i = 0; i < n; i++) {
        if (expert_wait(v->c, &l[i], &e) != OK)
            fail_msg("%s", e.text);
        assert_true(expert_ready(v->c, &l[i]));
        assert_bytes(v, &l[i]);
    }
}

static inline void release_all(struct env *v, struct expert_lease *l, int n)
{
    for (int i = 0; i < n; i++)
        expert_release(v->c, &l[i]);
}

static inline int one_layer(struct env *v, int layer, const int32_t *ids, int n)
{
    request(v, layer, ids, n, v->lease);
    wait_all(v, v->lease, n);
    int hits = 0;
    for (int i = 0; i < n; i++)
        hits += v->lease[i].hit;
    release_all(v, v->lease, n);
    return hits;
}

/* n distinct experts of the layer, low ones more often. */
static inline void pick(int layer, int32_t *ids, int n)
{
    for (int i = 0; i < n; i++) {
        bool again;
        do {
            uint32_t all = (uint32_t)layers[layer].n_experts;
            ids[i] = (int32_t)(rng(2) ? rng(all) : rng(all / 2));
            again = false;
            for (int j = 0; j < i; j++)
                again |= ids[j] == ids[i];
        } while (again);
    }
}

static inline void random_token(struct env *v)
{
    int32_t ids[N_USED];
    for (int l = 0; l < N_LAYERS; l++)
        if (layers[l].n_experts) {
            pick(l, ids, N_USED);
            one_layer(v, l, ids, N_USED);
        }
    expert_tick(v->c);
}

static inline struct expert_stats stats(struct env *v)
{
    struct expert_stats s;
    expert_get_stats(v->c, &s);
    return s;
}

static inline void set_fault(struct env *v, struct ioq_fault f)
{
    if (f.end == 0)
        f.end = INT64_MAX;
    ioq_set_fault(v->q, &f);
}

static inline void slow(struct env *v, int ms)
{
    set_fault(v, (struct ioq_fault){.kind = ms ? IOQ_FAULT_SLOW : IOQ_FAULT_NONE, .file = -1,
                                    .count = -1, .delay_ms = ms});
}

/* Slots of the class that layers 3 and 4 share: opened with 6. */
static inline void fill_six(struct env *v)
{
    open_cache(v, min_bytes(v) + min_bytes(v) / 2);
    one_layer(v, 4, (int32_t[]){0, 1, 2}, 3);
    one_layer(v, 3, (int32_t[]){0, 1, 2}, 3);
    assert_int_equal(stats(v).n_evicted, 0);
    assert_int_equal(expert_free_slots(v->c, 3), 6);
}

static inline int n_kept(struct env *v, int layer, const int32_t *ids, int n,
                         struct expert_lease *l)
{
    int kept = 0;
    for (int i = 0; i < n; i++)
        kept += expert_keep(v->c, layer, ids[i], &l[i]);
    return kept;
}

/* ---- every back end and policy ---------------------------------------- */

static inline bool have(enum ioq_kind kind)
{
    struct ioq *q = NULL;
    struct err e = {0};
    int rc = ioq_open(&(struct ioq_config){.kind = kind}, &q, &e);
    ioq_close(q);
    if (rc != OK)
        printf("SKIP back end %d: %s\n", (int)kind, e.text);
    return rc == OK;
}

/* Runs `tests`, which take the address of `env`, with each; the status of a program. */
static inline int run_all(struct env *env, int (*tests)(const char *name))
{
    int failed = 0;
    char name[64];
    if (make_model() != 0) {
        fprintf(stderr, "cannot write %s\n", paths[0]);
        return 1;
    }
    for (int kind = IOQ_AUTO + 1; kind < IOQ_N_KINDS; kind++)
        for (int i = 0; expert_policies[i] && have((enum ioq_kind)kind); i++) {
            *env = (struct env){.kind = (enum ioq_kind)kind, .policy = expert_policies[i]->name};
            snprintf(name, sizeof name, "back end %d, policy %s", kind, env->policy);
            failed += tests(name);
        }
    unlink(paths[0]);
    unlink(paths[1]);
    return failed != 0;
}

#endif
