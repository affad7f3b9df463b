/*
 * scan: a pattern over bytes as they come. Each byte is looked at a bounded number of times:
 * where a part ends is looked for from where the last look ended.
 */
#include <stdlib.h>
#include <string.h>

#include "text/calls/calls.h"

enum { NAME_MOST = 256, DEPTH_MOST = 300 };

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.' || c == '/' || (unsigned char)c >= 0x80;
}

/* How many bytes stand in the pattern as they are. */
static size_t literal(const char *at)
{
    return strcspn(at, "%~");
}

/* Whether what begins at `at` in the pattern begins the text: 1, 0, or -1: as far as it
 * goes. Nothing begins at the end of a pattern. */
static int begins(const char *at, const char *p, size_t n)
{
    size_t k = literal(at);
    if (!k && at[0] == '%' && (at[1] == 'o' || at[1] == 'j'))
        return n ? p[0] == '{' : -1;
    size_t both = MIN(k, n);
    if (both && memcmp(at, p, both) != 0)
        return 0;
    return k ? (n >= k ? 1 : -1) : 0;
}

/* Behind the group whose "%(" or "%[" is at `at`. A call's group holds those of its
 * arguments. */
static const char *behind(const char *at)
{
    char close = at[1] == '(' ? ')' : ']';
    do
        at++;
    while (at[0] != '%' || at[1] != close);
    return at + 2;
}

/* The beginning of the group whose end is at `at`. */
static const char *before(const char *at)
{
    char open = at[1] == ')' ? '(' : '[';
    do
        at--;
    while (at[0] != '%' || at[1] != open);
    return at;
}

static bool add_part(struct call_scan *s, char kind, size_t at, size_t n)
{
    if (s->n_parts == s->cap_parts) {
        size_t cap = s->cap_parts * 2 + 8;
        struct call_part *part = realloc(s->part, cap * sizeof *part);
        if (!part)
            return false;
        s->part = part;
        s->cap_parts = cap;
    }
    s->part[s->n_parts++] = (struct call_part){kind, at, n};
    return true;
}

/* ---- parts ---- */

/* Where the JSON value at pos ends, by its brackets; what is in it decode.c looks at. */
static enum call_state scan_json(struct call_scan *s, const char *p, size_t n)
{
    char open = s->at[1] == 'l' ? '[' : '{';
    if (s->pos == n)
        return CALL_MORE;
    if (p[s->pos] != open)
        return CALL_WRONG;
    for (s->seen = MAX(s->seen, s->pos); s->seen < n; s->seen++) {
        char c = p[s->seen];
        if (s->in_string) {
            s->in_string = c != '"' || s->escaped;
            s->escaped = c == '\\' && !s->escaped;
        } else if (c == '"') {
            s->in_string = true;
        } else if (c == '{' || c == '[') {
            if (++s->depth > DEPTH_MOST)
                return CALL_WRONG;
        } else if ((c == '}' || c == ']') && --s->depth == 0) {
            if (!add_part(s, s->at[1], s->pos, s->seen + 1 - s->pos))
                return CALL_WRONG;
            s->pos = ++s->seen;
            s->at += 2;
            s->whole = true;
            return CALL_DONE;
        }
    }
    return CALL_MORE;
}

static enum call_state scan_name(struct call_scan *s, const char *p, size_t n, bool last)
{
    size_t end = s->pos;
    while (end < n && is_name(p[end]) && end - s->pos <= NAME_MOST)
        end++;
    if (end - s->pos > NAME_MOST || (end == s->pos && end < n))
        return CALL_WRONG;
    if (end == n)
        return last ? CALL_WRONG : CALL_MORE;
    if (!add_part(s, 'n', s->pos, end - s->pos))
        return CALL_WRONG;
    s->pos = end;
    s->at += 2;
    return CALL_NAMED;
}

/* Up to what follows in the pattern, which is taken, too. */
static enum call_state scan_until(struct call_scan *s, const char *p, size_t n)
{
    char kind = s->at[1];
    const char *ends = s->at + 2;
    size_t k = literal(ends), from = MAX(s->seen, s->pos);
    const char *end = n - from >= k ? memmem(p + from, n - from, ends, k) : NULL;
    if (!end) {
        s->seen = n >= k && n - k + 1 > s->pos ? n - k + 1 : s->pos;
        return CALL_MORE;
    }
    size_t stop = (size_t)(end - p);
    if (!add_part(s, kind, s->pos, stop - s->pos))
        return CALL_WRONG;
    s->pos = stop + k;
    s->at = ends + k;
    s->whole = kind == 'g' || kind == 'p';
    return kind == 'f' ? CALL_NAMED : CALL_DONE;
}

/* ---- the pattern ---- */

/* At the end or beginning of a group: into it, or on behind it. */
static enum call_state choose(struct call_scan *s, const char *group, const char *p, size_t n)
{
    const char *inside = group + 2, *after = behind(group);
    int in = begins(inside, p + s->pos, n - s->pos);
    int out = begins(after, p + s->pos, n - s->pos);
    if (in == 1 || out == 1 || (!*after && in == 0)) {
        s->at = in == 1 ? inside : after;
        s->whole = s->whole || (in != 1 && group[1] == '(');
        return CALL_DONE;
    }
    return in == -1 || out == -1 ? CALL_MORE : CALL_WRONG;
}

/* The call has been told: what is next is another one. */
static void forget(struct call_scan *s)
{
    s->n_parts = 0;
    s->whole = false;
    s->depth = 0;
    s->in_string = s->escaped = false;
}

static enum call_state scan_one(struct call_scan *s, const char *p, size_t n, bool last)
{
    char c = s->at[0], kind = c == '%' ? s->at[1] : '\0';
    if (c == '~') {
        while (s->pos < n && is_space(p[s->pos]))
            s->pos++;
        if (s->pos == n && !last)
            return CALL_MORE;
        s->at++;
        return CALL_DONE;
    }
    if (c != '%') {
        if (s->pos == n)
            return CALL_MORE;
        if (p[s->pos] != c)
            return CALL_WRONG;
        s->pos++;
        s->at++;
        return CALL_DONE;
    }
    switch (kind) {
    case '[':
        s->at += 2;
        return CALL_DONE;
    case '(':
        return choose(s, s->at, p, n);
    case ')':
        return choose(s, before(s->at), p, n);
    case ']':
        forget(s);
        while (s->pos < n && is_space(p[s->pos]))
            s->pos++;
        return choose(s, before(s->at), p, n);
    case 'n':
        return scan_name(s, p, n, last);
    case 'j':
    case 'o':
    case 'l':
        return scan_json(s, p, n);
    default:
        return scan_until(s, p, n);
    }
}

enum call_state call_scan(struct call_scan *s, const char *p, size_t n, bool last)
{
    for (;;) {
        bool at_call_end = !*s->at || (s->at[0] == '%' && s->at[1] == ']');
        if (at_call_end && s->n_parts && s->whole) {
            s->whole = false; /* told once */
            return CALL_DONE;
        }
        if (!*s->at)
            return CALL_END;
        enum call_state state = scan_one(s, p, n, last);
        if (state == CALL_MORE && last && s->whole) { /* only its end is missing */
            s->pos = n;
            s->at = s->at + strlen(s->at);
            continue;
        }
        if (state == CALL_MORE && last && !s->n_parts && s->at[0] == '%' && s->at[1] == ']') {
            /* no further call has begun, and the end of all may be cut off */
            if (begins(behind(before(s->at)), p + s->pos, n - s->pos) < 0)
                s->pos = n;
            s->at = s->at + strlen(s->at);
            continue;
        }
        if (state != CALL_DONE)
            return state;
    }
}

int call_starts(const char *starts, const char *p, size_t n)
{
    size_t i = 0;
    for (; *starts; starts++) {
        if (*starts == '~') {
            while (i < n && is_space(p[i]))
                i++;
            continue;
        }
        if (i == n)
            return -1;
        if (p[i++] != *starts)
            return 0;
    }
    return 1;
}
