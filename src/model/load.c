/*
 * What a model needs, and loading: the dense part is read with direct reads
 * into the device's memory, neighbouring tensors together; the expert cache is
 * opened over the recorded extents. While the model runs this file also holds the
 * leases of experts that a device may still be computing with, and gives each back
 * when its mark has passed (used_add, used_release).
 */
#include "model/model_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- scratch ---------------------------------------------------------- */

struct carve {
    struct dev_mem *mem; /* of a device, */
    uint8_t *base;       /* ... or the host's; both NULL: only measure */
    size_t at;
    int n;               /* arrays */
};

static struct dev_ptr carve(struct carve *c, int64_t n, size_t item)
{
    struct dev_ptr p = {c->mem, c->at};
    c->at += align_up((size_t)n * item, 64);
    c->n++;
    return p;
}

static void *carve_host(struct carve *c, int64_t n, size_t item)
{
    size_t at = carve(c, n, item).at;
    return c->base ? c->base + at : NULL;
}

/* Few tokens take a row of the sums for each of their picks; no more than many
 * tokens have anyway. */
static int64_t few_tokens(const struct config *c, int64_t max_tokens)
{
    return c->n_used ? MAX(MIN(max_tokens / c->n_used, (int64_t)DEV_FEW_TOKENS), (int64_t)1)
                     : max_tokens;
}

/* What experts are computed with, on the device that computes them. */
static void carve_experts(const struct config *c, int64_t tokens, struct scratch *s,
                          struct carve *k)
{
    const int64_t rows = MAX(tokens, s->few * c->n_used), hidden = s->few * (c->n_used + 1);
    s->x_dev.tokens = carve(k, tokens * c->n_used, sizeof(int32_t));
    s->x_dev.places = s->x_dev.factors = carve(k, tokens * c->n_used, sizeof(int32_t));
    s->x_dev.hidden = carve(k, hidden * MAX(c->expert_width, c->shared_width), sizeof(float));
    s->x_dev.y = carve(k, rows * c->n_embd, sizeof(float));
    s->x_dev.out = carve(k, s->few * c->n_embd, sizeof(float));
}

static void carve_device(const struct model *m, const struct device *d, int64_t tokens,
                         struct scratch *s, struct carve *k)
{
    const struct config *c = &m->c;
    int64_t form = 0;
    for (int i = 0; i < c->n_layers; i++)
        form = MAX(form, MAX(m->layers[i].mixer->scratch(&m->layers[i]),
                             m->layers[i].ffn->scratch(&m->layers[i])));
    s->few = few_tokens(c, tokens);
    s->x = carve(k, tokens * c->n_embd, sizeof(float));
    s->rows = carve(k, MIN(tokens, (int64_t)MODEL_LOGIT_ROWS) * c->n_embd, sizeof(float));
    s->form = carve(k, tokens * form, sizeof(float));
    if (c->traits & (HAS_POST_NORMS | HAS_STREAMS | HAS_LAYER_NORMS))
        s->branch = carve(k, tokens * c->n_embd, sizeof(float));
    if (config_has(c, HAS_STREAMS)) {
        s->streams = carve(k, tokens * DEV_STREAMS * c->n_embd, sizeof(float));
        s->factors = carve(k, tokens * DEV_FACTORS, sizeof(float));
    }
    s->pieces = carve(k, tokens * config_pieces(c) * c->n_embd, sizeof(float));
    s->seen = carve(k, tokens * c->n_seen, sizeof(int32_t));
    s->faults = carve(k, tokens, sizeof(uint32_t));
    if (!c->n_used)
        return;
    s->h = s->short_h = carve(k, tokens * c->n_embd, sizeof(float));
    if (config_has(c, HAS_LATENT_EXPERTS))
        s->short_h = carve(k, tokens * c->expert_embd, sizeof(float));
    s->x_dev.h = s->short_h;
    s->input = s->x_dev.input = carve(k, 1, d->ops->input_bytes(d, tokens, c->n_embd));
    s->picks = s->x_dev.picks = carve(k, tokens * c->n_used, sizeof(int32_t));
    s->weights = s->x_dev.weights = carve(k, tokens * c->n_used, sizeof(float));
    s->shared_weight = carve(k, tokens, sizeof(float));
    if (config_has(c, HAS_EARLY_ROUTER))
        s->products = carve(k, tokens * c->n_experts, sizeof(float));
    s->shared_y = carve(k, c->shared_width || config_has(c, HAS_BESIDE) ? tokens * c->n_embd : 0,
                        sizeof(float));
    s->guess_ids = carve(k, s->few * DEV_MAX_USED, sizeof(int32_t));
    carve_experts(c, tokens, s, k);
    s->hidden = s->x_dev.hidden;
}

/* The same a second time, where experts have a device of their own. */
static void carve_apart(const struct model *m, int64_t tokens, struct scratch *s, struct carve *k)
{
    const struct config *c = &m->c;
    const struct device *d = m->expert_dev;
    s->x_dev.h = carve(k, tokens * c->n_embd, sizeof(float));
    s->x_dev.input = carve(k, 1, d->ops->input_bytes(d, tokens, c->n_embd));
    s->x_dev.picks = carve(k, tokens * c->n_used, sizeof(int32_t));
    s->x_dev.weights = carve(k, tokens * c->n_used, sizeof(float));
    s->x_dev.scales = carve(k, 3 * c->n_experts, sizeof(float));
    carve_experts(c, tokens, s, k);
}

static void carve_hosts(const struct model *m, int64_t tokens, struct scratch *s, struct carve *k)
{
    const struct config *c = &m->c;
    s->host_faults = carve_host(k, tokens, sizeof(uint32_t));
    s->host_ids = carve_host(k, config_has(c, HAS_TABLES) ? tokens : 0, sizeof(int32_t));
    s->host_picks = carve_host(k, tokens * c->n_used, sizeof(int32_t));
    s->host_tokens = carve_host(k, tokens * c->n_used, sizeof(int32_t));
    s->host_places = carve_host(k, tokens * c->n_used, sizeof(int32_t));
    s->host_weights = carve_host(k, tokens * c->n_used, sizeof(float));
    s->host_first = carve_host(k, c->n_experts + 1, sizeof(int32_t));
    s->host_kept = carve_host(k, c->n_experts, sizeof(struct expert_lease));
    s->host_wanted = carve_host(k, s->few * c->n_used, sizeof(struct wanted));
    s->host_batch = carve_host(k, s->few * c->n_used + 1, sizeof(struct dev_expert));
    s->host_floats = carve_host(k, m->expert_dev == m->dev ? 0 : MAX(tokens * c->n_embd,
                                                                     c->n_experts),
                                sizeof(float));
}

/* Where the mapping has room for more tokens than are computed, each array
 * begins and ends within a page. */
size_t scratch_bytes(const struct model *m, int64_t max_tokens)
{
    struct scratch s = {0};
    struct carve a = {0}, b = {0};
    carve_device(m, m->dev, max_tokens, &s, &a);
    carve_hosts(m, max_tokens, &s, &b);
    const size_t rope = /* not given back */
        os_whole_pages((size_t)(N_ROPES * (m->c.most_rot / 2)) * sizeof(float));
    return os_whole_pages(a.at) + os_whole_pages(b.at) + 2 * (size_t)(a.n + b.n) * os_page_bytes() +
           rope;
}

static int scratch_apart(struct model *m, struct err *e)
{
    struct device *d = m->expert_dev;
    struct carve k = {0};
    carve_apart(m, m->options.max_tokens, &m->scratch, &k);
    TRY(d->ops->alloc(d, DEV_SCRATCH, os_whole_pages(k.at), &m->scratch.x_dev.mem, e));
    k = (struct carve){.mem = m->scratch.x_dev.mem};
    carve_apart(m, m->options.max_tokens, &m->scratch, &k);
    return OK;
}

static int make_rope(struct model *m, struct err *e)
{
    const struct config *c = &m->c;
    const size_t bytes = (size_t)(N_ROPES * (c->most_rot / 2)) * sizeof(float);
    float *freq = calloc(1, bytes + 1);
    if (!freq)
        return err_set(e, E_NOMEM, "model: no memory for rotary frequencies");
    for (int i = 0; i < N_ROPES; i++) {
        rope_frequencies(&c->rope[i], freq + i * (c->most_rot / 2));
        m->rope_scale[i] = rope_magnitude(&c->rope[i]);
    }
    int rc = m->dev->ops->alloc(m->dev, DEV_WEIGHTS, os_whole_pages(bytes + 1), &m->rope_mem, e);
    if (rc == OK)
        m->dev->ops->put(m->dev, (struct dev_ptr){m->rope_mem, 0}, freq, bytes);
    free(freq);
    return rc;
}

int load_scratch(struct model *m, struct err *e)
{
    struct scratch *s = &m->scratch;
    struct carve a = {0}, b = {0};
    carve_device(m, m->dev, m->options.max_tokens, s, &a);
    carve_hosts(m, m->options.max_tokens, s, &b);
    s->bytes = os_whole_pages(a.at);
    s->host_bytes = os_whole_pages(b.at);
    s->host = os_map(s->host_bytes, false);
    if (!s->host || m->dev->ops->alloc(m->dev, DEV_SCRATCH, s->bytes, &s->mem, NULL) < 0)
        return err_set(
            e, E_NOMEM,
            "model: the system refused %zu bytes of scratch memory; try a smaller --chunk",
            s->bytes + s->host_bytes);
    a = (struct carve){.mem = s->mem};
    b = (struct carve){.base = s->host};
    carve_device(m, m->dev, m->options.max_tokens, s, &a);
    carve_hosts(m, m->options.max_tokens, s, &b);
    if (m->expert_dev != m->dev)
        TRY(scratch_apart(m, e));
    return make_rope(m, e);
}

/* ---- leases ------------------------------------------------------------ */

void used_add(struct model *m, const struct expert_lease *lease)
{
    struct used_leases *u = &m->used;
    u->mark[u->n] = m->expert_dev->ops->mark(m->expert_dev);
    u->lease[u->n++] = *lease;
}

void used_release(struct model *m)
{
    struct used_leases *u = &m->used;
    int kept = 0;
    for (int i = 0; i < u->n; i++) {
        if (m->expert_dev->ops->passed(m->expert_dev, u->mark[i])) {
            expert_release(m->cache, &u->lease[i]);
            continue;
        }
        u->lease[kept] = u->lease[i];
        u->mark[kept++] = u->mark[i];
    }
    u->n = kept;
}

int used_wait(struct model *m, struct err *e)
{
    struct used_leases *u = &m->used;
    int rc = u->n ? m->expert_dev->ops->wait(m->expert_dev, u->mark[u->n - 1], e) : OK;
    for (int i = 0; i < u->n; i++)
        expert_release(m->cache, &u->lease[i]);
    u->n = 0;
    return rc;
}

/* ---- needs ------------------------------------------------------------ */

static struct expert_config cache_config(const struct model *m)
{
    return (struct expert_config){
        .layers = m->experts, .n_layers = m->c.n_layers, .n_used = m->most_used};
}

void model_needs(struct model *m, struct device *d, const struct model_options *o,
                 struct model_needs *n)
{
    *n = (struct model_needs){0};
    if (m->described_only)
        return;
    struct device *dev = m->dev, *expert_dev = m->expert_dev;
    struct model_options options = m->options;
    struct expert_config x = cache_config(m);
    struct dense_layout dense;
    m->dev = m->expert_dev = d;
    m->options = *o;
    dense_set_copy_bytes(m->dense,
                         m->most_used ? d->ops->guess_bytes(d, m->c.n_experts, m->c.n_embd) : 0);
    dense_layout(m->dense, (size_t)o->dense_bytes, &dense);
    *n = (struct model_needs){
        .dense = (int64_t)dense.bytes,
        .dense_full = (int64_t)dense_full_bytes(m->dense),
        .dense_no_embed = (int64_t)dense_no_embed_bytes(m->dense),
        .dense_min = (int64_t)dense_min_bytes(m->dense),
        .dense_read = (int64_t)(dense.read_per_pass + dense.read_output),
        .state = (int64_t)state_fixed_bytes(m, o),
        .kv_per_token = (int64_t)state_position_bytes(m, o),
        .scratch = (int64_t)scratch_bytes(m, o->max_tokens),
        .cache_min = m->most_used ? (int64_t)expert_min_bytes(&x) : 0,
        .cache_full = m->most_used ? (int64_t)expert_full_bytes(&x) : 0,
    };
    measure_device(m, d, &n->device_fixed, &n->device_per_position);
    m->dev = dev;
    m->expert_dev = expert_dev;
    m->options = options;
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

static int check_type(const struct model *m, const struct device *d, const struct tensor *t,
                      struct err *e)
{
    if (!d || d->ops->supports(d, t->type) || t->role == ROLE_IDS)
        return OK;
    return err_set(e, E_UNSUPPORTED,
                   "%s: tensor '%s' has type %s, for which there are no kernels yet; try a file in "
                   "Q4_K_M or Q8_0",
                   weights_path(m->w, t->file), t->name, dtype_info(t->type)->name);
}

int model_runnable(const struct model *m, const struct device *d, struct err *e)
{
    if (m->described_only)
        return err_set(e, m->refused.code, "%s", m->refused.text);
    for (int64_t i = 0; i < weights_n_tensors(m->w); i++) {
        const struct tensor *t = weights_tensor(m->w, i);
        if (t->role != ROLE_UNUSED)
            TRY(check_type(m, d, t, e));
    }
    return OK;
}

struct dev_ptr dense_ptr(const struct model *m, size_t at)
{
    if (m->landing_mem == m->dense_mem || at < m->layout.stay_bytes)
        return (struct dev_ptr){m->dense_mem, at};
    return (struct dev_ptr){m->landing_mem, at - m->layout.stay_bytes};
}

/* A weight's place in the dense memory becomes its address. */
static int address(void *user, const struct tensor *t, size_t *at, struct err *e)
{
    struct dev_ptr *p = (struct dev_ptr *)(void *)((char *)at - offsetof(struct dev_ptr, at));
    (void)t;
    (void)e;
    *p = dense_ptr(user, *at);
    return OK;
}

static int placed(void *user, int section, bool first, struct err *e)
{
    struct model *m = user;
    dense_each(m->dense, section, address, m, e);
    return first ? health_section(m, section, e) : OK;
}

static void put_dense(void *user, size_t at, const void *bytes, size_t n)
{
    struct model *m = user;
    m->dev->ops->put(m->dev, (struct dev_ptr){m->dense_mem, at}, bytes, n);
}

/* The drive is about to write over what the device may still read. */
static int reuse(void *user, size_t at, size_t n, struct err *e)
{
    struct model *m = user;
    (void)at;
    (void)n;
    return m->dev->ops->wait(m->dev, m->dev->ops->mark(m->dev), e);
}

static int alloc_dense(struct model *m, struct err *e)
{
    const struct dense_layout *l = &m->layout;
    struct device *d = m->dev;
    int rc = d->ops->alloc(d, DEV_WEIGHTS, l->bytes, &m->dense_mem, NULL);
    m->landing_mem = m->dense_mem;
    if (rc == OK && !dev_host(m->dense_mem)) { /* then what is read into has to be another memory */
        dev_free(m->dense_mem);
        m->dense_mem = m->landing_mem = NULL;
        rc = d->ops->alloc(d, DEV_WEIGHTS, os_whole_pages(l->stay_bytes), &m->dense_mem, NULL);
        if (rc == OK)
            rc = d->ops->alloc(d, DEV_LANDING, os_whole_pages(l->bytes - l->stay_bytes + 1),
                               &m->landing_mem, NULL);
    }
    if (rc < 0)
        return err_set(e, E_NOMEM,
                       "model: the system refused %zu bytes for the dense weights; close other "
                       "programs or lower --memory",
                       l->bytes);
    return OK;
}

/* Behind each layer that stays lies room for a copy of its router. */
static void place_copies(struct model *m)
{
    for (int i = 0; i < m->c.n_layers; i++)
        if (m->experts[i].n_experts && dense_stays(m->dense, i) &&
            m->dev->ops->guess_bytes(m->dev, m->c.n_experts, m->c.n_embd))
            m->layers[i].experts.guess =
                (struct dev_mat){.type = DT_Q8_0, .n_in = m->c.n_embd, .n_out = m->c.n_experts,
                                 .data = dense_ptr(m, dense_copy_at(m->dense, i)),
                                 .scale = m->layers[i].experts.router.scale,
                                 .bias = m->layers[i].experts.router.bias};
}

static int load_dense(struct model *m, model_progress_fn *progress, void *user, struct err *e)
{
    dense_set_copy_bytes(
        m->dense, m->most_used ? m->dev->ops->guess_bytes(m->dev, m->c.n_experts, m->c.n_embd) : 0);
    dense_layout(m->dense, (size_t)m->options.dense_bytes, &m->layout);
    TRY(alloc_dense(m, e));
    uint8_t *host = dev_host(m->dense_mem), *landing = dev_host(m->landing_mem);
    const struct dense_memory memory = {.stay = host,
                                        .landing = host ? host + m->layout.stay_bytes : landing,
                                        .put = put_dense,
                                        .reuse = reuse,
                                        .placed = placed,
                                        .user = m};
    TRY(dense_load(m->dense, &m->layout, &memory, m->q, m->files, progress, user, e));
    place_copies(m);
    if (m->tied)
        m->embed.data = m->output.data;
    m->dev->ops->keep(m->dense_mem);
    return OK;
}

/* The cache's slots are memory that drive and device see. */
static void *map_slots(void *user, size_t bytes, bool huge)
{
    struct model *m = user;
    struct device *d = m->expert_dev;
    if (d->ops->alloc(d, huge ? DEV_LANDING_HUGE : DEV_LANDING, bytes, &m->slots_mem, NULL) < 0)
        return NULL;
    return dev_host(m->slots_mem);
}

static void unmap_slots(void *user, void *p, size_t bytes)
{
    struct model *m = user;
    (void)p;
    (void)bytes;
    dev_free(m->slots_mem);
    m->slots_mem = NULL;
}

static int open_cache(struct model *m, int64_t cache_bytes, const char *policy, struct err *e)
{
    if (m->most_used == 0)
        return OK;
    m->queued = calloc((size_t)m->c.n_layers, sizeof(*m->queued));
    if (!m->queued)
        return err_set(e, E_NOMEM, "model: no memory for %d layers", m->c.n_layers);
    for (int i = 0; i < m->c.n_layers; i++) {
        m->queued[i] = m->experts[i];
        for (int p = 0; p < m->experts[i].n_parts; p++)
            m->queued[i].part[p].file = m->files[m->experts[i].part[p].file];
    }
    struct expert_config x = cache_config(m);
    x.layers = m->queued;
    x.cache_bytes = (size_t)cache_bytes;
    x.policy = policy;
    x.fixed = m->options.few_addresses;
    x.ioq = m->q;
    x.memory = (struct expert_memory){map_slots, unmap_slots, m};
    m->cache_full_bytes = expert_full_bytes(&x);
    return expert_open(&x, &m->cache, e);
}

static int open_files(struct model *m, struct err *e)
{
    m->files = calloc((size_t)weights_n_files(m->w), sizeof(*m->files));
    if (!m->files)
        return err_set(e, E_NOMEM, "model: no memory for its list of files");
    return weights_queue_files(m->w, m->q, m->files, e);
}

/* Takes in what was read and starts what is queued: while all threads compute
 * nobody else does. */
static void keep_reading(void *q)
{
    ioq_poll(q);
}

static int reserve_devices(struct model *m, struct err *e)
{
    int64_t fixed, per_position;
    measure_device(m, m->dev, &fixed, &per_position);
    TRY(m->dev->ops->reserve(m->dev, m->options.context, e));
    if (m->expert_dev == m->dev)
        return OK;
    measure_device(m, m->expert_dev, &fixed, &per_position);
    return m->expert_dev->ops->reserve(m->expert_dev, m->options.context, e);
}

int model_load(struct model *m, const struct model_options *o, const struct model_devices *d,
               struct ioq *q, int64_t cache_bytes, const char *policy, model_progress_fn *progress,
               void *user, struct err *e)
{
    m->options = *o;
    m->dev = d->dense;
    m->expert_dev = d->experts;
    m->q = q;
    guess_open(&m->guess, o->lookahead, MIN(m->most_used, DEV_MAX_USED));
    m->dev->ops->set_turn(m->dev, keep_reading, q);
    m->expert_dev->ops->set_turn(m->expert_dev, keep_reading, q);
    TRY(model_runnable(m, m->dev, e));
    TRY(model_runnable(m, m->expert_dev, e));
    TRY(open_files(m, e));
    TRY(weights_add_mirrors(m->w, o->mirrors, o->n_mirrors, q, m->files, weights_n_files(m->w), e));
    TRY(reserve_devices(m, e));
    TRY(load_scratch(m, e));
    TRY(load_dense(m, progress, user, e));
    return open_cache(m, cache_bytes, policy, e);
}

void load_free(struct model *m)
{
    if (m->q) {
        m->dev->ops->set_turn(m->dev, NULL, NULL);
        m->expert_dev->ops->set_turn(m->expert_dev, NULL, NULL);
    }
    if (m->cache)
        expert_close(m->cache);
    dense_close(m->dense);
    if (m->landing_mem != m->dense_mem)
        dev_free(m->landing_mem);
    dev_free(m->dense_mem);
    dev_free(m->rope_mem);
    dev_free(m->scratch.mem);
    dev_free(m->scratch.x_dev.mem);
    if (m->scratch.host)
        os_unmap(m->scratch.host, m->scratch.host_bytes);
    free(m->queued);
    free(m->files);
}

void model_loaded(const struct model *m, int64_t *bytes, int64_t *ns)
{
    dense_loaded(m->dense, bytes, ns);
}

struct expert_cache *model_experts(struct model *m)
{
    return m->cache;
}
