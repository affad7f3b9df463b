/*
 * The state of one session: KV cache and recurrent state, layer by layer.
 *
 * KV memory is reserved for the longest session as address space and becomes
 * physical as positions are written. Where a layer's tokens see only those near
 * them, and these are few, its cache is twice as long as they see, and a step: when
 * it is full, what is still seen moves to its beginning. Entries that stand for
 * several positions have a cache of their own, as long as the longest session.
 *
 * Recurrent state, and what a near layer no longer holds, cannot be cut back to an
 * earlier position, so one copy of it may be kept (the snapshot).
 */
#include "model/model_internal.h"

#include <stdlib.h>

static size_t float_bytes(bool f16)
{
    return f16 ? sizeof(uint16_t) : sizeof(float);
}

/* ---- sizes ------------------------------------------------------------------ */

/* The entries of a layer, for so many positions. */
static size_t entries_bytes(const struct model *m, const struct model_options *o, int layer,
                            int64_t positions)
{
    const struct layer *l = &m->layers[layer];
    const int64_t ratio = m->c.layer[layer].ratio;
    return ratio ? (size_t)(positions / ratio * l->mixer->per_entry(l)) * float_bytes(o->kv_f16)
                 : 0;
}

/* Whether the rows of one head of so many positions are whole pages in all layers. */
static bool whole_pages(const struct model *m, const struct model_options *o, int64_t positions)
{
    const size_t one = (size_t)positions * float_bytes(o->kv_f16);
    for (int i = 0; i < m->c.n_layers; i++) {
        const struct layer_config *l = &m->c.layer[i];
        if (one * (size_t)l->key_dim % os_page_bytes() ||
            one * (size_t)l->value_dim % os_page_bytes() ||
            (l->ratio && one * (size_t)l->key_dim / (size_t)l->ratio % os_page_bytes()) ||
            (l->indexes && l->ratio &&
             one * (size_t)m->c.index_dim / (size_t)l->ratio % os_page_bytes()))
            return false;
    }
    return true;
}

/* Positions come in steps whose rows of one head are whole pages: what a session
 * uses is the same however many heads there are. */
static int64_t in_steps(const struct model *m, const struct model_options *o, int64_t n)
{
    int64_t step = 256;
    while (!whole_pages(m, o, step))
        step *= 2;
    return (n + step - 1) / step * step;
}

/* Positions before its own that a token of the layer sees at most, if they are few; -1.
 * A near layer's cache and its copy are three times as long: where a session is not longer,
 * they would be more than a cache of all positions is. */
static int64_t reach(const struct model *m, const struct model_options *o, int layer)
{
    const struct layer_config *l = &m->c.layer[layer];
    const int64_t sees = l->window && l->chunk ? MIN(l->window, l->chunk) : l->window + l->chunk;
    const bool few = sees && 3 * sees < options_asked(o);
    return few && m->layers[layer].mixer->per_position(&m->layers[layer]) ? sees - 1 : -1;
}

/* Rows of a near layer: when there is no room for a step, what is seen is moved by more
 * than its own length. */
static int64_t near_rows(const struct model *m, const struct model_options *o, int layer)
{
    const int64_t most = in_steps(m, o, MAX(o->context, (int64_t)1));
    return MIN(most, 2 * reach(m, o, layer) + o->max_tokens);
}

static size_t row_bytes(const struct model *m, const struct model_options *o, int layer)
{
    return (size_t)m->layers[layer].mixer->per_position(&m->layers[layer]) *
           float_bytes(o->kv_f16);
}

static size_t once_bytes(const struct model *m)
{
    int64_t floats = 0;
    for (int i = 0; i < m->c.n_layers; i++)
        floats += m->layers[i].mixer->once(&m->layers[i]);
    return os_whole_pages((size_t)floats * sizeof(float));
}

/* Of the near layers: their caches, or (kept) what a snapshot has of them. */
static size_t near_bytes(const struct model *m, const struct model_options *o, bool kept)
{
    size_t bytes = 0;
    for (int i = 0; i < m->c.n_layers; i++)
        if (reach(m, o, i) >= 0)
            bytes += row_bytes(m, o, i) * (size_t)(kept ? reach(m, o, i) : near_rows(m, o, i));
    return os_whole_pages(bytes);
}

size_t state_fixed_bytes(const struct model *m, const struct model_options *o)
{
    return 2 * once_bytes(m) + near_bytes(m, o, false) + near_bytes(m, o, true);
}

size_t state_position_bytes(const struct model *m, const struct model_options *o)
{
    const int64_t many = in_steps(m, o, 1);
    size_t bytes = 0;
    for (int i = 0; i < m->c.n_layers; i++) {
        if (reach(m, o, i) < 0)
            bytes += row_bytes(m, o, i);
        bytes += (entries_bytes(m, o, i, many) + (size_t)many - 1) / (size_t)many;
    }
    return bytes;
}

int64_t model_kv_bytes(const struct model *m, const struct model_options *o, int64_t n)
{
    return in_steps(m, o, n) * (int64_t)state_position_bytes(m, o);
}

/* ---- making ------------------------------------------------------------------- */

/* Where each layer's part begins. */
static void lay_out(struct model_state *s)
{
    const struct model *m = s->m;
    const struct model_options *o = &m->options;
    const int64_t rows = in_steps(m, o, o->context);
    size_t kv = 0, once = 0, near = 0;
    for (int i = 0; i < m->c.n_layers; i++) {
        const struct layer *l = &m->layers[i];
        struct layer_state *x = &s->layer[i];
        const size_t row = row_bytes(m, o, i);
        const bool is_near = reach(m, o, i) >= 0;
        size_t *at = is_near ? &near : &kv;
        x->at = *at;
        x->near = is_near;
        x->rows = is_near ? near_rows(m, o, i) : rows;
        *at += row * (size_t)x->rows;
        x->entries_at = kv;
        x->entries = m->c.layer[i].ratio ? rows / m->c.layer[i].ratio : 0;
        kv += entries_bytes(m, o, i, rows);
        x->once_at = once;
        once += (size_t)l->mixer->once(l) * sizeof(float);
    }
    s->kv_bytes = kv;
    s->once_bytes = once_bytes(m);
    s->near_bytes = near_bytes(m, o, false);
    s->near_kept_bytes = near_bytes(m, o, true);
}

static int alloc_state(struct model_state *s, size_t bytes, struct dev_mem **out)
{
    struct device *d = s->m->dev;
    return bytes ? d->ops->alloc(d, DEV_STATE, bytes, out, NULL) : OK;
}

int model_state_new(struct model *m, struct model_state **out, struct err *e)
{
    struct model_state *s = calloc(1, sizeof(*s));
    if (s)
        s->layer = calloc((size_t)m->c.n_layers, sizeof(*s->layer));
    if (!s || !s->layer) {
        free(s);
        return err_set(e, E_NOMEM, "session: no memory for its description");
    }
    s->m = m;
    s->snap_length = -1;
    lay_out(s);
    if (alloc_state(s, s->kv_bytes, &s->kv) < 0 || alloc_state(s, s->once_bytes, &s->once) < 0 ||
        alloc_state(s, s->once_bytes, &s->snap) < 0 ||
        alloc_state(s, s->near_bytes, &s->near) < 0 ||
        alloc_state(s, s->near_kept_bytes, &s->near_kept) < 0) {
        err_set(e, E_NOMEM,
                "session: the system refused %zu bytes for a context of %lld tokens; try a smaller "
                "--ctx",
                s->kv_bytes + 2 * s->once_bytes + s->near_bytes + s->near_kept_bytes,
                (long long)m->options.context);
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
    dev_free(s->kv);
    dev_free(s->once);
    dev_free(s->snap);
    dev_free(s->near);
    dev_free(s->near_kept);
    free(s->layer);
    free(s);
}

bool model_state_broken(const struct model_state *s)
{
    return s->broken;
}

void model_state_reset(struct model_state *s)
{
    struct device *d = s->m->dev;
    s->length = 0;
    s->snap_length = -1;
    s->broken = false;
    for (int i = 0; i < s->m->c.n_layers; i++)
        s->layer[i].base = 0;
    if (s->once)
        d->ops->zero(d, (struct dev_ptr){s->once, 0}, s->once_bytes);
    if (s->kv)
        d->ops->give_back(d, (struct dev_ptr){s->kv, 0}, s->kv_bytes);
}

int64_t model_state_length(const struct model_state *s)
{
    return s->length;
}

/* ---- near layers ----------------------------------------------------------------- */

static int64_t seen_before(const struct model_state *s, int layer)
{
    return reach(s->m, &s->m->options, layer);
}

struct dev_ptr state_cache(const struct model_state *s, int layer)
{
    const struct layer_state *x = &s->layer[layer];
    return (struct dev_ptr){x->near ? s->near : s->kv, x->at};
}

struct dev_ptr state_once(const struct model_state *s, int layer)
{
    return (struct dev_ptr){s->once, s->layer[layer].once_at};
}

struct dev_ptr state_entries(const struct model_state *s, int layer, int64_t floats)
{
    const struct layer_state *x = &s->layer[layer];
    const size_t before = (size_t)(x->entries * floats) * float_bytes(s->m->options.kv_f16);
    return x->entries ? (struct dev_ptr){s->kv, x->entries_at + before} : DEV_NONE;
}

struct rows { /* some of a layer's cache, or of the copy of it */
    struct dev_ptr cache;
    int64_t rows;  /* of the whole */
    int64_t first;
};

static struct rows rows_of(const struct model_state *s, int layer, int64_t position)
{
    const struct layer_state *x = &s->layer[layer];
    return (struct rows){state_cache(s, layer), x->rows, position - x->base};
}

/* Copies n rows of each kv head, of the keys or of the values behind them. */
static void copy_part(const struct model_state *s, struct rows to, struct rows from, int64_t n_kv,
                      size_t before, size_t row, int64_t n)
{
    struct device *d = s->m->dev;
    for (int64_t h = 0; h < n_kv; h++) {
        const size_t to_at = before * (size_t)to.rows + row * (size_t)(h * to.rows + to.first);
        const size_t from_at =
            before * (size_t)from.rows + row * (size_t)(h * from.rows + from.first);
        d->ops->copy(d, dev_at(to.cache, to_at), dev_at(from.cache, from_at), row * (size_t)n);
    }
}

static void copy_rows(const struct model_state *s, int layer, struct rows to, struct rows from,
                      int64_t n)
{
    const struct model *m = s->m;
    const struct layer_config *c = &m->c.layer[layer];
    const size_t key = (size_t)c->key_dim * float_bytes(m->options.kv_f16);
    const size_t keys = (size_t)c->n_kv * key, all = row_bytes(m, &m->options, layer);
    if (n < 1)
        return;
    copy_part(s, to, from, c->n_kv, 0, key, n);
    if (all > keys) /* else values are in the keys */
        copy_part(s, to, from, c->n_kv, keys, (all - keys) / (size_t)c->n_kv, n);
}

void state_make_room(struct model_state *s, int64_t n)
{
    for (int i = 0; i < s->m->c.n_layers; i++) {
        struct layer_state *x = &s->layer[i];
        const int64_t kept = MIN(seen_before(s, i), s->length - x->base);
        if (!x->near || s->length + n - x->base <= x->rows)
            continue;
        copy_rows(s, i, rows_of(s, i, x->base), rows_of(s, i, s->length - kept), kept);
        x->base = s->length - kept;
    }
}

/* Whether the near layers still hold what the token at position n sees. */
static bool near_holds(const struct model_state *s, int64_t n)
{
    for (int i = 0; i < s->m->c.n_layers; i++)
        if (s->layer[i].near && s->layer[i].base > MAX(n - seen_before(s, i), (int64_t)0))
            return false;
    return true;
}

/* What the token at the snapshot sees of near layers, to the copy or from it. */
static void copy_near(struct model_state *s, bool back)
{
    size_t at = 0;
    for (int i = 0; i < s->m->c.n_layers; i++) {
        struct layer_state *x = &s->layer[i];
        const int64_t n = MIN(seen_before(s, i), s->length);
        if (!x->near)
            continue;
        const struct rows kept = {{s->near_kept, at}, seen_before(s, i), 0};
        if (back)
            x->base = s->length - n;
        const struct rows seen = rows_of(s, i, s->length - n);
        copy_rows(s, i, back ? seen : kept, back ? kept : seen, n);
        at += row_bytes(s->m, &s->m->options, i) * (size_t)seen_before(s, i);
    }
}

/* ---- snapshots ----------------------------------------------------------------------- */

static void copy_once(struct model_state *s, struct dev_mem *to, struct dev_mem *from)
{
    if (s->once)
        s->m->dev->ops->copy(s->m->dev, (struct dev_ptr){to, 0}, (struct dev_ptr){from, 0},
                             s->once_bytes);
}

void model_state_snapshot(struct model_state *s)
{
    copy_once(s, s->snap, s->once);
    copy_near(s, false);
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
    const bool held = near_holds(s, n);
    if ((s->once || !held) && n != s->snap_length)
        return false;
    copy_once(s, s->once, s->snap);
    s->length = n;
    if (!held)
        copy_near(s, true);
    s->broken = false;
    if (s->snap_length > n)
        s->snap_length = -1;
    return true;
}
