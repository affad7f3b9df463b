/*
 * A model with a mirror gives the same bits as without, also while either copy
 * fails; what is no copy of the model is refused at the start.
 *
 * The mirror lies in a folder of shared memory, which is a drive of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "golden.h"

#define FILE_NAME "pocket-dictionary.gguf"
enum { N_IDS = 60, N_PROMPT = 40 };

static int32_t ids[N_IDS];
static char folder[64], copy[128];
static const char *const folders[] = {folder};
static int n_warnings;
static char warning[700];

static void on_warning(void *user, const char *text)
{
    assert_ptr_equal(user, ids);
    n_warnings++;
    snprintf(warning, sizeof warning, "%s", text);
}

static bool copy_model(void)
{
    static char block[1 << 16];
    FILE *in = fopen(BUILT_IN, "rb"), *out = fopen(copy, "wb");
    size_t n = 0;
    bool ok = in && out;
    while (ok && (n = fread(block, 1, sizeof block, in)) > 0)
        ok = fwrite(block, 1, n, out) == n;
    if (in)
        fclose(in);
    return out && fclose(out) == 0 && ok;
}

static int make_mirror(void **state)
{
    (void)state;
    for (int i = 0; i < N_IDS; i++)
        ids[i] = 300 + 37 * i % 7000;
    strcpy(folder, "/dev/shm/sluice-mirror-XXXXXX");
    if (!mkdtemp(folder)) {
        strcpy(folder, "/tmp/sluice-mirror-XXXXXX");
        if (!mkdtemp(folder))
            return -1;
    }
    snprintf(copy, sizeof copy, "%s/%s", folder, FILE_NAME);
    return copy_model() ? 0 : -1;
}

static int remove_mirror(void **state)
{
    (void)state;
    unlink(copy);
    rmdir(folder);
    return 0;
}

/* Whether the mirror is a drive of its own; otherwise it only stands by. */
static bool own_drive(void)
{
    struct stat a, b;
    return stat(BUILT_IN, &a) == 0 && stat(copy, &b) == 0 && a.st_dev != b.st_dev;
}

static sluice_options options(const char *io, int n_mirrors)
{
    sluice_options o = golden_small(BUILT_IN, io);
    o.mirrors = folders;
    o.n_mirrors = n_mirrors;
    o.warning = on_warning;
    o.warning_user = ids;
    o.memory_bytes = golden_near_floor(&o, GOLDEN_MARGIN(2, 16));
    return o;
}

static uint64_t run_with(sluice *s, const char *kind, sluice_stats *stats)
{
    uint64_t h = GOLDEN_HASH;
    sluice_error e;
    sluice_session *x = golden_session(s);
    sluice_reset_stats(s);
    assert_int_equal(sluice_session_append(x, ids, N_PROMPT, golden_hash, &h, &e), 0);
    assert_int_equal(sluice_inject_fault(s, kind, 5, -1, 2, &e), 0);
    for (int i = N_PROMPT; i < N_IDS; i++)
        assert_int_equal(sluice_session_append(x, ids + i, 1, golden_hash, &h, &e), 0);
    sluice_get_stats(s, stats);
    sluice_session_free(x);
    return h;
}

static void same_bits(void **state)
{
    (void)state;
    static const char *const kinds[] = {"none",    "error@1", "short@1",
                                        "error@0", "short@0", "slow@1"};
    sluice_stats stats;
    for (int r = 0; golden_reader(r); r++) {
        sluice_options o = options(golden_reader(r), 0);
        sluice *s = golden_open(&o);
        uint64_t want = run_with(s, "none", &stats);
        assert_int_equal(stats.mirror_read_bytes, 0);
        sluice_close(s);
        int n_failed = 0;
        int64_t mirror_bytes = 0;
        for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
            o = options(golden_reader(r), 1);
            n_warnings = 0;
            s = golden_open(&o);
            int at_start = n_warnings;
            assert_int_equal(at_start, own_drive() ? 0 : 1);
            assert_int_equal(run_with(s, kinds[k], &stats), want);
            assert_true(n_warnings <= at_start + 1);
            if (n_warnings > at_start)
                assert_non_null(strstr(warning, strchr(kinds[k], '0') ? BUILT_IN : copy));
            n_failed += n_warnings > at_start;
            mirror_bytes += stats.mirror_read_bytes;
            sluice_close(s);
        }
        /* which of two drives reads more is theirs to tell, but one of them does */
        assert_true(n_failed > 0 && mirror_bytes > 0);
    }
}

static void both_fail(void **state)
{
    (void)state;
    sluice_options o = options("uring", 1);
    sluice *s = golden_open(&o);
    sluice_session *x = golden_session(s);
    sluice_error e;
    assert_int_equal(sluice_inject_fault(s, "error", 0, -1, 0, &e), 0);
    assert_int_equal(sluice_session_append(x, ids, N_PROMPT, NULL, NULL, &e), SLUICE_E_IO);
    assert_non_null(strstr(e.text, "and of every mirror failed"));
    assert_int_equal(sluice_inject_fault(s, "error@x", 0, -1, 0, &e), SLUICE_E_ARG);
    sluice_session_free(x);
    sluice_close(s);
}

static void refused(const sluice_options *o, const char *says)
{
    sluice *s = NULL;
    sluice_error e;
    assert_int_equal(sluice_open(o, &s, &e), SLUICE_E_ARG);
    assert_null(s);
    if (!strstr(e.text, says) || strchr(e.text, '\n'))
        fail_msg("\"%s\" lacks \"%s\"", e.text, says);
}

static void change_byte(long at)
{
    FILE *f = fopen(copy, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, at, at < 0 ? SEEK_END : SEEK_SET), 0);
    int c = getc(f);
    assert_int_equal(fseek(f, -1, SEEK_CUR), 0);
    putc(c ^ 1, f);
    assert_int_equal(fclose(f), 0);
}

static void what_is_no_copy(void **state)
{
    (void)state;
    sluice_options o = options("uring", 1);
    const char *const none[] = {"/nonexistent"}, *const itself[] = {"models/"};
    o.mirrors = none;
    refused(&o, "/nonexistent/" FILE_NAME);
    o.mirrors = itself;
    refused(&o, "own file");
    o.mirrors = folders;
    change_byte(1000);
    refused(&o, "in the header: byte 1000 ");
    change_byte(1000);
    change_byte(-1); /* the last byte is always looked at */
    refused(&o, "in the weights");
    change_byte(-1);
    assert_int_equal(truncate(copy, 1000000), 0);
    refused(&o, "has 1000000 bytes, expected");
    o.n_mirrors = 9;
    refused(&o, "at most 8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits),
        cmocka_unit_test(both_fail),
        cmocka_unit_test(what_is_no_copy),
    };
    return cmocka_run_group_tests(tests, make_mirror, remove_mirror);
}
