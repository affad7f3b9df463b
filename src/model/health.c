/*
 * Whether what was read can be a model: values that are finite, weights that
 * are not all zero, files that are still those that were opened.
 *
 * A number that is not finite stays so through every product, norm and
 * activation (kern.h), so a look at the residual stream after each block, at
 * the routers' weights and at the logits finds all that reaches an answer. It
 * costs a few microseconds a token.
 */
#include "model/model_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- files ---------------------------------------------------------------- */

int health_watch(struct model *m, const char *path, uint64_t stamp, struct err *e)
{
    struct watched *w = realloc(m->watched, (size_t)(m->n_watched + 1) * sizeof(*w));
    if (w)
        m->watched = w;
    char *real = w ? realpath(path, NULL) : NULL; /* the program may change its folder */
    if (!real)
        real = w ? strdup(path) : NULL;
    if (!real)
        return err_set(e, E_NOMEM, "model: no memory for its list of files");
    m->watched[m->n_watched++] = (struct watched){real, stamp};
    return OK;
}

int model_unchanged(const struct model *m, struct err *e)
{
    for (int i = 0; i < m->n_watched; i++) {
        uint64_t now = os_file_stamp(m->watched[i].path);
        if (now != m->watched[i].stamp)
            return err_set(e, E_IO, "%s %s while it was in use: what was computed may be wrong; try again when nothing writes to it",
                           m->watched[i].path, now ? "has changed" : "was removed");
    }
    return OK;
}

/* ---- values ---------------------------------------------------------------- */

int health_not_finite(const struct model *m, int il, const char *what, struct err *e)
{
    char where[32] = "";
    TRY(model_unchanged(m, e));
    if (il >= 0)
        snprintf(where, sizeof(where), "layer %d: ", il);
    return err_set(e, E_FORMAT, "%s: %s%s are not finite (NaN or infinity); the file is damaged or has changed: "
                   "look at it with `sluice inspect --check`, then copy or download it again",
                   gguf_file_path(m->gguf, 0), where, what);
}

int health_state(struct model *m, int il, int64_t n_tok, const char *what, struct err *e)
{
    if (device_finite(m->dev, m->scratch.x, n_tok * m->c.n_embd))
        return OK;
    return health_not_finite(m, il, what, e);
}

/* ---- weights ---------------------------------------------------------------- */

static bool is_zero(const uint8_t *p, int64_t n)
{
    static const uint8_t zeros[4096];
    for (; n > 0; p += sizeof(zeros), n -= (int64_t)sizeof(zeros))
        if (memcmp(p, zeros, MIN((size_t)n, sizeof(zeros))) != 0)
            return false;
    return true;
}

/* A bias may be zero, nothing else may. */
static bool may_be_zero(const char *name)
{
    size_t n = strlen(name);
    return n > 5 && strcmp(name + n - 5, ".bias") == 0;
}

static int check_weight(struct model *m, const struct dense_weight *w, struct err *e)
{
    const struct gguf_tensor *t = w->t;
    const char *path = gguf_file_path(m->gguf, t->file);
    if (!may_be_zero(t->name) && is_zero(*w->address, t->bytes))
        return err_set(e, E_FORMAT, "%s: tensor '%s' (%lld bytes at offset %lld) is all zeros; the file is incomplete or damaged: "
                       "copy or download it again", path, t->name, (long long)t->bytes, (long long)t->offset);
    if (t->type == DT_F32 && !device_finite(m->dev, *w->address, t->bytes / (int64_t)sizeof(float)))
        return err_set(e, E_FORMAT, "%s: tensor '%s' (%lld bytes at offset %lld) has values that are not finite (NaN or infinity); "
                       "the file is damaged: copy or download it again", path, t->name, (long long)t->bytes,
                       (long long)t->offset);
    return OK;
}

int health_segment(struct model *m, int segment, struct err *e)
{
    struct dense_segment *s = &m->dense.segments[segment];
    for (int64_t i = s->first_weight; i < s->first_weight + s->n_weights && !s->checked; i++)
        TRY(check_weight(m, &m->weights[i], e));
    s->checked = true;
    return OK;
}
