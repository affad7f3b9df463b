/*
 * written: answers as a model wrote them, in place of how its template would.
 *
 * Two texts may say the same: a template has its own white space around reasoning and calls,
 * its own order of members, and drops what is odd. What the model wrote is what its session
 * holds. So where a template writes a message behind the very prompt that was answered, and
 * what it writes is read as the same reasoning, text and calls as the ids of the message, the
 * ids stand there. Control tokens that are no mark of the syntax must be the template's too,
 * one by one: nothing that a model was talked into becomes one.
 */
#include <stdlib.h>
#include <string.h>

#include "text/jinja/jinja.h"
#include "text/text_internal.h"

enum { SAID_TEXT, SAID_REASONING };

/* What a text says. */
struct said {
    const struct text *t;
    struct call_reader *reader;
    char *part[2]; /* text and reasoning, each with room for all */
    size_t n[2];
    struct text_ids control; /* tokens that are no marks of the syntax */
};

static void end_said(struct said *s)
{
    call_reader_free(s->reader);
    free(s->part[SAID_TEXT]);
    free(s->part[SAID_REASONING]);
    text_ids_free(&s->control);
}

/* room: most bytes that will be put. */
static int begin_said(const struct text *t, struct str prompt, size_t room, struct said *s)
{
    struct call_form f = {.row = chat_calls(t), .prompt = prompt};
    size_t all = prompt.n + room + 1; /* what the prompt began is told, too */
    chat_thinking_marks(t, &f.begins, &f.ends);
    *s = (struct said){.t = t,
                       .reader = call_reader_new(&f),
                       .part = {malloc(all), malloc(all)}};
    return s->reader && s->part[0] && s->part[1] ? OK : E_NOMEM;
}

static int drain(struct said *s)
{
    struct call_event ev;
    do {
        TRY(call_reader_next(s->reader, &ev));
        int which = ev.kind == CALL_EV_REASONING ? SAID_REASONING : SAID_TEXT;
        if (ev.kind != CALL_EV_TEXT && ev.kind != CALL_EV_REASONING)
            continue;
        memcpy(s->part[which] + s->n[which], ev.text.p, ev.text.n);
        s->n[which] += ev.text.n;
    } while (ev.kind != CALL_EV_NONE);
    return OK;
}

static int say(struct said *s, const char *p, size_t n)
{
    TRY(call_reader_put(s->reader, p, n));
    return drain(s);
}

/* As sluice_answer_put does it. */
static int say_token(struct said *s, int32_t id)
{
    struct str all, plain;
    text_piece(s->t, id, true, &all);
    text_piece(s->t, id, false, &plain);
    if (plain.n)
        return say(s, plain.p, plain.n);
    return call_reader_wants(s->reader, all) ? say(s, all.p, all.n)
                                             : push_id(&s->control, id, NULL);
}

static int end(struct said *s)
{
    call_reader_end(s->reader);
    return drain(s);
}

/* The next special token that the template wrote, from *at on and before `end`: *at is where;
 * -1: there is none. */
static int32_t next_token(const struct text *t, const struct jbuf *b, size_t *at, size_t end)
{
    size_t own = *at; /* the bytes from *at to here are the template's */
    for (; *at < end; ++*at) {
        own = MAX(own, *at);
        while (own < end && b->own[own])
            own++;
        int32_t id = own > *at ? vocab_special(t, b->p + *at, own - *at) : -1;
        if (id >= 0)
            return id;
    }
    return -1;
}

/* Where what ends a generation stands, or the text does. */
static size_t find_end(const struct text *t, const struct jbuf *b, size_t at)
{
    int32_t id;
    while ((id = next_token(t, b, &at, b->n)) >= 0 && !text_is_eog(t, id))
        at += text_sym(t, id).n;
    return at;
}

static int say_rendered(struct said *s, const struct jbuf *b, size_t at, size_t stop)
{
    size_t from = at;
    int32_t id;
    while ((id = next_token(s->t, b, &at, stop)) >= 0) {
        TRY(say(s, b->p + from, at - from));
        TRY(say_token(s, id));
        from = at += text_sym(s->t, id).n;
    }
    TRY(say(s, b->p + from, stop - from));
    return end(s);
}

static int say_ids(struct said *s, const struct chat_message *m)
{
    for (int64_t i = 0; i < m->n_ids; i++)
        TRY(say_token(s, m->ids[i]));
    return end(s);
}

static struct str trimmed(const char *p, size_t n)
{
    while (n && strchr(" \t\r\n", p[n - 1]) && p[n - 1])
        n--;
    while (n && strchr(" \t\r\n", *p) && *p) {
        p++;
        n--;
    }
    return (struct str){p, n};
}

static bool same(const struct said *a, const struct said *b)
{
    const struct call_list *c = call_reader_calls(a->reader), *d = call_reader_calls(b->reader);
    bool is = c->n == d->n && a->control.n == b->control.n;
    for (int i = 0; is && i < 2; i++) {
        struct str x = trimmed(a->part[i], a->n[i]), y = trimmed(b->part[i], b->n[i]);
        is = x.n == y.n && !memcmp(x.p, y.p, x.n);
    }
    for (int64_t i = 0; is && i < a->control.n; i++)
        is = a->control.id[i] == b->control.id[i];
    for (size_t i = 0; is && i < c->n; i++) {
        struct str x = {c->v[i].arguments, strlen(c->v[i].arguments)};
        struct str y = {d->v[i].arguments, strlen(d->v[i].arguments)};
        is = !strcmp(c->v[i].name, d->v[i].name) && call_same_json(x, y);
    }
    return is;
}

int written_find(const struct text *t, const struct jbuf *b, size_t begin,
                 const struct chat_message *m, struct written *out)
{
    enum { TAIL = 256 };
    struct said template = {0}, model = {0};
    size_t own = 0, n_text = 0;
    while (own < TAIL && own < begin && b->own[begin - 1 - own])
        own++;
    for (int64_t i = 0; i < m->n_ids; i++) {
        struct str piece;
        text_piece(t, m->ids[i], true, &piece);
        n_text += piece.n;
    }
    struct str prompt = {b->p + begin - own, own};
    size_t stop = find_end(t, b, begin);
    *out = (struct written){begin, stop, m->ids, m->n_ids, n_text};
    int rc = begin_said(t, prompt, stop - begin, &template);
    if (rc == OK)
        rc = begin_said(t, prompt, n_text, &model);
    if (rc == OK)
        rc = say_rendered(&template, b, begin, stop);
    if (rc == OK)
        rc = say_ids(&model, m);
    if (rc == OK)
        rc = same(&template, &model);
    end_said(&template);
    end_said(&model);
    return rc;
}
