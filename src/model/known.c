/*
 * What of a file is understood. A key or a tensor that changes what the model
 * computes is either used or refused by its name: an answer that leaves out a
 * part of the model is a wrong one that nobody notices.
 *
 * The keys stand in tables, a row a key: its name without the prefix, what is
 * accepted, for which families, and what another value would mean. The first
 * row that fits the family counts. A key of the model or the tokeniser without
 * a row is accepted when its value is neutral (false, 0, "", "none", or a list
 * of these), else refused. Keys that belong to neither (general.*, split.*,
 * quantize.*) describe the file and change nothing.
 *
 * A tensor is understood when bind.c asked for it. The few others that are
 * known to be harmless are left out with a note. An input_scale is what activations
 * would be divided by before they are rounded to 4 bits: no factor of the result.
 */
#include "model/model_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum accept {
    READ,   /* config.c, packed.c or the tokeniser read it and judge its value */
    TEXT,   /* these: READ by the tokeniser, if it is of that type */
    TEXTS,
    WHOLE,  /* a whole number */
    WHOLES, /* a list of such */
    REALS,
    FLAG,   /* a bool, or 0 or 1 */
    UNUSED, /* changes nothing, whatever it says */
    OFF,    /* neutral values only */
    SCORED, /* READ by the tokeniser `llama`, OFF with others */
    ONE,    /* 1, or neutral: a factor, a step, a number of groups */
    YES     /* true */
};

struct known_key {
    const char *name; /* a last '*' stands for anything */
    enum accept accept;
    uint64_t has, lacks; /* traits: the row counts for models that have all and none of them */
    const char *what; /* what another value means, or what is left out */
};
#define ANY 0, 0
#define WITH(traits) (traits), 0
#define WITHOUT(traits) 0, (traits)

#define NORMS (HAS_QK_NORM | HAS_ONE_QK_NORM | HAS_UNIT_QK_NORM)

/* "<architecture>." stands before these. */
static const struct known_key model_keys[] = {
    /* sizes */
    {"block_count", READ, ANY, NULL},
    {"nextn_predict_layers", READ, ANY, NULL},
    {"context_length", READ, ANY, NULL},
    {"embedding_length", READ, ANY, NULL},
    {"vocab_size", UNUSED, ANY, NULL}, /* the embedding table has that many rows */
    {"feed_forward_length", READ, WITHOUT(HAS_EXPERTS), NULL},
    {"feed_forward_length", READ, WITH(HAS_EXPERTS), NULL}, /* of experts, or of other layers */
    /* attention */
    {"attention.head_count", READ, ANY, NULL},
    {"attention.head_count_kv", READ, ANY, NULL},
    {"attention.key_length", READ, ANY, NULL},
    {"attention.value_length", READ, ANY, NULL},
    {"attention.layer_norm_rms_epsilon", READ, ANY, NULL},
    {"attention.scale", OFF, WITH(HAS_LATENT), "scores have another scale"},
    {"attention.scale", OFF, WITH(HAS_ENTRIES), "scores have another scale"},
    {"attention.scale", READ, ANY, NULL},
    {"attention.causal", YES, ANY, "tokens see those that follow them"},
    {"attention.sliding_window", READ, WITH(HAS_WINDOW), NULL},
    {"attention.sliding_window", READ, WITH(HAS_CHUNK), NULL},
    {"attention.sliding_window", READ, WITH(HAS_ENTRIES), NULL},
    {"attention.sliding_window", OFF, ANY, "a token sees only the nearest ones"},
    {"attention.sliding_window_pattern", READ, WITH(HAS_WINDOW), NULL},
    {"attention.sliding_window_pattern", READ, WITH(HAS_CHUNK), NULL},
    {"attention.sliding_window_pattern", OFF, ANY, "some layers see only the nearest tokens"},
    {"attention.key_length_swa", READ, WITH(HAS_NEAR_HEADS), NULL},
    {"attention.value_length_swa", READ, WITH(HAS_NEAR_HEADS), NULL},
    {"attention.shared_kv_layers", OFF, ANY, "the last layers see keys of earlier ones"},
    {"attention.clamp_kqv", OFF, ANY, "queries, keys and values are limited"},
    {"attention.max_alibi_bias", OFF, ANY, "scores fall with the distance"},
    {"attention.output_scale", ONE, ANY, "the attention's output has a factor"},
    {"attention.temperature_scale", READ, WITH(HAS_HEAT), NULL},
    {"attention.temperature_length", READ, WITH(HAS_HEAT), NULL},
    {"attention.q_lora_rank", READ, WITH(HAS_LATENT), NULL},
    {"attention.kv_lora_rank", READ, WITH(HAS_LATENT), NULL},
    {"attention.key_length_mla", READ, WITH(HAS_LATENT), NULL},
    {"attention.value_length_mla", READ, WITH(HAS_LATENT), NULL},
    {"rope.scaling.*", UNUSED, WITH(HAS_STILL_LATENT), "nothing rotates"},
    {"rope.scaling.yarn_log_multiplier", READ, WITH(HAS_LATENT), NULL},
    {"rope.scaling.yarn_log_multiplier", READ, WITH(HAS_LOG_MULTIPLIER), NULL},
    {"attention.temperature_scale", OFF, ANY, "queries grow with the position"},
    {"attention.layer_norm_epsilon", READ, WITH(HAS_INDEXER), NULL}, /* the indexer's */
    {"attention.indexer.top_k", READ, WITH(HAS_INDEXER), NULL},
    {"attention.indexer.head_count", READ, WITH(HAS_INDEXER), NULL},
    {"attention.indexer.key_length", READ, WITH(HAS_INDEXER), NULL},
    {"attention.indexer.types", READ, WITH(HAS_INDEXER), NULL},
    {"attention.q_lora_rank", READ, WITH(HAS_ENTRIES), NULL},
    {"attention.indexer.top_k", READ, WITH(HAS_ENTRIES), NULL},
    {"attention.indexer.head_count", READ, WITH(HAS_ENTRIES), NULL},
    {"attention.indexer.key_length", READ, WITH(HAS_ENTRIES), NULL},
    {"attention.compress_ratios", READ, WITH(HAS_ENTRIES), NULL},
    {"attention.compress_rope_freq_base", READ, WITH(HAS_ENTRIES), NULL},
    {"attention.output_group_count", READ, WITH(HAS_ENTRIES), NULL},
    {"attention.output_lora_rank", READ, WITH(HAS_ENTRIES), NULL},
    {"attention.value_scale", READ, WITH(HAS_VALUE_SCALE), NULL},
    {"attention.value_scale", ONE, ANY, "the attention's values have a factor"},
    {"attention.layer_norm_epsilon", OFF, ANY, "norms take off the mean"},
    {"attn_logit_softcapping", OFF, ANY, "attention scores are limited"},
    {"attention.use_qk_norm", OFF, WITHOUT(NORMS), "queries and keys are normed"},
    {"attention.use_qk_norm", YES, ANY, "queries and keys are not normed"},
    {"attention.qk_norm", OFF, WITHOUT(NORMS), "queries and keys are normed"},
    {"attention.qk_norm", YES, ANY, "queries and keys are not normed"},
    {"use_qk_norm", OFF, WITHOUT(NORMS), "queries and keys are normed"},
    {"use_qk_norm", YES, ANY, "queries and keys are not normed"},
    {"attention.output_gate", YES, WITH(HAS_GATED_QUERY), "the attention's output has no gate"},
    {"attention.output_gate", OFF, WITHOUT(HAS_GATED_QUERY), "the attention's output has a gate"},
    {"attn_output_gate", YES, WITH(HAS_GATED_QUERY), "the attention's output has no gate"},
    {"attn_output_gate", OFF, WITHOUT(HAS_GATED_QUERY), "the attention's output has a gate"},
    {"full_attention_interval", READ, WITH(HAS_DELTA), NULL},
    {"full_attention_interval", ONE, WITHOUT(HAS_DELTA), "some layers are no attention layers"},
    {"attention.recurrent_layers", READ, WITH(HAS_DELTA), NULL},
    {"attention.recurrent_layers", OFF, WITHOUT(HAS_DELTA), "some layers are no attention layers"},
    /* positions */
    {"rope.dimension_count", READ, ANY, NULL},
    {"rope.dimension_sections", READ, WITH(HAS_DELTA), NULL},
    {"rope.dimension_sections", READ, WITH(HAS_SECTIONS), NULL},
    {"rope.dimension_sections", OFF, ANY, "pairs rotate by several positions"},
    {"rope.freq_base", READ, ANY, NULL},
    {"rope.freq_base_swa", READ, WITH(HAS_NEAR_ROPE), NULL},
    {"rope.dimension_count_swa", READ, WITH(HAS_NEAR_ROPE), NULL},
    {"rope.scaling.type", OFF, WITH(HAS_KDA), "positions are scaled"},
    {"rope.scaling.factor", ONE, WITH(HAS_KDA), "positions are scaled"},
    {"rope.scaling.type", READ, ANY, NULL},
    {"rope.scaling.factor", READ, ANY, NULL},
    {"rope.scale_linear", READ, ANY, NULL},
    {"rope.scaling.attn_factor", READ, ANY, NULL},
    {"rope.scaling.yarn_attn_factor", ONE, ANY, "attention scores have a further factor"},
    {"rope.scaling.yarn_log_multiplier", OFF, ANY, "attention scores have a further factor"},
    {"rope.scaling.alpha", ONE, ANY, "rotary frequencies are scaled"},
    {"rope.scaling.original_context_length", READ, ANY, NULL},
    {"rope.scaling.finetuned", UNUSED, ANY, NULL},
    {"rope.scaling.yarn_ext_factor", READ, ANY, NULL},
    {"rope.scaling.yarn_beta_fast", READ, ANY, NULL},
    {"rope.scaling.yarn_beta_slow", READ, ANY, NULL},
    /* gated delta net */
    {"ssm.conv_kernel", READ, WITH(HAS_DELTA), NULL},
    {"ssm.state_size", READ, WITH(HAS_DELTA), NULL},
    {"ssm.group_count", READ, WITH(HAS_DELTA), NULL},
    {"ssm.time_step_rank", READ, WITH(HAS_DELTA), NULL},
    {"ssm.inner_size", READ, WITH(HAS_DELTA), NULL},
    {"ssm.v_head_reordered", YES, WITH(HAS_DELTA), "value heads come in another order"},
    {"ssm.conv_kernel", READ, WITH(HAS_KDA), NULL},
    {"kda.head_dim", READ, WITH(HAS_KDA), NULL},
    {"kda.gate_lower_bound", READ, WITH(HAS_KDA), NULL},
    {"kda.safe_gate", YES, WITH(HAS_KDA), "decays have no least value"},
    {"ssm.*", OFF, WITHOUT(HAS_DELTA), "some layers are recurrent"},
    /* experts */
    {"expert_count", READ, WITH(HAS_EXPERTS), NULL},
    {"expert_count", OFF, WITHOUT(HAS_EXPERTS), "layers have experts"},
    {"expert_used_count", READ, WITH(HAS_EXPERTS), NULL},
    {"expert_used_count", OFF, WITHOUT(HAS_EXPERTS), "layers have experts"},
    {"expert_feed_forward_length", READ, WITH(HAS_EXPERTS), NULL},
    {"expert_feed_forward_length", OFF, WITHOUT(HAS_EXPERTS), "layers have experts"},
    {"expert_shared_feed_forward_length", READ, WITH(HAS_SHARED_EXPERT), NULL},
    {"expert_shared_feed_forward_length", OFF, WITHOUT(HAS_SHARED_EXPERT),
     "layers have a shared expert"},
    {"expert_shared_count", YES, WITH(HAS_SHARED_GATE), "layers have one shared expert"},
    {"expert_shared_count", READ, WITH(HAS_SHARED_EXPERT), NULL},
    {"expert_shared_count", OFF, WITHOUT(HAS_SHARED_EXPERT), "layers have shared experts"},
    {"expert_gating_func", READ, WITH(HAS_ROUTER_KEYS), NULL},
    {"expert_weights_norm", READ, WITH(HAS_ROUTER_KEYS), NULL},
    {"expert_weights_scale", READ, WITH(HAS_ROUTER_KEYS), NULL},
    {"expert_group_count", READ, WITH(HAS_ROUTER_KEYS), NULL},
    {"expert_group_used_count", READ, WITH(HAS_ROUTER_KEYS), NULL},
    {"expert_gating_func", OFF, WITH(HAS_WEIGHTED_INPUT), "how routers score is not read"},
    {"expert_weights_norm", OFF, WITH(HAS_WEIGHTED_INPUT), "the picked experts' weights sum to 1"},
    /* of phimoe, whose routers are sparse mixers */
    {"expert_gating_func", OFF, WITH(HAS_LAYER_NORMS), "how routers score is not read"},
    {"expert_weights_norm", OFF, WITH(HAS_LAYER_NORMS), "the picked experts' weights sum to 1"},
    {"expert_gating_func", ONE, ANY, "routers do not use the softmax of all scores "
     "(2: sigmoid, 3: softmax of the picked, 4: sqrt-softplus)"},
    {"expert_weights_norm", YES, ANY, "the picked experts' weights do not sum to 1"},
    {"norm_top_k_prob", YES, ANY, "the picked experts' weights do not sum to 1"},
    {"expert_weights_scale", ONE, ANY, "the experts' sum has a factor"},
    {"expert_group_count", ONE, ANY, "routers pick groups of experts first"},
    {"expert_group_used_count", ONE, ANY, "routers pick groups of experts first"},
    {"expert_group_scale", ONE, ANY, "groups of experts have a factor"},
    {"experts_per_group", OFF, ANY, "routers pick groups of experts first"},
    {"leading_dense_block_count", READ, WITH(HAS_DENSE_LAYERS), NULL},
    {"leading_dense_block_count", UNUSED, WITH(HAS_SOME_EXPERTS), NULL}, /* routers tell */
    {"moe_every_n_layers", UNUSED, WITH(HAS_SOME_EXPERTS), NULL},
    {"leading_dense_block_count", OFF, ANY, "the first layers have no experts"},
    {"interleave_moe_layer_step", READ, WITH(HAS_INTERLEAVED), NULL},
    {"interleave_moe_layer_step", ONE, ANY, "some layers have no experts"},
    {"moe_every_n_layers", ONE, ANY, "some layers have no experts"},
    {"decoder_sparse_step", ONE, ANY, "some layers have no experts"},
    {"router_logit_softcapping", OFF, ANY, "router scores are limited"},
    {"expert_latent_length", READ, WITH(HAS_LATENT_EXPERTS), NULL},
    {"expert_latent_length", OFF, ANY, "experts read and give a shorter vector"},
    {"activation.situ_beta", READ, WITH(HAS_SITU), NULL},
    {"activation.situ_linear_beta", READ, WITH(HAS_SITU), NULL},
    {"activation.situ*", OFF, ANY, "networks soften what they compute"},
    {"hash_layer_count", READ, WITH(HAS_TABLES), NULL},
    {"swiglu_clamp_exp", READ, WITH(HAS_LIMITS), NULL},
    {"swiglu_clamp_shexp", READ, WITH(HAS_LIMITS), NULL},
    {"swiglu_clamp_exp", OFF, ANY, "experts limit what they compute"},
    {"swiglu_clamp_shexp", OFF, ANY, "shared experts limit what they compute"},
    /* the residual stream and the logits */
    {"hyper_connection.count", READ, WITH(HAS_STREAMS), NULL},
    {"hyper_connection.sinkhorn_iterations", READ, WITH(HAS_STREAMS), NULL},
    {"hyper_connection.epsilon", READ, WITH(HAS_STREAMS), NULL},
    {"attn_res.block_size", READ, WITH(HAS_PIECES), NULL},
    {"attn_res.*", OFF, ANY, "layers see a mix of what earlier ones left"},
    {"embedding_length_out", UNUSED, WITH(HAS_STREAMS), NULL}, /* all streams */
    {"embedding_scale", READ, WITH(HAS_SCALES), NULL},
    {"residual_scale", READ, WITH(HAS_SCALES), NULL},
    {"logit_scale", READ, WITH(HAS_SCALES), NULL},
    {"embedding_scale", ONE, ANY, "embeddings have a factor"},
    {"residual_scale", ONE, ANY, "layers are added with a factor"},
    {"logit_scale", ONE, ANY, "logits have a factor"},
    {"embedding_length_per_layer_input", OFF, ANY, "each layer has embeddings of its own"},
    {"final_logit_softcapping", READ, WITH(HAS_LOGIT_CAP), NULL},
    {"final_logit_softcapping", OFF, ANY, "logits are limited"},
    {"use_parallel_residual", OFF, ANY, "attention and experts see the same input"},
    {"tensor_data_layout", OFF, ANY, "weights come in another order"},
    {"pooling_type", OFF, ANY, "it gives embeddings, not text"},
    /* pictures: sluice reads text, whose positions count alike in all dimensions */
    {"vision.*", UNUSED, ANY, "pictures are not read"},
    {"image_token_id", UNUSED, ANY, "pictures are not read"},
    {"vision_start_token_id", UNUSED, ANY, "pictures are not read"},
    {"vision_end_token_id", UNUSED, ANY, "pictures are not read"},
    {"n_deepstack_layers", UNUSED, ANY, "pictures are not read"},
    {"mrope_sections", UNUSED, ANY, NULL},
    {"rope.mrope_section", UNUSED, ANY, NULL},
    {"rope.mrope_interleaved", UNUSED, ANY, NULL},
};

/* "tokenizer." stands before these. */
static const struct known_key tokenizer_keys[] = {
    {"ggml.model", TEXT, ANY, NULL},
    {"ggml.pre", TEXT, ANY, NULL},
    {"ggml.tokens", TEXTS, ANY, NULL},
    {"ggml.token_type", WHOLES, ANY, NULL},
    {"ggml.merges", TEXTS, ANY, NULL},
    {"ggml.scores", REALS, ANY, NULL},
    {"ggml.bos_token_id", WHOLE, ANY, NULL},
    {"ggml.eos_token_id", WHOLE, ANY, NULL},
    {"ggml.eot_token_id", WHOLE, ANY, NULL},
    {"ggml.eom_token_id", WHOLE, ANY, NULL},
    {"ggml.add_bos_token", FLAG, ANY, NULL},
    {"chat_template", TEXT, ANY, NULL},
    {"ggml.add_eos_token", OFF, ANY, "each text ends before it can be continued"},
    {"ggml.add_sep_token", OFF, ANY, "texts end with a separator"},
    {"ggml.add_space_prefix", SCORED, ANY, "texts begin with a blank"},
    {"ggml.remove_extra_whitespaces", SCORED, ANY, "blanks are taken out of texts"},
    {"ggml.precompiled_charsmap", OFF, ANY, "characters are replaced"},
    {"ggml.suppress_tokens", OFF, ANY, "some tokens are never chosen"},
    /* what none of the tokenisers uses */
    {"ggml.token_type_count", UNUSED, ANY, NULL},
    {"ggml.added_tokens", UNUSED, ANY, NULL},
    {"ggml.eos_token_ids", UNUSED, ANY, "tokens that end an answer are known by their names"},
    {"ggml.unknown_token_id", UNUSED, ANY, NULL},
    {"ggml.padding_token_id", UNUSED, ANY, NULL},
    {"ggml.seperator_token_id", UNUSED, ANY, NULL}, /* so spelt */
    {"ggml.separator_token_id", UNUSED, ANY, NULL},
    {"ggml.cls_token_id", UNUSED, ANY, NULL},
    {"ggml.mask_token_id", UNUSED, ANY, NULL},
    {"ggml.prefix_token_id", UNUSED, ANY, NULL},
    {"ggml.suffix_token_id", UNUSED, ANY, NULL},
    {"ggml.middle_token_id", UNUSED, ANY, NULL},
    {"ggml.fim_*", UNUSED, ANY, NULL},
    {"chat_template.*", UNUSED, ANY,
     "of several chat templates the one named tokenizer.chat_template counts"},
    {"chat_templates", UNUSED, ANY, NULL},
    {"huggingface.json", UNUSED, ANY, NULL},
    {"rwkv.world", UNUSED, ANY, NULL},
};

/* ---- keys ---------------------------------------------------------------- */

static bool name_fits(const char *pattern, struct str name)
{
    size_t n = strlen(pattern);
    if (n && pattern[n - 1] == '*')
        return name.n >= n - 1 && memcmp(name.p, pattern, n - 1) == 0;
    return name.n == n && memcmp(name.p, pattern, n) == 0;
}

static const struct known_key *find_key(const struct known_key *keys, size_t n,
                                        const struct config *c, struct str name)
{
    static const struct known_key unknown = {"", OFF, ANY, "a key that this program does not know"};
    for (size_t i = 0; i < n; i++)
        if (name_fits(keys[i].name, name) && config_has(c, keys[i].has) &&
            (c->traits & keys[i].lacks) == 0)
            return &keys[i];
    return &unknown;
}

/* Every number of a value is 0 or `also`. */
static bool numbers_are(const struct meta *v, double also)
{
    for (uint64_t i = 0; i < v->n; i++) {
        double d;
        uint64_t u;
        if (meta_u64(v, i, &u)) /* bools too */
            d = u > 1 ? 2.0 : (double)u;
        else if (!meta_f64(v, i, &d))
            return false;
        if (d != 0.0 && d != also)
            return false;
    }
    return true;
}

static bool is_neutral_text(struct str s)
{
    static const char *const words[] = {"", "none", "reference"};
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (s.n == strlen(words[i]) && memcmp(s.p, words[i], s.n) == 0)
            return true;
    return false;
}

/* What a value of the rows TEXT to FLAG must be; NULL: it is. */
static const char *other_type(const struct meta *v, enum accept accept)
{
    static const struct {
        bool list;
        enum meta_kind kinds[2];
        const char *name;
    } types[] = {
        [TEXT] = {false, {META_TEXT, META_TEXT}, "a text"},
        [TEXTS] = {true, {META_TEXT, META_TEXT}, "a list of texts"},
        [WHOLE] = {false, {META_INT, META_INT}, "a whole number"},
        [WHOLES] = {true, {META_INT, META_INT}, "a list of whole numbers"},
        [REALS] = {true, {META_REAL, META_INT}, "a list of numbers"},
        [FLAG] = {false, {META_BOOL, META_INT}, "true or false"},
    };
    uint64_t u;
    if (accept < TEXT || accept > FLAG)
        return NULL;
    bool is = v->is_array == types[accept].list &&
              (v->kind == types[accept].kinds[0] || v->kind == types[accept].kinds[1]);
    if (accept == FLAG)
        is = is && meta_u64(v, 0, &u) && u <= 1;
    return is ? NULL : types[accept].name;
}

static bool is_accepted(const struct meta *v, enum accept accept)
{
    struct str s;
    double d;
    uint64_t u;
    if (accept <= FLAG || accept == UNUSED) /* their types are looked at before */
        return true;
    if (accept == YES)
        return !v->is_array && (meta_u64(v, 0, &u) ? u == 1 : meta_f64(v, 0, &d) && d == 1.0);
    if (v->kind == META_TEXT)
        return v->is_array ? v->n == 0 : meta_str(v, &s) && is_neutral_text(s);
    return numbers_are(v, accept == ONE ? 1.0 : 0.0);
}

static int refuse_key(const struct weights *w, const struct family *f, const struct meta *v,
                      const char *what, struct err *e)
{
    char key[128], value[256];
    snprintf(key, sizeof(key), "%.*s", (int)MIN(v->key.n, (size_t)100), v->key.p);
    meta_text(value, sizeof(value), v);
    return err_set(
        e, E_UNSUPPORTED,
        "%s: metadata key '%s' is %.80s: %s. That is not supported for %s, and without it "
        "the answers would be wrong",
        weights_path(w, 0), key, value, what, f->name);
}

int refuse_type(const struct weights *w, const struct meta *v, const char *expected, struct err *e)
{
    char key[128], value[256];
    meta_key_text(key, sizeof(key), v);
    meta_text(value, sizeof(value), v);
    return err_set(e, E_FORMAT, "%s: metadata key '%s' is %.80s (%s%s), expected %s",
                   weights_path(w, 0), key, value, v->type, v->is_array ? "[]" : "", expected);
}

/* The rest of a key behind "<prefix>."; false: it has another prefix. */
static bool behind(struct str key, const char *prefix, struct str *rest)
{
    size_t n = strlen(prefix);
    if (key.n <= n + 1 || memcmp(key.p, prefix, n) != 0 || key.p[n] != '.')
        return false;
    *rest = (struct str){key.p + n + 1, key.n - n - 1};
    return true;
}

/* NULL: the key belongs to neither model nor tokeniser. */
static const struct known_key *row_of(const struct config *c, const struct meta *v)
{
    struct str rest;
    if (behind(v->key, c->family->name, &rest))
        return find_key(model_keys, ARRAY_LEN(model_keys), c, rest);
    if (behind(v->key, "tokenizer", &rest))
        return find_key(tokenizer_keys, ARRAY_LEN(tokenizer_keys), c, rest);
    return NULL;
}

static bool merges_by_scores(const struct weights *w)
{
    struct str s;
    const struct meta *v = weights_meta(w, "tokenizer.ggml.model");
    return v && !v->is_array && meta_str(v, &s) && s.n == 5 && memcmp(s.p, "llama", 5) == 0;
}

int known_keys(const struct weights *w, const struct config *c, struct err *e)
{
    bool scored = merges_by_scores(w);
    for (int64_t i = 0; i < weights_n_meta(w); i++) {
        const struct meta *v = weights_meta_at(w, i);
        const struct known_key *k = row_of(c, v);
        if (!k)
            continue;
        enum accept accept = k->accept != SCORED ? k->accept : scored ? FLAG : OFF;
        if (other_type(v, accept))
            return refuse_type(w, v, other_type(v, accept), e);
        if (!is_accepted(v, accept))
            return refuse_key(w, c->family, v, k->what, e);
    }
    return OK;
}

/* ---- tensors --------------------------------------------------------------- */

static bool starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static bool ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), k = strlen(suffix);
    return n >= k && strcmp(s + n - k, suffix) == 0;
}

/* What may be left out, of the tensors that nobody asked for. */
enum left_out { PREDICTING, PICTURES, INPUT_SCALES, N_LEFT_OUT /* it may not */ };
static const char *const left_out_names[N_LEFT_OUT] = {
    [PREDICTING] = "blocks that predict further tokens",
    [PICTURES] = "what reads pictures",
    [INPUT_SCALES] = "scales of 4-bit activations",
};

static enum left_out left_out(const struct model *m, const char *name)
{
    int block = tensor_block(name);
    if ((block >= m->c.n_layers && block < m->c.n_blocks) || starts_with(name, "mtp."))
        return PREDICTING;
    if (starts_with(name, "v.") || starts_with(name, "mm."))
        return PICTURES;
    return ends_with(name, ".input_scale") ? INPUT_SCALES : N_LEFT_OUT;
}

static const char *meaning(const struct model *m, const char *name)
{
    static const struct { const char *part, *what;
    } parts[] = {
        {"exp_probs_b", "a correction of the router's scores"},
        {"tid2eid", "experts by token"},
        {"hc_", "how several residual streams are mixed"},
        {"_res_score", "how what earlier layers left is mixed"},
        {"ffn_routed", "what brings experts' input to a short vector and back"},
        {"compressor", "entries that stand for several positions"},
        {".nextn.", "a part of a block that predicts further tokens, which nextn_predict_layers "
                    "does not count"},
        {"rope_freqs", "factors of the rotary frequencies"},
        {"rope_factors", "factors of the rotary frequencies"},
        {"attn_sinks", "sinks of the attention"},
        {"position_embd", "embeddings of positions"},
        {"token_types", "embeddings of token types"},
        {"cls", "a classifier"},
        {"lora", "an adapter"},
        {"_norm", "a norm"},
        {".bias", "a bias that is added"},
        {".scale", "a factor of a product"},
        {"_shexp", "a shared expert"},
        {"_exps", "experts"},
        {"ffn_gate.", "a feed-forward part without experts"},
        {"ffn_up.", "a feed-forward part without experts"},
        {"ffn_down.", "a feed-forward part without experts"},
    };
    if (tensor_block(name) >= m->c.n_blocks)
        return "of a block that block_count does not count";
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        if (strstr(name, parts[i].part))
            return parts[i].what;
    return "a part that this program does not know";
}

int known_tensors(const struct model *m, struct err *e)
{
    for (int64_t i = 0; i < weights_n_tensors(m->w); i++) {
        const struct tensor *t = weights_tensor(m->w, i);
        if (t->role || t->packs || left_out(m, t->name) != N_LEFT_OUT)
            continue;
        return err_set(
            e, E_UNSUPPORTED,
            "%s: tensor '%.95s' (%s) has no place in %s as it is known here, and without it "
            "the answers would be wrong",
            weights_path(m->w, t->file), t->name, meaning(m, t->name), m->c.family->name);
    }
    return OK;
}

/* ---- notes ------------------------------------------------------------------ */

static void note_tensors(const struct model *m, void (*on_note)(void *user, const char *text),
                         void *user)
{
    for (int k = 0; k < N_LEFT_OUT; k++) {
        int64_t n = 0, bytes = 0;
        char text[160];
        for (int64_t i = 0; i < weights_n_tensors(m->w); i++) {
            const struct tensor *t = weights_tensor(m->w, i);
            if (!t->role && !t->packs && left_out(m, t->name) == (enum left_out)k) {
                n++;
                bytes += t->bytes;
            }
        }
        snprintf(text, sizeof(text), "%s: %" PRId64 " tensors with %" PRId64 " bytes are left out",
                 left_out_names[k], n, bytes);
        if (n)
            on_note(user, text);
    }
}

static void note_factors(const struct model *m, void (*on_note)(void *user, const char *text),
                         void *user)
{
    char text[200];
    snprintf(text, sizeof(text), "in a context (--ctx) of more than %.0f tokens positions turn by "
             "rope_factors_long.weight, else by rope_factors_short.weight",
             m->c.rope[FAR].original);
    if (config_has(&m->c, HAS_LONG_FACTORS))
        on_note(user, text);
}

void known_notes(const struct model *m, void (*on_note)(void *user, const char *text), void *user)
{
    for (int64_t i = 0; i < weights_n_meta(m->w); i++) {
        const struct meta *v = weights_meta_at(m->w, i);
        const struct known_key *k = row_of(&m->c, v);
        char text[320], key[128];
        if (!k || k->accept != UNUSED || !k->what)
            continue;
        utf8_show_all(key, sizeof(key), v->key.p, MIN(v->key.n, (size_t)100), 0);
        snprintf(text, sizeof(text), "%s is not used: %s", key, k->what);
        on_note(user, text);
    }
    note_factors(m, on_note, user);
    note_tensors(m, on_note, user);
}
