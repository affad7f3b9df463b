/*
 * One mixture-of-experts block: routing, reads, experts.
 *
 * Reads of all picked experts start as soon as the router has spoken. One
 * token: whatever has arrived is computed together, in any order. A chunk:
 * each picked expert is read once, in ascending id, with a window of reads
 * running ahead of the computation.
 */
#include "model/model_internal.h"

#include <string.h>

static struct dev_expert expert_of(const struct model *m, const struct layer *l,
                                   const struct expert_lease *lease)
{
    struct dev_expert x = {.gate = l->gate, .up = l->up, .down = l->down};
    x.gate.data = expert_data(m->cache, lease, 0);
    if (l->fused_gate_up) {
        size_t half = (size_t)l->gate.n_out * dtype_row_bytes(l->gate.type, l->gate.n_in);
        x.up.data = (const uint8_t *)x.gate.data + half;
        x.down.data = expert_data(m->cache, lease, 1);
    } else {
        x.up.data = expert_data(m->cache, lease, 1);
        x.down.data = expert_data(m->cache, lease, 2);
    }
    return x;
}

static struct dev_expert shared_of(const struct layer *l, int64_t n_tok)
{
    return (struct dev_expert){.gate = l->shared_gate_mat, .up = l->shared_up,
                               .down = l->shared_down, .n_rows = n_tok, .shared = true};
}

/* ---- one token -------------------------------------------------------- */

/* How many of the picks have a lower id than pick i. */
static int rank_of(const int32_t *picks, int n, int i)
{
    int rank = 0;
    for (int j = 0; j < n; j++)
        rank += picks[j] < picks[i];
    return rank;
}

/* One token's experts on their way. */
struct arrival {
    struct model *m;
    const struct layer *l;
    const struct dev_moe *b;
    const struct expert_lease *leases; /* (n_used) */
    enum { NOTHING, GATE_UP, ALL } did[DEV_MAX_USED];
    int left; /* not ALL */
    struct dev_expert batch[DEV_MAX_USED + 1];
    int n;
};

static void add_expert(struct arrival *a, int i, int step)
{
    struct dev_expert *x = &a->batch[a->n++];
    *x = expert_of(a->m, a->l, &a->leases[i]);
    x->n_rows = 1;
    x->slot = rank_of(a->b->picks, (int)a->b->n_used, i);
    x->step = step;
}

/* Adds what has arrived whole. A failed read counts as arrived, and may come at
 * any moment: each is asked just before use. */
static int collect_ready(struct arrival *a, struct err *e)
{
    for (int i = 0; i < a->b->n_used; i++) {
        if (a->did[i] == ALL || !expert_ready(a->m->cache, &a->leases[i]))
            continue;
        TRY(expert_wait(a->m->cache, &a->leases[i], e));
        add_expert(a, i, a->did[i] == GATE_UP ? DEV_DOWN : DEV_WHOLE);
        a->did[i] = ALL;
        a->left--;
    }
    return OK;
}

/* The parts before the last, down: gate and up, or both in one. */
static bool gate_up_here(const struct arrival *a, int i)
{
    for (int p = 0; p < (a->l->fused_gate_up ? 1 : 2); p++)
        if (!expert_part_ready(a->m->cache, &a->leases[i], p))
            return false;
    return true;
}

/* With nothing whole left to compute: gates and ups whose down is on its way. */
static void collect_parts(struct arrival *a)
{
    for (int i = 0; i < a->b->n_used; i++)
        if (a->did[i] == NOTHING && gate_up_here(a, i)) {
            add_expert(a, i, DEV_GATE_UP);
            a->did[i] = GATE_UP;
        }
}

/* Sleeps until the first expert that is not done, or its gate and up, are here. */
static int wait_some(struct arrival *a, struct err *e)
{
    int i = 0;
    while (a->did[i] == ALL)
        i++;
    if (a->did[i] == GATE_UP)
        return expert_wait(a->m->cache, &a->leases[i], e);
    for (int p = 0; p < (a->l->fused_gate_up ? 1 : 2); p++)
        expert_wait_part(a->m->cache, &a->leases[i], p);
    return gate_up_here(a, i) ? OK : expert_wait(a->m->cache, &a->leases[i], e);
}

static int compute_arriving(struct model *m, int il, const struct dev_moe *b,
                            const struct expert_lease *leases, struct err *e)
{
    struct arrival a = {.m = m, .l = &m->layers[il], .b = b, .leases = leases, .left = (int)b->n_used};
    /* Little to read: the drive would have nothing to do while what is here is
     * computed. Otherwise a guess can wait until the processor has nothing to do. */
    int missing = 0;
    for (int i = 0; i < a.left; i++)
        missing += !expert_ready(m->cache, &leases[i]);
    bool guessed = missing < 2;
    if (guessed)
        guess_next(m, il);
    if (b->shared_gate)
        a.batch[a.n++] = shared_of(a.l, 1);
    while (a.left > 0 || a.n > 0) {
        TRY(collect_ready(&a, e));
        if (a.n == 0)
            collect_parts(&a);
        work_label(m, WORK_EXPERTS);
        if (a.n > 0)
            device_moe_experts(m->dev, b, a.batch, a.n);
        bool idle = a.n == 0;
        a.n = 0;
        if (!guessed && (idle || a.left == 0)) {
            guess_next(m, il);
            guessed = true;
            continue;
        }
        if (idle && a.left > 0)
            TRY(wait_some(&a, e));
    }
    return OK;
}

static int one_token(struct model *m, int il, const struct dev_moe *b, struct err *e)
{
    struct expert_lease leases[DEV_MAX_USED];
    int n = (int)b->n_used;
    TRY(expert_request(m->cache, il, b->picks, n, leases, e));
    int rc = compute_arriving(m, il, b, leases, e);
    for (int i = 0; i < n; i++)
        expert_release(m->cache, &leases[i]);
    return rc;
}

/* ---- a chunk ---------------------------------------------------------- */

/* Sorts (token, pick) pairs by expert, tokens ascending: rows of expert x are
 * rows[first[x] .. first[x + 1]). */
static void group_by_expert(struct model *m, const struct dev_moe *b)
{
    struct scratch *s = &m->scratch;
    int64_t n_experts = m->c.n_experts, n = b->n_tok * b->n_used;
    memset(s->first, 0, (size_t)(n_experts + 1) * sizeof(*s->first));
    for (int64_t i = 0; i < n; i++)
        s->first[b->picks[i] + 1]++;
    for (int64_t x = 0; x < n_experts; x++)
        s->first[x + 1] += s->first[x];
    for (int64_t i = 0; i < n; i++) { /* first[x] runs to the start of x + 1 ... */
        int32_t at = s->first[b->picks[i]]++;
        s->rows[at] = (int32_t)(i / b->n_used);
        s->row_weights[at] = b->weights[i];
    }
    for (int64_t x = n_experts; x > 0; x--) /* ... and is moved back */
        s->first[x] = s->first[x - 1];
    s->first[0] = 0;
}

enum { WINDOW_MAX = 32 };

struct window {
    struct expert_lease lease[WINDOW_MAX];
    int head, n; /* oldest lease, leases held */
    int32_t next;
};

/* Leases further experts that have tokens, as far as slots allow. */
static int refill(struct model *m, int il, struct window *w, struct err *e)
{
    const int32_t *first = m->scratch.first;
    for (; w->next < m->c.n_experts && w->n < WINDOW_MAX; w->next++) {
        if (first[w->next] == first[w->next + 1])
            continue;
        if (w->n > 0 && expert_free_slots(m->cache, il) < 1)
            return OK;
        int at = (w->head + w->n) % WINDOW_MAX;
        TRY(expert_request(m->cache, il, &w->next, 1, &w->lease[at], e));
        w->n++;
    }
    return OK;
}

/* While the next layer's mixer computes, its first experts can be read: with
 * several tokens for each expert, nearly all of them will be picked. */
static void read_on(struct model *m, int il, int64_t n_tok)
{
    int32_t ids[WINDOW_MAX];
    if (m->options.lookahead < 0 || il >= m->c.n_layers ||
        n_tok * m->c.n_used < 4 * m->c.n_experts)
        return;
    int n = (int)MIN(m->c.n_experts, (int64_t)WINDOW_MAX);
    for (int i = 0; i < n; i++)
        ids[i] = i;
    expert_hint(m->cache, il, ids, n);
}

static int chunk(struct model *m, int il, const struct dev_moe *b, struct err *e)
{
    const struct layer *l = &m->layers[il];
    const struct scratch *s = &m->scratch;
    struct window w = {0};
    group_by_expert(m, b);
    int rc = refill(m, il, &w, e);
    if (rc == OK && b->shared_gate) {
        struct dev_expert shared = shared_of(l, b->n_tok);
        work_label(m, WORK_SHARED);
        device_moe_experts(m->dev, b, &shared, 1);
    }
    work_label(m, WORK_EXPERTS);
    while (rc == OK && w.n > 0) {
        struct expert_lease *lease = &w.lease[w.head];
        rc = expert_wait(m->cache, lease, e);
        if (rc < 0)
            break;
        struct dev_expert x = expert_of(m, l, lease);
        x.n_rows = s->first[lease->expert + 1] - s->first[lease->expert];
        x.rows = s->rows + s->first[lease->expert];
        x.weight = s->row_weights + s->first[lease->expert];
        device_moe_experts(m->dev, b, &x, 1);
        expert_release(m->cache, lease);
        w.head = (w.head + 1) % WINDOW_MAX;
        w.n--;
        rc = refill(m, il, &w, e);
    }
    for (; w.n > 0; w.n--, w.head = (w.head + 1) % WINDOW_MAX)
        expert_release(m->cache, &w.lease[w.head]);
    if (rc == OK)
        read_on(m, il + 1, b->n_tok);
    return rc;
}

struct dev_moe moe_of(const struct model *m, const struct layer *l, int64_t n_tok)
{
    return (struct dev_moe){.x = m->scratch.x, .n_tok = n_tok, .n_embd = m->c.n_embd,
                            .norm = l->ffn_norm, .eps = m->c.eps, .router = &l->router,
                            .n_used = m->c.n_used, .renormalise = m->c.arch->renormalise,
                            .shared_gate = l->shared_gate,
                            .picks = m->scratch.picks, .weights = m->scratch.weights};
}

int moe_block(struct model *m, int il, int64_t pos, int64_t n_tok, struct err *e)
{
    const struct layer *l = &m->layers[il];
    struct dev_moe b = moe_of(m, l, n_tok);
    work_label(m, WORK_ROUTER);
    device_moe_begin(m->dev, &b);
    if (!device_finite(m->dev, b.weights, n_tok * b.n_used))
        return health_not_finite(m, il, "its router's scores", e);
    if (m->route)
        m->route(m->route_user, il, pos, n_tok, (int)b.n_used, b.picks);
    TRY(n_tok == 1 ? one_token(m, il, &b, e) : chunk(m, il, &b, e));
    work_label(m, WORK_SUM);
    device_moe_end(m->dev, &b);
    return OK;
}
