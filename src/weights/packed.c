/*
 * Packed files: metadata and tensors -> where the matrices of each expert lie
 * (the format is in weights_internal.h). Nothing in the file is believed: after
 * weights_unpack every matrix of every expert lies inside its packed tensor.
 */
#include "weights/weights_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AGAIN "pack the original again"

static int missing(const struct weights *w, const char *key, const char *what, struct err *e)
{
    return err_set(
        e, E_FORMAT,
        "%s: the file says it is packed, but metadata key '%s' is missing or not %s; " AGAIN,
        weights_path(w, 0), key, what);
}

static const struct meta *array(const struct weights *w, const char *key)
{
    const struct meta *v = weights_meta(w, key);
    return v && v->is_array ? v : NULL;
}

/* The layer of blk.N.ffn_X_exps.weight or .bias; -1: the name is another. */
static int layer_of(const char *name)
{
    static const char *const forms[] = {
        "blk.%d.ffn_gate_exps.weight", "blk.%d.ffn_up_exps.weight", "blk.%d.ffn_down_exps.weight",
        "blk.%d.ffn_gate_up_exps.weight", "blk.%d.ffn_gate_exps.bias", "blk.%d.ffn_up_exps.bias",
        "blk.%d.ffn_down_exps.bias", "blk.%d.ffn_gate_up_exps.bias"};
    char full[64];
    int il = -1;
    if (sscanf(name, "blk.%d.", &il) != 1 || il < 0 || il >= PACK_MAX_LAYERS)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        snprintf(full, sizeof(full), forms[i], il);
        if (strcmp(full, name) == 0)
            return il;
    }
    return -1;
}

/* A matrix that lies in a packed tensor, while the lists are read. */
struct part {
    struct tensor *t; /* as it will stand in the list of tensors */
    char *name;       /* 64 */
    int layer;
};

/* Name and layer of a part, and the tensor that it lies in. */
static int part_place(const struct weights *w, struct part *p, int i, struct str name,
                      struct err *e)
{
    char in[64];
    snprintf(p->name, 64, "%.*s", (int)MIN(name.n, (size_t)63), name.p);
    p->layer = strlen(p->name) == name.n ? layer_of(p->name) : -1;
    if (p->layer < 0)
        return err_set(e, E_FORMAT,
                       "%s: packed matrix %d has a name that is no expert matrix's or bias's; "
                       AGAIN,
                       weights_path(w, 0), i);
    snprintf(in, sizeof(in), PACK_TENSOR, p->layer);
    const struct tensor *t = p->t->inside = weights_find(w, in);
    if (!t)
        return err_set(e, E_FORMAT, "%s: tensor '%s' is missing, which should hold '%s'; " AGAIN,
                       weights_path(w, 0), in, p->name);
    if (weights_find(w, p->name))
        return err_set(e, E_FORMAT, "%s: '%s' is there twice, packed and as a tensor; " AGAIN,
                       weights_path(w, 0), p->name);
    if (t->type != DT_I8 || t->ne[2] != 1 || t->ne[3] != 1)
        return err_set(e, E_FORMAT,
                       "%s: tensor '%s' is %s with shape (%" PRId64 ", %" PRId64 ", %" PRId64
                       ", %" PRId64 "), expected I8 with shape (bytes of an expert, experts)",
                       weights_path(w, 0), t->name, dtype_info(t->type)->name, t->ne[0], t->ne[1],
                       t->ne[2], t->ne[3]);
    return OK;
}

/* Type, shape and bytes of a part. `at`: where the parts before it in its expert end. */
/* Biases are a vector of each expert, (n, n_experts); all else matrices, (n, rows, n_experts). */
static int part_size(const struct weights *w, struct part *p, uint64_t type, const uint64_t ne[3],
                     int64_t at, struct err *e)
{
    const struct dtype_info *info = type < DT_COUNT ? dtype_info((uint32_t)type) : NULL;
    const struct tensor *in = p->t->inside;
    const bool vector = strstr(p->name, ".bias") != NULL;
    const uint64_t rows = vector ? 1 : ne[1], n_experts = vector ? ne[1] : ne[2];
    int64_t stride = in->ne[0];
    if (!info)
        return err_set(e, E_UNSUPPORTED,
                       "%s: packed matrix '%s' has type %" PRIu64
                       ", which is not known; the file is damaged, or newer than this program",
                       weights_path(w, 0), p->name, type);
    for (int d = 0; d < 3; d++)
        if (ne[d] < 1 || ne[d] > INT32_MAX || (d == 0 && ne[0] % info->block))
            return err_set(e, E_FORMAT,
                           "%s: packed matrix '%s' cannot have the shape (%" PRIu64 ", %" PRIu64
                           ", %" PRIu64 ") in type %s; " AGAIN,
                           weights_path(w, 0), p->name, ne[0], ne[1], ne[2], info->name);
    if ((int64_t)n_experts != in->ne[1] || (vector && ne[2] != 1))
        return err_set(e, E_FORMAT,
                       "%s: packed matrix '%s' is of %" PRIu64
                       " experts, but tensor '%s' has %" PRId64 "; " AGAIN,
                       weights_path(w, 0), p->name, n_experts, in->name, in->ne[1]);
    size_t row = dtype_row_bytes((enum dtype)type, (int64_t)ne[0]); /* below 2^34 */
    if (at > stride || rows > (uint64_t)(stride - at) / row)
        return err_set(e, E_FORMAT,
                       "%s: matrix '%s' needs %" PRIu64 " rows of %zu bytes from byte %" PRId64
                       " of an expert, but tensor '%s' has only %" PRId64 " bytes for each; " AGAIN,
                       weights_path(w, 0), p->name, rows, row, at, in->name, stride);
    *p->t = (struct tensor){.name = p->name,
                            .type = (enum dtype)type,
                            .n_dims = vector ? 2 : 3,
                            .ne = {(int64_t)ne[0], (int64_t)ne[1], (int64_t)ne[2], 1},
                            .file = in->file,
                            .offset = in->offset + at,
                            .stride = stride,
                            .bytes = (int64_t)(row * rows * n_experts), /* <= that of `in` */
                            .inside = in};
    return OK;
}

/* An expert's bytes end with its last matrix and the padding behind it. */
static int check_end(const struct weights *w, const struct part *last, int64_t end, struct err *e)
{
    int64_t stride = (int64_t)align_up((size_t)end, PACK_ALIGN);
    const struct tensor *in = last->t->inside;
    if (stride == in->ne[0])
        return OK;
    return err_set(e, E_FORMAT,
                   "%s: the matrices of an expert of layer %d take %" PRId64
                   " bytes, so tensor '%s' should have %" PRId64 " for each, but has %" PRId64
                   "; " AGAIN,
                   weights_path(w, 0), last->layer, end, in->name, stride, in->ne[0]);
}

/* The three lists, which have one length. */
struct lists {
    const struct meta *names, *types, *shapes;
};

static int part_read(const struct weights *w, const struct lists *l, struct part *p, int64_t i,
                     int64_t at, struct err *e)
{
    uint64_t type, ne[3];
    if (!meta_u64(l->types, (uint64_t)i, &type))
        return missing(w, "sluice.pack.part.type", "a list of types", e);
    for (int d = 0; d < 3; d++)
        if (!meta_u64(l->shapes, (uint64_t)(3 * i + d), &ne[d]))
            return missing(w, "sluice.pack.part.shape", "a list of sizes", e);
    return part_size(w, p, type, ne, at, e);
}

/* Parts of the same layer stand together, and none of them twice. */
static int check_order(const struct weights *w, const struct part *parts, int64_t i, struct err *e)
{
    const struct part *p = &parts[i];
    if (i > 0 && p[-1].layer > p->layer)
        return err_set(e, E_FORMAT, "%s: packed matrix '%s' stands after one of layer %d; " AGAIN,
                       weights_path(w, 0), p->name, p[-1].layer);
    for (int64_t j = i - 1; j >= 0 && parts[j].layer == p->layer; j--)
        if (strcmp(parts[j].name, p->name) == 0)
            return err_set(e, E_FORMAT, "%s: packed matrix '%s' is there twice; " AGAIN,
                           weights_path(w, 0), p->name);
    return OK;
}

static int read_parts(const struct weights *w, const struct lists *l, struct part *parts,
                      const struct str *names, struct err *e)
{
    int64_t end = 0, n = (int64_t)l->names->n; /* end: of the last part, in its expert */
    for (int64_t i = 0; i < n; i++) {
        struct part *p = &parts[i];
        TRY(part_place(w, p, (int)i, names[i], e));
        if (i > 0 && p[-1].layer != p->layer) {
            TRY(check_end(w, p - 1, end, e));
            end = 0;
        }
        TRY(check_order(w, parts, i, e));
        int64_t at = (int64_t)align_up((size_t)end, PACK_PART_ALIGN);
        TRY(part_read(w, l, p, i, at, e));
        end = at + p->t->bytes / p->t->inside->ne[1];
    }
    return check_end(w, &parts[n - 1], end, e);
}

/* The tensors of the files with `n` more behind them, not yet of `w`. */
static int add_parts(struct weights *w, const struct lists *l, struct err *e)
{
    size_t n = (size_t)l->names->n, own = (size_t)w->n_own;
    struct str *names = calloc(n, sizeof(*names));
    struct part *parts = calloc(n, sizeof(*parts));
    struct tensor *all = calloc(own + n + 1, sizeof(*all));
    char(*text)[64] = calloc(n, sizeof(*text));
    int rc = OK;
    if (!names || !parts || !all || !text)
        rc = err_set(e, E_NOMEM, "model: no memory for %zu packed matrices", n);
    else if (!meta_strs(l->names, names))
        rc = missing(w, "sluice.pack.part.name", "a list of names", e);
    for (size_t i = 0; rc == OK && i < n; i++)
        parts[i] = (struct part){.t = &all[own + i], .name = text[i]};
    if (rc == OK)
        rc = read_parts(w, l, parts, names, e);
    if (rc == OK) {
        memcpy(all, w->tensors, own * sizeof(*all));
        for (size_t i = 0; i < n; i++) {
            struct tensor *in = &all[all[own + i].inside - w->tensors];
            all[own + i].inside = in;
            in->packs = true;
        }
        free(w->tensors);
        w->tensors = all;
        w->n_tensors = (int64_t)(own + n);
        w->part_names = text;
        rc = weights_index(w, e);
    } else {
        free(all);
        free(text);
    }
    free(names);
    free(parts);
    return rc;
}

int weights_unpack(struct weights *w, struct err *e)
{
    const struct meta *version = weights_meta(w, "sluice.pack.version");
    uint64_t number;
    if (!version || weights_are_packed(w))
        return OK;
    if (version->is_array || !meta_u64(version, 0, &number))
        return missing(w, "sluice.pack.version", "a number", e);
    if (number != PACK_VERSION)
        return err_set(e, E_UNSUPPORTED,
                       "%s: it is packed in version %" PRIu64
                       " of the form, this program reads version %d; use a newer one, or pack the "
                       "original again",
                       weights_path(w, 0), number, PACK_VERSION);
    struct lists l = {array(w, "sluice.pack.part.name"), array(w, "sluice.pack.part.type"),
                      array(w, "sluice.pack.part.shape")};
    if (!l.names || l.names->kind != META_TEXT || l.names->n == 0)
        return missing(w, "sluice.pack.part.name", "a list of names", e);
    if (!l.types || !l.shapes)
        return missing(w, l.types ? "sluice.pack.part.shape" : "sluice.pack.part.type", "a list",
                       e);
    if (l.names->n > WEIGHTS_MAX_PARTS * PACK_MAX_LAYERS || l.types->n != l.names->n ||
        l.shapes->n != 3 * l.names->n)
        return err_set(
            e, E_FORMAT,
            "%s: the lists of packed matrices have %" PRIu64 " names, %" PRIu64
            " types and %" PRIu64
            " sizes; expected at most %d names, as many types, three times as many sizes; " AGAIN,
            weights_path(w, 0), l.names->n, l.types->n, l.shapes->n,
            WEIGHTS_MAX_PARTS * PACK_MAX_LAYERS);
    return add_parts(w, &l, e);
}
