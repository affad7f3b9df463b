/*
 * The CPU as a device: scratch memory, embedding rows and projections.
 *
 * Work is cut by output rows. For one token every thread norms and quantises
 * the input for itself: that costs about a microsecond and saves a barrier.
 */
#include "device/cpu_internal.h"

#include <stdlib.h>
#include <string.h>

/* Rows and tokens of float weights computed per kernel call: rows of one tile
 * stay in the first-level cache while the tokens pass. Packed rows, up to
 * STRIP_BYTES of them, stay in the second-level cache. */
enum { TILE_ROWS = 32, TILE_TOKENS = 32, SPLIT_GRAIN = 16, STRIP_BYTES = 192 << 10 };

/* Of the rows of one token: small enough that waiting for the last is short,
 * large enough that starting a stream is. */
enum { UNIT_BYTES = 32 << 10 };

const char *device_cpu_name(int i)
{
    return kern_name(i);
}

int device_cpu_open(const struct device_config *c, struct device **out, struct err *e)
{
    struct device *d = calloc(1, sizeof(*d));
    if (!d)
        return err_set(e, E_NOMEM, "device: no memory for its description");
    d->exact = c->exact;
    d->n_threads = c->threads;
    int rc = kern_select(c->cpu, &d->k, e);
    if (rc == OK) {
        d->pool = pool_new(c->threads);
        if (!d->pool)
            rc = err_set(e, E_NOMEM, "device: the system refused %d threads; try fewer with --threads",
                         c->threads);
    }
    if (rc < 0) {
        device_close(d);
        return rc;
    }
    *out = d;
    return OK;
}

void device_close(struct device *d)
{
    if (!d)
        return;
    pool_free(d->pool);
    if (d->map)
        os_unmap(d->map, d->map_bytes);
    if (d->attn_scores)
        os_unmap(d->attn_scores, d->attn_bytes);
    free(d);
}

const char *device_name(const struct device *d)
{
    return d->k->name;
}

int device_threads(const struct device *d)
{
    return d->n_threads;
}

void device_set_trace(struct device *d, struct trace *t)
{
    pool_set_trace(d->pool, t);
}

void device_set_turn(struct device *d, device_turn_fn *fn, void *user)
{
    pool_set_turn(d->pool, fn, user);
}

void device_label(struct device *d, const struct trace_kind *k, int64_t layer)
{
    pool_label(d->pool, k, layer);
}

bool device_supports(const struct device *d, enum dtype t)
{
    (void)d;
    return kern_supports(t);
}

/* ---- scratch ---------------------------------------------------------- */

struct carve {
    uint8_t *base; /* NULL: only measure */
    size_t used;
};

static void *carve(struct carve *c, int64_t count, size_t item)
{
    size_t at = c->used;
    c->used += align_up((size_t)count * item, 64);
    return c->base ? c->base + at : NULL;
}

/* Rows of n elements that are packed at a time. */
static int64_t strip_rows(const struct device *d, int64_t n)
{
    int64_t fit = STRIP_BYTES / (int64_t)kern_packed_row_bytes(n);
    return MAX(fit / d->k->tile_rows, 1) * d->k->tile_rows;
}

/* What one thread needs at a time: a normed row and its blob; a tile of blobs;
 * a strip of packed rows; one delta head (q, k, v, o and gates). */
static size_t thread_bytes(const struct device *d, const struct dev_sizes *s)
{
    int64_t in = MAX(s->max_in, MAX(s->expert_width, s->shared_width));
    size_t row = align_up((size_t)MAX(s->max_in, s->max_out) * sizeof(float), 64) +
                 kern_act_bytes(s->max_in);
    size_t tile = (size_t)d->k->tile_tokens * kern_act_bytes(in);
    size_t strip = MAX((size_t)d->k->tile_rows * kern_packed_row_bytes(in), (size_t)STRIP_BYTES);
    size_t delta = (size_t)(4 * s->delta_k_dim + 4 * s->delta_v_dim) * sizeof(float);
    size_t many = s->max_tokens > 1 ? MAX(tile, strip) : 0;
    return MAX(MAX(row, many), delta);
}

static void carve_all(struct device *d, const struct dev_sizes *s, struct carve *c)
{
    int64_t t = s->max_tokens, width = MAX(s->expert_width, s->shared_width);
    int64_t tiled = (int64_t)align_up((size_t)t, (size_t)d->k->tile_tokens);
    int64_t ffn_rows = MAX(t, s->n_used + 1);
    int64_t y_rows = MAX(t, s->n_used);
    d->norm = carve(c, t * s->max_in, sizeof(float));
    d->packed = carve(c, tiled, kern_packed_token_bytes(MAX(s->max_in, width)));
    d->act = carve(c, 1, kern_act_bytes(s->n_embd));
    d->tmp = carve(c, t * s->max_out, sizeof(float));
    d->moe_h = carve(c, t * s->n_embd, sizeof(float));
    d->moe_act = carve(c, t, kern_act_bytes(s->n_embd));
    d->moe_scores = carve(c, t * s->n_experts, sizeof(float));
    d->guess = carve(c, s->n_experts, sizeof(float));
    d->moe_shared_w = carve(c, t, sizeof(float));
    d->moe_y = carve(c, y_rows * s->n_embd, sizeof(float));
    d->moe_shared = carve(c, t * s->n_embd, sizeof(float));
    d->ffn_gate = carve(c, ffn_rows * width, sizeof(float));
    d->ffn_up = carve(c, ffn_rows * width, sizeof(float));
    d->rope = carve(c, t * s->head_dim, sizeof(float));

    d->thread_stride = align_up(thread_bytes(d, s) + 4096, 4096);
    d->thread = carve(c, d->n_threads, d->thread_stride);
}

void device_scratch(const struct device *d, const struct dev_sizes *s, int64_t *fixed,
                    int64_t *per_context_token)
{
    struct device probe = *d;
    struct carve c = {0};
    carve_all(&probe, s, &c);
    *fixed = (int64_t)align_up(c.used, 4096);
    *per_context_token = d->n_threads * s->q_per_kv * (int64_t)sizeof(float);
}

int device_reserve(struct device *d, const struct dev_sizes *s, struct err *e)
{
    struct carve c = {0};
    carve_all(d, s, &c);
    d->map_bytes = align_up(c.used, 4096);
    d->map = os_map(d->map_bytes, false);
    d->attn_stride = (size_t)align_up((size_t)s->max_context, 16);
    d->attn_bytes =
        align_up((size_t)d->n_threads * (size_t)s->q_per_kv * d->attn_stride * sizeof(float), 4096);
    if (s->max_context > 0 && s->q_per_kv > 0)
        d->attn_scores = os_map(d->attn_bytes, false);
    if (!d->map || (d->attn_bytes && s->max_context > 0 && !d->attn_scores))
        return err_set(e, E_NOMEM, "device: the system refused %zu bytes of scratch memory",
                       d->map_bytes + d->attn_bytes);
    c.base = d->map;
    c.used = 0;
    carve_all(d, s, &c);
    d->sizes = *s;
    return OK;
}

void device_trim(struct device *d)
{
    os_discard(d->map, d->map_bytes);
}

/* ---- embedding -------------------------------------------------------- */

void device_embed(struct device *d, float *x, const struct dev_mat *table, const int32_t *ids,
                  int64_t n_tok)
{
    (void)d;
    size_t row = dtype_row_bytes(table->type, table->n_in);
    for (int64_t t = 0; t < n_tok; t++)
        kern_dequant_row(table->type, x + t * table->n_in,
                         (const uint8_t *)table->data + (size_t)ids[t] * row, table->n_in);
}

/* ---- projections ------------------------------------------------------ */

void cpu_mul(const struct device *d, const struct dev_mat *w, int64_t r0, int64_t r1,
             const float *x, int64_t x_stride, const void *act, int64_t n_tok, float *out,
             int64_t out_stride)
{
    bool use_act = cpu_uses_act(d, w);
    kern_mul_fn *mul = use_act ? d->k->mulq[w->type] : d->k->mulf[w->type];
    const uint8_t *in = use_act ? act : (const void *)x;
    size_t in_stride = use_act ? kern_act_bytes(w->n_in) : (size_t)x_stride * sizeof(float);
    size_t row = dtype_row_bytes(w->type, w->n_in);
    int64_t tile = n_tok == 1 ? r1 - r0 : TILE_ROWS;

    for (int64_t r = r0; r < r1; r += tile) {
        int64_t n = MIN(tile, r1 - r);
        const uint8_t *rows = (const uint8_t *)w->data + (size_t)r * row;
        for (int64_t t = 0; t < n_tok; t += TILE_TOKENS)
            mul(out + t * out_stride + (r - r0), out_stride, rows, row, n,
                in + (size_t)t * in_stride, in_stride, MIN((int64_t)TILE_TOKENS, n_tok - t), w->n_in);
    }
}

static const uint8_t *row_of(const struct dev_mat *w, int64_t r)
{
    return (const uint8_t *)w->data + (size_t)r * dtype_row_bytes(w->type, w->n_in);
}

void cpu_mul_many(const struct device *d, int i, const struct dev_mat *w, int64_t r0, int64_t r1,
                  const float *x, int64_t x_stride, const void *packed, int64_t n_tok, float *out,
                  int64_t out_stride, const struct dev_mat *then, int64_t then_row)
{
    if (!cpu_uses_act(d, w)) {
        cpu_mul(d, w, r0, r1, x, x_stride, NULL, n_tok, out, out_stride);
        return;
    }
    size_t row = dtype_row_bytes(w->type, w->n_in);
    int64_t strip = strip_rows(d, w->n_in);
    void *rows = cpu_thread_mem(d, i);
    for (int64_t r = r0; r < r1; r += strip) {
        int64_t n = MIN(strip, r1 - r), left = MIN(strip, r1 - r - n);
        const uint8_t *soon = row_of(w, r + n);
        size_t soon_bytes = (size_t)left * row;
        if (left <= 0 && then) {
            soon = row_of(then, then_row);
            soon_bytes = (size_t)MIN(strip_rows(d, then->n_in), then->n_out - then_row) *
                         dtype_row_bytes(then->type, then->n_in);
        }
        d->k->pack_rows[w->type](rows, row_of(w, r), row, n, w->n_in);
        d->k->mul_packed[w->type](out + (r - r0), out_stride, rows, n, packed, n_tok, w->n_in, soon,
                                  soon_bytes);
    }
}

void cpu_pack(const struct device *d, int i, const float *x, int64_t x_stride, int64_t t0,
              int64_t t1, int64_t n)
{
    uint8_t *blobs = cpu_thread_mem(d, i);
    size_t blob = kern_act_bytes(n);
    for (int64_t t = t0; t < t1; t += d->k->tile_tokens) {
        int64_t tile = MIN((int64_t)d->k->tile_tokens, t1 - t);
        for (int64_t k = 0; k < tile; k++)
            d->k->quantize(blobs + (size_t)k * blob, x + (t + k) * x_stride, n);
        d->k->pack_tokens(d->packed + (size_t)t * kern_packed_token_bytes(n), blobs, blob, NULL, tile,
                          n);
    }
}

static int64_t unit_rows(const struct dev_mat *w)
{
    int64_t fit = UNIT_BYTES / (int64_t)dtype_row_bytes(w->type, w->n_in);
    return MAX(fit / SPLIT_GRAIN, (int64_t)1) * SPLIT_GRAIN;
}

int64_t cpu_units(const struct dev_mat *w)
{
    return (w->n_out + unit_rows(w) - 1) / unit_rows(w);
}

void cpu_unit_rows(const struct dev_mat *w, int64_t u0, int64_t u1, int64_t *at, int64_t *r0,
                   int64_t *r1)
{
    int64_t first = *at, rows = unit_rows(w);
    *at += cpu_units(w);
    u0 = MAX(u0, first);
    u1 = MIN(u1, *at);
    *r0 = *r1 = 0;
    if (u0 < u1) {
        *r0 = (u0 - first) * rows;
        *r1 = MIN((u1 - first) * rows, w->n_out);
    }
}

struct project_job {
    struct device *d;
    const struct dev_project *p;
    bool need_act;
};

static void project_one_token(void *arg, int i, int n)
{
    (void)n;
    const struct project_job *j = arg;
    const struct dev_project *p = j->p;
    const struct device *d = j->d;
    float *mem = cpu_thread_mem(d, i);
    uint8_t *act = (uint8_t *)mem +
                   align_up((size_t)MAX(d->sizes.max_in, d->sizes.max_out) * sizeof(float), 64);
    const float *x = p->x;
    if (p->norm) {
        d->k->rms_norm(mem, p->x, p->norm, p->n_in, p->eps);
        x = mem;
    }
    if (j->need_act)
        d->k->quantize(act, x, p->n_in);
    int64_t total = 0, u0, u1, r0, r1;
    for (int m = 0; m < p->n_mats; m++)
        total += cpu_units(p->w[m]);
    while (pool_take(d->pool, i, total, &u0, &u1)) {
        int64_t at = 0;
        for (int m = 0; m < p->n_mats; m++) {
            cpu_unit_rows(p->w[m], u0, u1, &at, &r0, &r1);
            if (r0 == r1)
                continue;
            float *out = p->add ? d->tmp + r0 : p->out[m] + r0;
            cpu_mul(d, p->w[m], r0, r1, x, p->n_in, act, 1, out, 0);
            if (p->add)
                d->k->add(p->out[m] + r0, out, r1 - r0);
        }
    }
}

static void project_prepare(void *arg, int i, int n)
{
    const struct project_job *j = arg;
    const struct dev_project *p = j->p;
    const struct device *d = j->d;
    int64_t t0, t1;
    pool_split(p->n_tok, d->k->tile_tokens, i, n, &t0, &t1);
    for (int64_t t = t0; p->norm && t < t1; t++)
        d->k->rms_norm(d->norm + t * p->n_in, p->x + t * p->x_stride, p->norm, p->n_in, p->eps);
    if (j->need_act)
        cpu_pack(d, i, p->norm ? d->norm : p->x, p->norm ? p->n_in : p->x_stride, t0, t1, p->n_in);
}

static void project_rows(void *arg, int i, int n)
{
    const struct project_job *j = arg;
    const struct dev_project *p = j->p;
    const struct device *d = j->d;
    const float *x = p->norm ? d->norm : p->x;
    int64_t stride = p->norm ? p->n_in : p->x_stride;
    for (int m = 0; m < p->n_mats; m++) {
        int64_t n_out = p->w[m]->n_out, r0, r1;
        pool_split(n_out, SPLIT_GRAIN, i, n, &r0, &r1);
        if (r0 == r1)
            continue;
        float *out = p->add ? d->tmp : p->out[m];
        cpu_mul_many(d, i, p->w[m], r0, r1, x, stride, d->packed, p->n_tok, out + r0, n_out, NULL, 0);
        for (int64_t t = 0; p->add && t < p->n_tok; t++)
            d->k->add(p->out[m] + t * n_out + r0, out + t * n_out + r0, r1 - r0);
    }
}

void device_project(struct device *d, const struct dev_project *p)
{
    struct project_job j = {.d = d, .p = p};
    for (int m = 0; m < p->n_mats; m++)
        j.need_act |= cpu_uses_act(d, p->w[m]);
    if (p->n_tok == 1) {
        pool_run(d->pool, project_one_token, &j);
        return;
    }
    if (p->norm || j.need_act)
        pool_run(d->pool, project_prepare, &j);
    pool_run(d->pool, project_rows, &j);
}

/* ---- probe ------------------------------------------------------------ */

struct probe_job {
    struct device *d;
    uint8_t *buf;
    size_t bytes;
    bool dot;
    uint64_t sum[64];
};

static void probe_part(void *arg, int i, int n)
{
    struct probe_job *j = arg;
    const int64_t n_in = 2048;
    size_t row = dtype_row_bytes(DT_Q4_K, n_in);
    int64_t begin, end;
    pool_split((int64_t)(j->bytes / row), 64, i, n, &begin, &end);
    if (j->dot) {
        float *x = cpu_thread_mem(j->d, i);
        float *out = x + n_in;
        uint8_t *act = (uint8_t *)(out + 64);
        act = (uint8_t *)align_up((uintptr_t)act, 64);
        memset(x, 0, (size_t)n_in * sizeof(float));
        j->d->k->quantize(act, x, n_in);
        for (int64_t r = begin; r < end; r += 64)
            j->d->k->mulq[DT_Q4_K](out, 0, j->buf + (size_t)r * row, row, MIN((int64_t)64, end - r), act, 0,
                                   1, n_in);
        return;
    }
    const uint64_t *p = (const uint64_t *)(const void *)(j->buf + (size_t)begin * row);
    size_t words = (size_t)(end - begin) * row / sizeof(uint64_t);
    uint64_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (size_t w = 0; w + 4 <= words; w += 4) {
        s0 += p[w];
        s1 += p[w + 1];
        s2 += p[w + 2];
        s3 += p[w + 3];
    }
    j->sum[i % 64] = s0 + s1 + s2 + s3;
}

int64_t device_probe_memory(struct device *d, void *buf, size_t bytes, bool dot)
{
    struct probe_job j = {.d = d, .buf = buf, .bytes = bytes, .dot = dot};
    int64_t t0 = os_clock_ns();
    pool_run(d->pool, probe_part, &j);
    return os_clock_ns() - t0;
}
