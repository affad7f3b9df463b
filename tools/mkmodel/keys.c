/*
 * The metadata of a model.
 */
#include "mkmodel.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    if (c->long_rope && c->original >= c->context) { /* as files of minicpm have it */
        gb_kv_str(&k->b, full_key(k, "rope.scaling.type"), "longrope");
    } else if (c->long_rope) { /* of phi3 */
        key_u32(k, "rope.scaling.original_context_length", c->original);
        key_f32(k, "rope.scaling.attn_factor",
                sqrt(1 + log((double)c->context / (double)c->original) / log((double)c->original)));
    }
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
    if (has(c, K3 | DIRECT_KDA))
        key_f32(k, "kda.gate_lower_bound", -5);
    if (!has(c, K3))
        return;
    key_u32(k, "expert_latent_length", c->expert_embd);
    key_f32(k, "activation.situ_beta", 1.5);
    key_f32(k, "activation.situ_linear_beta", 2);
    key_u32(k, "attn_res.block_size", c->block);
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
