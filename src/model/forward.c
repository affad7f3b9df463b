/*
 * Tokens -> residual stream -> logits. The one function to read is model_step:
 * embed, then for each layer a mixer and an ffn, each adding to the residual
 * stream. Where that is several (HAS_STREAMS), x is what a part takes of them, and
 * what it gives is spread over them; where it is in pieces (HAS_PIECES), x is a mix of
 * all of them, and what a part gives is added to the last.
 *
 * A step is a list of spans, tokens that follow each other in one session. Their
 * tokens lie flat behind one another: norms, projections and experts do not see
 * spans; attention and recurrences get a list of them. A token's bits never
 * depend on its company. What goes wrong for one span ends that span: its tokens
 * are carried along and take part in nothing.
 */
#include "model/model_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- the timeline ------------------------------------------------------ */

#define LAYER {"layer"}
const struct trace_kind work_kinds[WORK_COUNT] = {
    [WORK_PROJECTION] = {"projection", "compute", LAYER},
    [WORK_ATTENTION] = {"attention", "compute", LAYER},
    [WORK_DELTA] = {"delta", "compute", LAYER},
    [WORK_ROUTER] = {"router", "compute", LAYER},
    [WORK_SHARED] = {"shared expert", "compute", LAYER},
    [WORK_EXPERTS] = {"experts", "compute", LAYER},
    [WORK_SUM] = {"sum", "compute", LAYER},
    [WORK_GUESS] = {"guess", "compute", LAYER},
    [WORK_OUTPUT] = {"output", "compute", LAYER},
    [WORK_FFN] = {"ffn", "compute", LAYER},
};
static const struct trace_kind output_layer = {"output", "layer", {NULL}};
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

/* ---- spans ---------------------------------------------------------------- */

struct model_span *step_span(const struct step *s, int64_t t)
{
    int i = 0;
    while (t >= s->spans[i].first + s->spans[i].n)
        i++;
    return &s->spans[i];
}

void step_fail(struct step *s, struct model_span *x, int rc, const struct err *e)
{
    (void)s;
    if (!span_alive(x))
        return;
    x->status = rc;
    if (e)
        x->err = *e;
    x->err.code = rc;
}

bool step_alive(const struct step *s)
{
    for (int i = 0; i < s->n_spans; i++)
        if (span_alive(&s->spans[i]))
            return true;
    return false;
}

static void fail_all(struct step *s, int rc, const struct err *e)
{
    for (int i = 0; i < s->n_spans; i++)
        step_fail(s, &s->spans[i], rc, e);
}

/* Spans whose owners want no more of them. */
static void ask_owners(struct step *s, int layer)
{
    struct model *m = s->m;
    struct err e = {0};
    err_set(&e, E_CANCELLED, "stopped in layer %d of %d", layer, m->c.n_layers);
    for (int i = 0; i < s->n_spans; i++) {
        struct model_span *x = &s->spans[i];
        if (span_alive(x) && x->cancelled && x->cancelled(x->user, layer))
            step_fail(s, x, E_CANCELLED, &e);
    }
    if (m->pulse && m->pulse(m->pulse_user, layer))
        fail_all(s, E_CANCELLED, &e);
}

/* ---- operations --------------------------------------------------------------- */

static void project(struct model *m, struct dev_project p, const struct dev_mat *const *w,
                    const struct dev_ptr *out)
{
    for (int i = 0; i < p.n_mats; i++) {
        p.w[i] = w[i];
        p.out[i] = out[i];
    }
    m->dev->ops->project(m->dev, &p);
}

/* out = what the layer norm makes of n rows of x. */
static void layer_norm(struct model *m, struct dev_ptr x, int64_t n_tok, struct dev_ptr weight,
                       struct dev_ptr bias, struct dev_ptr out)
{
    const int64_t n = m->c.n_embd;
    m->dev->ops->norm(m->dev, &(struct dev_norm){
        .x = x, .weight = weight, .bias = bias, .out = out, .n_tok = n_tok, .n = n,
        .x_stride = n, .out_stride = n, .eps = m->c.eps});
}

struct dev_ptr step_input(struct step *s, struct dev_ptr bias, struct dev_ptr *norm)
{
    struct model *m = s->m;
    if (!config_has(&m->c, HAS_LAYER_NORMS))
        return m->scratch.x;
    layer_norm(m, m->scratch.x, s->n_tok, *norm, bias, m->scratch.branch);
    *norm = DEV_NONE;
    return m->scratch.branch;
}

void step_project(struct step *s, struct dev_ptr x, int64_t n_in, struct dev_ptr norm, int n,
                  const struct dev_mat *const *w, const struct dev_ptr *out)
{
    project(
        s->m,
        (struct dev_project){
            .x = x, .n_tok = s->n_tok, .n_in = n_in, .norm = norm, .eps = s->m->c.eps, .n_mats = n},
        w, out);
}

void scale_floats(struct model *m, struct dev_ptr x, int64_t n, float factor)
{
    if (factor != 1.0f)
        m->dev->ops->scale(m->dev, &(struct dev_scale){.x = x, .n = n, .factor = factor});
}

void step_project_back(struct step *s, const struct dev_mat *w, struct dev_ptr from,
                       struct dev_ptr post_norm)
{
    struct model *m = s->m;
    const bool apart = step_branches(s);
    work_label(m, WORK_PROJECTION);
    scale_floats(m, from, s->n_tok * w->n_in, m->c.residual_scale);
    int64_t width;
    const struct dev_ptr to = apart ? m->scratch.branch : step_stream(s, &width);
    project(m,
            (struct dev_project){
                .x = from, .n_tok = s->n_tok, .n_in = w->n_in, .add = !apart, .n_mats = 1},
            &w, &to);
    if (apart)
        step_branch_back(s, m->scratch.branch, post_norm);
}

void step_branch_back(struct step *s, struct dev_ptr from, struct dev_ptr post_norm)
{
    struct model *m = s->m;
    const int64_t n = m->c.n_embd;
    if (config_has(&m->c, HAS_STREAMS)) {
        m->dev->ops->spread(m->dev, &(struct dev_spread){
            .streams = m->scratch.streams, .factors = m->scratch.factors, .y = from,
            .n_tok = s->n_tok, .n_embd = n});
        return;
    }
    int64_t width;
    m->dev->ops->norm(m->dev, &(struct dev_norm){
        .x = from, .weight = post_norm, .out = step_stream(s, &width), .n_tok = s->n_tok, .n = n,
        .x_stride = n, .out_stride = n, .eps = m->c.eps, .add = true});
}

void step_leave_layer(struct step *s, const struct layer *l)
{
    struct model *m = s->m;
    if (l->out_scale.mem)
        m->dev->ops->scale(m->dev, &(struct dev_scale){.x = m->scratch.x, .by = l->out_scale,
                                                       .n = s->n_tok * m->c.n_embd,
                                                       .factor = 1.0f});
}

/* Piece `i` of the residual stream. */
static struct dev_ptr piece(const struct step *s, int64_t i)
{
    return behind_floats(s->m->scratch.pieces, i * s->n_tok * s->m->c.n_embd);
}

static void mix_pieces(struct step *s, const struct streams *x)
{
    struct model *m = s->m;
    work_label(m, WORK_PROJECTION);
    m->dev->ops->mix(m->dev, &(struct dev_mix){
        .pieces = m->scratch.pieces, .n = s->piece + 1, .n_tok = s->n_tok, .n_embd = m->c.n_embd,
        .weight = x->score, .eps = m->c.eps, .x = m->scratch.x});
}

/* The embedding is a piece of its own. */
void step_begin_piece(struct step *s, int layer)
{
    struct model *m = s->m;
    if (!config_has(&m->c, HAS_PIECES) || layer % m->c.piece_layers)
        return;
    s->piece++;
    m->dev->ops->zero(m->dev, piece(s, s->piece),
                      (size_t)(s->n_tok * m->c.n_embd) * sizeof(float));
}

void step_merge(struct step *s, const struct streams *x)
{
    struct model *m = s->m;
    const struct scratch *t = &m->scratch;
    if (config_has(&m->c, HAS_PIECES))
        mix_pieces(s, x);
    if (!config_has(&m->c, HAS_STREAMS))
        return;
    work_label(m, WORK_PROJECTION);
    step_project(s, t->streams, x->fn.n_in, DEV_NONE, 1, (const struct dev_mat *[]){&x->fn},
                 &t->factors);
    m->dev->ops->merge(m->dev, &(struct dev_merge){
        .streams = t->streams, .n_tok = s->n_tok, .n_embd = m->c.n_embd, .factors = t->factors,
        .scale = x->scale, .base = x->base, .eps = m->c.eps, .mix_eps = m->c.mix_eps,
        .rounds = m->c.mix_rounds, .last = x == &m->output_streams, .x = t->x});
}

struct dev_ptr step_stream(const struct step *s, int64_t *width)
{
    const bool streams = config_has(&s->m->c, HAS_STREAMS);
    *width = (streams ? DEV_STREAMS : 1) * s->m->c.n_embd;
    if (config_has(&s->m->c, HAS_PIECES))
        return piece(s, s->piece);
    return streams ? s->m->scratch.streams : s->m->scratch.x;
}

/* What rotary frequencies of FAR are divided by. LongRoPE: by the context that was asked
 * for, not by what memory allows, nor by how long the text is so far. */
static struct dev_ptr far_factors(const struct model *m)
{
    if (!config_has(&m->c, HAS_LONG_FACTORS))
        return m->rope_factors;
    return (double)options_asked(&m->options) > m->c.rope[FAR].original ? m->rope_long
                                                                         : m->rope_short;
}

struct dev_rope step_rope(const struct step *s, int which, int64_t n, int64_t at)
{
    const struct model *m = s->m;
    return (struct dev_rope){
        .n = n, .at = at, .pairs = m->c.family->rotation,
        .freq = behind_floats((struct dev_ptr){m->rope_mem, 0}, which * (m->c.most_rot / 2)),
        .factors = which == FAR ? far_factors(m) : DEV_NONE, .scale = m->rope_scale[which]};
}

/* Rows of the embedding table: from memory, or read one by one. */
static int embed(struct step *s, const int32_t *ids, int64_t n, struct dev_ptr x, struct err *e)
{
    struct model *m = s->m;
    const struct device_ops *ops = m->dev->ops;
    const size_t row_bytes = (size_t)m->c.n_embd * sizeof(float);
    if (m->layout.embed_stays) {
        ops->embed(m->dev, &(struct dev_embed){.table = &m->embed, .ids = ids, .n_tok = n, .x = x});
        return OK;
    }
    for (int64_t i = 0; i < n; i += DENSE_ROWS) {
        size_t at[DENSE_ROWS];
        int64_t k = MIN((int64_t)DENSE_ROWS, n - i);
        TRY(dense_read_rows(m->dense, ids + i, k, at, e));
        for (int64_t r = 0; r < k; r++) {
            static const int32_t first = 0;
            struct dev_mat one = m->embed;
            one.data = dense_ptr(m, at[r]);
            one.n_out = 1;
            ops->embed(m->dev, &(struct dev_embed){.table = &one, .ids = &first, .n_tok = 1,
                                                   .x = dev_at(x, (size_t)(i + r) * row_bytes)});
        }
    }
    return OK;
}

/* All streams begin alike. */
static void begin_streams(struct step *s)
{
    struct model *m = s->m;
    const int64_t n = m->c.n_embd;
    s->piece = 0;
    if (config_has(&m->c, HAS_PIECES))
        m->dev->ops->copy(m->dev, m->scratch.pieces, m->scratch.x,
                          (size_t)(s->n_tok * n) * sizeof(float));
    if (config_has(&m->c, HAS_STREAMS))
        m->dev->ops->heads(m->dev, &(struct dev_heads){
            .n_tok = s->n_tok, .n_heads = DEV_STREAMS, .n_in = n, .n_out = n, .x = m->scratch.x,
            .x_token = n, .out = m->scratch.streams, .out_token = DEV_STREAMS * n, .out_head = n});
}

/* Tokens' ids where layers look their experts up. A span that has ended may have others. */
static void list_ids(struct step *s)
{
    int32_t *ids = s->m->scratch.host_ids;
    for (int i = 0; config_has(&s->m->c, HAS_TABLES) && i < s->n_spans; i++) {
        const struct model_span *x = &s->spans[i];
        for (int64_t t = 0; t < x->n; t++)
            ids[x->first + t] = span_alive(x) ? x->ids[t] : 0;
    }
}

static void embed_spans(struct step *s)
{
    const size_t row_bytes = (size_t)s->m->c.n_embd * sizeof(float);
    for (int i = 0; i < s->n_spans; i++) {
        struct model_span *x = &s->spans[i];
        struct err e = {0};
        int rc = span_alive(x) ? embed(s, x->ids, x->n,
                                       dev_at(s->m->scratch.x, (size_t)x->first * row_bytes), &e)
                               : OK;
        if (rc < 0)
            step_fail(s, x, rc, &e);
    }
    scale_floats(s->m, s->m->scratch.x, s->n_tok * s->m->c.n_embd, s->m->c.embed_scale);
    health_look(s, s->m->scratch.x, s->m->c.n_embd, fault_tag(0, FAULT_EMBEDDING));
    begin_streams(s);
    list_ids(s);
}

/* ---- the step --------------------------------------------------------------------- */

/* What fails here fails for all spans. */
static int run_layer(struct step *s, int layer, struct err *e)
{
    struct model *m = s->m;
    const struct layer *l = &m->layers[layer];
    int64_t width;
    for (int i = 0; i < s->n_spans; i++)
        s->spans[i].state->broken |= span_alive(&s->spans[i]); /* recurrences move on one by one */
    m->layer_now = layer;
    int64_t t0 = begin(m);
    TRY(dense_use(m->dense, layer, e));
    step_merge(s, &l->mixer_streams);
    step_begin_piece(s, layer);
    const struct dev_ptr stream = step_stream(s, &width);
    if (l->ffn->begin)
        l->ffn->begin(s, l);
    l->mixer->compute(s, l);
    health_look(s, stream, width, fault_tag(layer, FAULT_MIXER));
    end(m, l->mixer->trace, t0);
    t0 = begin(m);
    step_merge(s, &l->ffn_streams);
    TRY(l->ffn->compute(s, layer, e));
    step_leave_layer(s, l);
    health_look(s, stream, width, fault_tag(layer, FAULT_FFN));
    end(m, l->ffn->trace, t0);
    return OK;
}

static int run_layers(struct step *s, struct err *e)
{
    embed_spans(s);
    for (int layer = 0; layer < s->m->c.n_layers; layer++) {
        ask_owners(s, layer);
        if (!step_alive(s))
            return OK;
        TRY(run_layer(s, layer, e));
    }
    step_merge(s, &s->m->output_streams);
    TRY(health_collect(s, e));
    return used_wait(s->m, e);
}

static int check_span(const struct model *m, const struct model_span *x, struct err *e)
{
    if (x->state->broken)
        return err_set(e, E_STATE,
                       "the session was left half computed when a step failed or was stopped; "
                       "reset it, or sync or keep what it holds");
    if (x->state->length + x->n > m->options.context)
        return err_set(e, E_STATE,
                       "the context is full: %lld tokens held, %lld more asked for, %lld possible; "
                       "raise --ctx or --memory",
                       (long long)x->state->length, (long long)x->n, (long long)m->options.context);
    for (int64_t i = 0; i < x->n; i++)
        if (x->ids[i] < 0 || x->ids[i] >= m->c.n_vocab)
            return err_set(e, E_ARG, "token id %d at place %lld is outside the vocabulary of %lld",
                           x->ids[i], (long long)i, (long long)m->c.n_vocab);
    return OK;
}

/* Lays the spans' tokens behind one another; what is wrong with one of them is told to it. */
static int begin_step(struct step *s, struct err *e)
{
    struct model *m = s->m;
    for (int i = 0; i < s->n_spans; i++) {
        struct model_span *x = &s->spans[i];
        x->status = OK;
        x->err = (struct err){0};
        if (x->n < 1)
            return err_set(e, E_ARG, "a span of %lld tokens is none", (long long)x->n);
        for (int k = 0; k < i; k++)
            if (s->spans[k].state == x->state)
                return err_set(e, E_ARG, "a session stands in two spans of one step");
        x->first = s->n_tok;
        s->n_tok += x->n;
        int rc = check_span(m, x, &x->err);
        if (rc < 0)
            x->status = rc;
    }
    if (s->n_tok < 1 || s->n_tok > m->options.max_tokens)
        return err_set(e, E_ARG, "a step of %lld tokens is outside 1..%d", (long long)s->n_tok,
                       m->options.max_tokens);
    return OK;
}

static void end_step(struct step *s)
{
    struct model *m = s->m;
    for (int i = 0; i < s->n_spans; i++) {
        struct model_span *x = &s->spans[i];
        if (!span_alive(x))
            continue;
        x->state->broken = false;
        x->state->length += x->n;
    }
    if (!m->cache)
        return;
    expert_tick(m->cache);
    if (s->n_tok <= m->scratch.few) {
        struct expert_stats x;
        struct ioq_stats q;
        expert_get_stats(m->cache, &x);
        ioq_get_stats(m->q, &q);
        guess_tick(&m->guess, &(struct guess_totals){x.guess_queued, x.guess_useful, x.guess_late,
                                                     x.guess_wasted, x.n_misses, q.busy_ns});
    }
}

int model_step(struct model *m, struct model_span *spans, int n_spans, struct err *e)
{
    struct dev_kv_span kv[MODEL_MAX_SPANS];
    struct dev_delta_span delta[MODEL_MAX_SPANS];
    struct step s = {.m = m, .spans = spans, .n_spans = n_spans, .kv = kv, .delta = delta};
    struct err why = {0};
    if (n_spans < 1 || n_spans > MODEL_MAX_SPANS)
        return err_set(e, E_ARG, "a step of %d spans is outside 1..%d", n_spans, MODEL_MAX_SPANS);
    TRY(begin_step(&s, e));
    if (!step_alive(&s))
        return OK;
    for (int i = 0; i < n_spans; i++)
        if (span_alive(&spans[i]))
            state_make_room(spans[i].state, spans[i].n);
    m->dev->ops->zero(m->dev, m->scratch.faults, (size_t)s.n_tok * sizeof(uint32_t));
    int rc = run_layers(&s, &why);
    if (rc < 0)
        fail_all(&s, rc, &why);
    rc = used_wait(m, &why); /* whatever happened, no lease outlives the step */
    if (rc < 0)
        fail_all(&s, rc, &why);
    end_step(&s);
    return OK;
}

/* ---- logits -------------------------------------------------------------------------- */

struct model_logits {
    struct model *m;
    struct dev_mem *mem;
    float *host;   /* of mem, or a copy of it */
    bool copied;
    int64_t n_rows;
};

int model_logits_new(struct model *m, int64_t n_rows, struct model_logits **out, struct err *e)
{
    struct model_logits *l = calloc(1, sizeof(*l));
    size_t bytes = (size_t)(n_rows * m->c.n_vocab) * sizeof(float);
    if (!l)
        return err_set(e, E_NOMEM, "no memory for logits");
    l->m = m;
    l->n_rows = n_rows;
    int rc = m->dev->ops->alloc(m->dev, DEV_SCRATCH, bytes, &l->mem, e);
    l->host = dev_host(l->mem);
    l->copied = rc == OK && !l->host;
    if (l->copied && !(l->host = os_map(bytes, false)))
        rc = err_set(e, E_NOMEM, "no memory for logits");
    if (rc < 0) {
        l->copied = false;
        model_logits_free(l);
        return rc;
    }
    *out = l;
    return OK;
}

void model_logits_free(struct model_logits *l)
{
    if (!l)
        return;
    if (l->copied)
        os_unmap(l->host, (size_t)(l->n_rows * l->m->c.n_vocab) * sizeof(float));
    dev_free(l->mem);
    free(l);
}

struct dev_ptr model_logits_memory(const struct model_logits *l)
{
    return (struct dev_ptr){l->mem, 0};
}

float *model_logits_row(const struct model_logits *l, int64_t row)
{
    return l->host + row * l->m->c.n_vocab;
}

void forward_logits(struct model *m, const struct dev_mat *w, struct dev_ptr x, int64_t n_rows,
                    struct dev_ptr logits)
{
    const bool normed = config_has(&m->c, HAS_LAYER_NORMS);
    work_label(m, WORK_OUTPUT);
    project(m,
            (struct dev_project){.x = x,
                                 .n_tok = n_rows,
                                 .n_in = m->c.n_embd,
                                 .norm = normed ? DEV_NONE : m->output_norm,
                                 .eps = m->c.eps,
                                 .n_mats = 1},
            &w, &logits);
    if (m->c.logit_scale != 1.0f || m->c.logit_cap != 0.0f)
        m->dev->ops->scale(m->dev, &(struct dev_scale){.x = logits, .n = n_rows * w->n_out,
                                                       .factor = m->c.logit_scale,
                                                       .cap = m->c.logit_cap});
}

struct logits_job {
    struct model *m;
    struct dev_ptr x, logits;
    int64_t n_rows;
};

/* A part of the vocabulary: one token at a time, unless it is the whole. */
static int output_rows(void *user, size_t at, int64_t first, int64_t n, struct err *e)
{
    const struct logits_job *j = user;
    struct model *m = j->m;
    struct dev_mat w = m->output;
    int64_t step = n == m->c.n_vocab ? j->n_rows : 1;
    (void)e;
    w.data = dense_ptr(m, at);
    w.n_out = n;
    if (w.bias.mem)
        w.bias = behind_floats(w.bias, first);
    for (int64_t t = 0; t < j->n_rows; t += step)
        forward_logits(m, &w, dev_at(j->x, (size_t)(t * m->c.n_embd) * sizeof(float)), step,
                       dev_at(j->logits, (size_t)(t * m->c.n_vocab + first) * sizeof(float)));
    return OK;
}

/* The rows of the residual stream together: as they lie, if they follow each other. */
static struct dev_ptr gather(struct model *m, const int64_t *rows, int64_t n)
{
    const size_t bytes = (size_t)m->c.n_embd * sizeof(float);
    int64_t i = 1;
    while (i < n && rows[i] == rows[0] + i)
        i++;
    if (i == n)
        return dev_at(m->scratch.x, (size_t)rows[0] * bytes);
    for (i = 0; i < n; i++)
        m->dev->ops->copy(m->dev, dev_at(m->scratch.rows, (size_t)i * bytes),
                          dev_at(m->scratch.x, (size_t)rows[i] * bytes), bytes);
    return m->scratch.rows;
}

int model_logits(struct model *m, const int64_t *rows, int64_t n, struct model_logits *l,
                 struct err *e)
{
    const size_t bytes = (size_t)(n * m->c.n_vocab) * sizeof(float);
    struct logits_job j = {.m = m, .x = gather(m, rows, n), .logits = {l->mem, 0}, .n_rows = n};
    int64_t t0 = begin(m);
    m->layer_now = -1;
    if (config_has(&m->c, HAS_LAYER_NORMS)) {
        layer_norm(m, j.x, n, m->output_norm, m->output_norm_bias, m->scratch.rows);
        j.x = m->scratch.rows;
    }
    int rc = dense_output(m->dense, output_rows, &j, e);
    end(m, &output_layer, t0);
    TRY(rc);
    if (l->copied)
        m->dev->ops->get(m->dev, l->host, j.logits, bytes);
    return m->dev->ops->wait(m->dev, m->dev->ops->mark(m->dev), e);
}

int model_logits_check(const struct model_logits *l, int64_t row, struct err *e)
{
    const struct model *m = l->m;
    return dev_floats_finite(model_logits_row(l, row), m->c.n_vocab) ? OK : health_logits(m, e);
}

void model_trim(struct model *m)
{
    m->dev->ops->give_back(m->dev, (struct dev_ptr){m->scratch.mem, 0}, m->scratch.bytes);
    os_discard(m->scratch.host, m->scratch.host_bytes);
    m->dev->ops->trim(m->dev);
    if (m->expert_dev != m->dev)
        m->expert_dev->ops->trim(m->expert_dev);
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
