/*
 * The header of a new GGUF file, version 3, in memory: gguf_parse.c shows the
 * format. Tensors' data stand in the order of the descriptions and without
 * gaps but the padding, which is what strict readers insist on.
 */
#include "gguf/gguf_internal.h"

#include <stdlib.h>
#include <string.h>

enum { VERSION = 3, N_TENSORS_AT = 8, N_VALUES_AT = 16 };

struct gguf_writer {
    uint8_t *p;
    size_t n, cap;
    bool failed; /* no memory; what was added since is lost */
    uint32_t alignment;
    uint64_t n_values, n_tensors;
    int64_t data_bytes; /* where the next tensor's data begin */
};

static void put(struct gguf_writer *w, const void *p, size_t n)
{
    if (!w->failed && w->n + n > w->cap) {
        size_t cap = MAX(2 * w->cap, w->n + n + 4096);
        uint8_t *q = realloc(w->p, cap);

        w->failed = !q;
        if (q) {
            w->p = q;
            w->cap = cap;
        }
    }
    if (w->failed || n == 0)
        return;
    memcpy(w->p + w->n, p, n);
    w->n += n;
}

static void store(uint8_t *p, uint64_t x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(x >> 8 * i);
}

/* The low n bytes of x, little endian. */
static void put_int(struct gguf_writer *w, uint64_t x, size_t n)
{
    uint8_t bytes[8];

    store(bytes, x, n);
    put(w, bytes, n);
}

static void put_str(struct gguf_writer *w, const char *p, size_t n)
{
    put_int(w, n, 8);
    put(w, p, n);
}

static void put_key(struct gguf_writer *w, const char *key, enum gguf_type type)
{
    w->n_values++;
    put_str(w, key, strlen(key));
    put_int(w, type, 4);
}

static void put_key_array(struct gguf_writer *w, const char *key, enum gguf_type type, uint64_t n)
{
    put_key(w, key, GGUF_ARRAY);
    put_int(w, type, 4);
    put_int(w, n, 8);
}

struct gguf_writer *gguf_writer_new(uint32_t alignment)
{
    struct gguf_writer *w = calloc(1, sizeof *w);

    if (!w)
        return NULL;
    w->alignment = alignment;
    put(w, "GGUF", 4);
    put_int(w, VERSION, 4);
    put_int(w, 0, 8); /* the counts are known at the end */
    put_int(w, 0, 8);
    gguf_write_u32(w, "general.alignment", alignment);
    return w;
}

void gguf_writer_free(struct gguf_writer *w)
{
    if (!w)
        return;
    free(w->p);
    free(w);
}

void gguf_write_value(struct gguf_writer *w, const struct gguf_value *v)
{
    w->n_values++;
    put_str(w, v->key.p, v->key.n);
    if (v->is_array) {
        put_int(w, GGUF_ARRAY, 4);
        put_int(w, v->type, 4);
        put_int(w, v->n, 8);
    } else {
        put_int(w, v->type, 4);
    }
    put(w, v->raw, gguf_raw_bytes(v));
}

void gguf_write_u32(struct gguf_writer *w, const char *key, uint32_t x)
{
    put_key(w, key, GGUF_U32);
    put_int(w, x, 4);
}

void gguf_write_u32s(struct gguf_writer *w, const char *key, const uint32_t *x, uint64_t n)
{
    put_key_array(w, key, GGUF_U32, n);
    for (uint64_t i = 0; i < n; i++)
        put_int(w, x[i], 4);
}

void gguf_write_u64s(struct gguf_writer *w, const char *key, const uint64_t *x, uint64_t n)
{
    put_key_array(w, key, GGUF_U64, n);
    for (uint64_t i = 0; i < n; i++)
        put_int(w, x[i], 8);
}

void gguf_write_strs(struct gguf_writer *w, const char *key, const char *const *x, uint64_t n)
{
    put_key_array(w, key, GGUF_STRING, n);
    for (uint64_t i = 0; i < n; i++)
        put_str(w, x[i], strlen(x[i]));
}

void gguf_write_tensor(struct gguf_writer *w, const char *name, enum dtype type, int n_dims,
                       const int64_t *ne)
{
    int64_t rows = 1;

    w->n_tensors++;
    put_str(w, name, strlen(name));
    put_int(w, (uint64_t)n_dims, 4);
    for (int d = 0; d < n_dims; d++) {
        put_int(w, (uint64_t)ne[d], 8);
        rows *= d ? ne[d] : 1;
    }
    put_int(w, type, 4);
    put_int(w, (uint64_t)w->data_bytes, 8);
    w->data_bytes += (int64_t)align_up(dtype_row_bytes(type, ne[0]) * (size_t)rows, w->alignment);
}

int gguf_writer_end(struct gguf_writer *w, const void **header, size_t *header_bytes,
                    int64_t *data_bytes, struct err *e)
{
    while (!w->failed && w->n % w->alignment)
        put(w, "", 1);
    if (w->failed)
        return err_set(e, E_NOMEM, "no memory for the header of the new file");
    store(w->p + N_TENSORS_AT, w->n_tensors, 8);
    store(w->p + N_VALUES_AT, w->n_values, 8);
    *header = w->p;
    *header_bytes = w->n;
    *data_bytes = w->data_bytes;
    return OK;
}
