/*
 * A byte-level BPE vocabulary without meaning, of any size.
 */
#include "support/synth.h"

#include <stdio.h>

/*
 * Merges, in order of rank: all pairs of a-z, space and one letter, space and a
 * pair, pair and letter, space-pair and letter, pair and pair, until there are
 * enough. Both sides of each are tokens of an earlier group.
 */
struct merges {
    struct gb tokens, merges;
    int64_t left; /* still to make */
    int64_t made;
};

#define SPACE "\xc4\xa0" /* the byte-level letter of a space */

static void merge(struct merges *g, const char *left, const char *right)
{
    char text[32];

    if (g->left == 0)
        return;
    snprintf(text, sizeof text, "%s%s", left, right);
    gb_str(&g->tokens, text);
    snprintf(text, sizeof text, "%s %s", left, right);
    gb_str(&g->merges, text);
    g->left--;
    g->made++;
}

/* Every pair of letters with `right` behind (or, first, alone). */
static void merge_group(struct merges *g, int group)
{
    for (int i = 0; i < 26 * 26 && g->left > 0; i++) {
        char a[2] = {(char)('a' + i / 26), 0}, b[2] = {(char)('a' + i % 26), 0};
        char pair[3] = {a[0], b[0], 0}, spaced[8];

        snprintf(spaced, sizeof spaced, SPACE "%s", pair);
        switch (group) {
        case 0: merge(g, a, b); continue;
        case 1:
            if (i < 26)
                merge(g, SPACE, b);
            continue;
        case 2: merge(g, SPACE, pair); continue;
        default: break;
        }
        for (int j = 0; j < (group == 5 ? 26 * 26 : 26); j++) {
            char one[2] = {(char)('a' + j), 0};
            char two[3] = {(char)('a' + j / 26), (char)('a' + j % 26), 0};

            merge(g, group == 4 ? spaced : pair, group == 5 ? two : one);
        }
    }
}

/* The 256 byte-level letters: visible Latin-1 as it is, the rest from U+0100. */
static void byte_letters(struct gb *b)
{
    for (int pass = 0, rest = 0; pass < 2; pass++)
        for (int c = 0; c < 256; c++) {
            bool visible = (c > 32 && c < 127) || (c > 160 && c != 173);
            int u = visible ? c : 256 + rest;
            char text[3] = {(char)u, 0, 0};

            if (visible == (pass == 1))
                continue;
            rest += !visible;
            if (u >= 128) {
                text[0] = (char)(0xc0 | u >> 6);
                text[1] = (char)(0x80 | (u & 63));
            }
            gb_str(b, text);
        }
}

bool synth_vocab(struct gb *b, int64_t n)
{
    static const char *const control[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    static const char chat[] =
        "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content "
        "+ '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- "
        "'<|im_start|>assistant\\n' }}{%- endif %}";
    struct merges g = {.left = n - 256 - SYNTH_CONTROL};

    byte_letters(&g.tokens);
    for (int group = 0; group < 6; group++)
        merge_group(&g, group);
    for (int i = 0; i < SYNTH_CONTROL; i++)
        gb_str(&g.tokens, control[i]);
    gb_key_array(b, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)n);
    gb_put(b, g.tokens.p, g.tokens.n);
    gb_key_array(b, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)n);
    for (int64_t i = 0; i < n; i++)
        gb_u32(b, i < n - SYNTH_CONTROL ? 1 : 3);
    gb_key_array(b, "tokenizer.ggml.merges", GGUF_STRING, (uint64_t)g.made);
    gb_put(b, g.merges.p, g.merges.n);
    gb_kv_str(b, "tokenizer.chat_template", chat);
    gb_free(&g.tokens);
    gb_free(&g.merges);
    return g.left == 0;
}
