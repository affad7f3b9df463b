/*
 * vocab: opens the tokeniser's tables from the metadata of a model file.
 *
 * Token strings are stored as the bytes they stand for: the file spells
 * ordinary tokens and merges as spell.c says, special ones as plain text. All
 * strings lie in one pool, all look-ups go through open addressing tables of
 * 32-bit entries, so that a vocabulary of 248,000 costs about 10 MB with its merges.
 *
 * The metadata is untrusted. What cannot be meant (a merge without a space, an
 * id outside the vocabulary) is an error; what merely has no effect (a merge
 * that no text can reach, a token listed twice) is passed over: of equal
 * tokens the first counts, of equal merges too.
 *
 * tokenizer.ggml.model is one of
 *   gpt2    merges by rank, pre-tokeniser tokenizer.ggml.pre
 *   gemma4  the same with the pre-tokeniser gemma4: tokens are text, not mapped bytes
 *   llama   SentencePiece's: any two neighbours that are a token merge, the one with
 *           the best score first; there is no pre-tokeniser
 */
#include <stdlib.h>
#include <string.h>

#include "text/text_internal.h"

enum { SLOT_NUMBER = (1 << 28) - 1, MAX_SYMBOLS = SLOT_NUMBER };

/* ---- tables ---- */

static uint32_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdu;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53u;
    return (uint32_t)(x >> 32);
}

static uint32_t hash_bytes(const char *p, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)p[i]) * 0x100000001b3u;
    return mix(h);
}

static uint32_t hash_pair(int32_t left, int32_t right)
{
    return mix((uint64_t)(uint32_t)left << 32 | (uint32_t)right);
}

/* A slot holds 0 (empty), or a number + 1 and above it four bits of the hash, so
 * that most other entries are passed over without a look at what they stand for. */
static uint32_t slot_of(uint32_t hash, int32_t number)
{
    return (hash & ~(uint32_t)SLOT_NUMBER) | ((uint32_t)number + 1);
}

static int32_t slot_number(uint32_t slot)
{
    return (int32_t)(slot & SLOT_NUMBER) - 1;
}

static bool same_tag(uint32_t slot, uint32_t hash)
{
    return (slot ^ hash) <= SLOT_NUMBER;
}

/* The slot where these bytes are, or would go. */
static uint32_t *sym_slot(const struct text *t, const char *p, size_t n, uint32_t hash)
{
    uint32_t i = hash & t->sym_mask;
    for (; t->sym_slot[i]; i = (i + 1) & t->sym_mask) {
        if (!same_tag(t->sym_slot[i], hash))
            continue;
        struct str s = text_sym(t, slot_number(t->sym_slot[i]));
        if (s.n == n && !memcmp(s.p, p, n))
            break;
    }
    return &t->sym_slot[i];
}

int32_t vocab_find(const struct text *t, const char *p, size_t n)
{
    if (!n)
        return -1;
    return slot_number(*sym_slot(t, p, n, hash_bytes(p, n)));
}

static uint32_t *merge_slot(const struct text *t, int32_t left, int32_t right, uint32_t hash)
{
    uint32_t i = hash & t->merge_mask;
    for (; t->merge_slot[i]; i = (i + 1) & t->merge_mask) {
        if (!same_tag(t->merge_slot[i], hash))
            continue;
        const struct merge *m = &t->merges[slot_number(t->merge_slot[i])];
        if (m->left == left && m->right == right)
            break;
    }
    return &t->merge_slot[i];
}

int32_t vocab_merge(const struct text *t, int32_t left, int32_t right)
{
    return slot_number(*merge_slot(t, left, right, hash_pair(left, right)));
}

/* Slots for n entries: a power of two, at most two thirds full. */
static uint32_t slots_for(int64_t n)
{
    uint32_t slots = 1024;
    while ((int64_t)slots * 2 < n * 3)
        slots *= 2;
    return slots;
}

static int no_memory(struct err *e)
{
    return err_set(e, E_NOMEM, "no memory for the vocabulary");
}

/* Makes room in the pool for n more bytes. */
static int pool_room(struct text *t, size_t n, struct err *e)
{
    if (n <= t->pool_cap - t->pool_n)
        return OK;
    size_t cap = MAX(t->pool_n + n, t->pool_cap + t->pool_cap / 2);
    if (cap > UINT32_MAX)
        return err_set(e, E_FORMAT, "the vocabulary's strings are longer than 4 GiB together");
    char *pool = realloc(t->pool, cap);
    if (!pool)
        return no_memory(e);
    t->pool = pool;
    t->pool_cap = cap;
    return OK;
}

/* The n bytes at the pool's end become the next symbol. */
static int push_sym(struct text *t, size_t n, struct err *e)
{
    if (t->n_syms == t->cap_syms) {
        if (t->n_syms >= MAX_SYMBOLS)
            return err_set(e, E_FORMAT, "the vocabulary has more than %d strings", MAX_SYMBOLS);
        int32_t cap = t->cap_syms + t->cap_syms / 4 + 512;
        uint32_t *off = realloc(t->off, ((size_t)cap + 1) * sizeof *off);
        if (!off)
            return no_memory(e);
        t->off = off;
        t->cap_syms = cap;
    }
    t->off[t->n_syms] = (uint32_t)t->pool_n;
    t->pool_n += n;
    t->off[++t->n_syms] = (uint32_t)t->pool_n;
    return OK;
}

/* The index lies all over more memory than a cache holds: entries are looked up
 * in blocks, whose slots are asked for beforehand. */
enum { BLOCK = 64 };

static void want_sym(const struct text *t, uint32_t hash)
{
    __builtin_prefetch(&t->sym_slot[hash & t->sym_mask], 1);
}

/* Enters a symbol into the index unless its bytes are there already. */
static int index_sym(struct text *t, int32_t sym, uint32_t hash, struct err *e)
{
    if (((int64_t)t->n_indexed + 1) * 3 > ((int64_t)t->sym_mask + 1) * 2) {
        uint32_t slots = slots_for((int64_t)t->n_indexed * 2), *old = t->sym_slot;
        uint32_t n_old = old ? t->sym_mask + 1 : 0;
        t->sym_slot = calloc(slots, sizeof *t->sym_slot);
        if (!t->sym_slot) {
            t->sym_slot = old;
            return no_memory(e);
        }
        t->sym_mask = slots - 1;
        for (uint32_t i = 0; i < n_old; i++) {
            if (!old[i])
                continue;
            struct str s = text_sym(t, slot_number(old[i]));
            *sym_slot(t, s.p, s.n, hash_bytes(s.p, s.n)) = old[i];
        }
        free(old);
    }
    struct str s = text_sym(t, sym);
    uint32_t *slot = sym_slot(t, s.p, s.n, hash);
    if (!*slot) {
        *slot = slot_of(hash, sym);
        t->n_indexed++;
    }
    return OK;
}

/* The symbol with these bytes, made if it is new. */
static int intern(struct text *t, const char *p, size_t n, uint32_t hash, int32_t *sym,
                  struct err *e)
{
    *sym = slot_number(*sym_slot(t, p, n, hash));
    if (*sym >= 0)
        return OK;
    TRY(pool_room(t, n, e));
    memcpy(t->pool + t->pool_n, p, n);
    *sym = t->n_syms;
    TRY(push_sym(t, n, e));
    return index_sym(t, *sym, hash, e);
}

/* ---- loading ---- */

/* "[EMPTY_" id "]" in room[24]. */
static struct str empty_name(int32_t id, char room[24])
{
    char *p = room + 24;
    *--p = ']';
    for (int32_t left = id; left || *p == ']'; left /= 10)
        *--p = (char)('0' + left % 10);
    p -= 7;
    memcpy(p, "[EMPTY_", 7);
    return (struct str){p, (size_t)(room + 24 - p)};
}

/* A token whose type is checked, where tokens are spelt as text: returns whether it is
 * one of the byte tokens, which goes to the pool as its byte. */
static int load_byte_token(struct text *t, struct str s, int type, int32_t id, struct err *e)
{
    int byte = type == TOKEN_BYTE || type == TOKEN_NORMAL ? spell_byte_token(s) : -1;
    if (type == TOKEN_BYTE && byte < 0)
        return err_set(e, E_FORMAT,
                       "token %d is '%.*s' and a byte in tokenizer.ggml.token_type: expected a "
                       "name from <0x00> to <0xFF>", (int)id, (int)MIN(s.n, 64), s.p);
    if (byte < 0)
        return 0;
    t->pool[t->pool_n] = (char)byte;
    t->kind[id] = TOKEN_BYTE | KIND_OPAQUE;
    if (t->byte_sym[byte] < 0)
        t->byte_sym[byte] = id;
    return 1;
}

static int load_token(struct text *t, const struct text_config *c, const struct spelling_map *map,
                      int32_t id, struct err *e)
{
    char room[24];
    struct str s = c->tokens[id];
    int type = c->types ? c->types[id] : TOKEN_NORMAL;
    bool as_text = map->how != SPELT_IN_BYTES, empty = !s.n;
    if (type == 0)
        type = TOKEN_NORMAL; /* "undefined" */
    if (type < 0 || type > TOKEN_BYTE)
        return err_set(e, E_FORMAT,
                       "token %d has type %d in tokenizer.ggml.token_type: expected 1 to 6",
                       (int)id, type);
    if (empty)
        s = empty_name(id, room);
    TRY(pool_room(t, s.n, e));
    if (as_text) {
        int is_byte = load_byte_token(t, s, type, id, e);
        if (is_byte)
            return is_byte < 0 ? is_byte : push_sym(t, 1, e);
        if (type == TOKEN_USER && spell_is_blank(s))
            type = TOKEN_NORMAL; /* merges build it, from any text */
    }
    int64_t n = -1;
    if (!special_type(type) && !(as_text && empty))
        n = spell_bytes(map, s, t->pool + t->pool_n);
    t->kind[id] = (uint8_t)(type | (n < 0 ? KIND_OPAQUE : 0));
    if (n < 0) {
        memcpy(t->pool + t->pool_n, s.p, s.n);
        n = (int64_t)s.n;
    }
    return push_sym(t, (size_t)n, e);
}

/* Tokens [first, end), a block at most. */
static int index_tokens(struct text *t, int32_t first, int32_t end, struct err *e)
{
    uint32_t hash[BLOCK];
    for (int32_t id = first; id < end; id++) {
        struct str s = text_sym(t, id);
        hash[id - first] = hash_bytes(s.p, s.n);
        want_sym(t, hash[id - first]);
    }
    for (int32_t id = first; id < end; id++)
        if (!(t->kind[id] & KIND_OPAQUE) && text_type(t, id) != TOKEN_UNUSED)
            TRY(index_sym(t, id, hash[id - first], e));
    return OK;
}

static int load_tokens(struct text *t, const struct text_config *c, const struct spelling_map *map,
                       struct err *e)
{
    size_t total = 0;
    for (int64_t i = 0; i < c->n_tokens; i++)
        total += c->tokens[i].n;
    TRY(pool_room(t, total, e));
    t->cap_syms = (int32_t)c->n_tokens + 256;
    t->off = malloc(((size_t)t->cap_syms + 1) * sizeof *t->off);
    t->kind = malloc((size_t)c->n_tokens);
    if (!t->off || !t->kind)
        return no_memory(e);
    t->n_tokens = (int32_t)c->n_tokens;
    for (int i = 0; i < 256; i++)
        t->byte_sym[i] = -1;
    for (int32_t id = 0; id < t->n_tokens; id++)
        TRY(load_token(t, c, map, id, e));

    uint32_t slots = slots_for(c->n_tokens + 256);
    t->sym_slot = calloc(slots, sizeof *t->sym_slot);
    if (!t->sym_slot)
        return no_memory(e);
    t->sym_mask = slots - 1;
    for (int32_t id = 0; id < t->n_tokens; id += BLOCK)
        TRY(index_tokens(t, id, MIN(id + BLOCK, t->n_tokens), e));
    for (int i = 0; i < 256; i++) {
        char byte = (char)i;
        if (map->how == SPELT_IN_BYTES)
            TRY(intern(t, &byte, 1, hash_bytes(&byte, 1), &t->byte_sym[i], e));
        else if (t->byte_sym[i] < 0)
            return err_set(e, E_FORMAT,
                           "tokenizer.ggml.tokens has no token <0x%02X>: expected one for each "
                           "byte, for text that no other token covers", (unsigned)i);
    }
    return OK;
}

/* The merges of a block, whose halves' bytes lie one after the other. */
struct merge_block {
    char *bytes; /* grows */
    size_t n, cap;
    struct {
        size_t at, n_left, n; /* n: of both halves; 0: no text can reach it */
        uint32_t left, right, result; /* hashes */
    } m[BLOCK];
};

/* Reads merge `rank` from its line in the file into place i. */
static int read_merge(struct text *t, struct merge_block *b, int i, struct str s,
                      const struct spelling_map *map, int32_t rank, struct err *e)
{
    const char *space = s.n > 1 ? memchr(s.p + 1, ' ', s.n - 1) : NULL;
    if (!space || space + 1 == s.p + s.n)
        return err_set(e, E_FORMAT,
                       "merge %d in tokenizer.ggml.merges is '%.*s': expected two strings with a "
                       "space between them; the file is damaged or badly converted",
                       (int)rank, (int)MIN(s.n, 64), s.p);
    if (b->cap - b->n < s.n) {
        char *bytes = realloc(b->bytes, 2 * b->cap + s.n);
        if (!bytes)
            return no_memory(e);
        b->bytes = bytes;
        b->cap = 2 * b->cap + s.n;
    }
    char *p = b->bytes + b->n;
    size_t left = (size_t)(space - s.p);
    int64_t n_left = spell_bytes(map, (struct str){s.p, left}, p);
    int64_t n_right =
        n_left < 0 ? -1 : spell_bytes(map, (struct str){space + 1, s.n - left - 1}, p + n_left);
    b->m[i].n = 0;
    if (n_right < 0)
        return OK;
    b->m[i].at = b->n;
    b->m[i].n_left = (size_t)n_left;
    b->m[i].n = (size_t)(n_left + n_right);
    want_sym(t, b->m[i].left = hash_bytes(p, (size_t)n_left));
    want_sym(t, b->m[i].right = hash_bytes(p + n_left, (size_t)n_right));
    want_sym(t, b->m[i].result = hash_bytes(p, b->m[i].n));
    b->n += b->m[i].n;
    return OK;
}

static int enter_merge(struct text *t, const struct merge_block *b, int i, struct merge *m,
                       struct err *e)
{
    const char *p = b->bytes + b->m[i].at;
    size_t n_left = b->m[i].n_left, n = b->m[i].n;
    *m = (struct merge){-1, -1, -1};
    if (n == 0)
        return OK;
    TRY(intern(t, p, n_left, b->m[i].left, &m->left, e));
    TRY(intern(t, p + n_left, n - n_left, b->m[i].right, &m->right, e));
    return intern(t, p, n, b->m[i].result, &m->result, e);
}

/* Merges [first, end), a block at most. */
static int load_block(struct text *t, struct merge_block *b, const struct text_config *c,
                      int32_t first, int32_t end, const struct spelling_map *map, struct err *e)
{
    b->n = 0;
    for (int32_t rank = first; rank < end; rank++)
        TRY(read_merge(t, b, rank - first, c->merges[rank], map, rank, e));
    for (int32_t rank = first; rank < end; rank++)
        TRY(enter_merge(t, b, rank - first, &t->merges[rank], e));
    return OK;
}

/* Of equal pairs the first counts: it has the better rank. */
static void index_merges(struct text *t, int32_t first, int32_t end)
{
    uint32_t hash[BLOCK];
    for (int32_t i = first; i < end; i++) {
        hash[i - first] = hash_pair(t->merges[i].left, t->merges[i].right);
        __builtin_prefetch(&t->merge_slot[hash[i - first] & t->merge_mask], 1);
    }
    for (int32_t i = first; i < end; i++) {
        struct merge *m = &t->merges[i];
        if (m->left < 0)
            continue;
        uint32_t *slot = merge_slot(t, m->left, m->right, hash[i - first]);
        if (*slot)
            *m = (struct merge){-1, -1, -1};
        else
            *slot = slot_of(hash[i - first], i);
    }
}

static int load_merges(struct text *t, const struct text_config *c, const struct spelling_map *map,
                       struct err *e)
{
    uint32_t slots = slots_for(c->n_merges);
    t->n_merges = (int32_t)c->n_merges;
    t->merges = malloc(MAX((size_t)c->n_merges, 1) * sizeof *t->merges);
    t->merge_slot = calloc(slots, sizeof *t->merge_slot);
    if (!t->merges || !t->merge_slot)
        return no_memory(e);
    t->merge_mask = slots - 1;
    struct merge_block b = {0};
    int rc = OK;
    for (int32_t rank = 0; rank < t->n_merges && rc == OK; rank += BLOCK) {
        int32_t end = MIN(rank + BLOCK, t->n_merges);
        rc = load_block(t, &b, c, rank, end, map, e);
        if (rc == OK)
            index_merges(t, rank, end);
    }
    free(b.bytes);
    return rc;
}

/* What holds for all symbols that text can become. */
static void look_at_symbols(struct text *t)
{
    t->cuts_at_blanks = t->pretok.form->spelling == SPELT_WITH_BARS;
    t->longest = 1;
    for (int32_t i = 0; i < t->n_syms; i++) {
        struct str s = text_sym(t, i);
        if (i < t->n_tokens && ((t->kind[i] & KIND_OPAQUE) || text_type(t, i) == TOKEN_UNUSED))
            continue;
        t->longest = (int32_t)MAX((size_t)t->longest, s.n);
        for (size_t k = 1; k < s.n && t->cuts_at_blanks; k++)
            if (s.p[k] == ' ' && s.p[k - 1] != ' ')
                t->cuts_at_blanks = false;
    }
}

/* ---- open ---- */

static bool is_spm(const struct text_config *c)
{
    return str_is(c->model, "llama");
}

static int check_model(const struct text_config *c, struct err *e)
{
    if (is_spm(c))
        return c->scores ? OK
                         : err_set(e, E_FORMAT,
                                   "the tokeniser is SentencePiece's (tokenizer.ggml.model is "
                                   "llama), but tokenizer.ggml.scores is missing");
    if (!str_is(c->model, "gpt2") && !str_is(c->model, "gemma4"))
        return err_set(e, E_UNSUPPORTED,
                       "tokeniser '%.*s' (tokenizer.ggml.model) is not supported: expected gpt2 "
                       "(byte-level BPE), gemma4 or llama (SentencePiece)",
                       (int)MIN(c->model.n, 64), c->model.n ? c->model.p : "");
    if (c->add_space_prefix > 0 || c->remove_extra_whitespaces > 0)
        return err_set(e, E_UNSUPPORTED,
                       "tokenizer.ggml.%s is true for the tokeniser '%.*s': that is supported for "
                       "'llama' only", c->add_space_prefix > 0 ? "add_space_prefix"
                                                               : "remove_extra_whitespaces",
                       (int)c->model.n, c->model.p);
    return OK;
}

static int check_config(const struct text_config *c, struct err *e)
{
    TRY(check_model(c, e));
    if (c->n_tokens < 1 || c->n_tokens > MAX_SYMBOLS / 2 || !c->tokens)
        return err_set(e, E_FORMAT,
                       "tokenizer.ggml.tokens has %lld entries: expected 1 to %d",
                       (long long)c->n_tokens, MAX_SYMBOLS / 2);
    if (c->n_merges < 0 || c->n_merges > MAX_SYMBOLS || (c->n_merges && !c->merges))
        return err_set(e, E_FORMAT, "tokenizer.ggml.merges has %lld entries: expected 0 to %d",
                       (long long)c->n_merges, MAX_SYMBOLS);
    static const char *const names[] = {"bos", "eos", "eot", "eom"};
    const int64_t ids[] = {c->bos, c->eos, c->eot, c->eom};
    for (size_t i = 0; i < ARRAY_LEN(ids); i++)
        if (ids[i] < -1 || ids[i] >= c->n_tokens)
            return err_set(e, E_FORMAT,
                           "tokenizer.ggml.%s_token_id is %lld: expected 0 to %lld, the last id of "
                           "the vocabulary", names[i], (long long)ids[i],
                           (long long)c->n_tokens - 1);
    return OK;
}

/* Gives back what growing left over. */
static void trim_tables(struct text *t)
{
    char *pool = realloc(t->pool, MAX(t->pool_n, 1));
    uint32_t *off = realloc(t->off, ((size_t)t->n_syms + 1) * sizeof *off);
    if (pool) {
        t->pool = pool;
        t->pool_cap = MAX(t->pool_n, 1);
    }
    if (off) {
        t->off = off;
        t->cap_syms = t->n_syms;
    }
}

static int open_pretok(struct text *t, const struct text_config *c, struct err *e)
{
    static const struct str gemma4 = {"gemma4", 6};
    if (is_spm(c))
        return pretok_open_form(pretok_sentence_pieces(), &t->pretok, e);
    return pretok_open(str_is(c->model, "gemma4") ? gemma4 : c->pre, &t->pretok, e);
}

/* Ids that the file does not name stay unset, but those of SentencePiece, which
 * numbers <unk>, <s>, </s> from 0. (llama.cpp's 11 for GPT-2's kind would make a comma
 * the end of every generation.) */
static void name_bounds(struct text_config *c)
{
    if (!is_spm(c))
        return;
    if (c->bos < 0 && c->n_tokens > 1)
        c->bos = 1;
    if (c->eos < 0 && c->n_tokens > 2)
        c->eos = 2;
}

static int open_bounds(struct text *t, const struct text_config *c, struct err *e)
{
    const struct pretok_form *form = t->pretok.form;
    t->bos = (int32_t)c->bos;
    t->eos = (int32_t)c->eos;
    t->add_bos = form->must_bos || (c->add_bos < 0 ? form->adds_bos : c->add_bos != 0);
    t->add_eos = c->add_eos > 0;
    t->blank_first = is_spm(c) && c->add_space_prefix != 0;
    t->squeezes = c->remove_extra_whitespaces > 0;
    if (form->must_bos && t->bos < 0)
        return err_set(e, E_FORMAT,
                       "texts of the tokeniser '%s' begin with a token that "
                       "tokenizer.ggml.bos_token_id should name, but it is missing",
                       form->names[0]);
    return OK;
}

static int open_tables(struct text *t, const struct text_config *given, struct err *e)
{
    struct text_config c = *given;
    struct spelling_map map;
    TRY(check_config(&c, e));
    name_bounds(&c);
    TRY(open_pretok(t, &c, e));
    spell_make(t->pretok.form->spelling, &map);
    TRY(load_tokens(t, &c, &map, e));
    if (is_spm(&c)) {
        TRY(spm_rank(t, c.scores, e));
        c.n_merges = 0;
    }
    TRY(load_merges(t, &c, &map, e));
    special_mark_ends(t, &c);
    TRY(special_collect(t, e));
    look_at_symbols(t);
    trim_tables(t);
    TRY(open_bounds(t, &c, e));
    TRY(chat_form_open(t, c.chat_template, e));
    return OK;
}

int text_open(const struct text_config *c, struct text **out, struct err *e)
{
    *out = NULL;
    struct text *t = calloc(1, sizeof *t);
    if (!t)
        return no_memory(e);
    int rc = open_tables(t, c, e);
    if (rc < 0) {
        text_close(t);
        return rc;
    }
    *out = t;
    return OK;
}

void text_close(struct text *t)
{
    if (!t)
        return;
    pretok_close(&t->pretok);
    free(t->pool);
    free(t->off);
    free(t->kind);
    free(t->sym_slot);
    free(t->merges);
    free(t->merge_slot);
    free(t->score_rank);
    free(t->special.id);
    free(t->blank.id);
    chat_form_close(t);
    free(t);
}

int64_t text_n_tokens(const struct text *t)
{
    return t->n_tokens;
}

int64_t text_longest(const struct text *t)
{
    uint32_t most = 1;
    for (int32_t i = 0; i < t->n_tokens; i++)
        most = MAX(most, t->off[i + 1] - t->off[i]);
    return (int64_t)most;
}

int64_t text_bytes(const struct text *t)
{
    size_t n = sizeof *t + t->pool_cap + ((size_t)t->cap_syms + 1) * sizeof *t->off +
               (size_t)t->n_tokens + ((size_t)t->sym_mask + 1) * sizeof *t->sym_slot +
               (size_t)t->n_merges * sizeof *t->merges +
               ((size_t)t->merge_mask + 1) * sizeof *t->merge_slot +
               ((size_t)t->special.n + (size_t)t->blank.n) * sizeof(int32_t) +
               (t->score_rank ? (size_t)t->n_tokens * sizeof *t->score_rank : 0) +
               t->chat.source.n;
    return (int64_t)n + pretok_bytes(&t->pretok);
}
