/*
 * cache_impl: what cache.c, slots.c and reads.c share; private to this folder.
 *
 * Words: an *extent* is one read of an expert (a part, or parts that lie side
 * by side in the file); a *slot* is memory for one expert of its size class;
 * a *gid* is a slot's number over all classes, class after class.
 */
#ifndef CACHE_IMPL_H
#define CACHE_IMPL_H

#include "expert/expert.h"

struct extent { /* expert e: bytes at offset + e * stride */
    int file;
    int64_t offset, stride;
    size_t bytes;
};

struct layer_plan {
    int n_extents;
    struct extent extent[EXPERT_MAX_PARTS];
    int part_extent[EXPERT_MAX_PARTS];    /* which extent holds a part */
    size_t part_delta[EXPERT_MAX_PARTS];  /* where in the extent it begins */
    size_t part_bytes[EXPERT_MAX_PARTS];  /* 0: it may be anything */
    int n_parts, n_experts;
    size_t slot_bytes;                    /* sum of the extents' rooms */
    int cls;
};

/*
 * EMPTY -> READING (reads submitted) -> RESIDENT or FAILED -> EMPTY.
 * READING ends when reads_observe sees the last read done, not before.
 */
enum slot_state { SLOT_EMPTY, SLOT_READING, SLOT_RESIDENT, SLOT_FAILED };

struct slot {
    int64_t key;          /* layer * max_experts + expert; -1: empty */
    enum slot_state state;
    int leases;
    bool guessed;          /* read by lookahead and not asked for since */
    bool pending;         /* in expert_cache.pending */
    bool adopted;         /* leased while somebody else's reads were under way */
    struct ioq_req reads[EXPERT_MAX_PARTS];
};

struct size_class {
    size_t slot_bytes;
    int first_gid;
    int max_slots;        /* one for every expert of its layers */
    int min_slots;
    int n_slots;          /* may be filled now; slots above it only drain */
    int want_slots;       /* result of slots_share */
    int n_high_leased;    /* leased slots at or above n_slots */
    int lowest_empty;     /* none is empty below it */
    int n_empty;          /* empty among the first n_slots */
    int n_evictable;
    int n_taken;          /* no slot at or above it was taken since the class was last resized */
    size_t region;        /* where in the mapping slot 0 begins */
    uint8_t *evictable;   /* max_slots: resident and not leased */
    void *policy;
};

struct expert_cache {
    struct ioq *ioq;         /* NULL: a replay; reads are done at once, into nothing */
    int n_layers, n_used, max_experts;
    int at_layer;            /* asked for last: to a policy the turns of others come first */
    struct layer_plan *plan; /* n_layers */
    struct size_class *cls;
    int n_cls;
    struct slot *slots;      /* all classes */
    int n_gids;
    int32_t *gid_of;         /* n_layers * max_experts; -1: not here */
    int *pending;            /* gids being read that nobody leases */
    int n_pending;
    char *memory;
    size_t memory_bytes;     /* addresses, not pages */
    struct expert_memory place;
    bool huge;               /* in huge pages */
    struct touch *touch;     /* NULL: pages are touched by reads */
    const struct expert_policy *policy;
    struct expert_stats stats;
    expert_trace_fn *trace;
    void *trace_user;
};

/* ---- slots_check.c ---- */
/* The first broken invariant of all slots, classes and tables, of one slot, or of
 * the slot of a lease; NULL: none. */
const char *slots_check(const struct expert_cache *c);
/* The same; in large caches at some requests only. */
const char *slots_look(const struct expert_cache *c);
const char *slot_check(const struct expert_cache *c, int gid);
const char *lease_check(const struct expert_cache *c, const struct expert_lease *l);

/* ---- slots.c ---- */
/* Memory for reading any expert of the extent: no more than the read where all
 * of them begin at a page of the file. */
size_t extent_room(const struct extent *x);
/* Fills plan and classes (no memory) for the layers; E_ARG, E_NOMEM. */
int slots_plan(struct expert_cache *c, const struct expert_config *cfg, struct err *e);
void slots_plan_free(struct expert_cache *c);
size_t slots_min_bytes(const struct expert_cache *c);
size_t slots_full_bytes(const struct expert_cache *c);
/* Shares cache_bytes among the classes: sets want_slots of each. */
void slots_share(struct expert_cache *c, size_t cache_bytes);
/* Reserves addresses for all slots, or for those of cache_bytes. */
int slots_map(struct expert_cache *c, size_t cache_bytes, bool fixed, struct err *e);
size_t slots_bytes(const struct expert_cache *c);
void slots_resize(struct expert_cache *c); /* to want_slots */

struct size_class *slot_class(const struct expert_cache *c, int gid);
char *slot_memory(const struct expert_cache *c, int gid);
/* An empty slot of the class, evicting if needed; -1: none can be had. */
int slot_take(struct expert_cache *c, int cls);
void slot_attach(struct expert_cache *c, int gid, int64_t key);
/* Forgets what the slot holds; no lease, no read in flight. */
void slot_clear(struct expert_cache *c, int gid);
void slot_pin(struct expert_cache *c, int gid);
void slot_unpin(struct expert_cache *c, int gid); /* drops one lease, files at the last */
/* An unleased slot becomes evictable, pending or empty, as its state asks. */
void slot_file(struct expert_cache *c, int gid);

/* ---- reads.c ---- */
void reads_start(struct expert_cache *c, int gid, enum ioq_class cls);
void reads_promote(struct expert_cache *c, int gid);
bool reads_done(const struct slot *s);
/* Some read failed or was cancelled: the slot can only become FAILED. */
bool reads_spoiled(const struct slot *s);
/* The first part of a slot that is all zeros and may not be, -1. All has been read. */
int reads_zero_part(const struct expert_cache *c, int gid);
/* Moves READING on when all its reads are done. */
void reads_observe(struct expert_cache *c, int gid);
/* Cancels what is queued; true when nothing of it is in flight. */
bool reads_cancel(struct expert_cache *c, int gid);
void reads_wait(struct expert_cache *c, int gid);
void pending_add(struct expert_cache *c, int gid);
void pending_sweep(struct expert_cache *c);
/* Ends one pending read of the class: cancels one that has not begun, or waits
 * for the oldest. False: there is none. */
bool pending_drop_one(struct expert_cache *c, int cls);
/* Cancels reads for a layer that have not begun: the router chose otherwise. */
void pending_drop_layer(struct expert_cache *c, int layer);

#endif
