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
    return reads > 0 ? (double)g->spent_ns > spared * (double)(now->busy_ns - s->busy_ns) / reads : g->spent_ns > 0;
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

/* The layer's copy of its router, made when it is first asked for; NULL: none. */
static const struct dev_mat *copy_of(struct model *m, struct layer *l)
{
    if (!l->guess.data)
        return NULL;
    if (!l->guess_made)
        device_guess_copy(m->dev, &l->router, l->ffn_norm, (void *)(uintptr_t)l->guess.data);
    l->guess_made = true;
    return &l->guess;
}

void guess_next(struct model *m, int il)
{
    int32_t ids[DEV_MAX_USED];
    int n = m->guess.n;
    if (n <= 0 || expert_bytes(m->cache) >= m->cache_full_bytes)
        return;
    work_label(m, WORK_GUESS);
    for (int k = il + 1; n > 0 && k <= il + LAYERS_AHEAD && k < m->c.n_layers; k++, n /= 2) {
        const struct dev_mat *copy = copy_of(m, &m->layers[k]);
        if (!copy)
            return;
        int64_t begin = os_clock_ns();
        device_guess(m->dev, m->scratch.x, copy, ids, n);
        expert_hint(m->cache, k, ids, n);
        m->guess.spent_ns += os_clock_ns() - begin;
    }
}
