/*
 * Lines of standard input where that is no terminal. stdio would read on through
 * an endless line whatever signal came.
 */
#include "cli.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static struct {
    char buf[16384];
    size_t at, n;
} in;

/* More bytes in `in`; false: the end, or a signal. */
static bool refill(void)
{
    ssize_t n = -1;
    errno = EINTR;
    while (n < 0 && errno == EINTR && !interrupted())
        n = read(STDIN_FILENO, in.buf, sizeof(in.buf));
    in.at = 0;
    in.n = n > 0 && !interrupted() ? (size_t)n : 0;
    return in.n > 0;
}

bool read_stdin_line(struct text_buf *b)
{
    const char *end = NULL;
    while (!end && (in.at < in.n || refill())) {
        end = memchr(in.buf + in.at, '\n', in.n - in.at);
        size_t n = end ? (size_t)(end - in.buf) - in.at : in.n - in.at;
        if (!buf_add(b, in.buf + in.at, n)) {
            no_memory();
            return false;
        }
        in.at += n + (end != NULL);
    }
    return b->p != NULL && !interrupted();
}
