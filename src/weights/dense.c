/*
 * Reading the dense weights: what stays once, the rest for every pass, in the
 * order of its use. While one buffer is used, the next item is read into the
 * other.
 *
 * What must hold at all times is in dense_check.c.
 */
#include "weights/weights_internal.h"

#include <stdlib.h>

enum { WINDOW = 8 }; /* reads under way while loading */

static uint8_t *landing(const struct dense *d, size_t at)
{
    return d->memory.landing + (at - d->layout.stay_bytes);
}

/* Tells every weight of a section at `base` its place. */
static void place_section(const struct dense *d, int section, size_t base)
{
    const struct dense_section *s = &d->sections[section];
    const struct dense_run *r = &d->runs[s->first_run];
    for (int64_t i = s->first_weight; i < s->first_weight + s->n_weights; i++) {
        const struct tensor *t = d->weights[i].t;
        while (r->file != t->file || t->offset >= r->end)
            r++;
        *d->weights[i].at = base + r->at + (size_t)(t->offset - align_down64(r->begin, IOQ_ALIGN));
    }
}

/* Tells the owner that a section is in its place. */
static int tell_placed(struct dense *d, int section, struct err *e)
{
    struct dense_section *s = &d->sections[section];
    int name = section < d->n_layers ? section : d->n_layers - 1 - section;
    TRY(d->memory.placed(d->memory.user, name, !s->arrived, e));
    s->arrived = true;
    return OK;
}

/* Starts reading what is left of [from, end) of a file, a piece at most; `from` is
 * aligned. */
static void start_piece(const struct dense *d, struct ioq_req *r, enum ioq_class cls, int file,
                        int64_t from, int64_t end, uint8_t *to)
{
    *r = (struct ioq_req){.file = d->files[file], .cls = cls, .offset = from,
                          .bytes = (size_t)MIN((int64_t)DENSE_PIECE, end - from), .buf = to};
    ioq_submit(d->q, r);
}

/* ---- what stays ---------------------------------------------------------------- */

struct loader {
    struct dense *d;
    struct ioq_req req[WINDOW];
    size_t at[WINDOW]; /* where each read belongs */
    bool used[WINDOW];
    uint8_t *bounce;   /* WINDOW pieces, where the host cannot see the memory */
    int next;
    int64_t done, total;
    struct touch *touch;
    weights_progress_fn *progress;
    void *user;
};

enum { BOUNCE_BYTES = DENSE_PIECE + 2 * IOQ_ALIGN };

/* Waits for a slot's read and hands the slot out empty. */
static int settle(struct loader *r, int i, struct err *e)
{
    struct dense *d = r->d;
    if (!r->used[i])
        return OK;
    ioq_wait(d->q, &r->req[i]);
    r->used[i] = false;
    if (r->req[i].status < 0)
        return ioq_error(d->q, &r->req[i], "dense weights", e);
    if (r->bounce)
        d->memory.put(d->memory.user, r->at[i], r->req[i].data, r->req[i].bytes);
    r->done += (int64_t)r->req[i].bytes;
    if (r->progress && r->progress(r->user, r->done, r->total))
        return err_set(e, E_CANCELLED, "loading was cancelled");
    return OK;
}

/* Reads [begin, end) of a file; the page of `begin` goes to place `at`. */
static int load_span(struct loader *r, int file, int64_t begin, int64_t end, size_t at,
                     struct err *e)
{
    struct dense *d = r->d;
    for (int64_t from = align_down64(begin, IOQ_ALIGN); from < end;
         from += DENSE_PIECE, at += DENSE_PIECE) {
        int i = r->next++ % WINDOW;
        TRY(settle(r, i, e));
        touch_used(r->touch, 0, at);
        r->at[i] = at;
        start_piece(d, &r->req[i], IOQ_DEMAND, file, from, end,
                    r->bounce ? r->bounce + (size_t)i * BOUNCE_BYTES : d->memory.stay + at);
        r->used[i] = true;
    }
    return OK;
}

static int load_section(struct loader *r, int section, size_t *at, struct err *e)
{
    struct dense *d = r->d;
    struct dense_section *s = &d->sections[section];
    size_t base = *at;
    *at += s->bytes;
    s->stays = true;
    place_section(d, section, base);
    for (int64_t i = s->first_run; i < s->first_run + s->n_runs; i++) {
        const struct dense_run *run = &d->runs[i];
        TRY(load_span(r, run->file, run->begin, run->end, base + run->at, e));
    }
    return OK;
}

static int load_output_rows(struct loader *r, size_t *at, struct err *e)
{
    struct dense *d = r->d;
    const struct tensor *t = d->output;
    int64_t bytes = d->layout.output_rows * (int64_t)dense_output_row_bytes(d);
    size_t base = *at;
    if (bytes == 0)
        return OK;
    *at += ioq_span_max((size_t)bytes);
    *d->output_at = base + (size_t)(t->offset - align_down64(t->offset, IOQ_ALIGN));
    return load_span(r, t->file, t->offset, t->offset + bytes, base, e);
}

/* Reads everything that stays; *at: how much of the memory it took. */
static int load_all(struct loader *r, size_t *at, struct err *e)
{
    struct dense *d = r->d;
    const struct dense_layout *l = &d->layout;
    TRY(load_section(r, dense_section_index(d, DENSE_FIXED), at, e));
    if (l->embed_stays)
        TRY(load_section(r, dense_section_index(d, DENSE_EMBEDDING), at, e));
    for (int i = 0; i < d->n_layers; i++) {
        if (dense_is_streamed(d, i, l->n_streamed))
            continue;
        TRY(load_section(r, i, at, e));
        d->sections[i].copy_at = *at;
        *at += d->copy_bytes;
    }
    if (l->output_rows == d->output->ne[1])
        return load_section(r, dense_section_index(d, DENSE_OUTPUT), at, e);
    return load_output_rows(r, at, e);
}

/* ---- opening ---------------------------------------------------------------------- */

/* What is read again in every pass, in the order of its use. */
static int list_items(struct dense *d, struct err *e)
{
    const struct dense_layout *l = &d->layout;
    int64_t row_bytes = (int64_t)dense_output_row_bytes(d), n_out = d->output->ne[1];
    int64_t rows = ((int64_t)l->buffer - 2 * IOQ_ALIGN) / row_bytes / DENSE_GRAIN * DENSE_GRAIN;
    rows = MAX(rows, (int64_t)DENSE_GRAIN);
    int64_t pieces = (n_out - l->output_rows + rows - 1) / rows;
    d->items = calloc((size_t)(l->n_streamed + pieces), sizeof(*d->items));
    if (!d->items)
        return err_set(e, E_NOMEM, "model: no memory for its list of reads");
    for (int i = 0; i < d->n_layers; i++) {
        if (!dense_is_streamed(d, i, l->n_streamed))
            continue;
        d->sections[i].item = d->n_items;
        d->items[d->n_items++].section = i;
    }
    d->first_piece = d->n_items;
    for (int64_t row = l->output_rows; row < n_out; row += rows)
        d->items[d->n_items++] =
            (struct dense_item){.section = dense_section_index(d, DENSE_OUTPUT),
                                .row = row,
                                .n_rows = MIN(rows, n_out - row)};
    return OK;
}

static int open_buffers(struct dense *d, size_t at, struct err *e)
{
    size_t most = d->layout.buffer / DENSE_PIECE + 1;
    for (int i = 0; i < d->n_layers; i++)
        most = MAX(most, (size_t)d->sections[i].n_runs + d->sections[i].bytes / DENSE_PIECE);
    for (int i = 0; i < 2; i++) {
        d->buffers[i] = (struct dense_buffer){.at = at + (size_t)i * d->layout.buffer, .item = -1,
                                              .reads = calloc(most, sizeof(struct ioq_req)),
                                              .cap_reads = (int)most};
        if (!d->buffers[i].reads)
            return err_set(e, E_NOMEM, "model: no memory for its list of reads");
    }
    return list_items(d, e);
}

static int load_stay(struct loader *r, size_t *at, struct err *e)
{
    struct dense *d = r->d;
    const struct dense_layout *l = &d->layout;
    r->total = (int64_t)(l->stay_bytes - (size_t)(d->n_layers - l->n_streamed) * d->copy_bytes);
    if (!d->memory.stay && l->stay_bytes &&
        !(r->bounce = os_map(WINDOW * (size_t)BOUNCE_BYTES, false)))
        return err_set(e, E_NOMEM, "model: no memory to read the dense weights");
    if (d->memory.stay && l->bytes >= os_huge_from())
        r->touch = touch_open(1);
    touch_limit(r->touch, 0, d->memory.stay, l->bytes);
    int rc = load_all(r, at, e);
    for (int i = 0; i < WINDOW; i++) { /* also after a failure: no read may outlive the memory */
        int each = settle(r, i, rc == OK ? e : NULL);
        rc = rc == OK ? each : rc;
    }
    touch_close(r->touch);
    if (r->bounce)
        os_unmap(r->bounce, WINDOW * (size_t)BOUNCE_BYTES);
    return rc;
}

int dense_load(struct dense *d, const struct dense_layout *l, const struct dense_memory *m,
               struct ioq *q, const int *files, weights_progress_fn *progress, void *user,
               struct err *e)
{
    struct loader r = {.d = d, .progress = progress, .user = user};
    size_t at = 0;
    int64_t begin = os_clock_ns();
    d->layout = *l;
    d->memory = *m;
    d->q = q;
    d->files = files;
    TRY(load_stay(&r, &at, e));
    d->load_bytes = r.done;
    d->load_ns = os_clock_ns() - begin;
    for (int i = 0; i < d->n_layers + 3; i++)
        if (d->sections[i].stays)
            TRY(tell_placed(d, i, e));
    d->rows_at = at;
    if (!l->embed_stays)
        at += dense_rows_bytes(d);
    return l->buffer ? open_buffers(d, at, e) : OK;
}

void dense_loaded(const struct dense *d, int64_t *bytes, int64_t *ns)
{
    *bytes = d->load_bytes;
    *ns = d->load_ns;
}

bool dense_stays(const struct dense *d, int layer)
{
    return d->sections[layer].stays;
}

size_t dense_copy_at(const struct dense *d, int layer)
{
    return d->sections[layer].copy_at;
}

/* Ends what is being read into a buffer. */
static void drain(struct dense *d, struct dense_buffer *b)
{
    for (int i = 0; i < b->n_reads; i++)
        ioq_cancel(d->q, &b->reads[i]);
    for (int i = 0; i < b->n_reads; i++)
        ioq_wait(d->q, &b->reads[i]);
    b->n_reads = 0;
    b->item = -1;
}

void dense_close(struct dense *d)
{
    if (!d)
        return;
    INVARIANT(dense_check(d));
    for (int i = 0; i < 2; i++) {
        if (d->buffers[i].reads)
            drain(d, &d->buffers[i]);
        free(d->buffers[i].reads);
    }
    free(d->weights);
    free(d->sections);
    free(d->runs);
    free(d->items);
    free(d);
}

/* ---- what does not stay -------------------------------------------------------------- */

static void read_span(struct dense *d, struct dense_buffer *b, int file, int64_t begin, int64_t end,
                      uint8_t *to)
{
    for (int64_t from = align_down64(begin, IOQ_ALIGN); from < end;
         from += DENSE_PIECE, to += DENSE_PIECE)
        start_piece(d, &b->reads[b->n_reads++], IOQ_DENSE, file, from, end, to);
}

/* What was computed from the buffer is finished before the first byte is read over it. */
static int start_item(struct dense *d, struct dense_buffer *b, int item, struct err *e)
{
    const struct dense_item *x = &d->items[item];
    const struct dense_section *s = &d->sections[x->section];
    drain(d, b);
    if (d->memory.reuse)
        TRY(d->memory.reuse(d->memory.user, b->at, d->layout.buffer, e));
    b->item = item;
    if (x->n_rows) {
        int64_t row = (int64_t)dense_output_row_bytes(d), begin = d->output->offset + x->row * row;
        read_span(d, b, d->output->file, begin, begin + x->n_rows * row, landing(d, b->at));
        return OK;
    }
    for (int64_t i = s->first_run; i < s->first_run + s->n_runs; i++) {
        const struct dense_run *run = &d->runs[i];
        read_span(d, b, run->file, run->begin, run->end, landing(d, b->at + run->at));
    }
    return OK;
}

static struct dense_buffer *buffer_of(struct dense *d, int item)
{
    for (int i = 0; i < 2; i++)
        if (d->buffers[i].item == item)
            return &d->buffers[i];
    return NULL;
}

static int wait_reads(struct dense *d, struct dense_buffer *b, struct err *e)
{
    int rc = OK;
    for (int i = 0; i < b->n_reads; i++)
        ioq_promote(d->q, &b->reads[i], IOQ_DEMAND);
    for (int i = 0; i < b->n_reads; i++) {
        ioq_wait(d->q, &b->reads[i]);
        if (b->reads[i].status < 0 && rc == OK)
            rc = ioq_error(d->q, &b->reads[i], "dense weights", e);
    }
    b->n_reads = 0;
    if (rc < 0)
        b->item = -1;
    return rc;
}

/* Has the item in a buffer and starts reading the one after it. */
static int use_item(struct dense *d, int item, struct dense_buffer **out, struct err *e)
{
    int next = (item + 1) % d->n_items;
    struct dense_buffer *b = buffer_of(d, item);
    /* What was read ahead may have failed for reasons that are past. */
    if (!b || wait_reads(d, b, NULL) < 0) {
        b = &d->buffers[d->buffers[0].item == next];
        TRY(start_item(d, b, item, e));
        TRY(wait_reads(d, b, e));
    }
    if (!buffer_of(d, next))
        TRY(start_item(d, &d->buffers[b == &d->buffers[0]], next, e));
    *out = b;
    return OK;
}

int dense_use(struct dense *d, int layer, struct err *e)
{
    struct dense_buffer *b;
    const struct dense_section *s = &d->sections[layer];
    INVARIANT(dense_check(d));
    if (s->stays)
        return OK;
    TRY(use_item(d, s->item, &b, e));
    place_section(d, layer, b->at);
    return tell_placed(d, layer, e);
}

int dense_read_rows(struct dense *d, const int32_t *ids, int64_t n, size_t *at, struct err *e)
{
    struct ioq_req req[DENSE_ROWS];
    const struct tensor *t = d->embed;
    size_t row = dtype_row_bytes(t->type, t->ne[0]);
    int rc = OK;
    INVARIANT(dense_check(d));
    if (d->memory.reuse)
        TRY(d->memory.reuse(d->memory.user, d->rows_at, dense_rows_bytes(d), e));
    for (int64_t i = 0; i < n; i++) {
        size_t place = d->rows_at + (size_t)i * ioq_span_max(row);
        req[i] = (struct ioq_req){.file = d->files[t->file], .cls = IOQ_DEMAND,
                                  .offset = t->offset + (int64_t)row * ids[i], .bytes = row,
                                  .buf = landing(d, place)};
        ioq_submit(d->q, &req[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        ioq_wait(d->q, &req[i]);
        if (req[i].status < 0 && rc == OK)
            rc = ioq_error(d->q, &req[i], "embedding", e);
        at[i] = rc < 0 ? 0
                       : d->layout.stay_bytes +
                             (size_t)((const uint8_t *)req[i].data - d->memory.landing);
    }
    return rc;
}

int dense_output(struct dense *d, dense_rows_fn *fn, void *user, struct err *e)
{
    INVARIANT(dense_check(d));
    if (d->layout.output_rows)
        TRY(fn(user, *d->output_at, 0, d->layout.output_rows, e));
    for (int i = d->first_piece; i < d->n_items; i++) {
        const struct dense_item *x = &d->items[i];
        struct dense_buffer *b;
        TRY(use_item(d, i, &b, e));
        int64_t begin = d->output->offset + x->row * (int64_t)dense_output_row_bytes(d);
        TRY(fn(user, b->at + (size_t)(begin - align_down64(begin, IOQ_ALIGN)), x->row, x->n_rows,
               e));
    }
    return OK;
}
