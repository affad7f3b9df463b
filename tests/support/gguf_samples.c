/*
 * Small GGUF files of every right and wrong kind.
 */
#include "support/gguf_build.h"

#include <stdio.h>
#include <string.h>

/* ---- right files ------------------------------------------------------ */

void gguf_sample_small(struct gb *b, uint32_t version)
{
    uint64_t ne[] = {256, 3};

    gb_head(b, version, 2, 2);
    gb_kv_str(b, "general.architecture", "qwen3moe");
    gb_kv_u32(b, "qwen3moe.block_count", 1);
    gb_tensor(b, "blk.0.w.weight", 2, ne, DT_Q4_K, 0);
    gb_tensor1(b, "output_norm.weight", 5, DT_F32, 448);
    gb_pad(b, 32);
    gb_zero(b, 448 + 20);
}

static void v2(struct gb *b)
{
    gguf_sample_small(b, 2);
}

static void v3(struct gb *b)
{
    gguf_sample_small(b, 3);
}

static void empty(struct gb *b)
{
    gb_head(b, 3, 0, 0);
}

static void write_scalars(struct gb *b)
{
    gb_head(b, 3, 0, 13);
    gb_key(b, "u8", GGUF_U8), gb_u8(b, 200);
    gb_key(b, "i8", GGUF_I8), gb_u8(b, 0x80);
    gb_key(b, "u16", GGUF_U16), gb_u16(b, 60000);
    gb_key(b, "i16", GGUF_I16), gb_u16(b, 0x8000);
    gb_key(b, "u32", GGUF_U32), gb_u32(b, 4000000000u);
    gb_key(b, "i32", GGUF_I32), gb_u32(b, 0x80000000u);
    gb_key(b, "f32", GGUF_F32), gb_f32(b, 1.5f);
    gb_key(b, "bool", GGUF_BOOL), gb_u8(b, 1);
    gb_key(b, "str", GGUF_STRING), gb_str(b, "caf\xc3\xa9");
    gb_key(b, "u64", GGUF_U64), gb_u64(b, UINT64_MAX);
    gb_key(b, "i64", GGUF_I64), gb_u64(b, (uint64_t)INT64_MIN);
    gb_key(b, "f64", GGUF_F64), gb_f64(b, -0.25);
    gb_key(b, "none", GGUF_STRING), gb_str(b, "");
}

static void write_arrays(struct gb *b)
{
    gb_head(b, 3, 0, 6);
    gb_key_array(b, "i16", GGUF_I16, 3);
    gb_u16(b, 1), gb_u16(b, 0xffff), gb_u16(b, 3);
    gb_key_array(b, "f32", GGUF_F32, 2);
    gb_f32(b, 0.5f), gb_f32(b, -2.0f);
    gb_key_array(b, "bool", GGUF_BOOL, 4);
    gb_u8(b, 0), gb_u8(b, 1), gb_u8(b, 1), gb_u8(b, 0);
    gb_key_array(b, "str", GGUF_STRING, 4);
    gb_str(b, "a"), gb_str(b, ""), gb_str(b, "ccc"), gb_u64(b, 3), gb_put(b, "x\0y", 3);
    gb_key_array(b, "none", GGUF_STRING, 0);
    gb_key_array(b, "u64", GGUF_U64, 1);
    gb_u64(b, 7);
}

/* [[1, 2], ["a", ""], [], [[true]]] and what stands behind it. */
static void write_nested(struct gb *b)
{
    gb_head(b, 3, 0, 2);
    gb_key_array(b, "nested", GGUF_ARRAY, 4);
    gb_u32(b, GGUF_U16), gb_u64(b, 2), gb_u16(b, 1), gb_u16(b, 2);
    gb_u32(b, GGUF_STRING), gb_u64(b, 2), gb_str(b, "a"), gb_str(b, "");
    gb_u32(b, GGUF_F64), gb_u64(b, 0);
    gb_u32(b, GGUF_ARRAY), gb_u64(b, 1), gb_u32(b, GGUF_BOOL), gb_u64(b, 1), gb_u8(b, 1);
    gb_kv_u32(b, "behind", 7);
}

/* A tensor of every type that has a size, with gaps between them. */
static void write_dtypes(struct gb *b)
{
    uint64_t n = 0, offset = 0, end = 0;
    char name[32];

    for (uint32_t id = 0; id < DT_COUNT; id++)
        n += dtype_info(id) != NULL;
    gb_head(b, 3, n, 0);
    for (uint32_t id = 0; id < DT_COUNT; id++) {
        const struct dtype_info *info = dtype_info(id);
        uint64_t ne[] = {0, 2, 1, 3};

        if (!info)
            continue;
        ne[0] = info->block;
        snprintf(name, sizeof name, "t.%s", info->name);
        gb_tensor(b, name, 4, ne, id, offset);
        end = offset + 6u * info->block_bytes;
        offset = align_up(end, 32) + 32;
    }
    gb_pad(b, 32);
    gb_zero(b, end);
}

static void aligned(struct gb *b, uint32_t type, uint32_t align)
{
    gb_head(b, 3, 2, 1);
    gb_key(b, "general.alignment", type);
    if (type == GGUF_U64)
        gb_u64(b, align);
    else
        gb_u32(b, align);
    gb_tensor1(b, "second", 1, DT_F32, align);
    gb_tensor1(b, "first", 2, DT_F16, 0);
    gb_pad(b, align);
    gb_zero(b, align + 4);
}

static void align8(struct gb *b)
{
    aligned(b, GGUF_U32, 8);
}

static void align4096(struct gb *b)
{
    aligned(b, GGUF_U64, 4096);
}

static void longest_name(struct gb *b)
{
    char name[GGUF_NAME_MAX + 1];

    memset(name, 'n', GGUF_NAME_MAX);
    name[GGUF_NAME_MAX] = '\0';
    gb_head(b, 3, 1, 0);
    gb_tensor1(b, name, 1, DT_I8, 0);
    gb_pad(b, 32);
    gb_u8(b, 1);
}

static void tokenizer(struct gb *b)
{
    char token[16];

    gb_head(b, 3, 0, 2);
    gb_key_array(b, "tokenizer.ggml.tokens", GGUF_STRING, 300);
    for (int i = 0; i < 300; i++) {
        snprintf(token, sizeof token, "t%d", i);
        gb_str(b, token);
    }
    gb_key_array(b, "tokenizer.ggml.token_type", GGUF_I32, 300);
    for (int i = 0; i < 300; i++)
        gb_u32(b, 1);
}

const struct gguf_sample gguf_samples[] = {
    {"v2", v2}, {"v3", v3}, {"empty", empty}, {"scalars", write_scalars}, {"arrays", write_arrays},
    {"nested", write_nested}, {"dtypes", write_dtypes}, {"align8", align8},
    {"align4096", align4096}, {"longest-name", longest_name}, {"tokenizer", tokenizer},
    {NULL, NULL},
};

/* ---- wrong files ------------------------------------------------------ */

/* These set b->mark to the byte that the sentence must name. */

static void at(struct gb *b)
{
    b->mark = b->n;
}

static void bad_version(struct gb *b, uint32_t v)
{
    gb_head(b, v, 0, 0);
    b->mark = 4;
}

static void version0(struct gb *b) { bad_version(b, 0); }
static void version1(struct gb *b) { bad_version(b, 1); }
static void version4(struct gb *b) { bad_version(b, 4); }
static void version_swapped(struct gb *b) { bad_version(b, 0x03000000); }

static void bad_magic(struct gb *b, const char *text, size_t n)
{
    gb_put(b, text, n);
    gb_zero(b, 40);
}

static void magic_zip(struct gb *b) { bad_magic(b, "PK\003\004", 4); }
static void magic_html(struct gb *b) { bad_magic(b, "<!DOCTYPE html>", 15); }
static void magic_lfs(struct gb *b)
{
    bad_magic(b, "version https://git-lfs.github.com/spec/v1", 42);
}
static void magic_safetensors(struct gb *b) { bad_magic(b, "\x10\0\0\0\0\0\0\0{\"a\":1}", 15); }
static void magic_zeros(struct gb *b) { bad_magic(b, "", 0); }
static void magic_unknown(struct gb *b) { bad_magic(b, "\1\2\3\4 ...", 8); }
static void magic_short(struct gb *b) { gb_put(b, "GG", 2); }

static void count_tensors_huge(struct gb *b)
{
    gb_head(b, 3, (uint64_t)1 << 60, 0);
    b->mark = 8;
}

static void count_tensors_negative(struct gb *b)
{
    gb_head(b, 3, UINT64_MAX, 0);
    b->mark = 8;
}

static void count_keys_huge(struct gb *b)
{
    gb_head(b, 3, 0, 1 << 30);
    gb_zero(b, 100);
    b->mark = 16;
}

static void key_one(struct gb *b, const char *key, size_t n)
{
    gb_head(b, 3, 0, 1);
    at(b);
    gb_u64(b, n);
    gb_put(b, key, n);
    gb_u32(b, GGUF_U8);
    gb_u8(b, 0);
    gb_zero(b, 40);
}

static void key_empty(struct gb *b) { key_one(b, "", 0); }
static void key_zero_byte(struct gb *b) { key_one(b, "a\0b", 3); }

static void key_long(struct gb *b)
{
    gb_head(b, 3, 0, 1);
    at(b);
    gb_u64(b, 70000);
    gb_zero(b, 80000);
}

static void key_huge(struct gb *b)
{
    gb_head(b, 3, 0, 1);
    at(b);
    gb_u64(b, UINT64_MAX - 7);
    gb_zero(b, 100);
}

static void key_twice(struct gb *b)
{
    gb_head(b, 3, 0, 2);
    gb_kv_u32(b, "a.b", 1);
    b->mark = b->n + 8;
    gb_kv_u32(b, "a.b", 1);
}

static void value_type(struct gb *b)
{
    gb_head(b, 3, 0, 1);
    b->mark = b->n + 8 + 3;
    gb_key(b, "a.b", 13);
    gb_zero(b, 40);
}

static void array_type(struct gb *b)
{
    gb_head(b, 3, 0, 1);
    b->mark = b->n + 8 + 3 + 4;
    gb_key_array(b, "a.b", 99, 1);
    gb_zero(b, 40);
}

/* Arrays in arrays, one deeper than is read. */
static void array_nested(struct gb *b)
{
    gb_head(b, 3, 0, 1);
    gb_key_array(b, "a.b", GGUF_ARRAY, 1);
    for (int i = 0; i < GGUF_ARRAY_DEPTH - 1; i++) {
        gb_u32(b, GGUF_ARRAY);
        b->mark = b->n;
        gb_u64(b, 1);
    }
    gb_zero(b, 40);
}

/* The inner one says that it is larger than the file. */
static void array_inner_huge(struct gb *b)
{
    gb_head(b, 3, 0, 1);
    gb_key_array(b, "a.b", GGUF_ARRAY, 2);
    gb_u32(b, GGUF_U32);
    gb_u64(b, 1);
    gb_u32(b, 7);
    gb_u32(b, GGUF_U64);
    b->mark = b->n;
    gb_u64(b, UINT64_MAX / 2);
    gb_zero(b, 40);
}

static void array_huge(struct gb *b)
{
    gb_head(b, 3, 0, 1);
    b->mark = b->n + 8 + 3 + 8;
    gb_key_array(b, "a.b", GGUF_U32, (uint64_t)1 << 60);
    gb_zero(b, 40);
}

static void array_strings_huge(struct gb *b)
{
    gb_head(b, 3, 0, 1);
    b->mark = b->n + 8 + 3 + 8;
    gb_key_array(b, "a.b", GGUF_STRING, (uint64_t)1 << 61);
    gb_zero(b, 40);
}

static void string_huge(struct gb *b)
{
    gb_head(b, 3, 0, 1);
    gb_key(b, "a.b", GGUF_STRING);
    gb_u64(b, UINT64_MAX);
    at(b);
    gb_zero(b, 40);
}

static void bool_two(struct gb *b)
{
    gb_head(b, 3, 0, 1);
    gb_key_array(b, "a.b", GGUF_BOOL, 3);
    gb_u8(b, 1), gb_u8(b, 0);
    at(b);
    gb_u8(b, 2);
}

static void bad_align(struct gb *b, uint32_t align)
{
    gb_head(b, 3, 0, 1);
    gb_key(b, "general.alignment", GGUF_U32);
    at(b);
    gb_u32(b, align);
    gb_zero(b, 40);
}

static void align_0(struct gb *b) { bad_align(b, 0); }
static void align_4(struct gb *b) { bad_align(b, 4); }
static void align_48(struct gb *b) { bad_align(b, 48); }
static void align_max(struct gb *b) { bad_align(b, 1u << 31); }

static void align_string(struct gb *b)
{
    gb_head(b, 3, 0, 1);
    gb_key(b, "general.alignment", GGUF_STRING);
    at(b);
    gb_str(b, "32");
}

static void tensor_named(struct gb *b, const char *name, size_t n)
{
    gb_head(b, 3, 1, 0);
    at(b);
    gb_u64(b, n);
    gb_put(b, name, n);
    gb_u32(b, 1);
    gb_u64(b, 1);
    gb_u32(b, DT_F32);
    gb_u64(b, 0);
    gb_data(b, 32);
}

static void name_empty(struct gb *b) { tensor_named(b, "", 0); }
static void name_zero_byte(struct gb *b) { tensor_named(b, "a\0b", 3); }

static void name_64(struct gb *b)
{
    tensor_named(b, "0123456789012345678901234567890123456789012345678901234567890123", 64);
}

static void name_escape(struct gb *b)
{
    gb_head(b, 3, 1, 0);
    gb_str(b, "\033[2Jx");
    at(b);
    gb_u32(b, 9);
    gb_zero(b, 100);
}

static void name_twice(struct gb *b)
{
    gb_head(b, 3, 2, 0);
    gb_tensor1(b, "w", 8, DT_F32, 0);
    b->mark = b->n + 8;
    gb_tensor1(b, "w", 8, DT_F32, 32);
    gb_data(b, 64);
}

/* One tensor w; the mark is `behind` bytes behind its name. */
static void tensor_w(struct gb *b, int n_dims, const uint64_t *ne, uint32_t type, uint64_t offset,
                     size_t behind)
{
    gb_head(b, 3, 1, 0);
    b->mark = b->n + 9 + behind;
    gb_tensor(b, "w", n_dims, ne, type, offset);
    gb_data(b, 4096);
}

static void dims_0(struct gb *b) { tensor_w(b, 0, NULL, DT_F32, 0, 0); }
static void dims_5(struct gb *b) { tensor_w(b, 5, (uint64_t[]){1, 1, 1, 1, 1}, DT_F32, 0, 0); }
static void ne_zero(struct gb *b) { tensor_w(b, 2, (uint64_t[]){32, 0}, DT_F32, 0, 12); }
static void ne_negative(struct gb *b) { tensor_w(b, 1, (uint64_t[]){UINT64_MAX}, DT_F32, 0, 4); }

static void ne_overflow(struct gb *b)
{
    tensor_w(b, 3, (uint64_t[]){1 << 30, 1 << 30, 1 << 30}, DT_F32, 0, 20);
}

static void bytes_overflow(struct gb *b)
{
    tensor_w(b, 2, (uint64_t[]){(uint64_t)1 << 40, 1 << 22}, DT_F32, 0, 4);
}

static void block_length(struct gb *b) { tensor_w(b, 2, (uint64_t[]){100, 4}, DT_Q4_K, 0, 4); }
static void type_retired(struct gb *b) { tensor_w(b, 1, (uint64_t[]){32}, 4, 0, 12); }
static void type_unknown(struct gb *b) { tensor_w(b, 1, (uint64_t[]){32}, 4711, 0, 12); }
static void offset_odd(struct gb *b) { tensor_w(b, 1, (uint64_t[]){32}, DT_F32, 4, 16); }
static void offset_outside(struct gb *b) { tensor_w(b, 1, (uint64_t[]){32}, DT_F32, 4096, 16); }
static void offset_last(struct gb *b) { tensor_w(b, 1, (uint64_t[]){33}, DT_F32, 4096 - 128, 16); }
static void offset_huge(struct gb *b) { tensor_w(b, 1, (uint64_t[]){32}, DT_F32, 1ull << 63, 16); }

static void overlap(struct gb *b)
{
    gb_head(b, 3, 3, 0);
    gb_tensor1(b, "c", 9, DT_F32, 64);
    gb_tensor1(b, "a", 8, DT_F32, 0);
    b->mark = b->n + 8;
    gb_tensor1(b, "b", 1, DT_F32, 96);
    gb_data(b, 128);
}

static void same_place(struct gb *b)
{
    gb_head(b, 3, 2, 0);
    gb_tensor1(b, "a", 8, DT_F32, 0);
    gb_tensor1(b, "b", 8, DT_F32, 0);
    gb_data(b, 128);
    b->mark = SIZE_MAX; /* either may be the first */
}

const struct gguf_wrong gguf_wrongs[] = {
    {"version-0", version0, E_UNSUPPORTED, "version 0"},
    {"version-1", version1, E_UNSUPPORTED, "version 1 is too old"},
    {"version-4", version4, E_UNSUPPORTED, "version 4"},
    {"version-swapped", version_swapped, E_UNSUPPORTED, "big-endian"},
    {"magic-zip", magic_zip, E_FORMAT, "ZIP"},
    {"magic-html", magic_html, E_FORMAT, "web page"},
    {"magic-lfs", magic_lfs, E_FORMAT, "Git LFS"},
    {"magic-safetensors", magic_safetensors, E_FORMAT, "safetensors"},
    {"magic-zeros", magic_zeros, E_FORMAT, "zeros"},
    {"magic-unknown", magic_unknown, E_FORMAT, "01 02 03 04"},
    {"magic-short", magic_short, E_FORMAT, "only 2 bytes"},
    {"count-tensors-huge", count_tensors_huge, E_FORMAT, "header"},
    {"count-tensors-negative", count_tensors_negative, E_FORMAT, "tensor count"},
    {"count-keys-huge", count_keys_huge, E_FORMAT, "1073741824 keys"},
    {"key-empty", key_empty, E_FORMAT, "key 0 at"},
    {"key-zero-byte", key_zero_byte, E_FORMAT, "key 0 'a\\x00b'"},
    {"key-long", key_long, E_FORMAT, "70000 bytes long"},
    {"key-huge", key_huge, E_FORMAT, "at most 65535"},
    {"key-twice", key_twice, E_FORMAT, "key 1 'a.b'"},
    {"value-type", value_type, E_FORMAT, "value type is 13"},
    {"array-type", array_type, E_FORMAT, "element type is 99"},
    {"array-nested", array_nested, E_UNSUPPORTED, "nested more than 4 deep"},
    {"array-inner-huge", array_inner_huge, E_FORMAT, "9223372036854775807 elements"},
    {"array-huge", array_huge, E_FORMAT, "1152921504606846976 elements"},
    {"array-strings-huge", array_strings_huge, E_FORMAT, "2305843009213693952 strings"},
    {"string-huge", string_huge, E_FORMAT, "key 0 'a.b'"},
    {"bool-two", bool_two, E_FORMAT, "bool 2 has the value 2"},
    {"align-0", align_0, E_FORMAT, "alignment 0"},
    {"align-4", align_4, E_FORMAT, "alignment 4"},
    {"align-48", align_48, E_FORMAT, "alignment 48"},
    {"align-max", align_max, E_FORMAT, "alignment 2147483648"},
    {"align-string", align_string, E_FORMAT, "key 0 'general.alignment'"},
    {"name-empty", name_empty, E_FORMAT, "tensor 0 at"},
    {"name-zero-byte", name_zero_byte, E_FORMAT, "tensor 0 'a\\x00b'"},
    {"name-64", name_64, E_FORMAT, "64 bytes long, at most 63"},
    {"name-escape", name_escape, E_FORMAT, "tensor 0 '\\x1b[2Jx'"},
    {"name-twice", name_twice, E_FORMAT, "tensor 1 'w'"},
    {"dims-0", dims_0, E_FORMAT, "n_dims = 0"},
    {"dims-5", dims_5, E_FORMAT, "n_dims = 5"},
    {"ne-zero", ne_zero, E_FORMAT, "ne[1] = 0"},
    {"ne-negative", ne_negative, E_FORMAT, "ne[0] = -1"},
    {"ne-overflow", ne_overflow, E_FORMAT, "ne[2] = 1073741824"},
    {"bytes-overflow", bytes_overflow, E_FORMAT, "4611686018427387904 elements of F32"},
    {"block-length", block_length, E_FORMAT,
     "ne[0] = 100 is not a multiple of 256, the block length of Q4_K"},
    {"type-retired", type_retired, E_UNSUPPORTED, "tensor type 4 "},
    {"type-unknown", type_unknown, E_UNSUPPORTED, "tensor type 4711"},
    {"offset-odd", offset_odd, E_FORMAT, "offset 4 is not a multiple of the alignment 32"},
    {"offset-outside", offset_outside, E_FORMAT, "ends at 4160"},
    {"offset-last", offset_last, E_FORMAT, "the next 132"},
    {"offset-huge", offset_huge, E_FORMAT, "9223372036854775808"},
    {"overlap", overlap, E_FORMAT, "overlaps that of tensor 'c'"},
    {"same-place", same_place, E_FORMAT, "overlaps"},
    {NULL, NULL, 0, NULL},
};

void gguf_sample_write(const char *name, struct gb *b)
{
    for (int i = 0; gguf_samples[i].name; i++)
        if (strcmp(gguf_samples[i].name, name) == 0)
            gguf_samples[i].write(b);
}
