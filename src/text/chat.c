/*
 * chat: a conversation -> segments, by running the model's chat template
 * (src/text/jinja).
 *
 * A segment is either one special token, or all the text up to the next one: the
 * template's own words and the contents between two tokens are tokenised together,
 * as they are where the rendered text is tokenised as a whole. Only bytes that the
 * template wrote are looked at for special tokens. Contents stay text: what spells
 * a token in them, or together with what stands beside them, is none.
 *
 * What follows from a template is found by running it: which segments later turns
 * leave as they are (n_stable), here; and what it is like (probe.c).
 */
#include <stdlib.h>
#include <string.h>

#include "text/jinja/jinja.h"
#include "text/text_internal.h"

/* Of a file without a template. */
static const char chatml[] =
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + "
    "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% endif %}";

/* ---- one rendering ---- */

struct job {
    const struct text *t;
    const struct chat_request *q;
    const struct chat_message *more; /* behind those of the request */
    size_t n_more;
    bool prompt;
    enum chat_arguments arguments; /* of calls, as they are given to the template */
    size_t held;     /* of the request's memory, by others */
    int64_t n_steps; /* that it took */
    struct jbuf out;
};

static struct jval calls_value(struct jinja *j, const struct chat_message *m)
{
    struct jval list = jlist_new(j, m->n_calls);
    for (size_t i = 0; i < m->n_calls; i++) {
        const struct chat_call *c = &m->calls[i];
        struct jval one = jdict_new(j), function = jdict_new(j);
        jdict_set_c(j, function.dict, "name", jstring_c(j, c->name));
        jdict_set_c(j, function.dict, "arguments", jstring_c(j, c->arguments));
        jdict_set_c(j, one.dict, "type", jstring_c(j, "function"));
        if (c->id && c->id[0])
            jdict_set_c(j, one.dict, "id", jstring_c(j, c->id));
        jdict_set_c(j, one.dict, "function", function);
        jlist_add(j, list.list, one);
    }
    return list;
}

static struct jval message_value(struct jinja *j, const struct chat_message *m)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    struct jval v = jdict_new(j);
    jdict_set_c(j, v.dict, "role", jstring_c(j, roles[m->role]));
    jdict_set_c(j, v.dict, "content", jstring_c(j, m->content));
    if (m->reasoning && m->role == CHAT_ASSISTANT)
        jdict_set_c(j, v.dict, "reasoning_content", jstring_c(j, m->reasoning));
    if (m->n_calls && m->role == CHAT_ASSISTANT)
        jdict_set_c(j, v.dict, "tool_calls", calls_value(j, m));
    if (m->name && m->role == CHAT_TOOL)
        jdict_set_c(j, v.dict, "name", jstring_c(j, m->name));
    if (m->call_id && m->role == CHAT_TOOL)
        jdict_set_c(j, v.dict, "tool_call_id", jstring_c(j, m->call_id));
    return v;
}

static _Noreturn void refuse(struct jinja *j, const char *what)
{
    j->status = E_ARG;
    err_set(j->e, E_ARG, "%s", what);
    longjmp(j->failed, 1);
}

/* OpenAI's API has the arguments of a call as a text; many templates want an object, and some
 * the text. What is an object already, or text, and what a template takes either way, stays.
 * An object keeps the text that it was, and is written as that. */
static void fit_arguments(struct jinja *j, const struct job *b, struct jval message)
{
    static const struct json_form form = {0};
    struct jval calls = jattr(j, message, jstring_c(j, "tool_calls").s);
    for (size_t i = 0; calls.type == J_LIST && i < calls.list->n; i++) {
        struct jval function = jattr(j, calls.list->v[i], jstring_c(j, "function").s);
        struct jval v = jattr(j, function, jstring_c(j, "arguments").s);
        struct jbuf text = {0};
        if (function.type != J_DICT)
            continue;
        if (b->arguments == ARGUMENTS_OBJECT && v.type == J_STRING) {
            jdict_set_c(j, function.dict, "arguments",
                        jjson_keep(j, (struct str){v.s->p, v.s->n}, "the arguments of a call"));
        } else if (b->arguments == ARGUMENTS_TEXT && v.type == J_DICT) {
            json_write(j, &text, v, &form);
            jdict_set_c(j, function.dict, "arguments", jstring_of(j, &text));
        }
    }
}

/* As OpenAI's API has them, or without the shell {"type": "function", "function": ...}; or
 * there are none. */
static void check_tools(struct jinja *j, struct jval tools)
{
    if (tools.type == J_NONE || tools.type == J_UNDEFINED)
        return;
    if (tools.type != J_LIST)
        refuse(j, "the tools are no list");
    for (size_t i = 0; i < tools.list->n; i++) {
        struct jval tool = tools.list->v[i], f = jattr(j, tool, jstring_c(j, "function").s);
        struct jval name = jattr(j, f.type == J_DICT ? f : tool, jstring_c(j, "name").s);
        if (tool.type != J_DICT || name.type != J_STRING || !name.s->n)
            refuse(j, "a tool is no object with a \"function\" that has a \"name\"");
    }
}

/* {"messages": [...], ...}, of a list of messages or as it stands. */
static struct jval read_conversation(struct jinja *j, const struct job *b)
{
    struct jval v = jjson_read(j, b->q->json, "the conversation"), list = v, role;
    if (v.type == J_LIST) {
        v = jdict_new(j);
        jdict_set_c(j, v.dict, "messages", list);
    } else if (v.type == J_DICT) {
        list = jattr(j, v, jstring_c(j, "messages").s);
    }
    if (list.type != J_LIST)
        refuse(j, "the conversation is neither a list of messages nor {\"messages\": [...]}");
    for (size_t i = 0; i < list.list->n; i++) {
        struct jval m = list.list->v[i];
        role = m.type == J_DICT ? jattr(j, m, jstring_c(j, "role").s) : m;
        if (role.type != J_STRING || !role.s->n)
            refuse(j, "a message of the conversation is no object with a \"role\"");
        fit_arguments(j, b, m);
    }
    if (!list.list->n)
        refuse(j, "a conversation needs at least one message");
    check_tools(j, jattr(j, v, jstring_c(j, "tools").s));
    return v;
}

/* Unless the conversation has a member of that name. */
static void set_usual(struct jinja *j, struct jdict *globals, const char *name, struct jval v)
{
    if (!jdict_get(j, globals, jstring_c(j, name)))
        jdict_set_c(j, globals, name, v);
}

static struct jval read_tools(struct jinja *j, struct str json)
{
    struct jval list = jjson_read(j, json, "the tools");
    check_tools(j, list);
    return list;
}

static struct jval token_value(struct jinja *j, const struct text *t, int32_t id)
{
    struct str s = id < 0 ? (struct str){"", 0} : text_sym(t, id);
    return jstring(j, s.p, s.n, true);
}

static void work(struct jinja *j, void *user)
{
    struct job *b = user;
    const struct chat_request *q = b->q;
    struct jval globals, messages;
    if (q->json.p) {
        globals = read_conversation(j, b);
        messages = jattr(j, globals, jstring_c(j, "messages").s);
    } else {
        globals = jdict_new(j);
        messages = jlist_new(j, q->n + b->n_more);
        for (size_t i = 0; i < q->n; i++) {
            jlist_add(j, messages.list, message_value(j, &q->messages[i]));
            fit_arguments(j, b, messages.list->v[i]);
        }
        jdict_set_c(j, globals.dict, "messages", messages);
        if (q->tools.n)
            jdict_set_c(j, globals.dict, "tools", read_tools(j, q->tools));
    }
    for (size_t i = 0; i < b->n_more; i++)
        jlist_add(j, messages.list, message_value(j, &b->more[i]));
    set_usual(j, globals.dict, "bos_token", token_value(j, b->t, b->t->bos));
    set_usual(j, globals.dict, "eos_token", token_value(j, b->t, b->t->eos));
    set_usual(j, globals.dict, "add_generation_prompt", jbool(true));
    if (!b->prompt)
        jdict_set_c(j, globals.dict, "add_generation_prompt", jbool(false));
    struct jval more = jattr(j, globals, jstring_c(j, "chat_template_kwargs").s);
    for (size_t i = 0; more.type == J_DICT && i < more.dict->n; i++)
        jdict_set(j, globals.dict, more.dict->e[i].key, more.dict->e[i].value);
    if (q->think >= 0) {
        jdict_set_c(j, globals.dict, "enable_thinking", jbool(q->think));
        jdict_set_c(j, globals.dict, "thinking", jbool(q->think));
    }
    jglobals(j, globals.dict);
    jdict_set_c(j, globals.dict, "messages", messages);
    jinja_render(j, b->t->chat.source, globals.dict, &b->out);
}

/* Renders; the text is in b->out until jinja_end, which is due whatever is returned. */
static int run(struct job *b, struct jinja *j, struct err *e)
{
    struct jinja_limits most = jinja_usual;
    if (b->q->most_steps)
        most.steps = b->q->most_steps;
    if (b->q->most_bytes)
        most.bytes = MIN(most.bytes, b->q->most_bytes - MIN(b->held, b->q->most_bytes));
    b->out = (struct jbuf){0};
    int rc = jinja_run(j, &most, b->q->now, work, b, e);
    b->n_steps = j->n_steps;
    return rc;
}

static void raw_free(struct jbuf *raw)
{
    free(raw->p);
    free(raw->own);
    *raw = (struct jbuf){0};
}

static int raw_copy(const struct jbuf *from, struct jbuf *raw, struct err *e)
{
    *raw = (struct jbuf){.p = malloc(from->n + 1), .own = malloc(from->n + 1), .n = from->n};
    if (!raw->p || !raw->own) {
        raw_free(raw);
        return err_set(e, E_NOMEM, "no memory to render %zu bytes of chat", from->n);
    }
    if (from->n) {
        memcpy(raw->p, from->p, from->n);
        memcpy(raw->own, from->own, from->n);
    }
    return OK;
}

/* What the template writes, to be freed with raw_free; nothing else is held then. */
static int render(struct job *b, struct jbuf *raw, struct err *e)
{
    struct jinja j;
    static const enum chat_arguments ways[] = {ARGUMENTS_OBJECT, ARGUMENTS_TEXT};
    struct err why = {0}, again = {0};
    const bool tries = b->arguments == ARGUMENTS_UNKNOWN || b->arguments == ARGUMENTS_AS_GIVEN;
    int rc = run(b, &j, &why);
    for (size_t i = 0; rc == E_UNSUPPORTED && tries && i < ARRAY_LEN(ways); i++) {
        struct job other = *b;
        other.arguments = ways[i];
        jinja_end(&j);
        rc = run(&other, &j, &again) == OK ? OK : rc;
        b->out = other.out;
        b->n_steps += other.n_steps;
        b->arguments = rc == OK ? ways[i] : b->arguments;
    }
    if (rc < 0)
        err_set(e, rc, "%s", why.text);
    if (rc == OK)
        rc = raw_copy(&b->out, raw, e);
    jinja_end(&j);
    return rc;
}

/* ---- answers as they were written ---- */

struct answers {
    struct written *v;
    size_t n;
};

static size_t common_raw(const struct jbuf *a, const struct jbuf *b)
{
    size_t n = MIN(a->n, b->n), i = 0;
    while (i < n && a->p[i] == b->p[i] && a->own[i] == b->own[i])
        i++;
    return i;
}

/* Where what the model was given to write the i-th message ends in raw; 0: that does not begin
 * so. Whose the bytes are does not matter: a prompt has "assistant" from the template, and later
 * from the message. *steps: that may still be taken. */
static int find_prompt(const struct job *job, const struct jbuf *raw, size_t i, int64_t *steps,
                       size_t *at, struct err *e)
{
    struct chat_request shorter = *job->q;
    struct job one = *job;
    struct jbuf before = {0};
    struct err why = {0};
    shorter.n = i;
    shorter.most_steps = *steps;
    one.q = &shorter;
    one.n_more = 0;
    one.prompt = true;
    one.held = 2 * raw->n;
    *at = 0;
    int rc = render(&one, &before, &why);
    *steps -= one.n_steps;
    if (rc == E_BUDGET || rc == E_NOMEM)
        return err_set(e, rc, "%s", why.text);
    if (rc == OK && before.n <= raw->n && !memcmp(raw->p, before.p, before.n))
        *at = before.n;
    raw_free(&before);
    return OK;
}

/* The answers in raw that stand as the models wrote them. What a message was an answer to is
 * rendered again, the earliest first, as long as that takes no more than STEPS: what is left
 * then is as the template writes it. */
static int find_answers(const struct job *job, const struct jbuf *raw, struct answers *all,
                        struct err *e)
{
    enum { STEPS = 20000000 };
    const struct chat_request *q = job->q;
    int64_t steps = STEPS;
    size_t n = q->json.p ? 0 : q->n, at = 0;
    for (size_t i = 1; i < n && steps > 0; i++) {
        const struct chat_message *m = &q->messages[i];
        if (m->role != CHAT_ASSISTANT || !m->ids || !m->n_ids)
            continue;
        if (!all->v)
            all->v = malloc((n - i) * sizeof *all->v);
        if (!all->v)
            return err_set(e, E_NOMEM, "no memory for %zu answers", n - i);
        TRY(find_prompt(job, raw, i, &steps, &at, e));
        int is = at ? written_find(job->t, raw, at, m, &all->v[all->n]) : 0;
        if (is < 0)
            return err_set(e, is, "no memory for an answer of %lld tokens", (long long)m->n_ids);
        all->n += is > 0;
    }
    return OK;
}

/* ---- text -> segments ---- */

static struct text_segment *add_segment(struct chat_render *r)
{
    if (r->n_segs == r->cap_segs) {
        size_t cap = r->cap_segs * 2 + 16;
        struct text_segment *segs = realloc(r->segs, cap * sizeof *segs);
        if (!segs)
            return NULL;
        r->segs = segs;
        r->cap_segs = cap;
    }
    return &r->segs[r->n_segs++];
}

/* Adds n bytes to the last segment, or as a new one. */
static int add(struct chat_render *r, const char *p, size_t n, bool markup)
{
    struct text_segment *last = r->n_segs ? &r->segs[r->n_segs - 1] : NULL;
    if (!n)
        return OK;
    if (!last || markup || last->markup || last->ids) {
        last = add_segment(r);
        if (!last)
            return E_NOMEM;
        *last = (struct text_segment){.p = p, .markup = markup};
    }
    last->n += n;
    return OK;
}

/* How many of the bytes from `at` to `end` are the template's own. */
static size_t own_run(const struct jbuf *b, size_t at, size_t end)
{
    const uint8_t *other = memchr(b->own + at, false, end - at);
    return other ? (size_t)(other - b->own) - at : end - at;
}

/* The bytes from `from` to `to`, which go behind r's text. */
static int cut_part(const struct text *t, const struct jbuf *b, size_t from, size_t to,
                    struct chat_render *r)
{
    char *p = r->text + r->n_text;
    size_t n = to - from, begin = 0, i = 0;
    if (n)
        memcpy(p, b->p + from, n);
    r->n_text += n;
    while (i < n) {
        size_t end = i + own_run(b, from + i, to);
        while (i < end) {
            int32_t id = vocab_special(t, p + i, end - i);
            if (id < 0) {
                i++;
                continue;
            }
            size_t k = text_sym(t, id).n;
            TRY(add(r, p + begin, i - begin, false));
            TRY(add(r, p + i, k, true));
            i += k;
            begin = i;
        }
        while (i < n && !b->own[from + i])
            i++;
    }
    return add(r, p + begin, i - begin, false);
}

static int put_answer(const struct text *t, const struct written *w, struct chat_render *r)
{
    struct text_segment *seg = add_segment(r);
    if (!seg)
        return E_NOMEM;
    *seg = (struct text_segment){
        .p = r->text + r->n_text, .n = w->n_text, .ids = w->ids, .n_ids = w->n_ids};
    for (int64_t i = 0; i < w->n_ids; i++) {
        struct str piece;
        text_piece(t, w->ids[i], true, &piece);
        memcpy(r->text + r->n_text, piece.p, piece.n);
        r->n_text += piece.n;
    }
    return OK;
}

/* The segments of b, with answers as they were written. */
static int cut(const struct text *t, const struct jbuf *b, const struct answers *all,
               struct chat_render *r, struct err *e)
{
    size_t from = 0, room = b->n + 1;
    int rc = OK;
    for (size_t i = 0; i < all->n; i++)
        room += all->v[i].n_text;
    r->text = malloc(room);
    if (!r->text)
        return err_set(e, E_NOMEM, "no memory to render %zu bytes of chat", b->n);
    for (size_t i = 0; i < all->n && rc == OK; i++) {
        rc = cut_part(t, b, from, all->v[i].begin, r);
        if (rc == OK)
            rc = put_answer(t, &all->v[i], r);
        from = all->v[i].end;
    }
    if (rc == OK)
        rc = cut_part(t, b, from, b->n, r);
    r->text[r->n_text] = '\0';
    return rc < 0 ? err_set(e, rc, "no memory to render %zu bytes of chat", b->n) : OK;
}

/* ---- what stays ---- */

static bool same_segment(const struct text_segment *a, const struct text_segment *b)
{
    size_t n_ids = a->ids ? (size_t)a->n_ids * sizeof *a->ids : 0;
    return a->markup == b->markup && a->n == b->n && !memcmp(a->p, b->p, a->n) &&
           !a->ids == !b->ids && a->n_ids == b->n_ids &&
           (!n_ids || !memcmp(a->ids, b->ids, n_ids));
}

static size_t common(const struct chat_render *a, const struct chat_render *b, size_t n)
{
    size_t i = 0;
    n = MIN(n, b->n_segs);
    while (i < n && same_segment(&a->segs[i], &b->segs[i]))
        i++;
    return i;
}

/* How many segments of r, which is of raw, are the same when the conversation goes on so;
 * E_ARG: the template refuses that. */
static int stays(const struct job *job, const struct jbuf *raw, const struct answers *all,
                 const struct chat_render *r, size_t *n, struct err *e)
{
    struct job one = *job;
    struct jbuf other = {0};
    struct chat_render later = {0};
    struct answers both = *all;
    one.prompt = false;
    one.held = 2 * raw->n;
    TRY(render(&one, &other, e));
    size_t same = common_raw(raw, &other);
    while (both.n && both.v[both.n - 1].end > same) /* behind that all differs */
        both.n--;
    int rc = cut(job->t, &other, &both, &later, e);
    if (rc == OK)
        *n = common(r, &later, *n);
    chat_render_free(&later);
    raw_free(&other);
    return rc;
}

/* r->n_stable: the segments that are the same without the prompt, and in every way in
 * which the conversation may go on that the template accepts. */
static int find_stable(const struct job *job, const struct jbuf *raw, const struct answers *all,
                       struct chat_render *r, struct err *e)
{
    static const struct chat_message more[] = {
        {.role = CHAT_USER, .content = "?"},
        {.role = CHAT_ASSISTANT, .content = "!"},
        {.role = CHAT_USER, .content = "?"},
        {.role = CHAT_ASSISTANT, .content = "!", .reasoning = "."},
        {.role = CHAT_USER, .content = "?"},
    };
    static const struct {
        size_t first, n;
    } ways[] = {{0, 0}, {0, 1}, {1, 2}, {3, 2}};
    size_t n = r->n_segs;
    bool known = false;
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        struct job one = *job;
        struct err why = {0};
        one.more = more + ways[i].first;
        one.n_more = ways[i].n;
        int rc = stays(&one, raw, all, r, &n, &why);
        if (rc == E_BUDGET || rc == E_NOMEM)
            return err_set(e, rc, "%s", why.text);
        known = known || (rc == OK && i > 0);
    }
    r->n_stable = known ? n : 0;
    return OK;
}

/* ---- the interface ---- */

static int check_messages(const struct chat_request *q, struct err *e)
{
    if (!q->n)
        return err_set(e, E_ARG, "a conversation needs at least one message");
    for (size_t i = 0; i < q->n; i++)
        if (!q->messages[i].content || (int)q->messages[i].role < CHAT_SYSTEM ||
            q->messages[i].role > CHAT_TOOL)
            return err_set(e, E_ARG, "message %zu has %s", i,
                           q->messages[i].content ? "an unknown role" : "no content");
    return OK;
}

int chat_render_request(const struct text *t, const struct chat_request *q, struct chat_render *out,
                        struct err *e)
{
    struct job b = {.t = t, .q = q, .prompt = !q->no_prompt, .arguments = t->chat.arguments};
    if (!t->chat.source.n)
        return err_set(e, E_UNSUPPORTED,
                       "the model's chat form is not known (the file has no chat template, and its "
                       "vocabulary lacks <|im_start|>): give one (--chat-template), or write the "
                       "whole prompt yourself and send it as raw text");
    if (!q->json.p)
        TRY(check_messages(q, e));
    struct jbuf raw = {0};
    struct answers all = {0};
    chat_render_free(out);
    TRY(render(&b, &raw, e));
    int rc = find_answers(&b, &raw, &all, e);
    if (rc == OK)
        rc = cut(t, &raw, &all, out, e);
    if (rc == OK)
        rc = find_stable(&b, &raw, &all, out, e);
    if (rc < 0)
        chat_render_free(out);
    raw_free(&raw);
    free(all.v);
    return rc;
}

int chat_render_as(const struct text *t, const struct chat_request *q,
                   enum chat_arguments arguments, struct chat_render *out, struct err *e)
{
    struct job b = {.t = t, .q = q, .prompt = !q->no_prompt, .arguments = arguments};
    const struct answers none = {0};
    struct jbuf raw = {0};
    chat_render_free(out);
    TRY(render(&b, &raw, e));
    int rc = cut(t, &raw, &none, out, e);
    if (rc < 0)
        chat_render_free(out);
    raw_free(&raw);
    return rc;
}

int chat_render(const struct text *t, const struct chat_message *m, size_t n, bool think,
                struct chat_render *out, struct err *e)
{
    const struct chat_request q = {.messages = m, .n = n, .think = think};
    return chat_render_request(t, &q, out, e);
}

void chat_render_free(struct chat_render *r)
{
    free(r->segs);
    free(r->text);
    *r = (struct chat_render){0};
}

bool chat_begins_with_bos(const struct text *t, const struct chat_render *r)
{
    return r->n_segs && r->segs[0].markup && t->bos >= 0 &&
           vocab_special(t, r->segs[0].p, r->segs[0].n) == t->bos;
}

/* ---- the form ---- */

int chat_form_open(struct text *t, struct str chat_template, struct err *e)
{
    static const char start[] = "<|im_start|>", end[] = "<|im_end|>";
    bool is_chatml = vocab_special(t, start, sizeof start - 1) >= 0 &&
                     vocab_special(t, end, sizeof end - 1) >= 0;
    if (!chat_template.n && is_chatml)
        chat_template = (struct str){chatml, sizeof chatml - 1};
    if (!chat_template.n)
        return OK;
    char *copy = malloc(chat_template.n);
    if (!copy)
        return err_set(e, E_NOMEM, "no memory for the chat template");
    memcpy(copy, chat_template.p, chat_template.n);
    t->chat.source = (struct str){copy, chat_template.n};
    chat_probe(t, &t->chat);
    return OK;
}

void chat_form_close(struct text *t)
{
    free((char *)(uintptr_t)t->chat.source.p);
    t->chat.source = (struct str){NULL, 0};
}

bool chat_has_thinking(const struct text *t)
{
    return t->chat.thinking;
}

void chat_thinking_marks(const struct text *t, const char **begins, const char **ends)
{
    *begins = t->chat.begins;
    *ends = t->chat.ends;
}

const struct call_row *chat_calls(const struct text *t)
{
    return t->chat.calls;
}
