/*
 * The one table of options and environment variables, and the parser that it
 * drives. --help and the man page's list are printed from the same rows.
 *
 * Invariants
 *  1. A default shown to the user is `preset`, and is parsed like any value, so
 *     it cannot differ from what happens.
 *  2. Two rows may share a name only if their commands are disjoint.
 *  3. getenv is called nowhere else.
 */
#include "cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AT(field) offsetof(struct args, field)
#define C_OPEN (C_RUN | C_CHAT | C_EVAL | C_LOGITS | C_BENCH)
#define C_ENGINE (C_OPEN | C_PLAN | C_PROBE)
#define C_ALL (C_ENGINE | C_INSPECT | C_TOKENIZE | C_PACK)
#define C_TALK (C_RUN | C_CHAT)
#define C_PLANNED (C_OPEN | C_PLAN)
#define MAX_INT 2147483647.0

static const struct option_row table[] = {
    /* ---- the model and how it is run ---- */
    {"model", 'm', O_FILE, G_MODEL, C_ALL, AT(model), "MODEL", NULL, 0, 0, NULL, "SLUICE_MODEL",
     "GGUF file to use (of a split model its first file); without it the built-in model, "
     "a pocket dictionary"},
    {"memory", 0, O_SIZE, G_MODEL, C_ENGINE | C_TOKENIZE, AT(memory), "SIZE", NULL, 1, 0, NULL,
     "SLUICE_MEMORY",
     "most memory that the whole process may hold, for example 64M, 1.5G or 12GiB (K, M, G, T: "
     "powers of 1024; kB, MB, GB, TB: of 1000); without it what machine and cgroup allow"},
    {"threads", 't', O_INT, G_MODEL, C_ENGINE, AT(threads), "N", NULL, 1, 0, NULL, "SLUICE_THREADS",
     "threads that compute, at most 4 for each processor, or 16 where that is more; without it "
     "one per processor"},
    {"ctx", 'c', O_INT, G_MODEL, C_PLANNED, AT(ctx), "N", NULL, 1, MAX_INT, NULL, NULL,
     "longest session in tokens; without it the model's, as far as memory allows; with LongRoPE it "
     "decides which rotary factors are used, and so changes answers"},
    {"chunk", 0, O_INT, G_MODEL, C_PLANNED, AT(chunk), "N", NULL, 1, 0, NULL, NULL,
     "tokens of a prompt that are computed together; without it chosen by the memory plan"},
    {"cpu", 0, O_CHOICE, G_MODEL, C_ENGINE, AT(cpu), "SET", NULL, 1, 0, NULL, NULL,
     "instruction set of the kernels, one of those that --help lists; the results are the same "
     "bits with any"},
    {"io", 0, O_CHOICE, G_MODEL, C_ENGINE, AT(io), "READER", NULL, 0, 0, NULL, NULL,
     "how experts are read: io_uring, or threads that call pread"},
    {"mirror", 0, O_FILES, G_MODEL, C_ENGINE, AT(mirrors), "DIR", NULL, 0, 0, NULL, NULL,
     "folder with a copy of every file of the model, on another drive: reads come from both at "
     "once, split by their speed, and from the other one where one fails; may be given up to 8 "
     "times; changes speed only"},
    {"policy", 0, O_CHOICE, G_MODEL, C_PLANNED, AT(policy), "NAME", NULL, 0, 0, NULL, NULL,
     "which expert leaves a full cache first; changes speed only"},
    {"lookahead", 0, O_LOOKAHEAD, G_MODEL, C_OPEN, AT(lookahead), "N", "auto", 1, 0, NULL, NULL,
     "experts of the next layer, and half as many of the one after, that are guessed and read "
     "ahead while the drive is idle, 1 to 64; auto: as many as pay, none or 0: none; changes "
     "speed only"},
    {"exact", 0, O_FLAG, G_MODEL, C_ENGINE, AT(exact), NULL, NULL, 1, 0, NULL, NULL,
     "float activations and an f32 KV cache instead of 8-bit activations and f16: slower, as "
     "near to the file's weights as it gets"},
    {"kv", 0, O_CHOICE, G_MODEL, C_ENGINE, AT(kv), "TYPE", "f16", 0, 0, "f16|f32", NULL,
     "number type of the KV cache"},

    /* ---- the answer ---- */
    {"n-predict", 'n', O_INT, G_ANSWER, C_TALK, AT(n_predict), "N", "-1", -1, MAX_INT, NULL, NULL,
     "most tokens to answer with; -1: until the model ends its answer"},
    {"temp", 0, O_REAL, G_ANSWER, C_TALK, AT(temp), "T", "0", 0, 100, NULL, NULL,
     "temperature; 0 always takes the likeliest token"},
    {"top-k", 0, O_INT, G_ANSWER, C_TALK, AT(top_k), "N", "0", 0, MAX_INT, NULL, NULL,
     "sample among the N likeliest tokens; 0: all"},
    {"top-p", 0, O_REAL, G_ANSWER, C_TALK, AT(top_p), "P", "1", 0, 1, NULL, NULL,
     "sample among the likeliest tokens that together have probability P; 1: all, 0: the "
     "likeliest alone"},
    {"min-p", 0, O_REAL, G_ANSWER, C_TALK, AT(min_p), "P", "0", 0, 1, NULL, NULL,
     "leave out tokens less likely than P times the likeliest; 0: none"},
    {"repeat-penalty", 0, O_REAL, G_ANSWER, C_TALK, AT(repeat_penalty), "X", "1", 0.01, 100, NULL,
     NULL, "make tokens that came lately less likely; 1: off"},
    {"repeat-window", 0, O_INT, G_ANSWER, C_TALK, AT(repeat_window), "N", "64", 0, MAX_INT, NULL,
     NULL, "how many last tokens --repeat-penalty looks at"},
    {"seed", 0, O_SEED, G_ANSWER, C_TALK, AT(seed), "N", NULL, 0, 0, NULL, NULL,
     "start of the random numbers: the same file, prompt, options and seed give the same "
     "answer; without it one is drawn (--json shows it)"},
    {"system", 0, O_TEXT, G_ANSWER, C_TALK | C_TOKENIZE, AT(system), "TEXT", NULL, 0, 0, NULL, NULL,
     "system message that the conversation starts with (tokenize: with --chat)"},
    {"messages", 0, O_FILE, G_ANSWER, C_RUN | C_TOKENIZE, AT(messages), "FILE", NULL, 0, 0, NULL,
     NULL,
     "a whole conversation in place of a prompt: JSON as OpenAI's API has it, a list of messages "
     "or {\"messages\": [...], \"tools\": [...]}"},
    {"chat-template", 0, O_FILE, G_ANSWER, C_TALK | C_TOKENIZE, AT(chat_template), "FILE", NULL, 0,
     0, NULL, NULL, "chat template (Jinja) to use in place of the model's own"},
    {"show-prompt", 0, O_FLAG, G_ANSWER, C_RUN, AT(show_prompt), NULL, NULL, 1, 0, NULL, NULL,
     "print the text that the model would be given, and compute nothing"},
    {"chat", 0, O_FLAG, G_ANSWER, C_TOKENIZE, AT(chat), NULL, NULL, 1, 0, NULL, NULL,
     "the ids that the model would be given for TEXT as a user's message"},
    {"think", 0, O_FLAG, G_ANSWER, C_TALK | C_TOKENIZE, AT(think), NULL, NULL, 1, 0, NULL, NULL,
     "let the model reason before it answers (the default for models that can)"},
    {"no-think", 0, O_FLAG, G_ANSWER, C_TALK | C_TOKENIZE, AT(think), NULL, NULL, 0, 0, NULL, NULL,
     "answer without reasoning first"},
    {"raw", 0, O_FLAG, G_ANSWER, C_RUN, AT(raw), NULL, NULL, 1, 0, NULL, NULL,
     "continue the prompt as it is, without the model's chat form; the token that the file wants "
     "in front of a text (add_bos_token) is added"},
    {"markup", 0, O_FLAG, G_ANSWER, C_RUN | C_TOKENIZE, AT(markup), NULL, NULL, 1, 0, NULL, NULL,
     "recognise control tokens such as <|im_start|> in the text (run: only with --raw); never "
     "use it for text that somebody else wrote"},

    /* ---- input ---- */
    {"decode", 'd', O_FLAG, G_INPUT, C_TOKENIZE, AT(decode), NULL, NULL, 1, 0, NULL, NULL,
     "the other way: ids to text (with --markup control tokens are shown too)"},
    {"tokens", 0, O_FILE, G_INPUT, C_EVAL, AT(tokens), "FILE", NULL, 0, 0, NULL, NULL,
     "perplexity of a JSON file: {\"context\": N, \"tokens\": [ids]}, or the list of ids alone"},
    {"context", 0, O_INT, G_INPUT, C_EVAL, AT(context), "N", NULL, 1, MAX_INT, NULL, NULL,
     "with --tokens: length of the windows; without it that of the file, else 1024"},
    {"qa", 0, O_FILE, G_INPUT, C_EVAL, AT(qa), "FILE", NULL, 0, 0, NULL, NULL,
     "share of questions answered word for word, of a JSON file: "
     "[{\"question\": TEXT, \"answer\": TEXT}, ...]"},
    {"limit", 0, O_INT, G_INPUT, C_EVAL, AT(limit), "N", NULL, 1, MAX_INT, NULL, NULL,
     "with --qa: ask only the first N questions"},
    {"ids", 0, O_TEXT, G_INPUT, C_LOGITS, AT(ids), "LIST", NULL, 0, 0, NULL, NULL,
     "token ids separated by commas, for example 1,2,3; - reads them from standard input"},
    {"n-prompt", 'p', O_INT, G_INPUT, C_BENCH, AT(n_prompt), "N", "256", 1, MAX_INT, NULL, NULL,
     "tokens of the prompt"},
    {"n-predict", 'n', O_INT, G_INPUT, C_BENCH, AT(n_predict), "N", "64", 1, MAX_INT, NULL, NULL,
     "tokens to generate after it"},
    {"repetitions", 'r', O_INT, G_INPUT, C_BENCH, AT(repetitions), "N", "3", 1, 1000, NULL, NULL,
     "how often; medians are shown"},
    {"routing", 0, O_FILE, G_INPUT, C_PLAN, AT(routing), "FILE", NULL, 0, 0, NULL, NULL,
     "predict the hit rate and speed for these picks, which an earlier run of the model recorded "
     "with --record-routing, whatever its memory: the first half fills the cache, the second is "
     "counted"},
    {"no-probe", 0, O_FLAG, G_INPUT, C_PLAN | C_BENCH, AT(no_probe), NULL, NULL, 1, 0, NULL, NULL,
     "do not measure drive and memory (about two seconds): no predicted speed, no fraction of "
     "the limit"},

    /* ---- output ---- */
    {"stats", 's', O_FLAG, G_OUTPUT, C_TALK, AT(stats), NULL, NULL, 1, 0, NULL, NULL,
     "end with one line of numbers on standard error: speed, GB read per token, cache hit "
     "rate, experts used of native, peak memory of the budget"},
    {"out", 'o', O_FILE, G_OUTPUT, C_LOGITS, AT(out), "FILE", NULL, 1, 0, NULL, NULL,
     "write the logits to FILE as 32-bit floats of this machine's byte order; - for standard "
     "output; without it the ten likeliest tokens are printed"},
    {"all", 0, O_FLAG, G_OUTPUT, C_LOGITS, AT(all), NULL, NULL, 1, 0, NULL, NULL,
     "logits of every position, not only of the last"},
    {"timeline", 0, O_FILE, G_OUTPUT, C_OPEN, AT(timeline), "FILE", NULL, 0, 0, NULL, NULL,
     "record what each thread and the drive did when, and write it to FILE in the Chrome trace "
     "event format (Perfetto and chrome://tracing show it); takes 8 MiB, which hold some 100000 "
     "spans: what comes later is left out, with a warning"},
    {"record-routing", 0, O_FILE, G_OUTPUT, C_TALK | C_BENCH, AT(record_routing), "FILE", NULL, 0,
     0, NULL, NULL,
     "write to FILE which experts the routers picked for each generated token, one JSON object a "
     "line; plan --routing predicts from it"},
    {"meta", 0, O_FLAG, G_OUTPUT, C_INSPECT, AT(only_meta), NULL, NULL, 1, 0, NULL, NULL,
     "only the metadata"},
    {"tensors", 0, O_FLAG, G_OUTPUT, C_INSPECT, AT(only_tensors), NULL, NULL, 1, 0, NULL, NULL,
     "only the tensors"},
    {"check", 0, O_FLAG, G_OUTPUT, C_INSPECT, AT(check), NULL, NULL, 1, 0, NULL, NULL,
     "read the files from the first byte to the last instead: print the SHA-256 of each, and the "
     "weights that are not finite, zero where no model has zeros, or text; status 1 if there are "
     "any"},
    {"replace", 0, O_FLAG, G_OUTPUT, C_PACK, AT(replace), NULL, NULL, 1, 0, NULL, NULL,
     "put the packed file in the model's place; until it is whole, on the drive and read back, "
     "the old one stays, so both need room for that time"},
    {"force", 'f', O_FLAG, G_OUTPUT, C_PACK, AT(force), NULL, NULL, 1, 0, NULL, NULL,
     "replace OUT when it is there already"},
    {"json", 0, O_FLAG, G_OUTPUT, C_ALL & ~C_CHAT, AT(json), NULL, NULL, 1, 0, NULL, NULL,
     "print one JSON value instead of text"},

    /* ---- environment variables that are no option's ---- */
    {.kind = O_ENV,
     .env = "XDG_STATE_HOME",
     .commands = C_CHAT,
     .help = "folder under which chat keeps its history, in sluice/history; without it "
             "~/.local/state"},
    {.kind = O_ENV, .env = "HOME", .commands = C_CHAT, .help = "where ~ is"},
    {.kind = O_ENV,
     .env = "NO_COLOR",
     .commands = C_TALK,
     .help = "when set, reasoning is not dimmed"},
    {.kind = O_ENV,
     .env = "TERM",
     .commands = C_TALK,
     .help = "kind of terminal; nothing is dimmed on a dumb one"},
};

_Static_assert(ARRAY_LEN(table) <= sizeof(((struct args *)0)->given), "args.given is too short");

const struct option_row *options_table(size_t *n)
{
    *n = ARRAY_LEN(table);
    return table;
}

const char *options_env(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].env && strcmp(table[i].env, name) == 0) {
            const char *v = getenv(name);
            return v && *v ? v : NULL;
        }
    return NULL;
}

bool options_given(const struct args *a, const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].name && (table[i].commands & a->command) && strcmp(table[i].name, name) == 0)
            return a->given[i];
    return false;
}

/* ---- one value ------------------------------------------------------------------ */

struct choices option_choices(const struct option_row *o)
{
    struct choices c = {.s = ""};
    const char *v;
    size_t n = (size_t)snprintf(c.s, sizeof(c.s), "%s", o->choices ? o->choices : "");
    for (int i = 0; !o->choices && n < sizeof(c.s) && (v = sluice_choice(o->name, i)) != NULL; i++)
        n += (size_t)snprintf(c.s + n, sizeof(c.s) - n, "%s%s", i ? "|" : "", v);
    return c;
}

const char *option_preset(const struct option_row *o)
{
    return o->kind == O_CHOICE && !o->choices ? sluice_choice(o->name, 0) : o->preset;
}

int64_t option_most(const struct option_row *o)
{
    return o->high == 0 ? sluice_most(o->name) : (int64_t)o->high;
}

static bool is_choice(const struct option_row *o, const char *v)
{
    struct choices c = option_choices(o);
    size_t n = strlen(v);
    for (const char *p = c.s; n && p; p = strchr(p, '|')) {
        p += *p == '|';
        if (strcspn(p, "|") == n && memcmp(p, v, n) == 0)
            return true;
    }
    return false;
}

/* No machine has so little that it must be told in bytes: a unit was forgotten. */
static bool lacks_unit(const char *v, uint64_t bytes)
{
    return bytes < 1 << 20 && v[strspn(v, ".0123456789 \t")] == '\0';
}

/* "-" would be a file of that name, and whoever writes it means a stream. */
static bool is_file(const struct option_row *o, const char *v)
{
    return v[0] && (o->low != 0 || strcmp(v, "-") != 0);
}

static bool store_file(const struct option_row *o, struct texts *t, const char *v)
{
    if (t->n == MAX_TEXTS || !is_file(o, v))
        return false;
    t->v[t->n++] = v;
    return true;
}

static bool parse_lookahead(const struct option_row *o, const char *v, int *n)
{
    int64_t i = 0;
    if (strcmp(v, "auto") == 0)
        *n = SLUICE_LOOKAHEAD_AUTO;
    else if (strcmp(v, "none") == 0 || strcmp(v, "0") == 0)
        *n = SLUICE_LOOKAHEAD_NONE;
    else if (parse_int(v, (int64_t)o->low, option_most(o), &i))
        *n = (int)i;
    else
        return false;
    return true;
}

static bool store(const struct option_row *o, struct args *a, const char *v)
{
    char *field = (char *)a + o->offset;
    int64_t i;
    double d;
    uint64_t u;
    switch (o->kind) {
    case O_FLAG:
        *(int *)field = (int)o->low;
        return true;
    case O_TEXT:
        *(const char **)field = v;
        return true;
    case O_FILE:
        *(const char **)field = v;
        return is_file(o, v);
    case O_FILES:
        return store_file(o, (struct texts *)(void *)field, v);
    case O_CHOICE:
        *(const char **)field = v;
        return is_choice(o, v);
    case O_LOOKAHEAD:
        return parse_lookahead(o, v, (int *)field);
    case O_INT:
        if (!parse_int(v, (int64_t)o->low, option_most(o), &i))
            return false;
        *(int *)field = (int)i;
        return true;
    case O_SEED:
        if (!parse_u64(v, &u) || u > INT64_MAX)
            return false;
        *(uint64_t *)field = u;
        return true;
    case O_SIZE:
        if (!parse_size(v, &u) || u < (uint64_t)o->low || lacks_unit(v, u))
            return false;
        *(uint64_t *)field = u;
        return true;
    case O_REAL:
        if (!parse_real(v, o->low, o->high, &d))
            return false;
        *(double *)field = d;
        return true;
    case O_ENV:
        break;
    }
    return false;
}

static void refuse_size(const char *where, const char *v, const char *more)
{
    enum { MANY = 1024 }; /* of a unit, where the one before is meant */
    uint64_t u;
    double n;
    if (parse_size(v, &u) && lacks_unit(v, u) && parse_real(v, 0, MANY * MANY, &n) && n > 0)
        complain("%s: \"%s\" is a number of bytes; did you mean %s%c?%s", where, v, v,
                 n < MANY ? 'G' : 'M', more);
    else
        complain("%s: \"%s\" is not a size such as 64M, 1.5G or 12GiB%s", where, v, more);
}

/* The sentence about a value that `store` refused. `where`: "--memory" or the
 * environment variable; `more`: what to try, or "". */
static void refuse_value(const struct option_row *o, const char *where, const char *v,
                         const char *more)
{
    switch (o->kind) {
    case O_CHOICE:
        complain("%s: \"%s\" is not one of %s%s", where, v, option_choices(o).s, more);
        break;
    case O_FILE:
    case O_FILES:
        if (!v[0])
            complain("%s: the name is empty%s", where, more);
        else if (!is_file(o, v))
            complain("%s: - is no name here; a file that is called so is ./-%s", where, more);
        else
            complain("%s: \"%s\" is one too many, at most %d are possible%s", where, v, MAX_TEXTS,
                     more);
        break;
    case O_LOOKAHEAD:
        complain("%s: \"%s\" is not auto, none or a whole number from %.0f to %lld%s", where, v,
                 o->low, (long long)option_most(o), more);
        break;
    case O_INT:
        if (o->high >= MAX_INT && v[strspn(v, "0123456789")] != '\0')
            complain("%s: \"%s\" is not a whole number from %.0f on%s", where, v, o->low, more);
        else
            complain("%s: \"%s\" is not a whole number from %.0f to %lld%s", where, v, o->low,
                     (long long)option_most(o), more);
        break;
    case O_SEED:
        complain("%s: \"%s\" is not a whole number below 2^63%s", where, v, more);
        break;
    case O_SIZE:
        refuse_size(where, v, more);
        break;
    default:
        complain("%s: \"%s\" is not a number from %g to %g%s", where, v, o->low, o->high, more);
        break;
    }
}

static int take_value(struct args *a, size_t row, const char *where, const char *v,
                      const char *more)
{
    if (store(&table[row], a, v))
        return ST_OK;
    refuse_value(&table[row], where, v, more);
    return ST_USAGE;
}

/* ---- the nearest word -------------------------------------------------------------- */

/* Letters to insert, delete or replace to make one word of the other; words are
 * at most 31 letters, others are infinitely far. */
static size_t distance(const char *x, const char *y)
{
    size_t nx = strlen(x), ny = strlen(y), row[32];
    if (nx > 31 || ny > 31)
        return 99;
    for (size_t j = 0; j <= ny; j++)
        row[j] = j;
    for (size_t i = 1; i <= nx; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= ny; j++) {
            size_t d = diagonal + (x[i - 1] != y[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < d)
                d = row[j] + 1;
            if (row[j - 1] + 1 < d)
                d = row[j - 1] + 1;
            row[j] = d;
        }
    }
    return row[ny];
}

/* Two neighbouring letters stand the wrong way round, and nothing else is wrong. */
static bool is_swapped(const char *x, const char *y)
{
    while (*x && *x == *y)
        x++, y++;
    return *x && *y && x[1] && x[0] == y[1] && x[1] == y[0] && strcmp(x + 2, y + 2) == 0;
}

/* Of a short word two other letters leave too little. */
const char *nearest_word(const char *word, const char *const *words, size_t n)
{
    const char *best = NULL;
    size_t near = strlen(word) > 5 ? 3 : 2;
    for (size_t i = 0; i < n; i++) {
        size_t d = is_swapped(word, words[i]) ? 1 : distance(word, words[i]);
        if (d < near) {
            near = d;
            best = words[i];
        }
    }
    return best;
}

/* ---- the command line ----------------------------------------------------------------- */

/* The row for --name (n letters) or -letter; -1: none. */
static int find_row(unsigned command, const char *name, size_t n, char letter)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        const struct option_row *o = &table[i];
        if (!o->name || !(o->commands & command))
            continue;
        if (name ? strncmp(o->name, name, n) == 0 && o->name[n] == '\0' : o->letter == letter)
            return (int)i;
    }
    return -1;
}

struct cursor {
    struct args *a;
    const char *command_name;
    int max_words;
    int argc, i; /* argv[i] is being looked at */
    char **argv;
};

/* What to try where an unknown option may have been meant as the command's word. */
static void hint(const struct cursor *c, const char *arg, char s[160])
{
    bool long_one = strlen(arg) > 40;
    s[0] = '\0';
    if (c->max_words)
        snprintf(s, 160,
                 "; what begins with - and is no option goes after --: sluice %s -- \"%.*s%s\"",
                 c->command_name, 40, arg, long_one ? "..." : "");
}

static void refuse_name(const struct cursor *c, const char *name, const char *arg)
{
    unsigned command = c->a->command;
    const char *command_name = c->command_name;
    char more[160];
    const char *words[ARRAY_LEN(table) + 1];
    size_t n = 0;
    bool elsewhere = false;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (table[i].name && (table[i].commands & command))
            words[n++] = table[i].name;
        else if (table[i].name && strcmp(table[i].name, name) == 0)
            elsewhere = true;
    }
    words[n++] = "help";
    const char *near = nearest_word(name, words, n);
    hint(c, arg, more);
    if (elsewhere)
        complain("--%s is not an option of \"sluice %s\"; see \"sluice %s --help\"", name,
                 command_name, command_name);
    else if (near)
        complain("unknown option --%s; did you mean --%s?%s", name, near,
                 strchr(arg, ' ') ? more : "");
    else
        complain("unknown option --%s; see \"sluice %s --help\"%s", name, command_name, more);
}

/* `value`: what follows '=' or the letter; NULL: the next argument has it. `more`: what
 * to try where it is none. */
static int take_option(struct cursor *c, int row, const char *where, const char *value,
                       const char *more)
{
    if (table[row].kind == O_FLAG && value) {
        complain("%s takes no value", where);
        return ST_USAGE;
    }
    if (table[row].kind != O_FLAG && !value) {
        if (c->i + 1 >= c->argc) {
            complain("%s needs a value: %s", where, table[row].value);
            return ST_USAGE;
        }
        value = c->argv[++c->i];
    }
    c->a->given[row] = true;
    return take_value(c->a, (size_t)row, where, value, more);
}

static int take_long(struct cursor *c, const char *arg)
{
    char where[64];
    const char *equals = strchr(arg, '=');
    size_t n = equals ? (size_t)(equals - arg) : strlen(arg);
    snprintf(where, sizeof(where), "--%.*s", (int)n, arg);
    if (strcmp(arg, "help") == 0) {
        c->a->help = true;
        return ST_OK;
    }
    int row = find_row(c->a->command, arg, n, 0);
    if (row < 0) {
        refuse_name(c, where + 2, arg - 2);
        return ST_USAGE;
    }
    return take_option(c, row, where, equals ? equals + 1 : NULL, "");
}

/* The rest of a cluster as a value: where it is none, the cluster may have been
 * meant as the command's word. */
static int take_rest(struct cursor *c, int row, const char *where, const char *value,
                     const char *whole)
{
    char more[160];
    hint(c, whole, more);
    if (!strchr(value, ' ') || !c->max_words || table[row].kind != O_FILE ||
        access(value, F_OK) == 0)
        return take_option(c, row, where, value, more);
    complain("%s: there is no file \"%s\"%s", where, value, more);
    return ST_USAGE;
}

/* A cluster of letters; the first that takes a value takes the rest. Help is
 * asked for by a cluster that is one. */
static int take_letters(struct cursor *c, const char *arg)
{
    const char *whole = arg - 1;
    bool help = false;
    if (strcmp(arg, "help") == 0)
        arg = "h";
    for (; *arg; arg++) {
        char where[3] = {'-', *arg, 0};
        if (*arg == 'h') {
            help = true;
            continue;
        }
        int row = find_row(c->a->command, NULL, 0, *arg);
        if (row < 0) {
            char more[160];
            hint(c, whole, more);
            complain("unknown option %s; see \"sluice %s --help\"%s", where, c->command_name, more);
            return ST_USAGE;
        }
        if (table[row].kind != O_FLAG && arg[1])
            return take_rest(c, row, where, arg + 1, whole);
        int status = take_option(c, row, where, NULL, "");
        if (status != ST_OK || table[row].kind != O_FLAG)
            return status;
    }
    c->a->help |= help;
    return ST_OK;
}

static int take_word(struct cursor *c, int max_words, const char *word)
{
    if (max_words == 0) {
        complain("\"%s\" is one word too many; see \"sluice %s --help\"", word, c->command_name);
        return ST_USAGE;
    }
    if (c->a->word) {
        complain("\"%s\" is one word too many: put text with spaces in quotes", word);
        return ST_USAGE;
    }
    c->a->word = word;
    return ST_OK;
}

static int presets_and_environment(struct args *a)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        const struct option_row *o = &table[i];
        if (!(o->commands & a->command) || o->kind == O_ENV)
            continue;
        if (option_preset(o) && take_value(a, i, o->name, option_preset(o), "") != ST_OK)
            return ST_USAGE;
        const char *v = o->env ? options_env(o->env) : NULL;
        if (v && take_value(a, i, o->env, v, "") != ST_OK)
            return ST_USAGE;
    }
    return ST_OK;
}

int options_parse(struct args *a, unsigned command, const char *command_name, int max_words,
                  int argc, char **argv)
{
    struct cursor c = {
        .a = a, .command_name = command_name, .max_words = max_words, .argc = argc, .argv = argv};
    bool only_words = false;
    *a = (struct args){.command = command, .think = -1};
    int status = presets_and_environment(a);
    for (c.i = 0; c.i < argc && status == ST_OK; c.i++) {
        const char *arg = argv[c.i];
        if (only_words || arg[0] != '-' || arg[1] == '\0')
            status = take_word(&c, max_words, arg);
        else if (strcmp(arg, "--") == 0)
            only_words = true;
        else if (arg[1] == '-')
            status = take_long(&c, arg + 2);
        else
            status = take_letters(&c, arg + 1);
        if (a->help)
            return ST_OK; /* whatever else may be wrong: they asked */
    }
    return status;
}
