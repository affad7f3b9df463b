/*
 * gguf: reads and validates the description part of GGUF files, versions 2
 * and 3, split files too. Answers "tensor name -> file, offset, bytes, shape,
 * type"; touches no tensor data. Makes the description part of a new file.
 *
 * Everything in a file is untrusted. After gguf_open succeeds:
 *  1. every tensor's bytes lie inside its file and overlap no other tensor;
 *  2. every ne is >= 1, their product fits int64, ne[0] is a multiple of the
 *     block length of the type;
 *  3. names and keys are unique, NUL-free, and strings stay valid until close;
 *  4. arrays hold exactly `n` well-formed elements.
 *
 * An object may be read from several threads once opened.
 */
#ifndef GGUF_H
#define GGUF_H

#include "base/base.h"

struct gguf;

/* Opens `path`; for the first shard of a split set the others are found beside
 * it by name. *out is valid until gguf_close. */
int gguf_open(const char *path, struct gguf **out, struct err *e);
/* The same, but a later part of a split set is opened alone: to look at. */
int gguf_open_part(const char *path, struct gguf **out, struct err *e);
void gguf_close(struct gguf *g);

/* ---- files ---- */
int gguf_n_files(const struct gguf *g);
const char *gguf_file_path(const struct gguf *g, int file);
int64_t gguf_file_bytes(const struct gguf *g, int file);
/* All before the padding and the tensors' data. */
int64_t gguf_header_bytes(const struct gguf *g, int file);
uint64_t gguf_file_stamp(const struct gguf *g, int file); /* os_file_stamp before it was read */
/* Whether this is a part of a split set opened alone, and which (from 0) of how many. */
bool gguf_part(const struct gguf *g, uint64_t *no, uint64_t *count);
int gguf_version(const struct gguf *g);
/* By the name alone, without opening anything: the path of file `no` (from 0) of
 * the set that `path` belongs to; of a file that is alone its own. malloc'ed;
 * NULL: there is no such file, or no memory. */
char *gguf_part_path(const char *path, int no);

/* ---- metadata: that of the first file, and keys that stand in later ones only ---- */
enum gguf_type {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32,
    GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64
};

struct gguf_value {
    struct str key;
    enum gguf_type type;  /* of the value, or of the elements if is_array; GGUF_ARRAY: each
                           * of them is an array again, whose elements are not handed out */
    bool is_array;
    uint64_t n;           /* elements; 1 for a scalar */
    const void *raw;      /* element bytes in the file's layout */
};

int64_t gguf_n_values(const struct gguf *g);
const struct gguf_value *gguf_value_at(const struct gguf *g, int64_t i);
const struct gguf_value *gguf_find(const struct gguf *g, const char *key);

/* Element i of a value, converted. False when the type does not fit (a string
 * asked as a number, a negative as unsigned, i out of range). Any integer
 * width is accepted for an integer, any number for a float. Strings in arrays:
 * use gguf_value_strs, which walks once. A bool counts as an integer. */
bool gguf_value_u64(const struct gguf_value *v, uint64_t i, uint64_t *out);
bool gguf_value_i64(const struct gguf_value *v, uint64_t i, int64_t *out);
bool gguf_value_f64(const struct gguf_value *v, uint64_t i, double *out);
bool gguf_value_str(const struct gguf_value *v, struct str *out); /* scalar string */
/* All strings of an array, borrowed; `out` has room for v->n. */
bool gguf_value_strs(const struct gguf_value *v, struct str *out);
const char *gguf_type_name(enum gguf_type t);

/* ---- tensors ---- */
struct gguf_tensor {
    const char *name; /* terminated */
    enum dtype type;
    int n_dims;
    int64_t ne[4];    /* ne[0] contiguous; missing ones are 1 */
    int file;         /* index of the shard */
    int64_t offset;   /* absolute, in that file */
    int64_t bytes;
};

int64_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, int64_t i);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name);

/* ---- writing: the description part of a new file ---- */

struct gguf_writer;

/* `alignment` of the tensors' data in the file: a power of two from 8 on; it
 * becomes the key general.alignment. NULL: no memory. First all values, then
 * all tensors; keys and names must be unique, which is not checked. Running
 * out of memory is remembered and told by gguf_writer_end. */
struct gguf_writer *gguf_writer_new(uint32_t alignment);
void gguf_writer_free(struct gguf_writer *w);
void gguf_write_value(struct gguf_writer *w, const struct gguf_value *v); /* as it is */
void gguf_write_u32(struct gguf_writer *w, const char *key, uint32_t x);
void gguf_write_u32s(struct gguf_writer *w, const char *key, const uint32_t *x, uint64_t n);
void gguf_write_u64s(struct gguf_writer *w, const char *key, const uint64_t *x, uint64_t n);
void gguf_write_strs(struct gguf_writer *w, const char *key, const char *const *x, uint64_t n);
/* Data follow each other in this order, each padded to the alignment. */
void gguf_write_tensor(struct gguf_writer *w, const char *name, enum dtype type, int n_dims,
                       const int64_t *ne);
/* The bytes of the file before the first tensor's data, padding included;
 * they belong to the writer. data_bytes: of all data, padded. */
int gguf_writer_end(struct gguf_writer *w, const void **header, size_t *header_bytes,
                    int64_t *data_bytes, struct err *e);

#endif
