/*
 * The header of one GGUF file (little endian):
 *
 *   "GGUF"  u32 version  u64 n_tensors  u64 n_kv
 *   n_kv      x { string key; u32 type; value }
 *   n_tensors x { string name; u32 n_dims; u64 ne[n_dims]; u32 type; u64 offset }
 *   padding to the alignment, then the data that the offsets count from
 *
 * string = u64 length + bytes; array = u32 element type, u64 count, elements.
 *
 * Nothing is believed: a count is compared with the bytes left in the file
 * before it is used, and tables grow only with items that were really there.
 */
#include "gguf/gguf_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define BROKEN "the file is damaged or was written by a broken converter"

/* The smallest possible items, in bytes: one-byte key and one-byte value;
 * one-byte name and one dimension. */
#define MIN_KEY_ITEM (8 + 1 + 4 + 1)
#define MIN_TENSOR_ITEM (8 + 1 + 4 + 8 + 4 + 8)

/* ---- the fixed part --------------------------------------------------- */

static const char *looks_like(const uint8_t *p, size_t n)
{
    static const struct {
        const char *magic;
        uint8_t n, at;
        const char *what;
    } known[] = {
        {"FUGG", 4, 0, "a GGUF file with swapped bytes"},
        {"ggjt", 4, 0, "a model in the old GGJT format"},
        {"tjgg", 4, 0, "a model in the old GGJT format"},
        {"lmgg", 4, 0, "a model in the old GGML format"},
        {"fmgg", 4, 0, "a model in the old GGMF format"},
        {"algg", 4, 0, "a GGLA adapter"},
        {"version https://git-lfs", 23, 0,
         "a Git LFS pointer: the model itself was not downloaded"},
        {"<!DOCTYPE", 9, 0, "a web page: the download went wrong"},
        {"<html", 5, 0, "a web page: the download went wrong"},
        {"PK\003\004", 4, 0, "a ZIP archive, perhaps a PyTorch checkpoint"},
        {"\037\213", 2, 0, "a gzip archive: unpack it first"},
        {"\050\265\057\375", 4, 0, "a zstd archive: unpack it first"},
        {"\3757zXZ", 5, 0, "an xz archive: unpack it first"},
        {"7z\274\257", 4, 0, "a 7-Zip archive: unpack it first"},
        {"\177ELF", 4, 0, "a program"},
        {"{\"", 2, 8, "a safetensors file: convert it to GGUF first"},
        {"\0\0\0\0\0\0\0\0", 8, 0, "zeros: the download is incomplete"},
        {"{", 1, 0, "JSON text"},
        {"Entry not found", 15, 0, "an error message saved as a file"},
    };

    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (n >= (size_t)known[i].at + known[i].n &&
            memcmp(p + known[i].at, known[i].magic, known[i].n) == 0)
            return known[i].what;
    return NULL;
}

static int parse_magic(struct gguf_reader *r)
{
    size_t n = (size_t)MIN(r->file_bytes, 24);
    const char *what;
    const uint8_t *p;

    TRY(gguf_take(r, n, "the magic number"));
    r->pos = 0;
    p = r->buf;
    if (n >= 4 && memcmp(p, "GGUF", 4) == 0)
        return gguf_take(r, 4, "the magic number");
    what = looks_like(p, n);
    if (what)
        return gguf_fail(r, E_FORMAT, 0, "not a GGUF file; it looks like %s", what);
    if (n < 4)
        return gguf_fail(r, E_FORMAT, 0, "not a GGUF file; it has only %zu bytes", n);
    return gguf_fail(r, E_FORMAT, 0,
                     "not a GGUF file; it starts with the bytes %02x %02x %02x %02x instead of "
                     "47 47 55 46 (\"GGUF\")",
                     p[0], p[1], p[2], p[3]);
}

static int parse_version(struct gguf_reader *r, uint32_t *version)
{
    size_t at = r->pos;

    TRY(gguf_take_u32(r, "the version", version));
    if (*version == 2 || *version == 3)
        return OK;
    if (*version == 1)
        return gguf_fail(r, E_UNSUPPORTED, at,
                         "GGUF version 1 is too old, versions 2 and 3 are read; "
                         "convert the model again");
    if (*version != 0 && (*version & 0xffff) == 0)
        return gguf_fail(r, E_UNSUPPORTED, at,
                         "the file was written for a big-endian machine (its version reads as "
                         "0x%08" PRIx32 "); get the little-endian one",
                         *version);
    return gguf_fail(r, E_UNSUPPORTED, at,
                     "GGUF version %" PRIu32 " is not known, versions 2 and 3 are read", *version);
}

static int take_count(struct gguf_reader *r, const char *field, uint64_t *n)
{
    size_t at = r->pos;

    TRY(gguf_take_u64(r, field, n));
    if (*n > INT32_MAX)
        return gguf_fail(r, E_FORMAT, at, "%s is %" PRIu64 ", which cannot be; " BROKEN, field, *n);
    return OK;
}

/* Compares the number of items to come with the room in the file. */
static int check_room(struct gguf_reader *r, size_t at, uint64_t n, uint64_t item_bytes,
                      const char *what)
{
    if (n <= gguf_left(r) / item_bytes)
        return OK;
    return gguf_fail(r, E_FORMAT, at,
                     "%" PRIu64 " %s need at least %" PRIu64 " bytes each, but only %" PRIu64
                     " bytes of file are left; it is incomplete or damaged",
                     n, what, item_bytes, gguf_left(r));
}

/* ---- tables ----------------------------------------------------------- */

/* Room for one more item; `at` holds where each item starts in the header. */
static int grow(struct gguf_reader *r, void **items, size_t item_bytes, size_t **at,
                int64_t n, int64_t *cap)
{
    int64_t want = *cap ? 2 * *cap : 64;
    void *p;

    if (n < *cap)
        return OK;
    p = realloc(*items, (size_t)want * item_bytes);
    if (p) {
        *items = p;
        p = realloc(*at, (size_t)want * sizeof **at);
    }
    if (!p)
        return err_set(r->e, E_NOMEM, "%s: no memory for a table of %" PRId64 " entries",
                       gguf_short_path(r->path), want);
    *at = p;
    *cap = want;
    return OK;
}

static int next_item(struct gguf_reader *r, enum gguf_item item, int64_t no, uint64_t max,
                     const char *field, struct str *name)
{
    size_t start = r->pos, at;

    r->item = item;
    r->item_no = (uint64_t)no;
    r->name_n = 0;
    TRY(gguf_take_str(r, max, field, &at, &name->n));
    if (name->n == 0)
        return gguf_fail(r, E_FORMAT, start, "%s is empty; " BROKEN, field);
    r->name_at = at;
    r->name_n = name->n;
    if (memchr(r->buf + at, 0, name->n))
        return gguf_fail(r, E_FORMAT, start, "%s contains a zero byte; " BROKEN, field);
    return OK;
}

/* ---- metadata --------------------------------------------------------- */

static int parse_bools(struct gguf_reader *r, size_t at, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (r->buf[at + i] > 1)
            return gguf_fail(r, E_FORMAT, at + i,
                             "bool %" PRIu64 " has the value %d, only 0 and 1 are allowed; " BROKEN,
                             i, r->buf[at + i]);
    return OK;
}

static int take_type(struct gguf_reader *r, const char *field, uint32_t *type)
{
    size_t at = r->pos;

    TRY(gguf_take_u32(r, field, type));
    if (*type > GGUF_F64)
        return gguf_fail(r, E_FORMAT, at, "%s is %" PRIu32 ", the largest known is %d; " BROKEN,
                         field, *type, GGUF_F64);
    return OK;
}

static int parse_elements(struct gguf_reader *r, size_t count_at, uint32_t type, uint64_t n,
                          int depth);

/* n arrays, each with its own type and count. */
static int parse_arrays(struct gguf_reader *r, size_t count_at, uint64_t n, int depth)
{
    if (depth >= GGUF_ARRAY_DEPTH)
        return gguf_fail(r, E_UNSUPPORTED, count_at,
                         "arrays are nested more than %d deep, which no model needs",
                         GGUF_ARRAY_DEPTH);
    TRY(check_room(r, count_at, n, 12, "arrays"));
    for (uint64_t i = 0; i < n; i++) {
        uint32_t type;
        uint64_t inner;
        size_t at;

        TRY(take_type(r, "the element type", &type));
        at = r->pos;
        TRY(gguf_take_u64(r, "the element count", &inner));
        TRY(parse_elements(r, at, type, inner, depth + 1));
    }
    return OK;
}

/* The n elements at the cursor. */
static int parse_elements(struct gguf_reader *r, size_t count_at, uint32_t type, uint64_t n,
                          int depth)
{
    size_t bytes = gguf_scalar_bytes(type), at, len;

    if (type == GGUF_ARRAY)
        return parse_arrays(r, count_at, n, depth);
    if (type == GGUF_STRING) {
        TRY(check_room(r, count_at, n, 8, "strings"));
        for (uint64_t i = 0; i < n; i++)
            TRY(gguf_take_str(r, UINT64_MAX, "a string", &at, &len));
        return OK;
    }
    TRY(check_room(r, count_at, n, bytes, "elements"));
    at = r->pos;
    TRY(gguf_take(r, n * bytes, "the value"));
    return type == GGUF_BOOL ? parse_bools(r, at, n) : OK;
}

static int parse_value(struct gguf_reader *r, int64_t no, struct gguf_value *v)
{
    uint32_t type;
    size_t at;

    TRY(next_item(r, ITEM_KEY, no, GGUF_KEY_MAX, "the key", &v->key));
    TRY(take_type(r, "the value type", &type));
    v->is_array = type == GGUF_ARRAY;
    v->n = 1;
    at = r->pos;
    if (v->is_array) {
        TRY(take_type(r, "the element type", &type));
        at = r->pos;
        TRY(gguf_take_u64(r, "the element count", &v->n));
    }
    v->type = (enum gguf_type)type;
    return parse_elements(r, at, type, v->n, 1);
}

static int parse_values(struct gguf_reader *r, struct gguf_file *f, uint64_t n, size_t **at)
{
    int64_t cap = 0;

    for (uint64_t i = 0; i < n; i++) {
        void *items = f->values;
        int status = grow(r, &items, sizeof *f->values, at, f->n_values, &cap);

        f->values = items;
        TRY(status);
        (*at)[i] = r->pos;
        TRY(parse_value(r, f->n_values, &f->values[f->n_values]));
        f->n_values++;
    }
    return OK;
}

static void bind_values(struct gguf_file *f, const size_t *at)
{
    for (int64_t i = 0; i < f->n_values; i++) {
        struct gguf_value *v = &f->values[i];

        v->key.p = (const char *)f->header + at[i] + 8;
        v->raw = v->key.p + v->key.n + 4 + (v->is_array ? 12 : 0);
    }
}

/* ---- tensors ---------------------------------------------------------- */

/* Shape at the cursor; leaves the number of elements in *product. */
static int parse_shape(struct gguf_reader *r, struct gguf_tensor *t, int64_t *product)
{
    size_t at = r->pos;
    uint32_t n_dims;

    TRY(gguf_take_u32(r, "n_dims", &n_dims));
    if (n_dims < 1 || n_dims > 4)
        return gguf_fail(r, E_FORMAT, at, "n_dims = %" PRIu32 ", allowed are 1 to 4; " BROKEN,
                         n_dims);
    t->n_dims = (int)n_dims;
    *product = 1;
    for (int d = 0; d < 4; d++) {
        uint64_t ne = 1;

        at = r->pos;
        if (d < t->n_dims)
            TRY(gguf_take_u64(r, "ne", &ne));
        if (ne < 1 || ne > INT64_MAX)
            return gguf_fail(r, E_FORMAT, at,
                             "ne[%d] = %" PRId64 ", it must be at least 1; " BROKEN, d,
                             (int64_t)ne);
        if ((int64_t)ne > INT64_MAX / *product)
            return gguf_fail(r, E_FORMAT, at,
                             "ne[%d] = %" PRIu64 " makes the number of elements overflow; " BROKEN,
                             d, ne);
        t->ne[d] = (int64_t)ne;
        *product *= (int64_t)ne;
    }
    return OK;
}

/* Type at the cursor; sets type and bytes. */
static int parse_type(struct gguf_reader *r, struct gguf_tensor *t, size_t shape_at,
                      int64_t product)
{
    const struct dtype_info *info;
    size_t at = r->pos;
    uint32_t id;

    TRY(gguf_take_u32(r, "the tensor type", &id));
    info = dtype_info(id);
    if (!info || info->block == 0)
        return gguf_fail(r, E_UNSUPPORTED, at,
                         "tensor type %" PRIu32 " is not known; the file is damaged, or newer "
                         "than this program",
                         id);
    if (t->ne[0] % info->block)
        return gguf_fail(r, E_FORMAT, shape_at,
                         "ne[0] = %" PRId64 " is not a multiple of %u, the block length of %s; "
                         BROKEN,
                         t->ne[0], (unsigned)info->block, info->name);
    if (product / info->block > INT64_MAX / info->block_bytes)
        return gguf_fail(r, E_FORMAT, shape_at,
                         "%" PRId64 " elements of %s overflow the size in bytes; " BROKEN, product,
                         info->name);
    t->type = (enum dtype)id;
    t->bytes = product / info->block * info->block_bytes;
    return OK;
}

static int parse_tensor(struct gguf_reader *r, int64_t no, struct gguf_tensor *t)
{
    struct str name;
    size_t shape_at;
    int64_t product = 0;
    uint64_t offset;

    TRY(next_item(r, ITEM_TENSOR, no, GGUF_NAME_MAX, "the tensor name", &name));
    shape_at = r->pos;
    TRY(parse_shape(r, t, &product));
    /* n_dims has been read: its first byte becomes the end of the name. */
    r->buf[shape_at] = '\0';
    TRY(parse_type(r, t, shape_at + 4, product));
    TRY(gguf_take_u64(r, "the data offset", &offset));
    if (offset > (uint64_t)r->file_bytes)
        return gguf_fail(r, E_FORMAT, r->pos - 8,
                         "its data starts at %" PRIu64 " of the data section, but the file has "
                         "only %" PRId64 " bytes; it is incomplete or damaged",
                         offset, r->file_bytes);
    t->offset = (int64_t)offset; /* relative until place_tensors */
    return OK;
}

static int parse_tensors(struct gguf_reader *r, struct gguf_file *f, uint64_t n, size_t **at)
{
    int64_t cap = 0;

    for (uint64_t i = 0; i < n; i++) {
        void *items = f->tensors;
        int status = grow(r, &items, sizeof *f->tensors, at, f->n_tensors, &cap);

        f->tensors = items;
        TRY(status);
        (*at)[i] = r->pos;
        TRY(parse_tensor(r, f->n_tensors, &f->tensors[f->n_tensors]));
        f->n_tensors++;
    }
    return OK;
}

/* ---- the data section ------------------------------------------------- */

static int find_alignment(struct gguf_reader *r, struct gguf_file *f)
{
    static const char key[] = "general.alignment";

    f->alignment = 32;
    for (int64_t i = 0; i < f->n_values; i++) {
        const struct gguf_value *v = &f->values[i];

        if (v->key.n != sizeof key - 1 || memcmp(v->key.p, key, v->key.n) != 0)
            continue;
        r->item = ITEM_KEY;
        r->item_no = (uint64_t)i;
        r->name_at = (size_t)gguf_header_pos(f, v->key.p);
        r->name_n = v->key.n;
        if (v->is_array || !gguf_value_u64(v, 0, &f->alignment))
            return gguf_fail(r, E_FORMAT, (uint64_t)gguf_header_pos(f, v->raw),
                             "it must be a positive integer, but is %s%s; " BROKEN,
                             v->is_array ? "an array of " : "", gguf_type_name(v->type));
        if (f->alignment < 8 || f->alignment > GGUF_ALIGN_MAX ||
            (f->alignment & (f->alignment - 1)))
            return gguf_fail(r, E_FORMAT, (uint64_t)gguf_header_pos(f, v->raw),
                             "alignment %" PRIu64 " is not a power of two between 8 and %" PRIu64
                             "; " BROKEN,
                             f->alignment, GGUF_ALIGN_MAX);
        return OK;
    }
    return OK;
}

/* Makes offsets absolute and checks them against the end of the file. */
static int place_tensors(struct gguf_reader *r, struct gguf_file *f, const size_t *at)
{
    int64_t start = (int64_t)align_up(f->header_bytes, (size_t)f->alignment);

    r->item = ITEM_TENSOR;
    for (int64_t i = 0; i < f->n_tensors; i++) {
        struct gguf_tensor *t = &f->tensors[i];
        size_t info_at = at[i], offset_at;

        t->name = (const char *)f->header + info_at + 8;
        r->item_no = (uint64_t)i;
        r->name_at = info_at + 8;
        r->name_n = strlen(t->name);
        offset_at = r->name_at + r->name_n + 8 + 8 * (size_t)t->n_dims;
        if ((uint64_t)t->offset & (f->alignment - 1))
            return gguf_fail(r, E_FORMAT, offset_at,
                             "data offset %" PRId64 " is not a multiple of the alignment %" PRIu64
                             "; " BROKEN,
                             t->offset, f->alignment);
        /* Both terms are at most the size of the file plus one alignment. */
        t->offset += start;
        if (t->offset > f->bytes || t->bytes > f->bytes - t->offset)
            return gguf_fail(r, E_FORMAT, offset_at,
                             "its data is bytes %" PRId64 " and the next %" PRId64
                             ", but the file ends at %" PRId64 "; it is incomplete or damaged: "
                             "copy or download it again",
                             t->offset, t->bytes, f->bytes);
    }
    return OK;
}

/* ---- one file --------------------------------------------------------- */

/* Hands the bytes from the reader to the file, without what was read ahead. */
static void keep_header(struct gguf_reader *r, struct gguf_file *f)
{
    uint8_t *p = realloc(r->buf, r->pos);

    if (p)
        r->buf = p;
    r->have = r->cap = r->pos;
    f->header = r->buf;
    f->header_bytes = r->pos;
}

int gguf_parse(struct gguf_reader *r, struct gguf_file *f)
{
    size_t *value_at = NULL, *tensor_at = NULL;
    uint64_t n_tensors, n_values;
    int status;

    f->bytes = r->file_bytes;
    r->item = ITEM_HEADER;
    status = parse_magic(r);
    if (status < 0 || (status = parse_version(r, &f->version)) < 0 ||
        (status = take_count(r, "the tensor count", &n_tensors)) < 0 ||
        (status = take_count(r, "the key count", &n_values)) < 0 ||
        (status = check_room(r, 16, n_values, MIN_KEY_ITEM, "keys")) < 0 ||
        (status = check_room(r, 8, n_tensors, MIN_TENSOR_ITEM, "tensor descriptions")) < 0 ||
        (status = parse_values(r, f, n_values, &value_at)) < 0 ||
        (status = parse_tensors(r, f, n_tensors, &tensor_at)) < 0)
        goto out;
    keep_header(r, f);
    bind_values(f, value_at);
    status = find_alignment(r, f);
    if (status == OK)
        status = place_tensors(r, f, tensor_at);
out:
    if (!f->header) { /* failed before the bytes had an owner */
        free(r->buf);
        r->buf = NULL;
    }
    free(value_at);
    free(tensor_at);
    return status;
}

void gguf_file_free(struct gguf_file *f)
{
    free(f->path);
    free(f->header);
    free(f->values);
    free(f->tensors);
    *f = (struct gguf_file){0};
}
