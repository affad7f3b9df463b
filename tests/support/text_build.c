#include "support/text_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *keep(struct tb *b, const char *p, size_t n)
{
    char *copy = arena_alloc(&b->arena, n + 1);
    if (!copy)
        abort();
    memcpy(copy, p, n);
    return copy;
}

struct str tb_mapped(struct tb *b, const char *p, size_t n)
{
    char *out = arena_alloc(&b->arena, 2 * n + 1);
    size_t used = 0;
    if (!out)
        abort();
    for (size_t i = 0; i < n; i++) {
        unsigned byte = (unsigned char)p[i], c = byte;
        if (byte <= 0x20)
            c = 0x100 + byte;
        else if (byte >= 0x7f && byte <= 0xa0)
            c = 0x121 + byte - 0x7f;
        else if (byte == 0xad)
            c = 0x143;
        if (c < 0x80) {
            out[used++] = (char)c;
        } else {
            out[used++] = (char)(0xc0 | c >> 6);
            out[used++] = (char)(0x80 | (c & 0x3f));
        }
    }
    return (struct str){out, used};
}

static int add_token(struct tb *b, struct str s, int type)
{
    if (b->n_tokens == TB_MAX)
        abort();
    b->tokens[b->n_tokens] = s;
    b->types[b->n_tokens] = type;
    return b->n_tokens++;
}

static struct tb *new_builder(const char *model, const char *pre)
{
    struct tb *b = calloc(1, sizeof *b);
    if (!b)
        abort();
    b->c = (struct text_config){.model = {model, strlen(model)}, .pre = {pre, strlen(pre)},
                                .bos = -1, .eos = -1, .eot = -1, .eom = -1, .add_bos = -1,
                                .add_eos = -1, .add_space_prefix = -1,
                                .remove_extra_whitespaces = -1};
    return b;
}

struct tb *tb_new_text(const char *model)
{
    struct tb *b = new_builder(model, "default");
    tb_token(b, "<unk>", TOKEN_UNKNOWN);
    tb_token(b, "<s>", TOKEN_CONTROL);
    tb_token(b, "</s>", TOKEN_CONTROL);
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        tb_token(b, name, TOKEN_BYTE);
    }
    b->c.bos = TB_BOS;
    b->c.eos = TB_EOS;
    return b;
}

struct tb *tb_new(const char *pre)
{
    struct tb *b = new_builder("gpt2", pre);
    for (int i = 0; i < 256; i++) {
        char byte = (char)i;
        add_token(b, tb_mapped(b, &byte, 1), TOKEN_NORMAL);
    }
    return b;
}

void tb_free(struct tb *b)
{
    arena_free(&b->arena);
    free(b);
}

int tb_token(struct tb *b, const char *text, int type)
{
    size_t n = strlen(text);
    return add_token(b, (struct str){keep(b, text, n), n}, type);
}

int tb_merge(struct tb *b, const char *left, const char *right)
{
    struct str l = tb_mapped(b, left, strlen(left)), r = tb_mapped(b, right, strlen(right));
    char *merge = arena_alloc(&b->arena, l.n + r.n + 1);
    char *whole = arena_alloc(&b->arena, l.n + r.n + 1);
    if (!merge || !whole || b->n_merges == TB_MAX)
        abort();
    memcpy(merge, l.p, l.n);
    merge[l.n] = ' ';
    memcpy(merge + l.n + 1, r.p, r.n);
    memcpy(whole, l.p, l.n);
    memcpy(whole + l.n, r.p, r.n);
    b->merges[b->n_merges++] = (struct str){merge, l.n + r.n + 1};
    return add_token(b, (struct str){whole, l.n + r.n}, TOKEN_NORMAL);
}

int tb_scored(struct tb *b, const char *text, double score)
{
    int id = tb_token(b, text, TOKEN_NORMAL);
    b->scores[id] = (float)score;
    return id;
}

int tb_text_merge(struct tb *b, const char *left, const char *right)
{
    char *merge = arena_alloc(&b->arena, strlen(left) + strlen(right) + 2);
    if (!merge || b->n_merges == TB_MAX)
        abort();
    size_t n = (size_t)sprintf(merge, "%s %s", left, right);
    b->merges[b->n_merges++] = (struct str){merge, n};
    char *whole = arena_alloc(&b->arena, n + 1);
    if (!whole)
        abort();
    sprintf(whole, "%s%s", left, right);
    return tb_token(b, whole, TOKEN_NORMAL);
}

int tb_open(struct tb *b, struct text **t, struct err *e)
{
    b->c.tokens = b->tokens;
    b->c.n_tokens = b->n_tokens;
    b->c.types = b->types;
    b->c.scores = b->scores;
    b->c.merges = b->merges;
    b->c.n_merges = b->n_merges;
    return text_open(&b->c, t, e);
}

int tb_chatml(struct tb *b)
{
    int first = tb_token(b, "<|endoftext|>", TOKEN_CONTROL);
    tb_token(b, "<|im_start|>", TOKEN_CONTROL);
    tb_token(b, "<|im_end|>", TOKEN_CONTROL);
    tb_token(b, "<think>", TOKEN_USER);
    tb_token(b, "</think>", TOKEN_USER);
    tb_token(b, "[PAD1]", TOKEN_UNUSED);
    return first;
}
