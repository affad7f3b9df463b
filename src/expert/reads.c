/*
 * reads: the read requests of a slot, and slots that are read for nobody yet.
 *
 * A slot is *pending* while it is READING and unleased: started as lookahead,
 * or released before its reads were done. Pending slots are looked at whenever
 * the cache is asked for something; none is touched while a read is in flight.
 */
#include "expert/cache_impl.h"

void reads_start(struct expert_cache *c, int gid, enum ioq_class cls)
{
    struct slot *s = &c->slots[gid];
    const struct layer_plan *p = &c->plan[s->key / c->max_experts];
    int64_t expert = s->key % c->max_experts;
    s->state = SLOT_READING;
    if (!c->ioq) {
        for (int i = 0; i < EXPERT_MAX_PARTS; i++)
            s->reads[i] = (struct ioq_req){.state = IOQ_DONE};
        return;
    }
    char *at = slot_memory(c, gid);
    for (int i = 0; i < p->n_extents; i++) {
        const struct extent *x = &p->extent[i];
        s->reads[i] = (struct ioq_req){
            .file = x->file,
            .cls = cls,
            .offset = x->offset + expert * x->stride,
            .bytes = x->bytes,
            .buf = at,
            .tag = {(int)(s->key / c->max_experts) + 1, (int)expert + 1},
        };
        at += extent_room(x);
    }
    for (int i = p->n_extents; i < EXPERT_MAX_PARTS; i++)
        s->reads[i] = (struct ioq_req){.state = IOQ_DONE};
    for (int i = 0; i < p->n_extents; i++)
        ioq_submit(c->ioq, &s->reads[i]);
}

void reads_promote(struct expert_cache *c, int gid)
{
    struct slot *s = &c->slots[gid];
    for (int i = 0; i < EXPERT_MAX_PARTS; i++)
        ioq_promote(c->ioq, &s->reads[i], IOQ_DEMAND);
}

bool reads_done(const struct slot *s)
{
    for (int i = 0; i < EXPERT_MAX_PARTS; i++)
        if (s->reads[i].state != IOQ_DONE)
            return false;
    return true;
}

int reads_zero_part(const struct expert_cache *c, int gid)
{
    const struct slot *s = &c->slots[gid];
    const struct layer_plan *p = &c->plan[s->key / c->max_experts];
    for (int i = 0; c->ioq && i < p->n_parts; i++) {
        const char *data = s->reads[p->part_extent[i]].data;
        if (p->part_bytes[i] && bytes_are_zero(data + p->part_delta[i], p->part_bytes[i]))
            return i;
    }
    return -1;
}

/* A hole in a file, where a download broke off, reads as zeros without an error. Bytes
 * that are an expert show it with the first of them. */
static void refuse_zeros(struct expert_cache *c, int gid)
{
    struct slot *s = &c->slots[gid];
    const int part = reads_zero_part(c, gid);
    if (part < 0)
        return;
    s->reads[c->plan[s->key / c->max_experts].part_extent[part]].status = E_FORMAT;
    s->state = SLOT_FAILED;
}

void reads_observe(struct expert_cache *c, int gid)
{
    struct slot *s = &c->slots[gid];
    if (s->state != SLOT_READING || !reads_done(s))
        return;
    s->state = SLOT_RESIDENT;
    for (int i = 0; i < EXPERT_MAX_PARTS; i++) {
        c->stats.bytes_read += (int64_t)s->reads[i].got;
        if (s->reads[i].status != OK)
            s->state = SLOT_FAILED;
    }
    if (s->state == SLOT_RESIDENT)
        refuse_zeros(c, gid);
}

bool reads_cancel(struct expert_cache *c, int gid)
{
    struct slot *s = &c->slots[gid];
    for (int i = 0; i < EXPERT_MAX_PARTS; i++)
        ioq_cancel(c->ioq, &s->reads[i]);
    return reads_done(s);
}

void reads_wait(struct expert_cache *c, int gid)
{
    struct slot *s = &c->slots[gid];
    for (int i = 0; i < EXPERT_MAX_PARTS; i++)
        ioq_wait(c->ioq, &s->reads[i]);
    reads_observe(c, gid);
}

void pending_add(struct expert_cache *c, int gid)
{
    if (c->slots[gid].pending)
        return;
    c->slots[gid].pending = true;
    c->pending[c->n_pending++] = gid;
}

/* False: the slot stays pending. */
static bool settle(struct expert_cache *c, int gid)
{
    struct slot *s = &c->slots[gid];
    if (s->leases == 0 && s->state == SLOT_READING) {
        reads_observe(c, gid);
        if (s->state == SLOT_READING)
            return false;
    }
    s->pending = false;
    if (s->leases == 0 && s->state != SLOT_EMPTY)
        slot_file(c, gid);
    return true;
}

void pending_sweep(struct expert_cache *c)
{
    int n = 0;
    for (int i = 0; i < c->n_pending; i++)
        if (!settle(c, c->pending[i]))
            c->pending[n++] = c->pending[i];
    c->n_pending = n;
}

static bool all_queued(const struct slot *s)
{
    for (int i = 0; i < EXPERT_MAX_PARTS; i++)
        if (s->reads[i].bytes && s->reads[i].state != IOQ_QUEUED)
            return false;
    return true;
}

bool pending_drop_one(struct expert_cache *c, int cls)
{
    int oldest = -1, unstarted = -1;
    for (int i = 0; i < c->n_pending; i++) {
        int gid = c->pending[i];
        const struct slot *s = &c->slots[gid];
        if (s->leases || s->state != SLOT_READING || slot_class(c, gid) != &c->cls[cls])
            continue;
        if (oldest < 0)
            oldest = gid;
        if (all_queued(s))
            unstarted = gid;
    }
    if (oldest < 0)
        return false;
    if (unstarted >= 0)
        reads_cancel(c, unstarted);
    else
        reads_wait(c, oldest);
    pending_sweep(c);
    return true;
}

void pending_drop_layer(struct expert_cache *c, int layer)
{
    for (int i = 0; i < c->n_pending; i++) {
        const struct slot *s = &c->slots[c->pending[i]];
        if (s->leases == 0 && s->state == SLOT_READING && s->key / c->max_experts == layer &&
            all_queued(s))
            reads_cancel(c, c->pending[i]);
    }
    pending_sweep(c);
}

bool reads_spoiled(const struct slot *s)
{
    for (int i = 0; i < EXPERT_MAX_PARTS; i++)
        if (s->reads[i].state == IOQ_DONE && s->reads[i].status != OK)
            return true;
    return false;
}
