/*
 * Signals. All that end a program and can be caught end a command in the same way:
 * a flag is set, whatever takes long looks at it and stops, files that are not whole
 * go, and the process ends by the signal it was sent. A second one ends it at once.
 *
 * Only system calls that a signal interrupts return early. One that begins just
 * after the flag was set would wait on; the alarm interrupts that, too.
 */
#include "cli.h"

#include <signal.h>
#include <unistd.h>

static volatile sig_atomic_t caught; /* 0: none */

static bool is_one_of(int sig, const int *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == sig)
            return true;
    return false;
}

/* The processor's complaints about the program; another process may send them, too. */
static bool is_fault(int sig)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    return is_one_of(sig, faults, ARRAY_LEN(faults));
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
    (void)context;
    if (info->si_code > 0 &&
        is_fault(sig)) { /* the instruction is tried again, and ends the program */
        signal(sig, SIG_DFL);
        return;
    }
    if (caught && sig == SIGXCPU) /* comes again each second; the hard limit ends it */
        return;
    if (caught) { /* asked twice and still here */
        signal(sig, SIG_DFL);
        raise(sig);
        return;
    }
    caught = sig;
    alarm(1);
}

static void on_alarm(int sig, siginfo_t *info, void *context)
{
    if (caught)
        alarm(1);
    else
        on_signal(sig, info, context);
}

void signals_init(void)
{
    /* those that cannot be caught, end nothing, or are dealt with below */
    static const int others[] = {SIGKILL, SIGSTOP, SIGTSTP,  SIGTTIN, SIGTTOU, SIGCONT,
                                 SIGCHLD, SIGURG,  SIGWINCH, SIGPIPE, SIGXFSZ, SIGALRM};
    struct sigaction old;
    struct sigaction sa = {.sa_sigaction = on_signal,
                           .sa_flags = SA_SIGINFO}; /* no SA_RESTART: a wait for input ends */
    sigemptyset(&sa.sa_mask);
    for (int sig = 1; sig <= SIGRTMAX; sig++)
        /* shells start background jobs with interrupts ignored, nohup ignores
         * hang-ups; sanitizers and profilers have their own: keep it so */
        if (!is_one_of(sig, others, ARRAY_LEN(others)) && sigaction(sig, NULL, &old) == 0 &&
            old.sa_handler == SIG_DFL)
            sigaction(sig, &sa, NULL);
    sa.sa_sigaction = on_alarm;
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
    alarm(0);
    caught = 0;
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
