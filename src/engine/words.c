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

int sluice_tokenize(const sluice *s, const char *text, size_t n_bytes, bool markup, int32_t **ids,
                    int64_t *n_ids, sluice_error *err)
{
    struct text_segment seg = {.p = text, .n = n_bytes, .markup = markup};
    struct text_ids out = {0};
    struct err *e = err_of(err);
    int rc = text_encode(s->text, NULL, 0, true, &out, e);
    int64_t n_begin = out.n;
    if (rc == OK)
        rc = text_encode(s->text, &seg, 1, false, &out, e);
    if (rc == OK && markup && n_begin == 1 && out.n > 1 && out.id[1] == out.id[0]) { /* the text has it already */
        out.n--;
        memmove(out.id, out.id + 1, (size_t)out.n * sizeof(*out.id));
    }
    if (rc < 0) {
        text_ids_free(&out);
        return rc;
    }
    *ids = out.id;
    *n_ids = out.n;
    return OK;
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

int sluice_chat_ids(const sluice *s, const sluice_message *m, size_t n_messages, bool think,
                    int32_t **ids, int64_t *n_ids, int64_t *n_stable, sluice_error *err)
{
    struct err *e = err_of(err);
    struct chat_message *msgs = calloc(n_messages ? n_messages : 1, sizeof(*msgs));
    struct chat_render r = {0};
    struct text_ids out = {0};
    int rc = msgs ? OK : err_set(e, E_NOMEM, "no memory for %zu messages", n_messages);
    for (size_t i = 0; rc == OK && i < n_messages; i++) {
        rc = role_of(m[i].role, &msgs[i].role, e);
        msgs[i].content = m[i].content;
        msgs[i].reasoning = m[i].reasoning;
    }
    if (rc == OK)
        rc = chat_render(s->text, msgs, n_messages, think, &r, e);
    if (rc == OK)
        rc = text_encode(s->text, r.segs, r.n_stable, true, &out, e);
    *n_stable = out.n;
    if (rc == OK)
        rc = text_encode(s->text, r.segs + r.n_stable, r.n_segs - r.n_stable, false, &out, e);
    chat_render_free(&r);
    free(msgs);
    if (rc < 0) {
        text_ids_free(&out);
        return rc;
    }
    *ids = out.id;
    *n_ids = out.n;
    return OK;
}
