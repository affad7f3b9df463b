/*
 * Mixture of experts, as an ffn: routing, reads, experts, sum.
 *
 * The picks come to the host, and reads of all picked experts start at once.
 * Few tokens (few.c): whatever has arrived is computed together, in any order.
 * Many (many.c): each picked expert is read once, in ascending id, with a
 * window of reads running ahead of the computation. Which of the two is a
 * question of size, and of speed only: the bits are the same.
 *
 * The experts may be on another device than everything else. Then the normed
 * input goes there through the host, and their sum comes back.
 */
#include "model/model_internal.h"

#include <math.h>

#define AT(field) offsetof(struct layer, experts.field)
static const struct weight_row rows[] = {
    {.name = "ffn_gate_up_exps.weight", EXPERTS, DIM_EXPERT_EMBD, DIM_EXPERT_PAIR, AT(gate_up), 0,
     IF_THERE},
    {.name = "ffn_gate_exps.weight", EXPERTS, DIM_EXPERT_EMBD, DIM_EXPERT, AT(gate), 0, 0,
     "ffn_gate_up_exps.weight"},
    {.name = "ffn_up_exps.weight", EXPERTS, DIM_EXPERT_EMBD, DIM_EXPERT, AT(up), 0, 0,
     "ffn_gate_up_exps.weight"},
    {.name = "ffn_gate_up_exps.bias", EXPERT_FLOATS, DIM_EXPERT_PAIR, DIM_1, AT(gate_up.bias),
     HAS_EXPERT_BIAS, IF_THERE},
    {.name = "ffn_gate_exps.bias", EXPERT_FLOATS, DIM_EXPERT, DIM_1, AT(gate.bias),
     HAS_EXPERT_BIAS, 0, "ffn_gate_up_exps.weight"},
    {.name = "ffn_up_exps.bias", EXPERT_FLOATS, DIM_EXPERT, DIM_1, AT(up.bias), HAS_EXPERT_BIAS, 0,
     "ffn_gate_up_exps.weight"},
    {.name = "ffn_down_exps.weight", EXPERTS, DIM_EXPERT, DIM_EXPERT_EMBD, AT(down)},
    {.name = "ffn_down_exps.bias", EXPERT_FLOATS, DIM_EXPERT_EMBD, DIM_1, AT(down.bias),
     HAS_EXPERT_BIAS},
    {.name = "ffn_gate_inp.weight", MATRIX, DIM_EMBD, DIM_EXPERTS, AT(router),
     .lacks = HAS_BESIDE},
    {.name = "ffn_gate_inp.weight", MATRIX, DIM_EMBD, DIM_EXPERTS, AT(router), HAS_BESIDE,
     NO_SCALE},
    {.name = "ffn_gate_inp.scale", FLOATS, DIM_EMBD, DIM_1, AT(router_norm), HAS_BESIDE},
    {.name = "ffn_gate_inp.bias", FLOATS, DIM_EXPERTS, DIM_1, AT(router.bias), HAS_ROUTER_BIAS},
    {.name = "ffn_gate_tid2eid.weight", IDS, DIM_USED, DIM_VOCAB, AT(table), HAS_TABLES, IF_THERE},
    {.name = "exp_probs_b.bias", FLOATS, DIM_EXPERTS, DIM_1, AT(scores.correction),
     HAS_CORRECTION, 0, "ffn_gate_tid2eid.weight"},
    {.name = "ffn_gate_inp_shexp.weight", FLOATS, DIM_EMBD, DIM_1, AT(shared_gate),
     HAS_SHARED_GATE},
    {.name = "ffn_gate_shexp.weight", MATRIX, DIM_EMBD, DIM_SHARED, AT(shared_gate_mat),
     HAS_SHARED_EXPERT, FLOAT_INPUT, .lacks = HAS_LATENT_EXPERTS},
    {.name = "ffn_up_shexp.weight", MATRIX, DIM_EMBD, DIM_SHARED, AT(shared_up), HAS_SHARED_EXPERT,
     FLOAT_INPUT, .lacks = HAS_LATENT_EXPERTS},
    {.name = "ffn_down_shexp.weight", MATRIX, DIM_SHARED, DIM_EMBD, AT(shared_down),
     HAS_SHARED_EXPERT, .lacks = HAS_LATENT_EXPERTS},
};
#undef AT

static void bind(struct layer *l, const struct config *c, int layer)
{
    const struct layer_config *n = &c->layer[layer];
    l->experts = (struct experts){
        .n_experts = c->n_experts, .n_used = c->n_used, .n_embd = c->expert_embd,
        .width = MAX(c->expert_width, c->shared_width),
        .scores = {.scoring = c->scoring, .n_groups = c->n_groups, .groups_used = c->groups_used},
        .renormalise = c->renormalise, .weights_scale = c->weights_scale,
        .limit = n->limit, .shared_limit = n->shared_limit,
        .early = config_has(c, HAS_EARLY_ROUTER), .weighted = config_has(c, HAS_WEIGHTED_INPUT),
        .shared_gated = config_has(c, HAS_SHARED_GATE)};
}

static int64_t scratch(const struct layer *l)
{
    (void)l;
    return 0;
}

/* ---- arguments --------------------------------------------------------------- */

static size_t matrix_bytes(const struct dev_mat *w)
{
    return (size_t)w->n_out * dtype_row_bytes(w->type, w->n_in);
}

/* The matrices of one expert, whose places are known: gate and up in one are rows
 * [0, width) and the rest. */
static struct dev_expert one_expert(const struct experts *x)
{
    struct dev_expert e = {.gate = x->gate, .up = x->up, .down = x->down, .n_rows = 1};
    if (x->gate_up.n_out == 0)
        return e;
    e.gate = e.up = x->gate_up;
    e.gate.n_out = e.up.n_out = x->gate_up.n_out / 2;
    e.up.data.at += matrix_bytes(&e.gate);
    e.up.bias.at += (size_t)e.gate.n_out * sizeof(float);
    return e;
}

/* The factor of an expert, of those of all of a layer's gates, ups or downs: w's scale,
 * or where send_scales brought them. */
static void place_scale(const struct model *m, struct dev_mat *w, int of, int32_t expert)
{
    struct dev_ptr all = w->scale;
    if (all.mem && m->dev != m->expert_dev)
        all = behind_floats(m->scratch.x_dev.scales, of * m->c.n_experts);
    if (all.mem)
        w->scale = behind_floats(all, expert);
}

static bool has_shared(const struct layer *l)
{
    return l->experts.shared_down.n_out > 0;
}

struct dev_expert experts_leased(const struct model *m, const struct layer *l,
                                 const struct expert_lease *lease)
{
    struct experts x = l->experts;
    const uint8_t *slots = dev_host(m->slots_mem);
    for (int i = 0; i < l->matrices.n; i++) {
        const uint8_t *part = expert_data(m->cache, lease, i);
        struct dev_ptr *at = (struct dev_ptr *)(void *)((char *)&x + x.part_at[i]);
        *at = (struct dev_ptr){m->slots_mem, (size_t)(part - slots)};
    }
    struct dev_expert e = one_expert(&x);
    place_scale(m, &e.gate, 0, lease->expert);
    place_scale(m, &e.up, 1, lease->expert);
    place_scale(m, &e.down, 2, lease->expert);
    return e;
}

struct dev_expert experts_shared(const struct layer *l, int64_t n_tok)
{
    const struct experts *x = &l->experts;
    return (struct dev_expert){
        .gate = x->shared_gate_mat, .up = x->shared_up, .down = x->shared_down,
        .n_rows = n_tok, .shared = true};
}

struct dev_ffn experts_args(const struct step *s, const struct layer *l, bool many)
{
    const struct scratch *t = &s->m->scratch;
    return (struct dev_ffn){
        .n_tok = s->n_tok, .n_embd = l->experts.n_embd, .n_used = l->experts.n_used, .many = many,
        .act = s->m->c.family->act, .limit = l->experts.limit, .cap = s->m->c.up_cap,
        .shared_limit = l->experts.shared_limit,
        .h = t->x_dev.h, .input = t->x_dev.input, .tokens = t->x_dev.tokens,
        .input_weights = l->experts.weighted ? t->x_dev.weights : DEV_NONE,
        .places = t->x_dev.places, .factors = t->x_dev.factors, .hidden = t->x_dev.hidden,
        .hidden_width = l->experts.width, .y = t->x_dev.y,
        .shared_y = s->m->dev == s->m->expert_dev ? t->shared_y : DEV_NONE};
}

static struct dev_route route_args(const struct step *s, const struct layer *l)
{
    const struct scratch *t = &s->m->scratch;
    return (struct dev_route){
        .x = t->x, .n_tok = s->n_tok, .n_embd = s->m->c.n_embd,
        .norm = l->beside.norm.mem ? l->beside.norm : l->ffn_norm,
        .norm_bias = l->ffn_norm_bias,
        .router_norm = l->experts.router_norm.mem ? t->branch : DEV_NONE,
        .eps = s->m->c.eps, .router = &l->experts.router, .scores = l->experts.scores,
        .products = l->experts.early ? t->products : DEV_NONE,
        .table = l->experts.table, .ids = l->experts.table.mem ? t->host_ids : NULL,
        .n_used = l->experts.n_used, .renormalise = l->experts.renormalise,
        .scale = l->experts.weights_scale,
        .shared_gate = l->experts.shared_gated ? l->experts.shared_gate : DEV_NONE, .h = t->h,
        .input = t->input, .picks = t->picks, .weights = t->weights,
        .shared_weight = t->shared_weight};
}

/* A router with a norm of its own sees 1 / sqrt(n_embd) of what that makes; so much of
 * the norm is put where `route_args` looks for it. */
static void route(struct step *s, const struct layer *l)
{
    struct model *m = s->m;
    const int64_t n = m->c.n_embd;
    const struct dev_route a = route_args(s, l);
    work_label(m, WORK_ROUTER);
    if (a.router_norm.mem) {
        m->dev->ops->copy(m->dev, a.router_norm, l->experts.router_norm,
                          (size_t)n * sizeof(float));
        scale_floats(m, a.router_norm, n, 1.0f / sqrtf((float)n));
    }
    m->dev->ops->route(m->dev, &a);
}

/* What experts that read a short vector read of h. */
static void shorten(struct step *s, const struct layer *l)
{
    struct model *m = s->m;
    const struct scratch *t = &m->scratch;
    if (!config_has(&m->c, HAS_LATENT_EXPERTS))
        return;
    step_project(s, t->h, m->c.n_embd, DEV_NONE, 1,
                 (const struct dev_mat *[]){&l->latent_experts.down}, &t->short_h);
    if (m->dev == m->expert_dev)
        m->dev->ops->prepare(m->dev, &(struct dev_prepare){
            .h = t->short_h, .input = t->input, .n_tok = s->n_tok, .n_embd = l->experts.n_embd});
}

static struct dev_sum sum_args(const struct step *s, const struct layer *l, bool many)
{
    const struct scratch *t = &s->m->scratch;
    const bool apart = step_branches(s) || l->ffn->bring_back;
    int64_t width;
    return (struct dev_sum){
        .n_tok = s->n_tok, .n_embd = l->experts.n_embd, .n_used = l->experts.n_used, .many = many,
        .y = t->x_dev.y, .picks = t->picks,
        .weights = l->experts.weighted ? DEV_NONE : t->weights,
        .shared_y = has_shared(l) ? t->shared_y : DEV_NONE,
        .shared_weight = l->experts.shared_gated ? t->shared_weight : DEV_NONE,
        .out = t->x_dev.out, .x = apart ? DEV_NONE : step_stream(s, &width),
        .scale = s->m->c.residual_scale};
}

/* The sum goes back where it was not added by itself; many: it lies in y. */
static void bring_back(struct step *s, const struct layer *l, const struct dev_sum *sum)
{
    const struct dev_ptr from = sum->many ? sum->y : sum->out;
    if (l->ffn->bring_back)
        l->ffn->bring_back(s, l, from);
    else if (step_branches(s))
        step_branch_back(s, from, l->ffn_post_norm);
}

/* ---- another device ------------------------------------------------------------- */

/* The factors of a layer's experts: its own may be read again for each pass. */
static int send_scales(struct step *s, const struct layer *l, struct err *e)
{
    struct model *m = s->m;
    struct scratch *t = &m->scratch;
    const struct dev_expert all = one_expert(&l->experts);
    const struct dev_mat *of[] = {&all.gate, &all.up, &all.down};
    const size_t bytes = (size_t)m->c.n_experts * sizeof(float);
    for (size_t i = 0; i < ARRAY_LEN(of); i++) {
        if (!of[i]->scale.mem)
            continue;
        TRY(device_bring(m->dev, t->host_floats, of[i]->scale, bytes, e));
        m->expert_dev->ops->put(m->expert_dev, dev_at(t->x_dev.scales, i * bytes), t->host_floats,
                                bytes);
    }
    return OK;
}

/* The normed input, picks and weights go to the device of the experts. */
static int send_input(struct step *s, const struct layer *l, struct err *e)
{
    struct model *m = s->m;
    struct scratch *t = &m->scratch;
    const struct device_ops *ops = m->expert_dev->ops;
    const size_t h_bytes = (size_t)(s->n_tok * l->experts.n_embd) * sizeof(float);
    const size_t picks = (size_t)(s->n_tok * m->c.n_used);
    TRY(device_bring(m->dev, t->host_floats, t->short_h, h_bytes, e));
    TRY(device_bring(m->dev, t->host_weights, t->weights, picks * sizeof(float), e));
    ops->put(m->expert_dev, t->x_dev.h, t->host_floats, h_bytes);
    ops->put(m->expert_dev, t->x_dev.picks, t->host_picks, picks * sizeof(int32_t));
    ops->put(m->expert_dev, t->x_dev.weights, t->host_weights, picks * sizeof(float));
    ops->prepare(m->expert_dev, &(struct dev_prepare){.h = t->x_dev.h, .input = t->x_dev.input,
                                                      .n_tok = s->n_tok,
                                                      .n_embd = l->experts.n_embd});
    return send_scales(s, l, e);
}

/* The shared expert is computed where everything else is. */
static void shared_apart(struct step *s, const struct layer *l, bool many)
{
    struct model *m = s->m;
    struct scratch *t = &m->scratch;
    struct dev_expert x = experts_shared(l, s->n_tok);
    struct dev_ffn a = experts_args(s, l, many);
    a.h = t->h;
    a.input = t->input;
    a.hidden = t->hidden;
    a.shared_y = t->shared_y;
    a.tokens = a.places = a.factors = a.y = a.input_weights = DEV_NONE; /* the other device's */
    m->dev->ops->experts(m->dev, &a, &x, 1);
}

/* The experts' sum comes back: it was summed as on one device, so that the bits are the same. */
static int sum_apart(struct step *s, const struct layer *l, bool many, struct err *e)
{
    struct model *m = s->m;
    struct scratch *t = &m->scratch;
    const size_t bytes = (size_t)(s->n_tok * l->experts.n_embd) * sizeof(float);
    struct dev_sum a = sum_args(s, l, many), b = sum_args(s, l, true);
    a.picks = t->x_dev.picks;
    a.weights = l->experts.weighted ? DEV_NONE : t->x_dev.weights;
    a.shared_y = a.shared_weight = a.x = DEV_NONE;
    m->expert_dev->ops->sum(m->expert_dev, &a);
    TRY(device_bring(m->expert_dev, t->host_floats, many ? t->x_dev.y : t->x_dev.out, bytes, e));
    b.y = t->h; /* no longer needed */
    b.out = DEV_NONE;
    m->dev->ops->put(m->dev, b.y, t->host_floats, bytes);
    m->dev->ops->sum(m->dev, &b);
    bring_back(s, l, &b);
    return OK;
}

/* ---- the block --------------------------------------------------------------------- */

/* A router that comes early sees what the mixer sees. */
static void begin(struct step *s, const struct layer *l)
{
    if (!l->experts.early)
        return;
    work_label(s->m, WORK_ROUTER);
    step_project(s, s->m->scratch.x, s->m->c.n_embd, DEV_NONE, 1,
                 (const struct dev_mat *[]){&l->experts.router}, &s->m->scratch.products);
}

static void tell_route(const struct step *s, int layer, int n_used)
{
    const struct model *m = s->m;
    for (int i = 0; m->route && i < s->n_spans; i++) {
        const struct model_span *x = &s->spans[i];
        if (span_alive(x))
            m->route(m->route_user, layer, x->state->length, x->n, n_used,
                     m->scratch.host_picks + x->first * n_used);
    }
}

int experts_compute(struct step *s, int layer, struct err *e)
{
    struct model *m = s->m;
    struct scratch *t = &m->scratch;
    const struct layer *l = &m->layers[layer];
    const int64_t n_used = l->experts.n_used;
    const size_t picks = (size_t)(s->n_tok * n_used);
    const bool apart = m->dev != m->expert_dev, many = s->n_tok > t->few;
    route(s, l);
    health_look(s, t->weights, n_used, fault_tag(layer, FAULT_ROUTER));
    m->dev->ops->get(m->dev, t->host_picks, t->picks, picks * sizeof(int32_t));
    TRY(health_collect(s, e));
    used_release(m);
    if (!step_alive(s))
        return OK;
    tell_route(s, layer, (int)n_used);
    shorten(s, l);
    if (apart) {
        TRY(send_input(s, l, e));
        if (has_shared(l))
            shared_apart(s, l, many);
    }
    TRY(many ? experts_many(s, layer, e) : experts_few(s, layer, e));
    work_label(m, WORK_SUM);
    if (apart)
        return sum_apart(s, l, many, e);
    const struct dev_sum sum = sum_args(s, l, many);
    m->dev->ops->sum(m->dev, &sum);
    bring_back(s, l, &sum);
    return OK;
}

/* ---- without reading ------------------------------------------------------------------ */

/* The lists say that each pick is a row of its own: expert i has row i. */
static void rehearse_lists(struct step *s, int64_t n_used)
{
    struct model *m = s->m;
    int32_t list[DEV_MAX_USED];
    for (int32_t i = 0; i < n_used; i++)
        list[i] = i;
    const size_t bytes = (size_t)n_used * sizeof(*list);
    m->expert_dev->ops->put(m->expert_dev, m->scratch.x_dev.places, list, bytes);
    for (int64_t i = 0; i < n_used; i++)
        list[i] = 0;
    m->expert_dev->ops->put(m->expert_dev, m->scratch.x_dev.tokens, list, bytes);
}

void experts_rehearse(struct step *s, struct layer *l,
                      struct dev_ptr (*next)(void *user, size_t bytes), void *user)
{
    struct model *m = s->m;
    const bool many = s->n_tok > m->scratch.few;
    const struct dev_ffn a = experts_args(s, l, many);
    const struct dev_sum sum = sum_args(s, l, many);
    struct dev_expert batch[DEV_MAX_USED + 1];
    int n = (int)l->experts.n_used;
    route(s, l);
    shorten(s, l);
    if (l->ffn->meanwhile)
        l->ffn->meanwhile(s, l);
    rehearse_lists(s, n);
    for (int i = 0; i < n; i++) {
        struct experts x = l->experts;
        for (int p = 0; p < l->matrices.n; p++)
            *(struct dev_ptr *)(void *)((char *)&x + x.part_at[p]) =
                next(user, m->experts[l - m->layers].part[p].bytes);
        batch[i] = one_expert(&x);
        batch[i].first_row = i;
    }
    if (has_shared(l))
        batch[n++] = experts_shared(l, s->n_tok);
    m->expert_dev->ops->experts(m->expert_dev, &a, batch, n);
    m->dev->ops->sum(m->dev, &sum);
    bring_back(s, l, &sum);
}

const struct trace_kind experts_trace = {"expert layer", "layer", {"layer"}};

const struct ffn_form experts_form = {
    .name = "experts", .rows = rows, .n_rows = ARRAY_LEN(rows), .trace = &experts_trace,
    .bind = bind, .scratch = scratch, .begin = begin, .compute = experts_compute,
    .rehearse = experts_rehearse,
};
