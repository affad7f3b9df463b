/*
 * Compressed attention, as a mixer (DeepSeek-V4): one vector a position is key and value
 * of all heads, and what attention gives is rotated back. A token sees the nearest ones,
 * and entries that stand for positions long past: of 128 each, all of them; or of 4,
 * overlapping, those that an indexer picks. Queries and output are of low rank, the
 * output's first matrix is one of each group of heads.
 *
 * An entry is made when its last position has come. Until then its rows wait in the
 * session's recurrent state.
 */
#include "model/model_internal.h"

#include <math.h>

#define AT(field) offsetof(struct layer, compressed.field)
static const struct weight_row rows[] = {
    {.name = "attn_q_a.weight", MATRIX, DIM_EMBD, DIM_Q_LORA, AT(q_a)},
    {.name = "attn_q_a_norm.weight", FLOATS, DIM_Q_LORA, DIM_1, AT(q_a_norm)},
    {.name = "attn_q_b.weight", MATRIX, DIM_Q_LORA, DIM_QUERY, AT(q_b)},
    {.name = "attn_kv.weight", MATRIX, DIM_EMBD, DIM_KEY, AT(kv)},
    {.name = "attn_kv_a_norm.weight", FLOATS, DIM_KEY, DIM_1, AT(kv_norm)},
    {.name = "attn_sinks.weight", FLOATS, DIM_HEADS, DIM_1, AT(sinks)},
    {.name = "attn_output_a.weight", MATRIX, DIM_OUT_GROUP, DIM_OUT_LORA, AT(out_a)},
    {.name = "attn_output_b.weight", MATRIX, DIM_OUT_LORA, DIM_EMBD, AT(out_b)},
    {.name = "attn_compressor_kv.weight", MATRIX, DIM_EMBD, DIM_ENTRY, AT(keys.values), 0,
     IF_ENTRIES},
    {.name = "attn_compressor_gate.weight", MATRIX, DIM_EMBD, DIM_ENTRY, AT(keys.scores), 0,
     IF_ENTRIES},
    {.name = "attn_compressor_ape.weight", MATRIX, DIM_ENTRY, DIM_RATIO, AT(keys.ape), 0,
     IF_ENTRIES | NO_SCALE},
    {.name = "attn_compressor_norm.weight", FLOATS, DIM_KEY, DIM_1, AT(keys.norm), 0, IF_ENTRIES},
    {.name = "indexer.attn_q_b.weight", MATRIX, DIM_Q_LORA, DIM_INDEX_QUERY, AT(index_q), 0,
     IF_INDEXES},
    {.name = "indexer.proj.weight", MATRIX, DIM_EMBD, DIM_INDEX_HEADS, AT(index_proj), 0,
     IF_INDEXES},
    {.name = "indexer_compressor_kv.weight", MATRIX, DIM_EMBD, DIM_INDEX_ENTRY,
     AT(index_keys.values), 0, IF_INDEXES},
    {.name = "indexer_compressor_gate.weight", MATRIX, DIM_EMBD, DIM_INDEX_ENTRY,
     AT(index_keys.scores), 0, IF_INDEXES},
    {.name = "indexer_compressor_ape.weight", MATRIX, DIM_INDEX_ENTRY, DIM_RATIO,
     AT(index_keys.ape), 0, IF_INDEXES | NO_SCALE},
    {.name = "indexer_compressor_norm.weight", FLOATS, DIM_INDEX, DIM_1, AT(index_keys.norm), 0,
     IF_INDEXES},
};
#undef AT

static void bind(struct layer *l, const struct config *c, int layer)
{
    const struct layer_config *n = &c->layer[layer];
    l->compressed = (struct compressed){
        .n_head = n->n_head, .dim = n->key_dim, .n_rot = n->n_rot, .q_lora = c->q_lora,
        .window = n->window, .out_groups = c->out_groups, .out_lora = c->out_lora,
        .ratio = n->ratio, .n_seen = n->indexes ? c->n_seen : 0,
        .index_heads = n->indexes ? c->index_heads : 0,
        .index_dim = n->indexes ? c->index_dim : 0, .rope = n->rope, .scale = c->attn_scale};
}

/* With an indexer entries overlap: rows are twice as long, and twice as many wait. */
static int64_t overlap(const struct compressed *a)
{
    return a->index_heads ? 2 : 1;
}

/* Floats of the rows of a token, of attention's entries and of the indexer's. */
static int64_t row(const struct compressed *a)
{
    return a->ratio ? overlap(a) * a->dim : 0;
}

static int64_t index_row(const struct compressed *a)
{
    return overlap(a) * a->index_dim;
}

static int64_t places(const struct compressed *a)
{
    return overlap(a) * a->ratio;
}

static int64_t scratch(const struct layer *l)
{
    const struct compressed *a = &l->compressed;
    return a->q_lora + 2 * a->n_head * a->dim + a->dim + a->out_groups * a->out_lora +
           2 * row(a) + 2 * index_row(a) + a->index_heads * a->index_dim + a->index_heads;
}

static int64_t per_position(const struct layer *l)
{
    return l->compressed.dim;
}

static int64_t per_entry(const struct layer *l)
{
    const struct compressed *a = &l->compressed;
    return a->ratio ? a->dim + a->index_dim : 0;
}

/* Rows that wait: of each, values and scores. */
static int64_t once(const struct layer *l)
{
    const struct compressed *a = &l->compressed;
    return places(a) * 2 * (row(a) + index_row(a));
}

struct parts { /* of the scratch */
    struct dev_ptr q_a, q, kv, attended, out, values, scores, index_values, index_scores, index_q,
        index_weights;
};

static struct parts lay_out(const struct step *s, const struct compressed *a)
{
    struct parts p = {.q_a = s->m->scratch.form};
    p.q = behind_floats(p.q_a, s->n_tok * a->q_lora);
    p.kv = behind_floats(p.q, s->n_tok * a->n_head * a->dim);
    p.attended = behind_floats(p.kv, s->n_tok * a->dim);
    p.out = behind_floats(p.attended, s->n_tok * a->n_head * a->dim);
    p.values = behind_floats(p.out, s->n_tok * a->out_groups * a->out_lora);
    p.scores = behind_floats(p.values, s->n_tok * row(a));
    p.index_values = behind_floats(p.scores, s->n_tok * row(a));
    p.index_scores = behind_floats(p.index_values, s->n_tok * index_row(a));
    p.index_q = behind_floats(p.index_scores, s->n_tok * index_row(a));
    p.index_weights = behind_floats(p.index_q, s->n_tok * a->index_heads * a->index_dim);
    return p;
}

/* Rows of n floats become normed, in place. */
static void norm(struct step *s, struct dev_ptr x, struct dev_ptr weight, int64_t n_rows, int64_t n)
{
    struct model *m = s->m;
    m->dev->ops->norm(m->dev, &(struct dev_norm){
        .x = x, .weight = weight, .out = x, .n_tok = n_rows, .n = n, .x_stride = n,
        .out_stride = n, .eps = m->c.eps});
}

static void project(struct step *s, const struct layer *l, const struct parts *p)
{
    struct model *m = s->m;
    const struct compressed *a = &l->compressed;
    work_label(m, WORK_PROJECTION);
    step_project(s, m->scratch.x, m->c.n_embd, l->mixer_norm, a->ratio ? 4 : 2,
                 (const struct dev_mat *[]){&a->q_a, &a->kv, &a->keys.values, &a->keys.scores},
                 (struct dev_ptr[]){p->q_a, p->kv, p->values, p->scores});
    if (a->index_heads)
        step_project(s, m->scratch.x, m->c.n_embd, l->mixer_norm, 3,
                     (const struct dev_mat *[]){&a->index_keys.values, &a->index_keys.scores,
                                                &a->index_proj},
                     (struct dev_ptr[]){p->index_values, p->index_scores, p->index_weights});
    step_project(s, p->q_a, a->q_lora, a->q_a_norm, a->index_heads ? 2 : 1,
                 (const struct dev_mat *[]){&a->q_b, &a->index_q},
                 (struct dev_ptr[]){p->q, p->index_q});
    norm(s, p->q, DEV_NONE, s->n_tok * a->n_head, a->dim);
    norm(s, p->kv, a->kv_norm, s->n_tok, a->dim);
}

/* The spans' caches: of keys, and of entries that begin `floats` into an entry's. */
static int spans(struct step *s, const struct layer *l, int64_t floats)
{
    int n = step_kv_spans(s, l, 1, l->compressed.dim), at = 0;
    for (int i = 0; i < s->n_spans && !s->measuring; i++)
        if (span_alive(&s->spans[i]))
            s->kv[at++].v = state_entries(s->spans[i].state, (int)(l - s->m->layers), floats);
    return n;
}

/* The same of a compressor, whose rows that wait begin `before` floats into the state. */
static int waiting_spans(struct step *s, const struct layer *l, int64_t floats, int64_t before)
{
    int n = spans(s, l, floats), at = 0;
    for (int i = 0; i < s->n_spans && !s->measuring; i++)
        if (span_alive(&s->spans[i]))
            s->kv[at++].k =
                behind_floats(state_once(s->spans[i].state, (int)(l - s->m->layers)), before);
    return n;
}

static void compress(struct step *s, const struct compressed *a, const struct compressor *c,
                     int n_spans, int64_t dim, struct dev_ptr values, struct dev_ptr scores)
{
    struct model *m = s->m;
    m->dev->ops->compress(m->dev, &(struct dev_compress){
        .spans = s->kv, .n_spans = n_spans, .ratio = a->ratio, .dim = dim,
        .overlap = overlap(a) > 1, .rope = step_rope(s, a->rope, a->n_rot, dim - a->n_rot),
        .values = values, .scores = scores, .ape = &c->ape, .norm = c->norm, .eps = m->c.eps,
        .kv_f16 = m->options.kv_f16});
}

/* Entries that are complete come into the caches, and the indexer picks of them. */
static void see_entries(struct step *s, const struct layer *l, const struct parts *p)
{
    struct model *m = s->m;
    const struct compressed *a = &l->compressed;
    if (!a->ratio)
        return;
    compress(s, a, &a->keys, waiting_spans(s, l, 0, 0), a->dim, p->values, p->scores);
    if (!a->index_heads)
        return;
    compress(s, a, &a->index_keys, waiting_spans(s, l, a->dim, places(a) * 2 * row(a)),
             a->index_dim, p->index_values, p->index_scores);
    const int n_spans = spans(s, l, a->dim);
    for (int i = 0; i < n_spans; i++)
        s->kv[i].base = 0; /* of entries all are there */
    m->dev->ops->index(m->dev, &(struct dev_index){
        .spans = s->kv, .n_spans = n_spans, .n_head = a->index_heads, .dim = a->index_dim,
        .rope = step_rope(s, a->rope, a->n_rot, a->index_dim - a->n_rot), .q = p->index_q,
        .weights = p->index_weights, .scale = 1.0f / sqrtf((float)(a->index_heads * a->index_dim)),
        .n_seen = a->n_seen, .ratio = a->ratio, .kv_f16 = m->options.kv_f16,
        .seen = m->scratch.seen});
}

static void compute(struct step *s, const struct layer *l)
{
    struct model *m = s->m;
    const struct compressed *a = &l->compressed;
    const struct parts p = lay_out(s, a);
    const int64_t in = a->n_head * a->dim / a->out_groups;
    project(s, l, &p);
    work_label(m, WORK_ATTENTION);
    see_entries(s, l, &p);
    m->dev->ops->attention(m->dev, &(struct dev_attention){
        .spans = s->kv, .n_spans = spans(s, l, 0), .n_head = a->n_head, .n_kv = 1,
        .key_dim = a->dim, .value_dim = a->dim,
        .rope = step_rope(s, a->rope, a->n_rot, a->dim - a->n_rot), .q = p.q, .k = p.kv,
        .window = a->window, .sinks = a->sinks, .scale = a->scale, .ratio = a->ratio,
        .seen = a->n_seen ? m->scratch.seen : DEV_NONE, .n_seen = a->n_seen, .turn_back = true,
        .kv_f16 = m->options.kv_f16, .out = p.attended});
    work_label(m, WORK_PROJECTION);
    m->dev->ops->heads(m->dev, &(struct dev_heads){
        .w = &a->out_a, .step = a->out_lora, .n_tok = s->n_tok, .n_heads = a->out_groups,
        .n_in = in, .n_out = a->out_lora, .x = p.attended, .x_token = a->n_head * a->dim,
        .x_head = in, .out = p.out, .out_token = a->out_groups * a->out_lora,
        .out_head = a->out_lora});
    step_project_back(s, &a->out_b, p.out, l->mixer_post_norm);
}

static const struct trace_kind trace = {"compressed attention layer", "layer", {"layer"}};

const struct mixer_form compressed_form = {
    .name = "compressed attention", .rows = rows, .n_rows = ARRAY_LEN(rows), .recurrent = true,
    .trace = &trace, .bind = bind, .scratch = scratch, .per_position = per_position,
    .per_entry = per_entry, .once = once, .compute = compute,
};
