/*
 * sluice chat: a conversation.
 *
 * The messages are the truth; before each answer they are rendered anew and the
 * session is made to hold exactly that, which computes only what it does not
 * hold yet. A turn that fails leaves no trace in the messages.
 */
#include "cli.h"

#include "base/base.h"

#include <stdlib.h>
#include <string.h>

struct chat {
    const struct args *a;
    struct cli_model m;
    sluice_sampling sampling;
    sluice_message *messages; /* strings owned; [0] is the system message if there is one */
    size_t n, cap;
};

/* ---- messages -------------------------------------------------------------------- */

static size_t length(const char *s)
{
    return s ? strlen(s) : 0;
}

static size_t message_bytes(const sluice_message *m)
{
    enum { ID = 32 }; /* the copy of a call may have one that was made up */
    size_t n = length(m->content) + length(m->reasoning) + (size_t)m->n_ids * sizeof(*m->ids);
    for (size_t i = 0; i < m->n_calls; i++)
        n += sizeof(*m->calls) + ID + length(m->calls[i].name) + length(m->calls[i].arguments);
    return n;
}

static void free_calls(sluice_message *m)
{
    for (size_t i = 0; m->calls && i < m->n_calls; i++) {
        free((char *)m->calls[i].name);
        free((char *)m->calls[i].arguments);
        free((char *)m->calls[i].id);
    }
    free((void *)m->calls);
    m->calls = NULL;
    m->n_calls = 0;
}

static void free_message(sluice_message *m)
{
    free((char *)m->content);
    free((char *)m->reasoning);
    free((void *)m->ids);
    free_calls(m);
}

static void forget_from(struct chat *c, size_t n)
{
    while (c->n > n) {
        input_give(message_bytes(&c->messages[--c->n]));
        free_message(&c->messages[c->n]);
    }
}

/* Of all messages; false: there are none. */
static bool forget_calls(struct chat *c)
{
    bool any = false;
    for (size_t i = 0; i < c->n; i++) {
        sluice_message *m = &c->messages[i];
        size_t before = message_bytes(m);
        any = any || m->n_calls;
        free_calls(m);
        input_give(before - message_bytes(m));
    }
    return any;
}

/* The same, on its own; false: no memory, and what there is of it is to be freed. */
static bool copy_calls(const sluice_message *from, sluice_message *m)
{
    sluice_tool_call *calls = calloc(from->n_calls + 1, sizeof(*calls));
    bool ok = calls != NULL;
    m->calls = calls;
    m->n_calls = ok ? from->n_calls : 0;
    for (size_t i = 0; ok && i < from->n_calls; i++) {
        char made[32];
        calls[i].name = strdup(from->calls[i].name);
        calls[i].arguments = strdup(from->calls[i].arguments);
        calls[i].id = strdup(answer_call_id(&from->calls[i], i, made));
        ok = calls[i].name && calls[i].arguments && calls[i].id;
    }
    return ok;
}

static bool copy_message(const sluice_message *from, sluice_message *m)
{
    int32_t *ids = from->n_ids ? malloc((size_t)from->n_ids * sizeof(*ids)) : NULL;
    *m = (sluice_message){.role = from->role, .ids = ids};
    if (ids) {
        memcpy(ids, from->ids, (size_t)from->n_ids * sizeof(*ids));
        m->n_ids = from->n_ids;
    }
    m->content = strdup(from->content);
    m->reasoning = from->reasoning ? strdup(from->reasoning) : NULL;
    return copy_calls(from, m) && m->content && !m->reasoning == !from->reasoning &&
           m->n_ids == from->n_ids;
}

/* Adds a copy. */
static int add(struct chat *c, const sluice_message *from)
{
    if (c->n == c->cap) {
        size_t cap = c->cap * 2 + 16;
        sluice_message *p = realloc(c->messages, cap * sizeof(*p));
        if (!p)
            return no_memory();
        c->messages = p;
        c->cap = cap;
    }
    size_t n_bytes = message_bytes(from);
    if (!input_take(n_bytes))
        return input_too_much("the conversation");
    if (copy_message(from, &c->messages[c->n])) {
        c->n++;
        return ST_OK;
    }
    input_give(n_bytes);
    free_message(&c->messages[c->n]);
    return no_memory();
}

static int say(struct chat *c, const char *role, const char *content)
{
    return add(c, &(sluice_message){.role = role, .content = content});
}

static int start_over(struct chat *c, const char *system)
{
    forget_from(c, 0);
    return system && *system ? say(c, "system", system) : ST_OK;
}

static const char *system_text(const struct chat *c)
{
    return c->n && strcmp(c->messages[0].role, "system") == 0 ? c->messages[0].content : NULL;
}

/* ---- one answer -------------------------------------------------------------------- */

static void tell_finish(const struct chat *c, sluice_finish finish, int64_t n_tokens)
{
    int most = c->a->n_predict;
    if (finish == SLUICE_FINISH_STOPPED && interrupted())
        note("(stopped)");
    if (finish != SLUICE_FINISH_LENGTH)
        return;
    if (most >= 0 && n_tokens >= most)
        note("(cut at %d tokens: --n-predict)", most);
    else
        note("(the context of %d tokens is full; /reset starts over)", c->m.info.n_context);
}

/* Keeps an answer as the model gave it: what was told apart stays apart (an answer may speak
 * of </think>), and with its ids the next turn begins with what the session holds. */
static int keep(struct chat *c, struct answer *w)
{
    sluice_message m;
    int status = answer_message(w, &m);
    if (status != ST_OK)
        return status;
    if (!c->m.info.has_thinking)
        m.reasoning = NULL;
    if (m.n_calls)
        note("(the model calls a tool; chat has none, so nothing is done)");
    return add(c, &m);
}

static int generate(struct chat *c, const int32_t *ids, int64_t n)
{
    /* None. Calls are looked for all the same, but those that only a tool's name tells. */
    static const char no_tools[] = "[]";
    sluice_error e = {0};
    sluice_finish finish = SLUICE_FINISH_STOPPED;
    struct answer w;
    sluice_answer_options o;
    sluice_answer_options_init(&o);
    o.prompt = ids;
    o.n_prompt = n;
    o.tools = no_tools;
    o.n_tools_bytes = sizeof(no_tools) - 1;
    int status = answer_begin(&w, c->m.s, &o, true);
    if (status != ST_OK)
        return status;
    int rc = sluice_generate(c->m.session, &c->sampling, c->a->n_predict, answer_token, &w,
                             &finish, &e);
    status = answer_end(&w);
    if (rc < 0)
        status = fail(&e);
    else if (status == ST_OK)
        status = keep(c, &w);
    if (rc == 0)
        tell_finish(c, finish, w.n_ids);
    answer_free(&w);
    return status;
}

/* Some templates refuse calls that no result follows: then what was said stays. */
static int encode(struct chat *c, int32_t **ids, int64_t *n, int64_t *n_stable, sluice_error *e)
{
    sluice_chat chat;
    sluice_chat_init(&chat);
    chat.messages = c->messages;
    chat.n_messages = c->n;
    chat.think = c->a->think;
    int rc = sluice_chat_encode(c->m.s, &chat, ids, n, n_stable, e);
    if (rc == SLUICE_E_ARG && forget_calls(c))
        rc = sluice_chat_encode(c->m.s, &chat, ids, n, n_stable, e);
    return rc;
}

/* A turn; what fails is told, and the conversation stays as it was before. */
static int answer(struct chat *c, const char *text)
{
    size_t before = c->n;
    int32_t *ids = NULL;
    int64_t n = 0, n_stable = 0;
    sluice_error e = {0};
    sluice_reset_stats(c->m.s);
    int status = say(c, "user", text);
    if (status == ST_OK && (encode(c, &ids, &n, &n_stable, &e) < 0 ||
                            sluice_session_sync(c->m.session, ids, n, n_stable, &e) < 0))
        status = fail(&e);
    progress_end();
    if (status == ST_OK)
        status = generate(c, ids, n);
    sluice_free(ids);
    if (status != ST_OK)
        forget_from(c, before);
    if (status == ST_INTERRUPTED)
        note("(stopped before an answer began; the question is forgotten)");
    else if (status == ST_FAIL && e.code == SLUICE_E_STATE)
        note("(/reset starts over)");
    if (status == ST_OK && c->a->stats) {
        sluice_stats s;
        sluice_get_stats(c->m.s, &s);
        stats_line(&s);
    }
    return status;
}

/* ---- commands ------------------------------------------------------------------------ */

static void show_help(void)
{
    note("/help         this list\n"
         "/stats        numbers of the last answer, and how full the context is\n"
         "/reset        forget the conversation (the system message stays)\n"
         "/system TEXT  set the system message and start over; without TEXT, show it\n"
         "/quit         end (so does Ctrl-D)\n"
         "Ctrl-C stops the answer. To begin a message with /, put a space before it.");
}

static void show_stats(const struct chat *c)
{
    sluice_stats s;
    sluice_get_stats(c->m.s, &s);
    stats_line(&s);
    note("context: %lld of %d tokens", (long long)sluice_session_length(c->m.session),
         c->m.info.n_context);
}

static int set_system(struct chat *c, const char *text)
{
    if (*text)
        return start_over(c, text);
    const char *now = system_text(c);
    note("%s", now ? now : "(no system message)");
    return ST_OK;
}

static int reset(struct chat *c)
{
    const char *now = system_text(c);
    forget_from(c, now ? 1 : 0);
    sluice_session_reset(c->m.session);
    return ST_OK;
}

/* `text` begins with '/'. *quit is set when it asks to end. */
static int command(struct chat *c, const char *text, bool *quit)
{
    static const char *const words[] = {"/help", "/stats", "/reset", "/system", "/quit"};
    char word[32];
    size_t n = strcspn(text, " \t");
    if (n >= sizeof(word))
        n = sizeof(word) - 1;
    memcpy(word, text, n);
    word[n] = '\0';
    text += strcspn(text, " \t");
    text += strspn(text, " \t");
    if (strcmp(word, "/help") == 0)
        show_help();
    else if (strcmp(word, "/stats") == 0)
        show_stats(c);
    else if (strcmp(word, "/reset") == 0)
        return reset(c);
    else if (strcmp(word, "/system") == 0)
        return set_system(c, text);
    else if (strcmp(word, "/quit") == 0 || strcmp(word, "/exit") == 0)
        *quit = true;
    else {
        const char *near = nearest_word(word, words, ARRAY_LEN(words));
        note("There is no command %s; %s%s.", word, near ? "did you mean " : "/help lists them",
             near ? near : "");
    }
    return ST_OK;
}

/* ---- the loop ------------------------------------------------------------------------- */

static void greet(const struct chat *c)
{
    const sluice_model_info *i = &c->m.info;
    const char *named = i->name && *i->name ? i->name : i->arch;
    char name[512];
    if (!line_editing())
        return;
    utf8_show_all(name, sizeof(name), named, strlen(named), 0);
    if (i->n_experts)
        note("%s, %d experts of which %d answer, context of %d tokens. /help lists commands.", name,
             i->n_experts, i->n_experts_used, i->n_context);
    else
        note("%s, context of %d tokens. /help lists commands.", name, i->n_context);
}

/* Does what the line asks. At a terminal a failed turn is told and the
 * conversation goes on; a program that feeds us lines must see it. */
static int handle(struct chat *c, const char *text, bool *quit)
{
    int status = ST_OK;
    if (text[0] == '/')
        status = command(c, text, quit);
    else if (text[strspn(text, " \t\r")] != '\0')
        status = answer(c, text);
    if (terminated() || (interrupted() && !line_editing()))
        status = ST_INTERRUPTED;
    if (out_failed() || terminated() || (status != ST_OK && !line_editing()))
        *quit = true;
    return line_editing() && !terminated() ? ST_OK : status;
}

static int loop(struct chat *c)
{
    int status = ST_OK;
    bool quit = false;
    while (!quit) {
        char *text;
        interrupt_clear();
        switch (line_read("> ", &text)) {
        case LINE_OK:
            status = handle(c, text, &quit);
            free(text);
            break;
        case LINE_REFUSED:
            if (!line_editing())
                return ST_FAIL;
            break;
        case LINE_CANCELLED:
            if (!line_editing() || terminated())
                return ST_INTERRUPTED;
            break;
        case LINE_END:
            quit = true;
            if (line_editing())
                note("%s", "");
            break;
        }
    }
    return status;
}

/* Ctrl-C lets the token that is being computed come to its end: the session then
 * holds the answer as far as it was shown, and need not compute it again. */
static int chat_progress(void *user, const char *what, int64_t done, int64_t total)
{
    return strcmp(what, "token") == 0 ? terminated() : progress_tell(user, what, done, total);
}

int cmd_chat(const struct args *a)
{
    struct chat c = {.a = a};
    line_init();
    int status = cli_model_open(a, 0, &c.m);
    if (status == ST_OK) {
        sluice_set_progress(c.m.s, chat_progress, NULL);
        c.sampling = sampling_from(a);
        status = start_over(&c, a->system);
    }
    if (status == ST_OK) {
        conversation_tell(a, &c.m);
        greet(&c);
        status = loop(&c);
    }
    forget_from(&c, 0);
    free(c.messages);
    return cli_model_close(&c.m, status);
}
