/*
 * Fuzzing of the tokeniser. The first byte of the input picks the
 * pre-tokeniser and what is done with the rest:
 *   content   encoded over a small vocabulary: no special id, and the bytes
 *             come back, in NFC where the model asks for it
 *   message   sent as a user's message: the special ids are those of the form
 *   metadata  taken as the strings of a vocabulary, then used
 */
#include "support/text_build.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {"qwen35", "qwen2", "gpt-2", "olmo", "llama-bpe", "gpt-4o"};
static struct text *opened[ARRAY_LEN(names)];
static int first_special;

static void check(bool held)
{
    if (!held)
        abort();
}

static const struct text *small_model(size_t form)
{
    static const char *const merges[][2] = {
        {"i", "m"}, {"im", "_"}, {"<", "|"}, {"|", ">"}, {"_", "e"}, {"<|", "im"}, {" ", " "},
        {"\n", "\n"}, {"a", "a"}, {"aa", "aa"}, {"t", "h"}, {" ", "th"}, {"\xe4\xb8", "\xad"},
        {"\xe4", "\xb8"}, {"\xff", "\xff"}, {"\xcc", "\x81"}, {"<", "th"}, {"i", "n"}, {"in", "k"},
        {"th", "ink"}, {"think", ">"}, {"e", "\xcc\x81"},
    };
    if (opened[form])
        return opened[form];
    struct tb *b = tb_new(names[form]);
    for (size_t i = 0; i < ARRAY_LEN(merges); i++)
        tb_merge(b, merges[i][0], merges[i][1]);
    first_special = tb_chatml(b);
    static const char template[] = "<|im_start|> {% if add_generation_prompt %} <think>\n";
    b->c.chat_template = (struct str){template, sizeof template - 1};
    check(tb_open(b, &opened[form], NULL) == OK);
    tb_free(b);
    return opened[form];
}

static char *decode(const struct text *t, const struct text_ids *ids, size_t *n)
{
    struct text_stream stream = {0};
    size_t room = 8, used = 0;
    struct str s;
    for (int64_t i = 0; i < ids->n; i++) {
        check(text_piece(t, ids->id[i], true, &s) == OK);
        room += s.n;
    }
    char *out = malloc(room + 8);
    check(out != NULL);
    for (int64_t i = 0; i < ids->n; i++) {
        text_piece(t, ids->id[i], true, &s);
        used += text_stream_push(&stream, s, false, out + used);
    }
    used += text_stream_push(&stream, (struct str){"", 0}, true, out + used);
    *n = used;
    return out;
}

static void encode(const struct text *t, const char *p, size_t n, bool markup, struct text_ids *ids)
{
    struct text_segment seg = {p, n, markup};
    check(text_encode(t, &seg, 1, false, ids, NULL) == OK);
}

static void fuzz_content(const struct text *t, bool nfc, const char *p, size_t n)
{
    struct text_ids ids = {0}, again = {0};
    size_t k, k_again;
    encode(t, p, n, false, &ids);
    for (int64_t i = 0; i < ids.n; i++)
        check(ids.id[i] >= 0 && ids.id[i] < first_special);
    char *back = decode(t, &ids, &k);
    if (!nfc)
        check(k == n && !memcmp(back, p, n));
    encode(t, back, k, false, &again);
    char *back_again = decode(t, &again, &k_again);
    check(k == k_again && !memcmp(back, back_again, k));
    again.n = 0;
    encode(t, p, n, true, &again);
    for (int64_t i = 0; i < again.n; i++)
        check(again.id[i] >= 0 && again.id[i] < first_special + TB_PAD);
    free(back);
    free(back_again);
    text_ids_free(&ids);
    text_ids_free(&again);
}

static void fuzz_message(const struct text *t, const char *p, size_t n)
{
    static const int expected[] = {TB_IM_START, TB_IM_END, TB_IM_START, TB_THINK};
    char *content = malloc(n + 1);
    check(content != NULL);
    memcpy(content, p, n);
    content[n] = '\0';
    struct chat_message m = {CHAT_USER, content, NULL};
    struct chat_render r = {0};
    struct text_ids ids = {0};
    size_t n_special = 0;
    check(chat_render(t, &m, 1, true, &r, NULL) == OK);
    check(text_encode(t, r.segs, r.n_segs, true, &ids, NULL) == OK);
    for (int64_t i = 0; i < ids.n; i++) {
        if (ids.id[i] < first_special || ids.id[i] > first_special + TB_PAD)
            continue;
        check(n_special < ARRAY_LEN(expected));
        check(ids.id[i] == first_special + expected[n_special++]);
    }
    check(n_special == ARRAY_LEN(expected) || t->add_bos);
    chat_render_free(&r);
    text_ids_free(&ids);
    free(content);
}

/* Lines are tokens; those with a space in them merges too. */
static void fuzz_metadata(const char *name, const char *p, size_t n)
{
    enum { MAX = 256 };
    struct str tokens[MAX], merges[MAX];
    int32_t types[MAX];
    struct text_config c = {.model = {"gpt2", 4}, .pre = {name, strlen(name)}, .tokens = tokens,
                            .types = types, .merges = merges, .bos = -1, .eos = -1, .eot = -1,
                            .eom = -1, .add_bos = -1, .add_eos = 1, .chat_template = {p, n}};
    const char *end = p + n;
    for (const char *at = p; at < end && c.n_tokens < MAX;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t k = (size_t)((stop ? stop : end) - at);
        types[c.n_tokens] = k ? (unsigned char)at[0] % 7 : 0;
        tokens[c.n_tokens++] = (struct str){at, k};
        if (memchr(at, ' ', k))
            merges[c.n_merges++] = (struct str){at, k};
        at += stop ? k + 1 : k;
    }
    if (n)
        c.eos = (unsigned char)p[0] - 1;
    struct text *t;
    struct err e = {0};
    if (text_open(&c, &t, &e) != OK) {
        check(e.code < 0 && e.text[0]);
        return;
    }
    struct text_ids ids = {0};
    size_t k;
    check(text_bytes(t) > 0);
    encode(t, p, n, true, &ids);
    encode(t, p, n, false, &ids);
    for (int64_t i = 0; i < ids.n; i++)
        check(ids.id[i] >= 0 && ids.id[i] < c.n_tokens);
    free(decode(t, &ids, &k));
    text_ids_free(&ids);
    text_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    size_t form = data[0] % ARRAY_LEN(names), mode = data[0] / ARRAY_LEN(names) % 4;
    const char *p = (const char *)data + 1;
    const struct text *t = small_model(form);
    if (mode <= 1)
        fuzz_content(t, form < 2 || form == 3, p, size - 1);
    else if (mode == 2)
        fuzz_message(t, p, size - 1);
    else
        fuzz_metadata(names[form], p, size - 1);
    return 0;
}
