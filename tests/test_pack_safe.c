/*
 * Packing never loses a model: a crash, a full drive, a cancellation, a second
 * process or a wrong name at any time leaves the old file or the new one, whole,
 * and nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "golden.h"
#include "gguf/gguf.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/var/tmp/sluice_safe_XXXXXX";
static char model[64], out[64];

/* ---- files ------------------------------------------------------------------ */

static uint8_t *whole_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *n = (size_t)ftell(f);
    rewind(f);
    uint8_t *p = malloc(*n + 1);
    assert_non_null(p);
    assert_int_equal(fread(p, 1, *n, f), *n);
    fclose(f);
    return p;
}

static bool same_files(const char *x, const char *y)
{
    size_t nx, ny;
    uint8_t *a = whole_file(x, &nx), *b = whole_file(y, &ny);
    bool same = nx == ny && memcmp(a, b, nx) == 0;
    free(a);
    free(b);
    return same;
}

static void write_file(const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void copy_file(const char *from, const char *to)
{
    size_t n;
    uint8_t *p = whole_file(from, &n);
    write_file(to, p, n);
    free(p);
}

static int n_files(const char *folder)
{
    DIR *d = opendir(folder);
    int n = 0;
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static int empty_folder(void)
{
    DIR *d = opendir(dir);
    struct dirent *x;
    char path[512];
    while (d && (x = readdir(d)) != NULL) {
        snprintf(path, sizeof(path), "%s/%s", dir, x->d_name);
        unlink(path);
    }
    closedir(d);
    return 0;
}

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(model, sizeof(model), "%s/m.gguf", dir);
    snprintf(out, sizeof(out), "%s/out.gguf", dir);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    empty_folder();
    return rmdir(dir);
}

static int fresh(void **state)
{
    (void)state;
    empty_folder();
    copy_file(BUILT_IN, model);
    return 0;
}

/* ---- packing ------------------------------------------------------------------- */

struct stop { /* when the progress callback does something */
    const char *what;
    int after;
    int sig; /* 0: cancel */
    int seen;
};

static int on_progress(void *user, const char *what, int64_t done, int64_t total)
{
    struct stop *s = user;
    (void)done, (void)total;
    if (!s->what || strcmp(what, s->what) != 0 || s->seen++ < s->after)
        return 0;
    if (s->sig)
        raise(s->sig);
    return 1;
}

static int pack(const char *from, const char *to, bool force, struct stop *s, sluice_pack_result *r,
                sluice_error *e)
{
    sluice_options o;
    sluice_pack_options p = {.size = sizeof(p), .out = to, .force = force};
    sluice_options_init(&o);
    o.model = from;
    if (s) {
        o.progress = on_progress;
        o.user = s;
    }
    int rc = sluice_pack(&o, &p, r, e);
    if (rc < 0)
        assert_null(strchr(e->text, '\n'));
    return rc;
}

static void refused(int code, const char *says, const char *from, const char *to, bool force)
{
    sluice_error e = {0};
    int rc = pack(from, to, force, NULL, NULL, &e);
    if (rc != code || !strstr(e.text, says))
        fail_msg("%d %s", rc, e.text);
}

static bool is_packed(const char *path)
{
    struct gguf *g;
    struct err e = {0};
    if (gguf_open(path, &g, &e) != OK)
        return false;
    bool packed = gguf_find(g, "sluice.pack.version") != NULL;
    gguf_close(g);
    return packed;
}

/* ---- wrong names ----------------------------------------------------------------- */

static void wrong_names(void **state)
{
    (void)state;
    char path[128];
    refused(SLUICE_E_ARG, "is the model itself; --replace", model, model, true);
    snprintf(path, sizeof(path), "%s/./m.gguf", dir);
    refused(SLUICE_E_ARG, "is the model itself", model, path, false);
    snprintf(path, sizeof(path), "%s/link", dir);
    assert_int_equal(symlink(model, path), 0);
    refused(SLUICE_E_ARG, "is the model itself", model, path, true);
    unlink(path);
    write_file(out, "mine", 4);
    refused(SLUICE_E_ARG, "exists already; --force replaces it", model, out, false);
    refused(SLUICE_E_ARG, "is a directory", model, dir, true);
    refused(SLUICE_E_ARG, "is a directory", model, dir, false); /* --force would not help */
    snprintf(path, sizeof(path), "%s/none/x.gguf", dir);
    refused(SLUICE_E_IO, "cannot create", model, path, false);
    refused(SLUICE_E_IO, "cannot open", path, out, true);
    refused(SLUICE_E_FORMAT, "not a GGUF file", out, model, true);
    assert_int_equal(n_files(dir), 2);
    assert_true(same_files(model, BUILT_IN));
    sluice_error e = {0};
    if (pack(model, out, true, NULL, NULL, &e) != 0)
        fail_msg("%s", e.text);
    assert_true(is_packed(out));
    refused(SLUICE_E_STATE, "is packed already", out, model, true);
    assert_int_equal(n_files(dir), 2);
}

/* ---- replacing --------------------------------------------------------------------- */

static void replace(void **state)
{
    (void)state;
    sluice_error e = {0};
    sluice_pack_result r;
    struct stat st;
    char link[128];
    snprintf(link, sizeof(link), "%s/link", dir);
    assert_int_equal(chmod(model, 0640), 0);
    assert_int_equal(symlink("m.gguf", link), 0);
    if (pack(model, out, false, NULL, NULL, &e) != 0 || pack(link, NULL, false, NULL, &r, &e) != 0)
        fail_msg("%s", e.text);
    assert_false(r.was_packed);
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode)); /* the file behind it was replaced */
    assert_int_equal(lstat(model, &st), 0);
    assert_true(S_ISREG(st.st_mode));
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(st.st_size, r.bytes_after);
    assert_true(same_files(model, out));
    assert_int_equal(n_files(dir), 3);
    /* once more: nothing to do, and that is no failure */
    uint64_t stamp = os_file_stamp(model);
    assert_int_equal(pack(model, NULL, false, NULL, &r, &e), 0);
    assert_true(r.was_packed);
    assert_true(os_file_stamp(model) == stamp);
    assert_int_equal(n_files(dir), 3);
}

static void cancelled(void **state)
{
    (void)state;
    static const struct stop stops[] = {{.what = "pack"},
                                        {.what = "pack", .after = 5},
                                        {.what = "check"},
                                        {.what = "check", .after = 9}};
    for (size_t i = 0; i < ARRAY_LEN(stops); i++) {
        struct stop s = stops[i];
        sluice_error e = {0};
        assert_int_equal(pack(model, NULL, false, &s, NULL, &e), SLUICE_E_CANCELLED);
        assert_int_equal(n_files(dir), 1);
        assert_true(same_files(model, BUILT_IN));
        if (i < 2) {
            s = stops[i];
            assert_int_equal(pack(model, out, false, &s, NULL, &e), SLUICE_E_CANCELLED);
            assert_int_equal(n_files(dir), 1);
        }
    }
}

/* ---- crashes --------------------------------------------------------------------------- */

/* Runs in a child, so that it may die; the wait status. */
static int in_child(struct stop *s, const char *to, rlim_t file_limit)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        sluice_error e = {0};
        struct rlimit l = {file_limit, file_limit};
        signal(SIGXFSZ, SIG_IGN);
        if (file_limit)
            setrlimit(RLIMIT_FSIZE, &l);
        int rc = pack(model, to, false, s, NULL, &e);
        bool said = strstr(e.text, "File too large") && strstr(e.text, ".gguf'");
        _exit(rc == 0 ? 0 : rc == SLUICE_E_IO && said ? 2 : 3);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void killed(void **state)
{
    (void)state;
    static const struct stop stops[] = {{.what = "pack", .sig = SIGKILL},
                                        {.what = "pack", .after = 7, .sig = SIGKILL},
                                        {.what = "check", .sig = SIGKILL},
                                        {.what = "check", .after = 10, .sig = SIGKILL}};
    for (size_t i = 0; i < ARRAY_LEN(stops); i++) {
        struct stop s = stops[i];
        int status = in_child(&s, NULL, 0);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_true(same_files(model, BUILT_IN));
        assert_int_equal(n_files(dir), 2); /* and the leftover */
    }
    sluice_pack_result r;
    sluice_error e = {0};
    if (pack(model, NULL, false, NULL, &r, &e) != 0)
        fail_msg("%s", e.text);
    assert_true(is_packed(model));
    assert_int_equal(n_files(dir), 1);
}

/* Kills at times that have nothing to do with what the program does. */
static void killed_any_time(void **state)
{
    (void)state;
    int done = 0;
    for (int i = 0; i < 24; i++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            sluice_error e = {0};
            _exit(pack(model, NULL, false, NULL, NULL, &e) == 0 ? 0 : 3);
        }
        usleep((useconds_t)(i * 9000));
        kill(pid, SIGKILL);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        if (same_files(model, BUILT_IN))
            continue;
        done++;
        assert_true(is_packed(model));
        copy_file(BUILT_IN, model);
    }
    print_message("%d of 24 were quicker than the kill\n", done);
    sluice_error e = {0};
    if (pack(model, NULL, false, NULL, NULL, &e) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(n_files(dir), 1);
}

/* ---- full drives -------------------------------------------------------------------------- */

static void size_limit(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        int status = in_child(NULL, k ? out : NULL, 20 << 20);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 2);
        assert_int_equal(n_files(dir), 1);
        assert_true(same_files(model, BUILT_IN));
    }
}

/* Without a reservation the writes themselves find the end. */
static void writes_find_the_end(void **state)
{
    (void)state;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct rlimit l = {100000, 100000};
        struct os_out o;
        struct err e = {0};
        static char block[70000];
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &l);
        int rc = os_out_open(&o, out, &e);
        while (rc == OK)
            rc = os_out_put(&o, block, sizeof(block), &e);
        bool right = rc == E_IO && strstr(e.text, "at byte 100000") && strstr(e.text, out);
        os_out_close(&o);
        _exit(right ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(n_files(dir), 1);
}

static void small_drive(void **state)
{
    (void)state;
    char mnt[128], path[256];
    snprintf(mnt, sizeof(mnt), "%s/mnt", dir);
    assert_int_equal(mkdir(mnt, 0755), 0);
    if (mount("tmpfs", mnt, "tmpfs", 0, "size=60M") != 0) {
        print_message("skipped: cannot mount a tmpfs (%s)\n", strerror(errno));
        rmdir(mnt);
        return;
    }
    snprintf(path, sizeof(path), "%s/m.gguf", mnt);
    copy_file(BUILT_IN, path); /* leaves about 16 MiB */
    sluice_error e = {0};
    int rc = pack(path, NULL, false, NULL, NULL, &e);
    bool right = rc == SLUICE_E_IO && strstr(e.text, "needs ") && strstr(e.text, "free");
    bool same = same_files(path, BUILT_IN);
    int n = n_files(mnt);
    assert_int_equal(umount2(mnt, MNT_DETACH), 0);
    assert_int_equal(rmdir(mnt), 0);
    if (!right)
        fail_msg("%d %s", rc, e.text);
    assert_true(same);
    assert_int_equal(n, 1);
}

/* ---- leftovers and others ----------------------------------------------------------------- */

static void leftover(void **state)
{
    (void)state;
    char temp[128], other[128];
    struct stat st;
    snprintf(temp, sizeof(temp), "%s" OS_OUT_SUFFIX, model);
    snprintf(other, sizeof(other), "%s/other", dir);
    write_file(other, "precious", 8);
    assert_int_equal(link(other, temp), 0); /* a second name must not be written through */
    sluice_error e = {0};
    if (pack(model, NULL, false, NULL, NULL, &e) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(stat(other, &st), 0);
    assert_int_equal(st.st_size, 8);
    assert_int_equal(n_files(dir), 2);
    assert_int_equal(symlink(other, temp), 0); /* nor through a link */
    copy_file(BUILT_IN, model);
    refused(SLUICE_E_IO, OS_OUT_SUFFIX, model, NULL, false);
    assert_int_equal(stat(other, &st), 0);
    assert_int_equal(st.st_size, 8);
    assert_true(same_files(model, BUILT_IN));
}

static void one_at_a_time(void **state)
{
    (void)state;
    struct os_out a;
    struct err e = {0};
    assert_int_equal(os_out_open(&a, model, &e), OK);
    refused(SLUICE_E_STATE, "another process is writing", model, NULL, false);
    assert_int_equal(n_files(dir), 2);
    os_out_close(&a);
    assert_int_equal(n_files(dir), 1);
    assert_int_equal(pack(model, NULL, false, NULL, NULL, (sluice_error *)(void *)&e), 0);
}

/* What was read must be what was there when it began. */
static int touch_model(void *user, const char *what, int64_t done, int64_t total)
{
    (void)user, (void)what;
    if (done == total) {
        int fd = open(model, O_WRONLY | O_APPEND);
        assert_int_equal(write(fd, "x", 1), 1);
        close(fd);
    }
    return 0;
}

static void changed_meanwhile(void **state)
{
    (void)state;
    sluice_options o;
    sluice_pack_options p = {.size = sizeof(p)};
    sluice_error e = {0};
    sluice_options_init(&o);
    o.model = model;
    o.progress = touch_model;
    assert_int_equal(sluice_pack(&o, &p, NULL, &e), SLUICE_E_STATE);
    assert_non_null(strstr(e.text, "changed by another program"));
    assert_int_equal(n_files(dir), 1);
    assert_false(is_packed(model));
}

/* The drive gives less than it should. */
static int cut_model(void *user, const char *what, int64_t done, int64_t total)
{
    (void)user, (void)what, (void)done, (void)total;
    assert_int_equal(truncate(model, 30 << 20), 0);
    return 0;
}

static void failing_reads(void **state)
{
    (void)state;
    for (int k = 0; golden_reader(k); k++) { /* into another file, and the same */
        sluice_options o;
        sluice_pack_options p = {.size = sizeof(p), .out = k % 2 ? NULL : out};
        sluice_error e = {0};
        copy_file(BUILT_IN, model);
        sluice_options_init(&o);
        o.model = model;
        o.progress = cut_model;
        o.io = golden_reader(k);
        assert_int_equal(sluice_pack(&o, &p, NULL, &e), SLUICE_E_IO);
        assert_non_null(strstr(e.text, model));
        assert_non_null(strstr(e.text, "offset"));
        assert_null(strchr(e.text, '\n'));
        assert_int_equal(n_files(dir), 1);
        assert_false(is_packed(model));
    }
}

/* ---- split models ---------------------------------------------------------- */

/* Writes tensors [begin, end) of g as file `no` of two. */
static void write_part(const struct gguf *g, const uint8_t *bytes, uint32_t no, int64_t begin,
                       int64_t end, const char *path)
{
    struct gguf_writer *w = gguf_writer_new(32);
    const void *header;
    size_t n;
    int64_t data, at = 0;
    struct err e = {0};
    for (int64_t i = 0; i < gguf_n_values(g) && no == 0; i++)
        if (gguf_value_at(g, i)->key.n != strlen("general.alignment") ||
            memcmp(gguf_value_at(g, i)->key.p, "general.alignment", 17) != 0)
            gguf_write_value(w, gguf_value_at(g, i));
    gguf_write_u32(w, "split.no", no);
    gguf_write_u32(w, "split.count", 2);
    for (int64_t i = begin; i < end; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        gguf_write_tensor(w, t->name, t->type, t->n_dims, t->ne);
    }
    assert_int_equal(gguf_writer_end(w, &header, &n, &data, &e), OK);
    uint8_t *p = calloc(1, n + (size_t)data);
    assert_non_null(p);
    memcpy(p, header, n);
    for (int64_t i = begin; i < end; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        memcpy(p + n + at, bytes + t->offset, (size_t)t->bytes);
        at += (int64_t)align_up((size_t)t->bytes, 32);
    }
    write_file(path, p, n + (size_t)data);
    free(p);
    gguf_writer_free(w);
}

static void split(void **state)
{
    (void)state;
    char parts[2][128], whole[128];
    struct gguf *g;
    struct err e = {0};
    size_t n;
    empty_folder();
    uint8_t *bytes = whole_file(TINY, &n);
    assert_int_equal(gguf_open(TINY, &g, &e), OK);
    for (uint32_t i = 0; i < 2; i++) {
        int64_t all = gguf_n_tensors(g), half = all / 2 + 1; /* cuts a layer in two */
        snprintf(parts[i], sizeof(parts[i]), "%s/s-%05u-of-00002.gguf", dir, i + 1);
        write_part(g, bytes, i, i ? half : 0, i ? all : half, parts[i]);
    }
    snprintf(whole, sizeof(whole), "%s/whole.gguf", dir);
    refused(SLUICE_E_ARG, "split into 2 files", parts[0], NULL, false);
    refused(SLUICE_E_ARG, "is a part of the model itself; name another file", parts[0], parts[1],
            true);
    sluice_error se = {0};
    if (pack(parts[0], out, false, NULL, NULL, &se) != 0 ||
        pack(TINY, whole, false, NULL, NULL, &se) != 0)
        fail_msg("%s", se.text);
    assert_true(same_files(out, whole));
    assert_int_equal(n_files(dir), 4);
    gguf_close(g);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(wrong_names, fresh),
        cmocka_unit_test_setup(replace, fresh),
        cmocka_unit_test_setup(cancelled, fresh),
        cmocka_unit_test_setup(killed, fresh),
        cmocka_unit_test_setup(killed_any_time, fresh),
        cmocka_unit_test_setup(size_limit, fresh),
        cmocka_unit_test_setup(writes_find_the_end, fresh),
        cmocka_unit_test_setup(small_drive, fresh),
        cmocka_unit_test_setup(leftover, fresh),
        cmocka_unit_test_setup(one_at_a_time, fresh),
        cmocka_unit_test_setup(changed_meanwhile, fresh),
        cmocka_unit_test_setup(failing_reads, fresh), cmocka_unit_test_setup(split, fresh),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
