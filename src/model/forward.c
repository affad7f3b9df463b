/*
 * Tokens -> residual stream -> logits. The one function to read is
 * model_forward; a layer is a mixer (attention or gated delta net) and a
 * mixture-of-experts block, each adding to the residual stream.
 */
#include "model/model_internal.h"

#include <string.h>

/* ---- the timeline ------------------------------------------------------ */

#define LAYER {"layer"}
const struct trace_kind work_kinds[WORK_COUNT] = {
    [WORK_PROJECTION] = {"projection", "compute", LAYER}, [WORK_ATTENTION] = {"attention", "compute", LAYER},
    [WORK_DELTA] = {"delta", "compute", LAYER},           [WORK_ROUTER] = {"router", "compute", LAYER},
    [WORK_SHARED] = {"shared expert", "compute", LAYER},  [WORK_EXPERTS] = {"experts", "compute", LAYER},
    [WORK_SUM] = {"sum", "compute", LAYER},               [WORK_GUESS] = {"guess", "compute", LAYER},
    [WORK_OUTPUT] = {"output", "compute", LAYER},
};
static const struct trace_kind attention_layer = {"attention layer", "layer", LAYER},
                               delta_layer = {"delta layer", "layer", LAYER},
                               expert_layer = {"expert layer", "layer", LAYER},
                               output_layer = {"output", "layer", {NULL}};
#undef LAYER

void model_set_trace(struct model *m, struct trace *t)
{
    m->trace = t;
    m->layer_now = -1;
}

static int64_t begin(const struct model *m)
{
    return m->trace ? os_clock_ns() : 0;
}

static void end(const struct model *m, const struct trace_kind *k, int64_t begin_ns)
{
    int64_t layer = m->layer_now;
    if (m->trace)
        trace_add(m->trace, k, TRACE_DRIVER, begin_ns, os_clock_ns(), &layer, 1);
}

/* ---- blocks -------------------------------------------------------------- */

static void project(struct model *m, const float *x, int64_t n_tok, int64_t n_in, const float *norm,
                    bool add, int n, const struct dev_mat **w, float **out)
{
    struct dev_project p = {.x = x, .x_stride = n_in, .n_tok = n_tok, .n_in = n_in, .norm = norm,
                            .eps = m->c.eps, .add = add, .n_mats = n};
    for (int i = 0; i < n; i++) {
        p.w[i] = w[i];
        p.out[i] = out[i];
    }
    device_project(m->dev, &p);
}

/* Adds w * o to the residual stream. */
static void project_back(struct model *m, const struct dev_mat *w, int64_t n_tok)
{
    float *x = m->scratch.x;
    work_label(m, WORK_PROJECTION);
    project(m, m->scratch.o, n_tok, w->n_in, NULL, true, 1, &w, &x);
}

static void attention_block(struct model *m, struct model_state *s, const struct layer *l,
                            int64_t n_tok)
{
    const struct config *c = &m->c;
    struct scratch *t = &m->scratch;
    const struct dev_mat *w[] = {&l->q, &l->k, &l->v};
    float *out[] = {t->a, t->b, t->g};
    work_label(m, WORK_PROJECTION);
    project(m, t->x, n_tok, c->n_embd, l->attn_norm, false, 3, w, out);
    work_label(m, WORK_ATTENTION);
    device_attention(m->dev, &(struct dev_attention){
        .n_tok = n_tok, .pos = s->length,
        .n_head = c->n_head, .n_kv = c->n_kv, .head_dim = c->head_dim, .n_rot = c->n_rot,
        .q = t->a, .gated = c->arch->gated_attention, .k = t->b, .v = t->g,
        .q_norm = l->q_norm, .k_norm = l->k_norm, .rope_freq = m->rope_freq,
        .eps = c->eps, .scale = c->attn_scale,
        .k_cache = state_k(s, l->state_index), .v_cache = state_v(s, l->state_index),
        .cache_rows = s->kv_rows, .kv_f16 = m->options.kv_f16, .out = t->o});
    project_back(m, &l->out, n_tok);
}

static void delta_block(struct model *m, struct model_state *s, const struct layer *l, int64_t n_tok)
{
    const struct config *c = &m->c;
    struct scratch *t = &m->scratch;
    float *alpha = t->g, *beta = t->g + n_tok * c->n_v;
    float *S = s->rec + (size_t)l->state_index * state_layer_floats(c);
    const struct dev_mat *w[] = {&l->qkv, &l->z, &l->alpha, &l->beta};
    float *out[] = {t->a, t->b, alpha, beta};
    work_label(m, WORK_PROJECTION);
    project(m, t->x, n_tok, c->n_embd, l->attn_norm, false, 4, w, out);
    work_label(m, WORK_DELTA);
    device_delta(m->dev, &(struct dev_delta){
        .n_tok = n_tok, .n_k = c->n_k, .n_v = c->n_v, .dk = c->dk, .dv = c->dv,
        .u = t->a, .z = t->b, .alpha = alpha, .beta = beta, .a = l->a, .dt = l->dt,
        .conv = l->conv, .norm = l->ssm_norm, .eps = c->eps,
        .conv_state = S + c->n_v * c->dk * c->dv, .S = S, .out = t->o});
    project_back(m, &l->out, n_tok);
}

void mixer_block(struct model *m, struct model_state *s, const struct layer *l, int64_t n_tok)
{
    if (l->recurrent)
        delta_block(m, s, l, n_tok);
    else
        attention_block(m, s, l, n_tok);
}

static int run_layers(struct model *m, struct model_state *s, int64_t n, struct err *e)
{
    for (int il = 0; il < m->c.n_layers; il++) {
        const struct layer *l = &m->layers[il];
        if (m->pulse && m->pulse(m->pulse_user, il))
            return err_set(e, E_CANCELLED, "stopped in layer %d of %d", il, m->c.n_layers);
        s->broken = true; /* recurrent layers move on one by one */
        m->layer_now = il;
        int64_t t0 = begin(m);
        TRY(dense_use(m, il, e));
        mixer_block(m, s, l, n);
        TRY(health_state(m, il, n, l->recurrent ? "the values behind its delta net" : "the values behind its attention", e));
        end(m, l->recurrent ? &delta_layer : &attention_layer, t0);
        t0 = begin(m);
        TRY(moe_block(m, il, s->length, n, e));
        TRY(health_state(m, il, n, "the values behind its experts", e));
        end(m, &expert_layer, t0);
    }
    return OK;
}

static int check_ids(const struct model *m, const int32_t *ids, int64_t n, struct err *e)
{
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= m->c.n_vocab)
            return err_set(e, E_ARG, "token id %d at place %lld is outside the vocabulary of %lld",
                           ids[i], (long long)i, (long long)m->c.n_vocab);
    return OK;
}

int model_forward(struct model *m, struct model_state *s, const int32_t *ids, int64_t n,
                  struct err *e)
{
    if (s->broken)
        return err_set(e, E_STATE, "the session was left half computed by an earlier failure; reset it");
    if (n < 1 || n > m->options.max_tokens)
        return err_set(e, E_ARG, "a step of %lld tokens is outside 1..%d", (long long)n, m->options.max_tokens);
    if (s->length + n > m->options.context)
        return err_set(e, E_STATE, "the context is full: %lld tokens held, %lld more asked for, %lld possible; raise --ctx or --memory",
                       (long long)s->length, (long long)n, (long long)m->options.context);
    TRY(check_ids(m, ids, n, e));

    TRY(dense_embed(m, m->scratch.x, ids, n, e));
    TRY(health_state(m, -1, n, "rows of the embedding table", e));
    TRY(run_layers(m, s, n, e));
    s->broken = false;
    s->length += n;
    expert_tick(m->cache);
    if (n == 1) {
        struct expert_stats x;
        struct ioq_stats q;
        expert_get_stats(m->cache, &x);
        ioq_get_stats(m->q, &q);
        guess_tick(&m->guess, &(struct guess_totals){x.hint_queued, x.hint_useful, x.hint_late, x.hint_wasted,
                                                     x.n_misses, q.busy_ns});
    }
    return OK;
}

struct logits_job {
    struct model *m;
    int64_t row, n_rows;
    float *logits;
};

void forward_logits(struct model *m, const struct dev_mat *w, int64_t row, int64_t n_rows, float *logits)
{
    const float *x = m->scratch.x + row * m->c.n_embd;
    work_label(m, WORK_OUTPUT);
    project(m, x, n_rows, m->c.n_embd, m->output_norm, false, 1, &w, &logits);
}

/* A part of the vocabulary: one token at a time, unless it is the whole. */
static void output_rows(void *user, const struct dev_mat *w, int64_t first)
{
    const struct logits_job *j = user;
    int64_t n_vocab = j->m->c.n_vocab, step = w->n_out == n_vocab ? j->n_rows : 1;
    for (int64_t t = 0; t < j->n_rows; t += step)
        forward_logits(j->m, w, j->row + t, step, j->logits + t * n_vocab + first);
}

int model_logits(struct model *m, int64_t row, int64_t n_rows, float *logits, struct err *e)
{
    struct logits_job j = {.m = m, .row = row, .n_rows = n_rows, .logits = logits};
    int64_t t0 = begin(m);
    m->layer_now = -1;
    int rc = dense_output(m, output_rows, &j, e);
    end(m, &output_layer, t0);
    TRY(rc);
    return device_finite(m->dev, logits, n_rows * m->c.n_vocab) ? OK : health_not_finite(m, -1, "the logits", e);
}

void model_trim(struct model *m)
{
    os_discard(m->scratch.map, m->scratch.bytes);
    device_trim(m->dev);
}

void model_set_pulse(struct model *m, model_pulse_fn *fn, void *user)
{
    m->pulse = fn;
    m->pulse_user = user;
}

void model_set_route(struct model *m, model_route_fn *fn, void *user)
{
    m->route = fn;
    m->route_user = user;
}
