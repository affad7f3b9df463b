/* The gated delta net, as a mixer: a recurrence with a matrix of state a head. */
#include "model/model_internal.h"

#define AT(field) offsetof(struct layer, delta.field)
static const struct weight_row rows[] = {
    {.name = "ssm_in.weight", MATRIX, DIM_EMBD, DIM_DELTA_ALL, AT(all), HAS_GROUPED_DELTA,
     IF_THERE},
    {.name = "attn_qkv.weight", MATRIX, DIM_EMBD, DIM_DELTA_CHANNELS, AT(qkv), 0, 0,
     "ssm_in.weight"},
    {.name = "attn_gate.weight", MATRIX, DIM_EMBD, DIM_DELTA_VALUES, AT(z), 0, 0,
     "ssm_in.weight"},
    {.name = "ssm_ba.weight", MATRIX, DIM_EMBD, DIM_DELTA_PAIRS, AT(ba), HAS_GROUPED_DELTA},
    {.name = "ssm_alpha.weight", MATRIX, DIM_EMBD, DIM_DELTA_HEADS, AT(alpha), 0, 0,
     "ssm_ba.weight"},
    {.name = "ssm_beta.weight", MATRIX, DIM_EMBD, DIM_DELTA_HEADS, AT(beta), 0, 0,
     "ssm_ba.weight"},
    {.name = "ssm_conv1d.weight", FLOATS, DIM_4, DIM_DELTA_CHANNELS, AT(conv)},
    {.name = "ssm_dt.bias", FLOATS, DIM_DELTA_HEADS, DIM_1, AT(dt)},
    {.name = "ssm_a", FLOATS, DIM_DELTA_HEADS, DIM_1, AT(decay)},
    {.name = "ssm_norm.weight", FLOATS, DIM_DELTA_HEAD, DIM_1, AT(norm)},
    {.name = "ssm_out.weight", MATRIX, DIM_DELTA_VALUES, DIM_EMBD, AT(out)},
};
#undef AT

static void bind(struct layer *l, const struct config *c, int layer)
{
    (void)layer;
    l->delta = (struct delta){.n_k = c->n_k, .n_v = c->n_v, .dk = c->dk, .dv = c->dv,
                              .grouped = config_has(c, HAS_GROUPED_DELTA)};
}

static int64_t channels(const struct delta *d)
{
    return 2 * d->n_k * d->dk + d->n_v * d->dv;
}

static int64_t scratch(const struct layer *l)
{
    const struct delta *d = &l->delta;
    return channels(d) + 2 * d->n_v * d->dv + 2 * d->n_v + d->all.n_out;
}

static int64_t per_position(const struct layer *l)
{
    (void)l;
    return 0;
}

/* A matrix (dk, dv) for each value head, then three rows of channels. */
static int64_t once(const struct layer *l)
{
    const struct delta *d = &l->delta;
    return d->n_v * d->dk * d->dv + 3 * channels(d);
}

int step_delta_spans(const struct step *s, const struct layer *l, int64_t matrices)
{
    int n = 0;
    for (int i = 0; i < s->n_spans; i++) {
        const struct model_span *x = &s->spans[i];
        if (!span_alive(x))
            continue;
        struct dev_delta_span *k = &s->delta[n++];
        *k = (struct dev_delta_span){.first = x->first, .n_tok = x->n};
        if (s->measuring)
            continue;
        k->S = state_once(x->state, (int)(l - s->m->layers));
        k->conv_state = behind_floats(k->S, matrices);
    }
    return n;
}

struct parts { /* of the scratch */
    struct dev_ptr u, z, out, ab, all;
};

static struct parts lay_out(const struct step *s, const struct delta *d)
{
    const int64_t vd = d->n_v * d->dv;
    struct parts p = {.u = s->m->scratch.form};
    p.z = behind_floats(p.u, s->n_tok * channels(d));
    p.out = behind_floats(p.z, s->n_tok * vd);
    p.ab = behind_floats(p.out, s->n_tok * vd);
    p.all = behind_floats(p.ab, s->n_tok * 2 * d->n_v);
    return p;
}

/* A stretch of n elements of each key head's part of `all`, from `at` on. */
static void take_apart(const struct step *s, const struct delta *d, const struct parts *p,
                       int64_t at, int64_t n, struct dev_ptr out, int64_t out_token)
{
    struct model *m = s->m;
    m->dev->ops->heads(m->dev, &(struct dev_heads){
        .n_tok = s->n_tok, .n_heads = d->n_k, .n_in = n, .n_out = n,
        .x = behind_floats(p->all, at), .x_token = d->all.n_out,
        .x_head = d->all.n_out / d->n_k, .out = out, .out_token = out_token, .out_head = n});
}

/* Older files have one matrix for everything: of each key head its query, its key, and
 * the values and gates of its value heads. */
static void project_all(struct step *s, const struct layer *l, const struct parts *p)
{
    const struct delta *d = &l->delta;
    const int64_t kd = d->n_k * d->dk, each = d->n_v / d->n_k * d->dv;
    step_project(s, s->m->scratch.x, s->m->c.n_embd, l->mixer_norm, 2,
                 (const struct dev_mat *[]){&d->all, &d->ba}, (struct dev_ptr[]){p->all, p->ab});
    take_apart(s, d, p, 0, d->dk, p->u, channels(d));
    take_apart(s, d, p, d->dk, d->dk, behind_floats(p->u, kd), channels(d));
    take_apart(s, d, p, 2 * d->dk, each, behind_floats(p->u, 2 * kd), channels(d));
    take_apart(s, d, p, 2 * d->dk + each, each, p->z, d->n_v * d->dv);
}

static void project(struct step *s, const struct layer *l, const struct parts *p)
{
    const struct delta *d = &l->delta;
    const struct dev_ptr x = s->m->scratch.x;
    const int64_t n_embd = s->m->c.n_embd;
    work_label(s->m, WORK_PROJECTION);
    if (d->all.n_out)
        project_all(s, l, p);
    else if (d->ba.n_out)
        step_project(s, x, n_embd, l->mixer_norm, 3,
                     (const struct dev_mat *[]){&d->qkv, &d->z, &d->ba},
                     (struct dev_ptr[]){p->u, p->z, p->ab});
    else
        step_project(s, x, n_embd, l->mixer_norm, 4,
                     (const struct dev_mat *[]){&d->qkv, &d->z, &d->alpha, &d->beta},
                     (struct dev_ptr[]){p->u, p->z, p->ab,
                                        behind_floats(p->ab, s->n_tok * d->n_v)});
}

static void compute(struct step *s, const struct layer *l)
{
    struct model *m = s->m;
    const struct delta *d = &l->delta;
    const struct parts p = lay_out(s, d);
    const int64_t each = d->n_v / d->n_k;
    struct dev_delta a = {
        .spans = s->delta, .n_spans = step_delta_spans(s, l, d->n_v * d->dk * d->dv),
        .n_k = d->n_k, .n_v = d->n_v, .dk = d->dk, .dv = d->dv,
        .grouped = d->grouped, .u = p.u, .z = p.z, .alpha = p.ab,
        .beta = behind_floats(p.ab, s->n_tok * d->n_v), .ab_token = d->n_v, .ab_run = d->n_v,
        .ab_step = d->n_v, .decay = d->decay, .dt = d->dt, .conv = d->conv, .norm = d->norm,
        .eps = m->c.eps, .out = p.out};
    if (d->ba.n_out) { /* of each key head the betas, then the alphas of its value heads */
        a.beta = p.ab;
        a.alpha = behind_floats(p.ab, each);
        a.ab_token = 2 * d->n_v;
        a.ab_run = each;
        a.ab_step = 2 * each;
    }
    project(s, l, &p);
    work_label(m, WORK_DELTA);
    m->dev->ops->delta(m->dev, &a);
    step_project_back(s, &d->out, p.out, l->mixer_post_norm);
}

static const struct trace_kind trace = {"delta layer", "layer", {"layer"}};

const struct mixer_form delta_form = {
    .name = "delta net", .rows = rows, .n_rows = ARRAY_LEN(rows), .recurrent = true,
    .trace = &trace, .bind = bind, .scratch = scratch, .per_position = per_position, .once = once,
    .compute = compute,
};
