/*
 * What a file says is used or refused by name: keys and tensors that change the
 * result, with the same sentence from every command; forms that change nothing
 * are accepted and give the same bits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "golden.h"
#include "support/remake.h"

#define QWEN3 DATA "qwen3moe-tiny.gguf"
#define NO_KERNEL ((enum dtype)15) /* Q8_K: its size is known, no more */
static const int32_t prompt[] = {5, 17, 42, 7, 300, 11};
enum { N_PROMPT = sizeof(prompt) / sizeof(prompt[0]) };

static char dir[64], path[96], packed[96];

static sluice_options small(const char *model)
{
    sluice_options o = golden_small(model, "pread");
    o.threads = 1;
    return o;
}

static float *logits_of(const char *model, int *n_vocab)
{
    sluice_options o = small(model);
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s);
    sluice_model_info info;
    sluice_error e;
    sluice_info(s, &info);
    assert_int_equal(sluice_session_sync(x, prompt, N_PROMPT, 0, &e), 0);
    float *p = malloc((size_t)info.n_vocab * sizeof(float));
    assert_non_null(p);
    memcpy(p, sluice_session_logits(x), (size_t)info.n_vocab * sizeof(float));
    *n_vocab = info.n_vocab;
    sluice_session_free(x);
    sluice_close(s);
    return p;
}

/* Every way into the model gives the same sentence, which has the words and says why. */
static void assert_refused(const char *name, const char *words, const char *why)
{
    sluice_options o = small(path);
    sluice_error of_open = {0}, e = {0};
    sluice_plan plan;
    sluice_probe_result probe;
    sluice_pack_options po = {.size = sizeof(po), .out = packed};
    sluice *s = NULL;
    int rc = sluice_open(&o, &s, &of_open);
    if (rc == 0 || !strstr(of_open.text, words) || !strstr(of_open.text, why))
        fail_msg("%s: %d, \"%s\" has no \"%s\" or no \"%s\"", name, rc, rc ? of_open.text : "",
                 words, why);
    assert_non_null(strstr(of_open.text, path));
    assert_int_equal(sluice_plan_memory(&o, NULL, &plan, &e), rc);
    assert_string_equal(e.text, of_open.text);
    assert_int_equal(sluice_probe(&o, &probe, &e), rc);
    assert_string_equal(e.text, of_open.text);
    assert_int_equal(sluice_pack(&o, &po, NULL, &e), rc);
    assert_string_equal(e.text, of_open.text);
    assert_int_not_equal(access(packed, F_OK), 0);
}

static void assert_same(const char *name, const char *from)
{
    int n, m;
    float *want = logits_of(from, &n), *got = logits_of(path, &m);
    assert_int_equal(n, m);
    if (memcmp(want, got, (size_t)n * sizeof(float)) != 0)
        fail_msg("%s: other logits", name);
    free(want);
    free(got);
}

/* ---- keys -------------------------------------------------------------------- */

#define NUM(key, type, x) {key, type, false, 1, {x}, NULL}
#define TXT(key, s) {key, GGUF_STRING, false, 1, {0}, s}
#define LIST(key, type, n, ...) {key, type, true, n, {__VA_ARGS__}, NULL}

/* Why the key is refused, besides its name. */
struct refused {
    struct remake_key key;
    const char *why;
};
#define UNSUPPORTED "That is not supported for"

static const struct refused refused3[] = {
    {NUM("qwen3moe.expert_weights_norm", GGUF_BOOL, 0), UNSUPPORTED},
    {NUM("qwen3moe.norm_top_k_prob", GGUF_BOOL, 0), UNSUPPORTED},
    {NUM("qwen3moe.expert_weights_scale", GGUF_F32, 2.5), UNSUPPORTED},
    {NUM("qwen3moe.expert_gating_func", GGUF_U32, 2), UNSUPPORTED},
    {NUM("qwen3moe.expert_group_count", GGUF_U32, 4), UNSUPPORTED},
    {NUM("qwen3moe.expert_group_used_count", GGUF_U32, 2), UNSUPPORTED},
    {NUM("qwen3moe.expert_shared_count", GGUF_U32, 1), UNSUPPORTED},
    {NUM("qwen3moe.expert_shared_feed_forward_length", GGUF_U32, 32), UNSUPPORTED},
    {NUM("qwen3moe.leading_dense_block_count", GGUF_U32, 1), UNSUPPORTED},
    {NUM("qwen3moe.interleave_moe_layer_step", GGUF_U32, 2), UNSUPPORTED},
    {NUM("qwen3moe.attention.sliding_window", GGUF_U32, 128), UNSUPPORTED},
    {LIST("qwen3moe.attention.sliding_window_pattern", GGUF_BOOL, 3, 1, 0, 1), UNSUPPORTED},
    {NUM("qwen3moe.attention.causal", GGUF_BOOL, 0), UNSUPPORTED},
    {NUM("qwen3moe.attention.clamp_kqv", GGUF_F32, 8), UNSUPPORTED},
    {NUM("qwen3moe.attention.max_alibi_bias", GGUF_F32, 8), UNSUPPORTED},
    {NUM("qwen3moe.logit_scale", GGUF_F32, 0.5), UNSUPPORTED},
    {NUM("qwen3moe.residual_scale", GGUF_F32, 0.22), UNSUPPORTED},
    {NUM("qwen3moe.embedding_scale", GGUF_F32, 12), UNSUPPORTED},
    {NUM("qwen3moe.attn_logit_softcapping", GGUF_F32, 50), UNSUPPORTED},
    {NUM("qwen3moe.final_logit_softcapping", GGUF_F32, 30), UNSUPPORTED},
    {NUM("qwen3moe.router_logit_softcapping", GGUF_F32, 30), UNSUPPORTED},
    {NUM("qwen3moe.rope.scale_linear", GGUF_F32, -4), "expected a number from 0 to"},
    {NUM("qwen3moe.rope.scaling.attn_factor", GGUF_F32, 0), "expected a number"},
    {TXT("qwen3moe.rope.scaling.type", "longrope"), "how its positions are scaled is not known"},
    {LIST("qwen3moe.rope.dimension_sections", GGUF_I32, 4, 11, 11, 10, 0), UNSUPPORTED},
    {NUM("qwen3moe.full_attention_interval", GGUF_U32, 4), UNSUPPORTED},
    {NUM("qwen3moe.ssm.state_size", GGUF_U32, 128), UNSUPPORTED},
    {NUM("qwen3moe.attention.value_length", GGUF_U32, 64),
     "has shape"},
    {LIST("qwen3moe.attention.head_count_kv", GGUF_U32, 3, 2, 1, 2),
     "has shape"},
    {NUM("qwen3moe.invented_by_nobody", GGUF_F32, 0.1), UNSUPPORTED},
    {TXT("qwen3moe.invented_by_nobody", "yes"), UNSUPPORTED},
    {TXT("qwen3moe.tensor_data_layout", "Meta AI original pth"), UNSUPPORTED},
    /* a flag that is off where this family has what it switches */
    {NUM("qwen3moe.attention.use_qk_norm", GGUF_BOOL, 0), UNSUPPORTED},
    {NUM("qwen3moe.use_qk_norm", GGUF_BOOL, 0), UNSUPPORTED},
    {NUM("qwen3moe.attention.output_gate", GGUF_BOOL, 1), UNSUPPORTED},
    {LIST("qwen3moe.expert_used_count", GGUF_U32, 2, 4, 4),
     "expected one number, or one for each of 3 layers"}, /* of 3 layers */
    {TXT("qwen3moe.rope.freq_base", "10000.0"), "expected a number from"},
    {NUM("general.quantization_version", GGUF_U32, 99), "only version 2 of the layout"},
    {NUM("tokenizer.ggml.add_eos_token", GGUF_BOOL, 1), UNSUPPORTED},
    {NUM("tokenizer.ggml.add_sep_token", GGUF_BOOL, 1), UNSUPPORTED},
    {NUM("tokenizer.ggml.add_space_prefix", GGUF_BOOL, 1), UNSUPPORTED},
    {NUM("tokenizer.ggml.remove_extra_whitespaces", GGUF_BOOL, 1), UNSUPPORTED},
    {LIST("tokenizer.ggml.suppress_tokens", GGUF_I32, 2, 3, 4), UNSUPPORTED},
    {NUM("tokenizer.ggml.invented_by_nobody", GGUF_BOOL, 1), UNSUPPORTED},
};
static const struct refused refused35[] = {
    {NUM("qwen35moe.expert_shared_count", GGUF_U32, 2), UNSUPPORTED},
    {NUM("qwen35moe.expert_shared_count", GGUF_U32, 0), "expected a whole number from 1"},
    /* the fourth counts no text */
    {LIST("qwen35moe.rope.dimension_sections", GGUF_I32, 4, 2, 1, 0, 1),
     "expected three parts of the"},
    {LIST("qwen35moe.rope.dimension_sections", GGUF_I32, 4, 4, 0, 0, 0),
     "expected three parts of the"}, /* covers 0, 3, 6, 9 */
    {LIST("qwen35moe.rope.dimension_sections", GGUF_I32, 2, 2, 2), "expected three parts of the"},
    {NUM("qwen35moe.attention.recurrent_layers", GGUF_BOOL, 1), "has no usable element 0"},
    {NUM("qwen35moe.ssm.v_head_reordered", GGUF_BOOL, 0), UNSUPPORTED},
    {NUM("qwen35moe.nextn_predict_layers", GGUF_U32, 1),
     "should predict further tokens, but it has no nextn"}, /* block_count does not count it */
    {NUM("qwen35moe.attention.sliding_window", GGUF_U32, 128), UNSUPPORTED},
    {NUM("qwen35moe.attn_output_gate", GGUF_BOOL, 0), UNSUPPORTED},
};

static const struct refused refused4[] = {
    {LIST("deepseek4.attention.compress_ratios", GGUF_U32, 4, 0, 4, 128, 8),
     "expected 0, 4 or 128 for each layer"},
    {LIST("deepseek4.attention.compress_ratios", GGUF_U32, 3, 0, 4, 128),
     "no list with one number for each of 4 layers"},
    {NUM("deepseek4.attention.compress_ratios", GGUF_U32, 4), "no list with one number"},
    {NUM("deepseek4.attention.sliding_window", GGUF_U32, 0), "expected a whole number from 1"},
    {NUM("deepseek4.attention.value_length", GGUF_U32, 64),
     "expected a whole number from 32 to 32"},
    {NUM("deepseek4.attention.head_count_kv", GGUF_U32, 2), "expected a whole number from 1 to 1"},
    {NUM("deepseek4.attention.output_group_count", GGUF_U32, 3), "4 heads are not 3 groups"},
    {NUM("deepseek4.hyper_connection.count", GGUF_U32, 2), "expected a whole number from 4 to 4"},
    {NUM("deepseek4.hash_layer_count", GGUF_U32, 3), "blk.2.ffn_gate_tid2eid.weight' is missing"},
    {NUM("deepseek4.hash_layer_count", GGUF_U32, 1), "blk.1.ffn_gate_tid2eid.weight' is there"},
};

static const struct refused refused_k3[] = {
    {NUM("kimi-k3.attn_res.block_size", GGUF_U32, 1025), "expected a whole number from 1 to 1024"},
    {NUM("kimi-k3.expert_latent_length", GGUF_U32, 128), "expected a whole number from 32 to 64"},
    {NUM("kimi-k3.expert_latent_length", GGUF_U32, 40), "no multiple of 32"},
    {NUM("kimi-k3.kda.gate_lower_bound", GGUF_F32, 0), "expected a number from"},
    {NUM("kimi-k3.attention.scale", GGUF_F32, 0.01), UNSUPPORTED},
    {NUM("kimi-k3.activation.situ_beta", GGUF_F32, 0), "expected a number from"},
    {NUM("kimi-k3.activation.situ_linear_beta", GGUF_F32, -1), "expected a number from"},
};

static const struct refused refused_ling[] = {
    {NUM("bailingmoe3.kda.safe_gate", GGUF_BOOL, 0), "decays have no least value"},
    {NUM("bailingmoe3.kda.head_dim", GGUF_U32, 48), "no multiple of 32"},
    {NUM("bailingmoe3.attention.scale", GGUF_F32, 0.01), UNSUPPORTED},
    {NUM("bailingmoe3.rope.scaling.factor", GGUF_F32, 4), UNSUPPORTED},
    {TXT("bailingmoe3.rope.scaling.type", "yarn"), UNSUPPORTED},
};

static const struct {
    const char *from;
    const struct refused *rows;
    size_t n;
} refused_of[] = {{QWEN3, refused3, ARRAY_LEN(refused3)}, {TINY, refused35, ARRAY_LEN(refused35)},
                  {DATA "deepseek4-tiny.gguf", refused4, ARRAY_LEN(refused4)},
                  {DATA "kimi-k3-tiny.gguf", refused_k3, ARRAY_LEN(refused_k3)},
                  {DATA "bailingmoe3-tiny.gguf", refused_ling, ARRAY_LEN(refused_ling)}};

static void keys_are_refused(void **state)
{
    (void)state;
    for (size_t family = 0; family < ARRAY_LEN(refused_of); family++) {
        const struct refused *k = refused_of[family].rows;
        for (size_t i = 0; i < refused_of[family].n; i++) {
            const char *key = k[i].key.key;
            remake(&(struct remake){.from = refused_of[family].from, .keys = &k[i].key,
                                    .n_keys = 1},
                   path);
            /* a length that does not fit is said of the weight */
            const char *words = strcmp(key, "qwen3moe.attention.value_length") ? key
                                                                              : "attn_v.weight";
            if (strstr(key, "head_count_kv") && k[i].key.n > 1)
                words = "attn_k.weight";
            assert_refused(key, words, k[i].why);
        }
    }
}

static void numbers_without_a_usual_value_are_needed(void **state)
{
    (void)state;
    remake(&(struct remake){.from = QWEN3, .without = "qwen3moe.attention.layer_norm_rms_epsilon"},
           path);
    assert_refused("epsilon", "layer_norm_rms_epsilon'", "is missing");
    remake(&(struct remake){.from = DATA "bailingmoe3-tiny.gguf",
                            .without = "bailingmoe3.kda.gate_lower_bound"}, path);
    assert_refused("lower bound", "gate_lower_bound'", "is missing");
}

static void neutral_keys_change_nothing(void **state)
{
    (void)state;
    static const struct remake_key keys[] = {
        NUM("qwen3moe.expert_weights_norm", GGUF_BOOL, 1),
        NUM("qwen3moe.expert_weights_scale", GGUF_F32, 1),
        NUM("qwen3moe.expert_gating_func", GGUF_U32, 1),
        NUM("qwen3moe.expert_group_count", GGUF_U32, 1),
        NUM("qwen3moe.expert_group_used_count", GGUF_U32, 1),
        NUM("qwen3moe.expert_shared_count", GGUF_U32, 0),
        NUM("qwen3moe.leading_dense_block_count", GGUF_U32, 0),
        NUM("qwen3moe.interleave_moe_layer_step", GGUF_U32, 1),
        NUM("qwen3moe.attention.sliding_window", GGUF_U32, 0),
        LIST("qwen3moe.attention.sliding_window_pattern", GGUF_BOOL, 3, 0, 0, 0),
        NUM("qwen3moe.attention.causal", GGUF_BOOL, 1),
        NUM("qwen3moe.logit_scale", GGUF_F64, 1),
        NUM("qwen3moe.final_logit_softcapping", GGUF_F32, 0),
        TXT("qwen3moe.rope.scaling.type", "none"),
        NUM("qwen3moe.rope.scaling.factor", GGUF_F32, 4), /* of no scaling */
        NUM("qwen3moe.rope.scaling.original_context_length", GGUF_U32, 32768),
        LIST("qwen3moe.attention.head_count_kv", GGUF_U32, 3, 2, 2, 2),
        TXT("qwen3moe.invented_by_nobody", ""),
        LIST("qwen3moe.also_invented", GGUF_I32, 4, 0, 0, 0, 0),
        NUM("qwen3.logit_scale", GGUF_F32, 0.5), /* of another family */
        NUM("general.sampling.temp", GGUF_F32, 0.6),
        TXT("general.quantized_by", "somebody"),
        TXT("quantize.imatrix.file", "imatrix.gguf"),
        NUM("quantize.imatrix.entries_count", GGUF_I32, 385),
        NUM("tokenizer.ggml.add_eos_token", GGUF_BOOL, 0),
        NUM("tokenizer.ggml.add_space_prefix", GGUF_BOOL, 0),
        NUM("tokenizer.ggml.fim_pre_token_id", GGUF_U32, 3),
        NUM("tokenizer.ggml.unknown_token_id", GGUF_U32, 3),
        TXT("tokenizer.chat_template.tool_use", "{{ messages }}"),
    };
    remake(&(struct remake){.from = QWEN3, .keys = keys, .n_keys = sizeof(keys) / sizeof(keys[0])},
           path);
    assert_same("all neutral keys", QWEN3);
    static const struct remake_key scaling[] = {TXT("qwen3moe.rope.scaling.type", "yarn"),
                                                NUM("qwen3moe.rope.scaling.factor", GGUF_F32, 1)};
    remake(&(struct remake){.from = QWEN3, .keys = scaling, .n_keys = 2}, path);
    assert_same("YaRN by 1", QWEN3);
    static const struct remake_key pictures[] = {
        LIST("qwen35moe.rope.dimension_sections", GGUF_I32, 3, 2, 1, 1),
        NUM("qwen35moe.vision.block_count", GGUF_U32, 27),
        NUM("qwen35moe.image_token_id", GGUF_U32, 99),
        NUM("qwen35moe.expert_shared_count", GGUF_U32, 1),
        LIST("qwen35moe.attention.recurrent_layers", GGUF_BOOL, 4, 1, 1, 1, 0)};
    remake(&(struct remake){.from = TINY, .keys = pictures, .n_keys = 5}, path);
    assert_same("pictures", TINY);
    static const struct remake_key scale = NUM("gemma4.attention.scale", GGUF_F32, 0);
    remake(&(struct remake){.from = DATA "gemma4-tiny.gguf", .keys = &scale, .n_keys = 1}, path);
    assert_same("a scale of scores that is not said", DATA "gemma4-tiny.gguf");
    static const struct remake_key type = TXT("phi3.rope.scaling.type", "longrope");
    remake(&(struct remake){.from = DATA "phi3-tiny.gguf", .keys = &type, .n_keys = 1}, path);
    assert_same("LongRoPE by its name, too", DATA "phi3-tiny.gguf");
}

static void unknown_families_have_a_nearest(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"qwen3x", "'qwen3x' is not supported (the nearest that is: qwen3)"},
        {"glm4moe2", "'glm4moe2' is not supported (the nearest that is: glm4moe)"},
        {"mamba", "'mamba' is not supported; this version runs qwen35moe, "}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct remake_key key = TXT("general.architecture", cases[i][0]);
        remake(&(struct remake){.from = QWEN3, .keys = &key, .n_keys = 1}, path);
        assert_refused(cases[i][0], cases[i][0], cases[i][1]);
    }
}

/* What stretches positions counts: the last token of several sees another text. */
static void scalings_are_applied(void **state)
{
    (void)state;
    static const struct remake_key keys[] = {
        NUM("qwen3moe.rope.scale_linear", GGUF_F32, 4),
        NUM("qwen3moe.rope.scaling.factor", GGUF_F32, 4), /* without a type: linear */
        NUM("qwen3moe.rope.scaling.attn_factor", GGUF_F32, 1.2),
    };
    int n_vocab;
    float *plain = logits_of(QWEN3, &n_vocab), *before = NULL;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        remake(&(struct remake){.from = QWEN3, .keys = &keys[i], .n_keys = 1}, path);
        float *p = logits_of(path, &n_vocab);
        assert_memory_not_equal(p, plain, (size_t)n_vocab * sizeof(*p));
        if (i == 1) /* two names of one thing */
            assert_memory_equal(p, before, (size_t)n_vocab * sizeof(*p));
        free(before);
        before = p;
    }
    free(before);
    free(plain);
}

/* Old files have a tensor for each expert: the same model, wherever its experts lie, and
 * also when it is packed. */
static void experts_apart_are_the_same(void **state)
{
    (void)state;
    sluice_pack_options po;
    sluice_options o = small(path);
    sluice_error e;
    remake(&(struct remake){.from = DATA "mixtral-tiny.gguf", .apart = true}, path);
    assert_same("experts apart", DATA "mixtral-tiny.gguf");
    sluice_pack_options_init(&po);
    po.out = packed;
    if (sluice_pack(&o, &po, NULL, &e) != 0)
        fail_msg("%s", e.text);
    int n_vocab;
    float *a = logits_of(path, &n_vocab), *b = logits_of(packed, &n_vocab);
    assert_memory_equal(a, b, (size_t)n_vocab * sizeof(*a));
    free(a);
    free(b);
    remove(packed);
    static const struct remake_tensor more[] = {
        {"blk.0.ffn_gate.6.weight", DT_F32, {64, 32}, 0.1f}};
    remake(&(struct remake){.from = DATA "mixtral-tiny.gguf", .apart = true, .tensors = more,
                            .n_tensors = 1}, path);
    assert_refused("an expert elsewhere", "blk.0.ffn_gate.6.weight", "distance");
}

/* ---- tensors ------------------------------------------------------------------- */

static void tensors_are_refused(void **state)
{
    (void)state;
    static const char *const names[] = {
        "blk.0.attn_k.bias", "blk.1.attn_q.bias", "blk.2.attn_output.bias",
        "blk.0.ffn_gate_inp.bias", "blk.0.exp_probs_b.bias", "blk.0.exp_probs_b",
        "blk.0.ffn_down_exps.bias", "blk.0.attn_norm.scale", "blk.0.attn_sinks",
        "blk.0.attn_sinks.weight", "blk.0.post_ffw_norm.weight", "blk.0.nobody.weight",
        "blk.0.ffn_gate_shexp.weight", "blk.0.nextn.eh_proj.weight", "blk.3.attn_norm.weight",
        "blk.03.attn_norm.weight", "output.bias", "output_norm.bias", "rope_freqs.weight",
        "blk.0.ffn_gate_tid2eid.weight", "blk.0.hc_attn_fn.weight", "output_hc_fn.weight",
        "blk.0.attn_compressor_kv.weight", "position_embd.weight", "cls.weight",
        "cls.output.bias", "token_embd_norm.weight", "rope_factors_long.weight", "nobody",
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct remake_tensor t = {names[i], DT_F32, {64}, 0.5f};
        remake(&(struct remake){.from = QWEN3, .tensors = &t, .n_tensors = 1}, path);
        /* one that any family may have is looked at */
        assert_refused(names[i], names[i],
                       strcmp(names[i], "rope_freqs.weight") == 0
                           ? "has shape" : "has no place in qwen3moe as it is known here");
    }
}

/* What files of a family may have beyond what is computed here, or lack. */
static void what_a_family_has_more_is_refused(void **state)
{
    (void)state;
#define GEMMA4 DATA "gemma4-tiny.gguf"
#define LLAMA4 DATA "llama4-tiny.gguf"
#define PHI3 DATA "phi3-tiny.gguf"
#define PHIMOE DATA "phimoe-tiny.gguf"
#define LESS "is missing"
#define MORE "has no place in"
    static const struct {
        const char *from;
        struct remake_key key;
        struct remake_tensor tensor;
        const char *without, *words, *why;
    } cases[] = {
        {GEMMA4, NUM("gemma4.attention.shared_kv_layers", GGUF_U32, 2), {0}, NULL,
         "shared_kv_layers' is 2", "the last layers see keys of earlier ones"},
        {GEMMA4, NUM("gemma4.embedding_length_per_layer_input", GGUF_U32, 256), {0}, NULL,
         "embedding_length_per_layer_input' is 256", "each layer has embeddings of its own"},
        {GEMMA4, NUM("gemma4.attention.sliding_window", GGUF_U32, 0), {0}, NULL,
         "sliding_window' is 0", "expected a whole number from 1"},
        {GEMMA4, NUM("gemma4.attention.value_length_swa", GGUF_U32, 32), {0}, NULL,
         "key length 16 and value length 32", "whose keys may be values"},
        {GEMMA4, {0}, {"per_layer_token_embd.weight", DT_F32, {64, 320}, 0.1f}, NULL,
         "per_layer_token_embd.weight", MORE},
        {GEMMA4, {0}, {"blk.2.inp_gate.weight", DT_F32, {32, 16}, 0.1f}, NULL,
         "blk.2.inp_gate.weight", MORE},
        {GEMMA4, {0}, {"blk.1.ffn_up_exps.scale", DT_F32, {6}, 2.0f}, NULL,
         "blk.1.ffn_up_exps.scale", MORE}, /* its matrix is one with the gate's */
        {GEMMA4, {0}, {0}, "gemma4.attention.sliding_window_pattern", "sliding_window_pattern",
         LESS},
        {GEMMA4, {0}, {0}, "gemma4.attention.key_length_swa", "key_length_swa", LESS},
        {GEMMA4, {0}, {0}, "rope_freqs.weight", "rope_freqs.weight", LESS},
        {GEMMA4, {0}, {0}, "blk.1.ffn_gate_inp.scale", "blk.1.ffn_gate_inp.scale", LESS},
        {GEMMA4, {0}, {0}, "blk.1.pre_ffw_norm_2.weight", "blk.1.pre_ffw_norm_2.weight", LESS},
        {LLAMA4, NUM("llama4.attention.sliding_window", GGUF_U32, 0), {0}, NULL,
         "sliding_window' is 0", "expected a whole number from 1"},
        {LLAMA4, NUM("llama4.attention.sliding_window_pattern", GGUF_U32, 2), {0}, NULL,
         "sliding_window_pattern' is 2", "from 4 to 4"},
        {LLAMA4, NUM("llama4.rope.freq_base_swa", GGUF_F32, 1e4), {0}, NULL,
         "llama4.rope.freq_base_swa", UNSUPPORTED},
        {LLAMA4, NUM("llama4.expert_used_count", GGUF_U32, 2), {0}, NULL,
         "expert_used_count' is 2", "from 1 to 1"},
        {LLAMA4, NUM("llama4.expert_gating_func", GGUF_U32, 1), {0}, NULL,
         "expert_gating_func' is 1", "how routers score is not read"},
        {LLAMA4, NUM("llama4.expert_weights_norm", GGUF_BOOL, 1), {0}, NULL,
         "llama4.expert_weights_norm", "weights sum to 1"},
        {LLAMA4, NUM("llama4.interleave_moe_layer_step", GGUF_U32, 9), {0}, NULL,
         "interleave_moe_layer_step'", "leaves no layer of 5 with experts"},
        {LLAMA4, {0}, {0}, "llama4.interleave_moe_layer_step", "interleave_moe_layer_step", LESS},
        {LLAMA4, {0}, {0}, "blk.1.ffn_up_shexp.weight", "blk.1.ffn_up_shexp.weight", LESS},
        {LLAMA4, {0}, {"blk.0.attn_q_norm.weight", DT_F32, {16}, 0.5f}, NULL,
         "blk.0.attn_q_norm.weight", MORE},
        {LLAMA4, {0}, {"blk.0.ffn_gate_inp.weight", DT_F32, {32, 6}, 0.5f}, NULL,
         "blk.0.ffn_gate_inp.weight", MORE},
        {PHI3, {0}, {0}, "rope_factors_long.weight", "rope_factors_long.weight", LESS},
        {PHI3, {0}, {0}, "rope_factors_short.weight", "rope_factors_short.weight", LESS},
        {PHI3, {0}, {"rope_factors_short.weight", DT_F32, {8}, 1.0f}, "rope_factors_short.weight",
         "rope_factors_short.weight' has shape (8, ", "expected (6, "},
        {PHI3, {0}, {0}, "phi3.rope.scaling.attn_factor", "scaling.attn_factor", LESS},
        {PHI3, {0}, {0}, "phi3.rope.scaling.original_context_length",
         "scaling.original_context_length", LESS},
        {PHI3, NUM("phi3.rope.scaling.factor", GGUF_F32, 4), {0}, NULL, "a factor of 4",
         "together is not supported"},
        {PHI3, {0}, {"rope_freqs.weight", DT_F32, {6}, 2.0f}, NULL, "rope_freqs.weight", MORE},
        {PHIMOE, NUM("phimoe.expert_used_count", GGUF_U32, 3), {0}, NULL, "expert_used_count' is 3",
         "from 2 to 2"},
        {PHIMOE, NUM("phimoe.expert_weights_norm", GGUF_BOOL, 1), {0}, NULL,
         "phimoe.expert_weights_norm", "weights sum to 1"},
        {PHIMOE, NUM("phimoe.expert_gating_func", GGUF_U32, 1), {0}, NULL,
         "expert_gating_func' is 1", "how routers score is not read"},
        {PHIMOE, {0}, {0}, "blk.1.attn_norm.bias", "blk.1.attn_norm.bias", LESS},
        {PHIMOE, {0}, {0}, "output_norm.bias", "output_norm.bias", LESS},
        {PHIMOE, {0}, {0}, "output.bias", "output.bias", LESS},
        {PHI3, {0}, {"blk.0.ffn_norm.bias", DT_F32, {64}, 0.1f}, NULL, "blk.0.ffn_norm.bias", MORE},
        {DATA "minicpm-tiny.gguf", {0}, {0}, "minicpm.logit_scale", "minicpm.logit_scale", LESS},
        {LLAMA4, TXT("llama4.rope.scaling.type", "longrope"), {0}, NULL, "rope.scaling.type",
         "how its positions are scaled is not known"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        remake(&(struct remake){.from = cases[i].from, .keys = &cases[i].key,
                                .n_keys = cases[i].key.key != NULL, .tensors = &cases[i].tensor,
                                .n_tensors = cases[i].tensor.name != NULL,
                                .without = cases[i].without}, path);
        assert_refused(cases[i].words, cases[i].words, cases[i].why);
    }
}

static void harmless_tensors_are_left_out(void **state)
{
    (void)state;
    static const struct remake_tensor t[] = {
        {"v.blk.0.attn_q.weight", DT_F32, {64, 64}, 0.1f},
        {"mm.0.bias", DT_F32, {64}, 0.1f},
        {"mtp.layers.0.norm.weight", DT_F32, {64}, 0.1f},
        {"blk.0.ffn_up_exps.input_scale", DT_F32, {16}, 1.0f},
        {"v.patch_embd.weight", NO_KERNEL, {256}, 0}, /* which has no kernel */
    };
    remake(&(struct remake){.from = QWEN3, .tensors = t, .n_tensors = 5}, path);
    assert_same("pictures", QWEN3);
}

/* Real files count the predicting blocks in block_count. */
static void predicting_blocks_are_skipped(void **state)
{
    (void)state;
    static const struct remake_key keys[] = {NUM("qwen35moe.block_count", GGUF_U32, 5),
                                             NUM("qwen35moe.nextn_predict_layers", GGUF_U32, 1)};
    static const struct remake_tensor t[] = {
        {"blk.4.nextn.eh_proj.weight", DT_F32, {128, 64}, 0.1f},
        {"blk.4.attn_norm.weight", DT_F32, {64}, 0.1f},
        {"blk.4.nobody.weight", DT_F32, {64}, 0.1f}};
    remake(&(struct remake){.from = TINY, .keys = keys, .n_keys = 2, .tensors = t, .n_tensors = 3},
           path);
    assert_same("one block more", TINY);
    remake(&(struct remake){.from = TINY, .keys = keys, .n_keys = 2}, path);
    assert_same("its tensors were removed", TINY);
    static const struct remake_key lists[] = {
        NUM("qwen35moe.block_count", GGUF_U32, 5),
        NUM("qwen35moe.nextn_predict_layers", GGUF_U32, 1),
        LIST("qwen35moe.attention.head_count", GGUF_U32, 4, 4, 4, 4, 4)}; /* of the layers alone */
    remake(&(struct remake){.from = TINY, .keys = lists, .n_keys = 3}, path);
    assert_same("a list that does not count it", TINY);
    remake(&(struct remake){.from = TINY, .keys = keys + 1, .n_keys = 1, .tensors = t,
                            .n_tensors = 3},
           path);
    assert_refused("not counted", "nextn_predict_layers", "but it has no nextn tensors");
    remake(&(struct remake){.from = TINY, .keys = keys, .n_keys = 1, .tensors = t, .n_tensors = 3},
           path);
    assert_refused("counted as a layer", "blk.4.", "is missing");
}

/* A layer without an indexer sees what the one before it picked, and the first has none. */
static void a_first_layer_without_its_indexer_is_refused(void **state)
{
    (void)state;
    remake(&(struct remake){.from = DATA "glm-dsa-tiny.gguf",
                            .without = "blk.0.indexer.proj.weight"}, path);
    assert_refused("indexer", "block 0", "has 4 of 5 weights of an indexer");
}

/* Layers without entries have nothing that makes some, those with experts by token no
 * correction, and a table is one of whole numbers. */
static void weights_of_other_layers_are_refused(void **state)
{
    (void)state;
    static const char *const table = "blk.0.ffn_gate_tid2eid.weight";
    static const struct {
        struct remake_tensor t;
        const char *why;
    } cases[] = {
        {{"blk.0.attn_compressor_kv.weight", DT_F32, {32, 32}, 0.1f}, "has no place"},
        {{"blk.2.indexer_compressor_norm.weight", DT_F32, {64}, 0.1f}, "has no place"},
        {{"blk.1.exp_probs_b.bias", DT_F32, {4}, 0.1f}, "has no place"},
        {{"blk.0.ffn_gate_tid2eid.weight", DT_F32, {2, 320}, 1.0f}, "is F32, expected I32"},
        {{"blk.0.ffn_gate_tid2eid.weight", DT_F32, {3, 320}, 1.0f}, "has shape"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const bool instead = strcmp(cases[i].t.name, table) == 0;
        remake(&(struct remake){.from = DATA "deepseek4-tiny.gguf", .tensors = &cases[i].t,
                                .n_tensors = 1, .without = instead ? table : NULL}, path);
        assert_refused(cases[i].t.name, cases[i].t.name, cases[i].why);
    }
}

/* ---- the other refusals -------------------------------------------------------- */

static void types_without_kernels_are_refused(void **state)
{
    (void)state;
    static const struct remake_tensor t[] = {
        {"blk.1.ffn_up_exps.weight", NO_KERNEL, {512, 128, 32}, 0},
        {"blk.3.attn_q.weight", NO_KERNEL, {512, 1024}, 0},
        {"output.weight", NO_KERNEL, {512, 8192}, 0},
        {"token_embd.weight", NO_KERNEL, {512, 8192}, 0}};
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        remake(
            &(struct remake){
                .from = BUILT_IN, .without = t[i].name, .tensors = &t[i], .n_tensors = 1},
            path);
        assert_refused(t[i].name, t[i].name, "no kernels");
    }
}

static void a_tokeniser_is_needed(void **state)
{
    (void)state;
    static const char *const keys[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        remake(&(struct remake){.from = QWEN3, .without = keys[i]}, path);
        assert_refused(keys[i], keys[i], "is missing");
    }
    static const struct remake_key spm[] = {TXT("tokenizer.ggml.model", "llama"),
                                            TXT("tokenizer.ggml.pre", "nobody")};
    for (size_t i = 0; i < ARRAY_LEN(spm); i++) {
        remake(&(struct remake){.from = QWEN3, .keys = &spm[i], .n_keys = 1}, path);
        sluice_options o = small(path);
        sluice_error a = {0}, b = {0};
        sluice *s = NULL;
        sluice_plan plan;
        assert_int_not_equal(sluice_open(&o, &s, &a), 0);
        assert_int_not_equal(sluice_plan_memory(&o, NULL, &plan, &b), 0);
        assert_string_equal(a.text, b.text);
    }
}

static void a_plan_judges_options_too(void **state)
{
    (void)state;
    const char *nowhere = "/nowhere/at/all";
    sluice_options all[] = {small(QWEN3), small(QWEN3), small(QWEN3)};
    all[0].io = "telepathy";
    all[1].policy = "nobody";
    all[2].mirrors = &nowhere;
    all[2].n_mirrors = 1;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        sluice_error a = {0}, b = {0};
        sluice *s = NULL;
        sluice_plan plan;
        int rc = sluice_open(&all[i], &s, &a);
        assert_int_not_equal(rc, 0);
        assert_int_equal(sluice_plan_memory(&all[i], NULL, &plan, &b), rc);
        assert_string_equal(a.text, b.text);
    }
}

/* ---- text ------------------------------------------------------------------------ */

static void raw_text_begins_as_the_file_asks(void **state)
{
    (void)state;
    static const struct remake_key keys[] = {NUM("tokenizer.ggml.add_bos_token", GGUF_BOOL, 1),
                                             NUM("tokenizer.ggml.bos_token_id", GGUF_U32, 317)};
    remake(&(struct remake){.from = QWEN3, .keys = keys, .n_keys = 2}, path);
    sluice_options o = small(path);
    o.tokenizer_only = true;
    sluice *s = golden_open(&o);
    sluice_error e;
    static const struct {
        const char *text;
        bool markup;
    } cases[] = {{"ab", false}, {"ab", true}, {"", false}, {"<|endoftext|>ab", true}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int32_t *ids = NULL;
        int64_t n = 0;
        assert_int_equal(sluice_tokenize(s, cases[i].text, strlen(cases[i].text), cases[i].markup,
                                         &ids, &n, &e), 0);
        assert_true(n >= 1);
        assert_int_equal(ids[0], 317);
        assert_true(n == 1 || ids[1] != 317);
        sluice_free(ids);
    }
    sluice_close(s);
    remake(&(struct remake){.from = QWEN3, .keys = keys, .n_keys = 1,
                            .without = "tokenizer.ggml.bos_token_id"},
           path);
    assert_refused("no BOS", "bos_token_id", "says which token that is");
}

/* ---- inspect ----------------------------------------------------------------------- */

static char notes[4096];

static void keep_note(void *user, const char *text)
{
    (void)user;
    assert_true(strlen(notes) + strlen(text) + 2 < sizeof(notes));
    strcat(notes, text);
    strcat(notes, "\n");
}

static void inspect_tells(const char *file, const char *words)
{
    sluice_visitor v = {.on_note = keep_note};
    sluice_error e = {0};
    notes[0] = '\0';
    if (sluice_inspect(file, &v, &e) != 0)
        fail_msg("%s: %s", file, e.text);
    if (words ? !strstr(notes, words) : notes[0])
        fail_msg("%s: the notes \"%s\" should have \"%s\"", file, notes, words ? words : "");
}

static void inspect_has_notes(void **state)
{
    (void)state;
    static const struct remake_tensor vision = {"v.blk.0.attn_q.weight", DT_F32, {64, 64}, 0.1f},
                                      bias = {"blk.0.attn_k.bias", DT_F32, {64}, 0.1f};
    inspect_tells(QWEN3, NULL);
    remake(&(struct remake){.from = QWEN3, .tensors = &vision, .n_tensors = 1}, path);
    inspect_tells(path, "pictures: 1 tensors with 16384 bytes are left out");
    remake(&(struct remake){.from = QWEN3, .tensors = &bias, .n_tensors = 1}, path);
    inspect_tells(path, "cannot be run");
    assert_non_null(strstr(notes, "blk.0.attn_k.bias"));
    remake(&(struct remake){.from = QWEN3, .without = "tokenizer.ggml.tokens"}, path);
    inspect_tells(path, "tokenizer.ggml.tokens");
}

/* ---- split models -------------------------------------------------------------------- */

static const struct remake_key first_keys[] = {NUM("split.no", GGUF_U16, 0),
                                               NUM("split.count", GGUF_U16, 2),
                                               NUM("split.tensors.count", GGUF_I32, 39)};

static void write_second(const char *to, const struct remake_key *more)
{
    struct remake_key keys[4] = {NUM("split.no", GGUF_U16, 1), NUM("split.count", GGUF_U16, 2),
                                 NUM("split.tensors.count", GGUF_I32, 39)};
    if (more)
        keys[3] = *more;
    remake(&(struct remake){.from = QWEN3, .keys = keys, .n_keys = more ? 4 : 3, .bare = true,
                            .first = 20, .last = 39},
           to);
}

static void parts_are_looked_into_and_compared(void **state)
{
    (void)state;
    char first[96], second[96];
    sluice_error e = {0};
    sluice *s = NULL;
    snprintf(first, sizeof(first), "%s/m-00001-of-00002.gguf", dir);
    snprintf(second, sizeof(second), "%s/m-00002-of-00002.gguf", dir);
    remake(&(struct remake){.from = QWEN3, .keys = first_keys, .n_keys = 3, .first = 0, .last = 20},
           first);
    write_second(second, NULL);
    strcpy(path, first);
    assert_same("two parts", QWEN3);
    inspect_tells(second, "part 2 of 2");
    inspect_tells(first, NULL);

    sluice_options o = small(second);
    assert_int_not_equal(sluice_open(&o, &s, &e), 0);
    assert_non_null(strstr(e.text, "part 2 of 2"));

    /* what both say must be the same */
    static const struct remake_key same = TXT("general.architecture", "qwen3moe"),
                                   others[] = {TXT("general.name", "another model"),
                                               TXT("general.architecture", "qwen35moe"),
                                               NUM("qwen3moe.block_count", GGUF_U32, 4)};
    write_second(second, &same);
    assert_same("both name the family", QWEN3);
    o = small(first);
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        write_second(second, &others[i]);
        assert_int_not_equal(sluice_open(&o, &s, &e), 0);
        assert_non_null(strstr(e.text, others[i].key));
        assert_non_null(strstr(e.text, second));
    }
    unlink(first);
    unlink(second);
    snprintf(path, sizeof(path), "%s/m.gguf", dir);
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/sluice-refuse-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/m.gguf", dir);
    snprintf(packed, sizeof(packed), "%s/packed.gguf", dir);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_refused),
        cmocka_unit_test(numbers_without_a_usual_value_are_needed),
        cmocka_unit_test(neutral_keys_change_nothing),
        cmocka_unit_test(scalings_are_applied),
        cmocka_unit_test(unknown_families_have_a_nearest),
        cmocka_unit_test(experts_apart_are_the_same),
        cmocka_unit_test(tensors_are_refused),
        cmocka_unit_test(what_a_family_has_more_is_refused),
        cmocka_unit_test(harmless_tensors_are_left_out),
        cmocka_unit_test(predicting_blocks_are_skipped),
        cmocka_unit_test(a_first_layer_without_its_indexer_is_refused),
        cmocka_unit_test(weights_of_other_layers_are_refused),
        cmocka_unit_test(types_without_kernels_are_refused),
        cmocka_unit_test(a_tokeniser_is_needed),
        cmocka_unit_test(a_plan_judges_options_too),
        cmocka_unit_test(raw_text_begins_as_the_file_asks),
        cmocka_unit_test(inspect_has_notes),
        cmocka_unit_test(parts_are_looked_into_and_compared),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
