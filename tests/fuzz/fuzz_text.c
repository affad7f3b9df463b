/*
 * Fuzzing of the tokeniser. The first byte of the input picks the tokeniser (each
 * pre-tokeniser, then SentencePiece's) and what is done with the rest:
 *   content   encoded over a small vocabulary: no special id, and the bytes
 *             come back, in NFC where the model asks for it
 *   message   sent as a user's message: the special ids are those of the form
 *   metadata  taken as the strings of a vocabulary, then used
 */
#include "support/text_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct text *opened[64]; /* by tokeniser */
static int first_special[64];

static void check(bool held)
{
    if (!held)
        abort();
}

/* NULL: SentencePiece's, which has no name. */
static const char *pre_of(size_t f)
{
    return pretok_name((int)f);
}

static bool spelt_as_text(size_t f)
{
    const char *pre = pre_of(f);
    return !pre || pretok_find((struct str){pre, strlen(pre)})->spelling != SPELT_IN_BYTES;
}

static struct tb *mapped_vocabulary(const char *pre)
{
    static const char *const merges[][2] = {
        {"i", "m"}, {"im", "_"}, {"<", "|"}, {"|", ">"}, {"_", "e"}, {"<|", "im"}, {" ", " "},
        {"\n", "\n"}, {"a", "a"}, {"aa", "aa"}, {"t", "h"}, {" ", "th"}, {"\xe4\xb8", "\xad"},
        {"\xe4", "\xb8"}, {"\xff", "\xff"}, {"\xcc", "\x81"}, {"<", "th"}, {"i", "n"}, {"in", "k"},
        {"th", "ink"}, {"think", ">"}, {"e", "\xcc\x81"},
    };
    struct tb *b = tb_new(pre);
    for (size_t i = 0; i < ARRAY_LEN(merges); i++)
        tb_merge(b, merges[i][0], merges[i][1]);
    return b;
}

static struct tb *text_vocabulary(const char *pre)
{
    static const char *const merges[][2] = {
        {"i", "m"}, {"<", "|"}, {"<|", "im"}, {"\xe2\x96\x81", "\xe2\x96\x81"}, {"\n", "\n"},
        {"a", "a"}, {"aa", "aa"}, {"t", "h"}, {"\xe2\x96\x81", "th"}, {"e", "\xcc\x81"},
        {"<0", "x"}, {"<0x", "41>"}, {"\xe4\xb8\xad", "a"},
    };
    struct tb *b = tb_new_text(pre ? "gpt2" : "llama");
    if (pre)
        b->c.pre = (struct str){pre, strlen(pre)};
    for (size_t i = 0; i < ARRAY_LEN(merges); i++)
        b->scores[tb_text_merge(b, merges[i][0], merges[i][1])] = -(float)(i / 2);
    return b;
}

static const struct text *small_model(size_t f)
{
    if (opened[f])
        return opened[f];
    struct tb *b = spelt_as_text(f) ? text_vocabulary(pre_of(f)) : mapped_vocabulary(pre_of(f));
    first_special[f] = tb_chatml(b);
    static const char template[] =
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}";
    b->c.chat_template = (struct str){template, sizeof template - 1};
    check(tb_open(b, &opened[f], NULL) == OK);
    tb_free(b);
    return opened[f];
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
    text_stream_begin(t, &stream);
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
    struct text_segment seg = {.p = p, .n = n, .markup = markup};
    check(text_encode(t, &seg, 1, false, ids, NULL) == OK);
}

static bool is_special(const struct text *t, int32_t id)
{
    return special_type(text_type(t, id));
}

/* The bytes that come back: U+2581 does so as a blank where it stands for one. */
static char *as_decoded(const struct text *t, const char *p, size_t n, size_t *n_out)
{
    char *out = malloc(n + 1);
    check(out != NULL);
    *n_out = n;
    if (t->pretok.form->spelling == SPELT_WITH_BARS)
        *n_out = spell_text((struct str){p, n}, false, false, true, true, out);
    else
        memcpy(out, p, n);
    return out;
}

static void fuzz_content(const struct text *t, const char *p, size_t n)
{
    struct text_ids ids = {0}, again = {0};
    size_t k, k_again, k_want;
    encode(t, p, n, false, &ids);
    for (int64_t i = 0; i < ids.n; i++)
        check(ids.id[i] >= 0 && ids.id[i] < t->n_tokens && !is_special(t, ids.id[i]));
    char *back = decode(t, &ids, &k), *want = as_decoded(t, p, n, &k_want);
    if (!t->pretok.form->nfc)
        check(k == k_want && !memcmp(back, want, k));
    encode(t, back, k, false, &again);
    char *back_again = decode(t, &again, &k_again);
    check(k == k_again && !memcmp(back, back_again, k));
    again.n = 0;
    encode(t, p, n, true, &again);
    for (int64_t i = 0; i < again.n; i++)
        check(again.id[i] >= 0 && again.id[i] < t->n_tokens);
    free(back);
    free(want);
    free(back_again);
    text_ids_free(&ids);
    text_ids_free(&again);
}

static void fuzz_message(const struct text *t, int first, const char *p, size_t n)
{
    static const int expected[] = {TB_IM_START, TB_IM_END, TB_IM_START, TB_THINK};
    char *content = malloc(n + 1);
    check(content != NULL);
    memcpy(content, p, n);
    content[n] = '\0';
    struct chat_message m = {.role = CHAT_USER, .content = content};
    struct chat_render r = {0};
    struct text_ids ids = {0};
    size_t n_special = 0;
    check(chat_render(t, &m, 1, true, &r, NULL) == OK);
    check(text_encode(t, r.segs, r.n_segs, true, &ids, NULL) == OK);
    for (int64_t i = 0; i < ids.n; i++) {
        if (!is_special(t, ids.id[i]) || (i == 0 && ids.id[i] == t->bos))
            continue;
        check(n_special < ARRAY_LEN(expected));
        check(ids.id[i] == first + expected[n_special++]);
    }
    check(n_special == ARRAY_LEN(expected));
    chat_render_free(&r);
    text_ids_free(&ids);
    free(content);
}

enum { MAX_TOKENS = 512 };

/* Lines are tokens; those with a space in them merges too. Their second byte says their
 * score. */
static void read_lines(struct text_config *c, struct str *tokens, struct str *merges,
                       int32_t *types, float *scores, const char *p, const char *end)
{
    for (const char *at = p; at < end && c->n_tokens < MAX_TOKENS;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t k = (size_t)((stop ? stop : end) - at);
        types[c->n_tokens] = k ? (unsigned char)at[0] % 7 : 0;
        scores[c->n_tokens] = k > 1 ? (float)(at[1] % 8) : 0;
        tokens[c->n_tokens++] = (struct str){at, k};
        if (memchr(at, ' ', k))
            merges[c->n_merges++] = (struct str){at, k};
        at += stop ? k + 1 : k;
    }
}

static void fuzz_metadata(size_t f, const char *p, size_t n)
{
    static char names[256][8];
    struct str tokens[MAX_TOKENS], merges[MAX_TOKENS];
    int32_t types[MAX_TOKENS];
    float scores[MAX_TOKENS] = {0};
    const char *pre = pre_of(f);
    struct text_config c = {.tokens = tokens, .types = types, .merges = merges, .scores = scores,
                            .bos = -1, .eos = -1, .eot = -1, .eom = -1, .add_bos = -1,
                            .add_eos = 1, .add_space_prefix = pre ? 0 : -1,
                            .chat_template = {p, n}};
    c.model = pre ? (struct str){"gpt2", 4} : (struct str){"llama", 5};
    c.pre = pre ? (struct str){pre, strlen(pre)} : (struct str){0};
    for (; spelt_as_text(f) && c.n_tokens < 256; c.n_tokens++) {
        snprintf(names[c.n_tokens], sizeof names[0], "<0x%02X>", (unsigned)c.n_tokens);
        tokens[c.n_tokens] = (struct str){names[c.n_tokens], 6};
        types[c.n_tokens] = TOKEN_BYTE;
    }
    read_lines(&c, tokens, merges, types, scores, p, p + n);
    if (n) {
        c.eos = (unsigned char)p[0] - 1;
        c.bos = c.eos;
        c.remove_extra_whitespaces = !pre && p[n - 1] & 1;
    }
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
    size_t n = 1;
    while (pre_of(n - 1))
        n++;
    check(n <= ARRAY_LEN(opened));
    size_t f = data[0] % n, mode = data[0] / n % 4;
    const char *p = (const char *)data + 1;
    const struct text *t = small_model(f);
    if (mode <= 1)
        fuzz_content(t, p, size - 1);
    else if (mode == 2)
        fuzz_message(t, first_special[f], p, size - 1);
    else
        fuzz_metadata(f, p, size - 1);
    return 0;
}
