/*
 * Packing: which file becomes which, and that at every moment a whole one is
 * there. What a packed file looks like knows the model; that it appears whole
 * or not at all sees base to.
 */
#include "engine/engine.h"

struct packing {
    const sluice_options *o;
    const char *dest; /* the file that will be packed */
    bool replace;     /* it is the model itself */
    uint64_t stamp;   /* of the model when it was described */
    enum ioq_kind kind;
    struct model *m;
    struct model_pack *pack;
    struct os_out out;
};

static int write_progress(void *user, int64_t done, int64_t total)
{
    const sluice_options *o = ((struct packing *)user)->o;
    return o->progress ? o->progress(o->user, "pack", done, total) : 0;
}

static int check_progress(void *user, int64_t done, int64_t total)
{
    const sluice_options *o = ((struct packing *)user)->o;
    return o->progress ? o->progress(o->user, "check", done, total) : 0;
}

/* A split model's further files are found from the first, so the number of
 * files is known once it is described. */
static int check_places(const struct packing *k, bool force, struct err *e)
{
    int n_files = 0;
    while (model_path(k->m, n_files))
        n_files++;
    if (k->replace && n_files > 1)
        return err_set(e, E_ARG,
                       "%s: the model is split into %d files and cannot be replaced by one; write "
                       "a packed file beside them, then remove them",
                       k->dest, n_files);
    for (int i = 0; i < n_files && !k->replace; i++)
        if (os_same_file(k->dest, model_path(k->m, i)) == OS_SAME)
            return err_set(e, E_ARG,
                           n_files > 1
                               ? "'%s' is a part of the model itself; name another file"
                               : "'%s' is the model itself; --replace packs it in its place",
                           k->dest);
    if (k->replace)
        return OK;
    TRY(os_out_check(k->dest, e)); /* what --force could not replace either */
    if (!force && os_same_file(k->dest, k->dest) != OS_ABSENT)
        return err_set(e, E_ARG, "'%s' exists already; --force replaces it", k->dest);
    return OK;
}

/* The model as it was described must be the one that was read. */
static int check_unchanged(const struct packing *k, struct err *e)
{
    if (os_file_stamp(k->o->model) == k->stamp)
        return OK;
    return err_set(
        e, E_STATE,
        "'%s' was changed by another program while it was packed: nothing was replaced; try again",
        k->o->model);
}

/* What a control group would end half way is not begun. */
static int check_room(struct err *e)
{
    enum { MORE = 2 << 20 }; /* code and library pages not yet touched, malloc's slack */
    struct limits b;
    char limit[160];
    limits_find(0, &b);
    limits_tell(&b, limit, sizeof(limit));
    int64_t have = MIN(b.budget, b.now), floor = os_rss_anonymous() + model_pack_memory() + MORE;
    if (floor <= have)
        return OK;
    return err_set(e, E_BUDGET,
                   "packing has a floor of %.1f MiB, and %.1f MiB may be taken%s; pack where there "
                   "is more memory",
                   (double)floor / 1048576.0, (double)have / 1048576.0, limit);
}

static int write_file(struct packing *k, bool force, struct err *e)
{
    struct model_pack_size size;
    model_pack_size(k->pack, &size);
    TRY(os_out_open(&k->out, k->dest, e));
    TRY(os_out_reserve(&k->out, size.bytes, e));
    TRY(model_pack_write(k->pack, k->kind, &k->out, write_progress, k, e));
    TRY(os_out_sync(&k->out, e));
    /* a copy leaves the original to go back to, so it is not read once more */
    TRY(model_pack_check(k->pack, k->replace, k->kind, k->out.temp, check_progress, k, e));
    TRY(check_unchanged(k, e));
    return os_out_commit(&k->out, k->replace || force, e);
}

/* Replacing what is packed already is done: the run before may have been cut
 * off after its rename. */
static int already(struct packing *k, sluice_pack_result *r, struct err *e)
{
    struct err ignored = {0};
    if (!k->replace)
        return model_pack_new(k->m, &k->pack, e);  /* says so */
    (void)os_out_open(&k->out, k->dest, &ignored); /* for what that run may have left */
    r->was_packed = true;
    r->bytes_after = r->bytes_before;
    return OK;
}

static int pack(struct packing *k, bool force, sluice_pack_result *r, struct err *e)
{
    struct model_shape shape;
    struct model_pack_size size;
    if (!k->o->model || !k->o->model[0])
        return err_set(e, E_ARG, "no model was named");
    TRY(io_kind(k->o->io, &k->kind, e));
    TRY(check_mirrors(k->o, e));
    sluice_file dest = {"the packed file", k->dest, true};
    k->stamp = os_file_stamp(k->o->model);
    struct sluice s = {.o = {.model = k->o->model, .threads = 1}};
    int rc = open_header(&s, e); /* what could not be run is not packed */
    k->m = s.model;
    open_close_devices(&s);
    text_close(s.text);
    TRY(rc);
    model_shape(k->m, &shape);
    r->bytes_before = shape.file_bytes;
    TRY(check_places(k, force, e));
    if (!k->replace)
        TRY(check_files(k->o, &dest, 1, e));
    if (shape.packed)
        return already(k, r, e);
    TRY(model_pack_new(k->m, &k->pack, e));
    TRY(check_room(e));
    TRY(model_weights_sound(k->m, e));
    TRY(write_file(k, force, e));
    model_pack_size(k->pack, &size);
    r->bytes_after = size.bytes;
    r->n_layers = size.n_layers;
    r->expert_bytes = size.expert_bytes;
    return OK;
}

int sluice_pack_sized(const sluice_options *o, const sluice_pack_options *p,
                      sluice_pack_result *out, size_t size, sluice_error *err)
{
    struct err *e = err_of(err);
    sluice_options known;
    sluice_pack_options how;
    sluice_pack_result r = {0};
    struct packing k = {.o = &known, .out = {.fd = -1}};
    TRY(sized_check(SIZED_sluice_pack_result, size, e));
    int rc = options_take(o, &known, e);
    if (rc == OK)
        rc = sized_options(SIZED_sluice_pack_options, p, &how, e);
    if (rc == OK) {
        k.replace = !how.out;
        k.dest = how.out ? how.out : known.model;
        rc = pack(&k, how.force, &r, e);
    }
    os_out_close(&k.out);
    model_pack_free(k.pack);
    model_close(k.m);
    sized_give(SIZED_sluice_pack_result, &r, out, size);
    return rc;
}
