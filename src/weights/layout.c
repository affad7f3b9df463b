/*
 * What of the dense weights stays in memory.
 *
 *   everything fits    all sections stay
 *   nearly             the embedding table goes: the rows of a chunk's ids are
 *                      read, which costs a page a token
 *   less               the output matrix goes, from its last row backwards,
 *                      then layers, evenly spread
 *
 * The smallest is two buffers of the largest layer: one is used while the next
 * item (a layer, or rows of the output matrix) is read into the other.
 *
 * Places: the small tensors, the embedding table, layers that stay with their
 * owner's room behind each, rows of the output matrix that stay; then, read
 * again and again, embedding rows and the two buffers.
 */
#include "weights/weights_internal.h"

#include <stdlib.h>

/* ---- the list -------------------------------------------------------------- */

int dense_new(const struct weights *w, int n_layers, struct dense **out, struct err *e)
{
    struct dense *d = calloc(1, sizeof(*d));
    if (d) {
        d->w = w;
        d->n_layers = n_layers;
        d->sections = calloc((size_t)n_layers + 3, sizeof(*d->sections));
        d->buffers[0].item = d->buffers[1].item = -1;
    }
    if (!d || !d->sections) {
        dense_close(d);
        return err_set(e, E_NOMEM, "model: no memory for %d layers", n_layers);
    }
    *out = d;
    return OK;
}

void dense_set_copy_bytes(struct dense *d, size_t bytes)
{
    d->copy_bytes = align_up(bytes, IOQ_ALIGN);
}

int dense_add(struct dense *d, const struct tensor *t, int section, size_t *at, struct err *e)
{
    if (d->n_weights == d->cap_weights) {
        int64_t cap = d->cap_weights ? 2 * d->cap_weights : 256;
        struct dense_weight *list = realloc(d->weights, (size_t)cap * sizeof(*list));
        if (!list)
            return err_set(e, E_NOMEM, "model: no memory for its list of tensors");
        d->weights = list;
        d->cap_weights = cap;
    }
    d->weights[d->n_weights++] = (struct dense_weight){t, at, dense_section_index(d, section)};
    if (section == DENSE_EMBEDDING)
        d->embed = t;
    if (section == DENSE_OUTPUT) {
        d->output = t;
        d->output_at = at;
    }
    return OK;
}

static int by_place(const void *pa, const void *pb)
{
    const struct dense_weight *a = pa, *b = pb;
    if (a->section != b->section)
        return a->section < b->section ? -1 : 1;
    if (a->t->file != b->t->file)
        return a->t->file < b->t->file ? -1 : 1;
    return a->t->offset < b->t->offset ? -1 : a->t->offset > b->t->offset;
}

/* Joins neighbours (less than a page between them) so that they are read, and
 * lie in memory, together. Weights are sorted. */
static void section_runs(struct dense *d, int section, int64_t *weight)
{
    struct dense_section *s = &d->sections[section];
    struct dense_run *r = NULL;
    s->first_weight = *weight;
    s->first_run = d->n_runs;
    for (; *weight < d->n_weights && d->weights[*weight].section == section; ++*weight) {
        const struct tensor *t = d->weights[*weight].t;
        if (!r || r->file != t->file || t->offset - r->end >= IOQ_ALIGN) {
            r = &d->runs[d->n_runs++];
            *r = (struct dense_run){.file = t->file, .begin = t->offset, .end = t->offset};
        }
        r->end = t->offset + t->bytes;
    }
    s->n_weights = *weight - s->first_weight;
    s->n_runs = d->n_runs - s->first_run;
    for (r = d->runs + s->first_run; r < d->runs + d->n_runs; r++) {
        r->at = s->bytes;
        s->bytes += align_up((size_t)(r->end - align_down64(r->begin, IOQ_ALIGN)), IOQ_ALIGN);
    }
}

int dense_added(struct dense *d, struct err *e)
{
    int64_t weight = 0;
    if (!d->embed)
        d->embed = d->output; /* tied */
    qsort(d->weights, (size_t)d->n_weights, sizeof(*d->weights), by_place);
    d->runs = calloc((size_t)d->n_weights + 1, sizeof(*d->runs));
    if (!d->runs)
        return err_set(e, E_NOMEM, "model: no memory for its list of reads");
    for (int i = 0; i < d->n_layers + 3; i++)
        section_runs(d, i, &weight);
    return OK;
}

int64_t dense_memory_bytes(const struct dense *d)
{
    return (int64_t)((size_t)d->cap_weights * (sizeof(*d->weights) + sizeof(*d->runs)) +
                     (size_t)(d->n_layers + 3) * sizeof(*d->sections));
}

int dense_each(const struct dense *d, int section, dense_weight_fn *fn, void *user, struct err *e)
{
    const struct dense_section *s = dense_section(d, section);
    for (int64_t i = s->first_weight; i < s->first_weight + s->n_weights; i++)
        TRY(fn(user, d->weights[i].t, d->weights[i].at, e));
    return OK;
}

size_t dense_largest_weight(const struct dense *d)
{
    size_t most = 0;
    for (int64_t i = 0; i < d->n_weights; i++)
        if (d->weights[i].section < d->n_layers)
            most = MAX(most, (size_t)d->weights[i].t->bytes);
    return most;
}

/* ---- the layout -------------------------------------------------------------- */

static size_t layers_bytes(const struct dense *d)
{
    size_t sum = 0;
    for (int i = 0; i < d->n_layers; i++)
        sum += d->sections[i].bytes;
    return sum;
}

size_t dense_rows_bytes(const struct dense *d)
{
    return DENSE_ROWS * ioq_span_max(dtype_row_bytes(d->embed->type, d->embed->ne[0]));
}

bool dense_is_streamed(const struct dense *d, int layer, int n)
{
    int64_t all = d->n_layers;
    return (int64_t)(layer + 1) * n / all > (int64_t)layer * n / all;
}

static size_t streamed_bytes(const struct dense *d, int n)
{
    size_t sum = 0;
    for (int i = 0; i < d->n_layers; i++)
        if (dense_is_streamed(d, i, n))
            sum += d->sections[i].bytes;
    return sum;
}

/* What the layers take of memory when n of them are read again. */
static size_t staying_bytes(const struct dense *d, int n)
{
    return layers_bytes(d) - streamed_bytes(d, n) + (size_t)(d->n_layers - n) * d->copy_bytes;
}

/* A layer, or a few rows of the output matrix. */
static size_t buffer_bytes(const struct dense *d)
{
    size_t most = ioq_span_max(DENSE_GRAIN * dense_output_row_bytes(d));
    for (int i = 0; i < d->n_layers; i++)
        most = MAX(most, d->sections[i].bytes);
    return most;
}

/* How many rows of the output matrix `room` bytes hold, wherever in a page they begin. */
static int64_t output_rows_in(const struct dense *d, size_t room)
{
    if (room < 2 * IOQ_ALIGN)
        return 0;
    int64_t rows = (int64_t)((room - 2 * IOQ_ALIGN) / dense_output_row_bytes(d));
    return MIN(rows / DENSE_GRAIN * DENSE_GRAIN, d->output->ne[1]);
}

/* l->bytes without the rounding to pages. */
static void choose(const struct dense *d, size_t allowed, struct dense_layout *l)
{
    const size_t embed = dense_section(d, DENSE_EMBEDDING)->bytes;
    const size_t output = dense_section(d, DENSE_OUTPUT)->bytes;
    const size_t fixed = dense_section(d, DENSE_FIXED)->bytes;
    const size_t layers = staying_bytes(d, 0), rows = dense_rows_bytes(d);
    *l = (struct dense_layout){.embed_stays = true, .output_rows = d->output->ne[1],
                               .bytes = fixed + layers + output + embed};
    if (allowed >= l->bytes)
        return;
    if (d->embed != d->output) {
        l->embed_stays = false;
        l->bytes = fixed + layers + output + rows;
        if (allowed >= l->bytes)
            return;
    }
    l->embed_stays = false;
    l->buffer = buffer_bytes(d);
    l->bytes = fixed + rows + 2 * l->buffer;
    size_t room = allowed > l->bytes ? allowed - l->bytes : 0;
    while (l->n_streamed < d->n_layers && staying_bytes(d, l->n_streamed) > room)
        l->n_streamed++;
    size_t stay = staying_bytes(d, l->n_streamed);
    l->bytes += stay;
    l->output_rows = l->n_streamed == 0 ? output_rows_in(d, room - stay) : 0;
    if (l->output_rows)
        l->bytes += ioq_span_max((size_t)l->output_rows * dense_output_row_bytes(d));
    l->read_per_pass = streamed_bytes(d, l->n_streamed);
    l->read_output = (size_t)(d->output->ne[1] - l->output_rows) * dense_output_row_bytes(d);
}

void dense_layout(const struct dense *d, size_t allowed, struct dense_layout *l)
{
    choose(d, allowed & ~(os_page_bytes() - 1), l); /* the memory will be whole pages */
    l->stay_bytes = l->bytes - 2 * l->buffer - (l->embed_stays ? 0 : dense_rows_bytes(d));
    l->bytes = os_whole_pages(l->bytes);
}

size_t dense_full_bytes(const struct dense *d)
{
    struct dense_layout l;
    dense_layout(d, SIZE_MAX, &l);
    return l.bytes;
}

size_t dense_min_bytes(const struct dense *d)
{
    struct dense_layout l;
    dense_layout(d, 0, &l);
    return l.bytes;
}

size_t dense_no_embed_bytes(const struct dense *d)
{
    struct dense_layout l;
    dense_layout(d, dense_full_bytes(d) - (d->embed != d->output), &l);
    return l.bytes;
}
