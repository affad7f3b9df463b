/*
 * How much memory there is: the budget that is taken when none is asked for,
 * what a control group or a resource limit leaves of one that is, and the
 * sentence about it. Machine and process are looked at in limits_find alone; what it
 * saw is made into a budget by limits_of, whose numbers the sentence adds up.
 */
#include "engine/plan.h"

#include <stdio.h>

static int64_t at_least_0(int64_t x)
{
    return MAX(x, (int64_t)0);
}

/* In the control group that leaves least room. */
static int64_t held_by_others(const struct limits *l)
{
    return at_least_0(l->m.cgroup_used - l->own);
}

/* What this process holds already (`own`) is not for others. A group's limit is
 * for it alone, so that an eighth is kept for what the kernel charges to it; of a
 * machine more is, for its other programs. */
static void find_default(struct limits *l)
{
    const struct os_memory *m = &l->m;
    const int64_t own = l->own;
    int64_t free_bytes = m->available + own;
    int64_t others = MAX(free_bytes / 8, MIN((int64_t)128 << 20, free_bytes / 4));
    l->budget = at_least_0(free_bytes - others);
    l->source = LIMIT_MACHINE;
    if (m->cgroup_limit != INT64_MAX) {
        int64_t room = m->cgroup_limit - m->cgroup_limit / 8 - held_by_others(l);
        room = MIN(at_least_0(room), m->cgroup_least - m->cgroup_least / 8);
        if (room < l->budget) {
            l->budget = room;
            l->source = LIMIT_CGROUP;
        }
    }
}

/* A resource limit counts what is reserved, used or not, and is no matter of the moment:
 * a budget beyond it would be refused half way. Kept free: stacks of readers, the ring,
 * what the C library reserves. */
static void cut_to_rlimit(struct limits *l)
{
    if (l->m.rlimit_left == INT64_MAX)
        return;
    int64_t all = l->m.rlimit_left + l->own;
    l->rlimit_kept = MAX(all / 8, (int64_t)8 << 20);
    if (at_least_0(all - l->rlimit_kept) < l->budget) {
        l->budget = at_least_0(all - l->rlimit_kept);
        l->source = LIMIT_RLIMIT;
    }
}

/* A budget stays a little below its group's limit: page tables and sockets are
 * charged to it too, and who reaches it is killed. (4 %: a budget with 5 % above it is
 * left alone.) */
static void cut_to_limit(struct limits *l)
{
    int64_t most = l->m.cgroup_least - l->m.cgroup_least / 24;
    if (l->m.cgroup_least != INT64_MAX && most < l->budget) {
        l->budget = most;
        l->source = LIMIT_CGROUP;
    }
}

void limits_of(uint64_t memory_bytes, const struct os_memory *m, int64_t own, struct limits *l)
{
    int64_t asked = (int64_t)MIN(memory_bytes, (uint64_t)INT64_MAX / 2);
    *l = (struct limits){
        .m = *m, .own = own, .asked = asked, .budget = asked, .source = LIMIT_ASKED};
    if (asked > 0)
        cut_to_limit(l);
    else
        find_default(l);
    cut_to_rlimit(l);
    l->now = l->budget;
    if (m->cgroup_limit != INT64_MAX && at_least_0(m->cgroup_limit - held_by_others(l)) < l->now) {
        l->now = at_least_0(m->cgroup_limit - held_by_others(l));
        l->short_of = NOW_CGROUP;
    }
}

void limits_find(uint64_t memory_bytes, struct limits *l)
{
    struct os_memory m;
    int64_t own = os_rss_anonymous();
    os_memory(&m);
    limits_of(memory_bytes, &m, own, l);
}

/* A group's default: its limit, less an eighth, less what others hold there; or a
 * limit above it, which is smaller though more of it is free. */
static void tell_cgroup(const struct limits *l, char *out, size_t room)
{
    const double mib = 1024.0 * 1024.0;
    const struct os_memory *m = &l->m;
    int64_t others = held_by_others(l);
    bool least = m->cgroup_least - m->cgroup_least / 8 <= l->budget;
    if (least || others < 1 << 20)
        snprintf(out, room, " (the control group's limit is %.1f MiB, an eighth is kept free)",
                 (double)(least ? m->cgroup_least : m->cgroup_limit) / mib);
    else
        snprintf(out, room,
                 " (of the control group's limit of %.1f MiB others hold %.1f MiB, and an eighth "
                 "is kept free)",
                 (double)m->cgroup_limit / mib, (double)others / mib);
}

void limits_tell(const struct limits *l, char *out, size_t room)
{
    const double mib = 1024.0 * 1024.0;
    const struct os_memory *m = &l->m;
    out[0] = '\0';
    if (l->source == LIMIT_RLIMIT && l->short_of == NOW_ENOUGH)
        snprintf(out, room,
                 " (resource limits of this process allow %.1f MiB, %.1f are kept free: see "
                 "ulimit -v and -d)",
                 (double)(m->rlimit_left + l->own) / mib, (double)l->rlimit_kept / mib);
    else if (l->short_of == NOW_CGROUP)
        snprintf(out, room, " (of the control group's limit of %.1f MiB only %.1f MiB are free)",
                 (double)m->cgroup_limit / mib, (double)l->now / mib);
    else if (l->source == LIMIT_CGROUP && l->asked > 0)
        snprintf(out, room, " (%.1f MiB were asked for, the control group's limit is %.1f MiB)",
                 (double)l->asked / mib, (double)m->cgroup_least / mib);
    else if (l->source == LIMIT_CGROUP)
        tell_cgroup(l, out, room);
    else if (l->source == LIMIT_MACHINE)
        snprintf(out, room,
                 " (the machine has %.1f MiB available, some are kept for other programs)",
                 (double)m->available / mib);
}
