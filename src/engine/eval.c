/* Perplexity of a stream of ids, and whether an answer is recalled exactly. */
#include "engine/engine.h"

#include <math.h>
#include <stdlib.h>

/* -log softmax(logits)[id], in double. */
static double nll_of(const float *logits, int n, int32_t id)
{
    double max = (double)logits[0], sum = 0.0;
    for (int i = 1; i < n; i++)
        max = (double)logits[i] > max ? (double)logits[i] : max;
    for (int i = 0; i < n; i++)
        sum += exp((double)logits[i] - max);
    return log(sum) + max - (double)logits[id];
}

struct window {
    const int32_t *next; /* next[p] is to be predicted at position p */
    int64_t n;
    double nll;
    int64_t seen;
};

static int on_window(void *user, int64_t position, const float *logits, int n_vocab)
{
    struct window *w = user;
    if (position < w->n && w->next[position] < n_vocab) {
        w->nll += nll_of(logits, n_vocab, w->next[position]);
        w->seen++;
    }
    return 0;
}

int sluice_eval_perplexity(sluice_session *x, const int32_t *ids, int64_t n, int context,
                           double *perplexity, int64_t *n_predicted, sluice_error *err)
{
    struct err *e = err_of(err);
    double nll = 0.0;
    int64_t seen = 0;
    if (n < 2 || context < 1)
        return err_set(
            e, E_ARG, "perplexity needs at least 2 ids and a window of at least 1; got %lld and %d",
            (long long)n, context);
    TRY(check_list("token ids", ids, n, e));
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= x->s->shape.n_vocab)
            return err_set(e, E_ARG, "token id %d at place %lld is outside the vocabulary of %d",
                           ids[i], (long long)i, x->s->shape.n_vocab);
    for (int64_t at = 0; at + 1 < n; at += context) {
        struct window w = {.next = ids + at + 1, .n = MIN((int64_t)context, n - 1 - at)};
        sluice_session_reset(x);
        TRY(session_append(x, ids + at, w.n, PHASE_PROMPT, on_window, &w, e));
        nll += w.nll;
        seen += w.seen;
    }
    *perplexity = exp(nll / (double)seen);
    if (n_predicted)
        *n_predicted = seen;
    return OK;
}

/* The answer is fed at once and must be what greedy decoding would have
 * chosen at each place: the same ids, computed as a chunk. */
struct expected {
    const struct text *text;
    const int32_t *next;
    int64_t first, n; /* position of the first prediction; answers left */
    bool equal;
};

static int on_answer(void *user, int64_t position, const float *logits, int n_vocab)
{
    struct expected *x = user;
    int64_t i = position - x->first;
    if (i < 0)
        return 0;
    int32_t got = sample_greedy(x->text, logits, n_vocab);
    x->equal &= i < x->n ? got == x->next[i] : text_is_eog(x->text, got);
    return 0;
}

int sluice_eval_recall(sluice_session *x, const char *question, const char *answer, bool *recalled,
                       sluice_error *err)
{
    struct err *e = err_of(err);
    sluice_message m = {.role = "user", .content = question};
    struct text_segment seg = {.p = answer, .n = 0};
    struct text_ids all = {0};
    int32_t *prompt = NULL;
    int64_t n_prompt = 0, n_stable;
    if (!question || !answer)
        return err_set(e, E_ARG, "a question and its answer are needed");
    while (answer[seg.n])
        seg.n++;
    int rc = sluice_chat_ids(x->s, &m, 1, false, &prompt, &n_prompt, &n_stable, err);
    if (rc == OK)
        rc = text_encode(x->s->text, &seg, 1, false, &all, e);
    if (rc == OK) {
        struct expected want = {.text = x->s->text, .next = all.id, .first = n_prompt - 1,
                                .n = all.n, .equal = true};
        sluice_session_reset(x);
        rc = session_append(x, prompt, n_prompt, PHASE_PROMPT, on_answer, &want, e);
        if (rc == OK && all.n > 0 && want.equal)
            rc = session_append(x, all.id, all.n, PHASE_PROMPT, on_answer, &want, e);
        *recalled = want.equal;
    }
    free(prompt);
    text_ids_free(&all);
    return rc;
}
