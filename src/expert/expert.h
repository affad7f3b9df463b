/*
 * expert: (layer, expert) -> leased bytes.
 *
 *   cache.c      leases, hints, counters
 *   slots.c      size classes, the mapping, growing and shrinking
 *   reads.c      the reads of a slot; slots read for nobody yet
 *   policy_*.c   one eviction policy a file
 *   replay.c     recorded picks through a cache that reads nothing
 *
 * The cache owns its memory (one mapping, slots carved once) and its read
 * requests. Slots come in size classes because layers of one file may use
 * different weight types; a class gets memory in proportion to the bytes of
 * the layers it serves. One thread drives it: the thread that drives the ioq.
 *
 * A lease pins the bytes of one expert: they stay put from expert_request
 * until expert_release. Placement never changes a result.
 */
#ifndef EXPERT_H
#define EXPERT_H

#include "base/base.h"
#include "io/io.h"

struct expert_cache;

#define EXPERT_MAX_PARTS 3

/* One matrix of all experts of a layer: expert e lies at offset + e * stride. */
struct expert_part {
    int file; /* ioq file index */
    int64_t offset, stride;
    size_t bytes; /* of one expert */
};
struct expert_layer {
    int n_experts; /* 0: no experts in this layer */
    int n_parts;
    struct expert_part part[EXPERT_MAX_PARTS]; /* gate, up, down; or gate_up, down; or all */
};

struct expert_config {
    const struct expert_layer *layers;
    int n_layers;
    int n_used;          /* experts leased at once in a layer (top-k) */
    size_t cache_bytes;  /* memory for slots */
    const char *policy;  /* NULL: default; "lru", "decay", ... */
    struct ioq *ioq;
};

/* The smallest and the largest useful cache_bytes for these layers. */
size_t expert_min_bytes(const struct expert_config *c);
size_t expert_full_bytes(const struct expert_config *c);

int expert_open(const struct expert_config *c, struct expert_cache **out, struct err *e);
void expert_close(struct expert_cache *c);

/* Change the memory for slots; shrinking evicts and gives the pages back,
 * leased slots stay. Returns the bytes now in use. */
size_t expert_resize(struct expert_cache *c, size_t cache_bytes);
size_t expert_bytes(const struct expert_cache *c);

struct expert_lease {
    int layer, expert;
    int slot;          /* -1: none */
    bool hit;          /* was resident when requested */
};

/*
 * Leases `n` experts of a layer and starts the missing reads, in this order.
 * n <= n_used, ids distinct. Never blocks on reads; may wait for earlier
 * lookahead reads to leave a slot. On failure no lease is held.
 */
int expert_request(struct expert_cache *c, int layer, const int32_t *ids, int n,
                   struct expert_lease *leases, struct err *e);
/* True when all parts are in memory or a read failed (expert_wait tells). */
bool expert_ready(struct expert_cache *c, const struct expert_lease *l);
/* True when part `part` has arrived: gate and up can start before down is there. */
bool expert_part_ready(struct expert_cache *c, const struct expert_lease *l, int part);
/* Sleeps until the part has arrived or its read failed. */
void expert_wait_part(struct expert_cache *c, const struct expert_lease *l, int part);
/* Sleeps until ready; E_IO names file, offset, layer and expert. */
int expert_wait(struct expert_cache *c, const struct expert_lease *l, struct err *e);
const void *expert_data(const struct expert_cache *c, const struct expert_lease *l, int part);
void expert_release(struct expert_cache *c, struct expert_lease *l);
/* How many more leases of this layer could be taken now without waiting. */
int expert_free_slots(const struct expert_cache *c, int layer);

/* Lookahead: may read these when the drive is idle; returns how many were
 * queued. Changes no result. expert_drop_hints cancels what is still queued. */
int expert_hint(struct expert_cache *c, int layer, const int32_t *ids, int n);
void expert_drop_hints(struct expert_cache *c);
/* Called after each pass through the layers (a decoded token, or a chunk of a
 * prompt), for policies that age their counts. */
void expert_tick(struct expert_cache *c);

struct expert_stats {
    int64_t n_requests, n_hits, n_misses; /* experts */
    int64_t bytes_read;
    int64_t n_evicted;
    int64_t hint_queued, hint_useful, hint_wasted, hint_late;
    int64_t n_slots, slots_in_use;
};
void expert_get_stats(const struct expert_cache *c, struct expert_stats *s);

/* Called for every expert_request with the ids in router order. */
typedef void expert_trace_fn(void *user, int layer, const int32_t *ids, int n);
void expert_set_trace(struct expert_cache *c, expert_trace_fn *fn, void *user);

/*
 * The share of requests that a cache of cfg->cache_bytes hits when it sees these
 * picks, counted from token n_first on: until then it fills. ids (n_tokens,
 * n_layers, n_used), -1 after the last where a layer uses fewer. Reads nothing
 * and takes no memory for experts; cfg->ioq is not used. E_ARG for picks that
 * the layers do not have.
 */
int expert_replay(const struct expert_config *cfg, const int32_t *ids, int64_t n_tokens, int64_t n_first,
                  double *hit_rate, struct err *e);

/*
 * Eviction policies: one file each, a table of functions over opaque state.
 * A policy orders resident, unleased entries of one size class; the cache
 * tells it what happens. `key` is layer * max_experts + expert.
 */
struct expert_policy {
    const char *name;
    /* n_keys keys exist; n_slots slots. NULL: no memory. */
    void *(*create)(int64_t n_keys, int64_t n_slots, int n_layers, int max_experts);
    void (*destroy)(void *state);
    void (*on_use)(void *state, int64_t key, int slot);    /* requested (hit, or after insert) */
    void (*on_insert)(void *state, int64_t key, int slot); /* now lives in slot */
    void (*on_evict)(void *state, int64_t key, int slot);
    void (*on_tick)(void *state);                          /* a pass through the layers ended */
    /* The slot to evict among those with evictable[slot] != 0; -1: none. */
    int (*victim)(void *state, const uint8_t *evictable, int layer);
    /* May a lookahead read of `key` take the slot of that victim? */
    bool (*colder)(void *state, int victim, int64_t key);
};
extern const struct expert_policy *const expert_policies[]; /* NULL ended, default first */

#endif
