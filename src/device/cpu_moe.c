/*
 * Mixture of experts on the CPU.
 *
 * One token: each picked expert's output goes to its own row (the slot), so
 * experts may be computed in the order in which their bytes arrive; the rows
 * are summed in ascending id at the end. More tokens: experts come in
 * ascending id and are added at once. Both orders of addition are the same.
 */
#include "device/cpu_internal.h"

#include <math.h>
#include <string.h>

enum { GRAIN = 16 };

struct moe_job {
    struct device *d;
    const struct dev_moe *m;
    const struct dev_expert *e; /* batch, or the one expert of a chunk */
    int n;
    bool want_act, want_float; /* forms of the input that this expert reads */
};

/* ---- routing ---------------------------------------------------------- */

void cpu_top_k(const float *p, int64_t n, int32_t *ids, float *vals, int64_t k)
{
    int64_t have = 0;
    for (int64_t i = 0; i < n; i++) {
        float v = isnan(p[i]) ? -INFINITY : p[i];
        if (have == k && !(v > vals[k - 1]))
            continue;
        int64_t at = have < k ? have++ : k - 1;
        for (; at > 0 && v > vals[at - 1]; at--) {
            vals[at] = vals[at - 1];
            ids[at] = ids[at - 1];
        }
        vals[at] = v;
        ids[at] = (int32_t)i;
    }
}

static void pick_experts(const struct device *d, const struct dev_moe *m, int64_t t)
{
    float *p = d->moe_scores + t * m->router->n_out;
    float *w = m->weights + t * m->n_used;
    d->k->softmax(p, m->router->n_out);
    cpu_top_k(p, m->router->n_out, m->picks + t * m->n_used, w, m->n_used);
    if (m->renormalise) {
        float sum = 0.0f;
        for (int64_t i = 0; i < m->n_used; i++)
            sum += w[i];
        sum = MAX(sum, 6.103515625e-5f);
        for (int64_t i = 0; i < m->n_used; i++)
            w[i] /= sum;
    }
    if (m->shared_gate) {
        float g;
        d->k->mulf[DT_F32](&g, 0, m->shared_gate, 0, 1, d->moe_h + t * m->n_embd, 0, 1, m->n_embd);
        d->k->sigmoid(d->moe_shared_w + t, &g, 1);
    }
}

static void norm_input(const struct moe_job *j, int64_t t0, int64_t t1)
{
    const struct device *d = j->d;
    const struct dev_moe *m = j->m;
    size_t blob = kern_act_bytes(m->n_embd);
    for (int64_t t = t0; t < t1; t++) {
        float *h = d->moe_h + t * m->n_embd;
        d->k->rms_norm(h, m->x + t * m->n_embd, m->norm, m->n_embd, m->eps);
        if (!d->exact)
            d->k->quantize(d->moe_act + (size_t)t * blob, h, m->n_embd);
    }
}

static void norm_tokens(void *arg, int i, int n)
{
    const struct moe_job *j = arg;
    int64_t t0, t1;
    pool_split(j->m->n_tok, 1, i, n, &t0, &t1);
    norm_input(j, t0, t1);
}

static void score_rows(void *arg, int i, int n)
{
    const struct moe_job *j = arg;
    const struct device *d = j->d;
    const struct dev_moe *m = j->m;
    int64_t u0, u1, r0, r1;
    (void)n;
    while (pool_take(d->pool, i, cpu_units(m->router), &u0, &u1)) {
        cpu_unit_rows(m->router, u0, u1, &(int64_t){0}, &r0, &r1);
        cpu_mul(d, m->router, r0, r1, d->moe_h, m->n_embd, d->moe_act, m->n_tok, d->moe_scores + r0,
                m->router->n_out);
    }
}

static void pick_tokens(void *arg, int i, int n)
{
    const struct moe_job *j = arg;
    int64_t t0, t1;
    pool_split(j->m->n_tok, 1, i, n, &t0, &t1);
    for (int64_t t = t0; t < t1; t++)
        pick_experts(j->d, j->m, t);
}

void device_moe_begin(struct device *d, const struct dev_moe *m)
{
    struct moe_job j = {.d = d, .m = m};
    if (m->n_tok == 1) {
        norm_input(&j, 0, 1);
        pool_run(d->pool, score_rows, &j);
        pick_experts(d, m, 0);
        return;
    }
    memset(d->moe_y, 0, (size_t)(m->n_tok * m->n_embd) * sizeof(float));
    pool_run(d->pool, norm_tokens, &j);
    pool_run(d->pool, score_rows, &j);
    pool_run(d->pool, pick_tokens, &j);
}

/* ---- one token: a batch of experts ------------------------------------ */

static int64_t ffn_row(const struct dev_moe *m, const struct dev_expert *e)
{
    return e->shared ? m->n_used : e->slot;
}

static int64_t ffn_width(const struct device *d)
{
    return MAX(d->sizes.expert_width, d->sizes.shared_width);
}

static void gate_up_rows(const struct moe_job *j, const struct dev_expert *e, int64_t r0, int64_t r1)
{
    const struct device *d = j->d;
    int64_t at = ffn_row(j->m, e) * ffn_width(d) + r0;
    float *g = d->ffn_gate + at, *u = d->ffn_up + at;
    cpu_mul(d, &e->gate, r0, r1, d->moe_h, j->m->n_embd, d->moe_act, 1, g, 0);
    cpu_mul(d, &e->up, r0, r1, d->moe_h, j->m->n_embd, d->moe_act, 1, u, 0);
    d->k->silu_mul(g, g, u, r1 - r0);
}

/* Every thread quantises the input for itself, as cpu.c says. */
static void down_rows(const struct moe_job *j, const struct dev_expert *e, int64_t r0, int64_t r1,
                      void *act)
{
    const struct device *d = j->d;
    const float *h = d->ffn_gate + ffn_row(j->m, e) * ffn_width(d);
    float *y = e->shared ? d->moe_shared : d->moe_y + e->slot * j->m->n_embd;
    if (cpu_uses_act(d, &e->down))
        d->k->quantize(act, h, e->down.n_in);
    cpu_mul(d, &e->down, r0, r1, h, e->down.n_in, act, 1, y + r0, 0);
}

/* In thread i: rows of the batch's experts, of their gates and ups or of their downs. */
static void batch_rows(const struct moe_job *j, int i, bool down)
{
    const struct device *d = j->d;
    const int other = down ? DEV_GATE_UP : DEV_DOWN; /* experts of this step have no such rows now */
    int64_t total = 0, u0, u1, r0, r1;
    for (int b = 0; b < j->n; b++)
        total += (int)j->e[b].step == other ? 0 : cpu_units(down ? &j->e[b].down : &j->e[b].gate);
    while (pool_take(d->pool, i, total, &u0, &u1)) {
        int64_t at = 0;
        for (int b = 0; b < j->n; b++) {
            const struct dev_expert *e = &j->e[b];
            if ((int)e->step == other)
                continue;
            cpu_unit_rows(down ? &e->down : &e->gate, u0, u1, &at, &r0, &r1);
            if (r0 == r1)
                continue;
            if (down)
                down_rows(j, e, r0, r1, cpu_thread_mem(d, i));
            else
                gate_up_rows(j, e, r0, r1);
        }
    }
}

static void batch_gate_up(void *arg, int i, int n)
{
    (void)n;
    batch_rows(arg, i, false);
}

static void batch_down(void *arg, int i, int n)
{
    (void)n;
    batch_rows(arg, i, true);
}

/* ---- a chunk of tokens: one expert ------------------------------------ */

/* Many experts of a chunk have a single token, which needs no packing. */
static bool is_alone(const struct moe_job *j)
{
    return j->e->rows && j->e->n_rows == 1;
}

static void chunk_gather(void *arg, int i, int n)
{
    const struct moe_job *j = arg;
    const struct device *d = j->d;
    const struct dev_expert *e = j->e;
    int64_t t0, t1, n_embd = j->m->n_embd;
    size_t blob = kern_act_bytes(n_embd);
    pool_split(e->n_rows, d->k->tile_tokens, i, n, &t0, &t1);
    if (j->want_act)
        d->k->pack_tokens(d->packed + (size_t)t0 * kern_packed_token_bytes(n_embd),
                          e->rows ? d->moe_act : d->moe_act + (size_t)t0 * blob, blob,
                          e->rows ? e->rows + t0 : NULL, t1 - t0, n_embd);
    for (int64_t t = t0; j->want_float && e->rows && t < t1; t++)
        memcpy(d->norm + t * n_embd, d->moe_h + e->rows[t] * n_embd, (size_t)n_embd * sizeof(float));
}

static void chunk_gate_up(void *arg, int i, int n)
{
    const struct moe_job *j = arg;
    const struct device *d = j->d;
    const struct dev_expert *e = j->e;
    int64_t r0, r1, width = e->gate.n_out, n_embd = j->m->n_embd;
    pool_split(width, GRAIN, i, n, &r0, &r1);
    if (r0 == r1)
        return;
    float *gate = d->ffn_gate + r0, *up = d->ffn_up + r0;
    if (is_alone(j)) {
        const float *x = d->moe_h + e->rows[0] * n_embd;
        const uint8_t *act = d->moe_act + (size_t)e->rows[0] * kern_act_bytes(n_embd);
        cpu_mul(d, &e->gate, r0, r1, x, n_embd, act, 1, gate, width);
        cpu_mul(d, &e->up, r0, r1, x, n_embd, act, 1, up, width);
    } else {
        const float *x = e->rows ? d->norm : d->moe_h;
        cpu_mul_many(d, i, &e->gate, r0, r1, x, n_embd, d->packed, e->n_rows, gate, width, &e->up, r0);
        int64_t down0, down1; /* this thread's rows in chunk_down */
        pool_split(e->down.n_out, GRAIN, i, n, &down0, &down1);
        cpu_mul_many(d, i, &e->up, r0, r1, x, n_embd, d->packed, e->n_rows, up, width,
                     down0 < down1 ? &e->down : NULL, down0);
    }
    for (int64_t t = 0; t < e->n_rows; t++)
        d->k->silu_mul(gate + t * width, gate + t * width, up + t * width, r1 - r0);
}

static void chunk_quantize(void *arg, int i, int n)
{
    const struct moe_job *j = arg;
    const struct device *d = j->d;
    int64_t t0, t1, width = j->e->down.n_in;
    pool_split(j->e->n_rows, d->k->tile_tokens, i, n, &t0, &t1);
    cpu_pack(d, i, d->ffn_gate, width, t0, t1, width);
}

static void chunk_down(void *arg, int i, int n)
{
    const struct moe_job *j = arg;
    const struct device *d = j->d;
    const struct dev_expert *e = j->e;
    int64_t r0, r1, n_embd = e->down.n_out, width = e->down.n_in;
    pool_split(n_embd, GRAIN, i, n, &r0, &r1);
    if (r0 == r1)
        return;
    float *out = e->shared ? d->moe_shared : d->tmp;
    if (is_alone(j)) {
        void *act = cpu_thread_mem(d, i);
        if (cpu_uses_act(d, &e->down))
            d->k->quantize(act, d->ffn_gate, width);
        cpu_mul(d, &e->down, r0, r1, d->ffn_gate, width, act, 1, out + r0, n_embd);
    } else {
        cpu_mul_many(d, i, &e->down, r0, r1, d->ffn_gate, width, d->packed, e->n_rows, out + r0,
                     n_embd, NULL, 0);
    }
    for (int64_t t = 0; !e->shared && t < e->n_rows; t++)
        d->k->axpy(d->moe_y + e->rows[t] * n_embd + r0, e->weight[t], out + t * n_embd + r0, r1 - r0);
}

static void chunk_expert(struct moe_job *j, const struct dev_expert *e)
{
    struct pool *pool = j->d->pool;
    j->e = e;
    bool gate_act = cpu_uses_act(j->d, &e->gate), up_act = cpu_uses_act(j->d, &e->up);
    j->want_act = gate_act || up_act;
    j->want_float = !gate_act || !up_act;
    if (!is_alone(j) && (j->want_act || e->rows))
        pool_run(pool, chunk_gather, j);
    pool_run(pool, chunk_gate_up, j);
    if (!is_alone(j) && cpu_uses_act(j->d, &e->down))
        pool_run(pool, chunk_quantize, j);
    pool_run(pool, chunk_down, j);
}

void device_moe_experts(struct device *d, const struct dev_moe *m, const struct dev_expert *experts,
                        int n)
{
    struct moe_job j = {.d = d, .m = m, .e = experts, .n = n};
    if (m->n_tok == 1) {
        bool gate_up = false, down = false;
        for (int i = 0; i < n; i++) {
            gate_up |= experts[i].step != DEV_DOWN;
            down |= experts[i].step != DEV_GATE_UP;
        }
        if (gate_up)
            pool_run(d->pool, batch_gate_up, &j);
        if (down)
            pool_run(d->pool, batch_down, &j);
        return;
    }
    for (int i = 0; i < n; i++)
        chunk_expert(&j, &experts[i]);
}

/* ---- the sum ---------------------------------------------------------- */

/* The picked experts' places when sorted by id. */
static void ascending(const struct dev_moe *m, int32_t *order)
{
    for (int32_t i = 0; i < (int32_t)m->n_used; i++) {
        int32_t at = i;
        for (; at > 0 && m->picks[order[at - 1]] > m->picks[i]; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
}

static void add_result(const struct device *d, const struct dev_moe *m, int64_t t, float *sum)
{
    if (m->shared_gate)
        d->k->axpy(sum, d->moe_shared_w[t], d->moe_shared + t * m->n_embd, m->n_embd);
    d->k->add(m->x + t * m->n_embd, sum, m->n_embd);
}

static void end_tokens(void *arg, int i, int n)
{
    const struct moe_job *j = arg;
    int64_t t0, t1;
    pool_split(j->m->n_tok, 1, i, n, &t0, &t1);
    for (int64_t t = t0; t < t1; t++)
        add_result(j->d, j->m, t, j->d->moe_y + t * j->m->n_embd);
}

void device_moe_end(struct device *d, const struct dev_moe *m)
{
    struct moe_job j = {.d = d, .m = m};
    if (m->n_tok > 1) {
        pool_run(d->pool, end_tokens, &j);
        return;
    }
    int32_t order[DEV_MAX_USED];
    float *sum = d->tmp;
    ascending(m, order);
    memset(sum, 0, (size_t)m->n_embd * sizeof(float));
    for (int64_t slot = 0; slot < m->n_used; slot++)
        d->k->axpy(sum, m->weights[order[slot]], d->moe_y + slot * m->n_embd, m->n_embd);
    add_result(d, m, 0, sum);
}
