/*
 * Lookahead: the routers of the next two layers, applied to the residual stream
 * as it is, guess what they will pick; the drive reads it when little else is
 * to be read. No result depends on it.
 *
 * Two layers: one whose picks are all here would leave the drive without work
 * while the other waits. The farther one, about which less is known, gets half
 * as many guesses. How many follows from what becomes of them, unless the user
 * said it.
 */
#include "model/model_internal.h"

enum { LAYERS_AHEAD = 2, DEFAULT_MOST = 6, PERIOD = 16 };

void guess_open(struct guess *g, int wanted, int n_used)
{
    int most = wanted < 0 ? 0 : wanted > 0 ? wanted : DEFAULT_MOST;
    *g = (struct guess){.adapts = wanted == 0, .most = MIN(most, n_used)};
    g->n = g->most;
}

/* After each token; totals of the cache. Guesses that leave the cache unused
 * cost reads and slots: more than a third of them are too many. */
void guess_tick(struct guess *g, int64_t queued, int64_t wasted)
{
    if (!g->adapts || ++g->tokens % PERIOD)
        return;
    int64_t q = queued - g->queued, w = wasted - g->wasted;
    g->queued = queued;
    g->wasted = wasted;
    if (3 * w > q)
        g->n = MAX(g->n * 3 / 4, 1);
    else if (6 * w < q)
        g->n = MIN(g->n + 1, g->most);
}

void guess_next(struct model *m, int il)
{
    int32_t ids[DEV_MAX_USED];
    int n = m->guess.n;
    if (n <= 0 || expert_bytes(m->cache) >= m->cache_full_bytes)
        return;
    work_label(m, WORK_GUESS);
    for (int k = il + 1; n > 0 && k <= il + LAYERS_AHEAD && k < m->c.n_layers && dense_stays(m, k); k++, n /= 2) {
        const struct layer *l = &m->layers[k];
        device_moe_guess(m->dev, m->scratch.x, l->ffn_norm, m->c.eps, &l->router, ids, n);
        expert_hint(m->cache, k, ids, n);
    }
}
