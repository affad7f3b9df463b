/*
 * policy_decay: evicts what is least likely to be used soon.
 *
 * Every expert has two decayed use counts, one that forgets in a few passes
 * through the layers and one in a few dozen; together they estimate the chance
 * p that its layer's next turn picks it. That turn is D of L layers away, and
 * a use counts less the later it comes:
 *
 *     worth = p * exp(-D / L)            the smallest is evicted
 *
 * D is L for the layer that is being served (its turn is over), so what was
 * just passed leaves before what comes next. The constants were chosen over
 * five traces of real models at four cache sizes; the optimum is flat: fast
 * decays of 0.5 to 0.7 and slow ones of 0.95 to 0.98 differ by less than 1 %.
 *
 * A layer's counts age when the layer is used, not with the clock, so between
 * its turns the order inside a layer stands still and its coldest slot is
 * remembered: until a slot comes, goes or is used. Slots released since then have
 * just been used: hot, so they may be overlooked. decay_check has the invariants.
 */
#include "expert/policy.h"

#include <math.h>
#include <stdlib.h>

#define FAST 0.6f
#define SLOW 0.97f
#define FAST_SHARE 0.3f /* of p; the slow count gives the rest */
#define N_POWERS 512    /* SLOW^512 is nothing */
/* A slot this likely to be used again is not given up for a guess. */
#define KEEP_P 0.25f

struct use {
    float fast, slow; /* counts as of the layer's turn in `pass` */
    int32_t pass;
};

struct layer_slots {
    int32_t head;    /* of the list of slots that hold experts of the layer, -1: none */
    int32_t pass;    /* of its last turn */
    int32_t coldest;
    float coldest_p;
    bool known; /* coldest was the coldest evictable slot when last looked at, -1: none */
};

struct slot_link {
    int64_t key; /* -1: empty */
    int32_t older, newer;
};

struct decay {
    int n_layers, max_experts;
    int32_t pass;   /* passes through the layers so far */
    int last_layer; /* used in this pass */
    struct use *use;             /* n_keys */
    struct layer_slots *layers;  /* n_layers */
    struct slot_link *links;     /* n_slots */
    float *discount;             /* n_layers + 1: by distance */
    float fast_power[N_POWERS], slow_power[N_POWERS];
};

static void decay_destroy(void *state)
{
    struct decay *d = state;
    if (!d)
        return;
    free(d->use);
    free(d->layers);
    free(d->links);
    free(d->discount);
    free(d);
}

static void *decay_create(int64_t n_keys, int64_t n_slots, int n_layers, int max_experts)
{
    struct decay *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->n_layers = n_layers;
    d->max_experts = max_experts;
    d->last_layer = -1;
    d->use = calloc((size_t)n_keys, sizeof *d->use);
    d->layers = calloc((size_t)n_layers, sizeof *d->layers);
    d->links = calloc((size_t)n_slots, sizeof *d->links);
    d->discount = calloc((size_t)n_layers + 1, sizeof *d->discount);
    if (!d->use || !d->layers || !d->links || !d->discount) {
        decay_destroy(d);
        return NULL;
    }
    for (int l = 0; l < n_layers; l++)
        d->layers[l].head = -1;
    for (int l = 0; l <= n_layers; l++)
        d->discount[l] = expf(-(float)l / (float)n_layers);
    for (int i = 0; i < N_POWERS; i++) {
        d->fast_power[i] = powf(FAST, (float)i);
        d->slow_power[i] = powf(SLOW, (float)i);
    }
    return d;
}

static struct layer_slots *layer_of(struct decay *d, int64_t key)
{
    return &d->layers[key / d->max_experts];
}

/* The count's share that is left after the layer's turns since `u`. */
static float left(const float *power, const struct use *u, const struct layer_slots *l)
{
    int32_t age = l->pass - u->pass;
    return age < N_POWERS ? power[age] : 0;
}

/* Chance that the layer's next turn picks the key; orders, not calibrated. */
static float chance(const struct decay *d, int64_t key, const struct layer_slots *l)
{
    const struct use *u = &d->use[key];
    return FAST_SHARE * (1 - FAST) * u->fast * left(d->fast_power, u, l) +
           (1 - FAST_SHARE) * (1 - SLOW) * u->slow * left(d->slow_power, u, l) + 1e-9f;
}

/* Layers come in order: one that is not behind the last begins a new pass,
 * even where nobody calls on_tick. */
static void enter_layer(struct decay *d, int layer)
{
    if (layer < d->last_layer)
        d->pass++;
    d->last_layer = layer;
}

static void decay_tick(void *state)
{
    struct decay *d = state;
    if (d->last_layer >= 0)
        d->pass++;
    d->last_layer = -1;
}

static void decay_insert(void *state, int64_t key, int slot)
{
    struct decay *d = state;
    struct layer_slots *l = layer_of(d, key);
    d->links[slot] = (struct slot_link){.key = key, .older = l->head, .newer = -1};
    if (l->head >= 0)
        d->links[l->head].newer = slot;
    l->head = slot;
    l->known = false;
}

static void decay_evict(void *state, int64_t key, int slot)
{
    struct decay *d = state;
    struct layer_slots *l = layer_of(d, key);
    struct slot_link *s = &d->links[slot];
    if (s->newer >= 0)
        d->links[s->newer].older = s->older;
    else
        l->head = s->older;
    if (s->older >= 0)
        d->links[s->older].newer = s->newer;
    s->key = -1;
    l->known = false;
}

static void decay_use(void *state, int64_t key, int slot)
{
    (void)slot;
    struct decay *d = state;
    struct layer_slots *l = layer_of(d, key);
    struct use *u = &d->use[key];
    enter_layer(d, (int)(key / d->max_experts));
    l->pass = d->pass;
    u->fast = u->fast * left(d->fast_power, u, l) + 1;
    u->slow = u->slow * left(d->slow_power, u, l) + 1;
    u->pass = l->pass;
    l->known = false;
}

static void find_coldest(struct decay *d, struct layer_slots *l, const uint8_t *evictable)
{
    l->known = true;
    l->coldest = -1;
    for (int32_t i = l->head; i >= 0; i = d->links[i].older) {
        if (!evictable[i])
            continue;
        float p = chance(d, d->links[i].key, l);
        if (l->coldest < 0 || p < l->coldest_p) {
            l->coldest = i;
            l->coldest_p = p;
        }
    }
}

static int decay_victim(void *state, const uint8_t *evictable, int layer)
{
    struct decay *d = state;
    int32_t best = -1;
    float worth = 0;
    d->layers[layer].known = false; /* its pins have just changed */
    for (int i = 0; i < d->n_layers; i++) {
        struct layer_slots *l = &d->layers[i];
        if (l->head < 0)
            continue;
        if (!l->known || (l->coldest >= 0 && !evictable[l->coldest]))
            find_coldest(d, l, evictable);
        if (l->coldest < 0)
            continue;
        int distance = i > layer ? i - layer : i - layer + d->n_layers;
        float w = l->coldest_p * d->discount[distance];
        if (best < 0 || w < worth) {
            best = l->coldest;
            worth = w;
        }
    }
    for (int i = 0; best < 0 && i < d->n_layers; i++) { /* released since we looked */
        find_coldest(d, &d->layers[i], evictable);
        best = d->layers[i].coldest;
    }
    return best;
}

static bool decay_colder(void *state, int victim, int64_t key)
{
    struct decay *d = state;
    int64_t old = d->links[victim].key;
    return chance(d, old, layer_of(d, old)) < chance(d, key, layer_of(d, key)) + KEEP_P;
}

/* The list of a layer; *n counts its slots. */
static const char *check_layer(const struct decay *d, int layer, int n_slots, expert_key_fn *key_in,
                               const void *user, int *n)
{
    const struct layer_slots *l = &d->layers[layer];
    bool listed = !l->known || l->coldest < 0;
    int32_t newer = -1;
    for (int32_t i = l->head; i >= 0; newer = i, i = d->links[i].older) {
        HOLDS(i < n_slots && ++*n <= n_slots,
              "decay: a layer's list ends, over slots of the class");
        HOLDS(d->links[i].newer == newer, "decay: a layer's list links back as it links on");
        HOLDS(d->links[i].key == key_in(user, i),
              "decay: a slot's link has the key that is in the slot");
        HOLDS(d->links[i].key / d->max_experts == layer,
              "decay: a layer's list has slots with its experts");
        HOLDS(d->use[d->links[i].key].pass <= l->pass,
              "decay: an expert was used no later than its layer");
        listed = listed || i == l->coldest;
    }
    HOLDS(l->pass <= d->pass, "decay: a layer's last turn is no later than this pass");
    HOLDS(listed, "decay: the coldest slot that a layer remembers is one of its own");
    HOLDS(!l->known || l->coldest < 0 || l->coldest_p == chance(d, d->links[l->coldest].key, l),
          "decay: the coldest slot that a layer remembers is as cold as it was");
    return NULL;
}

static const char *decay_check(const void *state, int n_slots, expert_key_fn *key_in,
                               const void *user)
{
    const struct decay *d = state;
    int n = 0, n_held = 0;
    for (int l = 0; l < d->n_layers; l++) {
        const char *broken = check_layer(d, l, n_slots, key_in, user, &n);
        HOLDS(!broken, broken);
    }
    for (int i = 0; i < n_slots; i++)
        n_held += key_in(user, i) >= 0;
    HOLDS(n == n_held, "decay: every slot that is not empty is in the list of its layer");
    HOLDS(d->last_layer >= -1 && d->last_layer < d->n_layers,
          "decay: the layer used last is one of the layers");
    return NULL;
}

const struct expert_policy expert_policy_decay = {
    .name = "decay",
    .create = decay_create,
    .destroy = decay_destroy,
    .on_use = decay_use,
    .on_insert = decay_insert,
    .on_evict = decay_evict,
    .on_tick = decay_tick,
    .victim = decay_victim,
    .colder = decay_colder,
    .check = decay_check,
};
