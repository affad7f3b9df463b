/*
 * The budget while a model runs. Invariant, kept by budget_take and budget_give:
 *     process + dense + scratch + states + what is taken + expert cache <= budget.
 * A session grows by taking from the expert cache, down to its smallest size.
 *
 * It holds while other programs grow: when memory of the machine or of the
 * cgroup runs short, the expert cache gives slots back before anything is paged or
 * killed, and takes them again later. Looked at once a layer, at most every 50 ms; no
 * thread of its own.
 */
#include "engine/engine.h"

enum { PERIOD_NS = 50 * 1000 * 1000 };

/* ---- taking and giving ---------------------------------------------------- */

/* What the budget leaves for the expert cache. */
static int64_t room_for_cache(const struct sluice *s)
{
    const sluice_memory *m = &s->plan.memory;
    return m->budget - m->process - m->dense - m->state - m->scratch - s->budget.taken;
}

int64_t budget_left(const struct sluice *s)
{
    return room_for_cache(s) - s->plan.memory.cache_min;
}

int budget_take(struct sluice *s, int64_t bytes, struct err *e)
{
    int64_t least = s->plan.memory.cache_min, room = room_for_cache(s) - bytes;
    if (room < (s->o.tokenizer_only ? 0 : least))
        return err_set(
            e, E_STATE,
            "the memory budget is used up: %lld more bytes are needed and the expert "
            "cache is at its smallest; raise --memory",
            (long long)bytes);
    account_look(s);
    /* While memory is short, what is taken comes from the cache in any case. */
    if (s->budget.cache_most != INT64_MAX)
        s->budget.cache_most -= bytes;
    room = MAX(MIN(room, s->budget.cache_most), least);
    struct expert_cache *c = model_experts(s->model);
    if (c && (int64_t)expert_bytes(c) > room)
        expert_resize(c, (size_t)room);
    s->budget.taken += bytes;
    return OK;
}

void budget_give(struct sluice *s, int64_t bytes)
{
    s->budget.taken -= bytes;
    if (s->budget.cache_most != INT64_MAX)
        s->budget.cache_most += bytes;
    int64_t most = MIN(room_for_cache(s), s->budget.cache_most);
    int64_t want = MIN(s->plan.memory.cache_full, most);
    struct expert_cache *c = model_experts(s->model);
    account_look(s);
    if (c && want > (int64_t)expert_bytes(c))
        expert_resize(c, (size_t)want);
}

int budget_answers(struct sluice *s, int64_t more, struct err *e)
{
    /* So much every plan has room for: what encoding takes it does not take meanwhile. */
    enum { FREE = 256 << 10, STEP = 256 << 10 };
    struct budget *b = &s->budget;
    int64_t beyond = MAX(b->answers + more - FREE, (int64_t)0);
    int64_t want = (beyond + STEP - 1) / STEP * STEP, take = want - b->answers_taken;
    if (take > 0 && budget_take(s, take, NULL) < 0)
        return err_set(e, E_BUDGET,
                       "%lld bytes of answers do not fit the memory budget of %.1f MiB, in which "
                       "%.1f MiB are left; raise --memory",
                       (long long)(b->answers + more), (double)s->plan.memory.budget / 1048576.0,
                       (double)MAX(budget_left(s), (int64_t)0) / 1048576.0);
    if (take < 0)
        budget_give(s, -take);
    b->answers_taken = want;
    b->answers += more;
    return OK;
}

/* ---- pressure ------------------------------------------------------------- */

/* Below `low` the cache shrinks until one and a half times that is free; above
 * twice `low` it grows again. */
static int64_t low_water(const struct os_memory *m)
{
    int64_t total = MIN(m->total, m->cgroup_limit) / 50;
    return MAX((int64_t)4 << 20, MIN(total, (int64_t)256 << 20));
}

static int64_t free_now(const struct os_memory *m)
{
    if (m->cgroup_limit == INT64_MAX)
        return m->available;
    return MIN(m->available, m->cgroup_limit - m->cgroup_used);
}

int64_t budget_begin(struct sluice *s)
{
    const sluice_memory *p = &s->plan.memory;
    struct os_memory m;
    os_memory(&m);
    /* a budget may be larger than the machine: the cache then begins with what
     * is there and the rest of the plan leaves */
    int64_t others = p->budget - p->cache - MAX(MIN(os_rss(), p->process), (int64_t)0);
    int64_t room = free_now(&m) - MAX(others, (int64_t)0) - 2 * low_water(&m);
    s->budget.cache_most = room < p->cache ? MAX(room, p->cache_min) : INT64_MAX;
    return MIN(p->cache, s->budget.cache_most);
}

static bool all_slots_used(struct expert_cache *c)
{
    struct expert_stats x;
    expert_get_stats(c, &x);
    return x.slots_in_use * 20 >= x.n_slots * 19;
}

void budget_watch(struct sluice *s)
{
    struct budget *b = &s->budget;
    struct expert_cache *c = model_experts(s->model);
    struct os_memory m;
    int64_t now = os_clock_ns();
    if (!c || now < b->next_look_ns)
        return;
    b->next_look_ns = now + PERIOD_NS;
    os_memory(&m);
    int64_t free_bytes = free_now(&m), low = low_water(&m);
    int64_t cache = (int64_t)expert_bytes(c);
    if (free_bytes < low) {
        int64_t less = cache - (low - free_bytes) - low / 2;
        b->cache_most = MAX(less, s->plan.memory.cache_min);
        if (b->cache_most < cache)
            expert_resize(c, (size_t)b->cache_most);
    } else if (b->cache_most != INT64_MAX && free_bytes > 2 * low && all_slots_used(c)) {
        /* slots become physical only as they are used: small steps, each after
         * the one before has been filled */
        b->cache_most += MIN(low / 2, free_bytes - 2 * low);
        budget_give(s, 0);
        if (b->cache_most >= s->plan.memory.cache)
            b->cache_most = INT64_MAX;
    }
}
