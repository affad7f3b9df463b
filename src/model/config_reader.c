/*
 * Numbers of a file by their keys, for config.c and its parts: each read bounds
 * its value, and the first failure makes all later reads do nothing.
 */
#include "model/config_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A list of another length than the model has layers, whether or not blocks that
 * predict further tokens are counted. */
static bool odd_list(const struct reader *r, const struct meta *v)
{
    return v->is_array && v->n != 1 && r->n_blocks && v->n != (uint64_t)r->n_blocks &&
           v->n != (uint64_t)r->n_layers;
}

const struct meta *key_find(const struct reader *r, const char *key, char *full, size_t n)
{
    snprintf(full, n, "%s.%s", r->family, key);
    return weights_meta(r->w, full);
}

/* A list with one element a layer is as good as one number when all are equal. */
static bool varies(const struct meta *v)
{
    for (uint64_t i = 1; v->is_array && i < v->n; i++) {
        double a = NAN, b = NAN;
        if (!meta_f64(v, 0, &a) || !meta_f64(v, i, &b) || a != b)
            return true;
    }
    return false;
}

/* A list has an element for each layer. */
static int refuse_list(const struct reader *r, const char *full, const struct meta *v)
{
    if (odd_list(r, v))
        return err_set(r->e, E_FORMAT,
                       "%s: '%s' is a list of %llu, expected one number, or one for "
                       "each of %d layers",
                       weights_path(r->w, 0), full, (unsigned long long)v->n, r->n_blocks);
    return err_set(r->e, E_UNSUPPORTED,
                   "%s: '%s' varies from layer to layer, which is not supported for %s yet",
                   weights_path(r->w, 0), full, r->family);
}

int64_t read_count_of(struct reader *r, const char *key, int layer, int64_t dflt, int64_t lo,
                      int64_t hi)
{
    char full[128];
    uint64_t u = 0;
    if (r->rc < 0)
        return lo;
    const struct meta *v = key_find(r, key, full, sizeof(full));
    const uint64_t at = v && v->is_array && v->n > 1 && layer >= 0 ? (uint64_t)layer : 0;
    if (!v && dflt >= 0)
        return dflt;
    if (!v) {
        r->rc = err_set(r->e, E_FORMAT,
                        "%s: metadata key '%s' is missing; the file was not converted completely",
                        weights_path(r->w, 0), full);
        return lo;
    }
    if ((layer < 0 && varies(v)) || odd_list(r, v)) {
        r->rc = refuse_list(r, full, v);
        return lo;
    }
    if (!meta_u64(v, at, &u) || u < (uint64_t)lo || u > (uint64_t)hi) {
        char value[256];
        meta_text(value, sizeof(value), v);
        r->rc = err_set(r->e, E_FORMAT,
                        "%s: '%s' is %.80s (%s), expected a whole number from %lld to %lld",
                        weights_path(r->w, 0), full, value, v->type, (long long)lo, (long long)hi);
        return lo;
    }
    return (int64_t)u;
}

int64_t read_count(struct reader *r, const char *key, int64_t dflt, int64_t lo, int64_t hi)
{
    return read_count_of(r, key, -1, dflt, lo, hi);
}

bool key_there(const struct reader *r, const char *key)
{
    char full[128];
    return key_find(r, key, full, sizeof(full)) != NULL;
}

double read_real_of(struct reader *r, const char *key, int layer, double dflt, double lo,
                    double hi)
{
    char full[128];
    double d = dflt;
    if (r->rc < 0)
        return dflt;
    const struct meta *v = key_find(r, key, full, sizeof(full));
    const uint64_t at = v && v->is_array && v->n > 1 && layer >= 0 ? (uint64_t)layer : 0;
    if (v && ((layer < 0 && varies(v)) || odd_list(r, v))) {
        r->rc = refuse_list(r, full, v);
    } else if (v && (!meta_f64(v, at, &d) || !(d >= lo && d <= hi))) {
        char value[256];
        meta_text(value, sizeof(value), v);
        r->rc = err_set(r->e, E_FORMAT, "%s: '%s' is %.80s (%s), expected a number from %g to %g",
                        weights_path(r->w, 0), full, value, v->type, lo, hi);
    }
    return d;
}

double read_real(struct reader *r, const char *key, double dflt, double lo, double hi)
{
    return read_real_of(r, key, -1, dflt, lo, hi);
}

void key_needed(struct reader *r, const char *key)
{
    char full[128];
    if (r->rc == OK && !key_find(r, key, full, sizeof(full)))
        r->rc = err_set(r->e, E_FORMAT,
                        "%s: metadata key '%s' is missing; the file was not converted completely",
                        weights_path(r->w, 0), full);
}

const struct tensor *weight_of(const struct reader *r, const char *name)
{
    for (int64_t i = 0; i < weights_n_tensors(r->w); i++) {
        const struct tensor *t = weights_tensor(r->w, i);
        const char *dot = tensor_block(t->name) >= 0 ? strchr(t->name + 4, '.') : NULL;
        if (dot && strcmp(dot + 1, name) == 0)
            return t;
    }
    return NULL;
}
