/*
 * Opening GGUF files and split sets, the checks that span tensors and files
 * (uniqueness, overlap, completeness of a set), and lookup by name.
 *
 * A set's metadata is what any of its files says: most say all in the first.
 * Tensors and keys of later files are joined to those of the first.
 * No file stays open: who reads tensors opens the paths again, for direct I/O.
 */
#include "gguf/gguf_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SPLIT_MAX 99999 /* five digits in the name */

struct gguf {
    struct gguf_file *files;
    int n_files;
    struct gguf_tensor *tensors; /* of all files, in file order */
    int64_t n_tensors;
    struct gguf_value *values; /* of all files, each key once, those of the first file first */
    int64_t n_values;
    struct index *values_by_key, *tensors_by_name;
    uint64_t part_no, part_count; /* a part opened alone; count 0: it is not */
};

/* ---- name index ------------------------------------------------------- */

/* Open addressing with linear probing, at most half full. */
struct index {
    uint64_t mask;
    struct index_slot {
        struct str name; /* p NULL: free */
        int64_t i;
    } slots[];
};

static uint64_t name_hash(struct str s)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */

    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (uint8_t)s.p[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

static struct index *index_new(int64_t n)
{
    uint64_t n_slots = 16;
    struct index *ix;

    while (n_slots < 2 * (uint64_t)n)
        n_slots *= 2;
    ix = calloc(1, sizeof *ix + n_slots * sizeof ix->slots[0]);
    if (ix)
        ix->mask = n_slots - 1;
    return ix;
}

/* The slot that holds `name`, or the free one where it belongs. */
static struct index_slot *index_slot(struct index *ix, struct str name)
{
    uint64_t i = name_hash(name) & ix->mask;

    while (ix->slots[i].name.p && (ix->slots[i].name.n != name.n ||
                                   memcmp(ix->slots[i].name.p, name.p, name.n) != 0))
        i = (i + 1) & ix->mask;
    return &ix->slots[i];
}

/* Adds name -> i; returns -1, or what has the name already. */
static int64_t index_add(struct index *ix, struct str name, int64_t i)
{
    struct index_slot *slot = index_slot(ix, name);

    if (slot->name.p)
        return slot->i;
    slot->name = name;
    slot->i = i;
    return -1;
}

static int64_t index_find(struct index *ix, const char *name)
{
    struct index_slot *slot;

    if (!ix || !name)
        return -1;
    slot = index_slot(ix, (struct str){name, strlen(name)});
    return slot->name.p ? slot->i : -1;
}

static int no_memory(const char *path, struct err *e)
{
    return err_set(e, E_NOMEM, "%s: no memory for the tensor tables", gguf_short_path(path));
}

/* ---- where files come from -------------------------------------------- */

/* The file system, or blobs. */
struct source {
    const struct gguf_blob *blobs;
    int n_blobs;
    bool part; /* a later part of a set may be opened alone */
};

static int open_blob(const struct source *src, const char *path, struct gguf_reader *r)
{
    for (int i = 0; i < src->n_blobs; i++) {
        if (strcmp(src->blobs[i].name, path) != 0)
            continue;
        r->mem = src->blobs[i].data;
        r->file_bytes = (int64_t)src->blobs[i].bytes;
        return OK;
    }
    return err_set(r->e, E_IO, "%s: no such blob", gguf_short_path(path));
}

static int open_file(const char *path, struct gguf_reader *r)
{
    r->fd = os_open_read(path, NULL, r->e);
    TRY(r->fd);
    r->file_bytes = os_file_size(r->fd);
    if (r->file_bytes < 0)
        return err_set(r->e, E_FORMAT, "%s: its size cannot be determined", gguf_short_path(path));
    return OK;
}

/* Reads one file's header into *f, which must be zeroed. */
static int load_file(const struct source *src, const char *path, struct gguf_file *f,
                     struct err *e)
{
    struct gguf_reader r = {.path = path, .fd = -1, .e = e};
    int status;

    f->path = strdup(path);
    if (!f->path)
        return no_memory(path, e);
    f->stamp = src->blobs ? 0 : os_file_stamp(path);
    status = src->blobs ? open_blob(src, path, &r) : open_file(path, &r);
    if (status == OK && r.file_bytes == 0)
        status = err_set(e, E_FORMAT, "%s: the file is empty (0 bytes)", gguf_short_path(path));
    if (status == OK)
        status = gguf_parse(&r, f);
    if (r.fd >= 0)
        close(r.fd);
    return status;
}

/* ---- uniqueness and overlap ------------------------------------------- */

static int duplicate(const struct gguf_file *f, const char *kind, int64_t no, struct str name,
                     int64_t other, const struct gguf_file *other_file, struct err *e)
{
    char quoted[96];
    const char *where = f == other_file ? "this file" : gguf_short_path(other_file->path);

    return err_set(e, E_FORMAT,
                   "%s: %s %" PRId64 " '%s' at byte %" PRId64 ": %s %" PRId64
                   " of %s has the same name; the file was written by a broken converter",
                   gguf_short_path(f->path), kind, no, gguf_quote(quoted, sizeof quoted, name),
                   gguf_header_pos(f, name.p), kind, other, where);
}

/* Indexes a file's keys; *out may be set on failure too. */
static int index_values(const struct gguf_file *f, struct index **out, struct err *e)
{
    *out = index_new(f->n_values);
    if (!*out)
        return no_memory(f->path, e);
    for (int64_t i = 0; i < f->n_values; i++) {
        int64_t other = index_add(*out, f->values[i].key, i);

        if (other >= 0)
            return duplicate(f, "key", i, f->values[i].key, other, f, e);
    }
    return OK;
}

/* The number of tensor i among those of its file. */
static int64_t number_in_file(const struct gguf *g, int64_t i)
{
    for (int f = 0; f < g->tensors[i].file; f++)
        i -= g->files[f].n_tensors;
    return i;
}

static int index_tensors(struct gguf *g, struct err *e)
{
    g->tensors_by_name = index_new(g->n_tensors);
    if (!g->tensors_by_name)
        return no_memory(g->files[0].path, e);
    for (int64_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        struct str name = {t->name, strlen(t->name)};
        int64_t other = index_add(g->tensors_by_name, name, i);

        if (other >= 0)
            return duplicate(&g->files[t->file], "tensor", number_in_file(g, i), name,
                             number_in_file(g, other), &g->files[g->tensors[other].file], e);
    }
    return OK;
}

static int by_place(const void *a, const void *b)
{
    const struct gguf_tensor *const *x = a, *const *y = b;

    if ((*x)->file != (*y)->file)
        return (*x)->file < (*y)->file ? -1 : 1;
    return ((*x)->offset > (*y)->offset) - ((*x)->offset < (*y)->offset);
}

static int check_overlap(const struct gguf *g, struct err *e)
{
    const struct gguf_tensor **order;
    int status = OK;

    order = malloc((size_t)MAX(g->n_tensors, 1) * sizeof *order);
    if (!order)
        return no_memory(g->files[0].path, e);
    for (int64_t i = 0; i < g->n_tensors; i++)
        order[i] = &g->tensors[i];
    qsort(order, (size_t)g->n_tensors, sizeof *order, by_place);
    for (int64_t i = 1; i < g->n_tensors && status == OK; i++) {
        const struct gguf_tensor *a = order[i - 1], *b = order[i];
        const struct gguf_file *f = &g->files[b->file];
        char qa[96], qb[96];

        if (a->file != b->file || a->offset + a->bytes <= b->offset)
            continue;
        status = err_set(e, E_FORMAT,
                         "%s: tensor '%s' at byte %" PRId64 ": its data (%" PRId64 " bytes from %"
                         PRId64 ") overlaps that of tensor '%s' (%" PRId64 " bytes from %" PRId64
                         "); the file was written by a broken converter",
                         gguf_short_path(f->path),
                         gguf_quote(qb, sizeof qb, (struct str){b->name, strlen(b->name)}),
                         gguf_header_pos(f, b->name), b->bytes, b->offset,
                         gguf_quote(qa, sizeof qa, (struct str){a->name, strlen(a->name)}),
                         a->bytes, a->offset);
    }
    free(order);
    return status;
}

/* ---- split sets ------------------------------------------------------- */

struct split {
    uint64_t no, count, n_tensors;
    bool has_no, has_count, has_tensors;
};

static int split_key(const struct gguf_file *f, struct index *keys, const char *key, bool *has,
                     uint64_t *out, struct err *e)
{
    int64_t i = index_find(keys, key);
    const struct gguf_value *v;

    *has = i >= 0;
    if (i < 0)
        return OK;
    v = &f->values[i];
    if (!v->is_array && gguf_value_u64(v, 0, out))
        return OK;
    return err_set(e, E_FORMAT,
                   "%s: key %" PRId64 " '%s' at byte %" PRId64
                   ": it must be an integer that is not negative; the file was written by a "
                   "broken converter",
                   gguf_short_path(f->path), i, key, gguf_header_pos(f, v->raw));
}

static int read_split(const struct gguf_file *f, struct index *keys, struct split *s,
                      struct err *e)
{
    *s = (struct split){.count = 1};
    TRY(split_key(f, keys, "split.no", &s->has_no, &s->no, e));
    TRY(split_key(f, keys, "split.count", &s->has_count, &s->count, e));
    return split_key(f, keys, "split.tensors.count", &s->has_tensors, &s->n_tensors, e);
}

/* PREFIX of PREFIX-00001-of-0000N.gguf when `path` is file `no` (0-based) of
 * `count`: its length, else -1. */
static int64_t split_prefix(const char *path, uint64_t no, uint64_t count)
{
    char suffix[64];
    int n = snprintf(suffix, sizeof suffix, "-%05" PRIu64 "-of-%05" PRIu64 ".gguf", no + 1, count);
    size_t len = strlen(path);

    if (len < (size_t)n || strcmp(path + len - n, suffix) != 0)
        return -1;
    return (int64_t)len - n;
}

static char *split_path(const char *first, size_t prefix, uint64_t no, uint64_t count)
{
    size_t room = prefix + 64;
    char *path = malloc(room);

    if (path)
        snprintf(path, room, "%.*s-%05" PRIu64 "-of-%05" PRIu64 ".gguf", (int)prefix, first, no + 1,
                 count);
    return path;
}

char *gguf_part_path(const char *path, int no)
{
    static const char form[] = "-00000-of-00000.gguf"; /* 0: any digit */
    size_t len = strlen(path), n = sizeof form - 1;
    const char *at = len >= n ? path + len - n : NULL;

    for (size_t i = 0; at && i < n; i++)
        if (form[i] == '0' ? at[i] < '0' || at[i] > '9' : at[i] != form[i])
            at = NULL;
    if (!at)
        return no == 0 ? strdup(path) : NULL;
    uint64_t count = strtoull(at + 10, NULL, 10);
    return (uint64_t)no < count ? split_path(path, len - n, (uint64_t)no, count) : NULL;
}

/* Checks the first file's split keys; *prefix is -1 for a file that is alone. */
static int check_first(const struct gguf_file *f, const struct split *s, bool part, int64_t *prefix,
                       struct err *e)
{
    const char *path = gguf_short_path(f->path);

    *prefix = -1;
    if (s->count < 1 || s->count > SPLIT_MAX || s->no >= s->count)
        return err_set(e, E_FORMAT,
                       "%s: split.no = %" PRIu64 " of split.count = %" PRIu64
                       " is impossible; the file was written by a broken converter",
                       path, s->no, s->count);
    if (s->count == 1 || (part && s->no > 0))
        return OK;
    *prefix = split_prefix(f->path, s->no, s->count);
    if (s->no > 0 && *prefix < 0)
        return err_set(e, E_ARG,
                       "%s: this is part %" PRIu64 " of %" PRIu64 " of a split model; open the "
                       "first part, whose name ends in -00001-of-%05" PRIu64 ".gguf",
                       path, s->no + 1, s->count, s->count);
    if (s->no > 0)
        return err_set(e, E_ARG,
                       "%s: this is part %" PRIu64 " of %" PRIu64 " of a split model; open the "
                       "first part, %.*s-00001-of-%05" PRIu64 ".gguf",
                       path, s->no + 1, s->count,
                       (int)(*prefix - (path - f->path)), path, s->count);
    if (*prefix < 0)
        return err_set(e, E_FORMAT,
                       "%s: this is the first of %" PRIu64 " parts of a split model, but its name "
                       "does not end in -00001-of-%05" PRIu64 ".gguf, so the others cannot be "
                       "found; rename it back",
                       path, s->count, s->count);
    return OK;
}

static int check_other(const struct gguf_file *f, const struct split *s, uint64_t no,
                       struct split *first, struct err *e)
{
    const char *path = gguf_short_path(f->path);

    if (!s->has_no || !s->has_count)
        return err_set(e, E_FORMAT, "%s: key %s is missing; this is not a part of a split model",
                       path, s->has_no ? "split.count" : "split.no");
    if (s->no != no || s->count != first->count)
        return err_set(e, E_FORMAT,
                       "%s: its keys say part %" PRIu64 " of %" PRIu64 " (split.no, split.count), "
                       "its name and the first part say %" PRIu64 " of %" PRIu64
                       "; a file was renamed or belongs to another model",
                       path, s->no + 1, s->count, no + 1, first->count);
    if (s->has_tensors && first->has_tensors && s->n_tensors != first->n_tensors)
        return err_set(e, E_FORMAT,
                       "%s: split.tensors.count = %" PRIu64 ", but the first part says %" PRIu64
                       "; the parts belong to different models",
                       path, s->n_tensors, first->n_tensors);
    if (s->has_tensors && !first->has_tensors) {
        first->has_tensors = true;
        first->n_tensors = s->n_tensors;
    }
    return OK;
}

static bool key_is(const struct gguf_value *v, const char *key)
{
    return v->key.n == strlen(key) && memcmp(v->key.p, key, v->key.n) == 0;
}

/* Whether a key speaks of its file, not of the model. */
static bool of_file(const struct gguf_value *v)
{
    return key_is(v, "split.no") || key_is(v, "general.alignment");
}

/* Parts of one model say the same wherever they say something twice. Most later
 * parts have no keys but their number: of these nothing can be told. */
static int check_same(const struct gguf *g, const struct gguf_file *f, struct err *e)
{
    for (int64_t i = 0; i < f->n_values; i++) {
        const struct gguf_value *v = &f->values[i], *w;
        struct index_slot *slot = index_slot(g->values_by_key, v->key);
        char quoted[96];

        if (!slot->name.p || of_file(v))
            continue;
        w = &g->values[slot->i];
        if (v->type == w->type && v->is_array == w->is_array && v->n == w->n &&
            gguf_raw_bytes(v) == gguf_raw_bytes(w) &&
            memcmp(v->raw, w->raw, gguf_raw_bytes(v)) == 0)
            continue;
        if (!v->is_array && !w->is_array && v->type != w->type && v->key.n > 6 &&
            memcmp(v->key.p, "split.", 6) == 0)
            continue; /* whole numbers of another width: compared by check_other */
        return err_set(e, E_FORMAT,
                       "%s: its key '%s' is not the same as in %s part; the parts belong to "
                       "different models",
                       gguf_short_path(f->path), gguf_quote(quoted, sizeof quoted, v->key),
                       slot->i < g->files[0].n_values ? "the first" : "an earlier");
    }
    return OK;
}

/* Adds what file f says of the model that no file before it said. */
static int merge_values(struct gguf *g, const struct gguf_file *f, struct err *e)
{
    struct gguf_value *values;
    struct index *keys;

    values = realloc(g->values, (size_t)MAX(g->n_values + f->n_values, 1) * sizeof *values);
    if (!values)
        return no_memory(f->path, e);
    g->values = values;
    keys = index_new(g->n_values + f->n_values);
    if (!keys)
        return no_memory(f->path, e);
    free(g->values_by_key);
    g->values_by_key = keys;
    for (int64_t i = 0; i < g->n_values; i++)
        index_add(keys, g->values[i].key, i);
    for (int64_t i = 0; i < f->n_values; i++)
        if (!of_file(&f->values[i]) && index_add(keys, f->values[i].key, g->n_values) < 0)
            g->values[g->n_values++] = f->values[i];
    return OK;
}

static int load_other(struct gguf *g, const struct source *src, const char *path, uint64_t no,
                      struct split *first, struct err *e)
{
    struct gguf_file *f = realloc(g->files, ((size_t)g->n_files + 1) * sizeof *f);
    struct index *keys = NULL;
    struct split s;
    int status;

    if (!f)
        return no_memory(path, e);
    g->files = f;
    f += g->n_files++;
    *f = (struct gguf_file){0};
    status = load_file(src, path, f, e);
    if (status == OK)
        status = index_values(f, &keys, e);
    if (status == OK)
        status = read_split(f, keys, &s, e);
    if (status == OK)
        status = check_other(f, &s, no, first, e);
    if (status == OK)
        status = check_same(g, f, e);
    if (status == OK)
        status = merge_values(g, f, e);
    free(keys);
    return status;
}

/* Loads the files after the first. */
static int load_others(struct gguf *g, const struct source *src, struct split *first, size_t prefix,
                       struct err *e)
{
    for (uint64_t no = 1; no < first->count; no++) {
        char *path = split_path(g->files[0].path, prefix, no, first->count);
        struct err why = {0};
        int status;

        if (!path)
            return no_memory(g->files[0].path, e);
        status = load_other(g, src, path, no, first, &why);
        if (status == E_IO)
            err_set(e, status,
                    "%s: part %" PRIu64 " of %" PRIu64 " of the model cannot be read: %s",
                    gguf_short_path(g->files[0].path), no + 1, first->count, why.text);
        else if (status < 0)
            err_set(e, status, "%s", why.text);
        free(path);
        TRY(status);
    }
    return OK;
}

/* ---- opening ---------------------------------------------------------- */

/* Collects the tensors of all files. */
static int merge_tensors(struct gguf *g, const struct split *s, struct err *e)
{
    int64_t n = 0;

    for (int f = 0; f < g->n_files; f++)
        n += g->files[f].n_tensors;
    if (s->has_tensors && s->n_tensors != (uint64_t)n)
        return err_set(e, E_FORMAT,
                       "%s: split.tensors.count = %" PRIu64 ", but the %d files have %" PRId64
                       " tensors; a part belongs to another model",
                       gguf_short_path(g->files[0].path), s->n_tensors, g->n_files, n);
    g->tensors = malloc((size_t)MAX(n, 1) * sizeof *g->tensors);
    if (!g->tensors)
        return no_memory(g->files[0].path, e);
    for (int f = 0; f < g->n_files; f++) {
        struct gguf_file *file = &g->files[f];

        for (int64_t i = 0; i < file->n_tensors; i++) {
            g->tensors[g->n_tensors] = file->tensors[i];
            g->tensors[g->n_tensors++].file = f;
        }
        free(file->tensors);
        file->tensors = NULL;
    }
    return OK;
}

static int load_set(struct gguf *g, const struct source *src, const char *path, struct err *e)
{
    struct split split;
    int64_t prefix;

    g->files = calloc(1, sizeof *g->files);
    if (!g->files)
        return no_memory(path, e);
    g->n_files = 1;
    TRY(load_file(src, path, &g->files[0], e));
    TRY(index_values(&g->files[0], &g->values_by_key, e));
    TRY(read_split(&g->files[0], g->values_by_key, &split, e));
    TRY(check_first(&g->files[0], &split, src->part, &prefix, e));
    if (split.count > 1 && prefix < 0) { /* alone it cannot have all tensors */
        g->part_no = split.no;
        g->part_count = split.count;
        split.has_tensors = false;
    }
    g->values = g->files[0].values;
    g->n_values = g->files[0].n_values;
    g->files[0].values = NULL;
    if (prefix >= 0)
        TRY(load_others(g, src, &split, (size_t)prefix, e));
    TRY(merge_tensors(g, &split, e));
    TRY(index_tensors(g, e));
    return check_overlap(g, e);
}

static int open_source(const struct source *src, const char *path, struct gguf **out,
                       struct err *e)
{
    struct gguf *g;
    int status;

    *out = NULL;
    g = calloc(1, sizeof *g);
    if (!g)
        return no_memory(path, e);
    status = load_set(g, src, path, e);
    if (status < 0) {
        gguf_close(g);
        return status;
    }
    *out = g;
    return OK;
}

int gguf_open(const char *path, struct gguf **out, struct err *e)
{
    return open_source(&(struct source){0}, path, out, e);
}

int gguf_open_part(const char *path, struct gguf **out, struct err *e)
{
    return open_source(&(struct source){.part = true}, path, out, e);
}

int gguf_open_blobs(const struct gguf_blob *blobs, int n_blobs, struct gguf **out, struct err *e)
{
    return open_source(&(struct source){.blobs = blobs, .n_blobs = n_blobs}, blobs[0].name, out, e);
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    for (int i = 0; i < g->n_files; i++)
        gguf_file_free(&g->files[i]);
    free(g->files);
    free(g->tensors);
    free(g->values);
    free(g->values_by_key);
    free(g->tensors_by_name);
    free(g);
}

/* ---- answers ---------------------------------------------------------- */

int gguf_n_files(const struct gguf *g)
{
    return g->n_files;
}

const char *gguf_file_path(const struct gguf *g, int file)
{
    return file >= 0 && file < g->n_files ? g->files[file].path : NULL;
}

int64_t gguf_file_bytes(const struct gguf *g, int file)
{
    return file >= 0 && file < g->n_files ? g->files[file].bytes : -1;
}

int64_t gguf_header_bytes(const struct gguf *g, int file)
{
    return file >= 0 && file < g->n_files ? (int64_t)g->files[file].header_bytes : -1;
}

uint64_t gguf_file_stamp(const struct gguf *g, int file)
{
    return file >= 0 && file < g->n_files ? g->files[file].stamp : 0;
}

bool gguf_part(const struct gguf *g, uint64_t *no, uint64_t *count)
{
    *no = g->part_no;
    *count = g->part_count;
    return g->part_count > 0;
}

int gguf_version(const struct gguf *g)
{
    return (int)g->files[0].version;
}

int64_t gguf_n_values(const struct gguf *g)
{
    return g->n_values;
}

const struct gguf_value *gguf_value_at(const struct gguf *g, int64_t i)
{
    return i >= 0 && i < g->n_values ? &g->values[i] : NULL;
}

const struct gguf_value *gguf_find(const struct gguf *g, const char *key)
{
    return gguf_value_at(g, index_find(g->values_by_key, key));
}

int64_t gguf_n_tensors(const struct gguf *g)
{
    return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, int64_t i)
{
    return i >= 0 && i < g->n_tensors ? &g->tensors[i] : NULL;
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
    return gguf_tensor_at(g, index_find(g->tensors_by_name, name));
}
