#include "support/remake.h"

#include "gguf/gguf_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUST(x)                                                                      \
    do {                                                                             \
        if (!(x)) {                                                                  \
            fprintf(stderr, "remake: %s does not hold\n", #x);                       \
            abort();                                                                 \
        }                                                                            \
    } while (0)

/* ---- keys -------------------------------------------------------------------- */

static size_t put_number(uint8_t *p, enum gguf_type type, double d)
{
    size_t n = gguf_scalar_bytes(type);
    int64_t i = type == GGUF_F32 || type == GGUF_F64 ? 0 : (int64_t)d;
    float f = (float)d;
    if (type == GGUF_F32)
        memcpy(p, &f, n);
    else if (type == GGUF_F64)
        memcpy(p, &d, n);
    else
        memcpy(p, &i, n); /* tests run on little-endian machines */
    return n;
}

static size_t put_text(uint8_t *p, const char *s)
{
    uint64_t n = strlen(s);
    memcpy(p, &n, 8);
    memcpy(p + 8, s, n);
    return 8 + n;
}

static void write_key(struct gguf_writer *w, const struct remake_key *k)
{
    static uint8_t raw[4096];
    size_t n = 0;
    for (int i = 0; i < (k->is_array ? k->n : 1); i++)
        n += k->type == GGUF_STRING ? put_text(raw + n, k->text)
                                    : put_number(raw + n, k->type, k->number[i % 8]);
    MUST(n <= sizeof raw);
    gguf_write_value(w, &(struct gguf_value){.key = {k->key, strlen(k->key)},
                                             .type = k->type, .is_array = k->is_array,
                                             .n = k->is_array ? (uint64_t)k->n : 1, .raw = raw});
}

static void write_list(struct gguf_writer *w, const struct remake_list *l)
{
    static uint8_t raw[1 << 15];
    size_t n = 0;
    for (int i = 0; i < l->n; i++)
        n += l->type == GGUF_STRING ? put_text(raw + n, l->texts[i])
                                    : put_number(raw + n, l->type, l->numbers[i]);
    MUST(n <= sizeof raw);
    gguf_write_value(w, &(struct gguf_value){.key = {l->key, strlen(l->key)}, .type = l->type,
                                             .is_array = true, .n = (uint64_t)l->n, .raw = raw});
}

static bool is_named(struct str s, const char *name)
{
    return name && s.n == strlen(name) && memcmp(s.p, name, s.n) == 0;
}

static void write_keys(struct gguf_writer *w, const struct gguf *g, const struct remake *r)
{
    for (int64_t i = 0; i < gguf_n_values(g) && !r->bare; i++) {
        const struct gguf_value *v = gguf_value_at(g, i);
        bool replaced = is_named(v->key, "general.alignment") || is_named(v->key, r->without);
        for (int k = 0; k < r->n_keys; k++)
            replaced |= is_named(v->key, r->keys[k].key);
        for (int k = 0; k < r->n_lists; k++)
            replaced |= is_named(v->key, r->lists[k].key);
        if (!replaced)
            gguf_write_value(w, v);
    }
    for (int k = 0; k < r->n_keys; k++)
        write_key(w, &r->keys[k]);
    for (int k = 0; k < r->n_lists; k++)
        write_list(w, &r->lists[k]);
}

/* ---- tensors ------------------------------------------------------------------- */

static bool is_kept(const struct remake *r, const struct gguf *g, int64_t i)
{
    if (r->last > 0 && (i < r->first || i >= r->last))
        return false;
    return !r->without || strcmp(gguf_tensor_at(g, i)->name, r->without) != 0;
}

static int n_dims(const struct remake_tensor *t)
{
    int n = 0;
    while (n < 4 && t->ne[n])
        n++;
    return n;
}

static void pad(FILE *f)
{
    while (ftell(f) % 32)
        MUST(putc(0, f) != EOF);
}

static void copy_data(FILE *from, FILE *to, const struct gguf_tensor *t)
{
    void *p = malloc((size_t)t->bytes);
    MUST(p && fseek(from, t->offset, SEEK_SET) == 0);
    MUST(fread(p, 1, (size_t)t->bytes, from) == (size_t)t->bytes);
    MUST(fwrite(p, 1, (size_t)t->bytes, to) == (size_t)t->bytes);
    free(p);
    pad(to);
}

static void fill_data(FILE *to, const struct remake_tensor *t)
{
    int64_t rows = 1;
    for (int d = 1; d < n_dims(t); d++)
        rows *= t->ne[d];
    size_t bytes = dtype_row_bytes(t->type, t->ne[0]) * (size_t)rows;
    uint8_t *p = calloc(1, bytes);
    MUST(p);
    for (size_t i = 0; t->type == DT_F32 && i < bytes; i += sizeof(float))
        memcpy(p + i, &t->value, sizeof(float));
    MUST(fwrite(p, 1, bytes, to) == bytes);
    free(p);
    pad(to);
}

static void write_tensor(struct gguf_writer *w, const struct remake *r, const struct gguf_tensor *t)
{
    const char *end = strstr(t->name, "_exps.weight");
    if (!r->apart || !end) {
        gguf_write_tensor(w, t->name, t->type, t->n_dims, t->ne);
        return;
    }
    for (int64_t x = 0; x < t->ne[2]; x++) {
        char name[96];
        snprintf(name, sizeof name, "%.*s.%d.weight", (int)(end - t->name), t->name, (int)x);
        gguf_write_tensor(w, name, t->type, 2, t->ne);
    }
}

void remake(const struct remake *r, const char *to)
{
    struct gguf *g;
    struct err e = {0};
    const void *header;
    size_t header_bytes;
    int64_t data_bytes;
    struct gguf_writer *w = gguf_writer_new(32);
    MUST(w && gguf_open(r->from, &g, &e) == OK);
    write_keys(w, g, r);
    for (int64_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        if (is_kept(r, g, i))
            write_tensor(w, r, t);
    }
    for (int k = 0; k < r->n_tensors; k++)
        gguf_write_tensor(w, r->tensors[k].name, r->tensors[k].type, n_dims(&r->tensors[k]),
                          r->tensors[k].ne);
    MUST(gguf_writer_end(w, &header, &header_bytes, &data_bytes, &e) == OK);
    FILE *out = fopen(to, "wb"), *in = fopen(r->from, "rb");
    MUST(out && in && fwrite(header, 1, header_bytes, out) == header_bytes);
    for (int64_t i = 0; i < gguf_n_tensors(g); i++)
        if (is_kept(r, g, i))
            copy_data(in, out, gguf_tensor_at(g, i));
    for (int k = 0; k < r->n_tensors; k++)
        fill_data(out, &r->tensors[k]);
    fclose(in);
    MUST(fclose(out) == 0);
    gguf_writer_free(w);
    gguf_close(g);
}

/* ---- places ---------------------------------------------------------------------- */

int64_t remake_place(const char *path, const char *tensor, int64_t *bytes)
{
    struct gguf *g;
    struct err e = {0};
    MUST(gguf_open(path, &g, &e) == OK);
    const struct gguf_tensor *t = gguf_tensor_find(g, tensor);
    MUST(t);
    int64_t at = t->offset;
    if (bytes)
        *bytes = t->bytes;
    gguf_close(g);
    return at;
}

void remake_patch(const char *path, int64_t at, const void *p, size_t n)
{
    FILE *f = fopen(path, "r+b");
    MUST(f && fseek(f, at, SEEK_SET) == 0 && fwrite(p, 1, n, f) == n);
    MUST(fclose(f) == 0);
}

void remake_fill(const char *path, int64_t at, int byte, int64_t n)
{
    void *p = malloc((size_t)n);
    MUST(p);
    memset(p, byte, (size_t)n);
    remake_patch(path, at, p, (size_t)n);
    free(p);
}
