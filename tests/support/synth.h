/*
 * Synthetic weights and vocabularies, for tests and tools. Not for several
 * threads at once. Aborts when there is no memory.
 */
#ifndef SYNTH_H
#define SYNTH_H

#include "support/gguf_build.h"

/* ---- synth.c ---- */

/* The start of a random stream, one for each seed and name. */
uint64_t synth_stream(uint64_t seed, const char *name);
uint64_t synth_next(uint64_t *stream);
double synth_uniform(uint64_t *stream); /* [0, 1) */

/* Whether synth_fill knows the type. */
bool synth_writable(enum dtype t);
/* Writes n blocks that decode to finite elements with mean 0 and deviation
 * `std`. */
void synth_fill(enum dtype t, double std, void *p, int64_t n, uint64_t *stream);

/* ---- synth_vocab.c ---- */

#define SYNTH_CONTROL 3 /* <|endoftext|>, <|im_start|>, <|im_end|>: the last tokens */

/* Writes four keys: tokens, token_type, merges of a byte-level BPE vocabulary
 * with n tokens (at least 259), and a ChatML template; false when n is more
 * than there are merges for. */
bool synth_vocab(struct gb *b, int64_t n);

#endif
