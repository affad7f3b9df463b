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
#define NO_KERNEL ((enum dtype)19) /* IQ1_S: its size is known, no more */
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

/* Every way into the model gives the same sentence, which has all the words. */
static void assert_refused(const char *name, const char *words)
{
    sluice_options o = small(path);
    sluice_error of_open = {0}, e = {0};
    sluice_plan plan;
    sluice_probe_result probe;
    sluice_pack_options po = {.out = packed};
    sluice *s = NULL;
    int rc = sluice_open(&o, &s, &of_open);
    if (rc == 0 || !strstr(of_open.text, words))
        fail_msg("%s: %d, \"%s\" has no \"%s\"", name, rc, rc ? of_open.text : "", words);
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

static const struct remake_key refused3[] = {
    NUM("qwen3moe.expert_weights_norm", GGUF_BOOL, 0),
    NUM("qwen3moe.norm_top_k_prob", GGUF_BOOL, 0),
    NUM("qwen3moe.expert_weights_scale", GGUF_F32, 2.5),
    NUM("qwen3moe.expert_gating_func", GGUF_U32, 2),
    NUM("qwen3moe.expert_group_count", GGUF_U32, 4),
    NUM("qwen3moe.expert_group_used_count", GGUF_U32, 2),
    NUM("qwen3moe.expert_shared_count", GGUF_U32, 1),
    NUM("qwen3moe.expert_shared_feed_forward_length", GGUF_U32, 32),
    NUM("qwen3moe.leading_dense_block_count", GGUF_U32, 1),
    NUM("qwen3moe.interleave_moe_layer_step", GGUF_U32, 2),
    NUM("qwen3moe.attention.sliding_window", GGUF_U32, 128),
    LIST("qwen3moe.attention.sliding_window_pattern", GGUF_BOOL, 3, 1, 0, 1),
    NUM("qwen3moe.attention.causal", GGUF_BOOL, 0),
    NUM("qwen3moe.attention.clamp_kqv", GGUF_F32, 8),
    NUM("qwen3moe.attention.max_alibi_bias", GGUF_F32, 8),
    NUM("qwen3moe.logit_scale", GGUF_F32, 0.5),
    NUM("qwen3moe.residual_scale", GGUF_F32, 0.22),
    NUM("qwen3moe.embedding_scale", GGUF_F32, 12),
    NUM("qwen3moe.attn_logit_softcapping", GGUF_F32, 50),
    NUM("qwen3moe.final_logit_softcapping", GGUF_F32, 30),
    NUM("qwen3moe.router_logit_softcapping", GGUF_F32, 30),
    NUM("qwen3moe.rope.scale_linear", GGUF_F32, 4),
    NUM("qwen3moe.rope.scaling.factor", GGUF_F32, 4), /* without a type: linear */
    NUM("qwen3moe.rope.scaling.attn_factor", GGUF_F32, 1.2),
    TXT("qwen3moe.rope.scaling.type", "longrope"),
    LIST("qwen3moe.rope.dimension_sections", GGUF_I32, 4, 11, 11, 10, 0),
    NUM("qwen3moe.full_attention_interval", GGUF_U32, 4),
    NUM("qwen3moe.ssm.state_size", GGUF_U32, 128),
    NUM("qwen3moe.attention.value_length", GGUF_U32, 64),
    LIST("qwen3moe.attention.head_count_kv", GGUF_U32, 3, 2, 1, 2),
    NUM("qwen3moe.invented_by_nobody", GGUF_F32, 0.1),
    TXT("qwen3moe.invented_by_nobody", "yes"),
    TXT("qwen3moe.tensor_data_layout", "Meta AI original pth"),
    NUM("tokenizer.ggml.add_eos_token", GGUF_BOOL, 1),
    NUM("tokenizer.ggml.add_sep_token", GGUF_BOOL, 1),
    NUM("tokenizer.ggml.add_space_prefix", GGUF_BOOL, 1),
    NUM("tokenizer.ggml.remove_extra_whitespaces", GGUF_BOOL, 1),
    LIST("tokenizer.ggml.suppress_tokens", GGUF_I32, 2, 3, 4),
    NUM("tokenizer.ggml.invented_by_nobody", GGUF_BOOL, 1),
};
static const struct remake_key refused35[] = {
    NUM("qwen35moe.expert_shared_count", GGUF_U32, 2),
    NUM("qwen35moe.expert_shared_count", GGUF_U32, 0),
    LIST("qwen35moe.rope.dimension_sections", GGUF_I32, 4, 2, 1, 0, 1), /* the fourth counts no text */
    LIST("qwen35moe.rope.dimension_sections", GGUF_I32, 4, 4, 0, 0, 0), /* covers 0, 3, 6, 9 */
    LIST("qwen35moe.rope.dimension_sections", GGUF_I32, 2, 2, 2),
    NUM("qwen35moe.attention.recurrent_layers", GGUF_BOOL, 1),
    NUM("qwen35moe.ssm.v_head_reordered", GGUF_BOOL, 0),
    NUM("qwen35moe.nextn_predict_layers", GGUF_U32, 1), /* block_count does not count it */
    NUM("qwen35moe.attention.sliding_window", GGUF_U32, 128),
};

static void keys_are_refused(void **state)
{
    (void)state;
    for (int family = 0; family < 2; family++) {
        const struct remake_key *k = family ? refused35 : refused3;
        size_t n = family ? sizeof(refused35) / sizeof(*k) : sizeof(refused3) / sizeof(*k);
        for (size_t i = 0; i < n; i++) {
            remake(&(struct remake){.from = family ? TINY : QWEN3, .keys = &k[i], .n_keys = 1}, path);
            /* that two numbers do not fit is said of both, without the prefix */
            assert_refused(k[i].key, strstr(k[i].key, "value_length") ? "value length 64" : k[i].key);
        }
    }
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
    remake(&(struct remake){.from = QWEN3, .keys = keys, .n_keys = sizeof(keys) / sizeof(keys[0])}, path);
    assert_same("all neutral keys", QWEN3);
    static const struct remake_key scaling[] = {TXT("qwen3moe.rope.scaling.type", "yarn"),
                                                NUM("qwen3moe.rope.scaling.factor", GGUF_F32, 1)};
    remake(&(struct remake){.from = QWEN3, .keys = scaling, .n_keys = 2}, path);
    assert_same("YaRN by 1", QWEN3);
    static const struct remake_key pictures[] = {
        LIST("qwen35moe.rope.dimension_sections", GGUF_I32, 3, 2, 1, 1), NUM("qwen35moe.vision.block_count", GGUF_U32, 27),
        NUM("qwen35moe.image_token_id", GGUF_U32, 99), NUM("qwen35moe.expert_shared_count", GGUF_U32, 1),
        LIST("qwen35moe.attention.recurrent_layers", GGUF_BOOL, 4, 1, 1, 1, 0)};
    remake(&(struct remake){.from = TINY, .keys = pictures, .n_keys = 5}, path);
    assert_same("pictures", TINY);
}

/* ---- tensors ------------------------------------------------------------------- */

static void tensors_are_refused(void **state)
{
    (void)state;
    static const char *const names[] = {
        "blk.0.attn_k.bias", "blk.1.attn_q.bias", "blk.2.attn_output.bias", "blk.0.ffn_gate_inp.bias",
        "blk.0.exp_probs_b.bias", "blk.0.exp_probs_b", "blk.0.ffn_down_exps.bias", "blk.0.ffn_gate_exps.scale",
        "blk.0.attn_sinks", "blk.0.attn_sinks.weight", "blk.0.post_ffw_norm.weight", "blk.0.nobody.weight",
        "blk.0.ffn_gate_shexp.weight", "blk.0.nextn.eh_proj.weight", "blk.3.attn_norm.weight",
        "blk.03.attn_norm.weight", "output.bias", "output_norm.bias", "rope_freqs.weight", "position_embd.weight",
        "cls.weight", "cls.output.bias", "token_embd_norm.weight", "nobody",
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct remake_tensor t = {names[i], DT_F32, {64}, 0.5f};
        remake(&(struct remake){.from = QWEN3, .tensors = &t, .n_tensors = 1}, path);
        assert_refused(names[i], names[i]);
    }
}

static void harmless_tensors_are_left_out(void **state)
{
    (void)state;
    static const struct remake_tensor t[] = {
        {"v.blk.0.attn_q.weight", DT_F32, {64, 64}, 0.1f}, {"mm.0.bias", DT_F32, {64}, 0.1f},
        {"mtp.layers.0.norm.weight", DT_F32, {64}, 0.1f}, {"blk.0.ffn_up_exps.input_scale", DT_F32, {16}, 1.0f},
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
    static const struct remake_tensor t[] = {{"blk.4.nextn.eh_proj.weight", DT_F32, {128, 64}, 0.1f},
                                             {"blk.4.attn_norm.weight", DT_F32, {64}, 0.1f},
                                             {"blk.4.nobody.weight", DT_F32, {64}, 0.1f}};
    remake(&(struct remake){.from = TINY, .keys = keys, .n_keys = 2, .tensors = t, .n_tensors = 3}, path);
    assert_same("one block more", TINY);
    remake(&(struct remake){.from = TINY, .keys = keys, .n_keys = 2}, path);
    assert_same("its tensors were removed", TINY);
    remake(&(struct remake){.from = TINY, .keys = keys + 1, .n_keys = 1, .tensors = t, .n_tensors = 3}, path);
    assert_refused("not counted", "nextn_predict_layers");
    remake(&(struct remake){.from = TINY, .keys = keys, .n_keys = 1, .tensors = t, .n_tensors = 3}, path);
    assert_refused("counted as a layer", "blk.4.");
}

/* ---- the other refusals -------------------------------------------------------- */

static void types_without_kernels_are_refused(void **state)
{
    (void)state;
    static const struct remake_tensor t[] = {{"blk.1.ffn_up_exps.weight", NO_KERNEL, {512, 128, 32}, 0},
                                             {"blk.3.attn_q.weight", NO_KERNEL, {512, 1024}, 0},
                                             {"output.weight", NO_KERNEL, {512, 8192}, 0},
                                             {"token_embd.weight", NO_KERNEL, {512, 8192}, 0}};
    for (size_t i = 0; i < 4; i++) {
        remake(&(struct remake){.from = BUILT_IN, .without = t[i].name, .tensors = &t[i], .n_tensors = 1}, path);
        assert_refused(t[i].name, "no kernels");
    }
}

static void a_tokeniser_is_needed(void **state)
{
    (void)state;
    static const char *const keys[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"};
    for (int i = 0; i < 2; i++) {
        remake(&(struct remake){.from = QWEN3, .without = keys[i]}, path);
        assert_refused(keys[i], keys[i]);
    }
    static const struct remake_key spm[] = {TXT("tokenizer.ggml.model", "llama"), TXT("tokenizer.ggml.pre", "nobody")};
    for (int i = 0; i < 2; i++) {
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
    sluice_options all[3] = {small(QWEN3), small(QWEN3), small(QWEN3)};
    all[0].io = "telepathy";
    all[1].policy = "nobody";
    all[2].mirrors = &nowhere;
    all[2].n_mirrors = 1;
    for (int i = 0; i < 3; i++) {
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
    static const struct { const char *text; bool markup; } cases[] = {{"ab", false}, {"ab", true}, {"", false}, {"<|endoftext|>ab", true}};
    for (size_t i = 0; i < 4; i++) {
        int32_t *ids = NULL;
        int64_t n = 0;
        assert_int_equal(sluice_tokenize(s, cases[i].text, strlen(cases[i].text), cases[i].markup, &ids, &n, &e), 0);
        assert_true(n >= 1);
        assert_int_equal(ids[0], 317);
        assert_true(n == 1 || ids[1] != 317);
        sluice_free(ids);
    }
    sluice_close(s);
    remake(&(struct remake){.from = QWEN3, .keys = keys, .n_keys = 1, .without = "tokenizer.ggml.bos_token_id"}, path);
    assert_refused("no BOS", "bos_token_id");
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

static const struct remake_key first_keys[] = {NUM("split.no", GGUF_U16, 0), NUM("split.count", GGUF_U16, 2),
                                               NUM("split.tensors.count", GGUF_I32, 39)};

static void write_second(const char *to, const struct remake_key *more)
{
    struct remake_key keys[4] = {NUM("split.no", GGUF_U16, 1), NUM("split.count", GGUF_U16, 2),
                                 NUM("split.tensors.count", GGUF_I32, 39)};
    if (more)
        keys[3] = *more;
    remake(&(struct remake){.from = QWEN3, .keys = keys, .n_keys = more ? 4 : 3, .bare = true, .first = 20, .last = 39}, to);
}

static void parts_are_looked_into_and_compared(void **state)
{
    (void)state;
    char first[96], second[96];
    sluice_error e = {0};
    sluice *s = NULL;
    snprintf(first, sizeof(first), "%s/m-00001-of-00002.gguf", dir);
    snprintf(second, sizeof(second), "%s/m-00002-of-00002.gguf", dir);
    remake(&(struct remake){.from = QWEN3, .keys = first_keys, .n_keys = 3, .first = 0, .last = 20}, first);
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
    for (int i = 0; i < 3; i++) {
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
        cmocka_unit_test(neutral_keys_change_nothing),
        cmocka_unit_test(tensors_are_refused),
        cmocka_unit_test(harmless_tensors_are_left_out),
        cmocka_unit_test(predicting_blocks_are_skipped),
        cmocka_unit_test(types_without_kernels_are_refused),
        cmocka_unit_test(a_tokeniser_is_needed),
        cmocka_unit_test(a_plan_judges_options_too),
        cmocka_unit_test(raw_text_begins_as_the_file_asks),
        cmocka_unit_test(inspect_has_notes),
        cmocka_unit_test(parts_are_looked_into_and_compared),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
