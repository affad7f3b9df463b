/*
 * Logits -> id. Order of the steps: repetition penalty, top-k, top-p, min-p,
 * temperature, draw. Ties go to the lower id; padding tokens are never
 * chosen. The generator is splitmix64, so a seed means the same everywhere.
 */
#include "engine/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct candidate {
    float logit;
    int32_t id;
};

struct sampler {
    sluice_sampling p;
    uint64_t state;
    int n_vocab;
    struct candidate *c;
};

static bool in_range(const sluice_sampling *p)
{
    return p->temperature >= 0.0f && p->temperature <= 100.0f && p->top_k >= 0 &&
           p->top_p >= 0.0f && p->top_p <= 1.0f && p->min_p >= 0.0f && p->min_p <= 1.0f &&
           p->repeat_penalty > 0.0f && p->repeat_penalty <= 100.0f && p->repeat_window >= 0;
}

int sampler_new(const sluice_sampling *p, int n_vocab, struct sampler **out, struct err *e)
{
    if (!in_range(p))
        return err_set(
            e, E_ARG,
            "sampling: temperature %g (0..100), top-k %d (>= 0), top-p %g (0..1), min-p %g (0..1), "
            "repeat penalty %g (above 0, to 100), repeat window %d (>= 0)",
            (double)p->temperature, p->top_k, (double)p->top_p, (double)p->min_p,
            (double)p->repeat_penalty, p->repeat_window);
    struct sampler *z = calloc(1, sizeof(*z));
    if (z)
        z->c = calloc((size_t)n_vocab, sizeof(*z->c));
    if (!z || !z->c) {
        free(z);
        return err_set(e, E_NOMEM, "no memory for sampling");
    }
    z->p = *p;
    z->state = p->seed;
    z->n_vocab = n_vocab;
    *out = z;
    return OK;
}

void sampler_free(struct sampler *z)
{
    if (z)
        free(z->c);
    free(z);
}

/* Uniform in [0, 1). splitmix64: Steele, Lea, Flood 2014. */
static double draw(struct sampler *z)
{
    uint64_t x = z->state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    return (double)(x >> 11) * 0x1p-53;
}

static bool usable(const struct text *t, int32_t id)
{
    return id < text_n_tokens(t) && !text_is_unused(t, id);
}

int32_t sample_greedy(const struct text *t, const float *logits, int n_vocab)
{
    int32_t best = -1;
    for (int32_t i = 0; i < n_vocab; i++)
        if (!isnan(logits[i]) && (best < 0 || logits[i] > logits[best]) && usable(t, i))
            best = i;
    return best < 0 ? 0 : best;
}

/* ---- the best candidates ----
 * A vocabulary has 250,000 entries, of which a few are looked at: they are taken
 * from a heap one by one. The heap is c[0 .. left); the k-th best, once taken, is
 * c[n - 1 - k]. */

static bool better(const struct candidate *a, const struct candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

/* Lets c[i] sink to where it belongs in the heap of n. */
static void sink(struct candidate *c, int n, int i)
{
    struct candidate x = c[i];
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && better(&c[child + 1], &c[child]))
            child++;
        if (!better(&c[child], &x))
            break;
        c[i] = c[child];
    }
    c[i] = x;
}

static void take_best(struct candidate *c, int *left)
{
    struct candidate best = c[0];
    int n = --*left;
    c[0] = c[n];
    sink(c, n, 0);
    c[n] = best;
}

static int fill(struct sampler *z, const struct text *t, const float *logits)
{
    int n = 0;
    for (int32_t i = 0; i < z->n_vocab; i++)
        if (!isnan(logits[i]) && usable(t, i))
            z->c[n++] = (struct candidate){logits[i], i};
    return n;
}

/* Each token of the window is penalised once: positive logits are divided,
 * negative ones multiplied (Keskar et al. 2019). Candidates are still by id. */
static void penalise(struct sampler *z, int n, const int32_t *held, int64_t n_held)
{
    int64_t from = MAX((int64_t)0, n_held - z->p.repeat_window);
    for (int64_t i = from; i < n_held; i++) {
        bool seen = false;
        for (int64_t j = from; j < i && !seen; j++)
            seen = held[j] == held[i];
        if (seen)
            continue;
        int lo = 0, hi = n;
        while (lo < hi) {
            int mid = (lo + hi) / 2;
            if (z->c[mid].id < held[i])
                lo = mid + 1;
            else
                hi = mid;
        }
        if (lo < n && z->c[lo].id == held[i])
            z->c[lo].logit = z->c[lo].logit > 0.0f ? z->c[lo].logit / z->p.repeat_penalty
                                                   : z->c[lo].logit * z->p.repeat_penalty;
    }
}

/* Takes those that top-k, top-p and min-p leave and says how many they are. */
static int cut(struct sampler *z, int n)
{
    struct candidate *c = z->c;
    int most = z->p.top_k > 0 ? MIN(n, z->p.top_k) : n, left = n, kept = 0;
    double sum = 0.0, part = 0.0;
    for (int i = n / 2 - 1; i >= 0; i--)
        sink(c, n, i);
    double top = (double)c[0].logit, lowest = top + log((double)z->p.min_p); /* of 0: all */
    while (most < n && n - left < most)
        take_best(c, &left);
    for (int i = most < n ? n - most : 0; z->p.top_p < 1.0f && i < n; i++)
        sum += exp((double)c[i].logit - top);
    for (; kept < most; kept++) {
        if (n - left == kept)
            take_best(c, &left);
        double logit = (double)c[n - 1 - kept].logit;
        if (kept > 0 && (logit < lowest || (z->p.top_p < 1.0f && part >= (double)z->p.top_p * sum)))
            break;
        part += exp(logit - top);
    }
    return kept;
}

static int best_of(const struct candidate *c, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (better(&c[i], &c[best]))
            best = i;
    return best;
}

/* One of c[0 .. n), by weight; `top` is the highest logit. Overwrites logits. */
static int32_t draw_from(struct sampler *z, struct candidate *c, int n, double top)
{
    double sum = 0.0, part = 0.0;
    for (int i = 0; i < n; i++) {
        c[i].logit = (float)exp(((double)c[i].logit - top) / (double)z->p.temperature);
        sum += (double)c[i].logit;
    }
    double goal = draw(z) * sum;
    for (int i = 0; i < n; i++) {
        part += (double)c[i].logit;
        if (goal < part)
            return c[i].id;
    }
    return c[n - 1].id;
}

int32_t sampler_next(struct sampler *z, const struct text *t, const float *logits,
                     const int32_t *held, int64_t n_held)
{
    const sluice_sampling *p = &z->p;
    bool penalty = p->repeat_penalty != 1.0f && p->repeat_window > 0;
    if (p->temperature == 0.0f && !penalty)
        return sample_greedy(t, logits, z->n_vocab);
    int n = fill(z, t, logits);
    if (n == 0)
        return 0;
    if (penalty)
        penalise(z, n, held, n_held);
    int best = best_of(z->c, n);
    if (p->temperature == 0.0f)
        return z->c[best].id;
    double top = (double)z->c[best].logit;
    int kept = p->top_k > 0 || p->top_p < 1.0f || p->min_p > 0.0f ? cut(z, n) : n;
    return draw_from(z, z->c + n - kept, kept, top);
}

/* ---- for hosts ------------------------------------------------------------ */

struct sluice_sampler {
    struct sampler *z;
    struct sluice *s;
    int64_t bytes; /* of the budget */
};

int sluice_sampler_new(sluice *s, const sluice_sampling *p, sluice_sampler **out, sluice_error *err)
{
    struct err *e = err_of(err);
    sluice_sampling known;
    TRY(sized_options(SIZED_sluice_sampling, p, &known, e));
    struct sluice_sampler *x = calloc(1, sizeof(*x));
    if (!x)
        return err_set(e, E_NOMEM, "no memory for a sampler");
    x->s = s;
    x->bytes = (int64_t)sizeof(struct candidate) * s->shape.n_vocab;
    int rc = budget_take(s, x->bytes, e);
    if (rc < 0)
        x->bytes = 0;
    else
        rc = sampler_new(&known, s->shape.n_vocab, &x->z, e);
    if (rc < 0) {
        sluice_sampler_free(x);
        return rc;
    }
    *out = x;
    return OK;
}

void sluice_sampler_free(sluice_sampler *x)
{
    if (!x)
        return;
    sampler_free(x->z);
    budget_give(x->s, x->bytes);
    free(x);
}

int sluice_sampler_next(sluice_sampler *x, const sluice_session *session, int32_t *id,
                        sluice_error *err)
{
    struct err *e = err_of(err);
    if (session->s != x->s)
        return err_set(e, E_ARG, "the sampler was made for another model");
    if (!session->has_logits)
        return err_set(e, E_STATE, "nothing to draw from: the session holds no computed prompt");
    *id = sampler_next(x->z, x->s->text, model_logits_row(session->logits, 0), session->ids,
                       session->n);
    return OK;
}
