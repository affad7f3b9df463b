/*
 * sluice bench: prompt and decode speed beside what the drive could give.
 *
 * Each repetition starts from an empty session with a prompt of its own; the
 * expert cache stays as the one before left it, as it would in use. The drive is
 * probed afterwards, when the model is closed, so that neither the probe's memory
 * nor its reads show in the measured numbers.
 */
#include "cli.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

struct numbers { /* of one repetition, or medians */
    double prompt_tps, decode_tps;
    double gb_per_token, hit_rate; /* decode; -1: nothing was asked of the cache */
    double achieved_gbs;           /* bytes read / time the drive was busy */
    double wait_share;             /* of decode time, waiting for reads */
    double prompt_gb;
    double cpu_per_token; /* decode, processor seconds of all threads */
};

struct bench {
    const struct args *a;
    struct cli_model m;
    int32_t *prompt;
    uint64_t random;
    json_t *runs;
    struct numbers *runs_numbers; /* a->repetitions */
    int n_runs;
    sluice_stats last;
    json_t *model;
};

/* ---- ids -------------------------------------------------------------------------------- */

/* splitmix64: the same ids on every machine. */
static uint64_t next_random(struct bench *b)
{
    uint64_t z = b->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Whether text can produce the token: control tokens and padding rows of the
 * vocabulary would send the model where it was never trained. */
static bool is_text_token(const struct bench *b, int32_t id)
{
    const char *p;
    size_t n;
    int32_t *ids = NULL;
    int64_t n_ids = 0;
    if (sluice_is_end(b->m.s, id) || sluice_piece(b->m.s, id, false, &p, &n, NULL) < 0 || n == 0)
        return false;
    bool ok = sluice_tokenize(b->m.s, p, n, false, &ids, &n_ids, NULL) == 0 && n_ids > 0 &&
              ids[n_ids - 1] == id;
    sluice_free(ids);
    return ok;
}

static int32_t random_id(struct bench *b)
{
    int32_t id = 0;
    for (int tries = 0; tries < 100; tries++) {
        id = (int32_t)(next_random(b) % (uint64_t)b->m.info.n_vocab);
        if (is_text_token(b, id))
            break;
    }
    return id;
}

/* Another one for each repetition: the same text again would find its own
 * experts in the cache. */
static void make_prompt(struct bench *b, int repetition)
{
    b->random = 20250101u + (uint64_t)repetition;
    for (int i = 0; i < b->a->n_prompt; i++)
        b->prompt[i] = random_id(b);
}

/* ---- one repetition ------------------------------------------------------------------------ */

static int count_token(void *user, int32_t id, const char *text, size_t n_bytes)
{
    (void)id, (void)text, (void)n_bytes;
    ++*(int64_t *)user;
    return interrupted();
}

/* Greedy tokens; where the model ends its answer a random token makes it go on. */
static int decode(struct bench *b, sluice_error *e)
{
    sluice_sampling p;
    sluice_finish finish;
    int64_t done = 0;
    sluice_sampling_init(&p);
    for (int ends = 0; done < b->a->n_predict; ends++) {
        int rc = sluice_generate(b->m.session, &p, b->a->n_predict - done, count_token, &done,
                                 &finish, e);
        if (rc < 0)
            return rc;
        if (finish == SLUICE_FINISH_STOPPED)
            return SLUICE_E_CANCELLED;
        if (finish == SLUICE_FINISH_LENGTH || done >= b->a->n_predict)
            return SLUICE_OK;
        if (ends > b->a->n_predict) /* it ends after every single token */
            return SLUICE_OK;
        int32_t id = random_id(b);
        rc = sluice_session_append(b->m.session, &id, 1, NULL, NULL, e);
        if (rc < 0)
            return rc;
    }
    return SLUICE_OK;
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static struct numbers numbers_from(const sluice_stats *prompt, const sluice_stats *s, double cpu)
{
    double tokens = (double)s->decode_tokens, seconds = (double)s->decode_ns / 1e9;
    double bytes = (double)s->decode_read_bytes;
    return (struct numbers){
        .prompt_tps = ratio((double)prompt->prompt_tokens * 1e9, (double)prompt->prompt_ns),
        .prompt_gb = (double)prompt->prompt_read_bytes / 1e9,
        .decode_tps = ratio(tokens, seconds),
        .gb_per_token = ratio(bytes / 1e9, tokens),
        .hit_rate = s->experts_requested
                        ? (double)s->expert_hits / (double)s->experts_requested
                        : -1,
        /* bytes of tokens that were fed in between count here too */
        .achieved_gbs = ratio(bytes + (double)s->prompt_read_bytes, (double)s->read_busy_ns),
        .wait_share = ratio((double)s->read_wait_ns / 1e9,
                            seconds + (double)s->prompt_ns / 1e9),
        .cpu_per_token = ratio(cpu, tokens),
    };
}

static int repetition(struct bench *b, int i)
{
    sluice_stats prompt;
    sluice_error e = {0};
    sluice_session_reset(b->m.session);
    sluice_reset_stats(b->m.s);
    progress_line("repetition %d of %d", i + 1, b->a->repetitions);
    make_prompt(b, i);
    if (sluice_session_append(b->m.session, b->prompt, b->a->n_prompt, NULL, NULL, &e) < 0)
        return fail(&e);
    sluice_get_stats(b->m.s, &prompt);
    sluice_reset_stats(b->m.s);
    double cpu = cpu_seconds();
    if (decode(b, &e) < 0)
        return interrupted() ? ST_INTERRUPTED : fail(&e);
    sluice_get_stats(b->m.s, &b->last);
    b->runs_numbers[i] = numbers_from(&prompt, &b->last, cpu_seconds() - cpu);
    b->n_runs = i + 1;
    json_array_append_new(b->runs, json_pack("{so so}", "prompt", json_stats(&prompt), "decode",
                                             json_stats(&b->last)));
    return interrupted() ? ST_INTERRUPTED : ST_OK;
}

/* ---- medians ----------------------------------------------------------------------------- */

static int compare(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* Of the double at `offset` in each repetition's numbers. */
static double median(const struct bench *b, size_t offset)
{
    double v[1000]; /* --repetitions goes no further */
    size_t n = (size_t)b->n_runs;
    for (size_t i = 0; i < n; i++)
        memcpy(&v[i], (const char *)&b->runs_numbers[i] + offset, sizeof(v[i]));
    qsort(v, n, sizeof(v[0]), compare);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static struct numbers medians(const struct bench *b)
{
#define MEDIAN(field) .field = median(b, offsetof(struct numbers, field))
    return (struct numbers){MEDIAN(prompt_tps),   MEDIAN(decode_tps), MEDIAN(gb_per_token),
                            MEDIAN(hit_rate),     MEDIAN(achieved_gbs), MEDIAN(wait_share),
                            MEDIAN(prompt_gb), MEDIAN(cpu_per_token)};
#undef MEDIAN
}

/* Measured speed as a fraction of what it would be if only the slower one of
 * drive and processor counted, after `alone` seconds in which the drive has
 * nothing to do: at the bytes really read, and the time that a token computes
 * with everything in memory. */
static double fraction(const struct numbers *n, const sluice_probe_result *probe, double alone)
{
    double measured = ratio(1, n->decode_tps);
    double drive = ratio(n->gb_per_token, probe->drive_gbs);
    double processor = probe->token_s > 0 ? probe->token_s : measured * (1 - n->wait_share);
    double rest = processor - alone;
    return ratio(alone + (drive > rest ? drive : rest), measured);
}

static double fraction_of_limit(const struct numbers *n, const sluice_probe_result *probe)
{
    return fraction(n, probe, 0);
}

/* The output matrix says which token comes next, and that which experts are
 * wanted: no engine that decodes token by token has anything to read meanwhile. */
static double fraction_of_reachable(const struct numbers *n, const sluice_probe_result *probe)
{
    return fraction(n, probe, probe->output_s);
}

/* ---- printing ------------------------------------------------------------------------------ */

/* probe: NULL without one. */
static json_t *json_numbers(const struct numbers *n, const sluice_probe_result *probe)
{
    json_t *j = json_pack(
        "{sf sf sf so sf sf sf sf}",
        "prompt_tps", n->prompt_tps,
        "decode_tps", n->decode_tps,
        "read_gb_per_token", n->gb_per_token,
        "hit_rate", n->hit_rate < 0 ? json_null() : json_real(n->hit_rate),
        "achieved_gbs", n->achieved_gbs,
        "wait_share", n->wait_share,
        "prompt_read_gb", n->prompt_gb,
        "cpu_per_token_s", n->cpu_per_token);
    if (j && probe && probe->drive_gbs > 0) {
        json_object_set_new(j, "fraction_of_limit", json_number(fraction_of_limit(n, probe)));
        json_object_set_new(j, "fraction_of_reachable",
                            json_number(fraction_of_reachable(n, probe)));
        double predicted = sluice_predict(probe, n->gb_per_token * 1e9);
        json_object_set_new(j, "predicted_tps",
                            predicted > 0 ? json_number(predicted) : json_null());
    }
    return j;
}

static int print_json(struct bench *b, const struct numbers *n, const sluice_probe_result *probe)
{
    const sluice_stats *s = &b->last;
    json_t *j = json_numbers(n, probe);
    json_t *more = json_pack(
        "{si si sI sI si si si sI sf sO* sO*}",
        "experts_used", s->n_experts_used,
        "experts_native", s->n_experts_native,
        "memory_peak", (json_int_t)sluice_memory_peak(),
        "memory_budget", (json_int_t)s->memory_budget,
        "n_prompt", b->a->n_prompt,
        "n_predict", b->a->n_predict,
        "repetitions", b->n_runs,
        "load_bytes", (json_int_t)s->load_bytes,
        "load_gbs", ratio((double)s->load_bytes, (double)s->load_ns),
        "model", b->model,
        "runs", b->runs);
    for (int i = 0; i < b->n_runs; i++)
        json_object_set_new(json_array_get(b->runs, (size_t)i), "figures",
                            json_numbers(&b->runs_numbers[i], probe));
    if (j && probe) {
        json_object_set_new(j, "drive_gbs", json_number(probe->drive_gbs));
        json_object_set_new(j, "probe", json_probe(probe));
    }
    if (json_object_update_missing(j, more)) { /* one of the two is not there */
        json_decref(j);
        j = NULL;
    }
    json_decref(more);
    return json_print(j);
}

static void print_text(const struct bench *b, const struct numbers *n,
                       const sluice_probe_result *probe)
{
    const sluice_stats *s = &b->last;
    bool drive = probe && probe->drive_gbs > 0;
    out_printf("prompt %.1f tok/s | decode %.2f tok/s | %.4f GB read per token | ", n->prompt_tps,
               n->decode_tps, n->gb_per_token);
    if (n->hit_rate < 0 && s->n_experts_native)
        out_printf("hit rate - | ");
    else if (s->n_experts_native)
        out_printf("hit rate %.1f %% | ", 100 * n->hit_rate);
    if (drive)
        out_printf("drive %.2f GB/s probed%s, %.2f achieved | %.0f %% of the limit "
                   "(%.0f %% of what can overlap) | ",
                   probe->drive_gbs, probe->direct ? "" : " (through the page cache)",
                   n->achieved_gbs, 100 * fraction_of_limit(n, probe),
                   100 * fraction_of_reachable(n, probe));
    else
        out_printf("drive %.2f GB/s achieved | ", n->achieved_gbs);
    out_printf("loaded %s at %.2f GB/s | ", show_size(s->load_bytes).s,
               ratio((double)s->load_bytes, (double)s->load_ns));
    if (s->n_experts_native)
        out_printf("experts %d of %d | ", s->n_experts_used, s->n_experts_native);
    out_printf("peak memory %s of %s\n", show_size(sluice_memory_peak()).s,
               show_size(s->memory_budget).s);
}

/* ---- the command ------------------------------------------------------------------------- */

static int measure(struct bench *b)
{
    const struct args *a = b->a;
    int status = cli_model_open(a, 0, &b->m);
    if (status != ST_OK)
        return status;
    /* decode may feed a token after each end of an answer */
    if ((int64_t)a->n_prompt + 2 * (int64_t)a->n_predict > b->m.info.n_context) {
        complain("%d tokens of prompt and twice %d to generate do not fit the longest session of "
                 "%d tokens", a->n_prompt, a->n_predict, b->m.info.n_context);
        return ST_USAGE;
    }
    sluice_set_progress(b->m.s, progress_quiet, NULL);
    b->model = json_model(b->m.s);
    b->prompt = malloc((size_t)a->n_prompt * sizeof(*b->prompt));
    if (!b->prompt)
        return no_memory();
    for (int i = 0; i < a->repetitions && status == ST_OK; i++)
        status = repetition(b, i);
    return status;
}

int cmd_bench(const struct args *a)
{
    struct bench b = {.a = a, .runs = json_array()};
    sluice_probe_result probe;
    sluice_options o;
    char path[PATH_MAX];
    sluice_error e = {0};
    b.runs_numbers = calloc((size_t)a->repetitions, sizeof(*b.runs_numbers));
    int status = b.runs_numbers ? measure(&b) : no_memory();
    status = cli_model_close(&b.m, status);
    if (status == ST_OK)
        status = model_options(a, path, &o);
    if (status == ST_OK && !a->no_probe) {
        o.warning = NULL; /* told when the model was opened */
        if (sluice_probe(&o, &probe, &e) < 0)
            status = fail(&e);
    }
    if (status == ST_OK) {
        struct numbers n = medians(&b);
        const sluice_probe_result *p = a->no_probe ? NULL : &probe;
        if (a->json)
            status = print_json(&b, &n, p);
        else
            print_text(&b, &n, p);
    }
    json_decref(b.runs);
    json_decref(b.model);
    free(b.runs_numbers);
    free(b.prompt);
    return status;
}
