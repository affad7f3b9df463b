/* Ids as they come -> whole characters. */
#include "engine/engine.h"

#include <stdlib.h>

int stream_put(struct sluice_text_stream *t, int32_t id, bool flush, struct str *out,
               struct err *e)
{
    enum { HELD = 16 }; /* more than can be held back */
    struct str piece = {"", 0};
    *out = piece;
    if (!flush && text_piece(t->text, id, false, &piece) < 0)
        return err_set(e, E_ARG, "token id %d is outside the vocabulary of %lld", id,
                       (long long)text_n_tokens(t->text));
    if (piece.n + HELD > t->cap) {
        char *p = realloc(t->buf, piece.n + 64);
        if (!p)
            return err_set(e, E_NOMEM, "no memory for a token's text");
        t->buf = p;
        t->cap = piece.n + 64;
    }
    *out = (struct str){t->buf, text_stream_push(&t->held, piece, flush, t->buf)};
    return OK;
}

int sluice_text_stream_new(const sluice *s, sluice_text_stream **out, sluice_error *err)
{
    struct err *e = err_of(err);
    struct str nothing;
    struct sluice_text_stream *t = calloc(1, sizeof(*t));
    if (!t)
        return err_set(e, E_NOMEM, "no memory for a stream of text");
    t->text = s->text;
    int rc = stream_put(t, 0, true, &nothing, e); /* from now on its end needs no memory */
    if (rc < 0)
        sluice_text_stream_free(t);
    else
        *out = t;
    return rc;
}

void sluice_text_stream_free(sluice_text_stream *t)
{
    if (t)
        free(t->buf);
    free(t);
}

void sluice_text_stream_begin(sluice_text_stream *t)
{
    text_stream_begin(t->text, &t->held);
}

int sluice_text_stream_put(sluice_text_stream *t, int32_t id, const char **text, size_t *n_bytes,
                           sluice_error *err)
{
    struct str out;
    TRY(stream_put(t, id, false, &out, err_of(err)));
    *text = out.p;
    *n_bytes = out.n;
    return OK;
}

void sluice_text_stream_end(sluice_text_stream *t, const char **text, size_t *n_bytes)
{
    struct str out;
    (void)stream_put(t, 0, true, &out, NULL);
    *text = out.p;
    *n_bytes = out.n;
}
