/*
 * Opening the files of a model: one list of tensors and one of metadata,
 * whatever the format; names find both. Files in use are watched: their size,
 * time and inode must stay as they were before the first byte was read.
 */
#include "weights/weights_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int weights_of_gguf(struct gguf *g, struct weights **out, struct err *e)
{
    struct weights *w = calloc(1, sizeof(*w));
    if (!w) {
        gguf_close(g);
        return err_set(e, E_NOMEM, "model: no memory for its description");
    }
    w->gguf = g;
    int rc = gguf_source_read(w, e);
    if (rc == OK)
        rc = weights_index(w, e);
    if (rc < 0) {
        weights_close(w);
        return rc;
    }
    *out = w;
    return OK;
}

int weights_open(const char *path, bool alone, struct weights **out, struct err *e)
{
    struct gguf *g;
    struct weights *w = NULL;
    TRY(alone ? gguf_open_part(path, &g, e) : gguf_open(path, &g, e));
    TRY(weights_of_gguf(g, &w, e));
    int rc = OK;
    for (int i = 0; rc == OK && i < gguf_n_files(g); i++)
        rc = weights_watch(w, gguf_file_path(g, i), gguf_file_stamp(g, i), e);
    if (rc < 0) {
        weights_close(w);
        return rc;
    }
    *out = w;
    return OK;
}

void weights_close(struct weights *w)
{
    if (!w)
        return;
    gguf_close(w->gguf);
    for (int i = 0; i < w->n_watched; i++)
        free(w->watched[i].path);
    free(w->watched);
    free(w->tensors);
    free(w->by_name);
    free(w->meta);
    free(w->by_key);
    free(w->part_names);
    free(w);
}

int64_t weights_description_bytes(const struct weights *w)
{
    enum { INDEX = 4 * sizeof(int64_t) }; /* of a name in the reader's own index */
    size_t bytes = (size_t)w->n_tensors * (sizeof(*w->tensors) + sizeof(*w->by_name)) +
                   (size_t)w->n_own * (2 * sizeof(struct gguf_tensor) + INDEX) +
                   (size_t)w->n_meta *
                       (sizeof(*w->meta) + sizeof(*w->by_key) + sizeof(struct gguf_value) + INDEX);
    for (int i = 0; i < gguf_n_files(w->gguf); i++)
        bytes += (size_t)gguf_header_bytes(w->gguf, i);
    return (int64_t)bytes;
}

/* ---- names ------------------------------------------------------------------ */

/* qsort has no place for the list that the numbers stand for. */
struct named {
    struct str name;
    int64_t number;
};

static int compare_names(struct str a, struct str b)
{
    int order = memcmp(a.p, b.p, MIN(a.n, b.n));
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

static int by_name(const void *a, const void *b)
{
    const struct named *x = a, *y = b;
    int order = compare_names(x->name, y->name);
    return order ? order : (x->number > y->number) - (x->number < y->number);
}

static struct str tensor_name(const struct weights *w, int64_t i)
{
    return (struct str){w->tensors[i].name, strlen(w->tensors[i].name)};
}

static struct str meta_name(const struct weights *w, int64_t i)
{
    return w->meta[i].key;
}

typedef struct str name_fn(const struct weights *w, int64_t i);

static int64_t *sort_names(const struct weights *w, name_fn *name, int64_t n)
{
    struct named *list = malloc(((size_t)n + 1) * sizeof(*list));
    int64_t *numbers = malloc(((size_t)n + 1) * sizeof(*numbers));
    for (int64_t i = 0; list && numbers && i < n; i++)
        list[i] = (struct named){name(w, i), i};
    if (list && numbers && n)
        qsort(list, (size_t)n, sizeof(*list), by_name);
    for (int64_t i = 0; list && numbers && i < n; i++)
        numbers[i] = list[i].number;
    if (!list) {
        free(numbers);
        numbers = NULL;
    }
    free(list);
    return numbers;
}

int weights_index(struct weights *w, struct err *e)
{
    free(w->by_name);
    free(w->by_key);
    w->by_name = sort_names(w, tensor_name, w->n_tensors);
    w->by_key = sort_names(w, meta_name, w->n_meta);
    if (!w->by_name || !w->by_key)
        return err_set(e, E_NOMEM, "model: no memory for an index of %lld tensors",
                       (long long)w->n_tensors);
    return OK;
}

/* The first of that name; -1: there is none. */
static int64_t find(const struct weights *w, const int64_t *numbers, name_fn *name, int64_t n,
                    const char *wanted)
{
    struct str want = {wanted, strlen(wanted)};
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        if (compare_names(name(w, numbers[mid]), want) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low < n && compare_names(name(w, numbers[low]), want) == 0 ? numbers[low] : -1;
}

/* ---- tensors and metadata ------------------------------------------------------ */

int64_t weights_n_tensors(const struct weights *w)
{
    return w->n_tensors;
}

const struct tensor *weights_tensor(const struct weights *w, int64_t i)
{
    return &w->tensors[i];
}

const struct tensor *weights_find(const struct weights *w, const char *name)
{
    int64_t i = find(w, w->by_name, tensor_name, w->n_tensors, name);
    return i < 0 ? NULL : &w->tensors[i];
}

void weights_set_role(struct weights *w, const struct tensor *t, int role)
{
    w->tensors[t - w->tensors].role = role;
}

bool weights_are_packed(const struct weights *w)
{
    return w->n_tensors > w->n_own && weights_meta(w, "sluice.pack.version");
}

int tensor_block(const char *name)
{
    int layer = 0, digits = 0;
    if (strncmp(name, "blk.", 4) != 0)
        return -1;
    for (name += 4; *name >= '0' && *name <= '9' && digits < 7; name++, digits++)
        layer = 10 * layer + (*name - '0');
    return digits > 0 && *name == '.' ? layer : -1;
}

bool tensor_may_be_zero(const struct tensor *t)
{
    size_t n = strlen(t->name);
    return n > 5 && strcmp(t->name + n - 5, ".bias") == 0;
}

int64_t weights_n_meta(const struct weights *w)
{
    return w->n_meta;
}

const struct meta *weights_meta_at(const struct weights *w, int64_t i)
{
    return &w->meta[i];
}

const struct meta *weights_meta(const struct weights *w, const char *key)
{
    int64_t i = find(w, w->by_key, meta_name, w->n_meta, key);
    return i < 0 ? NULL : &w->meta[i];
}

/* ---- files ------------------------------------------------------------------- */

int weights_n_files(const struct weights *w)
{
    return gguf_n_files(w->gguf);
}

const char *weights_path(const struct weights *w, int file)
{
    return gguf_file_path(w->gguf, file);
}

int64_t weights_file_bytes(const struct weights *w, int file)
{
    return gguf_file_bytes(w->gguf, file);
}

int64_t weights_header_bytes(const struct weights *w, int file)
{
    return gguf_header_bytes(w->gguf, file);
}

bool weights_part(const struct weights *w, uint64_t *no, uint64_t *count)
{
    return gguf_part(w->gguf, no, count);
}

char *weights_part_path(const char *path, int no)
{
    return gguf_part_path(path, no);
}

int weights_queue_files(const struct weights *w, struct ioq *q, int *files, struct err *e)
{
    for (int i = 0; i < gguf_n_files(w->gguf); i++) {
        int rc = files[i] = ioq_add_file(q, gguf_file_path(w->gguf, i), e);
        TRY(rc);
    }
    return OK;
}

int weights_watch(struct weights *w, const char *path, uint64_t stamp, struct err *e)
{
    struct watched *list = realloc(w->watched, (size_t)(w->n_watched + 1) * sizeof(*list));
    if (list)
        w->watched = list;
    char *real = list ? realpath(path, NULL) : NULL; /* the program may change its folder */
    if (!real)
        real = list ? strdup(path) : NULL;
    if (!real)
        return err_set(e, E_NOMEM, "model: no memory for its list of files");
    w->watched[w->n_watched++] = (struct watched){real, stamp};
    return OK;
}

int weights_unchanged(const struct weights *w, struct err *e)
{
    for (int i = 0; i < w->n_watched; i++) {
        uint64_t now = os_file_stamp(w->watched[i].path);
        if (now != w->watched[i].stamp)
            return err_set(e, E_IO, "%s %s while it was in use: what was computed may be wrong; "
                           "try again when nothing writes to it",
                           w->watched[i].path, now ? "has changed" : "was removed");
    }
    return OK;
}
