/*
 * Files of Mixtral from before 2024 have one tensor for each matrix of each expert,
 * blk.N.ffn_gate.0.weight and so on. Where those of a layer are alike and equally far
 * apart, as converters wrote them, they are one tensor blk.N.ffn_gate_exps.weight
 * with room between its matrices; the others then mean nothing of their own.
 */
#include "weights/weights_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kinds[] = {"gate", "up", "down"};
enum { KINDS = 3 };

/* The matrix of one expert; NULL: there is none. */
static const struct tensor *matrix(const struct weights *w, int layer, int kind, int64_t expert)
{
    char name[64];
    snprintf(name, sizeof(name), "blk.%d.ffn_%s.%" PRId64 ".weight", layer, kinds[kind], expert);
    return weights_find(w, name);
}

static bool alike(const struct tensor *a, const struct tensor *b)
{
    return a->type == b->type && a->file == b->file &&
           memcmp(a->ne, b->ne, sizeof(a->ne)) == 0;
}

/* The tensor that the matrices of a layer are together, and whether there are any. */
static int stack(const struct weights *w, int layer, int kind, char name[64], struct tensor *out,
                 struct err *e)
{
    const struct tensor *first = matrix(w, layer, kind, 0), *t;
    int64_t n = 1, stride = 0;
    if (!first)
        return 0;
    for (; (t = matrix(w, layer, kind, n)) != NULL; n++) {
        if (n == 1)
            stride = t->offset - first->offset;
        if (!alike(first, t) || t->offset != first->offset + n * stride)
            return err_set(e, E_UNSUPPORTED,
                           "%s: tensor '%s' is of another type, shape or distance than those of "
                           "the experts before it; convert the original again, which gives one "
                           "tensor for all experts of a layer",
                           weights_path(w, t->file), t->name);
    }
    if (first->ne[2] != 1 || n < 2 || stride < first->bytes)
        return err_set(e, E_UNSUPPORTED,
                       "%s: tensor '%s' begins a list of %" PRId64 " experts, which are not "
                       "matrices one behind the other; convert the original again",
                       weights_path(w, first->file), first->name, n);
    snprintf(name, 64, "blk.%d.ffn_%s_exps.weight", layer, kinds[kind]);
    *out = *first;
    out->name = name;
    out->n_dims = 3;
    out->ne[2] = n;
    out->stride = stride;
    out->bytes = n * first->bytes;
    out->inside = first;
    return 1;
}

/* Puts the n tensors of `more`, whose names are `text`, behind those of the files. */
static int append(struct weights *w, const struct tensor *more, int64_t n, char (*text)[64],
                  struct err *e)
{
    const int64_t own = w->n_tensors;
    struct tensor *all = calloc((size_t)(own + n), sizeof(*all));
    if (!all)
        return err_set(e, E_NOMEM, "model: no memory for %" PRId64 " tensors", own + n);
    memcpy(all, w->tensors, (size_t)own * sizeof(*all));
    memcpy(all + own, more, (size_t)n * sizeof(*all));
    for (int64_t i = own; i < own + n; i++) {
        const struct tensor *first = all[i].inside;
        for (int64_t k = 0; k < all[i].ne[2]; k++) {
            int layer = tensor_block(first->name), kind = (int)((i - own) % KINDS);
            all[matrix(w, layer, kind, k) - w->tensors].packs = true;
        }
        all[i].inside = &all[first - w->tensors];
    }
    free(w->tensors);
    w->tensors = all;
    w->n_tensors = own + n;
    w->part_names = text;
    return weights_index(w, e);
}

int weights_stack(struct weights *w, struct err *e)
{
    int n_layers = 0, rc = OK;
    int64_t n = 0;
    if (w->n_tensors > w->n_own)
        return OK;
    for (int64_t i = 0; i < w->n_own; i++)
        n_layers = MAX(n_layers, tensor_block(w->tensors[i].name) + 1);
    const size_t most = (size_t)MAX(n_layers, 1) * KINDS;
    struct tensor *more = calloc(most, sizeof(*more));
    char(*text)[64] = calloc(most, sizeof(*text));
    if (!more || !text)
        rc = err_set(e, E_NOMEM, "model: no memory for %d layers", n_layers);
    for (int layer = 0; layer < n_layers && rc >= 0; layer++)
        for (int kind = 0; kind < KINDS && rc >= 0; kind++) {
            rc = stack(w, layer, kind, text[n], &more[n], e);
            n += rc > 0;
        }
    if (rc >= 0 && n % KINDS)
        rc = err_set(e, E_FORMAT, "%s: some layers have gates, ups or downs of experts and not all "
                     "three; the file is incomplete", weights_path(w, 0));
    rc = rc < 0 || n == 0 ? MIN(rc, OK) : append(w, more, n, text, e);
    if (rc < 0 || n == 0)
        free(text);
    free(more);
    return rc;
}
