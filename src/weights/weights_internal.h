/* Private to src/weights: what its files share. */
#ifndef WEIGHTS_INTERNAL_H
#define WEIGHTS_INTERNAL_H

#include "gguf/gguf.h"
#include "weights/weights.h"

struct weights {
    struct gguf *gguf;
    struct tensor *tensors; /* (n_tensors): n_own of the files, then packed ones */
    int64_t n_tensors, n_own;
    int64_t *by_name;       /* (n_tensors) their numbers in the order of the names */
    struct meta *meta;      /* (n_meta) */
    int64_t n_meta;
    int64_t *by_key;        /* (n_meta) */
    char (*part_names)[64]; /* of the packed tensors */
    struct watched {        /* files in use and what tells that they changed */
        char *path;
        uint64_t stamp;
    } *watched;
    int n_watched;
};

/* ---- weights.c ---- */

/* What an opened file says; g is closed with it, and at once after an error. Nothing
 * is watched. */
int weights_of_gguf(struct gguf *g, struct weights **out, struct err *e);

/* Remembers a file that must not change from now on. */
int weights_watch(struct weights *w, const char *path, uint64_t stamp, struct err *e);
/* Sorts the names again after tensors were added. */
int weights_index(struct weights *w, struct err *e);

/* ---- gguf_source.c ---- */

/* Fills tensors and metadata from w->gguf. */
int gguf_source_read(struct weights *w, struct err *e);

/* ---- layout.c, dense.c ---- */

/* A dense tensor and where its place is told. */
struct dense_weight {
    const struct tensor *t;
    size_t *at;
    int section;
};

/* Neighbouring tensors of one section, read together. */
struct dense_run {
    int file;
    int64_t begin, end; /* wanted bytes of the file */
    size_t at;          /* of the page that holds `begin`, in the section */
};

/* What is kept, or read, together. */
struct dense_section {
    int64_t first_weight, n_weights, first_run, n_runs;
    size_t bytes;
    bool stays;
    bool arrived; /* the owner was told */
    int item;     /* its place in the order of a pass, if it does not stay */
    size_t copy_at;
};

struct dense {
    const struct weights *w;
    int n_layers;
    size_t copy_bytes;
    struct dense_weight *weights; /* sorted by section, file and offset after dense_added */
    int64_t n_weights, cap_weights;
    struct dense_section *sections; /* (n_layers + 3), in the order of dense_section_index */
    struct dense_run *runs;
    int64_t n_runs;
    const struct tensor *embed, *output; /* the same one when tied */
    size_t *output_at;
    /* after dense_load */
    struct dense_layout layout;
    struct dense_memory memory;
    struct ioq *q;
    const int *files;
    size_t rows_at;            /* places for embedding rows */
    int64_t load_bytes, load_ns;
    struct dense_item {        /* what is read in a pass, in the order of its use */
        int section;
        int64_t row, n_rows;   /* of the output matrix; n_rows 0: a layer */
    } *items;
    int n_items, first_piece;
    struct dense_buffer {
        size_t at;             /* its place */
        int item;              /* -1: none */
        struct ioq_req *reads;
        int n_reads;           /* not yet waited for */
        int cap_reads;
    } buffers[2];
};

enum { DENSE_PIECE = 4 << 20,  /* bytes of a read */
       DENSE_GRAIN = 16 };     /* rows of an output piece come in multiples of it */

/* The index of DENSE_EMBEDDING and its like; a layer is its own. */
static inline int dense_section_index(const struct dense *d, int section)
{
    return section >= 0 ? section : d->n_layers - 1 - section;
}
static inline const struct dense_section *dense_section(const struct dense *d, int section)
{
    return &d->sections[dense_section_index(d, section)];
}
static inline size_t dense_output_row_bytes(const struct dense *d)
{
    return dtype_row_bytes(d->output->type, d->output->ne[0]);
}
/* Whether a layer is one of `n` that are read again, evenly spread over all. */
bool dense_is_streamed(const struct dense *d, int layer, int n);
size_t dense_rows_bytes(const struct dense *d); /* room for rows of the embedding table */

/* ---- packed.c ---- */

/*
 * A packed file has the experts of a layer in one tensor blk.N.ffn_exps.packed,
 * I8 (stride, n_experts): the matrices of expert 0, then those of expert 1 and
 * so on. A matrix begins at a multiple of PACK_PART_ALIGN inside its expert, an
 * expert at a multiple of PACK_ALIGN in the file. What was packed says the
 * metadata, layer by layer, in the order of the bytes:
 *   sluice.pack.version     u32     PACK_VERSION
 *   sluice.pack.part.name   string  the tensor's name, blk.N.ffn_gate_exps.weight
 *   sluice.pack.part.type   u32     its type, as GGUF numbers them
 *   sluice.pack.part.shape  u64     three for each: n_in, n_out, n_experts
 * docs/packed.md has this for other programs.
 */
#define PACK_VERSION 1
#define PACK_ALIGN 4096
#define PACK_PART_ALIGN 64
#define PACK_TENSOR "blk.%d.ffn_exps.packed"
enum { PACK_MAX_LAYERS = 1024 };

#endif
