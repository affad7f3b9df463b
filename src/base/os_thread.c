/*
 * Threads of the library.
 */
#include "base/base.h"

#include <limits.h>
#include <signal.h>

/* Kernels keep at most some tens of KiB on the stack. The usual 8 MiB have room
 * for a huge page, which some systems give to the first byte touched. */
#define STACK_BYTES ((size_t)1 << 20)

bool os_thread_new(pthread_t *t, void *(*fn)(void *), void *arg)
{
    pthread_attr_t attr;
    if (pthread_attr_init(&attr) != 0)
        return false;
    (void)pthread_attr_setstacksize(&attr, STACK_BYTES); /* refused: the usual size */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(t, &attr, fn, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return rc == 0;
}
