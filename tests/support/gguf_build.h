/*
 * Writes GGUF bytes, right or wrong ones, and checks what gguf.h promises
 * about an opened file. For tests and fuzzing.
 */
#ifndef GGUF_BUILD_H
#define GGUF_BUILD_H

#include "gguf/gguf_internal.h"

/* Growing bytes; zero-initialise, free with gb_free. Aborts without memory. */
struct gb {
    uint8_t *p;
    size_t n, cap;
    size_t mark; /* where a test expects the complaint */
};

void gb_free(struct gb *b);
void gb_put(struct gb *b, const void *p, size_t n);
void gb_zero(struct gb *b, size_t n);
void gb_pad(struct gb *b, size_t align);
void gb_u8(struct gb *b, unsigned v);
void gb_u16(struct gb *b, unsigned v);
void gb_u32(struct gb *b, uint32_t v);
void gb_u64(struct gb *b, uint64_t v);
void gb_f32(struct gb *b, float v);
void gb_f64(struct gb *b, double v);
void gb_str(struct gb *b, const char *s);

void gb_head(struct gb *b, uint32_t version, uint64_t n_tensors, uint64_t n_kv);
/* The key and the type of a value, or the key and the start of an array. */
void gb_key(struct gb *b, const char *key, uint32_t type);
void gb_key_array(struct gb *b, const char *key, uint32_t type, uint64_t n);
void gb_kv_u32(struct gb *b, const char *key, uint32_t v);
void gb_kv_str(struct gb *b, const char *key, const char *v);
void gb_tensor(struct gb *b, const char *name, int n_dims, const uint64_t *ne, uint32_t type,
               uint64_t offset);
/* One dimension. */
void gb_tensor1(struct gb *b, const char *name, uint64_t ne, uint32_t type, uint64_t offset);

/* Padding to 32 and n zero bytes of data. */
void gb_data(struct gb *b, size_t n);

/* ---- gguf_samples.c; the tables end with a NULL name ---- */

struct gguf_sample {
    const char *name;
    void (*write)(struct gb *b);
};
extern const struct gguf_sample gguf_samples[];
void gguf_sample_write(const char *name, struct gb *b);
/* Two keys, two tensors. */
void gguf_sample_small(struct gb *b, uint32_t version);

struct gguf_wrong {
    const char *name;
    void (*write)(struct gb *b); /* sets mark; SIZE_MAX: cannot be told */
    int code;
    const char *say; /* in the sentence, besides the place */
};
extern const struct gguf_wrong gguf_wrongs[];

/* ---- invariants ---- */

/* Walks everything of an opened file; NULL, or the first promise of gguf.h
 * that does not hold. */
const char *gguf_breach(const struct gguf *g);

#endif
