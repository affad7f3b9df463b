/*
 * replay: recorded picks through a cache that reads nothing, to learn what a
 * cache of that size would hit. The decisions are those of the real one: it is
 * the real one, without queue and memory.
 */
#include "expert/cache_impl.h"

#include <stdlib.h>

static int replay_layer(struct expert_cache *c, int layer, const int32_t *ids, int n,
                        struct expert_lease *leases, struct err *e)
{
    TRY(expert_request(c, layer, ids, n, leases, e));
    for (int i = 0; i < n; i++)
        expert_release(c, &leases[i]);
    return OK;
}

static int replay_token(struct expert_cache *c, const int32_t *ids, struct expert_lease *leases,
                        struct err *e)
{
    for (int il = 0; il < c->n_layers; il++, ids += c->n_used) {
        int n = 0;
        while (n < c->n_used && ids[n] >= 0)
            n++;
        if (n > 0)
            TRY(replay_layer(c, il, ids, n, leases, e));
    }
    expert_tick(c);
    return OK;
}

int expert_replay(const struct expert_config *cfg, const int32_t *ids, int64_t n_tokens,
                  int64_t n_first, double *hit_rate, struct err *e)
{
    struct expert_config dry = *cfg;
    struct expert_cache *c = NULL;
    struct expert_stats before = {0}, after = {0};
    dry.ioq = NULL;
    TRY(expert_open(&dry, &c, e));
    struct expert_lease *leases = calloc((size_t)cfg->n_used, sizeof *leases);
    int rc = leases ? OK : err_set(e, E_NOMEM, "expert cache: no memory for a replay");
    for (int64_t t = 0; t < n_tokens && rc == OK; t++) {
        if (t == n_first)
            expert_get_stats(c, &before);
        rc = replay_token(c, ids + t * c->n_layers * c->n_used, leases, e);
    }
    expert_get_stats(c, &after);
    int64_t n = after.n_requests - before.n_requests;
    if (rc == OK && n == 0)
        rc = err_set(e, E_ARG, "expert cache: the replay has no picks to count");
    if (rc == OK)
        *hit_rate = (double)(after.n_hits - before.n_hits) / (double)n;
    free(leases);
    expert_close(c);
    return rc;
}
