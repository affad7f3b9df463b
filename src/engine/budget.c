/*
 * How much memory there is: the budget that is taken when none is asked for,
 * what a control group or a resource limit leaves of one that is, and the
 * sentence about it.
 */
#include "engine/engine.h"

#include <stdio.h>

static int64_t at_least_0(int64_t x)
{
    return MAX(x, (int64_t)0);
}

/* `own`: what this process holds already is not for others. A group's limit is
 * for it alone, so that an eighth is kept for what the kernel charges to it; of a
 * machine more is, for its other programs. */
static void find_default(struct budget *b, int64_t own)
{
    const struct os_memory *m = &b->m;
    int64_t free_bytes = m->available + own;
    int64_t others = MAX(free_bytes / 8, MIN((int64_t)128 << 20, free_bytes / 4));
    b->budget = at_least_0(free_bytes - others);
    b->source = BUDGET_MACHINE;
    if (m->cgroup_limit != INT64_MAX) {
        int64_t room = m->cgroup_limit - m->cgroup_limit / 8 - at_least_0(m->cgroup_used - own);
        room = MIN(at_least_0(room), m->cgroup_least - m->cgroup_least / 8);
        if (room < b->budget) {
            b->budget = room;
            b->source = BUDGET_CGROUP;
        }
    }
    if (m->rlimit_left != INT64_MAX && (m->rlimit_left + own) / 8 * 7 < b->budget) {
        b->budget = (m->rlimit_left + own) / 8 * 7;
        b->source = BUDGET_RLIMIT;
    }
}

/* A budget stays a little below its group's limit: page tables and sockets are
 * charged to it too, and who reaches it is killed. (4 %: a budget with 5 % above it is
 * left alone.) */
static void cut_to_limit(struct budget *b)
{
    int64_t most = b->m.cgroup_least - b->m.cgroup_least / 24;
    if (b->m.cgroup_least != INT64_MAX && most < b->budget) {
        b->budget = most;
        b->source = BUDGET_CGROUP;
    }
}

void budget_find(int64_t asked, struct budget *b)
{
    int64_t own = os_rss_anonymous();
    *b = (struct budget){.budget = asked, .source = BUDGET_ASKED};
    os_memory(&b->m);
    if (asked > 0)
        cut_to_limit(b);
    else
        find_default(b, own);
    const struct os_memory *m = &b->m;
    b->now = b->budget;
    if (m->cgroup_limit != INT64_MAX && at_least_0(m->cgroup_limit - at_least_0(m->cgroup_used - own)) < b->now) {
        b->now = at_least_0(m->cgroup_limit - at_least_0(m->cgroup_used - own));
        b->short_of = NOW_CGROUP;
    }
    if (m->rlimit_left != INT64_MAX && m->rlimit_left + own < b->now) {
        b->now = m->rlimit_left + own;
        b->short_of = NOW_RLIMIT;
    }
}

void budget_tell(const struct budget *b, int64_t asked, char *out, size_t room)
{
    const double mib = 1024.0 * 1024.0;
    const struct os_memory *m = &b->m;
    out[0] = '\0';
    if (b->short_of == NOW_RLIMIT || b->source == BUDGET_RLIMIT)
        snprintf(out, room, " (resource limits of this process leave %.1f MiB: see ulimit -v and -d)",
                 (double)m->rlimit_left / mib);
    else if (b->short_of == NOW_CGROUP)
        snprintf(out, room, " (of the control group's limit of %.1f MiB only %.1f MiB are free)",
                 (double)m->cgroup_limit / mib, (double)b->now / mib);
    else if (b->source == BUDGET_CGROUP && asked > 0)
        snprintf(out, room, " (%.1f MiB were asked for, the control group's limit is %.1f MiB)",
                 (double)asked / mib, (double)m->cgroup_least / mib);
    else if (b->source == BUDGET_CGROUP)
        snprintf(out, room, " (the control group's limit is %.1f MiB, an eighth is kept free)",
                 (double)MIN(m->cgroup_limit, m->cgroup_least) / mib);
    else if (b->source == BUDGET_MACHINE)
        snprintf(out, room, " (the machine has %.1f MiB available, some are kept for other programs)",
                 (double)m->available / mib);
}
