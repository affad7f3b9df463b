/*
 * --help, and the option list of the man page, printed from the tables.
 */
#include "cli.h"

#include <stdio.h>
#include <string.h>

enum { WIDTH = 79, INDENT = 26 };

static const char *const group_names[G_COUNT] = {"Model and memory", "Answer", "Input", "Output"};

/* Prints words from column `at` on, wrapped, further lines indented. */
static void wrap(const char *s, int at, int indent)
{
    while (*s) {
        int n = (int)strcspn(s, " \n");
        if (at > indent && at + 1 + n > WIDTH) {
            out_printf("\n%*s", indent, "");
            at = indent;
        } else if (at > indent) {
            out_printf(" ");
            at++;
        }
        out_printf("%.*s", n, s);
        at += n;
        s += n;
        if (*s == '\n') {
            out_printf("\n%*s", indent, "");
            at = indent;
        }
        s += *s != '\0';
    }
    out_printf("\n");
}

/* What stands in brackets after an option's help; empty when nothing does. */
static void brackets(const struct option_row *o, bool man, char *s, size_t size)
{
    int n = snprintf(s, size, "%s", "");
    if (o->kind == O_CHOICE && !(man && o->low > 0))
        n += snprintf(s + n, size - (size_t)n, "%s; ", option_choices(o).s);
    if (option_preset(o))
        n += snprintf(s + n, size - (size_t)n, "default %s; ", option_preset(o));
    if (o->env && o->name)
        n += snprintf(s + n, size - (size_t)n, "environment %s; ", o->env);
    if (n >= 2)
        s[n - 2] = '\0';
}

static void help_option(const struct option_row *o)
{
    char left[64], text[600], more[160];
    int n = o->letter ? snprintf(left, sizeof(left), "  -%c, --%s", o->letter, o->name)
                      : snprintf(left, sizeof(left), "      --%s", o->name);
    if (o->value)
        n += snprintf(left + n, sizeof(left) - (size_t)n, " %s", o->value);
    brackets(o, false, more, sizeof(more));
    snprintf(text, sizeof(text), more[0] ? "%s [%s]" : "%s%s", o->help, more);
    out_printf("%s", left);
    if (n >= INDENT - 1)
        out_printf("\n%*s", INDENT, "");
    else
        out_printf("%*s", INDENT - n, "");
    wrap(text, INDENT, INDENT);
}

void help_overview(void)
{
    size_t n;
    const struct command *c = commands_table(&n);
    out_printf("sluice %s: runs Mixture-of-Experts language models larger than memory.\n\n",
               sluice_version());
    out_printf("Usage: sluice COMMAND [OPTIONS]\n\nCommands\n");
    for (size_t i = 0; i < n; i++)
        out_printf("  %-10s %s\n", c[i].name, c[i].summary);
    out_printf("\nStart here\n"
               "  sluice run \"Define run.\"\n"
               "  sluice chat\n"
               "  sluice plan -m MODEL.gguf --memory 12G\n"
               "\n"
               "\"sluice COMMAND --help\" lists a command's options; \"sluice --version\" says\n"
               "which version this is. Exit status: 0 done, 1 failed, 2 the command line makes\n"
               "no sense, 130 interrupted (143: SIGTERM, 129: SIGHUP), 141 nobody reads the\n"
               "output any more.\n");
}

void help_command(const struct command *c)
{
    size_t n;
    const struct option_row *t = options_table(&n);
    out_printf("Usage: sluice %s [OPTIONS]%s%s%s\n\n", c->name, c->word ? " [" : "",
               c->word ? c->word : "", c->word ? "]" : "");
    wrap(c->about, 0, 0);
    for (int g = 0; g < G_COUNT; g++) {
        bool any = false;
        for (size_t i = 0; i < n; i++) {
            if (t[i].kind == O_ENV || (int)t[i].group != g || !(t[i].commands & c->bit))
                continue;
            if (!any)
                out_printf("\n%s\n", group_names[g]);
            any = true;
            help_option(&t[i]);
        }
    }
    out_printf("  -h, --help              this text\n");
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        if (t[i].kind != O_ENV || !(t[i].commands & c->bit))
            continue;
        if (!any)
            out_printf("\nEnvironment\n");
        any = true;
        out_printf("  %-24s", t[i].env);
        wrap(t[i].help, INDENT, INDENT);
    }
    out_printf("\nExamples\n%s", c->examples);
}

/* ---- the man page's list ---------------------------------------------------------- */

/* Text with what troff would take for itself made harmless. */
static void troff(const char *s)
{
    for (; *s; s++) {
        if (*s == '-')
            out_printf("\\-");
        else if (*s == '\\')
            out_printf("\\e");
        else if (*s == '"')
            out_printf("\\(dq");
        else
            out_printf("%c", *s);
    }
}

static void man_commands(unsigned commands)
{
    size_t n;
    const struct command *c = commands_table(&n);
    unsigned all = 0;
    for (size_t i = 0; i < n; i++)
        all |= c[i].bit;
    out_printf("Commands: ");
    if (commands == all) {
        out_printf("all.\n");
        return;
    }
    const char *comma = "";
    for (size_t i = 0; i < n; i++)
        if (commands & c[i].bit) {
            out_printf("%s%s", comma, c[i].name);
            comma = ", ";
        }
    out_printf(".\n");
}

static void man_option(const struct option_row *o)
{
    char more[160];
    out_printf(".TP\n");
    if (o->kind == O_ENV) {
        out_printf(".B %s\n", o->env);
    } else {
        if (o->letter)
            out_printf("\\fB\\-%c\\fR, ", o->letter);
        out_printf("\\fB\\-\\-");
        troff(o->name);
        out_printf("\\fR");
        if (o->value)
            out_printf(" \\fI%s\\fR", o->value);
        out_printf("\n");
    }
    brackets(o, true, more, sizeof(more));
    troff(o->help);
    if (more[0]) {
        out_printf(" [");
        troff(more);
        out_printf("]");
    }
    out_printf(".\n");
    man_commands(o->commands);
}

void help_man_options(void)
{
    size_t n;
    const struct option_row *t = options_table(&n);
    for (int g = 0; g < G_COUNT; g++) {
        out_printf(".SS %s\n", group_names[g]);
        for (size_t i = 0; i < n; i++)
            if (t[i].kind != O_ENV && (int)t[i].group == g)
                man_option(&t[i]);
    }
    out_printf(".SS Environment\n");
    for (size_t i = 0; i < n; i++)
        if (t[i].kind == O_ENV)
            man_option(&t[i]);
}
