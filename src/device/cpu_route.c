/*
 * Routing on the CPU, and guessing a later layer's picks. A router in floats is
 * a twentieth of what a token reads from memory; a guess does with 8-bit weights.
 */
#include "device/cpu_internal.h"

#include <math.h>
#include <string.h>

/* The k largest of p (n) in falling order, ties to the lower index; NaN counts as -inf. */
static void top_k(const float *p, int64_t n, int32_t *ids, float *vals, int64_t k)
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

/* ---- scores ------------------------------------------------------------------ */

/* Products with the router become p. */
static void score(const struct kern *k, const struct dev_scores *s, float *p, int64_t n)
{
    switch (s->scoring) {
    case DEV_SOFTMAX: k->softmax(p, n); break;
    case DEV_SIGMOID: k->sigmoid(p, p, n); break;
    case DEV_SOFTMAX_PICKED: break;
    case DEV_SIGMOID_PICKED: break;
    case DEV_SPARSE_MIXER: break;
    case DEV_SQRT_SOFTPLUS:
        k->softplus(p, p, n);
        for (int64_t i = 0; i < n; i++)
            p[i] = sqrtf(p[i]);
        break;
    }
}

/* The experts of groups that are not among the best count no more. */
static void drop_groups(const struct dev_scores *s, float *p, int64_t n)
{
    const int64_t size = n / s->n_groups;
    float best[DEV_MAX_GROUPS] = {0}, vals[DEV_MAX_GROUPS];
    int32_t kept[DEV_MAX_GROUPS] = {0};
    for (int64_t g = 0; g < s->n_groups; g++) {
        float two[2] = {-INFINITY, -INFINITY};
        int32_t ids[2];
        top_k(p + g * size, size, ids, two, MIN(size, (int64_t)2));
        best[g] = size > 1 ? two[0] + two[1] : two[0];
    }
    top_k(best, s->n_groups, kept, vals, s->groups_used);
    for (int64_t g = 0; g < s->n_groups; g++) {
        bool keep = false;
        for (int64_t i = 0; i < s->groups_used; i++)
            keep |= kept[i] == g;
        for (int64_t i = g * size; !keep && i < (g + 1) * size; i++)
            p[i] = -INFINITY;
    }
}

/* Picks from p (n), which becomes what the choice was made by; w: what p was. */
static void pick(const struct kern *k, const struct dev_scores *s, float *p, int64_t n,
                 int32_t *picks, float *w, int64_t n_used)
{
    const float *correction = cpu_at(s->correction);
    if (!correction && s->n_groups <= 1) {
        top_k(p, n, picks, w, n_used);
        return;
    }
    if (correction)
        k->add(p, correction, n);
    if (s->n_groups > 1)
        drop_groups(s, p, n);
    top_k(p, n, picks, w, n_used);
}

/* ---- routing ----------------------------------------------------------------- */

struct route_job {
    const struct cpu *d;
    const struct dev_route *a;
    const float *x, *norm, *norm_bias, *router_norm, *shared_gate, *products;
    float *h, *weights, *shared_weight;
    const float *scored; /* what the router takes: h, or x with a norm of its own (floats only) */
    uint8_t *input;
    int32_t *picks;
    const int32_t *table;
};

static bool all_numbers(const float *p, int64_t n)
{
    bool ok = true;
    for (int64_t i = 0; i < n; i++)
        ok &= !isnan(p[i]);
    return ok;
}

/* DEV_SPARSE_MIXER: of each pick, with `near` as room for those that count beside it. */
static void mix(const struct route_job *j, const float *scores, const int32_t *picks, float *w,
                float *near)
{
    for (int64_t i = 0; i < j->a->n_used; i++) {
        const float top = scores[picks[i]];
        int64_t n = 0;
        near[n++] = top;
        for (int64_t e = 0; e < j->a->router->n_out; e++) {
            const float p = scores[e];
            bool left = e != picks[i];
            for (int64_t k = 0; k < i; k++)
                left &= e != picks[k];
            if (left && !((top - p) / fmaxf(fabsf(p), top) > 0.02f))
                near[n++] = p;
        }
        j->d->k->softmax(near, n);
        w[i] = near[0];
    }
}

/* The weights of the picked experts: their scores without the correction. */
static void weigh(const struct route_job *j, const float *scores, const int32_t *picks, float *w,
                  float *room)
{
    const struct dev_route *a = j->a;
    for (int64_t i = 0; i < a->n_used; i++)
        w[i] = scores[picks[i]];
    if (a->scores.scoring == DEV_SOFTMAX_PICKED)
        j->d->k->softmax(w, a->n_used);
    if (a->scores.scoring == DEV_SIGMOID_PICKED)
        j->d->k->sigmoid(w, w, a->n_used);
    if (a->scores.scoring == DEV_SPARSE_MIXER)
        mix(j, scores, picks, w, room);
    if (a->renormalise) {
        float sum = 0.0f;
        for (int64_t i = 0; i < a->n_used; i++)
            sum += w[i];
        sum = MAX(sum, 6.103515625e-5f);
        for (int64_t i = 0; i < a->n_used; i++)
            w[i] /= sum;
    }
    for (int64_t i = 0; a->scale != 1.0f && i < a->n_used; i++)
        w[i] *= a->scale;
    if (!all_numbers(scores, a->router->n_out))
        w[0] = NAN;
}

/* The experts of the token's id. What cannot be picks becomes some, and no number. */
static bool look_up(const struct route_job *j, int64_t t, int32_t *picks)
{
    const int64_t n = j->a->n_used;
    bool ok = true;
    memcpy(picks, j->table + j->a->ids[t] * n, (size_t)n * sizeof(*picks));
    for (int64_t i = 0; i < n; i++) {
        ok &= picks[i] >= 0 && picks[i] < j->a->router->n_out;
        for (int64_t k = 0; k < i; k++)
            ok &= picks[k] != picks[i];
    }
    for (int64_t i = 0; !ok && i < n; i++)
        picks[i] = (int32_t)i;
    return ok;
}

static void pick_experts(const struct route_job *j, int64_t t)
{
    const struct dev_route *a = j->a;
    const struct kern *k = j->d->k;
    const int64_t n = a->router->n_out;
    float *p = j->d->scores + t * n, *choice = j->d->choices + t * n,
          *w = j->weights + t * a->n_used;
    int32_t *picks = j->picks + t * a->n_used;
    bool known = true;
    if (j->products)
        memcpy(p, j->products + t * n, (size_t)n * sizeof(*p));
    score(k, &a->scores, p, n);
    memcpy(choice, p, (size_t)n * sizeof(*p));
    if (j->table)
        known = look_up(j, t, picks);
    else
        pick(k, &a->scores, choice, n, picks, w, a->n_used);
    weigh(j, p, picks, w, choice);
    if (!known)
        w[0] = NAN;
    if (j->shared_gate) {
        float g;
        k->mulf[DT_F32](&g, 0, j->shared_gate, 0, 1, j->h + t * a->n_embd, 0, 1, a->n_embd);
        k->sigmoid(j->shared_weight + t, &g, 1);
    }
}

static void norm_rows(const struct route_job *j, int64_t t0, int64_t t1)
{
    const struct dev_route *a = j->a;
    size_t blob = kern_act_bytes(a->n_embd);
    for (int64_t t = t0; t < t1; t++) {
        float *h = j->h + t * a->n_embd;
        if (j->norm_bias)
            cpu_layer_norm(h, j->x + t * a->n_embd, j->norm, j->norm_bias, a->n_embd, a->eps);
        else
            j->d->k->rms_norm(h, j->x + t * a->n_embd, j->norm, a->n_embd, a->eps);
        if (!j->d->exact)
            j->d->k->quantize(j->input + (size_t)t * blob, h, a->n_embd);
        if (j->router_norm)
            j->d->k->rms_norm(j->d->norm + t * a->n_embd, j->x + t * a->n_embd, j->router_norm,
                              a->n_embd, a->eps);
    }
}

static void norm_tokens(void *arg, int i, int n)
{
    const struct route_job *j = arg;
    int64_t t0, t1;
    pool_split(j->a->n_tok, 1, i, n, &t0, &t1);
    norm_rows(j, t0, t1);
}

static void score_rows(void *arg, int i, int n)
{
    const struct route_job *j = arg;
    const struct dev_route *a = j->a;
    int64_t u0, u1, r0, r1;
    (void)n;
    while (pool_take(j->d->pool, i, cpu_units(a->router), &u0, &u1)) {
        cpu_unit_rows(a->router, u0, u1, &(int64_t){0}, &r0, &r1);
        cpu_mul(j->d, a->router, r0, r1, j->scored, a->n_embd, j->input, a->n_tok,
                j->d->scores + r0, a->router->n_out);
    }
}

static void pick_tokens(void *arg, int i, int n)
{
    const struct route_job *j = arg;
    int64_t t0, t1;
    pool_split(j->a->n_tok, 1, i, n, &t0, &t1);
    for (int64_t t = t0; t < t1; t++)
        pick_experts(j, t);
}

void cpu_route(struct device *dev, const struct dev_route *a)
{
    struct cpu *d = cpu_of(dev);
    struct route_job j = {.d = d, .a = a, .x = cpu_at(a->x), .norm = cpu_at(a->norm),
                          .norm_bias = cpu_at(a->norm_bias),
                          .router_norm = cpu_at(a->router_norm),
                          .shared_gate = cpu_at(a->shared_gate),
                          .products = cpu_at(a->products), .h = cpu_at(a->h),
                          .weights = cpu_at(a->weights), .shared_weight = cpu_at(a->shared_weight),
                          .input = cpu_at(a->input), .picks = cpu_at(a->picks),
                          .table = cpu_at(a->table)};
    if (d->measuring) {
        cpu_note(&d->sizes.max_tokens, a->n_tok);
        cpu_note(&d->sizes.max_in, a->n_embd);
        cpu_note(&d->sizes.n_experts, a->router->n_out);
        return;
    }
    j.scored = j.router_norm ? d->norm : j.h;
    if (a->n_tok == 1) {
        norm_rows(&j, 0, 1);
        if (!j.products)
            pool_run(d->pool, score_rows, &j);
        pick_experts(&j, 0);
        return;
    }
    pool_run(d->pool, norm_tokens, &j);
    if (!j.products)
        pool_run(d->pool, score_rows, &j);
    pool_run(d->pool, pick_tokens, &j);
}

void cpu_prepare(struct device *dev, const struct dev_prepare *a)
{
    struct cpu *d = cpu_of(dev);
    size_t blob = kern_act_bytes(a->n_embd);
    const float *h = cpu_at(a->h);
    uint8_t *input = cpu_at(a->input);
    for (int64_t t = 0; !d->measuring && !d->exact && t < a->n_tok; t++)
        d->k->quantize(input + (size_t)t * blob, h + t * a->n_embd, a->n_embd);
}

/* ---- guessing ------------------------------------------------------------------ */

enum { BLOCK = 32, BLOCK_BYTES = 34 }; /* Q8_0: F16 scale, 32 signed bytes */

size_t cpu_guess_bytes(const struct device *d, int64_t n_experts, int64_t n_embd)
{
    (void)d;
    return n_embd % BLOCK ? 0 : (size_t)n_experts * dtype_row_bytes(DT_Q8_0, n_embd);
}

static void encode_block(const struct cpu *d, uint8_t *out, const float *x)
{
    float most = 0.0f;
    for (int i = 0; i < BLOCK; i++)
        most = fmaxf(most, fabsf(x[i]));
    float scale = most / 127.0f;
    d->k->f32_to_f16((uint16_t *)(void *)out, &scale, 1);
    for (int i = 0; i < BLOCK; i++) {
        float v = most > 0.0f ? x[i] / scale : 0.0f;
        out[2 + i] = (uint8_t)(int8_t)(fabsf(v) <= 127.5f ? lrintf(v) : 0); /* NaN: 0 */
    }
}

void cpu_guess_copy(struct device *dev, const struct dev_guess_copy *a)
{
    struct cpu *d = cpu_of(dev);
    const struct dev_mat *router = a->router;
    size_t row = dtype_row_bytes(router->type, router->n_in);
    const uint8_t *rows = cpu_at(router->data);
    const float *norm = cpu_at(a->norm);
    uint8_t *out = cpu_at(a->copy);
    for (int64_t r = 0; !d->measuring && r < router->n_out; r++) {
        kern_dequant_row(router->type, d->norm, rows + (size_t)r * row, router->n_in);
        for (int64_t i = 0; norm && i < router->n_in; i++)
            d->norm[i] *= norm[i];
        for (int64_t i = 0; i < router->n_in; i += BLOCK, out += BLOCK_BYTES)
            encode_block(d, out, d->norm + i);
    }
}

struct guess_job {
    const struct cpu *d;
    const struct dev_guess *a;
    const float *x;
};

static void guess_rows(void *arg, int i, int n)
{
    const struct guess_job *j = arg;
    const struct dev_mat *copy = j->a->copy;
    int64_t u0, u1, r0, r1;
    (void)n;
    while (pool_take(j->d->pool, i, cpu_units(copy), &u0, &u1)) {
        cpu_unit_rows(copy, u0, u1, &(int64_t){0}, &r0, &r1);
        cpu_mul(j->d, copy, r0, r1, j->x, copy->n_in, j->d->guess_act, j->a->n_tok,
                j->d->guess_scores + r0, copy->n_out);
    }
}

/* Without bias and correction the products have the scores' order. */
static bool by_scores(const struct dev_guess *a)
{
    return a->copy->bias.mem || a->scores.correction.mem;
}

/* The products are those of x, not of what the norm makes of it, and the bias was
 * added to them. */
static void guess_scores(const struct guess_job *j, float *p, int64_t t)
{
    const struct kern *k = j->d->k;
    const int64_t n_in = j->a->copy->n_in, n = j->a->copy->n_out;
    const float *x = j->x + t * n_in, *correction = cpu_at(j->a->scores.correction);
    const float *bias = cpu_at(j->a->copy->bias);
    float squares;
    k->mulf[DT_F32](&squares, 0, x, 0, 1, x, 0, 1, n_in);
    const float by = 1.0f / sqrtf(squares / (float)n_in + j->a->eps);
    for (int64_t i = 0; i < n; i++)
        p[i] = bias ? (p[i] - bias[i]) * by + bias[i] : p[i] * by;
    score(k, &j->a->scores, p, n);
    if (correction)
        k->add(p, correction, n);
}

void cpu_guess(struct device *dev, const struct dev_guess *a)
{
    struct cpu *d = cpu_of(dev);
    struct guess_job j = {.d = d, .a = a, .x = cpu_at(a->x)};
    int32_t *ids = cpu_at(a->ids);
    float vals[DEV_MAX_USED];
    if (d->measuring) {
        cpu_note(&d->sizes.guess_rows, a->n_tok);
        cpu_note(&d->sizes.n_embd, a->copy->n_in);
        cpu_note(&d->sizes.max_in, a->copy->n_in);
        cpu_note(&d->sizes.n_experts, a->copy->n_out);
        return;
    }
    for (int64_t t = 0; cpu_uses_act(d, a->copy) && t < a->n_tok; t++)
        d->k->quantize(d->guess_act + (size_t)t * kern_act_bytes(a->copy->n_in),
                       j.x + t * a->copy->n_in, a->copy->n_in);
    pool_run(d->pool, guess_rows, &j);
    for (int64_t t = 0; t < a->n_tok; t++) {
        float *p = d->guess_scores + t * a->copy->n_out;
        if (by_scores(a))
            guess_scores(&j, p, t);
        top_k(p, a->copy->n_out, ids + t * a->n, vals, a->n);
    }
}
