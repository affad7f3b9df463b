#include "support/gguf_build.h"

#include <stdlib.h>
#include <string.h>

void gb_free(struct gb *b)
{
    free(b->p);
    *b = (struct gb){0};
}

static uint8_t *more(struct gb *b, size_t n)
{
    if (b->cap - b->n < n) {
        b->cap = 2 * (b->n + n) + 64;
        b->p = realloc(b->p, b->cap);
        if (!b->p)
            abort();
    }
    b->n += n;
    return b->p + b->n - n;
}

void gb_put(struct gb *b, const void *p, size_t n)
{
    if (n)
        memcpy(more(b, n), p, n);
}

void gb_zero(struct gb *b, size_t n)
{
    if (n)
        memset(more(b, n), 0, n);
}

void gb_pad(struct gb *b, size_t align)
{
    gb_zero(b, align_up(b->n, align) - b->n);
}

static void little_endian(struct gb *b, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        *more(b, 1) = (uint8_t)(v >> 8 * i);
}

void gb_u8(struct gb *b, unsigned v)
{
    little_endian(b, v, 1);
}

void gb_u16(struct gb *b, unsigned v)
{
    little_endian(b, v, 2);
}

void gb_u32(struct gb *b, uint32_t v)
{
    little_endian(b, v, 4);
}

void gb_u64(struct gb *b, uint64_t v)
{
    little_endian(b, v, 8);
}

void gb_f32(struct gb *b, float v)
{
    uint32_t bits;

    memcpy(&bits, &v, sizeof bits);
    gb_u32(b, bits);
}

void gb_f64(struct gb *b, double v)
{
    uint64_t bits;

    memcpy(&bits, &v, sizeof bits);
    gb_u64(b, bits);
}

void gb_str(struct gb *b, const char *s)
{
    gb_u64(b, strlen(s));
    gb_put(b, s, strlen(s));
}

void gb_head(struct gb *b, uint32_t version, uint64_t n_tensors, uint64_t n_kv)
{
    gb_put(b, "GGUF", 4);
    gb_u32(b, version);
    gb_u64(b, n_tensors);
    gb_u64(b, n_kv);
}

void gb_key(struct gb *b, const char *key, uint32_t type)
{
    gb_str(b, key);
    gb_u32(b, type);
}

void gb_key_array(struct gb *b, const char *key, uint32_t type, uint64_t n)
{
    gb_key(b, key, GGUF_ARRAY);
    gb_u32(b, type);
    gb_u64(b, n);
}

void gb_kv_u32(struct gb *b, const char *key, uint32_t v)
{
    gb_key(b, key, GGUF_U32);
    gb_u32(b, v);
}

void gb_kv_str(struct gb *b, const char *key, const char *v)
{
    gb_key(b, key, GGUF_STRING);
    gb_str(b, v);
}

void gb_tensor(struct gb *b, const char *name, int n_dims, const uint64_t *ne, uint32_t type,
               uint64_t offset)
{
    gb_str(b, name);
    gb_u32(b, (uint32_t)n_dims);
    for (int i = 0; i < n_dims; i++)
        gb_u64(b, ne[i]);
    gb_u32(b, type);
    gb_u64(b, offset);
}

void gb_tensor1(struct gb *b, const char *name, uint64_t ne, uint32_t type, uint64_t offset)
{
    gb_tensor(b, name, 1, &ne, type, offset);
}

void gb_data(struct gb *b, size_t n)
{
    gb_pad(b, 32);
    gb_zero(b, n);
}

/* ---- invariants ------------------------------------------------------- */

static volatile unsigned sink;

/* Reads every byte, so that a sanitizer sees a wrong pointer. */
static void touch(const void *p, size_t n)
{
    unsigned sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += ((const uint8_t *)p)[i];
    sink += sum;
}

static const char *value_breach(const struct gguf_value *v)
{
    uint64_t u, n = MIN(v->n, 4096);
    int64_t s;
    double d;
    struct str one, *all;

    if (v->key.n == 0 || memchr(v->key.p, 0, v->key.n))
        return "a key is empty or contains a zero byte";
    if (v->type > GGUF_F64 || (v->type == GGUF_ARRAY && !v->is_array) ||
        !gguf_type_name(v->type)[0])
        return "a value has no type";
    if (!v->is_array && v->n != 1)
        return "a scalar does not count as one element";
    if (v->type != GGUF_STRING)
        touch(v->raw, gguf_scalar_bytes(v->type) * v->n);
    for (uint64_t i = 0; i <= n; i++) {
        bool is_u = gguf_value_u64(v, i, &u), is_s = gguf_value_i64(v, i, &s);

        if (i == v->n && (is_u || is_s || gguf_value_f64(v, i, &d)))
            return "an element behind the end of an array is given out";
        if (is_u && is_s && (int64_t)u != s)
            return "an element has two values";
        if (v->type == GGUF_BOOL && i < v->n && (!is_u || u > 1))
            return "a bool is neither 0 nor 1";
        if (i < v->n && v->type != GGUF_STRING && v->type != GGUF_BOOL && v->type != GGUF_ARRAY &&
            !gguf_value_f64(v, i, &d))
            return "a number does not convert to double";
    }
    if (gguf_value_str(v, &one)) {
        if (v->is_array || v->type != GGUF_STRING)
            return "something else is given out as a string";
        touch(one.p, one.n);
    }
    if (v->type != GGUF_STRING || !v->is_array)
        return NULL;
    all = malloc((size_t)(v->n + 1) * sizeof *all);
    if (!all)
        abort();
    if (!gguf_value_strs(v, all))
        return "an array of strings is not given out";
    for (uint64_t i = 0; i < v->n; i++)
        touch(all[i].p, all[i].n);
    free(all);
    return NULL;
}

static const char *tensor_breach(const struct gguf *g, const struct gguf_tensor *t)
{
    const struct dtype_info *info = dtype_info((uint32_t)t->type);
    size_t len = strlen(t->name);
    int64_t n = 1;

    if (len == 0 || len > GGUF_NAME_MAX)
        return "a tensor's name is empty or too long";
    if (!info || !info->block)
        return "a tensor's type is unknown";
    if (t->n_dims < 1 || t->n_dims > 4)
        return "a tensor's n_dims is wrong";
    for (int d = 0; d < 4; d++) {
        if (t->ne[d] < 1 || (d >= t->n_dims && t->ne[d] != 1))
            return "a tensor's ne is wrong";
        if (t->ne[d] > INT64_MAX / n)
            return "a tensor's elements overflow";
        n *= t->ne[d];
    }
    if (t->ne[0] % info->block)
        return "a tensor's row is not whole blocks";
    if (t->bytes % info->block_bytes || t->bytes / info->block_bytes != n / info->block)
        return "a tensor's size is wrong";
    if (t->file < 0 || t->file >= gguf_n_files(g))
        return "a tensor's file does not exist";
    if (t->offset < 0 || t->bytes < 1 || t->offset > gguf_file_bytes(g, t->file) ||
        t->bytes > gguf_file_bytes(g, t->file) - t->offset)
        return "a tensor lies outside its file";
    return NULL;
}

const char *gguf_breach(const struct gguf *g)
{
    const char *wrong;

    if (gguf_n_files(g) < 1 || (gguf_version(g) != 2 && gguf_version(g) != 3))
        return "no file, or an impossible version";
    for (int f = 0; f < gguf_n_files(g); f++)
        if (!gguf_file_path(g, f) || gguf_file_bytes(g, f) < 24)
            return "a file has no path or no bytes";
    if (gguf_file_path(g, gguf_n_files(g)) || gguf_file_path(g, -1))
        return "a file too many is given out";
    for (int64_t i = 0; i < gguf_n_values(g); i++) {
        const struct gguf_value *v = gguf_value_at(g, i);
        char key[64];

        if ((wrong = value_breach(v)))
            return wrong;
        if (v->key.n >= sizeof key)
            continue;
        memcpy(key, v->key.p, v->key.n);
        key[v->key.n] = '\0';
        if (gguf_find(g, key) != v)
            return "a key is not found, or twice there";
    }
    for (int64_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);

        if ((wrong = tensor_breach(g, t)))
            return wrong;
        if (gguf_tensor_find(g, t->name) != t)
            return "a tensor is not found, or twice there";
        for (int64_t k = 0; k < i; k++) {
            const struct gguf_tensor *o = gguf_tensor_at(g, k);

            if (o->file == t->file && o->offset < t->offset + t->bytes &&
                t->offset < o->offset + o->bytes)
                return "two tensors overlap";
        }
    }
    if (gguf_value_at(g, -1) || gguf_value_at(g, gguf_n_values(g)) || gguf_tensor_at(g, -1) ||
        gguf_tensor_at(g, gguf_n_tensors(g)) || gguf_find(g, "") || gguf_tensor_find(g, "") ||
        gguf_tensor_find(g, "no such tensor: its name is far too long for the format, anyhow."))
        return "something is given out that does not exist";
    return NULL;
}
