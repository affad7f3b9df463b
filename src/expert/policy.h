/*
 * policy: the eviction policies, for the table in policy.c; private to this
 * folder.
 */
#ifndef POLICY_H
#define POLICY_H

#include "expert/expert.h"

extern const struct expert_policy expert_policy_decay, expert_policy_lru;

#endif
