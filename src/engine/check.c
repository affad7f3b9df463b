/*
 * What can be refused before anything is opened: values out of range, and files
 * that would be written over.
 */
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- values ------------------------------------------------------------------ */

enum { MOST_CHUNK = 65536, THREADS_FOR_ONE = 4, THREADS_ANYWHERE = 16 };

/* Threads beyond the processors wait for one another at every step. */
static int most_threads(void)
{
    return MAX(THREADS_FOR_ONE * os_cpu_count(), (int)THREADS_ANYWHERE);
}

int64_t sluice_most(const char *option)
{
    if (strcmp(option, "threads") == 0)
        return most_threads();
    if (strcmp(option, "chunk") == 0)
        return MOST_CHUNK;
    return strcmp(option, "lookahead") == 0 ? DEV_MAX_USED : 0;
}

static const char *const readers[] = {
    [IOQ_AUTO] = "auto", [IOQ_URING] = "uring", [IOQ_PREAD] = "pread"};
_Static_assert(ARRAY_LEN(readers) == IOQ_N_KINDS, "a name for each reader");

const char *sluice_choice(const char *option, int i)
{
    if (strcmp(option, "io") == 0)
        return i >= 0 && i < (int)ARRAY_LEN(readers) ? readers[i] : NULL;
    if (strcmp(option, "cpu") == 0)
        return i == 0 ? "auto" : device_cpu_name(i - 1);
    if (strcmp(option, "calls") == 0) {
        const struct call_row *row = call_row_at(i);
        return row ? row->name : NULL;
    }
    if (strcmp(option, "policy") != 0 || i < 0)
        return NULL;
    for (int k = 0; k < i; k++)
        if (!model_policy(k))
            return NULL;
    return model_policy(i);
}

int io_kind(const char *name, enum ioq_kind *kind, struct err *e)
{
    *kind = IOQ_AUTO;
    for (size_t i = 0; name && i < ARRAY_LEN(readers); i++)
        if (strcmp(name, readers[i]) == 0) {
            *kind = (enum ioq_kind)i;
            return OK;
        }
    return name ? err_set(e, E_ARG, "unknown reader '%s'; expected auto, uring or pread", name)
                : OK;
}

static int check_policy(const char *name, struct err *e)
{
    char all[200] = "";
    size_t n = 0;
    for (int i = 0; model_policy(i); i++) {
        if (!name || strcmp(model_policy(i), name) == 0)
            return OK;
        n += (size_t)snprintf(all + n, sizeof(all) - n, "%s%s", i ? ", " : "", model_policy(i));
        n = MIN(n, sizeof(all) - 1);
    }
    return err_set(e, E_ARG, "no eviction policy is called '%s'; expected one of %s", name, all);
}

int check_list(const char *what, const void *list, int64_t n, struct err *e)
{
    if (n < 0)
        return err_set(e, E_ARG, "there cannot be %lld %s", (long long)n, what);
    if (n > 0 && !list)
        return err_set(e, E_ARG, "%lld %s are announced, but there is no list of them",
                       (long long)n, what);
    return OK;
}

int check_mirrors(const sluice_options *o, struct err *e)
{
    if (o->n_mirrors < 0 || o->n_mirrors > IOQ_MAX_COPIES - 1)
        return err_set(e, E_ARG, "%d mirrors are given, at most %d are possible", o->n_mirrors,
                       IOQ_MAX_COPIES - 1);
    TRY(check_list("mirrors", o->mirrors, o->n_mirrors, e));
    for (int i = 0; i < o->n_mirrors; i++)
        if (!o->mirrors[i] || !o->mirrors[i][0])
            return err_set(e, E_ARG, "mirror %d has no name", i + 1);
    return OK;
}

static int check_routing(const sluice_routing *r, struct err *e)
{
    if (!r)
        return OK;
    TRY(check_list("tokens of a recorded routing", r->experts, r->n_tokens, e));
    if (r->n_layers < 1 || r->n_used < 1 ||
        r->n_tokens > INT64_MAX / (int64_t)sizeof(*r->experts) / r->n_layers / r->n_used)
        return err_set(
            e, E_ARG,
            "a recorded routing of %lld tokens with %d layers of %d picks is not possible",
            (long long)r->n_tokens, r->n_layers, r->n_used);
    return OK;
}

int check_options(const sluice_options *o, struct err *e)
{
    enum ioq_kind kind;
    if (!o->model || !o->model[0])
        return err_set(e, E_ARG, "no model was named");
    if (o->threads < 0 || o->threads > most_threads())
        return err_set(
            e, E_ARG,
            "threads is %d, expected 1 to %d on the %d processors here, or 0 for one per processor",
            o->threads, most_threads(), os_cpu_count());
    if (o->context < 0)
        return err_set(e, E_ARG,
                       "context is %d, expected 1 or more tokens, or 0 for what the model has",
                       o->context);
    if (o->chunk < 0 || o->chunk > MOST_CHUNK)
        return err_set(e, E_ARG, "chunk is %d, expected 1 to %d tokens, or 0 for a chosen number",
                       o->chunk, MOST_CHUNK);
    if (o->held_bytes < 0)
        return err_set(e, E_ARG, "held_bytes is %lld, expected 0 or more",
                       (long long)o->held_bytes);
    TRY(check_mirrors(o, e));
    TRY(check_routing(o->routing, e));
    if (o->lookahead < SLUICE_LOOKAHEAD_NONE || o->lookahead > DEV_MAX_USED)
        return err_set(e, E_ARG,
                       "lookahead is %d, expected 1 to %d, %d for as many as pay or %d for none",
                       o->lookahead, DEV_MAX_USED, SLUICE_LOOKAHEAD_AUTO, SLUICE_LOOKAHEAD_NONE);
    TRY(io_kind(o->io, &kind, e));
    return check_policy(o->policy, e);
}

/* ---- files ------------------------------------------------------------------- */

static void add_mirrors(struct os_places *p, const sluice_options *o, const char *part)
{
    char what[64];
    for (int k = 0; k < o->n_mirrors; k++) {
        char *copy = model_mirror_path(o->mirrors[k], part);
        snprintf(what, sizeof(what), "a file of mirror %d", k + 1);
        if (copy && access(copy, F_OK) == 0)
            os_places_add(p, what, copy, false);
        free(copy);
    }
}

/* The files of the model, and those of its mirrors, as far as they are there. */
static void add_model(struct os_places *p, const sluice_options *o)
{
    char what[64] = "the model";
    char *part;
    for (int i = 0; (part = model_part_path(o->model, i)) != NULL; i++) {
        bool there = access(part, F_OK) == 0;
        if (strcmp(part, o->model) != 0)
            snprintf(what, sizeof(what), "part %d of the model", i + 1);
        if (there)
            os_places_add(p, what, part, false);
        add_mirrors(p, o, part);
        free(part);
        if (!there)
            break;
    }
    os_places_add(p, "the model", o->model, false);
}

int check_files(const sluice_options *o, const sluice_file *files, int n_files, struct err *e)
{
    struct os_places p = {0};
    add_model(&p, o);
    for (int i = 0; i < n_files; i++)
        os_places_add(&p, files[i].what, files[i].path, files[i].written);
    if (o->timeline)
        os_places_add(&p, "--timeline", o->timeline, true);
    int rc = os_places_check(&p, e);
    os_places_free(&p);
    return rc;
}

/* The host's list, as this version knows it. */
static int take_files(const sluice_file *files, int n, size_t size, sluice_file *known,
                      struct err *e)
{
    for (int i = 0; i < n; i++) {
        TRY(sized_take(SIZED_sluice_file, (const char *)files + (size_t)i * size, size, &known[i],
                       e));
        if (!known[i].what || !known[i].path)
            return err_set(e, E_ARG, "file %d of the list has no %s", i + 1,
                           known[i].what ? "path" : "name for sentences");
    }
    return OK;
}

int sluice_check_sized(const sluice_options *o, const sluice_file *files, int n_files,
                       size_t file_size, sluice_error *err)
{
    struct err *e = err_of(err);
    sluice_options known;
    TRY(options_take(o, &known, e));
    TRY(check_options(&known, e));
    TRY(check_list("files", files, n_files, e));
    TRY(sized_check(SIZED_sluice_file, file_size, e));
    sluice_file *list = calloc((size_t)n_files + 1, sizeof(*list));
    if (!list)
        return err_set(e, E_NOMEM, "no memory for a list of %d files", n_files);
    int rc = take_files(files, n_files, file_size, list, e);
    if (rc == OK)
        rc = check_files(&known, list, n_files, e);
    free(list);
    return rc;
}
