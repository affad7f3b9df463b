/*
 * Where the weights live that every token needs.
 *
 * They come in segments: one for each layer, the embedding table, the output
 * matrix, and what is small (fixed). What memory allows stays; the rest is
 * read again for every pass, in the order of its use:
 *
 *   everything fits    all segments stay
 *   nearly             the embedding table goes: the rows of a chunk's ids are
 *                      read, which costs a page a token
 *   less               the output matrix goes, from its last row backwards,
 *                      then layers, evenly spread
 *
 * The smallest is two buffers of the largest layer: one is used while the next
 * item (a layer, or rows of the output matrix) is read into the other.
 *
 * Invariants: a buffer with reads under way is not bound to weights; a reused
 * buffer has no read under way; between dense_use of one item and that of the
 * next the first one's bytes stay.
 */
#include "model/model_internal.h"

#include <stdlib.h>

enum {
    PIECE = 4 << 20, /* bytes of a read */
    WINDOW = 8,      /* reads under way while loading */
    ROWS_AT_ONCE = 16,
    OUTPUT_GRAIN = 16 /* rows of an output piece come in multiples of it */
};

/* ---- the layout -------------------------------------------------------- */

static const struct dense_segment *segment_of(const struct model *m, int segment)
{
    return &m->dense.segments[segment];
}

static size_t layers_bytes(const struct model *m)
{
    size_t sum = 0;
    for (int il = 0; il < m->c.n_layers; il++)
        sum += segment_of(m, il)->bytes;
    return sum;
}

static size_t rows_bytes(const struct model *m)
{
    return ROWS_AT_ONCE * ioq_span_max(dtype_row_bytes(m->embed.type, m->embed.n_in));
}

static size_t output_row_bytes(const struct model *m)
{
    return dtype_row_bytes(m->output.type, m->output.n_in);
}

/* Whether layer il is one of `n` that are read again, evenly spread over all. */
static bool is_streamed(const struct model *m, int il, int n)
{
    int64_t l = m->c.n_layers;
    return (int64_t)(il + 1) * n / l > (int64_t)il * n / l;
}

static size_t streamed_bytes(const struct model *m, int n)
{
    size_t sum = 0;
    for (int il = 0; il < m->c.n_layers; il++)
        if (is_streamed(m, il, n))
            sum += segment_of(m, il)->bytes;
    return sum;
}

/* Behind each layer that stays lies a copy of its router, for lookahead. */
static size_t copy_bytes(const struct model *m)
{
    return align_up(dev_guess_bytes(m->c.n_experts, m->c.n_embd), IOQ_ALIGN);
}

/* What the layers take of memory when n of them are read again. */
static size_t staying_bytes(const struct model *m, int n)
{
    return layers_bytes(m) - streamed_bytes(m, n) + (size_t)(m->c.n_layers - n) * copy_bytes(m);
}

/* A layer, or a few rows of the output matrix. */
static size_t buffer_bytes(const struct model *m)
{
    size_t most = ioq_span_max(OUTPUT_GRAIN * output_row_bytes(m));
    for (int il = 0; il < m->c.n_layers; il++)
        most = MAX(most, segment_of(m, il)->bytes);
    return most;
}

/* How many rows of the output matrix `room` bytes hold, wherever in a page they begin. */
static int64_t output_rows_in(const struct model *m, size_t room)
{
    if (room < 2 * IOQ_ALIGN)
        return 0;
    int64_t rows = (int64_t)((room - 2 * IOQ_ALIGN) / output_row_bytes(m));
    return MIN(rows / OUTPUT_GRAIN * OUTPUT_GRAIN, m->output.n_out);
}

static void choose_layout(const struct model *m, size_t allowed, struct dense_layout *l)
{
    const size_t embed = segment_of(m, dense_embed_segment(m))->bytes;
    const size_t output = segment_of(m, dense_output_segment(m))->bytes;
    const size_t fixed = segment_of(m, dense_fixed_segment(m))->bytes;
    const size_t layers = staying_bytes(m, 0), rows = rows_bytes(m);
    allowed &= ~(os_page_bytes() - 1); /* the mapping will be whole pages */
    *l = (struct dense_layout){.embed_stays = true, .output_rows = m->output.n_out,
                               .bytes = fixed + layers + output + embed};
    if (allowed >= l->bytes)
        return;
    if (!m->tied) {
        l->embed_stays = false;
        l->bytes = fixed + layers + output + rows;
        if (allowed >= l->bytes)
            return;
    }
    l->embed_stays = false;
    l->buffer = buffer_bytes(m);
    l->bytes = fixed + rows + 2 * l->buffer;
    size_t room = allowed > l->bytes ? allowed - l->bytes : 0;
    while (l->n_streamed < m->c.n_layers && staying_bytes(m, l->n_streamed) > room)
        l->n_streamed++;
    size_t stay = staying_bytes(m, l->n_streamed);
    l->bytes += stay;
    l->output_rows = l->n_streamed == 0 ? output_rows_in(m, room - stay) : 0;
    if (l->output_rows)
        l->bytes += ioq_span_max((size_t)l->output_rows * output_row_bytes(m));
    l->read_per_pass = streamed_bytes(m, l->n_streamed);
    l->read_output = (size_t)(m->output.n_out - l->output_rows) * output_row_bytes(m);
}

void dense_layout(const struct model *m, size_t allowed, struct dense_layout *l)
{
    choose_layout(m, allowed, l);
    l->padding = os_whole_pages(l->bytes) - l->bytes;
    l->bytes += l->padding;
}

size_t dense_full_bytes(const struct model *m)
{
    struct dense_layout l;
    dense_layout(m, SIZE_MAX, &l);
    return l.bytes;
}

size_t dense_min_bytes(const struct model *m)
{
    struct dense_layout l;
    dense_layout(m, 0, &l);
    return l.bytes;
}

size_t dense_no_embed_bytes(const struct model *m)
{
    struct dense_layout l;
    dense_layout(m, dense_full_bytes(m) - !m->tied, &l);
    return l.bytes;
}

/* ---- reading what stays ------------------------------------------------- */

struct loader {
    struct model *m;
    struct ioq_req req[WINDOW];
    bool used[WINDOW];
    int next;
    int64_t done, total;
    struct touch *touch;
    model_progress_fn *progress;
    void *user;
};

/* Waits for a slot's read and hands the slot out empty. */
static int settle(struct loader *r, int i, struct err *e)
{
    struct ioq *q = r->m->q;
    if (!r->used[i])
        return OK;
    ioq_wait(q, &r->req[i]);
    r->used[i] = false;
    if (r->req[i].status < 0)
        return ioq_error(q, &r->req[i], "dense weights", e);
    r->done += (int64_t)r->req[i].bytes;
    if (r->progress && r->progress(r->user, r->done, r->total))
        return err_set(e, E_CANCELLED, "loading was cancelled");
    return OK;
}

/* Starts reading what is left of [at, end) of a file, a piece at most, into `to`;
 * `at` is aligned. */
static void start_piece(struct model *m, struct ioq_req *r, enum ioq_class cls, int file, int64_t at,
                        int64_t end, uint8_t *to)
{
    *r = (struct ioq_req){.file = m->files[file], .cls = cls, .offset = at,
                          .bytes = (size_t)MIN((int64_t)PIECE, end - at), .buf = to};
    ioq_submit(m->q, r);
}

/* Reads [begin, end) of a file; the page of `begin` goes to `to`. */
static int load_span(struct loader *r, int file, int64_t begin, int64_t end, uint8_t *to, struct err *e)
{
    for (int64_t at = align_down64(begin, IOQ_ALIGN); at < end; at += PIECE, to += PIECE) {
        int i = r->next++ % WINDOW;
        TRY(settle(r, i, e));
        touch_used(r->touch, 0, (size_t)(to - r->m->dense.map));
        start_piece(r->m, &r->req[i], IOQ_DEMAND, file, at, end, to);
        r->used[i] = true;
    }
    return OK;
}

/* Tells every weight of a segment at `base` where its bytes are. */
static void bind_segment(const struct model *m, int segment, const uint8_t *base)
{
    const struct dense_segment *s = segment_of(m, segment);
    const struct dense_run *r = &m->dense.runs[s->first_run];
    for (int64_t i = s->first_weight; i < s->first_weight + s->n_weights; i++) {
        const struct gguf_tensor *t = m->weights[i].t;
        while (r->file != t->file || t->offset >= r->end)
            r++;
        *m->weights[i].address = base + r->at + (t->offset - align_down64(r->begin, IOQ_ALIGN));
    }
}

static int load_segment(struct loader *r, int segment, size_t *at, struct err *e)
{
    struct model *m = r->m;
    struct dense_segment *s = &m->dense.segments[segment];
    uint8_t *base = m->dense.map + *at;
    *at += s->bytes;
    s->stays = true;
    bind_segment(m, segment, base);
    for (int64_t i = s->first_run; i < s->first_run + s->n_runs; i++) {
        const struct dense_run *run = &m->dense.runs[i];
        TRY(load_span(r, run->file, run->begin, run->end, base + run->at, e));
    }
    return OK;
}

static void place_copy(const struct model *m, struct layer *l, size_t *at)
{
    size_t bytes = copy_bytes(m);
    if (bytes)
        l->guess = (struct dev_mat){.type = DT_Q8_0, .n_in = m->c.n_embd, .n_out = m->c.n_experts,
                                    .data = m->dense.map + *at};
    *at += bytes;
}

static int load_output_rows(struct loader *r, size_t *at, struct err *e)
{
    struct model *m = r->m;
    const struct gguf_tensor *t = m->dense.output;
    int64_t bytes = m->dense.layout.output_rows * (int64_t)output_row_bytes(m);
    if (bytes == 0)
        return OK;
    uint8_t *base = m->dense.map + *at;
    *at += ioq_span_max((size_t)bytes);
    m->output.data = base + (t->offset - align_down64(t->offset, IOQ_ALIGN));
    return load_span(r, t->file, t->offset, t->offset + bytes, base, e);
}

/* Reads everything that stays; *at: how much of the mapping it took. */
static int load_all(struct loader *r, size_t *at, struct err *e)
{
    struct model *m = r->m;
    const struct dense_layout *l = &m->dense.layout;
    TRY(load_segment(r, dense_fixed_segment(m), at, e));
    if (l->embed_stays)
        TRY(load_segment(r, dense_embed_segment(m), at, e));
    for (int il = 0; il < m->c.n_layers; il++) {
        if (is_streamed(m, il, l->n_streamed))
            continue;
        TRY(load_segment(r, il, at, e));
        place_copy(m, &m->layers[il], at);
    }
    if (l->output_rows == m->output.n_out)
        return load_segment(r, dense_output_segment(m), at, e);
    return load_output_rows(r, at, e);
}

/* ---- opening ------------------------------------------------------------ */

/* What is read again in every pass, in the order of its use. */
static int list_items(struct model *m, struct err *e)
{
    struct dense *d = &m->dense;
    int64_t rows = (int64_t)((d->layout.buffer - 2 * IOQ_ALIGN) / output_row_bytes(m)) / OUTPUT_GRAIN * OUTPUT_GRAIN;
    rows = MAX(rows, (int64_t)OUTPUT_GRAIN);
    int64_t pieces = (m->output.n_out - d->layout.output_rows + rows - 1) / rows;
    d->items = calloc((size_t)(d->layout.n_streamed + pieces), sizeof(*d->items));
    if (!d->items)
        return err_set(e, E_NOMEM, "model: no memory for its list of reads");
    for (int il = 0; il < m->c.n_layers; il++) {
        if (!is_streamed(m, il, d->layout.n_streamed))
            continue;
        d->segments[il].item = d->n_items;
        d->items[d->n_items++].segment = il;
    }
    d->first_piece = d->n_items;
    for (int64_t row = d->layout.output_rows; row < m->output.n_out; row += rows)
        d->items[d->n_items++] = (struct dense_item){.segment = dense_output_segment(m), .row = row,
                                                     .n_rows = MIN(rows, m->output.n_out - row)};
    return OK;
}

static int open_buffers(struct model *m, uint8_t *at, struct err *e)
{
    struct dense *d = &m->dense;
    size_t most = d->layout.buffer / PIECE + 1;
    for (int il = 0; il < m->c.n_layers; il++)
        most = MAX(most, (size_t)segment_of(m, il)->n_runs + segment_of(m, il)->bytes / PIECE);
    for (int i = 0; i < 2; i++) {
        d->buffers[i] = (struct dense_buffer){.memory = at + (size_t)i * d->layout.buffer, .item = -1,
                                              .reads = calloc(most, sizeof(struct ioq_req))};
        if (!d->buffers[i].reads)
            return err_set(e, E_NOMEM, "model: no memory for its list of reads");
    }
    return list_items(m, e);
}

int dense_load(struct model *m, size_t allowed, model_progress_fn *progress, void *user, struct err *e)
{
    struct dense *d = &m->dense;
    struct loader r = {.m = m, .progress = progress, .user = user};
    size_t at = 0;
    int64_t begin = os_clock_ns();
    dense_layout(m, allowed, &d->layout);
    d->map_bytes = d->layout.bytes;
    d->map = os_map(d->map_bytes, d->map_bytes >= os_huge_from());
    if (!d->map)
        return err_set(e, E_NOMEM, "model: the system refused %zu bytes for the dense weights; close other programs or lower --memory",
                       d->map_bytes);
    r.total = (int64_t)(d->map_bytes - d->layout.padding - 2 * d->layout.buffer) -
              (int64_t)((size_t)(m->c.n_layers - d->layout.n_streamed) * copy_bytes(m));
    r.touch = d->map_bytes >= os_huge_from() ? touch_open(1) : NULL;
    touch_limit(r.touch, 0, d->map, d->map_bytes);
    int rc = load_all(&r, &at, e);
    for (int i = 0; i < WINDOW; i++) { /* also after a failure: no read may outlive the buffer */
        int each = settle(&r, i, rc == OK ? e : NULL);
        rc = rc == OK ? each : rc;
    }
    d->load_bytes = r.done;
    d->load_ns = os_clock_ns() - begin;
    touch_close(r.touch);
    TRY(rc);
    for (int i = 0; i < m->c.n_layers + DENSE_EXTRA_SEGMENTS; i++)
        if (d->segments[i].stays)
            TRY(health_segment(m, i, e));
    if (!d->layout.embed_stays) {
        d->rows = d->map + at;
        at += rows_bytes(m);
    } else if (m->tied) {
        m->embed.data = m->output.data;
    }
    os_lock(d->map, d->map_bytes); /* best effort */
    return d->layout.buffer ? open_buffers(m, d->map + at, e) : OK;
}

/* Ends what is being read into a buffer. */
static void drain(struct model *m, struct dense_buffer *b)
{
    for (int i = 0; i < b->n_reads; i++)
        ioq_cancel(m->q, &b->reads[i]);
    for (int i = 0; i < b->n_reads; i++)
        ioq_wait(m->q, &b->reads[i]);
    b->n_reads = 0;
    b->item = -1;
}

void dense_close(struct model *m)
{
    struct dense *d = &m->dense;
    for (int i = 0; i < 2; i++) {
        if (d->buffers[i].reads)
            drain(m, &d->buffers[i]);
        free(d->buffers[i].reads);
    }
    if (d->map)
        os_unmap(d->map, d->map_bytes);
    free(d->segments);
    free(d->runs);
    free(d->items);
}

/* ---- reading what does not stay ------------------------------------------ */

static void read_span(struct model *m, struct dense_buffer *b, int file, int64_t begin, int64_t end,
                      uint8_t *to)
{
    for (int64_t at = align_down64(begin, IOQ_ALIGN); at < end; at += PIECE, to += PIECE)
        start_piece(m, &b->reads[b->n_reads++], IOQ_DENSE, file, at, end, to);
}

static void start_item(struct model *m, struct dense_buffer *b, int item)
{
    const struct dense *d = &m->dense;
    const struct dense_item *x = &d->items[item];
    const struct dense_segment *s = segment_of(m, x->segment);
    drain(m, b);
    b->item = item;
    if (x->n_rows) {
        int64_t row = (int64_t)output_row_bytes(m), begin = d->output->offset + x->row * row;
        read_span(m, b, d->output->file, begin, begin + x->n_rows * row, b->memory);
        return;
    }
    for (int64_t i = s->first_run; i < s->first_run + s->n_runs; i++) {
        const struct dense_run *run = &d->runs[i];
        read_span(m, b, run->file, run->begin, run->end, b->memory + run->at);
    }
}

static struct dense_buffer *buffer_of(struct model *m, int item)
{
    for (int i = 0; i < 2; i++)
        if (m->dense.buffers[i].item == item)
            return &m->dense.buffers[i];
    return NULL;
}

static int wait_reads(struct model *m, struct dense_buffer *b, struct err *e)
{
    int rc = OK;
    for (int i = 0; i < b->n_reads; i++)
        ioq_promote(m->q, &b->reads[i], IOQ_DEMAND);
    for (int i = 0; i < b->n_reads; i++) {
        ioq_wait(m->q, &b->reads[i]);
        if (b->reads[i].status < 0 && rc == OK)
            rc = ioq_error(m->q, &b->reads[i], "dense weights", e);
    }
    b->n_reads = 0;
    if (rc < 0)
        b->item = -1;
    return rc;
}

/* Has the item in a buffer and starts reading the one after it. */
static int use_item(struct model *m, int item, struct dense_buffer **out, struct err *e)
{
    struct dense *d = &m->dense;
    int next = (item + 1) % d->n_items;
    struct dense_buffer *b = buffer_of(m, item);
    /* What was read ahead may have failed for reasons that are past. */
    if (!b || wait_reads(m, b, NULL) < 0) {
        b = &d->buffers[d->buffers[0].item == next];
        start_item(m, b, item);
        TRY(wait_reads(m, b, e));
    }
    if (!buffer_of(m, next))
        start_item(m, &d->buffers[b == &d->buffers[0]], next);
    *out = b;
    return OK;
}

int dense_use(struct model *m, int il, struct err *e)
{
    struct dense_buffer *b;
    if (segment_of(m, il)->stays)
        return OK;
    TRY(use_item(m, segment_of(m, il)->item, &b, e));
    bind_segment(m, il, b->memory);
    return health_segment(m, il, e);
}

/* ---- embedding and output ------------------------------------------------- */

static int embed_some(struct model *m, float *x, const int32_t *ids, int64_t n, struct err *e)
{
    struct ioq_req req[ROWS_AT_ONCE];
    const struct gguf_tensor *t = m->dense.embed;
    size_t row = dtype_row_bytes(m->embed.type, m->embed.n_in);
    int rc = OK;
    for (int64_t i = 0; i < n; i++) {
        req[i] = (struct ioq_req){.file = m->files[t->file], .cls = IOQ_DEMAND,
                                  .offset = t->offset + (int64_t)row * ids[i], .bytes = row,
                                  .buf = m->dense.rows + (size_t)i * ioq_span_max(row)};
        ioq_submit(m->q, &req[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        static const int32_t first = 0;
        struct dev_mat one = m->embed;
        ioq_wait(m->q, &req[i]);
        if (req[i].status < 0 && rc == OK)
            rc = ioq_error(m->q, &req[i], "embedding", e);
        one.data = req[i].data;
        one.n_out = 1;
        if (rc == OK)
            device_embed(m->dev, x + i * one.n_in, &one, &first, 1);
    }
    return rc;
}

int dense_embed(struct model *m, float *x, const int32_t *ids, int64_t n, struct err *e)
{
    if (m->dense.layout.embed_stays) {
        device_embed(m->dev, x, &m->embed, ids, n);
        return OK;
    }
    for (int64_t i = 0; i < n; i += ROWS_AT_ONCE)
        TRY(embed_some(m, x + i * m->c.n_embd, ids + i, MIN((int64_t)ROWS_AT_ONCE, n - i), e));
    return OK;
}

int dense_output(struct model *m, dense_rows_fn *fn, void *user, struct err *e)
{
    const struct dense *d = &m->dense;
    struct dev_mat rows = m->output;
    rows.n_out = d->layout.output_rows;
    if (rows.n_out)
        fn(user, &rows, 0);
    for (int i = d->first_piece; i < d->n_items; i++) {
        const struct dense_item *x = &d->items[i];
        struct dense_buffer *b;
        TRY(use_item(m, i, &b, e));
        int64_t begin = d->output->offset + x->row * (int64_t)output_row_bytes(m);
        rows.data = b->memory + (begin - align_down64(begin, IOQ_ALIGN));
        rows.n_out = x->n_rows;
        fn(user, &rows, x->row);
    }
    return OK;
}
