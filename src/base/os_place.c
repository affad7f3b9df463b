/*
 * Which files a task touches: whether two names are one file, or will be.
 *
 * A file that is there is known by device and inode, which hard links, symbolic
 * links and mounts share. One that is not there yet is known by the folder that
 * it will lie in and its name in it.
 */
#include "base/base.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_LINKS = 40 }; /* as the system has it; more are a circle */

/* ---- one name --------------------------------------------------------------- */

/* `name` in the folder of `path`, or alone where it begins with '/'. */
static char *beside(const char *path, const char *name)
{
    const char *slash = strrchr(path, '/');
    char *s = NULL;
    if (name[0] == '/' || !slash)
        return strdup(name);
    return asprintf(&s, "%.*s%s", (int)(slash - path) + 1, path, name) < 0 ? NULL : s;
}

/* The folder's real path and the name in it; what cannot be found stays as it is. */
static char *with_real_folder(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    char *real = folder ? realpath(folder, NULL) : NULL, *s = NULL;
    free(folder);
    if (!real)
        return strdup(path);
    if (asprintf(&s, "%s%s%s", real, strcmp(real, "/") == 0 ? "" : "/", name) < 0)
        s = NULL;
    free(real);
    return s;
}

char *os_resolve(const char *path)
{
    char *real = realpath(path, NULL), *at = real ? NULL : strdup(path);
    if (real)
        return real;
    for (int i = 0; at && i < MOST_LINKS; i++) {
        char target[PATH_MAX];
        ssize_t n = readlink(at, target, sizeof(target) - 1);
        if (n < 0)
            break;
        target[n] = '\0';
        char *next = beside(at, target);
        free(at);
        at = next;
    }
    char *s = at ? with_real_folder(at) : NULL;
    free(at);
    return s;
}

int os_path_fd(const char *path)
{
    static const char *const streams[] = {"/dev/stdin", "/dev/stdout", "/dev/stderr"};
    static const char *const folders[] = {"/dev/fd/", "/proc/self/fd/"};
    for (int i = 0; i < 3; i++)
        if (strcmp(path, streams[i]) == 0)
            return i;
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        size_t n = strlen(folders[i]), digits = strspn(path + MIN(n, strlen(path)), "0123456789");
        if (strncmp(path, folders[i], n) == 0 && digits > 0 && digits < 6 && !path[n + digits])
            return atoi(path + n);
    }
    return -1;
}

/* ---- several ----------------------------------------------------------------- */

enum { THERE = 1, TO_COME = 2 }; /* 0: a pipe or device, which nothing destroys */

struct place { /* the identity of a name */
    int kind;
    dev_t dev; /* of the file, or of the folder it will lie in */
    ino_t ino;
    char *real;
};

struct os_place {
    char *what, *path;
    bool output;
    int fd; /* that the path names; -1: none */
    struct place at, temp; /* temp: of an output, while it is written */
};

static void find(struct place *at, const char *path)
{
    struct stat st;
    at->real = os_resolve(path);
    if (!at->real)
        return;
    if (stat(path, &st) == 0) {
        at->kind = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) || S_ISDIR(st.st_mode) ? THERE : 0;
        at->dev = S_ISBLK(st.st_mode) ? 0 : st.st_dev;
        at->ino = S_ISBLK(st.st_mode) ? (ino_t)st.st_rdev : st.st_ino;
        return;
    }
    char *slash = strrchr(at->real, '/');
    char *folder = slash ? strndup(at->real, (size_t)(slash - at->real) + 1) : strdup(".");
    if (folder && stat(folder, &st) == 0) {
        at->kind = TO_COME;
        at->dev = st.st_dev;
        at->ino = st.st_ino;
    }
    free(folder);
}

static const char *last_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool same(const struct place *a, const struct place *b)
{
    return a->kind && a->kind == b->kind && a->dev == b->dev && a->ino == b->ino &&
           (a->kind == THERE || strcmp(last_name(a->real), last_name(b->real)) == 0);
}

void os_places_add(struct os_places *p, const char *what, const char *path, bool output)
{
    char *temp = NULL;
    if (p->n == p->cap) {
        int cap = p->cap * 2 + 8;
        struct os_place *v = realloc(p->v, (size_t)cap * sizeof(*v));
        if (!v) {
            p->no_memory = true;
            return;
        }
        p->v = v;
        p->cap = cap;
    }
    struct os_place *x = &p->v[p->n++];
    *x = (struct os_place){.what = strdup(what), .path = strdup(path), .output = output,
                           .fd = os_path_fd(path)};
    find(&x->at, path);
    if (!x->what || !x->path || !x->at.real)
        p->no_memory = true;
    else if (output && x->fd < 0 && asprintf(&temp, "%s" OS_OUT_SUFFIX, x->at.real) < 0)
        p->no_memory = true;
    else if (temp)
        find(&x->temp, temp);
    free(temp);
}

void os_places_free(struct os_places *p)
{
    for (int i = 0; i < p->n; i++) {
        free(p->v[i].what);
        free(p->v[i].path);
        free(p->v[i].at.real);
        free(p->v[i].temp.real);
    }
    free(p->v);
    *p = (struct os_places){0};
}

/* `x` is written. */
static int check_pair(const struct os_place *x, const struct os_place *y, struct err *e)
{
    /* standard output and error are often one file, and naming them means both */
    if (y->output && x->fd >= 0 && y->fd >= 0)
        return OK;
    if (same(&x->at, &y->at) && y->output)
        return err_set(e, E_ARG, "%s and %s would both write '%s'; each needs a file of its own",
                       x->what, y->what, x->fd >= 0 ? y->path : x->path);
    if (same(&x->at, &y->at))
        return err_set(e, E_ARG,
                       "%s: '%s' is %s itself, which would be destroyed; name another file",
                       x->what, x->path, y->what);
    if (same(&x->temp, &y->at))
        return err_set(e, E_ARG,
                       "%s: '%s' would be written as '%s' first, which is %s; name another file",
                       x->what, x->path, x->temp.real, y->what);
    return OK;
}

int os_places_check(const struct os_places *p, struct err *e)
{
    struct stat st;
    if (p->no_memory)
        return err_set(e, E_NOMEM, "no memory for the names of files");
    for (int i = 0; i < p->n; i++) {
        const struct os_place *x = &p->v[i];
        if (!x->output)
            continue;
        if (x->fd < 0 && stat(x->path, &st) == 0 && S_ISDIR(st.st_mode))
            return err_set(e, E_ARG, "%s: '%s' cannot be written: it is a directory", x->what,
                           x->path);
        for (int k = 0; k < p->n; k++)
            if (k != i)
                TRY(check_pair(x, &p->v[k], e));
    }
    return OK;
}
