/*
 * What drive and memory can do: the figures that every speed is held
 * against. The drive is measured with direct reads at random places of the
 * model file, at the engine's own depth, in the sizes that experts are read in
 * (matrix by matrix, or whole where the file is packed) and in 4 MiB blocks.
 *
 * Its memory is within the budget. What a smaller buffer would measure is not the
 * drive at that depth, or is the processor's cache instead of memory: such a figure is
 * left out (0).
 */
#include "engine/engine.h"

#include <string.h>

enum {
    BIG_BLOCK = 4 << 20,
    SLOTS = 16,
    /* A drive's rate over half a second is off by a tenth from its rate over a few
     * seconds: the size that decides is measured longest, all in turn. */
    ROUNDS = 4,
    MAIN_NS = 500 * 1000 * 1000,
    OTHER_NS = 150 * 1000 * 1000,
    MEMORY_LEAST = 64 << 20,
    MEMORY_USUAL = 192 << 20,
    MEMORY_MOST = 1 << 30,
    MEMORY_PASSES = 5
};

static int cancelled(const sluice_options *o, struct err *e)
{
    if (o->progress && o->progress(o->user, "probe", 0, 1))
        return err_set(e, E_CANCELLED, "measuring was cancelled");
    return OK;
}

static int rehearsal_progress(void *user, int64_t done, int64_t total)
{
    (void)done, (void)total;
    return cancelled(user, NULL) < 0;
}

struct drive {
    const sluice_options *o;
    struct ioq *q;
    int file;
    int64_t file_bytes;
    uint8_t *buf; /* SLOTS spans of the largest block */
    size_t span;
    uint64_t seed;
};

static int64_t random_place(struct drive *d, size_t block)
{
    d->seed = d->seed * 6364136223846793005u + 1442695040888963407u;
    int64_t blocks = MAX((d->file_bytes - (int64_t)block) / IOQ_ALIGN, (int64_t)1);
    return (int64_t)((d->seed >> 16) % (uint64_t)blocks) * IOQ_ALIGN;
}

struct rate {
    size_t block;
    int64_t bytes, ns;
};

/* Keeps the queue full for a while; adds what was read to the rate. */
static int measure_drive(struct drive *d, struct rate *rate, int64_t least_ns, struct err *e)
{
    struct ioq_req req[SLOTS] = {0};
    int64_t t0 = os_clock_ns(), done = 0, now = t0;
    int rc = OK;
    for (int i = 0; rc == OK; i = (i + 1) % SLOTS) {
        if (req[i].state != IOQ_IDLE) {
            ioq_wait(d->q, &req[i]);
            now = os_clock_ns();
            done += (int64_t)req[i].bytes;
            if (req[i].status < 0)
                rc = ioq_error(d->q, &req[i], "drive probe", e);
            req[i].state = IOQ_IDLE;
            if (rc == OK)
                rc = cancelled(d->o, e);
            if (now - t0 > least_ns)
                break;
        }
        req[i] = (struct ioq_req){.file = d->file,
                                  .cls = IOQ_DEMAND,
                                  .offset = random_place(d, rate->block),
                                  .bytes = rate->block,
                                  .buf = d->buf + (size_t)i * d->span};
        ioq_submit(d->q, &req[i]);
    }
    for (int i = 0; i < SLOTS; i++)
        if (req[i].state != IOQ_IDLE)
            ioq_wait(d->q, &req[i]);
    rate->bytes += done;
    rate->ns += now - t0;
    return rc;
}

static size_t buffer_bytes(int64_t block)
{
    return SLOTS * ioq_span_max((size_t)block);
}

/* The rates of the block sizes for which the buffer has room; equal sizes are
 * measured once. */
static int measure_blocks(struct drive *d, sluice_probe_result *r, size_t room, struct err *e)
{
    struct rate rates[3];
    double *out[] = {&r->drive_gbs, &r->drive_gbs_packed, &r->drive_gbs_big};
    const int64_t block[] = {r->block_bytes, r->packed_bytes,
                             MIN(d->file_bytes, (int64_t)BIG_BLOCK)};
    int which[3], n = 0;
    for (int i = 0; i < 3; i++) {
        which[i] = -1;
        if (buffer_bytes(block[i]) > room)
            continue;
        for (which[i] = 0; which[i] < n && rates[which[i]].block != (size_t)block[i]; which[i]++)
            ;
        if (which[i] == n)
            rates[n++] = (struct rate){.block = (size_t)block[i]};
    }
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < n; i++)
            TRY(measure_drive(d, &rates[i], i == 0 ? MAIN_NS : OTHER_NS, e));
    for (int i = 0; i < 3; i++)
        if (which[i] >= 0)
            *out[i] = (double)rates[which[i]].bytes / (double)rates[which[i]].ns;
    return OK;
}

/* room: most bytes for the buffer. */
static int probe_drive(const sluice_options *o, struct model *model, const struct model_shape *m,
                       int64_t room, sluice_probe_result *r, struct err *e)
{
    struct ioq_config qc = {.kind = IOQ_AUTO};
    if (o->io && strcmp(o->io, "pread") == 0)
        qc.kind = IOQ_PREAD;
    struct drive d = {
        .o = o, .seed = (uint64_t)os_clock_ns(), .file_bytes = model_file_bytes(model, 0)};
    int64_t most = MIN(d.file_bytes, (int64_t)BIG_BLOCK);
    int64_t expert = MAX(m->largest_expert_bytes, (int64_t)IOQ_ALIGN);
    r->packed_bytes = MIN((int64_t)align_up((size_t)expert, IOQ_ALIGN), most);
    r->block_bytes = m->packed ? r->packed_bytes
                               : MIN(MAX(expert / EXPERT_MAX_PARTS, (int64_t)IOQ_ALIGN), most);
    int64_t largest = buffer_bytes(most) <= (size_t)room           ? most
                      : buffer_bytes(r->packed_bytes) <= (size_t)room ? r->packed_bytes
                                                                    : r->block_bytes;
    size_t bytes = buffer_bytes(largest);
    d.span = ioq_span_max((size_t)largest);
    TRY(ioq_open(&qc, &d.q, e));
    ioq_set_warning(d.q, o->warning, o->warning_user);
    int rc = d.file = ioq_add_file(d.q, model_path(model, 0), e);
    if (rc >= 0) /* what the engine reads from at once is probed at once */
        rc = model_add_mirrors(model, o->mirrors, o->n_mirrors, d.q, &d.file, 1, e);
    r->direct = rc >= 0 && ioq_is_direct(d.q, d.file);
    if (rc < 0 || bytes > (size_t)room)
        goto out;
    d.buf = os_map(bytes, false);
    if (!d.buf) {
        rc = err_set(e, E_NOMEM, "no memory for the drive probe");
        goto out;
    }
    memset(d.buf, 1, bytes); /* first touch must not be in the measurement */
    rc = measure_blocks(&d, r, bytes, e);
    os_unmap(d.buf, bytes);
out:
    ioq_close(d.q);
    return rc < 0 ? rc : OK;
}

/* Memory to stream: twice the largest cache, so that little of a pass is still
 * there in the next, as far as a quarter of what is free and the budget's room allow.
 * Where that is so little that caches would be measured, *memory is false. */
static size_t probe_bytes(const struct limits *b, int64_t room, bool *memory)
{
    int64_t cache = os_cpu_cache_bytes();
    int64_t least = MAX((int64_t)MEMORY_LEAST, MIN(cache + cache / 2, (int64_t)MEMORY_USUAL));
    int64_t free_bytes = MIN(b->m.available, b->m.cgroup_limit - b->m.cgroup_used) / 4;
    int64_t want =
        MAX(MIN(2 * cache, MIN(free_bytes, (int64_t)MEMORY_MOST)), (int64_t)MEMORY_USUAL);
    want = align_down64(MIN(want, room), 1 << 20);
    *memory = want >= least;
    return (size_t)MAX(want, (int64_t)0);
}

static int probe_memory(const sluice_options *o, struct device *d, const void *memory, size_t bytes,
                        sluice_probe_result *r, struct err *e)
{
    for (int dot = 0; dot < 2; dot++) {
        int64_t best = INT64_MAX;
        for (int i = 0; i < MEMORY_PASSES; i++) {
            TRY(cancelled(o, e));
            best = MIN(best, d->ops->probe_memory(d, memory, bytes, dot != 0));
        }
        *(dot ? &r->dot_gbs : &r->memory_gbs) = (double)bytes / (double)best;
    }
    return OK;
}

/* What the processor can do: memory speed, and one token's operations. */
static int probe_processor(struct sluice *s, const struct limits *b, int64_t room,
                           sluice_probe_result *r, struct err *e)
{
    struct model_options mo = {
        .max_tokens = 1, .context = 64, .kv_f16 = !s->o.exact && !s->o.kv_f32};
    struct model_needs needs = {0};
    struct model_pace pace;
    model_needs(s->model, s->dev, &mo, &needs);
    room -= needs.device_fixed + needs.device_per_position * mo.context + needs.scratch +
            needs.state + (int64_t)sizeof(float) * s->shape.n_vocab +
            model_kv_bytes(s->model, &mo, mo.context);
    bool beyond_caches;
    size_t bytes = probe_bytes(b, room, &beyond_caches);
    if (bytes == 0)
        return OK;
    struct dev_mem *memory;
    if (s->dev->ops->alloc(s->dev, DEV_WEIGHTS, bytes, &memory, NULL) < 0)
        return err_set(e, E_NOMEM, "no memory for the memory probe");
    int rc = cancelled(&s->o, e);
    if (rc == OK) {
        s->dev->ops->zero(s->dev, (struct dev_ptr){memory, 0}, bytes);
        if (beyond_caches && dev_host(memory))
            rc = probe_memory(&s->o, s->dev, dev_host(memory), bytes, r, e);
    }
    if (rc == OK) /* in a small budget a run's weights are as near as these */
        rc = model_rehearse(s->model, &mo, s->dev, memory, bytes, rehearsal_progress, &s->o, &pace,
                            e);
    dev_free(memory);
    if (rc == OK) {
        r->token_s = (double)pace.token_ns / 1e9;
        r->output_s = (double)pace.output_ns / 1e9;
    }
    return rc;
}

/* A budget below the probe's own size is no budget for a probe. */
static int probe_room(const struct sluice *s, struct limits *b, int64_t *room, struct err *e)
{
    limits_find(s->o.memory_bytes, b);
    int64_t process = needs_process(s);
    char limit[160];
    limits_tell(b, limit, sizeof(limit));
    *room = MIN(b->budget, b->now) - process;
    if (*room < 0)
        return err_set(e, E_BUDGET,
                       "the memory budget of %.1f MiB%s is below the %.1f MiB that probing takes "
                       "at least; raise --memory",
                       (double)MIN(b->budget, b->now) / 1048576.0, limit,
                       (double)process / 1048576.0 + 0.05);
    return OK;
}

static int probe(struct sluice *s, sluice_probe_result *out, struct err *e)
{
    struct limits b;
    int64_t room;
    TRY(check_options(&s->o, e));
    TRY(open_header(s, e)); /* a model that cannot be run has no speed */
    text_close(s->text);
    s->text = NULL;
    os_trim_heap();
    TRY(probe_room(s, &b, &room, e));
    TRY(probe_drive(&s->o, s->model, &s->shape, room, out, e));
    return probe_processor(s, &b, room, out, e);
}

int sluice_probe_sized(const sluice_options *o, sluice_probe_result *out, size_t size,
                       sluice_error *err)
{
    struct err *e = err_of(err);
    struct sluice s = {0};
    sluice_probe_result r = {0};
    TRY(sized_check(SIZED_sluice_probe_result, size, e));
    int rc = options_take(o, &s.o, e);
    s.o.tokenizer_only = false;
    account_enter(&s);
    if (rc == OK)
        rc = probe(&s, &r, e);
    sized_give(SIZED_sluice_probe_result, &r, out, size);
    text_close(s.text);
    model_close(s.model);
    open_close_devices(&s);
    account_leave();
    return rc;
}
