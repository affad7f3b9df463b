/*
 * weights: the files of a model as named tensors with places, and where those
 * lie that every token needs. Knows files and memory, no transformer.
 *
 *   weights.c     opening; files, and whether they changed
 *   gguf_source.c tensors and metadata of GGUF files
 *   meta.c        metadata as text
 *   packed.c      files in which the matrices of an expert lie together
 *   pack.c        writing one
 *   verify.c      reading everything, looking for damage
 *   mirror.c      copies of the files on other drives
 *   layout.c      what of the dense weights stays in memory
 *   dense.c       reading them: what stays once, the rest for every pass
 *   dense_check.c their invariants
 *
 * Everything above this folder sees one list of tensors and one of metadata,
 * whatever the files' format is. A format is one file here that fills both.
 *
 * An opened `struct weights` may be read from several threads; all else is for
 * one thread, the one that drives the queue of reads.
 */
#ifndef WEIGHTS_H
#define WEIGHTS_H

#include "base/base.h"
#include "io/io.h"

struct weights;

/* `alone`: a later part of a split set is opened for itself, to be looked at. */
int weights_open(const char *path, bool alone, struct weights **out, struct err *e);
void weights_close(struct weights *w); /* NULL is fine */
/* Memory that headers, tensors and metadata take. */
int64_t weights_description_bytes(const struct weights *w);

/* ---- files --------------------------------------------------------------- */

int weights_n_files(const struct weights *w);
const char *weights_path(const struct weights *w, int file);
int64_t weights_file_bytes(const struct weights *w, int file);
int64_t weights_header_bytes(const struct weights *w, int file); /* before the tensors' data */
/* Whether this is a part of a split set opened alone, and which (from 0) of how many. */
bool weights_part(const struct weights *w, uint64_t *no, uint64_t *count);
/* By names alone: file `no` (from 0) of the model whose first is `path`, NULL where
 * there is none; the copy of `path` in a mirror. malloc'ed; NULL also: no memory. */
char *weights_part_path(const char *path, int no);
char *weights_mirror_path(const char *folder, const char *path);
/* The files, and mirrors that were added, are those that were opened: size, time, inode. */
int weights_unchanged(const struct weights *w, struct err *e);
/* Adds all files to the queue; files (n_files): their numbers there. */
int weights_queue_files(const struct weights *w, struct ioq *q, int *files, struct err *e);

/* ---- metadata -------------------------------------------------------------- */

enum meta_kind { META_BOOL, META_INT, META_REAL, META_TEXT, META_LIST };

struct meta {
    struct str key;
    const char *type;    /* the format's name for it: "u32" */
    enum meta_kind kind; /* of the value, or of the elements when is_array; META_LIST: each
                            of them is a list again, whose elements are not handed out */
    bool is_array;
    uint64_t n;          /* elements; 1 for a single value */
    const void *source;  /* of the format */
};

int64_t weights_n_meta(const struct weights *w);
const struct meta *weights_meta_at(const struct weights *w, int64_t i);
const struct meta *weights_meta(const struct weights *w, const char *key); /* NULL: there is none */
/* Element i, converted; any width of integers, a bool as 0 or 1. False: another
 * type, a number that does not fit, or no such element. */
bool meta_u64(const struct meta *v, uint64_t i, uint64_t *out);
bool meta_i64(const struct meta *v, uint64_t i, int64_t *out);
bool meta_f64(const struct meta *v, uint64_t i, double *out);
bool meta_str(const struct meta *v, struct str *out);  /* a single text, borrowed */
bool meta_strs(const struct meta *v, struct str *out); /* all of a list; room for n */
/* A value as a person reads it; long ones are cut. n >= 256. */
void meta_text(char *buf, size_t n, const struct meta *v);
void meta_key_text(char *buf, size_t n, const struct meta *v);

/* ---- tensors --------------------------------------------------------------- */

struct tensor {
    const char *name; /* terminated */
    enum dtype type;
    int n_dims;
    int64_t ne[4];    /* ne[0] contiguous; missing ones are 1 */
    int file;
    int64_t offset;   /* in that file: of its first byte */
    int64_t stride;   /* from matrix (ne[0], ne[1]) to the next; when packed more than its bytes */
    int64_t bytes;    /* of all matrices, what lies between them not counted */
    const struct tensor *inside; /* the packed tensor that holds it, or the first of those that
                                    it is made of; NULL: it lies for itself */
    bool packs;       /* it holds others, or is a part of one, and means nothing else */
    int role;         /* for whoever opened the weights; 0 at first */
};

/* Those of the files, in their order; then those that lie inside of others. */
int64_t weights_n_tensors(const struct weights *w);
const struct tensor *weights_tensor(const struct weights *w, int64_t i);
const struct tensor *weights_find(const struct weights *w,
                                  const char *name); /* NULL: there is none */
void weights_set_role(struct weights *w, const struct tensor *t, int role);
bool weights_are_packed(const struct weights *w);
/* Finds the matrices inside of packed tensors, if the files say that they are
 * packed. Tensors that were handed out before are gone. */
int weights_unpack(struct weights *w, struct err *e);
/* Makes one tensor of the experts of a layer where each has one of its own. Tensors that
 * were handed out before are gone. */
int weights_stack(struct weights *w, struct err *e);
/* N of a name blk.N.*, else -1. */
int tensor_block(const char *name);

/* ---- verify.c ---------------------------------------------------------------- */

/* Reads all files from the first byte to the last, which takes as long as the
 * drive and a SHA-256 take. on_finding: one sentence about something that is damaged. */
enum verify_kind {
    VERIFY_PLAIN,     /* long runs of zeros */
    VERIFY_NORM,      /* shorter ones, and many zeros */
    VERIFY_ROUTER,    /* a row of zeros, too: an expert that nothing points to */
    VERIFY_VOCABULARY /* not rows that may be zero */
};
struct weights_verify {
    void (*on_file)(void *user, const char *path, int64_t bytes, const char *sha256);
    void (*on_finding)(void *user, const char *text);
    int (*progress)(void *user, int64_t done, int64_t total); /* may be NULL; non-zero cancels */
    void *user;
    /* n elements of a row as floats; false: there is no decoder for the type */
    bool (*decode)(enum dtype t, float *y, const void *row, int64_t n);
    /* where zeros are damage; NULL: VERIFY_PLAIN everywhere */
    enum verify_kind (*kind)(const struct tensor *t);
    /* of VERIFY_VOCABULARY; NULL: none may */
    bool (*row_may_be_zero)(const struct weights *w, int64_t row);
};
int weights_verify(const struct weights *w, const struct weights_verify *v, int64_t *n_found,
                   struct err *e);
/* A bias may be all zero, no other tensor may. */
bool tensor_may_be_zero(const struct tensor *t);

/* ---- mirror.c ----------------------------------------------------------------- */

/* Compares the copies of the first n_files files in each folder with the files and
 * adds them to the queue's `files`; E_ARG when one is not the same. Without a queue
 * they are only compared. */
int weights_add_mirrors(struct weights *w, const char *const *folders, int n_folders, struct ioq *q,
                        const int *files, int n_files, struct err *e);

/* ---- pack.c --------------------------------------------------------------------- */

typedef int weights_progress_fn(void *user, int64_t done, int64_t total); /* non-zero cancels */

#define WEIGHTS_MAX_PARTS 6 /* matrices and vectors of an expert */
struct expert_matrices { /* the matrices of a layer's experts, in the order of their bytes */
    const struct tensor *t[WEIGHTS_MAX_PARTS];
    int n; /* 0: none in this layer */
};

/* The files as one packed file, in the making. weights and layers (n_layers) are
 * borrowed. E_STATE when they are packed already. */
struct weights_pack;
int weights_pack_new(const struct weights *w, const struct expert_matrices *layers, int n_layers,
                     struct weights_pack **out, struct err *e);
void weights_pack_free(struct weights_pack *p);
int64_t weights_pack_bytes(const struct weights_pack *p);        /* of the new file */
int weights_pack_layers(const struct weights_pack *p);           /* whose experts are packed */
int64_t
weights_pack_expert_bytes(const struct weights_pack *p); /* of the largest, padding included */
/* Memory that writing and checking take, whatever the model. */
int64_t weights_pack_memory(void);
/* Writes all of it, in order. */
int weights_pack_write(struct weights_pack *p, enum ioq_kind kind, struct os_out *out,
                       weights_progress_fn *progress, void *user, struct err *e);
/* The bytes of `path`, read from the drive, must be those written. */
int weights_pack_read_back(const struct weights_pack *p, enum ioq_kind kind, const char *path,
                           weights_progress_fn *progress, void *user, struct err *e);

/* ---- layout.c, dense.c: the dense weights ------------------------------------------ */

/*
 * Dense weights come in sections: one for each layer, the embedding table, the
 * output matrix, and what is small. What memory allows stays; the rest is read
 * again for every pass (layout.c says which). All places are offsets in the dense
 * memory, which the caller provides: first what stays, then what is read into.
 */
struct dense;

enum { DENSE_EMBEDDING = -1, DENSE_OUTPUT = -2, DENSE_FIXED = -3 }; /* sections that are no layer */

/* copy_bytes: room behind each layer that stays, for the caller's own use. */
int dense_new(const struct weights *w, int n_layers, struct dense **out, struct err *e);
void dense_close(struct dense *d); /* ends its reads; NULL is fine */
void dense_set_copy_bytes(struct dense *d, size_t bytes);
/* Tensor t belongs to `section`; *at becomes its place whenever that changes.
 * A table that is both embedding and output is DENSE_OUTPUT. */
int dense_add(struct dense *d, const struct tensor *t, int section, size_t *at, struct err *e);
int dense_added(struct dense *d, struct err *e); /* that was the last */
int64_t dense_memory_bytes(const struct dense *d); /* that the list takes */

/* What of the dense part stays in memory under some allowance. */
struct dense_layout {
    size_t bytes;         /* memory that it takes: whole pages */
    size_t stay_bytes;    /* ... of it what is written once */
    bool embed_stays;
    int n_streamed;       /* layers that are read again in every pass */
    int64_t output_rows;  /* that stay */
    size_t
        buffer; /* bytes of one of the two buffers; 0: nothing but embedding rows is read again */
    size_t read_per_pass, read_output; /* bytes read again for the layers, and for logits */
};
/* The best use of `allowed` bytes; of the least that works if they are fewer. */
void dense_layout(const struct dense *d, size_t allowed, struct dense_layout *l);
size_t dense_full_bytes(const struct dense *d);
size_t dense_no_embed_bytes(const struct dense *d); /* all but the embedding table */
size_t dense_min_bytes(const struct dense *d);
size_t dense_largest_weight(const struct dense *d); /* bytes, of the layers */

/* Where the bytes go. The memory of what is read again is always the host's. */
struct dense_memory {
    uint8_t *stay;    /* address of place 0; NULL: the host cannot see it, and `put` takes them */
    uint8_t *landing; /* address of place stay_bytes */
    void (*put)(void *user, size_t at, const void *bytes, size_t n);
    /* The reader is about to write into [at, at + n) of the landing memory: what was
     * computed from there must have been finished. */
    int (*reuse)(void *user, size_t at, size_t n, struct err *e);
    /* The weights of a section have places and are there; `first`: since it was opened. */
    int (*placed)(void *user, int section, bool first, struct err *e);
    void *user;
};
/* Reads what stays. files: those of the queue. All is borrowed until dense_close. */
int dense_load(struct dense *d, const struct dense_layout *l, const struct dense_memory *m,
               struct ioq *q, const int *files, weights_progress_fn *progress, void *user,
               struct err *e);
/* The dense weights that loading read, and how long it took. */
void dense_loaded(const struct dense *d, int64_t *bytes, int64_t *ns);
bool dense_stays(const struct dense *d, int layer);
size_t dense_copy_at(const struct dense *d,
                     int layer); /* place of the caller's room; of a layer that stays */
/* The weights of a layer are in place until dense_use of another layer. */
int dense_use(struct dense *d, int layer, struct err *e);
/* Rows ids of the embedding table, which does not stay; n <= DENSE_ROWS. *at (n): their places. */
enum { DENSE_ROWS = 16 };
int dense_read_rows(struct dense *d, const int32_t *ids, int64_t n, size_t *at, struct err *e);
/* Calls fn for the rows of the output matrix, all or runs of them, in order. */
typedef int dense_rows_fn(void *user, size_t at, int64_t first_row, int64_t n_rows, struct err *e);
int dense_output(struct dense *d, dense_rows_fn *fn, void *user, struct err *e);
/* Walks the weights of a section. */
typedef int dense_weight_fn(void *user, const struct tensor *t, size_t *at, struct err *e);
int dense_each(const struct dense *d, int section, dense_weight_fn *fn, void *user, struct err *e);
/* The sentence of a broken invariant; NULL: all hold. */
const char *dense_check(const struct dense *d);

#endif
