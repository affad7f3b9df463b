/*
 * What running refuses for its weights' sake is not packed, and least of all in the
 * place of the model; and a part of a split model is called a part and no more.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "golden.h"
#include "support/remake.h"

static char dir[64], path[96], packed[96], left[128];

static void assert_as_refused(const char *tensor)
{
    sluice_options o = golden_small(path, "pread");
    sluice_pack_options beside = {.size = sizeof(beside), .out = packed},
                        instead = {.size = sizeof(instead)};
    sluice_error of_open = {0}, e = {0};
    sluice *s = NULL;
    struct stat before, after;
    int rc = sluice_open(&o, &s, &of_open);
    if (rc != SLUICE_E_FORMAT || !strstr(of_open.text, tensor))
        fail_msg("%s: opened with %d \"%s\"", tensor, rc, of_open.text);
    assert_int_equal(stat(path, &before), 0);
    assert_int_equal(sluice_pack(&o, &beside, NULL, &e), rc);
    assert_string_equal(e.text, of_open.text);
    assert_int_equal(sluice_pack(&o, &instead, NULL, &e), rc);
    assert_string_equal(e.text, of_open.text);
    assert_int_equal(stat(path, &after), 0);
    assert_true(before.st_ino == after.st_ino && before.st_size == after.st_size);
    assert_int_not_equal(access(packed, F_OK), 0);
    assert_int_not_equal(access(left, F_OK), 0);
}

static void what_is_not_sound_is_not_packed(void **state)
{
    (void)state;
    static const char *const zeros[] = {"blk.0.attn_norm.weight", "blk.2.ffn_gate_inp.weight",
                                        "output_norm.weight",     "output.weight",
                                        "token_embd.weight",      "blk.1.ssm_a",
                                        "blk.1.attn_qkv.weight"};
    static const char *const floats[] = {"blk.0.attn_norm.weight", "blk.2.ffn_gate_inp.weight",
                                         "blk.1.ssm_dt.bias"};
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof(zeros) / sizeof(zeros[0]); i++) {
        int64_t bytes, at;
        remake(&(struct remake){.from = TINY}, path);
        at = remake_place(path, zeros[i], &bytes);
        remake_fill(path, at, 0, bytes);
        assert_as_refused(zeros[i]);
    }
    for (size_t i = 0; i < sizeof(floats) / sizeof(floats[0]); i++) {
        int64_t bytes, at;
        remake(&(struct remake){.from = TINY}, path);
        at = remake_place(path, floats[i], &bytes);
        remake_patch(path, at + bytes - 4, &bad[i], 4);
        assert_as_refused(floats[i]);
    }
}

static char notes[2048];

static void see_note(void *user, const char *text)
{
    (void)user;
    strncat(notes, text, sizeof(notes) - strlen(notes) - 1);
}

static void a_part_is_called_one(void **state)
{
    (void)state;
    const struct remake_key keys[] = {{"split.no", GGUF_U16, false, 1, {1}, NULL},
                                      {"split.count", GGUF_U16, false, 1, {3}, NULL}};
    const sluice_visitor v = {.on_note = see_note};
    sluice_error e = {0};
    for (int bare = 0; bare < 2; bare++) {
        remake(
            &(struct remake){
                .from = TINY, .keys = keys, .n_keys = 2, .bare = bare, .first = 5, .last = 20},
            path);
        notes[0] = '\0';
        assert_int_equal(sluice_inspect(path, &v, &e), 0);
        assert_string_equal(notes, "this is part 2 of 3 of a split model");
    }
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/sluice-sound-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/m.gguf", dir);
    snprintf(packed, sizeof(packed), "%s/packed.gguf", dir);
    snprintf(left, sizeof(left), "%s.sluice-part", path);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_sound_is_not_packed),
        cmocka_unit_test(a_part_is_called_one),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
