/*
 * JSON in and out.
 */
#include "cli.h"

#include "base/base.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- out ------------------------------------------------------------------------- */

static int dump(const char *p, size_t n, void *user)
{
    (void)user;
    out_json(p, n);
    return 0;
}

int json_print(json_t *j)
{
    if (!j || input_refused()) { /* then something may be missing from it */
        json_decref(j);
        return input_refused() ? input_too_much("JSON output") : no_memory();
    }
    /* 17 digits give every double back exactly */
    int rc = json_dump_callback(j, dump, NULL, JSON_REAL_PRECISION(17));
    json_decref(j);
    if (rc)
        return no_memory();
    out_json("\n", 1);
    return ST_OK;
}

json_t *json_number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

json_t *json_bytes(const char *p, size_t n)
{
    json_t *j = json_stringn(p ? p : "", n);
    if (j)
        return j;
    struct text_buf b = {0};
    bool ok = true;
    for (size_t i = 0; i < n && ok;) {
        int len = utf8_sequence(p + i, n - i);
        ok = len > 0 ? buf_add(&b, p + i, (size_t)len) : buf_add(&b, "\xef\xbf\xbd", 3);
        i += len > 0 ? (size_t)len : 1;
    }
    j = ok ? json_stringn(b.p ? b.p : "", b.n) : NULL;
    buf_free(&b);
    return j;
}

json_t *json_text(const char *s)
{
    return s ? json_bytes(s, strlen(s)) : json_null();
}

json_t *json_ids(const int32_t *ids, int64_t n)
{
    json_t *j = json_array();
    for (int64_t i = 0; j && i < n; i++)
        json_array_append_new(j, json_integer(ids[i]));
    return j;
}

json_t *json_stats(const sluice_stats *s)
{
    double tokens = (double)s->decode_tokens;
    json_t *hit_rate = s->experts_requested
                           ? json_real((double)s->expert_hits / (double)s->experts_requested)
                           : json_null();
    return json_pack(
        "{sf sf sf so sI sI sI sI sI sI sI sI sI sI sI sI sI sI sI sI sI si si sI sI}",
        "prompt_tps", ratio((double)s->prompt_tokens * 1e9, (double)s->prompt_ns),
        "decode_tps", ratio(tokens * 1e9, (double)s->decode_ns),
        "read_gb_per_token", ratio((double)s->decode_read_bytes / 1e9, tokens),
        "hit_rate", hit_rate,
        "prompt_tokens", (json_int_t)s->prompt_tokens,
        "prompt_ns", (json_int_t)s->prompt_ns,
        "prompt_read_bytes", (json_int_t)s->prompt_read_bytes,
        "decode_tokens", (json_int_t)s->decode_tokens,
        "decode_ns", (json_int_t)s->decode_ns,
        "decode_read_bytes", (json_int_t)s->decode_read_bytes,
        "experts_requested", (json_int_t)s->experts_requested,
        "expert_hits", (json_int_t)s->expert_hits,
        "guesses", (json_int_t)s->guesses,
        "guesses_useful", (json_int_t)s->guesses_useful,
        "guesses_late", (json_int_t)s->guesses_late,
        "guesses_wasted", (json_int_t)s->guesses_wasted,
        "read_busy_ns", (json_int_t)s->read_busy_ns,
        "read_wait_ns", (json_int_t)s->read_wait_ns,
        "mirror_read_bytes", (json_int_t)s->mirror_read_bytes,
        "load_bytes", (json_int_t)s->load_bytes,
        "load_ns", (json_int_t)s->load_ns,
        "experts_used", s->n_experts_used,
        "experts_native", s->n_experts_native,
        "memory_budget", (json_int_t)s->memory_budget,
        "memory_peak", (json_int_t)s->memory_peak);
}

static json_t *measured(double v)
{
    return v > 0 ? json_number(v) : json_null();
}

static json_t *json_limit(int64_t bytes)
{
    return bytes == INT64_MAX ? json_null() : json_integer(bytes);
}

json_t *json_plan(const sluice_plan *plan)
{
    const sluice_memory *p = &plan->memory;
    const sluice_traffic *t = &plan->traffic;
    const sluice_speed *s = &plan->speed;
    json_t *j = json_pack(
        "{sI sI sI sI sI sI sI sb sI sI sI sI si si sI sI so sI sI sI sI sf sf sb}",
        "process", (json_int_t)p->process,
        "dense", (json_int_t)p->dense,
        "state", (json_int_t)p->state,
        "kv", (json_int_t)p->kv,
        "scratch", (json_int_t)p->scratch,
        "cache", (json_int_t)p->cache,
        "budget", (json_int_t)p->budget,
        "budget_is_default", p->budget_is_default,
        "cache_min", (json_int_t)p->cache_min,
        "cache_full", (json_int_t)p->cache_full,
        "floor", (json_int_t)p->floor,
        "kv_per_token", (json_int_t)p->kv_per_token,
        "context", p->n_context,
        "chunk", p->chunk,
        "machine_total", (json_int_t)p->machine_total,
        "machine_available", (json_int_t)p->machine_available,
        "cgroup_limit", json_limit(p->cgroup_limit),
        "expert_bytes_per_token", (json_int_t)t->expert_bytes_per_token,
        "dense_bytes_per_token", (json_int_t)t->dense_bytes_per_token,
        "dense_read_per_token", (json_int_t)t->dense_read_per_token,
        "dense_full", (json_int_t)p->dense_full,
        "hit_rate", t->hit_rate,
        "typical_hit_rate", t->typical_hit_rate,
        "packed", t->packed);
    if (j && p->missing > 0) {
        json_object_set_new(j, "kv_least", json_integer(p->kv_least));
        json_object_set_new(j, "missing", json_integer(p->missing));
    }
    if (j && t->recorded_hit_rate >= 0)
        json_object_set_new(j, "recorded_hit_rate", json_real(t->recorded_hit_rate));
    if (j && s->decode_tps > 0)
        json_object_set_new(
            j, "predicted",
            json_pack("{sf sf sf sf so ss sf}", "decode_tps", s->decode_tps, "typical_tps",
                      s->typical_tps, "compute_s", s->compute_s, "drive_gbs", s->drive_gbs,
                      "memory_gbs", measured(s->memory_gbs), "limit",
                      s->limited_by_drive ? "drive" : "memory", "pack_gain", s->pack_gain));
    if (j && s->recorded_tps > 0)
        json_object_set_new(json_object_get(j, "predicted"), "recorded_tps",
                            json_real(s->recorded_tps));
    return j;
}

json_t *json_probe(const sluice_probe_result *p)
{
    return json_pack("{so so so sI sI sb so so sf sf}", "drive_gbs", measured(p->drive_gbs),
                     "drive_gbs_big", measured(p->drive_gbs_big), "drive_gbs_packed",
                     measured(p->drive_gbs_packed), "block_bytes", (json_int_t)p->block_bytes,
                     "packed_bytes", (json_int_t)p->packed_bytes, "direct", p->direct, "memory_gbs",
                     measured(p->memory_gbs), "dot_gbs", measured(p->dot_gbs), "token_s",
                     p->token_s, "output_s", p->output_s);
}

json_t *json_model(const sluice *s)
{
    sluice_model_info i;
    sluice_info(s, &i);
    return json_pack(
        "{so so so sb so so si si si si si si si si sb sI sI sI}",
        "arch", json_text(i.arch),
        "name", json_text(i.name),
        "quantization", json_text(i.quantization),
        "packed", i.packed,
        "cpu", json_text(i.cpu),
        "io", json_text(i.io),
        "threads", i.threads,
        "layers", i.n_layers,
        "embedding", i.n_embd,
        "vocabulary", i.n_vocab,
        "context_train", i.n_context_train,
        "context", i.n_context,
        "experts", i.n_experts,
        "experts_used", i.n_experts_used,
        "thinking", i.has_thinking,
        "file_bytes", (json_int_t)i.file_bytes,
        "dense_bytes", (json_int_t)i.dense_bytes,
        "expert_bytes", (json_int_t)i.expert_bytes);
}

/* ---- in -------------------------------------------------------------------------- */

struct source {
    FILE *f;
    int64_t n_bytes; /* read; blanks take no memory, and may never end */
    int error;
    bool too_much;
};

static size_t read_source(void *buffer, size_t n, void *user)
{
    struct source *s = user;
    size_t got = fread(buffer, 1, n, s->f);
    if (ferror(s->f))
        s->error = errno ? errno : EIO;
    s->n_bytes += (int64_t)got;
    s->too_much = s->n_bytes > input_file_most(s->n_bytes);
    return s->error || s->too_much || interrupted() ? (size_t)-1 : got;
}

json_t *json_read(const char *path)
{
    json_error_t e;
    struct source src = {.f = fopen(path, "re")};
    if (!src.f) {
        if (!interrupted()) /* a pipe waits for its writer */
            complain("unable to open %s: %s", path, strerror(errno));
        return NULL;
    }
    json_t *j = json_load_callback(read_source, &src, JSON_REJECT_DUPLICATES, &e);
    if (src.error && !interrupted())
        complain("reading %s failed: %s", path, strerror(src.error));
    else if (!j && (src.too_much || input_refused()))
        input_too_much(path);
    else if (!j && !interrupted())
        complain("%s: line %d, column %d: %s", path, e.line, e.column, e.text);
    fclose(src.f);
    return j;
}

int json_to_ids(const json_t *array, const char *path, int n_vocab, int32_t **ids, int64_t *n)
{
    size_t count = json_array_size(array);
    int32_t *v = malloc((count + 1) * sizeof(*v));
    if (!v)
        return no_memory();
    for (size_t i = 0; i < count; i++) {
        const json_t *x = json_array_get(array, i);
        json_int_t id = json_integer_value(x);
        if (!json_is_integer(x) || id < 0 || id >= n_vocab) {
            complain("%s: token %zu is not an id from 0 to %d; was it made for another model?",
                     path, i, n_vocab - 1);
            free(v);
            return ST_FAIL;
        }
        v[i] = (int32_t)id;
    }
    *ids = v;
    *n = (int64_t)count;
    return ST_OK;
}
