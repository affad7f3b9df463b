/*
 * Experts that read a short vector and give one, as an ffn: it is made of what the router
 * sees, and their sum is brought back, normed first (Kimi-K3). A shared expert reads and
 * gives the whole vector, and is computed while the others are read.
 */
#include "model/model_internal.h"

#define AT(field) offsetof(struct layer, latent_experts.field)
static const struct weight_row rows[] = {
    {.name = "ffn_routed_down.weight", MATRIX, DIM_EMBD, DIM_EXPERT_EMBD, AT(down)},
    {.name = "ffn_routed_norm.weight", FLOATS, DIM_EXPERT_EMBD, DIM_1, AT(norm), 0, IF_THERE},
    {.name = "ffn_routed_up.weight", MATRIX, DIM_EXPERT_EMBD, DIM_EMBD, AT(up)},
    {.name = "ffn_gate_shexp.weight", MATRIX, DIM_EMBD, DIM_SHARED, AT(shared_gate),
     HAS_SHARED_EXPERT, FLOAT_INPUT},
    {.name = "ffn_up_shexp.weight", MATRIX, DIM_EMBD, DIM_SHARED, AT(shared_up), HAS_SHARED_EXPERT,
     FLOAT_INPUT},
    {.name = "ffn_down_shexp.weight", MATRIX, DIM_SHARED, DIM_EMBD, AT(shared_down),
     HAS_SHARED_EXPERT},
};
#undef AT

static void bind(struct layer *l, const struct config *c, int layer)
{
    (void)c;
    (void)layer;
    l->latent_experts = (struct latent_experts){.norm = DEV_NONE};
}

static int64_t scratch(const struct layer *l)
{
    return 2 * l->latent_experts.shared_down.n_in;
}

static void meanwhile(struct step *s, const struct layer *l)
{
    struct model *m = s->m;
    const struct latent_experts *x = &l->latent_experts;
    const int64_t width = x->shared_down.n_in;
    const struct dev_ptr g = m->scratch.form, u = behind_floats(g, s->n_tok * width);
    if (!x->shared_down.n_out)
        return;
    work_label(m, WORK_SHARED);
    step_project(s, m->scratch.h, m->c.n_embd, DEV_NONE, 2,
                 (const struct dev_mat *[]){&x->shared_gate, &x->shared_up},
                 (struct dev_ptr[]){g, u});
    m->dev->ops->gate(m->dev, &(struct dev_gate){
        .g = g, .u = u, .n_tok = s->n_tok, .width = width, .act = m->c.family->act,
        .limit = l->experts.shared_limit, .cap = m->c.up_cap});
    step_project_back(s, &x->shared_down, g, l->ffn_post_norm);
}

static void bring_back(struct step *s, const struct layer *l, struct dev_ptr from)
{
    struct model *m = s->m;
    const int64_t n = l->experts.n_embd;
    if (l->latent_experts.norm.mem)
        m->dev->ops->norm(m->dev, &(struct dev_norm){
            .x = from, .weight = l->latent_experts.norm, .out = from, .n_tok = s->n_tok, .n = n,
            .x_stride = n, .out_stride = n, .eps = m->c.eps});
    step_project_back(s, &l->latent_experts.up, from, l->ffn_post_norm);
}

const struct ffn_form latent_experts_form = {
    .name = "latent experts", .rows = rows, .n_rows = ARRAY_LEN(rows), .parts = {&experts_form},
    .trace = &experts_trace, .bind = bind, .scratch = scratch, .compute = experts_compute,
    .meanwhile = meanwhile, .bring_back = bring_back, .rehearse = experts_rehearse,
};
