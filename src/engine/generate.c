/* The generation loop: logits -> id -> text -> callback -> one step further. */
#include "engine/engine.h"

#include <stdlib.h>

struct run {
    struct sluice_session *x;
    struct sluice_text_stream stream;
    sluice_token_fn *on_token;
    void *user;
};

/* Hands over the text that became complete; *answer: what the callback said. */
static int emit(struct run *r, int32_t id, bool flush, int *answer, struct err *e)
{
    struct str text;
    TRY(stream_put(&r->stream, id, flush, &text, e));
    if (r->on_token && (!flush || text.n > 0))
        *answer = r->on_token(r->user, flush ? -1 : id, text.p, text.n);
    return OK;
}

static int loop(struct run *r, struct sampler *z, int64_t max_tokens, sluice_finish *finish,
                struct err *e)
{
    struct sluice_session *x = r->x;
    const struct text *text = x->s->text;
    int answer = 0;
    int32_t id = 0;
    *finish = SLUICE_FINISH_LENGTH;
    for (int64_t i = 0; max_tokens < 0 || i < max_tokens; i++) {
        id = sampler_next(z, text, model_logits_row(x->logits, 0), x->ids, x->n);
        if (text_is_eog(text, id)) {
            *finish = SLUICE_FINISH_END;
            break;
        }
        if (x->n + 1 > x->s->mo.context)
            break;
        TRY(emit(r, id, false, &answer, e));
        int rc = answer < 0 ? E_CANCELLED : session_append(x, &id, 1, PHASE_DECODE, NULL, NULL, e);
        if (rc < 0 && rc != E_CANCELLED)
            return rc;
        if (rc == E_CANCELLED || answer) {
            err_clear(e);
            *finish = SLUICE_FINISH_STOPPED;
            break;
        }
    }
    return emit(r, id, true, &answer, e);
}

int sluice_generate(sluice_session *x, const sluice_sampling *p, int64_t max_tokens,
                    sluice_token_fn *on_token, void *user, sluice_finish *finish, sluice_error *err)
{
    struct err *e = err_of(err);
    struct run r = {.x = x, .stream = {.text = x->s->text}, .on_token = on_token, .user = user};
    struct sampler *z = NULL;
    sluice_sampling known;
    sluice_finish ignored;
    TRY(sized_options(SIZED_sluice_sampling, p, &known, e));
    if (!x->has_logits)
        return err_set(e, E_STATE, "nothing to continue: the session holds no computed prompt");
    int rc = sampler_new(&known, x->s->shape.n_vocab, &z, e);
    if (rc == OK)
        rc = loop(&r, z, max_tokens, finish ? finish : &ignored, e);
    if (rc == OK)
        rc = model_unchanged(x->s->model, e);
    sampler_free(z);
    free(r.stream.buf);
    return rc;
}
