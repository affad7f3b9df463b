/*
 * Experts of many tokens: each picked expert is read once and used for all its
 * tokens, in ascending id, with reads running ahead in a window of leases.
 */
#include "model/model_internal.h"

#include <string.h>

/* Sorts (token, pick) pairs by expert, tokens ascending: rows of expert x are
 * host_tokens[first[x] .. first[x + 1]). Tokens of spans that have ended are left out. */
static int64_t group_by_expert(const struct step *s, int64_t n_experts, int64_t n_used,
                               bool weighted)
{
    struct scratch *t = &s->m->scratch;
    int32_t *first = t->host_first;
    memset(first, 0, (size_t)(n_experts + 1) * sizeof(*first));
    for (int k = 0; k < s->n_spans; k++) {
        const struct model_span *x = &s->spans[k];
        for (int64_t i = x->first * n_used; span_alive(x) && i < (x->first + x->n) * n_used; i++)
            first[t->host_picks[i] + 1]++;
    }
    for (int64_t x = 0; x < n_experts; x++)
        first[x + 1] += first[x];
    const int64_t n_rows = first[n_experts];
    for (int k = 0; k < s->n_spans; k++) { /* first[x] runs to the start of x + 1 ... */
        const struct model_span *x = &s->spans[k];
        for (int64_t i = x->first * n_used; span_alive(x) && i < (x->first + x->n) * n_used; i++) {
            int32_t at = first[t->host_picks[i]]++;
            t->host_tokens[at] = (int32_t)(i / n_used);
            t->host_factors[at] = weighted ? 1.0f : t->host_weights[i]; /* the input has it */
        }
    }
    for (int64_t x = n_experts; x > 0; x--) /* ... and is moved back */
        first[x] = first[x - 1];
    first[0] = 0;
    return n_rows;
}

enum { WINDOW_MAX = 32 };

struct window {
    struct expert_lease lease[WINDOW_MAX];
    int head, n; /* oldest lease, leases held */
    int32_t next;
    struct expert_lease *kept; /* (n_experts) not yet in the window; slot -1: none */
};

static bool has_rows(const struct model *m, int32_t id)
{
    const int32_t *first = m->scratch.host_first;
    return first[id] < first[id + 1];
}

/* What is here is leased before the first read, which would take the slots of what is
 * needed last. Half of the free slots are left for reads, or a window. */
static void keep_known(struct model *m, int layer, struct window *w)
{
    const int reserve = MIN((expert_free_slots(m->cache, layer) + 1) / 2, (int)WINDOW_MAX);
    for (int32_t x = 0; x < (int32_t)m->layers[layer].experts.n_experts; x++) {
        w->kept[x].slot = -1;
        if (has_rows(m, x) && expert_free_slots(m->cache, layer) > reserve)
            expert_keep(m->cache, layer, x, &w->kept[x]);
    }
    expert_request(m->cache, layer, NULL, 0, NULL, NULL); /* drops what was guessed wrong */
}

static void drop_kept(struct model *m, int layer, struct window *w)
{
    for (int64_t x = 0; x < m->layers[layer].experts.n_experts; x++)
        expert_release(m->cache, &w->kept[x]);
}

/* Leases further experts that have tokens, as far as slots allow. */
static int refill(struct model *m, int layer, struct window *w, struct err *e)
{
    const int64_t n_experts = m->layers[layer].experts.n_experts;
    for (; w->next < n_experts && w->n < WINDOW_MAX; w->next++) {
        struct expert_lease *kept = &w->kept[w->next];
        struct expert_lease *lease = &w->lease[(w->head + w->n) % WINDOW_MAX];
        if (!has_rows(m, w->next))
            continue;
        if (kept->slot >= 0) {
            *lease = *kept;
            kept->slot = -1;
            w->n++;
            continue;
        }
        if (expert_free_slots(m->cache, layer) < 1) {
            if (w->n > 0)
                return OK;
            TRY(used_wait(m, e)); /* all slots hold what may not be finished yet */
        }
        TRY(expert_request(m->cache, layer, &w->next, 1, lease, e));
        w->n++;
    }
    return OK;
}

/* While the next layer's mixer computes, its first experts can be read: with
 * several tokens for each expert, nearly all of them will be picked. */
static void read_on(struct model *m, int layer, int64_t n_tok)
{
    int32_t ids[WINDOW_MAX];
    if (m->options.lookahead < 0 || layer >= m->c.n_layers || m->experts[layer].n_experts == 0 ||
        n_tok * m->c.n_used < 4 * m->c.n_experts)
        return;
    int n = (int)MIN(m->c.n_experts, (int64_t)WINDOW_MAX);
    for (int i = 0; i < n; i++)
        ids[i] = i;
    expert_guess(m->cache, layer, ids, n);
}

static void compute_one(struct step *s, const struct dev_ffn *a, const struct layer *l,
                        const struct expert_lease *lease)
{
    struct model *m = s->m;
    const int32_t *first = m->scratch.host_first;
    struct dev_expert x = experts_leased(m, l, lease);
    x.first_row = first[lease->expert];
    x.n_rows = first[lease->expert + 1] - x.first_row;
    m->expert_dev->ops->experts(m->expert_dev, a, &x, 1);
}

/* The read of an expert failed: the spans that picked it end. */
static void fail_expert(struct step *s, int expert, int rc, const struct err *e)
{
    const struct scratch *t = &s->m->scratch;
    for (int32_t i = t->host_first[expert]; i < t->host_first[expert + 1]; i++)
        step_fail(s, step_span(s, t->host_tokens[i]), rc, e);
}

static int compute_window(struct step *s, int layer, const struct dev_ffn *a, struct window *w,
                          struct err *e)
{
    struct model *m = s->m;
    const struct layer *l = &m->layers[layer];
    while (w->n > 0 && step_alive(s)) {
        struct expert_lease *lease = &w->lease[w->head];
        struct err why = {0};
        int rc = expert_wait(m->cache, lease, &why);
        if (rc < 0)
            fail_expert(s, lease->expert, rc, &why);
        else
            compute_one(s, a, l, lease);
        if (m->used.n + WINDOW_MAX >= MOST_LEASES) /* the device is far behind */
            TRY(used_wait(m, e));
        used_add(m, lease);
        used_release(m);
        w->head = (w->head + 1) % WINDOW_MAX;
        w->n--;
        TRY(refill(m, layer, w, e));
    }
    return OK;
}

int experts_many(struct step *s, int layer, struct err *e)
{
    struct model *m = s->m;
    struct scratch *t = &m->scratch;
    const struct layer *l = &m->layers[layer];
    const struct dev_ffn a = experts_args(s, l, true);
    const struct device_ops *ops = m->expert_dev->ops;
    const size_t picks = (size_t)(s->n_tok * a.n_used);
    struct window w = {.kept = t->host_kept};
    if (m->dev == m->expert_dev) /* else they came with the input */
        TRY(device_bring(m->dev, t->host_weights, t->weights, picks * sizeof(float), e));
    const size_t n_rows = (size_t)group_by_expert(s, l->experts.n_experts, a.n_used,
                                                  l->experts.weighted);
    ops->put(m->expert_dev, t->x_dev.tokens, t->host_tokens, n_rows * sizeof(int32_t));
    ops->put(m->expert_dev, t->x_dev.factors, t->host_factors, n_rows * sizeof(float));
    ops->zero(m->expert_dev, a.y, (size_t)(s->n_tok * a.n_embd) * sizeof(float));
    keep_known(m, layer, &w);
    int rc = refill(m, layer, &w, e);
    if (rc == OK && l->experts.shared_down.n_out && m->dev == m->expert_dev) {
        struct dev_expert shared = experts_shared(l, s->n_tok);
        work_label(m, WORK_SHARED);
        ops->experts(m->expert_dev, &a, &shared, 1);
    }
    if (rc == OK && l->ffn->meanwhile)
        l->ffn->meanwhile(s, l);
    work_label(m, WORK_EXPERTS);
    if (rc == OK)
        rc = compute_window(s, layer, &a, &w, e);
    for (; w.n > 0; w.n--, w.head = (w.head + 1) % WINDOW_MAX)
        used_add(m, &w.lease[w.head]);
    used_release(m);
    drop_kept(m, layer, &w);
    if (rc == OK)
        read_on(m, layer + 1, s->n_tok);
    return rc;
}
