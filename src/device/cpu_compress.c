/*
 * Entries that stand for positions long past, on the CPU. An entry is a unit of work: its
 * rows are those of the call, or of an earlier one and wait in the span's memory. What
 * waits is written when all entries are made.
 */
#include "device/cpu_internal.h"

#include <math.h>
#include <string.h>

enum { NEEDS = 4 }; /* floats of a thread for each element of an entry: see pool_rows */

struct compress_job {
    struct cpu *d;
    const struct dev_compress *a;
    const float *values, *norm;
    float *scores;
    int64_t width, places;
    int64_t n_entries; /* of all spans */
};

struct row { /* of a position: (width) each */
    const float *values, *scores;
};

static float *place_of(const struct compress_job *j, const struct dev_kv_span *s, int64_t pos)
{
    return (float *)cpu_at(s->k) + pos % j->places * 2 * j->width;
}

static struct row row_of(const struct compress_job *j, const struct dev_kv_span *s, int64_t pos)
{
    const int64_t at = (s->first + pos - s->pos) * j->width;
    if (pos >= s->pos)
        return (struct row){j->values + at, j->scores + at};
    const float *waits = place_of(j, s, pos);
    return (struct row){waits, waits + j->width};
}

/* ---- scores ------------------------------------------------------------------- */

static void add_ape(void *arg, int i, int n)
{
    const struct compress_job *j = arg;
    const struct dev_mat *ape = j->a->ape;
    const size_t row_bytes = dtype_row_bytes(ape->type, ape->n_in);
    float *row = cpu_thread_mem(j->d, i);
    int64_t t0, t1;
    for (int k = 0; k < j->a->n_spans; k++) {
        const struct dev_kv_span *s = &j->a->spans[k];
        pool_split(s->n_tok, 1, i, n, &t0, &t1);
        for (int64_t t = t0; t < t1; t++) {
            const int64_t at = (s->pos + t) % j->a->ratio;
            kern_dequant_row(ape->type, row, (const uint8_t *)cpu_at(ape->data) +
                                                 (size_t)at * row_bytes, j->width);
            j->d->k->add(j->scores + (s->first + t) * j->width, row, j->width);
        }
    }
}

/* ---- entries -------------------------------------------------------------------- */

/* Of the rows of an entry those from row_from on; with overlap the first `ratio` are of
 * the positions before it, first halves, and the others second halves. */
static struct row part_of(const struct compress_job *j, const struct dev_kv_span *s,
                          int64_t begin, int64_t i)
{
    const struct dev_compress *a = j->a;
    const int64_t before = a->overlap ? a->ratio : 0;
    struct row r = row_of(j, s, begin - before + i);
    if (a->overlap && i >= before) {
        r.values += a->dim;
        r.scores += a->dim;
    }
    return r;
}

/* out (dim): each element's softmax over rows [i, n) of its scores, times its values.
 * work: 3 * dim floats. */
static void pool_rows(const struct compress_job *j, const struct dev_kv_span *s, int64_t begin,
                      int64_t i, int64_t n, float *out, float *work)
{
    const int64_t dim = j->a->dim;
    float *most = work, *sum = work + dim, *e = work + 2 * dim;
    for (int64_t c = 0; c < dim; c++) {
        most[c] = -INFINITY;
        sum[c] = out[c] = 0.0f;
    }
    for (int64_t r = i; r < n; r++) {
        const float *scores = part_of(j, s, begin, r).scores;
        for (int64_t c = 0; c < dim; c++)
            most[c] = scores[c] > most[c] ? scores[c] : most[c];
    }
    for (int64_t r = i; r < n; r++) {
        const struct row x = part_of(j, s, begin, r);
        for (int64_t c = 0; c < dim; c++)
            e[c] = x.scores[c] - most[c];
        j->d->k->exp(e, e, dim);
        for (int64_t c = 0; c < dim; c++) {
            sum[c] += e[c];
            out[c] += e[c] * x.values[c];
        }
    }
    for (int64_t c = 0; c < dim; c++)
        out[c] /= sum[c];
}

static void make_entry(const struct compress_job *j, int i, const struct dev_kv_span *s,
                       int64_t number)
{
    const struct dev_compress *a = j->a;
    const int64_t begin = number * a->ratio, n = a->overlap ? 2 * a->ratio : a->ratio;
    float *entry = cpu_thread_mem(j->d, i), *work = entry + a->dim;
    pool_rows(j, s, begin, a->overlap && number == 0 ? a->ratio : 0, n, entry, work);
    j->d->k->rms_norm(entry, entry, j->norm, a->dim, a->eps);
    cpu_angles(j->d, &a->rope, work, begin);
    cpu_rotate(j->d, &a->rope, entry, work);
    uint8_t *to = cpu_at(s->v);
    if (a->kv_f16)
        j->d->k->f32_to_f16((uint16_t *)(void *)to + number * a->dim, entry, a->dim);
    else
        memcpy(to + (size_t)(number * a->dim) * sizeof(float), entry,
               (size_t)a->dim * sizeof(float));
}

/* Entries that the span's tokens complete. */
static int64_t completed(const struct dev_compress *a, const struct dev_kv_span *s)
{
    return (s->pos + s->n_tok) / a->ratio - s->pos / a->ratio;
}

static void make_entries(void *arg, int i, int n)
{
    const struct compress_job *j = arg;
    int64_t u0, u1;
    (void)n;
    while (pool_take(j->d->pool, i, j->n_entries, &u0, &u1))
        for (int64_t u = u0; u < u1; u++) {
            const struct dev_kv_span *s = j->a->spans;
            int64_t at = u;
            while (at >= completed(j->a, s))
                at -= completed(j->a, s++);
            make_entry(j, i, s, s->pos / j->a->ratio + at);
        }
}

/* ---- what waits ------------------------------------------------------------------- */

static void keep_rows(const struct compress_job *j, const struct dev_kv_span *s)
{
    const size_t bytes = (size_t)j->width * sizeof(float);
    for (int64_t pos = s->pos + MAX(s->n_tok - j->places, (int64_t)0); pos < s->pos + s->n_tok;
         pos++) {
        const struct row r = row_of(j, s, pos);
        float *to = place_of(j, s, pos);
        memcpy(to, r.values, bytes);
        memcpy(to + j->width, r.scores, bytes);
    }
}

void cpu_compress(struct device *dev, const struct dev_compress *a)
{
    struct cpu *d = cpu_of(dev);
    struct compress_job j = {.d = d, .a = a, .values = cpu_at(a->values), .norm = cpu_at(a->norm),
                             .scores = cpu_at(a->scores), .width = (a->overlap ? 2 : 1) * a->dim,
                             .places = (a->overlap ? 2 : 1) * a->ratio};
    int64_t n_tok = 0;
    if (d->measuring) {
        cpu_note(&d->sizes.max_in, MAX(NEEDS * a->dim, a->dim + a->rope.n));
        return;
    }
    for (int k = 0; k < a->n_spans; k++) {
        j.n_entries += completed(a, &a->spans[k]);
        n_tok += a->spans[k].n_tok;
    }
    if (n_tok == 1)
        add_ape(&j, 0, 1);
    else
        pool_run(d->pool, add_ape, &j);
    if (j.n_entries == 1)
        for (int k = 0; k < a->n_spans; k++)
            for (int64_t e = 0; e < completed(a, &a->spans[k]); e++)
                make_entry(&j, 0, &a->spans[k], a->spans[k].pos / a->ratio + e);
    else if (j.n_entries > 1)
        pool_run(d->pool, make_entries, &j);
    for (int k = 0; k < a->n_spans; k++)
        keep_rows(&j, &a->spans[k]);
}
