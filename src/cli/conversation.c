/*
 * What a model is asked, for the commands that render it: a text with a system
 * message, or a file of messages; and a chat template from a file.
 */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The bytes of a file, terminated; NULL: complained. */
static char *read_file(const char *path, size_t *n_bytes)
{
    struct text_buf b = {0};
    char chunk[16384];
    size_t n = 1;
    bool ok = true;
    FILE *f = fopen(path, "re");
    if (!f) {
        if (!interrupted()) /* a pipe waits for its writer */
            complain("unable to open %s: %s", path, strerror(errno));
        return NULL;
    }
    while (ok && n > 0 && !interrupted()) {
        n = fread(chunk, 1, sizeof(chunk), f);
        ok = !ferror(f) && (int64_t)(b.n + n) <= input_file_most((int64_t)(b.n + n)) &&
             input_take(n) && buf_add(&b, chunk, n);
    }
    if (ferror(f))
        complain("reading %s failed: %s", path, strerror(errno));
    else if (!ok)
        input_too_much(path);
    fclose(f);
    if (!ok || interrupted()) {
        buf_free(&b);
        return NULL;
    }
    *n_bytes = b.n;
    return b.p;
}

int conversation_template(const struct args *a, char **text)
{
    size_t n = 0;
    *text = NULL;
    if (!a->chat_template)
        return ST_OK;
    *text = read_file(a->chat_template, &n);
    if (!*text)
        return interrupted() ? ST_INTERRUPTED : ST_FAIL;
    if (n > 0 && !memchr(*text, 0, n))
        return ST_OK;
    complain("%s: %s", a->chat_template, n ? "a chat template holds no zero bytes" : "it is empty");
    free(*text);
    *text = NULL;
    return ST_FAIL;
}

int conversation_check(const struct args *a)
{
    const char *beside = a->word ? "a prompt" : a->system ? "--system" : NULL;
    if (a->messages && beside) {
        complain("--messages holds the whole conversation, so %s has no place beside it", beside);
        return ST_USAGE;
    }
    return ST_OK;
}

int conversation_begin(const struct args *a, const char *text, struct conversation *c)
{
    sluice_chat_init(&c->chat);
    c->json = NULL;
    c->chat.think = a->think;
    if (a->messages) {
        c->json = read_file(a->messages, &c->chat.n_bytes);
        c->chat.json = c->json;
        return c->json ? ST_OK : interrupted() ? ST_INTERRUPTED : ST_FAIL;
    }
    if (a->system)
        c->messages[c->chat.n_messages++] =
            (sluice_message){.role = "system", .content = a->system};
    c->messages[c->chat.n_messages++] = (sluice_message){.role = "user", .content = text};
    c->chat.messages = c->messages;
    return ST_OK;
}

void conversation_free(struct conversation *c)
{
    free(c->json);
    c->json = NULL;
}

void conversation_tools(const struct conversation *c, sluice_answer_options *o)
{
    size_t n = c->json ? strspn(c->json, " \t\r\n") : 0;
    if (!c->json || c->json[n] != '{')
        return; /* a list of messages has none */
    o->tools = c->json;
    o->n_tools_bytes = c->chat.n_bytes;
}

int conversation_show(const struct args *a, const struct cli_model *m, const struct conversation *c)
{
    sluice_error e = {0};
    char *text = NULL;
    size_t n = 0;
    int status = ST_OK;
    if (sluice_chat_text(m->s, &c->chat, &text, &n, &e) < 0)
        return fail(&e);
    if (a->json) {
        status = json_print(json_pack("{so}", "text", json_bytes(text, n)));
    } else {
        out_write(text, n);
        if (out_is_terminal())
            out_printf("\n");
    }
    sluice_free(text);
    return status;
}

/* Whether the chat form of a model that reasons has a way to leave it. */
static bool can_leave_thinking(const struct cli_model *m)
{
    const sluice_message ask = {.role = "user", .content = "?"};
    char *text[2] = {NULL, NULL};
    size_t n[2] = {0, 0};
    sluice_chat c;
    sluice_chat_init(&c);
    c.messages = &ask;
    c.n_messages = 1;
    c.now = 1;
    for (int think = 0; think < 2; think++) {
        c.think = think;
        (void)sluice_chat_text(m->s, &c, &text[think], &n[think], NULL);
    }
    bool differ = !text[0] || !text[1] || n[0] != n[1] || memcmp(text[0], text[1], n[0]) != 0;
    sluice_free(text[0]);
    sluice_free(text[1]);
    return differ;
}

void conversation_tell(const struct args *a, const struct cli_model *m)
{
    if (a->think == 1 && !m->info.has_thinking)
        complain("this model has no reasoning part; --think changes nothing");
    if (a->think == 0 && m->info.has_thinking && !can_leave_thinking(m))
        complain("this model's chat template has no word for it; --no-think changes nothing");
}
