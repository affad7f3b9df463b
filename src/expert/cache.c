/*
 * cache: opening, leases, guesses, counters. The one place that decides what is
 * read and what is evicted; the memory is in slots.c, the reads in reads.c.
 *
 * A request first pins what is here, so that room for the rest is never made
 * at its own cost, then takes a slot for each missing expert, and only then
 * starts the reads, in the order of the ids: a failure on the way has started
 * nothing and is undone.
 */
#include "expert/cache_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening ---------------------------------------------------------- */

static size_t plan_bytes(const struct expert_config *cfg, bool full)
{
    struct expert_cache c = {0};
    size_t bytes = 0;
    if (slots_plan(&c, cfg, NULL) == OK)
        bytes = full ? slots_full_bytes(&c) : slots_min_bytes(&c);
    slots_plan_free(&c);
    return bytes;
}

size_t expert_min_bytes(const struct expert_config *c)
{
    return plan_bytes(c, false);
}

size_t expert_full_bytes(const struct expert_config *c)
{
    return plan_bytes(c, true);
}

static const struct expert_policy *find_policy(const char *name)
{
    if (!name)
        return expert_policies[0];
    for (int i = 0; expert_policies[i]; i++)
        if (strcmp(expert_policies[i]->name, name) == 0)
            return expert_policies[i];
    return NULL;
}

static int open_tables(struct expert_cache *c, struct err *e)
{
    size_t n_keys = (size_t)c->n_layers * (size_t)c->max_experts, n_gids = (size_t)c->n_gids;
    c->slots = calloc(n_gids, sizeof *c->slots);
    c->gid_of = malloc(n_keys * sizeof *c->gid_of);
    c->pending = malloc(n_gids * sizeof *c->pending);
    if (!c->slots || !c->gid_of || !c->pending)
        return err_set(e, E_NOMEM, "expert cache: no memory for the tables of %d slots", c->n_gids);
    for (size_t i = 0; i < n_keys; i++)
        c->gid_of[i] = -1;
    for (size_t i = 0; i < n_gids; i++)
        c->slots[i].key = -1;
    for (int i = 0; i < c->n_cls; i++) {
        struct size_class *k = &c->cls[i];
        k->evictable = calloc((size_t)k->max_slots, 1);
        k->policy = c->policy->create((int64_t)n_keys, k->max_slots, c->n_layers, c->max_experts);
        if (!k->evictable || !k->policy)
            return err_set(e, E_NOMEM, "expert cache: no memory for the tables of %d slots",
                           c->n_gids);
    }
    return OK;
}

/* Reads write into our memory: none may be left when it goes. */
static void end_reads(struct expert_cache *c)
{
    for (int gid = 0; gid < c->n_gids; gid++)
        if (c->slots[gid].state == SLOT_READING)
            reads_cancel(c, gid);
    for (int gid = 0; gid < c->n_gids; gid++)
        if (c->slots[gid].state == SLOT_READING)
            reads_wait(c, gid);
}

/* Also one that was opened in part. */
static void free_cache(struct expert_cache *c)
{
    if (!c)
        return;
    touch_close(c->touch);
    if (c->slots)
        end_reads(c);
    for (int i = 0; i < c->n_cls; i++) {
        if (c->cls[i].policy)
            c->policy->destroy(c->cls[i].policy);
        free(c->cls[i].evictable);
    }
    if (c->memory && c->place.unmap)
        c->place.unmap(c->place.user, c->memory, c->memory_bytes);
    else if (c->memory)
        os_unmap(c->memory, c->memory_bytes);
    slots_plan_free(c);
    free(c->slots);
    free(c->gid_of);
    free(c->pending);
    free(c);
}

int expert_open(const struct expert_config *cfg, struct expert_cache **out, struct err *e)
{
    *out = NULL;
    struct expert_cache *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(e, E_NOMEM, "expert cache: no memory");
    c->ioq = cfg->ioq;
    c->place = cfg->memory;
    int rc = OK;
    c->policy = find_policy(cfg->policy);
    if (!c->policy) {
        rc = err_set(e, E_ARG, "expert cache: no eviction policy is called '%s'", cfg->policy);
        goto out;
    }
    if ((rc = slots_plan(c, cfg, e)) < 0)
        goto out;
    if (cfg->cache_bytes < slots_min_bytes(c)) {
        rc = err_set(e, E_BUDGET,
                     "expert cache: %zu bytes are too few; %d experts of a layer need %zu",
                     cfg->cache_bytes, cfg->n_used, slots_min_bytes(c));
        goto out;
    }
    if ((c->ioq && (rc = slots_map(c, cfg->cache_bytes, cfg->fixed, e)) < 0) ||
        (rc = open_tables(c, e)) < 0)
        goto out;
    if (c->huge)
        c->touch = touch_open(c->n_cls);
    expert_resize(c, cfg->cache_bytes);
    *out = c;
    c = NULL;
out:
    free_cache(c);
    return rc;
}

void expert_close(struct expert_cache *c)
{
    if (!c)
        return;
    INVARIANT(slots_check(c));
    free_cache(c);
}

size_t expert_resize(struct expert_cache *c, size_t cache_bytes)
{
    INVARIANT(slots_look(c));
    slots_share(c, cache_bytes);
    slots_resize(c);
    return slots_bytes(c);
}

size_t expert_bytes(const struct expert_cache *c)
{
    if (!c)
        return 0;
    INVARIANT(slots_look(c));
    return slots_bytes(c);
}

/* ---- leases ----------------------------------------------------------- */

static int check_ids(const struct expert_cache *c, int layer, const int32_t *ids, int n,
                     struct err *e)
{
    if (layer < 0 || layer >= c->n_layers || c->plan[layer].n_experts == 0)
        return err_set(e, E_ARG, "expert request: layer %d has no experts", layer);
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= c->plan[layer].n_experts)
            return err_set(e, E_ARG, "expert request: layer %d has no expert %d, only 0 to %d",
                           layer, (int)ids[i], c->plan[layer].n_experts - 1);
    return OK;
}

/* Leases the expert if it is here or on its way. */
static void lease_known(struct expert_cache *c, struct expert_lease *l)
{
    int gid = c->gid_of[(int64_t)l->layer * c->max_experts + l->expert];
    if (gid < 0)
        return;
    struct slot *s = &c->slots[gid];
    if (s->leases == 0 && s->state == SLOT_READING && reads_spoiled(s)) {
        reads_wait(c, gid); /* a failed or dropped lookahead is read anew */
        slot_file(c, gid);
        return;
    }
    s->adopted |= s->leases == 0 && s->state == SLOT_READING;
    slot_pin(c, gid);
    l->slot = gid;
    l->hit = s->state == SLOT_RESIDENT;
    if (s->guessed) {
        s->guessed = false;
        if (l->hit)
            c->stats.guess_useful++;
        else
            c->stats.guess_late++;
    }
}

static int lease_new(struct expert_cache *c, struct expert_lease *l, struct err *e)
{
    int cls = c->plan[l->layer].cls, gid;
    int64_t key = (int64_t)l->layer * c->max_experts + l->expert;
    if (c->gid_of[key] >= 0)
        return err_set(e, E_ARG, "expert request: layer %d expert %d is asked for twice", l->layer,
                       l->expert);
    while ((gid = slot_take(c, cls)) < 0)
        if (!pending_drop_one(c, cls))
            return err_set(e, E_STATE, "layer %d expert %d: all %d slots of its size are leased",
                           l->layer, l->expert, c->cls[cls].n_slots);
    slot_attach(c, gid, key);
    slot_pin(c, gid);
    l->slot = gid;
    return OK;
}

static bool not_started(const struct slot *s)
{
    return s->reads[0].state == IOQ_IDLE;
}

static void undo(struct expert_cache *c, struct expert_lease *leases, int n)
{
    for (int i = 0; i < n; i++) {
        struct expert_lease *l = &leases[i];
        if (l->slot < 0)
            continue;
        struct slot *s = &c->slots[l->slot];
        if (s->state == SLOT_READING && not_started(s))
            s->state = SLOT_FAILED; /* holds nothing: emptied when unpinned */
        slot_unpin(c, l->slot);
        l->slot = -1;
    }
}

/* What was leased is read, if it is not here, and counts as used. */
static void use(struct expert_cache *c, const struct expert_lease *l)
{
    struct size_class *k = &c->cls[c->plan[l->layer].cls];
    struct slot *s = &c->slots[l->slot];
    if (s->state == SLOT_READING && not_started(s))
        reads_start(c, l->slot, IOQ_DEMAND);
    else if (s->state == SLOT_READING)
        reads_promote(c, l->slot);
    c->policy->on_use(k->policy, s->key, l->slot - k->first_gid);
    c->stats.n_requests++;
    c->stats.n_hits += l->hit;
    c->stats.n_misses += !l->hit;
}

bool expert_keep(struct expert_cache *c, int layer, int32_t id, struct expert_lease *lease)
{
    INVARIANT(slots_look(c));
    *lease = (struct expert_lease){.layer = layer, .expert = id, .slot = -1};
    if (check_ids(c, layer, &id, 1, NULL) < 0)
        return false;
    c->at_layer = layer;
    pending_sweep(c);
    lease_known(c, lease);
    if (lease->slot < 0)
        return false;
    use(c, lease);
    return true;
}

int expert_request(struct expert_cache *c, int layer, const int32_t *ids, int n,
                   struct expert_lease *leases, struct err *e)
{
    INVARIANT(slots_look(c));
    TRY(check_ids(c, layer, ids, n, e));
    if (c->trace)
        c->trace(c->trace_user, layer, ids, n);
    c->at_layer = layer;
    pending_sweep(c);
    for (int i = 0; i < n; i++) {
        leases[i] = (struct expert_lease){.layer = layer, .expert = ids[i], .slot = -1};
        lease_known(c, &leases[i]);
    }
    pending_drop_layer(c, layer);
    for (int i = 0; i < n; i++) {
        int rc = leases[i].slot < 0 ? lease_new(c, &leases[i], e) : OK;
        if (rc < 0) {
            undo(c, leases, n);
            return rc;
        }
    }
    for (int i = 0; i < n; i++)
        use(c, &leases[i]);
    return OK;
}

/* Reads that were under way before the lease was taken may have failed for
 * reasons that are past (or as lookahead): such an expert is read once more. */
static bool reads_again(struct expert_cache *c, int gid)
{
    struct slot *s = &c->slots[gid];
    if (s->state != SLOT_FAILED || !s->adopted)
        return false;
    s->adopted = false;
    reads_start(c, gid, IOQ_DEMAND);
    return true;
}

bool expert_ready(struct expert_cache *c, const struct expert_lease *l)
{
    INVARIANT(lease_check(c, l));
    const struct slot *s = &c->slots[l->slot];
    if (s->state == SLOT_READING && !reads_done(s))
        ioq_poll(c->ioq);
    reads_observe(c, l->slot);
    return s->state != SLOT_READING && !reads_again(c, l->slot);
}

bool expert_part_ready(struct expert_cache *c, const struct expert_lease *l, int part)
{
    INVARIANT(lease_check(c, l));
    const struct ioq_req *r = &c->slots[l->slot].reads[c->plan[l->layer].part_extent[part]];
    if (r->state != IOQ_DONE)
        ioq_poll(c->ioq);
    return r->state == IOQ_DONE && r->status == OK;
}

void expert_wait_part(struct expert_cache *c, const struct expert_lease *l, int part)
{
    INVARIANT(lease_check(c, l));
    ioq_wait(c->ioq, &c->slots[l->slot].reads[c->plan[l->layer].part_extent[part]]);
}

static int zeros_error(const struct expert_cache *c, const struct expert_lease *l, struct err *e)
{
    const int part = reads_zero_part(c, l->slot);
    const struct layer_plan *p = &c->plan[l->layer];
    const struct extent *x = &p->extent[p->part_extent[part]];
    return err_set(e, E_FORMAT,
                   "%s: part %d of expert %d of layer %d (%zu bytes at offset %lld) is all zeros; "
                   "the file is incomplete or damaged: copy or download it again",
                   ioq_path(c->ioq, x->file), part, l->expert, l->layer, p->part_bytes[part],
                   (long long)(x->offset + l->expert * x->stride + (int64_t)p->part_delta[part]));
}

int expert_wait(struct expert_cache *c, const struct expert_lease *l, struct err *e)
{
    INVARIANT(lease_check(c, l));
    struct slot *s = &c->slots[l->slot];
    reads_wait(c, l->slot);
    if (reads_again(c, l->slot))
        reads_wait(c, l->slot);
    if (s->state != SLOT_FAILED)
        return OK;
    char what[64];
    snprintf(what, sizeof what, "layer %d expert %d", l->layer, l->expert);
    int rc = OK;
    for (int i = 0; i < EXPERT_MAX_PARTS && rc == OK; i++)
        if (s->reads[i].status == E_FORMAT)
            rc = zeros_error(c, l, e);
        else if (s->reads[i].status != OK)
            rc = ioq_error(c->ioq, &s->reads[i], what, e);
    return rc;
}

const void *expert_data(const struct expert_cache *c, const struct expert_lease *l, int part)
{
    INVARIANT(lease_check(c, l));
    const struct layer_plan *p = &c->plan[l->layer];
    const char *data = c->slots[l->slot].reads[p->part_extent[part]].data;
    return data + p->part_delta[part];
}

void expert_release(struct expert_cache *c, struct expert_lease *l)
{
    if (l->slot < 0)
        return;
    INVARIANT(lease_check(c, l));
    reads_observe(c, l->slot);
    struct slot *s = &c->slots[l->slot];
    if (s->leases == 1 && s->state == SLOT_READING && reads_cancel(c, l->slot))
        reads_observe(c, l->slot);
    slot_unpin(c, l->slot);
    l->slot = -1;
}

int expert_free_slots(const struct expert_cache *c, int layer)
{
    INVARIANT(slots_look(c));
    const struct size_class *k = &c->cls[c->plan[layer].cls];
    return k->n_empty + k->n_evictable;
}

/* ---- lookahead -------------------------------------------------------- */

/* True when a slot is empty, or holds something less likely to be used. */
static bool worth_a_slot(const struct expert_cache *c, const struct size_class *k, int64_t key)
{
    if (k->n_empty)
        return true;
    int i = k->n_evictable ? c->policy->victim(k->policy, k->evictable, c->at_layer) : -1;
    return i >= 0 && c->policy->colder(k->policy, i, key);
}

int expert_guess(struct expert_cache *c, int layer, const int32_t *ids, int n)
{
    INVARIANT(slots_look(c));
    if (check_ids(c, layer, ids, n, NULL) < 0)
        return 0;
    pending_sweep(c);
    int cls = c->plan[layer].cls, queued = 0;
    for (int i = 0; i < n; i++) {
        int64_t key = (int64_t)layer * c->max_experts + ids[i];
        if (c->gid_of[key] >= 0 || !worth_a_slot(c, &c->cls[cls], key))
            continue;
        int gid = slot_take(c, cls);
        slot_attach(c, gid, key);
        c->slots[gid].guessed = true;
        reads_start(c, gid, IOQ_AHEAD);
        pending_add(c, gid);
        queued++;
    }
    c->stats.guess_queued += queued;
    return queued;
}

void expert_drop_guesses(struct expert_cache *c)
{
    INVARIANT(slots_look(c));
    for (int i = 0; i < c->n_pending; i++)
        if (c->slots[c->pending[i]].leases == 0)
            reads_cancel(c, c->pending[i]);
    pending_sweep(c);
}

/* ---- the rest --------------------------------------------------------- */

void expert_tick(struct expert_cache *c)
{
    INVARIANT(slots_look(c));
    for (int i = 0; i < c->n_cls; i++)
        c->policy->on_tick(c->cls[i].policy);
}

void expert_get_stats(const struct expert_cache *c, struct expert_stats *s)
{
    *s = (struct expert_stats){0};
    if (!c)
        return;
    INVARIANT(slots_look(c));
    *s = c->stats;
    s->n_slots = 0;
    for (int i = 0; i < c->n_cls; i++)
        s->n_slots += c->cls[i].n_slots;
}

void expert_set_trace(struct expert_cache *c, expert_trace_fn *fn, void *user)
{
    INVARIANT(slots_look(c));
    c->trace = fn;
    c->trace_user = user;
}
