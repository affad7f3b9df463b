/*
 * The tokeniser on small vocabularies: bytes, merging, special tokens, wrong
 * metadata. The pieces are in test_text_pieces.c, a real model and the chat
 * forms in test_text_model.c.
 */
#include "support/text_check.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- bytes ------------------------------------------------------------ */

static void test_any_bytes_survive(void **state)
{
    (void)state;
    static const char *const pres[] = {"gpt-2", "llama-bpe", "gpt-4o", "dbrx"};
    for (size_t f = 0; f < ARRAY_LEN(pres); f++) {
        struct tb *b = tb_new(pres[f]);
        tb_merge(b, "\xff", "\xff");
        tb_merge(b, "\xe4\xb8", "\xad");
        tb_merge(b, "a", "\x80");
        struct text *t = open_built(b);
        for (unsigned i = 0; i < 0x10000; i++) {
            char pair[2] = {(char)(i >> 8), (char)i};
            assert_round_trip(t, pair, 2);
        }
        for (size_t n = 0; n < 600; n++) {
            char bytes[600];
            for (size_t i = 0; i < n; i++)
                bytes[i] =
                    (char)(n % 3 ? rnd(256) : (unsigned char)"\xe4\xb8\xad\xff \n'a\x80"[rnd(9)]);
            assert_round_trip(t, bytes, n);
        }
        text_close(t);
        tb_free(b);
    }
}

static void test_stream_holds_back_half_characters(void **state)
{
    (void)state;
    static const char text[] = "a\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80z";
    static const size_t whole[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11};
    struct text_stream s = {0};
    char out[32];
    size_t used = 0;
    for (size_t i = 0; i < sizeof text - 1; i++) {
        used += text_stream_push(&s, (struct str){text + i, 1}, false, out + used);
        assert_int_equal(used, whole[i + 1]);
    }
    assert_memory_equal(out, text, used);
    assert_int_equal(text_stream_push(&s, (struct str){NULL, 0}, true, out), 0);

    /* What can never be completed passes at once; what might, at the flush. */
    static const char *const hopeless[] = {"\xff", "\x80", "\xe0\x80", "\xed\xa0", "\xf5",
                                           "\xf4\x90", "\xc0", "\xe4\xb8z", "\xe4\xb8\xad\x80"};
    for (size_t i = 0; i < ARRAY_LEN(hopeless); i++) {
        size_t n = strlen(hopeless[i]);
        assert_int_equal(text_stream_push(&s, (struct str){hopeless[i], n}, false, out), n);
        assert_memory_equal(out, hopeless[i], n);
    }
    assert_int_equal(text_stream_push(&s, (struct str){"x\xf0\x9f\x98", 4}, false, out), 1);
    assert_int_equal(text_stream_push(&s, (struct str){"\xf0", 1}, false, out), 3);
    assert_memory_equal(out, "\xf0\x9f\x98", 3);
    assert_int_equal(text_stream_push(&s, (struct str){"", 0}, true, out), 1);
    assert_int_equal(s.n_held, 0);

    for (int round = 0; round < 2000; round++) {
        char in[64], all[80];
        size_t n = rnd(64), got = 0, at = 0;
        for (size_t i = 0; i < n; i++)
            in[i] = text[rnd(sizeof text - 1)];
        while (at < n) {
            size_t k = 1 + rnd((uint32_t)(n - at));
            got += text_stream_push(&s, (struct str){in + at, k}, false, all + got);
            at += k;
            assert_in_range(s.n_held, 0, 3);
            assert_int_equal(got + (size_t)s.n_held, at);
        }
        got += text_stream_push(&s, (struct str){"", 0}, true, all + got);
        assert_int_equal(got, n);
        assert_memory_equal(all, in, n);
    }
}

/* ---- merging ---------------------------------------------------------- */

static void test_smallest_rank_then_leftmost(void **state)
{
    (void)state;
    struct tb *b = tb_new("gpt-2");
    int aa = tb_merge(b, "a", "a");
    int bc = tb_merge(b, "b", "c");
    int ab = tb_merge(b, "a", "b");
    int aabc = tb_merge(b, "aa", "bc");
    struct text *t = open_built(b);
    ASSERT_IDS(t, "aaa", false, aa, 'a');
    ASSERT_IDS(t, "aaaaa", false, aa, aa, 'a');
    ASSERT_IDS(t, "abc", false, 'a', bc);
    ASSERT_IDS(t, "ab", false, ab);
    ASSERT_IDS(t, "aab", false, aa, 'b');
    ASSERT_IDS(t, "aabc", false, aabc);
    ASSERT_IDS(t, " aabc", false, ' ', aabc); /* one piece, merged within */
    text_close(t);
    tb_free(b);
}

/* The definition itself, on strings: merge the best adjacent pair until none
 * is left. Ids of a vocabulary whose token 256 + r is the result of merge r. */
static int64_t merge_by_definition(const struct tb *b, const char *p, size_t n, int32_t *ids)
{
    for (size_t i = 0; i < n; i++)
        ids[i] = (unsigned char)p[i];
    while (n > 1) {
        int best = b->n_merges;
        size_t where = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            struct str l = b->tokens[ids[i]], r = b->tokens[ids[i + 1]];
            for (int m = 0; m < best; m++) {
                struct str s = b->merges[m];
                if (s.n == l.n + r.n + 1 && !memcmp(s.p, l.p, l.n) && s.p[l.n] == ' ' &&
                    !memcmp(s.p + l.n + 1, r.p, r.n)) {
                    best = m;
                    where = i;
                }
            }
        }
        if (best == b->n_merges)
            break;
        ids[where] = 256 + best;
        memmove(ids + where + 1, ids + where + 2, (n - where - 2) * sizeof *ids);
        n--;
    }
    return (int64_t)n;
}

static void test_merging_against_its_definition(void **state)
{
    (void)state;
    for (int round = 0; round < 60; round++) {
        struct tb *b = tb_new("gpt-2");
        /* Random merges of what exists, over three letters: many overlaps. */
        char made[64][16] = {"a", "b", "c"};
        for (int n = 3; n < 40;) {
            char whole[32];
            const char *l = made[rnd((uint32_t)n)], *r = made[rnd((uint32_t)n)];
            snprintf(whole, sizeof whole, "%s%s", l, r);
            if (strlen(whole) > 9 || is_token(b, tb_mapped(b, whole, strlen(whole))))
                continue;
            tb_merge(b, l, r);
            strcpy(made[n++], whole);
        }
        struct text *t = open_built(b);
        assert_words(t, b, merge_by_definition);
        text_close(t);
        tb_free(b);
    }
}

/* Strings that merges build but the vocabulary lacks fall back to bytes. */
static void test_symbols_that_are_no_tokens(void **state)
{
    (void)state;
    struct tb *b = tb_new("gpt-2");
    b->merges[b->n_merges++] = (struct str){"x y", 3};
    b->merges[b->n_merges++] = (struct str){"xy z", 4};
    int xyzw = tb_token(b, "xyzw", TOKEN_NORMAL);
    b->merges[b->n_merges++] = (struct str){"xyz w", 5};
    struct text *t = open_built(b);
    ASSERT_IDS(t, "xy", false, 'x', 'y');
    ASSERT_IDS(t, "axyz", false, 'a', 'x', 'y', 'z');
    ASSERT_IDS(t, "xyzw", false, xyzw);
    assert_int_equal(text_token_id(t, "xyzw"), xyzw);
    assert_int_equal(text_token_id(t, "xy"), -1);
    text_close(t);

    /* A byte without a token is skipped, alone and inside such a symbol. */
    b->types['y'] = b->types['q'] = TOKEN_UNUSED;
    t = open_built(b);
    ASSERT_IDS(t, "axyq!", false, 'a', 'x', '!');
    ASSERT_IDS(t, "xyzw", false, xyzw);
    assert_true(text_is_unused(t, 'q'));
    text_close(t);
    tb_free(b);
}

static void test_whole_pieces(void **state)
{
    (void)state;
    static const char *const pres[] = {"llama-bpe", "dbrx", "gpt-4o"};
    for (size_t f = 0; f < ARRAY_LEN(pres); f++) {
        struct tb *b = tb_new(pres[f]);
        int he = tb_merge(b, "h", "e");
        int hello = tb_token(b, "hello", TOKEN_NORMAL); /* no merge leads there */
        int word = tb_token(b, "word", TOKEN_CONTROL);
        struct text *t = open_built(b);
        if (f == 0)
            ASSERT_IDS(t, "hello", false, hello);
        else
            ASSERT_IDS(t, "hello", false, he, 'l', 'l', 'o');
        ASSERT_IDS(t, "hellos", false, he, 'l', 'l', 'o', 's');
        ASSERT_IDS(t, "word", false, 'w', 'o', 'r', 'd');
        ASSERT_IDS(t, "word", true, word);
        text_close(t);
        tb_free(b);
    }
}

/* A hang guard: with quadratic merging this would take hours. */
static void test_a_megabyte_without_a_boundary(void **state)
{
    (void)state;
    struct tb *b = tb_new("qwen35");
    char half[4097] = "a";
    for (size_t n = 1; n < 4096; n *= 2) {
        tb_merge(b, half, half);
        memset(half, 'a', 2 * n);
    }
    struct text *t = open_built(b);
    size_t n = (1 << 20) + 5;
    char *text = malloc(n);
    struct text_ids ids = {0};
    memset(text, 'a', n);
    alarm(300);
    encode(t, text, n, false, &ids);
    assert_int_equal(ids.n, (1 << 20) / 4096 + 2); /* 5 = 4 + 1 */
    assert_int_equal(ids.id[0], 256 + 11);
    encode(t, text, n, true, &ids);
    assert_int_equal(ids.n, (1 << 20) / 4096 + 2);
    alarm(0);
    text_ids_free(&ids);
    free(text);
    text_close(t);
    tb_free(b);
}

/* ---- special tokens --------------------------------------------------- */

static void test_specials_in_markup(void **state)
{
    (void)state;
    struct tb *b = tb_new("gpt-2");
    int x = tb_token(b, "<x>", TOKEN_CONTROL);
    int xy = tb_token(b, "<x>y", TOKEN_USER);
    int again = tb_token(b, "<x>", TOKEN_CONTROL); /* a second time: never chosen */
    int unk = tb_token(b, "<unk>", TOKEN_UNKNOWN);
    int pad = tb_token(b, "[PAD9]", TOKEN_UNUSED);
    int ff = tb_token(b, "\xff\xff", TOKEN_CONTROL);
    struct text *t = open_built(b);
    struct str s;
    ASSERT_IDS(t, "<x>z<x>y<unk>", true, x, 'z', xy, unk);
    ASSERT_IDS(t, "<<x><", true, '<', x, '<');
    ASSERT_IDS(t, "\xff\xff\xff", true, ff, 255);
    ASSERT_IDS(t, "<x", true, '<', 'x');
    ASSERT_IDS(t, "<x>y", false, '<', 'x', '>', 'y');
    ASSERT_IDS(t, "[PAD9]", true, '[', 'P', 'A', 'D', '9', ']');
    assert_int_equal(text_token_id(t, "<x>"), x);
    assert_true(again != x);
    assert_true(text_is_unused(t, pad));
    assert_false(text_is_unused(t, x));
    assert_int_equal(text_piece(t, unk, false, &s), OK);
    assert_int_equal(s.n, 0);
    assert_int_equal(text_piece(t, pad, false, &s), OK);
    assert_int_equal(s.n, 0);
    assert_int_equal(text_piece(t, xy, false, &s), OK);
    assert_int_equal(s.n, 4);
    text_close(t);
    tb_free(b);
}

/* Merges of a hostile file lead to special tokens' texts: to no avail. */
static void test_merges_build_no_special_token(void **state)
{
    (void)state;
    static const int types[] = {TOKEN_CONTROL, TOKEN_USER, TOKEN_UNKNOWN, TOKEN_UNUSED};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct tb *b = tb_new("llama-bpe"); /* takes whole pieces, too */
        int id = tb_token(b, "hi", types[i]);
        b->merges[b->n_merges++] = (struct str){"h i", 3};
        struct text *t = open_built(b);
        ASSERT_IDS(t, "hi", false, 'h', 'i');
        ASSERT_IDS(t, "hi hi", false, 'h', 'i', ' ', 'h', 'i');
        if (types[i] == TOKEN_UNUSED)
            ASSERT_IDS(t, "hi", true, 'h', 'i');
        else
            ASSERT_IDS(t, "hi", true, id);
        text_close(t);
        tb_free(b);
    }
}

static void test_bounds(void **state)
{
    (void)state;
    static const struct {
        const char *pre;
        int add_bos, add_eos, bos, eos;
        bool has_bos, has_eos;
    } cases[] = {
        {"qwen35", -1, -1, 1, 2, false, false}, {"qwen35", 1, 1, 1, 2, true, true},
        {"llama-bpe", -1, -1, 1, 2, true, false}, {"llama-bpe", 0, 0, 1, 2, false, false},
        {"llama-bpe", -1, 1, -1, -1, false, false}, /* no id, nothing to add */
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct tb *b = tb_new(cases[i].pre);
        b->c.add_bos = cases[i].add_bos;
        b->c.add_eos = cases[i].add_eos;
        b->c.bos = cases[i].bos;
        b->c.eos = cases[i].eos;
        struct text *t = open_built(b);
        struct text_segment segs[] = {
            {.p = "x", .n = 1}, {.p = "", .markup = true}, {.p = "y", .n = 1, .markup = true}};
        int32_t want[4], n = 0;
        if (cases[i].has_bos)
            want[n++] = 1;
        want[n++] = 'x';
        want[n++] = 'y';
        if (cases[i].has_eos)
            want[n++] = 2;
        struct text_ids ids = {0};
        assert_int_equal(text_encode(t, segs, 3, true, &ids, NULL), OK);
        assert_int_equal(ids.n, n);
        assert_memory_equal(ids.id, want, (size_t)n * sizeof *want);
        assert_int_equal(text_encode(t, segs, 3, false, &ids, NULL), OK); /* appends */
        assert_int_equal(ids.n, n + 2);
        text_ids_free(&ids);
        text_close(t);
        tb_free(b);
    }
}

/* A match limit of one step: stands for text that is beyond the real one. */
static void test_failure_leaves_the_list_as_it_was(void **state)
{
    (void)state;
    struct tb *b = tb_new("llama-bpe");
    b->c.bos = 1;
    struct text *t = open_built(b);
    struct text_segment segs[] = {{.p = "\xff", .n = 1}, {.p = "Words and  more.", .n = 16}};
    struct text_ids ids = {0};
    struct err e = {0};
    encode(t, "abc", 3, false, &ids);
    pcre2_set_match_limit(t->pretok.limits, 1);
    assert_int_equal(text_encode(t, segs, 2, true, &ids, &e), E_ARG);
    assert_says(&e, "break it up");
    assert_int_equal(ids.n, 3);
    assert_int_equal(text_encode(t, segs, 1, true, &ids, NULL), OK);
    assert_int_equal(ids.n, 5);
    text_ids_free(&ids);
    text_close(t);
    tb_free(b);
}

static void test_end_of_generation(void **state)
{
    (void)state;
    static const char *const ends[] = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>",
                                       "<|endoftext|>", "<EOT>", "_<EOT>", "[EOS]", "<eos>",
                                       "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
                                       "<｜end▁of▁sentence｜>"};
    struct tb *b = tb_new("qwen2");
    int first = b->n_tokens, n = (int)ARRAY_LEN(ends);
    for (int i = 0; i < n; i++)
        tb_token(b, ends[i], i % 3 == 0 ? TOKEN_CONTROL : i % 3 == 1 ? TOKEN_USER : TOKEN_NORMAL);
    int start = tb_token(b, "<|im_start|>", TOKEN_CONTROL);
    tb_merge(b, "<", "/");
    tb_merge(b, "</", "s");
    int strike = tb_merge(b, "</s", ">"); /* an ordinary word here */
    b->c.eos = 'E';
    b->c.eom = 'M';
    struct text *t = open_built(b);
    struct str s;
    for (int i = 0; i < n; i++) {
        assert_true(text_is_eog(t, first + i));
        /* ... and is a control token whatever the file calls it. */
        assert_int_equal(text_piece(t, first + i, false, &s), OK);
        assert_int_equal(s.n, 0);
        assert_ids(t, ends[i], true, (int32_t[]){first + i}, 1);
    }
    assert_true(text_is_eog(t, 'E'));
    assert_true(text_is_eog(t, 'M'));
    assert_false(text_is_eog(t, 'a'));
    assert_false(text_is_eog(t, ',')); /* 11 in GPT-2: no default */
    assert_false(text_is_eog(t, start));
    assert_false(text_is_eog(t, strike));
    assert_int_equal(text_piece(t, strike, false, &s), OK);
    assert_int_equal(s.n, 4);
    text_close(t);

    /* gpt-oss: with <|call|> there, <|end|> ends only a message. */
    int call = tb_token(b, "<|call|>", TOKEN_CONTROL);
    t = open_built(b);
    assert_true(text_is_eog(t, call));
    assert_false(text_is_eog(t, first + 2));
    assert_true(text_is_eog(t, first + 3));
    text_close(t);
    tb_free(b);
}

/* ---- hostile metadata ------------------------------------------------- */

static void test_metadata_refused(void **state)
{
    (void)state;
    struct tb *b = tb_new("gpt-2");
    b->c.model = (struct str){"bert", 4};
    assert_refused(b, E_UNSUPPORTED, "'bert'");
    b = tb_new("gpt-2");
    b->c.model = (struct str){NULL, 0};
    assert_refused(b, E_UNSUPPORTED, "tokenizer.ggml.model");
    b = tb_new("elsewhere");
    assert_refused(b, E_UNSUPPORTED, "'elsewhere'");
    b = tb_new("gpt-2");
    b->n_tokens = 0;
    assert_refused(b, E_FORMAT, "0 entries");
    b = tb_new("gpt-2");
    b->types[7] = 9;
    assert_refused(b, E_FORMAT, "token 7 has type 9");
    b = tb_new("gpt-2");
    b->c.eos = 256;
    assert_refused(b, E_FORMAT, "eos_token_id is 256: expected 0 to 255");
    b = tb_new("gpt-2");
    b->c.bos = -2;
    assert_refused(b, E_FORMAT, "bos_token_id");
    static const struct str bad[] = {{"ab", 2}, {" a", 2}, {"a ", 2}, {"", 0}, {" ", 1}, {"  ", 2}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        b = tb_new("gpt-2");
        tb_merge(b, "a", "b");
        b->merges[b->n_merges++] = bad[i];
        assert_refused(b, E_FORMAT, "merge 1 ");
    }
}

static void test_metadata_tolerated(void **state)
{
    (void)state;
    struct tb *b = tb_new("gpt-2");
    int empty = tb_token(b, "", TOKEN_NORMAL);
    int empty_control = tb_token(b, "", TOKEN_CONTROL);
    int broken = tb_token(b, "\xff\xfe", TOKEN_NORMAL); /* not in mapped form */
    int spaced = tb_token(b, "a b", TOKEN_NORMAL);
    tb_token(b, "a", TOKEN_NORMAL); /* a second "a" */
    int ab = tb_merge(b, "a", "b");
    tb_merge(b, "b", "c");
    tb_merge(b, "a", "b"); /* again, with a worse rank */
    b->merges[b->n_merges++] = (struct str){"\xff x", 3};
    b->merges[b->n_merges++] = (struct str){"x \xe4\xb8\xad", 5};
    b->merges[b->n_merges++] = (struct str){"never seen", 10};
    b->merges[b->n_merges++] = (struct str){"a  b", 4}; /* right side " b" has no mapped form */
    b->types[3] = 0;
    struct text *t = open_built(b);
    struct str s;
    ASSERT_IDS(t, "a", false, 'a');
    ASSERT_IDS(t, "abx", false, ab, 'x');
    ASSERT_IDS(t, "abc", false, ab, 'c');
    ASSERT_IDS(t, "\xff\xfe", false, 255, 254);
    ASSERT_IDS(t, "\x03", false, 3);
    assert_int_equal(text_piece(t, empty, true, &s), OK);
    assert_int_equal(s.n, 11);
    assert_memory_equal(s.p, "[EMPTY_256]", 11);
    assert_int_equal(text_piece(t, empty_control, true, &s), OK);
    assert_memory_equal(s.p, "[EMPTY_257]", 11);
    assert_int_equal(text_piece(t, broken, true, &s), OK);
    assert_memory_equal(s.p, "\xff\xfe", 2);
    assert_int_equal(text_piece(t, spaced, true, &s), OK);
    assert_memory_equal(s.p, "a b", 3);
    text_close(t);
    text_close(NULL);

    /* One token without a text, no types: nothing can be encoded, but no more. */
    struct text_config c = b->c;
    c.n_tokens = 1;
    c.types = NULL;
    c.n_merges = 0;
    c.tokens = &(struct str){NULL, 0};
    assert_int_equal(text_open(&c, &t, NULL), OK);
    struct text_ids ids = {0};
    encode(t, "abc \xff", 5, true, &ids);
    assert_int_equal(ids.n, 0);
    assert_int_equal(text_piece(t, 0, false, &s), OK);
    assert_memory_equal(s.p, "[EMPTY_0]", 9);
    text_ids_free(&ids);
    text_close(t);
    tb_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_bytes_survive),
        cmocka_unit_test(test_stream_holds_back_half_characters),
        cmocka_unit_test(test_smallest_rank_then_leftmost),
        cmocka_unit_test(test_merging_against_its_definition),
        cmocka_unit_test(test_symbols_that_are_no_tokens),
        cmocka_unit_test(test_whole_pieces),
        cmocka_unit_test(test_a_megabyte_without_a_boundary),
        cmocka_unit_test(test_specials_in_markup),
        cmocka_unit_test(test_merges_build_no_special_token),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_failure_leaves_the_list_as_it_was),
        cmocka_unit_test(test_end_of_generation),
        cmocka_unit_test(test_metadata_refused),
        cmocka_unit_test(test_metadata_tolerated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
