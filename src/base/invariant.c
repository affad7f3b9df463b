/*
 * invariant: the end of a process whose structures are broken, in builds that
 * look (base.h). The library neither prints nor aborts: the sanitizer, which owns
 * the report, writes the sentence and the stack, and the trap is an instruction.
 */
#include "base/base.h"

#ifdef INVARIANTS_RUN

#ifdef SANITIZER_REPORTS
#include <sanitizer/common_interface_defs.h>
#define REPORT(text) (__sanitizer_report_error_summary(text), __sanitizer_print_stack_trace())
#else
#define REPORT(text) ((void)(text))
#endif

void invariant_hold(const char *broken, const char *where)
{
    struct err what = {0};
    if (!broken)
        return;
    err_set(&what, E_STATE, "BROKEN INVARIANT on entry to %s: %s", where, broken);
    REPORT(what.text);
    __builtin_trap();
}

#else
typedef int invariant_is_empty; /* a file of C declares something */
#endif
