/*
 * test_invariants: every invariant that a build with checks looks for can be seen
 * broken. Each is broken by hand, one field at a time, and must be named by its
 * check; the last test reads the sources of the checks and misses those sentences
 * that were never heard, so that an invariant without a case here fails.
 */
#include "base/base.h"
#include "device/cpu_internal.h"
#include "expert/cache_impl.h"
#include "io/io_impl.h"
#include "model/model_internal.h"
#include "weights/weights_internal.h"

#include <errno.h>
#include <glob.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { PART = 5000, N_EXPERTS = 8, N_LAYERS = 3, N_USED = 2, MAX_HEARD = 200 };

/* ---- what the checks said ---------------------------------------------- */

static const char *heard[MAX_HEARD];
static int n_heard;

static void assert_says(const char *said, const char *sentence, int line)
{
    if (!said || strcmp(said, sentence) != 0)
        fail_msg("line %d: expected \"%s\", got \"%s\"", line, sentence, said ? said : "nothing");
    assert_true(n_heard < MAX_HEARD);
    heard[n_heard++] = said;
}

/* The field with that value breaks what the check then names; as it was, nothing. */
#define BREAKS(check, field, value, sentence)                                                      \
    do {                                                                                           \
        __typeof__(field) was_ = (field);                                                          \
        assert_null(check);                                                                        \
        (field) = (value);                                                                         \
        const char *said_ = (check);                                                               \
        (field) = was_;                                                                            \
        assert_says(said_, sentence, __LINE__);                                                    \
        assert_null(check);                                                                        \
    } while (0)

/* ---- a queue ------------------------------------------------------------- */

static char path[] = "/var/tmp/sluice_i_XXXXXX";

static int make_file(void **state)
{
    (void)state;
    static char part[PART];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    memset(part, 1, sizeof(part)); /* zeros are no expert */
    for (int i = 0; i < N_LAYERS * N_EXPERTS * 3; i++)
        assert_int_equal(write(fd, part, sizeof(part)), sizeof(part));
    close(fd);
    return 0;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static struct ioq *open_queue(int depth)
{
    struct err e = {0};
    struct ioq *q = NULL;
    if (ioq_open(&(struct ioq_config){.kind = IOQ_PREAD}, &q, &e) != OK)
        fail_msg("%s", e.text);
    q->depth = depth; /* also more than the threads would get */
    if (ioq_add_file(q, path, &e) != 0)
        fail_msg("%s", e.text);
    return q;
}

/* What starts from now on stays in flight, until it fails in let_go. */
static void hold_back(struct ioq *q)
{
    ioq_set_fault(q, &(struct ioq_fault){.kind = IOQ_FAULT_ERROR,
                                         .file = -1,
                                         .begin = 0,
                                         .end = INT64_MAX,
                                         .count = -1,
                                         .error = EIO,
                                         .delay_ms = 3600 * 1000});
}

static void let_go(struct ioq *q)
{
    ioq_set_fault(q, NULL);
    for (struct io_op *op = q->parked; op; op = op->next)
        op->due_ns = 0;
}

/* `depth` reads in flight, all parked, and the other of 6 queued. */
struct busy {
    struct ioq *q;
    struct ioq_req r[6];
    char *buf;
};

static void get_busy(struct busy *b, int depth, enum ioq_class cls)
{
    b->q = open_queue(depth);
    b->buf = os_map(6 * ioq_span_max(PART), false);
    assert_non_null(b->buf);
    hold_back(b->q);
    for (int i = 0; i < 6; i++) {
        b->r[i] = (struct ioq_req){.cls = cls,
                                   .offset = (int64_t)i * PART,
                                   .bytes = PART,
                                   .buf = b->buf + (size_t)i * ioq_span_max(PART)};
        ioq_submit(b->q, &b->r[i]);
    }
    assert_int_equal(b->q->n_inflight, depth);
    assert_int_equal(b->r[depth].state, IOQ_QUEUED);
}

static void end_busy(struct busy *b)
{
    let_go(b->q);
    ioq_close(b->q);
    os_unmap(b->buf, 6 * ioq_span_max(PART));
}

static void queues(void **state)
{
    (void)state;
    struct busy b;
    get_busy(&b, 4, IOQ_DENSE);
    struct ioq *q = b.q;
    struct io_list *l = &q->queue[IOQ_DENSE];
    BREAKS(ioq_check(q), b.r[4].state, IOQ_DONE, "io: a request in a queue is QUEUED");
    BREAKS(ioq_check(q), b.r[4].cls, IOQ_AHEAD, "io: a request is in the queue of its class");
    BREAKS(ioq_check(q), b.r[5].got, 1, "io: nothing of a queued request has begun");
    BREAKS(ioq_check(q), b.r[5].n_pieces, 1, "io: nothing of a queued request has begun");
    BREAKS(ioq_check(q), b.r[4].bytes, 0, "io: a queued request wants bytes and has room for them");
    BREAKS(ioq_check(q), b.r[4].file, 1, "io: a request names a file of the queue");
    BREAKS(ioq_check(q), b.r[5].next, &b.r[4],
           "io: a queue ends, so that no request is in it twice");
    BREAKS(ioq_check(q), l->tail, &b.r[4], "io: the tail of a queue is its last request");
    BREAKS(ioq_check(q), b.r[4].next, NULL, "io: the tail of a queue is its last request");
    end_busy(&b);
}

static void ops_and_drives(void **state)
{
    (void)state;
    struct busy b;
    get_busy(&b, 4, IOQ_DEMAND);
    struct ioq *q = b.q;
    struct io_drive *d = &q->drive[0];
    struct io_op *op = &d->ops[1];
    BREAKS(ioq_check(q), b.r[1].state, IOQ_QUEUED,
           "io: a request that an op reads for is INFLIGHT");
    BREAKS(ioq_check(q), b.r[1].file, -1, "io: a request names a file of the queue");
    BREAKS(ioq_check(q), op->drive, 1, "io: an op counts against the drive that it belongs to");
    BREAKS(ioq_check(q), op->copy, 1, "io: an op reads a copy that its file has");
    BREAKS(ioq_check(q), op->tried, 1u, "io: no copy is tried again for a piece that it failed");
    BREAKS(ioq_check(q), op->from, op->reached + 1,
           "io: an op goes on within its piece, where the last one ended");
    BREAKS(ioq_check(q), op->reached, op->end + 1,
           "io: an op goes on within its piece, where the last one ended");
    BREAKS(ioq_check(q), op->req, NULL, "io: a drive's n_inflight counts its ops with a request");
    BREAKS(ioq_check(q), d->n_inflight, 3,
           "io: a drive's n_inflight counts its ops with a request");
    BREAKS(ioq_check(q), d->n_ahead, 1, "io: a drive's n_ahead counts its ops of class IOQ_AHEAD");
    BREAKS(ioq_check(q), b.r[1].cls, IOQ_AHEAD,
           "io: a drive's n_ahead counts its ops of class IOQ_AHEAD");
    BREAKS(ioq_check(q), d->inflight_bytes, 0, "io: a drive's inflight_bytes adds up its pieces");
    BREAKS(ioq_check(q), q->limit_bytes, PART,
           "io: a drive has no more bytes in flight than the limit, or one read");
    BREAKS(ioq_check(q), d->n_seen, 1, "io: a drive that was seen to read took some time");
    BREAKS(ioq_check(q), q->n_inflight, 5, "io: n_inflight counts the ops of all drives");
    BREAKS(ioq_check(q), b.r[2].n_pieces, 2, "io: n_pieces counts the ops that read for a request");
    BREAKS(ioq_check(q), op->parked, false, "io: an op in the parked list waits for its time");
    BREAKS(ioq_check(q), q->parked, q->parked->next,
           "io: an op that waits for its time is in the parked list once");
    end_busy(&b);
}

static void too_much_lookahead(void **state)
{
    (void)state;
    struct busy b;
    get_busy(&b, 5, IOQ_DEMAND);
    assert_null(ioq_check(b.q));
    for (int ahead = 1; ahead >= 0; ahead--) { /* five fields at once: no case for BREAKS */
        for (int i = 0; i < 5; i++)
            b.r[i].cls = ahead ? IOQ_AHEAD : IOQ_DEMAND;
        b.q->drive[0].n_ahead = ahead ? 5 : 0;
        if (ahead)
            assert_says(ioq_check(b.q),
                        "io: a drive has at most IO_AHEAD_DEPTH lookahead reads in flight",
                        __LINE__);
    }
    assert_null(ioq_check(b.q));
    end_busy(&b);
}

static void files_and_counters(void **state)
{
    (void)state;
    struct busy b;
    get_busy(&b, 4, IOQ_DEMAND);
    struct ioq *q = b.q;
    BREAKS(ioq_check(q), q->depth, 0,
           "io: a queue has a back end, a depth and at most IO_MAX_DRIVES drives");
    BREAKS(ioq_check(q), q->files[0].n_copies, 0, "io: an op reads a copy that its file has");
    BREAKS(ioq_check(q), q->files[0].n_copies, IOQ_MAX_COPIES + 1,
           "io: a file has 1 to IOQ_MAX_COPIES copies");
    BREAKS(ioq_check(q), q->files[0].copy[0].drive, 1, "io: a copy lies on a drive of the queue");
    BREAKS(ioq_check(q), q->out_of_use, 2u, "io: only a copy that some file has can be out of use");
    BREAKS(ioq_check(q), q->stats.bytes, 1, "io: the bytes of the classes are all bytes");
    BREAKS(ioq_check(q), q->n_completed, 1, "io: a request ends once: read, failed or cancelled");
    struct ioq_req lost = {.state = IOQ_QUEUED, .cls = IOQ_AHEAD, .bytes = 1, .buf = &lost};
    let_go(q);
    while (!ioq_idle(q))
        ioq_wait_any(q);
    BREAKS(ioq_check(q), q->queue[IOQ_AHEAD], ((struct io_list){&lost, &lost}),
           "io: while something is queued something is in flight, so that waiting ends");
    end_busy(&b);
}

/* ---- the cache ----------------------------------------------------------- */

struct env {
    struct ioq *q;
    struct expert_cache *c;
    struct expert_lease held[N_USED];   /* experts 0 and 1 of layer 0: resident, leased */
    struct expert_lease coming[N_USED]; /* 2 and 3 of layer 1: being read */
};

/* Besides what is leased: experts 4 and 5 of layer 0 resident, and a guess for
 * layer 2, which has slots of its own, under way. */
static void fill(struct env *v, const char *policy)
{
    struct err e = {0};
    struct expert_layer layers[N_LAYERS];
    struct expert_lease l[N_USED];
    for (int i = 0; i < N_LAYERS; i++)
        layers[i] = (struct expert_layer){
            .n_experts = N_EXPERTS,
            .n_parts = 1,
            .part = {{0, (int64_t)i * N_EXPERTS * PART, PART, i < 2 ? PART : 2 * PART,
                      false}}};
    struct expert_config cfg = {
        .layers = layers, .n_layers = N_LAYERS, .n_used = N_USED, .policy = policy};
    *v = (struct env){.q = open_queue(4)};
    cfg.ioq = v->q;
    cfg.cache_bytes = expert_full_bytes(&cfg);
    if (expert_open(&cfg, &v->c, &e) != OK ||
        expert_request(v->c, 0, (int32_t[]){4, 5}, 2, l, &e) != OK ||
        expert_request(v->c, 0, (int32_t[]){0, 1}, 2, v->held, &e) != OK)
        fail_msg("%s", e.text);
    for (int i = 0; i < N_USED; i++) {
        assert_int_equal(expert_wait(v->c, &l[i], &e), OK);
        assert_int_equal(expert_wait(v->c, &v->held[i], &e), OK);
        expert_release(v->c, &l[i]);
    }
    hold_back(v->q);
    assert_int_equal(expert_guess(v->c, 2, (int32_t[]){6}, 1), 1);
    assert_int_equal(expert_request(v->c, 1, (int32_t[]){2, 3}, 2, v->coming, &e), OK);
    assert_int_equal(v->q->n_inflight, 3);
    assert_int_equal(v->c->n_cls, 2);
}

static void empty(struct env *v)
{
    let_go(v->q);
    for (int i = 0; i < N_USED; i++) {
        expert_release(v->c, &v->held[i]);
        expert_release(v->c, &v->coming[i]);
    }
    expert_close(v->c);
    ioq_close(v->q);
}

static void one_slot(void **state)
{
    (void)state;
    struct env v;
    fill(&v, "lru");
    struct expert_cache *c = v.c;
    struct size_class *k = &c->cls[1]; /* the smaller slots, of layers 0 and 1 */
    int held = v.held[0].slot, coming = v.coming[0].slot, free_gid = k->first_gid + k->lowest_empty;
    struct slot *s = &c->slots[held], *r = &c->slots[coming], *none = &c->slots[free_gid];
    struct slot *guess = &c->slots[c->gid_of[2 * N_EXPERTS + 6]];
    while (none->state != SLOT_EMPTY)
        none++;
    assert_true(s->state == SLOT_RESIDENT && r->state == SLOT_READING &&
                guess->state == SLOT_READING);
    BREAKS(slots_check(c), none->key, 3,
           "slots: an EMPTY slot has no key, no lease and is no guess");
    BREAKS(slots_check(c), none->leases, 1,
           "slots: an EMPTY slot has no key, no lease and is no guess");
    BREAKS(slots_check(c), none->guessed, true,
           "slots: an EMPTY slot has no key, no lease and is no guess");
    BREAKS(slots_check(c), none->reads[0].state, IOQ_INFLIGHT,
           "slots: no read is under way into an EMPTY slot");
    BREAKS(slots_check(c), k->evictable[held - k->first_gid], 1,
           "slots: a slot is evictable exactly while it is RESIDENT and not leased");
    BREAKS(slots_check(c), s->leases, -1, "slots: no lease is given back twice");
    BREAKS(slots_check(c), s->key, (int64_t)N_LAYERS * N_EXPERTS,
           "slots: the key of a slot is an expert's");
    BREAKS(slots_check(c), s->key, 2 * N_EXPERTS,
           "slots: a slot holds an expert of a layer that its class serves");
    BREAKS(slots_check(c), s->key, 7, "slots: gid_of finds the slot that holds an expert");
    BREAKS(slots_check(c), c->gid_of[s->key], -1,
           "slots: gid_of finds the slot that holds an expert");
    BREAKS(slots_check(c), r->leases, 0, "slots: a slot read for nobody is pending");
    BREAKS(slots_check(c), s->guessed, true, "slots: a guess that was asked for is none any more");
    BREAKS(
        slots_check(c), k->n_slots, 0, /* with a resident slot that nobody leases */
        "slots: a slot above n_slots is empty, or leased or read since before the class shrank");
    BREAKS(slots_check(c), r->reads[0].state, IOQ_IDLE,
           "slots: the reads of a slot that is not empty were started");
    BREAKS(slots_check(c), s->reads[0].state, IOQ_QUEUED,
           "slots: no read is under way but into a READING slot");
    BREAKS(slots_check(c), r->reads[1].bytes, 1,
           "slots: a slot reads the extents of its layer and no more");
    BREAKS(slots_check(c), r->reads[0].offset, 0,
           "slots: a slot reads the expert that it is kept for");
    BREAKS(slots_check(c), r->reads[0].buf, slot_memory(c, held),
           "slots: a read goes into its extent's room of the slot");
    BREAKS(slots_check(c), s->reads[0].status, E_IO,
           "slots: all reads of a RESIDENT slot went well");
    BREAKS(slots_check(c), s->state, SLOT_FAILED,
           "slots: some read of a FAILED slot did not go well");
    guess->state = SLOT_FAILED;
    assert_says(slots_check(c), "slots: a FAILED slot is emptied with its last lease", __LINE__);
    guess->state = SLOT_READING;
    /* what a lease asks of its slot */
    struct expert_lease *l = &v.held[0];
    BREAKS(lease_check(c, l), l->slot, c->n_gids, "slots: a lease names a slot of the cache");
    BREAKS(lease_check(c, l), l->expert, 1, "slots: a leased slot keeps its expert");
    BREAKS(lease_check(c, l), l->slot, c->gid_of[4], "slots: a lease's slot counts it");
    BREAKS(slots_check(c), k->max_slots, k->max_slots - 1,
           "slots: a class has at most max_slots slots, and its own gids");
    BREAKS(slot_check(c, c->n_gids - 1), k->max_slots, k->max_slots - 1,
           "slots: a slot belongs to one class");
    empty(&v);
}

static void classes_and_tables(void **state)
{
    (void)state;
    struct env v;
    fill(&v, "lru");
    struct expert_cache *c = v.c;
    struct size_class *k = &c->cls[1];
    int32_t resident = c->gid_of[4];
    BREAKS(slots_check(c), c->memory_bytes, c->memory_bytes / 2,
           "slots: the classes share the mapping, one behind the other");
    BREAKS(slots_check(c), k->lowest_empty, k->n_slots + 1,
           "slots: lowest_empty and n_taken are bounds within n_slots");
    BREAKS(slots_check(c), k->lowest_empty, k->n_slots,
           "slots: no slot below lowest_empty is empty, so that memory grows only with use");
    BREAKS(slots_check(c), k->n_taken, -1,
           "slots: lowest_empty and n_taken are bounds within n_slots");
    BREAKS(slots_check(c), k->n_empty, 0, "slots: n_empty counts the empty slots below n_slots");
    BREAKS(slots_check(c), k->n_evictable, 0, "slots: n_evictable counts the evictable slots");
    BREAKS(slots_check(c), k->n_high_leased, 1,
           "slots: n_high_leased counts the leased slots above n_slots");
    BREAKS(slots_check(c), c->stats.slots_in_use, 0,
           "slots: slots_in_use counts the slots that hold something");
    BREAKS(slots_check(c), c->n_pending, 0,
           "slots: n_pending counts the slots that are marked as pending");
    BREAKS(slots_check(c), c->pending[0], resident,
           "slots: a slot in the list of pending ones is marked so");
    BREAKS(slots_check(c), c->gid_of[7], resident,
           "slots: gid_of names as many slots as hold something");
    BREAKS(slots_check(c), c->stats.n_hits, 1, "slots: a request hits or misses");
    BREAKS(slots_check(c), c->stats.guess_queued, 0,
           "slots: a guess is useful, late, wasted or still open, once");
    empty(&v);
}

/* ---- policies -------------------------------------------------------------- */

/* The same sources once more, for what only they can see. */
#define expert_policy_lru lru_here
#define expert_policy_decay decay_here
#include "expert/policy_decay.c"
#include "expert/policy_lru.c"

enum { SLOTS = 6 };

static int64_t key_here(const void *user, int slot)
{
    return ((const int64_t *)user)[slot];
}

/* Keys of three layers with four experts each; slot 5 is empty. */
static void *hold_five(const struct expert_policy *p, int64_t keys[SLOTS])
{
    static const int64_t held[SLOTS] = {0, 1, 2, 5, 9, -1};
    void *s = p->create(12, SLOTS, 3, 4);
    assert_non_null(s);
    for (int i = 0; i < SLOTS; i++) {
        keys[i] = held[i];
        if (held[i] >= 0)
            p->on_insert(s, held[i], i);
    }
    for (int i = 0; i < 5; i++)
        p->on_use(s, held[i], i);
    return s;
}

static void the_ring_of_lru(void **state)
{
    (void)state;
    int64_t keys[SLOTS];
    struct lru *p = hold_five(&lru_here, keys);
#define CHECK lru_here.check(p, SLOTS, key_here, keys)
    BREAKS(CHECK, p->n_slots, SLOTS - 1, "lru: the state is for the slots of its class");
    BREAKS(CHECK, p->link[2].newer, 1, "lru: the ring links back as it links on");
    BREAKS(CHECK, p->link[2].newer, SLOTS + 1, "lru: the ring closes, over slots of the class");
    BREAKS(CHECK, p->link[2].older, 0, "lru: the ring links back as it links on");
    BREAKS(CHECK, p->link[SLOTS].older, 3, "lru: the ring ends with its newest slot");
    BREAKS(CHECK, keys[2], -1, "lru: no slot of the ring is empty");
    BREAKS(CHECK, keys[5], 3, "lru: every slot that is not empty is in the ring");
#undef CHECK
    lru_here.destroy(p);
}

static void the_lists_of_decay(void **state)
{
    (void)state;
    int64_t keys[SLOTS];
    const uint8_t all[SLOTS] = {1, 1, 1, 1, 1, 0};
    struct decay *d = hold_five(&decay_here, keys);
    assert_true(decay_here.victim(d, all, 2) >= 0);
    struct layer_slots *l = &d->layers[0];
    assert_true(l->known && l->head == 2);
#define CHECK decay_here.check(d, SLOTS, key_here, keys)
    BREAKS(CHECK, d->links[0].older, 2, "decay: a layer's list links back as it links on");
    BREAKS(CHECK, l->head, SLOTS, "decay: a layer's list ends, over slots of the class");
    BREAKS(CHECK, d->links[1].newer, 0, "decay: a layer's list links back as it links on");
    BREAKS(CHECK, d->links[1].key, 3, "decay: a slot's link has the key that is in the slot");
    BREAKS(CHECK, d->layers[1].head, 4, "decay: a layer's list has slots with its experts");
    BREAKS(CHECK, d->use[1].pass, 7, "decay: an expert was used no later than its layer");
    BREAKS(CHECK, l->pass, 7, "decay: a layer's last turn is no later than this pass");
    BREAKS(CHECK, l->coldest, 3,
           "decay: the coldest slot that a layer remembers is one of its own");
    BREAKS(CHECK, l->coldest_p, 2.0f,
           "decay: the coldest slot that a layer remembers is as cold as it was");
    BREAKS(CHECK, keys[5], 3, "decay: every slot that is not empty is in the list of its layer");
    BREAKS(CHECK, d->last_layer, 3, "decay: the layer used last is one of the layers");
#undef CHECK
    decay_here.destroy(d);
}

/* The cache asks its policy: here of a slot that came behind its back. */
static void the_cache_checks_its_policy(void **state)
{
    (void)state;
    for (int i = 0; expert_policies[i]; i++) {
        const char *name = expert_policies[i]->name;
        struct env v;
        if (!expert_policies[i]->check)
            continue;
        fill(&v, name);
        struct slot *s = &v.c->slots[v.held[0].slot];
        struct size_class *c = slot_class(v.c, v.held[0].slot);
        int at = v.held[0].slot - c->first_gid;
        v.c->policy->on_evict(c->policy, s->key, at);
        const char *said = slots_check(v.c);
        if (!said || strncmp(said, name, strlen(name)) != 0 || said[strlen(name)] != ':')
            fail_msg("%s lost a slot, and the cache says: %s", name, said ? said : "nothing");
        v.c->policy->on_insert(c->policy, s->key, at);
        assert_null(slots_check(v.c));
        empty(&v);
    }
}

/* ---- the pool ---------------------------------------------------------------- */

#include "base/pool.c" /* instead of the library's */

static void inside_a_task(void *arg, int i, int n)
{
    const char **said = arg;
    (void)n;
    static atomic_int asked;
    if (i == 0) {
        *said = pool_check(*(struct pool **)(said + 1));
        atomic_store(&asked, 1);
    }
    while (!atomic_load(&asked))
        usleep(100);
}

static void the_pool(void **state)
{
    (void)state;
    struct pool *p = pool_new(2);
    assert_non_null(p);
    const char *said[2] = {NULL, (const char *)p};
    assert_null(pool_check(p));
    pool_run(p, inside_a_task, said);
    assert_says(said[0], "pool: no task is under way: fn and arg may be written", __LINE__);
    BREAKS(pool_check(p), p->n_started, 0, "pool: every worker but the caller was started");
    BREAKS(pool_check(p), p->stop, true, "pool: it was not freed");
    atomic_store(&p->caller_asleep, 1);
    assert_says(pool_check(p), "pool: the caller sleeps within a task only", __LINE__);
    atomic_store(&p->caller_asleep, 0);
    atomic_fetch_add(&p->n_asleep, 2);
    assert_says(pool_check(p), "pool: only workers sleep on a new round, each once", __LINE__);
    atomic_fetch_sub(&p->n_asleep, 2);
    assert_null(pool_check(p));
    pool_free(p);
}

/* ---- a build that looks ------------------------------------------------------- */

static void release_twice(void)
{
    struct env v;
    fill(&v, "lru");
    struct expert_lease again = v.held[0];
    expert_release(v.c, &v.held[0]);
    expert_release(v.c, &again);
}

static void lose_count(void)
{
    struct busy b;
    get_busy(&b, 4, IOQ_DEMAND);
    b.q->drive[0].inflight_bytes++;
    ioq_poll(b.q);
}

static void lose_a_slot(void)
{
    struct env v;
    fill(&v, "lru");
    v.c->gid_of[0] = -1;
    expert_tick(v.c);
}

static void forget_to_bring_over(void)
{
    struct device_ops none = {0};
    struct device other = {.ops = &none};
    struct dev_mem mem = {.dev = &other};
    cpu_at((struct dev_ptr){&mem, 0});
}

/* A child that does it ends in a trap, and the sanitizer has said why. */
static void dies(void (*deed)(void), const char *call, const char *sentence)
{
    int fd[2], status = 0;
    char text[16384];
    size_t n = 0;
    assert_int_equal(pipe(fd), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        signal(SIGILL, SIG_DFL); /* cmocka's handlers would go on with the next test */
        signal(SIGTRAP, SIG_DFL);
        dup2(fd[1], 2);
        deed();
        _exit(0);
    }
    close(fd[1]);
    for (ssize_t got;
         n < sizeof(text) - 1 && (got = read(fd[0], text + n, sizeof(text) - 1 - n)) > 0;)
        n += (size_t)got;
    text[n] = '\0';
    close(fd[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFSIGNALED(status) || (WTERMSIG(status) != SIGILL && WTERMSIG(status) != SIGTRAP))
        fail_msg("%s: no trap, status %x: %s", sentence, (unsigned)status, text);
#ifdef SANITIZER_REPORTS
    if (!strstr(text, call) || !strstr(text, sentence))
        fail_msg("expected %s: %s, got %s", call, sentence, text);
#else
    (void)call;
#endif
}

/* ---- dense weights ---------------------------------------------------------- */

static void dense_weights(void **state)
{
    (void)state;
    struct tensor t[3] = {{.name = "a", .ne = {32, 1, 1, 1}, .bytes = 128},
                          {.name = "b", .offset = 9000, .ne = {32, 1, 1, 1}, .bytes = 128},
                          {.name = "c", .offset = 20000, .ne = {32, 4, 1, 1}, .bytes = 512}};
    size_t at[3] = {0};
    struct dense *d;
    assert_int_equal(dense_new(NULL, 2, &d, NULL), OK);
    for (int i = 0; i < 2; i++)
        assert_int_equal(dense_add(d, &t[i], i, &at[i], NULL), OK);
    assert_int_equal(dense_add(d, &t[2], DENSE_OUTPUT, &at[2], NULL), OK);
    assert_int_equal(dense_added(d, NULL), OK);
    d->layout = (struct dense_layout){.bytes = 40960, .stay_bytes = 8192, .buffer = 8192};
    d->sections[0].stays = d->sections[0].arrived = true;
    d->n_items = 3;
    for (int i = 0; i < 2; i++) {
        d->buffers[i] =
            (struct dense_buffer){.at = 8192 + (size_t)i * 8192, .item = i, .cap_reads = 2};
        d->buffers[i].reads = calloc(2, sizeof(struct ioq_req));
        assert_non_null(d->buffers[i].reads);
    }
    BREAKS(dense_check(d), d->buffers[1].item, 0, "dense: no item is in both buffers");
    BREAKS(dense_check(d), d->buffers[1].item, 3,
           "dense: a buffer holds an item of the list, or none");
    BREAKS(dense_check(d), d->buffers[0].n_reads, 3,
           "dense: a buffer has no more reads than room for them");
    d->buffers[0].item = -1;
    BREAKS(dense_check(d), d->buffers[0].n_reads, 1,
           "dense: only a buffer with an item is read into");
    BREAKS(dense_check(d), d->buffers[0].at, 4096,
           "dense: buffers lie behind the weights that stay");
    BREAKS(dense_check(d), d->layout.stay_bytes, 50000, "dense: what stays is part of the memory");
    BREAKS(dense_check(d), d->weights[0].section, 2,
           "dense: weights are sorted by section once all are there");
    BREAKS(dense_check(d), at[0], 8192,
           "dense: a weight that stays has its place among those that stay");
    d->buffers[1].item = -1;
    dense_close(d);
}

/* ---- a device ------------------------------------------------------------------ */

static void places_of_a_device(void **state)
{
    (void)state;
    struct device_config c = {.threads = 1};
    struct device_ops none = {0};
    struct device *cpu, other = {.ops = &none};
    struct dev_mem *mem;
    assert_int_equal(device_cpu_open(&c, &cpu, NULL), OK);
    assert_int_equal(cpu->ops->alloc(cpu, DEV_STATE, 4096, &mem, NULL), OK);
    struct dev_ptr p = {mem, 64};
    BREAKS(cpu_place_check(p), mem->dev, &other, "cpu: a place lies in memory of the CPU");
    assert_null(cpu_place_check(DEV_NONE));
    dev_free(mem);
    device_close(cpu);
}

static void measuring_in_time(void **state)
{
    (void)state;
    static struct model m;
    struct dev_mem mem = {0};
    BREAKS(measure_check(&m), m.dense_mem, &mem,
           "model: a device is measured before the weights have their places");
}

static void a_broken_one_ends_the_process(void **state)
{
    (void)state;
#ifdef INVARIANTS_RUN
    dies(release_twice, "expert_release", "slots: a lease's slot counts it");
    dies(lose_count, "ioq_poll", "io: a drive's inflight_bytes adds up its pieces");
    dies(lose_a_slot, "expert_tick", "slots: gid_of finds the slot that holds an expert");
    dies(forget_to_bring_over, "cpu_at", "cpu: a place lies in memory of the CPU");
#else
    (void)dies;
    (void)release_twice;
    (void)lose_count;
    (void)lose_a_slot;
    (void)forget_to_bring_over;
    skip(); /* this build does not look */
#endif
}

/* ---- none is forgotten ---------------------------------------------------------- */

/* A file's text, terminated; to be freed. */
static char *text_of(const char *source)
{
    FILE *f = fopen(source, "r");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    size_t n = (size_t)ftell(f);
    char *text = malloc(n + 1);
    assert_non_null(text);
    rewind(f);
    assert_int_equal(fread(text, 1, n, f), n);
    text[n] = '\0';
    fclose(f);
    return text;
}

/* The statement HOLDS(condition, "owner: sentence"); behind `p`: its sentence is cut
 * out, NULL where it only passes on what another check said. *end: behind it. */
static char *sentence_of(char *p, char **end)
{
    char *from = NULL, *to = NULL;
    for (; *p && *p != ';'; p++) {
        if (*p != '"')
            continue;
        from = p + 1;
        for (p++; *p && *p != '"'; p++)
            ;
        to = p;
    }
    *end = *p ? p + 1 : p;
    if (to)
        *to = '\0';
    return from;
}

static int count_sentences(const char *source)
{
    static const char word[] = "HOLDS(";
    char *text = text_of(source);
    int n = 0;
    for (char *p = text; (p = strstr(p, word)) != NULL;) {
        char *said = sentence_of(p + sizeof(word) - 1, &p);
        bool found = false;
        if (!said)
            continue;
        size_t owner = strspn(said, "abcdefghijklmnopqrstuvwxyz_");
        if (owner == 0 || strncmp(said + owner, ": ", 2) != 0)
            fail_msg("%s: \"%s\" does not begin with its owner", source, said);
        for (int i = 0; i < n_heard; i++)
            found = found || strcmp(heard[i], said) == 0;
        if (!found)
            fail_msg("%s: nobody has broken \"%s\"", source, said);
        n++;
    }
    free(text);
    return n;
}

/* Of every source that has HOLDS lines, wherever it is. */
static void every_sentence_was_heard(void **state)
{
    (void)state;
    glob_t found = {0};
    int n = 0, n_files = 0;
    assert_int_equal(glob("src/*/*.c", 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        int here = count_sentences(found.gl_pathv[i]);
        n_files += here > 0;
        n += here;
    }
    globfree(&found);
    print_message("%d invariants in %d files, each of them seen broken\n", n, n_files);
    assert_true(n_files >= 6);
    assert_true(n > 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(queues),
        cmocka_unit_test(ops_and_drives),
        cmocka_unit_test(too_much_lookahead),
        cmocka_unit_test(files_and_counters),
        cmocka_unit_test(one_slot),
        cmocka_unit_test(classes_and_tables),
        cmocka_unit_test(the_ring_of_lru),
        cmocka_unit_test(the_lists_of_decay),
        cmocka_unit_test(the_cache_checks_its_policy),
        cmocka_unit_test(the_pool),
        cmocka_unit_test(dense_weights),
        cmocka_unit_test(places_of_a_device),
        cmocka_unit_test(measuring_in_time),
        cmocka_unit_test(a_broken_one_ends_the_process),
        cmocka_unit_test(every_sentence_was_heard),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
