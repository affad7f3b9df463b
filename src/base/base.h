/*
 * base: what every other folder stands on.
 *
 *   err.c      status codes and the one error sentence
 *   utf8.c     UTF-8; untrusted text made fit to be shown
 *   dtype.c    the weight types: name, block length, block bytes
 *   arena.c    bump allocation for things that live and die together
 *   os_*.c     every operating-system call that is not a plain file read: memory
 *              pages and mappings, opening model files, limits, clock, CPU, threads
 *   pool.c     the compute threads
 *   trace.c    what happened when, for --timeline
 *   touch.c    memory touched before it is used
 *   invariant.c what happens when an invariant is broken, in builds that look
 *
 * Nothing here knows a model, prints, reads the environment or exits.
 * Unless a comment says otherwise a function may be called from any thread
 * as long as no two threads use the same object at once.
 */
#ifndef BASE_H
#define BASE_H

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- err.c ------------------------------------------------------------ */

/* Status codes: 0 or negative. Equal to SLUICE_E_* in include/sluice.h. */
enum {
    OK = 0,
    E_ARG = -1,         /* the caller asked for something impossible */
    E_FORMAT = -2,      /* a file is not what it should be */
    E_UNSUPPORTED = -3, /* valid, but nothing here can handle it */
    E_BUDGET = -4,      /* does not fit the memory budget */
    E_NOMEM = -5,       /* the system refused memory */
    E_IO = -6,          /* a read, open or write failed */
    E_CANCELLED = -7,   /* a callback asked to stop */
    E_STATE = -8        /* not possible in this state (for example: context full) */
};

/*
 * One sentence about the first failure: what, where, expected, got, what to
 * try. Owned by the caller of the failing function; initialise to {0}.
 */
struct err {
    int code;
    char text[600];
};

/* Records code and sentence unless one is already recorded; returns code.
 * `e` may be NULL. Names and strings of files may stand in the sentence as they
 * are: what a terminal would obey is escaped here, newlines too. */
int err_set(struct err *e, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Same, with ": " and strerror(errnum) appended. */
int err_errno(struct err *e, int code, int errnum, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void err_clear(struct err *e);

/* Forwards a negative status to the caller. */
#define TRY(expr)                                                              \
    do {                                                                       \
        int try_status_ = (expr);                                              \
        if (try_status_ < 0)                                                   \
            return try_status_;                                                \
    } while (0)

/* ---- small helpers ---------------------------------------------------- */

struct str { /* borrowed bytes, not terminated */
    const char *p;
    size_t n;
};

static inline size_t align_up(size_t x, size_t a) /* a: power of two */
{
    return (x + a - 1) & ~(a - 1);
}

static inline int64_t align_down64(int64_t x, int64_t a)
{
    return x & ~(a - 1);
}

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* ---- invariant.c ------------------------------------------------------ */

/*
 * An invariant is a sentence with the code that finds it broken, written once:
 * in a function X_check that returns the first broken one of its object, or NULL.
 * It changes nothing, so that it can be asked in any build. Sanitizer builds, and
 * those with -DSLUICE_INVARIANTS, ask at every entry of the public functions and
 * trap on a sentence; elsewhere INVARIANT is nothing, its argument not evaluated.
 */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZER_REPORTS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZER_REPORTS 1
#endif
#endif
#if defined(SLUICE_INVARIANTS) || defined(SANITIZER_REPORTS)
#define INVARIANTS_RUN 1
#endif

#ifdef INVARIANTS_RUN
/* NULL: nothing is broken. Else the process ends where it stands, in a trap; the
 * sanitizer writes the sentence, and a debugger finds it in the argument. */
void invariant_hold(const char *broken, const char *where);
#define INVARIANT(check) invariant_hold((check), __func__)
#else
#define INVARIANT(check) ((void)0)
#endif

/* In a function X_check: the sentence, unless it holds. */
#define HOLDS(condition, sentence)                                                                 \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return (sentence);                                                                     \
    } while (0)

/* ---- utf8.c ----------------------------------------------------------- */

/* Length (1..4) of the well-formed UTF-8 sequence at p; 0 if these bytes can
 * never become one; -k if all k bytes present begin one. n >= 1. */
int utf8_sequence(const char *p, size_t n);
/* Code point of a well-formed sequence of `length` bytes. */
uint32_t utf8_decode(const char *p, int length);

enum {
    SHOW_LINES = 1, /* newline and tab stay */
    SHOW_JSON = 2,  /* escapes that JSON's strings know; for well-formed text */
    SHOW_ROOM = 12
};
/* The first character of p (n >= 1 bytes) as it may be shown to a terminal: as it
 * is, or escaped visibly (\x1b, \u202e). Returns how many bytes of p that were;
 * *n_out bytes are in out. */
size_t utf8_show(const char *p, size_t n, unsigned how, char out[SHOW_ROOM], size_t *n_out);
/* The same for a whole text, as far as it fits; terminated. Returns strlen(out). */
size_t utf8_show_all(char *out, size_t room, const char *p, size_t n, unsigned how);

/* ---- dtype.c ---------------------------------------------------------- */

/*
 * The quantised types that sluice computes with, and all that is said of them
 * outside of their decoders. X(name, NAME, id, elements, bytes, minima, sixteens):
 *   name, NAME       as part of function names, and as GGUF tools print it
 *   id               GGUF's number (ggml_type)
 *   elements, bytes  of a block
 *   minima           1: a minimum is taken from every element
 *   sixteens         1: a scale for each 16 elements, 0: for each 32 or more
 */
/* clang-format off: one type a line */
#define DTYPE_QUANTISED(X)                                                     \
    X(q4_0, Q4_0, 2, 32, 18, 0, 0)                                             \
    X(q4_1, Q4_1, 3, 32, 20, 1, 0)                                             \
    X(q5_0, Q5_0, 6, 32, 22, 0, 0)                                             \
    X(q5_1, Q5_1, 7, 32, 24, 1, 0)                                             \
    X(q8_0, Q8_0, 8, 32, 34, 0, 0)                                             \
    X(q2_k, Q2_K, 10, 256, 84, 1, 1)                                           \
    X(q3_k, Q3_K, 11, 256, 110, 0, 1)                                          \
    X(q4_k, Q4_K, 12, 256, 144, 1, 0)                                          \
    X(q5_k, Q5_K, 13, 256, 176, 1, 0)                                          \
    X(q6_k, Q6_K, 14, 256, 210, 0, 1)                                          \
    X(iq2_xxs, IQ2_XXS, 16, 256, 66, 0, 0)                                     \
    X(iq2_xs, IQ2_XS, 17, 256, 74, 0, 1)                                       \
    X(iq3_xxs, IQ3_XXS, 18, 256, 98, 0, 0)                                     \
    X(iq1_s, IQ1_S, 19, 256, 50, 0, 0)                                         \
    X(iq4_nl, IQ4_NL, 20, 32, 18, 0, 0)                                        \
    X(iq3_s, IQ3_S, 21, 256, 110, 0, 0)                                        \
    X(iq2_s, IQ2_S, 22, 256, 82, 0, 1)                                         \
    X(iq4_xs, IQ4_XS, 23, 256, 136, 0, 0)                                      \
    X(iq1_m, IQ1_M, 29, 256, 56, 0, 1)                                         \
    X(tq1_0, TQ1_0, 34, 256, 54, 0, 0)                                         \
    X(tq2_0, TQ2_0, 35, 256, 66, 0, 0)                                         \
    X(mxfp4, MXFP4, 39, 32, 17, 0, 0)                                          \
    X(nvfp4, NVFP4, 40, 64, 36, 0, 1)                                          \
    X(q1_0, Q1_0, 41, 128, 18, 0, 0)                                           \
    X(q2_0, Q2_0, 42, 64, 18, 0, 0)
/* clang-format on */

/* Weight types; the numbers are GGUF's (ggml_type). */
enum dtype {
    DT_F32 = 0,
    DT_F16 = 1,
    DT_I8 = 24,
    DT_I16 = 25,
    DT_I32 = 26,
    DT_I64 = 27,
    DT_F64 = 28,
    DT_BF16 = 30,
#define DTYPE_ID(name, NAME, id, elements, bytes, minima, sixteens) DT_##NAME = id,
    DTYPE_QUANTISED(DTYPE_ID)
#undef DTYPE_ID
    DT_COUNT = 43 /* one more than the largest id known to any reader */
};

struct dtype_info {
    const char *name;     /* as GGUF tools print it, for example "Q4_K" */
    uint16_t block;       /* elements in a block; 0: id not in use */
    uint16_t block_bytes; /* bytes of a block */
};

/* NULL for an id that GGUF does not define. Types that sluice can size but
 * not compute with (Q8_K, F64, ...) are listed too. */
const struct dtype_info *dtype_info(uint32_t id);
bool bytes_are_zero(const void *p, size_t n);

/* Bytes of a row of n elements; n must be a multiple of the block. */
size_t dtype_row_bytes(enum dtype t, int64_t n);

/* ---- arena.c ---------------------------------------------------------- */

/* Memory that is freed all at once. Zero-initialise; arena_free is safe on a
 * zeroed one. Blocks are 64-byte aligned and zeroed. */
struct arena {
    struct arena_block *head;
    size_t used_bytes; /* handed out, rounding to 64 included */
};

void *arena_alloc(struct arena *a, size_t bytes); /* NULL: no memory */
void arena_free(struct arena *a);

/* ---- os_page.c -------------------------------------------------------- */

/* What physical memory is given out in: 4, 16 or 64 KiB. A power of two. */
size_t os_page_bytes(void);
/* A transparent huge page: 2 MiB where a page has 4 KiB, up to 512 MiB elsewhere. */
size_t os_huge_bytes(void);
/* From so many bytes on huge pages are worth their rounding, and so is touching
 * ahead (touch.c). */
size_t os_huge_from(void);
/* Tests: as if pages had so many bytes, a multiple of the real ones; 0: the real
 * ones again. While nothing is mapped. */
void os_set_page_bytes(size_t bytes);
static inline size_t os_whole_pages(size_t bytes)
{
    return align_up(bytes, os_page_bytes());
}

/* ---- os_mem.c --------------------------------------------------------- */

/* Anonymous zeroed memory in whole pages, aligned to them (to huge ones when
 * `huge`, which also asks for them; otherwise none are used, so that what is
 * never touched costs nothing). NULL when refused. Physical pages are taken at
 * first touch. */
void *os_map(size_t bytes, bool huge);
void os_unmap(void *p, size_t bytes);
/* Of a mapping of huge pages: only whole ones within the first `bytes` of
 * [p, p + all) are huge from now on. p is aligned to huge pages. */
void os_huge_until(void *p, size_t all, size_t bytes);
/* Gives the physical pages back, keeps the addresses; contents become zero. */
void os_discard(void *p, size_t bytes);
/* Best effort: keeps the pages in memory. False when the limit forbids it. */
bool os_lock(void *p, size_t bytes);

struct os_memory {
    int64_t total;          /* physical memory of the machine */
    int64_t available;      /* what the kernel thinks can be had now */
    int64_t cgroup_limit;   /* of the cgroup or parent that leaves least room; INT64_MAX: none */
    int64_t cgroup_used;    /* in that same cgroup, page cache excluded; 0 if no limit */
    int64_t cgroup_least;   /* smallest limit of the cgroup and its parents; INT64_MAX: none */
    int64_t rlimit_left;    /* what RLIMIT_AS and RLIMIT_DATA leave; INT64_MAX: they do not limit */
};
void os_memory(struct os_memory *m);
/* Resident set of this process in bytes; -1 where /proc is hidden. */
int64_t os_rss(void);
/* The same at its highest; of it and its parents where /proc is hidden. */
int64_t os_rss_peak(void);
/* Of the resident set, what is charged to this process alone; 0 where /proc is hidden:
 * whoever adds it to what is free then plans with less. */
int64_t os_rss_anonymous(void);
/* Returns to the system what the C library keeps of freed memory, where it can. */
void os_trim_heap(void);

/* ---- os_thread.c ------------------------------------------------------ */

/* A thread without signals (they belong to the threads of the host program),
 * with a stack that is too small to be made of a huge page. False: refused. */
bool os_thread_new(pthread_t *t, void *(*fn)(void *), void *arg);

/* ---- os_cgroup.c ------------------------------------------------------ */

/* What the control groups of this process and their parents allow. `root` is
 * put before every path that is read: "" for the real system, a fake tree in
 * tests. os_memory and os_cpu_count already count it in. */
struct os_cgroup {
    int64_t memory_limit, memory_used; /* as in struct os_memory */
    int64_t memory_least;              /* the smallest limit of all levels */
    double cpus; /* processor time quota in processors; 0: none */
};
void os_cgroup(const char *root, struct os_cgroup *c);

/* ---- os_file.c -------------------------------------------------------- */

/* Opens for reading; direct != NULL asks for direct I/O and tells whether it
 * was possible. Returns fd >= 0, or a status with its sentence. */
int os_open_read(const char *path, bool *direct, struct err *e);
int64_t os_file_size(int fd); /* -1: not a regular file or block device */
/* A number for the drive that a file lies on: the same for all partitions of a
 * disk where the system tells, else one for each filesystem. >= 0. */
int64_t os_drive(int fd);
/* Reads exactly n bytes at `offset`; short files give E_FORMAT. */
int os_read_exact(int fd, void *buf, size_t n, int64_t offset,
                  const char *path, struct err *e);

/* ---- os_write.c ------------------------------------------------------- */

/*
 * A new file that is there whole or not at all. It is written beside its
 * place under a temporary name (path + OS_OUT_SUFFIX) and renamed when it is
 * complete and on the drive. The temporary file is locked while it is written:
 * one that nobody locks was left by an interrupted run and is removed.
 */
#define OS_OUT_SUFFIX ".sluice-part"

struct os_out {
    char *path, *temp; /* path with symbolic links resolved */
    int fd;
    bool direct;       /* a device, pipe or descriptor: no temporary file */
    int64_t n;         /* bytes written */
    int64_t clean;     /* of them on the drive and out of the page cache */
    char *text;        /* of os_out_printf, not yet written */
    size_t n_text;
};

/* E_ARG where `path` is something that is no file, which os_out_open refuses, too. */
int os_out_check(const char *path, struct err *e);
/* E_STATE when another process is writing the same file. A file that is there
 * lends its permissions and, where allowed, its owner. After any return
 * os_out_close is safe. */
int os_out_open(struct os_out *o, const char *path, struct err *e);
/* The same for what a user names, where a device, a pipe, or a descriptor of the
 * process (/dev/stdout, /dev/fd/N) will do, too: it is written as it is. A file
 * that may not be written is refused, not replaced. */
int os_out_stream(struct os_out *o, const char *path, struct err *e);
/* E_IO unless `bytes` more fit the file system; reserves them where it can. */
int os_out_reserve(struct os_out *o, int64_t bytes, struct err *e);
int os_out_put(struct os_out *o, const void *p, size_t n, struct err *e);
/* Text, at most some KiB at once; collected, and not to be mixed with os_out_put. */
int os_out_printf(struct os_out *o, struct err *e, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Everything that was written is on the drive. */
int os_out_sync(struct os_out *o, struct err *e);
/* Gives the file its name. `replace`: what has it now is replaced; else E_ARG if
 * there is something. */
int os_out_commit(struct os_out *o, bool replace, struct err *e);
/* Removes the temporary file unless it was committed. */
void os_out_close(struct os_out *o);

enum os_same { OS_ABSENT, OS_OTHER, OS_SAME };
/* Whether `path` is the same file as `other`, or not there. */
enum os_same os_same_file(const char *path, const char *other);
/* What changes when a file's contents change; 0: it is not there. */
uint64_t os_file_stamp(const char *path);

/* ---- os_place.c ------------------------------------------------------- */

/* Where the bytes of `path` are, or will be when it is made: symbolic links are
 * followed, also to what is not there yet. malloc'ed; NULL: no memory. */
char *os_resolve(const char *path);
/* The descriptor that a path such as /dev/stdout or /dev/fd/3 names; -1: none. */
int os_path_fd(const char *path);

/*
 * The files that a task reads and writes. None that is written may be another
 * of them, by whatever name: writing it would destroy that.
 */
struct os_place;
struct os_places { /* zero-initialise */
    struct os_place *v;
    int n, cap;
    bool no_memory;
};
/* `what` names the file in sentences ("the model", "--timeline"); both strings
 * are copied. */
void os_places_add(struct os_places *p, const char *what, const char *path, bool output);
int os_places_check(const struct os_places *p, struct err *e); /* E_ARG, or OK */
void os_places_free(struct os_places *p);

/* ---- os_cpu.c --------------------------------------------------------- */

enum {
    CPU_AVX2 = 1,        /* AVX2 + FMA + F16C, state saved by the system */
    CPU_AVX512 = 2,      /* F, BW, DQ, VL */
    CPU_AVX512_VNNI = 4,
    CPU_AVX_VNNI = 16,   /* VNNI for 256-bit registers, without AVX-512 */
    CPU_NEON = 256,      /* 64-bit ARM: Advanced SIMD */
    CPU_DOTPROD = 512,   /* FEAT_DotProd: sdot, udot */
    CPU_I8MM = 1024      /* FEAT_I8MM: smmla and kin */
};
unsigned os_cpu_features(void);
/* Processors this process may run on, its cgroup's quota counted in; >= 1. */
int os_cpu_count(void);
int64_t os_cpu_cache_bytes(void); /* the largest cache; 0: unknown */
int64_t os_clock_ns(void);

/* ---- trace.c ---------------------------------------------------------- */

/*
 * A recorder of spans, owned by the engine and handed down; NULL where nothing
 * is recorded, which costs one branch. Spans of one track must nest.
 */
struct trace;

enum { TRACE_MAX_ARGS = 6 };
struct trace_kind { /* static: spans point at it */
    const char *name, *category;
    const char *arg[TRACE_MAX_ARGS];
};
#define TRACE_NO_ARG INT64_MIN /* an argument that is left out */

enum { /* tracks */
    TRACE_DRIVER = 1,      /* the thread that calls the library */
    TRACE_THREADS = 2,     /* + compute thread */
    TRACE_READS = 2000,    /* + TRACE_SLOTS * drive + place in flight */
    TRACE_SLOTS = 4096,
    TRACE_MAX_TRACK = TRACE_READS + 16 * TRACE_SLOTS
};

/* Takes `bytes` of memory for spans at once; NULL: no memory. */
struct trace *trace_new(size_t bytes);
/* Prepares the file that trace_close writes; E_ARG when it cannot be written. */
int trace_open(struct trace *t, const char *path, struct err *e);
/* No other thread adds any more. E_IO: not written; E_STATE: written, and
 * spans are missing because memory was full. */
int trace_close(struct trace *t, struct err *e);
void trace_drop(struct trace *t); /* closes without writing; NULL is fine */
void trace_add(struct trace *t, const struct trace_kind *k, int track, int64_t begin_ns,
               int64_t end_ns, const int64_t *args, int n_args);

/* ---- touch.c ---------------------------------------------------------- */

/*
 * A thread of the lowest priority that touches fresh pages of some regions a
 * little before they are used. All calls from one thread; NULL does nothing.
 */
struct touch;
struct touch *touch_open(int n_regions); /* NULL: it cannot be */
void touch_close(struct touch *t);
/* The region begins at `begin`, and nothing of it at or above `bytes` is touched
 * from now on. Before the first such call nothing is. */
void touch_limit(struct touch *t, int region, void *begin, size_t bytes);
/* The first `bytes` of the region have been used: touching goes on from there. */
void touch_used(struct touch *t, int region, size_t bytes);

/* ---- pool.c ----------------------------------------------------------- */

struct pool;

/* n_threads >= 1, the calling thread included. NULL: no memory or no threads. */
struct pool *pool_new(int n_threads);
void pool_free(struct pool *p);
int pool_size(const struct pool *p);

/* Runs fn(arg, i, n) once for each i in 0..n-1, n = pool_size, and returns
 * when all are done; i = 0 runs on the caller. Only one thread may drive a
 * pool. Workers spin for some microseconds after a task and then sleep. */
typedef void pool_fn(void *arg, int i, int n);
void pool_run(struct pool *p, pool_fn *fn, void *arg);
/* Inside a task, thread i: takes the next part [*begin, *end) of 0..total, which
 * all threads of the task must name alike; false: nothing is left. Parts become
 * smaller towards the end, so that threads of unequal speed end together. */
bool pool_take(struct pool *p, int i, int64_t total, int64_t *begin, int64_t *end);
/* What the caller of pool_run does besides: fn(user) is called on its thread
 * when a task begins and whenever it takes a part. NULL: nothing. */
typedef void pool_turn_fn(void *user);
void pool_set_turn(struct pool *p, pool_turn_fn *fn, void *user);
/* The first broken invariant of a pool between two tasks; NULL: none. */
const char *pool_check(const struct pool *p);

/* Records each thread's share of each task; NULL: no more. pool_label says what
 * the next tasks are. Both between tasks. */
void pool_set_trace(struct pool *p, struct trace *t);
void pool_label(struct pool *p, const struct trace_kind *k, int64_t arg);

/* The part of [0, total) that thread i of n works on, cut at multiples of
 * `grain`. */
static inline void pool_split(int64_t total, int64_t grain, int i, int n,
                              int64_t *begin, int64_t *end)
{
    int64_t units = (total + grain - 1) / grain;
    int64_t b = units * i / n * grain, e = units * (i + 1) / n * grain;
    *begin = MIN(b, total);
    *end = MIN(e, total);
}

#endif
