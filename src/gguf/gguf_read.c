/*
 * The cursor over a file's header. It reads with pread in growing steps (file
 * mappings would count as resident memory) and knows the two bounds that stand
 * before every access: the end of the file and GGUF_HEADER_MAX.
 *
 * Invariants: pos <= have <= cap, have <= file_bytes; a failed take moves nothing.
 */
#include "gguf/gguf_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first step covers a header without vocabulary; a step reads on as much as
 * is there already, so a header of n bytes costs at most 2n bytes of reading. */
#define FIRST_STEP ((size_t)64 << 10)

const char *gguf_quote(char *out, size_t size, struct str s)
{
    size_t o = 0;

    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        bool plain = c >= 0x20 && c != 0x7f && c != '\'' && c != '\\';

        if (o + 8 > size) { /* room for one escape, the dots and the end */
            memcpy(out + o, "...", 3);
            o += 3;
            break;
        }
        if (plain)
            out[o++] = (char)c;
        else
            o += (size_t)snprintf(out + o, 5, "\\x%02x", c);
    }
    out[o] = '\0';
    return out;
}

const char *gguf_short_path(const char *path)
{
    size_t n = strlen(path);

    return n > 160 ? path + n - 160 : path;
}

int gguf_fail(struct gguf_reader *r, int code, uint64_t at, const char *fmt, ...)
{
    char text[400], name[96], item[160];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (r->item == ITEM_HEADER) {
        snprintf(item, sizeof item, "header");
    } else {
        struct str s = {(const char *)r->buf + r->name_at, r->name_n};
        const char *kind = r->item == ITEM_KEY ? "key" : "tensor";

        if (r->name_n)
            snprintf(item, sizeof item, "%s %" PRIu64 " '%s'", kind, r->item_no,
                     gguf_quote(name, sizeof name, s));
        else
            snprintf(item, sizeof item, "%s %" PRIu64, kind, r->item_no);
    }
    return err_set(r->e, code, "%s: %s at byte %" PRIu64 ": %s", gguf_short_path(r->path),
                   item, at, text);
}

/* Makes [0, want) readable; want <= file_bytes. */
static int fill(struct gguf_reader *r, size_t want)
{
    size_t target = MAX(want, MAX(FIRST_STEP, 2 * r->have));
    uint8_t *grown;

    target = MIN(target, (size_t)MIN(r->file_bytes, GGUF_HEADER_MAX));
    if (target > r->cap) {
        grown = realloc(r->buf, target);
        if (!grown)
            return err_set(r->e, E_NOMEM, "%s: no memory for %zu bytes of header",
                           gguf_short_path(r->path), target);
        r->buf = grown;
        r->cap = target;
    }
    if (r->mem)
        memcpy(r->buf + r->have, r->mem + r->have, target - r->have);
    else
        TRY(os_read_exact(r->fd, r->buf + r->have, target - r->have, (int64_t)r->have,
                          r->path, r->e));
    r->have = target;
    return OK;
}

int gguf_take(struct gguf_reader *r, uint64_t n, const char *field)
{
    if (n > gguf_left(r))
        return gguf_fail(r, E_FORMAT, r->pos,
                         "%s needs %" PRIu64 " bytes, but the file ends after %" PRIu64
                         " (file size %" PRId64 "); it is incomplete or damaged: copy or "
                         "download it again",
                         field, n, gguf_left(r), r->file_bytes);
    if (n > (uint64_t)GGUF_HEADER_MAX - r->pos)
        return gguf_fail(r, E_UNSUPPORTED, r->pos,
                         "%s needs %" PRIu64 " bytes, which makes the header larger than %" PRId64
                         " bytes; the file is probably damaged",
                         field, n, GGUF_HEADER_MAX);
    if (r->pos + n > r->have)
        TRY(fill(r, r->pos + (size_t)n));
    r->pos += (size_t)n;
    return OK;
}

int gguf_take_u32(struct gguf_reader *r, const char *field, uint32_t *out)
{
    TRY(gguf_take(r, 4, field));
    *out = le32(r->buf + r->pos - 4);
    return OK;
}

int gguf_take_u64(struct gguf_reader *r, const char *field, uint64_t *out)
{
    TRY(gguf_take(r, 8, field));
    *out = le64(r->buf + r->pos - 8);
    return OK;
}

int gguf_take_str(struct gguf_reader *r, uint64_t max, const char *field, size_t *at, size_t *n)
{
    uint64_t bytes;
    size_t start = r->pos;

    TRY(gguf_take_u64(r, field, &bytes));
    if (bytes > max)
        return gguf_fail(r, E_FORMAT, start,
                         "%s is %" PRIu64 " bytes long, at most %" PRIu64 " are allowed; the file "
                         "is damaged or was written by a broken converter",
                         field, bytes, max);
    TRY(gguf_take(r, bytes, field));
    *at = r->pos - (size_t)bytes;
    *n = (size_t)bytes;
    return OK;
}
