/*
 * Conversions of metadata values. The elements were checked when the file was
 * parsed, so only the caller's type and index are checked here.
 */
#include "gguf/gguf_internal.h"

#include <string.h>

size_t gguf_scalar_bytes(uint32_t type)
{
    static const uint8_t bytes[] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2,    [GGUF_I16] = 2,  [GGUF_U32] = 4,
        [GGUF_I32] = 4, [GGUF_F32] = 4,  [GGUF_BOOL] = 1,   [GGUF_STRING] = 0,
        [GGUF_ARRAY] = 0, [GGUF_U64] = 8, [GGUF_I64] = 8,   [GGUF_F64] = 8,
    };

    return type < ARRAY_LEN(bytes) ? bytes[type] : 0;
}

/* Behind n elements at p; they were checked when they were read, the depth of
 * arrays too. */
static const uint8_t *skip(const uint8_t *p, uint32_t type, uint64_t n)
{
    if (type != GGUF_STRING && type != GGUF_ARRAY)
        return p + n * gguf_scalar_bytes(type);
    for (uint64_t i = 0; i < n; i++)
        p = type == GGUF_STRING ? p + 8 + le64(p) : skip(p + 12, le32(p), le64(p + 4));
    return p;
}

size_t gguf_raw_bytes(const struct gguf_value *v)
{
    return (size_t)(skip(v->raw, v->type, v->n) - (const uint8_t *)v->raw);
}

const char *gguf_type_name(enum gguf_type t)
{
    static const char *const names[] = {
        [GGUF_U8] = "u8",   [GGUF_I8] = "i8",     [GGUF_U16] = "u16",       [GGUF_I16] = "i16",
        [GGUF_U32] = "u32", [GGUF_I32] = "i32",   [GGUF_F32] = "f32",       [GGUF_BOOL] = "bool",
        [GGUF_STRING] = "string", [GGUF_ARRAY] = "array", [GGUF_U64] = "u64", [GGUF_I64] = "i64",
        [GGUF_F64] = "f64",
    };

    return (unsigned)t < ARRAY_LEN(names) ? names[t] : "unknown";
}

/* An integer element as sign and two's complement bits. */
static bool integer(const struct gguf_value *v, uint64_t i, uint64_t *bits, bool *negative)
{
    const uint8_t *p = v->raw;
    int64_t s = 0;

    if (i >= v->n)
        return false;
    p += i * gguf_scalar_bytes(v->type);
    *negative = false;
    switch (v->type) {
    case GGUF_U8:
    case GGUF_BOOL: *bits = p[0]; return true;
    case GGUF_U16: *bits = le16(p); return true;
    case GGUF_U32: *bits = le32(p); return true;
    case GGUF_U64: *bits = le64(p); return true;
    case GGUF_I8: s = (int8_t)p[0]; break;
    case GGUF_I16: s = (int16_t)le16(p); break;
    case GGUF_I32: s = (int32_t)le32(p); break;
    case GGUF_I64: s = (int64_t)le64(p); break;
    default: return false;
    }
    *bits = (uint64_t)s;
    *negative = s < 0;
    return true;
}

bool gguf_value_u64(const struct gguf_value *v, uint64_t i, uint64_t *out)
{
    uint64_t bits;
    bool negative;

    if (!integer(v, i, &bits, &negative) || negative)
        return false;
    *out = bits;
    return true;
}

bool gguf_value_i64(const struct gguf_value *v, uint64_t i, int64_t *out)
{
    uint64_t bits;
    bool negative;

    if (!integer(v, i, &bits, &negative) || (!negative && bits > INT64_MAX))
        return false;
    *out = (int64_t)bits;
    return true;
}

bool gguf_value_f64(const struct gguf_value *v, uint64_t i, double *out)
{
    uint64_t bits;
    bool negative;

    if (v->type == GGUF_F32 || v->type == GGUF_F64) {
        const uint8_t *p = v->raw;

        if (i >= v->n)
            return false;
        if (v->type == GGUF_F32) {
            uint32_t b = le32(p + 4 * i);
            float f;
            memcpy(&f, &b, sizeof f);
            *out = (double)f;
        } else {
            uint64_t b = le64(p + 8 * i);
            memcpy(out, &b, sizeof *out);
        }
        return true;
    }
    if (v->type == GGUF_BOOL || !integer(v, i, &bits, &negative))
        return false;
    *out = negative ? (double)(int64_t)bits : (double)bits;
    return true;
}

bool gguf_value_str(const struct gguf_value *v, struct str *out)
{
    if (v->type != GGUF_STRING || v->is_array)
        return false;
    out->n = (size_t)le64(v->raw);
    out->p = (const char *)v->raw + 8;
    return true;
}

bool gguf_value_strs(const struct gguf_value *v, struct str *out)
{
    const uint8_t *p = v->raw;

    if (v->type != GGUF_STRING || !v->is_array)
        return false;
    for (uint64_t i = 0; i < v->n; i++) {
        out[i].n = (size_t)le64(p);
        out[i].p = (const char *)p + 8;
        p += 8 + out[i].n;
    }
    return true;
}
