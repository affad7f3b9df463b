/*
 * Signals. SIGINT, SIGTERM and SIGHUP end a command in the same way: a flag is
 * set, whatever takes long looks at it and stops, files that are not whole go,
 * and the process ends by the signal it was sent. A second one ends it at once.
 *
 * Only system calls that a signal interrupts return early. One that begins just
 * after the flag was set would wait on; the alarm interrupts that, too.
 */
#include "cli.h"

#include <signal.h>
#include <unistd.h>

static volatile sig_atomic_t caught; /* 0: none */

static void on_signal(int sig)
{
    if (caught) { /* asked twice and still here */
        signal(sig, SIG_DFL);
        raise(sig);
        return;
    }
    caught = sig;
    alarm(1);
}

static void on_alarm(int sig)
{
    (void)sig;
    if (caught)
        alarm(1);
}

void signals_init(void)
{
    static const int wanted[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction old;
    struct sigaction sa = {.sa_handler = on_signal}; /* no SA_RESTART: a wait for input ends */
    sigemptyset(&sa.sa_mask);
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
        /* shells start background jobs with interrupts ignored, nohup ignores
         * hang-ups; keep it so */
        if (sigaction(wanted[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(wanted[i], &sa, NULL);
    sa.sa_handler = on_alarm;
    sigaction(SIGALRM, &sa, NULL);
    signal(SIGPIPE, SIG_IGN); /* seen as failed writes instead */
    signal(SIGXFSZ, SIG_IGN);
}

bool interrupted(void)
{
    return caught != 0;
}

bool terminated(void)
{
    return caught != 0 && caught != SIGINT;
}

void interrupt_clear(void)
{
    if (caught != SIGINT)
        return;
    caught = 0;
    alarm(0);
}

int signals_finish(int status)
{
    int sig = caught;
    if (!sig || (status != ST_INTERRUPTED && status != ST_FAIL))
        return status;
    signal(sig, SIG_DFL); /* so that a shell's loop ends, too */
    raise(sig);
    return 128 + sig;
}
