/*
 * One pass through the model for several sessions. What sessions append and
 * generate, alone or together, is a loop over this.
 *
 * A step takes as many tokens as its scratch has room for. Spans of one token
 * come first, each with its token: who decodes does not wait for prompts. What is
 * left of the room is shared among the others, none of which takes more than it wants
 * to at once. What fails for one span (its
 * context is full, no memory for it, a read of an expert that it picked) ends
 * that span and no other.
 */
#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

/* ---- who takes part -------------------------------------------------------- */

/* Tokens that the span would take at once. */
static int64_t wish(const struct step_span *x)
{
    return x->most > 0 ? MIN(x->n, x->most) : x->n;
}

static void end_span(struct step_span *x, int rc, const struct err *e)
{
    x->status = rc;
    x->err = *e;
    x->take = 0;
}

/* Shares `room` tokens out; begins with another span each time, so that of more
 * spans than tokens each has its turn. */
static void share(struct sluice *s, struct step_span *spans, int n, int64_t room)
{
    int first = n > 1 ? (int)(s->step_turn++ % (uint64_t)n) : 0, n_long = 0;
    for (int i = 0; i < n; i++) {
        struct step_span *x = &spans[(first + i) % n];
        x->take = x->status == OK && x->n == 1 && room > 0;
        room -= x->take;
        n_long += x->status == OK && x->n > 1;
    }
    for (int i = 0; i < n && n_long > 0; i++) {
        struct step_span *x = &spans[(first + i) % n];
        if (x->status < 0 || x->n == 1)
            continue;
        x->take = MIN(wish(x), (room + n_long - 1) / n_long);
        room -= x->take;
        n_long--;
    }
}

/* Room in the session's lists and in the budget for its part. */
static void make_room(struct step_span *x)
{
    struct err e = {0};
    int rc = x->take > 0 ? session_grow(x->x, x->x->n + x->take, &e) : OK;
    if (rc < 0)
        end_span(x, rc, &e);
}

static void check(struct sluice *s, struct step_span *x)
{
    struct err e = {0};
    int rc = OK;
    x->status = OK;
    x->err = (struct err){0};
    x->done = x->take = 0;
    if (x->x->s != s)
        rc = err_set(&e, E_ARG, "a session of another model cannot take part in the step");
    else if (x->n < 1)
        rc = err_set(&e, E_ARG, "nothing to append");
    else if (x->most < 0)
        rc = err_set(&e, E_ARG, "at most %lld tokens in one step are not possible",
                     (long long)x->most);
    else if (!x->ids)
        rc = check_list("token ids", x->ids, x->n, &e);
    else if (x->n > s->mo.context - x->x->n)
        rc = err_set(
            &e, E_STATE,
            "%lld tokens do not fit: %lld are held and %lld are possible; raise --ctx or --memory",
            (long long)x->n, (long long)x->x->n, (long long)s->mo.context);
    if (rc < 0)
        end_span(x, rc, &e);
}

/* ---- counting --------------------------------------------------------------- */

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
                           x.guess_queued, x.guess_useful, x.guess_late, x.guess_wasted, 0};
    for (int i = 1; i < IOQ_MAX_COPIES; i++)
        c->mirrors += q.copy_bytes[i];
}

/* Each session counts the time of the steps that it took part in, and of the bytes its
 * share by tokens. */
static void count_sessions(struct step_span *spans, int n, int64_t ns, int64_t read, int64_t n_tok)
{
    for (int i = 0; i < n; i++) {
        sluice_session_stats *t = &spans[i].x->stats;
        int64_t done = spans[i].done;
        if (done == 0)
            continue;
        t->n_steps++;
        *(spans[i].phase == PHASE_PROMPT ? &t->prompt_tokens : &t->decode_tokens) += done;
        *(spans[i].phase == PHASE_PROMPT ? &t->prompt_ns : &t->decode_ns) += ns;
        t->read_bytes += read * done / n_tok;
    }
}

/* A step with any prompt in it counts as one. */
static void count_step(struct sluice *s, const struct counters *a, struct step_span *spans, int n)
{
    struct counters b;
    sluice_stats *t = &s->stats;
    int64_t prompt = 0, decode = 0;
    read_counters(s, &b);
    for (int i = 0; i < n; i++)
        *(spans[i].phase == PHASE_PROMPT ? &prompt : &decode) += spans[i].done;
    if (prompt + decode == 0)
        return;
    count_sessions(spans, n, b.ns - a->ns, b.read - a->read, prompt + decode);
    t->read_busy_ns += b.busy - a->busy;
    t->read_wait_ns += b.wait - a->wait;
    t->mirror_read_bytes += b.mirrors - a->mirrors;
    t->guesses += b.guesses - a->guesses;
    t->guesses_useful += b.useful - a->useful;
    t->guesses_late += b.late - a->late;
    t->guesses_wasted += b.wasted - a->wasted;
    t->prompt_tokens += prompt;
    t->decode_tokens += decode;
    if (prompt) {
        t->prompt_ns += b.ns - a->ns;
        t->prompt_read_bytes += b.read - a->read;
        return;
    }
    t->decode_ns += b.ns - a->ns;
    t->decode_read_bytes += b.read - a->read;
    t->experts_requested += b.requests - a->requests;
    t->expert_hits += b.hits - a->hits;
}

static void trace_step(struct sluice *s, const struct counters *c, const struct step_span *spans,
                       int n)
{
    static const struct trace_kind kinds[] = {
        [PHASE_PROMPT] = {"prompt", "token", {"position", "tokens"}},
        [PHASE_DECODE] = {"token", "token", {"position", "tokens"}}};
    int64_t n_tok = 0;
    for (int i = 0; i < n; i++)
        n_tok += spans[i].done;
    if (s->trace)
        trace_add(s->trace, &kinds[spans[0].phase], TRACE_DRIVER, c->ns, os_clock_ns(),
                  (int64_t[]){spans[0].x->n - spans[0].done, n_tok}, 2);
}

/* ---- logits ------------------------------------------------------------------- */

/* One session wants the logits of all its positions. */
static int all_logits(struct step_span *p, int64_t first_row, struct err *e)
{
    struct sluice_session *x = p->x;
    struct model *m = x->s->model;
    int n_vocab = x->s->shape.n_vocab;
    int64_t first = x->n - p->done;
    for (int64_t i = 0; i < p->done; i += x->logits_rows) {
        int64_t rows[MODEL_LOGIT_ROWS], n = MIN((int64_t)x->logits_rows, p->done - i);
        for (int64_t r = 0; r < n; r++)
            rows[r] = first_row + i + r;
        TRY(model_logits(m, rows, n, x->logits, e));
        for (int64_t r = 0; r < n; r++) {
            TRY(model_logits_check(x->logits, r, e));
            if (p->on_logits(p->logits_user, first + i + r, model_logits_row(x->logits, r),
                             n_vocab))
                return err_set(e, E_CANCELLED, "stopped by the receiver of the logits");
        }
    }
    return OK;
}

/* The last rows of spans that are through, several at once in the first one's memory;
 * each session's own go to its first row. */
static void last_logits(struct sluice *s, struct step_span *const *list, const int64_t *rows, int n)
{
    struct model_logits *room = n ? list[0]->x->logits : NULL;
    int each = n ? list[0]->x->logits_rows : 1;
    for (int begin = (n - 1) / each * each; n > 0 && begin >= 0; begin -= each) {
        struct err e = {0};
        int k = MIN(each, n - begin);
        int rc = model_logits(s->model, rows + begin, k, room, &e);
        for (int i = 0; i < k; i++) {
            struct step_span *x = list[begin + i];
            struct err own = e;
            int mine = rc < 0 ? rc : model_logits_check(room, i, &own);
            if (mine < 0) {
                x->status = mine;
                x->err = own;
                continue;
            }
            if (x->x->logits != room)
                memcpy(model_logits_row(x->x->logits, 0), model_logits_row(room, i),
                       (size_t)s->shape.n_vocab * sizeof(float));
            x->x->has_logits = true;
        }
    }
}

static void give_logits(struct sluice *s, struct step_span *spans, int n, const int64_t *first_row)
{
    struct step_span *list[MODEL_MAX_SPANS];
    int64_t rows[MODEL_MAX_SPANS];
    int n_list = 0;
    for (int i = 0; i < n; i++) {
        struct step_span *x = &spans[i];
        if (x->done == 0)
            continue;
        if (x->on_logits) {
            struct err e = {0};
            int rc = all_logits(x, first_row[i], &e);
            if (rc < 0) {
                x->status = rc;
                x->err = e;
                continue;
            }
        }
        if (x->done < x->n && !x->on_logits)
            continue;
        list[n_list] = x;
        rows[n_list++] = first_row[i] + x->done - 1;
    }
    last_logits(s, list, rows, n_list);
}

/* ---- the step ------------------------------------------------------------------- */

/* Each session takes in what was computed for it. */
static void take_in(struct step_span *x, const struct model_span *m)
{
    if (m->status < 0) {
        x->status = m->status;
        x->err = m->err;
        x->x->has_logits = x->x->has_logits && !model_state_broken(x->x->state);
        return;
    }
    x->x->has_logits = false; /* until they are given */
    memmove(x->x->ids + x->x->n, x->ids, (size_t)x->take * sizeof(*x->ids));
    x->x->n += x->take;
    x->done = x->take;
}

static int run(struct sluice *s, struct step_span *spans, int n, struct err *e)
{
    struct model_span list[MODEL_MAX_SPANS];
    int64_t first_row[MODEL_MAX_SPANS];
    struct counters c;
    int n_list = 0;
    for (int i = 0; i < n; i++)
        if (spans[i].take > 0) {
            list[n_list++] = (struct model_span){.state = spans[i].x->state,
                                                 .ids = spans[i].ids,
                                                 .n = spans[i].take,
                                                 .cancelled = spans[i].cancelled,
                                                 .user = spans[i].user};
        }
    if (n_list == 0)
        return OK;
    read_counters(s, &c);
    TRY(model_step(s->model, list, n_list, e));
    for (int i = 0, k = 0; i < n; i++)
        if (spans[i].take > 0) {
            first_row[i] = list[k].first;
            take_in(&spans[i], &list[k++]);
        }
    give_logits(s, spans, n, first_row);
    count_step(s, &c, spans, n);
    trace_step(s, &c, spans, n);
    return OK;
}

int step_spans(struct sluice *s, struct step_span *spans, int n, struct err *e)
{
    int64_t wanted = 0, bytes;
    if (n < 1 || n > MODEL_MAX_SPANS)
        return err_set(e, E_ARG, "a step of %d sessions is not possible; 1 to %d are", n,
                       MODEL_MAX_SPANS);
    for (int i = 0; i < n; i++) {
        check(s, &spans[i]);
        wanted += spans[i].status == OK ? wish(&spans[i]) : 0;
        for (int k = 0; k < i; k++)
            if (spans[k].x == spans[i].x)
                return err_set(e, E_ARG, "a session stands twice in one step");
    }
    if (wanted == 0)
        return OK;
    int64_t room =
        plan_chunk(&s->plan, wanted, (int64_t)expert_bytes(model_experts(s->model)), &bytes);
    share(s, spans, n, room);
    for (int i = 0; i < n; i++)
        make_room(&spans[i]);
    s->prompt.step = spans[0].take;
    if (bytes == 0)
        return run(s, spans, n, e);
    TRY(budget_take(s, bytes, e)); /* scratch of a large chunk, from the expert cache meanwhile */
    int rc = run(s, spans, n, e);
    model_trim(s->model);
    budget_give(s, bytes);
    return rc;
}

/* ---- for hosts -------------------------------------------------------------------- */

_Static_assert((int)SLUICE_STEP_MOST == (int)MODEL_MAX_SPANS, "one limit");

/* The i-th span of a host whose spans have that size. */
static sluice_span *span_at(sluice_span *spans, int i, size_t size)
{
    return (sluice_span *)(void *)((char *)spans + (size_t)i * size);
}

static int take_span(const sluice_span *given, size_t size, int i, struct step_span *own,
                     struct err *e)
{
    sluice_span x;
    TRY(sized_take(SIZED_sluice_span, given, size, &x, e));
    if (!x.session)
        return err_set(e, E_ARG, "span %d of the step has no session", i + 1);
    *own = (struct step_span){.x = x.session, .ids = x.ids, .n = x.n, .most = x.most,
                              .phase = x.n == 1 ? PHASE_DECODE : PHASE_PROMPT,
                              .cancelled = x.cancelled, .user = x.user};
    return OK;
}

/* What was computed from files that are others by now is nobody's answer. */
static void check_step(struct sluice *s, struct step_span *spans, int n)
{
    struct err e = {0};
    int rc = model_unchanged(s->model, &e);
    for (int i = 0; i < n && rc < 0; i++)
        if (spans[i].done > 0) {
            spans[i].x->has_logits = false;
            spans[i].status = rc;
            spans[i].err = e;
        }
}

static void tell_span(sluice_span *out, const struct step_span *own, int rc)
{
    out->done = rc < 0 ? 0 : own->done;
    out->status = rc < 0 ? rc : own->status;
    out->error = (sluice_error){0};
    if (rc == OK && own->status < 0)
        memcpy(&out->error, &own->err, sizeof(out->error));
}

int sluice_step_sized(sluice *s, sluice_span *spans, int n, size_t span_size, sluice_error *err)
{
    struct err *e = err_of(err);
    struct step_span own[MODEL_MAX_SPANS];
    if (!s->dev || !s->q)
        return err_set(e, E_STATE, "the model was opened for tokenising only");
    if (n < 1 || n > MODEL_MAX_SPANS)
        return err_set(e, E_ARG, "a step of %d sessions is not possible; 1 to %d are", n,
                       MODEL_MAX_SPANS);
    TRY(check_list("sessions", spans, n, e));
    for (int i = 0; i < n; i++)
        TRY(take_span(span_at(spans, i, span_size), span_size, i, &own[i], e));
    s->prompt = (struct prompt){.step_only = true};
    int rc = step_spans(s, own, n, e);
    s->prompt = (struct prompt){0};
    if (rc == OK)
        check_step(s, own, n);
    for (int i = 0; i < n; i++)
        tell_span(span_at(spans, i, span_size), &own[i], rc);
    return rc;
}
