/*
 * expert: (layer, expert) -> leased bytes.
 *
 *   cache.c      leases, guesses, counters
 *   slots.c      size classes, the mapping, growing and shrinking
 *   reads.c      the reads of a slot; slots read for nobody yet
 *   policy_*.c   one eviction policy a file
 *   replay.c     recorded picks through a cache that reads nothing
 *   slots_check.c  the invariants of all that, checked in sanitizer builds
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

#define EXPERT_MAX_PARTS 6

/* One matrix or vector of all experts of a layer: expert e lies at offset + e * stride. */
struct expert_part {
    int file; /* ioq file index */
    int64_t offset, stride;
    size_t bytes; /* of one expert */
    bool may_be_zero; /* else an expert whose bytes are all 0 counts as not read */
};
struct expert_layer {
    int n_experts; /* 0: no experts in this layer */
    int n_parts;
    struct expert_part part[EXPERT_MAX_PARTS]; /* gate, up, down; or gate_up, down; or all */
};

/* Where slots lie: memory that the drive can write into. All zero: of the host. */
struct expert_memory {
    void *(*map)(void *user, size_t bytes, bool huge); /* as os_map */
    void (*unmap)(void *user, void *p, size_t bytes);
    void *user;
};

struct expert_config {
    const struct expert_layer *layers;
    int n_layers;
    int n_used;          /* experts leased at once in a layer (top-k) */
    size_t cache_bytes;  /* memory for slots */
    bool fixed;          /* no addresses are reserved for more: it never grows beyond that */
    const char *policy;  /* NULL: default; "lru", "decay", ... */
    struct ioq *ioq;
    struct expert_memory memory;
};

/* The smallest and the largest useful cache_bytes for these layers. */
size_t expert_min_bytes(const struct expert_config *c);
size_t expert_full_bytes(const struct expert_config *c);

int expert_open(const struct expert_config *c, struct expert_cache **out, struct err *e);
void expert_close(struct expert_cache *c); /* NULL is fine */

/* Change the memory for slots; shrinking evicts and gives the pages back,
 * leased slots stay. Returns the bytes now in use. */
size_t expert_resize(struct expert_cache *c, size_t cache_bytes);
size_t expert_bytes(const struct expert_cache *c); /* NULL: 0 */

struct expert_lease {
    int layer, expert;
    int slot;          /* -1: none */
    bool hit;          /* was resident when requested */
};

/*
 * Leases `n` experts of a layer and starts the missing reads, in this order.
 * n <= n_used, ids distinct; with 0 only queued lookahead of the layer is dropped, as
 * with any: the router chose otherwise. Never blocks on reads; may wait for earlier
 * lookahead reads to leave a slot. On failure no lease is held.
 */
int expert_request(struct expert_cache *c, int layer, const int32_t *ids, int n,
                   struct expert_lease *leases, struct err *e);
/*
 * Leases an expert that is in memory or on its way, as expert_request would; false, and
 * no lease: a request would have to read it. Evicts nothing. Whoever needs more experts
 * of a layer than one request may name keeps those first: a request takes slots of what
 * is not leased, of this layer before others, and drops its queued lookahead.
 */
bool expert_keep(struct expert_cache *c, int layer, int32_t id, struct expert_lease *lease);
/* True when all parts are in memory or a read failed (expert_wait tells). */
bool expert_ready(struct expert_cache *c, const struct expert_lease *l);
/* True when part `part` has arrived: gate and up can start before down is there. */
bool expert_part_ready(struct expert_cache *c, const struct expert_lease *l, int part);
/* Sleeps until the part has arrived or its read failed. */
void expert_wait_part(struct expert_cache *c, const struct expert_lease *l, int part);
/* Sleeps until ready; E_IO, and E_FORMAT for what cannot be an expert, name file, offset,
 * layer and expert. */
int expert_wait(struct expert_cache *c, const struct expert_lease *l, struct err *e);
const void *expert_data(const struct expert_cache *c, const struct expert_lease *l, int part);
void expert_release(struct expert_cache *c, struct expert_lease *l);
/* How many more leases of this layer could be taken now without waiting. */
int expert_free_slots(const struct expert_cache *c, int layer);

/* Lookahead: may read these when the drive is idle; returns how many were
 * queued. Changes no result. expert_drop_guesses cancels what is still queued. */
int expert_guess(struct expert_cache *c, int layer, const int32_t *ids, int n);
void expert_drop_guesses(struct expert_cache *c);
/* Called after each pass through the layers (a decoded token, or a chunk of a
 * prompt), for policies that age their counts. */
void expert_tick(struct expert_cache *c);

struct expert_stats {
    int64_t n_requests, n_hits, n_misses; /* experts */
    int64_t bytes_read;
    int64_t n_evicted;
    int64_t guess_queued, guess_useful, guess_wasted, guess_late;
    int64_t n_slots, slots_in_use;
};
void expert_get_stats(const struct expert_cache *c, struct expert_stats *s); /* NULL: all 0 */

/* Called for every expert_request with its ids: of one token in router order; not for
 * what was kept. */
typedef void expert_trace_fn(void *user, int layer, const int32_t *ids, int n);
void expert_set_trace(struct expert_cache *c, expert_trace_fn *fn, void *user);

/*
 * The share of requests that a cache of cfg->cache_bytes hits when it sees these
 * picks, counted from token n_first on: until then it fills. ids (n_tokens,
 * n_layers, n_used), -1 after the last where a layer uses fewer. Reads nothing
 * and takes no memory for experts; cfg->ioq is not used. E_ARG for picks that
 * the layers do not have.
 */
int expert_replay(const struct expert_config *cfg, const int32_t *ids, int64_t n_tokens,
                  int64_t n_first, double *hit_rate, struct err *e);

/* The key in a slot, -1: it is empty. */
typedef int64_t expert_key_fn(const void *user, int slot);

/*
 * Eviction policies: one file each, a table of functions over opaque state. A
 * policy orders the entries of one size class; the cache tells it what happens.
 * `key` is layer * max_experts + expert, `slot` counts from 0 within the class.
 * tests/test_policy_contract.c holds every row of expert_policies to this:
 *
 *  1. Every function but `check` is there. None is called with a NULL state, and
 *     all on the cache's thread; a class has a state of its own, so nothing of a
 *     policy is global or shared, and there are as many states as classes.
 *  2. What comes when: on_insert for a slot that holds nothing; then on_use any
 *     number of times, none for a guess that did not come true; then on_evict with
 *     the same key and slot, for whatever reason the slot is emptied (a read that
 *     failed, a cache that shrinks), leased before or not. on_tick may never come.
 *  3. The same calls give the same answers: no clock, no chance, no addresses.
 *     expert_replay and the tests' replay make the calls of a real cache to learn
 *     what it would hit, and must be given the same slots.
 *  4. victim returns a slot with evictable[slot] != 0 as long as there is one, else
 *     -1. Leased slots are not evictable; what is evictable changes between two
 *     calls without on_* being told. `layer` is the one that was asked for last, also
 *     where a guess for a later one needs the slot.
 *  5. victim and colder only ask: an answer is no use, and nothing may be evicted
 *     afterwards. expert_guess asks for a victim, then whether it is colder, and only
 *     if it is asks again and evicts. Asked again at once, with the same layer and
 *     evictable slots, victim gives the same slot.
 *  6. A policy may keep what it likes of keys that are in no slot (their counts),
 *     and what it found when it was asked: it need not look again at slots that were
 *     released since, as long as 4 holds. It keeps no pointer that it was handed: not
 *     `evictable`, not `user`.
 */
struct expert_policy {
    const char *name; /* unique; what --policy takes */
    /* Keys below n_keys, slots below n_slots. NULL: no memory. */
    void *(*create)(int64_t n_keys, int64_t n_slots, int n_layers, int max_experts);
    void (*destroy)(void *state);
    void (*on_use)(void *state, int64_t key, int slot);    /* requested (hit, or after insert) */
    void (*on_insert)(void *state, int64_t key, int slot); /* now lives in slot */
    void (*on_evict)(void *state, int64_t key, int slot);
    void (*on_tick)(void *state);                          /* a pass through the layers ended */
    int (*victim)(void *state, const uint8_t *evictable, int layer);
    /* May a lookahead read of `key`, which is in no slot, take the slot of that victim? */
    bool (*colder)(void *state, int victim, int64_t key);
    /* The first invariant of the state that is broken, or that does not agree with the
     * n_slots slots; NULL: none. Changes nothing. NULL where there is nothing to check. */
    const char *(*check)(const void *state, int n_slots, expert_key_fn *key_in, const void *user);
};
extern const struct expert_policy *const expert_policies[]; /* NULL ended, default first */

#endif
