/*
 * An answer as it comes -> text, reasoning and calls of tools (src/text/calls), and all of
 * it as a message.
 */
#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

struct bytes { /* always terminated once something was added */
    char *p;
    size_t n, cap;
};

struct sluice_answer {
    sluice *s;               /* whose budget it counts in; NULL: the host's business */
    const struct text *text; /* NULL: no ids */
    int64_t held;            /* bytes that the budget was told of */
    struct call_reader *reader;
    struct bytes content, reasoning; /* as told */
    struct text_ids ids;             /* as put */
    sluice_tool_call told;           /* of the last part */
    sluice_tool_call *calls;         /* of the message */
    size_t n_told;                   /* calls */
};

static size_t grown(size_t n)
{
    return n + n / 2 + 64;
}

static int add(struct bytes *b, struct str s)
{
    if (s.n >= b->cap - b->n) {
        size_t cap = grown(b->n + s.n);
        char *p = realloc(b->p, cap);
        if (!p)
            return E_NOMEM;
        b->p = p;
        b->cap = cap;
    }
    if (s.n)
        memcpy(b->p + b->n, s.p, s.n);
    b->n += s.n;
    b->p[b->n] = '\0';
    return OK;
}

/* ---- beginning ---- */

/* The text of the prompt's last tokens, marks among them. */
static int prompt_end(const struct text *t, const sluice_answer_options *o, struct bytes *out,
                      struct err *e)
{
    enum { LAST = 12 };
    for (int64_t i = MAX(o->n_prompt - LAST, 0); i < o->n_prompt; i++) {
        struct str piece;
        if (text_piece(t, o->prompt[i], true, &piece) < 0)
            return err_set(e, E_ARG, "token id %d of the prompt is outside the vocabulary",
                           o->prompt[i]);
        TRY(add(out, piece));
    }
    return OK;
}

static int find_form(const sluice *s, const sluice_answer_options *o, struct call_form *f,
                     struct err *e)
{
    f->begins = f->ends = "";
    if (s)
        chat_thinking_marks(s->text, &f->begins, &f->ends);
    if (o->thinking_begins && o->thinking_ends) {
        f->begins = o->thinking_begins;
        f->ends = o->thinking_ends;
    }
    if (strlen(f->begins) >= CALLS_MARK || strlen(f->ends) >= CALLS_MARK)
        return err_set(e, E_ARG, "a mark around reasoning has more than %d bytes", CALLS_MARK - 1);
    f->row = s ? chat_calls(s->text) : NULL;
    if (o->calls)
        f->row = call_row_named(o->calls);
    if (o->calls && !f->row)
        return err_set(e, E_ARG, "unknown way to write calls '%s'", o->calls);
    /* The channels of harmony are more than calls. */
    if (!o->tools && f->row && f->row->pattern)
        f->row = NULL;
    f->tools = (struct str){o->tools, o->tools ? o->n_tools_bytes : 0};
    return OK;
}

static int begin(const sluice *s, const sluice_answer_options *o, struct sluice_answer *a,
                 struct err *e)
{
    struct call_form f = {0};
    struct bytes end = {0};
    TRY(check_list("prompt", o->prompt, o->n_prompt, e));
    TRY(find_form(s, o, &f, e));
    int rc = s && o->n_prompt ? prompt_end(s->text, o, &end, e) : OK;
    if (rc == OK) {
        f.prompt = (struct str){end.p, end.n};
        a->s = (sluice *)(uintptr_t)s; /* its plan; what was opened is not touched */
        a->text = s ? s->text : NULL;
        a->reader = call_reader_new(&f);
        bool ok = a->reader && add(&a->content, (struct str){"", 0}) == OK &&
                  add(&a->reasoning, (struct str){"", 0}) == OK;
        rc = ok ? OK : E_NOMEM;
    }
    free(end.p);
    return rc == E_NOMEM ? err_set(e, rc, "no memory to read an answer") : rc;
}

int sluice_answer_new(const sluice *s, const sluice_answer_options *given, sluice_answer **out,
                      sluice_error *err)
{
    struct err *e = err_of(err);
    sluice_answer_options o;
    TRY(sized_options(SIZED_sluice_answer_options, given, &o, e));
    struct sluice_answer *a = calloc(1, sizeof(*a));
    if (!a)
        return err_set(e, E_NOMEM, "no memory to read an answer");
    int rc = begin(s, &o, a, e);
    if (rc < 0)
        sluice_answer_free(a);
    else
        *out = a;
    return rc;
}

void sluice_answer_free(sluice_answer *a)
{
    if (!a)
        return;
    if (a->s)
        (void)budget_answers(a->s, -a->held, NULL);
    call_reader_free(a->reader);
    free(a->content.p);
    free(a->reasoning.p);
    text_ids_free(&a->ids);
    free(a->calls);
    free(a);
}

/* ---- in and out ---- */

/* Counts what the answer may hold when n more bytes have been put and told. */
static int make_room(struct sluice_answer *a, size_t n, struct err *e)
{
    size_t more, all = call_reader_bytes(a->reader, &more);
    more += n;
    all += MAX(a->content.cap, grown(a->content.n + more)) +
           MAX(a->reasoning.cap, grown(a->reasoning.n + more)) + 2 * more +
           grown((size_t)a->ids.cap) * sizeof(*a->ids.id);
    if (!a->s || (int64_t)all <= a->held)
        return OK;
    TRY(budget_answers(a->s, (int64_t)all - a->held, e));
    a->held = (int64_t)all;
    return OK;
}

int sluice_answer_put(sluice_answer *a, int32_t id, const char *text, size_t n_bytes,
                      sluice_error *err)
{
    struct err *e = err_of(err);
    struct str s = {text, n_bytes}, plain = {"", 0}, all = {"", 0};
    if (n_bytes > 0 && !text)
        return err_set(e, E_ARG, "there is no text of %zu bytes", n_bytes);
    if (id >= 0 && a->text) {
        if (text_piece(a->text, id, true, &all) < 0 || text_piece(a->text, id, false, &plain) < 0)
            return err_set(e, E_ARG, "token id %d is outside the vocabulary of %lld", id,
                           (long long)text_n_tokens(a->text));
    }
    TRY(make_room(a, n_bytes ? n_bytes : all.n, e));
    if (id >= 0 && !(a->text && text_is_eog(a->text, id)))
        TRY(push_id(&a->ids, id, e));
    if (!n_bytes && !plain.n && call_reader_wants(a->reader, all))
        s = all; /* a mark that is a control token */
    return call_reader_put(a->reader, s.p, s.n) == OK
               ? OK
               : err_set(e, E_NOMEM, "no memory for %zu bytes of an answer", s.n);
}

void sluice_answer_end(sluice_answer *a)
{
    call_reader_end(a->reader);
}

static sluice_tool_call shown(const struct call *c)
{
    return (sluice_tool_call){.name = c->name, .arguments = c->arguments, .id = c->id};
}

int sluice_answer_next_sized(sluice_answer *a, sluice_part *part, size_t size, sluice_error *err)
{
    static const sluice_part_kind kinds[] = {[CALL_EV_NONE] = SLUICE_PART_NONE,
                                             [CALL_EV_TEXT] = SLUICE_PART_TEXT,
                                             [CALL_EV_REASONING] = SLUICE_PART_REASONING,
                                             [CALL_EV_BEGUN] = SLUICE_PART_CALL_BEGUN,
                                             [CALL_EV_CALL] = SLUICE_PART_CALL};
    struct err *e = err_of(err);
    struct call_event ev;
    TRY(sized_check(SIZED_sluice_part, size, e));
    int rc = call_reader_next(a->reader, &ev);
    if (rc == OK && ev.kind == CALL_EV_TEXT)
        rc = add(&a->content, ev.text);
    if (rc == OK && ev.kind == CALL_EV_REASONING)
        rc = add(&a->reasoning, ev.text);
    if (rc < 0)
        return err_set(e, rc, "no memory for an answer");
    sluice_part p = {.text = ev.text.p, .n_bytes = ev.text.n, .kind = kinds[ev.kind]};
    if (ev.kind == CALL_EV_CALL) {
        a->told = shown(ev.call);
        a->n_told++;
        p.call = &a->told;
    }
    sized_give(SIZED_sluice_part, &p, part, size);
    return (int)p.kind;
}

int sluice_answer_message_sized(sluice_answer *a, sluice_message *out, size_t size,
                                sluice_error *err)
{
    struct err *e = err_of(err);
    const struct call_list *all = call_reader_calls(a->reader);
    TRY(sized_check(SIZED_sluice_message, size, e));
    sluice_tool_call *calls = realloc(a->calls, (a->n_told + 1) * sizeof(*calls));
    if (!calls)
        return err_set(e, E_NOMEM, "no memory for %zu calls", a->n_told);
    a->calls = calls;
    for (size_t i = 0; i < a->n_told; i++)
        calls[i] = shown(&all->v[i]);
    const sluice_message m = {.role = "assistant",
                              .content = a->content.p,
                              .reasoning = a->reasoning.p,
                              .calls = calls,
                              .n_calls = a->n_told,
                              .ids = a->ids.id,
                              .n_ids = a->ids.n};
    sized_give(SIZED_sluice_message, &m, out, size);
    return OK;
}
