#include "replay.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- loading ---------------------------------------------------------- */

#define MAX_LINE (1 << 20)

static void measure_token(const json_t *layers, struct replay_trace *t)
{
    t->n_layers = MAX(t->n_layers, (int)json_array_size(layers));
    for (size_t l = 0; l < json_array_size(layers); l++) {
        const json_t *ids = json_array_get(layers, l);
        t->n_used = MAX(t->n_used, (int)json_array_size(ids));
        for (size_t i = 0; i < json_array_size(ids); i++)
            t->n_experts = MAX(t->n_experts, (int)json_integer_value(json_array_get(ids, i)) + 1);
    }
    t->n_tokens++;
}

static void store_token(const json_t *layers, int token, struct replay_trace *t)
{
    for (int l = 0; l < t->n_layers; l++)
        for (int i = 0; i < t->n_used; i++) {
            const json_t *id = json_array_get(json_array_get(layers, (size_t)l), (size_t)i);
            t->n_requests += id != NULL;
            t->ids[((int64_t)token * t->n_layers + l) * t->n_used + i] =
                id ? (int16_t)json_integer_value(id) : -1;
        }
}

/* The lines of a file as JSON; NULL with a sentence on failure. */
static json_t *load_lines(const char *path, struct err *e)
{
    json_t *all = json_array();
    char *line = malloc(MAX_LINE);
    FILE *f = fopen(path, "r");
    int n = 0;
    while (f && line && all && fgets(line, MAX_LINE, f)) {
        json_error_t why;
        json_t *j = json_loads(line, 0, &why);
        n++;
        if (!j || !json_is_array(json_object_get(j, "layers"))) {
            err_set(e, E_FORMAT, "%s line %d: expected {\"layers\": [[expert, ...], ...]}", path,
                    n);
            json_decref(j);
            json_decref(all);
            all = NULL;
            break;
        }
        json_array_append_new(all, j);
    }
    if (!f)
        err_set(e, E_IO, "cannot open %s", path);
    if (f)
        fclose(f);
    free(line);
    if (!f || (all && json_array_size(all) == 0)) {
        json_decref(all);
        err_set(e, E_FORMAT, "%s: no token in it", path);
        return NULL;
    }
    return all;
}

int replay_load(const char *path, struct replay_trace *t, struct err *e)
{
    *t = (struct replay_trace){0};
    json_t *all = load_lines(path, e);
    if (!all)
        return e ? e->code : E_FORMAT;
    const char *name = strrchr(path, '/');
    snprintf(t->name, sizeof t->name, "%s", name ? name + 1 : path);
    for (size_t k = 0; k < json_array_size(all); k++)
        measure_token(json_object_get(json_array_get(all, k), "layers"), t);
    t->ids = malloc((size_t)t->n_tokens * (size_t)t->n_layers * (size_t)t->n_used * sizeof *t->ids);
    for (int k = 0; t->ids && k < t->n_tokens; k++)
        store_token(json_object_get(json_array_get(all, (size_t)k), "layers"), k, t);
    json_decref(all);
    return t->ids ? OK : err_set(e, E_NOMEM, "%s: no memory", path);
}

void replay_free(struct replay_trace *t)
{
    free(t->ids);
    t->ids = NULL;
}

int64_t replay_slots(const struct replay_trace *t, double times)
{
    int64_t n = (int64_t)(times * t->n_layers * t->n_used);
    return MIN(n, (int64_t)t->n_layers * t->n_experts);
}

/* ---- replaying -------------------------------------------------------- */

struct sim {
    const struct replay_trace *t;
    int64_t n_slots, n_filled;
    int64_t *key_in;    /* n_slots */
    int32_t *slot_of;   /* n_keys; -1: not resident */
    uint8_t *evictable; /* n_slots */
    int64_t misses;
};

static bool sim_open(struct sim *s, const struct replay_trace *t, int64_t n_slots)
{
    size_t n_keys = (size_t)t->n_layers * (size_t)t->n_experts;
    *s = (struct sim){.t = t, .n_slots = n_slots};
    s->key_in = calloc((size_t)n_slots, sizeof *s->key_in);
    s->slot_of = malloc(n_keys * sizeof *s->slot_of);
    s->evictable = calloc((size_t)n_slots, 1);
    if (!s->key_in || !s->slot_of || !s->evictable)
        return false;
    memset(s->slot_of, 0xFF, n_keys * sizeof *s->slot_of);
    return true;
}

static void sim_close(struct sim *s)
{
    free(s->key_in);
    free(s->slot_of);
    free(s->evictable);
}

/* The ids of one layer; their count. */
static int ids_of(const struct replay_trace *t, int token, int layer, const int16_t **ids)
{
    *ids = t->ids + ((int64_t)token * t->n_layers + layer) * t->n_used;
    int n = 0;
    while (n < t->n_used && (*ids)[n] >= 0)
        n++;
    return n;
}

static void pin(struct sim *s, int layer, const int16_t *ids, int n, uint8_t evictable)
{
    for (int i = 0; i < n; i++) {
        int32_t slot = s->slot_of[layer * s->t->n_experts + ids[i]];
        if (slot >= 0)
            s->evictable[slot] = evictable;
    }
}

static void sim_insert(struct sim *s, int64_t key, int64_t slot)
{
    s->key_in[slot] = key;
    s->slot_of[key] = (int32_t)slot;
    s->evictable[slot] = 0;
    s->misses++;
}

static void policy_layer(struct sim *s, const struct expert_policy *p, void *state, int token,
                         int layer)
{
    const int16_t *ids;
    int n = ids_of(s->t, token, layer, &ids);
    int64_t first = (int64_t)layer * s->t->n_experts;
    pin(s, layer, ids, n, 0);
    for (int i = 0; i < n; i++) {
        int64_t key = first + ids[i], slot = s->n_filled;
        if (s->slot_of[key] >= 0)
            continue;
        if (s->n_filled == s->n_slots) {
            slot = p->victim(state, s->evictable, layer);
            p->on_evict(state, s->key_in[slot], (int)slot);
            s->slot_of[s->key_in[slot]] = -1;
        } else {
            s->n_filled++;
        }
        sim_insert(s, key, slot);
        p->on_insert(state, key, (int)slot);
    }
    for (int i = 0; i < n; i++)
        p->on_use(state, first + ids[i], s->slot_of[first + ids[i]]);
    pin(s, layer, ids, n, 1);
}

int64_t replay_policy(const struct replay_trace *t, const struct expert_policy *p, int64_t n_slots)
{
    struct sim s;
    int64_t misses = -1;
    void *state =
        p->create((int64_t)t->n_layers * t->n_experts, n_slots, t->n_layers, t->n_experts);
    if (sim_open(&s, t, n_slots) && state) {
        for (int k = 0; k < t->n_tokens; k++) {
            for (int l = 0; l < t->n_layers; l++)
                policy_layer(&s, p, state, k, l);
            p->on_tick(state);
        }
        misses = s.misses;
    }
    if (state)
        p->destroy(state);
    sim_close(&s);
    return misses;
}

/* ---- the optimum ------------------------------------------------------ */

/* When each use is followed by the next one of the same expert, in layers
 * since the start; same shape as ids. */
static int32_t *next_uses(const struct replay_trace *t)
{
    size_t n_keys = (size_t)t->n_layers * (size_t)t->n_experts;
    int32_t *next =
        malloc((size_t)t->n_tokens * (size_t)t->n_layers * (size_t)t->n_used * sizeof *next);
    int32_t *seen = malloc(n_keys * sizeof *seen);
    for (size_t i = 0; seen && i < n_keys; i++)
        seen[i] = INT32_MAX;
    for (int now = t->n_tokens * t->n_layers - 1; next && seen && now >= 0; now--) {
        const int16_t *ids;
        int layer = now % t->n_layers, n = ids_of(t, now / t->n_layers, layer, &ids);
        for (int i = 0; i < n; i++) {
            int32_t *s = &seen[layer * t->n_experts + ids[i]];
            next[(int64_t)now * t->n_used + i] = *s;
            *s = now;
        }
    }
    if (!seen) {
        free(next);
        next = NULL;
    }
    free(seen);
    return next;
}

static int64_t used_last(const struct sim *s, const int32_t *due)
{
    int64_t best = -1;
    for (int64_t i = 0; i < s->n_slots; i++)
        if (s->evictable[i] && (best < 0 || due[s->key_in[i]] > due[s->key_in[best]]))
            best = i;
    return best;
}

static void belady_layer(struct sim *s, int32_t *due, const int32_t *next, int now)
{
    const int16_t *ids;
    int layer = now % s->t->n_layers, n = ids_of(s->t, now / s->t->n_layers, layer, &ids);
    int64_t first = (int64_t)layer * s->t->n_experts;
    pin(s, layer, ids, n, 0);
    for (int i = 0; i < n; i++) {
        int64_t key = first + ids[i], slot = s->n_filled;
        if (s->slot_of[key] >= 0)
            continue;
        if (s->n_filled == s->n_slots) {
            slot = used_last(s, due);
            s->slot_of[s->key_in[slot]] = -1;
        } else {
            s->n_filled++;
        }
        sim_insert(s, key, slot);
    }
    for (int i = 0; i < n; i++)
        due[first + ids[i]] = next[(int64_t)now * s->t->n_used + i];
    pin(s, layer, ids, n, 1);
}

int64_t replay_belady(const struct replay_trace *t, int64_t n_slots)
{
    struct sim s;
    int64_t misses = -1;
    int32_t *next = next_uses(t);
    int32_t *due = calloc((size_t)t->n_layers * (size_t)t->n_experts, sizeof *due);
    if (sim_open(&s, t, n_slots) && next && due) {
        for (int now = 0; now < t->n_tokens * t->n_layers; now++)
            belady_layer(&s, due, next, now);
        misses = s.misses;
    }
    free(next);
    free(due);
    sim_close(&s);
    return misses;
}
