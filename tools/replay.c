/*
 * replay: what the eviction policies make of recorded routing.
 *
 *   replay [--json] [--sizes 1.2,2,4,8] TRACE...
 *
 * For each trace and each cache size (in multiples of the experts one token
 * uses) prints misses and hit rate of every policy, its misses relative to
 * LRU, and Belady's optimum relative to LRU.
 */
#include "../tests/support/replay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SIZES 16
#define MAX_POLICIES 16

struct summary {
    double sum[MAX_POLICIES], worst[MAX_POLICIES];
    double optimum;
    int n;
};

static const struct expert_policy *named(const char *name)
{
    for (int i = 0; expert_policies[i]; i++)
        if (strcmp(expert_policies[i]->name, name) == 0)
            return expert_policies[i];
    return NULL;
}

static void print_row(bool json, const struct replay_trace *t, double times, int64_t n_slots,
                      const char *policy, int64_t misses, int64_t lru)
{
    double hit = 100.0 * (double)(t->n_requests - misses) / (double)t->n_requests;
    double ratio = (double)misses / (double)lru;
    if (json)
        printf("{\"trace\": \"%s\", \"size\": %g, \"slots\": %lld, \"policy\": \"%s\", "
               "\"requests\": %lld, \"misses\": %lld, \"hit_rate\": %.4f, \"lru_ratio\": %.4f}\n",
               t->name, times, (long long)n_slots, policy, (long long)t->n_requests,
               (long long)misses, hit / 100, ratio);
    else
        printf("%-34s %4g %6lld  %-8s %7lld  %5.1f %%  %.3f\n", t->name, times, (long long)n_slots,
               policy, (long long)misses, hit, ratio);
}

static bool replay_size(bool json, const struct replay_trace *t, double times, struct summary *s)
{
    int64_t n_slots = replay_slots(t, times);
    if (n_slots < t->n_used) {
        fprintf(stderr, "replay: size %g holds fewer experts than one layer uses\n", times);
        return false;
    }
    int64_t lru = replay_policy(t, named("lru"), n_slots), optimum = replay_belady(t, n_slots);
    if (lru <= 0 || optimum <= 0) {
        fprintf(stderr, "replay: no memory, or nothing requested in %s\n", t->name);
        return false;
    }
    for (int i = 0; expert_policies[i] && i < MAX_POLICIES; i++) {
        int64_t misses = replay_policy(t, expert_policies[i], n_slots);
        print_row(json, t, times, n_slots, expert_policies[i]->name, misses, lru);
        double ratio = (double)misses / (double)lru;
        s->sum[i] += ratio;
        s->worst[i] = MAX(s->worst[i], ratio);
    }
    print_row(json, t, times, n_slots, "belady", optimum, lru);
    s->optimum += (double)optimum / (double)lru;
    s->n++;
    return true;
}

static int parse_sizes(const char *text, double *sizes)
{
    int n = 0;
    char *end;
    while (n < MAX_SIZES) {
        sizes[n] = strtod(text, &end);
        if (end == text || sizes[n] <= 0)
            return 0;
        n++;
        if (*end == '\0')
            return n;
        if (*end != ',')
            return 0;
        text = end + 1;
    }
    return 0;
}

static int usage(void)
{
    fprintf(stderr, "usage: replay [--json] [--sizes 1.2,2,4,8] TRACE...\n");
    return 2;
}

int main(int argc, char **argv)
{
    double sizes[MAX_SIZES] = {1.2, 2, 4, 8};
    int n_sizes = 4, arg = 1;
    bool json = false;
    for (; arg < argc && argv[arg][0] == '-'; arg++) {
        if (strcmp(argv[arg], "--json") == 0)
            json = true;
        else if (strcmp(argv[arg], "--sizes") != 0 || ++arg == argc ||
                 (n_sizes = parse_sizes(argv[arg], sizes)) == 0)
            return usage();
    }
    if (arg == argc)
        return usage();
    struct summary s = {.n = 0};
    if (!json)
        printf("%-34s size  slots  policy    misses     hits  / LRU\n", "trace");
    for (; arg < argc; arg++) {
        struct replay_trace t;
        struct err e = {0};
        bool ok = replay_load(argv[arg], &t, &e) == OK;
        if (!ok)
            fprintf(stderr, "replay: %s\n", e.text);
        for (int i = 0; ok && i < n_sizes; i++)
            ok = replay_size(json, &t, sizes[i], &s);
        replay_free(&t);
        if (!ok)
            return 1;
    }
    for (int i = 0; !json && expert_policies[i]; i++)
        printf("%s: misses / LRU: mean %.4f, worst %.4f\n", expert_policies[i]->name,
               s.sum[i] / s.n, s.worst[i]);
    if (!json)
        printf("belady: misses / LRU: mean %.4f\n", s.optimum / s.n);
    return 0;
}
