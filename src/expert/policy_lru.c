/*
 * policy_lru: evicts what was used longest ago. The yardstick for the others.
 *
 * A ring of slots from the oldest to the newest, closed by a sentinel.
 */
#include "expert/policy.h"

#include <stdlib.h>

struct link {
    int32_t older, newer;
};

struct lru {
    int32_t n_slots; /* also the sentinel's index */
    struct link link[];
};

static void *lru_create(int64_t n_keys, int64_t n_slots, int n_layers, int max_experts)
{
    (void)n_keys;
    (void)n_layers;
    (void)max_experts;
    struct lru *p = malloc(sizeof *p + ((size_t)n_slots + 1) * sizeof p->link[0]);
    if (!p)
        return NULL;
    p->n_slots = (int32_t)n_slots;
    p->link[n_slots] = (struct link){p->n_slots, p->n_slots};
    return p;
}

static void lru_destroy(void *state)
{
    free(state);
}

static void unlink_slot(struct lru *p, int slot)
{
    struct link l = p->link[slot];
    p->link[l.older].newer = l.newer;
    p->link[l.newer].older = l.older;
}

static void lru_insert(void *state, int64_t key, int slot)
{
    (void)key;
    struct lru *p = state;
    int32_t newest = p->link[p->n_slots].older;
    p->link[slot] = (struct link){newest, p->n_slots};
    p->link[newest].newer = slot;
    p->link[p->n_slots].older = slot;
}

static void lru_evict(void *state, int64_t key, int slot)
{
    (void)key;
    unlink_slot(state, slot);
}

static void lru_use(void *state, int64_t key, int slot)
{
    lru_evict(state, key, slot);
    lru_insert(state, key, slot);
}

static void lru_tick(void *state)
{
    (void)state;
}

static int lru_victim(void *state, const uint8_t *evictable, int layer)
{
    (void)layer;
    const struct lru *p = state;
    for (int32_t i = p->link[p->n_slots].newer; i != p->n_slots; i = p->link[i].newer)
        if (evictable[i])
            return i;
    return -1;
}

/* What is used longest ago is always worth less than a guess. */
static bool lru_colder(void *state, int victim, int64_t key)
{
    (void)state;
    (void)victim;
    (void)key;
    return true;
}

/* The ring holds each slot that is not empty, once, and links back as it links on. */
static const char *lru_check(const void *state, int n_slots, expert_key_fn *key_in,
                             const void *user)
{
    const struct lru *p = state;
    int32_t n = 0, n_held = 0, older = n_slots;
    HOLDS(p->n_slots == n_slots, "lru: the state is for the slots of its class");
    for (int32_t i = p->link[n_slots].newer; i != n_slots; older = i, i = p->link[i].newer, n++) {
        HOLDS(i >= 0 && i < n_slots && n < n_slots,
              "lru: the ring closes, over slots of the class");
        HOLDS(p->link[i].older == older, "lru: the ring links back as it links on");
        HOLDS(key_in(user, i) >= 0, "lru: no slot of the ring is empty");
    }
    HOLDS(p->link[n_slots].older == older, "lru: the ring ends with its newest slot");
    for (int i = 0; i < n_slots; i++)
        n_held += key_in(user, i) >= 0;
    HOLDS(n == n_held, "lru: every slot that is not empty is in the ring");
    return NULL;
}

const struct expert_policy expert_policy_lru = {
    .name = "lru",
    .create = lru_create,
    .destroy = lru_destroy,
    .on_use = lru_use,
    .on_insert = lru_insert,
    .on_evict = lru_evict,
    .on_tick = lru_tick,
    .victim = lru_victim,
    .colder = lru_colder,
    .check = lru_check,
};
