#!/usr/bin/env python3
"""Makes jinja-cases.json: small templates for every statement, filter, test and method, and what they write.

    render-jinja.py FOLDER > jinja-cases.json
    render-jinja.py FOLDER TEMPLATES.json jinja-conversations.json > jinja-renders.json

FOLDER has @huggingface/jinja installed (npm install @huggingface/jinja@0.5.11). Each template is run by it and by
Jinja2 3.1 with the settings of Hugging Face transformers, printing values as the former does. `by` says whose text is
kept: "both" where they agree, "hf" or "jinja2" where only that one renders it or it is the right one (see
src/text/jinja/jinja.h), "none" where it is to be refused.

The second form runs published templates, {"templates": [{"template_name", "template"}]}, on each conversation in each
of MODES. It keeps no text of theirs: a hash of the template, a digit for each rendering (1: both programs agree on a
text), and a hash of those texts in their order."""
import datetime
import json
import subprocess
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

CONTEXT = {
    "s": " Hello, World \n", "e": "", "u": "Straße ÄÖ é 👍", "n": 7, "f": 2.5, "t": True, "z": None,
    "l": [3, 1, 2], "w": ["b", "A", "c", "a"], "d": {"b": 2, "a": [1, {"x": "y"}], "c": None},
    "m": [{"role": "user", "content": "one", "k": 1}, {"role": "assistant", "content": "", "k": 2},
          {"role": "user", "content": "three", "tool": {"name": "add", "args": {"q": [1, 2.5, True, None, "ü\n\"\\/"]}}}],
    "schema": {"type": "object", "items": {"type": "string"}, "properties": {"keys": {"x": 1}}},
    "multi": "first\n\nsecond\nthird", "csv": "a,b,,c", "spaces": "  a  b c ", "dash": "--x--y--",
}
CASES = """
plain text, no tag
{{ s }}|{{ n }}|{{ f }}|{{ e }}|
{{ n + 1 }} {{ n - 10 }} {{ n * 2 }} {{ n / 2 }} {{ n // 2 }} {{ n % 4 }} {{ 2 ** 3 }} {{ -n }} {{ +n }}
{{ 1 + 2 * 3 }} {{ (1 + 2) * 3 }} {{ 7 // 2 * 2 }} {{ 2 * 3 % 4 }} {{ 10 - 2 - 3 }}
{{ 1.5 + 1 }} {{ 0.1 + 0.2 }} {{ 1.0 * 3 }} {{ 3 / 2 }} {{ 4 / 2 }} {{ 1.5 // 1 }} {{ 100000000000000000000.0 * 1 }}
{{ 'a' + 'b' }} {{ 'a' ~ 1 ~ 2.5 }} {{ 'ab' 'cd' }} {{ "q'q" }} {{ 'd"d' }} {{ 'a\\nb\\tc\\\\d' }} {{ '\\u00e9\\x41' }}
{{ n == 7 }}{{ n != 7 }}{{ n < 8 }}{{ n > 8 }}{{ n <= 7 }}{{ n >= 8 }}
{{ 'a' == 'a' }}{{ 'a' < 'b' }}{{ 1 == 1.0 }}{{ 'a' == 1 }}{{ none == none }}
{% if t and not e %}yes{% endif %}{% if e or z or 0 or [] or {} %}no{% else %}none{% endif %}
{{ e or 'x' }} {{ 'y' and 'z' }} {{ e and 'z' }}| {{ n and 0 }}
{{ 'el' in s }} {{ 'xx' in s }} {{ 3 in l }} {{ 9 not in l }} {{ 'a' in d }} {{ 'q' not in d }}
{{ 'yes' if n > 3 else 'no' }} {{ 'yes' if n > 30 else 'no' }} {{ 'only' if n > 30 }}| {{ 1 if e else 2 if z else 3 }}
{% if n == 1 %}1{% elif n == 7 %}7{% elif n == 8 %}8{% else %}?{% endif %}
{% for x in l %}{{ x }},{% endfor %}
{% for x in [] %}{{ x }}{% else %}empty{% endfor %}
{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}={{ x }} {% endfor %}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v is none }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}
{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in l %}{% for y in w %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}
{% for a, b in [[1, 2], [3, 4]] %}{{ a + b }} {% endfor %}
{% set x = 5 %}{{ x }}{% set a, b = [1, 2] %}{{ a }}{{ b }}{% set x %}block {{ n }}{% endset %}[{{ x }}]
{% set ns = namespace(a=1, b='x') %}{% for x in l %}{% set ns.a = ns.a + x %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.q is defined }}
{% set x = 1 %}{% if t %}{% set x = 2 %}{% endif %}{{ x }}{% for y in l %}{% set x = 9 %}{% endfor %}{{ x }}
{% macro f(a, b='B', c=none) %}<{{ a }}{{ b }}{{ c is none }}>{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(a='x', c=3) }}{{ f('q', b='r')|upper }}
{% macro fact(k) %}{% if k > 1 %}{{ k }}*{{ fact(k - 1) }}{% else %}1{% endif %}{% endmacro %}{{ fact(4) }}
{% macro v(a) %}{{ varargs|length }}{{ kwargs|length }}{% endmacro %}{{ v(1, 2, 3, x=4) }}
{% macro wrap(x) %}[{{ x }}:{{ caller() }}]{% endmacro %}{% call wrap(1) %}body {{ n }}{% endcall %}
{% macro each(x) %}{% for i in x %}{{ caller(i) }};{% endfor %}{% endmacro %}{% call(i) each(l) %}<{{ i }}>{% endcall %}
{% filter upper %}some {{ s|trim }} text{% endfilter %}
{% raw %}{{ not run }} {% neither %}{% endraw %}.
a{# comment {{ x }} #}b{#- trims -#}  c
a  {{- n -}}  b  {%- if t -%}  c  {%- endif -%}  d
¶line\\n  {% if t %}\\n    in\\n  {% endif %}\\nout\\n
¶  {%- for x in l %}\\n    {{- x }}\\n  {%- endfor %}\\n|
¶a\\n  {# c #}\\nb\\n  {{ n }}\\n c
{% generation %}marked{% endgeneration %}
{{ l[0] }}{{ l[-1] }}{{ m[0].role }}{{ m[0]['role'] }}{{ m[2].tool.args.q[1] }}{{ l[9] is defined }}{{ d.q is defined }}
{{ l[1:] }}{{ l[:2] }}{{ l[::-1] }}{{ l[-2:] }}{{ l[0:3:2] }}{{ s[1:6] }}{{ s[::-1] }}{{ u[0:4] }}{{ u[-1] }}{{ l[5:] }}{{ s[-100:3] }}
{{ m[1:][0].role }}{{ m[-1].content }}{{ 'abc'[1] }}{{ (1, 2)[1] }}
{{ s|trim }}|{{ s|upper }}|{{ s|lower }}|{{ s|length }}|{{ u|upper }}|{{ u|lower }}
§{{ 'hello wORLD'|capitalize }}|{{ 'hello wORLD foo'|title }}
{{ l|length }}{{ d|length }}{{ e|length }}{{ l|first }}{{ l|last }}{{ l|sort }}{{ l|reverse|list }}{{ w|sort }}
{{ l|join(', ') }}|{{ w|join }}|{{ 'abc'|join('-') }}|{{ m|map(attribute='role')|join('/') }}
{{ q|default('D') }}{{ e|default('D') }}{{ e|default('D', true) }}{{ z|default('D', boolean=true) }}{{ n|default(0) }}
{{ d|tojson }}|{{ m[2]|tojson }}|{{ u|tojson }}|{{ n|tojson }}{{ f|tojson }}{{ t|tojson }}{{ z|tojson }}
{{ d|tojson(indent=2) }}|{{ []|tojson(indent=2) }}|{{ u|tojson(ensure_ascii=true) }}|{{ d|tojson(separators=(',', ':')) }}|{{ d|tojson(sort_keys=true) }}
{{ d|tojson(indent=4, ensure_ascii=false) }}
{{ d|items|list|length }}{{ d|dictsort }}{{ {'b': 1, 'A': 2}|dictsort }}{{ d.keys()|list }}{{ d.get('a') }}{{ d.get('q') is none }}{{ d.get('q', 'D') }}
{{ m|selectattr('role', 'equalto', 'user')|list|length }}{{ m|rejectattr('role', 'equalto', 'user')|list|length }}{{ m|selectattr('tool')|list|length }}{{ m|selectattr('tool', 'defined')|list|length }}
{{ 'a-b-c'|replace('-', '+') }}{{ 'aaa'.replace('a', 'b', 2) }}{{ 'aaa'.replace('', '.') }}
{{ '12'|int + 1 }}{{ 'x'|int }}{{ 'x'|int(5) }}{{ '2.5'|float }}{{ 3.9|int }}{{ -3|abs }}{{ t|int }}
{{ multi|indent }}|{{ multi|indent(2) }}|{{ multi|indent(2, true) }}|{{ multi|indent(1, true, true) }}
{{ [1, 1, 2, 1]|unique|list }}
{{ n|string + '!' }}{{ 'x'|safe }}
{{ n is defined }}{{ q is defined }}{{ q is undefined }}{{ z is none }}{{ n is none }}{{ s is string }}{{ n is string }}
{{ d is mapping }}{{ l is mapping }}{{ l is iterable }}{{ s is iterable }}{{ n is iterable }}{{ l is sequence }}{{ n is sequence }}{{ n is number }}{{ f is number }}{{ n is integer }}{{ t is boolean }}{{ n is boolean }}
{{ t is true }}{{ e is false }}{{ n is odd }}{{ n is even }}{{ 'a' is lower }}{{ 'A' is upper }}{{ n is not none }}{{ q is not defined }}
{{ s.strip() }}|{{ s.lstrip() }}|{{ s.rstrip() }}|{{ u.upper() }}|{{ s.strip().lower() }}|{{ 'ab cd'.title() }}
{{ csv.split(',') }}{{ csv.split(',')[0] }}{{ csv.split(',', 1) }}{{ spaces.split() }}{{ 'a</t>b</t>c'.split('</t>')[-1] }}
{{ s.strip().startswith('Hello') }}{{ s.endswith('x') }}{{ 'abc'.startswith(('x', 'a')) }}{{ 'abc'.endswith('') }}
{% for x in range(3) %}{{ x }}{% endfor %}{% for x in range(2, 8, 3) %}{{ x }}{% endfor %}{{ range(3, 0, -1)|list }}
{{ {'a': 1, 'b': [1, 'x']} }}{{ ['a', 1, none, true] }}{{ {} }}{{ [] }}
{{ {'k': s|trim}.k }}{{ {'a': {'b': 1}}.a.b }}{{ [[1, 2], [3]][1][0] }}
{{ true }}{{ false }}{{ True }}{{ False }}|{{ none }}|{{ q }}|{{ z }}
{{ not t }}{{ not not t }}{{ not n == 7 }}{{ not 'x' in s }}
{{ l + [4] }}{{ [1] + [2] }}{{ 'a' + n|string }}
{{ schema.type }}{{ schema['items'] }}{{ schema.properties['keys'] }}{% for k, v in schema.items() %}{{ k }}{% endfor %}
{% set x = namespace(l=[]) %}{% for y in w %}{% set x.l = x.l + [y|upper] %}{% endfor %}{{ x.l|join }}
{% for c in 'aéb' %}{{ c }}.{% endfor %}{{ q|length }}{% for x in q %}{{ x }}{% else %}none{% endfor %}
{{ l|min }}{{ l|max }}{{ l|sum }}{{ [1, 'a', 2]|select('number')|list }}{{ [1, 'a', 2]|reject('number')|list }}{{ w|map('upper')|join }}
{{ n is divisibleby 7 }}{{ n is divisibleby(2) }}{{ n is eq 7 }}{{ n is in [1, 7] }}{{ n is sameas none }}{{ 2.567|round(2) }}
{{ 'x'.join(['a', 'b']) }}{{ 'a b'.find('b') }}{{ 'banana'.count('an') }}{{ 'a,b,c'.rsplit(',', 1) }}{{ '{} {}'.format(1, 'x') }}{{ 'a\\nb'.splitlines() }}
§{{ dash.strip('-') }}{{ dash.lstrip('-') }}{{ dash.rstrip('-') }}{{ ' \\n x'.lstrip('\\n') }}{{ '\\n x'.lstrip('\\n') }}|{{ 'xxyx'.strip('xy') }}|
{% for x in l %}{{ loop.cycle('a', 'b') }}{{ loop.depth }}{% endfor %}{{ dict(a=1).a }}
{% set x | upper %}block{% endset %}{{ x }}
§{% for x in l %}{% set y = (y|default(0)) + x %}{{ y }} {% endfor %}
{{ {1: 'one', 'k': 2}[1] }}{{ (1, 2, 3)|length }}{{ ()|length }}
{{ strftime_now('%Y-%m-%d %H:%M %b %B %d %%') }}
{{ m[2].tool.args|tojson }}{% for a in m[2].tool.args %}{{ a }}{% endfor %}
{{ '{"a": [1, {"b": "x\\\\u00e9"}]}'|from_json|tojson }}
{{ raise_exception('own words') }}
{{ q + 'x' }}
{{ 'x' + z }}
{{ q.r.s is defined }}{{ q.r }}|
§{{ 'x' + l }}
{{ l|nofilter }}
{{ n is notest }}
{{ s.nomethod() }}
{{ nofunction() }}
{% include 'x' %}
{% nostatement %}
{% if x %}
{{ 1 +
{{ 'open }}
{# open
{% for x in n %}{% endfor %}
{{ n[0] }}
{% set n.x = 1 %}
{% break %}
§{{ 1 // 0 }}
{{ 'a' < 1 }}
{% for a, b in [[1]] %}{% endfor %}
{{ l.append(4) }}
{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{% endmacro %}{{ f(b=2) }}
""".strip("\n").split("\n")

MODES = [{"add_generation_prompt": True}, {"add_generation_prompt": False},
         {"add_generation_prompt": True, "enable_thinking": False, "thinking": False},
         {"add_generation_prompt": True, "enable_thinking": True, "thinking": True}]
TOKENS = {"bos_token": "<BOS>", "eos_token": "<EOS>"}

NODE = r"""
import fs from 'fs'; import {createRequire} from 'module';
const {Template} = createRequire(process.argv[1])('@huggingface/jinja');
const RealDate = Date; globalThis.Date = class extends RealDate {
    constructor(...a) { if (a.length) super(...a); else super(2026, 7, 15, 12, 34, 56); } };
const {cases, contexts} = JSON.parse(fs.readFileSync(0));
console.log(JSON.stringify(cases.map(c => contexts.map(x => {
    try { return new Template(c).render(structuredClone(x)); } catch (e) { return null; } }))));
"""


def refuse(message):
    raise jinja2.TemplateError(message)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def as_printed(v):
    """As @huggingface/jinja prints what is no string."""
    if v is None or isinstance(v, jinja2.Undefined):
        return ""
    if isinstance(v, bool):
        return "true" if v else "false"
    if isinstance(v, (list, tuple, dict)):
        return json.dumps(v, ensure_ascii=False)
    return v


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, finalize=as_printed,
                                        extensions=["jinja2.ext.loopcontrols", Generation])
    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = datetime.datetime(2026, 8, 15, 12, 34, 56).strftime
    env.filters["from_json"] = json.loads
    env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return env


def by_jinja2(env, template, context):
    try:
        return env.from_string(template).render(**json.loads(json.dumps(context)))
    except Exception:  # noqa: BLE001: whatever it is, it refuses
        return None


def by_node(cases, contexts):
    """For each case, for each context: the text of @huggingface/jinja, None where it refuses."""
    with open(sys.argv[1] + "/jinja-cases.mjs", "w", encoding="utf-8") as f:
        f.write(NODE)
    out = subprocess.run(["node", sys.argv[1] + "/jinja-cases.mjs"], check=True, stdout=subprocess.PIPE,
                         input=json.dumps({"cases": cases, "contexts": contexts}).encode()).stdout
    return json.loads(out)


def fnv(text, h=0xcbf29ce484222325):
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return h


def published():
    with open(sys.argv[2], encoding="utf-8") as f:
        templates = json.load(f)["templates"]
    with open(sys.argv[3], encoding="utf-8") as f:
        contexts = [c | mode | TOKENS for c in json.load(f).values() for mode in MODES]
    env, rows = environment(), []
    for one, texts in zip(templates, by_node([t["template"] for t in templates], contexts)):
        agree, h = "", fnv("")
        for context, hf in zip(contexts, texts):
            same = hf is not None and hf == by_jinja2(env, one["template"], context)
            agree += "1" if same else "0"
            h = fnv(hf, h) if same else h
        rows.append({"name": one["template_name"], "template": f"{fnv(one['template']):016x}", "agree": agree,
                     "texts": f"{h:016x}"})
    print("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]")


def main():
    # Of a line that begins with a pilcrow, \\n are newlines of the template itself. Of one
    # that begins with a section sign Jinja2's text is kept, whatever the other one's is.
    cases = [c[1:].replace("\\n", "\n") if c[0] == "¶" else c.lstrip("§") for c in CASES]
    env, rows = environment(), []
    for line, case, (hf,) in zip(CASES, cases, by_node(cases, [CONTEXT])):
        py = by_jinja2(env, case, CONTEXT)
        if hf and any(0xd800 <= ord(c) < 0xe000 for c in hf):
            hf = None  # half a character
        keep = "both" if hf == py else "jinja2" if hf is None or line[0] == "§" else "hf"
        text = py if keep == "jinja2" else hf
        rows.append({"template": case, "by": keep if text is not None else "none", "text": text})
    print(json.dumps({"context": CONTEXT}, ensure_ascii=False)[:-1] + ', "cases": [\n' +
          ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n]}")


if len(sys.argv) > 2:
    published()
else:
    main()
