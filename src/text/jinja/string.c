/*
 * string: strings whose bytes are marked as the template's own or not. Parts of a
 * string share its bytes and marks; what is put together gets new ones.
 */
#include <string.h>
#include <utf8proc.h>

#include "text/jinja/jinja.h"
#include "text/text_internal.h"

struct jval jstring(struct jinja *j, const char *p, size_t n, bool own)
{
    struct jstr *s = jalloc(j, sizeof *s);
    *s = (struct jstr){.p = p, .n = n, .all_own = own};
    return (struct jval){.type = J_STRING, .s = s};
}

struct jval jstring_c(struct jinja *j, const char *s)
{
    return jstring(j, s, strlen(s), false);
}

struct jval jstring_part(struct jinja *j, const struct jstr *s, size_t at, size_t n)
{
    struct jstr *part = jalloc(j, sizeof *part);
    *part = (struct jstr){s->p + at, s->own ? s->own + at : NULL, n, s->all_own};
    return (struct jval){.type = J_STRING, .s = part};
}

struct jval jstring_of(struct jinja *j, const struct jbuf *b)
{
    struct jstr *s = jalloc(j, sizeof *s);
    *s = (struct jstr){b->n ? b->p : "", b->own, b->n, false};
    return (struct jval){.type = J_STRING, .s = s};
}

/* ---- putting together ---- */

static void make_room(struct jinja *j, struct jbuf *b, size_t n)
{
    if (n <= b->cap - b->n)
        return;
    size_t cap = b->cap * 2 + n + 64;
    struct jbuf more = {jalloc(j, cap), jalloc(j, cap), b->n, cap};
    if (b->n) {
        memcpy(more.p, b->p, b->n);
        memcpy(more.own, b->own, b->n);
    }
    jstep(j, b->n);
    *b = more;
}

static void check_output(struct jinja *j, const struct jbuf *b, size_t n)
{
    jstep(j, n);
    if (n > j->most.output || b->n > j->most.output - n)
        jlimit(j, E_UNSUPPORTED, "a text becomes longer than %zu bytes", j->most.output);
}

void jbuf_add(struct jinja *j, struct jbuf *b, const char *p, size_t n, bool own)
{
    check_output(j, b, n);
    if (!n)
        return;
    make_room(j, b, n);
    memcpy(b->p + b->n, p, n);
    memset(b->own + b->n, own, n);
    b->n += n;
}

void jbuf_str(struct jinja *j, struct jbuf *b, const struct jstr *s)
{
    size_t at = b->n;
    jbuf_add(j, b, s->p, s->n, s->all_own);
    if (s->own && s->n)
        memcpy(b->own + at, s->own, s->n);
}

void jbuf_c(struct jinja *j, struct jbuf *b, const char *s)
{
    jbuf_add(j, b, s, strlen(s), false);
}

/* ---- looking ---- */

bool jstr_same(struct jinja *j, const struct jstr *a, const struct jstr *b)
{
    jstep(j, a->n == b->n ? a->n : 0);
    return a->n == b->n && (!a->n || !memcmp(a->p, b->p, a->n));
}

bool jstr_begins(struct jinja *j, const struct jstr *s, size_t at, const struct jstr *with)
{
    jstep(j, with->n);
    return s->n - at >= with->n && (!with->n || !memcmp(s->p + at, with->p, with->n));
}

size_t jstr_find(struct jinja *j, const struct jstr *s, size_t at, const struct jstr *what)
{
    enum { SHORT = 256 }; /* memmem's time: length of the text times that of a short needle */
    const char *p = what->n > s->n - at ? NULL
                    : what->n           ? memmem(s->p + at, s->n - at, what->p, what->n)
                                        : s->p + at;
    size_t looked = p ? (size_t)(p - s->p) - at : s->n - at;
    jstep(j, what->n + looked * (1 + MIN(what->n, (size_t)SHORT) / 8));
    return p ? (size_t)(p - s->p) : SIZE_MAX;
}

size_t jstr_char(const struct jstr *s, size_t at)
{
    int n = utf8_sequence(s->p + at, s->n - at);
    return n > 0 ? (size_t)n : 1;
}

size_t jstr_chars(struct jinja *j, const struct jstr *s)
{
    size_t n = 0;
    jstep(j, s->n);
    for (size_t i = 0; i < s->n; i += jstr_char(s, i))
        n++;
    return n;
}

/* ---- parts ---- */

/* Where the last character of s[begin, end) begins. */
static size_t last_char(const struct jstr *s, size_t begin, size_t end)
{
    size_t k = 1;
    while (k < 4 && end - k > begin && ((unsigned char)s->p[end - k] & 0xc0) == 0x80)
        k++;
    return jstr_char(&(struct jstr){.p = s->p + end - k, .n = k}, 0) == k ? end - k : end - 1;
}

/* Whether the character s[at, at + n) is one of `what`, or white space. */
static bool is_one(struct jinja *j, const struct jstr *s, size_t at, size_t n,
                   const struct jstr *what)
{
    jstep(j, what ? 16 * what->n : 0); /* a character is compared, not copied */
    if (!what)
        return utf8_space(s->p + at, n) == (int)n;
    for (size_t i = 0; i < what->n; i += jstr_char(what, i))
        if (jstr_char(what, i) == n && !memcmp(what->p + i, s->p + at, n))
            return true;
    return false;
}

struct jval jstr_strip(struct jinja *j, const struct jstr *s, const struct jstr *what, bool left,
                       bool right)
{
    size_t begin = 0, end = s->n;
    for (size_t k; left && begin < end; begin += k) {
        k = jstr_char(s, begin);
        if (!is_one(j, s, begin, k, what))
            break;
    }
    for (size_t k; right && begin < end; end = k) {
        k = last_char(s, begin, end);
        if (!is_one(j, s, k, end - k, what))
            break;
    }
    return jstring_part(j, s, begin, end - begin);
}

/* Up to `most` pieces between white space; most < 0: all. */
static void split_at_space(struct jinja *j, const struct jstr *s, int64_t most, struct jlist *out)
{
    size_t i = 0;
    for (;;) {
        int k;
        while (i < s->n && (k = utf8_space(s->p + i, s->n - i)) > 0)
            i += (size_t)k;
        if (i == s->n)
            return;
        size_t begin = i;
        if (most >= 0 && (int64_t)out->n == most)
            i = s->n;
        while (i < s->n && utf8_space(s->p + i, s->n - i) == 0)
            i += jstr_char(s, i);
        jlist_add(j, out, jstring_part(j, s, begin, i - begin));
    }
}

static size_t find_last(struct jinja *j, const struct jstr *s, size_t end, const struct jstr *what)
{
    for (size_t i = end; i >= what->n; i--) {
        jstep(j, what->n);
        if (!memcmp(s->p + i - what->n, what->p, what->n))
            return i - what->n;
    }
    return SIZE_MAX;
}

struct jval jstr_split(struct jinja *j, const struct jstr *s, const struct jstr *at, int64_t most,
                       bool from_right)
{
    struct jval out = jlist_new(j, 4);
    size_t i = 0, end = s->n, found;
    jstep(j, s->n);
    if (!at && from_right)
        jfail(j, "rsplit without a separator is not known here");
    if (!at) {
        split_at_space(j, s, most, out.list);
        return out;
    }
    if (!at->n)
        jfail(j, "split is given an empty separator");
    if (from_right) {
        struct jval parts = jlist_new(j, 4);
        while ((most < 0 || (int64_t)parts.list->n < most) &&
               (found = find_last(j, s, end, at)) != SIZE_MAX) {
            jlist_add(j, parts.list, jstring_part(j, s, found + at->n, end - found - at->n));
            end = found;
        }
        jlist_add(j, out.list, jstring_part(j, s, 0, end));
        for (size_t k = parts.list->n; k-- > 0;)
            jlist_add(j, out.list, parts.list->v[k]);
        return out;
    }
    while ((most < 0 || (int64_t)out.list->n < most) &&
           (found = jstr_find(j, s, i, at)) != SIZE_MAX) {
        jlist_add(j, out.list, jstring_part(j, s, i, found - i));
        i = found + at->n;
    }
    jlist_add(j, out.list, jstring_part(j, s, i, s->n - i));
    return out;
}

struct jval jstr_replace(struct jinja *j, const struct jstr *s, const struct jstr *old,
                         const struct jstr *new, int64_t most)
{
    struct jbuf b = {0};
    size_t i = 0;
    while (most != 0) {
        size_t found = jstr_find(j, s, i, old);
        if (found == SIZE_MAX)
            break;
        size_t begin = i;
        i = found + old->n;
        if (begin < found)
            jbuf_str(j, &b, jstring_part(j, s, begin, found - begin).s);
        jbuf_str(j, &b, new);
        most -= most > 0;
        if (old->n)
            continue;
        if (i == s->n) /* of nothing: once before each character, and at the end */
            return jstring_of(j, &b);
        size_t k = jstr_char(s, i);
        jbuf_str(j, &b, jstring_part(j, s, i, k).s);
        i += k;
    }
    if (!b.n && i == 0)
        return (struct jval){.type = J_STRING, .s = s};
    jbuf_str(j, &b, jstring_part(j, s, i, s->n - i).s);
    return jstring_of(j, &b);
}

struct jval jstr_slice(struct jinja *j, const struct jstr *s, int64_t start, int64_t stop,
                       int64_t step)
{
    struct jbuf b = {0};
    size_t *at, n = 0;
    if (step == 1) {
        size_t begin, i = 0;
        int64_t k = 0;
        for (; k < start && i < s->n; k++)
            i += jstr_char(s, i);
        for (begin = i; k < stop && i < s->n; k++)
            i += jstr_char(s, i);
        jstep(j, i);
        return jstring_part(j, s, begin, i - begin);
    }
    at = jalloc(j, (jstr_chars(j, s) + 1) * sizeof *at);
    for (size_t i = 0; i < s->n; i += jstr_char(s, i))
        at[n++] = i;
    for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step)
        jbuf_str(j, &b, jstring_part(j, s, at[i], jstr_char(s, at[i])).s);
    return jstring_of(j, &b);
}

/* ---- letters ---- */

static bool is_word(const char *p, size_t n)
{
    if (utf8_sequence(p, n) <= 0)
        return false;
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)utf8_decode(p, (int)n));
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

/* One character, in upper or lower case. */
static void add_cased(struct jinja *j, struct jbuf *b, const char *p, size_t n, bool up, bool own)
{
    char text[4];
    if (utf8_sequence(p, n) <= 0) {
        jbuf_add(j, b, p, n, own);
        return;
    }
    utf8proc_int32_t c = (utf8proc_int32_t)utf8_decode(p, (int)n);
    if (up && c == 0xdf) { /* the one common letter whose upper case are two */
        jbuf_add(j, b, "SS", 2, own);
        return;
    }
    c = up ? utf8proc_toupper(c) : utf8proc_tolower(c);
    jbuf_add(j, b, text, (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)text), own);
}

struct jval jstr_case(struct jinja *j, const struct jstr *s, enum jcase how)
{
    struct jbuf b = {0};
    bool first = true;
    for (size_t i = 0, k; i < s->n; i += k) {
        k = jstr_char(s, i);
        add_cased(j, &b, s->p + i, k, how == CASE_UPPER || (how != CASE_LOWER && first),
                  s->own ? s->own[i] : s->all_own);
        first = how == CASE_TITLE && !is_word(s->p + i, k);
    }
    return jstring_of(j, &b);
}

struct jval jstr_indent(struct jinja *j, const struct jstr *s, const struct jstr *with, bool first,
                        bool blank)
{
    struct jbuf b = {0};
    for (size_t i = 0; i <= s->n;) {
        const char *end = i < s->n ? memchr(s->p + i, '\n', s->n - i) : NULL;
        size_t n = end ? (size_t)(end - s->p) - i : s->n - i;
        if ((i > 0 || first) && (n > 0 || blank))
            jbuf_str(j, &b, with);
        jbuf_str(j, &b, jstring_part(j, s, i, n + (end != NULL)).s);
        i += n + 1;
    }
    return jstring_of(j, &b);
}
