/*
 * kern.c: fills the tables and chooses one for this processor.
 *
 * A table is usable when the processor (and the operating system, which must
 * save the registers) has every instruction set that its files were compiled
 * for. "avx512" needs VNNI, too: without it the integer products take more
 * instructions than in AVX2, so such processors (Skylake-X) get "avx2".
 *
 * Tables are filled once, at the first call, and never change afterwards.
 */
#include <pthread.h>
#include <string.h>

#include "kern/kern_internal.h"

struct rung {
    const char *name;
    unsigned needs; /* CPU_* flags */
    void (*init_mul)(struct kern *k);
    void (*init_vec)(struct kern *k);
};

static const struct rung ladder[] = {
    {"portable", 0, kern_mul_init_portable, kern_vec_init_portable},
#if KERN_HAVE_X86
    {"avx2", CPU_AVX2, kern_mul_init_avx2, kern_vec_init_avx2},
    {"avx512", CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI, kern_mul_init_avx512,
     kern_vec_init_avx512},
#endif
};
enum { N_RUNGS = ARRAY_LEN(ladder) };

static struct kern table[N_RUNGS];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void fill_tables(void)
{
    for (int i = 0; i < N_RUNGS; i++) {
        table[i].name = ladder[i].name;
        ladder[i].init_mul(&table[i]);
        ladder[i].init_vec(&table[i]);
    }
}

static bool can_run(int rung)
{
    return (os_cpu_features() & ladder[rung].needs) == ladder[rung].needs;
}

int kern_select(const char *name, const struct kern **out, struct err *e)
{
    bool best = !name || strcmp(name, "auto") == 0;
    pthread_once(&table_once, fill_tables);
    for (int i = N_RUNGS - 1; i >= 0; i--) {
        if (best ? !can_run(i) : strcmp(name, ladder[i].name) != 0)
            continue;
        if (!can_run(i))
            return err_set(e, E_UNSUPPORTED,
                           "this processor cannot run the %s kernels; choose auto or portable",
                           name);
        *out = &table[i];
        return OK;
    }
    return err_set(e, E_UNSUPPORTED,
                   "there are no kernels named %s in this build; choose auto, portable%s", name,
                   KERN_HAVE_X86 ? ", avx2 or avx512" : "");
}

int kern_available(const struct kern *tables[8])
{
    int n = 0;
    pthread_once(&table_once, fill_tables);
    for (int i = 0; i < N_RUNGS; i++)
        if (can_run(i))
            tables[n++] = &table[i];
    return n;
}
