/*
 * sluice run: one prompt, one answer.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The prompt in *text, which is to be freed. */
static int read_prompt(const struct args *a, char **text, size_t *n)
{
    *text = NULL;
    if (a->word && strcmp(a->word, "-") != 0) {
        *n = strlen(a->word);
        *text = strdup(a->word);
        if (!*text)
            return no_memory();
    } else if (!a->word && isatty(STDIN_FILENO)) {
        complain("a prompt is missing, as in: sluice run \"Define run.\"");
        return ST_USAGE;
    } else {
        *text = read_all_stdin(a->raw, n);
        if (!*text)
            return interrupted() ? ST_INTERRUPTED : ST_FAIL;
    }
    if (*n == 0) {
        complain("the prompt is empty");
        return ST_USAGE;
    }
    return ST_OK;
}

static int check_options(const struct args *a)
{
    if (a->raw && (a->system || a->think >= 0)) {
        complain("--raw uses no chat form, so --%s has no place in it",
                 a->system ? "system" : a->think ? "think" : "no-think");
        return ST_USAGE;
    }
    if (a->raw && (a->messages || a->show_prompt || a->chat_template)) {
        complain("--raw uses no chat form, so --%s has no place in it",
                 a->messages ? "messages" : a->show_prompt ? "show-prompt" : "chat-template");
        return ST_USAGE;
    }
    if (a->markup && !a->raw) {
        complain("--markup needs --raw: in the chat form text never becomes a control token");
        return ST_USAGE;
    }
    return conversation_check(a);
}

static int prompt_ids(const struct args *a, const struct cli_model *m, const struct conversation *c,
                      const char *text, size_t n, int32_t **ids, int64_t *n_ids, int64_t *n_stable)
{
    sluice_error e = {0};
    int rc;
    *n_stable = 0;
    if (a->raw)
        rc = sluice_tokenize(m->s, text, n, a->markup, ids, n_ids, &e);
    else
        rc = sluice_chat_encode(m->s, &c->chat, ids, n_ids, n_stable, &e);
    if (rc < 0)
        return fail(&e);
    if (*n_ids == 0) {
        complain("the prompt gives no token");
        return ST_FAIL;
    }
    return ST_OK;
}

static int print_json(const struct cli_model *m, struct answer *w, int64_t n_prompt,
                      sluice_finish finish, const sluice_sampling *p)
{
    sluice_stats s;
    sluice_message all;
    int status = answer_message(w, &all);
    if (status != ST_OK)
        return status;
    sluice_get_stats(m->s, &s);
    json_t *j = json_pack("{so so so sI ss sI so}", "text", json_bytes(w->content.p, w->content.n),
                          "reasoning",
                          w->reasoning.n ? json_bytes(w->reasoning.p, w->reasoning.n) : json_null(),
                          "ids", json_ids(all.ids, all.n_ids), "prompt_tokens",
                          (json_int_t)n_prompt, "finish", finish_name(finish), "seed",
                          (json_int_t)p->seed, "stats", json_stats(&s));
    if (j && json_array_size(w->calls) && json_object_set(j, "tool_calls", w->calls) != 0) {
        json_decref(j);
        return no_memory();
    }
    return json_print(j);
}

static int generate(const struct args *a, struct cli_model *m, const struct conversation *c,
                    const int32_t *ids, int64_t n_ids, int64_t n_stable)
{
    sluice_error e = {0};
    sluice_finish finish = SLUICE_FINISH_STOPPED;
    sluice_sampling p = sampling_from(a);
    sluice_answer_options o;
    struct answer w;
    sluice_answer_options_init(&o);
    o.prompt = ids;
    o.n_prompt = n_ids;
    conversation_tools(c, &o);
    if (sluice_session_sync(m->session, ids, n_ids, n_stable, &e) < 0)
        return fail(&e);
    int status = answer_begin(&w, a->raw ? NULL : m->s, &o, !a->json);
    if (status != ST_OK)
        return status;
    int rc = sluice_generate(m->session, &p, a->n_predict, answer_token, &w, &finish, &e);
    status = answer_end(&w);
    if (rc < 0)
        status = fail(&e);
    else if (status == ST_OK && a->json)
        status = print_json(m, &w, n_ids, finish, &p);
    if (rc == 0 && finish == SLUICE_FINISH_LENGTH && a->n_predict < 0)
        note("(the context of %d tokens is full)", m->info.n_context);
    if (rc == 0 && a->stats && !out_failed()) {
        sluice_stats s;
        sluice_get_stats(m->s, &s);
        stats_line(&s);
    }
    answer_free(&w);
    return status == ST_OK && interrupted() ? ST_INTERRUPTED : status;
}

static int answer(const struct args *a, struct cli_model *m, const struct conversation *c,
                  const char *text, size_t n)
{
    int32_t *ids = NULL;
    int64_t n_ids, n_stable;
    conversation_tell(a, m);
    int status = prompt_ids(a, m, c, text, n, &ids, &n_ids, &n_stable);
    if (status == ST_OK)
        status = generate(a, m, c, ids, n_ids, n_stable);
    sluice_free(ids);
    return status;
}

int cmd_run(const struct args *a)
{
    struct cli_model m = {0};
    struct conversation c = {.json = NULL};
    char *text = NULL;
    size_t n = 0;
    int status = check_options(a);
    if (status == ST_OK && !a->messages)
        status = read_prompt(a, &text, &n);
    if (status == ST_OK)
        status = conversation_begin(a, text, &c);
    if (status == ST_OK)
        status = a->show_prompt ? cli_model_open_tokenizer(a, &m) : cli_model_open(a, 0, &m);
    if (status == ST_OK)
        status = a->show_prompt ? conversation_show(a, &m, &c) : answer(a, &m, &c, text, n);
    status = cli_model_close(&m, status);
    conversation_free(&c);
    free(text);
    return status;
}
