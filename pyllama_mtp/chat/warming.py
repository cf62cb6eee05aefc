"""A rendering of our own, made before any other in the process in which templates run.

What a rendering needs is then at hand in every process that is forked from it: Python has adapted the code to what runs
through it, and tables are filled. Nothing of a conversation or of a model's template is in it.
"""

from typing import Any

from pyllama_mtp.chat.rendering import Rendering, Template, answered

ROUNDS = 24  # enough for Python to adapt code that is called once in each

# What chat templates are made of.
_SOURCE = """
{%- macro cleaned(text) -%}
    {%- set ns = namespace(result='') -%}
    {%- for part in text.split('<a>') -%}
        {%- if '<b>' in part -%}{%- set ns.result = ns.result + part.split('<b>')[0] -%}
        {%- else -%}{%- set ns.result = ns.result + part -%}{%- endif -%}
    {%- endfor -%}
    {{- ns.result | trim -}}
{%- endmacro -%}
{{- bos_token -}}
{%- set ns = namespace(last=None, found=false) -%}
{%- if messages[0]['role'] in ['system', 'developer'] or tools -%}
    {{- '<system>' + messages[0]['content'] | trim }}
    {%- for tool in tools or [] %}{{ tool | tojson }}{% endfor -%}
{%- endif -%}
{%- for i in range(messages | length) -%}
    {%- if messages[i]['role'] == 'user' -%}{%- set ns.last = i -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {%- set role = 'model' if message.role == 'assistant' else message['role'] -%}
    {{- '<turn>' + role + '\n' -}}
    {%- if message.get('tool_calls') -%}
        {%- for call in message['tool_calls'] -%}
            {{- '<call>' ~ call['function']['name'] -}}
            {%- for key, value in call.function.arguments | dictsort -%}
                {{- key -}}:{{- value -}}{%- if not loop.last %},{% endif -%}
            {%- endfor -%}
        {%- endfor -%}
    {%- endif -%}
    {%- if message['content'] is string and role == 'model' and loop.index0 > 0 -%}{{- cleaned(message['content']) -}}
    {%- elif message['content'] is string -%}{{- message['content'] | trim -}}
    {%- else -%}
        {%- for part in message['content'] or [] -%}{{- part['text'].strip() -}}{%- endfor -%}
    {%- endif -%}
    {{- '<end>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<turn>model\n' -}}{%- endif -%}
"""
_MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": " s "},
    {"role": "user", "content": [{"type": "text", "text": "q"}]},
    {
        "role": "assistant",
        "content": "a<b>b<a>c",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": "1", "y": 2}}}],
    },
    {"role": "tool", "name": "f", "content": "r"},
    {"role": "assistant", "content": "d"},
    {"role": "user", "content": "e"},
]
_TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
]


class Warming:
    """That rendering, to be made as often as one likes."""

    def __init__(self) -> None:
        self._template = Template(_SOURCE, 1 << 16)

    def render(self) -> None:
        variables = {"documents": None, "tools": _TOOLS}
        answered(self._template, Rendering(_MESSAGES, variables, {"bos_token": "<bos>"}, True, False, []))
