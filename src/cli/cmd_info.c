/*
 * sluice plan, probe and tokenize: what is known without running the model.
 */
#include "cli.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- plan --------------------------------------------------------------------------- */

static void plan_line(const char *name, int64_t bytes, const char *about)
{
    out_printf("  %-12s %12s%s%s\n", name, show_size(bytes).s, *about ? "   " : "", about);
}

/* Rounded up: what is printed works as --memory. */
static void plan_line_up(const char *name, int64_t bytes, const char *about)
{
    out_printf("  %-12s %12s   %s\n", name, show_size_up(bytes).s, about);
}

static void print_plan_lines(const sluice_plan *p)
{
    out_printf("Memory plan\n");
    plan_line("process", p->process, "program, libraries, tokeniser, thread stacks");
    if (p->dense_read_per_token > 0)
        plan_line("dense", p->dense, "of the weights that every token needs; the rest is read for each");
    else
        plan_line("dense", p->dense, "weights that every token needs");
    plan_line("state", p->state, "recurrent state and its snapshots");
    plan_line("KV cache", p->kv, "at the start; it grows by taking from the expert cache");
    plan_line("scratch", p->scratch, "activations of a chunk");
    plan_line("expert cache", p->cache, "");
    plan_line("sum", p->process + p->dense + p->state + p->kv + p->scratch + p->cache, "");
    out_printf("\n");
    plan_line("budget", p->budget,
              p->budget_is_default          ? "what machine and cgroup allow"
              : p->budget < p->budget_asked ? "what the cgroup allows of what was asked for"
                                            : "as asked for");
    plan_line_up("floor", p->floor, "smallest budget that works");
    plan_line("all experts", p->cache_full, "an expert cache of this size never reads twice");
    plan_line("smallest", p->cache_min, "expert cache that works");
}

static void print_plan(const sluice_plan *p, bool probed)
{
    print_plan_lines(p);
    out_printf("\nSession\n  %-12s %12d   tokens at most (%s of KV cache each)\n", "context",
               p->n_context, show_size(p->kv_per_token).s);
    out_printf("  %-12s %12d   tokens of a prompt computed together\n", "chunk", p->chunk);
    out_printf("\nMachine\n");
    plan_line("memory", p->machine_total, "");
    plan_line("available", p->machine_available, "");
    if (p->cgroup_limit != INT64_MAX)
        plan_line("cgroup", p->cgroup_limit, "limit");
    out_printf("\nEach decoded token\n");
    plan_line("experts", p->expert_bytes_per_token,
              p->packed ? "picked by the routers; the file is packed: one read each"
                        : "picked by the routers; one read for each matrix");
    plan_line("dense", p->dense_bytes_per_token, "read from memory");
    if (p->dense_read_per_token > 0)
        plan_line("dense read", p->dense_read_per_token, "read from the drive: dense weights that do not stay");
    out_printf("  %-12s %10.1f %%   if all experts are picked equally often; %.1f %% if as in real models\n",
               "hit rate", 100 * p->hit_rate, 100 * p->typical_hit_rate);
    if (p->recorded_hit_rate >= 0)
        out_printf("  %-12s %10.1f %%   for the recorded routing\n", "", 100 * p->recorded_hit_rate);
    if (p->decode_tps <= 0) {
        if (p->drive_gbs > 0 || probed)
            out_printf("  %-12s %12s   not predicted: the budget has no room for a measurement that means anything\n",
                       "speed", "-");
        return;
    }
    out_printf("  %-12s %12.2f   tok/s predicted for equal picks, where the limit is the %s; %.2f as in real models\n",
               "speed", p->decode_tps, p->limited_by_drive ? "drive" : "memory", p->typical_tps);
    if (p->recorded_tps > 0)
        out_printf("  %-12s %12.2f   tok/s for the recorded routing\n", "", p->recorded_tps);
    if (!p->packed)
        out_printf("  %-12s %12.2f   times that for equal picks if the file were packed (sluice pack)\n",
                   "packing", p->pack_gain);
    out_printf("  %-12s %12.2f   ms measured for a token with everything in memory\n", "computing", 1e3 * p->compute_s);
    out_printf("  %-12s %12.2f   GB/s measured\n", "drive", p->drive_gbs);
    if (p->memory_gbs > 0)
        out_printf("  %-12s %12.2f   GB/s measured\n", "memory", p->memory_gbs);
    else
        out_printf("  %-12s %12s   GB/s, not measured: the budget has no room beyond the caches\n", "memory", "-");
}

/* With JSON a refusal is part of the value, so that a program has both. */
static int print_plan_json(const sluice_plan *p, const sluice_error *e)
{
    json_t *j = json_plan(p);
    if (j)
        json_object_set_new(j, "memory_peak", json_integer(sluice_memory_peak()));
    if (j && e->code)
        json_object_set_new(j, "refused", json_bytes(e->text, strlen(e->text)));
    return json_print(j);
}

static int plan_with(const struct args *a, const sluice_options *o)
{
    sluice_plan p = {0};
    sluice_probe_result probe;
    sluice_error e = {0};
    int status = ST_OK;
    /* first without a probe: a refusal should not take two seconds */
    int rc = sluice_plan_memory(o, NULL, &p, &e);
    if (interrupted())
        return ST_INTERRUPTED;
    if (rc == 0 && !a->no_probe) {
        rc = sluice_probe(o, &probe, &e);
        if (rc < 0)
            return fail_asked(&e);
        rc = sluice_plan_memory(o, &probe, &p, &e);
    }
    if (rc < 0 && rc != SLUICE_E_BUDGET)
        return fail_asked(&e);
    if (a->json)
        status = print_plan_json(&p, &e);
    else
        print_plan(&p, rc == 0 && !a->no_probe);
    return rc < 0 ? fail(&e) : status;
}

int cmd_plan(const struct args *a)
{
    char path[PATH_MAX];
    sluice_options o;
    struct picks picks = {.ids = NULL};
    int status = model_options(a, path, &o);
    if (status == ST_OK && a->routing) {
        status = routing_read(a->routing, &picks);
        o.routing = &picks.r;
    }
    if (status == ST_OK)
        status = plan_with(a, &o);
    routing_free(&picks);
    return status;
}

/* ---- probe -------------------------------------------------------------------------- */

/* A figure that was not measured is left out, and why. */
static void probe_line(const char *name, double gbs, const char *about, const char *size)
{
    if (gbs > 0)
        out_printf("%-8s %8.2f GB/s  %s%s\n", name, gbs, about, size);
    else
        out_printf("%-8s        - GB/s  %s%s: not measured, the memory budget has no room for it\n", name, about, size);
}

static int print_probe_json(const sluice_probe_result *p)
{
    json_t *j = json_probe(p);
    if (j)
        json_object_set_new(j, "memory_peak", json_integer(sluice_memory_peak()));
    return json_print(j);
}

int cmd_probe(const struct args *a)
{
    char path[PATH_MAX];
    sluice_options o;
    sluice_probe_result p;
    sluice_error e = {0};
    int status = model_options(a, path, &o);
    if (status != ST_OK)
        return status;
    if (sluice_probe(&o, &p, &e) < 0)
        return fail_asked(&e);
    if (a->json)
        return print_probe_json(&p);
    probe_line("drive", p.drive_gbs, "in reads of ", show_size(p.block_bytes).s);
    if (p.packed_bytes != p.block_bytes)
        probe_line("", p.drive_gbs_packed, "in reads of an expert of a packed file, ", show_size(p.packed_bytes).s);
    probe_line("", p.drive_gbs_big, "in reads of 4 MiB", "");
    probe_line("memory", p.memory_gbs, "streaming reads", "");
    probe_line("kernel", p.dot_gbs, "decode kernel over a large matrix", "");
    if (p.token_s > 0)
        out_printf("token    %8.2f ms    computed from memory, of it %.2f ms for the output matrix\n", 1e3 * p.token_s,
                   1e3 * p.output_s);
    if (!p.direct)
        note("Direct I/O is not possible on this file system: the drive's figures may be those "
             "of the page cache.");
    return ST_OK;
}

/* ---- tokenize ------------------------------------------------------------------------ */

static int encode(const struct args *a, const struct model *m, const char *text, size_t n)
{
    int32_t *ids = NULL;
    int64_t n_ids = 0;
    sluice_error e = {0};
    if (sluice_tokenize(m->s, text, n, a->markup, &ids, &n_ids, &e) < 0)
        return fail(&e);
    int status = ST_OK;
    if (!input_take((size_t)n_ids * sizeof(*ids))) {
        sluice_free(ids);
        return input_too_much("the ids");
    }
    if (a->json) {
        json_t *pieces = json_array();
        for (int64_t i = 0; i < n_ids; i++) {
            const char *p = "";
            size_t len = 0;
            (void)sluice_piece(m->s, ids[i], true, &p, &len, NULL);
            json_array_append_new(pieces, json_bytes(p, len));
        }
        status = json_print(json_pack("{so so}", "ids", json_ids(ids, n_ids), "pieces", pieces));
    } else {
        for (int64_t i = 0; i < n_ids; i++)
            out_printf("%s%d", i ? "," : "", ids[i]);
        out_printf("\n");
    }
    sluice_free(ids);
    return status;
}

/* The text of ids as bytes, nothing added, so that it can be piped on; only a
 * terminal gets a last newline. */
static int decode(const struct args *a, const struct model *m, const int32_t *ids, int64_t n_ids)
{
    struct text_buf text = {0};
    sluice_error e = {0};
    int status = ST_OK;
    for (int64_t i = 0; i < n_ids && status == ST_OK; i++) {
        const char *p;
        size_t len;
        if (sluice_piece(m->s, ids[i], a->markup, &p, &len, &e) < 0)
            status = fail_asked(&e);
        else if (!a->json)
            out_write(p, len);
        else if (!input_take(2 * len) || !buf_add(&text, p, len))
            status = input_refused() ? input_too_much("the text") : no_memory();
    }
    if (status == ST_OK && a->json)
        status = json_print(json_pack("{so so}", "text", json_bytes(text.p, text.n), "ids",
                                      json_ids(ids, n_ids)));
    if (status == ST_OK && !a->json && out_is_terminal())
        out_printf("\n");
    buf_free(&text);
    return status;
}

int cmd_tokenize(const struct args *a)
{
    struct model m = {0};
    char *input = NULL;
    int32_t *ids = NULL;
    int64_t n_ids = 0;
    const char *text = a->word;
    size_t n = text ? strlen(text) : 0;
    if (!text && isatty(STDIN_FILENO)) {
        complain("a text is missing, as in: sluice tokenize \"Define run.\"");
        return ST_USAGE;
    }
    if (!text || strcmp(text, "-") == 0) {
        text = input = read_all_stdin(!a->decode, &n);
        if (!input)
            return interrupted() ? ST_INTERRUPTED : ST_FAIL;
    }
    int status = ST_OK;
    if (a->decode && !input_take(2 * n))
        status = input_too_much("the list of ids");
    else if (a->decode)
        status = ids_of_text("", text, n, &ids, &n_ids);
    if (status == ST_OK)
        status = model_open_tokenizer(a, &m);
    if (status == ST_OK)
        status = a->decode ? decode(a, &m, ids, n_ids) : encode(a, &m, text, n);
    free(input);
    free(ids);
    return model_close(&m, status);
}
