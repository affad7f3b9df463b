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
    x->logits_rows = plan_logits_rows(s);
    x->logits = calloc((size_t)x->logits_rows * (size_t)s->shape.n_vocab, sizeof(float));
    int rc = x->logits ? OK : err_set(e, E_NOMEM, "no memory for logits");
    if (rc == OK && s->n_sessions > 0) { /* the plan has room for the first one */
        x->state_bytes = s->needs.state +
                         (int64_t)sizeof(float) * x->logits_rows * s->shape.n_vocab;
        rc = plan_take(s, x->state_bytes, e);
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
    plan_give(x->s, x->kv_bytes + x->state_bytes);
    x->s->n_sessions--;
    free(x->ids);
    free(x->logits);
    free(x);
}

static void forget_kv(struct sluice_session *x)
{
    plan_give(x->s, x->kv_bytes);
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

const float *sluice_session_logits(const sluice_session *x)
{
    return x->has_logits ? x->logits : NULL;
}

/* ---- appending --------------------------------------------------------- */

static int grow(struct sluice_session *x, int64_t n, struct err *e)
{
    struct sluice *s = x->s;
    if (n > s->mo.context)
        return err_set(e, E_STATE, "the context is full: %lld tokens held, %lld asked for, %lld possible with this budget; raise --ctx or --memory",
                       (long long)x->n, (long long)n, (long long)s->mo.context);
    if (n > x->cap) {
        int64_t cap = MAX(n, 2 * x->cap);
        int32_t *ids = realloc(x->ids, (size_t)cap * sizeof(*ids));
        if (!ids)
            return err_set(e, E_NOMEM, "no memory for %lld token ids", (long long)cap);
        x->ids = ids;
        x->cap = cap;
    }
    int64_t steps = (n + 255) / 256 * 256;
    int64_t need = model_kv_bytes(s->model, &s->mo, n) + steps * (s->plan.kv_per_token - s->needs.kv_per_token);
    if (need > x->kv_bytes) {
        TRY(plan_take(s, need - x->kv_bytes, e));
        x->kv_bytes = need;
    }
    return OK;
}

struct counters {
    int64_t ns, read, busy, wait, requests, hits;
    int64_t guesses, useful, late, wasted, mirrors;
};

static void read_counters(struct sluice *s, struct counters *c)
{
    struct ioq_stats q;
    struct expert_stats x;
    ioq_get_stats(s->q, &q);
    expert_get_stats(model_experts(s->model), &x);
    *c = (struct counters){os_clock_ns(), q.bytes, q.busy_ns, q.wait_ns, x.n_requests, x.n_hits,
                           x.hint_queued, x.hint_useful, x.hint_late, x.hint_wasted, 0};
    for (int i = 1; i < IOQ_MAX_COPIES; i++)
        c->mirrors += q.copy_bytes[i];
}

static void count_step(struct sluice *s, const struct counters *a, enum phase phase, int64_t n)
{
    struct counters b;
    sluice_stats *t = &s->stats;
    read_counters(s, &b);
    t->read_busy_ns += b.busy - a->busy;
    t->read_wait_ns += b.wait - a->wait;
    t->mirror_read_bytes += b.mirrors - a->mirrors;
    t->guesses += b.guesses - a->guesses;
    t->guesses_useful += b.useful - a->useful;
    t->guesses_late += b.late - a->late;
    t->guesses_wasted += b.wasted - a->wasted;
    if (phase == PHASE_PROMPT) {
        t->prompt_tokens += n;
        t->prompt_ns += b.ns - a->ns;
        t->prompt_read_bytes += b.read - a->read;
    } else {
        t->decode_tokens += n;
        t->decode_ns += b.ns - a->ns;
        t->decode_read_bytes += b.read - a->read;
        t->experts_requested += b.requests - a->requests;
        t->expert_hits += b.hits - a->hits;
    }
}

/* Logits of the chunk's last token, or of all its tokens for on_logits. */
static int chunk_logits(struct sluice_session *x, int64_t n, sluice_logits_fn *on_logits, void *user,
                        struct err *e)
{
    struct model *m = x->s->model;
    int n_vocab = x->s->shape.n_vocab;
    int64_t first = x->n - n;
    for (int64_t i = 0; on_logits && i < n; i += x->logits_rows) {
        int64_t rows = MIN((int64_t)x->logits_rows, n - i);
        TRY(model_logits(m, i, rows, x->logits, e));
        for (int64_t r = 0; r < rows; r++)
            if (on_logits(user, first + i + r, x->logits + r * n_vocab, n_vocab))
                return err_set(e, E_CANCELLED, "stopped by the receiver of the logits");
    }
    TRY(model_logits(m, n - 1, 1, x->logits, e));
    x->has_logits = true;
    return OK;
}

static int append_chunk(struct sluice_session *x, const int32_t *ids, int64_t n, enum phase phase,
                        bool last, sluice_logits_fn *on_logits, void *user, struct err *e)
{
    static const struct trace_kind kinds[] = {[PHASE_PROMPT] = {"prompt", "token", {"position", "tokens"}},
                                              [PHASE_DECODE] = {"token", "token", {"position", "tokens"}}};
    struct counters c;
    read_counters(x->s, &c);
    x->has_logits = false;
    TRY(model_forward(x->s->model, x->state, ids, n, e));
    memmove(x->ids + x->n, ids, (size_t)n * sizeof(*ids));
    x->n += n;
    int rc = OK;
    if (last || on_logits)
        rc = chunk_logits(x, n, on_logits, user, e);
    count_step(x->s, &c, phase, n);
    if (x->s->trace)
        trace_add(x->s->trace, &kinds[phase], TRACE_DRIVER, c.ns, os_clock_ns(), (int64_t[]){x->n - n, n}, 2);
    return rc;
}

/* The same with `bytes` of scratch taken from the expert cache meanwhile. */
static int append_large_chunk(struct sluice_session *x, const int32_t *ids, int64_t n, int64_t bytes,
                              enum phase phase, bool last, sluice_logits_fn *on_logits, void *user,
                              struct err *e)
{
    if (bytes == 0)
        return append_chunk(x, ids, n, phase, last, on_logits, user, e);
    TRY(plan_take(x->s, bytes, e));
    int rc = append_chunk(x, ids, n, phase, last, on_logits, user, e);
    model_trim(x->s->model);
    plan_give(x->s, bytes);
    return rc;
}

int session_pulse(void *user, int layer)
{
    struct sluice *s = user;
    pressure_look(s);
    if (!s->o.progress)
        return 0;
    if (s->prompt.n == 0)
        return s->o.progress(s->o.user, "token", layer, s->shape.n_layers);
    return s->o.progress(s->o.user, "prompt", s->prompt.at + s->prompt.step * layer / s->shape.n_layers,
                         s->prompt.n);
}

int session_append(struct sluice_session *x, const int32_t *ids, int64_t n, enum phase phase,
                   sluice_logits_fn *on_logits, void *user, struct err *e)
{
    struct sluice *s = x->s;
    if (x->n + n > s->mo.context)
        return err_set(e, E_STATE, "%lld tokens do not fit: %lld are held and %lld are possible; raise --ctx or --memory",
                       (long long)n, (long long)x->n, (long long)s->mo.context);
    TRY(grow(x, x->n + n, e));
    int rc = OK;
    s->prompt.n = phase == PHASE_PROMPT ? n : 0;
    for (int64_t at = 0; at < n && rc == OK; at += s->prompt.step) {
        int64_t bytes;
        s->prompt.at = at;
        s->prompt.step = plan_chunk(s, n - at, (int64_t)expert_bytes(model_experts(s->model)), &bytes);
        rc = append_large_chunk(x, ids + at, s->prompt.step, bytes, phase, at + s->prompt.step == n, on_logits, user, e);
    }
    s->prompt.n = 0;
    if (rc == E_CANCELLED && !on_logits)
        return err_set(e, rc, "the prompt was cancelled");
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

int sluice_session_sync(sluice_session *x, const int32_t *ids, int64_t n, int64_t n_stable,
                        sluice_error *err)
{
    struct err *e = err_of(err);
    if (n < 1 || n_stable < 0 || n_stable > n)
        return err_set(e, E_ARG, "a prompt of %lld tokens with %lld stable ones is not possible", (long long)n,
                       (long long)n_stable);
    if (n > x->s->mo.context)
        return err_set(e, E_STATE, "the prompt has %lld tokens and the context holds %lld; raise --ctx or --memory",
                       (long long)n, (long long)x->s->mo.context);
    if (x->has_logits && x->n == n && common_prefix(x, ids, n) == n)
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
