/*
 * The tensors of a model, in file order, and its metadata.
 */
#include "mkmodel.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    case DT_IQ4_XS: t = DT_IQ4_NL; break;
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
    int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;

    /* qwen35moe: query and gate of each head one after the other. */
    add(m, il, "attn_q.weight", c->dense, F_MATRIX, c->hidden, c->arch == QWEN35MOE ? 2 * q : q, 0);
    add(m, il, "attn_k.weight", c->dense, F_MATRIX, c->hidden, kv, 0);
    add(m, il, "attn_v.weight", c->dense, F_MATRIX, c->hidden, kv, 0);
    add(m, il, "attn_output.weight", c->dense, F_MATRIX, q, c->hidden, 0);
    /* Attention over random keys is an average, nearly the same for all tokens;
     * at full strength it drowns what tokens differ in, layer by layer. */
    m->t[m->n - 1].std *= 0.3;
    add(m, il, "attn_q_norm.weight", DT_F32, F_ONES, c->head_dim, 0, 0);
    add(m, il, "attn_k_norm.weight", DT_F32, F_ONES, c->head_dim, 0, 0);
}

static void add_delta_net(struct model *m, int il)
{
    const struct config *c = &m->c;
    int64_t kd = c->k_heads * c->linear_dim, vd = c->v_heads * c->linear_dim;

    add(m, il, "attn_qkv.weight", c->dense, F_MATRIX, c->hidden, 2 * kd + vd, 0);
    add(m, il, "attn_gate.weight", c->dense, F_MATRIX, c->hidden, vd, 0);
    add(m, il, "ssm_conv1d.weight", DT_F32, F_MATRIX, 4, 2 * kd + vd, 0);
    add(m, il, "ssm_dt.bias", DT_F32, F_STEP, c->v_heads, 0, 0);
    add(m, il, "ssm_a", DT_F32, F_DECAY, c->v_heads, 0, 0);
    add(m, il, "ssm_alpha.weight", c->dense, F_MATRIX, c->hidden, c->v_heads, 0);
    add(m, il, "ssm_beta.weight", c->dense, F_MATRIX, c->hidden, c->v_heads, 0);
    add(m, il, "ssm_norm.weight", DT_F32, F_ONES, c->linear_dim, 0, 0);
    add(m, il, "ssm_out.weight", c->dense, F_MATRIX, vd, c->hidden, 0);
}

static void add_moe(struct model *m, int il)
{
    const struct config *c = &m->c;
    int64_t d = c->hidden;

    add(m, il, c->arch == QWEN35MOE ? "post_attention_norm.weight" : "ffn_norm.weight", DT_F32,
        F_ONES, d, 0, 0);
    add(m, il, "ffn_gate_inp.weight", DT_F32, F_ROUTER, d, c->experts, 0);
    if (c->fused) {
        add(m, il, "ffn_gate_up_exps.weight", c->type, F_MATRIX, d, 2 * c->width, c->experts);
    } else {
        add(m, il, "ffn_gate_exps.weight", c->type, F_MATRIX, d, c->width, c->experts);
        add(m, il, "ffn_up_exps.weight", c->type, F_MATRIX, d, c->width, c->experts);
    }
    add(m, il, "ffn_down_exps.weight", c->down, F_MATRIX, c->width, d, c->experts);
    if (c->arch != QWEN35MOE)
        return;
    add(m, il, "ffn_gate_inp_shexp.weight", DT_F32, F_MATRIX, d, 0, 0);
    add(m, il, "ffn_gate_shexp.weight", c->dense, F_MATRIX, d, c->shared, 0);
    add(m, il, "ffn_up_shexp.weight", c->dense, F_MATRIX, d, c->shared, 0);
    add(m, il, "ffn_down_shexp.weight", c->dense, F_MATRIX, c->shared, d, 0);
}

void mk_tensors(struct model *m)
{
    const struct config *c = &m->c;
    int n = (int)c->layers;

    add(m, -1, "token_embd.weight", c->dense, F_EMBED, c->hidden, c->vocab, 0);
    for (int il = 0; il < n + c->mtp; il++) {
        add(m, il, "attn_norm.weight", DT_F32, F_ONES, c->hidden, 0, 0);
        if (c->arch == QWEN35MOE && il < n && (il + 1) % c->interval)
            add_delta_net(m, il);
        else
            add_attention(m, il);
        add_moe(m, il);
    }
    if (c->mtp) {
        add(m, n, "nextn.eh_proj.weight", c->dense, F_MATRIX, 2 * c->hidden, c->hidden, 0);
        add(m, n, "nextn.enorm.weight", DT_F32, F_ONES, c->hidden, 0, 0);
        add(m, n, "nextn.hnorm.weight", DT_F32, F_ONES, c->hidden, 0, 0);
        add(m, n, "nextn.shared_head_norm.weight", DT_F32, F_ONES, c->hidden, 0, 0);
    }
    add(m, -1, "output_norm.weight", DT_F32, F_ONES, c->hidden, 0, 0);
    if (c->tied)
        return;
    add(m, -1, "output.weight", c->output, F_OUTPUT, c->hidden, c->vocab, 0);
    m->t[m->n - 1].std *= 3; /* logits that differ enough to have a clear winner */
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
    int64_t n_rot = c->head_dim / 4, pairs = n_rot / 2;

    key_u32(k, "rope.dimension_count", n_rot);
    gb_key_array(&k->b, full_key(k, "rope.dimension_sections"), GGUF_I32, 4);
    gb_u32(&k->b, (uint32_t)((pairs + 2) / 3));
    gb_u32(&k->b, (uint32_t)((pairs + 1) / 3));
    gb_u32(&k->b, (uint32_t)(pairs / 3));
    gb_u32(&k->b, 0);
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

static void put_model_keys(struct keys *k, const struct config *c)
{
    plain_str(k, "general.architecture", k->arch);
    plain_str(k, "general.type", "model");
    plain_str(k, "general.name", "synthetic, random weights");
    plain_u32(k, "general.quantization_version", 2);
    key_u32(k, "block_count", c->layers + c->mtp);
    key_u32(k, "context_length", c->context);
    key_u32(k, "embedding_length", c->hidden);
    key_u32(k, "feed_forward_length", c->width);
    key_u32(k, "vocab_size", c->vocab);
    key_u32(k, "attention.head_count", c->heads);
    key_u32(k, "attention.head_count_kv", c->kv_heads);
    key_u32(k, "attention.key_length", c->head_dim);
    key_u32(k, "attention.value_length", c->head_dim);
    key_f32(k, "attention.layer_norm_rms_epsilon", 1e-6);
    key_f32(k, "rope.freq_base", c->rope_base);
    key_u32(k, "expert_count", c->experts);
    key_u32(k, "expert_used_count", c->used);
    key_u32(k, "expert_feed_forward_length", c->width);
    if (c->arch == QWEN35MOE)
        put_linear_keys(k, c);
}

static int put_tokenizer(struct keys *k, const struct config *c)
{
    plain_str(k, "tokenizer.ggml.model", "gpt2");
    plain_str(k, "tokenizer.ggml.pre", c->arch == QWEN35MOE ? "qwen35" : "qwen2");
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
    struct keys k = {.arch = m->c.arch == QWEN35MOE ? "qwen35moe" : "qwen3moe"};
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
