/*
 * Whether what was read can be a model: values that are finite, weights that
 * are not all zero.
 *
 * A number that is not finite stays so through every product, norm and
 * activation (kern.h), so a look at the residual stream behind each block, at
 * the routers' weights and at the logits finds all that reaches an answer. It
 * costs a few microseconds a token. The looks are operations of the device and
 * leave a tag for each token; the host sees them when it next waits.
 */
#include "model/model_internal.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

uint32_t fault_tag(int layer, enum fault f)
{
    return 1 + (uint32_t)layer * FAULT_KINDS + (uint32_t)f;
}

void health_look(struct step *s, struct dev_ptr x, int64_t width, uint32_t tag)
{
    struct model *m = s->m;
    m->dev->ops->finite(m->dev, &(struct dev_finite){.x = x, .n_tok = s->n_tok, .width = width,
                                                     .faults = m->scratch.faults, .tag = tag});
}

/* The sentence for values that are not finite. */
static int not_finite(const struct model *m, int layer, const char *what, struct err *e)
{
    char where[32] = "";
    TRY(weights_unchanged(m->w, e));
    if (layer >= 0)
        snprintf(where, sizeof(where), "layer %d: ", layer);
    return err_set(e, E_FORMAT,
                   "%s: %s%s are not finite (NaN or infinity); the file is damaged or has changed: "
                   "look at it with `sluice inspect --check`, then copy or download it again",
                   weights_path(m->w, 0), where, what);
}

int health_not_finite(const struct model *m, uint32_t tag, struct err *e)
{
    char what[64];
    int layer = (int)((tag - 1) / FAULT_KINDS);
    switch ((enum fault)((tag - 1) % FAULT_KINDS)) {
    case FAULT_EMBEDDING: return not_finite(m, -1, "rows of the embedding table", e);
    case FAULT_ROUTER: return not_finite(m, layer, "its router's scores", e);
    case FAULT_MIXER:
        snprintf(what, sizeof(what), "the values behind its %s", m->layers[layer].mixer->name);
        break;
    case FAULT_FFN:
        snprintf(what, sizeof(what), "the values behind its %s", m->layers[layer].ffn->name);
        break;
    case FAULT_KINDS: return OK;
    }
    return not_finite(m, layer, what, e);
}

int health_logits(const struct model *m, struct err *e)
{
    return not_finite(m, -1, "the logits", e);
}

int health_collect(struct step *s, struct err *e)
{
    struct model *m = s->m;
    uint32_t *faults = m->scratch.host_faults;
    TRY(device_bring(m->dev, faults, m->scratch.faults, (size_t)s->n_tok * sizeof(*faults), e));
    for (int64_t t = 0; t < s->n_tok; t++) {
        struct err why = {0};
        struct model_span *x = faults[t] ? step_span(s, t) : NULL;
        if (x && span_alive(x))
            step_fail(s, x, health_not_finite(m, faults[t], &why), &why);
    }
    return OK;
}

/* ---- weights ---------------------------------------------------------------- */

enum { PIECE = 8 << 10 };

/* Whether n_rows rows are of n different numbers below `most` each. */
static bool are_choices(const int32_t *ids, int64_t n_rows, int64_t n, int64_t most)
{
    for (int64_t r = 0; r < n_rows; r++, ids += n)
        for (int64_t i = 0; i < n; i++) {
            if (ids[i] < 0 || ids[i] >= most)
                return false;
            for (int64_t k = 0; k < i; k++)
                if (ids[k] == ids[i])
                    return false;
        }
    return true;
}

/* What is seen of one weight, piece by piece. */
struct look {
    int64_t n_experts;
    bool zero, finite, choices;
};

static struct look look_begin(const struct model *m)
{
    return (struct look){.n_experts = m->c.n_experts, .zero = true, .finite = true,
                         .choices = true};
}

/* Bytes that are looked at together: whole rows of a table of experts. */
static size_t piece_of(const struct tensor *t)
{
    return t->type == DT_I32 ? PIECE - PIECE % ((size_t)t->ne[0] * sizeof(int32_t)) : PIECE;
}

/* Whether all of it is looked at: of others one byte that is not zero is enough. */
static bool read_whole(const struct tensor *t)
{
    return t->type == DT_F32 || t->type == DT_I32;
}

static void look_at(struct look *l, const struct tensor *t, const void *p, size_t n)
{
    l->zero = l->zero && bytes_are_zero(p, n);
    if (t->type == DT_F32)
        l->finite = l->finite && dev_floats_finite(p, (int64_t)(n / sizeof(float)));
    if (t->type == DT_I32)
        l->choices = l->choices &&
                     are_choices(p, (int64_t)(n / ((size_t)t->ne[0] * sizeof(int32_t))), t->ne[0],
                                 l->n_experts);
}

/* Where the host cannot see the weights they are brought to it. */
static int look_through(struct model *m, const struct tensor *t, struct dev_ptr p, struct look *l,
                        struct err *e)
{
    const uint8_t *seen = dev_host(p.mem);
    _Alignas(float) uint8_t piece[PIECE];
    const size_t most = piece_of(t);
    if (seen) {
        look_at(l, t, seen + p.at, (size_t)t->bytes);
        return OK;
    }
    for (size_t at = 0; at < (size_t)t->bytes; at += most) {
        size_t n = MIN(most, (size_t)t->bytes - at);
        TRY(device_bring(m->dev, piece, dev_at(p, at), n, e));
        look_at(l, t, piece, n);
    }
    return OK;
}

static int judge(const struct model *m, const struct tensor *t, const struct look *l, struct err *e)
{
    const char *path = weights_path(m->w, t->file);
    if (l->zero && !tensor_may_be_zero(t))
        return err_set(e, E_FORMAT,
                       "%s: tensor '%s' (%lld bytes at offset %lld) is all zeros; the file is "
                       "incomplete or damaged: "
                       "copy or download it again",
                       path, t->name, (long long)t->bytes, (long long)t->offset);
    if (!l->finite)
        return err_set(e, E_FORMAT,
                       "%s: tensor '%s' (%lld bytes at offset %lld) has values that are not finite "
                       "(NaN or infinity); "
                       "the file is damaged: copy or download it again",
                       path, t->name, (long long)t->bytes, (long long)t->offset);
    if (!l->choices)
        return err_set(e, E_FORMAT,
                       "%s: tensor '%s' (%lld bytes at offset %lld) has rows that are not %lld "
                       "different experts of %lld; the file is damaged: copy or download it again",
                       path, t->name, (long long)t->bytes, (long long)t->offset,
                       (long long)t->ne[0], (long long)l->n_experts);
    return OK;
}

static int check_weight(void *user, const struct tensor *t, size_t *at, struct err *e)
{
    struct model *m = user;
    const struct dev_ptr *p =
        (const struct dev_ptr *)(const void *)((char *)at - offsetof(struct dev_ptr, at));
    struct look l = look_begin(m);
    TRY(look_through(m, t, *p, &l, e));
    return judge(m, t, &l, e);
}

/* Of other than floats and tables no more is read than it takes to find something in it. */
static int check_stored(void *user, const struct tensor *t, size_t *at, struct err *e)
{
    const struct model *m = user;
    const char *path = weights_path(m->w, t->file);
    struct look l = look_begin(m);
    const int64_t most = (int64_t)piece_of(t);
    float piece[PIECE / sizeof(float)];
    (void)at;
    int rc, fd = rc = os_open_read(path, NULL, e);
    for (int64_t done = 0; rc >= 0 && done < t->bytes && (l.zero || read_whole(t));
         done += most) {
        size_t n = (size_t)MIN(most, t->bytes - done);
        rc = os_read_exact(fd, piece, n, t->offset + done, path, e);
        if (rc >= 0)
            look_at(&l, t, piece, n);
    }
    if (fd >= 0)
        close(fd);
    return rc < 0 ? rc : judge(m, t, &l, e);
}

int model_weights_sound(const struct model *m, struct err *e)
{
    void *user = (void *)(uintptr_t)m; /* it is not changed */
    for (int section = DENSE_FIXED; section < m->c.n_layers; section++)
        TRY(dense_each(m->dense, section, check_stored, user, e));
    return OK;
}

int health_section(struct model *m, int section, struct err *e)
{
    return dense_each(m->dense, section, check_weight, m, e);
}
