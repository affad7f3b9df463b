/*
 * Kimi Delta Attention, as a mixer: a delta net in which each element of a key has a
 * decay of its own (Kimi Linear, arXiv 2510.26692).
 */
#include "model/model_internal.h"

#define AT(field) offsetof(struct layer, kda.field)
static const struct weight_row rows[] = {
    {.name = "attn_q.weight", MATRIX, DIM_EMBD, DIM_DELTA_VALUES, AT(q)},
    {.name = "attn_k.weight", MATRIX, DIM_EMBD, DIM_DELTA_VALUES, AT(k)},
    {.name = "attn_v.weight", MATRIX, DIM_EMBD, DIM_DELTA_VALUES, AT(v)},
    {.name = "ssm_conv1d_q.weight", CONV, DIM_4, DIM_DELTA_VALUES, AT(conv_q)},
    {.name = "ssm_conv1d_k.weight", CONV, DIM_4, DIM_DELTA_VALUES, AT(conv_k)},
    {.name = "ssm_conv1d_v.weight", CONV, DIM_4, DIM_DELTA_VALUES, AT(conv_v)},
    {.name = "ssm_f_a.weight", MATRIX, DIM_EMBD, DIM_KDA_FIRST, AT(f_a)},
    {.name = "ssm_f_b.weight", MATRIX, DIM_KDA, DIM_DELTA_VALUES, AT(f_b), .flags = IF_THERE},
    {.name = "ssm_beta.weight", MATRIX, DIM_EMBD, DIM_DELTA_HEADS, AT(beta)},
    {.name = "ssm_a", FLOATS, DIM_1, DIM_DELTA_HEADS, AT(decay), .lacks = HAS_FULL_GATE},
    {.name = "ssm_a", FLOATS, DIM_DELTA_HEADS, DIM_1, AT(decay), HAS_FULL_GATE},
    {.name = "ssm_dt.bias", FLOATS, DIM_DELTA_VALUES, DIM_1, AT(dt)},
    {.name = "ssm_g.weight", MATRIX, DIM_EMBD, DIM_DELTA_VALUES, AT(g), HAS_FULL_GATE},
    {.name = "ssm_g_a.weight", MATRIX, DIM_EMBD, DIM_KDA_FIRST, AT(g_a), .lacks = HAS_FULL_GATE},
    {.name = "ssm_g_b.weight", MATRIX, DIM_KDA, DIM_DELTA_VALUES, AT(g_b), .flags = IF_THERE,
     .lacks = HAS_FULL_GATE},
    {.name = "ssm_norm.weight", FLOATS, DIM_KDA, DIM_1, AT(norm)},
    {.name = "attn_output.weight", MATRIX, DIM_DELTA_VALUES, DIM_EMBD, AT(out)},
};
#undef AT

static void bind(struct layer *l, const struct config *c, int layer)
{
    (void)layer;
    l->kda = (struct kda){.n = c->n_v, .dim = c->dv, .floor = c->decay_floor,
                          .steep = c->family->decay_as_is ? 1.0f : -1.0f,
                          .direct = c->kda_direct};
}

static int64_t width(const struct kda *d)
{
    return d->n * d->dim;
}

static int64_t scratch(const struct layer *l)
{
    const struct kda *d = &l->kda;
    return 9 * width(d) + 2 * d->dim + d->n;
}

static int64_t per_position(const struct layer *l)
{
    (void)l;
    return 0;
}

/* A matrix (dim, dim) for each head, then three rows of channels. */
static int64_t once(const struct layer *l)
{
    const struct kda *d = &l->kda;
    return width(d) * d->dim + 9 * width(d);
}

struct parts { /* of the scratch; short_f and short_g: (tokens, dim) */
    struct dev_ptr q, k, v, u, f, g, out, short_f, short_g, beta;
};

static struct parts lay_out(const struct step *s, const struct kda *d)
{
    const int64_t all = s->n_tok * width(d);
    struct parts p = {.q = s->m->scratch.form};
    p.k = behind_floats(p.q, all);
    p.v = behind_floats(p.k, all);
    p.u = behind_floats(p.v, all);
    p.f = behind_floats(p.u, 3 * all);
    p.g = behind_floats(p.f, all);
    p.out = behind_floats(p.g, all);
    p.short_f = behind_floats(p.out, all);
    p.short_g = behind_floats(p.short_f, s->n_tok * d->dim);
    p.beta = behind_floats(p.short_g, s->n_tok * d->dim);
    return p;
}

/* Each token's queries, keys and values lie together where they are convolved. */
static void put_together(struct step *s, const struct kda *d, struct dev_ptr x, struct dev_ptr u,
                         int64_t at)
{
    struct model *m = s->m;
    m->dev->ops->heads(m->dev, &(struct dev_heads){
        .n_tok = s->n_tok, .n_heads = 1, .n_in = width(d), .n_out = width(d), .x = x,
        .x_token = width(d), .x_head = width(d), .out = behind_floats(u, at * width(d)),
        .out_token = 3 * width(d), .out_head = width(d)});
}

static void project(struct step *s, const struct layer *l, const struct parts *p)
{
    const struct kda *d = &l->kda;
    const struct dev_ptr x = s->m->scratch.x;
    const struct dev_mat *gate = d->g.n_out ? &d->g : &d->g_a;
    const bool short_f = !d->direct, short_g = gate == &d->g_a && !d->direct;
    work_label(s->m, WORK_PROJECTION);
    step_project(s, x, s->m->c.n_embd, l->mixer_norm, 3,
                 (const struct dev_mat *[]){&d->q, &d->k, &d->v},
                 (struct dev_ptr[]){p->q, p->k, p->v});
    step_project(s, x, s->m->c.n_embd, l->mixer_norm, 3,
                 (const struct dev_mat *[]){&d->f_a, gate, &d->beta},
                 (struct dev_ptr[]){short_f ? p->short_f : p->f, short_g ? p->short_g : p->g,
                                    p->beta});
    if (short_f)
        step_project(s, p->short_f, d->dim, DEV_NONE, 1, (const struct dev_mat *[]){&d->f_b},
                     &p->f);
    if (short_g)
        step_project(s, p->short_g, d->dim, DEV_NONE, 1, (const struct dev_mat *[]){&d->g_b},
                     &p->g);
    put_together(s, d, p->q, p->u, 0);
    put_together(s, d, p->k, p->u, 1);
    put_together(s, d, p->v, p->u, 2);
}

static void compute(struct step *s, const struct layer *l)
{
    struct model *m = s->m;
    const struct kda *d = &l->kda;
    const struct parts p = lay_out(s, d);
    project(s, l, &p);
    work_label(m, WORK_DELTA);
    m->dev->ops->delta(m->dev, &(struct dev_delta){
        .spans = s->delta, .n_spans = step_delta_spans(s, l, width(d) * d->dim),
        .n_k = d->n, .n_v = d->n, .dk = d->dim, .dv = d->dim, .kda = true,
        .floor = d->floor, .steep = d->steep,
        .u = p.u, .z = p.g, .alpha = p.f, .beta = p.beta,
        .ab_token = d->n, .ab_run = d->n, .ab_step = d->n, .decay = d->decay, .dt = d->dt,
        .conv = d->conv_q, .conv_k = d->conv_k, .conv_v = d->conv_v, .norm = d->norm,
        .eps = m->c.eps, .out = p.out});
    step_project_back(s, &d->out, p.out, l->mixer_post_norm);
}

static const struct trace_kind trace = {"delta attention layer", "layer", {"layer"}};

const struct mixer_form kda_form = {
    .name = "Kimi Delta Attention", .rows = rows, .n_rows = ARRAY_LEN(rows), .recurrent = true,
    .trace = &trace, .bind = bind, .scratch = scratch, .per_position = per_position, .once = once,
    .compute = compute,
};
