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
 * known to be harmless are left out with a note.
 */
#include "model/model_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum accept {
    READ,   /* config.c, packed.c or the tokeniser read it and judge its value */
    UNUSED, /* changes nothing, whatever it says */
    OFF,    /* neutral values only */
    ONE,    /* 1, or neutral: a factor, a step, a number of groups */
    YES     /* true */
};

enum family { ANY, DELTA, NO_DELTA, SHARED, NO_SHARED }; /* what the family has */

struct known_key {
    const char *name; /* a last '*' stands for anything */
    enum accept accept;
    enum family family;
    const char *what; /* what another value means, or what is left out */
};

/* "<architecture>." stands before these. */
static const struct known_key model_keys[] = {
    /* sizes */
    {"block_count", READ, ANY, NULL},
    {"nextn_predict_layers", READ, ANY, NULL},
    {"context_length", READ, ANY, NULL},
    {"embedding_length", READ, ANY, NULL},
    {"vocab_size", UNUSED, ANY, NULL}, /* the embedding table has that many rows */
    {"feed_forward_length", UNUSED, ANY, NULL}, /* of layers without experts: there are none */
    /* attention */
    {"attention.head_count", READ, ANY, NULL},
    {"attention.head_count_kv", READ, ANY, NULL},
    {"attention.key_length", READ, ANY, NULL},
    {"attention.value_length", READ, ANY, NULL},
    {"attention.layer_norm_rms_epsilon", READ, ANY, NULL},
    {"attention.scale", READ, ANY, NULL},
    {"attention.causal", YES, ANY, "tokens see those that follow them"},
    {"attention.sliding_window", OFF, ANY, "a token sees only the nearest ones"},
    {"attention.sliding_window_pattern", OFF, ANY, "some layers see only the nearest tokens"},
    {"attention.clamp_kqv", OFF, ANY, "queries, keys and values are limited"},
    {"attention.max_alibi_bias", OFF, ANY, "scores fall with the distance"},
    {"attention.output_scale", ONE, ANY, "the attention's output has a factor"},
    {"attention.temperature_scale", OFF, ANY, "queries grow with the position"},
    {"attention.layer_norm_epsilon", OFF, ANY, "norms take off the mean"},
    {"attn_logit_softcapping", OFF, ANY, "attention scores are limited"},
    {"full_attention_interval", READ, DELTA, NULL},
    {"full_attention_interval", ONE, NO_DELTA, "some layers are no attention layers"},
    {"attention.recurrent_layers", READ, DELTA, NULL},
    {"attention.recurrent_layers", OFF, NO_DELTA, "some layers are no attention layers"},
    /* positions */
    {"rope.dimension_count", READ, ANY, NULL},
    {"rope.dimension_sections", READ, DELTA, NULL},
    {"rope.dimension_sections", OFF, NO_DELTA, "pairs rotate by several positions"},
    {"rope.freq_base", READ, ANY, NULL},
    {"rope.scaling.type", READ, ANY, NULL},
    {"rope.scaling.factor", READ, ANY, NULL},
    {"rope.scale_linear", READ, ANY, NULL},
    {"rope.scaling.attn_factor", ONE, ANY, "attention scores have a further factor"},
    {"rope.scaling.yarn_attn_factor", ONE, ANY, "attention scores have a further factor"},
    {"rope.scaling.yarn_log_multiplier", OFF, ANY, "attention scores have a further factor"},
    {"rope.scaling.alpha", ONE, ANY, "rotary frequencies are scaled"},
    /* these say how far a scaling goes, and a scaling is refused */
    {"rope.scaling.original_context_length", UNUSED, ANY, NULL},
    {"rope.scaling.finetuned", UNUSED, ANY, NULL},
    {"rope.scaling.yarn_ext_factor", UNUSED, ANY, NULL},
    {"rope.scaling.yarn_beta_fast", UNUSED, ANY, NULL},
    {"rope.scaling.yarn_beta_slow", UNUSED, ANY, NULL},
    /* gated delta net */
    {"ssm.conv_kernel", READ, DELTA, NULL},
    {"ssm.state_size", READ, DELTA, NULL},
    {"ssm.group_count", READ, DELTA, NULL},
    {"ssm.time_step_rank", READ, DELTA, NULL},
    {"ssm.inner_size", READ, DELTA, NULL},
    {"ssm.v_head_reordered", YES, DELTA, "value heads come in another order"},
    {"ssm.*", OFF, NO_DELTA, "some layers are recurrent"},
    /* experts */
    {"expert_count", READ, ANY, NULL},
    {"expert_used_count", READ, ANY, NULL},
    {"expert_feed_forward_length", READ, ANY, NULL},
    {"expert_shared_feed_forward_length", READ, SHARED, NULL},
    {"expert_shared_feed_forward_length", OFF, NO_SHARED, "layers have a shared expert"},
    {"expert_shared_count", YES, SHARED, "layers have no shared expert"},
    {"expert_shared_count", OFF, NO_SHARED, "layers have shared experts"},
    {"expert_gating_func", ONE, ANY, "routers do not use the softmax of all scores "
     "(2: sigmoid, 3: softmax of the picked, 4: sqrt-softplus)"},
    {"expert_weights_norm", YES, ANY, "the picked experts' weights do not sum to 1"},
    {"norm_top_k_prob", YES, ANY, "the picked experts' weights do not sum to 1"},
    {"expert_weights_scale", ONE, ANY, "the experts' sum has a factor"},
    {"expert_group_count", ONE, ANY, "routers pick groups of experts first"},
    {"expert_group_used_count", ONE, ANY, "routers pick groups of experts first"},
    {"expert_group_scale", ONE, ANY, "groups of experts have a factor"},
    {"experts_per_group", OFF, ANY, "routers pick groups of experts first"},
    {"leading_dense_block_count", OFF, ANY, "the first layers have no experts"},
    {"interleave_moe_layer_step", ONE, ANY, "some layers have no experts"},
    {"moe_every_n_layers", ONE, ANY, "some layers have no experts"},
    {"decoder_sparse_step", ONE, ANY, "some layers have no experts"},
    {"router_logit_softcapping", OFF, ANY, "router scores are limited"},
    {"swiglu_clamp_exp", OFF, ANY, "experts limit what they compute"},
    {"swiglu_clamp_shexp", OFF, ANY, "shared experts limit what they compute"},
    /* the residual stream and the logits */
    {"embedding_scale", ONE, ANY, "embeddings have a factor"},
    {"residual_scale", ONE, ANY, "layers are added with a factor"},
    {"logit_scale", ONE, ANY, "logits have a factor"},
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
    {"ggml.model", READ, ANY, NULL},
    {"ggml.pre", READ, ANY, NULL},
    {"ggml.tokens", READ, ANY, NULL},
    {"ggml.token_type", READ, ANY, NULL},
    {"ggml.merges", READ, ANY, NULL},
    {"ggml.bos_token_id", READ, ANY, NULL},
    {"ggml.eos_token_id", READ, ANY, NULL},
    {"ggml.eot_token_id", READ, ANY, NULL},
    {"ggml.eom_token_id", READ, ANY, NULL},
    {"ggml.add_bos_token", READ, ANY, NULL},
    {"chat_template", READ, ANY, NULL},
    {"ggml.add_eos_token", OFF, ANY, "each text ends before it can be continued"},
    {"ggml.add_sep_token", OFF, ANY, "texts end with a separator"},
    {"ggml.add_space_prefix", OFF, ANY, "texts begin with a blank"},
    {"ggml.remove_extra_whitespaces", OFF, ANY, "blanks are taken out of texts"},
    {"ggml.precompiled_charsmap", OFF, ANY, "characters are replaced"},
    {"ggml.suppress_tokens", OFF, ANY, "some tokens are never chosen"},
    /* what the byte-level BPE does not use */
    {"ggml.scores", UNUSED, ANY, NULL},
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
    {"chat_template.*", UNUSED, ANY, "of several chat templates the one named tokenizer.chat_template counts"},
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

static bool family_fits(const struct arch *a, enum family f)
{
    switch (f) {
    case DELTA: return a->delta_layers;
    case NO_DELTA: return !a->delta_layers;
    case SHARED: return a->shared_expert;
    case NO_SHARED: return !a->shared_expert;
    case ANY: break;
    }
    return true;
}

static const struct known_key *find_key(const struct known_key *keys, size_t n, const struct arch *a,
                                        struct str name)
{
    static const struct known_key unknown = {"", OFF, ANY, "a key that this program does not know"};
    for (size_t i = 0; i < n; i++)
        if (name_fits(keys[i].name, name) && family_fits(a, keys[i].family))
            return &keys[i];
    return &unknown;
}

/* Every number of a value is 0 or `also`. */
static bool numbers_are(const struct gguf_value *v, double also)
{
    for (uint64_t i = 0; i < v->n; i++) {
        double d;
        uint64_t u;
        if (gguf_value_u64(v, i, &u)) /* bools too */
            d = u > 1 ? 2.0 : (double)u;
        else if (!gguf_value_f64(v, i, &d))
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

static bool is_accepted(const struct gguf_value *v, enum accept accept)
{
    struct str s;
    double d;
    uint64_t u;
    if (accept == READ || accept == UNUSED)
        return true;
    if (accept == YES)
        return !v->is_array && (gguf_value_u64(v, 0, &u) ? u == 1 : gguf_value_f64(v, 0, &d) && d == 1.0);
    if (v->type == GGUF_STRING)
        return v->is_array ? v->n == 0 : gguf_value_str(v, &s) && is_neutral_text(s);
    return numbers_are(v, accept == ONE ? 1.0 : 0.0);
}

static int refuse_key(const struct gguf *g, const struct arch *a, const struct gguf_value *v,
                      const char *what, struct err *e)
{
    char key[128], value[256];
    snprintf(key, sizeof(key), "%.*s", (int)MIN(v->key.n, (size_t)100), v->key.p);
    value_text(value, sizeof(value), v);
    return err_set(e, E_UNSUPPORTED, "%s: metadata key '%s' is %.80s: %s. That is not supported for %s, and without it "
                   "the answers would be wrong", gguf_file_path(g, 0), key, value, what, a->name);
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
static const struct known_key *row_of(const struct arch *a, const struct gguf_value *v)
{
    struct str rest;
    if (behind(v->key, a->name, &rest))
        return find_key(model_keys, ARRAY_LEN(model_keys), a, rest);
    if (behind(v->key, "tokenizer", &rest))
        return find_key(tokenizer_keys, ARRAY_LEN(tokenizer_keys), a, rest);
    return NULL;
}

int known_keys(const struct gguf *g, const struct arch *a, struct err *e)
{
    for (int64_t i = 0; i < gguf_n_values(g); i++) {
        const struct gguf_value *v = gguf_value_at(g, i);
        const struct known_key *k = row_of(a, v);
        if (k && !is_accepted(v, k->accept))
            return refuse_key(g, a, v, k->what, e);
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

int tensor_block(const char *name)
{
    int il = 0, digits = 0;
    if (!starts_with(name, "blk."))
        return -1;
    for (name += 4; *name >= '0' && *name <= '9' && digits < 7; name++, digits++)
        il = 10 * il + (*name - '0');
    return digits > 0 && *name == '.' ? il : -1;
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
    static const struct { const char *part, *what; } parts[] = {
        {"exp_probs_b", "a correction of the router's scores"},
        {".nextn.", "a part of a block that predicts further tokens, which nextn_predict_layers does not count"},
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
    for (int64_t i = 0; i < gguf_n_tensors(m->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->gguf, i);
        if (m->used[i] || left_out(m, t->name) != N_LEFT_OUT)
            continue;
        return err_set(e, E_UNSUPPORTED, "%s: tensor '%.95s' (%s) has no place in %s as it is known here, and without it "
                       "the answers would be wrong", gguf_file_path(m->gguf, t->file), t->name,
                       meaning(m, t->name), m->c.arch->name);
    }
    return OK;
}

/* ---- notes ------------------------------------------------------------------ */

static void note_tensors(const struct model *m, void (*on_note)(void *user, const char *text), void *user)
{
    for (int k = 0; k < N_LEFT_OUT; k++) {
        int64_t n = 0, bytes = 0;
        char text[160];
        for (int64_t i = 0; i < gguf_n_tensors(m->gguf); i++) {
            const struct gguf_tensor *t = gguf_tensor_at(m->gguf, i);
            if (!m->used[i] && left_out(m, t->name) == (enum left_out)k) {
                n++;
                bytes += t->bytes;
            }
        }
        snprintf(text, sizeof(text), "%s: %" PRId64 " tensors with %" PRId64 " bytes are left out", left_out_names[k], n, bytes);
        if (n)
            on_note(user, text);
    }
}

void known_notes(const struct model *m, void (*on_note)(void *user, const char *text), void *user)
{
    for (int64_t i = 0; i < gguf_n_values(m->gguf); i++) {
        const struct gguf_value *v = gguf_value_at(m->gguf, i);
        const struct known_key *k = row_of(m->c.arch, v);
        char text[320], key[128];
        if (!k || k->accept != UNUSED || !k->what)
            continue;
        utf8_show_all(key, sizeof(key), v->key.p, MIN(v->key.n, (size_t)100), 0);
        snprintf(text, sizeof(text), "%s is not used: %s", key, k->what);
        on_note(user, text);
    }
    note_tensors(m, on_note, user);
}
