/* A packed copy of a model's file: which matrices belong together, and whether
 * what was written describes the same model. */
#include "model/model_internal.h"

#include <stdlib.h>

_Static_assert((int)EXPERT_MAX_PARTS == (int)WEIGHTS_MAX_PARTS, "matrices of an expert, anywhere");

struct model_pack {
    const struct model *m;
    struct expert_matrices *layers; /* (n_layers) */
    struct weights_pack *pack;
};

int model_pack_new(const struct model *m, struct model_pack **out, struct err *e)
{
    struct model_pack *p = calloc(1, sizeof(*p));
    if (p)
        p->layers = calloc((size_t)m->c.n_layers, sizeof(*p->layers));
    if (!p || !p->layers) {
        free(p);
        return err_set(e, E_NOMEM, "model: no memory to pack it");
    }
    p->m = m;
    for (int i = 0; i < m->c.n_layers; i++)
        p->layers[i] = m->layers[i].matrices;
    int rc = m->most_used ? weights_pack_new(m->w, p->layers, m->c.n_layers, &p->pack, e)
                          : err_set(e, E_STATE, "%s has no experts: there is nothing to pack",
                                    weights_path(m->w, 0));
    if (rc < 0) {
        model_pack_free(p);
        return rc;
    }
    *out = p;
    return OK;
}

void model_pack_free(struct model_pack *p)
{
    if (!p)
        return;
    weights_pack_free(p->pack);
    free(p->layers);
    free(p);
}

void model_pack_size(const struct model_pack *p, struct model_pack_size *s)
{
    *s = (struct model_pack_size){.bytes = weights_pack_bytes(p->pack),
                                  .n_layers = weights_pack_layers(p->pack),
                                  .expert_bytes = weights_pack_expert_bytes(p->pack)};
}

int64_t model_pack_memory(void)
{
    return weights_pack_memory();
}

int model_pack_write(struct model_pack *p, enum ioq_kind kind, struct os_out *out,
                     model_progress_fn *progress, void *user, struct err *e)
{
    return weights_pack_write(p->pack, kind, out, progress, user, e);
}

static bool same_layer(const struct model *m, const struct model *n, int layer)
{
    const struct expert_matrices *a = &m->layers[layer].matrices, *b = &n->layers[layer].matrices;
    bool same = a->n == b->n;
    for (int i = 0; same && i < a->n; i++)
        same = a->t[i]->type == b->t[i]->type && a->t[i]->bytes == b->t[i]->bytes;
    return same;
}

/* The same model: everything but the experts' places. */
static int check_description(const struct model *m, const char *path, struct err *e)
{
    struct model *n = NULL;
    TRY(model_describe(path, false, &n, e));
    bool same = weights_are_packed(n->w) && n->c.n_layers == m->c.n_layers &&
                n->c.n_experts == m->c.n_experts && n->shape.dense_bytes == m->shape.dense_bytes &&
                n->shape.expert_bytes_per_token == m->shape.expert_bytes_per_token;
    for (int i = 0; same && i < m->c.n_layers; i++)
        same = same_layer(m, n, i);
    model_close(n);
    return same ? OK
                : err_set(e, E_STATE,
                          "%s does not describe the model it was made from; this is a mistake of "
                          "the program",
                          path);
}

int model_pack_check(const struct model_pack *p, bool bytes_too, enum ioq_kind kind,
                     const char *path, model_progress_fn *progress, void *user, struct err *e)
{
    TRY(check_description(p->m, path, e));
    return bytes_too ? weights_pack_read_back(p->pack, kind, path, progress, user, e) : OK;
}
