/*
 * The syntaxes, as the models' published chat templates write them. A row that another
 * row's pattern would also read stands before it. What a template uses is found by letting
 * it write a call (src/text/probe.c); nothing here names a model's file.
 */
#include <string.h>

#include "text/calls/calls.h"

#define DSML "\uff5cDSML\uff5c"
#define BAR "\uff5c"
#define LOW "\u2581"

/* A call of parameters in tags of the Anthropic kind, inside of what stands around all. */
#define INVOKES(open, tag, close)                                                                  \
    open "~%[<" tag "invoke name=\"%n\">~%(<" tag "parameter name=\"%k\">%v</" tag                 \
         "parameter>~%)</" tag "invoke>%]" close

const struct call_row call_rows[] = {
    {.name = "qwen-xml",
     .pattern = "<tool_call>~<function=%n>~%(<parameter=%k>%v</parameter>~%)</function>~"
                "</tool_call>",
     .lines = true},
    {.name = "seed-xml",
     .pattern = "<seed:tool_call>~<function=%n>~%(<parameter=%k>%v</parameter>~%)</function>~"
                "</seed:tool_call>"},
    {.name = "hermes", .pattern = "<tool_call>~%o~</tool_call>"},
    {.name = "glm",
     .pattern = "<tool_call>%n~%(<arg_key>%k</arg_key>~<arg_value>%v</arg_value>~%)</tool_call>"},
    {.name = "hunyuan",
     .pattern = "<tool_calls:opensource>~%[<tool_call:opensource>%n<tool_sep:opensource>~"
                "%(<arg_key:opensource>%k</arg_key:opensource>~<arg_value:opensource>%v"
                "</arg_value:opensource>~%)</tool_call:opensource>%]</tool_calls:opensource>"},
    {.name = "minimax", .pattern = INVOKES("<minimax:tool_call>", "", "</minimax:tool_call>")},
    {.name = "muse",
     .pattern = INVOKES("<atem:function_calls>", "atem:", "</atem:function_calls>")},
    {.name = "deepseek-v3.2",
     .pattern = "<" DSML "function_calls>~%[<" DSML "invoke name=\"%n\">~%(<" DSML
                "parameter name=\"%k\" string=\"%t\">%v</" DSML "parameter>~%)</" DSML
                "invoke>%]</" DSML "function_calls>",
     .by_string = true},
    {.name = "deepseek-v4",
     .pattern = "<" DSML "tool_calls>~%[<" DSML "invoke name=\"%n\">~%(<" DSML
                "parameter name=\"%k\" string=\"%t\">%v</" DSML "parameter>~%)</" DSML
                "invoke>%]</" DSML "tool_calls>",
     .by_string = true},
    {.name = "deepseek-v3.1",
     .pattern = "<" BAR "tool" LOW "calls" LOW "begin" BAR ">~%[<" BAR "tool" LOW "call" LOW
                "begin" BAR ">%n<" BAR "tool" LOW "sep" BAR ">~%j~<" BAR "tool" LOW "call" LOW
                "end" BAR ">%]<" BAR "tool" LOW "calls" LOW "end" BAR ">"},
    {.name = "deepseek-v3",
     .pattern = "<" BAR "tool" LOW "calls" LOW "begin" BAR ">~%[<" BAR "tool" LOW "call" LOW
                "begin" BAR ">function<" BAR "tool" LOW "sep" BAR ">%n~```json~%j~```~<" BAR
                "tool" LOW "call" LOW "end" BAR ">%]<" BAR "tool" LOW "calls" LOW "end" BAR ">"},
    {.name = "kimi",
     .pattern = "<|tool_calls_section_begin|>~%[<|tool_call_begin|>%f<|tool_call_argument_begin|>"
                "~%j~<|tool_call_end|>%]<|tool_calls_section_end|>"},
    {.name = "kimi-k3",
     .pattern = "<|open|>tools<|sep|>~%[<|open|>call tool=\"%n\" index=\"%i\"<|sep|>"
                "%(<|open|>argument key=\"%k\" type=\"%t\"<|sep|>%v<|close|>argument<|sep|>%)"
                "<|close|>call<|sep|>%]<|close|>tools<|sep|>"},
    {.name = "mistral-id", .pattern = "[TOOL_CALLS]%n[CALL_ID]%i[ARGS]~%j"},
    {.name = "mistral", .pattern = "[TOOL_CALLS]%n[ARGS]~%j"},
    {.name = "mistral-list", .pattern = "[TOOL_CALLS]~%l"},
    {.name = "solar",
     .pattern = "<|tool_calls|>~%[<|tool_call:begin|>%i<|tool_call:name|>%n<|tool_call:args|>~%j~"
                "<|tool_call:end|>%]<|calls|>"},
    {.name = "gemma", .pattern = "<|tool_call>call:%n{%g}<tool_call|>"},
    {.name = "cohere", .pattern = "<|START_ACTION|>~%l~<|END_ACTION|>"},
    {.name = "apertus", .pattern = "<|tools_prefix|>~%l~<|tools_suffix|>", .keyed = true},
    {.name = "apriel", .pattern = "<tool_calls>~%l~</tool_calls>"},
    {.name = "nemotron", .pattern = "<TOOLCALL>~%l~</TOOLCALL>"},
    {.name = "minimax-m1", .pattern = "<tool_calls>~%[%o%]</tool_calls>"},
    {.name = "lfm2", .pattern = "<|tool_call_start|>[%p]<|tool_call_end|>"},
    {.name = "minicpm",
     .pattern = "<function name=\"%n\">~%(<param name=\"%k\">%v</param>~%)</function>"},
    {.name = "functionary", .pattern = "<function=%n>~%j~</function>"},
    {.name = "functionary-v3.2", .pattern = ">>>%n\n%j"},
    {.name = "gigachat", .pattern = "<|function_call|>~%o"},
    {.name = "gigachat-role", .pattern = "function call<|role_sep|>~%o"},
    {.name = "harmony"},
    {.name = "llama4", .pattern = "<|python_start|><|python_end|>~%[%o%]"},
    {.name = "llama3", .pattern = "%[%o%]", .starts = "{~\"name\"~:"},
    {.name = "json-list", .pattern = "%l", .starts = "[~{~\"name\"~:"},
    {.name = NULL},
};

const struct call_row *call_row_at(int i)
{
    return i >= 0 && i < (int)ARRAY_LEN(call_rows) && call_rows[i].name ? &call_rows[i] : NULL;
}

const struct call_row *call_row_named(const char *name)
{
    for (const struct call_row *row = call_rows; row->name; row++)
        if (!strcmp(row->name, name))
            return row;
    return NULL;
}

size_t call_row_opened(const struct call_row *row, struct str text)
{
    if (!row || !row->pattern || row->starts)
        return 0;
    size_t n = strcspn(row->pattern, "%~");
    return text.n >= n && !memcmp(text.p + text.n - n, row->pattern, n) ? n : 0;
}

bool call_row_has(const struct call_row *row, struct str token)
{
    static const char *const channels[] = {"<|start|>",   "<|channel|>", "<|constrain|>",
                                           "<|message|>", "<|end|>",     "<|call|>",
                                           "<|return|>"};
    bool has = false;
    if (!row || !token.n)
        return false;
    if (row->pattern)
        return memmem(row->pattern, strlen(row->pattern), token.p, token.n) != NULL;
    for (size_t i = 0; i < ARRAY_LEN(channels); i++)
        has = has || (strlen(channels[i]) == token.n && !memcmp(channels[i], token.p, token.n));
    return has;
}
