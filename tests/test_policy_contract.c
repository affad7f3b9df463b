/*
 * test_policy_contract: what expert.h asks of an eviction policy, of every row of
 * expert_policies. A cache is played over each, with random picks, guesses, leases
 * and a class that shrinks; the numbers in the names are those of the contract.
 */
#include "expert/cache_impl.h"
#include "sluice.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_LAYERS = 7, MAX_EXPERTS = 9, MAX_SLOTS = 40, N_STEPS = 4000 };

struct shape {
    int n_layers, max_experts, n_slots;
};
static const struct shape shapes[] = {{7, 9, 40}, {5, 4, 20}, {1, 9, 4}, {7, 3, 1}, {2, 2, 3}};

/* A cache of one class, as a policy sees it. */
struct played {
    const struct expert_policy *p;
    void *state;
    struct shape shape;
    int64_t key_in[MAX_SLOTS];
    int slot_of[MAX_LAYERS * MAX_EXPERTS];
    uint8_t evictable[MAX_SLOTS];
    uint32_t random;
};

static uint32_t rnd(struct played *v, uint32_t n)
{
    v->random = v->random * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)v->random * n >> 32);
}

static int64_t key_in(const void *user, int slot)
{
    return ((const struct played *)user)->key_in[slot];
}

static void start(struct played *v, const struct expert_policy *p, struct shape shape,
                  uint32_t seed)
{
    *v = (struct played){.p = p, .shape = shape, .random = seed};
    memset(v->key_in, 0xFF, sizeof v->key_in);
    memset(v->slot_of, 0xFF, sizeof v->slot_of);
    v->state = p->create((int64_t)shape.n_layers * shape.max_experts, shape.n_slots, shape.n_layers,
                         shape.max_experts);
    assert_non_null(v->state);
}

static void assert_whole(const struct played *v)
{
    const char *broken = v->p->check ? v->p->check(v->state, v->shape.n_slots, key_in, v) : NULL;
    if (broken)
        fail_msg("%s: broken: %s", v->p->name, broken);
}

static int n_evictable(const struct played *v)
{
    int n = 0;
    for (int i = 0; i < v->shape.n_slots; i++)
        n += v->evictable[i];
    return n;
}

/* The slot; `again`: asked twice, and for its opinion of guesses in between. */
static int victim(struct played *v, int layer, bool again)
{
    uint8_t was[MAX_SLOTS];
    memcpy(was, v->evictable, sizeof was);
    int i = v->p->victim(v->state, v->evictable, layer);
    if ((i < 0) != (n_evictable(v) == 0) || i >= v->shape.n_slots || (i >= 0 && !v->evictable[i]))
        fail_msg("%s: victim %d of %d evictable slots", v->p->name, i, n_evictable(v));
    for (int64_t key = layer;
         again && i >= 0 && key < (int64_t)v->shape.n_layers * v->shape.max_experts; key += 5)
        if (v->slot_of[key] < 0)
            assert_int_equal(v->p->colder(v->state, i, key), v->p->colder(v->state, i, key));
    if (again)
        assert_int_equal(v->p->victim(v->state, v->evictable, layer), i);
    assert_memory_equal(was, v->evictable, sizeof was);
    return i;
}

static void leave(struct played *v, int slot)
{
    v->p->on_evict(v->state, v->key_in[slot], slot);
    v->slot_of[v->key_in[slot]] = -1;
    v->key_in[slot] = -1;
    v->evictable[slot] = 0;
}

static int empty_slot(const struct played *v)
{
    for (int i = 0; i < v->shape.n_slots; i++)
        if (v->key_in[i] < 0)
            return i;
    return -1;
}

static void come(struct played *v, int64_t key, int slot)
{
    v->p->on_insert(v->state, key, slot);
    v->key_in[slot] = key;
    v->slot_of[key] = slot;
}

/* A guess: as expert_guess does it. */
static void guess(struct played *v, int layer, bool again)
{
    int64_t key = (int64_t)layer * v->shape.max_experts + rnd(v, (uint32_t)v->shape.max_experts);
    int slot = empty_slot(v);
    if (v->slot_of[key] >= 0)
        return;
    if (slot < 0) {
        slot = victim(v, layer, again);
        if (slot < 0 || !v->p->colder(v->state, slot, key))
            return;
        assert_int_equal(v->p->victim(v->state, v->evictable, layer), slot);
        leave(v, slot);
    }
    come(v, key, slot);
    v->evictable[slot] = 1;
}

/* A pick, leased until the layer is done. */
static void pick(struct played *v, int layer, bool again)
{
    int64_t key = (int64_t)layer * v->shape.max_experts + rnd(v, (uint32_t)v->shape.max_experts);
    int slot = v->slot_of[key];
    if (slot < 0) {
        slot = empty_slot(v);
        if (slot < 0) {
            slot = victim(v, layer, again);
            if (slot < 0)
                return;
            leave(v, slot);
        }
        come(v, key, slot);
    }
    v->evictable[slot] = 0;
    v->p->on_use(v->state, key, slot);
}

static void release_all(struct played *v)
{
    for (int i = 0; i < v->shape.n_slots; i++)
        v->evictable[i] = v->key_in[i] >= 0;
}

/* One layer's turn: guesses, picks, sometimes a slot that is emptied whatever is
 * in it, sometimes the end of a pass. */
static void step(struct played *v, int layer, bool again, bool ticks)
{
    int n = 1 + (int)rnd(v, 3);
    for (int i = 0; i < n; i++)
        guess(v, (layer + 1) % v->shape.n_layers, again);
    for (int i = 0; i < n; i++)
        pick(v, layer, again);
    int slot = (int)rnd(v, (uint32_t)v->shape.n_slots);
    if (rnd(v, 10) == 0 && v->key_in[slot] >= 0)
        leave(v, slot);
    release_all(v);
    if (ticks && layer == v->shape.n_layers - 1)
        v->p->on_tick(v->state);
    assert_whole(v);
}

static void every_function_is_there_1(void **state)
{
    (void)state;
    for (int i = 0; expert_policies[i]; i++) {
        const struct expert_policy *p = expert_policies[i];
        assert_true(p->name && p->name[0] && p->create && p->destroy && p->on_use && p->on_insert &&
                    p->on_evict && p->on_tick && p->victim && p->colder);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(p->name, expert_policies[k]->name);
        /* and users can choose it, at the same place of the list */
        assert_string_equal(sluice_choice("policy", i), p->name);
        assert_null(expert_policies[i + 1] ? NULL : sluice_choice("policy", i + 1));
    }
}

/* Two states of the same calls decide the same, also where one is asked twice; a
 * third beside them changes nothing. */
static void states_are_alike_and_apart_1_3_5(void **state)
{
    (void)state;
    for (int i = 0; expert_policies[i]; i++)
        for (size_t s = 0; s < ARRAY_LEN(shapes); s++)
            for (int ticks = 0; ticks < 2; ticks++) {
                struct played a, b, other;
                start(&a, expert_policies[i], shapes[s], 7);
                start(&b, expert_policies[i], shapes[s], 7);
                start(&other, expert_policies[i], shapes[s], 8);
                for (int t = 0; t < N_STEPS / 4; t++) {
                    int layer = t % shapes[s].n_layers;
                    step(&a, layer, false, ticks);
                    step(&other, layer, true, !ticks);
                    step(&b, layer, true, ticks);
                    assert_memory_equal(a.key_in, b.key_in, sizeof a.key_in);
                }
                a.p->destroy(a.state);
                b.p->destroy(b.state);
                other.p->destroy(other.state);
            }
}

/* Layers in any order, as prompts of several sessions would bring them. */
static void any_order_of_calls_is_survived_2_4(void **state)
{
    (void)state;
    for (int i = 0; expert_policies[i]; i++)
        for (size_t s = 0; s < ARRAY_LEN(shapes); s++) {
            struct played v;
            start(&v, expert_policies[i], shapes[s], (uint32_t)s);
            assert_int_equal(victim(&v, 0, true), -1); /* nothing is there */
            for (int t = 0; t < N_STEPS; t++) {
                step(&v, (int)rnd(&v, (uint32_t)v.shape.n_layers), rnd(&v, 2) == 0, true);
                if (rnd(&v, 200) == 0) /* shrinks to nothing */
                    for (int k = 0; k < v.shape.n_slots; k++)
                        if (v.key_in[k] >= 0)
                            leave(&v, k);
                if (rnd(&v, 50) == 0) { /* all of it is leased */
                    memset(v.evictable, 0, sizeof v.evictable);
                    assert_int_equal(victim(&v, 0, true), -1);
                    release_all(&v);
                }
            }
            v.p->destroy(v.state);
        }
}

/* Each slot can be the only one left, whatever was remembered a moment ago. */
static void the_last_evictable_slot_is_found_4(void **state)
{
    (void)state;
    for (int i = 0; expert_policies[i]; i++)
        for (size_t s = 0; s < ARRAY_LEN(shapes); s++) {
            struct played v;
            start(&v, expert_policies[i], shapes[s], 3);
            for (int t = 0; t < 20 * v.shape.n_layers; t++)
                step(&v, t % v.shape.n_layers, false, true);
            memset(v.evictable, 0, sizeof v.evictable);
            for (int k = 0; k < v.shape.n_slots; k++)
                for (int layer = 0; layer < v.shape.n_layers; layer++) {
                    v.evictable[k] = v.key_in[k] >= 0;
                    assert_int_equal(victim(&v, layer, true), v.evictable[k] ? k : -1);
                    v.evictable[k] = 0;
                    assert_int_equal(victim(&v, layer, false), -1);
                }
            v.p->destroy(v.state);
        }
}

/* Once every layer has been asked for, more questions change nothing: what leaves
 * until nothing is left leaves in the same order. */
static void an_answer_is_no_use_5(void **state)
{
    (void)state;
    for (int i = 0; expert_policies[i]; i++) {
        struct played a, b;
        start(&a, expert_policies[i], shapes[0], 1);
        start(&b, expert_policies[i], shapes[0], 1);
        for (int t = 0; t < 300; t++) {
            step(&a, t % 7, false, true);
            step(&b, t % 7, false, true);
        }
        for (int t = 0; t < 7; t++)
            victim(&a, t, false);
        for (int t = 0; t < 1001; t++)
            victim(&b, t % 7, true);
        for (int n = n_evictable(&a); n > 0; n--) {
            int slot = victim(&a, 3, false);
            assert_int_equal(victim(&b, 3, false), slot);
            leave(&a, slot);
            leave(&b, slot);
        }
        a.p->destroy(a.state);
        b.p->destroy(b.state);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_function_is_there_1),
        cmocka_unit_test(states_are_alike_and_apart_1_3_5),
        cmocka_unit_test(any_order_of_calls_is_survived_2_4),
        cmocka_unit_test(the_last_evictable_slot_is_found_4),
        cmocka_unit_test(an_answer_is_no_use_5),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
