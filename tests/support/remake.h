/* Model files made anew with a few changes, for tests. */
#ifndef REMAKE_H
#define REMAKE_H

#include "gguf/gguf.h"

struct remake_key { /* replaces the file's key of that name, or is added */
    const char *key;
    enum gguf_type type;
    bool is_array;
    int n;            /* elements */
    double number[8];
    const char *text; /* of a string; in an array n times the same */
};

struct remake_list { /* the same, an array of different values */
    const char *key;
    enum gguf_type type;
    int n;
    const char *const *texts; /* of GGUF_STRING */
    const double *numbers;
};

struct remake_tensor { /* is added */
    const char *name;
    enum dtype type;
    int64_t ne[4];    /* 0: no such dimension */
    float value;      /* of all elements, F32 only; other types are zero */
};

struct remake {
    const char *from;
    const struct remake_key *keys;
    int n_keys;
    const struct remake_list *lists;
    int n_lists;
    const struct remake_tensor *tensors;
    int n_tensors;
    const char *without; /* a key or tensor that is left out, or NULL */
    int first, last;     /* with last > 0: only tensors [first, last) of the file, for parts */
    bool bare;           /* no keys but those above */
    bool apart;          /* a tensor for each expert, as in old files */
};

/* Writes it; aborts when that cannot be done. */
void remake(const struct remake *r, const char *to);
/* Where a tensor's data lie in the file; aborts when it has no such tensor. */
int64_t remake_place(const char *path, const char *tensor, int64_t *bytes);
/* Overwrites bytes of a file in place. */
void remake_patch(const char *path, int64_t at, const void *p, size_t n);
void remake_fill(const char *path, int64_t at, int byte, int64_t n);

#endif
