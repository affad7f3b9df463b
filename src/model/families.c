/*
 * The families that sluice can run, one row each. A new family is a row here
 * and at most a new form of mixer or ffn.
 */
#include "model/model_internal.h"

#include <stdio.h>
#include <string.h>

static const struct family families[] = {
    {
        .name = "qwen35moe", /* Qwen3.5-397B-A17B, 122B-A10B, 35B-A3B */
        .traits = HAS_QK_NORM | HAS_GATED_QUERY | HAS_DELTA | HAS_EXPERTS | HAS_SHARED_EXPERT |
                  HAS_SHARED_GATE,
        .mixer = &attention_form,
        .recurrent = &delta_form,
        .full_interval = 4,
        .renormalise = true,
        .renamed = {{"ffn_norm.weight", "post_attention_norm.weight"}},
    },
    {
        .name = "qwen35", /* Qwen3.5-0.8B to 27B: no experts */
        .traits = HAS_QK_NORM | HAS_GATED_QUERY | HAS_DELTA,
        .mixer = &attention_form,
        .recurrent = &delta_form,
        .full_interval = 4,
        .renamed = {{"ffn_norm.weight", "post_attention_norm.weight"}},
    },
    {
        .name = "qwen3next", /* Qwen3-Next-80B-A3B, Qwen3-Coder-Next */
        .traits = HAS_QK_NORM | HAS_GATED_QUERY | HAS_DELTA | HAS_GROUPED_DELTA | HAS_EXPERTS |
                  HAS_SHARED_EXPERT | HAS_SHARED_GATE,
        .mixer = &attention_form,
        .recurrent = &delta_form,
        .full_interval = 4,
        .renormalise = true,
        .renamed = {{"ffn_norm.weight", "post_attention_norm.weight"}},
    },
    {
        .name = "qwen3moe", /* Qwen3-30B-A3B, 235B-A22B, Qwen3-Coder */
        .traits = HAS_QK_NORM | HAS_EXPERTS,
        .mixer = &attention_form,
        .renormalise = true,
    },
    {
        .name = "qwen2moe", /* Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B */
        .traits = HAS_QKV_BIAS | HAS_EXPERTS | HAS_SHARED_EXPERT | HAS_SHARED_GATE,
        .mixer = &attention_form,
    },
    {
        .name = "olmoe", /* OLMoE-1B-7B */
        .traits = HAS_ONE_QK_NORM | HAS_EXPERTS,
        .mixer = &attention_form,
    },
    {
        .name = "gpt-oss", /* gpt-oss-20b, 120b */
        .traits = HAS_QKV_BIAS | HAS_OUTPUT_BIAS | HAS_SINKS | HAS_WINDOW | HAS_EXPERTS |
                  HAS_ROUTER_BIAS | HAS_EXPERT_BIAS,
        .mixer = &attention_form,
        .window_period = 2,
        .scoring = DEV_SOFTMAX_PICKED,
        .act = DEV_SWIGLU_OAI,
        .limit = 7.0f,
        .renamed = {{"ffn_norm.weight", "post_attention_norm.weight"}},
    },
    {
        .name = "glm4moe", /* GLM-4.5, 4.6, 4.7, 4.5-Air */
        .traits = HAS_EXPERTS | HAS_SHARED_EXPERT | HAS_CORRECTION | HAS_DENSE_LAYERS |
                  HAS_ROUTER_KEYS,
        .optional = HAS_QKV_BIAS | HAS_QK_NORM,
        .mixer = &attention_form,
        .scoring = DEV_SIGMOID,
        .renamed = {{"ffn_norm.weight", "post_attention_norm.weight"}},
    },
    {
        .name = "deepseek2", /* DeepSeek V2, V3, R1, Kimi-K2, GLM-4.7-Flash, Moonlight */
        .traits = HAS_LATENT | HAS_PLAIN_MAGNITUDE | HAS_HEAT | HAS_EXPERTS | HAS_SHARED_EXPERT |
                  HAS_DENSE_LAYERS | HAS_ROUTER_KEYS,
        .optional = HAS_Q_LORA | HAS_LATENT_PAIR | HAS_CORRECTION,
        .mixer = &latent_form,
        .rotation = DEV_ROTATE_PAIRS,
    },
    {
        .name = "minimax-m2", /* MiniMax-M2, M2.1 */
        .traits = HAS_ONE_QK_NORM | HAS_EXPERTS | HAS_CORRECTION | HAS_ROUTER_KEYS,
        .mixer = &attention_form,
        .scoring = DEV_SIGMOID,
        .renormalise = true,
    },
    {
        .name = "bailingmoe2", /* Ling 2.0, Ring 2.0: mini, flash, 1T */
        .traits = HAS_FUSED_QKV | HAS_QK_NORM | HAS_EXPERTS | HAS_SHARED_EXPERT |
                  HAS_DENSE_LAYERS | HAS_ROUTER_KEYS,
        .optional = HAS_CORRECTION,
        .mixer = &attention_form,
        .scoring = DEV_SIGMOID,
    },
    {
        .name = "ernie4_5-moe", /* ERNIE-4.5-21B-A3B, 300B-A47B */
        .traits = HAS_EXPERTS | HAS_DENSE_LAYERS,
        .optional = HAS_SHARED_EXPERT | HAS_CORRECTION | HAS_QKV_BIAS,
        .mixer = &attention_form,
        .rotation = DEV_ROTATE_PAIRS,
        .renormalise = true,
    },
    {
        .name = "hunyuan-moe", /* Hunyuan-A13B */
        .traits = HAS_QK_NORM | HAS_LATE_QK_NORM | HAS_EXPERTS | HAS_SHARED_EXPERT,
        .optional = HAS_QKV_BIAS,
        .mixer = &attention_form,
        .renormalise = true,
    },
    {
        .name = "granitemoe", /* Granite 3: 1B-A400M, 3B-A800M */
        .traits = HAS_SCALES,
        .optional = HAS_EXPERTS | HAS_SHARED_EXPERT | HAS_QKV_BIAS | HAS_OUTPUT_BIAS,
        .mixer = &attention_form,
        .rotation = DEV_ROTATE_PAIRS,
        .renormalise = true,
    },
    {
        .name = "dots1", /* dots.llm1 */
        .traits = HAS_QK_NORM | HAS_EXPERTS | HAS_SHARED_EXPERT | HAS_DENSE_LAYERS |
                  HAS_ROUTER_KEYS,
        .optional = HAS_CORRECTION | HAS_QKV_BIAS,
        .mixer = &attention_form,
    },
    {
        .name = "qwen3vlmoe", /* Qwen3-VL-30B-A3B, 235B-A22B: their text */
        .traits = HAS_QK_NORM | HAS_SECTIONS | HAS_EXPERTS,
        .mixer = &attention_form,
        .renormalise = true,
    },
    {
        .name = "exaone-moe", /* K-EXAONE-236B-A23B */
        .traits = HAS_QK_NORM | HAS_WINDOW | HAS_STILL_FAR | HAS_EXPERTS | HAS_SHARED_EXPERT |
                  HAS_DENSE_LAYERS | HAS_ROUTER_KEYS,
        .optional = HAS_CORRECTION | HAS_QKV_BIAS,
        .mixer = &attention_form,
        .window_period = 4,
    },
    {
        .name = "mistral4", /* Mistral Small 4 */
        .traits = HAS_LATENT | HAS_HEAT | HAS_EXPERTS | HAS_SHARED_EXPERT | HAS_DENSE_LAYERS |
                  HAS_ROUTER_KEYS,
        .optional = HAS_Q_LORA | HAS_LATENT_PAIR | HAS_CORRECTION,
        .mixer = &latent_form,
        .rotation = DEV_ROTATE_PAIRS,
    },
    {
        .name = "mistral3", /* Ministral 3: 3B, 8B, 14B; may have experts */
        .traits = HAS_HEAT | HAS_LOG_MULTIPLIER,
        .optional = HAS_EXPERTS | HAS_QKV_BIAS | HAS_OUTPUT_BIAS,
        .mixer = &attention_form,
        .rotation = DEV_ROTATE_PAIRS,
        .renormalise = true,
    },
    {
        .name = "afmoe", /* Trinity: Nano, Mini, Large */
        .traits = HAS_SQRT_EMBED | HAS_POST_NORMS | HAS_QK_NORM | HAS_GATE | HAS_WINDOW |
                  HAS_STILL_FAR | HAS_EXPERTS | HAS_CORRECTION | HAS_DENSE_LAYERS |
                  HAS_ROUTER_KEYS,
        .optional = HAS_SHARED_EXPERT | HAS_QKV_BIAS,
        .mixer = &attention_form,
        .window_period = 4,
        .scoring = DEV_SIGMOID,
    },
    {
        .name = "smallthinker", /* SmallThinker-4B-A0.6B, 21B-A3B */
        .traits = HAS_STILL_FAR | HAS_EXPERTS | HAS_EARLY_ROUTER | HAS_ROUTER_KEYS,
        .optional = HAS_WINDOW | HAS_QKV_BIAS,
        .mixer = &attention_form,
        .window_period = 4,
        .far_first = true,
        .renormalise = true,
        .act = DEV_RELU,
    },
    {
        .name = "step35", /* Step-3.5-Flash */
        .traits = HAS_WINDOW | HAS_HALF_FAR | HAS_NEAR_ROPE | HAS_EXPERTS | HAS_SOME_EXPERTS |
                  HAS_ROUTER_KEYS | HAS_LIMITS,
        .optional = HAS_QK_NORM | HAS_HEAD_GATE | HAS_SHARED_EXPERT | HAS_CORRECTION,
        .mixer = &attention_form,
        .window_period = 4,
        .far_first = true,
        .scoring = DEV_SIGMOID,
        .act = DEV_SILU_CUT,
    },
    {
        .name = "mimo2", /* MiMo-V2-Flash, V2.5 */
        .traits = HAS_WINDOW | HAS_NEAR_ROPE | HAS_VALUE_SCALE | HAS_EXPERTS | HAS_SOME_EXPERTS |
                  HAS_ROUTER_KEYS,
        .optional = HAS_FUSED_QKV | HAS_SOME_SINKS | HAS_CORRECTION,
        .mixer = &attention_form,
        .window_period = 6,
        .scoring = DEV_SIGMOID,
        .renormalise = true,
    },
    {
        .name = "kimi-linear", /* Kimi-Linear-48B-A3B */
        .traits = HAS_KDA | HAS_LATENT | HAS_STILL_LATENT | HAS_EXPERTS | HAS_SHARED_EXPERT |
                  HAS_CORRECTION | HAS_DENSE_LAYERS | HAS_ROUTER_KEYS,
        .mixer = &latent_form,
        .recurrent = &kda_form,
        .scoring = DEV_SIGMOID,
        .renormalise = true,
    },
    {
        .name = "kimi-k3", /* Kimi-K3 */
        .traits = HAS_LATENT | HAS_STILL_LATENT | HAS_KDA | HAS_FULL_GATE | HAS_SITU |
                  HAS_EXPERTS | HAS_CORRECTION | HAS_DENSE_LAYERS | HAS_ROUTER_KEYS,
        .optional = HAS_Q_LORA | HAS_LATENT_PAIR | HAS_GATE | HAS_SHARED_EXPERT |
                    HAS_LATENT_EXPERTS | HAS_PIECES,
        .mixer = &latent_form,
        .recurrent = &kda_form,
        .scoring = DEV_SIGMOID,
        .act = DEV_SITU,
    },
    {
        .name = "bailingmoe3", /* Ling 3.0: tiny, flash */
        .traits = HAS_LATENT | HAS_HEAD_GATE | HAS_KDA | HAS_LIMITS | HAS_EXPERTS |
                  HAS_SHARED_EXPERT | HAS_CORRECTION | HAS_DENSE_LAYERS | HAS_ROUTER_KEYS,
        .optional = HAS_Q_LORA,
        .mixer = &latent_form,
        .recurrent = &kda_form,
        .rotation = DEV_ROTATE_PAIRS,
        .scoring = DEV_SIGMOID,
        .act = DEV_SILU_CUT,
        .decay_as_is = true,
    },
    {
        .name = "hy_v3", /* Hy3 (Hunyuan 3) */
        .traits = HAS_QK_NORM | HAS_EXPERTS | HAS_SHARED_EXPERT | HAS_SOME_EXPERTS |
                  HAS_ROUTER_KEYS,
        .optional = HAS_CORRECTION,
        .mixer = &attention_form,
        .scoring = DEV_SIGMOID,
        .renamed = {{"exp_probs_b.bias", "exp_probs_b"}},
    },
    {
        .name = "mellum", /* Mellum 2 */
        .traits = HAS_QK_NORM | HAS_EXPERTS | HAS_NEAR_ROPE,
        .optional = HAS_WINDOW,
        .mixer = &attention_form,
        .window_period = 4,
        .renormalise = true,
        .one_base = true,
    },
    {
        .name = "deepseek", /* DeepSeek-MoE-16B */
        .traits = HAS_EXPERTS | HAS_SHARED_EXPERT | HAS_DENSE_LAYERS,
        .mixer = &attention_form,
        .rotation = DEV_ROTATE_PAIRS,
    },
    {
        .name = "deepseek32", /* DeepSeek-V3.2 */
        .traits = HAS_LATENT | HAS_Q_LORA | HAS_INDEXER | HAS_EXPERTS | HAS_SHARED_EXPERT |
                  HAS_DENSE_LAYERS | HAS_ROUTER_KEYS,
        .optional = HAS_CORRECTION,
        .mixer = &latent_form,
        .rotation = DEV_ROTATE_PAIRS,
        .index_rotation = DEV_ROTATE_HALVES,
    },
    {
        .name = "glm-dsa", /* GLM-5, 5.1, 5.2 */
        .traits = HAS_LATENT | HAS_Q_LORA | HAS_INDEXER | HAS_EXPERTS | HAS_SHARED_EXPERT |
                  HAS_DENSE_LAYERS | HAS_ROUTER_KEYS,
        .optional = HAS_CORRECTION,
        .mixer = &latent_form,
        .rotation = DEV_ROTATE_PAIRS,
        .index_rotation = DEV_ROTATE_PAIRS,
        .scoring = DEV_SIGMOID,
    },
    {
        .name = "gemma4", /* Gemma 4: 26B-A4B, and 31B without experts; their text */
        .traits = HAS_SQRT_EMBED | HAS_POST_NORMS | HAS_QK_NORM | HAS_VALUE_NORM | HAS_WINDOW |
                  HAS_NEAR_HEADS | HAS_NEAR_ROPE | HAS_FAR_FACTORS | HAS_LAYER_SCALE |
                  HAS_LOGIT_CAP | HAS_SOME_EXPERTS | HAS_BESIDE,
        .optional = HAS_EXPERTS,
        .mixer = &attention_form,
        .renormalise = true,
        .act = DEV_GELU,
        .attn_scale = 1.0f,
        .logit_cap = 30.0f,
    },
    {
        .name = "gemma3", /* Gemma 3: 270M to 27B, their text; no experts */
        .traits = HAS_SQRT_EMBED | HAS_POST_NORMS | HAS_QK_NORM | HAS_NEAR_ROPE | HAS_LOGIT_CAP,
        .optional = HAS_WINDOW,
        .mixer = &attention_form,
        .window_period = 6,
        .act = DEV_GELU,
        .wide_layers = 62,
    },
    {
        .name = "llama4", /* Llama 4 Scout and Maverick: their text */
        .traits = HAS_CHUNK | HAS_STILL_FAR | HAS_HEAT | HAS_FAR_HEAT | HAS_UNIT_QK_NORM |
                  HAS_LATE_QK_NORM | HAS_EXPERTS | HAS_SHARED_EXPERT | HAS_INTERLEAVED |
                  HAS_WEIGHTED_INPUT,
        .mixer = &attention_form,
        .window_period = 4,
        .rotation = DEV_ROTATE_PAIRS,
        .scoring = DEV_SIGMOID_PICKED,
    },
    {
        .name = "deepseek4", /* DeepSeek-V4: Flash, Pro */
        .traits = HAS_ENTRIES | HAS_STREAMS | HAS_TABLES | HAS_EXPERTS | HAS_SHARED_EXPERT |
                  HAS_CORRECTION | HAS_ROUTER_KEYS | HAS_LIMITS,
        .mixer = &compressed_form,
        .rotation = DEV_ROTATE_PAIRS,
        .scoring = DEV_SQRT_SOFTPLUS,
    },
    {
        .name = "glm4", /* GLM-4-9B-0414, 32B-0414, Z1: no experts */
        .traits = HAS_POST_NORMS | HAS_FUSED_FFN,
        .optional = HAS_QKV_BIAS,
        .mixer = &attention_form,
        .rotation = DEV_ROTATE_PAIRS,
    },
    {
        .name = "phi3", /* Phi-3, 3.5-mini, Phi-4, Phi-4-mini: no experts */
        .traits = HAS_FUSED_FFN,
        .optional = HAS_FUSED_QKV | HAS_WINDOW | HAS_LONG_FACTORS,
        .mixer = &attention_form,
        .window_period = ALL_NEAR,
    },
    {
        .name = "phimoe", /* Phi-3.5-MoE, Phi-mini-MoE, Phi-tiny-MoE */
        .traits = HAS_LAYER_NORMS | HAS_QKV_BIAS | HAS_OUTPUT_BIAS | HAS_EXPERTS,
        .optional = HAS_WINDOW | HAS_LONG_FACTORS,
        .mixer = &attention_form,
        .window_period = ALL_NEAR,
        .scoring = DEV_SPARSE_MIXER,
    },
    {
        .name = "minicpm", /* MiniCPM-2B, MiniCPM4: no experts */
        .traits = HAS_SCALES,
        .optional = HAS_OUTPUT_BIAS | HAS_LONG_FACTORS,
        .mixer = &attention_form,
        .rotation = DEV_ROTATE_PAIRS,
    },
    {
        .name = "bailingmoe", /* Ling-lite, Ling-plus */
        .traits = HAS_EXPERTS | HAS_SHARED_EXPERT | HAS_ROUTER_KEYS,
        .mixer = &attention_form,
        .rotation = DEV_ROTATE_PAIRS,
    },
    {
        .name = "qwen3vl", /* Qwen3-VL-2B to 32B: their text; no experts */
        .traits = HAS_QK_NORM | HAS_SECTIONS,
        .mixer = &attention_form,
    },
    {
        .name = "qwen2vl", /* Qwen2-VL, Qwen2.5-VL: their text; no experts */
        .traits = HAS_QKV_BIAS | HAS_SECTIONS,
        .mixer = &attention_form,
    },
    {
        .name = "qwen2", /* Qwen2, Qwen2.5, QwQ-32B: no experts */
        .traits = HAS_QKV_BIAS,
        .mixer = &attention_form,
    },
    {
        .name = "qwen3", /* Qwen3-0.6B to 32B: no experts */
        .traits = HAS_QK_NORM,
        .mixer = &attention_form,
    },
    {
        .name = "llama", /* Llama 2 and 3, Mistral; with experts: Mixtral */
        .optional = HAS_EXPERTS | HAS_QKV_BIAS | HAS_OUTPUT_BIAS,
        .mixer = &attention_form,
        .rotation = DEV_ROTATE_PAIRS,
        .renormalise = true,
    },
};

const struct family *family_find(struct str name)
{
    for (size_t i = 0; i < ARRAY_LEN(families); i++)
        if (strlen(families[i].name) == name.n && memcmp(families[i].name, name.p, name.n) == 0)
            return &families[i];
    return NULL;
}

/* Letters and digits that two names begin with alike. */
static size_t common(struct str a, const char *b)
{
    size_t n = 0;
    while (n < a.n && b[n] && a.p[n] == b[n])
        n++;
    return n;
}

const char *family_nearest(struct str name)
{
    enum { LEAST = 4 }; /* less is chance */
    const char *best = NULL;
    size_t most = LEAST - 1, rest = SIZE_MAX;
    for (size_t i = 0; i < ARRAY_LEN(families); i++) {
        const char *known = families[i].name;
        const size_t n = common(name, known), left = strlen(known) - n + name.n - n;
        if (n > most || (n == most && best && left < rest)) {
            most = n;
            rest = left;
            best = known;
        }
    }
    return best;
}

void family_list(char *buf, size_t n)
{
    size_t at = 0;
    buf[0] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(families) && at < n; i++)
        at += (size_t)snprintf(buf + at, n - at, "%s%s", i ? ", " : "", families[i].name);
}
