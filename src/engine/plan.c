/*
 * The memory plan: what of the budget goes where, decided before anything
 * large is touched. Invariant, kept by plan_take and plan_give:
 *     process + dense + scratch + states + KV in use + expert cache <= budget.
 * A session grows by taking from the expert cache, down to its smallest size.
 */
#include "engine/engine.h"

#include <math.h>
#include <stdio.h>

enum {
    LARGEST_CHUNK = 4096,
    BASE_CHUNK = 16,
    SMALLEST_CONTEXT = 2048, /* what a budget must allow unless --ctx asks for less */
    /* Code and library pages not yet touched, ring, stacks, malloc's slack. */
    PROCESS_RESERVE = 5 << 19,
    LOGITS_BYTES = 1 << 20,
    /* Of a token of a session: its id there, and twice in the caller's list. */
    TOKEN_BYTES = 3 * (int)sizeof(int32_t)
};

/* Stack and allocator of a thread, of which a few pages are touched here and there. */
static int64_t thread_reserve(void)
{
    return (112 << 10) + 4 * (int64_t)os_page_bytes();
}

int plan_logits_rows(const struct sluice *s)
{
    int64_t rows = LOGITS_BYTES / ((int64_t)sizeof(float) * s->shape.n_vocab);
    return (int)MAX((int64_t)1, MIN(rows, (int64_t)s->mo.max_tokens));
}

/* Lines of the plan that depend on chunk and context. */
static void measure(struct sluice *s, int chunk, int64_t context)
{
    sluice_plan *p = &s->plan;
    int64_t fixed, per_token;
    s->mo.max_tokens = chunk;
    s->mo.context = context;
    model_needs(s->model, &s->mo, &s->needs);
    device_scratch(s->dev, &s->needs.sizes, &fixed, &per_token);
    p->dense = s->needs.dense;
    p->dense_full = s->needs.dense_full;
    p->dense_read_per_token = s->needs.dense_read;
    p->state = s->needs.state;
    p->kv_per_token = s->needs.kv_per_token + per_token + TOKEN_BYTES;
    p->scratch = s->needs.scratch + fixed +
                 (int64_t)sizeof(float) * s->shape.n_vocab * (plan_logits_rows(s) + 2);
    p->cache_min = s->needs.cache_min;
    p->cache_full = s->needs.cache_full;
}

static int64_t without_kv(const sluice_plan *p)
{
    return p->process + p->dense + p->state + p->scratch + p->cache_min;
}

static int64_t kv_bytes(const struct sluice *s, int64_t n)
{
    int64_t steps = (n + 255) / 256 * 256;
    return model_kv_bytes(s->model, &s->mo, n) + (s->plan.kv_per_token - s->needs.kv_per_token) * steps;
}

/* Dense weights are used for every token, an expert now and then: the dense
 * part comes first. Only the embedding table, of which a token needs one row,
 * stays outside unless everything fits. `most`: of the budget, what there is. */
static void choose_dense(struct sluice *s, int64_t most, int64_t context, int64_t smallest)
{
    const sluice_plan *p = &s->plan;
    int64_t room = most - (without_kv(p) - p->dense) - kv_bytes(s, smallest);
    bool all = room - s->needs.dense_full >= p->cache_full - p->cache_min;
    s->mo.dense_bytes = MIN(room, all ? s->needs.dense_full : s->needs.dense_no_embed);
    measure(s, s->base_chunk, context);
}

/* Upwards, so that the number as printed is enough. */
static double mib_up(int64_t bytes)
{
    return ceil((double)bytes / (1024.0 * 1024.0) * 10.0) / 10.0;
}

static int refuse(const struct sluice *s, const struct budget *b, int64_t context, struct err *e)
{
    const sluice_plan *p = &s->plan;
    const double mib = 1024.0 * 1024.0;
    char limit[160], input[64] = "";
    budget_tell(b, (int64_t)MIN(s->o.memory_bytes, (uint64_t)INT64_MAX / 2), limit, sizeof(limit));
    if (s->o.held_bytes > 0)
        snprintf(input, sizeof(input), ", of it input %.1f,", (double)s->o.held_bytes / mib);
    const char *advice = *limit && b->source != BUDGET_MACHINE ? "raise that limit" : "raise --memory";
    if (s->o.tokenizer_only)
        return err_set(e, E_BUDGET, "the memory budget of %.1f MiB%s is below the floor of %.1f MiB for this model's tokeniser; %s",
                       (double)MIN(p->budget, b->now) / mib, limit, mib_up(p->floor), advice);
    return err_set(e, E_BUDGET,
                   "the memory budget of %.1f MiB%s is below the floor of %.1f MiB for this model: program %.1f%s + two layers of dense "
                   "weights %.1f + state %.1f + KV cache for %lld tokens %.1f + scratch %.1f + smallest expert cache %.1f; %s%s",
                   (double)MIN(p->budget, b->now) / mib, limit, mib_up(p->floor), (double)p->process / mib, input,
                   (double)p->dense / mib, (double)p->state / mib, (long long)context,
                   (double)kv_bytes(s, context) / mib, (double)p->scratch / mib, (double)p->cache_min / mib, advice,
                   s->o.context > 0 ? " or lower --ctx" : "");
}

static int64_t affordable_context(const struct sluice *s, int64_t wanted)
{
    int64_t lo = 0, hi = wanted, room = s->plan.budget - without_kv(&s->plan);
    while (lo < hi) { /* kv_bytes is monotonic */
        int64_t mid = lo + (hi - lo + 1) / 2;
        if (kv_bytes(s, mid) <= room)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

/* Scratch is planned for a small chunk. A longer prompt takes more from the
 * expert cache while it is computed: in a chunk each expert is read once, so
 * that a large chunk saves more reads than a large cache. */
static void allow_chunks(struct sluice *s)
{
    sluice_plan *p = &s->plan;
    int64_t small = p->scratch;
    int largest = s->o.chunk > 0 ? s->base_chunk : (int)MIN((int64_t)LARGEST_CHUNK, s->mo.context);
    largest = MAX(largest, s->base_chunk);
    measure(s, largest, s->mo.context);
    if (largest > s->base_chunk)
        s->chunk_token_bytes = (p->scratch - small) / (largest - s->base_chunk) + 1;
    p->scratch = small;
    int64_t bytes;
    p->chunk = (int)plan_chunk(s, largest, p->cache, &bytes);
}

int64_t plan_chunk(const struct sluice *s, int64_t n, int64_t cache, int64_t *bytes)
{
    enum { TILES = 256 << 10 }; /* arrays end in whole tiles of tokens: a little more than linear */
    int64_t spare = (cache - s->plan.cache_min) / 2;
    n = MIN(n, (int64_t)s->mo.max_tokens);
    for (;; n = MAX(n / 2, (int64_t)s->base_chunk)) {
        *bytes = n > s->base_chunk ? (n - s->base_chunk) * s->chunk_token_bytes + TILES : 0;
        if (n <= s->base_chunk || *bytes <= spare)
            return n;
    }
}

/* Share of hits when a fraction `f` of all experts is cached. Fitted to the five
 * recorded traces of real models (docs/eviction.md), replayed with the default
 * policy at 1.2 to 8 times a token's experts: within 0.04 for four of them; the
 * fifth picks 8 of only 64 and has 0.17 fewer. */
static double typical_hits(double f)
{
    return 1.0 - pow(1.0 - sqrt(f), 2.2);
}

int64_t plan_process(const struct sluice *s)
{
    int64_t bytes = s->program + s->o.held_bytes + PROCESS_RESERVE + model_description_bytes(s->model);
    if (s->text)
        bytes += text_bytes(s->text);
    if (s->o.timeline)
        bytes += TIMELINE_BYTES;
    return bytes + (s->dev ? (int64_t)device_threads(s->dev) * thread_reserve() : 0);
}

/* A floor that is printed is good for the next run too, in which the program's
 * own size may have wavered. */
static void set_floor(struct sluice *s, int64_t least)
{
    enum { WAVERS = 512 << 10, ROUND = 64 << 10 };
    s->plan.floor = (int64_t)align_up((size_t)(least + (s->program_measured ? WAVERS : 0)), ROUND);
}

/* Text that is longer fits neither the context nor, with what it takes to encode it,
 * the budget. NFC may take three quarters of a text away. */
static void set_text_most(struct sluice *s, int64_t least)
{
    enum { BYTES_FOR_BYTE = 8, SHRINKS = 4, LEAST_BYTES = 16 /* of a token: ids are text too */ };
    sluice_plan *p = &s->plan;
    p->text_most = SLUICE_TEXT_FREE + MAX(p->budget - least, (int64_t)0) / BYTES_FOR_BYTE;
    int64_t token = MAX(text_longest(s->text), (int64_t)LEAST_BYTES) * SHRINKS;
    if (s->o.tokenizer_only) /* nothing else ends a text that never ends */
        p->text_most = MIN(p->text_most, (int64_t)256 << 20);
    else
        p->text_most = MIN(p->text_most, MAX(p->n_context * token, (int64_t)SLUICE_TEXT_FREE));
}

static void begin(struct sluice *s, const struct budget *b)
{
    sluice_plan *p = &s->plan;
    p->machine_total = b->m.total;
    p->machine_available = b->m.available;
    p->cgroup_limit = b->m.cgroup_limit;
    p->budget_is_default = s->o.memory_bytes == 0;
    p->budget = b->budget;
    p->budget_asked = (int64_t)MIN(s->o.memory_bytes, (uint64_t)INT64_MAX / 2);
    p->process = plan_process(s);
    p->expert_bytes_per_token = s->shape.expert_bytes_per_token;
    p->dense_bytes_per_token = s->shape.dense_bytes_per_token;
    p->packed = s->shape.packed;
    p->recorded_hit_rate = -1;
}

static int plan_tokenizer(struct sluice *s, const struct budget *b, struct err *e)
{
    /* lists of the vocabulary's strings while it is opened */
    int64_t least = s->plan.process + 2 * (int64_t)sizeof(struct str) * text_n_tokens(s->text);
    set_floor(s, least);
    set_text_most(s, least);
    return least > MIN(s->plan.budget, b->now) ? refuse(s, b, 0, e) : OK;
}

int plan_make(struct sluice *s, struct err *e)
{
    sluice_plan *p = &s->plan;
    struct budget b;
    budget_find((int64_t)MIN(s->o.memory_bytes, (uint64_t)INT64_MAX / 2), &b);
    begin(s, &b);
    if (s->o.tokenizer_only)
        return plan_tokenizer(s, &b, e);
    s->mo.kv_f16 = !s->o.exact && !s->o.kv_f32;
    s->mo.lookahead = s->o.lookahead;

    int64_t wanted = s->o.context > 0 ? s->o.context : s->shape.n_context_train;
    int64_t smallest = s->o.context > 0 ? wanted : MIN(wanted, (int64_t)SMALLEST_CONTEXT);
    s->mo.dense_bytes = 0;
    s->base_chunk = s->o.chunk > 0 ? s->o.chunk : BASE_CHUNK;
    measure(s, s->base_chunk, wanted);
    int64_t least = without_kv(p) + kv_bytes(s, smallest);
    set_floor(s, least);
    p->kv = kv_bytes(s, 1);
    p->cache = p->cache_min;
    p->n_context = (int)smallest;
    if (least > MIN(p->budget, b.now))
        return refuse(s, &b, smallest, e);
    choose_dense(s, MIN(p->budget, b.now), wanted, smallest);
    s->mo.context = affordable_context(s, wanted);
    p->n_context = (int)s->mo.context;
    p->cache = MIN(p->cache_full, p->budget - (without_kv(p) - p->cache_min) - p->kv);
    p->hit_rate = p->cache_full ? (double)p->cache / (double)p->cache_full : 0.0;
    p->typical_hit_rate = typical_hits(p->hit_rate);
    set_text_most(s, least);
    allow_chunks(s);
    return OK;
}

int plan_replay(struct sluice *s, struct err *e)
{
    const sluice_routing *r = s->o.routing;
    if (!r)
        return OK;
    if (!r->experts || r->n_tokens < 1)
        return err_set(e, E_ARG, "the recorded routing has no tokens");
    if (r->n_layers != s->shape.n_layers || r->n_used != s->shape.n_used)
        return err_set(e, E_ARG, "the recorded routing has %d layers with %d picks, the model %d with %d; was it recorded with another model?",
                       r->n_layers, r->n_used, s->shape.n_layers, s->shape.n_used);
    return model_replay(s->model, s->plan.cache, s->o.policy, r->experts, r->n_tokens, &s->plan.recorded_hit_rate, e);
}

double sluice_predict(const sluice_probe_result *probe, double read_bytes)
{
    /* While the output matrix is computed nothing can be read: it says which
     * token comes next. Otherwise reads and computing overlap, but a layer's
     * reads are known for sure only when its router has spoken: layers with many
     * misses wait for the drive, those with none leave it idle. Where one of the
     * two is much longer it alone counts; where they are equal it takes about one
     * and a half times as long. So does the long side of a right angle. Computing
     * takes about a fifth longer beside reads than alone (docs/performance.md). */
    const double beside = 0.2;
    double drive = read_bytes / (probe->drive_gbs * 1e9), layers = probe->token_s - probe->output_s;
    return 1.0 / (probe->output_s + hypot(drive, layers + beside * MIN(drive, layers)));
}

/* Packed, the experts' bytes come at another rate; dense weights do not change. */
static double pack_gain(const sluice_probe_result *r, const sluice_plan *p)
{
    double experts = (1.0 - p->hit_rate) * (double)p->expert_bytes_per_token;
    if (p->packed || r->drive_gbs_packed <= 0)
        return 1.0;
    experts *= r->drive_gbs / r->drive_gbs_packed;
    return MAX(1.0, sluice_predict(r, experts + (double)p->dense_read_per_token) / p->decode_tps);
}

void plan_predict(const sluice_probe_result *probe, sluice_plan *p)
{
    double experts = (double)p->expert_bytes_per_token, dense = (double)p->dense_read_per_token;
    sluice_probe_result r = *probe;
    p->drive_gbs = r.drive_gbs;
    p->memory_gbs = r.memory_gbs;
    if (r.drive_gbs <= 0 || (r.token_s <= 0 && r.dot_gbs <= 0))
        return; /* the budget had no room to measure */
    if (r.token_s <= 0)
        r.token_s = (experts + (double)p->dense_bytes_per_token) / (r.dot_gbs * 1e9);
    p->compute_s = r.token_s;
    p->decode_tps = sluice_predict(&r, (1.0 - p->hit_rate) * experts + dense);
    p->typical_tps = sluice_predict(&r, (1.0 - p->typical_hit_rate) * experts + dense);
    if (p->recorded_hit_rate >= 0)
        p->recorded_tps = sluice_predict(&r, (1.0 - p->recorded_hit_rate) * experts + dense);
    p->limited_by_drive = ((1.0 - p->hit_rate) * experts + dense) / (r.drive_gbs * 1e9) > r.token_s;
    p->pack_gain = pack_gain(&r, p);
}

/* ---- the budget while running ------------------------------------------ */

/* What the budget leaves for the expert cache. */
static int64_t budget_room(const struct sluice *s)
{
    const sluice_plan *p = &s->plan;
    return p->budget - p->process - p->dense - p->state - p->scratch - s->kv_in_use;
}

int64_t plan_left(const struct sluice *s)
{
    return budget_room(s) - s->plan.cache_min;
}

int plan_take(struct sluice *s, int64_t bytes, struct err *e)
{
    int64_t room = budget_room(s) - bytes;
    if (room < (s->o.tokenizer_only ? 0 : s->plan.cache_min))
        return err_set(e, E_STATE,
                       "the memory budget is used up: a session needs %lld more bytes and the expert cache is at its smallest; raise --memory",
                       (long long)bytes);
    account_look(s);
    /* While memory is short, what is taken comes from the cache in any case. */
    if (s->pressure_cap != INT64_MAX)
        s->pressure_cap -= bytes;
    room = MAX(MIN(room, s->pressure_cap), s->plan.cache_min);
    struct expert_cache *c = model_experts(s->model);
    if (c && (int64_t)expert_bytes(c) > room)
        expert_resize(c, (size_t)room);
    s->kv_in_use += bytes;
    return OK;
}

void plan_give(struct sluice *s, int64_t bytes)
{
    s->kv_in_use -= bytes;
    if (s->pressure_cap != INT64_MAX)
        s->pressure_cap += bytes;
    int64_t want = MIN(s->plan.cache_full, MIN(budget_room(s), s->pressure_cap));
    struct expert_cache *c = model_experts(s->model);
    account_look(s);
    if (c && want > (int64_t)expert_bytes(c))
        expert_resize(c, (size_t)want);
}
