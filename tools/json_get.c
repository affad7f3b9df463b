/*
 * json_get: for shell tests. Reads one JSON value from standard input and prints
 * what lies at a path such as "stats.decode_tokens" or "ids.0" (no argument: only
 * checks). Texts are printed without quotes, lists and objects as JSON.
 * Exit status: 0 printed, 1 no such thing, 2 not exactly one JSON value.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *step(json_t *at, const char *name, size_t n)
{
    char key[256];
    if (n >= sizeof(key))
        return NULL;
    memcpy(key, name, n);
    key[n] = '\0';
    if (json_is_array(at))
        return json_array_get(at, strtoul(key, NULL, 10));
    return json_object_get(at, key);
}

static json_t *walk(json_t *at, const char *path)
{
    while (at && *path) {
        size_t n = strcspn(path, ".");
        at = step(at, path, n);
        path += n + (path[n] == '.');
    }
    return at;
}

int main(int argc, char **argv)
{
    json_error_t e;
    json_t *j = json_loadf(stdin, JSON_REJECT_DUPLICATES, &e);
    if (!j) {
        fprintf(stderr, "json_get: line %d: %s\n", e.line, e.text);
        return 2;
    }
    json_t *at = walk(j, argc > 1 ? argv[1] : "");
    if (at && argc > 1) {
        if (json_is_string(at))
            fwrite(json_string_value(at), 1, json_string_length(at), stdout);
        else
            json_dumpf(at, stdout, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
        putchar('\n');
    }
    json_decref(j);
    return at ? 0 : 1;
}
