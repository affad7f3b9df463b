/*
 * Options -> a running model: describe (header only), plan memory, refuse or
 * load.
 */
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *sluice_version(void)
{
    return SLUICE_VERSION;
}

static int open_cpu(const struct device_config *c, struct device **dense, struct device **experts,
                    struct err *e)
{
    TRY(device_cpu_open(c, dense, e));
    *experts = *dense;
    return OK;
}

int (*open_devices)(const struct device_config *c, struct device **dense, struct device **experts,
                    struct err *e) = open_cpu;

void open_close_devices(struct sluice *s)
{
    if (s->expert_dev != s->dev)
        device_close(s->expert_dev);
    device_close(s->dev);
    s->dev = s->expert_dev = NULL;
}

int open_runnable(struct sluice *s, struct err *e)
{
    struct device_config dc = {.threads = s->o.threads > 0 ? s->o.threads : os_cpu_count(),
                               .cpu = s->o.cpu, .exact = s->o.exact};
    model_shape(s->model, &s->shape);
    TRY(model_runnable(s->model, NULL, e));
    TRY(words_open(s->model, s->o.chat_template, &s->text, e));
    if (text_n_tokens(s->text) > s->shape.n_vocab)
        return err_set(e, E_FORMAT,
                       "%s: the tokeniser has %lld tokens but the embedding only %d rows; the file "
                       "is inconsistent",
                       s->o.model, (long long)text_n_tokens(s->text), s->shape.n_vocab);
    os_trim_heap(); /* of lists of strings that are no longer needed */
    if (s->o.tokenizer_only)
        return OK;
    TRY(open_devices(&dc, &s->dev, &s->expert_dev, e));
    TRY(model_runnable(s->model, s->dev, e));
    return model_runnable(s->model, s->expert_dev, e);
}

int open_header(struct sluice *s, struct err *e)
{
    if (!s->o.model || !s->o.model[0])
        return err_set(e, E_ARG, "no model was named");
    TRY(model_describe(s->o.model, false, &s->model, e));
    return open_runnable(s, e);
}

static int load_progress(void *user, int64_t done, int64_t total)
{
    struct sluice *s = user;
    return s->o.progress ? s->o.progress(s->o.user, "load", done, total) : 0;
}

static void pass_warning(void *user, const char *text)
{
    struct sluice *s = user;
    if (s->o.warning)
        s->o.warning(s->o.warning_user, text);
}

/* Nobody should believe that a second copy on one drive makes it faster. */
static void check_drives(struct sluice *s)
{
    for (int k = 0; k < s->o.n_mirrors; k++)
        if (ioq_shares_drive(s->q, 0, k + 1)) {
            struct err w = {0};
            err_set(&w, E_STATE,
                    "mirror %s is on a drive that is read already: it stands in when a file fails, "
                    "but makes nothing faster",
                    s->o.mirrors[k]);
            pass_warning(s, w.text);
        }
}

static int open_timeline(struct sluice *s, struct err *e)
{
    TRY(trace_open(s->trace, s->o.timeline, e));
    s->dev->ops->set_trace(s->dev, s->trace);
    ioq_set_trace(s->q, s->trace);
    model_set_trace(s->model, s->trace);
    return OK;
}

static int load_model(struct sluice *s, struct err *e)
{
    static const struct trace_kind kind = {"load", "load", {NULL}};
    int64_t begin = os_clock_ns();
    const struct model_devices devices = {s->dev, s->expert_dev};
    int rc = model_load(s->model, &s->mo, &devices, s->q, budget_begin(s), s->o.policy,
                        load_progress, s, e);
    if (s->trace)
        trace_add(s->trace, &kind, TRACE_DRIVER, begin, os_clock_ns(), NULL, 0);
    return rc;
}

/* Below the floor s->plan says so. */
static int make_plan(struct sluice *s, struct err *e)
{
    needs_inputs(s, &s->inputs);
    TRY(plan_make(&s->inputs, &s->plan, e));
    s->mo = needs_options(s, &s->plan.chosen);
    s->mo.few_addresses = s->plan.few_addresses;
    return OK;
}

/* A limit that cuts a budget short is told: nobody should look for the rest. */
static int make_and_tell_plan(struct sluice *s, struct err *e)
{
    const sluice_memory *m = &s->plan.memory;
    struct err w = {0};
    TRY(make_plan(s, e));
    if (m->budget < m->budget_asked) {
        err_set(&w, E_BUDGET,
                "the memory budget of %.1f MiB is cut to %.1f MiB: more does not fit %s",
                (double)m->budget_asked / 1048576.0, (double)m->budget / 1048576.0,
                s->inputs.limits.source == LIMIT_RLIMIT
                    ? "the resource limits of this process (ulimit -v and -d)"
                    : "the control group's limit");
        pass_warning(s, w.text);
    } else if (!m->budget_is_default && m->machine_total > 0 && m->budget > m->machine_total) {
        err_set(&w, E_BUDGET,
                "the memory budget of %.1f MiB is more than the machine has: %.1f MiB",
                (double)m->budget / 1048576.0, (double)m->machine_total / 1048576.0);
        pass_warning(s, w.text);
    }
    return OK;
}

static int load(struct sluice *s, struct err *e)
{
    struct ioq_config qc = {0};
    TRY(io_kind(s->o.io, &qc.kind, e));
    if (s->o.timeline) {
        s->trace = trace_new(TIMELINE_BYTES);
        if (!s->trace)
            return err_set(e, E_NOMEM, "no memory to record a timeline");
    }
    TRY(make_and_tell_plan(s, e));
    TRY(ioq_open(&qc, &s->q, e));
    ioq_set_warning(s->q, pass_warning, s);
    if (s->trace)
        TRY(open_timeline(s, e));
    s->mo.mirrors = s->o.mirrors;
    s->mo.n_mirrors = s->o.n_mirrors;
    TRY(load_model(s, e));
    s->mo.mirrors = NULL; /* borrowed only until here */
    s->mo.n_mirrors = 0;
    check_drives(s);
    model_set_pulse(s->model, session_pulse, s);
    s->cpu = strdup(s->dev->ops->name(s->dev));
    return OK;
}

static int open_all(struct sluice *s, struct err *e)
{
    TRY(check_options(&s->o, e));
    TRY(check_files(&s->o, NULL, 0, e));
    TRY(open_header(s, e));
    if (s->o.tokenizer_only)
        TRY(make_plan(s, e));
    else
        TRY(load(s, e));
    account_loaded(s);
    s->quantization = strdup(dtype_info(s->shape.expert_type)->name);
    sluice_reset_stats(s);
    return OK;
}

int sluice_open(const sluice_options *o, sluice **out, sluice_error *err)
{
    struct err *e = err_of(err);
    struct sluice *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(e, E_NOMEM, "no memory to open a model");
    int rc = options_take(o, &s->o, e);
    s->budget.cache_most = INT64_MAX;
    account_enter(s);
    if (rc == OK)
        rc = open_all(s, e);
    if (rc < 0) {
        trace_drop(s->trace); /* a run that did not begin has no timeline */
        s->trace = NULL;
        sluice_close(s);
        return rc;
    }
    *out = s;
    return OK;
}

static void stop_tracing(struct sluice *s)
{
    model_set_trace(s->model, NULL);
    s->dev->ops->set_trace(s->dev, NULL);
    ioq_set_trace(s->q, NULL);
}

int sluice_end_timeline(sluice *s, sluice_error *err)
{
    struct err *e = err_of(err), why = {0};
    struct trace *t = s->trace;
    if (!t)
        return OK;
    stop_tracing(s);
    s->trace = NULL;
    int rc = trace_close(t, &why);
    if (rc != E_STATE)
        return rc < 0 ? err_set(e, rc, "%s", why.text) : OK;
    pass_warning(s, why.text); /* it is written, and ends early */
    return OK;
}

void sluice_close(sluice *s)
{
    if (!s)
        return;
    model_close(s->model); /* its reads end before the queue and the device go */
    if (s->q)
        ioq_close(s->q);
    open_close_devices(s);
    struct err why = {0}; /* nothing records any more */
    if (trace_close(s->trace, &why) < 0)
        pass_warning(s, why.text);
    text_close(s->text);
    free(s->quantization);
    free(s->cpu);
    free(s);
    account_leave();
}

int sluice_hold(sluice *s, int64_t bytes, sluice_error *err)
{
    if (bytes < 0)
        return err_set(err_of(err), E_ARG, "%lld bytes cannot be held", (long long)bytes);
    int64_t more = bytes - (s->o.held_bytes + s->budget.held);
    if (more > 0 && (more > budget_left(s) || budget_take(s, more, NULL) < 0))
        return err_set(err_of(err), E_BUDGET,
                       "%lld bytes do not fit the memory budget of %.1f MiB, in which %.1f MiB are "
                       "left; raise --memory",
                       (long long)bytes, (double)s->plan.memory.budget / 1048576.0,
                       (double)MAX(budget_left(s), (int64_t)0) / 1048576.0);
    if (more < 0)
        budget_give(s, -more);
    s->budget.held += more;
    return OK;
}

void sluice_set_progress(sluice *s, int (*fn)(void *, const char *, int64_t, int64_t), void *user)
{
    s->o.progress = fn;
    s->o.user = user;
}

void sluice_info_sized(const sluice *s, sluice_model_info *out, size_t size)
{
    const struct model_shape *m = &s->shape;
    const char *begins, *ends;
    const struct call_row *calls = chat_calls(s->text);
    chat_thinking_marks(s->text, &begins, &ends);
    const sluice_model_info info = {
        .arch = m->arch, .name = m->name, .quantization = s->quantization,
        .cpu = s->cpu ? s->cpu : "", .io = s->q ? ioq_name(s->q) : "",
        .threads = s->dev ? s->dev->ops->threads(s->dev) : 0,
        .n_layers = m->n_layers, .n_embd = m->n_embd, .n_vocab = m->n_vocab,
        .n_context_train = m->n_context_train, .n_context = s->plan.memory.n_context,
        .n_experts = m->n_experts, .n_experts_used = m->n_used,
        .packed = m->packed,
        .has_thinking = chat_has_thinking(s->text),
        .thinking_begins = begins, .thinking_ends = ends,
        .calls = calls ? calls->name : "",
        .file_bytes = m->file_bytes, .dense_bytes = m->dense_bytes, .expert_bytes = m->expert_bytes,
    };
    sized_give(SIZED_sluice_model_info, &info, out, size);
}

static sluice_plan plan_shown(const sluice *s)
{
    return (sluice_plan){.memory = s->plan.memory, .traffic = s->plan.traffic};
}

int sluice_plan_memory_sized(const sluice_options *o, const sluice_probe_result *probe,
                             size_t probe_size, sluice_plan *out, size_t size, sluice_error *err)
{
    struct err *e = err_of(err);
    struct sluice s = {0};
    sluice_plan plan = {0};
    sluice_probe_result known = {0};
    TRY(sized_check(SIZED_sluice_plan, size, e));
    int rc = options_take(o, &s.o, e);
    account_enter(&s);
    if (rc == OK && probe)
        rc = sized_take(SIZED_sluice_probe_result, probe, probe_size, &known, e);
    if (rc == OK)
        rc = check_options(&s.o, e);
    if (rc == OK)
        rc = open_header(&s, e);
    if (rc == OK) /* what loading would refuse too */
        rc = model_add_mirrors(s.model, s.o.mirrors, s.o.n_mirrors, NULL, NULL,
                               model_n_files(s.model), e);
    if (rc == OK) {
        rc = make_and_tell_plan(&s, e);
        if (rc == OK)
            rc = predict_recorded_hits(&s, e);
        plan = plan_shown(&s);
        if (probe && rc == OK)
            predict_speed(&known, &plan.traffic, &plan.speed);
    }
    sized_give(SIZED_sluice_plan, &plan, out, size);
    model_close(s.model);
    open_close_devices(&s);
    text_close(s.text);
    account_leave();
    return rc;
}

void sluice_get_plan_sized(const sluice *s, sluice_plan *out, size_t size)
{
    const sluice_plan plan = plan_shown(s);
    sized_give(SIZED_sluice_plan, &plan, out, size);
}

/* ---- numbers ------------------------------------------------------------ */

void sluice_get_stats_sized(const sluice *s, sluice_stats *out, size_t size)
{
    sluice_stats t = s->stats;
    t.n_experts_used = t.n_experts_native = s->shape.n_used;
    model_loaded(s->model, &t.load_bytes, &t.load_ns);
    t.memory_budget = s->plan.memory.budget;
    t.memory_peak = account_peak(s);
    sized_give(SIZED_sluice_stats, &t, out, size);
}

int64_t sluice_memory_peak(void)
{
    return os_rss_peak();
}

void sluice_reset_stats(sluice *s)
{
    s->stats = (sluice_stats){0};
}

void sluice_set_route_callback(sluice *s, sluice_route_fn *fn, void *user)
{
    model_set_route(s->model, fn, user);
}

int sluice_inject_fault(sluice *s, const char *kind, int skip, int count, int delay_ms,
                        sluice_error *err)
{
    static const char *const names[] = {"none", "error", "short", "slow"};
    struct ioq_fault f = {.file = -1, .begin = 0, .end = INT64_MAX, .skip = skip, .count = count,
                          .error = 5 /* EIO */, .delay_ms = delay_ms};
    if (!s->q)
        return err_set(err_of(err), E_STATE, "the model was opened for tokenising only");
    size_t n = strcspn(kind, "@");
    int copy = kind[n] == '@' ? kind[n + 1] - '0' : 0;
    if (kind[n] == '@')
        f.copies = 1u << (copy & 31);
    for (size_t i = 0; i < ARRAY_LEN(names) && copy >= 0 && copy < IOQ_MAX_COPIES; i++)
        if (strlen(names[i]) == n && strncmp(kind, names[i], n) == 0) {
            f.kind = (enum ioq_fault_kind)i;
            ioq_set_fault(s->q, &f);
            return OK;
        }
    return err_set(
        err_of(err), E_ARG,
        "unknown fault '%s'; expected none, error, short or slow, or one of them @0 to @8", kind);
}
