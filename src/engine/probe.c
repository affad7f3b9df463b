/*
 * What drive and memory can do: the figures that every speed is held
 * against. The drive is measured with direct reads at random places of the
 * model file, at the engine's own depth, in the sizes that experts are read in
 * (matrix by matrix, or whole where the file is packed) and in 4 MiB blocks.
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
    MEMORY_LEAST = 192 << 20,
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
    size_t span = ioq_span_max(BIG_BLOCK);
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
        req[i] = (struct ioq_req){.file = d->file, .cls = IOQ_DEMAND, .offset = random_place(d, rate->block),
                                  .bytes = rate->block, .buf = d->buf + (size_t)i * span};
        ioq_submit(d->q, &req[i]);
    }
    for (int i = 0; i < SLOTS; i++)
        if (req[i].state != IOQ_IDLE)
            ioq_wait(d->q, &req[i]);
    rate->bytes += done;
    rate->ns += now - t0;
    return rc;
}

/* The rates of the block sizes; equal sizes are measured once. */
static int measure_blocks(struct drive *d, sluice_probe_result *r, struct err *e)
{
    struct rate rates[3];
    double *out[] = {&r->drive_gbs, &r->drive_gbs_packed, &r->drive_gbs_big};
    const size_t block[] = {(size_t)r->block_bytes, (size_t)r->packed_bytes, (size_t)MIN(d->file_bytes, (int64_t)BIG_BLOCK)};
    int which[3], n = 0;
    for (int i = 0; i < 3; i++) {
        for (which[i] = 0; which[i] < n && rates[which[i]].block != block[i]; which[i]++)
            ;
        if (which[i] == n)
            rates[n++] = (struct rate){.block = block[i]};
    }
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < n; i++)
            TRY(measure_drive(d, &rates[i], i == 0 ? MAIN_NS : OTHER_NS, e));
    for (int i = 0; i < 3; i++)
        *out[i] = (double)rates[which[i]].bytes / (double)rates[which[i]].ns;
    return OK;
}

static int probe_drive(const sluice_options *o, struct model *model,
                       const struct model_shape *m, sluice_probe_result *r, struct err *e)
{
    struct ioq_config qc = {.kind = IOQ_AUTO};
    if (o->io && strcmp(o->io, "pread") == 0)
        qc.kind = IOQ_PREAD;
    struct drive d = {.o = o, .seed = (uint64_t)os_clock_ns(), .file_bytes = model_file_bytes(model, 0)};
    size_t bytes = SLOTS * ioq_span_max(BIG_BLOCK);
    TRY(ioq_open(&qc, &d.q, e));
    ioq_set_warning(d.q, o->warning, o->warning_user);
    int rc = d.file = ioq_add_file(d.q, model_path(model, 0), e);
    if (rc >= 0) /* what the engine reads from at once is probed at once */
        rc = model_add_mirrors(model, o->mirrors, o->n_mirrors, d.q, &d.file, 1, e);
    d.buf = rc < 0 ? NULL : os_map(bytes, false);
    if (rc >= 0 && !d.buf)
        rc = err_set(e, E_NOMEM, "no memory for the drive probe");
    if (rc >= 0)
        memset(d.buf, 1, bytes); /* first touch must not be in the measurement */
    r->direct = rc >= 0 && ioq_is_direct(d.q, d.file);
    int64_t most = MIN(d.file_bytes, (int64_t)BIG_BLOCK);
    int64_t expert = MAX(m->largest_expert_bytes, (int64_t)IOQ_ALIGN);
    r->packed_bytes = MIN((int64_t)align_up((size_t)expert, IOQ_ALIGN), most);
    r->block_bytes = m->packed ? r->packed_bytes : MIN(MAX(expert / EXPERT_MAX_PARTS, (int64_t)IOQ_ALIGN), most);
    if (rc >= 0)
        rc = measure_blocks(&d, r, e);
    ioq_close(d.q);
    if (d.buf)
        os_unmap(d.buf, bytes);
    return rc < 0 ? rc : OK;
}

/* Memory to stream: twice the largest cache, so that little of a pass is still
 * there in the next, as far as a quarter of what is free allows. */
static size_t probe_bytes(void)
{
    struct os_memory m;
    os_memory(&m);
    int64_t room = MIN(m.available, m.cgroup_limit - m.cgroup_used) / 4;
    int64_t want = MIN(2 * os_cpu_cache_bytes(), MIN(room, (int64_t)MEMORY_MOST));
    return align_up((size_t)MAX(want, (int64_t)MEMORY_LEAST), (size_t)1 << 20);
}

static int probe_memory(const sluice_options *o, struct device *d, void *memory, size_t bytes,
                        sluice_probe_result *r, struct err *e)
{
    for (int dot = 0; dot < 2; dot++) {
        int64_t best = INT64_MAX;
        for (int i = 0; i < MEMORY_PASSES; i++) {
            TRY(cancelled(o, e));
            best = MIN(best, device_probe_memory(d, memory, bytes, dot != 0));
        }
        *(dot ? &r->dot_gbs : &r->memory_gbs) = (double)bytes / (double)best;
    }
    return OK;
}

/* What the processor can do: memory speed, and one token's operations. */
static int probe_processor(const sluice_options *o, struct model *m, struct device *d, void *memory,
                           size_t bytes, sluice_probe_result *r, struct err *e)
{
    struct model_options mo = {.max_tokens = 1, .context = 64, .kv_f16 = !o->exact && !o->kv_f32};
    struct model_needs needs = {0};
    struct model_pace pace;
    model_needs(m, &mo, &needs);
    needs.sizes.max_tokens = 1;
    needs.sizes.n_embd = MAX(needs.sizes.n_embd, (int64_t)64); /* of a family that cannot be run: 0 */
    needs.sizes.max_in = MAX(needs.sizes.max_in, (int64_t)4096); /* for rows of the memory probe */
    needs.sizes.max_out = MAX(needs.sizes.max_out, (int64_t)4096);
    TRY(device_reserve(d, &needs.sizes, e));
    TRY(cancelled(o, e));
    memset(memory, 0, bytes);
    TRY(probe_memory(o, d, memory, bytes, r, e));
    TRY(model_rehearse(m, &mo, d, memory, bytes, rehearsal_progress, (void *)o, &pace, e));
    r->token_s = (double)pace.token_ns / 1e9;
    r->output_s = (double)pace.output_ns / 1e9;
    return OK;
}

int sluice_probe(const sluice_options *o, sluice_probe_result *out, sluice_error *err)
{
    struct err *e = err_of(err);
    struct sluice s = {.o = *o};
    struct model_shape shape;
    *out = (sluice_probe_result){0};
    s.o.tokenizer_only = false;
    int rc = check_options(o, e);
    if (rc == OK) /* a model that cannot be run has no speed */
        rc = open_header(&s, e);
    struct model *m = s.model;
    struct device *d = s.dev;
    text_close(s.text);
    if (rc == OK) {
        model_shape(m, &shape);
        rc = probe_drive(o, m, &shape, out, e);
    }
    size_t bytes = probe_bytes();
    void *memory = rc == OK ? os_map(bytes, true) : NULL;
    if (rc == OK)
        rc = memory ? probe_processor(o, m, d, memory, bytes, out, e)
                    : err_set(e, E_NOMEM, "no memory for the memory probe");
    if (memory)
        os_unmap(memory, bytes);
    device_close(d);
    model_close(m);
    return rc;
}
