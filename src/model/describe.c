/*
 * A model's header: opening, sizes by role, metadata for the layers above.
 */
#include "model/model_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *copy_str(struct str s)
{
    char *p = malloc(s.n + 1);
    if (p) {
        if (s.n)
            memcpy(p, s.p, s.n);
        p[s.n] = '\0';
    }
    return p;
}

/* Of a file that cannot be run only the names tell. */
static const char *named_role(const struct tensor *t)
{
    if (strstr(t->name, "_exps."))
        return "expert";
    if (strcmp(t->name, "token_embd.weight") == 0)
        return "embedding";
    return strcmp(t->name, "output.weight") == 0 ? "output" : "dense";
}

static const char *role_of(const struct model *m, const struct tensor *t)
{
    static const char *const names[] = {[ROLE_UNUSED] =
                                            "skipped", /* multi-token prediction, vision */
                                        [ROLE_DENSE] = "dense",
                                        [ROLE_IDS] = "dense",
                                        [ROLE_EXPERT] = "expert",
                                        [ROLE_EMBEDDING] = "embedding",
                                        [ROLE_OUTPUT] = "output"};
    if (t->packs)
        return "packed";
    return m->described_only ? named_role(t) : names[t->role];
}

/* ---- sizes ------------------------------------------------------------ */

static void measure_experts(struct model *m)
{
    struct model_shape *s = &m->shape;
    int64_t by_type[DT_COUNT] = {0}, best = 0;
    for (int il = 0; il < m->c.n_layers && m->experts; il++) {
        int64_t one = 0;
        for (int p = 0; p < m->experts[il].n_parts; p++)
            one += (int64_t)m->experts[il].part[p].bytes;
        s->expert_bytes_per_token += one * m->c.n_used;
        s->largest_expert_bytes = MAX(s->largest_expert_bytes, one);
    }
    for (int64_t i = 0; i < weights_n_tensors(m->w); i++) {
        const struct tensor *t = weights_tensor(m->w, i);
        if (strcmp(role_of(m, t), s->n_experts ? "expert" : "dense") == 0)
            by_type[t->type] += t->bytes;
    }
    for (int t = 0; t < DT_COUNT; t++)
        if (by_type[t] > best) {
            best = by_type[t];
            s->expert_type = (enum dtype)t;
        }
}

static void measure(struct model *m)
{
    struct model_shape *s = &m->shape;
    const struct config *c = &m->c;
    s->arch = m->arch_name;
    s->name = m->name;
    s->n_layers = c->n_layers;
    s->n_embd = (int)c->n_embd;
    s->n_vocab = (int)c->n_vocab;
    s->n_context_train = (int)c->n_context;
    s->n_experts = (int)c->n_experts;
    s->n_used = (int)c->n_used;
    s->expert_width = (int)c->expert_width;
    s->shared_width = (int)c->shared_width;
    s->packed = weights_are_packed(m->w);
    for (int i = 0; i < weights_n_files(m->w); i++)
        s->file_bytes += weights_file_bytes(m->w, i);
    for (int64_t i = 0; i < weights_n_tensors(m->w); i++) {
        const struct tensor *t = weights_tensor(m->w, i);
        const char *role = role_of(m, t);
        if (t->inside)
            continue; /* its bytes are those of the tensor that holds it */
        if (strcmp(role, "expert") == 0 || strcmp(role, "packed") == 0)
            s->expert_bytes += t->bytes;
        else if (strcmp(role, "skipped") == 0)
            s->skipped_bytes += t->bytes;
        else
            s->dense_bytes += t->bytes;
    }
    s->dense_bytes_per_token = s->dense_bytes;
    const struct tensor *embed = weights_find(m->w, "token_embd.weight");
    if (embed && weights_find(m->w, "output.weight"))
        s->dense_bytes_per_token -= embed->bytes;
    measure_experts(m);
}

/* ---- opening ---------------------------------------------------------- */

static int refuse_family(const struct model *m, struct str name, struct err *e)
{
    char known[512], nearest[96] = "";
    family_list(known, sizeof(known));
    if (family_nearest(name))
        snprintf(nearest, sizeof(nearest), " (the nearest that is: %s)", family_nearest(name));
    return err_set(e, E_UNSUPPORTED,
                   "%s: architecture '%s' is not supported%s; this version runs %s",
                   weights_path(m->w, 0), m->arch_name, nearest, known);
}

static int describe(struct model *m, bool any, struct err *e)
{
    struct str family = {"", 0}, name = {"", 0};
    struct err *why = any ? &m->refused : e;
    int rc;
    model_meta_str(m, "general.name", &name);
    bool has_family = model_meta_str(m, "general.architecture", &family);
    m->arch_name = copy_str(family);
    m->name = copy_str(name);
    if (!m->arch_name || !m->name)
        return err_set(e, E_NOMEM, "model: no memory for its name");
    m->c.family = has_family ? family_find(family) : NULL;
    const struct meta *other = weights_meta(m->w, "general.architecture");
    if (!has_family && other)
        rc = refuse_type(m->w, other, "a text", why);
    else if (!has_family)
        rc = err_set(why, E_FORMAT, "%s: metadata key 'general.architecture' is missing",
                     weights_path(m->w, 0));
    else if (!m->c.family)
        rc = refuse_family(m, family, why);
    else
        rc = config_read(m->w, &m->c, why);
    if (rc == OK)
        rc = weights_unpack(m->w, why);
    if (rc == OK)
        rc = weights_stack(m->w, why);
    if (rc == OK)
        rc = bind_model(m, why);
    if (rc < 0 && !any)
        return rc;
    m->described_only = rc < 0;
    measure(m);
    return OK;
}

int model_describe(const char *path, bool any, struct model **out, struct err *e)
{
    struct model *m = calloc(1, sizeof(*m));
    if (!m)
        return err_set(e, E_NOMEM, "model: no memory for its description");
    int rc = weights_open(path, any, &m->w, e);
    if (rc == OK)
        rc = describe(m, any, e);
    if (rc < 0) {
        model_close(m);
        return rc;
    }
    *out = m;
    return OK;
}

void model_close(struct model *m)
{
    if (!m)
        return;
    load_free(m);
    weights_close(m->w);
    free(m->layers);
    free(m->experts);
    free(m->name);
    free(m->arch_name);
    free(m);
}

void model_shape(const struct model *m, struct model_shape *s)
{
    *s = m->shape;
}

int model_n_files(const struct model *m)
{
    return weights_n_files(m->w);
}

char *model_part_path(const char *path, int no)
{
    return weights_part_path(path, no);
}

char *model_mirror_path(const char *folder, const char *path)
{
    return weights_mirror_path(folder, path);
}

int64_t model_description_bytes(const struct model *m)
{
    enum { MALLOC = 32 }; /* of an allocation */
    size_t layers = (size_t)m->c.n_layers * (sizeof(*m->layers) + sizeof(*m->experts) + 2 * MALLOC);
    return weights_description_bytes(m->w) + (m->dense ? dense_memory_bytes(m->dense) : 0) +
           (int64_t)layers;
}

const char *model_path(const struct model *m, int file)
{
    return weights_path(m->w, file);
}

int64_t model_file_bytes(const struct model *m, int file)
{
    return weights_file_bytes(m->w, file);
}

int model_unchanged(const struct model *m, struct err *e)
{
    return weights_unchanged(m->w, e);
}

int model_add_mirrors(struct model *m, const char *const *folders, int n_folders, struct ioq *q,
                      const int *files, int n_files, struct err *e)
{
    return weights_add_mirrors(m->w, folders, n_folders, q, files, n_files, e);
}

static bool name_ends(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

static enum verify_kind verify_kind(const struct tensor *t)
{
    if (name_ends(t->name, "norm.weight") || strstr(t->name, "_ffw_norm_"))
        return VERIFY_NORM;
    if (name_ends(t->name, ".ffn_gate_inp.weight"))
        return VERIFY_ROUTER;
    return strcmp(t->name, "token_embd.weight") == 0 || strcmp(t->name, "output.weight") == 0
               ? VERIFY_VOCABULARY
               : VERIFY_PLAIN;
}

/* Texts are made of normal tokens and bytes. The others' rows are zero in models that
 * were never taught them: reserved and unused tokens, padding. */
static bool row_may_be_zero(const struct weights *w, int64_t row)
{
    enum { NORMAL = 1, BYTE = 6 };
    const struct meta *types = weights_meta(w, "tokenizer.ggml.token_type");
    int64_t type;
    if (!types || !types->is_array)
        return false;
    return !meta_i64(types, (uint64_t)row, &type) || (type != NORMAL && type != BYTE);
}

int model_check_files(const struct model *m, const struct model_check *c, int64_t *n_found,
                      struct err *e)
{
    const struct weights_verify v = {.on_file = c->on_file,
                                     .on_finding = c->on_finding,
                                     .progress = c->progress,
                                     .user = c->user,
                                     .decode = dev_decode,
                                     .kind = verify_kind,
                                     .row_may_be_zero = row_may_be_zero};
    return weights_verify(m->w, &v, n_found, e);
}

/* ---- metadata --------------------------------------------------------- */

bool model_meta_str(const struct model *m, const char *key, struct str *out)
{
    const struct meta *v = weights_meta(m->w, key);
    return v && !v->is_array && meta_str(v, out);
}

bool model_meta_i64(const struct model *m, const char *key, int64_t *out)
{
    const struct meta *v = weights_meta(m->w, key);
    return v && !v->is_array && meta_i64(v, 0, out);
}

int model_meta_strs(const struct model *m, const char *key, struct str **out, int64_t *n,
                    struct err *e)
{
    const struct meta *v = weights_meta(m->w, key);
    if (!v || !v->is_array || v->kind != META_TEXT)
        return err_set(e, E_FORMAT,
                       "%s: metadata key '%s' is missing or not a list of strings; the file has no "
                       "usable tokeniser",
                       weights_path(m->w, 0), key);
    *n = (int64_t)v->n;
    *out = calloc(v->n ? v->n : 1, sizeof(**out));
    if (!*out)
        return err_set(e, E_NOMEM, "model: no memory for the %" PRIu64 " strings of '%s'", v->n,
                       key);
    if (!meta_strs(v, *out)) {
        free(*out);
        *out = NULL;
        return err_set(e, E_FORMAT, "%s: the strings of '%s' cannot be read", weights_path(m->w, 0),
                       key);
    }
    return OK;
}

int model_meta_ints(const struct model *m, const char *key, int32_t **out, int64_t *n,
                    struct err *e)
{
    const struct meta *v = weights_meta(m->w, key);
    if (!v || !v->is_array)
        return err_set(e, E_FORMAT, "%s: metadata key '%s' is missing or not a list",
                       weights_path(m->w, 0), key);
    int32_t *a = calloc(v->n ? v->n : 1, sizeof(*a));
    if (!a)
        return err_set(e, E_NOMEM, "model: no memory for the %" PRIu64 " numbers of '%s'", v->n,
                       key);
    for (uint64_t i = 0; i < v->n; i++) {
        int64_t x;
        if (!meta_i64(v, i, &x) || x < INT32_MIN || x > INT32_MAX) {
            free(a);
            return err_set(e, E_FORMAT, "%s: element %" PRIu64 " of '%s' is not a 32-bit number",
                           weights_path(m->w, 0), i, key);
        }
        a[i] = (int32_t)x;
    }
    *out = a;
    *n = (int64_t)v->n;
    return OK;
}

int model_meta_floats(const struct model *m, const char *key, float **out, int64_t *n,
                      struct err *e)
{
    const struct meta *v = weights_meta(m->w, key);
    if (!v || !v->is_array)
        return err_set(e, E_FORMAT, "%s: metadata key '%s' is missing or not a list",
                       weights_path(m->w, 0), key);
    float *a = calloc(v->n ? v->n : 1, sizeof(*a));
    if (!a)
        return err_set(e, E_NOMEM, "model: no memory for the %" PRIu64 " numbers of '%s'", v->n,
                       key);
    for (uint64_t i = 0; i < v->n; i++) {
        double x;
        int64_t whole;
        if (meta_i64(v, i, &whole))
            x = (double)whole;
        else if (!meta_f64(v, i, &x)) {
            free(a);
            return err_set(e, E_FORMAT, "%s: element %" PRIu64 " of '%s' is not a number",
                           weights_path(m->w, 0), i, key);
        }
        a[i] = (float)x;
    }
    *out = a;
    *n = (int64_t)v->n;
    return OK;
}

/* ---- looking ---------------------------------------------------------- */

bool model_is_part(const struct model *m)
{
    uint64_t no, count;
    return weights_part(m->w, &no, &count);
}

static void visit_notes(const struct model *m, const struct model_visitor *v)
{
    uint64_t no, count;
    char text[64];
    if (weights_part(m->w, &no, &count)) {
        snprintf(text, sizeof(text), "this is part %" PRIu64 " of %" PRIu64 " of a split model",
                 no + 1, count);
        v->on_note(v->user, text);
    }
    if (!m->described_only)
        known_notes(m, v->on_note, v->user);
}

void model_visit(const struct model *m, const struct model_visitor *v)
{
    if (v->on_note)
        visit_notes(m, v);
    char key[256], value[1024], type[64];
    for (int64_t i = 0; v->on_meta && i < weights_n_meta(m->w); i++) {
        const struct meta *x = weights_meta_at(m->w, i);
        meta_key_text(key, sizeof(key), x);
        meta_text(value, sizeof(value), x);
        snprintf(type, sizeof(type), "%s%s", x->type, x->is_array ? "[]" : "");
        v->on_meta(v->user, key, type, value);
    }
    for (int64_t i = 0; i < weights_n_tensors(m->w); i++) {
        const struct tensor *t = weights_tensor(m->w, i);
        if (v->on_tensor && !t->inside)
            v->on_tensor(v->user, t->name, dtype_info(t->type)->name, t->ne, t->n_dims, t->bytes,
                         t->file, t->offset, role_of(m, t));
        if (v->on_packed && t->inside)
            v->on_packed(v->user, t->name, dtype_info(t->type)->name, t->ne, t->n_dims, t->bytes,
                         t->inside->name);
    }
}
