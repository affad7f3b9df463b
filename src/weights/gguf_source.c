/* GGUF files as a source of tensors and metadata. */
#include "weights/weights_internal.h"

#include <stdlib.h>

static struct tensor tensor_of(const struct gguf_tensor *t)
{
    return (struct tensor){.name = t->name, .type = t->type, .n_dims = t->n_dims,
                           .ne = {t->ne[0], t->ne[1], t->ne[2], t->ne[3]}, .file = t->file,
                           .offset = t->offset, .stride = t->bytes / (t->ne[2] * t->ne[3]),
                           .bytes = t->bytes};
}

static enum meta_kind kind_of(enum gguf_type t)
{
    switch (t) {
    case GGUF_BOOL: return META_BOOL;
    case GGUF_F32:
    case GGUF_F64: return META_REAL;
    case GGUF_STRING: return META_TEXT;
    case GGUF_ARRAY: return META_LIST;
    case GGUF_U8: case GGUF_I8: case GGUF_U16: case GGUF_I16:
    case GGUF_U32: case GGUF_I32: case GGUF_U64: case GGUF_I64: break;
    }
    return META_INT;
}

int gguf_source_read(struct weights *w, struct err *e)
{
    w->n_own = w->n_tensors = gguf_n_tensors(w->gguf);
    w->n_meta = gguf_n_values(w->gguf);
    w->tensors = calloc((size_t)w->n_own + 1, sizeof(*w->tensors));
    w->meta = calloc((size_t)w->n_meta + 1, sizeof(*w->meta));
    if (!w->tensors || !w->meta)
        return err_set(e, E_NOMEM, "model: no memory for a list of %lld tensors",
                       (long long)w->n_own);
    for (int64_t i = 0; i < w->n_own; i++)
        w->tensors[i] = tensor_of(gguf_tensor_at(w->gguf, i));
    for (int64_t i = 0; i < w->n_meta; i++) {
        const struct gguf_value *v = gguf_value_at(w->gguf, i);
        w->meta[i] = (struct meta){.key = v->key, .type = gguf_type_name(v->type),
                                   .kind = kind_of(v->type), .is_array = v->is_array,
                                   .n = v->n, .source = v};
    }
    return OK;
}

bool meta_u64(const struct meta *v, uint64_t i, uint64_t *out)
{
    return gguf_value_u64(v->source, i, out);
}

bool meta_i64(const struct meta *v, uint64_t i, int64_t *out)
{
    return gguf_value_i64(v->source, i, out);
}

bool meta_f64(const struct meta *v, uint64_t i, double *out)
{
    return gguf_value_f64(v->source, i, out);
}

bool meta_str(const struct meta *v, struct str *out)
{
    return gguf_value_str(v->source, out);
}

bool meta_strs(const struct meta *v, struct str *out)
{
    return gguf_value_strs(v->source, out);
}
