/*
 * The memory plan: what of the budget goes where, decided before anything large
 * is touched.
 *
 * It is a function from struct plan_inputs to struct plan (plan.h). The model is
 * asked what it needs under a choice of chunk, context and dense weights; three
 * choices are asked about:
 *   the floor        a small chunk, no dense weights beyond those that must stay
 *   the dense share  the same with the dense weights that the budget has room for
 *   the largest      that share, the context that fits, the largest chunk
 */
#include "engine/plan.h"

#include <math.h>
#include <stdio.h>

enum {
    LARGEST_CHUNK = 4096,
    BASE_CHUNK = 16,
    SMALLEST_CONTEXT = 2048, /* what a budget must allow unless --ctx asks for less */
    LOGITS_BYTES = 1 << 20
};

/* Whatever a file or a caller says, no number is taken for more than this, and no
 * sum of a dozen of them overflows. */
#define MOST ((int64_t)1 << 58)

static int64_t bounded(int64_t x)
{
    return MAX((int64_t)0, MIN(x, MOST));
}

static int64_t times(int64_t a, int64_t b)
{
    a = bounded(a);
    b = bounded(b);
    return b > 0 && a > MOST / b ? MOST : a * b;
}

/* ---- lines -------------------------------------------------------------- */

static int logits_rows(const struct plan_inputs *in, int chunk)
{
    int64_t rows = LOGITS_BYTES / ((int64_t)sizeof(float) * MAX(in->n_vocab, 1));
    rows = MIN(rows, MIN((int64_t)chunk, (int64_t)in->most_logits_rows));
    return (int)MAX((int64_t)1, rows);
}

/* Beside the rows of logits, a session needs as much as two: the sampler's candidates. */
static void ask(const struct plan_inputs *in, const struct plan_choice *c, struct plan_needs *n)
{
    *n = (struct plan_needs){0};
    in->needs(in->model, c, n);
    int64_t *all[] = {&n->dense,   &n->dense_full,   &n->dense_no_embed, &n->dense_read, &n->state,
                      &n->scratch, &n->kv_per_token, &n->cache_min,      &n->cache_full};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        *all[i] = bounded(*all[i]);
    int64_t logits = (int64_t)sizeof(float) * (logits_rows(in, c->chunk) + 2);
    n->scratch = bounded(n->scratch + times(MAX(in->n_vocab, 0), logits));
}

static void set_lines(const struct plan_inputs *in, const struct plan_needs *n, struct plan *p)
{
    p->memory.dense = n->dense;
    p->memory.dense_full = n->dense_full;
    p->memory.state = n->state;
    p->memory.scratch = n->scratch;
    p->memory.kv_per_token = bounded(n->kv_per_token + bounded(in->session_token_bytes));
    p->memory.cache_min = n->cache_min;
    p->memory.cache_full = n->cache_full;
    p->traffic.dense_read_per_token = n->dense_read;
}

static int64_t without_kv(const sluice_memory *m)
{
    return m->process + m->dense + m->state + m->scratch + m->cache_min;
}

int64_t plan_kv_bytes(const struct plan_inputs *in, int64_t n)
{
    int64_t steps = align_down64(bounded(n) + 255, 256);
    return bounded(bounded(in->kv(in->model, n)) + times(in->session_token_bytes, steps));
}

/* A floor that is printed is good for the next run too, in which the program's
 * own size may have wavered. */
static int64_t floor_of(const struct plan_inputs *in, int64_t least)
{
    enum { ROUND = 64 << 10 };
    return (int64_t)align_up((size_t)(least + bounded(in->process_wavers)), ROUND);
}

/* Text that is longer fits neither the context nor, with what it takes to encode it,
 * the budget. NFC may take three quarters of a text away. */
static int64_t longest_text(const struct plan_inputs *in, const sluice_memory *m, int64_t least)
{
    enum { BYTES_FOR_BYTE = 8, SHRINKS = 4, LEAST_BYTES = 16 /* of a token: ids are text too */ };
    int64_t most = SLUICE_TEXT_FREE + MAX(m->budget - least, (int64_t)0) / BYTES_FOR_BYTE;
    if (in->tokenizer_only) /* nothing else ends a text that never ends */
        return MIN(most, (int64_t)256 << 20);
    int64_t token = times(MAX(in->longest_token, (int64_t)LEAST_BYTES), SHRINKS);
    return MIN(most, MAX(times(m->n_context, token), (int64_t)SLUICE_TEXT_FREE));
}

/* ---- refusing ----------------------------------------------------------- */

/* A resource limit counts what is reserved, used or not. */
static bool is_limited(const struct plan_inputs *in)
{
    return in->limits.m.rlimit_left != INT64_MAX;
}

/* What may be reserved then, the program included. */
static int64_t addresses(const struct plan_inputs *in)
{
    const struct limits *l = &in->limits;
    return bounded(l->m.rlimit_left + l->own - l->rlimit_kept);
}

/* What can be had: a limit may leave less than the budget at this moment. */
static int64_t there_is(const struct plan_inputs *in, const struct plan *p)
{
    int64_t most = is_limited(in) ? addresses(in) : MOST;
    return MIN(MIN(p->memory.budget, bounded(in->limits.now)), most);
}

/* Upwards, so that the number as printed is enough. */
static double mib_up(int64_t bytes)
{
    return ceil((double)bytes / (1024.0 * 1024.0) * 10.0) / 10.0;
}

static int refuse(const struct plan_inputs *in, struct plan *p, struct err *e)
{
    sluice_memory *m = &p->memory;
    const struct limits *l = &in->limits;
    const double mib = 1024.0 * 1024.0;
    char limit[160], input[64] = "";
    m->missing = m->floor - there_is(in, p);
    limits_tell(l, limit, sizeof(limit));
    if (in->held_bytes > 0)
        snprintf(input, sizeof(input), ", of it input %.1f,", (double)in->held_bytes / mib);
    const char *advice = *limit && l->source != LIMIT_MACHINE ? "raise that limit"
                                                              : "raise --memory";
    if (in->tokenizer_only)
        return err_set(
            e, E_BUDGET,
            "the memory budget of %.1f MiB%s is below the floor of %.1f MiB for this model's "
            "tokeniser; %s",
            (double)there_is(in, p) / mib, limit, mib_up(m->floor), advice);
    return err_set(
        e, E_BUDGET,
        "the memory budget of %.1f MiB%s is below the floor of %.1f MiB for this model: "
        "program %.1f%s + two layers of dense weights %.1f + state %.1f + KV cache for %d "
        "tokens %.1f + scratch %.1f + smallest expert cache %.1f; %s%s",
        (double)there_is(in, p) / mib, limit, mib_up(m->floor), (double)m->process / mib, input,
        (double)m->dense / mib, (double)m->state / mib, m->n_context, (double)m->kv_least / mib,
        (double)m->scratch / mib, (double)m->cache_min / mib, advice,
        in->context > 0 ? " or lower --ctx" : "");
}

/* ---- choosing ----------------------------------------------------------- */

/* Dense weights are used for every token, an expert now and then: the dense
 * part comes first. Only the embedding table, of which a token needs one row,
 * stays outside unless everything fits, the context that is wanted included. */
static int64_t dense_share(const struct plan_inputs *in, const struct plan *p,
                           const struct plan_needs *at_floor, int64_t wanted)
{
    const sluice_memory *m = &p->memory;
    int64_t room = there_is(in, p) - (without_kv(m) - m->dense) - m->kv_least;
    int64_t others = MAX(m->cache_full - m->cache_min, plan_kv_bytes(in, wanted) - m->kv_least);
    bool all = room - at_floor->dense_full >= others;
    return MIN(room, all ? at_floor->dense_full : at_floor->dense_no_embed);
}

static int64_t affordable_context(const struct plan_inputs *in, const struct plan *p,
                                  int64_t wanted)
{
    const sluice_memory *m = &p->memory;
    int64_t lo = 0, hi = wanted, room = m->budget - without_kv(m);
    if (is_limited(in)) { /* what a session may use is not the cache's at first */
        int64_t free_bytes = addresses(in) - without_kv(m) - m->kv_least;
        room = MIN(room, m->kv_least + MAX(free_bytes, (int64_t)0) / 2);
    }
    while (lo < hi) { /* plan_kv_bytes is monotonic */
        int64_t mid = lo + (hi - lo + 1) / 2;
        if (plan_kv_bytes(in, mid) <= room)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

/* Under a resource limit the context, the scratch of the largest chunk and the cache
 * lie beside each other: of what the context leaves above the smallest cache, scratch
 * gets half at most. The largest chunk. */
static int share_addresses(const struct plan_inputs *in, struct plan *p, int largest)
{
    sluice_memory *m = &p->memory;
    int64_t used = without_kv(m) + plan_kv_bytes(in, p->chosen.context);
    int64_t spare = MAX(addresses(in) - used, (int64_t)0);
    struct plan_choice c = p->chosen;
    struct plan_needs n;
    int64_t more = 0;
    for (c.chunk = largest; c.chunk > p->base_chunk; c.chunk = MAX(c.chunk / 2, p->base_chunk)) {
        ask(in, &c, &n);
        more = n.scratch + n.state - m->scratch - m->state;
        if (more <= spare / 2)
            break;
        more = 0;
    }
    p->few_addresses = m->cache_full > m->cache_min + spare - more;
    m->cache = MIN(m->cache, m->cache_min + spare - more);
    return c.chunk;
}

/* Scratch is planned for a small chunk. A longer prompt takes more from the
 * expert cache while it is computed: in a chunk each expert is read once, so
 * that a large chunk saves more reads than a large cache. */
static void allow_chunks(const struct plan_inputs *in, struct plan *p)
{
    struct plan_needs large;
    int64_t bytes, most = MIN((int64_t)LARGEST_CHUNK, p->chosen.context);
    int largest = in->chunk > 0 ? p->base_chunk : MAX((int)most, p->base_chunk);
    if (is_limited(in))
        largest = share_addresses(in, p, largest);
    p->chosen.chunk = largest;
    p->logits_rows = logits_rows(in, largest);
    if (largest > p->base_chunk) {
        ask(in, &p->chosen, &large);
        p->chunk_token_bytes = (large.scratch - p->memory.scratch) / (largest - p->base_chunk) + 1;
    }
    p->memory.chunk = (int)plan_chunk(p, largest, p->memory.cache, &bytes);
}

int64_t plan_chunk(const struct plan *p, int64_t n, int64_t cache, int64_t *bytes)
{
    enum { TILES = 256 << 10 }; /* arrays end in whole tiles of tokens: a little more than linear */
    int64_t spare = (cache - p->memory.cache_min) / 2, base = p->base_chunk;
    n = MIN(n, (int64_t)p->chosen.chunk);
    for (;; n = MAX(n / 2, base)) {
        *bytes = n > base ? (n - base) * p->chunk_token_bytes + TILES : 0;
        if (n <= base || *bytes <= spare)
            return n;
    }
}

/* ---- the plan ------------------------------------------------------------ */

static void begin(const struct plan_inputs *in, struct plan *p)
{
    const struct limits *l = &in->limits;
    *p = (struct plan){
        .memory = {.machine_total = l->m.total,
                   .machine_available = l->m.available,
                   .cgroup_limit = l->m.cgroup_limit,
                   .budget_is_default = l->asked == 0,
                   .budget = bounded(l->budget),
                   .budget_asked = bounded(l->asked),
                   .process = bounded(in->process)},
        .traffic = {.expert_bytes_per_token = in->expert_bytes_per_token,
                    .dense_bytes_per_token = in->dense_bytes_per_token,
                    .packed = in->packed,
                    .recorded_hit_rate = -1},
    };
}

static int plan_tokenizer(const struct plan_inputs *in, struct plan *p, struct err *e)
{
    /* lists of the vocabulary's strings while it is opened */
    int64_t lists = times(in->n_tokens, 2 * (int64_t)sizeof(struct str));
    int64_t least = p->memory.process + lists;
    p->memory.floor = floor_of(in, least);
    p->memory.text_most = longest_text(in, &p->memory, least);
    return least > there_is(in, p) ? refuse(in, p, e) : OK;
}

/* The budget above the floor: to dense weights, then to the expert cache. */
static void spend(const struct plan_inputs *in, const struct plan_needs *at_floor, int64_t wanted,
                  struct plan *p)
{
    sluice_memory *m = &p->memory;
    sluice_traffic *t = &p->traffic;
    struct plan_needs n;
    p->chosen.dense_bytes = dense_share(in, p, at_floor, wanted);
    if (p->chosen.dense_bytes < at_floor->dense_no_embed) /* what whole layers leave over is not */
        wanted = m->n_context;                            /* for it: it would waver by budgets */
    ask(in, &p->chosen, &n);
    set_lines(in, &n, p);
    p->chosen.context = affordable_context(in, p, wanted);
    m->n_context = (int)p->chosen.context;
    m->cache = MIN(m->cache_full, m->budget - (without_kv(m) - m->cache_min) - m->kv);
    allow_chunks(in, p);
    t->hit_rate = m->cache_full ? (double)m->cache / (double)m->cache_full : 0.0;
    t->typical_hit_rate = predict_typical_hits(t->hit_rate);
}

int plan_make(const struct plan_inputs *in, struct plan *p, struct err *e)
{
    sluice_memory *m = &p->memory;
    struct plan_needs at_floor;
    begin(in, p);
    if (in->tokenizer_only)
        return plan_tokenizer(in, p, e);
    int wanted = MAX(in->context > 0 ? in->context : in->n_context_train, 1);
    m->n_context = in->context > 0 ? wanted : MIN(wanted, (int)SMALLEST_CONTEXT);
    p->base_chunk = in->chunk > 0 ? in->chunk : BASE_CHUNK;
    p->chosen = (struct plan_choice){.chunk = p->base_chunk, .context = wanted};
    ask(in, &p->chosen, &at_floor);
    set_lines(in, &at_floor, p);
    m->kv = plan_kv_bytes(in, 1);
    m->kv_least = plan_kv_bytes(in, m->n_context);
    m->cache = m->cache_min;
    int64_t least = without_kv(m) + m->kv_least;
    m->floor = floor_of(in, least);
    if (least > there_is(in, p))
        return refuse(in, p, e);
    spend(in, &at_floor, wanted, p);
    m->text_most = longest_text(in, m, least);
    return OK;
}
