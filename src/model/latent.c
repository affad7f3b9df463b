/*
 * Latent attention, as a mixer: the cache of a position is one vector c and a key
 * that all heads rotate together; each head's keys are K_h c and its values V_h c
 * (DeepSeek-V2, arXiv 2405.04434, 2.1). K_h is taken into the query and V_h behind
 * the sum, so that attention is over c itself, as with one kv head.
 *
 * Heads are taken in slices: queries over c are four times as long as the heads'
 * own, and only a slice of them has to be held.
 */
#include "model/model_internal.h"

#include <math.h>

#define AT(field) offsetof(struct layer, latent.field)
static const struct weight_row rows[] = {
    {.name = "attn_q.weight", MATRIX, DIM_EMBD, DIM_LATENT_QUERY, AT(q), 0, 0,
     "attn_q_b.weight"},
    {.name = "attn_q_a.weight", MATRIX, DIM_EMBD, DIM_Q_LORA, AT(q_a), HAS_Q_LORA},
    {.name = "attn_q_a_norm.weight", FLOATS, DIM_Q_LORA, DIM_1, AT(q_a_norm), HAS_Q_LORA},
    {.name = "attn_q_b.weight", MATRIX, DIM_Q_LORA, DIM_LATENT_QUERY, AT(q_b), HAS_Q_LORA},
    {.name = "attn_kv_a_mqa.weight", MATRIX, DIM_EMBD, DIM_KV_A, AT(kv_a)},
    {.name = "attn_kv_a_norm.weight", FLOATS, DIM_KV_LORA, DIM_1, AT(kv_a_norm)},
    {.name = "attn_kv_b.weight", MATRIX, DIM_KV_LORA, DIM_LATENT_PAIR, AT(kv_b), HAS_LATENT_PAIR},
    {.name = "attn_k_b.weight", HEADS, DIM_NOPE, DIM_KV_LORA, AT(k_b), 0, 0, "attn_kv_b.weight"},
    {.name = "attn_v_b.weight", HEADS, DIM_KV_LORA, DIM_LATENT_VALUE, AT(v_b), 0, 0,
     "attn_kv_b.weight"},
    {.name = "attn_gate.weight", MATRIX, DIM_EMBD, DIM_LATENT_OUT, AT(gate), HAS_GATE},
    {.name = "attn_gate.weight", MATRIX, DIM_EMBD, DIM_HEADS, AT(gate), HAS_HEAD_GATE},
    {.name = "attn_output.weight", MATRIX, DIM_LATENT_OUT, DIM_EMBD, AT(out)},
    {.name = "indexer.attn_q_b.weight", MATRIX, DIM_Q_LORA, DIM_INDEX_QUERY, AT(index_q),
     HAS_INDEXER, IF_THERE},
    {.name = "indexer.attn_k.weight", MATRIX, DIM_EMBD, DIM_INDEX, AT(index_k), HAS_INDEXER,
     IF_THERE},
    {.name = "indexer.proj.weight", MATRIX, DIM_EMBD, DIM_INDEX_HEADS, AT(index_proj),
     HAS_INDEXER, IF_THERE},
    {.name = "indexer.k_norm.weight", FLOATS, DIM_INDEX, DIM_1, AT(index_norm), HAS_INDEXER,
     IF_THERE},
    {.name = "indexer.k_norm.bias", FLOATS, DIM_INDEX, DIM_1, AT(index_bias), HAS_INDEXER,
     IF_THERE},
};
#undef AT

enum { SLICE = 16 }; /* heads */

static void bind(struct layer *l, const struct config *c, int layer)
{
    const struct layer_config *n = &c->layer[layer];
    l->latent = (struct latent){
        .n_head = n->n_head, .nope = c->nope, .rope = n->n_rot, .value = c->latent_value,
        .q_lora = c->q_lora, .kv_lora = c->kv_lora, .scale = c->attn_scale,
        .still = config_has(c, HAS_STILL_LATENT), .n_seen = c->n_seen,
        .index_heads = n->indexes ? c->index_heads : 0,
        .index_dim = n->indexes ? c->index_dim : 0, .index_eps = c->index_eps,
        .index_rotation = c->family->index_rotation};
}

static int64_t slice(const struct latent *a)
{
    return MIN(a->n_head, (int64_t)SLICE);
}

static int64_t key_dim(const struct latent *a)
{
    return a->kv_lora + a->rope;
}

static int64_t query_dim(const struct latent *a)
{
    return a->nope + a->rope;
}

static int64_t scratch(const struct layer *l)
{
    const struct latent *a = &l->latent;
    return a->q_lora + a->n_head * (query_dim(a) + a->value) + key_dim(a) +
           slice(a) * (key_dim(a) + a->kv_lora) + (a->index_heads + 1) * a->index_dim +
           a->index_heads + a->gate.n_out;
}

static int64_t per_position(const struct layer *l)
{
    return key_dim(&l->latent) + l->latent.index_dim;
}

static int64_t once(const struct layer *l)
{
    (void)l;
    return 0;
}

struct parts { /* of the scratch */
    struct dev_ptr q_a, q, kv, long_q, attended, out, index_q, index_k, index_weights, gate;
};

static struct parts lay_out(const struct step *s, const struct latent *a)
{
    struct parts p = {.q_a = s->m->scratch.form};
    p.q = behind_floats(p.q_a, s->n_tok * a->q_lora);
    p.kv = behind_floats(p.q, s->n_tok * a->n_head * query_dim(a));
    p.long_q = behind_floats(p.kv, s->n_tok * key_dim(a));
    p.attended = behind_floats(p.long_q, s->n_tok * slice(a) * key_dim(a));
    p.out = behind_floats(p.attended, s->n_tok * slice(a) * a->kv_lora);
    p.index_q = behind_floats(p.out, s->n_tok * a->n_head * a->value);
    p.index_k = behind_floats(p.index_q, s->n_tok * a->index_heads * a->index_dim);
    p.index_weights = behind_floats(p.index_k, s->n_tok * a->index_dim);
    p.gate = behind_floats(p.index_weights, s->n_tok * a->index_heads);
    return p;
}

/* The gate is taken of what the layer begins with, and multiplies what its heads give. */
static void apply_gate(struct step *s, const struct layer *l, const struct parts *p)
{
    struct model *m = s->m;
    const struct latent *a = &l->latent;
    work_label(m, WORK_PROJECTION);
    step_project(s, m->scratch.x, m->c.n_embd, l->mixer_norm, 1,
                 (const struct dev_mat *[]){&a->gate}, &p->gate);
    m->dev->ops->gate(m->dev, &(struct dev_gate){
        .g = p->gate, .u = p->out, .n_tok = s->n_tok, .width = a->gate.n_out,
        .act = DEV_GATE_ALONE});
}

/* Queries of all heads, and c and the rotated key: c is normed in place. */
static void project(struct step *s, const struct layer *l, const struct parts *p)
{
    struct model *m = s->m;
    const struct latent *a = &l->latent;
    const struct dev_mat *first = a->q_lora ? &a->q_a : &a->q;
    work_label(m, WORK_PROJECTION);
    step_project(s, m->scratch.x, m->c.n_embd, l->mixer_norm, a->index_heads ? 4 : 2,
                 (const struct dev_mat *[]){first, &a->kv_a, &a->index_k, &a->index_proj},
                 (struct dev_ptr[]){a->q_lora ? p->q_a : p->q, p->kv, p->index_k,
                                    p->index_weights});
    if (a->q_lora)
        step_project(s, p->q_a, a->q_lora, a->q_a_norm, a->index_heads ? 2 : 1,
                     (const struct dev_mat *[]){&a->q_b, &a->index_q},
                     (struct dev_ptr[]){p->q, p->index_q});
    m->dev->ops->norm(m->dev, &(struct dev_norm){
        .x = p->kv, .weight = a->kv_a_norm, .out = p->kv, .n_tok = s->n_tok, .n = a->kv_lora,
        .x_stride = key_dim(a), .out_stride = key_dim(a), .eps = m->c.eps});
}

/* What the layer, and those behind it without an indexer, shall see. Its keys lie behind
 * those of attention. */
static void index_positions(struct step *s, const struct layer *l, const struct parts *p)
{
    struct model *m = s->m;
    const struct latent *a = &l->latent;
    struct dev_rope rope = step_rope(s, FAR, a->rope, 0);
    if (!a->index_heads)
        return;
    rope.pairs = a->index_rotation;
    m->dev->ops->index(m->dev, &(struct dev_index){
        .spans = s->kv, .n_spans = step_kv_spans(s, l, 1, key_dim(a)), .n_head = a->index_heads,
        .dim = a->index_dim, .rope = rope, .q = p->index_q, .k = p->index_k,
        .weights = p->index_weights, .norm = a->index_norm, .bias = a->index_bias,
        .eps = a->index_eps, .scale = 1.0f / sqrtf((float)(a->index_heads * a->index_dim)),
        .n_seen = a->n_seen, .kv_f16 = m->options.kv_f16, .seen = m->scratch.seen});
}

/* Queries over c of n heads from h on: K_h^T of the part without positions, and the
 * other part as it is. */
static void take_in(struct step *s, const struct latent *a, const struct parts *p, int64_t h,
                    int64_t n)
{
    struct model *m = s->m;
    const bool pair = a->kv_b.n_out > 0;
    const struct dev_ptr q = behind_floats(p->q, h * query_dim(a));
    struct dev_mat w = pair ? a->kv_b : a->k_b;
    const int64_t step = pair ? a->nope + a->value : a->kv_lora;
    m->dev->ops->heads(m->dev, &(struct dev_heads){
        .w = &w, .step = step, .first = h * step, .transposed = pair, .n_tok = s->n_tok,
        .n_heads = n, .n_in = a->nope, .n_out = a->kv_lora, .x = q,
        .x_token = a->n_head * query_dim(a), .x_head = query_dim(a), .out = p->long_q,
        .out_token = n * key_dim(a), .out_head = key_dim(a)});
    m->dev->ops->heads(m->dev, &(struct dev_heads){
        .n_tok = s->n_tok, .n_heads = n, .n_in = a->rope, .n_out = a->rope,
        .x = behind_floats(q, a->nope), .x_token = a->n_head * query_dim(a),
        .x_head = query_dim(a), .out = behind_floats(p->long_q, a->kv_lora),
        .out_token = n * key_dim(a), .out_head = key_dim(a)});
}

/* Values of n heads from h on: V_h of what attention gave. */
static void bring_out(struct step *s, const struct latent *a, const struct parts *p, int64_t h,
                      int64_t n)
{
    struct model *m = s->m;
    const bool pair = a->kv_b.n_out > 0;
    struct dev_mat w = pair ? a->kv_b : a->v_b;
    const int64_t step = pair ? a->nope + a->value : a->value;
    m->dev->ops->heads(m->dev, &(struct dev_heads){
        .w = &w, .step = step, .first = h * step + (pair ? a->nope : 0), .n_tok = s->n_tok,
        .n_heads = n, .n_in = a->kv_lora, .n_out = a->value, .x = p->attended,
        .x_token = n * a->kv_lora, .x_head = a->kv_lora,
        .out = behind_floats(p->out, h * a->value), .out_token = a->n_head * a->value,
        .out_head = a->value});
}

static bool gates_heads(const struct latent *a)
{
    return a->gate.n_out == a->n_head;
}

/* The first slice brings the tokens into the cache. A gate of a head multiplies what
 * attention gives before its values are brought out, which is the same. */
static void attend(struct step *s, const struct layer *l, const struct parts *p, int64_t h,
                   int64_t n)
{
    struct model *m = s->m;
    const struct latent *a = &l->latent;
    if (gates_heads(a)) {
        const struct dev_mat gate = mat_rows(&a->gate, h, n);
        step_project(s, m->scratch.x, m->c.n_embd, l->mixer_norm, 1,
                     (const struct dev_mat *[]){&gate}, &p->gate);
    }
    m->dev->ops->attention(m->dev, &(struct dev_attention){
        .spans = s->kv, .n_spans = step_kv_spans(s, l, 1, key_dim(a)), .n_head = n, .n_kv = 1,
        .key_dim = key_dim(a), .value_dim = a->kv_lora,
        .rope = step_rope(s, FAR, a->still ? 0 : a->rope, a->kv_lora),
        .q = p->long_q, .k = h == 0 ? p->kv : DEV_NONE, .eps = m->c.eps, .scale = a->scale,
        .heat = m->c.heat, .heat_length = m->c.heat_length,
        .seen = a->n_seen ? m->scratch.seen : DEV_NONE, .n_seen = a->n_seen,
        .gate = gates_heads(a) ? p->gate : DEV_NONE, .gate_dim = 1,
        .kv_f16 = m->options.kv_f16, .out = p->attended});
}

static void compute(struct step *s, const struct layer *l)
{
    const struct latent *a = &l->latent;
    const struct parts p = lay_out(s, a);
    project(s, l, &p);
    work_label(s->m, WORK_ATTENTION);
    index_positions(s, l, &p);
    for (int64_t h = 0; h < a->n_head; h += slice(a)) {
        const int64_t n = MIN(slice(a), a->n_head - h);
        take_in(s, a, &p, h, n);
        attend(s, l, &p, h, n);
        bring_out(s, a, &p, h, n);
    }
    const bool gated = a->gate.n_out && !gates_heads(a);
    if (gated)
        apply_gate(s, l, &p);
    step_project_back(s, &a->out, gated ? p.gate : p.out, l->mixer_post_norm);
}

static const struct trace_kind trace = {"latent attention layer", "layer", {"layer"}};

const struct mixer_form latent_form = {
    .name = "latent attention", .rows = rows, .n_rows = ARRAY_LEN(rows), .trace = &trace,
    .bind = bind, .scratch = scratch, .per_position = per_position, .once = once,
    .compute = compute,
};
