/*
 * Products with rows of matrices on the CPU, and projections.
 *
 * Work is cut by output rows. For one token every thread norms and quantises
 * the input for itself: that costs about a microsecond and saves a barrier.
 */
#include "device/cpu_internal.h"

#include <math.h>

/* Rows and tokens of float weights computed per kernel call: rows of one tile
 * stay in the first-level cache while the tokens pass. */
enum { TILE_ROWS = 32, TILE_TOKENS = 32, SPLIT_GRAIN = 16 };

/* Of the rows of one token: small enough that waiting for the last is short,
 * large enough that starting a stream is. */
enum { UNIT_BYTES = 32 << 10 };

/* Rows of n elements that are laid out at a time. */
static int64_t strip_rows(const struct cpu *d, int64_t n)
{
    int64_t fit = CPU_STRIP_BYTES / (int64_t)kern_panel_row_bytes(n);
    return MAX(fit / d->k->tile_rows, 1) * d->k->tile_rows;
}

/* ---- products ------------------------------------------------------------ */

/* `out` holds rows [r0, r1) of W x of some tokens; the factor comes next, the bias last. */
static void scale_and_shift(const struct cpu *d, const struct dev_mat *w, int64_t r0, int64_t r1,
                            int64_t n_tok, float *out, int64_t out_stride)
{
    const float *scale = cpu_at(w->scale), *bias = cpu_at(w->bias);
    for (int64_t t = 0; scale && t < n_tok; t++)
        d->k->scale(out + t * out_stride, *scale, r1 - r0);
    for (int64_t t = 0; bias && t < n_tok; t++)
        d->k->add(out + t * out_stride, bias + r0, r1 - r0);
}

void cpu_mul(const struct cpu *d, const struct dev_mat *w, int64_t r0, int64_t r1,
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
        const uint8_t *rows = (const uint8_t *)cpu_at(w->data) + (size_t)r * row;
        for (int64_t t = 0; t < n_tok; t += TILE_TOKENS)
            mul(out + t * out_stride + (r - r0), out_stride, rows, row, n,
                in + (size_t)t * in_stride, in_stride, MIN((int64_t)TILE_TOKENS, n_tok - t),
                w->n_in);
    }
    scale_and_shift(d, w, r0, r1, n_tok, out, out_stride);
}

static const uint8_t *row_of(const struct dev_mat *w, int64_t r)
{
    return (const uint8_t *)cpu_at(w->data) + (size_t)r * dtype_row_bytes(w->type, w->n_in);
}

void cpu_mul_many(const struct cpu *d, int i, const struct dev_mat *w, int64_t r0, int64_t r1,
                  const float *x, int64_t x_stride, const void *panels, int64_t n_tok, float *out,
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
        d->k->panel_rows[w->type](rows, row_of(w, r), row, n, w->n_in);
        d->k->mul_panels[w->type](out + (r - r0), out_stride, rows, n, panels, n_tok, w->n_in, soon,
                                  soon_bytes);
    }
    scale_and_shift(d, w, r0, r1, n_tok, out, out_stride);
}

void cpu_panel(const struct cpu *d, int i, const float *x, int64_t x_stride, int64_t t0,
              int64_t t1, int64_t n)
{
    uint8_t *blobs = cpu_thread_mem(d, i);
    size_t blob = kern_act_bytes(n);
    for (int64_t t = t0; t < t1; t += d->k->tile_tokens) {
        int64_t tile = MIN((int64_t)d->k->tile_tokens, t1 - t);
        for (int64_t k = 0; k < tile; k++)
            d->k->quantize(blobs + (size_t)k * blob, x + (t + k) * x_stride, n);
        d->k->panel_tokens(d->panels + (size_t)t * kern_panel_token_bytes(n), blobs, blob, NULL,
                          tile, n);
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

/* ---- projections ----------------------------------------------------------- */

struct project_job {
    struct cpu *d;
    const struct dev_project *p;
    const float *x, *norm;
    bool need_act;
};

static float *out_of(const struct dev_project *p, int m)
{
    return cpu_at(p->out[m]);
}

static void project_one_token(void *arg, int i, int n)
{
    (void)n;
    const struct project_job *j = arg;
    const struct dev_project *p = j->p;
    const struct cpu *d = j->d;
    float *mem = cpu_thread_mem(d, i);
    uint8_t *act = (uint8_t *)mem +
                   align_up((size_t)MAX(d->sizes.max_in, d->sizes.max_out) * sizeof(float), 64);
    const float *x = j->x;
    if (j->norm) {
        d->k->rms_norm(mem, x, j->norm, p->n_in, p->eps);
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
            float *out = p->add ? d->tmp + r0 : out_of(p, m) + r0;
            cpu_mul(d, p->w[m], r0, r1, x, p->n_in, act, 1, out, 0);
            if (p->add)
                d->k->add(out_of(p, m) + r0, out, r1 - r0);
        }
    }
}

static void project_prepare(void *arg, int i, int n)
{
    const struct project_job *j = arg;
    const struct dev_project *p = j->p;
    const struct cpu *d = j->d;
    int64_t t0, t1;
    pool_split(p->n_tok, d->k->tile_tokens, i, n, &t0, &t1);
    for (int64_t t = t0; j->norm && t < t1; t++)
        d->k->rms_norm(d->norm + t * p->n_in, j->x + t * p->n_in, j->norm, p->n_in, p->eps);
    if (j->need_act)
        cpu_panel(d, i, j->norm ? d->norm : j->x, p->n_in, t0, t1, p->n_in);
}

static void project_rows(void *arg, int i, int n)
{
    const struct project_job *j = arg;
    const struct dev_project *p = j->p;
    const struct cpu *d = j->d;
    const float *x = j->norm ? d->norm : j->x;
    for (int m = 0; m < p->n_mats; m++) {
        int64_t n_out = p->w[m]->n_out, r0, r1;
        pool_split(n_out, SPLIT_GRAIN, i, n, &r0, &r1);
        if (r0 == r1)
            continue;
        float *out = p->add ? d->tmp : out_of(p, m);
        cpu_mul_many(d, i, p->w[m], r0, r1, x, p->n_in, d->panels, p->n_tok, out + r0, n_out, NULL,
                     0);
        for (int64_t t = 0; p->add && t < p->n_tok; t++)
            d->k->add(out_of(p, m) + t * n_out + r0, out + t * n_out + r0, r1 - r0);
    }
}

void cpu_project(struct device *dev, const struct dev_project *p)
{
    struct cpu *d = cpu_of(dev);
    struct project_job j = {.d = d, .p = p, .x = cpu_at(p->x), .norm = cpu_at(p->norm)};
    if (d->measuring) {
        cpu_note(&d->sizes.max_tokens, p->n_tok);
        cpu_note(&d->sizes.max_in, p->n_in);
        for (int m = 0; p->add && m < p->n_mats; m++)
            cpu_note(&d->sizes.max_out, p->w[m]->n_out);
        return;
    }
    for (int m = 0; m < p->n_mats; m++)
        j.need_act |= cpu_uses_act(d, p->w[m]);
    if (p->n_tok == 1) {
        pool_run(d->pool, project_one_token, &j);
        return;
    }
    if (j.norm || j.need_act)
        pool_run(d->pool, project_prepare, &j);
    pool_run(d->pool, project_rows, &j);
}

/* ---- gates, norms, scales ----------------------------------------------- */

enum { ALONE = 16 << 10 }; /* floats; below it waking the threads takes longer */

struct gate_job {
    struct cpu *d;
    float *g, *u;
    int64_t n;
    enum dev_act act;
    float limit, cap;
};

static void gate_part(void *arg, int i, int n)
{
    const struct gate_job *j = arg;
    int64_t begin, end;
    pool_split(j->n, 64, i, n, &begin, &end);
    cpu_act(j->d, j->act, j->g + begin, j->u + begin, end - begin, j->limit, j->cap);
}

void cpu_gate(struct device *dev, const struct dev_gate *a)
{
    struct gate_job j = {.d = cpu_of(dev), .g = cpu_at(a->g), .u = cpu_at(a->u),
                         .n = a->n_tok * a->width, .act = a->act, .limit = a->limit,
                         .cap = a->cap};
    if (j.d->measuring)
        return;
    if (j.n <= ALONE)
        gate_part(&j, 0, 1);
    else
        pool_run(j.d->pool, gate_part, &j);
}

void cpu_layer_norm(float *y, const float *x, const float *weight, const float *bias, int64_t n,
                    float eps)
{
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i];
    const double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++)
        squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    const double by = 1.0 / sqrt(squares / (double)n + (double)eps);
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)(((double)x[i] - mean) * by) * weight[i] + bias[i];
}

struct norm_job {
    struct cpu *d;
    const struct dev_norm *a;
    const float *x, *weight, *bias;
    float *out;
};

static void norm_part(void *arg, int i, int n)
{
    const struct norm_job *j = arg;
    const struct dev_norm *a = j->a;
    const struct kern *k = j->d->k;
    float *row = cpu_thread_mem(j->d, i);
    int64_t t0, t1;
    pool_split(a->n_tok, 1, i, n, &t0, &t1);
    for (int64_t t = t0; t < t1; t++) {
        float *out = j->out + t * a->out_stride, *y = a->add ? row : out;
        const float *x = j->x + t * a->x_stride;
        if (j->bias)
            cpu_layer_norm(y, x, j->weight, j->bias, a->n, a->eps);
        else
            k->rms_norm(y, x, j->weight, a->n, a->eps);
        if (a->add)
            k->add(out, row, a->n);
    }
}

void cpu_norm(struct device *dev, const struct dev_norm *a)
{
    struct norm_job j = {.d = cpu_of(dev), .a = a, .x = cpu_at(a->x),
                         .weight = cpu_at(a->weight), .bias = cpu_at(a->bias),
                         .out = cpu_at(a->out)};
    if (j.d->measuring) {
        cpu_note(&j.d->sizes.max_in, a->n);
        return;
    }
    if (a->n_tok * a->n <= ALONE)
        norm_part(&j, 0, 1);
    else
        pool_run(j.d->pool, norm_part, &j);
}

struct scale_job {
    struct cpu *d;
    const struct dev_scale *a;
    float *x, factor;
};

static void scale_part(void *arg, int i, int n)
{
    const struct scale_job *j = arg;
    int64_t begin, end;
    pool_split(j->a->n, 64, i, n, &begin, &end);
    if (j->factor != 1.0f)
        j->d->k->scale(j->x + begin, j->factor, end - begin);
    if (j->a->cap != 0.0f)
        j->d->k->softcap(j->x + begin, end - begin, j->a->cap);
}

void cpu_scale(struct device *dev, const struct dev_scale *a)
{
    struct scale_job j = {.d = cpu_of(dev), .a = a, .x = cpu_at(a->x), .factor = a->factor};
    const float *by = cpu_at(a->by);
    if (j.d->measuring)
        return;
    if (by)
        j.factor *= *by;
    if (a->n <= ALONE)
        scale_part(&j, 0, 1);
    else
        pool_run(j.d->pool, scale_part, &j);
}
