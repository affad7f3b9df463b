/* The numbers of mixers: attention, latent attention, the gated delta net. */
#include "model/config_internal.h"

#include <math.h>
#include <stdio.h>

/* ---- attention ------------------------------------------------------------ */

/* Of `period` layers the last sees everything; or a list says which do not. */
static void read_windows(struct reader *r, struct config *c)
{
    char full[128];
    if (!config_has(c, HAS_WINDOW))
        return;
    const struct family *f = c->family;
    const int64_t least = config_has(c, HAS_NEAR_HEADS); /* where 0 could not mean none */
    const int64_t window = read_count(r, "attention.sliding_window", -1, least, 1 << 28);
    const char *key = "attention.sliding_window_pattern";
    const struct meta *v = key_find(r, key, full, sizeof(full));
    const bool list = (v && v->is_array && v->n > 1) || f->window_period == 0;
    const int64_t period = list ? 1 : read_count(r, key, f->window_period, 0, MAX_LAYERS);
    for (int i = 0; i < c->n_layers; i++) {
        const bool near = list ? read_count_of(r, key, i, -1, 0, 1) != 0
                               : period == 0 || i % period != (f->far_first ? 0 : period - 1);
        c->layer[i].window = near ? window : 0;
    }
}

/* Of `period` layers all but the last see their chunk. Files of Llama 4 do not say how
 * long that is. Where one says 0 no layer has chunks, and it is of another model. */
static void read_chunks(struct reader *r, struct config *c)
{
    enum { USUAL = 8192 };
    const int64_t period = c->family->window_period;
    if (!config_has(c, HAS_CHUNK))
        return;
    const int64_t chunk = read_count(r, "attention.sliding_window", USUAL, 1, 1 << 28);
    read_count(r, "attention.sliding_window_pattern", period, period, period);
    for (int i = 0; i < c->n_layers; i++)
        c->layer[i].chunk = i % period != period - 1 ? chunk : 0;
}

/* How much of a head rotates, and by which frequencies: some families treat layers
 * with a window otherwise than those that see everything. */
static void read_rotation(struct reader *r, struct config *c)
{
    bool any_near = false;
    for (int i = 0; i < c->n_layers; i++)
        any_near |= layer_is_near(&c->layer[i]);
    for (int i = 0; i < c->n_layers; i++) {
        struct layer_config *l = &c->layer[i];
        const bool near = layer_is_near(l), own = near && config_has(c, HAS_NEAR_ROPE);
        l->n_rot = read_count(r, "rope.dimension_count", l->key_dim, 2, own ? 1024 : l->key_dim);
        if (own) {
            l->rope = NEAR;
            l->n_rot = read_count(r, "rope.dimension_count_swa", MIN(l->n_rot, l->key_dim), 2,
                                  l->key_dim);
        }
        if (any_near && !near && config_has(c, HAS_STILL_FAR))
            l->n_rot = 0;
        if (!near && config_has(c, HAS_HALF_FAR))
            l->n_rot /= 2;
        c->rope[l->rope].n_rot = MAX(c->rope[l->rope].n_rot, l->n_rot);
        c->most_rot = MAX(c->most_rot, l->n_rot);
    }
}

static void check_attention(struct reader *r, const struct layer_config *l)
{
    if (r->rc < 0)
        return;
    if (l->n_kv > l->n_head || l->n_head % l->n_kv != 0 || l->key_dim % 16 != 0 ||
        l->value_dim % 16 != 0 || l->n_rot % 2 != 0)
        r->rc = err_set(
            r->e, E_UNSUPPORTED,
            "%s: attention with %lld heads, %lld kv heads, key length %lld, value length %lld, "
            "%lld rotated; expected heads divisible by kv heads, lengths divisible by 16, "
            "an even number rotated",
            weights_path(r->w, 0), (long long)l->n_head, (long long)l->n_kv, (long long)l->key_dim,
            (long long)l->value_dim, (long long)l->n_rot);
}

/* Queries that hold a gate hold one for each element of a value; and keys may be values. */
static void check_lengths(struct reader *r, const struct config *c, const struct layer_config *l)
{
    if (r->rc == OK && c->traits & (HAS_GATED_QUERY | HAS_VALUE_NORM) && l->key_dim != l->value_dim)
        r->rc = err_set(r->e, E_UNSUPPORTED,
                        "%s: attention %s has key length %lld and value length %lld, "
                        "expected equal lengths",
                        weights_path(r->w, 0),
                        config_has(c, HAS_GATED_QUERY) ? "with gates" : "whose keys may be values",
                        (long long)l->key_dim, (long long)l->value_dim);
}

/* Files from 2025 on have the lengths of the heads' own keys and values under names
 * that end in _mla, and key_length and value_length are those in the cache; older
 * files have only the first, under the second's names. */
static void read_latent(struct reader *r, struct config *c)
{
    const bool new = key_there(r, "attention.key_length_mla");
    const int64_t key = read_count(r, new ? "attention.key_length_mla" : "attention.key_length", -1,
                                   32, 1024);
    c->latent_value = read_count(r, new ? "attention.value_length_mla" : "attention.value_length",
                                 -1, 16, 1024);
    c->kv_lora = read_count(r, "attention.kv_lora_rank", -1, 32, 1008);
    if (config_has(c, HAS_Q_LORA))
        c->q_lora = read_count(r, "attention.q_lora_rank", -1, 32, 1 << 16);
    const int64_t n_rot = read_count(r, "rope.dimension_count", -1, 2, 1024);
    const int64_t n_head = read_count(r, "attention.head_count", -1, 1, 1024);
    c->nope = key - n_rot;
    c->most_rot = c->rope[FAR].n_rot = n_rot;
    if (r->rc == OK && (c->nope < 32 || c->nope % 32 || c->latent_value % 16 || c->kv_lora % 32 ||
                        n_rot % 16))
        r->rc = err_set(r->e, E_UNSUPPORTED,
                        "%s: latent attention with key length %lld of which %lld are rotated, "
                        "value length %lld, %lld cached; expected multiples of 32, 16, 16 and 32",
                        weights_path(r->w, 0), (long long)key, (long long)n_rot,
                        (long long)c->latent_value, (long long)c->kv_lora);
    for (int i = 0; i < c->n_layers; i++)
        c->layer[i] = (struct layer_config){.n_head = n_head, .n_kv = 1, .n_rot = n_rot,
                                            .key_dim = c->kv_lora + n_rot,
                                            .value_dim = c->kv_lora};
    c->attn_scale = 1.0f / sqrtf((float)key);
}

/* Which layers have an indexer: the list says it, or the weights. All of an indexer's
 * weights must be there, and the first layer's. */
static void read_indexers(struct reader *r, struct config *c)
{
    static const char *const parts[] = {"attn_q_b.weight", "attn_k.weight", "proj.weight",
                                        "k_norm.weight", "k_norm.bias"};
    const bool list = key_there(r, "attention.indexer.types");
    for (int i = 0; i < c->n_layers && r->rc == OK; i++) {
        size_t n = 0;
        for (size_t k = 0; k < ARRAY_LEN(parts); k++) {
            char name[64];
            snprintf(name, sizeof(name), "blk.%d.indexer.%s", i, parts[k]);
            n += weights_find(r->w, name) != NULL;
        }
        c->layer[i].indexes = list ? read_count_of(r, "attention.indexer.types", i, -1, 0, 1) == 1
                                   : n > 0;
        if ((c->layer[i].indexes && n < ARRAY_LEN(parts)) || (i == 0 && !c->layer[i].indexes))
            r->rc = err_set(r->e, E_FORMAT, "%s: block %d has %zu of %zu weights of an indexer; "
                            "the file is incomplete or of another architecture than it says",
                            weights_path(r->w, 0), i, n, ARRAY_LEN(parts));
    }
}

static void read_indexer(struct reader *r, struct config *c)
{
    const int64_t n_rot = c->layer[0].n_rot;
    if (!config_has(c, HAS_INDEXER))
        return;
    c->n_seen = read_count(r, "attention.indexer.top_k", -1, 1, 1 << 20);
    c->index_heads = read_count(r, "attention.indexer.head_count", -1, 1, 1024);
    c->index_dim = read_count(r, "attention.indexer.key_length", -1, 16, 1024);
    c->index_eps = (float)read_real(r, "attention.layer_norm_epsilon", 1e-6, 1e-12, 1.0);
    if (r->rc == OK && (c->index_dim % 16 || n_rot > c->index_dim || !c->q_lora))
        r->rc = err_set(r->e, E_UNSUPPORTED, "%s: an indexer with key length %lld of which %lld "
                        "rotate, and queries of a short vector of %lld; expected a multiple of 16, "
                        "no more rotated, and such a vector", weights_path(r->w, 0),
                        (long long)c->index_dim, (long long)n_rot, (long long)c->q_lora);
    read_indexers(r, c);
}

static void read_heads(struct reader *r, struct config *c, int layer)
{
    struct layer_config *l = &c->layer[layer];
    l->n_head = read_count_of(r, "attention.head_count", layer, -1, 1, 1024);
    l->n_kv = read_count_of(r, "attention.head_count_kv", layer, l->n_head, 1, l->n_head);
    if (l->window && config_has(c, HAS_NEAR_HEADS)) {
        l->key_dim = read_count(r, "attention.key_length_swa", -1, 16, 1024);
        l->value_dim = read_count(r, "attention.value_length_swa", -1, 16, 1024);
        return;
    }
    l->key_dim = read_count(r, "attention.key_length", c->n_embd / l->n_head, 16, 1024);
    l->value_dim = read_count(r, "attention.value_length", l->key_dim, 16, 1024);
}

void read_attention(struct reader *r, struct config *c)
{
    c->value_scale = 1.0f;
    if (config_has(c, HAS_VALUE_SCALE))
        c->value_scale = (float)read_real(r, "attention.value_scale", 1.0, 1e-6, 1e6);
    if (config_has(c, HAS_LATENT)) {
        read_latent(r, c);
        read_indexer(r, c);
        return;
    }
    if (config_has(c, HAS_ENTRIES)) {
        read_compressed(r, c);
        return;
    }
    read_windows(r, c);
    read_chunks(r, c);
    for (int i = 0; i < c->n_layers; i++)
        read_heads(r, c, i);
    read_rotation(r, c);
    for (int i = 0; i < c->n_layers; i++) {
        check_attention(r, &c->layer[i]);
        check_lengths(r, c, &c->layer[i]);
    }
    const double said = read_real(r, "attention.scale", 0.0, 0.0, 1e6); /* 0: nothing */
    const double scale = said > 0.0 ? said : c->family->attn_scale;
    const struct layer_config *l = &c->layer[0];
    const int64_t by = c->n_layers == c->family->wide_layers ? c->n_embd / l->n_head : l->key_dim;
    c->attn_scale = scale > 0.0 ? (float)scale : 1.0f / sqrtf((float)by);
}

/* The weights tell whether decays and gates come of a short vector; all that are needed
 * then must be there, in each layer. */
static void read_kda_steps(struct reader *r, struct config *c)
{
    const struct tensor *first = weight_of(r, "ssm_f_a.weight");
    const bool direct = first && c->dk != c->n_v * c->dv && first->ne[1] == c->n_v * c->dv;
    c->kda_direct = direct;
    for (int i = 0; i < c->n_layers && r->rc == OK; i++) {
        static const char *const seconds[] = {"ssm_f_b.weight", "ssm_g_b.weight"};
        char name[64];
        for (size_t k = 0; c->layer[i].recurrent && k < ARRAY_LEN(seconds); k++) {
            const bool wanted = !direct && !(k == 1 && config_has(c, HAS_FULL_GATE));
            snprintf(name, sizeof(name), "blk.%d.%s", i, seconds[k]);
            if (r->rc == OK && wanted != (weights_find(r->w, name) != NULL))
                r->rc = err_set(r->e, E_FORMAT, "%s: tensor '%s' is %s; the file is incomplete or "
                                "of another architecture than it says", weights_path(r->w, 0),
                                name, wanted ? "missing" : "there, where none has a place");
        }
    }
}

/* Kimi Delta Attention: heads as attention has, of a length of their own. */
static void read_kda(struct reader *r, struct config *c)
{
    c->n_k = c->n_v = c->layer[0].n_head;
    c->dk = c->dv = read_count(r, "kda.head_dim", -1, 32, 1024);
    read_count(r, "ssm.conv_kernel", -1, 4, 4);
    if (c->family->decay_as_is) /* what has no least value is not known for it */
        key_needed(r, "kda.gate_lower_bound");
    if (key_there(r, "kda.gate_lower_bound"))
        c->decay_floor = (float)read_real(r, "kda.gate_lower_bound", 0.0, -1e6, -1e-6);
    if (r->rc == OK && c->dk % 32 != 0)
        r->rc = err_set(r->e, E_UNSUPPORTED, "%s: '%s.kda.head_dim' is %lld, which is no multiple "
                        "of 32", weights_path(r->w, 0), r->family, (long long)c->dk);
    read_kda_steps(r, c);
}

void read_delta(struct reader *r, struct config *c)
{
    if (config_has(c, HAS_KDA)) {
        read_kda(r, c);
        return;
    }
    if (!config_has(c, HAS_DELTA))
        return;
    c->dk = read_count(r, "ssm.state_size", -1, 16, 1024);
    c->n_k = read_count(r, "ssm.group_count", -1, 1, 1024);
    c->n_v = read_count(r, "ssm.time_step_rank", -1, 1, 1024);
    int64_t inner = read_count(r, "ssm.inner_size", c->n_v * c->dk, 16, 1024 * 1024);
    read_count(r, "ssm.conv_kernel", 4, 4, 4);
    c->dv = c->dk;
    if (r->rc == OK && (inner != c->n_v * c->dv || c->n_v % c->n_k != 0 || c->dk % 16 != 0))
        r->rc = err_set(
            r->e, E_UNSUPPORTED,
            "%s: delta net with inner size %lld, %lld value heads, %lld key heads of %lld; "
            "expected inner "
            "size = value heads x head size, value heads divisible by key heads, head size by 16",
            weights_path(r->w, 0), (long long)inner, (long long)c->n_v, (long long)c->n_k,
            (long long)c->dk);
}
