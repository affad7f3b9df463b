/*
 * The state of one session: KV cache and recurrent state.
 *
 * KV memory is reserved for the longest session as address space and becomes
 * physical as positions are written. Recurrent state cannot be cut back to an
 * earlier position, so one copy of it may be kept (the snapshot).
 */
#include "model/model_internal.h"

#include <stdlib.h>
#include <string.h>

size_t state_layer_floats(const struct config *c)
{
    return (size_t)(c->n_v * c->dk * c->dv + 3 * config_delta_channels(c));
}

static size_t head_row_bytes(const struct model *m, const struct model_options *o)
{
    return (size_t)m->c.head_dim * (o->kv_f16 ? sizeof(uint16_t) : sizeof(float));
}

static size_t kv_row_bytes(const struct model *m, const struct model_options *o)
{
    return (size_t)m->c.n_kv * head_row_bytes(m, o);
}

size_t state_bytes(const struct model *m)
{
    return os_whole_pages(state_layer_floats(&m->c) * sizeof(float) * (size_t)m->shape.n_recurrent_layers);
}

/* Positions come in steps whose rows of one head are whole pages: what a session
 * uses is the same however many heads there are. */
static int64_t in_steps(const struct model *m, const struct model_options *o, int64_t n)
{
    int64_t step = 256;
    while ((size_t)step * head_row_bytes(m, o) % os_page_bytes() != 0)
        step *= 2;
    return (n + step - 1) / step * step;
}

int64_t model_kv_bytes(const struct model *m, const struct model_options *o, int64_t n)
{
    return 2 * in_steps(m, o, n) * (int64_t)kv_row_bytes(m, o) * m->shape.n_attention_layers;
}

int model_state_new(struct model *m, struct model_state **out, struct err *e)
{
    struct model_state *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(e, E_NOMEM, "session: no memory for its description");
    s->m = m;
    s->snap_length = -1;
    s->kv_rows = in_steps(m, &m->options, m->options.context);
    s->kv_half_bytes = (size_t)s->kv_rows * kv_row_bytes(m, &m->options);
    s->kv_bytes = 2 * s->kv_half_bytes * (size_t)m->shape.n_attention_layers;
    s->rec_bytes = state_bytes(m);
    if (s->kv_bytes)
        s->kv = os_map(s->kv_bytes, false);
    if (s->rec_bytes) {
        s->rec = os_map(s->rec_bytes, false);
        s->snap = os_map(s->rec_bytes, false);
    }
    if ((s->kv_bytes && !s->kv) || (s->rec_bytes && (!s->rec || !s->snap))) {
        err_set(e, E_NOMEM, "session: the system refused %zu bytes for a context of %lld tokens; try a smaller --ctx",
                s->kv_bytes + 2 * s->rec_bytes, (long long)m->options.context);
        model_state_free(s);
        return E_NOMEM;
    }
    *out = s;
    return OK;
}

void model_state_free(struct model_state *s)
{
    if (!s)
        return;
    if (s->kv)
        os_unmap(s->kv, s->kv_bytes);
    if (s->rec)
        os_unmap(s->rec, s->rec_bytes);
    if (s->snap)
        os_unmap(s->snap, s->rec_bytes);
    free(s);
}

void model_state_reset(struct model_state *s)
{
    s->length = 0;
    s->snap_length = -1;
    s->broken = false;
    if (s->rec)
        memset(s->rec, 0, s->rec_bytes);
    if (s->kv)
        os_discard(s->kv, s->kv_bytes);
}

int64_t model_state_length(const struct model_state *s)
{
    return s->length;
}

void model_state_snapshot(struct model_state *s)
{
    if (s->rec)
        memcpy(s->snap, s->rec, s->rec_bytes);
    s->snap_length = s->length;
}

int64_t model_state_snapshot_length(const struct model_state *s)
{
    return s->snap_length;
}

bool model_state_rewind(struct model_state *s, int64_t n)
{
    if (n > s->length || n < 0)
        return false;
    if (n == 0) {
        model_state_reset(s);
        return true;
    }
    if (n == s->length && !s->broken)
        return true;
    if (s->rec && n != s->snap_length)
        return false;
    if (s->rec)
        memcpy(s->rec, s->snap, s->rec_bytes);
    s->length = n;
    s->broken = false;
    if (s->snap_length > n)
        s->snap_length = -1;
    return true;
}
