/*
 * replay: routing traces against the eviction policies, without reading a byte.
 *
 * Drives a policy through the same calls as the cache: what a request hits is
 * pinned first, then each miss takes a free slot or a victim, then all are
 * used in router order, and a token ends with a tick.
 */
#ifndef REPLAY_H
#define REPLAY_H

#include "expert/expert.h"

struct replay_trace {
    char name[64];
    int n_tokens, n_layers, n_experts, n_used; /* n_used: the most in a layer */
    int64_t n_requests;                        /* experts */
    int16_t *ids; /* (n_tokens, n_layers, n_used), -1 where fewer are used */
};

/* One JSON object a line: {"layers": [[expert, ...], ...]}. */
int replay_load(const char *path, struct replay_trace *t, struct err *e);
void replay_free(struct replay_trace *t);

/* Slots for `times` the experts that one token uses, at most all experts. */
int64_t replay_slots(const struct replay_trace *t, double times);
/* Misses with this policy; < 0: no memory. */
int64_t replay_policy(const struct replay_trace *t, const struct expert_policy *p, int64_t n_slots);
/* Misses of Belady's optimum: evicts what is used again last. */
int64_t replay_belady(const struct replay_trace *t, int64_t n_slots);

#endif
