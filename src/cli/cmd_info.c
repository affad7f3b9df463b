/*
 * sluice plan, probe and tokenize: what is known without running the model.
 */
#include "cli.h"

#include <limits.h>
#include <stdio.h>
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

/* A model without experts has no line about them. */
static bool has_experts(const sluice_memory *m)
{
    return m->cache_full > 0;
}

/* The lines of a plan; below the floor those of the floor, whose sum is above the budget. */
static void print_lines(const sluice_memory *m, bool dense_is_read)
{
    bool fits = m->missing == 0;
    int64_t kv = fits ? m->kv : m->kv_least;
    char least[80];
    snprintf(least, sizeof(least), "for %d tokens", m->n_context);
    out_printf(fits ? "Memory plan\n" : "Smallest memory plan\n");
    plan_line("process", m->process, "program, libraries, tokeniser, thread stacks");
    plan_line("dense", m->dense,
              dense_is_read ? "of the weights that every token needs; the rest is read for each"
                            : "weights that every token needs");
    plan_line("state", m->state,
              "of a session, whatever its length: recurrent state, near layers, copies");
    plan_line("KV cache", kv,
              !fits            ? least
              : has_experts(m) ? "at the start; it grows by taking from the expert cache"
                               : "at the start; it grows into what is free");
    plan_line("scratch", m->scratch, "activations of a chunk");
    if (has_experts(m))
        plan_line("expert cache", m->cache, fits ? "" : "the smallest that works");
    plan_line("sum", m->process + m->dense + m->state + kv + m->scratch + m->cache, "");
}

static void print_budget(const sluice_memory *m)
{
    out_printf("\n");
    plan_line("budget", m->budget,
              m->budget_is_default          ? "what machine and cgroup allow"
              : m->budget < m->budget_asked ? "what a limit allows of what was asked for"
                                            : "as asked for");
    plan_line_up("floor", m->floor, "smallest budget that works");
    if (m->missing > 0) {
        if (m->floor - m->missing < m->budget)
            plan_line("free", m->floor - m->missing,
                      "of the budget there is no more at this moment");
        plan_line_up("missing", m->missing, "to the floor");
        return;
    }
    if (!has_experts(m))
        return;
    plan_line("all experts", m->cache_full, "an expert cache of this size never reads twice");
    plan_line("smallest", m->cache_min, "expert cache that works");
}

static void print_speed(const sluice_plan *p, bool probed)
{
    const sluice_speed *s = &p->speed;
    if (s->decode_tps <= 0) {
        if (s->drive_gbs > 0 || probed)
            out_printf(
                "  %-12s %12s   not predicted: the budget has no room for a measurement that "
                "means anything\n",
                "speed", "-");
        return;
    }
    if (has_experts(&p->memory))
        out_printf(
            "  %-12s %12.2f   tok/s predicted for equal picks, where the limit is the %s; %.2f as "
            "in real models\n",
            "speed", s->decode_tps, s->limited_by_drive ? "drive" : "memory", s->typical_tps);
    else
        out_printf("  %-12s %12.2f   tok/s predicted; the limit is the %s\n", "speed",
                   s->decode_tps, s->limited_by_drive ? "drive" : "memory");
    if (s->recorded_tps > 0)
        out_printf("  %-12s %12.2f   tok/s for the recorded routing\n", "", s->recorded_tps);
    if (!p->traffic.packed && has_experts(&p->memory))
        out_printf(
            "  %-12s %12.2f   times that for equal picks if the file were packed (sluice pack)\n",
            "packing", s->pack_gain);
    out_printf("  %-12s %12.2f   ms measured for a token with everything in memory\n", "computing",
               1e3 * s->compute_s);
    out_printf("  %-12s %12.2f   GB/s measured\n", "drive", s->drive_gbs);
    if (s->memory_gbs > 0)
        out_printf("  %-12s %12.2f   GB/s measured\n", "memory", s->memory_gbs);
    else
        out_printf("  %-12s %12s   GB/s, not measured: the budget has no room beyond the caches\n",
                   "memory", "-");
}

static void print_traffic(const sluice_traffic *t)
{
    out_printf("\nEach decoded token\n");
    const bool experts = t->expert_bytes_per_token > 0;
    if (experts)
        plan_line("experts", t->expert_bytes_per_token,
                  t->packed ? "picked by the routers; the file is packed: one read each"
                            : "picked by the routers; one read for each matrix");
    plan_line("dense", t->dense_bytes_per_token, "read from memory");
    if (t->dense_read_per_token > 0)
        plan_line("dense read", t->dense_read_per_token,
                  "read from the drive: dense weights that do not stay");
    if (experts)
        out_printf("  %-12s %10.1f %%   if all experts are picked equally often; %.1f %% if as in "
                   "real models\n",
                   "hit rate", 100 * t->hit_rate, 100 * t->typical_hit_rate);
    if (t->recorded_hit_rate >= 0)
        out_printf("  %-12s %10.1f %%   for the recorded routing\n", "",
                   100 * t->recorded_hit_rate);
}

static void print_machine(const sluice_memory *m)
{
    out_printf("\nMachine\n");
    plan_line("memory", m->machine_total, "");
    plan_line("available", m->machine_available, "");
    if (m->cgroup_limit != INT64_MAX)
        plan_line("cgroup", m->cgroup_limit, "limit");
}

/* What does not fit has no session, no hit rate and no speed. */
static void print_plan(const sluice_plan *p, bool probed)
{
    const sluice_memory *m = &p->memory;
    print_lines(m, p->traffic.dense_read_per_token > 0);
    print_budget(m);
    if (m->missing > 0) {
        print_machine(m);
        return;
    }
    out_printf("\nSession\n  %-12s %12d   tokens at most (%s of KV cache each)\n", "context",
               m->n_context, show_size(m->kv_per_token).s);
    out_printf("  %-12s %12d   tokens of a prompt computed together\n", "chunk", m->chunk);
    print_machine(m);
    print_traffic(&p->traffic);
    print_speed(p, probed);
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
        out_printf("%-8s        - GB/s  %s%s: not measured, the memory budget has no room for it\n",
                   name, about, size);
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
        probe_line("", p.drive_gbs_packed, "in reads of an expert of a packed file, ",
                   show_size(p.packed_bytes).s);
    probe_line("", p.drive_gbs_big, "in reads of 4 MiB", "");
    probe_line("memory", p.memory_gbs, "streaming reads", "");
    probe_line("kernel", p.dot_gbs, "decode kernel over a large matrix", "");
    if (p.token_s > 0)
        out_printf(
            "token    %8.2f ms    computed from memory, of it %.2f ms for the output matrix\n",
            1e3 * p.token_s, 1e3 * p.output_s);
    if (!p.direct)
        note("Direct I/O is not possible on this file system: the drive's figures may be those "
             "of the page cache.");
    return ST_OK;
}

/* ---- tokenize ------------------------------------------------------------------------ */

static int encode(const struct args *a, const struct cli_model *m, const struct conversation *c,
                  const char *text, size_t n)
{
    int32_t *ids = NULL;
    int64_t n_ids = 0, n_stable;
    sluice_error e = {0};
    int rc = a->chat || a->messages
                 ? sluice_chat_encode(m->s, &c->chat, &ids, &n_ids, &n_stable, &e)
                 : sluice_tokenize(m->s, text, n, a->markup, &ids, &n_ids, &e);
    if (rc < 0)
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

/* More of a text: printed, or kept for JSON. */
static int give_text(const struct args *a, struct text_buf *text, const char *p, size_t len)
{
    if (!a->json)
        out_write(p, len);
    else if (!input_take(2 * len) || !buf_add(text, p, len))
        return input_refused() ? input_too_much("the text") : no_memory();
    return ST_OK;
}

/* With --markup each token's bytes, else the text that the ids stand for. */
static int give_tokens(const struct args *a, const struct cli_model *m, sluice_text_stream *stream,
                       struct text_buf *text, const int32_t *ids, int64_t n_ids)
{
    sluice_error e = {0};
    const char *p;
    size_t len;
    int status = ST_OK;
    for (int64_t i = 0; i < n_ids && status == ST_OK; i++) {
        int rc = a->markup ? sluice_piece(m->s, ids[i], true, &p, &len, &e)
                           : sluice_text_stream_put(stream, ids[i], &p, &len, &e);
        status = rc < 0 ? fail_asked(&e) : give_text(a, text, p, len);
    }
    if (status == ST_OK) {
        sluice_text_stream_end(stream, &p, &len);
        status = give_text(a, text, p, len);
    }
    return status;
}

/* The text of ids as bytes, nothing added, so that it can be piped on; only a
 * terminal gets a last newline. */
static int decode(const struct args *a, const struct cli_model *m, const int32_t *ids,
                  int64_t n_ids)
{
    struct text_buf text = {0};
    sluice_text_stream *stream;
    sluice_error e = {0};
    if (sluice_text_stream_new(m->s, &stream, &e) < 0)
        return fail(&e);
    sluice_text_stream_begin(stream);
    int status = give_tokens(a, m, stream, &text, ids, n_ids);
    if (status == ST_OK && a->json)
        status = json_print(json_pack("{so so}", "text", json_bytes(text.p, text.n), "ids",
                                      json_ids(ids, n_ids)));
    if (status == ST_OK && !a->json && out_is_terminal())
        out_printf("\n");
    sluice_text_stream_free(stream);
    buf_free(&text);
    return status;
}

/* What has no meaning together. */
static int check_tokenize(const struct args *a)
{
    bool chat = a->chat || a->messages;
    const char *idle = a->system ? "system" : a->think >= 0 ? a->think ? "think" : "no-think"
                       : a->chat_template ? "chat-template" : NULL;
    if (idle && !chat) {
        complain("--%s belongs to the chat form: give --chat or --messages with it", idle);
        return ST_USAGE;
    }
    if (chat && (a->decode || a->markup)) {
        complain("--%s has no place beside --%s", a->decode ? "decode" : "markup",
                 a->messages ? "messages" : "chat");
        return ST_USAGE;
    }
    return conversation_check(a);
}

/* TEXT, or standard input, which *input owns. */
static int read_text(const struct args *a, const char **text, char **input, size_t *n)
{
    *text = a->word;
    *n = a->word ? strlen(a->word) : 0;
    if (!*text && isatty(STDIN_FILENO)) {
        complain("a text is missing, as in: sluice tokenize \"Define run.\"");
        return ST_USAGE;
    }
    if (!*text || strcmp(*text, "-") == 0) {
        *text = *input = read_all_stdin(!a->decode && !a->chat, n);
        if (!*input)
            return interrupted() ? ST_INTERRUPTED : ST_FAIL;
    }
    return ST_OK;
}

int cmd_tokenize(const struct args *a)
{
    struct cli_model m = {0};
    struct conversation c = {.json = NULL};
    char *input = NULL;
    int32_t *ids = NULL;
    int64_t n_ids = 0;
    const char *text = NULL;
    size_t n = 0;
    int status = check_tokenize(a);
    if (status == ST_OK && !a->messages)
        status = read_text(a, &text, &input, &n);
    if (status == ST_OK)
        status = conversation_begin(a, text, &c);
    if (status == ST_OK && a->decode && !input_take(2 * n))
        status = input_too_much("the list of ids");
    else if (status == ST_OK && a->decode)
        status = ids_of_text("", text, n, &ids, &n_ids);
    if (status == ST_OK)
        status = cli_model_open_tokenizer(a, &m);
    if (status == ST_OK)
        status = a->decode ? decode(a, &m, ids, n_ids) : encode(a, &m, &c, text, n);
    conversation_free(&c);
    free(input);
    free(ids);
    return cli_model_close(&m, status);
}
