/*
 * The families that sluice can run, one row each. A new family is a row here
 * and at most a new block function in forward.c.
 */
#include "model/model_internal.h"

#include <stdio.h>
#include <string.h>

static const struct arch families[] = {
    {
        .name = "qwen35moe", /* Qwen3.5-397B-A17B, 122B-A10B, 35B-A3B */
        .gated_attention = true,
        .qk_norm = true,
        .delta_layers = true,
        .full_interval = 4,
        .shared_expert = true,
        .renormalise = true,
        .ffn_norm = "post_attention_norm",
    },
    {
        .name = "qwen3moe", /* Qwen3-30B-A3B, 235B-A22B, Qwen3-Coder */
        .qk_norm = true,
        .full_interval = 1,
        .renormalise = true,
        .ffn_norm = "ffn_norm",
    },
};

const struct arch *arch_find(struct str name)
{
    for (size_t i = 0; i < ARRAY_LEN(families); i++)
        if (strlen(families[i].name) == name.n && memcmp(families[i].name, name.p, name.n) == 0)
            return &families[i];
    return NULL;
}

void arch_list(char *buf, size_t n)
{
    size_t used = 0;
    buf[0] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(families) && used < n; i++)
        used += (size_t)snprintf(buf + used, n - used, "%s%s", i ? ", " : "", families[i].name);
}
