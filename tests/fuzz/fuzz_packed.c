/*
 * Fuzzing of what describes a packed file. An input is a GGUF file; whatever
 * is accepted has every matrix of every expert inside its packed tensor.
 */
#include "support/gguf_build.h"
#include "weights/weights_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* NULL, or the promise that is broken. */
static const char *breach(const struct weights *w)
{
    for (int64_t i = w->n_own; i < w->n_tensors; i++) {
        const struct tensor *x = &w->tensors[i], *in = x->inside;
        int64_t bytes = x->bytes / x->ne[2], at = x->offset - in->offset;

        if (in < w->tensors || in >= w->tensors + w->n_own || !in->packs)
            return "a matrix lies in no packed tensor";
        if (at < 0 || bytes < 1 || x->bytes % x->ne[2] || x->stride != in->ne[0] ||
            at + bytes > in->ne[0])
            return "a matrix leaves its expert";
        if (x->ne[2] != in->ne[1] || in->bytes != in->ne[0] * in->ne[1])
            return "another number of experts";
        if (weights_find(w, x->name) != x)
            return "a matrix is not found";
        if (i > w->n_own && x[-1].inside == in &&
            x[-1].offset + x[-1].bytes / x[-1].ne[2] > x->offset)
            return "matrices overlap";
    }
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g;
    struct weights *w;
    struct err e = {0};
    const char *wrong = NULL;

    if (gguf_open_blobs(&(struct gguf_blob){"m", data, size}, 1, &g, &e) != OK)
        return 0;
    if (weights_of_gguf(g, &w, &e) != OK)
        abort();
    int status = weights_unpack(w, &e);
    if (status == OK)
        wrong = breach(w);
    else if (weights_are_packed(w) || e.code != status || strncmp(e.text, "m", 1) != 0)
        wrong = "failed without a proper sentence";
    if (wrong) {
        fprintf(stderr, "broken promise: %s (%d %s)\n", wrong, status, e.text);
        abort();
    }
    weights_close(w);
    return 0;
}
