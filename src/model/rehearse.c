/*
 * The layers walked without weights: to learn what the device needs of scratch,
 * and how long one decoded token computes when nothing has to be read.
 *
 * A rehearsal runs the operations in their order and shapes over memory that
 * holds no weights. (Zeros are as fast as weights.) The memory is passed
 * through in turn, so that it comes from beyond the caches as in a real run.
 */
#include "model/model_internal.h"

#include <stdlib.h>
#include <string.h>

enum { LEAST_TOKENS = 5, MOST_TOKENS = 101, LEAST_NS = 600 * 1000 * 1000 };

struct rehearsal {
    struct model *m;
    struct dev_mem *memory; /* NULL: only measuring */
    size_t bytes, at;
    model_progress_fn *progress;
    void *user;
};

/* The next stretch of memory. */
static struct dev_ptr next(void *user, size_t bytes)
{
    struct rehearsal *r = user;
    bytes = align_up(bytes, IOQ_ALIGN);
    if (r->at + bytes > r->bytes)
        r->at = 0;
    struct dev_ptr p = {r->memory, r->at};
    r->at += bytes;
    return p;
}

static int place_weight(void *user, const struct tensor *t, size_t *at, struct err *e)
{
    (void)e;
    *(struct dev_ptr *)(void *)((char *)at - offsetof(struct dev_ptr, at)) =
        next(user, (size_t)t->bytes);
    return OK;
}

/* Mixer and ffn of a layer, as forward.c runs them. */
static void walk_layer(struct rehearsal *r, struct step *s, int layer)
{
    struct layer *l = &r->m->layers[layer];
    dense_each(r->m->dense, layer, place_weight, r, NULL);
    step_merge(s, &l->mixer_streams);
    step_begin_piece(s, layer);
    if (l->ffn->begin)
        l->ffn->begin(s, l);
    l->mixer->compute(s, l);
    step_merge(s, &l->ffn_streams);
    if (l->ffn->rehearse)
        l->ffn->rehearse(s, l, next, r);
    else
        l->ffn->compute(s, layer, NULL);
    step_leave_layer(s, l);
}

/* ---- measuring ------------------------------------------------------------- */

const char *measure_check(const struct model *m)
{
    HOLDS(!m->dense_mem, "model: a device is measured before the weights have their places");
    return NULL;
}

void measure_device(struct model *m, struct device *d, int64_t *fixed, int64_t *per_position)
{
    struct device *dev = m->dev, *expert_dev = m->expert_dev;
    struct rehearsal r = {.m = m, .bytes = SIZE_MAX / 2};
    struct dev_kv_span kv[1];
    struct dev_delta_span delta[1];
    struct model_span span = {.n = m->options.max_tokens};
    struct step s = {.m = m,
                     .spans = &span,
                     .n_spans = 1,
                     .n_tok = span.n,
                     .measuring = true,
                     .kv = kv,
                     .delta = delta};
    const struct config *c = &m->c;
    struct trace *trace = m->trace;
    INVARIANT(measure_check(m));
    m->dev = m->expert_dev = d;
    m->trace = NULL;
    d->ops->measure(d);
    for (int layer = 0; layer < c->n_layers; layer++)
        walk_layer(&r, &s, layer);
    struct dev_mat copy = {.type = DT_Q8_0, .n_in = c->n_embd, .n_out = c->n_experts};
    if (m->most_used)
        d->ops->guess(d, &(struct dev_guess){
                             .n_tok = MIN(span.n, (int64_t)DEV_FEW_TOKENS), .copy = &copy, .n = 1});
    forward_logits(m, &m->output, DEV_NONE, MIN(span.n, (int64_t)MODEL_LOGIT_ROWS), DEV_NONE);
    d->ops->measured(d, fixed, per_position);
    m->dev = dev;
    m->expert_dev = expert_dev;
    m->trace = trace;
}

/* ---- rehearsing ------------------------------------------------------------- */

/* In parts that fit the memory; `logits` has room for one of them. */
static void rehearse_output(struct rehearsal *r, struct dev_ptr logits)
{
    struct model *m = r->m;
    const size_t row = dtype_row_bytes(m->output.type, m->output.n_in);
    const int64_t most = (int64_t)(r->bytes / 2 / row);
    for (int64_t at = 0; at < m->output.n_out; at += most) {
        struct dev_mat w = m->output;
        w.n_out = MIN(most, m->output.n_out - at);
        w.data = next(r, (size_t)w.n_out * row);
        forward_logits(m, &w, m->scratch.x, 1, logits);
    }
}

static bool fits(const struct model *m, size_t bytes)
{
    return dense_largest_weight(m->dense) + IOQ_ALIGN <= bytes && m->c.n_used <= DEV_MAX_USED &&
           (size_t)m->shape.largest_expert_bytes + IOQ_ALIGN <= bytes;
}

/* False: it was cancelled. */
static bool rehearse_token(struct rehearsal *r, struct step *s, struct dev_ptr logits,
                           int64_t *token_ns, int64_t *output_ns)
{
    struct model *m = r->m;
    int64_t t0 = os_clock_ns();
    s->piece = 0;
    for (int layer = 0; layer < m->c.n_layers; layer++) {
        if (r->progress && r->progress(r->user, layer, m->c.n_layers))
            return false;
        walk_layer(r, s, layer);
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
static int rehearse_tokens(struct rehearsal *r, struct step *s, struct dev_ptr logits,
                           struct model_pace *p, struct err *e)
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

static int rehearse(struct rehearsal *r, struct model_state *state, struct model_pace *pace,
                    struct err *e)
{
    struct model *m = r->m;
    struct device *d = m->dev;
    struct dev_kv_span kv[1];
    struct dev_delta_span delta[1];
    struct model_span span = {.state = state, .n = 1};
    struct step s = {.m = m, .spans = &span, .n_spans = 1, .n_tok = 1, .kv = kv, .delta = delta};
    struct model_logits *logits;
    TRY(model_logits_new(m, 1, &logits, e));
    d->ops->zero(d, (struct dev_ptr){r->memory, 0}, r->bytes);
    m->output_norm = (struct dev_ptr){r->memory, 0};
    int rc = rehearse_tokens(r, &s, model_logits_memory(logits), pace, e);
    model_logits_free(logits);
    return rc;
}

int model_rehearse(struct model *m, const struct model_options *o, struct device *d,
                   struct dev_mem *memory, size_t bytes, model_progress_fn *progress, void *user,
                   struct model_pace *pace, struct err *e)
{
    struct rehearsal r = {
        .m = m, .memory = memory, .bytes = bytes, .progress = progress, .user = user};
    struct model_state *state = NULL;
    int64_t fixed, per_position;
    *pace = (struct model_pace){0};
    if (m->described_only || !fits(m, bytes))
        return OK;
    m->options = *o;
    m->dev = m->expert_dev = d;
    measure_device(m, d, &fixed, &per_position);
    TRY(d->ops->reserve(d, o->context, e));
    TRY(load_scratch(m, e));
    TRY(model_state_new(m, &state, e));
    int rc = rehearse(&r, state, pace, e);
    model_state_free(state);
    return rc;
}
