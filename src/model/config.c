/*
 * A file's numbers: metadata keys "<architecture>.<key>" -> struct config.
 * Every value is bounded here, so later arithmetic cannot overflow and no
 * count is zero where it may not be. Keys: model-spec A.3 and C of the GGUF
 * documentation; integer widths vary between writers and are not judged.
 */
#include "model/model_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct reader {
    const struct gguf *g;
    const char *arch;
    struct err *e;
    int rc; /* first failure; later reads do nothing */
};

static const struct gguf_value *find(const struct reader *r, const char *key, char *full, size_t n)
{
    snprintf(full, n, "%s.%s", r->arch, key);
    return gguf_find(r->g, full);
}

/* A list with one element a layer is as good as one number when all are equal. */
static bool varies(const struct gguf_value *v)
{
    for (uint64_t i = 1; v->is_array && i < v->n; i++) {
        double a = NAN, b = NAN;
        if (!gguf_value_f64(v, 0, &a) || !gguf_value_f64(v, i, &b) || a != b)
            return true;
    }
    return false;
}

static int refuse_list(const struct reader *r, const char *full)
{
    return err_set(r->e, E_UNSUPPORTED, "%s: '%s' varies from layer to layer, which is not supported for %s yet",
                   gguf_file_path(r->g, 0), full, r->arch);
}

/* A count between lo and hi; dflt < 0: the key must be there. */
static int64_t count(struct reader *r, const char *key, int64_t dflt, int64_t lo, int64_t hi)
{
    char full[128];
    uint64_t u = 0;
    if (r->rc < 0)
        return lo;
    const struct gguf_value *v = find(r, key, full, sizeof(full));
    if (!v && dflt >= 0)
        return dflt;
    if (!v) {
        r->rc = err_set(r->e, E_FORMAT, "%s: metadata key '%s' is missing; the file was not converted completely",
                        gguf_file_path(r->g, 0), full);
        return lo;
    }
    if (varies(v)) {
        r->rc = refuse_list(r, full);
        return lo;
    }
    if (!gguf_value_u64(v, 0, &u) || u < (uint64_t)lo || u > (uint64_t)hi) {
        double d = NAN;
        gguf_value_f64(v, 0, &d);
        r->rc = err_set(r->e, E_FORMAT, "%s: '%s' is %g, expected a whole number from %lld to %lld",
                        gguf_file_path(r->g, 0), full, d, (long long)lo, (long long)hi);
        return lo;
    }
    return (int64_t)u;
}

static double real(struct reader *r, const char *key, double dflt, double lo, double hi)
{
    char full[128];
    double d = dflt;
    if (r->rc < 0)
        return dflt;
    const struct gguf_value *v = find(r, key, full, sizeof(full));
    if (v && varies(v))
        r->rc = refuse_list(r, full);
    else if (v && (!gguf_value_f64(v, 0, &d) || !(d >= lo && d <= hi)))
        r->rc = err_set(r->e, E_FORMAT, "%s: '%s' is %g, expected a number from %g to %g",
                        gguf_file_path(r->g, 0), full, d, lo, hi);
    return d;
}

/* Which layers are recurrent: the array attention.recurrent_layers if the file
 * has it, else every layer but each interval-th. */
static void read_layer_kinds(struct reader *r, struct config *c)
{
    char full[128];
    int64_t interval =
        count(r, "full_attention_interval", c->arch->full_interval, 1, MAX_LAYERS);
    const struct gguf_value *v = find(r, "attention.recurrent_layers", full, sizeof(full));
    for (int i = 0; i < c->n_layers; i++) {
        uint64_t flag = (i + 1) % interval != 0;
        if (v && (!v->is_array || !gguf_value_u64(v, (uint64_t)i, &flag)) && r->rc == OK)
            r->rc = err_set(r->e, E_FORMAT, "%s: '%s' has no usable element %d", gguf_file_path(r->g, 0), full, i);
        c->recurrent[i] = c->arch->delta_layers && flag;
    }
}

static void read_attention(struct reader *r, struct config *c)
{
    c->n_head = count(r, "attention.head_count", -1, 1, 1024);
    c->n_kv = count(r, "attention.head_count_kv", c->n_head, 1, c->n_head);
    c->head_dim = count(r, "attention.key_length", c->n_embd / c->n_head, 16, 1024);
    int64_t value_dim = count(r, "attention.value_length", c->head_dim, 16, 1024);
    c->n_rot = count(r, "rope.dimension_count", c->head_dim, 2, c->head_dim);
    c->rope_base = real(r, "rope.freq_base", 10000.0, 1.0, 1e12);
    double scale = real(r, "attention.scale", 0.0, 0.0, 1e6);
    c->attn_scale = scale > 0.0 ? (float)scale : 1.0f / sqrtf((float)c->head_dim);
    if (r->rc < 0)
        return;
    if (c->n_head % c->n_kv != 0 || value_dim != c->head_dim || c->head_dim % 16 != 0 ||
        c->n_rot % 2 != 0)
        r->rc = err_set(r->e, E_UNSUPPORTED,
                        "%s: attention with %lld heads, %lld kv heads, key length %lld, value length %lld, "
                        "%lld rotated; expected heads divisible by kv heads, equal lengths divisible by 16, "
                        "an even number rotated",
                        gguf_file_path(r->g, 0), (long long)c->n_head, (long long)c->n_kv, (long long)c->head_dim,
                        (long long)value_dim, (long long)c->n_rot);
}

static void read_delta(struct reader *r, struct config *c)
{
    if (!c->arch->delta_layers)
        return;
    c->dk = count(r, "ssm.state_size", -1, 16, 1024);
    c->n_k = count(r, "ssm.group_count", -1, 1, 1024);
    c->n_v = count(r, "ssm.time_step_rank", -1, 1, 1024);
    int64_t inner = count(r, "ssm.inner_size", c->n_v * c->dk, 16, 1024 * 1024);
    count(r, "ssm.conv_kernel", 4, 4, 4);
    c->dv = c->dk;
    if (r->rc == OK && (inner != c->n_v * c->dv || c->n_v % c->n_k != 0 || c->dk % 16 != 0))
        r->rc = err_set(r->e, E_UNSUPPORTED,
                        "%s: delta net with inner size %lld, %lld value heads, %lld key heads of %lld; expected inner "
                        "size = value heads x head size, value heads divisible by key heads, head size by 16",
                        gguf_file_path(r->g, 0), (long long)inner, (long long)c->n_v, (long long)c->n_k,
                        (long long)c->dk);
}

static void read_experts(struct reader *r, struct config *c)
{
    c->n_experts = count(r, "expert_count", -1, 1, MAX_EXPERTS);
    c->n_used = count(r, "expert_used_count", -1, 1, MIN((int64_t)DEV_MAX_USED, c->n_experts));
    c->expert_width = count(r, "expert_feed_forward_length", -1, 32, 1 << 20);
    if (c->arch->shared_expert)
        c->shared_width =
            count(r, "expert_shared_feed_forward_length", c->expert_width, 32, 1 << 20);
    if (r->rc == OK && (c->expert_width % 32 != 0 || c->shared_width % 32 != 0 || c->n_embd % 32 != 0))
        r->rc = err_set(r->e, E_UNSUPPORTED,
                        "%s: embedding length %lld, expert width %lld, shared width %lld; each must be a multiple of 32",
                        gguf_file_path(r->g, 0), (long long)c->n_embd, (long long)c->expert_width,
                        (long long)c->shared_width);
}

/* Without a type a factor means linear scaling, as in the first files. YaRN by a
 * factor of 1 changes nothing either. */
static void reject_scaling(struct reader *r)
{
    static const char *const types[] = {"none", "linear", "yarn"};
    char full[128];
    struct str type = {"linear", 6};
    const struct gguf_value *v = find(r, "rope.scaling.type", full, sizeof(full));
    size_t kind = 0;
    if (r->rc < 0)
        return;
    bool is_text = !v || gguf_value_str(v, &type);
    while (is_text && kind < ARRAY_LEN(types) &&
           (strlen(types[kind]) != type.n || memcmp(types[kind], type.p, type.n) != 0))
        kind++;
    if (!is_text || kind == ARRAY_LEN(types)) {
        r->rc = err_set(r->e, E_UNSUPPORTED, "%s: '%s' is not none, linear or yarn: how its positions are scaled is not known",
                        gguf_file_path(r->g, 0), full);
        return;
    }
    if (kind == 0)
        return;
    static const char *const factors[] = {"rope.scaling.factor", "rope.scale_linear"};
    for (size_t i = 0; i < ARRAY_LEN(factors); i++) {
        double factor = real(r, factors[i], 1.0, 0.0, 1e9);
        if (r->rc == OK && factor != 1.0 && factor != 0.0)
            r->rc = err_set(r->e, E_UNSUPPORTED, "%s: rope scaling '%s' with factor %g ('%s.%s') is not supported for %s yet",
                            gguf_file_path(r->g, 0), types[kind], factor, r->arch, factors[i], r->arch);
    }
}

/* A text's positions count alike in time, height and width, and not at all in the
 * fourth dimension; pair i takes dimension i % 3 as long as that one's section
 * lasts, else the fourth. So the first three must cover all pairs. */
static void check_sections(struct reader *r, const struct config *c)
{
    char full[128];
    uint64_t s[4] = {0}, sum = 0;
    const struct gguf_value *v = find(r, "rope.dimension_sections", full, sizeof(full));
    if (r->rc < 0 || !v || !c->arch->delta_layers)
        return;
    bool ok = v->is_array && (v->n == 3 || v->n == 4);
    for (uint64_t i = 0; ok && i < v->n; i++) {
        ok = gguf_value_u64(v, i, &s[i]) && s[i] <= 4096;
        sum += s[i];
    }
    ok = ok && s[3] == 0 && sum == (uint64_t)c->n_rot / 2;
    for (uint64_t i = 0; ok && i < sum; i++)
        ok = i < 3 * s[i % 3];
    char value[256];
    value_text(value, sizeof(value), v);
    if (!ok)
        r->rc = err_set(r->e, E_UNSUPPORTED, "%s: '%s' is %.80s, expected three parts of the %lld rotated pairs that take turns, "
                        "as in 11, 11, 10 of 32", gguf_file_path(r->g, 0), full, value, (long long)c->n_rot / 2);
}

/* Blocks that predict further tokens are the last that block_count counts. Where
 * they are counted twice or not at all, a real layer would be left out. */
static void check_predicting(struct reader *r, const struct config *c)
{
    for (int il = c->n_layers; il < c->n_blocks && r->rc == OK; il++) {
        bool any = false, predicts = false;
        for (int64_t i = 0; i < gguf_n_tensors(r->g); i++) {
            const char *name = gguf_tensor_at(r->g, i)->name;
            if (tensor_block(name) != il)
                continue;
            any = true;
            predicts |= strstr(name, ".nextn.") != NULL;
        }
        if (any && !predicts)
            r->rc = err_set(r->e, E_FORMAT, "%s: '%s.nextn_predict_layers' is %d, so block %d, one of the last that '%s.block_count' = "
                            "%d counts, should predict further tokens, but it has no nextn tensors: a layer would be left out",
                            gguf_file_path(r->g, 0), r->arch, c->n_blocks - c->n_layers, il, r->arch, c->n_blocks);
    }
}

int config_read(const struct gguf *g, struct config *c, struct err *e)
{
    struct reader r = {.g = g, .arch = c->arch->name, .e = e};
    c->n_blocks = (int)count(&r, "block_count", -1, 1, MAX_LAYERS);
    int64_t mtp = count(&r, "nextn_predict_layers", 0, 0, c->n_blocks - 1);
    c->n_layers = c->n_blocks - (int)mtp;
    c->n_embd = count(&r, "embedding_length", -1, 32, 1 << 17);
    c->n_context = count(&r, "context_length", 4096, 1, 1 << 28);
    c->eps = (float)real(&r, "attention.layer_norm_rms_epsilon", 1e-6, 1e-12, 1.0);
    read_attention(&r, c);
    read_layer_kinds(&r, c);
    read_delta(&r, c);
    read_experts(&r, c);
    reject_scaling(&r);
    check_sections(&r, c);
    check_predicting(&r, c);
    return r.rc == OK ? known_keys(g, c->arch, e) : r.rc;
}
