/*
 * slots: the memory of the cache: extents of each layer, size classes, one
 * mapping, taking, emptying, growing and shrinking.
 * Lower slots are filled first, so that memory grows only with use. What is true
 * of slots and classes stands in slots_check.c.
 */
#include "expert/cache_impl.h"

#include <stdlib.h>
#include <string.h>

#define JOIN_GAP 256 /* padding between parts that are read together must be less */

/* ---- extents and classes ---------------------------------------------- */

static int plan_layer(struct layer_plan *p, const struct expert_layer *l, int layer, struct err *e)
{
    p->n_experts = l->n_experts;
    p->n_parts = l->n_parts;
    if (l->n_experts == 0)
        return OK;
    if (l->n_parts < 1 || l->n_parts > EXPERT_MAX_PARTS)
        return err_set(e, E_ARG, "layer %d: an expert has %d parts, expected 1 to %d", layer,
                       l->n_parts, EXPERT_MAX_PARTS);
    for (int i = 0; i < l->n_parts; i++) {
        const struct expert_part *part = &l->part[i];
        struct extent *x = p->n_extents ? &p->extent[p->n_extents - 1] : NULL;
        int64_t delta = x ? part->offset - x->offset : -1;
        if (x && part->file == x->file && part->stride == x->stride &&
            delta >= (int64_t)x->bytes && delta < (int64_t)x->bytes + JOIN_GAP) {
            p->part_delta[i] = (size_t)delta;
            x->bytes = (size_t)delta + part->bytes;
        } else {
            p->part_delta[i] = 0;
            p->extent[p->n_extents++] = (struct extent){part->file, part->offset,
                                                        part->stride, part->bytes};
        }
        p->part_extent[i] = p->n_extents - 1;
        p->part_bytes[i] = part->may_be_zero ? 0 : part->bytes;
    }
    for (int i = 0; i < p->n_extents; i++)
        p->slot_bytes += extent_room(&p->extent[i]);
    return OK;
}

size_t extent_room(const struct extent *x)
{
    bool aligned = x->offset % IOQ_ALIGN == 0 && x->stride % IOQ_ALIGN == 0;
    return aligned ? align_up(x->bytes, IOQ_ALIGN) : ioq_span_max(x->bytes);
}

static int by_size_down(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x < y) - (x > y);
}

/* Layers whose experts are at most 3 % smaller than the class share it: a few
 * lost bytes are better than memory that cannot move between them. */
static int plan_classes(struct expert_cache *c, struct err *e)
{
    size_t *sizes = calloc((size_t)c->n_layers, sizeof *sizes);
    c->cls = calloc((size_t)c->n_layers, sizeof *c->cls);
    if (!sizes || !c->cls) {
        free(sizes);
        return err_set(e, E_NOMEM, "expert cache: no memory for %d layers", c->n_layers);
    }
    int n = 0;
    for (int l = 0; l < c->n_layers; l++)
        if (c->plan[l].n_experts)
            sizes[n++] = c->plan[l].slot_bytes;
    qsort(sizes, (size_t)n, sizeof *sizes, by_size_down);
    for (int i = 0; i < n; i++)
        if (c->n_cls == 0 || sizes[i] + sizes[i] / 32 < c->cls[c->n_cls - 1].slot_bytes)
            c->cls[c->n_cls++].slot_bytes = sizes[i];
    free(sizes);

    for (int l = 0; l < c->n_layers; l++) {
        struct layer_plan *p = &c->plan[l];
        if (!p->n_experts)
            continue;
        p->cls = c->n_cls - 1;
        while (c->cls[p->cls].slot_bytes < p->slot_bytes)
            p->cls--;
        struct size_class *k = &c->cls[p->cls];
        k->max_slots += p->n_experts;
        k->min_slots = MAX(k->min_slots, MIN(c->n_used, p->n_experts));
    }
    for (int i = 0; i < c->n_cls; i++) {
        c->cls[i].first_gid = c->n_gids;
        c->n_gids += c->cls[i].max_slots;
    }
    return OK;
}

int slots_plan(struct expert_cache *c, const struct expert_config *cfg, struct err *e)
{
    if (cfg->n_layers < 1 || cfg->n_used < 1)
        return err_set(e, E_ARG, "expert cache: %d layers, %d experts used: both must be positive",
                       cfg->n_layers, cfg->n_used);
    c->n_layers = cfg->n_layers;
    c->n_used = cfg->n_used;
    c->plan = calloc((size_t)c->n_layers, sizeof *c->plan);
    if (!c->plan)
        return err_set(e, E_NOMEM, "expert cache: no memory for %d layers", c->n_layers);
    for (int l = 0; l < c->n_layers; l++) {
        TRY(plan_layer(&c->plan[l], &cfg->layers[l], l, e));
        c->max_experts = MAX(c->max_experts, c->plan[l].n_experts);
    }
    if (c->max_experts == 0)
        return err_set(e, E_ARG, "expert cache: no layer has experts");
    return plan_classes(c, e);
}

void slots_plan_free(struct expert_cache *c)
{
    free(c->plan);
    free(c->cls);
}

/* Slots are cut by IOQ_ALIGN, and each class ends within a page. */
static size_t class_edges(const struct expert_cache *c)
{
    size_t page = os_page_bytes();
    return page > IOQ_ALIGN ? (size_t)c->n_cls * (page - IOQ_ALIGN) : 0;
}

size_t slots_min_bytes(const struct expert_cache *c)
{
    size_t bytes = class_edges(c);
    for (int i = 0; i < c->n_cls; i++)
        bytes += (size_t)c->cls[i].min_slots * c->cls[i].slot_bytes;
    return bytes;
}

size_t slots_full_bytes(const struct expert_cache *c)
{
    size_t bytes = class_edges(c);
    for (int i = 0; i < c->n_cls; i++)
        bytes += (size_t)c->cls[i].max_slots * c->cls[i].slot_bytes;
    return bytes;
}

void slots_share(struct expert_cache *c, size_t cache_bytes)
{
    size_t least = slots_min_bytes(c), spread = slots_full_bytes(c) - least;
    size_t extra = MIN(cache_bytes > least ? cache_bytes - least : 0, spread);
    size_t left = extra;
    double share = spread ? (double)extra / (double)spread : 0;
    for (int i = 0; i < c->n_cls; i++) {
        struct size_class *k = &c->cls[i];
        int more = (int)(share * (k->max_slots - k->min_slots));
        k->want_slots = k->min_slots + more;
        left -= (size_t)more * k->slot_bytes;
    }
    for (int i = 0; i < c->n_cls; i++) { /* what rounding left */
        struct size_class *k = &c->cls[i];
        while (k->want_slots < k->max_slots && left >= k->slot_bytes) {
            k->want_slots++;
            left -= k->slot_bytes;
        }
    }
}

/* ---- memory ----------------------------------------------------------- */

/* Reserves addresses for max_slots of each class. */
static bool reserve(struct expert_cache *c, bool huge)
{
    size_t at = 0;
    for (int i = 0; i < c->n_cls; i++) {
        c->cls[i].region = at;
        at += (size_t)c->cls[i].max_slots * c->cls[i].slot_bytes;
        at = align_up(at, huge ? os_huge_bytes() : os_page_bytes());
    }
    c->memory_bytes = at;
    c->memory = c->place.map ? c->place.map(c->place.user, at, huge) : os_map(at, huge);
    c->huge = huge;
    return c->memory != NULL;
}

int slots_map(struct expert_cache *c, size_t cache_bytes, bool fixed, struct err *e)
{
    bool huge = !fixed && cache_bytes >= os_huge_from(); /* its regions would be rounded up */
    if (!fixed && reserve(c, huge))
        return OK;
    /* The system may refuse addresses for more than it has memory: then the
     * cache cannot grow beyond what it was opened with. */
    slots_share(c, cache_bytes);
    for (int i = 0; i < c->n_cls; i++)
        c->cls[i].max_slots = c->cls[i].want_slots;
    if (reserve(c, huge))
        return OK;
    return err_set(e, E_NOMEM,
                   "expert cache: the system refused %zu bytes; try a smaller memory budget",
                   c->memory_bytes);
}

size_t slots_bytes(const struct expert_cache *c)
{
    size_t bytes = class_edges(c);
    for (int i = 0; i < c->n_cls; i++)
        bytes += (size_t)(c->cls[i].n_slots + c->cls[i].n_high_leased) * c->cls[i].slot_bytes;
    return bytes;
}

struct size_class *slot_class(const struct expert_cache *c, int gid)
{
    int i = c->n_cls - 1;
    while (c->cls[i].first_gid > gid)
        i--;
    return &c->cls[i];
}

char *slot_memory(const struct expert_cache *c, int gid)
{
    const struct size_class *k = slot_class(c, gid);
    return c->memory + k->region + (size_t)(gid - k->first_gid) * k->slot_bytes;
}

/* ---- taking and emptying ---------------------------------------------- */

void slot_clear(struct expert_cache *c, int gid)
{
    struct size_class *k = slot_class(c, gid);
    struct slot *s = &c->slots[gid];
    int i = gid - k->first_gid;
    if (s->state == SLOT_EMPTY)
        return;
    c->stats.guess_wasted += s->guessed && s->state == SLOT_RESIDENT;
    if (k->evictable[i]) {
        k->evictable[i] = 0;
        k->n_evictable--;
    }
    c->policy->on_evict(k->policy, s->key, i);
    c->gid_of[s->key] = -1;
    s->key = -1;
    s->state = SLOT_EMPTY;
    s->guessed = false;
    c->stats.slots_in_use--;
    if (i < k->n_slots) {
        k->n_empty++;
        k->lowest_empty = MIN(k->lowest_empty, i);
    }
}

int slot_take(struct expert_cache *c, int cls)
{
    struct size_class *k = &c->cls[cls];
    if (k->n_empty == 0) {
        int i = k->n_evictable ? c->policy->victim(k->policy, k->evictable, c->at_layer) : -1;
        if (i < 0)
            return -1;
        c->stats.n_evicted++;
        slot_clear(c, k->first_gid + i);
    }
    int i = k->lowest_empty;
    while (c->slots[k->first_gid + i].state != SLOT_EMPTY)
        i++;
    k->lowest_empty = i;
    if (i >= k->n_taken) {
        k->n_taken = i + 1;
        touch_used(c->touch, cls, (size_t)k->n_taken * k->slot_bytes);
    }
    return k->first_gid + i;
}

void slot_attach(struct expert_cache *c, int gid, int64_t key)
{
    struct size_class *k = slot_class(c, gid);
    struct slot *s = &c->slots[gid];
    s->key = key;
    s->state = SLOT_READING;
    s->leases = 0;
    s->guessed = s->adopted = false;
    for (int i = 0; i < EXPERT_MAX_PARTS; i++)
        s->reads[i] = (struct ioq_req){.state = IOQ_IDLE};
    c->gid_of[key] = gid;
    k->n_empty--;
    c->stats.slots_in_use++;
    c->policy->on_insert(k->policy, key, gid - k->first_gid);
}

void slot_pin(struct expert_cache *c, int gid)
{
    struct size_class *k = slot_class(c, gid);
    int i = gid - k->first_gid;
    c->slots[gid].leases++;
    if (k->evictable[i]) {
        k->evictable[i] = 0;
        k->n_evictable--;
    }
}

/* Whether slots hold something, or may, of those that [begin, end) of the class touches. */
static bool in_use(const struct expert_cache *c, const struct size_class *k, size_t begin,
                   size_t end)
{
    for (size_t i = begin / k->slot_bytes; i * k->slot_bytes < end && i < (size_t)k->max_slots; i++)
        if ((int)i < k->n_slots || c->slots[k->first_gid + (int)i].state != SLOT_EMPTY)
            return true;
    return false;
}

/* The pages of slots [from, to), which are empty and may not be filled. A page
 * that other slots share goes together with the last of them. */
static void give_back(const struct expert_cache *c, const struct size_class *k, int from, int to)
{
    size_t page = os_page_bytes(), begin = (size_t)from * k->slot_bytes,
           end = (size_t)to * k->slot_bytes;
    size_t low = begin & ~(page - 1), high = align_up(end, page);
    if (in_use(c, k, low, begin))
        low += page;
    if (in_use(c, k, end, high))
        high -= page;
    if (low < high)
        os_discard(c->memory + k->region + low, high - low);
}

void slot_file(struct expert_cache *c, int gid)
{
    struct size_class *k = slot_class(c, gid);
    struct slot *s = &c->slots[gid];
    int i = gid - k->first_gid;
    if (s->state == SLOT_READING) {
        pending_add(c, gid);
    } else if (i >= k->n_slots) { /* the class shrank meanwhile */
        slot_clear(c, gid);
        give_back(c, k, i, i + 1);
    } else if (s->state == SLOT_FAILED) {
        slot_clear(c, gid);
    } else if (s->state == SLOT_RESIDENT && !k->evictable[i]) {
        k->evictable[i] = 1;
        k->n_evictable++;
    }
}

void slot_unpin(struct expert_cache *c, int gid)
{
    struct size_class *k = slot_class(c, gid);
    if (--c->slots[gid].leases > 0)
        return;
    k->n_high_leased -= gid - k->first_gid >= k->n_slots;
    slot_file(c, gid);
}

/* ---- growing and shrinking -------------------------------------------- */

static void shrink_class(struct expert_cache *c, struct size_class *k, int n)
{
    int old = k->n_slots;
    k->n_slots = n;
    k->n_high_leased = 0;
    k->n_empty = 0;
    k->lowest_empty = n;
    for (int i = 0; i < n; i++)
        if (c->slots[k->first_gid + i].state == SLOT_EMPTY) {
            k->n_empty++;
            k->lowest_empty = MIN(k->lowest_empty, i);
        }
    for (int i = k->max_slots - 1; i >= n; i--) {
        int gid = k->first_gid + i;
        struct slot *s = &c->slots[gid];
        if (s->state == SLOT_EMPTY)
            continue;
        if (s->leases) {
            k->n_high_leased++;
            continue;
        }
        if (s->state == SLOT_READING) {
            reads_cancel(c, gid);
            reads_wait(c, gid);
        }
        c->stats.n_evicted += s->state == SLOT_RESIDENT;
        slot_clear(c, gid);
    }
    /* Leased slots keep their pages until they are filed. */
    for (int i = n, from = n; i <= old; i++) {
        if (i < old && !c->slots[k->first_gid + i].leases)
            continue;
        if (i > from)
            give_back(c, k, from, i);
        from = i + 1;
    }
}

static void grow_class(struct expert_cache *c, struct size_class *k, int n)
{
    k->lowest_empty = MIN(k->lowest_empty, k->n_slots);
    for (int i = k->n_slots; i < n; i++) {
        const struct slot *s = &c->slots[k->first_gid + i];
        k->n_empty += s->state == SLOT_EMPTY;
        k->n_high_leased -= s->leases > 0;
    }
    k->n_slots = n;
}

/* No huge page reaches beyond the slots that may be filled. */
static void limit_huge(const struct expert_cache *c, const struct size_class *k, int n)
{
    size_t all = align_up((size_t)k->max_slots * k->slot_bytes, os_huge_bytes());
    os_huge_until(c->memory + k->region, all, (size_t)n * k->slot_bytes);
}

void slots_resize(struct expert_cache *c)
{
    pending_sweep(c);
    for (int i = 0; i < c->n_cls; i++) {
        struct size_class *k = &c->cls[i];
        int want = MIN(k->want_slots, k->max_slots);
        if (c->touch)
            touch_limit(c->touch, i, c->memory + k->region, (size_t)want * k->slot_bytes);
        if (c->huge)
            limit_huge(c, k, want);
        k->n_taken = MIN(k->n_taken, want);
        if (want < k->n_slots)
            shrink_class(c, k, want);
        else
            grow_class(c, k, want);
    }
}
