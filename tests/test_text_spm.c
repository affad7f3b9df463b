/*
 * The tokenisers whose tokens are spelt as text: `llama` merges by scores, `gemma4` by
 * ranks. Their blanks, their bytes, wrong metadata.
 */
#include "support/text_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define BAR "\xe2\x96\x81"

static int byte(unsigned value)
{
    return TB_BYTE + (int)value;
}

/* What a reader sees of ids from a text's beginning, passed through a stream. */
static void assert_reads(const struct text *t, const struct text_ids *ids, const char *want,
                         size_t n)
{
    struct text_stream stream = {0};
    char *out = malloc(n + 64);
    size_t used = 0;
    assert_non_null(out);
    text_stream_begin(t, &stream);
    for (int64_t i = 0; i < ids->n; i++) {
        struct str s;
        assert_int_equal(text_piece(t, ids->id[i], false, &s), OK);
        assert_true(used + s.n <= n + 32);
        used += text_stream_push(&stream, s, false, out + used);
    }
    used += text_stream_push(&stream, (struct str){"", 0}, true, out + used);
    assert_int_equal(used, n);
    assert_memory_equal(out, want, n);
    free(out);
}

/* ---- scores ------------------------------------------------------------- */

static void test_best_score_then_leftmost(void **state)
{
    (void)state;
    struct tb *b = tb_new_text("llama");
    int bar = tb_scored(b, BAR, -10), a = tb_scored(b, "a", -11), bb = tb_scored(b, "b", -12);
    int ab = tb_scored(b, "ab", -2), aa = tb_scored(b, "aa", -1);
    int bar_a = tb_scored(b, BAR "a", -3), ba = tb_scored(b, "ba", -2);
    int aab = tb_scored(b, "aab", -20);
    b->c.add_space_prefix = 0;
    struct text *t = open_built(b);
    ASSERT_IDS(t, "aaa", false, aa, a);
    ASSERT_IDS(t, "aba", false, ab, a);  /* as good as "ba", but further left */
    ASSERT_IDS(t, "bab", false, ba, bb);
    ASSERT_IDS(t, "aab", false, aab);    /* "aa" first, then that with "b" */
    ASSERT_IDS(t, " a", false, bar_a);
    ASSERT_IDS(t, "  a", false, bar, bar_a);
    ASSERT_IDS(t, "a b", false, a, bar, bb);
    text_close(t);
    tb_free(b);
}

/* The definition itself: merge the best adjacent pair until none is a token. */
static int64_t merge_by_definition(const struct tb *b, const char *p, size_t n, int32_t *ids)
{
    struct {
        size_t begin, n;
    } part[128];
    size_t n_parts = n;
    for (size_t i = 0; i < n; i++) {
        part[i].begin = i;
        part[i].n = 1;
    }
    for (;;) {
        int best = -1;
        size_t where = 0;
        for (size_t i = 0; i + 1 < n_parts; i++)
            for (int k = TB_BYTE + 256; k < b->n_tokens; k++)
                if (b->tokens[k].n == part[i].n + part[i + 1].n &&
                    !memcmp(b->tokens[k].p, p + part[i].begin, b->tokens[k].n) &&
                    (best < 0 || b->scores[k] > b->scores[best])) {
                    best = k;
                    where = i;
                }
        if (best < 0)
            break;
        part[where].n += part[where + 1].n;
        memmove(part + where + 1, part + where + 2, (n_parts - where - 2) * sizeof *part);
        n_parts--;
    }
    for (size_t i = 0; i < n_parts; i++) {
        ids[i] = byte((unsigned char)p[part[i].begin]);
        for (int k = TB_BYTE + 256; k < b->n_tokens; k++)
            if (b->tokens[k].n == part[i].n &&
                !memcmp(b->tokens[k].p, p + part[i].begin, part[i].n))
                ids[i] = k;
    }
    return (int64_t)n_parts;
}

static void test_scores_against_their_definition(void **state)
{
    (void)state;
    for (int round = 0; round < 60; round++) {
        struct tb *b = tb_new_text("llama");
        b->c.add_space_prefix = 0;
        if (round % 2)
            tb_scored(b, "b", -1); /* a and c are bytes only */
        while (b->n_tokens < TB_BYTE + 256 + 40) {
            char token[8];
            size_t n = 2 + rnd(5);
            for (size_t i = 0; i < n; i++)
                token[i] = (char)('a' + rnd(3));
            token[n] = '\0';
            if (!is_token(b, (struct str){token, n}))
                tb_scored(b, token, -(double)rnd(12)); /* many equal ones */
        }
        struct text *t = open_built(b);
        assert_words(t, b, merge_by_definition);
        text_close(t);
        tb_free(b);
    }
}

/* A megabyte that no boundary divides; a hang guard: quadratic time would take hours. */
static void test_a_megabyte_without_a_boundary(void **state)
{
    (void)state;
    static const char *const models[] = {"llama", "gemma4"};
    for (size_t m = 0; m < ARRAY_LEN(models); m++) {
        struct tb *b = tb_new_text(models[m]);
        char half[4097] = "a";
        b->c.add_space_prefix = 0;
        if (m == 0)
            tb_scored(b, "a", 0);
        for (size_t n = 1; n < 4096; n *= 2) {
            char whole[8193];
            snprintf(whole, sizeof whole, "%s%s", half, half);
            if (m == 0)
                tb_scored(b, whole, -(double)n);
            else
                tb_text_merge(b, half, half);
            memset(half, 'a', 2 * n);
        }
        struct text *t = open_built(b);
        size_t n = 1 << 20;
        char *text = malloc(n);
        struct text_ids ids = {0};
        memset(text, 'a', n);
        alarm(300);
        encode(t, text, n, false, &ids);
        assert_int_equal(ids.n, (1 << 20) / 4096);
        memset(text, ' ', n);
        encode(t, text, n, true, &ids);
        assert_int_equal(ids.n, n);
        alarm(0);
        text_ids_free(&ids);
        free(text);
        text_close(t);
        tb_free(b);
    }
}

/* What sluice.h promises of working memory: at most 90 bytes for one of text. */
static void test_memory_for_a_long_word(void **state)
{
    (void)state;
    static const char *const models[] = {"llama", "gemma4"};
    for (size_t m = 0; m < ARRAY_LEN(models); m++) {
        struct tb *b = tb_new_text(models[m]);
        tb_scored(b, "z y", -1); /* no cutting at blanks */
        struct text *t = open_built(b);
        size_t n = 100000;
        char *text = malloc(n);
        struct text_segment seg = {.p = text, .n = n};
        struct text_ids ids = {.most_bytes = n * 90};
        struct err e = {0};
        memset(text, 'a', n);
        assert_int_equal(text_encode(t, &seg, 1, false, &ids, &e), OK);
        ids.n = 0;
        ids.most_bytes = n;
        assert_int_equal(text_encode(t, &seg, 1, false, &ids, &e), E_BUDGET);
        assert_says(&e, "too much memory");
        text_ids_free(&ids);
        free(text);
        text_close(t);
        tb_free(b);
    }
}

/* ---- blanks ------------------------------------------------------------- */

static struct tb *small_llama(void)
{
    struct tb *b = tb_new_text("llama");
    tb_scored(b, BAR, -5);
    tb_scored(b, "h", -6);
    tb_scored(b, "i", -7);
    tb_scored(b, "hi", -1);
    tb_scored(b, BAR "hi", -2);
    tb_token(b, "<x>", TOKEN_CONTROL);
    tb_token(b, "<think>", TOKEN_USER);
    return b;
}
enum { HAS_BAR = TB_BYTE + 256, H, I, HI, BAR_HI, X, THINK };

static void test_a_blank_goes_before_text(void **state)
{
    (void)state;
    struct tb *b = small_llama();
    struct text *t = open_built(b);
    ASSERT_IDS(t, "hi", false, BAR_HI);
    ASSERT_IDS(t, " hi", false, HAS_BAR, BAR_HI);
    ASSERT_IDS(t, "hi hi", false, BAR_HI, BAR_HI);
    ASSERT_IDS(t, BAR "hi", false, HAS_BAR, BAR_HI); /* U+2581 is a blank */
    ASSERT_IDS(t, "\xff", false, HAS_BAR, byte(0xff));
    ASSERT_IDS(t, "\xffhi", false, HAS_BAR, byte(0xff), HI);
    ASSERT_IDS(t, "<x>hi<x><x> <think>hi", true, X, BAR_HI, X, X, HAS_BAR, HAS_BAR, THINK, BAR_HI);
    ASSERT_IDS(t, "<x>", true, X);

    /* Segments are one text: a blank at its beginning and behind special tokens. */
    struct text_segment segs[] = {
        {.p = "hi", .n = 2},
        {.p = "hi", .n = 2},
        {.p = "<x>", .n = 3, .markup = true},
        {.p = "", .markup = true},
        {.p = "hi", .n = 2},
        {.p = "hi", .n = 2, .markup = true},
    };
    static const int32_t want[] = {TB_BOS, BAR_HI, HI, X, BAR_HI, HI};
    struct text_ids ids = {0};
    assert_int_equal(text_encode(t, segs, 6, true, &ids, NULL), OK);
    assert_int_equal(ids.n, ARRAY_LEN(want));
    assert_memory_equal(ids.id, want, sizeof want);
    ids.n = 0;
    assert_int_equal(text_encode(t, segs, 0, true, &ids, NULL), OK);
    assert_int_equal(ids.n, 1);
    encode(t, "", 0, false, &ids);
    assert_int_equal(ids.n, 0);
    text_ids_free(&ids);
    text_close(t);

    b->c.add_space_prefix = 0;
    t = open_built(b);
    ASSERT_IDS(t, "hi", false, HI);
    ASSERT_IDS(t, "<x>hi hi", true, X, HI, BAR_HI);
    text_close(t);
    tb_free(b);
}

/* Phi-3: what stands behind <|user|> and its like is no text, whoever wrote it. */
static void test_white_space_behind_special_tokens(void **state)
{
    (void)state;
    for (int phi3 = 0; phi3 < 2; phi3++) {
        struct tb *b = tb_new_text("llama");
        int bar_a = tb_scored(b, BAR "a", -3), a = tb_scored(b, "a", -4);
        int bar = tb_scored(b, BAR, -5);
        int user = tb_token(b, "<|user|>", TOKEN_CONTROL);
        int start = tb_token(b, "<|endoftext|>", TOKEN_CONTROL);
        if (phi3)
            tb_token(b, "<|placeholder1|>", TOKEN_CONTROL);
        struct text *t = open_built(b);
        if (phi3) {
            ASSERT_IDS(t, "<|user|>\n\t\xc2\xa0 a", true, user, bar_a);
            ASSERT_IDS(t, "<|user|>\n<|user|> \n", true, user, user);
            ASSERT_IDS(t, "<|endoftext|> a", true, start, bar, bar_a);
            ASSERT_IDS(t, "<|user|>a\na", true, user, bar_a, byte('\n'), a);
            const struct text_segment segs[] = {
                {.p = "<|user|>\n", .n = 9, .markup = true}, {.p = " \n", .n = 2},
                {.p = "", .n = 0}, {.p = "\na \n", .n = 4}};
            struct text_ids ids = {0};
            struct err e = {0};
            assert_int_equal(text_encode(t, segs, 4, false, &ids, &e), OK);
            const int32_t want[] = {user, bar_a, bar, byte('\n')};
            assert_int_equal(ids.n, 4);
            assert_memory_equal(ids.id, want, sizeof(want));
            text_ids_free(&ids);
        } else {
            ASSERT_IDS(t, "<|user|>\na", true, user, bar, byte('\n'), a);
        }
        text_close(t);
        tb_free(b);
    }
}

static void test_streams_leave_out_the_first_blank(void **state)
{
    (void)state;
    static const char *const texts[] = {"hi", " hi", "  hi hi ", "h\xc3\xa9\xf0\x9f\x98\x80",
                                        "\xff", "\n", "", " "};
    for (int prefix = 0; prefix < 2; prefix++) {
        struct tb *b = small_llama();
        b->c.add_space_prefix = prefix;
        struct text *t = open_built(b);
        for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
            struct text_segment seg = {.p = texts[i], .n = strlen(texts[i])};
            struct text_ids ids = {0};
            assert_int_equal(text_encode(t, &seg, 1, true, &ids, NULL), OK);
            assert_int_equal(ids.id[0], TB_BOS); /* gives nothing, so not the first piece */
            assert_reads(t, &ids, texts[i], strlen(texts[i]));
            text_ids_free(&ids);
        }
        text_close(t);
        tb_free(b);
    }
    /* A text that is continued keeps its blanks. */
    struct text_stream stream = {0};
    char out[16];
    assert_int_equal(text_stream_push(&stream, (struct str){" a", 2}, false, out), 2);
}

static void test_blanks_taken_out(void **state)
{
    (void)state;
    struct tb *b = small_llama();
    b->c.remove_extra_whitespaces = 1;
    struct text *t = open_built(b);
    ASSERT_IDS(t, "  hi   hi ", false, BAR_HI, BAR_HI);
    ASSERT_IDS(t, "hi", false, BAR_HI);
    ASSERT_IDS(t, "hi \xff  hi  ", false, BAR_HI, HAS_BAR, byte(0xff), BAR_HI);
    ASSERT_IDS(t, " \n ", false, HAS_BAR, byte('\n')); /* only blanks go */
    struct text_ids ids = {0};
    encode(t, "   ", 3, false, &ids);
    assert_int_equal(ids.n, 0);
    text_ids_free(&ids);
    text_close(t);
    b->c.add_space_prefix = 0;
    t = open_built(b);
    ASSERT_IDS(t, "  hi   hi ", false, HI, BAR_HI);
    text_close(t);
    tb_free(b);
}

/* A blank behind something else inside a token forbids to merge in parts. */
static void test_tokens_with_blanks_inside(void **state)
{
    (void)state;
    struct tb *b = small_llama();
    struct text *t = open_built(b);
    assert_true(t->cuts_at_blanks);
    text_close(t);
    int i_bar = tb_scored(b, "i" BAR, -0.5);
    b->c.add_space_prefix = 0;
    t = open_built(b);
    assert_false(t->cuts_at_blanks);
    ASSERT_IDS(t, "hi hi", false, H, i_bar, HI);
    text_close(t);
    tb_free(b);
}

/* ---- bytes, special tokens ---------------------------------------------- */

static void test_any_bytes_survive(void **state)
{
    (void)state;
    static const char *const models[] = {"llama", "gemma4"};
    for (size_t m = 0; m < ARRAY_LEN(models); m++) {
        struct tb *b = tb_new_text(models[m]);
        tb_scored(b, BAR, -1);
        tb_scored(b, "\xe4\xb8\xad", -2);
        tb_scored(b, "a" BAR, -3);
        tb_scored(b, "\n", -3);
        if (m == 1)
            tb_text_merge(b, "\xe4\xb8\xad", "a"); /* the token "a" there is none */
        b->c.add_space_prefix = 0;
        struct text *t = open_built(b);
        for (unsigned i = 0; i < 0x10000; i++) {
            char pair[2] = {(char)(i >> 8), (char)i};
            assert_round_trip(t, pair, 2);
        }
        for (size_t n = 0; n < 600; n++) {
            char bytes[600];
            for (size_t i = 0; i < n; i++)
                bytes[i] = n % 3 ? (char)(rnd(128) * 2) : "\xe4\xb8\xad\xff \n'a\x80"[rnd(9)];
            assert_round_trip(t, bytes, n); /* U+2581 is not among them */
        }
        ASSERT_IDS(t, "\xc3\xa9", false, byte(0xc3), byte(0xa9));
        text_close(t);
        tb_free(b);
    }
}

/* No text becomes a special token, a byte token by its name, or an unused one. */
static void test_scores_build_no_special_token(void **state)
{
    (void)state;
    static const int types[] = {TOKEN_CONTROL, TOKEN_USER, TOKEN_UNKNOWN, TOKEN_UNUSED};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct tb *b = tb_new_text("llama");
        int h = tb_scored(b, "h", -1), e = tb_scored(b, "i", -1);
        int id = tb_token(b, "hi", types[i]);
        b->c.add_space_prefix = 0;
        struct text *t = open_built(b);
        ASSERT_IDS(t, "hi", false, h, e);
        if (types[i] == TOKEN_UNUSED)
            ASSERT_IDS(t, "hi", true, h, e);
        else
            ASSERT_IDS(t, "hi", true, id);
        text_close(t);
        tb_free(b);
    }
    struct tb *b = tb_new_text("llama");
    static const char *const steps[] = {"<0", "<0x", "<0x4", "<0x41"};
    for (size_t i = 0; i < ARRAY_LEN(steps); i++)
        tb_scored(b, steps[i], 0);
    b->c.add_space_prefix = 0;
    struct text *t = open_built(b);
    struct str s;
    int last = b->n_tokens - 1;
    ASSERT_IDS(t, "<0x41>", false, last, byte('>'));
    ASSERT_IDS(t, "<0x41>", true, last, byte('>'));
    assert_int_equal(text_piece(t, byte('A'), false, &s), OK);
    assert_int_equal(s.n, 1);
    assert_int_equal(s.p[0], 'A');
    assert_true(text_is_eog(t, TB_EOS));
    text_close(t);
    tb_free(b);
}

/* Runs of blanks that a file calls user-defined are ordinary text. */
static void test_user_defined_white_space(void **state)
{
    (void)state;
    struct tb *b = tb_new_text("gemma4");
    int bar = tb_token(b, BAR, TOKEN_NORMAL);
    int two = tb_text_merge(b, BAR, BAR);
    b->types[two] = TOKEN_USER;
    int newline = tb_token(b, "\n", TOKEN_USER);
    struct text *t = open_built(b);
    ASSERT_IDS(t, "   \n", false, two, bar, newline);
    ASSERT_IDS(t, "   \n", true, two, bar, newline);
    text_close(t);
    tb_free(b);

    /* Where tokens are mapped bytes they are found before text is cut. */
    b = tb_new("gpt-2");
    int run = tb_token(b, "    ", TOKEN_USER), think = tb_token(b, "<think>", TOKEN_USER);
    two = tb_merge(b, " ", " ");
    t = open_built(b);
    ASSERT_IDS(t, "     a", false, run, ' ', 'a');
    ASSERT_IDS(t, "x    \n", false, 'x', run, '\n');
    ASSERT_IDS(t, "   a", false, two, ' ', 'a');
    ASSERT_IDS(t, "<think>    ", true, think, run);
    text_close(t);
    tb_free(b);
}

static void test_bounds(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        int add_bos, bos, has_bos;
    } cases[] = {
        {"llama", -1, 1, 1}, {"llama", 0, 1, 0}, {"llama", -1, -1, 1}, /* 1 unless named */
        {"gemma4", -1, 1, 1}, {"gemma4", 0, 1, 1}, /* whatever the file says */
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct tb *b = tb_new_text(cases[i].model);
        struct text_segment seg = {.p = "\x01", .n = 1};
        struct text_ids ids = {0};
        b->c.add_bos = cases[i].add_bos;
        b->c.bos = cases[i].bos;
        b->c.eos = -1;
        b->c.add_space_prefix = 0;
        struct text *t = open_built(b);
        assert_int_equal(text_encode(t, &seg, 1, true, &ids, NULL), OK);
        assert_int_equal(ids.n, 1 + cases[i].has_bos);
        assert_int_equal(ids.id[0], cases[i].has_bos ? TB_BOS : byte(1));
        assert_true(text_is_eog(t, TB_EOS)); /* by default or by its name */
        text_ids_free(&ids);
        text_close(t);
        tb_free(b);
    }
}

/* ---- gemma4 -------------------------------------------------------------- */

static void test_ranks_over_characters(void **state)
{
    (void)state;
    struct tb *b = tb_new_text("gemma4");
    int a = tb_token(b, "a", TOKEN_NORMAL), e = tb_token(b, "\xc3\xa9", TOKEN_NORMAL);
    int bar = tb_token(b, BAR, TOKEN_NORMAL);
    int ae = tb_text_merge(b, "a", "\xc3\xa9");
    int bar_a = tb_text_merge(b, BAR, "a");
    int newlines = tb_token(b, "\n\n\n", TOKEN_NORMAL); /* no merge leads there */
    struct text *t = open_built(b);
    ASSERT_IDS(t, "a\xc3\xa9\xc3\xa9", false, ae, e);
    ASSERT_IDS(t, " a\xc3\xa9", false, bar, ae); /* the better rank */
    ASSERT_IDS(t, "aa a", false, a, a, bar_a);
    ASSERT_IDS(t, "\n\n\na\n", false, newlines, a, byte('\n'));
    ASSERT_IDS(t, "\n\n", false, byte('\n'), byte('\n'));
    ASSERT_IDS(t, "x\xe4\xb8\xad", false, byte('x'), byte(0xe4), byte(0xb8), byte(0xad));
    text_close(t);
    tb_free(b);
}

static void test_ends_of_gemma4(void **state)
{
    (void)state;
    struct tb *b = tb_new_text("gemma4"); /* has </s>, named as eos */
    int turn = tb_token(b, "<turn|>", TOKEN_CONTROL);
    int response = tb_token(b, "<|tool_response>", TOKEN_USER);
    b->c.eos = -1;
    struct text *t = open_built(b);
    assert_true(text_is_eog(t, turn));
    assert_true(text_is_eog(t, response));
    assert_false(text_is_eog(t, TB_EOS)); /* </s> is a tag of HTML there */
    text_close(t);
    tb_free(b);
}

/* ---- hostile metadata ----------------------------------------------------- */

static void test_metadata_refused(void **state)
{
    (void)state;
    static const float wrong[] = {NAN, INFINITY, -INFINITY};
    struct tb *b;
    struct err e = {0};
    struct text *t;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        b = tb_new_text("llama");
        b->scores[7] = wrong[i];
        assert_refused(b, E_FORMAT, "token 7 has the score");
    }
    b = tb_new_text("llama");
    b->types[byte(0x41)] = TOKEN_UNUSED;
    assert_refused(b, E_FORMAT, "no token <0x41>");
    b = tb_new_text("gemma4");
    b->tokens[byte(0)] = (struct str){"<0xGG>", 6};
    assert_refused(b, E_FORMAT, "token 3 is '<0xGG>' and a byte");
    b = tb_new_text("gemma4");
    b->c.bos = -1;
    assert_refused(b, E_FORMAT, "tokenizer.ggml.bos_token_id");
    b = tb_new("gpt-2");
    b->c.add_space_prefix = 1;
    assert_refused(b, E_UNSUPPORTED, "add_space_prefix");
    b = tb_new_text("gemma4");
    b->c.remove_extra_whitespaces = 1;
    assert_refused(b, E_UNSUPPORTED, "remove_extra_whitespaces");
    b = tb_new_text("t5");
    assert_refused(b, E_UNSUPPORTED, "'t5'");
    b = tb_new_text("gemma4");
    b->merges[b->n_merges++] = (struct str){"ab", 2};
    assert_refused(b, E_FORMAT, "merge 0 ");

    b = tb_new_text("llama");
    assert_int_equal(tb_open(b, &t, &e), OK);
    text_close(t);
    b->c.scores = NULL;
    assert_int_equal(text_open(&b->c, &t, &e), E_FORMAT);
    assert_says(&e, "tokenizer.ggml.scores");
    tb_free(b);
}

static void test_metadata_tolerated(void **state)
{
    (void)state;
    static const char *const models[] = {"llama", "gemma4"};
    for (size_t m = 0; m < ARRAY_LEN(models); m++) {
        struct tb *b = tb_new_text(models[m]);
        int empty = tb_scored(b, "", 0);
        int broken = tb_scored(b, "\xff\xfe", 0);
        int a = tb_scored(b, "a", 0);
        tb_scored(b, "a", 1); /* the first counts */
        tb_token(b, "<0x41>", TOKEN_NORMAL); /* a second byte token: the first counts */
        /* merges that lead round in a circle, or nowhere */
        int ab = tb_text_merge(b, "a", "b");
        tb_text_merge(b, "ab", "a");
        tb_text_merge(b, "b", "ab");
        tb_text_merge(b, "\xff", "x");
        b->c.add_space_prefix = 0;
        struct text *t = open_built(b);
        struct str s;
        ASSERT_IDS(t, "aA", false, a, byte('A'));
        ASSERT_IDS(t, "\xff\xfe", false, byte(0xff), byte(0xfe));
        ASSERT_IDS(t, "ab", false, ab);
        assert_int_equal(text_piece(t, empty, true, &s), OK);
        assert_memory_equal(s.p, "[EMPTY_259]", 11);
        assert_int_equal(text_piece(t, broken, true, &s), OK);
        assert_memory_equal(s.p, "\xff\xfe", 2);
        char text[64];
        for (int round = 0; round < 200; round++) {
            for (size_t i = 0; i < sizeof text; i++)
                text[i] = "ab \xff"[rnd(4)];
            assert_round_trip(t, text, sizeof text);
        }
        text_close(t);
        tb_free(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best_score_then_leftmost),
        cmocka_unit_test(test_scores_against_their_definition),
        cmocka_unit_test(test_a_megabyte_without_a_boundary),
        cmocka_unit_test(test_memory_for_a_long_word),
        cmocka_unit_test(test_a_blank_goes_before_text),
        cmocka_unit_test(test_white_space_behind_special_tokens),
        cmocka_unit_test(test_streams_leave_out_the_first_blank),
        cmocka_unit_test(test_blanks_taken_out),
        cmocka_unit_test(test_tokens_with_blanks_inside),
        cmocka_unit_test(test_any_bytes_survive),
        cmocka_unit_test(test_scores_build_no_special_token),
        cmocka_unit_test(test_user_defined_white_space),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_ranks_over_characters),
        cmocka_unit_test(test_ends_of_gemma4),
        cmocka_unit_test(test_metadata_refused),
        cmocka_unit_test(test_metadata_tolerated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
