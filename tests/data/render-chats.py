#!/usr/bin/env python3
"""Makes chat-renders.json: conversations, and what the models' own chat templates write for them.

    render-chats.py TEMPLATES.json > chat-renders.json

TEMPLATES.json is {"templates": [{"template_name", "template"}]}, the templates as published. They are run by Jinja2
with the settings of Hugging Face transformers. (@huggingface/jinja 0.5.11 is no reference here: its lstrip('\\n')
takes away blanks, too.)"""
import json
import sys

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

FORMS = {"qwen3": "Qwen-Qwen3-0.6B", "qwen3.5": "Qwen3.5-4B", "qwen3-coder": "Qwen3-Coder",
         "qwen3-next": "gguf-qwen3-next:80b", "qwen2.5": "Qwen-Qwen2.5-7B-Instruct"}


def S(content):
    return {"role": "system", "content": content}


def U(content):
    return {"role": "user", "content": content}


def A(content, reasoning=None):
    m = {"role": "assistant", "content": content}
    return m if reasoning is None else m | {"reasoning_content": reasoning}


u, more, result = U("Hi"), U("more"), U("<tool_response>\n42\n</tool_response>")
answers = [
    A("Answer."), A("Answer.", ""), A("Answer.", "\n"), A("Answer.", " "), A("Answer.", "\n\nI think.\n so \n\n"),
    A("\n\n answer \n"), A("\n\n answer \n", "r"), A("  two blanks  ", ""), A(""), A("", ""), A("", "r"), A("\n", "\n"),
    A("<think>\nHm.\n</think>\n\nTwo."), A("<think>a</think>b</think>c"), A("Thoughts.\n</think>\n\nAnswer."),
    A("<think>\n\n</think>\n\nQuick."), A("<think></think>  blanks "), A("a<think>b<think>\nc\n\n</think>\n d</think>\n\n  e\n"),
    A("</think>"), A("x</think>"), A("<think>only"), A("says </think> twice </think>\n", ""), A("</think>\n\n\nlate", "r"),
    A("\n<think>\nled by a newline\n</think>\nx"),
]
conversations = [
    [u], [S("Be brief."), u], [S("\n sys \n"), u], [S(""), u], [S("Only a system message.")],
    [U("  indented\n    code\n\n")], [U("")], [U("\n")], [U("\u3000wide\u00a0")],
    [U("Is it so?\n"), A("Yes!"), U("\nList:\n- a\n- b:")],
    *[[u, a] for a in answers], *[[u, a, more] for a in answers],
    [u, A("One.", "r1"), A("Two.")], [u, A("One."), A("Two.", "r2")], [u, A("One.", "\n"), A("Two.", "")],
    [u, A("One.", "r1"), u, A("Two.", "r2")], [u, A("One.", "r1"), u, A("Two.", "r2"), u, A("Three.", "r3")],
    [U("one"), U("two")], [A("Ask me."), U("q")], [A("Ask me.", "r")],
    [u, A("Hello"), S("Be brief"), more], [S("a"), S("b"), u],
    [u, A("calls", "r1"), result], [u, A("calls", "r1"), result, A("It is 42.", "r2"), more],
    [result, A("odd", "r")], [U(" <tool_response>x</tool_response> "), A("odd", "r")],
    [U("<tool_response>"), A("odd", "r")],
]


def refuse(message):
    raise jinja2.TemplateError(message)


def render(template, messages):
    try:
        return template.render(messages=messages, add_generation_prompt=True)
    except jinja2.TemplateError:
        return None  # the template refuses such a conversation


def main():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    env.globals["raise_exception"] = refuse
    published = {t["template_name"]: t["template"] for t in json.load(open(sys.argv[1]))["templates"]}
    forms = {form: env.from_string(published[name]) for form, name in FORMS.items()}
    rows = [{"messages": m} | {form: render(t, m) for form, t in forms.items()} for m in conversations]
    print("[\n" + ",\n".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in rows) + "\n]")


main()
