/*
 * The tensors of a model, in file order.
 */
#include "mkmodel.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    if (has(c, K3 | DIRECT_KDA))
        add(m, il, "attn_gate.weight", c->dense, F_MATRIX, c->hidden,
            has(c, K3) ? c->heads * c->value_dim : c->heads, 0);
    add(m, il, "attn_output.weight", c->dense, F_MATRIX, c->heads * c->value_dim, c->hidden, 0);
    m->t[m->n - 1].std *= 0.3; /* as above */
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
    const bool direct = has(c, DIRECT_KDA);
    add(m, il, "ssm_f_a.weight", c->dense, F_MATRIX, c->hidden, direct ? all : d, 0);
    if (!direct)
        add(m, il, "ssm_f_b.weight", c->dense, F_MATRIX, d, all, 0);
    add(m, il, "ssm_beta.weight", c->dense, F_MATRIX, c->hidden, c->heads, 0);
    add(m, il, "ssm_a", DT_F32, direct ? F_ONES : F_DECAY, has(c, K3) ? c->heads : 1,
        has(c, K3) ? 0 : c->heads, 0);
    add(m, il, "ssm_dt.bias", DT_F32, F_STEP, all, 0, 0);
    if (has(c, K3)) {
        add(m, il, "ssm_g.weight", c->dense, F_MATRIX, c->hidden, all, 0);
    } else {
        add(m, il, "ssm_g_a.weight", c->dense, F_MATRIX, c->hidden, direct ? all : d, 0);
        if (!direct)
            add(m, il, "ssm_g_b.weight", c->dense, F_MATRIX, d, all, 0);
    }
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
    int64_t d = c->hidden, x = has(c, K3) ? c->expert_embd : d;

    add(m, il, "ffn_gate_inp.weight", DT_F32, F_ROUTER, d, c->experts, 0);
    if (has(c, ROUTER_BIAS))
        add(m, il, "ffn_gate_inp.bias", DT_F32, F_BIAS, c->experts, 0, 0);
    if (has(c, ENTRIES) && il < MK_HASHED)
        add(m, il, "ffn_gate_tid2eid.weight", DT_I32, F_IDS, c->used, c->vocab, 0);
    else if (has(c, CORRECTION))
        add(m, il, has(c, BARE_CORRECTION) ? "exp_probs_b" : "exp_probs_b.bias", DT_F32, F_BIAS,
            c->experts, 0, 0);
    if (c->fused) {
        add(m, il, "ffn_gate_up_exps.weight", c->type, F_MATRIX, x, 2 * c->width, c->experts);
    } else if (c->old_form && !has(c, LATENT | LINEAR)) {
        add_single_experts(m, il);
        return;
    } else {
        add(m, il, "ffn_gate_exps.weight", c->type, F_MATRIX, x, c->width, c->experts);
        add(m, il, "ffn_up_exps.weight", c->type, F_MATRIX, x, c->width, c->experts);
    }
    add(m, il, "ffn_down_exps.weight", c->down, F_MATRIX, c->width, x, c->experts);
    if (has(c, K3)) {
        add(m, il, "ffn_routed_down.weight", c->dense, F_MATRIX, d, x, 0);
        add(m, il, "ffn_routed_norm.weight", DT_F32, F_ONES, x, 0, 0);
        add(m, il, "ffn_routed_up.weight", c->dense, F_MATRIX, x, d, 0);
    }
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
    if (c->family->layer_norms)
        add(m, il, "ffn_norm.bias", DT_F32, F_BIAS, c->hidden, 0, 0);
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
        if (c->family->layer_norms)
            add(m, il, "attn_norm.bias", DT_F32, F_BIAS, c->hidden, 0, 0);
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
        if (has(c, K3)) {
            add(m, il, "attn_res_score.weight", DT_F32, F_BIAS, c->hidden, 0, 0);
            add(m, il, "ffn_res_score.weight", DT_F32, F_BIAS, c->hidden, 0, 0);
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
    if (c->long_rope) {
        add(m, -1, "rope_factors_long.weight", DT_F32, F_FACTORS, mk_n_rot(c) / 2, 0, 0);
        add(m, -1, "rope_factors_short.weight", DT_F32, F_FACTORS, mk_n_rot(c) / 2, 0, 0);
    }
    add(m, -1, "output_norm.weight", DT_F32, F_ONES, c->hidden, 0, 0);
    if (c->family->layer_norms) {
        add(m, -1, "output_norm.bias", DT_F32, F_BIAS, c->hidden, 0, 0);
        add(m, -1, "output.bias", DT_F32, F_BIAS, c->vocab, 0, 0);
    }
    if (has(c, ENTRIES))
        add_streams(m, -1, "output_hc");
    if (has(c, K3))
        add(m, -1, "output_res_score.weight", DT_F32, F_BIAS, c->hidden, 0, 0);
    if (!c->tied) {
        add(m, -1, "output.weight", c->output, F_OUTPUT, c->hidden, c->vocab, 0);
        m->t[m->n - 1].std *= 3; /* logits that differ enough to have a clear winner */
    }
    if (c->factors)
        add_scales(m);
}
