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

static const char *role_of(const struct model *m, const struct gguf_tensor *t)
{
    if (!m->described_only && !m->used[t - gguf_tensor_at(m->gguf, 0)])
        return "skipped"; /* multi-token prediction, vision */
    if (packed_holds(&m->packed, t))
        return "packed";
    if (strstr(t->name, "_exps."))
        return "expert";
    if (strcmp(t->name, "token_embd.weight") == 0)
        return "embedding";
    if (strcmp(t->name, "output.weight") == 0)
        return "output";
    return "dense";
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
    for (int64_t i = 0; i < gguf_n_tensors(m->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->gguf, i);
        if (strcmp(role_of(m, t), "expert") == 0)
            by_type[t->type] += t->bytes;
    }
    for (int i = 0; i < m->packed.n; i++)
        by_type[m->packed.part[i].t.type] += m->packed.part[i].t.bytes;
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
    s->packed = m->packed.n > 0;
    for (int i = 0; i < gguf_n_files(m->gguf); i++)
        s->file_bytes += gguf_file_bytes(m->gguf, i);
    for (int64_t i = 0; i < gguf_n_tensors(m->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->gguf, i);
        const char *role = role_of(m, t);
        if (strcmp(role, "expert") == 0 || strcmp(role, "packed") == 0)
            s->expert_bytes += t->bytes;
        else if (strcmp(role, "skipped") == 0)
            s->skipped_bytes += t->bytes;
        else
            s->dense_bytes += t->bytes;
    }
    s->dense_bytes_per_token = s->dense_bytes;
    const struct gguf_tensor *embed = gguf_tensor_find(m->gguf, "token_embd.weight");
    if (embed && gguf_tensor_find(m->gguf, "output.weight"))
        s->dense_bytes_per_token -= embed->bytes;
    measure_experts(m);
}

/* ---- opening ---------------------------------------------------------- */

static int describe(struct model *m, bool any, struct err *e)
{
    struct str arch = {"", 0}, name = {"", 0};
    char known[256];
    struct err *why = any ? &m->refused : e;
    int rc;
    model_meta_str(m, "general.name", &name);
    bool has_arch = model_meta_str(m, "general.architecture", &arch);
    m->arch_name = copy_str(arch);
    m->name = copy_str(name);
    if (!m->arch_name || !m->name)
        return err_set(e, E_NOMEM, "model: no memory for its name");
    m->c.arch = has_arch ? arch_find(arch) : NULL;
    arch_list(known, sizeof(known));
    if (!has_arch)
        rc = err_set(why, E_FORMAT, "%s: metadata key 'general.architecture' is missing", gguf_file_path(m->gguf, 0));
    else if (!m->c.arch)
        rc = err_set(why, E_UNSUPPORTED, "%s: architecture '%s' is not supported; this version runs %s",
                     gguf_file_path(m->gguf, 0), m->arch_name, known);
    else
        rc = config_read(m->gguf, &m->c, why);
    if (rc == OK)
        rc = packed_read(m->gguf, &m->packed, why);
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
    int rc = any ? gguf_open_part(path, &m->gguf, e) : gguf_open(path, &m->gguf, e);
    for (int i = 0; rc == OK && i < gguf_n_files(m->gguf); i++)
        rc = health_watch(m, gguf_file_path(m->gguf, i), gguf_file_stamp(m->gguf, i), e);
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
    if (m->q)
        device_set_turn(m->dev, NULL, NULL);
    if (m->cache)
        expert_close(m->cache);
    dense_close(m);
    if (m->scratch.map)
        os_unmap(m->scratch.map, m->scratch.bytes);
    gguf_close(m->gguf);
    packed_free(&m->packed);
    free(m->layers);
    free(m->used);
    for (int i = 0; i < m->n_watched; i++)
        free(m->watched[i].path);
    free(m->watched);
    free(m->experts);
    free(m->weights);
    free(m->files);
    free(m->rope_freq);
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
    return gguf_n_files(m->gguf);
}

char *model_part_path(const char *path, int no)
{
    return gguf_part_path(path, no);
}

int64_t model_description_bytes(const struct model *m)
{
    enum { MALLOC = 32, SLOTS = 4 * sizeof(int64_t) }; /* of an allocation; of a place in an index */
    size_t tensors = (size_t)gguf_n_tensors(m->gguf), values = (size_t)gguf_n_values(m->gguf);
    size_t bytes = tensors * (2 * sizeof(struct gguf_tensor) + SLOTS) +
                   values * (sizeof(struct gguf_value) + SLOTS) +
                   (size_t)m->cap_weights * (sizeof(*m->weights) + sizeof(*m->dense.runs)) +
                   (size_t)m->c.n_layers * (sizeof(*m->layers) + sizeof(*m->experts) + 2 * MALLOC);
    for (int i = 0; i < gguf_n_files(m->gguf); i++)
        bytes += (size_t)gguf_header_bytes(m->gguf, i);
    return (int64_t)bytes;
}

const char *model_path(const struct model *m, int file)
{
    return gguf_file_path(m->gguf, file);
}

int64_t model_file_bytes(const struct model *m, int file)
{
    return gguf_file_bytes(m->gguf, file);
}

/* ---- metadata --------------------------------------------------------- */

bool model_meta_str(const struct model *m, const char *key, struct str *out)
{
    const struct gguf_value *v = gguf_find(m->gguf, key);
    return v && !v->is_array && gguf_value_str(v, out);
}

bool model_meta_i64(const struct model *m, const char *key, int64_t *out)
{
    const struct gguf_value *v = gguf_find(m->gguf, key);
    return v && !v->is_array && gguf_value_i64(v, 0, out);
}

int model_meta_strs(const struct model *m, const char *key, struct str **out, int64_t *n,
                    struct err *e)
{
    const struct gguf_value *v = gguf_find(m->gguf, key);
    if (!v || !v->is_array || v->type != GGUF_STRING)
        return err_set(e, E_FORMAT, "%s: metadata key '%s' is missing or not a list of strings; the file has no usable tokeniser",
                       gguf_file_path(m->gguf, 0), key);
    *n = (int64_t)v->n;
    *out = calloc(v->n ? v->n : 1, sizeof(**out));
    if (!*out)
        return err_set(e, E_NOMEM, "model: no memory for the %" PRIu64 " strings of '%s'", v->n, key);
    if (!gguf_value_strs(v, *out)) {
        free(*out);
        *out = NULL;
        return err_set(e, E_FORMAT, "%s: the strings of '%s' cannot be read", gguf_file_path(m->gguf, 0), key);
    }
    return OK;
}

int model_meta_ints(const struct model *m, const char *key, int32_t **out, int64_t *n,
                    struct err *e)
{
    const struct gguf_value *v = gguf_find(m->gguf, key);
    if (!v || !v->is_array)
        return err_set(e, E_FORMAT, "%s: metadata key '%s' is missing or not a list", gguf_file_path(m->gguf, 0), key);
    int32_t *a = calloc(v->n ? v->n : 1, sizeof(*a));
    if (!a)
        return err_set(e, E_NOMEM, "model: no memory for the %" PRIu64 " numbers of '%s'", v->n, key);
    for (uint64_t i = 0; i < v->n; i++) {
        int64_t x;
        if (!gguf_value_i64(v, i, &x) || x < INT32_MIN || x > INT32_MAX) {
            free(a);
            return err_set(e, E_FORMAT, "%s: element %" PRIu64 " of '%s' is not a 32-bit number",
                           gguf_file_path(m->gguf, 0), i, key);
        }
        a[i] = (int32_t)x;
    }
    *out = a;
    *n = (int64_t)v->n;
    return OK;
}

/* ---- looking ---------------------------------------------------------- */

static void put_str(char *buf, size_t n, struct str s)
{
    size_t keep = MIN(s.n, n - 4);
    memcpy(buf, s.p, keep);
    strcpy(buf + keep, keep < s.n ? "..." : "");
}

static int put_number(char *buf, size_t n, const struct gguf_value *v, uint64_t i)
{
    int64_t x;
    uint64_t u;
    double d;
    if (v->type == GGUF_BOOL && gguf_value_u64(v, i, &u))
        return snprintf(buf, n, "%s", u ? "true" : "false");
    if (v->type != GGUF_F32 && v->type != GGUF_F64) {
        if (gguf_value_i64(v, i, &x))
            return snprintf(buf, n, "%" PRId64, x);
        if (gguf_value_u64(v, i, &u))
            return snprintf(buf, n, "%" PRIu64, u);
    }
    if (gguf_value_f64(v, i, &d))
        return snprintf(buf, n, "%.9g", d);
    return snprintf(buf, n, "?");
}

void value_text(char *buf, size_t n, const struct gguf_value *v)
{
    enum { SHOWN = 8 };
    struct str s;
    if (!v->is_array && v->type == GGUF_STRING && gguf_value_str(v, &s)) {
        put_str(buf, n, s);
        return;
    }
    if (!v->is_array) {
        put_number(buf, n, v, 0);
        return;
    }
    if (v->type == GGUF_STRING) {
        snprintf(buf, n, "[%" PRIu64 " strings]", v->n);
        return;
    }
    if (v->type == GGUF_ARRAY) {
        snprintf(buf, n, "[%" PRIu64 " arrays]", v->n);
        return;
    }
    size_t at = (size_t)snprintf(buf, n, "[");
    for (uint64_t i = 0; i < MIN(v->n, (uint64_t)SHOWN); i++) {
        at += (size_t)snprintf(buf + at, n - at, i ? ", " : "");
        at += (size_t)put_number(buf + at, n - at, v, i);
    }
    if (v->n > SHOWN)
        snprintf(buf + at, n - at, ", ... %" PRIu64 " in all]", v->n);
    else
        snprintf(buf + at, n - at, "]");
}

static void visit_notes(const struct model *m, const struct model_visitor *v)
{
    uint64_t no, count;
    char text[64];
    if (gguf_part(m->gguf, &no, &count)) {
        snprintf(text, sizeof(text), "this is part %" PRIu64 " of %" PRIu64 " of a split model", no + 1, count);
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
    for (int64_t i = 0; v->on_meta && i < gguf_n_values(m->gguf); i++) {
        const struct gguf_value *x = gguf_value_at(m->gguf, i);
        put_str(key, sizeof(key), x->key);
        value_text(value, sizeof(value), x);
        snprintf(type, sizeof(type), "%s%s", gguf_type_name(x->type), x->is_array ? "[]" : "");
        v->on_meta(v->user, key, type, value);
    }
    for (int64_t i = 0; v->on_tensor && i < gguf_n_tensors(m->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->gguf, i);
        v->on_tensor(v->user, t->name, dtype_info(t->type)->name, t->ne, t->n_dims, t->bytes, t->file,
                     t->offset, role_of(m, t));
    }
    for (int i = 0; v->on_packed && i < m->packed.n; i++) {
        const struct packed_part *p = &m->packed.part[i];
        v->on_packed(v->user, p->name, dtype_info(p->t.type)->name, p->t.ne, p->t.n_dims, p->t.bytes, p->in->name);
    }
}
