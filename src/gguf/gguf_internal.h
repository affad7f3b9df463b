/*
 * gguf, private part: what the files of this folder share.
 *
 *   gguf.c        opening, split sets, checks across files, lookup
 *   gguf_parse.c  the header of one file -> values and tensors
 *   gguf_read.c   a bounded cursor over the header bytes; the error sentence
 *   gguf_value.c  conversions of metadata values
 *   gguf_write.c  the header of a new file
 *
 * Memory: the header bytes of every file (at most GGUF_HEADER_MAX each), plus
 * tables that grow with what was parsed, never with what a file claims.
 */
#ifndef GGUF_INTERNAL_H
#define GGUF_INTERNAL_H

#include "gguf/gguf.h"

/* Real headers are 5 to 20 MB, nearly all of it vocabulary. */
#define GGUF_HEADER_MAX ((int64_t)256 << 20)
#define GGUF_KEY_MAX 65535 /* bytes, as the format defines */
#define GGUF_ARRAY_DEPTH 4 /* of arrays in arrays */
#define GGUF_NAME_MAX 63   /* bytes; other readers have 64 with the terminator */
#define GGUF_ALIGN_MAX ((uint64_t)16 << 20)

/* A file in memory, for tests and fuzzing: parsed like a file of that name. */
struct gguf_blob {
    const char *name;
    const void *data;
    size_t bytes;
};

/* gguf_open over blobs: opens blobs[0]; shards are looked up by name among the
 * others. The blobs may be freed afterwards. */
int gguf_open_blobs(const struct gguf_blob *blobs, int n_blobs, struct gguf **out,
                    struct err *e);

/* ---- little endian ---- */

static inline uint32_t le16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static inline uint32_t le32(const uint8_t *p)
{
    return le16(p) | le16(p + 2) << 16;
}

static inline uint64_t le64(const uint8_t *p)
{
    return (uint64_t)le32(p) | (uint64_t)le32(p + 4) << 32;
}

/* ---- gguf_read.c ---- */

enum gguf_item { ITEM_HEADER, ITEM_KEY, ITEM_TENSOR };

struct gguf_reader {
    const char *path;
    const uint8_t *mem; /* the blob; NULL: read from fd */
    int fd;
    int64_t file_bytes;
    uint8_t *buf; /* bytes [0, have) of the file; moves when it grows */
    size_t have, cap;
    size_t pos; /* of the cursor, <= have */
    struct err *e;
    /* What is being parsed, for the sentence. */
    enum gguf_item item;
    uint64_t item_no;
    size_t name_at, name_n; /* of its key or name, once known; else name_n = 0 */
};

/* Bytes of the file behind the cursor. */
static inline uint64_t gguf_left(const struct gguf_reader *r)
{
    return (uint64_t)r->file_bytes - r->pos;
}

/* Makes n bytes at the cursor readable at buf + pos and moves the cursor
 * behind them; `field` names them in the sentence when the file is too short. */
int gguf_take(struct gguf_reader *r, uint64_t n, const char *field);
int gguf_take_u32(struct gguf_reader *r, const char *field, uint32_t *out);
int gguf_take_u64(struct gguf_reader *r, const char *field, uint64_t *out);
/* Length and bytes of a string; *at is the position of the bytes. */
int gguf_take_str(struct gguf_reader *r, uint64_t max, const char *field, size_t *at, size_t *n);

/* "PATH: ITEM at byte AT: " and the rest; returns code. */
int gguf_fail(struct gguf_reader *r, int code, uint64_t at, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Writes `s` with everything unprintable escaped, shortened to fit, into
 * out[size] and returns out. For sentences. */
const char *gguf_quote(char *out, size_t size, struct str s);
/* The end of a path that is too long for a sentence, else the path. */
const char *gguf_short_path(const char *path);

/* ---- gguf_parse.c ---- */

struct gguf_file {
    char *path;
    int64_t bytes;
    uint64_t stamp; /* os_file_stamp before it was read */
    uint32_t version;
    uint8_t *header; /* as in the file, but names of tensors are terminated
                      * where the low byte of their n_dims was */
    size_t header_bytes;
    uint64_t alignment;
    struct gguf_value *values;
    int64_t n_values;
    struct gguf_tensor *tensors; /* .file is not set */
    int64_t n_tensors;
};

/* Fills header, values, tensors; everything gguf.h promises about one file
 * except uniqueness and overlap. On failure `f` may be half filled; it must be
 * given to gguf_file_free either way. */
int gguf_parse(struct gguf_reader *r, struct gguf_file *f);
void gguf_file_free(struct gguf_file *f);
/* Where the name of one of the file's tensors or keys stands in the file. */
static inline int64_t gguf_header_pos(const struct gguf_file *f, const void *p)
{
    return (const uint8_t *)p - f->header;
}

/* ---- gguf_value.c ---- */

/* Bytes of a scalar; 0 for strings and arrays. */
size_t gguf_scalar_bytes(uint32_t type);
/* Bytes of all elements at v->raw. */
size_t gguf_raw_bytes(const struct gguf_value *v);

#endif
