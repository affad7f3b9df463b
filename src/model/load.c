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

enum { PIECE = 4 << 20, WINDOW = 8 }; /* bytes of a read, reads under way */

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
    return align_up(at, 4096);
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
    struct expert_config x = cache_config(m);
    size_t elem = o->kv_f16 ? sizeof(uint16_t) : sizeof(float);
    *n = (struct model_needs){
        .dense = (int64_t)m->dense_map_bytes,
        .state = (int64_t)(2 * align_up(state_layer_floats(c) * sizeof(float) *
                                            (size_t)m->shape.n_recurrent_layers, 4096)),
        .kv_per_token = (int64_t)((size_t)(2 * m->shape.n_attention_layers) *
                                  (size_t)(c->n_kv * c->head_dim) * elem),
        .scratch = (int64_t)model_scratch_bytes(c, o->max_tokens),
        .cache_min = (int64_t)expert_min_bytes(&x),
        .cache_full = (int64_t)expert_full_bytes(&x),
    };
    device_sizes(c, o, &n->sizes);
}

/* ---- loading ---------------------------------------------------------- */

static int check_types(const struct model *m, const struct device *d, struct err *e)
{
    for (int64_t i = 0; i < gguf_n_tensors(m->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->gguf, i);
        int il;
        bool skipped = sscanf(t->name, "blk.%d.", &il) == 1 && il >= m->c.n_layers;
        if (!skipped && !device_supports(d, t->type))
            return err_set(e, E_UNSUPPORTED, "%s: tensor '%s' has type %s, for which there are no kernels yet; try a file in Q4_K_M or Q8_0",
                           gguf_file_path(m->gguf, t->file), t->name, dtype_info(t->type)->name);
    }
    return OK;
}

struct reads {
    struct ioq *q;
    struct ioq_req req[WINDOW];
    bool used[WINDOW];
    int next;
    int64_t done, total;
    model_progress_fn *progress;
    void *user;
};

/* Waits for a slot's read and hands the slot out empty. */
static int settle(struct reads *r, int i, struct err *e)
{
    if (!r->used[i])
        return OK;
    ioq_wait(r->q, &r->req[i]);
    r->used[i] = false;
    if (r->req[i].status < 0)
        return ioq_error(r->q, &r->req[i], "dense weights", e);
    r->done += (int64_t)r->req[i].bytes;
    if (r->progress && r->progress(r->user, r->done, r->total))
        return err_set(e, E_CANCELLED, "loading was cancelled");
    return OK;
}

static int read_run(struct reads *r, int file, const struct dense_run *run, uint8_t *map, struct err *e)
{
    int64_t page = align_down64(run->begin, IOQ_ALIGN);
    for (int64_t at = page; at < run->end; at += PIECE) {
        int i = r->next++ % WINDOW;
        TRY(settle(r, i, e));
        r->req[i] = (struct ioq_req){.file = file,
                                     .cls = IOQ_DEMAND,
                                     .offset = at,
                                     .bytes = (size_t)MIN((int64_t)PIECE, run->end - at),
                                     .buf = map + run->at + (at - page)};
        r->used[i] = true;
        ioq_submit(r->q, &r->req[i]);
    }
    return OK;
}

static int read_dense(struct model *m, const int *files, model_progress_fn *progress, void *user,
                      struct err *e)
{
    struct reads r = {.q = m->q, .progress = progress, .user = user};
    int rc = OK;
    for (int64_t i = 0; i < m->n_runs; i++)
        r.total += m->runs[i].end - align_down64(m->runs[i].begin, IOQ_ALIGN);
    for (int64_t i = 0; i < m->n_runs && rc == OK; i++)
        rc = read_run(&r, files[m->runs[i].file], &m->runs[i], m->dense_map, e);
    for (int i = 0; i < WINDOW; i++) { /* also after a failure: no read may outlive the buffer */
        int each = settle(&r, i, rc == OK ? e : NULL);
        rc = rc == OK ? each : rc;
    }
    return rc;
}

/* Tells every weight where its bytes are. */
static void set_addresses(struct model *m)
{
    int64_t run = 0;
    for (int64_t i = 0; i < m->n_weights; i++) {
        const struct gguf_tensor *t = m->weights[i].t;
        while (m->runs[run].file != t->file || t->offset >= m->runs[run].end)
            run++;
        const struct dense_run *r = &m->runs[run];
        *m->weights[i].address = (const uint8_t *)m->dense_map + r->at +
                                 (t->offset - align_down64(r->begin, IOQ_ALIGN));
    }
    if (!m->output.data)
        m->output = m->embed;
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

static int open_cache(struct model *m, const int *files, int64_t cache_bytes, const char *policy,
                      struct err *e)
{
    for (int il = 0; il < m->c.n_layers; il++)
        for (int p = 0; p < m->experts[il].n_parts; p++)
            m->experts[il].part[p].file = files[m->experts[il].part[p].file];
    struct expert_config x = cache_config(m);
    x.cache_bytes = (size_t)cache_bytes;
    x.policy = policy;
    x.ioq = m->q;
    m->cache_full_bytes = expert_full_bytes(&x);
    return expert_open(&x, &m->cache, e);
}

static int map_memory(struct model *m, struct err *e)
{
    m->scratch.bytes = model_scratch_bytes(&m->c, m->options.max_tokens);
    m->scratch.map = os_map(m->scratch.bytes, false);
    m->dense_map = os_map(m->dense_map_bytes, m->dense_map_bytes >= (64 << 20));
    if (!m->scratch.map || !m->dense_map)
        return err_set(e, E_NOMEM, "model: the system refused %zu bytes for the dense weights; close other programs or lower --memory",
                       m->dense_map_bytes);
    lay_scratch(&m->c, m->options.max_tokens, &m->scratch, m->scratch.map);
    return OK;
}

int model_load(struct model *m, const struct model_options *o, struct device *d, struct ioq *q,
               int64_t cache_bytes, const char *policy, model_progress_fn *progress, void *user,
               struct err *e)
{
    m->options = *o;
    m->dev = d;
    m->q = q;
    int n_files = gguf_n_files(m->gguf), rc = OK;
    int *files = calloc((size_t)n_files, sizeof(*files));
    if (!files)
        return err_set(e, E_NOMEM, "model: no memory for its list of files");
    rc = check_types(m, d, e);
    for (int i = 0; i < n_files && rc >= 0; i++)
        rc = files[i] = ioq_add_file(q, gguf_file_path(m->gguf, i), e);
    if (rc >= 0)
        rc = model_add_mirrors(m, o->mirrors, o->n_mirrors, q, files, n_files, e);
    if (rc >= 0)
        rc = map_memory(m, e);
    if (rc >= 0)
        rc = read_dense(m, files, progress, user, e);
    if (rc >= 0) {
        set_addresses(m);
        os_lock(m->dense_map, m->dense_map_bytes); /* best effort */
        rc = make_rope(m, e);
    }
    if (rc >= 0)
        rc = open_cache(m, files, cache_bytes, policy, e);
    free(files);
    return rc < 0 ? rc : OK;
}

struct expert_cache *model_experts(struct model *m)
{
    return m->cache;
}
