/*
 * sluice inspect: what a GGUF file holds.
 *
 * One visit collects everything as JSON values and sums; the text form is
 * printed from those, so both forms show the same.
 */
#include "cli.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { MAX_SUMS = 64 };

struct sum { /* of the tensors of one role and type */
    char role[16], type[16];
    int64_t n_tensors, bytes;
};

struct inspection {
    json_t *meta;    /* [{key, type, value}] */
    json_t *tensors; /* [{name, type, shape, bytes, file, offset, role}] */
    json_t *notes;   /* sentences */
    json_t *packed;  /* [{name, type, shape, bytes, in}]: matrices inside packed tensors */
    struct sum sums[MAX_SUMS];
    size_t n_sums;
    bool failed; /* out of memory */
};

static void keep(struct inspection *in, json_t *list, json_t *item)
{
    if (json_array_append_new(list, item) < 0) /* also when item is NULL */
        in->failed = true;
}

static void on_meta(void *user, const char *key, const char *type, const char *value)
{
    struct inspection *in = user;
    keep(in, in->meta,
         json_pack("{so ss so}", "key", json_bytes(key, strlen(key)), "type", type, "value",
                   json_bytes(value, strlen(value))));
}

static void add_sum(struct inspection *in, const char *role, const char *type, int64_t bytes)
{
    size_t i = 0;
    while (i < in->n_sums &&
           (strcmp(in->sums[i].role, role) != 0 || strcmp(in->sums[i].type, type) != 0))
        i++;
    if (i == MAX_SUMS)
        return;
    if (i == in->n_sums) {
        in->n_sums++;
        snprintf(in->sums[i].role, sizeof(in->sums[i].role), "%s", role);
        snprintf(in->sums[i].type, sizeof(in->sums[i].type), "%s", type);
    }
    in->sums[i].n_tensors++;
    in->sums[i].bytes += bytes;
}

static json_t *shape_json(const int64_t shape[4], int n_dims)
{
    json_t *dims = json_array();
    for (int i = 0; i < n_dims; i++)
        json_array_append_new(dims, json_integer(shape[i]));
    return dims;
}

static void on_tensor(void *user, const char *name, const char *type, const int64_t shape[4],
                      int n_dims, int64_t bytes, int file, int64_t offset, const char *role)
{
    struct inspection *in = user;
    keep(in, in->tensors,
         json_pack("{so ss so sI si sI ss}", "name", json_bytes(name, strlen(name)), "type", type,
                   "shape", shape_json(shape, n_dims), "bytes", (json_int_t)bytes, "file", file,
                   "offset", (json_int_t)offset, "role", role));
    add_sum(in, role, type, bytes);
}

static void on_packed(void *user, const char *name, const char *type, const int64_t shape[4],
                      int n_dims, int64_t bytes, const char *tensor)
{
    struct inspection *in = user;
    keep(in, in->packed,
         json_pack("{so ss so sI so}", "name", json_bytes(name, strlen(name)), "type", type,
                   "shape", shape_json(shape, n_dims), "bytes", (json_int_t)bytes, "in",
                   json_bytes(tensor, strlen(tensor))));
}

static void on_note(void *user, const char *text)
{
    struct inspection *in = user;
    keep(in, in->notes, json_bytes(text, strlen(text)));
}

/* ---- printing --------------------------------------------------------------------------- */

static const char *text_of(const json_t *item, const char *key)
{
    return json_string_value(json_object_get(item, key));
}

static void print_meta(const struct inspection *in)
{
    size_t i;
    const json_t *item;
    out_printf("Metadata (%zu)\n", json_array_size(in->meta));
    json_array_foreach(in->meta, i, item) {
        out_printf("  ");
        out_name(text_of(item, "key"), 44);
        out_printf(" %-12s ", text_of(item, "type"));
        out_name(text_of(item, "value"), 0);
        out_printf("\n");
    }
}

/* last: the key whose text ends the line */
static void print_list(const json_t *list, const char *last)
{
    size_t i;
    const json_t *item;
    json_array_foreach(list, i, item) {
        char dims[96] = "";
        size_t d, n = 0;
        const json_t *x;
        json_array_foreach(json_object_get(item, "shape"), d, x)
            n += (size_t)snprintf(dims + n, sizeof(dims) - n, "%s%" PRId64, d ? " x " : "",
                                  (int64_t)json_integer_value(x));
        out_printf("  ");
        out_name(text_of(item, "name"), 36);
        out_printf(" %-8s %-24s %12s  ", text_of(item, "type"), dims,
                   show_size(json_integer_value(json_object_get(item, "bytes"))).s);
        out_name(text_of(item, last), 0);
        out_printf("\n");
    }
}

static void print_tensors(const struct inspection *in)
{
    out_printf("Tensors (%zu)\n", json_array_size(in->tensors));
    print_list(in->tensors, "role");
    if (!json_array_size(in->packed))
        return;
    out_printf("Packed matrices (%zu): those of an expert lie together in the tensor named last\n",
               json_array_size(in->packed));
    print_list(in->packed, "in");
}

static void print_sizes(const struct inspection *in)
{
    int64_t bytes = 0, n = 0;
    out_printf("Sizes by role and type\n");
    for (size_t i = 0; i < in->n_sums; i++) {
        const struct sum *s = &in->sums[i];
        out_printf("  %-10s %-8s %6" PRId64 " tensors %12s\n", s->role, s->type, s->n_tensors,
                   show_size(s->bytes).s);
        bytes += s->bytes;
        n += s->n_tensors;
    }
    out_printf("  %-10s %-8s %6" PRId64 " tensors %12s\n", "all", "", n, show_size(bytes).s);
}

/* Names in it may have line breaks, and it is one line all the same. */
static void print_record(const char *before, const char *text)
{
    out_printf("%s", before);
    out_name(text, 0);
    out_printf("\n");
}

static void print_notes(const struct inspection *in)
{
    size_t i;
    const json_t *item;
    if (json_array_size(in->notes))
        out_printf("Notes\n");
    json_array_foreach(in->notes, i, item)
        print_record("  ", json_string_value(item));
}

static json_t *sizes_json(const struct inspection *in)
{
    json_t *list = json_array();
    for (size_t i = 0; i < in->n_sums; i++)
        json_array_append_new(list, json_pack("{ss ss sI sI}", "role", in->sums[i].role, "type",
                                              in->sums[i].type, "tensors",
                                              (json_int_t)in->sums[i].n_tensors, "bytes",
                                              (json_int_t)in->sums[i].bytes));
    return list;
}

static int print(const struct args *a, const struct inspection *in)
{
    bool some = a->only_meta || a->only_tensors;
    bool meta = a->only_meta || !some, tensors = a->only_tensors || !some;
    if (a->json)
        return json_print(json_pack("{sO* sO* sO* so* sO}", "metadata", meta ? in->meta : NULL,
                                    "tensors", tensors ? in->tensors : NULL, "packed",
                                    tensors ? in->packed : NULL, "sizes",
                                    some ? NULL : sizes_json(in), "notes", in->notes));
    if (meta)
        print_meta(in);
    if (tensors)
        print_tensors(in);
    if (!some)
        print_sizes(in);
    if (!some)
        print_notes(in);
    return ST_OK;
}

/* ---- checking --------------------------------------------------------------------------- */

struct check {
    json_t *files, *findings;
    bool json;
};

static void on_file(void *user, const char *path, int64_t bytes, const char *sha256)
{
    struct check *c = user;
    progress_end();
    if (!c->json) {
        out_printf("%s", sha256);
        print_record("  ", path);
    }
    json_array_append_new(c->files, json_pack("{so sI ss}", "path", json_bytes(path, strlen(path)),
                                              "bytes", (json_int_t)bytes, "sha256", sha256));
}

static void on_finding(void *user, const char *text)
{
    struct check *c = user;
    progress_end();
    if (!c->json)
        print_record("damaged: ", text);
    json_array_append_new(c->findings, json_bytes(text, strlen(text)));
}

static int check_files(const struct args *a, const char *path)
{
    struct check c = {.files = json_array(), .findings = json_array(), .json = a->json};
    sluice_verifier k = {
        .on_file = on_file, .on_finding = on_finding, .progress = progress_tell, .user = &c};
    sluice_error e = {0};
    int64_t n = 0;
    int rc = sluice_verify(path, &k, &n, &e), status = ST_OK;
    progress_end();
    if (rc < 0)
        status = fail_asked(&e);
    else if (a->json)
        status = json_print(json_pack("{sO sO}", "files", c.files, "findings", c.findings));
    else if (n == 0)
        out_printf("nothing damaged was found\n");
    json_decref(c.files);
    json_decref(c.findings);
    return status == ST_OK && n > 0 ? ST_FAIL : status;
}

static int look_into(const struct args *a, const char *path)
{
    struct inspection in = {.meta = json_array(), .tensors = json_array(), .packed = json_array(),
                            .notes = json_array()};
    sluice_visitor v = {.on_meta = on_meta, .on_tensor = on_tensor, .on_packed = on_packed,
                        .on_note = on_note, .user = &in};
    sluice_error e = {0};
    int status = ST_OK;
    if (sluice_inspect(path, &v, &e) < 0)
        status = fail(&e);
    if (status == ST_OK && in.failed)
        status = no_memory();
    if (status == ST_OK)
        status = print(a, &in);
    json_decref(in.meta);
    json_decref(in.tensors);
    json_decref(in.packed);
    json_decref(in.notes);
    return status;
}

int cmd_inspect(const struct args *a)
{
    char path[PATH_MAX];
    int status = cli_model_path(a, path);
    if (status != ST_OK)
        return status;
    return a->check ? check_files(a, path) : look_into(a, path);
}
