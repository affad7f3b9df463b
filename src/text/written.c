/*
 * written: calls as a model wrote them, in place of how its template would.
 *
 * Two texts may say the same call: a template has its own white space, and its own order of
 * members. What the model wrote is what its session holds, so that goes into the rendered
 * conversation, if both say exactly the calls of the message. What the syntax has is the
 * template's own then, and what stands in its parts is not.
 */
#include <stdlib.h>
#include <string.h>

#include "text/jinja/jinja.h"
#include "text/text_internal.h"

struct place {
    struct call_place rendered, written;
    const struct chat_message *m;
};

static size_t space_before(const char *p, size_t at)
{
    size_t n = 0;
    while (n < at && strchr(" \t\r\n", p[at - 1 - n]) && p[at - 1 - n])
        n++;
    return n;
}

/* Behind a text the white space in front of the calls is part of what was written. */
static void take_space(struct place *x, struct str text)
{
    const char *content = x->m->content, *w = x->m->written;
    size_t n = strlen(content);
    n -= space_before(content, n);
    size_t a = x->rendered.begin, b = x->written.begin;
    a -= space_before(text.p, a);
    b -= space_before(w, b);
    if (!n || a < n || b < n || memcmp(text.p + a - n, content, n) || memcmp(w + b - n, content, n))
        return;
    x->rendered.begin = a;
    x->written.begin = b;
}

static bool find(const struct call_row *row, const struct jbuf *b, size_t from, struct place *x)
{
    const struct chat_message *m = x->m;
    struct str text = {b->p, b->n}, written = {m->written, strlen(m->written)};
    struct call *want = calloc(m->n_calls, sizeof *want);
    bool is = want != NULL;
    for (size_t i = 0; is && i < m->n_calls; i++) /* borrowed, and only looked at */
        want[i] = (struct call){.name = (char *)(uintptr_t)m->calls[i].name,
                                .arguments = (char *)(uintptr_t)m->calls[i].arguments};
    is = is && call_find(row, written, NULL, 0, want, m->n_calls, &x->written) &&
         call_find(row, text, b->own, from, want, m->n_calls, &x->rendered);
    free(want);
    if (is)
        take_space(x, text);
    return is;
}

static void copy(struct jbuf *out, const char *p, const uint8_t *own, size_t n)
{
    if (!n)
        return;
    memcpy(out->p + out->n, p, n);
    if (own)
        memcpy(out->own + out->n, own, n);
    else
        memset(out->own + out->n, true, n);
    out->n += n;
}

static void copy_written(struct jbuf *out, const struct place *x)
{
    const struct call_place *w = &x->written;
    size_t at = out->n;
    copy(out, x->m->written + w->begin, NULL, w->end - w->begin);
    for (size_t i = 0; i < w->n_parts; i++)
        memset(out->own + at + w->part[i].at - w->begin, false, w->part[i].n);
}

int written_put(const struct call_row *row, const struct chat_message *m, size_t n,
                const struct jbuf *b, struct jbuf *out)
{
    size_t room = b->n + 1, from = 0;
    for (size_t i = 0; i < n; i++)
        room += m[i].written ? strlen(m[i].written) : 0;
    *out = (struct jbuf){.p = malloc(room), .own = malloc(room), .cap = room};
    if (!out->p || !out->own) {
        written_free(out);
        return E_NOMEM;
    }
    for (size_t i = 0; row && i < n; i++) {
        struct place x = {.m = &m[i]};
        if (m[i].written && m[i].n_calls && find(row, b, from, &x)) {
            copy(out, b->p + from, b->own + from, x.rendered.begin - from);
            copy_written(out, &x);
            from = x.rendered.end;
        }
        call_place_free(&x.rendered);
        call_place_free(&x.written);
    }
    copy(out, b->p + from, b->own + from, b->n - from);
    return OK;
}

void written_free(struct jbuf *out)
{
    free(out->p);
    free(out->own);
    *out = (struct jbuf){0};
}
