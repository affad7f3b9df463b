/* Text, chat and ids: the public functions over src/text. */
#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

void sluice_free(void *p)
{
    free(p);
}

static int64_t special_id(const struct model *m, const char *name)
{
    char key[96];
    int64_t id = -1;
    strcpy(key, "tokenizer.ggml.");
    strncat(key, name, 40);
    strncat(key, "_token_id", 16);
    model_meta_i64(m, key, &id);
    return id;
}

static int flag(const struct model *m, const char *key)
{
    int64_t v;
    return model_meta_i64(m, key, &v) ? v != 0 : -1;
}

/* What struct text_config points to. */
struct lists {
    struct str *tokens, *merges;
    int32_t *types;
    float *scores;
};

static int fits(const char *key, int64_t n, const struct text_config *c, struct err *e)
{
    if (n == c->n_tokens)
        return OK;
    return err_set(e, E_FORMAT, "%s has %lld entries for %lld tokens", key, (long long)n,
                   (long long)c->n_tokens);
}

static int read_lists(const struct model *m, struct lists *l, struct text_config *c,
                      struct err *e)
{
    static const char types[] = "tokenizer.ggml.token_type", scores[] = "tokenizer.ggml.scores";
    bool by_scores = c->model.n == 5 && memcmp(c->model.p, "llama", 5) == 0;
    int64_t n = 0;
    TRY(model_meta_strs(m, "tokenizer.ggml.tokens", &l->tokens, &c->n_tokens, e));
    if (!by_scores)
        TRY(model_meta_strs(m, "tokenizer.ggml.merges", &l->merges, &c->n_merges, e));
    TRY(model_meta_ints(m, types, &l->types, &n, e)); /* else no markup would be known */
    TRY(fits(types, n, c, e));
    if (by_scores) {
        TRY(model_meta_floats(m, scores, &l->scores, &n, e));
        TRY(fits(scores, n, c, e));
    }
    c->tokens = l->tokens;
    c->types = l->types;
    c->merges = l->merges;
    c->scores = l->scores;
    return OK;
}

static int open_lists(const struct model *m, const char *chat_template, struct lists *l,
                      struct text **out, struct err *e)
{
    struct text_config c = {0};
    model_meta_str(m, "tokenizer.ggml.model", &c.model);
    model_meta_str(m, "tokenizer.ggml.pre", &c.pre);
    model_meta_str(m, "tokenizer.chat_template", &c.chat_template);
    if (chat_template)
        c.chat_template = (struct str){chat_template, strlen(chat_template)};
    TRY(read_lists(m, l, &c, e));
    c.bos = special_id(m, "bos");
    c.eos = special_id(m, "eos");
    c.eot = special_id(m, "eot");
    c.eom = special_id(m, "eom");
    c.add_bos = flag(m, "tokenizer.ggml.add_bos_token");
    c.add_eos = flag(m, "tokenizer.ggml.add_eos_token");
    c.add_space_prefix = flag(m, "tokenizer.ggml.add_space_prefix");
    c.remove_extra_whitespaces = flag(m, "tokenizer.ggml.remove_extra_whitespaces");
    if (c.add_bos == 1 && c.bos < 0 && !l->scores)
        return err_set(e, E_FORMAT,
                       "%s: 'tokenizer.ggml.add_bos_token' is true, but no "
                       "'tokenizer.ggml.bos_token_id' says which token that is",
                       model_path(m, 0));
    return text_open(&c, out, e);
}

int words_open(const struct model *m, const char *chat_template, struct text **out, struct err *e)
{
    struct lists l = {0};
    int rc = open_lists(m, chat_template, &l, out, e);
    free(l.tokens);
    free(l.merges);
    free(l.types);
    free(l.scores);
    return rc;
}

/* ---- encoding within the budget ---- */

/* Encodes with working memory of at most `most` bytes, its result included. */
typedef int encode_fn(const sluice *s, void *job, size_t most, struct text_ids *out, struct err *e);

/* First with what every plan has room for; where that is too little, with memory
 * taken from the expert cache. n_bytes: of all the text. */
static int encode_counted(const sluice *s, encode_fn *encode, void *job, size_t n_bytes,
                          struct text_ids *out, struct err *e)
{
    enum { FREE = 1 << 20, WORST = 90 /* times the text */ };
    sluice *taker = (sluice *)(uintptr_t)s; /* its plan; what was opened is not touched */
    struct err first = {0};
    int rc = encode(s, job, FREE, out, &first);
    if (rc != E_BUDGET)
        return rc < 0 ? err_set(e, rc, "%s", first.text) : rc;
    int64_t wanted = n_bytes < INT64_MAX / WORST ? (int64_t)n_bytes * WORST : INT64_MAX;
    int64_t more = MIN(wanted, budget_left(s));
    if (more > 0 && budget_take(taker, more, NULL) == OK) {
        err_clear(&first);
        rc = encode(s, job, FREE + (size_t)more, out, &first);
        budget_give(taker, more);
    }
    if (rc == E_BUDGET && more < wanted) /* else it takes more than any such text should */
        return err_set(e, rc,
                       "%zu bytes of text cannot be tokenised in the %.1f MiB that the memory "
                       "budget of %.1f MiB leaves (%s); "
                       "give less text at once or raise --memory",
                       n_bytes, (double)(FREE + MAX(more, (int64_t)0)) / 1048576.0,
                       (double)s->plan.memory.budget / 1048576.0, first.text);
    return rc < 0 ? err_set(e, rc, "%s", first.text) : rc;
}

/* What growing left over goes back: the list is the caller's for long. */
static int hand_out(struct text_ids *list, int32_t **ids, int64_t *n_ids)
{
    int32_t *p = realloc(list->id, (size_t)MAX(list->n, (int64_t)1) * sizeof(*p));
    *ids = p ? p : list->id;
    *n_ids = list->n;
    return OK;
}

static int encode_segment(const sluice *s, void *job, size_t most, struct text_ids *out,
                          struct err *e)
{
    out->most_bytes = most;
    return text_encode(s->text, job, 1, false, out, e);
}

int sluice_tokenize(const sluice *s, const char *text, size_t n_bytes, bool markup, int32_t **ids,
                    int64_t *n_ids, sluice_error *err)
{
    struct text_segment seg = {.p = text, .n = n_bytes, .markup = markup};
    struct text_ids out = {0};
    struct err *e = err_of(err);
    if (n_bytes > PTRDIFF_MAX || (n_bytes > 0 && !text))
        return err_set(e, E_ARG, "there is no text of %zu bytes", n_bytes);
    int rc = text_encode(s->text, NULL, 0, true, &out, e);
    int64_t n_begin = out.n;
    if (rc == OK)
        rc = encode_counted(s, encode_segment, &seg, n_bytes, &out, e);
    if (rc == OK && markup && n_begin == 1 && out.n > 1 &&
        out.id[1] == out.id[0]) { /* the text has it already */
        out.n--;
        memmove(out.id, out.id + 1, (size_t)out.n * sizeof(*out.id));
    }
    if (rc < 0) {
        text_ids_free(&out);
        return rc;
    }
    return hand_out(&out, ids, n_ids);
}

int sluice_piece(const sluice *s, int32_t id, bool special, const char **piece, size_t *n_bytes,
                 sluice_error *err)
{
    struct str p;
    if (text_piece(s->text, id, special, &p) < 0)
        return err_set(err_of(err), E_ARG, "token id %d is outside the vocabulary of %lld", id,
                       (long long)text_n_tokens(s->text));
    *piece = p.p;
    *n_bytes = p.n;
    return OK;
}

bool sluice_is_end(const sluice *s, int32_t id)
{
    return text_is_eog(s->text, id);
}

static int role_of(const char *role, enum chat_role *out, struct err *e)
{
    static const char *const names[] = {"system", "user", "assistant", "tool"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (role && strcmp(role, names[i]) == 0) {
            *out = (enum chat_role)i;
            return OK;
        }
    return err_set(e, E_ARG, "unknown role '%s'; expected system, user, assistant or tool",
                   role ? role : "");
}

struct chat_job {
    struct chat_request request;
    struct chat_call *calls; /* of all messages, owned */
    size_t n_calls;
    size_t n_bytes;   /* of all messages */
    int64_t n_stable; /* out */
};

static int encode_rendered(const sluice *s, const struct chat_render *r, struct text_ids *out,
                           int64_t *n_stable, struct err *e)
{
    /* The token in front that the file asks for, unless the template wrote it. */
    bool bounds = !chat_begins_with_bos(s->text, r);
    TRY(text_encode(s->text, r->segs, r->n_stable, bounds, out, e));
    *n_stable = out->n;
    return text_encode(s->text, r->segs + r->n_stable, r->n_segs - r->n_stable, false, out, e);
}

/* The template works first, and has given all of it back when its text is encoded. */
static int encode_chat(const sluice *s, void *job, size_t most, struct text_ids *out, struct err *e)
{
    struct chat_job *j = job;
    struct chat_render r = {0};
    out->n = 0;
    j->request.most_bytes = most;
    TRY(chat_render_request(s->text, &j->request, &r, e));
    size_t held = r.n_text + r.cap_segs * sizeof(*r.segs);
    int rc = held <= most / 2 ? OK
                              : err_set(e, E_BUDGET, "%zu bytes of rendered chat are held", held);
    out->most_bytes = most - MIN(held, most);
    if (rc == OK)
        rc = encode_rendered(s, &r, out, &j->n_stable, e);
    chat_render_free(&r);
    return rc;
}

static size_t length(const char *s)
{
    return s ? strlen(s) : 0;
}

/* The calls of a message, behind those of the messages before. */
static int take_calls(const sluice_message *m, struct chat_job *job, struct chat_message *out,
                      struct err *e)
{
    for (size_t i = 0; i < m->n_calls; i++) {
        const sluice_tool_call *c = &m->calls[i];
        if (!c->name || !c->name[0] || !c->arguments)
            return err_set(e, E_ARG, "call %zu of a message has no %s", i,
                           c->arguments ? "name" : "arguments");
        job->calls[job->n_calls + i] =
            (struct chat_call){.name = c->name, .arguments = c->arguments, .id = c->id};
        job->n_bytes += strlen(c->name) + strlen(c->arguments) + length(c->id);
    }
    out->calls = job->calls + job->n_calls;
    out->n_calls = m->n_calls;
    job->n_calls += m->n_calls;
    return OK;
}

/* What a model wrote is no token that it does not have. */
static int take_ids(const struct text *t, const sluice_message *m, struct chat_message *out,
                    struct err *e)
{
    TRY(check_list("ids of a message", m->ids, m->n_ids, e));
    for (int64_t i = 0; i < m->n_ids; i++)
        if (m->ids[i] < 0 || m->ids[i] >= text_n_tokens(t))
            return err_set(e, E_ARG, "token id %d of a message is outside the vocabulary of %lld",
                           m->ids[i], (long long)text_n_tokens(t));
    out->ids = m->ids;
    out->n_ids = m->n_ids;
    return OK;
}

static int take_message(const struct text *t, const sluice_message *m, struct chat_job *job,
                        struct chat_message *out, struct err *e)
{
    TRY(role_of(m->role, &out->role, e));
    if ((m->n_calls || m->n_ids) && out->role != CHAT_ASSISTANT)
        return err_set(e, E_ARG, "a message of role '%s' has %s; only an assistant's has", m->role,
                       m->n_calls ? "calls of tools" : "ids that a model wrote");
    out->content = m->content || !m->n_calls ? m->content : "";
    out->reasoning = m->reasoning;
    out->name = m->name;
    out->call_id = m->call_id;
    TRY(take_ids(t, m, out, e));
    job->n_bytes += length(m->content) + length(m->reasoning) + length(m->name) +
                    length(m->call_id) + (size_t)out->n_ids * sizeof(*out->ids);
    return take_calls(m, job, out, e);
}

static int read_message(const sluice_chat *c, size_t i, sluice_message *out, struct err *e)
{
    const char *given = (const char *)c->messages + i * c->message_size;
    TRY(sized_take(SIZED_sluice_message, given, c->message_size, out, e));
    if (out->n_calls > PTRDIFF_MAX / sizeof(sluice_tool_call) || (out->n_calls && !out->calls))
        return err_set(e, E_ARG, "there is no list of %zu calls", out->n_calls);
    return OK;
}

/* The messages of a host, and their calls. */
static int take_messages(const struct text *t, const sluice_chat *c, size_t n,
                         struct chat_job *job, struct chat_message *messages, struct err *e)
{
    size_t n_calls = 0;
    sluice_message one;
    for (size_t i = 0; i < n; i++) {
        TRY(read_message(c, i, &one, e));
        n_calls += MIN(one.n_calls, SIZE_MAX - 1 - n_calls);
    }
    job->calls = calloc(n_calls + 1, sizeof(*job->calls));
    if (!job->calls)
        return err_set(e, E_NOMEM, "no memory for %zu calls", n_calls);
    for (size_t i = 0; i < n; i++) {
        TRY(read_message(c, i, &one, e));
        TRY(take_message(t, &one, job, &messages[i], e));
    }
    return OK;
}

/* The request of a host; *messages and job->calls are to be freed whatever is returned. */
static int take_chat(const sluice *s, const sluice_chat *c, struct chat_job *job,
                     struct chat_message **messages, struct err *e)
{
    size_t n = c->json ? 0 : c->n_messages;
    *messages = NULL;
    *job = (struct chat_job){0};
    if (c->think < -1 || c->think > 1)
        return err_set(e, E_ARG, "think is %d, expected -1, 0 or 1", c->think);
    if (c->n_bytes > PTRDIFF_MAX || c->n_tools_bytes > PTRDIFF_MAX / 2)
        return err_set(e, E_ARG, "there is no text of %zu bytes",
                       MAX(c->n_bytes, c->n_tools_bytes));
    if (c->json && c->tools)
        return err_set(e, E_ARG, "a conversation in JSON has its tools in it");
    if (n > PTRDIFF_MAX / sizeof(**messages) || (n > 0 && !c->messages))
        return err_set(e, E_ARG, "there is no list of %zu messages", n);
    *messages = calloc(n ? n : 1, sizeof(**messages));
    if (!*messages)
        return err_set(e, E_NOMEM, "no memory for %zu messages", n);
    job->n_bytes = c->json ? c->n_bytes : c->tools ? c->n_tools_bytes : 0;
    TRY(take_messages(s->text, c, n, job, *messages, e));
    job->request = (struct chat_request){.json = {c->json, c->json ? c->n_bytes : 0},
                                         .messages = *messages, .n = n, .think = c->think,
                                         .tools = {c->tools, c->tools ? c->n_tools_bytes : 0},
                                         .no_prompt = c->no_prompt,
                                         .now = c->now ? c->now : (int64_t)time(NULL)};
    return OK;
}

/* n_bytes of a text that takes as much memory to tokenise as a template to run. */
static size_t chat_bytes(const struct chat_job *j)
{
    enum { TEMPLATE = 64 << 10 };
    return j->n_bytes + TEMPLATE;
}

static int chat_encode(const sluice *s, const sluice_chat *c, int32_t **ids, int64_t *n_ids,
                       int64_t *n_stable, struct err *e)
{
    struct chat_message *messages;
    struct chat_job job;
    struct text_ids out = {0};
    int rc = take_chat(s, c, &job, &messages, e);
    if (rc == OK)
        rc = encode_counted(s, encode_chat, &job, chat_bytes(&job), &out, e);
    free(messages);
    free(job.calls);
    *n_stable = job.n_stable;
    if (rc < 0) {
        text_ids_free(&out);
        return rc;
    }
    return hand_out(&out, ids, n_ids);
}

int sluice_chat_encode(const sluice *s, const sluice_chat *given, int32_t **ids, int64_t *n_ids,
                       int64_t *n_stable, sluice_error *err)
{
    struct err *e = err_of(err);
    sluice_chat c;
    *n_stable = 0;
    TRY(sized_options(SIZED_sluice_chat, given, &c, e));
    return chat_encode(s, &c, ids, n_ids, n_stable, e);
}

int sluice_chat_ids_sized(const sluice *s, const sluice_message *m, size_t n_messages,
                          size_t message_size, bool think, int32_t **ids, int64_t *n_ids,
                          int64_t *n_stable, sluice_error *err)
{
    const sluice_chat c = {.messages = m, .n_messages = n_messages, .message_size = message_size,
                           .think = think};
    return chat_encode(s, &c, ids, n_ids, n_stable, err_of(err));
}

/* ---- chat as text ---- */

struct text_job {
    struct chat_job chat;
    char *text;
    size_t n;
};

static int render_chat(const sluice *s, void *job, size_t most, struct text_ids *out, struct err *e)
{
    struct text_job *j = job;
    struct chat_render r = {0};
    (void)out;
    j->chat.request.most_bytes = most;
    TRY(chat_render_request(s->text, &j->chat.request, &r, e));
    j->text = r.text;
    j->n = r.n_text;
    r.text = NULL;
    chat_render_free(&r);
    return OK;
}

int sluice_chat_text(const sluice *s, const sluice_chat *given, char **text, size_t *n_bytes,
                     sluice_error *err)
{
    struct err *e = err_of(err);
    struct chat_message *messages;
    struct text_job job = {.text = NULL};
    struct text_ids none = {0};
    sluice_chat c;
    TRY(sized_options(SIZED_sluice_chat, given, &c, e));
    int rc = take_chat(s, &c, &job.chat, &messages, e);
    if (rc == OK)
        rc = encode_counted(s, render_chat, &job, chat_bytes(&job.chat), &none, e);
    free(messages);
    free(job.chat.calls);
    TRY(rc);
    *text = job.text;
    *n_bytes = job.n;
    return OK;
}
