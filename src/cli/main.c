/*
 * sluice, the command line tool: which command is meant.
 */
#include "cli.h"

#include <locale.h>
#include <string.h>

static const struct command table[] = {
    {"run", C_RUN, cmd_run, "PROMPT", "answer one prompt",
     "Prints the model's answer to PROMPT as it is made. Without PROMPT, or where it is -, the "
     "prompt is read from standard input. The prompt is put into the model's chat form unless "
     "--raw is given. Models that can reason do so first: on a terminal the reasoning is dimmed, "
     "elsewhere it stands between <think> and </think>.",
     "  sluice run \"Define run.\"\n"
     "  sluice run -m MODEL.gguf --memory 12G --stats \"Why is the sky blue?\"\n"
     "  sluice run --json - < prompt.txt\n"},
    {"chat", C_CHAT, cmd_chat, NULL, "talk with the model",
     "Keeps a conversation; what was said before is not computed again. A line beginning with / "
     "is a command: /help lists them. Ctrl-C stops the answer, Ctrl-D at an empty line ends. "
     "Where standard input is no terminal each line is a message, and nothing but answers goes "
     "to standard output.",
     "  sluice chat\n"
     "  sluice chat --system \"You are terse.\" --stats\n"},
    {"plan", C_PLAN, cmd_plan, "MODEL", "what fits the memory, and how fast it will be",
     "Prints the memory plan for a model and a budget without loading anything, and the speed "
     "that the drive and the memory allow. When the budget is too small it says by how much; the "
     "exit status is then 1.",
     "  sluice plan MODEL.gguf --memory 12G\n"
     "  sluice plan -m MODEL.gguf --no-probe --json\n"},
    {"inspect", C_INSPECT, cmd_inspect, "MODEL", "look into a model file",
     "Prints metadata, tensors and sizes by role and type of any GGUF file, also of models that "
     "sluice cannot run.",
     "  sluice inspect MODEL.gguf\n"
     "  sluice inspect --tensors --json MODEL.gguf\n"},
    {"tokenize", C_TOKENIZE, cmd_tokenize, "TEXT", "text to token ids, and back",
     "Prints the token ids of TEXT (without it, or where it is -, of standard input); with "
     "--decode the text of a list of ids. Only the model's tokeniser is loaded.",
     "  sluice tokenize \"Define run.\"\n"
     "  sluice tokenize --decode 484,450,431\n"},
    {"eval", C_EVAL, cmd_eval, NULL, "measure a model's answers",
     "Perplexity of a file of token ids (--tokens), or the share of questions that the model "
     "answers word for word (--qa).",
     "  sluice eval --tokens heldout.json\n"
     "  sluice eval --qa recall.json --limit 100 --json\n"},
    {"logits", C_LOGITS, cmd_logits, NULL, "the numbers behind the next token",
     "Computes the logits that follow the given ids: those of the last position, or with --all "
     "of every position, row by row.",
     "  sluice logits --ids 484,450,431\n"
     "  sluice logits --ids 1,2,3 --all --out logits.f32\n"},
    {"bench", C_BENCH, cmd_bench, NULL, "measure speed",
     "Computes a prompt of random ids, another one in each repetition and the same ones each time, "
     "and generates after it. Prints prompt and decode speed, GB read per token, cache hit rate, "
     "what the drive gives in a probe and what it gave here, the fraction of the limit, experts "
     "used of native, peak memory of the budget. The limit is the time per token if only the "
     "slower one of drive (bytes read at the probed speed) and processor (a token computed from "
     "memory) counted; in brackets, if besides nothing could be read during the output matrix, "
     "which says what comes next.",
     "  sluice bench -m MODEL.gguf --memory 12G\n"
     "  sluice bench -p 1024 -n 32 -r 5 --json\n"},
    {"probe", C_PROBE, cmd_probe, "MODEL", "measure drive and memory",
     "Measures what the other numbers refer to: reads from the drive that holds the model "
     "(nothing is written), reads from memory, and the decode kernel.",
     "  sluice probe -m MODEL.gguf\n"
     "  sluice probe --json\n"},
    {"pack", C_PACK, cmd_pack, "OUT", "a copy of a model file that is read faster",
     "Writes OUT, a GGUF file with the same metadata and weights in which the matrices of an "
     "expert lie together and aligned: one read brings an expert, where it was three (\"sluice "
     "plan\" predicts what that gains). The answers are the same bits. Only sluice can run such "
     "a file. OUT appears whole or not at all; with --replace the packed file takes the model's "
     "place, and a crash at any time leaves the old file or the new one.",
     "  sluice pack -m MODEL.gguf PACKED.gguf\n"
     "  sluice pack -m MODEL.gguf --replace\n"},
};

const struct command *commands_table(size_t *n)
{
    *n = ARRAY_LEN(table);
    return table;
}

static const struct command *find_command(const char *name)
{
    const char *words[ARRAY_LEN(table)];
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
        words[i] = table[i].name;
    }
    const char *near = nearest_word(name, words, ARRAY_LEN(table));
    if (near)
        complain("there is no command \"%s\"; did you mean \"%s\"?", name, near);
    else
        complain("there is no command \"%s\"; see \"sluice --help\"", name);
    return NULL;
}

static bool is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

static int run_command(const struct command *c, int argc, char **argv)
{
    struct args a;
    int status = options_parse(&a, c->bit, c->name, c->word != NULL, argc, argv);
    input_begin(&a, model_plan);
    if (status != ST_OK)
        return status;
    if (a.help) {
        help_command(c);
        return ST_OK;
    }
    status = check_request(&a);
    return status == ST_OK ? c->run(&a) : status;
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        complain("a command is missing; \"sluice --help\" lists them");
        return ST_USAGE;
    }
    const char *word = argv[1];
    if (strcmp(word, "--version") == 0) {
        out_printf("sluice %s\n", sluice_version());
        return ST_OK;
    }
    if (strcmp(word, "--man-options") == 0) { /* for the test of the man page */
        help_man_options();
        return ST_OK;
    }
    if (is_help(word) && argc < 3) {
        help_overview();
        return ST_OK;
    }
    if (is_help(word)) {
        const struct command *about = find_command(argv[2]);
        if (about)
            help_command(about);
        return about ? ST_OK : ST_USAGE;
    }
    if (word[0] == '-') {
        complain("unknown option %s; options follow the command, as in \"sluice run %s\"", word,
                 word);
        return ST_USAGE;
    }
    const struct command *c = find_command(word);
    return c ? run_command(c, argc - 2, argv + 2) : ST_USAGE;
}

int main(int argc, char **argv)
{
    if (!term_open_standard())
        return ST_FAIL;
    setlocale(LC_CTYPE, ""); /* for line editing; numbers keep their point */
    signals_init();
    term_init();
    return signals_finish(out_finish(dispatch(argc, argv)));
}
