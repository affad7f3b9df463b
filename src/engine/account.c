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

enum {
    /* The program's own memory in ordinary cases: a plan that begins with this is the
     * same in every run. Larger programs are measured. */
    PROGRAM_BYTES = 12 << 19,
    /* What is measured differs by less than this from run to run. */
    PROGRAM_WAVERS = 1 << 20
};

static struct {
    pthread_mutex_t lock;
    int n_open;       /* models, those that are only planned included */
    int64_t n_loaded; /* opened since the process began */
    int64_t program;  /* resident when none was open, what was held for the first one left out */
    int64_t begin;    /* the same with what was held */
    int64_t left;     /* what models that are closed left resident */
    int64_t peak;     /* of the process, when the first of those that are open came */
    int64_t grown;    /* by how much that peak has risen while models were open */
} process = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* A peak never falls: where only that is known, what a model or its probe once took
 * would count as the program for ever. By so much it is lowered. */
static int64_t resident(void)
{
    int64_t now = os_rss();
    return now >= 0 ? now : process.peak - process.grown;
}

/* A model that is closed leaves pages of code behind that it touched, as the model of a
 * probe does. The next one's reserve has room for them already: they are not the
 * program's, or a floor would be another one after a probe. */
static void note_left(void)
{
    os_trim_heap();
    process.left = MAX(MIN(resident() - process.begin, (int64_t)PROCESS_RESERVE), (int64_t)0);
}

/* A sanitizer's memory is several times the program's and differs from run to
 * run: there every program counts as an ordinary one, and plans stay comparable. */
static int64_t program_now(int64_t held)
{
    int64_t bytes = MAX(process.begin - held, (int64_t)0);
#ifdef SANITIZER_REPORTS
    bytes = 0;
#endif
    return bytes;
}

void account_enter(struct sluice *s)
{
    int64_t held = MAX(s->o.held_bytes, (int64_t)0); /* it is checked later */
    pthread_mutex_lock(&process.lock);
    if (process.n_open == 0) {
        process.peak = os_rss_peak();
        process.begin = resident() - process.left;
        process.program = program_now(held);
    }
    process.n_open++;
    s->program = MAX(process.program, (int64_t)PROGRAM_BYTES);
    s->program_wavers = MAX(process.program + PROGRAM_WAVERS - s->program, (int64_t)0);
    pthread_mutex_unlock(&process.lock);
}

void account_leave(void)
{
    pthread_mutex_lock(&process.lock);
    if (--process.n_open == 0) {
        process.grown += os_rss_peak() - process.peak;
        note_left();
    }
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
    const sluice_memory *p = &s->plan.memory;
    struct expert_cache *c = s->model ? model_experts(s->model) : NULL;
    return p->process + p->dense + p->state + p->scratch + s->budget.taken +
           (c ? (int64_t)expert_bytes(c) : 0);
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
