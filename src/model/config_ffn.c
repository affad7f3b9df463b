/* The numbers of experts, routers and networks without experts. */
#include "model/config_internal.h"

#include <stdio.h>

static void check_width(struct reader *r, const char *what, int64_t width)
{
    if (r->rc == OK && width % 32 != 0)
        r->rc = err_set(r->e, E_UNSUPPORTED, "%s: the %s is %lld, which is no multiple of 32",
                        weights_path(r->w, 0), what, (long long)width);
}

/* The width of the shared expert: in the file, or as many experts' as it counts,
 * or that of its weights. */
static int64_t shared_width(struct reader *r, const struct config *c)
{
    const struct tensor *down = weight_of(r, "ffn_down_shexp.weight");
    int64_t width = down ? down->ne[0] : c->expert_width;
    if (key_there(r, "expert_shared_count"))
        width = c->expert_width * read_count(r, "expert_shared_count", 1, 1, MAX_EXPERTS);
    return read_count(r, "expert_shared_feed_forward_length", width, 32, 1 << 20);
}

/* Values of expert_gating_func. */
static void read_scoring(struct reader *r, struct config *c)
{
    static const enum dev_scoring kinds[] = {[1] = DEV_SOFTMAX, [2] = DEV_SIGMOID,
                                             [3] = DEV_SOFTMAX_PICKED, [4] = DEV_SQRT_SOFTPLUS};
    c->scoring = c->family->scoring;
    c->renormalise = c->family->renormalise;
    c->weights_scale = 1.0f;
    if (!config_has(c, HAS_ROUTER_KEYS))
        return;
    const int64_t kind = read_count(r, "expert_gating_func", 0, 0, ARRAY_LEN(kinds) - 1);
    if (kind)
        c->scoring = kinds[kind];
    else if (config_has(c, HAS_CORRECTION))
        c->scoring = DEV_SIGMOID; /* nothing else is corrected */
    c->renormalise = read_count(r, "expert_weights_norm", c->renormalise, 0, 1);
    c->weights_scale = (float)read_real(r, "expert_weights_scale", 1.0, 0.0, 1e6);
    if (c->weights_scale == 0.0f)
        c->weights_scale = 1.0f; /* so it is written for none */
    c->n_groups = read_count(r, "expert_group_count", 0, 0, DEV_MAX_GROUPS);
    c->groups_used = read_count(r, "expert_group_used_count", c->n_groups, 0, c->n_groups);
    if (r->rc == OK && c->n_groups > 1 &&
        (c->n_experts % c->n_groups || c->groups_used < 1 ||
         c->groups_used * (c->n_experts / c->n_groups) < c->n_used))
        r->rc = err_set(r->e, E_FORMAT,
                        "%s: %lld experts in %lld groups of which %lld are used cannot give the "
                        "%lld that a token takes",
                        weights_path(r->w, 0), (long long)c->n_experts, (long long)c->n_groups,
                        (long long)c->groups_used, (long long)c->n_used);
}

static void read_experts(struct reader *r, struct config *c)
{
    c->n_experts = read_count(r, "expert_count", -1, 1, MAX_EXPERTS);
    const int64_t most_used = config_has(c, HAS_WEIGHTED_INPUT) /* one weight for a token's input */
                                  ? 1 : MIN((int64_t)DEV_MAX_USED, c->n_experts);
    /* a sparse mixer is defined for two */
    const bool two = c->family->scoring == DEV_SPARSE_MIXER;
    c->n_used = read_count(r, "expert_used_count", -1, two ? 2 : 1, two ? 2 : most_used);
    c->expert_width = key_there(r, "expert_feed_forward_length")
                          ? read_count(r, "expert_feed_forward_length", -1, 32, 1 << 20)
                          : read_count(r, "feed_forward_length", -1, 32, 1 << 20);
    if (config_has(c, HAS_SHARED_EXPERT))
        c->shared_width = shared_width(r, c);
    c->expert_embd = config_has(c, HAS_LATENT_EXPERTS)
                         ? read_count(r, "expert_latent_length", -1, 32, c->n_embd) : c->n_embd;
    if (r->rc == OK && c->expert_embd % 32)
        r->rc = err_set(r->e, E_UNSUPPORTED, "%s: '%s.expert_latent_length' is %lld, which is no "
                        "multiple of 32", weights_path(r->w, 0), r->family,
                        (long long)c->expert_embd);
    check_width(r, "expert width", c->expert_width);
    check_width(r, "shared expert's width", c->shared_width);
    read_scoring(r, c);
}

/* Whether a layer has no experts, of those behind the first ones that have none. */
static bool without_router(const struct reader *r, int layer)
{
    char name[64];
    snprintf(name, sizeof(name), "blk.%d.ffn_gate_inp.weight", layer);
    return weights_find(r->w, name) == NULL;
}

/* What networks are limited to: by the family, for all, or layer by layer; 0: not. */
static void read_limits(struct reader *r, struct config *c)
{
    float all = c->family->limit;
    if (config_has(c, HAS_SITU)) {
        all = (float)read_real(r, "activation.situ_beta", 0.0, 1e-6, 1e6);
        key_needed(r, "activation.situ_beta");
        c->up_cap = (float)read_real(r, "activation.situ_linear_beta", 0.0, 0.0, 1e6);
        key_needed(r, "activation.situ_linear_beta");
    }
    for (int i = 0; i < c->n_layers; i++) {
        struct layer_config *l = &c->layer[i];
        l->limit = l->shared_limit = all;
        if (!config_has(c, HAS_LIMITS))
            continue;
        l->limit = (float)read_real_of(r, "swiglu_clamp_exp", i, 0.0, 0.0, 1e6);
        /* without the shared one's own: as the others', where there are streams */
        l->shared_limit = (float)read_real_of(r, "swiglu_clamp_shexp", i,
                                              config_has(c, HAS_STREAMS) ? (double)l->limit : 0.0,
                                              0.0, 1e6);
    }
}

/* The first layers look a token's experts up. */
static void read_tables(struct reader *r, struct config *c)
{
    if (!config_has(c, HAS_TABLES))
        return;
    const int64_t n = read_count(r, "hash_layer_count", -1, 0, c->n_layers);
    for (int i = 0; i < c->n_layers && r->rc == OK; i++) {
        char name[64];
        snprintf(name, sizeof(name), "blk.%d.ffn_gate_tid2eid.weight", i);
        const bool there = weights_find(r->w, name) != NULL;
        c->layer[i].looks_up = i < n;
        if (there != (i < n))
            r->rc = err_set(r->e, E_FORMAT, "%s: '%s.hash_layer_count' is %lld, and tensor '%s' "
                            "is %s; the file is incomplete or of another architecture than it says",
                            weights_path(r->w, 0), r->family, (long long)n, name,
                            there ? "there" : "missing");
    }
}

void read_ffn(struct reader *r, struct config *c)
{
    const bool experts = config_has(c, HAS_EXPERTS);
    int64_t n_dense = experts ? 0 : c->n_layers, all = 0, step = 1;
    check_width(r, "embedding length", c->n_embd);
    if (experts)
        read_experts(r, c);
    if (config_has(c, HAS_DENSE_LAYERS))
        n_dense = read_count(r, "leading_dense_block_count", 0, 0, c->n_layers);
    if (config_has(c, HAS_INTERLEAVED))
        step = read_count(r, "interleave_moe_layer_step", -1, 1, MAX_LAYERS);
    for (int i = 0; i < c->n_layers; i++) {
        c->layer[i].dense = i < n_dense || (i + 1) % step != 0 ||
                            (config_has(c, HAS_SOME_EXPERTS) && without_router(r, i));
        all += c->layer[i].dense;
        if (!c->layer[i].dense && !config_has(c, HAS_BESIDE))
            continue;
        c->layer[i].ffn_width = read_count_of(r, "feed_forward_length", i, -1, 32, 1 << 20);
        check_width(r, "feed-forward length", c->layer[i].ffn_width);
    }
    read_limits(r, c);
    read_tables(r, c);
    if (experts && all == c->n_layers && r->rc == OK)
        r->rc = err_set(r->e, E_FORMAT, "%s: '%s.%s' leaves no layer of %d with experts",
                        weights_path(r->w, 0), r->family,
                        step > 1 ? "interleave_moe_layer_step" : "leading_dense_block_count",
                        c->n_layers);
}
