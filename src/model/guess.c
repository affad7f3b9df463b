/*
 * Lookahead: the routers of the next two layers, applied to the residual stream
 * as it is, guess what they will pick; the drive reads it when little else is
 * to be read. No result depends on it.
 *
 * Two layers: one whose picks are all here would leave the drive without work
 * while the other waits. The farther one, about which less is known, gets half
 * as many guesses. How many follows from what becomes of them, unless the user
 * said it: fewer when many are wrong, none for a while when they take the
 * processor longer than they spare the drive's time.
 */
#include "model/model_internal.h"

enum { LAYERS_AHEAD = 2, DEFAULT_MOST = 6, PERIOD = 16, REST = 15 };

void guess_open(struct guess *g, int wanted, int n_used)
{
    int most = wanted < 0 ? 0 : wanted > 0 ? wanted : DEFAULT_MOST;
    *g = (struct guess){.adapts = wanted == 0, .most = MIN(most, n_used)};
    g->n = g->most;
}

/* Guesses that leave the cache unused cost reads and slots: more than a third of
 * them are too many. */
static void adapt_number(struct guess *g, int64_t queued, int64_t wasted)
{
    if (3 * wasted > queued)
        g->n = MAX(g->n * 3 / 4, 1);
    else if (6 * wasted < queued)
        g->n = MIN(g->n + 1, g->most);
}

/* Whether guessing took longer than the reads that it made early: a useful guess
 * spares the wait for an expert at most, a late one about half of it. */
static bool costs_more(const struct guess *g, const struct guess_totals *now)
{
    const struct guess_totals *s = &g->seen;
    double reads = (double)(now->misses - s->misses + now->queued - s->queued);
    double spared = (double)(now->useful - s->useful) + (double)(now->late - s->late) / 2;
    return reads > 0 ? (double)g->spent_ns > spared * (double)(now->busy_ns - s->busy_ns) / reads
                     : g->spent_ns > 0;
}

void guess_tick(struct guess *g, const struct guess_totals *now)
{
    if (!g->adapts || ++g->tokens % PERIOD)
        return;
    if (g->rest > 0) {
        if (--g->rest == 0)
            g->n = g->n_after;
    } else {
        adapt_number(g, now->queued - g->seen.queued, now->wasted - g->seen.wasted);
        if (costs_more(g, now)) {
            g->n_after = g->n;
            g->rest = REST;
            g->n = 0;
        }
    }
    g->seen = *now;
    g->spent_ns = 0;
}

/* What a router's input is normed with. */
static struct dev_ptr norm_of(const struct layer *l)
{
    if (l->experts.early)
        return DEV_NONE;
    return l->experts.router_norm.mem ? l->experts.router_norm : l->ffn_norm;
}

/* The layer's copy of its router, made when it is first asked for; NULL: none. */
static const struct dev_mat *copy_of(struct model *m, struct layer *l)
{
    struct experts *x = &l->experts;
    if (!x->guess.data.mem)
        return NULL;
    if (!x->guess_made)
        m->dev->ops->guess_copy(m->dev, &(struct dev_guess_copy){.router = &x->router,
                                                                 .norm = norm_of(l),
                                                                 .copy = x->guess.data});
    x->guess_made = true;
    return &x->guess;
}

/* The next layer that has experts; n_layers: there is none. */
static int next_with_experts(const struct model *m, int layer)
{
    do
        layer++;
    while (layer < m->c.n_layers && m->experts[layer].n_experts == 0);
    return layer;
}

/* The experts of a layer that stays and looks them up: no guesses, and all of them. */
static int know_layer(struct step *s, int layer, struct err *e)
{
    struct model *m = s->m;
    const struct experts *x = &m->layers[layer].experts;
    int32_t ids[DEV_MAX_USED];
    const size_t bytes = (size_t)x->n_used * sizeof(*ids);
    for (int64_t t = 0; t < s->n_tok; t++) {
        if (!span_alive(step_span(s, t)))
            continue;
        TRY(device_bring(m->dev, ids, dev_at(x->table, (size_t)m->scratch.host_ids[t] * bytes),
                         bytes, e));
        expert_guess(m->cache, layer, ids, (int)x->n_used);
    }
    return 1;
}

/* Each of several tokens gets as many guesses: there is as much more to be read. */
static int guess_layer(struct step *s, int layer, int n, struct err *e)
{
    struct model *m = s->m;
    int32_t ids[DEV_FEW_TOKENS * DEV_MAX_USED];
    const struct experts *x = &m->layers[layer].experts;
    const bool stays = x->guess.data.mem != NULL;
    const struct dev_mat *copy = NULL;
    if (stays && x->table.mem)
        return know_layer(s, layer, e);
    if (!(copy = copy_of(m, &m->layers[layer])))
        return 0;
    m->dev->ops->guess(m->dev, &(struct dev_guess){.x = m->scratch.x,
                                                   .n_tok = s->n_tok,
                                                   .copy = copy,
                                                   .scores = x->scores,
                                                   .eps = m->c.eps,
                                                   .n = n,
                                                   .ids = m->scratch.guess_ids});
    TRY(device_bring(m->dev, ids, m->scratch.guess_ids, (size_t)(s->n_tok * n) * sizeof(*ids),
                     e));
    for (int64_t t = 0; t < s->n_tok; t++)
        if (span_alive(step_span(s, t)))
            expert_guess(m->cache, layer, ids + t * n, n);
    return 1;
}

int guess_next(struct step *s, int layer, struct err *e)
{
    struct model *m = s->m;
    int n = m->guess.n;
    if (n <= 0 || expert_bytes(m->cache) >= m->cache_full_bytes)
        return OK;
    work_label(m, WORK_GUESS);
    int64_t begin = os_clock_ns();
    for (int k = next_with_experts(m, layer), i = 0; n > 0 && i < LAYERS_AHEAD && k < m->c.n_layers;
         k = next_with_experts(m, k), i++, n /= 2) {
        int made = guess_layer(s, k, n, e);
        TRY(made);
        if (!made)
            break;
    }
    m->guess.spent_ns += os_clock_ns() - begin;
    return OK;
}
