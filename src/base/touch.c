/*
 * Memory is touched a little before it is first used.
 *
 * A fresh page has to be found and cleared, which on virtual machines runs at
 * 0.4 to 1 GB/s, slower than the drive; a direct read into it does that on the
 * driver's thread, before the read starts. One thread of the lowest priority
 * does it ahead instead. It never touches what a region may not use (`limit`),
 * and one that shrinks waits until it is out of the way: the budget holds.
 * MADV_POPULATE_WRITE leaves contents alone, so that reads may be under way.
 */
#include "base/base.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; older ones say EINVAL */
#endif

enum { STEP = 2 << 20, AHEAD = 256 << 20 };

struct region { /* offsets from its begin */
    char *begin;
    size_t used;  /* what lies below is in use */
    size_t limit; /* may be touched */
    size_t done;  /* has been touched, or been used before */
};

struct touch {
    pthread_t thread;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    struct region *regions;
    int n;
    const struct region *busy; /* [busy->done, busy->done + STEP) is being touched */
    bool stop;
};

/* The region whose touched part is least ahead of its use; NULL: all are far enough. */
static struct region *next_region(struct touch *t)
{
    struct region *best = NULL;
    for (int i = 0; i < t->n; i++) {
        struct region *r = &t->regions[i];
        r->done = MAX(r->done, r->used / STEP * STEP);
        if (r->done + STEP > r->limit || r->done >= r->used + AHEAD)
            continue;
        if (!best || r->done - MIN(r->used, r->done) < best->done - MIN(best->used, best->done))
            best = r;
    }
    return best;
}

static void *touch_main(void *arg)
{
    struct touch *t = arg;
#ifdef SCHED_IDLE
    pthread_setschedparam(pthread_self(), SCHED_IDLE, &(struct sched_param){0});
#endif
    pthread_mutex_lock(&t->lock);
    while (!t->stop) {
        struct region *r = next_region(t);
        if (!r) {
            pthread_cond_wait(&t->changed, &t->lock);
            continue;
        }
        char *at = r->begin + r->done;
        t->busy = r;
        pthread_mutex_unlock(&t->lock);
        int rc = madvise(at, STEP, MADV_POPULATE_WRITE);
        pthread_mutex_lock(&t->lock);
        t->busy = NULL;
        r->done += STEP;
        pthread_cond_broadcast(&t->changed);
        if (rc != 0)
            break; /* the kernel cannot, or memory is short: reads will do it */
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

struct touch *touch_open(int n_regions)
{
    struct touch *t = calloc(1, sizeof(*t));
    struct region *regions = calloc((size_t)n_regions, sizeof(*regions));
    if (!t || !regions)
        goto no;
    t->regions = regions;
    t->n = n_regions;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->changed, NULL);
    if (os_thread_new(&t->thread, touch_main, t))
        return t;
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->lock);
no:
    free(t);
    free(regions);
    return NULL;
}

void touch_close(struct touch *t)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->lock);
    free(t->regions);
    free(t);
}

void touch_used(struct touch *t, int region, size_t bytes)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    t->regions[region].used = MAX(t->regions[region].used, bytes);
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
}

void touch_limit(struct touch *t, int region, void *begin, size_t bytes)
{
    if (!t)
        return;
    struct region *r = &t->regions[region];
    pthread_mutex_lock(&t->lock);
    r->begin = begin;
    r->limit = bytes;
    while (t->busy == r && r->done + STEP > bytes)
        pthread_cond_wait(&t->changed, &t->lock);
    /* What lies above goes back to the system: it will be fresh again. */
    r->used = MIN(r->used, bytes);
    r->done = MIN(r->done, bytes / STEP * STEP);
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
}
