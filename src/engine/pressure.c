/*
 * The budget holds while other programs grow: when memory of the machine or
 * of the cgroup runs short, the expert cache gives slots back before anything
 * is paged or killed, and takes them again later. Looked at once a layer, at
 * most every 50 ms; no thread of its own.
 */
#include "engine/engine.h"

enum { PERIOD_NS = 50 * 1000 * 1000 };

/* Below `low` the cache shrinks until one and a half times that is free; above
 * twice `low` it grows again. */
static int64_t low_water(const struct os_memory *m)
{
    int64_t total = MIN(m->total, m->cgroup_limit) / 50;
    return MAX((int64_t)4 << 20, MIN(total, (int64_t)256 << 20));
}

static int64_t free_now(const struct os_memory *m)
{
    return m->cgroup_limit == INT64_MAX ? m->available : MIN(m->available, m->cgroup_limit - m->cgroup_used);
}

int64_t pressure_start(struct sluice *s)
{
    struct os_memory m;
    os_memory(&m);
    /* a budget may be larger than the machine: the cache then begins with what
     * is there and the rest of the plan leaves */
    int64_t others = s->plan.budget - s->plan.cache - MIN(os_rss(), s->plan.process);
    int64_t room = free_now(&m) - MAX(others, (int64_t)0) - 2 * low_water(&m);
    s->pressure_cap = room < s->plan.cache ? MAX(room, s->plan.cache_min) : INT64_MAX;
    return MIN(s->plan.cache, s->pressure_cap);
}

static bool all_slots_used(struct expert_cache *c)
{
    struct expert_stats x;
    expert_get_stats(c, &x);
    return x.slots_in_use * 20 >= x.n_slots * 19;
}

void pressure_look(struct sluice *s)
{
    struct os_memory m;
    int64_t now = os_clock_ns();
    if (now < s->pressure_next_ns)
        return;
    s->pressure_next_ns = now + PERIOD_NS;
    os_memory(&m);
    int64_t free_bytes = free_now(&m), low = low_water(&m);
    struct expert_cache *c = model_experts(s->model);
    int64_t cache = (int64_t)expert_bytes(c);
    if (free_bytes < low) {
        s->pressure_cap = MAX(cache - (low - free_bytes) - low / 2, s->plan.cache_min);
        if (s->pressure_cap < cache)
            expert_resize(c, (size_t)s->pressure_cap);
    } else if (s->pressure_cap != INT64_MAX && free_bytes > 2 * low && all_slots_used(c)) {
        /* slots become physical only as they are used: small steps, each after
         * the one before has been filled */
        s->pressure_cap += MIN(low / 2, free_bytes - 2 * low);
        plan_give(s, 0);
        if (s->pressure_cap >= s->plan.cache)
            s->pressure_cap = INT64_MAX;
    }
}
