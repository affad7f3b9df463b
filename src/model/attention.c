/* Attention over a KV cache, as a mixer. */
#include "model/model_internal.h"

#define AT(field) offsetof(struct layer, attention.field)
static const struct weight_row rows[] = {
    {.name = "attn_qkv.weight", MATRIX, DIM_EMBD, DIM_QKV, AT(qkv), HAS_FUSED_QKV},
    {.name = "attn_q.weight", MATRIX, DIM_EMBD, DIM_QUERY, AT(q), 0, 0, "attn_qkv.weight"},
    {.name = "attn_k.weight", MATRIX, DIM_EMBD, DIM_KEYS, AT(k), 0, 0, "attn_qkv.weight"},
    {.name = "attn_v.weight", MATRIX, DIM_EMBD, DIM_VALUES, AT(v), 0, 0, "attn_qkv.weight",
     .lacks = HAS_VALUE_NORM},
    {.name = "attn_v.weight", MATRIX, DIM_EMBD, DIM_VALUES, AT(v), HAS_VALUE_NORM, IF_THERE},
    {.name = "attn_gate.weight", MATRIX, DIM_EMBD, DIM_ATTENDED, AT(gate), HAS_GATE},
    {.name = "attn_gate.weight", MATRIX, DIM_EMBD, DIM_HEADS, AT(gate), HAS_HEAD_GATE},
    {.name = "attn_output.weight", MATRIX, DIM_ATTENDED, DIM_EMBD, AT(out)},
    {.name = "attn_q.bias", FLOATS, DIM_QUERY, DIM_1, AT(q.bias), HAS_QKV_BIAS},
    {.name = "attn_k.bias", FLOATS, DIM_KEYS, DIM_1, AT(k.bias), HAS_QKV_BIAS},
    {.name = "attn_v.bias", FLOATS, DIM_VALUES, DIM_1, AT(v.bias), HAS_QKV_BIAS},
    {.name = "attn_output.bias", FLOATS, DIM_EMBD, DIM_1, AT(out.bias), HAS_OUTPUT_BIAS},
    {.name = "attn_q_norm.weight", FLOATS, DIM_QUERY_NORM, DIM_1, AT(q_norm), HAS_QK_NORM},
    {.name = "attn_k_norm.weight", FLOATS, DIM_KEY_NORM, DIM_1, AT(k_norm), HAS_QK_NORM},
    {.name = "attn_q_norm.weight", FLOATS, DIM_QUERY_NORM, DIM_1, AT(q_norm), HAS_ONE_QK_NORM},
    {.name = "attn_k_norm.weight", FLOATS, DIM_KEY_NORM, DIM_1, AT(k_norm), HAS_ONE_QK_NORM},
    {.name = "attn_sinks.weight", FLOATS, DIM_HEADS, DIM_1, AT(sinks), HAS_SINKS},
    {.name = "attn_sinks.weight", FLOATS, DIM_HEADS, DIM_1, AT(sinks), HAS_SOME_SINKS, IF_THERE},
};
#undef AT

static void bind(struct layer *l, const struct config *c, int layer)
{
    const struct layer_config *n = &c->layer[layer];
    l->attention = (struct attention){
        .n_head = n->n_head, .n_kv = n->n_kv, .key_dim = n->key_dim, .value_dim = n->value_dim,
        .n_rot = n->n_rot, .window = n->window, .chunk = n->chunk, .rope = n->rope,
        .gated = config_has(c, HAS_GATED_QUERY), .norm_all = config_has(c, HAS_ONE_QK_NORM),
        .norm_unit = config_has(c, HAS_UNIT_QK_NORM) && n->n_rot > 0,
        .norm_late = config_has(c, HAS_LATE_QK_NORM),
        .heat = config_has(c, HAS_FAR_HEAT) && layer_is_near(n) ? 0.0f : c->heat,
        .value_norm = config_has(c, HAS_VALUE_NORM), .scale = c->attn_scale};
}

static int64_t query_floats(const struct attention *a)
{
    return (a->gated ? 2 : 1) * a->n_head * a->key_dim;
}

static int64_t scratch(const struct layer *l)
{
    const struct attention *a = &l->attention;
    return query_floats(a) + a->n_kv * (a->key_dim + a->value_dim) + a->n_head * a->value_dim +
           a->gate.n_out;
}

static int64_t per_position(const struct layer *l)
{
    return l->attention.n_kv * (l->attention.key_dim + l->attention.value_dim);
}

static int64_t once(const struct layer *l)
{
    (void)l;
    return 0;
}

int step_kv_spans(const struct step *s, const struct layer *l, int64_t n_kv, int64_t key_dim)
{
    const size_t float_bytes = s->m->options.kv_f16 ? sizeof(uint16_t) : sizeof(float);
    int n = 0;
    for (int i = 0; i < s->n_spans; i++) {
        const struct model_span *x = &s->spans[i];
        if (!span_alive(x))
            continue;
        struct dev_kv_span *k = &s->kv[n++];
        *k = (struct dev_kv_span){.first = x->first, .n_tok = x->n};
        if (s->measuring)
            continue;
        k->pos = x->state->length;
        k->rows = x->state->layer[l - s->m->layers].rows;
        k->base = x->state->layer[l - s->m->layers].base;
        k->k = state_cache(x->state, (int)(l - s->m->layers));
        k->v = dev_at(k->k, (size_t)(n_kv * k->rows * key_dim) * float_bytes);
    }
    return n;
}

struct parts { /* of the scratch */
    struct dev_ptr q, k, v, out, gate;
};

static struct parts lay_out(const struct step *s, const struct attention *a)
{
    struct parts p = {.q = s->m->scratch.form};
    p.k = behind_floats(p.q, s->n_tok * query_floats(a));
    p.v = behind_floats(p.k, s->n_tok * a->n_kv * a->key_dim);
    p.out = behind_floats(p.v, s->n_tok * a->n_kv * a->value_dim);
    p.gate = behind_floats(p.out, s->n_tok * a->n_head * a->value_dim);
    return p;
}

static void project(struct step *s, const struct layer *l, const struct parts *p)
{
    const struct attention *a = &l->attention;
    const int64_t queries = query_floats(a), keys = a->n_kv * a->key_dim;
    struct dev_mat q = a->q, k = a->k, v = a->v;
    if (a->qkv.n_out) {
        q = mat_rows(&a->qkv, 0, queries);
        k = mat_rows(&a->qkv, queries, keys);
        v = mat_rows(&a->qkv, queries + keys, a->n_kv * a->value_dim);
    }
    const struct dev_mat *w[] = {&q, &k, &v, &a->gate};
    const struct dev_ptr out[] = {p->q, p->k, p->v, p->gate};
    struct dev_ptr norm = l->mixer_norm;
    work_label(s->m, WORK_PROJECTION);
    const struct dev_ptr x = step_input(s, l->mixer_norm_bias, &norm);
    step_project(s, x, s->m->c.n_embd, norm, a->gate.n_out ? 4 : v.n_out ? 3 : 2, w, out);
}

/* Values without weights in their norm: of v, or of k where there is none. */
static void norm_values(struct step *s, const struct attention *a, const struct parts *p)
{
    struct model *m = s->m;
    if (a->value_norm)
        m->dev->ops->norm(m->dev, &(struct dev_norm){
            .x = a->v.n_out ? p->v : p->k, .out = p->v, .n_tok = s->n_tok * a->n_kv,
            .n = a->value_dim, .x_stride = a->value_dim, .out_stride = a->value_dim,
            .eps = m->c.eps});
}

static void compute(struct step *s, const struct layer *l)
{
    struct model *m = s->m;
    const struct attention *a = &l->attention;
    const struct parts p = lay_out(s, a);
    project(s, l, &p);
    norm_values(s, a, &p);
    work_label(m, WORK_ATTENTION);
    m->dev->ops->attention(m->dev, &(struct dev_attention){
        .spans = s->kv, .n_spans = step_kv_spans(s, l, a->n_kv, a->key_dim),
        .n_head = a->n_head, .n_kv = a->n_kv, .key_dim = a->key_dim, .value_dim = a->value_dim,
        .rope = step_rope(s, a->rope, a->n_rot, 0), .q = p.q, .gated = a->gated, .k = p.k,
        .v = p.v, .q_norm = a->q_norm, .k_norm = a->k_norm, .norm_all = a->norm_all,
        .norm_unit = a->norm_unit, .norm_late = a->norm_late,
        .window = a->window, .chunk = a->chunk, .sinks = a->sinks, .eps = m->c.eps,
        .gate = a->gate.n_out ? p.gate : DEV_NONE, .gate_dim = a->gate.n_out / a->n_head,
        .scale = a->scale, .heat = a->heat, .heat_length = m->c.heat_length,
        .heat_first = m->c.heat_first,
        .kv_f16 = m->options.kv_f16, .out = p.out});
    scale_floats(m, p.out, s->n_tok * a->n_head * a->value_dim, m->c.value_scale);
    step_project_back(s, &a->out, p.out, l->mixer_post_norm);
}

static const struct trace_kind trace = {"attention layer", "layer", {"layer"}};

const struct mixer_form attention_form = {
    .name = "attention", .rows = rows, .n_rows = ARRAY_LEN(rows), .trace = &trace, .bind = bind,
    .scratch = scratch, .per_position = per_position, .once = once, .compute = compute,
};
