/*
 * Fuzzing of the GGUF reader. An input is one file; or, starting with 'S', up
 * to four parts of a split set:
 *   'S', number of parts, u16 length of each part but the last, the parts
 * The parts are named m-00001-of-0000N.gguf; whatever opens must hold every
 * promise of gguf.h.
 */
#include "support/gguf_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Cuts the input into blobs; returns how many. */
static int cut(const uint8_t *data, size_t size, struct gguf_blob blobs[4], char names[4][32])
{
    int n = 1;
    const uint8_t *lengths = data + 2;

    if (size >= 8 && data[0] == 'S') {
        n = 2 + data[1] % 3;
        data += 8;
        size -= 8;
    }
    for (int i = 0; i < n; i++) {
        size_t part = size;

        if (i < n - 1)
            part = MIN(part, le16(lengths + 2 * i));
        if (n == 1)
            snprintf(names[i], 32, "m.gguf");
        else
            snprintf(names[i], 32, "m-%05d-of-%05d.gguf", i + 1, n);
        blobs[i] = (struct gguf_blob){names[i], data, part};
        data += part;
        size -= part;
    }
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf_blob blobs[4];
    char names[4][32];
    struct gguf *g;
    struct err e = {0};
    int n = cut(data, size, blobs, names), status = gguf_open_blobs(blobs, n, &g, &e);
    const char *wrong = NULL;

    if (status == OK)
        wrong = g ? gguf_breach(g) : "opened, but nothing there";
    else if (g || e.code != status || strncmp(e.text, "m", 1) != 0)
        wrong = "failed without a proper sentence";
    if (wrong) {
        fprintf(stderr, "broken promise: %s (%d %s)\n", wrong, status, e.text);
        abort();
    }
    gguf_close(g);
    return 0;
}
