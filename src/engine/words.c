/* Text, chat and ids: the public functions over src/text. */
#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

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

int words_open(const struct model *m, struct text **out, struct err *e)
{
    struct text_config c = {0};
    struct str *tokens = NULL, *merges = NULL;
    int32_t *types = NULL;
    int64_t n_types = 0;
    int rc = model_meta_strs(m, "tokenizer.ggml.tokens", &tokens, &c.n_tokens, e);
    if (rc == OK)
        rc = model_meta_strs(m, "tokenizer.ggml.merges", &merges, &c.n_merges, e);
    if (rc == OK && model_meta_ints(m, "tokenizer.ggml.token_type", &types, &n_types, NULL) == OK &&
        n_types != c.n_tokens)
        rc = err_set(e, E_FORMAT, "tokenizer.ggml.token_type has %lld entries for %lld tokens",
                     (long long)n_types, (long long)c.n_tokens);
    if (rc == OK) {
        model_meta_str(m, "tokenizer.ggml.model", &c.model);
        model_meta_str(m, "tokenizer.ggml.pre", &c.pre);
        model_meta_str(m, "tokenizer.chat_template", &c.chat_template);
        c.tokens = tokens;
        c.types = types;
        c.merges = merges;
        c.bos = special_id(m, "bos");
        c.eos = special_id(m, "eos");
        c.eot = special_id(m, "eot");
        c.eom = special_id(m, "eom");
        c.add_bos = flag(m, "tokenizer.ggml.add_bos_token");
        c.add_eos = flag(m, "tokenizer.ggml.add_eos_token");
        if (c.add_bos == 1 && c.bos < 0)
            rc = err_set(e, E_FORMAT, "%s: 'tokenizer.ggml.add_bos_token' is true, but no 'tokenizer.ggml.bos_token_id' says which token that is",
                         model_path(m, 0));
        else
            rc = text_open(&c, out, e);
    }
    free(tokens);
    free(merges);
    free(types);
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
    int64_t more = MIN(wanted, plan_left(s));
    if (more > 0 && plan_take(taker, more, NULL) == OK) {
        err_clear(&first);
        rc = encode(s, job, FREE + (size_t)more, out, &first);
        plan_give(taker, more);
    }
    if (rc == E_BUDGET)
        return err_set(e, rc, "%zu bytes of text cannot be tokenised in the %.1f MiB that the memory budget of %.1f MiB leaves (%s); "
                       "give less text at once or raise --memory", n_bytes, (double)(FREE + MAX(more, (int64_t)0)) / 1048576.0,
                       (double)s->plan.budget / 1048576.0, first.text);
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

static int encode_segment(const sluice *s, void *job, size_t most, struct text_ids *out, struct err *e)
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
    int rc = text_encode(s->text, NULL, 0, true, &out, e);
    int64_t n_begin = out.n;
    if (rc == OK)
        rc = encode_counted(s, encode_segment, &seg, n_bytes, &out, e);
    if (rc == OK && markup && n_begin == 1 && out.n > 1 && out.id[1] == out.id[0]) { /* the text has it already */
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
    static const char *const names[] = {"system", "user", "assistant"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (role && strcmp(role, names[i]) == 0) {
            *out = (enum chat_role)i;
            return OK;
        }
    return err_set(e, E_ARG, "unknown role '%s'; expected system, user or assistant", role ? role : "");
}

struct chat_job {
    struct chat_message *messages;
    size_t n, n_bytes;
    bool think;
    int64_t n_stable; /* out */
};

static int encode_chat(const sluice *s, void *job, size_t most, struct text_ids *out, struct err *e)
{
    struct chat_job *j = job;
    struct chat_render r = {0};
    size_t copies = j->n_bytes + j->n * 256; /* of the messages, and what stands around them */
    if (copies > most / 2)
        return err_set(e, E_BUDGET, "messages of %zu bytes are copied", j->n_bytes);
    out->most_bytes = most - copies;
    out->n = 0;
    int rc = chat_render(s->text, j->messages, j->n, j->think, &r, e);
    if (rc == OK)
        rc = text_encode(s->text, r.segs, r.n_stable, true, out, e);
    j->n_stable = out->n;
    if (rc == OK)
        rc = text_encode(s->text, r.segs + r.n_stable, r.n_segs - r.n_stable, false, out, e);
    chat_render_free(&r);
    return rc;
}

int sluice_chat_ids(const sluice *s, const sluice_message *m, size_t n_messages, bool think,
                    int32_t **ids, int64_t *n_ids, int64_t *n_stable, sluice_error *err)
{
    struct err *e = err_of(err);
    struct chat_message *msgs = calloc(n_messages ? n_messages : 1, sizeof(*msgs));
    struct chat_job job = {.messages = msgs, .n = n_messages, .think = think};
    struct text_ids out = {0};
    int rc = msgs ? OK : err_set(e, E_NOMEM, "no memory for %zu messages", n_messages);
    for (size_t i = 0; rc == OK && i < n_messages; i++) {
        rc = role_of(m[i].role, &msgs[i].role, e);
        msgs[i].content = m[i].content;
        msgs[i].reasoning = m[i].reasoning;
        job.n_bytes += (m[i].content ? strlen(m[i].content) : 0) + (m[i].reasoning ? strlen(m[i].reasoning) : 0);
    }
    if (rc == OK)
        rc = encode_counted(s, encode_chat, &job, job.n_bytes, &out, e);
    free(msgs);
    *n_stable = job.n_stable;
    if (rc < 0) {
        text_ids_free(&out);
        return rc;
    }
    return hand_out(&out, ids, n_ids);
}
