/*
 * Sessions: ids -> state. What a session holds already is never computed
 * again; the rest goes through the model in chunks.
 */
#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

int sluice_session_new(sluice *s, sluice_session **out, sluice_error *err)
{
    struct err *e = err_of(err);
    if (!s->dev || !s->q)
        return err_set(e, E_STATE, "the model was opened for tokenising only");
    struct sluice_session *x = calloc(1, sizeof(*x));
    if (!x)
        return err_set(e, E_NOMEM, "no memory for a session");
    x->s = s;
    x->logits_rows = s->plan.logits_rows;
    int rc = model_logits_new(s->model, x->logits_rows, &x->logits, e);
    if (rc == OK && s->n_sessions > 0) { /* the plan has room for the first one */
        x->state_bytes = s->plan.memory.state +
                         (int64_t)sizeof(float) * x->logits_rows * s->shape.n_vocab;
        rc = budget_take(s, x->state_bytes, e);
        if (rc < 0)
            x->state_bytes = 0;
    }
    if (rc == OK)
        rc = model_state_new(s->model, &x->state, e);
    s->n_sessions++;
    if (rc < 0) {
        sluice_session_free(x);
        return rc;
    }
    *out = x;
    return OK;
}

void sluice_session_free(sluice_session *x)
{
    if (!x)
        return;
    model_state_free(x->state);
    budget_give(x->s, x->kv_bytes + x->state_bytes);
    x->s->n_sessions--;
    free(x->ids);
    model_logits_free(x->logits);
    free(x);
}

static void forget_kv(struct sluice_session *x)
{
    budget_give(x->s, x->kv_bytes);
    x->kv_bytes = 0;
}

void sluice_session_reset(sluice_session *x)
{
    model_state_reset(x->state);
    forget_kv(x);
    x->n = 0;
    x->has_logits = false;
}

int64_t sluice_session_length(const sluice_session *x)
{
    return x->n;
}

const int32_t *sluice_session_ids(const sluice_session *x)
{
    return x->ids;
}

void sluice_session_get_stats_sized(const sluice_session *x, sluice_session_stats *out,
                                    size_t size)
{
    sized_give(SIZED_sluice_session_stats, &x->stats, out, size);
}

const float *sluice_session_logits(const sluice_session *x)
{
    return x->has_logits ? model_logits_row(x->logits, 0) : NULL;
}

/* ---- appending --------------------------------------------------------- */

int session_grow(struct sluice_session *x, int64_t n, struct err *e)
{
    struct sluice *s = x->s;
    if (n > s->mo.context)
        return err_set(e, E_STATE,
                       "the context is full: %lld tokens held, %lld asked for, %lld possible with "
                       "this budget; raise --ctx or --memory",
                       (long long)x->n, (long long)n, (long long)s->mo.context);
    if (n > x->cap) {
        int64_t cap = MAX(n, 2 * x->cap);
        int32_t *ids = realloc(x->ids, (size_t)cap * sizeof(*ids));
        if (!ids)
            return err_set(e, E_NOMEM, "no memory for %lld token ids", (long long)cap);
        x->ids = ids;
        x->cap = cap;
    }
    int64_t need = plan_kv_bytes(&s->inputs, n);
    if (need > x->kv_bytes) {
        TRY(budget_take(s, need - x->kv_bytes, e));
        x->kv_bytes = need;
    }
    return OK;
}

int session_pulse(void *user, int layer)
{
    struct sluice *s = user;
    budget_watch(s);
    if (!s->o.progress)
        return 0;
    if (s->prompt.n == 0)
        return s->o.progress(s->o.user, s->prompt.step_only ? "step" : "token", layer,
                             s->shape.n_layers);
    return s->o.progress(s->o.user, "prompt",
                         s->prompt.at + s->prompt.step * layer / s->shape.n_layers, s->prompt.n);
}

int session_append(struct sluice_session *x, const int32_t *ids, int64_t n, enum phase phase,
                   sluice_logits_fn *on_logits, void *user, struct err *e)
{
    struct sluice *s = x->s;
    int rc = OK;
    s->prompt = (struct prompt){.n = phase == PHASE_PROMPT ? n : 0};
    for (int64_t at = 0; at < n && rc == OK;) {
        struct step_span span = {.x = x,
                                 .ids = ids + at,
                                 .n = n - at,
                                 .phase = phase,
                                 .on_logits = on_logits,
                                 .logits_user = user};
        s->prompt.at = at;
        rc = step_spans(s, &span, 1, e);
        if (rc == OK && span.status < 0)
            rc = err_set(e, span.status, "%s", span.err.text);
        at += span.done;
    }
    s->prompt = (struct prompt){0};
    if (rc == E_CANCELLED && !on_logits) {
        err_clear(e);
        return err_set(e, rc, "the prompt was cancelled");
    }
    TRY(rc);
    if (phase == PHASE_PROMPT)
        TRY(model_unchanged(s->model, e));
    if (phase == PHASE_PROMPT && n > 0 && s->o.progress)
        s->o.progress(s->o.user, "prompt", n, n);
    return OK;
}

int sluice_session_append(sluice_session *x, const int32_t *ids, int64_t n,
                          sluice_logits_fn *on_logits, void *user, sluice_error *err)
{
    struct err *e = err_of(err);
    if (n < 1)
        return err_set(e, E_ARG, "nothing to append");
    TRY(check_list("token ids", ids, n, e));
    return session_append(x, ids, n, PHASE_PROMPT, on_logits, user, e);
}

/* ---- prefix reuse ------------------------------------------------------- */

static int64_t common_prefix(const struct sluice_session *x, const int32_t *ids, int64_t n)
{
    int64_t i = 0;
    while (i < x->n && i < n && x->ids[i] == ids[i])
        i++;
    return i;
}

/* Goes back to the longest state that is a prefix of `ids` and shorter than n. */
static void go_back(struct sluice_session *x, const int32_t *ids, int64_t n)
{
    int64_t same = MIN(common_prefix(x, ids, n), n - 1);
    int64_t snap = model_state_snapshot_length(x->state), keep = 0;
    if (model_state_rewind(x->state, same))
        keep = same;
    else if (snap > 0 && snap <= same && model_state_rewind(x->state, snap))
        keep = snap;
    if (keep == 0) {
        sluice_session_reset(x);
        return;
    }
    x->n = keep;
    x->has_logits = false;
}

/* The session holds exactly these, and what follows from them. */
static bool is_there(const struct sluice_session *x, const int32_t *ids, int64_t n)
{
    return x->has_logits && x->n == n && common_prefix(x, ids, n) == n;
}

int sluice_session_keep(sluice_session *x, const int32_t *ids, int64_t n, int64_t *n_kept,
                        sluice_error *err)
{
    struct err *e = err_of(err);
    if (n < 1)
        return err_set(e, E_ARG, "nothing of %lld tokens can be kept", (long long)n);
    TRY(check_list("token ids", ids, n, e));
    if (!is_there(x, ids, n))
        go_back(x, ids, n);
    *n_kept = x->n;
    return OK;
}

int sluice_session_snapshot(sluice_session *x, sluice_error *err)
{
    if (x->n == 0) /* the beginning can always be gone back to */
        return OK;
    if (!model_state_rewind(x->state, x->n))
        return err_set(err_of(err), E_STATE,
                       "a step of this session failed: its state at %lld tokens is lost; reset it, "
                       "or go back with sluice_session_keep",
                       (long long)x->n);
    model_state_snapshot(x->state);
    return OK;
}

int sluice_session_sync(sluice_session *x, const int32_t *ids, int64_t n, int64_t n_stable,
                        sluice_error *err)
{
    struct err *e = err_of(err);
    if (n < 1 || n_stable < 0 || n_stable > n)
        return err_set(e, E_ARG, "a prompt of %lld tokens with %lld stable ones is not possible",
                       (long long)n, (long long)n_stable);
    TRY(check_list("token ids", ids, n, e));
    if (n > x->s->mo.context)
        return err_set(
            e, E_STATE,
            "the prompt has %lld tokens and the context holds %lld; raise --ctx or --memory",
            (long long)n, (long long)x->s->mo.context);
    if (is_there(x, ids, n))
        return OK;
    go_back(x, ids, n);
    if (n_stable > x->n && n_stable < n) {
        TRY(session_append(x, ids + x->n, n_stable - x->n, PHASE_PROMPT, NULL, NULL, e));
        model_state_snapshot(x->state);
    }
    TRY(session_append(x, ids + x->n, n - x->n, PHASE_PROMPT, NULL, NULL, e));
    if (n_stable == n)
        model_state_snapshot(x->state);
    return OK;
}
