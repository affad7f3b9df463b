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

static const char *const readers[] = {"auto", "uring", "pread"};

const char *sluice_choice(const char *option, int i)
{
    if (strcmp(option, "io") == 0)
        return i >= 0 && i < (int)ARRAY_LEN(readers) ? readers[i] : NULL;
    if (strcmp(option, "cpu") == 0)
        return i == 0 ? "auto" : device_cpu_name(i - 1);
    if (strcmp(option, "policy") != 0 || i < 0)
        return NULL;
    for (int k = 0; k < i; k++)
        if (!model_policy(k))
            return NULL;
    return model_policy(i);
}

int io_kind(const char *name, enum ioq_kind *kind, struct err *e)
{
    static const enum ioq_kind kinds[] = {IOQ_AUTO, IOQ_URING, IOQ_PREAD};
    *kind = IOQ_AUTO;
    for (size_t i = 0; name && i < ARRAY_LEN(readers); i++)
        if (strcmp(name, readers[i]) == 0) {
            *kind = kinds[i];
            return OK;
        }
    return name ? err_set(e, E_ARG, "unknown reader '%s'; expected auto, uring or pread", name) : OK;
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

int check_options(const sluice_options *o, struct err *e)
{
    enum ioq_kind kind;
    if (!o->model || !o->model[0])
        return err_set(e, E_ARG, "no model was named");
    if (o->threads < 0 || o->threads > most_threads())
        return err_set(e, E_ARG, "threads is %d, expected 1 to %d on the %d processors here, or 0 for one per processor",
                       o->threads, most_threads(), os_cpu_count());
    if (o->context < 0)
        return err_set(e, E_ARG, "context is %d, expected 1 or more tokens, or 0 for what the model has", o->context);
    if (o->chunk < 0 || o->chunk > MOST_CHUNK)
        return err_set(e, E_ARG, "chunk is %d, expected 1 to %d tokens, or 0 for a chosen number", o->chunk, MOST_CHUNK);
    if (o->held_bytes < 0)
        return err_set(e, E_ARG, "held_bytes is %lld, expected 0 or more", (long long)o->held_bytes);
    if (o->n_mirrors < 0 || o->n_mirrors > IOQ_MAX_COPIES - 1)
        return err_set(e, E_ARG, "%d mirrors are given, at most %d are possible", o->n_mirrors, IOQ_MAX_COPIES - 1);
    if (o->lookahead < SLUICE_LOOKAHEAD_NONE || o->lookahead > DEV_MAX_USED)
        return err_set(e, E_ARG, "lookahead is %d, expected 1 to %d, %d for as many as pay or %d for none", o->lookahead,
                       DEV_MAX_USED, SLUICE_LOOKAHEAD_AUTO, SLUICE_LOOKAHEAD_NONE);
    TRY(io_kind(o->io, &kind, e));
    return check_policy(o->policy, e);
}

/* ---- files ------------------------------------------------------------------- */

static void add_mirrors(struct os_places *p, const sluice_options *o, const char *part)
{
    char what[64];
    for (int k = 0; k < o->n_mirrors; k++) {
        char *copy = o->mirrors[k] ? model_mirror_path(o->mirrors[k], part) : NULL;
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
        os_places_add(&p, "the timeline", o->timeline, true);
    int rc = os_places_check(&p, e);
    os_places_free(&p);
    return rc;
}

int sluice_check(const sluice_options *o, const sluice_file *files, int n_files, sluice_error *err)
{
    struct err *e = err_of(err);
    TRY(check_options(o, e));
    return check_files(o, files, n_files, e);
}
