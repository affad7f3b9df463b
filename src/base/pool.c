/*
 * The compute threads.
 *
 * A task is published by raising `round`; each worker runs it once and counts
 * `pending` down; the last one to do so ends the task. Both sides wait in the
 * same way: watch the counter for some microseconds, because the next step of
 * a layer usually follows at once, then sleep on a condition.
 *
 * No wake-up is lost: a sleeper first announces itself and then looks at the
 * counter again; the waker first changes the counter and then looks for
 * sleepers. All four are sequentially consistent, so at least one of the two
 * sees the other.
 *
 * `fn` and `arg` are plain fields: written before `round` is raised, read
 * after it was seen; written again only after `pending` has reached 0.
 */
#include "base/base.h"

#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_LINE 64
#define SPINS 2000       /* about 30 to 90 us */
#define SPINS_CROWDED 50 /* when threads outnumber processors */

struct worker {
    struct pool *pool;
    pthread_t thread;
    int index;
};

struct pool {
    int n; /* threads, the caller included */
    int n_started;
    int spins;
    bool stop; /* read by workers after a new round */
    pool_fn *fn;
    void *arg;
    struct trace *trace; /* this and the label: like fn */
    const struct trace_kind *kind;
    int64_t kind_arg;
    pool_turn_fn *turn;  /* the caller's alone */
    void *turn_user;
    struct worker *workers; /* n - 1 */

    pthread_mutex_t lock;
    pthread_cond_t new_round, all_done;

    alignas(CACHE_LINE) atomic_uint round;
    atomic_int n_asleep; /* workers waiting for new_round */
    alignas(CACHE_LINE) atomic_int pending;
    atomic_int caller_asleep; /* waiting for all_done */
    alignas(CACHE_LINE) _Atomic int64_t taken; /* of the task's total; set like fn */
};

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void await_round(struct pool *p, unsigned seen)
{
    for (int i = 0; i < p->spins; i++) {
        if (atomic_load_explicit(&p->round, memory_order_acquire) != seen)
            return;
        cpu_relax();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->n_asleep, 1);
    while (atomic_load(&p->round) == seen)
        pthread_cond_wait(&p->new_round, &p->lock);
    atomic_fetch_sub(&p->n_asleep, 1);
    pthread_mutex_unlock(&p->lock);
}

static void await_done(struct pool *p)
{
    for (int i = 0; i < p->spins; i++) {
        if (atomic_load_explicit(&p->pending, memory_order_acquire) == 0)
            return;
        cpu_relax();
    }
    pthread_mutex_lock(&p->lock);
    /* Not a store: emulators (qemu on x86) let a load pass a store before it, even
     * where both are sequentially consistent. */
    (void)atomic_exchange(&p->caller_asleep, 1);
    while (atomic_load(&p->pending) != 0)
        pthread_cond_wait(&p->all_done, &p->lock);
    atomic_store(&p->caller_asleep, 0);
    pthread_mutex_unlock(&p->lock);
}

static void start_round(struct pool *p)
{
    atomic_fetch_add(&p->round, 1);
    if (atomic_load(&p->n_asleep) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->new_round);
        pthread_mutex_unlock(&p->lock);
    }
}

static void finish_share(struct pool *p)
{
    if (atomic_fetch_sub(&p->pending, 1) == 1 && atomic_load(&p->caller_asleep)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_signal(&p->all_done);
        pthread_mutex_unlock(&p->lock);
    }
}

static void run_share(struct pool *p, pool_fn *fn, void *arg, int i)
{
    if (!p->trace) {
        fn(arg, i, p->n);
        return;
    }
    int64_t begin = os_clock_ns();
    fn(arg, i, p->n);
    trace_add(p->trace, p->kind, TRACE_THREADS + i, begin, os_clock_ns(), &p->kind_arg, 1);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    for (unsigned seen = 0;;) {
        await_round(p, seen);
        seen++; /* the next round starts only after this one's last share */
        if (p->stop)
            return NULL;
        run_share(p, p->fn, p->arg, w->index);
        finish_share(p);
    }
}

static void start_workers(struct pool *p)
{
    for (int i = 0; i < p->n - 1; i++) {
        struct worker *w = &p->workers[i];
        *w = (struct worker){.pool = p, .index = i + 1};
        if (!os_thread_new(&w->thread, worker_main, w))
            break;
        p->n_started++;
    }
}

struct pool *pool_new(int n_threads)
{
    if (n_threads < 1)
        return NULL;
    struct pool *p = aligned_alloc(alignof(struct pool), sizeof(*p));
    if (!p)
        return NULL;
    memset(p, 0, sizeof(*p));
    p->n = n_threads;
    p->spins = n_threads > os_cpu_count() ? SPINS_CROWDED : SPINS;
    atomic_init(&p->round, 0);
    atomic_init(&p->n_asleep, 0);
    atomic_init(&p->pending, 0);
    atomic_init(&p->caller_asleep, 0);
    atomic_init(&p->taken, 0);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->new_round, NULL);
    pthread_cond_init(&p->all_done, NULL);
    if (n_threads > 1) {
        p->workers = calloc((size_t)n_threads - 1, sizeof(*p->workers));
        if (p->workers)
            start_workers(p);
        if (p->n_started != n_threads - 1) {
            pool_free(p);
            return NULL;
        }
    }
    return p;
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    p->stop = true;
    start_round(p);
    for (int i = 0; i < p->n_started; i++)
        pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->all_done);
    pthread_cond_destroy(&p->new_round);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p);
}

int pool_size(const struct pool *p)
{
    return p->n;
}

bool pool_take(struct pool *p, int i, int64_t total, int64_t *begin, int64_t *end)
{
    if (i == 0 && p->turn)
        p->turn(p->turn_user);
    int64_t at = atomic_load_explicit(&p->taken, memory_order_relaxed), n;
    do {
        if (at >= total)
            return false;
        n = MAX((total - at) / (2 * p->n), (int64_t)1);
    } while (!atomic_compare_exchange_weak_explicit(&p->taken, &at, at + n, memory_order_relaxed,
                                                    memory_order_relaxed));
    *begin = at;
    *end = at + n;
    return true;
}

const char *pool_check(const struct pool *p)
{
    HOLDS(p->n >= 1 && p->n_started == p->n - 1, "pool: every worker but the caller was started");
    HOLDS(!p->stop, "pool: it was not freed");
    HOLDS(atomic_load(&p->pending) == 0, "pool: no task is under way: fn and arg may be written");
    HOLDS(atomic_load(&p->caller_asleep) == 0, "pool: the caller sleeps within a task only");
    int n_asleep = atomic_load(&p->n_asleep);
    HOLDS(n_asleep >= 0 && n_asleep < p->n, "pool: only workers sleep on a new round, each once");
    return NULL;
}

void pool_run(struct pool *p, pool_fn *fn, void *arg)
{
    INVARIANT(pool_check(p));
    atomic_store_explicit(&p->taken, 0, memory_order_relaxed);
    if (p->n > 1) {
        p->fn = fn;
        p->arg = arg;
        atomic_store(&p->pending, p->n - 1);
        start_round(p);
    }
    if (p->turn)
        p->turn(p->turn_user);
    run_share(p, fn, arg, 0);
    if (p->n > 1)
        await_done(p);
}

void pool_set_turn(struct pool *p, pool_turn_fn *fn, void *user)
{
    INVARIANT(pool_check(p));
    p->turn = fn;
    p->turn_user = user;
}

void pool_set_trace(struct pool *p, struct trace *t)
{
    static const struct trace_kind other = {"work", "compute", {NULL}};
    INVARIANT(pool_check(p));
    p->trace = t;
    p->kind = &other;
}

void pool_label(struct pool *p, const struct trace_kind *k, int64_t arg)
{
    INVARIANT(pool_check(p));
    p->kind = k;
    p->kind_arg = arg;
}
