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

/* {"messages": [...], ...}, of a list of messages or as it stands. */
static struct jval read_conversation(struct jinja *j, const struct job *b)
{
    struct jval v = jjson_read(j, b->q->json, "the conversation"), list = v;
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
        if (m.type != J_DICT || jattr(j, m, jstring_c(j, "role").s).type != J_STRING)
            refuse(j, "a message of the conversation is no object with a \"role\"");
        fit_arguments(j, b, m);
    }
    if (!list.list->n)
        refuse(j, "a conversation needs at least one message");
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
    if (list.type != J_LIST)
        refuse(j, "the tools are no list");
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
        most.bytes = MIN(most.bytes, b->q->most_bytes);
    b->out = (struct jbuf){0};
    return jinja_run(j, &most, b->q->now, work, b, e);
}

/* ---- text -> segments ---- */

/* Adds n bytes to the last segment, or as a new one. */
static int add(struct chat_render *r, const char *p, size_t n, bool markup)
{
    bool joins = r->n_segs && !markup && !r->segs[r->n_segs - 1].markup;
    if (!n)
        return OK;
    if (!joins && r->n_segs == r->cap_segs) {
        size_t cap = r->cap_segs * 2 + 16;
        struct text_segment *segs = realloc(r->segs, cap * sizeof *segs);
        if (!segs)
            return E_NOMEM;
        r->segs = segs;
        r->cap_segs = cap;
    }
    if (!joins)
        r->segs[r->n_segs++] = (struct text_segment){p, 0, markup};
    r->segs[r->n_segs - 1].n += n;
    return OK;
}

/* How many of the bytes from `at` on are the template's own. */
static size_t own_run(const struct jbuf *b, size_t at)
{
    const uint8_t *end = memchr(b->own + at, false, b->n - at);
    return end ? (size_t)(end - b->own) - at : b->n - at;
}

static int cut(const struct text *t, const struct jbuf *b, struct chat_render *r)
{
    size_t begin = 0, i = 0;
    r->text = malloc(b->n + 1);
    if (!r->text)
        return E_NOMEM;
    if (b->n)
        memcpy(r->text, b->p, b->n);
    r->text[b->n] = '\0';
    r->n_text = b->n;
    while (i < b->n) {
        size_t own = own_run(b, i), end = i + own;
        while (i < end) {
            int32_t id = vocab_special(t, r->text + i, end - i);
            if (id < 0) {
                i++;
                continue;
            }
            size_t n = text_sym(t, id).n;
            TRY(add(r, r->text + begin, i - begin, false));
            TRY(add(r, r->text + i, n, true));
            i += n;
            begin = i;
        }
        while (i < b->n && !b->own[i])
            i++;
    }
    return add(r, r->text + begin, i - begin, false);
}

/* The same of what a job gave, with calls as they were written. */
static int cut_written(const struct job *b, struct chat_render *r)
{
    const struct chat_request *q = b->q;
    bool any = false;
    struct jbuf out;
    for (size_t i = 0; i < q->n; i++)
        any = any || q->messages[i].written;
    if (!any)
        return cut(b->t, &b->out, r);
    TRY(written_put(b->t->chat.calls, q->messages, q->n, &b->out, &out));
    int rc = cut(b->t, &out, r);
    written_free(&out);
    return rc;
}

static int render(struct job *b, struct chat_render *out, struct err *e)
{
    struct jinja j;
    struct err why = {0}, again = {0};
    int rc = run(b, &j, &why);
    if (rc == E_UNSUPPORTED && b->arguments == ARGUMENTS_UNKNOWN) {
        struct job other = *b;
        other.arguments = ARGUMENTS_OBJECT;
        jinja_end(&j);
        rc = run(&other, &j, &again) == OK ? OK : rc;
        b->out = other.out;
        b->arguments = rc == OK ? ARGUMENTS_OBJECT : b->arguments;
    }
    if (rc < 0)
        err_set(e, rc, "%s", why.text);
    if (rc == OK && cut_written(b, out) < 0)
        rc = err_set(e, E_NOMEM, "no memory to render %zu bytes of chat", b->out.n);
    jinja_end(&j);
    if (rc < 0)
        chat_render_free(out);
    return rc;
}

/* ---- what stays ---- */

static size_t common(const struct chat_render *a, const struct chat_render *b, size_t n)
{
    size_t i = 0;
    n = MIN(n, b->n_segs);
    while (i < n && a->segs[i].markup == b->segs[i].markup && a->segs[i].n == b->segs[i].n &&
           !memcmp(a->segs[i].p, b->segs[i].p, a->segs[i].n))
        i++;
    return i;
}

/* r->n_stable: the segments that are the same without the prompt, and in every way in
 * which the conversation may go on that the template accepts. */
static int find_stable(const struct job *job, struct chat_render *r, struct err *e)
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
        struct chat_render later = {0};
        struct err why = {0};
        one.more = more + ways[i].first;
        one.n_more = ways[i].n;
        one.prompt = false;
        int rc = render(&one, &later, &why);
        if (rc == E_BUDGET || rc == E_NOMEM)
            return err_set(e, rc, "%s", why.text);
        if (rc < 0)
            continue;
        n = common(r, &later, n);
        known = known || i > 0;
        chat_render_free(&later);
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
    chat_render_free(out);
    TRY(render(&b, out, e));
    int rc = find_stable(&b, out, e);
    if (rc < 0)
        chat_render_free(out);
    return rc;
}

int chat_render_as(const struct text *t, const struct chat_request *q,
                   enum chat_arguments arguments, struct chat_render *out, struct err *e)
{
    struct job b = {.t = t, .q = q, .prompt = !q->no_prompt, .arguments = arguments};
    chat_render_free(out);
    return render(&b, out, e);
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
