/*
 * bench/sessions: several sessions decoding together, from one expert cache.
 *
 *   sessions MODEL MEMORY_MIB THREADS TOKENS [SESSIONS...]
 *
 * For each number of sessions (1 2 4 8): prompts of 24 random ids, a few tokens to
 * fill the cache, then TOKENS steps in which each session draws its own next id.
 * Prints tokens a second of all together, MB read for each token, and the hit rate.
 */
#include "sluice.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MOST = 8, PROMPT = 24, WARM = 24 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(int rc, const sluice_error *e)
{
    if (rc == 0)
        return;
    fprintf(stderr, "sessions: %s\n", e->text);
    exit(1);
}

/* Each session appends what it draws. */
static void decode(sluice *s, sluice_session **x, sluice_sampler **z, int k, int steps)
{
    sluice_span spans[MOST];
    int32_t ids[MOST];
    sluice_error e;
    for (int t = 0; t < steps; t++) {
        for (int i = 0; i < k; i++) {
            must(sluice_sampler_next(z[i], x[i], &ids[i], &e), &e);
            spans[i] = (sluice_span){.session = x[i], .ids = &ids[i], .n = 1};
        }
        must(sluice_step(s, spans, k, &e), &e);
        for (int i = 0; i < k; i++)
            must(spans[i].status, &spans[i].error);
    }
}

static void measure(sluice *s, int k, int steps)
{
    sluice_session *x[MOST];
    sluice_sampler *z[MOST];
    sluice_sampling p;
    sluice_model_info info;
    sluice_stats a;
    sluice_error e;
    sluice_info(s, &info);
    sluice_sampling_init(&p);
    p.temperature = 1.0f;
    for (int i = 0; i < k; i++) {
        int32_t ids[PROMPT];
        for (int j = 0; j < PROMPT; j++)
            ids[j] = (int32_t)(((unsigned)(i * PROMPT + j) * 2654435761u >> 8) %
                               (unsigned)info.n_vocab);
        p.seed = (uint64_t)i + 1;
        must(sluice_session_new(s, &x[i], &e), &e);
        must(sluice_sampler_new(s, &p, &z[i], &e), &e);
        must(sluice_session_sync(x[i], ids, PROMPT, 0, &e), &e);
    }
    decode(s, x, z, k, WARM);
    sluice_reset_stats(s);
    double begin = now();
    decode(s, x, z, k, steps);
    double seconds = now() - begin;
    sluice_get_stats(s, &a);
    printf("%d sessions: %.2f tok/s, %.1f MB a token, hit rate %.1f %%, %.1f guesses a step of "
           "which %.0f %% useful, drive busy %.0f %% of the time, peak %.0f of %.0f MiB\n", k,
           k * steps / seconds, (double)a.decode_read_bytes / 1e6 / (k * steps),
           a.experts_requested ? 100.0 * (double)a.expert_hits / (double)a.experts_requested : 0.0,
           (double)a.guesses / steps,
           a.guesses ? 100.0 * (double)a.guesses_useful / (double)a.guesses : 0.0,
           1e-7 * (double)a.read_busy_ns / seconds,
           (double)a.memory_peak / 1048576.0, (double)a.memory_budget / 1048576.0);
    fflush(stdout);
    for (int i = 0; i < k; i++) {
        sluice_sampler_free(z[i]);
        sluice_session_free(x[i]);
    }
}

int main(int argc, char **argv)
{
    static const int usual[] = {1, 2, 4, 8};
    if (argc < 5) {
        fprintf(stderr, "usage: sessions MODEL MEMORY_MIB THREADS TOKENS [SESSIONS...]\n");
        return 2;
    }
    sluice_options o;
    sluice_error e;
    sluice *s;
    sluice_options_init(&o);
    o.model = argv[1];
    o.memory_bytes = strtoull(argv[2], NULL, 10) << 20;
    o.threads = atoi(argv[3]);
    o.context = 512;
    must(sluice_open(&o, &s, &e), &e);
    for (int i = 0; i < (argc > 5 ? argc - 5 : 4); i++) {
        int k = argc > 5 ? atoi(argv[5 + i]) : usual[i];
        if (k >= 1 && k <= MOST)
            measure(s, k, atoi(argv[4]));
    }
    sluice_close(s);
    return 0;
}
