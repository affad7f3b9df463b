/*
 * What a process holds besides its models, and what each model holds of its
 * own budget. Models may be opened from several threads, so this is locked.
 *
 * Each model's budget has room for the program itself, as it was when no model
 * was open: the sum of the budgets then covers the process whichever of the
 * models is closed first.
 */
#include "engine/engine.h"

#include <pthread.h>

/* The program's own memory in ordinary cases: a plan that begins with this is the
 * same in every run. Larger programs are measured. */
enum { PROGRAM_BYTES = 11 << 19 };

static struct {
    pthread_mutex_t lock;
    int n_open;       /* models, those that are only planned included */
    int64_t n_loaded; /* opened since the process began */
    int64_t program;  /* resident when none was open, what was held for the first one left out */
} process = {.lock = PTHREAD_MUTEX_INITIALIZER};

void account_enter(struct sluice *s)
{
    pthread_mutex_lock(&process.lock);
    if (process.n_open == 0)
        process.program = MAX(os_rss() - s->o.held_bytes, (int64_t)0);
    process.n_open++;
    s->program = MAX(process.program, (int64_t)PROGRAM_BYTES);
    s->program_measured = process.program > PROGRAM_BYTES;
    pthread_mutex_unlock(&process.lock);
}

void account_leave(void)
{
    pthread_mutex_lock(&process.lock);
    process.n_open--;
    pthread_mutex_unlock(&process.lock);
}

void account_loaded(struct sluice *s)
{
    pthread_mutex_lock(&process.lock);
    s->number = ++process.n_loaded;
    pthread_mutex_unlock(&process.lock);
}

/* No other model was ever opened: the process's peak is this model's. */
static bool is_only(const struct sluice *s)
{
    pthread_mutex_lock(&process.lock);
    bool only = s->number == 1 && process.n_loaded == 1;
    pthread_mutex_unlock(&process.lock);
    return only;
}

int64_t account_held(const struct sluice *s)
{
    const sluice_plan *p = &s->plan;
    struct expert_cache *c = s->model ? model_experts(s->model) : NULL;
    return p->process + p->dense + p->state + p->scratch + s->kv_in_use + (c ? (int64_t)expert_bytes(c) : 0);
}

void account_look(struct sluice *s)
{
    s->held_peak = MAX(s->held_peak, account_held(s));
}

int64_t account_peak(const struct sluice *s)
{
    int64_t peak = os_rss_peak();
    if (is_only(s) || peak == 0)
        return peak;
    return MIN(peak, MAX(s->held_peak, account_held(s)));
}
