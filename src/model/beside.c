/*
 * A network and experts side by side, as an ffn: both see what the mixer left, each
 * through a norm of its own, and what each gives is normed before it is added
 * (Gemma 4). The network is computed while the experts are read.
 */
#include "model/model_internal.h"

#define AT(field) offsetof(struct layer, beside.field)
static const struct weight_row rows[] = {
    {.name = "pre_ffw_norm_2.weight", FLOATS, DIM_EMBD, DIM_1, AT(norm)},
    {.name = "post_ffw_norm_2.weight", FLOATS, DIM_EMBD, DIM_1, AT(post_norm)},
    {.name = "post_ffw_norm_1.weight", FLOATS, DIM_EMBD, DIM_1, AT(dense_post_norm)},
};
#undef AT

static void bind(struct layer *l, const struct config *c, int layer)
{
    (void)c;
    (void)layer;
    l->beside = (struct beside){.norm = DEV_NONE};
}

static int64_t scratch(const struct layer *l)
{
    return dense_ffn_form.scratch(l);
}

/* What the network gives, normed, to where experts.c adds theirs. */
static void meanwhile(struct step *s, const struct layer *l)
{
    struct model *m = s->m;
    const int64_t n = m->c.n_embd;
    const struct dev_ptr hidden = dense_ffn_hidden(s, l), branch = m->scratch.branch;
    step_project(s, hidden, l->dense.width, DEV_NONE, 1,
                 (const struct dev_mat *[]){&l->dense.down}, &branch);
    m->dev->ops->norm(m->dev, &(struct dev_norm){
        .x = branch, .weight = l->beside.dense_post_norm, .out = m->scratch.shared_y,
        .n_tok = s->n_tok, .n = n, .x_stride = n, .out_stride = n, .eps = m->c.eps});
}

/* shared_y holds what the network gave. */
static void bring_back(struct step *s, const struct layer *l, struct dev_ptr from)
{
    struct model *m = s->m;
    const int64_t n = m->c.n_embd;
    m->dev->ops->norm(m->dev, &(struct dev_norm){
        .x = from, .weight = l->beside.post_norm, .out = m->scratch.shared_y, .n_tok = s->n_tok,
        .n = n, .x_stride = n, .out_stride = n, .eps = m->c.eps, .add = true});
    step_branch_back(s, m->scratch.shared_y, l->ffn_post_norm);
}

const struct ffn_form beside_form = {
    .name = "network and experts", .rows = rows, .n_rows = ARRAY_LEN(rows),
    .parts = {&dense_ffn_form, &experts_form}, .trace = &experts_trace, .bind = bind,
    .scratch = scratch, .compute = experts_compute, .meanwhile = meanwhile,
    .bring_back = bring_back, .rehearse = experts_rehearse,
};
