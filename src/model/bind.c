/*
 * Tensor names -> weights. Shapes are checked against the configuration, so
 * that nothing later has to. Dense tensors are only listed, with the place
 * where their address will go; experts become extents.
 */
#include "model/model_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct binder {
    struct model *m;
    struct err *e;
    int rc;
    int layer;   /* -1: global */
    int segment; /* of the dense part */
};

static const struct gguf_tensor *lookup(struct binder *b, const char *name, bool required,
                                        char *full, size_t n)
{
    if (b->layer >= 0)
        snprintf(full, n, "blk.%d.%s", b->layer, name);
    else
        snprintf(full, n, "%s", name);
    const struct gguf_tensor *t = gguf_tensor_find(b->m->gguf, full);
    const struct packed_part *packed = t ? NULL : packed_find(&b->m->packed, full);
    if (t || packed)
        b->m->used[(t ? t : packed->in) - gguf_tensor_at(b->m->gguf, 0)] = true;
    if (packed)
        t = &packed->t;
    if (!t && required && b->rc == OK)
        b->rc = err_set(b->e, E_FORMAT,
                        "%s: tensor '%s' is missing; the file is incomplete or of another architecture than it says",
                        gguf_file_path(b->m->gguf, 0), full);
    return t;
}

static bool has_shape(struct binder *b, const struct gguf_tensor *t, int64_t n0, int64_t n1, int64_t n2)
{
    if (t->ne[0] == n0 && t->ne[1] == n1 && t->ne[2] == n2 && t->ne[3] == 1)
        return true;
    if (b->rc == OK)
        b->rc = err_set(b->e, E_FORMAT,
                        "%s: tensor '%s' has shape (%lld, %lld, %lld, %lld), expected (%lld, %lld, %lld, 1) from the metadata",
                        gguf_file_path(b->m->gguf, t->file), t->name, (long long)t->ne[0], (long long)t->ne[1],
                        (long long)t->ne[2], (long long)t->ne[3], (long long)n0, (long long)n1, (long long)n2);
    return false;
}

static void add_dense(struct binder *b, const struct gguf_tensor *t, const void **address)
{
    struct model *m = b->m;
    if (m->n_weights == m->cap_weights) {
        int64_t cap = m->cap_weights ? 2 * m->cap_weights : 256;
        struct dense_weight *w = realloc(m->weights, (size_t)cap * sizeof(*w));
        if (!w) {
            b->rc = err_set(b->e, E_NOMEM, "model: no memory for its list of tensors");
            return;
        }
        m->weights = w;
        m->cap_weights = cap;
    }
    m->weights[m->n_weights++] = (struct dense_weight){t, address, b->segment};
}

/* A dense matrix (n_out, n_in). */
static void matrix(struct binder *b, const char *name, int64_t n_in, int64_t n_out, struct dev_mat *w)
{
    char full[128];
    if (b->rc < 0)
        return;
    const struct gguf_tensor *t = lookup(b, name, true, full, sizeof(full));
    if (!t || !has_shape(b, t, n_in, n_out, 1))
        return;
    *w = (struct dev_mat){.type = t->type, .n_in = n_in, .n_out = n_out};
    add_dense(b, t, &w->data);
}

/* A dense vector or small table of floats: norms, gates, convolutions. */
static void floats(struct binder *b, const char *name, int64_t n0, int64_t n1, const float **v)
{
    char full[128];
    if (b->rc < 0)
        return;
    const struct gguf_tensor *t = lookup(b, name, true, full, sizeof(full));
    if (!t || !has_shape(b, t, n0, n1, 1))
        return;
    if (t->type != DT_F32) {
        b->rc = err_set(b->e, E_UNSUPPORTED, "%s: tensor '%s' is %s, expected F32",
                        gguf_file_path(b->m->gguf, t->file), t->name, dtype_info(t->type)->name);
        return;
    }
    add_dense(b, t, (const void **)v);
}

/* ---- experts ---------------------------------------------------------- */

/* All experts of one matrix, (n_in, n_out, n_experts), as a part. */
static void expert_matrix(struct binder *b, const char *name, int64_t n_in, int64_t n_out,
                          struct dev_mat *w, int part)
{
    char full[128];
    if (b->rc < 0)
        return;
    int64_t n_experts = b->m->c.n_experts;
    const struct gguf_tensor *t = lookup(b, name, true, full, sizeof(full));
    if (!t || !has_shape(b, t, n_in, n_out, n_experts))
        return;
    *w = (struct dev_mat){.type = t->type, .n_in = n_in, .n_out = n_out};
    int64_t bytes = t->bytes / n_experts;
    const struct packed_part *packed = packed_find(&b->m->packed, t->name);
    b->m->experts[b->layer].part[part] = (struct expert_part){
        .file = t->file, .offset = t->offset, .stride = packed ? packed->in->ne[0] : bytes, .bytes = (size_t)bytes};
}

static void bind_experts(struct binder *b, struct layer *l)
{
    const struct config *c = &b->m->c;
    struct expert_layer *x = &b->m->experts[b->layer];
    char full[128];
    l->fused_gate_up = lookup(b, "ffn_gate_up_exps.weight", false, full, sizeof(full)) != NULL;
    x->n_experts = (int)c->n_experts;
    x->n_parts = l->fused_gate_up ? 2 : 3;
    if (l->fused_gate_up) {
        /* rows [0, width) are gate, the rest up */
        expert_matrix(b, "ffn_gate_up_exps.weight", c->n_embd, 2 * c->expert_width, &l->gate, 0);
        l->gate.n_out = c->expert_width;
        l->up = l->gate;
    } else {
        expert_matrix(b, "ffn_gate_exps.weight", c->n_embd, c->expert_width, &l->gate, 0);
        expert_matrix(b, "ffn_up_exps.weight", c->n_embd, c->expert_width, &l->up, 1);
    }
    expert_matrix(b, "ffn_down_exps.weight", c->expert_width, c->n_embd, &l->down, x->n_parts - 1);
    matrix(b, "ffn_gate_inp.weight", c->n_embd, c->n_experts, &l->router);
    if (c->arch->shared_expert) {
        floats(b, "ffn_gate_inp_shexp.weight", c->n_embd, 1, &l->shared_gate);
        matrix(b, "ffn_gate_shexp.weight", c->n_embd, c->shared_width, &l->shared_gate_mat);
        matrix(b, "ffn_up_shexp.weight", c->n_embd, c->shared_width, &l->shared_up);
        matrix(b, "ffn_down_shexp.weight", c->shared_width, c->n_embd, &l->shared_down);
        /* the one expert that every token uses: about 3 % of the weights */
        l->shared_gate_mat.precise = l->shared_up.precise = true;
    }
}

/* ---- layers ----------------------------------------------------------- */

static void bind_attention(struct binder *b, struct layer *l)
{
    const struct config *c = &b->m->c;
    int64_t q = c->n_head * c->head_dim, kv = c->n_kv * c->head_dim;
    matrix(b, "attn_q.weight", c->n_embd, c->arch->gated_attention ? 2 * q : q, &l->q);
    matrix(b, "attn_k.weight", c->n_embd, kv, &l->k);
    matrix(b, "attn_v.weight", c->n_embd, kv, &l->v);
    matrix(b, "attn_output.weight", q, c->n_embd, &l->out);
    if (c->arch->qk_norm) {
        floats(b, "attn_q_norm.weight", c->head_dim, 1, &l->q_norm);
        floats(b, "attn_k_norm.weight", c->head_dim, 1, &l->k_norm);
    }
}

static void bind_delta(struct binder *b, struct layer *l)
{
    const struct config *c = &b->m->c;
    int64_t channels = config_delta_channels(c), vd = c->n_v * c->dv;
    matrix(b, "attn_qkv.weight", c->n_embd, channels, &l->qkv);
    matrix(b, "attn_gate.weight", c->n_embd, vd, &l->z);
    matrix(b, "ssm_alpha.weight", c->n_embd, c->n_v, &l->alpha);
    matrix(b, "ssm_beta.weight", c->n_embd, c->n_v, &l->beta);
    floats(b, "ssm_conv1d.weight", 4, channels, &l->conv);
    floats(b, "ssm_dt.bias", c->n_v, 1, &l->dt);
    floats(b, "ssm_a", c->n_v, 1, &l->a);
    floats(b, "ssm_norm.weight", c->dv, 1, &l->ssm_norm);
    matrix(b, "ssm_out.weight", vd, c->n_embd, &l->out);
}

static void bind_layer(struct binder *b, struct layer *l, int *n_attention, int *n_recurrent)
{
    const struct config *c = &b->m->c;
    char ffn_norm[64];
    snprintf(ffn_norm, sizeof(ffn_norm), "%s.weight", c->arch->ffn_norm);
    l->recurrent = c->recurrent[b->layer];
    l->state_index = l->recurrent ? (*n_recurrent)++ : (*n_attention)++;
    floats(b, "attn_norm.weight", c->n_embd, 1, &l->attn_norm);
    floats(b, ffn_norm, c->n_embd, 1, &l->ffn_norm);
    if (l->recurrent)
        bind_delta(b, l);
    else
        bind_attention(b, l);
    bind_experts(b, l);
}

/* ---- runs of dense tensors -------------------------------------------- */

static int by_place(const void *pa, const void *pb)
{
    const struct dense_weight *a = pa, *b = pb;
    if (a->segment != b->segment)
        return a->segment < b->segment ? -1 : 1;
    if (a->t->file != b->t->file)
        return a->t->file < b->t->file ? -1 : 1;
    return a->t->offset < b->t->offset ? -1 : a->t->offset > b->t->offset;
}

/* Joins neighbours (less than a page between them) so that they are read, and
 * lie in memory, together. Weights are sorted. */
static void segment_runs(struct model *m, int segment, int64_t *weight)
{
    struct dense *d = &m->dense;
    struct dense_segment *s = &d->segments[segment];
    struct dense_run *r = NULL;
    s->first_weight = *weight;
    s->first_run = d->n_runs;
    for (; *weight < m->n_weights && m->weights[*weight].segment == segment; ++*weight) {
        const struct gguf_tensor *t = m->weights[*weight].t;
        if (!r || r->file != t->file || t->offset - r->end >= IOQ_ALIGN) {
            r = &d->runs[d->n_runs++];
            *r = (struct dense_run){.file = t->file, .begin = t->offset, .end = t->offset};
        }
        r->end = t->offset + t->bytes;
    }
    s->n_weights = *weight - s->first_weight;
    s->n_runs = d->n_runs - s->first_run;
    for (r = d->runs + s->first_run; r < d->runs + d->n_runs; r++) {
        r->at = s->bytes;
        s->bytes += align_up((size_t)(r->end - align_down64(r->begin, IOQ_ALIGN)), IOQ_ALIGN);
    }
}

static int make_segments(struct model *m, struct err *e)
{
    struct dense *d = &m->dense;
    int n = m->c.n_layers + DENSE_EXTRA_SEGMENTS;
    int64_t weight = 0;
    qsort(m->weights, (size_t)m->n_weights, sizeof(*m->weights), by_place);
    d->runs = calloc((size_t)m->n_weights, sizeof(*d->runs));
    d->segments = calloc((size_t)n, sizeof(*d->segments));
    if (!d->runs || !d->segments)
        return err_set(e, E_NOMEM, "model: no memory for its list of reads");
    for (int i = 0; i < n; i++)
        segment_runs(m, i, &weight);
    return OK;
}

/* Embedding table, output matrix and the last norm. */
static void bind_ends(struct binder *b, struct model *m)
{
    const struct config *c = &m->c;
    char full[128];
    m->tied = !lookup(b, "output.weight", false, full, sizeof(full));
    b->segment = dense_output_segment(m);
    matrix(b, m->tied ? "token_embd.weight" : "output.weight", c->n_embd, c->n_vocab, &m->output);
    b->segment = dense_embed_segment(m);
    if (m->tied)
        m->embed = m->output;
    else
        matrix(b, "token_embd.weight", c->n_embd, c->n_vocab, &m->embed);
    b->segment = dense_fixed_segment(m);
    floats(b, "output_norm.weight", c->n_embd, 1, &m->output_norm);
    m->dense.embed = gguf_tensor_find(m->gguf, "token_embd.weight");
    m->dense.output = m->tied ? m->dense.embed : gguf_tensor_find(m->gguf, "output.weight");
}

int bind_model(struct model *m, struct err *e)
{
    struct binder b = {.m = m, .e = e, .layer = -1};
    struct config *c = &m->c;
    char full[128];
    int n_attention = 0, n_recurrent = 0;

    m->layers = calloc((size_t)c->n_layers, sizeof(*m->layers));
    m->experts = calloc((size_t)c->n_layers, sizeof(*m->experts));
    m->used = calloc((size_t)gguf_n_tensors(m->gguf) + 1, sizeof(*m->used));
    if (!m->layers || !m->experts || !m->used)
        return err_set(e, E_NOMEM, "model: no memory for %d layers", c->n_layers);

    const struct gguf_tensor *embed = lookup(&b, "token_embd.weight", true, full, sizeof(full));
    if (!embed)
        return b.rc;
    c->n_vocab = embed->ne[1];
    bind_ends(&b, m);
    for (b.layer = 0; b.layer < c->n_layers && b.rc == OK; b.layer++) {
        b.segment = b.layer;
        bind_layer(&b, &m->layers[b.layer], &n_attention, &n_recurrent);
    }
    if (b.rc < 0)
        return b.rc;
    TRY(known_tensors(m, e));
    m->shape.n_attention_layers = n_attention;
    m->shape.n_recurrent_layers = n_recurrent;
    return make_segments(m, e);
}
