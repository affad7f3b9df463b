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
    struct text_segment seg = {p, n, markup};
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
