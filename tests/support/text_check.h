/*
 * Assertions about a tokeniser, for tests that use cmocka.
 */
#ifndef TEXT_CHECK_H
#define TEXT_CHECK_H

#include "support/text_build.h"

void assert_says(const struct err *e, const char *what);
struct text *open_built(struct tb *b);
/* Opening what was built fails with the code and a sentence that has `says`; frees b. */
void assert_refused(struct tb *b, int code, const char *says);
/* One segment's ids; those of an earlier call are replaced. */
void encode(const struct text *t, const char *p, size_t n, bool markup, struct text_ids *ids);
/* Bytes of the ids, special ones included; terminated, malloc'ed. */
char *decode(const struct text *t, const struct text_ids *ids, size_t *n);
void assert_ids(const struct text *t, const char *text, bool markup, const int32_t *want,
                int64_t n);
/* Encoded as content and decoded, the bytes are the same. */
void assert_round_trip(const struct text *t, const char *p, size_t n);

#define ASSERT_IDS(t, text, markup, ...)                                                   \
    assert_ids(t, text, markup, (const int32_t[]){__VA_ARGS__},                            \
               (int64_t)(sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)))

/* Random numbers below n, the same in every run. */
uint32_t rnd(uint32_t n);
/* Whether the vocabulary has a token that is spelt so. */
bool is_token(const struct tb *b, struct str spelling);
/* Ids of n bytes at p by the definition of the tokeniser; how many. */
typedef int64_t by_definition_fn(const struct tb *b, const char *p, size_t n, int32_t *ids);
/* Random words over three letters have the ids of the definition. */
void assert_words(const struct text *t, const struct tb *b, by_definition_fn *ids);

#endif
