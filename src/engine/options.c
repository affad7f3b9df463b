/*
 * Structs of the host, of whatever version, as this version knows them. A host is
 * compiled with one version's structs and may run with another's library: a size says
 * how much of a struct there is.
 */
#include "engine/engine.h"

#include <string.h>

/* No version's struct is near this; what is beyond is not looked at. */
enum { MOST_BYTES = 4096 };

/* Where a struct ends that ends with the field: none has members that want more. */
#define END_OF(type, field) \
    ((offsetof(type, field) + sizeof(((type *)NULL)->field) + 7) / 8 * 8)

/* A new field goes behind the last, and never into what may be padding of the version
 * before, where an older host has whatever was there. */
#define ENDS(type, first, last) \
    _Static_assert(sizeof(type) == END_OF(type, last), #type " ends with its last field"); \
    _Static_assert(_Alignof(type) == 8, #type " ends at a multiple of 8");
SIZED_STRUCTS(ENDS)
#define COMES_FIRST(type) _Static_assert(offsetof(type, size) == 0, "in every version")
COMES_FIRST(sluice_options);
COMES_FIRST(sluice_sampling);
COMES_FIRST(sluice_pack_options);
COMES_FIRST(sluice_answer_options);
/* What never grows: it lies inside of others, or comes by a pointer in one. */
_Static_assert(sizeof(sluice_memory) == 176 && sizeof(sluice_traffic) == 56 &&
                   sizeof(sluice_speed) == 64,
               "the parts of a plan");
_Static_assert(sizeof(sluice_error) == 604 && sizeof(sluice_routing) == 24 &&
                   sizeof(sluice_tool_call) == 3 * sizeof(char *),
               "as ever");

#define ROW(type, first, last) {#type, END_OF(type, first), sizeof(type)},
static const struct {
    const char *name;
    size_t first, known; /* bytes of the first version's struct, and of this one's */
} structs[] = {SIZED_STRUCTS(ROW)};

static int check_size(enum sized t, size_t size, const char *how, const char *end, struct err *e)
{
    /* Of no version ends a struct inside of a field: all end at a multiple of 8. */
    if (size >= structs[t].first && size <= MOST_BYTES && size % 8 == 0)
        return OK;
    return err_set(e, E_ARG,
                   "%s has a size of %zu bytes, expected a multiple of 8 from %zu to %d; %s%s%s",
                   structs[t].name, size, structs[t].first, (int)MOST_BYTES, how, structs[t].name,
                   end);
}

int sized_check(enum sized t, size_t size, struct err *e)
{
    return check_size(t, size, "pass sizeof(", ")", e);
}

int sized_copy(const char *name, const void *given, size_t size, size_t known, void *out,
               struct err *e)
{
    for (size_t i = known; i < size; i++)
        if (((const unsigned char *)given)[i] != 0)
            return err_set(
                e, E_ARG,
                "byte %zu of %s is set, and this version of sluice (%s) knows the first "
                "%zu bytes; leave it 0 or use the library that the host was compiled for",
                i, name, SLUICE_VERSION, known);
    sized_put(given, size, out, known);
    return OK;
}

int sized_take(enum sized t, const void *given, size_t size, void *out, struct err *e)
{
    if (!given)
        return err_set(e, E_ARG, "no %s was given", structs[t].name);
    TRY(sized_check(t, size, e));
    return sized_copy(structs[t].name, given, size, structs[t].known, out, e);
}

int sized_options(enum sized t, const void *given, void *out, struct err *e)
{
    size_t size;
    if (!given)
        return err_set(e, E_ARG, "no %s was given; begin with %s_init", structs[t].name,
                       structs[t].name);
    memcpy(&size, given, sizeof(size));
    TRY(check_size(t, size, "begin with ", "_init, which sets it", e));
    TRY(sized_take(t, given, size, out, e));
    memcpy(out, &structs[t].known, sizeof(size));
    return OK;
}

void sized_put(const void *from, size_t known, void *out, size_t size)
{
    size_t both = MIN(size, known);
    memcpy(out, from, both);
    memset((char *)out + both, 0, size - both);
}

void sized_give(enum sized t, const void *from, void *out, size_t size)
{
    if (out && sized_check(t, size, NULL) == OK)
        sized_put(from, structs[t].known, out, size);
}

/* ---- defaults --------------------------------------------------------------- */

static void init(enum sized t, void *out, size_t size, const void *defaults)
{
    sized_put(defaults, structs[t].known, out, size);
    memcpy(out, &size, MIN(size, sizeof(size)));
}

void sluice_options_init_sized(sluice_options *o, size_t size)
{
    init(SIZED_sluice_options, o, size, &(sluice_options){0});
}

void sluice_pack_options_init_sized(sluice_pack_options *p, size_t size)
{
    init(SIZED_sluice_pack_options, p, size, &(sluice_pack_options){0});
}

void sluice_chat_init_sized(sluice_chat *c, size_t size, size_t message_size)
{
    init(SIZED_sluice_chat, c, size, &(sluice_chat){.message_size = message_size, .think = -1});
}

void sluice_answer_options_init_sized(sluice_answer_options *o, size_t size)
{
    init(SIZED_sluice_answer_options, o, size, &(sluice_answer_options){0});
}

void sluice_sampling_init_sized(sluice_sampling *p, size_t size)
{
    init(SIZED_sluice_sampling, p, size,
         &(sluice_sampling){.top_p = 1.0f, .repeat_penalty = 1.0f, .repeat_window = 64});
}
