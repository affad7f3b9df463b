/* How positions become angles: rotary tables, their scaling, sections. */
#include "model/config_internal.h"

#include <stdio.h>
#include <string.h>

bool says_long_factors(const struct reader *r)
{
    char full[128];
    struct str type;
    const struct meta *v = key_find(r, "rope.scaling.type", full, sizeof(full));
    return weights_find(r->w, "rope_factors_long.weight") ||
           weights_find(r->w, "rope_factors_short.weight") ||
           (v && meta_str(v, &type) && type.n == 8 && memcmp(type.p, "longrope", 8) == 0);
}

/* Files with LongRoPE say how long texts were before, and how cos and sin are magnified, but
 * most not the type; those of minicpm, whose models were not stretched, the type alone. Their
 * divisors are all there is: none stretches positions too. */
static void check_long_factors(struct reader *r, const struct rope_config *rope)
{
    if (key_there(r, "rope.scaling.original_context_length"))
        key_needed(r, "rope.scaling.attn_factor");
    if (key_there(r, "rope.scaling.attn_factor"))
        key_needed(r, "rope.scaling.original_context_length");
    if (r->rc == OK && rope->scaling != ROPE_PLAIN)
        r->rc = err_set(r->e, E_UNSUPPORTED,
                        "%s: positions are scaled by a factor of %g and by those of LongRoPE, "
                        "which together is not supported",
                        weights_path(r->w, 0), rope->factor);
}

/* Without a type a factor means linear scaling, as in the first files. */
static void read_scaling(struct reader *r, const struct config *c, struct rope_config *rope)
{
    static const struct { const char *name; int scaling; } types[] = {
        {"none", ROPE_PLAIN}, {"linear", ROPE_LINEAR}, {"yarn", ROPE_YARN},
        {"longrope", ROPE_LINEAR}}; /* its factors are tensors */
    const bool has_long = config_has(c, HAS_LONG_FACTORS);
    char full[128];
    struct str type = {"linear", 6};
    const struct meta *v = key_find(r, "rope.scaling.type", full, sizeof(full));
    const size_t n_types = ARRAY_LEN(types) - !has_long;
    size_t kind = 0;
    bool is_text = !v || meta_str(v, &type);
    while (is_text && kind < n_types &&
           (strlen(types[kind].name) != type.n || memcmp(types[kind].name, type.p, type.n) != 0))
        kind++;
    if (r->rc == OK && (!is_text || kind == n_types))
        r->rc = err_set(
            r->e, E_UNSUPPORTED,
            "%s: '%s' is not none, linear or yarn: how its positions are scaled is not known",
            weights_path(r->w, 0), full);
    if (r->rc < 0)
        return;
    rope->factor = read_real(r, "rope.scaling.factor", 0.0, 0.0, 1e9);
    if (!key_there(r, "rope.scaling.factor"))
        rope->factor = read_real(r, "rope.scale_linear", 0.0, 0.0, 1e9);
    if (rope->factor == 0.0)
        rope->factor = 1.0; /* so it is written for none */
    rope->scaling = types[kind].scaling;
    if (rope->factor == 1.0 && rope->scaling == ROPE_LINEAR)
        rope->scaling = ROPE_PLAIN;
    if (has_long)
        check_long_factors(r, rope);
}

/* Those of layers with a window, where they have their own: other positions per turn,
 * not stretched. Entries, and layers that have them, have the others. */
static void read_near(struct reader *r, struct config *c)
{
    const int64_t n_rot = c->rope[NEAR].n_rot;
    c->rope[NEAR] = (struct rope_config){.n_rot = n_rot, .base = c->rope[FAR].base, .factor = 1.0,
                                         .attn_factor = 1.0};
    if (config_has(c, HAS_NEAR_ROPE))
        c->rope[NEAR].base = read_real(r, "rope.freq_base_swa",
                                       c->family->one_base ? c->rope[FAR].base : 10000.0, 1.0,
                                       1e12);
    if (!config_has(c, HAS_ENTRIES))
        return;
    c->rope[FAR].base = read_real(r, "attention.compress_rope_freq_base", 0.0, 1.0, 1e12);
    c->rope[FAR].attn_factor = 1.0;
    key_needed(r, "attention.compress_rope_freq_base");
}

/* Queries that grow with the position: in Llama 4's way, by steps of a length. */
static void read_heat(struct reader *r, struct config *c)
{
    const bool own = config_has(c, HAS_LATENT); /* its files say the length, others mean the context
                                                   before stretching */
    if (!config_has(c, HAS_HEAT))
        return;
    if (config_has(c, HAS_FAR_HEAT)) { /* Llama 4, whose files say neither */
        c->heat = (float)read_real(r, "attention.temperature_scale", 0.1, 0.0, 1e3);
        c->heat_length = read_count(r, "attention.temperature_length", 8192, 1, 1 << 28);
        c->heat_first = 1;
        return;
    }
    c->heat = (float)read_real(r, "attention.temperature_scale", 0.0, 0.0, 1e3);
    const int64_t length = own ? (c->heat == 0.0f ? 1 : -1) : (int64_t)c->rope[FAR].original;
    c->heat_length = read_count(r, "attention.temperature_length", length, 1, 1 << 28);
}

void read_rope(struct reader *r, struct config *c)
{
    struct rope_config *rope = &c->rope[FAR];
    *rope = (struct rope_config){.n_rot = rope->n_rot, .factor = 1.0};
    rope->base = read_real(r, "rope.freq_base", 10000.0, 1.0, 1e12);
    read_scaling(r, c, rope);
    rope->original = read_real(r, "rope.scaling.original_context_length", (double)c->n_context,
                               1.0, 1e9);
    rope->extrapolate = read_real(r, "rope.scaling.yarn_ext_factor", 1.0, 0.0, 1.0);
    rope->beta_fast = read_real(r, "rope.scaling.yarn_beta_fast", 32.0, 1e-3, 1e6);
    rope->beta_slow = read_real(r, "rope.scaling.yarn_beta_slow", 1.0, 1e-3, 1e6);
    rope->attn_factor = read_real(r, "rope.scaling.attn_factor", 1.0, 1e-6, 1e6);
    read_near(r, c);
    rope->plain_magnitude = config_has(c, HAS_ENTRIES);
    if (config_has(c, HAS_LATENT) && !config_has(c, HAS_STILL_LATENT)) {
        rope->log_multiplier = 10.0 * read_real(r, "rope.scaling.yarn_log_multiplier", 0.0, 0.0,
                                                1e3);
        rope->plain_magnitude = rope->log_multiplier != 0.0 && config_has(c, HAS_PLAIN_MAGNITUDE);
        c->attn_scale *= (float)rope_score_factor(rope);
    } else if (config_has(c, HAS_LOG_MULTIPLIER)) {
        rope->log_multiplier = read_real(r, "rope.scaling.yarn_log_multiplier", 0.0, 0.0, 1e3);
    }
    read_heat(r, c);
}

/* A text's positions count alike in time, height and width, and not at all in a
 * fourth dimension, which must have no pairs. In Qwen3.5 pair i takes dimension
 * i % 3 as long as that one's section lasts, else the fourth. */
void check_sections(struct reader *r, const struct config *c)
{
    char full[128];
    uint64_t s[4] = {0}, sum = 0;
    const struct meta *v = key_find(r, "rope.dimension_sections", full, sizeof(full));
    const bool turns = config_has(c, HAS_DELTA);
    if (r->rc < 0 || !v || (!turns && !config_has(c, HAS_SECTIONS)))
        return;
    bool ok = v->is_array && (v->n == 3 || v->n == 4);
    for (uint64_t i = 0; ok && i < v->n; i++) {
        ok = meta_u64(v, i, &s[i]) && s[i] <= 4096;
        sum += s[i];
    }
    ok = ok && s[3] == 0 && sum == (uint64_t)c->most_rot / 2;
    for (uint64_t i = 0; ok && turns && i < sum; i++)
        ok = i < 3 * s[i % 3];
    char value[256];
    meta_text(value, sizeof(value), v);
    if (!ok)
        r->rc = err_set(
            r->e, E_UNSUPPORTED,
            "%s: '%s' is %.80s, expected three parts of the %lld rotated pairs%s",
            weights_path(r->w, 0), full, value, (long long)c->most_rot / 2,
            turns ? " that take turns, as in 11, 11, 10 of 32" : "");
}
