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

static size_t message_bytes(const sluice_message *m)
{
    return (m->content ? strlen(m->content) : 0) + (m->reasoning ? strlen(m->reasoning) : 0);
}

static void forget_from(struct chat *c, size_t n)
{
    while (c->n > n) {
        c->n--;
        input_give(message_bytes(&c->messages[c->n]));
        free((char *)c->messages[c->n].content);
        free((char *)c->messages[c->n].reasoning);
    }
}

/* Copies the texts; reasoning may be NULL. */
static int say(struct chat *c, const char *role, const char *content, const char *reasoning)
{
    if (c->n == c->cap) {
        size_t cap = c->cap * 2 + 16;
        sluice_message *p = realloc(c->messages, cap * sizeof(*p));
        if (!p)
            return no_memory();
        c->messages = p;
        c->cap = cap;
    }
    sluice_message *m = &c->messages[c->n];
    *m = (sluice_message){.role = role, .content = content, .reasoning = reasoning};
    if (!input_take(message_bytes(m)))
        return input_too_much("the conversation");
    m->content = strdup(content);
    m->reasoning = reasoning ? strdup(reasoning) : NULL;
    c->n++;
    if (m->content && (!reasoning || m->reasoning))
        return ST_OK;
    forget_from(c, c->n - 1);
    return no_memory();
}

static int start_over(struct chat *c, const char *system)
{
    forget_from(c, 0);
    return system && *system ? say(c, "system", system, NULL) : ST_OK;
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

static int generate(struct chat *c, const int32_t *ids, int64_t n)
{
    sluice_error e = {0};
    sluice_finish finish = SLUICE_FINISH_STOPPED;
    struct answer w;
    sluice_answer_options o;
    sluice_answer_options_init(&o);
    o.prompt = ids;
    o.n_prompt = n;
    int status = answer_begin(&w, c->m.s, &o, true);
    if (status != ST_OK)
        return status;
    int rc = sluice_generate(c->m.session, &c->sampling, c->a->n_predict, answer_token, &w,
                             &finish, &e);
    status = answer_end(&w);
    if (rc < 0)
        status = fail(&e);
    else if (status == ST_OK)
        /* what was told apart stays apart: an answer may speak of </think> */
        status = say(c, "assistant", w.content.p, c->m.info.has_thinking ? w.reasoning.p : NULL);
    if (rc == 0)
        tell_finish(c, finish, w.n_ids);
    answer_free(&w);
    return status;
}

/* A turn; what fails is told, and the conversation stays as it was before. */
static int answer(struct chat *c, const char *text)
{
    size_t before = c->n;
    int32_t *ids = NULL;
    int64_t n = 0, n_stable = 0;
    sluice_chat chat;
    sluice_error e = {0};
    sluice_reset_stats(c->m.s);
    int status = say(c, "user", text, NULL);
    sluice_chat_init(&chat);
    chat.messages = c->messages;
    chat.n_messages = c->n;
    chat.think = c->a->think;
    if (status == ST_OK &&
        (sluice_chat_encode(c->m.s, &chat, &ids, &n, &n_stable, &e) < 0 ||
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
