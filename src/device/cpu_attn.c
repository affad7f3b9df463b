/*
 * Attention on the CPU. A unit of work is a few tokens and the query heads that
 * share one kv head (or a part of them when there are more threads than kv
 * heads), so each key and value row is loaded once for all of them.
 */
#include "device/cpu_internal.h"

#include <math.h>
#include <string.h>

enum {
    TOKENS = 4,    /* of a unit: converting keys and values is a fifth of the work for one */
    HEADS = 16,    /* most query heads of a unit: scratch for their scores is kept for each */
    MAX_ROT = 1024 /* rotated elements of a head */
};

struct attn_job {
    struct cpu *d;
    const struct dev_attention *a;
    const float *q_norm, *k_norm, *v, *sinks, *gate;
    float *q, *k, *out;
    const int32_t *seen;
    int64_t parts; /* a kv head's query heads are cut into this many units */
    int64_t units; /* of all spans */
};

static int64_t query_stride(const struct dev_attention *a)
{
    return a->gated ? 2 * a->key_dim : a->key_dim;
}

/* Elements from one position's value to the next in its cache. */
static int64_t value_stride(const struct dev_attention *a)
{
    return a->v.mem ? a->value_dim : a->key_dim;
}

static size_t elem_bytes(const struct dev_attention *a)
{
    return a->kv_f16 ? sizeof(uint16_t) : sizeof(float);
}

/* Where the row of a position of a kv head is, rows `stride` elements apart. */
static void *row_at(const struct dev_attention *a, const struct dev_kv_span *s,
                    struct dev_ptr cache, int64_t stride, int64_t kv, int64_t pos)
{
    return (uint8_t *)cpu_at(cache) +
           (size_t)((kv * s->rows + pos - s->base) * stride) * elem_bytes(a);
}

/* `row`: (n_kv, n) of position pos. */
static void store_row(const struct attn_job *j, const struct dev_kv_span *s, struct dev_ptr cache,
                      const float *row, int64_t n, int64_t pos)
{
    const struct dev_attention *a = j->a;
    for (int64_t h = 0; h < a->n_kv; h++, row += n) {
        void *to = row_at(a, s, cache, n, h, pos);
        if (a->kv_f16)
            j->d->k->f32_to_f16(to, row, n);
        else
            memcpy(to, row, (size_t)n * sizeof(float));
    }
}

/* ---- norm and rotation ----------------------------------------------------- */

/* Pairs that stand together are rotated as halves and put back. */
static void rotate_pairs(const struct kern *k, float *x, const float *cs, int64_t n_rot)
{
    float halves[MAX_ROT];
    int64_t half = n_rot / 2;
    for (int64_t i = 0; i < half; i++) {
        halves[i] = x[2 * i];
        halves[half + i] = x[2 * i + 1];
    }
    k->rope_neox(halves, cs, n_rot);
    for (int64_t i = 0; i < half; i++) {
        x[2 * i] = halves[i];
        x[2 * i + 1] = halves[half + i];
    }
}

void cpu_angles(const struct cpu *d, const struct dev_rope *r, float *cs, int64_t pos)
{
    const float *freq = cpu_at(r->freq), *factors = cpu_at(r->factors);
    const int64_t half = r->n / 2;
    float divided[MAX_ROT / 2];
    for (int64_t i = 0; factors && i < half; i++)
        divided[i] = freq[i] / factors[i];
    d->k->rope_angles(cs, factors ? divided : freq, half, pos);
    if (r->scale != 1.0f)
        d->k->scale(cs, r->scale, r->n);
}

void cpu_rotate(const struct cpu *d, const struct dev_rope *r, float *x, const float *cs)
{
    if (r->n && r->pairs == DEV_ROTATE_PAIRS)
        rotate_pairs(d->k, x + r->at, cs, r->n);
    else if (r->n)
        d->k->rope_neox(x + r->at, cs, r->n);
}

/* The heads of a token's queries or keys, `stride` floats apart. */
static void prepare_heads(const struct attn_job *j, float *x, int64_t n_heads, int64_t stride,
                          const float *norm, const float *cs)
{
    const struct dev_attention *a = j->a;
    const struct kern *k = j->d->k;
    const bool each = (norm && !a->norm_all) || a->norm_unit;
    if (norm && a->norm_all)
        k->rms_norm(x, x, norm, n_heads * a->key_dim, a->eps);
    for (int64_t h = 0; h < n_heads; h++, x += stride) {
        if (each && !a->norm_late)
            k->rms_norm(x, x, norm, a->key_dim, a->eps);
        cpu_rotate(j->d, &a->rope, x, cs);
        if (each && a->norm_late)
            k->rms_norm(x, x, norm, a->key_dim, a->eps);
    }
}

/* The factor that queries far into a text get. */
static void heat_up(const struct attn_job *j, float *q, int64_t pos)
{
    const struct dev_attention *a = j->a;
    const double steps = floor((double)(pos + a->heat_first) / (double)a->heat_length);
    j->d->k->scale(q, (float)(1.0 + (double)a->heat * log(1.0 + steps)), a->n_head * a->key_dim);
}

/* Norm, rotation and storing of q, k and v of token t of a span. */
static void prepare_token(const struct attn_job *j, const struct dev_kv_span *s, int64_t t)
{
    const struct dev_attention *a = j->a;
    const int64_t row = s->first + t;
    float *cs = j->d->rope + row * a->rope.n, *q = j->q + row * a->n_head * query_stride(a);
    float *k = j->k ? j->k + row * a->n_kv * a->key_dim : NULL;
    if (a->rope.n)
        cpu_angles(j->d, &a->rope, cs, s->pos + t);
    prepare_heads(j, q, a->n_head, query_stride(a), j->q_norm, cs);
    if (a->heat != 0.0f)
        heat_up(j, q, s->pos + t);
    if (!k)
        return;
    prepare_heads(j, k, a->n_kv, a->key_dim, j->k_norm, cs);
    store_row(j, s, s->k, k, a->key_dim, s->pos + t);
    if (j->v)
        store_row(j, s, s->v, j->v + row * a->n_kv * a->value_dim, a->value_dim, s->pos + t);
}

static void prepare_tokens(void *arg, int i, int n)
{
    const struct attn_job *j = arg;
    int64_t t0, t1;
    for (int k = 0; k < j->a->n_spans; k++) {
        pool_split(j->a->spans[k].n_tok, 1, i, n, &t0, &t1);
        for (int64_t t = t0; t < t1; t++)
            prepare_token(j, &j->a->spans[k], t);
    }
}

/* ---- attending ---------------------------------------------------------------- */

/* Scratch of thread i for scores, of one token at least: of a long context, or
 * where it is larger the thread's own memory, which attention leaves free. */
static float *scores_of(const struct cpu *d, int i, int64_t *n_floats)
{
    int64_t own = (int64_t)(d->thread_stride / sizeof(float));
    *n_floats = d->sizes.q_per_kv * (int64_t)d->attn_stride;
    if (own <= *n_floats)
        return d->attn_scores + (int64_t)i * *n_floats;
    *n_floats = own;
    return cpu_thread_mem(d, i);
}

/* The first position that one at `pos` sees. */
static int64_t sees_from(const struct dev_attention *a, int64_t pos)
{
    int64_t from = 0;
    if (a->window)
        from = MAX(from, pos - a->window + 1);
    if (a->chunk)
        from = MAX(from, pos / a->chunk * a->chunk);
    return from;
}

/* The keys that token t sees, one behind another, for a token that sees some of many. */
static void gather(const struct attn_job *j, int i, const struct dev_kv_span *s, int64_t t,
                   struct kern_attention *k)
{
    const struct dev_attention *a = j->a;
    const int32_t *seen = j->seen + (s->first + t) * a->n_seen;
    const size_t row = (size_t)a->key_dim * elem_bytes(a);
    uint8_t *to = j->d->gathered + (size_t)i * j->d->gather_bytes;
    for (int64_t n = 0; n < a->n_seen; n++)
        memcpy(to + (size_t)n * row, row_at(a, s, s->k, a->key_dim, 0, seen[n]), row);
    k->k = k->v = to;
    k->from = NULL;
    k->n_pos = a->n_seen;
    k->score_stride = (ptrdiff_t)align_up((size_t)a->n_seen, 16);
    k->n_tok = 1;
}

/* The same for a token that sees n entries, or those picked of them, and its window:
 * they come first. Behind the keys lie the scores, as there may be more of them than
 * positions. */
static void gather_entries(const struct attn_job *j, int i, const struct dev_kv_span *s, int64_t t,
                           int64_t n, struct kern_attention *k)
{
    const struct dev_attention *a = j->a;
    const int32_t *seen = j->seen + (s->first + t) * a->n_seen;
    const int64_t first = sees_from(a, s->pos + t), near = s->pos + t + 1 - first;
    const size_t row = (size_t)a->key_dim * elem_bytes(a);
    const uint8_t *entries = cpu_at(s->v);
    const bool some = j->seen && n > a->n_seen;
    const int64_t far = some ? a->n_seen : n;
    uint8_t *to = j->d->gathered + (size_t)i * j->d->gather_bytes;
    for (int64_t e = 0; some && e < far; e++)
        memcpy(to + (size_t)e * row, entries + (size_t)seen[e] * row, row);
    if (!some)
        memcpy(to, entries, (size_t)far * row);
    memcpy(to + (size_t)far * row, row_at(a, s, s->k, a->key_dim, 0, first), (size_t)near * row);
    k->k = k->v = to;
    k->from = NULL;
    k->n_pos = far + near;
    k->score_stride = (ptrdiff_t)align_up((size_t)k->n_pos, 16);
    k->scores = (float *)(void *)(to + align_up((size_t)k->n_pos * row, 64));
    k->n_tok = 1;
}

/* What gathering takes of a thread's memory: at most a window and the entries that are
 * picked, or all. */
static void note_gather(struct cpu *d, const struct dev_attention *a)
{
    enum { ROUNDING = 16 }; /* of scores, and of keys in front of them */
    const int64_t row = a->key_dim * (int64_t)elem_bytes(a);
    const int64_t each = row + HEADS * (int64_t)sizeof(float); /* key and scores */
    if (a->ratio)
        cpu_note(&d->sizes.gather, (a->window + a->n_seen + ROUNDING) * each + 64);
    else
        cpu_note(&d->sizes.gather, a->n_seen * row);
    if (a->ratio && !a->n_seen)
        cpu_note(&d->sizes.gather_each, (each + a->ratio - 1) / a->ratio);
}

/* Heads [h0, h1) of a span's tokens [t, end), as many tokens at once as scratch allows. */
static void attend_heads(const struct attn_job *j, int i, const struct dev_kv_span *s, int64_t t,
                         int64_t end, int64_t h0, int64_t h1)
{
    const struct dev_attention *a = j->a;
    const int64_t qs = query_stride(a), vs = value_stride(a), kv = h0 * a->n_kv / a->n_head;
    int64_t room, from[TOKENS];
    struct kern_attention k = {
        .k_stride = a->key_dim,
        .v_stride = vs,
        .f16 = a->kv_f16,
        .q_token = a->n_head * qs,
        .q_stride = qs,
        .out_token = a->n_head * a->value_dim,
        .out_stride = a->value_dim,
        .n_q = h1 - h0,
        .hd = a->key_dim,
        .vd = a->value_dim,
        .scale = a->scale,
        .cap = a->cap,
        .sinks = j->sinks ? j->sinks + h0 : NULL,
        .scores = scores_of(j->d, i, &room),
    };
    int64_t see_all = end; /* tokens before it see what lies together */
    if (a->ratio)
        see_all = MIN(end, MAX(a->ratio - 1 - s->pos, t));
    else if (j->seen)
        see_all = MIN(end, MAX(a->n_seen - s->pos, t));
    for (; t < end; t += k.n_tok) {
        k.q = j->q + ((s->first + t) * a->n_head + h0) * qs;
        k.out = j->out + ((s->first + t) * a->n_head + h0) * a->value_dim;
        if (t >= see_all) {
            if (a->ratio)
                gather_entries(j, i, s, t, dev_entries(a->ratio, s->pos + t), &k);
            else
                gather(j, i, s, t, &k);
            j->d->k->attention(&k);
            continue;
        }
        const int64_t first = sees_from(a, s->pos + t);
        for (int64_t n = 0; n < see_all - t; n++)
            from[n] = sees_from(a, s->pos + t + n) - first;
        k.from = from;
        k.k = row_at(a, s, s->k, a->key_dim, kv, first);
        k.v = row_at(a, s, a->v.mem ? s->v : s->k, vs, kv, first);
        k.n_pos = s->pos + t + 1 - first;
        k.score_stride = (ptrdiff_t)align_up((size_t)(s->pos + see_all - first), 16);
        k.n_tok = MIN(room / (k.n_q * k.score_stride), see_all - t);
        j->d->k->attention(&k);
    }
}

/* A head's output times sigmoid of its gate; `q` is its query, behind which a gate may lie. */
static void apply_gate(const struct attn_job *j, float *out, const float *q, int64_t t, int64_t h)
{
    const struct dev_attention *a = j->a;
    const struct kern *k = j->d->k;
    const float *gate = j->gate ? j->gate + (t * a->n_head + h) * a->gate_dim : NULL;
    float one;
    if (a->gated)
        k->sigmoid_mul(out, q + a->value_dim, out, a->value_dim);
    if (gate && a->gate_dim > 1)
        k->sigmoid_mul(out, gate, out, a->value_dim);
    if (gate && a->gate_dim == 1) {
        k->sigmoid(&one, gate, 1);
        k->scale(out, one, a->value_dim);
    }
}

/* Rotates what a head gave by minus the angles of its token. */
static void turn_back(const struct attn_job *j, float *out, int64_t row)
{
    const struct dev_rope *r = &j->a->rope;
    const float *cs = j->d->rope + row * r->n;
    float back[MAX_ROT];
    for (int64_t i = 0; i < r->n / 2; i++) {
        back[i] = cs[i];
        back[r->n / 2 + i] = -cs[r->n / 2 + i];
    }
    cpu_rotate(j->d, r, out, back);
}

static void attend_unit(const struct attn_job *j, int i, const struct dev_kv_span *s, int64_t group,
                        int64_t kv, int64_t part)
{
    const struct dev_attention *a = j->a;
    const int64_t hd = a->value_dim, qs = query_stride(a), heads = a->n_head / a->n_kv;
    const int64_t t0 = group * TOKENS, t1 = MIN(t0 + TOKENS, s->n_tok);
    const int64_t h0 = kv * heads + heads * part / j->parts,
                  h1 = kv * heads + heads * (part + 1) / j->parts;
    attend_heads(j, i, s, t0, t1, h0, h1);
    for (int64_t t = s->first + t0; (a->gated || j->gate) && t < s->first + t1; t++)
        for (int64_t h = h0; h < h1; h++)
            apply_gate(j, j->out + (t * a->n_head + h) * hd, j->q + (t * a->n_head + h) * qs, t, h);
    for (int64_t t = s->first + t0; a->turn_back && t < s->first + t1; t++)
        for (int64_t h = h0; h < h1; h++)
            turn_back(j, j->out + (t * a->n_head + h) * hd, t);
}

static int64_t token_groups(const struct dev_kv_span *s)
{
    return (s->n_tok + TOKENS - 1) / TOKENS;
}

/* The span that unit u of all belongs to; *u becomes its own. */
static const struct dev_kv_span *span_of(const struct dev_attention *a, int64_t per_group,
                                         int64_t *u)
{
    const struct dev_kv_span *s = a->spans;
    while (*u >= token_groups(s) * per_group)
        *u -= token_groups(s++) * per_group;
    return s;
}

static void attend(void *arg, int i, int n)
{
    const struct attn_job *j = arg;
    int64_t per_group = j->a->n_kv * j->parts, units = j->units * per_group, u0, u1;
    (void)n;
    while (pool_take(j->d->pool, i, units, &u0, &u1))
        for (int64_t at = units - u1; at < units - u0;
             at++) { /* later tokens, which cost more, first */
            int64_t u = at;
            const struct dev_kv_span *s = span_of(j->a, per_group, &u);
            int64_t rest = u % per_group;
            attend_unit(j, i, s, u / per_group, rest / j->parts, rest % j->parts);
        }
}

void cpu_attention(struct device *dev, const struct dev_attention *a)
{
    struct cpu *d = cpu_of(dev);
    struct attn_job j = {.d = d,
                         .a = a,
                         .q_norm = cpu_at(a->q_norm),
                         .k_norm = cpu_at(a->k_norm),
                         .v = cpu_at(a->v),
                         .sinks = cpu_at(a->sinks),
                         .gate = cpu_at(a->gate),
                         .q = cpu_at(a->q),
                         .k = cpu_at(a->k),
                         .seen = cpu_at(a->seen),
                         .out = cpu_at(a->out)};
    const int64_t heads = a->n_head / a->n_kv;
    int64_t n_tok = 0;
    if (d->measuring) {
        cpu_note(&d->sizes.q_per_kv, MIN(heads, (int64_t)HEADS));
        cpu_note(&d->sizes.n_rot, a->rope.n);
        note_gather(d, a);
        return;
    }
    for (int k = 0; k < a->n_spans; k++) {
        j.units += token_groups(&a->spans[k]);
        n_tok += a->spans[k].n_tok;
    }
    int64_t units = j.units * a->n_kv;
    j.parts = (heads + HEADS - 1) / HEADS;
    if (units < d->n_threads)
        j.parts = MAX(j.parts, MIN(heads, (d->n_threads + units - 1) / MAX(units, (int64_t)1)));
    if (n_tok == 1)
        prepare_token(&j, &a->spans[0], 0);
    else
        pool_run(d->pool, prepare_tokens, &j);
    pool_run(d->pool, attend, &j);
}
