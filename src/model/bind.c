/*
 * Tensor names -> weights, by the rows of each layer's forms. Shapes are
 * checked against the configuration, so that nothing later has to. A matrix
 * NAME.weight may have a factor NAME.scale beside it, as NVFP4 has. Dense
 * tensors are listed with the place where their address will go; experts
 * become extents.
 */
#include "model/model_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct binder {
    struct model *m;
    struct err *e;
    int layer; /* -1: of no layer */
};

static int64_t length(const struct config *c, const struct layer_config *l, enum dim d)
{
    const bool one_norm = config_has(c, HAS_ONE_QK_NORM);
    switch (d) {
    case DIM_1: return 1;
    case DIM_4: return 4;
    case DIM_EMBD: return c->n_embd;
    case DIM_QUERY: return (config_has(c, HAS_GATED_QUERY) ? 2 : 1) * l->n_head * l->key_dim;
    case DIM_QUERY_NORM: return one_norm ? l->n_head * l->key_dim : l->key_dim;
    case DIM_KEY_NORM: return one_norm ? l->n_kv * l->key_dim : l->key_dim;
    case DIM_QKV: return l->n_head * l->key_dim + l->n_kv * (l->key_dim + l->value_dim);
    case DIM_HEADS: return l->n_head;
    case DIM_KEYS: return l->n_kv * l->key_dim;
    case DIM_VALUES: return l->n_kv * l->value_dim;
    case DIM_ATTENDED: return l->n_head * l->value_dim;
    case DIM_Q_LORA: return c->q_lora;
    case DIM_KV_LORA: return c->kv_lora;
    case DIM_KV_A: return c->kv_lora + l->n_rot;
    case DIM_NOPE: return c->nope;
    case DIM_LATENT_QUERY: return l->n_head * (c->nope + l->n_rot);
    case DIM_LATENT_VALUE: return c->latent_value;
    case DIM_LATENT_PAIR: return l->n_head * (c->nope + c->latent_value);
    case DIM_LATENT_OUT: return l->n_head * c->latent_value;
    case DIM_DELTA_ALL: return config_delta_channels(c) + c->n_v * c->dv;
    case DIM_DELTA_PAIRS: return 2 * c->n_v;
    case DIM_DELTA_CHANNELS: return config_delta_channels(c);
    case DIM_DELTA_VALUES: return c->n_v * c->dv;
    case DIM_DELTA_HEADS: return c->n_v;
    case DIM_DELTA_HEAD: return c->dv;
    case DIM_KDA: return c->dk;
    case DIM_KDA_FIRST: return c->kda_direct ? c->n_v * c->dv : c->dk;
    case DIM_INDEX: return c->index_dim;
    case DIM_INDEX_HEADS: return c->index_heads;
    case DIM_INDEX_QUERY: return c->index_heads * c->index_dim;
    case DIM_KEY: return l->key_dim;
    case DIM_OUT_GROUP: return l->n_head * l->key_dim / c->out_groups;
    case DIM_OUT_LORA: return c->out_groups * c->out_lora;
    case DIM_ENTRY: return (l->indexes ? 2 : 1) * l->key_dim;
    case DIM_RATIO: return l->ratio;
    case DIM_INDEX_ENTRY: return 2 * c->index_dim;
    case DIM_STREAMS: return DEV_STREAMS * c->n_embd;
    case DIM_ONE_EACH: return DEV_STREAMS;
    case DIM_FACTORS: return DEV_FACTORS;
    case DIM_3: return 3;
    case DIM_USED: return c->n_used;
    case DIM_VOCAB: return c->n_vocab;
    case DIM_EXPERTS: return c->n_experts;
    case DIM_EXPERT_EMBD: return c->expert_embd;
    case DIM_EXPERT: return c->expert_width;
    case DIM_EXPERT_PAIR: return 2 * c->expert_width;
    case DIM_SHARED: return c->shared_width;
    case DIM_FFN: return l->ffn_width;
    case DIM_FFN_PAIR: return 2 * l->ffn_width;
    }
    return 0;
}

/* ---- one tensor --------------------------------------------------------------- */

static void full_name(const struct binder *b, const char *name, char *full, size_t n)
{
    const struct renamed *r = b->m->c.family->renamed;
    for (int i = 0; i < MOST_RENAMED && r[i].usual; i++)
        if (strcmp(r[i].usual, name) == 0) {
            name = r[i].here;
            break;
        }
    if (b->layer >= 0)
        snprintf(full, n, "blk.%d.%s", b->layer, name);
    else
        snprintf(full, n, "%s", name);
}

/* *out is NULL where it is not there and may be missing. */
static int lookup(struct binder *b, const char *name, bool required, int role,
                  const struct tensor **out)
{
    char full[128];
    full_name(b, name, full, sizeof(full));
    const struct tensor *t = *out = weights_find(b->m->w, full);
    if (t)
        weights_set_role(b->m->w, t, role);
    if (t || !required)
        return OK;
    return err_set(b->e, E_FORMAT,
                   "%s: tensor '%s' is missing; the file is incomplete or of another "
                   "architecture than it says",
                   weights_path(b->m->w, 0), full);
}

static int check_shape(struct binder *b, const struct tensor *t, int64_t n0, int64_t n1, int64_t n2)
{
    if (t->ne[0] == n0 && t->ne[1] == n1 && t->ne[2] == n2 && t->ne[3] == 1)
        return OK;
    return err_set(
        b->e, E_FORMAT,
        "%s: tensor '%s' has shape (%lld, %lld, %lld, %lld), expected (%lld, %lld, %lld, 1) "
        "from the metadata",
        weights_path(b->m->w, t->file), t->name, (long long)t->ne[0], (long long)t->ne[1],
        (long long)t->ne[2], (long long)t->ne[3], (long long)n0, (long long)n1, (long long)n2);
}

static int bind_matrix(struct binder *b, const struct tensor *t, int section, int64_t n_in,
                       int64_t n_out, struct dev_mat *w)
{
    TRY(check_shape(b, t, n_in, n_out, 1));
    *w = (struct dev_mat){.type = t->type, .n_in = n_in, .n_out = n_out};
    return dense_add(b->m->dense, t, section, &w->data.at, b->e);
}

static int check_floats(struct binder *b, const struct tensor *t)
{
    return t->type == DT_F32
               ? OK
               : err_set(b->e, E_UNSUPPORTED, "%s: tensor '%s' is %s, expected F32",
                         weights_path(b->m->w, t->file), t->name, dtype_info(t->type)->name);
}

/* A vector or small table of floats: norms, gates, convolutions. */
static int bind_floats(struct binder *b, const struct tensor *t, int section, int64_t n0,
                       int64_t n1, int64_t n2, struct dev_ptr *v)
{
    TRY(check_shape(b, t, n0, n1, n2));
    TRY(check_floats(b, t));
    return dense_add(b->m->dense, t, section, &v->at, b->e);
}

/* What the products of a matrix, of tensor t, are multiplied by: NAME.scale beside
 * NAME.weight, where it is there, of n numbers. */
static int bind_scale(struct binder *b, const struct tensor *t, int section, int64_t n,
                      struct dev_mat *w)
{
    char name[128];
    snprintf(name, sizeof(name), "%.*s.scale", (int)(strlen(t->name) - strlen(".weight")), t->name);
    const struct tensor *scale = weights_find(b->m->w, name);
    if (!scale)
        return OK;
    weights_set_role(b->m->w, scale, ROLE_DENSE);
    return bind_floats(b, scale, section, n, 1, 1, &w->scale);
}

/* A matrix for each head of the layer, one behind the other. */
static int bind_heads(struct binder *b, const struct tensor *t, int64_t n_in, int64_t n_out,
                      struct dev_mat *w)
{
    const int64_t n_head = b->m->c.layer[b->layer].n_head;
    TRY(check_shape(b, t, n_in, n_out, n_head));
    *w = (struct dev_mat){.type = t->type, .n_in = n_in, .n_out = n_out * n_head};
    TRY(dense_add(b->m->dense, t, b->layer, &w->data.at, b->e));
    return bind_scale(b, t, b->layer, 1, w);
}

/* Experts by token. */
static int bind_ids(struct binder *b, const struct tensor *t, int64_t n_in, int64_t n_out,
                    struct dev_ptr *v)
{
    TRY(check_shape(b, t, n_in, n_out, 1));
    if (t->type != DT_I32)
        return err_set(b->e, E_UNSUPPORTED, "%s: tensor '%s' is %s, expected I32",
                       weights_path(b->m->w, t->file), t->name, dtype_info(t->type)->name);
    return dense_add(b->m->dense, t, b->layer, &v->at, b->e);
}

/* A part of the experts of a layer, whose bytes go where `at` says. */
static void add_part(struct binder *b, struct layer *l, const struct tensor *t,
                     const struct dev_ptr *at)
{
    const int64_t n_experts = b->m->c.n_experts;
    struct expert_layer *x = &b->m->experts[b->layer];
    x->n_experts = (int)n_experts;
    x->part[x->n_parts++] = (struct expert_part){.file = t->file,
                                                 .offset = t->offset,
                                                 .stride = t->inside || t->ne[2] == n_experts
                                                               ? t->stride
                                                               : t->bytes / n_experts,
                                                 .bytes = (size_t)(t->bytes / n_experts),
                                                 .may_be_zero = tensor_may_be_zero(t)};
    l->experts.part_at[l->matrices.n] = (size_t)((const char *)at - (const char *)&l->experts);
    l->matrices.t[l->matrices.n++] = t;
    if (!l->experts.down.n_out)
        l->experts.n_first = l->matrices.n;
}

/* One matrix of all experts of a layer, (n_in, n_out, n_experts). */
static int bind_experts(struct binder *b, struct layer *l, const struct tensor *t, int64_t n_in,
                        int64_t n_out, struct dev_mat *w)
{
    TRY(check_shape(b, t, n_in, n_out, b->m->c.n_experts));
    *w = (struct dev_mat){.type = t->type, .n_in = n_in, .n_out = n_out};
    add_part(b, l, t, &w->data);
    return bind_scale(b, t, b->layer, b->m->c.n_experts, w);
}

/* One vector of all experts of a layer, (n, n_experts). */
static int bind_expert_floats(struct binder *b, struct layer *l, const struct tensor *t, int64_t n,
                              struct dev_ptr *v)
{
    TRY(check_shape(b, t, n, b->m->c.n_experts, 1));
    TRY(check_floats(b, t));
    add_part(b, l, t, v);
    return OK;
}

/* ---- rows --------------------------------------------------------------------- */

/* Whether the weight that takes the row's place is there. */
static bool replaced(struct binder *b, const struct weight_row *r)
{
    char full[128];
    if (!r->unless)
        return false;
    full_name(b, r->unless, full, sizeof(full));
    return weights_find(b->m->w, full) != NULL;
}

/* Whether the layer is of those that have the row. */
static bool has_row(struct binder *b, const struct weight_row *r)
{
    const struct config *c = &b->m->c;
    const struct layer_config *l = &c->layer[b->layer];
    return config_has(c, r->trait) && !(c->traits & r->lacks) && !replaced(b, r) &&
           (l->ratio || !(r->flags & IF_ENTRIES)) && (l->indexes || !(r->flags & IF_INDEXES));
}

static int role_of(const struct weight_row *r)
{
    return r->kind == EXPERTS || r->kind == EXPERT_FLOATS ? ROLE_EXPERT
           : r->kind == IDS                               ? ROLE_IDS
                                                          : ROLE_DENSE;
}

static int bind_row(struct binder *b, struct layer *l, const struct weight_row *r)
{
    const struct config *c = &b->m->c;
    const struct tensor *t;
    void *at = (char *)l + r->at;
    const struct layer_config *lc = &c->layer[b->layer];
    int64_t n_in = length(c, lc, r->n_in), n_out = length(c, lc, r->n_out);
    if (!has_row(b, r))
        return OK;
    TRY(lookup(b, r->name, !(r->flags & IF_THERE), role_of(r), &t));
    if (!t)
        return OK;
    if (r->kind == EXPERTS)
        return bind_experts(b, l, t, n_in, n_out, at);
    if (r->kind == EXPERT_FLOATS)
        return bind_expert_floats(b, l, t, n_in, at);
    if (r->kind == HEADS)
        return bind_heads(b, t, n_in, n_out, at);
    if (r->kind == IDS)
        return bind_ids(b, t, n_in, n_out, at);
    if (r->kind == FLOATS)
        return bind_floats(b, t, b->layer, n_in, n_out, 1, at);
    if (r->kind == CONV)
        return bind_floats(b, t, b->layer, n_in, 1, n_out, at);
    TRY(bind_matrix(b, t, b->layer, n_in, n_out, at));
    ((struct dev_mat *)at)->float_input = r->flags & FLOAT_INPUT;
    return r->flags & NO_SCALE ? OK : bind_scale(b, t, b->layer, 1, at);
}

static int bind_rows(struct binder *b, struct layer *l, const struct weight_row *rows, int n)
{
    for (int i = 0; i < n; i++)
        TRY(bind_row(b, l, &rows[i]));
    return OK;
}

#define STREAMS(field) offsetof(struct layer, field)
static const struct weight_row norm_rows[] = {
    {.name = "attn_norm.weight", FLOATS, DIM_EMBD, DIM_1, offsetof(struct layer, mixer_norm)},
    {.name = "ffn_norm.weight", FLOATS, DIM_EMBD, DIM_1, offsetof(struct layer, ffn_norm)},
    {.name = "attn_norm.bias", FLOATS, DIM_EMBD, DIM_1, offsetof(struct layer, mixer_norm_bias),
     HAS_LAYER_NORMS},
    {.name = "ffn_norm.bias", FLOATS, DIM_EMBD, DIM_1, offsetof(struct layer, ffn_norm_bias),
     HAS_LAYER_NORMS},
    {.name = "post_attention_norm.weight", FLOATS, DIM_EMBD, DIM_1,
     offsetof(struct layer, mixer_post_norm), HAS_POST_NORMS},
    {.name = "post_ffw_norm.weight", FLOATS, DIM_EMBD, DIM_1,
     offsetof(struct layer, ffn_post_norm), HAS_POST_NORMS},
    {.name = "layer_output_scale.weight", FLOATS, DIM_1, DIM_1, offsetof(struct layer, out_scale),
     HAS_LAYER_SCALE, IF_THERE},
    {.name = "hc_attn_fn.weight", MATRIX, DIM_STREAMS, DIM_FACTORS, STREAMS(mixer_streams.fn),
     HAS_STREAMS, FLOAT_INPUT},
    {.name = "hc_attn_scale.weight", FLOATS, DIM_3, DIM_1, STREAMS(mixer_streams.scale),
     HAS_STREAMS},
    {.name = "hc_attn_base.weight", FLOATS, DIM_FACTORS, DIM_1, STREAMS(mixer_streams.base),
     HAS_STREAMS},
    {.name = "hc_ffn_fn.weight", MATRIX, DIM_STREAMS, DIM_FACTORS, STREAMS(ffn_streams.fn),
     HAS_STREAMS, FLOAT_INPUT},
    {.name = "hc_ffn_scale.weight", FLOATS, DIM_3, DIM_1, STREAMS(ffn_streams.scale), HAS_STREAMS},
    {.name = "hc_ffn_base.weight", FLOATS, DIM_FACTORS, DIM_1, STREAMS(ffn_streams.base),
     HAS_STREAMS},
    {.name = "attn_res_score.weight", FLOATS, DIM_EMBD, DIM_1, STREAMS(mixer_streams.score),
     HAS_PIECES},
    {.name = "ffn_res_score.weight", FLOATS, DIM_EMBD, DIM_1, STREAMS(ffn_streams.score),
     HAS_PIECES},
};
#undef STREAMS

/* An ffn's weights, and those of its parts. */
static int bind_ffn(struct binder *b, struct layer *l, const struct ffn_form *f)
{
    f->bind(l, &b->m->c, b->layer);
    TRY(bind_rows(b, l, f->rows, f->n_rows));
    for (size_t i = 0; i < ARRAY_LEN(f->parts) && f->parts[i]; i++)
        TRY(bind_ffn(b, l, f->parts[i]));
    return OK;
}

static int bind_layer(struct binder *b)
{
    struct model *m = b->m;
    const struct config *c = &m->c;
    struct layer *l = &m->layers[b->layer];
    l->mixer = c->layer[b->layer].recurrent ? c->family->recurrent : c->family->mixer;
    l->ffn = c->layer[b->layer].dense ? &dense_ffn_form
             : config_has(c, HAS_BESIDE) ? &beside_form
             : config_has(c, HAS_LATENT_EXPERTS) ? &latent_experts_form : &experts_form;
    for (int i = 0; i < b->layer; i++)
        l->state_index += m->layers[i].mixer == l->mixer;
    l->mixer->bind(l, c, b->layer);
    TRY(bind_rows(b, l, norm_rows, ARRAY_LEN(norm_rows)));
    TRY(bind_rows(b, l, l->mixer->rows, l->mixer->n_rows));
    TRY(bind_ffn(b, l, l->ffn));
    if (l->matrices.n)
        m->most_used = MAX(m->most_used, (int)l->experts.n_used);
    return OK;
}

/* What the output takes of the streams or pieces. */
static int bind_output_streams(struct binder *b)
{
    struct streams *x = &b->m->output_streams;
    const struct tensor *fn, *scale, *base, *score;
    if (config_has(&b->m->c, HAS_PIECES)) {
        TRY(lookup(b, "output_res_score.weight", true, ROLE_DENSE, &score));
        return bind_floats(b, score, DENSE_FIXED, b->m->c.n_embd, 1, 1, &x->score);
    }
    if (!config_has(&b->m->c, HAS_STREAMS))
        return OK;
    TRY(lookup(b, "output_hc_fn.weight", true, ROLE_DENSE, &fn));
    TRY(lookup(b, "output_hc_scale.weight", true, ROLE_DENSE, &scale));
    TRY(lookup(b, "output_hc_base.weight", true, ROLE_DENSE, &base));
    TRY(bind_matrix(b, fn, DENSE_FIXED, DEV_STREAMS * b->m->c.n_embd, DEV_STREAMS, &x->fn));
    TRY(bind_scale(b, fn, DENSE_FIXED, 1, &x->fn));
    x->fn.float_input = true;
    TRY(bind_floats(b, scale, DENSE_FIXED, 1, 1, 1, &x->scale));
    return bind_floats(b, base, DENSE_FIXED, DEV_STREAMS, 1, 1, &x->base);
}

/* What the ends have of biases. */
static int bind_end_biases(struct binder *b)
{
    struct model *m = b->m;
    const struct tensor *norm, *output;
    if (!config_has(&m->c, HAS_LAYER_NORMS))
        return OK;
    TRY(lookup(b, "output_norm.bias", true, ROLE_DENSE, &norm));
    TRY(bind_floats(b, norm, DENSE_FIXED, m->c.n_embd, 1, 1, &m->output_norm_bias));
    TRY(lookup(b, "output.bias", true, ROLE_DENSE, &output));
    return bind_floats(b, output, DENSE_FIXED, m->c.n_vocab, 1, 1, &m->output.bias);
}

/* Divisors of rotary frequencies, which any family may have; LongRoPE: two, in their place. */
static int bind_factors(struct binder *b)
{
    struct model *m = b->m;
    const struct config *c = &m->c;
    const int64_t n = c->most_rot / 2;
    const struct tensor *f;
    if (config_has(c, HAS_LONG_FACTORS)) {
        TRY(lookup(b, "rope_factors_long.weight", true, ROLE_DENSE, &f));
        TRY(bind_floats(b, f, DENSE_FIXED, n, 1, 1, &m->rope_long));
        TRY(lookup(b, "rope_factors_short.weight", true, ROLE_DENSE, &f));
        return bind_floats(b, f, DENSE_FIXED, n, 1, 1, &m->rope_short);
    }
    TRY(lookup(b, "rope_freqs.weight", config_has(c, HAS_FAR_FACTORS), ROLE_DENSE, &f));
    return f ? bind_floats(b, f, DENSE_FIXED, n, 1, 1, &m->rope_factors) : OK;
}

/* Embedding table, output matrix and the last norm. */
static int bind_ends(struct binder *b)
{
    struct model *m = b->m;
    struct config *c = &m->c;
    const struct tensor *embed, *output, *norm;
    TRY(lookup(b, "token_embd.weight", true, ROLE_EMBEDDING, &embed));
    c->n_vocab = embed->ne[1];
    TRY(lookup(b, "output.weight", false, ROLE_OUTPUT, &output));
    m->tied = !output;
    TRY(bind_matrix(b, output ? output : embed, DENSE_OUTPUT, c->n_embd, c->n_vocab, &m->output));
    if (!m->tied) {
        TRY(bind_scale(b, output, DENSE_FIXED, 1, &m->output));
        TRY(bind_matrix(b, embed, DENSE_EMBEDDING, c->n_embd, c->n_vocab, &m->embed));
    } else { /* a table of embeddings has no factor */
        m->embed = m->output;
    }
    TRY(lookup(b, "output_norm.weight", true, ROLE_DENSE, &norm));
    TRY(bind_floats(b, norm, DENSE_FIXED, c->n_embd, 1, 1, &m->output_norm));
    TRY(bind_output_streams(b));
    TRY(bind_end_biases(b));
    return bind_factors(b);
}

int bind_model(struct model *m, struct err *e)
{
    struct binder b = {.m = m, .e = e, .layer = -1};
    struct config *c = &m->c;
    m->layers = calloc((size_t)c->n_layers, sizeof(*m->layers));
    m->experts = calloc((size_t)c->n_layers, sizeof(*m->experts));
    if (!m->layers || !m->experts)
        return err_set(e, E_NOMEM, "model: no memory for %d layers", c->n_layers);
    TRY(dense_new(m->w, c->n_layers, &m->dense, e));
    TRY(bind_ends(&b));
    for (b.layer = 0; b.layer < c->n_layers; b.layer++)
        TRY(bind_layer(&b));
    TRY(known_tensors(m, e));
    for (int i = 0; i < c->n_layers; i++)
        *(m->layers[i].mixer->recurrent ? &m->shape.n_recurrent_layers
                                        : &m->shape.n_attention_layers) += 1;
    return dense_added(m->dense, e);
}
