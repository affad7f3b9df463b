/*
 * The memory plan as a function: planned for models that do not exist, without a
 * file, a device or a look at this machine.
 */
#include "engine/plan.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MIB ((int64_t)1 << 20)

/* ---- a model of numbers --------------------------------------------------- */

struct shape {
    int64_t layer, n_layers, embed; /* dense bytes */
    int64_t fixed, token;           /* scratch */
    int64_t kv, state;
    int64_t cache_min, cache_full;
    bool absurd;
    struct plan_needs says; /* then, whatever is chosen */
};

/* Of dense weights two layers must stay; further ones do as room allows, and the embedding
 * table last. */
static void needs(const void *model, const struct plan_choice *c, struct plan_needs *out)
{
    const struct shape *s = model;
    int64_t stay = s->layer > 0 ? MAX((int64_t)2, MIN(c->dense_bytes / s->layer, s->n_layers)) : 0;
    if (s->absurd) {
        *out = s->says;
        return;
    }
    int64_t dense = s->layer * s->n_layers, full = dense + s->embed;
    *out = (struct plan_needs){
        .dense = c->dense_bytes >= full ? full : stay * s->layer,
        .dense_full = full, .dense_no_embed = dense, .dense_read = (s->n_layers - stay) * s->layer,
        .state = s->state, .scratch = s->fixed + s->token * c->chunk, .kv_per_token = s->kv,
        .cache_min = s->cache_min, .cache_full = s->cache_full};
}

static int64_t kv(const void *model, int64_t n)
{
    const struct shape *s = model;
    return s->kv > INT64_MAX >> 32 ? s->kv : s->kv * ((n + 255) / 256 * 256);
}

static const struct shape shapes[] = {
    {.layer = 3 * MIB + 4096, .n_layers = 12, .embed = 40 * MIB, .fixed = MIB, .token = 50000,
     .kv = 2048, .state = 2 * MIB, .cache_min = 4 * MIB, .cache_full = 900 * MIB},
    {.layer = 300000, .n_layers = 2, .embed = 100, .fixed = 70000, .token = 9000, .kv = 100,
     .cache_min = 100000, .cache_full = 300000},
    {.layer = 90 * MIB, .n_layers = 60, .embed = 600 * MIB, .fixed = 9 * MIB, .token = 400000,
     .kv = 100000, .state = 200 * MIB, .cache_min = 64 * MIB, .cache_full = 200000 * MIB},
    /* no experts at all, and no context to speak of */
    {.layer = 5 * MIB, .n_layers = 8, .embed = MIB, .fixed = 100000, .token = 3000},
};

static struct plan_inputs inputs(const struct shape *s, int64_t budget)
{
    return (struct plan_inputs){
        .limits = {.m = {.total = 64 << 20, .available = 32 << 20, .cgroup_limit = INT64_MAX,
                         .cgroup_least = INT64_MAX, .rlimit_left = INT64_MAX},
                   .asked = budget, .budget = budget, .now = budget, .source = LIMIT_ASKED},
        .process = 9 * MIB + 123, .n_tokens = 50000, .longest_token = 100, .n_vocab = 50000,
        .n_context_train = 100000, .most_logits_rows = 16, .expert_bytes_per_token = 7 * MIB,
        .dense_bytes_per_token = 30 * MIB, .session_token_bytes = 44,
        .model = s, .needs = needs, .kv = kv};
}

static int64_t floor_of(struct plan_inputs in)
{
    struct plan p;
    struct err e = {0};
    in.limits.budget = in.limits.now = 1;
    assert_int_equal(plan_make(&in, &p, &e), E_BUDGET);
    return p.memory.floor;
}

static void set_budget(struct plan_inputs *in, int64_t budget)
{
    in->limits.asked = in->limits.budget = in->limits.now = budget;
}

/* ---- limits ---------------------------------------------------------------- */

/* The numbers of the sentence about a control group give the budget, to what
 * printing rounds away. */
static void a_cgroup_s_sentence_adds_up(void **state)
{
    (void)state;
    static const struct {
        int64_t used, own, least;
    } cases[] = {
        {52 * MIB, 6 * MIB, 64 * MIB}, /* another program holds 46 MiB */
        {6 * MIB, 6 * MIB, 64 * MIB},  /* nobody else holds anything, */
        {5 * MIB, 6 * MIB, 64 * MIB},  /* or pages of this process are charged elsewhere */
        {63 * MIB, 3 * MIB, 64 * MIB}, /* others hold more than an eighth leaves */
        {0, 0, 16 * MIB},              /* a smaller limit above is the nearest */
        {30 * MIB, 1 * MIB, 60 * MIB},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct os_memory m = {.total = 9000 * MIB, .available = 8000 * MIB,
                              .cgroup_limit = 64 * MIB, .cgroup_used = cases[i].used,
                              .cgroup_least = cases[i].least, .rlimit_left = INT64_MAX};
        struct limits l;
        char text[160];
        limits_of(0, &m, cases[i].own, &l);
        limits_tell(&l, text, sizeof(text));
        double limit = 0, others = 0, budget = (double)MIN(l.budget, l.now) / (double)MIB;
        const char *at = strstr(text, "limit"), *more = strstr(text, "others hold ");
        assert_true(at && l.source == LIMIT_CGROUP);
        if (more)
            others = atof(more + strlen("others hold "));
        assert_int_equal(sscanf(at, "limit %*[^0-9]%lf", &limit), 1);
        double left = limit - others - (strstr(text, "an eighth") ? limit / 8 : 0);
        if (fabs(MAX(left, 0.0) - budget) > (others ? 0.2 : 1.1))
            fail_msg("case %zu: a budget of %.1f MiB for%s", i, budget, text);
        if (!!more != (cases[i].used - cases[i].own > 2 * MIB))
            fail_msg("case %zu: others hold %.1f MiB:%s", i,
                     (double)(cases[i].used - cases[i].own) / (double)MIB, text);
    }
}

/* Under a resource limit the budget is below it, whatever was asked for, and all that
 * is reserved fits: the largest chunk, the whole context and the cache beside each other. */
static void a_resource_limit_covers_what_is_reserved(void **state)
{
    (void)state;
    int n = 0;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
        for (int64_t left = 20 * MIB; left < 400000 * MIB; left = left * 5 / 3)
            for (int k = 0; k < 9; k++) {
                struct plan_inputs in = inputs(&shapes[i], 0);
                struct os_memory m = in.limits.m;
                struct plan_needs needed;
                struct plan p;
                struct err e = {0};
                m.available = m.total = 500000 * MIB;
                m.rlimit_left = left;
                const uint64_t asked[] = {0, (uint64_t)left * 2, (uint64_t)left / 2};
                int64_t most = left + 5 * MIB;
                limits_of(asked[k % 3], &m, 5 * MIB, &in.limits);
                assert_true(in.limits.budget < most);
                assert_true(k % 3 == 2 || in.limits.source == LIMIT_RLIMIT);
                in.chunk = k / 3 == 1 ? 100 : 0;
                in.context = k / 3 == 2 ? 3000 : 0;
                if (plan_make(&in, &p, &e) != OK)
                    continue;
                n++;
                needs(&shapes[i], &p.chosen, &needed);
                int64_t rows = (int64_t)sizeof(float) * in.n_vocab * (p.logits_rows + 2);
                int64_t reserved = needed.dense + needed.state + needed.scratch + rows +
                                   plan_kv_bytes(&in, p.chosen.context) +
                                   (p.few_addresses ? p.memory.cache : p.memory.cache_full);
                assert_true(p.memory.cache >= p.memory.cache_min);
                assert_true(p.memory.process + reserved <= most - most / 8);
            }
    print_message("%d plans\n", n);
    assert_true(n > 50);
}

/* ---- more memory ----------------------------------------------------------- */

/* What a budget allows a larger one allows: the longest session does not get shorter. */
static void more_memory_never_shortens_the_context(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
        for (int trained = 1000; trained <= 1000000; trained *= 10) {
            struct plan_inputs in = inputs(&shapes[i], 0);
            in.n_context_train = trained;
            const int64_t all = shapes[i].layer * shapes[i].n_layers + shapes[i].embed +
                                shapes[i].cache_full + kv(&shapes[i], trained);
            const int64_t most = floor_of(in) + 2 * all, step = MAX(most / 4000, (int64_t)10000);
            int before = 0;
            for (int64_t budget = floor_of(in); budget < most; budget += step) {
                struct plan p;
                struct err e = {0};
                set_budget(&in, budget);
                assert_int_equal(plan_make(&in, &p, &e), OK);
                if (p.memory.n_context < before)
                    fail_msg("shape %zu, %d tokens: %lld bytes give %d, less gave %d", i, trained,
                             (long long)budget, p.memory.n_context, before);
                before = p.memory.n_context;
            }
            assert_int_equal(before, trained);
        }
}

/* ---- the same -------------------------------------------------------------- */

/* All that a plan says, as text. */
static void tell(const struct plan *p, int rc, const struct err *e, char *out, size_t room)
{
    const sluice_memory *m = &p->memory;
    const sluice_traffic *t = &p->traffic;
    const int64_t v[] = {
        m->process, m->dense, m->state, m->kv, m->scratch, m->cache, m->budget, m->budget_asked,
        m->budget_is_default, m->floor, m->missing, m->kv_least, m->cache_min, m->cache_full,
        m->dense_full, m->machine_total, m->machine_available, m->cgroup_limit, m->n_context,
        m->kv_per_token, m->chunk, m->text_most, t->expert_bytes_per_token,
        t->dense_bytes_per_token, t->dense_read_per_token, t->packed, p->chosen.chunk,
        p->chosen.context, p->chosen.dense_bytes, p->base_chunk, p->chunk_token_bytes,
        p->logits_rows};
    size_t n = (size_t)snprintf(out, room, "%d %s %a %a %a", rc, rc < 0 ? e->text : "", t->hit_rate,
                                t->typical_hit_rate, t->recorded_hit_rate);
    for (size_t i = 0; i < ARRAY_LEN(v) && n < room; i++)
        n += (size_t)snprintf(out + n, room - n, " %lld", (long long)v[i]);
    assert_true(n < room);
}

/* Planned twice, once over zeros and once over rubbish, with another plan between. */
static void the_same_inputs_give_the_same_plan(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
        for (int64_t budget = 10 * MIB; budget < 400000 * MIB; budget *= 2) {
            char text[2][2000];
            for (int k = 0; k < 2; k++) {
                struct plan_inputs in = inputs(&shapes[i], budget), before;
                struct plan p, other;
                struct err e = {0};
                memset(&p, k ? 0xa5 : 0, sizeof(p));
                memcpy(&before, &in, sizeof(in));
                int rc = plan_make(&in, &p, &e);
                tell(&p, rc, &e, text[k], sizeof(text[k]));
                assert_memory_equal(&before, &in, sizeof(in));
                struct plan_inputs next = inputs(&shapes[(i + 1) % ARRAY_LEN(shapes)], 90 * MIB);
                next.context = 5000;
                next.chunk = 300;
                (void)plan_make(&next, &other, &e);
            }
            assert_string_equal(text[0], text[1]);
        }
}

/* ---- more ------------------------------------------------------------------- */

/* Dense weights come first, in whole layers: where one more of them stays the cache may
 * be smaller, but never both together, and never at the same dense weights. */
static void more_memory_never_gives_less(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        struct plan_inputs in = inputs(&shapes[i], 0);
        struct plan p, last = {0};
        struct err e = {0};
        int64_t floor = floor_of(in), most = floor + shapes[i].cache_full * 2 + 800 * MIB;
        for (int64_t budget = floor; budget < most; budget += (most - floor) / 3000 + 1) {
            set_budget(&in, budget);
            assert_int_equal(plan_make(&in, &p, &e), OK);
            const sluice_memory *m = &p.memory, *l = &last.memory;
            assert_true(m->dense >= l->dense && m->dense + m->cache >= l->dense + l->cache);
            if (m->dense == l->dense)
                assert_true(m->cache >= l->cache && m->n_context >= l->n_context &&
                            m->chunk >= l->chunk && m->text_most >= l->text_most);
            assert_true(p.traffic.dense_read_per_token <= last.traffic.dense_read_per_token ||
                        budget == floor);
            assert_int_equal(m->floor, floor);
            assert_true(m->cache >= m->cache_min && m->cache <= m->cache_full);
            last = p;
        }
        assert_int_equal(last.memory.dense, last.memory.dense_full);
        assert_int_equal(last.memory.cache, last.memory.cache_full);
    }
}

/* ---- the floor ---------------------------------------------------------------- */

static int64_t lines(const sluice_memory *m, int64_t kv_bytes, int64_t cache)
{
    return m->process + m->dense + m->state + kv_bytes + m->scratch + cache;
}

/* In what a floor says as a number, what its lines add up to, and what its sentence
 * prints, rounded, the model can be run; in less than the lines it cannot. */
static void check_floor(struct plan_inputs in)
{
    struct plan p;
    struct err e = {0};
    int64_t round = (64 << 10) + in.process_wavers;
    set_budget(&in, 5 * MIB);
    assert_int_equal(plan_make(&in, &p, &e), E_BUDGET);
    const sluice_memory *m = &p.memory;
    int64_t least = lines(m, m->kv_least, m->cache_min), floor = m->floor;
    assert_true(least <= floor && floor < least + round);
    assert_int_equal(m->cache, m->cache_min);
    assert_int_equal(m->missing, floor - 5 * MIB);
    const char *at = strstr(e.text, "the floor of ");
    assert_non_null(at);
    double printed = strtod(at + strlen("the floor of "), NULL);
    const int64_t enough[] = {least, floor, (int64_t)(printed * (double)MIB)};
    for (size_t i = 0; i < ARRAY_LEN(enough); i++) {
        set_budget(&in, enough[i]);
        if (plan_make(&in, &p, &e) != OK)
            fail_msg("%lld bytes: %s", (long long)enough[i], e.text);
        assert_int_equal(m->missing, 0);
        assert_int_equal(m->floor, floor);
        assert_true(lines(m, m->kv, m->cache) <= enough[i]);
        assert_true(lines(m, m->kv, m->cache) == enough[i] || m->cache == m->cache_full);
    }
    set_budget(&in, least - 1);
    assert_int_equal(plan_make(&in, &p, &e), E_BUDGET);
    assert_int_equal(m->missing, floor - (least - 1));
    set_budget(&in, 2 * floor); /* a budget that is not there at this moment */
    err_clear(&e);
    in.limits.now = least - 1;
    in.limits.short_of = NOW_CGROUP;
    assert_int_equal(plan_make(&in, &p, &e), E_BUDGET);
    assert_int_equal(m->missing, floor - (least - 1));
    assert_non_null(strstr(e.text, "control group"));
}

static void the_floor_works(void **state)
{
    (void)state;
    static const int contexts[] = {0, 1, 100, 2049, 70000}, chunks[] = {0, 1, 17, 4000};
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
        for (size_t c = 0; c < ARRAY_LEN(contexts); c++)
            for (size_t k = 0; k < ARRAY_LEN(chunks); k++) {
                struct plan_inputs in = inputs(&shapes[i], 0);
                in.context = contexts[c];
                in.chunk = chunks[k];
                in.process_wavers = (int64_t)((c + k) % 3) << 18;
                in.held_bytes = k == 1 ? 2 * MIB : 0;
                check_floor(in);
            }
}

/* A tokeniser's plan asks no model. */
static void a_tokenizer_has_a_floor_too(void **state)
{
    (void)state;
    struct plan_inputs in = inputs(NULL, 0);
    struct plan p;
    struct err e = {0};
    in.tokenizer_only = true;
    in.needs = NULL;
    in.kv = NULL;
    int64_t floor = floor_of(in);
    assert_true(floor > in.process && floor < in.process + 2 * MIB);
    set_budget(&in, floor);
    assert_int_equal(plan_make(&in, &p, &e), OK);
    assert_true(p.memory.text_most >= SLUICE_TEXT_FREE);
}

/* ---- chunks ------------------------------------------------------------------- */

/* What a chunk takes leaves the cache half of what it has above its smallest size. */
static void chunks_leave_half_of_the_cache(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        struct plan_inputs in = inputs(&shapes[i], 0);
        struct plan p;
        struct err e = {0};
        set_budget(&in, floor_of(in) + 500 * MIB);
        assert_int_equal(plan_make(&in, &p, &e), OK);
        const sluice_memory *m = &p.memory;
        for (int64_t n = 1; n < 10000; n = n * 3 / 2 + 1)
            for (int64_t cache = m->cache_min; cache <= m->cache; cache += m->cache / 7 + 1) {
                int64_t bytes, take = plan_chunk(&p, n, cache, &bytes);
                assert_true(take >= 1 && take <= n && take <= p.chosen.chunk);
                int64_t half = (cache - m->cache_min) / 2;
                assert_true(take <= p.base_chunk ? bytes == 0 : bytes <= half);
                assert_true(bytes >= shapes[i].token * (take - p.base_chunk) || bytes == 0);
            }
    }
}

/* ---- absurd numbers ------------------------------------------------------------- */

static uint64_t seed;

static int64_t any(void)
{
    static const int64_t edges[] = {0, 1, -1, 255, 256, INT32_MAX, INT32_MIN, (int64_t)1 << 40,
                                    (int64_t)1 << 58, INT64_MAX / 2, INT64_MAX, INT64_MIN,
                                    INT64_MAX - 65535};
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    uint64_t r = seed >> 33;
    return r % 4 == 0 ? (int64_t)(r % 100000) * 1000 : edges[r / 4 % ARRAY_LEN(edges)];
}

static struct plan_inputs absurd(struct shape *s)
{
    *s = (struct shape){.kv = any() & INT64_MAX, .absurd = true,
                        .says = {any(), any(), any(), any(), any(), any(), any(), any(), any()}};
    return (struct plan_inputs){
        .limits = {.m = {any(), any(), any(), any(), any(), any()}, .asked = any(),
                   .budget = any(), .now = any(), .source = (unsigned)any() % 4,
                   .short_of = (unsigned)any() % 2},
        .context = (int)any(), .chunk = (int)any(), .tokenizer_only = any() == 1,
        .process = any(), .held_bytes = any(), .process_wavers = any(),
        .n_tokens = any(), .longest_token = any(), .n_vocab = (int)any(),
        .n_context_train = (int)any(), .most_logits_rows = (int)any(),
        .expert_bytes_per_token = any(), .dense_bytes_per_token = any(),
        .session_token_bytes = any(), .model = s, .needs = needs, .kv = kv};
}

/* No number overflows (the sanitizer looks), and what comes out makes sense. */
static void absurd_numbers_make_a_plan_or_a_sentence(void **state)
{
    (void)state;
    int n_plans = 0;
    for (int i = 0; i < 100000; i++) {
        struct shape s;
        struct plan p;
        struct err e = {0};
        struct plan_inputs in = absurd(&s);
        int rc = plan_make(&in, &p, &e);
        const sluice_memory *m = &p.memory;
        assert_true(rc == OK || (rc == E_BUDGET && e.text[0] && m->missing > 0));
        const int64_t least_0[] = {m->process, m->dense, m->state, m->kv, m->scratch, m->cache,
                                   m->budget, m->floor, m->missing, m->kv_least, m->n_context,
                                   m->chunk, m->text_most, p.base_chunk};
        for (size_t k = 0; k < ARRAY_LEN(least_0); k++)
            assert_true(least_0[k] >= 0);
        if (rc != OK || in.tokenizer_only)
            continue;
        n_plans++;
        assert_true(lines(m, m->kv, m->cache) <= m->budget);
        assert_true(m->n_context >= 1 && m->chunk >= 1 && m->missing == 0);
        assert_true(p.traffic.hit_rate >= 0 && p.traffic.hit_rate <= 1);
    }
    print_message("%d plans\n", n_plans);
    assert_true(n_plans > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cgroup_s_sentence_adds_up),
        cmocka_unit_test(a_resource_limit_covers_what_is_reserved),
        cmocka_unit_test(more_memory_never_shortens_the_context),
        cmocka_unit_test(the_same_inputs_give_the_same_plan),
        cmocka_unit_test(more_memory_never_gives_less),
        cmocka_unit_test(the_floor_works),
        cmocka_unit_test(a_tokenizer_has_a_floor_too),
        cmocka_unit_test(chunks_leave_half_of_the_cache),
        cmocka_unit_test(absurd_numbers_make_a_plan_or_a_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
