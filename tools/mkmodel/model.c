/*
 * The tensors of a model, in file order, and its metadata.
 */
#include "mkmodel.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool has(const struct config *c, unsigned what)
{
    return (c->has & what) != 0;
}

static int64_t mk_n_rot(const struct config *c)
{
    return c->has & (LATENT | ENTRIES) ? c->rope_dim
                                       : (int64_t)((double)c->head_dim * c->family->rot);
}

/* Whether a layer sees the nearest tokens only. */
static bool is_near(const struct config *c, int64_t il)
{
    const int64_t period = c->family->period;
    return has(c, WINDOW) && il % period != (c->family->far_first ? 0 : period - 1);
}

static int64_t heads_of(const struct config *c, int64_t il)
{
    return is_near(c, il) ? c->near_heads : c->heads;
}

static int64_t kv_heads_of(const struct config *c, int64_t il)
{
    return is_near(c, il) ? c->near_kv_heads : c->kv_heads;
}

static int64_t key_length(const struct config *c, int64_t il)
{
    return is_near(c, il) ? c->near_head_dim : c->head_dim;
}

static int64_t value_length(const struct config *c, int64_t il)
{
    return has(c, VALUE_DIM) ? c->value_dim : key_length(c, il);
}

/* ---- the list of tensors ---------------------------------------------- */

/* What quantisers take when a row is not a multiple of the block. */
static enum dtype fitting(enum dtype t, uint64_t n_in)
{
    if (n_in % dtype_info((uint32_t)t)->block == 0)
        return t;
    switch (t) {
    case DT_Q2_K:
    case DT_Q3_K: t = DT_Q4_0; break;
    case DT_Q4_K: t = DT_Q5_0; break;
    case DT_Q5_K: t = DT_Q5_1; break;
    case DT_Q6_K: t = DT_Q8_0; break;
    case DT_IQ1_S:
    case DT_IQ1_M:
    case DT_IQ2_XXS:
    case DT_IQ2_XS:
    case DT_IQ2_S:
    case DT_IQ3_XXS:
    case DT_IQ3_S:
    case DT_IQ4_XS: t = DT_IQ4_NL; break;
    case DT_TQ1_0:
    case DT_TQ2_0: t = DT_Q4_0; break;
    default: t = DT_F16; break;
    }
    return n_in % dtype_info((uint32_t)t)->block ? DT_F16 : t;
}

/* Adds blk.LAYER.NAME (LAYER < 0: NAME) of shape {n_in, n_out, n_mats}; 0 ends
 * the shape early. */
static void add(struct model *m, int layer, const char *name, enum dtype type, enum fill fill,
                int64_t n_in, int64_t n_out, int64_t n_mats)
{
    struct tensor *t;

    if (m->n == m->cap) {
        m->cap = 2 * m->cap + 64;
        m->t = mk_need(realloc(m->t, m->cap * sizeof *m->t));
    }
    t = &m->t[m->n++];
    *t = (struct tensor){.fill = fill, .layer = layer, .n_dims = n_mats ? 3 : n_out ? 2 : 1,
                         .ne = {(uint64_t)n_in, (uint64_t)MAX(n_out, 1), (uint64_t)MAX(n_mats, 1)}};
    if (layer < 0)
        snprintf(t->name, sizeof t->name, "%s", name);
    else
        snprintf(t->name, sizeof t->name, "blk.%d.%s", layer, name);
    t->type = fitting(type, t->ne[0]);
    t->std = fill == F_EMBED ? 1 : 1 / sqrt((double)n_in);
    t->bytes = dtype_row_bytes(t->type, n_in) * t->ne[1] * t->ne[2];
}

static void add_attention(struct model *m, int il)
{
    const struct config *c = &m->c;
    int64_t heads = heads_of(c, il), dim = key_length(c, il), q = heads * dim,
            kv = kv_heads_of(c, il) * dim, values = kv_heads_of(c, il) * value_length(c, il),
            out = heads * value_length(c, il);

    if (has(c, FUSED_QKV)) {
        add(m, il, "attn_qkv.weight", c->dense, F_MATRIX, c->hidden, q + kv + values, 0);
    } else { /* query and gate of each head one after the other */
        add(m, il, "attn_q.weight", c->dense, F_MATRIX, c->hidden,
            has(c, GATED_QUERY) ? 2 * q : q, 0);
        add(m, il, "attn_k.weight", c->dense, F_MATRIX, c->hidden, kv, 0);
        if (!has(c, BESIDE) || is_near(c, il))
            add(m, il, "attn_v.weight", c->dense, F_MATRIX, c->hidden, values, 0);
    }
    if (has(c, GATE | HEAD_GATE))
        add(m, il, "attn_gate.weight", c->dense, F_MATRIX, c->hidden, has(c, GATE) ? out : heads,
            0);
    add(m, il, "attn_output.weight", c->dense, F_MATRIX, out, c->hidden, 0);
    /* Attention over random keys is an average, nearly the same for all tokens;
     * at full strength it drowns what tokens differ in, layer by layer. */
    m->t[m->n - 1].std *= 0.3;
    if (has(c, QKV_BIAS)) {
        add(m, il, "attn_q.bias", DT_F32, F_BIAS, has(c, GATED_QUERY) ? 2 * q : q, 0, 0);
        add(m, il, "attn_k.bias", DT_F32, F_BIAS, kv, 0, 0);
        add(m, il, "attn_v.bias", DT_F32, F_BIAS, values, 0, 0);
    }
    if (has(c, OUTPUT_BIAS))
        add(m, il, "attn_output.bias", DT_F32, F_BIAS, c->hidden, 0, 0);
    if (has(c, SINKS) && (is_near(c, il) || !has(c, VALUE_DIM)))
        add(m, il, "attn_sinks.weight", DT_F32, F_BIAS, heads, 0, 0);
    if (!has(c, QK_NORM | ONE_QK_NORM))
        return;
    add(m, il, "attn_q_norm.weight", DT_F32, F_ONES, has(c, QK_NORM) ? dim : q, 0, 0);
    add(m, il, "attn_k_norm.weight", DT_F32, F_ONES, has(c, QK_NORM) ? dim : kv, 0, 0);
}

static void add_latent(struct model *m, int il)
{
    const struct config *c = &m->c;
    int64_t query = c->heads * (c->nope + c->rope_dim);

    if (c->q_lora) {
        add(m, il, "attn_q_a.weight", c->dense, F_MATRIX, c->hidden, c->q_lora, 0);
        add(m, il, "attn_q_a_norm.weight", DT_F32, F_ONES, c->q_lora, 0, 0);
        add(m, il, "attn_q_b.weight", c->dense, F_MATRIX, c->q_lora, query, 0);
    } else {
        add(m, il, "attn_q.weight", c->dense, F_MATRIX, c->hidden, query, 0);
    }
    add(m, il, "attn_kv_a_mqa.weight", c->dense, F_MATRIX, c->hidden, c->kv_lora + c->rope_dim, 0);
    add(m, il, "attn_kv_a_norm.weight", DT_F32, F_ONES, c->kv_lora, 0, 0);
    if (c->old_form) {
        add(m, il, "attn_kv_b.weight", c->dense, F_MATRIX, c->kv_lora,
            c->heads * (c->nope + c->value_dim), 0);
    } else {
        add(m, il, "attn_k_b.weight", c->dense, F_MATRIX, c->nope, c->kv_lora, c->heads);
        add(m, il, "attn_v_b.weight", c->dense, F_MATRIX, c->kv_lora, c->value_dim, c->heads);
    }
    add(m, il, "attn_output.weight", c->dense, F_MATRIX, c->heads * c->value_dim, c->hidden, 0);
    m->t[m->n - 1].std *= 0.3; /* as above */
}

/* Positions of an entry: all kinds of layers come in turn. */
static int64_t ratio_of(int64_t il)
{
    return il == 0 ? 0 : il % 2 ? 4 : 128;
}

static void add_compressor(struct model *m, int il, const char *of, int64_t dim, int64_t ratio)
{
    const struct config *c = &m->c;
    const int64_t row = ratio == 4 ? 2 * dim : dim;
    char name[64];

    snprintf(name, sizeof name, "%s_compressor_kv.weight", of);
    add(m, il, name, c->dense, F_MATRIX, c->hidden, row, 0);
    snprintf(name, sizeof name, "%s_compressor_gate.weight", of);
    add(m, il, name, c->dense, F_MATRIX, c->hidden, row, 0);
    snprintf(name, sizeof name, "%s_compressor_ape.weight", of);
    add(m, il, name, DT_F32, F_BIAS, row, ratio, 0);
    snprintf(name, sizeof name, "%s_compressor_norm.weight", of);
    add(m, il, name, DT_F32, F_ONES, dim, 0, 0);
}

static void add_compressed(struct model *m, int il)
{
    const struct config *c = &m->c;
    const int64_t q = c->heads * c->head_dim, ratio = ratio_of(il);

    add(m, il, "attn_q_a.weight", c->dense, F_MATRIX, c->hidden, c->q_lora, 0);
    add(m, il, "attn_q_a_norm.weight", DT_F32, F_ONES, c->q_lora, 0, 0);
    add(m, il, "attn_q_b.weight", c->dense, F_MATRIX, c->q_lora, q, 0);
    add(m, il, "attn_kv.weight", c->dense, F_MATRIX, c->hidden, c->head_dim, 0);
    add(m, il, "attn_kv_a_norm.weight", DT_F32, F_ONES, c->head_dim, 0, 0);
    add(m, il, "attn_sinks.weight", DT_F32, F_BIAS, c->heads, 0, 0);
    add(m, il, "attn_output_a.weight", c->dense, F_MATRIX, q / MK_OUT_GROUPS,
        MK_OUT_GROUPS * MK_OUT_LORA, 0);
    add(m, il, "attn_output_b.weight", c->dense, F_MATRIX, MK_OUT_GROUPS * MK_OUT_LORA, c->hidden,
        0);
    if (ratio)
        add_compressor(m, il, "attn", c->head_dim, ratio);
    if (ratio != 4)
        return;
    add(m, il, "indexer.proj.weight", c->dense, F_MATRIX, c->hidden, MK_INDEXER_HEADS, 0);
    add(m, il, "indexer.attn_q_b.weight", c->dense, F_MATRIX, c->q_lora,
        MK_INDEXER_HEADS * MK_INDEXER_DIM, 0);
    add_compressor(m, il, "indexer", MK_INDEXER_DIM, ratio);
}

/* How a part mixes the streams; `part`: blk.N.hc_attn, blk.N.hc_ffn, or output_hc. */
static void add_streams(struct model *m, int il, const char *part)
{
    const int64_t n = il < 0 ? MK_STREAMS : MK_STREAMS * (2 + MK_STREAMS);
    char name[64];

    snprintf(name, sizeof name, "%s_fn.weight", part);
    add(m, il, name, DT_F32, F_MATRIX, MK_STREAMS * m->c.hidden, n, 0);
    snprintf(name, sizeof name, "%s_base.weight", part);
    add(m, il, name, DT_F32, F_BIAS, n, 0, 0);
    snprintf(name, sizeof name, "%s_scale.weight", part);
    add(m, il, name, DT_F32, F_ONES, il < 0 ? 1 : 3, 0, 0);
}

static void add_indexer(struct model *m, int il)
{
    const struct config *c = &m->c;

    add(m, il, "indexer.k_norm.weight", DT_F32, F_ONES, MK_INDEXER_DIM, 0, 0);
    add(m, il, "indexer.k_norm.bias", DT_F32, F_BIAS, MK_INDEXER_DIM, 0, 0);
    add(m, il, "indexer.proj.weight", c->dense, F_MATRIX, c->hidden, MK_INDEXER_HEADS, 0);
    add(m, il, "indexer.attn_k.weight", c->dense, F_MATRIX, c->hidden, MK_INDEXER_DIM, 0);
    add(m, il, "indexer.attn_q_b.weight", c->dense, F_MATRIX, c->q_lora,
        MK_INDEXER_HEADS * MK_INDEXER_DIM, 0);
}

static void add_kda(struct model *m, int il)
{
    const struct config *c = &m->c;
    int64_t d = c->linear_dim, all = c->heads * d;
    static const char *const of[] = {"q", "k", "v"};
    char name[32];

    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "attn_%s.weight", of[i]);
        add(m, il, name, c->dense, F_MATRIX, c->hidden, all, 0);
        snprintf(name, sizeof name, "ssm_conv1d_%s.weight", of[i]);
        add(m, il, name, DT_F32, F_MATRIX, 4, 1, all);
    }
    add(m, il, "ssm_f_a.weight", c->dense, F_MATRIX, c->hidden, d, 0);
    add(m, il, "ssm_f_b.weight", c->dense, F_MATRIX, d, all, 0);
    add(m, il, "ssm_beta.weight", c->dense, F_MATRIX, c->hidden, c->heads, 0);
    add(m, il, "ssm_a", DT_F32, F_DECAY, 1, c->heads, 0);
    add(m, il, "ssm_dt.bias", DT_F32, F_STEP, all, 0, 0);
    add(m, il, "ssm_g_a.weight", c->dense, F_MATRIX, c->hidden, d, 0);
    add(m, il, "ssm_g_b.weight", c->dense, F_MATRIX, d, all, 0);
    add(m, il, "ssm_norm.weight", DT_F32, F_ONES, d, 0, 0);
    add(m, il, "attn_output.weight", c->dense, F_MATRIX, all, c->hidden, 0);
}

static void add_delta_net(struct model *m, int il)
{
    const struct config *c = &m->c;
    int64_t kd = c->k_heads * c->linear_dim, vd = c->v_heads * c->linear_dim;

    if (c->old_form) {
        add(m, il, "ssm_in.weight", c->dense, F_MATRIX, c->hidden, 2 * kd + 2 * vd, 0);
    } else {
        add(m, il, "attn_qkv.weight", c->dense, F_MATRIX, c->hidden, 2 * kd + vd, 0);
        add(m, il, "attn_gate.weight", c->dense, F_MATRIX, c->hidden, vd, 0);
    }
    add(m, il, "ssm_conv1d.weight", DT_F32, F_MATRIX, 4, 2 * kd + vd, 0);
    add(m, il, "ssm_dt.bias", DT_F32, F_STEP, c->v_heads, 0, 0);
    add(m, il, "ssm_a", DT_F32, F_DECAY, c->v_heads, 0, 0);
    if (has(c, GROUPED)) {
        add(m, il, "ssm_ba.weight", c->dense, F_MATRIX, c->hidden, 2 * c->v_heads, 0);
    } else {
        add(m, il, "ssm_alpha.weight", c->dense, F_MATRIX, c->hidden, c->v_heads, 0);
        add(m, il, "ssm_beta.weight", c->dense, F_MATRIX, c->hidden, c->v_heads, 0);
    }
    add(m, il, "ssm_norm.weight", DT_F32, F_ONES, c->linear_dim, 0, 0);
    add(m, il, "ssm_out.weight", c->dense, F_MATRIX, vd, c->hidden, 0);
}

static void add_expert_biases(struct model *m, int il)
{
    const struct config *c = &m->c;
    if (c->fused) {
        add(m, il, "ffn_gate_up_exps.bias", DT_F32, F_BIAS, 2 * c->width, c->experts, 0);
    } else {
        add(m, il, "ffn_gate_exps.bias", DT_F32, F_BIAS, c->width, c->experts, 0);
        add(m, il, "ffn_up_exps.bias", DT_F32, F_BIAS, c->width, c->experts, 0);
    }
    add(m, il, "ffn_down_exps.bias", DT_F32, F_BIAS, c->hidden, c->experts, 0);
}

/* One tensor for each matrix of each expert. */
static void add_single_experts(struct model *m, int il)
{
    const struct config *c = &m->c;
    char name[64];

    for (int e = 0; e < (int)c->experts; e++) {
        snprintf(name, sizeof name, "ffn_gate.%d.weight", e);
        add(m, il, name, c->type, F_MATRIX, c->hidden, c->width, 0);
        snprintf(name, sizeof name, "ffn_down.%d.weight", e);
        add(m, il, name, c->down, F_MATRIX, c->width, c->hidden, 0);
        snprintf(name, sizeof name, "ffn_up.%d.weight", e);
        add(m, il, name, c->type, F_MATRIX, c->hidden, c->width, 0);
    }
}

static void add_moe(struct model *m, int il)
{
    const struct config *c = &m->c;
    int64_t d = c->hidden;

    add(m, il, "ffn_gate_inp.weight", DT_F32, F_ROUTER, d, c->experts, 0);
    if (has(c, ROUTER_BIAS))
        add(m, il, "ffn_gate_inp.bias", DT_F32, F_BIAS, c->experts, 0, 0);
    if (has(c, ENTRIES) && il < MK_HASHED)
        add(m, il, "ffn_gate_tid2eid.weight", DT_I32, F_IDS, c->used, c->vocab, 0);
    else if (has(c, CORRECTION))
        add(m, il, "exp_probs_b.bias", DT_F32, F_BIAS, c->experts, 0, 0);
    if (c->fused) {
        add(m, il, "ffn_gate_up_exps.weight", c->type, F_MATRIX, d, 2 * c->width, c->experts);
    } else if (c->old_form && !has(c, LATENT | LINEAR)) {
        add_single_experts(m, il);
        return;
    } else {
        add(m, il, "ffn_gate_exps.weight", c->type, F_MATRIX, d, c->width, c->experts);
        add(m, il, "ffn_up_exps.weight", c->type, F_MATRIX, d, c->width, c->experts);
    }
    add(m, il, "ffn_down_exps.weight", c->down, F_MATRIX, c->width, d, c->experts);
    if (has(c, EXPERT_BIAS))
        add_expert_biases(m, il);
    if (has(c, SHARED_GATE))
        add(m, il, "ffn_gate_inp_shexp.weight", DT_F32, F_MATRIX, d, 0, 0);
    if (!has(c, SHARED))
        return;
    add(m, il, "ffn_gate_shexp.weight", c->dense, F_MATRIX, d, c->shared, 0);
    add(m, il, "ffn_up_shexp.weight", c->dense, F_MATRIX, d, c->shared, 0);
    add(m, il, "ffn_down_shexp.weight", c->dense, F_MATRIX, c->shared, d, 0);
}

static void add_dense_ffn(struct model *m, int il)
{
    const struct config *c = &m->c;

    if (!has(c, FUSED_FFN))
        add(m, il, "ffn_gate.weight", c->type, F_MATRIX, c->hidden, c->ffn, 0);
    add(m, il, "ffn_up.weight", c->type, F_MATRIX, c->hidden,
        has(c, FUSED_FFN) ? 2 * c->ffn : c->ffn, 0);
    add(m, il, "ffn_down.weight", c->down, F_MATRIX, c->ffn, c->hidden, 0);
}

/* What a layer with a network beside its experts has more than one with experts. */
static void add_beside(struct model *m, int il)
{
    const struct config *c = &m->c;

    add_dense_ffn(m, il);
    add(m, il, "ffn_gate_inp.scale", DT_F32, F_FACTORS, c->hidden, 0, 0);
    add(m, il, "ffn_down_exps.scale", DT_F32, F_FACTORS, c->experts, 0, 0);
    add(m, il, "pre_ffw_norm_2.weight", DT_F32, F_ONES, c->hidden, 0, 0);
    add(m, il, "post_ffw_norm_1.weight", DT_F32, F_ONES, c->hidden, 0, 0);
    add(m, il, "post_ffw_norm_2.weight", DT_F32, F_ONES, c->hidden, 0, 0);
}

static void add_ffn(struct model *m, int il)
{
    const struct config *c = &m->c;

    add(m, il, has(c, POST_NORM) ? "post_attention_norm.weight" : "ffn_norm.weight", DT_F32,
        F_ONES, c->hidden, 0, 0);
    const bool experts = has(c, EXPERTS) && il >= c->dense_layers && (il + 1) % c->moe_step == 0;
    (experts ? add_moe : add_dense_ffn)(m, il);
    if (has(c, BESIDE))
        add(m, il, "layer_output_scale.weight", DT_F32, F_ONES, 1, 0, 0);
    if (experts && has(c, BESIDE))
        add_beside(m, il);
}

/* Whether llama.cpp takes a factor for the matrix: of the output only in NVFP4. */
static bool takes_factor(const struct tensor *t, const char *name)
{
    static const char *const names[] = {
        "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_gate", "attn_output", "ffn_gate", "ffn_up",
        "ffn_down", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp", "ffn_gate_exps",
        "ffn_up_exps", "ffn_down_exps", "ssm_in", "ssm_out", "ssm_alpha", "ssm_beta"};
    const size_t n = strcspn(name, ".");

    if (strcmp(name + n, ".weight") != 0)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strlen(names[i]) == n && memcmp(names[i], name, n) == 0)
            return true;
    return strcmp(name, "output.weight") == 0 && t->type == DT_NVFP4;
}

/* NAME.scale for matrices NAME.weight: a number for each matrix of the tensor. */
static void add_scales(struct model *m)
{
    const size_t n = m->n;

    for (size_t i = 0; i < n; i++) {
        const struct tensor t = m->t[i];
        const char *name = t.layer < 0 ? t.name : strchr(t.name + strlen("blk."), '.') + 1;
        char scale[64];

        snprintf(scale, sizeof scale, "%.*s.scale", (int)strcspn(name, "."), name);
        if (takes_factor(&t, name) && !(has(&m->c, BESIDE) && strstr(name, "down_exps")))
            add(m, t.layer, scale, DT_F32, F_SCALES, (int64_t)t.ne[2], 0, 0);
    }
}

void mk_tensors(struct model *m)
{
    const struct config *c = &m->c;
    int n = (int)c->layers;

    add(m, -1, "token_embd.weight", c->dense, F_EMBED, c->hidden, c->vocab, 0);
    for (int il = 0; il < n + c->mtp; il++) {
        add(m, il, "attn_norm.weight", DT_F32, F_ONES, c->hidden, 0, 0);
        const bool recurrent = il < n && (il + 1) % c->interval;
        if (has(c, LINEAR) && recurrent)
            add_delta_net(m, il);
        else if (has(c, KDA) && recurrent)
            add_kda(m, il);
        else if (has(c, LATENT))
            add_latent(m, il);
        else if (has(c, ENTRIES))
            add_compressed(m, il);
        else
            add_attention(m, il);
        if (has(c, INDEXER) && (c->tied || il != 1)) /* else one layer sees what another picked */
            add_indexer(m, il);
        add_ffn(m, il);
        if (has(c, ENTRIES)) {
            add_streams(m, il, "hc_attn");
            add_streams(m, il, "hc_ffn");
        }
        if (!has(c, POST_NORMS))
            continue;
        add(m, il, "post_attention_norm.weight", DT_F32, F_ONES, c->hidden, 0, 0);
        add(m, il, "post_ffw_norm.weight", DT_F32, F_ONES, c->hidden, 0, 0);
    }
    if (c->mtp) {
        add(m, n, "nextn.eh_proj.weight", c->dense, F_MATRIX, 2 * c->hidden, c->hidden, 0);
        add(m, n, "nextn.enorm.weight", DT_F32, F_ONES, c->hidden, 0, 0);
        add(m, n, "nextn.hnorm.weight", DT_F32, F_ONES, c->hidden, 0, 0);
        add(m, n, "nextn.shared_head_norm.weight", DT_F32, F_ONES, c->hidden, 0, 0);
    }
    if (c->rope_factors || has(c, NEAR_HEADS))
        add(m, -1, "rope_freqs.weight", DT_F32, has(c, NEAR_HEADS) ? F_STILL : F_FACTORS,
            mk_n_rot(c) / 2, 0, 0);
    add(m, -1, "output_norm.weight", DT_F32, F_ONES, c->hidden, 0, 0);
    if (has(c, ENTRIES))
        add_streams(m, -1, "output_hc");
    if (!c->tied) {
        add(m, -1, "output.weight", c->output, F_OUTPUT, c->hidden, c->vocab, 0);
        m->t[m->n - 1].std *= 3; /* logits that differ enough to have a clear winner */
    }
    if (c->factors)
        add_scales(m);
}

/* ---- metadata --------------------------------------------------------- */

struct keys {
    struct gb b;
    const char *arch;
    uint64_t n;
};

static const char *full_key(struct keys *k, const char *key)
{
    static char buf[128];
    k->n++;
    snprintf(buf, sizeof buf, "%s.%s", k->arch, key);
    return buf;
}

static void key_u32(struct keys *k, const char *key, int64_t v)
{
    gb_kv_u32(&k->b, full_key(k, key), (uint32_t)v);
}

static void key_f32(struct keys *k, const char *key, double v)
{
    gb_key(&k->b, full_key(k, key), GGUF_F32);
    gb_f32(&k->b, (float)v);
}

static void plain_u32(struct keys *k, const char *key, int64_t v)
{
    k->n++;
    gb_kv_u32(&k->b, key, (uint32_t)v);
}

static void plain_str(struct keys *k, const char *key, const char *v)
{
    k->n++;
    gb_kv_str(&k->b, key, v);
}

static void put_linear_keys(struct keys *k, const struct config *c)
{
    int64_t pairs = mk_n_rot(c) / 2;

    key_u32(k, "rope.dimension_count", mk_n_rot(c));
    if (!has(c, GROUPED)) {
        gb_key_array(&k->b, full_key(k, "rope.dimension_sections"), GGUF_I32, 4);
        gb_u32(&k->b, (uint32_t)((pairs + 2) / 3));
        gb_u32(&k->b, (uint32_t)((pairs + 1) / 3));
        gb_u32(&k->b, (uint32_t)(pairs / 3));
        gb_u32(&k->b, 0);
    }
    if (has(c, SHARED))
        key_u32(k, "expert_shared_feed_forward_length", c->shared);
    key_u32(k, "ssm.conv_kernel", 4);
    key_u32(k, "ssm.state_size", c->linear_dim);
    key_u32(k, "ssm.group_count", c->k_heads);
    key_u32(k, "ssm.time_step_rank", c->v_heads);
    key_u32(k, "ssm.inner_size", c->v_heads * c->linear_dim);
    key_u32(k, "full_attention_interval", c->interval);
    if (c->mtp)
        key_u32(k, "nextn_predict_layers", 1);
}

static void key_bool(struct keys *k, const char *key, bool v)
{
    gb_key(&k->b, full_key(k, key), GGUF_BOOL);
    gb_u8(&k->b, v);
}

static void put_router_keys(struct keys *k, const struct config *c)
{
    if (c->gating)
        key_u32(k, "expert_gating_func", c->gating);
    key_bool(k, "expert_weights_norm", true);
    key_f32(k, "expert_weights_scale", c->weights_scale);
    if (c->groups) {
        key_u32(k, "expert_group_count", c->groups);
        key_u32(k, "expert_group_used_count", c->groups_used);
    }
}

static void put_expert_keys(struct keys *k, const struct config *c)
{
    key_u32(k, "expert_count", c->experts);
    key_u32(k, "expert_used_count", c->used);
    if (!has(c, PLAIN_WIDTH))
        key_u32(k, "expert_feed_forward_length", c->width);
    if ((has(c, SHARED_GATE) && !has(c, LINEAR)) || has(c, SHARED_KEY))
        key_u32(k, "expert_shared_feed_forward_length", c->shared);
    if (has(c, SHARED) && !has(c, SHARED_GATE))
        key_u32(k, "expert_shared_count", c->shared / c->width);
    if (has(c, ROUTER_KEYS))
        put_router_keys(k, c);
    if (has(c, INTERLEAVED))
        key_u32(k, "interleave_moe_layer_step", c->moe_step);
    if (c->dense_layers && !has(c, BESIDE)) /* whose routers tell */
        key_u32(k, "leading_dense_block_count", c->dense_layers);
}

static void put_rope_keys(struct keys *k, const struct config *c)
{
    key_f32(k, "rope.freq_base", c->rope_base);
    if (has(c, ENTRIES))
        key_f32(k, "attention.compress_rope_freq_base", 16 * c->rope_base);
    if (!has(c, LINEAR) && (c->family->rot < 1 || has(c, LATENT | ENTRIES)))
        key_u32(k, "rope.dimension_count", mk_n_rot(c));
    if (c->yarn <= 0 && c->linear_rope <= 0)
        return;
    gb_kv_str(&k->b, full_key(k, "rope.scaling.type"), c->yarn > 0 ? "yarn" : "linear");
    key_f32(k, "rope.scaling.factor", c->yarn > 0 ? c->yarn : c->linear_rope);
    key_u32(k, "rope.scaling.original_context_length", c->original);
    if (has(c, LATENT))
        key_f32(k, "rope.scaling.yarn_log_multiplier", 0.0707);
}

/* Metadata from the command line; a list where there are several values. */
static void put_key(struct keys *k, const char *text)
{
    char name[64], type[8];
    const char *v = strchr(text, ':') + 1;
    uint64_t n = 1;

    snprintf(name, sizeof name, "%.*s", (int)strcspn(text, "="), text);
    snprintf(type, sizeof type, "%.*s", (int)strcspn(strchr(text, '=') + 1, ":"),
             strchr(text, '=') + 1);
    const uint32_t id = strcmp(type, "f32") == 0 ? GGUF_F32
                        : strcmp(type, "bool") == 0 ? GGUF_BOOL : GGUF_U32;
    if (strcmp(type, "str") == 0) {
        gb_kv_str(&k->b, full_key(k, name), v);
        return;
    }
    for (const char *p = v; *p; p++)
        n += *p == ',';
    if (n > 1)
        gb_key_array(&k->b, full_key(k, name), id, n);
    else
        gb_key(&k->b, full_key(k, name), id);
    for (; n > 0; n--, v += strcspn(v, ",") + 1) {
        if (id == GGUF_F32)
            gb_f32(&k->b, strtof(v, NULL));
        else if (id == GGUF_BOOL)
            gb_u8(&k->b, strtol(v, NULL, 10) != 0);
        else
            gb_u32(&k->b, (uint32_t)strtoul(v, NULL, 10));
    }
}

/* The width that feed_forward_length stands for: of layers without experts, or of
 * experts where the family has no other key for it. */
static int64_t ffn_length(const struct config *c)
{
    return has(c, EXPERTS) && !has(c, BESIDE | INTERLEAVED) && !c->dense_layers ? c->width : c->ffn;
}

/* head_count and head_count_kv, a list where layers differ. */
static void put_heads(struct keys *k, const struct config *c)
{
    const int n = (int)(c->layers + c->mtp);
    if (c->near_heads == c->heads && c->near_kv_heads == c->kv_heads) {
        key_u32(k, "attention.head_count", c->heads);
        key_u32(k, "attention.head_count_kv", c->kv_heads);
        return;
    }
    gb_key_array(&k->b, full_key(k, "attention.head_count"), GGUF_U32, (uint64_t)n);
    for (int il = 0; il < n; il++)
        gb_u32(&k->b, (uint32_t)heads_of(c, il));
    gb_key_array(&k->b, full_key(k, "attention.head_count_kv"), GGUF_U32, (uint64_t)n);
    for (int il = 0; il < n; il++)
        gb_u32(&k->b, (uint32_t)kv_heads_of(c, il));
}

/* No key heads: the layer is recurrent. */
static void put_kda_keys(struct keys *k, const struct config *c)
{
    gb_key_array(&k->b, full_key(k, "attention.head_count_kv"), GGUF_U32, (uint64_t)c->layers);
    for (int il = 0; il < c->layers; il++)
        gb_u32(&k->b, (il + 1) % c->interval == 0);
    key_u32(k, "kda.head_dim", c->linear_dim);
    key_u32(k, "ssm.conv_kernel", 4);
}

static void put_indexer_keys(struct keys *k, const struct config *c)
{
    key_u32(k, "attention.indexer.head_count", MK_INDEXER_HEADS);
    key_u32(k, "attention.indexer.key_length", MK_INDEXER_DIM);
    key_u32(k, "attention.indexer.top_k", c->top);
}

static void put_compressed_keys(struct keys *k, const struct config *c)
{
    const int n = (int)(c->layers + c->mtp);

    put_indexer_keys(k, c);
    key_u32(k, "attention.q_lora_rank", c->q_lora);
    key_u32(k, "attention.sliding_window", c->window);
    key_u32(k, "attention.output_group_count", MK_OUT_GROUPS);
    key_u32(k, "attention.output_lora_rank", MK_OUT_LORA);
    gb_key_array(&k->b, full_key(k, "attention.compress_ratios"), GGUF_U32, (uint64_t)n);
    for (int il = 0; il < n; il++)
        gb_u32(&k->b, (uint32_t)ratio_of(il));
    key_u32(k, "hyper_connection.count", MK_STREAMS);
    key_u32(k, "hyper_connection.sinkhorn_iterations", 20);
    key_f32(k, "hyper_connection.epsilon", 1e-6);
    key_u32(k, "hash_layer_count", MIN(c->layers, MK_HASHED));
    gb_key_array(&k->b, full_key(k, "swiglu_clamp_exp"), GGUF_F32, (uint64_t)n);
    for (int il = 0; il < n; il++)
        gb_f32(&k->b, 1.0f);
}

static void put_latent_keys(struct keys *k, const struct config *c)
{
    key_u32(k, "attention.head_count", c->heads);
    if (has(c, KDA))
        put_kda_keys(k, c);
    else
        key_u32(k, "attention.head_count_kv", c->old_form ? c->heads : 1);
    if (has(c, INDEXER))
        put_indexer_keys(k, c);
    key_u32(k, "attention.key_length", c->old_form ? c->nope + c->rope_dim
                                                   : c->kv_lora + c->rope_dim);
    key_u32(k, "attention.value_length", c->old_form ? c->value_dim : c->kv_lora);
    if (!c->old_form) {
        key_u32(k, "attention.key_length_mla", c->nope + c->rope_dim);
        key_u32(k, "attention.value_length_mla", c->value_dim);
    }
    key_u32(k, "attention.kv_lora_rank", c->kv_lora);
    if (c->q_lora)
        key_u32(k, "attention.q_lora_rank", c->q_lora);
}

/* Layers with a window, where the file lists them. */
static void put_near_keys(struct keys *k, const struct config *c)
{
    gb_key_array(&k->b, full_key(k, "attention.sliding_window_pattern"), GGUF_BOOL,
                 (uint64_t)c->layers);
    for (int il = 0; il < c->layers; il++)
        gb_u8(&k->b, is_near(c, il));
    key_u32(k, "attention.key_length_swa", c->near_head_dim);
    key_u32(k, "attention.value_length_swa", c->near_head_dim);
    key_u32(k, "rope.dimension_count", c->head_dim);
    key_u32(k, "rope.dimension_count_swa", c->near_head_dim);
    key_f32(k, "rope.freq_base_swa", 1e4);
}

static void put_model_keys(struct keys *k, const struct config *c)
{
    plain_str(k, "general.architecture", k->arch);
    plain_str(k, "general.type", "model");
    plain_str(k, "general.name", "synthetic, random weights");
    plain_u32(k, "general.quantization_version", 2);
    key_u32(k, "block_count", c->layers + c->mtp);
    key_u32(k, "context_length", c->context);
    key_u32(k, "embedding_length", c->hidden);
    key_u32(k, "feed_forward_length", ffn_length(c));
    key_u32(k, "vocab_size", c->vocab);
    if (has(c, LATENT)) {
        put_latent_keys(k, c);
    } else {
        put_heads(k, c);
        key_u32(k, "attention.key_length", c->head_dim);
        key_u32(k, "attention.value_length", has(c, VALUE_DIM) ? c->value_dim : c->head_dim);
    }
    key_f32(k, "attention.layer_norm_rms_epsilon", 1e-6);
    if (has(c, WINDOW))
        key_u32(k, "attention.sliding_window", c->window);
    if (has(c, NEAR_HEADS))
        put_near_keys(k, c);
    put_rope_keys(k, c);
    if (has(c, EXPERTS))
        put_expert_keys(k, c);
    if (has(c, LINEAR))
        put_linear_keys(k, c);
    if (has(c, ENTRIES))
        put_compressed_keys(k, c);
    for (int i = 0; i < c->n_keys; i++)
        put_key(k, c->key[i]);
}

static int put_tokenizer(struct keys *k, const struct config *c)
{
    plain_str(k, "tokenizer.ggml.model", "gpt2");
    plain_str(k, "tokenizer.ggml.pre", c->family->pre);
    if (!synth_vocab(&k->b, c->vocab))
        return mk_fail("--vocab %" PRId64 " is more than can be made", c->vocab);
    k->n += 4;
    plain_u32(k, "tokenizer.ggml.bos_token_id", c->vocab - 3);
    plain_u32(k, "tokenizer.ggml.eos_token_id", c->vocab - 1);
    plain_u32(k, "tokenizer.ggml.padding_token_id", c->vocab - 3);
    gb_key(&k->b, "tokenizer.ggml.add_bos_token", GGUF_BOOL);
    gb_u8(&k->b, 0);
    k->n++;
    return 0;
}

int mk_header(struct gb *b, const struct model *m)
{
    struct keys k = {.arch = m->c.family->name};
    uint64_t offset = 0;

    put_model_keys(&k, &m->c);
    if (put_tokenizer(&k, &m->c) < 0) {
        gb_free(&k.b);
        return -1;
    }
    gb_head(b, 3, m->n, k.n);
    gb_put(b, k.b.p, k.b.n);
    gb_free(&k.b);
    for (size_t i = 0; i < m->n; i++) {
        const struct tensor *t = &m->t[i];

        gb_tensor(b, t->name, t->n_dims, t->ne, (uint32_t)t->type, offset);
        offset += align_up(t->bytes, MK_ALIGN);
    }
    gb_pad(b, MK_ALIGN);
    return 0;
}
