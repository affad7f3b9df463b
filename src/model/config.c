/*
 * A file's numbers: metadata keys "<architecture>.<key>" -> struct config.
 * Every value is bounded here, so later arithmetic cannot overflow and no
 * count is zero where it may not be. Keys are those that converters to GGUF
 * write; integer widths vary between writers and are not judged.
 */
#include "model/config_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- what the file has ----------------------------------------------------- */

/* What tells that a model has what its family may have: a count, or a weight in any
 * layer; then every layer must have it. */
static const struct sign {
    uint64_t trait;
    const char *key, *weight;
} signs[] = {
    {HAS_EXPERTS, "expert_count", NULL},
    {HAS_WINDOW, "attention.sliding_window", NULL},
    {HAS_QK_NORM, NULL, "attn_q_norm.weight"},
    {HAS_QKV_BIAS, NULL, "attn_q.bias"},
    {HAS_OUTPUT_BIAS, NULL, "attn_output.bias"},
    {HAS_FUSED_QKV, NULL, "attn_qkv.weight"},
    {HAS_SHARED_EXPERT, NULL, "ffn_down_shexp.weight"},
    {HAS_CORRECTION, NULL, "exp_probs_b.bias"},
    {HAS_CORRECTION, NULL, "exp_probs_b"},
    {HAS_SOME_SINKS, NULL, "attn_sinks.weight"},
    {HAS_HEAD_GATE, NULL, "attn_gate.weight"},
    {HAS_Q_LORA, NULL, "attn_q_a.weight"},
    {HAS_LATENT_PAIR, NULL, "attn_kv_b.weight"},
    {HAS_GATE, NULL, "attn_gate.weight"},
    {HAS_LATENT_EXPERTS, "expert_latent_length", NULL},
    {HAS_PIECES, "attn_res.block_size", NULL},
};

static void read_traits(struct reader *r, struct config *c)
{
    c->traits = c->family->traits;
    for (size_t i = 0; i < ARRAY_LEN(signs); i++) {
        const struct sign *s = &signs[i];
        bool there = s->key ? key_there(r, s->key) && read_count(r, s->key, 0, 0, 1 << 28) > 0
                            : weight_of(r, s->weight) != NULL;
        if (there)
            c->traits |= c->family->optional & s->trait;
    }
    if (says_long_factors(r))
        c->traits |= c->family->optional & HAS_LONG_FACTORS;
    /* No key of Llama 4 says whether heads are normed: in the model with 128 experts not. */
    if (config_has(c, HAS_UNIT_QK_NORM) && read_count(r, "expert_count", 0, 0, MAX_EXPERTS) == 128)
        c->traits &= ~HAS_UNIT_QK_NORM;
}

/* Blocks of quantised weights are laid out as in version 2, the only one since 2023. */
static void check_version(struct reader *r)
{
    const struct meta *v = weights_meta(r->w, "general.quantization_version");
    uint64_t version = 2;
    char value[256];
    if (r->rc < 0 || !v || (!v->is_array && meta_u64(v, 0, &version) && version == 2))
        return;
    meta_text(value, sizeof(value), v);
    r->rc =
        err_set(r->e, E_UNSUPPORTED,
                "%s: 'general.quantization_version' is %.80s, and only version 2 of the layout of "
                "quantised weights is known; quantise the original again",
                weights_path(r->w, 0), value);
}

/* Factors that some families have. Logits are divided by theirs. */
static void read_scales(struct reader *r, struct config *c)
{
    c->embed_scale = c->residual_scale = c->logit_scale = 1.0f;
    if (config_has(c, HAS_SQRT_EMBED))
        c->embed_scale = sqrtf((float)c->n_embd);
    if (config_has(c, HAS_LOGIT_CAP))
        c->logit_cap = (float)read_real(r, "final_logit_softcapping", c->family->logit_cap, 0.0,
                                        1e6);
    if (!config_has(c, HAS_SCALES))
        return;
    const double embed = read_real(r, "embedding_scale", 0.0, 0.0, 1e6);
    const double residual = read_real(r, "residual_scale", 0.0, 0.0, 1e6);
    key_needed(r, "logit_scale");
    const double logit = read_real(r, "logit_scale", 1.0, 0.0, 1e6);
    c->embed_scale = embed > 0.0 ? (float)embed : 1.0f; /* 0 is written for none */
    c->residual_scale = residual > 0.0 ? (float)residual : 1.0f;
    c->logit_scale = logit > 0.0 ? 1.0f / (float)logit : 1.0f;
}

/* Which layers are recurrent: those without key heads; or the array
 * attention.recurrent_layers if the file has it, else every layer but each
 * interval-th. */
static void read_layer_kinds(struct reader *r, struct config *c)
{
    char full[128];
    for (int i = 0; config_has(c, HAS_KDA) && i < c->n_layers; i++) /* 0: no key heads */
        c->layer[i].recurrent = read_count_of(r, "attention.head_count_kv", i, -1, 0, 1024) == 0;
    if (!config_has(c, HAS_DELTA))
        return;
    int64_t interval =
        read_count(r, "full_attention_interval", MAX(c->family->full_interval, 1), 1, MAX_LAYERS);
    const struct meta *v = key_find(r, "attention.recurrent_layers", full, sizeof(full));
    for (int i = 0; i < c->n_layers; i++) {
        uint64_t flag = (i + 1) % interval != 0;
        if (v && (!v->is_array || !meta_u64(v, (uint64_t)i, &flag)) && r->rc == OK)
            r->rc = err_set(r->e, E_FORMAT, "%s: '%s' has no usable element %d",
                            weights_path(r->w, 0), full, i);
        c->layer[i].recurrent = flag;
    }
}

/* Blocks that predict further tokens are the last that block_count counts. Where
 * they are counted twice or not at all, a real layer would be left out. */
static void check_predicting(struct reader *r, const struct config *c)
{
    for (int il = c->n_layers; il < c->n_blocks && r->rc == OK; il++) {
        bool any = false, predicts = false;
        for (int64_t i = 0; i < weights_n_tensors(r->w); i++) {
            const char *name = weights_tensor(r->w, i)->name;
            if (tensor_block(name) != il)
                continue;
            any = true;
            predicts |= strstr(name, ".nextn.") != NULL;
        }
        if (any && !predicts)
            r->rc = err_set(r->e, E_FORMAT,
                            "%s: '%s.nextn_predict_layers' is %d, so block %d, one of the last "
                            "that '%s.block_count' = "
                            "%d counts, should predict further tokens, but it has no nextn "
                            "tensors: a layer would be left out",
                            weights_path(r->w, 0), r->family, c->n_blocks - c->n_layers, il,
                            r->family, c->n_blocks);
    }
}

int config_read(const struct weights *w, struct config *c, struct err *e)
{
    struct reader r = {.w = w, .family = c->family->name, .e = e};
    c->n_blocks = (int)read_count(&r, "block_count", -1, 1, MAX_LAYERS);
    r.n_blocks = r.rc == OK ? c->n_blocks : 0;
    int64_t mtp = read_count(&r, "nextn_predict_layers", 0, 0, c->n_blocks - 1);
    c->n_layers = c->n_blocks - (int)mtp;
    r.n_layers = r.rc == OK ? c->n_layers : 0;
    c->n_embd = read_count(&r, "embedding_length", -1, 32, 1 << 17);
    c->n_context = read_count(&r, "context_length", 4096, 1, 1 << 28);
    c->eps = (float)read_real(&r, "attention.layer_norm_rms_epsilon", 1e-6, 1e-12, 1.0);
    key_needed(&r, "attention.layer_norm_rms_epsilon");
    check_version(&r);
    read_traits(&r, c);
    read_scales(&r, c);
    read_attention(&r, c);
    read_streams(&r, c);
    read_layer_kinds(&r, c);
    read_delta(&r, c);
    read_ffn(&r, c);
    read_rope(&r, c);
    check_sections(&r, c);
    check_predicting(&r, c);
    return r.rc == OK ? known_keys(w, c, e) : r.rc;
}
