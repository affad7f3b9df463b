/*
 * What the control groups of this process allow: memory and processor time.
 *
 * Version 1 (one tree per controller) and version 2 (one tree for all) may
 * both be mounted; a limit may sit on any ancestor, and in a container the
 * group's path may lie outside the part of the tree that is mounted. So: take
 * each line of /proc/self/cgroup, find the mount of its tree, and walk from
 * the group up to the mount point, looking at every level. A file that is not
 * there is no limit.
 */
#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#define GROUP_PATH_MAX 4096

/* Version 1 writes "no limit" as the largest multiple of the page size. */
#define NO_LIMIT_FROM (INT64_MAX / 2)

/* ---- reading ---- */

/* First number in a file; -1: no file, or no number ("max"). */
static int64_t read_number(const char *dir, const char *name)
{
    char path[GROUP_PATH_MAX + 64];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "re");
    if (!f)
        return -1;
    long long v = -1;
    if (fscanf(f, "%lld", &v) != 1)
        v = -1;
    fclose(f);
    return v;
}

/* Sum of the values of the named lines ("name value") of memory.stat; absent
 * names count nothing. `names` ends with NULL. */
static int64_t sum_stat(const char *dir, const char *const *names)
{
    char path[GROUP_PATH_MAX + 64], key[64];
    snprintf(path, sizeof(path), "%s/memory.stat", dir);
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    long long v;
    int64_t sum = 0;
    while (fscanf(f, "%63s %lld", key, &v) == 2) {
        for (int i = 0; names[i]; i++) {
            if (strcmp(key, names[i]) == 0)
                sum += v;
        }
    }
    fclose(f);
    return sum;
}

/* ---- one level of a tree ---- */

/* Keeps the level that leaves the least room. */
static void offer_memory(struct os_cgroup *c, int64_t limit, int64_t used)
{
    bool first = c->memory_limit == INT64_MAX;
    c->memory_least = MIN(c->memory_least, limit);
    if (first || limit - used < c->memory_limit - c->memory_used) {
        c->memory_limit = limit;
        c->memory_used = used;
    }
}

static void offer_cpus(struct os_cgroup *c, int64_t quota, int64_t period)
{
    if (quota <= 0 || period <= 0)
        return;
    double cpus = (double)quota / (double)period;
    if (c->cpus == 0 || cpus < c->cpus)
        c->cpus = cpus;
}

/* The page cache is left out of "used": the kernel drops it on demand. Shared
 * memory (tmpfs) counts as cache there but cannot be dropped. */
static void memory_v1(const char *dir, struct os_cgroup *c)
{
    static const char *const held[] = {"total_rss", "total_shmem", NULL};
    int64_t limit = read_number(dir, "memory.limit_in_bytes");
    if (limit >= 0 && limit < NO_LIMIT_FROM)
        offer_memory(c, limit, sum_stat(dir, held));
}

static void memory_v2(const char *dir, struct os_cgroup *c)
{
    static const char *const held[] = {"anon",   "shmem", "kernel_stack",       "pagetables",
                                       "percpu", "sock",  "slab_unreclaimable", NULL};
    int64_t limit = read_number(dir, "memory.max");
    /* Above memory.high nothing is killed, but every allocation waits for
     * reclaim: for a process that must not thrash it is the limit. */
    int64_t high = read_number(dir, "memory.high");
    if (limit < 0 || (high >= 0 && high < limit))
        limit = high;
    if (limit >= 0 && limit < NO_LIMIT_FROM)
        offer_memory(c, limit, sum_stat(dir, held));
}

static void cpu_v1(const char *dir, struct os_cgroup *c)
{
    offer_cpus(c, read_number(dir, "cpu.cfs_quota_us"), read_number(dir, "cpu.cfs_period_us"));
}

static void cpu_v2(const char *dir, struct os_cgroup *c)
{
    char path[GROUP_PATH_MAX + 64];
    snprintf(path, sizeof(path), "%s/cpu.max", dir);
    FILE *f = fopen(path, "re");
    if (!f)
        return;
    long long quota, period;
    if (fscanf(f, "%lld %lld", &quota, &period) == 2) /* "max 100000": no limit */
        offer_cpus(c, quota, period);
    fclose(f);
}

static void both_v2(const char *dir, struct os_cgroup *c)
{
    memory_v2(dir, c);
    cpu_v2(dir, c);
}

/* ---- finding the trees ---- */

typedef void level_fn(const char *dir, struct os_cgroup *c);

/* Is `word` one of the words of a list separated by commas? */
static bool has_word(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = list; p; p = strchr(p, ',')) {
        p += *p == ',';
        if (strncmp(p, word, n) == 0 && (p[n] == '\0' || p[n] == ',' || p[n] == '\n'))
            return true;
    }
    return false;
}

/* mountinfo writes blanks and backslashes in paths as \ooo. */
static void unescape(char *s)
{
    char *out = s;
    while (*s) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
            *out++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
            s += 4;
        } else {
            *out++ = *s++;
        }
    }
    *out = '\0';
}

struct mount {
    char *top;   /* directory of the tree that is mounted */
    char *point; /* where */
};

/* Takes a line of mountinfo apart, in place:
 * id parent major:minor top point options [optional...] - type source super */
static bool parse_mount(char *line, const char *controller, struct mount *m)
{
    char *tail = strstr(line, " - ");
    if (!tail)
        return false;
    *tail = '\0';
    char type[32], super[1024] = "";
    if (sscanf(tail + 3, "%31s %*s %1023s", type, super) < 1)
        return false;
    bool found = controller ? strcmp(type, "cgroup") == 0 && has_word(super, controller)
                            : strcmp(type, "cgroup2") == 0;
    if (!found)
        return false;

    char *save = NULL, *field = strtok_r(line, " ", &save);
    for (int i = 0; field && i < 3; i++)
        field = strtok_r(NULL, " ", &save);
    m->top = field;
    m->point = strtok_r(NULL, " ", &save);
    if (!m->top || !m->point)
        return false;
    unescape(m->top);
    unescape(m->point);
    return true;
}

/* The group's path below the mount point; "" when the mount does not show it
 * (a container that sees its own part of the tree as the whole). */
static const char *path_below(const char *group, const char *top)
{
    if (strstr(group, "/.."))
        return "";
    size_t n = strcmp(top, "/") == 0 ? 0 : strlen(top);
    if (strncmp(group, top, n) != 0 || (group[n] != '/' && group[n] != '\0'))
        return "";
    return strcmp(group + n, "/") == 0 ? "" : group + n;
}

static void walk_up(const char *root, const struct mount *m, const char *group, level_fn *level,
                    struct os_cgroup *c)
{
    char dir[GROUP_PATH_MAX];
    size_t base = strlen(root) + strlen(m->point);
    int n = snprintf(dir, sizeof(dir), "%s%s%s", root, m->point, path_below(group, m->top));
    if (n < 0 || (size_t)n >= sizeof(dir))
        return;
    for (;;) {
        level(dir, c);
        char *slash = strrchr(dir + base, '/');
        if (!slash)
            return;
        *slash = '\0';
    }
}

/* controller NULL: version 2. */
static void visit(const char *root, const char *controller, const char *group, level_fn *level,
                  struct os_cgroup *c)
{
    char path[GROUP_PATH_MAX];
    snprintf(path, sizeof(path), "%s/proc/self/mountinfo", root);
    FILE *f = fopen(path, "re");
    if (!f)
        return;
    char *line = NULL;
    size_t cap = 0;
    bool found = false;
    while (!found && getline(&line, &cap, f) > 0) {
        struct mount m;
        found = parse_mount(line, controller, &m);
        if (found)
            walk_up(root, &m, group, level, c);
    }
    free(line);
    fclose(f);
}

void os_cgroup(const char *root, struct os_cgroup *c)
{
    *c = (struct os_cgroup){.memory_limit = INT64_MAX, .memory_least = INT64_MAX};

    char path[GROUP_PATH_MAX];
    snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    if (!f)
        return;
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, f) > 0) { /* hierarchy:controllers:/path */
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        controllers++;
        if (*controllers == '\0')
            visit(root, NULL, group, both_v2, c);
        if (has_word(controllers, "memory"))
            visit(root, "memory", group, memory_v1, c);
        if (has_word(controllers, "cpu"))
            visit(root, "cpu", group, cpu_v1, c);
    }
    free(line);
    fclose(f);
}
