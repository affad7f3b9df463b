/*
 * kern.c: the ladder of tables, and which of them this processor runs.
 *
 * A table is usable when the processor (and the operating system, which must
 * save the registers) has every instruction set that its file was compiled
 * for. "avx512" needs VNNI, too: without it the integer products take more
 * instructions than in AVX2, so such processors (Skylake-X) get "avx2".
 */
#include <stdio.h>
#include <string.h>

#include "kern/kern_internal.h"

static const struct rung {
    const struct kern *table;
    unsigned needs; /* CPU_* flags */
} ladder[] = {
    {&kern_portable, 0},
#if KERN_HAVE_X86
    {&kern_avx2, CPU_AVX2},
    {&kern_avxvnni, CPU_AVX2 | CPU_AVX_VNNI},
    {&kern_avx512, CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI},
#endif
#if KERN_HAVE_ARM
    {&kern_neon, CPU_NEON},
    {&kern_dotprod, CPU_NEON | CPU_DOTPROD},
    {&kern_i8mm, CPU_NEON | CPU_DOTPROD | CPU_I8MM},
#endif
};
enum { N_RUNGS = ARRAY_LEN(ladder) };

static bool can_run(int rung)
{
    return (os_cpu_features() & ladder[rung].needs) == ladder[rung].needs;
}

const char *kern_name(int rung)
{
    return rung >= 0 && rung < N_RUNGS ? ladder[rung].table->name : NULL;
}

static int unknown(const char *name, struct err *e)
{
    char list[128] = "auto";
    size_t n = strlen(list);
    for (int i = 0; i < N_RUNGS; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i + 1 < N_RUNGS ? ", " : " or ",
                              kern_name(i));
    return err_set(e, E_UNSUPPORTED, "there are no kernels named %s in this build; choose %s", name,
                   list);
}

int kern_select(const char *name, const struct kern **out, struct err *e)
{
    bool best = !name || strcmp(name, "auto") == 0;
    for (int i = N_RUNGS - 1; i >= 0; i--) {
        if (best ? !can_run(i) : strcmp(name, kern_name(i)) != 0)
            continue;
        if (!can_run(i))
            return err_set(e, E_UNSUPPORTED,
                           "this processor cannot run the %s kernels; choose auto or portable",
                           name);
        *out = ladder[i].table;
        return OK;
    }
    return unknown(name, e);
}

int kern_available(const struct kern *tables[KERN_RUNGS_MAX])
{
    int n = 0;
    _Static_assert(ARRAY_LEN(ladder) <= (size_t)KERN_RUNGS_MAX, "callers have no more room");
    for (int i = 0; i < N_RUNGS; i++)
        if (can_run(i))
            tables[n++] = ladder[i].table;
    return n;
}
