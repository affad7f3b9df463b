#include "support/foreign.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct foreign_mem {
    struct dev_mem mem;
    struct dev_mem *inner; /* of the CPU that does the work */
    size_t bytes;
    bool landing;          /* the host sees it */
    struct foreign_mem *next;
};

struct order { /* an operation under way */
    enum {
        PUT,
        GET,
        COPY,
        ZERO,
        GIVE_BACK,
        EMBED,
        PROJECT,
        GATE,
        NORM,
        SCALE,
        HEADS,
        MERGE,
        SPREAD,
        MIX,
        COMPRESS,
        INDEX,
        ATTENTION,
        DELTA,
        ROUTE,
        PREPARE,
        EXPERTS,
        SUM,
        FINITE,
        GUESS_COPY,
        GUESS
    } what;
    struct dev_ptr to, from;
    void *host;  /* of a get */
    size_t bytes;
    void *extra; /* copies of what lay with the host */
    struct dev_mat mat[DEV_PROJECT_MAX];
    int n;
    union {
        struct dev_embed embed;
        struct dev_project project;
        struct dev_gate gate;
        struct dev_norm norm;
        struct dev_scale scale;
        struct dev_heads heads;
        struct dev_merge merge;
        struct dev_spread spread;
        struct dev_mix mix;
        struct dev_compress compress;
        struct dev_index index;
        struct dev_attention attention;
        struct dev_delta delta;
        struct dev_route route;
        struct dev_prepare prepare;
        struct dev_ffn ffn;
        struct dev_sum sum;
        struct dev_finite finite;
        struct dev_guess_copy guess_copy;
        struct dev_guess guess;
    };
    struct order *next;
};

struct foreign {
    struct device dev;
    struct device *cpu;
    struct foreign_mem *all;
    struct order *first, **last;
    dev_mark submitted, done;
    uint64_t seed;
    int64_t most;
    bool measuring;
};

static struct foreign *foreign_of(const struct device *d)
{
    return (struct foreign *)(uintptr_t)d;
}

static void *copy_of(const void *p, size_t bytes)
{
    void *q = malloc(bytes ? bytes : 1);
    if (!q)
        abort();
    if (bytes)
        memcpy(q, p, bytes);
    return q;
}

/* ---- memory ---------------------------------------------------------------- */

static void protect(const struct foreign *f, int how)
{
    for (const struct foreign_mem *m = f->all; m; m = m->next)
        if (!m->landing && mprotect(dev_host(m->inner), m->bytes, how) != 0)
            abort();
}

/* A place of ours in the memory of the CPU. Another device's is a mistake. */
static struct dev_ptr inner(const struct foreign *f, struct dev_ptr p)
{
    if (!p.mem)
        return p;
    if (p.mem->dev != &f->dev) {
        fprintf(stderr, "an operation was given memory of another device\n");
        abort();
    }
    return (struct dev_ptr){((struct foreign_mem *)(void *)p.mem)->inner, p.at};
}

static struct dev_mat inner_mat(const struct foreign *f, const struct dev_mat *w)
{
    struct dev_mat m = *w;
    m.data = inner(f, w->data);
    m.scale = inner(f, w->scale);
    m.bias = inner(f, w->bias);
    return m;
}

static int foreign_alloc(struct device *d, enum dev_use use, size_t bytes, struct dev_mem **out,
                         struct err *e)
{
    struct foreign *f = foreign_of(d);
    struct foreign_mem *m = calloc(1, sizeof(*m));
    if (!m)
        abort();
    bytes = os_whole_pages(bytes);
    if (f->cpu->ops->alloc(f->cpu, use, bytes, &m->inner, e) < 0) {
        free(m);
        return E_NOMEM;
    }
    m->mem.dev = d;
    m->bytes = bytes;
    m->landing = use == DEV_LANDING || use == DEV_LANDING_HUGE;
    m->next = f->all;
    f->all = m;
    if (!m->landing && mprotect(dev_host(m->inner), bytes, PROT_NONE) != 0)
        abort();
    *out = &m->mem;
    return OK;
}

static void run_until(struct foreign *f, dev_mark m);

static void foreign_free(struct dev_mem *mem)
{
    struct foreign *f = foreign_of(mem->dev);
    struct foreign_mem *m = (struct foreign_mem *)(void *)mem, **at = &f->all;
    run_until(f, f->submitted);
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    dev_free(m->inner);
    free(m);
}

static void *foreign_host(struct dev_mem *mem)
{
    struct foreign_mem *m = (struct foreign_mem *)(void *)mem;
    return m->landing ? dev_host(m->inner) : NULL;
}

static void foreign_keep(struct dev_mem *mem)
{
    (void)mem;
}

/* ---- orders ------------------------------------------------------------------ */

static struct order *submit(struct foreign *f, int what)
{
    struct order *o = calloc(1, sizeof(*o));
    if (!o)
        abort();
    o->what = what;
    *f->last = o;
    f->last = &o->next;
    f->submitted++;
    f->most = MAX(f->most, (int64_t)(f->submitted - f->done));
    return o;
}

static void run_memory(struct foreign *f, const struct order *o)
{
    const struct device_ops *ops = f->cpu->ops;
    switch ((int)o->what) {
    case PUT: ops->put(f->cpu, o->to, o->extra, o->bytes); break;
    case GET: ops->get(f->cpu, o->host, o->from, o->bytes); break;
    case COPY: ops->copy(f->cpu, o->to, o->from, o->bytes); break;
    case ZERO: ops->zero(f->cpu, o->to, o->bytes); break;
    case GIVE_BACK: ops->give_back(f->cpu, o->to, o->bytes); break;
    default: abort();
    }
}

static void run_one(struct foreign *f, struct order *o)
{
    const struct device_ops *ops = f->cpu->ops;
    switch ((int)o->what) {
    case EMBED: ops->embed(f->cpu, &o->embed); break;
    case PROJECT: ops->project(f->cpu, &o->project); break;
    case GATE: ops->gate(f->cpu, &o->gate); break;
    case NORM: ops->norm(f->cpu, &o->norm); break;
    case SCALE: ops->scale(f->cpu, &o->scale); break;
    case HEADS: ops->heads(f->cpu, &o->heads); break;
    case MERGE: ops->merge(f->cpu, &o->merge); break;
    case SPREAD: ops->spread(f->cpu, &o->spread); break;
    case MIX: ops->mix(f->cpu, &o->mix); break;
    case COMPRESS: ops->compress(f->cpu, &o->compress); break;
    case INDEX: ops->index(f->cpu, &o->index); break;
    case ATTENTION: ops->attention(f->cpu, &o->attention); break;
    case DELTA: ops->delta(f->cpu, &o->delta); break;
    case ROUTE: ops->route(f->cpu, &o->route); break;
    case PREPARE: ops->prepare(f->cpu, &o->prepare); break;
    case EXPERTS: ops->experts(f->cpu, &o->ffn, o->extra, o->n); break;
    case SUM: ops->sum(f->cpu, &o->sum); break;
    case FINITE: ops->finite(f->cpu, &o->finite); break;
    case GUESS_COPY: ops->guess_copy(f->cpu, &o->guess_copy); break;
    case GUESS: ops->guess(f->cpu, &o->guess); break;
    default: run_memory(f, o);
    }
}

static void run_until(struct foreign *f, dev_mark m)
{
    if (f->done >= m)
        return;
    protect(f, PROT_READ | PROT_WRITE);
    while (f->done < m) {
        struct order *o = f->first;
        run_one(f, o);
        f->first = o->next;
        if (!f->first)
            f->last = &f->first;
        f->done++;
        free(o->extra);
        free(o);
    }
    protect(f, PROT_NONE);
}

static dev_mark foreign_mark(struct device *d)
{
    return foreign_of(d)->submitted;
}

/* Asking lets a random part of the work happen. */
static bool foreign_passed(struct device *d, dev_mark m)
{
    struct foreign *f = foreign_of(d);
    f->seed = f->seed * 6364136223846793005u + 1442695040888963407u;
    if (f->submitted > f->done && f->seed >> 62 == 0)
        run_until(f, f->done + (f->seed >> 33) % (f->submitted - f->done) + 1);
    return f->done >= m;
}

static int foreign_wait(struct device *d, dev_mark m, struct err *e)
{
    (void)e;
    run_until(foreign_of(d), m);
    return OK;
}

/* ---- operations ------------------------------------------------------------------ */

/* While sizes are measured nothing is put off: the CPU notes them. */
static bool at_once(struct foreign *f, struct order *o)
{
    if (!f->measuring)
        return false;
    run_one(f, o);
    f->first = NULL;
    f->last = &f->first;
    f->submitted--;
    free(o->extra);
    free(o);
    return true;
}

static void foreign_put(struct device *d, struct dev_ptr to, const void *from, size_t bytes)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, PUT);
    o->to = inner(f, to);
    o->extra = copy_of(from, bytes);
    o->bytes = bytes;
    at_once(f, o);
}

static void foreign_get(struct device *d, void *to, struct dev_ptr from, size_t bytes)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, GET);
    o->from = inner(f, from);
    o->host = to;
    o->bytes = bytes;
    if (!f->measuring)
        memset(to, 0xa5, bytes); /* what is looked at too early is seen */
    at_once(f, o);
}

static void foreign_copy(struct device *d, struct dev_ptr to, struct dev_ptr from, size_t bytes)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, COPY);
    o->to = inner(f, to);
    o->from = inner(f, from);
    o->bytes = bytes;
    at_once(f, o);
}

static void foreign_zero(struct device *d, struct dev_ptr p, size_t bytes)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, ZERO);
    o->to = inner(f, p);
    o->bytes = bytes;
    at_once(f, o);
}

static void foreign_give_back(struct device *d, struct dev_ptr p, size_t bytes)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, GIVE_BACK);
    o->to = inner(f, p);
    o->bytes = bytes;
    at_once(f, o);
}

static void foreign_embed(struct device *d, const struct dev_embed *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, EMBED);
    o->embed = *a;
    o->mat[0] = inner_mat(f, a->table);
    o->embed.table = &o->mat[0];
    o->embed.ids = o->extra = copy_of(a->ids, (size_t)a->n_tok * sizeof(*a->ids));
    o->embed.x = inner(f, a->x);
    at_once(f, o);
}

static void foreign_project(struct device *d, const struct dev_project *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, PROJECT);
    o->project = *a;
    o->project.x = inner(f, a->x);
    o->project.norm = inner(f, a->norm);
    for (int i = 0; i < a->n_mats; i++) {
        o->mat[i] = inner_mat(f, a->w[i]);
        o->project.w[i] = &o->mat[i];
        o->project.out[i] = inner(f, a->out[i]);
    }
    at_once(f, o);
}

static void foreign_gate(struct device *d, const struct dev_gate *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, GATE);
    o->gate = *a;
    o->gate.g = inner(f, a->g);
    o->gate.u = inner(f, a->u);
    at_once(f, o);
}

static void foreign_norm(struct device *d, const struct dev_norm *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, NORM);
    o->norm = *a;
    o->norm.x = inner(f, a->x);
    o->norm.weight = inner(f, a->weight);
    o->norm.bias = inner(f, a->bias);
    o->norm.out = inner(f, a->out);
    at_once(f, o);
}

static void foreign_scale(struct device *d, const struct dev_scale *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, SCALE);
    o->scale = *a;
    o->scale.x = inner(f, a->x);
    o->scale.by = inner(f, a->by);
    at_once(f, o);
}

static void foreign_heads(struct device *d, const struct dev_heads *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, HEADS);
    o->heads = *a;
    if (a->w) {
        o->mat[0] = inner_mat(f, a->w);
        o->heads.w = &o->mat[0];
    }
    o->heads.x = inner(f, a->x);
    o->heads.out = inner(f, a->out);
    at_once(f, o);
}

static void foreign_merge(struct device *d, const struct dev_merge *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, MERGE);
    o->merge = *a;
    o->merge.streams = inner(f, a->streams);
    o->merge.factors = inner(f, a->factors);
    o->merge.scale = inner(f, a->scale);
    o->merge.base = inner(f, a->base);
    o->merge.x = inner(f, a->x);
    at_once(f, o);
}

static void foreign_spread(struct device *d, const struct dev_spread *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, SPREAD);
    o->spread = *a;
    o->spread.streams = inner(f, a->streams);
    o->spread.factors = inner(f, a->factors);
    o->spread.y = inner(f, a->y);
    at_once(f, o);
}

static void foreign_mix(struct device *d, const struct dev_mix *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, MIX);
    o->mix = *a;
    o->mix.pieces = inner(f, a->pieces);
    o->mix.weight = inner(f, a->weight);
    o->mix.x = inner(f, a->x);
    at_once(f, o);
}

/* The spans' caches, and the spans themselves, which lie with the host. */
static struct dev_kv_span *inner_spans(const struct foreign *f, const struct dev_kv_span *from,
                                       int n)
{
    struct dev_kv_span *spans = copy_of(from, (size_t)n * sizeof(*spans));
    for (int i = 0; i < n; i++) {
        spans[i].k = inner(f, spans[i].k);
        spans[i].v = inner(f, spans[i].v);
    }
    return spans;
}

static void foreign_compress(struct device *d, const struct dev_compress *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, COMPRESS);
    o->compress = *a;
    o->compress.spans = o->extra = inner_spans(f, a->spans, a->n_spans);
    o->mat[0] = inner_mat(f, a->ape);
    o->compress.ape = &o->mat[0];
    o->compress.rope.freq = inner(f, a->rope.freq);
    o->compress.rope.factors = inner(f, a->rope.factors);
    o->compress.values = inner(f, a->values);
    o->compress.scores = inner(f, a->scores);
    o->compress.norm = inner(f, a->norm);
    at_once(f, o);
}

static void foreign_index(struct device *d, const struct dev_index *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, INDEX);
    o->index = *a;
    o->index.spans = o->extra = inner_spans(f, a->spans, a->n_spans);
    o->index.q = inner(f, a->q);
    o->index.k = inner(f, a->k);
    o->index.weights = inner(f, a->weights);
    o->index.norm = inner(f, a->norm);
    o->index.bias = inner(f, a->bias);
    o->index.rope.freq = inner(f, a->rope.freq);
    o->index.rope.factors = inner(f, a->rope.factors);
    o->index.seen = inner(f, a->seen);
    at_once(f, o);
}

static void foreign_attention(struct device *d, const struct dev_attention *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, ATTENTION);
    o->attention = *a;
    o->attention.spans = o->extra = inner_spans(f, a->spans, a->n_spans);
    o->attention.q = inner(f, a->q);
    o->attention.k = inner(f, a->k);
    o->attention.v = inner(f, a->v);
    o->attention.q_norm = inner(f, a->q_norm);
    o->attention.k_norm = inner(f, a->k_norm);
    o->attention.rope.freq = inner(f, a->rope.freq);
    o->attention.rope.factors = inner(f, a->rope.factors);
    o->attention.sinks = inner(f, a->sinks);
    o->attention.gate = inner(f, a->gate);
    o->attention.seen = inner(f, a->seen);
    o->attention.out = inner(f, a->out);
    at_once(f, o);
}

static void foreign_delta(struct device *d, const struct dev_delta *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, DELTA);
    struct dev_delta_span *spans = copy_of(a->spans, (size_t)a->n_spans * sizeof(*spans));
    for (int i = 0; i < a->n_spans; i++) {
        spans[i].conv_state = inner(f, spans[i].conv_state);
        spans[i].S = inner(f, spans[i].S);
    }
    o->delta = *a;
    o->delta.spans = o->extra = spans;
    o->delta.u = inner(f, a->u);
    o->delta.z = inner(f, a->z);
    o->delta.alpha = inner(f, a->alpha);
    o->delta.beta = inner(f, a->beta);
    o->delta.decay = inner(f, a->decay);
    o->delta.dt = inner(f, a->dt);
    o->delta.conv = inner(f, a->conv);
    o->delta.conv_k = inner(f, a->conv_k);
    o->delta.conv_v = inner(f, a->conv_v);
    o->delta.norm = inner(f, a->norm);
    o->delta.out = inner(f, a->out);
    at_once(f, o);
}

static void foreign_route(struct device *d, const struct dev_route *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, ROUTE);
    o->route = *a;
    o->mat[0] = inner_mat(f, a->router);
    o->route.router = &o->mat[0];
    o->route.x = inner(f, a->x);
    o->route.norm = inner(f, a->norm);
    o->route.norm_bias = inner(f, a->norm_bias);
    o->route.router_norm = inner(f, a->router_norm);
    o->route.products = inner(f, a->products);
    o->route.table = inner(f, a->table);
    if (a->ids)
        o->route.ids = o->extra = copy_of(a->ids, (size_t)a->n_tok * sizeof(*a->ids));
    o->route.scores.correction = inner(f, a->scores.correction);
    o->route.shared_gate = inner(f, a->shared_gate);
    o->route.h = inner(f, a->h);
    o->route.input = inner(f, a->input);
    o->route.picks = inner(f, a->picks);
    o->route.weights = inner(f, a->weights);
    o->route.shared_weight = inner(f, a->shared_weight);
    at_once(f, o);
}

static void foreign_prepare(struct device *d, const struct dev_prepare *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, PREPARE);
    o->prepare = *a;
    o->prepare.h = inner(f, a->h);
    o->prepare.input = inner(f, a->input);
    at_once(f, o);
}

static void foreign_experts(struct device *d, const struct dev_ffn *a, const struct dev_expert *x,
                            int n)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, EXPERTS);
    struct dev_expert *copy = copy_of(x, (size_t)n * sizeof(*x));
    for (int i = 0; i < n; i++) {
        copy[i].gate = inner_mat(f, &x[i].gate);
        copy[i].up = inner_mat(f, &x[i].up);
        copy[i].down = inner_mat(f, &x[i].down);
    }
    o->extra = copy;
    o->n = n;
    o->ffn = *a;
    o->ffn.h = inner(f, a->h);
    o->ffn.input = inner(f, a->input);
    o->ffn.input_weights = inner(f, a->input_weights);
    o->ffn.tokens = inner(f, a->tokens);
    o->ffn.places = inner(f, a->places);
    o->ffn.factors = inner(f, a->factors);
    o->ffn.hidden = inner(f, a->hidden);
    o->ffn.y = inner(f, a->y);
    o->ffn.shared_y = inner(f, a->shared_y);
    at_once(f, o);
}

static void foreign_sum(struct device *d, const struct dev_sum *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, SUM);
    o->sum = *a;
    o->sum.y = inner(f, a->y);
    o->sum.picks = inner(f, a->picks);
    o->sum.weights = inner(f, a->weights);
    o->sum.shared_y = inner(f, a->shared_y);
    o->sum.shared_weight = inner(f, a->shared_weight);
    o->sum.out = inner(f, a->out);
    o->sum.x = inner(f, a->x);
    at_once(f, o);
}

static void foreign_finite(struct device *d, const struct dev_finite *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, FINITE);
    o->finite = *a;
    o->finite.x = inner(f, a->x);
    o->finite.faults = inner(f, a->faults);
    at_once(f, o);
}

static void foreign_guess_copy(struct device *d, const struct dev_guess_copy *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, GUESS_COPY);
    o->guess_copy = *a;
    o->mat[0] = inner_mat(f, a->router);
    o->guess_copy.router = &o->mat[0];
    o->guess_copy.norm = inner(f, a->norm);
    o->guess_copy.copy = inner(f, a->copy);
    at_once(f, o);
}

static void foreign_guess(struct device *d, const struct dev_guess *a)
{
    struct foreign *f = foreign_of(d);
    struct order *o = submit(f, GUESS);
    o->guess = *a;
    o->mat[0] = inner_mat(f, a->copy);
    o->guess.copy = &o->mat[0];
    o->guess.scores.correction = inner(f, a->scores.correction);
    o->guess.x = inner(f, a->x);
    o->guess.ids = inner(f, a->ids);
    at_once(f, o);
}

/* ---- what is passed on ---------------------------------------------------------------- */

static const char *foreign_name(const struct device *d)
{
    return foreign_of(d)->cpu->ops->name(foreign_of(d)->cpu);
}

static int foreign_threads(const struct device *d)
{
    return foreign_of(d)->cpu->ops->threads(foreign_of(d)->cpu);
}

static bool foreign_supports(const struct device *d, enum dtype t)
{
    return foreign_of(d)->cpu->ops->supports(foreign_of(d)->cpu, t);
}

static void foreign_set_turn(struct device *d, device_turn_fn *fn, void *user)
{
    foreign_of(d)->cpu->ops->set_turn(foreign_of(d)->cpu, fn, user);
}

static void foreign_measure(struct device *d)
{
    struct foreign *f = foreign_of(d);
    run_until(f, f->submitted);
    f->measuring = true;
    f->cpu->ops->measure(f->cpu);
}

static void foreign_measured(struct device *d, int64_t *fixed, int64_t *per_position)
{
    foreign_of(d)->measuring = false;
    foreign_of(d)->cpu->ops->measured(foreign_of(d)->cpu, fixed, per_position);
}

static int foreign_reserve(struct device *d, int64_t max_positions, struct err *e)
{
    return foreign_of(d)->cpu->ops->reserve(foreign_of(d)->cpu, max_positions, e);
}

static void foreign_trim(struct device *d)
{
    run_until(foreign_of(d), foreign_of(d)->submitted);
    foreign_of(d)->cpu->ops->trim(foreign_of(d)->cpu);
}

static size_t foreign_input_bytes(const struct device *d, int64_t n_tok, int64_t n_embd)
{
    return foreign_of(d)->cpu->ops->input_bytes(foreign_of(d)->cpu, n_tok, n_embd);
}

static size_t foreign_guess_bytes(const struct device *d, int64_t n_experts, int64_t n_embd)
{
    return foreign_of(d)->cpu->ops->guess_bytes(foreign_of(d)->cpu, n_experts, n_embd);
}

static void foreign_set_trace(struct device *d, struct trace *t)
{
    foreign_of(d)->cpu->ops->set_trace(foreign_of(d)->cpu, t);
}

static void foreign_label(struct device *d, const struct trace_kind *k, int64_t layer)
{
    foreign_of(d)->cpu->ops->label(foreign_of(d)->cpu, k, layer);
}

static int64_t foreign_probe_memory(struct device *d, const void *buf, size_t bytes, bool dot)
{
    return foreign_of(d)->cpu->ops->probe_memory(foreign_of(d)->cpu, buf, bytes, dot);
}

static void foreign_close(struct device *d)
{
    struct foreign *f = foreign_of(d);
    run_until(f, f->submitted);
    if (f->all) {
        fprintf(stderr, "a device was closed before its memory was freed\n");
        abort();
    }
    device_close(f->cpu);
    free(f);
}

int64_t foreign_n_delayed(const struct device *d)
{
    return (int64_t)foreign_of(d)->done;
}

int64_t foreign_most_delayed(const struct device *d)
{
    return foreign_of(d)->most;
}

static const struct device_ops foreign_ops = {
    .name = foreign_name,
    .threads = foreign_threads,
    .close = foreign_close,
    .supports = foreign_supports,
    .alloc = foreign_alloc,
    .free = foreign_free,
    .host = foreign_host,
    .keep = foreign_keep,
    .put = foreign_put,
    .get = foreign_get,
    .copy = foreign_copy,
    .zero = foreign_zero,
    .give_back = foreign_give_back,
    .mark = foreign_mark,
    .passed = foreign_passed,
    .wait = foreign_wait,
    .set_turn = foreign_set_turn,
    .measure = foreign_measure,
    .measured = foreign_measured,
    .reserve = foreign_reserve,
    .trim = foreign_trim,
    .input_bytes = foreign_input_bytes,
    .guess_bytes = foreign_guess_bytes,
    .embed = foreign_embed,
    .project = foreign_project,
    .gate = foreign_gate, .norm = foreign_norm, .scale = foreign_scale, .heads = foreign_heads,
    .merge = foreign_merge, .spread = foreign_spread, .mix = foreign_mix,
    .compress = foreign_compress, .index = foreign_index,
    .attention = foreign_attention,
    .delta = foreign_delta,
    .route = foreign_route, .prepare = foreign_prepare,
    .experts = foreign_experts, .sum = foreign_sum,
    .finite = foreign_finite,
    .guess_copy = foreign_guess_copy,
    .guess = foreign_guess,
    .set_trace = foreign_set_trace,
    .label = foreign_label,
    .probe_memory = foreign_probe_memory,
};

int foreign_open(const struct device_config *c, uint64_t seed, struct device **out, struct err *e)
{
    struct foreign *f = calloc(1, sizeof(*f));
    if (!f)
        abort();
    f->dev.ops = &foreign_ops;
    f->last = &f->first;
    f->seed = seed;
    if (device_cpu_open(c, &f->cpu, e) < 0) {
        free(f);
        return E_UNSUPPORTED;
    }
    *out = &f->dev;
    return OK;
}
