/*
 * slots_check: the invariants of the cache, as they are between two calls of its
 * public functions. A call that may touch any slot has all of them checked on entry
 * (slots_look); one that asks for the bytes of a lease, as a driver does many times
 * while it waits, checks that slot alone.
 */
#include "expert/cache_impl.h"

/* ---- one slot --------------------------------------------------------- */

static bool under_way(const struct ioq_req *r)
{
    return r->state == IOQ_QUEUED || r->state == IOQ_INFLIGHT;
}

/* The reads of a slot that holds `key` or will. */
static const char *check_reads(const struct expert_cache *c, int gid)
{
    const struct slot *s = &c->slots[gid];
    const struct layer_plan *p = &c->plan[s->key / c->max_experts];
    const char *at = c->ioq ? slot_memory(c, gid) : NULL;
    bool failed = false;
    for (int i = 0; i < EXPERT_MAX_PARTS; i++) {
        const struct ioq_req *r = &s->reads[i];
        const struct extent *x = &p->extent[i];
        HOLDS(r->state != IOQ_IDLE, "slots: the reads of a slot that is not empty were started");
        HOLDS(s->state == SLOT_READING || r->state == IOQ_DONE,
              "slots: no read is under way but into a READING slot");
        failed = failed || r->status != OK;
        if (!c->ioq || i >= p->n_extents) {
            HOLDS(r->bytes == 0, "slots: a slot reads the extents of its layer and no more");
            continue;
        }
        HOLDS(r->file == x->file && r->bytes == x->bytes &&
                  r->offset == x->offset + s->key % c->max_experts * x->stride,
              "slots: a slot reads the expert that it is kept for");
        HOLDS(r->buf == at, "slots: a read goes into its extent's room of the slot");
        at += extent_room(x);
    }
    HOLDS(s->state != SLOT_RESIDENT || !failed, "slots: all reads of a RESIDENT slot went well");
    HOLDS(s->state != SLOT_FAILED || failed, "slots: some read of a FAILED slot did not go well");
    return NULL;
}

static const char *check_empty(const struct slot *s)
{
    HOLDS(s->key == -1 && s->leases == 0 && !s->guessed,
          "slots: an EMPTY slot has no key, no lease and is no guess");
    for (int i = 0; i < EXPERT_MAX_PARTS; i++)
        HOLDS(!under_way(&s->reads[i]), "slots: no read is under way into an EMPTY slot");
    return NULL;
}

const char *slot_check(const struct expert_cache *c, int gid)
{
    HOLDS(gid >= 0 && gid < c->n_gids, "slots: a lease names a slot of the cache");
    const struct slot *s = &c->slots[gid];
    const struct size_class *k = slot_class(c, gid);
    int i = gid - k->first_gid;
    HOLDS(i >= 0 && i < k->max_slots, "slots: a slot belongs to one class");
    HOLDS(k->evictable[i] == (s->state == SLOT_RESIDENT && s->leases == 0),
          "slots: a slot is evictable exactly while it is RESIDENT and not leased");
    HOLDS(s->leases >= 0, "slots: no lease is given back twice");
    if (s->state == SLOT_EMPTY)
        return check_empty(s);
    HOLDS(s->key >= 0 && s->key < (int64_t)c->n_layers * c->max_experts,
          "slots: the key of a slot is an expert's");
    const struct layer_plan *p = &c->plan[s->key / c->max_experts];
    HOLDS(s->key % c->max_experts < p->n_experts && &c->cls[p->cls] == k,
          "slots: a slot holds an expert of a layer that its class serves");
    HOLDS(c->gid_of[s->key] == gid, "slots: gid_of finds the slot that holds an expert");
    HOLDS(s->state != SLOT_FAILED || s->leases > 0,
          "slots: a FAILED slot is emptied with its last lease");
    HOLDS(s->state != SLOT_READING || s->leases > 0 || s->pending,
          "slots: a slot read for nobody is pending");
    HOLDS(!s->guessed || (s->leases == 0 && s->state != SLOT_FAILED),
          "slots: a guess that was asked for is none any more");
    HOLDS(
        i < k->n_slots || s->leases > 0 || s->state == SLOT_READING,
        "slots: a slot above n_slots is empty, or leased or read since before the class shrank");
    return check_reads(c, gid);
}

const char *lease_check(const struct expert_cache *c, const struct expert_lease *l)
{
    const char *broken = slot_check(c, l->slot);
    HOLDS(!broken, broken);
    HOLDS(c->slots[l->slot].leases > 0, "slots: a lease's slot counts it");
    HOLDS(c->slots[l->slot].key == (int64_t)l->layer * c->max_experts + l->expert,
          "slots: a leased slot keeps its expert");
    return NULL;
}

/* ---- a class ---------------------------------------------------------- */

/* What a policy is told of a slot: its key, -1 where none is in it. */
struct class_keys {
    const struct expert_cache *c;
    const struct size_class *k;
};

static int64_t key_in(const void *user, int slot)
{
    const struct class_keys *v = user;
    return v->c->slots[v->k->first_gid + slot].key;
}

static const char *check_counts(const struct expert_cache *c, const struct size_class *k)
{
    int n_empty = 0, n_evictable = 0, n_high_leased = 0;
    for (int i = 0; i < k->max_slots; i++) {
        const struct slot *s = &c->slots[k->first_gid + i];
        bool empty = s->state == SLOT_EMPTY;
        n_empty += empty && i < k->n_slots;
        n_evictable += k->evictable[i];
        n_high_leased += s->leases > 0 && i >= k->n_slots;
        HOLDS(!empty || i >= k->n_slots || i >= k->lowest_empty,
              "slots: no slot below lowest_empty is empty, so that memory grows only with use");
    }
    HOLDS(n_empty == k->n_empty, "slots: n_empty counts the empty slots below n_slots");
    HOLDS(n_evictable == k->n_evictable, "slots: n_evictable counts the evictable slots");
    HOLDS(n_high_leased == k->n_high_leased,
          "slots: n_high_leased counts the leased slots above n_slots");
    return NULL;
}

static const char *check_class(const struct expert_cache *c, int cls)
{
    const struct size_class *k = &c->cls[cls];
    bool last = cls == c->n_cls - 1;
    int end_gid = last ? c->n_gids : k[1].first_gid;
    size_t end = last ? c->memory_bytes : k[1].region;
    HOLDS(0 <= k->n_slots && k->n_slots <= k->max_slots && k->first_gid + k->max_slots <= end_gid,
          "slots: a class has at most max_slots slots, and its own gids");
    HOLDS(!c->memory || k->region + (size_t)k->max_slots * k->slot_bytes <= end,
          "slots: the classes share the mapping, one behind the other");
    HOLDS(0 <= k->lowest_empty && k->lowest_empty <= k->n_slots && 0 <= k->n_taken &&
              k->n_taken <= k->n_slots,
          "slots: lowest_empty and n_taken are bounds within n_slots");
    const char *broken = check_counts(c, k);
    if (!broken && c->policy->check)
        broken = c->policy->check(k->policy, k->max_slots, key_in, &(struct class_keys){c, k});
    return broken;
}

/* ---- the cache -------------------------------------------------------- */

static const char *check_tables(const struct expert_cache *c)
{
    int n_pending = 0, n_used = 0, n_hinted = 0;
    for (int gid = 0; gid < c->n_gids; gid++) {
        n_pending += c->slots[gid].pending;
        n_hinted += c->slots[gid].guessed;
        n_used += c->slots[gid].state != SLOT_EMPTY;
    }
    HOLDS(n_pending == c->n_pending,
          "slots: n_pending counts the slots that are marked as pending");
    for (int i = 0; i < c->n_pending; i++)
        HOLDS(c->slots[c->pending[i]].pending,
              "slots: a slot in the list of pending ones is marked so");
    for (int64_t key = 0; key < (int64_t)c->n_layers * c->max_experts; key++)
        n_used -= c->gid_of[key] >= 0;
    HOLDS(n_used == 0, "slots: gid_of names as many slots as hold something");
    const struct expert_stats *s = &c->stats;
    HOLDS(s->n_requests == s->n_hits + s->n_misses, "slots: a request hits or misses");
    HOLDS(s->guess_useful + s->guess_late + s->guess_wasted + n_hinted <= s->guess_queued,
          "slots: a guess is useful, late, wasted or still open, once");
    return NULL;
}

const char *slots_check(const struct expert_cache *c)
{
    int64_t n_used = 0;
    const char *broken = NULL;
    for (int i = 0; i < c->n_cls; i++)
        for (int k = 0; k < c->cls[i].max_slots; k++) {
            int gid = c->cls[i].first_gid + k;
            broken = slot_check(c, gid);
            HOLDS(!broken, broken);
            n_used += c->slots[gid].state != SLOT_EMPTY;
        }
    HOLDS(n_used == c->stats.slots_in_use,
          "slots: slots_in_use counts the slots that hold something");
    broken = check_tables(c);
    for (int i = 0; i < c->n_cls && !broken; i++)
        broken = check_class(c, i);
    return broken;
}

/* A walk over all slots for every request would make a test of thousands of slots
 * many times slower: there one request in so many has its calls checked, so that
 * each pays for LOOK_SLOTS slots. Mixed, for no layer to be left out for good. */
#define LOOK_SLOTS 128

const char *slots_look(const struct expert_cache *c)
{
    uint32_t mixed = (uint32_t)(c->stats.n_requests / c->n_used) * 2654435761u >> 16;
    return mixed % (1 + (uint32_t)c->n_gids / LOOK_SLOTS) == 0 ? slots_check(c) : NULL;
}
