/* One network for all tokens: down(act(gate x, up x)). */
#include "model/model_internal.h"

#define AT(field) offsetof(struct layer, dense.field)
static const struct weight_row rows[] = {
    {.name = "ffn_up.weight", MATRIX, DIM_EMBD, DIM_FFN_PAIR, AT(gate_up), HAS_FUSED_FFN},
    {.name = "ffn_gate.weight", MATRIX, DIM_EMBD, DIM_FFN, AT(gate), .lacks = HAS_FUSED_FFN},
    {.name = "ffn_up.weight", MATRIX, DIM_EMBD, DIM_FFN, AT(up), .lacks = HAS_FUSED_FFN},
    {.name = "ffn_down.weight", MATRIX, DIM_FFN, DIM_EMBD, AT(down)},
};
#undef AT

static void bind(struct layer *l, const struct config *c, int layer)
{
    const struct layer_config *n = &c->layer[layer];
    l->dense = (struct dense_ffn){.width = n->ffn_width, .limit = n->shared_limit};
}

static int64_t scratch(const struct layer *l)
{
    return 2 * l->dense.width;
}

struct dev_ptr dense_ffn_hidden(struct step *s, const struct layer *l)
{
    struct model *m = s->m;
    const int64_t width = l->dense.width;
    const struct dev_ptr g = m->scratch.form, u = behind_floats(g, s->n_tok * width);
    struct dev_mat gate = l->dense.gate, up = l->dense.up;
    if (l->dense.gate_up.n_out) {
        gate = mat_rows(&l->dense.gate_up, 0, width);
        up = mat_rows(&l->dense.gate_up, width, width);
    }
    struct dev_ptr norm = l->ffn_norm;
    work_label(m, WORK_FFN);
    const struct dev_ptr x = step_input(s, l->ffn_norm_bias, &norm);
    step_project(s, x, m->c.n_embd, norm, 2,
                 (const struct dev_mat *[]){&gate, &up},
                 (struct dev_ptr[]){g, u});
    m->dev->ops->gate(m->dev, &(struct dev_gate){
        .g = g, .u = u, .n_tok = s->n_tok, .width = width, .act = m->c.family->act,
        .limit = l->dense.limit, .cap = m->c.up_cap});
    return g;
}

static int compute(struct step *s, int layer, struct err *e)
{
    const struct layer *l = &s->m->layers[layer];
    (void)e;
    step_project_back(s, &l->dense.down, dense_ffn_hidden(s, l), l->ffn_post_norm);
    return OK;
}

static const struct trace_kind trace = {"ffn layer", "layer", {"layer"}};

const struct ffn_form dense_ffn_form = {
    .name = "feed-forward network", .rows = rows, .n_rows = ARRAY_LEN(rows), .trace = &trace,
    .bind = bind, .scratch = scratch, .compute = compute,
};
