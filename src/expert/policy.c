/*
 * policy: the table of eviction policies, default first.
 */
#include "expert/policy.h"

const struct expert_policy *const expert_policies[] = {
    &expert_policy_decay,
    &expert_policy_lru,
    NULL,
};
