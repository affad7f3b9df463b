/*
 * Reading a model's files from the first byte to the last: their SHA-256, and
 * signs of damage in the weights. Each matrix of each expert is looked at for
 * itself.
 *
 * What can be told: values that are not finite, weights that are all zero, long
 * runs of zeros (a download that was never finished), rows of zeros in routers, and
 * text (a web page in the place of data). A bit that flipped gives another plausible weight: only
 * the sum tells, compared with the one that was published.
 *
 * Memory: one buffer, and a list with an entry for each matrix of each expert.
 */
#include "weights/weights_internal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    STEP = 1 << 20,      /* bytes of a read */
    ELEMENTS = 4096,     /* decoded at a time */
    BLOCK_MAX = 512,     /* bytes; no type has larger ones */
    TEXT_RUN = 256,      /* bytes that are text before it is no chance */
    ZERO_RUN = 64 << 10, /* and zeros; in a smaller matrix a quarter of it */
    ZERO_RUN_NORM = 512, /* of a norm's weights, where a few may be zero */
    ZERO_RUN_LEAST = 64
};

struct span { /* a matrix, of an expert or alone */
    int64_t begin, end; /* in the file */
    const char *name;
    enum dtype type;
    enum verify_kind kind;
    bool may_be_zero;
    int64_t n_in, n_rows; /* its rows have n_in elements */
    int expert;           /* -1: of no expert */
};

/* What was seen of the span under way. */
struct seen {
    int64_t n, n_bad, first_bad; /* elements; that are not finite */
    int64_t n_zero, n_zero_rows, first_zero_row; /* of a norm, of a router */
    int64_t hole_least;                          /* bytes of a run of zeros that are told */
    bool decodes, nonzero, row_nonzero;
    int64_t text_at, text_n, zero_at, zero_n; /* runs that last now */
    int64_t text, text_end, hole, hole_end;   /* the first text, the longest zeros; end 0: none */
    char quote[41];
    uint8_t rest[BLOCK_MAX]; /* a block that the end of a read cut */
    size_t n_rest;
};

/* Neighbouring experts with nothing in them make one sentence. */
struct empties {
    const char *name;
    int first, last;
};

struct checker {
    const struct weights *w;
    const struct weights_verify *c;
    struct span *spans;
    int64_t n_spans, cap_spans;
    struct seen seen;
    struct empties empties;
    int64_t n_found, done, total;
    uint8_t *buf;
    float y[ELEMENTS];
};

/* ---- findings -------------------------------------------------------------- */

static void found(struct checker *k, const char *text)
{
    k->n_found++;
    k->c->on_finding(k->c->user, text);
}

static void name_span(const struct span *s, char *buf, size_t n)
{
    if (s->expert >= 0)
        snprintf(buf, n, "tensor '%s', expert %d", s->name, s->expert);
    else
        snprintf(buf, n, "tensor '%s'", s->name);
}

static void tell_empties(struct checker *k)
{
    struct empties *z = &k->empties;
    char text[256];
    if (!z->name)
        return;
    if (z->first < 0)
        snprintf(text, sizeof(text), "tensor '%s' is all zeros", z->name);
    else if (z->first == z->last)
        snprintf(text, sizeof(text), "tensor '%s', expert %d is all zeros", z->name, z->first);
    else
        snprintf(text, sizeof(text), "tensor '%s', experts %d to %d are all zeros", z->name,
                 z->first, z->last);
    z->name = NULL;
    found(k, text);
}

static void add_empty(struct checker *k, const struct span *s)
{
    struct empties *z = &k->empties;
    if (z->name == s->name && s->expert >= 0 && z->last == s->expert - 1) {
        z->last = s->expert;
        return;
    }
    tell_empties(k);
    *z = (struct empties){s->name, s->expert, s->expert};
}

/* Zeros where weights are; not where everything is zero. */
static void tell_zeros(struct checker *k, const struct span *s, const char *name)
{
    const struct seen *x = &k->seen;
    char text[320];
    if (s->kind == VERIFY_ROUTER && x->n_zero_rows)
        snprintf(text, sizeof(text),
                 "%s: %" PRId64 " of %" PRId64 " rows are all zeros, the first is number %" PRId64,
                 name, x->n_zero_rows, s->n_rows, x->first_zero_row);
    else if (x->hole_end)
        snprintf(text, sizeof(text), "%s is zero from byte %" PRId64 " to %" PRId64 " of the file",
                 name, x->hole, x->hole_end);
    else if (s->kind == VERIFY_NORM && x->n_zero >= MAX(x->n / 4, (int64_t)1))
        snprintf(text, sizeof(text), "%s: %" PRId64 " of %" PRId64 " values are zero", name,
                 x->n_zero, x->n);
    else
        return;
    found(k, text);
}

static void tell_span(struct checker *k, const struct span *s)
{
    const struct seen *x = &k->seen;
    char name[128], text[320];
    bool empty = !x->nonzero && !s->may_be_zero;
    if (empty)
        add_empty(k, s);
    else
        tell_empties(k);
    name_span(s, name, sizeof(name));
    if (x->n_bad) {
        snprintf(text, sizeof(text),
                 "%s: %" PRId64 " of %" PRId64
                 " values are not finite, the first is number %" PRId64,
                 name, x->n_bad, x->n, x->first_bad);
        found(k, text);
    }
    if (x->text_end) {
        snprintf(text, sizeof(text),
                 "%s holds text from byte %" PRId64 " to %" PRId64 " of the file: \"%s\"", name,
                 x->text, x->text_end, x->quote);
        found(k, text);
    }
    if (!empty)
        tell_zeros(k, s, name);
}

/* ---- one span ---------------------------------------------------------------- */

/* Of n bytes from `at` those that should not be zero. */
static int64_t bytes_in_use(const struct checker *k, const struct span *s, int64_t at, int64_t n)
{
    int64_t row_bytes = (s->end - s->begin) / s->n_rows, sum = 0;
    if (s->kind != VERIFY_VOCABULARY)
        return n;
    for (int64_t row = (at - s->begin) / row_bytes; s->begin + row * row_bytes < at + n; row++) {
        int64_t begin = s->begin + row * row_bytes;
        if (!k->c->row_may_be_zero || !k->c->row_may_be_zero(k->w, row))
            sum += MIN(begin + row_bytes, at + n) - MAX(begin, at);
    }
    return sum;
}

static void end_runs(struct checker *k, const struct span *s)
{
    struct seen *x = &k->seen;
    if (x->text_n >= TEXT_RUN && !x->text_end) {
        x->text = x->text_at;
        x->text_end = x->text_at + x->text_n;
    }
    if (x->zero_n >= x->hole_least && x->zero_n > x->hole_end - x->hole &&
        bytes_in_use(k, s, x->zero_at, x->zero_n) >= x->hole_least) {
        x->hole = x->zero_at;
        x->hole_end = x->zero_at + x->zero_n;
    }
}

static bool is_text(uint8_t c)
{
    return (c >= 0x20 && c < 0x7f) || c == '\n' || c == '\r' || c == '\t';
}

static void look_at_bytes(struct checker *k, const struct span *s, const uint8_t *p, size_t n,
                          int64_t at)
{
    struct seen *x = &k->seen;
    for (size_t i = 0; i < n; i++) {
        bool text = is_text(p[i]), zero = p[i] == 0;
        if ((x->text_n && !text) || (x->zero_n && !zero))
            end_runs(k, s);
        if (text && x->text_n == 0)
            x->text_at = at + (int64_t)i;
        if (zero && x->zero_n == 0)
            x->zero_at = at + (int64_t)i;
        x->text_n = text ? x->text_n + 1 : 0;
        x->zero_n = zero ? x->zero_n + 1 : 0;
        if (text && !x->text_end && (size_t)x->text_n < sizeof(x->quote)) {
            x->quote[x->text_n - 1] = (char)(p[i] < 0x20 ? ' ' : p[i]);
            x->quote[x->text_n] = '\0';
        }
    }
}

/* y: n more values, which begin with number `first`. */
static void look_at_zeros(struct checker *k, const struct span *s, const float *y, int64_t n,
                          int64_t first)
{
    struct seen *x = &k->seen;
    for (int64_t i = 0; i < n; i++) {
        x->n_zero += y[i] == 0.0f;
        x->row_nonzero |= y[i] != 0.0f;
        if ((first + i + 1) % s->n_in != 0)
            continue;
        if (!x->row_nonzero && x->n_zero_rows++ == 0)
            x->first_zero_row = (first + i) / s->n_in;
        x->row_nonzero = false;
    }
}

static void look_at_values(struct checker *k, const struct span *s, const uint8_t *blocks,
                           int64_t n)
{
    struct seen *x = &k->seen;
    if (!k->c->decode(s->type, k->y, blocks, n)) {
        x->decodes = false;
        return;
    }
    if (s->kind == VERIFY_NORM || s->kind == VERIFY_ROUTER)
        look_at_zeros(k, s, k->y, n, x->n);
    for (int64_t i = 0; i < n; i++) {
        x->nonzero |= k->y[i] != 0.0f;
        if (isfinite(k->y[i]))
            continue;
        if (x->n_bad++ == 0)
            x->first_bad = x->n + i;
    }
    x->n += n;
}

static void look_at_blocks(struct checker *k, const struct span *s, const uint8_t *p, size_t n)
{
    const struct dtype_info *info = dtype_info(s->type);
    struct seen *x = &k->seen;
    const size_t block = info->block_bytes, most = ELEMENTS / info->block * block;
    if (x->n_rest) {
        size_t more = MIN(block - x->n_rest, n);
        memcpy(x->rest + x->n_rest, p, more);
        x->n_rest += more;
        p += more;
        n -= more;
        if (x->n_rest < block)
            return;
        look_at_values(k, s, x->rest, info->block);
        x->n_rest = 0;
    }
    for (; n >= block; p += MIN(most, n / block * block), n -= MIN(most, n / block * block))
        look_at_values(k, s, p, (int64_t)(MIN(most, n) / block * info->block));
    memcpy(x->rest, p, n);
    x->n_rest = n;
}

static void look(struct checker *k, const struct span *s, const uint8_t *p, size_t n, int64_t at)
{
    struct seen *x = &k->seen;
    look_at_bytes(k, s, p, n, at);
    if (x->decodes)
        look_at_blocks(k, s, p, n);
    for (size_t i = 0; !x->decodes && i < n && !x->nonzero; i++)
        x->nonzero = p[i] != 0;
}

/* ---- the list of spans ---------------------------------------------------------- */

static int add_span(struct checker *k, struct span s, struct err *e)
{
    if (k->n_spans == k->cap_spans) {
        int64_t cap = k->cap_spans ? 2 * k->cap_spans : 1024;
        struct span *p = realloc(k->spans, (size_t)cap * sizeof(*p));
        if (!p)
            return err_set(e, E_NOMEM, "no memory for a list of %lld matrices", (long long)cap);
        k->spans = p;
        k->cap_spans = cap;
    }
    k->spans[k->n_spans++] = s;
    return OK;
}

/* Bytes of a run of zeros that are told. */
static int64_t hole_least(const struct span *s)
{
    int64_t quarter = MAX((s->end - s->begin) / 4, (int64_t)ZERO_RUN_LEAST);
    if (s->may_be_zero)
        return INT64_MAX;
    return MIN(quarter, s->kind == VERIFY_NORM ? (int64_t)ZERO_RUN_NORM : (int64_t)ZERO_RUN);
}

/* The n matrices of a tensor. */
static int add_tensor(struct checker *k, const struct tensor *t, struct err *e)
{
    int64_t n = t->ne[2] > 1 ? t->ne[2] : t->inside ? t->inside->ne[1] : 1, bytes = t->bytes / n;
    int64_t stride = t->inside ? t->stride : bytes;
    const bool vectors = t->inside && t->ne[2] == 1; /* of experts, packed */
    struct span s = {.name = t->name,
                     .type = t->type,
                     .expert = -1,
                     .may_be_zero = tensor_may_be_zero(t),
                     .kind = k->c->kind ? k->c->kind(t) : VERIFY_PLAIN,
                     .n_in = t->ne[0],
                     .n_rows = vectors ? 1 : t->ne[1]};
    for (int64_t i = 0; i < n; i++) {
        s.begin = t->offset + i * stride;
        s.end = s.begin + bytes;
        s.expert = n > 1 ? (int)i : -1;
        TRY(add_span(k, s, e));
    }
    return OK;
}

static int by_begin(const void *pa, const void *pb)
{
    const struct span *a = pa, *b = pb;
    return (a->begin > b->begin) - (a->begin < b->begin);
}

static int list_spans(struct checker *k, int file, struct err *e)
{
    k->n_spans = 0;
    for (int64_t i = 0; i < weights_n_tensors(k->w); i++) {
        const struct tensor *t = weights_tensor(k->w, i);
        if (t->file == file && !t->packs)
            TRY(add_tensor(k, t, e));
    }
    if (k->n_spans)
        qsort(k->spans, (size_t)k->n_spans, sizeof(*k->spans), by_begin);
    return OK;
}

/* ---- one file --------------------------------------------------------------------- */

/* Spans in [at, at + n), which is in the buffer; *next is the first not done. */
static void look_at_step(struct checker *k, int64_t at, int64_t n, int64_t *next)
{
    while (*next < k->n_spans && k->spans[*next].begin < at + n) {
        const struct span *s = &k->spans[*next];
        int64_t from = MAX(s->begin, at), to = MIN(s->end, at + n);
        if (from == s->begin)
            k->seen = (struct seen){.decodes = dtype_info(s->type)->block_bytes <= BLOCK_MAX,
                                    .hole_least = hole_least(s)};
        look(k, s, k->buf + (from - at), (size_t)(to - from), from);
        if (to < s->end)
            return;
        end_runs(k, s);
        tell_span(k, s);
        ++*next;
    }
}

static int read_file(struct checker *k, int fd, const char *path, int64_t bytes, SHA2_CTX *sum,
                     struct err *e)
{
    int64_t next = 0;
    for (int64_t at = 0; at < bytes; at += STEP) {
        int64_t n = MIN((int64_t)STEP, bytes - at);
        TRY(os_read_exact(fd, k->buf, (size_t)n, at, path, e));
        (void)posix_fadvise(fd, at, n, POSIX_FADV_DONTNEED);
        SHA256Update(sum, k->buf, (size_t)n);
        look_at_step(k, at, n, &next);
        k->done += n;
        if (k->c->progress && k->c->progress(k->c->user, k->done, k->total))
            return err_set(e, E_CANCELLED, "stopped at byte %lld of %s", (long long)(at + n), path);
    }
    tell_empties(k);
    return OK;
}

/* Writers pad to at most a page. */
static void check_end(struct checker *k, int64_t bytes)
{
    int64_t end = k->n_spans ? k->spans[k->n_spans - 1].end : bytes;
    char text[128];
    if (bytes - end <= PACK_ALIGN)
        return;
    snprintf(text, sizeof(text),
             "%" PRId64 " bytes follow the last tensor, from byte %" PRId64 " of the file",
             bytes - end, end);
    found(k, text);
}

static int check_file(struct checker *k, int file, struct err *e)
{
    const char *path = weights_path(k->w, file);
    int64_t bytes = weights_file_bytes(k->w, file);
    char hex[SHA256_DIGEST_STRING_LENGTH];
    uint8_t digest[SHA256_DIGEST_LENGTH];
    SHA2_CTX sum;
    TRY(list_spans(k, file, e));
    int fd = os_open_read(path, NULL, e);
    TRY(fd);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    SHA256Init(&sum);
    int rc = read_file(k, fd, path, bytes, &sum, e);
    close(fd);
    TRY(rc);
    check_end(k, bytes);
    SHA256Final(digest, &sum);
    for (int i = 0; i < SHA256_DIGEST_LENGTH; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    k->c->on_file(k->c->user, path, bytes, hex);
    return OK;
}

int weights_verify(const struct weights *w, const struct weights_verify *v, int64_t *n_found,
                   struct err *e)
{
    struct checker *k = calloc(1, sizeof(*k));
    int rc = OK;
    if (k)
        k->buf = malloc(STEP);
    if (!k || !k->buf)
        rc = err_set(e, E_NOMEM, "no memory to check a file");
    if (rc == OK) {
        k->w = w;
        k->c = v;
        for (int i = 0; i < weights_n_files(w); i++)
            k->total += weights_file_bytes(w, i);
    }
    for (int i = 0; rc == OK && i < weights_n_files(w); i++)
        rc = check_file(k, i, e);
    if (rc == OK)
        rc = weights_unchanged(w, e);
    if (rc == OK)
        *n_found = k->n_found;
    if (k) {
        free(k->buf);
        free(k->spans);
    }
    free(k);
    return rc;
}
