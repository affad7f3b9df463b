/*
 * The CPU as a device: opening, memory, scratch, embedding rows. Operations are
 * finished when they return, so a mark has always passed.
 */
#include "device/cpu_internal.h"

#include <stdlib.h>
#include <string.h>

const char *device_cpu_name(int i)
{
    return kern_name(i);
}

static void cpu_close(struct device *dev)
{
    struct cpu *d = cpu_of(dev);
    pool_free(d->pool);
    if (d->map)
        os_unmap(d->map, d->map_bytes);
    if (d->attn_scores)
        os_unmap(d->attn_scores, d->attn_bytes);
    free(d);
}

static const char *cpu_name(const struct device *d)
{
    return ((const struct cpu *)(const void *)d)->k->name;
}

static int cpu_threads(const struct device *d)
{
    return ((const struct cpu *)(const void *)d)->n_threads;
}

static bool cpu_supports(const struct device *d, enum dtype t)
{
    (void)d;
    return kern_supports(t);
}

static void cpu_set_trace(struct device *d, struct trace *t)
{
    pool_set_trace(cpu_of(d)->pool, t);
}

static void cpu_set_turn(struct device *d, device_turn_fn *fn, void *user)
{
    pool_set_turn(cpu_of(d)->pool, fn, user);
}

static void cpu_label(struct device *d, const struct trace_kind *k, int64_t layer)
{
    pool_label(cpu_of(d)->pool, k, layer);
}

/* ---- memory ---------------------------------------------------------------- */

static struct cpu_mem *mem_of(struct dev_mem *mem)
{
    return (struct cpu_mem *)(void *)mem;
}

/* Weights are read from end to end for every token, so huge pages pay. State and
 * scratch are not written as far as they reach. */
static int cpu_alloc(struct device *d, enum dev_use use, size_t bytes, struct dev_mem **out,
                     struct err *e)
{
    struct cpu_mem *m = calloc(1, sizeof(*m));
    if (m)
        m->base = os_map(bytes, use == DEV_LANDING_HUGE ||
                                    (use == DEV_WEIGHTS && bytes >= os_huge_from()));
    if (!m || !m->base) {
        free(m);
        return err_set(e, E_NOMEM, "device: the system refused %zu bytes", bytes);
    }
    m->mem.dev = d;
    m->bytes = bytes;
    *out = &m->mem;
    return OK;
}

static void cpu_free(struct dev_mem *mem)
{
    struct cpu_mem *m = mem_of(mem);
    os_unmap(m->base, m->bytes);
    free(m);
}

static void *cpu_host(struct dev_mem *mem)
{
    return mem_of(mem)->base;
}

static void cpu_keep(struct dev_mem *mem)
{
    os_lock(mem_of(mem)->base, mem_of(mem)->bytes); /* best effort */
}

static void cpu_put(struct device *d, struct dev_ptr to, const void *from, size_t bytes)
{
    if (!cpu_of(d)->measuring)
        memcpy(cpu_at(to), from, bytes);
}

static void cpu_get(struct device *d, void *to, struct dev_ptr from, size_t bytes)
{
    if (!cpu_of(d)->measuring)
        memcpy(to, cpu_at(from), bytes);
}

static void cpu_copy(struct device *d, struct dev_ptr to, struct dev_ptr from, size_t bytes)
{
    if (!cpu_of(d)->measuring)
        memcpy(cpu_at(to), cpu_at(from), bytes);
}

static void cpu_zero(struct device *d, struct dev_ptr p, size_t bytes)
{
    if (!cpu_of(d)->measuring)
        memset(cpu_at(p), 0, bytes);
}

static void cpu_give_back(struct device *d, struct dev_ptr p, size_t bytes)
{
    if (!cpu_of(d)->measuring)
        os_discard(cpu_at(p), bytes);
}

static dev_mark cpu_mark(struct device *d)
{
    (void)d;
    return 0;
}

static bool cpu_passed(struct device *d, dev_mark m)
{
    (void)d;
    (void)m;
    return true;
}

static int cpu_wait(struct device *d, dev_mark m, struct err *e)
{
    (void)d;
    (void)m;
    (void)e;
    return OK;
}

/* ---- scratch ----------------------------------------------------------------- */

/* Between what two threads write, so that the processor's prefetching of one
 * does not disturb the other. */
#define THREAD_GAP ((size_t)4096)

struct carve {
    uint8_t *base; /* NULL: only measure */
    size_t used, n_arrays;
};

static void *carve(struct carve *c, int64_t count, size_t item)
{
    size_t at = c->used;
    c->used += align_up((size_t)count * item, 64);
    c->n_arrays++;
    return c->base ? c->base + at : NULL;
}

/* What one thread needs at a time: a normed row and its blob; a tile of blobs;
 * a strip of panels; one delta head (q, k, v, o and gates). */
static size_t thread_bytes(const struct cpu *d)
{
    const struct cpu_sizes *s = &d->sizes;
    size_t row = align_up((size_t)MAX(s->max_in, s->max_out) * sizeof(float), 64) +
                 kern_act_bytes(s->max_in);
    size_t tile = (size_t)d->k->tile_tokens * kern_act_bytes(s->max_in);
    size_t strip =
        MAX((size_t)d->k->tile_rows * kern_panel_row_bytes(s->max_in), (size_t)CPU_STRIP_BYTES);
    size_t delta = (size_t)(4 * s->delta_dim) * sizeof(float);
    size_t many = s->max_tokens > 1 ? MAX(tile, strip) : 0;
    return MAX(MAX(row, many), delta);
}

/* positions: of the context; 0: what is needed for each is told apart. */
static void carve_all(struct cpu *d, struct carve *c, int64_t positions)
{
    const struct cpu_sizes *s = &d->sizes;
    int64_t t = s->max_tokens;
    int64_t tiled = (int64_t)align_up((size_t)t, (size_t)d->k->tile_tokens);
    int64_t few_rows = MIN(t, DEV_FEW_TOKENS) * (s->n_used + 1);
    d->norm = carve(c, t * s->max_in, sizeof(float));
    d->panels = carve(c, tiled, kern_panel_token_bytes(s->max_in));
    d->tmp = carve(c, t * s->max_out, sizeof(float));
    d->scores = carve(c, t * s->n_experts, sizeof(float));
    d->choices = carve(c, t * s->n_experts, sizeof(float));
    d->guess_act = carve(c, s->guess_rows, kern_act_bytes(s->n_embd));
    d->guess_scores = carve(c, s->guess_rows * s->n_experts, sizeof(float));
    d->ffn_gate = carve(c, t * s->width, sizeof(float));
    d->ffn_up = carve(c, MAX(t, few_rows) * s->width, sizeof(float));
    d->rope = carve(c, t * s->n_rot, sizeof(float));
    d->gather_bytes = align_up((size_t)(s->gather + s->gather_each * positions), 64);
    d->gathered = carve(c, d->n_threads, d->gather_bytes);

    d->thread_stride = align_up(thread_bytes(d) + THREAD_GAP, THREAD_GAP);
    d->thread = carve(c, d->n_threads, d->thread_stride);
    c->n_arrays += (size_t)d->n_threads;
}

static void cpu_measure(struct device *dev)
{
    struct cpu *d = cpu_of(dev);
    d->measuring = true;
    d->sizes = (struct cpu_sizes){.max_tokens = 1};
}

static void cpu_measured(struct device *dev, int64_t *fixed, int64_t *per_position)
{
    struct cpu *d = cpu_of(dev), probe = *d;
    struct carve c = {0};
    d->measuring = false;
    carve_all(&probe, &c, 0);
    /* Each array, and each thread's share of the scores, may begin and end within
     * a page: the mapping can have room for more tokens than are computed. */
    size_t edges = 2 * (c.n_arrays + (size_t)d->n_threads) * os_page_bytes();
    *fixed = (int64_t)(os_whole_pages(c.used) + edges);
    *per_position = d->n_threads * (d->sizes.q_per_kv * (int64_t)sizeof(float) +
                                    d->sizes.gather_each);
}

static int cpu_reserve(struct device *dev, int64_t max_positions, struct err *e)
{
    struct cpu *d = cpu_of(dev);
    struct carve c = {0};
    const int64_t per_thread = d->sizes.q_per_kv * (int64_t)align_up((size_t)max_positions, 16);
    carve_all(d, &c, max_positions);
    d->map_bytes = os_whole_pages(c.used);
    d->map = os_map(d->map_bytes, false);
    d->attn_stride = align_up((size_t)max_positions, 16);
    d->attn_bytes = os_whole_pages((size_t)(d->n_threads * per_thread) * sizeof(float));
    if (d->attn_bytes)
        d->attn_scores = os_map(d->attn_bytes, false);
    if (!d->map || (d->attn_bytes && !d->attn_scores))
        return err_set(e, E_NOMEM, "device: the system refused %zu bytes of scratch memory",
                       d->map_bytes + d->attn_bytes);
    c = (struct carve){.base = d->map};
    carve_all(d, &c, max_positions);
    return OK;
}

static void cpu_trim(struct device *dev)
{
    struct cpu *d = cpu_of(dev);
    os_discard(d->map, d->map_bytes);
}

static size_t cpu_input_bytes(const struct device *d, int64_t n_tok, int64_t n_embd)
{
    (void)d;
    return (size_t)n_tok * kern_act_bytes(n_embd);
}

/* ---- embedding ------------------------------------------------------------------ */

void cpu_embed(struct device *dev, const struct dev_embed *a)
{
    size_t row = dtype_row_bytes(a->table->type, a->table->n_in);
    const uint8_t *rows = cpu_at(a->table->data);
    float *x = cpu_at(a->x);
    if (cpu_of(dev)->measuring)
        return;
    for (int64_t t = 0; t < a->n_tok; t++)
        kern_dequant_row(a->table->type, x + t * a->table->n_in, rows + (size_t)a->ids[t] * row,
                         a->table->n_in);
}

/* ---- the probe ------------------------------------------------------------------- */

enum { PROBE_ROW = 2048, PROBE_ROWS = 64 };

struct probe_job {
    struct cpu *d;
    const uint8_t *buf;
    size_t bytes;
    bool dot;
    uint64_t sum[64];
};

static void probe_part(void *arg, int i, int n)
{
    struct probe_job *j = arg;
    const int64_t n_in = PROBE_ROW;
    size_t row = dtype_row_bytes(DT_Q4_K, n_in);
    int64_t begin, end;
    pool_split((int64_t)(j->bytes / row), PROBE_ROWS, i, n, &begin, &end);
    if (j->dot) {
        float x[PROBE_ROW] = {0}, out[PROBE_ROWS];
        _Alignas(64) uint8_t act[2 * PROBE_ROW]; /* kern_act_bytes is a byte and a bit an element */
        j->d->k->quantize(act, x, n_in);
        for (int64_t r = begin; r < end; r += PROBE_ROWS)
            j->d->k->mulq[DT_Q4_K](out, 0, j->buf + (size_t)r * row, row,
                                   MIN((int64_t)PROBE_ROWS, end - r), act, 0, 1, n_in);
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

int64_t cpu_probe_memory(struct device *dev, const void *buf, size_t bytes, bool dot)
{
    struct probe_job j = {.d = cpu_of(dev), .buf = buf, .bytes = bytes, .dot = dot};
    int64_t t0 = os_clock_ns();
    pool_run(j.d->pool, probe_part, &j);
    return os_clock_ns() - t0;
}

/* ---- opening ----------------------------------------------------------------------- */

static const struct device_ops cpu_ops = {
    .name = cpu_name, .threads = cpu_threads, .close = cpu_close, .supports = cpu_supports,
    .alloc = cpu_alloc, .free = cpu_free, .host = cpu_host, .keep = cpu_keep,
    .put = cpu_put, .get = cpu_get, .copy = cpu_copy, .zero = cpu_zero, .give_back = cpu_give_back,
    .mark = cpu_mark, .passed = cpu_passed, .wait = cpu_wait, .set_turn = cpu_set_turn,
    .measure = cpu_measure, .measured = cpu_measured, .reserve = cpu_reserve, .trim = cpu_trim,
    .input_bytes = cpu_input_bytes, .guess_bytes = cpu_guess_bytes,
    .embed = cpu_embed, .project = cpu_project, .gate = cpu_gate, .norm = cpu_norm,
    .scale = cpu_scale, .merge = cpu_merge, .spread = cpu_spread, .mix = cpu_mix,
    .compress = cpu_compress, .index = cpu_index, .heads = cpu_heads, .attention = cpu_attention,
    .delta = cpu_delta, .route = cpu_route, .prepare = cpu_prepare, .experts = cpu_experts,
    .sum = cpu_sum, .finite = cpu_finite, .guess_copy = cpu_guess_copy, .guess = cpu_guess,
    .set_trace = cpu_set_trace, .label = cpu_label, .probe_memory = cpu_probe_memory,
};

const char *cpu_place_check(struct dev_ptr p)
{
    HOLDS(!p.mem || p.mem->dev->ops == &cpu_ops, "cpu: a place lies in memory of the CPU");
    return NULL;
}

int device_cpu_open(const struct device_config *c, struct device **out, struct err *e)
{
    struct cpu *d = calloc(1, sizeof(*d));
    if (!d)
        return err_set(e, E_NOMEM, "device: no memory for its description");
    d->dev.ops = &cpu_ops;
    d->exact = c->exact;
    d->n_threads = c->threads;
    int rc = kern_select(c->cpu, &d->k, e);
    if (rc == OK) {
        d->pool = pool_new(c->threads);
        if (!d->pool)
            rc = err_set(e, E_NOMEM,
                         "device: the system refused %d threads; try fewer with --threads",
                         c->threads);
    }
    if (rc < 0) {
        cpu_close(&d->dev);
        return rc;
    }
    *out = &d->dev;
    return OK;
}
