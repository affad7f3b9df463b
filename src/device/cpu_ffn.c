/*
 * Expert networks on the CPU, and their sum.
 *
 * Few tokens: each row's output goes to its own place, so experts may be
 * computed in the order in which their bytes arrive; the places are summed in
 * ascending id at the end. Many: experts come in ascending id and are added at
 * once. Both orders of addition are the same.
 */
#include "device/cpu_internal.h"

#include <string.h>

enum { GRAIN = 16 };

struct ffn_job {
    struct cpu *d;
    const struct dev_ffn *a;
    const struct dev_expert *e; /* few: n of them; many: the one under way */
    int n;
    const float *h, *factors, *input_weights;
    const uint8_t *input;
    const int32_t *tokens, *places;
    float *hidden, *y, *shared_y;
    bool want_act, want_float; /* many: forms of the input that this expert reads */
};

static float limit_of(const struct ffn_job *j, const struct dev_expert *e)
{
    return e->shared ? j->a->shared_limit : j->a->limit;
}

/* ---- few tokens: a batch of experts ------------------------------------------- */

/* Of row r of an expert: its token, and its place among rows of `hidden`. */
static int64_t token_of(const struct ffn_job *j, const struct dev_expert *e, int64_t r)
{
    return e->shared ? r : j->tokens[e->first_row + r];
}

static int64_t hidden_row(const struct ffn_job *j, const struct dev_expert *e, int64_t r)
{
    return e->shared ? j->a->n_tok * j->a->n_used + r : j->places[e->first_row + r];
}

/* Gate and up of w h are w times those of h. */
static void weigh(const struct ffn_job *j, const struct dev_expert *e, int64_t token, float *g,
                  float *u, int64_t n)
{
    if (!j->input_weights || e->shared)
        return;
    j->d->k->scale(g, j->input_weights[token], n);
    j->d->k->scale(u, j->input_weights[token], n);
}

static void gate_up_rows(const struct ffn_job *j, const struct dev_expert *e, int64_t r, int64_t r0,
                         int64_t r1)
{
    const struct cpu *d = j->d;
    int64_t n_embd = j->a->n_embd, t = token_of(j, e, r),
            at = hidden_row(j, e, r) * j->a->hidden_width + r0;
    const float *x = j->h + t * n_embd;
    const uint8_t *act = j->input + (size_t)t * kern_act_bytes(n_embd);
    float *g = j->hidden + at, *u = d->ffn_up + at;
    cpu_mul(d, &e->gate, r0, r1, x, n_embd, act, 1, g, 0);
    cpu_mul(d, &e->up, r0, r1, x, n_embd, act, 1, u, 0);
    weigh(j, e, t, g, u, r1 - r0);
    cpu_act(d, j->a->act, g, u, r1 - r0, limit_of(j, e), j->a->cap);
}

/* Every thread quantises the input for itself, as cpu_mul.c says. */
static void down_rows(const struct ffn_job *j, const struct dev_expert *e, int64_t r, int64_t r0,
                      int64_t r1, void *act)
{
    const struct cpu *d = j->d;
    const float *g = j->hidden + hidden_row(j, e, r) * j->a->hidden_width;
    float *y = (e->shared ? j->shared_y + r * j->a->n_embd
                          : j->y + (int64_t)j->places[e->first_row + r] * j->a->n_embd);
    if (cpu_uses_act(d, &e->down))
        d->k->quantize(act, g, e->down.n_in);
    cpu_mul(d, &e->down, r0, r1, g, e->down.n_in, act, 1, y + r0, 0);
}

/* In thread i: rows of the batch's experts, of their gates and ups or of their downs. */
static void batch_rows(const struct ffn_job *j, int i, bool down)
{
    const struct cpu *d = j->d;
    const enum dev_step other = down ? DEV_GATE_UP : DEV_DOWN; /* has no such rows now */
    int64_t total = 0, u0, u1, r0, r1;
    for (int b = 0; b < j->n; b++)
        total += j->e[b].step == other ? 0 : cpu_units(down ? &j->e[b].down : &j->e[b].gate);
    while (pool_take(d->pool, i, total, &u0, &u1)) {
        int64_t at = 0;
        for (int b = 0; b < j->n; b++) {
            const struct dev_expert *e = &j->e[b];
            if (e->step == other)
                continue;
            cpu_unit_rows(down ? &e->down : &e->gate, u0, u1, &at, &r0, &r1);
            for (int64_t r = 0; r0 < r1 && r < e->n_rows; r++) {
                if (down)
                    down_rows(j, e, r, r0, r1, cpu_thread_mem(d, i));
                else
                    gate_up_rows(j, e, r, r0, r1);
            }
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

static void few(struct ffn_job *j)
{
    bool gate_up = false, down = false;
    for (int i = 0; i < j->n; i++) {
        gate_up |= j->e[i].step != DEV_DOWN;
        down |= j->e[i].step != DEV_GATE_UP;
    }
    if (gate_up)
        pool_run(j->d->pool, batch_gate_up, j);
    if (down)
        pool_run(j->d->pool, batch_down, j);
}

/* ---- many tokens: one expert ----------------------------------------------------- */

/* Many experts of a chunk have a single token, which needs no panels. */
static bool is_alone(const struct ffn_job *j)
{
    return !j->e->shared && j->e->n_rows == 1;
}

static const int32_t *rows_of(const struct ffn_job *j)
{
    return j->e->shared ? NULL : j->tokens + j->e->first_row;
}

static void many_gather(void *arg, int i, int n)
{
    const struct ffn_job *j = arg;
    const struct cpu *d = j->d;
    const struct dev_expert *e = j->e;
    const int32_t *rows = rows_of(j);
    int64_t t0, t1, n_embd = j->a->n_embd;
    size_t blob = kern_act_bytes(n_embd);
    pool_split(e->n_rows, d->k->tile_tokens, i, n, &t0, &t1);
    if (j->want_act)
        d->k->panel_tokens(d->panels + (size_t)t0 * kern_panel_token_bytes(n_embd),
                          rows ? j->input : j->input + (size_t)t0 * blob, blob,
                          rows ? rows + t0 : NULL, t1 - t0, n_embd);
    for (int64_t t = t0; j->want_float && rows && t < t1; t++)
        memcpy(d->norm + t * n_embd, j->h + rows[t] * n_embd, (size_t)n_embd * sizeof(float));
}

static void many_gate_up(void *arg, int i, int n)
{
    const struct ffn_job *j = arg;
    const struct cpu *d = j->d;
    const struct dev_expert *e = j->e;
    int64_t r0, r1, width = e->gate.n_out, n_embd = j->a->n_embd;
    pool_split(width, GRAIN, i, n, &r0, &r1);
    if (r0 == r1)
        return;
    float *gate = d->ffn_gate + r0, *up = d->ffn_up + r0;
    if (is_alone(j)) {
        int64_t t = rows_of(j)[0];
        const float *x = j->h + t * n_embd;
        const uint8_t *act = j->input + (size_t)t * kern_act_bytes(n_embd);
        cpu_mul(d, &e->gate, r0, r1, x, n_embd, act, 1, gate, width);
        cpu_mul(d, &e->up, r0, r1, x, n_embd, act, 1, up, width);
    } else {
        const float *x = e->shared ? j->h : d->norm;
        cpu_mul_many(d, i, &e->gate, r0, r1, x, n_embd, d->panels, e->n_rows, gate, width, &e->up,
                     r0);
        int64_t down0, down1; /* this thread's rows in many_down */
        pool_split(e->down.n_out, GRAIN, i, n, &down0, &down1);
        cpu_mul_many(d, i, &e->up, r0, r1, x, n_embd, d->panels, e->n_rows, up, width,
                     down0 < down1 ? &e->down : NULL, down0);
    }
    for (int64_t t = 0; t < e->n_rows; t++) {
        weigh(j, e, e->shared ? t : rows_of(j)[t], gate + t * width, up + t * width, r1 - r0);
        cpu_act(d, j->a->act, gate + t * width, up + t * width, r1 - r0, limit_of(j, e), j->a->cap);
    }
}

static void many_quantize(void *arg, int i, int n)
{
    const struct ffn_job *j = arg;
    const struct cpu *d = j->d;
    int64_t t0, t1, width = j->e->down.n_in;
    pool_split(j->e->n_rows, d->k->tile_tokens, i, n, &t0, &t1);
    cpu_panel(d, i, d->ffn_gate, width, t0, t1, width);
}

static void many_down(void *arg, int i, int n)
{
    const struct ffn_job *j = arg;
    const struct cpu *d = j->d;
    const struct dev_expert *e = j->e;
    int64_t r0, r1, n_embd = e->down.n_out, width = e->down.n_in;
    pool_split(n_embd, GRAIN, i, n, &r0, &r1);
    if (r0 == r1)
        return;
    float *out = e->shared ? j->shared_y : d->tmp;
    if (is_alone(j)) {
        void *act = cpu_thread_mem(d, i);
        if (cpu_uses_act(d, &e->down))
            d->k->quantize(act, d->ffn_gate, width);
        cpu_mul(d, &e->down, r0, r1, d->ffn_gate, width, act, 1, out + r0, n_embd);
    } else {
        cpu_mul_many(d, i, &e->down, r0, r1, d->ffn_gate, width, d->panels, e->n_rows, out + r0,
                     n_embd, NULL, 0);
    }
    for (int64_t t = 0; !e->shared && t < e->n_rows; t++)
        d->k->axpy(j->y + rows_of(j)[t] * n_embd + r0, j->factors[e->first_row + t],
                   out + t * n_embd + r0, r1 - r0);
}

static void many(struct ffn_job *j, const struct dev_expert *e)
{
    struct pool *pool = j->d->pool;
    j->e = e;
    bool gate_act = cpu_uses_act(j->d, &e->gate), up_act = cpu_uses_act(j->d, &e->up);
    j->want_act = gate_act || up_act;
    j->want_float = !gate_act || !up_act;
    if (!is_alone(j) && (j->want_act || !e->shared))
        pool_run(pool, many_gather, j);
    pool_run(pool, many_gate_up, j);
    if (!is_alone(j) && cpu_uses_act(j->d, &e->down))
        pool_run(pool, many_quantize, j);
    pool_run(pool, many_down, j);
}

void cpu_experts(struct device *dev, const struct dev_ffn *a, const struct dev_expert *x, int n)
{
    struct cpu *d = cpu_of(dev);
    struct ffn_job j = {.d = d,
                        .a = a,
                        .e = x,
                        .n = n,
                        .h = cpu_at(a->h),
                        .factors = cpu_at(a->factors),
                        .input_weights = cpu_at(a->input_weights),
                        .input = cpu_at(a->input),
                        .tokens = cpu_at(a->tokens),
                        .places = cpu_at(a->places),
                        .hidden = cpu_at(a->hidden),
                        .y = cpu_at(a->y),
                        .shared_y = cpu_at(a->shared_y)};
    if (d->measuring) {
        cpu_note(&d->sizes.max_tokens, a->n_tok);
        cpu_note(&d->sizes.n_used, a->n_used);
        cpu_note(&d->sizes.width, a->hidden_width);
        cpu_note(&d->sizes.max_in, MAX(a->n_embd, a->hidden_width));
        cpu_note(&d->sizes.max_out, a->n_embd);
        return;
    }
    if (!a->many) {
        few(&j);
        return;
    }
    for (int i = 0; i < n; i++)
        many(&j, &x[i]);
}

/* ---- the sum ------------------------------------------------------------------------ */

struct sum_job {
    const struct cpu *d;
    const struct dev_sum *a;
    const int32_t *picks;
    const float *weights, *shared_y, *shared_weight;
    float *y, *out, *x;
};

/* The places of a token's picks when sorted by id. */
static void ascending(const int32_t *picks, int64_t n, int32_t *order)
{
    for (int32_t i = 0; i < (int32_t)n; i++) {
        int32_t at = i;
        for (; at > 0 && picks[order[at - 1]] > picks[i]; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
}

static void sum_token(const struct sum_job *j, int64_t t)
{
    const struct dev_sum *a = j->a;
    const struct kern *k = j->d->k;
    int64_t n = a->n_embd;
    float *sum = (a->many ? j->y : j->out) + t * n;
    if (!a->many) {
        int32_t order[DEV_MAX_USED];
        ascending(j->picks + t * a->n_used, a->n_used, order);
        memset(sum, 0, (size_t)n * sizeof(float));
        for (int64_t i = 0; i < a->n_used; i++)
            k->axpy(sum, j->weights ? j->weights[t * a->n_used + order[i]] : 1.0f,
                    j->y + (t * a->n_used + i) * n, n);
    }
    if (j->shared_y)
        k->axpy(sum, j->shared_weight ? j->shared_weight[t] : 1.0f, j->shared_y + t * n, n);
    if (j->x)
        k->axpy(j->x + t * n, a->scale, sum, n);
}

static void sum_tokens(void *arg, int i, int n)
{
    const struct sum_job *j = arg;
    int64_t t0, t1;
    pool_split(j->a->n_tok, 1, i, n, &t0, &t1);
    for (int64_t t = t0; t < t1; t++)
        sum_token(j, t);
}

void cpu_sum(struct device *dev, const struct dev_sum *a)
{
    struct cpu *d = cpu_of(dev);
    struct sum_job j = {.d = d, .a = a, .picks = cpu_at(a->picks), .weights = cpu_at(a->weights),
                        .shared_y = cpu_at(a->shared_y), .shared_weight = cpu_at(a->shared_weight),
                        .y = cpu_at(a->y), .out = cpu_at(a->out), .x = cpu_at(a->x)};
    if (d->measuring)
        return;
    if (a->n_tok == 1)
        sum_token(&j, 0);
    else
        pool_run(d->pool, sum_tokens, &j);
}
