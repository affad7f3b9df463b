/*
 * How long one decoded token computes when nothing has to be read: its
 * operations, in their order and shapes, over memory that holds no weights.
 * (Zeros are as fast as weights.) The memory is passed through in turn, so
 * that it comes from beyond the caches as in a real run.
 */
#include "model/model_internal.h"

#include <stdlib.h>
#include <string.h>

enum { LEAST_TOKENS = 5, MOST_TOKENS = 101, LEAST_NS = 600 * 1000 * 1000 };

struct rehearsal {
    struct model *m;
    uint8_t *memory;
    size_t bytes, at;
    model_progress_fn *progress;
    void *user;
};

/* The next stretch of memory. */
static const void *next(struct rehearsal *r, size_t bytes)
{
    bytes = align_up(bytes, IOQ_ALIGN);
    if (r->at + bytes > r->bytes)
        r->at = 0;
    const void *p = r->memory + r->at;
    r->at += bytes;
    return p;
}

static size_t mat_bytes(const struct dev_mat *w)
{
    return (size_t)w->n_out * dtype_row_bytes(w->type, w->n_in);
}

static void place_layer(struct rehearsal *r, int il)
{
    const struct dense_segment *s = &r->m->dense.segments[il];
    for (int64_t i = s->first_weight; i < s->first_weight + s->n_weights; i++)
        *r->m->weights[i].address = next(r, (size_t)r->m->weights[i].t->bytes);
}

static void rehearse_experts(struct rehearsal *r, const struct layer *l)
{
    struct model *m = r->m;
    struct dev_expert batch[DEV_MAX_USED + 1];
    struct dev_moe b = moe_of(m, l, 1);
    int n = (int)b.n_used;
    device_moe_begin(m->dev, &b);
    for (int i = 0; i < n; i++) {
        batch[i] = (struct dev_expert){.gate = l->gate, .up = l->up, .down = l->down, .n_rows = 1, .slot = i};
        batch[i].gate.data = next(r, mat_bytes(&l->gate));
        batch[i].up.data = next(r, mat_bytes(&l->up));
        batch[i].down.data = next(r, mat_bytes(&l->down));
    }
    if (b.shared_gate)
        batch[n++] = (struct dev_expert){.gate = l->shared_gate_mat, .up = l->shared_up,
                                         .down = l->shared_down, .n_rows = 1, .shared = true};
    device_moe_experts(m->dev, &b, batch, n);
    device_moe_end(m->dev, &b);
}

/* In parts that fit the memory; `logits` has room for one of them. */
static void rehearse_output(struct rehearsal *r, float *logits)
{
    struct model *m = r->m;
    const int64_t most = (int64_t)(r->bytes / 2 / dtype_row_bytes(m->output.type, m->output.n_in));
    for (int64_t row = 0; row < m->output.n_out; row += most) {
        struct dev_mat w = m->output;
        w.n_out = MIN(most, m->output.n_out - row);
        w.data = next(r, mat_bytes(&w));
        forward_logits(m, &w, 0, 1, logits);
    }
}

static bool fits(const struct model *m, size_t bytes)
{
    size_t largest = 0;
    for (int64_t i = 0; i < m->n_weights; i++)
        if (m->weights[i].segment < m->c.n_layers)
            largest = MAX(largest, (size_t)m->weights[i].t->bytes);
    return largest + IOQ_ALIGN <= bytes && m->c.n_used <= DEV_MAX_USED &&
           (size_t)m->shape.largest_expert_bytes + IOQ_ALIGN <= bytes;
}

/* False: it was cancelled. */
static bool rehearse_token(struct rehearsal *r, struct model_state *s, float *logits, int64_t *token_ns,
                           int64_t *output_ns)
{
    struct model *m = r->m;
    int64_t t0 = os_clock_ns();
    for (int il = 0; il < m->c.n_layers; il++) {
        if (r->progress && r->progress(r->user, il, m->c.n_layers))
            return false;
        place_layer(r, il);
        mixer_block(m, s, &m->layers[il], 1);
        rehearse_experts(r, &m->layers[il]);
    }
    int64_t t1 = os_clock_ns();
    rehearse_output(r, logits);
    int64_t t2 = os_clock_ns();
    *token_ns = t2 - t0;
    *output_ns = t2 - t1;
    return true;
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Medians: what a run will see, not the best that the machine can do. */
static int rehearse_tokens(struct rehearsal *r, struct model_state *s, float *logits, struct model_pace *p,
                           struct err *e)
{
    int64_t token[MOST_TOKENS], output[MOST_TOKENS], begin = os_clock_ns();
    int n = 0;
    while (n < LEAST_TOKENS || (n < MOST_TOKENS && os_clock_ns() - begin < LEAST_NS)) {
        if (!rehearse_token(r, s, logits, &token[n], &output[n]))
            return err_set(e, E_CANCELLED, "measuring was cancelled");
        n++;
    }
    qsort(token, (size_t)n, sizeof(token[0]), by_size);
    qsort(output, (size_t)n, sizeof(output[0]), by_size);
    *p = (struct model_pace){token[n / 2], output[n / 2]};
    return OK;
}

int model_rehearse(struct model *m, const struct model_options *o, struct device *d, void *memory,
                   size_t bytes, model_progress_fn *progress, void *user, struct model_pace *pace,
                   struct err *e)
{
    struct rehearsal r = {.m = m, .memory = memory, .bytes = bytes, .progress = progress, .user = user};
    struct model_state *s = NULL;
    *pace = (struct model_pace){0};
    if (m->described_only || !fits(m, bytes))
        return OK;
    m->options = *o;
    m->dev = d;
    TRY(load_scratch(m, e));
    TRY(model_state_new(m, &s, e));
    size_t logits_bytes = (size_t)m->c.n_vocab * sizeof(float);
    float *logits = os_map(logits_bytes, false);
    int rc = logits ? OK : err_set(e, E_NOMEM, "no memory for the probe's logits");
    memset(memory, 0, bytes);
    m->output_norm = memory;
    if (rc == OK)
        rc = rehearse_tokens(&r, s, logits, pace, e);
    if (logits)
        os_unmap(logits, logits_bytes);
    model_state_free(s);
    return rc;
}
