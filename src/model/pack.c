/*
 * Writes a packed copy of a model's file: all tensors but the experts' matrices
 * as they are and in their order, then one tensor for each layer's experts
 * (model_internal.h has the format).
 *
 * The new file is made from beginning to end in *steps*: what a few reads
 * bring, rearranged, a few MiB at most. Reads of the next steps are under way
 * while one is written. Reads and writes pass by the page cache or drop it.
 */
#include "model/model_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PIECE = 4 << 20,                                      /* bytes of a step, at most */
    N_SLOTS = 3,                                          /* steps under way */
    SLOT_BYTES = PIECE + EXPERT_MAX_PARTS * 2 * IOQ_ALIGN /* reads are aligned supersets */
};

/* FNV-1a over 64-bit words in four lanes: tells whether the drive gives back
 * what was written. */
struct sum {
    uint64_t lane[4], n;
    uint8_t rest[32]; /* the last n % 32 bytes */
};

struct item {                        /* of the new file's data */
    const struct gguf_tensor *plain; /* NULL: the experts of `layer` */
    int layer;
};

struct model_pack {
    const struct model *m;
    struct gguf_writer *w;
    const void *header;
    size_t header_bytes;
    int64_t bytes;
    struct item *items;
    int n_items, n_layers;
    char (*names)[64]; /* of the parts; then the same as pointers */
    const char **name;
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

/* Where part `part` of an expert begins in it, or, for part = n_parts, its stride. */
static int64_t part_at(const struct expert_layer *x, int part)
{
    size_t at = 0;
    for (int i = 0; i < part; i++)
        at = align_up(at, PACK_PART_ALIGN) + x->part[i].bytes;
    return (int64_t)align_up(at, part == x->n_parts ? PACK_ALIGN : PACK_PART_ALIGN);
}

/* Is the tensor a matrix that goes into a packed one? */
static bool goes_in(const struct model *m, const struct gguf_tensor *t)
{
    int il = -1;
    if (sscanf(t->name, "blk.%d.", &il) != 1 || il < 0 || il >= m->c.n_layers)
        return false;
    for (int i = 0; i < m->experts[il].n_parts; i++)
        if (m->experts[il].part[i].file == t->file && m->experts[il].part[i].offset == t->offset)
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

static void add_part(struct model_pack *p, int layer, int i)
{
    const struct layer *l = &p->m->layers[layer];
    const struct config *c = &p->m->c;
    bool fused = l->fused_gate_up, last = i == p->m->experts[layer].n_parts - 1;
    const char *matrix = last ? "down" : fused ? "gate_up" : i == 0 ? "gate" : "up";
    int64_t width = fused ? 2 * c->expert_width : c->expert_width;
    uint64_t *shape = p->shapes + 3 * p->n_parts;
    snprintf(p->names[p->n_parts], sizeof(p->names[0]), "blk.%d.ffn_%s_exps.weight", layer, matrix);
    p->name[p->n_parts] = p->names[p->n_parts];
    p->types[p->n_parts++] = (uint32_t)(last ? l->down.type : i == 0 ? l->gate.type : l->up.type);
    shape[0] = (uint64_t)(last ? c->expert_width : c->n_embd);
    shape[1] = (uint64_t)(last ? c->n_embd : width);
    shape[2] = (uint64_t)c->n_experts;
}

static void list_items(struct model_pack *p)
{
    const struct model *m = p->m;
    for (int64_t i = 0; i < gguf_n_tensors(m->gguf); i++)
        if (!goes_in(m, gguf_tensor_at(m->gguf, i)))
            p->items[p->n_items++] = (struct item){.plain = gguf_tensor_at(m->gguf, i)};
    for (int il = 0; il < m->c.n_layers; il++)
        if (m->experts[il].n_experts) {
            p->items[p->n_items++] = (struct item){.layer = il};
            p->n_layers++;
            for (int i = 0; i < m->experts[il].n_parts; i++)
                add_part(p, il, i);
        }
}

static int make_header(struct model_pack *p, struct err *e)
{
    const struct gguf *g = p->m->gguf;
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
        const struct expert_layer *x = &p->m->experts[it->layer];
        char name[64];
        if (it->plain) {
            gguf_write_tensor(p->w, it->plain->name, it->plain->type, it->plain->n_dims,
                              it->plain->ne);
            continue;
        }
        snprintf(name, sizeof(name), PACK_TENSOR, it->layer);
        gguf_write_tensor(p->w, name, DT_I8, 2,
                          (const int64_t[]){part_at(x, x->n_parts), x->n_experts});
    }
    TRY(gguf_writer_end(p->w, &p->header, &p->header_bytes, &data_bytes, e));
    p->bytes = (int64_t)p->header_bytes + data_bytes;
    return OK;
}

/* The names of packed tensors must be free. */
static int check_names(const struct model *m, struct err *e)
{
    char name[64];
    for (int il = 0; il < m->c.n_layers; il++) {
        snprintf(name, sizeof(name), PACK_TENSOR, il);
        if (gguf_tensor_find(m->gguf, name))
            return err_set(e, E_FORMAT, "%s has a tensor '%s' already but does not say that it is packed; get the original file",
                           gguf_file_path(m->gguf, 0), name);
    }
    return OK;
}

int model_pack_new(const struct model *m, struct model_pack **out, struct err *e)
{
    if (m->packed.n)
        return err_set(e, E_STATE, "%s is packed already: there is nothing to do",
                       gguf_file_path(m->gguf, 0));
    TRY(check_names(m, e));
    size_t parts = (size_t)m->c.n_layers * EXPERT_MAX_PARTS;
    struct model_pack *p = calloc(1, sizeof(*p));
    int rc = OK;
    if (p) {
        p->m = m;
        p->w = gguf_writer_new(PACK_ALIGN);
        p->items =
            calloc((size_t)gguf_n_tensors(m->gguf) + (size_t)m->c.n_layers, sizeof(*p->items));
        p->names = calloc(parts, sizeof(*p->names));
        p->name = calloc(parts, sizeof(*p->name));
        p->types = calloc(parts, sizeof(*p->types));
        p->shapes = calloc(3 * parts, sizeof(*p->shapes));
    }
    if (!p || !p->w || !p->items || !p->names || !p->name || !p->types || !p->shapes)
        rc = err_set(e, E_NOMEM, "model: no memory to pack it");
    if (rc == OK) {
        list_items(p);
        rc = make_header(p, e);
    }
    if (rc < 0) {
        model_pack_free(p);
        return rc;
    }
    *out = p;
    return OK;
}

void model_pack_free(struct model_pack *p)
{
    if (!p)
        return;
    gguf_writer_free(p->w);
    free(p->items);
    free(p->names);
    free(p->name);
    free(p->types);
    free(p->shapes);
    free(p);
}

void model_pack_size(const struct model_pack *p, struct model_pack_size *s)
{
    *s = (struct model_pack_size){.bytes = p->bytes, .n_layers = p->n_layers};
    for (int il = 0; il < p->m->c.n_layers; il++)
        if (p->m->experts[il].n_experts)
            s->expert_bytes =
                MAX(s->expert_bytes, part_at(&p->m->experts[il], p->m->experts[il].n_parts));
}

/* ---- steps -------------------------------------------------------------------- */

struct step {
    int n_reads;
    struct { /* of the old file */
        int file;
        int64_t offset;
        size_t bytes;
    } read[EXPERT_MAX_PARTS];
    const struct expert_layer *experts; /* NULL: read[0] is copied as it is */
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

/* As many whole experts as fit. */
static void several(struct cursor *c, struct step *s, const struct expert_layer *x, int64_t stride)
{
    int64_t n = MIN(PIECE / stride, x->n_experts - c->expert);
    *s = (struct step){.n_reads = x->n_parts, .experts = x, .n_experts = n};
    for (int i = 0; i < x->n_parts; i++) {
        s->read[i].file = x->part[i].file;
        s->read[i].offset = x->part[i].offset + c->expert * x->part[i].stride;
        s->read[i].bytes = x->part[i].bytes * (size_t)n; /* the old file has stride = bytes */
    }
    c->expert += n;
}

/* False: the file is complete. */
static bool next_step(const struct model_pack *p, struct cursor *c, struct step *s)
{
    if (c->item == p->n_items)
        return false;
    const struct item *it = &p->items[c->item];
    const struct expert_layer *x = &p->m->experts[it->layer];
    if (it->plain) {
        const struct gguf_tensor *t = it->plain;
        c->item += piece(c, s, t->file, t->offset, t->bytes,
                         (int64_t)align_up((size_t)t->bytes, PACK_ALIGN));
        return true;
    }
    int64_t stride = part_at(x, x->n_parts);
    if (stride <= PIECE) {
        several(c, s, x, stride);
    } else {
        const struct expert_part *part = &x->part[c->part];
        if (piece(c, s, part->file, part->offset + c->expert * part->stride, (int64_t)part->bytes,
                  part_at(x, c->part + 1) - part_at(x, c->part)))
            c->part++;
        c->expert += c->part == x->n_parts;
        c->part %= x->n_parts;
    }
    if (c->expert == x->n_experts) {
        c->expert = 0;
        c->item++;
    }
    return true;
}

/* ---- writing ------------------------------------------------------------------- */

struct slot {
    struct step step;
    struct ioq_req req[EXPERT_MAX_PARTS];
    bool used;
};

struct writer {
    struct model_pack *p;
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
    const struct expert_layer *x = s->step.experts;
    uint8_t *buf = w->map + N_SLOTS * SLOT_BYTES;
    size_t stride = (size_t)part_at(x, x->n_parts);
    for (int64_t i = 0; i < s->step.n_experts; i++) {
        uint8_t *expert = buf + (size_t)i * stride;
        size_t end = 0;
        for (int r = 0; r < x->n_parts; r++) {
            size_t at = (size_t)part_at(x, r), bytes = x->part[r].bytes;
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

static int run_steps(struct writer *w, model_progress_fn *progress, void *user, struct err *e)
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

int64_t model_pack_memory(void)
{
    return (int64_t)N_SLOTS * SLOT_BYTES + PIECE;
}

int model_pack_write(struct model_pack *p, enum ioq_kind kind, struct os_out *out,
                     model_progress_fn *progress, void *user, struct err *e)
{
    struct writer w = {.p = p, .out = out};
    size_t map_bytes = (size_t)model_pack_memory();
    p->sum = (struct sum){0};
    TRY(ioq_open(&(struct ioq_config){.kind = kind}, &w.q, e));
    int rc = OK;
    for (int i = 0; i < gguf_n_files(p->m->gguf) && rc >= 0; i++)
        rc = ioq_add_file(w.q, gguf_file_path(p->m->gguf, i), e); /* i, as in expert_part.file */
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
                    model_progress_fn *progress, void *user, struct err *e)
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

/* The same model: everything but the experts' places. */
static int check_description(const struct model *m, const char *path, struct err *e)
{
    struct model *n = NULL;
    int rc = model_describe(path, false, &n, e);
    if (rc < 0)
        return rc;
    bool same = n->packed.n > 0 && n->c.n_layers == m->c.n_layers &&
                n->c.n_experts == m->c.n_experts && n->shape.dense_bytes == m->shape.dense_bytes &&
                n->shape.expert_bytes_per_token == m->shape.expert_bytes_per_token;
    for (int il = 0; same && il < m->c.n_layers; il++)
        same = n->layers[il].gate.type == m->layers[il].gate.type &&
               n->layers[il].up.type == m->layers[il].up.type &&
               n->layers[il].down.type == m->layers[il].down.type &&
               n->experts[il].n_parts == m->experts[il].n_parts;
    model_close(n);
    return same ? OK
                : err_set(e, E_STATE,
                          "%s does not describe the model it was made from; this is a mistake of "
                          "the program",
                          path);
}

static int read_back(const struct model_pack *p, enum ioq_kind kind, const char *path,
                     model_progress_fn *progress, void *user, struct err *e)
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

int model_pack_check(const struct model_pack *p, bool bytes_too, enum ioq_kind kind,
                     const char *path, model_progress_fn *progress, void *user, struct err *e)
{
    TRY(check_description(p->m, path, e));
    return bytes_too ? read_back(p, kind, path, progress, user, e) : OK;
}
