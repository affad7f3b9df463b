/*
 * find: where calls that are known stand in a text. What looks like a call and is none may be
 * read again and again; there is a limit to that, beyond which nothing is found.
 */
#include <stdlib.h>
#include <string.h>

#include "text/calls/calls.h"

enum { AGAIN = 64 << 10, AGAIN_TIMES = 8 }; /* bytes read, and so many times the text */

void call_place_free(struct call_place *c)
{
    free(c->part);
    *c = (struct call_place){0};
}

static bool keep_parts(struct call_place *c, const struct call_scan *s, size_t base)
{
    size_t n = c->n_parts + s->n_parts;
    struct call_part *part = realloc(c->part, (n ? n : 1) * sizeof *part);
    if (!part)
        return false;
    c->part = part;
    for (size_t i = 0; i < s->n_parts; i++) {
        part[c->n_parts] = s->part[i];
        part[c->n_parts++].at += base;
    }
    return true;
}

/* Reads what may be calls at `at`, to where they end; 0: there is none. */
static size_t read_here(const struct call_row *row, struct str text, size_t at,
                        struct call_list *calls, struct call_place *c)
{
    struct call_scan s = {.at = row->pattern};
    const char *p = text.p + at;
    size_t n = MIN(text.n - at, (size_t)CALLS_MOST), before = calls->n, end = 0;
    enum call_state state = CALL_NAMED;
    while (state == CALL_NAMED || state == CALL_DONE) {
        state = call_scan(&s, p, n, n == text.n - at);
        if (state == CALL_DONE &&
            (call_decode(row, s.part, s.n_parts, p, (struct str){"", 0}, calls, NULL) < 0 ||
             !keep_parts(c, &s, at)))
            state = CALL_WRONG;
    }
    if (state == CALL_END && calls->n > before)
        end = at + s.pos;
    c->left -= (int64_t)MAX(s.pos, s.seen);
    free(s.part);
    return end;
}

/* Whether the calls are, as far as they go, those that are looked for. */
static bool are_those(const struct call_list *got, const struct call *want, size_t n)
{
    bool same = got->n <= n;
    for (size_t i = 0; same && i < got->n; i++) {
        struct str a = {got->v[i].arguments, strlen(got->v[i].arguments)};
        struct str b = {want[i].arguments, strlen(want[i].arguments)};
        same = !strcmp(got->v[i].name, want[i].name) && call_same_json(a, b);
    }
    return same;
}

/* The next place at or behind `at` where calls may begin; text.n: there is none. */
static size_t next_mark(const struct call_row *row, struct str text, const uint8_t *own, size_t at)
{
    const char *starts = row->starts ? row->starts : row->pattern;
    size_t n = strcspn(starts, "%~");
    for (; at < text.n; at++) {
        const char *p = memmem(text.p + at, text.n - at, starts, n);
        if (!p)
            break;
        at = (size_t)(p - text.p);
        if ((!own || own[at]) && (!row->starts || call_starts(starts, p, text.n - at) == 1))
            return at;
    }
    return text.n;
}

static bool only_space(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && p[i] && strchr(" \t\r\n", p[i]))
        i++;
    return i == n;
}

/* From a mark on: all of the calls, with white space between them. */
static bool read_all(const struct call_row *row, struct str text, const uint8_t *own, size_t at,
                     const struct call *want, size_t n, struct call_place *c)
{
    struct call_list got = {0};
    bool is = true;
    c->begin = at;
    c->n_parts = 0;
    while (is && got.n < n) {
        size_t end = read_here(row, text, at, &got, c);
        is = end && are_those(&got, want, n);
        c->end = end;
        if (is && got.n < n) {
            at = next_mark(row, text, own, end);
            is = at < text.n && only_space(text.p + end, at - end);
        }
    }
    call_list_free(&got);
    return is;
}

bool call_find(const struct call_row *row, struct str text, const uint8_t *own, size_t from,
               const struct call *want, size_t n, struct call_place *c)
{
    if (!row->pattern || !n)
        return false;
    c->left = AGAIN + (int64_t)text.n * AGAIN_TIMES;
    for (size_t at = from; c->left > 0 && (at = next_mark(row, text, own, at)) < text.n; at++)
        if (read_all(row, text, own, at, want, n, c))
            return true;
    return false;
}
