/*
 * mkmodel, shared by its files.
 *
 *   ../mkmodel.c  options
 *   model.c       the tensors of a model and its metadata
 *   router.c      router weights with a wanted skew
 *   write.c       weights and file
 *
 * It is a program for developers: it prints, and exits without memory.
 */
#ifndef MKMODEL_H
#define MKMODEL_H

#include "support/synth.h"

#define MK_ALIGN 32

enum arch { QWEN35MOE, QWEN3MOE };

struct config {
    enum arch arch;
    int64_t layers, hidden, heads, kv_heads, head_dim;
    int64_t experts, used, width, shared, vocab;
    int64_t k_heads, v_heads, linear_dim, interval; /* qwen35moe */
    int64_t context, seed;
    double skew, rope_base;
    enum dtype type, dense, down, output;
    bool mtp, fused, tied;
};

/* What a tensor is filled with: random numbers; embeddings, output, a router, ones,
 * the decay and the time step of linear layers. */
enum fill { F_MATRIX, F_EMBED, F_OUTPUT, F_ROUTER, F_ONES, F_DECAY, F_STEP };

struct tensor {
    char name[64];
    enum dtype type;
    enum fill fill;
    int n_dims, layer;
    uint64_t ne[3];
    double std;
    uint64_t bytes;
};

struct model {
    struct config c;
    struct tensor *t;
    size_t n, cap;
    /* The first n_common elements of every embedding row, decoded and coded. */
    int64_t n_common;
    float *common;
    uint8_t *common_bytes;
};

/* Prints the sentence; returns -1. */
int mk_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Returns p, which must not be NULL. */
void *mk_need(void *p);

/* ---- model.c ---- */

/* Fills in the list of tensors. */
void mk_tensors(struct model *m);
/* Everything before the data; -1 after printing why not. */
int mk_header(struct gb *b, const struct model *m);

/* ---- router.c ---- */

/* Makes the shared start of the embedding rows; needs the list of tensors. */
void mk_common(struct model *m);
/* The (experts, hidden) weights of router t. */
void mk_router(const struct model *m, const struct tensor *t, float *w, uint64_t *stream);

/* ---- write.c ---- */

/* Writes the whole file, or leaves none and prints why; 0 or -1. */
int mk_write(struct model *m, const char *path);

#endif
