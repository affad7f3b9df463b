/*
 * Packed files: metadata and tensors -> where the matrices of each expert lie
 * (the format is in model_internal.h). Nothing in the file is believed: after
 * packed_read every matrix of every expert lies inside its packed tensor.
 */
#include "model/model_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AGAIN "pack the original again"

static int missing(const struct gguf *g, const char *key, const char *what, struct err *e)
{
    return err_set(
        e, E_FORMAT,
        "%s: the file says it is packed, but metadata key '%s' is missing or not %s; " AGAIN,
        gguf_file_path(g, 0), key, what);
}

static const struct gguf_value *array(const struct gguf *g, const char *key)
{
    const struct gguf_value *v = gguf_find(g, key);
    return v && v->is_array ? v : NULL;
}

/* The layer of blk.N.ffn_X_exps.weight; -1: the name is another. */
static int layer_of(const char *name)
{
    static const char *const forms[] = {"blk.%d.ffn_gate_exps.weight", "blk.%d.ffn_up_exps.weight",
                                        "blk.%d.ffn_down_exps.weight",
                                        "blk.%d.ffn_gate_up_exps.weight"};
    char full[64];
    int il = -1;
    if (sscanf(name, "blk.%d.", &il) != 1 || il < 0 || il >= MAX_LAYERS)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        snprintf(full, sizeof(full), forms[i], il);
        if (strcmp(full, name) == 0)
            return il;
    }
    return -1;
}

/* Name and layer of a part, and the tensor that it lies in. */
static int part_place(const struct gguf *g, struct packed_part *p, int i, struct str name,
                      struct err *e)
{
    char in[64];
    snprintf(p->name, sizeof(p->name), "%.*s", (int)MIN(name.n, sizeof(p->name) - 1), name.p);
    p->layer = strlen(p->name) == name.n ? layer_of(p->name) : -1;
    if (p->layer < 0)
        return err_set(e, E_FORMAT,
                       "%s: packed matrix %d has a name that is no expert matrix's; " AGAIN,
                       gguf_file_path(g, 0), i);
    snprintf(in, sizeof(in), PACK_TENSOR, p->layer);
    p->in = gguf_tensor_find(g, in);
    if (!p->in)
        return err_set(e, E_FORMAT, "%s: tensor '%s' is missing, which should hold '%s'; " AGAIN,
                       gguf_file_path(g, 0), in, p->name);
    if (gguf_tensor_find(g, p->name))
        return err_set(e, E_FORMAT, "%s: '%s' is there twice, packed and as a tensor; " AGAIN,
                       gguf_file_path(g, 0), p->name);
    if (p->in->type != DT_I8 || p->in->ne[2] != 1 || p->in->ne[3] != 1)
        return err_set(e, E_FORMAT,
                       "%s: tensor '%s' is %s with shape (%" PRId64 ", %" PRId64 ", %" PRId64
                       ", %" PRId64 "), expected I8 with shape (bytes of an expert, experts)",
                       gguf_file_path(g, 0), p->in->name, dtype_info(p->in->type)->name,
                       p->in->ne[0], p->in->ne[1], p->in->ne[2], p->in->ne[3]);
    return OK;
}

/* Type, shape and bytes of a part. `at`: where the parts before it in its expert end. */
static int part_size(const struct gguf *g, struct packed_part *p, uint64_t type,
                     const uint64_t ne[3], int64_t at, struct err *e)
{
    const struct dtype_info *info = type < DT_COUNT ? dtype_info((uint32_t)type) : NULL;
    int64_t stride = p->in->ne[0];
    if (!info)
        return err_set(e, E_UNSUPPORTED,
                       "%s: packed matrix '%s' has type %" PRIu64
                       ", which is not known; the file is damaged, or newer than this program",
                       gguf_file_path(g, 0), p->name, type);
    for (int d = 0; d < 3; d++)
        if (ne[d] < 1 || ne[d] > INT32_MAX || (d == 0 && ne[0] % info->block))
            return err_set(e, E_FORMAT,
                           "%s: packed matrix '%s' cannot have the shape (%" PRIu64 ", %" PRIu64
                           ", %" PRIu64 ") in type %s; " AGAIN,
                           gguf_file_path(g, 0), p->name, ne[0], ne[1], ne[2], info->name);
    if ((int64_t)ne[2] != p->in->ne[1])
        return err_set(e, E_FORMAT,
                       "%s: packed matrix '%s' is of %" PRIu64
                       " experts, but tensor '%s' has %" PRId64 "; " AGAIN,
                       gguf_file_path(g, 0), p->name, ne[2], p->in->name, p->in->ne[1]);
    size_t row = dtype_row_bytes((enum dtype)type, (int64_t)ne[0]); /* below 2^34 */
    if (at > stride || ne[1] > (uint64_t)(stride - at) / row)
        return err_set(e, E_FORMAT,
                       "%s: matrix '%s' needs %" PRIu64 " rows of %zu bytes from byte %" PRId64
                       " of an expert, but tensor '%s' has only %" PRId64 " bytes for each; " AGAIN,
                       gguf_file_path(g, 0), p->name, ne[1], row, at, p->in->name, stride);
    p->t = (struct gguf_tensor){.name = p->name,
                                .type = (enum dtype)type,
                                .n_dims = 3,
                                .ne = {(int64_t)ne[0], (int64_t)ne[1], (int64_t)ne[2], 1},
                                .file = p->in->file,
                                .offset = p->in->offset + at,
                                .bytes = (int64_t)(row * ne[1] * ne[2])}; /* <= that of `in` */
    return OK;
}

/* An expert's bytes end with its last matrix and the padding behind it. */
static int check_end(const struct gguf *g, const struct packed_part *last, int64_t end,
                     struct err *e)
{
    int64_t stride = (int64_t)align_up((size_t)end, PACK_ALIGN);
    if (stride == last->in->ne[0])
        return OK;
    return err_set(e, E_FORMAT,
                   "%s: the matrices of an expert of layer %d take %" PRId64
                   " bytes, so tensor '%s' should have %" PRId64 " for each, but has %" PRId64
                   "; " AGAIN,
                   gguf_file_path(g, 0), last->layer, end, last->in->name, stride, last->in->ne[0]);
}

static int read_parts(const struct gguf *g, struct packed *p, const struct str *names,
                      const struct gguf_value *types, const struct gguf_value *shapes,
                      struct err *e)
{
    int64_t end = 0; /* of the last part, in its expert */
    for (int i = 0; i < p->n; i++) {
        struct packed_part *part = &p->part[i], *before = i ? part - 1 : NULL;
        uint64_t type, ne[3];
        TRY(part_place(g, part, i, names[i], e));
        if (before && before->layer != part->layer) {
            TRY(check_end(g, before, end, e));
            end = 0;
        }
        if (before && before->layer > part->layer)
            return err_set(e, E_FORMAT,
                           "%s: packed matrix '%s' stands after one of layer %d; " AGAIN,
                           gguf_file_path(g, 0), part->name, before->layer);
        for (int j = i - 1; j >= 0 && p->part[j].layer == part->layer; j--)
            if (strcmp(p->part[j].name, part->name) == 0)
                return err_set(e, E_FORMAT, "%s: packed matrix '%s' is there twice; " AGAIN,
                               gguf_file_path(g, 0), part->name);
        if (!gguf_value_u64(types, (uint64_t)i, &type))
            return missing(g, "sluice.pack.part.type", "a list of types", e);
        for (int d = 0; d < 3; d++)
            if (!gguf_value_u64(shapes, (uint64_t)(3 * i + d), &ne[d]))
                return missing(g, "sluice.pack.part.shape", "a list of sizes", e);
        int64_t at = (int64_t)align_up((size_t)end, PACK_PART_ALIGN);
        TRY(part_size(g, part, type, ne, at, e));
        end = at + part->t.bytes / part->t.ne[2];
    }
    return check_end(g, &p->part[p->n - 1], end, e);
}

int packed_read(const struct gguf *g, struct packed *p, struct err *e)
{
    const struct gguf_value *version = gguf_find(g, "sluice.pack.version");
    uint64_t number;
    if (!version)
        return OK;
    if (version->is_array || !gguf_value_u64(version, 0, &number))
        return missing(g, "sluice.pack.version", "a number", e);
    if (number != PACK_VERSION)
        return err_set(e, E_UNSUPPORTED,
                       "%s: it is packed in version %" PRIu64
                       " of the form, this program reads version %d; use a newer one, or pack the "
                       "original again",
                       gguf_file_path(g, 0), number, PACK_VERSION);
    const struct gguf_value *names = array(g, "sluice.pack.part.name"),
                            *types = array(g, "sluice.pack.part.type"),
                            *shapes = array(g, "sluice.pack.part.shape");
    if (!names || names->type != GGUF_STRING || names->n == 0)
        return missing(g, "sluice.pack.part.name", "a list of names", e);
    if (!types || !shapes)
        return missing(g, types ? "sluice.pack.part.shape" : "sluice.pack.part.type", "a list", e);
    if (names->n > EXPERT_MAX_PARTS * MAX_LAYERS || types->n != names->n ||
        shapes->n != 3 * names->n)
        return err_set(
            e, E_FORMAT,
            "%s: the lists of packed matrices have %" PRIu64 " names, %" PRIu64
            " types and %" PRIu64
            " sizes; expected at most %d names, as many types, three times as many sizes; " AGAIN,
            gguf_file_path(g, 0), names->n, types->n, shapes->n, EXPERT_MAX_PARTS * MAX_LAYERS);
    struct str *name = calloc(names->n, sizeof(*name));
    p->part = calloc(names->n, sizeof(*p->part));
    p->n = (int)names->n;
    int rc = OK;
    if (!name || !p->part)
        rc = err_set(e, E_NOMEM, "model: no memory for %" PRIu64 " packed matrices", names->n);
    else if (!gguf_value_strs(names, name))
        rc = missing(g, "sluice.pack.part.name", "a list of names", e);
    if (rc == OK)
        rc = read_parts(g, p, name, types, shapes, e);
    free(name);
    if (rc < 0)
        packed_free(p);
    return rc;
}

void packed_free(struct packed *p)
{
    free(p->part);
    *p = (struct packed){0};
}

const struct packed_part *packed_find(const struct packed *p, const char *name)
{
    for (int i = 0; i < p->n; i++)
        if (strcmp(p->part[i].name, name) == 0)
            return &p->part[i];
    return NULL;
}

bool packed_holds(const struct packed *p, const struct gguf_tensor *t)
{
    for (int i = 0; i < p->n && t->type == DT_I8; i++)
        if (p->part[i].in == t)
            return true;
    return false;
}
