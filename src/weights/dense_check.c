/* The invariants of the dense weights' places and buffers. */
#include "weights/weights_internal.h"

static const char *check_buffer(const struct dense *d, const struct dense_buffer *b)
{
    HOLDS(b->item >= -1 && b->item < MAX(d->n_items, 1),
          "dense: a buffer holds an item of the list, or none");
    HOLDS(b->n_reads >= 0 && b->n_reads <= b->cap_reads,
          "dense: a buffer has no more reads than room for them");
    HOLDS(b->item >= 0 || b->n_reads == 0, "dense: only a buffer with an item is read into");
    HOLDS(!b->reads || b->at >= d->layout.stay_bytes,
          "dense: buffers lie behind the weights that stay");
    return NULL;
}

static const char *check_places(const struct dense *d)
{
    for (int64_t i = 0; i < d->n_weights; i++) {
        const struct dense_weight *w = &d->weights[i];
        HOLDS(i == 0 || !d->runs || w[-1].section <= w->section,
              "dense: weights are sorted by section once all are there");
        const struct dense_section *in = &d->sections[w->section];
        HOLDS(!in->stays || !in->arrived || *w->at < d->layout.stay_bytes,
              "dense: a weight that stays has its place among those that stay");
    }
    return NULL;
}

const char *dense_check(const struct dense *d)
{
    const struct dense_buffer *a = &d->buffers[0], *b = &d->buffers[1];
    HOLDS(a->item < 0 || a->item != b->item, "dense: no item is in both buffers");
    HOLDS(d->layout.stay_bytes <= d->layout.bytes, "dense: what stays is part of the memory");
    for (int i = 0; i < 2; i++) {
        const char *broken = check_buffer(d, &d->buffers[i]);
        if (broken)
            return broken;
    }
    return check_places(d);
}
