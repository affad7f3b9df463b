/*
 * Fuzzing of what describes a packed file. An input is a GGUF file; whatever
 * is accepted has every matrix of every expert inside its packed tensor.
 */
#include "model/model_internal.h"
#include "support/gguf_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* NULL, or the promise that is broken. */
static const char *breach(const struct packed *p)
{
    for (int i = 0; i < p->n; i++) {
        const struct packed_part *x = &p->part[i];
        const struct gguf_tensor *in = x->in;
        int64_t bytes = x->t.bytes / x->t.ne[2], at = x->t.offset - in->offset;

        if (at < 0 || bytes < 1 || x->t.bytes % x->t.ne[2] || at + bytes > in->ne[0])
            return "a matrix leaves its expert";
        if (x->t.ne[2] != in->ne[1] || in->bytes != in->ne[0] * in->ne[1])
            return "another number of experts";
        if (packed_find(p, x->name) != x || !packed_holds(p, in))
            return "a matrix is not found";
        if (i && x[-1].in == in && x[-1].t.offset + x[-1].t.bytes / x[-1].t.ne[2] > x->t.offset)
            return "matrices overlap";
    }
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g;
    struct packed p = {0};
    struct err e = {0};
    const char *wrong = NULL;

    if (gguf_open_blobs(&(struct gguf_blob){"m", data, size}, 1, &g, &e) != OK)
        return 0;
    int status = packed_read(g, &p, &e);
    if (status == OK)
        wrong = breach(&p);
    else if (p.part || p.n || e.code != status || strncmp(e.text, "m", 1) != 0)
        wrong = "failed without a proper sentence";
    if (wrong) {
        fprintf(stderr, "broken promise: %s (%d %s)\n", wrong, status, e.text);
        abort();
    }
    packed_free(&p);
    gguf_close(g);
    return 0;
}
