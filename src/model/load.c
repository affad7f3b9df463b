/*
 * What a model needs, and loading: the dense part is read with direct reads
 * into one anonymous mapping, neighbouring tensors together; the expert cache
 * is opened over the recorded extents.
 */
#include "model/model_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- needs ------------------------------------------------------------ */

static void mixer_floats(const struct config *c, size_t *a, size_t *b, size_t *g, size_t *o)
{
    size_t q = (size_t)(c->n_head * c->head_dim), kv = (size_t)(c->n_kv * c->head_dim);
    size_t ch = (size_t)config_delta_channels(c), vd = (size_t)(c->n_v * c->dv);
    *a = MAX(c->arch->gated_attention ? 2 * q : q, ch); /* q; or q|k|v before the convolution */
    *b = MAX(kv, vd);                                   /* k; or z */
    *g = MAX(kv, 2 * (size_t)c->n_v);                   /* v; or alpha, beta */
    *o = MAX(q, vd);
}

static size_t carve(size_t *at, size_t bytes)
{
    size_t here = *at;
    *at += align_up(bytes, 64);
    return here;
}

/* Where the mapping has room for more tokens than are computed, each array
 * begins and ends within a page. */
enum { SCRATCH_ARRAYS = 10 };

/* Lays the scratch out; base NULL: only measures. */
static size_t lay_scratch(const struct config *c, int64_t tokens, struct scratch *s, uint8_t *base)
{
    size_t t = (size_t)tokens, used = (size_t)c->n_used, at = 0, a, b, g, o;
    mixer_floats(c, &a, &b, &g, &o);
    size_t x_at = carve(&at, t * (size_t)c->n_embd * sizeof(float));
    size_t a_at = carve(&at, t * a * sizeof(float)), b_at = carve(&at, t * b * sizeof(float));
    size_t g_at = carve(&at, t * g * sizeof(float)), o_at = carve(&at, t * o * sizeof(float));
    size_t picks_at = carve(&at, t * used * sizeof(int32_t));
    size_t weights_at = carve(&at, t * used * sizeof(float));
    size_t rows_at = carve(&at, t * used * sizeof(int32_t));
    size_t rw_at = carve(&at, t * used * sizeof(float));
    size_t first_at = carve(&at, ((size_t)c->n_experts + 1) * sizeof(int32_t));
    if (base) {
        s->x = (float *)(void *)(base + x_at);
        s->a = (float *)(void *)(base + a_at);
        s->b = (float *)(void *)(base + b_at);
        s->g = (float *)(void *)(base + g_at);
        s->o = (float *)(void *)(base + o_at);
        s->picks = (int32_t *)(void *)(base + picks_at);
        s->weights = (float *)(void *)(base + weights_at);
        s->rows = (int32_t *)(void *)(base + rows_at);
        s->row_weights = (float *)(void *)(base + rw_at);
        s->first = (int32_t *)(void *)(base + first_at);
    }
    return os_whole_pages(at);
}

size_t model_scratch_bytes(const struct config *c, int64_t max_tokens)
{
    return lay_scratch(c, max_tokens, NULL, NULL);
}

static void device_sizes(const struct config *c, const struct model_options *o, struct dev_sizes *s)
{
    int64_t q = c->n_head * c->head_dim, vd = c->n_v * c->dv;
    *s = (struct dev_sizes){
        .max_tokens = o->max_tokens,
        .n_embd = c->n_embd,
        .max_in = MAX(MAX(c->n_embd, q), MAX(vd, MAX(c->expert_width, c->shared_width))),
        .max_out = c->n_embd,
        .n_experts = c->n_experts,
        .n_used = c->n_used,
        .expert_width = c->expert_width,
        .shared_width = c->shared_width,
        .max_context = o->context,
        .q_per_kv = c->n_head / c->n_kv,
        .head_dim = c->head_dim,
        .delta_k_dim = c->dk,
        .delta_v_dim = c->dv,
    };
}

static struct expert_config cache_config(const struct model *m)
{
    return (struct expert_config){
        .layers = m->experts, .n_layers = m->c.n_layers, .n_used = (int)m->c.n_used};
}

void model_needs(const struct model *m, const struct model_options *o, struct model_needs *n)
{
    const struct config *c = &m->c;
    *n = (struct model_needs){0};
    if (m->described_only)
        return;
    struct expert_config x = cache_config(m);
    size_t elem = o->kv_f16 ? sizeof(uint16_t) : sizeof(float);
    struct dense_layout dense;
    dense_layout(m, (size_t)o->dense_bytes, &dense);
    *n = (struct model_needs){
        .dense = (int64_t)dense.bytes,
        .dense_full = (int64_t)dense_full_bytes(m),
        .dense_no_embed = (int64_t)dense_no_embed_bytes(m),
        .dense_min = (int64_t)dense_min_bytes(m),
        .dense_read = (int64_t)(dense.read_per_pass + dense.read_output),
        .state = 2 * (int64_t)state_bytes(m),
        .kv_per_token = (int64_t)((size_t)(2 * m->shape.n_attention_layers) *
                                  (size_t)(c->n_kv * c->head_dim) * elem),
        .scratch = (int64_t)(model_scratch_bytes(c, o->max_tokens) + 2 * SCRATCH_ARRAYS * os_page_bytes()),
        .cache_min = (int64_t)expert_min_bytes(&x),
        .cache_full = (int64_t)expert_full_bytes(&x),
    };
    device_sizes(c, o, &n->sizes);
}

const char *model_policy(int i)
{
    return expert_policies[i] ? expert_policies[i]->name : NULL;
}

int model_replay(const struct model *m, int64_t cache_bytes, const char *policy, const int32_t *ids,
                 int64_t n_tokens, double *hit_rate, struct err *e)
{
    struct expert_config x = cache_config(m);
    x.cache_bytes = (size_t)cache_bytes;
    x.policy = policy;
    return expert_replay(&x, ids, n_tokens, n_tokens / 2, hit_rate, e);
}

/* ---- loading ---------------------------------------------------------- */

static int check_type(const struct model *m, const struct device *d, const struct gguf_tensor *t, struct err *e)
{
    if (!d || device_supports(d, t->type))
        return OK;
    return err_set(e, E_UNSUPPORTED, "%s: tensor '%s' has type %s, for which there are no kernels yet; try a file in Q4_K_M or Q8_0",
                   gguf_file_path(m->gguf, t->file), t->name, dtype_info(t->type)->name);
}

int model_runnable(const struct model *m, const struct device *d, struct err *e)
{
    if (m->described_only)
        return err_set(e, m->refused.code, "%s", m->refused.text);
    for (int64_t i = 0; i < gguf_n_tensors(m->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->gguf, i);
        if (m->used[i] && !packed_holds(&m->packed, t))
            TRY(check_type(m, d, t, e));
    }
    for (int i = 0; i < m->packed.n; i++)
        TRY(check_type(m, d, &m->packed.part[i].t, e));
    return OK;
}

/* freq[i] = base^(-2i / n_rot): power in double, rounded once. */
static int make_rope(struct model *m, struct err *e)
{
    const struct config *c = &m->c;
    m->rope_freq = malloc((size_t)(c->n_rot / 2) * sizeof(float));
    if (!m->rope_freq)
        return err_set(e, E_NOMEM, "model: no memory for rotary frequencies");
    for (int64_t i = 0; i < c->n_rot / 2; i++)
        m->rope_freq[i] = (float)(1.0 / pow(c->rope_base, (double)(2 * i) / (double)c->n_rot));
    return OK;
}

static int open_cache(struct model *m, int64_t cache_bytes, const char *policy, struct err *e)
{
    for (int il = 0; il < m->c.n_layers; il++)
        for (int p = 0; p < m->experts[il].n_parts; p++)
            m->experts[il].part[p].file = m->files[m->experts[il].part[p].file];
    struct expert_config x = cache_config(m);
    x.cache_bytes = (size_t)cache_bytes;
    x.policy = policy;
    x.ioq = m->q;
    m->cache_full_bytes = expert_full_bytes(&x);
    return expert_open(&x, &m->cache, e);
}

static int open_files(struct model *m, struct err *e)
{
    int n = gguf_n_files(m->gguf);
    m->files = calloc((size_t)n, sizeof(*m->files));
    if (!m->files)
        return err_set(e, E_NOMEM, "model: no memory for its list of files");
    for (int i = 0; i < n; i++) {
        int rc = m->files[i] = ioq_add_file(m->q, gguf_file_path(m->gguf, i), e);
        TRY(rc);
    }
    return OK;
}

int load_scratch(struct model *m, struct err *e)
{
    TRY(make_rope(m, e));
    m->scratch.bytes = model_scratch_bytes(&m->c, m->options.max_tokens);
    m->scratch.map = os_map(m->scratch.bytes, false);
    if (!m->scratch.map)
        return err_set(e, E_NOMEM, "model: the system refused %zu bytes of scratch memory; try a smaller --chunk",
                       m->scratch.bytes);
    lay_scratch(&m->c, m->options.max_tokens, &m->scratch, m->scratch.map);
    return OK;
}

/* Takes in what was read and starts what is queued: while all threads compute
 * nobody else does. */
static void keep_reading(void *q)
{
    ioq_poll(q);
}

int model_load(struct model *m, const struct model_options *o, struct device *d, struct ioq *q,
               int64_t cache_bytes, const char *policy, model_progress_fn *progress, void *user,
               struct err *e)
{
    m->options = *o;
    m->dev = d;
    m->q = q;
    guess_open(&m->guess, o->lookahead, (int)MIN(m->c.n_used, (int64_t)DEV_MAX_USED));
    device_set_turn(d, keep_reading, q);
    TRY(model_runnable(m, d, e));
    TRY(open_files(m, e));
    TRY(model_add_mirrors(m, o->mirrors, o->n_mirrors, q, m->files, gguf_n_files(m->gguf), e));
    TRY(load_scratch(m, e));
    TRY(dense_load(m, (size_t)o->dense_bytes, progress, user, e));
    return open_cache(m, cache_bytes, policy, e);
}

void model_loaded(const struct model *m, int64_t *bytes, int64_t *ns)
{
    *bytes = m->dense.load_bytes;
    *ns = m->dense.load_ns;
}

struct expert_cache *model_experts(struct model *m)
{
    return m->cache;
}
