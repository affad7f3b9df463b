/*
 * Experts of few tokens: decoding, by one session or several.
 *
 * The union of all picks is asked for at once, the heaviest first (of several tokens
 * what is here before that), and computed in the order in which the bytes arrive; an
 * expert that several tokens picked is read and computed once for all of them. Where the
 * cache has no room for all, the rest is asked for as others are done.
 */
#include "model/model_internal.h"

#include <string.h>

struct arrival {
    struct step *s;
    int layer;
    const struct layer *l;
    struct dev_ffn args;
    struct wanted *x;         /* (few * n_used) */
    int n, n_asked, left;     /* left: not DONE */
    struct dev_expert *batch; /* (few * n_used + 1) */
    int n_batch;
};

/* ---- who wants what ------------------------------------------------------------ */

/* How many of a token's picks have a lower id than pick i. */
static int rank_of(const int32_t *picks, int n, int i)
{
    int rank = 0;
    for (int j = 0; j < n; j++)
        rank += picks[j] < picks[i];
    return rank;
}

/* The entry of an expert, made if it has none. */
static struct wanted *entry(struct arrival *a, int32_t id)
{
    for (int i = 0; i < a->n; i++)
        if (a->x[i].id == id)
            return &a->x[i];
    a->x[a->n] = (struct wanted){.id = id, .lease = {.slot = -1}};
    return &a->x[a->n++];
}

/* By rank, then by token: what weighs most is read first. */
static void list_wanted(struct arrival *a)
{
    const struct step *s = a->s;
    const struct scratch *t = &s->m->scratch;
    const int n_used = (int)a->args.n_used;
    int32_t row = 0;
    for (int r = 0; r < n_used; r++)
        for (int64_t k = 0; k < s->n_tok; k++)
            if (span_alive(step_span(s, k)))
                entry(a, t->host_picks[k * n_used + r])->n_rows++;
    for (int i = 0; i < a->n; i++) {
        a->x[i].first_row = row;
        row += a->x[i].n_rows;
        a->x[i].n_rows = 0;
    }
    for (int64_t k = 0; k < s->n_tok; k++) {
        const int32_t *picks = t->host_picks + k * n_used;
        for (int r = 0; r < n_used && span_alive(step_span(s, k)); r++) {
            struct wanted *x = entry(a, picks[r]);
            int32_t at = x->first_row + x->n_rows++;
            t->host_tokens[at] = (int32_t)k;
            t->host_places[at] = (int32_t)k * n_used + rank_of(picks, n_used, r);
        }
    }
    const struct device_ops *ops = s->m->expert_dev->ops;
    ops->put(s->m->expert_dev, t->x_dev.tokens, t->host_tokens, (size_t)row * sizeof(int32_t));
    ops->put(s->m->expert_dev, t->x_dev.places, t->host_places, (size_t)row * sizeof(int32_t));
    a->left = a->n;
}

/* The read of an expert failed: the spans that picked it end. */
static void fail_wanted(struct arrival *a, const struct wanted *x, int rc, const struct err *e)
{
    for (int i = 0; i < x->n_rows; i++)
        step_fail(a->s, step_span(a->s, a->s->m->scratch.host_tokens[x->first_row + i]), rc, e);
}

/* ---- asking ------------------------------------------------------------------------ */

/* Where one request cannot name all, what is here is leased before the first read and
 * moves to the front. One token's picks are asked for in the router's order. */
static void keep_known(struct arrival *a)
{
    struct model *m = a->s->m;
    for (int i = 0; a->n > m->most_used && i < a->n; i++) {
        struct wanted x = a->x[i];
        if (!expert_keep(m->cache, a->layer, x.id, &x.lease))
            continue;
        x.did = ASKED;
        memmove(&a->x[a->n_asked + 1], &a->x[a->n_asked],
                (size_t)(i - a->n_asked) * sizeof(*a->x));
        a->x[a->n_asked++] = x;
    }
    if (a->n > 0 && a->n_asked == a->n) /* nobody else drops what was guessed wrong */
        expert_request(m->cache, a->layer, NULL, 0, NULL, NULL);
}

static bool holds_leases(const struct arrival *a)
{
    for (int i = 0; i < a->n_asked; i++)
        if (a->x[i].did != DONE)
            return true;
    return false;
}

/* Asks for what is next, as far as there are slots. */
static int ask(struct arrival *a, struct err *e)
{
    struct model *m = a->s->m;
    while (a->n_asked < a->n) {
        int32_t ids[DEV_MAX_USED];
        struct expert_lease leases[DEV_MAX_USED];
        int n = MIN(a->n - a->n_asked, m->most_used);
        bool first = !holds_leases(a);
        if (a->n_asked > 0 || n < a->n)
            n = MIN(n, expert_free_slots(m->cache, a->layer));
        if (n < 1 && !first)
            return OK;
        if (n < 1) { /* what was computed may not be finished */
            TRY(used_wait(m, e));
            n = 1;
        }
        for (int i = 0; i < n; i++)
            ids[i] = a->x[a->n_asked + i].id;
        TRY(expert_request(m->cache, a->layer, ids, n, leases, e));
        for (int i = 0; i < n; i++, a->n_asked++) {
            a->x[a->n_asked].lease = leases[i];
            a->x[a->n_asked].did = ASKED;
        }
    }
    return OK;
}

/* ---- computing ----------------------------------------------------------------------- */

static void add_expert(struct arrival *a, const struct wanted *x, enum dev_step step)
{
    struct dev_expert *b = &a->batch[a->n_batch++];
    *b = experts_leased(a->s->m, a->l, &x->lease);
    b->n_rows = x->n_rows;
    b->first_row = x->first_row;
    b->step = step;
}

/* Adds what has arrived whole. A failed read counts as arrived, and may come at
 * any moment: each is asked just before use. */
static void collect_ready(struct arrival *a)
{
    struct expert_cache *cache = a->s->m->cache;
    for (int i = 0; i < a->n_asked; i++) {
        struct wanted *x = &a->x[i];
        struct err e = {0};
        if (x->did == DONE || !expert_ready(cache, &x->lease))
            continue;
        int rc = expert_wait(cache, &x->lease, &e);
        if (rc < 0)
            fail_wanted(a, x, rc, &e);
        else
            add_expert(a, x, x->did == GATE_UP ? DEV_DOWN : DEV_WHOLE);
        x->did = DONE;
        a->left--;
    }
}

/* The parts before down: gate and up, or both in one, and their biases. */
static bool gate_up_here(const struct arrival *a, const struct wanted *x)
{
    for (int p = 0; p < a->l->experts.n_first; p++)
        if (!expert_part_ready(a->s->m->cache, &x->lease, p))
            return false;
    return true;
}

/* With nothing whole left to compute: gates and ups whose down is on its way. */
static void collect_parts(struct arrival *a)
{
    for (int i = 0; i < a->n_asked; i++)
        if (a->x[i].did == ASKED && gate_up_here(a, &a->x[i])) {
            add_expert(a, &a->x[i], DEV_GATE_UP);
            a->x[i].did = GATE_UP;
        }
}

/* Sleeps until the first expert that is not done, or its gate and up, are here. A
 * failed read is told by collect_ready. */
static void wait_some(struct arrival *a)
{
    struct expert_cache *cache = a->s->m->cache;
    int i = 0;
    while (a->x[i].did == DONE)
        i++;
    if (a->x[i].did == GATE_UP) {
        expert_wait(cache, &a->x[i].lease, NULL);
        return;
    }
    for (int p = 0; p < a->l->experts.n_first; p++)
        expert_wait_part(cache, &a->x[i].lease, p);
    if (!gate_up_here(a, &a->x[i]))
        expert_wait(cache, &a->x[i].lease, NULL);
}

static void compute_batch(struct arrival *a)
{
    struct model *m = a->s->m;
    work_label(m, WORK_EXPERTS);
    if (a->n_batch > 0)
        m->expert_dev->ops->experts(m->expert_dev, &a->args, a->batch, a->n_batch);
    a->n_batch = 0;
}

/* Leases go when the device is through with what was computed from them: those of
 * experts that are done, when others wait for slots, or all. */
static void free_done(struct arrival *a, bool all)
{
    struct model *m = a->s->m;
    for (int i = 0; i < a->n_asked; i++) {
        struct wanted *x = &a->x[i];
        if (x->lease.slot < 0 || (!all && x->did != DONE))
            continue;
        used_add(m, &x->lease);
        x->lease.slot = -1;
    }
    used_release(m);
}

static int missing(const struct arrival *a)
{
    int n = a->n - a->n_asked;
    for (int i = 0; i < a->n_asked; i++)
        n += !expert_ready(a->s->m->cache, &a->x[i].lease);
    return n;
}

static int compute_arriving(struct arrival *a, struct err *e)
{
    struct step *s = a->s;
    /* Little to read: the drive would have nothing to do while what is here is
     * computed. Otherwise a guess can wait until the processor has nothing to do. */
    bool guessed = missing(a) < 2;
    if (guessed)
        TRY(guess_next(s, a->layer, e));
    if (a->l->experts.shared_down.n_out && s->m->dev == s->m->expert_dev)
        a->batch[a->n_batch++] = experts_shared(a->l, s->n_tok);
    if (a->l->ffn->meanwhile)
        a->l->ffn->meanwhile(s, a->l);
    while (a->left > 0 || a->n_batch > 0) {
        collect_ready(a);
        if (!step_alive(s))
            return OK;
        if (a->n_batch == 0)
            collect_parts(a);
        bool idle = a->n_batch == 0;
        compute_batch(a);
        if (a->n_asked < a->n) {
            free_done(a, false);
            TRY(ask(a, e));
        }
        if (!guessed && (idle || a->left == 0)) {
            TRY(guess_next(s, a->layer, e));
            guessed = true;
            continue;
        }
        if (idle && a->left > 0)
            wait_some(a);
    }
    return OK;
}

int experts_few(struct step *s, int layer, struct err *e)
{
    const struct layer *l = &s->m->layers[layer];
    struct arrival a = {.s = s, .layer = layer, .l = l, .args = experts_args(s, l, false),
                        .x = s->m->scratch.host_wanted, .batch = s->m->scratch.host_batch};
    list_wanted(&a);
    keep_known(&a);
    int rc = ask(&a, e);
    if (rc == OK)
        rc = compute_arriving(&a, e);
    free_done(&a, true);
    return rc;
}
