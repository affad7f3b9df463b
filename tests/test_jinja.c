/*
 * The interpreter of chat templates: what it writes (tests/data/jinja-cases.json, by
 * @huggingface/jinja and Jinja2), which bytes of it are the template's, and that no
 * template takes more than its limits. With published templates, where they are at hand:
 *
 *   SLUICE_TEMPLATES  folder with templates.json, {"templates": [{"template_name",
 *                     "template"}]}; what they write is known by its hash
 */
#include "text/jinja/jinja.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct job {
    struct str source, context;
    struct jbuf out;
};

static void work(struct jinja *j, void *user)
{
    struct job *b = user;
    struct jval globals = jjson_read(j, b->context, "the context");
    jglobals(j, globals.dict);
    jinja_render(j, b->source, globals.dict, &b->out);
}

static int64_t fixed_time(void)
{
    struct tm t = {.tm_year = 126,
                   .tm_mon = 7,
                   .tm_mday = 15,
                   .tm_hour = 12,
                   .tm_min = 34,
                   .tm_sec = 56,
                   .tm_isdst = -1};
    return (int64_t)mktime(&t);
}

static int run(struct jinja *j, struct job *b, const char *source, const char *context,
               const struct jinja_limits *most, struct err *e)
{
    *b = (struct job){.source = {source, strlen(source)}, .context = {context, strlen(context)}};
    *e = (struct err){0};
    return jinja_run(j, most, fixed_time(), work, b, e);
}

/* ---- what is written ---- */

static void test_cases(void **state)
{
    (void)state;
    json_error_t error;
    json_t *all = json_load_file("tests/data/jinja-cases.json", 0, &error);
    if (!all)
        fail_msg("%s", error.text);
    json_t *cases = json_object_get(all, "cases");
    char *context = json_dumps(json_object_get(all, "context"), 0);
    assert_true(json_array_size(cases) > 100);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i);
        const char *source = json_string_value(json_object_get(one, "template"));
        const json_t *want = json_object_get(one, "text");
        struct jinja j;
        struct job b;
        struct err e;
        int rc = run(&j, &b, source, context, &jinja_usual, &e);
        if (json_is_null(want) != (rc < 0))
            fail_msg("%s: status %d %s, expected \"%s\"", source, rc, e.text,
                     json_is_null(want) ? "(refused)" : json_string_value(want));
        if (rc < 0)
            assert_true(e.code == rc && strstr(e.text, "chat template"));
        else if (b.out.n != json_string_length(want) ||
                 memcmp(b.out.n ? b.out.p : "", json_string_value(want), b.out.n) != 0)
            fail_msg("%s: \"%.*s\", expected \"%s\"", source, (int)b.out.n, b.out.p,
                     json_string_value(want));
        jinja_end(&j);
    }
    free(context);
    json_decref(all);
}

static uint64_t fnv(const char *p, size_t n, uint64_t h)
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)p[i]) * 0x100000001b3u;
    return h;
}

static const uint64_t fnv_begin = 0xcbf29ce484222325u;

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *j = json_load_file(path, 0, &error);
    if (!j)
        fail_msg("%s: %s", path, error.text);
    return j;
}

/* Every conversation in every mode, as JSON texts; *n of them. */
static char **contexts(size_t *n)
{
    static const char *const modes[] = {
        "{\"add_generation_prompt\": true}", "{\"add_generation_prompt\": false}",
        "{\"add_generation_prompt\": true, \"enable_thinking\": false, \"thinking\": false}",
        "{\"add_generation_prompt\": true, \"enable_thinking\": true, \"thinking\": true}"};
    json_t *all = load("tests/data/jinja-conversations.json");
    char **texts = calloc(json_object_size(all) * ARRAY_LEN(modes), sizeof *texts);
    *n = 0;
    for (void *it = json_object_iter(all); it; it = json_object_iter_next(all, it))
        for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
            json_t *one = json_copy(json_object_iter_value(it)),
                   *mode = json_loads(modes[i], 0, NULL);
            json_object_update(one, mode);
            json_object_set_new(one, "bos_token", json_string("<BOS>"));
            json_object_set_new(one, "eos_token", json_string("<EOS>"));
            texts[(*n)++] = json_dumps(one, 0);
            json_decref(one);
            json_decref(mode);
        }
    json_decref(all);
    return texts;
}

/* What the template writes where the references agree, by its hash. */
static void check_published(const char *source, const json_t *row, char **texts, size_t n)
{
    const char *agree = json_string_value(json_object_get(row, "agree"));
    uint64_t h = fnv_begin;
    char got[17];
    assert_int_equal(strlen(agree), n);
    for (size_t i = 0; i < n; i++) {
        struct jinja j;
        struct job b;
        struct err e;
        int rc = run(&j, &b, source, texts[i], &jinja_usual, &e);
        if (agree[i] == '1' && rc < 0)
            fail_msg("%s, context %zu: %s", json_string_value(json_object_get(row, "name")), i,
                     e.text);
        if (agree[i] == '1')
            h = fnv(b.out.p, b.out.n, h);
        jinja_end(&j);
    }
    snprintf(got, sizeof got, "%016llx", (unsigned long long)h);
    if (strcmp(got, json_string_value(json_object_get(row, "texts"))) != 0)
        fail_msg("%s writes other texts", json_string_value(json_object_get(row, "name")));
}

static void test_published_templates(void **state)
{
    (void)state;
    const char *folder = getenv("SLUICE_TEMPLATES");
    char path[4096];
    size_t n, n_checked = 0;
    if (!folder)
        skip();
    snprintf(path, sizeof path, "%s/templates.json", folder);
    json_t *file = load(path), *templates = json_object_get(file, "templates");
    json_t *rows = load("tests/data/jinja-renders.json");
    char **texts = contexts(&n);
    for (size_t i = 0; i < json_array_size(templates); i++) {
        const json_t *text = json_object_get(json_array_get(templates, i), "template");
        const char *source = json_string_value(text);
        char hash[17];
        snprintf(hash, sizeof hash, "%016llx",
                 (unsigned long long)fnv(source, json_string_length(text), fnv_begin));
        for (size_t k = 0; k < json_array_size(rows); k++) {
            const json_t *row = json_array_get(rows, k);
            if (strcmp(json_string_value(json_object_get(row, "template")), hash) != 0)
                continue;
            check_published(source, row, texts, n);
            n_checked++;
        }
    }
    assert_true(n_checked > 0);
    print_message("%zu published templates, %zu contexts\n", n_checked, n);
    for (size_t i = 0; i < n; i++)
        free(texts[i]);
    free(texts);
    json_decref(rows);
    json_decref(file);
}

/* What is not understood is refused by name, with its line. */
static void test_refusals_name_what_and_where(void **state)
{
    (void)state;
    static const struct {
        const char *source, *says;
    } cases[] = {
        {"a\nb\n{{ s|nofilter }}", "line 3: there is no filter 'nofilter'"},
        {"{% if true %}\n{{ s is notest }}{% endif %}", "line 2: there is no test 'notest'"},
        {"\n{% include 'x' %}", "line 2: there is no statement 'include'"},
        {"{{ s.nomethod() }}", "line 1: a string has no method 'nomethod'"},
        {"{{ nofunction(1) }}", "'nofunction' is called, which is an undefined value"},
        {"{{ missing + 'x' }}", "an undefined value + a string is not possible ('missing')"},
        {"{{ 'x' + m.lost }}", "a string + an undefined value is not possible ('lost')"},
        {"\n\n{% for x in l %}", "line 3: what begins here has no {% endfor %}"},
        {"{% if l %}x", "line 1: what begins here has no {% endif %}"},
        {"{{ 9223372036854775808 }}", "the number 9223372036854775808 is larger than 64 bits"},
        {"{{ 'x' + l }}", "a string + a list is not possible"},
        {"{{ raise_exception('Only ' ~ 3 ~ ' turns!') }}",
         "the chat template refuses this conversation: Only 3 turns!"},
        {"{{ l.append(1) }}", "a list has no method 'append'"},
        {"{% for x in l recursive %}{% endfor %}", "recursive loops"},
        {"{{ strftime_now('%Q') }}", "'%Q' is no part of a date"},
        {"{{ a ! b }}", "the character '!' has no meaning"},
        {"{% macro f() %}{% endmacro %}{{ f(**{1: 2}) }}",
         "the name of an argument is an integer"},
        {"{{ namespace(**{1: 2}) }}", "the name of an argument is an integer"},
        {"{{ [1, 2 }}", "the tag ends where ',' or the closing bracket is expected"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct jinja j;
        struct job b;
        struct err e;
        int rc =
            run(&j, &b, cases[i].source, "{\"s\": \"x\", \"l\": [1], \"m\": {}}", &jinja_usual, &e);
        if (rc >= 0 || !strstr(e.text, cases[i].says))
            fail_msg("%s: \"%s\" does not say \"%s\"", cases[i].source, e.text, cases[i].says);
        jinja_end(&j);
    }
}

/* ---- provenance ---- */

/* User's text is all angle brackets and bars, which no template here writes: whatever is
 * done to it, no such byte becomes the template's. What the template writes stays its. */
static void test_users_bytes_stay_users(void **state)
{
    (void)state;
    static const char context[] =
        "{\"u\": \"<|im_end|>\", \"v\": \" <|a|> <|b|> \", \"l\": [\"<|x|>\", \"<|y|>\"],"
        " \"d\": {\"<|k|>\": {\"<|n|>\": \"<|v|>\"}}, \"n\": 7, \"half\": \"<|im_\"}";
    static const char *const cases[] = {
        "T{{ u }}T",
        "{{ 'T' + u + 'T' }}",
        "{{ 'T' ~ u ~ 'T' }}",
        "T{{ u[1:] }}{{ u[:3] }}{{ u[::-1] }}",
        "T{{ u[0] }}{{ u[-1] }}",
        "T{{ v.split() }}{{ v.split(' ')|join('T') }}",
        "T{{ v|trim }}{{ v.strip() }}",
        "T{{ u.split('im')|join('T') }}",
        "T{{ u|replace('im', 'T') }}{{ 'aTa'|replace('a', u) }}",
        "T{{ u|upper }}{{ u|lower }}{{ u|title }}{{ u|capitalize }}",
        "T{{ l|join }}{{ l|join('T') }}",
        "T{{ 'T'.join(l) }}{{ u.join(['T', 'T']) }}",
        "T{{ d|tojson }}{{ l|tojson(indent=2) }}{{ d }}{{ l }}",
        "T{% for k, v in d.items() %}{{ k }}{{ v }}{% endfor %}",
        "T{{ d|dictsort }}{{ d.keys()|list }}",
        "{% set x %}T{{ u }}T{% endset %}{{ x }}",
        "{% macro f(a) %}T{{ a }}{{ caller() if caller }}{% endmacro %}{{ f(u) }}",
        "{% macro f(a) %}{{ a }}T{% endmacro %}{{ f(u)|trim }}{{ f(u)[2:] }}",
        "{% filter upper %}T{{ u }}T{% endfilter %}",
        "{% set ns = namespace(x='T') %}{% set ns.x = ns.x + u %}{{ ns.x }}",
        "T{{ u|indent(2, true) }}{{ 'T'|indent(u) }}",
        "T{{ '{}T{}'.format(u, u) }}",
        "T{{ u|string }}{{ u|safe }}",
        "T{{ l|map('upper')|join }}{{ l|first }}{{ l|last }}{{ l|sort|join }}{{ u|list }}",
        "T{{ u * 3 }}",
        "T{{ u if n else 'T' }}{{ q or u }}{{ u and u }}{{ q|default(u) }}",
        "T{{ u|reverse }}{{ u.splitlines() }}",
        "{% for c in u %}T{{ c }}{% endfor %}",
        "T{{ u|tojson|from_json }}{{ d|tojson|from_json|tojson }}",
        "T{{ half + 'end' + u[-2:] }}",
        "{% macro w() %}T{{ caller(u) }}{% endmacro %}{% call(a) w() %}{{ a }}{% endcall %}",
        "T{{ u.rsplit('m', 1) }}{{ u.lstrip('T') }}{{ u.rstrip('T') }}",
        "T{{ dict(a=u) }}{{ {'T': u} }}{{ [u, u] }}{{ (u, u) }}",
        "T{{ l|unique|join }}{{ l|reverse|join }}{{ l|min }}{{ l|max }}{{ l[1:]|join }}",
        "T{{ (l + l)|join }}",
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct jinja j;
        struct job b;
        struct err e;
        size_t n_own = 0, n_user = 0;
        if (run(&j, &b, cases[i], context, &jinja_usual, &e) < 0)
            fail_msg("%s: %s", cases[i], e.text);
        for (size_t k = 0; k < b.out.n; k++) {
            bool users = strchr("<|>", b.out.p[k]) != NULL;
            n_user += users;
            n_own += b.out.p[k] == 'T' && b.out.own[k];
            if (users && b.out.own[k])
                fail_msg("%s: byte %zu of \"%.*s\" is the template's", cases[i], k, (int)b.out.n,
                         b.out.p);
        }
        if (!n_own || !n_user)
            fail_msg("%s writes \"%.*s\" and proves nothing", cases[i], (int)b.out.n, b.out.p);
        jinja_end(&j);
    }
}

/* Numbers and what JSON adds could complete a tag, too. */
static void test_numbers_and_punctuation_are_not_the_templates(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "{{ n }}",        "{{ {}|tojson }}",          "{{ [1, 2] }}",     "{{ true }}", "{{ 2.5 }}",
        "{{ l|length }}", "{{ strftime_now('%Y') }}", "{{ none|tojson }}"};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct jinja j;
        struct job b;
        struct err e;
        assert_int_equal(run(&j, &b, cases[i], "{\"n\": 12, \"l\": []}", &jinja_usual, &e), OK);
        assert_true(b.out.n > 0);
        for (size_t k = 0; k < b.out.n; k++)
            if (b.out.own[k])
                fail_msg("%s: byte %zu is the template's", cases[i], k);
        jinja_end(&j);
    }
}

/* ---- limits ---- */

static char *repeated(const char *before, const char *one, size_t n, const char *after)
{
    size_t k = strlen(one);
    char *s = malloc(strlen(before) + k * n + strlen(after) + 1), *p = stpcpy(s, before);
    for (size_t i = 0; i < n; i++, p += k)
        memcpy(p, one, k);
    strcpy(p, after);
    return s;
}

static void refused_by_a_limit(const char *source, const char *context)
{
    static const struct jinja_limits small = {
        .steps = 3000000, .depth = 400, .bytes = (size_t)16 << 20, .output = (size_t)4 << 20};
    struct jinja j;
    struct job b;
    struct err e;
    int rc = run(&j, &b, source, context, &small, &e);
    if (rc >= 0 || !strstr(e.text, "goes beyond a limit"))
        fail_msg("%.200s: status %d, \"%s\"", source, rc, e.text);
    assert_true(j.n_bytes <= small.bytes + ((size_t)64 << 10));
    jinja_end(&j);
}

static void test_hostile_templates_end(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ g(n) }}{% endmacro %}{% macro g(n) %}{{ f(n + 1) }}{% endmacro %}{{ "
        "f(0) }}",
        "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ "
        "f(60) }}",
        "{% for i in range(1000000000000) %}{% endfor %}",
        "{% for i in range(5000) %}{% for k in range(5000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(200) %}{% set ns.s = ns.s + ns.s %}{% "
        "endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(200) %}{% set ns.l = ns.l + ns.l %}{% "
        "endfor %}",
        "{% set ns = namespace(s='a') %}{% for i in range(200) %}{% set ns.s = ns.s|replace('a', "
        "'aa') %}{% endfor %}",
        "{% for i in range(100000) %}{{ 'a long text that is written again and again, for ever' "
        "}}{% endfor %}",
        "{{ 'abc' * 1000000000 }}",
        "{{ 'x'|indent(2000000000) }}",
        "{{ [1, [2]]|tojson(indent=64) * 90000 }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(1000) %}{% set ns.l = [ns.l] %}{% endfor "
        "%}{{ ns.l }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(1000) %}{% set ns.l = [ns.l] %}{% endfor "
        "%}{{ ns.l == [ns.l] }}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns|tojson }}",
        "{% for i in range(3000) %}{{ (range(3000)|list)|sort|length }}{% endfor %}",
        "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}{% "
        "endcall %}{% endmacro %}{{ g() }}",
        "{% macro f(a=f()) %}{% endmacro %}{{ f() }}",
        "{{ ('a' * 100000).strip('b' * 100000 + 'a') }}",
        "{{ ('a' * 100000).rsplit('b' + 'a' * 50000) }}",
        "{{ ('a' * 100000).find('b' + 'a' * 250) }}{% for i in range(100000) %}{{ ('a' * 100) is "
        "lower }}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% set t = 'a' * 1000000 %}{% for i in range(100000) %}{% if s "
        "== t %}{% endif %}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% set d = {s: 1} %}{% for i in range(100000) %}{% if d[s] "
        "%}{% endif %}{% endfor %}",
        "{% set w = ' ' * 1000000 + '1' %}{% for i in range(100000) %}{% if w|from_json %}{% endif "
        "%}{% endfor %}",
        "{% set l = range(100000) %}{% for i in l %}{% if l|sum %}{% endif %}{% endfor %}",
        "{% set l = range(100000) %}{% for i in l %}{% if l|select('none') %}{% endif %}{% endfor "
        "%}",
        "{% set ns = namespace(l=[[]]) %}{% for i in range(14) %}{% set ns.l = ns.l + ns.l %}{% "
        "endfor %}{% for i in range(100000) %}{% if ''.startswith(ns.l) %}{% endif %}{% endfor %}",
        "{% for i in range(1000000) %}{% if (i / 7)|string %}{% endif %}{% endfor %}",
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        refused_by_a_limit(cases[i], "{}");
}

/* Whatever looks at all of a text takes a step for each 64 bytes of it, so that no loop
 * around it can run for ever. s, t: the same mebibyte, a letter repeated; w: blanks, then 1. */
static void test_long_texts_cost_steps(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "s == t",
        "s != t",
        "s < t",
        "s in t",
        "s in [t]",
        "s in {t: 1}",
        "{s: 1}[t]",
        "{t: 1}.get(s)",
        "s is lower",
        "s|length",
        "s|upper",
        "s|trim('a')",
        "w|trim",
        "s.strip('a')",
        "s.rstrip('ba')",
        "s.startswith(t)",
        "s.endswith(t)",
        "s.find('b')",
        "s.count('b')",
        "s.split('b')",
        "s.rsplit('b')",
        "s.split()",
        "s.replace('b', '')",
        "s[1:]",
        "s[-1]",
        "s|first",
        "s|tojson",
        "s + t",
        "s ~ t",
        "s|indent",
        "w|from_json",
        "[s, t]|unique",
        "[s, t]|min",
        "[s, t]|sort",
        "[s, t]|join",
        "{s: 1, t + 'b': 2}|dictsort",
        "'{}'.format(s)",
        "s is eq(t)",
        "{s: 1, 'b': 2}|tojson(sort_keys=true)",
    };
    enum { N = 1 << 20 };
    char *a = repeated("", "a", N, ""), *blanks = repeated("", " ", N, "1");
    char *before = malloc(3 * N + 100);
    sprintf(before, "{\"s\": \"%s\", \"t\": \"%s\", \"w\": \"%s\"}", a, a, blanks);
    int64_t none = 0;
    for (size_t i = 0; i <= ARRAY_LEN(cases); i++) {
        char source[100];
        struct jinja j;
        struct job b;
        struct err e;
        snprintf(source, sizeof source, "{%% if %s %%}{%% endif %%}", i ? cases[i - 1] : "1");
        if (run(&j, &b, source, before, &jinja_usual, &e) < 0)
            fail_msg("%s: %s", source, e.text);
        if (i && j.n_steps - none < N / 64)
            fail_msg("%s takes %lld steps", source, (long long)(j.n_steps - none));
        none = i ? none : j.n_steps;
        jinja_end(&j);
    }
    free(before);
    free(blanks);
    free(a);
}

/* What is said of the end of a template looks at nothing behind it. */
static void test_templates_that_end_early(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "{% raw %}a{% endraw ",
        "{% raw %}a{% endraw x",
        "{% raw %}a{% endraw -",
        "{{ 1 ",
        "{{ 1 %",
        "{% if 1 ",
        "{% if 1 }",
        "{% set x = 1 -",
        "{#",
        "{% raw",
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const size_t n = strlen(cases[i]);
        struct jinja j;
        struct err e = {0};
        struct job b = {.source = {memcpy(malloc(n), cases[i], n), n}, .context = {"{}", 2}};
        if (jinja_run(&j, &jinja_usual, fixed_time(), work, &b, &e) != E_UNSUPPORTED)
            fail_msg("%s: \"%s\"", cases[i], e.text);
        jinja_end(&j);
        free((void *)(uintptr_t)b.source.p);
    }
}

static void test_deep_nesting_ends(void **state)
{
    (void)state;
    static const struct {
        const char *before, *one, *after;
    } cases[] = {
        {"{{ ", "(", "1 }}"},
        {"{{ ", "[", "1 }}"},
        {"{{ ", "{'a': ", "1 }}"},
        {"{{ ", "not ", "1 }}"},
        {"{{ ", "- ", "1 }}"},
        {"{{ 1", " + 1", " }}"},
        {"{{ x", ".a", " }}"},
        {"{{ x", "[0]", " }}"},
        {"{{ x", "|trim", " }}"},
        {"{{ x", " is string", " }}"},
        {"", "{% if x %}", ""},
        {"", "{% for x in y %}", ""},
        {"{{ ", "f(", "1 }}"},
        {"{{ ", "x ** ", "x }}"},
        {"", "{% macro f() %}", ""},
        {"", "{% filter trim %}", ""},
        {"{% set x ", "| trim", "%}a{% endset %}"},
        {"{{ ", "x[", "1 }}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *source = repeated(cases[i].before, cases[i].one, 20000, cases[i].after);
        refused_by_a_limit(source, "{\"x\": \"y\"}");
        free(source);
    }
    char *json = repeated("{\"a\": ", "[", 20000, "");
    refused_by_a_limit("{{ a }}", json);
    free(json);
    json = repeated("{{ '", "[", 20000, "'|from_json }}");
    refused_by_a_limit(json, "{}");
    free(json);
}

/* Many branches and statements side by side are not nested. */
static void test_long_is_not_deep(void **state)
{
    (void)state;
    static const struct {
        const char *before, *one, *after;
    } cases[] = {
        {"{% if false %}", "{% elif false %}x", "{% else %}end{% endif %}"},
        {"", "{{ 'a' }}{# c #}", "end"},
        {"{{ [", "1,", "2]|length }}end"},
        {"{{ '", "long ", "' }}end"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *source = repeated(cases[i].before, cases[i].one, 3000, cases[i].after);
        struct jinja j;
        struct job b;
        struct err e;
        if (run(&j, &b, source, "{}", &jinja_usual, &e) < 0)
            fail_msg("%.60s: %s", source, e.text);
        assert_true(b.out.n >= 3 && !memcmp(b.out.p + b.out.n - 3, "end", 3));
        jinja_end(&j);
        free(source);
    }
}

/* A text that grows bit by bit takes memory in proportion to its length, and what it was
 * before stays as it was. */
static void test_texts_grow_in_place(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "{% set ns = namespace(x='') %}{% for i in range(20000) %}"
        "{% set ns.x = ns.x ~ 'abc' ~ (i ~ '-')[:1] %}{% endfor %}{{ ns.x|length }}",
        "{% set ns = namespace(x='') %}{% for i in range(20000) %}"
        "{% set ns.x = ns.x + 'abc' + 'd' %}{% endfor %}{{ ns.x|length }}"};
    struct jinja_limits few = jinja_usual;
    struct jinja j;
    struct job b;
    struct err e;
    few.bytes = 64 << 20; /* each step makes some small values */
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        if (run(&j, &b, cases[i], "{}", &few, &e) < 0)
            fail_msg("%s: %s", cases[i], e.text);
        assert_int_equal(b.out.n, 5);
        assert_memory_equal(b.out.p, "80000", 5);
        jinja_end(&j);
    }
    static const char two[] = "{% set a = 'x' ~ 'y' %}{% set b = a ~ '1' %}{% set c = a ~ '2' %}"
                              "{% set d = b ~ c %}{{ a ~ b ~ c ~ d ~ a }}";
    assert_int_equal(run(&j, &b, two, "{}", &jinja_usual, &e), OK);
    assert_int_equal(b.out.n, 16);
    assert_memory_equal(b.out.p, "xyxy1xy2xy1xy2xy", 16);
    jinja_end(&j);
}

/* ---- JSON ---- */

static void test_json_is_strict(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "{\"a\": 01}",
        "{\"a\": 1.}",
        "{\"a\": .5}",
        "{\"a\": +1}",
        "{\"a\": 1e}",
        "{\"a\": tru}",
        "{\"a\" 1}",
        "{\"a\": 1,}",
        "{,}",
        "{\"a\": [1,]}",
        "{\"a\": [1 2]}",
        "{a: 1}",
        "{\"a\": \"x}",
        "{\"a\": \"\\q\"}",
        "{\"a\": \"\\u12\"}",
        "{\"a\": \"\\ud800\"}",
        "{\"a\": \"\x01\"}",
        "{\"a\": \"\xff\"}",
        "{\"a\": 1} x",
        "{\"a\": 1, \"a\": 2}",
        "{\"a\": 123456789012345678901}",
        "{\"a\": 9223372036854775808}",
        "{\"a\": -9223372036854775809}",
        "",
        "{",
        "[",
        "\"",
    };
    static const char right[] = " {\"a\" : [ 1 , -2.50e1 , 1E2, \"\\u00e9\\ud83d\\udc4d\\/\\n\", "
                                "true , null , {} , [] ] } \n";
    struct jinja j;
    struct job b;
    struct err e;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        if (run(&j, &b, "{{ a }}", wrong[i], &jinja_usual, &e) >= 0 || !e.text[0])
            fail_msg("%s is taken for JSON", wrong[i]);
        jinja_end(&j);
    }
    assert_int_equal(run(&j, &b, "{{ a|tojson }}", right, &jinja_usual, &e), OK);
    static const char want[] =
        "[1, -25, 100, \"\xc3\xa9\xf0\x9f\x91\x8d/\\n\", true, null, {}, []]";
    assert_int_equal(b.out.n, sizeof want - 1);
    assert_memory_equal(b.out.p, want, sizeof want - 1);
    jinja_end(&j);
    static const char whole[] = "9223372036854775807 -9223372036854775808 9223372036854775807";
    assert_int_equal(run(&j, &b, "{{ a }} {{ b }} {{ 9223372036854775807 }}",
                         "{\"a\": 9223372036854775807, \"b\": -9223372036854775808}",
                         &jinja_usual, &e), OK);
    assert_int_equal(b.out.n, sizeof whole - 1);
    assert_memory_equal(b.out.p, whole, sizeof whole - 1);
    jinja_end(&j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_published_templates),
        cmocka_unit_test(test_refusals_name_what_and_where),
        cmocka_unit_test(test_users_bytes_stay_users),
        cmocka_unit_test(test_numbers_and_punctuation_are_not_the_templates),
        cmocka_unit_test(test_hostile_templates_end),
        cmocka_unit_test(test_long_texts_cost_steps),
        cmocka_unit_test(test_templates_that_end_early),
        cmocka_unit_test(test_deep_nesting_ends),
        cmocka_unit_test(test_long_is_not_deep),
        cmocka_unit_test(test_texts_grow_in_place),
        cmocka_unit_test(test_json_is_strict),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
