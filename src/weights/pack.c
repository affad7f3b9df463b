/*
 * Writes a packed copy of a model's file: all tensors but the experts' matrices
 * as they are and in their order, then one tensor for each layer's experts
 * (weights_internal.h has the format).
 *
 * The new file is made from beginning to end in *steps*: what a few reads
 * bring, rearranged, a few MiB at most. Reads of the next steps are under way
 * while one is written. Reads and writes pass by the page cache or drop it.
 */
#include "weights/weights_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PIECE = 4 << 20,                                      /* bytes of a step, at most */
    N_SLOTS = 3,                                          /* steps under way */
    SLOT_BYTES = PIECE + WEIGHTS_MAX_PARTS * 2 * IOQ_ALIGN /* reads are aligned supersets */
};

/* FNV-1a over 64-bit words in four lanes: tells whether the drive gives back
 * what was written. */
struct sum {
    uint64_t lane[4], n;
    uint8_t rest[32]; /* the last n % 32 bytes */
};

struct item {                   /* of the new file's data */
    const struct tensor *plain; /* NULL: the experts of `layer` */
    int layer;
};

struct weights_pack {
    const struct weights *from;
    const struct expert_matrices *layers; /* (all_layers) */
    int all_layers;
    struct gguf_writer *w;
    const void *header;
    size_t header_bytes;
    int64_t bytes;
    struct item *items;
    int n_items, n_layers;
    const char **name; /* of the parts */
    uint32_t *types;
    uint64_t *shapes; /* three for each */
    int n_parts;
    struct sum sum; /* of what was written */
};

/* ---- the sum -------------------------------------------------------------- */

static void sum_block(struct sum *s, const uint8_t *p)
{
    for (int i = 0; i < 4; i++) {
        uint64_t word;
        memcpy(&word, p + 8 * i, 8);
        word = (s->lane[i] ^ word) * 0x9E3779B97F4A7C15u;
        s->lane[i] = word << 29 | word >> 35;
    }
}

static void sum_add(struct sum *s, const void *data, size_t n)
{
    const uint8_t *p = data;
    size_t have = s->n % sizeof(s->rest), take = MIN(n, (sizeof(s->rest) - have) % sizeof(s->rest));
    s->n += n;
    if (take) {
        memcpy(s->rest + have, p, take);
        p += take;
        n -= take;
        if (have + take == sizeof(s->rest))
            sum_block(s, s->rest);
    }
    for (; n >= sizeof(s->rest); n -= sizeof(s->rest), p += sizeof(s->rest))
        sum_block(s, p);
    if (n)
        memcpy(s->rest, p, n);
}

static bool sum_equal(const struct sum *a, const struct sum *b)
{
    return a->n == b->n && memcmp(a->lane, b->lane, sizeof(a->lane)) == 0 &&
           memcmp(a->rest, b->rest, a->n % sizeof(a->rest)) == 0;
}

/* ---- what goes where ------------------------------------------------------- */

/* The first part is a matrix of each expert; others may be vectors, (n, n_experts). */
static int64_t n_experts(const struct expert_matrices *x)
{
    return x->t[0]->ne[2];
}

static size_t matrix_bytes(const struct expert_matrices *x, int part)
{
    return (size_t)(x->t[part]->bytes / n_experts(x));
}

/* From one expert's to the next in the old files. */
static int64_t part_stride(const struct expert_matrices *x, int part)
{
    return x->t[part]->ne[2] == n_experts(x) ? x->t[part]->stride : (int64_t)matrix_bytes(x, part);
}

/* Where part `part` of an expert begins in it, or, for part = n, its stride. */
static int64_t part_at(const struct expert_matrices *x, int part)
{
    size_t at = 0;
    for (int i = 0; i < part; i++)
        at = align_up(at, PACK_PART_ALIGN) + matrix_bytes(x, i);
    return (int64_t)align_up(at, part == x->n ? PACK_ALIGN : PACK_PART_ALIGN);
}

/* Is the tensor a matrix that goes into a packed one? */
static bool goes_in(const struct weights_pack *p, const struct tensor *t)
{
    int layer = tensor_block(t->name);
    if (layer < 0 || layer >= p->all_layers)
        return false;
    for (int i = 0; i < p->layers[layer].n; i++)
        if (p->layers[layer].t[i] == t)
            return true;
    return false;
}

static bool stays(const struct gguf_value *v)
{
    static const char *const ours[] = {"general.alignment", "split.", "sluice.pack."};
    for (size_t i = 0; i < ARRAY_LEN(ours); i++) {
        size_t n = strlen(ours[i]);
        if (v->key.n >= n && memcmp(v->key.p, ours[i], n) == 0 &&
            (ours[i][n - 1] == '.' || v->key.n == n))
            return false;
    }
    return true;
}

static void add_part(struct weights_pack *p, const struct tensor *t)
{
    uint64_t *shape = p->shapes + 3 * p->n_parts;
    p->name[p->n_parts] = t->name;
    p->types[p->n_parts++] = (uint32_t)t->type;
    for (int d = 0; d < 3; d++)
        shape[d] = (uint64_t)t->ne[d];
}

static void list_items(struct weights_pack *p)
{
    for (int64_t i = 0; i < weights_n_tensors(p->from); i++)
        if (!goes_in(p, weights_tensor(p->from, i)) && !weights_tensor(p->from, i)->packs)
            p->items[p->n_items++] = (struct item){.plain = weights_tensor(p->from, i)};
    for (int layer = 0; layer < p->all_layers; layer++) {
        if (p->layers[layer].n == 0)
            continue;
        p->items[p->n_items++] = (struct item){.layer = layer};
        p->n_layers++;
        for (int i = 0; i < p->layers[layer].n; i++)
            add_part(p, p->layers[layer].t[i]);
    }
}

static int make_header(struct weights_pack *p, struct err *e)
{
    const struct gguf *g = p->from->gguf;
    int64_t data_bytes = 0;
    for (int64_t i = 0; i < gguf_n_values(g); i++)
        if (stays(gguf_value_at(g, i)))
            gguf_write_value(p->w, gguf_value_at(g, i));
    gguf_write_u32(p->w, "sluice.pack.version", PACK_VERSION);
    gguf_write_strs(p->w, "sluice.pack.part.name", p->name, (uint64_t)p->n_parts);
    gguf_write_u32s(p->w, "sluice.pack.part.type", p->types, (uint64_t)p->n_parts);
    gguf_write_u64s(p->w, "sluice.pack.part.shape", p->shapes, 3 * (uint64_t)p->n_parts);
    for (int i = 0; i < p->n_items; i++) {
        const struct item *it = &p->items[i];
        const struct expert_matrices *x = &p->layers[it->layer];
        char name[64];
        if (it->plain) {
            gguf_write_tensor(p->w, it->plain->name, it->plain->type, it->plain->n_dims,
                              it->plain->ne);
            continue;
        }
        snprintf(name, sizeof(name), PACK_TENSOR, it->layer);
        gguf_write_tensor(p->w, name, DT_I8, 2,
                          (const int64_t[]){part_at(x, x->n), n_experts(x)});
    }
    TRY(gguf_writer_end(p->w, &p->header, &p->header_bytes, &data_bytes, e));
    p->bytes = (int64_t)p->header_bytes + data_bytes;
    return OK;
}

/* The names of packed tensors must be free. */
static int check_names(const struct weights *w, int n_layers, struct err *e)
{
    char name[64];
    for (int layer = 0; layer < n_layers; layer++) {
        snprintf(name, sizeof(name), PACK_TENSOR, layer);
        if (weights_find(w, name))
            return err_set(e, E_FORMAT, "%s has a tensor '%s' already but does not say that it is "
                           "packed; get the original file", weights_path(w, 0), name);
    }
    return OK;
}

int weights_pack_new(const struct weights *w, const struct expert_matrices *layers, int n_layers,
                     struct weights_pack **out, struct err *e)
{
    if (weights_are_packed(w))
        return err_set(e, E_STATE, "%s is packed already: there is nothing to do",
                       weights_path(w, 0));
    TRY(check_names(w, n_layers, e));
    size_t parts = (size_t)n_layers * WEIGHTS_MAX_PARTS;
    struct weights_pack *p = calloc(1, sizeof(*p));
    int rc = OK;
    if (p) {
        p->from = w;
        p->layers = layers;
        p->all_layers = n_layers;
        p->w = gguf_writer_new(PACK_ALIGN);
        p->items = calloc((size_t)weights_n_tensors(w) + (size_t)n_layers, sizeof(*p->items));
        p->name = calloc(parts, sizeof(*p->name));
        p->types = calloc(parts, sizeof(*p->types));
        p->shapes = calloc(3 * parts, sizeof(*p->shapes));
    }
    if (!p || !p->w || !p->items || !p->name || !p->types || !p->shapes)
        rc = err_set(e, E_NOMEM, "model: no memory to pack it");
    if (rc == OK) {
        list_items(p);
        rc = make_header(p, e);
    }
    if (rc < 0) {
        weights_pack_free(p);
        return rc;
    }
    *out = p;
    return OK;
}

void weights_pack_free(struct weights_pack *p)
{
    if (!p)
        return;
    gguf_writer_free(p->w);
    free(p->items);
    free(p->name);
    free(p->types);
    free(p->shapes);
    free(p);
}

int64_t weights_pack_bytes(const struct weights_pack *p)
{
    return p->bytes;
}

int weights_pack_layers(const struct weights_pack *p)
{
    return p->n_layers;
}

int64_t weights_pack_expert_bytes(const struct weights_pack *p)
{
    int64_t most = 0;
    for (int layer = 0; layer < p->all_layers; layer++)
        if (p->layers[layer].n)
            most = MAX(most, part_at(&p->layers[layer], p->layers[layer].n));
    return most;
}

/* ---- steps -------------------------------------------------------------------- */

struct step {
    int n_reads;
    struct { /* of the old file */
        int file;
        int64_t offset;
        size_t bytes;
    } read[WEIGHTS_MAX_PARTS];
    const struct expert_matrices *experts; /* NULL: read[0] is copied as it is */
    int64_t n_experts;
    size_t zeros; /* behind it, when it is copied */
};

struct cursor { /* what the next step begins with */
    int item;
    int64_t expert;
    int part;
    int64_t done; /* bytes of the part, or of the plain tensor */
};

/* The next piece of `bytes` bytes at `offset` that become `room` bytes; true when
 * it is the last. */
static bool piece(struct cursor *c, struct step *s, int file, int64_t offset, int64_t bytes,
                  int64_t room)
{
    int64_t n = MIN((int64_t)PIECE, bytes - c->done);
    *s = (struct step){.n_reads = 1};
    s->read[0].file = file;
    s->read[0].offset = offset + c->done;
    s->read[0].bytes = (size_t)n;
    c->done += n;
    if (c->done < bytes)
        return false;
    c->done = 0;
    s->zeros = (size_t)(room - bytes);
    return true;
}

/* Whether the matrices of all experts lie one behind the other, part by part; those of
 * weights_stack do not. */
static bool lie_together(const struct expert_matrices *x)
{
    for (int i = 0; i < x->n; i++)
        if (part_stride(x, i) != (int64_t)matrix_bytes(x, i))
            return false;
    return true;
}

/* As many whole experts as fit, or one. */
static void several(struct cursor *c, struct step *s, const struct expert_matrices *x,
                    int64_t stride)
{
    int64_t n = lie_together(x) ? MIN(PIECE / stride, n_experts(x) - c->expert) : 1;
    *s = (struct step){.n_reads = x->n, .experts = x, .n_experts = n};
    for (int i = 0; i < x->n; i++) {
        s->read[i].file = x->t[i]->file;
        s->read[i].offset = x->t[i]->offset + c->expert * part_stride(x, i);
        s->read[i].bytes = matrix_bytes(x, i) * (size_t)n;
    }
    c->expert += n;
}

/* False: the file is complete. */
static bool next_step(const struct weights_pack *p, struct cursor *c, struct step *s)
{
    if (c->item == p->n_items)
        return false;
    const struct item *it = &p->items[c->item];
    const struct expert_matrices *x = &p->layers[it->layer];
    if (it->plain) {
        const struct tensor *t = it->plain;
        c->item += piece(c, s, t->file, t->offset, t->bytes,
                         (int64_t)align_up((size_t)t->bytes, PACK_ALIGN));
        return true;
    }
    int64_t stride = part_at(x, x->n);
    if (stride <= PIECE) {
        several(c, s, x, stride);
    } else {
        const struct tensor *t = x->t[c->part];
        if (piece(c, s, t->file, t->offset + c->expert * part_stride(x, c->part),
                  (int64_t)matrix_bytes(x, c->part), part_at(x, c->part + 1) - part_at(x, c->part)))
            c->part++;
        c->expert += c->part == x->n;
        c->part %= x->n;
    }
    if (c->expert == n_experts(x)) {
        c->expert = 0;
        c->item++;
    }
    return true;
}

/* ---- writing ------------------------------------------------------------------- */

struct slot {
    struct step step;
    struct ioq_req req[WEIGHTS_MAX_PARTS];
    bool used;
};

struct writer {
    struct weights_pack *p;
    struct ioq *q;
    struct os_out *out;
    uint8_t *map; /* N_SLOTS of SLOT_BYTES, then a piece */
    struct slot slot[N_SLOTS];
};

static int put(struct writer *w, const void *data, size_t n, struct err *e)
{
    sum_add(&w->p->sum, data, n);
    return os_out_put(w->out, data, n, e);
}

static void start(struct writer *w, int i)
{
    struct slot *s = &w->slot[i];
    uint8_t *at = w->map + (size_t)i * SLOT_BYTES;
    s->used = true;
    for (int r = 0; r < s->step.n_reads; r++) {
        s->req[r] = (struct ioq_req){.file = s->step.read[r].file,
                                     .cls = IOQ_DEMAND,
                                     .offset = s->step.read[r].offset,
                                     .bytes = s->step.read[r].bytes,
                                     .buf = at};
        at += ioq_span_max(s->step.read[r].bytes);
        ioq_submit(w->q, &s->req[r]);
    }
}

/* The experts of a step, each with its matrices together. */
static int put_experts(struct writer *w, const struct slot *s, struct err *e)
{
    const struct expert_matrices *x = s->step.experts;
    uint8_t *buf = w->map + N_SLOTS * SLOT_BYTES;
    size_t stride = (size_t)part_at(x, x->n);
    for (int64_t i = 0; i < s->step.n_experts; i++) {
        uint8_t *expert = buf + (size_t)i * stride;
        size_t end = 0;
        for (int r = 0; r < x->n; r++) {
            size_t at = (size_t)part_at(x, r), bytes = matrix_bytes(x, r);
            memset(expert + end, 0, at - end);
            memcpy(expert + at, (const uint8_t *)s->req[r].data + (size_t)i * bytes, bytes);
            end = at + bytes;
        }
        memset(expert + end, 0, stride - end);
    }
    return put(w, buf, stride * (size_t)s->step.n_experts, e);
}

static int finish(struct writer *w, int i, struct err *e)
{
    static const uint8_t zeros[PACK_ALIGN];
    struct slot *s = &w->slot[i];
    for (int r = 0; r < s->step.n_reads; r++) {
        ioq_wait(w->q, &s->req[r]);
        if (s->req[r].status < 0)
            return ioq_error(w->q, &s->req[r], "packing", e);
    }
    s->used = false;
    if (s->step.experts)
        return put_experts(w, s, e);
    TRY(put(w, s->req[0].data, s->step.read[0].bytes, e));
    return put(w, zeros, s->step.zeros, e);
}

static int run_steps(struct writer *w, weights_progress_fn *progress, void *user, struct err *e)
{
    struct cursor c = {0};
    TRY(put(w, w->p->header, w->p->header_bytes, e));
    for (int i = 0; i < N_SLOTS; i++)
        if (next_step(w->p, &c, &w->slot[i].step))
            start(w, i);
    for (int i = 0; w->slot[i].used; i = (i + 1) % N_SLOTS) {
        TRY(finish(w, i, e));
        if (next_step(w->p, &c, &w->slot[i].step))
            start(w, i);
        if (progress && progress(user, w->out->n, w->p->bytes))
            return err_set(e, E_CANCELLED, "packing was cancelled; the partial file is removed");
    }
    if (w->out->n != w->p->bytes)
        return err_set(e, E_STATE,
                       "packing wrote %" PRId64 " bytes, expected %" PRId64
                       "; this is a mistake of the program",
                       w->out->n, w->p->bytes);
    return OK;
}

int64_t weights_pack_memory(void)
{
    return (int64_t)N_SLOTS * SLOT_BYTES + PIECE;
}

int weights_pack_write(struct weights_pack *p, enum ioq_kind kind, struct os_out *out,
                     weights_progress_fn *progress, void *user, struct err *e)
{
    struct writer w = {.p = p, .out = out};
    size_t map_bytes = (size_t)weights_pack_memory();
    p->sum = (struct sum){0};
    TRY(ioq_open(&(struct ioq_config){.kind = kind}, &w.q, e));
    int rc = OK;
    for (int i = 0; i < weights_n_files(p->from) && rc >= 0; i++)
        rc = ioq_add_file(w.q, weights_path(p->from, i), e); /* i, as in tensor.file */
    w.map = rc < 0 ? NULL : os_map(map_bytes, false);
    if (rc >= 0 && !w.map)
        rc = err_set(e, E_NOMEM, "packing: the system refused %zu bytes", map_bytes);
    if (rc >= 0)
        rc = run_steps(&w, progress, user, e);
    ioq_close(w.q); /* no read may outlive the buffer */
    if (w.map)
        os_unmap(w.map, map_bytes);
    return rc < 0 ? rc : OK;
}

/* ---- reading it back --------------------------------------------------------------- */

static int sum_file(struct ioq *q, int file, uint8_t *map, int64_t bytes, struct sum *sum,
                    weights_progress_fn *progress, void *user, struct err *e)
{
    struct ioq_req req[N_SLOTS] = {0};
    int64_t asked = 0;
    int rc = OK;
    for (int64_t at = 0; at < bytes && rc == OK; at += PIECE) {
        for (; asked < bytes && asked < at + N_SLOTS * (int64_t)PIECE; asked += PIECE) {
            int64_t k = asked / PIECE % N_SLOTS;
            req[k] = (struct ioq_req){.file = file,
                                      .cls = IOQ_DEMAND,
                                      .offset = asked,
                                      .bytes = (size_t)MIN((int64_t)PIECE, bytes - asked),
                                      .buf = map + k * SLOT_BYTES};
            ioq_submit(q, &req[k]);
        }
        struct ioq_req *r = &req[at / PIECE % N_SLOTS];
        ioq_wait(q, r);
        if (r->status < 0)
            rc = ioq_error(q, r, "reading it back", e);
        else
            sum_add(sum, r->data, r->bytes);
        if (rc == OK && progress && progress(user, MIN(at + PIECE, bytes), bytes))
            rc = err_set(e, E_CANCELLED, "packing was cancelled; the partial file is removed");
    }
    for (int k = 0; k < N_SLOTS; k++) /* no read may outlive its request */
        if (req[k].state != IOQ_IDLE)
            ioq_wait(q, &req[k]);
    return rc;
}

int weights_pack_read_back(const struct weights_pack *p, enum ioq_kind kind, const char *path,
                           weights_progress_fn *progress, void *user, struct err *e)
{
    struct ioq *q;
    struct sum sum = {0};
    size_t map_bytes = (size_t)N_SLOTS * SLOT_BYTES;
    TRY(ioq_open(&(struct ioq_config){.kind = kind}, &q, e));
    int rc = ioq_add_file(q, path, e);
    uint8_t *map = rc < 0 ? NULL : os_map(map_bytes, false);
    if (rc >= 0 && !map)
        rc = err_set(e, E_NOMEM, "packing: the system refused %zu bytes", map_bytes);
    if (rc >= 0)
        rc = sum_file(q, rc, map, p->bytes, &sum, progress, user, e);
    ioq_close(q);
    if (map)
        os_unmap(map, map_bytes);
    if (rc == OK && !sum_equal(&sum, &p->sum))
        rc = err_set(e, E_IO,
                     "'%s' reads back other bytes than were written to it; check drive and memory",
                     path);
    return rc;
}
