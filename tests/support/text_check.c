#include "support/text_check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void assert_says(const struct err *e, const char *what)
{
    if (!strstr(e->text, what))
        fail_msg("the sentence \"%s\" does not say \"%s\"", e->text, what);
}

void assert_refused(struct tb *b, int code, const char *says)
{
    struct text *t;
    struct err e = {0};
    assert_int_equal(tb_open(b, &t, &e), code);
    assert_null(t);
    assert_says(&e, says);
    tb_free(b);
}

struct text *open_built(struct tb *b)
{
    struct text *t = NULL;
    struct err e = {0};
    if (tb_open(b, &t, &e) != OK)
        fail_msg("%s", e.text);
    return t;
}

void encode(const struct text *t, const char *p, size_t n, bool markup, struct text_ids *ids)
{
    struct text_segment seg = {.p = p, .n = n, .markup = markup};
    struct err e = {0};
    ids->n = 0;
    if (text_encode(t, &seg, 1, false, ids, &e) != OK)
        fail_msg("%s", e.text);
}

/* Bytes of the ids, terminated, malloc'ed. */
char *decode(const struct text *t, const struct text_ids *ids, size_t *n)
{
    size_t used = 0, cap = 64;
    char *out = malloc(cap);
    for (int64_t i = 0; i < ids->n; i++) {
        struct str s;
        assert_int_equal(text_piece(t, ids->id[i], true, &s), OK);
        if (used + s.n + 1 > cap)
            out = realloc(out, cap = 2 * (used + s.n + 1));
        assert_non_null(out);
        memcpy(out + used, s.p, s.n);
        used += s.n;
    }
    out[used] = '\0';
    *n = used;
    return out;
}

void assert_ids(const struct text *t, const char *text, bool markup, const int32_t *want,
                int64_t n)
{
    struct text_ids ids = {0};
    encode(t, text, strlen(text), markup, &ids);
    bool same = ids.n == n && !memcmp(ids.id, want, (size_t)n * sizeof *want);
    if (!same) {
        print_message("\"%s\" gave", text);
        for (int64_t i = 0; i < ids.n; i++)
            print_message(" %d", (int)ids.id[i]);
        fail_msg("where %lld ids beginning %d were expected", (long long)n, (int)want[0]);
    }
    text_ids_free(&ids);
}

void assert_round_trip(const struct text *t, const char *p, size_t n)
{
    struct text_ids ids = {0};
    size_t k;
    encode(t, p, n, false, &ids);
    char *back = decode(t, &ids, &k);
    assert_int_equal(k, n);
    assert_memory_equal(back, p, n);
    free(back);
    text_ids_free(&ids);
}

uint32_t rnd(uint32_t n) /* xorshift64 */
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32) % n;
}

bool is_token(const struct tb *b, struct str spelling)
{
    for (int i = 0; i < b->n_tokens; i++)
        if (b->tokens[i].n == spelling.n && !memcmp(b->tokens[i].p, spelling.p, spelling.n))
            return true;
    return false;
}

void assert_words(const struct text *t, const struct tb *b, by_definition_fn *ids)
{
    enum { LONGEST = 120, WORDS = 40 };
    for (int k = 0; k < WORDS; k++) {
        char word[LONGEST + 1];
        int32_t want[LONGEST];
        size_t n = 1 + rnd(LONGEST);
        for (size_t i = 0; i < n; i++)
            word[i] = (char)('a' + rnd(3));
        word[n] = '\0';
        int64_t n_want = ids(b, word, n, want);
        assert_ids(t, word, false, want, n_want);
    }
}
